/* SPDX-License-Identifier: MIT */
/*
 * JSON predicates, draft-snell-json-test-07.
 *
 * Choices where the draft leaves room:
 *  - `contains`, `starts`, `ends` and `matches` are applied to the string representation of the
 *    value: a string itself, a number or boolean as its JSON text. null, objects and arrays have
 *    none and never match.
 *  - `matches`: the pattern must match the complete string representation, not a part of it; write
 *    `.*` around a pattern that may occur anywhere.
 *  - Case is ignored by the draft's trailing dash ("contains-") or by `ignore_case: true`, the
 *    spelling in earlier drafts and in the original l7mp.
 *  - `not` is a NOR: true when none of its predicates is.
 *  - A `path` on and/or/not is prepended to the paths inside; a missing path is "".
 *  - A predicate that can't be evaluated (missing element, wrong type) is false.
 */
#include "l7mp/predicate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/util.h"
#include "predicate_int.h"

enum op {
	OP_ALL, /* no condition */
	OP_AND,
	OP_OR,
	OP_NOT,
	OP_CONTAINS,
	OP_DEFINED,
	OP_ENDS,
	OP_IN,
	OP_LESS,
	OP_MATCHES,
	OP_MORE,
	OP_STARTS,
	OP_TEST,
	OP_TYPE,
	OP_UNDEFINED,
};

struct l7mp_predicate {
	enum op op;
	bool nocase;
	enum l7mp_ptype type;
	char *path;            /* NULL: the context itself */
	cJSON *value;          /* a copy that is owned */
	struct l7mp_regex *re; /* matches; contains/starts/ends without case */
	struct l7mp_predicate *sub;
	size_t n_sub;
};

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

/* ---- compiling: each error becomes an issue with its path ---- */

#define DEPTH_MAX 64

/* The type that `value` must have. */
enum want { WANT_NOTHING, WANT_STRING, WANT_NUMBER, WANT_ARRAY, WANT_ANY, WANT_TYPE, WANT_REGEX };

static const struct op_info {
	const char *name;
	enum op op;
	enum want want;
	bool nocase; /* has the option ignore_case */
} ops[] = {
        {"and", OP_AND, WANT_NOTHING, false},
        {"or", OP_OR, WANT_NOTHING, false},
        {"not", OP_NOT, WANT_NOTHING, false},
        {"contains", OP_CONTAINS, WANT_STRING, true},
        {"defined", OP_DEFINED, WANT_NOTHING, false},
        {"ends", OP_ENDS, WANT_STRING, true},
        {"in", OP_IN, WANT_ARRAY, true},
        {"less", OP_LESS, WANT_NUMBER, false},
        {"matches", OP_MATCHES, WANT_REGEX, true},
        {"more", OP_MORE, WANT_NUMBER, false},
        {"starts", OP_STARTS, WANT_STRING, true},
        {"test", OP_TEST, WANT_ANY, true},
        {"type", OP_TYPE, WANT_TYPE, false},
        {"undefined", OP_UNDEFINED, WANT_NOTHING, false},
};

struct compile {
	struct l7mp_issues *issues;
	int depth;
	bool oom;
};

static void issue(struct compile *c, const cJSON *node, const char *path, const char *key,
                  const char *want)
{
	char *sub = l7mp_asprintf("%s.%s", path, key);
	char got[80];

	l7mp_issues_add(c->issues, false, node, sub ? sub : path, "expected %s, got %s", want,
	                node ? l7mp_json_brief(node, got, sizeof(got)) : "nothing");
	free(sub);
}

static const struct op_info *find_op(const char *name, bool *dash)
{
	size_t n = strlen(name);

	*dash = n && name[n - 1] == '-';
	n -= *dash;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(ops); i++)
		if (strlen(ops[i].name) == n && memcmp(ops[i].name, name, n) == 0)
			return *dash && !ops[i].nocase ? NULL : &ops[i];
	return NULL;
}

static void bad_op(struct compile *c, const cJSON *node, const char *path)
{
	struct l7mp_str want = {0};

	l7mp_str_add(&want, "one of ");
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(ops); i++)
		l7mp_str_addf(&want, "%s%s", i ? ", " : "", ops[i].name);
	issue(c, node, path, "op", want.s ? want.s : "an operator");
	l7mp_str_free(&want);
}

static void check_keys(struct compile *c, const struct op_info *info, const cJSON *node,
                       const char *path)
{
	bool second = info->op == OP_AND || info->op == OP_OR || info->op == OP_NOT;
	const cJSON *child;

	cJSON_ArrayForEach (child, node) {
		const char *k = child->string;
		bool known = strcmp(k, "op") == 0 || strcmp(k, "path") == 0 ||
		             (strcmp(k, "apply") == 0 && second) ||
		             (strcmp(k, "value") == 0 && info->want != WANT_NOTHING) ||
		             (strcmp(k, "ignore_case") == 0 && !second);
		char *sub;

		if (known)
			continue;
		sub = l7mp_asprintf("%s.%.64s", path, k);
		l7mp_issues_add(
		        c->issues, !c->issues->strict, child, sub ? sub : path,
		        "unknown key, expected one of: op, path%s%s%s", second ? ", apply" : "",
		        info->want != WANT_NOTHING ? ", value" : "", second ? "" : ", ignore_case");
		free(sub);
	}
}

static void compile_path(struct compile *c, const cJSON *node, const char *path,
                         struct l7mp_predicate *p)
{
	const cJSON *v = l7mp_json_member(node, "path");

	if (!v)
		return;
	if (!cJSON_IsString(v) || !l7mp_json_pointer_valid(v->valuestring)) {
		issue(c, v, path, "path", "a JSON pointer");
		return;
	}
	p->path = strdup(v->valuestring);
	c->oom |= !p->path;
}

static void compile_regex(struct compile *c, const cJSON *value, const char *path,
                          struct l7mp_predicate *p)
{
	unsigned flags = p->nocase ? L7MP_RE_NOCASE : 0;
	char message[192], want[256];
	int rc;

	if (p->op != OP_MATCHES)
		flags |= L7MP_RE_LITERAL;
	if (p->op == OP_STARTS)
		flags |= L7MP_RE_BEGIN;
	if (p->op == OP_ENDS)
		flags |= L7MP_RE_END;
	rc = l7mp_regex_compile(value->valuestring, flags, &p->re, message, sizeof(message));
	if (rc == -ENOMEM)
		c->oom = true;
	if (rc == -EINVAL) {
		snprintf(want, sizeof(want), "a regular expression (%s)", message);
		issue(c, value, path, "value", want);
	}
}

static void bad_type(struct compile *c, const cJSON *value, const char *path)
{
	struct l7mp_str want = {0};

	l7mp_str_add(&want, "one of ");
	for (int t = 0; t < L7MP_PTYPES; t++)
		l7mp_str_addf(&want, "%s%s", t ? ", " : "", l7mp_ptype_name((enum l7mp_ptype)t));
	issue(c, value, path, "value", want.s ? want.s : "a type");
	l7mp_str_free(&want);
}

static void compile_value(struct compile *c, const struct op_info *info, const cJSON *node,
                          const char *path, struct l7mp_predicate *p)
{
	const cJSON *v = l7mp_json_member(node, "value");

	switch (info->want) {
	case WANT_NOTHING:
		return;
	case WANT_TYPE:
		if (!cJSON_IsString(v) || l7mp_ptype_parse(v->valuestring, &p->type))
			bad_type(c, v, path);
		return;
	case WANT_NUMBER:
		if (!cJSON_IsNumber(v))
			issue(c, v, path, "value", "a number");
		break;
	case WANT_ARRAY:
		if (!cJSON_IsArray(v))
			issue(c, v, path, "value", "an array");
		break;
	case WANT_ANY:
		if (!v)
			issue(c, v, path, "value", "any value");
		break;
	case WANT_STRING:
	case WANT_REGEX:
		if (!cJSON_IsString(v))
			issue(c, v, path, "value",
			      info->want == WANT_REGEX ? "a regular expression" : "a string");
		else if (info->want == WANT_REGEX || p->nocase)
			compile_regex(c, v, path, p);
		break;
	}
	if (v) {
		p->value = cJSON_Duplicate(v, true);
		c->oom |= !p->value;
	}
}

static void compile_one(struct compile *c, const cJSON *node, const char *path,
                        struct l7mp_predicate *p);

static void compile_apply(struct compile *c, const cJSON *node, const char *path,
                          struct l7mp_predicate *p)
{
	const cJSON *apply = l7mp_json_member(node, "apply"), *child;
	size_t n = cJSON_IsArray(apply) ? (size_t)cJSON_GetArraySize(apply) : 0;

	if (!n) {
		issue(c, apply, path, "apply", "an array of at least one predicate");
		return;
	}
	p->sub = calloc(n, sizeof(*p->sub));
	if (!p->sub) {
		c->oom = true;
		return;
	}
	cJSON_ArrayForEach (child, apply) {
		char *sub = l7mp_asprintf("%s.apply[%zu]", path, p->n_sub);

		compile_one(c, child, sub ? sub : path, &p->sub[p->n_sub++]);
		free(sub);
	}
}

static void compile_case(struct compile *c, const struct op_info *info, bool dash,
                         const cJSON *node, const char *path, struct l7mp_predicate *p)
{
	const cJSON *v = l7mp_json_member(node, "ignore_case");

	p->nocase = dash;
	if (!v)
		return;
	if (!cJSON_IsBool(v))
		issue(c, v, path, "ignore_case", "true or false");
	else if (info->nocase && cJSON_IsTrue(v))
		p->nocase = true;
}

static void compile_one(struct compile *c, const cJSON *node, const char *path,
                        struct l7mp_predicate *p)
{
	const struct op_info *info = NULL;
	const cJSON *op;
	bool dash = false;
	char got[80];

	if (!cJSON_IsObject(node)) {
		l7mp_issues_add(c->issues, false, node, path, "expected a predicate object, got %s",
		                l7mp_json_brief(node, got, sizeof(got)));
		return;
	}
	if (c->depth >= DEPTH_MAX) {
		l7mp_issues_add(c->issues, false, node, path,
		                "nested too deep, expected at most %d levels", DEPTH_MAX);
		return;
	}
	op = l7mp_json_member(node, "op");
	if (cJSON_IsString(op))
		info = find_op(op->valuestring, &dash);
	if (!info) {
		bad_op(c, op, path);
		return;
	}
	c->depth++;
	p->op = info->op;
	check_keys(c, info, node, path);
	compile_path(c, node, path, p);
	compile_case(c, info, dash, node, path, p);
	compile_value(c, info, node, path, p);
	if (p->op == OP_AND || p->op == OP_OR || p->op == OP_NOT)
		compile_apply(c, node, path, p);
	c->depth--;
}

int l7mp_predicate_compile(const cJSON *match, const char *path, struct l7mp_issues *issues,
                           struct l7mp_predicate **out)
{
	struct compile c = {.issues = issues};
	struct l7mp_predicate *p = calloc(1, sizeof(*p));
	size_t before = issues->errors;

	*out = NULL;
	if (!p)
		return -ENOMEM;
	if (match && !cJSON_IsString(match) && !cJSON_IsNull(match))
		compile_one(&c, match, path, p);
	if (issues->errors == before && !c.oom) {
		*out = p;
		return 0;
	}
	l7mp_predicate_free(&p);
	return c.oom ? -ENOMEM : -EINVAL;
}

/* ---- evaluating ---- */

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
	if (p->op == OP_CONTAINS)
		return strstr(text, want) != NULL;
	if (n < m)
		return false;
	return memcmp(p->op == OP_ENDS ? text + n - m : text, want, m) == 0;
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
			y = l7mp_json_member(b, x->string); /* member names are compared with case
			                                     * */
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
	case OP_ALL:
		return true;
	case OP_AND:
		return !eval_any(p, node, false, effort);
	case OP_OR:
		return eval_any(p, node, true, effort);
	case OP_NOT:
		return !eval_any(p, node, true, effort);
	case OP_DEFINED:
		return node != NULL;
	case OP_UNDEFINED:
		return !node;
	case OP_TYPE:
		if (cJSON_IsString(node))
			l7mp_effort_take(effort, strlen(node->valuestring) / 4);
		return l7mp_ptype_is(p->type, node);
	case OP_CONTAINS:
	case OP_STARTS:
	case OP_ENDS:
	case OP_MATCHES:
		return node && eval_text(p, node, effort);
	case OP_IN:
		return node && eval_in(p, node, effort);
	case OP_TEST:
		return node && equal(p, node, p->value, effort);
	case OP_LESS:
		return node && cJSON_IsNumber(node) && node->valuedouble < p->value->valuedouble;
	case OP_MORE:
		return node && cJSON_IsNumber(node) && node->valuedouble > p->value->valuedouble;
	}
	return false;
}

bool l7mp_predicate_eval(const struct l7mp_predicate *p, const cJSON *metadata,
                         struct l7mp_effort *effort)
{
	return !p || eval(p, metadata, effort);
}
