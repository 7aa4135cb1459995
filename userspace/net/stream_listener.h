/* SPDX-License-Identifier: MIT */
/*
 * Listeners on sockets that carry byte streams: TCP (IPv4, IPv6, both), UNIX stream sockets, and
 * TLS over either. The common part of the protocols on top: TCP, HTTP, WebSocket, UNIX. It binds,
 * or shares the socket of the listener that it replaces; accepts, and pauses while no descriptors
 * are available; performs TLS handshakes with a deadline; and passes each connection on as a byte
 * stream. Private to net/ and proto/. Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "net.h"
#include "net/tls/tls_int.h"
#include "unix_path.h"

/* ---- peers ---- */

#define L7MP_PEER_NO_UID ((uid_t)-1)

/* Both ends of an accepted connection. Its owner frees it with l7mp_peer_clear. */
struct l7mp_peer {
	struct l7mp_addr remote; /* len 0: a UNIX socket */
	struct l7mp_addr local;  /* for a UNIX socket: the name it was bound to */
	struct ucred cred;       /* for a UNIX peer; uid L7MP_PEER_NO_UID: unknown */
	cJSON *tls;              /* see l7mp_tls_metadata; NULL: no TLS */
	enum l7mp_origin origin; /* of all sessions of this connection */
};

/*
 * Returns the metadata of a connection: {IP, TCP}, or {UNIX: {filename, pid, uid, gid}}, and {TLS}
 * if it uses TLS. Owned by the caller; NULL: no memory.
 */
cJSON *l7mp_peer_metadata(const struct l7mp_peer *peer);
/*
 * Returns a session's name: "<proto>:<peer>-<local>", or "<proto>:<listener>" for a UNIX socket,
 * with "-<id>" when id is not 0. Heap; NULL: no memory.
 */
char *l7mp_peer_name(const char *proto, const char *listener, const struct l7mp_peer *peer,
                     uint64_t id);
/* Frees the fields of a peer. */
void l7mp_peer_clear(struct l7mp_peer *peer);

/* ---- listeners ---- */

struct l7mp_stream_listener;

struct l7mp_stream_listener_ops {
	const char *module; /* static; for the log */
	/*
	 * Each connection is a session, so call `admit` of the listener's owner before anything is
	 * allocated for it. If false, the protocol calls it for each request.
	 */
	bool admit;
	/*
	 * A connection, open and paused, after its TLS handshake if it uses TLS. Takes `stream` and
	 * the fields of `peer`. Not called before activate.
	 */
	void (*accepted)(struct l7mp_stream_listener *l, struct l7mp_stream *stream,
	                 struct l7mp_peer *peer);
	/*
	 * Optional: for UNIX seqpacket sockets instead of byte streams. An accepted connection as a
	 * stream; takes fd, also on failure.
	 */
	int (*accept_unix)(struct l7mp_env *env, int fd, const struct l7mp_addr *local,
	                   struct l7mp_stream **out);
	/*
	 * Optional: no descriptors are available, and accepting pauses for 100 ms. The protocol may
	 * close idle connections.
	 */
	void (*exhausted)(struct l7mp_stream_listener *l);
};

/* Such listeners embed this as first member, so that `retiring` can be converted. */
struct l7mp_stream_listener {
	struct l7mp_proto_listener base;
	const struct l7mp_stream_listener_ops *ops;
	struct l7mp_env *env;
	char *name; /* name of the listener */
	cJSON *tls; /* of the spec; NULL: none */
	struct l7mp_tls_gate *gate;
	struct l7mp_bind_addr bind_addr;  /* of a TCP socket */
	struct l7mp_unix_path *unix_path; /* of a UNIX socket; NULL: TCP */
	struct l7mp_unix_access access;
	struct l7mp_acceptor *acceptor; /* NULL: paused */
	unsigned user_timeout_ms;
	/*
	 * Until the change is committed: the listener that shares this socket, and the one whose
	 * socket this one shares. Both may be of another protocol.
	 */
	struct l7mp_stream_listener *successor, *from;
	bool active;
	bool handed; /* the socket was handed over by another process */
};

/*
 * Binds and listens, or shares the socket of a retiring listener with the same address (all of
 * params->retiring must embed this struct). The spec has `filename`, or `port` and perhaps
 * `address`; `tls`, and `options.user_timeout`. `set` keeps what is read for `tls`; may be NULL
 * when the spec has none. On failure nothing is left behind; the memory of l is the caller's,
 * zeroed before.
 */
int l7mp_stream_listener_open(struct l7mp_stream_listener *l, const struct l7mp_proto *proto,
                              const struct l7mp_listen *params, struct l7mp_tls_set *set,
                              const struct l7mp_stream_listener_ops *ops, struct l7mp_error *err);
/* For the operations of the same name in struct l7mp_proto. */
void l7mp_stream_listener_activate(struct l7mp_proto_listener *l);
void l7mp_stream_listener_pause(struct l7mp_proto_listener *l);
int l7mp_stream_listener_resume(struct l7mp_proto_listener *l, struct l7mp_error *err);
/* For listeners without TLS whose connections have sockets. */
int l7mp_stream_listener_restore(struct l7mp_proto_listener *l, const char *name,
                                 struct l7mp_restore_end *end, struct l7mp_accept *a,
                                 struct l7mp_error *err);
int l7mp_stream_listener_hand(struct l7mp_proto_listener *l, enum l7mp_hand step);
void l7mp_stream_listener_bound(const struct l7mp_proto_listener *l, cJSON *spec);
/* Closes; handshakes in progress end. The memory of l may be freed at once. Idempotent. */
void l7mp_stream_listener_close(struct l7mp_stream_listener *l);
