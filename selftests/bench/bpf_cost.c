/* SPDX-License-Identifier: MIT */
/*
 * ns per packet of the programs and their references, by BPF_PROG_TEST_RUN: `bpf_cost
 * ROUNDS` prints {"name": [ns per round, ...], ...}.
 *
 * A test run repeats on the same bytes; the programs are measured in a wrapper that makes them
 * another packet each time (cost/next.h), so that a run over N flows goes through all of them. A
 * value is the median of a few long runs. Live runs redirect really, out of a veth, and are dropped
 * behind it.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rig.h"

#define REPEAT     500000
#define RUNS       5
#define LIVE       20000
#define MAX_ROUNDS 100
#define MAX_ROWS   64

struct row {
	char name[48];
	double ns[MAX_ROUNDS];
};

struct bench {
	struct rig rig;
	struct bpf_object *ref;
	int walks[RIG_HOOKS]; /* of the programs in cost/ */
	int ref_walk;         /* of the reference that does the same */
	int next[RIG_HOOKS];  /* what the wrapper alone costs */
	struct row rows[MAX_ROWS];
	int n_rows, round;
};

struct walk { /* as in cost/next.h */
	uint32_t at, mask;
	uint8_t set, pad[3];
};

static const struct {
	uint32_t n;
	const char *name;
} sizes[] = {{1, "1"}, {1024, "1000"}, {131072, "100000"}}; /* at least that many */

static void record(struct bench *b, const char *name, double ns)
{
	int i = 0;

	while (i < b->n_rows && strcmp(b->rows[i].name, name))
		i++;
	if (i == MAX_ROWS)
		tap_bail("too many rows");
	if (i == b->n_rows) {
		b->n_rows++;
		snprintf(b->rows[i].name, sizeof(b->rows[i].name), "%s", name);
	}
	b->rows[i].ns[b->round] = ns;
}

/*
 * Flow i of a set; the sets differ in their second byte. What all flows are rewritten to is one of
 * set 9.
 */
static void flow_packet(const struct bench *b, int family, uint32_t set, uint32_t i,
                        struct packet *p)
{
	memset(p, 0, sizeof(*p));
	p->family = family;
	p->ext = -1;
	p->protocol = 17;
	p->ttl = 64;
	p->payload = 160; /* a voice packet */
	memcpy(p->dmac, b->rig.in_mac, 6);
	memcpy(p->smac, b->rig.out_mac, 6);
	p->saddr[0] = p->daddr[0] = 10;
	p->saddr[1] = (uint8_t)set;
	p->saddr[2] = (uint8_t)(i >> 16);
	p->saddr[3] = (uint8_t)(i >> 8);
	p->daddr[3] = 1;
	p->daddr[15] = p->saddr[15] = 9;
	p->sport = (uint16_t)(1024 + (i & 0xff));
	p->dport = 10000;
}

static void make_flows(const struct bench *b, int family, uint32_t set, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct packet from, to;
		struct l7mp_flow_key key;
		struct l7mp_flow6_action a;

		flow_packet(b, family, set, i, &from);
		flow_packet(b, family, 9, 0, &to);
		rig_key(&from, &key);
		rig_action(&b->rig, &from, &to, &a);
		rig_put(&b->rig, &key, &a);
	}
}

static int by_value(const void *x, const void *y)
{
	return *(const __u32 *)x < *(const __u32 *)y ? -1 : *(const __u32 *)x > *(const __u32 *)y;
}

/* The next run goes through the flows of this set. */
static void walk(const struct bench *b, uint32_t set, uint32_t n)
{
	struct walk w = {.mask = n - 1, .set = (uint8_t)set};
	uint32_t zero = 0;

	for (int hook = 0; hook < RIG_HOOKS; hook++)
		if (bpf_map_update_elem(b->walks[hook], &zero, &w, BPF_ANY))
			tap_bail("walk: %s", strerror(errno));
	if (bpf_map_update_elem(b->ref_walk, &zero, &w, BPF_ANY))
		tap_bail("walk: %s", strerror(errno));
}

/* One row: a program, over n flows of a set. */
static void measure(struct bench *b, const char *name, int prog, bool xdp, int want, int family,
                    uint32_t set, uint32_t n)
{
	struct __sk_buff skb = {.ifindex = b->rig.in, .ingress_ifindex = b->rig.in};
	struct xdp_md md = {.ingress_ifindex = b->rig.in};
	static uint8_t in[PACKET_MAX], out[PACKET_MAX];
	__u32 ns[RUNS];

	walk(b, set, n);
	for (int i = 0; i < RUNS; i++) {
		struct packet p;

		flow_packet(b, family, set, 0, &p);
		LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = in,
		            .data_size_in = (__u32)packet_build(&p, in), .data_out = out,
		            .data_size_out = sizeof(out), .repeat = REPEAT,
		            .ctx_in = xdp ? (void *)&md : (void *)&skb,
		            .ctx_size_in = xdp ? sizeof(md) : sizeof(skb));
		md.data_end = o.data_size_in;
		if (bpf_prog_test_run_opts(prog, &o))
			tap_bail("%s: %s", name, strerror(errno));
		if ((int)o.retval != want)
			tap_bail("%s: returned %d instead of %d", name, (int)o.retval, want);
		ns[i] = o.duration;
	}
	qsort(ns, RUNS, sizeof(ns[0]), by_value);
	record(b, name, ns[RUNS / 2]);
}

static int ref_prog(const struct bench *b, const char *name)
{
	struct bpf_program *p = bpf_object__find_program_by_name(b->ref, name);

	if (!p)
		tap_bail("no program %s", name);
	return bpf_program__fd(p);
}

static void live(struct bench *b, const char *name, int prog, int family, uint32_t set, uint32_t n)
{
	struct xdp_md md = {.ingress_ifindex = b->rig.in};
	static uint8_t in[PACKET_MAX];
	struct packet p;
	__u32 ns[9];

	walk(b, set, n);
	for (int i = 0; i < 9; i++) {
		flow_packet(b, family, set, 0, &p);
		LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = in,
		            .data_size_in = (__u32)packet_build(&p, in), .ctx_in = &md,
		            .ctx_size_in = sizeof(md), .repeat = LIVE,
		            .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = 64);
		md.data_end = o.data_size_in;
		if (bpf_prog_test_run_opts(prog, &o))
			tap_bail("%s: %s", name, strerror(errno));
		ns[i] = o.duration;
	}
	qsort(ns, 9, sizeof(ns[0]), by_value);
	record(b, name, ns[2]);
}

static void references(struct bench *b)
{
	static const struct {
		const char *prog;
		bool xdp;
		int want;
	} all[] = {
	        {"xdp_floor", true, XDP_PASS},          {"xdp_redirect", true, XDP_REDIRECT},
	        {"xdp_rewrite", true, XDP_REDIRECT},    {"xdp_rewrite_fib", true, XDP_REDIRECT},
	        {"xdp_table", true, XDP_REDIRECT},      {"xdp_table_count", true, XDP_REDIRECT},
	        {"tc_table", false, TC_ACT_REDIRECT},   {"tc_table_count", false, TC_ACT_REDIRECT},
	        {"tc_floor", false, TC_ACT_OK},         {"tc_redirect", false, TC_ACT_REDIRECT},
	        {"tc_rewrite", false, TC_ACT_REDIRECT}, {"tc_rewrite_fib", false, TC_ACT_REDIRECT}};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		measure(b, all[i].prog, ref_prog(b, all[i].prog), all[i].xdp, all[i].want, 4, 1, 1);
}

static void round_of_rows(struct bench *b)
{
	char name[48];

	references(b);
	measure(b, "xdp_next", b->next[RIG_XDP], true, XDP_PASS, 4, 1, 1);
	measure(b, "tc_next", b->next[RIG_TC], false, TC_ACT_OK, 4, 1, 1);
	for (uint32_t s = 0; s < 3; s++) {
		snprintf(name, sizeof(name), "xdp_table_%s", sizes[s].name);
		measure(b, name, ref_prog(b, "xdp_table_next"), true, XDP_REDIRECT, 4, s + 1,
		        sizes[s].n);
	}
	for (int family = 4; family <= 6; family += 2)
		for (uint32_t s = 0; s < 3; s++) {
			snprintf(name, sizeof(name), "xdp_v%d_%s", family, sizes[s].name);
			measure(b, name, b->rig.prog_xdp, true, XDP_REDIRECT, family, s + 1,
			        sizes[s].n);
			snprintf(name, sizeof(name), "tc_v%d_%s", family, sizes[s].name);
			measure(b, name, b->rig.prog_tc, false, TC_ACT_REDIRECT, family, s + 1,
			        sizes[s].n);
		}
	live(b, "live_redirect", ref_prog(b, "xdp_redirect"), 4, 1, 1);
	live(b, "live_rewrite", ref_prog(b, "xdp_rewrite"), 4, 1, 1);
	live(b, "live_rewrite_fib", ref_prog(b, "xdp_rewrite_fib"), 4, 1, 1);
	for (int family = 4; family <= 6; family += 2)
		for (uint32_t s = 0; s < 3; s++) {
			snprintf(name, sizeof(name), "live_v%d_%s", family, sizes[s].name);
			live(b, name, b->rig.prog_xdp, family, s + 1, sizes[s].n);
		}
}

struct reference_rewrite { /* as in reference.bpf.c */
	uint32_t saddr, daddr;
	uint16_t sport, dport;
	uint8_t dmac[6], smac[6];
	uint32_t csum_l3, csum_l4;
	uint32_t slot;
};

/* The flows of the programs that have a table. */
static void put_references(const struct bench *b, const struct reference_rewrite *any)
{
	int table = bpf_object__find_map_fd_by_name(b->ref, "table");
	struct reference_rewrite r = *any;

	r.slot = 0;
	for (uint32_t s = 0; s < 3; s++)
		for (uint32_t i = 0; i < sizes[s].n; i++, r.slot++) {
			uint64_t key[2] = {0};
			uint16_t ports[2];
			struct packet p;

			flow_packet(b, 4, s + 1, i, &p);
			ports[0] = htons(p.sport);
			ports[1] = htons(p.dport);
			memcpy(&key[0], p.saddr, 4);
			memcpy((uint8_t *)key + 4, p.daddr, 4);
			memcpy(&key[1], ports, 4);
			for (int n = 0; bpf_map_update_elem(table, key, &r, BPF_ANY); n++)
				if (errno != ENOMEM || n == 100 || usleep(10000))
					tap_bail("table: %s", strerror(errno));
		}
}

static void load_references(struct bench *b, const char *path)
{
	struct reference_rewrite r = {.csum_l3 = htons(0xfeff), .csum_l4 = 0xffff};
	uint32_t zero = 0, ifs[2] = {b->rig.out, b->rig.in};
	struct packet p;
	int fd;

	b->ref = bpf_object__open(path);
	if (!b->ref ||
	    bpf_map__set_initial_value(bpf_object__find_map_by_name(b->ref, ".rodata"), ifs,
	                               sizeof(ifs)) ||
	    bpf_object__load(b->ref))
		tap_bail("%s: %s", path, strerror(errno));
	b->ref_walk = bpf_object__find_map_fd_by_name(b->ref, "walks");
	flow_packet(b, 4, 1, 0, &p);
	memcpy(&r.saddr, p.saddr, 4);
	memcpy(&r.daddr, p.daddr, 4);
	memcpy(r.dmac, p.dmac, 6);
	memcpy(r.smac, p.smac, 6);
	r.sport = htons(p.sport);
	r.dport = htons(p.dport);
	fd = bpf_object__find_map_fd_by_name(b->ref, "rewrites");
	if (bpf_map_update_elem(fd, &zero, &r, BPF_ANY))
		tap_bail("rewrites: %s", strerror(errno));
	put_references(b, &r);
	fd = bpf_object__find_map_fd_by_name(b->ref, "devices");
	if (bpf_map_update_elem(fd, &b->rig.out, &b->rig.out, BPF_ANY))
		tap_bail("devices: %s", strerror(errno));
	/* For the FIB look-up; and the other end of the pair, where live frames end. */
	if (system("ip addr add 10.0.0.2/24 dev l7out && "
	           "ip neigh add 10.0.0.1 lladdr 02:00:00:00:00:01 dev l7out && "
	           "echo 1 >/proc/sys/net/ipv4/conf/all/forwarding"))
		tap_bail("can't set up a route");
	if (bpf_xdp_attach((int)b->rig.in, ref_prog(b, "xdp_sink"), XDP_FLAGS_DRV_MODE, NULL))
		tap_bail("can't attach the sink: %s", strerror(errno));
}

int main(int argc, char **argv)
{
	static struct bench b;
	int rounds = argc > 1 ? atoi(argv[1]) : 5;

	if (argc != 3 || rounds < 1 || rounds > MAX_ROUNDS) {
		fprintf(stderr, "usage: bpf_cost ROUNDS reference.bpf.o\n");
		return 2;
	}
	rig_init(&b.rig, 4 * sizes[2].n);
	for (int hook = 0; hook < RIG_HOOKS; hook++) {
		b.walks[hook] = rig_map(&b.rig, hook, "walks");
		b.next[hook] = rig_prog(&b.rig, hook, hook == RIG_XDP ? "xdp_next" : "tc_next");
	}
	load_references(&b, argv[2]);
	for (int family = 4; family <= 6; family += 2) {
		for (uint32_t i = 0; i < 3; i++)
			make_flows(&b, family, i + 1, sizes[i].n);
	}
	for (b.round = 0; b.round < rounds; b.round++)
		round_of_rows(&b);
	for (int i = 0; i < b.n_rows; i++) {
		printf("%s\"%s\": [", i ? ",\n " : "{", b.rows[i].name);
		for (int r = 0; r < rounds; r++)
			printf("%s%.2f", r ? ", " : "", b.rows[i].ns[r]);
		putchar(']');
	}
	puts("}");
	return 0;
}
