/* SPDX-License-Identifier: MIT */
/* Single endpoints: each change makes a new version of the cluster, too. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "build.h"

/* Returns a modifiable copy without endpoints and `lb`. NULL: out of memory. */
static struct l7mp_cluster *cluster_copy(const struct l7mp_cluster *c, size_t n_endpoints)
{
	struct l7mp_cluster *n = l7mp_object_new(L7MP_OBJ_CLUSTER);

	if (!n)
		return NULL;
	n->proto = c->proto;
	n->lb_policy = c->lb_policy;
	n->spec = cJSON_Duplicate(c->spec, true);
	n->options = cJSON_Duplicate(c->options, true);
	n->lb_policy_name = c->lb_policy_name ? strdup(c->lb_policy_name) : NULL;
	n->lb_key = c->lb_key ? strdup(c->lb_key) : NULL;
	n->endpoints = calloc(n_endpoints ? n_endpoints : 1, sizeof(struct l7mp_endpoint *));
	if (l7mp_build_copy_base(&n->obj, &c->obj) || !n->spec || (c->options && !n->options) ||
	    (c->lb_policy_name && !n->lb_policy_name) || (c->lb_key && !n->lb_key) ||
	    !n->endpoints) {
		l7mp_object_unref(n);
		return NULL;
	}
	return n;
}

/*
 * Stages a new version of the cluster without `out` (may be NULL), and with `in` (may be NULL) in
 * its place or at the end.
 */
static int recluster(struct l7mp_change *c, struct l7mp_cluster *old,
                     const struct l7mp_endpoint *out, struct l7mp_endpoint *in, const char *path,
                     struct l7mp_error *err)
{
	struct l7mp_cluster *n = cluster_copy(old, old->n_endpoints + 1);
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

/* Builds an endpoint from the document; d->object is then complete. */
static int parse_endpoint(struct l7mp_change *c, const struct l7mp_cluster *cluster,
                          const cJSON *doc, const char *path, struct l7mp_draft **out,
                          struct l7mp_error *err)
{
	struct builder b = {.c = c, .mode = BUILD_ADD};
	struct l7mp_endpoint *e;
	int rc;

	l7mp_schema_check_endpoint(c->model->registry, cluster->proto, doc, path, &c->issues);
	rc = l7mp_build_parse(c, L7MP_OBJ_ENDPOINT, doc, path, out, err);
	if (rc)
		return rc;
	if (!(*out)->name)
		rc = l7mp_build_generate_name(&b, *out, cluster->obj.name, L7MP_SLOT_ENDPOINTS,
		                              err);
	l7mp_build_clear_names(&b);
	e = (struct l7mp_endpoint *)(*out)->object;
	e->obj.config_owner = cluster->obj.config_owner;
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
		return l7mp_build_missing(err, L7MP_OBJ_CLUSTER, cluster);
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

int l7mp_build_replace_endpoint(struct l7mp_change *c, struct l7mp_endpoint *old, const cJSON *doc,
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

int l7mp_build_delete_endpoint(struct l7mp_change *c, struct l7mp_endpoint *e, bool recursive,
                               struct l7mp_error *err)
{
	int rc = recluster(c, cluster_of(c, e), e, NULL, "", err);

	return rc ? rc
	          : l7mp_change_stage(c, L7MP_OBJ_ENDPOINT, e->obj.name, NULL, recursive, "", err);
}
