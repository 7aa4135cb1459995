/* SPDX-License-Identifier: MIT */
/*
 * From the spelling of custom resources to the proxy's: unions ({UDP: {port: 53}}), keys that end
 * in Ref, valueStr, endpoints by selector. The proxy's own spelling is taken everywhere, too.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core.h"
#include "l7mp/model.h"

/* ---- messages ---- */

void op_translate_fail(struct op_translate *t, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	t->failed = true;
	op_refuse_node(t->node, "Invalid", "%s: %s", t->path, text);
}

size_t op_translate_enter(struct op_translate *t, const char *fmt, ...)
{
	size_t mark = strlen(t->path);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(t->path + mark, sizeof(t->path) - mark, fmt, ap);
	va_end(ap);
	return mark;
}

void op_translate_leave(struct op_translate *t, size_t mark)
{
	t->path[mark] = 0;
}

static cJSON *out_of_memory(struct op_translate *t, cJSON *tree)
{
	t->x->oom = true;
	t->failed = true;
	cJSON_Delete(tree);
	return NULL;
}

static bool bad_type(struct op_translate *t, const cJSON *node, const char *expected)
{
	char got[64];

	op_translate_fail(t, "expected %s, got %s", expected,
	                  node ? l7mp_json_brief(node, got, sizeof(got)) : "nothing");
	return true;
}

/* Inline objects may nest: rule, route, cluster. */
static bool too_deep(struct op_translate *t)
{
	if (t->depth < OP_MAX_DEPTH)
		return false;
	op_translate_fail(t, "nested too deeply");
	return true;
}

/* Copies a member as it is. Returns 0 or -1. */
static int keep(struct op_translate *t, cJSON *out, const cJSON *in, const char *key)
{
	const cJSON *node = l7mp_json_member(in, key);

	if (!node || cJSON_IsNull(node) || !l7mp_json_add(out, key, cJSON_Duplicate(node, true)))
		return 0;
	out_of_memory(t, NULL);
	return -1;
}

/* ---- specs ---- */

static const cJSON *union_member(const struct op_translate *t, const cJSON *spec)
{
	const cJSON *found = NULL, *c;

	cJSON_ArrayForEach (c, spec) {
		if (!l7mp_registry_find(t->x->s->registry, c->string))
			continue;
		if (found)
			return NULL;
		found = c;
	}
	return found;
}

cJSON *op_translate_spec(struct op_translate *t, const cJSON *spec)
{
	const cJSON *protocol = l7mp_json_member(spec, "protocol"), *body = spec, *c;
	cJSON *out;

	if (!cJSON_IsObject(spec))
		return bad_type(t, spec, "an object with a protocol"), NULL;
	if (too_deep(t))
		return NULL;
	if (!protocol) {
		body = union_member(t, spec);
		if (!body || spec->child->next) {
			if (spec->child && !spec->child->next)
				op_translate_fail(t, "'%.80s' is no protocol", spec->child->string);
			else
				op_translate_fail(
				        t, "expected one protocol as the only key, or 'protocol'");
			return NULL;
		}
		if (!cJSON_IsObject(body) && !cJSON_IsNull(body))
			return bad_type(t, body, "an object"), NULL;
	}
	out = cJSON_CreateObject();
	if (!protocol && l7mp_json_add_str(out, "protocol", body->string))
		return out_of_memory(t, out);
	if (!cJSON_IsObject(body)) /* null: no keys */
		body = NULL;
	cJSON_ArrayForEach (c, body) {
		cJSON *copy = NULL;

		if (strcmp(c->string, "transport") == 0) {
			size_t mark = op_translate_enter(t, ".transport");

			t->depth++;
			copy = op_translate_spec(t, c);
			t->depth--;
			op_translate_leave(t, mark);
			if (!copy) {
				cJSON_Delete(out);
				return NULL;
			}
		} else if (!cJSON_IsNull(c)) {
			copy = cJSON_Duplicate(c, true);
		} else {
			continue;
		}
		if (l7mp_json_add(out, c->string, copy))
			return out_of_memory(t, out);
	}
	return out;
}

/* ---- clusters ---- */

/* The original's spelling of a UNIX socket's path is `filename`. */
static int endpoint_spec(struct op_translate *t, cJSON *out, const cJSON *spec)
{
	cJSON *copy, *file;

	if (!cJSON_IsObject(spec))
		return bad_type(t, spec, "an object with an address"), -1;
	copy = cJSON_Duplicate(spec, true);
	file = cJSON_DetachItemFromObjectCaseSensitive(copy, "filename");
	if (file && l7mp_json_member(copy, "address")) {
		cJSON_Delete(file);
		file = NULL;
	}
	if ((file && l7mp_json_add(copy, "address", file)) || l7mp_json_add(out, "spec", copy)) {
		out_of_memory(t, NULL);
		return -1;
	}
	return 0;
}

static int claim_name(struct op_translate *t, const char *what, const cJSON *object)
{
	const char *name = l7mp_json_str(object, "name", NULL);

	if (name)
		op_unit_claim(t->x, t->unit, "%s %s", what, name);
	return t->x->oom ? -1 : 0;
}

static int static_endpoint(struct op_translate *t, cJSON *list, const cJSON *e)
{
	cJSON *out = cJSON_CreateObject();
	size_t mark = op_translate_enter(t, ".spec");
	int rc = endpoint_spec(t, out, l7mp_json_member(e, "spec"));

	op_translate_leave(t, mark);
	if (!rc)
		rc = claim_name(t, "endpoint", e);
	if (!rc)
		rc = keep(t, out, e, "name") || keep(t, out, e, "weight") ||
		     keep(t, out, e, "drop");
	if (rc || !out || !cJSON_AddItemToArray(list, out)) {
		cJSON_Delete(out);
		return -1;
	}
	return 0;
}

cJSON *op_endpoint_json(const char *cluster, const char *address, unsigned port, double weight)
{
	char suffix[16] = "", *full = NULL;
	cJSON *e = cJSON_CreateObject(), *spec = cJSON_CreateObject();
	int rc;

	if (port)
		snprintf(suffix, sizeof(suffix), ":%u", port);
	full = l7mp_asprintf("%s%s", address, suffix);
	rc = full ? 0 : -ENOMEM;
	if (!rc) {
		char *name = op_name(NULL, cluster, NULL, NULL, full);

		rc = name ? l7mp_json_add_str(e, "name", name) : -ENOMEM;
		free(name);
	}
	free(full);
	rc = rc ? rc : l7mp_json_add_str(spec, "address", address);
	if (!rc && port)
		rc = l7mp_json_add_num(spec, "port", port);
	if (rc) {
		cJSON_Delete(spec);
		cJSON_Delete(e);
		return NULL;
	}
	rc = l7mp_json_add(e, "spec", spec);
	/* 1 is the default. */
	if (!rc && (weight < 1 || weight > 1))
		rc = l7mp_json_add_num(e, "weight", weight);
	if (rc) {
		cJSON_Delete(e);
		return NULL;
	}
	return e;
}

static bool has_endpoint(const cJSON *list, const cJSON *endpoint)
{
	const char *name = l7mp_json_str(endpoint, "name", "");
	const cJSON *e;

	cJSON_ArrayForEach (e, list)
		if (strcmp(l7mp_json_str(e, "name", ""), name) == 0)
			return true;
	return false;
}

/* One endpoint a pod; those that end or are not ready get no new sessions. */
int op_pod_endpoints(const struct op_store *s, const struct op_obj *from, const cJSON *selector,
                     const char *cluster, cJSON *list, char *why, size_t size)
{
	struct op_pods pods = {0};
	int rc = op_select(s, from, selector, &pods, why, size);
	bool first = !list->child;

	for (size_t i = 0; !rc && i < pods.n; i++) {
		const struct op_pod *p = pods.v[i]->pod;
		cJSON *e;

		if (!*p->ip || p->over)
			continue;
		e = op_endpoint_json(cluster, p->ip, 0, p->ready && !p->terminating ? 1 : 0);
		if (!e)
			rc = -ENOMEM;
		else if (!first && has_endpoint(list, e))
			cJSON_Delete(e); /* two selectors have the pod */
		else
			cJSON_AddItemToArray(list, e);
	}
	op_pods_free(&pods);
	return rc;
}

static int selected_endpoints(struct op_translate *t, cJSON *list, const cJSON *selector,
                              const char *cluster)
{
	char why[200];
	int rc = op_pod_endpoints(t->x->s, t->node->obj, selector, cluster, list, why, sizeof(why));

	op_memo_pods(t->x, t->node->obj, selector);
	if (rc == -EINVAL)
		op_translate_fail(t, "%s", why);
	if (rc == -ENOMEM)
		out_of_memory(t, NULL);
	return rc;
}

static int endpoints(struct op_translate *t, cJSON *out, const cJSON *in, const char *cluster)
{
	const cJSON *list = l7mp_json_member(in, "endpoints"), *e;
	cJSON *result;
	int i = 0, rc = 0;

	if (!list || cJSON_IsNull(list))
		return 0;
	if (!cJSON_IsArray(list)) {
		size_t mark = op_translate_enter(t, ".endpoints");

		bad_type(t, list, "an array");
		op_translate_leave(t, mark);
		return -1;
	}
	result = cJSON_CreateArray();
	if (l7mp_json_add(out, "endpoints", result)) {
		out_of_memory(t, NULL);
		return -1;
	}
	cJSON_ArrayForEach (e, list) {
		const cJSON *selector = l7mp_json_member(e, "selector");
		size_t mark = op_translate_enter(t, ".endpoints[%d]", i++);

		if (selector)
			rc = selected_endpoints(t, result, selector, cluster);
		else
			rc = static_endpoint(t, result, e);
		op_translate_leave(t, mark);
		if (rc)
			return -1;
	}
	return 0;
}

cJSON *op_translate_cluster(struct op_translate *t, const cJSON *cluster, const char *name)
{
	cJSON *out, *spec;
	const char *own = name ? name : l7mp_json_str(cluster, "name", NULL);
	char nameless[L7MP_NAME_MAX + 1];
	size_t mark;

	if (!cJSON_IsObject(cluster))
		return bad_type(t, cluster, "a cluster object"), NULL;
	if (too_deep(t))
		return NULL;
	/* Endpoints by selector have names, which have to be unique. */
	snprintf(nameless, sizeof(nameless), "%.240s/c%d", t->unit->name, t->clusters++);
	mark = op_translate_enter(t, ".spec");
	spec = op_translate_spec(t, l7mp_json_member(cluster, "spec"));
	op_translate_leave(t, mark);
	if (!spec)
		return NULL;
	out = cJSON_CreateObject();
	if ((own && l7mp_json_add_str(out, "name", own)) || l7mp_json_add(out, "spec", spec)) {
		if (own && !l7mp_json_member(out, "name"))
			cJSON_Delete(spec);
		return out_of_memory(t, out);
	}
	if ((!name && claim_name(t, "cluster", cluster)) ||
	    endpoints(t, out, cluster, own ? own : nameless) ||
	    keep(t, out, cluster, "loadbalancer") || keep(t, out, cluster, "options")) {
		cJSON_Delete(out);
		return NULL;
	}
	return out;
}

/* A name, {clusterRef: NAME}, {cluster: {…}}, or a cluster. Returns a new tree. */
static cJSON *cluster_or_ref(struct op_translate *t, const cJSON *node)
{
	const cJSON *ref = cJSON_IsString(node) ? node : l7mp_json_member(node, "clusterRef");
	const cJSON *wrapped = l7mp_json_member(node, "cluster");
	cJSON *out;
	char *name;

	if (!ref) {
		t->depth++;
		out = op_translate_cluster(t, wrapped ? wrapped : node, NULL);
		t->depth--;
		return out;
	}
	if (!cJSON_IsString(ref))
		return bad_type(t, ref, "the name of a Target"), NULL;
	name = op_resolve_cluster(t, ref->valuestring);
	if (!name)
		return NULL;
	out = cJSON_CreateString(name);
	free(name);
	return out ? out : out_of_memory(t, NULL);
}

/* ---- routes ---- */

static int chain(struct op_translate *t, cJSON *out, const cJSON *in, const char *key)
{
	const cJSON *list = l7mp_json_member(in, key), *e;
	size_t mark = op_translate_enter(t, ".%s", key);
	cJSON *result;
	int i = 0;

	if (!list || cJSON_IsNull(list)) {
		op_translate_leave(t, mark);
		return 0;
	}
	if (!cJSON_IsArray(list)) {
		bad_type(t, list, "an array");
		op_translate_leave(t, mark);
		return -1;
	}
	result = cJSON_CreateArray();
	if (l7mp_json_add(out, key, result)) {
		out_of_memory(t, NULL);
		return -1;
	}
	cJSON_ArrayForEach (e, list) {
		size_t inner = op_translate_enter(t, "[%d]", i++);
		cJSON *c = cluster_or_ref(t, e);

		op_translate_leave(t, inner);
		if (!c || !cJSON_AddItemToArray(result, c))
			return -1;
	}
	op_translate_leave(t, mark);
	return 0;
}

static int destination(struct op_translate *t, cJSON *out, const cJSON *route)
{
	static const char *const keys[] = {"destination", "destinationRef", "cluster"};
	const cJSON *found = NULL;
	size_t mark;
	cJSON *d;

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(keys); i++) {
		const cJSON *c = l7mp_json_member(route, keys[i]);

		if (!c || cJSON_IsNull(c))
			continue;
		if (found) {
			op_translate_fail(t, "expected one of destination and destinationRef");
			return -1;
		}
		found = c;
	}
	if (!found) {
		op_translate_fail(t, "destination: missing, expected a Target's name or a cluster");
		return -1;
	}
	mark = op_translate_enter(t, ".%s", found->string);
	if (strcmp(found->string, "destinationRef") == 0 && !cJSON_IsString(found)) {
		bad_type(t, found, "the name of a Target");
		return -1;
	}
	d = cluster_or_ref(t, found);
	op_translate_leave(t, mark);
	if (!d)
		return -1;
	if (l7mp_json_add(out, "destination", d)) {
		out_of_memory(t, NULL);
		return -1;
	}
	return 0;
}

cJSON *op_translate_route(struct op_translate *t, const cJSON *route)
{
	cJSON *out;

	if (!cJSON_IsObject(route))
		return bad_type(t, route, "a route object"), NULL;
	if (too_deep(t))
		return NULL;
	out = cJSON_CreateObject();
	if (!out)
		return out_of_memory(t, NULL);
	t->depth++;
	if (destination(t, out, route) || chain(t, out, route, "ingress") ||
	    chain(t, out, route, "egress") || keep(t, out, route, "retry") ||
	    keep(t, out, route, "offload")) {
		cJSON_Delete(out);
		out = NULL;
	}
	t->depth--;
	return out;
}

/* ---- rules ---- */

static int rewrites(struct op_translate *t, cJSON *out, const cJSON *action)
{
	const cJSON *list = l7mp_json_member(action, "rewrite"), *e;
	cJSON *result;
	int i = 0;

	if (!list || cJSON_IsNull(list))
		return 0;
	if (!cJSON_IsArray(list)) {
		op_translate_fail(t, "rewrite: expected an array");
		return -1;
	}
	result = cJSON_CreateArray();
	if (l7mp_json_add(out, "rewrite", result)) {
		out_of_memory(t, NULL);
		return -1;
	}
	cJSON_ArrayForEach (e, list) {
		const cJSON *path = l7mp_json_member(e, "path");
		const cJSON *text = l7mp_json_member(e, "valueStr");
		const cJSON *value = text ? text : l7mp_json_member(e, "value");
		cJSON *r = cJSON_CreateObject();

		if (!r || !cJSON_AddItemToArray(result, r)) {
			cJSON_Delete(r);
			out_of_memory(t, NULL);
			return -1;
		}
		if (text && !cJSON_IsString(text)) {
			op_translate_fail(t, "rewrite[%d].valueStr: expected a string", i);
			return -1;
		}
		if ((path && l7mp_json_add(r, "path", cJSON_Duplicate(path, true))) ||
		    (value && l7mp_json_add(r, "value", cJSON_Duplicate(value, true)))) {
			out_of_memory(t, NULL);
			return -1;
		}
		i++;
	}
	return 0;
}

/* `route` may be a name, too. */
static int action_route(struct op_translate *t, cJSON *out, const cJSON *action)
{
	const cJSON *ref = l7mp_json_member(action, "routeRef");
	const cJSON *route = l7mp_json_member(action, "route");
	size_t mark;
	cJSON *node = NULL;

	if (!ref && !route)
		return 0;
	if (ref && route) {
		op_translate_fail(t, "expected one of route and routeRef");
		return -1;
	}
	mark = op_translate_enter(t, ".%s", ref ? "routeRef" : "route");
	ref = ref ? ref : cJSON_IsString(route) ? route : NULL;
	if (ref && !cJSON_IsString(ref)) {
		bad_type(t, ref, "the name of a Route");
	} else if (ref) {
		char *name = op_resolve_route(t, ref->valuestring);

		node = name ? cJSON_CreateString(name) : NULL;
		if (name && !node)
			out_of_memory(t, NULL);
		free(name);
	} else {
		node = op_translate_route(t, route);
	}
	op_translate_leave(t, mark);
	if (!node)
		return -1;
	if (l7mp_json_add(out, "route", node)) {
		out_of_memory(t, NULL);
		return -1;
	}
	return 0;
}

cJSON *op_translate_rule(struct op_translate *t, const cJSON *rule)
{
	const cJSON *ref = l7mp_json_member(rule, "ruleRef");
	const cJSON *inner = l7mp_json_member(rule, "rule");
	const cJSON *action;
	cJSON *out, *a;
	size_t mark;

	if (cJSON_IsString(rule) || cJSON_IsString(ref)) {
		out = cJSON_CreateString(cJSON_IsString(ref) ? ref->valuestring
		                                             : rule->valuestring);
		return out ? out : out_of_memory(t, NULL);
	}
	if (inner)
		rule = inner;
	if (!cJSON_IsObject(rule))
		return bad_type(t, rule, "a rule object"), NULL;
	mark = op_translate_enter(t, ".action");
	action = l7mp_json_member(rule, "action");
	if (!cJSON_IsObject(action)) {
		bad_type(t, action, "an object");
		op_translate_leave(t, mark);
		return NULL;
	}
	out = cJSON_CreateObject();
	a = cJSON_CreateObject();
	if (!a || rewrites(t, a, action) || action_route(t, a, action) ||
	    keep(t, a, action, "apply")) {
		cJSON_Delete(a);
		cJSON_Delete(out);
		return NULL;
	}
	op_translate_leave(t, mark);
	if (!out || claim_name(t, "rule", rule) || keep(t, out, rule, "name") ||
	    keep(t, out, rule, "match")) {
		cJSON_Delete(a);
		cJSON_Delete(out);
		return NULL;
	}
	if (l7mp_json_add(out, "action", a))
		return out_of_memory(t, out);
	return out;
}

/* ---- the check by the proxy's tables ---- */

static cJSON *parent_of(cJSON *tree, const cJSON *node)
{
	for (cJSON *c = tree->child; c; c = c->next) {
		cJSON *p = c == node ? tree : c->child ? parent_of(c, node) : NULL;

		if (p)
			return p;
	}
	return NULL;
}

static void drop_unknown(struct op_translate *t, const struct l7mp_issues *issues, cJSON *tree)
{
	for (size_t i = 0; i < issues->n; i++) {
		const struct l7mp_issue *is = &issues->v[i];
		cJSON *parent = is->node ? parent_of(tree, is->node) : NULL;

		if (!is->warning || !parent || !is->node->string)
			continue;
		op_note(t->node, "%s is ignored: %s", is->path, is->reason);
		cJSON_Delete(cJSON_DetachItemViaPointer(parent, (cJSON *)is->node));
	}
}

bool op_translate_check(struct op_translate *t, const struct l7mp_schema *schema, cJSON *tree,
                        const char *path)
{
	struct l7mp_issues issues;
	struct l7mp_error err = {0};
	bool ok;

	l7mp_issues_init(&issues, false);
	l7mp_schema_check(schema, t->x->s->registry, tree, path, &issues);
	ok = !issues.errors;
	if (ok) {
		drop_unknown(t, &issues, tree);
	} else {
		l7mp_issues_first(&issues, &err);
		op_refuse_node(t->node, "Invalid", "%s: %s", err.path, err.message);
		t->failed = true;
	}
	l7mp_issues_clear(&issues);
	return ok;
}
