/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <net/if.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <cmocka.h>

#include "l7mp/addr.h"

static void parse_and_print(void **state)
{
	static const struct {
		const char *in;
		const char *ip;
		const char *str;
	} good[] = {
	        {"10.0.0.1", "10.0.0.1", "10.0.0.1:80"},
	        {"0.0.0.0", "0.0.0.0", "0.0.0.0:80"},
	        {"2001:db8::1", "2001:db8::1", "[2001:db8::1]:80"},
	        {"[2001:DB8:0::1]", "2001:db8::1", "[2001:db8::1]:80"},
	        {"::", "::", "[::]:80"},
	        {"::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7:80"},
	        {"[::ffff:c000:207]", "192.0.2.7", "192.0.2.7:80"},
	        {"fe80::1%lo", "fe80::1%lo", "[fe80::1%lo]:80"},
	        {"[fe80::1%1]", "fe80::1%lo", "[fe80::1%lo]:80"},
	        {"fe80::1%4000000", "fe80::1%4000000", "[fe80::1%4000000]:80"},
	};
	static const char *const bad[] = {
	        "",
	        "localhost",
	        "10.0.0",
	        "10.0.0.1.2",
	        "256.1.1.1",
	        "010.0.0.1",
	        "[10.0.0.1]",
	        "[::1",
	        "::1]",
	        "[]",
	        "::1%",
	        " 10.0.0.1",
	        "1:2:3:4:5:6:7:8:9",
	        "10.0.0.1%lo",
	        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
	char buf[L7MP_ADDR_STRLEN];
	struct l7mp_addr a;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(l7mp_addr_parse(&a, good[i].in, 80), 0);
		assert_string_equal(l7mp_addr_ip(&a, buf), good[i].ip);
		assert_string_equal(l7mp_addr_str(&a, buf), good[i].str);
		assert_int_equal(l7mp_addr_port(&a), 80);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(l7mp_addr_parse(&a, bad[i], 80), -EINVAL);
	assert_int_equal(l7mp_addr_parse(&a, NULL, 80), -EINVAL);
	assert_int_equal(l7mp_addr_parse(&a, "fe80::1%nosuchif0", 80), -ENODEV);
	assert_int_equal(l7mp_addr_parse(&a, "fe80::1%99999999999", 80), -ENODEV);
}

static struct l7mp_addr addr(const char *host, uint16_t port)
{
	struct l7mp_addr a;

	assert_int_equal(l7mp_addr_parse(&a, host, port), 0);
	return a;
}

static void mapped_equals_plain(void **state)
{
	struct l7mp_addr plain = addr("192.0.2.7", 5);
	struct l7mp_addr mapped = addr("::ffff:192.0.2.7", 5);
	struct l7mp_addr back, any;
	struct sockaddr_in6 in6 = {
	        .sin6_family = AF_INET6, .sin6_port = htons(5), .sin6_flowinfo = 77};
	uint8_t k1[24], k2[24];

	(void)state;
	assert_true(l7mp_addr_equal(&plain, &mapped));
	inet_pton(AF_INET6, "::ffff:192.0.2.7", &in6.sin6_addr);
	assert_int_equal(l7mp_addr_from_sockaddr(&back, (struct sockaddr *)&in6, sizeof(in6)), 0);
	assert_int_equal(l7mp_addr_family(&back), AF_INET);
	assert_true(l7mp_addr_equal(&plain, &back));
	assert_int_equal(l7mp_addr_key(&plain, k1), l7mp_addr_key(&back, k2));
	assert_memory_equal(k1, k2, 7);
	l7mp_addr_any(&any, AF_INET6, 9);
	assert_true(l7mp_addr_is_any(&any));
	assert_int_equal(l7mp_addr_port(&any), 9);
	l7mp_addr_any(&any, AF_INET, 9);
	assert_true(l7mp_addr_is_any(&any));
	assert_false(l7mp_addr_is_any(&plain));
}

static void comparison_and_keys(void **state)
{
	/* All different from each other. */
	struct l7mp_addr v[] = {
	        addr("10.0.0.1", 1),
	        addr("10.0.0.1", 2),
	        addr("10.0.0.2", 1),
	        addr("::1", 1),
	        addr("fe80::1%1", 1),
	        addr("fe80::1%2", 1),
	        {0},
	        {0},
	        {0},
	        {0},
	        {0},
	};
	size_t n = sizeof(v) / sizeof(v[0]);

	(void)state;
	l7mp_addr_unix(&v[7], "/tmp/a");
	l7mp_addr_unix(&v[8], "/tmp/ab");
	l7mp_addr_unix(&v[9], "@/tmp/a");
	v[10] = (struct l7mp_addr){.len = sizeof(struct sockaddr_ll)};
	v[10].ll = (struct sockaddr_ll){.sll_family = AF_PACKET, .sll_ifindex = 1, .sll_halen = 6};
	for (size_t i = 0; i < n; i++) {
		for (size_t j = 0; j < n; j++) {
			uint8_t ki[24], kj[24];
			size_t li = l7mp_addr_key(&v[i], ki), lj = l7mp_addr_key(&v[j], kj);

			assert_in_range(li, 1, 24);
			assert_int_equal(l7mp_addr_equal(&v[i], &v[j]), i == j);
			assert_int_equal(li == lj && !memcmp(ki, kj, li), i == j);
		}
	}
	assert_true(l7mp_addr_equal_ip(&v[0], &v[1]));
	assert_false(l7mp_addr_equal_ip(&v[4], &v[5]));
	l7mp_addr_set_port(&v[1], 1);
	assert_true(l7mp_addr_equal(&v[0], &v[1]));
	l7mp_addr_set_port(&v[7], 1); /* no port: nothing happens */
	assert_int_equal(l7mp_addr_port(&v[7]), 0);
}

static void flow_label_is_not_identity(void **state)
{
	struct sockaddr_in6 in6 = {
	        .sin6_family = AF_INET6, .sin6_port = htons(1), .sin6_flowinfo = 1234};
	struct l7mp_addr a, b = addr("::1", 1);

	(void)state;
	in6.sin6_addr = in6addr_loopback;
	assert_int_equal(l7mp_addr_from_sockaddr(&a, (struct sockaddr *)&in6, sizeof(in6)), 0);
	assert_true(l7mp_addr_equal(&a, &b));
}

static void unix_names(void **state)
{
	char name[200], buf[L7MP_ADDR_STRLEN];
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct l7mp_addr a, b;

	(void)state;
	assert_int_equal(l7mp_addr_unix(&a, "/run/x.sock"), 0);
	assert_int_equal(a.len, offsetof(struct sockaddr_un, sun_path) + strlen("/run/x.sock") + 1);
	assert_string_equal(l7mp_addr_str(&a, buf), "/run/x.sock");
	assert_string_equal(l7mp_addr_ip(&a, buf), "/run/x.sock");
	assert_int_equal(l7mp_addr_unix(&a, "@abs"), 0);
	assert_int_equal(a.len, offsetof(struct sockaddr_un, sun_path) + 4);
	assert_int_equal(a.un.sun_path[0], 0);
	assert_string_equal(l7mp_addr_str(&a, buf), "@abs");
	assert_int_equal(l7mp_addr_unix(&a, ""), -EINVAL);
	assert_int_equal(l7mp_addr_unix(&a, "@"), -EINVAL);
	memset(name, 'n', sizeof(name));
	name[108] = '\0';
	assert_int_equal(l7mp_addr_unix(&a, name), -ENAMETOOLONG);
	name[107] = '\0';
	assert_int_equal(l7mp_addr_unix(&a, name), 0);
	assert_string_equal(l7mp_addr_str(&a, buf), name);

	/* From the kernel: with and without the terminator, 108 bytes without one, unnamed. */
	l7mp_addr_unix(&a, "/s");
	memcpy(un.sun_path, "/s", 3);
	assert_int_equal(l7mp_addr_from_sockaddr(&b, (struct sockaddr *)&un, 2 + 2), 0);
	assert_true(l7mp_addr_equal(&a, &b));
	assert_int_equal(l7mp_addr_from_sockaddr(&b, (struct sockaddr *)&un, sizeof(un)), 0);
	assert_true(l7mp_addr_equal(&a, &b));
	memset(un.sun_path, 'p', sizeof(un.sun_path));
	assert_int_equal(l7mp_addr_from_sockaddr(&b, (struct sockaddr *)&un, sizeof(un)), 0);
	assert_int_equal(strlen(l7mp_addr_str(&b, buf)), 108);
	assert_int_equal(l7mp_addr_from_sockaddr(&b, (struct sockaddr *)&un, 2), 0);
	assert_int_equal(l7mp_addr_family(&b), AF_UNSPEC);
	assert_string_equal(l7mp_addr_str(&b, buf), "");
	memcpy(un.sun_path, "\0a\0b", 4);
	assert_int_equal(l7mp_addr_from_sockaddr(&b, (struct sockaddr *)&un, 2 + 4), 0);
	assert_string_equal(l7mp_addr_str(&b, buf), "@a@b");
}

static void short_or_foreign_sockaddrs(void **state)
{
	struct sockaddr_storage ss = {.ss_family = AF_INET};
	struct l7mp_addr a;

	(void)state;
	assert_int_equal(l7mp_addr_from_sockaddr(&a, (struct sockaddr *)&ss, 8), -EINVAL);
	ss.ss_family = AF_INET6;
	assert_int_equal(l7mp_addr_from_sockaddr(&a, (struct sockaddr *)&ss, 16), -EINVAL);
	ss.ss_family = AF_PACKET;
	assert_int_equal(l7mp_addr_from_sockaddr(&a, (struct sockaddr *)&ss, 4), -EINVAL);
	ss.ss_family = AF_NETLINK;
	assert_int_equal(l7mp_addr_from_sockaddr(&a, (struct sockaddr *)&ss, 12), -EAFNOSUPPORT);
	assert_int_equal(a.len, 0);
	assert_int_equal(l7mp_addr_from_sockaddr(&a, NULL, 0), 0);
	assert_int_equal(a.len, 0);
}

static void packet_addresses(void **state)
{
	struct sockaddr_ll ll = {.sll_family = AF_PACKET,
	                         .sll_ifindex = 1,
	                         .sll_halen = 6,
	                         .sll_addr = {2, 0, 0, 0, 0, 0xab}};
	char buf[L7MP_ADDR_STRLEN];
	struct l7mp_addr a;

	(void)state;
	assert_int_equal(l7mp_addr_from_sockaddr(&a, (struct sockaddr *)&ll, 18), 0);
	assert_string_equal(l7mp_addr_ip(&a, buf), "02:00:00:00:00:ab");
	assert_string_equal(l7mp_addr_str(&a, buf), "lo/02:00:00:00:00:ab");
	ll.sll_halen = 200; /* nonsense is bounded */
	assert_int_equal(l7mp_addr_from_sockaddr(&a, (struct sockaddr *)&ll, sizeof(ll)), 0);
	assert_int_equal(strlen(l7mp_addr_ip(&a, buf)), 23);
}

static void loopback(void **state)
{
	struct l7mp_addr a = addr("127.9.8.7", 1), b = addr("::1", 1);
	struct l7mp_addr near128 = addr("128.0.0.1", 1);

	(void)state;
	assert_true(l7mp_addr_is_loopback(&a));
	assert_true(l7mp_addr_is_loopback(&b));
	assert_false(l7mp_addr_is_loopback(&near128));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(parse_and_print),     cmocka_unit_test(mapped_equals_plain),
	        cmocka_unit_test(comparison_and_keys), cmocka_unit_test(flow_label_is_not_identity),
	        cmocka_unit_test(unix_names),          cmocka_unit_test(short_or_foreign_sockaddrs),
	        cmocka_unit_test(packet_addresses),    cmocka_unit_test(loopback),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
