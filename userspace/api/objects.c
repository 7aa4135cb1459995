/* SPDX-License-Identifier: MIT */
/* Handlers of listeners, clusters, endpoints, rule lists, rules and routes. */
#include <string.h>

#include "api_int.h"

static enum l7mp_obj_kind kind_of(const struct api_request *rq)
{
	return (enum l7mp_obj_kind)rq->route->kind;
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
	const struct l7mp_model *m = rq->api->params.model;
	cJSON *list = cJSON_CreateArray();
	struct l7mp_object *o;

	for (o = l7mp_model_first(m, kind_of(rq)); o && list; o = l7mp_model_next(o)) {
		cJSON *json = show(rq, o);

		if (!json || !cJSON_AddItemToArray(list, json)) {
			cJSON_Delete(json);
			cJSON_Delete(list);
			list = NULL;
		}
	}
	api_json(rs, list);
}

void api_get(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_object *o = find(rq, kind_of(rq), rs);

	if (o)
		api_json(rs, show(rq, o));
}

void api_add(struct api_request *rq, struct api_response *rs)
{
	const char *wrapper = l7mp_obj_kind_name(kind_of(rq));
	const cJSON *doc = api_body_unwrap(rq, wrapper, rs);
	struct l7mp_change *c = doc ? api_begin_change(rq, rs) : NULL;
	struct l7mp_error err = {0};

	if (c)
		api_finish_change(rq, &c, l7mp_change_add(c, kind_of(rq), doc, wrapper, &err), &err,
		                  rs);
}

void api_put(struct api_request *rq, struct api_response *rs)
{
	const char *wrapper = l7mp_obj_kind_name(kind_of(rq));
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	const cJSON *doc;

	if (!find(rq, kind_of(rq), rs))
		return;
	doc = api_body_unwrap(rq, wrapper, rs);
	c = doc ? api_begin_change(rq, rs) : NULL;
	if (c)
		api_finish_change(
		        rq, &c,
		        l7mp_change_replace(c, kind_of(rq), rq->args[0], doc, wrapper, &err), &err,
		        rs);
}

void api_delete(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_error err = {0};
	struct l7mp_change *c;

	if (!find(rq, kind_of(rq), rs))
		return;
	c = api_begin_change(rq, rs);
	if (c)
		api_finish_change(
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
	/* What the cluster itself shows when recursive: a virtual one has one, named after it. */
	json = l7mp_object_to_json(rq->api->params.model, cluster, true);
	list = cJSON_DetachItemFromObjectCaseSensitive(json, "endpoints");
	cJSON_Delete(json);
	api_json(rs, list);
}

void api_endpoints_add(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	const cJSON *doc;

	if (!find(rq, L7MP_OBJ_CLUSTER, rs))
		return;
	doc = api_body_unwrap(rq, "endpoint", rs);
	c = doc ? api_begin_change(rq, rs) : NULL;
	if (c)
		api_finish_change(rq, &c,
		                  l7mp_change_add_endpoint(c, rq->args[0], doc, "endpoint", &err),
		                  &err, rs);
}
