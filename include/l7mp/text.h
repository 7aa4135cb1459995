/* SPDX-License-Identifier: MIT */
/* UTF-8 as RFC 3629 defines it: shortest form, no surrogates, up to U+10FFFF. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Decodes the first character into *out. Returns its length, 1..4, or 0 when the bytes are not
 * UTF-8 or n is 0.
 */
size_t l7mp_utf8_decode(const void *bytes, size_t n, uint32_t *out);
/* Encodes a code point that is no surrogate, without terminator. Returns its length, 1..4. */
size_t l7mp_utf8_encode(uint32_t cp, char out[static 4]);
/*
 * Returns whether a character must be escaped in messages: controls, line breaks, overrides of the
 * text direction, noncharacters.
 */
bool l7mp_utf8_unprintable(uint32_t cp);
/* Returns whether all of the bytes are UTF-8. */
bool l7mp_utf8_valid(const void *bytes, size_t n);

/*
 * Checks a text that arrives in pieces. A zeroed one is new; the text is complete when `left` is 0.
 */
struct l7mp_utf8_check {
	uint8_t left;   /* missing bytes of the last character */
	uint8_t lo, hi; /* the range of the next one */
};
/* Checks the next n bytes. Returns false when the text is not UTF-8, whatever follows. */
bool l7mp_utf8_step(struct l7mp_utf8_check *u, const void *bytes, size_t n);
