/* SPDX-License-Identifier: MIT */
/* Flow look-up and its guard. Used by the programs and, for the tag, by user space. */
#pragma once

#include "l7mp/abi.h"

/*
 * A word made of the whole key, also kept in the action. The kernel gives the memory of an element
 * that was deleted, or replaced by an update, to the next one at once, while a program may still
 * read it. So a program looks at the tag when it has found the flow, takes all that it needs, and
 * looks again (l7mp_replaced) before it changes anything: the tag is what the kernel writes first,
 * so if it still fits, nothing that was read is another flow's. Otherwise the packet goes up.
 */
static inline __attribute__((always_inline)) __u32 l7mp_match_tag(const struct l7mp_flow_key *key,
                                                                  const __u8 family)
{
	const __u32 *w = (const __u32 *)key;
	__u32 tag = w[8] ^ w[9];

	if (family == L7MP_FAMILY_V4)
		return tag ^ w[0] ^ ((w[4] << 7) | (w[4] >> 25));
		/*
		 * Not a loop: the verifier takes constant offsets only, whatever the compiler
		 * thinks of unrolling.
		 */
#define L7MP_MIX(i) (w[i] ^ ((w[4 + (i)] << (7 + (i))) | (w[4 + (i)] >> (25 - (i)))))
	tag ^= L7MP_MIX(0) ^ L7MP_MIX(1) ^ L7MP_MIX(2) ^ L7MP_MIX(3);
#undef L7MP_MIX
	return tag;
}

static inline __attribute__((always_inline)) int l7mp_replaced(const struct l7mp_flow_action *a,
                                                               __u32 tag)
{
	/* The compiler must not read anything of the action after this. */
	__asm__ volatile("" ::: "memory");
	return *(const volatile __u32 *)&a->match_tag != tag;
}
