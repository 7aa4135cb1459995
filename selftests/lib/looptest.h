/* SPDX-License-Identifier: MIT */
/* Driving a real loop from a unit test: turns until something is true, with a deadline. */
#pragma once

#include <time.h>
#include <unistd.h>

#include "l7mp/loop.h"

static inline uint64_t looptest_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Fails the test when `cond` is not true within `ms`. */
#define LOOP_UNTIL(loop, cond, ms)                          \
	do {                                                \
		uint64_t until_ = looptest_ms() + (ms);     \
		while (!(cond) && looptest_ms() < until_) { \
			l7mp_loop_turn(loop);               \
			if (!(cond))                        \
				usleep(50);                 \
		}                                           \
		assert_true(cond);                          \
	} while (0)

/* Turns for a while, to see that nothing more happens. */
#define LOOP_FOR(loop, ms)                              \
	do {                                            \
		uint64_t until_ = looptest_ms() + (ms); \
		while (looptest_ms() < until_) {        \
			l7mp_loop_turn(loop);           \
			usleep(50);                     \
		}                                       \
	} while (0)
