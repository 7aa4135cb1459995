/* SPDX-License-Identifier: MIT */
/*
 * The contract between the BPF programs and user space: every map's key and
 * value. Included by both, so only <linux/types.h>.
 *
 * Addresses are byte arrays and ports of the key are in network order, as they
 * are in the packet; the value repeats the ports in host order, so that
 * `bpftool map dump pinned .../flows` reads like the flow. All padding is
 * explicit and zero (the kernel compares keys byte by byte; without CAP_PERFMON the
 * verifier refuses structs with uninitialised bytes).
 *
 * A change of any size, offset or meaning here increments L7MP_ABI_VERSION,
 * which is part of the pin path: /sys/fs/bpf/l7mp/<instance>/ holds `abi`, and a daemon refuses
 * to use (no_init) maps of another version.
 */
#pragma once

#include <linux/types.h>

#define L7MP_ABI_VERSION 3

/* Map and program names: at most 15 characters (BPF_OBJ_NAME_LEN - 1). */
#define L7MP_MAP_FLOWS    "flows"
#define L7MP_MAP_COUNTERS "counters"
#define L7MP_MAP_VERDICTS "verdicts"
#define L7MP_MAP_DEVICES  "devices"
#define L7MP_MAP_SESSIONS "sessions"
#define L7MP_MAP_ABI      "abi"
#define L7MP_MAP_ATTACHED "attached"
#define L7MP_MAP_HANDOVER "handover"

#define L7MP_PROG_XDP   "l7mp_xdp"
#define L7MP_PROG_TC    "l7mp_tc"
#define L7MP_PROG_TC_L3 "l7mp_tc_l3" /* for devices without a link-layer header (tun) */

#define L7MP_FLOWS_DEFAULT 262144
#define L7MP_IFS_MAX       1024 /* interfaces: entries of `devices` and `attached` */

enum l7mp_abi_family { L7MP_FAMILY_V4 = 4, L7MP_FAMILY_V6 = 6 };

/* IPv4 in the first four bytes, the rest zero. Aligned, so that it is copied in words. */
struct l7mp_abi_addr {
	__u8 bytes[16];
} __attribute__((aligned(4)));

/* flows and counters: the packet's 5-tuple as it comes in. */
struct l7mp_flow_key {
	struct l7mp_abi_addr saddr;
	struct l7mp_abi_addr daddr;
	__be16 sport;
	__be16 dport;
	__u8 l4;     /* IPPROTO_UDP; IPPROTO_TCP is reserved */
	__u8 family; /* enum l7mp_abi_family */
	__u8 pad[2];
};

enum l7mp_flow_verb {
	L7MP_VERB_FORWARD = 1, /* rewrite and redirect */
	L7MP_VERB_REFLECT = 2, /* send back where it came from (Echo) */
	L7MP_VERB_COUNT = 3,   /* count and drop (Discard) */
};

enum l7mp_flow_flags {
	L7MP_FLOW_TO_INGRESS = 1 << 0, /* into the receive path of ifindex (lo): tc only */
	L7MP_FLOW_NEIGH = 1 << 1,      /* let the kernel find the link addresses: tc only */
	L7MP_FLOW_TC_ONLY = 1 << 2,    /* XDP can't send it out: the tc program behind it can */
	L7MP_FLOW_HANDOVER = 1 << 3,   /* begins when user space has caught up: see l7mp_handover */
};

/*
 * What is done to a packet of the flow. The checksum deltas are constant per
 * flow, because the key fixes every old value (RFC 1624: HC' = ~(~HC + ~m + m')):
 * each is the one's-complement sum of ~old and new words, in the byte order of the
 * packet, folded to 16 bits.
 */
struct l7mp_flow_action {
	/* What the programs read for every packet, together, and in groups of 8 bytes. */
	__u32 match_tag; /* l7mp_match_tag() of the key; first, as the kernel writes in this order: headers/flow.h */
	__u32 handover;             /* with L7MP_FLOW_HANDOVER: its place in the map of that name */
	struct l7mp_abi_addr saddr; /* new addresses */
	struct l7mp_abi_addr daddr;
	__be16 sport; /* new ports, network order */
	__be16 dport;
	__u8 verb;    /* enum l7mp_flow_verb */
	__u8 n_vlans; /* tags to send with: 0, 1 or 2, outer first */
	__u16 flags;
	__u32 ifindex; /* where it leaves: real device for XDP, route's device for tc */
	__u32 mtu;     /* largest IP packet that may leave there */
	__u8 dmac[6];
	__u8 smac[6];
	__u32 csum_l3;   /* IPv4 header: the addresses, and TTL less one */
	__u32 csum_addr; /* pseudo header: the addresses */
	__u32 csum_port; /* the ports */
	/* Link address that the packets are sent to; XDP has no other way to know. */
	__u8 in_mac[6];
	__u8 pad0[2];
	__be16 vlan_proto[2]; /* ETH_P_8021Q, ETH_P_8021AD in network order */
	__be16 vlan_tci[2];

	__u16 sport_host; /* the new ports, for people */
	__u16 dport_host;
	__u16 match_sport_host; /* the key's, for people */
	__u16 match_dport_host;
	__u64 session; /* id of the session: key of `sessions` */
	__u64 cookie;  /* of the pipe's owner in user space */

	/*
	 * Reserved for TCP splicing: added to sequence, acknowledgement, timestamps; window shift.
	 */
	__u32 seq_delta;
	__u32 ack_delta;
	__u32 ts_delta;
	__u32 ts_echo_delta;
	__s8 window_shift;
	__u8 tcp_flags;
	__u8 pad[6];
};

/*
 * handover: an array of these, written by both sides (BPF_F_MMAPABLE), so that a flow begins
 * without overtaking what is still on its way through user space. While the two numbers differ, the
 * programs pass the flow's packets up and count them in `passed`. User space notes `passed`, relays
 * all that its sockets hold, and stores what it noted in `relayed`. If the next packet finds
 * both equal, nothing is left in front of it: from then on the flow is fast, because nobody changes
 * the numbers any more. `passed` begins with 1 and `relayed` with 0, for what came before the flow
 * was there.
 */
struct l7mp_handover {
	__u64 passed;  /* the programs', atomically */
	__u64 relayed; /* user space's */
};
#define L7MP_HANDOVER_SLOTS 4096

/* counters: per CPU. A flow's counter is the sum over the CPUs. */
struct l7mp_flow_counter {
	__u64 packets;   /* wire datagrams: a GSO packet counts its segments */
	__u64 bytes;     /* transport payload */
	__u64 last_seen; /* CLOCK_MONOTONIC ns, coarse; 0: never */
	__u64 tick;      /* jiffies when last_seen was set; the programs' own */
};

/* verdicts: per-CPU array. X(identifier, text, what it means) */
#define L7MP_VERDICTS(X)                                                                           \
	X(FORWARDED, "forwarded", "rewritten and redirected")                                      \
	X(REFLECTED, "reflected", "sent back by an Echo flow")                                     \
	X(COUNTED, "counted", "swallowed by a Discard flow")                                       \
	X(PASS_NO_FLOW, "no-flow", "no flow matches")                                              \
	X(PASS_NOT_IP, "not-ip", "not IPv4 or IPv6, or more than two VLAN tags")                   \
	X(PASS_NOT_UDP, "not-udp", "another transport protocol or an extension header")            \
	X(PASS_NOT_HOST, "not-host",                                                               \
	  "link address is not this host's own: multicast, broadcast, other")                      \
	X(PASS_TRUNCATED, "truncated", "shorter than its headers say")                             \
	X(PASS_MALFORMED, "malformed", "header fields that contradict each other")                 \
	X(PASS_OPTIONS, "ip-options", "IPv4 options")                                              \
	X(PASS_FRAGMENT, "fragment", "IPv4 fragment")                                              \
	X(PASS_TTL, "ttl", "TTL or hop limit is 1 or 0")                                           \
	X(PASS_CHECKSUM, "checksum", "UDP over IPv6 without a checksum")                           \
	X(PASS_MTU, "mtu", "larger than the way out takes")                                        \
	X(PASS_DEVICE, "device", "the way out is not there any more")                              \
	X(PASS_VLAN, "vlan", "the tags can't be changed as the flow needs")                        \
	X(PASS_TO_TC, "to-tc", "left to the tc program of the interface")                          \
	X(PASS_STALE, "stale", "the flow was replaced while it was read")                          \
	X(PASS_HANDOVER, "handover", "what came before it is still on its way through user space") \
	X(PASS_KERNEL, "kernel", "a helper function refused, or the flow is of an unknown kind")

#define L7MP_VERDICT_ENUM(id, text, doc) L7MP_VERDICT_##id,
enum l7mp_verdict { L7MP_VERDICTS(L7MP_VERDICT_ENUM) L7MP_VERDICT_COUNT };
#undef L7MP_VERDICT_ENUM

/*
 * sessions: what a restarted daemon needs to take a session over, keyed by the
 * session id of its flows (XXH3 of the name). Reserved: written, not yet read.
 */
struct l7mp_abi_session {
	__u64 started_ms; /* wall clock */
	char name[128];   /* all of them names, ending with a zero; "": none, or too long */
	char listener[128];
	char route[128];
	char cluster[128];
	char endpoint[128];
};

/* abi: an array of one. */
struct l7mp_abi_info {
	__u32 version;
	__u32 max_flows;
};

/* attached: by interface index, what a daemon put there and what its successor takes away. */
enum l7mp_attached_flags {
	L7MP_ATTACHED_CLSACT = 1 << 0,  /* we made the clsact qdisc */
	L7MP_ATTACHED_SYSCTLS = 1 << 1, /* lo: old_* were changed */
};

struct l7mp_abi_attached {
	__u32 flags;
	__s32 old_route_localnet; /* -1: not touched */
	__s32 old_accept_local;
	char name[16]; /* of the interface then */
	__u32 pad;
};

#define L7MP_ABI_ASSERT(cond) _Static_assert(cond, #cond)
L7MP_ABI_ASSERT(sizeof(struct l7mp_flow_key) == 40);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_key, sport) == 32);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, match_tag) == 0);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, saddr) == 8);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, daddr) == 24);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, sport) == 40);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, dmac) == 56);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, csum_l3) == 68);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, csum_addr) == 72);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, vlan_proto) == 88);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, sport_host) == 96);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, session) == 104);
L7MP_ABI_ASSERT(sizeof(struct l7mp_flow_action) == 144);
L7MP_ABI_ASSERT(sizeof(struct l7mp_handover) == 16);
L7MP_ABI_ASSERT(sizeof(struct l7mp_flow_counter) == 32);
L7MP_ABI_ASSERT(sizeof(struct l7mp_abi_attached) == 32);
