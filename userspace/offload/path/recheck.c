/* SPDX-License-Identifier: MIT */
/*
 * Routes are asked for a second and a third time after a change. The kernel says RTM_DELROUTE before it
 * takes the route out (fib_table_delete in net/ipv4/fib_trie.c), RTM_DELADDR and RTM_DELNEXTHOP before it takes out the routes
 * that go with them, and not all of those are told one by one: whoever asks at once, on another processor, may
 * get the old answer, and nobody tells him again.
 *
 * And as long as flows use a way it is asked for now and then: what the kernel learns of the path's MTU (RFC 1191, RFC 8201) it
 * tells nobody, and packets that are too large have to leave the fast path, so that the stack fragments them.
 */
#include "offload/offload_int.h"

/* After the message; once more for a kernel thread that was held up in between; now and then. */
enum { SOON, LATER, ALWAYS };
static const unsigned delay_ms[OFF_RECHECKS] = {30, 1000, 10000};

static void arm(struct l7mp_offload_engine *e)
{
	uint64_t now = l7mp_loop_now(e->loop), due = UINT64_MAX;

	for (int i = 0; i < OFF_RECHECKS; i++)
		if (e->recheck[i] && e->recheck[i]->recheck_ms < due)
			due = e->recheck[i]->recheck_ms;
	if (due == UINT64_MAX)
		l7mp_timer_stop(e->loop, &e->recheck_timer);
	else
		(void)l7mp_timer_start(e->loop, &e->recheck_timer, due > now ? due - now : 0);
}

/* All wait equally long in a list, so each list is in the order of time. */
static void put(struct l7mp_offload_engine *e, struct off_nexthop *nh, int which)
{
	nh->recheck_ms = l7mp_loop_now(e->loop) + delay_ms[which];
	nh->recheck = (uint8_t)(which + 1);
	DL_APPEND2(e->recheck[which], nh, rprev, rnext);
}

void off_recheck_drop(struct l7mp_offload_engine *e, struct off_nexthop *nh)
{
	if (!nh->recheck)
		return;
	DL_DELETE2(e->recheck[nh->recheck - 1], nh, rprev, rnext);
	nh->recheck = 0;
}

void off_recheck_soon(struct l7mp_offload_engine *e, struct off_nexthop *nh)
{
	off_recheck_drop(e, nh);
	put(e, nh, SOON);
	if (!l7mp_timer_armed(&e->recheck_timer) || !e->recheck[SOON]->rnext)
		arm(e);
}

void off_recheck_new(struct l7mp_offload_engine *e, struct off_nexthop *nh)
{
	uint64_t at = e->routes_changed_ms;

	if (at && l7mp_loop_now(e->loop) - at <= delay_ms[LATER]) {
		off_recheck_soon(e, nh);
		return;
	}
	put(e, nh, ALWAYS);
	if (!l7mp_timer_armed(&e->recheck_timer))
		arm(e);
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct l7mp_offload_engine *e = arg;
	uint64_t now = l7mp_loop_now(e->loop);

	(void)t;
	for (int i = 0; i < OFF_RECHECKS; i++) {
		while (e->recheck[i] && e->recheck[i]->recheck_ms <= now) {
			struct off_nexthop *nh = e->recheck[i];

			off_recheck_drop(e, nh);
			if (i == ALWAYS && !nh->n_uses)
				continue;
			put(e, nh, i == ALWAYS ? ALWAYS : i + 1);
			off_nexthop_recheck(e, nh);
		}
	}
	arm(e);
}

int off_recheck_start(struct l7mp_offload_engine *e)
{
	l7mp_timer_init(&e->recheck_timer, on_timer, e);
	return l7mp_timer_reserve(e->loop, &e->recheck_timer);
}

/* The hops are gone by then, or go with it. */
void off_recheck_stop(struct l7mp_offload_engine *e)
{
	l7mp_timer_give_back(e->loop, &e->recheck_timer);
	e->routes_changed_ms = 0;
}
