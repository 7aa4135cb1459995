/* SPDX-License-Identifier: MIT */
/*
 * References of drafts to existing objects. A recursive GET shows referenced objects in full, and
 * clients may put its answer back. So inline objects of a draft that equal the model's object of
 * that name become references to it, whatever its owner. Only differing objects are created.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "build.h"

/* Marks missing objects in recursive views (view.c). */
#define STALE ":<STALE>"

struct seen {
	UT_hash_handle hh;
	const struct l7mp_object *object; /* the key */
};

struct refer {
	struct builder *b;
	struct seen *seen; /* inline objects of the replaced object that a draft stands for */
};

static struct l7mp_object *find_named(const struct builder *b, enum l7mp_obj_kind kind,
                                      const char *name)
{
	return name ? l7mp_change_find(b->c, kind, name) : NULL;
}

static const char *ref_was(const struct l7mp_object *o, enum l7mp_slot slot, size_t i)
{
	return o && i < l7mp_object_ref_count(o, slot) ? l7mp_object_ref_name(o, slot, i) : NULL;
}

static void drop_stale(const struct builder *b, enum l7mp_obj_kind kind, char *name)
{
	size_t len = strlen(name), suffix = strlen(STALE);

	if (len > suffix && !strcmp(name + len - suffix, STALE) && !find_named(b, kind, name))
		name[len - suffix] = '\0';
}

/* Records an object. Returns 1 if it is new, 0, or -ENOMEM. */
static int see(struct refer *r, const struct l7mp_object *o)
{
	struct seen *s;

	HASH_FIND_PTR(r->seen, &o, s);
	if (s)
		return 0;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->object = o;
	HASH_ADD_PTR(r->seen, object, s);
	if (s->hh.tbl)
		return 1;
	free(s);
	return -ENOMEM;
}

/*
 * Whether a draft equal to `o` is needed. Not if only the owner of `o` may alter it, nor if `owner`
 * already referred to it in this place without owning it, nor for a second time. An object that is
 * new in this place keeps its draft, because it may get another owner. Returns 1, 0 or -ENOMEM.
 */
static int needs_draft(struct refer *r, const struct l7mp_object *owner, const char *was,
                       const struct l7mp_object *o)
{
	if (!l7mp_build_may_replace(r->b, o))
		return 0;
	if (!was || strcmp(was, o->name) != 0)
		return 1;
	return l7mp_object_owned_by(o, owner->kind, owner->name) ? see(r, o) : 0;
}

static int same(struct refer *r, struct l7mp_draft *d, const struct l7mp_object *there);

/* Whether reference i of the slot equals that in `there`. Returns 1, 0 or -ENOMEM. */
static int same_ref(struct refer *r, enum l7mp_slot slot, struct l7mp_draft_ref *ref, size_t i,
                    const struct l7mp_object *there)
{
	enum l7mp_obj_kind kind = l7mp_slot(slot)->target;
	const char *was = ref_was(there, slot, i);
	struct l7mp_object *o;
	int rc, needed;

	if (!ref->draft) {
		drop_stale(r->b, kind, ref->name);
		return was && !strcmp(was, ref->name);
	}
	o = find_named(r->b, kind, ref->draft->name ? ref->draft->name : was);
	rc = same(r, ref->draft, o);
	if (rc <= 0)
		return rc;
	rc = was && !strcmp(was, o->name);
	/* Endpoints are parts of their cluster, and have no references to them. */
	needed = slot == L7MP_SLOT_ENDPOINTS ? 1 : needs_draft(r, there, was, o);
	if (needed)
		return needed < 0 ? needed : rc;
	ref->name = strdup(o->name);
	if (!ref->name)
		return -ENOMEM;
	l7mp_draft_free(ref->draft);
	ref->draft = NULL;
	return rc;
}

/*
 * Whether the draft, apart from its name, equals the existing object (NULL: none). Returns 1, 0 or
 * -ENOMEM.
 */
static int same(struct refer *r, struct l7mp_draft *d, const struct l7mp_object *there)
{
	int all = there && l7mp_object_same(d->object, there);

	for (enum l7mp_slot s = l7mp_slot_first(d->kind); s < l7mp_slot_end(d->kind); s++) {
		struct l7mp_draft_refs *refs = l7mp_draft_slot(d, s);

		all = all && refs->n == l7mp_object_ref_count(there, s);
		for (size_t i = 0; i < refs->n; i++) {
			int rc = same_ref(r, s, &refs->v[i], i, there);

			if (rc < 0)
				return rc;
			all = all && rc;
		}
	}
	return all;
}

int l7mp_build_refer(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err)
{
	struct refer r = {.b = b};
	int rc = same(&r, d, find_named(b, d->kind, d->name));
	struct seen *s = r.seen;

	HASH_CLEAR(hh, r.seen);
	while (s) {
		struct seen *next = s->hh.next;

		free(s);
		s = next;
	}
	return rc < 0 ? l7mp_change_oom(err) : 0;
}
