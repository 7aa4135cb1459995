/* SPDX-License-Identifier: MIT */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <errno.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "predicate_int.h"

/*
 * Patterns come from the operator, subjects from peers. PCRE2's match limit counts backtracking
 * points, not the characters examined: "\\p{L}+\\d" on 64 KiB of letters examines 2 billion of them
 * in 53 s without reaching a limit of 200,000. So a pattern has two compiled forms:
 *
 *  - a plain one for short subjects, with a match limit so small that even if each step examines
 *    the whole subject a match takes less than half a millisecond;
 *  - one with a callout before each item of the pattern, which charges the characters passed
 *    against the caller's remaining effort. It is used for long subjects, and when the first form
 *    has reached its limit.
 *
 * The JIT is not used: the limits do not bound its stack, and it has no match limit for single
 * loops.
 */
#define SHORT_MAX     2048   /* bytes of a subject for the plain form */
#define SHORT_LIMIT   160000 /* its match limit times the subject's length */
#define MATCH_LIMIT   10000000
#define DEPTH_LIMIT   20000
#define HEAP_LIMIT_KB 1024
#define PATTERN_MAX   16384

/* In units of about 2.5 ns (predicate.h). */
#define COST_CALL    8
#define COST_CHAR    3
#define COST_MATCH   80 /* for each match attempt */
#define COST_COMPILE 40 /* for each byte of the pattern */

struct l7mp_regex {
	pcre2_code *plain, *counted;
	bool backrefs; /* has back-references, whose comparisons may be long without advancing */
};

static uint32_t options(unsigned flags)
{
	/* Peers may send bytes that are not UTF-8. These match only themselves. */
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
	uint32_t backrefs = 0;
	int err = 0;

	*out = NULL;
	if (len > PATTERN_MAX) {
		snprintf(message, size, "longer than %d bytes", PATTERN_MAX);
		return -EINVAL;
	}
	re = calloc(1, sizeof(*re));
	if (!re)
		goto no_memory;
	re->plain = pcre2_compile((PCRE2_SPTR)pattern, len, options(flags), &err, &offset, NULL);
	if (re->plain)
		re->counted =
		        pcre2_compile((PCRE2_SPTR)pattern, len, options(flags) | PCRE2_AUTO_CALLOUT,
		                      &err, &offset, NULL);
	if (!re->plain || !re->counted) {
		PCRE2_UCHAR text[128];

		pcre2_get_error_message(err, text, sizeof(text));
		snprintf(message, size, "%s at offset %zu", (char *)text, offset);
		l7mp_regex_free(&re);
		return -EINVAL;
	}
	pcre2_pattern_info(re->plain, PCRE2_INFO_BACKREFMAX, &backrefs);
	re->backrefs = backrefs > 0;
	*out = re;
	return 0;
no_memory:
	snprintf(message, size, "out of memory");
	l7mp_regex_free(&re);
	return -ENOMEM;
}

void l7mp_effort_take(struct l7mp_effort *e, uint64_t units)
{
	if (e->left > units) {
		e->left -= units;
		return;
	}
	e->left = 0;
	e->exhausted = true;
}

struct counting {
	struct l7mp_effort *effort;
	size_t last;  /* position at the last callout */
	size_t extra; /* additional units for each callout */
};

/* Called before each item of the pattern. */
static int count(pcre2_callout_block *block, void *arg)
{
	struct counting *c = arg;
	size_t at = block->current_position;
	size_t moved = at > c->last ? at - c->last : c->last - at;

	c->last = at;
	l7mp_effort_take(c->effort, COST_CALL + c->extra + COST_CHAR * moved);
	return c->effort->exhausted ? PCRE2_ERROR_CALLOUT : 0;
}

/*
 * The match data is allocated for each match, because PCRE2 would keep a match's memory in it, up
 * to the heap limit, for each of possibly thousands of patterns.
 */
static int match(const pcre2_code *code, const char *text, size_t len, uint32_t limit,
                 struct counting *c)
{
	pcre2_match_context *ctx = pcre2_match_context_create(NULL);
	pcre2_match_data *data = pcre2_match_data_create(1, NULL);
	int rc = PCRE2_ERROR_NOMEMORY;

	if (ctx && data) {
		pcre2_set_match_limit(ctx, limit);
		pcre2_set_depth_limit(ctx, DEPTH_LIMIT);
		pcre2_set_heap_limit(ctx, HEAP_LIMIT_KB);
		if (c)
			pcre2_set_callout(ctx, count, c);
		rc = pcre2_match(code, (PCRE2_SPTR)text, len, 0, 0, data, ctx);
	}
	pcre2_match_data_free(data);
	pcre2_match_context_free(ctx);
	return rc;
}

bool l7mp_regex_match(const struct l7mp_regex *re, const char *text, struct l7mp_effort *effort)
{
	size_t len = strlen(text);
	struct counting c = {.effort = effort, .extra = re->backrefs ? len / 8 : 0};
	int rc;

	if (effort->exhausted)
		return false;
	l7mp_effort_take(effort, COST_MATCH + len / 4);
	if (len <= SHORT_MAX) {
		uint32_t limit = (uint32_t)(SHORT_LIMIT / (len + 32));

		/* 0: it matched, and there are more groups than the match data can hold. */
		rc = match(re->plain, text, len, limit, NULL);
		if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH)
			return rc >= 0;
		l7mp_effort_take(effort, SHORT_LIMIT);
	}
	rc = match(re->counted, text, len, MATCH_LIMIT, &c);
	if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
		l7mp_effort_take(effort, UINT64_MAX);
	return rc >= 0;
}

void l7mp_regex_free(struct l7mp_regex **re)
{
	if (!*re)
		return;
	pcre2_code_free((*re)->plain);
	pcre2_code_free((*re)->counted);
	free(*re);
	*re = NULL;
}

static int fold(char c)
{
	return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : (unsigned char)c;
}

/* Non-ASCII texts need PCRE2's tables. */
bool l7mp_caseless_equal(const char *a, const char *b, struct l7mp_effort *effort)
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
	l7mp_effort_take(effort, COST_COMPILE * strlen(a));
	if (effort->exhausted)
		return false;
	l7mp_effort_take(effort, COST_COMPILE * strlen(a));
	if (effort->exhausted)
		return false;
	if (l7mp_regex_compile(a, L7MP_RE_NOCASE | L7MP_RE_LITERAL | L7MP_RE_BEGIN | L7MP_RE_END,
	                       &re, message, sizeof(message)))
		return false;
	equal = l7mp_regex_match(re, b, effort);
	l7mp_regex_free(&re);
	return equal;
}
