/* SPDX-License-Identifier: MIT */
/* Handlers of listeners, clusters, endpoints, rule lists, rules and routes. */
#include <string.h>

#include "api_int.h"

static enum l7mp_obj_kind kind_of(const struct api_request *rq)
{
	return rq->route->kind;
}

static void *find(struct api_request *rq, enum l7mp_obj_kind kind, struct api_response *rs)
{
	void *o = l7mp_model_find(rq->api->params.model, kind, rq->args[0]);

	if (!o)
		api_fail(rs, 404, "no %s is named '%s'", l7mp_obj_kind_name(kind), rq->args[0]);
	return o;
}

void api_show_bound(struct l7mp_api *api, const struct l7mp_object *o, cJSON *json)
{
	cJSON *spec = l7mp_json_member(json, "spec");

	if (o->kind == L7MP_OBJ_LISTENER && spec)
		l7mp_runtime_bound(api->params.runtime, (const struct l7mp_listener *)o, spec);
}

static cJSON *show(struct api_request *rq, const struct l7mp_object *o)
{
	cJSON *json = l7mp_object_to_json(rq->api->params.model, o, rq->recursive);

	if (json)
		api_show_bound(rq->api, o, json);
	return json;
}

void api_list(struct api_request *rq, struct api_response *rs)
{
	api_list_objects(rq, kind_of(rq), rs);
}

void api_get(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_object *o = find(rq, kind_of(rq), rs);

	if (!o)
		return;
	api_set_etag(rq, o, rs);
	api_json(rs, show(rq, o));
}

void api_add(struct api_request *rq, struct api_response *rs)
{
	const char *wrapper = l7mp_obj_kind_name(kind_of(rq));
	const cJSON *doc = api_body_unwrap(rq, wrapper, rs);
	struct l7mp_change *c = doc ? api_begin_change(rq, rs) : NULL;
	struct l7mp_error err = {0};

	if (c)
		api_built_change(rq, &c, l7mp_change_add(c, kind_of(rq), doc, wrapper, &err), &err,
		                 rs);
}

/* GET of a cluster shows the number of its endpoints; put back, it means the present endpoints. */
static bool fill_endpoints(const struct api_request *rq, const struct l7mp_object *o, cJSON *doc)
{
	cJSON *shown = l7mp_json_member(doc, "endpoints"), *now, *endpoints;

	if (kind_of(rq) != L7MP_OBJ_CLUSTER || !cJSON_IsNumber(shown))
		return true;
	cJSON_DeleteItemFromObjectCaseSensitive(doc, "endpoints");
	if (!o)
		return true;
	now = l7mp_object_to_config(rq->api->params.model, o);
	endpoints = cJSON_DetachItemFromObjectCaseSensitive(now, "endpoints");
	cJSON_Delete(now);
	return endpoints && !l7mp_json_add(doc, "endpoints", endpoints);
}

/* GET of a listener shows the port that it got: put back, that is the one that it asked for. */
static bool fill_spec(const struct api_request *rq, const struct l7mp_object *o, cJSON *doc)
{
	cJSON *spec = l7mp_json_member(doc, "spec"), *shown, *own;
	const struct l7mp_listener *l = (const struct l7mp_listener *)o;
	bool same;

	if (kind_of(rq) != L7MP_OBJ_LISTENER || !o || !spec)
		return true;
	shown = cJSON_Duplicate(l->spec, true);
	if (!shown)
		return false;
	l7mp_runtime_bound(rq->api->params.runtime, l, shown);
	same = l7mp_json_equal(shown, spec);
	cJSON_Delete(shown);
	if (!same)
		return true;
	own = cJSON_Duplicate(l->spec, true);
	if (own && cJSON_ReplaceItemInObjectCaseSensitive(doc, "spec", own))
		return true;
	cJSON_Delete(own);
	return false;
}

/* Returns the contents of the wrapper, or the bare object as GET shows it. */
static cJSON *put_body(struct api_request *rq, const char *wrapper, struct api_response *rs)
{
	cJSON *root = api_body(rq, rs);

	if (!root || !l7mp_json_member(root, wrapper))
		return root;
	return api_body_unwrap(rq, wrapper, rs);
}

void api_put(struct api_request *rq, struct api_response *rs)
{
	enum l7mp_obj_kind kind = kind_of(rq);
	const char *wrapper = l7mp_obj_kind_name(kind);
	struct l7mp_object *o = l7mp_model_find(rq->api->params.model, kind, rq->args[0]);
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	cJSON *doc;

	/* An endpoint is added through its cluster. */
	if (!o && kind == L7MP_OBJ_ENDPOINT)
		find(rq, kind, rs);
	else if (!o && rq->if_match)
		api_fail(rs, 412, "no %s is named '%s', so no ETag matches", wrapper, rq->args[0]);
	doc = rs->status || !api_if_match(rq, o, rs) ? NULL : put_body(rq, wrapper, rs);
	if (!doc)
		return;
	if (!fill_endpoints(rq, o, doc) || !fill_spec(rq, o, doc)) {
		api_fail(rs, 500, "out of memory");
		return;
	}
	c = api_begin_change(rq, rs);
	if (c)
		api_built_change(rq, &c, l7mp_change_put(c, kind, rq->args[0], doc, wrapper, &err),
		                 &err, rs);
}

void api_delete(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_object *o = find(rq, kind_of(rq), rs);
	struct l7mp_error err = {0};
	struct l7mp_change *c;

	if (!o || !api_if_match(rq, o, rs))
		return;
	c = api_begin_change(rq, rs);
	if (c)
		api_built_change(
		        rq, &c,
		        l7mp_change_delete(c, kind_of(rq), rq->args[0], rq->recursive, &err), &err,
		        rs);
}

void api_endpoints_list(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_cluster *cluster = find(rq, L7MP_OBJ_CLUSTER, rs);
	cJSON *json, *list;

	if (!cluster)
		return;
	/*
	 * As in the recursive view of the cluster: a virtual one has one endpoint, named after it.
	 */
	json = l7mp_object_to_json(rq->api->params.model, cluster, true);
	list = cJSON_DetachItemFromObjectCaseSensitive(json, "endpoints");
	cJSON_Delete(json);
	api_set_etag(rq, &cluster->obj, rs);
	api_json(rs, list);
}

void api_endpoints_add(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_object *cluster;
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	const cJSON *doc;

	cluster = find(rq, L7MP_OBJ_CLUSTER, rs);
	if (!cluster || !api_if_match(rq, cluster, rs))
		return;
	doc = api_body_unwrap(rq, "endpoint", rs);
	c = doc ? api_begin_change(rq, rs) : NULL;
	if (c)
		api_built_change(rq, &c,
		                 l7mp_change_add_endpoint(c, rq->args[0], doc, "endpoint", &err),
		                 &err, rs);
}
