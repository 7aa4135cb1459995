/* SPDX-License-Identifier: MIT */
/* Retries: when, how often, where, and what the other stages see meanwhile. */
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

#define CONNECT    ",'retry':{'retry_on':'connect-failure','num_retries':2,'timeout':1000}"
#define DISCONNECT ",'retry':{'retry_on':'disconnect','num_retries':2,'timeout':1000}"
#define ALWAYS     ",'retry':{'retry_on':'always','num_retries':2,'timeout':1000}"

static void test_late_upstream(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src;

	sfix_simple(f, "FakeDgram", "FakeDgram", CONNECT);
	f->world.refuse = 2;
	src = fake_accept(&f->world, "l", "s1", NULL);
	fake_data(src, "first");
	l7mp_loop_turn(f->loop);
	assert_int_equal(f->world.connects, 1);
	assert_string_equal(sfix_json(f, "s1", "/destination/status"), "DISCONNECTED");
	assert_true(sfix_has_event(f, "s1", "RETRY"));
	sfix_advance(f, 999);
	assert_int_equal(f->world.connects, 1);
	sfix_advance(f, 1);
	assert_int_equal(f->world.connects, 2);
	/* The other endpoint is tried after a failure. */
	assert_string_equal(fake_connected(&f->world, "c", 0)->address, "one");
	assert_string_equal(fake_connected(&f->world, "c", 1)->address, "two");
	sfix_advance(f, 1000);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	assert_string_equal(fake_connected(&f->world, "c", 2)->written, "first|");
	assert_int_equal(f->stats.retries, 2);
}

static void test_used_up(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src;

	sfix_simple(f, "FakeStream", "FakeStream", CONNECT);
	f->world.refuse = 100;
	src = fake_accept(&f->world, "l", "s1", NULL);
	sfix_advance(f, 1999);
	assert_non_null(sfix_session(f, "s1"));
	sfix_advance(f, 2);
	assert_null(sfix_session(f, "s1"));
	assert_int_equal(f->world.connects, 3);
	assert_true(src->aborted);
	/* Which stage, and why. */
	assert_non_null(strstr(f->last_reason, "destination 'c'"));
	assert_non_null(strstr(f->last_reason, "connection refused"));
	assert_non_null(strstr(f->last_reason, "2 retries"));
}

static void test_attempt_times_out(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *first;

	sfix_simple(f, "FakeStream", "FakeStream", CONNECT);
	f->world.hold_open = true;
	fake_accept(&f->world, "l", "s1", NULL);
	first = fake_connected(&f->world, "c", 0);
	sfix_advance(f, 999);
	assert_false(first->closing);
	sfix_advance(f, 1);
	/* Attempts begin a timeout apart: the next one at once. */
	assert_true(first->gone && first->aborted);
	assert_int_equal(f->world.connects, 2);
	fake_open(fake_connected(&f->world, "c", 1));
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	sfix_advance(f, 10000);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
}

/* An attempt given up whose `closed` comes late must not disturb the next one. */
static void test_late_closed(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *first;

	sfix_simple(f, "FakeDgram", "FakeDgram", CONNECT);
	f->world.hold_open = true;
	fake_accept(&f->world, "l", "s1", NULL);
	first = fake_connected(&f->world, "c", 0);
	l7mp_task_cancel(f->loop, &first->task);
	sfix_advance(f, 1000);
	fake_open(fake_connected(&f->world, "c", 1));
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	l7mp_session_end(sfix_session(f, "s1"), "x");
	l7mp_loop_turn(f->loop);
	assert_true(first->gone);
	assert_null(sfix_session(f, "s1"));
}

static void test_never(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	sfix_simple(f, "FakeDgram", "FakeStream", "");
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	up = fake_connected(&f->world, "c", 0);
	fake_closed(up, -ECONNRESET);
	l7mp_loop_turn(f->loop);
	assert_null(sfix_session(f, "s1"));
	assert_true(src->gone && src->aborted);
	assert_int_equal(f->world.connects, 1);
	/* A FIN of the upstream ends a source that knows no half-close, in order. */
	src = fake_accept(&f->world, "l", "s2", NULL);
	l7mp_loop_turn(f->loop);
	fake_end(fake_connected(&f->world, "c", 1), 0);
	l7mp_loop_turn(f->loop);
	assert_null(sfix_session(f, "s2"));
	assert_true(src->shut && src->gone && !src->aborted);
}

static void test_reconnect(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up, *in;

	sfix_simple(f, "FakeDgram", "FakeDgram", ",'ingress':['echo']" DISCONNECT);
	src = fake_accept(&f->world, "l", "s1", NULL);
	sfix_advance(f, 5000);
	up = fake_connected(&f->world, "c", 0);
	in = fake_connected(&f->world, "echo", 0);
	fake_data(src, "1");
	f->world.hold_open = true;
	fake_closed(up, 0);
	/* Up for longer than the timeout: at once. The others stay as they are. */
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_DISCONNECTED);
	sfix_advance(f, 0);
	assert_string_equal(sfix_json(f, "s1", "/destination/status"), "RETRYING");
	assert_string_equal(sfix_json(f, "s1", "/ingress/0/status"), "READY");
	assert_false(in->closing || src->closing);
	assert_true(src->paused);
	fake_data(src, "2");
	fake_data(src, "3");
	up = fake_connected(&f->world, "c", 1);
	assert_string_equal(up->address, "two");
	fake_open(up);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	assert_string_equal(up->written, "2|3|");
	assert_false(src->paused);
	assert_true(sfix_has_event(f, "s1", "DISCONNECT"));
	fake_data(up, "back");
	assert_string_equal(src->written, "back|");
}

/* A stage that repeatedly disconnects costs one connection per time-out; its count restarts. */
static void test_flapping(void **state)
{
	struct sfix *f = *state;

	sfix_simple(f, "FakeStream", "FakeStream", DISCONNECT);
	fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(f->world.connects, i + 1);
		fake_end(fake_connected(&f->world, "c", i), 0);
		assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_DISCONNECTED);
		sfix_advance(f, 999);
		assert_int_equal(f->world.connects, i + 1);
		sfix_advance(f, 1);
		assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	}
	f->world.refuse = 100;
	fake_end(fake_connected(&f->world, "c", 10), 0);
	sfix_advance(f, 5000);
	assert_null(sfix_session(f, "s1"));
	assert_int_equal(f->world.connects, 13);
}

/* disconnect does not cover the first connect, connect-failure not the loss. */
static void test_policies(void **state)
{
	struct sfix *f = *state;

	sfix_simple(f, "FakeStream", "FakeStream", DISCONNECT);
	f->world.refuse = 1;
	fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	assert_null(sfix_session(f, "s1"));
	sfix_simple(f, "FakeStream", "FakeStream", CONNECT);
	fake_accept(&f->world, "l", "s2", NULL);
	l7mp_loop_turn(f->loop);
	fake_closed(fake_connected(&f->world, "c", 1), -ECONNRESET);
	l7mp_loop_turn(f->loop);
	assert_null(sfix_session(f, "s2"));
}

static void test_missing_cluster(void **state)
{
	struct sfix *f = *state;

	struct l7mp_change *change;
	struct l7mp_error err = {0};
	cJSON *doc = cJSON_Parse("{\"name\":\"later\",\"spec\":{\"protocol\":\"FakeStream\"},"
	                         "\"endpoints\":[{\"spec\":{\"address\":\"x\"}}]}");

	assert_int_equal(sfix_config(f,
	                             "{'listeners':[{'name':'l','spec':{'protocol':'FakeStream'},"
	                             "'rules':[{'action':{'route':{'destination':'later','retry':"
	                             "{'retry_on':'connect-failure','timeout':1000}}}}]}]}",
	                             NULL),
	                 0);
	fake_accept(&f->world, "l", "s1", NULL);
	sfix_advance(f, 500);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_INIT);
	/* It is added while the session waits. */
	assert_int_equal(l7mp_change_new(f->model, true, &change), 0);
	assert_int_equal(l7mp_change_add(change, L7MP_OBJ_CLUSTER, doc, "", &err), 0);
	assert_int_equal(l7mp_runtime_apply(f->runtime, change, &err), 0);
	l7mp_change_free(&change);
	cJSON_Delete(doc);
	sfix_advance(f, 500);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	/* Deleted without its sessions: they go on. */
	assert_int_equal(l7mp_change_new(f->model, true, &change), 0);
	assert_int_equal(l7mp_change_delete(change, L7MP_OBJ_CLUSTER, "later", false, &err), 0);
	assert_int_equal(l7mp_runtime_apply(f->runtime, change, &err), 0);
	l7mp_change_free(&change);
	sfix_advance(f, 10000);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	fake_accept(&f->world, "l", "s2", NULL);
	sfix_advance(f, 2000);
	assert_null(sfix_session(f, "s2"));
	assert_non_null(strstr(f->last_reason, "there is no cluster 'later'"));
}

static void deleted_endpoint(struct sfix *f, const char *retry)
{
	struct l7mp_change *change;
	struct l7mp_error err = {0};
	struct fake_stream *src, *up;

	sfix_simple(f, "FakeDgram", "FakeDgram", retry);
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	assert_string_equal(sfix_json(f, "s1", "/destination/endpoint/name"), "e1");
	assert_int_equal(l7mp_change_new(f->model, true, &change), 0);
	assert_int_equal(l7mp_change_delete(change, L7MP_OBJ_ENDPOINT, "e1", true, &err), 0);
	assert_int_equal(l7mp_runtime_apply(f->runtime, change, &err), 0);
	l7mp_change_free(&change);
	fake_data(src, "kept");
	/* The operator's doing: no time to wait for. */
	sfix_advance(f, 1);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	up = fake_connected(&f->world, "c", 1);
	assert_string_equal(up->address, "two");
	assert_string_equal(up->written, "kept|");
}

static void test_deleted_endpoint(void **state)
{
	deleted_endpoint(*state, ALWAYS);
}

static void test_deleted_endpoint_never(void **state)
{
	deleted_endpoint(*state, ",'retry':{'retry_on':'never'}");
}

static int reopen(void *arg, struct l7mp_stream **out)
{
	struct sfix *f = arg;
	struct fake_stream *st;

	f->world.reopens++;
	if (f->world.reopen_rc)
		return f->world.reopen_rc;
	st = fake_make(&f->world, &fake_proto_dgram);
	*out = &st->base;
	return 0;
}

static void test_reopen(void **state)
{
	struct sfix *f = *state;
	struct l7mp_accept a = {.name = strdup("s1"), .reopen = reopen, .reopen_arg = f};
	struct fake_stream *src, *up;

	sfix_simple(f, "FakeDgram", "FakeDgram", ALWAYS);
	src = fake_accept_with(&f->world, "l", &a, false);
	sfix_advance(f, 3000);
	up = fake_connected(&f->world, "c", 0);
	fake_closed(src, -ECONNREFUSED);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_DISCONNECTED);
	fake_data(up, "waits");
	sfix_advance(f, 0);
	assert_int_equal(f->world.reopens, 1);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	src = f->world.last;
	assert_string_equal(src->written, "waits|");
	fake_data(src, "again");
	assert_string_equal(up->written, "again|");
	/* A singleton never idles. */
	sfix_advance(f, 1000000);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	f->world.reopen_rc = -EADDRINUSE;
	fake_closed(src, -ECONNREFUSED);
	sfix_advance(f, 5000);
	assert_int_equal(f->world.reopens, 3);
	assert_null(sfix_session(f, "s1"));
	/* Without its listener there is nobody to open it again. */
	f->world.reopen_rc = 0;
	a = (struct l7mp_accept){.name = strdup("s2"), .reopen = reopen, .reopen_arg = f};
	src = fake_accept_with(&f->world, "l", &a, false);
	l7mp_loop_turn(f->loop);
	l7mp_runtime_stop(f->runtime);
	fake_closed(src, -ECONNREFUSED);
	l7mp_loop_turn(f->loop);
	assert_int_equal(f->world.reopens, 3);
	assert_null(sfix_session(f, "s2"));
}

/* A retry prefers an endpoint that has not failed yet, until a connect succeeds. */
static void test_all_endpoints(void **state)
{
	struct sfix *f = *state;
	struct l7mp_error err;

	assert_int_equal(
	        sfix_config(
	                f,
	                "{'listeners':[{'name':'l','spec':{'protocol':'FakeDgram'},'rules':'rl'}],"
	                "'rulelists':[{'name':'rl','rules':[{'action':{'route':'r'}}]}],"
	                "'routes':[{'name':'r','destination':'c','retry':{'retry_on':'always',"
	                "'num_retries':9,'timeout':1000}}],"
	                "'clusters':[{'name':'c','spec':{'protocol':'FakeDgram'},'endpoints':["
	                "{'name':'e1','spec':{'address':'one'}},"
	                "{'name':'e2','spec':{'address':'two'}},"
	                "{'name':'e3','spec':{'address':'three'}}]}]}",
	                &err),
	        0);
	f->world.refuse = 4;
	fake_accept(&f->world, "l", "s1", NULL);
	sfix_advance(f, 4000);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	assert_string_equal(fake_connected(&f->world, "c", 0)->address, "one");
	assert_string_equal(fake_connected(&f->world, "c", 1)->address, "two");
	assert_string_equal(fake_connected(&f->world, "c", 2)->address, "three");
	/* All have failed: another round. */
	assert_string_equal(fake_connected(&f->world, "c", 3)->address, "one");
	assert_string_equal(fake_connected(&f->world, "c", 4)->address, "two");
	/* The earlier failures do not count after a success. */
	fake_closed(fake_connected(&f->world, "c", 4), -ECONNRESET);
	sfix_advance(f, 1000);
	assert_string_equal(fake_connected(&f->world, "c", 5)->address, "one");
}

static struct l7mp_health_state health_of(const struct sfix *f, const char *endpoint)
{
	const struct l7mp_endpoint *e = l7mp_model_find(f->model, L7MP_OBJ_ENDPOINT, endpoint);
	struct l7mp_health_state h;

	l7mp_health_read(e->health, &h);
	return h;
}

static void assert_health(const struct sfix *f, const char *endpoint, unsigned sessions,
                          unsigned connects, unsigned failed, unsigned lost)
{
	struct l7mp_health_state h = health_of(f, endpoint);

	assert_int_equal(h.sessions, sessions);
	assert_int_equal(h.connects, connects);
	assert_int_equal(h.failed, failed);
	assert_int_equal(h.lost, lost);
}

/* Each attempt counts once: refused at once or later, timed out, closed before it is connected. */
static void test_health(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *up;

	sfix_simple(f, "FakeStream", "FakeStream", ALWAYS);
	f->world.refuse = 1;
	fake_accept(&f->world, "l", "s1", NULL);
	assert_health(f, "e1", 0, 1, 0, 0);
	l7mp_loop_turn(f->loop);
	assert_health(f, "e1", 0, 1, 1, 0);
	assert_non_null(strstr(health_of(f, "e1").error, "refused"));
	assert_int_equal(health_of(f, "e1").success_ms, 0);
	assert_int_not_equal(health_of(f, "e1").failure_ms, 0);
	assert_health(f, "e2", 0, 0, 0, 0);
	f->world.hold_open = true;
	sfix_advance(f, 1000);
	assert_health(f, "e2", 0, 1, 0, 0);
	sfix_advance(f, 1000);
	assert_health(f, "e2", 0, 1, 1, 0);
	assert_non_null(strstr(health_of(f, "e2").error, ": not connected within 1000 ms"));
	assert_health(f, "e1", 0, 2, 1, 0);
	fake_open(fake_connected(&f->world, "c", 2));
	assert_health(f, "e1", 1, 2, 1, 0);
	assert_int_not_equal(health_of(f, "e1").success_ms, 0);
	/* Lost by an error, then in order, each time tried again with the other endpoint. */
	fake_closed(fake_connected(&f->world, "c", 2), -ECONNRESET);
	assert_health(f, "e1", 0, 2, 1, 1);
	sfix_advance(f, 1000);
	assert_health(f, "e2", 0, 2, 1, 0);
	fake_open(fake_connected(&f->world, "c", 3));
	fake_closed(fake_connected(&f->world, "c", 3), 0);
	assert_health(f, "e2", 0, 2, 1, 0);
	sfix_advance(f, 1000);
	/* Closed in order before it was connected. */
	fake_closed(fake_connected(&f->world, "c", 4), 0);
	assert_health(f, "e1", 0, 3, 2, 1);
	/* An attempt that the end of the session stops has neither failed nor succeeded. */
	sfix_advance(f, 1000);
	assert_health(f, "e2", 0, 3, 1, 0);
	l7mp_session_end(sfix_session(f, "s1"), "x");
	sfix_advance(f, 0);
	assert_null(sfix_session(f, "s1"));
	assert_health(f, "e2", 0, 3, 1, 0);
	/* connect() of the protocol fails. */
	f->world.connect_rc = -EMFILE;
	fake_accept(&f->world, "l", "s2", NULL);
	assert_health(f, "e1", 0, 4, 3, 1);
	f->world.connect_rc = 0;
	f->world.hold_open = false;
	sfix_advance(f, 1000);
	assert_health(f, "e2", 1, 4, 1, 0);
	/* The client leaves: the endpoint has not lost anything. */
	up = fake_connected(&f->world, "c", 6);
	l7mp_session_end(sfix_session(f, "s2"), "x");
	sfix_advance(f, 0);
	assert_true(up->gone);
	assert_health(f, "e2", 0, 4, 1, 0);
}

/* Of a replaced or deleted endpoint, and of clusters without endpoints. */
static void test_health_objects(void **state)
{
	struct sfix *f = *state;
	struct l7mp_health_state h;
	struct l7mp_cluster *echo;

	sfix_simple(f, "FakeDgram", "FakeDgram", ",'ingress':['echo']" ALWAYS);
	echo = l7mp_model_find(f->model, L7MP_OBJ_CLUSTER, "echo");
	fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	assert_health(f, "e1", 1, 1, 0, 0);
	l7mp_health_read(echo->health, &h);
	assert_int_equal(h.sessions, 1);
	assert_int_equal(h.connects, 1);
	sfix_end_using(f, l7mp_model_find(f->model, L7MP_OBJ_ENDPOINT, "e1"));
	sfix_advance(f, 0);
	assert_health(f, "e1", 0, 1, 0, 0);
	assert_health(f, "e2", 1, 1, 0, 0);
	l7mp_session_end(sfix_session(f, "s1"), "x");
	sfix_advance(f, 0);
	assert_health(f, "e2", 0, 1, 0, 0);
	l7mp_health_read(echo->health, &h);
	assert_int_equal(h.sessions, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_late_upstream),
	        T(test_used_up),
	        T(test_attempt_times_out),
	        T(test_late_closed),
	        T(test_never),
	        T(test_reconnect),
	        T(test_flapping),
	        T(test_policies),
	        T(test_missing_cluster),
	        T(test_reopen),
	        T(test_deleted_endpoint),
	        T(test_deleted_endpoint_never),
	        T(test_all_endpoints),
	        T(test_health),
	        T(test_health_objects),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
