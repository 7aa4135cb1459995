/* SPDX-License-Identifier: MIT */
/* An end of stream passes through chains; the other direction goes on. */
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

static void test_passes_through(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up, *in, *out;

	sfix_simple(f, "FakeStream", "FakeStream", ",'ingress':['echo'],'egress':['pass']");
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	up = fake_connected(&f->world, "c", 0);
	in = fake_connected(&f->world, "echo", 0);
	out = fake_connected(&f->world, "pass", 0);
	fake_data(src, "request");
	fake_end(src, 0);
	assert_true(in->shut && up->shut);
	assert_false(out->shut || src->shut);
	/* The answer still comes, however late. */
	sfix_advance(f, 3600000);
	fake_data(up, "answer");
	assert_string_equal(src->written, "answer|");
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	fake_end(up, 0);
	assert_true(out->shut && src->shut);
	l7mp_loop_turn(f->loop);
	assert_null(sfix_session(f, "s1"));
	assert_string_equal(f->last_reason, "end of stream");
	assert_false(src->aborted || up->aborted || in->aborted || out->aborted);
}

/* The other way round: the upstream finishes first, the client goes on sending. */
static void test_upstream_first(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	sfix_simple(f, "FakeStream", "FakeStream", "");
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	up = fake_connected(&f->world, "c", 0);
	fake_data(up, "banner");
	fake_end(up, 0);
	assert_true(src->shut);
	fake_data(src, "more");
	assert_string_equal(up->written, "more|");
	fake_end(src, 0);
	l7mp_loop_turn(f->loop);
	assert_null(sfix_session(f, "s1"));
}

/* A complete answer is not spoilt by a reset that follows it. */
static void test_reset_after_answer(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	sfix_simple(f, "FakeStream", "FakeStream", "");
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	up = fake_connected(&f->world, "c", 0);
	fake_data(up, "answer");
	fake_end(up, 0);
	fake_closed(up, -ECONNRESET);
	l7mp_loop_turn(f->loop);
	assert_true(src->gone && !src->aborted);
	/* Without an end before it, it is one for the client too. */
	src = fake_accept(&f->world, "l", "s2", NULL);
	l7mp_loop_turn(f->loop);
	fake_closed(fake_connected(&f->world, "c", 1), -ECONNRESET);
	l7mp_loop_turn(f->loop);
	assert_true(src->gone && src->aborted);
}

/* An end that comes while the route is being connected waits for what was sent before it. */
static void test_end_before_connected(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	sfix_simple(f, "FakeStream", "FakeStream", "");
	f->world.hold_open = true;
	src = fake_accept(&f->world, "l", "s1", NULL);
	fake_data(src, "all");
	fake_end(src, 7);
	up = fake_connected(&f->world, "c", 0);
	assert_false(up->shut);
	fake_open(up);
	assert_string_equal(up->written, "all|");
	assert_true(up->shut);
	assert_int_equal(up->shut_code, 7);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
}

/* The source closes before the route is connected: what it sent is delivered. */
static void test_source_leaves(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	sfix_simple(f, "FakeDgram", "FakeDgram", "");
	f->world.hold_open = true;
	src = fake_accept(&f->world, "l", "s1", NULL);
	fake_data(src, "a");
	fake_data(src, "b");
	fake_end(src, 1000);
	fake_closed(src, 0);
	up = fake_connected(&f->world, "c", 0);
	sfix_advance(f, 1000);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_INIT);
	fake_open(up);
	assert_string_equal(up->written, "a|b|");
	assert_int_equal(up->shut_code, 1000);
	l7mp_loop_turn(f->loop);
	assert_null(sfix_session(f, "s1"));
	assert_string_equal(f->last_reason, "source closed");
	assert_false(up->aborted);
}

static void test_source_fails(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	sfix_simple(f, "FakeStream", "FakeStream", "");
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	up = fake_connected(&f->world, "c", 0);
	fake_closed(src, -ECONNRESET);
	l7mp_loop_turn(f->loop);
	assert_true(up->gone && up->aborted);
	assert_null(sfix_session(f, "s1"));
}

/*
 * A client that finished and an upstream that can't say its end: over after a while without
 * answers.
 */
static void test_linger(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	sfix_simple(f, "FakeStream", "FakeDgram", "");
	src = fake_accept(&f->world, "l", "s1", NULL);
	sfix_advance(f, 100000);
	up = fake_connected(&f->world, "c", 0);
	fake_end(src, 0);
	sfix_advance(f, 9000);
	fake_data(up, "late answer");
	assert_string_equal(src->written, "late answer|");
	sfix_advance(f, 9000);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	sfix_advance(f, 1001);
	assert_null(sfix_session(f, "s1"));
	assert_false(src->aborted);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_passes_through),
	        T(test_upstream_first),
	        T(test_reset_after_answer),
	        T(test_end_before_connected),
	        T(test_source_leaves),
	        T(test_source_fails),
	        T(test_linger),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
