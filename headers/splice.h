/* SPDX-License-Identifier: MIT */
/*
 * Forwards the segments of a pair of TCP connections from one to the other, at tc ingress: reads
 * the packet, translates its numbers (tcp.h), writes the packet. Unlike the UDP path it accesses
 * the packet by helper functions at variable offsets, because most segments are large (GRO), and
 * options and header lengths vary.
 *
 * A packet passed to the stack is unchanged, except for L7MP_VERDICT_TCP_COPIED.
 */
#pragma once

#include <linux/pkt_cls.h>

#include "flow.h"
#include "skb.h"
#include "tcp.h"

#define L7MP_IP_OFFSET        0x1fff
#define L7MP_IP_MORE          0x2000
#define L7MP_TS_LAYOUT        0x0101080a /* NOP, NOP, time stamps: 12 bytes */
#define L7MP_ICMP_UNREACHABLE 3
#define L7MP_ICMP_TOO_BIG     4 /* code */
#define L7MP_ICMP6_TOO_BIG    2
#define L7MP_OPT_SACK         5
#define L7MP_OPT_TS           8
#define L7MP_OPT_TS_LEN       10
#define L7MP_OPT_MD5          19
#define L7MP_OPT_AO           29
#define L7MP_HOPOPTS_LEN      8 /* of the jumbo option that the kernel puts into GSO packets */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct l7mp_tcp_segment);
} tcp_segment SEC(".maps");

/*
 * ICMP reports that a forwarded segment was too large (RFC 1191, 8201). The near socket did not
 * send that segment and ignores the message, so report it to user space as a doubt in the segment's
 * direction. `s` has the key of the flow from the segment's destination, and the segment's sequence
 * number in s->seq, which must be in flight (RFC 5927).
 */
static __noinline int l7mp_splice_too_big(const struct l7mp_tcp_segment *s,
                                          struct l7mp_tcp_direction *sent,
                                          const struct l7mp_tcp_direction *back)
{
	__u32 in = s->seq - sent->seq_delta;

	if (!l7mp_before(in, l7mp_load_once(&back->ack_max)) &&
	    l7mp_before(in, l7mp_load_once(&sent->seq_max)))
		l7mp_tcp_doubtful(sent, L7MP_TCP_DOUBT_MTU);
	return 0;
}

static __noinline int l7mp_splice_icmp_pair(struct l7mp_tcp_segment *s)
{
	__u64 key = L7MP_WORD64(L7MP_FIRST32(s->pair), 0);
	struct l7mp_tcp_pair *p = bpf_map_lookup_elem(&tcp_pairs, &key);

	if (!p || l7mp_load_once(&p->phase) < L7MP_TCP_TRANS ||
	    l7mp_load_once(&p->id) != L7MP_SECOND32(s->pair))
		return 0;
	/* Two calls: see l7mp_splice_pair. */
	if (l7mp_dir(&s->rw))
		return l7mp_splice_too_big(s, &p->dir[0], &p->dir[1]);
	return l7mp_splice_too_big(s, &p->dir[1], &p->dir[0]);
}

/*
 * Reads the headers quoted in the ICMP message, which is `at` bytes into the frame. 0: they are of
 * an IPv4 TCP segment.
 */
static __noinline int l7mp_splice_cited_v4(struct __sk_buff *skb, struct l7mp_tcp_segment *s,
                                           __u32 at)
{
	const struct iphdr *ip = (const void *)s->ip;

	if (bpf_skb_load_bytes(skb, at, s->old, 8) ||
	    ((const __u8 *)s->old)[0] != L7MP_ICMP_UNREACHABLE ||
	    ((const __u8 *)s->old)[1] != L7MP_ICMP_TOO_BIG)
		return -1;
	if (bpf_skb_load_bytes(skb, at + 8, s->ip, sizeof(*ip)) || ip->protocol != IPPROTO_TCP)
		return -1;
	at += 8 + (__u32)(*(const __u8 *)ip & 15) * 4;
	if (bpf_skb_load_bytes(skb, at, s->old, 8))
		return -1;
	s->seq = bpf_ntohl(s->old[L7MP_TCP_SEQ]);
	s->key_words[0] = L7MP_WORD64(s->ip[4], s->ip[3]);
	s->key_words[1] =
	        L7MP_WORD64(s->old[0] >> 16 | s->old[0] << 16, L7MP_KEY_TAIL(IPPROTO_TCP, 0));
	return 0;
}

static __noinline int l7mp_splice_cited_v6(struct __sk_buff *skb, struct l7mp_tcp_segment *s,
                                           __u32 at)
{
	const struct ipv6hdr *ip = (const void *)s->ip;

	if (bpf_skb_load_bytes(skb, at, s->old, 8) ||
	    ((const __u8 *)s->old)[0] != L7MP_ICMP6_TOO_BIG)
		return -1;
	if (bpf_skb_load_bytes(skb, at + 8, s->ip, sizeof(*ip)) || ip->nexthdr != IPPROTO_TCP ||
	    bpf_skb_load_bytes(skb, at + 8 + (__u32)sizeof(*ip), s->old, 8))
		return -1;
	s->seq = bpf_ntohl(s->old[L7MP_TCP_SEQ]);
	s->key_words[0] = L7MP_WORD64(s->ip[6], s->ip[7]);
	s->key_words[1] = L7MP_WORD64(s->ip[8], s->ip[9]);
	s->key_words[2] = L7MP_WORD64(s->ip[2], s->ip[3]);
	s->key_words[3] = L7MP_WORD64(s->ip[4], s->ip[5]);
	s->key_words[4] = L7MP_WORD64(s->old[0] >> 16 | s->old[0] << 16,
	                              L7MP_KEY_TAIL(IPPROTO_TCP, L7MP_FAMILY_V6));
	return 0;
}

/* An ICMP message is always passed to the stack. `family` is a constant. */
static __always_inline void l7mp_splice_icmp(struct __sk_buff *skb, struct l7mp_tcp_segment *s,
                                             const __u8 family)
{
	const struct l7mp_flow_action *a;
	struct l7mp_flow_read rd;

	if (family == L7MP_FAMILY_V4
	            ? l7mp_splice_cited_v4(skb, s, s->l3 + (__u32)sizeof(struct iphdr))
	            : l7mp_splice_cited_v6(skb, s, s->l3 + (__u32)sizeof(struct ipv6hdr)))
		return;
	a = family == L7MP_FAMILY_V4 ? bpf_map_lookup_elem(&flows4, s->key_words)
	                             : bpf_map_lookup_elem(&flows6, s->key_words);
	if (!a || !l7mp_flow_begin(a, &rd, family))
		return;
	l7mp_take_checked(&s->rw, a);
	l7mp_take(&s->rw, a, family);
	s->pair = *(const __u64 *)&a->pair;
	if (!l7mp_flow_replaced(a, &rd, s->key_words, family) &&
	    l7mp_verb(&s->rw) == L7MP_VERB_SPLICE)
		l7mp_splice_icmp_pair(s);
}

/* Loads the TCP header after the IP header. `len`: the packet's length in the IP header. */
static __noinline int l7mp_splice_load_tcp(struct __sk_buff *skb, struct l7mp_tcp_segment *s,
                                           __u32 len)
{
	__u32 header = s->ip_header, tcp, have = skb->len - s->l3, mss = skb->gso_size;

	s->l4 = s->l3 + header;
	if (bpf_skb_load_bytes(skb, s->l4, s->old, sizeof(s->old)))
		return L7MP_VERDICT_PASS_TRUNCATED;
	tcp = (bpf_ntohl(s->old[L7MP_TCP_FLAGS_WIN]) >> 28) * 4;
	if (mss && !len) /* BIG TCP: too long for the field */
		len = have;
	if (len > have)
		return L7MP_VERDICT_PASS_TRUNCATED;
	if (tcp < sizeof(struct tcphdr) || header + tcp > len)
		return L7MP_VERDICT_PASS_MALFORMED;
	s->payload = len - header - tcp;
	s->trailer = have - len;
	s->options_len = tcp - (__u32)sizeof(struct tcphdr);
	s->wire_ip_len = mss ? header + tcp + mss : len;
	/* Trimming would also end the segmentation. */
	if (mss && s->trailer)
		s->doubt = L7MP_TCP_DOUBT_KERNEL;
	return 0;
}

static __always_inline int l7mp_splice_load_v4(struct __sk_buff *skb, struct l7mp_tcp_segment *s)
{
	const struct iphdr *ip = (const void *)s->ip;
	int verdict;

	if (bpf_skb_load_bytes(skb, s->l3, s->ip, sizeof(*ip)))
		return L7MP_VERDICT_PASS_TRUNCATED;
	if (ip->protocol == IPPROTO_ICMP) {
		l7mp_splice_icmp(skb, s, L7MP_FAMILY_V4);
		return L7MP_VERDICT_PASS_NOT_UDP;
	}
	if (ip->protocol != IPPROTO_TCP)
		return L7MP_VERDICT_PASS_NOT_UDP;
	s->ip_header = (*(const __u8 *)ip & 15) * 4;
	if (ip->frag_off & bpf_htons(L7MP_IP_OFFSET))
		return L7MP_VERDICT_PASS_FRAGMENT;
	if (s->ip_header != sizeof(*ip))
		s->doubt = L7MP_TCP_DOUBT_IP_OPTIONS;
	if (ip->frag_off & bpf_htons(L7MP_IP_MORE))
		s->doubt = L7MP_TCP_DOUBT_FRAGMENT;
	if (ip->ttl <= 1)
		s->doubt = L7MP_TCP_DOUBT_TTL;
	verdict = l7mp_splice_load_tcp(skb, s, bpf_ntohs(ip->tot_len));
	s->key_words[0] = L7MP_WORD64(s->ip[3], s->ip[4]);
	s->key_words[1] = L7MP_WORD64(s->old[L7MP_TCP_PORTS], L7MP_KEY_TAIL(IPPROTO_TCP, 0));
	return verdict;
}

/*
 * The length of an extension header: a fragment header, or the jumbo header of a GSO packet of more
 * than 64 KiB (up to Linux 6.18). 0: TCP follows the IPv6 header; or a negative verdict.
 */
static __always_inline int l7mp_splice_extension(struct __sk_buff *skb, struct l7mp_tcp_segment *s,
                                                 __u8 next)
{
	__u64 word = 0;
	const __u8 *ext = (const __u8 *)&word;

	if (next == IPPROTO_TCP)
		return 0;
	if (next != IPPROTO_FRAGMENT && next != IPPROTO_HOPOPTS)
		return -L7MP_VERDICT_PASS_NOT_UDP;
	if (bpf_skb_load_bytes(skb, s->l3 + (__u32)sizeof(struct ipv6hdr), &word, sizeof(word)))
		return -L7MP_VERDICT_PASS_TRUNCATED;
	if (ext[0] != IPPROTO_TCP)
		return -L7MP_VERDICT_PASS_NOT_UDP;
	if (next == IPPROTO_FRAGMENT && !(ext[2] | (ext[3] & 0xf8)))
		s->doubt = L7MP_TCP_DOUBT_FRAGMENT;
	else if (next != IPPROTO_HOPOPTS || !skb->gso_size || ext[1] || ext[2] != 0xc2)
		return -L7MP_VERDICT_PASS_NOT_UDP;
	return L7MP_HOPOPTS_LEN;
}

static __always_inline int l7mp_splice_load_v6(struct __sk_buff *skb, struct l7mp_tcp_segment *s)
{
	const struct ipv6hdr *ip = (const void *)s->ip;
	__u32 len;
	int extra, verdict;

	if (bpf_skb_load_bytes(skb, s->l3, s->ip, sizeof(*ip)))
		return L7MP_VERDICT_PASS_TRUNCATED;
	if (ip->nexthdr == IPPROTO_ICMPV6) {
		l7mp_splice_icmp(skb, s, L7MP_FAMILY_V6);
		return L7MP_VERDICT_PASS_NOT_UDP;
	}
	extra = l7mp_splice_extension(skb, s, ip->nexthdr);
	if (extra < 0)
		return -extra;
	s->ip_header = (__u32)sizeof(*ip) + (__u32)extra;
	if (ip->hop_limit <= 1)
		s->doubt = L7MP_TCP_DOUBT_TTL;
	len = bpf_ntohs(ip->payload_len);
	verdict = l7mp_splice_load_tcp(skb, s, len ? len + (__u32)sizeof(*ip) : 0);
	for (int i = 0; i < 4; i++)
		s->key_words[i] = L7MP_WORD64(s->ip[2 + 2 * i], s->ip[3 + 2 * i]);
	s->key_words[4] =
	        L7MP_WORD64(s->old[L7MP_TCP_PORTS], L7MP_KEY_TAIL(IPPROTO_TCP, L7MP_FAMILY_V6));
	return verdict;
}

/* One byte of the options; 0 (end of options) if it can't be read. */
static __always_inline __u32 l7mp_splice_option(struct __sk_buff *skb, __u32 at)
{
	__u64 word = 0;

	if (bpf_skb_load_bytes(skb, at, &word, 1))
		return 0;
	return *(const __u8 *)&word;
}

/*
 * Finds the time stamp and SACK options in any layout. The position is stored in the map, so that
 * the verifier does not follow every combination of options.
 */
static __noinline int l7mp_splice_walk(struct __sk_buff *skb, struct l7mp_tcp_segment *s)
{
	__u32 options = s->l4 + (__u32)sizeof(struct tcphdr), strange;

#pragma unroll
	for (int i = 0; i < L7MP_TCP_OPTIONS; i++) {
		__u32 at = l7mp_load_once(&s->walk), kind, len;

		if (at >= s->options_len)
			return 0;
		kind = l7mp_splice_option(skb, options + at);
		if (kind == 0) /* end of options */
			return 0;
		if (kind == 1) { /* NOP */
			s->walk = at + 1;
			continue;
		}
		len = l7mp_splice_option(skb, options + at + 1);
		if (len < 2 || at + len > s->options_len)
			break;
		if (kind == L7MP_OPT_TS && len == L7MP_OPT_TS_LEN && !s->ts_at)
			s->ts_at = at + 2;
		else if (kind == L7MP_OPT_SACK && len >= 10 && len <= 34 && len % 8 == 2 &&
		         !s->sack_at)
			s->sack_at = at + 2, s->sack_len = len - 2;
		else
			break;
		s->walk = at + len;
	}
	if (l7mp_load_once(&s->walk) == s->options_len) /* 40 NOPs */
		return 0;
	strange = l7mp_splice_option(skb, options + l7mp_load_once(&s->walk));
	s->doubt = strange == L7MP_OPT_MD5 || strange == L7MP_OPT_AO ? L7MP_TCP_DOUBT_SIGNED
	                                                             : L7MP_TCP_DOUBT_OPTION;
	return 0;
}

/* Finds the options. Fast path for the usual layout: time stamps only. */
static __always_inline void l7mp_splice_options(struct __sk_buff *skb, struct l7mp_tcp_segment *s)
{
	__u32 options = s->l4 + (__u32)sizeof(struct tcphdr), len = s->options_len;

	if (len == 0)
		return;
	__asm__ volatile("" : "+r"(len)); /* the verifier derives the bounds from these tests */
	if (len < 4 || len > L7MP_TCP_OPTIONS ||
	    bpf_skb_load_bytes(skb, options, s->options, len)) {
		s->doubt = L7MP_TCP_DOUBT_OPTION;
		return;
	}
	if (s->options_len == 12 && s->options[0] == bpf_htonl(L7MP_TS_LAYOUT))
		s->ts_at = 4;
	else
		l7mp_splice_walk(skb, s);
	if (s->ts_at && bpf_skb_load_bytes(skb, options + s->ts_at, s->ts, sizeof(s->ts)))
		s->doubt = L7MP_TCP_DOUBT_OPTION;
}

static __always_inline void l7mp_splice_fill(__u32 *words, __u32 with)
{
	for (int i = 0; i < L7MP_TCP_OPTIONS / 4; i++)
		words[i] = with;
}

/* Overwrites an option of `len` bytes at `at` with NOPs. */
static __noinline int l7mp_splice_blank(struct __sk_buff *skb, struct l7mp_tcp_segment *s, __u32 at,
                                        __u32 len)
{
	l7mp_splice_fill(s->options_new, 0x01010101);
	__asm__ volatile("" : "+r"(len));
	if (len < 2 || len > L7MP_TCP_OPTIONS)
		return -1;
	return (int)bpf_skb_store_bytes(skb, at, s->options_new, len, 0);
}

static __noinline int l7mp_splice_sack(struct __sk_buff *skb, struct l7mp_tcp_segment *s, __u32 at,
                                       __u32 delta)
{
	__u32 len = s->sack_len;

	__asm__ volatile("" : "+r"(len));
	if (len < 8 || len > 32 || bpf_skb_load_bytes(skb, at, s->options_new, len))
		return -1;
	for (int i = 0; i < 8; i++)
		s->options_new[i] = bpf_htonl(bpf_ntohl(s->options_new[i]) + delta);
	return (int)bpf_skb_store_bytes(skb, at, s->options_new, len, 0);
}

/* Writes the options. Returns the delta of the checksum, or negative. */
static __noinline int l7mp_splice_write_options(struct __sk_buff *skb, struct l7mp_tcp_segment *s,
                                                const struct l7mp_tcp_direction *me)
{
	__u32 options = s->l4 + (__u32)sizeof(struct tcphdr), len = s->options_len;
	__u8 flags = me->flags;
	long rc = 0;
	__s64 sum;

	if (s->ts_at)
		rc = flags & L7MP_TCP_TS
		             ? bpf_skb_store_bytes(skb, options + s->ts_at, s->ts_new,
		                                   sizeof(s->ts_new), 0)
		             : l7mp_splice_blank(skb, s, options + s->ts_at - 2, L7MP_OPT_TS_LEN);
	if (s->ts_at == 4 && s->options_len == 12 && flags & L7MP_TCP_TS)
		return rc ? -1
		          : (int)l7mp_fold64(l7mp_word_delta(s->ts[0], s->ts_new[0]) +
		                             l7mp_word_delta(s->ts[1], s->ts_new[1]));
	if (!rc && s->sack_at)
		rc = flags & L7MP_TCP_NOSACK
		             ? l7mp_splice_blank(skb, s, options + s->sack_at - 2, s->sack_len + 2)
		             : l7mp_splice_sack(skb, s, options + s->sack_at, me->ack_delta);
	/* Options may be at odd offsets, so compute the delta over all of them. */
	l7mp_splice_fill(s->options_new, 0);
	__asm__ volatile("" : "+r"(len));
	if (rc || len < 4 || len > L7MP_TCP_OPTIONS ||
	    bpf_skb_load_bytes(skb, options, s->options_new, len))
		return -1;
	sum = bpf_csum_diff(s->options, sizeof(s->options), s->options_new, sizeof(s->options_new),
	                    0);
	return sum < 0 ? -1 : (int)l7mp_fold64((__u64)sum);
}

/* Makes the outgoing IP header. ECN is kept, as it is end to end; DSCP is the flow's. */
static __always_inline void l7mp_splice_make_ip(struct l7mp_tcp_segment *s)
{
	__u8 tos = l7mp_tos(&s->rw) & 0xfc, keep = l7mp_flags(&s->rw) & L7MP_FLOW_KEEP_TOS ? 1 : 0;
	__u32 first = bpf_ntohl(s->ip[0]), old;
	struct ipv6hdr *ip6;
	struct iphdr *ip4;

	for (int i = 0; i < 10; i++)
		s->ip_new[i] = s->ip[i];
	if (s->family == L7MP_FAMILY_V4) {
		ip4 = (struct iphdr *)s->ip_new;
		old = first >> 16;
		if (!keep)
			first = (first & 0xff03ffff) | (__u32)tos << 16;
		s->ip_new[0] = bpf_htonl(first);
		ip4->ttl--;
		ip4->check = l7mp_csum_apply(ip4->check, (__u16)~bpf_htons((__u16)old) +
		                                                 bpf_htons((__u16)(first >> 16)) +
		                                                 l7mp_csum_l3(&s->rw));
		s->ip_new[3] = L7MP_FIRST32(s->rw.addrs[0]);
		s->ip_new[4] = L7MP_SECOND32(s->rw.addrs[0]);
		return;
	}
	ip6 = (struct ipv6hdr *)s->ip_new;
	if (!keep)
		first = (first & 0xf03fffff) | (__u32)tos << 20;
	s->ip_new[0] = bpf_htonl(first & 0xfff00000); /* no flow label: it is the near peer's */
	ip6->hop_limit--;
	for (int i = 0; i < 4; i++) {
		s->ip_new[2 + 2 * i] = L7MP_FIRST32(s->rw.addrs[i]);
		s->ip_new[3 + 2 * i] = L7MP_SECOND32(s->rw.addrs[i]);
	}
}

/* Updates the TCP checksum; the helper handles a partial one. */
static __always_inline long l7mp_splice_csum(struct __sk_buff *skb,
                                             const struct l7mp_tcp_segment *s, __u32 addresses,
                                             __u64 rest)
{
	__u32 at = s->l4 + (__u32) __builtin_offsetof(struct tcphdr, check);
	long rc = 0;

	if (addresses)
		rc = l7mp_replace_addr_csum(skb, at, addresses, (__u8)s->family, 0);
	return rc ? rc : bpf_l4_csum_replace(skb, at, 0, l7mp_fold64(rest), 0);
}

static __always_inline __u64 l7mp_splice_words_delta(const __u32 *old, const __u32 *new)
{
	__u64 sum = 0;

	for (int i = 0; i < L7MP_TCP_WORDS; i++)
		sum += l7mp_word_delta(old[i], new[i]);
	return sum;
}

/* Writes MAC addresses, IP header, and the changed part of the TCP header. Requires no tags. */
static __noinline int l7mp_splice_store(struct __sk_buff *skb, const __u32 *ip, const __u32 *tcp,
                                        const void *macs, __u32 l4_family)
{
	__u32 l4 = l4_family >> 8;
	long rc = bpf_skb_store_bytes(skb, 0, macs, 2 * ETH_ALEN, 0);

	if ((l4_family & 0xff) == L7MP_FAMILY_V4)
		rc = rc ? rc : bpf_skb_store_bytes(skb, ETH_HLEN, ip, sizeof(struct iphdr), 0);
	else
		rc = rc ? rc : bpf_skb_store_bytes(skb, ETH_HLEN, ip, sizeof(struct ipv6hdr), 0);
	rc = rc ? rc : bpf_skb_store_bytes(skb, l4, tcp, L7MP_TCP_WORDS * sizeof(*tcp), 0);
	return rc ? -1 : 0;
}

static __always_inline __u32 l7mp_splice_place(const struct l7mp_tcp_segment *s)
{
	return s->l4 << 8 | (__u32)s->family;
}

/* Writes the outgoing segment. 0, or negative: the packet is then corrupt and must be dropped. */
static __noinline int l7mp_splice_write(struct __sk_buff *skb, struct l7mp_tcp_segment *s,
                                        const struct l7mp_tcp_direction *me)
{
	int options = 0;

	if (s->trailer && bpf_skb_change_tail(skb, skb->len - s->trailer, 0))
		return -1;
	if (s->n_tags && l7mp_untag(skb, s->n_frame_tags))
		return -1;
	s->l4 -= s->l3 - ETH_HLEN;
	s->l3 = ETH_HLEN;
	if (s->ts_at | s->sack_at) {
		options = l7mp_splice_write_options(skb, s, me);
		if (options < 0)
			return -1;
	}
	s->options_delta = (__u32)options;
	if (l7mp_splice_csum(skb, s, l7mp_csum_addr(&s->rw),
	                     l7mp_splice_words_delta(s->old, s->new) + s->options_delta))
		return -1;
	l7mp_splice_make_ip(s);
	return l7mp_splice_store(skb, s->ip_new, s->new, s->rw.macs, l7mp_splice_place(s));
}

/* After the translated segment was cloned: turns it into the one for the near socket. */
static __noinline int l7mp_splice_write_up(struct __sk_buff *skb, struct l7mp_tcp_segment *s)
{
	__u32 options = s->l4 + (__u32)sizeof(struct tcphdr), len = s->options_len;
	__u32 addr = l7mp_csum_addr(&s->rw);

	if (s->ts_at | s->sack_at) {
		__asm__ volatile("" : "+r"(len));
		if (len < 4 || len > L7MP_TCP_OPTIONS ||
		    bpf_skb_store_bytes(skb, options, s->options, len, 0))
			return -1;
	}
	if (l7mp_splice_csum(skb, s, addr ? (__u16)~addr : 0,
	                     l7mp_splice_words_delta(s->new, s->up) + (__u16)~s->options_delta) ||
	    l7mp_splice_store(skb, s->ip, s->up, s->link, l7mp_splice_place(s)))
		return -1;
	if (s->n_tags > 1 && bpf_skb_vlan_push(skb, s->tag_proto[1], s->tag_tci[1]))
		return -1;
	return s->n_tags && bpf_skb_vlan_push(skb, s->tag_proto[0], s->tag_tci[0]) ? -1 : 0;
}

/* TRANS: sends the translated segment, and passes the original to the near socket. */
static __noinline int l7mp_splice_copy(struct __sk_buff *skb, struct l7mp_tcp_segment *s,
                                       const struct l7mp_tcp_direction *me)
{
	__u64 flags = l7mp_flags(&s->rw) & L7MP_FLOW_TO_INGRESS ? BPF_F_INGRESS : 0;

	/* If sending fails the peer retransmits it. */
	(void)bpf_clone_redirect(skb, l7mp_ifindex(&s->rw), flags);
	l7mp_tcp_own_copy(s, me);
	return l7mp_splice_write_up(skb, s) ? L7MP_VERDICT_TCP_DOUBT : L7MP_VERDICT_TCP_COPIED;
}

static __always_inline int l7mp_splice_watch(const struct l7mp_tcp_segment *s,
                                             struct l7mp_tcp_direction *me)
{
	__u32 doubt;

	if (s->flags & L7MP_TCPF_SYN) /* retransmitted by the handshake, or left to the socket */
		return L7MP_VERDICT_PASS_TCP_WATCH;
	doubt = l7mp_tcp_judge(s);
	if (doubt)
		l7mp_tcp_doubtful(me, doubt);
	else if (l7mp_tcp_expected(s, me))
		l7mp_tcp_set(me, L7MP_TCP_SEEN);
	return L7MP_VERDICT_PASS_TCP_WATCH;
}

/* Records a segment that can't be translated. */
static __always_inline int l7mp_splice_doubt(struct l7mp_tcp_direction *me, __u32 doubt)
{
	l7mp_tcp_doubtful(me, doubt);
	return doubt == L7MP_TCP_DOUBT_TTL ? L7MP_VERDICT_PASS_TTL : L7MP_VERDICT_TCP_DOUBT;
}

/* Handles a SYN, whose options are not checked. */
static __always_inline int l7mp_splice_syn(const struct l7mp_tcp_segment *s,
                                           struct l7mp_tcp_direction *me,
                                           const struct l7mp_tcp_direction *other)
{
	if (s->flags & L7MP_TCPF_ACK) /* a late SYN-ACK of the handshake */
		return L7MP_VERDICT_TCP_WINDOW;
	if (l7mp_tcp_finished(me, other)) {
		l7mp_tcp_set(me, L7MP_TCP_REUSED);
		return L7MP_VERDICT_PASS_TCP_OVER;
	}
	l7mp_tcp_set(me, L7MP_TCP_SYN);
	return L7MP_VERDICT_TCP_WINDOW;
}

/* Handles a reset. 0: it is to be forwarded; else the verdict. */
static __always_inline int l7mp_splice_reset(const struct l7mp_tcp_segment *s,
                                             struct l7mp_tcp_direction *me,
                                             const struct l7mp_tcp_direction *other)
{
	if (!l7mp_tcp_reset_in_window(s, other))
		return L7MP_VERDICT_TCP_WINDOW;
	if (s->phase == L7MP_TCP_STOP && l7mp_before(l7mp_load_once(&me->seq_max), s->seq))
		return L7MP_VERDICT_TCP_STOPPED;
	l7mp_tcp_set(me, L7MP_TCP_RST);
	if (l7mp_load_once(&me->seen) & L7MP_TCP_CHALLENGED &&
	    s->seq == l7mp_load_once(&other->ack_max))
		l7mp_tcp_set(me, L7MP_TCP_REUSED);
	return 0;
}

/* Processes a segment whose flow was found. Returns the verdict. */
static __noinline int l7mp_splice_run(struct __sk_buff *skb, struct l7mp_tcp_segment *s,
                                      struct l7mp_tcp_direction *me,
                                      struct l7mp_tcp_direction *other)
{
	__u32 doubt;
	int verdict = 0;

	l7mp_tcp_numbers(s, me->win_in);
	l7mp_splice_options(skb, s);
	if (s->phase == L7MP_TCP_WATCH)
		return l7mp_splice_watch(s, me);
	if (l7mp_load_once(&me->seen) & L7MP_TCP_REUSED)
		return L7MP_VERDICT_PASS_TCP_OVER;
	if (s->flags & L7MP_TCPF_SYN)
		return l7mp_splice_syn(s, me, other);
	doubt = l7mp_tcp_judge(s);
	if (doubt)
		return l7mp_splice_doubt(me, doubt);
	s->tracked = l7mp_tcp_tracked(s, other);
	if (s->flags & L7MP_TCPF_RST)
		verdict = l7mp_splice_reset(s, me, other);
	else if (s->tracked)
		l7mp_tcp_alive(me, other);
	if (verdict)
		return verdict;
	if (s->ts_at && me->flags & L7MP_TCP_TS)
		l7mp_tcp_time_stamps(s, me, other);
	l7mp_tcp_translate(s, me, other);
	l7mp_tcp_touch(me);
	if (l7mp_splice_write(skb, s, me)) {
		l7mp_tcp_doubtful(me, L7MP_TCP_DOUBT_KERNEL);
		return L7MP_VERDICT_TCP_DOUBT;
	}
	/* Don't copy a reset: it would close the near socket, though the far end may reject it. */
	if (s->phase == L7MP_TCP_TRANS && !(s->flags & L7MP_TCPF_RST))
		return l7mp_splice_copy(skb, s, me);
	return L7MP_VERDICT_FORWARDED;
}

/* Saves the link header, to restore it before the original is passed to the stack. */
static __always_inline void l7mp_splice_keep_link(const struct __sk_buff *skb,
                                                  struct l7mp_tcp_segment *s,
                                                  const struct ethhdr *eth, const __u32 n_vlans)
{
	const struct l7mp_vlan *vlan = (const void *)(eth + 1);

	for (int i = 0; i < 3; i++)
		s->link[i] = l7mp_load32((const __u8 *)eth + 4 * i);
	s->n_frame_tags = n_vlans;
	s->n_tags = n_vlans + (skb->vlan_present ? 1 : 0);
	if (skb->vlan_present) {
		s->tag_proto[0] = (__be16)skb->vlan_proto;
		s->tag_tci[0] = (__u16)skb->vlan_tci;
		if (n_vlans > 0) {
			s->tag_proto[1] = eth->h_proto;
			s->tag_tci[1] = bpf_ntohs(vlan[0].tci);
		}
		return;
	}
	if (n_vlans > 0) {
		s->tag_proto[0] = eth->h_proto;
		s->tag_tci[0] = bpf_ntohs(vlan[0].tci);
	}
	if (n_vlans > 1) {
		s->tag_proto[1] = vlan[0].proto;
		s->tag_tci[1] = bpf_ntohs(vlan[1].tci);
	}
}

static __always_inline void l7mp_splice_start(struct l7mp_tcp_segment *s, const int kind)
{
	s->l3 = L7MP_KIND_L3(kind);
	s->family = L7MP_KIND_FAMILY(kind);
	s->doubt = s->ts_at = s->sack_at = s->sack_len = s->walk = s->tracked = 0;
	l7mp_splice_fill(s->options, 0);
}

/*
 * Finds the segment's flow, checks the ingress, and copies the required fields of a consistent
 * value that belongs to the flow. A verdict, or 0.
 */
static __always_inline int l7mp_splice_find(struct __sk_buff *skb, struct l7mp_tcp_segment *s,
                                            const int kind)
{
	const __u8 family = L7MP_KIND_FAMILY(kind);
	const struct ethhdr *eth = (void *)(long)skb->data;
	const struct l7mp_flow_action *a;
	struct l7mp_flow_read rd;
	int verdict;

	a = family == L7MP_FAMILY_V4 ? bpf_map_lookup_elem(&flows4, s->key_words)
	                             : bpf_map_lookup_elem(&flows6, s->key_words);
	if (!a)
		return L7MP_VERDICT_PASS_NO_FLOW;
	if (!l7mp_flow_begin(a, &rd, family))
		return L7MP_VERDICT_PASS_STALE;
	if ((const __u8 *)eth + L7MP_KIND_L3(kind) > (const __u8 *)(long)skb->data_end)
		return L7MP_VERDICT_PASS_TRUNCATED;
	verdict = l7mp_check_ingress(a, &rd, skb->ifindex, 1, eth,
	                             l7mp_packet_tags(skb, eth, L7MP_KIND_VLANS(kind)));
	if (verdict)
		return verdict;
	l7mp_splice_keep_link(skb, s, eth, L7MP_KIND_VLANS(kind));
	l7mp_take_checked(&s->rw, a);
	l7mp_take(&s->rw, a, family);
	s->pair = *(const __u64 *)&a->pair;
	if (l7mp_flow_replaced(a, &rd, s->key_words, family))
		return L7MP_VERDICT_PASS_STALE;
	if (l7mp_verb(&s->rw) != L7MP_VERB_SPLICE)
		return L7MP_VERDICT_PASS_KERNEL;
	s->slot = rd.tail;
	return 0;
}

/* Finds the flow's pair and processes the segment. */
static __noinline int l7mp_splice_pair(struct __sk_buff *skb, struct l7mp_tcp_segment *s)
{
	__u64 key = L7MP_WORD64(L7MP_FIRST32(s->pair), 0);
	struct l7mp_tcp_pair *p = bpf_map_lookup_elem(&tcp_pairs, &key);
	__u32 phase;

	if (!p)
		return L7MP_VERDICT_PASS_KERNEL;
	phase = l7mp_load_once(&p->phase);
	if (phase == L7MP_TCP_FREE || l7mp_load_once(&p->id) != L7MP_SECOND32(s->pair))
		return L7MP_VERDICT_PASS_STALE;
	if (phase > L7MP_TCP_STOP)
		return L7MP_VERDICT_PASS_KERNEL;
	s->phase = phase;
	/* Two calls: without CAP_PERFMON the verifier rejects a variable offset. */
	if (l7mp_dir(&s->rw))
		return l7mp_splice_run(skb, s, &p->dir[1], &p->dir[0]);
	return l7mp_splice_run(skb, s, &p->dir[0], &p->dir[1]);
}

/* Updates the flow's counter: segments and bytes on the wire. */
static __always_inline void l7mp_splice_count(const struct __sk_buff *skb,
                                              const struct l7mp_tcp_segment *s)
{
	const struct l7mp_flow_read rd = {.tail = s->slot};
	__u32 n = skb->gso_segs, mss = skb->gso_size;

	if (!n)
		n = mss ? (s->payload + mss - 1) / mss : 1;
	l7mp_count_flow(l7mp_flow_counter(&rd), n, s->payload);
}

static __always_inline int l7mp_splice(struct __sk_buff *skb, const int kind)
{
	__u64 zero = 0;
	struct l7mp_tcp_segment *s = bpf_map_lookup_elem(&tcp_segment, &zero);
	int verdict;

	if (!s)
		return l7mp_pass_up(L7MP_VERDICT_PASS_KERNEL);
	l7mp_splice_start(s, kind);
	verdict = L7MP_KIND_FAMILY(kind) == L7MP_FAMILY_V4 ? l7mp_splice_load_v4(skb, s)
	                                                   : l7mp_splice_load_v6(skb, s);
	verdict = verdict ? verdict : l7mp_splice_find(skb, s, kind);
	verdict = verdict ? verdict : l7mp_splice_pair(skb, s);
	l7mp_count_verdict((__u32)verdict);
	if (verdict == L7MP_VERDICT_FORWARDED) {
		l7mp_splice_count(skb, s);
		return (int)l7mp_redirect(&s->rw);
	}
	if (verdict == L7MP_VERDICT_TCP_COPIED)
		l7mp_splice_count(skb, s);
	return verdict <= L7MP_VERDICT_TCP_COPIED ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}
