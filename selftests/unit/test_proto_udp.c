/* SPDX-License-Identifier: MIT */
/*
 * UDP on real sockets: which peers are accepted, who answers from where, sockets that outlive
 * listeners.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "dns_server.h"
#include "l7mp/protos.h"
#include "proto_fix.h"

static const struct l7mp_proto *const protos[] = {&l7mp_proto_udp, NULL};
#define UDP (&l7mp_proto_udp)

static struct pfix fix;

static int setup(void **state)
{
	pfix_new(&fix, protos);
	*state = &fix;
	return 0;
}

static int teardown(void **state)
{
	pfix_free(*state);
	return 0;
}

static void forty_clients_get_their_own_answers(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l =
	        pfix_listen(f, UDP, "l", "{'address':'127.0.0.1','port':0}", NULL);
	unsigned port = pfix_port(l);
	int fd[40];
	char want[64], got[64];

	f->echo = true;
	for (int i = 0; i < 40; i++)
		fd[i] = pfix_udp("127.0.0.1", 0);
	for (int m = 0; m < 3; m++)
		for (int i = 0; i < 40; i++) {
			snprintf(want, sizeof(want), "client %d message %d", i, m);
			assert_int_equal(pfix_sendto(fd[i], "127.0.0.1", port, want, strlen(want)),
			                 0);
		}
	for (int i = 0; i < 40; i++) {
		for (int m = 0; m < 3; m++) {
			snprintf(want, sizeof(want), "client %d message %d", i, m);
			assert_true(pfix_recv(f, fd[i], got, sizeof(got), NULL, 1000) > 0);
			assert_string_equal(got, want);
		}
		assert_int_equal(pfix_recv(f, fd[i], got, sizeof(got), NULL, 0), -1);
		close(fd[i]);
	}
	assert_int_equal(f->n_conns, 40);
	for (int i = 0; i < 40; i++) {
		assert_int_equal(f->conns[i]->messages, 3);
		for (int k = 0; k < i; k++)
			assert_string_not_equal(f->conns[i]->name, f->conns[k]->name);
	}
	pfix_unlisten(l);
}

static void session_says_who_it_is(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l =
	        pfix_listen(f, UDP, "l", "{'address':'127.0.0.1','port':0}", NULL);
	int fd = pfix_udp("127.0.0.1", 0);
	struct l7mp_flow_end flow;
	struct l7mp_addr local;
	char want[128], text[L7MP_ADDR_STRLEN];
	struct pconn *c;

	pfix_sendto(fd, "127.0.0.1", pfix_port(l), "x", 1);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	c = f->conns[0];
	snprintf(want, sizeof(want), "UDP:127.0.0.1:%u-127.0.0.1:%u-1", pfix_fd_port(fd),
	         pfix_port(l));
	assert_string_equal(c->name, want);
	assert_string_equal(l7mp_json_get(c->metadata, "/IP/src_addr")->valuestring, "127.0.0.1");
	assert_string_equal(l7mp_json_get(c->metadata, "/IP/dst_addr")->valuestring, "127.0.0.1");
	assert_int_equal(l7mp_json_get(c->metadata, "/UDP/src_port")->valueint, pfix_fd_port(fd));
	assert_int_equal(l7mp_json_get(c->metadata, "/UDP/dst_port")->valueint, pfix_port(l));
	assert_false(c->never_idle);
	l7mp_stream_flow(c->stream, &flow);
	assert_int_equal(flow.kind, L7MP_FLOW_SOCKET);
	assert_int_equal(flow.l4, IPPROTO_UDP);
	assert_int_equal(l7mp_addr_port(&flow.remote), pfix_fd_port(fd));
	snprintf(want, sizeof(want), "127.0.0.1:%u", pfix_port(l));
	assert_string_equal(l7mp_addr_str(&flow.local, text), want);
	assert_int_equal(c->stream->ops->local(c->stream, &local), 0);
	assert_true(l7mp_addr_equal(&local, &flow.local));
	close(fd);
	pfix_unlisten(l);
}

static void other_peers_are_dropped_and_counted(void **state)
{
	struct pfix *f = *state;
	int good = pfix_udp("127.0.0.1", 0), bad = pfix_udp("127.0.0.1", 0);
	char spec[256], got[16];
	struct l7mp_proto_listener *l;

	snprintf(spec, sizeof(spec), "{'port':0,'connect':{'port':%u}}", pfix_fd_port(good));
	l = pfix_listen(f, UDP, "l", spec, NULL);
	f->echo = true;
	pfix_turn(f, 5);
	assert_int_equal(f->n_conns, 0);
	for (int i = 0; i < 5; i++)
		pfix_sendto(bad, "127.0.0.1", pfix_port(l), "bad", 3);
	pfix_sendto(good, "127.0.0.1", pfix_port(l), "good", 4);
	assert_int_equal(pfix_recv(f, good, got, sizeof(got), NULL, 1000), 4);
	assert_int_equal(pfix_recv(f, bad, got, sizeof(got), NULL, 20), -1);
	assert_int_equal(f->stats.drops[L7MP_DROP_PEER], 5);
	assert_int_equal(f->stats.drop_bytes[L7MP_DROP_PEER], 15);
	assert_int_equal(f->n_conns, 1);
	assert_int_equal(f->admits, 1);
	close(good);
	close(bad);
	pfix_unlisten(l);
}

static void filter_by_address(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l =
	        pfix_listen(f, UDP, "l", "{'port':0,'connect':{'address':'127.0.0.3'}}", NULL);
	int good = pfix_udp("127.0.0.3", 0), bad = pfix_udp("127.0.0.1", 0);

	pfix_sendto(bad, "127.0.0.1", pfix_port(l), "bad", 3);
	pfix_sendto(good, "127.0.0.1", pfix_port(l), "good", 4);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	assert_string_equal(f->conns[0]->data, "good");
	assert_int_equal(f->stats.drops[L7MP_DROP_PEER], 1);
	close(good);
	close(bad);
	pfix_unlisten(l);
}

static void singleton_starts_by_itself(void **state)
{
	struct pfix *f = *state;
	int peer = pfix_udp("127.0.0.1", 0), other = pfix_udp("127.0.0.1", 0);
	char spec[256], got[16], from[128], want[128];
	struct l7mp_proto_listener *l;
	struct pconn *c;

	snprintf(spec, sizeof(spec), "{'port':0,'connect':{'address':'127.0.0.1','port':%u}}",
	         pfix_fd_port(peer));
	l = pfix_listen(f, UDP, "l", spec, NULL);
	assert_int_equal(f->n_conns, 0);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	c = f->conns[0];
	assert_true(c->never_idle);
	snprintf(want, sizeof(want), "UDP:127.0.0.1:%u-127.0.0.1:%u-1", pfix_fd_port(peer),
	         pfix_port(l));
	assert_string_equal(c->name, want);
	/* It speaks first. */
	assert_int_equal(pfix_write(c, "hello", 5), 0);
	assert_int_equal(pfix_recv(f, peer, got, sizeof(got), from, 1000), 5);
	snprintf(want, sizeof(want), "127.0.0.1:%u", pfix_port(l));
	assert_string_equal(from, want);
	/*
	 * Datagrams of others are dropped; those of the peer are not, also at another address of
	 * ours, and answered from there.
	 */
	pfix_sendto(other, "127.0.0.1", pfix_port(l), "no", 2);
	pfix_sendto(peer, "127.0.0.1", pfix_port(l), "a", 1);
	pfix_sendto(peer, "127.0.0.9", pfix_port(l), "b", 1);
	assert_true(pfix_until_n(f, &c->messages, 2, 1000));
	assert_string_equal(c->data, "a|b");
	assert_int_equal(f->n_conns, 1);
	assert_int_equal(f->stats.drops[L7MP_DROP_PEER], 1);
	pfix_write(c, "back", 4);
	assert_int_equal(pfix_recv(f, peer, got, sizeof(got), from, 1000), 4);
	snprintf(want, sizeof(want), "127.0.0.9:%u", pfix_port(l));
	assert_string_equal(from, want);
	/* When its session has ended, the peer's next datagram starts another. */
	l7mp_stream_close(c->stream, false);
	assert_true(pfix_until_n(f, &c->closed, 1, 1000));
	pfix_sendto(peer, "127.0.0.1", pfix_port(l), "again", 5);
	assert_true(pfix_until_size(f, &f->n_conns, 2, 1000));
	assert_string_equal(f->conns[1]->data, "again");
	close(peer);
	close(other);
	pfix_unlisten(l);
}

static void singleton_latches_the_first_port(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(
	        f, UDP, "l",
	        "{'port':0,'connect':{'address':'127.0.0.1'},'options':{'mode':'Singleton'}}",
	        NULL);
	int first = pfix_udp("127.0.0.1", 0), second = pfix_udp("127.0.0.1", 0);

	pfix_turn(f, 5);
	assert_int_equal(f->n_conns, 0);
	pfix_sendto(first, "127.0.0.1", pfix_port(l), "1", 1);
	pfix_sendto(second, "127.0.0.1", pfix_port(l), "2", 1);
	pfix_sendto(first, "127.0.0.1", pfix_port(l), "3", 1);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	assert_true(pfix_until_n(f, &f->conns[0]->messages, 2, 1000));
	assert_string_equal(f->conns[0]->data, "1|3");
	assert_int_equal(f->n_conns, 1);
	assert_int_equal(f->stats.drops[L7MP_DROP_PEER], 1);
	close(first);
	close(second);
	pfix_unlisten(l);
}

static void answers_come_from_where_the_peer_wrote_to(void **state)
{
	static const struct {
		const char *client, *server, *shown;
	} cases[] = {{"127.0.0.1", "127.0.0.1", "127.0.0.1"},
	             {"127.0.0.1", "127.0.0.2", "127.0.0.2"},
	             {"127.0.0.7", "127.0.0.8", "127.0.0.8"},
	             {"::1", "::1", "[::1]"}};
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UDP, "l", "{'port':0}", NULL);
	int same = pfix_udp("127.0.0.1", 0);
	char from[128], want[128], got[16];

	f->echo = true;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int fd = pfix_udp(cases[i].client, 0);

		pfix_sendto(fd, cases[i].server, pfix_port(l), "x", 1);
		assert_int_equal(pfix_recv(f, fd, got, sizeof(got), from, 1000), 1);
		snprintf(want, sizeof(want), "%s:%u", cases[i].shown, pfix_port(l));
		assert_string_equal(from, want);
		close(fd);
	}
	/* One client socket to two of our addresses: two sessions. */
	pfix_sendto(same, "127.0.0.1", pfix_port(l), "x", 1);
	pfix_sendto(same, "127.0.0.2", pfix_port(l), "x", 1);
	assert_true(pfix_until_size(f, &f->n_conns, 6, 1000));
	close(same);
	pfix_unlisten(l);
}

static void only_ipv6_where_asked(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UDP, "l", "{'address':'::','port':0}", NULL),
	                           *m;
	char spec[64];

	/* The port is still free for IPv4. */
	snprintf(spec, sizeof(spec), "{'address':'0.0.0.0','port':%u}", pfix_port(l));
	m = pfix_listen(f, UDP, "m", spec, NULL);
	assert_non_null(m);
	pfix_unlisten(l);
	pfix_unlisten(m);
}

static void sessions_outlive_their_listener(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UDP, "l", "{'port':0}", NULL), *m;
	int old = pfix_udp("127.0.0.1", 0), fresh = pfix_udp("127.0.0.1", 0);
	unsigned port = pfix_port(l);
	char spec[64], got[16];

	f->echo = true;
	pfix_sendto(old, "127.0.0.1", port, "1", 1);
	assert_int_equal(pfix_recv(f, old, got, sizeof(got), NULL, 1000), 1);
	/* The port is in use: refused, with a message that says so. */
	snprintf(spec, sizeof(spec), "{'port':%u}", port);
	assert_null(pfix_listen(f, UDP, "other", spec, NULL));
	assert_non_null(strstr(f->err.message, "address already in use"));
	assert_string_equal(f->err.path, "port");
	pfix_unlisten(l);
	/* The session goes on, new peers are turned away. */
	pfix_sendto(old, "127.0.0.1", port, "2", 1);
	assert_int_equal(pfix_recv(f, old, got, sizeof(got), NULL, 1000), 1);
	pfix_sendto(fresh, "127.0.0.1", port, "3", 1);
	assert_int_equal(pfix_recv(f, fresh, got, sizeof(got), NULL, 20), -1);
	assert_int_equal(f->stats.drops[L7MP_DROP_PEER], 1);
	/* A new listener takes the socket over; the old session keeps its peer. */
	m = pfix_listen(f, UDP, "m", spec, NULL);
	assert_non_null(m);
	assert_int_equal(pfix_port(m), port);
	pfix_sendto(old, "127.0.0.1", port, "4", 1);
	assert_int_equal(pfix_recv(f, old, got, sizeof(got), NULL, 1000), 1);
	assert_int_equal(f->n_conns, 1);
	pfix_sendto(fresh, "127.0.0.1", port, "5", 1);
	assert_int_equal(pfix_recv(f, fresh, got, sizeof(got), NULL, 1000), 1);
	assert_int_equal(f->n_conns, 2);
	pfix_unlisten(m);
	/* Gone with its last session. */
	for (int i = 0; i < 2; i++)
		l7mp_stream_close(f->conns[i]->stream, false);
	assert_true(pfix_until_n(f, &f->conns[0]->closed, 1, 1000));
	assert_true(pfix_until_n(f, &f->conns[1]->closed, 1, 1000));
	close(old);
	old = pfix_udp("0.0.0.0", port);
	close(old);
	close(fresh);
}

static void replaced_without_a_gap(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UDP, "l", "{'port':0}", NULL), *m;
	int a = pfix_udp("127.0.0.1", 0), b = pfix_udp("127.0.0.1", 0);
	unsigned port = pfix_port(l);
	char spec[128];

	pfix_sendto(a, "127.0.0.1", port, "1", 1);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	/* Sent before, received after: by the new one, which takes only a. */
	pfix_sendto(a, "127.0.0.1", port, "2", 1);
	pfix_sendto(b, "127.0.0.1", port, "3", 1);
	snprintf(spec, sizeof(spec), "{'port':%u,'connect':{'port':%u}}", port, pfix_fd_port(a));
	m = pfix_listen(f, UDP, "l", spec, l);
	assert_non_null(m);
	pfix_unlisten(l);
	assert_true(pfix_until_n(f, &f->conns[0]->messages, 2, 1000));
	pfix_turn(f, 10);
	assert_int_equal(f->n_conns, 1);
	assert_int_equal(f->stats.drops[L7MP_DROP_PEER], 1);
	close(a);
	close(b);
	pfix_unlisten(m);
}

/* Two of one change want the same port: the second is refused before the first is active. */
static void one_change_one_port(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UDP, "l", "{'port':0}", NULL), *m, *n;
	char spec[64];

	snprintf(spec, sizeof(spec), "{'port':%u}", pfix_port(l));
	f->inactive = true;
	m = pfix_listen(f, UDP, "m", spec, l);
	assert_non_null(m);
	assert_null(pfix_listen(f, UDP, "n", spec, l));
	assert_non_null(strstr(f->err.message, "address already in use"));
	pfix_unlisten(m);
	/* That change was given up: the next one may. */
	n = pfix_listen(f, UDP, "n", spec, l);
	assert_non_null(n);
	pfix_unlisten(l);
	UDP->activate(n);
	pfix_unlisten(n);
	m = pfix_listen(f, UDP, "m", spec, NULL);
	assert_non_null(m);
	assert_null(pfix_listen(f, UDP, "n", spec, NULL));
	pfix_unlisten(m);
}

static void limits_and_refusals_are_counted(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, UDP, "l", "{'port':0}", NULL);
	int fd = pfix_udp("127.0.0.1", 0);

	f->admit_rc = -16;
	for (int i = 0; i < 3; i++)
		pfix_sendto(fd, "127.0.0.1", pfix_port(l), "x", 1);
	pfix_turn(f, 20);
	assert_int_equal(f->n_conns, 0);
	assert_int_equal(f->stats.drops[L7MP_DROP_LIMIT], 3);
	f->admit_rc = 0;
	f->refuse = true;
	pfix_sendto(fd, "127.0.0.1", pfix_port(l), "x", 1);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	assert_true(pfix_until_n(f, &f->conns[0]->closed, 1, 1000));
	assert_int_equal(f->conns[0]->messages, 0);
	assert_int_equal(f->stats.drops[L7MP_DROP_NO_MATCH], 1);
	close(fd);
	pfix_unlisten(l);
}

static void datagrams_that_do_not_leave_are_told(void **state)
{
	struct pfix *f = *state;
	/* A broadcast address, which the kernel refuses to send to. */
	struct l7mp_proto_listener *l = pfix_listen(
	        f, UDP, "l",
	        "{'address':'127.0.0.1','port':0,'connect':{'address':'127.255.255.255','port':9}}",
	        NULL);
	static char large[65508];
	struct pconn *c;

	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	c = f->conns[0];
	assert_int_equal(pfix_write(c, "x", 1), 0);
	assert_int_equal(pfix_write(c, "xy", 2), 0);
	assert_true(pfix_until_n(f, &c->lost, 2, 1000));
	assert_int_equal(pfix_write(c, large, sizeof(large)), -EMSGSIZE);
	/* The one that wrote has gone before it is known: counted, not told. */
	pfix_write(c, "z", 1);
	l7mp_stream_close(c->stream, false);
	pfix_turn(f, 10);
	assert_int_equal(c->lost, 2);
	assert_int_equal(f->stats.drops[L7MP_DROP_SEND], 1);
	pfix_unlisten(l);
}

static void bad_specs_say_why(void **state)
{
	struct pfix *f = *state;

	assert_null(pfix_listen(f, UDP, "l", "{'address':'192.0.2.1','port':0}", NULL));
	assert_string_equal(f->err.message, "address 192.0.2.1: not an address of this host");
	assert_string_equal(f->err.path, "address");
	assert_null(pfix_listen(
	        f, UDP, "l", "{'address':'127.0.0.1','port':0,'connect':{'address':'::1'}}", NULL));
	assert_non_null(strstr(f->err.message, "family"));
	assert_null(pfix_connect(f, UDP, "{'port':9,'bind':{'address':'::1'}}", "127.0.0.1"));
	assert_null(pfix_connect(f, UDP, "{'port':9,'bind':{'address':'192.0.2.1'}}", "127.0.0.1"));
	assert_non_null(strstr(f->err.message, "not an address of this host"));
}

/* ---- upstream ---- */

static void upstream(struct pfix *f, const char *ip, const char *address)
{
	int server = pfix_udp(ip, 0), other = pfix_udp(ip, 0);
	char spec[128], got[64], from[128], text[L7MP_ADDR_STRLEN];
	struct l7mp_flow_end flow;
	struct pconn *c;

	snprintf(spec, sizeof(spec), "{'port':%u}", pfix_fd_port(server));
	c = pfix_connect(f, UDP, spec, address);
	assert_non_null(c);
	assert_int_equal(pfix_write(c, "early", 5), -ENOTCONN);
	assert_true(pfix_until(f, &c->opened, 3000));
	assert_int_equal(pfix_write(c, "one", 3), 0);
	assert_int_equal(pfix_write(c, "", 0), 0);
	assert_int_equal(pfix_write(c, "three", 5), 0);
	assert_int_equal(pfix_recv(f, server, got, sizeof(got), from, 1000), 3);
	assert_int_equal(pfix_recv(f, server, got, sizeof(got), from, 1000), 0);
	assert_int_equal(pfix_recv(f, server, got, sizeof(got), from, 1000), 5);
	l7mp_stream_flow(c->stream, &flow);
	assert_int_equal(flow.kind, L7MP_FLOW_SOCKET);
	assert_string_equal(l7mp_addr_str(&flow.local, text), from);
	assert_int_equal(l7mp_addr_port(&flow.remote), pfix_fd_port(server));
	/* Only the peer is heard. */
	pfix_sendto(other, ip, l7mp_addr_port(&flow.local), "no", 2);
	pfix_sendto(server, ip, l7mp_addr_port(&flow.local), "", 0);
	pfix_sendto(server, ip, l7mp_addr_port(&flow.local), "yes", 3);
	assert_true(pfix_until_n(f, &c->messages, 2, 1000));
	assert_string_equal(c->data, "|yes");
	close(server);
	close(other);
}

static void upstream_ipv4(void **state)
{
	upstream(*state, "127.0.0.1", "127.0.0.1");
}

static void upstream_ipv6(void **state)
{
	upstream(*state, "::1", "::1");
}

static void upstream_by_name(void **state)
{
	struct pfix *f = *state;
	int server = pfix_udp("127.0.0.1", 0);
	char spec[128], got[16], from[128];
	struct pconn *c;

	/* The address family of the bind picks among the name's addresses. */
	snprintf(spec, sizeof(spec), "{'port':%u,'bind':{'address':'127.0.0.5'}}",
	         pfix_fd_port(server));
	c = pfix_connect(f, UDP, spec, "localhost");
	assert_non_null(c);
	assert_true(pfix_until(f, &c->opened, 5000));
	pfix_write(c, "x", 1);
	assert_int_equal(pfix_recv(f, server, got, sizeof(got), from, 1000), 1);
	assert_memory_equal(from, "127.0.0.5:", 10);
	c = pfix_connect(f, UDP, spec, "no-such-name.invalid");
	assert_non_null(c);
	assert_true(pfix_until_n(f, &c->closed, 1, 10000));
	assert_true(c->failed);
	assert_false(c->opened);
	assert_non_null(strstr(c->message, "no-such-name.invalid"));
	/* Closed while it is being resolved. */
	c = pfix_connect(f, UDP, spec, "localhost");
	l7mp_stream_close(c->stream, false);
	assert_int_equal(c->closed, 0);
	assert_true(pfix_until_n(f, &c->closed, 1, 1000));
	assert_false(c->failed);
	close(server);
}

/* Two sockets with one port, on two addresses. */
static unsigned same_port(const char *a, int *fd_a, const char *b, int *fd_b)
{
	*fd_a = pfix_udp(a, 0);
	*fd_b = pfix_udp(b, pfix_fd_port(*fd_a));
	return pfix_fd_port(*fd_a);
}

/* The first address refuses: what was sent goes to the second, once and in order. */
static void every_address_is_tried(void **state)
{
	struct pfix *f = *state;
	int server, other;
	char spec[64], got[16], from[128];
	struct dns_server dns;
	struct l7mp_addr local;
	struct pconn *c;

	dns_server_start(&dns, f->loop);
	dns.ip4 = inet_addr("127.0.0.1");
	snprintf(spec, sizeof(spec), "{'port':%u}", same_port("127.0.0.1", &server, "::1", &other));
	close(other);
	c = pfix_connect(f, UDP, spec, "dual.test");
	assert_true(pfix_until(f, &c->opened, 30000));
	assert_int_equal(c->stream->ops->local(c->stream, &local), 0);
	assert_int_equal(l7mp_addr_family(&local), AF_INET6);
	for (int i = 0; i < 3; i++)
		pfix_write(c, &"abc"[i], 1);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(pfix_recv(f, server, got, sizeof(got), from, 30000), 1);
		assert_int_equal(got[0], "abc"[i]);
	}
	assert_int_equal(c->moved, 1);
	assert_non_null(strstr(c->message, "dual.test: [::1]:"));
	assert_int_equal(f->stats.drops[L7MP_DROP_REFUSED], 0);
	pfix_sendto(server, "127.0.0.1", (unsigned)atoi(strchr(from, ':') + 1), "back", 4);
	assert_true(pfix_until_n(f, &c->messages, 1, 30000));
	/* It has answered: from now on a refusal is one, and is counted. */
	close(server);
	pfix_write(c, "x", 1);
	for (int i = 0; i < 3000 && !f->stats.drops[L7MP_DROP_REFUSED]; i++)
		pfix_turn(f, 10);
	assert_int_equal(f->stats.drops[L7MP_DROP_REFUSED], 1);
	assert_int_equal(c->moved, 1);
	dns_server_stop(&dns);
}

/* All addresses refuse: it is counted and does not end; whichever comes up later is found. */
static void addresses_are_tried_in_turn(void **state)
{
	struct pfix *f = *state;
	int server, other;
	unsigned port = same_port("127.0.0.1", &server, "::1", &other);
	struct dns_server dns;
	char spec[64], got[16];
	struct pconn *c;
	ssize_t n = -1;

	dns_server_start(&dns, f->loop);
	dns.ip4 = inet_addr("127.0.0.1");
	snprintf(spec, sizeof(spec), "{'port':%u}", port);
	close(server);
	close(other);
	c = pfix_connect(f, UDP, spec, "dual.test");
	assert_true(pfix_until(f, &c->opened, 30000));
	for (int i = 0; i < 3000 && f->stats.drops[L7MP_DROP_REFUSED] < 5; i++) {
		pfix_write(c, "x", 1);
		pfix_turn(f, 5);
	}
	/* Not as fast as the refusals come. */
	assert_true(c->moved <= 3);
	other = pfix_udp("::1", port);
	for (int i = 0; i < 300 && n < 0; i++) {
		pfix_write(c, "found", 5);
		n = pfix_recv(f, other, got, sizeof(got), NULL, 100);
	}
	assert_int_equal(n, 5);
	assert_int_equal(c->closed, 0);
	close(other);
	dns_server_stop(&dns);
}

static void the_clients_family_is_preferred(void **state)
{
	struct pfix *f = *state;
	int server, other;
	char spec[64], got[16];
	struct dns_server dns;
	cJSON *metadata = cJSON_Parse("{\"IP\":{\"src_addr\":\"192.0.2.1\"}}");
	struct pconn *c;

	dns_server_start(&dns, f->loop);
	dns.ip4 = inet_addr("127.0.0.1");
	snprintf(spec, sizeof(spec), "{'port':%u}", same_port("127.0.0.1", &server, "::1", &other));
	f->metadata = metadata;
	c = pfix_connect(f, UDP, spec, "dual.test");
	assert_true(pfix_until(f, &c->opened, 30000));
	pfix_write(c, "x", 1);
	assert_int_equal(pfix_recv(f, server, got, sizeof(got), NULL, 30000), 1);
	assert_int_equal(c->moved, 0);
	f->metadata = NULL;
	c = pfix_connect(f, UDP, spec, "dual.test");
	assert_true(pfix_until(f, &c->opened, 30000));
	pfix_write(c, "y", 1);
	assert_int_equal(pfix_recv(f, other, got, sizeof(got), NULL, 30000), 1);
	cJSON_Delete(metadata);
	close(server);
	close(other);
	dns_server_stop(&dns);
}

/* A running session goes where the name goes, and only then. */
static void a_changed_address_is_followed(void **state)
{
	struct pfix *f = *state;
	int old, new;
	unsigned port = same_port("127.0.0.1", &old, "127.0.0.2", &new);
	struct dns_server dns;
	char spec[96], got[16], text[L7MP_ADDR_STRLEN], want[64];
	struct l7mp_flow_end flow;
	struct pconn *c, *stays;
	ssize_t n = -1;

	dns_server_start(&dns, f->loop);
	dns.ip4 = inet_addr("127.0.0.1");
	dns.ttl = 1;
	snprintf(spec, sizeof(spec), "{'port':%u}", port);
	stays = pfix_connect(f, UDP, spec, "moves.test");
	snprintf(spec, sizeof(spec), "{'port':%u,'options':{'dns_refresh':0.05}}", port);
	c = pfix_connect(f, UDP, spec, "moves.test");
	assert_true(pfix_until(f, &c->opened, 30000));
	assert_true(pfix_until(f, &stays->opened, 30000));
	pfix_write(c, "1", 1);
	assert_int_equal(pfix_recv(f, old, got, sizeof(got), NULL, 30000), 1);
	/* Asked again and again, with the same answer. */
	for (int i = 0; i < 3000 && dns.queries < 3; i++)
		pfix_turn(f, 10);
	assert_true(dns.queries >= 3);
	assert_int_equal(c->moved, 0);
	dns.ip4 = inet_addr("127.0.0.2");
	for (int i = 0; i < 300 && n < 0; i++) {
		pfix_write(c, "2", 1);
		n = pfix_recv(f, new, got, sizeof(got), NULL, 100);
	}
	assert_int_equal(n, 1);
	assert_int_equal(c->moved, 1);
	l7mp_stream_flow(c->stream, &flow);
	snprintf(want, sizeof(want), "127.0.0.2:%u", port);
	assert_string_equal(l7mp_addr_str(&flow.remote, text), want);
	assert_int_equal(stays->moved, 0);
	l7mp_stream_flow(stays->stream, &flow);
	assert_int_equal(((uint8_t *)&flow.remote.in.sin_addr)[3], 1);
	close(old);
	close(new);
	dns_server_stop(&dns);
}

static void upstream_bound(void **state)
{
	struct pfix *f = *state;
	int server = pfix_udp("127.0.0.1", 0), probe = pfix_udp("127.0.0.1", 0);
	unsigned port = pfix_fd_port(probe);
	char spec[128], got[16], from[128], want[64];
	struct pconn *c;

	close(probe);
	snprintf(spec, sizeof(spec), "{'port':%u,'bind':{'port':%u}}", pfix_fd_port(server), port);
	c = pfix_connect(f, UDP, spec, "127.0.0.1");
	assert_true(pfix_until(f, &c->opened, 1000));
	pfix_write(c, "x", 1);
	assert_int_equal(pfix_recv(f, server, got, sizeof(got), from, 1000), 1);
	snprintf(want, sizeof(want), "127.0.0.1:%u", port);
	assert_string_equal(from, want);
	assert_null(pfix_connect(f, UDP, spec, "127.0.0.1"));
	assert_non_null(strstr(f->err.message, "address already in use"));
	close(server);
}

/*
 * A client that changes its port has two sessions for a while: the newer one gets bind.port. A
 * session that has lost it does not get it back, nor does another client.
 */
static void bound_port_goes_to_the_newer_session(void **state)
{
	struct pfix *f = *state;
	int server = pfix_udp("127.0.0.1", 0), probe = pfix_udp("127.0.0.1", 0);
	unsigned port = pfix_fd_port(probe);
	cJSON *client = cJSON_Parse("{\"IP\":{\"src_addr\":\"192.0.2.1\"}}");
	cJSON *other = cJSON_Parse("{\"IP\":{\"src_addr\":\"192.0.2.2\"}}");
	char spec[128], got[16], from[128], want[64];
	struct pconn *a, *b, *c = NULL;

	close(probe);
	snprintf(want, sizeof(want), "127.0.0.1:%u", port);
	snprintf(spec, sizeof(spec), "{'port':%u,'bind':{'port':%u}}", pfix_fd_port(server), port);
	f->metadata = client;
	f->session = "a";
	a = pfix_connect(f, UDP, spec, "127.0.0.1");
	assert_true(pfix_until(f, &a->opened, 30000));
	f->metadata = other;
	f->session = "x";
	assert_null(pfix_connect(f, UDP, spec, "127.0.0.1"));
	assert_non_null(strstr(f->err.message, "address already in use"));
	f->metadata = client;
	f->session = "b";
	b = pfix_connect(f, UDP, spec, "127.0.0.1");
	assert_non_null(b);
	assert_true(pfix_until(f, &b->opened, 30000));
	assert_true(pfix_until_n(f, &a->closed, 1, 30000));
	assert_true(a->failed);
	assert_non_null(strstr(a->message, "bind.port"));
	pfix_write(b, "b", 1);
	assert_int_equal(pfix_recv(f, server, got, sizeof(got), from, 30000), 1);
	assert_string_equal(from, want);
	/* The first session retries: the port is the newer one's. */
	f->session = "a";
	assert_null(pfix_connect(f, UDP, spec, "127.0.0.1"));
	/* A third one: two clients that both go on don't take it from each other all the time. */
	f->session = "c";
	assert_null(pfix_connect(f, UDP, spec, "127.0.0.1"));
	for (int i = 0; i < 300 && !c; i++) {
		pfix_turn(f, 100);
		c = pfix_connect(f, UDP, spec, "127.0.0.1");
	}
	assert_non_null(c);
	assert_true(pfix_until_n(f, &b->closed, 1, 30000));
	f->session = "a";
	assert_null(pfix_connect(f, UDP, spec, "127.0.0.1"));
	f->session = NULL;
	f->metadata = NULL;
	cJSON_Delete(client);
	cJSON_Delete(other);
	close(server);
}

static void refused_does_not_end_the_stream(void **state)
{
	struct pfix *f = *state;
	int server = pfix_udp("127.0.0.1", 0);
	unsigned port = pfix_fd_port(server);
	char spec[64], got[16];
	struct pconn *c;

	close(server);
	snprintf(spec, sizeof(spec), "{'port':%u}", port);
	c = pfix_connect(f, UDP, spec, "127.0.0.1");
	assert_true(pfix_until(f, &c->opened, 1000));
	for (int i = 0; i < 5; i++) {
		assert_int_equal(pfix_write(c, "x", 1), 0);
		pfix_turn(f, 5);
	}
	assert_int_equal(c->notices, 1);
	assert_non_null(strstr(c->message, "connection refused"));
	assert_int_equal(f->stats.drops[L7MP_DROP_REFUSED], 5);
	assert_int_equal(c->closed, 0);
	/* It comes up after all. */
	server = pfix_udp("127.0.0.1", port);
	pfix_write(c, "now", 3);
	assert_int_equal(pfix_recv(f, server, got, sizeof(got), NULL, 1000), 3);
	close(server);
}

/* What the kernel drops while nobody reads is counted, once. */
static void receive_buffer_overflow_is_counted(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(
	        f, UDP, "l", "{'address':'127.0.0.1','port':0,'options':{'rcvbuf':4096}}", NULL);
	int fd = pfix_udp("127.0.0.1", 0);
	char block[1000] = {0};
	uint64_t sent = 0, dropped;

	assert_non_null(l);
	for (; sent < 200; sent++)
		assert_int_equal(pfix_sendto(fd, "127.0.0.1", pfix_port(l), block, sizeof(block)),
		                 0);
	pfix_turn(f, 50);
	pfix_sendto(fd, "127.0.0.1", pfix_port(l), block, sizeof(block)); /* reports the drops */
	pfix_turn(f, 50);
	assert_int_equal(f->n_conns, 1);
	dropped = f->stats.drops[L7MP_DROP_RECEIVE_BUFFER];
	assert_true(dropped > 0);
	assert_int_equal(f->conns[0]->messages + dropped, sent + 1);
	pfix_sendto(fd, "127.0.0.1", pfix_port(l), block, sizeof(block));
	pfix_turn(f, 50);
	assert_int_equal(f->stats.drops[L7MP_DROP_RECEIVE_BUFFER], dropped);
	close(fd);
	pfix_unlisten(l);
}

static int received_tos(struct pfix *f, int fd)
{
	char data[64], control[64];
	struct iovec iov = {data, sizeof(data)};
	struct msghdr msg = {.msg_iov = &iov,
	                     .msg_iovlen = 1,
	                     .msg_control = control,
	                     .msg_controllen = sizeof(control)};
	struct cmsghdr *c;

	for (int i = 0; i < 300 && recvmsg(fd, &msg, MSG_DONTWAIT) < 0; i++)
		pfix_turn(f, 10);
	c = CMSG_FIRSTHDR(&msg);
	return c ? *(unsigned char *)CMSG_DATA(c) : -1;
}

/* Both ends mark what they send, and say so to the fast path. */
static void dscp_is_sent(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(
	        f, UDP, "l", "{'address':'127.0.0.1','port':0,'options':{'dscp':46}}", NULL);
	int client = pfix_udp("127.0.0.1", 0), server = pfix_udp("127.0.0.1", 0), on = 1;
	struct l7mp_flow_end end;
	struct pconn *up;
	char spec[80];

	assert_int_equal(setsockopt(client, IPPROTO_IP, IP_RECVTOS, &on, sizeof(on)), 0);
	assert_int_equal(setsockopt(server, IPPROTO_IP, IP_RECVTOS, &on, sizeof(on)), 0);
	pfix_sendto(client, "127.0.0.1", pfix_port(l), "x", 1);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 3000));
	assert_int_equal(pfix_write(f->conns[0], "marked", 6), 0);
	assert_int_equal(received_tos(f, client), 46 * 4);
	l7mp_stream_flow(f->conns[0]->stream, &end);
	assert_int_equal(end.kind, L7MP_FLOW_SOCKET);
	assert_int_equal(end.tos, 46 * 4);

	snprintf(spec, sizeof(spec), "{'port':%u,'options':{'dscp':10}}", pfix_fd_port(server));
	up = pfix_connect(f, UDP, spec, "127.0.0.1");
	assert_true(pfix_until(f, &up->opened, 3000));
	assert_int_equal(pfix_write(up, "marked", 6), 0);
	assert_int_equal(received_tos(f, server), 10 * 4);
	l7mp_stream_flow(up->stream, &end);
	assert_int_equal(end.kind, L7MP_FLOW_SOCKET);
	assert_int_equal(end.tos, 10 * 4);
	close(client);
	close(server);
	pfix_unlisten(l);
}

/* A listener without options.dscp on the socket of one with it: unmarked. */
static void dscp_ends_with_its_listener(void **state)
{
	struct pfix *f = *state;
	int client = pfix_udp("127.0.0.1", 0), on = 1;
	struct l7mp_proto_listener *l = pfix_listen(
	        f, UDP, "l", "{'address':'127.0.0.1','port':0,'options':{'dscp':46}}", NULL);
	uint16_t port = pfix_port(l);
	struct l7mp_flow_end end;
	char spec[80];

	assert_int_equal(setsockopt(client, IPPROTO_IP, IP_RECVTOS, &on, sizeof(on)), 0);
	pfix_sendto(client, "127.0.0.1", port, "x", 1);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 3000));
	pfix_unlisten(l);
	snprintf(spec, sizeof(spec), "{'address':'127.0.0.1','port':%u}", port);
	l = pfix_listen(f, UDP, "l", spec, NULL);
	assert_int_equal(pfix_write(f->conns[0], "plain", 5), 0);
	assert_int_equal(received_tos(f, client), 0);
	l7mp_stream_flow(f->conns[0]->stream, &end);
	assert_int_equal(end.kind, L7MP_FLOW_SOCKET);
	assert_int_equal(end.tos, 0);
	close(client);
	pfix_unlisten(l);
}

/* ---- options.latch of a cluster ---- */

/* A session to an endpoint that is behind NAT; the socket has the endpoint's address. */
struct latched {
	struct pconn *c;
	int meant;
	unsigned port; /* the session's */
};

static void latched_to(struct pfix *f, const char *latch, struct latched *out)
{
	struct l7mp_addr local;
	char spec[160];

	out->meant = pfix_udp("127.0.0.1", 0);
	snprintf(spec, sizeof(spec), "{'port':%u,'options':{'latch':%s}}", pfix_fd_port(out->meant),
	         latch);
	out->c = pfix_connect(f, UDP, spec, "127.0.0.1");
	assert_non_null(out->c);
	assert_true(pfix_until(f, &out->c->opened, 5000));
	assert_int_equal(out->c->stream->ops->local(out->c->stream, &local), 0);
	out->port = l7mp_addr_port(&local);
}

/* Sends to the session from there; true: it got it, false: it was dropped as this. */
static bool heard(struct pfix *f, const struct latched *s, int fd, enum l7mp_drop why)
{
	unsigned messages = s->c->messages;
	uint64_t drops = f->stats.drops[why];

	pfix_sendto(fd, "127.0.0.1", s->port, "x", 1);
	for (int i = 0; i < 3000 && s->c->messages == messages && f->stats.drops[why] == drops; i++)
		pfix_turn(f, 10);
	assert_int_equal(s->c->messages - messages + f->stats.drops[why] - drops, 1);
	return s->c->messages > messages;
}

static void sends_to(struct pfix *f, const struct latched *s, int fd)
{
	char got[16];

	assert_int_equal(pfix_write(s->c, "y", 1), 0);
	assert_int_equal(pfix_recv(f, fd, got, sizeof(got), NULL, 30000), 1);
	assert_int_equal(got[0], 'y');
}

/* Before it is heard the endpoint's address gets it; the first source is the peer, no other. */
static void upstream_learns_its_peer(void **state)
{
	struct pfix *f = *state;
	int first = pfix_udp("127.0.0.1", 0), other = pfix_udp("127.0.0.2", 0);
	struct l7mp_flow_end end;
	char text[L7MP_ADDR_STRLEN], want[64];
	struct latched s;

	latched_to(f, "true", &s);
	sends_to(f, &s, s.meant);
	l7mp_stream_flow(s.c->stream, &end);
	assert_int_equal(end.kind, L7MP_FLOW_NONE);
	assert_int_equal(end.reason, L7MP_REASON_NOT_ESTABLISHED);
	assert_true(heard(f, &s, first, L7MP_DROP_PEER));
	assert_int_equal(s.c->moved, 1);
	assert_int_equal(s.c->notices, 1);
	snprintf(want, sizeof(want), "127.0.0.1:%u", pfix_fd_port(first));
	assert_string_equal(s.c->message, want);
	sends_to(f, &s, first);
	l7mp_stream_flow(s.c->stream, &end);
	assert_int_equal(end.kind, L7MP_FLOW_SOCKET);
	assert_string_equal(l7mp_addr_str(&end.remote, text), want);
	snprintf(want, sizeof(want), "127.0.0.1:%u", s.port);
	assert_string_equal(l7mp_addr_str(&end.local, text), want);
	assert_false(heard(f, &s, other, L7MP_DROP_PEER));
	assert_false(heard(f, &s, s.meant, L7MP_DROP_PEER));
	assert_true(heard(f, &s, first, L7MP_DROP_PEER));
	sends_to(f, &s, first);
	assert_int_equal(s.c->moved, 1);
	close(first);
	close(other);
	close(s.meant);
}

/* Within the window others take over, until the endpoint's own address writes. */
static void upstream_learns_again(void **state)
{
	struct pfix *f = *state;
	int first = pfix_udp("127.0.0.1", 0), other = pfix_udp("127.0.0.2", 0);
	struct latched s;

	latched_to(f, "{'window':3600}", &s);
	assert_true(heard(f, &s, first, L7MP_DROP_PEER));
	sends_to(f, &s, first);
	assert_true(heard(f, &s, other, L7MP_DROP_PEER));
	sends_to(f, &s, other);
	assert_true(heard(f, &s, first, L7MP_DROP_PEER));
	assert_true(heard(f, &s, s.meant, L7MP_DROP_PEER));
	sends_to(f, &s, s.meant);
	assert_int_equal(s.c->moved, 4);
	assert_false(heard(f, &s, first, L7MP_DROP_PEER));
	sends_to(f, &s, s.meant);
	close(first);
	close(other);
	close(s.meant);
}

/* A window that is over; and the peer that writes to another address of ours. */
static void upstream_window_ends(void **state)
{
	struct pfix *f = *state;
	int first = pfix_udp("127.0.0.1", 0), other = pfix_udp("127.0.0.1", 0);
	struct l7mp_flow_end end;
	char text[L7MP_ADDR_STRLEN], from[64];
	struct latched s;

	latched_to(f, "{'window':0.001}", &s);
	assert_true(heard(f, &s, first, L7MP_DROP_PEER));
	pfix_turn(f, 20);
	assert_false(heard(f, &s, other, L7MP_DROP_PEER));
	pfix_sendto(first, "127.0.0.3", s.port, "z", 1);
	assert_true(pfix_until_n(f, &s.c->messages, 2, 30000));
	assert_int_equal(s.c->moved, 2);
	l7mp_stream_flow(s.c->stream, &end);
	assert_memory_equal(l7mp_addr_str(&end.local, text), "127.0.0.3:", 10);
	assert_int_equal(pfix_write(s.c, "y", 1), 0);
	assert_int_equal(pfix_recv(f, first, text, sizeof(text), from, 30000), 1);
	assert_memory_equal(from, "127.0.0.3:", 10);
	close(first);
	close(other);
	close(s.meant);
}

/* A socket with the address of another one. */
static int same_address(unsigned port)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
	                         .sin_port = htons((uint16_t)port),
	                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), on = 1;

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

/*
 * Never learnt: another IP address where that is asked, a listener of ours (a forged source), and
 * anything by an owner that can't be told of it.
 */
static void upstream_does_not_learn(void **state)
{
	struct pfix *f = *state;
	int port = pfix_udp("127.0.0.1", 0), address = pfix_udp("127.0.0.2", 0), forger;
	struct l7mp_proto_listener *l = pfix_listen(
	        f, UDP, "l", "{'address':'127.0.0.1','port':0,'options':{'reuseport':true}}", NULL);
	struct l7mp_stream_events events;
	struct latched s;

	latched_to(f, "{'same_address':true}", &s);
	assert_false(heard(f, &s, address, L7MP_DROP_PEER));
	assert_true(heard(f, &s, port, L7MP_DROP_PEER));
	close(s.meant);

	latched_to(f, "true", &s);
	forger = same_address(pfix_port(l));
	assert_false(heard(f, &s, forger, L7MP_DROP_LOOP));
	close(forger);
	assert_true(heard(f, &s, port, L7MP_DROP_LOOP));
	close(s.meant);

	latched_to(f, "true", &s);
	events = *s.c->stream->events;
	events.moved = NULL;
	s.c->stream->events = &events;
	assert_false(heard(f, &s, port, L7MP_DROP_PEER));
	assert_true(heard(f, &s, s.meant, L7MP_DROP_PEER));
	l7mp_stream_close(s.c->stream, false);
	assert_true(pfix_until_n(f, &s.c->closed, 1, 30000));
	close(port);
	close(address);
	close(s.meant);
	pfix_unlisten(l);
}

/* After a time without any datagram it is a session with the endpoint, also for the kernel. */
static void upstream_stops_learning(void **state)
{
	struct pfix *f = *state;
	int first = pfix_udp("127.0.0.1", 0);
	struct l7mp_flow_end end;
	struct l7mp_addr local;
	char spec[160];
	struct latched s;

	latched_to(f, "{'window':3600,'timeout':0}", &s);
	assert_false(heard(f, &s, first, L7MP_DROP_PEER));
	l7mp_stream_flow(s.c->stream, &end);
	assert_int_equal(end.kind, L7MP_FLOW_NONE);
	assert_true(heard(f, &s, s.meant, L7MP_DROP_PEER));
	assert_false(heard(f, &s, first, L7MP_DROP_PEER));
	l7mp_stream_flow(s.c->stream, &end);
	assert_int_equal(end.kind, L7MP_FLOW_SOCKET);

	/* With an address of its own it need not be heard. */
	snprintf(spec, sizeof(spec),
	         "{'port':%u,'bind':{'address':'127.0.0.1'},'options':{'latch':{'timeout':0.2}}}",
	         pfix_fd_port(s.meant));
	s.c = pfix_connect(f, UDP, spec, "127.0.0.1");
	assert_non_null(s.c);
	l7mp_stream_flow(s.c->stream, &end);
	assert_int_equal(end.kind, L7MP_FLOW_NONE);
	assert_true(pfix_until(f, &s.c->opened, 5000));
	pfix_turn(f, 300);
	l7mp_stream_flow(s.c->stream, &end);
	assert_int_equal(end.kind, L7MP_FLOW_SOCKET);
	assert_int_equal(l7mp_addr_port(&end.remote), pfix_fd_port(s.meant));
	assert_int_equal(s.c->stream->ops->local(s.c->stream, &local), 0);
	assert_true(l7mp_addr_equal(&local, &end.local));
	s.port = l7mp_addr_port(&local);
	assert_false(heard(f, &s, first, L7MP_DROP_PEER));
	sends_to(f, &s, s.meant);
	assert_true(heard(f, &s, s.meant, L7MP_DROP_PEER));
	close(first);
	close(s.meant);
}

/* What another process hands over of a session. */
static struct l7mp_restore_end hand_over(const struct latched *s)
{
	struct l7mp_restore_end end = {.fd = -1};
	struct l7mp_stream_saved saved;
	struct l7mp_stream *stream = s->c->stream;
	struct l7mp_flow_end flow;

	assert_int_equal(stream->ops->freeze(stream, true), 0);
	stream->ops->save(stream, &saved);
	l7mp_stream_flow(stream, &flow);
	end.local = flow.local;
	end.remote = flow.remote;
	end.fd = dup(saved.fd);
	stream->ops->release(stream);
	return end;
}

static bool goes_on(struct pfix *f, struct latched *s, struct l7mp_restore_end end,
                    const char *latch)
{
	char spec[160];

	snprintf(spec, sizeof(spec), "{'port':%u,'options':{'latch':%s}}", pfix_fd_port(s->meant),
	         latch);
	f->restore = &end;
	s->c = pfix_connect(f, UDP, spec, "127.0.0.1");
	f->restore = NULL;
	if (end.fd >= 0)
		close(end.fd);
	return s->c && pfix_until(f, &s->c->opened, 5000);
}

/* A session that goes on in another process keeps what it has learnt, and learns no more. */
static void a_learnt_peer_goes_on(void **state)
{
	struct pfix *f = *state;
	int first = pfix_udp("127.0.0.1", 0), other = pfix_udp("127.0.0.2", 0);
	struct l7mp_restore_end end;
	struct l7mp_flow_end flow;
	struct latched s;

	latched_to(f, "{'window':3600}", &s);
	/* Nobody was heard so far: the first one is still to come. */
	assert_true(goes_on(f, &s, hand_over(&s), "{'window':3600}"));
	sends_to(f, &s, s.meant);
	assert_true(heard(f, &s, first, L7MP_DROP_PEER));
	assert_true(goes_on(f, &s, hand_over(&s), "{'window':3600}"));
	assert_false(heard(f, &s, other, L7MP_DROP_PEER));
	assert_false(heard(f, &s, s.meant, L7MP_DROP_PEER));
	assert_true(heard(f, &s, first, L7MP_DROP_PEER));
	sends_to(f, &s, first);
	assert_int_equal(s.c->moved, 0);
	l7mp_stream_flow(s.c->stream, &flow);
	assert_int_equal(flow.kind, L7MP_FLOW_SOCKET);
	/* After a crash there is no socket, but the kernel had the flow. */
	end = hand_over(&s);
	close(end.fd);
	end.fd = -1;
	assert_true(pfix_until_n(f, &s.c->closed, 1, 30000));
	assert_true(goes_on(f, &s, end, "true"));
	assert_false(heard(f, &s, other, L7MP_DROP_PEER));
	assert_true(heard(f, &s, first, L7MP_DROP_PEER));
	/* The new config does not allow it. */
	end = hand_over(&s);
	assert_false(goes_on(f, &s, end, "false"));
	close(first);
	close(other);
	close(s.meant);
}

/* The config has options.latch no more: the kernel looks at the source again. */
static void latch_ends_with_the_config(void **state)
{
	struct pfix *f = *state;
	int other = pfix_udp("127.0.0.1", 0);
	struct latched s;

	latched_to(f, "true", &s);
	assert_true(heard(f, &s, s.meant, L7MP_DROP_PEER));
	assert_true(goes_on(f, &s, hand_over(&s), "false"));
	pfix_sendto(other, "127.0.0.1", s.port, "x", 1);
	pfix_sendto(s.meant, "127.0.0.1", s.port, "y", 1);
	assert_true(pfix_until_n(f, &s.c->messages, 1, 30000));
	assert_string_equal(s.c->data, "y");
	sends_to(f, &s, s.meant);
	close(other);
	close(s.meant);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(forty_clients_get_their_own_answers),
	        T(session_says_who_it_is),
	        T(other_peers_are_dropped_and_counted),
	        T(filter_by_address),
	        T(singleton_starts_by_itself),
	        T(singleton_latches_the_first_port),
	        T(receive_buffer_overflow_is_counted),
	        T(dscp_is_sent),
	        T(dscp_ends_with_its_listener),
	        T(answers_come_from_where_the_peer_wrote_to),
	        T(only_ipv6_where_asked),
	        T(sessions_outlive_their_listener),
	        T(replaced_without_a_gap),
	        T(one_change_one_port),
	        T(limits_and_refusals_are_counted),
	        T(datagrams_that_do_not_leave_are_told),
	        T(bad_specs_say_why),
	        T(upstream_ipv4),
	        T(upstream_ipv6),
	        T(upstream_by_name),
	        T(every_address_is_tried),
	        T(addresses_are_tried_in_turn),
	        T(the_clients_family_is_preferred),
	        T(a_changed_address_is_followed),
	        T(upstream_bound),
	        T(bound_port_goes_to_the_newer_session),
	        T(refused_does_not_end_the_stream),
	        T(upstream_learns_its_peer),
	        T(upstream_learns_again),
	        T(upstream_window_ends),
	        T(upstream_does_not_learn),
	        T(upstream_stops_learning),
	        T(a_learnt_peer_goes_on),
	        T(latch_ends_with_the_config),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
