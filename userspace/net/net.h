/* SPDX-License-Identifier: MIT */
/*
 * Common code of protocols: bound sockets, session names, metadata and messages, TCP listeners and
 * byte streams. Private to net/ and proto/. Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/addr.h"
#include "l7mp/error.h"
#include "l7mp/handed.h"
#include "l7mp/json.h"
#include "l7mp/loop.h"
#include "l7mp/proto.h"
#include "l7mp/stream_io.h"
#include "l7mp/tls.h"
#include "spec.h"

/* ---- binding ---- */

/*
 * Returns true if a socket bound to `bound` satisfies `want`; never if want's port is 0.
 */
bool l7mp_bind_addr_same(const struct l7mp_bind_addr *want, const struct l7mp_bind_addr *bound);
/*
 * Creates a non-blocking, close-on-exec socket of `type` bound to `want`, listening when type is
 * SOCK_STREAM. An explicit `::` is IPv6 only. `prepare` (optional) sets options before bind(2),
 * and fails with negative errno. Returns the descriptor and sets *bound to the address with the
 * port that was bound; or negative errno with err ("port 80: permission denied").
 */
int l7mp_bind_addr_socket(const struct l7mp_bind_addr *want, int type,
                          int (*prepare)(int fd, void *arg), void *arg,
                          struct l7mp_bind_addr *bound, struct l7mp_error *err);
/*
 * The same, although n sockets `beside` are bound to the port on an address that overlaps with
 * `want` without being equal, such as 0.0.0.0 and 127.0.0.1. They must be about to be closed. They
 * have SO_REUSEPORT (TCP) or SO_REUSEADDR (UDP) while the new one is bound; their previous setting
 * is restored before this returns. The kernel prefers the socket with the more specific address.
 */
int l7mp_bind_addr_beside(const struct l7mp_bind_addr *want, int type,
                          int (*prepare)(int fd, void *arg), void *arg, const int *beside, size_t n,
                          struct l7mp_bind_addr *bound, struct l7mp_error *err);

/*
 * Takes the socket of `type` that another process has handed over for this address (handed.h) out
 * of the set; *bound as above. -ENOENT: there is none. h may be NULL.
 */
int l7mp_handed_inet(struct l7mp_handed *h, int type, const char *listener,
                     const struct l7mp_bind_addr *want, struct l7mp_bind_addr *bound);
/* The same for a UNIX socket with this name ('@' as the first character: an abstract one). */
int l7mp_handed_unix(struct l7mp_handed *h, int type, const char *filename);

/*
 * Keeps clients from connecting before the listener works: from l7mp_listen_hold, which is the
 * `prepare` of a listening TCP socket, until l7mp_listen_release the kernel drops all packets to
 * the socket. A client that connects meanwhile retransmits its SYN after a second (RFC 6298). Best
 * effort: hold returns 0.
 */
int l7mp_listen_hold(int fd, void *unused);
void l7mp_listen_release(int fd);

/* The error code of a failed connect: L7MP_ERR_TIMEOUT for ETIMEDOUT, else L7MP_ERR_UPSTREAM. */
enum l7mp_code l7mp_connect_code(int err);

/* ---- names and metadata ---- */

/*
 * Returns a session's name, "TCP:10.0.0.1:1234-10.0.0.2:80", with "-<id>" when id is not 0; IPv6
 * addresses in brackets. Heap; NULL: no memory.
 */
char *l7mp_inet_name(const char *proto, const struct l7mp_addr *peer, const struct l7mp_addr *local,
                     uint64_t id);
/*
 * Returns the metadata {"IP": {src_addr, dst_addr}, "<l4>": {src_port, dst_port}}; l4: "TCP",
 * "UDP". NULL: no memory.
 */
cJSON *l7mp_inet_metadata(const char *l4, const struct l7mp_addr *peer,
                          const struct l7mp_addr *local);

/*
 * Returns the metadata {"UNIX": {filename, peer, pid, uid, gid}}. `peer` is the path of the peer's
 * socket; peer and cred may be NULL: not known. NULL: no memory.
 */
struct ucred;
cJSON *l7mp_unix_metadata(const char *filename, const char *peer, const struct ucred *cred);
/*
 * Passes an accepted stream to the owner of the listener. Takes all of *a; when name or metadata
 * is NULL (no memory) it closes the stream instead and returns false.
 */
bool l7mp_accept_emit(const struct l7mp_proto_listener *l, struct l7mp_accept *a);

/* ---- TCP sockets ---- */

/* Reads the local address with getsockname(2), IPv4-mapped normalised. */
int l7mp_fd_local(int fd, struct l7mp_addr *out);
/*
 * Sets the options of every TCP connection but TCP_NODELAY, which stream_io.h sets: keepalive (the
 * first probe after a minute, connection closed 50 s later), SO_OOBINLINE, and TCP_USER_TIMEOUT:
 * the connection is closed when the peer has not acknowledged data for L7MP_TCP_USER_TIMEOUT_MS
 * (tcp(7)).
 */
#define L7MP_TCP_USER_TIMEOUT_MS 30000
void l7mp_tcp_tune(int fd);
/* Sets another user time-out in ms; 0: the system's default. */
void l7mp_tcp_user_timeout(int fd, unsigned ms);

/* ---- byte streams over sockets: TCP, TLS over TCP, UNIX ---- */

enum l7mp_byte_stream_type { L7MP_BYTE_STREAM_TCP, L7MP_BYTE_STREAM_UNIX, L7MP_BYTE_STREAM_TLS };
/*
 * An accepted connection as a stream (not TLS); takes fd, also on failure. `peer` may have len 0.
 */
int l7mp_byte_stream_accept(struct l7mp_env *env, enum l7mp_byte_stream_type type, int fd,
                            const struct l7mp_addr *peer, struct l7mp_stream **out);
/*
 * Connects to host:port: tries all addresses of a name in turn, and the next one when one fails or
 * (unless it is the last) does not answer in half a second. `bind`: the cluster's object, borrowed
 * for the call, may be NULL.
 */
int l7mp_byte_stream_connect_tcp(struct l7mp_env *env, const char *host, uint16_t port,
                                 const cJSON *bind, struct l7mp_stream **out,
                                 struct l7mp_error *err);
/*
 * The same over TLS; the stream is open after the handshake. The certificate must be valid for
 * `name`; ctx is borrowed.
 */
int l7mp_byte_stream_connect_tls(struct l7mp_env *env, const char *host, uint16_t port,
                                 const cJSON *bind, struct l7mp_tls_ctx *ctx,
                                 struct l7mp_stream **out, struct l7mp_error *err);
/* Creates a stream from an accepted TLS connection (taken, also on failure). */
int l7mp_byte_stream_accept_tls(struct l7mp_env *env, struct l7mp_tls *tls,
                                const struct l7mp_addr *peer, struct l7mp_stream **out);
/*
 * Creates a stream from a connection (TCP, UNIX) of a previous process, with the socket and queue
 * of `end`, which are taken. `connected`: emits `open`, like a connected stream. Returns 0 or a
 * negative errno.
 */
int l7mp_byte_stream_restore(struct l7mp_env *env, struct l7mp_restore_end *end, bool connected,
                             struct l7mp_stream **out);
bool l7mp_byte_stream_is_tls(const struct l7mp_stream *s);
/*
 * Detaches the descriptor of an open stream without TLS; unread bytes stay in the kernel, and the
 * caller then closes the stream. Returns the descriptor or a negative errno: -EBUSY when bytes are
 * queued, -ENOTCONN.
 */
int l7mp_byte_stream_take_fd(struct l7mp_stream *s);
int l7mp_byte_stream_connect_unix(struct l7mp_env *env, const struct l7mp_addr *remote,
                                  struct l7mp_stream **out, struct l7mp_error *err);

/* ---- further operations; `s` must be one of the byte streams above ---- */

/* Sets the user time-out of a connecting TCP or TLS stream, as l7mp_tcp_user_timeout. */
void l7mp_byte_stream_user_timeout(struct l7mp_stream *s, unsigned ms);
/* As l7mp_stream_io_cork and l7mp_stream_io_queued. */
void l7mp_byte_stream_cork(struct l7mp_stream *s, bool on);
size_t l7mp_byte_stream_queued(const struct l7mp_stream *s);
/*
 * Returns whether the connection was reset. A reset after the peer's end of stream causes no event
 * while nothing is written, so the caller has to poll for it.
 */
bool l7mp_byte_stream_reset(const struct l7mp_stream *s);
