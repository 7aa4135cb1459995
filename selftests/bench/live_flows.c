/* SPDX-License-Identifier: MIT */
/*
 * Flows without sessions, for live_gen.c: live_flows SESSIONS INSTANCE native|tc 4|6
 *
 * In the namespace it is called in, which has in0 and out0 of fastpath_live.py: sets the flows up
 * through offload/, says so in one line and serves them until its standard input ends.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "live.h"
#include "offload/engine.h"

#define EGRESS_PORTS 60000

static void must(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "live_flows: %s failed\n", what);
	exit(1);
}

/* Clients as live_gen.c makes them; the sink's port goes up when the local ports are used up. */
static void ends(uint32_t i, bool v6, struct l7mp_flow_end *a, struct l7mp_flow_end *b)
{
	uint16_t client = (uint16_t)(LIVE_PORT_BASE + i % LIVE_PER_CLIENT);
	uint16_t local = (uint16_t)(1024 + i % EGRESS_PORTS);
	uint16_t sink = (uint16_t)(LIVE_SINK_PORT + i / EGRESS_PORTS);
	uint32_t number = i / LIVE_PER_CLIENT;

	memset(a, 0, sizeof(*a));
	memset(b, 0, sizeof(*b));
	a->kind = b->kind = L7MP_FLOW_SOCKET;
	a->l4 = b->l4 = IPPROTO_UDP;
	l7mp_addr_parse(&a->local, v6 ? "fd00:10::1" : "10.0.0.1", LIVE_GW_PORT);
	l7mp_addr_parse(&a->remote, v6 ? "fd00:11::" : "11.0.0.1", client);
	if (v6) {
		number = htonl(number + 1);
		memcpy(&a->remote.in6.sin6_addr.s6_addr[12], &number, 4);
	} else {
		a->remote.in.sin_addr.s_addr = htonl(0x0b000001 + number);
	}
	l7mp_addr_parse(&b->local, v6 ? "fd00:16::1" : "172.16.0.1", local);
	l7mp_addr_parse(&b->remote, v6 ? "fd00:16::2" : "172.16.0.2", sink);
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct pollfd end = {.fd = 0, .events = POLLIN};
	static bool said;

	/* The flows begin in the first loop iterations; after so long all have. */
	if (!said)
		puts("{}");
	fflush(stdout);
	said = true;
	if (poll(&end, 1, 0) != 0)
		l7mp_loop_stop(arg);
	else
		l7mp_timer_start(arg, t, 100);
}

static void serve(struct l7mp_loop *loop)
{
	struct l7mp_timer t;

	l7mp_timer_init(&t, on_timer, loop);
	l7mp_timer_start(loop, &t, 100);
	l7mp_loop_run(loop);
	l7mp_timer_stop(loop, &t);
}

static void add(const struct l7mp_offload *o, uint32_t i, bool v6, struct l7mp_flow **flow)
{
	struct l7mp_flow_end a, b;
	int rc;

	ends(i, v6, &a, &b);
	rc = o->add(o->ctx, &a, &b, &(struct l7mp_flow_owner){.cookie = i}, flow);
	if (rc) {
		fprintf(stderr, "live_flows: session %u: %s\n", i,
		        l7mp_reason_name((enum l7mp_reason)rc));
		exit(1);
	}
}

int main(int argc, char **argv)
{
	uint32_t n = argc == 5 ? (uint32_t)atoi(argv[1]) : 0;
	char in0[] = "in0", out0[] = "out0";
	char *ifs[] = {in0, out0};
	struct l7mp_admin admin = {
	        .offload_ifs = ifs, .n_offload_ifs = 2, .limits.max_flows = 2 * n};
	struct l7mp_flow **flows = calloc(n + 1, sizeof(*flows));
	struct l7mp_flow_counters final[2];
	struct l7mp_offload_engine *e;
	struct l7mp_stats stats = {0};
	const struct l7mp_offload *o;
	struct l7mp_loop *loop;
	struct l7mp_error err;

	must(n > 0, "reading the arguments");
	admin.instance = argv[2];
	admin.offload_mode = strcmp(argv[3], "tc") == 0 ? L7MP_MODE_TC : L7MP_MODE_NATIVE;
	l7mp_log_set_level(L7MP_LOG_WARN);
	must(flows && !l7mp_loop_new(&loop), "memory");
	must(!l7mp_offload_new(&(struct l7mp_offload_params){.loop = loop, .stats = &stats}, &e),
	     "engine");
	must(!l7mp_offload_reconfigure(e, &admin, &err) && e->state == OFF_ACTIVE, "offload");
	o = l7mp_offload_ops(e);
	for (uint32_t i = 0; i < n; i++)
		add(o, i, argv[4][0] == '6', &flows[i]);
	serve(loop);
	for (uint32_t i = 0; i < n; i++)
		o->remove(o->ctx, &flows[i], final);
	l7mp_offload_free(&e);
	free(flows);
	return l7mp_loop_free(&loop) ? 1 : 0;
}
