/* SPDX-License-Identifier: MIT */
/*
 * The HTTP listener's insides. Three parts, two kinds of threads:
 *
 *   engine    civetweb and its workers (http_engine.c alone knows civetweb)
 *   exchange  one request: two bounded queues under a mutex, held by both sides
 *   stream    the exchange as the loop sees it: the source of a session
 *
 * A worker moves bytes between its connection and the exchange, and wakes the
 * loop by mail. It never sees a session, and the loop never sees a connection.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "l7mp/addr.h"
#include "l7mp/error.h"
#include "l7mp/json.h"
#include "l7mp/loop.h"
#include "l7mp/mailbox.h"
#include "l7mp/proto.h"
#include "net/net.h"

/* Bytes of a request body that are read at once: SPEC section 3. */
#define L7MP_HTTP_BLOCK 16384
/* A client that neither sends nor takes anything for this long is cut, in ms. */
#define L7MP_HTTP_STALL_MS 5000
/* Bounds of the queues of an exchange, in bytes; a response may pass its own by one write. */
#define L7MP_HTTP_IN_HIGH  (4 * L7MP_HTTP_BLOCK)
#define L7MP_HTTP_OUT_HIGH (128 * 1024)
#define L7MP_HTTP_OUT_LOW  (32 * 1024)

/* ---- bytes on their way between threads ---- */

struct l7mp_http_chunk {
	struct l7mp_http_chunk *next;
	size_t len;
	uint8_t data[];
};

struct l7mp_http_chunkq {
	struct l7mp_http_chunk *head;
	struct l7mp_http_chunk **tail;
	size_t bytes;
};
void l7mp_http_chunkq_init(struct l7mp_http_chunkq *q);
void l7mp_http_chunkq_push(struct l7mp_http_chunkq *q, struct l7mp_http_chunk *c);
struct l7mp_http_chunk *l7mp_http_chunkq_pop(struct l7mp_http_chunkq *q);
void l7mp_http_chunkq_clear(struct l7mp_http_chunkq *q);
/* All of `from` behind `q`. */
void l7mp_http_chunkq_move(struct l7mp_http_chunkq *q, struct l7mp_http_chunkq *from);
/* Room for len bytes; with `data` a copy of them. NULL: no memory. */
struct l7mp_http_chunk *l7mp_http_chunk_new(const void *data, size_t len);

/* ---- request and response heads ---- */

struct l7mp_http_header {
	const char *name;
	const char *value;
};

/* A request's head as a server library shows it; everything borrowed. */
struct l7mp_http_head {
	const char *scheme; /* "http", "ws" ... */
	const char *version;
	const char *method;
	const char *path;  /* not decoded; an absolute form without its authority */
	const char *query; /* without '?'; NULL: none */
	const struct l7mp_http_header *headers;
	size_t n_headers;
};
/*
 * {version, method, url: {url, href, protocol, host, port, path, query}, headers}:
 * the value of `HTTP` in a session's metadata. Header names become lower case,
 * those that come more than once are joined by ", " (cookie: "; "); bytes that
 * are not UTF-8 are taken as Latin-1. `local` stands in for a missing Host. NULL:
 * no memory. Any thread.
 */
cJSON *l7mp_http_metadata(const struct l7mp_http_head *head, const struct l7mp_addr *local);

/* The standard phrase of a status ("Not Found"); "Unknown" when there is none. */
const char *l7mp_http_phrase(int status);
/* {"status", "message", "content"} as text; heap; NULL: no memory. Any thread. */
char *l7mp_http_error_body(int status, const char *content);

/* The head of a response; heap. */
struct l7mp_http_reply {
	int status;
	char *headers;    /* "Name: value\r\n" each; without framing and Connection */
	long long length; /* Content-Length that was asked for; -1: none */
};
/* From a buffer's meta {"HTTP": {"status", "headers"}}; NULL meta: 200 and application/octet-stream. NULL: no memory. */
struct l7mp_http_reply *l7mp_http_reply_new(const cJSON *meta);
void l7mp_http_reply_free(struct l7mp_http_reply *r);

/* ---- exchange ---- */

struct l7mp_http_engine;
struct http_stream;

struct l7mp_http_xchg {
	atomic_uint refs; /* worker, loop, and a mail under way */
	struct l7mp_http_engine *engine;
	struct l7mp_mail mail;

	/* Set by the worker before the loop sees it; only read afterwards. */
	struct l7mp_addr peer;
	struct l7mp_addr local;
	bool expect; /* the client waits for 100 Continue before it sends its body */

	/* Loop only. */
	struct http_stream *stream; /* NULL: refused, or closed */
	bool taken;
	bool finished;

	pthread_mutex_t mu;
	pthread_cond_t cv; /* wakes the worker; CLOCK_MONOTONIC */
	/* All below under mu. */
	bool mailed;
	cJSON *http; /* metadata; the loop takes it */
	/* request body: worker -> loop */
	struct l7mp_http_chunkq in;
	bool in_end;
	bool in_refused; /* the stream was closed: nobody wants the rest */
	/* response: loop -> worker */
	struct l7mp_http_reply *reply;
	struct l7mp_http_chunkq out;
	bool out_end;
	bool abort;
	bool go_on;      /* the route is connected, or the body is wanted: answer 100 Continue */
	bool head_sent;  /* too late for another status */
	bool want_drain; /* tell the loop when `out` is low */
	/* the worker's last word */
	bool done;
	int err; /* negative errno when it ended before its time: -ETIMEDOUT, -ECONNRESET, -EPROTO */
};
/* One reference, the worker's. NULL: no memory. */
struct l7mp_http_xchg *l7mp_http_xchg_new(struct l7mp_http_engine *engine);
void l7mp_http_xchg_unref(struct l7mp_http_xchg *x);
/* Worker: the loop should look. False when the loop takes no more mail. */
bool l7mp_http_xchg_mail(struct l7mp_http_xchg *x);

/* ---- the worker's side (http_worker.c) ---- */

/* What http_engine.c knows of a connection. All calls by its worker. */
struct l7mp_http_conn {
	void *mg;
	bool http10;
	bool head;         /* method HEAD */
	bool chunked;      /* request body */
	long long length;  /* of the request body when not chunked; 0: none */
	bool client_keeps; /* the client wants the connection kept */
	int fd;            /* -1: not looked for yet; -2: not found */
};
/* Moves bytes until both directions have ended. Returns the status that was sent, for civetweb's bookkeeping. */
int l7mp_http_worker_run(struct l7mp_http_conn *c, struct l7mp_http_xchg *x);
/* An answer of the worker itself: JSON error, connection closed. */
void l7mp_http_worker_refuse(struct l7mp_http_conn *c, int status, const char *content);

/* Implemented by http_engine.c. read: up to len, 0 at the end or after a stall, -1. */
int l7mp_http_conn_read(struct l7mp_http_conn *c, void *buf, size_t len);
bool l7mp_http_conn_write(struct l7mp_http_conn *c, const void *buf, size_t len);
void l7mp_http_conn_close_after(struct l7mp_http_conn *c);

/*
 * The kernel's view of a connection whose descriptor the server library hides:
 * found by its addresses. 0: it lives; 1: the peer has finished sending; 2: it is
 * gone. *fd caches what was found.
 */
int l7mp_http_peer_state(int *fd, const struct l7mp_addr *peer, const struct l7mp_addr *local);
/* Since the client last sent something. */
unsigned l7mp_http_peer_idle_ms(int *fd, const struct l7mp_addr *peer,
                                const struct l7mp_addr *local);
/* The descriptor of this process that listens on 127.0.0.1:port, -1 when none. */
int l7mp_http_find_listening(uint16_t port);

/* ---- engine (http_engine.c) ---- */

struct l7mp_http_state;
struct l7mp_http_listener;

struct l7mp_http_engine {
	struct l7mp_http_state *state;
	struct l7mp_mailbox *mailbox; /* a reference: workers post */
	/* loop only */
	struct l7mp_http_engine *next;
	unsigned listeners;                 /* that hold it, active or not */
	unsigned xchgs;                     /* requests whose worker has not finished */
	struct l7mp_http_listener *current; /* whose events decide; NULL: refuse */
	struct l7mp_bind_addr bind_addr;    /* bound */
	int threads;
	bool serving;
	bool stopping;
	/* private to http_engine.c */
	void *mg;
	int listen_fd; /* ours; civetweb accepts from it */
	int slot_fd;   /* civetweb's listening descriptor: what stands behind it is ours */
	int first_fd;  /* what stood there first; -1 once that is closed */
	struct l7mp_timer unspin;
	int park_fd; /* an eventfd, in the slot while nothing is to be accepted */
	atomic_int busy;
	pthread_t owner; /* the loop's thread */
	pthread_t stopper;
	struct l7mp_mail stopped_mail;
	char message[256]; /* of civetweb, while it starts */
};
/* Takes listen_fd, also on failure. civetweb runs, but accepts nothing before serve. */
int l7mp_http_engine_new(struct l7mp_http_state *state, struct l7mp_mailbox *mailbox, int listen_fd,
                         int threads, struct l7mp_http_engine **out, struct l7mp_error *err);
/* ---- http_slot.c ---- */
void l7mp_http_engine_serve(struct l7mp_http_engine *e);
/* Accepts nothing for a while; connections queue in the kernel. */
void l7mp_http_engine_suspend(struct l7mp_http_engine *e);
void l7mp_http_engine_resume(struct l7mp_http_engine *e);
/* Closes the port; requests that run go on. */
void l7mp_http_engine_park(struct l7mp_http_engine *e);
/* The eventfd: makes an acceptor that polls it go round, or lets it sleep. */
void l7mp_http_slot_ready(struct l7mp_http_engine *e, bool ready);
void l7mp_http_slot_unspin(struct l7mp_timer *t, void *engine);
/* ---- http_engine.c again ---- */
/* On a thread of its own, so that workers may still talk to the loop; then l7mp_http_engine_gone, on the loop. */
void l7mp_http_engine_stop(struct l7mp_http_engine *e);
void l7mp_http_engine_free(struct l7mp_http_engine *e);
bool l7mp_http_engine_crowded(
        struct l7mp_http_engine *e); /* any thread: keep no idle connections */
void l7mp_http_library(bool on);     /* civetweb's own start and end */

/* ---- loop side (http_stream.c, http.c) ---- */

/* Mail of an exchange. */
void l7mp_http_stream_mail(struct l7mp_mail *mail, void *state);
void l7mp_http_engine_gone(struct l7mp_http_engine *e);
void l7mp_http_xchg_finished(struct l7mp_http_engine *e);
struct l7mp_env *l7mp_http_env(struct l7mp_http_state *state);
uint64_t l7mp_http_next_id(struct l7mp_http_state *state);
/* The listener that decides about new requests of this engine; NULL: none. */
struct l7mp_proto_listener *l7mp_http_current(struct l7mp_http_engine *e);
