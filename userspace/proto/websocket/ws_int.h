/* SPDX-License-Identifier: MIT */
/*
 * WebSocket's insides, over the byte streams that TCP and TLS are made of.
 *
 *   ws.c         tables, listeners
 *   ws_frame.c   frames, without I/O
 *   ws_shake.c   the keys of handshakes, heads in and out
 *   ws_head.c    accepted connections until their handshake is done
 *   ws_client.c  connecting, and the client's handshake
 *   ws_conn.c    an open connection as a stream of messages
 *   ws_message.c what its peer sends
 *
 * Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "l7mp/buf.h"
#include "l7mp/loop.h"
#include "l7mp/proto.h"
#include "l7mp/protos.h"
#include "net/net.h"
#include "net/tls/tls_int.h"
#include "proto/http/http_int.h"
#include "ws_frame.h"

/* A message may have this many bytes; more is answered with close code 1009. */
#define L7MP_WS_MESSAGE_MAX (16 * 1024 * 1024)
/* For the request's head to come, and for the peer to answer a Close frame, in ms. */
#define L7MP_WS_HEAD_MS  5000
#define L7MP_WS_CLOSE_MS 5000
/* For a peer that was told of its fault to hang up. */
#define L7MP_WS_FAULT_MS 1000
/* For bytes that wait to be written to a peer that is said goodbye to. */
#define L7MP_WS_FULL_MS 60000
/* Of a request, and of the answer to one. */
#define L7MP_WS_HEAD_MAX 16384

struct ws_state {
	struct l7mp_env *env;
	struct l7mp_tls_set *tls;
	uint64_t next_id;
	uint8_t random[256]; /* masking keys; used from the end */
	size_t random_left;
};

/* What only a connecting one needs; given back when it is open. */
struct ws_dial {
	char *request;     /* its head */
	char *subprotocol; /* NULL: none */
	char *bind_addr;   /* host:port, for messages */
	char key[25];
	struct l7mp_buf *head; /* of the answer, so far */
};

struct ws_conn {
	struct l7mp_stream base;
	struct ws_state *state;
	struct l7mp_stream *io; /* the bytes below; NULL: closed */
	struct ws_dial *dial;   /* NULL: accepted, or open */
	struct l7mp_task task;
	struct l7mp_timer timer; /* the peer's answer to our Close frame, or its hanging up */

	bool client;
	bool up; /* messages may flow */
	bool paused, reading;
	bool full;   /* the stream below, which said so */
	bool choked; /* so that answers to pings wait: no more is read */
	bool ended;  /* `end` was emitted: the peer sent a Close frame */
	bool shut;   /* our Close frame was sent, or asked for */
	bool close_sent;
	bool closing; /* close was called */
	bool deaf;    /* what comes is thrown away */
	bool io_end;  /* the peer sends no more bytes */
	bool in_read; /* messages are being handed up */
	int code;     /* of our Close frame */
	struct l7mp_error error;

	struct l7mp_ws_reader reader;
	struct l7mp_bufq in;      /* bytes that were not looked at yet */
	struct l7mp_buf *message; /* being put together */
	size_t over;              /* bytes that were written although it was full */
};

struct ws_listener {
	struct l7mp_tcp_listener tcp; /* first */
	struct ws_state *state;
	char *path;                 /* NULL: any */
	struct ws_head *heads;      /* connections whose head is being read */
	struct l7mp_tls_gate *gate; /* NULL: no TLS */
};

/* ---- ws_conn.c ---- */
/* On `io` (taken, also on failure; not attached yet), which is open unless `dial` is given (taken). NULL: no memory. */
struct ws_conn *l7mp_ws_conn_new(struct ws_state *st, struct l7mp_stream *io, struct ws_dial *dial);
/* The handshake is done; `rest` (taken, may be NULL) came behind it. Emits nothing. */
void l7mp_ws_conn_up(struct ws_conn *c, struct l7mp_buf *rest);
/* Ends a connection that has not been up: the message becomes the error that it closes with. */
void l7mp_ws_conn_fail(struct ws_conn *c, enum l7mp_code code, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

/* Takes buf, which becomes a frame. As a stream's write. */
int l7mp_ws_send_frame(struct ws_conn *c, enum l7mp_ws_opcode opcode, struct l7mp_buf *buf);
int l7mp_ws_send_control(struct ws_conn *c, enum l7mp_ws_opcode opcode, const void *data,
                         size_t len);
/* Once; code 0: an empty one. */
void l7mp_ws_send_close(struct ws_conn *c, int code);
/* Both have said goodbye, or one has been shown the door: throws away what comes until the peer hangs up, for so long. */
void l7mp_ws_hang_up(struct ws_conn *c, uint64_t ms);
/* Aborts when the connection has not ended by then; what waits to be written gets more time. */
void l7mp_ws_patience(struct ws_conn *c, uint64_t ms);
/* After what it depends on has changed: reads bytes, or not. */
void l7mp_ws_set_reading(struct ws_conn *c);
/* Aborts a stream that nobody is attached to. */
void l7mp_ws_orphan(struct l7mp_stream *io);

/* ---- ws_message.c ---- */
#define L7MP_WS_DROPPED "the peer dropped the connection without a Close frame"
/* Hands up what is in c->in, as far as the owner wants it. */
void l7mp_ws_read_all(struct ws_conn *c);

/* ---- ws_head.c ---- */
/* Reads the request's head on an accepted stream (taken), and refuses it or hands a connection up. Takes tls (metadata, may be NULL). */
void l7mp_ws_head_read(struct ws_listener *l, struct l7mp_stream *io, const struct l7mp_addr *peer,
                       cJSON *tls);
void l7mp_ws_head_cancel_all(struct ws_listener *l);

/* ---- ws_shake.c ---- */
struct ws_lines {
	char *first; /* line */
	struct l7mp_http_header headers[64];
	size_t n;
};
/* Splits the text of a head (the blank line included) in place. 0, or the HTTP status to refuse it with, and why. */
int l7mp_ws_lines_split(char *text, struct ws_lines *out, const char **why);
const char *l7mp_ws_lines_get(const struct ws_lines *l, const char *name); /* NULL: not there */
/* Is the token one of a comma-separated list? */
bool l7mp_ws_has_token(const char *list, const char *token);
/* A request's head: 0 and *head (borrows from l), or the HTTP status to refuse it with, and why. */
int l7mp_ws_request_check(struct ws_lines *l, struct l7mp_http_head *head, const char **why);
/* Random, base64. 0 or negative errno. */
int l7mp_ws_key_new(char key[static 25]);
/* The answer to a key (RFC 6455, section 4.2.2). */
void l7mp_ws_key_answer(const char *key, char answer[static 29]);
/* Adds `more` (taken) to the head in *buf; NULL inside: there is none yet. The offset behind its blank line, 0: more has to come, -E2BIG, -ENOMEM. */
int l7mp_ws_head_add(struct l7mp_loop *loop, struct l7mp_buf **head, struct l7mp_buf *more);

/* ---- ws_client.c ---- */
int l7mp_ws_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                    struct l7mp_error *err);
void l7mp_ws_dial_free(struct ws_dial *d);
/* The bytes below are there: asks. */
void l7mp_ws_dial_open(struct ws_conn *c);
/* Takes a piece of the answer. */
void l7mp_ws_dial_data(struct ws_conn *c, struct l7mp_buf *buf);

static inline struct l7mp_loop *l7mp_ws_loop(const struct ws_conn *c)
{
	return c->state->env->loop;
}
