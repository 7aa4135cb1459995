/* SPDX-License-Identifier: MIT */
/* Whose connection is it: what the kernel says of sockets, what is known of our own. */
#include <dirent.h>
#include <dlfcn.h>
#include <ifaddrs.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/origin.h"
#include "l7mp/relaymark.h"
#include "l7mp/util.h"
#include "session_fixture.h"

/* ---- sockets, as the kernel sees them ---- */

struct tcp_pair {
	int listener, client, accepted;
	struct l7mp_addr peer, local; /* as the accepted side has them */
};

static void name_of(int (*get)(int, struct sockaddr *, socklen_t *), int fd, struct l7mp_addr *out)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	assert_int_equal(get(fd, (struct sockaddr *)&ss, &len), 0);
	assert_int_equal(l7mp_addr_from_sockaddr(out, (struct sockaddr *)&ss, len), 0);
}

static int get_peer(int fd, struct sockaddr *sa, socklen_t *len)
{
	return getpeername(fd, sa, len);
}

static int get_own(int fd, struct sockaddr *sa, socklen_t *len)
{
	return getsockname(fd, sa, len);
}

enum client { PLAIN, MARKED, MARKED_MPTCP };

/* False: this host has no such address, or its kernel no such socket. */
static bool connect_pair(struct tcp_pair *p, const char *ip, enum client kind)
{
	struct l7mp_addr addr;

	assert_int_equal(l7mp_addr_parse(&addr, ip, 0), 0);
	p->listener = socket(addr.sa.sa_family, SOCK_STREAM, 0);
	if (bind(p->listener, &addr.sa, addr.len)) {
		close(p->listener);
		return false;
	}
	assert_int_equal(listen(p->listener, 1), 0);
	name_of(get_own, p->listener, &addr);
	p->client =
	        socket(addr.sa.sa_family, SOCK_STREAM, kind == MARKED_MPTCP ? IPPROTO_MPTCP : 0);
	if (p->client < 0) {
		close(p->listener);
		return false;
	}
	if (kind != PLAIN)
		assert_int_equal(l7mp_relay_mark(p->client, addr.sa.sa_family), 0);
	assert_int_equal(connect(p->client, &addr.sa, addr.len), 0);
	p->accepted = accept(p->listener, NULL, NULL);
	assert_true(p->accepted >= 0);
	name_of(get_peer, p->accepted, &p->peer);
	name_of(get_own, p->accepted, &p->local);
	return true;
}

static void close_pair(struct tcp_pair *p)
{
	if (p->client >= 0)
		close(p->client);
	close(p->accepted);
	close(p->listener);
}

static void check_ends(struct api_host *host, const char *ip)
{
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};
	char much[65536] = {0};
	struct tcp_pair p;

	if (!connect_pair(&p, ip, PLAIN))
		return;
	assert_int_equal(api_host_peer(host, &p.peer, &p.local), API_PEER_ALIVE);
	/* A half-closed connection still has its client. */
	shutdown(p.client, SHUT_WR);
	assert_int_equal(api_host_peer(host, &p.peer, &p.local), API_PEER_ALIVE);
	close(p.client);
	p.client = -1;
	assert_int_equal(api_host_peer(host, &p.peer, &p.local), API_PEER_GONE);
	close_pair(&p);

	/*
	 * Closed behind more data than the other side takes: the socket still exists, its owner
	 * doesn't.
	 */
	assert_true(connect_pair(&p, ip, PLAIN));
	while (send(p.client, much, sizeof(much), MSG_DONTWAIT) > 0)
		;
	close(p.client);
	p.client = -1;
	assert_int_equal(api_host_peer(host, &p.peer, &p.local), API_PEER_GONE);
	close_pair(&p);

	assert_true(connect_pair(&p, ip, PLAIN));
	assert_int_equal(send(p.client, "GET", 3, 0), 3);
	setsockopt(p.client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(p.client);
	p.client = -1;
	assert_int_equal(api_host_peer(host, &p.peer, &p.local), API_PEER_GONE);
	close_pair(&p);

	for (enum client kind = MARKED; kind <= MARKED_MPTCP; kind++) {
		if (!connect_pair(&p, ip, kind))
			continue;
		assert_int_equal(api_host_peer(host, &p.peer, &p.local), API_PEER_RELAY);
		close_pair(&p);
	}
}

static void test_sockets(void **state)
{
	struct l7mp_addr a, b;
	struct api_host *host;

	(void)state;
	assert_int_equal(api_host_new(&host), 0);
	l7mp_addr_parse(&a, "127.0.0.1", 1);
	l7mp_addr_parse(&b, "::1", 1);
	if (api_host_peer(host, &a, &a) == API_PEER_UNKNOWN) {
		api_host_free(&host);
		skip();
	}
	assert_int_equal(api_host_peer(host, &a, &b), API_PEER_GONE);
	check_ends(host, "127.0.0.1");
	check_ends(host, "::1");
	api_host_free(&host);
}

/* A UNIX socket of a cluster is known by its mark also when it was closed before accept(2). */
static void test_unix_mark(void **state)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(sa);
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);

	(void)state;
	assert_int_equal(bind(listener, (struct sockaddr *)&sa, sizeof(sa_family_t)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&sa, &len), 0);
	for (int marked = 0; marked < 2; marked++) {
		int client = socket(AF_UNIX, SOCK_STREAM, 0), accepted;

		if (marked)
			assert_int_equal(l7mp_relay_mark(client, AF_UNIX), 0);
		assert_int_equal(connect(client, (struct sockaddr *)&sa, len), 0);
		assert_int_equal(send(client, "GET", 3, 0), 3);
		close(client);
		accepted = accept(listener, NULL, NULL);
		assert_true(accepted >= 0);
		assert_int_equal(l7mp_relay_marked_unix(accepted), marked);
		close(accepted);
	}
	close(listener);
}

static void test_addresses(void **state)
{
	struct l7mp_addr a;
	struct api_host *host;

	(void)state;
	assert_int_equal(api_host_new(&host), 0);
	l7mp_addr_parse(&a, "127.3.2.1", 5);
	assert_true(api_host_has(host, &a));
	l7mp_addr_parse(&a, "::1", 0);
	assert_true(api_host_has(host, &a));
	l7mp_addr_parse(&a, "::ffff:127.0.0.1", 0);
	assert_true(api_host_has(host, &a));
	/* Nobody's (RFC 5737, RFC 3849). */
	l7mp_addr_parse(&a, "192.0.2.1", 0);
	assert_false(api_host_has(host, &a));
	l7mp_addr_parse(&a, "2001:db8::1", 0);
	assert_false(api_host_has(host, &a));
	l7mp_addr_unix(&a, "/run/x");
	assert_false(api_host_has(host, &a));
	api_host_free(&host);
}

/* ---- work before the decision ---- */

static unsigned address_lists, folders;

/* In the place of the C library's. */
int getifaddrs(struct ifaddrs **list)
{
	static int (*real)(struct ifaddrs **);

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "getifaddrs");
	address_lists++;
	return real(list);
}

DIR *opendir(const char *path)
{
	static DIR *(*real)(const char *);

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "opendir");
	folders++;
	return real(path);
}

/* ---- connections of clusters ---- */

struct origins {
	struct sfix *f;
	struct api_host *host;
	struct api_origins *origins;
};

static int setup(void **state)
{
	struct origins *o = calloc(1, sizeof(*o));

	assert_int_equal(sfix_new(state), 0);
	o->f = *state;
	assert_int_equal(api_host_new(&o->host), 0);
	assert_int_equal(api_origins_new(o->f->sessions, o->host, &o->origins), 0);
	sfix_simple(o->f, "FakeStream", "FakeStream", "");
	o->f->world.hold_open = true;
	*state = o;
	return 0;
}

static int teardown(void **state)
{
	struct origins *o = *state;

	*state = o->f;
	for (struct l7mp_session *s = l7mp_sessions_first(o->f->sessions); s;
	     s = l7mp_sessions_next(s))
		l7mp_session_end(s, "the test is over");
	l7mp_loop_turn(o->f->loop);
	sfix_advance(o->f, 60000);
	api_origins_free(&o->origins);
	api_host_free(&o->host);
	free(o);
	return sfix_free(state);
}

/* What a listener is told of a connection that it accepts. */
static enum l7mp_origin judge(struct origins *o, int fd, const struct l7mp_addr *peer,
                              const struct l7mp_addr *local)
{
	const struct fake_listener *l = fake_listener(&o->f->world, "l");

	return l->base.events->origin(l->base.arg, fd, peer, local);
}

/* A client at `peer` of a listener at `local`; the connection that was made for it. */
static struct fake_stream *relay(struct origins *o, const char *name, const struct l7mp_addr *peer,
                                 const struct l7mp_addr *local, unsigned n)
{
	struct l7mp_accept a = {.name = strdup(name), .peer = *peer};
	struct fake_stream *source;

	a.metadata = cJSON_CreateObject();
	a.origin = judge(o, -1, peer, local);
	source = fake_accept_with(&o->f->world, "l", &a, false);
	assert_non_null(source);
	source->local = *local;
	return fake_connected(&o->f->world, "c", n);
}

static struct l7mp_addr at(const char *ip, uint16_t port)
{
	struct l7mp_addr a;

	assert_int_equal(l7mp_addr_parse(&a, ip, port), 0);
	return a;
}

/* A client that is refused costs no list of all addresses, and no look at all descriptors. */
static void test_cheap(void **state)
{
	struct origins *o = *state;
	struct l7mp_addr api = at("127.0.0.1", 1234), front = at("10.0.0.1", 80), peer;

	peer = at("192.0.2.1", 5000);
	assert_int_equal(judge(o, -1, &peer, &front), L7MP_ORIGIN_REMOTE);
	assert_true(address_lists > 0);
	address_lists = folders = 0;
	for (unsigned i = 0; i < 1000; i++) {
		peer = at(i % 2 ? "192.0.2.1" : "2001:db8::1", (uint16_t)(5000 + i));
		assert_int_equal(judge(o, -1, &peer, &front), L7MP_ORIGIN_REMOTE);
		peer = at("127.0.0.1", (uint16_t)(1 + i % 7));
		assert_int_equal(judge(o, -1, &peer, &api), L7MP_ORIGIN_GONE);
	}
	assert_int_equal(address_lists, 0);
	assert_int_equal(folders, 0);
}

static void test_made_for_remote(void **state)
{
	struct origins *o = *state;
	struct l7mp_addr far = at("192.0.2.1", 5000), front = at("10.0.0.1", 80);
	struct l7mp_addr api = at("127.0.0.1", 1234), other = at("127.0.0.1", 9000);
	struct l7mp_addr first = at("127.0.0.1", 40000), second = at("127.0.0.1", 40001);
	struct fake_stream *up = relay(o, "far", &far, &front, 0);

	/* Its addresses come late, as with a name that has to be resolved. */
	assert_int_not_equal(api_origin_of_connection(o->origins, &first, &api),
	                     L7MP_ORIGIN_RELAYED);
	up->local = first;
	up->remote = api;
	assert_int_equal(api_origin_of_connection(o->origins, &first, &api), L7MP_ORIGIN_RELAYED);
	/* The same port of ours leads elsewhere: that says nothing of a connection to the API. */
	assert_int_equal(api_origin_of_connection(o->origins, &first, &other), L7MP_ORIGIN_GONE);
	fake_open(up);
	assert_int_equal(api_origin_of_connection(o->origins, &first, &api), L7MP_ORIGIN_RELAYED);

	/* A relay behind the relay works for a remote client, too. */
	up->remote = other;
	up = relay(o, "near", &first, &api, 1);
	up->local = second;
	up->remote = api;
	fake_open(up);
	assert_int_equal(api_origin_of_connection(o->origins, &second, &api), L7MP_ORIGIN_RELAYED);
	assert_int_equal(api_origin_of_session(o->origins, sfix_session(o->f, "near")),
	                 L7MP_ORIGIN_RELAYED);
	assert_int_equal(api_origin_of_session(o->origins, sfix_session(o->f, "far")),
	                 L7MP_ORIGIN_REMOTE);
}

/* A connection that tries one address after the other is known by the one it has now. */
static void test_next_address(void **state)
{
	struct origins *o = *state;
	struct l7mp_addr far = at("192.0.2.1", 5000), front = at("10.0.0.1", 80);
	struct l7mp_addr one = at("127.0.0.1", 1234), two = at("127.0.0.2", 1234);
	struct l7mp_addr from = at("127.0.0.1", 40000);
	struct fake_stream *up = relay(o, "far", &far, &front, 0);

	up->local = from;
	up->remote = one;
	assert_int_equal(api_origin_of_connection(o->origins, &from, &one), L7MP_ORIGIN_RELAYED);
	up->remote = two;
	assert_int_equal(api_origin_of_connection(o->origins, &from, &two), L7MP_ORIGIN_RELAYED);
	assert_int_equal(api_origin_of_connection(o->origins, &from, &one), L7MP_ORIGIN_GONE);
}

/* A stream that was given up is known until its socket is closed, and not a moment longer. */
static void test_until_closed(void **state)
{
	struct origins *o = *state;
	struct l7mp_addr far = at("192.0.2.1", 5000), front = at("10.0.0.1", 80);
	struct l7mp_addr api = at("127.0.0.1", 1234), from = at("127.0.0.1", 40000);
	struct fake_stream *up = relay(o, "far", &far, &front, 0);

	up->local = from;
	up->remote = api;
	up->slow_close = true;
	fake_open(up);
	l7mp_session_end(sfix_session(o->f, "far"), "over");
	l7mp_loop_turn(o->f->loop);
	assert_true(up->closing && !up->gone);
	sfix_advance(o->f, 1000);
	assert_int_equal(api_origin_of_connection(o->origins, &from, &api), L7MP_ORIGIN_RELAYED);
	if (!up->gone)
		fake_closed(up, 0);
	assert_int_equal(api_origin_of_connection(o->origins, &from, &api), L7MP_ORIGIN_GONE);
}

/*
 * A thread may look a client up long after it was accepted: its own socket is gone, and another
 * process on this host has got the same port. It must not pass for that one.
 */
static void test_queued(void **state)
{
	struct origins *o = *state;
	struct l7mp_addr far = at("192.0.2.1", 5000), front = at("10.0.0.1", 80);
	struct fake_stream *up;
	struct tcp_pair p;

	assert_true(connect_pair(&p, "127.0.0.1", false));
	for (int queued = 0; queued < 2; queued++) {
		char name[16];

		snprintf(name, sizeof(name), "far%d", queued);
		api_origins_queued_port(o->origins, l7mp_addr_port(&p.local), queued);
		up = relay(o, name, &far, &front, (unsigned)queued);
		up->local = p.peer;
		up->remote = p.local;
		fake_open(up);
		l7mp_session_end(sfix_session(o->f, name), "over");
		sfix_advance(o->f, 60000);
		assert_true(up->gone);
		if (queued)
			assert_int_equal(api_origin_of_connection(o->origins, &p.peer, &p.local),
			                 L7MP_ORIGIN_RELAYED);
		/* The next one with that port is the other process. */
		assert_int_equal(api_origin_of_connection(o->origins, &p.peer, &p.local),
		                 L7MP_ORIGIN_LOCAL);
	}
	/* What was looked up while it was there need not be remembered. */
	up = relay(o, "again", &far, &front, 2);
	up->local = p.peer;
	up->remote = p.local;
	fake_open(up);
	assert_int_equal(api_origin_of_connection(o->origins, &p.peer, &p.local),
	                 L7MP_ORIGIN_RELAYED);
	l7mp_session_end(sfix_session(o->f, "again"), "over");
	sfix_advance(o->f, 60000);
	assert_int_equal(api_origin_of_connection(o->origins, &p.peer, &p.local),
	                 L7MP_ORIGIN_LOCAL);
	close_pair(&p);
}

static void test_given_up(void **state)
{
	struct origins *o = *state;
	struct l7mp_addr far = at("192.0.2.1", 5000), front = at("10.0.0.1", 80);
	struct l7mp_addr api = at("127.0.0.1", 1234), from = at("127.0.0.1", 40000);
	struct fake_stream *up;

	sfix_simple(o->f, "FakeStream", "FakeStream",
	            ",'retry':{'retry_on':'connect-failure','num_retries':2,'timeout':100}");
	up = relay(o, "far", &far, &front, 0);
	up->local = from;
	up->remote = api;
	up->slow_close = true;
	/* The attempt takes too long: the session goes on with another stream. */
	sfix_advance(o->f, 101);
	assert_true(up->closing);
	if (!up->gone)
		assert_int_equal(api_origin_of_connection(o->origins, &from, &api),
		                 L7MP_ORIGIN_RELAYED);
	if (!up->gone)
		fake_closed(up, 0);
	assert_int_equal(api_origin_of_connection(o->origins, &from, &api), L7MP_ORIGIN_GONE);
}

/* Datagram sockets say nothing of TCP connections that have the same port. */
static void test_other_protocols(void **state)
{
	struct origins *o = *state;
	struct l7mp_addr far = at("192.0.2.1", 5000), front = at("10.0.0.1", 80);
	struct tcp_pair p;
	struct l7mp_accept a = {.name = strdup("udp"), .peer = far};
	struct fake_stream *up, *source;

	(void)front;
	a.metadata = cJSON_CreateObject();
	source = fake_accept_with(&o->f->world, "l", &a, false);
	source->local = far;
	up = fake_connected(&o->f->world, "c", 0);
	assert_true(connect_pair(&p, "127.0.0.1", false));
	up->not_tcp = true;
	up->local = p.peer;
	assert_int_equal(api_origin_of_connection(o->origins, &p.peer, &p.local),
	                 L7MP_ORIGIN_LOCAL);
	/* And what comes in datagrams is never local: its source can be forged. */
	assert_int_equal(api_origin_of_session(o->origins, sfix_session(o->f, "udp")),
	                 L7MP_ORIGIN_UNKNOWN);
	close_pair(&p);
}

/* Through a relay for a client on this host: what that was when it was accepted counts. */
static void test_local_client(void **state)
{
	struct origins *o = *state;
	struct l7mp_addr api = at("127.0.0.1", 1234), from = at("127.0.0.1", 40000);
	struct fake_stream *up;
	struct tcp_pair p;

	assert_true(connect_pair(&p, "127.0.0.1", false));
	up = relay(o, "near", &p.peer, &p.local, 0);
	up->local = from;
	up->remote = api;
	fake_open(up);
	assert_int_equal(api_origin_of_connection(o->origins, &from, &api), L7MP_ORIGIN_LOCAL);
	close(p.client);
	p.client = -1;
	assert_int_equal(api_origin_of_connection(o->origins, &from, &api), L7MP_ORIGIN_LOCAL);
	close_pair(&p);
}

/*
 * A client that resets its connection after a request, and whose port another process gets: our
 * end of the first connection is what tells them apart, however late it is judged.
 */
static void test_port_again(void **state)
{
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};
	struct origins *o = *state;
	struct tcp_pair p;
	int second, one = 1;

	assert_true(connect_pair(&p, "127.0.0.1", false));
	assert_int_equal(judge(o, p.accepted, &p.peer, &p.local), L7MP_ORIGIN_LOCAL);
	assert_int_equal(send(p.client, "GET", 3, 0), 3);
	setsockopt(p.client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(p.client);
	assert_int_equal(judge(o, p.accepted, &p.peer, &p.local), L7MP_ORIGIN_GONE);
	p.client = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(p.client, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	assert_int_equal(bind(p.client, &p.peer.sa, p.peer.len), 0);
	assert_int_equal(connect(p.client, &p.local.sa, p.local.len), 0);
	second = accept(p.listener, NULL, NULL);
	assert_true(second >= 0);
	assert_int_equal(api_host_peer(o->host, &p.peer, &p.local), API_PEER_ALIVE);
	assert_int_equal(judge(o, p.accepted, &p.peer, &p.local), L7MP_ORIGIN_GONE);
	assert_int_equal(judge(o, second, &p.peer, &p.local), L7MP_ORIGIN_LOCAL);
	close(second);
	close_pair(&p);
}

/*
 * The verdict is made at accept: what was a relay's connection then stays one, also when the
 * relay's socket is gone and another process has its port. And a local client has to be there.
 */
static void test_kept(void **state)
{
	struct origins *o = *state;
	struct l7mp_addr far = at("192.0.2.1", 5000), front = at("10.0.0.1", 80);
	struct fake_stream *up = relay(o, "far", &far, &front, 0), *request;
	struct tcp_pair p;

	assert_true(connect_pair(&p, "127.0.0.1", false));
	up->local = p.peer;
	up->remote = p.local;
	fake_open(up);
	request = relay(o, "request", &p.peer, &p.local, 1);
	request->local = at("127.0.0.1", 40001);
	request->remote = front;
	fake_open(request);
	l7mp_session_end(sfix_session(o->f, "far"), "over");
	sfix_advance(o->f, 1000);
	assert_true(up->gone);
	/* Nobody of ours has that port any more, and a process on this host has it. */
	assert_int_equal(judge(o, p.accepted, &p.peer, &p.local), L7MP_ORIGIN_LOCAL);
	assert_int_equal(api_origin_of_session(o->origins, sfix_session(o->f, "request")),
	                 L7MP_ORIGIN_RELAYED);

	relay(o, "near", &p.peer, &p.local, 2);
	assert_int_equal(api_origin_of_session(o->origins, sfix_session(o->f, "near")),
	                 L7MP_ORIGIN_LOCAL);
	close(p.client);
	p.client = -1;
	assert_int_equal(api_origin_of_session(o->origins, sfix_session(o->f, "near")),
	                 L7MP_ORIGIN_GONE);
	close_pair(&p);
}

/* A UNIX client is what it was when it connected; it has no port that another one could get. */
static void test_unix_clients(void **state)
{
	const enum l7mp_origin cases[] = {L7MP_ORIGIN_LOCAL, L7MP_ORIGIN_RELAYED};
	struct origins *o = *state;

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		struct l7mp_accept a = {.name = strdup("unix"), .origin = cases[i]};

		a.metadata = cJSON_CreateObject();
		l7mp_json_set(a.metadata, "/UNIX/pid", cJSON_CreateNumber(1));
		fake_accept_with(&o->f->world, "l", &a, false);
		assert_int_equal(api_origin_of_session(o->origins,
		                                       sfix_session(o->f, i ? "unix-2" : "unix")),
		                 cases[i]);
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_sockets),
	        cmocka_unit_test(test_unix_mark),
	        cmocka_unit_test(test_addresses),
	        T(test_cheap),
	        T(test_made_for_remote),
	        T(test_next_address),
	        T(test_until_closed),
	        T(test_given_up),
	        T(test_queued),
	        T(test_other_protocols),
	        T(test_local_client),
	        T(test_port_again),
	        T(test_kept),
	        T(test_unix_clients),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
