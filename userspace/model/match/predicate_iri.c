/* SPDX-License-Identifier: MIT */
/*
 * IRIs by the grammar of RFC 3987 section 2.2, for the types "iri" (IRI-reference) and
 * "absolute-iri" (IRI).
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <string.h>

#include "predicate_int.h"

static bool alpha(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool hex(char c)
{
	return digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/*
 * Decodes a code point; returns its length, 0 when it is malformed (also for overlong forms and
 * surrogates).
 */
static size_t decode(const char *s, const char *end, uint32_t *cp)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	unsigned char c = (unsigned char)*s;
	size_t n = c >= 0xf0 && c < 0xf8 ? 4 : c >= 0xe0 ? 3 : 2;

	if (c < 0xc0 || c >= 0xf8 || (size_t)(end - s) < n)
		return 0;
	*cp = c & (0x7fu >> n);
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		*cp = *cp << 6 | ((uint32_t)s[i] & 0x3f);
	}
	return *cp < least[n] || (*cp >= 0xd800 && *cp < 0xe000) || *cp > 0x10ffff ? 0 : n;
}

/* Whether this is a ucschar, or, where a query allows it, an iprivate. */
static bool ucs_ok(uint32_t cp, bool private_too)
{
	if (cp < 0xa0 || (cp >= 0xfdd0 && cp <= 0xfdef) || (cp & 0xfffe) == 0xfffe)
		return false;
	if ((cp >= 0xe000 && cp <= 0xf8ff) || cp >= 0xf0000)
		return private_too;
	if (cp >= 0xfff0 && cp <= 0xffff)
		return false;
	return cp < 0xe0000 || cp >= 0xe1000;
}

/* Whether all characters are unreserved, percent-encoded, sub-delims, ucschar or in `also`. */
static bool all_of(const char *s, const char *end, const char *also, bool private_too)
{
	while (s < end) {
		uint32_t cp;
		size_t n = 1;

		if (*s & 0x80) {
			n = decode(s, end, &cp);
			if (!n || !ucs_ok(cp, private_too))
				return false;
		} else if (*s == '%') {
			if (end - s < 3 || !hex(s[1]) || !hex(s[2]))
				return false;
			n = 3;
		} else if (!alpha(*s) && !digit(*s) && !strchr("-._~!$&'()*+,;=", *s) &&
		           !strchr(also, *s)) {
			return false;
		}
		s += n;
	}
	return true;
}

/* Parses "[2001:db8::1]" or "[v1.x]"; moves *s behind the bracket. */
static bool ip_literal(const char **s, const char *end)
{
	const char *close = memchr(*s, ']', (size_t)(end - *s));
	char text[64];
	struct in6_addr raw;
	size_t n;

	if (!close)
		return false;
	n = (size_t)(close - *s) - 1;
	if (n >= sizeof(text))
		return false;
	memcpy(text, *s + 1, n);
	text[n] = 0;
	*s = close + 1;
	if (*text == 'v' || *text == 'V') {
		size_t v = strspn(text + 1, "0123456789abcdefABCDEF");

		return v && text[1 + v] == '.' && text[2 + v] &&
		       all_of(text + 2 + v, text + n, ":", false) && !strchr(text, '%');
	}
	return inet_pton(AF_INET6, text, &raw) == 1;
}

static bool authority(const char *s, const char *end)
{
	const char *at = memchr(s, '@', (size_t)(end - s)), *port;

	if (at) {
		if (!all_of(s, at, ":", false))
			return false;
		s = at + 1;
	}
	if (s < end && *s == '[') {
		if (!ip_literal(&s, end))
			return false;
		port = s;
	} else {
		port = memchr(s, ':', (size_t)(end - s));
		if (!port)
			port = end;
		if (!all_of(s, port, "", false))
			return false;
	}
	if (port < end && *port++ != ':')
		return false;
	while (port < end)
		if (!digit(*port++))
			return false;
	return true;
}

/* Returns the length of the scheme without its colon; 0: there is none. */
static size_t scheme(const char *s)
{
	size_t n = 0;

	if (!alpha(*s))
		return 0;
	while (alpha(s[n]) || digit(s[n]) || s[n] == '+' || s[n] == '-' || s[n] == '.')
		n++;
	return s[n] == ':' ? n : 0;
}

static bool reference(const char *s, bool has_scheme)
{
	const char *end = s + strlen(s);
	const char *hash = memchr(s, '#', (size_t)(end - s)), *query, *path = s;

	if (hash && !all_of(hash + 1, end, ":@/?", false))
		return false;
	end = hash ? hash : end;
	query = memchr(s, '?', (size_t)(end - s));
	if (query && !all_of(query + 1, end, ":@/?", true))
		return false;
	end = query ? query : end;
	if (end - s >= 2 && s[0] == '/' && s[1] == '/') {
		path = memchr(s + 2, '/', (size_t)(end - s - 2));
		if (!path)
			path = end;
		if (!authority(s + 2, path))
			return false;
	} else if (!has_scheme) {
		/* In "a:b" a is a scheme, so a relative path has no colon in its first segment. */
		const char *colon = memchr(s, ':', (size_t)(end - s));

		if (colon && !memchr(s, '/', (size_t)(colon - s)))
			return false;
	}
	return all_of(path, end, ":@/", false);
}

bool l7mp_is_iri(const char *s)
{
	size_t n = scheme(s);

	return n && reference(s + n + 1, true);
}

bool l7mp_is_iri_reference(const char *s)
{
	return l7mp_is_iri(s) || reference(s, false);
}
