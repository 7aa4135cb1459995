/* SPDX-License-Identifier: MIT */
/* Every packet that a program sees is counted under exactly one verdict. */
#pragma once

#include "maps.h"
#include "words.h"

static __always_inline void l7mp_count_verdict(__u32 verdict)
{
	__u64 key = L7MP_WORD64(verdict, 0);
	__u64 *n = bpf_map_lookup_elem(&verdicts, &key);

	if (n)
		*n += 1; /* per CPU: no other writer */
}
