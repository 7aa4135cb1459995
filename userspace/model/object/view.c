/* SPDX-License-Identifier: MIT */
/*
 * The documents that GET returns. Recursive views follow references, and `apply` may form cycles or
 * fan out: n lists of n rules that apply the next list have n^n paths. So a document shows each
 * rule list in full once. Where it occurs again, where it is nested deeper than a lookup goes, and
 * beyond the budget it is shown by name.
 */
#include <stdlib.h>
#include <string.h>

#include "l7mp/hash.h"
#include "model/model_private.h"

#define VIEW_BUDGET 200000 /* referenced objects shown in full */

struct shown {
	const struct l7mp_object *list;
	UT_hash_handle hh;
};

struct view {
	const struct l7mp_model *model;
	bool recursive;
	bool config; /* the form of POST /config: endpoints in full, others by name */
	bool oom;
	size_t budget;
	struct shown *shown; /* rule lists that are in the document */
	int depth;           /* of rule lists around the one being shown */
};

static cJSON *view_object(struct view *v, const struct l7mp_object *o);

/* The functions below add item, which may be NULL, and record a failure in the view. */
static void put(struct view *v, cJSON *object, const char *key, cJSON *item)
{
	if (l7mp_json_add(object, key, item))
		v->oom = true;
}

static void put_str(struct view *v, cJSON *object, const char *key, const char *text)
{
	put(v, object, key, cJSON_CreateString(text));
}

static void put_num(struct view *v, cJSON *object, const char *key, double n)
{
	put(v, object, key, cJSON_CreateNumber(n));
}

static void push(struct view *v, cJSON *array, cJSON *item)
{
	if (!array || !item || !cJSON_AddItemToArray(array, item)) {
		cJSON_Delete(item);
		v->oom = true;
	}
}

static void put_copy(struct view *v, cJSON *object, const char *key, const cJSON *tree)
{
	put(v, object, key, tree ? cJSON_Duplicate(tree, true) : cJSON_CreateObject());
}

static cJSON *stale(const char *name)
{
	char *text = l7mp_asprintf("%s:<STALE>", name);
	cJSON *node = text ? cJSON_CreateString(text) : NULL;

	free(text);
	return node;
}

static bool may_enter(const struct view *v, const struct l7mp_object *list)
{
	struct shown *found;

	HASH_FIND_PTR(v->shown, &list, found);
	return !found && v->depth < L7MP_APPLY_DEPTH;
}

static void remember(struct view *v, const struct l7mp_object *list)
{
	struct shown *s = calloc(1, sizeof(*s));

	if (s) {
		s->list = list;
		HASH_ADD_PTR(v->shown, list, s);
	}
	if (!s || !s->hh.tbl) {
		free(s);
		v->oom = true;
	}
}

/* Shows a reference: its name, or the object. */
static cJSON *view_ref(struct view *v, enum l7mp_obj_kind kind, const char *name)
{
	const struct l7mp_object *o;

	if (!v->recursive)
		return cJSON_CreateString(name);
	o = l7mp_model_find(v->model, kind, name);
	if (!o)
		return stale(name);
	if (!v->budget || (kind == L7MP_OBJ_RULELIST && !may_enter(v, o)))
		return cJSON_CreateString(name);
	v->budget--;
	return view_object(v, o);
}

static cJSON *view_refs(struct view *v, enum l7mp_obj_kind kind, char *const *names, size_t n)
{
	cJSON *array = cJSON_CreateArray();

	for (size_t i = 0; i < n && !v->oom; i++)
		push(v, array, view_ref(v, kind, names[i]));
	return array;
}

static cJSON *view_rules(struct view *v, const struct l7mp_rulelist *l)
{
	cJSON *array;

	if (v->recursive)
		remember(v, &l->obj);
	v->depth++;
	array = view_refs(v, L7MP_OBJ_RULE, l->rules, l->n_rules);
	v->depth--;
	return array;
}

static void view_listener(struct view *v, cJSON *out, const struct l7mp_listener *l)
{
	const struct l7mp_rulelist *list;

	put_copy(v, out, "spec", l->spec);
	if (l->rules) {
		list = v->recursive ? l7mp_model_find(v->model, L7MP_OBJ_RULELIST, l->rules) : NULL;
		if (list)
			put(v, out, "rules", view_rules(v, list));
		else
			put(v, out, "rules", view_ref(v, L7MP_OBJ_RULELIST, l->rules));
	}
	put_copy(v, out, "options", l->options);
}

/* Adds what sessions have found out; left out of configs, because it changes by itself. */
static void put_health(struct view *v, cJSON *out, const struct l7mp_health_state *h)
{
	cJSON *node = cJSON_CreateObject();
	char time[L7MP_ISO8601_LEN];

	put_num(v, node, "sessions", (double)h->sessions);
	put_num(v, node, "connects", (double)h->connects);
	put_num(v, node, "failed", (double)h->failed);
	put_num(v, node, "lost", (double)h->lost);
	if (h->success_ms)
		put_str(v, node, "last_success", l7mp_iso8601(h->success_ms, time));
	if (h->failure_ms) {
		put_str(v, node, "last_failure", l7mp_iso8601(h->failure_ms, time));
		put_str(v, node, "last_error", h->error);
	}
	put(v, out, "health", node);
}

/* The sums over the endpoints, and the last times and error of any of them. */
static void put_cluster_health(struct view *v, cJSON *out, const struct l7mp_cluster *c)
{
	struct l7mp_health_state sum, one;

	l7mp_health_read(c->health, &sum);
	for (size_t i = 0; i < c->n_endpoints; i++) {
		l7mp_health_read(c->endpoints[i]->health, &one);
		sum.sessions += one.sessions;
		sum.connects += one.connects;
		sum.failed += one.failed;
		sum.lost += one.lost;
		if (one.success_ms > sum.success_ms)
			sum.success_ms = one.success_ms;
		if (one.failure_ms <= sum.failure_ms)
			continue;
		sum.failure_ms = one.failure_ms;
		memcpy(sum.error, one.error, sizeof(sum.error));
	}
	put_health(v, out, &sum);
}

static cJSON *virtual_endpoint(struct view *v, const struct l7mp_cluster *c)
{
	cJSON *node = cJSON_CreateObject();

	put_str(v, node, "name", c->obj.name);
	put(v, node, "spec", cJSON_CreateObject());
	put_num(v, node, "weight", 1);
	put_cluster_health(v, node, c);
	return node;
}

static void view_cluster(struct view *v, cJSON *out, const struct l7mp_cluster *c)
{
	bool is_virtual = c->proto->flags & L7MP_PROTO_VIRTUAL;
	cJSON *array, *lb = cJSON_CreateObject();

	put_copy(v, out, "spec", c->spec);
	if (v->recursive || v->config) {
		array = cJSON_CreateArray();
		for (size_t i = 0; i < c->n_endpoints && !v->oom; i++)
			push(v, array, view_object(v, &c->endpoints[i]->obj));
		if (is_virtual && !v->config)
			push(v, array, virtual_endpoint(v, c));
		put(v, out, "endpoints", array);
	} else {
		put_num(v, out, "endpoints", is_virtual ? 1 : (double)c->n_endpoints);
	}
	put_str(v, lb, "policy", c->lb_policy_name);
	if (c->lb_key)
		put_str(v, lb, "key", c->lb_key);
	put(v, out, "loadbalancer", lb);
	put_copy(v, out, "options", c->options);
	if (!v->config)
		put_cluster_health(v, out, c);
}

static void view_rule(struct view *v, cJSON *out, const struct l7mp_rule *r)
{
	cJSON *action = cJSON_CreateObject();

	if (r->match)
		put_copy(v, out, "match", r->match);
	else
		put_str(v, out, "match", "*");
	if (r->n_rewrite) {
		cJSON *array = cJSON_CreateArray();

		for (size_t i = 0; i < r->n_rewrite; i++) {
			cJSON *item = cJSON_CreateObject();

			put_str(v, item, "path", r->rewrite[i].path);
			put(v, item, "value", cJSON_Duplicate(r->rewrite[i].value, true));
			push(v, array, item);
		}
		put(v, action, "rewrite", array);
	}
	if (r->route)
		put(v, action, "route", view_ref(v, L7MP_OBJ_ROUTE, r->route));
	if (r->apply)
		put(v, action, "apply", view_ref(v, L7MP_OBJ_RULELIST, r->apply));
	put(v, out, "action", action);
}

static const char *const retry_names[] = {
        [L7MP_RETRY_NEVER] = "never",
        [L7MP_RETRY_CONNECT_FAILURE] = "connect-failure",
        [L7MP_RETRY_DISCONNECT] = "disconnect",
        [L7MP_RETRY_ALWAYS] = "always",
};

static void view_route(struct view *v, cJSON *out, const struct l7mp_route *r)
{
	cJSON *retry = cJSON_CreateObject();

	if (r->destination)
		put(v, out, "destination", view_ref(v, L7MP_OBJ_CLUSTER, r->destination));
	put(v, out, "ingress", view_refs(v, L7MP_OBJ_CLUSTER, r->ingress, r->n_ingress));
	put(v, out, "egress", view_refs(v, L7MP_OBJ_CLUSTER, r->egress, r->n_egress));
	put_str(v, retry, "retry_on", retry_names[r->retry_on]);
	put_num(v, retry, "num_retries", r->num_retries);
	put_num(v, retry, "timeout", r->timeout_ms);
	put(v, out, "retry", retry);
	if (r->offload == L7MP_OFFLOAD_NEVER)
		put_str(v, out, "offload", "never");
}

/* Adds nothing for an object without owner, or one that has been removed from the model. */
static void put_owner(struct view *v, cJSON *out, unsigned config_owner)
{
	const char *name = l7mp_model_owner(v->model, config_owner).name;

	if (config_owner && name)
		put_str(v, out, "owner", name);
}

static void view_inserts(struct view *v, cJSON *out, const struct l7mp_rulelist *l)
{
	cJSON *array = cJSON_CreateArray();

	for (size_t i = 0; i < l->n_inserts && !v->oom; i++) {
		const struct l7mp_rule_insert *in = &l->inserts[i];
		cJSON *item = cJSON_CreateObject();

		put_str(v, item, "rule", l->rules[in->at]);
		put_num(v, item, "position", in->position);
		put_owner(v, item, in->config_owner);
		push(v, array, item);
	}
	put(v, out, "inserts", array);
}

static void view_endpoint(struct view *v, cJSON *out, const struct l7mp_endpoint *e)
{
	struct l7mp_health_state health;

	put_copy(v, out, "spec", e->spec);
	put_num(v, out, "weight", e->weight);
	if (e->drop)
		put(v, out, "drop", cJSON_CreateTrue());
	if (v->config)
		return;
	l7mp_health_read(e->health, &health);
	put_health(v, out, &health);
}

static cJSON *view_object(struct view *v, const struct l7mp_object *o)
{
	cJSON *out = cJSON_CreateObject();

	put_str(v, out, "name", o->name);
	if (o->kind != L7MP_OBJ_ENDPOINT)
		put_owner(v, out, o->config_owner);
	switch (o->kind) {
	case L7MP_OBJ_LISTENER:
		view_listener(v, out, (const struct l7mp_listener *)o);
		break;
	case L7MP_OBJ_CLUSTER:
		view_cluster(v, out, (const struct l7mp_cluster *)o);
		break;
	case L7MP_OBJ_ENDPOINT:
		view_endpoint(v, out, (const struct l7mp_endpoint *)o);
		break;
	case L7MP_OBJ_RULELIST:
		put(v, out, "rules", view_rules(v, (const struct l7mp_rulelist *)o));
		if (((const struct l7mp_rulelist *)o)->n_inserts)
			view_inserts(v, out, (const struct l7mp_rulelist *)o);
		break;
	case L7MP_OBJ_RULE:
		view_rule(v, out, (const struct l7mp_rule *)o);
		break;
	case L7MP_OBJ_ROUTE:
		view_route(v, out, (const struct l7mp_route *)o);
		break;
	case L7MP_OBJ_KINDS:
		break;
	}
	return out;
}

static cJSON *finish(struct view *v, cJSON *out)
{
	struct shown *s, *next;

	HASH_ITER (hh, v->shown, s, next) {
		HASH_DEL(v->shown, s);
		free(s);
	}
	if (!v->oom)
		return out;
	cJSON_Delete(out);
	return NULL;
}

cJSON *l7mp_object_to_json(const struct l7mp_model *m, const void *object, bool recursive)
{
	struct view v = {.model = m, .recursive = recursive, .budget = VIEW_BUDGET};

	return finish(&v, view_object(&v, object));
}

cJSON *l7mp_object_to_config(const struct l7mp_model *m, const void *object)
{
	struct view v = {.model = m, .config = true};

	return finish(&v, view_object(&v, object));
}
