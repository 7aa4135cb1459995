/* SPDX-License-Identifier: MIT */
/*
 * Values on the stack are written in 64-bit words. The flow key, because the map compares it in
 * such words: a load that spans two smaller stores has to wait for both. Each word is complete, so
 * nothing has to be zeroed before. Keys of 32 bits, because before 6.2, without CAP_PERFMON, the
 * verifier does not let less than 64 bits be stored where a pointer was kept before.
 */
#pragma once

#include <linux/types.h>

/* Values that follow each other in memory, put into a word and taken out of it. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define L7MP_WORD32(first, second)        ((__u32)(first) | (__u32)(second) << 16)
#define L7MP_WORD64(first, second)        ((__u64)(first) | (__u64)(second) << 32)
#define L7MP_FIRST32(word)                ((__u32)(word))
#define L7MP_SECOND32(word)               ((__u32)((word) >> 32))
#define L7MP_KEY_TAIL(l4, family)         ((__u32)(l4) | (__u32)(family) << 8)
#define L7MP_FRAME_TAIL(l4, family, type) (L7MP_KEY_TAIL(l4, family) | (__u32)(type) << 16)
#else
#define L7MP_WORD32(first, second)        ((__u32)(first) << 16 | (__u32)(second))
#define L7MP_WORD64(first, second)        ((__u64)(first) << 32 | (__u64)(second))
#define L7MP_FIRST32(word)                ((__u32)((word) >> 32))
#define L7MP_SECOND32(word)               ((__u32)(word))
#define L7MP_KEY_TAIL(l4, family)         ((__u32)(l4) << 24 | (__u32)(family) << 16)
#define L7MP_FRAME_TAIL(l4, family, type) (L7MP_KEY_TAIL(l4, family) | (__u32)(type))
#endif
