/* SPDX-License-Identifier: MIT */
/* The interfaces of this network namespace, read from rtnetlink(7). */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "l7mp/log.h"
#include "path.h"

#define STRIPS_FRESH_MS 1000

#define DUMPS 5 /* attempts to get a consistent dump */

struct attrs {
	const struct nlattr **v;
	int max;
};

static int collect(const struct nlattr *attr, void *arg)
{
	struct attrs *a = arg;
	int type = mnl_attr_get_type(attr);

	if (type <= a->max)
		a->v[type] = attr;
	return MNL_CB_OK;
}

static void parse_vlan(const struct nlattr *data, struct off_link *out)
{
	const struct nlattr *v[IFLA_VLAN_MAX + 1] = {NULL};
	struct attrs a = {v, IFLA_VLAN_MAX};

	mnl_attr_parse_nested(data, collect, &a);
	if (v[IFLA_VLAN_ID])
		out->vlan_id = off_nl_u16(v[IFLA_VLAN_ID]);
	out->vlan_proto = v[IFLA_VLAN_PROTOCOL] ? off_nl_u16(v[IFLA_VLAN_PROTOCOL]) : htons(0x8100);
}

static void parse_kind(const struct nlattr *info, const struct nlattr *parent, bool foreign,
                       struct off_link *out)
{
	const struct nlattr *v[IFLA_INFO_MAX + 1] = {NULL};
	struct attrs a = {v, IFLA_INFO_MAX};

	mnl_attr_parse_nested(info, collect, &a);
	if (v[IFLA_INFO_KIND])
		off_nl_text(v[IFLA_INFO_KIND], out->kind, sizeof(out->kind));
	/* A veth's IFLA_LINK is its peer. An index of another namespace is meaningless here. */
	if (parent && !foreign && strcmp(out->kind, "veth") != 0)
		out->lower = off_nl_u32(parent);
	if (strcmp(out->kind, "vlan") || !parent || foreign)
		return;
	out->parent = off_nl_u32(parent);
	if (v[IFLA_INFO_DATA])
		parse_vlan(v[IFLA_INFO_DATA], out);
}

int off_link_parse(const struct nlmsghdr *nlh, struct off_link *out)
{
	const struct ifinfomsg *ifi = off_nl_payload(nlh, sizeof(*ifi));
	const struct nlattr *v[IFLA_MAX + 1] = {NULL};
	struct attrs a = {v, IFLA_MAX};

	if (!ifi || ifi->ifi_family != AF_UNSPEC)
		return -EINVAL;
	if (mnl_attr_parse(nlh, sizeof(*ifi), collect, &a) < 0 || !v[IFLA_IFNAME])
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	out->ifindex = (uint32_t)ifi->ifi_index;
	out->type = ifi->ifi_type;
	out->flags = ifi->ifi_flags;
	off_nl_text(v[IFLA_IFNAME], out->name, sizeof(out->name));
	if (v[IFLA_MTU])
		out->mtu = off_nl_u32(v[IFLA_MTU]);
	if (v[IFLA_ADDRESS] && mnl_attr_get_payload_len(v[IFLA_ADDRESS]) == sizeof(out->mac))
		memcpy(out->mac, mnl_attr_get_payload(v[IFLA_ADDRESS]), sizeof(out->mac));
	if (v[IFLA_MASTER])
		out->master = off_nl_u32(v[IFLA_MASTER]);
	if (v[IFLA_LINKINFO])
		parse_kind(v[IFLA_LINKINFO], v[IFLA_LINK], v[IFLA_LINK_NETNSID] != NULL, out);
	return 0;
}

struct off_link *off_link_find(const struct off_path *p, uint32_t ifindex)
{
	struct off_link *l = NULL;

	HASH_FIND(hh, p->links, &ifindex, sizeof(ifindex), l);
	return l;
}

static struct off_link *link_add(struct off_path *p, const struct off_link *fresh)
{
	struct off_link *l = malloc(sizeof(*l));

	if (!l)
		return NULL;
	*l = *fresh;
	HASH_ADD(hh, p->links, ifindex, sizeof(l->ifindex), l);
	if (!l->hh.tbl) {
		free(l);
		return NULL;
	}
	return l;
}

/* Updates the attributes that can change. True if routes may be affected. */
static bool link_change(struct off_link *l, const struct off_link *fresh)
{
	bool changed = l->mtu != fresh->mtu || memcmp(l->mac, fresh->mac, sizeof(l->mac)) ||
	               (l->flags ^ fresh->flags) & (OFF_LINK_CARRIES | IFF_RUNNING | IFF_NOARP) ||
	               l->parent != fresh->parent || l->vlan_id != fresh->vlan_id;

	if (strcmp(l->name, fresh->name)) {
		l7mp_log_notice(OFF_MODULE, "interface %s is now named %s", l->name, fresh->name);
		memcpy(l->name, fresh->name, sizeof(l->name));
		changed = true;
	}
	l->flags = fresh->flags;
	l->mtu = fresh->mtu;
	l->parent = fresh->parent;
	l->master = fresh->master;
	l->lower = fresh->lower;
	l->vlan_id = fresh->vlan_id;
	l->vlan_proto = fresh->vlan_proto;
	memcpy(l->mac, fresh->mac, sizeof(l->mac));
	if (changed)
		l->tried = l->lost = false;
	return changed;
}

static void link_removed(struct off_path *p, uint32_t ifindex)
{
	struct off_link *l = off_link_find(p, ifindex);

	if (!l)
		return;
	if (l->hook != OFF_HOOK_NONE)
		l7mp_log_notice(OFF_MODULE, "interface %s is gone", l->name);
	off_path_notify(p, OFF_PATH_LINK_REMOVED, l);
	HASH_DELETE(hh, p->links, l);
	free(l);
	off_nexthops_link_down(p, ifindex);
}

void off_links_event(struct off_path *p, const struct nlmsghdr *nlh)
{
	struct off_link fresh, *l;
	bool carried;

	if (off_link_parse(nlh, &fresh))
		return;
	p->uppers_old = true;
	if (nlh->nlmsg_type == RTM_DELLINK) {
		link_removed(p, fresh.ifindex);
		return;
	}
	l = off_link_find(p, fresh.ifindex);
	carried = l && off_link_carries(l);
	if (!l) {
		l = link_add(p, &fresh);
		if (!l)
			return;
		off_nexthops_dirty_link(p, l->ifindex);
	} else if (link_change(l, &fresh)) {
		/* IPv4 routes of a link that goes down vanish without a message of their own. */
		off_nexthops_dirty_all(p);
		off_path_notify(p, OFF_PATH_RETRY, NULL);
		if (carried && !off_link_carries(l))
			off_nexthops_link_down(p, l->ifindex);
	}
	off_path_notify(p, OFF_PATH_LINK, l);
}

static int on_link(const struct nlmsghdr *nlh, void *arg)
{
	struct off_path *p = arg;
	struct off_link fresh, *l;

	if (nlh->nlmsg_type != RTM_NEWLINK || off_link_parse(nlh, &fresh))
		return MNL_CB_OK;
	l = off_link_find(p, fresh.ifindex);
	if (l)
		(void)link_change(l, &fresh);
	else
		l = link_add(p, &fresh);
	if (l)
		l->seen = true;
	return MNL_CB_OK;
}

static int request_links(struct off_path *p)
{
	char buf[128] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct ifinfomsg *ifi;

	nlh->nlmsg_type = RTM_GETLINK;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	ifi = mnl_nlmsg_put_extra_header(nlh, sizeof(*ifi));
	ifi->ifi_family = AF_UNSPEC;
	return off_nl_request(&p->nl, nlh, on_link, p);
}

int off_links_dump(struct off_path *p)
{
	struct off_link *l, *next;
	int rc = -EINTR;

	p->uppers_old = true;
	/* EINTR: links changed during the dump, which may be incomplete. */
	for (int i = 0; i < DUMPS && rc == -EINTR; i++) {
		HASH_ITER (hh, p->links, l, next)
			l->seen = false;
		rc = request_links(p);
	}
	/* The deletion of a link may have been among lost events. */
	HASH_ITER (hh, p->links, l, next)
		if (!rc && !l->seen)
			link_removed(p, l->ifindex);
	return rc;
}

void off_links_clear(struct off_path *p)
{
	struct off_link *l, *next;

	HASH_ITER (hh, p->links, l, next) {
		HASH_DELETE(hh, p->links, l);
		free(l);
	}
}

struct off_link *off_link_served(const struct off_path *p, struct off_link *link)
{
	const struct off_link *top = link;
	struct off_link *found = NULL;

	/* The programs parse at most two tags: two VLAN devices above a real one. */
	for (int i = 0; link && i <= 2; i++) {
		/* At tc, frames to another MAC address than the device's are PACKET_OTHERHOST. */
		bool sees = link->hook == OFF_HOOK_NATIVE || link->hook == OFF_HOOK_GENERIC ||
		            !memcmp(link->mac, top->mac, sizeof(top->mac));

		if (off_link_serves(link) && (sees || !found))
			found = link;
		link = link->parent ? off_link_find(p, link->parent) : NULL;
	}
	return found;
}

bool off_link_has_upper(struct off_path *p, const struct off_link *link)
{
	struct off_link *l, *lower, *next;

	if (p->uppers_old) {
		HASH_ITER (hh, p->links, l, next)
			l->has_upper = l->master != 0;
		HASH_ITER (hh, p->links, l, next) {
			lower = l->lower ? off_link_find(p, l->lower) : NULL;
			if (lower)
				lower->has_upper = true;
		}
		p->uppers_old = false;
	}
	return link->has_upper;
}

void off_link_driver(const char *ifname, char out[static 32])
{
	struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
	struct ifreq ifr = {0};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	*out = 0;
	if (fd < 0)
		return;
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", ifname);
	ifr.ifr_data = (char *)&info;
	if (!ioctl(fd, SIOCETHTOOL, &ifr))
		snprintf(out, 32, "%.31s", info.driver);
	close(fd);
}

bool off_link_strips_tags(const struct off_path *p, struct off_link *link)
{
	struct ethtool_value flags = {.cmd = ETHTOOL_GFLAGS, .data = ETH_FLAG_RXVLAN};
	uint64_t now = l7mp_loop_now(p->loop);
	struct ifreq ifr = {0};
	int fd;

	if (link->strips_ms && now - link->strips_ms < STRIPS_FRESH_MS)
		return link->strips_tags;
	link->strips_ms = now | 1;
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", link->name);
	ifr.ifr_data = (char *)&flags;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0) {
		(void)ioctl(fd, SIOCETHTOOL, &ifr);
		close(fd);
	}
	link->strips_tags = flags.data & ETH_FLAG_RXVLAN;
	return link->strips_tags;
}
