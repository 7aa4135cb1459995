/* SPDX-License-Identifier: MIT */
/* Handlers of the whole config, of admin and of the OpenAPI texts. */
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

void api_config_get(struct api_request *rq, struct api_response *rs)
{
	api_list_config(rq, admin_json(rq->api), rs);
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

	if (!doc || !api_if_match(rq, NULL, rs))
		return;
	doc = unwrap(doc, "config");
	if (!cJSON_IsObject(doc)) {
		api_fail(rs, 422, "config: expected an object, got %s", l7mp_json_type(doc));
		api_add_content(rs, "config", "expected an object", 0);
		return;
	}
	c = api_begin_change(rq, rs);
	if (c)
		api_built_change(rq, &c, l7mp_change_config(c, doc, &err), &err, rs);
}

void api_admin_get(struct api_request *rq, struct api_response *rs)
{
	api_set_etag(rq, NULL, rs);
	api_json(rs, admin_json(rq->api));
}

void api_admin_post(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	const cJSON *doc = api_body(rq, rs);

	if (!doc || !api_if_match(rq, NULL, rs))
		return;
	doc = unwrap((cJSON *)doc, "admin");
	if (!cJSON_IsObject(doc)) {
		api_fail(rs, 422, "admin: expected an object, got %s", l7mp_json_type(doc));
		api_add_content(rs, "admin", "expected an object", 0);
		return;
	}
	c = api_begin_change(rq, rs);
	if (c)
		api_built_change(rq, &c, l7mp_change_admin(c, doc, "admin", &err), &err, rs);
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

	api_text(rs, json ? l7mp_yaml_print(json) : NULL, "application/yaml");
	cJSON_Delete(json);
}
