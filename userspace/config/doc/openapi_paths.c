/* SPDX-License-Identifier: MIT */
/* The paths of the REST API, with the answers that follow from what an operation is. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "openapi_int.h"

static const struct {
	int status;
	const char *doc;
} answers[] = {
        {400, "The body can't be parsed, or what it asks for can't be done"},
        {401, "The token is missing or wrong"},
        {403, "Not allowed from this client"},
        {404, "There is no such object"},
        {409, "The name exists"},
        {413, "The body is larger than `admin.limits.max_body`"},
        {415, "Neither JSON nor YAML"},
        {422, "The body doesn't fit the schema; `content` lists where and why"},
        {429, "Too many wrong tokens came from this address"},
        {503, "Overloaded, or about to end"},
};

static bool may_answer(const struct l7mp_restdesc *d, int status)
{
	switch (status) {
	case 400:
	case 413:
	case 415:
	case 422:
		return d->request != NULL;
	case 404:
		return strchr(d->path, '{') != NULL;
	case 409:
		return d->flags & L7MP_REST_ADDS;
	default:
		return true;
	}
}

static cJSON *content(struct l7mp_oas *g, const char *type, cJSON *schema)
{
	cJSON *all = l7mp_oas_object(g), *one = l7mp_oas_object(g);

	l7mp_oas_add(g, one, "schema", schema);
	l7mp_oas_add(g, all, type, one);
	return all;
}

static cJSON *success(struct l7mp_oas *g, const struct l7mp_restdesc *d)
{
	cJSON *r = l7mp_oas_object(g), *schema;

	l7mp_oas_str(g, r, "description", "OK");
	schema = d->response ? l7mp_oas_ref(g, d->response) : l7mp_oas_object(g);
	if (d->flags & L7MP_REST_LIST) {
		cJSON *array = l7mp_oas_object(g);

		l7mp_oas_str(g, array, "type", "array");
		l7mp_oas_add(g, array, "items", schema);
		schema = array;
	}
	l7mp_oas_add(g, r, "content",
	             content(g, d->flags & L7MP_REST_YAML ? "application/yaml" : "application/json",
	                     schema));
	return r;
}

static cJSON *responses(struct l7mp_oas *g, const struct l7mp_restdesc *d)
{
	cJSON *all = l7mp_oas_object(g);

	l7mp_oas_add(g, all, "200", success(g, d));
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		cJSON *r;
		char status[8];

		if (!may_answer(d, answers[i].status))
			continue;
		r = l7mp_oas_object(g);
		snprintf(status, sizeof(status), "%d", answers[i].status);
		l7mp_oas_str(g, r, "description", answers[i].doc);
		l7mp_oas_add(g, r, "content",
		             content(g, "application/json", l7mp_oas_ref(g, &l7mp_rest_error)));
		l7mp_oas_add(g, all, status, r);
	}
	return all;
}

static void add_parameter(struct l7mp_oas *g, cJSON *list, const char *name, const char *in,
                          const char *doc, cJSON *schema)
{
	cJSON *p = l7mp_oas_object(g);

	l7mp_oas_str(g, p, "name", name);
	l7mp_oas_str(g, p, "in", in);
	l7mp_oas_str(g, p, "description", doc);
	if (strcmp(in, "path") == 0)
		l7mp_oas_add(g, p, "required", cJSON_CreateTrue());
	l7mp_oas_add(g, p, "schema", schema);
	l7mp_oas_push(g, list, p);
}

static cJSON *type_only(struct l7mp_oas *g, const char *type)
{
	cJSON *o = l7mp_oas_object(g);

	l7mp_oas_str(g, o, "type", type);
	return o;
}

static cJSON *formats(struct l7mp_oas *g)
{
	static const char *const names[] = {"plain", "terse", "space", "lines", "diffy"};
	cJSON *o = type_only(g, "string"), *values = l7mp_oas_array(g);

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		l7mp_oas_push(g, values, cJSON_CreateString(names[i]));
	l7mp_oas_add(g, o, "enum", values);
	l7mp_oas_str(g, o, "default", "plain");
	return o;
}

static cJSON *parameters(struct l7mp_oas *g, const struct l7mp_restdesc *d)
{
	cJSON *list = l7mp_oas_array(g);

	if (strstr(d->path, "{name}"))
		add_parameter(g, list, "name", "path", "The object's name, percent-encoded",
		              type_only(g, "string"));
	if (strstr(d->path, "{position}"))
		add_parameter(g, list, "position", "path",
		              "Digits: a position that counts from 0; else a rule's name",
		              type_only(g, "string"));
	if (d->flags & L7MP_REST_RECURSIVE)
		add_parameter(
		        g, list, "recursive", "query",
		        strcmp(d->method, "DELETE") == 0
		                ? "Also delete what was made for the object, and end its sessions"
		                : "Show whole objects instead of names",
		        type_only(g, "boolean"));
	if (d->flags & L7MP_REST_PAGED) {
		add_parameter(g, list, "limit", "query", "How many items to show at most",
		              type_only(g, "integer"));
		add_parameter(g, list, "after", "query",
		              "Show what follows this item; see the Link header of the page before",
		              type_only(g, "string"));
	}
	if (!strcmp(d->method, "PUT") || !strcmp(d->method, "DELETE"))
		add_parameter(g, list, "If-Match", "header",
		              "Only if this is the object's ETag, or that of the whole config",
		              type_only(g, "string"));
	if (!(d->flags & L7MP_REST_YAML))
		add_parameter(g, list, "format", "query", "The shape of the JSON text", formats(g));
	return list;
}

static cJSON *request_body(struct l7mp_oas *g, const struct l7mp_restdesc *d)
{
	cJSON *body = l7mp_oas_object(g), *types = l7mp_oas_object(g);
	static const char *const names[] = {"application/json", "application/yaml"};

	for (size_t i = 0; i < 2; i++) {
		cJSON *one = l7mp_oas_object(g);

		l7mp_oas_add(g, one, "schema", l7mp_oas_ref(g, d->request));
		l7mp_oas_add(g, types, names[i], one);
	}
	l7mp_oas_add(g, body, "required", cJSON_CreateTrue());
	l7mp_oas_add(g, body, "content", types);
	return body;
}

static void add_operation(struct l7mp_oas *g, cJSON *paths, const struct l7mp_restdesc *d)
{
	cJSON *item = l7mp_json_member(paths, d->path), *op = l7mp_oas_object(g);
	char method[8];
	size_t n = 0;

	if (!item) {
		item = l7mp_oas_object(g);
		l7mp_oas_add(g, paths, d->path, item);
	}
	for (; n < sizeof(method) - 1 && d->method[n]; n++)
		method[n] = (char)(d->method[n] | 0x20);
	method[n] = 0;
	l7mp_oas_str(g, op, "operationId", d->id);
	l7mp_oas_str(g, op, "summary", d->summary);
	l7mp_oas_add(g, op, "parameters", parameters(g, d));
	if (d->request)
		l7mp_oas_add(g, op, "requestBody", request_body(g, d));
	l7mp_oas_add(g, op, "responses", responses(g, d));
	l7mp_oas_add(g, item, method, op);
}

cJSON *l7mp_oas_paths(struct l7mp_oas *g)
{
	cJSON *paths = l7mp_oas_object(g);

	for (const struct l7mp_restdesc *d = l7mp_rest_descs; d->method; d++)
		add_operation(g, paths, d);
	return paths;
}
