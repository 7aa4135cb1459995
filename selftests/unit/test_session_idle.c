/* SPDX-License-Identifier: MIT */
/* Idle time-outs: lazy timers, defaults, what counts as activity. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "session_fixture.h"

#define T(name) cmocka_unit_test_setup_teardown(name, sfix_new, sfix_free)

static void test_idle(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src;

	sfix_simple(f, "FakeDgram", "FakeDgram", "");
	src = fake_accept(&f->world, "l", "s1", NULL);
	sfix_advance(f, 40000);
	fake_data(src, "x");
	sfix_advance(f, 40000);
	fake_data(fake_connected(&f->world, "c", 0), "y");
	sfix_advance(f, 59999);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	sfix_advance(f, 2);
	assert_null(sfix_session(f, "s1"));
	assert_string_equal(f->last_reason, "idle for 60 s");
}

static void with_timeout(struct sfix *f, const char *protocol, const char *value)
{
	char json[400];

	snprintf(json, sizeof(json),
	         "{'listeners':[{'name':'l','spec':{'protocol':'%s'},'options':{'idle_timeout':%s},"
	         "'rules':[{'action':{'route':{'destination':{'spec':{'protocol':'FakeEcho'}}}}}]}]"
	         "}",
	         protocol, value);
	assert_int_equal(sfix_config(f, json, NULL), 0);
}

static void test_options(void **state)
{
	struct sfix *f = *state;

	with_timeout(f, "FakeStream", "5");
	fake_accept(&f->world, "l", "s1", NULL);
	sfix_advance(f, 5001);
	assert_null(sfix_session(f, "s1"));
	with_timeout(f, "FakeDgram", "0");
	fake_accept(&f->world, "l", "s2", NULL);
	sfix_advance(f, 10000000);
	assert_int_equal(sfix_state(f, "s2"), L7MP_SESSION_CONNECTED);
}

static void test_streams_never(void **state)
{
	struct sfix *f = *state;

	sfix_simple(f, "FakeStream", "FakeStream", "");
	fake_accept(&f->world, "l", "s1", NULL);
	sfix_advance(f, 10000000);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
}

static void test_singletons_never(void **state)
{
	struct sfix *f = *state;
	struct l7mp_accept a = {.name = strdup("s1"), .never_idle = true};

	sfix_simple(f, "FakeDgram", "FakeDgram", "");
	fake_accept_with(&f->world, "l", &a, false);
	sfix_advance(f, 10000000);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
}

/* The fast path's packets count; the kernel is asked freshly only before an end. */
static void test_fast_path(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src;
	struct l7mp_flow *flow;
	unsigned reads;

	sfix_simple(f, "FakeDgram", "FakeDgram", "");
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	fake_data(src, "x");
	sfix_advance(f, 1);
	flow = f->offload.flows;
	assert_non_null(flow);
	sfix_advance(f, 50000);
	flow->now[0].last_seen_ms = l7mp_loop_now(f->loop);
	flow->now[0].packets = 3;
	reads = f->offload.fresh_reads;
	sfix_advance(f, 59000);
	assert_int_equal(f->offload.fresh_reads, reads);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	reads = f->offload.fresh_reads; /* looking at a session asks the kernel too */
	sfix_advance(f, 1001);
	assert_int_equal(f->offload.fresh_reads, reads + 1);
	assert_null(sfix_session(f, "s1"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_idle),
	        T(test_options),
	        T(test_streams_never),
	        T(test_singletons_never),
	        cmocka_unit_test_setup_teardown(test_fast_path, sfix_new_offload, sfix_free),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
