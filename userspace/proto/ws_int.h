/* SPDX-License-Identifier: MIT */
/*
 * WebSocket's insides. libwebsockets never listens and never resolves: listeners
 * accept by themselves and read the request's head (ws_head.c) before the library
 * sees the socket; clusters resolve first (ws_client.c).
 *
 *   ws.c          tables, listeners
 *   ws_context.c  the library's context on our loop
 *   ws_glue.c     what it calls, and what connections ask of it
 *   ws_conn.c     one connection as a stream
 *   ws_tls.c      TLS: the library gets a connection's plain text on a socket pair
 *
 * Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http_int.h"
#include "l7mp/buf.h"
#include "l7mp/loop.h"
#include "l7mp/proto.h"
#include "l7mp/protos.h"
#include "l7mp/resolve.h"
#include "proto_int.h"
#include "tls_int.h"

struct lws;
struct lws_context;
struct lws_vhost;

/* A message may have this many bytes; more is answered with close code 1009. */
#define L7MP_WS_MESSAGE_MAX (16 * 1024 * 1024)
/* Bytes of queued messages: FULL from the one on, drain below the other, refused above limits.max_queue. */
#define L7MP_WS_OUT_HIGH (256 * 1024)
#define L7MP_WS_OUT_LOW  (64 * 1024)
/* For the request's head to come, and for the peer to answer a Close frame, in ms. */
#define L7MP_WS_HEAD_MS  5000
#define L7MP_WS_CLOSE_MS 5000
/* Of a request. */
#define L7MP_WS_HEAD_MAX 16384

struct ws_listener;
struct ws_conn;

struct ws_state {
	struct l7mp_env *env;
	struct lws_context *context;
	struct lws_vhost *plain; /* connections without TLS */
	struct l7mp_tls_set *tls;
	uint64_t next_id;
	char subprotocol[128];      /* what the upgrade under way agrees to */
	struct ws_ticket *adopting; /* of the socket that is being handed over */
	struct ws_ticket *tickets;
	uv_handle_t *handles[4]; /* the library's own, which end after all connections */
	size_t n_handles;
	size_t handles_left;
	void *protocols; /* the library's table, ours to free */
	struct l7mp_timer end;
};

/*
 * What the library knows of a connection. It outlives the connection: the library
 * may call once more after we gave up. Freed when the library forgets the wsi.
 */
struct ws_ticket {
	struct ws_conn *conn; /* NULL: given up */
	struct ws_ticket *prev, *next;
};

struct ws_conn {
	struct l7mp_stream base;
	struct ws_state *state;
	struct ws_ticket *ticket; /* NULL: the library is not involved (any more) */
	struct lws *wsi;          /* valid while ticket is */
	struct l7mp_task task;
	struct l7mp_timer timer; /* the peer's answer to our Close frame */

	bool up; /* messages may flow */
	bool paused;
	bool ended; /* `end` was emitted: the peer sent a Close frame */
	bool shut;  /* our Close frame is to follow what is queued */
	bool close_sent;
	bool closing; /* close was called */
	bool aborting;
	bool dead; /* nothing but `closed` is to come */
	bool full;
	int code; /* of our Close frame */
	struct l7mp_error error;

	struct l7mp_bufq out;
	struct l7mp_buf *message; /* being reassembled */

	/* accepted ones, until they are handed up */
	struct ws_listener *listener;
	struct ws_conn *prev, *next; /* in the listener's list */
	cJSON *http, *tls_details;   /* metadata */
	char *offered;               /* subprotocols */
	struct l7mp_addr peer, local;

	/* connected ones */
	struct l7mp_resolve *resolve;
	struct l7mp_addr *addrs;
	size_t n_addrs, next_addr;
	uint16_t port;
	char *host;        /* for the Host header */
	char *path;        /* with the query */
	char *headers;     /* "Name: value\r\n" each */
	char *subprotocol; /* NULL: none */
	cJSON *bind;

	/* with TLS */
	char *address;                  /* whom the certificate must be for; connected ones */
	struct l7mp_tls_ctx *tls_ctx;   /* NULL: without */
	struct l7mp_tls *tls;           /* until its handshake is done */
	struct l7mp_tls_bridge *bridge; /* then; NULL when it is gone */
};

struct ws_listener {
	struct l7mp_tcp_listener tcp; /* first */
	struct ws_state *state;
	char *path;                 /* NULL: any */
	struct ws_head *heads;      /* connections whose head is being read */
	struct ws_conn *conns;      /* connections whose handshake is under way */
	struct l7mp_tls_gate *gate; /* NULL: no TLS */
	struct ws_tls_head *tls_heads;
};

/* ---- ws_context.c ---- */
int l7mp_ws_context_start(struct ws_state *st, struct l7mp_error *err);
/* Ends the library's context over some turns of the loop; then frees st. */
void l7mp_ws_context_stop(struct ws_state *st);
/* ---- ws_glue.c ---- */
/* Hands a connection's socket (taken, also on failure) to the library; 0 or negative errno. */
int l7mp_ws_adopt(struct ws_conn *c, int fd);
/* Starts connecting to one numeric address. */
int l7mp_ws_dial(struct ws_conn *c, const struct l7mp_addr *to, const char *from);
/* The same to an address text as the library takes it ("+@name": a UNIX socket). */
int l7mp_ws_dial_text(struct ws_conn *c, const char *to, uint16_t port, const char *from);
/* The connection has ended: another address, or the end of c. text NULL: as l7mp_ws_conn_gone. */
void l7mp_ws_lost(struct ws_conn *c, const char *text);
/* The library is to forget the connection: nothing is called any more. */
void l7mp_ws_forget(struct ws_conn *c);
void l7mp_ws_want_write(struct ws_conn *c);
void l7mp_ws_flow(struct ws_conn *c, bool on);
/* Takes buf. 0, or negative errno: the connection is broken. */
int l7mp_ws_send(struct ws_conn *c, struct l7mp_buf *buf);
bool l7mp_ws_choked(struct ws_conn *c);
/* The local address, as soon as there is a socket. 0 or negative errno. */
int l7mp_ws_local(struct ws_conn *c, struct l7mp_addr *out);
int l7mp_ws_send_close(struct ws_conn *c, int code);

/* ---- ws_conn.c: what the library's callbacks become ---- */
struct ws_conn *l7mp_ws_conn_new(struct ws_state *st);
void l7mp_ws_conn_free(struct ws_conn *c);
/* Connections of the listener that were not handed up yet. */
void l7mp_ws_conn_drop_handshakes(struct ws_listener *l);
/* The handshake is done. False: nobody wants the connection. */
bool l7mp_ws_conn_up(struct ws_conn *c);
/* A piece of a message; `left` bytes of its frame are still to come. 0, or the close code to fail with. */
int l7mp_ws_conn_receive(struct ws_conn *c, const void *data, size_t len, size_t left, bool first,
                         bool final, bool text);
/* False: close the connection now. */
bool l7mp_ws_conn_writable(struct ws_conn *c);
/* The peer's Close frame. False: it answers ours, the connection is over. */
bool l7mp_ws_conn_peer_close(struct ws_conn *c, int code);
/* The connection is gone; text NULL: orderly when Close frames were seen. */
void l7mp_ws_conn_gone(struct ws_conn *c, const char *text);

/* ---- ws_head.c ---- */
/* Where a connection came from. */
struct ws_from {
	struct l7mp_addr peer, local;
	cJSON *tls; /* metadata, owned; NULL: no TLS */
};
struct ws_request {
	struct l7mp_http_head head; /* points into text */
	struct l7mp_http_header headers[64];
	char *text;
};
/*
 * Reads the request's head without taking it from the socket (the library reads it
 * again), refuses what is no WebSocket handshake for this path, and else adopts the
 * socket. Takes fd and from->tls.
 */
void l7mp_ws_head_read(struct ws_listener *l, int fd, const struct ws_from *from);
void l7mp_ws_head_cancel_all(struct ws_listener *l);
/* Sets the state's subprotocol to what this connection's client wants. */
void l7mp_ws_offer(struct ws_conn *c);
/*
 * Splits the text of a head (the blank line included) in place. 0, or the HTTP
 * status to refuse it with and why.
 */
int l7mp_ws_request_parse(char *text, struct ws_request *out, const char **why);

/* ---- ws_client.c ---- */
int l7mp_ws_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                    struct l7mp_error *err);
/* The next address, or the end. */
void l7mp_ws_next_address(struct ws_conn *c);

static inline struct l7mp_loop *l7mp_ws_loop(const struct ws_conn *c)
{
	return c->state->env->loop;
}

/* ---- ws_tls.c ---- */
/* The operation `ready` of a listener's gate; arg is a struct ws_listener. */
void l7mp_ws_tls_ready(void *arg, struct l7mp_tls *tls, const struct l7mp_addr *peer);
void l7mp_ws_tls_cancel_heads(struct ws_listener *l);
/* Starts connecting with TLS to one numeric address. */
int l7mp_ws_tls_dial(struct ws_conn *c, const struct l7mp_addr *to, const struct l7mp_addr *from);
/* Lets go of what TLS has under way for c. */
void l7mp_ws_tls_end(struct ws_conn *c);
