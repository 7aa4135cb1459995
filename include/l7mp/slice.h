/* SPDX-License-Identifier: MIT */
/*
 * Long work in short slices. All work that grows with the number of sessions, flows or objects is
 * done in slices: each loop iteration gives all pending slices together at most L7MP_SLICE_US, or a
 * quarter of what I/O took in the iteration before, one after the other, and then polls for I/O, so
 * that datagrams wait for one slice and never for the whole work.
 *
 * A slice does some steps, calls l7mp_slice_over() between them, and posts itself again when work
 * is left. Single steps must be short, as the loop can't interrupt a slice.
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/loop.h"

/* The time that slices may take in one loop iteration, in µs; and at most, under load. */
#define L7MP_SLICE_US     500
#define L7MP_SLICE_MAX_US 2000
/*
 * How many tasks they may post. Tasks run in the same iteration, so they belong to what the
 * iteration takes: to end a session takes three times as long in its tasks as in the slice.
 */
#define L7MP_SLICE_TASKS 128

struct l7mp_slice {
	void (*cb)(struct l7mp_slice *slice, void *arg);
	void *arg;
	struct l7mp_slice *prev, *next; /* private; prev NULL: not posted */
};
void l7mp_slice_init(struct l7mp_slice *s, void (*cb)(struct l7mp_slice *s, void *arg), void *arg);
/*
 * Queues the slice behind those that wait; it runs once, in this iteration or a later one. Does
 * nothing when it is queued already.
 */
void l7mp_slice_post(struct l7mp_loop *loop, struct l7mp_slice *s);
/* Removes it from the queue, after which it may be freed. */
void l7mp_slice_cancel(struct l7mp_loop *loop, struct l7mp_slice *s);
/* Inside a slice: is its time used up, or its share of tasks? Outside of one always true. */
bool l7mp_slice_over(const struct l7mp_loop *loop);

/* ---- measured durations, for metrics and tests ---- */

#define L7MP_SLICE_BUCKETS 8
struct l7mp_slice_stats {
	uint64_t count;                      /* slices that ran */
	uint64_t sum_us;                     /* total time */
	uint64_t max_us;                     /* longest time since the start */
	uint64_t bucket[L7MP_SLICE_BUCKETS]; /* slices of at most l7mp_slice_bounds_us[i] */
};
extern const uint32_t l7mp_slice_bounds_us[L7MP_SLICE_BUCKETS];
const struct l7mp_slice_stats *l7mp_loop_slice_stats(const struct l7mp_loop *loop);

/* ---- what loop iterations that ran slices took, in processor time ---- */

enum l7mp_turn_part {
	L7MP_TURN_TIMERS,
	L7MP_TURN_SLICES,
	L7MP_TURN_TASKS,
	L7MP_TURN_IO, /* polling, what descriptors report, handles that are closed */
	L7MP_TURN_PARTS,
};
struct l7mp_turn_stats {
	struct l7mp_slice_stats turns;    /* all parts together */
	uint64_t max_us[L7MP_TURN_PARTS]; /* the longest of each part since the start */
};
const struct l7mp_turn_stats *l7mp_loop_turn_stats(const struct l7mp_loop *loop);

/* Reads the monotonic clock, in µs; a manual loop's moves by l7mp_loop_advance and _spend. */
uint64_t l7mp_loop_clock_us(const struct l7mp_loop *loop);
/* Manual loops: advances the clock by `us` microseconds within an iteration; no timer fires. */
void l7mp_loop_spend(struct l7mp_loop *loop, uint64_t us);
/* Manual loops: each reading of the clock advances it by `us` microseconds from now on. */
void l7mp_loop_spend_each(struct l7mp_loop *loop, uint64_t us);
