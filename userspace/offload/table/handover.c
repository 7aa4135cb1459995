/* SPDX-License-Identifier: MIT */
/*
 * Activates a new flow without its packets overtaking those that user space still has to relay
 * (struct l7mp_handover in abi.h). While `passed` and `relayed` of a direction differ, the programs
 * pass its packets to the stack. User space makes them equal when the owner's sockets are empty and
 * no packet has arrived since `passed` was read.
 *
 * A packet that a program has counted reaches the socket later: it crosses the stack, perhaps on
 * another CPU or in a batch. So the flow is activated after a pause without packets. A stream that
 * never pauses that long is activated in a shorter pause, and after FORCE_US without one; the owner
 * then counts the packets that its sockets still received.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "l7mp/fault.h"
#include "table.h"

#define TICK_MS    1
#define SETTLE_US  900   /* required pause; a batch of packets crosses the stack in less */
#define HURRY_US   5000  /* then a pause of BRIEF_US suffices, checked in each loop iteration */
#define BRIEF_US   30    /* a packet crosses the stack in less */
#define TICK_FLOWS 256   /* flows per tick */
#define TICK_US    4000  /* time limit of a tick: the flows' sockets may hold much data */
#define FORCE_US   50000 /* then the flow is activated in any case */
#define MAP_BYTES  (L7MP_HANDOVER_SLOTS * sizeof(struct l7mp_handover))

static uint64_t now_us(void)
{
	return off_mono_ns() / 1000;
}

/* ---- slots of the map ---- */

static volatile struct l7mp_handover *slot_of(struct off_table *tbl,
                                              const struct off_direction *dir)
{
	return &tbl->handover.slots[dir->action.handover];
}

static bool has_slot(const struct off_direction *dir)
{
	return dir->action.flags & L7MP_FLOW_HANDOVER;
}

/*
 * Slots are reused first in, first out: a program that still uses a replaced action then reads a
 * slot that is free, with equal numbers.
 */
static void slot_take(struct off_handover *h, struct off_direction *dir)
{
	if (!h->slots || !h->n_free)
		return;
	dir->action.handover = h->free[h->first];
	dir->action.flags |= L7MP_FLOW_HANDOVER;
	h->first = (h->first + 1) % L7MP_HANDOVER_SLOTS;
	h->n_free--;
	h->slots[dir->action.handover].passed = 1;
	__atomic_store_n(&h->slots[dir->action.handover].relayed, 0, __ATOMIC_RELEASE);
	dir->passed_seen = 1;
}

static void slot_give(struct off_handover *h, struct off_direction *dir)
{
	uint32_t slot = dir->action.handover;

	if (!has_slot(dir))
		return;
	__atomic_store_n(&h->slots[slot].relayed, h->slots[slot].passed, __ATOMIC_RELEASE);
	h->free[(h->first + h->n_free) % L7MP_HANDOVER_SLOTS] = (uint16_t)slot;
	h->n_free++;
	dir->action.flags &= (uint16_t)~L7MP_FLOW_HANDOVER;
	dir->action.handover = 0;
}

/* ---- one flow ---- */

static bool settled(struct off_table *tbl, struct l7mp_flow *flow)
{
	bool same = true;

	for (int i = 0; i < flow->n_dirs; i++) {
		struct off_direction *s = &flow->dir[i];
		uint64_t passed;

		if (!has_slot(s))
			continue;
		passed = __atomic_load_n(&slot_of(tbl, s)->passed, __ATOMIC_ACQUIRE);
		same = same && passed == s->passed_seen;
		s->passed_seen = passed;
	}
	return same;
}

/*
 * After the pause: has the owner relay what its sockets hold, then stores the numbers that were
 * read. True: no packet arrived meanwhile, and the programs use the flow.
 */
static bool hand_over(struct off_table *tbl, struct l7mp_flow *flow)
{
	bool all = true;

	tbl->handover.at = flow;
	if (tbl->events && tbl->events->ready && !tbl->events->ready(tbl->events_arg, flow->cookie))
		return false;
	if (!tbl->handover.at) /* the callback removed the flow */
		return false;
	for (int i = 0; i < flow->n_dirs; i++) {
		struct off_direction *s = &flow->dir[i];

		if (!has_slot(s))
			continue;
		off_rtp_enter(tbl, s);
		__atomic_store_n(&slot_of(tbl, s)->relayed, s->passed_seen, __ATOMIC_SEQ_CST);
		all = all &&
		      __atomic_load_n(&slot_of(tbl, s)->passed, __ATOMIC_SEQ_CST) == s->passed_seen;
	}
	return all;
}

/*
 * Clears L7MP_FLOW_HANDOVER in the map, so that the programs don't read the numbers any more. If
 * the update fails they go on reading them: the numbers stay equal, and the slot allocated.
 */
static void forget_slots(struct off_table *tbl, struct l7mp_flow *flow)
{
	for (int i = 0; i < flow->n_dirs; i++) {
		struct off_direction *s = &flow->dir[i];
		struct l7mp_flow6_action plain = s->action6;

		off_rtp_enter(tbl, s);
		if (!has_slot(s))
			continue;
		plain.action.flags &= (uint16_t)~L7MP_FLOW_HANDOVER;
		plain.action.handover = 0;
		off_action_renew(tbl, &plain);
		/* When forced, the numbers may still differ. */
		__atomic_store_n(&slot_of(tbl, s)->relayed, slot_of(tbl, s)->passed,
		                 __ATOMIC_SEQ_CST);
		if (!off_entry_put(&tbl->maps, s, &plain, BPF_EXIST))
			slot_give(&tbl->handover, s);
	}
}

static void begin(struct off_table *tbl, struct l7mp_flow *flow, bool forced)
{
	tbl->handover.forced += forced;
	L7MP_FAULT("begin");
	forget_slots(tbl, flow);
	off_handover_drop(tbl, flow);
	L7MP_FAULT("begun");
	if (tbl->events && tbl->events->begun)
		tbl->events->begun(tbl->events_arg, flow->cookie, forced);
}

/* Was a direction active at once, as no slot was free? */
static bool unordered(const struct l7mp_flow *flow)
{
	for (int i = 0; i < flow->n_dirs && flow->verb != L7MP_VERB_COUNT; i++)
		if (!has_slot(&flow->dir[i]))
			return true;
	return false;
}

/*
 * Checks a flow. May remove this flow, and others. True: its packets don't pause for long, so it is
 * checked again in the next loop iteration, not in the next tick.
 */
static bool step(struct off_table *tbl, struct l7mp_flow *flow)
{
	uint64_t now = now_us(), before = flow->checked_us;
	bool same = settled(tbl, flow), orderly = false, hurry;

	flow->checked_us = now;
	/*
	 * A program that reads different numbers just before we make them equal may count its
	 * packet just after that. So they must still be equal a tick later; meanwhile the programs
	 * use the flow.
	 */
	if (flow->agreed && same) {
		begin(tbl, flow, unordered(flow));
		return false;
	}
	flow->agreed = false;
	tbl->handover.at = flow;
	if (!same)
		flow->settled_us = now;
	hurry = now - flow->added_us >= HURRY_US;
	if (flow->verb == L7MP_VERB_COUNT || now - flow->settled_us >= SETTLE_US ||
	    (hurry && same && now - before >= BRIEF_US))
		orderly = hand_over(tbl, flow);
	if (!tbl->handover.at)
		return false;
	if (orderly)
		flow->agreed = true;
	else if (now - flow->added_us >= FORCE_US)
		begin(tbl, flow, true);
	return hurry && !orderly && tbl->handover.at;
}

static void tick(struct l7mp_timer *timer, void *arg)
{
	struct off_table *tbl = arg;
	struct off_handover *h = &tbl->handover;
	unsigned n = h->n_flows < TICK_FLOWS ? h->n_flows : TICK_FLOWS;
	uint64_t start = now_us();
	bool hurry = false;

	/*
	 * Check each flow once. step() may change the list, so always take the head, and move it to
	 * the tail first.
	 */
	while (n-- && h->flows && now_us() - start < TICK_US) {
		struct l7mp_flow *flow = h->flows;

		DL_DELETE2(h->flows, flow, hprev, hnext);
		DL_APPEND2(h->flows, flow, hprev, hnext);
		hurry |= step(tbl, flow);
	}
	h->at = NULL;
	if (h->flows && !l7mp_timer_armed(timer))
		(void)l7mp_timer_start(tbl->loop, timer, hurry ? 0 : TICK_MS);
}

/* ---- for the engine ---- */

void off_handover_prepare(struct off_table *tbl, struct l7mp_flow *flow)
{
	for (int i = 0; i < flow->n_dirs && flow->verb != L7MP_VERB_COUNT; i++)
		slot_take(&tbl->handover, &flow->dir[i]);
}

int off_handover_claim(struct off_table *tbl, struct off_direction *dir)
{
	struct off_handover *h = &tbl->handover;

	if (!has_slot(dir))
		return 0;
	if (dir->action.handover >= L7MP_HANDOVER_SLOTS)
		return -EINVAL;
	if (h->claimed[dir->action.handover])
		return -EEXIST;
	h->claimed[dir->action.handover] = 1;
	dir->passed_seen =
	        __atomic_load_n(&h->slots[dir->action.handover].passed, __ATOMIC_ACQUIRE);
	return 0;
}

void off_handover_unclaim(struct off_table *tbl, const struct off_direction *dir)
{
	if (has_slot(dir))
		tbl->handover.claimed[dir->action.handover] = 0;
}

void off_handover_claimed(struct off_table *tbl)
{
	struct off_handover *h = &tbl->handover;

	h->first = h->n_free = 0;
	for (unsigned i = 0; i < L7MP_HANDOVER_SLOTS; i++)
		if (!h->claimed[i])
			h->free[h->n_free++] = (uint16_t)i;
	memset(h->claimed, 0, sizeof(h->claimed));
}

void off_handover_add(struct off_table *tbl, struct l7mp_flow *flow)
{
	struct off_handover *h = &tbl->handover;

	flow->added_us = flow->settled_us = flow->checked_us = now_us();
	flow->beginning = true;
	flow->agreed = false;
	DL_APPEND2(h->flows, flow, hprev, hnext);
	h->n_flows++;
	if (!l7mp_timer_armed(&h->timer))
		(void)l7mp_timer_start(tbl->loop, &h->timer, TICK_MS);
}

void off_handover_drop(struct off_table *tbl, struct l7mp_flow *flow)
{
	struct off_handover *h = &tbl->handover;

	if (h->at == flow)
		h->at = NULL;
	if (!flow->beginning)
		return;
	flow->beginning = false;
	DL_DELETE2(h->flows, flow, hprev, hnext);
	h->n_flows--;
}

void off_handover_release(struct off_table *tbl, struct l7mp_flow *flow)
{
	off_handover_drop(tbl, flow);
	for (int i = 0; i < flow->n_dirs; i++)
		slot_give(&tbl->handover, &flow->dir[i]);
}

int off_handover_start(struct off_table *tbl)
{
	struct off_handover *h = &tbl->handover;
	void *at = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, tbl->maps.handover, 0);

	if (at == MAP_FAILED)
		return -errno;
	l7mp_timer_init(&h->timer, tick, tbl);
	if (l7mp_timer_reserve(tbl->loop, &h->timer)) {
		(void)munmap(at, MAP_BYTES);
		return -ENOMEM;
	}
	h->slots = at;
	h->first = 0;
	h->n_free = L7MP_HANDOVER_SLOTS;
	for (unsigned i = 0; i < L7MP_HANDOVER_SLOTS; i++)
		h->free[i] = (uint16_t)i;
	return 0;
}

void off_handover_stop(struct off_table *tbl)
{
	struct off_handover *h = &tbl->handover;

	if (!h->slots)
		return;
	l7mp_timer_give_back(tbl->loop, &h->timer);
	(void)munmap((void *)h->slots, MAP_BYTES);
	h->slots = NULL;
	h->n_free = 0;
}
