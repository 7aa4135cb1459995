/* SPDX-License-Identifier: MIT */
/*
 * Private to the UNIX protocols: declarations shared by the stream, seqpacket and datagram
 * protocols.
 *
 * Thread: loop only.
 */
#pragma once

#include <sys/socket.h>

#include "l7mp/proto.h"

/* ---- listener.c ---- */

/* The address of an endpoint. On failure negative errno, and err begins with `proto`. */
int unix_endpoint(const char *proto, const char *address, struct l7mp_addr *out,
                  struct l7mp_error *err);
/* The listener key `filename` and the endpoint key `address`. */
extern const struct l7mp_field unix_listener_fields[], unix_endpoint_fields[];

/* ---- message.c: streams of messages over connected sockets ---- */

/*
 * The largest received message: the maximum with Linux's default net.core.wmem_max. A larger one is
 * dropped and counted.
 */
#define UNIX_MESSAGE_MAX 212992

/* The largest message that a socket sends (its send buffer less some overhead, unix(7)). */
uint32_t unix_max_write(int fd);
/* An accepted seqpacket connection as a stream; takes fd, also on failure. */
int unix_message_accept(struct l7mp_env *env, int fd, const struct l7mp_addr *local,
                        struct l7mp_stream **out);
/*
 * Connects a socket of `type` (SOCK_SEQPACKET, SOCK_DGRAM). A datagram socket is bound to `bind`
 * (a path, removed when the stream ends, or @name); when that is NULL, to an abstract name that
 * the kernel chooses, so that the server can answer. `proto` is for messages, static.
 */
int unix_message_connect(struct l7mp_env *env, const char *proto, int type,
                         const struct l7mp_addr *remote, const char *bind, struct l7mp_stream **out,
                         struct l7mp_error *err);
