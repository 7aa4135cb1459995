/* SPDX-License-Identifier: MIT */
/*
 * A recogniser for RFC 8259. cJSON alone is too lenient for texts of strangers: it
 * takes control characters, broken UTF-8, leading zeros and any white space, cuts
 * strings at \u0000 and turns 1e999 into infinity. What passes here, it reads as
 * it was meant.
 */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "l7mp/json.h"
#include "l7mp/util.h"

/* cJSON copies a number into a buffer of 64 bytes. */
#define NUMBER_MAX 63

struct cursor {
	const char *p;
	const char *end;
	int line;
	struct json_scan *scan;
};

__attribute__((format(printf, 2, 3))) static int fail(struct cursor *c, const char *fmt, ...)
{
	va_list ap;

	c->scan->line = c->line;
	if (!c->scan->message_size)
		return -EINVAL;
	va_start(ap, fmt);
	vsnprintf(c->scan->message, c->scan->message_size, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

/* "expected ..., got ..." about the next character. */
static int fail_expected(struct cursor *c, const char *what)
{
	size_t left = (size_t)(c->end - c->p);
	uint32_t cp = 0;
	size_t n = l7mp_utf8_decode(c->p, left, &cp);

	if (!left)
		return fail(c, "expected %s, got the end of the text", what);
	if (!n || l7mp_utf8_unprintable(cp))
		return fail(c, "expected %s, got the byte 0x%02x", what, (unsigned)(uint8_t)*c->p);
	return fail(c, "expected %s, got '%.*s'", what, (int)n, c->p);
}

static void skip_space(struct cursor *c)
{
	for (; c->p < c->end; c->p++) {
		if (*c->p == '\n')
			c->line++;
		else if (*c->p != ' ' && *c->p != '\t' && *c->p != '\r')
			return;
	}
}

static bool next_is(const struct cursor *c, char ch)
{
	return c->p < c->end && *c->p == ch;
}

static bool digit_next(const struct cursor *c)
{
	return c->p < c->end && *c->p >= '0' && *c->p <= '9';
}

static int hex4(struct cursor *c, unsigned *out)
{
	*out = 0;
	for (int i = 0; i < 4; i++, c->p++) {
		char ch = c->p < c->end ? *c->p : '\0';

		if (ch >= '0' && ch <= '9')
			*out = *out << 4 | (unsigned)(ch - '0');
		else if ((ch | 0x20) >= 'a' && (ch | 0x20) <= 'f')
			*out = *out << 4 | (unsigned)((ch | 0x20) - 'a' + 10);
		else
			return fail_expected(c, "four hexadecimal digits after \\u");
	}
	return 0;
}

/* After the backslash. */
static int scan_escape(struct cursor *c)
{
	unsigned unit, low;

	if (c->p < c->end && *c->p && strchr("\"\\/bfnrt", *c->p)) {
		c->p++;
		return 0;
	}
	if (!next_is(c, 'u'))
		return fail_expected(c, "an escape (one of \"\\/bfnrtu after the backslash)");
	c->p++;
	if (hex4(c, &unit))
		return -EINVAL;
	if (!unit)
		return fail(c, "a string with \\u0000 is not supported");
	if (unit < 0xd800 || unit > 0xdfff)
		return 0;
	if (unit >= 0xdc00 || c->end - c->p < 6 || c->p[0] != '\\' || c->p[1] != 'u')
		return fail(c, "\\u%04x is half of a surrogate pair", unit);
	c->p += 2;
	if (hex4(c, &low))
		return -EINVAL;
	if (low < 0xdc00 || low > 0xdfff)
		return fail(c, "\\u%04x is half of a surrogate pair", unit);
	return 0;
}

static int scan_string(struct cursor *c)
{
	c->p++;
	while (c->p < c->end && *c->p != '"') {
		uint8_t ch = (uint8_t)*c->p;
		uint32_t cp;
		size_t n;

		if (ch == '\\') {
			c->p++;
			if (scan_escape(c))
				return -EINVAL;
			continue;
		}
		if (ch < 0x20)
			return fail(c, "control character 0x%02x in a string, or a '\"' is missing",
			            ch);
		n = ch < 0x80 ? 1 : l7mp_utf8_decode(c->p, (size_t)(c->end - c->p), &cp);
		if (!n)
			return fail(c, "invalid UTF-8 in a string (byte 0x%02x)", ch);
		c->p += n;
	}
	if (c->p == c->end)
		return fail(c, "a string has no end");
	c->p++;
	return 0;
}

static int scan_digits(struct cursor *c, const char *where)
{
	if (!digit_next(c))
		return fail_expected(c, where);
	while (digit_next(c))
		c->p++;
	return 0;
}

static int scan_number(struct cursor *c)
{
	const char *start = c->p;
	bool exponent = false;
	size_t len;

	if (*c->p == '-')
		c->p++;
	if (next_is(c, '0')) {
		c->p++;
		if (digit_next(c))
			return fail(c, "a number begins with a 0");
	} else if (scan_digits(c, "a digit")) {
		return -EINVAL;
	}
	if (next_is(c, '.')) {
		c->p++;
		if (scan_digits(c, "a digit after the decimal point"))
			return -EINVAL;
	}
	if (next_is(c, 'e') || next_is(c, 'E')) {
		exponent = true;
		c->p++;
		if (next_is(c, '+') || next_is(c, '-'))
			c->p++;
		if (scan_digits(c, "a digit in the exponent"))
			return -EINVAL;
	}
	len = (size_t)(c->p - start);
	if (len > NUMBER_MAX)
		return fail(c, "a number has more than %d characters", NUMBER_MAX);
	if (exponent) {
		char text[NUMBER_MAX + 1];

		memcpy(text, start, len);
		text[len] = '\0';
		if (isinf(strtod(text, NULL)))
			return fail(c, "the number %s is out of range", text);
	}
	return 0;
}

static int scan_literal(struct cursor *c)
{
	static const char *const words[] = {"true", "false", "null"};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(words); i++) {
		size_t n = strlen(words[i]);

		if ((size_t)(c->end - c->p) >= n && !memcmp(c->p, words[i], n)) {
			c->p += n;
			return 0;
		}
	}
	return fail_expected(c, "a value");
}

static int scan_value(struct cursor *c, int line, int depth);

/* A member's key and the colon; *line becomes the key's. */
static int scan_key(struct cursor *c, int *line)
{
	if (!next_is(c, '"'))
		return fail_expected(c, "a key in double quotes");
	*line = c->line;
	if (scan_string(c))
		return -EINVAL;
	skip_space(c);
	if (!next_is(c, ':'))
		return fail_expected(c, "':' after the key");
	c->p++;
	skip_space(c);
	return 0;
}

static int scan_container(struct cursor *c, int depth)
{
	bool object = *c->p++ == '{';
	char close = object ? '}' : ']';

	if (depth > L7MP_JSON_DEPTH)
		return fail(c, "nested deeper than %d levels", L7MP_JSON_DEPTH);
	skip_space(c);
	if (next_is(c, close)) {
		c->p++;
		return 0;
	}
	for (;;) {
		int line = c->line;

		if (object && scan_key(c, &line))
			return -EINVAL;
		if (scan_value(c, line, depth))
			return -EINVAL;
		skip_space(c);
		if (next_is(c, close)) {
			c->p++;
			return 0;
		}
		if (!next_is(c, ','))
			return fail_expected(c, object ? "',' or '}'" : "',' or ']'");
		c->p++;
		skip_space(c);
	}
}

/* `line` is where the node begins: at its key, when it has one. */
static int scan_value(struct cursor *c, int line, int depth)
{
	if (c->scan->lines && c->scan->nodes < c->scan->lines_max)
		c->scan->lines[c->scan->nodes] = (uint32_t)line;
	if (++c->scan->nodes > L7MP_JSON_VALUES)
		return fail(c, "more than %d values", L7MP_JSON_VALUES);
	if (c->p == c->end)
		return fail_expected(c, "a value");
	switch (*c->p) {
	case '{':
	case '[':
		return scan_container(c, depth + 1);
	case '"':
		return scan_string(c);
	case '-':
	case '0' ... '9':
		return scan_number(c);
	default:
		return scan_literal(c);
	}
}

int json_scan(struct json_scan *scan, const char *text, size_t len)
{
	struct cursor c = {.p = text, .end = text + len, .line = 1, .scan = scan};

	scan->nodes = 0;
	skip_space(&c);
	if (scan_value(&c, c.line, 0))
		return -EINVAL;
	skip_space(&c);
	if (c.p != c.end)
		return fail_expected(&c, "nothing after the value");
	return 0;
}
