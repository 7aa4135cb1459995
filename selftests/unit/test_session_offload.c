/* SPDX-License-Identifier: MIT */
/* Verdicts: when the fast path is asked, remembered, left, and what it counted. */
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

static const char *off(struct sfix *f, const char *key)
{
	char pointer[100];

	snprintf(pointer, sizeof(pointer), "/offload/%s", key);
	return sfix_json(f, "s1", pointer);
}

static struct fake_stream *start(struct sfix *f, const char *route)
{
	struct fake_stream *src;

	sfix_simple(f, "FakeDgram", "FakeDgram", route);
	src = fake_accept(&f->world, "l", "s1", NULL);
	sfix_advance(f, 3000);
	return src;
}

static void test_fast(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, "");
	struct l7mp_flow *flow;

	assert_string_equal(off(f, "state"), "slow");
	assert_string_equal(off(f, "directions/0/reason"), "pending");
	assert_int_equal(f->offload.adds, 0);
	fake_data(src, "1");
	fake_data(src, "2");
	/* Not from inside the batch: what it sent must have left. */
	assert_int_equal(f->offload.adds, 0);
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 1);
	flow = f->offload.flows;
	assert_int_equal(flow->b.kind, L7MP_FLOW_SOCKET);
	fake_offload_begin(&f->offload, false);
	assert_string_equal(off(f, "state"), "fast");
	assert_string_equal(off(f, "directions/0/hook"), "tc");
	assert_string_equal(off(f, "directions/1/interface"), "eth1");
	assert_string_equal(off(f, "directions/0/from"), "source");
	assert_string_equal(off(f, "directions/0/to"), "destination");
	assert_int_equal(sfix_num(f, "s1", "/offload/pipes/offloaded"), 2);
	flow->now[0] = (struct l7mp_flow_counters){10, 1000, l7mp_loop_now(f->loop)};
	flow->now[1] = (struct l7mp_flow_counters){7, 70, 0};
	assert_int_equal(sfix_num(f, "s1", "/stats/ingress/packets"), 12);
	assert_int_equal(sfix_num(f, "s1", "/stats/ingress/fast/bytes"), 1000);
	assert_int_equal(sfix_num(f, "s1", "/stats/egress/fast/packets"), 7);
	/* Packets of the slow path beside it change nothing. */
	fake_data(src, "3");
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 1);
}

struct look {
	struct fake_stream *src, *up;
	bool closed;
};
static void look(void *arg)
{
	struct look *l = arg;

	l->closed = l->src->closing || l->up->closing;
}

static void test_removed_first(void **state)
{
	struct sfix *f = *state;
	struct look l = {.src = start(f, "")};

	l.up = fake_connected(&f->world, "c", 0);
	fake_data(l.src, "1");
	sfix_advance(f, 1);
	f->offload.flows->now[0].packets = 5;
	f->offload.on_remove = look;
	f->offload.on_remove_arg = &l;
	l7mp_session_end(sfix_session(f, "s1"), "x");
	assert_null(f->offload.flows);
	assert_int_equal(f->offload.removes, 1);
	assert_false(l.closed);
	/* The last counters stay the session's. */
	assert_int_equal(sfix_num(f, "s1", "/stats/ingress/packets"), 6);
	f->offload.on_remove = NULL;
	sfix_advance(f, 1);
	assert_null(sfix_session(f, "s1"));
}

static void test_lost_stage(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src =
	        start(f, ",'retry':{'retry_on':'always','num_retries':1,'timeout':1000}");

	fake_data(src, "1");
	sfix_advance(f, 1);
	f->offload.flows->now[1].packets = 4;
	fake_closed(fake_connected(&f->world, "c", 0), -ENETDOWN);
	assert_null(f->offload.flows);
	sfix_advance(f, 1);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	/* The new connection is a new question. */
	fake_data(src, "2");
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 2);
	fake_offload_begin(&f->offload, false);
	assert_string_equal(off(f, "state"), "fast");
	f->offload.flows->now[1].packets = 2;
	assert_int_equal(sfix_num(f, "s1", "/stats/egress/fast/packets"), 6);
}

/* A stream changes addresses: its flow is removed first, the next packet requests another. */
static void test_moved(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, ""), *up = fake_connected(&f->world, "c", 0);

	fake_data(src, "1");
	sfix_advance(f, 1);
	f->offload.flows->now[0].packets = 5;
	up->base.events->moved(up->base.owner);
	assert_null(f->offload.flows);
	assert_int_equal(sfix_num(f, "s1", "/stats/ingress/packets"), 6);
	fake_data(src, "2");
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 2);
	assert_int_equal(sfix_num(f, "s1", "/stats/ingress/packets"), 7);
}

static void test_refused(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, "");

	f->offload.refuse = L7MP_REASON_TABLE_FULL;
	for (unsigned i = 0; i < 5; i++) {
		fake_data(src, "x");
		sfix_advance(f, 1);
	}
	/* Asked once, remembered. */
	assert_int_equal(f->offload.adds, 1);
	assert_string_equal(off(f, "directions/1/state"), "refused");
	assert_string_equal(off(f, "directions/1/reason"), "table-full");
	fake_offload_retry(&f->offload);
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 2);
	assert_string_equal(off(f, "directions/1/reason"), "table-full");
	f->offload.refuse = L7MP_REASON_NONE;
	fake_offload_retry(&f->offload);
	fake_offload_retry(&f->offload);
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 3);
	fake_offload_begin(&f->offload, false);
	assert_string_equal(off(f, "state"), "fast");
	fake_offload_retry(&f->offload);
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 3);
}

/* The engine may have forgotten the way that failed: packets ask again, but not each of them. */
static void test_way_again(void **state)
{
	static const enum l7mp_reason reasons[] = {L7MP_REASON_NO_NEIGHBOUR, L7MP_REASON_NO_ROUTE};
	struct sfix *f = *state;
	struct fake_stream *src = start(f, "");

	f->offload.refuse = reasons[0];
	for (unsigned i = 0; i < 2; i++) {
		unsigned adds = f->offload.adds;

		for (unsigned n = 0; n < 9; n++) {
			fake_data(src, "x");
			sfix_advance(f, 100);
		}
		assert_int_equal(f->offload.adds, adds + (i == 0));
		f->offload.refuse = reasons[1];
		sfix_advance(f, 1000);
		assert_int_equal(f->offload.adds, adds + (i == 0));
		fake_data(src, "x");
		fake_data(src, "x");
		sfix_advance(f, 1);
		assert_int_equal(f->offload.adds, adds + (i == 0) + 1);
		assert_string_equal(off(f, "directions/0/reason"), "no-route");
	}
	f->offload.refuse = L7MP_REASON_NONE;
	sfix_advance(f, 1000);
	fake_data(src, "x");
	sfix_advance(f, 1);
	fake_offload_begin(&f->offload, false);
	assert_string_equal(off(f, "state"), "fast");
	fake_offload_withdraw(&f->offload, L7MP_REASON_NO_NEIGHBOUR);
	fake_data(src, "x");
	sfix_advance(f, 1);
	assert_string_equal(off(f, "state"), "slow");
	sfix_advance(f, 1000);
	fake_data(src, "x");
	sfix_advance(f, 1);
	fake_offload_begin(&f->offload, false);
	assert_string_equal(off(f, "state"), "fast");
}

/* What a packet filter refuses must not be forwarded past it. */
static void test_filtered(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, "");
	struct fake_stream *up = fake_connected(&f->world, "c", 0);

	for (unsigned i = 0; i < 40; i++) {
		fake_data(src, "x");
		sfix_advance(f, 1);
		up->base.events->lost(up->base.owner, -EPERM, 1, 1);
		assert_null(f->offload.flows);
		assert_string_equal(off(f, "directions/0/reason"), "send-filtered");
		sfix_advance(f, i % 2 ? 100 : 3000);
		fake_offload_retry(&f->offload);
		sfix_advance(f, 1);
	}
	assert_int_equal(f->offload.adds, 1);
	/* One packet has to leave before the next one asks. */
	sfix_advance(f, 3000);
	fake_data(src, "x");
	sfix_advance(f, 100);
	assert_int_equal(f->offload.adds, 1);
	fake_data(src, "x");
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 2);
	fake_offload_begin(&f->offload, false);
	assert_string_equal(off(f, "state"), "fast");
	/* Other losses say nothing of filters. */
	up->base.events->lost(up->base.owner, -ENOBUFS, 1, 1);
	assert_string_equal(off(f, "state"), "fast");
	up->base.events->lost(up->base.owner, -EPERM, 1, 1);
	assert_string_equal(off(f, "directions/1/reason"), "send-filtered");
}

static void beside(struct sfix *f, struct fake_stream *src, unsigned n)
{
	while (n--) {
		fake_data(src, "x");
		sfix_advance(f, 1);
	}
}

/* Packets come up, and the flow counts none: it never sees them. */
static void test_bypassed(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, "");
	uint64_t hold = 10000;

	beside(f, src, 1);
	for (unsigned i = 0; i < 3; i++) {
		fake_offload_begin(&f->offload, false);
		/* Data that may have been in flight when it began is no sign. */
		beside(f, src, 20);
		assert_string_equal(off(f, "state"), "fast");
		sfix_advance(f, 300);
		beside(f, src, 2);
		assert_string_equal(off(f, "directions/0/reason"), "bypassed");
		assert_null(f->offload.flows);
		/* Out for a while, twice as long each time, whatever the engine says. */
		sfix_advance(f, hold - 100);
		fake_offload_retry(&f->offload);
		beside(f, src, 2);
		assert_null(f->offload.flows);
		sfix_advance(f, 200);
		beside(f, src, 1);
		assert_non_null(f->offload.flows);
		hold *= 2;
	}
}

/* Some packets come up, others are forwarded: a few are no harm, many are out of order. */
static void test_mixed(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, "");

	beside(f, src, 1);
	fake_offload_begin(&f->offload, false);
	sfix_advance(f, 300);
	for (unsigned i = 0; i < 50; i++) {
		f->offload.flows->now[0].packets += 100;
		beside(f, src, 1);
		sfix_advance(f, 500);
	}
	assert_string_equal(off(f, "state"), "fast");
	for (unsigned i = 0; i < 16 && f->offload.flows; i++) {
		f->offload.flows->now[0].packets += 100;
		beside(f, src, 1);
	}
	assert_string_equal(off(f, "directions/0/reason"), "mixed-paths");
	beside(f, src, 20);
	assert_int_equal(f->offload.adds, 1);
}

/* The kernel knows a smaller MTU: the engine is to ask for it at once. */
static void test_path_changed(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, "");
	struct fake_stream *up = fake_connected(&f->world, "c", 0);

	up->base.events->path_changed(up->base.owner);
	assert_int_equal(f->offload.rechecks, 0);
	beside(f, src, 1);
	up->base.events->path_changed(up->base.owner);
	assert_int_equal(f->offload.rechecks, 1);
}

static void test_withdrawn(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, "");

	fake_data(src, "1");
	sfix_advance(f, 1);
	f->offload.flows->now[0].packets = 9;
	fake_offload_withdraw(&f->offload, L7MP_REASON_NO_ROUTE);
	assert_string_equal(off(f, "state"), "slow");
	assert_string_equal(off(f, "directions/0/reason"), "no-route");
	assert_int_equal(sfix_num(f, "s1", "/stats/ingress/packets"), 10);
	assert_int_equal(f->stats.fast_packets[L7MP_INGRESS], 9);
	assert_int_equal(f->stats.fast_packets[L7MP_EGRESS], 0);
	fake_data(src, "2");
	assert_int_equal(sfix_num(f, "s1", "/stats/ingress/packets"), 11);
	fake_offload_retry(&f->offload);
	sfix_advance(f, 1);
	fake_offload_begin(&f->offload, false);
	assert_string_equal(off(f, "state"), "fast");
}

static void test_chains(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, ",'ingress':['echo']"), *pass;

	fake_data(src, "1");
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 0);
	assert_string_equal(off(f, "directions/0/reason"), "transformer-in-path");
	l7mp_session_end(sfix_session(f, "s1"), "x");
	sfix_advance(f, 1);

	src = start(f, ",'ingress':['pass'],'egress':['pass']");
	fake_data(src, "1");
	sfix_advance(f, 1);
	fake_offload_begin(&f->offload, false);
	assert_string_equal(off(f, "state"), "fast");
	assert_int_equal(sfix_num(f, "s1", "/offload/pipes/offloaded"), 4);
	/* What only counts is told what passed it. */
	pass = fake_connected(&f->world, "pass", 0);
	f->offload.flows->now[0].packets = 3;
	f->offload.flows->now[1].packets = 5;
	l7mp_session_end(sfix_session(f, "s1"), "x");
	assert_int_equal(pass->passed_packets, 3);
	assert_int_equal(fake_connected(&f->world, "pass", 1)->passed_packets, 5);
}

static void test_kinds(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, "");
	struct fake_stream *up = fake_connected(&f->world, "c", 0);

	up->flow = (struct l7mp_flow_end){.kind = L7MP_FLOW_NONE,
	                                  .reason = L7MP_REASON_NOT_ESTABLISHED};
	fake_data(src, "1");
	sfix_advance(f, 1);
	assert_string_equal(off(f, "directions/0/reason"), "not-established");
	up->flow = (struct l7mp_flow_end){.kind = L7MP_FLOW_PASS};
	fake_offload_retry(&f->offload);
	sfix_advance(f, 1);
	assert_int_equal(f->offload.flows->b.kind, L7MP_FLOW_REFLECT);
}

/* An end whose handshake is not done says so for itself, and nobody tells when it is. */
static void test_not_established(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, "");
	struct fake_stream *up = fake_connected(&f->world, "c", 0);
	struct l7mp_flow_end flow = up->flow;

	up->flow = (struct l7mp_flow_end){.kind = L7MP_FLOW_NONE,
	                                  .reason = L7MP_REASON_NOT_ESTABLISHED};
	fake_data(src, "1");
	sfix_advance(f, 1);
	assert_string_equal(off(f, "state"), "slow");
	assert_string_equal(off(f, "directions/0/reason"), "not-established");
	up->flow = flow;
	sfix_advance(f, 1000);
	assert_int_equal(f->offload.adds, 0);
	fake_data(src, "2");
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 1);
	fake_offload_begin(&f->offload, false);
	assert_string_equal(off(f, "state"), "fast");
}

static void test_never(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, ",'offload':'never'");

	fake_data(src, "1");
	sfix_advance(f, 1);
	fake_offload_retry(&f->offload);
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 0);
	assert_string_equal(off(f, "directions/0/reason"), "disabled");
}

/* In the map, and not begun: packets come up, and nothing is asked again. */
static void test_begins(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, "");
	struct fake_stream *up = fake_connected(&f->world, "c", 0);

	fake_data(src, "1");
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 1);
	assert_string_equal(off(f, "state"), "slow");
	assert_string_equal(off(f, "directions/0/state"), "pending");
	assert_string_equal(off(f, "directions/0/reason"), "pending");
	fake_data(src, "2");
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 1);
	/* Not while something waits. */
	up->write_rc = L7MP_STREAM_FULL;
	fake_data(src, "3");
	fake_data(src, "4");
	assert_false(fake_offload_ready(&f->offload));
	up->write_rc = 0;
	fake_drain(up);
	assert_true(fake_offload_ready(&f->offload));
	fake_offload_begin(&f->offload, false);
	assert_string_equal(off(f, "state"), "fast");
	assert_int_equal(sfix_num(f, "s1", "/stats/ingress/slow/packets"), 4);
	l7mp_session_end(sfix_session(f, "s1"), "x");
	assert_null(f->offload.flows);
}

/* The hand-over has places for so many: the others wait in the queue, and none is forgotten. */
static void test_many_begin(void **state)
{
	static struct fake_stream *src[1100];
	struct sfix *f = *state;
	char name[24];

	sfix_simple(f, "FakeDgram", "FakeDgram", "");
	for (size_t i = 0; i < sizeof(src) / sizeof(src[0]); i++) {
		snprintf(name, sizeof(name), "s%zu", i + 1);
		src[i] = fake_accept(&f->world, "l", name, NULL);
	}
	sfix_advance(f, 3000);
	for (size_t i = 0; i < sizeof(src) / sizeof(src[0]); i++)
		fake_data(src[i], "1");
	sfix_advance(f, 100);
	assert_int_equal(f->offload.adds, 1024);
	/* One that leaves makes room like one that has begun. */
	fake_offload_withdraw(&f->offload, L7MP_REASON_NO_ROUTE);
	sfix_advance(f, 2);
	assert_int_equal(f->offload.adds, 1025);
	fake_offload_begin(&f->offload, false);
	sfix_advance(f, 100);
	assert_int_equal(f->offload.adds, 1100);
	fake_offload_begin(&f->offload, false);
	assert_string_equal(off(f, "state"), "fast");
}

/* Its end while it begins takes the flow out as well. */
static void test_end_while_it_begins(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src =
	        start(f, ",'retry':{'retry_on':'always','num_retries':1,'timeout':1000}");

	fake_data(src, "1");
	sfix_advance(f, 1);
	fake_closed(fake_connected(&f->world, "c", 0), -ENETDOWN);
	assert_null(f->offload.flows);
	sfix_advance(f, 1);
	fake_data(src, "2");
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 2);
	l7mp_session_end(sfix_session(f, "s1"), "x");
	assert_null(f->offload.flows);
	sfix_advance(f, 1);
	assert_null(sfix_session(f, "s1"));
}

/* What still waits in a queue must not be overtaken. */
static void test_not_past_a_queue(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, "");
	struct fake_stream *up = fake_connected(&f->world, "c", 0);

	up->write_rc = L7MP_STREAM_FULL;
	fake_data(src, "1");
	fake_data(src, "2");
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 0);
	fake_drain(up);
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 1);
}

static void test_end_while_queued(void **state)
{
	struct sfix *f = *state;
	struct fake_stream *src = start(f, "");

	fake_data(src, "1");
	l7mp_session_end(sfix_session(f, "s1"), "x");
	sfix_advance(f, 1);
	assert_int_equal(f->offload.adds, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_fast),
	        T(test_removed_first),
	        T(test_lost_stage),
	        T(test_refused),
	        T(test_way_again),
	        T(test_moved),
	        T(test_filtered),
	        T(test_bypassed),
	        T(test_mixed),
	        T(test_path_changed),
	        T(test_withdrawn),
	        T(test_chains),
	        T(test_kinds),
	        T(test_not_established),
	        T(test_never),
	        T(test_begins),
	        T(test_many_begin),
	        T(test_end_while_it_begins),
	        T(test_not_past_a_queue),
	        T(test_end_while_queued),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
