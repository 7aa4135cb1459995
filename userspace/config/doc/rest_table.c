/* SPDX-License-Identifier: MIT */
/* The REST API as data. */
#include "l7mp/model.h"
#include "l7mp/restdesc.h"

/* Listeners, clusters, rule lists, rules and routes have the same five operations. */
#define COLLECTION(one, many, words, request, view)                                          \
	{"GET",                                                                              \
	 "/" many,                                                                           \
	 "list-" many,                                                                       \
	 "List the " words "s",                                                              \
	 NULL,                                                                               \
	 &(view),                                                                            \
	 L7MP_REST_LIST | L7MP_REST_RECURSIVE | L7MP_REST_PAGED},                            \
	        {"POST",     "/" many,          "add-" one,    "Add a " words,               \
	         &(request), &l7mp_rest_status, L7MP_REST_ADDS},                             \
	        {"GET",   "/" many "/{name}", "get-" one, "Show a " words, NULL,             \
	         &(view), L7MP_REST_RECURSIVE},                                              \
	        {"PUT",                                                                      \
	         "/" many "/{name}",                                                         \
	         "put-" one,                                                                 \
	         "Replace a " words ", or make it; running sessions keep what they have",    \
	         &(request),                                                                 \
	         &l7mp_rest_status,                                                          \
	         0},                                                                         \
	{                                                                                    \
		"DELETE", "/" many "/{name}", "delete-" one,                                 \
		        "Delete a " words "; recursive: also what was made for it, and its " \
		        "sessions end",                                                      \
		        NULL, &l7mp_rest_status, L7MP_REST_RECURSIVE                         \
	}

const struct l7mp_restdesc l7mp_rest_descs[] = {
        {"GET", "/config", "get-config", "Show the whole config, sessions included", NULL,
         &l7mp_schema_config, L7MP_REST_RECURSIVE | L7MP_REST_PAGED},
        {"POST", "/config", "set-config",
         "Replace the whole config: what is unchanged stays, what is missing is deleted; all or "
         "nothing",
         &l7mp_rest_config, &l7mp_rest_status, 0},
        {"GET", "/admin", "get-admin", "Show the admin object", NULL, &l7mp_schema_admin, 0},
        {"POST", "/admin", "set-admin",
         "Change what can change at run time: log level, limits, offload", &l7mp_rest_admin_request,
         &l7mp_rest_status, 0},
        COLLECTION("listener", "listeners", "listener", l7mp_rest_listener_request,
                   l7mp_schema_listener),
        COLLECTION("cluster", "clusters", "cluster", l7mp_rest_cluster_request, l7mp_rest_cluster),
        {"GET", "/clusters/{name}/endpoints", "list-endpoints", "List the endpoints of a cluster",
         NULL, &l7mp_rest_endpoint, L7MP_REST_LIST},
        {"POST", "/clusters/{name}/endpoints", "add-endpoint", "Add an endpoint to a cluster",
         &l7mp_rest_endpoint_request, &l7mp_rest_status, L7MP_REST_ADDS},
        {"GET", "/endpoints/{name}", "get-endpoint", "Show an endpoint", NULL, &l7mp_rest_endpoint,
         L7MP_REST_RECURSIVE},
        {"PUT", "/endpoints/{name}", "put-endpoint", "Replace an endpoint",
         &l7mp_rest_endpoint_request, &l7mp_rest_status, 0},
        {"DELETE", "/endpoints/{name}", "delete-endpoint",
         "Delete an endpoint; recursive: stages on it are disconnected and retry elsewhere", NULL,
         &l7mp_rest_status, L7MP_REST_RECURSIVE},
        COLLECTION("rulelist", "rulelists", "rule list", l7mp_rest_rulelist_request,
                   l7mp_schema_rulelist),
        {"GET", "/rulelists/{name}/rules/{position}", "get-rule-at",
         "Show a rule of a rule list; digits are a position, anything else a rule's name", NULL,
         &l7mp_schema_rule, L7MP_REST_RECURSIVE},
        {"POST", "/rulelists/{name}/rules/{position}", "insert-rule",
         "Insert a rule at a position; what is there moves down", &l7mp_rest_rule_request,
         &l7mp_rest_status, L7MP_REST_ADDS},
        {"DELETE", "/rulelists/{name}/rules/{position}", "remove-rule",
         "Take a rule out of a rule list; recursive: delete it too when it was made for the list",
         NULL, &l7mp_rest_status, L7MP_REST_RECURSIVE},
        {"POST", "/rulelists/{name}/lookup", "lookup",
         "Dry run: which rule would a session with this metadata get", &l7mp_rest_lookup,
         &l7mp_rest_found, 0},
        COLLECTION("rule", "rules", "rule", l7mp_rest_rule_request, l7mp_schema_rule),
        COLLECTION("route", "routes", "route", l7mp_rest_route_request, l7mp_schema_route),
        {"GET", "/sessions", "list-sessions", "List the sessions", NULL, &l7mp_rest_session,
         L7MP_REST_LIST | L7MP_REST_PAGED},
        {"GET", "/sessions/{name}", "get-session", "Show a session", NULL, &l7mp_rest_session, 0},
        {"DELETE", "/sessions/{name}", "end-session", "End a session", NULL, &l7mp_rest_status, 0},
        {"GET", "/offload", "get-offload", "Show the state of the kernel fast path", NULL,
         &l7mp_rest_offload, 0},
        {"GET", "/offload/flows", "list-flows", "List the flows in the kernel", NULL,
         &l7mp_rest_flow, L7MP_REST_LIST | L7MP_REST_PAGED},
        {"GET", "/openapi.json", "openapi-json", "This API as an OpenAPI document", NULL, NULL, 0},
        {"GET", "/openapi.yaml", "openapi-yaml", "This API as an OpenAPI document", NULL, NULL,
         L7MP_REST_YAML},
        {NULL, NULL, NULL, NULL, NULL, NULL, 0},
};
