/* SPDX-License-Identifier: MIT */
/*
 * What the cost of the fast path is measured against: nothing, a bare redirect, the
 * barest rewrite, the same with a FIB look-up per packet. None of them is safe to use: they
 * check what the verifier asks for and no more.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "cost/next.h"

#define AF_INET 2

/* Set before the programs are loaded. */
const volatile __u32 out_ifindex = 1, in_ifindex = 1;

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

struct rewrite {
	__be32 saddr, daddr;
	__be16 sport, dport;
	__u8 dmac[6], smac[6];
	__u32 csum_l3, csum_l4;
	__u32 slot; /* in counts */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rewrite);
} rewrites SEC(".maps");

struct frame {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

static __always_inline __u16 add(__u16 check, __u32 delta)
{
	__u32 sum = (__u16)~check + delta;

	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16) ~(sum + (sum >> 16));
}

static __always_inline void apply(struct frame *f, const struct rewrite *r)
{
	__builtin_memcpy(f->eth.h_dest, r->dmac, 6);
	__builtin_memcpy(f->eth.h_source, r->smac, 6);
	f->ip.ttl--;
	f->ip.saddr = r->saddr;
	f->ip.daddr = r->daddr;
	f->ip.check = add(f->ip.check, r->csum_l3);
	f->udp.source = r->sport;
	f->udp.dest = r->dport;
	f->udp.check = add(f->udp.check, r->csum_l4);
}

static __always_inline int rewrite(void *data, void *end)
{
	struct frame *f = data;
	struct rewrite *r;
	__u32 zero = 0;

	if ((void *)(f + 1) > end || f->eth.h_proto != bpf_htons(ETH_P_IP) || f->ip.protocol != 17)
		return -1;
	r = bpf_map_lookup_elem(&rewrites, &zero);
	if (!r)
		return -1;
	apply(f, r);
	return 0;
}

/*
 * The barest relay with a flow table of our key size: no checks, one table; and with counters
 * apart, as ours are.
 */
struct key {
	__u64 words[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct key);
	__type(value, struct rewrite);
} table SEC(".maps");

struct counter {
	__u64 packets, bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 262144);
	__type(key, __u32);
	__type(value, struct counter);
} counts SEC(".maps");

static __always_inline int relay(void *data, void *end, const int count)
{
	struct frame *f = data;
	struct key key = {{0}};
	struct rewrite *r;

	if ((void *)(f + 1) > end || f->eth.h_proto != bpf_htons(ETH_P_IP) || f->ip.protocol != 17)
		return -1;
	key.words[0] = f->ip.saddr | (__u64)f->ip.daddr << 32;
	key.words[1] = f->udp.source | (__u32)f->udp.dest << 16;
	r = bpf_map_lookup_elem(&table, &key);
	if (!r)
		return -1;
	if (count) {
		__u32 slot = r->slot;
		struct counter *c = bpf_map_lookup_elem(&counts, &slot);

		if (!c)
			return -1;
		c->packets++;
		c->bytes += bpf_ntohs(f->udp.len);
	}
	apply(f, r);
	return 0;
}

static __always_inline int route(void *ctx, void *data, void *end, __u32 *ifindex)
{
	struct bpf_fib_lookup p = {.family = AF_INET, .l4_protocol = 17, .ifindex = in_ifindex};
	struct frame *f = data;

	if ((void *)(f + 1) > end)
		return -1;
	p.tot_len = bpf_ntohs(f->ip.tot_len);
	p.ipv4_src = f->ip.saddr;
	p.ipv4_dst = f->ip.daddr;
	if (bpf_fib_lookup(ctx, &p, sizeof(p), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return -1;
	__builtin_memcpy(f->eth.h_dest, p.dmac, 6);
	__builtin_memcpy(f->eth.h_source, p.smac, 6);
	*ifindex = p.ifindex;
	return 0;
}

SEC("xdp")
int xdp_floor(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int xdp_redirect(struct xdp_md *ctx)
{
	return bpf_redirect_map(&devices, out_ifindex, 0);
}

SEC("xdp")
int xdp_rewrite(struct xdp_md *ctx)
{
	if (rewrite((void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return XDP_ABORTED;
	return bpf_redirect_map(&devices, out_ifindex, 0);
}

SEC("xdp")
int xdp_table(struct xdp_md *ctx)
{
	if (relay((void *)(long)ctx->data, (void *)(long)ctx->data_end, 0))
		return XDP_ABORTED;
	return bpf_redirect_map(&devices, out_ifindex, 0);
}

SEC("xdp")
int xdp_table_count(struct xdp_md *ctx)
{
	if (relay((void *)(long)ctx->data, (void *)(long)ctx->data_end, 1))
		return XDP_ABORTED;
	return bpf_redirect_map(&devices, out_ifindex, 0);
}

/* The same for the next packet, as our programs are measured: what the table itself costs. */
SEC("xdp")
int xdp_table_next(struct xdp_md *ctx)
{
	next_packet((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	if (relay((void *)(long)ctx->data, (void *)(long)ctx->data_end, 1))
		return XDP_ABORTED;
	return bpf_redirect_map(&devices, out_ifindex, 0);
}

SEC("xdp")
int xdp_rewrite_fib(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 ifindex;

	if (rewrite(data, end) || route(ctx, data, end, &ifindex))
		return XDP_ABORTED;
	return bpf_redirect_map(&devices, ifindex, 0);
}

SEC("tc")
int tc_floor(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

SEC("tc")
int tc_redirect(struct __sk_buff *skb)
{
	return bpf_redirect(out_ifindex, 0);
}

SEC("tc")
int tc_rewrite(struct __sk_buff *skb)
{
	if (rewrite((void *)(long)skb->data, (void *)(long)skb->data_end))
		return TC_ACT_SHOT;
	return bpf_redirect(out_ifindex, 0);
}

SEC("tc")
int tc_table(struct __sk_buff *skb)
{
	if (relay((void *)(long)skb->data, (void *)(long)skb->data_end, 0))
		return TC_ACT_SHOT;
	return bpf_redirect(out_ifindex, 0);
}

SEC("tc")
int tc_table_count(struct __sk_buff *skb)
{
	if (relay((void *)(long)skb->data, (void *)(long)skb->data_end, 1))
		return TC_ACT_SHOT;
	return bpf_redirect(out_ifindex, 0);
}

SEC("tc")
int tc_rewrite_fib(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 ifindex;

	if (rewrite(data, end) || route(skb, data, end, &ifindex))
		return TC_ACT_SHOT;
	return bpf_redirect(ifindex, 0);
}

/* Where frames of a live run end: makes them fit for the next round, as their pages come again. */
SEC("xdp")
int xdp_sink(struct xdp_md *ctx)
{
	struct frame *f = (void *)(long)ctx->data;

	if ((void *)(f + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	if (f->eth.h_proto == bpf_htons(ETH_P_IP))
		f->ip.ttl = 255;
	else
		((__u8 *)&f->ip)[7] = 255; /* IPv6: hop limit */
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
