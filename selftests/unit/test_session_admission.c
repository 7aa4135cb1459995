/* SPDX-License-Identifier: MIT */
/* Who is evicted when a limit is reached, and what is kept for the operator. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "session/internal.h"
#include "session_fixture.h"

#define T(name) cmocka_unit_test_setup_teardown(name, sfix_new_offload, sfix_free)

static struct l7mp_limits *limits(struct sfix *f)
{
	return &l7mp_model_admin(f->model)->limits;
}

/* Session `name` of a source; NULL: refused. */
static struct fake_stream *from(struct sfix *f, const char *listener, const char *name,
                                const char *peer)
{
	struct fake_stream *st = fake_accept(&f->world, listener, name, peer);

	sfix_advance(f, 1);
	return st;
}

static bool there(struct sfix *f, const char *name)
{
	return sfix_session(f, name) != NULL;
}

/* Answers the newest session, whose upstream connection is the n-th. */
static void answer(struct sfix *f, unsigned n)
{
	fake_data(fake_connected(&f->world, "c", n), "answer");
	sfix_advance(f, 1);
}

/* l: datagrams from any source to c; t: connections to c. */
static void two_listeners(struct sfix *f, const char *options)
{
	char text[900];

	snprintf(text, sizeof(text),
	         "{'clusters':[{'name':'c','spec':{'protocol':'FakeDgram'},'endpoints':"
	         "[{'spec':{'address':'a'}}]}],'listeners':["
	         "{'name':'l','spec':{'protocol':'FakeForged'},'options':{%s},'rules':"
	         "[{'action':{'route':{'destination':'c'}}}]},"
	         "{'name':'t','spec':{'protocol':'FakeStream'},'rules':"
	         "[{'action':{'route':{'destination':'c'}}}]}]}",
	         options);
	assert_int_equal(sfix_config(f, text, NULL), 0);
}

static void test_oldest_unanswered(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *proven;

	two_listeners(f, "");
	limits(f)->max_sessions = 4;
	proven = from(f, "l", "proven", "10.0.0.1");
	answer(f, 0);
	fake_data(proven, "again");
	assert_non_null(from(f, "l", "answered", "10.0.0.2"));
	answer(f, 1);
	assert_non_null(from(f, "l", "first", "10.0.0.3"));
	assert_non_null(from(f, "l", "second", "10.0.0.4"));
	/* The oldest that nobody has answered, although others are older. */
	assert_non_null(from(f, "l", "a", "10.0.0.5"));
	assert_false(there(f, "first"));
	assert_non_null(from(f, "t", "b", "10.0.0.6"));
	assert_false(there(f, "second"));
	assert_non_null(from(f, "t", "c", "10.0.0.7"));
	assert_false(there(f, "a"));
	/* Then those who never came again; at last nobody. */
	assert_non_null(from(f, "t", "d", "10.0.0.8"));
	assert_false(there(f, "answered"));
	assert_null(from(f, "l", "e", "10.0.0.9"));
	assert_true(there(f, "proven"));
	assert_int_equal(f->stats.evictions[L7MP_REFUSE_MAX_SESSIONS], 4);
	assert_int_equal(f->stats.refusals[L7MP_REFUSE_MAX_SESSIONS], 1);
}

/* Forged datagrams with a host's address: its connections and its own datagrams go on. */
static void test_victim(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *own;
	char name[30];

	two_listeners(f, "");
	limits(f)->max_sessions_per_source = 5;
	own = from(f, "l", "own", "10.0.0.1");
	answer(f, 0);
	fake_data(own, "again");
	for (unsigned i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "forged%u", i);
		assert_non_null(from(f, "l", name, "10.0.0.1"));
	}
	assert_int_equal(f->stats.evictions[L7MP_REFUSE_MAX_SESSIONS_PER_SOURCE], 46);
	assert_true(there(f, "own"));
	for (unsigned i = 0; i < 5; i++) {
		snprintf(name, sizeof(name), "tcp%u", i);
		assert_non_null(from(f, "t", name, "10.0.0.1"));
	}
	assert_null(from(f, "t", "tcp5", "10.0.0.1"));
	assert_int_equal(f->stats.refusals[L7MP_REFUSE_MAX_SESSIONS_PER_SOURCE], 1);
}

static void test_listener_limit(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *st;
	char name[30];

	two_listeners(f, "'max_sessions':2");
	for (unsigned i = 0; i < 2; i++) {
		snprintf(name, sizeof(name), "s%u", i);
		st = from(f, "l", name, "10.0.0.1");
		assert_non_null(st);
		answer(f, i);
		fake_data(st, "again");
	}
	assert_null(from(f, "l", "more", "10.0.0.2"));
	assert_int_equal(f->stats.refusals[L7MP_REFUSE_LISTENER_SESSIONS], 1);
	assert_non_null(from(f, "t", "other", "10.0.0.2"));
	fake_closed(st, 0);
	sfix_advance(f, 1);
	assert_non_null(from(f, "l", "more", "10.0.0.2"));
	assert_non_null(from(f, "l", "instead", "10.0.0.2"));
	assert_false(there(f, "more"));
	assert_int_equal(f->stats.evictions[L7MP_REFUSE_LISTENER_SESSIONS], 1);
}

/* What the kernel carries counts as well: the slow path sees one datagram of such a session. */
static void test_fast_path(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *st;
	struct l7mp_flow *flow;

	two_listeners(f, "");
	limits(f)->max_sessions = 2;
	st = from(f, "l", "fast", "10.0.0.1");
	fake_data(st, "1");
	sfix_advance(f, 1);
	fake_offload_begin(&f->offload, false);
	flow = f->offload.flows;
	assert_non_null(flow);
	assert_non_null(from(f, "l", "silent", "10.0.0.2"));
	flow->now[L7MP_INGRESS].packets = 10;
	flow->now[L7MP_EGRESS].packets = 10;
	assert_non_null(from(f, "l", "a", "10.0.0.3"));
	assert_false(there(f, "silent"));
	flow->now[L7MP_INGRESS].packets = 11;
	assert_non_null(from(f, "t", "b", "10.0.0.4"));
	assert_false(there(f, "a"));
	assert_null(from(f, "t", "c", "10.0.0.5"));
	assert_true(there(f, "fast"));
}

/* Sessions that take their time to end don't let any number of others in. */
static void test_slow_ends(void **state)
{
	struct sfix *f = *state;
	unsigned refused = 0, before = 0;
	struct l7mp_source *src;
	char name[30];

	two_listeners(f, "");
	src = fake_listener(&f->world, "l")->base.arg;
	limits(f)->max_sessions = 10;
	for (unsigned i = 0; i < 5000; i++) {
		struct fake_stream *st;

		snprintf(name, sizeof(name), "s%u", i);
		st = fake_accept(&f->world, "l", name, "10.0.0.1");
		if (!st) {
			refused++;
			continue;
		}
		fake_connected(&f->world, "c", before++)->slow_close = true;
		src->evicted = 0;
	}
	assert_in_range(refused, 3500, 4500);
	sfix_advance(f, 1);
	for (struct fake_stream *st = f->world.streams; st; st = st->next)
		if (st->closing && !st->gone)
			fake_closed(st, 0);
	sfix_advance(f, 1);
	assert_non_null(from(f, "l", "again", "10.0.0.1"));
}

/* An attack gets so much of the processor's time; a connection is not measured by that. */
static void test_turns(void **state)
{
	struct sfix *f = *state;
	unsigned admitted = 0;
	char name[30];

	two_listeners(f, "");
	limits(f)->max_sessions = 10;
	for (unsigned i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "s%u", i);
		admitted += fake_accept(&f->world, "l", name, "10.0.0.1") != NULL;
	}
	assert_int_equal(admitted, 9 + 8);
	assert_non_null(fake_accept(&f->world, "t", "t", "10.0.0.2"));
	sfix_advance(f, 1);
	assert_non_null(fake_accept(&f->world, "l", "later", "10.0.0.1"));
}

/* api: requests; those for /api are the operator's. */
static void test_operator(void **state)
{
	struct sfix *f = *state;
	char name[30];
	unsigned n = 0;

	assert_int_equal(
	        sfix_config(
	                f,
	                "{'listeners':[{'name':'api','spec':{'protocol':'FakeRequest'},'rules':["
	                "{'match':{'op':'starts','path':'/IP/src_addr','value':'127.'},'action':"
	                "{'route':{'destination':{'spec':{'protocol':'FakeOperator'}}}}},"
	                "{'action':{'route':{'destination':{'spec':{'protocol':'FakeEcho'}}}}}]},"
	                "{'name':'t','spec':{'protocol':'FakeStream'},'rules':"
	                "[{'action':{'route':{'destination':{'spec':{'protocol':'FakeEcho'}}}}}]}"
	                "]}",
	                NULL),
	        0);
	limits(f)->max_sessions = 20;
	limits(f)->max_sessions_per_source = 10;
	for (; n < 30; n++) {
		snprintf(name, sizeof(name), "t%u", n);
		(void)from(f, "t", name, NULL);
	}
	assert_int_equal(l7mp_sessions_count(f->sessions, L7MP_SESSION_CONNECTED), 18);
	/* Other requests on the operator's listener have no part in it. */
	assert_non_null(from(f, "api", "no", "10.0.0.1"));
	assert_false(there(f, "no"));
	assert_non_null(from(f, "api", "yes1", "127.0.0.1"));
	assert_non_null(from(f, "api", "yes2", "127.0.0.1"));
	assert_true(there(f, "yes1"));
	assert_true(there(f, "yes2"));
	assert_null(from(f, "api", "yes3", "127.0.0.1"));
	assert_int_equal(f->stats.refusals[L7MP_REFUSE_MAX_SESSIONS], 12 + 1 + 1);
	/* Nor do the operator's sessions take anything from the others. */
	l7mp_session_end(sfix_session(f, "t0"), "test");
	sfix_advance(f, 1);
	assert_non_null(from(f, "t", "t30", NULL));
	/* The same of one source. */
	limits(f)->max_sessions = 1000;
	for (unsigned i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "p%u", i);
		(void)from(f, "t", name, "127.0.0.1");
	}
	assert_true(there(f, "p7"));
	assert_false(there(f, "p8"));
	assert_null(from(f, "api", "yes4", "127.0.0.1"));
	l7mp_session_end(sfix_session(f, "yes1"), "test");
	sfix_advance(f, 1);
	assert_non_null(from(f, "api", "yes5", "127.0.0.1"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_oldest_unanswered), T(test_victim), T(test_listener_limit),
	        T(test_fast_path),         T(test_turns),  T(test_slow_ends),
	        T(test_operator),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
