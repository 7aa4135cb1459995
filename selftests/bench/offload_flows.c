/* SPDX-License-Identifier: MIT */
/*
 * Drives offload/ directly, without sockets (descriptors are limited): how fast flows are
 * set up and removed, and what a sweep over all of them costs the loop.
 *
 *   offload_flows [sessions]        (root; makes a network namespace of its own)
 *
 * One line of JSON: sessions, set-ups and removals per second, sweep_ms per 100,000 flows
 * (entries of the table), longest slice in ms.
 */
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../userspace/offload/offload_int.h"

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void must(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "offload_flows: %s failed\n", what);
	exit(1);
}

static void network(void)
{
	must(!unshare(CLONE_NEWNET), "unshare (root?)");
	must(!system("ip link set lo up && ip link add in0 type veth peer name in1 && "
	             "ip link add out0 type veth peer name out1 && ip addr add 10.0.0.1/8 dev in0 "
	             "&& "
	             "ip addr add 172.16.0.1/24 dev out0 && ip link set in0 up && ip link set in1 "
	             "up && "
	             "ip link set out0 up && ip link set out1 up && "
	             "ip neigh add 172.16.0.2 lladdr 02:00:00:00:00:02 dev out0 nud permanent && "
	             "ip neigh add 10.255.255.254 lladdr 02:00:00:00:00:03 dev in0 nud permanent "
	             "&& "
	             "ip route add 11.0.0.0/8 via 10.255.255.254"),
	     "ip");
}

static void ends(uint32_t i, struct l7mp_flow_end *a, struct l7mp_flow_end *b)
{
	memset(a, 0, sizeof(*a));
	memset(b, 0, sizeof(*b));
	a->kind = b->kind = L7MP_FLOW_SOCKET;
	a->l4 = b->l4 = IPPROTO_UDP;
	l7mp_addr_parse(&a->local, "10.0.0.1", 9000);
	l7mp_addr_parse(&a->remote, "11.0.0.0", (uint16_t)(1024 + i % 50));
	a->remote.in.sin_addr.s_addr = htonl(0x0b000001 + i / 50); /* 50 sessions a client */
	l7mp_addr_parse(&b->local, "172.16.0.1", (uint16_t)(1024 + i % 60000));
	l7mp_addr_parse(&b->remote, "172.16.0.2", (uint16_t)(9000 + i / 60000));
}

/* Runs the loop for a while. */
static void on_timer(struct l7mp_timer *t, void *arg)
{
	(void)t;
	l7mp_loop_stop(arg);
}

static void run(struct l7mp_loop *loop, uint64_t ms)
{
	struct l7mp_timer t;

	l7mp_timer_init(&t, on_timer, loop);
	l7mp_timer_start(loop, &t, ms);
	l7mp_loop_run(loop);
	l7mp_timer_stop(loop, &t);
}

int main(int argc, char **argv)
{
	uint32_t n = argc > 1 ? (uint32_t)atoi(argv[1]) : 50000;
	char instance[32], in0[] = "in0", out0[] = "out0";
	char *ifs[] = {in0, out0};
	struct l7mp_admin admin = {.instance = instance,
	                           .offload_ifs = ifs,
	                           .n_offload_ifs = 2,
	                           .limits.max_flows = 2 * n};
	struct l7mp_flow **flows = calloc(n, sizeof(*flows));
	struct l7mp_offload_engine *e;
	struct l7mp_stats stats = {0};
	struct l7mp_loop *loop;
	struct l7mp_error err;
	const struct l7mp_offload *o;
	double t0, added, removed;

	network();
	snprintf(instance, sizeof(instance), "bench%d", getpid());
	l7mp_log_set_level(L7MP_LOG_WARN);
	must(flows && !l7mp_loop_new(&loop), "memory");
	must(!l7mp_offload_new(&(struct l7mp_offload_params){.loop = loop, .stats = &stats}, &e),
	     "engine");
	must(!l7mp_offload_reconfigure(e, &admin, &err) && e->state == OFF_ACTIVE, "offload");
	o = l7mp_offload_ops(e);
	t0 = now();
	for (uint32_t i = 0; i < n; i++) {
		struct l7mp_flow_end a, b;
		int rc;

		ends(i, &a, &b);
		rc = o->add(o->ctx, &a, &b, i, &flows[i]);
		if (rc) {
			fprintf(stderr, "offload_flows: session %u: %s\n", i,
			        l7mp_reason_name((enum l7mp_reason)rc));
			return 1;
		}
	}
	added = now() - t0;
	run(loop, 3500);
	printf("{\"sessions\": %u, \"setups_per_s\": %.0f, \"sweep_entries\": %llu, "
	       "\"sweep_ms_per_100k\": %.1f, \"longest_turn_ms\": %.1f",
	       n, n / added, (unsigned long long)e->sweep.last_entries,
	       (double)e->sweep.last_spent_ns / 1e6 / (double)e->sweep.last_entries * 1e5,
	       (double)l7mp_loop_latency_us(loop, false) / 1e3);
	t0 = now();
	for (uint32_t i = 0; i < n; i++) {
		struct l7mp_flow_counters final[2];

		o->remove(o->ctx, &flows[i], final);
	}
	removed = now() - t0;
	printf(", \"removals_per_s\": %.0f}\n", n / removed);
	l7mp_offload_free(&e);
	free(flows);
	return l7mp_loop_free(&loop) ? 1 : 0;
}
