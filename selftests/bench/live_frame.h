/* SPDX-License-Identifier: MIT */
/*
 * The frames of a run with live frames, their checksums, and what the reference programs make of
 * the first flow.
 */
#pragma once

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "live.h"

#define FRAME_MAX 2048

/* ---- checksums ---- */

static inline uint32_t frame_fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint32_t)sum;
}

static inline uint64_t frame_sum_words(const void *data, size_t n)
{
	const uint8_t *p = data;
	uint64_t sum = 0;
	uint16_t w;

	for (; n > 1; n -= 2, p += 2) {
		memcpy(&w, p, 2);
		sum += w;
	}
	return n ? sum + *p : sum;
}

/* Over pseudo header, UDP header and payload, as they stand. */
static inline uint32_t frame_udp_sum(const uint8_t *frame, bool v6)
{
	const uint8_t *ip = frame + ETH_HLEN, *udp = ip + (v6 ? 40 : 20);
	uint16_t len;

	memcpy(&len, udp + 4, 2);
	return frame_fold(frame_sum_words(ip + (v6 ? 8 : 12), v6 ? 32 : 8) + htons(IPPROTO_UDP) +
	                  len + frame_sum_words(udp, ntohs(len)));
}

/* Of what came out: "valid", "partial" (left to the device, as virtual ones may), "wrong". */
static inline const char *frame_state(const uint8_t *frame, size_t len)
{
	bool v6 = frame[12] == 0x86;
	const uint8_t *udp = frame + ETH_HLEN + (v6 ? 40 : 20);
	uint16_t check, udp_len;

	if (len < 42u + 20u * v6 ||
	    (!v6 && frame_fold(frame_sum_words(frame + ETH_HLEN, 20)) != 0xffff))
		return "wrong";
	if (frame_udp_sum(frame, v6) == 0xffff)
		return "valid";
	memcpy(&udp_len, udp + 4, 2);
	memcpy(&check, udp + 6, 2);
	return check == frame_fold(frame_sum_words(frame + ETH_HLEN + (v6 ? 8 : 12), v6 ? 32 : 8) +
	                           htons(IPPROTO_UDP) + udp_len)
	               ? "partial"
	               : "wrong";
}

/* ---- frames ---- */

/*
 * What is in the headers of every flow; source address (its last 32 bits) and port are the
 * program's.
 */
static inline size_t frame_build(const uint8_t mac[ETH_ALEN], bool v6, size_t size,
                                 uint8_t frame[FRAME_MAX])
{
	size_t headers = v6 ? 62 : 42, udp_len = 8 + size;
	struct ethhdr *eth = (void *)frame;
	struct udphdr udp = {.dest = htons(LIVE_GW_PORT), .len = htons((uint16_t)udp_len)};

	memset(frame, 0, FRAME_MAX);
	memcpy(eth->h_dest, mac, ETH_ALEN);
	memcpy(eth->h_source, "\x02\x00\x00\x00\x00\x03", ETH_ALEN);
	eth->h_proto = htons(v6 ? ETH_P_IPV6 : ETH_P_IP);
	if (v6) {
		struct ipv6hdr ip = {.version = 6,
		                     .payload_len = htons((uint16_t)udp_len),
		                     .nexthdr = IPPROTO_UDP,
		                     .hop_limit = 64};

		inet_pton(AF_INET6, "fd00:11::", &ip.saddr);
		inet_pton(AF_INET6, "fd00:10::1", &ip.daddr);
		memcpy(frame + ETH_HLEN, &ip, sizeof(ip));
	} else {
		struct iphdr ip = {.version = 4,
		                   .ihl = 5,
		                   .ttl = 64,
		                   .protocol = IPPROTO_UDP,
		                   .frag_off = htons(0x4000),
		                   .tot_len = htons((uint16_t)(20 + udp_len))};

		inet_pton(AF_INET, "10.0.0.1", &ip.daddr);
		memcpy(frame + ETH_HLEN, &ip, sizeof(ip));
	}
	memcpy(frame + headers - 8, &udp, sizeof(udp));
	for (size_t i = 0; i < size; i++)
		frame[headers + i] = (uint8_t)i;
	return headers + size;
}

/* As struct rewrite of reference.bpf.c: the first flow. */
struct reference_rewrite {
	uint8_t addresses[8];
	uint16_t ports[2];
	uint8_t dmac[6], smac[6];
	uint32_t csum_l3, csum_l4;
};

static inline void frame_rewrite(struct reference_rewrite *r)
{
	struct {
		uint32_t saddr, daddr;
		uint16_t ports[2];
	} old, new;
	uint64_t addr = 0, port = 0;

	inet_pton(AF_INET, "11.0.0.1", &old.saddr);
	inet_pton(AF_INET, "10.0.0.1", &old.daddr);
	inet_pton(AF_INET, "172.16.0.1", &new.saddr);
	inet_pton(AF_INET, "172.16.0.2", &new.daddr);
	old.ports[0] = htons(LIVE_PORT_BASE);
	old.ports[1] = htons(LIVE_GW_PORT);
	new.ports[0] = htons(20000);
	new.ports[1] = htons(LIVE_SINK_PORT);
	for (int i = 0; i < 4; i++)
		addr += (uint16_t) ~((uint16_t *)&old)[i] + ((uint16_t *)&new)[i];
	for (int i = 0; i < 2; i++)
		port += (uint16_t)~old.ports[i] + new.ports[i];
	memcpy(r->addresses, &new, 8);
	memcpy(r->ports, new.ports, 4);
	memcpy(r->dmac, "\x02\x00\x00\x00\x00\x02", 6);
	memcpy(r->smac, "\x02\x00\x00\x00\x00\x01", 6);
	r->csum_l3 = frame_fold(addr + (uint16_t)~htons(0x0100));
	r->csum_l4 = frame_fold(addr + port);
}
