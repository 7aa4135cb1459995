/* SPDX-License-Identifier: MIT */
/*
 * The offload engine: combines path/, hook/, table/ and tcp/, and has the code that needs several.
 *
 *   engine    settings, state, life cycle      flows     adding and removing flows
 *   egress    ingress and egress of flows      changes   updating flows after events
 *   load      loading in a worker thread       view      what the API shows
 *   splices   TCP flows                        frames    AF_PACKET flows
 *   adopt     flows of a previous daemon       doctor    checks of the host
 *   leave     withdrawing flows before programs are detached
 *   drain     flows of another ABI version
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/offload.h"
#include "offload/hook/hook.h"
#include "offload/table/table.h"
#include "offload/tcp/tcp.h"

enum off_state {
	OFF_DISABLED,    /* by admin.offload, or no interface is configured */
	OFF_ACTIVE,      /* maps exist, programs are attached */
	OFF_UNAVAILABLE, /* configured, but the kernel doesn't support or allow it */
	OFF_STARTING,    /* a worker thread is loading the programs */
	OFF_STOPPING,    /* as ACTIVE, but all flows are being withdrawn to apply `next` */
};

/*
 * Deletions and updates of one flow map, collected for a batch; flushed within the loop iteration.
 * Arrays of keys and values have the map's element sizes.
 */
#define OFF_BATCH 256
struct off_batch {
	uint32_t n_deletes, n_actions;
	uint8_t deletes[OFF_BATCH * sizeof(struct l7mp_frame_key)];
	uint8_t keys[OFF_BATCH * sizeof(struct l7mp_frame_key)];
	uint8_t actions[OFF_BATCH * sizeof(struct l7mp_flow6_action)];
	struct off_direction *owner[OFF_BATCH];
};

/* State of AF_PACKET flows. */
struct off_frames {
	struct l7mp_flow *flows;  /* those not updated since the last link change first */
	uint32_t links;           /* number of link changes */
	struct off_tap *taps;     /* packet sockets with our filter */
	uint32_t last_tap;        /* last id; ids are not reused */
	int tails;                /* map for the filters' tail call to l7mp_tap; 0: none yet */
	uint32_t (*n_of_kind)[4]; /* number of entries, by interface index and l7mp_frame_kinds */
};

/* Adoption of a previous daemon's flows (adopt.c). */
#define OFF_ADOPT_SHOWN 32
struct off_removal {
	char session[128];
	char why[200];
};
struct off_adoption {
	bool under_way;          /* if this process fails now, everything is left in the kernel */
	struct l7mp_flow *flows; /* without an owner yet */
	uint64_t n_adopted, n_removed;
	struct off_removal removals[OFF_ADOPT_SHOWN]; /* a ring, indexed by n_removed */
};

/* What was left by processes of other ABI versions, and has ended (drain.c). */
#define OFF_DRAINED_SHOWN 8
struct off_drained {
	uint32_t abi;
	uint64_t flows;
	int64_t forwarded; /* -1: not known */
	uint64_t began_ms, ended_ms;
	char why[200];
};
struct off_drains {
	struct l7mp_timer timer;
	bool started;      /* the program's start has succeeded */
	int *held, n_held; /* sockets that keep local ports of TCP from being chosen */
	uint64_t n_ended;
	struct off_drained ended[OFF_DRAINED_SHOWN]; /* a ring, by n_ended */
};

struct l7mp_offload_engine {
	struct l7mp_loop *loop;
	struct l7mp_stats *stats;
	struct l7mp_offload ops;

	struct off_settings set;
	struct off_settings next; /* STOPPING: applied afterwards */
	enum off_state state;
	char why[300]; /* reason of the state */
	int left_pins; /* the fast path is off, and what is left is taken over to end it; else 0 */
	bool configured;       /* the initial configuration has been applied */
	struct off_load *load; /* in progress; NULL: none */
	struct off_pins pins;

	struct off_path path;
	struct off_hooks hooks;
	struct off_table table;
	struct off_tcp *tcp; /* NULL: TCP can't be spliced */
	void *tcp_map;       /* mapped memory of tcp_pairs */

	struct off_frames frames;

	struct l7mp_flow *flows;
	struct off_adoption adoption;
	struct off_drains drains;  /* the list itself is in hooks */
	struct l7mp_flow *leaving; /* deleted from the maps, `withdrawn` not called yet */
	struct off_batch batch[OFF_FAMILIES];
	struct l7mp_timer work;
	struct l7mp_timer retry;
	struct l7mp_timer leave;     /* checks whether flows have left: leave.c */
	struct off_wait *leave_wait; /* for running programs, in a worker; NULL: none */
	uint64_t stopping_ms;        /* STOPPING: since when, loop time */
	bool drained; /* STOPPING: no flow is left; running programs are waited for */
	uint64_t n_added, n_removed, n_withdrawn;
	unsigned n_retries;       /* how often the event `retry` was sent to the sessions */
	unsigned leaving_retries; /* n_retries when the first flow in `leaving` was deleted */
	bool was_refused; /* a flow was refused since the last removal: table-full or conflict */
	bool was_short;   /* out of memory in the kernel or of slots; a retry is scheduled */
	bool rests;       /* an upgrade is in progress: events of path/ are ignored */
	bool missed;      /* ... and some were reported meanwhile */
	struct l7mp_log_limit log_limit;
};

/* ---- engine.c ---- */

/* Redirects the messages of libbpf and libxdp to our log. */
void off_log_libraries(void);
/* Schedules the event `retry`: sessions whose flows were refused try again. */
void off_retry_soon(struct l7mp_offload_engine *e);
/* The same after `ms`; no-op if a retry is scheduled already. */
void off_retry_after(struct l7mp_offload_engine *e, unsigned ms);

/* Are maps open and programs attached? */
static inline bool off_has_maps(const struct l7mp_offload_engine *e)
{
	return e->state == OFF_ACTIVE || e->state == OFF_STOPPING;
}
/* STOPPING has completed or timed out: stops, and applies the settings `next`. */
void off_stopped(struct l7mp_offload_engine *e);
/*
 * Ends l7mp_offload_adopt: when the fast path is off, the sessions are in user space by now, and
 * all that an earlier process left is removed.
 */
void off_left_end(struct l7mp_offload_engine *e);
/* doctor.c: does this process have CAP_NET_ADMIN, which detaching programs needs? */
bool off_may_detach(void);

/* ---- leave.c ---- */

/*
 * Programs are detached when no flow uses them any more: UDP and AF_PACKET flows are withdrawn in
 * slices, TCP connections are un-spliced, and the loop runs meanwhile. After some seconds the
 * connections that are left are un-spliced as they are.
 */
/* Withdraws the flows of a leaving link, then calls off_attach_left; at once if they are few. */
void off_leave_link(struct l7mp_offload_engine *e, struct off_link *l);
/*
 * Withdraws all flows, then calls off_stopped; the caller sets the state to STOPPING. False: not
 * needed, as l7mp_offload_stop can withdraw them at once.
 */
bool off_leave_all(struct l7mp_offload_engine *e);
/* Completes the leaving of all leaving links at once. */
void off_leave_now(struct l7mp_offload_engine *e);
/* STOPPING: the reason for which flows are withdrawn and refused. */
enum l7mp_reason off_leave_reason(const struct l7mp_offload_engine *e);
int off_leave_start(struct l7mp_offload_engine *e); /* 0 or negative errno */
void off_leave_stop(struct l7mp_offload_engine *e);

/* ---- load.c ---- */

struct off_load;

/*
 * Loads maps and programs in a worker thread, which ends with off_loaded. 0 or negative errno.
 */
int off_load_start(struct l7mp_offload_engine *e);
void off_load_cancel(struct l7mp_offload_engine *e);
/*
 * engine.c: loading has ended. rc 0: the maps are in e->table.maps; otherwise a negative errno, and
 * e->why may have a message.
 */
void off_loaded(struct l7mp_offload_engine *e, int rc);

/* ---- adopt.c ---- */

/* Lists a previous daemon's flows in the maps, before any other is added. */
void off_adopt_begin(struct l7mp_offload_engine *e);
/* The operation `own`. */
int off_adopt_own(void *ctx, struct l7mp_flow *flow, uint64_t cookie, const int fd[2],
                  struct l7mp_rtp_stream *rtp, const struct l7mp_flow_end *ends);
/* Ends the adoption: flows without an owner are left in the kernel for the next daemon. */
void off_adopt_leave(struct l7mp_offload_engine *e);
/* For GET /offload. A new tree, or NULL. */
cJSON *off_adopt_json(const struct l7mp_offload_engine *e);

/* ---- drain.c ---- */

/* Finds what is being drained already. After the lock was got. */
void off_drains_open(struct l7mp_offload_engine *e);
/*
 * Before anything else is done with the pins: sets those of another version aside if flows are
 * there. `back`: and those of our own version, which another one had set aside, are put back.
 */
void off_drains_arrange(struct l7mp_offload_engine *e, bool back);
/* The programs are attached and the listeners are bound: looks after them from now on. */
void off_drains_go(struct l7mp_offload_engine *e);
/* Removes them all: programs, maps, pins. */
void off_drains_end_all(struct l7mp_offload_engine *e, const char *why);
/* Forgets them; they stay in the kernel. */
void off_drains_close(struct l7mp_offload_engine *e);
void off_drains_tick(struct l7mp_timer *t, void *arg);
/* New trees, or NULL: those that go on; those that have ended. */
cJSON *off_drains_json(const struct l7mp_offload_engine *e);
cJSON *off_drained_json(const struct l7mp_offload_engine *e);

/* ---- changes.c ---- */

/*
 * Withdraws the flows through a leaving link at once, before its program is detached. Un-splices
 * TCP connections as they are.
 */
void off_flows_leave_link(struct l7mp_offload_engine *e, const struct off_link *l);
/*
 * Is no flow left that uses the leaving link? NULL: no flow at all, except those of closed
 * connections. False also while flows wait to be planned again.
 */
bool off_flows_left(const struct l7mp_offload_engine *e, const struct off_link *l);
/* TCP offload was disabled: un-splices all TCP flows. */
void off_flows_leave_tcp(struct l7mp_offload_engine *e);
/* Withdraws all flows, to be added again; the programs stay attached. */
void off_flows_replan(struct l7mp_offload_engine *e);
void off_flows_withdraw_all(struct l7mp_offload_engine *e, enum l7mp_reason reason);
/* Completes all pending changes, and withdraws TCP flows, before it returns. */
void off_flows_settle(struct l7mp_offload_engine *e);
/* A flow is being removed: takes it off the list `leaving` if it is there. */
void off_flow_left(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
void off_changes_work(struct l7mp_timer *t, void *arg);

/* ---- flows.c, egress.c ---- */

extern const struct l7mp_offload off_ops;
/* Ingress and egress of a direction of a flow. */
struct off_plan {
	struct off_ingress in;
	struct off_egress out;
};
/* Determines both for each direction. NONE, or why the flow is not possible. */
enum l7mp_reason off_flow_plan(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                               struct off_plan plan[2]);
/* Finds and uses the nexthop of end i. NONE or a reason. */
enum l7mp_reason off_flow_find_nexthop(struct l7mp_offload_engine *e, struct l7mp_flow *flow, int i,
                                       uint8_t l4, const struct l7mp_addr *local,
                                       const struct l7mp_addr *remote);
/* Deletes the flow's map entries; off_flow_take_out follows. */
void off_flow_unmap(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
/* Removes the flow from the maps and all tables and frees it, except its TCP pair. */
void off_flow_take_out(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                       struct l7mp_flow_counters final[2]);
/* Leaves the flow to another process: frees it here, but not in the kernel. Calls `withdrawn`. */
void off_flow_let_go(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
/* The egress of packets received on `in` and sent to the peer behind `nh`. NONE or a reason. */
enum l7mp_reason off_egress_find(struct l7mp_offload_engine *e, struct off_link *in,
                                 const struct off_nexthop *nh, bool tcp, struct off_egress *out);
/*
 * The interface whose program sees the packets of the peer behind `nh`, and their link headers
 * there (`in`, may be NULL). NONE or a reason.
 */
enum l7mp_reason off_ingress_find(struct l7mp_offload_engine *e, const struct off_nexthop *nh,
                                  struct off_link **out, struct off_ingress *in);

/* off_flow_plan for AF_PACKET flows. */
enum l7mp_reason off_frames_plan(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                 struct off_plan plan[2]);

/* ---- frames.c ---- */

int off_frames_start(struct l7mp_offload_engine *e); /* 0 or negative errno */
/* The sockets keep our filter, which finds no flows any more, until off_frames_free. */
void off_frames_stop(struct l7mp_offload_engine *e);
void off_frames_free(struct l7mp_offload_engine *e);
/*
 * Before the flow's entries are written to the map: attaches our filter to the sockets and makes
 * the programs look up frames of these interfaces. NONE or a reason; off_frames_leave undoes it in
 * both cases.
 */
enum l7mp_reason off_frames_join(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                 const struct l7mp_flow_end *a, const struct l7mp_flow_end *b);
/*
 * Adoption: the programs must continue to look up the frames of this flow. off_frames_claimed
 * follows after the last one.
 */
void off_frames_claim(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
void off_frames_claimed(struct l7mp_offload_engine *e);
/*
 * Adoption: like off_frames_join, but with the filter ids in the flow's entries. Frames that the
 * sockets received before, and that the kernel relayed, are discarded by off_frames_adopted, which
 * follows when all flows have their sockets.
 */
enum l7mp_reason off_frames_own(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                const struct l7mp_flow_end *a, const struct l7mp_flow_end *b);
void off_frames_adopted(struct l7mp_offload_engine *e);
/* After the flow's entries were deleted. No-op for other flows, and when called again. */
void off_frames_leave(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
/* A link has changed: off_frames_next returns each flow once more, then NULL. */
void off_frames_links_changed(struct l7mp_offload_engine *e);
struct l7mp_flow *off_frames_next(struct l7mp_offload_engine *e);
bool off_frames_waiting(const struct l7mp_offload_engine *e);

/* ---- splices.c ---- */

int off_splices_start(struct l7mp_offload_engine *e); /* 0 or negative errno */
void off_splices_stop(struct l7mp_offload_engine *e);
/* Creates the pair of a TCP flow, whose keys are set. NONE or a reason. */
enum l7mp_reason off_splice_prepare(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                    const struct l7mp_flow_end *a, const struct l7mp_flow_end *b);
/*
 * Adoption: reads the pair of a previous daemon's flow, before others are created. NULL, or why it
 * can't be adopted; flow->tcp is then NULL, or the pair to be reset.
 */
const char *off_splice_claim(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
/* Were the flow's connections closed, so that it existed for late segments only? */
bool off_splice_is_over(const struct l7mp_flow *flow);
/*
 * Starts to un-splice the flow, which leaves later. False: it is removed like any other flow.
 */
bool off_splice_leave(const struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                      enum l7mp_reason reason);
/*
 * Is a pair being un-spliced that still needs the link's programs? NULL: any pair, also those in
 * FILL, which need no programs.
 */
bool off_splices_leaving(const struct l7mp_offload_engine *e, const struct off_link *l);
/* Completes that at once: un-splices these pairs as they are. */
void off_splices_force(struct l7mp_offload_engine *e, const struct off_link *l);
/*
 * Waits some tenths of a second until the leaving pairs are un-spliced, then forces it. `filling`:
 * also those in FILL, at the engine's end. Blocks.
 */
void off_splices_settle(struct l7mp_offload_engine *e, bool filling);
/* Frees the flows of closed connections. */
void off_splices_drop_over(struct l7mp_offload_engine *e);
/* Sets the bytes of a TCP flow's counters; no-op for others. */
void off_splice_counters(struct l7mp_flow *flow, struct l7mp_flow_counters out[2]);
void off_splice_release(void *ctx, struct l7mp_flow *flow, bool at_once);
const char *off_splice_phase(void *ctx, const struct l7mp_flow *flow);
bool off_splice_translation(void *ctx, const struct l7mp_flow *flow, enum l7mp_direction dir,
                            struct l7mp_flow_translation *out);
