/* SPDX-License-Identifier: MIT */
/*
 * The HTTP listener's inside.
 *
 *   listener.c    the protocol's tables; listeners and the connections that they have
 *   connection.c  one connection: heads, bodies, deadlines, closing
 *   exchange.c    one request and its response: the source stream of a session
 *
 * A connection has one exchange at a time; what a client sends ahead of the answer (pipelining)
 * waits in the connection, which stops reading when that grows. Thread: loop only.
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

/* For a whole head, from its first byte on, in ms. */
#define HTTP_HEAD_MS 10000
/* Without a request, in ms. */
#define HTTP_IDLE_MS 60000
/* A body has this long, and then the rate that follows, in bytes a second, on average... */
#define HTTP_BODY_MS   5000
#define HTTP_BODY_RATE 240
/* ...but what came fast is credited for no longer than this, in ms. */
#define HTTP_BODY_CREDIT_MS 60000
/* A client that takes nothing of what waits for it is cut after this, in ms. */
#define HTTP_STALL_MS 30000
/*
 * After an answer whose request was not read to its end: how long to read on, in all and in
 * silence.
 */
#define HTTP_LINGER_MS       30000
#define HTTP_LINGER_QUIET_MS 5000
/* Of an unwanted request body, read so that the connection can be kept. */
#define HTTP_DISCARD_MAX ((uint64_t)256 * 1024)
/* Bytes that may wait in a connection ahead of their turn, and in an exchange for the client. */
#define HTTP_AHEAD_MAX 32768
#define HTTP_OUT_MAX   65536
/* Of all unfinished heads together; heads of up to 4 KiB are exempt. */
#define HTTP_HEADS_MAX  ((size_t)64 << 20)
#define HTTP_HEADS_FREE 4096

/* The protocol's state in this process. */
struct http_state {
	struct l7mp_env *env;
	struct l7mp_tls_set *tls;
	uint64_t last_id; /* of session names */
	size_t head_bytes;
	size_t n_conns;
	struct http_conn *orphans; /* connections whose listener is gone */
	struct l7mp_http_date date;
	bool stopping;
};

struct http_listener {
	struct l7mp_stream_listener base; /* first */
	struct http_state *state;
	struct http_conn *idle; /* between requests, the longest idle first */
	struct http_conn *busy;
};

enum http_phase {
	HTTP_HEAD,    /* between requests, or within a head */
	HTTP_BODY,    /* the request's body is not complete */
	HTTP_ANSWER,  /* the request is complete, its answer is not */
	HTTP_CLOSING, /* nothing more is answered */
};

struct http_exchange;

struct http_conn {
	struct http_conn *prev, *next; /* in *list */
	struct http_conn **list;
	struct http_listener *listener; /* NULL: gone; the connection ends after its answer */
	struct http_state *state;
	struct l7mp_stream *io;
	struct http_exchange *x; /* NULL: none */
	struct l7mp_peer peer;

	struct l7mp_bufq in; /* what was read and is not used up */
	struct l7mp_http_reader reader;
	uint32_t head_bytes; /* that reader is charged for in the state */

	/* The request's body. */
	struct l7mp_http_chunked chunked;
	uint64_t left;      /* with a length */
	uint64_t discarded; /* of a body that nobody wants */

	struct l7mp_task task;   /* goes on with the next request */
	struct l7mp_timer timer; /* never later than what is due; see l7mp_http_conn_watch */
	uint64_t since;          /* when this phase began; of an unfinished head, the head */
	uint64_t body_due;       /* when more of the body has to have come */
	uint64_t heard_ms;       /* when a closing connection last said something */
	uint64_t progress_ms;    /* when the client last took something of `queued` */
	size_t queued;

	uint8_t phase;
	bool is_chunked;
	bool keep;     /* another request may follow */
	bool expect;   /* the client waits for 100 (Continue) */
	bool reading;  /* what the stream below was told */
	bool full;     /* the stream below said so */
	bool eof;      /* the client has finished sending */
	bool unread;   /* something of the client's was not read: closing has to be patient */
	bool busy;     /* input is being looked at, on the stack */
	bool closed;   /* close was called on the stream below */
	uint8_t probe; /* what is known of a client that finished sending: see half_closed */
};

/* One request and its response, as a session sees it. */
struct http_exchange {
	struct l7mp_stream base; /* first */
	struct http_conn *conn;  /* NULL: gone */
	struct http_state *state;
	struct l7mp_task task;
	struct l7mp_flush flush;
	struct l7mp_bufq out;          /* of the response's body, not handed down yet */
	struct l7mp_http_reply *reply; /* NULL: 200, or sent */
	long long length;              /* announced; -1: not */
	long long sent;
	int err; /* negative errno that ended it */

	bool http10;
	bool is_head;   /* method HEAD */
	bool paused;    /* the session takes nothing now */
	bool in_end;    /* the request is complete */
	bool end_told;  /* the session knows */
	bool started;   /* the session has written: later attributes are ignored */
	bool shut;      /* the session writes no more */
	bool closing;   /* the session has closed it */
	bool answered;  /* an error is the answer, whatever the session does then */
	bool head_sent; /* too late for another status */
	bool bodyless;  /* HEAD, 204, 304 */
	bool chunked;
	bool complete; /* the response was handed down, or broken off */
	bool full;     /* the session was told to stop writing */
	bool over;     /* the task says `closed` */
};

/* ---- listener.c ---- */

/* Moves a connection to another list of its listener, or to the state's orphans. */
void http_conn_move(struct http_conn *c, struct http_conn **list);
/* A connection is gone. */
void http_conn_gone(struct http_state *state);

/* ---- connection.c ---- */

/* Takes `stream` and what `peer` owns. */
void http_conn_new(struct http_listener *l, struct l7mp_stream *stream, struct l7mp_peer *peer);
/*
 * Its listener is going: `heir` takes it over, or (NULL) it ends, at once when it is idle, else
 * after the answer that is under way.
 */
void http_conn_inherit(struct http_conn *c, struct http_listener *heir);
/* Closes an idle connection. */
void http_conn_close_idle(struct http_conn *c);
/* Aborts whatever is left of it. */
void http_conn_abort(struct http_conn *c);
/* The session wants (more of) the request's body. */
void http_conn_resume(struct http_conn *c);
/* Looks again at what to read and which deadline is next; after whatever may have changed them. */
void http_conn_watch(struct http_conn *c);
/* The answer is complete; its exchange is still there. */
void http_conn_answered(struct http_conn *c);
/* The exchange is gone. */
void http_conn_exchange_gone(struct http_conn *c);
/* Is more of the request to come than is read away for the sake of the connection? */
bool http_conn_must_close(const struct http_conn *c);

/* ---- exchange.c ---- */

/* For a request whose head was just read. NULL: no memory. */
struct http_exchange *http_exchange_new(struct http_conn *c, const struct l7mp_http_request *req);
/* A piece of the request's body. Takes buf. */
void http_exchange_data(struct http_exchange *x, struct l7mp_buf *buf);
/* The request is complete. */
void http_exchange_end(struct http_exchange *x);
/* The stream below takes more. */
void http_exchange_drain(struct http_exchange *x);
/* The client's fault: answers with an error if that is still possible, and ends the session. */
void http_exchange_fail(struct http_exchange *x, int status, int err, const char *why);
/* The connection is gone, for `err` (negative errno). */
void http_exchange_lost(struct http_exchange *x, int err);
/*
 * Writes a whole answer without a session, and sets whether the connection goes on: error body,
 * `extra` header lines (may be ""). False: the connection is broken.
 */
bool http_answer(struct http_conn *c, int status, const char *why, const char *extra, bool is_head);
