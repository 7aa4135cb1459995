/* SPDX-License-Identifier: MIT */
/*
 * The event loop: libuv, with timers and deferred tasks whose cancellation is
 * synchronous (an owner may free them at once; libuv's handles may not).
 *
 * The loop is passed, never looked up, so that several loops on several cores
 * stay possible. Thread: every function is for the loop's own thread, except
 * l7mp_mailbox_post (mailbox.h).
 *
 * A turn of the loop: timers -> I/O callbacks -> tasks -> flush hooks (batched
 * sends) -> slices of long work (slice.h) -> close callbacks.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "l7mp/buf.h"

struct l7mp_loop;

int l7mp_loop_new(struct l7mp_loop **out);
/*
 * A loop for unit tests, with a clock of its own that starts at 1,000,000 ms and
 * moves only by l7mp_loop_advance. It has no uv loop: nothing may open a descriptor on it.
 */
int l7mp_loop_new_manual(struct l7mp_loop **out);
/*
 * Advances a manual clock by ms, firing timers in order and running tasks and flush hooks after
 * each.
 */
void l7mp_loop_advance(struct l7mp_loop *loop, uint64_t ms);
/* Runs tasks and flush hooks that are due, without moving a manual clock. */
void l7mp_loop_turn(struct l7mp_loop *loop);

/* Runs until no handle is left or l7mp_loop_stop. 0. */
int l7mp_loop_run(struct l7mp_loop *loop);
void l7mp_loop_stop(struct l7mp_loop *loop);
/*
 * Closes own handles, runs the loop dry and frees it. Returns uv_loop_close()'s result: 0, or
 * UV_EBUSY when a module left a handle open (a bug).
 */
int l7mp_loop_free(struct l7mp_loop **loop);

uv_loop_t *l7mp_loop_uv(struct l7mp_loop *loop); /* NULL for a manual loop */
struct l7mp_buf_pool *l7mp_loop_bufs(struct l7mp_loop *loop);
/* Monotonic ms, as of the start of this turn. */
uint64_t l7mp_loop_now(const struct l7mp_loop *loop);

/* ---- timers: one shot, ms resolution, cancel is synchronous ---- */

struct l7mp_timer {
	void (*cb)(struct l7mp_timer *timer, void *arg);
	void *arg;
	uint64_t due; /* loop time in ms; private */
	size_t index; /* 1-based place in the loop's heap; 0: not armed */
	bool reserved;
};
void l7mp_timer_init(struct l7mp_timer *t, void (*cb)(struct l7mp_timer *t, void *arg), void *arg);
/* Arms, or moves, the timer. 0 or -ENOMEM. A delay of 0 fires in the next turn. */
int l7mp_timer_start(struct l7mp_loop *loop, struct l7mp_timer *t, uint64_t delay_ms);
void l7mp_timer_stop(struct l7mp_loop *loop, struct l7mp_timer *t); /* fine when not armed */
/*
 * Keeps a place for the timer until it is given back, so that starting it can't fail: for what
 * nobody would do again (a sweep, a queue that is waited for). 0 or -ENOMEM; no-op when it has one.
 */
int l7mp_timer_reserve(struct l7mp_loop *loop, struct l7mp_timer *t);
/* Stops the timer, too. No-op when it has no place. */
void l7mp_timer_give_back(struct l7mp_loop *loop, struct l7mp_timer *t);
static inline bool l7mp_timer_armed(const struct l7mp_timer *t)
{
	return t->index != 0;
}

/* ---- tasks: run once, later in this turn or in the next; never from inside post ---- */

struct l7mp_task {
	void (*cb)(struct l7mp_task *task, void *arg);
	void *arg;
	struct l7mp_task *prev, *next; /* private; prev NULL: not posted */
};
void l7mp_task_init(struct l7mp_task *t, void (*cb)(struct l7mp_task *t, void *arg), void *arg);
void l7mp_task_post(struct l7mp_loop *loop, struct l7mp_task *t); /* no-op when posted */
void l7mp_task_cancel(struct l7mp_loop *loop, struct l7mp_task *t);

/* ---- flush hooks: run at the end of a turn when asked for (batched sends) ---- */

struct l7mp_flush {
	void (*cb)(struct l7mp_flush *flush, void *arg);
	void *arg;
	struct l7mp_flush *prev, *next; /* private; prev NULL: not pending */
};
void l7mp_flush_init(struct l7mp_flush *f, void (*cb)(struct l7mp_flush *f, void *arg), void *arg);
void l7mp_flush_request(struct l7mp_loop *loop, struct l7mp_flush *f);
void l7mp_flush_cancel(struct l7mp_loop *loop, struct l7mp_flush *f);

/*
 * Longest time between two polls in the last second and its running maximum, in µs: a gauge for
 * metrics.
 */
uint64_t l7mp_loop_latency_us(const struct l7mp_loop *loop, bool maximum);
