/* SPDX-License-Identifier: MIT */
/*
 * Evaluating JSON predicates, draft-snell-json-test-07.
 *
 * What the draft says and where it leaves room:
 *  - `contains`, `starts`, `ends` and `matches` look at the value's string
 *    representation: a string itself, a number or boolean as JSON writes it.
 *    null, objects and arrays have none and never match.
 *  - `matches`: the *complete* string representation has to match the pattern
 *    (not a part of it); write `.*` around a pattern that may stand anywhere.
 *  - Case is ignored by the draft's trailing dash ("contains-") or by
 *    `ignore_case: true`, its spelling in earlier drafts and in the original.
 *  - `not` is a NOR: true when none of its predicates is.
 *  - A `path` on and/or/not goes before the paths inside; a missing path is "".
 *  - What can't be evaluated (missing element, wrong type) is false.
 */
#include "l7mp/predicate.h"

#include <stdlib.h>
#include <string.h>

#include "predicate_int.h"

static void clear(struct l7mp_predicate *p)
{
	for (size_t i = 0; i < p->n_sub; i++)
		clear(&p->sub[i]);
	free(p->sub);
	free(p->path);
	cJSON_Delete(p->value);
	l7mp_regex_free(&p->re);
}

void l7mp_predicate_free(struct l7mp_predicate **p)
{
	if (!*p)
		return;
	clear(*p);
	free(*p);
	*p = NULL;
}

/* Returns the string representation of a scalar; NULL: it has none. */
static const char *text_of(const cJSON *node, char *buf, size_t size)
{
	if (cJSON_IsString(node))
		return node->valuestring;
	if (cJSON_IsBool(node))
		return cJSON_IsTrue(node) ? "true" : "false";
	if (cJSON_IsNumber(node) && cJSON_PrintPreallocated((cJSON *)node, buf, (int)size, false))
		return buf;
	return NULL;
}

static bool eval_text(const struct l7mp_predicate *p, const cJSON *node, struct l7mp_effort *effort)
{
	const char *text, *want = p->value->valuestring;
	char buf[64];
	size_t n, m;

	text = text_of(node, buf, sizeof(buf));
	if (!text)
		return false;
	if (p->re)
		return l7mp_regex_match(p->re, text, effort);
	n = strlen(text);
	m = strlen(want);
	l7mp_effort_take(effort, n / 8);
	if (effort->exhausted)
		return false;
	if (p->op == L7MP_OP_CONTAINS)
		return strstr(text, want) != NULL;
	if (n < m)
		return false;
	return memcmp(p->op == L7MP_OP_ENDS ? text + n - m : text, want, m) == 0;
}

static bool equal_nocase(const cJSON *a, const cJSON *b, struct l7mp_effort *effort)
{
	const cJSON *x, *y;

	if (cJSON_IsString(a) && cJSON_IsString(b))
		return l7mp_caseless_equal(a->valuestring, b->valuestring, effort);
	if (cJSON_IsObject(a) && cJSON_IsObject(b)) {
		if (cJSON_GetArraySize(a) != cJSON_GetArraySize(b))
			return false;
		cJSON_ArrayForEach (x, a) {
			y = l7mp_json_member(b, x->string); /* names of members keep their case */
			if (!y || !equal_nocase(x, y, effort))
				return false;
		}
		return true;
	}
	if (cJSON_IsArray(a) && cJSON_IsArray(b)) {
		for (x = a->child, y = b->child; x && y; x = x->next, y = y->next)
			if (!equal_nocase(x, y, effort))
				return false;
		return !x && !y;
	}
	return l7mp_json_equal(a, b);
}

static bool equal(const struct l7mp_predicate *p, const cJSON *a, const cJSON *b,
                  struct l7mp_effort *effort)
{
	return p->nocase ? equal_nocase(a, b, effort) : l7mp_json_equal(a, b);
}

static bool eval_in(const struct l7mp_predicate *p, const cJSON *node, struct l7mp_effort *effort)
{
	const cJSON *child;

	l7mp_effort_take(effort, (uint64_t)cJSON_GetArraySize(p->value));
	cJSON_ArrayForEach (child, p->value)
		if (equal(p, node, child, effort))
			return true;
	return false;
}

static bool eval(const struct l7mp_predicate *p, const cJSON *context, struct l7mp_effort *effort);

static bool eval_any(const struct l7mp_predicate *p, const cJSON *node, bool value,
                     struct l7mp_effort *effort)
{
	for (size_t i = 0; i < p->n_sub; i++)
		if (eval(&p->sub[i], node, effort) == value)
			return true;
	return false;
}

/* `context` is NULL when the path so far refers to nothing. */
static bool eval(const struct l7mp_predicate *p, const cJSON *context, struct l7mp_effort *effort)
{
	const cJSON *node = context && p->path ? l7mp_json_get(context, p->path) : context;

	switch (p->op) {
	case L7MP_OP_ALL:
		return true;
	case L7MP_OP_AND:
		return !eval_any(p, node, false, effort);
	case L7MP_OP_OR:
		return eval_any(p, node, true, effort);
	case L7MP_OP_NOT:
		return !eval_any(p, node, true, effort);
	case L7MP_OP_DEFINED:
		return node != NULL;
	case L7MP_OP_UNDEFINED:
		return !node;
	case L7MP_OP_TYPE:
		if (cJSON_IsString(node))
			l7mp_effort_take(effort, strlen(node->valuestring) / 4);
		return l7mp_ptype_is(p->type, node);
	case L7MP_OP_CONTAINS:
	case L7MP_OP_STARTS:
	case L7MP_OP_ENDS:
	case L7MP_OP_MATCHES:
		return node && eval_text(p, node, effort);
	case L7MP_OP_IN:
		return node && eval_in(p, node, effort);
	case L7MP_OP_TEST:
		return node && equal(p, node, p->value, effort);
	case L7MP_OP_LESS:
		return node && cJSON_IsNumber(node) && node->valuedouble < p->value->valuedouble;
	case L7MP_OP_MORE:
		return node && cJSON_IsNumber(node) && node->valuedouble > p->value->valuedouble;
	}
	return false;
}

bool l7mp_predicate_eval(const struct l7mp_predicate *p, const cJSON *metadata,
                         struct l7mp_effort *effort)
{
	return !p || eval(p, metadata, effort);
}
