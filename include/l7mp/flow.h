/* SPDX-License-Identifier: MIT */
/*
 * The seam between sessions and the kernel fast path. A stream says what it is
 * on the wire (l7mp_flow_end); the session asks an offload engine (offload/, or a
 * fake in unit tests) to carry a pair of pipes. The engine sees flows and
 * cookies, never sessions.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/addr.h"
#include "l7mp/json.h"

/* Why a pipe is not in the kernel. X(identifier, text, what it means) */
#define L7MP_REASONS(X)                                                                           \
	X(NONE, "", "it is in the kernel")                                                        \
	X(PENDING, "pending", "no packet was seen yet, or the flow is being set up")              \
	X(DISABLED, "disabled", "offload is off, by admin.offload or for this listener or route") \
	X(PROTOCOL, "protocol", "an end is not UDP, TCP or AF_PACKET")                            \
	X(TRANSFORMER, "transformer-in-path", "a transformer looks at or changes the bytes")      \
	X(DSCP, "dscp", "an end marks what it sends (options.dscp)")                              \
	X(ADDRESS_FAMILY, "address-family", "one end is IPv4 and the other IPv6")                 \
	X(ADDRESS_SCOPE, "address-scope",                                                         \
	  "a link-local or multicast address, which means nothing without its interface")         \
	X(INTERFACE, "interface-not-enabled",                                                     \
	  "the packets come in or leave by an interface that is not in offload_ifs")              \
	X(NO_ROUTE, "no-route", "the kernel has no route to the peer")                            \
	X(NO_NEIGHBOUR, "no-neighbour", "the next hop's link address is not known (yet)")         \
	X(TABLE_FULL, "table-full", "the flow table has no free entry (limits.max_flows)")        \
	X(NOT_ESTABLISHED, "not-established",                                                     \
	  "an end is not connected, or its handshake is not done")                                \
	X(CONFLICT, "conflict", "another session has a flow with the same addresses and ports")   \
	X(TCP, "tcp-options", "the two TCP connections can't be spliced")                         \
	X(KERNEL, "kernel", "the kernel refused; the log and /offload say why")

#define L7MP_REASON_ENUM(id, text, doc) L7MP_REASON_##id,
enum l7mp_reason { L7MP_REASONS(L7MP_REASON_ENUM) L7MP_REASON_COUNT };
#undef L7MP_REASON_ENUM
const char *l7mp_reason_name(enum l7mp_reason reason);

enum l7mp_flow_kind {
	L7MP_FLOW_NONE,    /* not on the wire as it is: `reason` says why */
	L7MP_FLOW_SOCKET,  /* a kernel socket whose payload bytes are the stream's bytes */
	L7MP_FLOW_REFLECT, /* sends everything back (Echo) */
	L7MP_FLOW_DROP,    /* swallows everything (Discard) */
	L7MP_FLOW_PASS,    /* passes everything on, only counts (Metric) */
};

struct l7mp_flow_end {
	enum l7mp_flow_kind kind;
	enum l7mp_reason reason; /* for NONE */
	uint8_t l4;              /* IPPROTO_UDP, IPPROTO_TCP; 0: AF_PACKET */
	struct l7mp_addr local;  /* both with ports; local is what the peer sends to */
	struct l7mp_addr remote;
	uint32_t ifindex; /* AF_PACKET: the interface; else 0, found by route */
};

/* Counters of one direction, in wire datagrams and transport payload bytes. */
struct l7mp_flow_counters {
	uint64_t packets;
	uint64_t bytes;
	uint64_t last_seen_ms; /* loop time; 0: never */
};

enum l7mp_direction { L7MP_INGRESS, L7MP_EGRESS };

/* Whose flow it is. The texts are borrowed for the call; NULL: none. */
struct l7mp_flow_owner {
	uint64_t cookie; /* handed back with every event */
	/* Names, for the record that a restarted daemon finds beside the flow. */
	const char *session, *listener, *route, *cluster, *endpoint;
	uint64_t started_ms; /* wall clock */
};

struct l7mp_flow; /* engine's handle for both directions of a session */

struct l7mp_offload_events {
	/*
	 * The engine had to take the flow out (route, neighbour, link, table). It is already
	 * removed; `final` is what it counted. The handle is dead.
	 */
	void (*withdrawn)(void *arg, uint64_t cookie, enum l7mp_reason reason,
	                  const struct l7mp_flow_counters final[2]);
	/* Something changed that may make refused pipes possible: ask again. */
	void (*retry)(void *arg);
	/*
	 * The flow is about to begin. Relays what still waits in the owner's sockets; false: some
	 * of it still waits or has just been sent, or the flow must not begin now; it is asked
	 * again soon. May remove flows, this one too, but add none.
	 */
	bool (*ready)(void *arg, uint64_t cookie);
	/*
	 * From now on the kernel carries it. Once for each flow that was added, unless it is
	 * removed before; never from inside add. `late`: what is still in the sockets may be
	 * overtaken.
	 */
	void (*begun)(void *arg, uint64_t cookie, bool late);
};

struct l7mp_offload {
	void *ctx;
	void (*subscribe)(void *ctx, const struct l7mp_offload_events *events, void *arg);
	/*
	 * Carries both directions, all or nothing: packets that `a`'s peer sends to
	 * a->local leave from b->local to b->remote, and back. b may be REFLECT or DROP.
	 * 0 and *out, or a reason (> 0, enum l7mp_reason) for the refusal. Packets may still come
	 * up until the event `begun`.
	 */
	int (*add)(void *ctx, const struct l7mp_flow_end *a, const struct l7mp_flow_end *b,
	           const struct l7mp_flow_owner *owner, struct l7mp_flow **out);
	/* Takes both directions out and returns what they counted. Idempotent through nulling. */
	void (*remove)(void *ctx, struct l7mp_flow **flow, struct l7mp_flow_counters final[2]);
	/* As of the last sweep (at most a second old); `fresh` asks the kernel now. */
	void (*read)(void *ctx, struct l7mp_flow *flow, bool fresh,
	             struct l7mp_flow_counters now[2]);
	/* Hook and interface of a direction: "tc", "eth0". Borrowed texts. */
	void (*where)(void *ctx, const struct l7mp_flow *flow, enum l7mp_direction dir,
	              const char **hook, const char **interface);
};
