/* SPDX-License-Identifier: MIT */
/*
 * Names of drafts. Names in the document must be unique. An unnamed inline object keeps the name of
 * the one that its owner had in the same place before, if any; otherwise a name is generated.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "build.h"

/*
 * Maximum number of comparisons for one signature: rules that differ only in their routes have
 * equal ones.
 */
#define MATCH_TRIES 64

struct l7mp_draft *l7mp_build_claimed(const struct builder *b, enum l7mp_obj_kind kind,
                                      const char *name)
{
	struct l7mp_draft *d = NULL;
	size_t len = strlen(name);

	HASH_FIND(hh, b->names[kind], name, len, d);
	return d;
}

static int enter(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err)
{
	size_t len = strlen(d->name);

	HASH_ADD_KEYPTR(hh, b->names[d->kind], d->name, len, d);
	return d->hh.tbl ? 0 : l7mp_change_oom(err);
}

void l7mp_build_clear_names(struct builder *b)
{
	for (int k = 0; k < L7MP_OBJ_KINDS; k++)
		HASH_CLEAR(hh, b->names[k]);
}

int l7mp_build_claim(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err)
{
	struct l7mp_draft *other = d->name ? l7mp_build_claimed(b, d->kind, d->name) : NULL;
	int rc = 0;

	if (other) {
		char *path = l7mp_path_key(d->path, "name");

		l7mp_issues_add(&b->c->issues, false, NULL, path ? path : d->path,
		                "the %s name \"%s\" is given twice, also to %s",
		                l7mp_obj_kind_name(d->kind), d->name, other->path);
		free(path);
	} else if (d->name) {
		rc = enter(b, d, err);
	}
	for (int s = 0; !rc && s < L7MP_KIND_SLOTS; s++)
		for (size_t i = 0; !rc && i < d->refs[s].n; i++)
			if (d->refs[s].v[i].draft)
				rc = l7mp_build_claim(b, d->refs[s].v[i].draft, err);
	return rc;
}

int l7mp_build_generate_name(struct builder *b, struct l7mp_draft *d, const char *owner,
                             enum l7mp_slot slot, struct l7mp_error *err)
{
	for (;;) {
		char *name = l7mp_asprintf("%s-%s-%u", owner, l7mp_slot(slot)->infix,
		                           b->c->next_name[d->kind]++);

		if (!name)
			return l7mp_change_oom(err);
		if (!l7mp_change_find(b->c, d->kind, name) &&
		    !l7mp_build_claimed(b, d->kind, name)) {
			d->name = name;
			return enter(b, d, err);
		}
		free(name);
	}
}

/* ---- names of previous versions ---- */

bool l7mp_build_in_scope(const struct builder *b, const struct l7mp_object *o)
{
	return !b->c->scoped || o->config_owner == b->c->config_owner;
}

static bool belongs(const struct l7mp_object *o, enum l7mp_obj_kind kind, const char *name)
{
	if (o->kind == L7MP_OBJ_ENDPOINT)
		return !strcmp(((const struct l7mp_endpoint *)o)->cluster, name);
	return l7mp_object_owned_by(o, kind, name);
}

/*
 * Returns the object in that place of the old owner if an unnamed draft may reuse its name. In a
 * config it may, unless the document uses the name elsewhere.
 */
static struct l7mp_object *candidate(const struct builder *b, const struct l7mp_object *owner,
                                     enum l7mp_slot slot, size_t i, bool must_belong)
{
	const char *name = l7mp_object_ref_name(owner, slot, i);
	enum l7mp_obj_kind kind = l7mp_slot(slot)->target;
	struct l7mp_object *o = l7mp_change_find(b->c, kind, name);

	if (!o || l7mp_build_claimed(b, kind, name) || !l7mp_build_in_scope(b, o))
		return NULL;
	return must_belong && !belongs(o, owner->kind, owner->name) ? NULL : o;
}

static bool equals(const struct builder *b, struct l7mp_draft *d, const struct l7mp_object *o)
{
	bool must_belong = b->mode != BUILD_CONFIG;

	if (d->name ? strcmp(d->name, o->name) != 0 : !l7mp_object_same(d->object, o))
		return false;
	if (d->name) /* compared when it is staged */
		return true;
	for (enum l7mp_slot s = l7mp_slot_first(d->kind); s < l7mp_slot_end(d->kind); s++) {
		struct l7mp_draft_refs *refs = l7mp_draft_slot(d, s);

		if (refs->n != l7mp_object_ref_count(o, s))
			return false;
		for (size_t i = 0; i < refs->n; i++) {
			const char *was = l7mp_object_ref_name(o, s, i);
			const char *now =
			        refs->v[i].name ? refs->v[i].name : refs->v[i].draft->name;
			const struct l7mp_object *child;

			if (now && strcmp(now, was) != 0)
				return false;
			child = now ? NULL : candidate(b, o, s, i, must_belong);
			if (!now && (!child || !equals(b, refs->v[i].draft, child)))
				return false;
		}
	}
	return true;
}

/* State for matching the unnamed drafts of one slot with the slot's previous objects. */
struct match {
	struct builder *b;
	struct l7mp_draft_refs *refs;
	const struct l7mp_object *old;
	enum l7mp_slot slot;
	size_t n_old;
	struct l7mp_error *err;
};

struct old_ref {
	uint64_t signature;
	size_t index;
};

static bool unnamed(const struct l7mp_draft_ref *r)
{
	return r->draft && !r->draft->name;
}

/* Whether an object is referred to by name in the same slot. */
static bool named_here(const struct match *m, const char *name)
{
	for (size_t i = 0; i < m->refs->n; i++)
		if (m->refs->v[i].name && !strcmp(m->refs->v[i].name, name))
			return true;
	return false;
}

static struct l7mp_object *open_candidate(const struct match *m, size_t i, bool must_belong)
{
	struct l7mp_object *o = candidate(m->b, m->old, m->slot, i, must_belong);

	return o && !named_here(m, o->name) ? o : NULL;
}

static int take(const struct match *m, struct l7mp_draft *d, const struct l7mp_object *o)
{
	d->name = strdup(o->name);
	return d->name ? enter(m->b, d, m->err) : l7mp_change_oom(m->err);
}

static int match_same_place(const struct match *m, bool equal_only)
{
	bool must_belong = !equal_only || m->b->mode != BUILD_CONFIG;
	int rc = 0;

	for (size_t i = 0; !rc && i < m->refs->n && i < m->n_old; i++) {
		struct l7mp_draft_ref *r = &m->refs->v[i];
		struct l7mp_object *o = unnamed(r) ? open_candidate(m, i, must_belong) : NULL;

		if (o && (!equal_only || equals(m->b, r->draft, o)))
			rc = take(m, r->draft, o);
	}
	return rc;
}

static int by_signature(const void *a, const void *b)
{
	const struct old_ref *x = a, *y = b;

	if (x->signature != y->signature)
		return x->signature < y->signature ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

static int match_signature(const struct match *m, struct l7mp_draft *d, const struct old_ref *v,
                           size_t n)
{
	uint64_t signature = l7mp_object_signature(d->object);
	size_t lo = 0, hi = n, tries = 0;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (v[mid].signature < signature)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < n && v[lo].signature == signature && tries < MATCH_TRIES; lo++, tries++) {
		struct l7mp_object *o = open_candidate(m, v[lo].index, m->b->mode != BUILD_CONFIG);

		if (o && equals(m->b, d, o))
			return take(m, d, o);
	}
	return 0;
}

/* Matches elements that were only moved, because others were inserted or removed. */
static int match_moved(const struct match *m)
{
	struct old_ref *v;
	size_t n = 0, open = 0;
	int rc = 0;

	for (size_t i = 0; i < m->refs->n; i++)
		open += unnamed(&m->refs->v[i]);
	if (!open || m->n_old < 2)
		return 0;
	v = malloc(m->n_old * sizeof(*v));
	if (!v)
		return l7mp_change_oom(m->err);
	for (size_t i = 0; i < m->n_old; i++) {
		struct l7mp_object *o = open_candidate(m, i, m->b->mode != BUILD_CONFIG);

		if (o)
			v[n++] = (struct old_ref){l7mp_object_signature(o), i};
	}
	qsort(v, n, sizeof(*v), by_signature);
	for (size_t i = 0; !rc && i < m->refs->n; i++)
		if (unnamed(&m->refs->v[i]))
			rc = match_signature(m, m->refs->v[i].draft, v, n);
	free(v);
	return rc;
}

static int bind_slot(struct builder *b, struct l7mp_draft *d, enum l7mp_slot slot,
                     const struct l7mp_object *old, struct l7mp_error *err)
{
	struct match m = {b, l7mp_draft_slot(d, slot), old, slot, 0, err};
	int rc = 0;

	if (old && b->mode != BUILD_ADD) {
		m.n_old = l7mp_object_ref_count(old, slot);
		rc = match_same_place(&m, true);
		if (!rc)
			rc = match_moved(&m);
		/* A remaining element in the same place is a new version of the same object. */
		if (!rc)
			rc = match_same_place(&m, false);
	}
	for (size_t i = 0; !rc && i < m.refs->n; i++) {
		struct l7mp_draft *child = m.refs->v[i].draft;

		if (child && !child->name)
			rc = l7mp_build_generate_name(b, child, d->name, slot, err);
		if (child && !rc)
			rc = l7mp_build_bind_names(b, child, err);
	}
	return rc;
}

int l7mp_build_bind_names(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err)
{
	const struct l7mp_object *old = l7mp_change_find(b->c, d->kind, d->name);
	int rc = 0;

	for (enum l7mp_slot s = l7mp_slot_first(d->kind); !rc && s < l7mp_slot_end(d->kind); s++)
		rc = bind_slot(b, d, s, old, err);
	return rc;
}
