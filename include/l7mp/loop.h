/* SPDX-License-Identifier: MIT */
/*
 * The event loop: sockets, timers and deferred tasks of our own. Cancelling these is synchronous,
 * so that their owner may free them at once, which libuv's handles do not allow. libuv runs inside
 * of it, for everything else.
 *
 * A loop iteration runs: timers, tasks, flush hooks (batched sends), slices of long work
 * (slice.h), a poll for I/O and its callbacks, libuv if it has something to do, tasks and flush
 * hooks again.
 *
 * Thread: every function must be called on the loop's own thread. To reach the loop from another
 * thread, use mailbox.h. The loop is always passed as an argument, so that there can be several.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "l7mp/buf.h"

struct l7mp_loop;

/* Makes a loop. Returns 0 or a negative errno. */
int l7mp_loop_new(struct l7mp_loop **out);
/*
 * Makes a manual loop, for unit tests: its clock starts at 1,000,000 ms and moves only by
 * l7mp_loop_advance. It has no uv loop, so nothing may watch a descriptor on it. Returns 0 or a
 * negative errno.
 */
int l7mp_loop_new_manual(struct l7mp_loop **out);
/*
 * Manual loops: advances the clock by `ms` milliseconds, firing the timers that become due in
 * order, and running tasks and flush hooks after each.
 */
void l7mp_loop_advance(struct l7mp_loop *loop, uint64_t ms);
/*
 * Runs one iteration, which does not wait for I/O. A manual loop runs the timers, tasks and flush
 * hooks that are due; its clock does not advance.
 */
void l7mp_loop_turn(struct l7mp_loop *loop);

/* Runs until no active handle is left or l7mp_loop_stop was called. Returns 0. */
int l7mp_loop_run(struct l7mp_loop *loop);
/* Makes l7mp_loop_run return at the end of this iteration. */
void l7mp_loop_stop(struct l7mp_loop *loop);
/*
 * Closes the loop's own handles, runs until all pending callbacks were called, and frees the loop.
 * Returns 0, or UV_EBUSY when a module has left a handle open, which is a bug. Nulls the pointer.
 */
int l7mp_loop_free(struct l7mp_loop **loop);

/*
 * Returns libuv's loop, for handles of libuv; NULL for a manual loop. It is not to be run: use
 * l7mp_loop_run or l7mp_loop_turn.
 */
uv_loop_t *l7mp_loop_uv(struct l7mp_loop *loop);
/* Returns the loop's buffer pool. */
struct l7mp_buf_pool *l7mp_loop_bufs(struct l7mp_loop *loop);
/* Returns the monotonic time in ms as of the start of this iteration. */
uint64_t l7mp_loop_now(const struct l7mp_loop *loop);

/* ---- timers: one shot, ms resolution, cancel is synchronous ---- */

struct l7mp_timer {
	void (*cb)(struct l7mp_timer *timer, void *arg);
	void *arg;
	/* Private. */
	uint64_t due; /* loop time in ms */
	size_t index; /* position in the loop's heap, from 1; 0: not armed */
	bool reserved;
};
/* Initialises a timer that calls cb(timer, arg) when it fires. */
void l7mp_timer_init(struct l7mp_timer *t, void (*cb)(struct l7mp_timer *t, void *arg), void *arg);
/*
 * Arms the timer, or moves it when it is armed. A delay of 0 fires in the next iteration. Returns 0
 * or -ENOMEM; it can't fail for an armed or reserved timer.
 */
int l7mp_timer_start(struct l7mp_loop *loop, struct l7mp_timer *t, uint64_t delay_ms);
/* Disarms the timer; does nothing when it is not armed. */
void l7mp_timer_stop(struct l7mp_loop *loop, struct l7mp_timer *t);
/*
 * Reserves memory for the timer until l7mp_timer_give_back, so that starting it can't fail: for
 * timers whose failure nothing would repair, such as a periodic poll. Returns 0 or -ENOMEM. Does
 * nothing when it is reserved already.
 */
int l7mp_timer_reserve(struct l7mp_loop *loop, struct l7mp_timer *t);
/* Gives the reservation up and stops the timer. Does nothing when it is not reserved. */
void l7mp_timer_give_back(struct l7mp_loop *loop, struct l7mp_timer *t);
static inline bool l7mp_timer_armed(const struct l7mp_timer *t)
{
	return t->index != 0;
}

/* ---- tasks: run once, later in this iteration or in the next, never from inside post ---- */

struct l7mp_task {
	void (*cb)(struct l7mp_task *task, void *arg);
	void *arg;
	struct l7mp_task *prev, *next; /* private; prev NULL: not posted */
};
void l7mp_task_init(struct l7mp_task *t, void (*cb)(struct l7mp_task *t, void *arg), void *arg);
/* Posts the task; does nothing when it is posted already. Can't fail. */
void l7mp_task_post(struct l7mp_loop *loop, struct l7mp_task *t);
/* Cancels it, after which it may be freed; does nothing when it is not posted. */
void l7mp_task_cancel(struct l7mp_loop *loop, struct l7mp_task *t);

/* ---- flush hooks: run once at the end of the iteration, for batched sends ---- */

struct l7mp_flush {
	void (*cb)(struct l7mp_flush *flush, void *arg);
	void *arg;
	struct l7mp_flush *prev, *next; /* private; prev NULL: not pending */
};
void l7mp_flush_init(struct l7mp_flush *f, void (*cb)(struct l7mp_flush *f, void *arg), void *arg);
/* Requests the hook for this iteration; does nothing when it is pending. Can't fail. */
void l7mp_flush_request(struct l7mp_loop *loop, struct l7mp_flush *f);
/* Cancels it, after which it may be freed; does nothing when it is not pending. */
void l7mp_flush_cancel(struct l7mp_loop *loop, struct l7mp_flush *f);

/*
 * Returns, in µs, the longest time between two polls for I/O within the last second, or with
 * `maximum` since the start.
 */
uint64_t l7mp_loop_latency_us(const struct l7mp_loop *loop, bool maximum);
