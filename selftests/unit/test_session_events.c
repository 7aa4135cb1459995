/* SPDX-License-Identifier: MIT */
/* The bounded ring of events. */
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

static void test_order_and_content(void **state)
{
	struct sfix *f = *state;

	sfix_simple(f, "FakeDgram", "FakeDgram",
	            ",'retry':{'retry_on':'connect-failure','num_retries':2,'timeout':1000}");
	f->world.refuse = 1;
	fake_accept(&f->world, "l", "s1", NULL);
	sfix_advance(f, 1000);
	assert_string_equal(sfix_json(f, "s1", "/events/0/event"), "INIT");
	assert_string_equal(sfix_json(f, "s1", "/events/1/event"), "RETRY");
	assert_string_equal(sfix_json(f, "s1", "/events/1/message"), "connection refused");
	assert_string_equal(sfix_json(f, "s1", "/events/1/content/stage"), "destination");
	assert_string_equal(sfix_json(f, "s1", "/events/1/content/cluster"), "c");
	assert_int_equal(sfix_num(f, "s1", "/events/1/content/attempt"), 1);
	assert_string_equal(sfix_json(f, "s1", "/events/2/event"), "CONNECT");
	assert_int_equal(strlen(sfix_json(f, "s1", "/events/2/timestamp")), 24);
	assert_string_equal(sfix_json(f, "s1", "/events/3"), "");
}

static void test_bounded(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src;
	char *big = malloc(100001), text[20];

	sfix_simple(f, "FakeDgram", "FakeDgram", "");
	src = fake_accept(&f->world, "l", "s1", NULL);
	sfix_advance(f, 1);
	for (unsigned i = 0; i < 100; i++) {
		snprintf(text, sizeof(text), "n%u", i);
		src->base.events->notice(src->base.owner, text, i % 2 ? "message" : NULL);
	}
	assert_string_equal(sfix_json(f, "s1", "/events/0/event"), "n68");
	assert_string_equal(sfix_json(f, "s1", "/events/31/event"), "n99");
	assert_string_equal(sfix_json(f, "s1", "/events/31/message"), "message");
	assert_string_equal(sfix_json(f, "s1", "/events/30/message"), "");
	assert_string_equal(sfix_json(f, "s1", "/events/31/content/stage"), "source");
	assert_string_equal(sfix_json(f, "s1", "/events/32"), "");
	/* A peer's long text is cut. */
	memset(big, 'x', 100000);
	big[100000] = '\0';
	src->base.events->notice(src->base.owner, "LONG", big);
	assert_true(strlen(sfix_json(f, "s1", "/events/31/message")) <= 400);
	free(big);
}

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_order_and_content), T(test_bounded)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
