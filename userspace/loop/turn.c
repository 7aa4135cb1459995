/* SPDX-License-Identifier: MIT */
/*
 * What control costs a turn of the loop, in processor time of the loop's thread: it does not grow
 * when other programs want the processor, so it can be held against a bound. Reading that
 * clock is a system call, thus only turns that run slices are measured, but those as a whole: the
 * tasks that slices post and the answers that are then written are part of what they cost.
 */
#include <time.h>

#include "loop_int.h"

static uint64_t cpu_us(void)
{
	struct timespec t;

	if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t))
		return 0;
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

void l7mp_turn_mark(struct l7mp_loop *loop, enum l7mp_turn_part part)
{
	struct l7mp_turn *turn = &loop->turn;
	uint64_t now;

	if (!turn->measured)
		return;
	now = cpu_us();
	turn->us[part] += now - turn->stamp;
	turn->stamp = now;
}

void l7mp_turn_begin(struct l7mp_loop *loop)
{
	struct l7mp_turn *turn = &loop->turn;
	struct l7mp_turn_stats *st = &loop->turn_stats;
	uint64_t sum = 0;

	if (turn->measured) {
		l7mp_turn_mark(loop, L7MP_TURN_IO);
		for (int i = 0; i < L7MP_TURN_PARTS; i++) {
			sum += turn->us[i];
			if (turn->us[i] > st->max_us[i])
				st->max_us[i] = turn->us[i];
			turn->us[i] = 0;
		}
		l7mp_slice_count(&st->turns, sum);
	}
	turn->measured = l7mp_slices_pending(loop);
	if (turn->measured)
		turn->stamp = cpu_us();
}

const struct l7mp_turn_stats *l7mp_loop_turn_stats(const struct l7mp_loop *loop)
{
	return &loop->turn_stats;
}
