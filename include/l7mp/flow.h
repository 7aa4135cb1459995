/* SPDX-License-Identifier: MIT */
/*
 * The interface between sessions and the kernel fast path. Each stream describes what it is on the
 * wire (struct l7mp_flow_end), and the session asks an offload engine (offload/, or a fake one in
 * unit tests) to carry both directions in the kernel. The engine knows flows and cookies, but not
 * sessions.
 *
 * Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/abi_rtp.h"
#include "l7mp/addr.h"
#include "l7mp/json.h"

/* Why a session's data is not relayed by the kernel. X(identifier, text, what it means) */
#define L7MP_REASONS(X)                                                                           \
	X(NONE, "", "it is in the kernel")                                                        \
	X(PENDING, "pending", "no packet was seen yet, or the flow is being set up")              \
	X(DISABLED, "disabled", "offload is off, by admin.offload or for this listener or route") \
	X(PROTOCOL, "protocol", "an end is not UDP, TCP or AF_PACKET")                            \
	X(TRANSFORMER, "transformer-in-path", "a transformer looks at or changes the bytes")      \
	X(ADDRESS_FAMILY, "address-family", "one end is IPv4 and the other IPv6")                 \
	X(ADDRESS_SCOPE, "address-scope",                                                         \
	  "a link-local or multicast address, which means nothing without its interface")         \
	X(INTERFACE, "interface-not-enabled",                                                     \
	  "the packets arrive or leave by an interface that is not in offload_ifs")               \
	X(NO_ROUTE, "no-route", "the kernel has no route to the peer")                            \
	X(NO_NEIGHBOUR, "no-neighbour", "the nexthop's link address is not known (yet)")          \
	X(TABLE_FULL, "table-full", "the flow table has no free entry (limits.max_flows)")        \
	X(NOT_ESTABLISHED, "not-established",                                                     \
	  "an end is not connected, its handshake is not done, or its peer is not known yet "     \
	  "(options.latch)")                                                                      \
	X(FILTERED, "send-filtered",                                                              \
	  "a packet filter of this host refused what the session sent (netfilter, EPERM)")        \
	X(BYPASSED, "bypassed",                                                                   \
	  "packets reached user space past the program: NAT before the listener, or a tc filter " \
	  "in front")                                                                             \
	X(MIXED, "mixed-paths",                                                                   \
	  "many packets had to take user space beside the flow, so all do, in order")             \
	X(HOOK_LOST, "hook-lost", "our program was removed from an interface")                    \
	X(CONFLICT, "conflict",                                                                   \
	  "another session has a flow with the same addresses and ports, or another packet "      \
	  "socket one with the same frames")                                                      \
	X(LINK_DOWN, "link-down",                                                                 \
	  "AF_PACKET: one of the interfaces is down, has no carrier, or is not there")            \
	X(TLS, "tls", "a TCP connection with TLS: only user space can read it")                   \
	X(TCP_YOUNG, "tcp-young", "not yet: see admin.offload_tcp")                               \
	X(TCP, "tcp-options",                                                                     \
	  "segments that can't be translated were seen: unknown TCP or IP options, fragments, "   \
	  "urgent data, larger than the other side takes")                                        \
	X(TCP_TIMESTAMPS, "tcp-timestamps", "only one of the two connections has time stamps")    \
	X(TCP_ECN, "tcp-ecn", "only one of the two connections has ECN")                          \
	X(TCP_MSS, "tcp-mss", "one peer may send larger segments than the other one takes")       \
	X(TCP_MPTCP, "tcp-mptcp", "a connection is Multipath TCP")                                \
	X(TCP_MD5, "tcp-md5", "a connection's segments are signed (TCP-MD5, TCP-AO)")             \
	X(TCP_RTT, "tcp-rtt",                                                                     \
	  "BBR, and the round-trip times of both connections differ much: it would crawl")        \
	X(TCP_CLOSING, "tcp-closing", "a connection is half closed or about to end")              \
	X(TCP_BUSY, "tcp-busy", "the connections did not come to rest: a peer does not read")     \
	X(NOT_SEEN, "not-seen",                                                                   \
	  "segments come in that the tc program does not see: NAT in between, or another "        \
	  "interface")                                                                            \
	X(KERNEL, "kernel", "the kernel refused; the log and /offload say why")

#define L7MP_REASON_ENUM(id, text, doc) L7MP_REASON_##id,
enum l7mp_reason { L7MP_REASONS(L7MP_REASON_ENUM) L7MP_REASON_COUNT };
#undef L7MP_REASON_ENUM
/* Returns the reason's text as the API and the metrics show it (static). */
const char *l7mp_reason_name(enum l7mp_reason reason);

/*
 * RTP statistics of one direction of a session (abi_rtp.h). What relays a packet counts it at
 * `at`: that is `own`, or while the kernel has the flow the memory that it counts in.
 */
struct l7mp_rtp_stream {
	struct l7mp_rtp *at;
	struct l7mp_rtp own;
};

enum l7mp_flow_kind {
	L7MP_FLOW_NONE,    /* can't be offloaded; `reason` says why */
	L7MP_FLOW_SOCKET,  /* a kernel socket whose payload bytes are the stream's bytes */
	L7MP_FLOW_REFLECT, /* sends everything back to the source (Echo) */
	L7MP_FLOW_DROP,    /* discards everything (Discard) */
	L7MP_FLOW_PASS,    /* passes everything on unchanged, and counts it (Metric) */
};

/*
 * The payload that a segment may have: what the handshake has agreed on. A socket that was made
 * again has forgotten it, so it goes with the descriptor. 0: the socket knows.
 */
struct l7mp_flow_mss {
	uint16_t snd, rcv;
};

/* AF_PACKET: which frames a packet socket takes in for a session, and how it sends others. */
struct l7mp_flow_frame {
	bool any;        /* all that the socket takes; else the conversation below */
	uint16_t filter; /* the EtherType that the socket takes, behind tags, too; 0: all */
	uint8_t family;  /* AF_INET, AF_INET6; 0: src and dst are link addresses */
	uint8_t l4;      /* protocol of IP */
	uint8_t src[16], dst[16]; /* of what comes in */
	uint16_t sport, dport;    /* network order; 0: none */
	uint16_t type;            /* EtherType behind the tags */
	uint16_t vlan[2];         /* ids, the outer one first; 0xffff: none */
	bool set_src, set_dst;    /* what is sent gets these link addresses */
	uint8_t src_mac[6], dst_mac[6];
};

struct l7mp_flow_end {
	enum l7mp_flow_kind kind;
	enum l7mp_reason reason; /* for NONE */
	uint8_t l4;              /* IPPROTO_UDP, IPPROTO_TCP; 0: AF_PACKET */
	struct l7mp_addr local;  /* where the peer sends to; with port */
	struct l7mp_addr remote; /* the peer; with port */
	uint32_t ifindex;        /* AF_PACKET: the interface; else 0, a route lookup finds it */
	bool keep_tos;           /* what the socket sends keeps the TOS that it came with */
	uint8_t tos;             /* DSCP and ECN (IPv6: traffic class) of what the socket sends */
	bool json_up;            /* what it receives and begins with { must come to user space */
	int fd;                  /* TCP, AF_PACKET: the socket, borrowed; else 0 */
	struct l7mp_flow_mss mss;
	struct l7mp_flow_frame frame; /* AF_PACKET */
	/* RTP statistics of what comes in here, borrowed until the flow is removed; NULL: none. */
	struct l7mp_rtp_stream *rtp;
};

/* TCP: a connection that comes back from the kernel's side. */
struct l7mp_flow_socket {
	int fd;     /* given away; another one than was lent */
	bool ended; /* the peer has finished writing, which the socket does not know */
	bool shut;  /* our direction is finished, which the socket does not know */
	struct l7mp_flow_mss mss;
};

/* Counters of one direction. */
struct l7mp_flow_counters {
	uint64_t packets;      /* datagrams on the wire */
	uint64_t bytes;        /* transport payload */
	uint64_t last_seen_ms; /* loop time of the last packet; 0: none yet */
};

enum l7mp_direction { L7MP_INGRESS, L7MP_EGRESS };

struct l7mp_session_count {
	uint64_t packets, bytes;
};

/* The owner of a flow. Strings are borrowed for the call; NULL: none. */
struct l7mp_flow_owner {
	uint64_t cookie; /* passed with every event */
	/* Names that are stored with the flow, so that a restarted daemon can report it. */
	const char *session, *listener, *route, *cluster, *endpoint;
	uint64_t started_ms; /* wall clock, ms since the epoch */
	const cJSON *metadata;
	/* By enum l7mp_direction: what was counted beside this flow. */
	struct l7mp_session_count slow[2], fast[2];
	uint64_t drops;
};

struct l7mp_flow; /* the engine's handle for both directions of a session */

struct l7mp_offload_events {
	/*
	 * The engine had to remove the flow (route, neighbour, link or table changed). The handle
	 * is invalid; `final` has the last counters of both directions.
	 */
	void (*withdrawn)(void *arg, uint64_t cookie, enum l7mp_reason reason,
	                  const struct l7mp_flow_counters final[2]);
	/* Something changed: flows that were refused may be possible now, so add them again. */
	void (*retry)(void *arg);
	/*
	 * The flow is about to begin. The owner relays what still waits in its sockets, so that the
	 * kernel does not overtake it. It returns false when data still waits or has just been
	 * sent, or when the flow must not begin now; the engine then asks again soon. The callback
	 * may remove flows, also this one, but must not add any.
	 */
	bool (*ready)(void *arg, uint64_t cookie);
	/*
	 * The kernel carries the flow from now on. Called once for each flow that was added and not
	 * removed before, never from inside add. `late`: the kernel may overtake data that is
	 * still in the sockets.
	 */
	void (*begun)(void *arg, uint64_t cookie, bool late);

	/*
	 * TCP only. The owner reads no more from both connections and writes what it still holds,
	 * or (on false) goes on.
	 */
	void (*hold)(void *arg, uint64_t cookie, bool on);
	/*
	 * After hold: gives both descriptors away, the source's first, when nothing waits any more.
	 * False: not yet. From then on the flow must not be removed, but released.
	 */
	bool (*lend)(void *arg, uint64_t cookie, int fd[2]);
	/*
	 * The descriptors come back, in the state in which they go on (`hold` is over). The handle
	 * is invalid. `reason` NONE: released.
	 */
	void (*returned)(void *arg, uint64_t cookie, const struct l7mp_flow_socket back[2],
	                 enum l7mp_reason reason, const struct l7mp_flow_counters final[2]);
	/* Both connections are over, and closed; `reset`: not in an orderly way. The handle is
	 * invalid. */
	void (*over)(void *arg, uint64_t cookie, bool reset,
	             const struct l7mp_flow_counters final[2]);
};

struct l7mp_offload {
	void *ctx; /* first argument of all functions */
	/* A TCP session asks when it has relayed so much, or is so old, whichever comes first. */
	uint64_t tcp_after_bytes, tcp_after_ms;
	/* Sets the only receiver of events. `events` and `arg` are borrowed. */
	void (*subscribe)(void *ctx, const struct l7mp_offload_events *events, void *arg);
	/*
	 * Carries both directions in the kernel, or none: packets that a's peer sends to a->local
	 * are sent from b->local to b->remote, and vice versa. b may be REFLECT or DROP. Returns 0
	 * and *out, or a refusal (> 0, enum l7mp_reason). Until `begun` the sockets may still
	 * receive packets.
	 */
	int (*add)(void *ctx, const struct l7mp_flow_end *a, const struct l7mp_flow_end *b,
	           const struct l7mp_flow_owner *owner, struct l7mp_flow **out);
	/*
	 * Removes both directions and reads their last counters. Nulls *flow; NULL inside is fine.
	 */
	void (*remove)(void *ctx, struct l7mp_flow **flow, struct l7mp_flow_counters final[2]);
	/*
	 * A flow whose descriptors were lent: `returned` follows, or `over`, within some seconds,
	 * not from inside. `at_once`: both connections are reset, and `over` comes from inside; or
	 * `returned`, when the owner is to reset them.
	 */
	void (*release)(void *ctx, struct l7mp_flow *flow, bool at_once);
	/* In words, what a flow is doing: "", or for TCP its phase. Static. */
	const char *(*phase)(void *ctx, const struct l7mp_flow *flow);
	/*
	 * Reads the counters of the last poll, at most a second old; `fresh` polls the kernel now.
	 */
	void (*read)(void *ctx, struct l7mp_flow *flow, bool fresh,
	             struct l7mp_flow_counters now[2]);
	/*
	 * Optional. The kernel has learned something about the flow's routes that it tells by no
	 * event (a path's MTU): they are asked for again, now. Does not remove the flow.
	 */
	void (*recheck)(void *ctx, struct l7mp_flow *flow);
	/* Optional. What is stored of the owner has changed. */
	void (*note)(void *ctx, struct l7mp_flow *flow, const struct l7mp_flow_owner *owner);
	/*
	 * Optional. A flow of an earlier process gets its owner. Returns 0: it carries packets;
	 * L7MP_REASON_PENDING: `begun` follows; else a reason: the owner has to remove it.
	 */
	int (*own)(void *ctx, struct l7mp_flow *flow, uint64_t cookie);
	/* Returns the hook and the interface of a direction: "tc", "eth0". Borrowed. */
	void (*where)(void *ctx, const struct l7mp_flow *flow, enum l7mp_direction dir,
	              const char **hook, const char **interface);
};
