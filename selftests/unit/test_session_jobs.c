/* SPDX-License-Identifier: MIT */
/*
 * Jobs on the model in threads of a real loop: what waits for what. Each test holds one job in its
 * thread until another one has got as far as it can.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <time.h>

#include "l7mp/log.h"
#include "l7mp/runtime.h"
#include "l7mp/util.h"

#define WAIT_S 60 /* for what must come */

struct world {
	struct l7mp_loop *loop;
	struct l7mp_model *model;
	struct l7mp_env env;
	struct l7mp_stats stats;
	struct l7mp_sessions *sessions;
	struct l7mp_runtime *runtime;
};

struct job {
	struct l7mp_runtime_job job;
	struct world *w;
	const char *rule; /* that it adds, or looks for */
	sem_t begun, go;  /* it is in the thread; it may end there */
	bool found;
	bool done;
	int rc;
};

static const struct l7mp_protodesc *const descs[] = {NULL};
static const struct l7mp_registry registry = {descs};
static const struct l7mp_proto *const protos[] = {NULL};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct l7mp_sessions_params params = {.env = &w->env};

	l7mp_log_set_level(L7MP_LOG_SILENT);
	assert_int_equal(l7mp_loop_new(&w->loop), 0);
	assert_int_equal(l7mp_model_new(&registry, &w->model), 0);
	w->env = (struct l7mp_env){.loop = w->loop,
	                           .stats = &w->stats,
	                           .limits = &l7mp_model_admin(w->model)->limits,
	                           .protos = protos,
	                           .model = w->model};
	assert_int_equal(l7mp_sessions_new(&params, &w->sessions), 0);
	assert_int_equal(l7mp_runtime_new(&w->env, w->sessions, &w->runtime), 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	l7mp_runtime_stop(w->runtime);
	l7mp_loop_run(w->loop); /* until the threads have given back what they were given */
	l7mp_runtime_free(&w->runtime);
	l7mp_sessions_free(&w->sessions);
	l7mp_model_free(&w->model);
	assert_int_equal(l7mp_loop_free(&w->loop), 0);
	free(w);
	return 0;
}

/* Also in a thread, from where cmocka's assertions can't jump back. */
static void must(bool ok)
{
	if (!ok)
		abort();
}

static void take(sem_t *sem)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += WAIT_S;
	must(!sem_timedwait(sem, &until));
}

static struct l7mp_change *add(void *arg)
{
	struct job *j = arg;
	struct l7mp_change *c = NULL;
	struct l7mp_error err;
	cJSON *doc = cJSON_CreateObject();

	sem_post(&j->begun);
	take(&j->go);
	l7mp_json_add_str(doc, "name", j->rule);
	l7mp_json_add(doc, "action", cJSON_CreateObject());
	must(!l7mp_change_new(j->w->model, false, &c));
	must(!l7mp_change_add(c, L7MP_OBJ_RULE, doc, "rule", &err));
	cJSON_Delete(doc);
	return c;
}

static struct l7mp_change *look(void *arg)
{
	struct job *j = arg;

	sem_post(&j->begun);
	take(&j->go);
	j->found = l7mp_model_find(j->w->model, L7MP_OBJ_RULE, j->rule) != NULL;
	return NULL;
}

static void done(void *arg, struct l7mp_change *c, int rc, const struct l7mp_error *err)
{
	struct job *j = arg;

	(void)c;
	(void)err;
	j->done = true;
	j->rc = rc;
}

static int submit(struct job *j, struct world *w, bool reads, const char *rule)
{
	*j = (struct job){.w = w, .rule = rule};
	j->job = (struct l7mp_runtime_job){
	        .build = reads ? look : add, .done = done, .arg = j, .reads = reads};
	sem_init(&j->begun, 0, 0);
	sem_init(&j->go, 0, 0);
	return l7mp_runtime_submit(w->runtime, &j->job);
}

static void turn_until(struct world *w, const bool *flag)
{
	time_t begin = time(NULL);

	while (!*flag) {
		l7mp_loop_turn(w->loop);
		assert_true(time(NULL) - begin < WAIT_S);
	}
}

static bool has_begun(struct job *j)
{
	return !sem_trywait(&j->begun);
}

static void test_reads_beside_a_change(void **state)
{
	struct world *w = *state;
	struct job change, a, b;

	assert_int_equal(submit(&change, w, false, "r"), 0);
	take(&change.begun);
	assert_int_equal(submit(&a, w, true, "r"), 0);
	assert_int_equal(submit(&b, w, true, "r"), 0);
	sem_post(&a.go);
	sem_post(&b.go);
	turn_until(w, &b.done);
	assert_true(a.done);
	assert_false(a.found || b.found || change.done);
	sem_post(&change.go);
	turn_until(w, &change.done);
	assert_int_equal(change.rc, 0);
	assert_int_equal(submit(&a, w, true, "r"), 0);
	sem_post(&a.go);
	turn_until(w, &a.done);
	assert_true(a.found);
}

/* ... and a change is not made while the model is read, nor does a later job read it then. */
static void test_no_commit_beside_a_read(void **state)
{
	struct world *w = *state;
	struct job change, a, b;
	bool late = false;

	assert_int_equal(submit(&a, w, true, "r"), 0);
	take(&a.begun);
	assert_int_equal(submit(&change, w, false, "r"), 0);
	assert_int_equal(submit(&b, w, true, "r"), 0);
	sem_post(&change.go);
	sem_post(&b.go);
	take(&change.begun);
	/*
	 * It is worked out at some time; that it does not go on shows in none of many iterations.
	 */
	for (int i = 0; i < 2000; i++) {
		struct timespec ms = {.tv_nsec = 100000};

		l7mp_loop_turn(w->loop);
		late |= has_begun(&b) || change.done ||
		        l7mp_model_find(w->model, L7MP_OBJ_RULE, "r");
		nanosleep(&ms, NULL);
	}
	assert_false(late);
	sem_post(&a.go);
	turn_until(w, &change.done);
	turn_until(w, &b.done);
	assert_false(a.found);
	assert_true(b.found);
}

static void test_stop(void **state)
{
	struct world *w = *state;
	struct job change, a, b, c;

	assert_int_equal(submit(&a, w, true, "r"), 0);
	take(&a.begun);
	assert_int_equal(submit(&change, w, false, "r"), 0);
	sem_post(&change.go);
	assert_int_equal(submit(&b, w, true, "r"), 0);
	for (int i = 0; i < 100; i++)
		l7mp_loop_turn(w->loop);
	l7mp_runtime_stop(w->runtime);
	assert_true(b.done);
	assert_int_equal(b.rc, -ESHUTDOWN);
	assert_int_equal(submit(&c, w, true, "r"), -ESHUTDOWN);
	sem_post(&a.go);
	turn_until(w, &a.done);
	turn_until(w, &change.done);
	assert_int_equal(change.rc, -ESHUTDOWN);
	assert_null(l7mp_model_find(w->model, L7MP_OBJ_RULE, "r"));
}

static void test_withdraw(void **state)
{
	struct world *w = *state;
	struct job a, b;

	assert_int_equal(submit(&a, w, true, "r"), 0);
	assert_int_equal(submit(&b, w, true, "r"), 0);
	take(&a.begun);
	assert_false(l7mp_runtime_withdraw(w->runtime, &a.job));
	assert_true(l7mp_runtime_withdraw(w->runtime, &b.job));
	sem_post(&a.go);
	turn_until(w, &a.done);
	assert_false(b.done);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(test_reads_beside_a_change),
	        T(test_no_commit_beside_a_read),
	        T(test_stop),
	        T(test_withdraw),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
