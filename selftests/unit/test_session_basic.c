/* SPDX-License-Identifier: MIT */
/* Set-up, relaying through chains, order, re-entrancy, tracking, ending by object. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "session_fixture.h"

static void test_relay(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	sfix_simple(f, "FakeDgram", "FakeDgram", "");
	f->world.hold_open = true;
	src = fake_accept(&f->world, "l", "s1", "10.0.0.1");
	assert_non_null(src);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_INIT);
	assert_true(src->paused);
	up = fake_connected(&f->world, "c", 0);
	assert_string_equal(up->address, "one");

	/* What comes before the route is connected arrives once, in order, and first. */
	fake_data(src, "a");
	fake_data(src, "b");
	assert_int_equal(up->n_written, 0);
	fake_open(up);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	assert_string_equal(up->written, "a|b|");
	assert_false(src->paused);
	fake_data(src, "c");
	fake_data(up, "x");
	assert_string_equal(up->written, "a|b|c|");
	assert_string_equal(src->written, "x|");
	assert_int_equal(sfix_num(f, "s1", "/stats/ingress/packets"), 3);
	assert_int_equal(sfix_num(f, "s1", "/stats/egress/slow/bytes"), 1);
	assert_int_equal(f->stats.slow_packets[0], 3);
	assert_int_equal(f->stats.slow_packets[1], 1);
	assert_string_equal(sfix_json(f, "s1", "/source/listener"), "l");
	assert_string_equal(sfix_json(f, "s1", "/destination/origin"), "c");
	assert_string_equal(sfix_json(f, "s1", "/destination/endpoint/name"), "e1");
	assert_string_equal(sfix_json(f, "s1", "/destination/status"), "READY");
	assert_string_equal(sfix_json(f, "s1", "/offload/directions/0/reason"), "disabled");

	l7mp_session_end(sfix_session(f, "s1"), "because");
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_FINALIZING);
	fake_data(src, "late");
	assert_int_equal(f->stats.drops[L7MP_DROP_CLOSED], 1);
	l7mp_loop_turn(f->loop);
	assert_null(sfix_session(f, "s1"));
	assert_true(src->gone && up->gone && !src->aborted && !up->aborted);
	assert_string_equal(f->last_reason, "because");
	assert_int_equal(f->ended, 1);
}

static void test_chains(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up, *in, *out;

	sfix_simple(f, "FakeStream", "FakeStream", ",'ingress':['echo'],'egress':['pass']");
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	in = fake_connected(&f->world, "echo", 0);
	up = fake_connected(&f->world, "c", 0);
	out = fake_connected(&f->world, "pass", 0);
	/* Stream all the way: known before anything was connected, and no warning. */
	assert_int_equal(in->in_kind, L7MP_KIND_STREAM);
	assert_int_equal(out->in_kind, L7MP_KIND_STREAM);
	assert_false(sfix_has_event(f, "s1", "WARNING"));
	fake_data(src, "in");
	fake_data(up, "out");
	assert_string_equal(in->written, "in|");
	assert_string_equal(up->written, "in|");
	assert_string_equal(out->written, "out|");
	assert_string_equal(src->written, "out|");
	assert_int_equal(sfix_num(f, "s1", "/stats/ingress/packets"), 1);
	assert_string_equal(sfix_json(f, "s1", "/ingress/0/origin"), "echo");
	assert_string_equal(sfix_json(f, "s1", "/egress/0/status"), "READY");
}

static void test_kind_warning(void **state)
{
	struct sfix *f = *state;

	sfix_simple(f, "FakeDgram", "FakeStream", "");
	fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	assert_true(sfix_has_event(f, "s1", "WARNING"));
}

static void test_split(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	sfix_simple(f, "FakeStream", "FakeDgram", "");
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	up = fake_connected(&f->world, "c", 0);
	fake_bytes(src, 65536);
	assert_int_equal(up->n_written, 2);
	assert_int_equal(up->bytes_written, 65536);
	free(up->written);
	up->written = NULL;
	up->base.max_write = 3;
	fake_data(src, "abcdefgh");
	assert_string_equal(up->written, "abc|def|gh|");
	/* Full in the middle: the rest waits and keeps its order. */
	up->write_rc = L7MP_STREAM_FULL;
	fake_data(src, "ABCDEFGH");
	assert_string_equal(up->written, "abc|def|gh|ABC|");
	assert_true(src->paused);
	fake_data(src, "xy");
	fake_drain(up);
	assert_string_equal(up->written, "abc|def|gh|ABC|DEF|GH|xy|");
	assert_false(src->paused);
}

static void test_too_large(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	sfix_simple(f, "FakeDgram", "FakeDgram", "");
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	up = fake_connected(&f->world, "c", 0);
	up->write_rc = -EMSGSIZE;
	fake_data(src, "too large");
	assert_int_equal(f->stats.drops[L7MP_DROP_TOO_LARGE], 1);
	assert_int_equal(f->stats.drop_bytes[L7MP_DROP_TOO_LARGE], 9);
	assert_int_equal(sfix_num(f, "s1", "/stats/drops"), 1);
	assert_int_equal(sfix_num(f, "s1", "/stats/ingress/packets"), 0);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
}

/* The echo destination, and what a client hears when it is slow. */
static void test_echo(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src;

	sfix_simple(f, "FakeStream", "FakeEcho", "");
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	fake_data(src, "one");
	assert_string_equal(src->written, "one|");
	src->write_rc = L7MP_STREAM_FULL;
	fake_data(src, "two");
	/* The echo holds nothing back, so the source itself must stop. */
	assert_true(src->paused);
	fake_data(src, "three");
	assert_string_equal(src->written, "one|two|");
	fake_drain(src);
	assert_string_equal(src->written, "one|two|three|");
	assert_false(src->paused);
	fake_end(src, 0);
	assert_true(src->shut);
	l7mp_loop_turn(f->loop);
	assert_null(sfix_session(f, "s1"));
	assert_string_equal(f->last_reason, "end of stream");
}

static struct sfix *reentrant;
static void end_it(struct fake_stream *st)
{
	(void)st;
	l7mp_session_end(sfix_session(reentrant, "s1"), "from inside a write");
}

static void test_end_inside_write(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	reentrant = f;
	sfix_simple(f, "FakeDgram", "FakeDgram", ",'ingress':['echo','pass']");
	f->world.hold_open = true;
	src = fake_accept(&f->world, "l", "s1", NULL);
	fake_data(src, "1");
	fake_data(src, "2");
	fake_data(src, "3");
	l7mp_loop_turn(f->loop);
	up = fake_connected(&f->world, "c", 0);
	up->on_write = end_it;
	fake_open(up);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_FINALIZING);
	assert_string_equal(up->written, "1|");
	l7mp_loop_turn(f->loop);
	assert_null(sfix_session(f, "s1"));
	assert_int_equal(f->stats.drops[L7MP_DROP_CLOSED], 2);
}

static void test_tracking(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src;

	assert_int_equal(sfix_config(f,
	                             "{'listeners':[{'name':'l','spec':{'protocol':'FakeDgram'},"
	                             "'options':{'track':5},'rules':[{'action':{'route':{"
	                             "'destination':{'spec':{'protocol':'FakeEcho'}}}}}]}]}",
	                             NULL),
	                 0);
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	fake_data(src, "x");
	fake_closed(src, 0);
	l7mp_loop_turn(f->loop);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_DESTROYED);
	assert_int_equal(l7mp_sessions_count(f->sessions, L7MP_SESSION_DESTROYED), 1);
	assert_int_equal(sfix_num(f, "s1", "/stats/egress/packets"), 1);
	/* The same client again: the new session takes the name. */
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	assert_int_equal(l7mp_sessions_count(f->sessions, L7MP_SESSION_DESTROYED), 0);
	/* A second one while the first lives gets a name of its own. */
	fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	assert_int_equal(sfix_state(f, "s1-2"), L7MP_SESSION_CONNECTED);
	fake_closed(src, 0);
	l7mp_loop_turn(f->loop);
	sfix_advance(f, 4999);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_DESTROYED);
	sfix_advance(f, 2);
	assert_null(sfix_session(f, "s1"));
}

static void test_results(void **state)
{
	struct sfix *f = *state;
	struct l7mp_accept a = {.name = strdup("s1")}, b = {.name = strdup("s2")};
	struct l7mp_accept c = {.name = strdup("s3")}, d = {.name = strdup("s4")};
	struct fake_stream *src;

	sfix_simple(f, "FakeStream", "FakeStream", "");
	f->world.hold_open = true;
	src = fake_accept_with(&f->world, "l", &a, true);
	assert_int_equal(src->status, 0);
	fake_open(fake_connected(&f->world, "c", 0));
	assert_int_equal(src->status, 200);

	src = fake_accept_with(&f->world, "l", &b, true);
	fake_closed(fake_connected(&f->world, "c", 1), -ECONNREFUSED);
	assert_int_equal(src->status, 502);
	l7mp_loop_turn(f->loop);
	/* The answer must reach the client: so no abort. */
	assert_true(src->gone && !src->aborted);

	src = fake_accept_with(&f->world, "l", &c, true);
	sfix_advance(f, 2000);
	assert_int_equal(src->status, 504);

	sfix_config(f,
	            "{'listeners':[{'name':'l','spec':{'protocol':'FakeStream'},'rules':["
	            "{'match':{'op':'defined','path':'/nope'},'action':{'route':{'destination':"
	            "'c'}}}]}]}",
	            NULL);
	src = fake_accept_with(&f->world, "l", &d, true);
	assert_int_equal(src->status, 404);
	l7mp_loop_turn(f->loop);
	assert_true(src->gone);
	assert_null(sfix_session(f, "s4"));
}

static void test_end_using(void **state)
{
	static const char *const names[] = {"l", "rl", "r", "rt", "c"};
	static const enum l7mp_obj_kind kinds[] = {L7MP_OBJ_LISTENER, L7MP_OBJ_RULELIST,
	                                           L7MP_OBJ_RULE, L7MP_OBJ_ROUTE, L7MP_OBJ_CLUSTER};
	struct sfix *f = *state;

	sfix_simple(f, "FakeDgram", "FakeDgram", "");
	for (unsigned i = 0; i < 5; i++) {
		struct l7mp_object *o = l7mp_model_find(f->model, kinds[i], names[i]);

		assert_non_null(o);
		fake_accept(&f->world, "l", "s1", NULL);
		l7mp_loop_turn(f->loop);
		sfix_end_using(f, l7mp_model_find(f->model, L7MP_OBJ_CLUSTER, "pass"));
		assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
		sfix_end_using(f, o);
		assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_FINALIZING);
		l7mp_loop_turn(f->loop);
		assert_int_equal(f->ended, i + 1);
	}
}

/* A request whose own objects are deleted still gets its answer. */
static void test_drain(void **state)
{
	struct sfix *f = *state;
	struct l7mp_accept a = {.name = strdup("s1")};
	struct fake_stream *src, *up;

	sfix_simple(f, "FakeStream", "FakeStream", "");
	src = fake_accept_with(&f->world, "l", &a, true);
	l7mp_loop_turn(f->loop);
	up = fake_connected(&f->world, "c", 0);
	fake_data(src, "DELETE me");
	fake_end(src, 0);
	l7mp_session_end(sfix_session(f, "s1"), "deleted");
	l7mp_loop_turn(f->loop);
	fake_data(up, "200 OK");
	fake_end(up, 0);
	l7mp_loop_turn(f->loop);
	assert_string_equal(src->written, "200 OK|");
	assert_true(src->shut && src->gone && !src->aborted);
	assert_string_equal(f->last_reason, "deleted");
	/* ... but not for ever. */
	a.name = strdup("s2");
	src = fake_accept_with(&f->world, "l", &a, true);
	l7mp_loop_turn(f->loop);
	fake_end(src, 0);
	l7mp_session_end(sfix_session(f, "s2"), "deleted");
	sfix_advance(f, 5001);
	assert_null(sfix_session(f, "s2"));
}

static void done(void *arg)
{
	((struct sfix *)arg)->shut_down = true;
}

static void test_shutdown(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src, *up;

	sfix_simple(f, "FakeStream", "FakeStream", "");
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	up = fake_connected(&f->world, "c", 0);
	up->slow_close = true;
	l7mp_sessions_shutdown(f->sessions, 100, done, f);
	assert_null(fake_accept(&f->world, "l", "s2", NULL));
	l7mp_loop_turn(f->loop);
	assert_true(src->gone && !up->gone);
	assert_false(f->shut_down);
	sfix_advance(f, 101);
	assert_true(up->gone && up->aborted);
	assert_true(f->shut_down);
}

/*
 * A session that ended before, and one that ends right now: neither leaves a timer that keeps the
 * loop.
 */
static void test_shutdown_tracked(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src;
	uint64_t before;

	assert_int_equal(sfix_config(f,
	                             "{'listeners':[{'name':'l','spec':{'protocol':'FakeDgram'},"
	                             "'options':{'track':30},'rules':[{'action':{'route':{"
	                             "'destination':{'spec':{'protocol':'FakeEcho'}}}}}]}]}",
	                             NULL),
	                 0);
	src = fake_accept(&f->world, "l", "s1", NULL);
	l7mp_loop_turn(f->loop);
	fake_closed(src, 0);
	l7mp_loop_turn(f->loop);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_DESTROYED);
	src = fake_accept(&f->world, "l", "s2", NULL);
	l7mp_loop_turn(f->loop);
	fake_closed(src, 0);
	l7mp_sessions_shutdown(f->sessions, 100, done, f);
	before = l7mp_loop_now(f->loop);
	l7mp_loop_turn(f->loop);
	assert_true(f->shut_down);
	assert_int_equal(l7mp_loop_now(f->loop), before);
	assert_null(sfix_session(f, "s1"));
	assert_null(sfix_session(f, "s2"));
}

/* How many there were; 0 also when the protocol is another one. */
static unsigned count_of(const struct sfix *f, enum l7mp_obj_kind kind, const char *name,
                         const char *protocol)
{
	const char *has;
	uint64_t count;

	if (!l7mp_sessions_counter(f->sessions, kind, name, &has, &count) || strcmp(has, protocol))
		return 0;
	return (unsigned)count;
}

static void test_counters(void **state)
{
	struct sfix *f = *state;

	sfix_simple(f, "FakeDgram", "FakeStream", "");
	fake_accept(&f->world, "l", "s1", NULL);
	fake_accept(&f->world, "l", "s2", NULL);
	assert_int_equal(count_of(f, L7MP_OBJ_LISTENER, "l", "FakeDgram"), 2);
	assert_int_equal(count_of(f, L7MP_OBJ_CLUSTER, "c", "FakeStream"), 2);
	assert_string_equal(l7mp_session_name(l7mp_sessions_first(f->sessions)), "s1");
	assert_string_equal(l7mp_session_name(l7mp_sessions_next(l7mp_sessions_first(f->sessions))),
	                    "s2");
}

#define T(name) cmocka_unit_test_setup_teardown(name, sfix_new, sfix_free)
int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_relay),
	        T(test_chains),
	        T(test_kind_warning),
	        T(test_split),
	        T(test_too_large),
	        T(test_echo),
	        T(test_tracking),
	        T(test_end_inside_write),
	        T(test_results),
	        T(test_end_using),
	        T(test_drain),
	        T(test_shutdown),
	        T(test_shutdown_tracked),
	        T(test_counters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
