/* SPDX-License-Identifier: MIT */
/*
 * A session: its events, pipes, stages with their attempts to connect, states, and end. Functions
 * follow those that they call.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "l7mp/log.h"
#include "l7mp/stream_io.h"
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

/* ---- events ---- */

/*
 * The ring of a session's events is allocated with the first event and grows on demand, so that
 * most sessions need little memory. It is bounded: the oldest events are dropped.
 */

#define EVENTS_FIRST 4
#define TEXT_MAX     400

static struct session_event *event_slot(struct l7mp_session *s)
{
	struct session_event *grown;
	unsigned cap;

	if (s->n_events == SESSION_EVENTS_MAX) {
		struct session_event *oldest = &s->events[s->first_event];

		free(oldest->text);
		s->first_event = (uint8_t)((s->first_event + 1) % SESSION_EVENTS_MAX);
		return oldest;
	}
	if (s->n_events == s->cap_events) {
		cap = s->cap_events ? 2U * s->cap_events : EVENTS_FIRST;
		if (cap > SESSION_EVENTS_MAX)
			cap = SESSION_EVENTS_MAX;
		grown = realloc(s->events, cap * sizeof(*grown));
		if (!grown)
			return NULL;
		s->events = grown;
		s->cap_events = (uint8_t)cap;
	}
	return &s->events[s->n_events++];
}

/* Adds an event. `name` is static; `text` may be NULL. */
static void event_add(struct l7mp_session *s, const char *name, int stage, unsigned attempt,
                      const char *text)
{
	struct session_event *e = event_slot(s);

	if (!e)
		return;
	*e = (struct session_event){
	        .time = l7mp_wallclock_ms(),
	        .name = name,
	        .stage = (int16_t)stage,
	        .attempt = (uint16_t)(attempt > UINT16_MAX ? UINT16_MAX : attempt),
	        .text = text ? l7mp_asprintf("%.*s", TEXT_MAX, text) : NULL,
	};
	e->detail = e->text;
}

/* Adds an event NOTICE of a stream; `name` is copied. */
static void event_notice(struct l7mp_session *s, int stage, const char *name, const char *text)
{
	struct session_event *e = event_slot(s);
	size_t name_len = strnlen(name, TEXT_MAX), text_len = text ? strnlen(text, TEXT_MAX) : 0;

	if (!e)
		return;
	*e = (struct session_event){
	        .time = l7mp_wallclock_ms(), .name = "NOTICE", .stage = (int16_t)stage};
	e->text = calloc(1, name_len + text_len + 2);
	if (!e->text)
		return;
	memcpy(e->text, name, name_len);
	if (text)
		memcpy(e->text + name_len + 1, text, text_len);
	e->name = e->text;
	e->detail = text ? e->text + name_len + 1 : NULL;
}

static void events_clear(struct l7mp_session *s)
{
	for (unsigned i = 0; i < s->n_events; i++)
		free(s->events[i].text);
	free(s->events);
	s->events = NULL;
	s->n_events = s->cap_events = s->first_event = 0;
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

/* Returns the byte stream that can be spliced from or to; NULL: none. */
static struct l7mp_stream_io *plain_of(const struct session_stage *st)
{
	return st->stream && st->stream->ops->plain ? st->stream->ops->plain(st->stream) : NULL;
}

/* Ends splicing in both directions: data read from now on must pass through the session. */
static void end_splicing(struct l7mp_session *s)
{
	for (unsigned i = 0; i < s->n; i++) {
		struct l7mp_stream_io *io = plain_of(&s->stages[i]);

		if (io)
			l7mp_stream_io_unsplice(io);
	}
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
	end_splicing(s);
	l7mp_session_offload_remove(s, false);
	l7mp_timer_stop(session_loop(s), &s->timer);
	for (unsigned i = 0; i < s->n; i++)
		l7mp_timer_stop(session_loop(s), &s->stages[i].timer);
	event_add(s, failed ? "ERROR" : "END", -1, 0, text);
	log_end(s, failed);
	/* An error reply about the set-up must still reach the source, so it is not aborted. */
	s->abort =
	        abort && (s->answered || !s->stages[0].stream || !s->stages[0].stream->ops->result);
	answer(s, failed ? http_status(err->code) : 503, text);
	set_state(s, L7MP_SESSION_FINALIZING);
	l7mp_task_post(session_loop(s), &s->task);
}

/* A stream emitted `closed` while the session is ending. */
static void closed_one(struct l7mp_session *s)
{
	l7mp_task_post(session_loop(s), &s->task);
}

/* A direction has ended: ends the session when both have. */
static void check_end(struct l7mp_session *s)
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
	else if (s->source_gone && s->pipes[s->dest - 1U].shut)
		l7mp_session_finish(s, NULL, false, "source closed");
	else if (back->shut && source->stream && source->stream->kind == L7MP_KIND_DATAGRAM)
		/* The source can't answer a half-close with another. */
		l7mp_session_finish(s, NULL, false, "destination closed");
}

/* ---- the idle timer ---- */

static int64_t idle_now(const struct l7mp_session *s)
{
	if ((s->linger || s->source_gone) && (!s->idle_ms || s->idle_ms > SESSION_LINGER_MS))
		return SESSION_LINGER_MS;
	return s->idle_ms;
}

/*
 * The timer is not re-armed for each packet: when it fires, it compares the time of the last packet
 * and waits for the rest.
 */
static void arm_idle(struct l7mp_session *s)
{
	int64_t idle = idle_now(s);
	uint64_t now = l7mp_loop_now(session_loop(s)), due = s->active_ms + (uint64_t)idle;

	if (!idle || s->ending || s->draining)
		return;
	/* Without memory for the timer the session only lives longer. */
	(void)l7mp_timer_start(session_loop(s), &s->timer, due > now ? due - now : 0);
}

/* ---- pipes ---- */

/*
 * Data that a stage emits is written to the next one at once, or queued in order until the next
 * stage is ready and accepts it.
 *
 * A stage's stream is paused while the session is not complete and while the following pipe is
 * full. Data that still arrives is queued: from a datagram stage at most limits.max_queue bytes per
 * pipe, the rest is dropped and counted; from a byte stream all of it (at most one read, by the
 * contract of streams).
 */

/* The minimum charge for a queued datagram, which bounds the number of empty ones. */
#define CHARGE_MIN 64
/*
 * Exceeding the limit by this much ends the session: a byte stream that ignores a pause indicates a
 * bug or an attack.
 */
#define STREAM_SLACK (16U << 20)
/* The largest datagram for stages without a limit of their own: UDP over IPv4. */
#define SPLIT_DEFAULT 65507U

static uint32_t charge(const struct l7mp_buf *buf)
{
	return buf->len > CHARGE_MIN ? buf->len : CHARGE_MIN;
}

static bool stage_ready(const struct session_stage *st)
{
	return st->stream && st->state == L7MP_STAGE_READY;
}

static bool from_stream(const struct l7mp_session *s, unsigned i)
{
	const struct l7mp_stream *from = s->stages[i].stream;

	return from && from->kind == L7MP_KIND_STREAM;
}

static void drop(struct l7mp_session *s, enum l7mp_drop reason, uint64_t packets, uint64_t bytes)
{
	s->drops += packets;
	l7mp_stats_drop(s->m->env->stats, reason, packets, bytes);
}

static void drop_buf(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf,
                     enum l7mp_drop reason)
{
	if (!from_stream(s, i))
		drop(s, reason, 1, buf->len);
	l7mp_buf_unref(buf);
}

static void queue_append(struct session_pipe *p, struct l7mp_buf *buf)
{
	buf->next = NULL;
	p->bytes += charge(buf);
	if (p->head)
		p->tail->next = buf;
	else
		p->head = buf;
	p->tail = buf;
}

static void queue_prepend(struct session_pipe *p, struct l7mp_buf *buf)
{
	p->bytes += charge(buf);
	buf->next = p->head;
	if (!p->head)
		p->tail = buf;
	p->head = buf;
}

static struct l7mp_buf *queue_take(struct session_pipe *p)
{
	struct l7mp_buf *buf = p->head;

	p->head = buf->next;
	if (!p->head)
		p->tail = NULL;
	buf->next = NULL;
	p->bytes -= charge(buf);
	return buf;
}

static void enqueue(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf)
{
	struct session_pipe *p = &s->pipes[i];
	uint64_t max = s->m->env->limits->max_queue;
	struct l7mp_error err = {.code = L7MP_ERR_LIMIT};
	struct l7mp_buf *small;
	uint32_t len = buf->len;

	if (!from_stream(s, i)) {
		if ((uint64_t)p->bytes + charge(buf) > max) {
			s->m->env->stats->refusals[L7MP_REFUSE_MAX_QUEUE]++;
			drop_buf(s, i, buf, L7MP_DROP_QUEUE);
			return;
		}
		if (l7mp_memory_short(s->m->env, buf->len)) {
			s->m->env->stats->refusals[L7MP_REFUSE_MAX_MEMORY]++;
			drop_buf(s, i, buf, L7MP_DROP_MEMORY);
			return;
		}
	} else if ((uint64_t)p->bytes + charge(buf) > max + STREAM_SLACK) {
		l7mp_buf_unref(buf);
		l7mp_session_finish(s, &err, true, "a stage does not stop sending to a full pipe");
		return;
	}
	/* Queued data must not keep the large buffer in which it was received. */
	small = l7mp_buf_compact(buf);
	if (small) {
		queue_append(p, small);
	} else if (!from_stream(s, i)) {
		drop(s, L7MP_DROP_MEMORY, 1, len);
	} else {
		err.code = L7MP_ERR_INTERNAL;
		l7mp_session_finish(s, &err, true, "out of memory");
	}
}

static void pipe_clear(struct l7mp_session *s, unsigned i)
{
	struct session_pipe *p = &s->pipes[i];

	while (p->head)
		drop_buf(s, i, queue_take(p), L7MP_DROP_CLOSED);
}

/*
 * Whether the pipe after stage i is full. Transformers have no queue, so the pipe after a
 * transformer counts, too.
 */
static bool full_after(const struct l7mp_session *s, unsigned i)
{
	for (unsigned k = 0; k < s->n; k++) {
		const struct session_pipe *p = &s->pipes[i];

		if (p->blocked || p->head)
			return true;
		i = (i + 1) % s->n;
		if (!s->stages[i].stream || !s->stages[i].stream->is_transformer)
			return false;
	}
	return false;
}

/* Pauses or resumes the stages' streams, according to pipes and states. */
static void flow_control(struct l7mp_session *s)
{
	for (unsigned i = 0; i < s->n && !s->ending; i++) {
		struct session_stage *st = &s->stages[i];
		bool want = s->state != L7MP_SESSION_CONNECTED || s->held || full_after(s, i);

		if (!st->stream || st->state != L7MP_STAGE_READY || st->paused == want)
			continue;
		st->paused = want;
		l7mp_stream_pause(st->stream, want);
	}
}

/* After all data was written, shuts down the next stage. */
static void pass_end(struct l7mp_session *s, unsigned i)
{
	struct session_pipe *p = &s->pipes[i];
	struct session_stage *to = pipe_to(s, i);
	bool gone = to->index == 0 && s->source_gone;

	if (!p->end || p->shut || p->head || p->busy || (!gone && !stage_ready(to)))
		return;
	p->shut = true;
	if (!gone) {
		const struct l7mp_stream *source = s->stages[0].stream;
		bool lingers = to->index != 0 && to->stream->kind == L7MP_KIND_DATAGRAM &&
		               !to->stream->is_transformer;

		/*
		 * A request (HTTP) waits for its answer. So do not shut down a WebSocket, which has
		 * no half-close: its peer would not answer any more.
		 */
		if (!lingers || p->code || !source || !source->asks)
			l7mp_stream_shutdown(to->stream, p->code);
		if (s->ending)
			return;
		if (lingers && !s->linger) {
			s->linger = true;
			arm_idle(s);
		}
	}
	check_end(s);
}

/* Stage i has finished writing; `code`: the close code, or 0. */
static void pipe_end(struct l7mp_session *s, unsigned i, int code)
{
	struct session_pipe *p = &s->pipes[i];

	if (s->ending || p->end)
		return;
	s->active_ms = l7mp_loop_now(session_loop(s));
	p->end = true;
	p->code = (uint16_t)code;
	pass_end(s, i);
}

/* A stage was lost: the session is not connected. */
static void not_ready(struct l7mp_session *s)
{
	if (s->state != L7MP_SESSION_CONNECTED)
		return;
	set_state(s, L7MP_SESSION_DISCONNECTED);
	flow_control(s);
}

/* ---- streams detached from a stage ---- */

/* The stream and its socket are closed. */
static void unwatch(struct l7mp_session *s, struct l7mp_watched **watched)
{
	if (*watched)
		s->m->watch->end(s->m->watch_arg, *watched);
	*watched = NULL;
}

static void orphan_data(void *owner, struct l7mp_buf *buf)
{
	struct l7mp_session *s = owner;

	drop(s, L7MP_DROP_CLOSED, 1, buf->len);
	l7mp_buf_unref(buf);
}

static void orphan_nothing(void *owner)
{
	(void)owner;
}

static void orphan_end(void *owner, int code)
{
	(void)owner;
	(void)code;
}

static void orphan_lost(void *owner, int err, uint64_t packets, uint64_t bytes)
{
	drop(owner, l7mp_drop_from_errno(err), packets, bytes);
}

static void orphan_notice(void *owner, const char *event, const char *message)
{
	(void)owner;
	(void)event;
	(void)message;
}

static void orphan_closed(void *owner, const struct l7mp_error *err)
{
	struct l7mp_session *s = owner;

	(void)err;
	s->orphans--;
	if (s->ending)
		closed_one(s);
}

static const struct l7mp_stream_events orphan_events = {
        .open = orphan_nothing,
        .data = orphan_data,
        .drain = orphan_nothing,
        .end = orphan_end,
        .lost = orphan_lost,
        .notice = orphan_notice,
        .closed = orphan_closed,
};

/* The same for an observed stream; the observer's record is its owner. */
static void watched_data(void *owner, struct l7mp_buf *buf)
{
	orphan_data(((struct l7mp_watched *)owner)->session, buf);
}

static void watched_lost(void *owner, int err, uint64_t packets, uint64_t bytes)
{
	orphan_lost(((struct l7mp_watched *)owner)->session, err, packets, bytes);
}

static void watched_closed(void *owner, const struct l7mp_error *err)
{
	struct l7mp_watched *watched = owner;
	struct l7mp_session *s = watched->session;

	unwatch(s, &watched);
	orphan_closed(s, err);
}

static const struct l7mp_stream_events watched_orphan_events = {
        .open = orphan_nothing,
        .data = watched_data,
        .drain = orphan_nothing,
        .end = orphan_end,
        .lost = watched_lost,
        .notice = orphan_notice,
        .closed = watched_closed,
};

/* Detaches the stream and closes it; the session still waits for its `closed`. */
static void stage_detach(struct session_stage *st, bool abort)
{
	struct l7mp_stream *stream = st->stream;

	if (!stream)
		return;
	st->stream = NULL;
	st->s->orphans++;
	if (st->watched)
		l7mp_stream_attach(stream, &watched_orphan_events, st->watched);
	else
		l7mp_stream_attach(stream, &orphan_events, st->s);
	st->watched = NULL;
	l7mp_stream_close(stream, abort);
}

/* ---- losing a stage, and when it is retried ---- */

/*
 * Attempts begin at least the route's time-out apart, so that an upstream that repeatedly accepts
 * and closes costs one connection per time-out. A stage that was connected for longer is
 * reconnected at once.
 */

static const struct l7mp_route *route_of(const struct session_stage *st)
{
	return st->s->lookup.route;
}

static bool stage_connected(const struct session_stage *st)
{
	return st->state == L7MP_STAGE_CONNECTED || st->state == L7MP_STAGE_READY;
}

static uint64_t retry_delay(const struct session_stage *st)
{
	uint64_t now = l7mp_loop_now(session_loop(st->s));
	uint64_t gap = route_of(st)->timeout_ms ? route_of(st)->timeout_ms : 1;
	uint64_t due = st->attempt_ms + gap;

	return due > now ? due - now : 0;
}

static const char *stage_describe(const struct session_stage *st, char *buf, size_t size)
{
	char place[32];

	l7mp_stage_place(st, place, sizeof(place));
	if (!st->cluster)
		snprintf(buf, size, "%s", place);
	else if (st->endpoint && st->endpoint->address)
		snprintf(buf, size, "%s '%s' (%s)", place, st->cluster, st->endpoint->address);
	else
		snprintf(buf, size, "%s '%s'", place, st->cluster);
	return buf;
}

/* Ends the session, because this stage can't be retried. */
static void give_up(struct session_stage *st, const struct l7mp_error *err)
{
	struct l7mp_session *s = st->s;
	unsigned tried = st->retries;
	/* A reset must not discard a complete answer that is still on its way to the client. */
	bool orderly = err->code == L7MP_OK || stage_out(st)->shut;
	const char *why = err->message[0] ? err->message : "closed";
	char where[300];

	st->state = L7MP_STAGE_END;
	stage_describe(st, where, sizeof(where));
	if (tried)
		l7mp_session_finish(s, err, !orderly, "%s: %s (after %u %s)", where, why, tried,
		                    tried == 1 ? "retry" : "retries");
	else
		l7mp_session_finish(s, err, !orderly, "%s: %s", where, why);
}

static void schedule_retry(struct session_stage *st, const struct l7mp_error *err,
                           uint64_t delay_ms)
{
	struct l7mp_session *s = st->s;
	struct l7mp_error oom = {.code = L7MP_ERR_INTERNAL, .message = "out of memory"};

	st->retries++;
	st->state = L7MP_STAGE_DISCONNECTED;
	s->m->env->stats->retries++;
	event_add(s, "RETRY", st->index, st->retries, err->message);
	not_ready(s);
	if (l7mp_timer_start(session_loop(s), &st->timer, delay_ms))
		give_up(st, &oom);
}

/* A connected stage whose end was received, or that was shut down, has not failed but finished. */
static bool is_over(const struct session_stage *st, bool lost)
{
	return lost && (stage_out(st)->shut || stage_in(st)->end);
}

/* Whether the stage may be retried. `lost`: it was connected until now. */
static bool may_retry(const struct session_stage *st, bool lost)
{
	enum l7mp_retry_on need = st->was_up ? L7MP_RETRY_DISCONNECT : L7MP_RETRY_CONNECT_FAILURE;

	if (!(route_of(st)->retry_on & need) || st->retries >= route_of(st)->num_retries)
		return false;
	return !is_over(st, lost);
}

static void avoid_clear(struct session_stage *st)
{
	if (st->avoid)
		l7mp_lb_avoid_clear(st->avoid);
	free(st->avoid);
	st->avoid = NULL;
}

/* The next attempts prefer other endpoints. Without memory this is not remembered. */
static void avoid_endpoint(struct session_stage *st)
{
	if (!st->endpoint)
		return;
	if (!st->avoid)
		st->avoid = calloc(1, sizeof(*st->avoid));
	if (st->avoid)
		l7mp_lb_avoid_add(st->avoid, st->endpoint);
}

/* Drops the connection, and keeps the data queued for the next one. */
static bool disconnect(struct session_stage *st, bool abort)
{
	bool lost = stage_connected(st);

	l7mp_session_offload_remove(st->s, true);
	stage_detach(st, abort);
	l7mp_timer_stop(session_loop(st->s), &st->timer);
	if (lost) {
		st->was_up = true;
		st->retries = 0;
		event_add(st->s, "DISCONNECT", st->index, 0, NULL);
	}
	if (lost)
		avoid_clear(st);
	avoid_endpoint(st);
	return lost;
}

static void reset_pipes(struct session_stage *st)
{
	stage_in(st)->blocked = false;
	stage_in(st)->shut = false;
	stage_out(st)->end = false;
}

/*
 * The stage was disconnected or could not be connected; err->code L7MP_OK: an orderly end. Retries,
 * or ends the session.
 */
static void stage_lost(struct session_stage *st, const struct l7mp_error *err)
{
	bool lost;

	if (st->s->ending)
		return;
	lost = disconnect(st, err->code != L7MP_OK);
	/*
	 * An endpoint's refusal is not a failure: a retry would send its share to other endpoints.
	 */
	if (st->refused || !may_retry(st, lost)) {
		give_up(st, err);
		return;
	}
	reset_pipes(st);
	schedule_retry(st, err, retry_delay(st));
}

void l7mp_stage_move(struct session_stage *st)
{
	struct l7mp_error err;
	bool lost;

	if (st->s->ending || st->index == 0)
		return;
	if (st->s->lent) {
		st->move = true;
		l7mp_session_offload_remove(st->s, true);
		return;
	}
	l7mp_error_set(&err, 0, L7MP_OK, "the endpoint was deleted");
	lost = disconnect(st, false);
	if (is_over(st, lost)) {
		give_up(st, &err);
		return;
	}
	reset_pipes(st);
	/* The endpoint was deleted by the operator, so retry at once, whatever retry_on is. */
	schedule_retry(st, &err, 0);
}

/*
 * The same for the source, which is reopened if possible. After an orderly end the session ends
 * when the source's data has been delivered.
 */
static void source_lost(struct session_stage *st, const struct l7mp_error *err)
{
	struct l7mp_session *s = st->s;
	bool lost;

	if (s->ending)
		return;
	lost = disconnect(st, err->code != L7MP_OK);
	if (session_can_reopen(s) && may_retry(st, lost)) {
		reset_pipes(st);
		schedule_retry(st, err, retry_delay(st));
		return;
	}
	st->state = L7MP_STAGE_END;
	if (err->code != L7MP_OK) {
		l7mp_session_finish(s, err, true, "source: %s", err->message);
		return;
	}
	/* Data sent before the close is still delivered. */
	s->source_gone = true;
	s->active_ms = l7mp_loop_now(session_loop(s));
	arm_idle(s);
	pipe_clear(s, s->n - 1U);
	s->pipes[s->n - 1U].blocked = false;
	pipe_end(s, 0, 0);
	check_end(s);
}

/* ---- writing to pipes ---- */

static void count_written(struct l7mp_session *s, unsigned i, uint32_t len)
{
	struct l7mp_stats *stats = s->m->env->stats;
	enum l7mp_direction dir = i == 0 ? L7MP_INGRESS : L7MP_EGRESS;

	if (i != 0 && i != s->dest)
		return;
	s->slow[dir].packets++;
	s->slow[dir].bytes += len;
	stats->slow_packets[dir]++;
	stats->slow_bytes[dir] += len;
	l7mp_session_offload_passed(s, dir);
}

static void write_failed(struct l7mp_session *s, unsigned i, int rc, uint32_t len)
{
	struct session_stage *to = pipe_to(s, i);
	struct l7mp_error err;

	if (!from_stream(s, i) || to->stream->kind == L7MP_KIND_DATAGRAM)
		drop(s, l7mp_drop_from_errno(rc), 1, len);
	if (to->stream->kind == L7MP_KIND_DATAGRAM || to->stream->is_transformer)
		return;
	/* A byte stream with missing bytes is useless. */
	l7mp_error_set(&err, rc, L7MP_ERR_UPSTREAM, "write failed: %s", strerror(-rc));
	err.path[0] = '\0';
	err.line = 0;
	if (to->index == 0)
		source_lost(to, &err);
	else
		stage_lost(to, &err);
}

/* ---- splicing ---- */

/*
 * Short connections never reach this; a direction that has carried so much is likely to carry more.
 */
#define SPLICE_AFTER 65536

/* The kernel moved bytes of a direction from its first stream to its last one. */
static void on_spliced(void *arg, size_t bytes, int rc)
{
	struct session_stage *from = arg;
	struct l7mp_session *s = from->s;
	unsigned to = from->index ? 0 : s->dest, last = (to + s->n - 1U) % s->n;

	if (s->ending)
		return;
	s->active_ms = l7mp_loop_now(session_loop(s));
	if (rc < 0) {
		write_failed(s, last, rc, (uint32_t)bytes);
		return;
	}
	for (unsigned i = from->index; i != last; i = (i + 1) % s->n) {
		struct l7mp_stream *between = pipe_to(s, i)->stream;

		between->ops->passed(between, 1, bytes);
	}
	count_written(s, from->index, (uint32_t)bytes);
	if (rc == L7MP_STREAM_IO_FULL) {
		s->pipes[last].blocked = true;
		flow_control(s);
	}
}

/* Whether all stages in between only count, so that data need not pass through them. */
static bool only_counted(struct l7mp_session *s, unsigned from, unsigned to)
{
	for (unsigned i = (from + 1) % s->n; i != to; i = (i + 1) % s->n) {
		struct l7mp_flow_end end = {.kind = L7MP_FLOW_NONE};

		l7mp_stream_flow(s->stages[i].stream, &end);
		if (end.kind != L7MP_FLOW_PASS)
			return false;
	}
	return true;
}

/* Enough data has passed in this direction: splice the rest, if possible. */
static void begin_splicing(struct l7mp_session *s, enum l7mp_direction dir)
{
	struct session_stage *from = &s->stages[dir == L7MP_INGRESS ? 0 : s->dest];
	struct session_stage *to = &s->stages[dir == L7MP_INGRESS ? s->dest : 0];
	struct l7mp_stream_io *in = plain_of(from), *out = plain_of(to);

	s->splice_at[dir] = UINT64_MAX; /* tried; a new connection of a stage tries again */
	if (in && out && only_counted(s, from->index, to->index))
		(void)l7mp_stream_io_splice(in, out, on_spliced, from);
}

static void splice_when_due(struct l7mp_session *s, unsigned i)
{
	if (i == 0 && s->slow[L7MP_INGRESS].bytes >= s->splice_at[L7MP_INGRESS])
		begin_splicing(s, L7MP_INGRESS);
	else if (i == s->dest && s->slow[L7MP_EGRESS].bytes >= s->splice_at[L7MP_EGRESS])
		begin_splicing(s, L7MP_EGRESS);
}

/* Writes a buffer of a size that the next stage supports. */
static void write_buffer(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf)
{
	struct session_pipe *p = &s->pipes[i];
	struct session_stage *to = pipe_to(s, i);
	struct l7mp_stream *out = to->stream;
	uint32_t len = buf->len;
	int rc;

	p->busy = true;
	rc = l7mp_stream_write(out, buf);
	p->busy = false;
	if (rc >= 0) {
		count_written(s, i, len);
		if (s->proof == SESSION_UNANSWERED && to->index == 0)
			l7mp_admission_answered(s);
	}
	if (s->ending || to->stream != out)
		return;
	splice_when_due(s, i);
	if (rc == L7MP_STREAM_FULL) {
		p->blocked = true;
		flow_control(s);
	} else if (rc < 0) {
		write_failed(s, i, rc, len);
	}
}

/* Writes a piece of a byte stream to a datagram stage, as one or more datagrams. */
static void write_split(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf, uint32_t max)
{
	struct session_pipe *p = &s->pipes[i];
	uint32_t off = 0;

	while (off < buf->len && !s->ending) {
		bool stop = p->blocked || !stage_ready(pipe_to(s, i));
		uint32_t len = buf->len - off;
		struct l7mp_buf *part;

		if (!stop && len > max)
			len = max;
		part = l7mp_buf_slice(buf, off, len);
		if (!part) {
			drop(s, L7MP_DROP_MEMORY, 1, len);
		} else if (stop) {
			queue_prepend(p, part);
			break;
		} else {
			write_buffer(s, i, part);
		}
		off += len;
	}
	l7mp_buf_unref(buf);
}

static void write_buf(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf)
{
	const struct l7mp_stream *out = pipe_to(s, i)->stream;
	uint32_t max = out->max_write ? out->max_write : SPLIT_DEFAULT;

	if (out->kind == L7MP_KIND_DATAGRAM && buf->len > max && from_stream(s, i))
		write_split(s, i, buf, max);
	else
		write_buffer(s, i, buf);
}

static void pipe_flush(struct l7mp_session *s, unsigned i)
{
	struct session_pipe *p = &s->pipes[i];

	while (!s->ending && p->head && !p->busy && !p->blocked && stage_ready(pipe_to(s, i)))
		write_buf(s, i, queue_take(p));
	if (s->ending)
		return;
	pass_end(s, i);
}

/* Handles data emitted by stage i. Takes buf. */
static void pipe_push(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf)
{
	struct session_pipe *p = &s->pipes[i];
	struct session_stage *to = pipe_to(s, i);

	if (s->ending || p->end || (to->index == 0 && s->source_gone)) {
		drop_buf(s, i, buf, L7MP_DROP_CLOSED);
		return;
	}
	s->active_ms = l7mp_loop_now(session_loop(s));
	if (s->proof == SESSION_ANSWERED && i == 0)
		l7mp_admission_heard(s);
	if (p->busy || p->blocked || p->head || !stage_ready(to)) {
		enqueue(s, i, buf);
		return;
	}
	write_buf(s, i, buf);
	if (p->head)
		pipe_flush(s, i);
}

static void pipe_drained(struct l7mp_session *s, unsigned i)
{
	s->pipes[i].blocked = false;
	pipe_flush(s, i);
	if (!s->ending)
		flow_control(s);
}

/* ---- all stages are connected ---- */

static void warn_kinds(struct l7mp_session *s)
{
	for (unsigned i = 0; i < s->n && !s->warned_kind; i++) {
		const struct session_stage *to = pipe_to(s, i);
		const struct l7mp_stream *from = s->stages[i].stream;

		if (!from || !to->stream || from->kind != L7MP_KIND_DATAGRAM ||
		    to->stream->kind != L7MP_KIND_STREAM)
			continue;
		s->warned_kind = true;
		event_add(s, "WARNING", to->index, 0,
		          "datagrams go into a byte stream: message boundaries are lost");
		if (l7mp_sessions_may_log(s->m))
			l7mp_log_warn(SESSION_MODULE,
			              "%s: datagrams go into a byte stream: message boundaries "
			              "are lost",
			              s->name);
	}
}

/* A stage was connected: data flows when all are. */
static void check_ready(struct l7mp_session *s)
{
	for (unsigned i = 0; i < s->n; i++) {
		const struct session_stage *st = &s->stages[i];

		if (st->index == 0 && s->source_gone)
			continue;
		if (st->state != L7MP_STAGE_CONNECTED && st->state != L7MP_STAGE_READY)
			return;
	}
	if (s->ending || s->state == L7MP_SESSION_CONNECTED)
		return;
	for (unsigned i = s->source_gone ? 1 : 0; i < s->n; i++)
		s->stages[i].state = L7MP_STAGE_READY;
	set_state(s, L7MP_SESSION_CONNECTED);
	if (!s->taken)
		event_add(s, "CONNECT", -1, 0, NULL);
	s->taken = false;
	warn_kinds(s);
	answer(s, 200, "OK");
	for (unsigned i = 0; i < s->n && !s->ending && s->state == L7MP_SESSION_CONNECTED; i++)
		pipe_flush(s, i);
	flow_control(s);
}

void l7mp_session_flow_control(struct l7mp_session *s)
{
	flow_control(s);
}

/* ---- events of a stage's stream ---- */

static void on_open(void *owner)
{
	struct session_stage *st = owner;

	if (st->s->ending)
		return;
	l7mp_timer_stop(session_loop(st->s), &st->timer);
	st->state = L7MP_STAGE_CONNECTED;
	st->retries = 0;
	if (st->watched)
		st->s->m->watch->open(st->s->m->watch_arg, st->watched);
	check_ready(st->s);
}

static void on_data(void *owner, struct l7mp_buf *buf)
{
	struct session_stage *st = owner;

	if (st->s->rtp)
		l7mp_session_rtp_data(st->s, st->index, buf);
	pipe_push(st->s, st->index, buf);
}

static void on_drain(void *owner)
{
	struct session_stage *st = owner;

	if (!st->s->ending)
		pipe_drained(st->s, (st->index + st->s->n - 1U) % st->s->n);
}

static void on_end(void *owner, int code)
{
	struct session_stage *st = owner;
	struct l7mp_session *s = st->s;
	struct l7mp_error err;

	if (s->ending)
		return;
	/*
	 * When failures are to be retried, an upstream that closes while the other direction is
	 * open counts as failed.
	 */
	if ((st->index || session_can_reopen(s)) && !stage_in(st)->end &&
	    (s->lookup.route->retry_on & L7MP_RETRY_DISCONNECT)) {
		l7mp_error_set(&err, 0, L7MP_OK, "the peer closed the connection");
		if (st->index)
			stage_lost(st, &err);
		else
			source_lost(st, &err);
		return;
	}
	pipe_end(s, st->index, code);
}

static void on_lost(void *owner, int err, uint64_t packets, uint64_t bytes)
{
	struct session_stage *st = owner;

	drop(st->s, l7mp_drop_from_errno(err), packets, bytes);
	if (err == -EPERM)
		l7mp_session_offload_filtered(st->s);
}

static void on_path_changed(void *owner)
{
	l7mp_session_offload_recheck(((struct session_stage *)owner)->s);
}

static void on_notice(void *owner, const char *event, const char *message)
{
	struct session_stage *st = owner;

	event_notice(st->s, st->index, event, message);
}

/*
 * The addresses have changed: removes the flow of the old ones. The next packet requests a new one.
 */
static void on_moved(void *owner)
{
	struct session_stage *st = owner;

	l7mp_session_offload_remove(st->s, true);
}

static void on_closed(void *owner, const struct l7mp_error *err)
{
	struct session_stage *st = owner;
	struct l7mp_session *s = st->s;
	bool up = st->state == L7MP_STAGE_CONNECTED || st->state == L7MP_STAGE_READY;
	struct l7mp_error early;

	l7mp_session_offload_remove(s, true);
	unwatch(st->s, &st->watched);
	st->stream = NULL;
	if (!up && err->code == L7MP_OK) {
		l7mp_error_set(&early, -ECONNABORTED, L7MP_ERR_UPSTREAM,
		               "closed before it was connected");
		err = &early;
	}
	if (s->ending)
		closed_one(s);
	else if (st->index == 0)
		source_lost(st, err);
	else
		stage_lost(st, err);
}

static const struct l7mp_stream_events stage_events = {
        .open = on_open,
        .data = on_data,
        .drain = on_drain,
        .end = on_end,
        .lost = on_lost,
        .path_changed = on_path_changed,
        .notice = on_notice,
        .moved = on_moved,
        .closed = on_closed,
};

static void stage_attach(struct session_stage *st, struct l7mp_stream *stream)
{
	st->stream = stream;
	st->paused = true;
	for (int dir = 0; dir < 2; dir++)
		st->s->splice_at[dir] = st->s->slow[dir].bytes + SPLICE_AFTER;
	l7mp_stream_attach(stream, &stage_events, st);
}

/* ---- connecting a stage ---- */

/* Returns the kind of the stage's input, if known. */
static enum l7mp_kind kind_before(const struct session_stage *st)
{
	const struct l7mp_session *s = st->s;

	for (unsigned i = st->index; i-- > 0;) {
		const struct session_stage *before = &s->stages[i];
		const struct l7mp_cluster *c = NULL;

		if (before->stream)
			return before->stream->kind;
		if (before->cluster)
			c = l7mp_model_find(s->m->env->model, L7MP_OBJ_CLUSTER, before->cluster);
		if (c && !(c->proto->flags & L7MP_PROTO_KEEPS_KIND))
			return c->proto->kind;
	}
	return L7MP_KIND_DATAGRAM;
}

/* Returns the kind of the next stage, skipping transformers that keep theirs. */
static enum l7mp_kind kind_after(const struct session_stage *st)
{
	const struct l7mp_session *s = st->s;

	for (unsigned i = (st->index + 1U) % s->n; i; i = (i + 1) % s->n) {
		const struct l7mp_cluster *c =
		        l7mp_model_find(s->m->env->model, L7MP_OBJ_CLUSTER, s->stages[i].cluster);

		if (c && (c->proto->flags & L7MP_PROTO_KEEPS_KIND))
			continue;
		if (s->stages[i].stream)
			return s->stages[i].stream->kind;
		return c ? c->proto->kind : L7MP_KIND_DATAGRAM;
	}
	return s->stages[0].stream ? s->stages[0].stream->kind : L7MP_KIND_DATAGRAM;
}

static void stage_release(struct session_stage *st)
{
	l7mp_object_unref(st->object);
	l7mp_object_unref(st->endpoint);
	avoid_clear(st);
	st->object = NULL;
	st->endpoint = NULL;
}

static int pick_endpoint(struct session_stage *st, struct l7mp_error *err)
{
	struct l7mp_session *s = st->s;
	struct l7mp_cluster *c = l7mp_model_find(s->m->env->model, L7MP_OBJ_CLUSTER, st->cluster);
	const char *warning = NULL;
	struct l7mp_endpoint *e;

	l7mp_object_unref(st->object);
	l7mp_object_unref(st->endpoint);
	st->endpoint = NULL;
	st->object = c ? l7mp_object_ref(c) : NULL;
	if (!c) {
		l7mp_error_set(err, -ESRCH, L7MP_ERR_UPSTREAM, "there is no cluster '%s'",
		               st->cluster);
		return -ESRCH;
	}
	if (c->proto->flags & L7MP_PROTO_VIRTUAL)
		return 0;
	e = l7mp_lb_pick(c, s->metadata, st->avoid, &warning);
	if (warning)
		event_add(s, "WARNING", st->index, 0, warning);
	if (!e)
		return l7mp_error_set(err, -ESRCH, L7MP_ERR_UPSTREAM,
		                      c->n_endpoints
		                              ? "every endpoint of cluster '%s' drains (weight 0)"
		                              : "cluster '%s' has no endpoint",
		                      st->cluster);
	if (e->drop) {
		s->m->env->stats->refusals[L7MP_REFUSE_DROP]++;
		st->refused = true;
		return l7mp_error_set(err, -EBUSY, L7MP_ERR_LIMIT,
		                      "endpoint '%s' refuses sessions (drop)", e->obj.name);
	}
	st->endpoint = l7mp_object_ref(e);
	return 0;
}

/* Connects to the stage's cluster and endpoint, or restores a connection. */
static int connect_stage(struct session_stage *st, struct l7mp_restore_end *restore, bool same,
                         struct l7mp_error *err)
{
	struct l7mp_session *s = st->s;
	struct l7mp_connect params = {
	        .env = s->m->env,
	        .cluster = st->cluster,
	        .cluster_spec = st->object->spec,
	        .metadata = s->metadata,
	        .session = s->name,
	        .in_kind = kind_before(st),
	        .out_kind = kind_after(st),
	        .restore = restore,
	        .same_endpoint = same,
	};
	const struct l7mp_proto *proto = l7mp_proto_of(s->m->env, st->object->proto);
	struct l7mp_stream *stream = NULL;
	int rc;

	if (!proto || !proto->connect)
		return l7mp_error_set(err, -ENOTSUP, L7MP_ERR_UPSTREAM, "protocol %s can't connect",
		                      st->object->proto->name);
	if (st->endpoint) {
		params.endpoint_spec = st->endpoint->spec;
		params.address = st->endpoint->address;
	}
	rc = proto->connect(&params, &stream, err);
	if (rc)
		return rc;
	stage_attach(st, stream);
	if (s->m->watch)
		st->watched = s->m->watch->begin(s->m->watch_arg, s, stream);
	/* Count last, so that only connected protocols are counted. */
	l7mp_sessions_counted(s->m, L7MP_OBJ_CLUSTER, st->cluster, proto->desc.name);
	return 0;
}

/* Tries to restore the session's connection as one to this endpoint. */
static int try_endpoint(struct session_stage *st, struct l7mp_endpoint *e, bool same,
                        struct l7mp_error *err)
{
	struct l7mp_restore_end *end = &st->s->restore->record->end[1];
	int rc;

	st->endpoint = l7mp_object_ref(e);
	rc = connect_stage(st, end, same, err);
	if (rc) {
		l7mp_object_unref(st->endpoint);
		st->endpoint = NULL;
	}
	return rc;
}

/* Restores the destination's connection, to the endpoint that has its address. */
static int stage_restore(struct session_stage *st, struct l7mp_error *err)
{
	const char *name = st->s->restore->record->endpoint;
	struct l7mp_cluster *c =
	        l7mp_model_find(st->s->m->env->model, L7MP_OBJ_CLUSTER, st->cluster);
	int rc = -EXDEV;

	if (!c)
		return l7mp_error_set(err, -EPERM, L7MP_ERR_UPSTREAM, "there is no cluster '%s'",
		                      st->cluster);
	st->object = l7mp_object_ref(c);
	if (!(c->proto->flags & L7MP_PROTO_VIRTUAL) == !st->s->restore->record->end[1].remote.len)
		return l7mp_error_set(err, -EPERM, L7MP_ERR_UPSTREAM,
		                      "the session goes to another kind of destination than "
		                      "cluster '%s'",
		                      st->cluster);
	if (c->proto->flags & L7MP_PROTO_VIRTUAL)
		return connect_stage(st, NULL, false, err);
	if (!(c->proto->flags & (L7MP_PROTO_RESTORES | L7MP_PROTO_ADOPTS)))
		return l7mp_error_set(err, -ENOTSUP, L7MP_ERR_UPSTREAM,
		                      "connections of protocol %s can't go on", c->proto->name);
	/* First try the endpoint of the same name, which is the most likely one. */
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; rc == -EXDEV && i < c->n_endpoints; i++) {
			struct l7mp_endpoint *e = c->endpoints[i];
			bool same = name && !strcmp(e->obj.name, name);

			if (same == !pass)
				rc = try_endpoint(st, e, same, err);
		}
	if (rc == -EXDEV)
		return l7mp_error_set(err, -EPERM, L7MP_ERR_UPSTREAM,
		                      "no endpoint of cluster '%s' has the address that the "
		                      "session is connected to",
		                      st->cluster);
	return rc;
}

static int stage_start(struct session_stage *st, struct l7mp_error *err)
{
	int rc;

	if (st->s->restore && st->index == st->s->dest)
		return stage_restore(st, err);
	rc = pick_endpoint(st, err);
	return rc ? rc : connect_stage(st, NULL, false, err);
}

/* Makes one attempt to connect; a failure is passed to stage_lost. */
static void stage_connect(struct session_stage *st)
{
	struct l7mp_session *s = st->s;
	struct l7mp_error err = {.code = L7MP_OK};
	int rc;

	st->state = st->retries || st->was_up ? L7MP_STAGE_RETRYING : L7MP_STAGE_INIT;
	st->attempt_ms = l7mp_loop_now(session_loop(s));
	rc = stage_start(st, &err);
	/* A restored stream opens by itself in the next turn. */
	if (!rc && !s->restore)
		rc = l7mp_timer_start(session_loop(s), &st->timer, s->lookup.route->timeout_ms);
	if (!rc)
		return;
	if (err.code == L7MP_OK)
		l7mp_error_set(&err, rc, L7MP_ERR_UPSTREAM, "%s", strerror(-rc));
	if (s->restore) {
		s->restore->rc = rc;
		s->restore->err = err;
		give_up(st, &err);
		return;
	}
	stage_lost(st, &err);
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
		source_lost(st, &err);
		return;
	}
	stage_attach(st, stream);
	st->state = L7MP_STAGE_CONNECTED;
	st->retries = 0;
	check_ready(s);
}

static void stage_timer(struct l7mp_timer *timer, void *arg)
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
		stage_connect(st);
		return;
	}
	l7mp_error_set(&err, -ETIMEDOUT, L7MP_ERR_TIMEOUT, "not connected within %u ms",
	               route_of(st)->timeout_ms);
	stage_lost(st, &err);
}

/* ---- ending and freeing a session ---- */

/* The session ends while it is being answered: an HTTP answer must not look complete. */
static void abort_answer(struct l7mp_session *s, const char *reason)
{
	struct l7mp_stream *source = s->stages[0].stream;

	if (source && source->asks && source->ops->result && s->answered &&
	    !s->pipes[s->n - 1U].end)
		source->ops->result(source, 503, reason);
}

static void close_streams(struct l7mp_session *s)
{
	s->closing = true;
	for (unsigned i = 0; i < s->n; i++)
		pipe_clear(s, i);
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
	for (unsigned i = 0; i < s->n; i++)
		s->stages[i].state = L7MP_STAGE_END;
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

void l7mp_pipe_append(struct l7mp_session *s, unsigned i, struct l7mp_buf *buf)
{
	queue_append(&s->pipes[i], buf);
}

void l7mp_session_past_event(struct l7mp_session *s, uint64_t time, const char *name, int stage,
                             unsigned attempt, const char *detail)
{
	struct session_event *e;

	if (!name) {
		events_clear(s);
		return;
	}
	event_notice(s, stage, name, detail);
	if (!s->n_events)
		return;
	e = &s->events[(s->first_event + s->n_events - 1U) % SESSION_EVENTS_MAX];
	e->time = time;
	e->attempt = (uint16_t)attempt;
}

void l7mp_session_resume(struct l7mp_session *s)
{
	arm_idle(s);
	for (int dir = 0; dir < 2; dir++)
		s->splice_at[dir] = s->slow[dir].bytes + SPLICE_AFTER;
	if (s->state != L7MP_SESSION_CONNECTED) {
		check_ready(s);
		return;
	}
	for (unsigned i = 0; i < s->n && !s->ending; i++)
		pipe_flush(s, i);
	if (!s->ending)
		flow_control(s);
}

void l7mp_session_given(struct l7mp_session *s)
{
	s->frozen = false;
	s->given = s->ending = s->closing = true;
	l7mp_timer_stop(session_loop(s), &s->timer);
	for (unsigned i = 0; i < s->n; i++) {
		l7mp_timer_stop(session_loop(s), &s->stages[i].timer);
		pipe_clear(s, i);
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
	flow_control(s);
	for (unsigned i = 1; i < s->n && !s->ending; i++) {
		if (!s->stages[i].move)
			continue;
		s->stages[i].move = false;
		l7mp_stage_move(&s->stages[i]);
	}
}

/* All streams of the session must be closed. */
void l7mp_session_free(struct l7mp_session *s)
{
	struct l7mp_sessions *m = s->m;

	if (s->prev)
		DL_DELETE(m->tracked, s);
	l7mp_timer_stop(m->env->loop, &s->timer);
	l7mp_task_cancel(m->env->loop, &s->task);
	for (unsigned i = 0; i < s->n; i++) {
		l7mp_timer_stop(m->env->loop, &s->stages[i].timer);
		stage_release(&s->stages[i]);
	}
	m->counts[s->state]--;
	l7mp_buf_pool_charge(l7mp_loop_bufs(m->env->loop), -(ptrdiff_t)s->cost);
	l7mp_cursors_leave(s);
	HASH_DEL(m->by_name, s);
	events_clear(s);
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
	if (s->source_gone && s->state != L7MP_SESSION_CONNECTED)
		s->active_ms = now;
	if (now < s->active_ms + idle) {
		arm_idle(s);
		return;
	}
	if (s->source_gone)
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
	size_t n = 2 + r->n_ingress + r->n_egress, at = 1;
	struct l7mp_session *s;

	s = calloc(1, sizeof(*s) + n * (sizeof(s->stages[0]) + sizeof(s->pipes[0])));
	if (!s)
		return NULL;
	s->m = m;
	s->n = (uint16_t)n;
	s->dest = (uint16_t)(1 + r->n_ingress);
	s->pipes = (struct session_pipe *)&s->stages[n];
	for (size_t i = 0; i < n; i++) {
		s->stages[i].s = s;
		s->stages[i].index = (uint16_t)i;
		l7mp_timer_init(&s->stages[i].timer, stage_timer, &s->stages[i]);
	}
	for (size_t i = 0; i < r->n_ingress; i++)
		s->stages[at++].cluster = r->ingress[i];
	s->stages[at++].cluster = r->destination;
	for (size_t i = 0; i < r->n_egress; i++)
		s->stages[at++].cluster = r->egress[i];
	l7mp_timer_init(&s->timer, session_timer, s);
	l7mp_task_init(&s->task, session_task, s);
	return s;
}

void l7mp_session_begin(struct l7mp_session *s, struct l7mp_stream *source)
{
	s->stages[0].state = L7MP_STAGE_CONNECTED;
	s->stages[0].attempt_ms = s->start_ms;
	stage_attach(&s->stages[0], source);
	event_add(s, "INIT", -1, 0, s->restore ? "goes on from an earlier process" : NULL);
	arm_idle(s);
	for (unsigned i = 1; i < s->n && !s->ending; i++)
		stage_connect(&s->stages[i]);
}
