/* SPDX-License-Identifier: MIT */
/* The OpenAPI document and the reference pages say what the tables say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fake_protocols.h"
#include "l7mp/config.h"
#include "l7mp/model.h"
#include "l7mp/openapi.h"
#include "l7mp/rest.h"
#include "l7mp/util.h"

static cJSON *doc;

static int setup(void **state)
{
	(void)state;
	doc = l7mp_openapi(&fake_registry, "1.2.3");
	return doc ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	cJSON_Delete(doc);
	return 0;
}

static cJSON *at(const cJSON *root, const char *pointer)
{
	cJSON *node = l7mp_json_get(root, pointer);

	if (!node)
		fail_msg("nothing at %s", pointer);
	return node;
}

static const char *text_at(const char *pointer)
{
	return cJSON_GetStringValue(at(doc, pointer));
}

static unsigned check_refs(const cJSON *node)
{
	const cJSON *child;
	unsigned n = 0;

	if (node->string && strcmp(node->string, "$ref") == 0) {
		assert_true(cJSON_IsString(node));
		assert_int_equal(strncmp(node->valuestring, "#/", 2), 0);
		at(doc, node->valuestring + 1);
		/* OpenAPI 3.0 ignores what stands beside a $ref. */
		assert_null(node->next);
		assert_ptr_equal(node->prev, node);
		n = 1;
	}
	cJSON_ArrayForEach (child, node)
		n += check_refs(child);
	return n;
}

static void test_refs(void **state)
{
	(void)state;
	assert_true(check_refs(doc) > 200);
}

static void test_head(void **state)
{
	(void)state;
	assert_string_equal(text_at("/openapi"), "3.0.3");
	assert_string_equal(text_at("/info/version"), "1.2.3");
	assert_string_equal(text_at("/servers/0/url"), "/api/v1");
	assert_string_equal(text_at("/components/securitySchemes/bearer/scheme"), "bearer");
}

/* Every key of every object's table is there, with its type and bounds. */
static void test_tables(void **state)
{
	static const struct l7mp_schema *const tables[] = {
	        &l7mp_schema_config,  &l7mp_schema_admin,    &l7mp_schema_listener,
	        &l7mp_schema_cluster, &l7mp_schema_endpoint, &l7mp_schema_rulelist,
	        &l7mp_schema_rule,    &l7mp_schema_route};

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(tables); i++) {
		cJSON *c = l7mp_json_member(at(doc, "/components/schemas"), tables[i]->name);

		assert_non_null(c);
		for (const struct l7mp_field *f = tables[i]->fields; f->key; f++) {
			cJSON *p = l7mp_json_member(at(c, "/properties"), f->key), *name;
			bool required = false;

			if (!p)
				fail_msg("%s lacks %s", tables[i]->name, f->key);
			assert_string_equal(l7mp_json_str(p, "description", ""), f->doc);
			cJSON_ArrayForEach (name, l7mp_json_member(c, "required"))
				required |= strcmp(name->valuestring, f->key) == 0;
			assert_int_equal(required, !!(f->flags & L7MP_F_REQUIRED));
			assert_int_equal(!!l7mp_json_member(p, "default"), !!f->def);
			assert_int_equal(l7mp_json_bool(p, "readOnly", false),
			                 !!(f->flags & L7MP_F_READONLY));
			if (f->type == L7MP_T_INT) {
				assert_string_equal(l7mp_json_str(p, "type", ""), "integer");
				assert_true(l7mp_json_num(p, "minimum", -1) == f->min);
				assert_true(l7mp_json_num(p, "maximum", -1) == f->max);
			}
		}
	}
}

static void test_specs(void **state)
{
	cJSON *role;

	(void)state;
	role = at(doc, "/components/schemas/cluster-spec");
	assert_int_equal(cJSON_GetArraySize(at(role, "/oneOf")), 5);
	assert_string_equal(text_at("/components/schemas/cluster-spec/discriminator/mapping/WS"),
	                    "#/components/schemas/WebSocket-cluster-spec");
	assert_string_equal(
	        text_at("/components/schemas/cluster-spec/discriminator/mapping/INLINE~1Logger"),
	        "#/components/schemas/Logger-cluster-spec");
	assert_int_equal(cJSON_GetArraySize(at(doc, "/components/schemas/listener-spec/oneOf")), 2);
	assert_null(l7mp_json_get(doc, "/components/schemas/HTTP-cluster-spec"));
	assert_string_equal(
	        text_at("/components/schemas/UDP-listener-spec/properties/protocol/enum/0"), "UDP");
	assert_true(l7mp_json_num(at(doc, "/components/schemas/UDP-listener-spec/properties/port"),
	                          "maximum", 0) == 65535);
	assert_string_equal(text_at("/components/schemas/UDP-listener-spec/required/0"),
	                    "protocol");
	assert_string_equal(text_at("/components/schemas/UDP-listener-spec/required/1"), "port");
	assert_non_null(at(doc, "/components/schemas/UDP-endpoint-spec/properties/address"));
	assert_string_equal(text_at("/components/schemas/listener/properties/spec/allOf/0/$ref"),
	                    "#/components/schemas/listener-spec");
}

static cJSON *operation(const struct l7mp_rest_route *d)
{
	cJSON *item = l7mp_json_member(at(doc, "/paths"), d->path);
	char method[8] = "";

	assert_non_null(item);
	for (size_t i = 0; d->method[i]; i++)
		method[i] = (char)(d->method[i] | 0x20);
	return l7mp_json_member(item, method);
}

static bool has_parameter(const cJSON *op, const char *name)
{
	const cJSON *p;

	cJSON_ArrayForEach (p, l7mp_json_member(op, "parameters"))
		if (strcmp(l7mp_json_str(p, "name", ""), name) == 0)
			return true;
	return false;
}

static void test_paths(void **state)
{
	int n = 0, documented = 0;
	const cJSON *item;

	(void)state;
	for (const struct l7mp_rest_route *d = l7mp_rest_routes; d->method; d++, n++) {
		cJSON *op = operation(d);

		if (!op)
			fail_msg("%s %s is missing", d->method, d->path);
		assert_string_equal(l7mp_json_str(op, "operationId", ""), d->id);
		assert_non_null(at(op, "/responses/200/content"));
		assert_int_equal(has_parameter(op, "name"), !!strstr(d->path, "{name}"));
		assert_int_equal(has_parameter(op, "position"), !!strstr(d->path, "{position}"));
		assert_int_equal(has_parameter(op, "recursive"),
		                 !!(d->flags & L7MP_REST_RECURSIVE));
		assert_int_equal(!!l7mp_json_member(op, "requestBody"), !!d->request);
		assert_int_equal(!!l7mp_json_get(op, "/responses/422"), !!d->request);
		assert_int_equal(!!l7mp_json_get(op, "/responses/409"),
		                 d->flags & L7MP_REST_ADDS || d->op == L7MP_REST_OP_PUT);
		assert_int_equal(!!l7mp_json_get(op, "/responses/412"),
		                 has_parameter(op, "If-Match"));
		for (const struct l7mp_rest_route *e = l7mp_rest_routes; e != d; e++) {
			assert_string_not_equal(e->id, d->id);
			assert_false(strcmp(e->path, d->path) == 0 &&
			             strcmp(e->method, d->method) == 0);
		}
	}
	cJSON_ArrayForEach (item, at(doc, "/paths"))
		documented += cJSON_GetArraySize(item);
	assert_int_equal(documented, n);
	assert_string_equal(text_at("/paths/~1listeners/post/requestBody/content/application~1json/"
	                            "schema/$ref"),
	                    "#/components/schemas/listener-request");
	assert_string_equal(
	        text_at("/components/schemas/listener-request/properties/listener/allOf/0/$ref"),
	        "#/components/schemas/listener");
}

static void test_yaml(void **state)
{
	char *text = l7mp_yaml_print(doc);
	struct l7mp_document *d = NULL;
	struct l7mp_error err = {0};

	(void)state;
	assert_non_null(text);
	assert_int_equal(l7mp_document_parse(L7MP_SYNTAX_YAML, text, strlen(text), &d, &err), 0);
	assert_true(l7mp_json_equal(l7mp_document_root(d), doc));
	l7mp_document_free(&d);
	free(text);
}

static void test_no_registry(void **state)
{
	cJSON *empty = l7mp_openapi(NULL, NULL);

	(void)state;
	assert_non_null(empty);
	assert_non_null(l7mp_json_get(empty, "/info/version"));
	cJSON_Delete(empty);
}

static void has(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("\"%s\" is missing in\n%s", part, text);
}

static void test_reference(void **state)
{
	char *objects = l7mp_reference_objects();
	char *protocols = l7mp_reference_protocols(&fake_registry);
	char *endpoints = l7mp_reference_endpoints();

	(void)state;
	has(objects, "## listener\n");
	has(objects, "### limits\n");
	has(objects, "| `max_queue` | an integer in 4096..1073741824 | `1048576` | ");
	has(objects, "| `rules` | an array of names or rule objects | required | ");
	has(objects, "| `endpoints` | an array of endpoint objects |  | ");
	has(objects, "| `retry` | retry object |  | ");
	assert_null(strstr(strstr(objects, "## route\n") + 1, "## route\n"));
	has(protocols, "### WebSocket\n");
	has(protocols, "Also written `WS`.");
	has(protocols, "| `port` | an integer in 1..65535 | required | ");
	has(endpoints, "| POST | `/clusters/{name}/endpoints` | `{\"endpoint\": ...}` | ");
	has(endpoints, "| DELETE | `/rules/{name}[?recursive=true]` | ");
	free(objects);
	free(protocols);
	free(endpoints);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_refs),        cmocka_unit_test(test_head),
	        cmocka_unit_test(test_tables),      cmocka_unit_test(test_specs),
	        cmocka_unit_test(test_paths),       cmocka_unit_test(test_yaml),
	        cmocka_unit_test(test_no_registry), cmocka_unit_test(test_reference),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
