/* SPDX-License-Identifier: MIT */
/* Changes of the whole config, and of admin. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_private.h"

/* ---- admin ---- */

/* *path: of the admin object in the document. */
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
	/* The first config is what the program starts with. */
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

/* ---- the whole config ---- */

/* Named objects before those that listeners bring along. */
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

/* Deletes what the document does not have. */
static int drop_missing(struct l7mp_builder *b, struct l7mp_error *err)
{
	const struct l7mp_model *m = b->c->model;
	int rc = 0;

	for (size_t k = 0; k < L7MP_ARRAY_SIZE(order); k++)
		for (struct l7mp_object *o = l7mp_model_first(m, order[k]); o && !rc;
		     o = l7mp_model_next(o))
			/* Not recursively: whatever else is missing has its own turn. */
			if (!l7mp_builder_claimed(b, order[k], o->name))
				rc = l7mp_change_drop(b->c, o, false, true, err);
	return rc;
}

static int build_all(struct l7mp_builder *b, const struct drafts *ds, struct l7mp_error *err)
{
	int rc = 0;

	/* All given names first: generated ones keep out of their way. */
	for (size_t i = 0; !rc && i < ds->n; i++)
		rc = l7mp_builder_claim(b, ds->v[i], err);
	if (!rc)
		rc = l7mp_change_check(b->c, err);
	for (size_t i = 0; !rc && i < ds->n; i++)
		rc = l7mp_builder_bind(b, ds->v[i], err);
	for (size_t i = 0; !rc && i < ds->n; i++)
		rc = l7mp_builder_stage(b, ds->v[i], err);
	return rc ? rc : drop_missing(b, err);
}

int l7mp_change_config(struct l7mp_change *c, const cJSON *doc, struct l7mp_error *err)
{
	struct l7mp_builder b = {.c = c, .mode = L7MP_BUILD_CONFIG};
	const cJSON *admin = l7mp_json_member(doc, "admin");
	struct drafts ds = {0};
	int rc;

	l7mp_schema_check(&l7mp_schema_config, c->model->registry, doc, "", &c->issues);
	rc = l7mp_change_check(c, err);
	if (!rc)
		rc = parse_all(c, doc, &ds, err);
	if (!rc)
		rc = build_all(&b, &ds, err);
	if (!rc && admin)
		rc = change_admin(c, admin, "admin", err);
	l7mp_builder_clear(&b);
	for (size_t i = 0; i < ds.n; i++)
		l7mp_draft_free(ds.v[i]);
	free(ds.v);
	return rc;
}
