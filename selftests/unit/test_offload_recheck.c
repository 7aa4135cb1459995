/* SPDX-License-Identifier: MIT */
/*
 * Routes that are asked for again (userspace/offload/path/recheck.c), against a kernel that the
 * test plays: one that announces a change before it makes it, or does not announce it at all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <string.h>

#include "offload/engine.h"

/* ---- the kernel: the linker's --wrap, the Makefile says so for this test ---- */

static uint32_t path_mtu;  /* 0: not known */
static uint32_t route_oif; /* interface of the route to everybody; 0: there is none */
static int asked;

int __wrap_off_nl_request(struct off_nl *nl, struct nlmsghdr *request, mnl_cb_t cb, void *arg);
int __wrap_off_nl_request(struct off_nl *nl, struct nlmsghdr *request, mnl_cb_t cb, void *arg)
{
	char buf[256] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct rtmsg *rtm;

	(void)nl;
	if (request->nlmsg_type == RTM_GETRULE) /* do rules depend on ports? There are none. */
		return 0;
	assert_int_equal(request->nlmsg_type, RTM_GETROUTE);
	asked++;
	if (!route_oif)
		return -ENETUNREACH;
	nlh->nlmsg_type = RTM_NEWROUTE;
	rtm = mnl_nlmsg_put_extra_header(nlh, sizeof(*rtm));
	rtm->rtm_family = AF_INET;
	rtm->rtm_type = RTN_UNICAST;
	mnl_attr_put_u32(nlh, RTA_OIF, route_oif);
	if (path_mtu) {
		struct nlattr *metrics = mnl_attr_nest_start(nlh, RTA_METRICS);

		mnl_attr_put_u32(nlh, RTAX_MTU, path_mtu);
		mnl_attr_nest_end(nlh, metrics);
	}
	(void)cb(nlh, arg);
	return 0;
}

/* ---- an engine with nexthops only ---- */

static struct l7mp_offload_engine e;
static struct off_link links[2];
static struct l7mp_addr here, there;
static int retries;

static void on_retry(void *arg)
{
	(void)arg;
	retries++;
}

static const struct l7mp_offload_events events = {.retry = on_retry};

static void retry_timer(struct l7mp_timer *t, void *arg)
{
	(void)t;
	(void)arg;
	on_retry(NULL);
}

static void on_path(void *arg, enum off_path_event event, struct off_link *link)
{
	(void)arg;
	(void)link;
	if (event == OFF_PATH_WORK && !l7mp_timer_armed(&e.work))
		assert_int_equal(l7mp_timer_start(e.loop, &e.work, 0), 0);
	else if (event == OFF_PATH_RETRY)
		off_retry_soon(&e);
}

static int setup(void **state)
{
	(void)state;
	memset(&e, 0, sizeof(e));
	assert_int_equal(l7mp_loop_new_manual(&e.loop), 0);
	e.table.maps.flows4 = e.table.maps.flows6 = -1;
	e.table.events = &events;
	e.path.loop = e.loop;
	e.path.changed = on_path;
	e.path.arg = &e;
	e.state = OFF_ACTIVE;
	l7mp_timer_init(&e.work, off_changes_work, &e);
	l7mp_timer_init(&e.retry, retry_timer, &e);
	assert_int_equal(off_recheck_start(&e.path), 0);
	for (int i = 0; i < 2; i++) { /* without ARP: they need no neighbour */
		memset(&links[i], 0, sizeof(links[i]));
		links[i].ifindex = (uint32_t)i + 7;
		links[i].type = OFF_ARP_ETHER;
		links[i].flags = IFF_UP | IFF_NOARP;
		HASH_ADD(hh, e.path.links, ifindex, sizeof(links[i].ifindex), &links[i]);
	}
	assert_int_equal(l7mp_addr_parse(&here, "10.0.0.1", 1), 0);
	assert_int_equal(l7mp_addr_parse(&there, "10.0.0.2", 2), 0);
	route_oif = 7;
	path_mtu = 0;
	asked = retries = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	off_nexthops_clear(&e.path);
	off_recheck_stop(&e.path);
	HASH_CLEAR(hh, e.path.links);
	return l7mp_loop_free(&e.loop);
}

/* In use by a flow that is about to leave, so that nothing but the route is looked at. */
static struct l7mp_flow flow;
static struct off_use use;

static struct off_nexthop *nexthop_in_use(void)
{
	struct off_nexthop *nh = off_nexthop_get(&e.path, IPPROTO_UDP, &here, &there);

	assert_non_null(nh);
	memset(&use, 0, sizeof(use));
	flow.out = true;
	use.flow = &flow;
	off_nexthop_use(nh, &use);
	return nh;
}

/* ---- the tests ---- */

static void told_before(void **state)
{
	struct off_nexthop *nh = nexthop_in_use();
	(void)state;

	assert_int_equal(nh->reason, L7MP_REASON_NONE);
	off_nexthop_dirty(&e.path, nh);
	l7mp_loop_advance(e.loop, 1);
	assert_int_equal(nh->reason, L7MP_REASON_NONE); /* that was asked too early */
	route_oif = 0;
	l7mp_loop_advance(e.loop, 28);
	assert_int_equal(nh->reason, L7MP_REASON_NONE);
	l7mp_loop_advance(e.loop, 2);
	assert_int_equal(nh->reason, L7MP_REASON_NO_ROUTE);
	assert_int_equal(use.generation, nh->generation); /* its flows have been looked at */
	route_oif = 8; /* and what returns without an event is found later */
	l7mp_loop_advance(e.loop, 1010);
	assert_int_equal(nh->reason, L7MP_REASON_NONE);
	assert_int_equal(nh->ifindex, 8);
	assert_true(retries > 0);
	off_nexthop_unuse(&e.path, nh, &use);
}

/* Nothing happened: two questions more, then one each ten seconds, and flows are left alone. */
static void unchanged(void **state)
{
	struct off_nexthop *nh = nexthop_in_use();
	uint32_t generation;
	(void)state;

	off_nexthop_dirty(&e.path, nh);
	l7mp_loop_advance(e.loop, 1);
	generation = nh->generation;
	assert_int_equal(asked, 2);
	l7mp_loop_advance(e.loop, 5000);
	assert_int_equal(asked, 4);
	assert_int_equal(nh->generation, generation);
	assert_int_equal(retries, 0);
	l7mp_loop_advance(e.loop, 10000);
	assert_int_equal(asked, 5);
	l7mp_loop_advance(e.loop, 20000);
	assert_int_equal(asked, 7);
	assert_int_equal(nh->generation, generation);
	off_nexthop_unuse(&e.path, nh, &use);
	assert_null(e.path.nexthops);
	l7mp_loop_advance(e.loop, 20000);
	assert_int_equal(asked, 7);
	assert_false(l7mp_timer_armed(&e.path.recheck_timer));
}

/* The kernel learns of a smaller MTU on the path, and forgets it: it says so to nobody. */
static void path(void **state)
{
	struct off_nexthop *nh = nexthop_in_use();
	(void)state;

	assert_int_equal(nh->mtu, 0);
	path_mtu = 1280;
	l7mp_loop_advance(e.loop, 10001);
	assert_int_equal(nh->mtu, 1280);
	assert_int_equal(use.generation, nh->generation);
	path_mtu = 0;
	l7mp_loop_advance(e.loop, 10001);
	assert_int_equal(nh->mtu, 0);
	assert_int_equal(retries, 0);
	off_nexthop_unuse(&e.path, nh, &use);
}

/* One that failed, was left alone, and comes back: it is looked at now and then like any other. */
static void comes_back(void **state)
{
	struct off_nexthop *nh;
	(void)state;

	route_oif = 0;
	nh = nexthop_in_use();
	off_nexthop_unuse(&e.path, nh, &use);
	l7mp_loop_advance(e.loop, 20000);
	assert_false(l7mp_timer_armed(&e.path.recheck_timer));
	assert_ptr_equal(nexthop_in_use(), nh);
	route_oif = 7;
	l7mp_loop_advance(e.loop, 10001);
	assert_int_equal(nh->reason, L7MP_REASON_NONE);
	off_nexthop_unuse(&e.path, nh, &use);
}

/* The second one counts from the last message. */
static void again(void **state)
{
	struct off_nexthop *nh = nexthop_in_use();
	(void)state;

	for (int i = 0; i < 50; i++) {
		off_nexthop_dirty(&e.path, nh);
		l7mp_loop_advance(e.loop, 20);
	}
	assert_int_equal(asked, 51);
	route_oif = 0;
	l7mp_loop_advance(e.loop, 15);
	assert_int_equal(nh->reason, L7MP_REASON_NO_ROUTE);
	off_nexthop_unuse(&e.path, nh, &use);
}

/* One that is made between the message and the change. */
static void made_between(void **state)
{
	struct off_nexthop *nh;
	(void)state;

	e.path.routes_changed_ms = l7mp_loop_now(e.loop);
	l7mp_loop_advance(e.loop, 10);
	nh = nexthop_in_use();
	route_oif = 0;
	l7mp_loop_advance(e.loop, 40);
	assert_int_equal(nh->reason, L7MP_REASON_NO_ROUTE);
	off_nexthop_unuse(&e.path, nh, &use);
	off_nexthops_clear(&e.path);
	/* Long after: nobody asks again. */
	route_oif = 7;
	l7mp_loop_advance(e.loop, 2000);
	asked = 0;
	nh = nexthop_in_use();
	l7mp_loop_advance(e.loop, 2000);
	assert_int_equal(asked, 1);
	off_nexthop_unuse(&e.path, nh, &use);
}

/* It goes while its turn is still to come. */
static void freed(void **state)
{
	struct off_nexthop *nh = nexthop_in_use();
	(void)state;

	off_nexthop_dirty(&e.path, nh);
	l7mp_loop_advance(e.loop, 1);
	off_nexthop_unuse(&e.path, nh, &use);
	assert_null(e.path.nexthops);
	l7mp_loop_advance(e.loop, 5000);
	assert_int_equal(asked, 2);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	        TEST(told_before), TEST(unchanged),    TEST(path),  TEST(comes_back),
	        TEST(again),       TEST(made_between), TEST(freed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
