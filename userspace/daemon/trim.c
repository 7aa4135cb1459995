/* SPDX-License-Identifier: MIT */
/*
 * Gives freed memory back to the system. glibc keeps what lies below anything that is
 * still in use, which after many sessions or objects came and went is nearly all of it.
 * Done when the process has come to rest, because it walks the whole heap.
 */
#include "trim.h"

#include <malloc.h>
#include <stdio.h>
#include <unistd.h>

#include "l7mp/log.h"

#define LOOK_MS 500
#define BUSY    25            /* sessions that ended between two looks: not at rest */
#define WORTH   (1024 * 1024) /* bytes */

static size_t resident(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	unsigned long pages = 0;

	if (!f)
		return 0;
	if (fscanf(f, "%*u %lu", &pages) != 1)
		pages = 0;
	fclose(f);
	return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void look(struct l7mp_timer *timer, void *arg)
{
	struct l7mp_trim *t = arg;
	size_t before, used;

	if (t->ended > BUSY) {
		t->ended = 0;
		(void)l7mp_timer_start(t->loop, timer, LOOK_MS);
		return;
	}
	t->ended = 0;
	before = resident();
	used = mallinfo2().uordblks;
	/* Since the last time: more is resident, or less of it is in use. */
	if (before < t->resident + WORTH && used + WORTH > t->used)
		return;
	malloc_trim(0);
	t->resident = resident();
	t->used = used;
	l7mp_log_verbose("daemon", "memory given back: %zu kB resident, were %zu kB",
	                 t->resident / 1024, before / 1024);
}

void l7mp_trim_init(struct l7mp_trim *t, struct l7mp_loop *loop)
{
	t->loop = loop;
	t->resident = resident();
	t->used = mallinfo2().uordblks;
	l7mp_timer_init(&t->timer, look, t);
}

void l7mp_trim_soon(struct l7mp_trim *t)
{
	t->ended++;
	if (!l7mp_timer_armed(&t->timer))
		(void)l7mp_timer_start(t->loop, &t->timer, LOOK_MS);
}

void l7mp_trim_stop(struct l7mp_trim *t)
{
	l7mp_timer_stop(t->loop, &t->timer);
}
