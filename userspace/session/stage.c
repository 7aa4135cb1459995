/* SPDX-License-Identifier: MIT */
/*
 * A stage of a session: its stream's events, losing the stream, and when the stage is connected
 * again. How it is connected is in connect.c.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

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

	l7mp_session_drop(s, L7MP_DROP_CLOSED, 1, buf->len);
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
	l7mp_session_drop(owner, l7mp_drop_from_errno(err), packets, bytes);
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
		l7mp_session_stream_closed(s);
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
	l7mp_session_event(s, "RETRY", st->index, st->retries, err->message);
	l7mp_session_not_ready(s);
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

/* Of the endpoint, or the virtual cluster, of the last attempt; NULL: there was none. */
static struct l7mp_health *health_of(const struct session_stage *st)
{
	if (st->endpoint)
		return st->endpoint->health;
	return st->object ? st->object->health : NULL;
}

void l7mp_stage_health_begins(struct session_stage *st)
{
	l7mp_health_begins(health_of(st));
	st->health = SESSION_HEALTH_TRIES;
}

void l7mp_stage_health_over(struct session_stage *st, const char *why)
{
	if (st->health == SESSION_HEALTH_LOST)
		l7mp_health_left(health_of(st), NULL);
	else if (st->health == SESSION_HEALTH_CONNECTED)
		l7mp_health_left(health_of(st), why);
	else if (st->health == SESSION_HEALTH_TRIES && why)
		l7mp_health_failed(health_of(st), why);
	st->health = SESSION_HEALTH_NONE;
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
		l7mp_session_event(st->s, "DISCONNECT", st->index, 0, NULL);
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

/* A stage with a cluster was lost: retries, or ends the session. */
static void cluster_lost(struct session_stage *st, const struct l7mp_error *err)
{
	bool lost;

	if (st->s->ending)
		return;
	lost = stage_connected(st);
	if (lost && err->code == L7MP_OK)
		l7mp_stage_health_over(st, NULL);
	else
		l7mp_stage_health_over(st, err->message[0] ? err->message : "closed");
	(void)disconnect(st, err->code != L7MP_OK);
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
	l7mp_stage_health_over(st, NULL);
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
 * The source was lost: reopens it if possible. After an orderly end the session ends when the
 * source's data has been delivered.
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
	s->source_closed = true;
	s->active_ms = l7mp_loop_now(session_loop(s));
	l7mp_session_arm_idle(s);
	l7mp_pipe_clear(s, s->n - 1U);
	s->pipes[s->n - 1U].blocked = false;
	l7mp_pipe_end(s, 0, 0);
	l7mp_session_check_end(s);
}

void l7mp_stage_lost(struct session_stage *st, const struct l7mp_error *err)
{
	if (st->index == 0)
		source_lost(st, err);
	else
		cluster_lost(st, err);
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
	l7mp_health_connected(health_of(st), st->health == SESSION_HEALTH_TRIES);
	st->health = SESSION_HEALTH_CONNECTED;
	if (st->watched)
		st->s->m->watch->open(st->s->m->watch_arg, st->watched);
	l7mp_session_check_ready(st->s);
}

static void on_data(void *owner, struct l7mp_buf *buf)
{
	struct session_stage *st = owner;

	if (st->s->rtp)
		l7mp_session_rtp_data(st->s, st->index, buf);
	l7mp_pipe_push(st->s, st->index, buf);
}

static void on_drain(void *owner)
{
	struct session_stage *st = owner;

	if (!st->s->ending)
		l7mp_pipe_drained(st->s, (st->index + st->s->n - 1U) % st->s->n);
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
		l7mp_stage_lost(st, &err);
		return;
	}
	l7mp_pipe_end(s, st->index, code);
}

void session_endpoint_address(const struct session_stage *st, char *text, size_t size)
{
	const cJSON *spec = st->object ? st->object->spec : NULL;
	const char *address = st->endpoint->address;
	double port = l7mp_json_num(spec, "port", -1);

	if (port < 0) /* JSONSocket */
		port = l7mp_json_num(l7mp_json_member(spec, "transport"), "port", -1);
	port = l7mp_json_num(st->endpoint->spec, "port", port);
	if (port < 0)
		snprintf(text, size, "%s", address);
	else
		snprintf(text, size, strchr(address, ':') ? "[%s]:%.0f" : "%s:%.0f", address, port);
}

/* Writes the stage's protocol and its endpoint's address, as far as it has them; truncates. */
static void target_text(const struct session_stage *st, char *text, size_t size)
{
	const char *protocol = st->object ? st->object->proto->name : "";
	char address[SESSION_ADDRESS_MAX] = "";

	if (st->endpoint && st->endpoint->address)
		session_endpoint_address(st, address, sizeof(address));
	snprintf(text, size, "%s%s%s", protocol, *address ? " " : "", address);
}

/* Counts once for a connection. */
static void on_unreachable(void *owner, int err)
{
	struct session_stage *st = owner;
	char target[200], text[L7MP_HEALTH_ERROR];

	if (st->health != SESSION_HEALTH_CONNECTED)
		return;
	st->health = SESSION_HEALTH_LOST;
	target_text(st, target, sizeof(target));
	snprintf(text, sizeof(text), "%s: %s", target, l7mp_errno_text(err));
	l7mp_health_unreachable(health_of(st), text);
}

static void on_lost(void *owner, int err, uint64_t packets, uint64_t bytes)
{
	struct session_stage *st = owner;

	if (err == -ECONNREFUSED || err == -EHOSTUNREACH || err == -ENETUNREACH)
		on_unreachable(st, err);
	l7mp_session_drop(st->s, l7mp_drop_from_errno(err), packets, bytes);
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

	l7mp_session_event_notice(st->s, st->index, event, message);
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
		l7mp_session_stream_closed(s);
	else
		l7mp_stage_lost(st, err);
}

static const struct l7mp_stream_events stage_events = {
        .open = on_open,
        .data = on_data,
        .drain = on_drain,
        .end = on_end,
        .lost = on_lost,
        .path_changed = on_path_changed,
        .unreachable = on_unreachable,
        .notice = on_notice,
        .moved = on_moved,
        .closed = on_closed,
};

void l7mp_stage_attach(struct session_stage *st, struct l7mp_stream *stream)
{
	st->stream = stream;
	st->paused = true;
	l7mp_session_splice_later(st->s);
	l7mp_stream_attach(stream, &stage_events, st);
}

/* ---- attempts to connect ---- */

void l7mp_stage_connect(struct session_stage *st)
{
	struct l7mp_session *s = st->s;
	struct l7mp_error err = {.code = L7MP_OK};
	int rc;

	st->state = st->retries || st->was_up ? L7MP_STAGE_RETRYING : L7MP_STAGE_INIT;
	st->attempt_ms = l7mp_loop_now(session_loop(s));
	rc = l7mp_stage_start(st, &err);
	/* A restored stream opens by itself in the next iteration. */
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
	l7mp_stage_lost(st, &err);
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
	l7mp_stage_attach(st, stream);
	st->state = L7MP_STAGE_CONNECTED;
	st->retries = 0;
	l7mp_session_check_ready(s);
}

static void stage_timer(struct l7mp_timer *timer, void *arg)
{
	struct session_stage *st = arg;
	struct l7mp_error err;
	char target[200];

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
	target_text(st, target, sizeof(target));
	l7mp_error_set(&err, -ETIMEDOUT, L7MP_ERR_TIMEOUT, "%s: not connected within %u ms", target,
	               route_of(st)->timeout_ms);
	l7mp_stage_lost(st, &err);
}

/* ---- create and free ---- */

void l7mp_stage_init(struct l7mp_session *s, unsigned i, const char *cluster)
{
	struct session_stage *st = &s->stages[i];

	st->s = s;
	st->index = (uint16_t)i;
	st->cluster = cluster;
	l7mp_timer_init(&st->timer, stage_timer, st);
}

void l7mp_stage_release(struct session_stage *st)
{
	l7mp_timer_stop(session_loop(st->s), &st->timer);
	l7mp_object_unref(st->object);
	l7mp_object_unref(st->endpoint);
	avoid_clear(st);
	st->object = NULL;
	st->endpoint = NULL;
}
