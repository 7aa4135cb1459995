/* SPDX-License-Identifier: MIT */
/*
 * Realises changes: binds all new listeners first (undone when one fails), then
 * commits, starts accepting, and only then closes what is replaced or deleted. So a
 * replaced listener shares its socket with its successor and no client is refused.
 */
#include "l7mp/runtime.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "l7mp/log.h"

struct binding {
	UT_hash_handle hh; /* by name */
	char *name;
	struct l7mp_source *source;
	struct l7mp_proto_listener *plistener;
};

struct l7mp_runtime {
	struct l7mp_env *env;
	struct l7mp_sessions *sessions;
	struct binding *bindings;
	void (*on_admin)(void *arg, const struct l7mp_admin *admin);
	void *on_admin_arg;
};

/* The bindings of one change, one per item that is about a listener. */
struct work {
	struct binding **fresh;                /* [count of items]; NULL: none */
	struct l7mp_proto_listener **retiring; /* all that will close */
	size_t n_retiring;
	struct l7mp_proto_listener **same; /* those of one protocol; scratch */
};

static void binding_free(struct binding **pp)
{
	struct binding *b = *pp;

	if (!b)
		return;
	*pp = NULL;
	if (b->plistener)
		b->plistener->proto->unlisten(b->plistener);
	l7mp_source_free(&b->source);
	free(b->name);
	free(b);
}

int l7mp_runtime_new(struct l7mp_env *env, struct l7mp_sessions *sessions,
                     struct l7mp_runtime **out)
{
	struct l7mp_runtime *rt = calloc(1, sizeof(*rt));

	if (!rt)
		return -ENOMEM;
	rt->env = env;
	rt->sessions = sessions;
	*out = rt;
	return 0;
}

void l7mp_runtime_stop(struct l7mp_runtime *rt)
{
	struct binding *b = rt->bindings;

	HASH_CLEAR(hh, rt->bindings);
	while (b) {
		struct binding *next = b->hh.next;

		binding_free(&b);
		b = next;
	}
}

void l7mp_runtime_free(struct l7mp_runtime **rt)
{
	if (!*rt)
		return;
	l7mp_runtime_stop(*rt);
	free(*rt);
	*rt = NULL;
}

void l7mp_runtime_on_admin(struct l7mp_runtime *rt,
                           void (*cb)(void *arg, const struct l7mp_admin *admin), void *arg)
{
	rt->on_admin = cb;
	rt->on_admin_arg = arg;
}

static struct binding *find(const struct l7mp_runtime *rt, const char *name)
{
	struct binding *b;

	HASH_FIND_STR(rt->bindings, name, b);
	return b;
}

void l7mp_runtime_bound(const struct l7mp_runtime *rt, const struct l7mp_listener *l, cJSON *spec)
{
	const struct binding *b = find(rt, l->obj.name);

	if (b && b->plistener->proto->bound)
		b->plistener->proto->bound(b->plistener, spec);
}

/* ---- preparing ---- */

static const struct l7mp_listener *old_listener(const struct l7mp_change_item *item)
{
	return (const struct l7mp_listener *)item->old_object;
}

static const struct l7mp_listener *new_listener(const struct l7mp_change_item *item)
{
	return (const struct l7mp_listener *)item->new_object;
}

/* A replaced listener whose spec is what it was keeps its socket and only follows new rules. */
static bool keeps_socket(const struct l7mp_runtime *rt, const struct l7mp_change_item *item)
{
	return item->old_object && item->new_object && find(rt, item->old_object->name) &&
	       old_listener(item)->proto == new_listener(item)->proto &&
	       l7mp_json_equal(old_listener(item)->spec, new_listener(item)->spec);
}

static void find_retiring(const struct l7mp_runtime *rt, const struct l7mp_change *change,
                          struct work *w)
{
	for (size_t i = 0; i < l7mp_change_count(change); i++) {
		const struct l7mp_change_item *item = l7mp_change_item(change, i);
		const struct binding *b;

		if (item->kind != L7MP_OBJ_LISTENER || !item->old_object || keeps_socket(rt, item))
			continue;
		b = find(rt, item->old_object->name);
		if (b)
			w->retiring[w->n_retiring++] = b->plistener;
	}
}

static int listen_one(struct l7mp_runtime *rt, struct l7mp_listener *l, const struct work *w,
                      struct binding **out, struct l7mp_error *err)
{
	const struct l7mp_proto *proto = l7mp_proto_of(rt->env, l->proto);
	struct l7mp_listen params = {.env = rt->env,
	                             .name = l->obj.name,
	                             .spec = l->spec,
	                             .events = &l7mp_source_events,
	                             .retiring = w->same};
	struct binding *b;
	int rc;

	if (!proto || !proto->listen)
		return l7mp_error_set(err, -ENOTSUP, L7MP_ERR_REALISE, "protocol %s can't listen",
		                      l->proto->name);
	for (size_t i = 0; i < w->n_retiring; i++)
		if (w->retiring[i]->proto == proto)
			w->same[params.n_retiring++] = w->retiring[i];
	b = calloc(1, sizeof(*b));
	if (!b)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	b->name = strdup(l->obj.name);
	rc = b->name ? l7mp_source_new(rt->sessions, l, &b->source) : -ENOMEM;
	if (rc) {
		binding_free(&b);
		return l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "out of memory");
	}
	params.arg = b->source;
	rc = proto->listen(&params, &b->plistener, err);
	if (rc) {
		b->plistener = NULL;
		binding_free(&b);
		return rc;
	}
	*out = b;
	return 0;
}

/* Says which listener it was: "listeners[0].spec.port" or "listener 'name'.spec". */
static void place_error(const struct l7mp_change_item *item, int rc, struct l7mp_error *err)
{
	char within[128];

	if (err->code == L7MP_OK)
		l7mp_error_set(err, rc, L7MP_ERR_REALISE, "%s", strerror(-rc));
	snprintf(within, sizeof(within), "%s%.120s", err->path[0] ? "." : "", err->path);
	if (item->path && item->path[0])
		snprintf(err->path, sizeof(err->path), "%.120s.spec%s", item->path, within);
	else
		snprintf(err->path, sizeof(err->path), "listener '%.100s'%s",
		         item->new_object->name, within);
}

static int prepare(struct l7mp_runtime *rt, const struct l7mp_change *change, struct work *w,
                   struct l7mp_error *err)
{
	size_t n = l7mp_change_count(change);
	struct l7mp_error local = {.code = L7MP_OK};

	find_retiring(rt, change, w);
	for (size_t i = 0; i < n; i++) {
		const struct l7mp_change_item *item = l7mp_change_item(change, i);
		int rc;

		if (item->kind != L7MP_OBJ_LISTENER || !item->new_object || keeps_socket(rt, item))
			continue;
		rc = listen_one(rt, (struct l7mp_listener *)item->new_object, w, &w->fresh[i],
		                &local);
		if (!rc)
			continue;
		place_error(item, rc, &local);
		if (err)
			*err = local;
		while (i-- > 0)
			binding_free(&w->fresh[i]);
		return rc;
	}
	return 0;
}

/* ---- realising ---- */

/* New sockets take the place of the old ones in the table; what is replaced is left in w->fresh. */
static void swap(struct l7mp_runtime *rt, const struct l7mp_change *change, struct work *w)
{
	for (size_t i = 0; i < l7mp_change_count(change); i++) {
		const struct l7mp_change_item *item = l7mp_change_item(change, i);
		struct binding *old = NULL, *fresh = w->fresh[i];

		if (item->kind != L7MP_OBJ_LISTENER)
			continue;
		if (item->old_object)
			old = find(rt, item->old_object->name);
		if (old && item->new_object && !fresh) {
			l7mp_source_set_listener(old->source,
			                         (struct l7mp_listener *)item->new_object);
			continue;
		}
		if (old)
			HASH_DEL(rt->bindings, old);
		w->fresh[i] = old;
		if (!fresh)
			continue;
		HASH_ADD_KEYPTR(hh, rt->bindings, fresh->name, strlen(fresh->name), fresh);
		if (!fresh->hh.tbl) {
			/* No memory for the table: the commit stands, the listener is not served. */
			l7mp_log_error("runtime", "listener %s: out of memory", fresh->name);
			binding_free(&fresh);
			continue;
		}
		fresh->plistener->proto->activate(fresh->plistener);
	}
}

static void end_sessions(struct l7mp_runtime *rt, const struct l7mp_change *change)
{
	for (size_t i = 0; i < l7mp_change_count(change); i++) {
		const struct l7mp_change_item *item = l7mp_change_item(change, i);

		if (item->end_sessions && item->old_object)
			l7mp_sessions_end_using(rt->sessions, item->old_object);
		if (!item->new_object && item->old_object)
			l7mp_sessions_forget(rt->sessions, item->kind, item->old_object->name);
	}
}

int l7mp_runtime_apply(struct l7mp_runtime *rt, struct l7mp_change *change, struct l7mp_error *err)
{
	size_t n = l7mp_change_count(change);
	bool admin = l7mp_change_new_admin(change) != NULL;
	struct work w = {0};
	int rc = -ENOMEM;

	/* Arrays of pointers. */
	w.fresh = calloc(n + 1, sizeof(void *));
	w.retiring = calloc(n + 1, sizeof(void *));
	w.same = calloc(n + 1, sizeof(void *));
	if (!w.fresh || !w.retiring || !w.same)
		l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "out of memory");
	else
		rc = prepare(rt, change, &w, err);
	if (rc)
		goto out;
	l7mp_change_commit(change);
	swap(rt, change, &w);
	for (size_t i = 0; i < n; i++)
		binding_free(&w.fresh[i]);
	end_sessions(rt, change);
	if (admin && rt->on_admin)
		rt->on_admin(rt->on_admin_arg, l7mp_model_admin(rt->env->model));
out:
	free(w.fresh);
	free(w.retiring);
	free(w.same);
	return rc;
}
