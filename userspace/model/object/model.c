/* SPDX-License-Identifier: MIT */
/* The tables of the model. */
#include "l7mp/model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_private.h"

static const struct {
	const char *name, *plural;
} kind_names[L7MP_OBJ_KINDS] = {
        [L7MP_OBJ_LISTENER] = {"listener", "listeners"},
        [L7MP_OBJ_CLUSTER] = {"cluster", "clusters"},
        [L7MP_OBJ_ENDPOINT] = {"endpoint", "endpoints"},
        [L7MP_OBJ_RULELIST] = {"rulelist", "rulelists"},
        [L7MP_OBJ_RULE] = {"rule", "rules"},
        [L7MP_OBJ_ROUTE] = {"route", "routes"},
};

const char *l7mp_obj_kind_name(enum l7mp_obj_kind kind)
{
	return kind_names[kind].name;
}

const char *l7mp_obj_kind_plural(enum l7mp_obj_kind kind)
{
	return kind_names[kind].plural;
}

/* ---- one table ---- */

static int table_init(struct l7mp_table *t)
{
	struct l7mp_object *guard = &t->guard;

	guard->name = ""; /* no object's name is empty */
	/*
	 * NOLINTNEXTLINE(clang-analyzer-core.NullDereference): adding the first element does not
	 * expand the table
	 */
	HASH_ADD_KEYPTR(hh, t->head, guard->name, 0, guard);
	return guard->hh.tbl ? 0 : -ENOMEM;
}

void l7mp_table_add(struct l7mp_table *t, struct l7mp_object *o)
{
	UT_hash_table *tbl = t->guard.hh.tbl;
	size_t len = strlen(o->name);

	l7mp_object_ref(o);
	HASH_ADD_KEYPTR(hh, t->head, o->name, len, o);
	if (!o->hh.tbl) {
		unsigned noexpand = tbl->noexpand;

		/*
		 * When there is no memory for more buckets the chains grow, until the next
		 * addition.
		 */
		tbl->noexpand = 1;
		HASH_ADD_KEYPTR(hh, t->head, o->name, len, o);
		tbl->noexpand = noexpand;
	}
}

void l7mp_table_replace(struct l7mp_table *t, struct l7mp_object *old, struct l7mp_object *o)
{
	UT_hash_table *tbl = t->guard.hh.tbl;
	struct l7mp_object *prev = old->hh.prev, *next = old->hh.next;

	/*
	 * Moves uthash's links to the new handle, because uthash would append it. `prev` is never
	 * NULL, because the sentinel is first.
	 */
	l7mp_object_ref(o);
	o->hh = old->hh;
	o->hh.key = o->name;
	prev->hh.next = o;
	if (next)
		next->hh.prev = o;
	else
		tbl->tail = &o->hh;
	if (o->hh.hh_prev)
		o->hh.hh_prev->hh_next = &o->hh;
	else
		tbl->buckets[o->hh.hashv & (tbl->num_buckets - 1)].hh_head = &o->hh;
	if (o->hh.hh_next)
		o->hh.hh_next->hh_prev = &o->hh;
	l7mp_object_unref(old);
}

void l7mp_table_remove(struct l7mp_table *t, struct l7mp_object *o)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): the guard keeps head and table */
	HASH_DEL(t->head, o);
	l7mp_object_unref(o);
}

static void table_clear(struct l7mp_table *t)
{
	struct l7mp_object *guard = &t->guard, *o;

	if (!t->head)
		return;
	while ((o = guard->hh.next))
		l7mp_table_remove(t, o);
	HASH_DEL(t->head, guard);
}

/* ---- the model ---- */

int l7mp_model_new(const struct l7mp_registry *registry, struct l7mp_model **out)
{
	struct l7mp_model *m = calloc(1, sizeof(*m));
	int rc;

	*out = NULL;
	if (!m)
		return -ENOMEM;
	m->registry = registry;
	rc = l7mp_admin_defaults(&m->admin);
	for (int k = 0; !rc && k < L7MP_OBJ_KINDS; k++)
		rc = table_init(&m->tables[k]);
	if (rc)
		l7mp_model_free(&m);
	*out = m;
	return rc;
}

void l7mp_model_free(struct l7mp_model **m)
{
	if (!*m)
		return;
	for (int k = 0; k < L7MP_OBJ_KINDS; k++)
		table_clear(&(*m)->tables[k]);
	for (size_t i = 0; i < L7MP_CONFIG_OWNERS; i++)
		free((*m)->owners[i].name);
	l7mp_admin_clear(&(*m)->admin);
	free(*m);
	*m = NULL;
}

struct l7mp_admin *l7mp_model_admin(struct l7mp_model *m)
{
	return &m->admin;
}

/*
 * While a change is committed, returns the version of an element that is visible in this
 * generation.
 */
static struct l7mp_object *seen(const struct l7mp_model *m, struct l7mp_object *o)
{
	if (o->generation > m->generation)
		return NULL;
	return o->until && o->until <= m->generation ? o->successor : o;
}

void *l7mp_model_find(const struct l7mp_model *m, enum l7mp_obj_kind kind, const char *name)
{
	struct l7mp_object *o = NULL;
	size_t len = name ? strlen(name) : 0;

	if (len)
		HASH_FIND(hh, m->tables[kind].head, name, len, o);
	return o ? seen(m, o) : NULL;
}

uint64_t l7mp_model_generation(const struct l7mp_model *m)
{
	return m->generation;
}

size_t l7mp_model_count(const struct l7mp_model *m, enum l7mp_obj_kind kind)
{
	return m->tables[kind].n;
}

struct l7mp_object *l7mp_model_first(const struct l7mp_model *m, enum l7mp_obj_kind kind)
{
	return m->tables[kind].guard.hh.next;
}

struct l7mp_object *l7mp_model_next(const struct l7mp_object *o)
{
	return o->hh.next;
}
