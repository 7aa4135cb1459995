/* SPDX-License-Identifier: MIT */
/*
 * What lies on the stack is written in 64-bit words. Of the flow key because that is how the map
 * compares it: a load that spans two smaller stores has to wait for both; each word is complete, so
 * nothing has to be zeroed before. Of keys of 32 bits because before 6.2, without CAP_PERFMON, the
 * verifier does not let less be stored where a pointer was kept before.
 */
#pragma once

#include <linux/types.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define L7MP_WORD64(first, second) ((__u64)(first) | (__u64)(second) << 32)
#define L7MP_KEY_TAIL(l4, family)  ((__u32)(l4) | (__u32)(family) << 8)
#else
#define L7MP_WORD64(first, second) ((__u64)(first) << 32 | (__u64)(second))
#define L7MP_KEY_TAIL(l4, family)  ((__u32)(l4) << 24 | (__u32)(family) << 16)
#endif
