/* SPDX-License-Identifier: MIT */
/*
 * The type names of draft-snell-json-test-07, section 2.2 "type": dates (RFC 3339), languages (RFC
 * 5646, 4647) and IRIs (RFC 3987).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "predicate_int.h"

static const char *const names[L7MP_PTYPES] = {
        [L7MP_PTYPE_NUMBER] = "number",
        [L7MP_PTYPE_STRING] = "string",
        [L7MP_PTYPE_BOOLEAN] = "boolean",
        [L7MP_PTYPE_OBJECT] = "object",
        [L7MP_PTYPE_ARRAY] = "array",
        [L7MP_PTYPE_NULL] = "null",
        [L7MP_PTYPE_UNDEFINED] = "undefined",
        [L7MP_PTYPE_DATE] = "date",
        [L7MP_PTYPE_TIME] = "time",
        [L7MP_PTYPE_DATE_TIME] = "date-time",
        [L7MP_PTYPE_LANG] = "lang",
        [L7MP_PTYPE_LANG_RANGE] = "lang-range",
        [L7MP_PTYPE_IRI] = "iri",
        [L7MP_PTYPE_ABSOLUTE_IRI] = "absolute-iri",
};

const char *l7mp_ptype_name(enum l7mp_ptype t)
{
	return names[t];
}

int l7mp_ptype_parse(const char *name, enum l7mp_ptype *out)
{
	for (int t = 0; t < L7MP_PTYPES; t++)
		if (strcmp(names[t], name) == 0) {
			*out = (enum l7mp_ptype)t;
			return 0;
		}
	return -EINVAL;
}

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool alpha(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* ---- dates and times ---- */

/* Parses exactly n digits and advances *s. */
static bool number(const char **s, int n, int *out)
{
	*out = 0;
	for (int i = 0; i < n; i++, (*s)++) {
		if (!digit(**s))
			return false;
		*out = *out * 10 + (**s - '0');
	}
	return true;
}

static bool literal(const char **s, char c)
{
	if (**s != c)
		return false;
	(*s)++;
	return true;
}

/* RFC 3339 full-date. */
static bool full_date(const char **s)
{
	static const int days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	int y, m, d;

	if (!number(s, 4, &y) || !literal(s, '-') || !number(s, 2, &m) || !literal(s, '-') ||
	    !number(s, 2, &d))
		return false;
	if (m < 1 || m > 12 || d < 1 || d > days[m - 1])
		return false;
	return m != 2 || d < 29 || (y % 4 == 0 && (y % 100 != 0 || y % 400 == 0));
}

/* RFC 3339 full-time; second 60 is a leap second. */
static bool full_time(const char **s)
{
	int h, m, sec;

	if (!number(s, 2, &h) || !literal(s, ':') || !number(s, 2, &m) || !literal(s, ':') ||
	    !number(s, 2, &sec) || h > 23 || m > 59 || sec > 60)
		return false;
	if (literal(s, '.')) {
		if (!digit(**s))
			return false;
		while (digit(**s))
			(*s)++;
	}
	if (literal(s, 'Z') || literal(s, 'z'))
		return true;
	if (!literal(s, '+') && !literal(s, '-'))
		return false;
	return number(s, 2, &h) && literal(s, ':') && number(s, 2, &m) && h <= 23 && m <= 59;
}

static bool is_date(const char *s)
{
	return full_date(&s) && !*s;
}

static bool is_time(const char *s)
{
	return full_time(&s) && !*s;
}

static bool is_date_time(const char *s)
{
	return full_date(&s) && (literal(&s, 'T') || literal(&s, 't')) && full_time(&s) && !*s;
}

/* ---- RFC 5646 Language-Tag ---- */

struct subtag {
	const char *s;
	size_t n;
	bool alphas, digits; /* consists only of these */
};

/* Reads the next subtag at *s (1..8 alphanumerics); false when it is malformed or there is none. */
static bool next_subtag(const char **s, struct subtag *t)
{
	*t = (struct subtag){.s = *s, .alphas = true, .digits = true};
	for (; **s && **s != '-'; (*s)++, t->n++) {
		if (!alpha(**s) && !digit(**s))
			return false;
		t->alphas = t->alphas && alpha(**s);
		t->digits = t->digits && digit(**s);
	}
	if (**s == '-') {
		(*s)++;
		if (!**s)
			return false;
	}
	return t->n >= 1 && t->n <= 8;
}

static bool irregular(const char *s)
{
	/* The grandfathered tags that do not match the grammar; no new ones are registered. */
	static const char *const tags[] = {
	        "en-GB-oed", "i-ami", "i-bnn",     "i-default", "i-enochian", "i-hak",
	        "i-klingon", "i-lux", "i-mingo",   "i-navajo",  "i-pwn",      "i-tao",
	        "i-tay",     "i-tsu", "sgn-BE-FR", "sgn-BE-NL", "sgn-CH-DE",  NULL};

	for (const char *const *t = tags; *t; t++)
		if (strcasecmp(*t, s) == 0)
			return true;
	return false;
}

/* Whether at least one subtag follows, and all remaining ones have min..8 characters. */
static bool rest_of(const char *s, size_t min)
{
	struct subtag t;

	if (!*s)
		return false;
	while (*s)
		if (!next_subtag(&s, &t) || t.n < min)
			return false;
	return true;
}

static bool is_singleton(const struct subtag *t)
{
	return t->n == 1 && *t->s != 'x' && *t->s != 'X';
}

/* Accepts extlang, script, region and variants, in this order, each once (variants: any number). */
static bool middle(const struct subtag *t, int *stage, int *extlangs)
{
	if (*stage == 0 && t->n == 3 && t->alphas && (*extlangs)++ < 3)
		return true;
	if (*stage <= 0 && t->n == 4 && t->alphas) {
		*stage = 1;
		return true;
	}
	if (*stage <= 1 && ((t->n == 2 && t->alphas) || (t->n == 3 && t->digits))) {
		*stage = 2;
		return true;
	}
	*stage = 2;
	return t->n >= 5 || (t->n == 4 && digit(*t->s));
}

static bool is_lang(const char *s)
{
	struct subtag t;
	int stage = 0, extlangs = 0;
	bool in_extension = false;
	size_t in_this = 0;

	if (irregular(s))
		return true;
	if (!next_subtag(&s, &t))
		return false;
	if (t.n == 1 && (*t.s == 'x' || *t.s == 'X'))
		return rest_of(s, 1);
	if (t.n < 2 || !t.alphas)
		return false;
	if (t.n > 3)
		extlangs = 3; /* only languages of two or three letters can have extlangs */
	while (*s) {
		if (!next_subtag(&s, &t))
			return false;
		if (t.n == 1) {
			if (in_extension && !in_this)
				return false;
			if (!is_singleton(&t))
				return rest_of(s, 1);
			in_extension = true;
			in_this = 0;
		} else if (in_extension) {
			in_this++;
		} else if (!middle(&t, &stage, &extlangs)) {
			return false;
		}
	}
	return !in_extension || in_this;
}

/* RFC 4647 language-range, basic and extended ("de-*-DE"). */
static bool is_lang_range(const char *s)
{
	bool first = true;

	do {
		size_t n = strcspn(s, "-");

		if (n == 1 && *s == '*') {
			s += n;
		} else {
			if (n < 1 || n > 8)
				return false;
			for (; n; n--, s++)
				if (!alpha(*s) && (first || !digit(*s)))
					return false;
		}
		first = false;
	} while (*s == '-' && *++s);
	return !*s && s[-1] != '-';
}

/* ---- IRIs by the grammar of RFC 3987, section 2.2 ---- */

static bool hex(char c)
{
	return digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Decodes a code point. Returns its length; 0: malformed, overlong or a surrogate. */
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

/* Parses "[2001:db8::1]" or "[v1.x]" and advances *s. */
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

/* Returns the length of the scheme without its colon; 0: no scheme. */
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

/* The type "absolute-iri". */
static bool is_iri(const char *s)
{
	size_t n = scheme(s);

	return n && reference(s + n + 1, true);
}

/* The type "iri". */
static bool is_iri_reference(const char *s)
{
	return is_iri(s) || reference(s, false);
}

bool l7mp_ptype_is(enum l7mp_ptype t, const cJSON *node)
{
	const char *text = cJSON_IsString(node) ? node->valuestring : NULL;

	switch (t) {
	case L7MP_PTYPE_UNDEFINED:
		return !node;
	case L7MP_PTYPE_NUMBER:
		return cJSON_IsNumber(node);
	case L7MP_PTYPE_STRING:
		return text != NULL;
	case L7MP_PTYPE_BOOLEAN:
		return cJSON_IsBool(node);
	case L7MP_PTYPE_OBJECT:
		return cJSON_IsObject(node);
	case L7MP_PTYPE_ARRAY:
		return cJSON_IsArray(node);
	case L7MP_PTYPE_NULL:
		return cJSON_IsNull(node);
	case L7MP_PTYPE_DATE:
		return text && is_date(text);
	case L7MP_PTYPE_TIME:
		return text && is_time(text);
	case L7MP_PTYPE_DATE_TIME:
		return text && is_date_time(text);
	case L7MP_PTYPE_LANG:
		return text && is_lang(text);
	case L7MP_PTYPE_LANG_RANGE:
		return text && is_lang_range(text);
	case L7MP_PTYPE_IRI:
		return text && is_iri_reference(text);
	case L7MP_PTYPE_ABSOLUTE_IRI:
		return text && is_iri(text);
	case L7MP_PTYPES:
		break;
	}
	return false;
}
