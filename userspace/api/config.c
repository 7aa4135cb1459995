/* SPDX-License-Identifier: MIT */
/* Handlers of what concerns the whole: config, admin, OpenAPI. */
#include <string.h>

#include "api_int.h"
#include "l7mp/openapi.h"

static cJSON *admin_json(const struct l7mp_api *api)
{
	cJSON *json = l7mp_admin_to_json(l7mp_model_admin(api->params.model));

	cJSON_DeleteItemFromObjectCaseSensitive(json, "version");
	if (l7mp_json_add_str(json, "version", api->params.version)) {
		cJSON_Delete(json);
		return NULL;
	}
	return json;
}

/* Takes `item`; puts it in the place of what was there. */
static int put(cJSON *object, const char *key, cJSON *item)
{
	cJSON_DeleteItemFromObjectCaseSensitive(object, key);
	return l7mp_json_add(object, key, item);
}

static int resolve_all(const struct l7mp_model *m, cJSON *json)
{
	int rc = 0;

	for (int k = 0; k < L7MP_OBJ_KINDS && !rc; k++)
		rc = put(json, l7mp_obj_kind_plural((enum l7mp_obj_kind)k),
		         l7mp_model_list_to_json(m, (enum l7mp_obj_kind)k, true));
	return rc;
}

void api_config_get(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_api *api = rq->api;
	const struct l7mp_model *m = api->params.model;
	/* Specs as they were given: what is posted back must change nothing. */
	cJSON *json = l7mp_model_to_config(m);
	int rc = json ? 0 : -1;

	if (!rc)
		rc = put(json, "admin", admin_json(api));
	if (!rc)
		rc = rq->recursive ? resolve_all(m, json)
		                   : put(json, "endpoints",
		                         l7mp_model_list_to_json(m, L7MP_OBJ_ENDPOINT, false));
	if (!rc)
		rc = put(json, "sessions", api_sessions_json(api));
	if (!rc)
		rc = l7mp_json_add_str(json, "version", api->params.version);
	if (rc) {
		cJSON_Delete(json);
		json = NULL;
	}
	api_json(rs, json);
}

/* {"config": {...}} or bare: the member, when it is all that there is. */
static cJSON *unwrap(cJSON *root, const char *wrapper)
{
	cJSON *inner = l7mp_json_member(root, wrapper);

	return inner && cJSON_GetArraySize(root) == 1 ? inner : root;
}

void api_config_post(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	cJSON *doc = api_body(rq, rs);

	if (!doc)
		return;
	doc = unwrap(doc, "config");
	if (!cJSON_IsObject(doc)) {
		api_fail(rs, 422, "config: expected an object, got %s", l7mp_json_type(doc));
		api_add_content(rs, "config", "expected an object", 0);
		return;
	}
	c = api_begin_change(rq, rs);
	if (c)
		api_finish_change(rq, &c, l7mp_change_config(c, doc, &err), &err, rs);
}

void api_admin_get(struct api_request *rq, struct api_response *rs)
{
	api_json(rs, admin_json(rq->api));
}

void api_admin_post(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	const cJSON *doc = api_body(rq, rs);

	if (!doc)
		return;
	doc = unwrap((cJSON *)doc, "admin");
	if (!cJSON_IsObject(doc)) {
		api_fail(rs, 422, "admin: expected an object, got %s", l7mp_json_type(doc));
		api_add_content(rs, "admin", "expected an object", 0);
		return;
	}
	c = api_begin_change(rq, rs);
	if (c)
		api_finish_change(rq, &c, l7mp_change_admin(c, doc, "admin", &err), &err, rs);
}

static cJSON *openapi(const struct l7mp_api *api)
{
	return l7mp_openapi(api->params.registry, api->params.version);
}

void api_openapi_json(struct api_request *rq, struct api_response *rs)
{
	api_json(rs, openapi(rq->api));
}

void api_openapi_yaml(struct api_request *rq, struct api_response *rs)
{
	cJSON *json = openapi(rq->api);

	if (json)
		rs->text = l7mp_yaml_print(json);
	cJSON_Delete(json);
	if (!rs->text) {
		api_fail(rs, 500, "out of memory");
		return;
	}
	rs->content_type = "application/yaml";
	rs->status = 200;
}
