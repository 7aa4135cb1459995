/* SPDX-License-Identifier: MIT */
#include "frame.h"

#include <string.h>

bool l7mp_ws_code_valid(unsigned code)
{
	if (code >= 3000)
		return code <= 4999;
	return code >= 1000 && code <= 1014 && (code < 1004 || code > 1006);
}

void l7mp_ws_mask(uint8_t *data, size_t n, const uint8_t key[4])
{
	uint64_t k, v;
	size_t i;

	memcpy(&k, key, 4);
	memcpy((uint8_t *)&k + 4, key, 4);
	for (i = 0; i + sizeof(v) <= n; i += sizeof(v)) {
		memcpy(&v, data + i, sizeof(v));
		v ^= k;
		memcpy(data + i, &v, sizeof(v));
	}
	for (; i < n; i++)
		data[i] ^= key[i & 3];
}

size_t l7mp_ws_head_write(uint8_t *end, enum l7mp_ws_opcode opcode, uint64_t len,
                          const uint8_t *key)
{
	size_t width = len < 126 ? 0 : len <= 0xffff ? 2 : 8;
	size_t n = 2 + width + (key ? 4 : 0);
	uint8_t *p = end - n;

	*p++ = (uint8_t)(0x80 | opcode);
	*p++ = (uint8_t)((key ? 0x80 : 0) | (width == 0 ? len : width == 2 ? 126 : 127));
	for (size_t i = width; i > 0; i--)
		*p++ = (uint8_t)(len >> (8 * (i - 1)));
	if (key)
		memcpy(p, key, 4);
	return n;
}
