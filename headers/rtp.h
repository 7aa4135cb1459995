/* SPDX-License-Identifier: MIT */
/*
 * Statistics of RTP flows, for packets that have been forwarded: the payload is then the end of the
 * packet, whatever was changed in its headers.
 */
#pragma once

#include "maps.h"
#include "rewrite.h"

#define L7MP_RTP_SEGMENTS 64 /* of a GSO packet, at most: UDP_MAX_SEGMENTS */

/* Where a flow's statistics are; read between l7mp_flow_begin and l7mp_flow_replaced. */
static __always_inline __u32 l7mp_rtp_index(const struct l7mp_flow_action *a)
{
	return *(const volatile __u32 *)&a->pair;
}

static __always_inline int l7mp_is_rtp(const struct l7mp_flow_action *a)
{
	return *(const volatile __u16 *)&a->flags & L7MP_FLOW_RTP;
}

static __always_inline struct l7mp_rtp *l7mp_rtp_of(__u32 index)
{
	__u64 key = L7MP_WORD64(index, 0);

	return bpf_map_lookup_elem(&rtp, &key);
}
