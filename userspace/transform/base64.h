/* SPDX-License-Identifier: MIT */
/* Base64 (RFC 4648, section 4) by OpenSSL. Private to transform/. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define BASE64_ENCODED(n) (((n) + 2) / 3 * 4)

/* Writes BASE64_ENCODED(len) characters and a final NUL to out. len is below 1 GiB. */
void base64_encode(const void *data, size_t len, char *out);
/*
 * Strict: no white space, complete padding, no stray bits in it. Returns the
 * number of bytes (of which out must hold len / 4 * 3), or -EINVAL.
 */
int base64_decode(const char *text, size_t len, uint8_t *out);
