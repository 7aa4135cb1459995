/* SPDX-License-Identifier: MIT */
/* Request bodies: content types, parsing, the wrapper of an object. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api_int.h"
#include "l7mp/log.h"

struct media_type {
	const char *name;
	enum l7mp_syntax syntax;
};

static const struct media_type media_types[] = {
        {"application/json", L7MP_SYNTAX_JSON}, {"application/x-json", L7MP_SYNTAX_JSON},
        {"text/json", L7MP_SYNTAX_JSON},        {"text/x-json", L7MP_SYNTAX_JSON},
        {"text/yaml", L7MP_SYNTAX_YAML},        {"text/x-yaml", L7MP_SYNTAX_YAML},
        {"application/yaml", L7MP_SYNTAX_YAML}, {"application/x-yaml", L7MP_SYNTAX_YAML},
};

static const struct media_type *find_type(const char *text)
{
	size_t len;

	text += strspn(text, " \t");
	len = strcspn(text, "; \t");
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(media_types); i++)
		if (strlen(media_types[i].name) == len &&
		    !strncasecmp(media_types[i].name, text, len))
			return &media_types[i];
	return NULL;
}

cJSON *api_body(struct api_request *rq, struct api_response *rs)
{
	const char *given = rq->content_type;
	const struct media_type *type = given ? find_type(given) : NULL;
	struct l7mp_error err = {0};
	cJSON *root;

	if (rq->document) /* parsed already */
		return l7mp_document_root(rq->document);
	if (!type) {
		api_fail(rs, 415,
		         "content type: expected application/json, text/json, text/yaml, "
		         "application/yaml or one of their x- forms, got %.80s",
		         given ? given : "none");
		return NULL;
	}
	if (!rq->body_len) {
		api_fail(rs, 400, "the body is empty, expected a document");
		return NULL;
	}
	if (l7mp_document_parse(type->syntax, rq->body, rq->body_len, &rq->document, &err)) {
		api_fail_error(rs, &err);
		return NULL;
	}
	/* The text is not needed any more, and may be large. */
	free(rq->body);
	rq->body = NULL;
	root = l7mp_document_root(rq->document);
	if (!cJSON_IsObject(root)) {
		api_fail(rs, 422, "expected an object, got %s", l7mp_json_type(root));
		api_add_content(rs, "", "expected an object", 0);
		return NULL;
	}
	return root;
}

cJSON *api_body_unwrap(struct api_request *rq, const char *wrapper, struct api_response *rs)
{
	cJSON *root = api_body(rq, rs);
	cJSON *inner = l7mp_json_member(root, wrapper);
	const cJSON *other;

	if (!root)
		return NULL;
	if (!inner) {
		char reason[64];

		snprintf(reason, sizeof(reason), "expected an object with the key '%s'", wrapper);
		api_fail(rs, 422, "%s", reason);
		api_add_content(rs, "", reason, 0);
		return NULL;
	}
	cJSON_ArrayForEach (other, root) {
		if (other == inner)
			continue;
		if (!api_strict(rq)) {
			l7mp_log_warn("api", "%s %s: unknown key beside '%s': '%.80s'", rq->method,
			              rq->route->path, wrapper, other->string);
			continue;
		}
		if (!rs->status)
			api_fail(rs, 422, "the document is not valid: keys beside '%s'", wrapper);
		api_add_content(rs, other->string, "unknown key", 0);
	}
	return rs->status ? NULL : inner;
}
