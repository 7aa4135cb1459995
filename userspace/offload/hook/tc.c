/* SPDX-License-Identifier: MIT */
/*
 * tc: a direct-action filter at the ingress of clsact (tc-bpf(8)). The qdisc and other filters may
 * belong to other software: our filter is recognised by its BPF program's id.
 *
 * The kernel runs filters by preference, lowest first, until one returns a verdict. Ours returns
 * TC_ACT_UNSPEC for packets of no flow, so that later filters still see them; it is therefore
 * placed first, but for preference 1, which is left for software that must run before it.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>

#include "hook.h"
#include "l7mp/log.h"

#define INGRESS TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
#define EGRESS  TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)

#define PREFERENCE 2
/* How many preferences to try: one may be used by a filter of another kind (flower, matchall). */
#define PREFERENCES 64

/* ---- listing filters ---- */

struct filter {
	uint32_t handle, priority, id;
	unsigned n_before; /* filters of any kind that run first */
};

struct filters {
	struct filter v[64]; /* BPF filters; further ones are ignored */
	unsigned n;
	unsigned total; /* filters of any kind */
};

static int attr_u32(const struct nlattr *attr, int type, uint32_t *out)
{
	const struct nlattr *a;

	mnl_attr_for_each_nested(a, attr)
	{
		if (mnl_attr_get_type(a) != type || mnl_attr_get_payload_len(a) < sizeof(*out))
			continue;
		*out = off_nl_u32(a);
		return 0;
	}
	return -ENOENT;
}

static int on_filter(const struct nlmsghdr *nlh, void *arg)
{
	const struct tcmsg *tcm = off_nl_payload(nlh, sizeof(*tcm));
	const struct nlattr *a, *options = NULL;
	struct filters *f = arg;
	char kind[16] = "";
	uint32_t id;

	if (nlh->nlmsg_type != RTM_NEWTFILTER || !tcm)
		return MNL_CB_OK;
	mnl_attr_for_each(a, nlh, sizeof(*tcm))
	{
		if (mnl_attr_get_type(a) == TCA_KIND)
			off_nl_text(a, kind, sizeof(kind));
		else if (mnl_attr_get_type(a) == TCA_OPTIONS)
			options = a;
	}
	/* Handle 0: a filter's header, without options, which precedes its entries. */
	if (!tcm->tcm_handle)
		return MNL_CB_OK;
	f->total++;
	if (strcmp(kind, "bpf") || !options || f->n == L7MP_ARRAY_SIZE(f->v) ||
	    attr_u32(options, TCA_BPF_ID, &id))
		return MNL_CB_OK;
	f->v[f->n].n_before = f->total - 1;
	f->v[f->n].handle = tcm->tcm_handle;
	f->v[f->n].priority = tcm->tcm_info >> 16;
	f->v[f->n++].id = id;
	return MNL_CB_OK;
}

static int list_filters(struct off_nl *nl, uint32_t ifindex, uint32_t parent, struct filters *f)
{
	char buf[128] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct tcmsg *tcm;

	nlh->nlmsg_type = RTM_GETTFILTER;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	tcm = mnl_nlmsg_put_extra_header(nlh, sizeof(*tcm));
	tcm->tcm_family = AF_UNSPEC;
	tcm->tcm_ifindex = (int)ifindex;
	tcm->tcm_parent = parent;
	return off_nl_request(nl, nlh, on_filter, f);
}

/* ---- attaching ---- */

static bool is_old(const struct off_maps *m, uint32_t id)
{
	for (int i = 0; i < 2 && id; i++)
		if (m->old[i].id_tc == id || m->old[i].id_tc_l3 == id)
			return true;
	return false;
}

/* Finds handle and priority of a previous daemon's filter that still runs. False: none. */
static bool find_old(struct off_hooks *h, const struct off_link *l, struct bpf_tc_opts *opts)
{
	struct filters f = {.n = 0};

	if (h->maps->old[0].tc < 0 || list_filters(&h->path->nl, l->ifindex, INGRESS, &f))
		return false;
	for (unsigned i = 0; i < f.n; i++) {
		if (!is_old(h->maps, f.v[i].id))
			continue;
		opts->handle = f.v[i].handle;
		opts->priority = f.v[i].priority;
		opts->flags = BPF_TC_F_REPLACE;
		return true;
	}
	return false;
}

/* Replaces it atomically: each packet runs through either the old program or the new one. */
static bool replace_old(struct off_hooks *h, struct off_link *l)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)l->ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts);
	int rc;

	if (!find_old(h, l, &opts))
		return false;
	opts.prog_fd = off_link_l3(l) ? h->maps->prog_tc_l3 : h->maps->prog_tc;
	rc = bpf_tc_attach(&hook, &opts);
	if (rc) {
		l7mp_log_warn(OFF_MODULE, "%s: can't replace a predecessor's tc filter: %s",
		              l->name, strerror(-rc));
		return false;
	}
	l->tc = true;
	l->handle = opts.handle;
	l->priority = opts.priority;
	return true;
}

unsigned off_tc_count(struct off_nl *nl, uint32_t ifindex, const struct off_maps *m, uint32_t *last)
{
	struct filters f = {.n = 0};
	unsigned found = 0;

	if (list_filters(nl, ifindex, INGRESS, &f))
		return 0;
	for (unsigned i = 0; i < f.n; i++) {
		uint32_t id = f.v[i].id;

		if (!id || (id != m->id_tc && id != m->id_tc_l3 && !is_old(m, id)))
			continue;
		found++;
		if (f.v[i].priority > *last)
			*last = f.v[i].priority;
	}
	return found;
}

/* Ours come behind those of other versions of us, whose flows go on. Returns how many there are. */
static unsigned behind_drained(struct off_hooks *h, const struct off_link *l, uint32_t *preference)
{
	uint32_t last = PREFERENCE - 1;
	unsigned n = 0;

	for (const struct off_drain *d = h->drains; d; d = d->next)
		n += off_tc_count(&h->path->nl, l->ifindex, &d->maps, &last);
	*preference = last + 1;
	return n;
}

bool off_tc_has_clsact(uint32_t ifindex)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = 1, .priority = UINT16_MAX);

	/* EINVAL: there is no such qdisc; ENOENT: it has no such filter. */
	return bpf_tc_query(&hook, &opts) != -EINVAL;
}

int off_tc_attach(struct off_hooks *h, struct off_link *l, char *why, size_t size)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)l->ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts);
	unsigned n_before = 0, n_drained;
	uint32_t first;
	int rc;

	if (replace_old(h, l))
		return 0;
	n_drained = behind_drained(h, l, &first);
	rc = bpf_tc_hook_create(&hook);
	if (rc && rc != -EEXIST) {
		snprintf(why, size, "tc: can't make a clsact qdisc: %s", strerror(-rc));
		return rc;
	}
	l->made_clsact |= !rc;
	opts.prog_fd = off_link_l3(l) ? h->maps->prog_tc_l3 : h->maps->prog_tc;
	for (uint32_t i = 0; i < PREFERENCES; i++) {
		opts.priority = first + i;
		opts.handle = 0;
		opts.prog_id = 0;
		rc = bpf_tc_attach(&hook, &opts);
		if (rc != -EINVAL && rc != -EEXIST && rc != -EOPNOTSUPP)
			break;
	}
	if (rc) {
		snprintf(why, size, "tc: can't attach: %s", strerror(-rc));
		if (l->made_clsact)
			off_tc_drop_clsact(&h->path->nl, l->ifindex);
		l->made_clsact = false;
		return rc;
	}
	l->tc = true;
	l->handle = opts.handle;
	l->priority = opts.priority;
	if (off_tc_find(&h->path->nl, l->ifindex, h->maps->id_tc, h->maps->id_tc_l3, &n_before) >
	            0 &&
	    n_before > n_drained)
		l7mp_log_warn(OFF_MODULE,
		              "%s: %u tc filters run before ours (preference %u); what they take "
		              "is not forwarded by the kernel",
		              l->name, n_before - n_drained, l->priority);
	return 0;
}

static void detach_filter(uint32_t ifindex, uint32_t handle, uint32_t priority, uint32_t id,
                          uint32_t id_l3)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = handle, .priority = priority);
	int rc = bpf_tc_query(&hook, &opts);

	/* Another program's filter may have this handle now: leave it. */
	if (rc || (opts.prog_id != id && opts.prog_id != id_l3))
		return;
	opts.prog_fd = 0;
	opts.prog_id = 0;
	opts.flags = 0;
	rc = bpf_tc_detach(&hook, &opts);
	if (rc)
		l7mp_log_warn(OFF_MODULE, "tc: can't detach from interface %u: %s", ifindex,
		              strerror(-rc));
}

void off_tc_detach(struct off_hooks *h, struct off_link *l)
{
	if (!l->tc)
		return;
	detach_filter(l->ifindex, l->handle, l->priority, h->maps->id_tc, h->maps->id_tc_l3);
	if (l->made_clsact)
		off_tc_drop_clsact(&h->path->nl, l->ifindex);
	l->tc = false;
	l->made_clsact = false;
}

unsigned off_tc_remove(struct off_nl *nl, uint32_t ifindex, uint32_t id, uint32_t id_l3)
{
	struct filters f = {.n = 0};
	unsigned found = 0;

	if (list_filters(nl, ifindex, INGRESS, &f))
		return 0;
	for (unsigned i = 0; i < f.n; i++) {
		if (!f.v[i].id || (f.v[i].id != id && f.v[i].id != id_l3))
			continue;
		detach_filter(ifindex, f.v[i].handle, f.v[i].priority, id, id_l3);
		found++;
	}
	return found;
}

int off_tc_find(struct off_nl *nl, uint32_t ifindex, uint32_t id, uint32_t id_l3,
                unsigned *n_before)
{
	struct filters f = {.n = 0};
	int rc = list_filters(nl, ifindex, INGRESS, &f);

	if (rc)
		return rc;
	for (unsigned i = 0; i < f.n; i++) {
		if (!f.v[i].id || (f.v[i].id != id && f.v[i].id != id_l3))
			continue;
		*n_before = f.v[i].n_before;
		return 1;
	}
	return 0;
}

void off_tc_drop_clsact(struct off_nl *nl, uint32_t ifindex)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex,
	            .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);
	struct filters f = {.n = 0};
	int rc;

	/* If the filters can't be listed, keep the qdisc: an empty clsact does no harm. */
	if (list_filters(nl, ifindex, INGRESS, &f) || list_filters(nl, ifindex, EGRESS, &f) ||
	    f.total)
		return;
	rc = bpf_tc_hook_destroy(&hook);
	/* EINVAL: there is no such qdisc any more. */
	if (rc && rc != -ENOENT && rc != -ENODEV && rc != -EINVAL)
		l7mp_log_warn(OFF_MODULE, "tc: can't remove the clsact qdisc of interface %u: %s",
		              ifindex, strerror(-rc));
}
