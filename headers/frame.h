/* SPDX-License-Identifier: MIT */
/*
 * Frames of AF_PACKET: finds a frame's entry in the map `frames`, and decides its treatment. Common
 * to XDP, the tc program and the filter of packet sockets (l7mp_tap).
 *
 * The order of hooks is XDP, packet sockets, tc: a packet socket of ETH_P_ALL gets a frame before
 * tc does. So that a frame is relayed exactly once, there is one decision: by the sockets' filter,
 * if there are sockets. The filter stores its decision per CPU, and the tc program, which runs
 * directly afterwards for the same frame, executes it; changes of the map in between have no
 * effect. For frames that no filter has seen (its process has ended) tc decides. XDP decides by
 * itself, as frames that it redirects do not reach sockets.
 *
 * The first bytes of the frame are copied to a buffer in a map, and everything is read from there
 * at constant offsets, because without CAP_PERFMON the verifier rejects variable ones.
 */
#pragma once

#include "csum.h"
#include "flow.h"
#include "handover.h"
#include "maps.h"
#include "parse.h"
#include "rewrite.h"
#include "verdict.h"

#define L7MP_FRAME_WORDS 11 /* two tags, IPv6, and the TCP header without options */
#define L7MP_FRAME_HEAD  (L7MP_FRAME_WORDS * 8)
#define L7MP_NOTE_WORDS  8 /* the part of a frame by which it is recognised */
#define L7MP_NOTE_HEAD   (L7MP_NOTE_WORDS * 8)

/* The decision for a frame: a copy of its entry, and the amounts for its counter. */
struct l7mp_frame_decision {
	__u64 egress; /* ifindex, mtu */
	__u64 verb;   /* the word of verb and flags: see l7mp_frame_flags */
	__u64 macs[2];
	__u64 tail; /* slot, version_end */
	__u64 segments;
	__u64 bytes;
};

/* A frame being processed. */
struct l7mp_frame {
	union {
		__u64 words[L7MP_FRAME_WORDS]; /* zero after the end of a short frame */
		__u8 bytes[L7MP_FRAME_HEAD];
	};
	__u64 key[6];
	struct l7mp_frame_decision decision;
	__u32 len;     /* without the tag in the skb */
	__u32 ifindex; /* ingress interface */
	__u32 gso;     /* size of its segments; 0: not segmented */
	__u32 beside;  /* the tag in the skb: protocol and TCI; 0: none */
	__u32 beside_id;
	__u32 l4_end; /* bytes before the transport payload; 0: unknown */
	__u32 ip_end;
	__u16 wild[3]; /* EtherTypes to look up in entries for many conversations; 0: none */
	__u16 tagged;
};

enum l7mp_note { L7MP_NOTE_NONE, L7MP_NOTE_TAKEN, L7MP_NOTE_LEFT };

/* The decision of a socket's filter. */
struct l7mp_frame_note {
	__u64 words[L7MP_NOTE_WORDS];
	__u64 known; /* length and interface */
	__u32 beside;
	__u32 state;
	/*
	 * Set when the tc program did not run, or saw another frame: sockets then get all frames.
	 */
	__u32 missed;
	__u32 pad;
	struct l7mp_frame_decision decision;
};

struct l7mp_frame_cpu {
	struct l7mp_frame frame;
	struct l7mp_frame_note note;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct l7mp_frame_cpu);
} frame_cpu SEC(".maps");

/* The kinds of entries that exist for an interface. */
static __always_inline __u32 l7mp_frame_kinds(__u32 ifindex)
{
	__u64 key = L7MP_WORD64(ifindex % L7MP_IFS_MAX, 0);
	const __u32 *kinds = bpf_map_lookup_elem(&frame_ifs, &key);

	return kinds ? *kinds : 0;
}

static __always_inline __u16 l7mp_frame_u16(const struct l7mp_frame *f, const __u32 at)
{
	return bpf_ntohs(*(const __be16 *)&f->bytes[at]);
}

static __always_inline int l7mp_is_tag(__u16 type)
{
	return type == ETH_P_8021Q || type == ETH_P_8021AD;
}

/* ---- candidate entries of a frame ---- */

/*
 * `base` (a constant) is the offset of the EtherType when the outer tag is in the skb. A frame that
 * ends before or within it has none.
 */
static __always_inline void l7mp_frame_types(struct l7mp_frame *f, const __u32 base)
{
	__u16 type = f->len < base + 2 ? 0 : l7mp_frame_u16(f, base);

	f->wild[0] = type;
	f->wild[2] = 0;
	if (l7mp_is_tag(type)) {
		f->wild[0] = f->len < base + 6 ? 0 : l7mp_frame_u16(f, base + 4);
		f->wild[2] = type;
	}
}

/* Sets `wild` and `tagged`. Requires the bytes and the tag in the skb. */
static __always_inline void l7mp_frame_classify(struct l7mp_frame *f)
{
	__u16 type = l7mp_frame_u16(f, 12);

	f->tagged = 1;
	if (f->beside) {
		f->wild[1] = (__u16)(f->beside >> 16);
		l7mp_frame_types(f, 12);
	} else if (l7mp_is_tag(type)) {
		f->wild[1] = type;
		l7mp_frame_types(f, 16);
	} else {
		f->wild[0] = type;
		f->wild[1] = f->wild[2] = 0;
		f->tagged = 0;
	}
}

/* Whether a socket for frames of `type` accepts it, by the same rule as its classic filter. */
static __always_inline int l7mp_frame_is_of(const struct l7mp_frame *f, __u16 type)
{
	if (l7mp_is_tag(type))
		return type == f->wild[1] || type == f->wild[2];
	return !type || type == f->wild[0];
}

static __always_inline void l7mp_frame_ports(struct l7mp_frame *f, const __u32 l4, __u8 proto,
                                             __u32 *ports)
{
	const __u8 *at = &f->bytes[l4];

	if (proto == IPPROTO_UDP && l4 + 8 <= f->ip_end) {
		*ports = *(const __u32 *)at;
		f->l4_end = l4 + 8;
	} else if (proto == IPPROTO_TCP && l4 + 20 <= f->ip_end) {
		*ports = *(const __u32 *)at;
		f->l4_end = at[12] >> 4 < 5 ? 0 : l4 + (at[12] >> 4) * 4;
	}
}

/* Returns 0, or -1: the conversation of this packet is not determined here. l3 is a constant. */
static __always_inline int l7mp_frame_v4(struct l7mp_frame *f, const __u32 l3, __u16 type)
{
	const struct iphdr *ip = (const void *)&f->bytes[l3];
	__u32 total = bpf_ntohs(ip->tot_len), ports = 0;

	if (f->len < l3 + sizeof(*ip) || ip->version != 4 || ip->ihl != 5)
		return -1;
	if (total < sizeof(*ip) || l3 + total > f->len)
		return -1;
	f->ip_end = l3 + total;
	if (!(ip->frag_off & bpf_htons(L7MP_IP_FRAGMENT)))
		l7mp_frame_ports(f, l3 + sizeof(*ip), ip->protocol, &ports);
	f->key[0] = L7MP_WORD64(l7mp_load32(&ip->saddr), 0);
	f->key[1] = 0;
	f->key[2] = L7MP_WORD64(l7mp_load32(&ip->daddr), 0);
	f->key[3] = 0;
	f->key[4] = L7MP_WORD64(ports, L7MP_FRAME_TAIL(ip->protocol, L7MP_FAMILY_V4, type));
	return 0;
}

static __always_inline int l7mp_frame_v6(struct l7mp_frame *f, const __u32 l3, __u16 type)
{
	const struct ipv6hdr *ip = (const void *)&f->bytes[l3];
	__u32 end = l3 + sizeof(*ip) + bpf_ntohs(ip->payload_len), ports = 0;
	__u8 next = ip->nexthdr;

	if (f->len < l3 + sizeof(*ip) || ip->version != 6 || end > f->len)
		return -1;
	if (next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
	    next == IPPROTO_FRAGMENT)
		return -1;
	f->ip_end = end;
	l7mp_frame_ports(f, l3 + sizeof(*ip), next, &ports);
	for (int i = 0; i < 4; i++)
		f->key[i] = l7mp_load64((const __u8 *)&ip->saddr + 8 * i);
	f->key[4] = L7MP_WORD64(ports, L7MP_FRAME_TAIL(next, L7MP_FAMILY_V6, type));
	return 0;
}

/* n is the number of tags in the frame, a constant; `first` and `second` the ids of all tags. */
static __always_inline int l7mp_frame_parse(struct l7mp_frame *f, const __u32 n, __u16 first,
                                            __u16 second)
{
	const __u32 l3 = ETH_HLEN + n * sizeof(struct l7mp_vlan);
	__u16 type = l7mp_frame_u16(f, l3 - 2);

	if (f->len < l3)
		return -1;
	f->key[5] = L7MP_WORD64(L7MP_WORD32(first, second), f->ifindex);
	if (type == ETH_P_IP)
		return l7mp_frame_v4(f, l3, type);
	if (type == ETH_P_IPV6)
		return l7mp_frame_v6(f, l3, type);
	if (l7mp_is_tag(type)) /* a third one */
		return -1;
	f->key[0] = L7MP_WORD64(l7mp_load32(&f->bytes[6]),
	                        L7MP_WORD32(*(const __u16 *)&f->bytes[10], 0));
	f->key[1] = 0;
	f->key[2] = L7MP_WORD64(l7mp_load32(&f->bytes[0]),
	                        L7MP_WORD32(*(const __u16 *)&f->bytes[4], 0));
	f->key[3] = 0;
	f->key[4] = L7MP_WORD64(0, L7MP_FRAME_TAIL(0, L7MP_FAMILY_MAC, type));
	return 0;
}

/* Sets the key of its conversation. Returns 0, or -1: left to user space. */
static __noinline int l7mp_frame_find_key(struct l7mp_frame *f)
{
	__u16 id1, id2, beside;

	f->l4_end = f->ip_end = 0;
	if (f->len > 0xffff + ETH_HLEN)
		return -1;
	beside = (__u16)f->beside_id;
	id1 = l7mp_frame_u16(f, 14) & 0xfff;
	if (!l7mp_is_tag(l7mp_frame_u16(f, 12)))
		return f->beside ? l7mp_frame_parse(f, 0, beside, L7MP_NO_VLAN)
		                 : l7mp_frame_parse(f, 0, L7MP_NO_VLAN, L7MP_NO_VLAN);
	if (!l7mp_is_tag(l7mp_frame_u16(f, 16)))
		return f->beside ? l7mp_frame_parse(f, 1, beside, id1)
		                 : l7mp_frame_parse(f, 1, id1, L7MP_NO_VLAN);
	if (f->beside)
		return -1;
	id2 = l7mp_frame_u16(f, 18) & 0xfff;
	return l7mp_frame_parse(f, 2, id1, id2);
}

static __always_inline const struct l7mp_frame_action *l7mp_frame_any(struct l7mp_frame *f,
                                                                      __u16 type)
{
	for (int i = 0; i < 4; i++)
		f->key[i] = 0;
	f->key[4] = L7MP_WORD64(0, L7MP_FRAME_TAIL(0, L7MP_FAMILY_ANY, type));
	f->key[5] = L7MP_WORD64(0, f->ifindex);
	return bpf_map_lookup_elem(&frames, f->key);
}

/* ---- decision ---- */

static __always_inline __u32 l7mp_frame_flags(const struct l7mp_frame_decision *w)
{
	return ((const __u16 *)&w->verb)[3];
}

/* The amounts for its counter: frames as on the wire, with their tags. */
static __always_inline void l7mp_frame_measure(struct l7mp_frame *f)
{
	__u32 tag = f->beside ? sizeof(struct l7mp_vlan) : 0, payload;

	f->decision.segments = 1;
	f->decision.bytes = f->len + tag;
	if (!f->gso)
		return;
	payload = f->ip_end - f->l4_end;
	f->decision.segments = (payload + f->gso - 1) / f->gso;
	f->decision.bytes = f->decision.segments * (f->l4_end + tag) + payload;
}

/* Whether it, or each of its segments, fits the MTU. As in user space one tag does not count. */
static __always_inline int l7mp_frame_fits(const struct l7mp_frame *f, __u32 mtu)
{
	__u32 len = f->len;

	if (f->gso) {
		if (!f->l4_end || f->l4_end >= f->ip_end)
			return 0;
		len = f->l4_end + f->gso;
	}
	if (f->beside)
		len += sizeof(struct l7mp_vlan);
	return len <= mtu + ETH_HLEN + (f->tagged ? sizeof(struct l7mp_vlan) : 0);
}

static __always_inline __u64 l7mp_frame_other_key(const struct l7mp_frame_action *a,
                                                  const struct l7mp_frame *f)
{
	const volatile __u64 *addrs = (const volatile __u64 *)&a->match_saddr;
	const volatile __u64 *tail = (const volatile __u64 *)&a->match_sport;
	__u64 differ = (tail[0] ^ f->key[4]) | (tail[1] ^ f->key[5]);

	for (int i = 0; i < 4; i++)
		differ |= addrs[i] ^ f->key[i];
	return differ;
}

/* The steps of flow.h: copies the entry, then validates version and key. */
static __always_inline int l7mp_frame_take(struct l7mp_frame *f, const struct l7mp_frame_action *a,
                                           const struct l7mp_flow_read *rd)
{
	const struct l7mp_flow_action *v = (const void *)a;
	const __u64 *macs = (const __u64 *)a->dmac;
	__u64 differ;

	f->decision.egress = *(const __u64 *)&a->ifindex;
	f->decision.verb = ((const __u64 *)a)[4];
	f->decision.macs[0] = macs[0];
	f->decision.macs[1] = macs[1];
	f->decision.tail = rd->tail;
	__asm__ volatile("" ::: "memory");
	differ = l7mp_frame_other_key(a, f);
	differ |= *l7mp_flow_head(v) ^ rd->head;
	differ |= *l7mp_flow_tail(v) ^ rd->tail;
	differ |= *l7mp_flow_tail6(v) ^ rd->tail6;
	return differ ? L7MP_VERDICT_PASS_STALE : L7MP_VERDICT_FORWARDED;
}

/* Returns FORWARDED, with f->way set, or why the frame is left to user space. */
static __noinline int l7mp_frame_judge(struct l7mp_frame *f, const struct l7mp_frame_action *a)
{
	const struct l7mp_flow_action *v = (const void *)a;
	struct l7mp_flow_read rd;

	if (!a)
		return L7MP_VERDICT_PASS_NO_FLOW;
	if (!l7mp_flow_begin(v, &rd, L7MP_FAMILY_V6))
		return L7MP_VERDICT_PASS_STALE;
	if (a->verb != L7MP_VERB_FRAME)
		return L7MP_VERDICT_PASS_KERNEL;
	if (l7mp_handover_waits(v))
		return L7MP_VERDICT_PASS_HANDOVER;
	if (!l7mp_frame_fits(f, a->mtu))
		return L7MP_VERDICT_PASS_MTU;
	l7mp_frame_measure(f);
	return l7mp_frame_take(f, a, &rd);
}

/* Returns the entry of its conversation, else one for many. */
static __always_inline const struct l7mp_frame_action *l7mp_frame_lookup(struct l7mp_frame *f,
                                                                         __u32 kinds)
{
	const struct l7mp_frame_action *a = NULL;
	int no_key = -1;

	f->l4_end = f->ip_end = 0;
	if (kinds & L7MP_FRAMES_EXACT || f->gso)
		no_key = l7mp_frame_find_key(f);
	if (kinds & L7MP_FRAMES_EXACT && !no_key)
		a = bpf_map_lookup_elem(&frames, f->key);
	if (!a && kinds & L7MP_FRAMES_TYPE)
		a = l7mp_frame_any(f, f->wild[0]);
	if (!a && kinds & L7MP_FRAMES_TAG && f->wild[1])
		a = l7mp_frame_any(f, f->wild[1]);
	if (!a && kinds & L7MP_FRAMES_TAG && f->wild[2])
		a = l7mp_frame_any(f, f->wild[2]);
	if (!a && kinds & L7MP_FRAMES_ALL)
		a = l7mp_frame_any(f, 0);
	return a;
}

static __always_inline void l7mp_frame_count(const struct l7mp_frame_decision *w)
{
	const struct l7mp_flow_read rd = {.tail = w->tail};

	l7mp_count_flow(l7mp_flow_counter(&rd), w->segments, w->bytes);
}

static __always_inline __u32 l7mp_frame_egress(const struct l7mp_frame_decision *w)
{
	return L7MP_FIRST32(w->egress);
}

/* Rewrites the frame's link addresses, if configured. */
static __always_inline void l7mp_frame_write(struct ethhdr *eth,
                                             const struct l7mp_frame_decision *w)
{
	const __be16 *macs = (const __be16 *)w->macs;
	__be16 *to = (__be16 *)eth;

	if (l7mp_frame_flags(w) & L7MP_FLOW_SET_DMAC)
		for (int i = 0; i < 3; i++)
			to[i] = macs[i];
	if (l7mp_frame_flags(w) & L7MP_FLOW_SET_SMAC)
		for (int i = 3; i < 6; i++)
			to[i] = macs[i];
}
