/* SPDX-License-Identifier: MIT */
/*
 * ns per packet of the programs and their references, by BPF_PROG_TEST_RUN: `bpf_cost
 * ROUNDS` prints {"name": [ns per round, ...], ...}.
 *
 * A test run repeats on the same bytes, so every flow rewrites its packet into one
 * of the next flow of a random cycle: a run over N flows walks from one to the other. As
 * each step takes one from the TTL, a run has fewer than 255 repeats, and a value is the mean
 * of the faster half of many runs. Live runs (real redirects out of a veth) restore the TTL
 * where the frames end.
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

#include "rig.h"

#define REPEAT     250
#define RUNS       120
#define RUNS_XDP   30 /* each waits for a grace period: the kernel patches its dispatcher */
#define LIVE       20000
#define FLOWS_MAX  100000
#define MAX_ROUNDS 100
#define MAX_ROWS   64

struct row {
	char name[48];
	double ns[MAX_ROUNDS];
};

struct bench {
	struct rig rig;
	struct bpf_object *ref;
	uint32_t *next; /* the cycle */
	struct row rows[MAX_ROWS];
	int n_rows, round;
	uint32_t random;
};

static uint32_t rnd(struct bench *b, uint32_t below)
{
	b->random = b->random * 1664525 + 1013904223;
	return (uint32_t)(((uint64_t)b->random * below) >> 32);
}

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

/* Flow i of a set; the sets of 1, 1,000 and 100,000 flows differ in their second byte. */
static void flow_packet(const struct bench *b, int family, uint32_t set, uint32_t i,
                        struct packet *p)
{
	memset(p, 0, sizeof(*p));
	p->family = family;
	p->ext = -1;
	p->protocol = 17;
	p->ttl = 255;
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
	p->dport = (uint16_t)(10000 + i % 20000);
}

static void make_flows(struct bench *b, int family, uint32_t set, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		b->next[i] = i;
	for (uint32_t i = n - 1; n > 1 && i; i--) { /* Sattolo: one cycle through all */
		uint32_t j = rnd(b, i), t = b->next[i];

		b->next[i] = b->next[j];
		b->next[j] = t;
	}
	for (uint32_t i = 0; i < n; i++) {
		struct packet from, to;
		struct l7mp_flow_key key;
		struct l7mp_flow_action a;

		flow_packet(b, family, set, i, &from);
		flow_packet(b, family, set, b->next[i], &to);
		rig_key(&from, &key);
		rig_action(&b->rig, &from, &to, &a);
		rig_put(&b->rig, &key, &a);
	}
}

static int by_value(const void *x, const void *y)
{
	return *(const __u32 *)x < *(const __u32 *)y ? -1 : *(const __u32 *)x > *(const __u32 *)y;
}

/* One row: a program, over n flows of a set. */
static void measure(struct bench *b, const char *name, int prog, bool xdp, int want, int family,
                    uint32_t set, uint32_t n)
{
	struct __sk_buff skb = {.ifindex = b->rig.in, .ingress_ifindex = b->rig.in};
	static uint8_t in[PACKET_MAX], out[PACKET_MAX];
	__u32 ns[RUNS];
	double sum = 0;
	int runs = xdp ? RUNS_XDP : RUNS;

	for (int i = 0; i < runs; i++) {
		struct packet p;

		flow_packet(b, family, set, rnd(b, n), &p);
		LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = in,
		            .data_size_in = (__u32)packet_build(&p, in), .data_out = out,
		            .data_size_out = sizeof(out), .repeat = REPEAT,
		            .ctx_in = xdp ? NULL : &skb, .ctx_size_in = xdp ? 0 : sizeof(skb));
		if (bpf_prog_test_run_opts(prog, &o))
			tap_bail("%s: %s", name, strerror(errno));
		if ((int)o.retval != want)
			tap_bail("%s: returned %d instead of %d", name, (int)o.retval, want);
		ns[i] = o.duration;
	}
	qsort(ns, (size_t)runs, sizeof(ns[0]), by_value);
	for (int i = 0; i < runs / 2; i++)
		sum += ns[i];
	record(b, name, sum / (runs / 2));
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
	static uint8_t in[PACKET_MAX];
	struct packet p;
	__u32 ns[9];

	for (int i = 0; i < 9; i++) {
		flow_packet(b, family, set, rnd(b, n), &p);
		LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = in,
		            .data_size_in = (__u32)packet_build(&p, in), .repeat = LIVE,
		            .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = 64);
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
	        {"tc_floor", false, TC_ACT_OK},         {"tc_redirect", false, TC_ACT_REDIRECT},
	        {"tc_rewrite", false, TC_ACT_REDIRECT}, {"tc_rewrite_fib", false, TC_ACT_REDIRECT}};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		measure(b, all[i].prog, ref_prog(b, all[i].prog), all[i].xdp, all[i].want, 4, 1, 1);
}

static void round_of_rows(struct bench *b)
{
	static const uint32_t sizes[] = {1, 1000, FLOWS_MAX};
	char name[48];

	references(b);
	for (int family = 4; family <= 6; family += 2) {
		/* One flow only: after the grace period a walk would measure cold caches. */
		snprintf(name, sizeof(name), "xdp_v%d_1", family);
		measure(b, name, b->rig.prog_xdp, true, XDP_REDIRECT, family, 1, 1);
		for (uint32_t s = 0; s < 3; s++) {
			snprintf(name, sizeof(name), "tc_v%d_%u", family, sizes[s]);
			measure(b, name, b->rig.prog_tc, false, TC_ACT_REDIRECT, family, s + 1,
			        sizes[s]);
		}
	}
	live(b, "live_redirect", ref_prog(b, "xdp_redirect"), 4, 1, 1);
	live(b, "live_rewrite", ref_prog(b, "xdp_rewrite"), 4, 1, 1);
	live(b, "live_rewrite_fib", ref_prog(b, "xdp_rewrite_fib"), 4, 1, 1);
	for (int family = 4; family <= 6; family += 2)
		for (uint32_t s = 0; s < 3; s++) {
			snprintf(name, sizeof(name), "live_v%d_%u", family, sizes[s]);
			live(b, name, b->rig.prog_xdp, family, s + 1, sizes[s]);
		}
}

struct reference_rewrite { /* as in reference.bpf.c */
	uint32_t saddr, daddr;
	uint16_t sport, dport;
	uint8_t dmac[6], smac[6];
	uint32_t csum_l3, csum_l4;
};

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
	static struct bench b = {.random = 1};
	int rounds = argc > 1 ? atoi(argv[1]) : 5;

	if (argc != 3 || rounds < 1 || rounds > MAX_ROUNDS) {
		fprintf(stderr, "usage: bpf_cost ROUNDS reference.bpf.o\n");
		return 2;
	}
	b.next = calloc(FLOWS_MAX, sizeof(*b.next));
	if (!b.next)
		return 1;
	rig_init(&b.rig, L7MP_FLOWS_DEFAULT);
	load_references(&b, argv[2]);
	for (int family = 4; family <= 6; family += 2) {
		make_flows(&b, family, 1, 1);
		make_flows(&b, family, 2, 1000);
		make_flows(&b, family, 3, FLOWS_MAX);
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
