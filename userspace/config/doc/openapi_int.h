/* SPDX-License-Identifier: MIT */
/* Shared by openapi*.c only. */
#pragma once

#include "l7mp/openapi.h"
#include "l7mp/restdesc.h"

/*
 * Generation never checks each call: a failed allocation sets `oom`, adders take
 * NULL, and the whole is thrown away at the end.
 */
struct l7mp_oas {
	const struct l7mp_registry *registry;
	cJSON *schemas; /* components.schemas */
	struct {
		const struct l7mp_schema *table;
		char name[96];
	} known[256];
	size_t n_known;
	bool oom;
};
void l7mp_oas_add(struct l7mp_oas *g, cJSON *object, const char *key, cJSON *item); /* takes item */
void l7mp_oas_str(struct l7mp_oas *g, cJSON *object, const char *key, const char *value);
void l7mp_oas_push(struct l7mp_oas *g, cJSON *array, cJSON *item); /* takes item */
cJSON *l7mp_oas_object(struct l7mp_oas *g);
cJSON *l7mp_oas_array(struct l7mp_oas *g);

/* {"$ref": ...} to the table's component, which is made when it isn't there yet. */
cJSON *l7mp_oas_ref(struct l7mp_oas *g, const struct l7mp_schema *table);
/* "listener-spec", "cluster-spec", "endpoint-spec" and what they refer to. */
void l7mp_oas_specs(struct l7mp_oas *g);
/* properties and required of a table, put into a component. */
void l7mp_oas_fields(struct l7mp_oas *g, const struct l7mp_schema *table, cJSON *properties,
                     cJSON *required);
cJSON *l7mp_oas_paths(struct l7mp_oas *g);
