/* SPDX-License-Identifier: MIT */
/*
 * How flows begin (userspace/offload/table/handover.c): user space's side of the two numbers,
 * against a program and a clock that the test plays.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "offload/engine.h"

/* ---- the clock: the linker's --wrap, the Makefile says so for this test ---- */

static uint64_t clock_us = 1000000;
static void (*during)(void); /* called each microsecond */

int __wrap_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts)
{
	(void)id;
	ts->tv_sec = (time_t)(clock_us / 1000000);
	ts->tv_nsec = (long)(clock_us % 1000000) * 1000;
	return 0;
}

/* ---- a table with a hand-over only, and an owner ---- */

static struct off_table e;
static int asked, begun, late;
static bool empty = true; /* the owner's sockets */
static struct l7mp_flow *remove_in_ready;

static bool on_ready(void *arg, uint64_t cookie)
{
	(void)arg;
	assert_int_equal(cookie, 42);
	asked++;
	if (remove_in_ready)
		off_handover_release(&e, remove_in_ready);
	return empty;
}

static void on_begun(void *arg, uint64_t cookie, bool was_late)
{
	(void)arg;
	assert_int_equal(cookie, 42);
	begun++;
	late += was_late;
}

static const struct l7mp_offload_events events = {.ready = on_ready, .begun = on_begun};

static int setup(void **state)
{
	(void)state;
	memset(&e, 0, sizeof(e));
	assert_int_equal(l7mp_loop_new_manual(&e.loop), 0);
	e.events = &events;
	e.maps.flows4 = e.maps.flows6 = -1; /* what it can't be told, it does without */
	e.maps.handover = memfd_create("handover", MFD_CLOEXEC);
	assert_true(e.maps.handover >= 0);
	assert_int_equal(
	        ftruncate(e.maps.handover, L7MP_HANDOVER_SLOTS * sizeof(struct l7mp_handover)), 0);
	assert_int_equal(off_handover_start(&e), 0);
	asked = begun = late = 0;
	empty = true;
	remove_in_ready = NULL;
	during = NULL;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	off_handover_stop(&e);
	close(e.maps.handover);
	return l7mp_loop_free(&e.loop);
}

static void add(struct l7mp_flow *flow, enum l7mp_flow_verb verb, uint8_t n_dirs)
{
	memset(flow, 0, sizeof(*flow));
	flow->cookie = 42;
	flow->verb = (uint8_t)verb;
	flow->n_dirs = n_dirs;
	for (int i = 0; i < n_dirs; i++)
		flow->dir[i].flow = flow;
	off_handover_prepare(&e, flow);
	off_handover_add(&e, flow);
}

static volatile struct l7mp_handover *slot(const struct l7mp_flow *flow, int dir)
{
	assert_true(flow->dir[dir].action.flags & L7MP_FLOW_HANDOVER);
	return &e.handover.slots[flow->dir[dir].action.handover];
}

/* headers/handover.h. True: the packet went up. */
static bool packet(const struct l7mp_flow *flow, int dir)
{
	volatile struct l7mp_handover *h = slot(flow, dir);

	if (h->passed == h->relayed)
		return false;
	h->passed++;
	return true;
}

/*
 * A loop iteration. The clock stands still inside it: a hand-over that waited for it there would
 * wait for ever.
 */
#define TURN_US 50

static void ms(unsigned n)
{
	for (unsigned turn = 1; turn <= n * 1000 / TURN_US; turn++) {
		for (unsigned us = 0; us < TURN_US; us++) {
			clock_us++;
			if (during)
				during();
		}
		l7mp_loop_advance(e.loop, turn % (1000 / TURN_US) == 0);
	}
}

/* ---- the tests ---- */

/*
 * Without packets: up until it has settled, equal once, equal again, begun; the place is given
 * back.
 */
static void quiet(void **state)
{
	struct l7mp_flow flow;
	(void)state;

	add(&flow, L7MP_VERB_FORWARD, 2);
	assert_int_equal(e.handover.n_free, L7MP_HANDOVER_SLOTS - 2);
	assert_int_not_equal(flow.dir[0].action.handover, flow.dir[1].action.handover);
	assert_true(packet(&flow, 0)); /* what came before the flow was there */
	assert_true(packet(&flow, 1));
	ms(1);
	assert_int_equal(asked, 0); /* two packets since: they may not be in the sockets yet */
	ms(1);
	assert_int_equal(asked, 1);
	assert_false(packet(&flow, 0));
	assert_false(packet(&flow, 1));
	assert_int_equal(begun, 0);
	ms(1);
	assert_int_equal(begun, 1);
	assert_int_equal(late, 0);
	assert_int_equal(e.handover.forced, 0);
	assert_false(l7mp_timer_armed(&e.handover.timer));
	off_handover_release(&e, &flow);
	assert_int_equal(e.handover.n_free, L7MP_HANDOVER_SLOTS);
}

/*
 * The race for which they must be equal twice: a program sees different numbers, user space makes
 * them equal, the program counts. What follows goes up again, and the flow must not have begun with
 * that packet on its way.
 */
static void counts_late(void **state)
{
	struct l7mp_flow flow;
	(void)state;

	add(&flow, L7MP_VERB_FORWARD, 2);
	ms(1);
	assert_int_equal(asked, 1);
	assert_int_equal(slot(&flow, 0)->passed, slot(&flow, 0)->relayed);
	slot(&flow, 0)->passed++; /* it had looked before */
	assert_true(packet(&flow, 0));
	ms(1);
	assert_int_equal(begun, 0);
	assert_true(packet(&flow, 0));
	ms(2);
	assert_int_equal(asked, 2); /* the sockets are emptied once more */
	assert_int_equal(begun, 0);
	assert_false(packet(&flow, 0));
	ms(1);
	assert_int_equal(begun, 1);
	assert_int_equal(late, 0);
}

/* Relaying takes a while, or can't be done now: it waits for that. */
static void sockets_full(void **state)
{
	struct l7mp_flow flow;
	(void)state;

	empty = false;
	add(&flow, L7MP_VERB_FORWARD, 2);
	ms(10);
	assert_true(asked > 5);
	assert_int_equal(begun, 0);
	assert_true(packet(&flow, 1));
	empty = true;
	assert_int_equal(begun, 0);
	ms(3);
	assert_int_equal(begun, 1);
	assert_int_equal(late, 0);
}

static struct l7mp_flow *streaming;
static uint64_t every_us, last_us;

static void stream(void)
{
	if (clock_us - last_us < every_us || !streaming->beginning)
		return;
	last_us = clock_us;
	(void)packet(streaming, 0);
}

/* A packet each 200 us: no pause of 0.9 ms, but after 5 ms one of 30 us suffices. */
static void hurry(void **state)
{
	struct l7mp_flow flow;
	(void)state;

	add(&flow, L7MP_VERB_FORWARD, 2);
	streaming = &flow;
	every_us = 200;
	during = stream;
	ms(4);
	assert_int_equal(asked, 0);
	ms(8);
	assert_int_equal(begun, 1);
	assert_int_equal(late, 0);
}

/*
 * One each 5 us never pauses: it begins after 50 ms, and the owner hears that something may be
 * overtaken.
 */
static void forced(void **state)
{
	struct l7mp_flow flow;
	(void)state;

	add(&flow, L7MP_VERB_FORWARD, 2);
	streaming = &flow;
	every_us = 5;
	during = stream;
	ms(40);
	assert_int_equal(begun, 0);
	ms(15);
	assert_int_equal(begun, 1);
	assert_int_equal(late, 1);
	assert_int_equal(e.handover.forced, 1);
	assert_false(packet(&flow, 0));
}

/* Nothing that leaves can be overtaken: no place, and no waiting. */
static void discard(void **state)
{
	struct l7mp_flow flow;
	(void)state;

	add(&flow, L7MP_VERB_COUNT, 1);
	assert_int_equal(e.handover.n_free, L7MP_HANDOVER_SLOTS);
	ms(2);
	assert_int_equal(begun, 1);
	assert_int_equal(late, 0);
}

/*
 * Removed while it begins, also by its own owner's relaying: no event any more, and the places are
 * free.
 */
static void removed(void **state)
{
	struct l7mp_flow flow;
	(void)state;

	add(&flow, L7MP_VERB_FORWARD, 2);
	off_handover_release(&e, &flow);
	assert_int_equal(e.handover.n_free, L7MP_HANDOVER_SLOTS);
	ms(5);
	assert_int_equal(asked + begun, 0);

	add(&flow, L7MP_VERB_FORWARD, 2);
	remove_in_ready = &flow;
	ms(5);
	assert_int_equal(asked, 1);
	assert_int_equal(begun, 0);
	assert_int_equal(e.handover.n_free, L7MP_HANDOVER_SLOTS);
	assert_int_equal(e.handover.n_flows, 0);
}

/* More than there are places: those without one begin, and say that something may be overtaken. */
static void no_place(void **state)
{
	enum { N = L7MP_HANDOVER_SLOTS / 2 + 10 };
	struct l7mp_flow *flows = calloc(N, sizeof(*flows));
	(void)state;

	assert_non_null(flows);
	for (int i = 0; i < N; i++)
		add(&flows[i], L7MP_VERB_FORWARD, 2);
	assert_int_equal(e.handover.n_free, 0);
	ms(30);
	assert_int_equal(begun, N);
	assert_int_equal(late, 10);
	for (int i = 0; i < N; i++)
		off_handover_release(&e, &flows[i]);
	assert_int_equal(e.handover.n_free, L7MP_HANDOVER_SLOTS);
	free(flows);
}

/* Adoption: the slot of a flow that is not adopted is free again, and one of another is not. */
static void unclaimed(void **state)
{
	struct off_direction kept = {.action = {.flags = L7MP_FLOW_HANDOVER, .handover = 7}};
	struct off_direction left = {.action = {.flags = L7MP_FLOW_HANDOVER, .handover = 8}};
	struct off_direction none = {.action = {.handover = 7}};
	(void)state;

	assert_int_equal(off_handover_claim(&e, &kept), 0);
	assert_int_equal(off_handover_claim(&e, &left), 0);
	assert_int_equal(off_handover_claim(&e, &kept), -EEXIST);
	off_handover_unclaim(&e, &left);
	off_handover_unclaim(&e, &none);
	off_handover_claimed(&e);
	assert_int_equal(e.handover.n_free, L7MP_HANDOVER_SLOTS - 1);
	for (unsigned i = 0; i < e.handover.n_free; i++)
		assert_int_not_equal(e.handover.free[i], 7);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	        TEST(quiet),   TEST(counts_late), TEST(sockets_full), TEST(hurry),     TEST(forced),
	        TEST(discard), TEST(removed),     TEST(no_place),     TEST(unclaimed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
