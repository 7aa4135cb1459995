/* SPDX-License-Identifier: MIT */
/*
 * Is what was read of a flow one value, and that of the packet's flow? The look-up alone does not
 * say so: when an entry is deleted, or replaced by an update, the kernel gives its memory to the
 * next one at once, while a program may still read it.
 *
 * A program reads the value in three steps:
 *
 *   1. l7mp_flow_begin: `version` and `version_end` are equal, so no write was half done then.
 *   2. It copies all that it needs.
 *   3. l7mp_flow_replaced: the key, then both versions once more. If they are what they were, the
 *      copy is of one value, and that value belongs to the packet's flow.
 *
 * The kernel copies a value as one block, upwards or downwards depending on the processor and on
 * the addresses. Upwards, a write that touches a field in step 2 has changed `version` and then the
 * key before; downwards, `version_end`. So step 3 sees it in both cases. No two values that are
 * written have the same version, so that an entry which is replaced twice is noticed, too. Whenever
 * there is a doubt the packet goes up: verdict `stale`.
 */
#pragma once

#include "maps.h"
#include "words.h"

/* The words at both ends of a value, as they were when its reading began. */
struct l7mp_flow_read {
	__u64 head; /* version, in_ifindex */
	__u64 tail; /* handover, tos, dir, version_end */
};

static __always_inline const volatile __u64 *l7mp_flow_head(const struct l7mp_flow_action *a)
{
	return (const volatile __u64 *)&a->version;
}

static __always_inline const volatile __u64 *l7mp_flow_tail(const struct l7mp_flow_action *a)
{
	return (const volatile __u64 *)&a->handover;
}

/* 0: the value is being written. */
static __always_inline int l7mp_flow_begin(const struct l7mp_flow_action *a,
                                           struct l7mp_flow_read *rd)
{
	rd->head = *l7mp_flow_head(a);
	rd->tail = *l7mp_flow_tail(a);
	/* The compiler must not move reads of the value to a place before this one. */
	__asm__ volatile("" ::: "memory");
	return L7MP_FIRST32(rd->head) == L7MP_SECOND32(rd->tail);
}

/*
 * 1: what was read since l7mp_flow_begin may be of another flow. `key_words` is the packet's key,
 * `family` is constant. The reads are volatile, so that they stay in order.
 */
static __always_inline int l7mp_flow_replaced(const struct l7mp_flow_action *a,
                                              const struct l7mp_flow_read *rd,
                                              const __u64 key_words[5], const __u8 family)
{
	const volatile __u64 *key = (const volatile __u64 *)&a->key;
	__u64 differ;

	__asm__ volatile("" ::: "memory");
	differ = (key[0] ^ key_words[0]) | (key[2] ^ key_words[2]) | (key[4] ^ key_words[4]);
	if (family == L7MP_FAMILY_V6) /* for IPv4 these are zero in every key */
		differ |= (key[1] ^ key_words[1]) | (key[3] ^ key_words[3]);
	differ |= *l7mp_flow_head(a) ^ rd->head;
	differ |= *l7mp_flow_tail(a) ^ rd->tail;
	return differ != 0;
}
