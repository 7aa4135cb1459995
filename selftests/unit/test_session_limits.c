/* SPDX-License-Identifier: MIT */
/* Limits of sessions, each with its counter. */
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

#define T(name) cmocka_unit_test_setup_teardown(name, sfix_new, sfix_free)

static struct l7mp_limits *limits(struct sfix *f)
{
	return &l7mp_model_admin(f->model)->limits;
}

static unsigned serial;
static struct fake_stream *client(struct sfix *f, const char *peer)
{
	char name[30];

	snprintf(name, sizeof(name), "s%u", ++serial);
	return fake_accept(&f->world, "l", name, peer);
}

static void test_max_sessions(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *first;

	sfix_simple(f, "FakeDgram", "FakeDgram", "");
	limits(f)->max_sessions = 3;
	first = client(f, "10.0.0.1");
	assert_non_null(client(f, "10.0.0.2"));
	assert_non_null(client(f, "10.0.0.3"));
	assert_null(client(f, "10.0.0.4"));
	assert_int_equal(f->stats.refusals[L7MP_REFUSE_MAX_SESSIONS], 1);
	fake_closed(first, 0);
	sfix_advance(f, 1);
	assert_non_null(client(f, "10.0.0.4"));
}

static void test_per_source(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *first;

	sfix_simple(f, "FakeDgram", "FakeDgram", "");
	limits(f)->max_sessions_per_source = 2;
	first = client(f, "10.0.0.1");
	assert_non_null(client(f, "10.0.0.1"));
	assert_null(client(f, "10.0.0.1"));
	assert_non_null(client(f, "10.0.0.2"));
	/* The same IPv4 host in its mapped form. */
	assert_null(client(f, "::ffff:10.0.0.1"));
	/* IPv6: the /64 counts. */
	assert_non_null(client(f, "2001:db8:0:1::1"));
	assert_non_null(client(f, "2001:db8:0:1:ffff::2"));
	assert_null(client(f, "2001:db8:0:1::3"));
	assert_non_null(client(f, "2001:db8:0:2::1"));
	/* Without an address there is nothing to count. */
	for (unsigned i = 0; i < 5; i++)
		assert_non_null(client(f, NULL));
	assert_int_equal(f->stats.refusals[L7MP_REFUSE_MAX_SESSIONS_PER_SOURCE], 3);
	fake_closed(first, 0);
	sfix_advance(f, 1);
	assert_non_null(client(f, "10.0.0.1"));
}

static void test_rate(void **state)
{
	struct sfix *f = *state;

	limits(f)->new_sessions_per_second = 10;
	sfix_simple(f, "FakeDgram", "FakeDgram", "");
	limits(f)->new_sessions_per_second = 10;
	sfix_advance(f, 5000);
	for (unsigned i = 0; i < 10; i++)
		assert_non_null(client(f, NULL));
	assert_null(client(f, NULL));
	sfix_advance(f, 99);
	assert_null(client(f, NULL));
	sfix_advance(f, 1);
	assert_non_null(client(f, NULL));
	assert_null(client(f, NULL));
	assert_int_equal(f->stats.refusals[L7MP_REFUSE_NEW_SESSIONS_PER_SECOND], 3);
}

static void test_exhausted(void **state)
{
	struct sfix *f = *state;
	struct fake_listener *l;

	sfix_simple(f, "FakeDgram", "FakeDgram", "");
	l = fake_listener(&f->world, "l");
	l->base.events->exhausted(l->base.arg, -EMFILE);
	assert_int_equal(f->stats.refusals[L7MP_REFUSE_DESCRIPTORS], 1);
}

/* Ended sessions that are only shown are bounded, too. */
static void test_tracked(void **state)
{
	struct sfix *f = *state;

	assert_int_equal(
	        sfix_config(f,
	                    "{'listeners':[{'name':'l','spec':{'protocol':'FakeDgram'},'options':"
	                    "{'track':3600},'rules':[{'action':{'route':{'destination':{'spec':{"
	                    "'protocol':'FakeEcho'}}}}}]}]}",
	                    NULL),
	        0);
	limits(f)->max_sessions = 5;
	for (unsigned i = 0; i < 20; i++) {
		struct fake_stream *src = client(f, NULL);

		assert_non_null(src);
		fake_closed(src, 0);
		sfix_advance(f, 1);
	}
	assert_int_equal(l7mp_sessions_count(f->sessions, L7MP_SESSION_DESTROYED), 5);
}

/* At most 5 kB per session in all; here without streams and metadata. */
static void test_memory(void **state)
{
	const size_t stage = sizeof(struct session_stage) + sizeof(struct session_pipe);

	(void)state;
	assert_in_range(sizeof(struct l7mp_session) + 2 * stage, 0, 1024);
	assert_in_range(sizeof(struct session_event) * 4, 0, 192);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_max_sessions), T(test_per_source), T(test_rate),
	        T(test_exhausted),    T(test_tracked),    cmocka_unit_test(test_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
