/* SPDX-License-Identifier: MIT */
/*
 * Hash tables by uthash and lists by utlist. The hash function is xxHash with a random seed that is
 * drawn at start, so that a peer can't choose colliding keys. Include this header, never <uthash.h>
 * itself.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Hashes with the seed of this process: for hash tables. Thread: any. */
uint64_t l7mp_hash(const void *data, size_t len);
/* Hashes with a given seed, the same in every process: for consistent hashing. Thread: any. */
uint64_t l7mp_hash_stable(const void *data, size_t len, uint64_t seed);

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = (unsigned)l7mp_hash((keyptr), (keylen)))
/* Out of memory: uthash would call exit(-1). With this a failed insertion leaves hh.tbl NULL. */
#define HASH_NONFATAL_OOM 1

#include <uthash.h>
#include <utlist.h>

/*
 * The longest chain before a table grows. uthash's 10 means three entries a chain, each of them a
 * cache miss for each datagram; with 6 it is one or less.
 */
#undef HASH_BKT_CAPACITY_THRESH
#define HASH_BKT_CAPACITY_THRESH 6U
