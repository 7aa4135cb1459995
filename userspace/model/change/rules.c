/* SPDX-License-Identifier: MIT */
/* Single rules of a list: each change makes a new version of the list. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "build.h"

struct l7mp_rulelist *l7mp_build_rulelist_copy(const struct l7mp_rulelist *l)
{
	struct l7mp_rulelist *n = l7mp_object_new(L7MP_OBJ_RULELIST);

	if (n && l7mp_build_copy_base(&n->obj, &l->obj)) {
		l7mp_object_unref(n);
		n = NULL;
	}
	return n;
}

/*
 * Stages a new version of the list with a rule inserted at `position`, or (NULL) the rule there
 * removed.
 */
static int relist(struct l7mp_change *c, const struct l7mp_rulelist *old, size_t position,
                  const char *in, const char *path, struct l7mp_error *err)
{
	struct l7mp_rulelist *l = l7mp_build_rulelist_copy(old);
	const char **names = malloc((old->n_rules + 1) * sizeof(*names));
	size_t n = 0;
	int rc = 0;

	for (size_t i = 0; names && i <= old->n_rules; i++) {
		if (i == position && in)
			names[n++] = in;
		if (i < old->n_rules && (in || i != position))
			names[n++] = old->rules[i];
	}
	if (l && names && n)
		l->rules = l7mp_names_pack(names, n);
	if (!l || !names || (n && !l->rules)) {
		rc = l7mp_change_oom(err);
	} else {
		l->n_rules = n;
		if (old->n_inserts && l7mp_inserts_set(l, old, L7MP_INSERTS_SHOWN, 0, NULL, 0))
			rc = l7mp_change_oom(err);
		else
			rc = l7mp_change_stage(c, L7MP_OBJ_RULELIST, l->obj.name, &l->obj, false,
			                       path, err);
	}
	free(names);
	l7mp_object_unref(l);
	return rc;
}

static int bad_position(struct l7mp_error *err, const struct l7mp_rulelist *l, size_t position)
{
	return l7mp_error_set(err, -ENOENT, L7MP_ERR_NOT_FOUND,
	                      "rule list \"%s\" has %zu rules, there is no position %zu",
	                      l->obj.name, l->n_rules, position);
}

/* Adds a rule that belongs to the list; *name is borrowed from the change. */
static int add_rule(struct l7mp_change *c, const struct l7mp_rulelist *l, const cJSON *doc,
                    const char *path, const char **name, struct l7mp_error *err)
{
	struct builder b = {.c = c, .mode = BUILD_ADD, .owner = &l->obj};
	size_t first = c->n_items;
	struct l7mp_draft *d;
	int rc;

	l7mp_schema_check(&l7mp_schema_rule, c->model->registry, doc, path, &c->issues);
	rc = l7mp_build_parse(c, L7MP_OBJ_RULE, doc, path, &d, err);
	if (rc)
		return rc;
	rc = l7mp_build_draft(&b, d, false, err);
	for (size_t i = first; !rc && i < c->n_items; i++)
		if (c->items[i]->item.kind == L7MP_OBJ_RULE && !strcmp(c->items[i]->path, path))
			*name = c->items[i]->name;
	return rc;
}

int l7mp_change_insert_rule(struct l7mp_change *c, const char *rulelist, size_t position,
                            const cJSON *rule, const char *path, struct l7mp_error *err)
{
	struct l7mp_rulelist *l =
	        (struct l7mp_rulelist *)l7mp_change_find(c, L7MP_OBJ_RULELIST, rulelist);
	const char *name = NULL;
	char got[80];
	int rc;

	if (!l)
		return l7mp_build_missing(err, L7MP_OBJ_RULELIST, rulelist);
	if (position > l->n_rules)
		return bad_position(err, l, position);
	if (cJSON_IsString(rule)) {
		name = rule->valuestring;
		if (!l7mp_schema_pattern_ok(L7MP_P_NAME, name)) {
			l7mp_issues_add(&c->issues, false, rule, path, "expected %s, got %s",
			                l7mp_schema_pattern_text(L7MP_P_NAME),
			                l7mp_json_brief(rule, got, sizeof(got)));
			return l7mp_change_check(c, err);
		}
	} else {
		rc = add_rule(c, l, rule, path, &name, err);
		if (rc)
			return rc;
	}
	return relist(c, l, position, name, path, err);
}

int l7mp_change_remove_rule(struct l7mp_change *c, const char *rulelist, size_t position,
                            bool recursive, struct l7mp_error *err)
{
	struct l7mp_rulelist *l =
	        (struct l7mp_rulelist *)l7mp_change_find(c, L7MP_OBJ_RULELIST, rulelist);
	struct l7mp_object *rule;
	int rc;

	if (!l)
		return l7mp_build_missing(err, L7MP_OBJ_RULELIST, rulelist);
	if (position >= l->n_rules)
		return bad_position(err, l, position);
	rule = l7mp_change_find(c, L7MP_OBJ_RULE, l->rules[position]);
	for (size_t i = 0; rule && i < l->n_rules; i++) /* the list may have it twice */
		if (i != position && !strcmp(l->rules[i], rule->name))
			rule = NULL;
	if (recursive && rule && l7mp_object_owned_by(rule, L7MP_OBJ_RULELIST, rulelist)) {
		rc = l7mp_change_drop(c, rule, true, true, err);
		if (rc)
			return rc;
	}
	return relist(c, l, position, NULL, "", err);
}
