/* SPDX-License-Identifier: MIT */
/*
 * Rewrites a packet according to its flow. Called only when every check has passed; the bounds
 * tests here are for the verifier and can't fail then.
 */
#pragma once

#include "csum.h"
#include "maps.h"
#include "parse.h"

/*
 * The data to write, copied from the value before its last validation (l7mp_flow_replaced). In the
 * value's own groups of 8 bytes: see words.h.
 */
struct l7mp_rewrite {
	__u64 addrs[4]; /* saddr, daddr; IPv4: both in the first word */
	__u64 ports;    /* sport, dport, verb, n_vlans, flags */
	__u64 egress;   /* ifindex, mtu */
	__u64 macs[2];  /* dmac, smac, the first bytes of in_mac */
	__u64 csums;    /* the last bytes of in_mac, csum_l3, csum_addr, csum_port */
	__u64 vlans;    /* vlan_proto, vlan_tci */
	__u64 tos;      /* handover, tos, dir, padding */
};

/* Copies the fields used by the checks. */
static __always_inline void l7mp_take_checked(struct l7mp_rewrite *rw,
                                              const struct l7mp_flow_action *a)
{
	rw->ports = *(const __u64 *)&a->sport;
	rw->egress = *(const __u64 *)&a->ifindex;
}

static __always_inline void l7mp_take(struct l7mp_rewrite *rw, const struct l7mp_flow_action *a,
                                      const __u8 family)
{
	const __u64 *macs = (const __u64 *)a->dmac, *addrs = (const __u64 *)a->saddr;

	rw->addrs[0] = addrs[0];
	if (family == L7MP_FAMILY_V6) {
		addrs = (const __u64 *)&((const struct l7mp_flow6_action *)a)->saddr;
		for (int i = 0; i < 4; i++)
			rw->addrs[i] = addrs[i];
	}
	rw->macs[0] = macs[0];
	rw->macs[1] = macs[1];
	rw->csums = macs[2];
	rw->tos = *(const __u64 *)&a->handover;
}

static __always_inline void l7mp_take_vlans(struct l7mp_rewrite *rw,
                                            const struct l7mp_flow_action *a)
{
	rw->vlans = *(const __u64 *)a->vlan_proto;
}

/* The fields of these words, as in memory. */
static __always_inline __u32 l7mp_word32(const __u64 *words, int i)
{
	return ((const __u32 *)words)[i];
}

static __always_inline __be16 l7mp_word16(const __u64 *words, int i)
{
	return ((const __be16 *)words)[i];
}

static __always_inline __u8 l7mp_verb(const struct l7mp_rewrite *rw)
{
	return ((const __u8 *)&rw->ports)[4];
}

static __always_inline __u8 l7mp_n_vlans(const struct l7mp_rewrite *rw)
{
	return ((const __u8 *)&rw->ports)[5];
}

static __always_inline __u16 l7mp_flags(const struct l7mp_rewrite *rw)
{
	return ((const __u16 *)&rw->ports)[3];
}

static __always_inline __u8 l7mp_tos(const struct l7mp_rewrite *rw)
{
	return ((const __u8 *)&rw->tos)[2];
}

static __always_inline __u8 l7mp_dir(const struct l7mp_rewrite *rw)
{
	return ((const __u8 *)&rw->tos)[3];
}

static __always_inline __u32 l7mp_ifindex(const struct l7mp_rewrite *rw)
{
	return l7mp_word32(&rw->egress, 0);
}

static __always_inline __u32 l7mp_mtu(const struct l7mp_rewrite *rw)
{
	return l7mp_word32(&rw->egress, 1);
}

static __always_inline __u32 l7mp_csum_l3(const struct l7mp_rewrite *rw)
{
	return l7mp_word16(&rw->csums, 1);
}

static __always_inline __u32 l7mp_csum_addr(const struct l7mp_rewrite *rw)
{
	return l7mp_word16(&rw->csums, 2);
}

static __always_inline __u32 l7mp_csum_port(const struct l7mp_rewrite *rw)
{
	return l7mp_word16(&rw->csums, 3);
}

/*
 * Sets the fields that a socket would set, by the same rule as for user space's sockets: DSCP and
 * ECN are the flow's or kept, DF is set, an IPv6 flow label is zero. Returns the change of the IPv4
 * header's checksum, in 64 bits: see words.h.
 */
static __always_inline __u64 l7mp_rewrite_fields_v4(struct iphdr *ip, const struct l7mp_rewrite *rw)
{
	const __be16 first = bpf_htons((__u16)(0x4500 | l7mp_tos(rw))), df = bpf_htons(0x4000);
	__be16 *words = (__be16 *)ip;
	__u64 delta = 0;

	if (words[0] != first && !(l7mp_flags(rw) & L7MP_FLOW_KEEP_TOS)) {
		delta = (__u16)~words[0] + first;
		words[0] = first;
	}
	if (words[3] != df) {
		delta += (__u16)~words[3] + df;
		words[3] = df;
	}
	return delta;
}

static __always_inline void l7mp_rewrite_fields_v6(struct ipv6hdr *ip,
                                                   const struct l7mp_rewrite *rw)
{
	__u32 tos = bpf_htonl((__u32)l7mp_tos(rw) << 20);

	if (l7mp_flags(rw) & L7MP_FLOW_KEEP_TOS)
		tos = l7mp_load32(ip) & bpf_htonl(0x0ff00000);
	*(__u32 *)ip = bpf_htonl(0x60000000) | tos;
}

/*
 * Rewrites the IP packet at l3; with `csum` also the UDP checksum. Returns 0, or -1 when the
 * verifier's bounds test failed. l3, family and csum are constants.
 */
static __always_inline int l7mp_rewrite_ip(void *data, void *end, const __u32 l3, const __u8 family,
                                           const int csum, const struct l7mp_rewrite *rw)
{
	struct udphdr *udp;

	if (family == L7MP_FAMILY_V4) {
		struct iphdr *ip = data + l3;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return -1;
		ip->ttl--;
		ip->check = l7mp_csum_apply(
		        ip->check, (__u32)(l7mp_rewrite_fields_v4(ip, rw) + l7mp_csum_l3(rw)));
		ip->saddr = l7mp_word32(rw->addrs, 0);
		ip->daddr = l7mp_word32(rw->addrs, 1);
	} else {
		struct ipv6hdr *ip = data + l3;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return -1;
		ip->hop_limit--;
		l7mp_rewrite_fields_v6(ip, rw);
		__builtin_memcpy(&ip->saddr, rw->addrs, 16);
		__builtin_memcpy(&ip->daddr, rw->addrs + 2, 16);
	}
	udp->source = l7mp_word16(&rw->ports, 0);
	udp->dest = l7mp_word16(&rw->ports, 1);
	if (csum)
		udp->check =
		        l7mp_csum_apply_udp(udp->check, l7mp_csum_addr(rw) + l7mp_csum_port(rw));
	return 0;
}

static __always_inline void l7mp_rewrite_macs(struct ethhdr *eth, const struct l7mp_rewrite *rw)
{
	__be16 *to = (__be16 *)eth; /* both addresses, 12 bytes */

	for (int i = 0; i < 6; i++)
		to[i] = l7mp_word16(rw->macs, i);
}

/* `c` is NULL only for the verifier. */
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
