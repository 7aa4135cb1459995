/* SPDX-License-Identifier: MIT */
/*
 * The fast path at XDP: a packet of a flow is rewritten and redirected to a device of the device
 * map; all others are passed to the stack unchanged (XDP_PASS).
 *
 * Order: parse, look up, all checks including the redirect (which only stores the target), write. A
 * packet that is passed to the stack is never changed.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "flow.h"
#include "frame.h"
#include "handover.h"
#include "ingress.h"
#include "maps.h"
#include "parse.h"
#include "rewrite.h"
#include "rtp.h"
#include "state.h"
#include "verdict.h"

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, L7MP_IFS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

/*
 * Writes the whole outgoing packet with n_vlans tags, for which there is room. n_vlans and family
 * are constants.
 */
static __always_inline int write_packet(struct xdp_md *ctx, const struct l7mp_rewrite *rw,
                                        const __u32 n_vlans, const __u8 family)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct l7mp_vlan *vlan = (void *)(eth + 1);
	__be16 ip_proto = family == L7MP_FAMILY_V4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);

	if (l7mp_rewrite_ip(data, end, ETH_HLEN + n_vlans * sizeof(*vlan), family, 1, rw))
		return L7MP_VERDICT_PASS_KERNEL;
	l7mp_rewrite_macs(eth, rw);
	eth->h_proto = n_vlans ? l7mp_word16(&rw->vlans, 0) : ip_proto;
	if (n_vlans > 0) {
		vlan[0].tci = l7mp_word16(&rw->vlans, 2);
		vlan[0].proto = n_vlans > 1 ? l7mp_word16(&rw->vlans, 1) : ip_proto;
	}
	if (n_vlans > 1) {
		vlan[1].tci = l7mp_word16(&rw->vlans, 3);
		vlan[1].proto = ip_proto;
	}
	return 0;
}

/*
 * Removes the trailer of the IP packet, which a socket would not forward either. Shortening never
 * fails.
 */
static __always_inline int cut_trailer(struct xdp_md *ctx, __u32 trailer)
{
	return trailer && bpf_xdp_adjust_tail(ctx, -(int)trailer);
}

/* Changes the number of VLAN tags. Returns 0, or a verdict with the packet unchanged. */
static __always_inline int move_packet(struct xdp_md *ctx, const struct l7mp_rewrite *rw,
                                       __u32 n_vlans, __u32 trailer, const __u8 family)
{
	__u32 to = l7mp_n_vlans(rw);
	__s32 grow = ((__s32)n_vlans - (__s32)to) * (__s32)sizeof(struct l7mp_vlan);

	if (to > L7MP_MAX_VLANS || bpf_xdp_adjust_head(ctx, grow))
		return L7MP_VERDICT_PASS_VLAN;
	if (cut_trailer(ctx, trailer))
		return L7MP_VERDICT_PASS_KERNEL;
	if (to == 0)
		return write_packet(ctx, rw, 0, family);
	if (to == 1)
		return write_packet(ctx, rw, 1, family);
	return write_packet(ctx, rw, 2, family);
}

static __noinline int move_v4(struct xdp_md *ctx, const struct l7mp_rewrite *rw, __u32 n_vlans,
                              __u32 trailer)
{
	return move_packet(ctx, rw, n_vlans, trailer, L7MP_FAMILY_V4);
}

static __noinline int move_v6(struct xdp_md *ctx, const struct l7mp_rewrite *rw, __u32 n_vlans,
                              __u32 trailer)
{
	return move_packet(ctx, rw, n_vlans, trailer, L7MP_FAMILY_V6);
}

static __always_inline int forward(struct xdp_md *ctx, const struct l7mp_packet *p,
                                   const struct l7mp_flow_action *a,
                                   const struct l7mp_flow_read *rd, const int kind)
{
	const __u32 n_vlans = L7MP_KIND_VLANS(kind);
	const __u8 family = L7MP_KIND_FAMILY(kind);
	struct l7mp_rewrite rw;
	int rc;

	l7mp_take_checked(&rw, a);
	if (l7mp_verb(&rw) != L7MP_VERB_FORWARD && l7mp_verb(&rw) != L7MP_VERB_REFLECT)
		return L7MP_VERDICT_PASS_KERNEL;
	if (l7mp_flags(&rw) & (L7MP_FLOW_TC_ONLY | L7MP_FLOW_NEIGH | L7MP_FLOW_TO_INGRESS))
		return L7MP_VERDICT_PASS_TO_TC;
	if (p->ip_len > l7mp_mtu(&rw))
		return L7MP_VERDICT_PASS_MTU;
	/*
	 * Stores the redirect target without changing the packet; fails when the device was
	 * deleted.
	 */
	if (bpf_redirect_map(&devices, l7mp_ifindex(&rw), 0) != XDP_REDIRECT)
		return L7MP_VERDICT_PASS_DEVICE;
	l7mp_take(&rw, a, family);
	/* Always initialised: otherwise the verifier rejects the read without CAP_PERFMON. */
	rw.vlans = 0;
	if (n_vlans || l7mp_n_vlans(&rw))
		l7mp_take_vlans(&rw, a);
	if (l7mp_flow_replaced(a, rd, p->key_words, family))
		return L7MP_VERDICT_PASS_STALE;
	if (l7mp_n_vlans(&rw) == n_vlans)
		rc = cut_trailer(ctx, (__u32)p->trailer) ? L7MP_VERDICT_PASS_KERNEL
		                                         : write_packet(ctx, &rw, n_vlans, family);
	else if (family == L7MP_FAMILY_V4)
		rc = move_v4(ctx, &rw, n_vlans, (__u32)p->trailer);
	else
		rc = move_v6(ctx, &rw, n_vlans, (__u32)p->trailer);
	if (rc)
		return rc;
	return l7mp_verb(&rw) == L7MP_VERB_REFLECT ? L7MP_VERDICT_REFLECTED
	                                           : L7MP_VERDICT_FORWARDED;
}

/* Whether the payload begins like a JSON object. Then a JSONSocket client may have restarted. */
static __always_inline int may_be_json(struct xdp_md *ctx, const void *data, const int kind)
{
	const __u8 *payload = data + L7MP_KIND_PAYLOAD(kind);

	return (const void *)(payload + 1) > (void *)(long)ctx->data_end || *payload == '{';
}

/* Returns the flow's verdict on the packet; only forward() changes the packet. */
static __always_inline int judge(struct xdp_md *ctx, const struct ethhdr *eth,
                                 const struct l7mp_packet *p, const struct l7mp_flow_action *a,
                                 const struct l7mp_flow_read *rd, const int kind)
{
	int verdict;

	verdict = l7mp_check_ingress(a, rd, ctx->ingress_ifindex, 1, eth,
	                             l7mp_frame_tags(eth, L7MP_KIND_VLANS(kind)));
	if (verdict)
		return verdict;
	if (l7mp_handover_waits(a))
		return L7MP_VERDICT_PASS_HANDOVER;
	if (a->flags & L7MP_FLOW_JSON_UP && p->payload_len && may_be_json(ctx, eth, kind))
		return L7MP_VERDICT_PASS_JSON;
	if (a->verb != L7MP_VERB_COUNT)
		return forward(ctx, p, a, rd, kind);
	return l7mp_flow_replaced(a, rd, p->key_words, L7MP_KIND_FAMILY(kind))
	               ? L7MP_VERDICT_PASS_STALE
	               : L7MP_VERDICT_COUNTED;
}

/*
 * Updates the RTP statistics. The last `len` bytes of the packet are the payload of a datagram. A
 * global function, which the verifier checks once instead of for each caller.
 */
__noinline int l7mp_count_rtp(struct xdp_md *ctx, __u32 index, __u32 len)
{
	__u64 head[2] = {0, 0};
	struct l7mp_rtp *s = l7mp_rtp_of(index);
	__u32 at = (__u32)bpf_xdp_get_buff_len(ctx) - len;

	if (!s)
		return 0;
	if (len >= L7MP_RTP_HEADER && bpf_xdp_load_bytes(ctx, at, head, L7MP_RTP_HEADER))
		return 0;
	l7mp_rtp_count(s, (const __u8 *)head, len, bpf_ktime_get_ns());
	return 0;
}

static __always_inline int handle(struct xdp_md *ctx, const int kind)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	const __u8 family = L7MP_KIND_FAMILY(kind);
	const struct l7mp_flow_action *a;
	struct l7mp_flow_read rd;
	struct l7mp_packet p;
	__u32 rtp_index;
	int is_rtp;
	/* Use the helper, because without CAP_PERFMON pointers can't be subtracted. */
	int verdict = l7mp_parse_ip(data, end, L7MP_KIND_L3(kind), family,
	                            (__u32)bpf_xdp_get_buff_len(ctx), &p);

	if (verdict)
		return verdict;
	a = l7mp_flow_find(&p, family);
	if (!a)
		return L7MP_VERDICT_PASS_NO_FLOW;
	if (!l7mp_flow_begin(a, &rd, family))
		return L7MP_VERDICT_PASS_STALE;
	is_rtp = l7mp_is_rtp(a);
	rtp_index = l7mp_rtp_index(a);
	verdict = judge(ctx, data, &p, a, &rd, kind);
	if (verdict <= L7MP_VERDICT_COUNTED)
		l7mp_count_flow(l7mp_flow_counter(&rd), 1, p.payload_len);
	if (is_rtp && verdict < L7MP_VERDICT_COUNTED)
		l7mp_count_rtp(ctx, rtp_index, (__u32)p.payload_len);
	return verdict;
}

/* Separate calls, so that the compiler does not merge them into one with variable offsets. */
#define DEFINE_KIND(n, family)                                          \
	static __noinline int handle_##n##_##family(struct xdp_md *ctx) \
	{                                                               \
		return handle(ctx, L7MP_KIND(n, family));               \
	}
L7MP_KINDS(DEFINE_KIND)

static __always_inline int run(struct xdp_md *ctx)
{
	int kind = l7mp_frame_kind((void *)(long)ctx->data, (void *)(long)ctx->data_end);

	switch (kind) {
#define CASE_KIND(n, family)       \
	case L7MP_KIND(n, family): \
		return handle_##n##_##family(ctx);
		L7MP_KINDS(CASE_KIND)
	default:
		return -kind;
	}
}

/* ---- frames of AF_PACKET ---- */

static __always_inline int load_frame(struct xdp_md *ctx, struct l7mp_frame *f)
{
	__u32 len = (__u32)bpf_xdp_get_buff_len(ctx), n = len;
	const __u64 *words = (void *)(long)ctx->data;

	if (len < ETH_HLEN)
		return -1;
	if (n >= L7MP_FRAME_HEAD) {
		n = L7MP_FRAME_HEAD;
	} else {
		for (int i = 0; i < L7MP_FRAME_WORDS; i++)
			f->words[i] = 0;
	}
	if ((void *)(words + L7MP_FRAME_WORDS) <= (void *)(long)ctx->data_end) {
		for (int i = 0; i < L7MP_FRAME_WORDS; i++)
			f->words[i] = words[i];
	} else if (bpf_xdp_load_bytes(ctx, 0, f->bytes, n)) {
		return -1;
	}
	f->len = len;
	f->ifindex = ctx->ingress_ifindex;
	f->gso = f->beside = f->beside_id = 0;
	l7mp_frame_classify(f);
	return 0;
}

/*
 * Whether the frame is also for this host, or multicast. Then a copy has to be sent, which XDP
 * can't make.
 */
static __always_inline int for_stack(const struct l7mp_frame *f, const struct l7mp_frame_action *a)
{
	const __u16 *mac = (const __u16 *)f->bytes, *own = (const __u16 *)a->in_mac;

	return f->bytes[0] & 1 || (mac[0] == own[0] && mac[1] == own[1] && mac[2] == own[2]);
}

#define NO_FRAME (-1)

/* Returns a verdict, or NO_FRAME. */
static __noinline int handle_frame(struct xdp_md *ctx, __u32 kinds)
{
	const __u32 tc = L7MP_FLOW_TC_ONLY | L7MP_FLOW_COPY;
	const struct l7mp_frame_action *a;
	struct l7mp_frame_cpu *c;
	struct ethhdr *eth;
	__u64 zero = 0;
	int verdict;

	c = bpf_map_lookup_elem(&frame_cpu, &zero);
	if (!c || load_frame(ctx, &c->frame))
		return NO_FRAME;
	a = l7mp_frame_lookup(&c->frame, kinds);
	if (!a)
		return NO_FRAME;
	if (a->flags & tc || for_stack(&c->frame, a))
		return L7MP_VERDICT_PASS_TO_TC;
	verdict = l7mp_frame_judge(&c->frame, a);
	if (verdict != L7MP_VERDICT_FORWARDED)
		return verdict;
	if (bpf_redirect_map(&devices, l7mp_frame_egress(&c->frame.decision), 0) != XDP_REDIRECT)
		return L7MP_VERDICT_PASS_DEVICE;
	eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return L7MP_VERDICT_PASS_KERNEL;
	l7mp_frame_write(eth, &c->frame.decision);
	l7mp_frame_count(&c->frame.decision);
	return verdict;
}

static __always_inline int l7mp_xdp_main(struct xdp_md *ctx)
{
	const __u32 kinds = l7mp_frame_kinds(ctx->ingress_ifindex);
	int verdict = NO_FRAME;

	if (kinds)
		verdict = handle_frame(ctx, kinds);
	if (verdict == NO_FRAME)
		verdict = run(ctx);

	l7mp_count_verdict(verdict);
	if (verdict == L7MP_VERDICT_COUNTED)
		return XDP_DROP;
	return verdict < L7MP_VERDICT_COUNTED ? XDP_REDIRECT : XDP_PASS;
}

SEC("xdp")
int l7mp_xdp(struct xdp_md *ctx)
{
	return l7mp_xdp_main(ctx);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
