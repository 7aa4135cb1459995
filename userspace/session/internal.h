/* SPDX-License-Identifier: MIT */
/*
 * Private to session/.
 *
 * A session is one block of memory: the session, its stages, its pipes. The stages form a ring in
 * the order in which data passes them,
 *
 *   [0] source, [1..] ingress chain, [dest] destination, [dest+1..] egress chain
 *
 * and pipe i leads from stage i to stage i+1 (the last one back to the source).
 *
 * A session is never freed on the stack of a callback: ending one marks it, a task closes its
 * streams, and the task that runs after the last `closed` frees it.
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
#define SESSION_LINGER_MS  10000
#define SESSION_DRAIN_MS   5000

/*
 * A pipe from one stage to the next. The queue holds, in order, data that the next stage can't
 * accept yet.
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
	struct l7mp_lb_avoid *avoid;    /* the endpoints that failed; NULL: none did */
	struct l7mp_timer timer;        /* time-out of the attempt, or delay until the next one */
	uint64_t attempt_ms;            /* loop time when the last attempt began */
	uint32_t retries;
	struct l7mp_watched *watched; /* record of the observer for the stream; NULL: none */
	uint16_t index;
	uint8_t state;  /* enum l7mp_stage_state */
	uint8_t health; /* enum session_health */
	bool paused : 1;
	bool move : 1;    /* connect to another endpoint, once the lent descriptors are back */
	bool refused : 1; /* by its endpoint's weight (drop): no retry */
	bool was_up : 1;  /* connected at least once since the set-up: losing it is a disconnect */
};

/* What a stage has told the health of its endpoint. */
enum session_health {
	SESSION_HEALTH_NONE,
	SESSION_HEALTH_TRIES,     /* an attempt has begun */
	SESSION_HEALTH_CONNECTED, /* it is counted as connected */
	SESSION_HEALTH_LOST,      /* ... and as lost, though the stage goes on */
};

enum session_offload {
	SESSION_OFFLOAD_SLOW,     /* not requested yet: the next packet requests it */
	SESSION_OFFLOAD_QUEUED,   /* to be requested after this batch */
	SESSION_OFFLOAD_STARTING, /* has a flow that has not begun: sockets still receive packets */
	SESSION_OFFLOAD_FAST,     /* in the kernel */
	SESSION_OFFLOAD_REFUSED,  /* refused; offload_reason says why */
};

/* The client, in a compact form; see l7mp_session_client. */
struct session_client {
	uint8_t origin; /* enum l7mp_origin */
	uint8_t family; /* of a TCP client: AF_INET, AF_INET6; else 0 */
	uint16_t port;
	uint32_t scope;
	uint8_t ip[16];
};

/* Whether the source address of a session is proven; see admission.c. */
enum session_proof { SESSION_PROVEN, SESSION_UNANSWERED, SESSION_ANSWERED };
/* The sets in which sessions are counted: all, those of a listener, those of a source address. */
enum session_scope {
	SESSION_SCOPE_ALL,
	SESSION_SCOPE_LISTENER,
	SESSION_SCOPE_PEER,
	SESSION_SCOPES,
};
struct session_link {
	struct l7mp_session *prev, *next;
};
/* The sessions counted against one limit. */
struct session_usage {
	size_t live;                      /* sessions that have not ended */
	size_t operators;                 /* of these, sessions to the operator's clusters */
	size_t evicting;                  /* of these, sessions that are being evicted */
	struct l7mp_session *unproven[2]; /* oldest first: never answered; answered */
};

/* The state of restoring a session of a previous process. */
struct session_restore {
	struct l7mp_session_record *record;
	int rc; /* negative errno: the destination can't be restored, and err says why */
	struct l7mp_error err;
};

struct l7mp_session {
	UT_hash_handle hh; /* by name; the order of creation */
	struct l7mp_sessions *m;
	struct l7mp_session *prev, *next; /* in requests while QUEUED, in tracked when DESTROYED */
	uint64_t id;
	struct l7mp_session_cursor *cursors; /* cursors whose next session is this one */
	char *name;
	cJSON *metadata;
	char *reason; /* reason of the end */
	struct l7mp_listener *listener;
	struct l7mp_lookup lookup;
	struct session_peer *peer;                 /* counter of its source address; NULL: none */
	struct l7mp_source *source;                /* reference held; NULL when the session is over
	                                            * */
	struct session_link links[SESSION_SCOPES]; /* while the session is not proven */
	uint64_t proof_packets; /* packets that the kernel had received from the source when it was
	                         * answered */
	int (*reopen)(void *arg, struct l7mp_stream **out);
	void *reopen_arg;
	void (*reopen_ended)(void *arg);
	struct l7mp_timer timer; /* idle time-out, drain, track */
	struct l7mp_task task;   /* closes the streams; frees the session */

	uint64_t start_wall, end_wall, start_ms, active_ms;
	/* fast: totals of flows that were removed */
	struct l7mp_session_count slow[2], fast[2], fast_read[2];
	uint64_t fast_seen[2];
	uint64_t drops;
	uint64_t splice_at[2]; /* splice when this many bytes have passed */

	struct l7mp_flow *flow;
	struct session_event *events;
	int64_t idle_ms;             /* 0: never */
	uint64_t refused_ms;         /* loop time of the engine's refusal or the suspension */
	uint64_t flow_started_ms;    /* loop time when the flow started */
	uint64_t suspended_until_ms; /* no flow is requested before; see offload.c */
	uint64_t suspended_seen_ms;  /* when the last packet was relayed while suspended */
	/* Packets that user space received despite a flow, since this was last read. */
	struct session_bypass {
		uint64_t counted; /* packets that the flow had counted then */
		uint64_t since_ms;
		uint8_t n;
	} bypass[2];

	uint16_t n, dest; /* number of stages; index of the destination */
	uint16_t orphans; /* detached streams whose `closed` is awaited */
	uint8_t n_events, first_event, cap_events;
	uint8_t state;          /* enum l7mp_session_state */
	uint8_t offload_state;  /* enum session_offload */
	uint8_t offload_reason; /* enum l7mp_reason */
	uint8_t suspensions;    /* consecutive ones; each is longer than the one before */
	struct session_client client;
	bool offload_disabled : 1; /* by the configuration */
	bool tcp : 1;              /* the ends of the flow are TCP connections */
	bool held : 1;             /* reading is stopped, at the engine's request */
	bool lent : 1;             /* the engine has the descriptors of both connections */
	bool frozen : 1;           /* being handed over: no activity */
	bool given : 1;            /* ... handed over: ends here without closing its connections */
	bool taken : 1;            /* received from another process, and not resumed yet */
	bool ending : 1;
	bool abort : 1;
	bool closing : 1;       /* the task has closed the streams */
	bool answered : 1;      /* `result` was called */
	bool source_closed : 1; /* closed in an orderly way; its data is still delivered */
	bool linger : 1;        /* half-closed towards a stage that can't signal its end */
	bool draining : 1;      /* ends when its answer was sent */
	bool warned_kind : 1;
	bool evicted : 1;   /* being evicted; counted in session_usage */
	bool operators : 1; /* serves the operator; counted in session_usage */
	uint8_t proof;      /* enum session_proof */
	uint32_t cost;      /* charged to the buffer pool until the session is freed */
	/* during l7mp_session_begin of a restored session; else NULL */
	struct session_restore *restore;

	struct l7mp_rtp_stream *rtp; /* of both directions; NULL: no RTP statistics */
	struct session_pipe *pipes;
	struct session_stage stages[];
};

struct session_peer {
	UT_hash_handle hh;
	struct session_usage usage;
	/*
	 * Family, whether the address may be forged, then the 4 bytes of IPv4 or the first 8 of
	 * IPv6. Forged datagrams must not use up the quota that their address has for connections.
	 */
	uint8_t key[10];
};

struct session_counter {
	UT_hash_handle hh;
	uint64_t count;
	const char *protocol; /* static: from the protocol's table */
	char key[];           /* kind + '0', then the object's name */
};

struct l7mp_sessions {
	struct l7mp_env *env;
	const struct l7mp_offload *offload;
	void (*ended)(void *arg, const struct l7mp_session *s);
	void *ended_arg;
	struct l7mp_session *by_name;
	uint64_t last_id;
	struct l7mp_session *tracked;  /* ended but still listed; oldest first */
	struct l7mp_session *requests; /* queue: sessions that request the fast path */
	struct l7mp_timer offload_timer;
	size_t drained;    /* datagrams read from sockets for requests in this iteration */
	unsigned starting; /* sessions in SESSION_OFFLOAD_STARTING */
	struct session_peer *peers;
	struct session_counter *counters;
	const struct l7mp_watch_ops *watch; /* NULL: none */
	void *watch_arg;
	size_t counts[L7MP_SESSION_STATES];
	struct session_usage usage;
	int probe_fd;       /* duplicated to find the lowest free descriptor; -1: unavailable */
	uint64_t effort;    /* budget for matching rules, shared by all sessions; see accept.c */
	uint64_t effort_ms; /* when it was refilled */
	struct l7mp_timer grace;
	struct l7mp_session_cursor retry_walk; /* walks the sessions that request the fast path
	                                        * again */
	struct l7mp_slice retry_slice;
	struct l7mp_session_cursor end_walk; /* at shutdown: the next session to end */
	struct l7mp_slice end_slice;
	bool end_abort;   /* the grace time has passed */
	bool end_walking; /* end_walk is not at its end: tracked sessions may remain */
	struct l7mp_task done_task;
	void (*done)(void *arg);
	void *done_arg;
	bool shutting;
	bool offload_suspended; /* no session requests the fast path */
	bool drain_over;        /* the drain deadline has passed: no further requests either */
	struct l7mp_log_limit log_limit;
};

struct l7mp_source {
	struct l7mp_sessions *m;
	struct l7mp_listener *listener; /* reference held */
	uint64_t tokens;                /* thousandths of a session */
	uint64_t tokens_ms; /* time of the last refill; 0: never, so the first one fills it */
	struct session_usage usage;
	size_t refs;      /* sessions that refer to this struct */
	bool gone;        /* the listener was deleted: the source can't be reopened */
	bool forgeable;   /* sessions begin with a datagram, whose address may be forged */
	bool requests;    /* sessions may be requests to the operator's clusters */
	bool stays;       /* accepts requests to the operator's clusters while draining */
	unsigned evicted; /* sessions evicted for this listener in this millisecond */
	uint64_t evicted_ms;
};
static inline bool session_can_reopen(const struct l7mp_session *s)
{
	return s->reopen && s->source && !s->source->gone;
}
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

/* ---- session.c ---- */

/*
 * Allocates a session with the stages of the route, without a name, not in the set yet. NULL: out
 * of memory. `r` must live as long as the session: see lookup.
 */
struct l7mp_session *l7mp_session_new(struct l7mp_sessions *m, const struct l7mp_route *r);
/* Takes the source's stream, and begins to connect the stages. The session may end at once. */
void l7mp_session_begin(struct l7mp_session *s, struct l7mp_stream *source);
/* Removes the session from the set and frees it. All of its streams must be closed. */
void l7mp_session_free(struct l7mp_session *s);
/* Ends the session. err NULL or code L7MP_OK: orderly. May be called from inside any callback. */
void l7mp_session_finish(struct l7mp_session *s, const struct l7mp_error *err, bool abort,
                         const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* A stream emitted `closed` while the session is ending. */
void l7mp_session_stream_closed(struct l7mp_session *s);
/* A direction has ended: ends the session when both have. */
void l7mp_session_check_end(struct l7mp_session *s);
/* A stage was connected: data flows when all are. The session may end. */
void l7mp_session_check_ready(struct l7mp_session *s);
/* A stage was lost: the session is not connected, and its streams are paused. */
void l7mp_session_not_ready(struct l7mp_session *s);
/*
 * Arms the idle timer. It is not armed again for each packet: when it fires, it compares the time
 * of the last packet (active_ms) and waits for the rest.
 */
void l7mp_session_arm_idle(struct l7mp_session *s);
/* The streams were thawed: arms the idle timer and delivers queued data. */
void l7mp_session_resume(struct l7mp_session *s);
/* The session was handed over: waits for the streams' `closed`, then frees it. */
void l7mp_session_given(struct l7mp_session *s);
/* The descriptors were given back, or the connections are closed: executes postponed actions. */
void l7mp_session_unlent(struct l7mp_session *s);

/* ---- events.c ---- */

/* Adds an event. `name` is static; `text` is copied and may be NULL. stage -1: of the session. */
void l7mp_session_event(struct l7mp_session *s, const char *name, int stage, unsigned attempt,
                        const char *text);
/* Adds an event NOTICE of a stream; `name` and `text` are copied, `text` may be NULL. */
void l7mp_session_event_notice(struct l7mp_session *s, int stage, const char *name,
                               const char *text);
/* Adds an event recorded by another process. name NULL: removes all events. */
void l7mp_session_past_event(struct l7mp_session *s, uint64_t time, const char *name, int stage,
                             unsigned attempt, const char *detail);
void l7mp_session_events_clear(struct l7mp_session *s);

/* ---- stage.c ---- */

/* Sets up stage i of a new session. cluster: borrowed from the route; NULL: the source. */
void l7mp_stage_init(struct l7mp_session *s, unsigned i, const char *cluster);
/* Drops what the stage holds, when the session is freed. Its stream must be closed. */
void l7mp_stage_release(struct session_stage *st);
/* Takes the stream as the stage's; it is paused. */
void l7mp_stage_attach(struct session_stage *st, struct l7mp_stream *stream);
/* Makes one attempt to connect; a failure is passed to l7mp_stage_lost. */
void l7mp_stage_connect(struct session_stage *st);
/*
 * Writes "10.0.0.1:80", "[::1]:80" or "/run/x.sock": the address of the stage's endpoint, which has
 * one, with the port that it or its cluster has. Truncates.
 */
#define SESSION_ADDRESS_MAX 300
void session_endpoint_address(const struct session_stage *st, char *text, size_t size);
/*
 * The stage was disconnected or could not be connected; err->code L7MP_OK: an orderly end. Detaches
 * its stream. Retries, or ends the session; after an orderly end of the source the session ends
 * when the source's data has been delivered.
 */
void l7mp_stage_lost(struct session_stage *st, const struct l7mp_error *err);
/* An attempt to connect to the stage's endpoint or virtual cluster begins: counts it. */
void l7mp_stage_health_begins(struct session_stage *st);
/*
 * The attempt or the connection is over, by an error (`why`), or NULL: it is not the endpoint's
 * fault. Idempotent.
 */
void l7mp_stage_health_over(struct session_stage *st, const char *why);
/* The endpoint was deleted: connects to another one at once, if the route has retries. */
void l7mp_stage_move(struct session_stage *st);

/* ---- connect.c ---- */

/*
 * Begins to connect the stage: chooses an endpoint of its cluster, or for the destination of a
 * restored session the endpoint that its connection goes to. Returns 0 when the stage has a stream,
 * which emits `open`; else negative errno, with err.
 */
int l7mp_stage_start(struct session_stage *st, struct l7mp_error *err);

/* ---- pipe.c ---- */

/* Stage i has emitted data: writes it to the next stage, or queues it. Takes buf. */
void l7mp_pipe_push(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf);
/* Stage i has finished writing; `code`: the close code, or 0. */
void l7mp_pipe_end(struct l7mp_session *s, unsigned i, int code);
/* The stage after pipe i accepts data again. */
void l7mp_pipe_drained(struct l7mp_session *s, unsigned i);
/* Writes what is queued, as far as the next stage is ready and accepts it; then passes the end. */
void l7mp_pipe_flush(struct l7mp_session *s, unsigned i);
/* Drops what is queued. */
void l7mp_pipe_clear(struct l7mp_session *s, unsigned i);
/* Appends a datagram or piece received from another process to the queue of pipe i; takes buf. */
void l7mp_pipe_append(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf);
/* Counts data that is dropped. */
void l7mp_session_drop(struct l7mp_session *s, enum l7mp_drop reason, uint64_t packets,
                       uint64_t bytes);
/* Pauses or resumes the stages' streams, according to pipes, states and `held`. */
void l7mp_session_flow_control(struct l7mp_session *s);
/* Ends splicing in both directions: data read from now on must pass through the session. */
void l7mp_session_unsplice(struct l7mp_session *s);
/*
 * A stage has a new connection, or the session was resumed: splicing is tried when each direction
 * has carried some more data.
 */
void l7mp_session_splice_later(struct l7mp_session *s);

/* ---- sessions.c ---- */

void l7mp_sessions_counted(struct l7mp_sessions *m, enum l7mp_obj_kind kind, const char *name,
                           const char *protocol);
/* Removes the counter of a deleted object. */
void l7mp_sessions_forget(struct l7mp_sessions *m, enum l7mp_obj_kind kind, const char *name);
/* Whether the rate limit of log records that peers can cause allows one now. */
bool l7mp_sessions_may_log(struct l7mp_sessions *m);
/* All streams of the session are closed: lists it as ended for a while, or frees it. */
void l7mp_sessions_track(struct l7mp_session *s);
/* The session is about to be freed: advances the cursors that point to it. */
void l7mp_cursors_leave(struct l7mp_session *s);

/* ---- accept.c ---- */

/* Looks up the route. Returns 0, or the HTTP status for the source, with the reason in err. */
int l7mp_accept_route(struct l7mp_source *src, const struct l7mp_accept *a,
                      struct l7mp_lookup *lookup, struct l7mp_error *err);
/*
 * Creates the session, ready for l7mp_session_begin. On success takes a's name and metadata, and
 * the lookup.
 */
int l7mp_accept_make(struct l7mp_source *src, struct l7mp_accept *a, struct l7mp_lookup *lookup,
                     struct l7mp_session **out);

/* Drops a session's reference. Sets the pointer to NULL. */
void l7mp_source_put(struct l7mp_source **source);

/* ---- admission.c ---- */

/* The `admit` of struct l7mp_listen_events; arg: the source. May evict another session. */
int l7mp_admission_admit(void *arg, const struct l7mp_addr *addr);
/* The `room` of struct l7mp_listen_events; arg: the source. May evict sessions. */
bool l7mp_admission_room(void *arg, int fd);
/*
 * Checks the limits again when the route is known: a request to other clusters must not use the
 * operator's reserve. Returns 0, or -EBUSY, which is counted.
 */
int l7mp_admission_check_route(struct l7mp_source *src, const struct l7mp_accept *a,
                               const struct l7mp_route *route);
/* Whether some rule of the source's listener leads to a cluster of the operator. */
bool l7mp_admission_serves_operator(const struct l7mp_source *src);
/* Counts s, whose source and peer are set, until l7mp_admission_remove; charges its memory. */
void l7mp_admission_add(struct l7mp_session *s, const struct l7mp_accept *a);
void l7mp_admission_remove(struct l7mp_session *s);
/*
 * For a restored session: checks the limits without the rate. Returns 0, or -EBUSY, which is
 * counted.
 */
int l7mp_admission_check_restored(struct l7mp_source *src, const struct l7mp_addr *peer);
/* Marks a restored session whose source was proven in the earlier process. */
void l7mp_admission_proven(struct l7mp_session *s);
/* Data was sent to the source of s. */
void l7mp_admission_answered(struct l7mp_session *s);
/* Data was received from the source of s. Called for each packet, so it is cheap. */
void l7mp_admission_received(struct l7mp_session *s);
/*
 * Counts a session of this address; *out is NULL if it is not IPv4 or IPv6. Returns 0 or -ENOMEM.
 */
int l7mp_session_peer_get(struct l7mp_sessions *m, const struct l7mp_addr *addr, bool forgeable,
                          struct session_peer **out);
void l7mp_session_peer_put(struct l7mp_sessions *m, struct session_peer **peer);

/* ---- view.c ---- */

/* "source", "ingress[0]", "destination", "egress[1]" */
const char *l7mp_stage_place(const struct session_stage *st, char *buf, size_t size);

/* ---- offload.c ---- */

/* Of the set of sessions. Returns 0 or negative errno. */
int l7mp_sessions_offload_init(struct l7mp_sessions *m);
void l7mp_sessions_offload_free(struct l7mp_sessions *m);
void l7mp_session_offload_init(struct l7mp_session *s);
/*
 * A packet was relayed in user space: queues a request, which is made after this batch, unless the
 * engine's answer is known. If the session has a flow already, this may suspend it.
 */
void l7mp_session_offload_passed(struct l7mp_session *s, enum l7mp_direction dir);
/*
 * A packet filter rejected a sent datagram; packets forwarded by a flow would bypass that filter.
 */
void l7mp_session_offload_filtered(struct l7mp_session *s);
/* The kernel's route to one of its ends may have changed. */
void l7mp_session_offload_recheck(struct l7mp_session *s);
/*
 * Removes the flow from the kernel, before one of its streams is closed. `again`: the next packet
 * may request it again.
 */
void l7mp_session_offload_remove(struct l7mp_session *s, bool again);
/*
 * The restored session takes over the record's flow. Returns 0; -ENOTCONN: TCP, and a stream can't
 * lend its descriptor; the flow is still the caller's.
 */
int l7mp_session_offload_take(struct l7mp_session *s, const struct l7mp_session_record *r);
/* Reads the flow's counters, and updates active_ms. */
void l7mp_session_offload_sync(struct l7mp_session *s, bool fresh);
/* The session is aborted: gets lent descriptors back now; both connections are reset. */
void l7mp_session_offload_abort(struct l7mp_session *s);
/* Returns the counts of the fast path, including flows that were removed. */
void l7mp_session_fast(const struct l7mp_session *s, struct l7mp_session_count out[2],
                       uint64_t last_seen[2]);

/* ---- proto.c ---- */

const struct l7mp_proto *l7mp_proto_of(const struct l7mp_env *env,
                                       const struct l7mp_protodesc *desc);

/* ---- rtp.c: statistics of RTP ---- */

/* clock_rate: Hz, of dynamic payload types. Returns 0; -1: no memory. */
int l7mp_session_rtp_new(struct l7mp_session *s, uint32_t clock_rate);
/* A datagram was received at a stage. Requires s->rtp, as do the functions below. */
void l7mp_session_rtp_data(struct l7mp_session *s, unsigned stage, const struct l7mp_buf *buf);
/* The session has ended: adds its statistics to the totals. */
void l7mp_session_rtp_ended(const struct l7mp_session *s);
/* For the hand-over to another process: the statistics so far; NULL: no memory. */
cJSON *l7mp_session_rtp_save(const struct l7mp_session *s);
/* In the other process; `saved` may be NULL. */
void l7mp_session_rtp_load(struct l7mp_session *s, const cJSON *saved);
/* Returns the statistics for GET. NULL: no memory. */
cJSON *l7mp_session_rtp_json(const struct l7mp_session *s);
