/* SPDX-License-Identifier: MIT */
/*
 * How soon many flows follow a change of the network, from the moment when the kernel tells it to
 * when the last entry of the pinned map follows. An observer thread has a netlink socket and a
 * descriptor of the map of its own and is independent of the engine.
 *
 *   offload_change [sessions [sessions a client]]     (root; makes a network namespace of its own)
 *
 * One line of JSON for each change: ms until all entries followed, ms until the engine was at rest
 * (its last counters read, too), the loop's processor time, its longest iteration. A client is a
 * destination of its own, so a route to be looked up.
 */
#include <bpf/bpf.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "offload_rig.h"

#define LOWER_UP (1U << 16)
#define CHUNK    4096
#define GIVE_UP  60 /* seconds */

enum aim { GONE, DMAC, OUT };

struct change {
	const char *name, *command, *undo;
	uint16_t event; /* the kernel's word for it */
	bool carrier;   /* only when in0 has lost it */
	enum aim aim;
	uint8_t dmac[6]; /* DMAC: of the entries that leave by in0 */
	const char *out; /* OUT: where those leave then */
};

static const struct change changes[] = {
        {"neighbour",
         "ip neigh replace 10.255.255.254 lladdr 02:00:00:00:77:77 dev in0 nud permanent",
         "ip neigh replace 10.255.255.254 lladdr 02:00:00:00:00:03 dev in0 nud permanent",
         RTM_NEWNEIGH,
         false,
         DMAC,
         {2, 0, 0, 0, 0x77, 0x77},
         NULL},
        {"route moved",
         "ip route replace 11.0.0.0/8 via 172.16.0.2",
         "ip route replace 11.0.0.0/8 via 10.255.255.254",
         RTM_NEWROUTE,
         false,
         OUT,
         {0},
         "out0"},
        {"route gone",
         "ip route del 11.0.0.0/8",
         "ip route add 11.0.0.0/8 via 10.255.255.254",
         RTM_DELROUTE,
         false,
         GONE,
         {0},
         NULL},
        {"rule",
         "ip rule add from all to 11.0.0.0/8 unreachable",
         "ip rule del from all to 11.0.0.0/8 unreachable",
         RTM_NEWRULE,
         false,
         GONE,
         {0},
         NULL},
        {"carrier lost",
         "ip link set in1 down",
         "ip link set in1 up",
         RTM_NEWLINK,
         true,
         GONE,
         {0},
         NULL},
        {"link down",
         "ip link set in0 down",
         "ip link set in0 up; ip neigh replace 10.255.255.254 lladdr 02:00:00:00:00:03 dev in0 nud "
         "permanent; "
         "ip route replace 11.0.0.0/8 via 10.255.255.254",
         RTM_NEWLINK,
         true,
         GONE,
         {0},
         NULL},
        {"address gone",
         "ip addr del 10.0.0.1/8 dev in0",
         "ip addr add 10.0.0.1/8 dev in0; ip route replace 11.0.0.0/8 via 10.255.255.254",
         RTM_DELADDR,
         false,
         GONE,
         {0},
         NULL},
};

struct watch {
	const struct change *change;
	struct mnl_socket *nl;
	int map;
	uint32_t in0, out;
	struct l7mp_flow_key *keys;
	struct l7mp_flow_action *actions;
	double told, followed;
	atomic_bool done;
};

static int on_message(const struct nlmsghdr *nlh, void *arg)
{
	struct watch *w = arg;
	const struct ifinfomsg *ifi = mnl_nlmsg_get_payload(nlh);

	if (nlh->nlmsg_type != w->change->event ||
	    (w->change->carrier && (ifi->ifi_index != (int)w->in0 || ifi->ifi_flags & LOWER_UP)))
		return MNL_CB_OK;
	return MNL_CB_STOP;
}

static void hear(struct watch *w)
{
	char buf[16384] __attribute__((aligned(8)));
	int rc = MNL_CB_OK;

	while (rc == MNL_CB_OK) {
		ssize_t n = mnl_socket_recvfrom(w->nl, buf, sizeof(buf));

		must(n > 0, "the observer's netlink");
		rc = mnl_cb_run(buf, (size_t)n, 0, 0, on_message, w);
	}
	w->told = now();
}

/* One who still does what he did before? */
static bool behind(const struct watch *w, const struct l7mp_flow_action *a)
{
	bool back = a->dport_host < 9000; /* to a client */

	switch (w->change->aim) {
	case GONE:
		return true;
	case DMAC:
		return back && memcmp(a->dmac, w->change->dmac, sizeof(a->dmac)) != 0;
	case OUT:
		return back && a->ifindex != w->out;
	}
	return true;
}

static bool all_follow(struct watch *w)
{
	__u32 token = 0, n;
	bool first = true;
	int rc;

	if (w->change->aim == GONE)
		return bpf_map_get_next_key(w->map, NULL, w->keys) && errno == ENOENT;
	do {
		n = CHUNK;
		rc = bpf_map_lookup_batch(w->map, first ? NULL : &token, &token, w->keys,
		                          w->actions, &n, NULL);
		must(!rc || errno == ENOENT, "the observer's look-up");
		for (__u32 i = 0; i < n; i++)
			if (behind(w, &w->actions[i]))
				return false;
		first = false;
	} while (!rc);
	return true;
}

static void *watch(void *arg)
{
	struct watch *w = arg;

	hear(w);
	while (!all_follow(w) && now() - w->told < GIVE_UP)
		usleep(1000); /* it takes the flows' locks and a processor, too */
	w->followed = now();
	atomic_store(&w->done, true);
	return NULL;
}

static void watch_open(struct watch *w, const struct rig *r, const struct change *c)
{
	static const int groups[] = {RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_ROUTE,
	                             RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_RULE};
	char path[300];
	int size = 8 << 20;

	memset(w, 0, sizeof(*w));
	w->change = c;
	w->nl = mnl_socket_open(NETLINK_ROUTE);
	must(w->nl && !mnl_socket_bind(w->nl, 0, MNL_SOCKET_AUTOPID), "netlink");
	setsockopt(mnl_socket_get_fd(w->nl), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(groups); i++)
		must(!mnl_socket_setsockopt(w->nl, NETLINK_ADD_MEMBERSHIP, (void *)&groups[i],
		                            sizeof(groups[i])),
		     "subscribing");
	snprintf(path, sizeof(path), "%s/" L7MP_MAP_FLOWS4, r->e->pins.dir);
	w->map = bpf_obj_get(path);
	must(w->map >= 0, path);
	w->in0 = if_nametoindex("in0");
	w->out = c->out ? if_nametoindex(c->out) : 0;
	w->keys = calloc(CHUNK, sizeof(*w->keys));
	w->actions = calloc(CHUNK, sizeof(*w->actions));
	must(w->keys && w->actions, "memory");
}

static void watch_close(struct watch *w)
{
	mnl_socket_close(w->nl);
	close(w->map);
	free(w->keys);
	free(w->actions);
}

/* What a session does with a flow that is no more: forgets it. */
static void on_withdrawn(void *arg, uint64_t cookie, enum l7mp_reason reason,
                         const struct l7mp_flow_counters final[2])
{
	struct rig *r = arg;

	(void)reason;
	(void) final;
	r->flows[cookie] = NULL;
}

static const struct l7mp_offload_events events = {.withdrawn = on_withdrawn};

static double cpu_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int measure(struct rig *r, const struct change *c)
{
	char command[300];
	struct watch w;
	pthread_t thread;
	double rest, cpu, longest = 0;

	for (uint32_t i = 0; i < r->n; i++)
		if (!r->flows[i])
			add(r, i);
	run(r->loop, 300);
	watch_open(&w, r, c);
	must(!pthread_create(&thread, NULL, watch, &w), "thread");
	snprintf(command, sizeof(command), "(%s) &", c->command);
	must(!system(command), c->command);
	cpu = cpu_now();
	while (!atomic_load(&w.done) || r->e->path.dirty || r->e->leaving) {
		double before = now(), took;

		run(r->loop, 1);
		took = now() - before - 1e-3;
		longest = took > longest ? took : longest;
	}
	rest = now();
	cpu = cpu_now() - cpu;
	pthread_join(thread, NULL);
	printf("{\"change\": \"%s\", \"sessions\": %u, \"clients\": %u, \"followed_ms\": "
	       "%.1f, \"rest_ms\": %.1f, \"cpu_ms\": %.1f, \"longest_turn_ms\": %.1f}\n",
	       c->name, r->n, r->n / r->per_client, (w.followed - w.told) * 1e3,
	       (rest - w.told) * 1e3, cpu * 1e3, longest * 1e3);
	fflush(stdout);
	watch_close(&w);
	must(!system(c->undo), c->undo);
	do {
		run(r->loop, 500);
	} while (r->e->path.dirty || r->e->leaving);
	return w.followed - w.told < GIVE_UP ? 0 : 1;
}

int main(int argc, char **argv)
{
	uint32_t n = argc > 1 ? (uint32_t)atoi(argv[1]) : 10000;
	const struct l7mp_offload *o;
	struct rig r;
	int rc = 0;

	rig_start(&r, n, argc > 2 ? (uint32_t)atoi(argv[2]) : 50);
	o = l7mp_offload_ops(r.e);
	o->subscribe(o->ctx, &events, &r);
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(changes); i++)
		if (argc < 4 || !strcmp(argv[3], changes[i].name))
			rc |= measure(&r, &changes[i]);
	return rig_stop(&r) || rc;
}
