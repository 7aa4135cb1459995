/* SPDX-License-Identifier: MIT */
/* Shared by schema*.c only. */
#pragma once

#include "l7mp/protodesc.h"
#include "l7mp/schema.h"
#include "l7mp/util.h"

/* What a check carries down the tree. */
struct l7mp_schema_ctx {
	const struct l7mp_registry *registry;
	struct l7mp_issues *issues;
	const struct l7mp_protodesc *cluster; /* of the endpoints below; NULL: not known */
	/*
	 * Inside a protocol's spec: "", or the key of the section that is looked at. NULL:
	 * elsewhere.
	 */
	const char *spec_section;
	int depth;
};

/*
 * Trees made by a program may be deeper than parsed ones; tables recurse (route -> cluster -> ...).
 */
#define L7MP_SCHEMA_DEPTH 128

void l7mp_schema_check_field(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f,
                             const cJSON *node, const char *path);
/* `extra` (may be NULL) is one more key that is known, `protocol` for instance. */
void l7mp_schema_check_object(struct l7mp_schema_ctx *ctx, const struct l7mp_schema *schema,
                              const char *extra, const cJSON *node, const char *path);
void l7mp_schema_check_scalar(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f,
                              const cJSON *node, const char *path);
void l7mp_schema_check_spec(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f,
                            const cJSON *node, const char *path);
/* "expected <field>, got <node>" */
void l7mp_schema_mismatch(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f,
                          const cJSON *node, const char *path);
/* Heap "path.key", or path["odd key"]; "key" when path is empty. */
char *l7mp_schema_join(const char *path, const char *key);
