/* SPDX-License-Identifier: MIT */
/* Compiles predicates; every error becomes an issue with its path. */
#include "l7mp/predicate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/util.h"
#include "predicate_int.h"

#define DEPTH_MAX 64

/* The type that `value` must have. */
enum want { WANT_NOTHING, WANT_STRING, WANT_NUMBER, WANT_ARRAY, WANT_ANY, WANT_TYPE, WANT_REGEX };

static const struct op_info {
	const char *name;
	enum l7mp_pop op;
	enum want want;
	bool nocase; /* has the option ignore_case */
} ops[] = {
        {"and", L7MP_OP_AND, WANT_NOTHING, false},
        {"or", L7MP_OP_OR, WANT_NOTHING, false},
        {"not", L7MP_OP_NOT, WANT_NOTHING, false},
        {"contains", L7MP_OP_CONTAINS, WANT_STRING, true},
        {"defined", L7MP_OP_DEFINED, WANT_NOTHING, false},
        {"ends", L7MP_OP_ENDS, WANT_STRING, true},
        {"in", L7MP_OP_IN, WANT_ARRAY, true},
        {"less", L7MP_OP_LESS, WANT_NUMBER, false},
        {"matches", L7MP_OP_MATCHES, WANT_REGEX, true},
        {"more", L7MP_OP_MORE, WANT_NUMBER, false},
        {"starts", L7MP_OP_STARTS, WANT_STRING, true},
        {"test", L7MP_OP_TEST, WANT_ANY, true},
        {"type", L7MP_OP_TYPE, WANT_TYPE, false},
        {"undefined", L7MP_OP_UNDEFINED, WANT_NOTHING, false},
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
	bool second = info->op == L7MP_OP_AND || info->op == L7MP_OP_OR || info->op == L7MP_OP_NOT;
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

	if (p->op != L7MP_OP_MATCHES)
		flags |= L7MP_RE_LITERAL;
	if (p->op == L7MP_OP_STARTS)
		flags |= L7MP_RE_BEGIN;
	if (p->op == L7MP_OP_ENDS)
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
	if (p->op == L7MP_OP_AND || p->op == L7MP_OP_OR || p->op == L7MP_OP_NOT)
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
