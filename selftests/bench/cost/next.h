/* SPDX-License-Identifier: MIT */
/*
 * A test run repeats a program on the same bytes. The measured programs make them the next packet
 * first, as a NIC would hand it over: of another flow, not known from the one before, its TTL as it
 * was. What that costs is the row "next"; their references don't do it.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_helpers.h>

struct walk {
	__u32 at;   /* the flow, of a linear congruential generator that goes through all of them */
	__u32 mask; /* their number, a power of two, less one */
	__u8 set;
	__u8 pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct walk);
} walks SEC(".maps");

/* As flow_packet() of bpf_cost.c makes them. */
static __always_inline void next_packet(void *data, void *end)
{
	struct ethhdr *eth = data;
	__u8 *ip = (__u8 *)(eth + 1);
	__u32 zero = 0, i;
	struct walk *w = bpf_map_lookup_elem(&walks, &zero);

	if (!w || (void *)(ip + 28) > end)
		return;
	i = w->at = (w->at * 1664525 + 1013904223) & w->mask;
	if (ip[0] >> 4 == 4) {
		ip[8] = 64;
		*(__u32 *)(ip + 12) = 10 | w->set << 8 | (i >> 16) << 16 | (i >> 8) << 24;
		*(__u32 *)(ip + 16) = 10 | 1 << 24;
		*(__u32 *)(ip + 20) = __builtin_bswap32((1024 + (i & 0xff)) << 16 | 10000);
		return;
	}
	if ((void *)(ip + 48) > end)
		return;
	ip[7] = 64;
	*(__u32 *)(ip + 8) = 10 | w->set << 8 | (i >> 16) << 16 | (i >> 8) << 24;
	*(__u32 *)(ip + 20) = 9 << 24;
	*(__u32 *)(ip + 24) = 10 | 1 << 24;
	*(__u32 *)(ip + 36) = 9 << 24;
	*(__u32 *)(ip + 40) = __builtin_bswap32((1024 + (i & 0xff)) << 16 | 10000);
}
