/* SPDX-License-Identifier: MIT */
/*
 * XDP: through libxdp's dispatcher, beside other programs, where the kernel supports that
 * (freplace); else attached directly, as the only program. Without CAP_SYS_ADMIN programs can't be
 * looked up by id, so ours are reached by descriptor or pin, and recognised by their ids.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xdp/libxdp.h>

#include "hook.h"
#include "l7mp/log.h"
#include "l7mp_xdp.skel.h"

static enum xdp_attach_mode libxdp_mode(enum off_hook hook)
{
	return hook == OFF_HOOK_GENERIC ? XDP_MODE_SKB : XDP_MODE_NATIVE;
}

static __u32 flags_of(enum off_hook hook)
{
	return hook == OFF_HOOK_GENERIC ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE;
}

static uint32_t attached_id(uint32_t ifindex)
{
	LIBBPF_OPTS(bpf_xdp_query_opts, q);

	if (bpf_xdp_query((int)ifindex, 0, &q))
		return 0;
	if (q.attach_mode == XDP_ATTACHED_MULTI)
		return q.drv_prog_id ? q.drv_prog_id : q.skb_prog_id;
	return q.prog_id;
}

/*
 * Whether the program there is libxdp's dispatcher. libxdp would say so, too, but keeps a
 * descriptor of a program that is none (1.3.1): that one then stays in the kernel after its end.
 * False without CAP_SYS_ADMIN.
 */
static bool has_dispatcher(uint32_t ifindex)
{
	struct bpf_prog_info info = {0};
	__u32 len = sizeof(info);
	uint32_t id = attached_id(ifindex);
	int fd = id ? bpf_prog_get_fd_by_id(id) : -1;
	bool found;

	if (fd < 0)
		return false;
	found = !bpf_obj_get_info_by_fd(fd, &info, &len) && !strcmp(info.name, "xdp_dispatcher");
	close(fd);
	return found;
}

/* The version whose program is attached there, alone, until its flows have ended; 0: none. */
static uint32_t drained_version(const struct off_hooks *h, const struct off_link *l)
{
	for (const struct off_drain *d = h->drains; d; d = d->next)
		if (off_xdp_find_id(l->ifindex, d->maps.id_xdp) ||
		    off_xdp_find_id(l->ifindex, d->maps.old[1].id_xdp))
			return d->abi;
	return 0;
}

static void explain(const struct off_hooks *h, int rc, const struct off_link *l, enum off_hook hook,
                    char *why, size_t size)
{
	uint32_t abi = drained_version(h, l);

	if ((rc == -EBUSY || rc == -EEXIST) && abi)
		snprintf(why, size,
		         "the XDP program of ABI %u is attached until its flows have ended, and "
		         "there is no dispatcher for two",
		         abi);
	else if (rc == -EBUSY || rc == -EEXIST)
		snprintf(why, size,
		         "another XDP program (id %u) is attached, and this kernel has no "
		         "dispatcher for two",
		         attached_id(l->ifindex));
	else if (rc == -EOPNOTSUPP)
		snprintf(why, size, "the driver%s%s does not support %s XDP",
		         l->driver[0] ? " " : "", l->driver, off_hook_name(hook));
	else
		snprintf(why, size, "%s XDP was refused: %s", off_hook_name(hook), strerror(-rc));
}

/* ---- libxdp ---- */

/*
 * Loads an own copy of the program for this interface as an extension of libxdp's dispatcher. 0,
 * or a negative errno and nothing is attached: -EOPNOTSUPP when libxdp could attach it only
 * directly, without a dispatcher.
 */
static int attach_dispatched(struct off_hooks *h, struct off_link *l, enum off_hook hook)
{
	DECLARE_LIBXDP_OPTS(xdp_program_opts, opts);
	struct l7mp_xdp *x = off_maps_xdp_object(h->maps);
	struct xdp_program *p;
	int rc;

	if (!x)
		return -errno;
	opts.obj = x->obj;
	opts.prog_name = L7MP_PROG_XDP;
	p = xdp_program__create(&opts);
	rc = (int)libxdp_get_error(p);
	if (rc) {
		l7mp_xdp__destroy(x);
		return rc;
	}
	rc = xdp_program__attach(p, (int)l->ifindex, libxdp_mode(hook), 0);
	if (!rc && attached_id(l->ifindex) == xdp_program__id(p)) {
		LIBBPF_OPTS(bpf_xdp_attach_opts, old, .old_prog_fd = xdp_program__fd(p));

		(void)bpf_xdp_detach((int)l->ifindex, flags_of(hook), &old);
		rc = -EOPNOTSUPP;
	}
	if (rc) {
		xdp_program__close(p);
		l7mp_xdp__destroy(x);
		return rc;
	}
	l->xdp = p;
	l->xdp_object = x; /* must outlive l->xdp, which refers to it */
	return 0;
}

static bool may_dispatch(struct off_hooks *h, struct off_link *l, enum off_hook hook, int *rc)
{
	if (h->dispatcher == 0 || (attached_id(l->ifindex) && !has_dispatcher(l->ifindex)))
		return false;
	*rc = attach_dispatched(h, l, hook);
	if (!*rc) {
		h->dispatcher = 1;
		return true;
	}
	/* libxdp creates this directory for its dispatchers' pins; remove it if it is empty. */
	(void)rmdir(OFF_BPFFS "/xdp");
	/*
	 * Attaching directly may still work whatever libxdp's error is, and gives a more precise
	 * error if it doesn't.
	 */
	if (h->dispatcher < 0)
		l7mp_log_info(OFF_MODULE,
		              "libxdp's dispatcher is not available (%s): XDP programs are "
		              "attached alone",
		              strerror(-*rc));
	h->dispatcher = 0;
	return false;
}

void off_xdp_forget(struct off_link *l)
{
	if (!l->xdp)
		return;
	xdp_program__close(l->xdp);
	l7mp_xdp__destroy(l->xdp_object);
	l->xdp = NULL;
	l->xdp_object = NULL;
}

void off_xdp_detach(struct off_hooks *h, struct off_link *l)
{
	if (l->xdp) {
		int rc = xdp_program__detach(l->xdp, (int)l->ifindex, libxdp_mode(l->hook), 0);

		if (rc && rc != -ENOENT && rc != -ENODEV)
			l7mp_log_warn(OFF_MODULE, "%s: libxdp can't detach: %s", l->name,
			              strerror(-rc));
		(void)rmdir(OFF_BPFFS "/xdp"); /* fails if other pins are in it */
		off_xdp_forget(l);
		return;
	}
	if (l->hook != OFF_HOOK_TC)
		(void)off_xdp_remove(l->ifindex, h->maps);
}

enum off_hook off_xdp_find_id(uint32_t ifindex, uint32_t id)
{
	LIBBPF_OPTS(bpf_xdp_query_opts, q);

	if (!id || bpf_xdp_query((int)ifindex, 0, &q))
		return OFF_HOOK_NONE;
	if (q.drv_prog_id == id || (q.attach_mode == XDP_ATTACHED_DRV && q.prog_id == id))
		return OFF_HOOK_NATIVE;
	if (q.skb_prog_id == id || (q.attach_mode == XDP_ATTACHED_SKB && q.prog_id == id))
		return OFF_HOOK_GENERIC;
	return OFF_HOOK_NONE;
}

/*
 * Does the program use this map? Recognises our extension in a dispatcher, which has another id
 * than our program.
 */
static bool uses_map(int prog_fd, int map_fd)
{
	struct bpf_prog_info prog = {0};
	struct bpf_map_info map = {0};
	__u32 ids[16], len = sizeof(map);

	if (bpf_obj_get_info_by_fd(map_fd, &map, &len))
		return false;
	prog.nr_map_ids = L7MP_ARRAY_SIZE(ids);
	prog.map_ids = (uintptr_t)ids;
	len = sizeof(prog);
	if (bpf_obj_get_info_by_fd(prog_fd, &prog, &len))
		return false;
	for (unsigned i = 0; i < prog.nr_map_ids && i < L7MP_ARRAY_SIZE(ids); i++)
		if (ids[i] == map.id)
			return true;
	return false;
}

/* Finds our extension in the interface's dispatcher; `remove`: detaches it as well. */
static enum off_hook find_dispatched(uint32_t ifindex, const struct off_maps *m, bool remove)
{
	enum off_hook found = OFF_HOOK_NONE;
	struct xdp_program *p = NULL;
	struct xdp_multiprog *mp;
	enum xdp_attach_mode mode;

	if (!has_dispatcher(ifindex))
		return found;
	mp = xdp_multiprog__get_from_ifindex((int)ifindex);
	if (!mp || libxdp_get_error(mp))
		return found;
	mode = xdp_multiprog__attach_mode(mp);
	while (!xdp_multiprog__is_legacy(mp) && (p = xdp_multiprog__next_prog(p, mp))) {
		if (!uses_map(xdp_program__fd(p), m->counters))
			continue;
		if (!remove || !xdp_program__detach(p, (int)ifindex, mode, 0))
			found = mode == XDP_MODE_SKB ? OFF_HOOK_GENERIC : OFF_HOOK_NATIVE;
		break;
	}
	xdp_multiprog__close(mp);
	return found;
}

enum off_hook off_xdp_find(uint32_t ifindex, const struct off_maps *m)
{
	enum off_hook hook = off_xdp_find_id(ifindex, m->id_xdp);

	if (hook == OFF_HOOK_NONE)
		hook = find_dispatched(ifindex, m, false);
	return hook;
}

bool off_xdp_remove(uint32_t ifindex, const struct off_maps *m)
{
	enum off_hook hook = off_xdp_find_id(ifindex, m->id_xdp);
	LIBBPF_OPTS(bpf_xdp_attach_opts, old, .old_prog_fd = m->prog_xdp);
	int rc;

	if (hook == OFF_HOOK_NONE)
		return find_dispatched(ifindex, m, true) != OFF_HOOK_NONE;
	rc = bpf_xdp_detach((int)ifindex, flags_of(hook), &old);
	if (rc)
		l7mp_log_warn(OFF_MODULE, "XDP: can't detach from interface %u: %s", ifindex,
		              strerror(-rc));
	return !rc;
}

/* ---- replacing a previous daemon's program ---- */

/*
 * Replaces it atomically if it is attached in the same mode (true); otherwise detaches it (false).
 */
static bool replace_old(struct off_hooks *h, struct off_link *l, enum off_hook hook)
{
	for (int i = 0; i < 2; i++) {
		LIBBPF_OPTS(bpf_xdp_attach_opts, old, .old_prog_fd = h->maps->old[i].xdp);

		if (off_xdp_find_id(l->ifindex, h->maps->old[i].id_xdp) == hook &&
		    !bpf_xdp_attach((int)l->ifindex, h->maps->prog_xdp,
		                    flags_of(hook) | XDP_FLAGS_REPLACE, &old))
			return true;
	}
	(void)off_xdp_remove_old(l->ifindex, h->maps);
	return false;
}

bool off_xdp_remove_old(uint32_t ifindex, const struct off_maps *m)
{
	bool found = false;

	for (int i = 0; i < 2; i++) {
		enum off_hook hook = off_xdp_find_id(ifindex, m->old[i].id_xdp);
		LIBBPF_OPTS(bpf_xdp_attach_opts, old, .old_prog_fd = m->old[i].xdp);

		if (hook != OFF_HOOK_NONE)
			found |= !bpf_xdp_detach((int)ifindex, flags_of(hook), &old);
	}
	/* In a dispatcher it is recognised by its maps, which both daemons share. */
	if (m->old[0].xdp >= 0 && off_xdp_find_id(ifindex, m->id_xdp) == OFF_HOOK_NONE)
		found |= find_dispatched(ifindex, m, true) != OFF_HOOK_NONE;
	return found;
}

int off_xdp_attach(struct off_hooks *h, struct off_link *l, enum off_hook hook, char *why,
                   size_t size)
{
	int rc = 0;

	off_link_driver(l->name, l->driver);
	if (replace_old(h, l, hook))
		return 0;
	if (may_dispatch(h, l, hook, &rc))
		return 0;
	rc = bpf_xdp_attach((int)l->ifindex, h->maps->prog_xdp,
	                    flags_of(hook) | XDP_FLAGS_UPDATE_IF_NOEXIST, NULL);
	if (rc)
		explain(h, rc, l, hook, why, size);
	return rc;
}
