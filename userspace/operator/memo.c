/* SPDX-License-Identifier: MIT */
/* What units were made from, and whether it is still so. */
#include "memo.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

void op_memo_clear(struct op_memo *m)
{
	for (size_t i = 0; i < m->n_queries; i++) {
		free(m->queries[i].ns);
		free(m->queries[i].name);
		free(m->queries[i].from_ns);
		cJSON_Delete(m->queries[i].selector);
	}
	for (size_t i = 0; i < m->n_links; i++) {
		free(m->links[i].ns);
		free(m->links[i].name);
		free(m->links[i].protocol);
	}
	free(m->from);
	free(m->queries);
	free(m->links);
	free(m->places);
	*m = (struct op_memo){0};
}

/* ---- answers ---- */

static uint64_t object_answer(const struct op_store *s, enum op_kind kind, const char *ns,
                              const char *name)
{
	const struct op_obj *o = op_find(s, kind, ns, name);

	return o ? o->digest | 1 : 0;
}

static uint64_t add_object(uint64_t sum, const struct op_obj *o)
{
	const uint64_t parts[] = {sum, o->digest, l7mp_hash_stable(o->key, strlen(o->key), 0)};

	return l7mp_hash_stable(parts, sizeof(parts), 4);
}

/* The pods in the order of their names. A selector that can't be understood stays so. */
static uint64_t pods_answer(struct op_render *x, const struct op_obj *from, const cJSON *selector)
{
	struct op_pods pods = {0};
	char why[200];
	uint64_t sum = 0;

	if (op_select(x->s, from, selector, &pods, why, sizeof(why)) == -ENOMEM)
		x->oom = true;
	for (size_t i = 0; i < pods.n; i++)
		sum = add_object(sum, pods.v[i]);
	op_pods_free(&pods);
	return sum;
}

/* In any order: the sum of hashes. */
static uint64_t backends_answer(const struct op_store *s, const char *ns, const char *service)
{
	const struct op_index *i = op_slices_of(s, ns, service);
	uint64_t sum = 0;

	for (size_t k = 0; i && k < i->n; k++)
		sum += add_object(0, i->v[k]);
	return sum;
}

/* ---- recording ---- */

static struct op_query *add_query(struct op_render *x, enum op_query_kind ask, enum op_kind kind,
                                  const char *ns, const char *name)
{
	struct op_memo *m = x->memo;
	struct op_query *q;

	if (!m)
		return NULL;
	if (op_grow(&m->queries, m->n_queries, &m->cap_queries, sizeof(*q))) {
		x->oom = true;
		return NULL;
	}
	q = &m->queries[m->n_queries++];
	*q = (struct op_query){.ask = ask, .kind = kind, .from = kind};
	q->ns = strdup(ns ? ns : "");
	q->name = strdup(name);
	if (!q->ns || !q->name)
		x->oom = true;
	return q->ns && q->name ? q : NULL;
}

void op_memo_object(struct op_render *x, enum op_kind kind, const char *ns, const char *name)
{
	struct op_query *q = add_query(x, OP_QUERY_OBJECT, kind, ns, name);

	if (q)
		q->answer = object_answer(x->s, kind, ns, name);
}

void op_memo_grant(struct op_render *x, enum op_kind from, const char *from_ns, enum op_kind kind,
                   const char *ns, const char *name)
{
	struct op_query *q;

	/* Not asked of l7mp.io's kinds then. */
	if (x->s->settings.any_namespace && strcmp(op_kinds[from].group, "l7mp.io") == 0)
		return;
	if (strcmp(from_ns, ns) == 0)
		return;
	q = add_query(x, OP_QUERY_GRANT, kind, ns, name);
	if (!q)
		return;
	q->from = from;
	q->from_ns = strdup(from_ns);
	if (!q->from_ns)
		x->oom = true;
	else
		q->answer = op_granted(x->s, from, from_ns, op_kinds[kind].group,
		                       op_kinds[kind].kind, ns, name);
}

void op_memo_pods(struct op_render *x, const struct op_obj *from, const cJSON *selector)
{
	struct op_query *q =
	        selector ? add_query(x, OP_QUERY_PODS, from->kind, from->ns, from->name) : NULL;

	if (!q)
		return;
	q->selector = cJSON_Duplicate(selector, true);
	if (!q->selector)
		x->oom = true;
	else
		q->answer = pods_answer(x, from, selector);
}

void op_memo_backends(struct op_render *x, const struct op_obj *service)
{
	struct op_query *q =
	        add_query(x, OP_QUERY_BACKENDS, OP_SERVICE, service->ns, service->name);

	if (q)
		q->answer = backends_answer(x->s, service->ns, service->name);
}

void op_memo_link(struct op_render *x, const struct op_obj *obj, const struct op_port *port)
{
	struct op_memo *m = x->memo;
	struct op_link *l;

	if (!m)
		return;
	if (op_grow(&m->links, m->n_links, &m->cap_links, sizeof(*l))) {
		x->oom = true;
		return;
	}
	l = &m->links[m->n_links++];
	*l = (struct op_link){.kind = obj->kind, .port = port ? port->port : 0};
	l->ns = strdup(obj->ns);
	l->name = strdup(obj->name);
	l->protocol = strdup(port ? port->protocol : "");
	if (!l->ns || !l->name || !l->protocol)
		x->oom = true;
}

/* ---- verifying ---- */

bool op_memo_pods_hold(const struct op_render *x)
{
	return !x->changed[OP_POD] && !x->changed[OP_SLICE] && !x->changed[OP_GRANT];
}

static bool query_holds(struct op_render *x, const struct op_query *q)
{
	const struct op_obj *from;

	switch (q->ask) {
	case OP_QUERY_OBJECT:
		return !x->changed[q->kind] ||
		       object_answer(x->s, q->kind, q->ns, q->name) == q->answer;
	case OP_QUERY_GRANT:
		return !x->changed[OP_GRANT] ||
		       op_granted(x->s, q->from, q->from_ns, op_kinds[q->kind].group,
		                  op_kinds[q->kind].kind, q->ns, q->name) == (q->answer != 0);
	case OP_QUERY_PODS:
		if (op_memo_pods_hold(x))
			return true;
		from = op_find(x->s, q->kind, q->ns, q->name);
		return from && pods_answer(x, from, q->selector) == q->answer;
	case OP_QUERY_BACKENDS:
		return !x->changed[OP_SLICE] || backends_answer(x->s, q->ns, q->name) == q->answer;
	}
	return false;
}

bool op_memo_holds(struct op_render *x, const struct op_memo *m)
{
	if (!m->made)
		return false;
	for (size_t i = 0; i < m->n_queries; i++)
		if (!query_holds(x, &m->queries[i]))
			return false;
	return true;
}
