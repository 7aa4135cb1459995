/* SPDX-License-Identifier: MIT */
/* The pairs: allocation, lists, the timer that runs their steps, the barrier. */
#include <errno.h>
#include <linux/membarrier.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "l7mp/fault.h"
#include "l7mp/hash.h"
#include "tcp.h"

#define BUSY_MS    1
#define QUIET_MS   20
#define QUIET_TURN 512 /* quiet pairs checked in one tick */
#define EVENTS     64

const char *off_tcp_stage_name(enum off_tcp_stage stage)
{
	static const char *const names[OFF_TCP_STAGES] = {"numbers", "watch", "hold", "relay",
	                                                  "trans",   "fast",  "stop", "stop",
	                                                  "fill",    "linger"};

	return (unsigned)stage < OFF_TCP_STAGES ? names[stage] : "";
}

uint64_t off_tcp_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

void off_tcp_phase(struct off_tcp_pair *p, enum l7mp_tcp_phase phase)
{
	/* Release: the data of the phase must be visible first. */
	__atomic_store_n(&p->map->phase, (uint32_t)phase, __ATOMIC_RELEASE);
}

/* ---- lists ---- */

static bool is_quiet(const struct off_tcp_pair *p)
{
	return (p->stage == OFF_TCP_FAST && !p->keep_busy) || p->stage == OFF_TCP_LINGER;
}

static bool is_switching(const struct off_tcp_pair *p)
{
	return p->stage >= OFF_TCP_HOLD && p->stage != OFF_TCP_FAST && p->stage != OFF_TCP_LINGER;
}

static void unlist(struct off_tcp_pair *p)
{
	struct off_tcp *t = p->t;

	t->n_switching -= is_switching(p);
	if (is_quiet(p)) {
		if (t->next_quiet == p)
			t->next_quiet = p->next;
		DL_DELETE(t->quiet, p);
		t->n_quiet--;
	} else {
		if (t->next_busy == p)
			t->next_busy = p->next;
		DL_DELETE(t->busy, p);
		t->n_busy--;
	}
}

static void list(struct off_tcp_pair *p)
{
	struct off_tcp *t = p->t;

	t->n_switching += is_switching(p);
	if (is_quiet(p)) {
		DL_APPEND(t->quiet, p);
		t->n_quiet++;
	} else {
		DL_APPEND(t->busy, p);
		t->n_busy++;
	}
}

static void arm(struct off_tcp *t)
{
	uint64_t ms = t->n_busy ? BUSY_MS : QUIET_MS;

	if (!t->n_busy && !t->n_quiet)
		return;
	if (l7mp_timer_armed(&t->timer) && t->timer.due <= l7mp_loop_now(t->loop) + ms)
		return;
	(void)l7mp_timer_start(t->loop, &t->timer, ms); /* reserved */
}

void off_tcp_enter(struct off_tcp_pair *p, enum off_tcp_stage stage)
{
	L7MP_FAULT(off_tcp_stage_name(stage));
	unlist(p);
	p->stage = (uint8_t)stage;
	p->keep_busy = false;
	p->reset_ms = 0;
	p->since_ms = off_tcp_now(p->t);
	list(p);
	arm(p->t);
}

void off_tcp_set_busy(struct off_tcp_pair *p, bool on)
{
	if (p->keep_busy == on)
		return;
	unlist(p);
	p->keep_busy = on;
	list(p);
	arm(p->t);
}

/* ---- ticks ---- */

void off_tcp_step(struct off_tcp_pair *p)
{
	switch ((enum off_tcp_stage)p->stage) {
	case OFF_TCP_FAST:
	case OFF_TCP_LINGER:
		off_tcp_quiet_step(p);
		break;
	case OFF_TCP_BARRIER:
	case OFF_TCP_STOP:
	case OFF_TCP_FILL:
		off_tcp_unsplice_step(p);
		break;
	default:
		off_tcp_splice_step(p);
	}
}

static void poll_sockets(struct off_tcp *t)
{
	struct epoll_event events[EVENTS];
	int n = t->n_quiet ? epoll_wait(t->epoll, events, EVENTS, 0) : 0;

	/* off_tcp_late doesn't free pairs, to which later events may refer. */
	for (int i = 0; i < n; i++)
		off_tcp_late(events[i].data.ptr);
}

static void tick(struct l7mp_timer *timer, void *arg)
{
	struct off_tcp *t = arg;

	(void)timer;
	poll_sockets(t);
	for (struct off_tcp_pair *p = t->busy; p; p = t->next_busy) {
		t->next_busy = p->next;
		off_tcp_step(p);
	}
	if (!t->next_quiet)
		t->next_quiet = t->quiet;
	for (int i = 0; i < QUIET_TURN && t->next_quiet; i++) {
		struct off_tcp_pair *p = t->next_quiet;

		t->next_quiet = p->next;
		off_tcp_step(p);
	}
	arm(t);
}

void off_tcp_watch_socket(struct off_tcp_pair *p, bool on)
{
	for (int i = 0; i < 2; i++) {
		struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.ptr = p};

		if (p->end[i].fd >= 0)
			(void)epoll_ctl(p->t->epoll, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL,
			                p->end[i].fd, &ev);
	}
}

/* ---- the barrier ---- */

static void barrier_wait(void)
{
	const struct timespec enough = {.tv_nsec = 20 * 1000000};

	/* BPF programs run under RCU, and this membarrier(2) command calls synchronize_rcu(). */
	if (syscall(__NR_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0))
		(void)nanosleep(&enough, NULL);
}

static void barrier_run(void *arg)
{
	(void)arg;
	barrier_wait();
}

static void barrier_begin(struct off_tcp *t);

static void barrier_done(void *arg)
{
	struct off_tcp *t = arg;
	const struct off_tcp_pair *p;

	t->barrier_done = t->barrier_last;
	if (t->dead) {
		free(t);
		return;
	}
	DL_FOREACH (t->busy, p) {
		if (p->stage == OFF_TCP_BARRIER && (int)(p->barrier - t->barrier_done) > 0) {
			barrier_begin(t);
			return;
		}
	}
}

static void barrier_begin(struct off_tcp *t)
{
	t->barrier_last++;
	if (!l7mp_work_start(t->loop, &t->work, barrier_run, barrier_done, t))
		return;
	barrier_wait();
	t->barrier_done = t->barrier_last;
}

void off_tcp_barrier(struct off_tcp_pair *p)
{
	struct off_tcp *t = p->t;

	if (t->barrier_done == t->barrier_last) {
		p->barrier = t->barrier_last + 1;
		barrier_begin(t);
	} else { /* the running one began too early: wait for the next one */
		p->barrier = t->barrier_last + 1;
	}
}

/* ---- life ---- */

int off_tcp_new(struct l7mp_loop *loop, volatile struct l7mp_tcp_pair *map,
                const struct off_tcp_ops *ops, void *arg, struct off_tcp **out)
{
	struct off_tcp *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->loop = loop;
	t->map = map;
	t->ops = ops;
	t->arg = arg;
	/* Avoid the ids of a previous daemon, whose flows may still exist. */
	t->last_id = (uint32_t)off_tcp_now_ns();
	for (unsigned i = 0; i < L7MP_TCP_PAIRS; i++)
		t->free[i] = (uint16_t)i;
	t->n_free = L7MP_TCP_PAIRS;
	off_tcp_raw_init(&t->raw);
	l7mp_timer_init(&t->timer, tick, t);
	t->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (t->epoll < 0 || l7mp_timer_reserve(loop, &t->timer)) {
		if (t->epoll >= 0)
			close(t->epoll);
		free(t);
		return -ENOMEM;
	}
	*out = t;
	return 0;
}

void off_tcp_free(struct off_tcp **pp)
{
	struct off_tcp *t = *pp;

	if (!t)
		return;
	*pp = NULL;
	l7mp_timer_give_back(t->loop, &t->timer);
	off_tcp_raw_close(&t->raw);
	close(t->epoll);
	if (t->barrier_done != t->barrier_last)
		t->dead = true;
	else
		free(t);
}

static uint32_t next_id(struct off_tcp *t)
{
	if (!++t->last_id)
		t->last_id = 1;
	return t->last_id;
}

enum l7mp_reason off_tcp_pair_new(struct off_tcp *t, const struct l7mp_flow_socket at[2],
                                  void *owner, struct off_tcp_pair **out)
{
	struct off_tcp_pair *p = calloc(1, sizeof(*p));
	enum l7mp_reason reason = L7MP_REASON_NONE;

	*out = NULL;
	if (!p)
		return L7MP_REASON_KERNEL;
	for (int i = 0; i < 2; i++) {
		p->end[i].fd = at[i].fd;
		p->end[i].mss = at[i].mss;
		if (off_tcp_conn_read(at[i].fd, &p->end[i].conn))
			reason = L7MP_REASON_NOT_ESTABLISHED;
		off_tcp_recall(&p->end[i].conn.traits, &at[i].mss);
	}
	if (!reason)
		reason = off_tcp_check(&p->end[0].conn.traits, &p->end[1].conn.traits);
	if (!reason && !t->n_free)
		reason = L7MP_REASON_TABLE_FULL;
	if (reason) {
		free(p);
		return reason;
	}
	p->t = t;
	p->owner = owner;
	p->index = t->free[t->first_free];
	t->first_free = (t->first_free + 1) % L7MP_TCP_PAIRS;
	t->n_free--;
	p->id = next_id(t);
	p->map = &t->map[p->index];
	off_tcp_phase(p, L7MP_TCP_FREE);
	*p->map = (struct l7mp_tcp_pair){.id = p->id};
	p->since_ms = off_tcp_now(t);
	list(p);
	*out = p;
	return L7MP_REASON_NONE;
}

void off_tcp_list(struct off_tcp_pair *p)
{
	list(p);
	arm(p->t);
}

void off_tcp_pair_begin(struct off_tcp_pair *p)
{
	p->since_ms = off_tcp_now(p->t);
	arm(p->t);
}

void off_tcp_pair_free(struct off_tcp_pair **pp)
{
	struct off_tcp_pair *p = *pp;
	struct off_tcp *t;

	if (!p)
		return;
	*pp = NULL;
	t = p->t;
	off_tcp_phase(p, L7MP_TCP_FREE);
	p->map->id = 0;
	for (int i = 0; i < 2; i++) {
		if (p->stage == OFF_TCP_LINGER)
			off_tcp_close_silently(&p->end[i].fd);
		off_tcp_relay_free(&p->end[i].relay);
		free(p->end[i].fill.data);
	}
	unlist(p);
	/* To the end of the ring: a program may still use this index for a moment. */
	t->free[(t->first_free + t->n_free++) % L7MP_TCP_PAIRS] = (uint16_t)p->index;
	free(p);
}

uint64_t off_tcp_bytes(struct off_tcp_pair *p, int dir)
{
	struct off_tcp_end *e = &p->end[dir];
	volatile struct l7mp_tcp_direction *d = &p->map->dir[dir];
	uint32_t max;

	if (p->settled)
		return e->bytes;
	if (p->stage < OFF_TCP_TRANS)
		return e->bytes + e->relay.relayed;
	max = d->seq_max;
	if ((d->seen & L7MP_TCP_FIN) && !off_tcp_before(max, d->fin_end))
		max = d->fin_end - 1;
	if (off_tcp_before(e->counted, max)) {
		e->bytes += max - e->counted;
		e->counted = max;
		/* `bytes` first: the next daemon derives wraps of the numbers from `passed`. */
		d->bytes = e->bytes;
		d->passed = p->t->ops->passed(p->t->arg, p->owner, dir);
	}
	return e->bytes;
}
