/* SPDX-License-Identifier: MIT */
/*
 * Messages of rtnetlink that are shorter than they should be: nothing is read behind them
 * (userspace/offload/path/netlink.c, link.c).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>

#include "offload/path/path.h"

/* A message in memory of just its size, so that the sanitizer sees every byte too far. */
static struct nlmsghdr *exact(const struct nlmsghdr *nlh)
{
	struct nlmsghdr *copy = malloc(nlh->nlmsg_len);

	assert_non_null(copy);
	memcpy(copy, nlh, nlh->nlmsg_len);
	return copy;
}

static struct nlmsghdr *link_message(char *buf)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct ifinfomsg *ifi;

	nlh->nlmsg_type = RTM_NEWLINK;
	ifi = mnl_nlmsg_put_extra_header(nlh, sizeof(*ifi));
	ifi->ifi_index = 3;
	return nlh;
}

static void numbers(void **state)
{
	static const uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	uint64_t v64;
	uint32_t v32;
	uint16_t v16;

	(void)state;
	memcpy(&v64, bytes, sizeof(v64));
	memcpy(&v32, bytes, sizeof(v32));
	memcpy(&v16, bytes, sizeof(v16));
	for (size_t len = 0; len <= sizeof(bytes); len++) {
		struct nlattr *a = calloc(1, MNL_ATTR_HDRLEN + len);

		assert_non_null(a);
		a->nla_len = (uint16_t)(MNL_ATTR_HDRLEN + len);
		memcpy(mnl_attr_get_payload(a), bytes, len);
		assert_int_equal(off_nl_u16(a), len >= 2 ? v16 : 0);
		assert_int_equal(off_nl_u32(a), len >= 4 ? v32 : 0);
		assert_true(off_nl_u64(a) == (len >= 8 ? v64 : 0));
		free(a);
	}
}

/* Names of the largest size, and one that does not end. */
static void texts(void **state)
{
	char buf[256] __attribute__((aligned(8))), out[IFNAMSIZ];
	struct nlmsghdr *nlh, *copy;
	struct off_link l;

	(void)state;
	nlh = link_message(buf);
	mnl_attr_put(nlh, IFLA_IFNAME, 16, "0123456789abcdef");
	mnl_attr_put_u16(nlh, IFLA_MTU, 1500);
	copy = exact(nlh);
	assert_int_equal(off_link_parse(copy, &l), 0);
	assert_string_equal(l.name, "0123456789abcde");
	assert_int_equal(l.ifindex, 3);
	assert_int_equal(l.mtu, 0);
	off_nl_text(mnl_nlmsg_get_payload_offset(copy, sizeof(struct ifinfomsg)), out, 4);
	assert_string_equal(out, "012");
	free(copy);
}

static void short_messages(void **state)
{
	char buf[256] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = link_message(buf), *copy;
	struct off_link l;

	(void)state;
	mnl_attr_put_strz(nlh, IFLA_IFNAME, "eth0");
	for (uint32_t len = sizeof(*nlh); len < nlh->nlmsg_len; len++) {
		uint32_t all = nlh->nlmsg_len;

		nlh->nlmsg_len = len;
		copy = exact(nlh);
		nlh->nlmsg_len = all;
		assert_int_equal(!!off_nl_payload(copy, sizeof(struct ifinfomsg)),
		                 len - sizeof(*nlh) >= sizeof(struct ifinfomsg));
		if (len % 4 == 0) /* as messages end */
			(void)off_link_parse(copy, &l);
		free(copy);
	}
	copy = exact(nlh);
	assert_int_equal(off_link_parse(copy, &l), 0);
	assert_string_equal(l.name, "eth0");
	free(copy);
}

/* A VLAN device: the device below it, the tag, and the protocol when none is said. */
static void vlans(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++) {
		char buf[256] __attribute__((aligned(8)));
		struct nlmsghdr *nlh = link_message(buf), *copy;
		struct nlattr *info, *data;
		struct off_link l;

		mnl_attr_put_strz(nlh, IFLA_IFNAME, "eth0.5");
		mnl_attr_put_u32(nlh, IFLA_LINK, 2);
		if (i == 2) /* its device is in another namespace: that number means nothing here */
			mnl_attr_put_u32(nlh, IFLA_LINK_NETNSID, 0);
		info = mnl_attr_nest_start(nlh, IFLA_LINKINFO);
		mnl_attr_put_strz(nlh, IFLA_INFO_KIND, "vlan");
		data = mnl_attr_nest_start(nlh, IFLA_INFO_DATA);
		mnl_attr_put_u16(nlh, IFLA_VLAN_ID, 5);
		if (i == 1)
			mnl_attr_put_u16(nlh, IFLA_VLAN_PROTOCOL, htons(0x88a8));
		mnl_attr_nest_end(nlh, data);
		mnl_attr_nest_end(nlh, info);
		copy = exact(nlh);
		assert_int_equal(off_link_parse(copy, &l), 0);
		assert_string_equal(l.kind, "vlan");
		assert_int_equal(l.parent, i == 2 ? 0 : 2);
		assert_int_equal(l.lower, i == 2 ? 0 : 2);
		assert_int_equal(l.vlan_id, i == 2 ? 0 : 5);
		assert_int_equal(l.vlan_proto, i == 2 ? 0 : htons(i ? 0x88a8 : 0x8100));
		free(copy);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(numbers),
	        cmocka_unit_test(texts),
	        cmocka_unit_test(short_messages),
	        cmocka_unit_test(vlans),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
