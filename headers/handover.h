/* SPDX-License-Identifier: MIT */
/*
 * Holds the packets of a new flow back while user space may still have earlier ones: see
 * l7mp_handover in abi.h.
 */
#pragma once

#include "maps.h"
#include "words.h"

/*
 * Returns 1: pass the packet to the stack, because it would overtake others; 0: the flow is active.
 * The index may be that of a flow whose value is being written: then the other flow begins slightly
 * later.
 */
static __always_inline int l7mp_handover_waits(const struct l7mp_flow_action *a)
{
	__u64 slot = L7MP_WORD64(a->handover, 0);
	volatile struct l7mp_handover *h;

	if (!(a->flags & L7MP_FLOW_HANDOVER))
		return 0;
	h = bpf_map_lookup_elem(&handover, &slot);
	if (!h || h->passed == h->relayed)
		return 0;
	__sync_fetch_and_add((__u64 *)&h->passed, 1);
	return 1;
}
