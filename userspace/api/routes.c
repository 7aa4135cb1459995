/* SPDX-License-Identifier: MIT */
/* The handlers of the operations of the REST API's table (l7mp/rest.h). */
#include <stdlib.h>

#include "api_int.h"

/* A switch without default: gcc's and clang's -Wswitch names the operation that has no handler. */
struct api_binding api_binding(enum l7mp_rest_op op)
{
#define BIND(op, handler, flags)            \
	case L7MP_REST_OP_##op:             \
		return (struct api_binding) \
		{                           \
			handler, flags      \
		}

	switch (op) {
		BIND(LIST, api_list, API_READ);
		BIND(ADD, api_add, API_CHANGE);
		BIND(GET, api_get, API_READ_IF_LARGE);
		BIND(PUT, api_put, API_CHANGE);
		BIND(DELETE, api_delete, API_CHANGE);
		BIND(CONFIG_GET, api_config_get, API_READ);
		BIND(CONFIG_SET, api_config_post, API_CHANGE);
		BIND(ADMIN_GET, api_admin_get, 0);
		BIND(ADMIN_SET, api_admin_post, API_CHANGE);
		BIND(ENDPOINTS_LIST, api_endpoints_list, API_READ);
		BIND(ENDPOINTS_ADD, api_endpoints_add, API_CHANGE);
		BIND(RULE_GET, api_rule_get, API_READ_IF_LARGE);
		BIND(RULE_INSERT, api_rule_insert, API_CHANGE);
		BIND(RULE_REMOVE, api_rule_remove, API_CHANGE);
		BIND(LOOKUP, api_lookup, API_READ);
		BIND(SESSIONS_LIST, api_sessions_list, 0);
		BIND(SESSION_GET, api_session_get, 0);
		BIND(SESSION_END, api_session_delete, 0);
		BIND(OFFLOAD_GET, api_offload, 0);
		BIND(FLOWS_LIST, api_offload_flows, 0);
		BIND(OPENAPI_JSON, api_openapi_json, API_READ);
		BIND(OPENAPI_YAML, api_openapi_yaml, API_READ);
	}
#undef BIND
	abort();
}
