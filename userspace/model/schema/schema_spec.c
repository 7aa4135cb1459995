/* SPDX-License-Identifier: MIT */
/* {protocol: UDP, ...}: the other keys are checked with the protocol's table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema_int.h"

static const struct l7mp_field no_fields[] = {{.key = NULL}};
static const struct l7mp_schema no_keys = {.name = "spec", .fields = no_fields};

/*
 * The original l7mp documents an endpoint's weight both beside `spec` (README) and in it (OpenAPI);
 * both are accepted.
 */
static const struct l7mp_field weight = {
        .key = "weight", .type = L7MP_T_NUMBER, .min = 0, .max = 1000000};

static const char *role_name(unsigned role)
{
	return role == L7MP_ROLE_LISTENER ? "listener" : "cluster";
}

static void list_protocols(const struct l7mp_registry *r, unsigned role, struct l7mp_str *out)
{
	for (const struct l7mp_protodesc *const *d = r->descs; d && *d; d++)
		if ((*d)->roles & role)
			l7mp_str_addf(out, "%s%s", out->len ? ", " : "", (*d)->name);
}

static void bad_protocol(struct l7mp_schema_ctx *ctx, unsigned role, const char *what,
                         const cJSON *node, const char *path)
{
	struct l7mp_str known = {0};
	char *sub = l7mp_schema_join(path, "protocol");

	list_protocols(ctx->registry, role, &known);
	l7mp_issues_add(ctx->issues, false, node, sub ? sub : path, "%s, expected one of: %s", what,
	                known.s ? known.s : "(none)");
	l7mp_str_free(&known);
	free(sub);
}

/* Returns the protocol that `spec.protocol` names, or NULL after adding an error. */
static const struct l7mp_protodesc *find_protocol(struct l7mp_schema_ctx *ctx, unsigned role,
                                                  const cJSON *node, const char *path)
{
	const cJSON *name = l7mp_json_member(node, "protocol");
	const struct l7mp_protodesc *d;
	char text[128], got[64];

	if (!cJSON_IsString(name)) {
		if (name)
			snprintf(text, sizeof(text), "not a protocol's name: %s",
			         l7mp_json_brief(name, got, sizeof(got)));
		bad_protocol(ctx, role, name ? text : "missing", name ? name : node, path);
		return NULL;
	}
	d = l7mp_registry_find(ctx->registry, name->valuestring);
	l7mp_json_brief(name, got, sizeof(got));
	if (!d)
		snprintf(text, sizeof(text), "unknown protocol %s", got);
	else if (!(d->roles & role))
		snprintf(text, sizeof(text), "%s can't be used as a %s", d->name, role_name(role));
	else
		return d;
	bad_protocol(ctx, role, text, name, path);
	return NULL;
}

static void check_keys(struct l7mp_schema_ctx *ctx, const struct l7mp_schema *table,
                       const char *extra, const cJSON *node, const char *path)
{
	const char *outer = ctx->spec_section;

	ctx->spec_section = "";
	l7mp_schema_check_object(ctx, table ? table : &no_keys, extra, node, path);
	ctx->spec_section = outer;
}

static void check_endpoint_spec(struct l7mp_schema_ctx *ctx, const cJSON *node, const char *path)
{
	const cJSON *w = l7mp_json_member(node, "weight");
	const struct l7mp_schema *table;

	if (!ctx->cluster) /* unknown protocol: reported elsewhere */
		return;
	table = ctx->cluster->endpoint_spec;
	if (w && !l7mp_schema_field(table, "weight")) {
		char *sub = l7mp_schema_join(path, "weight");

		l7mp_schema_check_field(ctx, &weight, w, sub ? sub : path);
		free(sub);
	}
	check_keys(ctx, table, "weight", node, path);
}

void l7mp_schema_check_spec(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f,
                            const cJSON *node, const char *path)
{
	unsigned role = (unsigned)f->min;
	const struct l7mp_protodesc *d;
	const struct l7mp_schema *table;

	if (role == L7MP_ROLE_ENDPOINT) {
		check_endpoint_spec(ctx, node, path);
		return;
	}
	if (!ctx->registry)
		return;
	d = find_protocol(ctx, role, node, path);
	if (!d)
		return;
	table = role == L7MP_ROLE_LISTENER ? d->listener_spec : d->cluster_spec;
	check_keys(ctx, table, "protocol", node, path);
}
