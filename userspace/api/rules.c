/* SPDX-License-Identifier: MIT */
/*
 * Handlers of the rules of a rule list, by position or name, and of the lookup that only shows its
 * result.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api_int.h"

static struct l7mp_rulelist *find_list(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_rulelist *l =
	        l7mp_model_find(rq->api->params.model, L7MP_OBJ_RULELIST, rq->args[0]);

	if (!l)
		api_fail(rs, 404, "no rulelist is named '%s'", rq->args[0]);
	return l;
}

/* Digits are a position (below `end`), anything else is the name of a rule of the list. */
static bool find_position(const struct api_request *rq, const struct l7mp_rulelist *l, size_t end,
                          size_t *out, struct api_response *rs)
{
	const char *text = rq->args[1];
	unsigned long long n;

	if (text[strspn(text, "0123456789")]) {
		for (size_t i = 0; i < l->n_rules; i++) {
			if (!strcmp(l->rules[i], text)) {
				*out = i;
				return true;
			}
		}
		api_fail(rs, 404, "rulelist '%s' has no rule named '%s'", l->obj.name, text);
		return false;
	}
	errno = 0;
	n = strtoull(text, NULL, 10);
	if (errno || n >= end) {
		api_fail(rs, 404, "rulelist '%s' has no position %.20s: it has %zu rule%s",
		         l->obj.name, text, l->n_rules, l->n_rules == 1 ? "" : "s");
		return false;
	}
	*out = (size_t)n;
	return true;
}

void api_rule_get(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_rulelist *l = find_list(rq, rs);
	const void *rule;
	size_t pos;

	if (!l || !find_position(rq, l, l->n_rules, &pos, rs))
		return;
	rule = l7mp_model_find(rq->api->params.model, L7MP_OBJ_RULE, l->rules[pos]);
	if (rule) {
		api_set_etag(rq, rule, rs);
		api_json(rs, l7mp_object_to_json(rq->api->params.model, rule, rq->recursive));
	} else
		api_fail(rs, 404, "the rule '%s' at position %zu of rulelist '%s' does not exist",
		         l->rules[pos], pos, l->obj.name);
}

void api_rule_insert(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_rulelist *l = find_list(rq, rs);
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	const cJSON *doc;
	size_t pos;

	if (!l || !find_position(rq, l, l->n_rules + 1, &pos, rs) || !api_if_match(rq, &l->obj, rs))
		return;
	doc = api_body_unwrap(rq, "rule", rs);
	c = doc ? api_begin_change(rq, rs) : NULL;
	if (c)
		api_built_change(rq, &c,
		                 l7mp_change_insert_rule(c, rq->args[0], pos, doc, "rule", &err),
		                 &err, rs);
}

void api_rule_remove(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_rulelist *l = find_list(rq, rs);
	struct l7mp_error err = {0};
	struct l7mp_change *c;
	size_t pos;

	if (!l || !find_position(rq, l, l->n_rules, &pos, rs) || !api_if_match(rq, &l->obj, rs))
		return;
	c = api_begin_change(rq, rs);
	if (c)
		api_built_change(rq, &c,
		                 l7mp_change_remove_rule(c, rq->args[0], pos, rq->recursive, &err),
		                 &err, rs);
}

static cJSON *lookup_to_json(const struct api_request *rq, const struct l7mp_lookup *found)
{
	cJSON *out = cJSON_CreateObject();
	cJSON *rule = l7mp_object_to_json(rq->api->params.model, found->rule, rq->recursive);
	cJSON *action = cJSON_DetachItemFromObjectCaseSensitive(rule, "action");

	cJSON_Delete(rule);
	l7mp_json_add_str(out, "rulelist", found->rulelist->obj.name);
	l7mp_json_add_str(out, "rule", found->rule->obj.name);
	l7mp_json_add(out, "action", action ? action : cJSON_CreateObject());
	return out;
}

void api_lookup(struct api_request *rq, struct api_response *rs)
{
	struct l7mp_effort effort = L7MP_EFFORT;
	struct l7mp_lookup found = {0};
	struct l7mp_error err = {0};
	cJSON *metadata, *json;
	const cJSON *given;
	int rc;

	if (!find_list(rq, rs))
		return;
	given = api_body_unwrap(rq, "metadata", rs);
	if (!given)
		return;
	if (!cJSON_IsObject(given)) {
		api_fail(rs, 422, "metadata: expected an object, got %s", l7mp_json_type(given));
		api_add_content(rs, "metadata", "expected an object", 0);
		return;
	}
	metadata = cJSON_Duplicate(given, true);
	if (!metadata) {
		api_fail(rs, 500, "out of memory");
		return;
	}
	rc = l7mp_rules_lookup(rq->api->params.model, rq->args[0], metadata, &effort, &found, &err);
	if (rc == -ENOENT) {
		api_fail(rs, 404, "no rule of rulelist '%s' matches", rq->args[0]);
	} else if (rc) {
		api_fail_error(rs, &err);
	} else {
		json = lookup_to_json(rq, &found);
		l7mp_json_add(json, "metadata", metadata);
		metadata = NULL;
		api_json(rs, json);
	}
	cJSON_Delete(metadata);
	l7mp_lookup_clear(&found);
}
