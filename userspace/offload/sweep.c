/* SPDX-License-Identifier: MIT */
/*
 * Reading counters: all of them once a second, in batches of the kernel, a slice a
 * turn, so that the loop is never held for long.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "l7mp/log.h"
#include "offload_int.h"

#define EVERY_MS 1000
#define GAP_MS   5    /* between slices: I/O comes first */
#define SLICE    4096 /* entries a slice: about 2 ms */

static uint64_t mono_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000U + (uint64_t)ts.tv_nsec;
}

void off_sweep_clock(struct off_sweep *s, const struct l7mp_loop *loop)
{
	s->clock_ms = (int64_t)l7mp_loop_now(loop) - (int64_t)(mono_ns() / 1000000);
}

/* Sum over the CPUs. The coarse clock may be a little ahead of the loop's. */
static void sum(const struct l7mp_offload_engine *e, const struct l7mp_flow_counter *per_cpu,
                struct l7mp_flow_counters *out)
{
	uint64_t seen = 0, now = l7mp_loop_now(e->loop);
	int64_t ms;

	out->packets = 0;
	out->bytes = 0;
	for (int i = 0; i < e->n_cpus; i++) {
		out->packets += per_cpu[i].packets;
		out->bytes += per_cpu[i].bytes;
		if (per_cpu[i].last_seen > seen)
			seen = per_cpu[i].last_seen;
	}
	ms = (int64_t)(seen / 1000000) + e->sweep.clock_ms;
	if (!seen || ms <= 0)
		out->last_seen_ms = 0;
	else
		out->last_seen_ms = (uint64_t)ms < now ? (uint64_t)ms : now;
}

bool off_counter_read(struct l7mp_offload_engine *e, const struct l7mp_flow_key *key,
                      struct l7mp_flow_counters *out)
{
	off_sweep_clock(&e->sweep, e->loop);
	if (bpf_map_lookup_elem(e->maps.counters, key, e->one))
		return false;
	sum(e, e->one, out);
	return true;
}

/*
 * The table is larger than the caches: what a block of keys will need is asked for
 * ahead, which halves the time.
 */
#define BLOCK 64

static void take_block(struct l7mp_offload_engine *e, uint32_t first, uint32_t n)
{
	struct off_sweep *s = &e->sweep;
	const UT_hash_table *table = e->sides->hh.tbl;
	unsigned hashes[BLOCK], mask = table->num_buckets - 1;

	for (uint32_t i = 0; i < n; i++) {
		HASH_VALUE(&s->keys[first + i], sizeof(s->keys[0]), hashes[i]);
		__builtin_prefetch(&table->buckets[hashes[i] & mask]);
	}
	for (uint32_t i = 0; i < n; i++) {
		const char *head = (const char *)table->buckets[hashes[i] & mask].hh_head;

		for (int line = 0; head && line < 3; line++) /* handle, key */
			__builtin_prefetch(head + 64L * line);
	}
	for (uint32_t i = 0; i < n; i++) {
		struct off_side *side = NULL;

		HASH_FIND_BYHASHVALUE(hh, e->sides, &s->keys[first + i], sizeof(s->keys[0]),
		                      hashes[i], side);
		if (side)
			sum(e, &s->values[(size_t)(first + i) * (size_t)e->n_cpus], &side->now);
	}
}

static void take(struct l7mp_offload_engine *e, uint32_t n)
{
	for (uint32_t i = 0; e->sides && i < n; i += BLOCK)
		take_block(e, i, n - i < BLOCK ? n - i : BLOCK);
	e->sweep.entries += n;
}

static void done(struct l7mp_offload_engine *e, uint64_t now)
{
	struct off_sweep *s = &e->sweep;
	uint64_t next = s->begun_ms + EVERY_MS;

	s->last_spent_ns = s->spent_ns;
	s->last_entries = s->entries;
	s->running = false;
	off_hops_expire(e);
	(void)l7mp_timer_start(e->loop, &s->timer, next > now ? next - now : 1);
}

static void slice(struct l7mp_timer *t, void *arg)
{
	struct l7mp_offload_engine *e = arg;
	struct off_sweep *s = &e->sweep;
	uint64_t start = mono_ns(), now = l7mp_loop_now(e->loop);
	uint32_t n = s->slice;
	bool first = !s->running;
	int rc = 0;

	if (first) {
		s->begun_ms = now;
		s->spent_ns = 0;
		s->entries = 0;
		s->running = true;
	}
	if (!e->n_flows) {
		done(e, now);
		return;
	}
	off_sweep_clock(s, e->loop);
	if (bpf_map_lookup_batch(e->maps.counters, first ? NULL : &s->token, &s->token, s->keys,
	                         s->values, &n, NULL))
		rc = -errno;
	if (!rc || rc == -ENOENT) /* ENOENT: that was the last batch */
		take(e, n);
	s->spent_ns += mono_ns() - start;
	if (rc)
		done(e, now);
	else
		(void)l7mp_timer_start(e->loop, t, GAP_MS);
}

int off_sweep_start(struct l7mp_offload_engine *e)
{
	struct off_sweep *s = &e->sweep;
	size_t cpus = (size_t)e->n_cpus;

	memset(s, 0, sizeof(*s));
	l7mp_timer_init(&s->timer, slice, e);
	s->slice = SLICE;
	s->keys = calloc(SLICE, sizeof(*s->keys));
	s->values = calloc(SLICE, cpus * sizeof(*s->values));
	e->zeros = calloc(cpus, sizeof(*e->zeros));
	e->one = calloc(cpus, sizeof(*e->one));
	if (!s->keys || !s->values || !e->zeros || !e->one) {
		off_sweep_stop(e);
		return -ENOMEM;
	}
	return l7mp_timer_start(e->loop, &s->timer, EVERY_MS);
}

void off_sweep_stop(struct l7mp_offload_engine *e)
{
	struct off_sweep *s = &e->sweep;

	l7mp_timer_stop(e->loop, &s->timer);
	free(s->keys);
	free(s->values);
	free(e->zeros);
	free(e->one);
	s->keys = NULL;
	s->values = NULL;
	e->zeros = e->one = NULL;
}
