/* SPDX-License-Identifier: MIT */
/* Schema tables into OpenAPI 3.0 components, and the document around them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/model.h"
#include "l7mp/util.h"
#include "openapi_int.h"

void l7mp_oas_add(struct l7mp_oas *g, cJSON *object, const char *key, cJSON *item)
{
	if (!object || !item || l7mp_json_add(object, key, item))
		g->oom = true;
}

void l7mp_oas_str(struct l7mp_oas *g, cJSON *object, const char *key, const char *value)
{
	if (value)
		l7mp_oas_add(g, object, key, cJSON_CreateString(value));
}

void l7mp_oas_push(struct l7mp_oas *g, cJSON *array, cJSON *item)
{
	if (array && item && cJSON_AddItemToArray(array, item))
		return;
	cJSON_Delete(item);
	g->oom = true;
}

cJSON *l7mp_oas_object(struct l7mp_oas *g)
{
	cJSON *o = cJSON_CreateObject();

	g->oom |= !o;
	return o;
}

cJSON *l7mp_oas_array(struct l7mp_oas *g)
{
	cJSON *a = cJSON_CreateArray();

	g->oom |= !a;
	return a;
}

static void put_num(struct l7mp_oas *g, cJSON *o, const char *key, double v)
{
	l7mp_oas_add(g, o, key, cJSON_CreateNumber(v));
}

static void put_range(struct l7mp_oas *g, const struct l7mp_field *f, cJSON *o, const char *lo,
                      const char *hi)
{
	if (f->min == 0 && f->max == 0)
		return;
	put_num(g, o, lo, f->min);
	put_num(g, o, hi, f->max);
}

static cJSON *field_schema(struct l7mp_oas *g, const struct l7mp_field *f);

static void put_string(struct l7mp_oas *g, const struct l7mp_field *f, cJSON *o)
{
	l7mp_oas_str(g, o, "type", "string");
	l7mp_oas_str(g, o, "pattern", l7mp_schema_pattern_regex(f->pattern));
	if (f->max > 0)
		put_range(g, f, o, "minLength", "maxLength");
}

static void put_enum(struct l7mp_oas *g, const struct l7mp_field *f, cJSON *o)
{
	cJSON *values = l7mp_oas_array(g);

	l7mp_oas_str(g, o, "type", "string");
	for (const char *const *v = f->values; v && *v; v++)
		l7mp_oas_push(g, values, cJSON_CreateString(*v));
	l7mp_oas_add(g, o, "enum", values);
}

static void put_any_of(struct l7mp_oas *g, const struct l7mp_field *f, cJSON *o)
{
	cJSON *any = l7mp_oas_array(g);

	for (const struct l7mp_field *const *a = f->alternatives; a && *a; a++)
		l7mp_oas_push(g, any, field_schema(g, *a));
	l7mp_oas_add(g, o, "anyOf", any);
}

static void put_reference(struct l7mp_oas *g, const struct l7mp_field *f, cJSON *o)
{
	cJSON *any = l7mp_oas_array(g), *name = l7mp_oas_object(g);

	l7mp_oas_str(g, name, "type", "string");
	l7mp_oas_str(g, name, "pattern", l7mp_schema_pattern_regex(L7MP_P_NAME));
	l7mp_oas_push(g, any, name);
	if (f->sub)
		l7mp_oas_push(g, any, l7mp_oas_ref(g, f->sub));
	l7mp_oas_add(g, o, "anyOf", any);
}

/* A $ref allows no brothers in OpenAPI 3.0: it goes into an allOf. */
static void put_ref(struct l7mp_oas *g, cJSON *ref, cJSON *o)
{
	cJSON *all = l7mp_oas_array(g);

	l7mp_oas_push(g, all, ref);
	l7mp_oas_add(g, o, "allOf", all);
}

static void put_array(struct l7mp_oas *g, const struct l7mp_field *f, cJSON *o)
{
	l7mp_oas_str(g, o, "type", "array");
	l7mp_oas_add(g, o, "items", f->item ? field_schema(g, f->item) : l7mp_oas_object(g));
	if (f->max > 0)
		put_range(g, f, o, "minItems", "maxItems");
}

static void put_spec(struct l7mp_oas *g, const struct l7mp_field *f, cJSON *o)
{
	const char *role = f->min == L7MP_ROLE_LISTENER  ? "listener"
	                   : f->min == L7MP_ROLE_CLUSTER ? "cluster"
	                                                 : "endpoint";
	cJSON *ref = l7mp_oas_object(g);
	char path[64];

	snprintf(path, sizeof(path), "#/components/schemas/%s-spec", role);
	l7mp_oas_str(g, ref, "$ref", path);
	put_ref(g, ref, o);
}

static void put_type(struct l7mp_oas *g, const struct l7mp_field *f, cJSON *o)
{
	switch (f->type) {
	case L7MP_T_BOOL:
		l7mp_oas_str(g, o, "type", "boolean");
		break;
	case L7MP_T_INT:
	case L7MP_T_NUMBER:
		l7mp_oas_str(g, o, "type", f->type == L7MP_T_INT ? "integer" : "number");
		put_range(g, f, o, "minimum", "maximum");
		break;
	case L7MP_T_STRING:
		put_string(g, f, o);
		break;
	case L7MP_T_ENUM:
		put_enum(g, f, o);
		break;
	case L7MP_T_OBJECT:
		if (f->sub)
			put_ref(g, l7mp_oas_ref(g, f->sub), o);
		else
			l7mp_oas_str(g, o, "type", "object");
		break;
	case L7MP_T_MAP:
		l7mp_oas_str(g, o, "type", "object");
		l7mp_oas_add(g, o, "additionalProperties",
		             f->item ? field_schema(g, f->item) : cJSON_CreateTrue());
		break;
	case L7MP_T_ARRAY:
		put_array(g, f, o);
		break;
	case L7MP_T_ONEOF:
		put_any_of(g, f, o);
		break;
	case L7MP_T_REF:
		put_reference(g, f, o);
		break;
	case L7MP_T_PROTOCOL_SPEC:
		put_spec(g, f, o);
		break;
	case L7MP_T_ANY:
		break;
	}
}

static cJSON *field_schema(struct l7mp_oas *g, const struct l7mp_field *f)
{
	cJSON *o = l7mp_oas_object(g);

	put_type(g, f, o);
	l7mp_oas_str(g, o, "description", f->doc);
	if (f->def)
		l7mp_oas_add(g, o, "default", cJSON_Parse(f->def));
	if (f->flags & L7MP_F_READONLY)
		l7mp_oas_add(g, o, "readOnly", cJSON_CreateTrue());
	return o;
}

void l7mp_oas_fields(struct l7mp_oas *g, const struct l7mp_schema *table, cJSON *properties,
                     cJSON *required)
{
	for (const struct l7mp_field *f = table ? table->fields : NULL; f && f->key; f++) {
		l7mp_oas_add(g, properties, f->key, field_schema(g, f));
		if (f->flags & L7MP_F_REQUIRED)
			l7mp_oas_push(g, required, cJSON_CreateString(f->key));
	}
}

static void make_component(struct l7mp_oas *g, const struct l7mp_schema *table, const char *name)
{
	cJSON *o = l7mp_oas_object(g), *props = l7mp_oas_object(g), *required = l7mp_oas_array(g);

	l7mp_oas_str(g, o, "type", "object");
	l7mp_oas_str(g, o, "description", table->doc);
	/* In before the fields are walked: tables refer to each other in circles. */
	l7mp_oas_add(g, g->schemas, name, o);
	l7mp_oas_fields(g, table, props, required);
	l7mp_oas_add(g, o, "properties", props);
	if (cJSON_GetArraySize(required))
		l7mp_oas_add(g, o, "required", required);
	else
		cJSON_Delete(required);
}

static const char *component_name(struct l7mp_oas *g, const struct l7mp_schema *table)
{
	char *name;
	int same = 1;

	for (size_t i = 0; i < g->n_known; i++)
		if (g->known[i].table == table)
			return g->known[i].name;
	if (g->n_known == L7MP_ARRAY_SIZE(g->known)) {
		g->oom = true;
		return "status";
	}
	name = g->known[g->n_known].name;
	snprintf(name, sizeof(g->known[0].name), "%.80s", table->name);
	/* Component names allow letters, digits, '.', '-' and '_'. */
	for (char *p = name; *p; p++)
		if (strchr("/ :", *p))
			*p = '-';
	while (l7mp_json_member(g->schemas, name))
		snprintf(name, sizeof(g->known[0].name), "%.80s-%d", table->name, ++same);
	g->known[g->n_known++].table = table;
	make_component(g, table, name);
	return name;
}

cJSON *l7mp_oas_ref(struct l7mp_oas *g, const struct l7mp_schema *table)
{
	char *path = l7mp_asprintf("#/components/schemas/%s", component_name(g, table));
	cJSON *ref = l7mp_oas_object(g);

	l7mp_oas_str(g, ref, "$ref", path);
	g->oom |= !path;
	free(path);
	return ref;
}

/* ---- the document ---- */

static cJSON *make_info(struct l7mp_oas *g, const char *version)
{
	cJSON *info = l7mp_oas_object(g), *license = l7mp_oas_object(g);

	l7mp_oas_str(g, info, "title", "l7mp");
	l7mp_oas_str(
	        g, info, "description",
	        "The REST API of the l7mp proxy. Bodies may be JSON or YAML. Protocol names, load "
	        "balancing policies and log levels are read without regard to case. Unknown keys "
	        "are "
	        "warnings, in strict mode errors.");
	l7mp_oas_str(g, info, "version", version);
	l7mp_oas_str(g, license, "name", "MIT");
	l7mp_oas_add(g, info, "license", license);
	return info;
}

static cJSON *make_security(struct l7mp_oas *g)
{
	cJSON *all = l7mp_oas_object(g), *bearer = l7mp_oas_object(g);

	l7mp_oas_str(g, bearer, "type", "http");
	l7mp_oas_str(g, bearer, "scheme", "bearer");
	l7mp_oas_str(
	        g, bearer, "description",
	        "Asked for when `admin.api_token_file` is set; without it only clients on this "
	        "host are answered");
	l7mp_oas_add(g, all, "bearer", bearer);
	return all;
}

/* No token, or a bearer token. */
static cJSON *make_requirement(struct l7mp_oas *g)
{
	cJSON *list = l7mp_oas_array(g), *bearer = l7mp_oas_object(g);

	l7mp_oas_add(g, bearer, "bearer", l7mp_oas_array(g));
	l7mp_oas_push(g, list, l7mp_oas_object(g));
	l7mp_oas_push(g, list, bearer);
	return list;
}

static cJSON *make_servers(struct l7mp_oas *g)
{
	cJSON *list = l7mp_oas_array(g), *server = l7mp_oas_object(g);

	l7mp_oas_str(g, server, "url", "/api/v1");
	l7mp_oas_push(g, list, server);
	return list;
}

cJSON *l7mp_openapi(const struct l7mp_registry *registry, const char *version)
{
	struct l7mp_oas *g = calloc(1, sizeof(*g));
	cJSON *root = cJSON_CreateObject(), *components = cJSON_CreateObject();

	if (!g) {
		cJSON_Delete(root);
		cJSON_Delete(components);
		return NULL;
	}
	g->registry = registry;
	g->schemas = l7mp_oas_object(g);
	l7mp_oas_add(g, components, "schemas", g->schemas);
	l7mp_oas_add(g, components, "securitySchemes", make_security(g));
	l7mp_oas_str(g, root, "openapi", "3.0.3");
	l7mp_oas_add(g, root, "info", make_info(g, version ? version : L7MP_VERSION));
	l7mp_oas_add(g, root, "servers", make_servers(g));
	l7mp_oas_add(g, root, "security", make_requirement(g));
	l7mp_oas_specs(g);
	l7mp_oas_add(g, root, "paths", l7mp_oas_paths(g));
	l7mp_oas_add(g, root, "components", components);
	if (g->oom) {
		cJSON_Delete(root);
		root = NULL;
	}
	free(g);
	return root;
}
