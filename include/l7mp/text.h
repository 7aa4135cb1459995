/* SPDX-License-Identifier: MIT */
/* UTF-8 (RFC 3629: shortest form, no surrogates, up to U+10FFFF). Any thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The character that `bytes` begin with: its length 1..4 and *out, or 0 when they are not UTF-8 or
 * n is 0.
 */
size_t l7mp_utf8_decode(const void *bytes, size_t n, uint32_t *out);
/* Writes a character that is not a surrogate; returns its length, 1..4. No terminator. */
size_t l7mp_utf8_encode(uint32_t cp, char out[static 4]);
/* Controls, line breaks, bidi overrides, noncharacters: what breaks a line or fools a reader. */
bool l7mp_utf8_unprintable(uint32_t cp);
/* Are all of the bytes UTF-8? */
bool l7mp_utf8_valid(const void *bytes, size_t n);

/* Text that comes in pieces. Begins zeroed; at the end of the text `left` must be 0. */
struct l7mp_utf8_check {
	uint8_t left;   /* bytes of the character under way that are still to come */
	uint8_t lo, hi; /* what the next of them may be */
};
/* Goes on with n bytes. False: they are not UTF-8, whatever follows. */
bool l7mp_utf8_step(struct l7mp_utf8_check *u, const void *bytes, size_t n);
