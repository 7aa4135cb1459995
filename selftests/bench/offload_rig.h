/* SPDX-License-Identifier: MIT */
/*
 * What drives offload/ without sockets: a network of its own (in0, out0 and the other ends in1,
 * out1 of these veths), any number of sessions between a client behind in0 and a server behind
 * out0, a loop.
 */
#pragma once

#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "offload/engine.h"

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
	fprintf(stderr, "%s failed\n", what);
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

struct rig {
	uint32_t n;          /* sessions */
	uint32_t per_client; /* of them for each client, that is for each nexthop */
	struct l7mp_flow **flows;
	struct l7mp_offload_engine *e;
	struct l7mp_loop *loop;
	struct l7mp_stats stats;
};

static void ends(const struct rig *r, uint32_t i, struct l7mp_flow_end *a, struct l7mp_flow_end *b)
{
	memset(a, 0, sizeof(*a));
	memset(b, 0, sizeof(*b));
	a->kind = b->kind = L7MP_FLOW_SOCKET;
	a->l4 = b->l4 = IPPROTO_UDP;
	l7mp_addr_parse(&a->local, "10.0.0.1", 9000);
	l7mp_addr_parse(&a->remote, "11.0.0.0", (uint16_t)(1024 + i % r->per_client));
	a->remote.in.sin_addr.s_addr = htonl(0x0b000001 + i / r->per_client);
	l7mp_addr_parse(&b->local, "172.16.0.1", (uint16_t)(1024 + i % 60000));
	l7mp_addr_parse(&b->remote, "172.16.0.2", (uint16_t)(9000 + i / 60000));
}

static void add(struct rig *r, uint32_t i)
{
	const struct l7mp_offload *o = l7mp_offload_ops(r->e);
	struct l7mp_flow_end a, b;
	int rc;

	ends(r, i, &a, &b);
	rc = o->add(o->ctx, &a, &b, &(struct l7mp_flow_owner){.cookie = i}, &r->flows[i]);
	if (!rc)
		return;
	fprintf(stderr, "session %u: %s\n", i, l7mp_reason_name((enum l7mp_reason)rc));
	exit(1);
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

static void rig_start(struct rig *r, uint32_t n, uint32_t per_client)
{
	char instance[32], in0[] = "in0", out0[] = "out0";
	char *ifs[] = {in0, out0};
	struct l7mp_admin admin = {.instance = instance,
	                           .offload_ifs = ifs,
	                           .n_offload_ifs = 2,
	                           .limits.max_flows = 2 * n};
	struct l7mp_error err;

	memset(r, 0, sizeof(*r));
	r->n = n;
	r->per_client = per_client;
	r->flows = calloc(n, sizeof(struct l7mp_flow *));
	network();
	snprintf(instance, sizeof(instance), "bench%d", getpid());
	l7mp_log_set_level(L7MP_LOG_WARN);
	must(r->flows && !l7mp_loop_new(&r->loop), "memory");
	must(!l7mp_offload_new(&(struct l7mp_offload_params){.loop = r->loop, .stats = &r->stats},
	                       &r->e),
	     "engine");
	must(!l7mp_offload_reconfigure(r->e, &admin, &err) && r->e->state == OFF_ACTIVE, "offload");
}

/* Fails when something is left on the loop. */
static int rig_stop(struct rig *r)
{
	l7mp_offload_free(&r->e);
	free(r->flows);
	return l7mp_loop_free(&r->loop) ? 1 : 0;
}
