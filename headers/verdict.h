/* SPDX-License-Identifier: MIT */
/* Every packet that a program sees is counted under exactly one verdict. */
#pragma once

#include "maps.h"

static __always_inline void l7mp_count_verdict(__u32 verdict)
{
	__u64 *n = bpf_map_lookup_elem(&verdicts, &verdict);

	if (n)
		*n += 1; /* per CPU: no other writer */
}
