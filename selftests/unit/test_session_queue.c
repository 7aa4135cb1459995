/* SPDX-License-Identifier: MIT */
/* Bounded queues and back-pressure. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "session_fixture.h"

#define T(name) cmocka_unit_test_setup_teardown(name, sfix_new, sfix_free)

static void configure(struct sfix *f, const char *listener, const char *cluster, uint32_t max)
{
	sfix_simple(f, listener, cluster,
	            ",'retry':{'retry_on':'always','num_retries':3,'timeout':1000}");
	l7mp_model_admin(f->model)->limits.max_queue = max;
}

static void test_overflow(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	configure(f, "FakeDgram", "FakeDgram", 1000);
	f->world.hold_open = true;
	src = fake_accept(&f->world, "l", "s1", NULL);
	for (unsigned i = 0; i < 15; i++)
		fake_bytes(src, 100);
	assert_int_equal(f->stats.drops[L7MP_DROP_QUEUE], 5);
	assert_int_equal(f->stats.drop_bytes[L7MP_DROP_QUEUE], 500);
	assert_int_equal(f->stats.refusals[L7MP_REFUSE_MAX_QUEUE], 5);
	up = fake_connected(&f->world, "c", 0);
	fake_open(up);
	assert_int_equal(up->n_written, 10);
	assert_int_equal(sfix_num(f, "s1", "/stats/drops"), 5);
}

/* Empty datagrams are messages, too, and bounded. */
static void test_empty(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	configure(f, "FakeDgram", "FakeDgram", 640);
	f->world.hold_open = true;
	src = fake_accept(&f->world, "l", "s1", NULL);
	for (unsigned i = 0; i < 20; i++)
		fake_data(src, "");
	assert_int_equal(f->stats.drops[L7MP_DROP_QUEUE], 10);
	up = fake_connected(&f->world, "c", 0);
	fake_open(up);
	assert_string_equal(up->written, "||||||||||");
}

static void test_full(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	configure(f, "FakeDgram", "FakeStream", 200);
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	up = fake_connected(&f->world, "c", 0);
	up->write_rc = L7MP_STREAM_FULL;
	fake_data(src, "1");
	assert_true(src->paused);
	/* It may go on: kept within the bound, in order. */
	fake_data(src, "2");
	fake_data(src, "3");
	fake_data(src, "4");
	fake_data(src, "5");
	assert_int_equal(f->stats.drops[L7MP_DROP_QUEUE], 1);
	assert_string_equal(up->written, "1|");
	/* Full again after the first that waited. */
	up->base.events->drain(up->base.owner);
	assert_string_equal(up->written, "1|2|");
	assert_true(src->paused);
	fake_drain(up);
	assert_string_equal(up->written, "1|2|3|4|");
	assert_false(src->paused);
}

/* Streams lose nothing, and each direction is throttled by itself. */
static void test_back_pressure(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;
	unsigned pauses;

	configure(f, "FakeStream", "FakeStream", 100);
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	up = fake_connected(&f->world, "c", 0);
	up->write_rc = L7MP_STREAM_FULL;
	fake_data(src, "a");
	fake_bytes(src, 3000);
	fake_data(src, "b");
	assert_int_equal(f->stats.drops[L7MP_DROP_QUEUE], 0);
	assert_true(src->paused && !up->paused);
	fake_data(up, "free");
	assert_string_equal(src->written, "free|");
	fake_drain(up);
	assert_int_equal(up->bytes_written, 3002);
	assert_int_equal(up->written[0], 'a');
	assert_int_equal(up->written[strlen(up->written) - 2], 'b');
	/* Pause is not called again and again. */
	pauses = src->pauses;
	fake_data(src, "c");
	fake_data(src, "d");
	assert_int_equal(src->pauses, pauses);
}

/* While one stage is away streams stand still and nothing of them is lost. */
static void test_lost_stage(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	configure(f, "FakeStream", "FakeStream", 1000);
	src = fake_accept(&f->world, "l", "s1", NULL);
	sfix_advance(f, 2000);
	up = fake_connected(&f->world, "c", 0);
	src->write_rc = L7MP_STREAM_FULL;
	fake_data(up, "1");
	fake_data(up, "2");
	fake_closed(up, -ECONNRESET);
	assert_true(src->paused);
	fake_data(src, "in");
	sfix_advance(f, 1);
	up = fake_connected(&f->world, "c", 1);
	assert_string_equal(up->written, "in|");
	/* What the old upstream sent goes before what the new one sends. */
	fake_data(up, "3");
	fake_drain(src);
	assert_string_equal(src->written, "1|2|3|");
}

static void test_write_fails(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	configure(f, "FakeStream", "FakeStream", 1000);
	src = fake_accept(&f->world, "l", "s1", NULL);
	sfix_advance(f, 2000);
	up = fake_connected(&f->world, "c", 0);
	up->write_rc = -EPIPE;
	fake_data(src, "lost");
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_DISCONNECTED);
	sfix_advance(f, 1);
	assert_true(up->gone);
	fake_data(src, "next");
	assert_string_equal(fake_connected(&f->world, "c", 1)->written, "next|");
	/* The source's own failure ends the session. */
	src->write_rc = -EPIPE;
	fake_data(fake_connected(&f->world, "c", 1), "x");
	l7mp_loop_turn(f->loop);
	assert_null(sfix_session(f, "s1"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_overflow),      T(test_empty),      T(test_full),
	        T(test_back_pressure), T(test_lost_stage), T(test_write_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
