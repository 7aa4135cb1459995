/* SPDX-License-Identifier: MIT */
/* Changes are realised all or nothing. */
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

#define L(name, port)                                                    \
	"{'name':'" name "','spec':{'protocol':'FakeDgram','port':" port \
	"},'rules':[{'action':{'route':{'destination':'c'}}}]}"
#define CFG(listeners) \
	"{'listeners':[" listeners "],'clusters':[{'name':'c','spec':{'protocol':'FakeEcho'}}]}"

static void test_all_or_nothing(void **state)
{
	struct sfix *f = *state;
	struct l7mp_error err = {0};

	assert_int_equal(sfix_config(f, CFG(L("a", "1")), NULL), 0);
	f->world.listen_fail = "c";
	assert_int_equal(sfix_config(f, CFG(L("b", "2") "," L("c", "3")), &err), -EADDRINUSE);
	assert_int_equal(err.code, L7MP_ERR_REALISE);
	assert_string_equal(err.path, "listeners[1].spec.port");
	assert_string_equal(err.message, "address in use");
	assert_non_null(l7mp_model_find(f->model, L7MP_OBJ_LISTENER, "a"));
	assert_null(l7mp_model_find(f->model, L7MP_OBJ_LISTENER, "b"));
	assert_true(fake_listener(&f->world, "a")->active);
	assert_null(fake_listener(&f->world, "b"));
	f->world.listen_fail = NULL;
	assert_int_equal(sfix_config(f, CFG(L("b", "2") "," L("c", "3")), NULL), 0);
	assert_null(fake_listener(&f->world, "a"));
	assert_true(fake_listener(&f->world, "b")->active);
	/* What closes is offered to what opens, so that a port is never shut. */
	assert_int_equal(fake_listener(&f->world, "b")->n_retiring, 1);
}

static void test_same_spec_keeps_socket(void **state)
{
	struct sfix *f = *state;
	struct fake_listener *l;
	struct fake_stream *src;

	assert_int_equal(sfix_config(f, CFG(L("a", "1")), NULL), 0);
	l = fake_listener(&f->world, "a");
	assert_int_equal(sfix_config(f,
	                             "{'listeners':[{'name':'a','spec':{'protocol':'FakeDgram',"
	                             "'port':1},'rules':'new'}],'clusters':[{'name':'c','spec':{"
	                             "'protocol':'FakeEcho'}}],'rulelists':[{'name':'new','rules':["
	                             "{'action':{'route':{'destination':'c'}}}]}]}",
	                             NULL),
	                 0);
	assert_ptr_equal(fake_listener(&f->world, "a"), l);
	assert_int_equal(f->world.unlistened, 0);
	/* New sessions follow the new rules. */
	src = fake_accept(&f->world, "a", "s1", NULL);
	sfix_advance(f, 1);
	fake_data(src, "x");
	assert_string_equal(src->written, "x|");
	/* Another spec: a new socket; the session goes on. */
	assert_int_equal(sfix_config(f,
	                             "{'listeners':[{'name':'a','spec':{'protocol':'FakeDgram',"
	                             "'port':2},'rules':'new'}],'clusters':[{'name':'c','spec':{"
	                             "'protocol':'FakeEcho'}}],'rulelists':[{'name':'new','rules':["
	                             "{'action':{'route':{'destination':'c'}}}]}]}",
	                             NULL),
	                 0);
	assert_int_equal(f->world.unlistened, 1);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	fake_data(src, "y");
	assert_string_equal(src->written, "x|y|");
}

static void change_delete(struct sfix *f, enum l7mp_obj_kind kind, const char *name, bool recursive)
{
	struct l7mp_change *change;
	struct l7mp_error err = {0};

	assert_int_equal(l7mp_change_new(f->model, true, &change), 0);
	assert_int_equal(l7mp_change_delete(change, kind, name, recursive, &err), 0);
	assert_int_equal(l7mp_runtime_apply(f->runtime, change, &err), 0);
	l7mp_change_free(&change);
}

static void test_delete(void **state)
{
	struct sfix *f = *state;
	const char *protocol;
	uint64_t count;

	assert_int_equal(sfix_config(f, CFG(L("a", "1") "," L("b", "2")), NULL), 0);
	fake_accept(&f->world, "a", "s1", NULL);
	fake_accept(&f->world, "b", "s2", NULL);
	sfix_advance(f, 1);
	change_delete(f, L7MP_OBJ_LISTENER, "a", false);
	assert_null(fake_listener(&f->world, "a"));
	sfix_advance(f, 1);
	assert_int_equal(sfix_state(f, "s1"), L7MP_SESSION_CONNECTED);
	change_delete(f, L7MP_OBJ_LISTENER, "b", true);
	sfix_advance(f, 1);
	assert_null(sfix_session(f, "s2"));
	assert_string_equal(f->last_reason, "listener 'b' was deleted");
	/* Nothing is kept of what is gone. */
	assert_false(l7mp_sessions_counter(f->sessions, L7MP_OBJ_LISTENER, "a", &protocol, &count));
	assert_false(l7mp_sessions_counter(f->sessions, L7MP_OBJ_LISTENER, "b", &protocol, &count));
	assert_true(l7mp_sessions_counter(f->sessions, L7MP_OBJ_CLUSTER, "c", &protocol, &count));
}

static void test_bound(void **state)
{
	struct sfix *f = *state;
	struct l7mp_listener *l;
	cJSON *spec;

	assert_int_equal(sfix_config(f, CFG(L("a", "0")), NULL), 0);
	l = l7mp_model_find(f->model, L7MP_OBJ_LISTENER, "a");
	spec = cJSON_Duplicate(l->spec, true);
	l7mp_runtime_bound(f->runtime, l, spec);
	assert_int_equal(l7mp_json_num(spec, "port", 0), 4321);
	cJSON_Delete(spec);
}

static uint32_t seen;
static void on_admin(void *arg, const struct l7mp_admin *admin)
{
	(void)arg;
	seen = admin->limits.max_sessions;
}

static void test_admin(void **state)
{
	struct sfix *f = *state;

	l7mp_runtime_on_admin(f->runtime, on_admin, NULL);
	assert_int_equal(sfix_config(f, CFG(L("a", "0")), NULL), 0);
	assert_int_equal(seen, 0);
	assert_int_equal(sfix_config(f, "{'admin':{'limits':{'max_sessions':77}}}", NULL), 0);
	assert_int_equal(seen, 77);
	assert_int_equal(f->env.limits->max_sessions, 77);
}

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_all_or_nothing), T(test_same_spec_keeps_socket),
	                                   T(test_delete), T(test_bound), T(test_admin)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
