/* SPDX-License-Identifier: MIT */
/* The table of what the REST API serves (docs/api.md). */
#include "api_int.h"

/* The five kinds of objects that have a collection of their own. */
#define COLLECTION(plural, kind, get)                                     \
	{"GET", "/" plural, api_list, kind, API_JOB},                     \
	        {"POST", "/" plural, api_add, kind, API_JOB},             \
	        {"GET", "/" plural "/{name}", api_get, kind, get},        \
	        {"PUT", "/" plural "/{name}", api_put, kind, API_JOB},    \
	{                                                                 \
		"DELETE", "/" plural "/{name}", api_delete, kind, API_JOB \
	}

const struct api_route api_routes[] = {
        {"GET", "/config", api_config_get, 0, API_JOB},
        {"POST", "/config", api_config_post, 0, API_JOB},
        {"GET", "/admin", api_admin_get, 0, 0},
        {"POST", "/admin", api_admin_post, 0, API_JOB},
        COLLECTION("listeners", L7MP_OBJ_LISTENER, API_JOB_IF_LARGE),
        COLLECTION("clusters", L7MP_OBJ_CLUSTER, API_JOB_IF_LARGE),
        {"GET", "/clusters/{name}/endpoints", api_endpoints_list, 0, API_JOB},
        {"POST", "/clusters/{name}/endpoints", api_endpoints_add, 0, API_JOB},
        {"GET", "/endpoints/{name}", api_get, L7MP_OBJ_ENDPOINT, 0},
        {"PUT", "/endpoints/{name}", api_put, L7MP_OBJ_ENDPOINT, API_JOB},
        {"DELETE", "/endpoints/{name}", api_delete, L7MP_OBJ_ENDPOINT, API_JOB},
        COLLECTION("rulelists", L7MP_OBJ_RULELIST, API_JOB_IF_LARGE),
        {"GET", "/rulelists/{name}/rules/{position}", api_rule_get, 0, API_JOB_IF_LARGE},
        {"POST", "/rulelists/{name}/rules/{position}", api_rule_insert, 0, API_JOB},
        {"DELETE", "/rulelists/{name}/rules/{position}", api_rule_remove, 0, API_JOB},
        {"POST", "/rulelists/{name}/lookup", api_lookup, 0, API_BODY},
        COLLECTION("rules", L7MP_OBJ_RULE, API_JOB_IF_LARGE),
        COLLECTION("routes", L7MP_OBJ_ROUTE, API_JOB_IF_LARGE),
        {"GET", "/sessions", api_sessions_list, 0, 0},
        {"GET", "/sessions/{name}", api_session_get, 0, 0},
        {"DELETE", "/sessions/{name}", api_session_delete, 0, 0},
        {"GET", "/offload", api_offload, 0, 0},
        {"GET", "/offload/flows", api_offload_flows, 0, 0},
        {"GET", "/openapi.json", api_openapi_json, 0, API_JOB},
        {"GET", "/openapi.yaml", api_openapi_yaml, 0, API_JOB},
        {NULL, NULL, NULL, 0, 0},
};
