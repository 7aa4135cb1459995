/* SPDX-License-Identifier: MIT */
/* Private to predicate*.c. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "l7mp/json.h"
#include "l7mp/predicate.h"

/* ---- predicate_regex.c: the only user of PCRE2 ---- */

struct l7mp_regex;

enum l7mp_regex_flags {
	L7MP_RE_NOCASE = 1 << 0,
	L7MP_RE_LITERAL = 1 << 1, /* the pattern is plain text */
	L7MP_RE_BEGIN = 1 << 2,   /* must match at the beginning of the text */
	L7MP_RE_END = 1 << 3,     /* must match up to the end of the text */
};

/* Compiles a pattern. Returns 0; -EINVAL with a message; -ENOMEM. */
int l7mp_regex_compile(const char *pattern, unsigned flags, struct l7mp_regex **out, char *message,
                       size_t size);
/*
 * Returns whether the text matches. Also false when the effort budget is exhausted, so that a
 * pattern can't block the loop.
 */
bool l7mp_regex_match(const struct l7mp_regex *re, const char *text, struct l7mp_effort *effort);
void l7mp_regex_free(struct l7mp_regex **re);
/* Compares two texts ignoring case, by Unicode's rules. */
bool l7mp_caseless_equal(const char *a, const char *b, struct l7mp_effort *effort);
/* Charges units to the effort budget; exhausts it when fewer are left. */
void l7mp_effort_take(struct l7mp_effort *e, uint64_t units);

/* ---- predicate_types.c: the type names of the draft ---- */

enum l7mp_ptype {
	L7MP_PTYPE_NUMBER,
	L7MP_PTYPE_STRING,
	L7MP_PTYPE_BOOLEAN,
	L7MP_PTYPE_OBJECT,
	L7MP_PTYPE_ARRAY,
	L7MP_PTYPE_NULL,
	L7MP_PTYPE_UNDEFINED,
	L7MP_PTYPE_DATE,
	L7MP_PTYPE_TIME,
	L7MP_PTYPE_DATE_TIME,
	L7MP_PTYPE_LANG,
	L7MP_PTYPE_LANG_RANGE,
	L7MP_PTYPE_IRI,
	L7MP_PTYPE_ABSOLUTE_IRI,
	L7MP_PTYPES,
};
const char *l7mp_ptype_name(enum l7mp_ptype t);
int l7mp_ptype_parse(const char *name, enum l7mp_ptype *out); /* 0 or -EINVAL */
/* Returns whether a node has the type. `node` NULL: undefined. */
bool l7mp_ptype_is(enum l7mp_ptype t, const cJSON *node);
