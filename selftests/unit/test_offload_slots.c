/* SPDX-License-Identifier: MIT */
/*
 * Places of counters (userspace/offload/table/slots.c): none is given out twice, nor again before
 * the wait for the programs is over.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "looptest.h"
#include "offload/engine.h"

#define FLOWS 10
#define SLOTS 12

static struct off_table t;
static struct off_direction dirs[SLOTS + 1];

static int setup(void **state)
{
	(void)state;
	memset(&t, 0, sizeof(t));
	memset(dirs, 0, sizeof(dirs));
	for (int i = 0; i <= SLOTS; i++)
		dirs[i].key.family = i % 2 ? L7MP_FAMILY_V6 : L7MP_FAMILY_V4;
	assert_int_equal(l7mp_loop_new(&t.loop), 0);
	t.maps.max_flows = FLOWS;
	t.maps.n_slots = SLOTS;
	return off_slots_start(&t);
}

static int teardown(void **state)
{
	(void)state;
	off_slots_stop(&t);
	return l7mp_loop_free(&t.loop);
}

static bool has(const bool taken[SLOTS], const struct off_direction *dir)
{
	assert_true(dir->action.slot < SLOTS);
	return taken[dir->action.slot];
}

static void test_own(void **state)
{
	bool taken[SLOTS] = {false};

	(void)state;
	for (int i = 0; i < FLOWS; i++) {
		assert_int_equal(off_slot_take(&t, &dirs[i]), 0);
		assert_false(has(taken, &dirs[i]));
		taken[dirs[i].action.slot] = true;
		assert_ptr_equal(t.slots.dirs[dirs[i].action.slot], &dirs[i]);
	}
	assert_int_equal(t.slots.n_of[OFF_V4], FLOWS / 2);
	assert_int_equal(t.slots.n_of[OFF_V6], FLOWS / 2);
	assert_int_equal(off_slot_take(&t, &dirs[FLOWS]), -E2BIG);
	off_slot_give(&t, &dirs[FLOWS]); /* it has none */
	assert_int_equal(t.slots.n_used, FLOWS);
}

static void test_not_at_once(void **state)
{
	uint32_t first;

	(void)state;
	assert_int_equal(off_slot_take(&t, &dirs[0]), 0);
	first = dirs[0].action.slot;
	off_slot_give(&t, &dirs[0]);
	assert_null(t.slots.dirs[first]);
	/* All others are taken and given back before that one comes again. */
	for (int i = 1; i < SLOTS; i++) {
		assert_int_equal(off_slot_take(&t, &dirs[i]), 0);
		assert_int_not_equal(dirs[i].action.slot, first);
		off_slot_give(&t, &dirs[i]);
	}
	assert_int_equal(off_slot_take(&t, &dirs[0]), -EAGAIN);
	assert_int_equal(t.slots.n_waiting, SLOTS);
	LOOP_UNTIL(t.loop, t.slots.n_waiting == 0, 60000);
	for (int i = 0; i < FLOWS; i++)
		assert_int_equal(off_slot_take(&t, &dirs[i]), 0);
}

/* What is given back while the wait is going on needs another one. */
static void test_late(void **state)
{
	uint32_t late;

	(void)state;
	assert_int_equal(off_slot_take(&t, &dirs[0]), 0);
	assert_int_equal(off_slot_take(&t, &dirs[1]), 0);
	late = dirs[1].action.slot;
	off_slot_give(&t, &dirs[0]);
	LOOP_UNTIL(t.loop, t.slots.n_covered || t.slots.n_ready, 60000);
	off_slot_give(&t, &dirs[1]);
	LOOP_UNTIL(t.loop, t.slots.n_ready, 60000);
	assert_int_equal(t.slots.n_ready, 1);
	assert_int_equal(t.slots.n_waiting, 1);
	assert_int_equal(t.slots.waiting[0], late);
	LOOP_UNTIL(t.loop, t.slots.n_waiting == 0, 60000);
	assert_int_equal(t.slots.n_ready, 2);
}

/* Adoption: a slot that was claimed and given back is free once, not twice. */
static void test_claimed_and_given_back(void **state)
{
	bool taken[SLOTS] = {false};

	(void)state;
	for (int i = 0; i < 3; i++) {
		dirs[i].action.slot = (uint32_t)(2 + 3 * i);
		assert_int_equal(off_slot_claim(&t, &dirs[i]), 0);
	}
	dirs[3].action.slot = 5;
	assert_int_equal(off_slot_claim(&t, &dirs[3]), -EEXIST);
	off_slot_give(&t, &dirs[1]);
	off_slots_claimed(&t);
	taken[2] = taken[8] = true;
	LOOP_UNTIL(t.loop, !l7mp_timer_armed(&t.slots.timer) && !t.slots.n_covered, 60000);
	for (int i = 3; i < 3 + FLOWS - 2; i++) {
		assert_int_equal(off_slot_take(&t, &dirs[i]), 0);
		assert_false(has(taken, &dirs[i]));
		taken[dirs[i].action.slot] = true;
	}
	assert_int_equal(off_slot_take(&t, &dirs[SLOTS]), -E2BIG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_own, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_not_at_once, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_late, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_claimed_and_given_back, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
