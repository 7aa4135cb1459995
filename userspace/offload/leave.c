/* SPDX-License-Identifier: MIT */
/*
 * Withdrawing flows before programs are detached: from a leaving link, or from all links when the
 * engine stops. All flows are planned again in slices (changes.c), which withdraws those that use a
 * leaving link; a timer checks whether they have left. Detaching a hook interrupts the device's
 * transmission for some ms, so a worker thread first waits for programs that are running.
 */
#include <stdlib.h>

#include "engine.h"
#include "l7mp/log.h"
#include "l7mp/work.h"

#define CHECK_MS 2
/* Longer than the orderly un-splice of a TCP connection (STOP_MS). */
#define LEAVE_MS 3500
/* When our program was removed by others: connections can't be un-spliced in order. */
#define LOST_MS 300
/* At most so many flows, without spliced TCP connections, are withdrawn at once. */
#define AT_ONCE 256

/* Owned by the worker until its callback. */
struct off_wait {
	struct l7mp_work work;
	struct l7mp_offload_engine *e; /* NULL: the engine was stopped meanwhile */
};

static bool is_late(const struct l7mp_offload_engine *e, uint64_t since_ms, uint64_t limit_ms)
{
	return l7mp_loop_now(e->loop) - since_ms >= limit_ms;
}

static void check_later(struct l7mp_offload_engine *e)
{
	if (!l7mp_timer_armed(&e->leave))
		(void)l7mp_timer_start(e->loop, &e->leave, CHECK_MS); /* reserved */
}

/* Can all flows be withdrawn in this turn? */
static bool is_brief(const struct l7mp_offload_engine *e)
{
	const struct l7mp_flow *flow;

	if (e->table.n_flows > AT_ONCE)
		return false;
	DL_FOREACH (e->flows, flow)
		if (flow->tcp && off_tcp_lent(flow->tcp))
			return false;
	return true;
}

static void plan_all_again(struct l7mp_offload_engine *e)
{
	off_nexthops_replan_all(&e->path);
	off_frames_links_changed(e);
	check_later(e);
}

/* ---- the wait for programs ---- */

/* All programs that ran when the last flow was withdrawn have ended. */
static void programs_ended(struct l7mp_offload_engine *e)
{
	struct off_link *l, *next;

	if (e->rests)
		return;
	if (e->state == OFF_STOPPING) {
		if (e->drained)
			off_stopped(e);
		return;
	}
	HASH_ITER (hh, e->path.links, l, next)
		if (l->leaving && l->drained)
			off_attach_left(&e->hooks, l);
}

static void wait_run(void *arg)
{
	(void)arg;
	off_wait_for_programs();
}

static void wait_done(void *arg)
{
	struct off_wait *w = arg;
	struct l7mp_offload_engine *e = w->e;

	free(w);
	if (!e)
		return;
	e->leave_wait = NULL;
	programs_ended(e);
}

static void wait_for_programs(struct l7mp_offload_engine *e)
{
	struct off_wait *w = calloc(1, sizeof(*w));

	if (w) {
		w->e = e;
		e->leave_wait = w;
		if (!l7mp_work_start(e->loop, &w->work, wait_run, wait_done, w))
			return;
		e->leave_wait = NULL;
		free(w);
	}
	off_wait_for_programs();
	programs_ended(e);
}

/* ---- the timer ---- */

static void check_all(struct l7mp_offload_engine *e)
{
	if (is_late(e, e->stopping_ms, LEAVE_MS)) {
		off_stopped(e);
		return;
	}
	check_later(e);
	if (e->leave_wait || !off_flows_left(e, NULL))
		return;
	e->drained = true;
	wait_for_programs(e);
}

static void complete_now(struct l7mp_offload_engine *e, struct off_link *l)
{
	off_flows_leave_link(e, l);
	off_attach_left(&e->hooks, l);
}

static void on_check(struct l7mp_timer *t, void *arg)
{
	struct l7mp_offload_engine *e = arg;
	struct off_link *l, *next;
	bool drained = false;

	(void)t;
	if (e->rests)
		return;
	if (e->state == OFF_STOPPING) {
		check_all(e);
		return;
	}
	HASH_ITER (hh, e->path.links, l, next) {
		if (!l->leaving)
			continue;
		if (is_late(e, l->leaving_ms, l->gone ? LOST_MS : LEAVE_MS)) {
			complete_now(e, l);
			continue;
		}
		check_later(e);
		if (e->leave_wait || !off_flows_left(e, l))
			continue;
		l->drained = true;
		drained = true;
	}
	if (drained)
		wait_for_programs(e);
}

/* ---- interface ---- */

void off_leave_link(struct l7mp_offload_engine *e, struct off_link *l)
{
	if (is_brief(e))
		complete_now(e, l);
	else
		plan_all_again(e);
}

bool off_leave_all(struct l7mp_offload_engine *e)
{
	if (is_brief(e))
		return false;
	e->stopping_ms = l7mp_loop_now(e->loop);
	e->drained = false;
	l7mp_log_info(OFF_MODULE, "the settings have changed: all flows are withdrawn first");
	plan_all_again(e);
	return true;
}

void off_leave_now(struct l7mp_offload_engine *e)
{
	struct off_link *l, *next;

	HASH_ITER (hh, e->path.links, l, next)
		if (l->leaving)
			complete_now(e, l);
	l7mp_timer_stop(e->loop, &e->leave);
}

enum l7mp_reason off_leave_reason(const struct l7mp_offload_engine *e)
{
	if (e->next.start == L7MP_OFFLOAD_DISABLE)
		return L7MP_REASON_DISABLED;
	return e->next.n_ifs ? L7MP_REASON_PENDING : L7MP_REASON_INTERFACE;
}

int off_leave_start(struct l7mp_offload_engine *e)
{
	l7mp_timer_init(&e->leave, on_check, e);
	return l7mp_timer_reserve(e->loop, &e->leave);
}

void off_leave_stop(struct l7mp_offload_engine *e)
{
	l7mp_timer_give_back(e->loop, &e->leave);
	if (e->leave_wait)
		e->leave_wait->e = NULL;
	e->leave_wait = NULL;
}
