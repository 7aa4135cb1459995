/* SPDX-License-Identifier: MIT */
/*
 * Iterations over all sessions in slices: the cursor, and ending the sessions of deleted objects. A
 * session has a list of the cursors at it, which move on when it is freed.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* ---- walks ---- */

static void cursor_put(struct l7mp_session_cursor *c, struct l7mp_session *s)
{
	c->at = s && s->id <= c->last ? s : NULL;
	if (c->at)
		DL_APPEND(c->at->cursors, c);
}

void l7mp_cursor_open(struct l7mp_session_cursor *c, struct l7mp_sessions *m)
{
	*c = (struct l7mp_session_cursor){.m = m, .last = m->last_id};
	cursor_put(c, m->by_name);
}

struct l7mp_session *l7mp_cursor_next(struct l7mp_session_cursor *c)
{
	struct l7mp_session *s = c->at;

	if (!s)
		return NULL;
	DL_DELETE(s->cursors, c);
	cursor_put(c, s->hh.next);
	return s;
}

void l7mp_cursor_copy(struct l7mp_session_cursor *c, const struct l7mp_session_cursor *from)
{
	*c = (struct l7mp_session_cursor){.m = from->m, .last = from->last};
	cursor_put(c, from->at);
}

void l7mp_cursor_limit(struct l7mp_session_cursor *c, uint64_t last)
{
	if (last < c->last)
		c->last = last;
	if (c->at && c->at->id > c->last)
		l7mp_cursor_close(c);
}

void l7mp_cursor_close(struct l7mp_session_cursor *c)
{
	if (c->at)
		DL_DELETE(c->at->cursors, c);
	c->at = NULL;
}

void l7mp_cursors_leave(struct l7mp_session *s)
{
	while (s->cursors)
		(void)l7mp_cursor_next(s->cursors);
}

/* ---- ending by object ---- */

struct ender_name {
	UT_hash_handle hh;
	const struct l7mp_object *object; /* the key is its name */
};

struct l7mp_session_ender {
	struct l7mp_session_cursor cursor;
	struct ender_name *names[L7MP_OBJ_KINDS];
	char *spared;
};

int l7mp_ender_new(struct l7mp_sessions *m, struct l7mp_session_ender **out)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	l7mp_cursor_open(&(*out)->cursor, m);
	return 0;
}

static const struct l7mp_object *ender_find(const struct l7mp_session_ender *e,
                                            enum l7mp_obj_kind kind, const char *name)
{
	const struct ender_name *n = NULL;

	if (name && e->names[kind])
		HASH_FIND_STR(e->names[kind], name, n);
	return n ? n->object : NULL;
}

int l7mp_ender_add(struct l7mp_session_ender *e, const struct l7mp_object *object)
{
	struct ender_name *n;

	if (ender_find(e, object->kind, object->name))
		return 0;
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->object = object;
	HASH_ADD_KEYPTR(hh, e->names[object->kind], object->name, strlen(object->name), n);
	if (n->hh.tbl)
		return 0;
	free(n);
	return -ENOMEM;
}

void l7mp_ender_spare(struct l7mp_session_ender *e, const char *name)
{
	free(e->spared);
	e->spared = name ? strdup(name) : NULL;
}

static const char *name_of(const void *object)
{
	return object ? ((const struct l7mp_object *)object)->name : NULL;
}

/* Returns the first of the objects that the session uses, except for endpoints. */
static const struct l7mp_object *used(const struct l7mp_session_ender *e,
                                      const struct l7mp_session *s)
{
	const struct l7mp_object *o;

	o = ender_find(e, L7MP_OBJ_LISTENER, name_of(s->listener));
	if (!o)
		o = ender_find(e, L7MP_OBJ_RULELIST, name_of(s->lookup.rulelist));
	if (!o)
		o = ender_find(e, L7MP_OBJ_RULELIST, s->listener->rules);
	if (!o)
		o = ender_find(e, L7MP_OBJ_RULE, name_of(s->lookup.rule));
	if (!o)
		o = ender_find(e, L7MP_OBJ_ROUTE, name_of(s->lookup.route));
	for (unsigned i = 1; !o && i < s->n; i++)
		o = ender_find(e, L7MP_OBJ_CLUSTER, s->stages[i].cluster);
	return o;
}

static void ender_end(const struct l7mp_session_ender *e, struct l7mp_session *s)
{
	const struct l7mp_object *o;
	char reason[300];

	if (s->ending)
		return;
	o = used(e, s);
	if (o) {
		snprintf(reason, sizeof(reason), "%s '%s' was deleted", l7mp_obj_kind_name(o->kind),
		         o->name);
		l7mp_session_end(s, reason);
		return;
	}
	for (unsigned i = 1; e->names[L7MP_OBJ_ENDPOINT] && i < s->n && !s->ending; i++)
		if (s->stages[i].stream &&
		    ender_find(e, L7MP_OBJ_ENDPOINT, name_of(s->stages[i].endpoint)))
			l7mp_stage_move(&s->stages[i]);
}

static bool ender_is_empty(const struct l7mp_session_ender *e)
{
	for (int k = 0; k < L7MP_OBJ_KINDS; k++)
		if (e->names[k])
			return false;
	return true;
}

bool l7mp_ender_step(struct l7mp_session_ender *e)
{
	struct l7mp_session *s = ender_is_empty(e) ? NULL : l7mp_cursor_next(&e->cursor);

	if (!s)
		return false;
	if (!e->spared || strcmp(s->name, e->spared) != 0)
		ender_end(e, s);
	return true;
}

void l7mp_ender_finish(struct l7mp_session_ender *e)
{
	struct l7mp_session *s = e->spared ? l7mp_sessions_find(e->cursor.m, e->spared) : NULL;

	if (s)
		ender_end(e, s);
	l7mp_cursor_close(&e->cursor);
}

void l7mp_ender_free(struct l7mp_session_ender **pp)
{
	struct l7mp_session_ender *e = *pp;

	if (!e)
		return;
	*pp = NULL;
	for (int k = 0; k < L7MP_OBJ_KINDS; k++) {
		struct ender_name *n = e->names[k];

		HASH_CLEAR(hh, e->names[k]);
		while (n) {
			struct ender_name *next = n->hh.next;

			free(n);
			n = next;
		}
	}
	free(e->spared);
	free(e);
}
