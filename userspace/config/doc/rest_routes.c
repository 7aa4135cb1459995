/* SPDX-License-Identifier: MIT */
/* The table of the REST API's routes. */
#include "l7mp/rest.h"

/* Listeners, clusters, rule lists, rules and routes have the same five operations. */
#define COLLECTION(kind, one, many, words, request, view)                                    \
	{"GET", "/" many,     L7MP_REST_OP_LIST,                                             \
	 kind,  "list-" many, "List the " words "s",                                         \
	 NULL,  &(view),      L7MP_REST_LIST | L7MP_REST_RECURSIVE | L7MP_REST_PAGED},       \
	        {"POST",         "/" many,   L7MP_REST_OP_ADD,  kind,          "add-" one,   \
	         "Add a " words, &(request), &l7mp_rest_status, L7MP_REST_ADDS},             \
	        {"GET",                                                                      \
	         "/" many "/{name}",                                                         \
	         L7MP_REST_OP_GET,                                                           \
	         kind,                                                                       \
	         "get-" one,                                                                 \
	         "Show a " words,                                                            \
	         NULL,                                                                       \
	         &(view),                                                                    \
	         L7MP_REST_RECURSIVE},                                                       \
	        {"PUT",                                                                      \
	         "/" many "/{name}",                                                         \
	         L7MP_REST_OP_PUT,                                                           \
	         kind,                                                                       \
	         "put-" one,                                                                 \
	         "Replace a " words ", or make it; running sessions keep what they have",    \
	         &(request),                                                                 \
	         &l7mp_rest_status,                                                          \
	         0},                                                                         \
	{                                                                                    \
		"DELETE", "/" many "/{name}", L7MP_REST_OP_DELETE, kind, "delete-" one,      \
		        "Delete a " words "; recursive: also what was made for it, and its " \
		        "sessions end",                                                      \
		        NULL, &l7mp_rest_status, L7MP_REST_RECURSIVE                         \
	}

const struct l7mp_rest_route l7mp_rest_routes[] = {
        {"GET", "/config", L7MP_REST_OP_CONFIG_GET, 0, "get-config",
         "Show the whole config, sessions included; with `owner` only that owner's objects", NULL,
         &l7mp_schema_config, L7MP_REST_RECURSIVE | L7MP_REST_PAGED | L7MP_REST_OWNER},
        {"POST", "/config", L7MP_REST_OP_CONFIG_SET, 0, "set-config",
         "Replace the whole config: unchanged objects stay, missing ones are deleted; all or "
         "nothing. With `owner` only that owner's objects",
         &l7mp_rest_config, &l7mp_rest_status, L7MP_REST_OWNER},
        {"GET", "/status", L7MP_REST_OP_STATUS_GET, 0, "get-status",
         "Show which process answers, and a hash of its configuration", NULL,
         &l7mp_rest_proxy_status, 0},
        {"GET", "/admin", L7MP_REST_OP_ADMIN_GET, 0, "get-admin", "Show the admin object", NULL,
         &l7mp_schema_admin, 0},
        {"POST", "/admin", L7MP_REST_OP_ADMIN_SET, 0, "set-admin",
         "Change what can change at run time: log level, limits, offload", &l7mp_rest_admin_request,
         &l7mp_rest_status, 0},
        COLLECTION(L7MP_OBJ_LISTENER, "listener", "listeners", "listener",
                   l7mp_rest_listener_request, l7mp_schema_listener),
        COLLECTION(L7MP_OBJ_CLUSTER, "cluster", "clusters", "cluster", l7mp_rest_cluster_request,
                   l7mp_rest_cluster),
        {"GET", "/clusters/{name}/endpoints", L7MP_REST_OP_ENDPOINTS_LIST, 0, "list-endpoints",
         "List the endpoints of a cluster", NULL, &l7mp_rest_endpoint, L7MP_REST_LIST},
        {"POST", "/clusters/{name}/endpoints", L7MP_REST_OP_ENDPOINTS_ADD, 0, "add-endpoint",
         "Add an endpoint to a cluster", &l7mp_rest_endpoint_request, &l7mp_rest_status,
         L7MP_REST_ADDS},
        {"GET", "/endpoints/{name}", L7MP_REST_OP_GET, L7MP_OBJ_ENDPOINT, "get-endpoint",
         "Show an endpoint", NULL, &l7mp_rest_endpoint, L7MP_REST_RECURSIVE},
        {"PUT", "/endpoints/{name}", L7MP_REST_OP_PUT, L7MP_OBJ_ENDPOINT, "put-endpoint",
         "Replace an endpoint", &l7mp_rest_endpoint_request, &l7mp_rest_status, 0},
        {"DELETE", "/endpoints/{name}", L7MP_REST_OP_DELETE, L7MP_OBJ_ENDPOINT, "delete-endpoint",
         "Delete an endpoint; recursive: stages on it are disconnected and retry elsewhere", NULL,
         &l7mp_rest_status, L7MP_REST_RECURSIVE},
        COLLECTION(L7MP_OBJ_RULELIST, "rulelist", "rulelists", "rule list",
                   l7mp_rest_rulelist_request, l7mp_schema_rulelist),
        {"GET", "/rulelists/{name}/rules/{position}", L7MP_REST_OP_RULE_GET, 0, "get-rule-at",
         "Show a rule of a rule list; digits are a position, anything else a rule's name", NULL,
         &l7mp_schema_rule, L7MP_REST_RECURSIVE},
        {"POST", "/rulelists/{name}/rules/{position}", L7MP_REST_OP_RULE_INSERT, 0, "insert-rule",
         "Insert a rule at a position; what is there moves down", &l7mp_rest_rule_request,
         &l7mp_rest_status, L7MP_REST_ADDS},
        {"DELETE", "/rulelists/{name}/rules/{position}", L7MP_REST_OP_RULE_REMOVE, 0, "remove-rule",
         "Take a rule out of a rule list; recursive: delete it too when it was made for the list",
         NULL, &l7mp_rest_status, L7MP_REST_RECURSIVE},
        {"POST", "/rulelists/{name}/lookup", L7MP_REST_OP_LOOKUP, 0, "lookup",
         "Dry run: which rule would a session with this metadata get", &l7mp_rest_lookup,
         &l7mp_rest_found, 0},
        COLLECTION(L7MP_OBJ_RULE, "rule", "rules", "rule", l7mp_rest_rule_request,
                   l7mp_schema_rule),
        COLLECTION(L7MP_OBJ_ROUTE, "route", "routes", "route", l7mp_rest_route_request,
                   l7mp_schema_route),
        {"GET", "/sessions", L7MP_REST_OP_SESSIONS_LIST, 0, "list-sessions", "List the sessions",
         NULL, &l7mp_rest_session, L7MP_REST_LIST | L7MP_REST_PAGED | L7MP_REST_FILTERED},
        {"GET", "/sessions/{name}", L7MP_REST_OP_SESSION_GET, 0, "get-session", "Show a session",
         NULL, &l7mp_rest_session, 0},
        {"DELETE", "/sessions/{name}", L7MP_REST_OP_SESSION_END, 0, "end-session", "End a session",
         NULL, &l7mp_rest_status, 0},
        {"GET", "/offload", L7MP_REST_OP_OFFLOAD_GET, 0, "get-offload",
         "Show the state of the kernel fast path", NULL, &l7mp_rest_offload, 0},
        {"GET", "/offload/flows", L7MP_REST_OP_FLOWS_LIST, 0, "list-flows",
         "List the flows in the kernel", NULL, &l7mp_rest_flow,
         L7MP_REST_LIST | L7MP_REST_PAGED | L7MP_REST_FILTERED},
        {"GET", "/drain", L7MP_REST_OP_DRAIN_GET, 0, "get-drain",
         "Show whether the proxy drains, and how far it is", NULL, &l7mp_rest_drain, 0},
        {"POST", "/drain", L7MP_REST_OP_DRAIN_BEGIN, 0, "drain",
         "Take no new sessions, let existing ones end; the body may be absent. While it drains: "
         "restart the time limit",
         &l7mp_rest_drain_request, &l7mp_rest_drain, L7MP_REST_BODYLESS},
        {"DELETE", "/drain", L7MP_REST_OP_DRAIN_CANCEL, 0, "undrain",
         "Take sessions again: all closed listeners are opened, or none", NULL, &l7mp_rest_status,
         0},
        {"GET", "/upgrade", L7MP_REST_OP_UPGRADE_GET, 0, "get-upgrade",
         "Show how an upgrade goes, or how the last one went", NULL, &l7mp_rest_upgrade, 0},
        {"POST", "/upgrade", L7MP_REST_OP_UPGRADE_BEGIN, 0, "upgrade",
         "Start the program file again and hand over to it; the answer is sent at once", NULL,
         &l7mp_rest_upgrade, 0},
        {"GET", "/openapi.json", L7MP_REST_OP_OPENAPI_JSON, 0, "openapi-json",
         "This API as an OpenAPI document", NULL, NULL, 0},
        {"GET", "/openapi.yaml", L7MP_REST_OP_OPENAPI_YAML, 0, "openapi-yaml",
         "This API as an OpenAPI document", NULL, NULL, L7MP_REST_YAML},
        {NULL, NULL, 0, 0, NULL, NULL, NULL, NULL, 0},
};
