/* SPDX-License-Identifier: MIT */
/*
 * The fast path at tc ingress (clsact): where XDP is not right - lo, veth,
 * bridges, tun - and where a packet carries what XDP can't see: a partial checksum or
 * many segments.
 *
 * Order: parse -> look up -> all checks -> checksum helpers -> write -> redirect. A
 * packet that is passed up is never changed.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#include "flow.h"
#include "maps.h"
#include "parse.h"
#include "rewrite.h"
#include "verdict.h"

#define PACKET_HOST 0 /* <linux/if_packet.h>; its other definitions clash with BPF's */

/* Wire datagrams in the packet: a GSO packet leaves in segments. */
static __always_inline __u64 segments(const struct __sk_buff *skb, const struct l7mp_packet *p)
{
	if (!skb->gso_size)
		return 1;
	if (skb->gso_segs)
		return skb->gso_segs;
	return (p->payload_len + skb->gso_size - 1) / skb->gso_size;
}

/* The largest IP packet that this one puts on the wire. */
static __always_inline __u32 wire_ip_len(const struct __sk_buff *skb, const struct l7mp_packet *p)
{
	if (!skb->gso_size)
		return p->ip_len;
	return p->l4 - p->l3 + sizeof(struct udphdr) + skb->gso_size;
}

/*
 * The UDP checksum, which may be partial: the helper knows. Only the addresses
 * are in the pseudo header. 0, or negative.
 */
static __always_inline long replace_csum(struct __sk_buff *skb, const struct l7mp_packet *p,
                                         const struct l7mp_flow_action *a)
{
	__u32 at = p->l4 + __builtin_offsetof(struct udphdr, check);
	long rc = 0;

	if (a->csum_addr)
		rc = bpf_l4_csum_replace(skb, at, 0, a->csum_addr,
		                         BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0);
	if (!rc && a->csum_port)
		rc = bpf_l4_csum_replace(skb, at, 0, a->csum_port, BPF_F_MARK_MANGLED_0);
	return rc;
}

static __always_inline int untag(struct __sk_buff *skb, struct l7mp_packet *p)
{
	__u32 n = p->n_vlans + (skb->vlan_present ? 1 : 0);

	if (n > L7MP_MAX_VLANS)
		return -1;
	if (n > 0 && bpf_skb_vlan_pop(skb))
		return -1;
	if (n > 1 && bpf_skb_vlan_pop(skb))
		return -1;
	p->l4 -= p->n_vlans * sizeof(struct l7mp_vlan);
	p->l3 -= p->n_vlans * sizeof(struct l7mp_vlan);
	p->n_vlans = 0;
	return 0;
}

/*
 * Redirecting drops what has no link header, even where the kernel writes the
 * header: a packet of a tun device gets one first. Changes nothing when it fails.
 */
static __always_inline int add_link(struct __sk_buff *skb, struct l7mp_packet *p)
{
	if (bpf_skb_change_head(skb, sizeof(struct ethhdr), 0))
		return -1;
	p->l3 += sizeof(struct ethhdr);
	p->l4 += sizeof(struct ethhdr);
	return 0;
}

static __always_inline int write_packet(struct __sk_buff *skb, struct l7mp_packet *p,
                                        const struct l7mp_flow_action *a, const int has_link)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;

	p->l3 = sizeof(struct ethhdr);
	if (l7mp_rewrite_ip(data, end, p, a))
		return -1;
	l7mp_rewrite_macs(data, a);
	if (!has_link)
		((struct ethhdr *)data)->h_proto = (__be16)skb->protocol;
	return 0;
}

static __always_inline long redirect(const struct l7mp_flow_action *a)
{
	if (a->flags & L7MP_FLOW_TO_INGRESS)
		return bpf_redirect(a->ifindex, BPF_F_INGRESS);
	if (a->flags & L7MP_FLOW_NEIGH)
		return bpf_redirect_neigh(a->ifindex, NULL, 0, 0);
	return bpf_redirect(a->ifindex, 0);
}

static __always_inline int forward(struct __sk_buff *skb, struct l7mp_packet *p,
                                   const struct l7mp_flow_action *a, const int has_link)
{
	if (a->verb != L7MP_VERB_FORWARD && a->verb != L7MP_VERB_REFLECT)
		return L7MP_VERDICT_PASS_KERNEL;
	if (wire_ip_len(skb, p) > a->mtu)
		return L7MP_VERDICT_PASS_MTU;
	if (a->n_vlans) /* meant for XDP on the real device; here the tags would be missing */
		return L7MP_VERDICT_PASS_VLAN;
	if (has_link && p->n_vlans + (skb->vlan_present ? 1 : 0) > L7MP_MAX_VLANS)
		return L7MP_VERDICT_PASS_VLAN;
	if (!has_link && add_link(skb, p))
		return L7MP_VERDICT_PASS_KERNEL;
	if (replace_csum(skb, p, a))
		return L7MP_VERDICT_PASS_KERNEL;
	if (has_link && untag(skb, p))
		return L7MP_VERDICT_PASS_KERNEL;
	if (write_packet(skb, p, a, has_link))
		return L7MP_VERDICT_PASS_KERNEL;
	return a->verb == L7MP_VERB_REFLECT ? L7MP_VERDICT_REFLECTED : L7MP_VERDICT_FORWARDED;
}

/* The headers must be in the linear part; 128 bytes hold all that are parsed. */
static __always_inline void pull_headers(struct __sk_buff *skb)
{
	__u32 want = skb->len < 128 ? skb->len : 128;

	if (skb->data_end - skb->data < want)
		bpf_skb_pull_data(skb, want);
}

static __always_inline int parse(struct __sk_buff *skb, struct l7mp_packet *p, const int has_link)
{
	void *data, *end;

	if (skb->pkt_type != PACKET_HOST)
		return L7MP_VERDICT_PASS_NOT_HOST;
	pull_headers(skb);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (has_link)
		return l7mp_parse_frame(data, end, skb->len, p);
	p->l3 = 0;
	p->n_vlans = 0;
	return l7mp_parse_ip(data, end, skb->len, (__be16)skb->protocol, p);
}

static __always_inline int handle(struct __sk_buff *skb, const int has_link,
                                  const struct l7mp_flow_action **flow)
{
	struct l7mp_packet p;
	const struct l7mp_flow_action *a;
	struct l7mp_flow_counter *c;
	int verdict = parse(skb, &p, has_link);
	__u64 n;

	if (verdict)
		return verdict;
	a = bpf_map_lookup_elem(&flows, &p.key);
	if (!a)
		return L7MP_VERDICT_PASS_NO_FLOW;
	/* Right behind the first look-up: the processor hashes for both at the same time. */
	c = bpf_map_lookup_elem(&counters, &p.key);
	if (a->match_tag != l7mp_match_tag(&p.key))
		return L7MP_VERDICT_PASS_STALE;
	n = segments(skb, &p);
	if (a->verb == L7MP_VERB_COUNT)
		verdict = L7MP_VERDICT_COUNTED;
	else
		verdict = forward(skb, &p, a, has_link);
	if (verdict <= L7MP_VERDICT_COUNTED)
		l7mp_count_flow(c, n, p.payload_len);
	*flow = a;
	return verdict;
}

static __always_inline int finish(struct __sk_buff *skb, const int has_link)
{
	const struct l7mp_flow_action *a = NULL;
	int verdict = handle(skb, has_link, &a);

	l7mp_count_verdict(verdict);
	if (verdict == L7MP_VERDICT_COUNTED)
		return TC_ACT_SHOT;
	/* Pass: on to the next filter, which may be somebody else's. */
	return verdict < L7MP_VERDICT_COUNTED && a ? redirect(a) : TC_ACT_UNSPEC;
}

SEC("tc")
int l7mp_tc(struct __sk_buff *skb)
{
	return finish(skb, 1);
}

SEC("tc")
int l7mp_tc_l3(struct __sk_buff *skb)
{
	return finish(skb, 0);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
