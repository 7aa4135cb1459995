/* SPDX-License-Identifier: MIT */
/*
 * Writes a flow's action into a packet. Called only when every check has
 * passed; the bounds tests here are for the verifier and can't fail then.
 */
#pragma once

#include "csum.h"
#include "maps.h"
#include "parse.h"

/*
 * Ports, addresses, TTL of the IP packet l3 bytes into the frame; with `csum` the UDP checksum too. 0, or -1
 * when the verifier's bounds test failed. l3, family and csum are constants.
 */
static __always_inline int l7mp_rewrite_ip(void *data, void *end, const __u32 l3, const __u8 family,
                                           const int csum, const struct l7mp_flow_action *a)
{
	struct udphdr *udp;

	if (family == L7MP_FAMILY_V4) {
		struct iphdr *ip = data + l3;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return -1;
		ip->ttl--;
		ip->check = l7mp_csum_apply(ip->check, a->csum_l3);
		__builtin_memcpy(&ip->saddr, a->saddr.bytes, 4);
		__builtin_memcpy(&ip->daddr, a->daddr.bytes, 4);
	} else {
		struct ipv6hdr *ip = data + l3;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return -1;
		ip->hop_limit--;
		__builtin_memcpy(&ip->saddr, a->saddr.bytes, 16);
		__builtin_memcpy(&ip->daddr, a->daddr.bytes, 16);
	}
	udp->source = a->sport;
	udp->dest = a->dport;
	if (csum)
		udp->check = l7mp_csum_apply_udp(udp->check, a->csum_addr + a->csum_port);
	return 0;
}

static __always_inline void l7mp_rewrite_macs(struct ethhdr *eth, const struct l7mp_flow_action *a)
{
	__builtin_memcpy(eth->h_dest, a->dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, a->smac, ETH_ALEN);
}

/* `c` may be NULL: then the flow is being removed. */
static __always_inline void l7mp_count_flow(struct l7mp_flow_counter *c, __u64 packets, __u64 bytes)
{
	__u64 tick;

	if (!c)
		return;
	c->packets += packets; /* per CPU: no other writer */
	c->bytes += bytes;
	/* The coarse clock moves with jiffies, and those cost one load instead of a call. */
	tick = bpf_jiffies64();
	if (c->tick != tick) {
		c->tick = tick;
		c->last_seen = bpf_ktime_get_coarse_ns();
	}
}
