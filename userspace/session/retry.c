/* SPDX-License-Identifier: MIT */
/*
 * Stages that were lost, and when they are retried.
 *
 * Attempts begin at least the route's timeout apart, so that an upstream that accepts and closes
 * again and again costs one connection per timeout; a stage that was connected for longer is
 * reconnected at once.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"
#include "l7mp/log.h"

static const struct l7mp_route *route(const struct session_stage *st)
{
	return st->s->lookup.route;
}

static bool up(const struct session_stage *st)
{
	return st->state == L7MP_STAGE_CONNECTED || st->state == L7MP_STAGE_READY;
}

static uint64_t delay(const struct session_stage *st)
{
	uint64_t now = l7mp_loop_now(session_loop(st->s));
	uint64_t gap = route(st)->timeout_ms ? route(st)->timeout_ms : 1;
	uint64_t due = st->attempt_ms + gap;

	return due > now ? due - now : 0;
}

/* Ends the session, which can't continue without this stage. */
static void give_up(struct session_stage *st, const struct l7mp_error *err)
{
	struct l7mp_session *s = st->s;
	unsigned tried = st->retries;
	/* A client that got a complete answer must not lose it to a reset. */
	bool orderly = err->code == L7MP_OK || stage_out(st)->shut;
	const char *why = err->message[0] ? err->message : "closed";
	char where[300];

	st->state = L7MP_STAGE_END;
	l7mp_stage_where(st, where, sizeof(where));
	if (tried)
		l7mp_session_finish(s, err, !orderly, "%s: %s (after %u %s)", where, why, tried,
		                    tried == 1 ? "retry" : "retries");
	else
		l7mp_session_finish(s, err, !orderly, "%s: %s", where, why);
}

static void schedule(struct session_stage *st, const struct l7mp_error *err, uint64_t delay_ms)
{
	struct l7mp_session *s = st->s;
	struct l7mp_error oom = {.code = L7MP_ERR_INTERNAL, .message = "out of memory"};

	st->retries++;
	st->state = L7MP_STAGE_DISCONNECTED;
	s->m->env->stats->retries++;
	l7mp_session_event(s, "RETRY", st->index, st->retries, err->message);
	l7mp_session_not_ready(s);
	if (l7mp_timer_start(session_loop(s), &st->timer, delay_ms))
		give_up(st, &oom);
}

/* A connected stage whose end was received, or that was shut down, has not failed: it is over. */
static bool is_over(const struct session_stage *st, bool lost)
{
	return lost && (stage_out(st)->shut || stage_in(st)->end);
}

/* Whether the stage may be retried. `lost`: it was connected until now. */
static bool may_retry(const struct session_stage *st, bool lost)
{
	enum l7mp_retry_on need = st->was_up ? L7MP_RETRY_DISCONNECT : L7MP_RETRY_CONNECT_FAILURE;

	if (!(route(st)->retry_on & need) || st->retries >= route(st)->num_retries)
		return false;
	return !is_over(st, lost);
}

/* Drops the connection, and keeps what waits for the next one. */
static bool disconnect(struct session_stage *st, bool abort)
{
	bool lost = up(st);

	l7mp_session_offload_remove(st->s, true);
	l7mp_stage_detach(st, abort);
	l7mp_timer_stop(session_loop(st->s), &st->timer);
	if (lost) {
		st->was_up = true;
		st->retries = 0;
		l7mp_session_event(st->s, "DISCONNECT", st->index, 0, NULL);
	}
	l7mp_object_unref(st->avoid);
	st->avoid = st->endpoint ? l7mp_object_ref(st->endpoint) : NULL;
	return lost;
}

static void fresh_pipes(struct session_stage *st)
{
	stage_in(st)->blocked = false;
	stage_in(st)->shut = false;
	stage_out(st)->end = false;
}

void l7mp_stage_lost(struct session_stage *st, const struct l7mp_error *err)
{
	bool lost;

	if (st->s->ending)
		return;
	lost = disconnect(st, err->code != L7MP_OK);
	if (!may_retry(st, lost)) {
		give_up(st, err);
		return;
	}
	fresh_pipes(st);
	schedule(st, err, delay(st));
}

void l7mp_stage_move(struct session_stage *st)
{
	struct l7mp_error err;
	bool lost;

	if (st->s->ending || st->index == 0)
		return;
	l7mp_error_set(&err, 0, L7MP_OK, "the endpoint was deleted");
	lost = disconnect(st, false);
	if (is_over(st, lost)) {
		give_up(st, &err);
		return;
	}
	fresh_pipes(st);
	/* The operator deleted the endpoint, so retry at once, whatever retry_on is. */
	schedule(st, &err, 0);
}

/* ---- the source ---- */

void l7mp_stage_source_lost(struct session_stage *st, const struct l7mp_error *err)
{
	struct l7mp_session *s = st->s;
	bool lost;

	if (s->ending)
		return;
	lost = disconnect(st, err->code != L7MP_OK);
	if (session_can_reopen(s) && may_retry(st, lost)) {
		fresh_pipes(st);
		schedule(st, err, delay(st));
		return;
	}
	st->state = L7MP_STAGE_END;
	if (err->code != L7MP_OK) {
		l7mp_session_finish(s, err, true, "source: %s", err->message);
		return;
	}
	/* What it sent before it closed is still delivered. */
	s->source_gone = true;
	s->active_ms = l7mp_loop_now(session_loop(s));
	l7mp_session_arm_idle(s);
	l7mp_pipe_clear(s, s->n - 1U);
	s->pipes[s->n - 1U].blocked = false;
	l7mp_pipe_end(s, 0, 0);
	l7mp_session_check_end(s);
}

static void reopen(struct session_stage *st)
{
	struct l7mp_session *s = st->s;
	struct l7mp_stream *stream = NULL;
	struct l7mp_error err;
	int rc;

	st->attempt_ms = l7mp_loop_now(session_loop(s));
	st->state = L7MP_STAGE_RETRYING;
	rc = session_can_reopen(s) ? s->reopen(s->reopen_arg, &stream) : -ESHUTDOWN;
	if (rc) {
		l7mp_error_set(&err, rc, L7MP_ERR_UPSTREAM, "can't be opened again: %s",
		               strerror(-rc));
		l7mp_stage_source_lost(st, &err);
		return;
	}
	l7mp_stage_attach(st, stream);
	st->state = L7MP_STAGE_CONNECTED;
	st->retries = 0;
	l7mp_session_check_ready(s);
}

void l7mp_stage_timer(struct l7mp_timer *timer, void *arg)
{
	struct session_stage *st = arg;
	struct l7mp_error err;

	(void)timer;
	if (st->s->ending)
		return;
	if (st->index == 0) {
		reopen(st);
		return;
	}
	if (!st->stream) {
		l7mp_stage_connect(st);
		return;
	}
	l7mp_error_set(&err, -ETIMEDOUT, L7MP_ERR_TIMEOUT, "not connected within %u ms",
	               route(st)->timeout_ms);
	l7mp_stage_lost(st, &err);
}
