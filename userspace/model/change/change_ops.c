/* SPDX-License-Identifier: MIT */
/* Changes of single objects: add, replace, delete, endpoints, the rules of a list. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_private.h"

/* ---- add and replace ---- */

static int parse(struct l7mp_change *c, enum l7mp_obj_kind kind, const cJSON *doc, const char *path,
                 struct l7mp_draft **out, struct l7mp_error *err)
{
	struct l7mp_build build = {.registry = c->model->registry, .issues = &c->issues};
	int rc = l7mp_change_check(c, err);

	*out = NULL;
	if (rc)
		return rc;
	*out = l7mp_draft_parse(&build, kind, doc, path);
	if (*out)
		return 0;
	rc = l7mp_change_check(c, err);
	if (rc)
		return rc;
	l7mp_change_oom(err);
	return -ENOMEM;
}

/*
 * Adds the draft to the change, with its names entered and its references bound. Takes d. `put`:
 * the document is one as GET shows it.
 */
static int build(struct l7mp_builder *b, struct l7mp_draft *d, bool put, struct l7mp_error *err)
{
	int rc = put ? l7mp_builder_refer(b, d, err) : 0;

	if (!rc)
		rc = l7mp_builder_claim(b, d, err);
	if (!rc)
		rc = l7mp_change_check(b->c, err);
	if (!rc && !d->name)
		rc = l7mp_builder_generate(b, d, b->owner->name, L7MP_SLOT_LIST, err);
	if (!rc)
		rc = l7mp_builder_bind(b, d, err);
	if (!rc)
		rc = l7mp_builder_stage(b, d, err);
	if (!rc && b->mode == L7MP_BUILD_REPLACE)
		rc = l7mp_builder_prune(b, err);
	l7mp_builder_clear(b);
	l7mp_draft_free(d);
	return rc;
}

/* A top-level object needs a name, as nothing could refer to it without one. */
static void check_named(struct l7mp_change *c, const cJSON *doc, const char *path)
{
	char *where = l7mp_path_key(path, "name");

	if (cJSON_IsObject(doc) && !l7mp_json_member(doc, "name") && !c->issues.errors)
		l7mp_issues_add(&c->issues, false, doc, where ? where : path,
		                "missing, expected a name without white space");
	free(where);
}

static int refuse_endpoint(struct l7mp_error *err)
{
	return l7mp_error_set(err, -EINVAL, L7MP_ERR_SCHEMA,
	                      "an endpoint is added to a cluster, not by itself");
}

static int add(struct l7mp_change *c, enum l7mp_obj_kind kind, const cJSON *doc, const char *path,
               bool put, struct l7mp_error *err)
{
	struct l7mp_builder b = {.c = c, .mode = L7MP_BUILD_ADD};
	struct l7mp_draft *d;
	int rc;

	if (kind == L7MP_OBJ_ENDPOINT)
		return refuse_endpoint(err);
	l7mp_schema_check(l7mp_schema_of_kind(kind), c->model->registry, doc, path, &c->issues);
	check_named(c, doc, path);
	rc = parse(c, kind, doc, path, &d, err);
	return rc ? rc : build(&b, d, put, err);
}

int l7mp_change_add(struct l7mp_change *c, enum l7mp_obj_kind kind, const cJSON *doc,
                    const char *path, struct l7mp_error *err)
{
	return add(c, kind, doc, path, false, err);
}

/* Returns the document with its name: when it has none, a copy that lives as long as the change. */
static const cJSON *with_name(struct l7mp_change *c, const cJSON *doc, const char *name)
{
	cJSON *copy;

	if (!cJSON_IsObject(doc) || l7mp_json_member(doc, "name"))
		return doc;
	if (!c->docs)
		c->docs = cJSON_CreateArray();
	copy = cJSON_Duplicate(doc, true);
	if (!c->docs || !copy || l7mp_json_add_str(copy, "name", name) ||
	    !cJSON_AddItemToArray(c->docs, copy)) {
		cJSON_Delete(copy);
		return NULL;
	}
	return copy;
}

static void check_same_name(struct l7mp_change *c, const cJSON *doc, const char *name,
                            const char *path)
{
	const cJSON *given = l7mp_json_member(doc, "name");
	char *where = l7mp_path_key(path, "name");
	char got[80];

	if (cJSON_IsString(given) && strcmp(given->valuestring, name) != 0)
		l7mp_issues_add(&c->issues, false, given, where ? where : path,
		                "expected \"%s\" or nothing, got %s", name,
		                l7mp_json_brief(given, got, sizeof(got)));
	free(where);
}

/* ---- endpoints ---- */

/*
 * Stages a new version of the cluster: without `out` (may be NULL), and with `in` (may be NULL) in
 * its place or at the end.
 */
static int recluster(struct l7mp_change *c, struct l7mp_cluster *old,
                     const struct l7mp_endpoint *out, struct l7mp_endpoint *in, const char *path,
                     struct l7mp_error *err)
{
	struct l7mp_cluster *n = l7mp_cluster_copy(old, old->n_endpoints + 1);
	int rc;

	if (!n)
		return l7mp_change_oom(err);
	for (size_t i = 0; i < old->n_endpoints; i++) {
		struct l7mp_endpoint *e = old->endpoints[i] == out ? in : old->endpoints[i];

		if (e)
			n->endpoints[n->n_endpoints++] = l7mp_object_ref(e);
	}
	if (in && !out)
		n->endpoints[n->n_endpoints++] = l7mp_object_ref(in);
	rc = l7mp_lb_new(n, &n->lb) ? l7mp_change_oom(err) : 0;
	if (!rc)
		rc = l7mp_change_stage(c, L7MP_OBJ_CLUSTER, n->obj.name, &n->obj, false, path, err);
	l7mp_object_unref(n);
	return rc;
}

/* Builds an endpoint from the document; d->object is complete then. */
static int parse_endpoint(struct l7mp_change *c, const struct l7mp_cluster *cluster,
                          const cJSON *doc, const char *path, struct l7mp_draft **out,
                          struct l7mp_error *err)
{
	struct l7mp_builder b = {.c = c, .mode = L7MP_BUILD_ADD};
	struct l7mp_endpoint *e;
	int rc;

	l7mp_schema_check_endpoint(c->model->registry, cluster->proto, doc, path, &c->issues);
	rc = parse(c, L7MP_OBJ_ENDPOINT, doc, path, out, err);
	if (rc)
		return rc;
	if (!(*out)->name)
		rc = l7mp_builder_generate(&b, *out, cluster->obj.name, L7MP_SLOT_ENDPOINTS, err);
	l7mp_builder_clear(&b);
	e = (struct l7mp_endpoint *)(*out)->object;
	if (!rc) {
		e->obj.name = strdup((*out)->name);
		e->cluster = strdup(cluster->obj.name);
		if (!e->obj.name || !e->cluster)
			rc = l7mp_change_oom(err);
	}
	return rc;
}

int l7mp_change_add_endpoint(struct l7mp_change *c, const char *cluster, const cJSON *doc,
                             const char *path, struct l7mp_error *err)
{
	struct l7mp_cluster *old =
	        (struct l7mp_cluster *)l7mp_change_find(c, L7MP_OBJ_CLUSTER, cluster);
	struct l7mp_draft *d;
	int rc;

	if (!old)
		return l7mp_change_missing(err, L7MP_OBJ_CLUSTER, cluster);
	if (old->proto->flags & L7MP_PROTO_VIRTUAL) {
		l7mp_issues_add(&c->issues, false, doc, path,
		                "cluster \"%s\" is of protocol %s, which has no endpoints", cluster,
		                old->proto->name);
		return l7mp_change_check(c, err);
	}
	rc = parse_endpoint(c, old, doc, path, &d, err);
	if (!rc && l7mp_change_find(c, L7MP_OBJ_ENDPOINT, d->name))
		rc = l7mp_change_exists(err, L7MP_OBJ_ENDPOINT, d->name, path);
	if (!rc)
		rc = l7mp_change_stage(c, L7MP_OBJ_ENDPOINT, d->name, d->object, false, path, err);
	if (!rc)
		rc = recluster(c, old, NULL, (struct l7mp_endpoint *)d->object, path, err);
	l7mp_draft_free(d);
	return rc;
}

static struct l7mp_cluster *cluster_of(struct l7mp_change *c, const struct l7mp_endpoint *e)
{
	return (struct l7mp_cluster *)l7mp_change_find(c, L7MP_OBJ_CLUSTER, e->cluster);
}

static int replace_endpoint(struct l7mp_change *c, struct l7mp_endpoint *old, const cJSON *doc,
                            const char *path, struct l7mp_error *err)
{
	struct l7mp_cluster *cluster = cluster_of(c, old);
	struct l7mp_draft *d;
	int rc = parse_endpoint(c, cluster, doc, path, &d, err);

	if (!rc && !l7mp_object_same(d->object, &old->obj)) {
		rc = recluster(c, cluster, old, (struct l7mp_endpoint *)d->object, path, err);
		if (!rc)
			rc = l7mp_change_stage(c, L7MP_OBJ_ENDPOINT, d->name, d->object, false,
			                       path, err);
	}
	l7mp_draft_free(d);
	return rc;
}

int l7mp_change_replace(struct l7mp_change *c, enum l7mp_obj_kind kind, const char *name,
                        const cJSON *doc, const char *path, struct l7mp_error *err)
{
	struct l7mp_object *old = l7mp_change_find(c, kind, name);
	struct l7mp_builder b = {.c = c, .mode = L7MP_BUILD_REPLACE, .top = old};
	struct l7mp_draft *d;
	int rc;

	if (!old)
		return l7mp_change_missing(err, kind, name);
	doc = with_name(c, doc, old->name);
	if (!doc)
		return l7mp_change_oom(err);
	check_same_name(c, doc, name, path);
	if (kind == L7MP_OBJ_ENDPOINT)
		return replace_endpoint(c, (struct l7mp_endpoint *)old, doc, path, err);
	l7mp_schema_check(l7mp_schema_of_kind(kind), c->model->registry, doc, path, &c->issues);
	rc = parse(c, kind, doc, path, &d, err);
	return rc ? rc : build(&b, d, true, err);
}

int l7mp_change_put(struct l7mp_change *c, enum l7mp_obj_kind kind, const char *name,
                    const cJSON *doc, const char *path, struct l7mp_error *err)
{
	if (kind == L7MP_OBJ_ENDPOINT || l7mp_change_find(c, kind, name))
		return l7mp_change_replace(c, kind, name, doc, path, err);
	doc = with_name(c, doc, name);
	if (!doc)
		return l7mp_change_oom(err);
	check_same_name(c, doc, name, path);
	return add(c, kind, doc, path, true, err);
}

/* ---- delete ---- */

static int delete_endpoint(struct l7mp_change *c, struct l7mp_endpoint *e, bool recursive,
                           struct l7mp_error *err)
{
	int rc = recluster(c, cluster_of(c, e), e, NULL, "", err);

	return rc ? rc
	          : l7mp_change_stage(c, L7MP_OBJ_ENDPOINT, e->obj.name, NULL, recursive, "", err);
}

int l7mp_change_delete(struct l7mp_change *c, enum l7mp_obj_kind kind, const char *name,
                       bool recursive, struct l7mp_error *err)
{
	struct l7mp_object *o = l7mp_change_find(c, kind, name);

	if (!o)
		return l7mp_change_missing(err, kind, name);
	if (kind == L7MP_OBJ_ENDPOINT)
		return delete_endpoint(c, (struct l7mp_endpoint *)o, recursive, err);
	return l7mp_change_drop(c, o, recursive, recursive, err);
}

/* ---- the rules of a list ---- */

/*
 * Stages a new version of the list, with a rule inserted at `position`, or (NULL) the one there
 * removed.
 */
static int relist(struct l7mp_change *c, const struct l7mp_rulelist *old, size_t position,
                  const char *in, const char *path, struct l7mp_error *err)
{
	struct l7mp_rulelist *l = l7mp_rulelist_copy(old);
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
		rc = l7mp_change_stage(c, L7MP_OBJ_RULELIST, l->obj.name, &l->obj, false, path,
		                       err);
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
	struct l7mp_builder b = {.c = c, .mode = L7MP_BUILD_ADD, .owner = &l->obj};
	size_t first = c->n_items;
	struct l7mp_draft *d;
	int rc;

	l7mp_schema_check(&l7mp_schema_rule, c->model->registry, doc, path, &c->issues);
	rc = parse(c, L7MP_OBJ_RULE, doc, path, &d, err);
	if (rc)
		return rc;
	rc = build(&b, d, false, err);
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
		return l7mp_change_missing(err, L7MP_OBJ_RULELIST, rulelist);
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
		return l7mp_change_missing(err, L7MP_OBJ_RULELIST, rulelist);
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
