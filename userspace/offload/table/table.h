/* SPDX-License-Identifier: MIT */
/*
 * What is in the kernel: the maps (maps.h), and for each flow its key, action and counters here.
 *
 *   maps, pins   BPF objects and their pins     index      from keys to the directions of flows
 *   entries      of the maps of flows           slots      places of their counters
 *   counters     the counter poll               handover   how a flow begins without overtaking
 *   rtp          statistics of RTP flows
 *   record       sessions, for a successor      translate  from sessions' ends to keys and actions
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/log.h"
#include "maps.h"
#include "offload/path/path.h"

/* ---- translate: pure functions ---- */

struct off_direction;

/* Where the packets of a flow must come in: see struct l7mp_flow_action. */
struct off_ingress {
	uint32_t ifindex;
	uint8_t mac[6];
	uint16_t vlan_proto[2]; /* network order, outer first; 0: no tag */
	uint16_t vlan_id[2];
};

/* How a packet of a flow leaves, and by which interface. */
struct off_egress {
	uint32_t ifindex;
	uint32_t mtu;
	uint16_t flags; /* enum l7mp_flow_flags */
	uint8_t dmac[6], smac[6];
	uint8_t n_vlans;
	uint16_t vlan_proto[2]; /* network order, outer first */
	uint16_t vlan_tci[2];
};
/* The key of packets from -> to. Both of one family, with ports. */
void off_key_set(struct l7mp_flow_key *key, uint8_t l4, const struct l7mp_addr *from,
                 const struct l7mp_addr *to);
/* An address of the key and its port (network order). */
void off_key_to_addr(const struct l7mp_flow_key *key, const uint8_t *ip, uint16_t port,
                     struct l7mp_addr *out);
/* The action that makes them packets of src -> dst: everything but ingress and egress. */
void off_action_set(struct l7mp_flow6_action *a, const struct l7mp_flow_key *key,
                    enum l7mp_flow_verb verb, const struct l7mp_addr *src,
                    const struct l7mp_addr *dst);
/* What the sockets of the ends decide: `from` receives the packets, `to` would send them on. */
void off_action_set_ends(struct l7mp_flow_action *a, const struct l7mp_flow_end *from,
                         const struct l7mp_flow_end *to);
void off_action_set_egress(struct l7mp_flow_action *a, const struct off_egress *x);
void off_action_set_ingress(struct l7mp_flow_action *a, const struct off_ingress *in);
/* Key and action of what comes in at `from` and leaves by `to`, AF_PACKET: but ingress, egress. */
void off_frame_set(struct off_direction *dir, const struct l7mp_flow_end *from,
                   const struct l7mp_flow_end *to);
/* May this pair be offloaded as far as its ends tell? NONE or the reason. */
enum l7mp_reason off_pair_check(const struct l7mp_flow_end *a, const struct l7mp_flow_end *b);

/* ---- flows ---- */

struct off_tcp_pair;
struct off_tap;

struct off_direction {
	union {
		struct l7mp_flow_key key;
		struct l7mp_frame_key frame; /* begins like it; ifindex 0: no frames */
	};
	struct l7mp_flow_counters now;
	uint64_t born; /* the poll's serial number then; beside `now`: the poll touches both */
	struct l7mp_flow *flow;
	uint64_t noted;              /* of the hand-over: `passed` when it was looked at last */
	bool has_slot;               /* action.slot is ours */
	bool has_rtp;                /* action.pair is our place in the map `rtp` */
	struct l7mp_rtp_stream *rtp; /* the session's; NULL: no statistics of RTP */
	union {
		struct l7mp_flow_action action;   /* all of an entry of flows4 */
		struct l7mp_flow6_action action6; /* the same, and what flows6 has more */
		struct l7mp_frame_action frames;  /* of an entry of frames */
	};
};

struct l7mp_flow {
	struct l7mp_flow *prev, *next;
	struct l7mp_flow *lprev, *lnext; /* among those that leave */
	uint64_t cookie;
	struct off_direction dir[2]; /* what a's peer sends, what b's peer sends */
	uint64_t session;            /* key of its record; 0: none */
	bool recorded;               /* it is there */
	uint8_t n_dirs;
	uint8_t verb;
	bool beginning;                  /* in the engine's list of hand-overs */
	bool agreed;                     /* its numbers were equal when it was looked at last */
	struct l7mp_flow *hprev, *hnext; /* there */
	/* CLOCK_MONOTONIC: when it was added, last saw a packet, was last examined. */
	uint64_t added_us, settled_us, looked_us;
	bool out;                 /* taken out of the map already, by changes.c */
	bool unmapped;            /* the same, as its owner is about to have it back (TCP) */
	bool over;                /* TCP: has no owner any more, and stays for what is late */
	struct off_tcp_pair *tcp; /* L7MP_VERB_SPLICE; else NULL */
	uint8_t out_reason;       /* enum l7mp_reason */
	/* To a's peer, to b's peer; the second only with two sides. AF_PACKET: NULL. */
	struct off_nexthop *nh[2];
	struct off_use use[2];
	/* AF_PACKET: whose frames these are; among all such flows; the links when it last looked */
	struct off_tap *tap[2];
	struct l7mp_flow *fprev, *fnext;
	uint32_t links_seen;
	uint8_t counted; /* bits by direction: it is among the entries of its interface */
};

/* ---- index ---- */

struct off_slot {
	uint64_t hash;
	struct off_direction *dir; /* NULL: free */
};

/* From keys to sides, which it borrows. All zero: empty. */
struct off_index {
	struct off_slot *slots;
	uint32_t n, mask;
};
struct off_direction *off_index_find(const struct off_index *t, const struct l7mp_frame_key *key);
int off_index_add(struct off_index *t, struct off_direction *dir); /* 0, -EEXIST, -ENOMEM */
/* No-op when it is not there. The last one frees the table's memory. */
void off_index_delete(struct off_index *t, const struct off_direction *dir);

/* ---- slots: state ---- */

enum { OFF_V4, OFF_V6, OFF_FRAME, OFF_FAMILIES }; /* of flows: each has a map */

struct off_grace; /* a wait for the programs, in a worker thread */

#define OFF_SLOT_BLOCK 4096 /* slots that the counter poll reads at a time */

struct off_slots {
	uint32_t n;                  /* of the map */
	uint32_t n_used;             /* that flows have */
	uint32_t n_of[OFF_FAMILIES]; /* ... by family */
	uint32_t fresh;              /* from here on none was ever used */
	uint32_t *ready, n_ready;    /* to be taken, the last one first */
	uint32_t *waiting;           /* given back, but a program may still count there */
	uint32_t n_waiting;          /* oldest first; */
	uint32_t n_covered;          /* so many of them will be ready when `grace` is back */
	struct off_direction **dirs; /* whose slot it is; NULL: nobody's */
	uint32_t *used;              /* number in each block */
	struct l7mp_timer timer;
	struct off_grace *grace;
};

/* ---- hand-over: state ---- */

struct off_handover {
	volatile struct l7mp_handover *slots; /* the map's memory; NULL: none */
	struct l7mp_timer timer;
	struct l7mp_flow *flows; /* that have not begun */
	struct l7mp_flow *at;    /* that is looked at; NULL when it was removed meanwhile */
	unsigned n_flows;
	unsigned first, n_free; /* in free, a ring */
	uint16_t free[L7MP_HANDOVER_SLOTS];
	uint64_t forced;                      /* that began though their stream did not pause */
	uint8_t claimed[L7MP_HANDOVER_SLOTS]; /* 1: by a flow of an earlier process */
};

/* ---- RTP: state ---- */

struct off_rtp {
	struct l7mp_rtp *streams; /* the map's memory; NULL: none */
	uint16_t *free;           /* a ring of L7MP_RTP_STREAMS */
	uint8_t *claimed;         /* while flows are adopted: 1 for each place that has one */
	unsigned first, n_free;   /* in free */
};

/* ---- counter poll: state ---- */

struct off_counter_slice; /* a slice, on its way through a worker thread */

struct off_counter_poll {
	struct l7mp_timer timer;
	struct off_counter_slice *read;
	uint32_t room;   /* slots a slice, at most OFF_SLOT_BLOCK */
	uint32_t next;   /* slot */
	uint64_t serial; /* of the slice that is read or was read last */
	bool running;
	unsigned failed; /* slices in a row */
	uint64_t begun_ms;
	/* of this poll and of the last one: the loop's time, the worker's time, entries */
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
	/* The session side's events; NULL: none. */
	const struct l7mp_offload_events *events;
	void *events_arg;

	struct off_maps maps;
	struct off_index index; /* by key */
	struct off_slots slots;
	uint32_t version; /* of the value that was written last */
	uint64_t n_flows;
	uint64_t n_records;                    /* in the map `sessions` */
	int n_cpus;                            /* possible ones */
	struct l7mp_flow_counter *zeros, *one; /* one entry's values, of n_cpus */
	struct off_counter_poll counter_poll;
	struct off_handover handover;
	struct off_rtp rtp;
};

/*
 * Gives the action a version that no other has. Before each write into the map of flows: the
 * programs rely on it (headers/flow.h).
 */
static inline void off_action_renew(struct off_table *tbl, struct l7mp_flow6_action *a)
{
	a->action.version = a->action.version_end = a->version6 = ++tbl->version;
}

/* ---- entries ---- */

/* One of the maps of flows: sizes in bytes. */
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
/* The direction's key as its map has it. Borrowed. */
const void *off_entry_key(const struct off_direction *dir);
/* Writes a value, of which IPv4 has only the first part. 0 or negative errno. */
int off_entry_put(const struct off_maps *maps, const struct off_direction *dir,
                  const struct l7mp_flow6_action *value, uint64_t flags);
void off_entry_delete(const struct off_maps *maps, const struct off_direction *dir);
/* Whether there are any. */
bool off_entries_there(const struct off_maps *maps);
/* Deletes all; returns how many there were. */
unsigned off_entries_clear(const struct off_maps *maps);

/* ---- slots ---- */

int off_slots_start(struct off_table *tbl); /* after the maps; 0 or -ENOMEM */
void off_slots_stop(struct off_table *tbl);
/*
 * Gives the direction a slot (action.slot), which the caller zeroes. -E2BIG: as many flows are
 * there as there may be; -EAGAIN: no slot is ready, some will be soon.
 */
int off_slot_take(struct off_table *tbl, struct off_direction *dir);
/*
 * Before any is taken: the direction of an earlier process keeps its slot. -EEXIST: another one
 * has it; -EINVAL: there is none of that number. off_slots_claimed follows.
 */
int off_slot_claim(struct off_table *tbl, struct off_direction *dir);
/* All slots but those are free. */
void off_slots_claimed(struct off_table *tbl);
/* Its entry is out of the map. No-op without a slot. */
void off_slot_give(struct off_table *tbl, struct off_direction *dir);
/*
 * Returns when all programs that run now have ended; that takes some 10 ms. Any thread.
 */
void off_wait_for_programs(void);

/* ---- hand-over ---- */

int off_handover_start(struct off_table *tbl);
void off_handover_stop(struct off_table *tbl);
/*
 * Before it goes into the map: marks its actions. Without a free place they stay as they are, and
 * it begins at once.
 */
void off_handover_prepare(struct off_table *tbl, struct l7mp_flow *flow);
/*
 * Before any is taken: the direction of an earlier process keeps its place, if it has one. Like
 * off_slot_claim. off_handover_claimed follows.
 */
int off_handover_claim(struct off_table *tbl, struct off_direction *dir);
void off_handover_claimed(struct off_table *tbl);
/* It is in the map now; the event `begun` follows, unless it is removed before. */
void off_handover_add(struct off_table *tbl, struct l7mp_flow *flow);
/* Not any more among those that begin. */
void off_handover_drop(struct off_table *tbl, struct l7mp_flow *flow);
/* It is out of the map: the same, and its places are free again. */
void off_handover_release(struct off_table *tbl, struct l7mp_flow *flow);

/* ---- RTP ---- */

int off_rtp_start(struct off_table *tbl); /* after the maps; 0 or negative errno */
void off_rtp_stop(struct off_table *tbl);
/*
 * Before the direction goes into the map: a place for the statistics of its packets. `stream` is
 * borrowed until off_rtp_leave. 0; -ENOSPC: there is no place.
 */
int off_rtp_take(struct off_table *tbl, struct off_direction *dir, struct l7mp_rtp_stream *stream);
/* The programs take the direction's packets from now on: the statistics go on in the map. */
void off_rtp_enter(struct off_table *tbl, const struct off_direction *dir);
/*
 * At the adoption: the place that an earlier process took for the direction. When it is not valid,
 * or used twice, has_rtp stays false.
 */
void off_rtp_claim(struct off_table *tbl, struct off_direction *dir);
/* After all claims, before the first off_rtp_take: the other places are free. */
void off_rtp_claimed(struct off_table *tbl);
/*
 * The statistics of a claimed place are those of `stream` (borrowed until off_rtp_leave). Without
 * `counting` the programs do not count there yet, and off_rtp_enter follows.
 */
void off_rtp_adopt(struct off_table *tbl, struct off_direction *dir, struct l7mp_rtp_stream *stream,
                   bool counting);
/* It is out of the map: the statistics go on in the session. No-op without a place. */
void off_rtp_leave(struct off_table *tbl, struct off_direction *dir);

/* ---- counters ---- */

int off_counter_poll_start(struct off_table *tbl);
void off_counter_poll_stop(struct off_table *tbl);
/* Sets a direction's counter to zero. 0 or negative errno. */
int off_counter_clear(struct off_table *tbl, const struct off_direction *dir);
/* Updates dir->now from the kernel: the sum over the CPUs. */
void off_counter_read(struct off_table *tbl, struct off_direction *dir);

/* ---- records ---- */

uint64_t off_record_id(const struct l7mp_flow_owner *owner); /* 0: it has no session */
/* 0 or negative errno. */
int off_record_put(struct off_table *tbl, struct l7mp_flow *flow,
                   const struct l7mp_flow_owner *owner);
void off_record_delete(struct off_table *tbl, struct l7mp_flow *flow);
/*
 * Reads what an earlier process has written. The texts of *out are in *texts, a new tree (NULL on
 * failure). 0; -ENOENT; -EPROTO another version; -EBADMSG.
 */
int off_record_get(const struct off_table *tbl, uint64_t id, struct l7mp_flow_owner *out,
                   cJSON **texts);
