/* SPDX-License-Identifier: MIT */
/*
 * Structural schemas have a type everywhere, except at x-kubernetes-preserve-unknown-fields. They
 * have no references, so recursive parts (rules in rule lists in rules) are open below the first
 * level. They have no defaults, which the API server would write into the objects.
 */
#include "crds.h"

#include <stdlib.h>
#include <string.h>

#include "l7mp/model.h"
#include "l7mp/util.h"

/* Builds a tree and records when memory runs out, so that this is checked once, at the end. */
struct builder {
	const struct l7mp_registry *registry;
	bool oom;
};

static cJSON *object(struct builder *b)
{
	cJSON *o = cJSON_CreateObject();

	b->oom = b->oom || !o;
	return o;
}

/* Takes `child`, and returns it; the parent owns it now. */
static cJSON *put(struct builder *b, cJSON *parent, const char *key, cJSON *child)
{
	if (l7mp_json_add(parent, key, child)) {
		b->oom = true;
		return NULL;
	}
	return child;
}

static void put_str(struct builder *b, cJSON *parent, const char *key, const char *value)
{
	put(b, parent, key, cJSON_CreateString(value));
}

static void put_num(struct builder *b, cJSON *parent, const char *key, double value)
{
	put(b, parent, key, cJSON_CreateNumber(value));
}

static void put_true(struct builder *b, cJSON *parent, const char *key)
{
	put(b, parent, key, cJSON_CreateTrue());
}

static void append(struct builder *b, cJSON *array, cJSON *item)
{
	if (array && item && cJSON_AddItemToArray(array, item))
		return;
	cJSON_Delete(item);
	b->oom = true;
}

#define OPEN "x-kubernetes-preserve-unknown-fields"

static cJSON *typed(struct builder *b, const char *type, const char *doc)
{
	cJSON *o = object(b);

	if (doc)
		put_str(b, o, "description", doc);
	put_str(b, o, "type", type);
	return o;
}

/* Any value. */
static cJSON *open_value(struct builder *b, const char *doc)
{
	cJSON *o = object(b);

	if (doc)
		put_str(b, o, "description", doc);
	put_true(b, o, OPEN);
	return o;
}

/* An object with some described keys; others are preserved. */
static cJSON *open_object(struct builder *b, const char *doc, cJSON **properties)
{
	cJSON *o = typed(b, "object", doc);

	put_true(b, o, OPEN);
	*properties = put(b, o, "properties", object(b));
	return o;
}

/* ---- from the tables ---- */

static cJSON *of_schema(struct builder *b, const struct l7mp_schema *schema, const char *doc);

static cJSON *array_of(struct builder *b, cJSON *items, const char *doc)
{
	cJSON *o = typed(b, "array", doc);

	put(b, o, "items", items);
	return o;
}

static cJSON *of_number(struct builder *b, const struct l7mp_field *f, const char *type)
{
	cJSON *o = typed(b, type, f->doc);

	if (f->min != 0 || f->max != 0) {
		put_num(b, o, "minimum", f->min);
		put_num(b, o, "maximum", f->max);
	}
	return o;
}

static cJSON *of_string(struct builder *b, const struct l7mp_field *f)
{
	cJSON *o = typed(b, "string", f->doc);
	const char *pattern = l7mp_schema_pattern_regex(f->pattern);

	if (f->max > 0) {
		put_num(b, o, "minLength", f->min);
		put_num(b, o, "maxLength", f->max);
	}
	if (pattern)
		put_str(b, o, "pattern", pattern);
	return o;
}

static cJSON *of_enum(struct builder *b, const struct l7mp_field *f)
{
	cJSON *o = typed(b, "string", f->doc), *list;

	/* Values in any case can't be listed. */
	if (f->flags & L7MP_F_NOCASE)
		return o;
	list = put(b, o, "enum", cJSON_CreateArray());
	for (const char *const *v = f->values; *v; v++)
		append(b, list, cJSON_CreateString(*v));
	return o;
}

/* {PROTOCOL: {…}}, one key for each protocol with the role; `protocol: NAME` accepts any name. */
static cJSON *of_protocols(struct builder *b, unsigned role, const char *doc)
{
	cJSON *properties, *o = open_object(b, doc, &properties);

	put(b, properties, "protocol",
	    typed(b, "string",
	          "The protocol's name, with the keys of its spec beside it; or one of the keys "
	          "below"));
	for (const struct l7mp_protodesc *const *d = b->registry->descs; *d; d++) {
		cJSON *spec;

		if (!((*d)->roles & role))
			continue;
		spec = of_schema(
		        b, role == L7MP_ROLE_LISTENER ? (*d)->listener_spec : (*d)->cluster_spec,
		        (*d)->doc);
		/* `Echo:` without a value. */
		put_true(b, spec, "nullable");
		put(b, properties, (*d)->name, spec);
	}
	return o;
}

static cJSON *of_field(struct builder *b, const struct l7mp_field *f)
{
	cJSON *o;

	switch (f->type) {
	case L7MP_T_BOOL:
		return typed(b, "boolean", f->doc);
	case L7MP_T_INT:
		o = of_number(b, f, "integer");
		put_str(b, o, "format", "int64");
		return o;
	case L7MP_T_NUMBER:
		return of_number(b, f, "number");
	case L7MP_T_STRING:
		return of_string(b, f);
	case L7MP_T_ENUM:
		return of_enum(b, f);
	case L7MP_T_ARRAY:
		return array_of(b, f->item ? of_field(b, f->item) : open_value(b, NULL), f->doc);
	case L7MP_T_OBJECT:
		return of_schema(b, f->sub, f->doc);
	case L7MP_T_MAP:
		o = typed(b, "object", f->doc);
		put(b, o, "additionalProperties",
		    f->item ? of_field(b, f->item) : open_value(b, NULL));
		return o;
	case L7MP_T_PROTOCOL_SPEC:
		/* Inside a protocol's spec (JSONSocket's transport) it is open. */
		return open_value(b, f->doc);
	case L7MP_T_ANY:
	case L7MP_T_ONEOF:
	case L7MP_T_REF:
		break;
	}
	return open_value(b, f->doc);
}

static cJSON *of_schema(struct builder *b, const struct l7mp_schema *schema, const char *doc)
{
	cJSON *properties, *o = open_object(b,
	                                    doc      ? doc
	                                    : schema ? schema->doc
	                                             : NULL,
	                                    &properties);

	for (const struct l7mp_field *f = schema ? schema->fields : NULL; f && f->key; f++)
		if (!(f->flags & L7MP_F_READONLY))
			put(b, properties, f->key, of_field(b, f));
	return o;
}

/* Replaces the table's description of a key, or adds one. */
static void set(struct builder *b, cJSON *schema, const char *key, cJSON *value)
{
	cJSON *properties = l7mp_json_member(schema, "properties");

	cJSON_DeleteItemFromObjectCaseSensitive(properties, key);
	put(b, properties, key, value);
}

static void drop(cJSON *schema, const char *key)
{
	cJSON_DeleteItemFromObjectCaseSensitive(l7mp_json_member(schema, "properties"), key);
}

/* ---- the kinds ---- */

static cJSON *terms(struct builder *b, const char *doc)
{
	cJSON *properties, *item = typed(b, "object", NULL), *values;

	properties = put(b, item, "properties", object(b));
	put(b, properties, "key", typed(b, "string", NULL));
	put(b, properties, "operator",
	    typed(b, "string", "In, NotIn, Exists or DoesNotExist, in any case"));
	values = array_of(b, typed(b, "string", NULL), NULL);
	put(b, properties, "values", values);
	return array_of(b, item, doc);
}

static cJSON *selector(struct builder *b, const char *doc)
{
	cJSON *properties, *o = open_object(b, doc, &properties), *labels;

	labels = typed(b, "object", "Labels of the pod, all of them");
	put(b, labels, "additionalProperties", typed(b, "string", NULL));
	put(b, properties, "matchLabels", labels);
	put(b, properties, "matchExpressions", terms(b, "Conditions on labels of the pod"));
	put(b, properties, "matchFields",
	    terms(b,
	          "Conditions on metadata.name, metadata.namespace, metadata.uid, spec.nodeName, "
	          "spec.serviceAccountName, status.podIP, status.hostIP or status.phase"));
	put(b, properties, "matchService",
	    typed(b, "string", "A Service of this namespace that the pod is an endpoint of"));
	put(b, properties, "matchNamespace",
	    typed(b, "string", "The pod's namespace; another one needs a ReferenceGrant there"));
	return o;
}

#define SELECTOR "The proxies that get it: all of these conditions hold for their pods"

static cJSON *endpoint(struct builder *b)
{
	cJSON *e = of_schema(b, &l7mp_schema_endpoint, NULL), *properties, *spec;

	spec = open_object(b, "Where the endpoint is, as the cluster's protocol has it",
	                   &properties);
	put(b, properties, "address", typed(b, "string", "IP address, host name or path"));
	put(b, properties, "filename", typed(b, "string", "The same, of a UNIX socket"));
	set(b, e, "spec", spec);
	set(b, e, "selector",
	    selector(b, "In the place of `spec`: one endpoint for each pod of which all of these "
	                "conditions hold"));
	return e;
}

static cJSON *cluster(struct builder *b)
{
	cJSON *c = of_schema(b, &l7mp_schema_cluster, NULL);

	set(b, c, "spec",
	    of_protocols(b, L7MP_ROLE_CLUSTER, "The protocol, and what it needs to connect"));
	set(b, c, "endpoints", array_of(b, endpoint(b), "The endpoints"));
	return c;
}

static cJSON *route(struct builder *b)
{
	cJSON *r = of_schema(b, &l7mp_schema_route, NULL);

	drop(r, "name");
	drop(r, "cluster");
	set(b, r, "destination",
	    open_value(b, "The destination: a cluster, or the name of a Target, VirtualService or "
	                  "Service, or of a cluster of the proxy's own config"));
	set(b, r, "destinationRef", typed(b, "string", "The same, only by name"));
	return r;
}

static cJSON *rule(struct builder *b)
{
	cJSON *r = of_schema(b, &l7mp_schema_rule, NULL);
	cJSON *action = l7mp_json_member(l7mp_json_member(r, "properties"), "action");
	cJSON *rewrite = l7mp_json_member(l7mp_json_member(action, "properties"), "rewrite");

	set(b, action, "route", open_value(b, "A route, or the name of a Route"));
	set(b, action, "routeRef", typed(b, "string", "The name of a Route"));
	set(b, l7mp_json_member(rewrite, "items"), "valueStr",
	    typed(b, "string", "A string for `value`"));
	return r;
}

static void require(struct builder *b, cJSON *schema, const char *const *keys)
{
	cJSON *list = put(b, schema, "required", cJSON_CreateArray());

	for (; *keys; keys++)
		append(b, list, cJSON_CreateString(*keys));
}

static cJSON *owners(struct builder *b)
{
	return typed(
	        b, "boolean",
	        "Whether status.children.applied of the owners gets the object's generation when "
	        "all proxies have it");
}

static cJSON *vsvc(struct builder *b)
{
	static const char *const required[] = {"selector", "listener", NULL};
	cJSON *properties, *o = open_object(b, "A listener on each proxy selected", &properties);
	cJSON *l = of_schema(b, &l7mp_schema_listener, NULL);

	set(b, l, "spec",
	    of_protocols(b, L7MP_ROLE_LISTENER, "The protocol, and what it needs to listen"));
	set(b, l, "rules", array_of(b, rule(b), "The rules that route the sessions, in order"));
	set(b, l, "rulesRef",
	    typed(b, "string", "In the place of `rules`: a rule list of the proxy's own config"));
	put(b, properties, "selector", selector(b, SELECTOR));
	put(b, properties, "listener", l);
	put(b, properties, "updateOwners", owners(b));
	require(b, o, required);
	return o;
}

static cJSON *target(struct builder *b)
{
	cJSON *properties,
	        *o = open_object(b,
	                         "A cluster on each proxy selected, and wherever it is referred to",
	                         &properties);

	put(b, properties, "selector", selector(b, SELECTOR));
	put(b, properties, "cluster", cluster(b));
	put(b, properties, "linkedVirtualService",
	    typed(b, "string",
	          "A VirtualService: its listener is the spec, the pods it selects are endpoints"));
	put(b, properties, "updateOwners", owners(b));
	return o;
}

static cJSON *rule_kind(struct builder *b)
{
	static const char *const required[] = {"selector", "rulelist", "rule", NULL};
	cJSON *properties, *o = open_object(b, "A rule in a rule list of the proxies", &properties);
	cJSON *position = typed(b, "integer",
	                        "In front of which of the list's own rules, from 0; larger than "
	                        "their number: at the end");

	put_num(b, position, "minimum", 0);
	put_num(b, position, "maximum", 1000000);
	put(b, properties, "selector", selector(b, SELECTOR));
	put(b, properties, "rulelist",
	    typed(b, "string", "The name of a rule list of the proxies' own config"));
	put(b, properties, "position", position);
	put(b, properties, "rule", rule(b));
	put(b, properties, "updateOwners", owners(b));
	require(b, o, required);
	return o;
}

static cJSON *conditions(struct builder *b)
{
	static const char *const strings[] = {"type", "status", "reason", "message", NULL};
	cJSON *item = typed(b, "object", NULL), *list, *properties, *time, *keys;

	properties = put(b, item, "properties", object(b));
	for (const char *const *s = strings; *s; s++)
		put(b, properties, *s, typed(b, "string", NULL));
	time = typed(b, "string", NULL);
	put_str(b, time, "format", "date-time");
	put(b, properties, "lastTransitionTime", time);
	put(b, properties, "observedGeneration", typed(b, "integer", NULL));
	require(b, item, (const char *const[]){"type", "status", NULL});
	list = array_of(b, item,
	                "Accepted: the object makes sense; Programmed: the proxies have it");
	put_str(b, list, "x-kubernetes-list-type", "map");
	keys = put(b, list, "x-kubernetes-list-map-keys", cJSON_CreateArray());
	append(b, keys, cJSON_CreateString("type"));
	return list;
}

static cJSON *status(struct builder *b)
{
	cJSON *properties, *o = open_object(b, NULL, &properties);

	put(b, properties, "conditions", conditions(b));
	put(b, properties, "proxies",
	    typed(b, "string", "How many proxies have it, of those that should"));
	return o;
}

static void column(struct builder *b, cJSON *list, const char *name, const char *type,
                   const char *path, int priority)
{
	cJSON *c = object(b);

	put_str(b, c, "name", name);
	put_str(b, c, "type", type);
	put_str(b, c, "jsonPath", path);
	if (priority)
		put_num(b, c, "priority", priority);
	append(b, list, c);
}

static const struct kind {
	const char *kind, *plural, *singular, *shortname;
	cJSON *(*spec)(struct builder *b);
} kinds[] = {
        {"VirtualService", "virtualservices", "virtualservice", "vsvc", vsvc},
        {"Target", "targets", "target", "tr", target},
        {"Rule", "rules", "rule", NULL, rule_kind},
        {"Route", "routes", "route", NULL, route},
};

static cJSON *version(struct builder *b, const struct kind *k)
{
	cJSON *v = object(b), *schema, *properties, *columns;

	put_str(b, v, "name", "v1");
	put_true(b, v, "served");
	put_true(b, v, "storage");
	put(b, put(b, v, "subresources", object(b)), "status", object(b));
	columns = put(b, v, "additionalPrinterColumns", cJSON_CreateArray());
	column(b, columns, "Accepted", "string",
	       ".status.conditions[?(@.type==\"Accepted\")].status", 0);
	column(b, columns, "Programmed", "string",
	       ".status.conditions[?(@.type==\"Programmed\")].status", 0);
	column(b, columns, "Proxies", "string", ".status.proxies", 0);
	column(b, columns, "Age", "date", ".metadata.creationTimestamp", 0);
	column(b, columns, "Message", "string",
	       ".status.conditions[?(@.type==\"Accepted\")].message", 1);
	schema = typed(b, "object", NULL);
	properties = put(b, schema, "properties", object(b));
	put(b, properties, "apiVersion", typed(b, "string", NULL));
	put(b, properties, "kind", typed(b, "string", NULL));
	put(b, properties, "metadata", typed(b, "object", NULL));
	put(b, properties, "spec", k->spec(b));
	put(b, properties, "status", status(b));
	require(b, schema, (const char *const[]){"spec", NULL});
	put(b, put(b, v, "schema", object(b)), "openAPIV3Schema", schema);
	return v;
}

static cJSON *crd(struct builder *b, const struct kind *k)
{
	cJSON *o = object(b), *spec, *names;
	char *name = l7mp_asprintf("%s.l7mp.io", k->plural);

	put_str(b, o, "apiVersion", "apiextensions.k8s.io/v1");
	put_str(b, o, "kind", "CustomResourceDefinition");
	put_str(b, put(b, o, "metadata", object(b)), "name", name ? name : "");
	b->oom = b->oom || !name;
	free(name);
	spec = put(b, o, "spec", object(b));
	put_str(b, spec, "group", "l7mp.io");
	put_str(b, spec, "scope", "Namespaced");
	names = put(b, spec, "names", object(b));
	put_str(b, names, "kind", k->kind);
	put_str(b, names, "plural", k->plural);
	put_str(b, names, "singular", k->singular);
	if (k->shortname)
		append(b, put(b, names, "shortNames", cJSON_CreateArray()),
		       cJSON_CreateString(k->shortname));
	append(b, put(b, names, "categories", cJSON_CreateArray()), cJSON_CreateString("l7mp"));
	append(b, put(b, spec, "versions", cJSON_CreateArray()), version(b, k));
	return o;
}

cJSON *op_crds(const struct l7mp_registry *registry)
{
	struct builder b = {.registry = registry};
	cJSON *all = cJSON_CreateArray();

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(kinds); i++)
		append(&b, all, crd(&b, &kinds[i]));
	if (!b.oom)
		return all;
	cJSON_Delete(all);
	return NULL;
}
