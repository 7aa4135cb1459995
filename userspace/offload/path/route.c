/* SPDX-License-Identifier: MIT */
/* Route look-ups in the kernel (rtnetlink(7), RTM_GETROUTE), and route events. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l7mp/log.h"
#include "path.h"

static size_t addr_len(uint8_t family)
{
	return family == L7MP_FAMILY_V4 ? 4 : 16;
}

static int af(uint8_t family)
{
	return family == L7MP_FAMILY_V4 ? AF_INET : AF_INET6;
}

/* ---- look-up ---- */

struct answer {
	bool seen;
	uint8_t type;
	uint32_t oif, mtu;
	bool encap;
	uint8_t gateway[16];
	uint8_t gateway_family;
};

static void read_metrics(const struct nlattr *metrics, struct answer *out)
{
	const struct nlattr *a;

	mnl_attr_for_each_nested(a, metrics) if (mnl_attr_get_type(a) == RTAX_MTU) out->mtu =
	        off_nl_u32(a);
}

static void read_gateway(const void *addr, size_t len, struct answer *out)
{
	if (len != 4 && len != 16)
		return;
	memcpy(out->gateway, addr, len);
	out->gateway_family = len == 4 ? L7MP_FAMILY_V4 : L7MP_FAMILY_V6;
}

static int on_route(const struct nlmsghdr *nlh, void *arg)
{
	const struct rtmsg *rtm = off_nl_payload(nlh, sizeof(*rtm));
	struct answer *out = arg;
	const struct nlattr *a;

	if (nlh->nlmsg_type != RTM_NEWROUTE || !rtm)
		return MNL_CB_OK;
	out->seen = true;
	out->type = rtm->rtm_type;
	mnl_attr_for_each(a, nlh, sizeof(*rtm))
	{
		const uint8_t *data = mnl_attr_get_payload(a);
		size_t len = mnl_attr_get_payload_len(a);

		switch (mnl_attr_get_type(a)) {
		case RTA_OIF:
			out->oif = off_nl_u32(a);
			break;
		case RTA_GATEWAY:
			read_gateway(data, len, out);
			break;
		case RTA_VIA: /* struct rtvia: family, address */
			if (len > 2)
				read_gateway(data + 2, len - 2, out);
			break;
		case RTA_METRICS:
			read_metrics(a, out);
			break;
		case RTA_ENCAP:
			out->encap = true;
			break;
		}
	}
	return MNL_CB_STOP;
}

static int query_route(struct off_path *p, const struct off_nexthop_key *key, struct answer *out)
{
	char buf[256] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	size_t len = addr_len(key->family);
	struct rtmsg *rtm;
	int rc;

	nlh->nlmsg_type = RTM_GETROUTE;
	nlh->nlmsg_flags = NLM_F_REQUEST;
	rtm = mnl_nlmsg_put_extra_header(nlh, sizeof(*rtm));
	rtm->rtm_family = (unsigned char)af(key->family);
	rtm->rtm_dst_len = (unsigned char)(len * 8);
	rtm->rtm_src_len = (unsigned char)(len * 8);
	mnl_attr_put(nlh, RTA_DST, len, key->dst);
	mnl_attr_put(nlh, RTA_SRC, len, key->src);
	if (key->scope)
		mnl_attr_put_u32(nlh, RTA_OIF, key->scope);
	if (key->l4) {
		mnl_attr_put_u8(nlh, RTA_IP_PROTO, key->l4);
		mnl_attr_put_u16(nlh, RTA_SPORT, key->sport);
		mnl_attr_put_u16(nlh, RTA_DPORT, key->dport);
	}
	memset(out, 0, sizeof(*out));
	rc = off_nl_request(&p->nl, nlh, on_route, out);
	return rc ? rc : out->seen ? 0 : -ENOENT;
}

static bool usable(const struct answer *r)
{
	return (r->type == RTN_UNICAST || r->type == RTN_LOCAL) && r->oif && !r->encap;
}

bool off_route_changed(struct off_path *p, const struct off_nexthop *nh)
{
	struct answer r;

	if (query_route(p, &nh->key, &r) || !usable(&r))
		return nh->reason != L7MP_REASON_NO_ROUTE;
	if (nh->reason == L7MP_REASON_NO_ROUTE || (r.type == RTN_LOCAL) != nh->local)
		return true;
	return !nh->local && (r.oif != nh->ifindex || r.mtu != nh->mtu ||
	                      r.gateway_family != nh->gateway_family ||
	                      memcmp(r.gateway, nh->gateway, sizeof(r.gateway)) != 0);
}

void off_route_lookup(struct off_path *p, struct off_nexthop *nh)
{
	struct answer r;
	int rc = query_route(p, &nh->key, &r);

	off_neigh_unbind(p, nh);
	nh->local = false;
	nh->ifindex = r.oif;
	nh->mtu = r.mtu;
	nh->gateway_family = r.gateway_family;
	memcpy(nh->gateway, r.gateway, sizeof(nh->gateway));
	if (rc || !usable(&r)) {
		nh->reason = L7MP_REASON_NO_ROUTE;
		return;
	}
	nh->reason = L7MP_REASON_NONE;
	if (r.type == RTN_LOCAL) {
		nh->local = true;
		nh->ifindex = 1; /* LOOPBACK_IFINDEX: lo is the first device of every namespace */
		return;
	}
	off_neigh_bind(p, nh);
}

/* ---- do ports matter? ---- */

/* Multipath routes choose a path by a hash, which includes ports with policies other than 0. */
static bool hashes_ports(const char *family)
{
	char path[80], digit = '0';
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/%s/fib_multipath_hash_policy", family);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (read(fd, &digit, 1) != 1)
		digit = '0';
	close(fd);
	return digit != '0';
}

static int on_rule(const struct nlmsghdr *nlh, void *arg)
{
	const struct nlattr *a;
	bool *found = arg;

	if (nlh->nlmsg_type != RTM_NEWRULE || !off_nl_payload(nlh, sizeof(struct fib_rule_hdr)))
		return MNL_CB_OK;
	mnl_attr_for_each(a, nlh, sizeof(struct fib_rule_hdr))
	{
		int type = mnl_attr_get_type(a);

		*found = *found || type == FRA_IP_PROTO || type == FRA_SPORT_RANGE ||
		         type == FRA_DPORT_RANGE;
	}
	return MNL_CB_OK;
}

static bool rules_have_ports(struct off_path *p, uint8_t family)
{
	char buf[128] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct fib_rule_hdr *rule;
	bool found = false;

	nlh->nlmsg_type = RTM_GETRULE;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	rule = mnl_nlmsg_put_extra_header(nlh, sizeof(*rule));
	rule->family = (uint8_t)af(family);
	(void)off_nl_request(&p->nl, nlh, on_rule, &found);
	return found;
}

void off_routes_check_ports(struct off_path *p)
{
	bool by_port = hashes_ports("ipv4") || hashes_ports("ipv6") ||
	               rules_have_ports(p, L7MP_FAMILY_V4) || rules_have_ports(p, L7MP_FAMILY_V6);

	p->ports_ms = l7mp_loop_now(p->loop);
	if (by_port == p->by_port)
		return;
	p->by_port = by_port;
	off_path_notify(p, OFF_PATH_REPLAN, NULL);
}

/* ---- events ---- */

void off_routes_event(struct off_path *p, const struct nlmsghdr *nlh)
{
	const struct rtmsg *rtm = off_nl_payload(nlh, sizeof(*rtm));
	static const uint8_t all[16];
	const uint8_t *dst = all;
	const struct nlattr *a;
	uint8_t family;

	if (!rtm)
		return;
	if (rtm->rtm_family == AF_INET)
		family = L7MP_FAMILY_V4;
	else if (rtm->rtm_family == AF_INET6)
		family = L7MP_FAMILY_V6;
	else
		return;
	mnl_attr_for_each(a, nlh, sizeof(*rtm)) if (mnl_attr_get_type(a) == RTA_DST &&
	                                            mnl_attr_get_payload_len(a) == addr_len(family))
	        dst = mnl_attr_get_payload(a);
	off_nexthops_dirty_prefix(p, family, dst, dst == all ? 0 : rtm->rtm_dst_len);
}
