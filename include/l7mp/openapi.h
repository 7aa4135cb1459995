/* SPDX-License-Identifier: MIT */
/* Documents that are generated from the schema tables: OpenAPI and the reference pages. */
#pragma once

#include "l7mp/json.h"
#include "l7mp/protodesc.h"

/*
 * Returns the OpenAPI 3.0 document of the REST API, made from the schema tables (schema.h), the
 * spec tables of the registry's protocols, and the table of paths (rest.h). `version` NULL: that of
 * the build. A new tree; NULL when out of memory. Thread: any.
 */
cJSON *l7mp_openapi(const struct l7mp_registry *registry, const char *version);

/*
 * Return Markdown for docs/: the keys of objects, the keys of protocol specs, and the paths of the
 * REST API. Free the text with free(). NULL when out of memory.
 */
char *l7mp_reference_objects(void);
char *l7mp_reference_protocols(const struct l7mp_registry *registry);
char *l7mp_reference_endpoints(void);
