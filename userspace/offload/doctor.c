/* SPDX-License-Identifier: MIT */
/* Checks whether this host supports the fast path, and gives advice. Changes nothing. */
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "engine.h"
#include "l7mp/log.h"

#define BPFFS_MAGIC 0xcafe4a11

struct report {
	cJSON *checks;
	bool ok, oom;
};

/* Adds a check. `needed`: the fast path requires it. */
static void check(struct report *r, const char *what, bool ok, bool needed, const char *found,
                  const char *advice)
{
	cJSON *o = cJSON_CreateObject();
	int rc = l7mp_json_add_str(o, "check", what);

	rc |= l7mp_json_add_bool(o, "ok", ok);
	rc |= l7mp_json_add_bool(o, "needed", needed);
	rc |= l7mp_json_add_str(o, "found", found);
	rc |= l7mp_json_add_str(o, "advice", ok ? "" : advice);
	if (rc || !cJSON_AddItemToArray(r->checks, o)) {
		cJSON_Delete(o);
		r->oom = true;
	}
	if (needed && !ok)
		r->ok = false;
}

static void check_kernel(struct report *r)
{
	struct utsname u;
	int major = 0, minor = 0;

	if (uname(&u))
		return;
	(void)sscanf(u.release, "%d.%d", &major, &minor);
	check(r, "kernel", major > 5 || (major == 5 && minor >= 15), true, u.release,
	      "Linux 5.15 or later is needed; 6.1 and later are tested");
	check(r, "btf", !access("/sys/kernel/btf/vmlinux", R_OK), false,
	      access("/sys/kernel/btf/vmlinux", R_OK) ? "no /sys/kernel/btf/vmlinux"
	                                              : "/sys/kernel/btf/vmlinux",
	      "a kernel with CONFIG_DEBUG_INFO_BTF=y lets bpftool show the maps' types and "
	      "several XDP programs share an interface");
}

static void check_files(struct report *r)
{
	char *jit = NULL;
	struct statfs fs;
	size_t len;
	bool bpffs = !statfs(OFF_BPFFS, &fs) && (unsigned)fs.f_type == BPFFS_MAGIC;
	bool fast;

	check(r, "bpffs", bpffs, true, bpffs ? OFF_BPFFS " is a bpffs" : OFF_BPFFS " is no bpffs",
	      "mount -t bpf bpf " OFF_BPFFS
	      " (ip netns exec hides it; nsenter --net does not; root's "
	      "proxy does it by itself, outside of mount namespaces)");
	fast = l7mp_read_file("/proc/sys/net/core/bpf_jit_enable", 64, &jit, &len) || atoi(jit) > 0;
	check(r, "jit", fast, false, jit ? (fast ? "on" : "off") : "not known",
	      "sysctl net.core.bpf_jit_enable=1: interpreted programs are several times slower");
	free(jit);
}

static void check_caps(struct report *r)
{
	static const struct {
		cap_value_t cap;
		const char *name, *advice;
		bool needed;
	} caps[] = {
	        {CAP_BPF, "CAP_BPF", "needed to load programs and make maps", true},
	        {CAP_NET_ADMIN, "CAP_NET_ADMIN", "needed to attach programs", true},
	        {CAP_PERFMON, "CAP_PERFMON",
	         "not needed; without it the kernel puts barriers into the programs that cost time "
	         "for "
	         "each packet",
	         false},
	        {CAP_SYS_ADMIN, "CAP_SYS_ADMIN",
	         "not needed; without it libxdp can't share an interface with other XDP programs",
	         false},
	};
	cap_t mine = cap_get_proc();

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(caps); i++) {
		cap_flag_value_t has = CAP_CLEAR;
		bool ok = mine && !cap_get_flag(mine, caps[i].cap, CAP_EFFECTIVE, &has) &&
		          has == CAP_SET;

		check(r, caps[i].name, ok, caps[i].needed, ok ? "yes" : "no", caps[i].advice);
	}
	if (mine)
		cap_free(mine);
}

static void check_load(struct report *r)
{
	struct off_maps m;
	char why[200] = "the programs load and pass the verifier";
	int rc;

	rc = off_maps_load(&m, 1024, why, sizeof(why));
	check(r, "programs", !rc, true, why, "see the lines above, then the log at level verbose");
	off_maps_close(&m);
}

/* ---- flows of other ABI versions ---- */

static void add_draining(struct l7mp_str *found, const char *instance, const char *name)
{
	struct off_maps m;
	char dir[600];

	snprintf(dir, sizeof(dir), OFF_PINS "/%s/%s", instance, name);
	off_maps_open_old(&m, dir);
	l7mp_str_addf(found, "%s%s: %llu flow entries of ABI %u", found->len ? ", " : "", dir,
	              (unsigned long long)off_maps_n_flows(&m), off_maps_version(&m));
	off_maps_close(&m);
}

static void find_draining(struct l7mp_str *found, const char *instance)
{
	char dir[300];
	const struct dirent *de;
	DIR *d;

	snprintf(dir, sizeof(dir), OFF_PINS "/%s", instance);
	d = opendir(dir);
	while (d && (de = readdir(d)))
		if (off_pins_are_draining(de->d_name))
			add_draining(found, instance, de->d_name);
	if (d)
		closedir(d);
}

static void check_draining(struct report *r)
{
	struct l7mp_str found = {0};
	const struct dirent *de;
	DIR *d = opendir(OFF_PINS);

	while (d && (de = readdir(d)))
		if (de->d_name[0] != '.')
			find_draining(&found, de->d_name);
	if (d)
		closedir(d);
	check(r, "draining", !found.len, false,
	      found.len ? found.s : "no flows of other versions of the proxy",
	      "they go on until they end, or admin.offload_drain.deadline, as long as a proxy "
	      "of the instance runs: GET /offload, `draining`");
	l7mp_str_free(&found);
}

/* ---- interfaces ---- */

struct walk {
	const struct off_settings *set;
	enum l7mp_offload_mode mode;
	cJSON *array;
	bool oom;
};

/* Before Linux 6.3 only attaching shows this: keep the result of off_choose. */
static void query_driver(const struct off_link *l, struct off_choice *c)
{
	if (c->hook != OFF_HOOK_NATIVE || off_xdp_in_driver(l->ifindex) != 0)
		return;
	c->hook = OFF_HOOK_TC;
	c->fall_back = false;
	snprintf(c->why, sizeof(c->why), "the driver does not support XDP");
}

/* A configured interface that doesn't exist. */
static int add_missing(struct walk *w, const char *name)
{
	cJSON *o = cJSON_CreateObject();
	int rc = l7mp_json_add_str(o, "name", name);

	rc |= l7mp_json_add_bool(o, "enabled", true);
	rc |= l7mp_json_add_bool(o, "up", false);
	rc |= l7mp_json_add_str(o, "kind", "");
	rc |= l7mp_json_add_str(o, "driver", "");
	rc |= l7mp_json_add_str(o, "hook", off_hook_name(OFF_HOOK_NONE));
	rc |= l7mp_json_add_str(o, "reason", "no interface has this name");
	rc |= l7mp_json_add_str(o, "advice",
	                        "it is taken as soon as it appears; correct the name otherwise");
	if (!rc && cJSON_AddItemToArray(w->array, o))
		return 0;
	cJSON_Delete(o);
	return -1;
}

static bool listed(const struct walk *w, const char *name)
{
	const cJSON *o;

	cJSON_ArrayForEach (o, w->array)
		if (!strcmp(l7mp_json_str(o, "name", ""), name))
			return true;
	return false;
}

static void list_missing(struct walk *w)
{
	for (size_t i = 0; w->set && i < w->set->n_ifs; i++)
		if (strcmp(w->set->ifs[i], "all") != 0 && !listed(w, w->set->ifs[i]) &&
		    add_missing(w, w->set->ifs[i]))
			w->oom = true;
}

static int add_link(struct walk *w, struct off_link *l)
{
	bool wanted = w->set && off_attach_wanted(w->set, l);
	struct off_choice c;
	cJSON *o = cJSON_CreateObject();
	int rc;

	off_choose(l, w->mode, &c);
	query_driver(l, &c);
	off_link_driver(l->name, l->driver);
	rc = l7mp_json_add_str(o, "name", l->name);
	rc |= l7mp_json_add_bool(o, "enabled", wanted);
	rc |= l7mp_json_add_bool(o, "up", l->flags & IFF_UP);
	rc |= l7mp_json_add_str(o, "kind", l->kind[0] ? l->kind : "device");
	rc |= l7mp_json_add_str(o, "driver", l->driver);
	rc |= l7mp_json_add_str(o, "hook", off_hook_name(c.hook));
	rc |= l7mp_json_add_str(o, "reason", c.why);
	rc |= l7mp_json_add_str(
	        o, "advice",
	        !wanted ? "add it to admin.offload_ifs to have its packets in the fast path"
	        : !(l->flags & IFF_UP) ? "bring it up: ip link set DEV up"
	        : c.fall_back          ? "tc is used when the driver refuses"
	                               : "");
	if (!rc && cJSON_AddItemToArray(w->array, o))
		return 0;
	cJSON_Delete(o);
	return -1;
}

static int on_link(const struct nlmsghdr *nlh, void *arg)
{
	struct walk *w = arg;
	struct off_link l;

	if (!off_link_parse(nlh, &l) && add_link(w, &l))
		w->oom = true;
	return MNL_CB_OK;
}

static void list_links(struct walk *w)
{
	char buf[128] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct off_nl nl = {.socket = NULL};
	struct ifinfomsg *ifi;

	nlh->nlmsg_type = RTM_GETLINK;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	ifi = mnl_nlmsg_put_extra_header(nlh, sizeof(*ifi));
	ifi->ifi_family = AF_UNSPEC;
	if (!off_nl_open(&nl, NETLINK_ROUTE))
		(void)off_nl_request(&nl, nlh, on_link, w);
	off_nl_close(&nl);
}

cJSON *l7mp_offload_doctor(const struct l7mp_admin *admin)
{
	struct report r = {.checks = cJSON_CreateArray(), .ok = true};
	struct walk w = {.array = cJSON_CreateArray()};
	struct off_settings set = {0};
	cJSON *o = cJSON_CreateObject();
	int rc;

	off_log_libraries();
	if (admin && !off_settings_copy(&set, admin)) {
		w.set = &set;
		w.mode = set.mode;
	}
	if (r.checks && w.array) {
		check_kernel(&r);
		check_files(&r);
		check_caps(&r);
		check_load(&r);
		check_draining(&r);
		list_links(&w);
		list_missing(&w);
	}
	off_settings_clear(&set);
	rc = l7mp_json_add_bool(o, "ok", r.ok);
	rc |= l7mp_json_add(o, "checks", r.checks);
	rc |= l7mp_json_add(o, "interfaces", w.array);
	if (!rc && !r.oom && !w.oom)
		return o;
	cJSON_Delete(o);
	return NULL;
}

bool off_may_detach(void)
{
	cap_t mine = cap_get_proc();
	cap_flag_value_t has = CAP_CLEAR;
	bool may =
	        mine && !cap_get_flag(mine, CAP_NET_ADMIN, CAP_EFFECTIVE, &has) && has == CAP_SET;

	if (mine)
		(void)cap_free(mine);
	return may;
}
