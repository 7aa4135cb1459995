/* SPDX-License-Identifier: MIT */
/*
 * Incremental internet checksums, RFC 1624: HC' = ~(~HC + ~m + m'). The sums of
 * ~old and new are constants of a flow; here they are only added.
 */
#pragma once

#include <linux/types.h>

/* One's-complement sum folded to 16 bits. Two steps suffice for 32 bits of input. */
static __always_inline __u16 l7mp_csum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

/* Adds a delta (a sum of a few folded ones: below 2^31) to a checksum field. */
static __always_inline __u16 l7mp_csum_apply(__u16 check, __u32 delta)
{
	return (__u16)~l7mp_csum_fold((__u16)~check + delta);
}

/*
 * The same for UDP (RFC 768): zero means "no checksum" and stays, a computed
 * zero is sent as all ones.
 */
static __always_inline __u16 l7mp_csum_apply_udp(__u16 check, __u32 delta)
{
	if (check == 0)
		return 0;
	check = l7mp_csum_apply(check, delta);
	return check ? check : 0xffff;
}
