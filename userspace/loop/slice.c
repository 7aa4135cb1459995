/* SPDX-License-Identifier: MIT */
#include "l7mp/slice.h"

#include "loop_int.h"

const uint32_t l7mp_slice_bounds_us[L7MP_SLICE_BUCKETS] = {250,  500,  1000,  2000,
                                                           4000, 8000, 16000, 64000};

void l7mp_slices_init(struct l7mp_loop *loop)
{
	loop->slices.prev = loop->slices.next = &loop->slices;
}

void l7mp_slice_init(struct l7mp_slice *s, void (*cb)(struct l7mp_slice *s, void *arg), void *arg)
{
	*s = (struct l7mp_slice){.cb = cb, .arg = arg};
}

void l7mp_slice_post(struct l7mp_loop *loop, struct l7mp_slice *s)
{
	if (s->prev)
		return;
	s->prev = loop->slices.prev;
	s->next = &loop->slices;
	s->prev->next = s;
	loop->slices.prev = s;
	l7mp_loop_wake(loop);
}

void l7mp_slice_cancel(struct l7mp_loop *loop, struct l7mp_slice *s)
{
	(void)loop;
	if (!s->prev)
		return;
	s->prev->next = s->next;
	s->next->prev = s->prev;
	s->prev = s->next = NULL;
}

bool l7mp_slice_over(const struct l7mp_loop *loop)
{
	return loop->slice_tasks >= L7MP_SLICE_TASKS ||
	       l7mp_loop_clock_us(loop) >= loop->slice_until;
}

void l7mp_slice_count(struct l7mp_slice_stats *st, uint64_t us)
{
	st->count++;
	st->sum_us += us;
	if (us > st->max_us)
		st->max_us = us;
	for (int i = 0; i < L7MP_SLICE_BUCKETS; i++)
		if (us <= l7mp_slice_bounds_us[i])
			st->bucket[i]++;
}

/* Puts the remaining slices of `head` in front of those that were posted meanwhile. */
static void put_back(struct l7mp_loop *loop, struct l7mp_slice *head)
{
	if (head->next == head)
		return;
	head->prev->next = loop->slices.next;
	loop->slices.next->prev = head->prev;
	loop->slices.next = head->next;
	head->next->prev = &loop->slices;
}

/*
 * A turn runs each slice at most once, in the order of posting: slices that are posted meanwhile,
 * also by a slice itself, wait for the next turn. Therefore the list is first moved to another
 * head.
 */
void l7mp_slices_run(struct l7mp_loop *loop)
{
	uint64_t start, now;
	struct l7mp_slice head;

	if (!l7mp_slices_pending(loop))
		return;
	start = now = l7mp_loop_clock_us(loop);
	loop->slice_until = start + L7MP_SLICE_US;
	loop->slice_tasks = 0;
	head.next = loop->slices.next;
	head.prev = loop->slices.prev;
	head.next->prev = head.prev->next = &head;
	l7mp_slices_init(loop);
	while (head.next != &head && now < loop->slice_until &&
	       loop->slice_tasks < L7MP_SLICE_TASKS) {
		struct l7mp_slice *s = head.next;

		l7mp_slice_cancel(loop, s);
		s->cb(s, s->arg);
		now = l7mp_loop_clock_us(loop);
	}
	put_back(loop, &head);
	loop->slice_until = 0;
	l7mp_slice_count(&loop->slice_stats, now - start);
}

const struct l7mp_slice_stats *l7mp_loop_slice_stats(const struct l7mp_loop *loop)
{
	return &loop->slice_stats;
}

uint64_t l7mp_loop_clock_us(const struct l7mp_loop *loop)
{
	if (!loop->manual)
		return uv_hrtime() / 1000;
	/* The clock of manual loops is not part of the loop's state. */
	((struct l7mp_loop *)loop)->manual_us += loop->manual_each_us;
	return loop->manual_now * 1000 + loop->manual_us;
}

void l7mp_loop_spend(struct l7mp_loop *loop, uint64_t us)
{
	loop->manual_us += us;
}

void l7mp_loop_spend_each(struct l7mp_loop *loop, uint64_t us)
{
	loop->manual_each_us = us;
}
