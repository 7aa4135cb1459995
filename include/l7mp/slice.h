/* SPDX-License-Identifier: MIT */
/*
 * Long work in short slices. Whatever grows with the number of sessions, flows or objects
 * runs as a slice: each turn of the loop gives all pending slices together at most
 * L7MP_SLICE_US, one after the other, and then polls its descriptors, so that datagrams wait
 * for one slice and never for the whole work.
 *
 * A slice does some steps, asks l7mp_slice_over() between them, and posts itself again when
 * something is left. It is for the slice to keep single steps short: the loop can't stop it.
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/loop.h"

/* What slices may take of one turn of the loop, in µs. */
#define L7MP_SLICE_US 500
/*
 * How many tasks they may post. Tasks run in the same turn, so they belong to what the turn takes:
 * to end a session takes three times as long in its tasks as in the slice.
 */
#define L7MP_SLICE_TASKS 128

struct l7mp_slice {
	void (*cb)(struct l7mp_slice *slice, void *arg);
	void *arg;
	struct l7mp_slice *prev, *next; /* private; prev NULL: not posted */
};
void l7mp_slice_init(struct l7mp_slice *s, void (*cb)(struct l7mp_slice *s, void *arg), void *arg);
/* Runs once, in this turn or a later one, behind those that wait already. No-op when posted. */
void l7mp_slice_post(struct l7mp_loop *loop, struct l7mp_slice *s);
void l7mp_slice_cancel(struct l7mp_loop *loop, struct l7mp_slice *s);
/* Inside a slice: is its time used up, or its share of tasks? Outside of one always true. */
bool l7mp_slice_over(const struct l7mp_loop *loop);

/* ---- how long slices really took, for metrics and tests ---- */

#define L7MP_SLICE_BUCKETS 8
struct l7mp_slice_stats {
	uint64_t count;                      /* slices that ran */
	uint64_t sum_us;                     /* their time in all */
	uint64_t max_us;                     /* the longest one since the start */
	uint64_t bucket[L7MP_SLICE_BUCKETS]; /* how many took at most l7mp_slice_bounds_us[i] */
};
extern const uint32_t l7mp_slice_bounds_us[L7MP_SLICE_BUCKETS];
const struct l7mp_slice_stats *l7mp_loop_slice_stats(const struct l7mp_loop *loop);

/* ---- what turns of the loop that ran slices took, in processor time ---- */

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

/* Monotonic time in µs, read now; a manual loop's moves by l7mp_loop_advance and _spend. */
uint64_t l7mp_loop_clock_us(const struct l7mp_loop *loop);
/* Manual loops: lets us microseconds pass within a turn; timers do not fire. */
void l7mp_loop_spend(struct l7mp_loop *loop, uint64_t us);
/* Manual loops: from now on each reading of the clock lets us microseconds pass. */
void l7mp_loop_spend_each(struct l7mp_loop *loop, uint64_t us);
