/* SPDX-License-Identifier: MIT */
#include "base64.h"

#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_encode(const void *data, size_t len, char *out)
{
	EVP_EncodeBlock((unsigned char *)out, data, (int)len);
}

int base64_decode(const char *text, size_t len, uint8_t *out)
{
	size_t pad = 0;
	int n;

	if (len % 4 || len > INT_MAX)
		return -EINVAL;
	while (pad < 2 && pad < len && text[len - 1 - pad] == '=')
		pad++;
	/* OpenSSL trims white space, takes '=' anywhere and ignores the bits that padding leaves over. */
	if (pad) {
		char last = text[len - 1 - pad];
		const char *at = last ? strchr(alphabet, last) : NULL;

		if (!at || ((at - alphabet) & (pad == 1 ? 3 : 15)))
			return -EINVAL;
	}
	for (size_t i = 0; i < len - pad; i++)
		if (text[i] == '=' || (unsigned char)text[i] <= ' ')
			return -EINVAL;
	n = len ? EVP_DecodeBlock(out, (const unsigned char *)text, (int)len) : 0;
	return n < 0 ? -EINVAL : n - (int)pad;
}
