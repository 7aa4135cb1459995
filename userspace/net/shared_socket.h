/* SPDX-License-Identifier: MIT */
/*
 * Datagram listeners with many sessions on one socket: UDP, UNIX/dgram, AF_PACKET.
 *
 * A protocol derives a key from each datagram (for UDP the peer's and the local address); the key
 * selects the session. The common part is here: the table of sessions, the source stream of a
 * session, replacing a listener without closing its socket, attributing lost datagrams to their
 * session, back-pressure and rate-limited logging. The protocol provides the socket itself, the
 * key, names and metadata.
 *
 *   listener --reference--> socket <--reference-- session (the source stream), ...
 *
 * The socket is closed when the last reference is dropped. So sessions survive the deletion of
 * their listener, and a later listener on the same address gets the same socket.
 *
 * Private to net/ and proto/. Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "l7mp/dgram.h"
#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/proto.h"

struct l7mp_shared_socket;
struct l7mp_shared_session;
struct l7mp_shared_listener;

/* Operations of a protocol. Those marked "optional" may be NULL. */
struct l7mp_shared_ops {
	/*
	 * Returns whether the socket serves a listener that requests `want` (as passed to
	 * l7mp_shared_socket_find).
	 */
	bool (*matches)(const struct l7mp_shared_socket *s, const void *want);
	/*
	 * Sends to the peer with l7mp_dgram_send and this tag; takes buf, also on failure.
	 * Returns as the write operation of a stream.
	 */
	int (*send)(struct l7mp_shared_session *p, struct l7mp_buf *buf, uint64_t tag);
	/* Optional: a datagram to the peer was lost; it is already counted. */
	void (*lost)(struct l7mp_shared_session *p, int err);
	/* Optional: as in struct l7mp_stream_ops; *out is preset to NONE/PROTOCOL. */
	void (*flow)(struct l7mp_shared_session *p, struct l7mp_flow_end *out);
	/* Optional: the local address of the session; default: getsockname(2). */
	int (*local)(struct l7mp_shared_session *p, struct l7mp_addr *out);
	/* Sets *out to the reason for which l7mp_shared_socket_fail ended the sessions. */
	void (*describe)(const struct l7mp_shared_socket *s, int err, struct l7mp_error *out);
	/*
	 * Optional: a datagram of the peer whose session has just ended begins another session;
	 * takes buf. Called only when the socket has a listener.
	 */
	void (*renew)(const struct l7mp_shared_session *p, struct l7mp_buf *buf);
	/* Optional: the session was removed from the table; its memory remains valid. */
	void (*removed)(struct l7mp_shared_session *p);
	/* Optional: from now on another process reads from the socket and owns its name. */
	void (*given)(struct l7mp_shared_socket *s);
	/*
	 * Optional, for `stay` of a stream: creates p->own with these operations, so that the
	 * peer's datagrams arrive there. Datagrams of other peers that arrived there before are
	 * passed on. Returns 0 or a negative errno.
	 */
	int (*own)(struct l7mp_shared_session *p, const struct l7mp_dgram_ops *ops);
	/* The last reference was dropped and the descriptor is closed: frees the socket. */
	void (*free)(struct l7mp_shared_socket *s);
	/*
	 * Writers are stopped while the kernel's queue is full (UNIX, AF_PACKET). Not for UDP,
	 * whose senders can't be slowed down: excess datagrams are dropped.
	 */
	bool back_pressure;
};

#define L7MP_SHARED_BUCKETS 1024

/* All sockets of one protocol, by a hash of their bound address. */
struct l7mp_shared_table {
	struct l7mp_shared_socket *buckets[L7MP_SHARED_BUCKETS];
	uint64_t last_id; /* of session names, which must stay unique when a listener is replaced */
};

/* Protocols embed this as the first member of their socket. */
struct l7mp_shared_socket {
	const struct l7mp_shared_ops *ops;
	struct l7mp_env *env;
	struct l7mp_shared_table *table;
	struct l7mp_shared_socket *prev, *next; /* in a bucket of the table */
	struct l7mp_shared_socket **bucket;     /* NULL: not in the table */
	struct l7mp_dgram *dgram;
	unsigned refs;
	struct l7mp_shared_listener *listener;  /* active; NULL: datagrams of new peers are dropped
	                                         * */
	struct l7mp_shared_listener *successor; /* becomes active when its change is committed */
	struct l7mp_shared_session *sessions;
	struct l7mp_shared_session *last;    /* the session of the previous datagram, or NULL */
	struct l7mp_shared_session *waiting; /* sessions whose writers wait for `drain` */
	struct l7mp_log_limit log_limit;
	bool given; /* another process reads from it; this one only sends */
	bool owned; /* some sessions have their own sockets */
};

/* The source stream of a session. */
struct l7mp_shared_session {
	struct l7mp_stream base;
	struct l7mp_shared_socket *socket; /* a reference */
	/* The listener whose only session this is (singleton mode), or NULL. */
	struct l7mp_shared_listener *singleton_of;
	UT_hash_handle hh;
	struct l7mp_shared_session *prev, *next; /* in socket->waiting; prev NULL: not there */
	uint64_t id;
	uint64_t stalled_until; /* loop time in ms; until then writes fail with -EAGAIN */
	struct l7mp_log_limit notice_limit;
	struct l7mp_dgram *own;       /* the peer's datagrams arrive here; NULL: at the shared
	                               * socket */
	struct l7mp_task closed_task; /* emits `closed` */
	int err;                      /* reason of the end; 0: closed by its owner */
	bool closing;
	uint64_t owner; /* of a UNIX peer: who sends, see unix/dgram.c */
	uint16_t key_len;
	uint8_t key[];
};

/* Protocols embed this as the first member of their listener. */
struct l7mp_shared_listener {
	struct l7mp_proto_listener base;
	struct l7mp_env *env;
	char *name;
	struct l7mp_shared_socket *socket;   /* a reference */
	struct l7mp_shared_session *session; /* singleton mode: the only session, or NULL */
	struct l7mp_timer start_timer;       /* singleton mode: start without a datagram */
	void (*start)(struct l7mp_shared_listener *l);
};

/* ---- protocol state: operations of struct l7mp_proto ---- */

/* *state is a struct l7mp_shared_table. */
int l7mp_shared_start(struct l7mp_env *env, void **state, struct l7mp_error *err);
void l7mp_shared_stop(struct l7mp_env *env, void *state);

/* ---- sockets ---- */

/*
 * Finds a socket of the table for a new listener: `ops->matches` returns true, and its listener, if
 * any, is replaced by this change. `hash` is the one given to l7mp_shared_socket_publish. Returns a
 * new reference; NULL: none, open one.
 */
struct l7mp_shared_socket *l7mp_shared_socket_find(struct l7mp_shared_table *table, uint32_t hash,
                                                   const void *want,
                                                   const struct l7mp_listen *params);
/*
 * Initialises *s (zeroed by the caller) around the bound descriptor fd, with one reference.
 * Takes fd, also on failure. `dgram_ops` is called with s as argument; flags and max_datagram
 * as for l7mp_dgram_new. Not reading yet. 0 or negative errno; the memory stays the caller's
 * on failure.
 */
int l7mp_shared_socket_init(struct l7mp_shared_socket *s, const struct l7mp_shared_ops *ops,
                            struct l7mp_env *env, struct l7mp_shared_table *table, int fd,
                            unsigned flags, size_t max_datagram,
                            const struct l7mp_dgram_ops *dgram_ops);
/* Adds the socket to the table, so that l7mp_shared_socket_find can find it. */
void l7mp_shared_socket_publish(struct l7mp_shared_socket *s, uint32_t hash);

static inline struct l7mp_shared_socket *l7mp_shared_socket_ref(struct l7mp_shared_socket *s)
{
	s->refs++;
	return s;
}
/* NULL is allowed. */
void l7mp_shared_socket_unref(struct l7mp_shared_socket *s);
/* Ends all sessions with this error (negative errno), each from a separate task. */
void l7mp_shared_socket_fail(struct l7mp_shared_socket *s, int err);
/* Counts a datagram without a session, and frees it; NULL is allowed. */
void l7mp_shared_socket_drop(struct l7mp_shared_socket *s, enum l7mp_drop reason,
                             struct l7mp_buf *buf);
/* Logs "<subject>: <text>" as a warning of the module, at most three in ten seconds. */
void l7mp_shared_socket_warn(struct l7mp_shared_socket *s, const char *module, const char *subject,
                             const char *text);

/* For the members of the same name in the protocol's struct l7mp_dgram_ops; arg: the socket. */
void l7mp_shared_on_lost(void *arg, int err, uint64_t tag, uint32_t len);
void l7mp_shared_on_dropped(void *arg, int err, uint32_t len);
void l7mp_shared_on_overflow(void *arg, uint32_t packets);
void l7mp_shared_on_drain(void *arg);

/* ---- sessions ---- */

struct l7mp_shared_session *l7mp_shared_lookup(struct l7mp_shared_socket *s, const void *key,
                                               uint16_t len);
/*
 * Returns the session of a key, or NULL. Inline for the common case, a datagram from the same peer
 * as the one before it, which costs one comparison and no hashing.
 */
static inline struct l7mp_shared_session *l7mp_shared_find(struct l7mp_shared_socket *s,
                                                           const void *key, uint16_t len)
{
	struct l7mp_shared_session *p = s->last;

	if (p && p->key_len == len && !memcmp(p->key, key, len))
		return p;
	return l7mp_shared_lookup(s, key, len);
}
/* Delivers a datagram to its session; takes buf. */
static inline void l7mp_shared_deliver(struct l7mp_shared_session *p, struct l7mp_buf *buf)
{
	p->base.events->data(p->base.owner, buf);
}
/*
 * Creates the session of a key and adds it to the table. max_write as in struct l7mp_stream. NULL:
 * out of memory. The caller emits it (l7mp_shared_session_emit), or returns its stream from connect
 * or reopen.
 */
struct l7mp_shared_session *l7mp_shared_session_new(struct l7mp_shared_socket *s, const void *key,
                                                    uint16_t len, uint32_t max_write);
/*
 * Checks whether the limits admit a new session from a->peer, and creates it. NULL: refused or out
 * of memory, which is counted; then buf (may be NULL) is freed. The caller fills in the name and
 * the metadata of *a, and calls l7mp_shared_session_emit.
 */
struct l7mp_shared_session *l7mp_shared_session_admit(struct l7mp_shared_listener *l,
                                                      const struct l7mp_accept *a, const void *key,
                                                      uint16_t len, uint32_t max_write,
                                                      struct l7mp_buf *buf);
/*
 * Passes a new session to the owner of the listener, then its first datagram (taken; may be NULL).
 * The owner may do anything in this call, including deletion of the listener: afterwards only p is
 * certain to exist. False: the owner refused the session; the datagram is counted.
 */
bool l7mp_shared_session_emit(struct l7mp_shared_listener *l, struct l7mp_shared_session *p,
                              struct l7mp_accept *a, struct l7mp_buf *buf);
/*
 * A session of a previous process was restored under this name: the number at the end of it, the
 * session's id then, is not given again.
 */
void l7mp_shared_session_named(struct l7mp_shared_table *table, const char *name);
/* Frees a session that was not emitted yet. */
void l7mp_shared_session_discard(struct l7mp_shared_session *p);
/* Replaces the key by another of the same length. Without memory the old key remains. */
void l7mp_shared_session_rekey(struct l7mp_shared_session *p, const void *key);
/* Makes p (NULL: none) the only session of a listener in singleton mode. */
void l7mp_shared_session_bind(struct l7mp_shared_listener *l, struct l7mp_shared_session *p);
/*
 * Emits a notice for the session, at most one in ten seconds, with the number of suppressed ones.
 */
void l7mp_shared_session_notice(struct l7mp_shared_session *p, const char *event, const char *text);

/* ---- listeners ---- */

/*
 * For the operation `listen` of struct l7mp_proto. Allocates a listener of `size` bytes, zeroed but
 * for its first member, which is a struct l7mp_shared_listener, and reserves a socket for it.
 * `open` reads the spec into the listener and gets a socket: one from l7mp_shared_socket_find, or a
 * new one; *out is a reference that it passes on. `start` (NULL: none) is called by
 * l7mp_shared_listener_start. 0, or negative errno with err; freed by l7mp_shared_unlisten.
 */
int l7mp_shared_listen(size_t size, const struct l7mp_proto *proto,
                       const struct l7mp_listen *params,
                       int (*open)(struct l7mp_shared_listener *l, struct l7mp_shared_table *table,
                                   const struct l7mp_listen *params,
                                   struct l7mp_shared_socket **out, struct l7mp_error *err),
                       void (*start)(struct l7mp_shared_listener *l),
                       struct l7mp_proto_listener **out, struct l7mp_error *err);
/*
 * The operation `activate` of struct l7mp_proto, or its first part: from now on the listener gets
 * all new sessions of its socket. Starts reading.
 */
void l7mp_shared_activate(struct l7mp_proto_listener *base);
/* Returns whether it is activated and not yet replaced by another. */
static inline bool l7mp_shared_listener_active(const struct l7mp_shared_listener *l)
{
	return l->socket->listener == l;
}
/*
 * Calls `start` after this many milliseconds, never from inside this call, because at activation
 * the listener's change is not complete yet. No-op unless the listener is active.
 */
void l7mp_shared_listener_start(struct l7mp_shared_listener *l, uint64_t ms);
/* The operation `hand` of struct l7mp_proto. */
int l7mp_shared_hand(struct l7mp_proto_listener *base, enum l7mp_hand step);
/* The operation `unlisten` of struct l7mp_proto. */
void l7mp_shared_unlisten(struct l7mp_proto_listener *base);
