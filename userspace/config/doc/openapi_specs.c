/* SPDX-License-Identifier: MIT */
/* The specs of the protocols: one component each, told apart by `protocol`. */
#include <stdio.h>
#include <string.h>

#include "l7mp/protodesc.h"
#include "openapi_int.h"

static void component_name(const struct l7mp_protodesc *d, const char *role, char *buf, size_t size)
{
	snprintf(buf, size, "%.40s-%s-spec", d->name, role);
	for (char *p = buf; *p; p++)
		if (strchr("/ :", *p))
			*p = '-';
}

/* The spellings as an enum. */
static cJSON *protocol_property(struct l7mp_oas *g, const struct l7mp_protodesc *d)
{
	cJSON *o = l7mp_oas_object(g), *values = l7mp_oas_array(g);

	l7mp_oas_str(g, o, "type", "string");
	l7mp_oas_push(g, values, cJSON_CreateString(d->name));
	for (const char *const *a = d->aliases; a && *a; a++)
		l7mp_oas_push(g, values, cJSON_CreateString(*a));
	l7mp_oas_add(g, o, "enum", values);
	return o;
}

static void make_spec(struct l7mp_oas *g, const struct l7mp_protodesc *d,
                      const struct l7mp_schema *table, const char *name, bool endpoint)
{
	cJSON *o = l7mp_oas_object(g), *props = l7mp_oas_object(g), *required = l7mp_oas_array(g);

	l7mp_oas_str(g, o, "type", "object");
	l7mp_oas_str(g, o, "description", table && table->doc ? table->doc : d->doc);
	if (!endpoint) {
		l7mp_oas_add(g, props, "protocol", protocol_property(g, d));
		l7mp_oas_push(g, required, cJSON_CreateString("protocol"));
	}
	l7mp_oas_fields(g, table, props, required);
	l7mp_oas_add(g, o, "properties", props);
	if (cJSON_GetArraySize(required))
		l7mp_oas_add(g, o, "required", required);
	else
		cJSON_Delete(required);
	l7mp_oas_add(g, g->schemas, name, o);
}

static void put_mapping(struct l7mp_oas *g, const struct l7mp_protodesc *d, cJSON *mapping,
                        const char *path)
{
	l7mp_oas_str(g, mapping, d->name, path);
	for (const char *const *a = d->aliases; a && *a; a++)
		l7mp_oas_str(g, mapping, *a, path);
}

static void push_ref(struct l7mp_oas *g, cJSON *list, const char *path)
{
	cJSON *ref = l7mp_oas_object(g);

	l7mp_oas_str(g, ref, "$ref", path);
	l7mp_oas_push(g, list, ref);
}

/* "listener-spec" or "cluster-spec": one of those of the protocols. */
static void make_role(struct l7mp_oas *g, unsigned role, const char *word)
{
	cJSON *o = l7mp_oas_object(g), *list = l7mp_oas_array(g);
	cJSON *discriminator = l7mp_oas_object(g), *mapping = l7mp_oas_object(g);
	char name[96], path[160];

	for (const struct l7mp_protodesc *const *p = g->registry ? g->registry->descs : NULL;
	     p && *p; p++) {
		if (!((*p)->roles & role))
			continue;
		component_name(*p, word, name, sizeof(name));
		make_spec(g, *p,
		          role == L7MP_ROLE_LISTENER ? (*p)->listener_spec : (*p)->cluster_spec,
		          name, false);
		snprintf(path, sizeof(path), "#/components/schemas/%s", name);
		push_ref(g, list, path);
		put_mapping(g, *p, mapping, path);
	}
	l7mp_oas_str(g, discriminator, "propertyName", "protocol");
	l7mp_oas_add(g, discriminator, "mapping", mapping);
	l7mp_oas_add(g, o, "oneOf", list);
	l7mp_oas_add(g, o, "discriminator", discriminator);
	snprintf(name, sizeof(name), "%s-spec", word);
	l7mp_oas_add(g, g->schemas, name, o);
}

/* An endpoint's spec doesn't name its protocol. */
static void make_endpoints(struct l7mp_oas *g)
{
	cJSON *o = l7mp_oas_object(g), *list = l7mp_oas_array(g);
	char name[96], path[160];

	for (const struct l7mp_protodesc *const *p = g->registry ? g->registry->descs : NULL;
	     p && *p; p++) {
		if (!((*p)->roles & L7MP_ROLE_CLUSTER) || !(*p)->endpoint_spec)
			continue;
		component_name(*p, "endpoint", name, sizeof(name));
		make_spec(g, *p, (*p)->endpoint_spec, name, true);
		snprintf(path, sizeof(path), "#/components/schemas/%s", name);
		push_ref(g, list, path);
	}
	l7mp_oas_str(g, o, "description", "By the protocol of the endpoint's cluster");
	if (cJSON_GetArraySize(list))
		l7mp_oas_add(g, o, "anyOf", list);
	else
		cJSON_Delete(list);
	l7mp_oas_add(g, g->schemas, "endpoint-spec", o);
}

void l7mp_oas_specs(struct l7mp_oas *g)
{
	make_role(g, L7MP_ROLE_LISTENER, "listener");
	make_role(g, L7MP_ROLE_CLUSTER, "cluster");
	make_endpoints(g);
}
