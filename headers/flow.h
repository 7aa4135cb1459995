/* SPDX-License-Identifier: MIT */
/*
 * Finds a packet's flow, and checks that the data read from it is consistent and belongs to the
 * packet's flow. The look-up alone does not guarantee this: when an entry is deleted, or replaced
 * by an update, the kernel reuses its memory at once, while a program may still read it.
 *
 * A program reads the value in three steps:
 *
 *  1. l7mp_flow_begin: `version` and `version_end` are equal, so no write was in progress.
 *  2. It copies all fields that it needs.
 *  3. l7mp_flow_replaced: compares the key, then both versions again. If they are unchanged, the
 *  copy is of one value, and that value belongs to the packet's flow.
 *
 * The kernel copies a value as one block, upwards or downwards depending on the CPU and on the
 * addresses. Upwards, a write that touches a field in step 2 has changed `version` and then the key
 * before; downwards, `version_end`. So step 3 detects it in both cases. All written values have
 * different versions, so that an entry which is replaced twice is detected, too. In doubt the
 * packet is passed to the stack: verdict `stale`. The part of an IPv6 flow after version_end is
 * followed by a third version, `version6`, which is checked in the same way.
 */
#pragma once

#include "maps.h"
#include "parse.h"
#include "words.h"

/* The words with a value's versions, as of the beginning of the read. */
struct l7mp_flow_read {
	__u64 head;  /* version, in_ifindex */
	__u64 tail;  /* slot, version_end */
	__u64 tail6; /* padding, version6; IPv6 only */
};

/* Returns the flow of a packet, or NULL. `family` is a constant, as everywhere here. */
static __always_inline const struct l7mp_flow_action *l7mp_flow_find(const struct l7mp_packet *p,
                                                                     const __u8 family)
{
	return family == L7MP_FAMILY_V4 ? bpf_map_lookup_elem(&flows4, &p->key4)
	                                : bpf_map_lookup_elem(&flows6, &p->key6);
}

static __always_inline const volatile __u64 *l7mp_flow_head(const struct l7mp_flow_action *a)
{
	return (const volatile __u64 *)&a->version;
}

static __always_inline const volatile __u64 *l7mp_flow_tail(const struct l7mp_flow_action *a)
{
	return (const volatile __u64 *)&a->slot;
}

static __always_inline const volatile __u64 *l7mp_flow_tail6(const struct l7mp_flow_action *a)
{
	return (const volatile __u64 *)&((const struct l7mp_flow6_action *)a)->pad;
}

/* Returns 0 when the value is being written. */
static __always_inline int l7mp_flow_begin(const struct l7mp_flow_action *a,
                                           struct l7mp_flow_read *rd, const __u8 family)
{
	__u32 differ;

	rd->head = *l7mp_flow_head(a);
	rd->tail = *l7mp_flow_tail(a);
	differ = L7MP_FIRST32(rd->head) ^ L7MP_SECOND32(rd->tail);
	rd->tail6 = 0;
	if (family == L7MP_FAMILY_V6) {
		rd->tail6 = *l7mp_flow_tail6(a);
		differ |= L7MP_FIRST32(rd->head) ^ L7MP_SECOND32(rd->tail6);
	}
	/* Prevents the compiler from moving reads of the value before this point. */
	__asm__ volatile("" ::: "memory");
	return !differ;
}

/* Whether the value's copy of the key differs from the packet's key. */
static __always_inline __u64 l7mp_flow_other_key(const struct l7mp_flow_action *a,
                                                 const __u64 key_words[5], const __u8 family)
{
	const volatile __u64 *key = (const volatile __u64 *)&a->key, *key6;
	__u64 differ;

	if (family == L7MP_FAMILY_V4)
		return (key[0] ^ key_words[0]) | (key[1] ^ key_words[1]);
	key6 = (const volatile __u64 *)&((const struct l7mp_flow6_action *)a)->match_saddr;
	differ = key[1] ^ L7MP_WORD64(0, L7MP_KEY_TAIL(0, L7MP_FAMILY_V6)) ^ key_words[4];
	for (int i = 0; i < 4; i++)
		differ |= key6[i] ^ key_words[i];
	return differ;
}

/*
 * Returns 1 when the data read since l7mp_flow_begin may be of another flow. `key_words` is the
 * packet's key. The reads are volatile, so that they stay in order.
 */
static __always_inline int l7mp_flow_replaced(const struct l7mp_flow_action *a,
                                              const struct l7mp_flow_read *rd,
                                              const __u64 key_words[5], const __u8 family)
{
	__u64 differ;

	__asm__ volatile("" ::: "memory");
	differ = l7mp_flow_other_key(a, key_words, family);
	differ |= *l7mp_flow_head(a) ^ rd->head;
	differ |= *l7mp_flow_tail(a) ^ rd->tail;
	if (family == L7MP_FAMILY_V6)
		differ |= *l7mp_flow_tail6(a) ^ rd->tail6;
	return differ != 0;
}

/* Returns a flow's counter, for a value that l7mp_flow_replaced has validated. */
static __always_inline struct l7mp_flow_counter *l7mp_flow_counter(const struct l7mp_flow_read *rd)
{
	__u64 slot = L7MP_WORD64(L7MP_FIRST32(rd->tail), 0);

	return bpf_map_lookup_elem(&counters, &slot);
}
