/* SPDX-License-Identifier: MIT */
/*
 * Random events in random order on many sessions at once: nothing may crash, leak or
 * hang, and whatever reaches an upstream does so in order and once.
 */
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

#define CLIENTS 12
#define STEPS   3000
#define SEEDS   12

struct client {
	struct fake_stream *src;
	unsigned sent;
	bool ended;
};

static unsigned dice(unsigned n)
{
	return (unsigned)random() % n;
}

static struct fake_stream *any_stream(struct sfix *f)
{
	struct fake_stream *st, *found = NULL;
	unsigned n = 0;

	/* Transformers do nothing by themselves. */
	for (st = f->world.streams; st; st = st->next)
		if (!st->gone && !st->closing && !st->echo && dice(++n) == 0)
			found = st;
	return found;
}

static void client_step(struct sfix *f, struct client *c, unsigned *serial)
{
	char text[40];

	if (!c->src || c->src->gone) {
		snprintf(text, sizeof(text), "s%u", ++*serial);
		*c = (struct client){
		        .src = fake_accept(&f->world, "l", text, dice(2) ? "10.0.0.1" : NULL)};
		return;
	}
	if (c->src->closing)
		return;
	switch (dice(20)) {
	case 0:
		fake_closed(c->src, dice(2) ? 0 : -ECONNRESET);
		break;
	case 1:
		if (!c->ended)
			fake_end(c->src, 0);
		c->ended = true;
		break;
	default:
		if (c->ended)
			break;
		for (unsigned i = dice(5) + 1; i && !c->src->closing; i--) {
			snprintf(text, sizeof(text), "%u", ++c->sent);
			fake_data(c->src, text);
		}
	}
}

/* Something happens to an upstream (or to a source: answers are written to it). */
static void stream_step(struct sfix *f)
{
	struct fake_stream *st = any_stream(f);

	if (!st || !st->base.events)
		return;
	switch (dice(8)) {
	case 0:
		st->write_rc = L7MP_STREAM_FULL;
		break;
	case 1:
		if (st->write_rc == L7MP_STREAM_FULL)
			fake_drain(st);
		st->write_rc = 0;
		break;
	case 2:
		st->write_rc = dice(2) ? -EMSGSIZE : -EPIPE;
		break;
	case 3:
		if (*st->cluster && dice(4) == 0)
			fake_closed(st, dice(2) ? 0 : -ECONNRESET);
		break;
	default:
		if (*st->cluster && st->opened)
			fake_data(st, "answer");
	}
}

static void world_step(struct sfix *f)
{
	struct l7mp_session *s;

	switch (dice(12)) {
	case 0:
		f->world.refuse = (int)dice(4);
		break;
	case 1:
		f->world.connect_rc = dice(3) ? 0 : -EMFILE;
		break;
	case 2:
		for (s = l7mp_sessions_first(f->sessions); s; s = l7mp_sessions_next(s))
			if (dice(8) == 0)
				l7mp_session_end(s, "random");
		break;
	case 3:
		sfix_end_using(f,
		               l7mp_model_find(f->model, L7MP_OBJ_ENDPOINT, dice(2) ? "e1" : "e2"));
		break;
	case 4:
		f->offload.refuse = dice(2) ? L7MP_REASON_TABLE_FULL : L7MP_REASON_NONE;
		fake_offload_retry(&f->offload);
		break;
	case 5:
		if (f->offload.flows)
			fake_offload_withdraw(&f->offload, L7MP_REASON_NO_ROUTE);
		break;
	case 6:
		for (s = l7mp_sessions_first(f->sessions); s; s = l7mp_sessions_next(s))
			cJSON_Delete(l7mp_session_to_json(s));
		break;
	default:
		sfix_advance(f, dice(400));
	}
}

/* All that one client's upstreams got, over all their connections: strictly rising. */
static void check_order(struct sfix *f)
{
	unsigned seen = 0;

	for (const struct fake_stream *st = f->world.streams; st; st = st->next) {
		unsigned last = 0;

		if (strcmp(st->cluster, "c"))
			continue;
		for (const struct fake_stream *t = f->world.streams; t; t = t->next) {
			if (strcmp(t->cluster, "c") || strcmp(t->session, st->session) ||
			    !t->written)
				continue;
			for (const char *p = t->written; *p; p = strchr(p, '|') + 1) {
				unsigned n = (unsigned)strtoul(p, NULL, 10);

				assert_true(n > last);
				last = n;
				seen++;
			}
		}
	}
	assert_true(seen > 1000);
}

static void run(void **state, const char *listener, const char *cluster, const char *route)
{
	for (unsigned seed = 1; seed <= SEEDS; seed++) {
		struct client clients[CLIENTS] = {{0}};
		struct sfix *f;
		unsigned serial = 0;

		assert_int_equal(sfix_new_offload(state), 0);
		f = *state;
		srandom(seed);
		sfix_simple(f, listener, cluster, route);
		l7mp_model_admin(f->model)->limits.max_queue = 2000;
		for (unsigned i = 0; i < STEPS; i++) {
			client_step(f, &clients[dice(CLIENTS)], &serial);
			stream_step(f);
			if (dice(4) == 0)
				world_step(f);
		}
		check_order(f);
		assert_true(f->stats.sessions_started > 50);
		assert_int_equal(sfix_free(state), 0);
	}
}

static void test_datagrams(void **state)
{
	run(state, "FakeDgram", "FakeDgram",
	    ",'retry':{'retry_on':'always','num_retries':2,'timeout':300}");
}

static void test_streams(void **state)
{
	run(state, "FakeStream", "FakeStream",
	    ",'ingress':['echo','pass'],'egress':['pass'],"
	    "'retry':{'retry_on':'always','num_retries':2,'timeout':300}");
}

static void test_mixed(void **state)
{
	run(state, "FakeDgram", "FakeStream",
	    ",'ingress':['pass'],'retry':{'retry_on':'connect-failure','num_retries':1,"
	    "'timeout':300}");
}

static void test_never(void **state)
{
	run(state, "FakeStream", "FakeDgram", "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_datagrams),
	        cmocka_unit_test(test_streams),
	        cmocka_unit_test(test_mixed),
	        cmocka_unit_test(test_never),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
