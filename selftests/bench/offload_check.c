/* SPDX-License-Identifier: MIT */
/*
 * The counter poll under change: flows are added and removed, read at once or not, while slices are
 * in progress, and their counters rise in the map as the programs would make them rise. No flow may
 * ever show more than was counted for it, or less than it showed before; what it showed last must
 * be exact; and a poll or two after the last packet all are. Then the network changes so that flows
 * get new actions and leave in the same slice: nothing may be left in the map.
 *
 *   offload_check [sessions [seconds [room]]]   (root; makes a network namespace of its own)
 *
 * room: entries a batch may have to begin with; with 1 most of the kernel's buckets don't fit.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "offload_rig.h"

#define STEPS 200 /* a ms, some of which is the poll's */

struct check {
	struct rig r;
	struct l7mp_timer timer;
	uint64_t (*counted)[2]; /* packets, by direction */
	uint64_t (*shown)[2];
	struct l7mp_flow_counter *values;
	int n_cpus;
	uint64_t adds, removals, packets, wrong;
};

static void wrong(struct check *c, const char *what, uint32_t i, int dir, uint64_t shown)
{
	if (c->wrong++ < 10)
		fprintf(stderr, "%s: session %u direction %d shows %llu, counted %llu\n", what, i,
		        dir, (unsigned long long)shown, (unsigned long long)c->counted[i][dir]);
}

/* As if a packet had passed on some processor. Bytes are 100 a packet. */
static void pass(struct check *c, uint32_t i, int dir)
{
	const uint32_t *key = &c->r.flows[i]->dir[dir].action.slot;
	int cpu = rand() % c->n_cpus;

	must(!bpf_map_lookup_elem(c->r.e->table.maps.counters, key, c->values),
	     "look-up of a counter");
	c->values[cpu].packets++;
	c->values[cpu].bytes += 100;
	c->values[cpu].last_seen = (uint64_t)(now() * 1e9);
	must(!bpf_map_update_elem(c->r.e->table.maps.counters, key, c->values, BPF_EXIST),
	     "update of a counter");
	c->counted[i][dir]++;
	c->packets++;
}

static void look(struct check *c, uint32_t i, bool fresh)
{
	const struct l7mp_offload *o = l7mp_offload_ops(c->r.e);
	struct l7mp_flow_counters n[2];

	o->read(o->ctx, c->r.flows[i], fresh, n);
	for (int dir = 0; dir < 2; dir++) {
		if (n[dir].packets > c->counted[i][dir] || n[dir].bytes != 100 * n[dir].packets)
			wrong(c, "too much", i, dir, n[dir].packets);
		if (n[dir].packets < c->shown[i][dir])
			wrong(c, "less than before", i, dir, n[dir].packets);
		if (fresh && n[dir].packets != c->counted[i][dir])
			wrong(c, "not exact", i, dir, n[dir].packets);
		c->shown[i][dir] = n[dir].packets;
	}
}

static void leave(struct check *c, uint32_t i)
{
	const struct l7mp_offload *o = l7mp_offload_ops(c->r.e);
	struct l7mp_flow_counters final[2];

	o->remove(o->ctx, &c->r.flows[i], final);
	for (int dir = 0; dir < 2; dir++)
		if (final[dir].packets != c->counted[i][dir])
			wrong(c, "at its end", i, dir, final[dir].packets);
	c->removals++;
}

static void enter(struct check *c, uint32_t i)
{
	memset(c->counted[i], 0, sizeof(c->counted[i]));
	memset(c->shown[i], 0, sizeof(c->shown[i]));
	add(&c->r, i);
	c->adds++;
}

static void step(struct l7mp_timer *t, void *arg)
{
	struct check *c = arg;

	for (int n = 0; n < STEPS; n++) {
		uint32_t i = (uint32_t)rand() % c->r.n;
		int what = rand() % 100;

		if (!c->r.flows[i]) {
			enter(c, i);
		} else if (what < 15) {
			leave(c, i);
			if (what <
			    10) /* the same key again, while its old counters may be in progress */
				enter(c, i);
		} else if (what < 70) {
			pass(c, i, what & 1);
			if (what < 35) /* it shows more at once than a slice that is in progress */
				look(c, i, true);
		} else {
			look(c, i, what < 80);
		}
	}
	l7mp_timer_start(c->r.loop, t, 1);
}

/* All that the poll must have read by now. */
static void exact(struct check *c)
{
	const struct l7mp_offload *o = l7mp_offload_ops(c->r.e);

	for (uint32_t i = 0; i < c->r.n; i++) {
		struct l7mp_flow_counters n[2];

		if (!c->r.flows[i])
			continue;
		o->read(o->ctx, c->r.flows[i], false, n);
		for (int dir = 0; dir < 2; dir++)
			if (n[dir].packets != c->counted[i][dir] ||
			    (n[dir].packets && !n[dir].last_seen_ms))
				wrong(c, "after the last poll", i, dir, n[dir].packets);
	}
}

static uint64_t in_map(const struct check *c)
{
	struct l7mp_flow4_key key, next;
	const void *from = NULL;
	uint64_t n = 0;

	for (; !bpf_map_get_next_key(c->r.e->table.maps.flows4, from, &next); from = &key, n++)
		key = next;
	return n;
}

/* New actions for the way to the clients wait to be written when the way to the server goes. */
static void change_and_leave(struct check *c, uint32_t n)
{
	for (uint32_t i = 0; i < c->r.n; i++)
		if (c->r.flows[i])
			leave(c, i);
	for (uint32_t i = 0; i < n && i < c->r.n; i++)
		enter(c, i);
	run(c->r.loop, 200); /* they have begun */
	must(!system("ip neigh replace 10.255.255.254 lladdr 02:00:00:00:00:04 dev in0 nud "
	             "permanent "
	             "&& ip neigh del 172.16.0.2 dev out0"),
	     "ip");
	/* In parts: `ip` may have taken longer than one, by the loop's clock. */
	for (int i = 0; i < 40 && (!i || c->r.e->table.n_flows); i++)
		run(c->r.loop, 50);
	if (c->r.e->table.n_flows || in_map(c)) {
		fprintf(stderr, "%llu flows, %llu entries in the map when all had to leave\n",
		        (unsigned long long)c->r.e->table.n_flows, (unsigned long long)in_map(c));
		c->wrong++;
	}
}

int main(int argc, char **argv)
{
	unsigned seconds = argc > 2 ? (unsigned)atoi(argv[2]) : 5;
	uint32_t n = argc > 1 ? (uint32_t)atoi(argv[1]) : 10000;
	struct check c = {0};

	rig_start(&c.r, n, 50);
	c.n_cpus = libbpf_num_possible_cpus();
	c.counted = calloc(n, sizeof(*c.counted));
	c.shown = calloc(n, sizeof(*c.shown));
	c.values = calloc((size_t)c.n_cpus, sizeof(*c.values));
	must(c.counted && c.shown && c.values, "memory");
	l7mp_timer_init(&c.timer, step, &c);
	if (argc > 3)
		c.r.e->table.counter_poll.room = (uint32_t)atoi(argv[3]);
	l7mp_timer_start(c.r.loop, &c.timer, 1);
	run(c.r.loop, seconds * 1000);
	l7mp_timer_stop(c.r.loop, &c.timer);
	run(c.r.loop, 3000);
	must(c.r.e->table.counter_poll.last_entries == 2 * c.r.e->table.n_flows, "a poll of all");
	exact(&c);
	change_and_leave(&c, 200);
	printf("{\"added\": %llu, \"removed\": %llu, \"packets\": %llu, \"slices\": %llu, "
	       "\"wrong\": %llu}\n",
	       (unsigned long long)c.adds, (unsigned long long)c.removals,
	       (unsigned long long)c.packets, (unsigned long long)c.r.e->table.counter_poll.serial,
	       (unsigned long long)c.wrong);
	free(c.counted);
	free(c.shown);
	free(c.values);
	return rig_stop(&c.r) || c.wrong || !c.packets;
}
