/* SPDX-License-Identifier: MIT */
/*
 * Writes what a flow makes of a packet. Called only when every check has
 * passed; the bounds tests here are for the verifier and can't fail then.
 */
#pragma once

#include "csum.h"
#include "maps.h"
#include "parse.h"

/* What is written, taken out of the action before its tag is looked at for the last time. */
struct l7mp_news {
	__u32 saddr[4], daddr[4];
	__u32 ports;
	__u32 csum_l3, csum_addr, csum_port;
	__u16 dmac[3], smac[3];
	__be16 vlan_proto[2], vlan_tci[2];
};

static __always_inline void l7mp_take(struct l7mp_news *n, const struct l7mp_flow_action *a,
                                      const __u8 family)
{
	const __u32 *saddr = (const __u32 *)a->saddr.bytes, *daddr = (const __u32 *)a->daddr.bytes;
	const __u16 *dmac = (const __u16 *)a->dmac, *smac = (const __u16 *)a->smac;

	n->saddr[0] = saddr[0];
	n->daddr[0] = daddr[0];
	if (family == L7MP_FAMILY_V6) {
		n->saddr[1] = saddr[1], n->saddr[2] = saddr[2], n->saddr[3] = saddr[3];
		n->daddr[1] = daddr[1], n->daddr[2] = daddr[2], n->daddr[3] = daddr[3];
	} else {
		n->csum_l3 = a->csum_l3;
	}
	n->ports = *(const __u32 *)&a->sport;
	n->csum_addr = a->csum_addr;
	n->csum_port = a->csum_port;
	n->dmac[0] = dmac[0], n->dmac[1] = dmac[1], n->dmac[2] = dmac[2];
	n->smac[0] = smac[0], n->smac[1] = smac[1], n->smac[2] = smac[2];
}

static __always_inline void l7mp_take_vlans(struct l7mp_news *n, const struct l7mp_flow_action *a)
{
	n->vlan_proto[0] = a->vlan_proto[0], n->vlan_proto[1] = a->vlan_proto[1];
	n->vlan_tci[0] = a->vlan_tci[0], n->vlan_tci[1] = a->vlan_tci[1];
}

/*
 * Ports, addresses, TTL of the IP packet l3 bytes into the frame; with `csum` the UDP checksum too. 0, or -1
 * when the verifier's bounds test failed. l3, family and csum are constants.
 */
static __always_inline int l7mp_rewrite_ip(void *data, void *end, const __u32 l3, const __u8 family,
                                           const int csum, const struct l7mp_news *n)
{
	struct udphdr *udp;

	if (family == L7MP_FAMILY_V4) {
		struct iphdr *ip = data + l3;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return -1;
		ip->ttl--;
		ip->check = l7mp_csum_apply(ip->check, n->csum_l3);
		__builtin_memcpy(&ip->saddr, n->saddr, 4);
		__builtin_memcpy(&ip->daddr, n->daddr, 4);
	} else {
		struct ipv6hdr *ip = data + l3;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return -1;
		ip->hop_limit--;
		__builtin_memcpy(&ip->saddr, n->saddr, 16);
		__builtin_memcpy(&ip->daddr, n->daddr, 16);
	}
	__builtin_memcpy(&udp->source, &n->ports, 4);
	if (csum)
		udp->check = l7mp_csum_apply_udp(udp->check, n->csum_addr + n->csum_port);
	return 0;
}

static __always_inline void l7mp_rewrite_macs(struct ethhdr *eth, const struct l7mp_news *n)
{
	__builtin_memcpy(eth->h_dest, n->dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, n->smac, ETH_ALEN);
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
