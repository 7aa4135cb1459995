/* SPDX-License-Identifier: MIT */
/*
 * The counter poll reads the counters of all used slots once a second with batched map look-ups.
 * Most of the time is the kernel's copying, so a worker thread reads a slice and adds up its CPUs,
 * and the loop only stores the sums, a slice per iteration.
 *
 * A slice may be outdated when the loop gets it: a slot may belong to a flow added since (see
 * `born`), or its counters may have been read since. Counters only rise, so a lower value is older.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "l7mp/log.h"
#include "table.h"

#define EVERY_MS   1000
#define GAP_MS     5  /* between slices: I/O comes first */
#define FAILED_MAX 20 /* consecutive failed slices that end a poll */
#define AHEAD      16 /* distance of prefetching, in directions */

struct sum {
	uint64_t packets, bytes, last_seen_ns;
};

/* Owned by the engine while idle; by the worker, then by its callback, while `away`. */
struct off_counter_slice {
	uv_work_t work;
	struct off_table *tbl; /* NULL: stopped while `away` */
	bool away;
	int fd; /* a duplicate: the engine's may be closed and its number reused while `away` */
	int n_cpus;
	uint32_t *keys; /* OFF_SLOT_BLOCK entries, as in the two arrays below */
	struct l7mp_flow_counter *values;
	struct sum *sums;

	/* request */
	uint32_t first; /* first slot */
	uint32_t n;     /* number of slots */
	uint64_t serial;
	/* result */
	int rc;
	uint64_t took_ns;
};

static void update_clock(struct off_counter_poll *s, const struct l7mp_loop *loop)
{
	s->clock_ms = (int64_t)l7mp_loop_now(loop) - (int64_t)(off_mono_ns() / 1000000);
}

static void add_up(const struct l7mp_flow_counter *per_cpu, int n_cpus, struct sum *out)
{
	out->packets = out->bytes = out->last_seen_ns = 0;
	for (int i = 0; i < n_cpus; i++) {
		out->packets += per_cpu[i].packets;
		out->bytes += per_cpu[i].bytes;
		if (per_cpu[i].last_seen > out->last_seen_ns)
			out->last_seen_ns = per_cpu[i].last_seen;
	}
}

/* Converts last_seen to loop time, but not later than now: the clocks differ a little. */
static void put(const struct off_table *tbl, uint64_t now, const struct sum *sum,
                struct l7mp_flow_counters *out)
{
	int64_t ms = (int64_t)(sum->last_seen_ns / 1000000) + tbl->counter_poll.clock_ms;

	out->packets = sum->packets;
	out->bytes = sum->bytes;
	if (!sum->last_seen_ns || ms <= 0)
		out->last_seen_ms = 0;
	else
		out->last_seen_ms = (uint64_t)ms < now ? (uint64_t)ms : now;
}

int off_counter_clear(struct off_table *tbl, const struct off_direction *dir)
{
	return bpf_map_update_elem(tbl->maps.counters, &dir->action.slot, tbl->zeros, BPF_ANY)
	               ? -errno
	               : 0;
}

void off_counter_read(struct off_table *tbl, struct off_direction *dir)
{
	struct sum sum;

	if (!dir->has_slot || bpf_map_lookup_elem(tbl->maps.counters, &dir->action.slot, tbl->one))
		return;
	update_clock(&tbl->counter_poll, tbl->loop);
	add_up(tbl->one, tbl->n_cpus, &sum);
	put(tbl, l7mp_loop_now(tbl->loop), &sum, &dir->now);
}

/* ---- worker thread ---- */

static void read_slice(uv_work_t *work)
{
	struct off_counter_slice *r = work->data;
	const struct sched_param prio = {0};
	uint64_t start = off_mono_ns();
	uint32_t before = r->first - 1, last, n = r->n;

	/*
	 * A SCHED_BATCH thread doesn't preempt others when it is woken; otherwise it would preempt
	 * the loop, which wakes it. The policy stays for the thread's life. Not if the daemon runs
	 * under a real-time policy: a loop waiting for this thread would then never let it run.
	 */
	if (sched_getscheduler(0) == SCHED_OTHER)
		(void)sched_setscheduler(0, SCHED_BATCH, &prio);
	r->rc = 0;
	/* The kernel reads from the key after `before`. ENOENT: the end of the array. */
	if (bpf_map_lookup_batch(r->fd, r->first ? &before : NULL, &last, r->keys, r->values, &n,
	                         NULL) &&
	    errno != ENOENT) {
		r->rc = -errno;
		n = 0;
	}
	if (!r->rc && n < r->n)
		r->rc = -EIO; /* an array map has all its keys */
	for (uint32_t i = 0; !r->rc && i < r->n; i++)
		add_up(&r->values[(size_t)i * (size_t)r->n_cpus], r->n_cpus, &r->sums[i]);
	r->took_ns = off_mono_ns() - start;
}

static void read_free(struct off_counter_slice *r)
{
	if (!r)
		return;
	if (r->fd >= 0)
		close(r->fd);
	free(r->keys);
	free(r->values);
	free(r->sums);
	free(r);
}

/* ---- loop thread ---- */

static void take_one(struct off_table *tbl, uint64_t now, const struct off_counter_slice *r,
                     uint32_t i)
{
	struct off_direction *dir = tbl->slots.dirs[r->first + i];
	const struct sum *sum = &r->sums[i];

	if (!dir)
		return;
	tbl->counter_poll.entries++;
	if (dir->now.packets == sum->packets && dir->now.bytes == sum->bytes)
		return;
	if (sum->packets < dir->now.packets || sum->bytes < dir->now.bytes ||
	    dir->born >= r->serial)
		return;
	put(tbl, now, sum, &dir->now);
}

/* Stores a slice's sums. Prefetches, because the directions don't fit into the CPU's caches. */
static void take(struct off_table *tbl, const struct off_counter_slice *r)
{
	uint64_t now = l7mp_loop_now(tbl->loop);

	update_clock(&tbl->counter_poll, tbl->loop);
	for (uint32_t i = 0; i < r->n; i++) {
		if (i + AHEAD < r->n && tbl->slots.dirs[r->first + i + AHEAD])
			__builtin_prefetch(&tbl->slots.dirs[r->first + i + AHEAD]->now);
		take_one(tbl, now, r, i);
	}
}

/* Sets the next slice, skipping blocks without used slots. False: the poll is complete. */
static bool next_slice(const struct off_table *tbl, struct off_counter_slice *r)
{
	const struct off_slots *s = &tbl->slots;
	uint32_t first = tbl->counter_poll.next, end;

	while (first < s->fresh && !s->used[first / OFF_SLOT_BLOCK])
		first = (first / OFF_SLOT_BLOCK + 1) * OFF_SLOT_BLOCK;
	if (first >= s->fresh)
		return false;
	end = (first / OFF_SLOT_BLOCK + 1) * OFF_SLOT_BLOCK;
	if (end > s->fresh)
		end = s->fresh;
	r->first = first;
	r->n = end - first < tbl->counter_poll.room ? end - first : tbl->counter_poll.room;
	return true;
}

static void done(struct off_table *tbl)
{
	struct off_counter_poll *s = &tbl->counter_poll;
	uint64_t now = l7mp_loop_now(tbl->loop), next = s->begun_ms + EVERY_MS;

	s->last_spent_ns = s->spent_ns;
	s->last_read_ns = s->read_ns;
	s->last_entries = s->entries;
	s->running = false;
	tbl->polled(tbl->arg);
	(void)l7mp_timer_start(tbl->loop, &s->timer, next > now ? next - now : 1);
}

/* A failed slice (no memory) is retried. True: too many failures in succession. */
static bool failed(struct off_counter_poll *s, int rc)
{
	s->failed = rc ? s->failed + 1 : 0;
	if (s->failed < FAILED_MAX)
		return false;
	l7mp_log_warn(OFF_MODULE, "can't read the counters of the flows: %s", strerror(-rc));
	return true;
}

static void on_read(uv_work_t *work, int status)
{
	struct off_counter_slice *r = work->data;
	struct off_table *tbl = r->tbl;
	struct off_counter_poll *s;
	uint64_t start = off_mono_ns();

	r->away = false;
	if (!tbl) {
		read_free(r);
		return;
	}
	s = &tbl->counter_poll;
	if (status)
		r->rc = status;
	if (!r->rc) {
		take(tbl, r);
		s->next = r->first + r->n;
	}
	s->read_ns += r->took_ns;
	s->spent_ns += off_mono_ns() - start;
	if (failed(s, r->rc))
		done(tbl);
	else
		(void)l7mp_timer_start(tbl->loop, &s->timer, GAP_MS);
}

static void slice(struct l7mp_timer *t, void *arg)
{
	struct off_table *tbl = arg;
	struct off_counter_poll *s = &tbl->counter_poll;
	struct off_counter_slice *r = s->read;
	uint64_t start = off_mono_ns();

	(void)t;
	if (!s->running) {
		s->begun_ms = l7mp_loop_now(tbl->loop);
		s->spent_ns = s->read_ns = s->entries = 0;
		s->failed = 0;
		s->next = 0;
		s->running = true;
	}
	if (!next_slice(tbl, r)) {
		done(tbl);
		return;
	}
	r->serial = ++s->serial;
	r->away = true;
	if (uv_queue_work(l7mp_loop_uv(tbl->loop), &r->work, read_slice, on_read)) {
		read_slice(&r->work);
		on_read(&r->work, 0);
		return;
	}
	s->spent_ns += off_mono_ns() - start;
}

static struct off_counter_slice *read_new(struct off_table *tbl)
{
	struct off_counter_slice *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->work.data = r;
	r->tbl = tbl;
	r->n_cpus = tbl->n_cpus;
	r->fd = fcntl(tbl->maps.counters, F_DUPFD_CLOEXEC, 3);
	r->keys = calloc(OFF_SLOT_BLOCK, sizeof(*r->keys));
	r->values = calloc((size_t)OFF_SLOT_BLOCK * (size_t)r->n_cpus, sizeof(*r->values));
	r->sums = calloc(OFF_SLOT_BLOCK, sizeof(*r->sums));
	if (r->fd < 0 || !r->keys || !r->values || !r->sums) {
		read_free(r);
		return NULL;
	}
	return r;
}

int off_counter_poll_start(struct off_table *tbl)
{
	struct off_counter_poll *s = &tbl->counter_poll;
	size_t cpus = (size_t)tbl->n_cpus;

	memset(s, 0, sizeof(*s));
	l7mp_timer_init(&s->timer, slice, tbl);
	s->room = OFF_SLOT_BLOCK;
	tbl->zeros = calloc(cpus, sizeof(*tbl->zeros));
	tbl->one = calloc(cpus, sizeof(*tbl->one));
	s->read = read_new(tbl);
	if (!tbl->zeros || !tbl->one || !s->read || l7mp_timer_reserve(tbl->loop, &s->timer)) {
		off_counter_poll_stop(tbl);
		return -ENOMEM;
	}
	return l7mp_timer_start(tbl->loop, &s->timer, EVERY_MS);
}

void off_counter_poll_stop(struct off_table *tbl)
{
	struct off_counter_poll *s = &tbl->counter_poll;

	l7mp_timer_give_back(tbl->loop, &s->timer);
	if (s->read && s->read->away) {
		s->read->tbl = NULL;
		(void)uv_cancel((uv_req_t *)&s->read->work); /* the callback runs in any case */
	} else {
		read_free(s->read);
	}
	s->read = NULL;
	free(tbl->zeros);
	free(tbl->one);
	tbl->zeros = tbl->one = NULL;
}
