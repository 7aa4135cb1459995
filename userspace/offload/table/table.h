/* SPDX-License-Identifier: MIT */
/*
 * The kernel's flow table: the BPF maps (maps.h), and user space's copy of each flow's keys,
 * actions and counters.
 *
 *   maps, pins   BPF objects and their pins     index      hash table: key to direction of a flow
 *   entries      entries of the flow maps       slots      allocator of counter slots
 *   counters     the counter poll               handover   activates flows without reordering
 *   rtp          statistics of RTP flows        record     session records for the next daemon
 *   translate    session endpoints to keys and actions
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/log.h"
#include "maps.h"
#include "offload/path/path.h"

/* ---- translate: pure functions ---- */

struct off_direction;

/* Where the packets of a flow must be received: see struct l7mp_flow_action. */
struct off_ingress {
	uint32_t ifindex;
	uint8_t mac[6];
	uint16_t vlan_proto[2]; /* network order, outer first; 0: no tag */
	uint16_t vlan_id[2];
};

/* The egress of a flow: interface, MTU, MAC addresses and VLAN tags. */
struct off_egress {
	uint32_t ifindex;
	uint32_t mtu;
	uint16_t flags; /* enum l7mp_flow_flags */
	uint8_t dmac[6], smac[6];
	uint8_t n_vlans;
	uint16_t vlan_proto[2]; /* network order, outer first */
	uint16_t vlan_tci[2];
};
/* The key of packets sent from `from` to `to`: addresses of one family, with ports. */
void off_key_set(struct l7mp_flow_key *key, uint8_t l4, const struct l7mp_addr *from,
                 const struct l7mp_addr *to);
/* Makes an address of the key's family from `ip` and `port` (network order). */
void off_key_to_addr(const struct l7mp_flow_key *key, const uint8_t *ip, uint16_t port,
                     struct l7mp_addr *out);
/* Fills the action that rewrites them to src -> dst: all fields but ingress and egress. */
void off_action_set(struct l7mp_flow6_action *a, const struct l7mp_flow_key *key,
                    enum l7mp_flow_verb verb, const struct l7mp_addr *src,
                    const struct l7mp_addr *dst);
/* Sets what depends on socket options: `from` is the receiving socket, `to` the sending one. */
void off_action_set_ends(struct l7mp_flow_action *a, const struct l7mp_flow_end *from,
                         const struct l7mp_flow_end *to);
void off_action_set_egress(struct l7mp_flow_action *a, const struct off_egress *x);
void off_action_set_ingress(struct l7mp_flow_action *a, const struct off_ingress *in);
/* AF_PACKET: key and action of frames received at `from`, sent at `to`; no ingress, egress. */
void off_frame_set(struct off_direction *dir, const struct l7mp_flow_end *from,
                   const struct l7mp_flow_end *to);
/* Do the two endpoints allow offload? L7MP_REASON_NONE, or the reason why not. */
enum l7mp_reason off_pair_check(const struct l7mp_flow_end *a, const struct l7mp_flow_end *b);

/* ---- flows ---- */

struct off_tcp_pair;
struct off_tap;

struct off_direction {
	union {
		struct l7mp_flow_key key;
		struct l7mp_frame_key frame; /* same leading fields; ifindex 0: not AF_PACKET */
	};
	struct l7mp_flow_counters now;
	/* counter_poll.serial when the flow was added. Next to `now`: the poll reads both. */
	uint64_t born;
	struct l7mp_flow *flow;
	uint64_t passed_seen;        /* hand-over: `passed` as last read */
	bool has_slot;               /* action.slot is allocated */
	bool has_rtp;                /* action.pair is an allocated index of the map `rtp` */
	struct l7mp_rtp_stream *rtp; /* the session's; NULL: no RTP statistics */
	union {
		struct l7mp_flow_action action;   /* the value in flows4 */
		struct l7mp_flow6_action action6; /* the value in flows6, which begins with it */
		struct l7mp_frame_action frames;  /* the value in frames */
	};
};

struct l7mp_flow {
	struct l7mp_flow *prev, *next;
	struct l7mp_flow *lprev, *lnext; /* in the list of flows being withdrawn */
	uint64_t cookie;
	struct off_direction dir[2]; /* packets from a's peer, packets from b's peer */
	uint64_t session;            /* key of its session record; 0: none */
	bool recorded;               /* the record is in the map */
	uint8_t n_dirs;
	uint8_t verb;
	bool beginning;                  /* not active yet: in handover.flows */
	bool agreed;                     /* `passed` equalled `relayed` at the last check */
	struct l7mp_flow *hprev, *hnext; /* in handover.flows */
	/* CLOCK_MONOTONIC: when it was added, last saw a packet, was last checked. */
	uint64_t added_us, settled_us, checked_us;
	bool out;                 /* changes.c has removed its map entries already */
	bool unmapped;            /* TCP: the same, before its owner takes it back */
	bool over;                /* TCP: has no owner any more; kept for late segments */
	struct off_tcp_pair *tcp; /* L7MP_VERB_SPLICE; else NULL */
	uint8_t out_reason;       /* enum l7mp_reason */
	/* TCP: it is being un-spliced; the engine's n_retries when that began. */
	bool leaving;
	unsigned leaving_retries;
	/* Routes to a's peer and to b's peer; the second only with two ends. AF_PACKET: NULL. */
	struct off_nexthop *nh[2];
	struct off_use use[2];
	/* AF_PACKET: the listeners' taps, the list of such flows, the link generation last seen. */
	struct off_tap *tap[2];
	struct l7mp_flow *fprev, *fnext;
	uint32_t links_seen;
	uint8_t counted; /* bit per direction: counted among its interface's entries */
};

/* ---- index ---- */

struct off_slot {
	uint64_t hash;
	struct off_direction *dir; /* NULL: free */
};

/* From keys to directions, which it borrows. All zero: empty. */
struct off_index {
	struct off_slot *slots;
	uint32_t n, mask;
};
struct off_direction *off_index_find(const struct off_index *t, const struct l7mp_frame_key *key);
int off_index_add(struct off_index *t, struct off_direction *dir); /* 0, -EEXIST, -ENOMEM */
/* No-op when it isn't in the table. Deleting the last entry frees the table's memory. */
void off_index_delete(struct off_index *t, const struct off_direction *dir);

/* ---- slots: state ---- */

enum { OFF_V4, OFF_V6, OFF_FRAME, OFF_FAMILIES }; /* families of flows, a map each */

struct off_grace; /* an RCU grace period, waited for in a worker thread */

#define OFF_SLOT_BLOCK 4096 /* slots that the counter poll reads at a time */

struct off_slots {
	uint32_t n;                  /* slots in the map */
	uint32_t n_used;             /* slots used by flows */
	uint32_t n_of[OFF_FAMILIES]; /* ... by family */
	uint32_t fresh;              /* slots from here on were never used */
	uint32_t *ready, n_ready;    /* stack of free slots */
	uint32_t *waiting;           /* freed, but a program may still count there; oldest first */
	uint32_t n_waiting;
	uint32_t n_covered;          /* the first ones in `waiting`, ready when `grace` ends */
	struct off_direction **dirs; /* user of each slot; NULL: free */
	uint32_t *used;              /* used slots in each block */
	struct l7mp_timer timer;
	struct off_grace *grace;
};

/* ---- hand-over: state ---- */

struct off_handover {
	volatile struct l7mp_handover *slots; /* the map's memory; NULL: none */
	struct l7mp_timer timer;
	struct l7mp_flow *flows; /* not active yet */
	struct l7mp_flow *at;    /* being checked; set to NULL when it is removed meanwhile */
	unsigned n_flows;
	unsigned first, n_free; /* of the ring `free` */
	uint16_t free[L7MP_HANDOVER_SLOTS];
	uint64_t forced;                      /* flows activated without a pause of their packets */
	uint8_t claimed[L7MP_HANDOVER_SLOTS]; /* 1: used by a flow of a previous daemon */
};

/* ---- RTP: state ---- */

struct off_rtp {
	struct l7mp_rtp *streams; /* the map's memory; NULL: none */
	uint16_t *free;           /* a ring of L7MP_RTP_STREAMS */
	uint8_t *claimed;         /* during adoption: 1 for each index used by an adopted flow */
	unsigned first, n_free;   /* of the ring `free` */
};

/* ---- counter poll: state ---- */

struct off_counter_slice; /* part of a poll, read by a worker thread */

struct off_counter_poll {
	struct l7mp_timer timer;
	struct off_counter_slice *read;
	uint32_t room;   /* slots per slice, at most OFF_SLOT_BLOCK */
	uint32_t next;   /* first slot of the next slice */
	uint64_t serial; /* of the last slice that was started */
	bool running;
	unsigned failed; /* consecutive failed slices */
	uint64_t begun_ms;
	/* Time spent in the loop and in the worker, entries read: this poll and the last one. */
	uint64_t spent_ns, read_ns, entries;
	uint64_t last_spent_ns, last_read_ns, last_entries;
	int64_t clock_ms; /* loop time minus CLOCK_MONOTONIC */
};

/* ---- the context ---- */

struct off_table {
	struct l7mp_loop *loop;
	/* After each counter poll of the whole table. */
	void (*polled)(void *arg);
	void *arg;
	/* Events for the sessions; NULL: none. */
	const struct l7mp_offload_events *events;
	void *events_arg;

	struct off_maps maps;
	struct off_index index; /* by key */
	struct off_slots slots;
	uint32_t version; /* of the last value written to a flow map */
	uint64_t n_flows;
	uint64_t n_records;                    /* in the map `sessions` */
	int n_cpus;                            /* possible CPUs */
	struct l7mp_flow_counter *zeros, *one; /* per-CPU values of one counter */
	struct off_counter_poll counter_poll;
	struct off_handover handover;
	struct off_rtp rtp;
};

/*
 * Sets a version that no other value has. Required before each write to a flow map: the programs
 * detect values that change while they read them by it (headers/flow.h).
 */
static inline void off_action_renew(struct off_table *tbl, struct l7mp_flow6_action *a)
{
	a->action.version = a->action.version_end = a->version6 = ++tbl->version;
}

/* ---- entries ---- */

/* A flow map; key and value sizes in bytes. */
struct off_entry_map {
	int fd;
	size_t key, value;
};

static inline unsigned off_entry_family(const struct off_direction *dir)
{
	if (dir->frame.ifindex)
		return OFF_FRAME;
	return dir->key.family == L7MP_FAMILY_V4 ? OFF_V4 : OFF_V6;
}

struct off_entry_map off_entry_map(const struct off_maps *maps, unsigned family);
/* The direction's key in its map's format. Borrowed. */
const void *off_entry_key(const struct off_direction *dir);
/* Writes a value; flows4 takes only its first part. 0 or negative errno. */
int off_entry_put(const struct off_maps *maps, const struct off_direction *dir,
                  const struct l7mp_flow6_action *value, uint64_t flags);
void off_entry_delete(const struct off_maps *maps, const struct off_direction *dir);
/* Is there any entry in the flow maps? */
bool off_entries_there(const struct off_maps *maps);
/* Deletes all entries; returns how many it deleted. */
unsigned off_entries_clear(const struct off_maps *maps);

/* ---- slots ---- */

int off_slots_start(struct off_table *tbl); /* after the maps; 0 or -ENOMEM */
void off_slots_stop(struct off_table *tbl);
/*
 * Allocates the direction's counter slot (action.slot); the caller zeroes the counters. -E2BIG:
 * max_flows is reached; -EAGAIN: all free slots still wait for a grace period.
 */
int off_slot_take(struct off_table *tbl, struct off_direction *dir);
/*
 * Adoption: marks the slot of a previous daemon's flow as used. To be called before the first
 * off_slot_take, and followed by off_slots_claimed. -EEXIST: another flow uses the slot; -EINVAL:
 * there is no such slot, or max_flows is reached.
 */
int off_slot_claim(struct off_table *tbl, struct off_direction *dir);
/*
 * After the last off_slot_claim: the other slots are free, those that were claimed and given back
 * since included. So the caller waits before (off_wait_for_programs) when it has removed a flow.
 */
void off_slots_claimed(struct off_table *tbl);
/* Frees the slot after the direction's entry was deleted from its map. No-op without a slot. */
void off_slot_give(struct off_table *tbl, struct off_direction *dir);
/*
 * Waits until all BPF programs that are running now have ended (an RCU grace period, some 10 ms).
 * Blocks. Any thread.
 */
void off_wait_for_programs(void);

/* ---- hand-over ---- */

int off_handover_start(struct off_table *tbl);
void off_handover_stop(struct off_table *tbl);
/*
 * Before the flow is written to its map: sets L7MP_FLOW_HANDOVER in its actions. Without a free
 * hand-over slot they are left unchanged, and the flow is active at once.
 */
void off_handover_prepare(struct off_table *tbl, struct l7mp_flow *flow);
/*
 * Adoption: marks the hand-over slot of a previous daemon's flow, if it has one, as used. Like
 * off_slot_claim; followed by off_handover_claimed.
 */
int off_handover_claim(struct off_table *tbl, struct off_direction *dir);
/* Undoes a successful off_handover_claim, when the flow is not adopted. */
void off_handover_unclaim(struct off_table *tbl, const struct off_direction *dir);
void off_handover_claimed(struct off_table *tbl);
/* After the flow was written to its map. The event `begun` follows, unless it is removed before. */
void off_handover_add(struct off_table *tbl, struct l7mp_flow *flow);
/* Removes the flow from those waiting for activation. No-op when it isn't one. */
void off_handover_drop(struct off_table *tbl, struct l7mp_flow *flow);
/* After the flow's entries were deleted: off_handover_drop, and frees its hand-over slots. */
void off_handover_release(struct off_table *tbl, struct l7mp_flow *flow);

/* ---- RTP ---- */

int off_rtp_start(struct off_table *tbl); /* after the maps; 0 or negative errno */
void off_rtp_stop(struct off_table *tbl);
/*
 * Before the direction is written to its map: allocates an entry of `rtp` for its statistics.
 * `stream` is borrowed until off_rtp_leave. 0; -ENOSPC: no free entry.
 */
int off_rtp_take(struct off_table *tbl, struct off_direction *dir, struct l7mp_rtp_stream *stream);
/* The direction becomes active: moves its statistics from the session into the map. */
void off_rtp_enter(struct off_table *tbl, const struct off_direction *dir);
/*
 * Adoption: marks the `rtp` entry of a previous daemon's flow as used. has_rtp stays false if the
 * index is invalid or used twice.
 */
void off_rtp_claim(struct off_table *tbl, struct off_direction *dir);
/* After all claims, before the first off_rtp_take: the other entries are free. */
void off_rtp_claimed(struct off_table *tbl);
/*
 * Adoption: connects a claimed entry with `stream` (borrowed until off_rtp_leave). `counting`: the
 * flow is active already; otherwise off_rtp_enter follows.
 */
void off_rtp_adopt(struct off_table *tbl, struct off_direction *dir, struct l7mp_rtp_stream *stream,
                   bool counting);
/*
 * After the direction's entry was deleted: moves the statistics back into the session and frees the
 * `rtp` entry. No-op without one.
 */
void off_rtp_leave(struct off_table *tbl, struct off_direction *dir);

/* ---- counters ---- */

int off_counter_poll_start(struct off_table *tbl);
void off_counter_poll_stop(struct off_table *tbl);
/* Zeroes a direction's counters on all CPUs. 0 or negative errno. */
int off_counter_clear(struct off_table *tbl, const struct off_direction *dir);
/* Reads a direction's counters from the kernel, summed over the CPUs, into dir->now. */
void off_counter_read(struct off_table *tbl, struct off_direction *dir);

/* ---- records ---- */

uint64_t off_record_id(const struct l7mp_flow_owner *owner); /* 0: it has no session */
/* Writes the flow's session record. No-op without a session. 0 or negative errno. */
int off_record_put(struct off_table *tbl, struct l7mp_flow *flow,
                   const struct l7mp_flow_owner *owner);
void off_record_delete(struct off_table *tbl, struct l7mp_flow *flow);
/*
 * Reads a record that a previous daemon wrote. The strings in *out point into *texts, a new tree
 * that the caller frees (NULL on failure). 0; -ENOENT; -EPROTO: another version; -EBADMSG: invalid.
 */
int off_record_get(const struct off_table *tbl, uint64_t id, struct l7mp_flow_owner *out,
                   cJSON **texts);
