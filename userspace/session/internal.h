/* SPDX-License-Identifier: MIT */
/*
 * What the files of session/ share.
 *
 * A session is one block of memory: the session, its stages, its pipes. The
 * stages form a ring in the order in which data passes them,
 *
 *   [0] source, [1..] ingress chain, [dest] destination, [dest+1..] egress chain
 *
 * and pipe i leads from stage i to stage i+1 (the last one back to the source).
 *
 * Nothing frees a session on the stack of a callback: ending one marks it,
 * a task closes its streams, and the task that runs after the last `closed` frees it.
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/session.h"
#include "l7mp/slice.h"

#define SESSION_MODULE "session"

struct session_event {
	uint64_t time;      /* wall clock, ms */
	const char *name;   /* static, or the first part of text */
	char *text;         /* owned; NULL: none */
	const char *detail; /* in text, or static; NULL: none */
	int16_t stage;      /* -1: of the session */
	uint16_t attempt;   /* number of a retry; else 0 */
};
#define SESSION_EVENTS_MAX 32

/*
 * A pipe from one stage to the next. The queue holds, in order, what the next stage can't take yet.
 */
struct session_pipe {
	struct l7mp_buf *head;
	struct l7mp_buf *tail;
	uint32_t bytes;   /* memory charged for the queue */
	uint16_t code;    /* close code passed with the end */
	bool blocked : 1; /* the next stage returned L7MP_STREAM_FULL */
	bool busy : 1;    /* a write is on the stack */
	bool end : 1;     /* the stage before finished writing */
	bool shut : 1;    /* ... and the next one was shut down */
};

struct session_stage {
	struct l7mp_session *s;
	struct l7mp_stream *stream;     /* NULL: none, or detached (an orphan) */
	const char *cluster;            /* name, borrowed from the route; NULL: the source */
	struct l7mp_cluster *object;    /* as of the last attempt; reference held */
	struct l7mp_endpoint *endpoint; /* of the last attempt; reference held */
	struct l7mp_endpoint *avoid;    /* the endpoint that failed; reference held */
	struct l7mp_timer timer;        /* time-out of the attempt, or delay until the next one */
	uint64_t attempt_ms;            /* loop time when the last attempt began */
	uint32_t retries;
	struct l7mp_watched *watched; /* record of the observer for the stream; NULL: none */
	uint16_t index;
	uint8_t state; /* enum l7mp_stage_state */
	bool paused : 1;
	bool was_up : 1; /* was connected since the set-up: losing it is a disconnect */
};

enum session_off {
	SESSION_OFF_SLOW,    /* not requested yet: the next packet does it */
	SESSION_OFF_QUEUED,  /* to be requested after this batch */
	SESSION_OFF_BEGINS,  /* has a flow that has not begun: sockets still receive packets */
	SESSION_OFF_FAST,    /* in the kernel */
	SESSION_OFF_REFUSED, /* refused; off_reason says why */
};

struct session_count {
	uint64_t packets;
	uint64_t bytes;
};

/* The client, packed; see l7mp_session_client. */
struct session_client {
	uint8_t origin; /* enum l7mp_origin */
	uint8_t family; /* of a TCP client: AF_INET, AF_INET6; else 0 */
	uint16_t port;
	uint32_t scope;
	uint8_t ip[16];
};

/* What is known of the source of a session; see room.c. */
enum session_proof { SESSION_PROVEN, SESSION_UNANSWERED, SESSION_ANSWERED };
/* What counts sessions: all together, those of a listener, those of a source address. */
enum session_scope {
	SESSION_SCOPE_ALL,
	SESSION_SCOPE_LISTENER,
	SESSION_SCOPE_PEER,
	SESSION_SCOPES,
};
struct session_link {
	struct l7mp_session *prev, *next;
};
struct session_room {
	size_t live;                      /* sessions that are not over */
	size_t operators;                 /* of them, those for the operator's clusters */
	size_t leaving;                   /* of them, those that end to make room */
	struct l7mp_session *unproven[2]; /* oldest first: never answered; answered */
};

struct l7mp_session {
	UT_hash_handle hh; /* by name; the order of creation */
	struct l7mp_sessions *m;
	struct l7mp_session *prev, *next; /* in verdicts while QUEUED, in tracked when DESTROYED */
	uint64_t id;
	struct l7mp_session_cursor *cursors; /* cursors whose next session is this one */
	char *name;
	cJSON *metadata;
	char *reason; /* reason of the end */
	struct l7mp_listener *listener;
	struct l7mp_lookup lookup;
	struct session_peer *peer;                 /* counter of its source address; NULL: none */
	struct l7mp_source *source;                /* reference held; NULL when it is over */
	struct session_link links[SESSION_SCOPES]; /* while it is not proven */
	uint64_t proof_packets; /* that the kernel had taken from the source when it was answered */
	int (*reopen)(void *arg, struct l7mp_stream **out);
	void *reopen_arg;
	void (*reopen_ended)(void *arg);
	struct l7mp_timer timer; /* idle, drain, track */
	struct l7mp_task task;   /* closes the streams; frees the session */

	uint64_t start_wall, end_wall, start_ms, active_ms;
	/* fast: of flows that have been removed */
	struct session_count slow[2], fast[2], fast_read[2];
	uint64_t fast_seen[2];
	uint64_t drops;

	struct l7mp_flow *flow;
	struct session_event *events;
	int64_t idle_ms;         /* 0: never */
	uint64_t off_refused_ms; /* when */
	uint64_t off_begun_ms;   /* loop time when the flow began */
	uint64_t off_until_ms;   /* not asked before, when refused for what was seen; see held() */
	uint64_t off_passed_ms;  /* when its last packet passed in user space, while held */
	/* Packets that came up beside the flow, since `seen` was what the flow had counted. */
	struct session_beside {
		uint64_t seen, since_ms;
		uint8_t n;
	} beside[2];

	uint16_t n, dest; /* stages in all; index of the destination */
	uint16_t orphans; /* detached streams whose `closed` is awaited */
	uint8_t n_events, first_event, cap_events;
	uint8_t state;      /* enum l7mp_session_state */
	uint8_t off_state;  /* enum session_off */
	uint8_t off_reason; /* enum l7mp_reason */
	uint8_t off_holds;  /* how often it left the kernel for what was seen: each holds longer */
	struct session_client client;
	bool off_never : 1;
	bool ending : 1;
	bool abort : 1;
	bool closing : 1;     /* the task has closed the streams */
	bool answered : 1;    /* `result` was called */
	bool source_gone : 1; /* closed in an orderly way; what it sent is still delivered */
	bool linger : 1;      /* half-closed towards a stage that can't signal its end */
	bool draining : 1;    /* ends when its answer was sent */
	bool warned_kind : 1;
	bool leaving : 1;   /* ends to make room; counted as such */
	bool operators : 1; /* serves the operator; counted as such */
	uint8_t proof;      /* enum session_proof */
	uint32_t cost;      /* charged to the pool of buffers until it is freed */

	struct session_pipe *pipes;
	struct session_stage stages[];
};

/* ---- sessions.c ---- */

struct session_peer {
	UT_hash_handle hh;
	struct session_room room;
	/*
	 * Family, whether the address may be forged, then IPv4's 4 bytes or the first 8 of IPv6.
	 * Forged datagrams must not use up what the host has for its connections.
	 */
	uint8_t key[10];
};

struct session_counter {
	UT_hash_handle hh;
	uint64_t count;
	const char *protocol; /* static: of the protocol's table */
	char key[];           /* kind + '0', then the object's name */
};

struct l7mp_sessions {
	struct l7mp_env *env;
	const struct l7mp_offload *offload;
	void (*ended)(void *arg, const struct l7mp_session *s);
	void *ended_arg;
	struct l7mp_session *by_name;
	uint64_t last_id;
	struct l7mp_session *tracked; /* ended but still listed; oldest first */
	struct l7mp_session *verdicts;
	struct l7mp_timer verdict_timer;
	size_t drained;     /* datagrams read from sockets for verdicts in this turn */
	unsigned beginning; /* sessions in SESSION_OFF_BEGINS */
	struct session_peer *peers;
	struct session_counter *counters;
	const struct l7mp_watch_ops *watch; /* NULL: none */
	void *watch_arg;
	size_t counts[L7MP_SESSION_STATES];
	struct session_room room;
	int probe_fd;       /* is duplicated to learn the lowest free descriptor; -1: can't */
	uint64_t effort;    /* budget for matching rules, of all sessions together; see accept.c */
	uint64_t effort_ms; /* when it was refilled */
	struct l7mp_timer grace;
	struct l7mp_session_cursor retry_walk; /* sessions that request the fast path again */
	struct l7mp_slice retry_slice;
	struct l7mp_session_cursor end_walk; /* of shutdown: the next session to end */
	struct l7mp_slice end_slice;
	bool end_abort;   /* the grace time has passed */
	bool end_walking; /* end_walk is not at its end: tracked sessions may be left */
	struct l7mp_task done_task;
	void (*done)(void *arg);
	void *done_arg;
	bool shutting;
	struct l7mp_log_limit log_limit;
};

struct l7mp_source {
	struct l7mp_sessions *m;
	struct l7mp_listener *listener; /* reference held */
	uint64_t tokens;                /* thousandths of a session */
	uint64_t tokens_ms;
	struct session_room room;
	size_t refs;      /* sessions that hold this struct */
	bool gone;        /* the listener is: nobody can open a source again */
	bool forgeable;   /* sessions begin with a datagram, whose address may be forged */
	bool requests;    /* sessions may be requests to the operator's clusters */
	unsigned evicted; /* sessions that ended for newcomers of ours, in this millisecond */
	uint64_t evicted_ms;
};
/* Gives up a session's reference. */
void l7mp_source_put(struct l7mp_source **source);
static inline bool session_can_reopen(const struct l7mp_session *s)
{
	return s->reopen && s->source && !s->source->gone;
}

/* Borrowed; NULL: no session of this address, or no address that is counted. */
struct session_peer *l7mp_session_peer_find(struct l7mp_sessions *m, const struct l7mp_addr *addr,
                                            bool forgeable);
int l7mp_session_peer_get(struct l7mp_sessions *m, const struct l7mp_addr *addr, bool forgeable,
                          struct session_peer **out);
void l7mp_session_peer_put(struct l7mp_sessions *m, struct session_peer **peer);
void l7mp_sessions_counted(struct l7mp_sessions *m, enum l7mp_obj_kind kind, const char *name,
                           const char *protocol);
/* Removes the counter of a deleted object. */
void l7mp_sessions_forget(struct l7mp_sessions *m, enum l7mp_obj_kind kind, const char *name);
/* Whether the rate limit of records that peers can cause allows one now. */
bool l7mp_sessions_may_log(struct l7mp_sessions *m);
void l7mp_session_free(struct l7mp_session *s);
void l7mp_sessions_track(struct l7mp_session *s);

/* ---- walk.c ---- */

/* The session is about to be freed: cursors at it move to the next one. */
void l7mp_cursors_leave(struct l7mp_session *s);

/* ---- room.c ---- */

/* The `admit` of struct l7mp_listen_events; arg: the source. May end another session. */
int l7mp_room_admit(void *arg, const struct l7mp_addr *addr);
/*
 * Once the route is known: what is not for the operator must not use the operator's share.
 * 0 or -EBUSY, counted.
 */
int l7mp_room_judge_again(struct l7mp_source *src, const struct l7mp_accept *a,
                          const struct l7mp_route *route);
/* s has its source and peer; from now on it counts, until l7mp_room_leave. */
void l7mp_room_enter(struct l7mp_session *s, const struct l7mp_accept *a);
void l7mp_room_leave(struct l7mp_session *s);
/* Something was sent to the source. */
void l7mp_room_answered(struct l7mp_session *s);
/* Something came from the source; cheap. */
void l7mp_room_heard(struct l7mp_session *s);
/* For struct l7mp_sessions; -1: none. */
int l7mp_room_probe_new(void);

/* ---- session.c ---- */

static inline struct l7mp_loop *session_loop(const struct l7mp_session *s)
{
	return s->m->env->loop;
}
static inline struct session_pipe *stage_in(const struct session_stage *st)
{
	return &st->s->pipes[(st->index + st->s->n - 1) % st->s->n];
}
static inline struct session_pipe *stage_out(const struct session_stage *st)
{
	return &st->s->pipes[st->index];
}
static inline struct session_stage *pipe_to(struct l7mp_session *s, unsigned i)
{
	return &s->stages[(i + 1) % s->n];
}

/* A stage was connected: checks whether all are. */
void l7mp_session_check_ready(struct l7mp_session *s);
/* A stage was lost: the session is not connected any more. */
void l7mp_session_not_ready(struct l7mp_session *s);
/* Ends the session. err NULL or code L7MP_OK: orderly. May be called from inside any callback. */
void l7mp_session_finish(struct l7mp_session *s, const struct l7mp_error *err, bool abort,
                         const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* A stream emitted `closed` while the session is ending. */
void l7mp_session_closed_one(struct l7mp_session *s);
void l7mp_session_arm_idle(struct l7mp_session *s);
void l7mp_session_task(struct l7mp_task *task, void *arg);
void l7mp_session_timer(struct l7mp_timer *timer, void *arg);
/* A direction ended: checks whether both have. */
void l7mp_session_check_end(struct l7mp_session *s);
#define SESSION_LINGER_MS 10000
#define SESSION_DRAIN_MS  5000

/* ---- stage.c ---- */

extern const struct l7mp_stream_events l7mp_stage_events;
void l7mp_stage_attach(struct session_stage *st, struct l7mp_stream *stream);
/* Detaches the stream and closes it; the session still waits for its `closed`. */
void l7mp_stage_detach(struct session_stage *st, bool abort);
/* Makes one attempt to connect; a failure is passed to l7mp_stage_lost. */
void l7mp_stage_connect(struct session_stage *st);
void l7mp_stage_release(struct session_stage *st);
const char *l7mp_stage_where(const struct session_stage *st, char *buf, size_t size);

/* ---- retry.c ---- */

/*
 * The stage was disconnected or could not be connected; err->code L7MP_OK: an orderly end. Retries,
 * or ends the session.
 */
void l7mp_stage_lost(struct session_stage *st, const struct l7mp_error *err);
void l7mp_stage_source_lost(struct session_stage *st, const struct l7mp_error *err);
/* The endpoint was deleted: connects to another one at once, if the route retries at all. */
void l7mp_stage_move(struct session_stage *st);
void l7mp_stage_timer(struct l7mp_timer *timer, void *arg);

/* ---- pipe.c ---- */

void l7mp_pipe_push(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf); /* takes buf */
void l7mp_pipe_flush(struct l7mp_session *s, unsigned i);
void l7mp_pipe_drained(struct l7mp_session *s, unsigned i);
void l7mp_pipe_end(struct l7mp_session *s, unsigned i, int code);
void l7mp_pipe_clear(struct l7mp_session *s, unsigned i);
/* Pauses or resumes the stages' streams, depending on pipes and states. */
void l7mp_pipe_flow_control(struct l7mp_session *s);
void l7mp_session_drop(struct l7mp_session *s, enum l7mp_drop reason, uint64_t packets,
                       uint64_t bytes);

/* ---- events.c ---- */

/* Adds an event. `name` is static; `text` may be NULL. */
void l7mp_session_event(struct l7mp_session *s, const char *name, int stage, unsigned attempt,
                        const char *text);
/* as l7mp_session_event, but `name` is copied */
void l7mp_session_notice(struct l7mp_session *s, int stage, const char *name, const char *text);
void l7mp_session_events_clear(struct l7mp_session *s);
cJSON *l7mp_session_events_json(const struct l7mp_session *s);

/* ---- view.c ---- */

/* "source", "ingress[0]", "destination", "egress[1]" */
const char *l7mp_stage_place(const struct session_stage *st, char *buf, size_t size);

/* ---- offload.c ---- */

extern const struct l7mp_offload_events l7mp_session_offload_events;
void l7mp_session_offload_init(struct l7mp_session *s);
/*
 * A packet passed in user space: asks once this batch is through, unless the answer is known. If a
 * flow carries the session already, this may take it out of the kernel.
 */
void l7mp_session_offload_passed(struct l7mp_session *s, enum l7mp_direction dir);
/* A packet filter refused what it sent: what the kernel forwarded would not meet that filter. */
void l7mp_session_offload_filtered(struct l7mp_session *s);
/* The route of one of its ends may have changed. */
void l7mp_session_offload_recheck(struct l7mp_session *s);
/*
 * Removes the flow from the kernel, before one of its streams is closed. `again`: the next packet
 * may request it again.
 */
void l7mp_session_offload_remove(struct l7mp_session *s, bool again);
/* Reads the flow's counters, and updates active_ms. */
void l7mp_session_offload_sync(struct l7mp_session *s, bool fresh);
/* Returns the counts of the fast path, including flows that were removed. */
void l7mp_session_fast(const struct l7mp_session *s, struct session_count out[2],
                       uint64_t last_seen[2]);
void l7mp_session_verdicts(struct l7mp_timer *timer, void *arg);
/* A slice of `retry_walk`. */
void l7mp_session_retry_some(struct l7mp_slice *slice, void *arg);

/* ---- proto.c ---- */

const struct l7mp_proto *l7mp_proto_of(const struct l7mp_env *env,
                                       const struct l7mp_protodesc *desc);
