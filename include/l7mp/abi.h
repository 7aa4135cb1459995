/* SPDX-License-Identifier: MIT */
/*
 * The contract between the BPF programs and user space: the key and the value of every map. Both
 * include it, so it needs nothing but <linux/types.h>.
 *
 * Addresses are byte arrays, and the ports of the key are in network order, as they are in the
 * packet. The value repeats the ports in host order, so that `bpftool map dump pinned .../flows4`
 * reads like the flow. All padding is explicit and zero: the kernel compares keys byte by byte, and
 * without CAP_PERFMON the verifier refuses structs with uninitialised bytes.
 *
 * A change of any size, offset or meaning here increments L7MP_ABI_VERSION. The pin directory
 * /sys/fs/bpf/l7mp/<instance>/ holds it in the map `abi`, and a daemon that is to use what is
 * pinned there (admin.offload: no_init) refuses another version.
 *
 * All versions since 5 share the following, by which a daemon lets the flows of another version go
 * on until they end (offload/drain.c), so it must not change:
 *  - the names of the pinned programs and of the maps that are named below;
 *  - `abi` is an array, and its entry begins with the version as __u32;
 *  - flows4 and flows6 are hashes with the keys l7mp_flow4_key and l7mp_flow_key, one entry for
 *    each direction; frames is a hash, and what is deleted from it is left to the stack;
 *  - `verdicts` is a per-CPU array of __u64; the first three entries count packets that a flow has
 *    handled;
 *  - `attached` has values of struct l7mp_abi_attached, or of another size;
 *  - the tc programs return TC_ACT_UNSPEC, and the XDP program XDP_PASS, for a packet without flow.
 *
 * Version 5 has flows4 and flows6 in the place of one map `flows`, and counters by the action's
 * slot instead of the key, and tcp_pairs (abi_tcp.h). Version 6 has frames and frame_ifs
 * (AF_PACKET), and rtp (abi_rtp.h).
 */
#pragma once

#include <linux/types.h>

#define L7MP_ABI_VERSION 7

/* Map and program names: at most 15 characters (BPF_OBJ_NAME_LEN - 1). */
#define L7MP_MAP_FLOWS4    "flows4"
#define L7MP_MAP_FLOWS6    "flows6"
#define L7MP_MAP_FRAMES    "frames"
#define L7MP_MAP_FRAME_IFS "frame_ifs"
#define L7MP_MAP_COUNTERS  "counters"
#define L7MP_MAP_VERDICTS  "verdicts"
#define L7MP_MAP_DEVICES   "devices"
#define L7MP_MAP_SESSIONS  "sessions"
#define L7MP_MAP_ABI       "abi"
#define L7MP_MAP_ATTACHED  "attached"
#define L7MP_MAP_HANDOVER  "handover"

#define L7MP_PROG_XDP   "l7mp_xdp"
#define L7MP_PROG_TC    "l7mp_tc"
#define L7MP_PROG_TC_L3 "l7mp_tc_l3" /* for devices without a link-layer header (tun) */
#define L7MP_PROG_TAP   "l7mp_tap"   /* the filter of packet sockets */

#define L7MP_FLOWS_DEFAULT 262144 /* entries of flows4, flows6 and frames together */
#define L7MP_IFS_MAX       1024   /* interfaces: entries of `devices` and `attached` */

enum l7mp_abi_family {
	L7MP_FAMILY_MAC = 1, /* frames only: the addresses are link addresses */
	L7MP_FAMILY_ANY = 2, /* frames only: all frames of a type */
	L7MP_FAMILY_V4 = 4,
	L7MP_FAMILY_V6 = 6,
};

/* An IPv6 address; user space keeps IPv4 in the first four bytes. Aligned: copied in words. */
struct l7mp_abi_addr {
	__u8 bytes[16];
} __attribute__((aligned(4)));

/* Key of flows4: the 5-tuple of a received packet. */
struct l7mp_flow4_key {
	__u8 saddr[4];
	__u8 daddr[4];
	__be16 sport;
	__be16 dport;
	__u8 l4; /* IPPROTO_UDP or IPPROTO_TCP */
	__u8 pad[3];
} __attribute__((aligned(4)));

/* Key of flows6. User space also uses it for IPv4 flows, distinguished by `family`. */
struct l7mp_flow_key {
	struct l7mp_abi_addr saddr;
	struct l7mp_abi_addr daddr;
	__be16 sport;
	__be16 dport;
	__u8 l4;
	__u8 family; /* enum l7mp_abi_family; in flows6 always L7MP_FAMILY_V6 */
	__u8 pad[2];
};

/*
 * Key of frames: a conversation on an interface, or all its frames. The first fields are those of
 * struct l7mp_flow_key; only keys of frames contain an interface.
 */
struct l7mp_frame_key {
	struct l7mp_abi_addr saddr; /* IPv4, link addresses: the first bytes; ANY: zero */
	struct l7mp_abi_addr daddr;
	__be16 sport; /* 0: neither UDP nor TCP, or a fragment; ANY: zero */
	__be16 dport;
	__u8 l4;     /* protocol of IP; MAC, ANY: 0 */
	__u8 family; /* enum l7mp_abi_family */
	/*
	 * EtherType after the tags, in host order. ANY: 0 for all types; the EtherType of a tag
	 * for the frames with such a tag.
	 */
	__u16 type;
	__u16 vlan[2]; /* outer and inner id, in host order; L7MP_NO_VLAN: none; ANY: zero */
	__u32 ifindex; /* ingress interface */
};
#define L7MP_NO_VLAN 0xffff

enum l7mp_flow_verb {
	L7MP_VERB_FORWARD = 1, /* rewrite and redirect */
	L7MP_VERB_REFLECT = 2, /* send back where it came from (Echo) */
	L7MP_VERB_COUNT = 3,   /* count and drop (Discard) */
	L7MP_VERB_SPLICE = 4,  /* translate the segments of a pair of TCP connections (abi_tcp.h) */
	L7MP_VERB_FRAME = 5,   /* redirect whole frames (AF_PACKET) */
};

enum l7mp_flow_flags {
	L7MP_FLOW_TO_INGRESS = 1 << 0, /* into the receive path of ifindex (lo): tc only */
	L7MP_FLOW_NEIGH = 1 << 1,      /* let the kernel resolve the link addresses: tc only */
	L7MP_FLOW_TC_ONLY = 1 << 2,    /* XDP can't transmit it: left to the tc program */
	L7MP_FLOW_HANDOVER = 1 << 3,   /* active after the hand-over: see l7mp_handover */
	L7MP_FLOW_KEEP_TOS = 1 << 4,   /* DSCP and ECN are not changed; else set to `tos` */
	L7MP_FLOW_JSON_UP = 1 << 5,    /* pass to the stack if it begins with {: JSONSocket */
	L7MP_FLOW_RTP = 1 << 9,        /* RTP: `pair` is its index in the map `rtp` (abi_rtp.h) */
	L7MP_FLOW_SET_DMAC = 1 << 6,   /* frames: sent with the action's link addresses */
	L7MP_FLOW_SET_SMAC = 1 << 7,
	L7MP_FLOW_COPY = 1 << 8, /* frames: send a clone, pass the frame to the stack: tc only */
};

/*
 * Value of flows4, and first part of that of flows6: which packets match the flow, and what is done
 * with them.
 *
 * The programs read the fields up to version_end for every packet, in groups of 8 bytes; the
 * fields after it are for people (bpftool). In an entry of flows4 that is the second and the third
 * cache line; the kernel's own part and the key are in the first. The kernel reuses the memory of
 * an entry that was deleted or replaced immediately, while a program may still read it. So the
 * value repeats its key, and user space writes a unique number into `version` and `version_end` of
 * each value: headers/flow.h describes how the programs use them to detect that the entry was
 * reused.
 *
 * The checksum deltas are constant per flow, because the key fixes every old value (RFC 1624:
 * HC' = ~(~HC + ~m + m')): each is the one's-complement sum of ~old and new words, in the byte
 * order of the packet, folded to 16 bits.
 */
struct l7mp_flow_action {
	__u32 version;
	/* Ingress interface: that of the program, not a VLAN device on top of it. */
	__u32 in_ifindex;
	struct l7mp_flow4_key key; /* IPv6: the addresses are zero here, and in l7mp_flow6_action */
	__u8 saddr[4];             /* new addresses; the same */
	__u8 daddr[4];
	__be16 sport; /* new ports, network order */
	__be16 dport;
	__u8 verb;    /* enum l7mp_flow_verb */
	__u8 n_vlans; /* tags to send with: 0, 1 or 2, outer first */
	__u16 flags;
	__u32 ifindex; /* egress: the real device for XDP, the route's device for tc */
	__u32 mtu;     /* of the egress: largest IP packet, in bytes */
	__u8 dmac[6];
	__u8 smac[6];
	__u8 in_mac[6];       /* destination link address of the received packets */
	__u16 csum_l3;        /* IPv4 header: the addresses, and TTL less one */
	__u16 csum_addr;      /* pseudo header: the addresses */
	__u16 csum_port;      /* the ports */
	__be16 vlan_proto[2]; /* of the tags to send with: ETH_P_8021Q, ETH_P_8021AD */
	__be16 vlan_tci[2];
	/* Tags of the received packets, outer first; unused entries are zero. */
	__be16 in_vlan_proto[2];
	__be16 in_vlan_id[2];
	/* L7MP_VERB_SPLICE: index in the map `tcp_pairs`; L7MP_FLOW_RTP: in `rtp` */
	__u32 pair;
	__u32 pair_id;  /* ... and the id that the pair must have; 0: none */
	__u16 handover; /* with L7MP_FLOW_HANDOVER: its index in the map of that name */
	__u8 tos;       /* without L7MP_FLOW_KEEP_TOS: TOS (IPv6: traffic class) to send with */
	__u8 dir; /* 0: from the source, 1: from the destination. L7MP_VERB_SPLICE: of the pair */
	__u32 pad;
	__u32 slot;        /* index in counters */
	__u32 version_end; /* the same as `version` */

	__u16 sport_host; /* the new ports in host order */
	__u16 dport_host;
	__u16 match_sport_host; /* those of the key in host order */
	__u16 match_dport_host;
	__u64 session; /* id of the session: key of `sessions` */
};

/* Value of flows6. */
struct l7mp_flow6_action {
	struct l7mp_flow_action action;
	struct l7mp_abi_addr match_saddr; /* of the key */
	struct l7mp_abi_addr match_daddr;
	struct l7mp_abi_addr saddr; /* new addresses */
	struct l7mp_abi_addr daddr;
	__u32 pad;
	__u32 version6; /* the same as action.version */
};

/*
 * Value of frames. Fields that it shares with that of flows6 have the same offsets, so that user
 * space writes, counts and hands over flows of all maps by the same code.
 */
struct l7mp_frame_action {
	__u32 version;
	__u32 in_ifindex; /* the key's */
	__be16 match_sport;
	__be16 match_dport;
	__u8 match_l4;
	__u8 match_family;
	__u16 match_type;
	__u16 match_vlan[2];
	__u32 match_ifindex;
	__u32 pad1[3];
	__u8 verb; /* L7MP_VERB_FRAME */
	__u8 pad2;
	__u16 flags;   /* enum l7mp_flow_flags */
	__u32 ifindex; /* egress */
	__u32 mtu;     /* of the egress: largest IP packet, in bytes */
	__u8 dmac[6];  /* with L7MP_FLOW_SET_DMAC */
	__u8 smac[6];
	__u8 in_mac[6]; /* ingress interface's own: frames to it are passed to the stack, too */
	__u8 pad3[22];
	__u32 tap; /* id of the packet socket whose filter (l7mp_tap) decides */
	__u32 pad4;
	__u16 handover; /* with L7MP_FLOW_HANDOVER */
	__u8 pad5;
	__u8 dir; /* 0: from the source, 1: from the destination */
	__u8 pad8[4];
	__u32 slot;
	__u32 version_end;

	__u32 pad6;
	__u16 match_sport_host; /* those of the key in host order */
	__u16 match_dport_host;
	__u64 session;
	struct l7mp_abi_addr match_saddr;
	struct l7mp_abi_addr match_daddr;
	__u32 pad7[9];
	__u32 version6; /* the same as `version` */
};

/*
 * frame_ifs: which kinds of entries `frames` has for the interfaces whose index, modulo
 * L7MP_IFS_MAX, is this. Bits.
 */
enum l7mp_frame_kinds {
	L7MP_FRAMES_EXACT = 1 << 0, /* conversations */
	L7MP_FRAMES_TYPE = 1 << 1,  /* all frames of a type */
	L7MP_FRAMES_TAG = 1 << 2,   /* all frames with a kind of tag */
	L7MP_FRAMES_ALL = 1 << 3,   /* all frames */
};

/*
 * handover: an array of these that the programs and user space both write (BPF_F_MMAPABLE), so that
 * the packets of a new flow do not overtake those that user space still has to relay. While the two
 * numbers differ, the programs pass the flow's packets to the stack and count them in `passed`.
 * User space reads `passed`, relays the contents of its sockets, and then stores the number that it
 * has read in `relayed`. If the next packet finds both equal, no packet is ahead of it: the flow is
 * active, and the numbers don't change any more. `passed` starts at 1 and `relayed` at 0, for the
 * packets received before the flow was added.
 */
struct l7mp_handover {
	__u64 passed;  /* written by the programs, atomically */
	__u64 relayed; /* written by user space */
};
#define L7MP_HANDOVER_SLOTS 4096

/*
 * counters: a per-CPU array by the action's slot. A flow's counter is the sum over the CPUs. It is
 * separate from the action, so that an update of the action never resets it. User space zeroes a
 * slot before it assigns it to a flow, after an RCU grace period in which every program that may
 * have found the slot's last flow has ended.
 */
struct l7mp_flow_counter {
	__u64 packets;   /* wire datagrams: a GSO packet counts its segments */
	__u64 bytes;     /* transport payload */
	__u64 last_seen; /* CLOCK_MONOTONIC ns, coarse; 0: never */
	__u64 tick;      /* jiffies when last_seen was set; only for the programs */
};

/* verdicts: per-CPU array. X(identifier, text, what it means) */
#define L7MP_VERDICTS(X)                                                                          \
	X(FORWARDED, "forwarded", "rewritten and redirected")                                     \
	X(REFLECTED, "reflected", "reflected by an Echo flow")                                    \
	X(COUNTED, "counted", "dropped by a Discard flow")                                        \
	X(PASS_NO_FLOW, "no-flow", "no flow matches")                                             \
	X(PASS_NOT_IP, "not-ip", "not IPv4 or IPv6, or more than two VLAN tags")                  \
	X(PASS_NOT_UDP, "not-udp", "neither UDP nor TCP, or an extension header")                 \
	X(PASS_NOT_HOST, "not-host",                                                              \
	  "link address is not this host's own: multicast, broadcast, other")                     \
	X(PASS_INGRESS, "ingress", "received on another interface than the flow's")               \
	X(PASS_TAGS, "tags", "received with other VLAN tags than the flow's")                     \
	X(PASS_TRUNCATED, "truncated", "shorter than its headers say")                            \
	X(PASS_MALFORMED, "malformed", "header fields that contradict each other")                \
	X(PASS_OPTIONS, "ip-options", "IPv4 options")                                             \
	X(PASS_FRAGMENT, "fragment", "IPv4 fragment")                                             \
	X(PASS_TTL, "ttl", "TTL or hop limit is 1 or 0")                                          \
	X(PASS_CHECKSUM, "checksum", "UDP over IPv6 without a checksum")                          \
	X(PASS_MTU, "mtu", "larger than the egress MTU, or segments of unknown size (GSO)")       \
	X(PASS_DEVICE, "device", "the egress interface no longer exists")                         \
	X(PASS_VLAN, "vlan", "the VLAN tags can't be changed as the flow needs")                  \
	X(PASS_TO_TC, "to-tc", "left to the tc program of the interface")                         \
	X(PASS_STALE, "stale", "the flow was replaced while it was read")                         \
	X(PASS_HANDOVER, "handover", "user space has not yet relayed the packets before it")      \
	X(PASS_JSON, "json", "begins with { and may be the header of a JSONSocket client")        \
	X(PASS_KERNEL, "kernel", "a helper function refused, or the flow is of an unknown kind")  \
	X(PASS_TCP, "tcp",                                                                        \
	  "TCP, or possibly TCP: left to the tc program, where there is a link header")           \
	X(PASS_TCP_WATCH, "tcp-watch", "TCP: not yet translated, the pair is in phase WATCH")     \
	X(PASS_TCP_OVER, "tcp-over", "TCP: a SYN after the end of the connection, or later")      \
	X(TCP_COPIED, "tcp-copied", "TCP: translated and sent; passed to the stack as old data")  \
	X(TCP_DOUBT, "tcp-doubt",                                                                 \
	  "TCP: dropped, as it can't be translated: user space takes over")                       \
	X(TCP_STOPPED, "tcp-stopped", "TCP: dropped while user space takes the connections back") \
	X(TCP_WINDOW, "tcp-window", "TCP: dropped, a reset or SYN that is out of the window")     \
	X(FRAME_COPIED, "frame-copied",                                                           \
	  "AF_PACKET: a clone was sent; the frame itself is counted by its own verdict, too")

#define L7MP_VERDICT_ENUM(id, text, doc) L7MP_VERDICT_##id,
enum l7mp_verdict { L7MP_VERDICTS(L7MP_VERDICT_ENUM) L7MP_VERDICT_COUNT };
#undef L7MP_VERDICT_ENUM

/*
 * sessions: what a restarted daemon needs to continue a session, in addition to its flows; keyed by
 * the flows' session id (XXH3 of the name). Written before the flows. The programs don't use it.
 */
#define L7MP_SESSION_RECORD 1 /* raised when the meaning of `text` changes */

struct l7mp_abi_count {
	__u64 packets;
	__u64 bytes;
};

struct l7mp_abi_session {
	__u32 record; /* L7MP_SESSION_RECORD */
	__u32 pad;
	__u64 started_ms; /* wall clock */
	/*
	 * By direction (from the source, from the destination): what user space has relayed, and
	 * what earlier, removed flows have counted.
	 */
	struct l7mp_abi_count slow[2];
	struct l7mp_abi_count fast[2];
	__u64 drops;
	/*
	 * JSON, ends with a zero: {"name", "listener", "route", "cluster", "endpoint", "metadata"}.
	 * Without metadata, or empty, when it does not fit.
	 */
	char text[872];
};

/* abi: an array of one. */
struct l7mp_abi_info {
	__u32 version;
	__u32 max_flows;
};

/* attached: by interface index, what a daemon has set up and its successor has to undo. */
enum l7mp_attached_flags {
	L7MP_ATTACHED_CLSACT = 1 << 0,  /* the daemon has created the clsact qdisc */
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
L7MP_ABI_ASSERT(sizeof(struct l7mp_flow4_key) == 16);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow4_key, sport) == 8);
L7MP_ABI_ASSERT(sizeof(struct l7mp_flow_key) == 40);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_key, sport) == 32);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, version) == 0);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, key) == 8);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, saddr) == 24);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, sport) == 32);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, ifindex) == 40);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, dmac) == 48);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, csum_l3) == 66);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, csum_addr) == 68);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, vlan_proto) == 72);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, in_vlan_proto) == 80);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, pair) == 88);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, handover) == 96);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, slot) == 104);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, version_end) == 108);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, sport_host) == 112);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow_action, session) == 120);
L7MP_ABI_ASSERT(sizeof(struct l7mp_flow_action) == 128);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow6_action, match_saddr) == 128);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow6_action, saddr) == 160);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_flow6_action, version6) == 196);
L7MP_ABI_ASSERT(sizeof(struct l7mp_flow6_action) == 200);
L7MP_ABI_ASSERT(sizeof(struct l7mp_frame_key) == 48);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_frame_key, sport) == 32);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_frame_key, family) ==
                __builtin_offsetof(struct l7mp_flow_key, family));
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_frame_key, ifindex) == 44);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_frame_action, match_sport) == 8);
#define L7MP_ABI_SHARED(field)                                                 \
	L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_frame_action, field) == \
	                __builtin_offsetof(struct l7mp_flow_action, field))
L7MP_ABI_SHARED(in_ifindex);
L7MP_ABI_SHARED(verb);
L7MP_ABI_SHARED(flags);
L7MP_ABI_SHARED(ifindex);
L7MP_ABI_SHARED(mtu);
L7MP_ABI_SHARED(dmac);
L7MP_ABI_SHARED(smac);
L7MP_ABI_SHARED(in_mac);
L7MP_ABI_SHARED(handover);
L7MP_ABI_SHARED(dir);
L7MP_ABI_SHARED(slot);
L7MP_ABI_SHARED(version_end);
L7MP_ABI_SHARED(match_sport_host);
L7MP_ABI_SHARED(session);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_frame_action, tap) == 88);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_frame_action, match_saddr) == 128);
L7MP_ABI_ASSERT(__builtin_offsetof(struct l7mp_frame_action, version6) ==
                __builtin_offsetof(struct l7mp_flow6_action, version6));
L7MP_ABI_ASSERT(sizeof(struct l7mp_frame_action) == sizeof(struct l7mp_flow6_action));
L7MP_ABI_ASSERT(sizeof(struct l7mp_handover) == 16);
L7MP_ABI_ASSERT(sizeof(struct l7mp_flow_counter) == 32);
L7MP_ABI_ASSERT(sizeof(struct l7mp_abi_attached) == 32);
L7MP_ABI_ASSERT(sizeof(struct l7mp_abi_session) == 960); /* with the kernel's part: 1 KiB */
