/* SPDX-License-Identifier: MIT */
/*
 * Frames for the BPF tests, made from a description. Every checksum is computed
 * from scratch over the finished packet: nothing here is shared with the programs.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKET_MAX 4096

/* A TCP header; what is not here, the packet has. */
struct tcp_header {
	uint32_t seq, ack;
	uint8_t flags; /* as in the 14th byte */
	uint16_t win, urgent;
	uint8_t options[40];
	size_t options_len; /* a multiple of 4 */
};

struct packet {
	int family;                   /* 4 or 6 */
	const struct tcp_header *tcp; /* NULL: UDP. Borrowed */
	uint8_t dmac[6], smac[6];
	int n_vlans; /* up to 3 */
	uint16_t vlan_proto[3], vlan_tci[3];
	uint16_t ether_type; /* 0: as the family says */
	uint8_t saddr[16], daddr[16];
	uint16_t sport, dport;
	uint8_t protocol; /* of the last header */
	uint8_t ttl, tos;
	uint16_t id, frag; /* IPv4: identification, flags and offset, in host order */
	int version;       /* 0: as the family says */
	int options;       /* IPv4: bytes of options, a multiple of 4 */
	int ihl;           /* IPv4: overrides the header length in words, unless 0 */
	int ext;           /* IPv6: type of an extension header of 8 bytes, -1: none */
	uint32_t flow_label;
	size_t payload;
	uint32_t fill;        /* seed of the payload's bytes */
	const uint8_t *bytes; /* or the payload itself */
	size_t trailer;       /* bytes after the IP packet */
	int ip_len_add;       /* added to the length in the IP header */
	int udp_len_add;      /* and to that in the UDP header */
	bool no_csum;         /* UDP checksum 0 */
	uint16_t csum_err;    /* added (one's complement) to what the right checksum is made of */
	uint16_t ip_err;      /* the same for the IPv4 header */
	bool zero_sum; /* choose the last payload word so that the checksum computes to zero */
};

/* Folded one's complement sum of n bytes, as 16 bits in host order. */
uint16_t packet_sum(const uint8_t *data, size_t n, uint32_t start);
/* Returns the frame's length, at most PACKET_MAX. */
size_t packet_build(const struct packet *p, uint8_t out[static PACKET_MAX]);
size_t packet_l3(const struct packet *p);
/* Bytes of the IP packet, its header included. */
size_t packet_ip_len(const struct packet *p);
/* Where the payload begins in the frame. */
size_t packet_payload_at(const struct packet *p);
