/* SPDX-License-Identifier: MIT */
/*
 * Rules that config owners have inserted into rule lists of other owners. Such a list has its own
 * rules and, before each of them and at its end, the rules inserted at that position in the order
 * of insertion.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "build.h"

int l7mp_inserts_copy(struct l7mp_rulelist *to, const struct l7mp_rulelist *from)
{
	if (!from->n_inserts)
		return 0;
	to->inserts = malloc(from->n_inserts * sizeof(*to->inserts));
	if (!to->inserts)
		return -ENOMEM;
	memcpy(to->inserts, from->inserts, from->n_inserts * sizeof(*to->inserts));
	to->n_inserts = from->n_inserts;
	return 0;
}

bool l7mp_inserts_same(const struct l7mp_rulelist *a, const struct l7mp_rulelist *b)
{
	if (a->n_inserts != b->n_inserts)
		return false;
	for (size_t i = 0; i < a->n_inserts; i++)
		if (a->inserts[i].config_owner != b->inserts[i].config_owner ||
		    a->inserts[i].position != b->inserts[i].position ||
		    a->inserts[i].at != b->inserts[i].at)
			return false;
	return true;
}

const struct l7mp_rule_insert *l7mp_inserts_at(const struct l7mp_rulelist *list, size_t i)
{
	size_t lo = 0, hi = list->n_inserts;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (list->inserts[mid].at == i)
			return &list->inserts[mid];
		if (list->inserts[mid].at < i)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

/* Removes the first of n names that equals `rule`; returns whether there was one. */
static bool take_out(const char **names, size_t *n, const char *rule)
{
	for (size_t i = 0; i < *n; i++) {
		if (strcmp(names[i], rule) != 0)
			continue;
		memmove(names + i, names + i + 1, (*n - i - 1) * sizeof(*names));
		(*n)--;
		return true;
	}
	return false;
}

struct wanted {
	struct l7mp_insert_request rq;
	size_t seq;
};

static int by_position(const void *a, const void *b)
{
	const struct wanted *x = a, *y = b;

	if (x->rq.position != y->rq.position)
		return x->rq.position < y->rq.position ? -1 : 1;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* Sets the list to its own n rules with the n_in sorted inserted ones between them. */
static int merge(struct l7mp_rulelist *list, const char *const *own, size_t n,
                 const struct wanted *in, size_t n_in)
{
	struct l7mp_rule_insert *inserts = calloc(n_in + 1, sizeof(*inserts));
	const char **names = malloc((n + n_in + 1) * sizeof(*names));
	char **rules = NULL;
	size_t at = 0, k = 0;

	for (size_t i = 0; inserts && names && i <= n; i++) {
		for (; k < n_in && (in[k].rq.position <= i || i == n); k++) {
			inserts[k] = (struct l7mp_rule_insert){in[k].rq.config_owner,
			                                       in[k].rq.position, at};
			names[at++] = in[k].rq.rule;
		}
		if (i < n)
			names[at++] = own[i];
	}
	if (inserts && names)
		rules = l7mp_names_pack(names, at);
	free(names);
	if (!rules) {
		free(inserts);
		return -ENOMEM;
	}
	free(list->rules);
	free(list->inserts);
	list->rules = rules;
	list->n_rules = at;
	list->inserts = inserts;
	list->n_inserts = n_in;
	return 0;
}

int l7mp_inserts_set(struct l7mp_rulelist *list, const struct l7mp_rulelist *old,
                     enum l7mp_inserts_keep keep, unsigned owner,
                     const struct l7mp_insert_request *more, size_t n_more)
{
	struct wanted *in = calloc(old->n_inserts + n_more + 1, sizeof(*in));
	const char **own = malloc((list->n_rules + 1) * sizeof(*own));
	size_t n = list->n_rules, n_in = 0;
	int rc = -ENOMEM;

	if (!in || !own)
		goto out;
	for (size_t i = 0; i < n; i++)
		own[i] = list->rules[i];
	for (size_t i = 0; i < old->n_inserts; i++) {
		const struct l7mp_rule_insert *o = &old->inserts[i];
		bool shown = take_out(own, &n, old->rules[o->at]);

		if ((keep == L7MP_INSERTS_SHOWN && !shown) ||
		    (keep == L7MP_INSERTS_OTHERS && o->config_owner == owner))
			continue;
		in[n_in].rq = (struct l7mp_insert_request){o->config_owner, o->position,
		                                           old->rules[o->at]};
		in[n_in].seq = n_in;
		n_in++;
	}
	for (size_t i = 0; i < n_more; i++) {
		in[n_in].rq = more[i];
		in[n_in].seq = n_in;
		n_in++;
	}
	qsort(in, n_in, sizeof(*in), by_position);
	rc = merge(list, own, n, in, n_in);
out:
	free(in);
	free(own);
	return rc;
}

/* ---- the insertions of a config ---- */

struct insertion {
	struct l7mp_rulelist *list;
	size_t seq;
	struct l7mp_insert_request rq;
};

static int by_list(const void *a, const void *b)
{
	const struct insertion *x = a, *y = b;

	if (x->list != y->list)
		return (uintptr_t)x->list < (uintptr_t)y->list ? -1 : 1;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* Reads element `i` of rule_inserts, which has passed the schema check; adds issues. */
static void read_insertion(struct l7mp_change *c, const cJSON *item, size_t i,
                           struct insertion *out)
{
	const cJSON *list = l7mp_json_member(item, "rulelist");
	const cJSON *rule = l7mp_json_member(item, "rule");
	const cJSON *position = l7mp_json_member(item, "position");
	struct l7mp_object *o = l7mp_change_find(c, L7MP_OBJ_RULELIST, list->valuestring);
	char path[64];

	snprintf(path, sizeof(path), "rule_inserts[%zu].rulelist", i);
	if (!o)
		l7mp_issues_add(&c->issues, false, list, path, "there is no rule list \"%.200s\"",
		                list->valuestring);
	else if (o->config_owner == c->config_owner)
		l7mp_issues_add(&c->issues, false, list, path,
		                "\"%.200s\" is the owner's own list, expected the rule in it",
		                list->valuestring);
	snprintf(path, sizeof(path), "rule_inserts[%zu].rule", i);
	if (!l7mp_change_find(c, L7MP_OBJ_RULE, rule->valuestring))
		l7mp_issues_add(&c->issues, false, rule, path, "there is no rule \"%.200s\"",
		                rule->valuestring);
	*out = (struct insertion){(struct l7mp_rulelist *)o,
	                          i,
	                          {c->config_owner, position ? (uint32_t)position->valuedouble : 0,
	                           rule->valuestring}};
}

/* Stages a new version of the list, unless it already has these inserts. */
static int insert_into(struct l7mp_change *c, const struct l7mp_rulelist *old,
                       const struct l7mp_insert_request *rq, size_t n, struct l7mp_error *err)
{
	struct l7mp_rulelist *l = l7mp_build_rulelist_copy(old);
	int rc = -ENOMEM;

	if (l && old->n_rules) {
		l->rules = l7mp_names_pack((const char *const *)old->rules, old->n_rules);
		l->n_rules = l->rules ? old->n_rules : 0;
	}
	if (l && (l->rules || !old->n_rules) &&
	    !l7mp_inserts_set(l, old, L7MP_INSERTS_OTHERS, c->config_owner, rq, n))
		rc = 0;
	if (rc)
		l7mp_change_oom(err);
	else if (!l7mp_inserts_same(l, old) || !l7mp_object_same_refs(&l->obj, &old->obj))
		rc = l7mp_change_stage(c, L7MP_OBJ_RULELIST, l->obj.name, &l->obj, false,
		                       "rule_inserts", err);
	l7mp_object_unref(l);
	return rc;
}

/*
 * Replaces all insertions of this owner in lists of others by those in v, which is sorted by list.
 */
static int insert_sorted(struct l7mp_change *c, const struct insertion *v, size_t n,
                         struct l7mp_insert_request *rq, struct l7mp_error *err)
{
	int rc = 0;

	for (struct l7mp_object *o = l7mp_model_first(c->model, L7MP_OBJ_RULELIST); o && !rc;
	     o = l7mp_model_next(o)) {
		const struct l7mp_rulelist *l = (const struct l7mp_rulelist *)o;
		size_t lo = 0, hi = n, k = 0;

		if (o->config_owner == c->config_owner)
			continue;
		while (lo < hi) {
			size_t mid = lo + (hi - lo) / 2;

			if ((uintptr_t)v[mid].list < (uintptr_t)l)
				lo = mid + 1;
			else
				hi = mid;
		}
		for (; lo < n && v[lo].list == l; lo++)
			rq[k++] = v[lo].rq;
		if (k || l->n_inserts)
			rc = insert_into(c, l, rq, k, err);
	}
	return rc;
}

int l7mp_inserts_replace(struct l7mp_change *c, const cJSON *doc, struct l7mp_error *err)
{
	const cJSON *array = l7mp_json_member(doc, "rule_inserts"), *item;
	size_t n = (size_t)cJSON_GetArraySize(array), i = 0;
	struct insertion *v = calloc(n + 1, sizeof(*v));
	struct l7mp_insert_request *rq = calloc(n + 1, sizeof(*rq));
	int rc;

	if (!v || !rq) {
		rc = l7mp_change_oom(err);
		goto out;
	}
	cJSON_ArrayForEach (item, array) {
		read_insertion(c, item, i, &v[i]);
		i++;
	}
	rc = l7mp_change_check(c, err);
	if (rc)
		goto out;
	qsort(v, n, sizeof(*v), by_list);
	rc = insert_sorted(c, v, n, rq, err);
out:
	free(v);
	free(rq);
	return rc;
}
