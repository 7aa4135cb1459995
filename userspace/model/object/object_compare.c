/* SPDX-License-Identifier: MIT */
/* Comparison of objects, except for their names. */
#include <string.h>

#include "model/model_private.h"

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static bool same_json(const cJSON *a, const cJSON *b)
{
	return a == b || (a && b && l7mp_json_equal(a, b));
}

static bool same_listener(const struct l7mp_listener *a, const struct l7mp_listener *b)
{
	return a->proto == b->proto && same_json(a->spec, b->spec) &&
	       same_json(a->options, b->options);
}

static bool same_cluster(const struct l7mp_cluster *a, const struct l7mp_cluster *b)
{
	return a->proto == b->proto && same_json(a->spec, b->spec) &&
	       same_json(a->options, b->options) && a->lb_policy == b->lb_policy &&
	       same_text(a->lb_policy_name, b->lb_policy_name) && same_text(a->lb_key, b->lb_key);
}

static bool same_endpoint(const struct l7mp_endpoint *a, const struct l7mp_endpoint *b)
{
	return same_json(a->spec, b->spec) && a->drop == b->drop && !(a->weight < b->weight) &&
	       !(a->weight > b->weight);
}

static bool same_rule(const struct l7mp_rule *a, const struct l7mp_rule *b)
{
	if (!same_json(a->match, b->match) || a->n_rewrite != b->n_rewrite)
		return false;
	for (size_t i = 0; i < a->n_rewrite; i++)
		if (!same_text(a->rewrite[i].path, b->rewrite[i].path) ||
		    !same_json(a->rewrite[i].value, b->rewrite[i].value))
			return false;
	return true;
}

static bool same_route(const struct l7mp_route *a, const struct l7mp_route *b)
{
	return a->retry_on == b->retry_on && a->num_retries == b->num_retries &&
	       a->timeout_ms == b->timeout_ms && a->offload == b->offload;
}

bool l7mp_object_same(const struct l7mp_object *a, const struct l7mp_object *b)
{
	if (a->kind != b->kind)
		return false;
	switch (a->kind) {
	case L7MP_OBJ_LISTENER:
		return same_listener((const struct l7mp_listener *)a,
		                     (const struct l7mp_listener *)b);
	case L7MP_OBJ_CLUSTER:
		return same_cluster((const struct l7mp_cluster *)a, (const struct l7mp_cluster *)b);
	case L7MP_OBJ_ENDPOINT:
		return same_endpoint((const struct l7mp_endpoint *)a,
		                     (const struct l7mp_endpoint *)b);
	case L7MP_OBJ_RULE:
		return same_rule((const struct l7mp_rule *)a, (const struct l7mp_rule *)b);
	case L7MP_OBJ_ROUTE:
		return same_route((const struct l7mp_route *)a, (const struct l7mp_route *)b);
	case L7MP_OBJ_RULELIST:
	case L7MP_OBJ_KINDS:
		break;
	}
	return true;
}

static bool same_endpoints(const struct l7mp_cluster *a, const struct l7mp_cluster *b)
{
	return a->n_endpoints == b->n_endpoints &&
	       (!a->n_endpoints || !memcmp(a->endpoints, b->endpoints,
	                                   a->n_endpoints * sizeof(struct l7mp_endpoint *)));
}

bool l7mp_object_same_refs(const struct l7mp_object *a, const struct l7mp_object *b)
{
	if (a->kind == L7MP_OBJ_CLUSTER)
		return same_endpoints((const struct l7mp_cluster *)a,
		                      (const struct l7mp_cluster *)b);
	for (enum l7mp_slot s = l7mp_slot_first(a->kind); s < l7mp_slot_end(a->kind); s++) {
		size_t n = l7mp_object_ref_count(a, s);

		if (n != l7mp_object_ref_count(b, s))
			return false;
		for (size_t i = 0; i < n; i++)
			if (strcmp(l7mp_object_ref_name(a, s, i), l7mp_object_ref_name(b, s, i)) !=
			    0)
				return false;
	}
	return true;
}

/* ---- signatures: equal trees have equal ones, whatever the order of their keys ---- */

static uint64_t mix(uint64_t a, uint64_t b)
{
	uint64_t v[2] = {a, b};

	return l7mp_hash(v, sizeof(v));
}

static uint64_t json_signature(const cJSON *node, int depth)
{
	uint64_t sum = 0;
	const cJSON *item;

	/* Deeper levels are only compared, not hashed. */
	if (!node || depth > 64)
		return 1;
	if (cJSON_IsString(node))
		return mix(2, l7mp_hash(node->valuestring, strlen(node->valuestring)));
	if (cJSON_IsNumber(node)) {
		double v = node->valuedouble + 0.0; /* -0 is 0 */

		return mix(3, l7mp_hash(&v, sizeof(v)));
	}
	if (cJSON_IsArray(node)) {
		cJSON_ArrayForEach (item, node)
			sum = mix(sum, json_signature(item, depth + 1));
		return mix(4, sum);
	}
	if (cJSON_IsObject(node)) {
		cJSON_ArrayForEach (item, node)
			sum += mix(l7mp_hash(item->string, strlen(item->string)),
			           json_signature(item, depth + 1));
		return mix(5, sum);
	}
	return mix(6, cJSON_IsTrue(node) ? 1 : cJSON_IsFalse(node) ? 2 : 3);
}

uint64_t l7mp_object_signature(const struct l7mp_object *o)
{
	const struct l7mp_rule *rule;
	uint64_t sum = 0;

	switch (o->kind) {
	case L7MP_OBJ_LISTENER:
		return json_signature(((const struct l7mp_listener *)o)->spec, 0);
	case L7MP_OBJ_CLUSTER:
		return json_signature(((const struct l7mp_cluster *)o)->spec, 0);
	case L7MP_OBJ_ENDPOINT:
		return json_signature(((const struct l7mp_endpoint *)o)->spec, 0);
	case L7MP_OBJ_RULE:
		rule = (const struct l7mp_rule *)o;
		for (size_t i = 0; i < rule->n_rewrite; i++)
			sum = mix(sum, json_signature(rule->rewrite[i].value, 0));
		return mix(sum, json_signature(rule->match, 0));
	case L7MP_OBJ_ROUTE:
	case L7MP_OBJ_RULELIST:
	case L7MP_OBJ_KINDS:
		break;
	}
	return 0;
}

/* ---- digests ---- */

static uint64_t text_digest(const char *text)
{
	return text ? l7mp_hash(text, strlen(text)) : 7;
}

static uint64_t number_digest(double v)
{
	return l7mp_hash(&v, sizeof(v));
}

/* Hashes the fields that are neither in the signature nor references. */
static uint64_t rest_digest(const struct l7mp_object *o)
{
	const struct l7mp_listener *l = (const struct l7mp_listener *)o;
	const struct l7mp_cluster *c = (const struct l7mp_cluster *)o;
	const struct l7mp_endpoint *e = (const struct l7mp_endpoint *)o;
	const struct l7mp_rule *r = (const struct l7mp_rule *)o;
	const struct l7mp_route *t = (const struct l7mp_route *)o;
	uint64_t sum = 0;

	switch (o->kind) {
	case L7MP_OBJ_LISTENER:
		return json_signature(l->options, 0);
	case L7MP_OBJ_CLUSTER:
		sum = mix(text_digest(c->lb_policy_name), text_digest(c->lb_key));
		return mix(sum, json_signature(c->options, 0));
	case L7MP_OBJ_ENDPOINT:
		return mix(number_digest(e->weight), mix(text_digest(e->cluster), e->drop));
	case L7MP_OBJ_RULE:
		for (size_t i = 0; i < r->n_rewrite; i++)
			sum = mix(sum, text_digest(r->rewrite[i].path));
		return sum;
	case L7MP_OBJ_ROUTE:
		sum = mix(t->retry_on, t->num_retries);
		return mix(sum, mix(t->timeout_ms, t->offload));
	case L7MP_OBJ_RULELIST:
	case L7MP_OBJ_KINDS:
		break;
	}
	return 0;
}

uint64_t l7mp_object_digest(const struct l7mp_object *o)
{
	uint64_t sum = mix(o->kind, text_digest(o->name));

	sum = mix(sum, l7mp_object_signature(o));
	sum = mix(sum, rest_digest(o));
	for (enum l7mp_slot s = l7mp_slot_first(o->kind); s < l7mp_slot_end(o->kind); s++) {
		sum = mix(sum, s);
		for (size_t i = 0, n = l7mp_object_ref_count(o, s); i < n; i++)
			if (o->kind != L7MP_OBJ_RULELIST ||
			    !l7mp_inserts_at((const struct l7mp_rulelist *)o, i))
				sum = mix(sum, text_digest(l7mp_object_ref_name(o, s, i)));
	}
	return sum;
}

uint64_t l7mp_insert_digest(const struct l7mp_rulelist *l, const struct l7mp_rule_insert *in)
{
	uint64_t sum = mix(text_digest(l->obj.name), text_digest(l->rules[in->at]));

	return mix(sum, in->position);
}
