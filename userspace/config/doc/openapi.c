/* SPDX-License-Identifier: MIT */
/* The OpenAPI 3.0 document: components from the schema tables, paths from the table of routes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "l7mp/model.h"
#include "l7mp/openapi.h"
#include "l7mp/protodesc.h"
#include "l7mp/rest.h"
#include "l7mp/util.h"

/*
 * Calls are not checked one by one: a failed allocation sets `oom`, functions that add accept NULL,
 * and the whole document is discarded at the end.
 */
struct oas {
	const struct l7mp_registry *registry;
	cJSON *schemas; /* components.schemas */
	struct {
		const struct l7mp_schema *table;
		char name[96];
	} known[256];
	size_t n_known;
	bool oom;
};

static void oas_add(struct oas *g, cJSON *object, const char *key, cJSON *item)
{
	if (!object || !item || l7mp_json_add(object, key, item))
		g->oom = true;
}

static void oas_str(struct oas *g, cJSON *object, const char *key, const char *value)
{
	if (value)
		oas_add(g, object, key, cJSON_CreateString(value));
}

static void oas_push(struct oas *g, cJSON *array, cJSON *item)
{
	if (array && item && cJSON_AddItemToArray(array, item))
		return;
	cJSON_Delete(item);
	g->oom = true;
}

static cJSON *oas_object(struct oas *g)
{
	cJSON *o = cJSON_CreateObject();

	g->oom |= !o;
	return o;
}

static cJSON *oas_array(struct oas *g)
{
	cJSON *a = cJSON_CreateArray();

	g->oom |= !a;
	return a;
}

static void put_num(struct oas *g, cJSON *o, const char *key, double v)
{
	oas_add(g, o, key, cJSON_CreateNumber(v));
}

static void put_range(struct oas *g, const struct l7mp_field *f, cJSON *o, const char *lo,
                      const char *hi)
{
	if (f->min == 0 && f->max == 0)
		return;
	put_num(g, o, lo, f->min);
	put_num(g, o, hi, f->max);
}

static cJSON *oas_ref(struct oas *g, const struct l7mp_schema *table);
static cJSON *field_schema(struct oas *g, const struct l7mp_field *f);

static void put_string(struct oas *g, const struct l7mp_field *f, cJSON *o)
{
	oas_str(g, o, "type", "string");
	oas_str(g, o, "pattern", l7mp_schema_pattern_regex(f->pattern));
	if (f->max > 0)
		put_range(g, f, o, "minLength", "maxLength");
}

static void put_enum(struct oas *g, const struct l7mp_field *f, cJSON *o)
{
	cJSON *values = oas_array(g);

	oas_str(g, o, "type", "string");
	for (const char *const *v = f->values; v && *v; v++)
		oas_push(g, values, cJSON_CreateString(*v));
	oas_add(g, o, "enum", values);
}

static void put_any_of(struct oas *g, const struct l7mp_field *f, cJSON *o)
{
	cJSON *any = oas_array(g);

	for (const struct l7mp_field *const *a = f->alternatives; a && *a; a++)
		oas_push(g, any, field_schema(g, *a));
	oas_add(g, o, "anyOf", any);
}

static void put_reference(struct oas *g, const struct l7mp_field *f, cJSON *o)
{
	cJSON *any = oas_array(g), *name = oas_object(g);

	oas_str(g, name, "type", "string");
	oas_str(g, name, "pattern", l7mp_schema_pattern_regex(L7MP_P_NAME));
	oas_push(g, any, name);
	if (f->sub)
		oas_push(g, any, oas_ref(g, f->sub));
	oas_add(g, o, "anyOf", any);
}

/* In OpenAPI 3.0 a $ref can't have siblings, so it is put into an allOf. */
static void put_ref(struct oas *g, cJSON *ref, cJSON *o)
{
	cJSON *all = oas_array(g);

	oas_push(g, all, ref);
	oas_add(g, o, "allOf", all);
}

static void put_array(struct oas *g, const struct l7mp_field *f, cJSON *o)
{
	oas_str(g, o, "type", "array");
	oas_add(g, o, "items", f->item ? field_schema(g, f->item) : oas_object(g));
	if (f->max > 0)
		put_range(g, f, o, "minItems", "maxItems");
}

static void put_spec(struct oas *g, const struct l7mp_field *f, cJSON *o)
{
	const char *role = f->min == L7MP_ROLE_LISTENER  ? "listener"
	                   : f->min == L7MP_ROLE_CLUSTER ? "cluster"
	                                                 : "endpoint";
	cJSON *ref = oas_object(g);
	char path[64];

	snprintf(path, sizeof(path), "#/components/schemas/%s-spec", role);
	oas_str(g, ref, "$ref", path);
	put_ref(g, ref, o);
}

static void put_type(struct oas *g, const struct l7mp_field *f, cJSON *o)
{
	switch (f->type) {
	case L7MP_T_BOOL:
		oas_str(g, o, "type", "boolean");
		break;
	case L7MP_T_INT:
	case L7MP_T_NUMBER:
		oas_str(g, o, "type", f->type == L7MP_T_INT ? "integer" : "number");
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
			put_ref(g, oas_ref(g, f->sub), o);
		else
			oas_str(g, o, "type", "object");
		break;
	case L7MP_T_MAP:
		oas_str(g, o, "type", "object");
		oas_add(g, o, "additionalProperties",
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

static cJSON *field_schema(struct oas *g, const struct l7mp_field *f)
{
	cJSON *o = oas_object(g);

	put_type(g, f, o);
	oas_str(g, o, "description", f->doc);
	if (f->def)
		oas_add(g, o, "default", cJSON_Parse(f->def));
	if (f->flags & L7MP_F_READONLY)
		oas_add(g, o, "readOnly", cJSON_CreateTrue());
	return o;
}

static void oas_fields(struct oas *g, const struct l7mp_schema *table, cJSON *properties,
                       cJSON *required)
{
	for (const struct l7mp_field *f = table ? table->fields : NULL; f && f->key; f++) {
		oas_add(g, properties, f->key, field_schema(g, f));
		if (f->flags & L7MP_F_REQUIRED)
			oas_push(g, required, cJSON_CreateString(f->key));
	}
}

static void make_component(struct oas *g, const struct l7mp_schema *table, const char *name)
{
	cJSON *o = oas_object(g), *props = oas_object(g), *required = oas_array(g);

	oas_str(g, o, "type", "object");
	oas_str(g, o, "description", table->doc);
	/* Added before its fields are visited, because tables refer to each other in cycles. */
	oas_add(g, g->schemas, name, o);
	oas_fields(g, table, props, required);
	oas_add(g, o, "properties", props);
	if (cJSON_GetArraySize(required))
		oas_add(g, o, "required", required);
	else
		cJSON_Delete(required);
}

static const char *component_name(struct oas *g, const struct l7mp_schema *table)
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

/* Returns {"$ref": ...} to the component of a table, which is made at its first use. */
static cJSON *oas_ref(struct oas *g, const struct l7mp_schema *table)
{
	char *path = l7mp_asprintf("#/components/schemas/%s", component_name(g, table));
	cJSON *ref = oas_object(g);

	oas_str(g, ref, "$ref", path);
	g->oom |= !path;
	free(path);
	return ref;
}

/* ---- components of the protocols ---- */

static void spec_name(const struct l7mp_protodesc *d, const char *role, char *buf, size_t size)
{
	snprintf(buf, size, "%.40s-%s-spec", d->name, role);
	for (char *p = buf; *p; p++)
		if (strchr("/ :", *p))
			*p = '-';
}

/* An enum of all names of the protocols. */
static cJSON *protocol_property(struct oas *g, const struct l7mp_protodesc *d)
{
	cJSON *o = oas_object(g), *values = oas_array(g);

	oas_str(g, o, "type", "string");
	oas_push(g, values, cJSON_CreateString(d->name));
	for (const char *const *a = d->aliases; a && *a; a++)
		oas_push(g, values, cJSON_CreateString(*a));
	oas_add(g, o, "enum", values);
	return o;
}

static void make_spec(struct oas *g, const struct l7mp_protodesc *d,
                      const struct l7mp_schema *table, const char *name, bool endpoint)
{
	cJSON *o = oas_object(g), *props = oas_object(g), *required = oas_array(g);

	oas_str(g, o, "type", "object");
	oas_str(g, o, "description", table && table->doc ? table->doc : d->doc);
	if (!endpoint) {
		oas_add(g, props, "protocol", protocol_property(g, d));
		oas_push(g, required, cJSON_CreateString("protocol"));
	}
	oas_fields(g, table, props, required);
	oas_add(g, o, "properties", props);
	if (cJSON_GetArraySize(required))
		oas_add(g, o, "required", required);
	else
		cJSON_Delete(required);
	oas_add(g, g->schemas, name, o);
}

static void put_mapping(struct oas *g, const struct l7mp_protodesc *d, cJSON *mapping,
                        const char *path)
{
	oas_str(g, mapping, d->name, path);
	for (const char *const *a = d->aliases; a && *a; a++)
		oas_str(g, mapping, *a, path);
}

static void push_ref(struct oas *g, cJSON *list, const char *path)
{
	cJSON *ref = oas_object(g);

	oas_str(g, ref, "$ref", path);
	oas_push(g, list, ref);
}

/* Makes "listener-spec" or "cluster-spec": one of the protocols' specs. */
static void make_role(struct oas *g, unsigned role, const char *word)
{
	cJSON *o = oas_object(g), *list = oas_array(g);
	cJSON *discriminator = oas_object(g), *mapping = oas_object(g);
	char name[96], path[160];

	for (const struct l7mp_protodesc *const *p = g->registry ? g->registry->descs : NULL;
	     p && *p; p++) {
		if (!((*p)->roles & role))
			continue;
		spec_name(*p, word, name, sizeof(name));
		make_spec(g, *p,
		          role == L7MP_ROLE_LISTENER ? (*p)->listener_spec : (*p)->cluster_spec,
		          name, false);
		snprintf(path, sizeof(path), "#/components/schemas/%s", name);
		push_ref(g, list, path);
		put_mapping(g, *p, mapping, path);
	}
	oas_str(g, discriminator, "propertyName", "protocol");
	oas_add(g, discriminator, "mapping", mapping);
	oas_add(g, o, "oneOf", list);
	oas_add(g, o, "discriminator", discriminator);
	snprintf(name, sizeof(name), "%s-spec", word);
	oas_add(g, g->schemas, name, o);
}

/* Recursive views show an endpoint of clusters that have none. */
static cJSON *empty_spec(struct oas *g)
{
	cJSON *o = oas_object(g);

	oas_str(g, o, "type", "object");
	oas_str(g, o, "description", "Of the one endpoint that a virtual cluster is shown with");
	oas_add(g, o, "maxProperties", cJSON_CreateNumber(0));
	return o;
}

/* An endpoint's spec doesn't name its protocol. */
static void make_endpoints(struct oas *g)
{
	cJSON *o = oas_object(g), *list = oas_array(g);
	char name[96], path[160];

	for (const struct l7mp_protodesc *const *p = g->registry ? g->registry->descs : NULL;
	     p && *p; p++) {
		if (!((*p)->roles & L7MP_ROLE_CLUSTER) || !(*p)->endpoint_spec)
			continue;
		spec_name(*p, "endpoint", name, sizeof(name));
		make_spec(g, *p, (*p)->endpoint_spec, name, true);
		snprintf(path, sizeof(path), "#/components/schemas/%s", name);
		push_ref(g, list, path);
	}
	oas_push(g, list, empty_spec(g));
	oas_str(g, o, "description", "By the protocol of the endpoint's cluster");
	oas_add(g, o, "anyOf", list);
	oas_add(g, g->schemas, "endpoint-spec", o);
}

static void oas_specs(struct oas *g)
{
	make_role(g, L7MP_ROLE_LISTENER, "listener");
	make_role(g, L7MP_ROLE_CLUSTER, "cluster");
	make_endpoints(g);
}

/* ---- paths ---- */

static const struct {
	int status;
	const char *doc;
} answers[] = {
        {400, "The path, the query or the body can't be read, or what it asks for can't be done"},
        {401, "The token is missing or wrong"},
        {403, "Not allowed from this client"},
        {404, "There is no such object"},
        {409, "The name exists, or something inline differs from an object of another owner"},
        {412, "If-Match names another version"},
        {413, "The body is larger than `admin.limits.max_body`"},
        {415, "Neither JSON nor YAML"},
        {422, "The body doesn't fit the schema; `content` lists where and why"},
        {429, "Too many wrong tokens came from this address"},
        {500, "Out of memory"},
        {503, "Overloaded, or about to end"},
};

/* Whether it accepts If-Match: all operations that change an existing object. */
static bool takes_if_match(const struct l7mp_rest_route *d)
{
	switch (d->op) {
	case L7MP_REST_OP_PUT:
	case L7MP_REST_OP_DELETE:
	case L7MP_REST_OP_CONFIG_SET:
	case L7MP_REST_OP_ADMIN_SET:
	case L7MP_REST_OP_ENDPOINTS_ADD:
	case L7MP_REST_OP_RULE_INSERT:
	case L7MP_REST_OP_RULE_REMOVE:
		return true;
	default:
		return false;
	}
}

static bool may_answer(const struct l7mp_rest_route *d, int status)
{
	switch (status) {
	case 413:
	case 415:
	case 422:
		return d->request != NULL;
	case 404:
		/* For a paged list 404 means that the element to continue after is gone. */
		return strchr(d->path, '{') || d->flags & L7MP_REST_PAGED;
	case 409:
		return d->flags & L7MP_REST_ADDS || d->op == L7MP_REST_OP_PUT;
	case 412:
		return takes_if_match(d);
	default:
		return true;
	}
}

static cJSON *content(struct oas *g, const char *type, cJSON *schema)
{
	cJSON *all = oas_object(g), *one = oas_object(g);

	oas_add(g, one, "schema", schema);
	oas_add(g, all, type, one);
	return all;
}

static cJSON *type_only(struct oas *g, const char *type)
{
	cJSON *o = oas_object(g);

	oas_str(g, o, "type", type);
	return o;
}

/* JSON in all formats; `terse` is not JSON any more. */
static cJSON *json_content(struct oas *g, cJSON *schema)
{
	cJSON *all = content(g, "application/json", schema), *one = oas_object(g);
	cJSON *text = type_only(g, "string");

	oas_str(g, text, "description", "With `?format=terse`");
	oas_add(g, one, "schema", text);
	oas_add(g, all, "text/plain; charset=utf-8", one);
	return all;
}

static cJSON *success(struct oas *g, const struct l7mp_rest_route *d)
{
	cJSON *r = oas_object(g), *schema;

	oas_str(g, r, "description", "OK");
	schema = d->response ? oas_ref(g, d->response) : oas_object(g);
	if (d->flags & L7MP_REST_LIST) {
		cJSON *array = oas_object(g);

		oas_str(g, array, "type", "array");
		oas_add(g, array, "items", schema);
		schema = array;
	}
	oas_add(g, r, "content",
	        d->flags & L7MP_REST_YAML ? content(g, "application/yaml", schema)
	                                  : json_content(g, schema));
	return r;
}

static cJSON *responses(struct oas *g, const struct l7mp_rest_route *d)
{
	cJSON *all = oas_object(g);

	oas_add(g, all, "200", success(g, d));
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		cJSON *r;
		char status[8];

		if (!may_answer(d, answers[i].status))
			continue;
		r = oas_object(g);
		snprintf(status, sizeof(status), "%d", answers[i].status);
		oas_str(g, r, "description", answers[i].doc);
		oas_add(g, r, "content", json_content(g, oas_ref(g, &l7mp_rest_error)));
		oas_add(g, all, status, r);
	}
	return all;
}

static void add_parameter(struct oas *g, cJSON *list, const char *name, const char *in,
                          const char *doc, cJSON *schema)
{
	cJSON *p = oas_object(g);

	oas_str(g, p, "name", name);
	oas_str(g, p, "in", in);
	oas_str(g, p, "description", doc);
	if (strcmp(in, "path") == 0)
		oas_add(g, p, "required", cJSON_CreateTrue());
	oas_add(g, p, "schema", schema);
	oas_push(g, list, p);
}

static cJSON *formats(struct oas *g)
{
	static const char *const names[] = {"plain", "terse", "space", "lines", "diffy"};
	cJSON *o = type_only(g, "string"), *values = oas_array(g);

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		oas_push(g, values, cJSON_CreateString(names[i]));
	oas_add(g, o, "enum", values);
	oas_str(g, o, "default", "plain");
	return o;
}

static cJSON *parameters(struct oas *g, const struct l7mp_rest_route *d)
{
	cJSON *list = oas_array(g);

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
	if (d->flags & L7MP_REST_OWNER)
		add_parameter(g, list, "owner", "query",
		              "Whose objects are meant; empty: those without owner; absent: all",
		              type_only(g, "string"));
	if (d->flags & L7MP_REST_PAGED) {
		add_parameter(g, list, "limit", "query", "How many items to show at most",
		              type_only(g, "integer"));
		add_parameter(g, list, "after", "query",
		              "Show what follows this item; see the Link header of the page before",
		              type_only(g, "string"));
	}
	if (d->flags & L7MP_REST_FILTERED)
		add_parameter(g, list, "filter", "query",
		              "Only sessions in which each of these words is found, at most 8: in "
		              "their names, states and reasons, and those of what they use",
		              type_only(g, "string"));
	if (takes_if_match(d))
		add_parameter(g, list, "If-Match", "header",
		              "Only if this is the object's ETag, or that of the whole config",
		              type_only(g, "string"));
	if (!(d->flags & L7MP_REST_YAML))
		add_parameter(g, list, "format", "query", "The shape of the JSON text", formats(g));
	return list;
}

static cJSON *request_body(struct oas *g, const struct l7mp_rest_route *d)
{
	cJSON *body = oas_object(g), *types = oas_object(g);
	static const char *const names[] = {"application/json", "application/yaml"};

	for (size_t i = 0; i < 2; i++) {
		cJSON *one = oas_object(g);

		oas_add(g, one, "schema", oas_ref(g, d->request));
		oas_add(g, types, names[i], one);
	}
	oas_add(g, body, "required", cJSON_CreateBool(!(d->flags & L7MP_REST_BODYLESS)));
	oas_add(g, body, "content", types);
	return body;
}

static void add_operation(struct oas *g, cJSON *paths, const struct l7mp_rest_route *d)
{
	cJSON *item = l7mp_json_member(paths, d->path), *op = oas_object(g);
	char method[8];
	size_t n = 0;

	if (!item) {
		item = oas_object(g);
		oas_add(g, paths, d->path, item);
	}
	for (; n < sizeof(method) - 1 && d->method[n]; n++)
		method[n] = (char)(d->method[n] | 0x20);
	method[n] = 0;
	oas_str(g, op, "operationId", d->id);
	oas_str(g, op, "summary", d->summary);
	oas_add(g, op, "parameters", parameters(g, d));
	if (d->request)
		oas_add(g, op, "requestBody", request_body(g, d));
	oas_add(g, op, "responses", responses(g, d));
	oas_add(g, item, method, op);
}

static cJSON *oas_paths(struct oas *g)
{
	cJSON *paths = oas_object(g);

	for (const struct l7mp_rest_route *d = l7mp_rest_routes; d->method; d++)
		add_operation(g, paths, d);
	return paths;
}

/* ---- the document ---- */

static cJSON *make_info(struct oas *g, const char *version)
{
	cJSON *info = oas_object(g), *license = oas_object(g);

	oas_str(g, info, "title", "l7mp");
	oas_str(g, info, "description",
	        "The REST API of the l7mp proxy. Bodies may be JSON or YAML. Protocol names, load "
	        "balancing policies and log levels are read without regard to case. Unknown keys "
	        "are "
	        "warnings, in strict mode errors.");
	oas_str(g, info, "version", version);
	oas_str(g, license, "name", "MIT");
	oas_add(g, info, "license", license);
	return info;
}

static cJSON *make_security(struct oas *g)
{
	cJSON *all = oas_object(g), *bearer = oas_object(g);

	oas_str(g, bearer, "type", "http");
	oas_str(g, bearer, "scheme", "bearer");
	oas_str(g, bearer, "description",
	        "Asked for when `admin.api_token_file` is set; without it only clients on this "
	        "host are answered");
	oas_add(g, all, "bearer", bearer);
	return all;
}

/* The security requirement: no token, or a bearer token. */
static cJSON *make_requirement(struct oas *g)
{
	cJSON *list = oas_array(g), *bearer = oas_object(g);

	oas_add(g, bearer, "bearer", oas_array(g));
	oas_push(g, list, oas_object(g));
	oas_push(g, list, bearer);
	return list;
}

static cJSON *make_servers(struct oas *g)
{
	cJSON *list = oas_array(g), *server = oas_object(g);

	oas_str(g, server, "url", "/api/v1");
	oas_push(g, list, server);
	return list;
}

cJSON *l7mp_openapi(const struct l7mp_registry *registry, const char *version)
{
	struct oas *g = calloc(1, sizeof(*g));
	cJSON *root = cJSON_CreateObject(), *components = cJSON_CreateObject();

	if (!g) {
		cJSON_Delete(root);
		cJSON_Delete(components);
		return NULL;
	}
	g->registry = registry;
	g->schemas = oas_object(g);
	oas_add(g, components, "schemas", g->schemas);
	oas_add(g, components, "securitySchemes", make_security(g));
	oas_str(g, root, "openapi", "3.0.3");
	oas_add(g, root, "info", make_info(g, version ? version : L7MP_VERSION));
	oas_add(g, root, "servers", make_servers(g));
	oas_add(g, root, "security", make_requirement(g));
	oas_specs(g);
	oas_add(g, root, "paths", oas_paths(g));
	oas_add(g, root, "components", components);
	if (g->oom) {
		cJSON_Delete(root);
		root = NULL;
	}
	free(g);
	return root;
}
