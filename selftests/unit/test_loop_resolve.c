/* SPDX-License-Identifier: MIT */
/* Name resolution, against a DNS server of the test on loopback. */
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "dns_server.h"
#include "l7mp/resolve.h"
#include "loop/loop_int.h"

/* ---- names that need no server ---- */

struct answer {
	int n, err;
	struct l7mp_addr addr[2 * L7MP_RESOLVE_PER_FAMILY];
	size_t count;
};

static void answer_cb(void *arg, int err, const struct l7mp_addr *addrs, size_t n)
{
	struct answer *a = arg;

	a->n++;
	a->err = err;
	a->count = n;
	if (n)
		memcpy(a->addr, addrs, n * sizeof(*addrs));
}

static void ask(struct l7mp_loop *loop, const char *host, int family, struct answer *a)
{
	struct l7mp_resolve *r = NULL;

	memset(a, 0, sizeof(*a));
	assert_int_equal(l7mp_resolve_start(loop, host, 53, family, answer_cb, a, &r), 0);
	assert_non_null(r);
	assert_int_equal(a->n, 0); /* never from inside the call */
	l7mp_loop_run(loop);
	assert_int_equal(a->n, 1);
}

static void resolve(void **state)
{
	struct l7mp_loop *loop;
	struct answer a;
	char text[L7MP_ADDR_STRLEN];
	char longname[400];
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	ask(loop, "10.1.2.3", AF_UNSPEC, &a);
	assert_int_equal(a.count, 1);
	assert_string_equal(l7mp_addr_str(&a.addr[0], text), "10.1.2.3:53");
	ask(loop, "::ffff:10.1.2.3", AF_UNSPEC, &a);
	assert_string_equal(l7mp_addr_str(&a.addr[0], text), "10.1.2.3:53");
	ask(loop, "[2001:db8::1]", AF_INET6, &a);
	assert_string_equal(l7mp_addr_str(&a.addr[0], text), "[2001:db8::1]:53");
	ask(loop, "10.1.2.3", AF_INET6, &a);
	assert_int_equal(a.count, 0);
	assert_int_equal(a.err, -ENOENT);
	ask(loop, "localhost", AF_INET, &a);
	assert_int_equal(a.count, 1); /* not once per socket type */
	assert_string_equal(l7mp_addr_str(&a.addr[0], text), "127.0.0.1:53");
	ask(loop, "localhost", AF_UNSPEC, &a);
	assert_true(a.count >= 1 && l7mp_addr_is_loopback(&a.addr[0]));
	ask(loop, "no such name..", AF_UNSPEC, &a);
	assert_int_equal(a.count, 0);
	assert_true(a.err == -ENOENT || a.err == -EAGAIN);
	memset(longname, 'x', sizeof(longname));
	longname[sizeof(longname) - 1] = '\0';
	ask(loop, longname, AF_UNSPEC, &a);
	assert_int_equal(a.count, 0);
	assert_true(a.err < 0);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

static void resolve_cancel(void **state)
{
	struct l7mp_loop *loop;
	struct answer a = {0};
	struct l7mp_resolve *r[8];
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	for (int i = 0; i < 8; i++) {
		const char *host = i % 2 ? "localhost" : "127.0.0.1";

		assert_int_equal(l7mp_resolve_start(loop, host, 1, AF_UNSPEC, answer_cb, &a, &r[i]),
		                 0);
	}
	for (int i = 0; i < 8; i++) {
		l7mp_resolve_cancel(&r[i]);
		assert_null(r[i]);
		l7mp_resolve_cancel(&r[i]);
	}
	assert_int_equal(l7mp_loop_free(&loop), 0);
	assert_int_equal(a.n, 0);
}

/* ---- with the server ---- */

static void answers(void **state)
{
	struct dns_server s;
	struct l7mp_loop *loop;
	struct answer a;
	char text[L7MP_ADDR_STRLEN];
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	dns_server_start(&s, loop);
	ask(loop, "one.test", AF_UNSPEC, &a);
	assert_int_equal(a.count, 1);
	assert_string_equal(l7mp_addr_str(&a.addr[0], text), "10.9.8.7:53");
	ask(loop, "both.test", AF_UNSPEC, &a);
	assert_int_equal(a.count, 2);
	ask(loop, "both.test", AF_INET6, &a);
	assert_string_equal(l7mp_addr_str(&a.addr[0], text), "[2001:db8::7]:53");
	ask(loop, "nx.test", AF_UNSPEC, &a);
	assert_int_equal(a.err, -ENOENT);
	ask(loop, "one.test", AF_INET6, &a); /* the name is there, the record is not */
	assert_int_equal(a.err, -ENOENT);
	ask(loop, "fail.test", AF_UNSPEC, &a);
	assert_int_equal(a.err, -EAGAIN);
	ask(loop, "broken.test", AF_INET, &a);
	assert_int_equal(a.count, 0);
	assert_int_equal(l7mp_loop_free(&loop), 0);
	dns_server_stop(&s);
}

/* Equal questions are asked once, and answered from the cache until the TTL is over. */
static void joined_and_cached(void **state)
{
	enum { N = 100 };
	struct dns_server s;
	struct l7mp_loop *loop;
	struct answer a[N], again;
	struct l7mp_resolve *r[N];
	int first;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	dns_server_start(&s, loop);
	memset(a, 0, sizeof(a));
	for (int i = 0; i < N; i++)
		assert_int_equal(l7mp_resolve_start(loop, i % 2 ? "One.Test" : "one.test", 53,
		                                    AF_INET, answer_cb, &a[i], &r[i]),
		                 0);
	l7mp_loop_run(loop);
	for (int i = 0; i < N; i++) {
		assert_int_equal(a[i].n, 1);
		assert_int_equal(a[i].count, 1);
	}
	assert_int_equal(s.queries, 1);
	ask(loop, "one.test", AF_INET, &again);
	assert_int_equal(again.count, 1);
	assert_int_equal(s.queries, 1);

	ask(loop, "nx.test", AF_INET, &again);
	first = s.queries;
	ask(loop, "nx.test", AF_INET, &again);
	assert_int_equal(again.err, -ENOENT);
	assert_int_equal(s.queries, first);

	/* A short TTL: sooner or later the server is asked again. */
	s.ttl = 1;
	ask(loop, "short.test", AF_INET, &again);
	first = s.queries;
	for (int i = 0; i < 3000 && s.queries == first; i++) {
		ask(loop, "short.test", AF_INET, &again);
		assert_int_equal(again.count, 1);
		usleep(10000);
	}
	assert_true(s.queries > first);
	assert_int_equal(l7mp_loop_free(&loop), 0);
	dns_server_stop(&s);
}

static struct l7mp_resolve *silent[200];
static int silent_answers;

static void silent_cb(void *arg, int err, const struct l7mp_addr *addrs, size_t n)
{
	(void)arg, (void)err, (void)addrs, (void)n;
	silent_answers++;
}

static void good_cb(void *arg, int err, const struct l7mp_addr *addrs, size_t n)
{
	(void)addrs;
	assert_int_equal(err, 0);
	assert_int_equal(n, 1);
	*(int *)arg = silent_answers;
	for (size_t i = 0; i < sizeof(silent) / sizeof(silent[0]); i++)
		l7mp_resolve_cancel(&silent[i]);
}

/* Two hundred names that nobody answers do not hold up one that is answered. */
static void silence_starves_nobody(void **state)
{
	struct dns_server s;
	struct l7mp_loop *loop;
	struct l7mp_resolve *good;
	int before = -1;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	dns_server_start(&s, loop);
	silent_answers = 0;
	for (int i = 0; i < 200; i++) {
		char name[32];

		snprintf(name, sizeof(name), "silent%d.test", i);
		assert_int_equal(
		        l7mp_resolve_start(loop, name, 1, AF_INET, silent_cb, NULL, &silent[i]), 0);
	}
	assert_int_equal(l7mp_resolve_start(loop, "one.test", 1, AF_INET, good_cb, &before, &good),
	                 0);
	l7mp_loop_run(loop);
	assert_int_equal(before, 0);
	assert_int_equal(l7mp_loop_free(&loop), 0);
	dns_server_stop(&s);
}

/* The first of two servers is dead: the second is asked, and its answer is the answer. */
static void dead_server(void **state)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sin);
	int dead = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct dns_server s;
	struct l7mp_loop *loop;
	struct answer a;
	char csv[160];
	(void)state;

	assert_int_equal(bind(dead, (struct sockaddr *)&sin, sizeof(sin)), 0);
	assert_int_equal(getsockname(dead, (struct sockaddr *)&sin, &len), 0);
	assert_int_equal(l7mp_loop_new(&loop), 0);
	dns_server_start(&s, loop);
	snprintf(csv, sizeof(csv), "127.0.0.1:%u,%s", ntohs(sin.sin_port), s.csv);
	assert_int_equal(l7mp_resolver_set_servers(loop, csv), 0);
	for (int i = 0; i < 3; i++) {
		char name[32];

		snprintf(name, sizeof(name), "one%d.test", i);
		ask(loop, name, AF_INET, &a);
		assert_int_equal(a.count, 1);
	}
	assert_int_equal(l7mp_loop_free(&loop), 0);
	dns_server_stop(&s);
	close(dead);
}

/* A question that was given up does not keep the loop: it would for 7.5 s, until the last try. */
static void given_up(void **state)
{
	struct dns_server s;
	struct l7mp_loop *loop;
	struct l7mp_resolve *r;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	dns_server_start(&s, loop);
	silent_answers = 0;
	assert_int_equal(l7mp_resolve_start(loop, "silent.test", 1, AF_INET, silent_cb, NULL, &r),
	                 0);
	l7mp_resolve_cancel(&r);
	l7mp_loop_run(loop);
	assert_true(s.queries <= 1); /* no retransmission was waited for */
	/* A lookup of it now gets an answer all the same. */
	assert_int_equal(l7mp_resolve_start(loop, "silent.test", 1, AF_INET, silent_cb, NULL, &r),
	                 0);
	l7mp_loop_run(loop);
	assert_int_equal(silent_answers, 1);
	assert_int_equal(l7mp_loop_free(&loop), 0);
	dns_server_stop(&s);
}

struct pair {
	struct l7mp_loop *loop;
	struct l7mp_resolve *other;
	int answers;
};

static void cancels_other(void *arg, int err, const struct l7mp_addr *addrs, size_t n)
{
	struct pair *p = arg;

	(void)err, (void)addrs, (void)n;
	if (!p->answers++)
		l7mp_resolve_cancel(&p->other);
}

static void asks_again(void *arg, int err, const struct l7mp_addr *addrs, size_t n)
{
	struct pair *p = arg;
	struct l7mp_resolve *r;

	(void)err, (void)addrs;
	assert_int_equal(n, 1);
	if (++p->answers < 5)
		assert_int_equal(
		        l7mp_resolve_start(p->loop, "one.test", 1, AF_INET, asks_again, p, &r), 0);
}

/* Callbacks that cancel another caller of the same answer, or ask for it again. */
static void callbacks_that_act(void **state)
{
	struct dns_server s;
	struct l7mp_loop *loop;
	struct pair p = {0}, q = {0};
	struct l7mp_resolve *first;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	dns_server_start(&s, loop);
	assert_int_equal(
	        l7mp_resolve_start(loop, "one.test", 1, AF_INET, cancels_other, &p, &first), 0);
	assert_int_equal(
	        l7mp_resolve_start(loop, "one.test", 1, AF_INET, cancels_other, &p, &p.other), 0);
	l7mp_loop_run(loop);
	assert_int_equal(p.answers, 1);
	q.loop = loop;
	assert_int_equal(l7mp_resolve_start(loop, "one.test", 1, AF_INET, asks_again, &q, &first),
	                 0);
	l7mp_loop_run(loop);
	assert_int_equal(q.answers, 5);
	assert_int_equal(l7mp_loop_free(&loop), 0);
	dns_server_stop(&s);
}

/* More names than the cache holds: memory stays bounded, answers stay right. */
static void many_names(void **state)
{
	struct dns_server s;
	struct l7mp_loop *loop;
	struct answer a;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	dns_server_start(&s, loop);
	for (int i = 0; i < 5000; i++) {
		char name[32];

		snprintf(name, sizeof(name), "n%d.test", i);
		ask(loop, name, AF_INET, &a);
		assert_int_equal(a.count, 1);
	}
	assert_int_equal(s.queries, 5000);
	ask(loop, "n4999.test", AF_INET, &a);
	assert_int_equal(s.queries, 5000);
	ask(loop, "n0.test", AF_INET, &a); /* had to go */
	assert_int_equal(s.queries, 5001);
	assert_int_equal(l7mp_loop_free(&loop), 0);
	dns_server_stop(&s);
}

/* ---- answers with many addresses ---- */

static atomic_int sockets;

/* In the place of the C library's, for c-ares too: counts. */
int socket(int domain, int type, int protocol)
{
	sockets++;
	return (int)syscall(SYS_socket, domain, type, protocol);
}

/* Whether the answer has, from `at` on, the first addresses of a family in the server's order. */
static bool crowd_at(const struct answer *a, size_t at, int family)
{
	for (int i = 0; i < L7MP_RESOLVE_PER_FAMILY; i++) {
		char want[64], text[L7MP_ADDR_STRLEN];

		if (family == AF_INET)
			snprintf(want, sizeof(want), "127.1.0.%d:53", i + 1);
		else
			snprintf(want, sizeof(want), "[2001:db8::%x]:53", (unsigned)i + 1);
		if (strcmp(l7mp_addr_str(&a->addr[at + (size_t)i], text), want) != 0)
			return false;
	}
	return true;
}

/*
 * Thousands of addresses: the first ones of each family are kept, in their order, and sockets are
 * opened for these only.
 */
static void crowd(void **state)
{
	const size_t most = L7MP_RESOLVE_PER_FAMILY;
	struct dns_server s;
	struct l7mp_loop *loop;
	struct answer a;
	int before;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	dns_server_start(&s, loop);
	before = sockets;
	ask(loop, "crowd.test", AF_INET, &a);
	assert_int_equal(a.count, most);
	assert_true(crowd_at(&a, 0, AF_INET));
	ask(loop, "crowd.test", AF_INET6, &a);
	assert_int_equal(a.count, most);
	assert_true(crowd_at(&a, 0, AF_INET6));
	ask(loop, "crowd.test", AF_UNSPEC, &a);
	assert_int_equal(a.count, 2 * most);
	/* IPv6 is first if there is a route to it. */
	assert_true((crowd_at(&a, 0, AF_INET6) && crowd_at(&a, most, AF_INET)) ||
	            (crowd_at(&a, 0, AF_INET) && crowd_at(&a, most, AF_INET6)));
	assert_true(sockets > before);
	assert_true(sockets < before + 200);
	assert_int_equal(l7mp_loop_free(&loop), 0);
	dns_server_stop(&s);
}

/* ---- the order of addresses ---- */

/* Orders "address<source" words; "-": no source. Writes the addresses. */
static const char *ordered(const char *words, char out[static 512])
{
	struct l7mp_dest d[16];
	char copy[512], text[L7MP_ADDR_STRLEN], *save = NULL;
	size_t n = 0;

	snprintf(copy, sizeof(copy), "%s", words);
	for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save), n++) {
		char *source = strchr(w, '<');

		*source++ = '\0';
		memset(&d[n], 0, sizeof(d[n]));
		assert_int_equal(l7mp_addr_parse(&d[n].addr, w, 0), 0);
		if (strcmp(source, "-") != 0)
			assert_int_equal(l7mp_addr_parse(&d[n].source, source, 0), 0);
	}
	l7mp_dests_order(d, n);
	out[0] = '\0';
	for (size_t i = 0; i < n; i++) {
		if (i)
			strcat(out, " ");
		strcat(out, l7mp_addr_ip(&d[i].addr, text));
	}
	return out;
}

static void order(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
	        /* IPv6 before IPv4, both in the order of the server. */
	        {"192.0.2.9<192.0.2.1 2001:db8::9<2001:db8::1 192.0.2.3<192.0.2.1 "
	         "2001:db8::3<2001:db8::1",
	         "2001:db8::9 2001:db8::3 192.0.2.9 192.0.2.3"},
	        /* No common prefix makes an address a better one. */
	        {"2001:db8:f::1<2001:db8:1::1 2001:db8:1::2<2001:db8:1::1",
	         "2001:db8:f::1 2001:db8:1::2"},
	        /* Those without a route are last, in the same order among themselves. */
	        {"192.0.2.9<- 2001:db8::9<- 192.0.2.3<192.0.2.1",
	         "192.0.2.3 2001:db8::9 192.0.2.9"},
	        {"2001:db8::9<- 192.0.2.9<192.0.2.1 192.0.2.3<192.0.2.1",
	         "192.0.2.9 192.0.2.3 2001:db8::9"},
	        /* Of section 10.2 of RFC 6724. */
	        {"2001:db8:1::1<2001:db8:1::2 198.51.100.121<198.51.100.117",
	         "2001:db8:1::1 198.51.100.121"},
	        {"2001:db8:1::1<fe80::1 198.51.100.121<198.51.100.117",
	         "198.51.100.121 2001:db8:1::1"},
	        {"198.51.100.121<169.254.13.78 2001:db8:1::1<2001:db8:1::2",
	         "2001:db8:1::1 198.51.100.121"},
	        {"2001:db8:1::1<2001:db8:1::2 fe80::1<fe80::2", "fe80::1 2001:db8:1::1"},
	        {"2002:c633:6401::1<2002:c633:6401::d5e3:7953:13eb:22e8 "
	         "2001:db8:1::1<2001:db8:1::2",
	         "2001:db8:1::1 2002:c633:6401::1"},
	        {"2001:db8:1::1<2002:c633:6401::2 2002:c633:6401::1<2002:c633:6401::2",
	         "2002:c633:6401::1 2001:db8:1::1"},
	        /* A unique local source does not go well with a global destination. */
	        {"2001:db8::9<fd00::1 192.0.2.9<192.0.2.1", "192.0.2.9 2001:db8::9"},
	        {"192.0.2.9<192.0.2.1 fd00::9<fd00::1", "192.0.2.9 fd00::9"},
	        /* Loopback; Teredo, site-local and 6bone. */
	        {"127.0.0.1<127.0.0.1 ::1<::1", "::1 127.0.0.1"},
	        {"3ffe::9<3ffe::1 2001::9<2001::1 2001:db8::9<2001:db8::1",
	         "2001:db8::9 2001::9 3ffe::9"},
	        {"3ffe::9<3ffe::1 fec0::9<fec0::1", "fec0::9 3ffe::9"},
	        {"192.0.2.9<192.0.2.1", "192.0.2.9"},
	};
	char out[512];
	(void)state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_string_equal(ordered(cases[i].in, out), cases[i].out);
}

/* The kernel's sources: each is that of its own destination. */
static void sources(void **state)
{
	struct l7mp_dest d[4];
	static const char *const to[] = {"127.0.0.5", "255.255.255.255", "127.0.0.6", "fe80::1"};
	char text[L7MP_ADDR_STRLEN];
	(void)state;

	memset(d, 0xa5, sizeof(d));
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(l7mp_addr_parse(&d[i].addr, to[i], 0), 0);
	l7mp_dests_find_sources(d, 4);
	assert_string_equal(l7mp_addr_ip(&d[0].source, text), "127.0.0.1");
	assert_int_equal(d[1].source.len, 0); /* broadcast: EACCES */
	assert_string_equal(l7mp_addr_ip(&d[2].source, text), "127.0.0.1");
	assert_int_equal(d[3].source.len, 0); /* link-local without an interface: EINVAL */
	l7mp_dests_order(d, 4);
	assert_string_equal(l7mp_addr_ip(&d[0].addr, text), to[0]);
	assert_string_equal(l7mp_addr_ip(&d[1].addr, text), to[2]);
}

int main(void)
{
	const struct CMUnitTest all[] = {
	        cmocka_unit_test(resolve),
	        cmocka_unit_test(resolve_cancel),
	        cmocka_unit_test(answers),
	        cmocka_unit_test(joined_and_cached),
	        cmocka_unit_test(silence_starves_nobody),
	        cmocka_unit_test(dead_server),
	        cmocka_unit_test(given_up),
	        cmocka_unit_test(callbacks_that_act),
	        cmocka_unit_test(many_names),
	        cmocka_unit_test(crowd),
	        cmocka_unit_test(order),
	        cmocka_unit_test(sources),
	};

	return cmocka_run_group_tests(all, NULL, NULL);
}
