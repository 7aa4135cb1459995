/* SPDX-License-Identifier: MIT */
/*
 * The table of the REST API's methods and paths. The router of api/, the labels of
 * l7mp_rest_requests_total, the OpenAPI document and docs/api.md are made from it.
 */
#pragma once

#include "l7mp/model.h"
#include "l7mp/schema.h"

/* What a route does. api/rest.c has a handler for each; a missing one is a compiler error. */
enum l7mp_rest_op {
	/* On the objects of the route's kind. */
	L7MP_REST_OP_LIST,
	L7MP_REST_OP_ADD,
	L7MP_REST_OP_GET,
	L7MP_REST_OP_PUT,
	L7MP_REST_OP_DELETE,

	L7MP_REST_OP_CONFIG_GET,
	L7MP_REST_OP_CONFIG_SET,
	L7MP_REST_OP_ADMIN_GET,
	L7MP_REST_OP_ADMIN_SET,
	L7MP_REST_OP_ENDPOINTS_LIST,
	L7MP_REST_OP_ENDPOINTS_ADD,
	L7MP_REST_OP_RULE_GET,
	L7MP_REST_OP_RULE_INSERT,
	L7MP_REST_OP_RULE_REMOVE,
	L7MP_REST_OP_LOOKUP,
	L7MP_REST_OP_SESSIONS_LIST,
	L7MP_REST_OP_SESSION_GET,
	L7MP_REST_OP_SESSION_END,
	L7MP_REST_OP_OFFLOAD_GET,
	L7MP_REST_OP_FLOWS_LIST,
	L7MP_REST_OP_DRAIN_GET,
	L7MP_REST_OP_DRAIN_BEGIN,
	L7MP_REST_OP_DRAIN_CANCEL,
	L7MP_REST_OP_UPGRADE_GET,
	L7MP_REST_OP_UPGRADE_BEGIN,
	L7MP_REST_OP_STATUS_GET,
	L7MP_REST_OP_OPENAPI_JSON,
	L7MP_REST_OP_OPENAPI_YAML,
};

enum l7mp_rest_flags {
	L7MP_REST_LIST = 1 << 0,      /* answers with an array of `response` */
	L7MP_REST_RECURSIVE = 1 << 1, /* takes ?recursive=true */
	L7MP_REST_ADDS = 1 << 2,      /* 409 when the name exists */
	L7MP_REST_YAML = 1 << 3,      /* answers with YAML text, not JSON */
	L7MP_REST_PAGED = 1 << 4,     /* takes ?limit= and ?after= */
	L7MP_REST_BODYLESS = 1 << 5,  /* the body may be absent */
	L7MP_REST_OWNER = 1 << 6,     /* takes ?owner= */
	L7MP_REST_FILTERED = 1 << 7,  /* takes ?filter= */
};

struct l7mp_rest_route {
	const char *method; /* "GET"; NULL ends a table */
	const char *path;   /* below /api/v1: "/clusters/{name}/endpoints" */
	enum l7mp_rest_op op;
	enum l7mp_obj_kind kind; /* of the first five operations */
	const char *id;          /* operationId, unique */
	const char *summary;
	const struct l7mp_schema *request;  /* the body; NULL: none */
	const struct l7mp_schema *response; /* of a 200; NULL: any JSON */
	unsigned flags;
};
extern const struct l7mp_rest_route l7mp_rest_routes[]; /* config/doc/rest_routes.c */

/* Bodies that are not objects of the model; config/doc/rest_schemas.c. */
extern const struct l7mp_schema l7mp_rest_status, l7mp_rest_error, l7mp_rest_session,
        l7mp_rest_cluster, l7mp_rest_endpoint, l7mp_rest_lookup, l7mp_rest_found, l7mp_rest_offload,
        l7mp_rest_flow, l7mp_rest_drain, l7mp_rest_drain_request, l7mp_rest_upgrade,
        l7mp_rest_config, l7mp_rest_proxy_status, l7mp_rest_admin_request,
        l7mp_rest_listener_request, l7mp_rest_cluster_request, l7mp_rest_endpoint_request,
        l7mp_rest_rulelist_request, l7mp_rest_rule_request, l7mp_rest_route_request;
