/* SPDX-License-Identifier: MIT */
/* Operations of the tc programs on an skb, for UDP and TCP. */
#pragma once

#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/if_ether.h>

#include <bpf/bpf_helpers.h>

#include "ingress.h"
#include "maps.h"
#include "parse.h"
#include "rewrite.h"
#include "verdict.h"

/*
 * Updates the checksum at `at` for new addresses, which are in its pseudo header. With
 * CHECKSUM_COMPLETE the device has summed up the whole packet. An IPv4 header does not change that
 * sum, because its own checksum compensates for the addresses; an IPv6 header has none. Kernels
 * from 6.16 on, and newer patch levels of older ones, accept a flag for that; the others detect a
 * wrong sum and recompute it. `flags`: others of bpf_l4_csum_replace.
 */
#define L7MP_CSUM_IPV6 (1ULL << 7) /* BPF_F_IPV6 of <linux/bpf.h>, not in Debian 12's */

static __always_inline long l7mp_replace_addr_csum(struct __sk_buff *skb, const __u32 at,
                                                   __u32 delta, const __u8 family, __u64 flags)
{
	long rc = -EINVAL;

	flags |= BPF_F_PSEUDO_HDR;
	if (family == L7MP_FAMILY_V6)
		rc = bpf_l4_csum_replace(skb, at, 0, delta, flags | L7MP_CSUM_IPV6);
	return rc == -EINVAL ? bpf_l4_csum_replace(skb, at, 0, delta, flags) : rc;
}

/* Removes all tags, those in the frame (n_vlans) and the one in the skb. */
static __always_inline int l7mp_untag(struct __sk_buff *skb, const __u32 n_vlans)
{
	const __u32 n = n_vlans + (skb->vlan_present ? 1 : 0);

	if (n > 0 && bpf_skb_vlan_pop(skb))
		return -1;
	return n > 1 && bpf_skb_vlan_pop(skb) ? -1 : 0;
}

static __always_inline long l7mp_redirect(const struct l7mp_rewrite *rw)
{
	if (l7mp_flags(rw) & L7MP_FLOW_TO_INGRESS)
		return bpf_redirect(l7mp_ifindex(rw), BPF_F_INGRESS);
	if (l7mp_flags(rw) & L7MP_FLOW_NEIGH)
		return bpf_redirect_neigh(l7mp_ifindex(rw), NULL, 0, 0);
	return bpf_redirect(l7mp_ifindex(rw), 0);
}

/* The packet's tags: the outer one may be in the skb, n_vlans (a constant) are in the frame. */
static __always_inline __u64 l7mp_packet_tags(const struct __sk_buff *skb, const struct ethhdr *eth,
                                              const __u32 n_vlans)
{
	const struct l7mp_vlan *vlan = (const void *)(eth + 1);
	__be16 tci;

	if (!skb->vlan_present)
		return l7mp_frame_tags(eth, n_vlans);
	if (n_vlans >= L7MP_MAX_VLANS) /* three: no flow has them */
		return ~0ULL;
	tci = bpf_htons((__u16)skb->vlan_tci);
	if (n_vlans == 0)
		return l7mp_tags((__be16)skb->vlan_proto, 0, tci, 0);
	return l7mp_tags((__be16)skb->vlan_proto, eth->h_proto, tci, vlan[0].tci);
}

/* Continues with the next filter, which may be another program's. */
static __always_inline int l7mp_pass_up(int verdict)
{
	l7mp_count_verdict(verdict);
	return TC_ACT_UNSPEC;
}
