/* SPDX-License-Identifier: MIT */
/*
 * The tables of listeners, clusters and endpoints, and of the whole config. Rules and routes are in
 * schema_tables_rules.c, admin in schema_tables_admin.c.
 *
 * A name is required where otherwise no other object could refer to this one; inline objects get a
 * generated name.
 */
#include "schema_tables_int.h"

const char *const l7mp_schema_offload_policies[] = {"auto", "never", NULL};

static const struct l7mp_field rule_ref = {.type = L7MP_T_REF, .sub = &l7mp_schema_rule};

/* ---- listener ---- */

static const struct l7mp_field listener_option_fields[] = {
        {
                .key = "track",
                .type = L7MP_T_NUMBER,
                .min = 0,
                .max = 2592000,
                .def = "0",
                .doc = "Seconds for which a session stays visible after its end",
        },
        {
                .key = "idle_timeout",
                .type = L7MP_T_NUMBER,
                .min = 0,
                .max = 2592000,
                .doc = "Seconds without traffic after which a session ends; 0 means never. "
                       "Default: 60 for "
                       "listeners that emit a session per datagram peer, else never",
        },
        {
                .key = "max_sessions",
                .type = L7MP_T_INT,
                .min = 1,
                .max = 10000000,
                .doc = "Sessions of this listener at once. Default: only the limits of the "
                       "process hold",
        },
        {
                .key = "range",
                .type = L7MP_T_STRING,
                .min = 1,
                .max = 64,
                .doc = "Network (`10.0.0.0/8`, `fd00::/8`) whose clients are admitted; others are "
                       "refused and counted. Peers without an IP address are not judged by it. "
                       "Default: all",
        },
        {
                .key = "offload",
                .type = L7MP_T_ENUM,
                .values = l7mp_schema_offload_policies,
                .def = "\"auto\"",
                .doc = "Whether sessions of this listener may be moved into the kernel",
        },
        {.key = NULL},
};
static const struct l7mp_schema listener_options = {
        .name = "listener-options",
        .doc = "What holds for the sessions of a listener",
        .fields = listener_option_fields,
};

static const struct l7mp_field rules_name = {
        .type = L7MP_T_STRING, .pattern = L7MP_P_NAME, .doc = "The name of a rule list"};
static const struct l7mp_field rules_array = {
        .type = L7MP_T_ARRAY, .item = &rule_ref, .doc = "Rules, or names of rules"};
static const struct l7mp_field rules_object = {
        .type = L7MP_T_OBJECT, .sub = &l7mp_schema_rulelist, .doc = "An inline rule list"};
static const struct l7mp_field *const rules_alternatives[] = {&rules_name, &rules_array,
                                                              &rules_object, NULL};

static const struct l7mp_field listener_fields[] = {
        OBJECT_NAME(L7MP_F_REQUIRED, "The listener's name"),
        {
                .key = "spec",
                .type = L7MP_T_PROTOCOL_SPEC,
                .flags = L7MP_F_REQUIRED,
                .min = L7MP_ROLE_LISTENER,
                .doc = "`protocol`, and what that protocol needs in order to listen",
        },
        {
                .key = "rules",
                .type = L7MP_T_ONEOF,
                .flags = L7MP_F_REQUIRED,
                .alternatives = rules_alternatives,
                .doc = "The rule list that routes the sessions: its name, the rules themselves, or "
                       "an inline "
                       "rule list",
        },
        {
                .key = "options",
                .type = L7MP_T_OBJECT,
                .sub = &listener_options,
                .doc = "What holds for the sessions of this listener",
        },
        OBJECT_OWNER,
        {.key = NULL},
};
const struct l7mp_schema l7mp_schema_listener = {
        .name = "listener",
        .doc = "Accepts connections or datagrams and makes sessions of them",
        .fields = listener_fields,
};

/* ---- health, of endpoints and clusters ---- */

static const struct l7mp_field health_fields[] = {
        {
                .key = "sessions",
                .type = L7MP_T_INT,
                .min = 0,
                .max = L7MP_EXACT_MAX,
                .doc = "Stages of sessions that are connected now",
        },
        {
                .key = "connects",
                .type = L7MP_T_INT,
                .min = 0,
                .max = L7MP_EXACT_MAX,
                .doc = "Attempts to connect, retries included. Without `failed` those that "
                       "succeeded, are in progress, or were given up when the session ended",
        },
        {
                .key = "failed",
                .type = L7MP_T_INT,
                .min = 0,
                .max = L7MP_EXACT_MAX,
                .doc = "Attempts that failed, also by `retry.timeout`",
        },
        {
                .key = "lost",
                .type = L7MP_T_INT,
                .min = 0,
                .max = L7MP_EXACT_MAX,
                .doc = "Connections that an error ended later, such as a reset; of UDP those that "
                       "got an ICMP error, after which the session goes on",
        },
        {
                .key = "last_success",
                .type = L7MP_T_STRING,
                .doc = "When an attempt succeeded last (ISO 8601, UTC)",
        },
        {
                .key = "last_failure",
                .type = L7MP_T_STRING,
                .doc = "When an attempt failed or a connection was lost last",
        },
        {
                .key = "last_error",
                .type = L7MP_T_STRING,
                .doc = "The error of that",
        },
        {.key = NULL},
};
const struct l7mp_schema l7mp_schema_health = {
        .name = "health",
        .doc = "What sessions have found out by connecting, since the endpoint was added or its "
               "address changed; times and error are missing as long as there is none",
        .fields = health_fields,
};

/* ---- endpoint ---- */

static const struct l7mp_field endpoint_fields[] = {
        OBJECT_NAME(0, "The endpoint's name; generated when absent"),
        {
                .key = "spec",
                .type = L7MP_T_PROTOCOL_SPEC,
                .flags = L7MP_F_REQUIRED,
                .min = L7MP_ROLE_ENDPOINT,
                .doc = "Where the endpoint is: `address`, and what else the cluster's protocol "
                       "knows",
        },
        {
                .key = "weight",
                .type = L7MP_T_NUMBER,
                .min = 0,
                .max = 1000000,
                .def = "1",
                .doc = "Share of the sessions relative to the other endpoints; `spec.weight` means "
                       "the same. 0 drains: its sessions stay, new ones go elsewhere",
        },
        {
                .key = "drop",
                .type = L7MP_T_BOOL,
                .def = "false",
                .doc = "`true`: the sessions that it would get are refused",
        },
        {
                .key = "health",
                .type = L7MP_T_OBJECT,
                .flags = L7MP_F_READONLY,
                .sub = &l7mp_schema_health,
                .doc = "What sessions have found out about the endpoint",
        },
        {.key = NULL},
};
const struct l7mp_schema l7mp_schema_endpoint = {
        .name = "endpoint",
        .doc = "One address that a cluster connects to",
        .fields = endpoint_fields,
};

/* ---- cluster ---- */

static const char *const lb_policies[] = {"Trivial",    "HashRing", "ConsistentHash",
                                          "RoundRobin", "Random",   NULL};
static const struct l7mp_field lb_fields[] = {
        {
                .key = "policy",
                .type = L7MP_T_ENUM,
                .flags = L7MP_F_REQUIRED | L7MP_F_NOCASE,
                .values = lb_policies,
                .def = "\"Trivial\"",
                .doc = "`Trivial`: the first endpoint; `HashRing` or `ConsistentHash`: weighted "
                       "consistent hash "
                       "over `key`; `RoundRobin` and `Random`: by weight",
        },
        {
                .key = "key",
                .type = L7MP_T_STRING,
                .pattern = L7MP_P_POINTER,
                .doc = "JSON pointer into the session's metadata whose value is hashed; without "
                       "it, or for a "
                       "session that lacks it, the endpoint is random",
        },
        {.key = NULL},
};
static const struct l7mp_schema loadbalancer = {
        .name = "loadbalancer",
        .doc = "How a cluster picks an endpoint for a session",
        .fields = lb_fields,
};

static const struct l7mp_field endpoint_item = {.type = L7MP_T_OBJECT,
                                                .sub = &l7mp_schema_endpoint};
static const struct l7mp_field any_value = {.type = L7MP_T_ANY};

static const struct l7mp_field cluster_fields[] = {
        OBJECT_NAME(0, "The cluster's name; generated for an inline cluster"),
        {
                .key = "spec",
                .type = L7MP_T_PROTOCOL_SPEC,
                .flags = L7MP_F_REQUIRED,
                .min = L7MP_ROLE_CLUSTER,
                .doc = "`protocol`, and what that protocol needs in order to connect",
        },
        {
                .key = "endpoints",
                .type = L7MP_T_ARRAY,
                .item = &endpoint_item,
                .doc = "The endpoints; transformers and other virtual clusters have none",
        },
        {
                .key = "loadbalancer",
                .type = L7MP_T_OBJECT,
                .sub = &loadbalancer,
                .doc = "How an endpoint is picked for a session",
        },
        {
                .key = "options",
                .type = L7MP_T_MAP,
                .item = &any_value,
                .doc = "Free for the user; kept and shown, not used",
        },
        {
                .key = "health",
                .type = L7MP_T_OBJECT,
                .flags = L7MP_F_READONLY,
                .sub = &l7mp_schema_health,
                .doc = "The sums over the present endpoints, and the last times and error of any",
        },
        OBJECT_OWNER,
        {.key = NULL},
};
const struct l7mp_schema l7mp_schema_cluster = {
        .name = "cluster",
        .doc = "A destination or a transformer: a protocol and the endpoints to connect to",
        .fields = cluster_fields,
};

/* ---- the whole config ---- */

static const struct l7mp_field listener_item = {.type = L7MP_T_OBJECT,
                                                .sub = &l7mp_schema_listener};
static const struct l7mp_field cluster_item = {.type = L7MP_T_OBJECT, .sub = &l7mp_schema_cluster};
static const struct l7mp_field rulelist_item = {.type = L7MP_T_OBJECT,
                                                .sub = &l7mp_schema_rulelist};
static const struct l7mp_field rule_item = {.type = L7MP_T_OBJECT, .sub = &l7mp_schema_rule};
static const struct l7mp_field route_item = {.type = L7MP_T_OBJECT, .sub = &l7mp_schema_route};

static const struct l7mp_field insert_fields[] = {
        {
                .key = "rulelist",
                .type = L7MP_T_STRING,
                .flags = L7MP_F_REQUIRED,
                .min = 1,
                .max = L7MP_NAME_MAX,
                .pattern = L7MP_P_NAME,
                .doc = "The name of a rule list of another owner or of the config without owner",
        },
        {
                .key = "position",
                .type = L7MP_T_INT,
                .min = 0,
                .max = 1000000,
                .def = "0",
                .doc = "In front of which of the list's own rules, from 0; a larger number than "
                       "there are rules: at the end",
        },
        {
                .key = "rule",
                .type = L7MP_T_STRING,
                .flags = L7MP_F_REQUIRED,
                .min = 1,
                .max = L7MP_NAME_MAX,
                .pattern = L7MP_P_NAME,
                .doc = "The name of the rule",
        },
        {.key = NULL},
};
static const struct l7mp_schema rule_insert = {
        .name = "rule_insert",
        .doc = "A rule that is put into a rule list of others",
        .fields = insert_fields,
};
static const struct l7mp_field insert_item = {.type = L7MP_T_OBJECT, .sub = &rule_insert};

static const struct l7mp_field config_fields[] = {
        {
                .key = "admin",
                .type = L7MP_T_OBJECT,
                .sub = &l7mp_schema_admin,
                .doc = "The process itself: logs, limits, offload",
        },
        {
                .key = "listeners",
                .type = L7MP_T_ARRAY,
                .flags = L7MP_F_REQUIRED,
                .item = &listener_item,
                .doc = "The listeners; `[]` when there are none, so that a config that lost them "
                       "can't "
                       "delete all",
        },
        {
                .key = "clusters",
                .type = L7MP_T_ARRAY,
                .item = &cluster_item,
                .doc = "The clusters",
        },
        {
                .key = "rulelists",
                .type = L7MP_T_ARRAY,
                .item = &rulelist_item,
                .doc = "The rule lists",
        },
        {
                .key = "rules",
                .type = L7MP_T_ARRAY,
                .item = &rule_item,
                .doc = "The rules",
        },
        {
                .key = "routes",
                .type = L7MP_T_ARRAY,
                .item = &route_item,
                .doc = "The routes",
        },
        {
                .key = "rule_inserts",
                .type = L7MP_T_ARRAY,
                .item = &insert_item,
                .doc = "Rules to insert into rule lists of other owners; only with `?owner=`",
        },
        {
                .key = "sessions",
                .type = L7MP_T_ARRAY,
                .flags = L7MP_F_READONLY,
                .doc = "The live sessions",
        },
        {
                .key = "endpoints",
                .type = L7MP_T_ARRAY,
                .flags = L7MP_F_READONLY,
                .doc = "All endpoints of all clusters",
        },
        {
                .key = "version",
                .type = L7MP_T_STRING,
                .flags = L7MP_F_READONLY,
                .doc = "The program's version",
        },
        {.key = NULL},
};
const struct l7mp_schema l7mp_schema_config = {
        .name = "config",
        .doc = "The whole configuration: the file that the daemon reads and what `/api/v1/config` "
               "shows",
        .fields = config_fields,
};

const struct l7mp_schema *l7mp_schema_of_kind(enum l7mp_obj_kind kind)
{
	switch (kind) {
	case L7MP_OBJ_LISTENER:
		return &l7mp_schema_listener;
	case L7MP_OBJ_CLUSTER:
		return &l7mp_schema_cluster;
	case L7MP_OBJ_ENDPOINT:
		return &l7mp_schema_endpoint;
	case L7MP_OBJ_RULELIST:
		return &l7mp_schema_rulelist;
	case L7MP_OBJ_RULE:
		return &l7mp_schema_rule;
	case L7MP_OBJ_ROUTE:
		return &l7mp_schema_route;
	case L7MP_OBJ_KINDS:
		break;
	}
	return NULL;
}
