/* SPDX-License-Identifier: MIT */
/* Timers, tasks, flush hooks, mailbox, name resolution, watchers of files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/mailbox.h"
#include "l7mp/util.h"
#include "looptest.h"

/* ---- a record of what happened ---- */

struct rec {
	struct l7mp_loop *loop;
	char text[256];
	int n;
};

struct named_timer {
	struct l7mp_timer t;
	struct rec *rec;
	char name;
	int64_t again; /* >= 0: arms itself once more with that delay */
	struct named_timer *kill;
};

static void note(struct rec *r, char c)
{
	if (r->n < 250)
		r->text[r->n] = c;
	r->n++;
}

static void timer_cb(struct l7mp_timer *t, void *arg)
{
	struct named_timer *nt = arg;

	assert_ptr_equal(t, &nt->t);
	assert_false(l7mp_timer_armed(t));
	note(nt->rec, nt->name);
	if (nt->kill)
		l7mp_timer_stop(nt->rec->loop, &nt->kill->t);
	if (nt->again >= 0) {
		assert_int_equal(l7mp_timer_start(nt->rec->loop, t, (uint64_t)nt->again), 0);
		nt->again = -1;
	}
}

static void named(struct named_timer *t, struct rec *r, char name)
{
	*t = (struct named_timer){.rec = r, .name = name, .again = -1};
	l7mp_timer_init(&t->t, timer_cb, t);
}

static void manual_timers(void **state)
{
	struct rec r = {0};
	struct named_timer t[6];
	(void)state;

	assert_int_equal(l7mp_loop_new_manual(&r.loop), 0);
	assert_null(l7mp_loop_uv(r.loop));
	assert_int_equal(l7mp_loop_now(r.loop), 1000000);
	for (int i = 0; i < 6; i++)
		named(&t[i], &r, (char)('a' + i));
	l7mp_timer_start(r.loop, &t[0].t, 30);
	l7mp_timer_start(r.loop, &t[1].t, 10);
	l7mp_timer_start(r.loop, &t[2].t, 10);
	l7mp_timer_start(r.loop, &t[3].t, 20);
	l7mp_timer_start(r.loop, &t[4].t, 5);
	l7mp_timer_start(r.loop, &t[5].t, 40);
	l7mp_timer_start(r.loop, &t[0].t, 15); /* moved */
	l7mp_timer_stop(r.loop, &t[4].t);
	l7mp_timer_stop(r.loop, &t[4].t);
	t[1].again = 25;
	t[3].kill = &t[5];
	l7mp_loop_advance(r.loop, 9);
	assert_int_equal(r.n, 0);
	l7mp_loop_advance(r.loop, 1);
	assert_string_equal(r.text, "bc");
	l7mp_loop_advance(r.loop, 90);
	assert_string_equal(r.text, "bcadb");
	assert_int_equal(l7mp_loop_now(r.loop), 1000100);
	assert_false(l7mp_timer_armed(&t[5].t));
	/* 0: in the next iteration, and never from inside start */
	t[0].again = 0;
	l7mp_timer_start(r.loop, &t[0].t, 0);
	assert_int_equal(r.n, 5);
	l7mp_loop_turn(r.loop);
	assert_int_equal(r.n, 6);
	l7mp_loop_turn(r.loop);
	assert_int_equal(r.n, 7);
	assert_int_equal(l7mp_loop_free(&r.loop), 0);
}

static uint64_t last_due;
static int fired;

static void ordered_cb(struct l7mp_timer *t, void *arg)
{
	struct l7mp_loop *loop = arg;

	assert_true(t->due >= last_due);
	assert_int_equal(t->due, l7mp_loop_now(loop));
	last_due = t->due;
	fired++;
}

/* The heap against 20,000 random starts, moves and stops. */
static void heap_random(void **state)
{
	enum { N = 2000 };
	struct l7mp_timer *t = calloc(N, sizeof(*t));
	struct l7mp_loop *loop;
	int armed = 0;
	(void)state;

	assert_non_null(t);
	assert_int_equal(l7mp_loop_new_manual(&loop), 0);
	srand(7);
	for (int i = 0; i < N; i++)
		l7mp_timer_init(&t[i], ordered_cb, loop);
	for (int i = 0; i < 20000; i++) {
		struct l7mp_timer *one = &t[rand() % N];

		if (rand() % 3)
			assert_int_equal(l7mp_timer_start(loop, one, (uint64_t)rand() % 5000), 0);
		else
			l7mp_timer_stop(loop, one);
	}
	for (int i = 0; i < N; i++)
		armed += l7mp_timer_armed(&t[i]);
	last_due = 0;
	fired = 0;
	l7mp_loop_advance(loop, 5000);
	assert_int_equal(fired, armed);
	assert_int_equal(l7mp_loop_free(&loop), 0);
	free(t);
}

/* The linker's --wrap: the Makefile says so for this test. */
static bool fail_realloc;
void *__real_realloc(void *p, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_realloc(void *p, size_t size)
{
	return fail_realloc ? NULL : __real_realloc(p, size);
}

/*
 * Reserved timers never need memory: while malloc fails, they can still be started, all others
 * can't.
 */
static void reserved(void **state)
{
	enum { N = 300 };
	struct l7mp_timer *t = calloc(N, sizeof(*t));
	struct l7mp_loop *loop;
	int n = 0, refused;
	(void)state;

	assert_non_null(t);
	assert_int_equal(l7mp_loop_new_manual(&loop), 0);
	for (int i = 0; i < N; i++)
		l7mp_timer_init(&t[i], ordered_cb, loop);
	for (int i = 0; i < 50; i++)
		assert_int_equal(l7mp_timer_reserve(loop, &t[i]), 0);
	assert_int_equal(l7mp_timer_reserve(loop, &t[0]), 0); /* once */
	last_due = 0;
	fired = 0;
	fail_realloc = true;
	for (int i = 50; i < N && !l7mp_timer_start(loop, &t[i], 5); i++)
		n++;
	refused = l7mp_timer_start(loop, &t[N - 1], 5);
	for (int i = 0; i < 50; i++)
		assert_int_equal(l7mp_timer_start(loop, &t[i], 3), 0);
	l7mp_loop_advance(loop, 4);
	for (int i = 0; i < 50; i++)
		assert_int_equal(l7mp_timer_start(loop, &t[i], 3), 0);
	assert_int_equal(l7mp_timer_reserve(loop, &t[N - 1]), -ENOMEM);
	l7mp_timer_give_back(loop, &t[0]);
	assert_false(l7mp_timer_armed(&t[0]));
	assert_int_equal(l7mp_timer_start(loop, &t[N - 1], 3), 0); /* in its place */
	fail_realloc = false;
	assert_int_equal(refused, -ENOMEM);
	assert_int_not_equal(n, N - 50);
	l7mp_loop_advance(loop, 10);
	assert_int_equal(fired, 50 + n + 50);
	assert_int_equal(l7mp_loop_free(&loop), 0);
	free(t);
}

/* ---- tasks and flush hooks ---- */

struct step {
	struct l7mp_task task, more, never;
	struct l7mp_flush flush;
	struct rec *rec;
};

static void more_cb(struct l7mp_task *t, void *arg)
{
	struct step *s = arg;

	(void)t;
	note(s->rec, '2');
}

static void first_cb(struct l7mp_task *t, void *arg)
{
	struct step *s = arg;

	(void)t;
	note(s->rec, '1');
	l7mp_task_post(s->rec->loop, &s->more);
	l7mp_task_post(s->rec->loop, &s->more); /* no-op */
	l7mp_task_cancel(s->rec->loop, &s->never);
	l7mp_flush_request(s->rec->loop, &s->flush);
}

static void never_cb(struct l7mp_task *t, void *arg)
{
	(void)t;
	(void)arg;
	fail();
}

static void flush_cb(struct l7mp_flush *f, void *arg)
{
	struct step *s = arg;

	(void)f;
	note(s->rec, 'F');
}

static void post_steps(struct step *s, struct rec *r)
{
	s->rec = r;
	l7mp_task_init(&s->task, first_cb, s);
	l7mp_task_init(&s->more, more_cb, s);
	l7mp_task_init(&s->never, never_cb, s);
	l7mp_flush_init(&s->flush, flush_cb, s);
	l7mp_flush_request(r->loop, &s->flush);
	l7mp_task_post(r->loop, &s->task);
	l7mp_task_post(r->loop, &s->never);
	assert_int_equal(r->n, 0);
}

static void tasks(void **state)
{
	struct rec r = {0};
	struct step s;
	(void)state;

	assert_int_equal(l7mp_loop_new_manual(&r.loop), 0);
	post_steps(&s, &r);
	l7mp_loop_turn(r.loop);
	assert_string_equal(r.text, "12F");
	assert_int_equal(l7mp_loop_free(&r.loop), 0);

	/* A pending task keeps a real loop alive, and it sleeps for none. */
	memset(&r, 0, sizeof(r));
	assert_int_equal(l7mp_loop_new(&r.loop), 0);
	post_steps(&s, &r);
	l7mp_loop_run(r.loop);
	assert_string_equal(r.text, "12F");
	assert_int_equal(l7mp_loop_free(&r.loop), 0);
}

struct forever {
	struct l7mp_task task;
	struct l7mp_loop *loop;
	int n;
};

static void forever_cb(struct l7mp_task *t, void *arg)
{
	struct forever *f = arg;

	f->n++;
	l7mp_task_post(f->loop, t);
}

static void stop_cb(struct l7mp_timer *t, void *arg)
{
	struct forever *f = arg;

	(void)t;
	l7mp_task_cancel(f->loop, &f->task);
}

/* A task that always posts itself must not keep timers (and I/O) out. */
static void task_forever(void **state)
{
	struct forever f = {0};
	struct l7mp_timer t;
	(void)state;

	assert_int_equal(l7mp_loop_new(&f.loop), 0);
	l7mp_task_init(&f.task, forever_cb, &f);
	l7mp_timer_init(&t, stop_cb, &f);
	l7mp_task_post(f.loop, &f.task);
	assert_int_equal(l7mp_timer_start(f.loop, &t, 20), 0);
	l7mp_loop_run(f.loop);
	assert_true(f.n > 10);
	assert_int_equal(l7mp_loop_free(&f.loop), 0);
}

static void real_timers(void **state)
{
	struct rec r = {0};
	struct named_timer t[3];
	uint64_t start = looptest_ms();
	(void)state;

	assert_int_equal(l7mp_loop_new(&r.loop), 0);
	for (int i = 0; i < 3; i++)
		named(&t[i], &r, (char)('a' + i));
	l7mp_timer_start(r.loop, &t[0].t, 60);
	l7mp_timer_start(r.loop, &t[1].t, 20);
	l7mp_timer_start(r.loop, &t[2].t, 100000);
	t[0].kill = &t[2];
	t[1].again = 0;
	l7mp_loop_run(r.loop); /* ends: nothing is armed any more */
	/* On a busy machine b may fire when a is due, too: then b, armed again, is later. */
	if (strcmp(r.text, "bab"))
		assert_string_equal(r.text, "bba");
	assert_in_range(looptest_ms() - start, 55, 5000);
	assert_int_equal(l7mp_loop_free(&r.loop), 0);
}

static void busy_cb(struct l7mp_timer *t, void *arg)
{
	(void)t;
	(void)arg;
	usleep(20000);
}

static void latency(void **state)
{
	struct l7mp_loop *loop;
	struct l7mp_timer t;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	l7mp_timer_init(&t, busy_cb, NULL);
	assert_int_equal(l7mp_timer_start(loop, &t, 40), 0);
	l7mp_loop_run(loop);
	assert_in_range(l7mp_loop_latency_us(loop, true), 19000, 5000000);
	assert_in_range(l7mp_loop_latency_us(loop, false), 19000, 5000000);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

/* ---- mailbox ---- */

#define POSTERS 4
#define LETTERS 5000

struct letter {
	struct l7mp_mail mail;
	int from, n;
};

struct post {
	struct l7mp_mailbox *mb;
	int id, refused;
};

static int next_of[POSTERS], letters;

static void letter_cb(struct l7mp_mail *mail, void *arg)
{
	struct letter *l = l7mp_container_of(mail, struct letter, mail);

	assert_ptr_equal(arg, &letters);
	assert_int_equal(l->n, next_of[l->from]++); /* in order of posting */
	letters++;
	free(l);
}

static void *poster(void *arg)
{
	struct post *p = arg;

	for (int i = 0; i < LETTERS; i++) {
		struct letter *l = malloc(sizeof(*l));

		*l = (struct letter){.mail = {.cb = letter_cb}, .from = p->id, .n = i};
		if (l7mp_mailbox_post(p->mb, &l->mail)) {
			p->refused++;
			free(l);
		}
	}
	l7mp_mailbox_unref(p->mb);
	return NULL;
}

static void post_from_threads(bool close_early)
{
	struct l7mp_loop *loop;
	struct l7mp_mailbox *mb;
	struct post posts[POSTERS];
	pthread_t th[POSTERS];
	int refused = 0;

	letters = 0;
	memset(next_of, 0, sizeof(next_of));
	assert_int_equal(l7mp_loop_new(&loop), 0);
	assert_int_equal(l7mp_mailbox_new(loop, &letters, &mb), 0);
	for (int i = 0; i < POSTERS; i++) {
		posts[i] = (struct post){.mb = l7mp_mailbox_ref(mb), .id = i};
		assert_int_equal(pthread_create(&th[i], NULL, poster, &posts[i]), 0);
	}
	if (close_early) {
		LOOP_UNTIL(loop, letters > 100, 10000);
		l7mp_mailbox_close(&mb);
	} else {
		LOOP_UNTIL(loop, letters == POSTERS * LETTERS, 20000);
	}
	for (int i = 0; i < POSTERS; i++) {
		pthread_join(th[i], NULL);
		refused += posts[i].refused;
	}
	assert_int_equal(letters + refused, POSTERS * LETTERS);
	if (!close_early)
		assert_int_equal(refused, 0);
	l7mp_mailbox_close(&mb);
	assert_null(mb);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

static void mailbox(void **state)
{
	(void)state;
	post_from_threads(false);
	post_from_threads(true);
}

int main(void)
{
	const struct CMUnitTest all[] = {
	        cmocka_unit_test(manual_timers), cmocka_unit_test(heap_random),
	        cmocka_unit_test(reserved),      cmocka_unit_test(tasks),
	        cmocka_unit_test(task_forever),  cmocka_unit_test(real_timers),
	        cmocka_unit_test(latency),       cmocka_unit_test(mailbox),
	};

	return cmocka_run_group_tests(all, NULL, NULL);
}
