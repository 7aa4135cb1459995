/* SPDX-License-Identifier: MIT */
/* UTF-8 (RFC 3629): one decoder, one encoder, one incremental checker. */
#include "l7mp/text.h"

#include <string.h>

size_t l7mp_utf8_decode(const void *bytes, size_t n, uint32_t *out)
{
	static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
	const uint8_t *s = bytes;
	uint32_t cp;
	size_t len;

	if (!n)
		return 0;
	if (s[0] < 0x80) {
		*out = s[0];
		return 1;
	}
	len = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
	if (s[0] < 0xc2 || s[0] > 0xf4 || n < len)
		return 0;
	cp = s[0] & (0x7fu >> len);
	for (size_t i = 1; i < len; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		cp = cp << 6 | (s[i] & 0x3f);
	}
	if (cp < smallest[len] || cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
		return 0;
	*out = cp;
	return len;
}

bool l7mp_utf8_unprintable(uint32_t cp)
{
	return cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || /* C0, DEL, C1 */
	       (cp >= 0x2028 && cp <= 0x202e) ||         /* line breaks, bidi embedding */
	       (cp >= 0x2066 && cp <= 0x2069) ||         /* bidi isolates */
	       cp == 0xfeff || (cp & 0xfffe) == 0xfffe;  /* BOM, noncharacters */
}

size_t l7mp_utf8_encode(uint32_t cp, char out[static 4])
{
	size_t n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;

	for (size_t i = n - 1; i > 0; i--) {
		out[i] = (char)(0x80 | (cp & 0x3f));
		cp >>= 6;
	}
	out[0] = n == 1 ? (char)cp : (char)(0xf00u >> n | cp);
	return n;
}

/* Begins a character with its first byte b. False: no character begins so. */
static bool utf8_begin(struct l7mp_utf8_check *u, uint8_t b)
{
	u->lo = 0x80;
	u->hi = 0xbf;
	if (b < 0x80) {
		u->left = 0;
	} else if (b >= 0xc2 && b <= 0xdf) {
		u->left = 1;
	} else if (b >= 0xe0 && b <= 0xef) {
		u->left = 2;
		if (b == 0xe0)
			u->lo = 0xa0; /* shorter forms exist */
		else if (b == 0xed)
			u->hi = 0x9f; /* surrogates */
	} else if (b >= 0xf0 && b <= 0xf4) {
		u->left = 3;
		if (b == 0xf0)
			u->lo = 0x90;
		else if (b == 0xf4)
			u->hi = 0x8f; /* beyond U+10FFFF */
	} else {
		return false;
	}
	return true;
}

bool l7mp_utf8_step(struct l7mp_utf8_check *u, const void *bytes, size_t n)
{
	const uint8_t *s = bytes;

	while (n) {
		uint64_t eight;

		if (!u->left && n >= sizeof(eight)) { /* eight ASCII characters at once */
			memcpy(&eight, s, sizeof(eight));
			if (!(eight & 0x8080808080808080u)) {
				s += sizeof(eight);
				n -= sizeof(eight);
				continue;
			}
		}
		if (!u->left) {
			if (!utf8_begin(u, *s))
				return false;
		} else {
			if (*s < u->lo || *s > u->hi)
				return false;
			u->left--;
			u->lo = 0x80;
			u->hi = 0xbf;
		}
		s++;
		n--;
	}
	return true;
}

bool l7mp_utf8_valid(const void *bytes, size_t n)
{
	struct l7mp_utf8_check u = {0};

	return l7mp_utf8_step(&u, bytes, n) && !u.left;
}
