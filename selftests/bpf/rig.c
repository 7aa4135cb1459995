/* SPDX-License-Identifier: MIT */
#include "rig.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/pkt_cls.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MAX_CPUS 256

const char *rig_object(const char *name, char *buf, size_t size)
{
	const char *dir = getenv("L7MP_BPF_DIR");

	snprintf(buf, size, "%s/%s.bpf.o", dir ? dir : "build/bpf", name);
	return buf;
}

static void learn_mac(const char *name, uint8_t mac[static 6])
{
	struct ifreq ifr = {0};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &ifr))
		tap_bail("%s: no MAC address: %s", name, strerror(errno));
	memcpy(mac, ifr.ifr_hwaddr.sa_data, 6);
	close(fd);
}

static void make_devices(struct rig *r)
{
	if (unshare(CLONE_NEWNET))
		tap_bail("a network namespace needs root: %s", strerror(errno));
	/* Without IPv6 of their own, so that no packet but the tests' is counted. */
	if (system("ip link set lo up && ip link add l7in type veth peer name l7out && "
	           "echo 1 >/proc/sys/net/ipv6/conf/l7in/disable_ipv6 && "
	           "echo 1 >/proc/sys/net/ipv6/conf/l7out/disable_ipv6 && "
	           "ip link set l7in up && ip link set l7out up"))
		tap_bail("can't make veth devices");
	r->in = if_nametoindex("l7in");
	r->out = if_nametoindex("l7out");
	learn_mac("l7in", r->in_mac);
	learn_mac("l7out", r->out_mac);
}

static struct bpf_object *open_object(const char *name)
{
	char path[256];
	struct bpf_object *o = bpf_object__open(rig_object(name, path, sizeof(path)));

	if (!o)
		tap_bail("%s: %s (make bpf)", path, strerror(errno));
	return o;
}

static int map_fd(struct bpf_object *o, const char *name)
{
	int fd = bpf_object__find_map_fd_by_name(o, name);

	if (fd < 0)
		tap_bail("the object has no map %s", name);
	return fd;
}

static int prog_fd(struct bpf_object *o, const char *name)
{
	struct bpf_program *p = bpf_object__find_program_by_name(o, name);

	if (!p)
		tap_bail("the object has no program %s", name);
	return bpf_program__fd(p);
}

static void set_size(struct bpf_object *o, const char *name, uint32_t max)
{
	struct bpf_map *m = bpf_object__find_map_by_name(o, name);

	if (!m || bpf_map__set_max_entries(m, max))
		tap_bail("can't size map %s", name);
}

static void share(struct bpf_object *o, const char *name, int fd)
{
	struct bpf_map *m = bpf_object__find_map_by_name(o, name);

	if (!m || bpf_map__reuse_fd(m, fd))
		tap_bail("can't share map %s", name);
}

void rig_init(struct rig *r, uint32_t max_flows)
{
	struct bpf_object *x, *t;

	memset(r, 0, sizeof(*r));
	make_devices(r);
	r->cpus = libbpf_num_possible_cpus();
	if (r->cpus < 1 || r->cpus > MAX_CPUS)
		tap_bail("%d CPUs", r->cpus);
	x = open_object("l7mp_xdp");
	r->max_flows = max_flows;
	set_size(x, L7MP_MAP_FLOWS4, max_flows);
	set_size(x, L7MP_MAP_FLOWS6, max_flows);
	set_size(x, L7MP_MAP_FRAMES, max_flows);
	set_size(x, L7MP_MAP_COUNTERS, max_flows);
	if (bpf_object__load(x))
		tap_bail("the kernel refuses l7mp_xdp: %s", strerror(errno));
	r->flows4 = map_fd(x, L7MP_MAP_FLOWS4);
	r->flows6 = map_fd(x, L7MP_MAP_FLOWS6);
	r->frames = map_fd(x, L7MP_MAP_FRAMES);
	r->frame_ifs = map_fd(x, L7MP_MAP_FRAME_IFS);
	r->counters = map_fd(x, L7MP_MAP_COUNTERS);
	r->verdicts = map_fd(x, L7MP_MAP_VERDICTS);
	r->devices = map_fd(x, L7MP_MAP_DEVICES);
	r->handover = map_fd(x, L7MP_MAP_HANDOVER);
	r->tcp_pairs = map_fd(x, L7MP_MAP_TCP_PAIRS);
	r->prog_xdp = prog_fd(x, L7MP_PROG_XDP);
	t = open_object("l7mp_tc");
	share(t, L7MP_MAP_FLOWS4, r->flows4);
	share(t, L7MP_MAP_FLOWS6, r->flows6);
	share(t, L7MP_MAP_FRAMES, r->frames);
	share(t, L7MP_MAP_FRAME_IFS, r->frame_ifs);
	share(t, L7MP_MAP_COUNTERS, r->counters);
	share(t, L7MP_MAP_VERDICTS, r->verdicts);
	share(t, L7MP_MAP_HANDOVER, r->handover);
	share(t, L7MP_MAP_TCP_PAIRS, r->tcp_pairs);
	if (bpf_object__load(t))
		tap_bail("the kernel refuses l7mp_tc: %s", strerror(errno));
	r->prog_tc = prog_fd(t, L7MP_PROG_TC);
	r->prog_tc_l3 = prog_fd(t, L7MP_PROG_TC_L3);
	if (bpf_map_update_elem(r->devices, &r->out, &r->out, BPF_ANY))
		tap_bail("devices: %s", strerror(errno));
	/* A test run can name the device as ingress only while a program is attached to it. */
	if (bpf_xdp_attach((int)r->in, r->prog_xdp, XDP_FLAGS_DRV_MODE, NULL) ||
	    bpf_xdp_attach((int)r->out, r->prog_xdp, XDP_FLAGS_DRV_MODE, NULL))
		tap_bail("can't attach to veth: %s", strerror(errno));
	/* The objects live as long as the process: their descriptors are in use. */
	r->objects[RIG_XDP] = x;
	r->objects[RIG_TC] = t;
}

int rig_map(const struct rig *r, enum rig_hook hook, const char *name)
{
	return map_fd(r->objects[hook], name);
}

int rig_prog(const struct rig *r, enum rig_hook hook, const char *name)
{
	return prog_fd(r->objects[hook], name);
}

void rig_key(const struct packet *p, struct l7mp_flow_key *key)
{
	size_t n = p->family == 4 ? 4 : 16;

	memset(key, 0, sizeof(*key));
	memcpy(key->saddr.bytes, p->saddr, n);
	memcpy(key->daddr.bytes, p->daddr, n);
	key->sport = htons(p->sport);
	key->dport = htons(p->dport);
	key->l4 = p->tcp ? IPPROTO_TCP : IPPROTO_UDP;
	key->family = (uint8_t)p->family;
}

/* Sum of the new words and the complements of the old ones, in the packet's byte order. */
static uint16_t difference(const uint8_t *old, const uint8_t *new, size_t n)
{
	uint8_t inverted[16];

	for (size_t i = 0; i < n; i++)
		inverted[i] = (uint8_t)~old[i];
	return htons(packet_sum(inverted, n, packet_sum(new, n, 0)));
}

static uint16_t fold(uint32_t sum)
{
	return (uint16_t)(sum > 0xffff ? (sum & 0xffff) + (sum >> 16) : sum);
}

void rig_action(const struct rig *r, const struct packet *from, const struct packet *to,
                struct l7mp_flow6_action *value)
{
	size_t n = from->family == 4 ? 4 : 16;
	struct l7mp_flow_action *a = &value->action;
	static uint32_t version;
	uint16_t old[2] = {htons(from->sport), htons(from->dport)};
	uint16_t new[2] = {htons(to->sport), htons(to->dport)};

	memset(value, 0, sizeof(*value));
	memcpy(n == 4 ? a->key.saddr : value->match_saddr.bytes, from->saddr, n);
	memcpy(n == 4 ? a->key.daddr : value->match_daddr.bytes, from->daddr, n);
	a->key.sport = old[0];
	a->key.dport = old[1];
	a->key.l4 = from->tcp ? IPPROTO_TCP : IPPROTO_UDP;
	memcpy(n == 4 ? a->saddr : value->saddr.bytes, to->saddr, n);
	memcpy(n == 4 ? a->daddr : value->daddr.bytes, to->daddr, n);
	a->sport = new[0];
	a->dport = new[1];
	a->sport_host = to->sport;
	a->dport_host = to->dport;
	a->verb = L7MP_VERB_FORWARD;
	a->ifindex = r->out;
	a->mtu = 1500;
	memcpy(a->dmac, to->dmac, 6);
	memcpy(a->smac, to->smac, 6);
	a->n_vlans = (uint8_t)to->n_vlans;
	for (int i = 0; i < to->n_vlans && i < 2; i++) {
		a->vlan_proto[i] = htons(to->vlan_proto[i]);
		a->vlan_tci[i] = htons(to->vlan_tci[i]);
	}
	a->csum_addr =
	        fold(difference(from->saddr, to->saddr, n) + difference(from->daddr, to->daddr, n));
	a->csum_port = difference((uint8_t *)old, (uint8_t *)new, 4);
	if (from->family == 4)
		a->csum_l3 = fold(a->csum_addr + htons(0xfeff)); /* TTL is a high byte */
	a->in_ifindex = r->in;
	memcpy(a->in_mac, r->in_mac, 6);
	for (int i = 0; i < from->n_vlans && i < 2; i++) {
		a->in_vlan_proto[i] = htons(from->vlan_proto[i]);
		a->in_vlan_id[i] = htons(from->vlan_tci[i] & 0x0fff);
	}
	a->version = a->version_end = value->version6 = ++version;
}

int rig_table(const struct rig *r, const struct l7mp_flow_key *key, struct l7mp_flow4_key *key4,
              const void **map_key)
{
	if (key->family == L7MP_FAMILY_V6) {
		*map_key = key;
		return r->flows6;
	}
	memset(key4, 0, sizeof(*key4));
	memcpy(key4->saddr, key->saddr.bytes, 4);
	memcpy(key4->daddr, key->daddr.bytes, 4);
	key4->sport = key->sport;
	key4->dport = key->dport;
	key4->l4 = key->l4;
	*map_key = key4;
	return r->flows4;
}

void rig_put_as_it_is(const struct rig *r, const struct l7mp_flow_key *key,
                      const struct l7mp_flow6_action *a)
{
	struct l7mp_flow_counter none[MAX_CPUS] = {0};
	struct l7mp_flow4_key key4;
	const void *map_key;
	int map = rig_table(r, key, &key4, &map_key), rc = -1;

	/* The kernel refills its caches of map elements in the background: ENOMEM may pass. */
	for (int i = 0; rc && i < 100; i++) {
		rc = bpf_map_update_elem(r->counters, &a->action.slot, none, BPF_ANY);
		rc = rc ? rc : bpf_map_update_elem(map, map_key, a, BPF_ANY);
		if (rc && errno != ENOMEM)
			break;
		if (rc)
			usleep(10000);
	}
	if (rc)
		tap_bail("can't add a flow: %s", strerror(errno));
}

void rig_put(const struct rig *r, const struct l7mp_flow_key *key,
             const struct l7mp_flow6_action *a)
{
	struct l7mp_flow6_action value = *a, old;
	struct l7mp_flow4_key key4;
	const void *map_key;
	static uint32_t slot;
	int map = rig_table(r, key, &key4, &map_key);

	value.action.slot =
	        bpf_map_lookup_elem(map, map_key, &old) ? slot++ % r->max_flows : old.action.slot;
	rig_put_as_it_is(r, key, &value);
}

void rig_del(const struct rig *r, const struct l7mp_flow_key *key)
{
	struct l7mp_flow4_key key4;
	const void *map_key;
	int map = rig_table(r, key, &key4, &map_key);

	bpf_map_delete_elem(map, map_key);
}

struct l7mp_flow_counter rig_slot(const struct rig *r, uint32_t slot)
{
	struct l7mp_flow_counter c[MAX_CPUS], sum = {0};

	if (bpf_map_lookup_elem(r->counters, &slot, c))
		tap_bail("no counter: %s", strerror(errno));
	for (int i = 0; i < r->cpus; i++) {
		sum.packets += c[i].packets;
		sum.bytes += c[i].bytes;
		if (c[i].last_seen > sum.last_seen)
			sum.last_seen = c[i].last_seen;
	}
	return sum;
}

struct l7mp_flow_counter rig_counter(const struct rig *r, const struct l7mp_flow_key *key)
{
	struct l7mp_flow6_action value;
	struct l7mp_flow4_key key4;
	const void *map_key;
	int map = rig_table(r, key, &key4, &map_key);

	if (bpf_map_lookup_elem(map, map_key, &value))
		tap_bail("no flow: %s", strerror(errno));
	return rig_slot(r, value.action.slot);
}

static uint64_t verdict(const struct rig *r, uint32_t i)
{
	uint64_t n[MAX_CPUS], sum = 0;

	if (bpf_map_lookup_elem(r->verdicts, &i, n))
		tap_bail("verdicts: %s", strerror(errno));
	for (int c = 0; c < r->cpus; c++)
		sum += n[c];
	return sum;
}

void rig_verdicts_start(struct rig *r)
{
	for (uint32_t i = 0; i < L7MP_VERDICT_COUNT; i++)
		r->verdict_base[i] = verdict(r, i);
}

void rig_verdicts(const struct rig *r, uint64_t out[L7MP_VERDICT_COUNT])
{
	for (uint32_t i = 0; i < L7MP_VERDICT_COUNT; i++)
		out[i] = verdict(r, i) - r->verdict_base[i];
}

const char *rig_verdict_name(int verdict)
{
#define VERDICT_NAME(id, text, doc) text,
	static const char *const names[] = {L7MP_VERDICTS(VERDICT_NAME)};

	return names[verdict];
}

bool rig_check_verdict(const struct rig *r, int want)
{
	uint64_t got[L7MP_VERDICT_COUNT];
	bool ok = true;

	rig_verdicts(r, got);
	for (int i = 0; i < L7MP_VERDICT_COUNT; i++) {
		if (got[i] == (i == want))
			continue;
		tap_note("verdict %s: %llu times", rig_verdict_name(i), (unsigned long long)got[i]);
		ok = false;
	}
	return ok;
}

uint32_t rig_tap(const char *what, unsigned mtu, int *fd)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	char command[200];

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "l7far");
	*fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (*fd < 0 || ioctl(*fd, TUNSETIFF, &ifr)) {
		tap_skip("no /dev/net/tun here", "%s", what);
		exit(tap_done());
	}
	snprintf(command, sizeof(command),
	         "echo 1 >/proc/sys/net/ipv6/conf/l7far/disable_ipv6 && "
	         "ip link set l7far up mtu %u",
	         mtu);
	if (system(command))
		tap_bail("can't bring l7far up");
	return if_nametoindex("l7far");
}

int rig_test_run(struct rig_run *run)
{
	LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = run->in, .data_size_in = (__u32)run->in_len,
	            .data_out = run->out, .data_size_out = sizeof(run->out), .ctx_in = run->ctx,
	            .ctx_size_in = (__u32)run->ctx_len, .ctx_out = run->ctx,
	            .ctx_size_out = (__u32)run->ctx_len, .repeat = 1);

	if (bpf_prog_test_run_opts(run->prog, &o))
		return -errno;
	run->out_len = o.data_size_out;
	run->action = (int)o.retval;
	return 0;
}

int rig_send(const struct rig *r, enum rig_hook hook, struct rig_run *run)
{
	struct __sk_buff skb = {.ifindex = r->in, .ingress_ifindex = r->in};
	struct xdp_md md = {.data_end = (uint32_t)run->in_len, .ingress_ifindex = r->in};
	int rc;

	run->prog = hook == RIG_XDP ? r->prog_xdp : r->prog_tc;
	if (run->ctx)
		return rig_test_run(run);
	run->ctx = hook == RIG_XDP ? (void *)&md : (void *)&skb;
	run->ctx_len = hook == RIG_XDP ? sizeof(md) : sizeof(skb);
	rc = rig_test_run(run);
	run->ctx = NULL;
	run->ctx_len = 0;
	return rc;
}
