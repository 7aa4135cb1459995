/* SPDX-License-Identifier: MIT */
/*
 * Routes are looked up a second and a third time after a change. The kernel announces RTM_DELROUTE
 * before it removes the route (fib_table_delete in net/ipv4/fib_trie.c), and RTM_DELADDR and
 * RTM_DELNEXTHOP before it removes the routes that depend on them, not all of which it announces. A
 * look-up right after the event, on another CPU, may return the old route, and no further event
 * corrects that.
 *
 * As long as flows use a route it is looked up every ten seconds as well: the kernel sends no event
 * when path MTU discovery changes the MTU (RFC 1191, RFC 8201), and packets larger than that must
 * not take the fast path, as the stack has to fragment them. The neighbour is then checked, too.
 */
#include "path.h"

/*
 * After an event; once more, in case a kernel thread was preempted between event and change;
 * periodically.
 */
enum { SOON, LATER, ALWAYS };
static const unsigned delay_ms[OFF_RECHECKS] = {30, 1000, 10000};

static void arm(struct off_path *p)
{
	uint64_t now = l7mp_loop_now(p->loop), due = UINT64_MAX;

	for (int i = 0; i < OFF_RECHECKS; i++)
		if (p->recheck[i] && p->recheck[i]->recheck_ms < due)
			due = p->recheck[i]->recheck_ms;
	if (due == UINT64_MAX)
		l7mp_timer_stop(p->loop, &p->recheck_timer);
	else
		(void)l7mp_timer_start(p->loop, &p->recheck_timer, due > now ? due - now : 0);
}

/* The delay is the same for all nexthops of a list, so each list is in the order of time. */
static void put(struct off_path *p, struct off_nexthop *nh, int which)
{
	nh->recheck_ms = l7mp_loop_now(p->loop) + delay_ms[which];
	nh->recheck = (uint8_t)(which + 1);
	DL_APPEND2(p->recheck[which], nh, rprev, rnext);
}

void off_recheck_drop(struct off_path *p, struct off_nexthop *nh)
{
	if (!nh->recheck)
		return;
	DL_DELETE2(p->recheck[nh->recheck - 1], nh, rprev, rnext);
	nh->recheck = 0;
}

void off_recheck_soon(struct off_path *p, struct off_nexthop *nh)
{
	off_recheck_drop(p, nh);
	put(p, nh, SOON);
	if (!l7mp_timer_armed(&p->recheck_timer) || !p->recheck[SOON]->rnext)
		arm(p);
}

void off_recheck_new(struct off_path *p, struct off_nexthop *nh)
{
	uint64_t at = p->routes_changed_ms;

	if (at && l7mp_loop_now(p->loop) - at <= delay_ms[LATER]) {
		off_recheck_soon(p, nh);
		return;
	}
	put(p, nh, ALWAYS);
	if (!l7mp_timer_armed(&p->recheck_timer))
		arm(p);
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct off_path *p = arg;
	uint64_t now = l7mp_loop_now(p->loop);

	(void)t;
	for (int i = 0; i < OFF_RECHECKS; i++) {
		while (p->recheck[i] && p->recheck[i]->recheck_ms <= now) {
			struct off_nexthop *nh = p->recheck[i];

			off_recheck_drop(p, nh);
			if (i == ALWAYS && !nh->n_uses)
				continue;
			put(p, nh, i == ALWAYS ? ALWAYS : i + 1);
			off_nexthop_recheck(p, nh);
		}
	}
	arm(p);
	/* There is no event for changes of these sysctls. */
	if (now - p->ports_ms >= delay_ms[ALWAYS])
		off_routes_check_ports(p);
}

int off_recheck_start(struct off_path *p)
{
	l7mp_timer_init(&p->recheck_timer, on_timer, p);
	return l7mp_timer_reserve(p->loop, &p->recheck_timer);
}

/* The nexthops have been freed before this. */
void off_recheck_stop(struct off_path *p)
{
	l7mp_timer_give_back(p->loop, &p->recheck_timer);
	p->routes_changed_ms = 0;
}
