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

/*
 * {"config": {...}} or bare. NULL with rs filled: not an object, or something stands beside the
 * wrapper, so that it is not clear which of the two is meant.
 */
static const cJSON *unwrap(const cJSON *root, const char *wrapper, struct api_response *rs)
{
	const cJSON *inner = l7mp_json_member(root, wrapper), *other;

	if (!inner)
		return root;
	other = root->child == inner ? inner->next : root->child;
	if (other) {
		api_fail(rs, 422, "%.80s: unknown key beside '%s', expected '%s' alone",
		         other->string, wrapper, wrapper);
		api_add_content(rs, other->string, "unknown key", 0);
		return NULL;
	}
	if (cJSON_IsObject(inner))
		return inner;
	api_fail(rs, 422, "%s: expected an object, got %s", wrapper, l7mp_json_type(inner));
	api_add_content(rs, wrapper, "expected an object", 0);
	return NULL;
}

void api_config_post(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	const cJSON *doc = api_body(rq, rs);

	if (!doc || !api_if_match(rq, NULL, rs))
		return;
	doc = unwrap(doc, "config", rs);
	c = doc ? api_begin_change(rq, rs) : NULL;
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
	doc = unwrap(doc, "admin", rs);
	c = doc ? api_begin_change(rq, rs) : NULL;
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
