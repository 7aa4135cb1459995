/* SPDX-License-Identifier: MIT */
/*
 * Sessions. A session consists of a source stream, the stages of its route, and the pipes between
 * them:
 *
 *   ingress   source -> ingress[0] -> ... -> destination
 *   egress    destination -> egress[0] -> ... -> source
 *
 * Sessions do not know protocols, only streams (stream.h). Thread: loop only.
 */
#pragma once

#include "l7mp/flow.h"
#include "l7mp/model.h"
#include "l7mp/proto.h"

enum l7mp_session_state {
	L7MP_SESSION_INIT,
	L7MP_SESSION_CONNECTED,
	L7MP_SESSION_DISCONNECTED, /* a stage is being reconnected */
	L7MP_SESSION_FINALIZING,
	L7MP_SESSION_DESTROYED, /* ended; still listed while tracked */
	L7MP_SESSION_STATES,
};
/* Returns the state's name as the API shows it. Static. */
const char *l7mp_session_state_name(enum l7mp_session_state state);

enum l7mp_stage_state {
	L7MP_STAGE_INIT,
	L7MP_STAGE_CONNECTED, /* connected, while other stages are not yet */
	L7MP_STAGE_READY,     /* data flows */
	L7MP_STAGE_DISCONNECTED,
	L7MP_STAGE_RETRYING,
	L7MP_STAGE_END,
};
/* Returns the state's name as the API shows it. Static. */
const char *l7mp_stage_state_name(enum l7mp_stage_state state);

struct l7mp_session;
struct l7mp_sessions;

struct l7mp_sessions_params {
	struct l7mp_env *env;
	const struct l7mp_offload *offload; /* NULL: none (reason "disabled") */
	/* Optional: a session has ended; for the access log. The session is borrowed. */
	void (*ended)(void *arg, const struct l7mp_session *s);
	void *arg;
};

/* Makes the set of all sessions. The struct is copied; `env` is borrowed. Returns 0 or -ENOMEM. */
int l7mp_sessions_new(const struct l7mp_sessions_params *params, struct l7mp_sessions **out);
/* Frees the set. All sessions must have ended (l7mp_sessions_shutdown). Nulls the pointer. */
void l7mp_sessions_free(struct l7mp_sessions **m);
/*
 * Refuses new sessions (status 503), ends all others gracefully, aborts those that are left after
 * grace_ms, and then calls `done`.
 */
void l7mp_sessions_shutdown(struct l7mp_sessions *m, uint64_t grace_ms, void (*done)(void *arg),
                            void *arg);

/*
 * The state of a listener that sessions need: the rate of new sessions, counters. The runtime makes
 * and frees it. l7mp_source_new takes a reference to `listener`, and returns 0 or -ENOMEM.
 */
struct l7mp_source;
int l7mp_source_new(struct l7mp_sessions *m, struct l7mp_listener *listener,
                    struct l7mp_source **out);
/* Replaces the listener: later sessions use the new version. */
void l7mp_source_set_listener(struct l7mp_source *src, struct l7mp_listener *listener);
/* Frees the state; sessions of the listener continue. Nulls the pointer. */
void l7mp_source_free(struct l7mp_source **src);
/* The callbacks for l7mp_proto.listen; their arg is a struct l7mp_source *. */
extern const struct l7mp_listen_events l7mp_source_events;

/* ---- reading ---- */

/* Returns the number of sessions in a state. */
size_t l7mp_sessions_count(const struct l7mp_sessions *m, enum l7mp_session_state state);
/* Finds a session by name; borrowed, NULL when there is none. */
struct l7mp_session *l7mp_sessions_find(const struct l7mp_sessions *m, const char *name);
/* Iterate in order of creation, including ended sessions that are still listed (options.track). */
struct l7mp_session *l7mp_sessions_first(const struct l7mp_sessions *m);
struct l7mp_session *l7mp_sessions_next(const struct l7mp_session *s);
/* Returns the session's number: they are numbered from 1 in order of creation. */
uint64_t l7mp_session_id(const struct l7mp_session *s);

/*
 * An iteration over the sessions that may be continued in later slices: between two calls of
 * l7mp_cursor_next sessions may end and be freed, and new ones begin. It returns, in order of
 * creation and each once, all sessions that exist from l7mp_cursor_open until the end, and none
 * that begins after l7mp_cursor_open.
 */
struct l7mp_session_cursor {
	struct l7mp_sessions *m;
	struct l7mp_session *at;                 /* the next session; NULL: the end */
	uint64_t last;                           /* the largest id to return */
	struct l7mp_session_cursor *prev, *next; /* cursors with the same `at` */
};
void l7mp_cursor_open(struct l7mp_session_cursor *c, struct l7mp_sessions *m);
/* Returns the next session, borrowed until the caller returns to the loop; NULL at the end. */
struct l7mp_session *l7mp_cursor_next(struct l7mp_session_cursor *c);
/* Opens *c at the position of `from`. */
void l7mp_cursor_copy(struct l7mp_session_cursor *c, const struct l7mp_session_cursor *from);
/* Makes the cursor end before the first session whose id is larger than `last`. */
void l7mp_cursor_limit(struct l7mp_session_cursor *c, uint64_t last);
/* Closes a cursor. Idempotent; a zeroed cursor is a closed one. */
void l7mp_cursor_close(struct l7mp_session_cursor *c);
/* Borrowed. */
const char *l7mp_session_name(const struct l7mp_session *s);
const cJSON *l7mp_session_metadata(const struct l7mp_session *s);
/* Returns what GET /sessions shows of a session. A new tree; NULL when out of memory. */
cJSON *l7mp_session_to_json(const struct l7mp_session *s);
/*
 * Returns true if each of the words (NULL-terminated) is contained, ignoring case, in the session's
 * name, its client's address, its state, the name of its listener or of a cluster or endpoint in
 * its path, its offload state, or the reason why it isn't offloaded.
 */
bool l7mp_session_has_words(const struct l7mp_session *s, const char *const *words);
/* Returns its kernel flow, borrowed until the end of this loop iteration; NULL: none. */
struct l7mp_flow *l7mp_session_flow(const struct l7mp_session *s);
/* Returns its record for the access log. A new tree; NULL when out of memory. */
cJSON *l7mp_session_access_record(const struct l7mp_session *s);

struct l7mp_session_client {
	enum l7mp_origin origin;
	/* Both addresses of the accepted TCP connection; len 0: not a TCP connection. */
	struct l7mp_addr peer, local;
};
/*
 * The client, as determined when the connection was accepted: rules that rewrite metadata don't
 * change it. `local` also has len 0 if the source has no local address (any more).
 */
void l7mp_session_client(const struct l7mp_session *s, struct l7mp_session_client *out);

/*
 * An observer of all connections that clusters make, which can therefore recognise them among the
 * connections that listeners accept. The observer's own structures begin with a struct
 * l7mp_watched.
 */
struct l7mp_watched {
	struct l7mp_session *session;
	struct l7mp_stream *stream;
};
struct l7mp_watch_ops {
	/*
	 * A stream was created for the session; it may not be connected yet. Returns a new record,
	 * or NULL to ignore this stream.
	 */
	struct l7mp_watched *(*begin)(void *arg, struct l7mp_session *s,
	                              struct l7mp_stream *stream);
	/* The stream is connected: both of its addresses are final. */
	void (*open)(void *arg, struct l7mp_watched *watched);
	/* The stream emitted `closed` and is about to be freed. Frees the record. */
	void (*end)(void *arg, struct l7mp_watched *watched);
	/* Implements `origin` of struct l7mp_listen_events. */
	enum l7mp_origin (*origin)(void *arg, int fd, const struct l7mp_addr *remote,
	                           const struct l7mp_addr *local);
};
/* Sets the only observer, before the first session. `ops` and `arg` are borrowed. */
void l7mp_sessions_watch(struct l7mp_sessions *m, const struct l7mp_watch_ops *ops, void *arg);

/* Reads the counter of one object; false: it has none yet. *protocol is static. */
bool l7mp_sessions_counter(const struct l7mp_sessions *m, enum l7mp_obj_kind kind, const char *name,
                           const char **protocol, uint64_t *count);

/*
 * Adds the traffic of the fast path so far to the counters of the session's transformers (Metric).
 * Must be called for each session before these counters are read.
 */
void l7mp_session_sync(struct l7mp_session *s);

/* ---- sessions restored from a previous process ---- */

struct l7mp_runtime;

/*
 * The state of a session that is needed, with its sockets, to continue it in another process.
 * Strings, trees and the flow are borrowed for the call.
 */
struct l7mp_session_record {
	const char *name;
	/* Used by the session. The rules are evaluated again, so the route is informative only. */
	const char *listener, *route, *cluster, *endpoint; /* endpoint may be NULL */
	const cJSON *metadata;                             /* NULL: not known */
	uint64_t started_ms;                               /* wall clock, ms since the epoch */
	/* By enum l7mp_direction; `fast` without the present counters of `flow`. */
	struct l7mp_session_count slow[2], fast[2];
	uint64_t drops;
	enum l7mp_origin origin; /* of the source's connection */
	struct l7mp_restore_end
	        end[2]; /* source, destination; [1].remote.len 0: it has no address */
	/* Its flow in the offload engine; NULL: none. Taken when the session is created. */
	struct l7mp_flow *flow;
	enum l7mp_flow_kind flow_kind; /* of its destination: SOCKET, REFLECT or DROP */
	bool tcp; /* a TCP flow, which is lent the descriptors of `end` at once */
};

/*
 * Restores a session of a previous process with its name, start time, metadata and counters, on its
 * sockets (`end`), whose descriptors it takes. The current configuration must allow it: its
 * listener exists and accepts the peer, the rules select a route, and that route's cluster has an
 * endpoint with the address that the session is connected to. Limits of numbers and memory apply,
 * rate limits and draining don't.
 *
 * Returns 0 and *out (may be NULL), borrowed; its stages open in the next loop iteration. Or a
 * negative errno, with err: -ENOENT no such listener; -EPERM the configuration does not allow it;
 * -EBUSY a limit; -EEXIST the name or its address is used by another session; -ENOTSUP the protocol
 * does not support it; -EADDRINUSE and others: its socket can't be restored. The caller then still
 * owns the descriptors that were not taken, and the flow. The loop may run already, or not yet.
 */
int l7mp_session_restore(struct l7mp_runtime *rt, struct l7mp_session_record *r,
                         struct l7mp_session **out, struct l7mp_error *err);
/*
 * Describes a session for l7mp_session_restore, except for `end` and `flow`: everything is borrowed
 * until the session changes.
 */
void l7mp_session_describe(const struct l7mp_session *s, struct l7mp_session_record *out);

/* ---- ending ---- */

/*
 * Ends a session; `reason` is shown in its events and in the access log. An HTTP request that is
 * being answered gets up to 5 s to finish.
 */
void l7mp_session_end(struct l7mp_session *s, const char *reason);

/*
 * Ends all sessions that use any of a set of deleted objects (listener, rule list, rule, route,
 * cluster); stages connected to a deleted endpoint are disconnected, and retry with another one.
 * One iteration over the sessions serves all objects, in steps, so that the caller can slice it.
 */
struct l7mp_session_ender;
/* Starts an iteration over the present sessions. Returns 0 or -ENOMEM. */
int l7mp_ender_new(struct l7mp_sessions *m, struct l7mp_session_ender **out);
/* Adds an object to the set, borrowed until l7mp_ender_free. Returns 0 or -ENOMEM. */
int l7mp_ender_add(struct l7mp_session_ender *e, const struct l7mp_object *object);
/* Leaves this session, which carries the request, to l7mp_ender_finish, after the answer. */
void l7mp_ender_spare(struct l7mp_session_ender *e, const char *name);
/* Processes one session. Returns false when that was the last one, except for the spared one. */
bool l7mp_ender_step(struct l7mp_session_ender *e);
/* Ends the spared session if it uses any of the objects, and the iteration. */
void l7mp_ender_finish(struct l7mp_session_ender *e);
/* Frees the ender, after l7mp_ender_finish. Any thread: freeing many objects takes long. */
void l7mp_ender_free(struct l7mp_session_ender **e);
