/* SPDX-License-Identifier: MIT */
/* Long work in slices, and work in a thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "l7mp/slice.h"
#include "l7mp/util.h"
#include "l7mp/work.h"

#define STEP_US 100

struct job {
	struct l7mp_slice slice;
	struct l7mp_loop *loop;
	int left; /* steps */
	int slices;
	int longest; /* steps of one slice */
	char name;
	char *log; /* of all jobs: who ran */
	struct job *cancels;
};

static void job_run(struct l7mp_slice *slice, void *arg)
{
	struct job *j = arg;
	int steps = 0;

	j->slices++;
	if (j->log)
		strncat(j->log, &j->name, 1);
	if (j->cancels)
		l7mp_slice_cancel(j->loop, &j->cancels->slice);
	while (j->left) {
		j->left--;
		steps++;
		l7mp_loop_spend(j->loop, STEP_US);
		if (l7mp_slice_over(j->loop))
			break;
	}
	if (steps > j->longest)
		j->longest = steps;
	if (j->left)
		l7mp_slice_post(j->loop, slice);
}

static void job_begin(struct job *j, struct l7mp_loop *loop, char name, int steps, char *log)
{
	*j = (struct job){.loop = loop, .left = steps, .name = name, .log = log};
	l7mp_slice_init(&j->slice, job_run, j);
	l7mp_slice_post(loop, &j->slice);
}

static void test_a_turn_is_bounded(void **state)
{
	struct l7mp_loop *loop;
	struct job j;
	int turns = 0;

	(void)state;
	assert_int_equal(l7mp_loop_new_manual(&loop), 0);
	assert_true(l7mp_slice_over(loop)); /* outside of a slice */
	job_begin(&j, loop, 'a', 1000, NULL);
	while (j.left) {
		uint64_t before = l7mp_loop_clock_us(loop);

		l7mp_loop_turn(loop);
		turns++;
		assert_true(l7mp_loop_clock_us(loop) - before <= L7MP_SLICE_US);
	}
	assert_int_equal(j.longest, L7MP_SLICE_US / STEP_US);
	assert_int_equal(turns, 1000 * STEP_US / L7MP_SLICE_US);
	assert_int_equal(l7mp_loop_slice_stats(loop)->count, turns);
	assert_int_equal(l7mp_loop_slice_stats(loop)->max_us, L7MP_SLICE_US);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

struct flood {
	uv_idle_t idle;
	struct l7mp_slice slice;
	struct l7mp_loop *loop;
	int turns;
};

/* As much processor time as the datagrams of a flood take. */
static void flood_cb(uv_idle_t *idle)
{
	struct timespec t;
	long begin, now;

	(void)idle;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	begin = now = t.tv_nsec / 1000 + t.tv_sec * 1000000;
	while (now - begin < 10000) {
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
		now = t.tv_nsec / 1000 + t.tv_sec * 1000000;
	}
}

static void flood_slice(struct l7mp_slice *slice, void *arg)
{
	struct flood *f = arg;

	while (!l7mp_slice_over(f->loop))
		;
	if (++f->turns < 5)
		l7mp_slice_post(f->loop, slice);
	else
		uv_close((uv_handle_t *)&f->idle, NULL);
}

/* When I/O takes 10 ms an iteration, slices have 2 ms. */
static void test_share_under_load(void **state)
{
	const struct l7mp_slice_stats *st;
	struct flood f = {0};

	(void)state;
	assert_int_equal(l7mp_loop_new(&f.loop), 0);
	uv_idle_init(l7mp_loop_uv(f.loop), &f.idle);
	uv_idle_start(&f.idle, flood_cb);
	l7mp_slice_init(&f.slice, flood_slice, &f);
	l7mp_slice_post(f.loop, &f.slice);
	l7mp_loop_run(f.loop);
	st = l7mp_loop_slice_stats(f.loop);
	assert_int_equal(st->count, 5);
	/* All but the first, before which nothing was measured; a busy machine adds. */
	assert_true(st->sum_us >= 4 * L7MP_SLICE_MAX_US + L7MP_SLICE_US);
	assert_int_equal(l7mp_loop_free(&f.loop), 0);
}

/*
 * One slice of each, in order of posting; those that found no time come first in the next
 * iteration.
 */
static void test_slices_take_turns(void **state)
{
	char log[64] = "";
	struct l7mp_loop *loop;
	struct job a, b, c;

	(void)state;
	assert_int_equal(l7mp_loop_new_manual(&loop), 0);
	job_begin(&a, loop, 'a', 10, log);
	job_begin(&b, loop, 'b', 10, log);
	job_begin(&c, loop, 'c', 2, log);
	l7mp_loop_turn(loop);
	assert_string_equal(log, "a");
	l7mp_loop_turn(loop);
	assert_string_equal(log, "ab");
	l7mp_loop_turn(loop);
	assert_string_equal(log, "abca"); /* c left time for another */
	for (int i = 0; i < 10; i++)
		l7mp_loop_turn(loop);
	assert_int_equal(a.left + b.left + c.left, 0);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

/* Ends things, each of which has to be tidied up by a task of its own. */
struct ender {
	struct l7mp_slice slice;
	struct l7mp_loop *loop;
	struct l7mp_task tasks[3 * L7MP_SLICE_TASKS];
	size_t at, done; /* tasks that were posted; that ran */
};

static void ender_task(struct l7mp_task *task, void *arg)
{
	(void)task;
	((struct ender *)arg)->done++;
}

static void ender_run(struct l7mp_slice *slice, void *arg)
{
	struct ender *e = arg;

	while (e->at < L7MP_ARRAY_SIZE(e->tasks)) {
		l7mp_task_init(&e->tasks[e->at], ender_task, e);
		l7mp_task_post(e->loop, &e->tasks[e->at++]);
		if (!l7mp_slice_over(e->loop))
			continue;
		l7mp_slice_post(e->loop, slice);
		return;
	}
}

/* What slices leave to tasks is bounded, too; no time passes here. */
static void test_tasks_of_a_slice_are_bounded(void **state)
{
	static struct ender e;
	struct l7mp_loop *loop;
	char log[64] = "";
	struct job j;

	(void)state;
	assert_int_equal(l7mp_loop_new_manual(&loop), 0);
	e.loop = loop;
	l7mp_slice_init(&e.slice, ender_run, &e);
	l7mp_slice_post(loop, &e.slice);
	job_begin(&j, loop, 'j', 1, log);
	l7mp_loop_turn(loop);
	assert_int_equal(e.done, L7MP_SLICE_TASKS);
	assert_string_equal(log, ""); /* the others wait, too */
	for (int i = 0; i < 5; i++)
		l7mp_loop_turn(loop);
	assert_int_equal(e.done, L7MP_ARRAY_SIZE(e.tasks));
	assert_string_equal(log, "j");
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

static void test_cancel_from_within(void **state)
{
	char log[64] = "";
	struct l7mp_loop *loop;
	struct job a, b, c;

	(void)state;
	assert_int_equal(l7mp_loop_new_manual(&loop), 0);
	job_begin(&a, loop, 'a', 1, log);
	job_begin(&b, loop, 'b', 1, log);
	job_begin(&c, loop, 'c', 1, log);
	a.cancels = &c;
	l7mp_loop_turn(loop);
	l7mp_loop_turn(loop);
	assert_string_equal(log, "ab");
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

/* ---- work in a thread ---- */

struct work {
	struct l7mp_work work;
	struct l7mp_loop *loop;
	pthread_t ran_in, done_in;
	int done;
	struct work *next;
};

static void work_run(void *arg)
{
	((struct work *)arg)->ran_in = pthread_self();
}

static void work_done(void *arg)
{
	struct work *w = arg;

	w->done++;
	w->done_in = pthread_self();
	if (w->next)
		assert_int_equal(
		        l7mp_work_start(w->loop, &w->next->work, work_run, work_done, w->next), 0);
}

/* The loop runs until all of it is done, and ends cleanly. */
static void test_work(void **state)
{
	struct work second = {0}, first = {.next = &second};
	struct l7mp_loop *loop;

	(void)state;
	assert_int_equal(l7mp_loop_new(&loop), 0);
	first.loop = second.loop = loop;
	assert_int_equal(l7mp_work_start(loop, &first.work, work_run, work_done, &first), 0);
	assert_true(first.work.busy);
	l7mp_loop_run(loop);
	assert_int_equal(first.done, 1);
	assert_int_equal(second.done, 1);
	assert_false(pthread_equal(first.ran_in, pthread_self()));
	assert_true(pthread_equal(first.done_in, pthread_self()));
	assert_true(pthread_equal(first.ran_in, second.ran_in));
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

static void test_work_on_a_manual_loop(void **state)
{
	struct l7mp_loop *loop;
	struct work w = {0};

	(void)state;
	assert_int_equal(l7mp_loop_new_manual(&loop), 0);
	assert_int_equal(l7mp_work_start(loop, &w.work, work_run, work_done, &w), 0);
	assert_int_equal(w.done, 0);
	l7mp_loop_turn(loop);
	assert_int_equal(w.done, 1);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_a_turn_is_bounded),
	        cmocka_unit_test(test_share_under_load),
	        cmocka_unit_test(test_slices_take_turns),
	        cmocka_unit_test(test_tasks_of_a_slice_are_bounded),
	        cmocka_unit_test(test_cancel_from_within),
	        cmocka_unit_test(test_work),
	        cmocka_unit_test(test_work_on_a_manual_loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
