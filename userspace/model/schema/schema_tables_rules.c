/* SPDX-License-Identifier: MIT */
/* The tables of rule lists, rules and routes. */
#include <stdlib.h>

#include "l7mp/predicate.h"
#include "l7mp/util.h"
#include "schema_tables_int.h"

/* ---- rule list ---- */

static const struct l7mp_field rule_ref = {.type = L7MP_T_REF, .sub = &l7mp_schema_rule};

static const struct l7mp_field rulelist_fields[] = {
        OBJECT_NAME(0, "The rule list's name; generated for an inline rule list"),
        {
                .key = "rules",
                .type = L7MP_T_ARRAY,
                .flags = L7MP_F_REQUIRED,
                .item = &rule_ref,
                .doc = "Rules, or names of rules, in the order in which they are tried",
        },
        {
                .key = "inserts",
                .type = L7MP_T_ARRAY,
                .flags = L7MP_F_READONLY,
                .doc = "Those of the rules that owners have inserted, by `rule_inserts`",
        },
        OBJECT_OWNER,
        {.key = NULL},
};
const struct l7mp_schema l7mp_schema_rulelist = {
        .name = "rulelist",
        .doc = "An ordered list of rules; the first that matches decides",
        .fields = rulelist_fields,
};

/* ---- rule ---- */

static const struct l7mp_field rewrite_fields[] = {
        {
                .key = "path",
                .type = L7MP_T_STRING,
                .flags = L7MP_F_REQUIRED,
                .pattern = L7MP_P_POINTER,
                .doc = "JSON pointer into the session's metadata; found or created",
        },
        {
                .key = "value",
                .type = L7MP_T_ANY,
                .flags = L7MP_F_REQUIRED,
                .doc = "What is put there",
        },
        {.key = NULL},
};
static const struct l7mp_schema rewrite = {
        .name = "rewrite",
        .doc = "One change of the session's metadata",
        .fields = rewrite_fields,
};
static const struct l7mp_field rewrite_item = {.type = L7MP_T_OBJECT, .sub = &rewrite};

static const struct l7mp_field action_fields[] = {
        {
                .key = "rewrite",
                .type = L7MP_T_ARRAY,
                .item = &rewrite_item,
                .doc = "Changes of the session's metadata, done in order when the rule matches",
        },
        {
                .key = "route",
                .type = L7MP_T_REF,
                .sub = &l7mp_schema_route,
                .doc = "The route that the session takes: a name, or an inline route",
        },
        {
                .key = "apply",
                .type = L7MP_T_REF,
                .sub = &l7mp_schema_rulelist,
                .doc = "The rule list in which matching goes on, by its name or inline; when "
                       "nothing matches there, it goes on after this rule",
        },
        {.key = NULL},
};
static const struct l7mp_schema action = {
        .name = "action",
        .doc = "What a matching rule does",
        .fields = action_fields,
};

static const struct l7mp_field match_string = {.type = L7MP_T_STRING,
                                               .doc = "Any string, `*` by custom, matches all"};
static const struct l7mp_field match_object = {.type = L7MP_T_OBJECT, .doc = "A JSON predicate"};
static const struct l7mp_field *const match_alternatives[] = {&match_object, &match_string, NULL};

static const struct l7mp_field rule_fields[] = {
        OBJECT_NAME(0, "The rule's name; generated for an inline rule"),
        {
                .key = "match",
                .type = L7MP_T_ONEOF,
                .alternatives = match_alternatives,
                .def = "\"*\"",
                .doc = "A JSON predicate (draft-snell-json-test-07) over the session's metadata; a "
                       "string or "
                       "nothing matches all",
        },
        {
                .key = "action",
                .type = L7MP_T_OBJECT,
                .flags = L7MP_F_REQUIRED,
                .sub = &action,
                .doc = "What is done with a session that matches",
        },
        OBJECT_OWNER,
        {.key = NULL},
};

/*
 * Adds the errors of the predicate. Its warnings are added when the rule's predicate is compiled
 * for use.
 */
static void check_rule(const cJSON *rule, const char *path, struct l7mp_issues *issues)
{
	const cJSON *match = l7mp_json_member(rule, "match");
	struct l7mp_predicate *p = NULL;
	struct l7mp_issues found;
	char *sub;

	if (!cJSON_IsObject(match))
		return;
	sub = l7mp_asprintf("%s%smatch", path, *path ? "." : "");
	l7mp_issues_init(&found, issues->strict);
	l7mp_predicate_compile(match, sub ? sub : path, &found, &p);
	for (size_t i = 0; i < found.n; i++)
		if (!found.v[i].warning)
			l7mp_issues_add(issues, false, found.v[i].node, found.v[i].path, "%s",
			                found.v[i].reason);
	l7mp_predicate_free(&p);
	l7mp_issues_clear(&found);
	free(sub);
}

const struct l7mp_schema l7mp_schema_rule = {
        .name = "rule",
        .doc = "A condition on a session's metadata and what follows from it",
        .fields = rule_fields,
        .check = check_rule,
};

/* ---- route ---- */

static const char *const retry_on[] = {"never", "connect-failure", "disconnect", "always", NULL};
static const struct l7mp_field retry_fields[] = {
        {
                .key = "retry_on",
                .type = L7MP_T_ENUM,
                .values = retry_on,
                .def = "\"never\"",
                .doc = "`connect-failure`: when a stage can't be connected; `disconnect`: when a "
                       "connected stage "
                       "is lost; `always`: both",
        },
        {
                .key = "num_retries",
                .type = L7MP_T_INT,
                .min = 0,
                .max = 4294967295.0,
                .def = "1",
                .doc = "How often each stage is retried; a success resets the count",
        },
        {
                .key = "timeout",
                .type = L7MP_T_INT,
                .min = 1,
                .max = 86400000,
                .def = "2000",
                .doc = "Milliseconds between two tries, and the longest that one try may take",
        },
        {.key = NULL},
};
static const struct l7mp_schema retry = {
        .name = "retry",
        .doc = "What is done when a stage of the route fails",
        .fields = retry_fields,
};

static const struct l7mp_field cluster_ref = {.type = L7MP_T_REF, .sub = &l7mp_schema_cluster};

static const struct l7mp_field route_fields[] = {
        OBJECT_NAME(0, "The route's name; generated for an inline route"),
        {
                .key = "destination",
                .type = L7MP_T_REF,
                .sub = &l7mp_schema_cluster,
                .doc = "The destination cluster: a name, or an inline cluster. "
                       "Required, under "
                       "this key or as `cluster`",
        },
        {
                .key = "cluster",
                .type = L7MP_T_REF,
                .sub = &l7mp_schema_cluster,
                .doc = "The older spelling of `destination`",
        },
        {
                .key = "ingress",
                .type = L7MP_T_ARRAY,
                .item = &cluster_ref,
                .doc = "Transformers from the listener to the destination, in order: "
                       "names, or "
                       "inline clusters",
        },
        {
                .key = "egress",
                .type = L7MP_T_ARRAY,
                .item = &cluster_ref,
                .doc = "Transformers from the destination to the listener, in order",
        },
        {
                .key = "retry",
                .type = L7MP_T_OBJECT,
                .sub = &retry,
                .doc = "What is done when a stage fails",
        },
        {
                .key = "offload",
                .type = L7MP_T_ENUM,
                .values = l7mp_schema_offload_policies,
                .def = "\"auto\"",
                .doc = "Whether sessions on this route may be moved into the kernel",
        },
        OBJECT_OWNER,
        {.key = NULL},
};

static void check_route(const cJSON *route, const char *path, struct l7mp_issues *issues)
{
	bool d = l7mp_json_member(route, "destination"), c = l7mp_json_member(route, "cluster");
	char *sub;

	if (d != c)
		return;
	sub = l7mp_asprintf("%s%sdestination", path, *path ? "." : "");
	l7mp_issues_add(
	        issues, false, route, sub ? sub : path, "%s",
	        d ? "given twice: `cluster` is another spelling of it, expected one of the two"
	          : "missing, expected a name or cluster object");
	free(sub);
}

const struct l7mp_schema l7mp_schema_route = {
        .name = "route",
        .doc = "The route of a session: a destination, and the transformers in each direction",
        .fields = route_fields,
        .check = check_route,
};
