/* SPDX-License-Identifier: MIT */
/*
 * Validation of a document by its tables. Scalars are in schema_scalar.c, protocol specs in
 * schema_spec.c.
 */
#include "l7mp/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/model.h"
#include "schema_int.h"

const struct l7mp_field *l7mp_schema_field(const struct l7mp_schema *schema, const char *key)
{
	if (!schema || !key)
		return NULL;
	for (const struct l7mp_field *f = schema->fields; f && f->key; f++)
		if (strcmp(f->key, key) == 0)
			return f;
	return NULL;
}

cJSON *l7mp_schema_default(const struct l7mp_schema *schema, const char *key)
{
	const struct l7mp_field *f = l7mp_schema_field(schema, key);

	return f && f->def ? cJSON_Parse(f->def) : NULL;
}

char *l7mp_schema_join(const char *path, const char *key)
{
	static const char plain[] =
	        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

	if (!*key || key[strspn(key, plain)])
		return l7mp_asprintf("%s[\"%.100s\"]", path, key);
	return l7mp_asprintf("%s%s%s", path, *path ? "." : "", key);
}

static bool may_be_list(const struct l7mp_field *f)
{
	if (f->type == L7MP_T_ONEOF)
		for (const struct l7mp_field *const *a = f->alternatives; a && *a; a++)
			if (may_be_list(*a))
				return true;
	return f->type == L7MP_T_ARRAY;
}

void l7mp_schema_mismatch(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f,
                          const cJSON *node, const char *path)
{
	char want[256], got[80];

	l7mp_issues_add(ctx->issues, false, node, path, "expected %s%s, got %s",
	                l7mp_schema_describe(f, want, sizeof(want)),
	                cJSON_IsNull(node) && may_be_list(f) ? " ([] for none)" : "",
	                l7mp_json_brief(node, got, sizeof(got)));
}

/* Writes the known keys, "name, spec, rules", for the message about an unknown one. */
static void known_keys(const struct l7mp_schema *schema, const char *extra, struct l7mp_str *out)
{
	if (extra)
		l7mp_str_add(out, extra);
	for (const struct l7mp_field *f = schema->fields; f && f->key; f++) {
		if (f->flags & L7MP_F_READONLY)
			continue;
		if (out->len)
			l7mp_str_add(out, ", ");
		l7mp_str_add(out, f->key);
	}
}

static bool spec_has_key(const struct l7mp_schema *spec, const char *section, const char *key)
{
	const struct l7mp_field *f;

	if (!*section)
		return l7mp_schema_field(spec, key);
	f = l7mp_schema_field(spec, section);
	return f && f->type == L7MP_T_OBJECT && l7mp_schema_field(f->sub, key);
}

/*
 * Whether the spec of another protocol has this key. Configs of the original l7mp have keys such as
 * `port` and `bind` also for protocols that do not use them.
 */
static bool is_other_protocols(const struct l7mp_schema_ctx *ctx, const char *key)
{
	if (!ctx->spec_section || !ctx->registry)
		return false;
	for (const struct l7mp_protodesc *const *d = ctx->registry->descs; d && *d; d++)
		if (spec_has_key((*d)->listener_spec, ctx->spec_section, key) ||
		    spec_has_key((*d)->cluster_spec, ctx->spec_section, key) ||
		    spec_has_key((*d)->endpoint_spec, ctx->spec_section, key))
			return true;
	return false;
}

static void unknown_key(struct l7mp_schema_ctx *ctx, const struct l7mp_schema *schema,
                        const char *extra, const cJSON *child, const char *path)
{
	struct l7mp_str keys = {0};

	if (is_other_protocols(ctx, child->string)) {
		l7mp_issues_add(ctx->issues, true, child, path,
		                "has no effect here: it is a key of other protocols");
		return;
	}
	known_keys(schema, extra, &keys);
	l7mp_issues_add(ctx->issues, !ctx->issues->strict, child, path,
	                keys.len ? "unknown key, expected one of: %s"
	                         : "unknown key, none is expected here%s",
	                keys.s ? keys.s : "");
	l7mp_str_free(&keys);
}

/*
 * An empty section ("options:" with nothing below it) is null in YAML, and means the same as an
 * absent one. Not so for a list, where absent may mean that all members are deleted; an empty list
 * is written [].
 */
static bool is_absent(const struct l7mp_field *f, const cJSON *child)
{
	if (!cJSON_IsNull(child) || (f->flags & L7MP_F_REQUIRED) || may_be_list(f))
		return false;
	return f->type == L7MP_T_OBJECT || f->type == L7MP_T_MAP || f->type == L7MP_T_ONEOF;
}

static void check_member(struct l7mp_schema_ctx *ctx, const struct l7mp_schema *schema,
                         const char *extra, const cJSON *child, const char *path)
{
	const char *key = child->string ? child->string : "";
	const struct l7mp_field *f = l7mp_schema_field(schema, key);
	char *sub;

	if (f && ((f->flags & L7MP_F_READONLY) || is_absent(f, child)))
		return;
	if (!f && extra && strcmp(extra, key) == 0)
		return;
	sub = l7mp_schema_join(path, key);
	if (!sub) {
		l7mp_issues_add(ctx->issues, false, child, path, "out of memory");
		return;
	}
	if (f)
		l7mp_schema_check_field(ctx, f, child, sub);
	else
		unknown_key(ctx, schema, extra, child, sub);
	free(sub);
}

static void check_required(struct l7mp_schema_ctx *ctx, const struct l7mp_schema *schema,
                           const cJSON *node, const char *path)
{
	for (const struct l7mp_field *f = schema->fields; f && f->key; f++) {
		char want[256];
		char *sub;

		if (!(f->flags & L7MP_F_REQUIRED) || l7mp_json_member(node, f->key))
			continue;
		sub = l7mp_schema_join(path, f->key);
		l7mp_issues_add(ctx->issues, false, node, sub ? sub : path, "missing, expected %s",
		                l7mp_schema_describe(f, want, sizeof(want)));
		free(sub);
	}
}

void l7mp_schema_check_object(struct l7mp_schema_ctx *ctx, const struct l7mp_schema *schema,
                              const char *extra, const cJSON *node, const char *path)
{
	const struct l7mp_protodesc *outer = ctx->cluster;
	const cJSON *child;

	if (++ctx->depth > L7MP_SCHEMA_DEPTH) {
		l7mp_issues_add(ctx->issues, false, node, path,
		                "nested too deep, expected at most %d levels", L7MP_SCHEMA_DEPTH);
		ctx->depth--;
		return;
	}
	/* The endpoints of a cluster are described by its protocol. */
	if (schema == &l7mp_schema_cluster)
		ctx->cluster = l7mp_registry_find(
		        ctx->registry,
		        l7mp_json_str(l7mp_json_member(node, "spec"), "protocol", NULL));
	check_required(ctx, schema, node, path);
	cJSON_ArrayForEach (child, node)
		check_member(ctx, schema, extra, child, path);
	if (schema->check)
		schema->check(node, path, ctx->issues);
	ctx->cluster = outer;
	ctx->depth--;
}

static void check_array(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f, const cJSON *node,
                        const char *path)
{
	int n = cJSON_GetArraySize(node), i = 0;
	const cJSON *child;

	if (f->max > 0 && (n < f->min || n > f->max)) {
		l7mp_issues_add(ctx->issues, false, node, path,
		                "expected %.0f..%.0f elements, got %d", f->min, f->max, n);
		return;
	}
	if (!f->item)
		return;
	cJSON_ArrayForEach (child, node) {
		char *sub = l7mp_asprintf("%s[%d]", path, i++);

		l7mp_schema_check_field(ctx, f->item, child, sub ? sub : path);
		free(sub);
	}
}

static void check_map(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f, const cJSON *node,
                      const char *path)
{
	const cJSON *child;

	if (!f->item)
		return;
	cJSON_ArrayForEach (child, node) {
		char *sub = l7mp_schema_join(path, child->string ? child->string : "");

		l7mp_schema_check_field(ctx, f->item, child, sub ? sub : path);
		free(sub);
	}
}

/* Whether the field could have this JSON type: selects the alternative whose errors are shown. */
static bool fits(const struct l7mp_field *f, const cJSON *node)
{
	switch (f->type) {
	case L7MP_T_BOOL:
		return cJSON_IsBool(node);
	case L7MP_T_INT:
	case L7MP_T_NUMBER:
		return cJSON_IsNumber(node);
	case L7MP_T_STRING:
	case L7MP_T_ENUM:
		return cJSON_IsString(node);
	case L7MP_T_OBJECT:
	case L7MP_T_MAP:
	case L7MP_T_PROTOCOL_SPEC:
		return cJSON_IsObject(node);
	case L7MP_T_ARRAY:
		return cJSON_IsArray(node);
	case L7MP_T_REF:
		return cJSON_IsString(node) || cJSON_IsObject(node);
	case L7MP_T_ONEOF:
		for (const struct l7mp_field *const *a = f->alternatives; a && *a; a++)
			if (fits(*a, node))
				return true;
		return false;
	case L7MP_T_ANY:
		return true;
	}
	return false;
}

static bool accepts(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f, const cJSON *node)
{
	struct l7mp_issues tmp;
	struct l7mp_schema_ctx sub = *ctx;
	bool ok;

	l7mp_issues_init(&tmp, ctx->issues->strict);
	sub.issues = &tmp;
	l7mp_schema_check_field(&sub, f, node, "");
	ok = tmp.errors == 0;
	l7mp_issues_clear(&tmp);
	return ok;
}

static void check_oneof(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f, const cJSON *node,
                        const char *path)
{
	const struct l7mp_field *only = NULL;
	int candidates = 0;

	for (const struct l7mp_field *const *a = f->alternatives; a && *a; a++) {
		if (!fits(*a, node))
			continue;
		if (!only)
			only = *a;
		candidates++;
	}
	if (candidates > 1)
		for (const struct l7mp_field *const *a = f->alternatives; *a; a++)
			if (fits(*a, node) && accepts(ctx, *a, node)) {
				only = *a;
				break;
			}
	if (only)
		l7mp_schema_check_field(ctx, only, node, path);
	else
		l7mp_schema_mismatch(ctx, f, node, path);
}

static void check_ref(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f, const cJSON *node,
                      const char *path)
{
	if (cJSON_IsObject(node) && f->sub)
		l7mp_schema_check_object(ctx, f->sub, NULL, node, path);
	else if (!cJSON_IsString(node) || !l7mp_schema_pattern_ok(L7MP_P_NAME, node->valuestring))
		l7mp_schema_mismatch(ctx, f, node, path);
}

static void check_section(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f,
                          const cJSON *node, const char *path)
{
	const char *outer = ctx->spec_section;

	if (!f->sub)
		return;
	/* Only one level below a protocol's spec, such as `bind` or `options`. */
	ctx->spec_section = outer && !*outer && f->key ? f->key : NULL;
	l7mp_schema_check_object(ctx, f->sub, NULL, node, path);
	ctx->spec_section = outer;
}

void l7mp_schema_check_field(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f,
                             const cJSON *node, const char *path)
{
	switch (f->type) {
	case L7MP_T_ANY:
		return;
	case L7MP_T_ONEOF:
		check_oneof(ctx, f, node, path);
		return;
	case L7MP_T_REF:
		check_ref(ctx, f, node, path);
		return;
	default:
		break;
	}
	if (!fits(f, node)) {
		l7mp_schema_mismatch(ctx, f, node, path);
		return;
	}
	switch (f->type) {
	case L7MP_T_OBJECT:
		check_section(ctx, f, node, path);
		return;
	case L7MP_T_MAP:
		check_map(ctx, f, node, path);
		return;
	case L7MP_T_ARRAY:
		check_array(ctx, f, node, path);
		return;
	case L7MP_T_PROTOCOL_SPEC:
		l7mp_schema_check_spec(ctx, f, node, path);
		return;
	default:
		l7mp_schema_check_scalar(ctx, f, node, path);
	}
}

static void check_root(struct l7mp_schema_ctx *ctx, const struct l7mp_schema *schema,
                       const cJSON *node, const char *path)
{
	char got[80];

	if (cJSON_IsObject(node))
		l7mp_schema_check_object(ctx, schema, NULL, node, path);
	else
		l7mp_issues_add(ctx->issues, false, node, path, "expected %s %s object, got %s",
		                strchr("aeiou", schema->name[0]) ? "an" : "a", schema->name,
		                node ? l7mp_json_brief(node, got, sizeof(got)) : "nothing");
}

void l7mp_schema_check(const struct l7mp_schema *schema, const struct l7mp_registry *registry,
                       const cJSON *node, const char *path, struct l7mp_issues *issues)
{
	struct l7mp_schema_ctx ctx = {.registry = registry, .issues = issues};

	check_root(&ctx, schema, node, path ? path : "");
}

void l7mp_schema_check_endpoint(const struct l7mp_registry *registry,
                                const struct l7mp_protodesc *cluster_proto, const cJSON *node,
                                const char *path, struct l7mp_issues *issues)
{
	struct l7mp_schema_ctx ctx = {
	        .registry = registry, .issues = issues, .cluster = cluster_proto};

	check_root(&ctx, &l7mp_schema_endpoint, node, path ? path : "");
}
