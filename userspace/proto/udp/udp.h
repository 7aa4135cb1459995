/* SPDX-License-Identifier: MIT */
/*
 * Private to the UDP protocol: declarations shared by listener.c, upstream.c and latch.c. Thread:
 * loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/proto.h"
#include "net/shared_socket.h"

/* Largest payloads: 65,535 less the IPv4 and UDP headers; IPv6 does not count its own header. */
#define UDP_MAX4 65507
#define UDP_MAX6 65527

/*
 * The peer's address and port, and the local address, in a third of the space of two struct
 * l7mp_addr. Also the key of a listener's sessions, hence without padding; IPv4 is mapped.
 */
struct udp_key {
	uint8_t peer[16];
	uint8_t local[16]; /* zero: unknown */
	uint32_t scope;    /* interface of a link-local peer */
	uint16_t port;     /* the peer's, network order */
	uint16_t family;   /* AF_INET, AF_INET6 */
};
_Static_assert(sizeof(struct udp_key) == 40, "no padding in a key");

/* local->len may be 0: unknown. */
void udp_key_set(struct udp_key *key, const struct l7mp_addr *peer, const struct l7mp_addr *local);
/* The inverse; local_port in host order. local->len is 0 when the address is unknown. */
void udp_key_addrs(const struct udp_key *key, uint16_t local_port, struct l7mp_addr *peer,
                   struct l7mp_addr *local);

/* The protocol's state in the process. */
struct udp_state {
	struct l7mp_shared_table table; /* of the listeners' sockets; first */
	struct udp_bound *bound;        /* upstreams with a fixed local port */
	unsigned next_port;             /* where the next search in a range of ports begins */
};

/* Reads "30000-30999". 0 or -EINVAL. */
int udp_port_range(const char *text, unsigned *first, unsigned *last);
/*
 * Whether the datagram comes from an address on which a listener of this process receives. From
 * there only answers are sent, and forged datagrams meant to make two sockets answer each other.
 * False for a singleton whose configured peer is `to`.
 */
bool udp_from_ourselves(const struct l7mp_shared_table *table, const struct l7mp_addr *from,
                        const struct l7mp_addr *to);

/* ---- latch.c: learning the peer ---- */

struct udp_latch {
	bool on;
	bool same_address;  /* clusters: only another port of the endpoint's address */
	uint64_t window_ms; /* for this long after the first datagram another source may replace the
	                     * peer */
	/* Clusters: for this long after the session's start the first source is learnt. */
	uint64_t timeout_ms;
	/*
	 * Loop time of the first datagram, set by the owner. 0: unknown, so the window has ended.
	 */
	uint64_t since_ms;
};

/* The alternatives of `options.latch` in the two specs. */
extern const struct l7mp_field *const udp_latch_listener[], *const udp_latch_cluster[];
/* Reads validated options, which may be NULL. */
void udp_latch_read(const cJSON *options, struct udp_latch *out);
/* Whether another source may still become the peer after the first datagram. */
bool udp_latch_is_open(const struct udp_latch *latch, uint64_t now_ms);

/* ---- upstream.c ---- */

extern const struct l7mp_schema udp_cluster_spec, udp_endpoint_spec;
/* The operation of struct l7mp_proto. */
int udp_connect(const struct l7mp_connect *p, struct l7mp_stream **out, struct l7mp_error *err);
