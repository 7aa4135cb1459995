/* SPDX-License-Identifier: MIT */
/* The table of what the REST API serves (SPEC section 5). */
#include "api_int.h"

/* The five kinds of objects that have a collection of their own. */
#define COLLECTION(plural, kind)                                                  \
	{"GET", "/" plural, api_list, kind}, {"POST", "/" plural, api_add, kind}, \
	        {"GET", "/" plural "/{name}", api_get, kind},                     \
	        {"PUT", "/" plural "/{name}", api_put, kind},                     \
	{                                                                         \
		"DELETE", "/" plural "/{name}", api_delete, kind                  \
	}

const struct api_route api_routes[] = {
        {"GET", "/config", api_config_get, 0},
        {"POST", "/config", api_config_post, 0},
        {"GET", "/admin", api_admin_get, 0},
        {"POST", "/admin", api_admin_post, 0},
        COLLECTION("listeners", L7MP_OBJ_LISTENER),
        COLLECTION("clusters", L7MP_OBJ_CLUSTER),
        {"GET", "/clusters/{name}/endpoints", api_endpoints_list, 0},
        {"POST", "/clusters/{name}/endpoints", api_endpoints_add, 0},
        {"GET", "/endpoints/{name}", api_get, L7MP_OBJ_ENDPOINT},
        {"PUT", "/endpoints/{name}", api_put, L7MP_OBJ_ENDPOINT},
        {"DELETE", "/endpoints/{name}", api_delete, L7MP_OBJ_ENDPOINT},
        COLLECTION("rulelists", L7MP_OBJ_RULELIST),
        {"GET", "/rulelists/{name}/rules/{position}", api_rule_get, 0},
        {"POST", "/rulelists/{name}/rules/{position}", api_rule_insert, 0},
        {"DELETE", "/rulelists/{name}/rules/{position}", api_rule_remove, 0},
        {"POST", "/rulelists/{name}/lookup", api_lookup, 0},
        COLLECTION("rules", L7MP_OBJ_RULE),
        COLLECTION("routes", L7MP_OBJ_ROUTE),
        {"GET", "/sessions", api_sessions_list, 0},
        {"GET", "/sessions/{name}", api_session_get, 0},
        {"DELETE", "/sessions/{name}", api_session_delete, 0},
        {"GET", "/offload", api_offload, 0},
        {"GET", "/offload/flows", api_offload_flows, 0},
        {"GET", "/openapi.json", api_openapi_json, 0},
        {"GET", "/openapi.yaml", api_openapi_yaml, 0},
        {NULL, NULL, NULL, 0},
};
