/* SPDX-License-Identifier: MIT */
/* BPF objects: loading the programs, sharing the maps between them, pinning both. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l7mp/fault.h"
#include "l7mp/log.h"
#include "l7mp_tc.skel.h"
#include "l7mp_xdp.skel.h"
#include "table.h"

#define PIN_XDP   "prog_xdp"
#define PIN_TC    "prog_tc"
#define PIN_TC_L3 "prog_tc_l3"
#define PIN_TAP   "prog_tap"

struct named {
	const char *name;
	int *fd;
};
#define PINNED 17

/* In the order in which they are opened: the ABI version must be checked first. */
static void names(struct off_maps *m, struct named out[PINNED])
{
	const struct named all[PINNED] = {
	        {L7MP_MAP_ABI, &m->abi},
	        {L7MP_MAP_FLOWS4, &m->flows4},
	        {L7MP_MAP_FLOWS6, &m->flows6},
	        {L7MP_MAP_FRAMES, &m->frames},
	        {L7MP_MAP_FRAME_IFS, &m->frame_ifs},
	        {L7MP_MAP_COUNTERS, &m->counters},
	        {L7MP_MAP_VERDICTS, &m->verdicts},
	        {L7MP_MAP_DEVICES, &m->devices},
	        {L7MP_MAP_ATTACHED, &m->attached},
	        {L7MP_MAP_HANDOVER, &m->handover},
	        {L7MP_MAP_TCP_PAIRS, &m->tcp_pairs},
	        {L7MP_MAP_RTP, &m->rtp},
	        {L7MP_MAP_SESSIONS, &m->sessions},
	        {PIN_XDP, &m->prog_xdp},
	        {PIN_TC, &m->prog_tc},
	        {PIN_TC_L3, &m->prog_tc_l3},
	        {PIN_TAP, &m->prog_tap},
	};

	memcpy(out, all, sizeof(all));
}

/* The last ones in names(). */
#define PROGRAMS 4
/* Prefix of their pins while a previous daemon's programs may still be attached. */
#define NEW "new_"

static void names_of_programs(struct off_programs *p, struct named out[PROGRAMS])
{
	const struct named all[PROGRAMS] = {
	        {PIN_XDP, &p->xdp}, {PIN_TC, &p->tc}, {PIN_TC_L3, &p->tc_l3}, {PIN_TAP, &p->tap}};

	memcpy(out, all, sizeof(all));
}

static void programs_init(struct off_programs *p)
{
	*p = (struct off_programs){.xdp = -1, .tc = -1, .tc_l3 = -1, .tap = -1};
}

static void programs_close(struct off_programs *p)
{
	struct named n[PROGRAMS];

	names_of_programs(p, n);
	for (int i = 0; i < PROGRAMS; i++)
		if (*n[i].fd >= 0)
			close(*n[i].fd);
	programs_init(p);
}

void off_maps_init(struct off_maps *m)
{
	struct named n[PINNED];

	memset(m, 0, sizeof(*m));
	names(m, n);
	for (int i = 0; i < PINNED; i++)
		*n[i].fd = -1;
	programs_init(&m->old[0]);
	programs_init(&m->old[1]);
}

void off_maps_close(struct off_maps *m)
{
	struct named n[PINNED];

	names(m, n);
	for (int i = 0; i < PINNED; i++)
		if (*n[i].fd >= 0)
			close(*n[i].fd);
	programs_close(&m->old[0]);
	programs_close(&m->old[1]);
	off_maps_init(m);
}

static uint32_t prog_id(int fd)
{
	struct bpf_prog_info info = {0};
	__u32 len = sizeof(info);

	return fd >= 0 && !bpf_obj_get_info_by_fd(fd, &info, &len) ? info.id : 0;
}

static void read_ids(struct off_maps *m)
{
	m->id_xdp = prog_id(m->prog_xdp);
	m->id_tc = prog_id(m->prog_tc);
	m->id_tc_l3 = prog_id(m->prog_tc_l3);
}

static void read_old_ids(struct off_programs *p)
{
	p->id_xdp = prog_id(p->xdp);
	p->id_tc = prog_id(p->tc);
	p->id_tc_l3 = prog_id(p->tc_l3);
	p->id_tap = prog_id(p->tap);
}

/* Opens the programs pinned with the prefix `front`; missing ones stay -1. */
static void open_programs(struct off_programs *p, const char *dir, const char *front)
{
	struct named n[PROGRAMS];
	char path[320];

	programs_init(p);
	names_of_programs(p, n);
	for (int i = 0; i < PROGRAMS; i++) {
		snprintf(path, sizeof(path), "%s/%s%s", dir, front, n[i].name);
		*n[i].fd = bpf_obj_get(path);
	}
	read_old_ids(p);
}

static int keep(int fd, int *out)
{
	*out = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return *out < 0 ? -errno : 0;
}

static int reuse(struct bpf_map *map, int fd)
{
	return fd < 0 ? 0 : bpf_map__reuse_fd(map, fd);
}

struct l7mp_xdp *off_maps_xdp_object(const struct off_maps *m)
{
	struct l7mp_xdp *x = l7mp_xdp__open();
	int rc;

	if (!x)
		return NULL;
	rc = reuse(x->maps.flows4, m->flows4);
	rc = rc ? rc : reuse(x->maps.flows6, m->flows6);
	rc = rc ? rc : reuse(x->maps.frames, m->frames);
	rc = rc ? rc : reuse(x->maps.frame_ifs, m->frame_ifs);
	rc = rc ? rc : reuse(x->maps.counters, m->counters);
	rc = rc ? rc : reuse(x->maps.verdicts, m->verdicts);
	rc = rc ? rc : reuse(x->maps.devices, m->devices);
	rc = rc ? rc : reuse(x->maps.abi, m->abi);
	rc = rc ? rc : reuse(x->maps.attached, m->attached);
	rc = rc ? rc : reuse(x->maps.handover, m->handover);
	rc = rc ? rc : reuse(x->maps.tcp_pairs, m->tcp_pairs);
	rc = rc ? rc : reuse(x->maps.rtp, m->rtp);
	rc = rc ? rc : reuse(x->maps.sessions, m->sessions);
	if (rc) {
		l7mp_xdp__destroy(x);
		errno = -rc;
		return NULL;
	}
	return x;
}

/*
 * The per-CPU counters are preallocated for every possible CPU. On hosts with many CPUs the number
 * of flows is reduced to keep them within this size.
 */
#define COUNTERS_MAX (512ULL << 20) /* bytes */

/* More slots than flows: freed slots wait for a grace period before reuse (slots.c). */
static uint32_t slots_for(uint32_t max_flows)
{
	return max_flows + max_flows / 8 + 8192;
}

static uint32_t affordable(uint32_t max_flows)
{
	int cpus = libbpf_num_possible_cpus();
	uint64_t each = (uint64_t)(cpus > 0 ? cpus : 1) * sizeof(struct l7mp_flow_counter);
	uint32_t most = (uint32_t)(COUNTERS_MAX / each / 9 * 8);

	if (max_flows <= most)
		return max_flows;
	l7mp_log_notice(OFF_MODULE,
	                "limits.max_flows is %u, but there are %d CPUs: the flow table has %u "
	                "entries, so that the counters need no more than %llu MiB",
	                max_flows, cpus, most, COUNTERS_MAX >> 20);
	return most;
}

static int load_xdp(struct off_maps *m, uint32_t max_flows)
{
	struct l7mp_xdp *x = l7mp_xdp__open();
	int rc;

	if (!x)
		return -errno;
	/* Each flow map has room for all flows: any mix of families is possible. */
	rc = bpf_map__set_max_entries(x->maps.flows4, max_flows);
	rc = rc ? rc : bpf_map__set_max_entries(x->maps.flows6, max_flows);
	rc = rc ? rc : bpf_map__set_max_entries(x->maps.frames, max_flows);
	rc = rc ? rc : bpf_map__set_max_entries(x->maps.sessions, max_flows);
	rc = rc ? rc : bpf_map__set_max_entries(x->maps.counters, m->n_slots);
	rc = rc ? rc : l7mp_xdp__load(x);
	rc = rc ? rc : keep(bpf_map__fd(x->maps.flows4), &m->flows4);
	rc = rc ? rc : keep(bpf_map__fd(x->maps.flows6), &m->flows6);
	rc = rc ? rc : keep(bpf_map__fd(x->maps.frames), &m->frames);
	rc = rc ? rc : keep(bpf_map__fd(x->maps.frame_ifs), &m->frame_ifs);
	rc = rc ? rc : keep(bpf_map__fd(x->maps.counters), &m->counters);
	rc = rc ? rc : keep(bpf_map__fd(x->maps.verdicts), &m->verdicts);
	rc = rc ? rc : keep(bpf_map__fd(x->maps.devices), &m->devices);
	rc = rc ? rc : keep(bpf_map__fd(x->maps.abi), &m->abi);
	rc = rc ? rc : keep(bpf_map__fd(x->maps.attached), &m->attached);
	rc = rc ? rc : keep(bpf_map__fd(x->maps.handover), &m->handover);
	rc = rc ? rc : keep(bpf_map__fd(x->maps.tcp_pairs), &m->tcp_pairs);
	rc = rc ? rc : keep(bpf_map__fd(x->maps.rtp), &m->rtp);
	rc = rc ? rc : keep(bpf_map__fd(x->maps.sessions), &m->sessions);
	rc = rc ? rc : keep(bpf_program__fd(x->progs.l7mp_xdp), &m->prog_xdp);
	l7mp_xdp__destroy(x);
	return rc;
}

static int load_tc(struct off_maps *m)
{
	struct l7mp_tc *t = l7mp_tc__open();
	int rc;

	if (!t)
		return -errno;
	rc = reuse(t->maps.flows4, m->flows4);
	rc = rc ? rc : reuse(t->maps.flows6, m->flows6);
	rc = rc ? rc : reuse(t->maps.frames, m->frames);
	rc = rc ? rc : reuse(t->maps.frame_ifs, m->frame_ifs);
	rc = rc ? rc : reuse(t->maps.counters, m->counters);
	rc = rc ? rc : reuse(t->maps.verdicts, m->verdicts);
	rc = rc ? rc : reuse(t->maps.handover, m->handover);
	rc = rc ? rc : reuse(t->maps.tcp_pairs, m->tcp_pairs);
	rc = rc ? rc : reuse(t->maps.rtp, m->rtp);
	rc = rc ? rc : l7mp_tc__load(t);
	rc = rc ? rc : keep(bpf_program__fd(t->progs.l7mp_tc), &m->prog_tc);
	rc = rc ? rc : keep(bpf_program__fd(t->progs.l7mp_tc_l3), &m->prog_tc_l3);
	rc = rc ? rc : keep(bpf_program__fd(t->progs.l7mp_tap), &m->prog_tap);
	l7mp_tc__destroy(t);
	return rc;
}

/* Loads only the XDP program, with the existing maps. */
static int load_xdp_again(struct off_maps *m)
{
	struct l7mp_xdp *x = off_maps_xdp_object(m);
	int rc;

	if (!x)
		return -errno;
	rc = l7mp_xdp__load(x);
	rc = rc ? rc : keep(bpf_program__fd(x->progs.l7mp_xdp), &m->prog_xdp);
	l7mp_xdp__destroy(x);
	return rc;
}

static void explain(int rc, char *why, size_t size)
{
	if (rc == -EPERM || rc == -EACCES)
		snprintf(
		        why, size,
		        "the kernel does not allow loading BPF programs: CAP_BPF and CAP_NET_ADMIN "
		        "are needed (%s)",
		        strerror(-rc));
	else
		snprintf(why, size,
		         "the kernel can't load the BPF programs: %s (log level verbose shows its "
		         "messages)",
		         strerror(-rc));
}

int off_maps_load(struct off_maps *m, uint32_t max_flows, char *why, size_t size)
{
	struct l7mp_abi_info info = {.version = L7MP_ABI_VERSION};
	__u32 zero = 0;
	int rc;

	off_maps_init(m);
	max_flows = affordable(max_flows);
	info.max_flows = max_flows;
	m->n_slots = slots_for(max_flows);
	rc = load_xdp(m, max_flows);
	if (!rc)
		rc = load_tc(m);
	if (!rc && bpf_map_update_elem(m->abi, &zero, &info, BPF_ANY))
		rc = -errno;
	if (rc) {
		explain(rc, why, size);
		off_maps_close(m);
		return rc;
	}
	m->max_flows = max_flows;
	read_ids(m);
	return 0;
}

int off_maps_pin(struct off_maps *m, const char *dir, char *why, size_t size)
{
	struct named n[PINNED];
	char path[320];

	names(m, n);
	for (int i = 0; i < PINNED; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, n[i].name);
		if (bpf_obj_pin(*n[i].fd, path)) {
			int rc = -errno;

			snprintf(why, size, "can't pin %s: %s", path, strerror(-rc));
			return rc;
		}
		L7MP_FAULT("pin");
	}
	return 0;
}

static int check_abi(struct off_maps *m, const char *dir, char *why, size_t size)
{
	struct bpf_map_info map = {0};
	struct l7mp_abi_info info = {0};
	__u32 len = sizeof(map), zero = 0;

	if (!bpf_obj_get_info_by_fd(m->abi, &map, &len) && map.value_size == sizeof(info) &&
	    !bpf_map_lookup_elem(m->abi, &zero, &info) && info.version == L7MP_ABI_VERSION) {
		m->max_flows = info.max_flows;
		return 0;
	}
	snprintf(why, size,
	         "the maps in %s have ABI %u, this program has %d: start once with offload 'init'",
	         dir, info.version, L7MP_ABI_VERSION);
	return -EPROTO;
}

int off_maps_open(struct off_maps *m, const char *dir, char *why, size_t size)
{
	struct bpf_map_info info = {0};
	__u32 len = sizeof(info);
	struct named n[PINNED];
	char path[320];
	int rc;

	off_maps_init(m);
	names(m, n);
	for (int i = 0; i < PINNED; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, n[i].name);
		*n[i].fd = bpf_obj_get(path);
		if (*n[i].fd < 0) {
			rc = -errno;
			snprintf(why, size, "can't open %s: %s", path, strerror(-rc));
			off_maps_close(m);
			return rc;
		}
		(void)fcntl(*n[i].fd, F_SETFD, FD_CLOEXEC);
		rc = i == 0 ? check_abi(m, dir, why, size) : 0;
		if (rc) {
			off_maps_close(m);
			return rc;
		}
	}
	if (bpf_obj_get_info_by_fd(m->counters, &info, &len)) {
		rc = -errno;
		snprintf(why, size, "can't look at the counters in %s: %s", dir, strerror(-rc));
		off_maps_close(m);
		return rc;
	}
	m->n_slots = info.max_entries;
	read_ids(m);
	return 0;
}

void off_maps_open_old(struct off_maps *m, const char *dir)
{
	struct bpf_map_info info = {0};
	struct named n[PINNED];
	__u32 len = sizeof(info);
	char path[320];

	off_maps_init(m);
	names(m, n);
	for (int i = 0; i < PINNED; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, n[i].name);
		*n[i].fd = bpf_obj_get(path);
	}
	open_programs(&m->old[1], dir, NEW);
	if (m->attached >= 0 && (bpf_obj_get_info_by_fd(m->attached, &info, &len) ||
	                         info.value_size != sizeof(struct l7mp_abi_attached))) {
		close(m->attached);
		m->attached = -1;
	}
	read_ids(m);
}

/* ---- maps of another ABI version ---- */

/* Larger keys and values than any version has had. */
#define ANY_KEY   256
#define ANY_VALUE 4096

static bool look(int fd, struct bpf_map_info *info)
{
	__u32 len = sizeof(*info);

	memset(info, 0, sizeof(*info));
	return fd >= 0 && !bpf_obj_get_info_by_fd(fd, info, &len) && info->key_size <= ANY_KEY &&
	       info->value_size <= ANY_VALUE;
}

uint32_t off_maps_version(const struct off_maps *m)
{
	__u32 value[ANY_VALUE / sizeof(__u32)] = {0}, zero = 0;
	struct bpf_map_info info;

	if (!look(m->abi, &info) || info.type != BPF_MAP_TYPE_ARRAY ||
	    info.value_size < sizeof(value[0]) || bpf_map_lookup_elem(m->abi, &zero, value))
		return 0;
	return value[0];
}

void off_maps_each_key(int fd, void (*fn)(void *arg, const void *key, uint32_t size), void *arg)
{
	uint64_t key[ANY_KEY / sizeof(uint64_t)], before[ANY_KEY / sizeof(uint64_t)], *at = NULL;
	struct bpf_map_info info;

	if (!look(fd, &info))
		return;
	while (!bpf_map_get_next_key(fd, at, key)) {
		fn(arg, key, info.key_size);
		memcpy(before, key, sizeof(before));
		at = before;
	}
}

uint64_t off_maps_empty(int fd)
{
	uint64_t key[ANY_KEY / sizeof(uint64_t)], n = 0;
	struct bpf_map_info info;

	if (!look(fd, &info))
		return 0;
	while (!bpf_map_get_next_key(fd, NULL, key) && !bpf_map_delete_elem(fd, key))
		n++;
	return n;
}

bool off_maps_has_key(int fd, const void *key, uint32_t size)
{
	uint64_t value[ANY_VALUE / sizeof(uint64_t)];
	struct bpf_map_info info;

	return look(fd, &info) && info.key_size == size && !bpf_map_lookup_elem(fd, key, value);
}

static void count_key(void *arg, const void *key, uint32_t size)
{
	uint64_t *n = arg;

	(void)key;
	(void)size;
	++*n;
}

uint64_t off_maps_n_flows(const struct off_maps *m)
{
	uint64_t n = 0;

	off_maps_each_key(m->flows4, count_key, &n);
	off_maps_each_key(m->flows6, count_key, &n);
	return n;
}

int64_t off_maps_forwarded(const struct off_maps *m)
{
	int n_cpus = libbpf_num_possible_cpus();
	struct bpf_map_info info;
	uint64_t sum = 0, *v;

	if (n_cpus < 1 || !look(m->verdicts, &info) || info.type != BPF_MAP_TYPE_PERCPU_ARRAY ||
	    info.value_size != sizeof(*v))
		return -1;
	v = calloc((size_t)n_cpus, sizeof(*v));
	if (!v)
		return -1;
	for (uint32_t i = L7MP_VERDICT_FORWARDED; i <= L7MP_VERDICT_COUNTED; i++) {
		if (bpf_map_lookup_elem(m->verdicts, &i, v))
			continue;
		for (int cpu = 0; cpu < n_cpus; cpu++)
			sum += v[cpu];
	}
	free(v);
	return (int64_t)sum;
}

/* ---- our own programs for a previous daemon's maps ---- */

static void set_programs(struct off_maps *m, const struct off_programs *p)
{
	m->prog_xdp = p->xdp;
	m->prog_tc = p->tc;
	m->prog_tc_l3 = p->tc_l3;
	m->prog_tap = p->tap;
	read_ids(m);
}

void off_maps_open_newer(struct off_maps *m, const char *dir)
{
	programs_close(&m->old[1]);
	open_programs(&m->old[1], dir, NEW);
}

void off_maps_use_newer(struct off_maps *m, const char *dir, bool for_good)
{
	const struct off_programs newer = m->old[1];

	m->old[1] = (struct off_programs){
	        .xdp = m->prog_xdp, .tc = m->prog_tc, .tc_l3 = m->prog_tc_l3, .tap = m->prog_tap};
	read_old_ids(&m->old[1]);
	set_programs(m, &newer);
	if (for_good)
		off_maps_renewed(m, dir);
}

int off_maps_pin_new(struct off_maps *m, const char *dir, char *why, size_t size)
{
	struct named n[PINNED];
	char path[320];

	names(m, n);
	for (int i = PINNED - PROGRAMS; i < PINNED; i++) {
		snprintf(path, sizeof(path), "%s/" NEW "%s", dir, n[i].name);
		(void)unlink(path);
		if (bpf_obj_pin(*n[i].fd, path)) {
			int rc = -errno;

			snprintf(why, size, "can't pin %s: %s", path, strerror(-rc));
			return rc;
		}
		L7MP_FAULT("pin-new");
	}
	return 0;
}

int off_maps_renew(struct off_maps *m, const char *dir, char *why, size_t size)
{
	const struct off_programs none = {.xdp = -1, .tc = -1, .tc_l3 = -1, .tap = -1};
	int rc;

	off_maps_open_newer(m, dir);
	m->old[0] = (struct off_programs){
	        .xdp = m->prog_xdp, .tc = m->prog_tc, .tc_l3 = m->prog_tc_l3, .tap = m->prog_tap};
	read_old_ids(&m->old[0]);
	set_programs(m, &none);
	rc = load_xdp_again(m);
	rc = rc ? rc : load_tc(m);
	if (rc) {
		explain(rc, why, size);
		return rc;
	}
	read_ids(m);
	return 0;
}

void off_maps_renewed(struct off_maps *m, const char *dir)
{
	struct named n[PINNED];
	char from[320], to[320];

	names(m, n);
	for (int i = PINNED - PROGRAMS; i < PINNED; i++) {
		snprintf(from, sizeof(from), "%s/" NEW "%s", dir, n[i].name);
		snprintf(to, sizeof(to), "%s/%s", dir, n[i].name);
		if (rename(from, to))
			l7mp_log_warn(OFF_MODULE, "can't rename %s: %s", from, strerror(errno));
		L7MP_FAULT("pin-renamed");
	}
	programs_close(&m->old[0]);
	programs_close(&m->old[1]);
}
