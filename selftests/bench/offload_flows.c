/* SPDX-License-Identifier: MIT */
/*
 * Drives offload/ directly, without sockets (descriptors are limited): how fast flows are
 * set up and removed, and what a sweep over all of them costs the loop.
 *
 *   offload_flows [SESSIONS]        (root; makes a network namespace of its own)
 *
 * One line of JSON: sessions, set-ups and removals per second, sweep_ms per 100,000 flows
 * (entries of the table), longest slice in ms.
 *
 *   offload_flows SESSIONS INSTANCE native|tc 4|6
 *
 * In the namespace it is called in, which has in0 and out0 as below: sets the flows up, says so in
 * one line and serves them until its standard input ends (fastpath_live.py).
 */
#include <net/if.h>
#include <poll.h>
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

static void ends_v6(uint32_t i, struct l7mp_flow_end *a, struct l7mp_flow_end *b)
{
	uint32_t client = htonl(1 + i / 50);

	l7mp_addr_parse(&a->local, "fd00:10::1", 9000);
	l7mp_addr_parse(&a->remote, "fd00:11::", (uint16_t)(1024 + i % 50));
	memcpy(&a->remote.in6.sin6_addr.s6_addr[12], &client, 4);
	l7mp_addr_parse(&b->local, "fd00:16::1", (uint16_t)(1024 + i % 60000));
	l7mp_addr_parse(&b->remote, "fd00:16::2", (uint16_t)(16000 + i / 60000));
}

static void ends(uint32_t i, bool v6, struct l7mp_flow_end *a, struct l7mp_flow_end *b)
{
	memset(a, 0, sizeof(*a));
	memset(b, 0, sizeof(*b));
	a->kind = b->kind = L7MP_FLOW_SOCKET;
	a->l4 = b->l4 = IPPROTO_UDP;
	if (v6) {
		ends_v6(i, a, b);
		return;
	}
	l7mp_addr_parse(&a->local, "10.0.0.1", 9000);
	l7mp_addr_parse(&a->remote, "11.0.0.0", (uint16_t)(1024 + i % 50));
	a->remote.in.sin_addr.s_addr = htonl(0x0b000001 + i / 50); /* 50 sessions a client */
	l7mp_addr_parse(&b->local, "172.16.0.1", (uint16_t)(1024 + i % 60000));
	l7mp_addr_parse(&b->remote, "172.16.0.2", (uint16_t)(16000 + i / 60000));
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

struct rig {
	char instance[64];
	struct l7mp_loop *loop;
	struct l7mp_stats stats;
	struct l7mp_offload_engine *engine;
	struct l7mp_flow **flows;
	uint32_t n;
};

static void start(struct rig *r, enum l7mp_offload_mode mode)
{
	char in0[] = "in0", out0[] = "out0";
	char *ifs[] = {in0, out0};
	struct l7mp_admin admin = {.instance = r->instance,
	                           .offload_ifs = ifs,
	                           .n_offload_ifs = 2,
	                           .offload_mode = mode,
	                           .limits.max_flows = 2 * r->n};
	struct l7mp_error err;

	l7mp_log_set_level(L7MP_LOG_WARN);
	r->flows = calloc(r->n, sizeof(*r->flows));
	must(r->flows && !l7mp_loop_new(&r->loop), "memory");
	must(!l7mp_offload_new(&(struct l7mp_offload_params){.loop = r->loop, .stats = &r->stats},
	                       &r->engine),
	     "engine");
	must(!l7mp_offload_reconfigure(r->engine, &admin, &err) && r->engine->state == OFF_ACTIVE,
	     "offload");
}

/* Seconds that it took. */
static double add_all(struct rig *r, bool v6)
{
	const struct l7mp_offload *o = l7mp_offload_ops(r->engine);
	double t0 = now();

	for (uint32_t i = 0; i < r->n; i++) {
		struct l7mp_flow_end a, b;
		int rc;

		ends(i, v6, &a, &b);
		rc = o->add(o->ctx, &a, &b, i, &r->flows[i]);
		if (rc) {
			fprintf(stderr, "offload_flows: session %u: %s\n", i,
			        l7mp_reason_name((enum l7mp_reason)rc));
			exit(1);
		}
	}
	return now() - t0;
}

static double remove_all(struct rig *r)
{
	const struct l7mp_offload *o = l7mp_offload_ops(r->engine);
	double t0 = now();

	for (uint32_t i = 0; i < r->n; i++) {
		struct l7mp_flow_counters final[2];

		o->remove(o->ctx, &r->flows[i], final);
	}
	return now() - t0;
}

static int stop(struct rig *r)
{
	l7mp_offload_free(&r->engine);
	free(r->flows);
	return l7mp_loop_free(&r->loop) ? 1 : 0;
}

static int hold(struct rig *r, bool v6)
{
	struct pollfd end = {.fd = 0, .events = POLLIN};

	(void)add_all(r, v6);
	puts("{}");
	fflush(stdout);
	while (poll(&end, 1, 0) == 0)
		run(r->loop, 200);
	(void)remove_all(r);
	return stop(r);
}

static int measure(struct rig *r)
{
	double added = add_all(r, false);
	const struct off_sweep *s = &r->engine->sweep;

	run(r->loop, 3500);
	printf("{\"sessions\": %u, \"setups_per_s\": %.0f, \"sweep_entries\": %llu, "
	       "\"sweep_ms_per_100k\": %.1f, \"longest_turn_ms\": %.1f",
	       r->n, r->n / added, (unsigned long long)s->last_entries,
	       (double)s->last_spent_ns / 1e6 / (double)s->last_entries * 1e5,
	       (double)l7mp_loop_latency_us(r->loop, false) / 1e3);
	printf(", \"removals_per_s\": %.0f}\n", r->n / remove_all(r));
	return stop(r);
}

int main(int argc, char **argv)
{
	struct rig r = {.n = argc > 1 ? (uint32_t)atoi(argv[1]) : 50000};

	must(r.n > 0 && (argc <= 2 || argc == 5), "reading the arguments");
	if (argc == 5) {
		snprintf(r.instance, sizeof(r.instance), "%s", argv[2]);
		start(&r,
		      strcmp(argv[3], "tc") == 0 ? L7MP_MODE_TC : L7MP_MODE_NATIVE);
		return hold(&r, argv[4][0] == '6');
	}
	network();
	snprintf(r.instance, sizeof(r.instance), "bench%d", getpid());
	start(&r, L7MP_MODE_AUTO);
	return measure(&r);
}
