/* SPDX-License-Identifier: MIT */
/*
 * The set of sessions: look-up, cursors, counts per object, the list of ended sessions, ending all
 * sessions or those of deleted objects.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "internal.h"
#include "l7mp/log.h"
#include "l7mp/util.h"

#define LOG_INTERVAL_MS 10000
#define LOG_BURST       20

/* ---- cursors ---- */

/* A session has a list of the cursors that point to it; they advance when it is freed. */

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

/* ---- ending all ---- */

/* Ends one session; aborts it when the grace time is over. */
static void end_one(struct l7mp_session *s, bool abort)
{
	if (!abort) {
		l7mp_session_end(s, "shutdown");
		return;
	}
	s->draining = false;
	l7mp_session_finish(s, NULL, true, "shutdown");
	s->abort = true;
	l7mp_session_offload_abort(s);
	for (unsigned i = 0; s->closing && i < s->n; i++)
		if (s->stages[i].stream)
			l7mp_stream_close(s->stages[i].stream, true);
}

static void end_some(struct l7mp_slice *slice, void *arg)
{
	struct l7mp_sessions *m = arg;
	struct l7mp_session *s;

	while ((s = l7mp_cursor_next(&m->end_walk))) {
		if (s->state == L7MP_SESSION_DESTROYED)
			l7mp_session_free(s); /* it is removed from the list of ended sessions */
		else
			end_one(s, m->end_abort);
		if (l7mp_slice_over(m->env->loop)) {
			l7mp_slice_post(m->env->loop, slice);
			return;
		}
	}
	l7mp_cursor_close(&m->end_walk);
	m->end_walking = false;
	if (!m->usage.live)
		l7mp_task_post(m->env->loop, &m->done_task);
}

/* Starts or restarts ending all sessions. */
static void end_all(struct l7mp_sessions *m, bool abort)
{
	m->end_abort = abort;
	m->end_walking = true;
	l7mp_cursor_close(&m->end_walk);
	l7mp_cursor_open(&m->end_walk, m);
	l7mp_slice_post(m->env->loop, &m->end_slice);
}

static void grace_over(struct l7mp_timer *timer, void *arg)
{
	(void)timer;
	end_all(arg, true);
}

static void all_done(struct l7mp_task *task, void *arg)
{
	struct l7mp_sessions *m = arg;
	void (*done)(void *arg) = m->done;

	(void)task;
	m->done = NULL;
	l7mp_timer_stop(m->env->loop, &m->grace);
	l7mp_slice_cancel(m->env->loop, &m->end_slice);
	l7mp_cursor_close(&m->end_walk);
	if (done)
		done(m->done_arg);
}

int l7mp_sessions_new(const struct l7mp_sessions_params *params, struct l7mp_sessions **out)
{
	struct l7mp_sessions *m = calloc(1, sizeof(*m));
	int rc;

	if (!m)
		return -ENOMEM;
	m->env = params->env;
	m->offload = params->offload;
	m->ended = params->ended;
	m->ended_arg = params->arg;
	m->probe_fd = eventfd(0, EFD_CLOEXEC);
	l7mp_timer_init(&m->grace, grace_over, m);
	l7mp_task_init(&m->done_task, all_done, m);
	l7mp_slice_init(&m->end_slice, end_some, m);
	rc = l7mp_sessions_offload_init(m);
	if (rc) {
		if (m->probe_fd >= 0)
			close(m->probe_fd);
		free(m);
		return rc;
	}
	*out = m;
	return 0;
}

void l7mp_sessions_free(struct l7mp_sessions **pp)
{
	struct l7mp_sessions *m = *pp;
	struct session_counter *c;

	if (!m)
		return;
	*pp = NULL;
	while (m->tracked)
		l7mp_session_free(m->tracked);
	l7mp_timer_stop(m->env->loop, &m->grace);
	l7mp_task_cancel(m->env->loop, &m->done_task);
	l7mp_slice_cancel(m->env->loop, &m->end_slice);
	l7mp_cursor_close(&m->end_walk);
	l7mp_sessions_offload_free(m);
	c = m->counters;
	HASH_CLEAR(hh, m->counters);
	while (c) {
		struct session_counter *next = c->hh.next;

		free(c);
		c = next;
	}
	if (m->probe_fd >= 0)
		close(m->probe_fd);
	free(m);
}

void l7mp_sessions_watch(struct l7mp_sessions *m, const struct l7mp_watch_ops *ops, void *arg)
{
	m->watch = ops;
	m->watch_arg = arg;
}

void l7mp_sessions_shutdown(struct l7mp_sessions *m, uint64_t grace_ms, void (*done)(void *arg),
                            void *arg)
{
	m->shutting = true;
	m->done = done;
	m->done_arg = arg;
	end_all(m, false);
	if (l7mp_timer_start(m->env->loop, &m->grace, grace_ms))
		end_all(m, true);
}

bool l7mp_sessions_may_log(struct l7mp_sessions *m)
{
	uint32_t left_out = 0;
	bool may = l7mp_log_allowed(&m->log_limit, l7mp_loop_now(m->env->loop), LOG_INTERVAL_MS,
	                            LOG_BURST, &left_out);

	if (may && left_out)
		l7mp_log_warn(SESSION_MODULE, "%u records about sessions were left out", left_out);
	return may;
}

/* ---- counters per object ---- */

static struct session_counter *counter_find(const struct l7mp_sessions *m, enum l7mp_obj_kind kind,
                                            const char *name, char **key)
{
	struct session_counter *c = NULL;

	*key = l7mp_asprintf("%c%s", '0' + (int)kind, name);
	if (*key)
		HASH_FIND(hh, m->counters, *key, strlen(*key), c);
	return c;
}

void l7mp_sessions_counted(struct l7mp_sessions *m, enum l7mp_obj_kind kind, const char *name,
                           const char *protocol)
{
	char *key;
	struct session_counter *c = counter_find(m, kind, name, &key);
	size_t len = key ? strlen(key) : 0;

	if (!c && key && (c = calloc(1, sizeof(*c) + len + 1))) {
		memcpy(c->key, key, len + 1);
		HASH_ADD_KEYPTR(hh, m->counters, c->key, len, c);
		if (!c->hh.tbl) {
			free(c);
			c = NULL;
		}
	}
	free(key);
	if (!c)
		return;
	c->protocol = protocol;
	c->count++;
}

void l7mp_sessions_forget(struct l7mp_sessions *m, enum l7mp_obj_kind kind, const char *name)
{
	char *key;
	struct session_counter *c = counter_find(m, kind, name, &key);

	free(key);
	if (!c)
		return;
	HASH_DEL(m->counters, c);
	free(c);
}

bool l7mp_sessions_counter(const struct l7mp_sessions *m, enum l7mp_obj_kind kind, const char *name,
                           const char **protocol, uint64_t *count)
{
	char *key;
	const struct session_counter *c = counter_find(m, kind, name, &key);

	free(key);
	if (!c)
		return false;
	*protocol = c->protocol;
	*count = c->count;
	return true;
}

/* ---- look-up ---- */

size_t l7mp_sessions_count(const struct l7mp_sessions *m, enum l7mp_session_state state)
{
	return (unsigned)state < L7MP_SESSION_STATES ? m->counts[state] : 0;
}

struct l7mp_session *l7mp_sessions_find(const struct l7mp_sessions *m, const char *name)
{
	struct l7mp_session *s;

	HASH_FIND_STR(m->by_name, name, s);
	return s;
}

struct l7mp_session *l7mp_sessions_first(const struct l7mp_sessions *m)
{
	return m->by_name;
}

struct l7mp_session *l7mp_sessions_next(const struct l7mp_session *s)
{
	return s->hh.next;
}

uint64_t l7mp_session_id(const struct l7mp_session *s)
{
	return s->id;
}

const char *l7mp_session_name(const struct l7mp_session *s)
{
	return s->name;
}

const cJSON *l7mp_session_metadata(const struct l7mp_session *s)
{
	return s->metadata;
}

struct l7mp_flow *l7mp_session_flow(const struct l7mp_session *s)
{
	return s->flow;
}

/* ---- ended sessions ---- */

/* Keeps an ended session in the list, or frees it. */
void l7mp_sessions_track(struct l7mp_session *s)
{
	struct l7mp_sessions *m = s->m;
	uint32_t ms = s->listener->track_ms;

	if (!m->usage.live && m->shutting && !m->end_walking)
		l7mp_task_post(m->env->loop, &m->done_task);
	if (!ms || m->shutting || s->given || l7mp_timer_start(m->env->loop, &s->timer, ms)) {
		l7mp_session_free(s);
		return;
	}
	DL_APPEND(m->tracked, s);
	/* Ended sessions are limited like others: the oldest are dropped. */
	while (m->counts[L7MP_SESSION_DESTROYED] > m->env->limits->max_sessions)
		l7mp_session_free(m->tracked);
}

/* ---- ending the sessions of deleted objects ---- */

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
