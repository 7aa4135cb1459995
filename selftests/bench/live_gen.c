/* SPDX-License-Identifier: MIT */
/*
 * Live frames through a gateway, as a NIC would hand them over: live_gen SRC_NS DST_NS live.bpf.o
 *
 * A lane is a gateway namespace with two veth pairs: frames are made here, redirected into the end
 * that is in SRC_NS, come out at the gateway's in0 (native XDP, or as skbs), leave by its out0 and
 * are counted and dropped at the end in DST_NS. Addresses are those of live_flows.c. The caller
 * pins this process to one core; all of a run is done on it.
 *
 * One command a line on the standard input, one line of JSON for each on the standard output:
 *
 *   lane GW_NS S_IF D_IF xdp|tc|drop [OBJECT PROGRAM]   a lane: the way it is counted (drop: at
 *                             in0), a program of reference.bpf.o to attach at in0. {"lane": N}
 *   pins N DIR                where the instance has pinned its maps
 *   entries N                 of the flow table
 *   local N FLOWS SIZE WINDOW PACKETS SINK_PORT    as run, by sockets of SRC_NS (live_local.c)
 *   run N 4|6 FLOWS SIZE WINDOW BATCH PACKETS SINK_PORT    SIZE: UDP payload
 */
#include "bench.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "l7mp/abi.h"
#include "live_frame.h"
#include "live_gen.h"

#define STALL_NS 50000000ull
#define STALLS   10

struct lane {
	char gw[64], source_name[IFNAMSIZ];
	int source, sink, in, out; /* interface indexes, each in its namespace */
	uint8_t in_mac[ETH_ALEN];
	int verdicts, flows4, flows6, frames, counters; /* pinned maps; -1: none */
};

struct totals {
	uint64_t verdicts[L7MP_VERDICT_COUNT], packets, bytes;
};

static struct lane lanes[LIVE_LANES];
static int n_lanes;
static const char *src_ns, *dst_ns;
static struct bpf_object *obj;
static volatile struct live_conf *conf;
static volatile struct live_state *state;

static int map_fd(struct bpf_object *o, const char *name)
{
	int fd = bpf_object__find_map_fd_by_name(o, name);

	if (fd < 0)
		DIE("map %s", name);
	return fd;
}

static int prog_fd(struct bpf_object *o, const char *name)
{
	struct bpf_program *p = bpf_object__find_program_by_name(o, name);

	if (!p)
		DIE("program %s", name);
	return bpf_program__fd(p);
}

static int ifindex(const char *ns, const char *name)
{
	int i;

	enter_netns(ns);
	i = (int)if_nametoindex(name);
	if (!i)
		DIE("%s in %s", name, ns);
	return i;
}

static void mac_of(const char *name, uint8_t mac[ETH_ALEN])
{
	struct ifreq r = {0};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &r))
		DIE("link address of %s", name);
	close(fd);
	memcpy(mac, r.ifr_hwaddr.sa_data, ETH_ALEN);
}

/* ---- lanes ---- */

static void attach_xdp(int ifi, int fd)
{
	if (bpf_xdp_attach(ifi, fd, XDP_FLAGS_DRV_MODE, NULL))
		DIE("XDP");
}

static void attach_tc(int ifi, int fd)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifi, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = fd);

	if (bpf_tc_hook_create(&hook) || bpf_tc_attach(&hook, &opts))
		DIE("tc");
}

/* Into the gateway's in0. The object stays loaded: its maps are in use. */
static void attach_reference(const struct lane *l, const char *path, const char *name)
{
	struct bpf_object *o = bpf_object__open(path);
	uint32_t ifs[2] = {(uint32_t)l->out, (uint32_t)l->in}, zero = 0;
	struct reference_rewrite r;

	enter_netns(l->gw);
	if (!o ||
	    bpf_map__set_initial_value(bpf_object__find_map_by_name(o, ".rodata"), ifs,
	                               sizeof(ifs)) ||
	    bpf_object__load(o))
		DIE("%s", path);
	frame_rewrite(&r);
	if (bpf_map_update_elem(map_fd(o, "rewrites"), &zero, &r, BPF_ANY) ||
	    bpf_map_update_elem(map_fd(o, "devices"), &l->out, &l->out, BPF_ANY))
		DIE("maps of %s", path);
	if (strncmp(name, "tc", 2) == 0)
		attach_tc(l->in, prog_fd(o, name));
	else
		attach_xdp(l->in, prog_fd(o, name));
}

static void cmd_lane(const char *args)
{
	struct lane *l = &lanes[n_lanes];
	char s[IFNAMSIZ], d[IFNAMSIZ], sink[8], path[512] = "", prog[64] = "";

	errno = EINVAL;
	if (n_lanes == LIVE_LANES ||
	    sscanf(args, "%63s %15s %15s %7s %511s %63s", l->gw, s, d, sink, path, prog) < 4)
		DIE("lane %s", args);
	l->verdicts = l->flows4 = l->flows6 = l->frames = l->counters = -1;
	l->in = ifindex(l->gw, "in0");
	mac_of("in0", l->in_mac);
	l->out = ifindex(l->gw, "out0");
	if (strcmp(sink, "drop") == 0)
		attach_xdp(l->in, prog_fd(obj, "live_sink_xdp"));
	l->sink = ifindex(dst_ns, d);
	if (strcmp(sink, "tc") == 0)
		attach_tc(l->sink, prog_fd(obj, "live_sink_tc"));
	else if (strcmp(sink, "xdp") == 0)
		attach_xdp(l->sink, prog_fd(obj, "live_sink_xdp"));
	if (*prog)
		attach_reference(l, path, prog);
	l->source = ifindex(src_ns, s);
	memcpy(l->source_name, s, sizeof(s));
	if (bpf_map_update_elem(map_fd(obj, "lanes"), &n_lanes, &l->source, BPF_ANY))
		DIE("devmap");
	printf("{\"lane\": %d}\n", n_lanes++);
}

static int pinned(const char *dir, const char *name)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = bpf_obj_get(path);
	if (fd < 0)
		DIE("%s", path);
	return fd;
}

static struct lane *lane_of(int i)
{
	errno = EINVAL;
	if (i < 0 || i >= n_lanes)
		DIE("lane %d", i);
	return &lanes[i];
}

static void cmd_pins(const char *args)
{
	char dir[256];
	struct lane *l;
	int i;

	errno = EINVAL;
	if (sscanf(args, "%d %255s", &i, dir) != 2)
		DIE("pins %s", args);
	l = lane_of(i);
	l->verdicts = pinned(dir, L7MP_MAP_VERDICTS);
	l->flows4 = pinned(dir, L7MP_MAP_FLOWS4);
	l->flows6 = pinned(dir, L7MP_MAP_FLOWS6);
	l->frames = pinned(dir, L7MP_MAP_FRAMES);
	l->counters = pinned(dir, L7MP_MAP_COUNTERS);
	puts("{}");
}

/* ---- counters ---- */

/* Goes through a table by batches: the values of `per` units each are for the caller to add up. */
static uint64_t walk(int fd, size_t value_size, size_t per, struct totals *t)
{
	enum { BATCH = 16384 };
	struct l7mp_frame_key *keys = malloc(BATCH * sizeof(*keys)); /* the largest */
	uint8_t *values = malloc(BATCH * value_size * per);
	uint32_t token = 0, n;
	uint64_t entries = 0;
	bool first = true;
	int rc;

	if (!keys || !values)
		DIE("memory");
	do {
		n = BATCH;
		rc = bpf_map_lookup_batch(fd, first ? NULL : &token, &token, keys, values, &n,
		                          NULL);
		if (rc && errno != ENOENT)
			DIE("reading a table");
		first = false;
		entries += n;
		for (size_t i = 0; t && i < n * per; i++) {
			struct l7mp_flow_counter c;

			memcpy(&c, values + i * value_size, sizeof(c));
			t->packets += c.packets;
			t->bytes += c.bytes;
		}
	} while (!rc);
	free(keys);
	free(values);
	return entries;
}

static void cmd_entries(const char *args)
{
	struct lane *l = lane_of(atoi(args));

	printf("{\"entries\": %llu}\n",
	       l->flows4 < 0
	               ? 0ull
	               : (unsigned long long)(walk(l->flows4, sizeof(struct l7mp_flow_action), 1,
	                                           NULL) +
	                                      walk(l->flows6, sizeof(struct l7mp_flow6_action), 1,
	                                           NULL) +
	                                      walk(l->frames, sizeof(struct l7mp_frame_action), 1,
	                                           NULL)));
}

static void read_totals(const struct lane *l, struct totals *t)
{
	int cpus = libbpf_num_possible_cpus();
	uint64_t values[256];

	memset(t, 0, sizeof(*t));
	if (l->verdicts < 0)
		return;
	if (cpus < 1 || cpus > 256)
		DIE("%d CPUs", cpus);
	for (uint32_t i = 0; i < L7MP_VERDICT_COUNT; i++) {
		if (bpf_map_lookup_elem(l->verdicts, &i, values))
			DIE("verdicts");
		for (int c = 0; c < cpus; c++)
			t->verdicts[i] += values[c];
	}
	walk(l->counters, sizeof(struct l7mp_flow_counter), (size_t)cpus, t);
}

/* ---- a run ---- */

struct run {
	struct lane *lane;
	int family;
	uint32_t flows, size, window, batch;
	uint64_t packets;
	int sink_port;
};

static void prepare(const struct run *r, const uint8_t *frame)
{
	bool v6 = r->family == 6;

	memset((void *)state, 0, sizeof(*state));
	conf->limit = r->packets;
	conf->lane = (uint32_t)(r->lane - lanes);
	conf->n_flows = r->flows;
	conf->window = r->window;
	conf->base = v6 ? 1 : 0x0b000001;
	conf->l3_sum = v6 ? 0 : frame_fold(frame_sum_words(frame + ETH_HLEN, 20));
	conf->l4_sum = frame_udp_sum(frame, v6);
	conf->sink_port = htons((uint16_t)(r->sink_port & LIVE_SINK_MASK));
	conf->v6 = v6;
	memcpy((void *)conf->headers, frame, LIVE_HEADERS_MAX);
}

/*
 * Until every packet has come, or been written off: those that don't come in 50 ms; not too often.
 */
static void generate(const struct run *r, const uint8_t *frame, size_t len)
{
	uint64_t seen = 0, since = now_ns();
	int stalls = 0;
	int prog = prog_fd(obj, "live_gen");

	while (state->sunk + state->lost < r->packets && stalls < STALLS) {
		uint64_t left = r->packets - state->sent;
		LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = frame, .data_size_in = (uint32_t)len,
		            .repeat = left > r->batch ? (int)left : (int)r->batch,
		            .batch_size = r->batch, .flags = BPF_F_TEST_XDP_LIVE_FRAMES);

		if (left && bpf_prog_test_run_opts(prog, &o))
			DIE("live frames");
		if (!left)
			usleep(20); /* for what the kernel has left to a thread of its own */
		if (state->sunk != seen) {
			seen = state->sunk;
			since = now_ns();
		} else if (now_ns() - since > STALL_NS) {
			state->lost = state->sent - state->sunk;
			stalls++;
			since = now_ns();
		}
	}
}

static void report(const struct totals *before, const struct totals *after)
{
	uint64_t passed = 0, end = state->end_ns;

	for (int i = L7MP_VERDICT_PASS_NO_FLOW; i < L7MP_VERDICT_COUNT; i++)
		passed += after->verdicts[i] - before->verdicts[i];
	if (end < state->start_ns) /* the last ones did not come */
		end = now_ns();
	printf("{\"ns\": %.2f, \"sent\": %llu, \"sunk\": %llu, \"lost\": %llu, \"odd\": %llu, "
	       "\"forwarded\": %lu, \"passed\": %lu, \"flow_packets\": %lu, "
	       "\"flow_bytes\": %lu, \"checksum\": \"%s\"}\n",
	       (double)(end - state->start_ns) / (double)(state->sunk ? state->sunk : 1),
	       state->sent, state->sunk, state->lost, state->odd,
	       after->verdicts[L7MP_VERDICT_FORWARDED] - before->verdicts[L7MP_VERDICT_FORWARDED],
	       passed, after->packets - before->packets, after->bytes - before->bytes,
	       state->sample_len ? frame_state((const uint8_t *)state->sample, state->sample_len)
	                         : "none");
}

static void measure(const struct run *r, bool local)
{
	static uint8_t frame[FRAME_MAX];
	static struct totals before, after;
	size_t len = frame_build(r->lane->in_mac, r->family == 6, r->size, frame);
	struct local_load l = {.device = r->lane->source_name,
	                       .flows = r->flows,
	                       .size = r->size,
	                       .window = r->window,
	                       .packets = r->packets,
	                       .state = state};

	errno = EINVAL;
	if (r->size > 1472)
		DIE("%u bytes", r->size);
	prepare(r, frame);
	read_totals(r->lane, &before);
	enter_netns(src_ns);
	if (local)
		local_send(&l);
	else
		generate(r, frame, len);
	read_totals(r->lane, &after);
	report(&before, &after);
}

static void cmd_run(const char *args)
{
	struct run r;
	int lane;

	errno = EINVAL;
	if (sscanf(args, "%d %d %u %u %u %u %lu %d", &lane, &r.family, &r.flows, &r.size, &r.window,
	           &r.batch, &r.packets, &r.sink_port) != 8)
		DIE("run %s", args);
	r.lane = lane_of(lane);
	measure(&r, false);
}

static void cmd_local(const char *args)
{
	struct run r = {.family = 4};
	int lane;

	errno = EINVAL;
	if (sscanf(args, "%d %u %u %u %lu %d", &lane, &r.flows, &r.size, &r.window, &r.packets,
	           &r.sink_port) != 6)
		DIE("local %s", args);
	r.lane = lane_of(lane);
	measure(&r, true);
}

static void *map_memory(const char *name, size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, map_fd(obj, name), 0);

	if (p == MAP_FAILED)
		DIE("mmap %s", name);
	return p;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(const char *args);
	} commands[] = {{"lane ", cmd_lane},
	                {"pins ", cmd_pins},
	                {"entries ", cmd_entries},
	                {"run ", cmd_run},
	                {"local ", cmd_local}};
	char line[1024];
	size_t i;

	if (argc != 4) {
		fprintf(stderr, "usage: live_gen SRC_NS DST_NS live.bpf.o\n");
		return 2;
	}
	src_ns = argv[1];
	dst_ns = argv[2];
	obj = bpf_object__open(argv[3]);
	if (!obj || bpf_object__load(obj))
		DIE("%s", argv[3]);
	conf = map_memory("conf", sizeof(*conf));
	state = map_memory("state", sizeof(*state));
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
			if (strncmp(line, commands[i].name, strlen(commands[i].name)) == 0)
				break;
		errno = EINVAL;
		if (i == sizeof(commands) / sizeof(commands[0]))
			DIE("%s", line);
		commands[i].run(line + strlen(commands[i].name));
	}
	return 0;
}
