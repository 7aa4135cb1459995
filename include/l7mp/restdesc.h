/* SPDX-License-Identifier: MIT */
/*
 * The REST API as data: what the OpenAPI document and docs/api.md are made from.
 * The handlers are in api/; a unit test there compares the two tables.
 */
#pragma once

#include "l7mp/schema.h"

enum l7mp_rest_flags {
	L7MP_REST_LIST = 1 << 0,      /* answers with an array of `response` */
	L7MP_REST_RECURSIVE = 1 << 1, /* takes ?recursive=true */
	L7MP_REST_PAGED = 1 << 4,     /* takes ?limit= and ?after= */
	L7MP_REST_ADDS = 1 << 2,      /* 409 when the name exists */
	L7MP_REST_YAML = 1 << 3,      /* answers with YAML text, not JSON */
};

struct l7mp_restdesc {
	const char *method; /* "GET"; NULL ends a table */
	const char *path;   /* below /api/v1: "/clusters/{name}/endpoints" */
	const char *id;     /* operationId, unique */
	const char *summary;
	const struct l7mp_schema *request;  /* the body; NULL: none */
	const struct l7mp_schema *response; /* of a 200; NULL: any JSON */
	unsigned flags;
};
extern const struct l7mp_restdesc l7mp_rest_descs[]; /* config/rest_table.c */

/* Bodies that are not objects of the model; config/rest_schemas.c. */
extern const struct l7mp_schema l7mp_rest_status, l7mp_rest_error, l7mp_rest_session,
        l7mp_rest_cluster, l7mp_rest_endpoint, l7mp_rest_lookup, l7mp_rest_found, l7mp_rest_offload,
        l7mp_rest_flow, l7mp_rest_config, l7mp_rest_admin_request, l7mp_rest_listener_request,
        l7mp_rest_cluster_request, l7mp_rest_endpoint_request, l7mp_rest_rulelist_request,
        l7mp_rest_rule_request, l7mp_rest_route_request;
