/* SPDX-License-Identifier: MIT */
/*
 * Private to the HTTP listener.
 *
 *   listener.c    the protocol's tables; listeners and their connections
 *   connection.c  one connection: heads, bodies, deadlines, closing
 *   exchange.c    its exchanges: one request and its response each, the source stream of a session
 *
 * A connection has one exchange at a time. Requests sent before the answer (pipelining) are queued
 * in the connection, which stops reading when the queue grows. Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "chunked.h"
#include "head.h"
#include "l7mp/buf.h"
#include "l7mp/loop.h"
#include "l7mp/proto.h"
#include "net/stream_listener.h"
#include "reply.h"

/* A body must have this average rate in bytes per second after options.body_timeout... */
#define HTTP_BODY_RATE 240
/* ...but fast data is credited for at most this time, in ms. */
#define HTTP_BODY_CREDIT_MS 60000
/* A client that reads nothing of what is queued for it is aborted after this time, in ms. */
#define HTTP_STALL_MS 30000
/*
 * After an answer whose request was not read completely: how long to continue reading in total, and
 * how long without any data, in ms.
 */
#define HTTP_LINGER_MS       30000
#define HTTP_LINGER_QUIET_MS 5000
/* The maximum number of bytes of an unwanted request body that are read to keep the connection. */
#define HTTP_DISCARD_MAX ((uint64_t)256 * 1024)
/*
 * Bytes that may be queued in a connection before they are processed, and in an exchange for the
 * client.
 */
#define HTTP_AHEAD_MAX 32768
#define HTTP_OUT_MAX   65536
/* Bytes of all unfinished heads together; heads of up to 4 KiB are exempt. */
#define HTTP_HEADS_MAX  ((size_t)64 << 20)
#define HTTP_HEADS_FREE 4096

/* The protocol's state in this process. */
struct http_state {
	struct l7mp_env *env;
	struct l7mp_tls_set *tls;
	uint64_t last_id; /* the last id in session names */
	size_t head_bytes;
	size_t n_conns;
	struct http_conn *orphans; /* connections whose listener was deleted */
	struct l7mp_http_date date;
	bool stopping;
};

/* From the listener's `options`, in ms. */
struct http_deadlines {
	uint32_t header;    /* for a whole head, from its first byte on */
	uint32_t body;      /* for a body, until its rate counts */
	uint32_t keepalive; /* maximum time between requests */
};

struct http_listener {
	struct l7mp_stream_listener base; /* first */
	struct http_state *state;
	struct http_conn *idle; /* connections between requests, the longest idle first */
	struct http_conn *busy;
	struct http_deadlines deadlines;
};

enum http_phase {
	HTTP_HEAD,    /* between requests, or within a head */
	HTTP_BODY,    /* the request's body is not complete */
	HTTP_ANSWER,  /* the request is complete, its answer is not */
	HTTP_CLOSING, /* no more requests are answered */
};

struct http_exchange;

struct http_conn {
	struct http_conn *prev, *next; /* in *list */
	struct http_conn **list;
	struct http_listener *listener; /* NULL: deleted; the connection ends after its answer */
	struct http_state *state;
	struct l7mp_stream *io;
	struct http_exchange *x; /* NULL: none */
	struct l7mp_peer peer;
	struct http_deadlines deadlines;

	struct l7mp_bufq in; /* received and not processed yet */
	struct l7mp_http_reader reader;
	uint32_t head_bytes; /* bytes that the reader is charged for in the state */

	/* State of the request's body. */
	struct l7mp_http_chunked chunked;
	uint64_t left;      /* remaining bytes of a body with a length */
	uint64_t discarded; /* bytes discarded of an unwanted body */

	struct l7mp_task task;    /* continues with the next request */
	struct l7mp_timer timer;  /* never later than the next deadline; see conn_watch */
	uint64_t since;           /* start of this phase, or of an unfinished head */
	uint64_t body_due;        /* deadline for receiving more of the body */
	uint64_t last_contact_ms; /* time of the last data received on a closing connection */
	uint64_t progress_ms;     /* time when the client last read a part of the answer */
	size_t queued;

	uint8_t phase;
	bool is_chunked;
	bool keep;     /* another request may follow */
	bool expect;   /* the client waits for 100 (Continue) */
	bool reading;  /* whether the stream below is reading */
	bool full;     /* the stream below returned L7MP_STREAM_FULL */
	bool eof;      /* the client has finished sending */
	bool unread;   /* unread input of the client: delay the close */
	bool busy;     /* input is being processed, on the stack */
	bool closed;   /* close was called on the stream below */
	uint8_t probe; /* state of the check of a client that finished sending: see half_closed */
};

/* One request and its response, as a session sees it. */
struct http_exchange {
	struct l7mp_stream base; /* first */
	struct http_conn *conn;  /* NULL: closed */
	struct http_state *state;
	struct l7mp_task task;
	struct l7mp_flush flush;
	struct l7mp_bufq out;          /* data of the response that was not written */
	struct l7mp_http_reply *reply; /* head of the response; NULL: 200, or sent */
	long long length;              /* announced length; -1: none */
	long long sent;
	int err; /* negative errno that ended it */

	bool http10;
	bool is_head;     /* method HEAD */
	bool paused;      /* paused by the session */
	bool in_end;      /* the request is complete */
	bool end_emitted; /* `end` was emitted */
	bool started;     /* the session has written: later attributes are ignored */
	bool shut;        /* the session has finished writing */
	bool closing;     /* the session has closed it */
	bool answered;    /* the answer is an error, regardless of the session's data */
	bool head_sent;   /* the status was sent */
	bool bodyless;    /* HEAD, 204, 304 */
	bool chunked;
	bool complete; /* the response was written, or aborted */
	bool full;     /* write has returned L7MP_STREAM_FULL */
	bool over;     /* the task emits `closed` */
};

/* ---- listener.c ---- */

/* Called when a connection was freed. */
void http_conn_closed(struct http_state *state);

/* ---- connection.c ---- */

/* Creates a connection. Takes `stream` and the fields of `peer`. */
void http_conn_new(struct http_listener *l, struct l7mp_stream *stream, struct l7mp_peer *peer);
/*
 * The listener is deleted: `successor` takes over the connection. When it is NULL the connection is
 * closed: at once when idle, else after the present answer.
 */
void http_conn_inherit(struct http_conn *c, struct http_listener *successor);
/* Closes an idle connection. */
void http_conn_close_idle(struct http_conn *c);
/* Aborts the connection. */
void http_conn_abort(struct http_conn *c);
/* Updates reading and the next deadline after a change of state. */
void http_conn_watch(struct http_conn *c);
/* Whether the unread rest of the request is larger than is read to keep a connection. */
bool http_conn_must_close(const struct http_conn *c);
/* The session accepts more of the request's body. */
void http_conn_resume(struct http_conn *c);
/* The answer is complete; its exchange still exists. */
void http_conn_answered(struct http_conn *c);
/* The exchange was freed. */
void http_conn_exchange_freed(struct http_conn *c);
/*
 * Writes buf, which it takes, and which is NULL when out of memory. Returns false when the
 * connection is broken.
 */
bool http_conn_put(struct http_conn *c, struct l7mp_buf *buf);
bool http_conn_put_text(struct http_conn *c, const char *text);
/*
 * Writes a whole answer without a session: an error body, and `extra` header lines (may be "").
 * Decides whether to keep the connection. Returns false when the connection is broken.
 */
bool http_conn_answer(struct http_conn *c, int status, const char *why, const char *extra,
                      bool is_head);
/* Returns the last lines of a head: whether the connection is kept, and the empty line. */
const char *http_conn_line(const struct http_conn *c, bool http10);
/* Appends formatted text to a buffer that has room for it. */
void http_append(struct l7mp_buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static inline struct l7mp_buf_pool *http_pool(const struct http_state *state)
{
	return l7mp_loop_bufs(state->env->loop);
}

/* ---- exchange.c ---- */

/* Creates the exchange of a request after reading its head. NULL: no memory. */
struct http_exchange *http_exchange_new(struct http_conn *c, const struct l7mp_http_request *req);
/* Whether the session still wants the request's body. x may be NULL. */
static inline bool http_exchange_wanted(const struct http_exchange *x)
{
	return x && !x->closing && !x->over;
}
/* A piece of the request's body. Takes buf. */
void http_exchange_data(struct http_exchange *x, struct l7mp_buf *buf);
/* The request is complete. */
void http_exchange_end(struct http_exchange *x);
/* The stream below accepts data again. */
void http_exchange_drain(struct http_exchange *x);
/* An error of the client: answers with an error if still possible, and ends the session. */
void http_exchange_fail(struct http_exchange *x, int status, int err, const char *why);
/* The connection was lost, with `err` (negative errno). */
void http_exchange_lost(struct http_exchange *x, int err);
