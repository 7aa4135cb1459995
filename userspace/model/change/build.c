/* SPDX-License-Identifier: MIT */
/*
 * Applies documents to a change: their drafts (draft.c) get names, are compared with the existing
 * objects, and are staged (change.c) if they are new or differ. Single objects, endpoints and rules
 * are added, replaced or deleted; a config replaces everything.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_private.h"

enum build_mode {
	BUILD_ADD,     /* no name may exist */
	BUILD_REPLACE, /* the first draft and its inline objects may exist */
	BUILD_CONFIG,  /* every name may exist */
};

struct builder {
	struct l7mp_change *c;
	enum build_mode mode;
	const struct l7mp_object *top; /* REPLACE: the object that is replaced */
	/* owner of the first draft when it is inline in an existing object; or NULL */
	const struct l7mp_object *owner;
	struct l7mp_draft *names[L7MP_OBJ_KINDS]; /* drafts by name */
};

/* ---- names ---- */

/*
 * Names in the document must be unique. An unnamed inline object keeps the name of the one that its
 * owner had in the same place before, if any; otherwise a name is generated.
 */

/*
 * Maximum number of comparisons for one signature: rules that differ only in their routes have
 * equal ones.
 */
#define MATCH_TRIES 64

/* The draft that has this name; NULL: none. */
static struct l7mp_draft *claimed(const struct builder *b, enum l7mp_obj_kind kind,
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

/* Clears the table of names; call before freeing the drafts. */
static void clear_names(struct builder *b)
{
	for (int k = 0; k < L7MP_OBJ_KINDS; k++)
		HASH_CLEAR(hh, b->names[k]);
}

/* Registers the names of the tree; adds an issue for a name that occurs twice. */
static int claim(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err)
{
	struct l7mp_draft *other = d->name ? claimed(b, d->kind, d->name) : NULL;
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
				rc = claim(b, d->refs[s].v[i].draft, err);
	return rc;
}

/* Generates d->name, <owner>-<infix>-<n>, and registers it. */
static int generate_name(struct builder *b, struct l7mp_draft *d, const char *owner,
                         enum l7mp_slot slot, struct l7mp_error *err)
{
	for (;;) {
		char *name = l7mp_asprintf("%s-%s-%u", owner, l7mp_slot(slot)->infix,
		                           b->c->next_name[d->kind]++);

		if (!name)
			return l7mp_change_oom(err);
		if (!l7mp_change_find(b->c, d->kind, name) && !claimed(b, d->kind, name)) {
			d->name = name;
			return enter(b, d, err);
		}
		free(name);
	}
}

/* ---- names of previous versions ---- */

/* Whether the change may alter an object: false if another config owner owns it. */
static bool in_scope(const struct builder *b, const struct l7mp_object *o)
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

	if (!o || claimed(b, kind, name) || !in_scope(b, o))
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

/* Generates names for all drafts below d, which has a name. */
static int bind_names(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err);

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
			rc = generate_name(b, child, d->name, slot, err);
		if (child && !rc)
			rc = bind_names(b, child, err);
	}
	return rc;
}

static int bind_names(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err)
{
	const struct l7mp_object *old = l7mp_change_find(b->c, d->kind, d->name);
	int rc = 0;

	for (enum l7mp_slot s = l7mp_slot_first(d->kind); !rc && s < l7mp_slot_end(d->kind); s++)
		rc = bind_slot(b, d, s, old, err);
	return rc;
}

/* ---- objects that may be replaced ---- */

static int taken(const struct builder *b, struct l7mp_error *err, const struct l7mp_object *there,
                 const char *path)
{
	l7mp_change_exists(err, there->kind, there->name, path);
	if (err && !in_scope(b, there))
		snprintf(err->message, sizeof(err->message), "%s \"%.200s\" belongs to %s%.200s",
		         l7mp_obj_kind_name(there->kind), there->name,
		         there->config_owner ? "the owner " : "nobody's config",
		         l7mp_model_owner(b->c->model, there->config_owner).name);
	return -EEXIST;
}

/* Whether an object is inline, at any depth, in the one being replaced. */
static bool below_top(const struct builder *b, const struct l7mp_object *o)
{
	const struct l7mp_model *m = b->c->model;

	for (int depth = 0; o && depth < 4096; depth++) {
		if (o->kind == L7MP_OBJ_ENDPOINT) {
			o = l7mp_model_find(m, L7MP_OBJ_CLUSTER,
			                    ((const struct l7mp_endpoint *)o)->cluster);
		} else {
			if (!o->autogenerated || !o->owner)
				return false;
			o = l7mp_model_find(m, o->owner_kind, o->owner);
		}
		if (o == b->top)
			return true;
	}
	return false;
}

/* Whether the builder may stage a new version of an existing object. */
static bool may_replace(const struct builder *b, const struct l7mp_object *there)
{
	if (b->mode == BUILD_CONFIG)
		return in_scope(b, there);
	return b->mode == BUILD_REPLACE && (there == b->top || below_top(b, there));
}

/* ---- references to existing objects ---- */

/*
 * A recursive GET shows referenced objects in full, and clients may put its answer back. So inline
 * objects of a draft that equal the model's object of that name become references to it, whatever
 * its owner. Only differing objects are created.
 */

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
	if (!may_replace(r->b, o))
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

/*
 * Before the draft's names are registered: turns inline objects that equal the existing objects of
 * their names into references. Returns 0, or -ENOMEM with err.
 */
static int refer(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err)
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

/* ---- objects of drafts ---- */

static int put_names(char ***out, size_t *n_out, const struct l7mp_draft_refs *refs)
{
	const char **names;

	if (!refs->n)
		return 0;
	names = malloc(refs->n * sizeof(*names));
	if (!names)
		return -ENOMEM;
	for (size_t i = 0; i < refs->n; i++)
		names[i] = refs->v[i].name ? refs->v[i].name : refs->v[i].draft->name;
	*out = l7mp_names_pack(names, refs->n);
	*n_out = refs->n;
	free(names);
	return *out ? 0 : -ENOMEM;
}

static int put_name(char **out, const struct l7mp_draft_refs *refs)
{
	if (!refs->n)
		return 0;
	*out = strdup(refs->v[0].name ? refs->v[0].name : refs->v[0].draft->name);
	return *out ? 0 : -ENOMEM;
}

/* Sets the names of references, for all kinds but clusters. */
static int put_refs(struct l7mp_draft *d)
{
	struct l7mp_listener *l = (struct l7mp_listener *)d->object;
	struct l7mp_rulelist *list = (struct l7mp_rulelist *)d->object;
	struct l7mp_rule *rule = (struct l7mp_rule *)d->object;
	struct l7mp_route *route = (struct l7mp_route *)d->object;

	switch (d->kind) {
	case L7MP_OBJ_LISTENER:
		return put_name(&l->rules, &d->refs[0]);
	case L7MP_OBJ_RULELIST:
		return put_names(&list->rules, &list->n_rules, &d->refs[0]);
	case L7MP_OBJ_RULE:
		return put_name(&rule->route, &d->refs[0]) ? -ENOMEM
		                                           : put_name(&rule->apply, &d->refs[1]);
	case L7MP_OBJ_ROUTE:
		if (put_name(&route->destination, &d->refs[0]) ||
		    put_names(&route->ingress, &route->n_ingress, &d->refs[1]))
			return -ENOMEM;
		return put_names(&route->egress, &route->n_egress, &d->refs[2]);
	case L7MP_OBJ_CLUSTER:
	case L7MP_OBJ_ENDPOINT:
	case L7MP_OBJ_KINDS:
		break;
	}
	return 0;
}

static int put_owner(const struct builder *b, struct l7mp_draft *d, const struct l7mp_object *old)
{
	struct l7mp_object *o = d->object;

	if (d->owner)
		return l7mp_object_set_owner(o, d->owner->kind, d->owner->name);
	if (b->owner)
		return l7mp_object_set_owner(o, b->owner->kind, b->owner->name);
	if (!old || !old->autogenerated)
		return 0;
	o->autogenerated = true;
	return old->owner ? l7mp_object_set_owner(o, old->owner_kind, old->owner) : 0;
}

/*
 * The config owner is that of the replaced version, else that of the object in which it is inline.
 */
static void put_config_owner(const struct builder *b, struct l7mp_draft *d,
                             const struct l7mp_object *old)
{
	if (old)
		d->object->config_owner = old->config_owner;
	else if (d->owner)
		d->object->config_owner = d->owner->object->config_owner;
	else if (b->owner)
		d->object->config_owner = b->owner->config_owner;
	else
		d->object->config_owner = b->c->config_owner;
}

/* Keeps the rules that config owners have inserted into the list. */
static int put_inserts(const struct builder *b, struct l7mp_draft *d, const struct l7mp_object *old)
{
	enum l7mp_inserts_keep keep =
	        b->mode == BUILD_CONFIG && !b->c->scoped ? L7MP_INSERTS_SHOWN : L7MP_INSERTS_ALL;
	const struct l7mp_rulelist *list = (const struct l7mp_rulelist *)old;

	if (d->kind != L7MP_OBJ_RULELIST || !list || !list->n_inserts)
		return 0;
	return l7mp_inserts_set((struct l7mp_rulelist *)d->object, list, keep, 0, NULL, 0);
}

static int stage_endpoint(struct builder *b, struct l7mp_draft *d, const char *cluster,
                          struct l7mp_endpoint **out, struct l7mp_error *err)
{
	struct l7mp_object *there = l7mp_change_find(b->c, L7MP_OBJ_ENDPOINT, d->name);
	struct l7mp_endpoint *e = (struct l7mp_endpoint *)d->object;

	if (there && !may_replace(b, there))
		return taken(b, err, there, d->path);
	if (there && !strcmp(((struct l7mp_endpoint *)there)->cluster, cluster) &&
	    l7mp_object_same(d->object, there)) {
		*out = l7mp_object_ref(there);
		return 0;
	}
	e->obj.name = strdup(d->name);
	e->cluster = strdup(cluster);
	if (!e->obj.name || !e->cluster)
		return l7mp_change_oom(err);
	put_config_owner(b, d, NULL);
	*out = l7mp_object_ref(e);
	return l7mp_change_stage(b->c, L7MP_OBJ_ENDPOINT, d->name, &e->obj, false, d->path, err);
}

static int put_endpoints(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err)
{
	struct l7mp_cluster *c = (struct l7mp_cluster *)d->object;
	struct l7mp_draft_refs *refs = l7mp_draft_slot(d, L7MP_SLOT_ENDPOINTS);
	int rc = 0;

	c->endpoints = calloc(refs->n ? refs->n : 1, sizeof(struct l7mp_endpoint *));
	if (!c->endpoints)
		return l7mp_change_oom(err);
	for (size_t i = 0; !rc && i < refs->n; i++) {
		struct l7mp_draft *e = refs->v[i].draft;

		rc = stage_endpoint(b, e, d->name, &c->endpoints[i], err);
		c->n_endpoints += c->endpoints[i] != NULL;
	}
	return rc;
}

/* Deletes endpoints that the old version had and the document does not. */
static int drop_endpoints(struct builder *b, const struct l7mp_cluster *old, struct l7mp_error *err)
{
	int rc = 0;

	for (size_t i = 0; !rc && i < old->n_endpoints; i++) {
		const char *name = old->endpoints[i]->obj.name;

		if (!claimed(b, L7MP_OBJ_ENDPOINT, name) &&
		    l7mp_change_find(b->c, L7MP_OBJ_ENDPOINT, name) == &old->endpoints[i]->obj)
			rc = l7mp_change_stage(b->c, L7MP_OBJ_ENDPOINT, name, NULL,
			                       b->mode == BUILD_CONFIG, "", err);
	}
	return rc;
}

/* Creates the parts that only staged objects need: a rule's predicate, a cluster's balancer. */
static int complete(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err)
{
	struct l7mp_cluster *c = (struct l7mp_cluster *)d->object;
	struct l7mp_rule *r = (struct l7mp_rule *)d->object;
	char *path;
	int rc = 0;

	if (d->kind == L7MP_OBJ_CLUSTER) {
		rc = l7mp_lb_new(c, &c->lb);
	} else if (d->kind == L7MP_OBJ_RULE) {
		path = l7mp_path_key(d->path, "match");
		rc = path ? l7mp_predicate_compile(r->match, path, &b->c->issues, &r->predicate)
		          : -ENOMEM;
		free(path);
		if (rc && rc != -ENOMEM) {
			l7mp_error_set(err, rc, L7MP_ERR_SCHEMA, "the rule's match can't be used");
			l7mp_issues_first(&b->c->issues, err);
			return rc;
		}
	}
	return rc ? l7mp_change_oom(err) : 0;
}

static bool unchanged(const struct l7mp_draft *d, const struct l7mp_object *there)
{
	if (d->kind == L7MP_OBJ_RULELIST &&
	    !l7mp_inserts_same((const struct l7mp_rulelist *)d->object,
	                       (const struct l7mp_rulelist *)there))
		return false;
	return l7mp_object_same(d->object, there) && l7mp_object_same_refs(d->object, there) &&
	       (!d->owner || !there->autogenerated ||
	        l7mp_object_owned_by(there, d->owner->kind, d->owner->name));
}

static int stage_one(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err)
{
	struct l7mp_object *there = l7mp_change_find(b->c, d->kind, d->name);
	int rc;

	if (there && !may_replace(b, there))
		return taken(b, err, there, d->path);
	d->object->name = strdup(d->name);
	if (!d->object->name || put_refs(d) || put_owner(b, d, there) || put_inserts(b, d, there))
		return l7mp_change_oom(err);
	put_config_owner(b, d, there);
	rc = d->kind == L7MP_OBJ_CLUSTER ? put_endpoints(b, d, err) : 0;
	if (!rc && there && unchanged(d, there))
		return 0;
	if (!rc)
		rc = complete(b, d, err);
	if (!rc && there && d->kind == L7MP_OBJ_CLUSTER)
		rc = drop_endpoints(b, (struct l7mp_cluster *)there, err);
	if (!rc)
		rc = l7mp_change_stage(b->c, d->kind, d->name, d->object, false, d->path, err);
	return rc;
}

/* Stages the tree, in which all drafts have names. */
static int stage(struct builder *b, struct l7mp_draft *d, struct l7mp_error *err)
{
	int rc = stage_one(b, d, err);

	if (d->kind == L7MP_OBJ_CLUSTER) /* its endpoints are staged with it */
		return rc;
	for (int s = 0; !rc && s < L7MP_KIND_SLOTS; s++)
		for (size_t i = 0; !rc && i < d->refs[s].n; i++)
			if (d->refs[s].v[i].draft)
				rc = stage(b, d->refs[s].v[i].draft, err);
	return rc;
}

/* ---- inline objects that a new version does not use ---- */

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int prune_slot(struct builder *b, const struct l7mp_object *old,
                      const struct l7mp_object *now, enum l7mp_slot slot, struct l7mp_error *err)
{
	size_t n_old = l7mp_object_ref_count(old, slot), n = l7mp_object_ref_count(now, slot);
	const char **names = malloc((n + 1) * sizeof(*names));
	int rc = 0;

	if (!names)
		return l7mp_change_oom(err);
	for (size_t i = 0; i < n; i++)
		names[i] = l7mp_object_ref_name(now, slot, i);
	qsort(names, n, sizeof(*names), by_text);
	for (size_t i = 0; !rc && i < n_old; i++) {
		const char *name = l7mp_object_ref_name(old, slot, i);
		struct l7mp_object *o = l7mp_change_find(b->c, l7mp_slot(slot)->target, name);

		if (o && l7mp_object_owned_by(o, old->kind, old->name) &&
		    !bsearch(&name, names, n, sizeof(*names), by_text))
			rc = l7mp_change_drop(b->c, o, true, false, err);
	}
	free(names);
	return rc;
}

/* REPLACE: deletes inline objects of replaced objects that are no longer used. */
static int prune(struct builder *b, struct l7mp_error *err)
{
	struct l7mp_change *c = b->c;
	size_t n = c->n_items; /* objects staged below delete their own inline objects */
	int rc = 0;

	for (size_t i = 0; !rc && i < n; i++) {
		const struct l7mp_change_item *item = &c->items[i]->item;
		struct l7mp_object *now = item->new_object;

		if (!item->old_object || !now || item->kind == L7MP_OBJ_CLUSTER)
			continue;
		l7mp_object_ref(now);
		for (enum l7mp_slot s = l7mp_slot_first(item->kind);
		     !rc && s < l7mp_slot_end(item->kind); s++)
			rc = prune_slot(b, item->old_object, now, s, err);
		l7mp_object_unref(now);
	}
	return rc;
}

/* ---- adding and replacing ---- */

static int parse(struct l7mp_change *c, enum l7mp_obj_kind kind, const cJSON *doc, const char *path,
                 struct l7mp_draft **out, struct l7mp_error *err)
{
	struct l7mp_build build = {.registry = c->model->registry, .issues = &c->issues};
	int rc = l7mp_change_check(c, err);

	*out = NULL;
	if (rc)
		return rc;
	*out = l7mp_draft_parse(&build, kind, doc, path);
	if (*out)
		return 0;
	rc = l7mp_change_check(c, err);
	if (rc)
		return rc;
	l7mp_change_oom(err);
	return -ENOMEM;
}

/*
 * Adds the draft to the change: registers its names and binds its references. Takes d. `put`: the
 * document has the form that GET returns.
 */
static int build(struct builder *b, struct l7mp_draft *d, bool put, struct l7mp_error *err)
{
	int rc = put ? refer(b, d, err) : 0;

	if (!rc)
		rc = claim(b, d, err);
	if (!rc)
		rc = l7mp_change_check(b->c, err);
	if (!rc && !d->name)
		rc = generate_name(b, d, b->owner->name, L7MP_SLOT_LIST, err);
	if (!rc)
		rc = bind_names(b, d, err);
	if (!rc)
		rc = stage(b, d, err);
	if (!rc && b->mode == BUILD_REPLACE)
		rc = prune(b, err);
	clear_names(b);
	l7mp_draft_free(d);
	return rc;
}

/* A top-level object needs a name, because otherwise nothing could refer to it. */
static void check_named(struct l7mp_change *c, const cJSON *doc, const char *path)
{
	char *where = l7mp_path_key(path, "name");

	if (cJSON_IsObject(doc) && !l7mp_json_member(doc, "name") && !c->issues.errors)
		l7mp_issues_add(&c->issues, false, doc, where ? where : path,
		                "missing, expected a name without white space");
	free(where);
}

static int refuse_endpoint(struct l7mp_error *err)
{
	return l7mp_error_set(err, -EINVAL, L7MP_ERR_SCHEMA,
	                      "an endpoint is added to a cluster, not by itself");
}

static int add(struct l7mp_change *c, enum l7mp_obj_kind kind, const cJSON *doc, const char *path,
               bool put, struct l7mp_error *err)
{
	struct builder b = {.c = c, .mode = BUILD_ADD};
	struct l7mp_draft *d;
	int rc;

	if (kind == L7MP_OBJ_ENDPOINT)
		return refuse_endpoint(err);
	l7mp_schema_check(l7mp_schema_of_kind(kind), c->model->registry, doc, path, &c->issues);
	check_named(c, doc, path);
	rc = parse(c, kind, doc, path, &d, err);
	return rc ? rc : build(&b, d, put, err);
}

int l7mp_change_add(struct l7mp_change *c, enum l7mp_obj_kind kind, const cJSON *doc,
                    const char *path, struct l7mp_error *err)
{
	return add(c, kind, doc, path, false, err);
}

/* Returns the document; if it has no name, a copy with one that lives as long as the change. */
static const cJSON *with_name(struct l7mp_change *c, const cJSON *doc, const char *name)
{
	cJSON *copy;

	if (!cJSON_IsObject(doc) || l7mp_json_member(doc, "name"))
		return doc;
	if (!c->docs)
		c->docs = cJSON_CreateArray();
	copy = cJSON_Duplicate(doc, true);
	if (!c->docs || !copy || l7mp_json_add_str(copy, "name", name) ||
	    !cJSON_AddItemToArray(c->docs, copy)) {
		cJSON_Delete(copy);
		return NULL;
	}
	return copy;
}

static void check_same_name(struct l7mp_change *c, const cJSON *doc, const char *name,
                            const char *path)
{
	const cJSON *given = l7mp_json_member(doc, "name");
	char *where = l7mp_path_key(path, "name");
	char got[80];

	if (cJSON_IsString(given) && strcmp(given->valuestring, name) != 0)
		l7mp_issues_add(&c->issues, false, given, where ? where : path,
		                "expected \"%s\" or nothing, got %s", name,
		                l7mp_json_brief(given, got, sizeof(got)));
	free(where);
}

static int missing(struct l7mp_error *err, enum l7mp_obj_kind kind, const char *name)
{
	return l7mp_error_set(err, -ENOENT, L7MP_ERR_NOT_FOUND, "there is no %s \"%s\"",
	                      l7mp_obj_kind_name(kind), name);
}

/* ---- endpoints ---- */

static int copy_base(struct l7mp_object *to, const struct l7mp_object *from)
{
	to->name = strdup(from->name);
	if (!to->name)
		return -ENOMEM;
	to->autogenerated = from->autogenerated;
	to->config_owner = from->config_owner;
	return from->owner ? l7mp_object_set_owner(to, from->owner_kind, from->owner) : 0;
}

/* Returns a modifiable copy without endpoints and `lb`. NULL: out of memory. */
static struct l7mp_cluster *cluster_copy(const struct l7mp_cluster *c, size_t n_endpoints)
{
	struct l7mp_cluster *n = l7mp_object_new(L7MP_OBJ_CLUSTER);

	if (!n)
		return NULL;
	n->proto = c->proto;
	n->lb_policy = c->lb_policy;
	n->spec = cJSON_Duplicate(c->spec, true);
	n->options = cJSON_Duplicate(c->options, true);
	n->lb_policy_name = c->lb_policy_name ? strdup(c->lb_policy_name) : NULL;
	n->lb_key = c->lb_key ? strdup(c->lb_key) : NULL;
	n->endpoints = calloc(n_endpoints ? n_endpoints : 1, sizeof(struct l7mp_endpoint *));
	if (copy_base(&n->obj, &c->obj) || !n->spec || (c->options && !n->options) ||
	    (c->lb_policy_name && !n->lb_policy_name) || (c->lb_key && !n->lb_key) ||
	    !n->endpoints) {
		l7mp_object_unref(n);
		return NULL;
	}
	return n;
}

/*
 * Stages a new version of the cluster without `out` (may be NULL), and with `in` (may be NULL) in
 * its place or at the end.
 */
static int recluster(struct l7mp_change *c, struct l7mp_cluster *old,
                     const struct l7mp_endpoint *out, struct l7mp_endpoint *in, const char *path,
                     struct l7mp_error *err)
{
	struct l7mp_cluster *n = cluster_copy(old, old->n_endpoints + 1);
	int rc;

	if (!n)
		return l7mp_change_oom(err);
	for (size_t i = 0; i < old->n_endpoints; i++) {
		struct l7mp_endpoint *e = old->endpoints[i] == out ? in : old->endpoints[i];

		if (e)
			n->endpoints[n->n_endpoints++] = l7mp_object_ref(e);
	}
	if (in && !out)
		n->endpoints[n->n_endpoints++] = l7mp_object_ref(in);
	rc = l7mp_lb_new(n, &n->lb) ? l7mp_change_oom(err) : 0;
	if (!rc)
		rc = l7mp_change_stage(c, L7MP_OBJ_CLUSTER, n->obj.name, &n->obj, false, path, err);
	l7mp_object_unref(n);
	return rc;
}

/* Builds an endpoint from the document; d->object is then complete. */
static int parse_endpoint(struct l7mp_change *c, const struct l7mp_cluster *cluster,
                          const cJSON *doc, const char *path, struct l7mp_draft **out,
                          struct l7mp_error *err)
{
	struct builder b = {.c = c, .mode = BUILD_ADD};
	struct l7mp_endpoint *e;
	int rc;

	l7mp_schema_check_endpoint(c->model->registry, cluster->proto, doc, path, &c->issues);
	rc = parse(c, L7MP_OBJ_ENDPOINT, doc, path, out, err);
	if (rc)
		return rc;
	if (!(*out)->name)
		rc = generate_name(&b, *out, cluster->obj.name, L7MP_SLOT_ENDPOINTS, err);
	clear_names(&b);
	e = (struct l7mp_endpoint *)(*out)->object;
	e->obj.config_owner = cluster->obj.config_owner;
	if (!rc) {
		e->obj.name = strdup((*out)->name);
		e->cluster = strdup(cluster->obj.name);
		if (!e->obj.name || !e->cluster)
			rc = l7mp_change_oom(err);
	}
	return rc;
}

int l7mp_change_add_endpoint(struct l7mp_change *c, const char *cluster, const cJSON *doc,
                             const char *path, struct l7mp_error *err)
{
	struct l7mp_cluster *old =
	        (struct l7mp_cluster *)l7mp_change_find(c, L7MP_OBJ_CLUSTER, cluster);
	struct l7mp_draft *d;
	int rc;

	if (!old)
		return missing(err, L7MP_OBJ_CLUSTER, cluster);
	if (old->proto->flags & L7MP_PROTO_VIRTUAL) {
		l7mp_issues_add(&c->issues, false, doc, path,
		                "cluster \"%s\" is of protocol %s, which has no endpoints", cluster,
		                old->proto->name);
		return l7mp_change_check(c, err);
	}
	rc = parse_endpoint(c, old, doc, path, &d, err);
	if (!rc && l7mp_change_find(c, L7MP_OBJ_ENDPOINT, d->name))
		rc = l7mp_change_exists(err, L7MP_OBJ_ENDPOINT, d->name, path);
	if (!rc)
		rc = l7mp_change_stage(c, L7MP_OBJ_ENDPOINT, d->name, d->object, false, path, err);
	if (!rc)
		rc = recluster(c, old, NULL, (struct l7mp_endpoint *)d->object, path, err);
	l7mp_draft_free(d);
	return rc;
}

static struct l7mp_cluster *cluster_of(struct l7mp_change *c, const struct l7mp_endpoint *e)
{
	return (struct l7mp_cluster *)l7mp_change_find(c, L7MP_OBJ_CLUSTER, e->cluster);
}

static int replace_endpoint(struct l7mp_change *c, struct l7mp_endpoint *old, const cJSON *doc,
                            const char *path, struct l7mp_error *err)
{
	struct l7mp_cluster *cluster = cluster_of(c, old);
	struct l7mp_draft *d;
	int rc = parse_endpoint(c, cluster, doc, path, &d, err);

	if (!rc && !l7mp_object_same(d->object, &old->obj)) {
		rc = recluster(c, cluster, old, (struct l7mp_endpoint *)d->object, path, err);
		if (!rc)
			rc = l7mp_change_stage(c, L7MP_OBJ_ENDPOINT, d->name, d->object, false,
			                       path, err);
	}
	l7mp_draft_free(d);
	return rc;
}

int l7mp_change_replace(struct l7mp_change *c, enum l7mp_obj_kind kind, const char *name,
                        const cJSON *doc, const char *path, struct l7mp_error *err)
{
	struct l7mp_object *old = l7mp_change_find(c, kind, name);
	struct builder b = {.c = c, .mode = BUILD_REPLACE, .top = old};
	struct l7mp_draft *d;
	int rc;

	if (!old)
		return missing(err, kind, name);
	doc = with_name(c, doc, old->name);
	if (!doc)
		return l7mp_change_oom(err);
	check_same_name(c, doc, name, path);
	if (kind == L7MP_OBJ_ENDPOINT)
		return replace_endpoint(c, (struct l7mp_endpoint *)old, doc, path, err);
	l7mp_schema_check(l7mp_schema_of_kind(kind), c->model->registry, doc, path, &c->issues);
	rc = parse(c, kind, doc, path, &d, err);
	return rc ? rc : build(&b, d, true, err);
}

int l7mp_change_put(struct l7mp_change *c, enum l7mp_obj_kind kind, const char *name,
                    const cJSON *doc, const char *path, struct l7mp_error *err)
{
	if (kind == L7MP_OBJ_ENDPOINT || l7mp_change_find(c, kind, name))
		return l7mp_change_replace(c, kind, name, doc, path, err);
	doc = with_name(c, doc, name);
	if (!doc)
		return l7mp_change_oom(err);
	check_same_name(c, doc, name, path);
	return add(c, kind, doc, path, true, err);
}

/* ---- deleting ---- */

static int delete_endpoint(struct l7mp_change *c, struct l7mp_endpoint *e, bool recursive,
                           struct l7mp_error *err)
{
	int rc = recluster(c, cluster_of(c, e), e, NULL, "", err);

	return rc ? rc
	          : l7mp_change_stage(c, L7MP_OBJ_ENDPOINT, e->obj.name, NULL, recursive, "", err);
}

int l7mp_change_delete(struct l7mp_change *c, enum l7mp_obj_kind kind, const char *name,
                       bool recursive, struct l7mp_error *err)
{
	struct l7mp_object *o = l7mp_change_find(c, kind, name);

	if (!o)
		return missing(err, kind, name);
	if (kind == L7MP_OBJ_ENDPOINT)
		return delete_endpoint(c, (struct l7mp_endpoint *)o, recursive, err);
	return l7mp_change_drop(c, o, recursive, recursive, err);
}

/* ---- the rules of a list ---- */

/* Returns a modifiable copy without rules. NULL: out of memory. */
static struct l7mp_rulelist *rulelist_copy(const struct l7mp_rulelist *l)
{
	struct l7mp_rulelist *n = l7mp_object_new(L7MP_OBJ_RULELIST);

	if (n && copy_base(&n->obj, &l->obj)) {
		l7mp_object_unref(n);
		n = NULL;
	}
	return n;
}

/*
 * Stages a new version of the list with a rule inserted at `position`, or (NULL) the rule there
 * removed.
 */
static int relist(struct l7mp_change *c, const struct l7mp_rulelist *old, size_t position,
                  const char *in, const char *path, struct l7mp_error *err)
{
	struct l7mp_rulelist *l = rulelist_copy(old);
	const char **names = malloc((old->n_rules + 1) * sizeof(*names));
	size_t n = 0;
	int rc = 0;

	for (size_t i = 0; names && i <= old->n_rules; i++) {
		if (i == position && in)
			names[n++] = in;
		if (i < old->n_rules && (in || i != position))
			names[n++] = old->rules[i];
	}
	if (l && names && n)
		l->rules = l7mp_names_pack(names, n);
	if (!l || !names || (n && !l->rules)) {
		rc = l7mp_change_oom(err);
	} else {
		l->n_rules = n;
		if (old->n_inserts && l7mp_inserts_set(l, old, L7MP_INSERTS_SHOWN, 0, NULL, 0))
			rc = l7mp_change_oom(err);
		else
			rc = l7mp_change_stage(c, L7MP_OBJ_RULELIST, l->obj.name, &l->obj, false,
			                       path, err);
	}
	free(names);
	l7mp_object_unref(l);
	return rc;
}

static int bad_position(struct l7mp_error *err, const struct l7mp_rulelist *l, size_t position)
{
	return l7mp_error_set(err, -ENOENT, L7MP_ERR_NOT_FOUND,
	                      "rule list \"%s\" has %zu rules, there is no position %zu",
	                      l->obj.name, l->n_rules, position);
}

/* Adds a rule that belongs to the list; *name is borrowed from the change. */
static int add_rule(struct l7mp_change *c, const struct l7mp_rulelist *l, const cJSON *doc,
                    const char *path, const char **name, struct l7mp_error *err)
{
	struct builder b = {.c = c, .mode = BUILD_ADD, .owner = &l->obj};
	size_t first = c->n_items;
	struct l7mp_draft *d;
	int rc;

	l7mp_schema_check(&l7mp_schema_rule, c->model->registry, doc, path, &c->issues);
	rc = parse(c, L7MP_OBJ_RULE, doc, path, &d, err);
	if (rc)
		return rc;
	rc = build(&b, d, false, err);
	for (size_t i = first; !rc && i < c->n_items; i++)
		if (c->items[i]->item.kind == L7MP_OBJ_RULE && !strcmp(c->items[i]->path, path))
			*name = c->items[i]->name;
	return rc;
}

int l7mp_change_insert_rule(struct l7mp_change *c, const char *rulelist, size_t position,
                            const cJSON *rule, const char *path, struct l7mp_error *err)
{
	struct l7mp_rulelist *l =
	        (struct l7mp_rulelist *)l7mp_change_find(c, L7MP_OBJ_RULELIST, rulelist);
	const char *name = NULL;
	char got[80];
	int rc;

	if (!l)
		return missing(err, L7MP_OBJ_RULELIST, rulelist);
	if (position > l->n_rules)
		return bad_position(err, l, position);
	if (cJSON_IsString(rule)) {
		name = rule->valuestring;
		if (!l7mp_schema_pattern_ok(L7MP_P_NAME, name)) {
			l7mp_issues_add(&c->issues, false, rule, path, "expected %s, got %s",
			                l7mp_schema_pattern_text(L7MP_P_NAME),
			                l7mp_json_brief(rule, got, sizeof(got)));
			return l7mp_change_check(c, err);
		}
	} else {
		rc = add_rule(c, l, rule, path, &name, err);
		if (rc)
			return rc;
	}
	return relist(c, l, position, name, path, err);
}

int l7mp_change_remove_rule(struct l7mp_change *c, const char *rulelist, size_t position,
                            bool recursive, struct l7mp_error *err)
{
	struct l7mp_rulelist *l =
	        (struct l7mp_rulelist *)l7mp_change_find(c, L7MP_OBJ_RULELIST, rulelist);
	struct l7mp_object *rule;
	int rc;

	if (!l)
		return missing(err, L7MP_OBJ_RULELIST, rulelist);
	if (position >= l->n_rules)
		return bad_position(err, l, position);
	rule = l7mp_change_find(c, L7MP_OBJ_RULE, l->rules[position]);
	for (size_t i = 0; rule && i < l->n_rules; i++) /* the list may have it twice */
		if (i != position && !strcmp(l->rules[i], rule->name))
			rule = NULL;
	if (recursive && rule && l7mp_object_owned_by(rule, L7MP_OBJ_RULELIST, rulelist)) {
		rc = l7mp_change_drop(c, rule, true, true, err);
		if (rc)
			return rc;
	}
	return relist(c, l, position, NULL, "", err);
}

/* ---- admin ---- */

/* *path: the path of the admin object in the document. */
static int change_admin(struct l7mp_change *c, const cJSON *doc, const char *path,
                        struct l7mp_error *err)
{
	const struct l7mp_admin *now = c->admin ? c->admin : &c->model->admin;
	struct l7mp_admin *next = calloc(1, sizeof(*next));
	const char *fixed;

	if (!next || l7mp_admin_merge(now, doc, next)) {
		free(next);
		return l7mp_change_oom(err);
	}
	/* The first config, at program start, may set all keys. */
	fixed = c->model->generation ? l7mp_admin_fixed_key(now, next) : NULL;
	if (fixed) {
		l7mp_error_set(err, -EINVAL, L7MP_ERR_REALISE,
		               "%s can only be set when the program starts", fixed);
		if (err)
			snprintf(err->path, sizeof(err->path), "%s%s%s", path, *path ? "." : "",
			         fixed);
	}
	if (fixed || l7mp_admin_equal(now, next)) {
		l7mp_admin_clear(next);
		free(next);
		return fixed ? -EINVAL : 0;
	}
	if (c->admin) {
		l7mp_admin_clear(c->admin);
		free(c->admin);
	}
	c->admin = next;
	return 0;
}

int l7mp_change_admin(struct l7mp_change *c, const cJSON *doc, const char *path,
                      struct l7mp_error *err)
{
	int rc;

	l7mp_schema_check(&l7mp_schema_admin, c->model->registry, doc, path, &c->issues);
	rc = l7mp_change_check(c, err);
	return rc ? rc : change_admin(c, doc, path, err);
}

/* ---- configs ---- */

/* Named objects first, before those that are inline in listeners. */
static const enum l7mp_obj_kind order[] = {L7MP_OBJ_CLUSTER, L7MP_OBJ_ROUTE, L7MP_OBJ_RULE,
                                           L7MP_OBJ_RULELIST, L7MP_OBJ_LISTENER};

struct drafts {
	struct l7mp_draft **v;
	size_t n, cap;
};

static int drafts_add(struct drafts *ds, struct l7mp_draft *d)
{
	if (ds->n == ds->cap) {
		size_t cap = ds->cap ? ds->cap * 2 : 64;
		struct l7mp_draft **v = realloc(ds->v, cap * sizeof(struct l7mp_draft *));

		if (!v)
			return -ENOMEM;
		ds->v = v;
		ds->cap = cap;
	}
	ds->v[ds->n++] = d;
	return 0;
}

static int parse_one(struct l7mp_change *c, enum l7mp_obj_kind kind, const cJSON *doc, size_t i,
                     struct drafts *ds, struct l7mp_error *err)
{
	struct l7mp_build build = {.registry = c->model->registry, .issues = &c->issues};
	char path[64];
	struct l7mp_draft *d;

	snprintf(path, sizeof(path), "%s[%zu]", l7mp_obj_kind_plural(kind), i);
	d = l7mp_draft_parse(&build, kind, doc, path);
	if (!d)
		return l7mp_change_check(c, err) ? -EINVAL : l7mp_change_oom(err);
	if (!d->name) {
		snprintf(path, sizeof(path), "%s[%zu].name", l7mp_obj_kind_plural(kind), i);
		l7mp_issues_add(&c->issues, false, doc, path,
		                "missing, expected a name without white space");
		l7mp_draft_free(d);
		return l7mp_change_check(c, err);
	}
	if (drafts_add(ds, d)) {
		l7mp_draft_free(d);
		return l7mp_change_oom(err);
	}
	return 0;
}

static int parse_all(struct l7mp_change *c, const cJSON *doc, struct drafts *ds,
                     struct l7mp_error *err)
{
	for (size_t k = 0; k < L7MP_ARRAY_SIZE(order); k++) {
		const cJSON *list = l7mp_json_member(doc, l7mp_obj_kind_plural(order[k]));
		const cJSON *item;
		size_t i = 0;

		cJSON_ArrayForEach (item, list) {
			int rc = parse_one(c, order[k], item, i++, ds, err);

			if (rc)
				return rc;
		}
	}
	return 0;
}

/* Deletes the objects that the document does not have. */
static int drop_missing(struct builder *b, struct l7mp_error *err)
{
	const struct l7mp_model *m = b->c->model;
	int rc = 0;

	for (size_t k = 0; k < L7MP_ARRAY_SIZE(order); k++)
		for (struct l7mp_object *o = l7mp_model_first(m, order[k]); o && !rc;
		     o = l7mp_model_next(o))
			/* Not recursive: this loop visits all missing objects. */
			if (in_scope(b, o) && !claimed(b, order[k], o->name))
				rc = l7mp_change_drop(b->c, o, false, true, err);
	return rc;
}

static int build_all(struct builder *b, const struct drafts *ds, struct l7mp_error *err)
{
	int rc = 0;

	/* Register all given names first, so that generated ones do not collide with them. */
	for (size_t i = 0; !rc && i < ds->n; i++)
		rc = claim(b, ds->v[i], err);
	if (!rc)
		rc = l7mp_change_check(b->c, err);
	for (size_t i = 0; !rc && i < ds->n; i++)
		rc = bind_names(b, ds->v[i], err);
	for (size_t i = 0; !rc && i < ds->n; i++)
		rc = stage(b, ds->v[i], err);
	return rc ? rc : drop_missing(b, err);
}

/*
 * Returns a list that is missing in the document although there are objects of that kind; NULL:
 * none.
 */
static const char *lost_list(const struct l7mp_change *c, const cJSON *doc)
{
	for (size_t k = 0; k < L7MP_ARRAY_SIZE(order); k++) {
		const struct l7mp_object *o = l7mp_model_first(c->model, order[k]);

		while (o && (o->autogenerated || (c->scoped && o->config_owner != c->config_owner)))
			o = l7mp_model_next((struct l7mp_object *)o);
		if (o && !l7mp_json_member(doc, l7mp_obj_kind_plural(order[k])))
			return l7mp_obj_kind_plural(order[k]);
	}
	return NULL;
}

/*
 * An unknown key may be a misspelt list. The list is then missing, which would delete its objects.
 * So the combination is an error, even where an unknown key is only a warning.
 */
static void check_lost(struct l7mp_change *c, const cJSON *doc)
{
	const char *lost = cJSON_IsObject(doc) ? lost_list(c, doc) : NULL;
	const cJSON *child;

	if (!lost)
		return;
	cJSON_ArrayForEach (child, doc)
		if (!l7mp_schema_field(&l7mp_schema_config, child->string))
			l7mp_issues_add(
			        &c->issues, false, child, child->string,
			        "unknown key, where \"%s\" is missing: all of them would be "
			        "deleted; expected \"%s\": [] when that is meant",
			        lost, lost);
}

/* ---- rules inserted by an owner into lists of others ---- */

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
	struct l7mp_rulelist *l = rulelist_copy(old);
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

static int insert_rules(struct l7mp_change *c, const cJSON *doc, struct l7mp_error *err)
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

/* Sets the owner of the objects that the change creates. */
static int set_owner(struct l7mp_change *c, const cJSON *doc, const char *owner,
                     struct l7mp_error *err)
{
	const cJSON *inserts = l7mp_json_member(doc, "rule_inserts");
	const cJSON *admin = l7mp_json_member(doc, "admin");
	int number;

	if (inserts && (!owner || !*owner))
		l7mp_issues_add(&c->issues, false, inserts, "rule_inserts",
		                "expected only in the config of an owner");
	if (!owner)
		return 0;
	if (*owner && admin)
		l7mp_issues_add(&c->issues, false, admin, "admin",
		                "expected only in the config without owner");
	if (*owner &&
	    (strlen(owner) > L7MP_NAME_MAX || !l7mp_schema_pattern_ok(L7MP_P_NAME, owner)))
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_PARSE,
		                      "owner: expected %s of at most %d bytes",
		                      l7mp_schema_pattern_text(L7MP_P_NAME), L7MP_NAME_MAX);
	number = l7mp_owner_take(c, owner, err);
	if (number < 0)
		return number;
	c->scoped = true;
	c->config_owner = (unsigned)number;
	return 0;
}

int l7mp_change_config(struct l7mp_change *c, const cJSON *doc, const char *owner,
                       struct l7mp_error *err)
{
	struct builder b = {.c = c, .mode = BUILD_CONFIG};
	const cJSON *admin = l7mp_json_member(doc, "admin");
	struct drafts ds = {0};
	int rc;

	rc = set_owner(c, doc, owner, err);
	if (rc)
		return rc;
	l7mp_schema_check(&l7mp_schema_config, c->model->registry, doc, "", &c->issues);
	check_lost(c, doc);
	rc = l7mp_change_check(c, err);
	if (!rc)
		rc = parse_all(c, doc, &ds, err);
	if (!rc)
		rc = build_all(&b, &ds, err);
	if (!rc && c->config_owner)
		rc = insert_rules(c, doc, err);
	if (!rc && admin)
		rc = change_admin(c, admin, "admin", err);
	clear_names(&b);
	for (size_t i = 0; i < ds.n; i++)
		l7mp_draft_free(ds.v[i]);
	free(ds.v);
	return rc;
}
