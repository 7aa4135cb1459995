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
	X(TRANSFORMER, "transformer-in-path", "a transformer reads or changes the bytes")         \
	X(ADDRESS_FAMILY, "address-family", "one end is IPv4 and the other IPv6")                 \
	X(ADDRESS_SCOPE, "address-scope",                                                         \
	  "a link-local or multicast address, which means nothing without its interface")         \
	X(INTERFACE, "interface-not-enabled",                                                     \
	  "the ingress or egress interface is not in offload_ifs")                                \
	X(NO_ROUTE, "no-route", "the kernel has no route to the peer")                            \
	X(NO_NEIGHBOUR, "no-neighbour", "the nexthop's link address is not known (yet)")          \
	X(TABLE_FULL, "table-full", "the flow table has no free entry (limits.max_flows)")        \
	X(NOT_ESTABLISHED, "not-established",                                                     \
	  "an end is not connected, its handshake is not done, or its peer is not known yet "     \
	  "(options.latch)")                                                                      \
	X(FILTERED, "send-filtered",                                                              \
	  "a packet filter of this host refused what the session sent (netfilter, EPERM)")        \
	X(BYPASSED, "bypassed",                                                                   \
	  "packets reached user space past the program: NAT before the listener, or an earlier "  \
	  "tc filter")                                                                            \
	X(MIXED, "mixed-paths",                                                                   \
	  "many packets of the flow had to take the slow path, so all do, to keep their order")   \
	X(HOOK_LOST, "hook-lost", "our program was removed from an interface")                    \
	X(CONFLICT, "conflict",                                                                   \
	  "another session has a flow with the same addresses and ports, or another packet "      \
	  "socket one with the same frames")                                                      \
	X(LINK_DOWN, "link-down",                                                                 \
	  "AF_PACKET: one of the interfaces is down, has no carrier, or does not exist")          \
	X(TLS, "tls", "a TCP connection with TLS: only user space can read it")                   \
	X(TCP_YOUNG, "tcp-young", "not yet: see admin.offload_tcp")                               \
	X(TCP, "tcp-options",                                                                     \
	  "segments that can't be translated were seen: unknown TCP or IP options, fragments, "   \
	  "urgent data, larger than the egress MTU")                                              \
	X(TCP_TIMESTAMPS, "tcp-timestamps", "only one of the two connections has time stamps")    \
	X(TCP_ECN, "tcp-ecn", "only one of the two connections has ECN")                          \
	X(TCP_MSS, "tcp-mss", "one peer may send larger segments than the other one accepts")     \
	X(TCP_MPTCP, "tcp-mptcp", "a connection is Multipath TCP")                                \
	X(TCP_MD5, "tcp-md5", "a connection's segments are signed (TCP-MD5, TCP-AO)")             \
	X(TCP_RTT, "tcp-rtt",                                                                     \
	  "BBR, and the connections' round-trip times differ too much: it would be very slow")    \
	X(TCP_CLOSING, "tcp-closing", "both directions have ended, or a connection was reset")    \
	X(TCP_BUSY, "tcp-busy", "the connections did not become idle: a peer does not read")      \
	X(NOT_SEEN, "not-seen",                                                                   \
	  "segments are received that the tc program does not see: NAT in between, or another "   \
	  "interface")                                                                            \
	X(KERNEL, "kernel", "the kernel refused; the log and /offload say why")

#define L7MP_REASON_ENUM(id, text, doc) L7MP_REASON_##id,
enum l7mp_reason { L7MP_REASONS(L7MP_REASON_ENUM) L7MP_REASON_COUNT };
#undef L7MP_REASON_ENUM
/* Returns the reason's text as the API and the metrics show it (static). */
const char *l7mp_reason_name(enum l7mp_reason reason);

/*
 * RTP statistics of one direction of a session (abi_rtp.h). User space counts a packet that it
 * relays at `at`: that is `own`, or, while there is a flow, the memory shared with the kernel.
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
 * The MSS in bytes that the handshake has negotiated, for each direction. A socket that was created
 * again by TCP_REPAIR does not have it, so it is passed along with the descriptor. 0: the
 * socket has it.
 */
struct l7mp_flow_mss {
	uint16_t snd, rcv;
};

/* AF_PACKET: which frames a packet socket receives for a session, and how it sends others. */
struct l7mp_flow_frame {
	bool any;                 /* all that the socket receives; else the conversation below */
	uint16_t filter;          /* EtherType that the socket receives, also after tags; 0: all */
	uint8_t family;           /* AF_INET, AF_INET6; 0: src and dst are link addresses */
	uint8_t l4;               /* protocol of IP */
	uint8_t src[16], dst[16]; /* of received frames */
	uint16_t sport, dport;    /* network order; 0: none */
	uint16_t type;            /* EtherType after the tags, host order */
	uint16_t vlan[2];         /* ids, the outer one first; 0xffff: none */
	bool set_src, set_dst;    /* sent frames get these link addresses */
	uint8_t src_mac[6], dst_mac[6];
};

struct l7mp_flow_end {
	enum l7mp_flow_kind kind;
	enum l7mp_reason reason; /* for NONE */
	uint8_t l4;              /* IPPROTO_UDP, IPPROTO_TCP; 0: AF_PACKET */
	struct l7mp_addr local;  /* the socket's own address; with port */
	struct l7mp_addr remote; /* the peer's; with port */
	uint32_t ifindex;        /* AF_PACKET: the interface; else 0, a route lookup finds it */
	bool keep_tos;           /* sent packets keep the TOS with which they were received */
	uint8_t tos;             /* else: DSCP and ECN (IPv6: traffic class) of sent packets */
	bool json_up;            /* received datagrams that begin with { are for user space */
	int fd;                  /* TCP, AF_PACKET: the socket, borrowed; else 0 */
	struct l7mp_flow_mss mss;
	struct l7mp_flow_frame frame; /* AF_PACKET */
	/* RTP statistics of received packets, borrowed until the flow is removed; NULL: none. */
	struct l7mp_rtp_stream *rtp;
};

/*
 * TCP: a connection that is lent to the kernel, or returned to user space. The socket does not
 * always know which FINs have passed: it may have been created again after them.
 */
struct l7mp_flow_socket {
	int fd;     /* the receiver's from now on; a returned one may be another than was lent */
	bool ended; /* the peer's FIN was received and read; returned: unknown to the socket */
	bool shut;  /* our FIN has been sent; returned: unknown to the socket */
	struct l7mp_flow_mss mss;
};

/* Counters of one direction. */
struct l7mp_flow_counters {
	uint64_t packets;      /* datagrams on the wire */
	uint64_t bytes;        /* transport payload */
	uint64_t last_seen_ms; /* loop time of the last packet; 0: none yet */
};

enum l7mp_direction { L7MP_INGRESS, L7MP_EGRESS };

/* TCP: how the segments of one direction are translated. Deltas are added, modulo 2^32. */
struct l7mp_flow_translation {
	uint32_t seq_delta;
	uint32_t ack_delta; /* SACK blocks, too */
	bool ts;            /* both connections have time stamps */
	bool ts_known;      /* a segment has passed since phase `fast`: ts_delta is chosen */
	uint32_t ts_delta;
	uint8_t win_in, win_out; /* window scales: of received segments, of sent ones */
	bool sack;               /* SACK blocks are translated; else blanked */
};

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
	 * The flow is about to become active. The owner relays the data in its sockets, so that the
	 * kernel does not overtake it. It returns false when data is still queued or has just been
	 * sent, or when the flow must not become active now; the engine then calls again soon. The
	 * callback may remove flows, including this one, but must not add any.
	 */
	bool (*ready)(void *arg, uint64_t cookie);
	/*
	 * The flow is active. Called once for each flow that was added and not removed before,
	 * never from inside add. `late`: the kernel may overtake data that is still in the sockets.
	 */
	void (*begun)(void *arg, uint64_t cookie, bool late);

	/*
	 * TCP only. on: the owner stops reading from both connections and writes its queued data;
	 * off: it resumes.
	 */
	void (*hold)(void *arg, uint64_t cookie, bool on);
	/*
	 * After hold: lends both descriptors, the source's first, when no data is queued any more.
	 * One direction may have ended. False: not yet. From then on the flow must not be removed,
	 * but released.
	 */
	bool (*lend)(void *arg, uint64_t cookie, struct l7mp_flow_socket at[2]);
	/*
	 * The connections are returned, ready for reading and writing (`hold` has ended). The
	 * handle is invalid. `reason` NONE: after release.
	 */
	void (*returned)(void *arg, uint64_t cookie, const struct l7mp_flow_socket back[2],
	                 enum l7mp_reason reason, const struct l7mp_flow_counters final[2]);
	/* Both connections have ended and are closed; `reset`: by a reset. The handle is
	 * invalid. */
	void (*over)(void *arg, uint64_t cookie, bool reset,
	             const struct l7mp_flow_counters final[2]);
};

struct l7mp_offload {
	void *ctx; /* first argument of all functions */
	/* A TCP session adds a flow after so many bytes, or ms, whichever comes first. */
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
	 * Ends a flow whose descriptors were lent: `returned` or `over` follows within some
	 * seconds, not from inside this call. `at_once`: both connections are reset, and `over` is
	 * called from inside; or `returned`, when the owner has to reset them.
	 */
	void (*release)(void *ctx, struct l7mp_flow *flow, bool at_once);
	/* Returns the name of a TCP flow's phase; "" for others. Static. */
	const char *(*phase)(void *ctx, const struct l7mp_flow *flow);
	/* Optional. False: not TCP, or not translated (yet, or any more). */
	bool (*translation)(void *ctx, const struct l7mp_flow *flow, enum l7mp_direction dir,
	                    struct l7mp_flow_translation *out);
	/*
	 * Reads the counters of the last poll, at most a second old; `fresh` polls the kernel now.
	 */
	void (*read)(void *ctx, struct l7mp_flow *flow, bool fresh,
	             struct l7mp_flow_counters now[2]);
	/*
	 * Optional. Queries the flow's routes again, now, because they have changed without an
	 * rtnetlink event (path MTU). Does not remove the flow.
	 */
	void (*recheck)(void *ctx, struct l7mp_flow *flow);
	/* Optional. Updates the stored data of the owner. */
	void (*note)(void *ctx, struct l7mp_flow *flow, const struct l7mp_flow_owner *owner);
	/*
	 * Optional. Assigns a flow of a previous process to an owner. Returns 0: it is active;
	 * L7MP_REASON_PENDING: `begun` follows; else a reason: the owner has to remove it.
	 * fd: TCP: both descriptors, which are passed as by `lend`, and 0 is returned; else
	 * they are -1. rtp: the owner's statistics of both directions, borrowed until the flow is
	 * removed, NULL: none. The kernel's counts so far replace their content.
	 * ends: AF_PACKET: both ends as for `add`, borrowed for the call: their sockets get the
	 * flow's filter; else NULL.
	 */
	int (*own)(void *ctx, struct l7mp_flow *flow, uint64_t cookie, const int fd[2],
	           struct l7mp_rtp_stream *rtp, const struct l7mp_flow_end *ends);
	/* Returns the hook and the interface of a direction: "tc", "eth0". Borrowed. */
	void (*where)(void *ctx, const struct l7mp_flow *flow, enum l7mp_direction dir,
	              const char **hook, const char **interface);
};
