/* SPDX-License-Identifier: MIT */
/* Sync: which members receive what; members that join and leave during a broadcast. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "l7mp/transforms.h"
#include "l7mp/util.h"
#include "proto_fix.h"

static const struct l7mp_proto *const protos[] = {&l7mp_transform_sync, NULL};
static struct pfix fix;

static int setup(void **state)
{
	pfix_new(&fix, protos);
	*state = &fix;
	return 0;
}

static int teardown(void **state)
{
	pfix_free(*state);
	return 0;
}

/* With the value as JSON text at /g; NULL: without. */
static struct pconn *try_one(struct pfix *f, const char *value, enum l7mp_kind kind)
{
	cJSON *metadata = cJSON_CreateObject();
	struct pconn *c;

	if (value)
		cJSON_AddItemToObject(metadata, "g", cJSON_Parse(value));
	f->metadata = metadata;
	c = pfix_connect_kind(f, &l7mp_transform_sync, "{'query':'/g'}", NULL, kind);
	f->metadata = NULL;
	cJSON_Delete(metadata);
	if (c)
		assert_true(pfix_until(f, &c->opened, 1000));
	return c;
}

static struct pconn *join(struct pfix *f, const char *value)
{
	struct pconn *c = try_one(f, value, L7MP_KIND_DATAGRAM);

	assert_non_null(c);
	return c;
}

static void groups_by_value(void **state)
{
	struct pfix *f = *state;
	struct pconn *a = join(f, "{\"x\":1,\"y\":[2]}"), *b = join(f, "{\"y\":[2.0],\"x\":1}");
	struct pconn *c = join(f, "{\"x\":1,\"y\":[3]}"), *d = join(f, "{\"x\":1,\"y\":[2]}");
	struct pconn *s = join(f, "\"1\""), *n = join(f, "1"), *n2 = join(f, "1");

	assert_int_equal(pfix_write(a, "one", 3), 0);
	assert_int_equal(pfix_write(b, "", 0), 0);
	assert_int_equal(pfix_write(n, "number", 6), 0);
	assert_string_equal(b->data, "one");
	assert_string_equal(d->data, "one|");
	assert_int_equal(a->messages, 1);
	assert_int_equal(c->messages, 0);
	assert_int_equal(s->messages, 0);
	assert_int_equal(n->messages, 0);
	assert_string_equal(n2->data, "number");
	/* Nobody else is there. */
	assert_int_equal(pfix_write(c, "alone", 5), -EDESTADDRREQ);
}

static void clusters_are_apart(void **state)
{
	struct pfix *f = *state;
	struct pconn *a = join(f, "1"), *b;

	f->cluster = "other";
	b = join(f, "1");
	assert_int_equal(pfix_write(a, "x", 1), -EDESTADDRREQ);
	assert_int_equal(b->messages, 0);
}

static void a_session_without_a_value_is_refused(void **state)
{
	struct pfix *f = *state;

	assert_null(try_one(f, NULL, L7MP_KIND_DATAGRAM));
	assert_string_equal(f->err.message, "Sync: the session's metadata has no value at /g");
	assert_null(try_one(f, "null", L7MP_KIND_DATAGRAM));
}

static void keeps_datagrams(void **state)
{
	struct pfix *f = *state;
	struct pconn *a = try_one(f, "1", L7MP_KIND_STREAM), *b = join(f, "1");
	struct l7mp_flow_end flow;

	assert_int_equal(a->stream->kind, L7MP_KIND_DATAGRAM);
	assert_false(a->stream->is_transformer);
	l7mp_stream_flow(a->stream, &flow);
	assert_int_equal(flow.kind, L7MP_FLOW_NONE);
	/* Who does not speak any more still listens. */
	l7mp_stream_shutdown(a->stream, 0);
	assert_false(a->ended);
	assert_int_equal(pfix_write(a, "late", 4), -EPIPE);
	assert_int_equal(pfix_write(b, "text", 4), 0);
	assert_string_equal(a->data, "text");
}

/* ---- members that go in the middle of a broadcast ---- */

static void closer_data(void *owner, struct l7mp_buf *buf)
{
	struct pconn *c = owner;

	l7mp_buf_unref(buf);
	c->messages++;
	for (size_t i = 0; i < c->fix->n_conns; i++)
		if (c->fix->conns[i]->stream)
			l7mp_stream_close(c->fix->conns[i]->stream, true);
}

static void all_close_while_one_speaks(void **state)
{
	struct pfix *f = *state;
	struct pconn *all[5];
	static struct l7mp_stream_events events;

	for (int i = 0; i < 5; i++)
		all[i] = join(f, "1");
	events = *all[1]->stream->events;
	events.data = closer_data;
	l7mp_stream_attach(all[1]->stream, &events, all[1]);
	assert_int_equal(pfix_write(all[0], "x", 1), 0);
	assert_int_equal(all[1]->messages, 1);
	assert_int_equal(all[2]->messages, 0);
	for (int i = 0; i < 5; i++)
		assert_true(pfix_until_n(f, &all[i]->closed, 1, 1000));
	/* The group was freed and can be created again. */
	all[0] = join(f, "1");
	assert_int_equal(pfix_write(all[0], "x", 1), -EDESTADDRREQ);
}

static void early_data(void *owner, struct l7mp_buf *buf)
{
	struct pconn *c = owner;
	cJSON *metadata = cJSON_Parse("{\"g\":1}");

	l7mp_buf_unref(buf);
	c->messages++;
	c->fix->metadata = metadata;
	assert_non_null(pfix_connect(c->fix, &l7mp_transform_sync, "{'query':'/g'}", NULL));
	cJSON_Delete(metadata);
	c->fix->metadata = NULL;
}

static void one_joins_while_one_speaks(void **state)
{
	struct pfix *f = *state;
	struct pconn *a = join(f, "1"), *b = join(f, "1"), *c;
	static struct l7mp_stream_events events;

	events = *b->stream->events;
	events.data = early_data;
	l7mp_stream_attach(b->stream, &events, b);
	assert_int_equal(pfix_write(a, "x", 1), 0);
	c = f->conns[f->n_conns - 1];
	assert_ptr_not_equal(c, b);
	assert_int_equal(c->messages, 0);
	assert_true(pfix_until(f, &c->opened, 1000));
	assert_int_equal(pfix_write(c, "y", 1), 0);
	assert_string_equal(a->data, "y");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	        T(groups_by_value),
	        T(clusters_are_apart),
	        T(a_session_without_a_value_is_refused),
	        T(keeps_datagrams),
	        T(all_close_while_one_speaks),
	        T(one_joins_while_one_speaks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
