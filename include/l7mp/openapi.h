/* SPDX-License-Identifier: MIT */
/* Documents made from the tables: OpenAPI and the reference pages. */
#pragma once

#include "l7mp/json.h"
#include "l7mp/protodesc.h"

/*
 * The OpenAPI 3.0 document of the REST API: the schema tables (schema.h), the specs
 * of the registry's protocols and the routes (rest.h). `version` NULL: that of the
 * build. New tree, NULL when out of memory.
 */
cJSON *l7mp_openapi(const struct l7mp_registry *registry, const char *version);

/* Markdown, heap; NULL when out of memory. */
char *l7mp_reference_objects(void);                                   /* the objects' keys */
char *l7mp_reference_protocols(const struct l7mp_registry *registry); /* the specs' keys */
char *l7mp_reference_endpoints(void);                                 /* the REST API's paths */
