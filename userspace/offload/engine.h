/* SPDX-License-Identifier: MIT */
/*
 * The engine: what path/, hook/ and table/ are composed of, and what needs all three.
 *
 *   engine    settings, state, life cycle      flows     adding and removing flows
 *   egress    by which interface, and how      changes   what follows from events
 *   load      programs, in a worker thread     view      what the API shows
 *   splices   flows of TCP                              frames    flows of AF_PACKET
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/offload.h"
#include "offload/hook/hook.h"
#include "offload/table/table.h"
#include "offload/tcp/tcp.h"

enum off_state {
	OFF_DISABLED,    /* not wanted: admin.offload, or no interface named */
	OFF_ACTIVE,      /* maps are there, interfaces are served */
	OFF_UNAVAILABLE, /* wanted, but the kernel can't or won't */
	OFF_STARTING,    /* a worker thread loads the programs */
};

/*
 * Changes of one map of flows that wait to be made together; never longer than one turn. Keys and
 * values follow each other in the map's sizes.
 */
#define OFF_BATCH 256
struct off_batch {
	uint32_t n_gone, n_actions;
	uint8_t gone[OFF_BATCH * sizeof(struct l7mp_frame_key)];
	uint8_t keys[OFF_BATCH * sizeof(struct l7mp_frame_key)];
	uint8_t actions[OFF_BATCH * sizeof(struct l7mp_flow6_action)];
	struct off_direction *owner[OFF_BATCH];
};

/* Flows of AF_PACKET. */
struct off_frames {
	struct l7mp_flow *flows;  /* those that have not seen the last change of links first */
	uint32_t links;           /* number of that change */
	struct off_tap *taps;     /* packet sockets that have our filter */
	uint32_t last_tap;        /* a number is never given twice */
	int tails;                /* map by which their filters get to l7mp_tap; 0: none yet */
	uint32_t (*n_of_kind)[4]; /* entries, by index of the interface and enum l7mp_frame_kinds */
};

/* What was taken over from an earlier process (adopt.c). */
#define OFF_ADOPT_SHOWN 32
struct off_removal {
	char session[128];
	char why[200];
};
struct off_adoption {
	bool under_way; /* what is in the kernel stays, if this process does not come further */
	struct l7mp_flow *flows; /* that have no owner yet */
	uint64_t n_adopted, n_removed;
	struct off_removal removals[OFF_ADOPT_SHOWN]; /* a ring, by n_removed */
};

struct l7mp_offload_engine {
	struct l7mp_loop *loop;
	struct l7mp_stats *stats;
	struct l7mp_offload ops;

	struct off_settings set;
	enum off_state state;
	char why[300];         /* of the state */
	bool configured;       /* once, by what the program started with */
	struct off_load *load; /* in progress */
	struct off_pins pins;

	struct off_path path;
	struct off_hooks hooks;
	struct off_table table;
	struct off_tcp *tcp; /* NULL: no pairs can be made */
	void *tcp_map;       /* memory of the map tcp_pairs */

	struct off_frames frames;

	struct l7mp_flow *flows;
	struct off_adoption adoption;
	struct l7mp_flow *leaving; /* out of the map, their owners not told yet */
	struct off_batch batch[OFF_FAMILIES];
	struct l7mp_timer work;
	struct l7mp_timer retry;
	uint64_t n_added, n_removed, n_withdrawn;
	unsigned n_retries;       /* how often sessions were asked again */
	unsigned leaving_retries; /* what that was when flows began to leave */
	bool was_refused; /* a flow was, with table-full or conflict, since the last removal */
	bool was_short;   /* the kernel was short of memory; asked again soon */
	bool rests;       /* nothing is changed in the kernel for what path/ reports */
	bool missed;      /* ... and something was reported meanwhile */
	struct l7mp_log_limit log_limit;
};

/* ---- engine.c ---- */

/* Sends what libbpf and libxdp say to our log. */
void off_log_libraries(void);
/* Something changed for the better: ask sessions again, soon and once. */
void off_retry_soon(struct l7mp_offload_engine *e);
/* After `ms`, unless that is coming already. */
void off_retry_after(struct l7mp_offload_engine *e, unsigned ms);

/* ---- load.c ---- */

struct off_load;

/*
 * Loads maps and programs in a worker thread; off_loaded says how that went. 0 or negative errno.
 */
int off_load_start(struct l7mp_offload_engine *e);
void off_load_cancel(struct l7mp_offload_engine *e);
/*
 * engine.c: with the maps in e->maps, or (rc) the reason in e->why, if there is more to say than
 * rc.
 */
void off_loaded(struct l7mp_offload_engine *e, int rc);

/* ---- adopt.c ---- */

/* Finds the flows of an earlier process in the maps, before others are made. */
void off_adopt_begin(struct l7mp_offload_engine *e);
/* The operation `own`. */
int off_adopt_own(void *ctx, struct l7mp_flow *flow, uint64_t cookie, const int fd[2],
                  struct l7mp_rtp_stream *rtp, const struct l7mp_flow_end *ends);
/* Those without owner are left in the kernel, for the next process. */
void off_adopt_leave(struct l7mp_offload_engine *e);
/* A new tree, or NULL. */
cJSON *off_adopt_json(const struct l7mp_offload_engine *e);

/* ---- changes.c ---- */

/* Those that come in or leave there, at once: its hook is about to be taken away. */
void off_flows_leave_link(struct l7mp_offload_engine *e, struct off_link *l);
/* Those of TCP, orderly: not wanted any more. */
void off_flows_leave_tcp(struct l7mp_offload_engine *e);
/* All are to be made anew; the programs stay where they are. */
void off_flows_replan(struct l7mp_offload_engine *e);
void off_flows_withdraw_all(struct l7mp_offload_engine *e, enum l7mp_reason reason);
/* What is being changed is changed when this returns; those of TCP are out. */
void off_flows_settle(struct l7mp_offload_engine *e);
/* Called when a flow is taken out; ends its wait in `leaving` if it was there. */
void off_flow_left(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
void off_changes_work(struct l7mp_timer *t, void *arg);

/* ---- flows.c, egress.c ---- */

extern const struct l7mp_offload off_ops;
/* What a direction of a flow needs to know of the network. */
struct off_plan {
	struct off_ingress in;
	struct off_egress out;
};
/* Where each direction comes in, and how it leaves. NONE, or why it can't be. */
enum l7mp_reason off_flow_plan(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                               struct off_plan plan[2]);
/* Finds and uses the nexthop of end i. NONE or a reason. */
enum l7mp_reason off_flow_find_hop(struct l7mp_offload_engine *e, struct l7mp_flow *flow, int i,
                                   uint8_t l4, const struct l7mp_addr *local,
                                   const struct l7mp_addr *remote);
/* Out of the maps; off_flow_take_out follows. */
void off_flow_unmap(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
/* Out of everything, and freed, but for its pair of TCP connections. */
void off_flow_take_out(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                       struct l7mp_flow_counters final[2]);
/* It stays in the kernel, as another process's: forgotten here, and its owner told. */
void off_flow_let_go(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
/* How packets that come in by `in` leave to the peer behind `nh`. NONE or a reason. */
enum l7mp_reason off_egress_find(struct l7mp_offload_engine *e, struct off_link *in,
                                 const struct off_nexthop *nh, bool tcp, struct off_egress *out);
/*
 * The interface whose program sees what the peer behind `nh` sends, and how it sees it (`in`, may
 * be NULL). NONE or a reason.
 */
enum l7mp_reason off_ingress_find(struct l7mp_offload_engine *e, const struct off_nexthop *nh,
                                  struct off_link **out, struct off_ingress *in);

/* The same for frames. */
enum l7mp_reason off_frames_plan(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                 struct off_plan plan[2]);

/* ---- frames.c ---- */

int off_frames_start(struct l7mp_offload_engine *e); /* 0 or negative errno */
/* Sockets keep our filter, which finds no flows any more, until off_frames_free. */
void off_frames_stop(struct l7mp_offload_engine *e);
void off_frames_free(struct l7mp_offload_engine *e);
/*
 * Before its entries are put into the map: the sockets get our filter, and the programs look for
 * frames on these interfaces. NONE or a reason; off_frames_leave undoes it in both cases.
 */
enum l7mp_reason off_frames_join(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                 const struct l7mp_flow_end *a, const struct l7mp_flow_end *b);
/*
 * A flow of an earlier process is in the map: the programs go on looking for its frames.
 * off_frames_claimed follows, when all are known.
 */
void off_frames_claim(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
void off_frames_claimed(struct l7mp_offload_engine *e);
/*
 * Like off_frames_join, for a flow of an earlier process: the sockets get the filter that its
 * entries name. What they have received before that, and the kernel has relayed, is taken out of
 * them by off_frames_adopted, when all flows have their sockets.
 */
enum l7mp_reason off_frames_own(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                const struct l7mp_flow_end *a, const struct l7mp_flow_end *b);
void off_frames_adopted(struct l7mp_offload_engine *e);
/* Its entries are out of the map. No-op for other flows, and for one that has left. */
void off_frames_leave(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
/* A link has changed: off_frames_next gives all flows once more. */
void off_frames_links_changed(struct l7mp_offload_engine *e);
struct l7mp_flow *off_frames_next(struct l7mp_offload_engine *e); /* NULL: all have seen it */
bool off_frames_waiting(const struct l7mp_offload_engine *e);

/* ---- splices.c ---- */

int off_splices_start(struct l7mp_offload_engine *e); /* 0 or negative errno */
void off_splices_stop(struct l7mp_offload_engine *e);
/* Makes the flow one of TCP, with a pair; the keys are set. NONE or a reason. */
enum l7mp_reason off_splice_prepare(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                    const struct l7mp_flow_end *a, const struct l7mp_flow_end *b);
/*
 * A flow of an earlier process gets its pair of connections, before others are made. NULL, or why
 * they can't go on; flow->tcp is then NULL, or what is to be reset.
 */
const char *off_splice_claim(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
/* Its connections had ended, and it was there for what is late only. */
bool off_splice_is_over(const struct l7mp_flow *flow);
/* Whether it leaves by itself, in its time; false: as any flow. */
bool off_splice_leave(struct l7mp_flow *flow, enum l7mp_reason reason);
/* Those that leave have left when this returns. */
void off_splices_leave_now(struct l7mp_offload_engine *e);
/* The same, and no pair is left that comes back: for the engine's end. */
void off_splices_end_all(struct l7mp_offload_engine *e);
/* Frees the flows of connections that are over. */
void off_splices_drop_over(struct l7mp_offload_engine *e);
/* Puts the bytes of a TCP flow into its counters; no-op for others. */
void off_splice_counters(struct l7mp_flow *flow, struct l7mp_flow_counters out[2]);
void off_splice_release(void *ctx, struct l7mp_flow *flow, bool at_once);
const char *off_splice_phase(void *ctx, const struct l7mp_flow *flow);
bool off_splice_translation(void *ctx, const struct l7mp_flow *flow, enum l7mp_direction dir,
                            struct l7mp_flow_translation *out);
