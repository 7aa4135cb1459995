/* SPDX-License-Identifier: MIT */
/*
 * JSONSocket version 1, private: a handshake in front of another protocol's streams.
 *
 *   jsonsocket.c         tables, transports
 *   jsonsocket_head.c    the text of headers and answers
 *   jsonsocket_listen.c  listeners and their handshakes under way
 *   jsonsocket_source.c  an accepted stream
 *   jsonsocket_up.c      a connected stream
 *
 * Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/jsonframe.h"
#include "l7mp/proto.h"
#include "l7mp/util.h"

#define JSOCK_HEAD_MAX     65536 /* bytes of a header or an answer */
#define JSOCK_VALUES_MAX   1000  /* values in it: they become metadata */
#define JSOCK_PENDING_MAX  512   /* handshakes under way of one listener, refused ones included */
#define JSOCK_HANDSHAKE_MS 10000
#define JSOCK_REPEAT_MS    500
#define JSOCK_PAD          256 /* what our headers are padded to where an answer may not be longer */

/* What the handshake has to know of a transport. */
struct jsock_transport {
	const char *name, *alias; /* alias may be NULL */
	bool lossy;               /* messages may be lost or come twice */
	bool spoofable;           /* who writes may not be who is answered */
};
/* By any spelling; NULL: not one of ours. */
const struct jsock_transport *jsock_transport_find(const char *name);
/* Of a spec with `transport`; NULL with err when this program has it not. */
const struct l7mp_proto *jsock_transport_proto(const struct l7mp_env *env, const cJSON *spec,
                                               const struct jsock_transport **out,
                                               struct l7mp_error *err);

struct jsock_state {
	uint64_t last_id; /* of session names */
};

/* ---- jsonsocket_head.c ---- */

/* The first message that one side sends. */
struct jsock_first {
	struct l7mp_jsonframe frame;
	struct l7mp_str text; /* so far */
	size_t total;
	bool newline_due; /* on a byte stream, a newline right behind belongs to it */
};
enum jsock_take { JSOCK_MORE, JSOCK_READY, JSOCK_BAD };
/* Takes buf. READY: f->text is the message, *rest (NULL: none) what came behind it. */
enum jsock_take jsock_first_take(struct jsock_first *f, enum l7mp_kind kind, struct l7mp_buf *buf,
                                 struct l7mp_buf **rest);
/* Takes the next buffer of a byte stream; without the newline that is due. NULL: nothing is left. */
struct l7mp_buf *jsock_first_strip(struct jsock_first *f, struct l7mp_buf *buf);
bool jsock_first_same(const struct jsock_first *f, const struct l7mp_buf *buf);

/* The header as a tree (caller's); NULL with the status to refuse it with, and why. */
cJSON *jsock_header_parse(const char *text, size_t len, int *status, char *why, size_t size);
/*
 * {"JSONSocketVersion":1,"JSONSocketStatus":..,"JSONSocketMessage":".."}, heap, of at most
 * `max` bytes: the message is cut. NULL: no memory, or max is too small for any.
 */
char *jsock_answer_text(int status, const char *message, size_t max);
/* The status in an answer, and its message (in *root, the caller's); -EBADMSG: not an answer. */
int jsock_answer_parse(const char *text, size_t len, cJSON **root, const char **message);
/* A cluster's header from its list and the session's metadata. 0 or negative errno with err. */
int jsock_header_make(const cJSON *list, const cJSON *metadata, size_t pad, char **out,
                      struct l7mp_error *err);
/* Writes text, on byte streams with a newline. What l7mp_stream_write returns, or -ENOMEM. */
int jsock_send(const struct l7mp_env *env, struct l7mp_stream *s, const char *text);

/* ---- jsonsocket_listen.c ---- */

struct jsock_source;

struct jsock_listener {
	struct l7mp_proto_listener base;
	struct l7mp_env *env;
	struct jsock_state *state;
	char *name;
	const struct jsock_transport *transport;
	const struct l7mp_proto *proto; /* of the transport */
	struct l7mp_proto_listener *inner;
	struct jsock_source *pending; /* oldest first */
	size_t n_pending;
};
int jsock_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                 struct l7mp_error *err);
void jsock_activate(struct l7mp_proto_listener *l);
void jsock_unlisten(struct l7mp_proto_listener *l);
void jsock_bound(const struct l7mp_proto_listener *l, cJSON *spec);

/* ---- jsonsocket_source.c ---- */

struct jsock_source {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct l7mp_stream *inner;
	const struct jsock_transport *transport;
	struct jsock_listener *listener; /* in whose list it is, until handed up; else NULL */
	struct jsock_source *prev, *next;
	struct l7mp_accept accept; /* the transport's; metadata is ours until handed up */
	struct jsock_first first;
	struct l7mp_timer timer;
	uint64_t received, sent; /* bytes, until the route has answered */
	char *answer;            /* to be said again; NULL: not given, or not needed any more */
	bool up;                 /* the route is connected and the client was told */
	bool payload;            /* something else than the header has come */
	bool closing;
};
/* Takes all of *a; in l's list of handshakes. Without memory the stream is closed. */
void jsock_source_new(struct jsock_listener *l, struct l7mp_accept *a);
/* Ends the handshake with an answer. abort: without one. */
void jsock_source_refuse(struct jsock_source *s, int status, const char *why, bool abort);

/* ---- jsonsocket_up.c ---- */

int jsock_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                  struct l7mp_error *err);
