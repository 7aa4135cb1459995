/* SPDX-License-Identifier: MIT */
/*
 * Draining: its state, deadline and progress. A timer polls for its end, because sessions may end
 * often and a delay of a tenth of a second does not matter.
 */
#include "l7mp/drain.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "internal.h"
#include "l7mp/log.h"

#define MODULE    "drain"
#define LOOK_MS   100
#define REPORT_MS 5000

struct l7mp_drain {
	struct l7mp_env *env;
	struct l7mp_runtime *runtime;
	struct l7mp_sessions *sessions;
	struct l7mp_timer timer;
	struct l7mp_slice slice; /* ends the remaining sessions at the deadline */
	struct l7mp_session_cursor cursor;
	const char *by;                            /* NULL: not draining */
	uint64_t began_ms, deadline_ms, report_ms; /* loop time; deadline 0: none */
	uint64_t timeout_ms;
	uint64_t at_start, ended; /* sessions at the beginning; sessions ended at the deadline */
	uint64_t refused;         /* sessions refused before it began */
	uint64_t drained_ms;      /* loop time of its end, while `drained` */
	bool drained;             /* its end has been logged */
	bool stopped;
	void (*done)(void *arg);
	void *arg;
};

static uint64_t now(const struct l7mp_drain *d)
{
	return l7mp_loop_now(d->env->loop);
}

/*
 * The number of running sessions, without those to the operator's clusters, because one of them may
 * have requested the drain.
 */
static uint64_t left(const struct l7mp_drain *d)
{
	return d->sessions->usage.live - d->sessions->usage.operators;
}

static void finish(struct l7mp_drain *d)
{
	void (*done)(void *arg) = d->done;

	d->done = NULL;
	if (done)
		done(d->arg);
}

/* ---- the deadline ---- */

static void end_some(struct l7mp_slice *slice, void *arg)
{
	struct l7mp_drain *d = arg;
	struct l7mp_session *s;

	while ((s = l7mp_cursor_next(&d->cursor))) {
		if (s->state != L7MP_SESSION_DESTROYED && !s->operators) {
			d->ended++;
			l7mp_session_end(s, "the time for draining is over");
		}
		if (l7mp_slice_over(d->env->loop)) {
			l7mp_slice_post(d->env->loop, slice);
			return;
		}
	}
}

static void time_over(struct l7mp_drain *d)
{
	l7mp_log_notice(MODULE, "the time of %g s is over: %llu sessions are ended",
	                (double)d->timeout_ms / 1000, (unsigned long long)left(d));
	d->deadline_ms = 0;
	d->sessions->drain_over = true;
	if (d->done) {
		finish(d);
		return;
	}
	l7mp_cursor_close(&d->cursor);
	l7mp_cursor_open(&d->cursor, d->sessions);
	l7mp_slice_post(d->env->loop, &d->slice);
}

/* ---- progress ---- */

static void report(struct l7mp_drain *d)
{
	char rest[48] = "no deadline";

	if (d->deadline_ms)
		snprintf(rest, sizeof(rest), "at most %.1f s more",
		         (double)(d->deadline_ms - now(d)) / 1000);
	l7mp_log_notice(MODULE, "draining: %llu of %llu sessions are left, %s",
	                (unsigned long long)left(d), (unsigned long long)d->at_start, rest);
	d->report_ms = now(d) + REPORT_MS;
}

static void look(struct l7mp_timer *timer, void *arg)
{
	struct l7mp_drain *d = arg;
	bool drained = !left(d);

	if (drained && !d->drained) {
		d->drained_ms = now(d);
		l7mp_log_notice(MODULE, "drained after %.1f s: no session is left",
		                (double)(d->drained_ms - d->began_ms) / 1000);
	}
	d->drained = drained;
	if (drained && d->done) {
		finish(d);
		return;
	}
	if (d->deadline_ms && now(d) >= d->deadline_ms)
		time_over(d);
	else if (!drained && now(d) >= d->report_ms)
		report(d);
	/* Without memory for the timer the next request or signal checks. */
	if (d->by && !d->stopped)
		(void)l7mp_timer_start(d->env->loop, timer, LOOK_MS);
}

/* ---- life ---- */

int l7mp_drain_new(struct l7mp_env *env, struct l7mp_runtime *runtime,
                   struct l7mp_sessions *sessions, struct l7mp_drain **out)
{
	struct l7mp_drain *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->env = env;
	d->runtime = runtime;
	d->sessions = sessions;
	l7mp_timer_init(&d->timer, look, d);
	l7mp_slice_init(&d->slice, end_some, d);
	*out = d;
	return 0;
}

void l7mp_drain_stop(struct l7mp_drain *d)
{
	d->stopped = true;
	d->done = NULL;
	l7mp_timer_stop(d->env->loop, &d->timer);
	l7mp_slice_cancel(d->env->loop, &d->slice);
	l7mp_cursor_close(&d->cursor);
}

void l7mp_drain_free(struct l7mp_drain **pp)
{
	if (!*pp)
		return;
	l7mp_drain_stop(*pp);
	free(*pp);
	*pp = NULL;
}

static void log_begin(const struct l7mp_drain *d, int successor)
{
	size_t open, paused = l7mp_runtime_paused(d->runtime, &open);

	if (successor)
		l7mp_log_notice(MODULE,
		                "%s: this process takes no new sessions, as the new process (pid "
		                "%d) does",
		                d->by, successor);
	else
		l7mp_log_notice(MODULE,
		                "%s: new sessions are refused, %zu of %zu listeners are closed",
		                d->by, paused, paused + open);
}

void l7mp_drain_begin(struct l7mp_drain *d, uint64_t timeout_ms, const char *by, int successor)
{

	if (!d->by) {
		/* Accept pending connections before sessions are refused. */
		l7mp_runtime_pause(d->runtime);
		d->env->draining = true;
		d->began_ms = now(d);
		d->at_start = left(d);
		d->ended = 0;
		d->drained = false;
		d->refused = d->env->stats->refusals[L7MP_REFUSE_DRAINING];
	}
	d->by = by;
	d->timeout_ms = timeout_ms;
	d->deadline_ms = timeout_ms ? now(d) + timeout_ms : 0;
	d->sessions->drain_over = false;
	l7mp_slice_cancel(d->env->loop, &d->slice);
	l7mp_cursor_close(&d->cursor);
	log_begin(d, successor);
	report(d);
	d->stopped = false;
	(void)l7mp_timer_start(d->env->loop, &d->timer, LOOK_MS);
}

void l7mp_drain_then(struct l7mp_drain *d, void (*done)(void *arg), void *arg)
{
	d->done = done;
	d->arg = arg;
}

int l7mp_drain_cancel(struct l7mp_drain *d, struct l7mp_error *err)
{
	int rc;

	if (!d->by)
		return 0;
	if (d->done)
		return l7mp_error_set(err, -ESHUTDOWN, L7MP_ERR_LIMIT,
		                      "the proxy ends when it has drained");
	rc = l7mp_runtime_resume(d->runtime, err);
	if (rc)
		return rc;
	l7mp_drain_stop(d);
	d->by = NULL;
	d->env->draining = false;
	d->sessions->drain_over = false;
	l7mp_log_notice(MODULE, "no longer draining: all listeners are open");
	return 0;
}

bool l7mp_drain_active(const struct l7mp_drain *d)
{
	return d->by;
}

static void add_progress(const struct l7mp_drain *d, cJSON *json)
{
	uint64_t end = d->drained && !left(d) ? d->drained_ms : now(d);

	l7mp_json_add_str(json, "by", d->by);
	l7mp_json_add_num(json, "elapsed", (double)(end - d->began_ms) / 1000);
	l7mp_json_add_num(json, "timeout", (double)d->timeout_ms / 1000);
	if (d->deadline_ms)
		l7mp_json_add_num(json, "remaining", (double)(d->deadline_ms - now(d)) / 1000);
	l7mp_json_add_num(json, "sessions_at_start", (double)d->at_start);
	l7mp_json_add_num(json, "sessions_ended_at_deadline", (double)d->ended);
	l7mp_json_add_num(json, "refused",
	                  (double)(d->env->stats->refusals[L7MP_REFUSE_DRAINING] - d->refused));
}

cJSON *l7mp_drain_to_json(const struct l7mp_drain *d)
{
	cJSON *json = cJSON_CreateObject(), *listeners = cJSON_CreateObject();
	size_t open, paused = l7mp_runtime_paused(d->runtime, &open);

	l7mp_json_add_str(json, "state", !d->by ? "serving" : left(d) ? "draining" : "drained");
	l7mp_json_add_num(json, "sessions", (double)left(d));
	l7mp_json_add_num(listeners, "closed", (double)paused);
	l7mp_json_add_num(listeners, "open", (double)open);
	l7mp_json_add(json, "listeners", listeners);
	if (d->by)
		add_progress(d, json);
	return json;
}
