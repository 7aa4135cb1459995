/* SPDX-License-Identifier: MIT */
/*
 * Sessions: a source stream, the stages of its route, the pipes between them.
 *
 *   ingress   source -> ingress[0] -> ... -> destination
 *   egress    destination -> egress[0] -> ... -> source
 *
 * A session never asks what protocol it holds. Thread: loop only.
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
const char *l7mp_session_state_name(enum l7mp_session_state state);

enum l7mp_stage_state {
	L7MP_STAGE_INIT,
	L7MP_STAGE_CONNECTED, /* connected, others are not yet */
	L7MP_STAGE_READY,     /* data flows */
	L7MP_STAGE_DISCONNECTED,
	L7MP_STAGE_RETRYING,
	L7MP_STAGE_END,
};
const char *l7mp_stage_state_name(enum l7mp_stage_state state);

struct l7mp_session;
struct l7mp_sessions;

struct l7mp_sessions_params {
	struct l7mp_env *env;
	const struct l7mp_offload *offload; /* NULL: none (reason "disabled") */
	/* Optional: a session ended; for the access log. The tree is borrowed. */
	void (*ended)(void *arg, const struct l7mp_session *s);
	void *arg;
};

int l7mp_sessions_new(const struct l7mp_sessions_params *params, struct l7mp_sessions **out);
/* All sessions must have ended (l7mp_sessions_shutdown). */
void l7mp_sessions_free(struct l7mp_sessions **m);
/*
 * Refuses new sessions (503), ends all gracefully, aborts what is left after grace_ms, then calls
 * done.
 */
void l7mp_sessions_shutdown(struct l7mp_sessions *m, uint64_t grace_ms, void (*done)(void *arg),
                            void *arg);

/* Per-listener state (set-up rate, counters), made and freed by the runtime. */
struct l7mp_source;
int l7mp_source_new(struct l7mp_sessions *m, struct l7mp_listener *listener,
                    struct l7mp_source **out);
void l7mp_source_set_listener(
        struct l7mp_source *src,
        struct l7mp_listener *listener);         /* PUT: new sessions follow the new one */
void l7mp_source_free(struct l7mp_source **src); /* its sessions go on */
/* The callbacks to listen with; their arg is a struct l7mp_source *. */
extern const struct l7mp_listen_events l7mp_source_events;

/* ---- looking ---- */
size_t l7mp_sessions_count(const struct l7mp_sessions *m, enum l7mp_session_state state);
struct l7mp_session *l7mp_sessions_find(const struct l7mp_sessions *m, const char *name);
/* In order of creation; tracked ones included. */
struct l7mp_session *l7mp_sessions_first(const struct l7mp_sessions *m);
struct l7mp_session *l7mp_sessions_next(const struct l7mp_session *s);
/* Counts up with each session that is made, from 1: a later session has a larger one. */
uint64_t l7mp_session_id(const struct l7mp_session *s);

/*
 * A walk over the sessions that goes on from slice to slice: sessions may end and be freed,
 * and new ones begin, between two calls of l7mp_cursor_next. Each session comes at most once,
 * in order of creation; those that are there at the beginning and still at the end all come;
 * those that begin after l7mp_cursor_open do not.
 */
struct l7mp_session_cursor {
	struct l7mp_sessions *m;
	struct l7mp_session *at;                 /* what comes next; NULL: the end */
	uint64_t last;                           /* the largest id that comes */
	struct l7mp_session_cursor *prev, *next; /* of those that stand at the same session */
};
void l7mp_cursor_open(struct l7mp_session_cursor *c, struct l7mp_sessions *m);
/* The session is borrowed until the caller returns to the loop. NULL: no more. */
struct l7mp_session *l7mp_cursor_next(struct l7mp_session_cursor *c);
/* *c begins where `from` stands. */
void l7mp_cursor_copy(struct l7mp_session_cursor *c, const struct l7mp_session_cursor *from);
/* Nothing with an id above `last` comes. */
void l7mp_cursor_limit(struct l7mp_session_cursor *c, uint64_t last);
void l7mp_cursor_close(struct l7mp_session_cursor *c); /* idempotent; fine when zeroed */
const char *l7mp_session_name(const struct l7mp_session *s);
const cJSON *l7mp_session_metadata(const struct l7mp_session *s);
cJSON *l7mp_session_to_json(const struct l7mp_session *s);
/* Its packets' way through the kernel; NULL: they take none. Borrowed, until the loop turns. */
struct l7mp_flow *l7mp_session_flow(const struct l7mp_session *s);
/* One record of the access log. */
cJSON *l7mp_session_access_record(const struct l7mp_session *s);

struct l7mp_session_client {
	enum l7mp_origin origin;
	/* Both ends of a TCP connection, as accept(2) had them; len 0: it is not one. */
	struct l7mp_addr peer, local;
};
/*
 * Who connected, as it was when the connection was accepted: rules that rewrite metadata don't
 * change it. `local` has len 0 when the source has none (any more), too.
 */
void l7mp_session_client(const struct l7mp_session *s, struct l7mp_session_client *out);

/*
 * Somebody who wants to know of every connection that clusters make, and can therefore tell them
 * among those that listeners accept. The watcher's own
 * structures begin with a struct l7mp_watched.
 */
struct l7mp_watched {
	struct l7mp_session *session;
	struct l7mp_stream *stream;
};
struct l7mp_watch_ops {
	/* `stream` was made for the session; it may not be connected yet. NULL: not interested. */
	struct l7mp_watched *(*begin)(void *arg, struct l7mp_session *s,
	                              struct l7mp_stream *stream);
	/* It is connected: both its addresses are final. */
	void (*open)(void *arg, struct l7mp_watched *watched);
	/*
	 * Its `closed` came: the socket is gone and the stream about to be. Frees what begin gave.
	 */
	void (*end)(void *arg, struct l7mp_watched *watched);
	/* As `origin` of struct l7mp_listen_events, which is passed on to here. */
	enum l7mp_origin (*origin)(void *arg, int fd, const struct l7mp_addr *remote,
	                           const struct l7mp_addr *local);
};
/* One watcher, set before the first session; both arguments are borrowed. */
void l7mp_sessions_watch(struct l7mp_sessions *m, const struct l7mp_watch_ops *ops, void *arg);

/* The counter of one object; false when it has none yet. *protocol is static. */
bool l7mp_sessions_counter(const struct l7mp_sessions *m, enum l7mp_obj_kind kind, const char *name,
                           const char **protocol, uint64_t *count);

/*
 * Tells transformers that count (Metric) what the fast path has carried past them so far. For
 * each session before their counters are read.
 */
void l7mp_session_sync(struct l7mp_session *s);

/* ---- acting ---- */
/*
 * Ends it; `reason` goes to its events and the access log. A request whose answer is
 * under way (HTTP) gets up to 5 s to finish.
 */
void l7mp_session_end(struct l7mp_session *s, const char *reason);

/*
 * Ends all sessions that use one of some deleted objects (listener, rule list, rule, route,
 * cluster); for an endpoint its stages are disconnected, and retry elsewhere. One walk over the
 * sessions serves all objects and is done step by step, so that the caller can do it in slices.
 */
struct l7mp_session_ender;
/* 0 or -ENOMEM. Sessions that begin after this call are left alone. */
int l7mp_ender_new(struct l7mp_sessions *m, struct l7mp_session_ender **out);
/* The object is borrowed until l7mp_ender_free. 0 or -ENOMEM. */
int l7mp_ender_add(struct l7mp_session_ender *e, const struct l7mp_object *object);
/* The session of this name comes last: it carries the request and waits for the answer. */
void l7mp_ender_spare(struct l7mp_session_ender *e, const char *name);
/* Looks at one session. false: that was the last one, but for the spared. */
bool l7mp_ender_step(struct l7mp_session_ender *e);
/* Ends the spared session, when it uses any of the objects. The walk is over then. */
void l7mp_ender_finish(struct l7mp_session_ender *e);
/* After l7mp_ender_finish; in any thread, as there may be many objects. */
void l7mp_ender_free(struct l7mp_session_ender **e);
