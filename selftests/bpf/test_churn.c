/* SPDX-License-Identifier: MIT */
/*
 * l7mp-test: timeout=300 timeout_full=1800
 *
 * No packet leaves with another flow's rewrite, whatever happens to the table meanwhile. One
 * processor adds, moves and removes flows as fast as system calls go. On the other, packets of
 * 1,000 flows go through the programs; each names its flow in its payload. What is redirected must
 * be, byte for byte, what one value of that flow makes of the packet: a value is never mixed with
 * another one either. What is passed up must be unchanged.
 *
 * The addresses and ports of the flows are neighbours, as they are in practice. Most changes are
 * made to a few flows whose packets are just being sent, in batches, so that the kernel gives the
 * memory of one of them to the next within some 100 ns.
 *
 * L7MP_CHURN=packets for each program; L7MP_SEED repeats the choices, not their timing.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/pkt_cls.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "rig.h"

#define FLOWS 1000
#define HOT   4 /* flows that are changed in a batch, and whose packets are sent meanwhile */
#define BATCH 64

struct changes {
	uint64_t n;
	unsigned failed;
};

static struct rig rig;
static atomic_uint hot;   /* the first of the HOT flows */
static atomic_bool ended; /* all packets are sent */
static struct l7mp_flow_key keys[FLOWS];

static uint32_t rnd(uint64_t *state, uint32_t below)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return (uint32_t)((*state >> 16) % below);
}

/* Stay on one processor, if there are two. */
static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	(void)sched_setaffinity(0, sizeof(set), &set);
}

/* ---- flows ---- */

/* 10.0.0.1:5004 to port 9000, 10.0.0.3:5004 to port 9002 and so on: four ports by 250 hosts. */
static void flow_packet(uint32_t i, struct packet *p)
{
	memset(p, 0, sizeof(*p));
	p->family = i % 8 == 7 ? 6 : 4;
	p->ext = -1;
	p->protocol = 17;
	p->ttl = 64;
	p->payload = 32;
	p->sport = 5004;
	p->dport = (uint16_t)(9000 + i % 4 * 2);
	memcpy(p->dmac, rig.in_mac, 6);
	memcpy(p->smac, "\x02\x11\x22\x33\x44\x55", 6);
	memcpy(p->saddr, "\x0a\x00\x00\x00 and the rest", 16);
	memcpy(p->daddr, "\x0a\x01\x00\x01 and the rest", 16);
	p->saddr[p->family == 4 ? 3 : 15] = (uint8_t)(1 + i / 4);
}

/* Every field that a flow writes names the flow, and which of its values it is. */
static void flow_rewrite(uint32_t i, uint8_t value, struct packet *p)
{
	const uint8_t id[4] = {(uint8_t)(i >> 8), (uint8_t)i, value, 0};

	p->ttl--;
	p->frag = 0x4000; /* DF */
	for (int at = 0; at < 16; at += 4) {
		memcpy(p->saddr + at, id, 4);
		memcpy(p->daddr + at, id, 4);
	}
	p->saddr[3] = 1;
	p->daddr[3] = 2;
	p->sport = (uint16_t)(10000 + i);
	p->dport = (uint16_t)(20000 + i + value * 7);
	memcpy(p->dmac, "\x02\xaa", 2);
	memcpy(p->dmac + 2, id, 4);
	memcpy(p->smac, "\x02\xbb", 2);
	memcpy(p->smac + 2, id, 4);
}

static void flow_action(uint32_t i, uint8_t value, struct l7mp_flow6_action *a)
{
	struct packet from, to;

	flow_packet(i, &from);
	to = from;
	flow_rewrite(i, value, &to);
	rig_action(&rig, &from, &to, a);
	a->action.slot = i;
}

/* ---- changes ---- */

/* Updates of a few flows in turn: each takes the memory that the one before gave back. */
static void move_hot(struct changes *c, uint32_t first, uint64_t *state)
{
	static struct l7mp_flow6_action actions6[BATCH];
	static struct l7mp_flow_action actions4[BATCH];
	static struct l7mp_flow_key some6[BATCH];
	static struct l7mp_flow4_key some4[BATCH];
	__u32 n4 = 0, n6 = 0;

	for (uint32_t i = 0; i < BATCH; i++) {
		uint32_t flow = (first + rnd(state, HOT)) % FLOWS;
		struct l7mp_flow6_action a;
		const void *key;

		flow_action(flow, (uint8_t)rnd(state, 256), &a);
		if (rig_table(&rig, &keys[flow], &some4[n4], &key) == rig.flows4) {
			actions4[n4++] = a.action;
		} else {
			some6[n6] = keys[flow];
			actions6[n6++] = a;
		}
	}
	c->n += n4 + n6;
	if (n4 && bpf_map_update_batch(rig.flows4, some4, actions4, &n4, NULL) && errno != ENOMEM)
		c->failed++;
	if (n6 && bpf_map_update_batch(rig.flows6, some6, actions6, &n6, NULL) && errno != ENOMEM)
		c->failed++;
}

static void change_one(struct changes *c, uint32_t flow, uint64_t *state)
{
	struct l7mp_flow6_action a;
	struct l7mp_flow4_key key4;
	const void *key;
	int map = rig_table(&rig, &keys[flow], &key4, &key);

	c->n++;
	if (rnd(state, 3) == 0) {
		(void)bpf_map_delete_elem(map, key);
		return;
	}
	flow_action(flow, (uint8_t)rnd(state, 256), &a);
	if (bpf_map_update_elem(map, key, &a, BPF_ANY) && errno != ENOMEM)
		c->failed++;
}

static void *churn(void *arg)
{
	struct changes *c = arg;
	uint64_t state = 88172645463325252U;

	pin(1);
	while (!ended) {
		uint32_t first = hot;

		move_hot(c, first, &state);
		for (uint32_t i = 0; i < HOT; i++)
			change_one(c, (first + rnd(&state, HOT)) % FLOWS, &state);
		change_one(c, rnd(&state, FLOWS), &state);
	}
	return NULL;
}

/* ---- packets ---- */

struct sent {
	uint64_t n, redirected, passed;
	uint64_t of[FLOWS]; /* redirected ones */
	unsigned wrong;
};

static size_t build(uint32_t i, const char *name, bool rewritten, uint8_t value,
                    uint8_t out[static PACKET_MAX])
{
	struct packet p;

	flow_packet(i, &p);
	if (rewritten)
		flow_rewrite(i, value, &p);
	p.bytes = (const uint8_t *)name;
	return packet_build(&p, out);
}

static void check(struct sent *s, uint32_t i, const char *name, const struct rig_run *run,
                  enum rig_hook hook)
{
	const size_t value_at = 14 + (keys[i].family == L7MP_FAMILY_V4 ? 12 : 8) + 2;
	uint8_t right[PACKET_MAX];
	size_t len = run->in_len;

	if (run->action == (hook == RIG_XDP ? XDP_REDIRECT : TC_ACT_REDIRECT)) {
		len = build(i, name, true, run->out[value_at], right);
		s->redirected++;
		s->of[i]++;
	} else {
		memcpy(right, run->in, len);
		s->passed++;
	}
	if (run->out_len == len && !memcmp(run->out, right, len))
		return;
	if (s->wrong++ > 3)
		return;
	tap_note("%s", name);
	tap_dump("in", run->in, run->in_len);
	tap_dump("out", run->out, run->out_len);
}

static void send_packets(struct sent *s, enum rig_hook hook, uint64_t packets, uint64_t *state)
{
	static struct rig_run run;
	uint8_t frame[PACKET_MAX];
	char name[40]; /* the payload is its first 32 bytes */

	for (s->n = 0; s->n < packets; s->n++) {
		uint32_t i = hot + rnd(state, HOT);

		if (s->n % 512 == 0)
			hot = rnd(state, FLOWS);
		i = rnd(state, 8) ? i % FLOWS : rnd(state, FLOWS);
		snprintf(name, sizeof(name), "flow %-4u packet %-14llu", i,
		         (unsigned long long)s->n);
		run.in = frame;
		run.in_len = build(i, name, false, 0, frame);
		if (rig_send(&rig, hook, &run))
			tap_bail("test run: %s", strerror(errno));
		check(s, i, name, &run, hook);
	}
}

static void through(enum rig_hook hook, uint64_t packets, uint64_t *state)
{
	const char *name = hook == RIG_XDP ? "xdp" : "tc";
	uint64_t verdicts[L7MP_VERDICT_COUNT];
	struct changes c = {0};
	struct sent s = {0};
	uint64_t before[FLOWS];
	unsigned miscounted = 0;
	pthread_t thread;

	ended = false;
	hot = 0;
	for (uint32_t i = 0; i < FLOWS; i++) {
		struct l7mp_flow6_action a;

		flow_action(i, 0, &a);
		rig_put_as_it_is(&rig, &keys[i], &a);
	}
	rig_verdicts_start(&rig);
	for (uint32_t i = 0; i < FLOWS; i++)
		before[i] = rig_slot(&rig, i).packets;
	if (pthread_create(&thread, NULL, churn, &c))
		tap_bail("no thread");
	send_packets(&s, hook, packets, state);
	ended = true;
	pthread_join(thread, NULL);
	rig_verdicts(&rig, verdicts);
	for (uint32_t i = 0; i < FLOWS; i++)
		miscounted += rig_slot(&rig, i).packets - before[i] != s.of[i];
	tap_note("%s: %llu packets, %llu redirected; %llu changes; %llu times a value was replaced "
	         "while it was read",
	         name, (unsigned long long)s.n, (unsigned long long)s.redirected,
	         (unsigned long long)c.n, (unsigned long long)verdicts[L7MP_VERDICT_PASS_STALE]);
	tap_result(!s.wrong, "%s: none of %llu packets left with another flow's rewrite", name,
	           (unsigned long long)s.n);
	tap_result(!miscounted, "%s: each was counted in the slot of its own flow", name);
	tap_result(!c.failed && c.n > FLOWS && s.redirected > s.n / 4 && s.passed > 0,
	           "%s: flows were added, moved and removed meanwhile", name);
}

int main(void)
{
	const char *seed = getenv("L7MP_SEED"), *count = getenv("L7MP_CHURN");
	uint64_t packets = test_mode_full() ? 10000000 : 400000;
	uint64_t state = seed ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL) * 2654435761U + 1;

	if (count)
		packets = strtoull(count, NULL, 10);
	tap_note("L7MP_SEED=%llu", (unsigned long long)state);
	rig_init(&rig, 4 * FLOWS);
	pin(0);
	for (uint32_t i = 0; i < FLOWS; i++) {
		struct packet p;

		flow_packet(i, &p);
		rig_key(&p, &keys[i]);
	}
	through(RIG_XDP, packets, &state);
	through(RIG_TC, packets, &state);
	return tap_done();
}
