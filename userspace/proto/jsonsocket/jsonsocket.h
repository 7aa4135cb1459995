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
