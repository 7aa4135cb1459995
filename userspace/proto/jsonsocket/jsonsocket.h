/* SPDX-License-Identifier: MIT */
/*
 * JSONSocket version 1 (docs/jsonsocket.md), private: a handshake in front of the streams of
 * another protocol, the transport. The client sends a header, a JSON object; the server sends
 * an answer with a status; what follows is payload.
 *
 * Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/jsonframe.h"
#include "l7mp/loop.h"
#include "l7mp/proto.h"
#include "l7mp/util.h"

#define JSOCK_HEAD_MAX 65536 /* bytes of a header or an answer */
/* Maximum number of JSON values: they become metadata, at about 80 bytes each. */
#define JSOCK_VALUES_MAX 100

/* ---- handshake.c: the messages of the handshake ---- */

/* The first message from the peer. */
struct jsock_first {
	struct l7mp_jsonframe frame;
	struct l7mp_str text; /* the part received so far */
	size_t total;
	bool newline_due; /* on a byte stream: a newline directly after the message belongs to it */
};
enum jsock_take { JSOCK_MORE, JSOCK_READY, JSOCK_BAD };
/*
 * Adds data; takes buf. JSOCK_READY: f->text is the message, and *rest (NULL: none) is the data
 * after it.
 */
enum jsock_take jsock_first_take(struct jsock_first *f, enum l7mp_kind kind, struct l7mp_buf *buf,
                                 struct l7mp_buf **rest);
/*
 * Removes the newline after the message from the next buffer of a byte stream; takes buf and
 * returns the rest of it, or NULL.
 */
struct l7mp_buf *jsock_first_strip(struct jsock_first *f, struct l7mp_buf *buf);
/* Returns whether the datagram is a repetition of the message. */
bool jsock_first_same(const struct jsock_first *f, const struct l7mp_buf *buf);

/*
 * Parses a header. The tree is owned by the caller. NULL: *status is the status of the rejection,
 * and `why` the message.
 */
cJSON *jsock_header_parse(const char *text, size_t len, int *status, char *why, size_t size);
/*
 * Creates the header of a cluster from its list `header` and the session's metadata, padded with
 * spaces to `pad` bytes. Heap. Returns 0 or negative errno with err.
 */
int jsock_header_make(const cJSON *list, const cJSON *metadata, size_t pad, char **out,
                      struct l7mp_error *err);
/*
 * {"JSONSocketVersion":1,"JSONSocketStatus":..,"JSONSocketMessage":".."}, heap, of at most
 * `max` bytes: the message is truncated. NULL: no memory, or max is too small.
 */
char *jsock_answer_text(int status, const char *message, size_t max);
/*
 * Returns the status of an answer, with its message, which points into *root (owned by the caller).
 * -EBADMSG: not an answer, *root is NULL.
 */
int jsock_answer_parse(const char *text, size_t len, cJSON **root, const char **message);
/*
 * Sends a message; on byte streams followed by a newline. Returns as l7mp_stream_write, or -ENOMEM.
 */
int jsock_send(const struct l7mp_env *env, struct l7mp_stream *s, const char *text);

/* ---- jsonsocket.c: the transports ---- */

/* Properties of a transport that matter for the handshake. */
struct jsock_transport {
	const char *name, *alias; /* alias may be NULL */
	bool lossy;               /* messages may be lost or duplicated */
	bool spoofable;           /* the source address may be forged */
};

/*
 * Returns the protocol in `transport.protocol` of a spec, by name or alias. NULL with err:
 * JSONSocket can't use it, or the program does not have it.
 */
const struct l7mp_proto *jsock_transport_proto(const struct l7mp_env *env, const cJSON *spec,
                                               const struct jsock_transport **out,
                                               struct l7mp_error *err);

/* Of the protocol; the env owns it. */
struct jsock_state {
	uint64_t last_id; /* of session names */
};

/* ---- stream.c: common to accepted and connected streams ---- */

/* A stream that passes on the data of its transport's stream after the handshake. */
struct jsock_stream {
	struct l7mp_stream base; /* first */
	struct l7mp_env *env;
	struct l7mp_stream *inner; /* the transport's */
	const struct jsock_transport *transport;
	struct jsock_first first; /* the peer's message of the handshake */
	struct l7mp_timer timer;  /* of the handshake */
	bool ready;               /* the handshake has succeeded: payload passes */
	bool payload_seen;        /* something other than the handshake was received */
	bool closing;             /* by the owner, or because the handshake failed */
};

/* Delivers payload to the owner; takes buf. */
void jsock_deliver(struct jsock_stream *s, struct l7mp_buf *buf);
/*
 * Implements `flow`. settled: all data that the peer sends from now on is payload. Sets the flow of
 * the transport, or none.
 */
void jsock_flow(struct jsock_stream *s, bool settled, struct l7mp_flow_end *out);

/*
 * Operations of both ends, as stream.h has them: for the transport's stream once the handshake has
 * succeeded. jsock_close stops the handshake's timer, too. base: a struct jsock_stream.
 */
int jsock_write(struct l7mp_stream *base, struct l7mp_buf *buf);
void jsock_shutdown(struct l7mp_stream *base, int code);
void jsock_close(struct l7mp_stream *base, bool abort);
int jsock_local(struct l7mp_stream *base, struct l7mp_addr *out);
int jsock_remote(struct l7mp_stream *base, struct l7mp_addr *out);
/* Over UDP: a flow is about to begin, and queued datagrams must be delivered before its packets. */
size_t jsock_drain_now(struct l7mp_stream *base);

/*
 * Events of the transport's stream that both ends handle alike: passed on to the stream's owner if
 * there is one. owner: a struct jsock_stream.
 */
void jsock_on_drain(void *owner);
/* Only after the handshake; a message of the handshake is sent again. */
void jsock_on_lost(void *owner, int err, uint64_t packets, uint64_t bytes);
void jsock_on_notice(void *owner, const char *event, const char *message);
void jsock_on_path_changed(void *owner);
void jsock_on_unreachable(void *owner, int err);

/* ---- upstream.c, listener.c: the operations of proto.h ---- */

int jsock_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                  struct l7mp_error *err);

int jsock_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                 struct l7mp_error *err);
void jsock_activate(struct l7mp_proto_listener *base);
void jsock_pause(struct l7mp_proto_listener *base);
int jsock_resume(struct l7mp_proto_listener *base, struct l7mp_error *err);
int jsock_hand(struct l7mp_proto_listener *base, enum l7mp_hand step);
void jsock_unlisten(struct l7mp_proto_listener *base);
void jsock_bound(const struct l7mp_proto_listener *base, cJSON *spec);
