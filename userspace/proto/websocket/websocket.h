/* SPDX-License-Identifier: MIT */
/*
 * WebSocket (RFC 6455) by libwebsockets, in both roles.
 *
 *   websocket.c  tables, listeners, the protocol's state
 *   handshake.c  accepted connections until their handshake is answered
 *   client.c     connecting: the request, and the evaluation of its answer
 *   conn.c       an open connection as a stream of messages; libwebsockets' callbacks
 *   lws.c        libwebsockets' context on the loop, and how connections are passed to it
 *   bridge.c     TLS: relays between a byte stream and a socket of libwebsockets
 *   frame.c      encoding of sent frames
 *
 * The proxy itself reads, checks and answers (or passes on) the heads of requests, over the same
 * byte streams as all other protocols. libwebsockets then gets the socket, with a rebuilt request
 * that contains only the key of the peer's; it reads frames, and answers pings and Close frames.
 * Sent frames are encoded and masked here and written with LWS_WRITE_RAW, many frames in one write.
 *
 * TLS is that of net/tls, not of libwebsockets' vhosts: the request must be read from within TLS
 * before libwebsockets sees the connection, and libwebsockets can't take over an established TLS
 * session. So there is one vhost that never listens, and a TLS connection costs a socket pair: two
 * more descriptors, and one more copy of its bytes in each direction through the kernel. In return
 * certificates are reloaded on SIGHUP for new connections while old ones stay, and checks, error
 * texts and metadata are the same as for other TLS streams.
 *
 * Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"
#include "l7mp/buf.h"
#include "l7mp/loop.h"
#include "l7mp/proto.h"
#include "l7mp/protos.h"
#include "net/net.h"
#include "net/stream_listener.h"
#include "net/tls/tls_int.h"
#include "proto/http/metadata.h"
#include "proto/http/reply.h"

struct lws;
struct lws_context;
struct lws_vhost;

/* Maximum size of a message in bytes; a larger one is answered with close code 1009. */
#define L7MP_WS_MESSAGE_MAX (16 * 1024 * 1024)
/*
 * Within this time, in s (`message_timeout`), an incomplete message must grow by at least this many
 * bytes.
 */
#define L7MP_WS_MESSAGE_S    60
#define L7MP_WS_MESSAGE_GROW 65536
/* Time for the request's head, and for the peer to answer a Close frame, in ms. */
#define L7MP_WS_HEAD_MS  5000
#define L7MP_WS_CLOSE_MS 5000
/* Time for a peer to close after its protocol violation, in ms. */
#define L7MP_WS_FAULT_MS 5000
/* Time to send queued data on a closing connection, in ms. */
#define L7MP_WS_FULL_MS 60000
/* Maximum size of the head of a request, and of the answer to one; bytes. */
#define L7MP_WS_HEAD_MAX 16384
/* Default of `ping_interval`, in seconds. */
#define L7MP_WS_PING_S 30

/* libwebsockets reads and writes at most this many bytes at once. */
#define L7MP_WS_CHUNK 65536

struct ws_conn;

struct ws_state {
	struct l7mp_env *env;
	struct l7mp_tls_set *tls;
	uint64_t next_id;
	uint8_t random[256]; /* masking keys; used from the end */
	size_t random_left;
	/* ---- lws.c ---- */
	struct lws_context *context;
	struct lws_vhost *vhost;
	struct ws_conn *conns;    /* all */
	struct ws_conn *adopting; /* the one whose socket is being passed to libwebsockets */
	/* L7MP_WS_CHUNK bytes: small frames are joined here for one write */
	uint8_t *scratch;
	void *loops[1];
	uv_timer_t dry; /* checks while libwebsockets' handles close */
};

/* State of a connecting stream. */
struct ws_dial {
	char *request; /* its head, without key and blank line */
	char *offer;   /* subprotocols, ", " between them; NULL: none */
	bool agree;    /* the server must select one of them */
	bool tls;
	char *target; /* host:port, for messages */
	int swap_fd;  /* connected, to be passed to libwebsockets; -1 */
	int pair_fd;  /* the listening end of a TLS connection's socket pair; -1 */
};

struct ws_head;
struct ws_bridge;

struct ws_conn {
	struct l7mp_stream base;
	struct ws_conn *prev, *next;
	struct ws_state *state;
	struct l7mp_stream *io;   /* connecting: the transport, until libwebsockets takes it over */
	struct ws_head *head;     /* accepted: until the handshake is answered */
	struct ws_dial *dial;     /* connecting: until it is open */
	struct lws *wsi;          /* NULL: not yet, or closed */
	struct ws_bridge *bridge; /* TLS */
	struct l7mp_task task;    /* emits events asynchronously */
	struct l7mp_timer timer;  /* time limit for the peer to close the connection */
	struct l7mp_timer ping, slow;
	struct l7mp_flush flush;

	bool client;
	bool up;             /* open: messages may be sent and received */
	bool open_due;       /* `open` is due */
	bool paused;         /* by the owner */
	bool flowing;        /* reading is enabled in libwebsockets */
	bool holding;        /* inside a call: delay events */
	bool full;           /* write has returned L7MP_STREAM_FULL */
	bool drain_due;      /* `drain` is due */
	bool shut;           /* the owner has finished writing */
	bool close_sent;     /* a Close frame was queued, or will be sent by libwebsockets */
	bool peer_closed;    /* the peer's Close frame was received */
	bool ended;          /* `end` was emitted */
	bool closing;        /* close was called */
	bool kill;           /* the task makes libwebsockets drop it */
	bool reset;          /* the peer gets a reset, or has sent one */
	bool choked;         /* the socket is not writable at the moment */
	bool over;           /* the connection has ended */
	bool closed_emitted; /* `closed` was emitted: there is no owner */
	bool pinged, alive;  /* alive: something was received since the last ping */
	int code;            /* of the sent Close frame, or the peer's */
	uint32_t ping_ms;    /* 0: no pings */
	uint32_t message_ms;
	char *subprotocol; /* negotiated; "": none */
	struct l7mp_error error;

	struct l7mp_buf *message;    /* being received */
	uint32_t grown;              /* its length when `slow` was started */
	struct l7mp_utf8_check utf8; /* state of its check, when it is text */
	struct l7mp_bufq in;         /* messages to emit when the owner resumes */
	struct l7mp_bufq out;        /* frames not yet passed to libwebsockets */
	size_t off;                  /* bytes of the first frame already passed */
};

struct ws_listener {
	struct l7mp_stream_listener below; /* first */
	struct ws_state *state;
	char *path;          /* NULL: any */
	cJSON *subprotocols; /* NULL: none */
	cJSON *origins;      /* NULL: any */
	uint32_t ping_ms;
	uint32_t message_ms;
	struct ws_head *heads; /* connections whose head is being read */
};

static inline struct l7mp_loop *l7mp_ws_loop(const struct ws_conn *c)
{
	return c->state->env->loop;
}

/* ---- lws.c ---- */

/* Makes libwebsockets' context on the loop of st->env. Returns 0, or a negative errno with err. */
int l7mp_ws_lws_start(struct ws_state *st, struct l7mp_error *err);
/* Ends all remaining connections, and frees st when its handles are closed. */
void l7mp_ws_lws_stop(struct ws_state *st);
/*
 * Passes an accepted connection's socket (taken) to libwebsockets, which answers the handshake with
 * this key; `rest` is what was received after the head. On failure c is ended.
 */
void l7mp_ws_lws_adopt(struct ws_conn *c, int fd, const char *key, const uint8_t *rest, size_t n);
/*
 * Makes libwebsockets the client on the connected stream c->io; it writes the request. On failure c
 * is ended.
 */
void l7mp_ws_lws_dial(struct ws_conn *c);

/* ---- conn.c ---- */

/* Creates a connection in neither role yet. NULL: no memory. */
struct ws_conn *l7mp_ws_conn_new(struct ws_state *st, bool client, uint32_t ping_ms,
                                 uint32_t message_ms);
/*
 * Ends a connection. The message of the first call is its error, with code L7MP_OK for an orderly
 * end. `closed` follows, but not from inside this call.
 */
void l7mp_ws_conn_ended(struct ws_conn *c, enum l7mp_code code, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));
/* Adds an event to the session. */
void l7mp_ws_conn_notice(struct ws_conn *c, const char *event, const char *message);
/* The callback of libwebsockets; `user` unused: the connection is its opaque pointer. */
int l7mp_ws_conn_callback(struct lws *wsi, int reason, void *user, void *in, size_t len);

/* ---- bridge.c ---- */

/*
 * Relays bytes between io (an open TLS stream; taken, also on failure) and fd (one end of a socket
 * pair, whose other end is libwebsockets'; taken) until both have ended. Returns 0 or a negative
 * errno.
 */
int l7mp_ws_bridge_new(struct ws_conn *c, struct l7mp_stream *io, int fd, struct ws_bridge **out);
/* Returns why TLS failed, "" when it did not; while c->bridge is set. */
const char *l7mp_ws_bridge_why(const struct ws_bridge *b);
/* Read the TLS connection's addresses. */
int l7mp_ws_bridge_local(const struct ws_bridge *b, struct l7mp_addr *out);
int l7mp_ws_bridge_remote(const struct ws_bridge *b, struct l7mp_addr *out);
/* c is being freed. abort: discards unsent data, and resets the peer's connection. */
void l7mp_ws_bridge_leave(struct ws_bridge *b, bool abort);

/* ---- handshake.c ---- */

/*
 * Reads the request's head on an accepted stream (taken, with the fields of `peer`), and rejects it
 * or passes a connection to the owner of the listener.
 */
void l7mp_ws_head_read(struct ws_listener *l, struct l7mp_stream *io, struct l7mp_peer *peer);
void l7mp_ws_head_cancel_all(struct ws_listener *l);
/* The `result` operation for the connection that was accepted with this head; frees h. */
void l7mp_ws_head_answer(struct ws_head *h, int status, const char *why);
/* Sets the subprotocol selected by the destination; NULL: it has none. Called before the answer. */
void l7mp_ws_head_subprotocol(struct ws_head *h, const char *chosen);
/* c is closed before the handshake was answered. */
void l7mp_ws_head_drop(struct ws_head *h);
int l7mp_ws_head_local(const struct ws_head *h, struct l7mp_addr *out);
int l7mp_ws_head_remote(const struct ws_head *h, struct l7mp_addr *out);
/* Closes a stream that has no owner. */
void l7mp_ws_orphan(struct l7mp_stream *io, bool abort);

/* ---- websocket.c ---- */

/* Returns `ping_interval` of a spec, in ms. */
uint32_t l7mp_ws_ping_ms(const cJSON *spec);
/* `message_timeout` of a spec, in ms. */
uint32_t l7mp_ws_message_ms(const cJSON *spec);

/* ---- client.c ---- */

int l7mp_ws_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                    struct l7mp_error *err);
void l7mp_ws_dial_free(struct ws_dial *d);
/* Ends c with a clear message for libwebsockets' reason of a failed handshake. */
void l7mp_ws_dial_failed(struct ws_conn *c, const char *why, int status);
/*
 * The server has selected this subprotocol ("": none). Returns false when it was not offered; c is
 * then ended.
 */
bool l7mp_ws_dial_agreed(struct ws_conn *c, const char *subprotocol);
