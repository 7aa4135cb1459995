/* SPDX-License-Identifier: MIT */
/*
 * UNIX sockets, private: what the stream, seqpacket and datagram protocols share.
 *
 * Thread: loop only.
 */
#pragma once

#include <sys/socket.h>

#include "l7mp/proto.h"
#include "unix_path.h"

/* Of one protocol in this process: session names must not repeat when a listener is replaced. */
struct l7mp_unix_state {
	uint64_t last_id;
};
int l7mp_unix_start(struct l7mp_env *env, void **state, struct l7mp_error *err);
void l7mp_unix_stop(struct l7mp_env *env, void *state);

/* A protocol whose listener accepts connections. */
struct l7mp_unix_kind {
	const struct l7mp_proto *proto; /* its state is a struct l7mp_unix_state */
	int type;                       /* SOCK_STREAM, SOCK_SEQPACKET */
	const char *prefix;             /* of session names */
	/* An accepted connection as a stream; takes fd, also on failure. */
	int (*accept)(struct l7mp_env *env, int fd, const struct l7mp_addr *local,
	              struct l7mp_stream **out);
};
int l7mp_unix_listen(const struct l7mp_unix_kind *kind, const struct l7mp_listen *params,
                     struct l7mp_proto_listener **out, struct l7mp_error *err);
void l7mp_unix_activate(struct l7mp_proto_listener *base);
void l7mp_unix_unlisten(struct l7mp_proto_listener *base);

/*
 * {"UNIX": {filename, peer, pid, uid, gid}}; peer (its path; may be NULL) and cred (may be
 * NULL) only when known. NULL: no memory.
 */
cJSON *l7mp_unix_metadata(const char *filename, const char *peer, const struct ucred *cred);

/* The address of an endpoint, with err for people ("<proto> <address>: ..."). */
int l7mp_unix_endpoint(const char *proto, const char *address, struct l7mp_addr *out,
                       struct l7mp_error *err);

/* The listener key `filename` and the endpoint key `address`. */
extern const struct l7mp_field l7mp_unix_listener_fields[], l7mp_unix_endpoint_fields[];

/* ---- streams of messages over connected sockets (unix_msg.c) ---- */

/*
 * Largest message that is read: what a peer can send with Linux's default
 * net.core.wmem_max. A larger one is dropped and counted.
 */
#define L7MP_UNIX_MSG_MAX 212992

/* What the socket takes in one message (unix(7): its send buffer less some overhead). */
uint32_t l7mp_unix_max_write(int fd);
/* An accepted connection; takes fd, also on failure. */
int l7mp_unix_msg_accept(struct l7mp_env *env, int fd, const struct l7mp_addr *local,
                         struct l7mp_stream **out);
/*
 * Connects a socket of `type` (SOCK_SEQPACKET, SOCK_DGRAM). A datagram socket is bound
 * to `bind` (a path or @name; its file is removed at the end), or when that is NULL to an abstract name that
 * the kernel chooses, so that answers find it. `proto` is for messages, static.
 */
int l7mp_unix_msg_connect(struct l7mp_env *env, const char *proto, int type,
                          const struct l7mp_addr *remote, const char *bind,
                          struct l7mp_stream **out, struct l7mp_error *err);
