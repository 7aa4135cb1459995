/* SPDX-License-Identifier: MIT */
/*
 * Hash tables are uthash's, lists are utlist's, hashing is xxHash's with a
 * seed drawn at start, so that a peer can't choose colliding keys. Include this
 * header, never <uthash.h> itself.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

uint64_t l7mp_hash(const void *data, size_t len); /* seeded: for tables */
uint64_t l7mp_hash_stable(const void *data, size_t len,
                          uint64_t seed); /* the same in every process: for consistent hashing */

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = (unsigned)l7mp_hash((keyptr), (keylen)))
/* Report instead of exit(-1): the caller sees a failed insertion as hh.tbl == NULL. */
#define HASH_NONFATAL_OOM 1

#include <uthash.h>
#include <utlist.h>
