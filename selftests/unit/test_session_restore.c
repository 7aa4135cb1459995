/* SPDX-License-Identifier: MIT */
/* Sessions that go on from an earlier process: what they keep, what is refused and why. */
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

#define T(name) cmocka_unit_test_setup_teardown(name, sfix_new_offload, sfix_free)
#define STARTED 1700000000000ULL

/* Further members of the rule, the route, and of the whole, each with a comma in front. */
static void configure(struct sfix *f, const char *rule, const char *route, const char *more)
{
	struct l7mp_error err = {0};
	char text[1200];

	snprintf(text, sizeof(text),
	         "{'listeners':[{'name':'l','spec':{'protocol':'FakeDgram'},'rules':'rl'}],"
	         "'rulelists':[{'name':'rl','rules':['r']}],"
	         "'rules':[{'name':'r','action':{'route':'way'}%s}],"
	         "'routes':[{'name':'way','destination':'c'%s}],"
	         "'clusters':[{'name':'c','spec':{'protocol':'FakeDgram'},'endpoints':["
	         "{'name':'e1','spec':{'address':'10.0.0.1'}},"
	         "{'name':'e2','spec':{'address':'10.0.0.2'}}]}]%s}",
	         rule, route, more);
	assert_int_equal(sfix_config(f, text, &err), 0);
}

static struct l7mp_session_record record(const char *upstream)
{
	struct l7mp_session_record r = {.name = "old-7",
	                                .listener = "l",
	                                .route = "way",
	                                .cluster = "c",
	                                .endpoint = "e1",
	                                .started_ms = STARTED,
	                                .slow = {{3, 30}, {2, 20}},
	                                .fast = {{100, 1000}, {50, 500}},
	                                .drops = 4,
	                                .flow_kind = L7MP_FLOW_SOCKET};

	r.end[0].fd = r.end[1].fd = -1;
	assert_int_equal(l7mp_addr_parse(&r.end[0].remote, "192.0.2.1", 5000), 0);
	assert_int_equal(l7mp_addr_parse(&r.end[0].local, "192.0.2.9", 9000), 0);
	assert_int_equal(l7mp_addr_parse(&r.end[1].remote, upstream, 1), 0);
	assert_int_equal(l7mp_addr_parse(&r.end[1].local, "10.0.0.9", 33333), 0);
	return r;
}

static int restore(struct sfix *f, struct l7mp_session_record *r, struct l7mp_error *err)
{
	return l7mp_session_restore(f->runtime, r, NULL, err);
}

static void test_keeps_what_it_was(void **state)
{
	struct sfix *f = *state;
	struct l7mp_session_record r = record("10.0.0.1"), back;
	cJSON *metadata = cJSON_Parse("{\"who\":\"record\",\"n\":1}");
	struct l7mp_error err = {0};
	struct l7mp_session *s;

	configure(f, "", "", "");
	r.metadata = metadata;
	assert_int_equal(restore(f, &r, &err), 0);
	assert_int_equal(f->world.restored, 1);
	sfix_advance(f, 1);
	assert_int_equal(sfix_state(f, "old-7"), L7MP_SESSION_CONNECTED);
	assert_string_equal(sfix_json(f, "old-7", "/metadata/who"), "record");
	assert_int_equal(sfix_num(f, "old-7", "/stats/ingress/slow/packets"), 3);
	assert_int_equal(sfix_num(f, "old-7", "/stats/egress/fast/bytes"), 500);
	assert_int_equal(sfix_num(f, "old-7", "/stats/drops"), 4);
	s = sfix_session(f, "old-7");
	l7mp_session_describe(s, &back);
	assert_string_equal(back.name, "old-7");
	assert_string_equal(back.listener, "l");
	assert_string_equal(back.endpoint, "e1");
	assert_int_equal(back.started_ms, STARTED);
	assert_int_equal(back.slow[0].bytes, 30);
	assert_int_equal(back.fast[1].packets, 50);
	assert_int_equal(back.drops, 4);
	/* What passes from now on is added. */
	fake_data(f->world.streams, "four");
	assert_int_equal(sfix_num(f, "old-7", "/stats/ingress/slow/packets"), 4);
	assert_int_equal(sfix_num(f, "old-7", "/stats/ingress/slow/bytes"), 34);
	cJSON_Delete(metadata);
}

static void test_metadata_of_the_listener(void **state)
{
	struct sfix *f = *state;
	struct l7mp_session_record r = record("10.0.0.1");
	struct l7mp_error err = {0};

	configure(f, "", "", "");
	assert_int_equal(restore(f, &r, &err), 0);
	assert_string_equal(sfix_json(f, "old-7", "/metadata/who"), "listener");
}

/* The endpoint is found by its address, whatever its name is by now. */
static void test_endpoint_by_address(void **state)
{
	struct sfix *f = *state;
	struct l7mp_session_record r = record("10.0.0.2");
	struct l7mp_session_record back;
	struct l7mp_error err = {0};

	configure(f, "", "", "");
	assert_int_equal(restore(f, &r, &err), 0);
	l7mp_session_describe(sfix_session(f, "old-7"), &back);
	assert_string_equal(back.endpoint, "e2");
}

static void test_what_is_not_allowed(void **state)
{
	struct sfix *f = *state;
	struct l7mp_session_record r = record("10.0.0.3");
	struct l7mp_error err = {0};
	struct l7mp_flow *flow = fake_offload_old(&f->offload);
	struct l7mp_flow_counters final[2];

	configure(f, "", "", "");
	r.flow = flow;
	assert_int_equal(restore(f, &r, &err), -EPERM);
	assert_non_null(strstr(err.message, "no endpoint of cluster 'c' has the address"));
	assert_ptr_equal(r.flow, flow); /* still the caller's */
	sfix_advance(f, 1);
	assert_int_equal(sfix_state(f, "old-7"), -1);
	assert_int_equal(f->ended, 1); /* with its counters, in the access log */

	r = record("10.0.0.1");
	r.listener = "gone";
	assert_int_equal(restore(f, &r, &err), -ENOENT);
	assert_non_null(strstr(err.message, "there is no listener 'gone'"));

	r = record("10.0.0.1");
	r.end[0].remote.len = 0;
	assert_int_equal(restore(f, &r, &err), -EPERM);
	sfix_advance(f, 1);

	configure(f, ",'match':{'op':'test','path':'/who','value':'x'}", "", "");
	r = record("10.0.0.1");
	assert_int_equal(restore(f, &r, &err), -EPERM);
	assert_non_null(strstr(err.message, "no rule of 'rl' matches"));
	sfix_advance(f, 1);
	assert_int_equal(l7mp_sessions_count(f->sessions, L7MP_SESSION_CONNECTED), 0);
	f->offload.ops.remove(&f->offload, &flow, final);
}

static void test_socket_that_cannot_be_made(void **state)
{
	struct sfix *f = *state;
	struct l7mp_session_record r = record("10.0.0.1");
	struct l7mp_error err = {0};

	configure(f, "", "", "");
	f->world.connect_rc = -EADDRINUSE;
	assert_int_equal(restore(f, &r, &err), -EADDRINUSE);
	f->world.connect_rc = 0;
	sfix_advance(f, 5000); /* it is not tried again: another port would be of no use */
	assert_int_equal(f->world.connects, 1);
	assert_int_equal(f->ended, 1);
}

static void test_name_in_use(void **state)
{
	struct sfix *f = *state;
	struct l7mp_session_record r = record("10.0.0.1");
	struct l7mp_error err = {0};

	configure(f, "", "", "");
	assert_int_equal(restore(f, &r, &err), 0);
	r = record("10.0.0.1");
	assert_int_equal(restore(f, &r, &err), -EEXIST);
}

static void test_limits_hold(void **state)
{
	struct sfix *f = *state;
	struct l7mp_session_record r = record("10.0.0.1");
	struct l7mp_error err = {0};

	configure(f, "", "", ",'admin':{'limits':{'max_sessions':1}}");
	assert_int_equal(restore(f, &r, &err), 0);
	r = record("10.0.0.1");
	r.name = "old-8";
	assert_int_equal(restore(f, &r, &err), -EBUSY);
	sfix_advance(f, 1);
	assert_int_equal(sfix_state(f, "old-7"), L7MP_SESSION_CONNECTED);
}

static void test_flow_goes_on(void **state)
{
	struct sfix *f = *state;
	struct l7mp_session_record r = record("10.0.0.1");
	struct l7mp_error err = {0};
	struct l7mp_flow *flow = fake_offload_old(&f->offload);

	configure(f, "", "", "");
	flow->now[0] = (struct l7mp_flow_counters){.packets = 11, .bytes = 110};
	r.flow = flow;
	assert_int_equal(restore(f, &r, &err), 0);
	assert_null(r.flow);
	sfix_advance(f, 1);
	assert_string_equal(sfix_json(f, "old-7", "/offload/state"), "fast");
	assert_int_equal(f->offload.adds, 0);
	assert_int_equal(sfix_num(f, "old-7", "/stats/ingress/fast/packets"), 111);
	/* The process counts what has passed in its own time. */
	assert_int_equal(f->stats.fast_packets[0], 0);
	flow->now[0].packets = 15;
	l7mp_session_sync(sfix_session(f, "old-7"));
	assert_int_equal(f->stats.fast_packets[0], 4);
	assert_int_equal(sfix_num(f, "old-7", "/stats/ingress/fast/packets"), 115);
	fake_offload_withdraw(&f->offload, L7MP_REASON_NO_ROUTE);
	assert_int_equal(sfix_num(f, "old-7", "/stats/ingress/fast/packets"), 115);
	assert_string_equal(sfix_json(f, "old-7", "/offload/state"), "slow");
}

static void test_flow_has_still_to_begin(void **state)
{
	struct sfix *f = *state;
	struct l7mp_session_record r = record("10.0.0.1");
	struct l7mp_error err = {0};

	configure(f, "", "", "");
	r.flow = fake_offload_old(&f->offload);
	f->offload.own_rc = L7MP_REASON_PENDING;
	assert_int_equal(restore(f, &r, &err), 0);
	sfix_advance(f, 1);
	assert_string_equal(sfix_json(f, "old-7", "/offload/state"), "slow");
	assert_true(fake_offload_ready(&f->offload));
	fake_offload_begin(&f->offload, false);
	assert_string_equal(sfix_json(f, "old-7", "/offload/state"), "fast");
}

static void test_flow_is_not_wanted(void **state)
{
	struct sfix *f = *state;
	struct l7mp_session_record r = record("10.0.0.1");
	struct l7mp_error err = {0};

	configure(f, "", ",'offload':'never'", "");
	r.flow = fake_offload_old(&f->offload);
	r.flow->now[1] = (struct l7mp_flow_counters){.packets = 5, .bytes = 50};
	assert_int_equal(restore(f, &r, &err), 0);
	assert_int_equal(f->offload.removes, 1);
	sfix_advance(f, 1);
	assert_int_equal(sfix_state(f, "old-7"), L7MP_SESSION_CONNECTED);
	assert_int_equal(sfix_num(f, "old-7", "/stats/egress/fast/packets"), 55);
	assert_string_equal(sfix_json(f, "old-7", "/offload/directions/0/reason"), "disabled");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_keeps_what_it_was),
	        T(test_metadata_of_the_listener),
	        T(test_endpoint_by_address),
	        T(test_what_is_not_allowed),
	        T(test_socket_that_cannot_be_made),
	        T(test_name_in_use),
	        T(test_limits_hold),
	        T(test_flow_goes_on),
	        T(test_flow_has_still_to_begin),
	        T(test_flow_is_not_wanted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
