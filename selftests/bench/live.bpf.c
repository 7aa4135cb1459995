/* SPDX-License-Identifier: MIT */
/*
 * The two ends of a run with live frames (live_gen.c): a generator, which
 * BPF_PROG_TEST_RUN calls for each frame, and sinks, which count what arrives. All of a run is
 * on one core, so that plain additions do.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "live.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct live_conf);
} conf SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct live_state);
} state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, LIVE_LANES);
	__type(key, __u32);
	__type(value, __u32);
} lanes SEC(".maps");

struct v4 {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

struct v6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct udphdr udp;
} __attribute__((packed));

static __always_inline __u16 checksum(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)~sum;
}

/*
 * The pages are reused, and were rewritten: every header field is written.
 */
static __always_inline int write_v4(const struct live_conf *c, struct v4 *p, void *end, __be32 addr,
                                    __be16 port)
{
	__u32 add = (addr & 0xffff) + (addr >> 16);

	if ((void *)(p + 1) > end)
		return -1;
	__builtin_memcpy(p, c->headers, sizeof(*p));
	p->ip.saddr = addr;
	p->ip.check = checksum(c->l3_sum + add);
	p->udp.source = port;
	p->udp.check = checksum(c->l4_sum + add + port) ?: 0xffff;
	return 0;
}

static __always_inline int write_v6(const struct live_conf *c, struct v6 *p, void *end, __be32 addr,
                                    __be16 port)
{
	__u32 add = (addr & 0xffff) + (addr >> 16);

	if ((void *)(p + 1) > end)
		return -1;
	__builtin_memcpy(p, c->headers, sizeof(*p));
	p->ip.saddr.in6_u.u6_addr32[3] = addr;
	p->udp.source = port;
	p->udp.check = checksum(c->l4_sum + add + port) ?: 0xffff;
	return 0;
}

SEC("xdp")
int live_gen(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0, flow;
	struct live_conf *c = bpf_map_lookup_elem(&conf, &zero);
	struct live_state *s = bpf_map_lookup_elem(&state, &zero);
	__be32 addr;
	__be16 port;

	if (!c || !s || s->sent >= c->limit)
		return XDP_DROP;
	if ((__s64)(s->sent - s->sunk - s->lost) >= (__s64)c->window)
		return XDP_DROP;
	flow = s->flow;
	addr = bpf_htonl(c->base + flow / LIVE_PER_CLIENT);
	port = bpf_htons(LIVE_PORT_BASE + flow % LIVE_PER_CLIENT);
	if (c->v6 ? write_v6(c, data, end, addr, port) : write_v4(c, data, end, addr, port))
		return XDP_ABORTED;
	if (!s->sent++)
		s->start_ns = bpf_ktime_get_ns();
	s->flow = flow + 1 >= c->n_flows ? 0 : flow + 1;
	return bpf_redirect_map(&lanes, c->lane, 0);
}

/* Network order; 0 when it is no UDP. */
static __always_inline __be16 port_of(void *data, void *end)
{
	struct v4 *v4 = data;
	struct v6 *v6 = data;

	if ((void *)(v4 + 1) > end)
		return 0;
	if (v4->eth.h_proto == bpf_htons(ETH_P_IP))
		return v4->ip.protocol == 17 ? v4->udp.dest : 0;
	if ((void *)(v6 + 1) > end || v6->eth.h_proto != bpf_htons(ETH_P_IPV6))
		return 0;
	return v6->ip.nexthdr == 17 ? v6->udp.dest : 0;
}

/* True when it is one to count. */
static __always_inline int sink(const struct live_conf *c, struct live_state *s, __be16 port,
                                __u32 n)
{
	if ((port & bpf_htons(LIVE_SINK_MASK)) != c->sink_port) {
		s->odd += n;
		return 0;
	}
	s->sunk += n;
	if (s->sunk + s->lost >= c->limit)
		s->end_ns = bpf_ktime_get_ns();
	return 1;
}

SEC("xdp")
int live_sink_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;
	struct live_conf *c = bpf_map_lookup_elem(&conf, &zero);
	struct live_state *s = bpf_map_lookup_elem(&state, &zero);

	if (c && s && sink(c, s, port_of(data, end), 1) && !s->sample_len) {
		__u64 len = (__u64)ctx->data_end - (__u64)ctx->data;

		if (len > 0 && len <= sizeof(s->sample) &&
		    !bpf_xdp_load_bytes(ctx, 0, s->sample, (__u32)len))
			s->sample_len = (__u32)len;
	}
	return XDP_DROP;
}

/* For senders whose packets XDP would have to copy first: many segments, little headroom. */
SEC("tc")
int live_sink_tc(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 zero = 0;
	struct live_conf *c = bpf_map_lookup_elem(&conf, &zero);
	struct live_state *s = bpf_map_lookup_elem(&state, &zero);

	if (c && s)
		sink(c, s, port_of(data, end), skb->gso_segs ?: 1);
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
