/* SPDX-License-Identifier: MIT */
/* Ethernet frames of packet sockets (packet(7)), private to proto/packet. Thread: any. */
#pragma once

#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <stdbool.h>
#include <stdint.h>

#include "l7mp/addr.h"
#include "l7mp/buf.h"
#include "l7mp/json.h"
#include "l7mp/loop.h"

#define PKT_MIN 14     /* the Ethernet header */
#define PKT_MAX 65600u /* a merged frame: 64 KiB of IP, the Ethernet header, tags */

/* The conversation of a frame. Key of a server's sessions, hence without padding. */
struct pkt_key {
	uint8_t src[16], dst[16]; /* IP (IPv4: the first 4 bytes), or MAC */
	uint16_t sport, dport;    /* network order; 0: no ports in the protocol, or a fragment */
	uint16_t type;            /* EtherType after the VLAN tags, host order */
	uint16_t vlan[2];         /* outer and inner id; 0xffff: none */
	uint8_t family;           /* AF_INET, AF_INET6; 0: MAC addresses */
	uint8_t proto;            /* of IP */
};
_Static_assert(sizeof(struct pkt_key) == 44, "no padding in a key");

struct pkt_info {
	struct pkt_key key;
	uint8_t src_mac[6], dst_mac[6];
	uint16_t l3;  /* offset of the network header; 0: not parsed from a frame */
	uint16_t l4;  /* offset of the transport header; 0: none (fragment, unknown protocol) */
	uint16_t end; /* offset of the end of the IP packet */
};
/*
 * Parses a frame. A frame that is not valid IP is keyed by its MAC addresses. Returns false when it
 * is shorter than an Ethernet header.
 */
bool pkt_parse(const uint8_t *frame, size_t len, struct pkt_info *out);
/*
 * Sets the addresses of both ends, with ports if there are any; MAC addresses become packet
 * addresses.
 */
void pkt_key_addrs(const struct pkt_key *key, uint32_t ifindex, struct l7mp_addr *src,
                   struct l7mp_addr *dst);
/*
 * For session names: "UDP:10.0.0.1:1-10.0.0.2:2", "IP47:10.0.0.1-10.0.0.2",
 * "02:..:01-02:..:02-0x88b5". Heap; NULL: no memory.
 */
char *pkt_key_name(const struct pkt_key *key);
/* Returns {"Ethernet": {...}, "IP": {...}, "UDP": {...}}, as far as known. NULL: no memory. */
cJSON *pkt_metadata(const char *interface, const struct pkt_info *info);
/*
 * Sets the key of a conversation from the metadata made by pkt_metadata. False: it is not metadata
 * of a frame, or was changed.
 */
bool pkt_key_of_metadata(const cJSON *metadata, struct pkt_key *out);
/* Swaps the two ends. */
void pkt_key_reverse(struct pkt_key *key);
/* "02:00:00:00:00:0a". */
bool pkt_mac_parse(const char *text, uint8_t out[static 6]);
/*
 * Converts one receive, which begins with its virtio_net_hdr, into frames as on the wire: completes
 * checksums left to hardware, and splits merged frames (GRO, GSO). Takes buf; calls emit, which
 * takes its buffer, for each frame. Returns 0; -EBADMSG: malformed; -EMSGSIZE: a merged frame that
 * can't be split; -ENOMEM: the rest is lost.
 */
int pkt_unpack(struct l7mp_loop *loop, struct l7mp_buf *buf,
               void (*emit)(void *arg, struct l7mp_buf *buf), void *arg);
