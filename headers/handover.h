/* SPDX-License-Identifier: MIT */
/*
 * The first packets of a flow, whose predecessors user space may still hold: see l7mp_handover in
 * abi.h.
 */
#pragma once

#include "maps.h"
#include "words.h"

/* 1: pass the packet up, it must not overtake; 0: the flow has begun. */
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
