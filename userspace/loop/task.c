/* SPDX-License-Identifier: MIT */
/* Deferred tasks and flush hooks: two circular lists with a sentinel. */
#include "loop_int.h"

#define TASK_ROUNDS 8

void l7mp_tasks_init(struct l7mp_loop *loop)
{
	loop->tasks.prev = loop->tasks.next = &loop->tasks;
	loop->flushs.prev = loop->flushs.next = &loop->flushs;
}

void l7mp_task_init(struct l7mp_task *t, void (*cb)(struct l7mp_task *t, void *arg), void *arg)
{
	*t = (struct l7mp_task){.cb = cb, .arg = arg};
}

void l7mp_task_post(struct l7mp_loop *loop, struct l7mp_task *t)
{
	if (t->prev)
		return;
	t->prev = loop->tasks.prev;
	t->next = &loop->tasks;
	t->prev->next = t;
	loop->tasks.prev = t;
	loop->slice_tasks++;
	l7mp_loop_wake(loop);
}

void l7mp_task_cancel(struct l7mp_loop *loop, struct l7mp_task *t)
{
	(void)loop;
	if (!t->prev)
		return;
	t->prev->next = t->next;
	t->next->prev = t->prev;
	t->prev = t->next = NULL;
}

void l7mp_flush_init(struct l7mp_flush *f, void (*cb)(struct l7mp_flush *f, void *arg), void *arg)
{
	*f = (struct l7mp_flush){.cb = cb, .arg = arg};
}

void l7mp_flush_request(struct l7mp_loop *loop, struct l7mp_flush *f)
{
	if (f->prev)
		return;
	f->prev = loop->flushs.prev;
	f->next = &loop->flushs;
	f->prev->next = f;
	loop->flushs.prev = f;
	l7mp_loop_wake(loop);
}

void l7mp_flush_cancel(struct l7mp_loop *loop, struct l7mp_flush *f)
{
	(void)loop;
	if (!f->prev)
		return;
	f->prev->next = f->next;
	f->next->prev = f->prev;
	f->prev = f->next = NULL;
}

/* The list is moved to another head, so that tasks posted meanwhile wait for the next round. */
static void tasks_round(struct l7mp_loop *loop)
{
	struct l7mp_task head;

	head.next = loop->tasks.next;
	head.prev = loop->tasks.prev;
	head.next->prev = head.prev->next = &head;
	loop->tasks.prev = loop->tasks.next = &loop->tasks;
	while (head.next != &head) {
		struct l7mp_task *t = head.next;

		l7mp_task_cancel(loop, t);
		t->cb(t, t->arg);
	}
}

static void flush_round(struct l7mp_loop *loop)
{
	struct l7mp_flush head;

	head.next = loop->flushs.next;
	head.prev = loop->flushs.prev;
	head.next->prev = head.prev->next = &head;
	loop->flushs.prev = loop->flushs.next = &loop->flushs;
	while (head.next != &head) {
		struct l7mp_flush *f = head.next;

		l7mp_flush_cancel(loop, f);
		f->cb(f, f->arg);
	}
}

void l7mp_tasks_run(struct l7mp_loop *loop)
{
	for (int i = 0; i < TASK_ROUNDS && loop->tasks.next != &loop->tasks; i++)
		tasks_round(loop);
	if (loop->flushs.next != &loop->flushs)
		flush_round(loop);
}
