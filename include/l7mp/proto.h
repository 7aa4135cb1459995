/* SPDX-License-Identifier: MIT */
/*
 * A protocol or transformer is a constant table of operations. It does not know sessions: a
 * listener passes accepted streams to callbacks, a cluster creates streams. daemon/ lists the
 * tables; the layers below do not know which ones exist.
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/addr.h"
#include "l7mp/error.h"
#include "l7mp/loop.h"
#include "l7mp/model.h"
#include "l7mp/stats.h"
#include "l7mp/stream.h"

struct l7mp_handed;
struct l7mp_proto;
struct l7mp_sessions;
struct l7mp_str;

/* State shared by all protocols; exists as long as the process runs. */
struct l7mp_env {
	struct l7mp_loop *loop;
	struct l7mp_stats *stats;
	const struct l7mp_limits *limits;
	const struct l7mp_proto *const *protos; /* ends with NULL */
	void **states;            /* one for each entry of protos; see l7mp_proto_state */
	struct l7mp_model *model; /* for api/ clusters only */
	void *app;                /* for api/ clusters only */
	/* New sessions are refused, existing ones continue (drain.h). HTTP connections end. */
	bool draining;
	/* During start: listening sockets handed over by another process (handed.h); else NULL. */
	struct l7mp_handed *handed;
	/*
	 * Shuts the process down as SIGTERM does, with this exit status; returns at once. NULL: not
	 * possible.
	 */
	void (*quit)(struct l7mp_env *env, int status);
	/*
	 * Whether packets from `remote` to `local` don't reach the socket with these addresses: the
	 * kernel relays them for an earlier process. NULL: never.
	 */
	bool (*is_taken)(struct l7mp_env *env, uint8_t l4, const struct l7mp_addr *local,
	                 const struct l7mp_addr *remote);
};
/*
 * The memory that counts for limits.max_memory: sessions and connections by their average size,
 * buffers and unfinished messages by their actual size.
 */
static inline uint64_t l7mp_memory_used(const struct l7mp_env *env)
{
	return l7mp_buf_pool_held(l7mp_loop_bufs(env->loop));
}
/*
 * True: data of a peer must not allocate that many bytes. A tenth of the limit is reserved for the
 * administrator's requests.
 */
static inline bool l7mp_memory_short(const struct l7mp_env *env, uint64_t bytes)
{
	uint64_t max = env->limits ? env->limits->max_memory : 0;

	return max && l7mp_memory_used(env) + bytes > max - max / 10;
}
/*
 * True: an unfinished message must not grow by that many bytes. A quarter of the limit is reserved
 * for new sessions and for the queues of existing ones; otherwise a few clients that send endless
 * messages would block all others.
 */
static inline bool l7mp_memory_short_unfinished(const struct l7mp_env *env, uint64_t bytes)
{
	uint64_t max = env->limits ? env->limits->max_memory : 0;

	return max && l7mp_memory_used(env) + bytes > max - max / 4;
}
/* Finds a protocol by any of its names, case-insensitive; NULL: unknown. */
const struct l7mp_proto *l7mp_proto_find(const struct l7mp_env *env, const char *name);
/*
 * Returns the state of a protocol, which its `start` creates at first use. NULL, with err set, if
 * that failed.
 */
void *l7mp_proto_state(struct l7mp_env *env, const struct l7mp_proto *proto,
                       struct l7mp_error *err);

/* ---- listening ---- */

/*
 * Where an accepted connection comes from. Determined once, when it is accepted: later its other
 * end may be closed, and another process may use the same port.
 */
enum l7mp_origin {
	L7MP_ORIGIN_UNKNOWN, /* can't be determined (datagrams, frames, FIFOs), or isn't needed */
	L7MP_ORIGIN_LOCAL,   /* another process on this host, also if relayed by ourselves */
	L7MP_ORIGIN_REMOTE,  /* another host */
	L7MP_ORIGIN_RELAYED, /* a cluster of ours, on behalf of a client that is not LOCAL */
	L7MP_ORIGIN_GONE,    /* the other end is closed already */
};

struct l7mp_accept {
	struct l7mp_stream *stream; /* open and paused; taken */
	char *name;                 /* of the session, heap; taken */
	cJSON *metadata;            /* of the session; taken */
	struct l7mp_addr peer;      /* for the limits per source; len 0: none */
	enum l7mp_origin origin;    /* of a connection, when it was accepted */
	/*
	 * Optional: creates the source again after it has failed (AF_PACKET singletons, PIPE).
	 * Returns 0 and an open, paused stream, or negative errno.
	 */
	int (*reopen)(void *reopen_arg, struct l7mp_stream **out);
	void *reopen_arg;
	/*
	 * Optional, with reopen: the session has ended, reopen is not called any more. Not called
	 * if the stream was refused.
	 */
	void (*ended)(void *reopen_arg);
	bool never_idle; /* no default idle time-out: singletons */
	/* Datagrams are RTP: statistics are kept. Hz of dynamic payload types; 0: no RTP. */
	uint32_t rtp_clock_rate;
};

struct l7mp_listen_events {
	/*
	 * Optional: do the limits allow a session from this peer? Called before anything is
	 * allocated for it. 0, or -EBUSY, which the callee has counted as a refusal; the caller
	 * counts the datagram, if there is one, as L7MP_DROP_LIMIT.
	 */
	int (*admit)(void *arg, const struct l7mp_addr *peer);
	/* After admit. Takes all of *a; attaches to the stream, or closes it, before it returns. */
	void (*accept)(void *arg, struct l7mp_accept *a);
	/*
	 * Optional: determines the origin of a TCP connection. Called for each one, in the loop
	 * iteration in which accept(2) returned `fd`, before anything is read from it. The result
	 * is passed as `origin` of every session of the connection.
	 */
	enum l7mp_origin (*origin)(void *arg, int fd, const struct l7mp_addr *remote,
	                           const struct l7mp_addr *local);
	/*
	 * Optional, for connections on which sessions begin later, for each request or after a
	 * handshake: may the connection with the descriptor `fd` stay? If not, it would use the
	 * reserve of the operator: the caller closes it and calls `exhausted`.
	 */
	bool (*room)(void *arg, int fd);
	/* Optional: descriptors ran out (err: negative errno); the listener backs off by itself. */
	void (*exhausted)(void *arg, int err);
};

/* A protocol's listener. Protocols embed it as their first member. */
struct l7mp_proto_listener {
	const struct l7mp_proto *proto;
	const struct l7mp_listen_events *events;
	void *arg;
};

/* The steps in which a listener hands over its socket to another process. */
enum l7mp_hand {
	L7MP_HAND_SOCKET, /* returns the descriptor, borrowed; -ENOENT: there is none */
	/*
	 * Stops receiving and accepting; connections and datagrams wait in the kernel. Returns 0.
	 */
	L7MP_HAND_REST,
	L7MP_HAND_BACK, /* after REST: resumes, as the other process has failed. Returns 0. */
	/*
	 * After REST: the other process has the socket. Closes it, or uses it only for sending by
	 * the sessions on it; a UNIX socket's file is kept. Accepted connections continue. Returns
	 * 0.
	 */
	L7MP_HAND_GIVE,
};

struct l7mp_listen {
	struct l7mp_env *env;
	const char *name;  /* the listener's */
	const cJSON *spec; /* validated; borrowed for the call */
	const struct l7mp_listen_events *events;
	void *arg;
	/*
	 * Listeners of the same protocol, or whose protocols both have stream_listener, that this
	 * change replaces or deletes. If one of them has the same address, its socket is shared, so
	 * that the port stays open.
	 */
	struct l7mp_proto_listener *const *retiring;
	size_t n_retiring;
};

/* ---- sessions restored from a previous process ---- */

/* One end of such a session: its source, or its destination. */
struct l7mp_restore_end {
	struct l7mp_addr local;  /* our address, with port */
	struct l7mp_addr remote; /* the peer's */
	/*
	 * The connected socket, non-blocking and close-on-exec. A callee that takes it sets -1. -1:
	 * none, the protocol opens one with these addresses, or uses the listener's.
	 */
	int fd;
	/* Byte streams: the peer has finished writing; we have, after `queue`. */
	bool ended, shut;
	/* MSS of a TCP socket that has been un-spliced; 0: as the socket says. */
	struct l7mp_flow_mss mss;
	/*
	 * Buffers to be written to the socket, without the first `off` bytes. A callee that takes
	 * them sets NULL.
	 */
	struct l7mp_buf *queue;
	size_t off;
	/*
	 * AF_PACKET: the interface, and which of its frames the session receives; borrowed for the
	 * call. 0 and NULL: another protocol.
	 */
	uint32_t ifindex;
	const struct l7mp_flow_frame *frame;
};

/* ---- connecting ---- */

struct l7mp_connect {
	struct l7mp_env *env;
	const char *cluster;        /* name; borrowed for the call */
	const cJSON *cluster_spec;  /* validated; borrowed for the call */
	const cJSON *endpoint_spec; /* NULL for virtual clusters; for the call */
	const char *address;        /* the endpoint's, or NULL; for the call */
	const cJSON *metadata;      /* the session's; stays valid until `closed` */
	const char *session;        /* the session's name; stays valid until `closed` */
	enum l7mp_kind in_kind;     /* of data to be written; L7MP_PROTO_KEEPS_KIND adopts it */
	enum l7mp_kind out_kind;    /* of the next stage, if known */
	/*
	 * NULL: a new connection. Otherwise restores this one, if the endpoint has the address that
	 * it is connected to; -EXDEV: it has not. Only passed to protocols with
	 * L7MP_PROTO_RESTORES or L7MP_PROTO_ADOPTS.
	 */
	struct l7mp_restore_end *restore;
	/* With restore: the endpoint's name is unchanged, so a host name needn't be resolved. */
	bool same_endpoint;
};

struct l7mp_proto {
	struct l7mp_protodesc desc;

	/* Optional: creates the state of the protocol in this process, at first use. */
	int (*start)(struct l7mp_env *env, void **state, struct l7mp_error *err);
	/*
	 * Optional: frees the state after all streams and listeners were closed. May finish
	 * later; it keeps the loop running until then.
	 */
	void (*stop)(struct l7mp_env *env, void *state);
	/*
	 * Optional, on SIGHUP: reads files named in specs (certificates) again, for new
	 * connections. If a file can't be read, this is logged and its previous content is used.
	 */
	void (*reload)(struct l7mp_env *env, void *state);
	/* Optional, on SIGHUP and SIGUSR1: reopens the files that it writes to. */
	void (*reopen)(struct l7mp_env *env, void *state);

	/*
	 * Binds a listener. Everything that can fail fails here; nothing is accepted before
	 * `activate`. 0, or negative errno with err.
	 */
	int (*listen)(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
	              struct l7mp_error *err);
	void (*activate)(struct l7mp_proto_listener *l); /* cannot fail */
	/*
	 * Optional, of an active listener: creates the source stream of a session that a previous
	 * process had with this peer. `name` is the session's, borrowed. Sets in *a the stream,
	 * peer, never_idle, and the metadata as it was when the session was accepted (NULL: not
	 * known); if the source can be created again also `reopen`, `reopen_arg` and `ended`, which
	 * is called even if no session is made of it. Does not call `admit`. Returns 0, or a
	 * negative errno with err: then nothing was created, and the caller still owns end->fd.
	 * -EPERM: the listener doesn't accept this peer or address; -EEXIST: there is such a
	 * session already.
	 */
	int (*restore)(struct l7mp_proto_listener *l, const char *name,
	               struct l7mp_restore_end *end, struct l7mp_accept *a, struct l7mp_error *err);
	/*
	 * Optional, of listeners for connections: accepts the pending ones and closes the listening
	 * socket, so that further ones are refused. Accepted connections continue, with further
	 * requests on them. Idempotent.
	 */
	void (*pause)(struct l7mp_proto_listener *l);
	/*
	 * With pause: binds the same address again and accepts connections. Returns 0, or a
	 * negative errno with err: it is still paused.
	 */
	int (*resume)(struct l7mp_proto_listener *l, struct l7mp_error *err);
	/* Optional: hands over the listener's socket to another process; see enum l7mp_hand. */
	int (*hand)(struct l7mp_proto_listener *l, enum l7mp_hand step);
	/* Frees the listener. No callback follows. Streams that it has accepted continue. */
	void (*unlisten)(struct l7mp_proto_listener *l);
	/*
	 * Listeners begin with a struct l7mp_stream_listener (net/stream_listener.h): one may take
	 * over the socket of another, also of another such protocol.
	 */
	bool stream_listener;
	/* Optional: writes the bound address into a copy of the spec (the port, for port 0). */
	void (*bound)(const struct l7mp_proto_listener *l, cJSON *spec);

	/*
	 * Starts to connect. 0 and a stream for which `open` or `closed` follows, or negative
	 * errno with err. The session implements the connect time-out.
	 */
	int (*connect)(const struct l7mp_connect *params, struct l7mp_stream **out,
	               struct l7mp_error *err);

	/* Optional: appends the protocol's own metrics (metrics.h). state NULL: not started. */
	void (*metrics)(struct l7mp_env *env, void *state, struct l7mp_str *out);
};
