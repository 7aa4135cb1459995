/* SPDX-License-Identifier: MIT */
/*
 * Returns freed memory to the system. glibc keeps free memory below any block that is still in use,
 * which is nearly all of it after many sessions or objects were freed.
 *
 * malloc_trim(3) walks each heap with its lock held, for 100 ms and more after many sessions, and
 * allocations in other threads wait. So it is called only when there are no sessions, only if it
 * can return memory, and in a worker thread, so that the loop can accept new sessions as far as
 * that needs no memory.
 *
 * It can return resident memory that is not allocated. Resident memory alone is no indication,
 * because free(3) does not reduce it.
 */
#include "trim.h"

#include <malloc.h>
#include <stdio.h>
#include <unistd.h>

#include "l7mp/log.h"

#define LOOK_MS 500
#define LOOKS   4             /* checks after the last session's end, at twice the interval each */
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

static bool at_rest(const struct l7mp_trim *t)
{
	for (int i = 0; i < L7MP_SESSION_DESTROYED; i++)
		if (l7mp_sessions_count(t->sessions, (enum l7mp_session_state)i))
			return false;
	return true;
}

/* Resident, but not allocated. mallinfo2(3) takes the locks of the heaps, too. */
static size_t unused(void)
{
	struct mallinfo2 info = mallinfo2();
	size_t all = resident(), used = info.uordblks + info.hblkhd;

	return all > used ? all - used : 0;
}

/* Runs in a worker thread. */
static void trim_run(void *arg)
{
	struct l7mp_trim *t = arg;
	size_t before = resident();

	if (unused() < t->unused + WORTH)
		return;
	malloc_trim(0);
	t->unused = unused();
	l7mp_log_verbose("daemon", "memory given back: %zu kB resident, were %zu kB",
	                 resident() / 1024, before / 1024);
}

/* Objects are freed by jobs of their own after the session that deleted them: checks again. */
static void trim_done(void *arg)
{
	struct l7mp_trim *t = arg;

	if (++t->looks < LOOKS && !l7mp_timer_armed(&t->timer))
		(void)l7mp_timer_start(t->loop, &t->timer, (uint64_t)LOOK_MS << t->looks);
}

static void look(struct l7mp_timer *timer, void *arg)
{
	struct l7mp_trim *t = arg;
	bool ended = t->ended;

	t->ended = false;
	/* The end of the last session calls this again. */
	if (!at_rest(t))
		return;
	if (ended || t->work.busy)
		(void)l7mp_timer_start(t->loop, timer, LOOK_MS);
	else
		(void)l7mp_work_start(t->loop, &t->work, trim_run, trim_done, t);
}

void l7mp_trim_init(struct l7mp_trim *t, struct l7mp_loop *loop, struct l7mp_sessions *sessions)
{
	t->loop = loop;
	t->sessions = sessions;
	t->unused = unused();
	l7mp_timer_init(&t->timer, look, t);
}

void l7mp_trim_soon(struct l7mp_trim *t)
{
	t->ended = true;
	t->looks = 0;
	if (!l7mp_timer_armed(&t->timer))
		(void)l7mp_timer_start(t->loop, &t->timer, LOOK_MS);
}

void l7mp_trim_stop(struct l7mp_trim *t)
{
	t->looks = LOOKS;
	l7mp_timer_stop(t->loop, &t->timer);
}
