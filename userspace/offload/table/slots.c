/* SPDX-License-Identifier: MIT */
/*
 * Slots: indexes of the map `counters`, one for each entry of the flow maps. A program looks up a
 * flow first and counts its packet later, when the flow may have been deleted already. A freed slot
 * is therefore reused only after all programs that ran at that time have ended. A worker thread
 * waits for that (an RCU grace period, some 10 ms), once for all slots freed before the wait began.
 *
 * The slot freed last is reused first: this keeps used slots close together, so that the counter
 * poll reads few unused ones.
 */
#include <errno.h>
#include <linux/membarrier.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "table.h"

#define GATHER_MS 20 /* slots freed within this time share one wait */

/* Owned by the table while idle; by the worker, then by its callback, while `away`. */
struct off_grace {
	uv_work_t work;
	struct off_table *tbl; /* NULL: stopped while `away` */
	bool away;
};

void off_wait_for_programs(void)
{
	/* BPF programs run under RCU, and this membarrier(2) command calls synchronize_rcu(). */
	const struct timespec enough = {.tv_nsec = 20 * 1000000};

	if (syscall(__NR_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0))
		(void)nanosleep(&enough, NULL);
}

/* ---- the wait ---- */

static void wait_work(uv_work_t *work)
{
	(void)work;
	off_wait_for_programs();
}

static void begin_wait(struct off_table *tbl);

static void waited(uv_work_t *work, int status)
{
	struct off_grace *g = work->data;
	struct off_table *tbl = g->tbl;
	struct off_slots *s;

	g->away = false;
	if (!tbl) {
		free(g);
		return;
	}
	s = &tbl->slots;
	if (!status) {
		memcpy(&s->ready[s->n_ready], s->waiting, s->n_covered * sizeof(*s->ready));
		s->n_ready += s->n_covered;
		s->n_waiting -= s->n_covered;
		memmove(s->waiting, &s->waiting[s->n_covered], s->n_waiting * sizeof(*s->waiting));
	}
	s->n_covered = 0;
	if (s->n_waiting)
		(void)l7mp_timer_start(tbl->loop, &s->timer, GATHER_MS);
}

static void begin_wait(struct off_table *tbl)
{
	struct off_slots *s = &tbl->slots;

	s->n_covered = s->n_waiting;
	s->grace->away = true;
	if (uv_queue_work(l7mp_loop_uv(tbl->loop), &s->grace->work, wait_work, waited)) {
		s->grace->away = false;
		s->n_covered = 0;
		(void)l7mp_timer_start(tbl->loop, &s->timer, GATHER_MS);
	}
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	(void)t;
	begin_wait(arg);
}

/* ---- allocating and freeing ---- */

static void use(struct off_slots *s, uint32_t slot, struct off_direction *dir)
{
	s->n_used++;
	s->n_of[off_entry_family(dir)]++;
	s->dirs[slot] = dir;
	s->used[slot / OFF_SLOT_BLOCK]++;
	dir->has_slot = true;
}

int off_slot_take(struct off_table *tbl, struct off_direction *dir)
{
	struct off_slots *s = &tbl->slots;
	uint32_t slot;

	if (s->n_used >= tbl->maps.max_flows)
		return -E2BIG;
	if (s->n_ready)
		slot = s->ready[--s->n_ready];
	else if (s->fresh < s->n)
		slot = s->fresh++;
	else
		return -EAGAIN;
	dir->action.slot = slot;
	use(s, slot, dir);
	return 0;
}

int off_slot_claim(struct off_table *tbl, struct off_direction *dir)
{
	struct off_slots *s = &tbl->slots;
	uint32_t slot = dir->action.slot;

	if (slot >= s->n || s->n_used >= tbl->maps.max_flows)
		return -EINVAL;
	if (s->dirs[slot])
		return -EEXIST;
	if (slot >= s->fresh)
		s->fresh = slot + 1;
	use(s, slot, dir);
	return 0;
}

void off_slots_claimed(struct off_table *tbl)
{
	struct off_slots *s = &tbl->slots;

	/* Slots that were given back since are free like the others: see the contract. */
	s->n_waiting = 0;
	l7mp_timer_stop(tbl->loop, &s->timer);
	/* `ready` is a stack: push the lowest slots last, so that they are used first. */
	for (uint32_t slot = s->fresh; slot-- > 0;)
		if (!s->dirs[slot])
			s->ready[s->n_ready++] = slot;
}

void off_slot_give(struct off_table *tbl, struct off_direction *dir)
{
	struct off_slots *s = &tbl->slots;
	uint32_t slot = dir->action.slot;

	if (!dir->has_slot)
		return;
	dir->has_slot = false;
	s->n_used--;
	s->n_of[off_entry_family(dir)]--;
	s->dirs[slot] = NULL;
	s->used[slot / OFF_SLOT_BLOCK]--;
	s->waiting[s->n_waiting++] = slot;
	if (!s->grace->away && !l7mp_timer_armed(&s->timer))
		(void)l7mp_timer_start(tbl->loop, &s->timer, GATHER_MS);
}

/* ---- life ---- */

int off_slots_start(struct off_table *tbl)
{
	struct off_slots *s = &tbl->slots;

	memset(s, 0, sizeof(*s));
	l7mp_timer_init(&s->timer, on_timer, tbl);
	s->n = tbl->maps.n_slots;
	s->ready = calloc(s->n, sizeof(*s->ready));
	s->waiting = calloc(s->n, sizeof(*s->waiting));
	s->dirs = calloc(s->n, sizeof(struct off_direction *));
	s->used = calloc(s->n / OFF_SLOT_BLOCK + 1, sizeof(*s->used));
	s->grace = calloc(1, sizeof(*s->grace));
	if (!s->ready || !s->waiting || !s->dirs || !s->used || !s->grace ||
	    l7mp_timer_reserve(tbl->loop, &s->timer)) {
		off_slots_stop(tbl);
		return -ENOMEM;
	}
	s->grace->work.data = s->grace;
	s->grace->tbl = tbl;
	return 0;
}

void off_slots_stop(struct off_table *tbl)
{
	struct off_slots *s = &tbl->slots;

	l7mp_timer_give_back(tbl->loop, &s->timer);
	if (s->grace && s->grace->away) {
		s->grace->tbl = NULL;
		(void)uv_cancel((uv_req_t *)&s->grace->work); /* the callback runs in any case */
	} else {
		free(s->grace);
	}
	free(s->ready);
	free(s->waiting);
	free(s->dirs);
	free(s->used);
	memset(s, 0, sizeof(*s));
}
