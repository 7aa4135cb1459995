/* SPDX-License-Identifier: MIT */
/*
 * Drives offload/ directly, without sockets (descriptors are limited): how fast flows are
 * set up and removed, and what a counter poll of all of them costs the loop.
 *
 *   offload_flows [sessions]        (root; makes a network namespace of its own)
 *
 * One line of JSON: sessions, set-ups and removals per second, a poll's time in the loop and in
 * the worker thread per 100,000 flows (entries of the table), longest loop iteration in ms.
 */
#include "offload_rig.h"

int main(int argc, char **argv)
{
	const struct l7mp_offload *o;
	double t0, added, removed;
	struct rig r;

	rig_start(&r, argc > 1 ? (uint32_t)atoi(argv[1]) : 50000, 50);
	o = l7mp_offload_ops(r.e);
	t0 = now();
	for (uint32_t i = 0; i < r.n; i++)
		add(&r, i);
	added = now() - t0;
	run(r.loop, 1100);
	(void)l7mp_loop_latency_us(r.loop, true); /* the iterations that set up are not meant */
	run(r.loop, 2400);
	for (int i = 0; i < 10 && !r.e->table.counter_poll.last_entries; i++)
		run(r.loop, 1000);
	must(r.e->table.counter_poll.last_entries > 0, "the counter poll");
	printf("{\"sessions\": %u, \"setups_per_s\": %.0f, \"poll_entries\": %llu, "
	       "\"poll_ms_per_100k\": %.1f, \"worker_ms_per_100k\": %.1f, "
	       "\"longest_turn_ms\": %.1f",
	       r.n, r.n / added, (unsigned long long)r.e->table.counter_poll.last_entries,
	       (double)r.e->table.counter_poll.last_spent_ns / 1e6 /
	               (double)r.e->table.counter_poll.last_entries * 1e5,
	       (double)r.e->table.counter_poll.last_read_ns / 1e6 /
	               (double)r.e->table.counter_poll.last_entries * 1e5,
	       (double)l7mp_loop_latency_us(r.loop, false) / 1e3);
	t0 = now();
	for (uint32_t i = 0; i < r.n; i++) {
		struct l7mp_flow_counters final[2];

		o->remove(o->ctx, &r.flows[i], final);
	}
	removed = now() - t0;
	printf(", \"removals_per_s\": %.0f}\n", r.n / removed);
	return rig_stop(&r);
}
