/* SPDX-License-Identifier: MIT */
/*
 * Finds the flow key in a packet. Only reads; in every doubtful case returns a verdict, and the
 * caller passes the packet to the stack unchanged.
 *
 * The same code is used by XDP (the frame as on the wire), by tc (an outer VLAN tag may be in the
 * skb instead) and, compiled for user space, by the fuzzer.
 */
#pragma once

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/types.h>
#include <linux/udp.h>

#include "l7mp/abi.h"
#include "words.h"

#ifdef __bpf__
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#else
#include <arpa/inet.h>
#define bpf_htons htons
#define bpf_ntohs ntohs
#define bpf_htonl htonl
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#define L7MP_MAX_VLANS   2
#define L7MP_IP_FRAGMENT 0x3fff /* more fragments, or an offset */

struct l7mp_vlan {
	__be16 tci;
	__be16 proto; /* of the next header */
};

struct l7mp_packet {
	/*
	 * 64 bits: before 6.2, without CAP_PERFMON, less can't be stored where a pointer was kept
	 * before.
	 */
	__u64 ip_len;      /* whole IP packet */
	__u64 payload_len; /* transport payload */
	__u64 trailer;     /* bytes after the IP packet: padding of short frames, or other data */
	union {
		struct l7mp_flow4_key key4;
		struct l7mp_flow_key key6;
		__u64 key_words[5]; /* IPv4: the first two */
	};
};
_Static_assert(sizeof(struct l7mp_flow_key) == 40, "key_words covers the key");

static __always_inline __u32 l7mp_load32(const void *at)
{
#ifdef __bpf__
	return *(const __u32 *)at;
#else
	__u32 word;

	__builtin_memcpy(&word, at, sizeof(word));
	return word;
#endif
}

static __always_inline __u64 l7mp_load64(const void *at)
{
	return L7MP_WORD64(l7mp_load32(at), l7mp_load32(at + 4));
}

static __always_inline int l7mp_parse_udp(const struct udphdr *udp, const void *end, __u32 l4_len,
                                          const __u8 family, struct l7mp_packet *p)
{
	if ((const void *)(udp + 1) > end)
		return L7MP_VERDICT_PASS_TRUNCATED;
	/*
	 * A datagram shorter than its IP packet is legal, and trimmed by the receiver: too rare for
	 * the fast path.
	 */
	if (bpf_ntohs(udp->len) != l4_len)
		return L7MP_VERDICT_PASS_MALFORMED;
	if (family == L7MP_FAMILY_V6 && udp->check == 0)
		return L7MP_VERDICT_PASS_CHECKSUM;
	if (family == L7MP_FAMILY_V4)
		p->key_words[1] = L7MP_WORD64(l7mp_load32(udp), L7MP_KEY_TAIL(IPPROTO_UDP, 0));
	else
		p->key_words[4] = L7MP_WORD64(l7mp_load32(udp), L7MP_KEY_TAIL(IPPROTO_UDP, family));
	p->payload_len = l4_len - sizeof(*udp);
	return 0;
}

static __always_inline int l7mp_v4_options(const struct iphdr *ip)
{
	if (ip->ihl < 5)
		return L7MP_VERDICT_PASS_MALFORMED;
	return ip->protocol == IPPROTO_TCP ? L7MP_VERDICT_PASS_TCP : L7MP_VERDICT_PASS_OPTIONS;
}

/* TCP, or a header that may precede it. splice.h handles the rest. */
static __always_inline int l7mp_v6_other(__u8 next)
{
	return next == IPPROTO_TCP || next == IPPROTO_FRAGMENT || next == IPPROTO_HOPOPTS
	               ? L7MP_VERDICT_PASS_TCP
	               : L7MP_VERDICT_PASS_NOT_UDP;
}

/* `l3` bytes of link header before it; the whole frame has wire_len. The same for IPv6 below. */
static __always_inline int l7mp_parse_v4(const struct iphdr *ip, const void *end, const __u32 l3,
                                         __u32 wire_len, struct l7mp_packet *p)
{
	if ((const void *)(ip + 1) > end)
		return L7MP_VERDICT_PASS_TRUNCATED;
	if (ip->version != 4)
		return L7MP_VERDICT_PASS_MALFORMED;
	if (ip->ihl != 5)
		return l7mp_v4_options(ip);
	if (ip->protocol != IPPROTO_UDP)
		return ip->protocol == IPPROTO_TCP ? L7MP_VERDICT_PASS_TCP
		                                   : L7MP_VERDICT_PASS_NOT_UDP;
	if (ip->frag_off & bpf_htons(L7MP_IP_FRAGMENT))
		return L7MP_VERDICT_PASS_FRAGMENT;
	if (ip->ttl <= 1)
		return L7MP_VERDICT_PASS_TTL;
	p->ip_len = bpf_ntohs(ip->tot_len);
	if (p->ip_len < sizeof(*ip) + sizeof(struct udphdr))
		return L7MP_VERDICT_PASS_MALFORMED;
	if (l3 + p->ip_len > wire_len)
		return L7MP_VERDICT_PASS_TRUNCATED;
	p->trailer = wire_len - (l3 + p->ip_len);
	p->key_words[0] = l7mp_load64(&ip->saddr); /* and daddr */
	return l7mp_parse_udp((const void *)(ip + 1), end, p->ip_len - sizeof(*ip), L7MP_FAMILY_V4,
	                      p);
}

static __always_inline int l7mp_parse_v6(const struct ipv6hdr *ip, const void *end, const __u32 l3,
                                         __u32 wire_len, struct l7mp_packet *p)
{
	if ((const void *)(ip + 1) > end)
		return L7MP_VERDICT_PASS_TRUNCATED;
	if (ip->version != 6)
		return L7MP_VERDICT_PASS_MALFORMED;
	/* Extension headers, including fragments, are not handled here: passed to the stack. */
	if (ip->nexthdr != IPPROTO_UDP)
		return l7mp_v6_other(ip->nexthdr);
	if (ip->hop_limit <= 1)
		return L7MP_VERDICT_PASS_TTL;
	p->ip_len = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (p->ip_len < sizeof(*ip) + sizeof(struct udphdr)) /* payload_len 0: a jumbogram */
		return L7MP_VERDICT_PASS_MALFORMED;
	if (l3 + p->ip_len > wire_len)
		return L7MP_VERDICT_PASS_TRUNCATED;
	p->trailer = wire_len - (l3 + p->ip_len);
	p->key_words[0] = l7mp_load64(&ip->saddr);
	p->key_words[1] = l7mp_load64((const __u8 *)&ip->saddr + 8);
	p->key_words[2] = l7mp_load64(&ip->daddr);
	p->key_words[3] = l7mp_load64((const __u8 *)&ip->daddr + 8);
	return l7mp_parse_udp((const void *)(ip + 1), end, p->ip_len - sizeof(*ip), L7MP_FAMILY_V6,
	                      p);
}

/*
 * `data` may be shorter than the whole frame of wire_len when the rest is in fragments. On success
 * fills all of *p; of the key only the part of its family. Returns 0, or a verdict. l3 and family
 * are constants.
 */
static __always_inline int l7mp_parse_ip(const void *data, const void *end, const __u32 l3,
                                         const __u8 family, __u32 wire_len, struct l7mp_packet *p)
{
	return family == L7MP_FAMILY_V4 ? l7mp_parse_v4(data + l3, end, l3, wire_len, p)
	                                : l7mp_parse_v6(data + l3, end, l3, wire_len, p);
}

static __always_inline int l7mp_is_vlan(__be16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}

/*
 * The payload of a frame and its number of tags. Each kind has separate code with constant offsets:
 * it is shorter, and without CAP_PERFMON the verifier rejects variable offsets.
 */
#define L7MP_KIND(n_vlans, family) ((n_vlans) << 4 | (family))
#define L7MP_KIND_VLANS(kind)      ((kind) >> 4)
#define L7MP_KIND_FAMILY(kind)     ((kind)&15)
#define L7MP_KIND_TAGS(kind)       (L7MP_KIND_VLANS(kind) * (__u32)sizeof(struct l7mp_vlan))
#define L7MP_KIND_L3(kind)         (ETH_HLEN + L7MP_KIND_TAGS(kind))
#define L7MP_KIND_PAYLOAD(kind)                                                  \
	(L7MP_KIND_L3(kind) + (__u32)sizeof(struct udphdr) +                     \
	 (__u32)(L7MP_KIND_FAMILY(kind) == L7MP_FAMILY_V4 ? sizeof(struct iphdr) \
	                                                  : sizeof(struct ipv6hdr)))
#define L7MP_KINDS(X)        \
	X(0, L7MP_FAMILY_V4) \
	X(0, L7MP_FAMILY_V6) \
	X(1, L7MP_FAMILY_V4) X(1, L7MP_FAMILY_V6) X(2, L7MP_FAMILY_V4) X(2, L7MP_FAMILY_V6)

/* Returns the kind, or a negative verdict. */
static __always_inline int l7mp_frame_kind(const void *data, const void *end)
{
	const struct ethhdr *eth = data;
	const struct l7mp_vlan *vlan = (const void *)(eth + 1);
	__be16 proto;
	int n = 0;

	if ((const void *)(eth + 1) > end)
		return -L7MP_VERDICT_PASS_TRUNCATED;
	if (eth->h_dest[0] & 1)
		return -L7MP_VERDICT_PASS_NOT_HOST;
	proto = eth->h_proto;
	if (l7mp_is_vlan(proto)) {
		if ((const void *)(vlan + 1) > end)
			return -L7MP_VERDICT_PASS_TRUNCATED;
		proto = vlan[0].proto;
		n = 1;
		if (l7mp_is_vlan(proto)) {
			if ((const void *)(vlan + 2) > end)
				return -L7MP_VERDICT_PASS_TRUNCATED;
			proto = vlan[1].proto;
			n = 2;
		}
	}
	if (proto == bpf_htons(ETH_P_IP))
		return L7MP_KIND(n, L7MP_FAMILY_V4);
	if (proto == bpf_htons(ETH_P_IPV6))
		return L7MP_KIND(n, L7MP_FAMILY_V6);
	return -L7MP_VERDICT_PASS_NOT_IP;
}
