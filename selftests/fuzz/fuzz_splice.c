/* SPDX-License-Identifier: MIT */
/*
 * headers/splice.h and tcp.h, compiled for user space: what the tc program makes of a TCP segment
 * whose flow is one of a pair. The helper functions and maps of the kernel are played here, on a
 * frame that lies before memory which can't be read.
 *
 * The input: how the segment comes in and what the pair is (struct scene), then the frame. A packet
 * that goes up is as it came; the checksums of one that leaves are right when they were right.
 */
#include "fuzz.h"

#include <bpf/bpf_endian.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdbool.h>
#include <sys/mman.h>

/* Warnings that the BPF headers cause when they are built for user space. */
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wmacro-redefined"
#pragma clang diagnostic ignored "-Wunused-variable"
#pragma clang diagnostic ignored "-Wunused-parameter"
#pragma clang diagnostic ignored "-Wunused-function"
#pragma clang diagnostic ignored "-Wsign-compare"
#include "splice.h"
#pragma clang diagnostic pop

#define FRAME_MAX 4096
#define IFINDEX   3
#define EGRESS    4

struct scene {
	uint8_t phase;   /* enum l7mp_tcp_phase, and what is none */
	uint8_t has;     /* enum has */
	uint8_t flags;   /* of the direction: enum l7mp_tcp_flags */
	uint8_t wins;    /* win_in, win_out */
	uint8_t seen[2]; /* enum l7mp_tcp_seen of both directions */
	uint8_t mtu;     /* of the egress, in 16 bytes */
	uint8_t segments;
	uint32_t seq, ack, delta; /* numbers of the direction, and what they are moved by */
};

enum has { FLOW = 1, PAIR = 2, TAG = 4, GSO = 8, KEEP_TOS = 16, INGRESS = 32, SECOND = 64 };

/* ---- the packet ---- */

static struct scene scene;
static uint8_t *room; /* of FRAME_MAX bytes, with one page behind it that can't be read */
static struct __sk_buff skb;
static uint8_t clone[FRAME_MAX];
static uint32_t clone_len;

static uint8_t *frame(void)
{
	return (uint8_t *)(uintptr_t)skb.data;
}

static long load(const void *s, __u32 offset, void *to, __u32 len)
{
	(void)s;
	if (!len || offset > skb.len || len > skb.len - offset)
		return -EFAULT;
	memcpy(to, frame() + offset, len);
	return 0;
}

static long store(struct __sk_buff *s, __u32 offset, const void *from, __u32 len, __u64 flags)
{
	(void)s;
	(void)flags;
	if (offset > skb.len || len > skb.len - offset)
		return -EFAULT;
	memcpy(frame() + offset, from, len);
	return 0;
}

static long replace_csum(struct __sk_buff *s, __u32 offset, __u64 from, __u64 to, __u64 flags)
{
	uint16_t old;
	uint64_t sum;

	(void)s;
	FUZZ_CHECK(!from && !(flags & BPF_F_HDR_FIELD_MASK));
	if (flags & L7MP_CSUM_IPV6) /* as kernels before 6.16 */
		return -EINVAL;
	if (offset > skb.len || skb.len - offset < 2)
		return -EFAULT;
	memcpy(&old, frame() + offset, 2);
	sum = (uint16_t)~old + to;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	old = (uint16_t)~sum;
	memcpy(frame() + offset, &old, 2);
	return 0;
}

static __s64 diff(__be32 *from, __u32 from_size, __be32 *to, __u32 to_size, __wsum seed)
{
	uint64_t sum = seed;

	for (__u32 i = 0; i < from_size / 4; i++)
		sum += (uint32_t)~from[i];
	for (__u32 i = 0; i < to_size / 4; i++)
		sum += to[i];
	while (sum >> 32)
		sum = (sum & 0xffffffff) + (sum >> 32);
	return (__s64)sum;
}

static long change_tail(struct __sk_buff *s, __u32 len, __u64 flags)
{
	(void)s;
	(void)flags;
	FUZZ_CHECK(len <= skb.len);
	/* Its end is cut off: what is in front stays. */
	memmove(frame() + (skb.len - len), frame(), len);
	skb.data += skb.len - len;
	skb.len = len;
	return 0;
}

static long vlan_pop(struct __sk_buff *s)
{
	(void)s;
	if (skb.vlan_present) {
		skb.vlan_present = 0;
		return 0;
	}
	FUZZ_CHECK(skb.len >= ETH_HLEN + 4);
	memmove(frame() + 4, frame(), 2 * ETH_ALEN);
	skb.data += 4;
	skb.len -= 4;
	return 0;
}

/* The kernel keeps the last one beside the frame. */
static long vlan_push(struct __sk_buff *s, __be16 proto, __u16 tci)
{
	uint16_t words[2] = {(uint16_t)skb.vlan_proto, htons((uint16_t)skb.vlan_tci)};

	(void)s;
	if (skb.vlan_present) {
		skb.data -= 4;
		skb.len += 4;
		memmove(frame(), frame() + 4, 2 * ETH_ALEN);
		memcpy(frame() + 2 * ETH_ALEN, words, 4);
	}
	skb.vlan_present = 1;
	skb.vlan_proto = proto;
	skb.vlan_tci = tci;
	return 0;
}

static long clone_redirect(struct __sk_buff *s, __u32 ifindex, __u64 flags)
{
	(void)s;
	(void)flags;
	FUZZ_CHECK(ifindex == EGRESS && !clone_len);
	memcpy(clone, frame(), skb.len);
	clone_len = skb.len;
	return 0;
}

static long redirect(__u32 ifindex, __u64 flags)
{
	(void)flags;
	FUZZ_CHECK(ifindex == EGRESS);
	return TC_ACT_REDIRECT;
}

static __u64 clock_ns(void)
{
	return 1000000000;
}

/* ---- the maps ---- */

static struct l7mp_flow6_action action;
static struct l7mp_tcp_pair pair;
static struct l7mp_tcp_segment segment;
static struct l7mp_flow_counter counter;
static uint64_t verdict_count;
static uint32_t verdict;

static uint32_t sum_words(const void *at, size_t n, uint16_t flip, uint32_t sum)
{
	uint16_t word;

	for (size_t i = 0; i + 2 <= n; i += 2) {
		memcpy(&word, (const uint8_t *)at + i, 2);
		sum += word ^ flip;
	}
	return sum;
}

static uint16_t fold(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

/* The new addresses are the old ones with other bits. */
static uint32_t change(const uint8_t *old, uint8_t *new, size_t n)
{
	for (size_t i = 0; i < n; i++)
		new[i] = old[i] ^ (uint8_t)(0x5a + i);
	return sum_words(new, n, 0, sum_words(old, n, 0xffff, 0));
}

/* A flow with this key. */
static struct l7mp_flow_action *make_flow(const __u64 *key, int family)
{
	struct l7mp_flow_action *a = &action.action;
	const uint8_t *addrs = (const uint8_t *)key;
	int kind = l7mp_frame_kind(frame(), frame() + skb.len);
	uint32_t sum;
	uint64_t tags;

	memset(&action, 0, sizeof(action));
	a->version = a->version_end = action.version6 = 7;
	a->in_ifindex = IFINDEX;
	if (family == L7MP_FAMILY_V4) {
		memcpy(&a->key, key, sizeof(a->key));
		sum = change(addrs, a->saddr, 4) + change(addrs + 4, a->daddr, 4);
	} else {
		memcpy(action.match_saddr.bytes, addrs, 16);
		memcpy(action.match_daddr.bytes, addrs + 16, 16);
		memcpy((uint8_t *)&a->key + 8, addrs + 32, 8);
		((uint8_t *)&a->key)[13] = 0; /* the family: see l7mp_flow_other_key */
		sum = change(addrs, action.saddr.bytes, 16) +
		      change(addrs + 16, action.daddr.bytes, 16);
	}
	a->csum_addr = fold(sum);
	a->csum_l3 = fold(fold(sum) + htons(0xfeff));
	a->sport = htons(1234);
	a->dport = htons(5678);
	a->verb = L7MP_VERB_SPLICE;
	a->flags = (scene.has & KEEP_TOS ? L7MP_FLOW_KEEP_TOS : 0) |
	           (scene.has & INGRESS ? L7MP_FLOW_TO_INGRESS : 0);
	a->ifindex = EGRESS;
	a->mtu = scene.mtu * 16U;
	memcpy(a->in_mac, frame(), 6);
	memset(a->dmac, 0xee, 6);
	memset(a->smac, 0xcc, 6);
	if (kind >= 0) {
		tags = l7mp_packet_tags(&skb, (const void *)frame(), (__u32)L7MP_KIND_VLANS(kind));
		if (tags != ~0ULL) /* no flow has three tags */
			memcpy(a->in_vlan_proto, &tags, sizeof(tags));
	}
	a->pair = 5;
	a->pair_id = 9;
	a->tos = 0xb8;
	a->dir = scene.has & SECOND ? 1 : 0;
	return a;
}

static void *lookup(void *map, const void *key)
{
	if (map == (void *)&flows4)
		return scene.has & FLOW ? make_flow(key, L7MP_FAMILY_V4) : NULL;
	if (map == (void *)&flows6)
		return scene.has & FLOW ? make_flow(key, L7MP_FAMILY_V6) : NULL;
	if (map == (void *)&tcp_pairs)
		return scene.has & PAIR ? &pair : NULL;
	if (map == (void *)&tcp_segment)
		return &segment;
	if (map == (void *)&counters)
		return &counter;
	FUZZ_CHECK(map == (void *)&verdicts);
	memcpy(&verdict, key, sizeof(verdict));
	FUZZ_CHECK(verdict < L7MP_VERDICT_COUNT);
	return &verdict_count;
}

static void make_pair(void)
{
	for (int i = 0; i < 2; i++) {
		struct l7mp_tcp_direction *d = &pair.dir[i];
		bool me = i == (scene.has & SECOND ? 1 : 0);

		memset(d, 0, sizeof(*d));
		d->seq_delta = me ? scene.delta : -scene.delta;
		d->ack_delta = me ? ~scene.delta : scene.delta + 1;
		d->own_seq = d->seq_max = me ? scene.seq : scene.ack;
		d->own_ack = me ? scene.ack : scene.seq;
		d->ack_max = d->ack_floor = me ? scene.ack + d->ack_delta : scene.seq;
		d->edge = d->ack_floor + 65535;
		d->win = 65535;
		d->win_in = scene.wins & 15;
		d->win_out = scene.wins >> 4;
		d->flags = scene.flags;
		d->seen = scene.seen[i];
	}
	pair.phase = scene.phase % 7;
	pair.id = 9;
}

/* ---- what must hold ---- */

/* Of a frame without tags: are its checksums right? Lengths are those of its IP header. */
static bool sums_right(const uint8_t *at, uint32_t len, int family, bool *known)
{
	const uint8_t *ip = at + ETH_HLEN;
	uint32_t header, total, sum = htons(IPPROTO_TCP);
	uint8_t odd[2] = {0, 0};

	*known = false;
	if (len < ETH_HLEN + 40)
		return false;
	len -= ETH_HLEN;
	header = family == L7MP_FAMILY_V4 ? (ip[0] & 15U) * 4 : 40;
	total = family == L7MP_FAMILY_V4 ? ip[2] << 8U | ip[3] : 40 + (ip[4] << 8U | ip[5]);
	if (total > len || total < header + 20)
		return false;
	*known = true;
	if (family == L7MP_FAMILY_V4 && fold(sum_words(ip, header, 0, 0)) != 0xffff)
		return false;
	sum = family == L7MP_FAMILY_V4 ? sum_words(ip + 12, 8, 0, sum)
	                               : sum_words(ip + 8, 32, 0, sum);
	sum += htons((uint16_t)(total - header));
	sum = sum_words(ip + header, total - header, 0, sum);
	if (total % 2) {
		odd[0] = ip[total - 1];
		sum = sum_words(odd, 2, 0, sum);
	}
	return fold(sum) == 0xffff;
}

/* A segment with right checksums has them afterwards, whatever was changed in it. */
static void check_sums(const uint8_t *at, uint32_t len, int family, bool were_right)
{
	bool known;
	bool right = sums_right(at, len, family, &known);

	FUZZ_CHECK(!were_right || !known || right);
}

static void start(void)
{
	room = mmap(NULL, 2 * FRAME_MAX, PROT_READ | PROT_WRITE,
	            MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	FUZZ_CHECK(room != MAP_FAILED && (uintptr_t)room >> 32 == 0);
	FUZZ_CHECK(!mprotect(room + FRAME_MAX, FRAME_MAX, PROT_NONE));
	bpf_skb_load_bytes = load;
	bpf_skb_store_bytes = store;
	bpf_l4_csum_replace = replace_csum;
	bpf_csum_diff = diff;
	bpf_skb_change_tail = change_tail;
	bpf_skb_vlan_pop = vlan_pop;
	bpf_skb_vlan_push = vlan_push;
	bpf_clone_redirect = clone_redirect;
	bpf_redirect = redirect;
	bpf_map_lookup_elem = lookup;
	bpf_ktime_get_ns = bpf_ktime_get_coarse_ns = bpf_jiffies64 = clock_ns;
}

static void receive(const uint8_t *data, uint32_t len)
{
	memset(&skb, 0, sizeof(skb));
	skb.data = (uint32_t)(uintptr_t)room + FRAME_MAX - len;
	skb.data_end = skb.data + len;
	skb.len = len;
	memcpy(frame(), data, len);
	skb.ifindex = IFINDEX;
	if (scene.has & TAG) {
		skb.vlan_present = 1;
		skb.vlan_proto = htons(ETH_P_8021Q);
		skb.vlan_tci = scene.delta & 0xffff;
	}
	if (scene.has & GSO) {
		skb.gso_size = 100;
		skb.gso_segs = scene.segments;
	}
}

static void check(const uint8_t *data, uint32_t len, int kind, int rc)
{
	uint32_t l3 = L7MP_KIND_L3(kind) - ETH_HLEN;
	uint8_t plain[FRAME_MAX];
	bool known, right;
	int family = L7MP_KIND_FAMILY(kind);

	memcpy(plain, data, ETH_HLEN);
	memcpy(plain + ETH_HLEN, data + ETH_HLEN + l3, len - ETH_HLEN - l3);
	right = sums_right(plain, len - l3, family, &known);
	if (rc == TC_ACT_REDIRECT) {
		FUZZ_CHECK(verdict == L7MP_VERDICT_FORWARDED && !skb.vlan_present);
		FUZZ_CHECK(skb.len <= len - l3 && frame()[0] == 0xee && frame()[6] == 0xcc);
		check_sums(frame(), skb.len, family, right);
	} else if (verdict == L7MP_VERDICT_TCP_COPIED) {
		FUZZ_CHECK(rc == TC_ACT_UNSPEC && clone_len && !memcmp(frame(), data, 12));
		check_sums(clone, clone_len, family, right);
		/* The original has at most one tag in it when there is one beside. */
		if (l3 == 0 || (l3 == 4 && !(scene.has & TAG)))
			check_sums(frame(), skb.len, family, right);
	} else if (rc == TC_ACT_UNSPEC) {
		FUZZ_CHECK(skb.len == len && !memcmp(frame(), data, len));
		FUZZ_CHECK(skb.vlan_present == !!(scene.has & TAG));
	} else {
		FUZZ_CHECK(rc == TC_ACT_SHOT && verdict > L7MP_VERDICT_TCP_COPIED);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int kind;

	if (!room)
		start();
	if (size < sizeof(scene) || size > sizeof(scene) + FRAME_MAX - 64)
		return 0;
	memcpy(&scene, data, sizeof(scene));
	data += sizeof(scene);
	size -= sizeof(scene);
	clone_len = 0;
	verdict = 0;
	receive(data, (uint32_t)size);
	make_pair();
	kind = l7mp_frame_kind(frame(), frame() + size);
	if (kind < 0)
		return 0;
	check(data, (uint32_t)size, kind, l7mp_splice(&skb, kind));
	return 0;
}
