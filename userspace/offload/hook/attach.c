/* SPDX-License-Identifier: MIT */
/* Choosing the hook of each interface, and attaching to and detaching from it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <bpf/bpf.h>

#include "hook.h"
#include "l7mp/fault.h"
#include "l7mp/log.h"

const char *off_hook_name(enum off_hook hook)
{
	static const char *const names[] = {"none", "native", "generic", "tc"};

	return names[hook];
}

/* ---- choosing ---- */

/* Virtual devices: their packets may have partial checksums or be GSO, which XDP can't see. */
static bool is_virtual(const struct off_link *l)
{
	return l->kind[0] && strcmp(l->kind, "bond");
}

void off_choose(const struct off_link *l, enum l7mp_offload_mode mode, struct off_choice *out)
{
	memset(out, 0, sizeof(*out));
	out->hook = OFF_HOOK_TC;
	if (l->type == OFF_ARP_LOOPBACK) {
		snprintf(out->why, sizeof(out->why),
		         "loopback packets carry partial checksums, which XDP can't complete");
	} else if (off_link_l3(l)) {
		snprintf(out->why, sizeof(out->why),
		         "the device has no link-layer header, which XDP flows need");
	} else if (mode == L7MP_MODE_TC) {
		snprintf(out->why, sizeof(out->why), "asked for by offload_mode");
	} else if (mode == L7MP_MODE_NATIVE || mode == L7MP_MODE_GENERIC) {
		out->hook = mode == L7MP_MODE_NATIVE ? OFF_HOOK_NATIVE : OFF_HOOK_GENERIC;
		out->fall_back = true;
		snprintf(out->why, sizeof(out->why), "asked for by offload_mode%s",
		         is_virtual(l) ? "; local senders must complete their checksums "
		                         "(ethtool -K tx off)"
		                       : "");
	} else if (is_virtual(l)) {
		snprintf(out->why, sizeof(out->why),
		         "packets of a %s device may carry partial checksums and many segments, "
		         "which XDP can't see",
		         l->kind);
	} else {
		out->hook = OFF_HOOK_NATIVE;
		out->fall_back = true;
		snprintf(out->why, sizeof(out->why), "the driver supports XDP");
	}
}

bool off_attach_wanted(const struct off_settings *s, const struct off_link *l)
{
	if (off_settings_names(s, l->name))
		return true;
	return s->all && l->type != OFF_ARP_LOOPBACK &&
	       ((l->flags & IFF_UP) || l->hook != OFF_HOOK_NONE);
}

/* ---- the record for the next daemon ---- */

static void record(struct off_hooks *h, const struct off_link *l)
{
	struct l7mp_abi_attached rec = {.old_route_localnet = -1, .old_accept_local = -1};

	if (l->made_clsact)
		rec.flags |= L7MP_ATTACHED_CLSACT;
	if (l->type == OFF_ARP_LOOPBACK) {
		rec.old_route_localnet = h->sysctls.old[OFF_ROUTE_LOCALNET];
		rec.old_accept_local = h->sysctls.old[OFF_ACCEPT_LOCAL];
		rec.flags |= L7MP_ATTACHED_SYSCTLS;
	}
	memcpy(rec.name, l->name, sizeof(rec.name));
	if (bpf_map_update_elem(h->maps->attached, &l->ifindex, &rec, BPF_ANY))
		l7mp_log_warn(OFF_MODULE, "can't note that %s is served: %s", l->name,
		              strerror(errno));
}

/* ---- attaching ---- */

bool off_devmap_add(struct off_hooks *h, struct off_link *l)
{
	if (l->in_devmap)
		return true;
	if (bpf_map_update_elem(h->maps->devices, &l->ifindex, &l->ifindex, BPF_ANY))
		return false;
	l->in_devmap = true;
	h->n_devices++;
	return true;
}

static void devmap_remove(struct off_hooks *h, struct off_link *l)
{
	if (!l->in_devmap)
		return;
	(void)bpf_map_delete_elem(h->maps->devices, &l->ifindex);
	l->in_devmap = false;
	h->n_devices--;
}

static int attach_xdp_and_tc(struct off_hooks *h, struct off_link *l, const struct off_choice *c,
                             char *why, size_t size)
{
	int rc = off_xdp_attach(h, l, c->hook, why, size);

	if (rc)
		return rc;
	/*
	 * tc as well, for flows that XDP can't transmit: into lo, or through a device without
	 * ndo_xdp_xmit.
	 */
	rc = off_tc_attach(h, l, why, size);
	if (rc)
		off_xdp_detach(h, l);
	else
		l->hook = c->hook;
	return rc;
}

static int attach(struct off_hooks *h, struct off_link *l)
{
	struct off_choice c;
	char refusal[160] = "";
	int rc;

	off_choose(l, h->set->mode, &c);
	snprintf(l->why, sizeof(l->why), "%s", c.why);
	l->chosen = c.hook;
	if (c.hook != OFF_HOOK_TC) {
		rc = attach_xdp_and_tc(h, l, &c, refusal, sizeof(refusal));
		if (!rc || !c.fall_back)
			return rc;
		snprintf(l->why, sizeof(l->why), "%s", refusal);
		l7mp_log(rc == -EBUSY || h->set->mode != L7MP_MODE_AUTO ? L7MP_LOG_WARN
		                                                        : L7MP_LOG_INFO,
		         OFF_MODULE, "%s: %s; using tc", l->name, refusal);
	}
	rc = off_tc_attach(h, l, refusal, sizeof(refusal));
	if (rc)
		snprintf(l->why, sizeof(l->why), "%s", refusal);
	else
		l->hook = OFF_HOOK_TC;
	return rc;
}

static void set_sysctls(struct off_hooks *h)
{
	int rc = off_sysctls_set(&h->sysctls, OFF_SYSCTL_DIR);

	if (rc)
		l7mp_log_warn(OFF_MODULE,
		              "can't set %s and %s of lo: %s; flows to IPv4 addresses of this host "
		              "stay in user space",
		              off_sysctl_names[0], off_sysctl_names[1], strerror(-rc));
}

/* Interface indexes are per namespace and reused, so the name must match, too. */
static bool read_record(const struct off_maps *m, const struct off_link *l,
                        struct l7mp_abi_attached *rec)
{
	return m->attached >= 0 && !bpf_map_lookup_elem(m->attached, &l->ifindex, rec) &&
	       !strcmp(rec->name, l->name);
}

/* The record of another version of us, whose flows go on, of what it has made; but not `m`'s. */
static bool drained_record(const struct off_hooks *h, const struct off_maps *m,
                           const struct off_link *l, struct l7mp_abi_attached *rec)
{
	for (const struct off_drain *d = h->drains; d; d = d->next)
		if (&d->maps != m && read_record(&d->maps, l, rec))
			return true;
	return false;
}

/* Whether the sysctls have to stay for flows other than those of `m`. */
static bool sysctls_needed(const struct off_hooks *h, const struct off_maps *m,
                           const struct off_link *l)
{
	struct l7mp_abi_attached rec;

	return drained_record(h, m, l, &rec) && rec.flags & L7MP_ATTACHED_SYSCTLS;
}

/* Takes over a previous daemon's clsact and sysctls, so that detaching undoes them. */
static void inherit(struct off_hooks *h, struct off_link *l)
{
	struct l7mp_abi_attached rec;

	if ((h->maps->old[0].tc < 0 || !read_record(h->maps, l, &rec)) &&
	    !drained_record(h, NULL, l, &rec))
		return;
	l->made_clsact = rec.flags & L7MP_ATTACHED_CLSACT;
	if (l->type != OFF_ARP_LOOPBACK || !(rec.flags & L7MP_ATTACHED_SYSCTLS))
		return;
	h->sysctls.old[OFF_ROUTE_LOCALNET] = rec.old_route_localnet;
	h->sysctls.old[OFF_ACCEPT_LOCAL] = rec.old_accept_local;
}

/*
 * Records the clsact before it is created: after a crash in between, the next daemon still knows
 * to remove it.
 */
static void announce(struct off_hooks *h, const struct off_link *l)
{
	struct off_link next = *l;

	next.made_clsact |= !off_tc_has_clsact(l->ifindex);
	record(h, &next);
}

static void serve(struct off_hooks *h, struct off_link *l)
{
	int rc;

	inherit(h, l);
	announce(h, l);
	rc = attach(h, l);
	if (rc) {
		(void)bpf_map_delete_elem(h->maps->attached, &l->ifindex);
		l->tried = true;
		l7mp_log_warn(OFF_MODULE, "%s is not served: %s", l->name, l->why);
		return;
	}
	l->ours = true;
	L7MP_FAULT("attached");
	if (l->type == OFF_ARP_LOOPBACK)
		set_sysctls(h);
	if (!l->driver[0])
		off_link_driver(l->name, l->driver);
	record(h, l);
	L7MP_FAULT("served");
	l7mp_log_notice(OFF_MODULE, "%s is served by %s: %s", l->name, off_hook_name(l->hook),
	                l->why);
	off_nexthops_dirty_all(h->path);
	h->served(h->arg);
}

/* The interface itself may have been deleted already; detaching is then harmless. */
void off_detach(struct off_hooks *h, struct off_link *l)
{
	devmap_remove(h, l);
	if (l->hook == OFF_HOOK_NONE)
		return;
	if (l->ours) {
		off_xdp_detach(h, l);
		off_tc_detach(h, l);
		if (l->type == OFF_ARP_LOOPBACK && !sysctls_needed(h, NULL, l))
			off_sysctls_restore(&h->sysctls, OFF_SYSCTL_DIR);
		(void)bpf_map_delete_elem(h->maps->attached, &l->ifindex);
		l7mp_log_info(OFF_MODULE, "%s is not served any more", l->name);
	}
	l->hook = OFF_HOOK_NONE;
	l->ours = false;
	l->tried = false;
	l->leaving = l->drained = l->gone = false;
	l->why[0] = 0;
	off_nexthops_dirty_all(h->path);
}

/* ---- leaving ---- */

static void begin_leaving(struct off_hooks *h, struct off_link *l)
{
	if (l->leaving)
		return;
	l->leaving = true;
	l->drained = false;
	l->leaving_ms = l7mp_loop_now(h->path->loop);
	L7MP_FAULT("leaving");
	l7mp_log_info(OFF_MODULE, "%s is leaving: its flows are withdrawn", l->name);
	h->withdraw(h->arg, l);
}

/* It is configured again before its programs were detached. */
static void stay(struct off_hooks *h, struct off_link *l)
{
	l->leaving = l->drained = false;
	if (h->set->start == L7MP_OFFLOAD_NO_INIT) {
		off_xdp_forget(l);
		l->ours = false;
	}
	l7mp_log_info(OFF_MODULE, "%s stays: it is configured again", l->name);
	off_nexthops_replan_all(h->path);
	h->served(h->arg);
}

void off_attach_left(struct off_hooks *h, struct off_link *l)
{
	char why[sizeof(l->why)];
	bool lost = l->lost;

	memcpy(why, l->why, sizeof(why));
	L7MP_FAULT("left");
	off_detach(h, l);
	if (lost) {
		l->tried = true;
		memcpy(l->why, why, sizeof(l->why));
	}
	off_attach_update(h, l);
}

/*
 * Does offload_mode now choose another hook for the interface than when it was attached? If not,
 * updates the reason that is shown.
 */
static bool needs_other_hook(const struct off_hooks *h, struct off_link *l)
{
	struct off_choice c;

	off_choose(l, h->set->mode, &c);
	if (c.hook != l->hook)
		return c.hook != l->chosen;
	if (!l->gone)
		snprintf(l->why, sizeof(l->why), "%s", c.why);
	l->chosen = c.hook;
	return false;
}

/* offload: no_init. Looks for our pinned programs on the interface. */
static void find_predecessor(struct off_hooks *h, struct off_link *l)
{
	enum off_hook hook = off_xdp_find(l->ifindex, h->maps);
	struct l7mp_abi_attached rec;
	unsigned n_before;

	l->tc = off_tc_find(&h->path->nl, l->ifindex, h->maps->id_tc, h->maps->id_tc_l3,
	                    &n_before) > 0;
	if (hook == OFF_HOOK_NONE && l->tc)
		hook = OFF_HOOK_TC;
	if (hook == OFF_HOOK_NONE)
		return;
	l->hook = hook;
	l->lost = false;
	snprintf(l->why, sizeof(l->why), "found attached (offload: no_init)");
	off_link_driver(l->name, l->driver);
	if (l->type == OFF_ARP_LOOPBACK)
		h->sysctls.ready = !bpf_map_lookup_elem(h->maps->attached, &l->ifindex, &rec) &&
		                   rec.flags & L7MP_ATTACHED_SYSCTLS;
	l7mp_log_notice(OFF_MODULE, "%s is served by %s: %s", l->name, off_hook_name(hook), l->why);
}

/* Which of the attached programs was removed? NULL: none. */
static const char *missing(struct off_hooks *h, const struct off_link *l)
{
	unsigned n_before;

	if ((l->hook == OFF_HOOK_NATIVE || l->hook == OFF_HOOK_GENERIC) &&
	    off_xdp_find(l->ifindex, h->maps) == OFF_HOOK_NONE)
		return "the XDP program";
	if (l->tc &&
	    !off_tc_find(&h->path->nl, l->ifindex, h->maps->id_tc, h->maps->id_tc_l3, &n_before))
		return "the tc filter";
	return NULL;
}

void off_attach_check(struct off_hooks *h, struct off_link *l)
{
	const char *what;

	if (!h->active || l->hook == OFF_HOOK_NONE || l->gone)
		return;
	what = missing(h, l);
	if (!what)
		return;
	l7mp_log_warn(OFF_MODULE,
	              "%s: %s was removed; it is served again when it changes, or is taken "
	              "out of offload_ifs and put in again",
	              l->name, what);
	l->gone = l->lost = true;
	snprintf(l->why, sizeof(l->why), "hook-lost: %s was removed", what);
	begin_leaving(h, l);
}

void off_attach_update(struct off_hooks *h, struct off_link *l)
{
	bool wanted, found_only = h->set->start == L7MP_OFFLOAD_NO_INIT;

	if (!h->active)
		return;
	wanted = off_attach_wanted(h->set, l);
	if (l->hook == OFF_HOOK_NONE) {
		if (wanted && found_only)
			find_predecessor(h, l);
		else if (wanted && !l->tried)
			serve(h, l);
	} else if (!wanted && found_only && !l->leaving) {
		off_detach(h, l);
	} else if (!wanted || (!found_only && needs_other_hook(h, l))) {
		begin_leaving(h, l);
	} else if (l->leaving && !missing(h, l)) {
		stay(h, l);
	}
}

void off_attach_update_all(struct off_hooks *h)
{
	struct off_link *l, *next;

	HASH_ITER (hh, h->path->links, l, next)
		off_attach_update(h, l);
}

void off_attach_retry_all(struct off_hooks *h)
{
	struct off_link *l, *next;

	HASH_ITER (hh, h->path->links, l, next)
		l->tried = l->lost = false;
	off_attach_update_all(h);
}

/* ---- after a crash ---- */

static void clean_record(struct off_hooks *h, const struct off_maps *old, uint32_t ifindex)
{
	struct l7mp_abi_attached rec;
	const struct off_link *l = off_link_find(h->path, ifindex);

	if (!l || !read_record(old, l, &rec))
		return;
	if (rec.flags & L7MP_ATTACHED_CLSACT)
		off_tc_drop_clsact(&h->path->nl, ifindex);
	if (rec.flags & L7MP_ATTACHED_SYSCTLS && l->hook == OFF_HOOK_NONE &&
	    !sysctls_needed(h, old, l)) {
		struct off_sysctls s;

		off_sysctls_init(&s);
		s.old[OFF_ROUTE_LOCALNET] = rec.old_route_localnet;
		s.old[OFF_ACCEPT_LOCAL] = rec.old_accept_local;
		off_sysctls_restore(&s, OFF_SYSCTL_DIR);
	}
}

static bool remove_old_tc(struct off_hooks *h, const struct off_link *l, const struct off_maps *m)
{
	unsigned n = 0;

	for (int i = 0; i < 2; i++)
		n += off_tc_remove(&h->path->nl, l->ifindex, m->old[i].id_tc, m->old[i].id_tc_l3);
	return n;
}

bool off_attach_finds(struct off_hooks *h, uint32_t id_xdp, uint32_t id_tc, uint32_t id_tc_l3)
{
	struct off_link *l, *next;
	unsigned n_before;

	HASH_ITER (hh, h->path->links, l, next)
		if (off_xdp_find_id(l->ifindex, id_xdp) != OFF_HOOK_NONE ||
		    off_tc_find(&h->path->nl, l->ifindex, id_tc, id_tc_l3, &n_before) > 0)
			return true;
	return false;
}

void off_attach_renewed(struct off_hooks *h)
{
	struct off_link *l, *next;

	HASH_ITER (hh, h->path->links, l, next) {
		bool found = l->hook == OFF_HOOK_TC || l->hook == OFF_HOOK_NONE
		                     ? off_xdp_remove_old(l->ifindex, h->maps)
		                     : false;

		found |= remove_old_tc(h, l, h->maps);
		if (l->hook != OFF_HOOK_NONE)
			continue;
		if (found)
			l7mp_log_notice(OFF_MODULE, "%s: took away what a predecessor left",
			                l->name);
		clean_record(h, h->maps, l->ifindex);
		(void)bpf_map_delete_elem(h->maps->attached, &l->ifindex);
	}
}

void off_attach_clean(struct off_hooks *h, const struct off_maps *old)
{
	struct off_link *l, *next;

	HASH_ITER (hh, h->path->links, l, next) {
		bool found = old->prog_xdp >= 0 && off_xdp_remove(l->ifindex, old);

		found |= off_xdp_remove_old(l->ifindex, old);
		if (off_tc_remove(&h->path->nl, l->ifindex, old->id_tc, old->id_tc_l3))
			found = true;
		found |= remove_old_tc(h, l, old);
		if (found)
			l7mp_log_notice(OFF_MODULE, "%s: took away what a predecessor left",
			                l->name);
		L7MP_FAULT("cleaned-link");
		if (old->attached >= 0)
			clean_record(h, old, l->ifindex);
	}
}

/* XDP in front of the tc program, which stays. */
static void promote(struct off_hooks *h, struct off_link *l)
{
	struct off_choice c;
	char refusal[160] = "";

	off_choose(l, h->set->mode, &c);
	if (!l->ours || l->leaving || l->hook != OFF_HOOK_TC || c.hook == OFF_HOOK_TC ||
	    off_xdp_attach(h, l, c.hook, refusal, sizeof(refusal)))
		return;
	l->hook = c.hook;
	snprintf(l->why, sizeof(l->why), "%s", c.why);
	l7mp_log_notice(OFF_MODULE, "%s is served by %s: %s", l->name, off_hook_name(l->hook),
	                l->why);
	off_nexthops_dirty_all(h->path);
	h->served(h->arg);
}

void off_attach_promote(struct off_hooks *h)
{
	struct off_link *l, *next;

	if (!h->active)
		return;
	HASH_ITER (hh, h->path->links, l, next)
		promote(h, l);
}
