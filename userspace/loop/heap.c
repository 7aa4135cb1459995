/* SPDX-License-Identifier: MIT */
/*
 * Timers: a binary heap. Each timer knows its index, so that moving and stopping one are O(log n).
 */
#include <errno.h>
#include <stdlib.h>

#include "loop_int.h"

static inline bool before(const struct l7mp_heap_entry *a, const struct l7mp_heap_entry *b)
{
	return a->due != b->due ? a->due < b->due : a->seq < b->seq;
}

static inline void place(struct l7mp_heap *h, size_t i, struct l7mp_heap_entry e)
{
	h->v[i] = e;
	e.timer->index = i + 1;
}

static void sift(struct l7mp_heap *h, size_t i, struct l7mp_heap_entry e)
{
	while (i > 0 && before(&e, &h->v[(i - 1) / 2])) {
		place(h, i, h->v[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= h->n)
			break;
		if (child + 1 < h->n && before(&h->v[child + 1], &h->v[child]))
			child++;
		if (!before(&h->v[child], &e))
			break;
		place(h, i, h->v[child]);
		i = child;
	}
	place(h, i, e);
}

static void heap_remove(struct l7mp_heap *h, struct l7mp_timer *t)
{
	size_t i = t->index - 1;
	struct l7mp_heap_entry last = h->v[--h->n];

	t->index = 0;
	h->kept += t->reserved;
	if (i < h->n)
		sift(h, i, last);
}

/* Makes room for one more entry. */
static int heap_grow(struct l7mp_heap *h)
{
	size_t cap = h->cap ? 2 * h->cap : 64;
	struct l7mp_heap_entry *v;

	if (h->n + h->kept < h->cap)
		return 0;
	v = realloc(h->v, cap * sizeof(*v));
	if (!v)
		return -ENOMEM;
	h->v = v;
	h->cap = cap;
	return 0;
}

void l7mp_heap_free(struct l7mp_heap *h)
{
	for (size_t i = 0; i < h->n; i++)
		h->v[i].timer->index = 0;
	free(h->v);
	*h = (struct l7mp_heap){0};
}

void l7mp_heap_fire(struct l7mp_heap *h, uint64_t now)
{
	uint64_t limit = h->seq;

	/* Timers that are armed meanwhile have a higher seq, and are not fired. */
	while (h->n && h->v[0].due <= now && h->v[0].seq < limit) {
		struct l7mp_timer *t = h->v[0].timer;

		heap_remove(h, t);
		t->cb(t, t->arg);
	}
}

void l7mp_timer_init(struct l7mp_timer *t, void (*cb)(struct l7mp_timer *t, void *arg), void *arg)
{
	*t = (struct l7mp_timer){.cb = cb, .arg = arg};
}

int l7mp_timer_start(struct l7mp_loop *loop, struct l7mp_timer *t, uint64_t delay_ms)
{
	struct l7mp_heap *h = &loop->heap;
	uint64_t now = l7mp_loop_now(loop);
	size_t i = t->index ? t->index - 1 : h->n;

	if (!t->index && !t->reserved && heap_grow(h))
		return -ENOMEM;
	t->due = delay_ms > UINT64_MAX - now ? UINT64_MAX : now + delay_ms;
	if (!t->index) {
		h->n++;
		h->kept -= t->reserved;
	}
	sift(h, i, (struct l7mp_heap_entry){.due = t->due, .seq = h->seq++, .timer = t});
	/* The prepare hook sets the time; before the loop runs, the handle has to keep it alive. */
	if (!loop->manual && !uv_is_active((uv_handle_t *)&loop->timer))
		l7mp_loop_sleep(loop, t->due);
	return 0;
}

void l7mp_timer_stop(struct l7mp_loop *loop, struct l7mp_timer *t)
{
	if (t->index)
		heap_remove(&loop->heap, t);
}

int l7mp_timer_reserve(struct l7mp_loop *loop, struct l7mp_timer *t)
{
	struct l7mp_heap *h = &loop->heap;

	if (t->reserved)
		return 0;
	if (!t->index) {
		if (heap_grow(h))
			return -ENOMEM;
		h->kept++;
	}
	t->reserved = true;
	return 0;
}

void l7mp_timer_give_back(struct l7mp_loop *loop, struct l7mp_timer *t)
{
	l7mp_timer_stop(loop, t);
	loop->heap.kept -= t->reserved;
	t->reserved = false;
}
