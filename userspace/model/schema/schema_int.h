/* SPDX-License-Identifier: MIT */
/* Private to schema*.c. */
#pragma once

#include "l7mp/protodesc.h"
#include "l7mp/schema.h"
#include "l7mp/util.h"

/* The state of a check. */
struct l7mp_schema_ctx {
	const struct l7mp_registry *registry;
	struct l7mp_issues *issues;
	const struct l7mp_protodesc *cluster; /* protocol of the endpoints below; NULL: not known */
	/*
	 * Inside of a protocol's spec: "", or the key of the section that is checked. NULL:
	 * elsewhere.
	 */
	const char *spec_section;
	int depth;
};

/*
 * Trees that a program made may be deeper than parsed ones, and tables are recursive (route ->
 * cluster -> ...).
 */
#define L7MP_SCHEMA_DEPTH 128

void l7mp_schema_check_field(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f,
                             const cJSON *node, const char *path);
/* `extra` (may be NULL) is another known key, for example `protocol`. */
void l7mp_schema_check_object(struct l7mp_schema_ctx *ctx, const struct l7mp_schema *schema,
                              const char *extra, const cJSON *node, const char *path);
void l7mp_schema_check_scalar(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f,
                              const cJSON *node, const char *path);
void l7mp_schema_check_spec(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f,
                            const cJSON *node, const char *path);
/* Adds the error "expected <field>, got <node>". */
void l7mp_schema_mismatch(struct l7mp_schema_ctx *ctx, const struct l7mp_field *f,
                          const cJSON *node, const char *path);
/* Returns "path.key", or path["odd key"], or "key" when path is empty. Heap. */
char *l7mp_schema_join(const char *path, const char *key);
