/* SPDX-License-Identifier: MIT */
/* The set of sessions: look-up, counts per source address and per object, ending all. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"
#include "l7mp/log.h"
#include "l7mp/util.h"

#define LOG_INTERVAL_MS 10000
#define LOG_BURST       20

/* Ends one session, or, when the grace time is over, aborts it. */
static void end_one(struct l7mp_session *s, bool abort)
{
	if (!abort) {
		l7mp_session_end(s, "shutdown");
		return;
	}
	s->draining = false;
	l7mp_session_finish(s, NULL, true, "shutdown");
	s->abort = true;
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
			l7mp_session_free(s); /* it will not be listed any more */
		else
			end_one(s, m->end_abort);
		if (l7mp_slice_over(m->env->loop)) {
			l7mp_slice_post(m->env->loop, slice);
			return;
		}
	}
	l7mp_cursor_close(&m->end_walk);
	m->end_walking = false;
	if (!m->room.live)
		l7mp_task_post(m->env->loop, &m->done_task);
}

/* Starts, or restarts, to end all sessions. */
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
	m->probe_fd = l7mp_room_probe_new();
	l7mp_timer_init(&m->grace, grace_over, m);
	l7mp_timer_init(&m->verdict_timer, l7mp_session_verdicts, m);
	l7mp_task_init(&m->done_task, all_done, m);
	l7mp_slice_init(&m->end_slice, end_some, m);
	l7mp_slice_init(&m->retry_slice, l7mp_session_retry_some, m);
	rc = l7mp_timer_reserve(m->env->loop, &m->verdict_timer);
	if (rc) {
		l7mp_timer_give_back(m->env->loop, &m->verdict_timer);
		if (m->probe_fd >= 0)
			close(m->probe_fd);
		free(m);
		return rc;
	}
	if (m->offload && m->offload->subscribe)
		m->offload->subscribe(m->offload->ctx, &l7mp_session_offload_events, m);
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
	l7mp_timer_give_back(m->env->loop, &m->verdict_timer);
	l7mp_task_cancel(m->env->loop, &m->done_task);
	l7mp_slice_cancel(m->env->loop, &m->end_slice);
	l7mp_slice_cancel(m->env->loop, &m->retry_slice);
	l7mp_cursor_close(&m->end_walk);
	l7mp_cursor_close(&m->retry_walk);
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

/* ---- per source address ---- */

/* Sessions of one IPv4 address, or of one IPv6 /64, count together. */
static bool peer_key(const struct l7mp_addr *addr, bool forgeable, uint8_t key[static 10])
{
	memset(key, 0, 10);
	key[0] = (uint8_t)l7mp_addr_family(addr);
	key[1] = forgeable;
	switch (l7mp_addr_family(addr)) {
	case AF_INET:
		memcpy(key + 2, &addr->in.sin_addr, 4);
		return true;
	case AF_INET6:
		memcpy(key + 2, &addr->in6.sin6_addr, 8);
		return true;
	default:
		return false;
	}
}

struct session_peer *l7mp_session_peer_find(struct l7mp_sessions *m, const struct l7mp_addr *addr,
                                            bool forgeable)
{
	struct session_peer *p = NULL;
	uint8_t key[sizeof(p->key)];

	if (peer_key(addr, forgeable, key))
		HASH_FIND(hh, m->peers, key, sizeof(key), p);
	return p;
}

int l7mp_session_peer_get(struct l7mp_sessions *m, const struct l7mp_addr *addr, bool forgeable,
                          struct session_peer **out)
{
	struct session_peer *p;
	uint8_t key[sizeof(p->key)];

	*out = NULL;
	if (!peer_key(addr, forgeable, key))
		return 0;
	HASH_FIND(hh, m->peers, key, sizeof(key), p);
	if (!p) {
		p = calloc(1, sizeof(*p));
		if (!p)
			return -ENOMEM;
		memcpy(p->key, key, sizeof(key));
		HASH_ADD(hh, m->peers, key, sizeof(p->key), p);
		if (!p->hh.tbl) {
			free(p);
			return -ENOMEM;
		}
	}
	p->room.live++;
	*out = p;
	return 0;
}

void l7mp_session_peer_put(struct l7mp_sessions *m, struct session_peer **pp)
{
	struct session_peer *p = *pp;

	*pp = NULL;
	if (!p || --p->room.live)
		return;
	HASH_DEL(m->peers, p);
	free(p);
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

/* ---- looking ---- */

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

	if (!m->room.live && m->shutting && !m->end_walking)
		l7mp_task_post(m->env->loop, &m->done_task);
	if (!ms || m->shutting || l7mp_timer_start(m->env->loop, &s->timer, ms)) {
		l7mp_session_free(s);
		return;
	}
	DL_APPEND(m->tracked, s);
	/* Ended sessions are bounded like others: the oldest are dropped. */
	while (m->counts[L7MP_SESSION_DESTROYED] > m->env->limits->max_sessions)
		l7mp_session_free(m->tracked);
}
