/* SPDX-License-Identifier: MIT */
/* Metric: what it counts, and how long its series last. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "l7mp/transforms.h"
#include "l7mp/util.h"
#include "proto_fix.h"

static const struct l7mp_proto *const protos[] = {&l7mp_transform_metric, NULL};
static struct pfix fix;
static char session[64];

static int setup(void **state)
{
	pfix_new(&fix, protos);
	fix.session = session;
	*state = &fix;
	return 0;
}

static int teardown(void **state)
{
	pfix_free(*state);
	return 0;
}

static struct pconn *open_one(struct pfix *f, const char *name, const char *cluster)
{
	struct pconn *c;

	snprintf(session, sizeof(session), "%s", name);
	f->cluster = cluster;
	c = pfix_connect_kind(f, &l7mp_transform_metric, NULL, NULL, L7MP_KIND_DATAGRAM);
	assert_non_null(c);
	assert_true(pfix_until(f, &c->opened, 1000));
	return c;
}

static void close_one(struct pfix *f, struct pconn *c)
{
	l7mp_stream_close(c->stream, false);
	assert_true(pfix_until_n(f, &c->closed, 1, 1000));
}

/* Heap. */
static char *text(struct pfix *f)
{
	struct l7mp_str out = {0};

	l7mp_transform_metric.metrics(&f->env, f->states[0], &out);
	return l7mp_str_take(&out);
}

static void shows(struct pfix *f, const char *line, bool want)
{
	char *all = text(f);
	char *at = strstr(all, line);

	if (!at == want)
		fail_msg("%s: %s in\n%s", want ? "missing" : "there", line, all);
	free(all);
}

#define LINE(what, s, c, n) \
	"session_" what "_counter_total{sessionName=\"" s "\",clusterName=\"" c "\"} " n "\n"

static void counts(void **state)
{
	struct pfix *f = *state;
	struct pconn *a, *b, *again;
	struct l7mp_flow_end flow;
	char *all = text(f);

	assert_string_equal(all,
	                    "# HELP session_packet_counter_total Messages that passed a Metric "
	                    "cluster, by session\n"
	                    "# TYPE session_packet_counter_total counter\n"
	                    "# HELP session_byte_counter_total Payload bytes that passed a "
	                    "Metric cluster, by session\n"
	                    "# TYPE session_byte_counter_total counter\n");
	free(all);
	a = open_one(f, "s\"1", "in");
	b = open_one(f, "s\"1", "out");
	again = open_one(f, "s\"1", "in"); /* a chain may have the cluster twice */
	pfix_write(a, "abc", 3);
	pfix_write(a, "", 0);
	pfix_write(b, "x", 1);
	pfix_write(again, "1234", 4);
	assert_string_equal(a->data, "abc|");
	shows(f, LINE("packet", "s\\\"1", "in", "3"), true);
	shows(f, LINE("byte", "s\\\"1", "in", "7"), true);
	shows(f, LINE("packet", "s\\\"1", "out", "1"), true);
	l7mp_stream_flow(a->stream, &flow);
	assert_int_equal(flow.kind, L7MP_FLOW_PASS);
	a->stream->ops->passed(a->stream, 10, 1000);
	shows(f, LINE("packet", "s\\\"1", "in", "13"), true);
	shows(f, LINE("byte", "s\\\"1", "in", "1007"), true);
	/* Each line once: the format does not allow it twice. */
	all = text(f);
	assert_null(
	        strstr(strstr(all, LINE("packet", "s\\\"1", "in", "13")) + 1,
	               "session_packet_counter_total{sessionName=\"s\\\"1\",clusterName=\"in\""));
	free(all);
}

static void the_last_figures_stay_for_a_while(void **state)
{
	struct pfix *f = *state;
	struct pconn *a = open_one(f, "s", "c");

	pfix_write(a, "abc", 3);
	close_one(f, a);
	shows(f, LINE("byte", "s", "c", "3"), true);
	/* The name comes again: the counter goes on and never falls. */
	a = open_one(f, "s", "c");
	pfix_write(a, "d", 1);
	shows(f, LINE("byte", "s", "c", "4"), true);
	close_one(f, a);
	shows(f, LINE("byte", "s", "c", "4"), true);
}

static void the_tail_is_bounded(void **state)
{
	struct pfix *f = *state;
	struct l7mp_stream *streams[8];
	char *all;
	size_t lines = 0;

	/* By hand: so many do not fit into the fixture's list of connections. */
	for (int i = 0; i < 1200; i += 8) {
		for (int k = 0; k < 8; k++) {
			char name[16];
			struct l7mp_connect p = {.env = &f->env, .cluster = "c", .session = name};

			snprintf(name, sizeof(name), "s%d", i + k);
			assert_int_equal(l7mp_transform_metric.connect(&p, &streams[k], &f->err),
			                 0);
		}
		for (int k = 0; k < 8; k++)
			l7mp_stream_close(streams[k], false);
		pfix_turn(f, 1);
	}
	pfix_turn(f, 10);
	all = text(f);
	for (const char *p = all; (p = strstr(p, "\nsession_byte_counter_total{")); p++)
		lines++;
	assert_int_equal(lines, 1000);
	free(all);
	shows(f, LINE("byte", "s1199", "c", "0"), true);
	shows(f, LINE("byte", "s199", "c", "0"), false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(counts, setup, teardown),
	        cmocka_unit_test_setup_teardown(the_last_figures_stay_for_a_while, setup, teardown),
	        cmocka_unit_test_setup_teardown(the_tail_is_bounded, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
