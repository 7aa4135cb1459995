/* SPDX-License-Identifier: MIT */
/*
 * A protocol or transformer: one constant table of operations. It never knows a
 * session: a listener hands accepted streams to callbacks, a cluster makes
 * streams. daemon/ lists the tables; nothing below knows which exist.
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

struct l7mp_proto;
struct l7mp_sessions;
struct l7mp_str;

/* What a protocol may use; lives as long as the program. */
struct l7mp_env {
	struct l7mp_loop *loop;
	struct l7mp_stats *stats;
	const struct l7mp_limits *limits;
	const struct l7mp_proto *const *protos; /* ends with NULL */
	void **states;                          /* one per entry of protos; see l7mp_proto_state */
	struct l7mp_model *model;               /* for api/ clusters only */
	void *app;                              /* for api/ clusters only */
};
const struct l7mp_proto *l7mp_proto_find(const struct l7mp_env *env, const char *name);
/* The protocol's state, made by its `start` at first use. NULL and err on failure. */
void *l7mp_proto_state(struct l7mp_env *env, const struct l7mp_proto *proto,
                       struct l7mp_error *err);

/* ---- listening ---- */

struct l7mp_accept {
	struct l7mp_stream *stream; /* open, paused; taken */
	char *name;                 /* session name, heap; taken */
	cJSON *metadata;            /* taken */
	struct l7mp_addr peer;      /* for the limit per source; len 0: none */
	/*
	 * Optional: makes the source again after it failed (a UDP singleton). 0 and an
	 * open, paused stream, or negative errno.
	 */
	int (*reopen)(void *reopen_arg, struct l7mp_stream **out);
	void *reopen_arg;
	/* Optional, with reopen: the session is over, reopen will not be called any more. Not called when no session came of it. */
	void (*ended)(void *reopen_arg);
	bool never_idle; /* the protocol's default idle time-out is not for this one: a UDP singleton */
};

struct l7mp_listen_events {
	/* Before anything is allocated for a new session: 0, or -EBUSY when a limit refuses (counted there; the datagram's drop reason is LIMIT). */
	int (*admit)(void *arg, const struct l7mp_addr *peer);
	/* After a successful admit. Takes all of *a. Attaches to the stream before it returns, or closes it. */
	void (*accept)(void *arg, struct l7mp_accept *a);
	/* For counting: descriptors ran out, the listener backs off by itself. */
	void (*exhausted)(void *arg, int err);
};

/* A protocol's listener; protocols embed it as first member. */
struct l7mp_proto_listener {
	const struct l7mp_proto *proto;
	const struct l7mp_listen_events *events;
	void *arg;
};

struct l7mp_listen {
	struct l7mp_env *env;
	const char *name;  /* the listener's */
	const cJSON *spec; /* validated; borrowed for the call */
	const struct l7mp_listen_events *events;
	void *arg;
	/*
	 * Listeners of the same protocol that this change replaces or deletes: when one
	 * has the same address, its socket is shared (dup(2)), so that a listener can be
	 * replaced without a moment in which its port is closed.
	 */
	struct l7mp_proto_listener *const *retiring;
	size_t n_retiring;
};

/* ---- connecting ---- */

struct l7mp_connect {
	struct l7mp_env *env;
	const char *cluster;        /* name; borrowed for the call */
	const cJSON *cluster_spec;  /* validated; borrowed for the call */
	const cJSON *endpoint_spec; /* NULL for virtual clusters; for the call */
	const char *address;        /* the endpoint's; for the call */
	const cJSON *metadata;      /* the session's; stays valid until `closed` */
	const char *session;        /* the session's name; stays valid until `closed` */
	enum l7mp_kind
	        in_kind; /* kind of what will be written: L7MP_PROTO_KEEPS_KIND takes it on */
	enum l7mp_kind out_kind; /* kind of what comes behind, as far as it is known by now */
};

struct l7mp_proto {
	struct l7mp_protodesc desc;

	/* Optional: state of the protocol in this process, made at first use. */
	int (*start)(struct l7mp_env *env, void **state, struct l7mp_error *err);
	/* Optional: gives it back after all streams and listeners are closed; may finish later, keeping the loop alive until then. */
	void (*stop)(struct l7mp_env *env, void *state);
	/*
	 * Optional, SIGHUP: reads files that specs name (certificates) again, for what is accepted
	 * and connected from now on. What can't be read is logged, and what was read before stays.
	 */
	void (*reload)(struct l7mp_env *env, void *state);

	/* Binds, so that all that can fail has failed; accepts nothing before `activate`. */
	int (*listen)(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
	              struct l7mp_error *err);
	void (*activate)(struct l7mp_proto_listener *l); /* cannot fail */
	/* Calls nothing any more; frees itself. Streams that it accepted go on. */
	void (*unlisten)(struct l7mp_proto_listener *l);
	/* Optional: writes what was really bound into a copy of the spec (port 0 -> the port). */
	void (*bound)(const struct l7mp_proto_listener *l, cJSON *spec);

	/*
	 * Starts connecting. 0 and a stream (not open yet; `open` or `closed` follows), or
	 * negative errno with err when it can't even start. The session owns the time-out.
	 */
	int (*connect)(const struct l7mp_connect *params, struct l7mp_stream **out,
	               struct l7mp_error *err);

	/* Optional: appends metrics of the protocol's own (metrics.h). `state` NULL: not used so far. */
	void (*metrics)(struct l7mp_env *env, void *state, struct l7mp_str *out);
};
