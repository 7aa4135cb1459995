/* SPDX-License-Identifier: MIT */
/*
 * A session: its creation, states and end, and its idle timer. Its stages are in stage.c, the data
 * between them in pipe.c.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "l7mp/log.h"
#include "l7mp/util.h"

static const char *const session_states[L7MP_SESSION_STATES] = {"INIT", "CONNECTED", "DISCONNECTED",
                                                                "FINALIZING", "DESTROYED"};
static const char *const stage_states[] = {"INIT",         "CONNECTED", "READY",
                                           "DISCONNECTED", "RETRYING",  "END"};

const char *l7mp_session_state_name(enum l7mp_session_state state)
{
	return (unsigned)state < L7MP_SESSION_STATES ? session_states[state] : "unknown";
}

const char *l7mp_stage_state_name(enum l7mp_stage_state state)
{
	return (unsigned)state < L7MP_ARRAY_SIZE(stage_states) ? stage_states[state] : "unknown";
}

static void set_state(struct l7mp_session *s, enum l7mp_session_state state)
{
	s->m->counts[s->state]--;
	s->state = (uint8_t)state;
	s->m->counts[state]++;
}

/* ---- the idle timer ---- */

static int64_t idle_now(const struct l7mp_session *s)
{
	if ((s->linger || s->source_closed) && (!s->idle_ms || s->idle_ms > SESSION_LINGER_MS))
		return SESSION_LINGER_MS;
	return s->idle_ms;
}

void l7mp_session_arm_idle(struct l7mp_session *s)
{
	int64_t idle = idle_now(s);
	uint64_t now = l7mp_loop_now(session_loop(s)), due = s->active_ms + (uint64_t)idle;

	if (!idle || s->ending || s->draining)
		return;
	/* Without memory for the timer the session only lives longer. */
	(void)l7mp_timer_start(session_loop(s), &s->timer, due > now ? due - now : 0);
}

/* ---- end ---- */

static int http_status(enum l7mp_code code)
{
	switch (code) {
	case L7MP_ERR_UPSTREAM:
		return 502;
	case L7MP_ERR_TIMEOUT:
		return 504;
	case L7MP_ERR_LIMIT:
		return 503;
	case L7MP_ERR_NOT_FOUND:
		return 404;
	default:
		return 500;
	}
}

/* Reports the result of the set-up to a source that waits for it, once. */
static void answer(struct l7mp_session *s, int status, const char *message)
{
	struct l7mp_stream *source = s->stages[0].stream;
	const struct l7mp_stream *destination = s->stages[s->dest].stream;

	if (s->answered)
		return;
	s->answered = true;
	if (!source || !source->ops->result)
		return;
	/* Pass the subprotocol chosen by the destination's peer to the source's peer. */
	if (status == 200 && destination && destination->subprotocol && source->ops->subprotocol)
		source->ops->subprotocol(source, destination->subprotocol);
	source->ops->result(source, status, message);
	l7mp_admission_answered(s);
}

static void set_reason(struct l7mp_session *s, char *reason)
{
	if (!reason)
		return;
	free(s->reason);
	s->reason = reason;
}

static void log_end(const struct l7mp_session *s, bool failed)
{
	if (!failed)
		l7mp_log_verbose(SESSION_MODULE, "%s: ends: %s", s->name, s->reason);
	else if (l7mp_sessions_may_log(s->m))
		l7mp_log_warn(SESSION_MODULE, "%s: fails: %s", s->name, s->reason);
}

void l7mp_session_finish(struct l7mp_session *s, const struct l7mp_error *err, bool abort,
                         const char *fmt, ...)
{
	bool failed = err && err->code != L7MP_OK;
	char text[800];
	va_list ap;

	if (s->ending || s->frozen)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	set_reason(s, strdup(text));
	s->ending = true;
	s->draining = false;
	l7mp_session_unsplice(s);
	l7mp_session_offload_remove(s, false);
	l7mp_timer_stop(session_loop(s), &s->timer);
	for (unsigned i = 0; i < s->n; i++)
		l7mp_timer_stop(session_loop(s), &s->stages[i].timer);
	l7mp_session_event(s, failed ? "ERROR" : "END", -1, 0, text);
	log_end(s, failed);
	/* An error reply about the set-up must still reach the source, so it is not aborted. */
	s->abort =
	        abort && (s->answered || !s->stages[0].stream || !s->stages[0].stream->ops->result);
	answer(s, failed ? http_status(err->code) : 503, text);
	set_state(s, L7MP_SESSION_FINALIZING);
	l7mp_task_post(session_loop(s), &s->task);
}

void l7mp_session_stream_closed(struct l7mp_session *s)
{
	l7mp_task_post(session_loop(s), &s->task);
}

void l7mp_session_check_end(struct l7mp_session *s)
{
	const struct session_pipe *back = &s->pipes[s->n - 1U];
	const struct session_stage *source = &s->stages[0];
	bool all = true;

	if (s->ending)
		return;
	for (unsigned i = 0; i < s->n; i++)
		all = all && s->pipes[i].shut;
	if (all)
		l7mp_session_finish(s, NULL, false, "%s",
		                    s->draining && s->reason ? s->reason : "end of stream");
	else if (s->source_closed && s->pipes[s->dest - 1U].shut)
		l7mp_session_finish(s, NULL, false, "source closed");
	else if (back->shut && source->stream && source->stream->kind == L7MP_KIND_DATAGRAM)
		/* The source can't answer a half-close with another. */
		l7mp_session_finish(s, NULL, false, "destination closed");
}

/* ---- connected, or not ---- */

static void warn_kinds(struct l7mp_session *s)
{
	for (unsigned i = 0; i < s->n && !s->warned_kind; i++) {
		const struct session_stage *to = pipe_to(s, i);
		const struct l7mp_stream *from = s->stages[i].stream;

		if (!from || !to->stream || from->kind != L7MP_KIND_DATAGRAM ||
		    to->stream->kind != L7MP_KIND_STREAM)
			continue;
		s->warned_kind = true;
		l7mp_session_event(s, "WARNING", to->index, 0,
		                   "datagrams go into a byte stream: message boundaries are lost");
		if (l7mp_sessions_may_log(s->m))
			l7mp_log_warn(SESSION_MODULE,
			              "%s: datagrams go into a byte stream: message boundaries "
			              "are lost",
			              s->name);
	}
}

void l7mp_session_check_ready(struct l7mp_session *s)
{
	for (unsigned i = 0; i < s->n; i++) {
		const struct session_stage *st = &s->stages[i];

		if (st->index == 0 && s->source_closed)
			continue;
		if (st->state != L7MP_STAGE_CONNECTED && st->state != L7MP_STAGE_READY)
			return;
	}
	if (s->ending || s->state == L7MP_SESSION_CONNECTED)
		return;
	for (unsigned i = s->source_closed ? 1 : 0; i < s->n; i++)
		s->stages[i].state = L7MP_STAGE_READY;
	set_state(s, L7MP_SESSION_CONNECTED);
	if (!s->taken)
		l7mp_session_event(s, "CONNECT", -1, 0, NULL);
	s->taken = false;
	warn_kinds(s);
	answer(s, 200, "OK");
	for (unsigned i = 0; i < s->n && !s->ending && s->state == L7MP_SESSION_CONNECTED; i++)
		l7mp_pipe_flush(s, i);
	l7mp_session_flow_control(s);
}

void l7mp_session_not_ready(struct l7mp_session *s)
{
	if (s->state != L7MP_SESSION_CONNECTED)
		return;
	set_state(s, L7MP_SESSION_DISCONNECTED);
	l7mp_session_flow_control(s);
}

/* ---- ending and freeing a session ---- */

/* The session ends while it is being answered: an HTTP answer must not look complete. */
static void abort_answer(struct l7mp_session *s, const char *reason)
{
	struct l7mp_stream *source = s->stages[0].stream;

	if (source && source->request_response && source->ops->result && s->answered &&
	    !s->pipes[s->n - 1U].end)
		source->ops->result(source, 503, reason);
}

static void close_streams(struct l7mp_session *s)
{
	s->closing = true;
	for (unsigned i = 0; i < s->n; i++)
		l7mp_pipe_clear(s, i);
	for (unsigned i = 0; i < s->n; i++) {
		struct session_stage *st = &s->stages[i];
		const struct session_pipe *before = stage_in(st);

		if (!st->stream)
			continue;
		/* Pass on a close code that could not be passed on before. */
		if (before->end && !before->shut && !s->abort)
			l7mp_stream_shutdown(st->stream, before->code);
		l7mp_stream_close(st->stream, s->abort);
	}
}

/* Allows the owner of reopen_arg to create another session. */
static void release_source(struct l7mp_session *s)
{
	bool there = session_can_reopen(s);

	l7mp_source_put(&s->source);
	s->reopen = NULL;
	if (there && s->reopen_ended)
		s->reopen_ended(s->reopen_arg);
}

/* All streams are closed. */
static void destroyed(struct l7mp_session *s)
{
	struct l7mp_sessions *m = s->m;

	s->end_wall = l7mp_wallclock_ms();
	for (unsigned i = 0; i < s->n; i++) {
		s->stages[i].state = L7MP_STAGE_END;
		l7mp_stage_health_over(&s->stages[i], NULL);
	}
	set_state(s, L7MP_SESSION_DESTROYED);
	l7mp_admission_remove(s);
	m->env->stats->sessions_ended++;
	if (s->rtp && !s->given)
		l7mp_session_rtp_ended(s);
	if (m->ended && !s->given)
		m->ended(m->ended_arg, s);
	release_source(s);
	l7mp_sessions_track(s);
}

static bool streams_left(const struct l7mp_session *s)
{
	for (unsigned i = 0; i < s->n; i++)
		if (s->stages[i].stream)
			return true;
	return s->orphans > 0;
}

static void session_task(struct l7mp_task *task, void *arg)
{
	struct l7mp_session *s = arg;

	(void)task;
	/* Lent descriptors can't be closed: l7mp_session_unlent calls this again. */
	if (s->state != L7MP_SESSION_FINALIZING || s->lent)
		return;
	if (!s->closing)
		close_streams(s);
	if (!streams_left(s))
		destroyed(s);
}

/* Whether a request is being answered, so that the end should be delayed. */
static bool answering(const struct l7mp_session *s)
{
	const struct l7mp_stream *source = s->stages[0].stream;

	return source && source->ops->result && s->answered && s->pipes[0].end &&
	       !s->pipes[s->n - 1U].shut && s->state == L7MP_SESSION_CONNECTED;
}

void l7mp_session_end(struct l7mp_session *s, const char *reason)
{
	if (s->ending || s->draining)
		return;
	if (answering(s) && !l7mp_timer_start(session_loop(s), &s->timer, SESSION_DRAIN_MS)) {
		s->draining = true;
		set_reason(s, strdup(reason));
		return;
	}
	abort_answer(s, reason);
	l7mp_session_finish(s, NULL, false, "%s", reason);
}

/* ---- hand-over between processes ---- */

void l7mp_session_resume(struct l7mp_session *s)
{
	l7mp_session_arm_idle(s);
	l7mp_session_splice_later(s);
	if (s->state != L7MP_SESSION_CONNECTED) {
		l7mp_session_check_ready(s);
		return;
	}
	for (unsigned i = 0; i < s->n && !s->ending; i++)
		l7mp_pipe_flush(s, i);
	if (!s->ending)
		l7mp_session_flow_control(s);
}

void l7mp_session_given(struct l7mp_session *s)
{
	s->frozen = false;
	s->given = s->ending = s->closing = true;
	l7mp_timer_stop(session_loop(s), &s->timer);
	for (unsigned i = 0; i < s->n; i++) {
		l7mp_timer_stop(session_loop(s), &s->stages[i].timer);
		l7mp_pipe_clear(s, i);
	}
	set_state(s, L7MP_SESSION_FINALIZING);
	l7mp_task_post(session_loop(s), &s->task);
}

void l7mp_session_unlent(struct l7mp_session *s)
{
	if (s->ending) {
		l7mp_task_post(session_loop(s), &s->task);
		return;
	}
	l7mp_session_flow_control(s);
	for (unsigned i = 1; i < s->n && !s->ending; i++) {
		if (!s->stages[i].move)
			continue;
		s->stages[i].move = false;
		l7mp_stage_move(&s->stages[i]);
	}
}

/* ---- timers, and freeing ---- */

void l7mp_session_free(struct l7mp_session *s)
{
	struct l7mp_sessions *m = s->m;

	if (s->prev)
		DL_DELETE(m->tracked, s);
	l7mp_timer_stop(m->env->loop, &s->timer);
	l7mp_task_cancel(m->env->loop, &s->task);
	for (unsigned i = 0; i < s->n; i++)
		l7mp_stage_release(&s->stages[i]);
	m->counts[s->state]--;
	l7mp_buf_pool_charge(l7mp_loop_bufs(m->env->loop), -(ptrdiff_t)s->cost);
	l7mp_cursors_leave(s);
	HASH_DEL(m->by_name, s);
	l7mp_session_events_clear(s);
	l7mp_lookup_clear(&s->lookup);
	l7mp_object_unref(s->listener);
	cJSON_Delete(s->metadata);
	free(s->rtp);
	free(s->reason);
	free(s->name);
	free(s);
}

static void idle_check(struct l7mp_session *s)
{
	uint64_t now = l7mp_loop_now(session_loop(s));
	uint64_t idle = (uint64_t)idle_now(s);

	/*
	 * Check with the counters of the last poll first; query the kernel only before the session
	 * would end.
	 */
	l7mp_session_offload_sync(s, false);
	if (now >= s->active_ms + idle)
		l7mp_session_offload_sync(s, true);
	/* Data of a source that has closed is kept while the destination is retried. */
	if (s->source_closed && s->state != L7MP_SESSION_CONNECTED)
		s->active_ms = now;
	if (now < s->active_ms + idle) {
		l7mp_session_arm_idle(s);
		return;
	}
	if (s->source_closed)
		l7mp_session_finish(s, NULL, false, "source closed");
	else if (s->linger)
		l7mp_session_finish(s, NULL, false, "source finished, no more answers");
	else
		l7mp_session_finish(s, NULL, false, "idle for %llu s",
		                    (unsigned long long)(idle / 1000));
}

static void session_timer(struct l7mp_timer *timer, void *arg)
{
	struct l7mp_session *s = arg;

	(void)timer;
	if (s->state == L7MP_SESSION_DESTROYED)
		l7mp_session_free(s);
	else if (s->draining) {
		abort_answer(s, s->reason ? s->reason : "ended");
		l7mp_session_finish(s, NULL, false, "%s", s->reason ? s->reason : "ended");
	} else if (!s->ending)
		idle_check(s);
}

/* ---- creating a session ---- */

struct l7mp_session *l7mp_session_new(struct l7mp_sessions *m, const struct l7mp_route *r)
{
	size_t n = 2 + r->n_ingress + r->n_egress;
	unsigned at = 0;
	struct l7mp_session *s;

	s = calloc(1, sizeof(*s) + n * (sizeof(s->stages[0]) + sizeof(s->pipes[0])));
	if (!s)
		return NULL;
	s->m = m;
	s->n = (uint16_t)n;
	s->dest = (uint16_t)(1 + r->n_ingress);
	s->pipes = (struct session_pipe *)&s->stages[n];
	l7mp_stage_init(s, at++, NULL);
	for (size_t i = 0; i < r->n_ingress; i++)
		l7mp_stage_init(s, at++, r->ingress[i]);
	l7mp_stage_init(s, at++, r->destination);
	for (size_t i = 0; i < r->n_egress; i++)
		l7mp_stage_init(s, at++, r->egress[i]);
	l7mp_timer_init(&s->timer, session_timer, s);
	l7mp_task_init(&s->task, session_task, s);
	return s;
}

void l7mp_session_begin(struct l7mp_session *s, struct l7mp_stream *source)
{
	s->stages[0].state = L7MP_STAGE_CONNECTED;
	s->stages[0].attempt_ms = s->start_ms;
	l7mp_stage_attach(&s->stages[0], source);
	l7mp_session_event(s, "INIT", -1, 0,
	                   s->restore ? "restored from a previous process" : NULL);
	l7mp_session_arm_idle(s);
	for (unsigned i = 1; i < s->n && !s->ending; i++)
		l7mp_stage_connect(&s->stages[i]);
}
