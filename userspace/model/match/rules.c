/* SPDX-License-Identifier: MIT */
/*
 * Rule lookup. For a rule with both `apply` and `route` the other list is tried first, and the
 * rule's own route is used when nothing matches there. A name in a rule list without a rule matches
 * nothing.
 */
#include <errno.h>
#include <string.h>

#include "l7mp/model.h"

/*
 * Maximum number of rule lists applied in one lookup: nested lists that are each applied twice
 * would be searched 2^depth times.
 */
#define APPLY_MAX 4096

struct lookup {
	const struct l7mp_model *model;
	cJSON *metadata;
	struct l7mp_lookup *out;
	struct l7mp_error *err;
	unsigned applied;
	size_t tried, max_tried; /* rules */
	struct l7mp_effort *effort;
};

/* Maximum number of additional rules tried because lists are applied repeatedly. */
#define TRIED_AGAIN_MAX 20000

static int rewrite(struct lookup *l, const struct l7mp_rule *rule)
{
	for (size_t i = 0; i < rule->n_rewrite; i++) {
		const struct l7mp_rewrite *rw = &rule->rewrite[i];
		cJSON *value = cJSON_Duplicate(rw->value, true);
		int rc = value ? l7mp_json_set(l->metadata, rw->path, value) : -ENOMEM;

		if (rc == -ENOMEM)
			return l7mp_error_set(l->err, rc, L7MP_ERR_INTERNAL, "out of memory");
		if (rc)
			return l7mp_error_set(
			        l->err, rc, L7MP_ERR_REALISE,
			        "rule \"%s\" can't rewrite \"%s\": the path leads through "
			        "a value that is not an object",
			        rule->obj.name, rw->path);
	}
	return 0;
}

static int decide(struct lookup *l, struct l7mp_rulelist *list, struct l7mp_rule *rule)
{
	struct l7mp_route *route = NULL;

	if (rule->route) {
		route = l7mp_model_find(l->model, L7MP_OBJ_ROUTE, rule->route);
		if (!route)
			return l7mp_error_set(
			        l->err, -ESRCH, L7MP_ERR_NOT_FOUND,
			        "rule \"%s\" names the route \"%s\", which does not exist",
			        rule->obj.name, rule->route);
	}
	l->out->rulelist = l7mp_object_ref(list);
	l->out->rule = l7mp_object_ref(rule);
	l->out->route = route ? l7mp_object_ref(route) : NULL;
	return 0;
}

/* Fails the session: to continue would treat a rule as not matching although it may match. */
static int too_much(const struct lookup *l, const struct l7mp_rule *rule)
{
	if (l->effort->exhausted)
		return l7mp_error_set(l->err, -E2BIG, L7MP_ERR_LIMIT,
		                      "to find out whether rule \"%s\" matches takes more effort "
		                      "than one session may cause",
		                      rule->obj.name);
	return l7mp_error_set(l->err, -E2BIG, L7MP_ERR_LIMIT,
	                      "rules were tried more than %zu times for one session, at \"%s\"",
	                      l->max_tried, rule->obj.name);
}

static int in_list(struct lookup *l, const char *name, const struct l7mp_rule *by, int depth);

static int on_match(struct lookup *l, struct l7mp_rulelist *list, struct l7mp_rule *rule, int depth)
{
	int rc = rewrite(l, rule);

	if (rc)
		return rc;
	if (rule->apply) {
		rc = in_list(l, rule->apply, rule, depth + 1);
		if (rc != -ENOENT)
			return rc;
		if (!rule->route)
			return -ENOENT;
	}
	return decide(l, list, rule);
}

static int in_list(struct lookup *l, const char *name, const struct l7mp_rule *by, int depth)
{
	struct l7mp_rulelist *list = l7mp_model_find(l->model, L7MP_OBJ_RULELIST, name);

	if (!list && by)
		return l7mp_error_set(
		        l->err, -ESRCH, L7MP_ERR_NOT_FOUND,
		        "rule \"%s\" applies the rule list \"%s\", which does not exist",
		        by->obj.name, name);
	if (!list)
		return l7mp_error_set(l->err, -ESRCH, L7MP_ERR_NOT_FOUND,
		                      "rule list \"%s\" does not exist", name);
	if (depth > L7MP_APPLY_DEPTH)
		return l7mp_error_set(
		        l->err, -ELOOP, L7MP_ERR_REALISE,
		        "rule lists apply each other more than %d levels deep, at \"%s\"",
		        L7MP_APPLY_DEPTH, name);
	if (++l->applied > APPLY_MAX)
		return l7mp_error_set(l->err, -ELOOP, L7MP_ERR_REALISE,
		                      "more than %d rule lists were applied, at \"%s\"", APPLY_MAX,
		                      name);
	for (size_t i = 0; i < list->n_rules; i++) {
		struct l7mp_rule *rule = l7mp_model_find(l->model, L7MP_OBJ_RULE, list->rules[i]);
		bool matches;
		int rc;

		if (!rule)
			continue;
		matches = l7mp_predicate_eval(rule->predicate, l->metadata, l->effort);
		if (l->effort->exhausted || ++l->tried > l->max_tried)
			return too_much(l, rule);
		if (!matches)
			continue;
		rc = on_match(l, list, rule, depth);
		if (rc != -ENOENT)
			return rc;
	}
	return -ENOENT;
}

int l7mp_rules_lookup(const struct l7mp_model *m, const char *rulelist, cJSON *metadata,
                      struct l7mp_effort *effort, struct l7mp_lookup *out, struct l7mp_error *err)
{
	struct lookup l = {.model = m,
	                   .metadata = metadata,
	                   .out = out,
	                   .err = err,
	                   .max_tried = l7mp_model_count(m, L7MP_OBJ_RULE) + TRIED_AGAIN_MAX,
	                   .effort = effort};
	int rc;

	memset(out, 0, sizeof(*out));
	rc = in_list(&l, rulelist, NULL, 0);
	if (rc == -ENOENT)
		l7mp_error_set(err, rc, L7MP_ERR_NOT_FOUND, "no rule of \"%s\" matches", rulelist);
	return rc;
}

void l7mp_lookup_clear(struct l7mp_lookup *l)
{
	l7mp_object_unref(l->rulelist);
	l7mp_object_unref(l->rule);
	l7mp_object_unref(l->route);
	memset(l, 0, sizeof(*l));
}
