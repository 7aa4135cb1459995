/* SPDX-License-Identifier: MIT */
/* Rtnetlink events: routes, neighbours, links, addresses, rules, tc. */
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/log.h"
#include "path.h"

#define BATCH 64

static void resync(struct off_path *p)
{
	struct off_neigh *n, *next;
	struct off_nexthop *nh;

	l7mp_log_info(OFF_MODULE, "rtnetlink events were lost: looking at everything again");
	p->routes_changed_ms = l7mp_loop_now(p->loop);
	(void)off_links_dump(p);
	/* Invalidate the neighbours: they are read again when their nexthops are looked up. */
	HASH_ITER (hh, p->neighs, n, next) {
		n->valid = false;
		n->read_ms = 0;
		DL_FOREACH2(n->nexthops, nh, nnext)
		off_nexthop_dirty(p, nh);
	}
	off_nexthops_dirty_all(p);
	off_path_notify(p, OFF_PATH_RESYNC, NULL);
	off_path_notify(p, OFF_PATH_RETRY, NULL);
}

static void address_event(struct off_path *p, const struct nlmsghdr *nlh)
{
	const struct ifaddrmsg *ifa = off_nl_payload(nlh, sizeof(*ifa));
	uint8_t family;
	const struct nlattr *a, *addr = NULL;

	off_nexthops_dirty_all(p);
	if (nlh->nlmsg_type != RTM_DELADDR || !ifa)
		return;
	family = ifa->ifa_family == AF_INET ? L7MP_FAMILY_V4 : L7MP_FAMILY_V6;
	mnl_attr_for_each(a, nlh, sizeof(*ifa))
	{
		/*
		 * On point-to-point links IFA_ADDRESS is the peer's and IFA_LOCAL ours. IPv6 has
		 * IFA_LOCAL only there.
		 */
		if (mnl_attr_get_type(a) == IFA_LOCAL ||
		    (mnl_attr_get_type(a) == IFA_ADDRESS && !addr))
			addr = a;
	}
	if (addr && mnl_attr_get_payload_len(addr) == (family == L7MP_FAMILY_V4 ? 4 : 16))
		off_nexthops_address_removed(p, family, mnl_attr_get_payload(addr),
		                             mnl_attr_get_payload_len(addr));
}

/* Thousands of filters may change at once: their device is reported once, after the batch. */
static void tc_event(struct off_path *p, const struct nlmsghdr *nlh)
{
	const struct tcmsg *tcm = off_nl_payload(nlh, sizeof(*tcm));
	struct off_link *l = tcm ? off_link_find(p, (uint32_t)tcm->tcm_ifindex) : NULL;

	if (!l || l->hook == OFF_HOOK_NONE)
		return;
	l->tc_changed = true;
	p->tc_changed = true;
}

static void report_tc_changes(struct off_path *p)
{
	struct off_link *l, *next;

	if (!p->tc_changed)
		return;
	p->tc_changed = false;
	HASH_ITER (hh, p->links, l, next) {
		if (!l->tc_changed)
			continue;
		l->tc_changed = false;
		off_path_notify(p, OFF_PATH_HOOK, l);
	}
}

static bool about_routes(uint16_t type)
{
	switch (type) {
	case RTM_NEWNEIGH:
	case RTM_DELNEIGH:
	case RTM_NEWTFILTER:
	case RTM_DELTFILTER:
	case RTM_NEWQDISC:
	case RTM_DELQDISC:
		return false;
	}
	return true;
}

static int on_event(const struct nlmsghdr *nlh, void *arg)
{
	struct off_path *p = arg;

	if (about_routes(nlh->nlmsg_type))
		p->routes_changed_ms = l7mp_loop_now(p->loop);
	switch (nlh->nlmsg_type) {
	case RTM_NEWLINK:
	case RTM_DELLINK:
		off_links_event(p, nlh);
		break;
	case RTM_NEWNEIGH:
	case RTM_DELNEIGH:
		off_neigh_event(p, nlh);
		break;
	case RTM_NEWROUTE:
	case RTM_DELROUTE:
		off_routes_event(p, nlh);
		break;
	case RTM_NEWADDR:
	case RTM_DELADDR:
		address_event(p, nlh);
		break;
	case RTM_NEWTFILTER:
	case RTM_DELTFILTER:
	case RTM_NEWQDISC:
	case RTM_DELQDISC:
		tc_event(p, nlh);
		break;
	case RTM_NEWTCLASS: /* other messages of RTNLGRP_TC */
	case RTM_DELTCLASS:
	case RTM_NEWCHAIN:
	case RTM_DELCHAIN:
		break;
	case RTM_NEWRULE:
	case RTM_DELRULE:
		p->rules_changed = true;
		off_nexthops_dirty_all(p);
		break;
	default: /* nexthop objects: rare, and used by any route */
		off_nexthops_dirty_all(p);
		break;
	}
	return MNL_CB_OK;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	struct off_path *p = poll->data;
	char buf[32 << 10] __attribute__((aligned(8)));

	(void)events;
	/*
	 * Lost messages are a socket error (ENOBUFS, returned by the first receive), on which libuv
	 * stops polling.
	 */
	if (status < 0 && uv_poll_start(poll, UV_READABLE, on_readable))
		return;
	for (int i = 0; i < BATCH; i++) {
		ssize_t n = mnl_socket_recvfrom(p->watch.socket, buf, sizeof(buf));

		if (n < 0 && errno == ENOBUFS) {
			resync(p);
			continue;
		}
		if (n <= 0)
			break;
		(void)mnl_cb_run(buf, (size_t)n, 0, 0, on_event, p);
		if (!p->poll) /* a callback has stopped the engine */
			return;
	}
	report_tc_changes(p);
	if (p->rules_changed)
		off_routes_check_ports(p);
	p->rules_changed = false;
}

static const int groups[] = {
        RTNLGRP_LINK,        RTNLGRP_NEIGH,       RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE,
        RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_RULE,  RTNLGRP_IPV6_RULE,
        RTNLGRP_TC,          RTNLGRP_NEXTHOP,
};

static int subscribe(struct off_nl *nl)
{
	int size = 8 << 20, fd = mnl_socket_get_fd(nl->socket);

	/* A burst of events overflows a small buffer. SO_RCVBUFFORCE ignores rmem_max. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(groups); i++)
		if (mnl_socket_setsockopt(nl->socket, NETLINK_ADD_MEMBERSHIP, (void *)&groups[i],
		                          sizeof(groups[i])) < 0 &&
		    groups[i] != RTNLGRP_NEXTHOP)
			return -errno;
	return 0;
}

int off_monitor_start(struct off_path *p)
{
	int rc = off_nl_open(&p->watch, NETLINK_ROUTE);

	if (!rc)
		rc = subscribe(&p->watch);
	if (rc)
		return rc;
	p->poll = calloc(1, sizeof(*p->poll));
	if (!p->poll)
		return -ENOMEM;
	rc = uv_poll_init(l7mp_loop_uv(p->loop), p->poll, mnl_socket_get_fd(p->watch.socket));
	if (rc) {
		free(p->poll);
		p->poll = NULL;
		return rc;
	}
	p->poll->data = p;
	return uv_poll_start(p->poll, UV_READABLE, on_readable);
}

static void on_closed(uv_handle_t *handle)
{
	free(handle);
}

void off_monitor_stop(struct off_path *p)
{
	if (p->poll) {
		uv_poll_stop(p->poll);
		uv_close((uv_handle_t *)p->poll, on_closed);
	}
	p->poll = NULL;
	off_nl_close(&p->watch);
}
