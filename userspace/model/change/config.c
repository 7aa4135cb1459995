/* SPDX-License-Identifier: MIT */
/*
 * A config replaces everything, or everything of its owner: all objects of the document are staged,
 * and those that it does not have are deleted.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "build.h"

/* ---- admin ---- */

/* *path: the path of the admin object in the document. */
static int change_admin(struct l7mp_change *c, const cJSON *doc, const char *path,
                        struct l7mp_error *err)
{
	const struct l7mp_admin *now = c->admin ? c->admin : &c->model->admin;
	struct l7mp_admin *next = calloc(1, sizeof(*next));
	const char *fixed;

	if (!next || l7mp_admin_merge(now, doc, next)) {
		free(next);
		return l7mp_change_oom(err);
	}
	/* The first config, at program start, may set all keys. */
	fixed = c->model->generation ? l7mp_admin_fixed_key(now, next) : NULL;
	if (fixed) {
		l7mp_error_set(err, -EINVAL, L7MP_ERR_REALISE,
		               "%s can only be set when the program starts", fixed);
		if (err)
			snprintf(err->path, sizeof(err->path), "%s%s%s", path, *path ? "." : "",
			         fixed);
	}
	if (fixed || l7mp_admin_equal(now, next)) {
		l7mp_admin_clear(next);
		free(next);
		return fixed ? -EINVAL : 0;
	}
	if (c->admin) {
		l7mp_admin_clear(c->admin);
		free(c->admin);
	}
	c->admin = next;
	return 0;
}

int l7mp_change_admin(struct l7mp_change *c, const cJSON *doc, const char *path,
                      struct l7mp_error *err)
{
	int rc;

	l7mp_schema_check(&l7mp_schema_admin, c->model->registry, doc, path, &c->issues);
	rc = l7mp_change_check(c, err);
	return rc ? rc : change_admin(c, doc, path, err);
}

/* ---- configs ---- */

/* Named objects first, before those that are inline in listeners. */
static const enum l7mp_obj_kind order[] = {L7MP_OBJ_CLUSTER, L7MP_OBJ_ROUTE, L7MP_OBJ_RULE,
                                           L7MP_OBJ_RULELIST, L7MP_OBJ_LISTENER};

struct drafts {
	struct l7mp_draft **v;
	size_t n, cap;
};

static int drafts_add(struct drafts *ds, struct l7mp_draft *d)
{
	if (ds->n == ds->cap) {
		size_t cap = ds->cap ? ds->cap * 2 : 64;
		struct l7mp_draft **v = realloc(ds->v, cap * sizeof(struct l7mp_draft *));

		if (!v)
			return -ENOMEM;
		ds->v = v;
		ds->cap = cap;
	}
	ds->v[ds->n++] = d;
	return 0;
}

static int parse_one(struct l7mp_change *c, enum l7mp_obj_kind kind, const cJSON *doc, size_t i,
                     struct drafts *ds, struct l7mp_error *err)
{
	struct l7mp_build build = {.registry = c->model->registry, .issues = &c->issues};
	char path[64];
	struct l7mp_draft *d;

	snprintf(path, sizeof(path), "%s[%zu]", l7mp_obj_kind_plural(kind), i);
	d = l7mp_draft_parse(&build, kind, doc, path);
	if (!d)
		return l7mp_change_check(c, err) ? -EINVAL : l7mp_change_oom(err);
	if (!d->name) {
		snprintf(path, sizeof(path), "%s[%zu].name", l7mp_obj_kind_plural(kind), i);
		l7mp_issues_add(&c->issues, false, doc, path,
		                "missing, expected a name without white space");
		l7mp_draft_free(d);
		return l7mp_change_check(c, err);
	}
	if (drafts_add(ds, d)) {
		l7mp_draft_free(d);
		return l7mp_change_oom(err);
	}
	return 0;
}

static int parse_all(struct l7mp_change *c, const cJSON *doc, struct drafts *ds,
                     struct l7mp_error *err)
{
	for (size_t k = 0; k < L7MP_ARRAY_SIZE(order); k++) {
		const cJSON *list = l7mp_json_member(doc, l7mp_obj_kind_plural(order[k]));
		const cJSON *item;
		size_t i = 0;

		cJSON_ArrayForEach (item, list) {
			int rc = parse_one(c, order[k], item, i++, ds, err);

			if (rc)
				return rc;
		}
	}
	return 0;
}

/* Deletes the objects that the document does not have. */
static int drop_missing(struct builder *b, struct l7mp_error *err)
{
	const struct l7mp_model *m = b->c->model;
	int rc = 0;

	for (size_t k = 0; k < L7MP_ARRAY_SIZE(order); k++)
		for (struct l7mp_object *o = l7mp_model_first(m, order[k]); o && !rc;
		     o = l7mp_model_next(o))
			/* Not recursive: this loop visits all missing objects. */
			if (l7mp_build_in_scope(b, o) && !l7mp_build_claimed(b, order[k], o->name))
				rc = l7mp_change_drop(b->c, o, false, true, err);
	return rc;
}

static int build_all(struct builder *b, const struct drafts *ds, struct l7mp_error *err)
{
	int rc = 0;

	/* Register all given names first, so that generated ones do not collide with them. */
	for (size_t i = 0; !rc && i < ds->n; i++)
		rc = l7mp_build_claim(b, ds->v[i], err);
	if (!rc)
		rc = l7mp_change_check(b->c, err);
	for (size_t i = 0; !rc && i < ds->n; i++)
		rc = l7mp_build_bind_names(b, ds->v[i], err);
	for (size_t i = 0; !rc && i < ds->n; i++)
		rc = l7mp_build_stage(b, ds->v[i], err);
	return rc ? rc : drop_missing(b, err);
}

/*
 * Returns a list that is missing in the document although there are objects of that kind; NULL:
 * none.
 */
static const char *lost_list(const struct l7mp_change *c, const cJSON *doc)
{
	for (size_t k = 0; k < L7MP_ARRAY_SIZE(order); k++) {
		const struct l7mp_object *o = l7mp_model_first(c->model, order[k]);

		while (o && (o->autogenerated || (c->scoped && o->config_owner != c->config_owner)))
			o = l7mp_model_next((struct l7mp_object *)o);
		if (o && !l7mp_json_member(doc, l7mp_obj_kind_plural(order[k])))
			return l7mp_obj_kind_plural(order[k]);
	}
	return NULL;
}

/*
 * An unknown key may be a misspelt list. The list is then missing, which would delete its objects.
 * So the combination is an error, even where an unknown key is only a warning.
 */
static void check_lost(struct l7mp_change *c, const cJSON *doc)
{
	const char *lost = cJSON_IsObject(doc) ? lost_list(c, doc) : NULL;
	const cJSON *child;

	if (!lost)
		return;
	cJSON_ArrayForEach (child, doc)
		if (!l7mp_schema_field(&l7mp_schema_config, child->string))
			l7mp_issues_add(
			        &c->issues, false, child, child->string,
			        "unknown key, where \"%s\" is missing: all of them would be "
			        "deleted; expected \"%s\": [] when that is meant",
			        lost, lost);
}

/* Sets the owner of the objects that the change creates. */
static int set_owner(struct l7mp_change *c, const cJSON *doc, const char *owner,
                     struct l7mp_error *err)
{
	const cJSON *inserts = l7mp_json_member(doc, "rule_inserts");
	const cJSON *admin = l7mp_json_member(doc, "admin");
	int number;

	if (inserts && (!owner || !*owner))
		l7mp_issues_add(&c->issues, false, inserts, "rule_inserts",
		                "expected only in the config of an owner");
	if (!owner)
		return 0;
	if (*owner && admin)
		l7mp_issues_add(&c->issues, false, admin, "admin",
		                "expected only in the config without owner");
	if (*owner &&
	    (strlen(owner) > L7MP_NAME_MAX || !l7mp_schema_pattern_ok(L7MP_P_NAME, owner)))
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_PARSE,
		                      "owner: expected %s of at most %d bytes",
		                      l7mp_schema_pattern_text(L7MP_P_NAME), L7MP_NAME_MAX);
	number = l7mp_owner_take(c, owner, err);
	if (number < 0)
		return number;
	c->scoped = true;
	c->config_owner = (unsigned)number;
	return 0;
}

int l7mp_change_config(struct l7mp_change *c, const cJSON *doc, const char *owner,
                       struct l7mp_error *err)
{
	struct builder b = {.c = c, .mode = BUILD_CONFIG};
	const cJSON *admin = l7mp_json_member(doc, "admin");
	struct drafts ds = {0};
	int rc;

	rc = set_owner(c, doc, owner, err);
	if (rc)
		return rc;
	l7mp_schema_check(&l7mp_schema_config, c->model->registry, doc, "", &c->issues);
	check_lost(c, doc);
	rc = l7mp_change_check(c, err);
	if (!rc)
		rc = parse_all(c, doc, &ds, err);
	if (!rc)
		rc = build_all(&b, &ds, err);
	if (!rc && c->config_owner)
		rc = l7mp_inserts_replace(c, doc, err);
	if (!rc && admin)
		rc = change_admin(c, admin, "admin", err);
	l7mp_build_clear_names(&b);
	for (size_t i = 0; i < ds.n; i++)
		l7mp_draft_free(ds.v[i]);
	free(ds.v);
	return rc;
}
