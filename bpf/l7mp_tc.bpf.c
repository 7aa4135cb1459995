/* SPDX-License-Identifier: MIT */
/*
 * The fast path at tc ingress (clsact): for devices on which XDP is unsuitable (lo, veth, bridges,
 * tun) and for packets with metadata that XDP can't see: a partial checksum, or several segments.
 *
 * Order: parse, look up, all checks, checksum helpers, write, redirect. A packet that is passed to
 * the stack is never changed.
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#include "flow.h"
#include "frame_skb.h"
#include "handover.h"
#include "ingress.h"
#include "maps.h"
#include "parse.h"
#include "rewrite.h"
#include "rtp.h"
#include "skb.h"
#include "splice.h"
#include "verdict.h"

#define PACKET_HOST 0 /* from <linux/if_packet.h>, which conflicts with BPF's definitions */

/* The number of datagrams on the wire: a GSO packet is segmented on egress. */
static __always_inline __u64 segments(const struct __sk_buff *skb, const struct l7mp_packet *p)
{
	if (!skb->gso_size)
		return 1;
	if (skb->gso_segs)
		return skb->gso_segs;
	return (p->payload_len + skb->gso_size - 1) / skb->gso_size;
}

/* The size of the largest IP packet on the wire. */
static __always_inline __u32 wire_ip_len(const struct __sk_buff *skb, const struct l7mp_packet *p)
{
	if (!skb->gso_size)
		return p->ip_len;
	return p->ip_len - p->payload_len + skb->gso_size;
}

/*
 * Updates the UDP checksum; the helper handles a partial one. Returns 0, or negative with the
 * packet unchanged: only the first call can fail, when there is no memory to make the packet
 * writable. As this program writes to packets, the kernel makes them writable before it runs (and
 * drops them without memory).
 */
static __always_inline long replace_csum(struct __sk_buff *skb, const __u32 l4, const __u8 family,
                                         const struct l7mp_rewrite *rw)
{
	const __u32 at = l4 + __builtin_offsetof(struct udphdr, check);
	long rc = 0;

	if (l7mp_csum_addr(rw))
		rc = l7mp_replace_addr_csum(skb, at, l7mp_csum_addr(rw), family,
		                            BPF_F_MARK_MANGLED_0);
	if (!rc && l7mp_csum_port(rw))
		rc = bpf_l4_csum_replace(skb, at, 0, l7mp_csum_port(rw), BPF_F_MARK_MANGLED_0);
	return rc;
}

static __always_inline int write_packet(struct __sk_buff *skb, const struct l7mp_rewrite *rw,
                                        const __u8 family, const int has_link)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;

	if (l7mp_rewrite_ip(data, end, ETH_HLEN, family, 0, rw))
		return -1;
	l7mp_rewrite_macs(data, rw);
	if (!has_link)
		((struct ethhdr *)data)->h_proto = (__be16)skb->protocol;
	return 0;
}

static __always_inline int forward(struct __sk_buff *skb, const struct l7mp_packet *p,
                                   const struct l7mp_flow_action *a,
                                   const struct l7mp_flow_read *rd, struct l7mp_rewrite *rw,
                                   const int kind, const int has_link)
{
	const __u8 family = L7MP_KIND_FAMILY(kind);
	const __u32 n_vlans = L7MP_KIND_VLANS(kind);
	__u32 l4 = ETH_HLEN + n_vlans * sizeof(struct l7mp_vlan) +
	           (family == L7MP_FAMILY_V4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));

	l7mp_take_checked(rw, a);
	if (l7mp_verb(rw) != L7MP_VERB_FORWARD && l7mp_verb(rw) != L7MP_VERB_REFLECT)
		return L7MP_VERDICT_PASS_KERNEL;
	if (wire_ip_len(skb, p) > l7mp_mtu(rw))
		return L7MP_VERDICT_PASS_MTU;
	/* Trimming would also end the segmentation. */
	if (p->trailer && skb->gso_size)
		return L7MP_VERDICT_PASS_MALFORMED;
	/*
	 * VLAN device: the XDP program on the lower device handles it; here the tags are missing.
	 */
	if (l7mp_n_vlans(rw))
		return L7MP_VERDICT_PASS_VLAN;
	l7mp_take(rw, a, family);
	if (l7mp_flow_replaced(a, rd, p->key_words, family))
		return L7MP_VERDICT_PASS_STALE;
	/* Remove the trailer of the IP packet, which a socket would not forward either. */
	if (p->trailer && bpf_skb_change_tail(skb, skb->len - (__u32)p->trailer, 0))
		return L7MP_VERDICT_PASS_KERNEL;
	/*
	 * Redirecting drops packets without link header, even where the kernel writes the header:
	 * so a packet of a tun device gets one first.
	 */
	if (!has_link && bpf_skb_change_head(skb, ETH_HLEN, 0))
		return L7MP_VERDICT_PASS_KERNEL;
	if (replace_csum(skb, l4, family, rw))
		return L7MP_VERDICT_PASS_KERNEL;
	if (has_link && l7mp_untag(skb, n_vlans))
		return L7MP_VERDICT_PASS_KERNEL;
	if (write_packet(skb, rw, family, has_link))
		return L7MP_VERDICT_PASS_KERNEL;
	return l7mp_verb(rw) == L7MP_VERB_REFLECT ? L7MP_VERDICT_REFLECTED : L7MP_VERDICT_FORWARDED;
}

/*
 * Whether the payload, which may be in the non-linear part, begins like a JSON object. Then a
 * JSONSocket client may have restarted.
 */
static __always_inline int may_be_json(struct __sk_buff *skb, const __u32 at)
{
	__u64 first = 0;

	return bpf_skb_load_bytes(skb, at, &first, 1) || *(const __u8 *)&first == '{';
}

/* Returns the flow's verdict on the packet; only forward() changes the packet. */
static __always_inline int judge(struct __sk_buff *skb, const struct ethhdr *eth,
                                 const struct l7mp_packet *p, const struct l7mp_flow_action *a,
                                 const struct l7mp_flow_read *rd, struct l7mp_rewrite *rw,
                                 const int kind, const int has_link)
{
	int verdict;

	verdict = l7mp_check_ingress(a, rd, skb->ifindex, has_link, eth,
	                             has_link ? l7mp_packet_tags(skb, eth, L7MP_KIND_VLANS(kind))
	                                      : 0);
	if (verdict)
		return verdict;
	if (l7mp_handover_waits(a))
		return L7MP_VERDICT_PASS_HANDOVER;
	if (a->flags & L7MP_FLOW_JSON_UP && p->payload_len &&
	    may_be_json(skb, L7MP_KIND_PAYLOAD(kind) - (has_link ? 0 : ETH_HLEN)))
		return L7MP_VERDICT_PASS_JSON;
	if (a->verb != L7MP_VERB_COUNT)
		return forward(skb, p, a, rd, rw, kind, has_link);
	return l7mp_flow_replaced(a, rd, p->key_words, L7MP_KIND_FAMILY(kind))
	               ? L7MP_VERDICT_PASS_STALE
	               : L7MP_VERDICT_COUNTED;
}

struct rtp_segments {
	struct __sk_buff *skb;
	__u64 now;
	__u32 index, at, len, size;
};

static long count_segment(__u32 i, void *arg)
{
	struct rtp_segments *g = arg;
	struct l7mp_rtp *s = l7mp_rtp_of(g->index);
	__u32 n = g->len < g->size ? g->len : g->size;
	__u64 head[2] = {0, 0};

	if (!s ||
	    (n >= L7MP_RTP_HEADER && bpf_skb_load_bytes(g->skb, g->at, head, L7MP_RTP_HEADER)))
		return 1;
	l7mp_rtp_count(s, (const __u8 *)head, n, g->now);
	g->at += g->size;
	g->len -= n;
	return !g->len;
}

/*
 * Updates the RTP statistics. The last `len` bytes of the packet are payload: of one datagram, or
 * with GSO of several. A global function, which the verifier checks once instead of for each
 * caller.
 */
__noinline int l7mp_count_rtp(struct __sk_buff *skb, __u32 index, __u32 len)
{
	struct rtp_segments g = {.skb = skb, .now = bpf_ktime_get_ns(), .index = index};

	g.at = skb->len - len;
	g.len = len;
	g.size = skb->gso_size ? skb->gso_size : len;
	bpf_loop(L7MP_RTP_SEGMENTS, count_segment, &g, 0);
	return 0;
}

/* Returned by the UDP path for TCP and related ICMP: not a valid action. */
#define IS_TCP (-1000)

static __always_inline int handle_kind(struct __sk_buff *skb, const int kind, const int has_link)
{
	const __u8 family = L7MP_KIND_FAMILY(kind);
	struct l7mp_rewrite rw;
	struct l7mp_packet p;
	const struct l7mp_flow_action *a;
	struct l7mp_flow_read rd;
	void *data = (void *)(long)skb->data;
	int verdict = l7mp_parse_ip(data, (void *)(long)skb->data_end,
	                            has_link ? L7MP_KIND_L3(kind) : 0, family, skb->len, &p);
	__u32 rtp_index;
	int is_rtp;
	__u64 n;

	if (verdict)
		return verdict == L7MP_VERDICT_PASS_TCP || verdict == L7MP_VERDICT_PASS_NOT_UDP
		               ? IS_TCP
		               : l7mp_pass_up(verdict);
	/* Without CAP_PERFMON the verifier also checks speculative paths. */
	rw.ports = rw.egress = 0;
	a = l7mp_flow_find(&p, family);
	if (!a)
		return l7mp_pass_up(L7MP_VERDICT_PASS_NO_FLOW);
	if (!l7mp_flow_begin(a, &rd, family))
		return l7mp_pass_up(L7MP_VERDICT_PASS_STALE);
	n = segments(skb, &p);
	is_rtp = l7mp_is_rtp(a);
	rtp_index = l7mp_rtp_index(a);
	verdict = judge(skb, has_link ? data : NULL, &p, a, &rd, &rw, kind, has_link);
	if (verdict > L7MP_VERDICT_COUNTED)
		return l7mp_pass_up(verdict);
	if (is_rtp && verdict < L7MP_VERDICT_COUNTED)
		l7mp_count_rtp(skb, rtp_index, (__u32)p.payload_len);
	l7mp_count_flow(l7mp_flow_counter(&rd), n, p.payload_len);
	l7mp_count_verdict(verdict);
	return verdict == L7MP_VERDICT_COUNTED ? TC_ACT_SHOT : l7mp_redirect(&rw);
}

/* Separate calls, so that the compiler does not merge them into one with variable offsets. */
#define DEFINE_KIND(n, family)                                             \
	static __noinline int handle_##n##_##family(struct __sk_buff *skb) \
	{                                                                  \
		return handle_kind(skb, L7MP_KIND(n, family), 1);          \
	}                                                                  \
	static __noinline int splice_##n##_##family(struct __sk_buff *skb) \
	{                                                                  \
		return l7mp_splice(skb, L7MP_KIND(n, family));             \
	}
L7MP_KINDS(DEFINE_KIND)

/* No TCP on such devices: the link header would have to be removed from the original again. */
static __always_inline int l3_end(int rc)
{
	return rc == IS_TCP ? l7mp_pass_up(L7MP_VERDICT_PASS_TCP) : rc;
}

static __noinline int handle_l3_v4(struct __sk_buff *skb)
{
	return handle_kind(skb, L7MP_KIND(0, L7MP_FAMILY_V4), 0);
}

static __noinline int handle_l3_v6(struct __sk_buff *skb)
{
	return handle_kind(skb, L7MP_KIND(0, L7MP_FAMILY_V6), 0);
}

/*
 * The headers must be in the linear part, where most drivers put them. `enough` bytes suffice for
 * this kind of packet; 128 hold everything that is parsed.
 */
static __always_inline void pull_headers(struct __sk_buff *skb, const __u32 enough)
{
	if ((void *)(long)skb->data + enough > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, skb->len < 128 ? skb->len : 128);
}

static __always_inline int l7mp_tc_main(struct __sk_buff *skb)
{
	const __u32 least = ETH_HLEN + sizeof(struct iphdr) + sizeof(struct udphdr);
	const __u32 frame_kinds = l7mp_frame_kinds(skb->ifindex);
	int kind, rc;

	if (frame_kinds) {
		rc = l7mp_frame_tc(skb, frame_kinds);
		if (rc != L7MP_FRAME_GOES_ON)
			return rc;
	}
	if (skb->pkt_type != PACKET_HOST)
		return l7mp_pass_up(L7MP_VERDICT_PASS_NOT_HOST);
	pull_headers(skb, least);
	kind = l7mp_frame_kind((void *)(long)skb->data, (void *)(long)skb->data_end);
	if (kind > 0 && kind != L7MP_KIND(0, L7MP_FAMILY_V4))
		pull_headers(skb, least + 2 * sizeof(struct l7mp_vlan) + sizeof(struct ipv6hdr) -
		                          sizeof(struct iphdr));
	switch (kind) {
#define CASE_KIND(n, family)                     \
	case L7MP_KIND(n, family):               \
		rc = handle_##n##_##family(skb); \
		return rc == IS_TCP ? splice_##n##_##family(skb) : rc;
		L7MP_KINDS(CASE_KIND)
	default:
		return l7mp_pass_up(-kind);
	}
}

SEC("tc")
int l7mp_tc(struct __sk_buff *skb)
{
	return l7mp_tc_main(skb);
}

SEC("tc")
int l7mp_tc_l3(struct __sk_buff *skb)
{
	if (skb->pkt_type != PACKET_HOST)
		return l7mp_pass_up(L7MP_VERDICT_PASS_NOT_HOST);
	pull_headers(skb, sizeof(struct ipv6hdr) + sizeof(struct udphdr));
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return l3_end(handle_l3_v4(skb));
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return l3_end(handle_l3_v6(skb));
	return l7mp_pass_up(L7MP_VERDICT_PASS_NOT_IP);
}

/* The filter of the proxy's packet sockets, behind a few instructions that say whose it is. */
SEC("socket")
int l7mp_tap(struct __sk_buff *skb)
{
	return l7mp_tap_main(skb);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
