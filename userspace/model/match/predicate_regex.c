/* SPDX-License-Identifier: MIT */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <errno.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "predicate_int.h"

/*
 * Patterns come from the operator, subjects from peers. The limits bound one
 * evaluation to a few milliseconds and 4 MiB, whatever the two are; no JIT,
 * since its stack is not bounded by them.
 */
#define MATCH_LIMIT   200000
#define DEPTH_LIMIT   20000
#define HEAP_LIMIT_KB 4096
#define PATTERN_MAX   16384

struct l7mp_regex {
	pcre2_code *code;
	pcre2_match_context *ctx;
	pcre2_match_data *data; /* scratch, made once: the loop is the only thread */
};

static uint32_t options(unsigned flags)
{
	/* Peers send bytes that are not UTF-8; those then match nothing but themselves. */
	uint32_t o = PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_DOLLAR_ENDONLY;

	if (flags & L7MP_RE_NOCASE)
		o |= PCRE2_CASELESS;
	if (flags & L7MP_RE_LITERAL) {
		o |= PCRE2_LITERAL;
		o &= ~(uint32_t)PCRE2_DOLLAR_ENDONLY;
	} else {
		o |= PCRE2_NEVER_BACKSLASH_C;
	}
	if (flags & L7MP_RE_BEGIN)
		o |= PCRE2_ANCHORED;
	if (flags & L7MP_RE_END)
		o |= PCRE2_ENDANCHORED;
	return o;
}

int l7mp_regex_compile(const char *pattern, unsigned flags, struct l7mp_regex **out, char *message,
                       size_t size)
{
	struct l7mp_regex *re;
	size_t offset = 0, len = strlen(pattern);
	int err = 0;

	*out = NULL;
	if (len > PATTERN_MAX) {
		snprintf(message, size, "longer than %d bytes", PATTERN_MAX);
		return -EINVAL;
	}
	re = calloc(1, sizeof(*re));
	if (!re)
		goto no_memory;
	re->code = pcre2_compile((PCRE2_SPTR)pattern, len, options(flags), &err, &offset, NULL);
	if (!re->code) {
		PCRE2_UCHAR text[128];

		pcre2_get_error_message(err, text, sizeof(text));
		snprintf(message, size, "%s at offset %zu", (char *)text, offset);
		free(re);
		return -EINVAL;
	}
	re->ctx = pcre2_match_context_create(NULL);
	re->data = pcre2_match_data_create(1, NULL);
	if (!re->ctx || !re->data)
		goto no_memory;
	pcre2_set_match_limit(re->ctx, MATCH_LIMIT);
	pcre2_set_depth_limit(re->ctx, DEPTH_LIMIT);
	pcre2_set_heap_limit(re->ctx, HEAP_LIMIT_KB);
	*out = re;
	return 0;
no_memory:
	snprintf(message, size, "out of memory");
	l7mp_regex_free(&re);
	return -ENOMEM;
}

bool l7mp_regex_match(const struct l7mp_regex *re, const char *text)
{
	/* 0: matched, but more groups than we keep. Negative: no match, or a limit. */
	return pcre2_match(re->code, (PCRE2_SPTR)text, strlen(text), 0, 0, re->data, re->ctx) >= 0;
}

void l7mp_regex_free(struct l7mp_regex **re)
{
	if (!*re)
		return;
	pcre2_match_data_free((*re)->data);
	pcre2_match_context_free((*re)->ctx);
	pcre2_code_free((*re)->code);
	free(*re);
	*re = NULL;
}

static int fold(char c)
{
	return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : (unsigned char)c;
}

/* Texts with anything beyond ASCII go the slow way, through PCRE2's tables. */
bool l7mp_caseless_equal(const char *a, const char *b)
{
	struct l7mp_regex *re = NULL;
	bool equal, ascii = true;
	char message[8];
	const char *x = a, *y = b;

	for (; *x && *y && fold(*x) == fold(*y); x++, y++)
		ascii = ascii && !(*x & 0x80);
	if (!*x && !*y)
		return true;
	if (ascii && !(*x & 0x80) && !(*y & 0x80))
		return false;
	if (l7mp_regex_compile(a, L7MP_RE_NOCASE | L7MP_RE_LITERAL | L7MP_RE_BEGIN | L7MP_RE_END,
	                       &re, message, sizeof(message)))
		return false;
	equal = l7mp_regex_match(re, b);
	l7mp_regex_free(&re);
	return equal;
}
