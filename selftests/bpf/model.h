/* SPDX-License-Identifier: MIT */
/*
 * The slow path on paper: what a UDP socket of this host gets out of a frame. Written
 * from the RFCs (791, 8200, 768, 1071) and udp(7), sharing nothing with the programs.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum model_fate {
	MODEL_DELIVER, /* a socket gets the payload */
	MODEL_DROP,    /* the kernel throws it away: malformed, wrong checksum */
	MODEL_PIECE,   /* a fragment: what happens depends on the others */
	MODEL_OTHER,   /* not UDP over IP, or too many tags: no business of ours */
};

struct model {
	enum model_fate fate;
	int family;
	int n_vlans; /* 3: more than two, or they are cut off */
	uint16_t vlan_proto[2], vlan_tci[2];
	size_t l3, ip_len; /* ip_len: as the header says */
	uint8_t saddr[16], daddr[16];
	uint16_t sport, dport;
	size_t payload_at, payload;
	uint8_t ttl;
	bool summed; /* UDP checksum is not 0 */
	/* no options, no extension headers, UDP fills its IP packet, checksum present in IPv6 */
	bool plain;
};

void model_receive(const uint8_t *frame, size_t len, struct model *m);
const char *model_fate_name(enum model_fate f);
