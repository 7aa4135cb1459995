/* SPDX-License-Identifier: MIT */
/* Selectors of pods, and the ReferenceGrants that they need across namespaces. */
#include "selector.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum op_operator { OP_IN, OP_NOT_IN, OP_EXISTS, OP_NOT_EXISTS };

struct term {
	const char *key;
	enum op_operator op;
	const cJSON *values; /* an array, or NULL */
};

struct selector {
	const cJSON *labels; /* matchLabels */
	struct term exprs[OP_MAX_TERMS], fields[OP_MAX_TERMS];
	size_t n_exprs, n_fields;
	const char *service, *ns; /* NULL: not given */
};

/* ---- sets of pods ---- */

int op_by_name(const void *a, const void *b)
{
	const struct op_obj *p = *(const struct op_obj *const *)a;
	const struct op_obj *q = *(const struct op_obj *const *)b;
	int c = strcmp(p->ns, q->ns);

	return c ? c : strcmp(p->name, q->name);
}

int op_pods_add(struct op_pods *p, const struct op_obj *pod)
{
	if (p->n == p->cap) {
		size_t cap = p->cap ? 2 * p->cap : 8;
		const struct op_obj **v = realloc(p->v, cap * sizeof(struct op_obj *));

		if (!v)
			return -ENOMEM;
		p->v = v;
		p->cap = cap;
	}
	p->v[p->n++] = pod;
	return 0;
}

void op_pods_free(struct op_pods *p)
{
	free(p->v);
	*p = (struct op_pods){0};
}

/* ---- reading ---- */

static const char *const fields[] = {"metadata.name",
                                     "metadata.namespace",
                                     "metadata.uid",
                                     "spec.nodeName",
                                     "spec.serviceAccountName",
                                     "status.podIP",
                                     "status.hostIP",
                                     "status.phase",
                                     NULL};

static const char *field(const struct op_obj *pod, const char *key)
{
	const char *values[] = {pod->name,         pod->ns,           pod->uid,
	                        pod->pod->node,    pod->pod->account, pod->pod->ip,
	                        pod->pod->host_ip, pod->pod->phase};

	for (size_t i = 0; fields[i]; i++)
		if (strcmp(key, fields[i]) == 0)
			return *values[i] ? values[i] : NULL;
	return NULL;
}

/* The original wrote DoesNotexist, too. */
static int parse_operator(const char *text, enum op_operator *out)
{
	static const char *const names[] = {"In", "NotIn", "Exists", "DoesNotExist"};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(names); i++)
		if (strcasecmp(text, names[i]) == 0) {
			*out = (enum op_operator)i;
			return 0;
		}
	return -EINVAL;
}

static int parse_terms(const cJSON *list, const char *what, bool of_fields, struct term *out,
                       size_t *n, char *why, size_t size)
{
	const cJSON *e;
	int i = 0;

	if (!cJSON_IsArray(list)) {
		snprintf(why, size, "selector.%s: expected an array", what);
		return -EINVAL;
	}
	cJSON_ArrayForEach (e, list) {
		struct term *t = &out[*n];
		const cJSON *v;
		bool known = !of_fields;

		if (*n == OP_MAX_TERMS) {
			snprintf(why, size, "selector.%s: expected at most %d expressions", what,
			         OP_MAX_TERMS);
			return -EINVAL;
		}
		t->key = l7mp_json_str(e, "key", "");
		t->values = l7mp_json_member(e, "values");
		for (size_t k = 0; fields[k] && !known; k++)
			known = strcmp(t->key, fields[k]) == 0;
		if (!*t->key || !known) {
			snprintf(why, size, "selector.%s[%d].key: expected %s, got '%.80s'", what,
			         i,
			         of_fields ? "metadata.name, .namespace or .uid, spec.nodeName or "
			                     ".serviceAccountName, status.podIP, .hostIP or .phase"
			                   : "the key of a label",
			         t->key);
			return -EINVAL;
		}
		if (parse_operator(l7mp_json_str(e, "operator", ""), &t->op)) {
			snprintf(why, size,
			         "selector.%s[%d].operator: expected In, NotIn, Exists or "
			         "DoesNotExist, got '%.40s'",
			         what, i, l7mp_json_str(e, "operator", ""));
			return -EINVAL;
		}
		if (t->values && !cJSON_IsNull(t->values) && !cJSON_IsArray(t->values)) {
			snprintf(why, size, "selector.%s[%d].values: expected an array", what, i);
			return -EINVAL;
		}
		cJSON_ArrayForEach (v, t->values)
			if (!cJSON_IsString(v)) {
				snprintf(why, size, "selector.%s[%d].values: expected strings",
				         what, i);
				return -EINVAL;
			}
		(*n)++;
		i++;
	}
	return 0;
}

static int parse_labels(const cJSON *labels, struct selector *out, char *why, size_t size)
{
	const cJSON *l;

	if (!cJSON_IsObject(labels)) {
		snprintf(why, size, "selector.matchLabels: expected an object");
		return -EINVAL;
	}
	cJSON_ArrayForEach (l, labels)
		if (!cJSON_IsString(l)) {
			snprintf(why, size,
			         "selector.matchLabels.%.80s: expected a string (in YAML "
			         "quote numbers and true)",
			         l->string);
			return -EINVAL;
		}
	out->labels = labels;
	return 0;
}

static int parse_name(const cJSON *node, const char **out, char *why, size_t size)
{
	if (!cJSON_IsString(node) || !*node->valuestring || strchr(node->valuestring, '/')) {
		snprintf(why, size, "selector.%s: expected a name", node->string);
		return -EINVAL;
	}
	*out = node->valuestring;
	return 0;
}

static int parse(const cJSON *node, struct selector *out, char *why, size_t size)
{
	const cJSON *c;
	int rc = 0;

	if (!cJSON_IsObject(node)) {
		snprintf(why, size, "selector: expected an object");
		return -EINVAL;
	}
	cJSON_ArrayForEach (c, node) {
		const char *key = c->string;

		if (cJSON_IsNull(c))
			continue;
		if (strcmp(key, "matchLabels") == 0) {
			rc = parse_labels(c, out, why, size);
		} else if (strcmp(key, "matchExpressions") == 0) {
			rc = parse_terms(c, key, false, out->exprs, &out->n_exprs, why, size);
		} else if (strcmp(key, "matchFields") == 0) {
			rc = parse_terms(c, key, true, out->fields, &out->n_fields, why, size);
		} else if (strcmp(key, "matchService") == 0) {
			rc = parse_name(c, &out->service, why, size);
		} else if (strcmp(key, "matchNamespace") == 0) {
			rc = parse_name(c, &out->ns, why, size);
		} else {
			snprintf(why, size,
			         "selector.%.80s: unknown, expected matchLabels, matchExpressions, "
			         "matchFields, matchService or matchNamespace",
			         key);
			rc = -EINVAL;
		}
		if (rc)
			return rc;
	}
	return 0;
}

/* ---- matching ---- */

static bool has_value(const cJSON *values, const char *value)
{
	const cJSON *v;

	cJSON_ArrayForEach (v, values)
		if (value && strcmp(v->valuestring, value) == 0)
			return true;
	return false;
}

static bool term_matches(const struct term *t, const char *value)
{
	switch (t->op) {
	case OP_IN:
		return has_value(t->values, value);
	case OP_NOT_IN:
		return !has_value(t->values, value);
	case OP_EXISTS:
		return value != NULL;
	case OP_NOT_EXISTS:
		return value == NULL;
	}
	return false;
}

/* Whether the selector names the pod's namespace. */
static bool names_namespace(const struct selector *sel, const char *ns)
{
	if (sel->ns)
		return strcmp(sel->ns, ns) == 0;
	for (size_t i = 0; i < sel->n_fields; i++)
		if (sel->fields[i].op == OP_IN &&
		    strcmp(sel->fields[i].key, "metadata.namespace") == 0)
			return has_value(sel->fields[i].values, ns);
	return false;
}

static bool reaches(const struct op_store *s, const struct op_obj *from, const struct selector *sel,
                    const struct op_obj *pod)
{
	if (s->settings.any_namespace)
		return !sel->ns || strcmp(sel->ns, pod->ns) == 0;
	if (strcmp(pod->ns, from->ns) == 0)
		return !sel->ns || strcmp(sel->ns, pod->ns) == 0;
	return names_namespace(sel, pod->ns) &&
	       op_granted(s, from->kind, from->ns, "", "Pod", pod->ns, pod->name);
}

static bool matches(const struct op_store *s, const struct op_obj *from, const struct selector *sel,
                    const struct op_obj *pod)
{
	const cJSON *l;

	cJSON_ArrayForEach (l, sel->labels) {
		const char *value = op_label(pod, l->string);

		if (!value || strcmp(value, l->valuestring) != 0)
			return false;
	}
	for (size_t i = 0; i < sel->n_exprs; i++)
		if (!term_matches(&sel->exprs[i], op_label(pod, sel->exprs[i].key)))
			return false;
	for (size_t i = 0; i < sel->n_fields; i++)
		if (!term_matches(&sel->fields[i], field(pod, sel->fields[i].key)))
			return false;
	return reaches(s, from, sel, pod);
}

/* ---- candidates: the smallest set that the index offers ---- */

static size_t count_of(const struct op_store *s, const char *key, const cJSON *value)
{
	const struct op_index *i = op_labelled(s, key, value->valuestring);

	return i ? i->n : 0;
}

static int add_matching(const struct op_store *s, const struct op_obj *from,
                        const struct selector *sel, const struct op_index *i, struct op_pods *out)
{
	for (size_t k = 0; i && k < i->n; k++)
		if (matches(s, from, sel, i->v[k]) && op_pods_add(out, i->v[k]))
			return -ENOMEM;
	return 0;
}

/* By the names of pods in the slices of the service: also those that are not ready. */
static int add_of_service(const struct op_store *s, const struct op_obj *from,
                          const struct selector *sel, struct op_pods *out)
{
	const struct op_index *slices = op_slices_of(s, from->ns, sel->service);

	for (size_t k = 0; slices && k < slices->n; k++) {
		const struct op_obj *o = slices->v[k];

		for (size_t i = 0; i < o->slice->n_endpoints; i++) {
			const char *name = o->slice->endpoints[i].pod;
			const struct op_obj *pod = *name ? op_find(s, OP_POD, o->ns, name) : NULL;

			if (pod && matches(s, from, sel, pod) && op_pods_add(out, pod))
				return -ENOMEM;
		}
	}
	return 0;
}

/* A dual-stack service has each pod in two slices. */
static void sort_unique(struct op_pods *p)
{
	size_t n = 0;

	if (p->n)
		qsort(p->v, p->n, sizeof(struct op_obj *), op_by_name);
	for (size_t i = 0; i < p->n; i++)
		if (!n || p->v[n - 1] != p->v[i])
			p->v[n++] = p->v[i];
	p->n = n;
}

static int select_pods(const struct op_store *s, const struct op_obj *from,
                       const struct selector *sel, struct op_pods *out)
{
	const cJSON *l, *best = NULL;
	size_t least = SIZE_MAX;
	int rc = 0;

	if (sel->service)
		return add_of_service(s, from, sel, out);
	cJSON_ArrayForEach (l, sel->labels) {
		size_t n = count_of(s, l->string, l);

		if (n < least) {
			least = n;
			best = l;
		}
	}
	if (best)
		return add_matching(s, from, sel, op_labelled(s, best->string, best->valuestring),
		                    out);
	for (size_t i = 0; i < sel->n_exprs; i++) {
		if (sel->exprs[i].op != OP_IN)
			continue;
		cJSON_ArrayForEach (l, sel->exprs[i].values)
			rc = rc ? rc
			        : add_matching(s, from, sel,
			                       op_labelled(s, sel->exprs[i].key, l->valuestring),
			                       out);
		return rc;
	}
	for (const struct op_obj *o = s->objects[OP_POD]; o && !rc; o = o->hh.next)
		if (matches(s, from, sel, o))
			rc = op_pods_add(out, o);
	return rc;
}

int op_select(const struct op_store *s, const struct op_obj *from, const cJSON *selector,
              struct op_pods *out, char *why, size_t size)
{
	struct selector sel = {0};
	int rc;

	if (!selector || cJSON_IsNull(selector))
		return 0;
	rc = parse(selector, &sel, why, size);
	if (!rc)
		rc = select_pods(s, from, &sel, out);
	if (!rc)
		sort_unique(out);
	return rc;
}

/* ---- ReferenceGrants ---- */

static bool from_matches(const cJSON *grant, enum op_kind kind, const char *ns)
{
	const cJSON *f;

	cJSON_ArrayForEach (f, l7mp_json_member(grant, "from"))
		if (strcmp(l7mp_json_str(f, "group", ""), op_kinds[kind].group) == 0 &&
		    strcmp(l7mp_json_str(f, "kind", ""), op_kinds[kind].kind) == 0 &&
		    strcmp(l7mp_json_str(f, "namespace", ""), ns) == 0)
			return true;
	return false;
}

static bool to_matches(const cJSON *grant, const char *group, const char *kind, const char *name)
{
	const cJSON *t;

	cJSON_ArrayForEach (t, l7mp_json_member(grant, "to")) {
		const char *only = l7mp_json_str(t, "name", "");

		if (strcmp(l7mp_json_str(t, "group", ""), group) == 0 &&
		    strcmp(l7mp_json_str(t, "kind", ""), kind) == 0 &&
		    (!*only || strcmp(only, name) == 0))
			return true;
	}
	return false;
}

bool op_granted(const struct op_store *s, enum op_kind from_kind, const char *from_ns,
                const char *to_group, const char *to_kind, const char *to_ns, const char *to_name)
{
	if (strcmp(from_ns, to_ns) == 0)
		return true;
	for (const struct op_obj *o = s->objects[OP_GRANT]; o; o = o->hh.next)
		if (strcmp(o->ns, to_ns) == 0 && from_matches(o->spec, from_kind, from_ns) &&
		    to_matches(o->spec, to_group, to_kind, to_name))
			return true;
	return false;
}
