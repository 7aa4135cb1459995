/* SPDX-License-Identifier: MIT */
/* The reference pages: the tables as Markdown. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/model.h"
#include "l7mp/openapi.h"
#include "l7mp/rest.h"
#include "l7mp/util.h"

static char *finish(struct l7mp_str *out)
{
	if (!out->oom)
		return l7mp_str_take(out);
	l7mp_str_free(out);
	return NULL;
}

/* A '|' would end the table cell. */
static void put_cell(struct l7mp_str *out, const char *text)
{
	for (; text && *text; text++)
		l7mp_str_addf(out, *text == '|' ? "\\%c" : "%c", *text);
}

/* The contents of the type column, in the terms of the error messages. */
static void put_type(struct l7mp_str *out, const struct l7mp_field *f)
{
	char text[256];

	if (f->type == L7MP_T_ARRAY && f->item && f->item->type == L7MP_T_REF && f->item->sub)
		l7mp_str_addf(out, "an array of names or %s objects", f->item->sub->name);
	else if (f->type == L7MP_T_ARRAY && f->item && f->item->sub)
		l7mp_str_addf(out, "an array of %s objects", f->item->sub->name);
	else if (f->type == L7MP_T_OBJECT && f->sub)
		l7mp_str_addf(out, "%s object", f->sub->name);
	else
		put_cell(out, l7mp_schema_describe(f, text, sizeof(text)));
}

static void put_field(struct l7mp_str *out, const struct l7mp_field *f)
{
	l7mp_str_addf(out, "| `%s` | ", f->key);
	put_type(out, f);
	l7mp_str_add(out, " | ");
	if (f->flags & L7MP_F_REQUIRED)
		l7mp_str_add(out, "required");
	else if (f->flags & L7MP_F_READONLY)
		l7mp_str_add(out, "read only");
	else if (f->def)
		l7mp_str_addf(out, "`%s`", f->def);
	l7mp_str_add(out, " | ");
	put_cell(out, f->doc);
	l7mp_str_add(out, " |\n");
}

static void put_fields(struct l7mp_str *out, const struct l7mp_schema *table)
{
	l7mp_str_add(out, "| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
	for (const struct l7mp_field *f = table->fields; f && f->key; f++)
		put_field(out, f);
	l7mp_str_add(out, "\n");
}

struct seen {
	const struct l7mp_schema *v[64];
	size_t n;
};

static bool see(struct seen *s, const struct l7mp_schema *table)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i] == table)
			return false;
	if (s->n == L7MP_ARRAY_SIZE(s->v))
		return false;
	s->v[s->n++] = table;
	return true;
}

static void put_table(struct l7mp_str *out, struct seen *seen, const struct l7mp_schema *table,
                      const char *heading);

/* Adds the tables of nested objects, each once, after the table that needs them. */
static void put_below(struct l7mp_str *out, struct seen *seen, const struct l7mp_field *f)
{
	if (f->sub)
		put_table(out, seen, f->sub, "###");
	if (f->item)
		put_below(out, seen, f->item);
	for (const struct l7mp_field *const *a = f->alternatives; a && *a; a++)
		put_below(out, seen, *a);
}

static void put_table(struct l7mp_str *out, struct seen *seen, const struct l7mp_schema *table,
                      const char *heading)
{
	if (!see(seen, table))
		return;
	l7mp_str_addf(out, "%s %s\n\n%s.\n\n", heading, table->name, table->doc ? table->doc : "");
	put_fields(out, table);
	for (const struct l7mp_field *f = table->fields; f && f->key; f++)
		put_below(out, seen, f);
}

char *l7mp_reference_objects(void)
{
	static const struct l7mp_schema *const tables[] = {
	        &l7mp_schema_config,  &l7mp_schema_admin,    &l7mp_schema_listener,
	        &l7mp_schema_cluster, &l7mp_schema_endpoint, &l7mp_schema_rulelist,
	        &l7mp_schema_rule,    &l7mp_schema_route};
	struct l7mp_str out = {0};
	struct seen seen = {.n = 0};

	/* Objects of the model have their own sections, wherever they are referred to. */
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(tables); i++)
		see(&seen, tables[i]);
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(tables); i++) {
		seen.v[i] = NULL;
		put_table(&out, &seen, tables[i], "##");
	}
	return finish(&out);
}

static const char *roles(unsigned r)
{
	if ((r & L7MP_ROLE_LISTENER) && (r & L7MP_ROLE_CLUSTER))
		return "listener and cluster";
	return r & L7MP_ROLE_LISTENER ? "listener" : "cluster";
}

static void put_kind(struct l7mp_str *out, const struct l7mp_protodesc *d)
{
	const char *kind = d->kind == L7MP_KIND_DATAGRAM ? "datagrams" : "a byte stream";

	if (d->flags & L7MP_PROTO_KEEPS_KIND)
		kind = "whatever it receives";
	l7mp_str_addf(out, "Role: %s. Carries %s.", roles(d->roles), kind);
	if (d->flags & L7MP_PROTO_PASS)
		l7mp_str_add(out, " A transformer: allowed in `ingress` and `egress`.");
	if (d->idle_timeout)
		l7mp_str_addf(out,
		              " A listener's sessions end after %u s without traffic, by default.",
		              d->idle_timeout);
	l7mp_str_add(out, "\n\n");
}

static void put_spec(struct l7mp_str *out, const char *title, const struct l7mp_schema *table)
{
	struct seen seen = {.n = 0};

	if (!table || !table->fields || !table->fields->key)
		return;
	l7mp_str_addf(out, "**%s**\n\n", title);
	put_fields(out, table);
	see(&seen, table);
	for (const struct l7mp_field *f = table->fields; f && f->key; f++) {
		if (f->type != L7MP_T_OBJECT || !f->sub || !see(&seen, f->sub))
			continue;
		l7mp_str_addf(out, "`%s`:\n\n", f->key);
		put_fields(out, f->sub);
	}
}

static void put_protocol(struct l7mp_str *out, const struct l7mp_protodesc *d)
{
	l7mp_str_addf(out, "### %s\n\n", d->name);
	if (d->doc)
		l7mp_str_addf(out, "%s.\n\n", d->doc);
	if (d->aliases && *d->aliases) {
		l7mp_str_add(out, "Also written ");
		for (const char *const *a = d->aliases; *a; a++)
			l7mp_str_addf(out, "%s`%s`", a == d->aliases ? "" : ", ", *a);
		l7mp_str_add(out, ". ");
	}
	put_kind(out, d);
	if (d->roles & L7MP_ROLE_LISTENER)
		put_spec(out, "Listener spec", d->listener_spec);
	if (d->roles & L7MP_ROLE_CLUSTER) {
		put_spec(out, "Cluster spec", d->cluster_spec);
		put_spec(out, "Endpoint spec", d->endpoint_spec);
	}
}

char *l7mp_reference_protocols(const struct l7mp_registry *registry)
{
	struct l7mp_str out = {0};

	for (const struct l7mp_protodesc *const *d = registry->descs; *d; d++)
		put_protocol(&out, *d);
	l7mp_str_add(&out, "");
	return finish(&out);
}

char *l7mp_reference_endpoints(void)
{
	struct l7mp_str out = {0};

	l7mp_str_add(&out, "| method | path | body | what it does |\n| --- | --- | --- | --- |\n");
	for (const struct l7mp_rest_route *d = l7mp_rest_routes; d->method; d++) {
		l7mp_str_addf(&out, "| %s | `%s%s%s%s%s` | ", d->method, d->path,
		              d->flags & L7MP_REST_RECURSIVE ? "[?recursive=true]" : "",
		              d->flags & L7MP_REST_OWNER ? "[?owner=NAME]" : "",
		              d->flags & L7MP_REST_PAGED ? "[?limit=N&after=ITEM]" : "",
		              d->flags & L7MP_REST_FILTERED ? "[?filter=WORDS]" : "");
		if (d->request && d->request->fields)
			l7mp_str_addf(&out, "`{\"%s\": ...}`", d->request->fields->key);
		l7mp_str_add(&out, " | ");
		put_cell(&out, d->summary);
		l7mp_str_add(&out, " |\n");
	}
	return finish(&out);
}
