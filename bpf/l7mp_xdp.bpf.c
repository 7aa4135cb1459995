/* SPDX-License-Identifier: MIT */
/*
 * The fast path at XDP: a flow's packet is rewritten and sent out of a device of
 * the device map; everything else goes up as it came.
 *
 * Order: parse -> look up -> all checks, the redirect among them (it only notes the
 * target) -> write. A packet that is passed up is never changed.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "flow.h"
#include "maps.h"
#include "parse.h"
#include "rewrite.h"
#include "state.h"
#include "verdict.h"

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

/* Link header for the way out: MACs and as many tags as the flow leaves with. */
static __always_inline int write_link(void *data, void *end, const struct l7mp_packet *p,
                                      const struct l7mp_flow_action *a)
{
	struct ethhdr *eth = data;
	struct l7mp_vlan *vlan = (void *)(eth + 1);
	__be16 ip_proto =
	        p->key.family == L7MP_FAMILY_V4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);

	if ((void *)(vlan + 2) > end) /* an IP header follows: always there */
		return -1;
	l7mp_rewrite_macs(eth, a);
	if (a->n_vlans == 0) {
		eth->h_proto = ip_proto;
		return 0;
	}
	eth->h_proto = a->vlan_proto[0];
	vlan[0].tci = a->vlan_tci[0];
	if (a->n_vlans == 1) {
		vlan[0].proto = ip_proto;
		return 0;
	}
	vlan[0].proto = a->vlan_proto[1];
	vlan[1].tci = a->vlan_tci[1];
	vlan[1].proto = ip_proto;
	return 0;
}

static __always_inline int write_packet(struct xdp_md *ctx, struct l7mp_packet *p,
                                        const struct l7mp_flow_action *a)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct udphdr *udp;
	__u32 l3 = sizeof(struct ethhdr) + (a->n_vlans & 3) * sizeof(struct l7mp_vlan);

	/* Constants by case: the verifier wants to know the offset. */
	if (l3 == 14)
		p->l3 = 14;
	else if (l3 == 18)
		p->l3 = 18;
	else
		p->l3 = 22;
	if (l7mp_rewrite_ip(data, end, p, a))
		return -1;
	udp = data + p->l3 +
	      (p->key.family == L7MP_FAMILY_V4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	if ((void *)(udp + 1) > end)
		return -1;
	l7mp_rewrite_udp_csum(udp, a);
	return write_link(data, end, p, a);
}

static __always_inline int forward(struct xdp_md *ctx, struct l7mp_packet *p,
                                   const struct l7mp_flow_action *a)
{
	__s32 grow;

	if (a->verb != L7MP_VERB_FORWARD && a->verb != L7MP_VERB_REFLECT)
		return L7MP_VERDICT_PASS_KERNEL;
	if (a->flags & (L7MP_FLOW_TC_ONLY | L7MP_FLOW_NEIGH | L7MP_FLOW_TO_INGRESS))
		return L7MP_VERDICT_PASS_TO_TC;
	if (p->ip_len > a->mtu)
		return L7MP_VERDICT_PASS_MTU;
	if (a->n_vlans > L7MP_MAX_VLANS)
		return L7MP_VERDICT_PASS_VLAN;
	/* Notes the target, changes nothing yet; fails when the device has gone. */
	if (bpf_redirect_map(&devices, a->ifindex, 0) != XDP_REDIRECT)
		return L7MP_VERDICT_PASS_DEVICE;
	grow = ((__s32)p->n_vlans - (__s32)a->n_vlans) * (__s32)sizeof(struct l7mp_vlan);
	if (grow && bpf_xdp_adjust_head(ctx, grow))
		return L7MP_VERDICT_PASS_VLAN;
	if (write_packet(ctx, p, a))
		return L7MP_VERDICT_PASS_KERNEL;
	return a->verb == L7MP_VERB_REFLECT ? L7MP_VERDICT_REFLECTED : L7MP_VERDICT_FORWARDED;
}

static __always_inline int handle(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct l7mp_packet p;
	const struct l7mp_flow_action *a;
	struct l7mp_flow_counter *c;
	int verdict = l7mp_parse_frame(data, end, end - data, &p);

	if (verdict)
		return verdict;
	a = bpf_map_lookup_elem(&flows, &p.key);
	if (!a)
		return L7MP_VERDICT_PASS_NO_FLOW;
	/* Right behind the first look-up: the processor hashes for both at the same time. */
	c = bpf_map_lookup_elem(&counters, &p.key);
	if (a->match_tag != l7mp_match_tag(&p.key))
		return L7MP_VERDICT_PASS_STALE;
	if (a->verb == L7MP_VERB_COUNT)
		verdict = L7MP_VERDICT_COUNTED;
	else
		verdict = forward(ctx, &p, a);
	if (verdict <= L7MP_VERDICT_COUNTED)
		l7mp_count_flow(c, 1, p.payload_len);
	return verdict;
}

SEC("xdp")
int l7mp_xdp(struct xdp_md *ctx)
{
	int verdict = handle(ctx);

	l7mp_count_verdict(verdict);
	if (verdict == L7MP_VERDICT_COUNTED)
		return XDP_DROP;
	return verdict < L7MP_VERDICT_COUNTED ? XDP_REDIRECT : XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
