/* SPDX-License-Identifier: MIT */
/* TCP on real sockets: connecting, half-close, back-pressure, reset, replaced listeners. */
#include <errno.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "l7mp/protos.h"
#include "proto_fix.h"

static const struct l7mp_proto *const protos[] = {&l7mp_proto_tcp, NULL};
#define TCP (&l7mp_proto_tcp)

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

/* A listener's session and, over a cluster's stream, its client. */
static void pair(struct pfix *f, const char *spec, const char *address, struct pconn **client,
                 struct pconn **server)
{
	struct l7mp_proto_listener *l = pfix_listen(f, TCP, "l", spec, NULL);
	size_t n = f->n_conns;
	char cluster[64];

	assert_non_null(l);
	snprintf(cluster, sizeof(cluster), "{'port':%u}", pfix_port(l));
	*client = pfix_connect(f, TCP, cluster, address);
	assert_non_null(*client);
	assert_true(pfix_until_size(f, &f->n_conns, n + 2, 5000));
	assert_true(pfix_until(f, &(*client)->opened, 5000));
	*server = f->conns[n + 1];
	assert_true((*server)->accepted);
	pfix_unlisten(l);
}

static void session_says_who_it_is(void **state)
{
	struct pfix *f = *state;
	struct pconn *c, *s;
	struct l7mp_flow_end cf, sf;
	struct l7mp_addr local;
	char a[L7MP_ADDR_STRLEN], b[L7MP_ADDR_STRLEN], want[300];

	pair(f, "{'port':0}", "127.0.0.1", &c, &s);
	l7mp_stream_flow(c->stream, &cf);
	l7mp_stream_flow(s->stream, &sf);
	assert_int_equal(cf.kind, L7MP_FLOW_SOCKET);
	assert_int_equal(cf.l4, IPPROTO_TCP);
	assert_true(l7mp_addr_equal(&cf.local, &sf.remote));
	assert_true(l7mp_addr_equal(&cf.remote, &sf.local));
	assert_true(l7mp_addr_equal(&s->peer, &cf.local));
	assert_int_equal(c->stream->ops->local(c->stream, &local), 0);
	assert_true(l7mp_addr_equal(&cf.local, &local));
	/* On a dual-stack socket too it is IPv4. */
	assert_int_equal(l7mp_addr_family(&sf.remote), AF_INET);
	snprintf(want, sizeof(want), "TCP:%s-%s", l7mp_addr_str(&cf.local, a),
	         l7mp_addr_str(&cf.remote, b));
	assert_string_equal(s->name, want);
	assert_string_equal(l7mp_json_get(s->metadata, "/IP/src_addr")->valuestring, "127.0.0.1");
	assert_int_equal(l7mp_json_get(s->metadata, "/TCP/src_port")->valueint,
	                 l7mp_addr_port(&cf.local));
}

static void ipv6(void **state)
{
	struct pfix *f = *state;
	struct pconn *c, *s;

	pair(f, "{'port':0}", "::1", &c, &s);
	assert_memory_equal(s->name, "TCP:[::1]:", 10);
	assert_string_equal(l7mp_json_get(s->metadata, "/IP/dst_addr")->valuestring, "::1");
	pfix_write(c, "six", 3);
	assert_true(pfix_until_n(f, &s->messages, 1, 1000));
	assert_string_equal(s->data, "six");
}

static void local_address_is_known_at_once(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, TCP, "l", "{'port':0}", NULL);
	char cluster[64];
	struct l7mp_addr local;
	struct pconn *c;

	snprintf(cluster, sizeof(cluster), "{'port':%u}", pfix_port(l));
	c = pfix_connect(f, TCP, cluster, "127.0.0.1");
	assert_int_equal(c->stream->ops->local(c->stream, &local), 0);
	assert_true(pfix_until_size(f, &f->n_conns, 2, 1000));
	assert_true(l7mp_addr_equal(&f->conns[1]->peer, &local));
	pfix_unlisten(l);
}

static void half_close_passes(void **state)
{
	struct pfix *f = *state;
	struct pconn *c, *s;

	pair(f, "{'port':0}", "127.0.0.1", &c, &s);
	pfix_write(c, "request", 7);
	l7mp_stream_shutdown(c->stream, 0);
	l7mp_stream_shutdown(c->stream, 0);
	assert_int_equal(pfix_write(c, "late", 4), -EPIPE);
	assert_true(pfix_until(f, &s->ended, 1000));
	assert_string_equal(s->data, "request");
	assert_false(c->ended);
	/* The other direction goes on. */
	pfix_turn(f, 20);
	assert_int_equal(pfix_write(s, "answer", 6), 0);
	l7mp_stream_shutdown(s->stream, 0);
	assert_true(pfix_until(f, &c->ended, 1000));
	assert_string_equal(c->data, "answer");
	l7mp_stream_close(c->stream, false);
	l7mp_stream_close(c->stream, false);
	l7mp_stream_close(s->stream, false);
	assert_int_equal(c->closed, 0);
	assert_true(pfix_until_n(f, &c->closed, 1, 1000));
	assert_true(pfix_until_n(f, &s->closed, 1, 1000));
	assert_false(c->failed);
	assert_false(s->failed);
}

static void slow_reader_stops_the_writer(void **state)
{
	struct pfix *f = *state;
	struct pconn *c, *s;
	static char block[16384];
	size_t total = 0;
	int rc = 0;

	pair(f, "{'port':0}", "127.0.0.1", &c, &s);
	l7mp_stream_pause(s->stream, true);
	for (int i = 0; i < 10000 && rc == 0; i++) {
		memset(block, 'a' + i % 26, sizeof(block));
		rc = pfix_write(c, block, sizeof(block));
		assert_true(rc >= 0);
		total += sizeof(block);
		pfix_turn(f, 0);
	}
	assert_int_equal(rc, L7MP_STREAM_FULL);
	pfix_turn(f, 30);
	assert_false(c->drained);
	assert_true(s->len <= 2 * 65536);
	l7mp_stream_pause(s->stream, false);
	assert_true(pfix_until(f, &c->drained, 5000));
	l7mp_stream_shutdown(c->stream, 0);
	assert_true(pfix_until(f, &s->ended, 5000));
	assert_int_equal(s->len, total);
	for (size_t i = 0; i < total; i += sizeof(block))
		assert_int_equal(s->data[i], 'a' + (int)(i / sizeof(block)) % 26);
}

static void close_writes_what_is_queued(void **state)
{
	struct pfix *f = *state;
	struct pconn *c, *s;
	static char block[1 << 20];

	pair(f, "{'port':0}", "127.0.0.1", &c, &s);
	memset(block, 'x', sizeof(block));
	for (int i = 0; i < 4; i++)
		assert_true(pfix_write(c, block, sizeof(block)) >= 0);
	l7mp_stream_close(c->stream, false);
	assert_true(pfix_until(f, &s->ended, 5000));
	assert_int_equal(s->len, 4 * sizeof(block));
	assert_true(pfix_until_n(f, &c->closed, 1, 6000));
}

static void abort_is_a_reset(void **state)
{
	struct pfix *f = *state;
	struct pconn *c, *s;

	pair(f, "{'port':0}", "127.0.0.1", &c, &s);
	l7mp_stream_close(c->stream, true);
	assert_true(pfix_until_n(f, &s->closed, 1, 1000));
	assert_true(s->failed);
	assert_non_null(strstr(s->message, "reset"));
}

static void refused_says_where(void **state)
{
	struct pfix *f = *state;
	int fd = pfix_udp("127.0.0.1", 0); /* only for a port that no TCP server has */
	char cluster[64], want[128];
	struct pconn *c;

	snprintf(cluster, sizeof(cluster), "{'port':%u}", pfix_fd_port(fd));
	c = pfix_connect(f, TCP, cluster, "127.0.0.1");
	if (c) {
		assert_true(pfix_until_n(f, &c->closed, 1, 1000));
		assert_false(c->opened);
		assert_true(c->failed);
		snprintf(want, sizeof(want), "TCP connect to 127.0.0.1:%u: connection refused",
		         pfix_fd_port(fd));
		assert_string_equal(c->message, want);
	}
	/* Closed by the owner while connecting: orderly. */
	c = pfix_connect(f, TCP, cluster, "localhost");
	assert_non_null(c);
	l7mp_stream_close(c->stream, true);
	assert_int_equal(c->closed, 0);
	assert_true(pfix_until_n(f, &c->closed, 1, 1000));
	assert_false(c->failed);
	close(fd);
}

static void next_address_of_a_name(void **state)
{
	struct pfix *f = *state;
	/* localhost is ::1 and 127.0.0.1 on most hosts; the server has only the latter. */
	struct l7mp_proto_listener *l =
	        pfix_listen(f, TCP, "l", "{'address':'127.0.0.1','port':0}", NULL);
	char cluster[64];
	struct pconn *c;

	snprintf(cluster, sizeof(cluster), "{'port':%u}", pfix_port(l));
	c = pfix_connect(f, TCP, cluster, "localhost");
	assert_true(pfix_until(f, &c->opened, 5000));
	pfix_write(c, "x", 1);
	assert_true(pfix_until_size(f, &f->n_conns, 2, 1000));
	c = pfix_connect(f, TCP, cluster, "no-such-name.invalid");
	assert_true(pfix_until_n(f, &c->closed, 1, 10000));
	assert_non_null(strstr(c->message, "no-such-name.invalid: name not resolved"));
	pfix_unlisten(l);
}

static void bound_source_address(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, TCP, "l", "{'port':0}", NULL);
	char cluster[128];
	struct pconn *c;

	snprintf(cluster, sizeof(cluster), "{'port':%u,'bind':{'address':'127.0.0.6'}}",
	         pfix_port(l));
	c = pfix_connect(f, TCP, cluster, "127.0.0.1");
	assert_true(pfix_until(f, &c->opened, 1000));
	assert_true(pfix_until_size(f, &f->n_conns, 2, 1000));
	assert_string_equal(l7mp_json_get(f->conns[1]->metadata, "/IP/src_addr")->valuestring,
	                    "127.0.0.6");
	pfix_unlisten(l);
}

static void ports_in_use_are_refused(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, TCP, "l", "{'port':0}", NULL);
	char spec[64], want[64];

	snprintf(spec, sizeof(spec), "{'port':%u}", pfix_port(l));
	assert_null(pfix_listen(f, TCP, "m", spec, NULL));
	snprintf(want, sizeof(want), "port %u: address already in use", pfix_port(l));
	assert_string_equal(f->err.message, want);
	assert_string_equal(f->err.path, "port");
	assert_null(pfix_listen(f, TCP, "m", "{'address':'192.0.2.1','port':0}", NULL));
	assert_string_equal(f->err.message, "address 192.0.2.1: not an address of this host");
	pfix_unlisten(l);
}

static void replaced_without_a_gap(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, TCP, "l", "{'port':0}", NULL), *m;
	char spec[64];
	int fd = pfix_tcp("127.0.0.1", pfix_port(l));

	/* The kernel has the connection already; nobody has accepted it. */
	snprintf(spec, sizeof(spec), "{'port':%u}", pfix_port(l));
	usleep(20000);
	m = pfix_listen(f, TCP, "l", spec, l);
	assert_non_null(m);
	assert_int_equal(pfix_port(m), pfix_port(l));
	pfix_unlisten(l);
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	pfix_unlisten(m);
	/* The port is free again, though a connection lives. */
	m = pfix_listen(f, TCP, "l", spec, NULL);
	assert_non_null(m);
	pfix_unlisten(m);
	close(fd);
}

static void refused_connections_are_closed(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, TCP, "l", "{'port':0}", NULL);
	char got[8];
	int fd;

	f->admit_rc = -EBUSY;
	fd = pfix_tcp("127.0.0.1", pfix_port(l));
	assert_true(pfix_until_n(f, &f->admits, 1, 1000));
	assert_int_equal(pfix_recv(f, fd, got, sizeof(got), NULL, 1000), 0);
	close(fd);
	f->admit_rc = 0;
	f->refuse = true;
	fd = pfix_tcp("127.0.0.1", pfix_port(l));
	assert_true(pfix_until_size(f, &f->n_conns, 1, 1000));
	assert_true(pfix_until_n(f, &f->conns[0]->closed, 1, 1000));
	close(fd);
	pfix_unlisten(l);
}

/* Two of one change want the same address: the second is refused before the first is active. */
static void one_change_one_address(void **state)
{
	struct pfix *f = *state;
	struct l7mp_proto_listener *l = pfix_listen(f, TCP, "l", "{'port':0}", NULL), *m, *n;
	char spec[64];

	snprintf(spec, sizeof(spec), "{'port':%u}", pfix_port(l));
	f->inactive = true;
	m = pfix_listen(f, TCP, "m", spec, l);
	assert_non_null(m);
	assert_null(pfix_listen(f, TCP, "n", spec, l));
	pfix_unlisten(m);
	n = pfix_listen(f, TCP, "n", spec, l);
	assert_non_null(n);
	pfix_unlisten(l);
	TCP->activate(n);
	pfix_unlisten(n);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(session_says_who_it_is),
	        T(ipv6),
	        T(local_address_is_known_at_once),
	        T(half_close_passes),
	        T(slow_reader_stops_the_writer),
	        T(close_writes_what_is_queued),
	        T(abort_is_a_reset),
	        T(refused_says_where),
	        T(next_address_of_a_name),
	        T(bound_source_address),
	        T(ports_in_use_are_refused),
	        T(replaced_without_a_gap),
	        T(refused_connections_are_closed),
	        T(one_change_one_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
