/* SPDX-License-Identifier: MIT */
/* Staging in a change, its commit and its discarding. */
#include "l7mp/change.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_private.h"

int l7mp_change_new(struct l7mp_model *m, bool strict, struct l7mp_change **out)
{
	struct l7mp_change *c;

	*out = NULL;
	if (m->changing)
		return -EBUSY;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->model = m;
	l7mp_issues_init(&c->issues, strict);
	memcpy(c->next_name, m->next_name, sizeof(c->next_name));
	m->changing = true;
	*out = c;
	return 0;
}

static void staged_free(struct l7mp_staged *s)
{
	l7mp_object_unref(s->item.old_object);
	l7mp_object_unref(s->item.new_object);
	free(s->name);
	free(s->path);
	free(s);
}

void l7mp_change_close(struct l7mp_change *c)
{
	if (!c->closed)
		c->model->changing = false;
	c->closed = true;
}

void l7mp_change_free(struct l7mp_change **c)
{
	if (!*c)
		return;
	l7mp_change_close(*c);
	for (int k = 0; k < L7MP_OBJ_KINDS; k++)
		HASH_CLEAR(hh, (*c)->staged[k]);
	for (size_t i = 0; i < (*c)->n_items; i++)
		staged_free((*c)->items[i]);
	free((*c)->items);
	if ((*c)->admin) {
		l7mp_admin_clear((*c)->admin);
		free((*c)->admin);
	}
	l7mp_issues_clear(&(*c)->issues);
	cJSON_Delete((*c)->docs);
	free((*c)->owner_name);
	free(*c);
	*c = NULL;
}

struct l7mp_issues *l7mp_change_issues(struct l7mp_change *c)
{
	return &c->issues;
}

/* ---- errors ---- */

int l7mp_change_oom(struct l7mp_error *err)
{
	return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
}

int l7mp_change_check(struct l7mp_change *c, struct l7mp_error *err)
{
	if (!c->issues.errors)
		return 0;
	l7mp_error_set(err, -EINVAL, L7MP_ERR_SCHEMA, "the document does not fit the schema");
	l7mp_issues_first(&c->issues, err);
	return -EINVAL;
}

int l7mp_change_exists(struct l7mp_error *err, enum l7mp_obj_kind kind, const char *name,
                       const char *path)
{
	const char *word = l7mp_obj_kind_name(kind);

	/* The path is printed in front, and may be the kind itself. */
	if (!strcmp(path, word))
		l7mp_error_set(err, -EEXIST, L7MP_ERR_EXISTS, "\"%s\" exists already", name);
	else
		l7mp_error_set(err, -EEXIST, L7MP_ERR_EXISTS, "%s \"%s\" exists already", word,
		               name);
	if (err)
		snprintf(err->path, sizeof(err->path), "%s", path);
	return -EEXIST;
}

/* ---- staging ---- */

static struct l7mp_staged *staged_find(const struct l7mp_change *c, enum l7mp_obj_kind kind,
                                       const char *name, size_t len)
{
	struct l7mp_staged *s = NULL;

	HASH_FIND(hh, c->staged[kind], name, len, s);
	return s;
}

struct l7mp_object *l7mp_change_find(const struct l7mp_change *c, enum l7mp_obj_kind kind,
                                     const char *name)
{
	const struct l7mp_staged *s = staged_find(c, kind, name, strlen(name));

	return s ? s->item.new_object : l7mp_model_find(c->model, kind, name);
}

static struct l7mp_staged *staged_new(struct l7mp_change *c, enum l7mp_obj_kind kind,
                                      const char *name, size_t len)
{
	struct l7mp_staged *s, **items = c->items;

	if (c->n_items == c->cap_items) {
		size_t cap = c->cap_items ? c->cap_items * 2 : 8;

		items = realloc(items, cap * sizeof(struct l7mp_staged *));
		if (!items)
			return NULL;
		c->items = items;
		c->cap_items = cap;
	}
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->name = strdup(name);
	if (s->name)
		HASH_ADD_KEYPTR(hh, c->staged[kind], s->name, len, s);
	if (!s->hh.tbl) {
		staged_free(s);
		return NULL;
	}
	s->item.kind = kind;
	s->item.old_object = l7mp_model_find(c->model, kind, name);
	if (s->item.old_object)
		l7mp_object_ref(s->item.old_object);
	s->seq = c->n_items;
	items[c->n_items++] = s;
	return s;
}

int l7mp_change_stage(struct l7mp_change *c, enum l7mp_obj_kind kind, const char *name,
                      struct l7mp_object *o, bool end_sessions, const char *path,
                      struct l7mp_error *err)
{
	size_t len = strlen(name);
	struct l7mp_staged *s = staged_find(c, kind, name, len);
	char *where = strdup(path);

	if (!s && where)
		s = staged_new(c, kind, name, len);
	if (!s || !where || (o && l7mp_object_give_health(o, s->item.old_object))) {
		free(where);
		return l7mp_change_oom(err);
	}
	free(s->path);
	s->path = where;
	s->item.path = where;
	if (o)
		l7mp_object_ref(o);
	l7mp_object_unref(s->item.new_object);
	s->item.new_object = o;
	s->item.end_sessions = !o && end_sessions;
	c->sorted = false;
	return 0;
}

/* ---- deletion, iterative: inline objects may be nested to any depth ---- */

struct stack {
	struct l7mp_object **v; /* holds references */
	size_t n, cap;
};

static int push(struct stack *st, struct l7mp_object *o)
{
	if (st->n == st->cap) {
		size_t cap = st->cap ? st->cap * 2 : 16;
		struct l7mp_object **v = realloc(st->v, cap * sizeof(struct l7mp_object *));

		if (!v)
			return -ENOMEM;
		st->v = v;
		st->cap = cap;
	}
	st->v[st->n++] = l7mp_object_ref(o);
	return 0;
}

static int push_owned(struct l7mp_change *c, struct stack *st, const struct l7mp_object *o,
                      bool recursive)
{
	/* Pushed in reverse, so that they leave the stack in order. */
	for (enum l7mp_slot s = l7mp_slot_end(o->kind); s-- > l7mp_slot_first(o->kind);) {
		if (s != L7MP_SLOT_ENDPOINTS && !recursive)
			continue;
		for (size_t i = l7mp_object_ref_count(o, s); i-- > 0;) {
			struct l7mp_object *t = l7mp_change_find(c, l7mp_slot(s)->target,
			                                         l7mp_object_ref_name(o, s, i));
			bool own;

			if (!t)
				continue;
			own = s == L7MP_SLOT_ENDPOINTS
			              ? !strcmp(((struct l7mp_endpoint *)t)->cluster, o->name)
			              : l7mp_object_owned_by(t, o->kind, o->name);
			if (own && push(st, t))
				return -ENOMEM;
		}
	}
	return 0;
}

int l7mp_change_drop(struct l7mp_change *c, struct l7mp_object *o, bool recursive,
                     bool end_sessions, struct l7mp_error *err)
{
	struct stack st = {0};
	int rc = push(&st, o) ? l7mp_change_oom(err) : 0;

	while (!rc && st.n) {
		o = st.v[--st.n];
		if (l7mp_change_find(c, o->kind, o->name) == o) {
			rc = push_owned(c, &st, o, recursive) ? l7mp_change_oom(err) : 0;
			if (!rc)
				rc = l7mp_change_stage(c, o->kind, o->name, NULL, end_sessions, "",
				                       err);
		}
		l7mp_object_unref(o);
	}
	while (st.n)
		l7mp_object_unref(st.v[--st.n]);
	free(st.v);
	return rc;
}

/* ---- items ---- */

/*
 * Sort order: additions from endpoints up, deletions from listeners down, then items without an
 * effect.
 */
static int rank(const struct l7mp_staged *s)
{
	static const int up[L7MP_OBJ_KINDS] = {
	        [L7MP_OBJ_ENDPOINT] = 0, [L7MP_OBJ_CLUSTER] = 1,  [L7MP_OBJ_ROUTE] = 2,
	        [L7MP_OBJ_RULE] = 3,     [L7MP_OBJ_RULELIST] = 4, [L7MP_OBJ_LISTENER] = 5,
	};

	if (s->item.old_object == s->item.new_object)
		return 1000;
	return s->item.new_object ? up[s->item.kind] : 100 - up[s->item.kind];
}

static int by_rank(const void *a, const void *b)
{
	const struct l7mp_staged *x = *(const struct l7mp_staged *const *)a;
	const struct l7mp_staged *y = *(const struct l7mp_staged *const *)b;
	int d = rank(x) - rank(y);

	return d ? d : x->seq < y->seq ? -1 : x->seq > y->seq;
}

static void sort_items(struct l7mp_change *c)
{
	if (c->sorted)
		return;
	if (c->n_items)
		qsort(c->items, c->n_items, sizeof(struct l7mp_staged *), by_rank);
	for (c->n_real = 0; c->n_real < c->n_items; c->n_real++)
		if (c->items[c->n_real]->item.old_object == c->items[c->n_real]->item.new_object)
			break;
	l7mp_owner_count(c);
	c->sorted = true;
}

size_t l7mp_change_count(const struct l7mp_change *c)
{
	/* Sorting is a cache and does not change what callers see. */
	sort_items((struct l7mp_change *)c);
	return c->n_real;
}

const struct l7mp_change_item *l7mp_change_item(const struct l7mp_change *c, size_t i)
{
	return i < l7mp_change_count(c) ? &c->items[i]->item : NULL;
}

const struct l7mp_admin *l7mp_change_new_admin(const struct l7mp_change *c)
{
	if (!c->admin)
		return NULL;
	return c->committed ? &c->model->admin : c->admin;
}

void l7mp_change_place(struct l7mp_change *c, size_t i)
{
	const struct l7mp_change_item *item = l7mp_change_item(c, i);
	uint64_t next = c->model->generation + 1;

	if (item->new_object)
		item->new_object->generation = next;
	if (item->old_object) {
		item->old_object->until = next;
		item->old_object->successor = item->new_object;
	} else {
		l7mp_table_add(&c->model->tables[item->kind], item->new_object);
	}
	c->grown[item->kind] += !item->old_object;
	c->grown[item->kind] -= !item->new_object;
}

void l7mp_change_flip(struct l7mp_change *c)
{
	struct l7mp_model *m = c->model;

	/*
	 * The model's version identifies its content, so only changes with an effect increment it.
	 */
	if (l7mp_change_count(c) || c->admin || !m->generation)
		m->generation++;
	for (int k = 0; k < L7MP_OBJ_KINDS; k++)
		m->tables[k].n += (size_t)c->grown[k];
	l7mp_owner_flip(c);
	if (c->admin) {
		struct l7mp_admin old = m->admin;

		m->admin = *c->admin;
		*c->admin = old;
	}
	memcpy(m->next_name, c->next_name, sizeof(m->next_name));
	c->committed = true;
}

void l7mp_change_settle(struct l7mp_change *c, size_t i)
{
	const struct l7mp_change_item *item = l7mp_change_item(c, i);
	struct l7mp_table *t = &c->model->tables[item->kind];

	if (!item->old_object)
		return;
	item->old_object->successor = NULL;
	if (item->new_object)
		l7mp_table_replace(t, item->old_object, item->new_object);
	else
		l7mp_table_remove(t, item->old_object);
}

void l7mp_change_commit(struct l7mp_change *c)
{
	size_t n = l7mp_change_count(c);

	if (c->committed)
		return;
	for (size_t i = 0; i < n; i++)
		l7mp_change_place(c, i);
	l7mp_change_flip(c);
	for (size_t i = 0; i < n; i++)
		l7mp_change_settle(c, i);
	l7mp_change_close(c);
}
