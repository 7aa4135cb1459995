/* SPDX-License-Identifier: MIT */
/*
 * Checks that a packet arrives where its flow expects it: on the same interface, with the same
 * destination link address and the same VLAN tags. Otherwise it is passed to the stack and its
 * checks (reverse path filter, martian addresses, unknown VLANs).
 */
#pragma once

#include "flow.h"

/* Protocols and VLAN ids in the form of a flow from in_vlan_proto on, in network order. */
static __always_inline __u64 l7mp_tags(__be16 proto0, __be16 proto1, __be16 tci0, __be16 tci1)
{
	const __be16 id = bpf_htons(0x0fff);

	return L7MP_WORD64(L7MP_WORD32(proto0, proto1), L7MP_WORD32(tci0 & id, tci1 & id));
}

/* Reads the tags of a parsed frame that has n_vlans of them (a constant). */
static __always_inline __u64 l7mp_frame_tags(const struct ethhdr *eth, const __u32 n_vlans)
{
	const struct l7mp_vlan *vlan = (const void *)(eth + 1);

	if (n_vlans == 0)
		return 0;
	if (n_vlans == 1)
		return l7mp_tags(eth->h_proto, 0, vlan[0].tci, 0);
	return l7mp_tags(eth->h_proto, vlan[0].proto, vlan[0].tci, vlan[1].tci);
}

/* Whether the frame is addressed to the flow's link address. */
static __always_inline int l7mp_to_us(const struct ethhdr *eth, const struct l7mp_flow_action *a)
{
	const __u16 *mac = (const __u16 *)eth->h_dest, *own = (const __u16 *)a->in_mac;

	return mac[0] == own[0] && mac[1] == own[1] && mac[2] == own[2];
}

/*
 * Returns 0, or the verdict. has_link is a constant of the program: `eth` itself must not be
 * compared with NULL, because without CAP_PERFMON the verifier rejects that for a packet pointer.
 */
static __always_inline int l7mp_check_ingress(const struct l7mp_flow_action *a,
                                              const struct l7mp_flow_read *rd, __u32 ifindex,
                                              int has_link, const struct ethhdr *eth, __u64 tags)
{
	if (L7MP_SECOND32(rd->head) != ifindex)
		return L7MP_VERDICT_PASS_INGRESS;
	if (has_link && !l7mp_to_us(eth, a))
		return L7MP_VERDICT_PASS_NOT_HOST;
	if (*(const __u64 *)a->in_vlan_proto != tags)
		return L7MP_VERDICT_PASS_TAGS;
	return 0;
}
