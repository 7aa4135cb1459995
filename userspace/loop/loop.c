/* SPDX-License-Identifier: MIT */
#include "l7mp/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "loop_int.h"

#define BUF_CACHE       (8u << 20) /* bytes of free buffers that are kept */
#define MANUAL_START_MS 1000000u
#define DRY_GUARD_MS    8000u /* longer than the longest graceful close */
/* bound for timers that arm themselves with 0, which would hang a test */
#define MANUAL_ROUNDS 1000

/* ---- the loop's hooks around each poll ---- */

static void idle_cb(uv_idle_t *idle)
{
	(void)idle;
}

void l7mp_loop_wake(struct l7mp_loop *loop)
{
	if (!loop->manual && !uv_is_active((uv_handle_t *)&loop->idle))
		uv_idle_start(&loop->idle, idle_cb);
}

static void wakeup_cb(uv_timer_t *timer)
{
	/*
	 * The prepare hook fires what is due. libuv 1.45 and later runs its timers at the end of a
	 * turn, and would end a loop that has nothing else, before there is a next one.
	 */
	l7mp_loop_wake(timer->data);
}

void l7mp_loop_sleep(struct l7mp_loop *loop, uint64_t due)
{
	uint64_t now = uv_now(&loop->uv);

	loop->timer_due = due;
	uv_timer_start(&loop->timer, wakeup_cb, due > now ? due - now : 0, 0);
}

/* Computes, once per turn, how long the next poll may sleep. */
static void set_sleep(struct l7mp_loop *loop)
{
	const struct l7mp_heap *h = &loop->heap;
	uint64_t now = uv_now(&loop->uv);
	bool busy = l7mp_tasks_pending(loop) || l7mp_slices_pending(loop);

	if (!h->n) {
		uv_timer_stop(&loop->timer);
	} else if (h->v[0].due <= now) {
		busy = true;
	} else if (!uv_is_active((uv_handle_t *)&loop->timer) || loop->timer_due != h->v[0].due) {
		l7mp_loop_sleep(loop, h->v[0].due);
	}
	if (busy)
		l7mp_loop_wake(loop);
	else
		uv_idle_stop(&loop->idle);
}

static void note_latency(struct l7mp_loop *loop)
{
	uint64_t stamp = uv_hrtime();
	uint64_t idle = uv_metrics_idle_time(&loop->uv);
	uint64_t busy = stamp - loop->poll_stamp, slept = idle - loop->poll_idle;
	uint64_t us = busy > slept ? (busy - slept) / 1000 : 0;
	uint64_t second = stamp / 1000000000u;

	if (second != loop->second) {
		loop->lat_prev = second == loop->second + 1 ? loop->lat_cur : 0;
		loop->lat_cur = 0;
		loop->second = second;
	}
	if (loop->poll_stamp && us > loop->lat_cur)
		loop->lat_cur = us;
	if (loop->lat_cur > loop->lat_max)
		loop->lat_max = loop->lat_cur;
	loop->poll_stamp = stamp;
	loop->poll_idle = idle;
}

static void prepare_cb(uv_prepare_t *prepare)
{
	struct l7mp_loop *loop = prepare->data;

	l7mp_turn_begin(loop);
	l7mp_heap_fire(&loop->heap, uv_now(&loop->uv));
	l7mp_turn_mark(loop, L7MP_TURN_TIMERS);
	if (l7mp_tasks_pending(loop))
		l7mp_tasks_run(loop);
	l7mp_turn_mark(loop, L7MP_TURN_TASKS);
	l7mp_slices_run(loop);
	l7mp_turn_mark(loop, L7MP_TURN_SLICES);
	if (l7mp_tasks_pending(loop))
		l7mp_tasks_run(loop);
	l7mp_turn_mark(loop, L7MP_TURN_TASKS);
	set_sleep(loop);
	note_latency(loop);
}

static void check_cb(uv_check_t *check)
{
	struct l7mp_loop *loop = check->data;

	l7mp_turn_mark(loop, L7MP_TURN_IO);
	if (l7mp_tasks_pending(loop))
		l7mp_tasks_run(loop);
	l7mp_turn_mark(loop, L7MP_TURN_TASKS);
}

/* ---- life ---- */

static int start_uv(struct l7mp_loop *loop)
{
	int rc = uv_loop_init(&loop->uv);

	if (rc)
		return rc;
	uv_loop_configure(&loop->uv, UV_METRICS_IDLE_TIME);
	rc = l7mp_io_start(loop);
	if (rc) {
		uv_loop_close(&loop->uv);
		return rc;
	}
	/* These can't fail. */
	uv_timer_init(&loop->uv, &loop->timer);
	uv_idle_init(&loop->uv, &loop->idle);
	uv_prepare_init(&loop->uv, &loop->prepare);
	uv_check_init(&loop->uv, &loop->check);
	loop->timer.data = loop->prepare.data = loop->check.data = loop;
	uv_prepare_start(&loop->prepare, prepare_cb);
	uv_check_start(&loop->check, check_cb);
	uv_unref((uv_handle_t *)&loop->prepare);
	uv_unref((uv_handle_t *)&loop->check);
	return 0;
}

static int loop_new(bool manual, struct l7mp_loop **out)
{
	struct l7mp_loop *loop = calloc(1, sizeof(*loop));
	int rc;

	if (!loop)
		return -ENOMEM;
	loop->manual = manual;
	loop->manual_now = MANUAL_START_MS;
	loop->epfd = -1;
	l7mp_tasks_init(loop);
	l7mp_slices_init(loop);
	rc = l7mp_buf_pool_new(BUF_CACHE, &loop->bufs);
	if (!rc && !manual)
		rc = start_uv(loop);
	if (rc) {
		l7mp_buf_pool_free(&loop->bufs);
		free(loop);
		return rc;
	}
	*out = loop;
	return 0;
}

int l7mp_loop_new(struct l7mp_loop **out)
{
	return loop_new(false, out);
}

int l7mp_loop_new_manual(struct l7mp_loop **out)
{
	return loop_new(true, out);
}

static void guard_cb(uv_timer_t *timer)
{
	uv_stop(timer->loop);
}

/* Runs until nothing keeps the loop alive, or until DRY_GUARD_MS, which only a bug exceeds. */
static void run_dry(struct l7mp_loop *loop)
{
	uv_timer_t guard;

	uv_unref((uv_handle_t *)&loop->timer);
	uv_timer_init(&loop->uv, &guard);
	uv_update_time(&loop->uv);
	uv_timer_start(&guard, guard_cb, DRY_GUARD_MS, 0);
	uv_unref((uv_handle_t *)&guard);
	uv_run(&loop->uv, UV_RUN_DEFAULT);
	uv_close((uv_handle_t *)&guard, NULL);
	uv_run(&loop->uv, UV_RUN_NOWAIT); /* the handle is on this stack until its close callback */
}

static int stop_uv(struct l7mp_loop *loop)
{
	run_dry(loop);
	if (loop->holds)
		return UV_EBUSY;
	l7mp_resolver_free(&loop->resolver);
	l7mp_heap_free(&loop->heap);
	l7mp_worker_stop(loop);
	uv_close((uv_handle_t *)&loop->prepare, NULL);
	uv_close((uv_handle_t *)&loop->check, NULL);
	uv_close((uv_handle_t *)&loop->idle, NULL);
	uv_close((uv_handle_t *)&loop->timer, NULL);
	uv_close((uv_handle_t *)&loop->epoll, NULL);
	close(loop->epfd);
	uv_run(&loop->uv, UV_RUN_NOWAIT);
	l7mp_worker_free(loop);
	return uv_loop_close(&loop->uv);
}

int l7mp_loop_free(struct l7mp_loop **loopp)
{
	struct l7mp_loop *loop = *loopp;
	int rc = 0;

	if (!loop)
		return 0;
	*loopp = NULL;
	if (loop->manual) {
		l7mp_tasks_run(loop);
		l7mp_heap_free(&loop->heap);
	} else {
		rc = stop_uv(loop);
	}
	if (rc)
		return rc; /* a handle may still refer to the loop, so leak it */
	l7mp_dgram_shared_free(&loop->dgram);
	l7mp_buf_pool_free(&loop->bufs);
	free(loop);
	return 0;
}

int l7mp_loop_run(struct l7mp_loop *loop)
{
	uv_run(&loop->uv, UV_RUN_DEFAULT);
	return 0;
}

void l7mp_loop_stop(struct l7mp_loop *loop)
{
	if (!loop->manual)
		uv_stop(&loop->uv);
}

void l7mp_loop_hold(struct l7mp_loop *loop)
{
	if (!loop->holds++ && !loop->manual)
		uv_ref((uv_handle_t *)&loop->epoll);
}

void l7mp_loop_release(struct l7mp_loop *loop)
{
	if (!--loop->holds && !loop->manual)
		uv_unref((uv_handle_t *)&loop->epoll);
}

/* ---- the manual clock ---- */

void l7mp_loop_turn(struct l7mp_loop *loop)
{
	if (!loop->manual) {
		uv_run(&loop->uv, UV_RUN_NOWAIT);
		return;
	}
	l7mp_heap_fire(&loop->heap, loop->manual_now);
	l7mp_tasks_run(loop);
	l7mp_slices_run(loop);
	l7mp_tasks_run(loop);
}

void l7mp_loop_advance(struct l7mp_loop *loop, uint64_t ms)
{
	const struct l7mp_heap *h = &loop->heap;
	uint64_t target = loop->manual_now + ms;
	int rounds = 0;

	while (h->n && h->v[0].due <= target && rounds++ < MANUAL_ROUNDS) {
		if (h->v[0].due > loop->manual_now) {
			loop->manual_now = h->v[0].due;
			rounds = 0;
		}
		l7mp_loop_turn(loop);
	}
	loop->manual_now = target;
	l7mp_loop_turn(loop);
}

/* ---- what others may ask ---- */

uv_loop_t *l7mp_loop_uv(struct l7mp_loop *loop)
{
	return loop->manual ? NULL : &loop->uv;
}

struct l7mp_buf_pool *l7mp_loop_bufs(struct l7mp_loop *loop)
{
	return loop->bufs;
}

uint64_t l7mp_loop_now(const struct l7mp_loop *loop)
{
	return loop->manual ? loop->manual_now : uv_now(&loop->uv);
}

uint64_t l7mp_loop_latency_us(const struct l7mp_loop *loop, bool maximum)
{
	uint64_t age;

	if (loop->manual)
		return 0;
	if (maximum)
		return loop->lat_max;
	age = uv_hrtime() / 1000000000u - loop->second;
	if (age > 1)
		return 0;
	return age == 1 || loop->lat_cur > loop->lat_prev ? loop->lat_cur : loop->lat_prev;
}
