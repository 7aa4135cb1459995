/* SPDX-License-Identifier: MIT */
/* XDP features of a device, from the "netdev" generic netlink family (since Linux 6.3). */
#include <errno.h>
#include <linux/genetlink.h>
#include <string.h>

#include "hook.h"

/* <linux/netdev.h> is not in Debian 12's kernel headers. */
#define NETDEV_CMD_DEV_GET        1
#define NETDEV_A_DEV_IFINDEX      1
#define NETDEV_A_DEV_XDP_FEATURES 3
#define NETDEV_XDP_ACT_BASIC      1
#define NETDEV_XDP_ACT_NDO_XMIT   4

#define ABSENT   0xffff
#define FRESH_MS 1000

static int on_family(const struct nlmsghdr *nlh, void *arg)
{
	const struct nlattr *a;

	if (!off_nl_payload(nlh, sizeof(struct genlmsghdr)))
		return MNL_CB_STOP;
	mnl_attr_for_each(a, nlh, sizeof(struct genlmsghdr)) if (mnl_attr_get_type(a) ==
	                                                         CTRL_ATTR_FAMILY_ID) *
	        (uint16_t *)arg = off_nl_u16(a);
	return MNL_CB_STOP;
}

static struct nlmsghdr *message(char *buf, uint16_t type, uint8_t command)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct genlmsghdr *genl;

	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST;
	genl = mnl_nlmsg_put_extra_header(nlh, sizeof(*genl));
	genl->cmd = command;
	genl->version = 1;
	return nlh;
}

static void find_family(struct off_nl *nl, uint16_t *family)
{
	char buf[256] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = message(buf, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);

	mnl_attr_put_strz(nlh, CTRL_ATTR_FAMILY_NAME, "netdev");
	if (off_nl_open(nl, NETLINK_GENERIC) || off_nl_request(nl, nlh, on_family, family) ||
	    !*family)
		*family = ABSENT;
}

static int on_device(const struct nlmsghdr *nlh, void *arg)
{
	const struct nlattr *a;

	if (!off_nl_payload(nlh, sizeof(struct genlmsghdr)))
		return MNL_CB_STOP;
	mnl_attr_for_each(a, nlh, sizeof(struct genlmsghdr)) if (mnl_attr_get_type(a) ==
	                                                         NETDEV_A_DEV_XDP_FEATURES) *
	        (uint64_t *)arg = off_nl_u64(a);
	return MNL_CB_STOP;
}

static int query_features(struct off_nl *nl, uint16_t *family, uint32_t ifindex, uint64_t bit)
{
	char buf[256] __attribute__((aligned(8)));
	struct nlmsghdr *nlh;
	uint64_t features = 0;
	int rc;

	if (!*family)
		find_family(nl, family);
	if (*family == ABSENT)
		return -EOPNOTSUPP;
	nlh = message(buf, *family, NETDEV_CMD_DEV_GET);
	mnl_attr_put_u32(nlh, NETDEV_A_DEV_IFINDEX, ifindex);
	rc = off_nl_request(nl, nlh, on_device, &features);
	return rc ? rc : !!(features & bit);
}

int off_xdp_in_driver(uint32_t ifindex)
{
	struct off_nl nl = {.socket = NULL};
	uint16_t family = 0;
	int rc = query_features(&nl, &family, ifindex, NETDEV_XDP_ACT_BASIC);

	off_nl_close(&nl);
	return rc;
}

int off_xdp_can_send(struct off_hooks *h, struct off_link *l)
{
	uint64_t now = l7mp_loop_now(h->path->loop);

	if (!l->send_ms || now - l->send_ms > FRESH_MS) {
		l->can_send = query_features(&h->genl, &h->genl_family, l->ifindex,
		                             NETDEV_XDP_ACT_NDO_XMIT);
		l->send_ms = now | 1;
	}
	return l->can_send;
}
