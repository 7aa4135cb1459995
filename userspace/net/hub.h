/* SPDX-License-Identifier: MIT */
/*
 * Sessions that share a socket: of a UNIX datagram listener, of an AF_PACKET
 * listener. A datagram goes to the session whose key it has.
 *
 *   listener --ref--> hub (the socket) <--ref-- peer (a session's source stream) ...
 *
 * The hub lives until the last of them is gone, so sessions go on after their
 * listener was deleted. Private to proto/. Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/dgram.h"
#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/proto.h"

struct l7mp_hub;
struct l7mp_hub_peer;

struct l7mp_hub_ops {
	/* Sends to the peer with l7mp_dgram_send; takes buf. */
	int (*send)(struct l7mp_hub_peer *p, struct l7mp_buf *buf, uint64_t tag);
	/* Optional: a datagram to the peer did not leave (it is counted already): for a notice. */
	void (*lost)(struct l7mp_hub_peer *p, int err);
	/* Optional: what the peer is on the wire. */
	void (*flow)(struct l7mp_hub_peer *p, struct l7mp_flow_end *out);
	/* Why a peer that l7mp_hub_fail ended has ended. */
	void (*describe)(const struct l7mp_hub *hub, int err, struct l7mp_error *out);
	/* A peer has gone; it is not in the table any more. Optional. */
	void (*left)(struct l7mp_hub_peer *p);
	/* The last reference has gone and the socket is closed: frees the hub. */
	void (*destroy)(struct l7mp_hub *hub);
};

/* Embedded by the protocol's socket as first member. */
struct l7mp_hub {
	const struct l7mp_hub_ops *ops;
	struct l7mp_env *env;
	struct l7mp_dgram *dgram;
	unsigned refs;
	uint64_t *last_id; /* of session names; the protocol's state */
	struct l7mp_hub_peer *peers;
	struct l7mp_hub_peer *last; /* whose datagram came before this one */
	struct l7mp_hub_peer *full; /* who waits for `drain` */
};

struct l7mp_hub_peer {
	struct l7mp_stream base;
	struct l7mp_hub *hub; /* reference held */
	UT_hash_handle hh;
	struct l7mp_hub_peer *prev, *next; /* in hub->full; prev NULL: not there */
	uint64_t id;
	uint64_t stalled_until; /* it did not read for long: not waited for until then */
	struct l7mp_log_limit limit;
	struct l7mp_task task; /* closed */
	int err;               /* that ended it */
	bool closing;
	uint16_t key_len;
	uint8_t key[];
};

/* What all hubs' sockets do: l7mp_dgram_ops.lost, .dropped and .drain, with the hub as their arg. */
void l7mp_hub_on_lost(void *arg, int err, uint64_t tag, uint32_t len);
void l7mp_hub_on_dropped(void *arg, int err, uint32_t len);
void l7mp_hub_on_drain(void *arg);

static inline struct l7mp_hub *l7mp_hub_ref(struct l7mp_hub *hub)
{
	hub->refs++;
	return hub;
}
void l7mp_hub_unref(struct l7mp_hub *hub);

/* The session of a key; NULL: none. */
struct l7mp_hub_peer *l7mp_hub_find(struct l7mp_hub *hub, const void *key, uint16_t len);
/* In the table, with a new id; NULL: no memory. max_write 0: 65,507. */
struct l7mp_hub_peer *l7mp_hub_peer_new(struct l7mp_hub *hub, const void *key, uint16_t len,
                                        uint32_t max_write);
/*
 * Hands a new peer up, with its first datagram (takes buf; may be NULL). The owner may do
 * anything in it, also delete the listener. False: no session came of it, and the datagram is counted.
 */
bool l7mp_hub_emit(const struct l7mp_proto_listener *l, struct l7mp_hub_peer *p,
                   struct l7mp_accept *a, struct l7mp_buf *buf);
/* All peers end with this error (negative errno), each from a task of its own. */
void l7mp_hub_fail(struct l7mp_hub *hub, int err);
/* Counts a datagram that no session gets; takes buf. */
void l7mp_hub_drop(struct l7mp_hub *hub, enum l7mp_drop reason, struct l7mp_buf *buf);
/* A rate-limited notice of the peer's session; what was left out is added to the text. */
void l7mp_hub_notice(struct l7mp_hub_peer *p, const char *event, const char *text);
