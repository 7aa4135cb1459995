/* SPDX-License-Identifier: MIT */
/* The datagram engine over loopback: packet info, GRO and GSO, order, losses, UNIX sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "l7mp/dgram.h"
#include "looptest.h"

/* Counts the calls of this program and of the libraries: these take the place of libc's. */
static unsigned n_polls, n_sendto;

ssize_t sendto(int fd, const void *data, size_t len, int flags, const struct sockaddr *to,
               socklen_t to_len)
{
	n_sendto++;
	return syscall(SYS_sendto, fd, data, len, flags, to, to_len);
}

int epoll_pwait(int epfd, struct epoll_event *events, int max, int timeout, const sigset_t *set)
{
	n_polls++;
	return (int)syscall(SYS_epoll_pwait, epfd, events, max, timeout, set, _NSIG / 8);
}

int epoll_wait(int epfd, struct epoll_event *events, int max, int timeout)
{
	return epoll_pwait(epfd, events, max, timeout, NULL);
}

struct peer {
	struct l7mp_loop *loop;
	struct l7mp_dgram *d;
	bool echo, close_in_recv;
	int n, stop_at, batches, lost, lost_err, errors, error, ends, dropped, dropped_err;
	uint64_t lost_tag, bytes;
	uint32_t next; /* expected number in the datagram */
	bool numbered, wrong;
	struct l7mp_addr from, to;
	uint32_t last_len;
	uint8_t last[64];
};

static void on_recv(void *arg, struct l7mp_buf *buf, const struct l7mp_addr *from,
                    const struct l7mp_addr *to)
{
	struct peer *p = arg;
	uint32_t n;

	p->n++;
	p->bytes += buf->len;
	p->from = *from;
	p->to = *to;
	p->last_len = buf->len;
	memcpy(p->last, buf->data, buf->len < sizeof(p->last) ? buf->len : sizeof(p->last));
	if (p->numbered && buf->len >= sizeof(n)) {
		memcpy(&n, buf->data, sizeof(n));
		p->wrong |= n != p->next++;
	}
	if (p->echo)
		assert_int_equal(l7mp_dgram_send(p->d, buf, from, to, 7), 0);
	else
		l7mp_buf_unref(buf);
	if (p->close_in_recv)
		l7mp_dgram_close(&p->d);
	if (p->n == p->stop_at)
		l7mp_loop_stop(p->loop);
}

static void on_batch_end(void *arg)
{
	struct peer *p = arg;

	assert_non_null(p->d); /* never after a close */
	p->batches++;
}

static void on_lost(void *arg, int err, uint64_t tag, uint32_t len)
{
	struct peer *p = arg;

	(void)len;
	p->lost++;
	p->lost_err = err;
	p->lost_tag = tag;
}

static void on_error(void *arg, int err)
{
	struct peer *p = arg;

	if (err)
		p->errors++;
	else
		p->ends++;
	p->error = err;
}

static void on_dropped(void *arg, int err, uint32_t len)
{
	struct peer *p = arg;

	(void)len;
	p->dropped++;
	p->dropped_err = err;
}

static const struct l7mp_dgram_ops ops = {
        .recv = on_recv,
        .batch_end = on_batch_end,
        .lost = on_lost,
        .error = on_error,
        .dropped = on_dropped,
};

#define ALL (L7MP_DGRAM_PKTINFO | L7MP_DGRAM_GRO | L7MP_DGRAM_GSO)

static void peer_open(struct peer *p, struct l7mp_loop *loop, int fd, unsigned flags)
{
	assert_true(fd >= 0);
	memset(p, 0, sizeof(*p));
	p->loop = loop;
	assert_int_equal(l7mp_dgram_new(loop, fd, flags, 65535, &ops, p, &p->d), 0);
	l7mp_dgram_read(p->d, true);
}

static int udp(const char *bind_ip, int v6only)
{
	struct l7mp_addr a;
	int fd, size = 8 << 20;

	assert_int_equal(l7mp_addr_parse(&a, bind_ip, 0), 0);
	fd = socket(l7mp_addr_family(&a), SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_true(fd >= 0);
	if (l7mp_addr_family(&a) == AF_INET6)
		assert_int_equal(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only)),
		                 0);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	assert_int_equal(bind(fd, &a.sa, a.len), 0);
	return fd;
}

static uint16_t port_of(int fd)
{
	struct l7mp_addr a;
	socklen_t len = sizeof(a.in6);

	assert_int_equal(getsockname(fd, &a.sa, &len), 0);
	a.len = len;
	return l7mp_addr_port(&a);
}

static int udp_to(const char *ip, uint16_t port)
{
	struct l7mp_addr a;
	int fd, size = 8 << 20;

	assert_int_equal(l7mp_addr_parse(&a, ip, port), 0);
	fd = socket(l7mp_addr_family(&a), SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	assert_int_equal(connect(fd, &a.sa, a.len), 0);
	return fd;
}

static struct l7mp_buf *bytes(struct l7mp_loop *loop, const void *data, size_t len)
{
	struct l7mp_buf *b = l7mp_buf_copy(l7mp_loop_bufs(loop), data, len);

	assert_non_null(b);
	return b;
}

static struct l7mp_buf *numbered(struct l7mp_loop *loop, uint32_t n, size_t len)
{
	struct l7mp_buf *b = l7mp_buf_new(l7mp_loop_bufs(loop), len);

	assert_non_null(b);
	memset(b->data, 'x', len);
	memcpy(b->data, &n, sizeof(n));
	b->len = (uint32_t)len;
	return b;
}

/* The server answers from the address that the client wrote to, though it is bound to all. */
static void echo_one(const char *bind_ip, const char *to_ip)
{
	struct l7mp_loop *loop;
	struct peer server, client;
	struct l7mp_addr want;
	uint16_t port;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	peer_open(&server, loop, udp(bind_ip, 0), ALL);
	server.echo = true;
	port = port_of(l7mp_dgram_fd(server.d));
	/* Connected: the kernel drops an answer from any other address. */
	peer_open(&client, loop, udp_to(to_ip, port), ALL);
	assert_int_equal(l7mp_dgram_send(client.d, bytes(loop, "hello", 5), NULL, NULL, 0), 0);
	assert_int_equal(l7mp_dgram_send(client.d, bytes(loop, "", 0), NULL, NULL, 0), 0);
	LOOP_UNTIL(loop, client.n == 2, 3000);
	assert_int_equal(client.bytes, 5);
	assert_int_equal(client.from.len, 0);
	assert_int_equal(l7mp_addr_parse(&want, to_ip, port), 0);
	assert_true(l7mp_addr_equal(&server.to, &want));
	assert_int_equal(l7mp_addr_family(&server.from), l7mp_addr_family(&want));
	assert_int_equal(l7mp_addr_port(&server.from), port_of(l7mp_dgram_fd(client.d)));
	assert_true(server.batches >= 1);
	l7mp_dgram_close(&server.d);
	l7mp_dgram_close(&client.d);
	assert_null(client.d);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

static void pktinfo(void **state)
{
	(void)state;
	echo_one("127.0.0.1", "127.0.0.1");
	echo_one("0.0.0.0", "127.0.0.5");
	echo_one("::1", "::1");
	echo_one("::", "::1");
	echo_one("::", "127.0.0.1");
	echo_one("::", "127.3.2.1");
}

/* A burst larger than every batch, in order, each one once; sizes mixed so that runs break. */
static void burst(unsigned tx_flags, unsigned rx_flags, const char *ip, bool mixed, size_t len)
{
	enum { N = 10000 };
	struct l7mp_loop *loop;
	struct peer rx, tx;
	uint64_t total = 0;
	uint32_t sent = 0;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	peer_open(&rx, loop, udp(ip, 1), rx_flags);
	rx.numbered = true;
	peer_open(&tx, loop, udp_to(ip, port_of(l7mp_dgram_fd(rx.d))), tx_flags);
	while (sent < N) {
		for (int i = 0; i < 500; i++, sent++) {
			size_t size = mixed ? 4 + (size_t)(sent * 7919) % len : len;

			total += size;
			assert_int_equal(
			        l7mp_dgram_send(tx.d, numbered(loop, sent, size), NULL, NULL, 0),
			        0);
		}
		LOOP_UNTIL(loop, rx.n == (int)sent, 5000);
	}
	assert_false(rx.wrong);
	assert_int_equal(rx.bytes, total);
	assert_int_equal(tx.lost, 0);
	l7mp_dgram_close(&rx.d);
	l7mp_dgram_close(&tx.d);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

static void bursts(void **state)
{
	(void)state;
	burst(0, 0, "127.0.0.1", false, 200);
	burst(L7MP_DGRAM_GSO, L7MP_DGRAM_GRO, "127.0.0.1", false, 200);
	burst(L7MP_DGRAM_GSO, L7MP_DGRAM_GRO, "::1", false, 1400);
	burst(L7MP_DGRAM_GSO, 0, "127.0.0.1", true, 300);
	burst(ALL, ALL, "::1", true, 3000);
}

/* GSO really merges on the way: the receiver sees far fewer packets than datagrams. */
static void gso_used(void **state)
{
	struct l7mp_loop *loop;
	struct peer tx;
	int raw = udp("127.0.0.1", 0), on = 1;
	char data[65536];
	ssize_t n;
	(void)state;

	assert_int_equal(setsockopt(raw, IPPROTO_UDP, 104 /* UDP_GRO */, &on, sizeof(on)), 0);
	assert_int_equal(l7mp_loop_new(&loop), 0);
	peer_open(&tx, loop, udp_to("127.0.0.1", port_of(raw)), L7MP_DGRAM_GSO);
	for (uint32_t i = 0; i < 40; i++)
		l7mp_dgram_send(tx.d, numbered(loop, i, 100), NULL, NULL, 0);
	l7mp_dgram_send(tx.d, numbered(loop, 40, 50), NULL, NULL, 0);  /* ends the run */
	l7mp_dgram_send(tx.d, numbered(loop, 41, 100), NULL, NULL, 0); /* begins another */
	l7mp_dgram_flush(tx.d);
	n = recv(raw, data, sizeof(data), MSG_DONTWAIT);
	assert_int_equal(n, 40 * 100 + 50);
	n = recv(raw, data, sizeof(data), MSG_DONTWAIT);
	assert_int_equal(n, 100);
	close(raw);
	l7mp_dgram_close(&tx.d);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

/*
 * The kernel refuses segments without checksum offload (SO_NO_CHECK: EIO): they
 * leave one by one, none lost, still in order.
 */
static void gso_refused(void **state)
{
	struct l7mp_loop *loop;
	struct peer rx, tx;
	int on = 1;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	peer_open(&rx, loop, udp("127.0.0.1", 0), 0);
	rx.numbered = true;
	peer_open(&tx, loop, udp_to("127.0.0.1", port_of(l7mp_dgram_fd(rx.d))), L7MP_DGRAM_GSO);
	assert_int_equal(setsockopt(l7mp_dgram_fd(tx.d), SOL_SOCKET, SO_NO_CHECK, &on, sizeof(on)),
	                 0);
	for (uint32_t round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < 300; i++)
			l7mp_dgram_send(tx.d, numbered(loop, round * 300 + i, 100), NULL, NULL, 0);
		LOOP_UNTIL(loop, rx.n == (int)(round + 1) * 300, 3000);
	}
	assert_false(rx.wrong);
	assert_int_equal(tx.lost, 0);
	l7mp_dgram_close(&rx.d);
	l7mp_dgram_close(&tx.d);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

/* One bad datagram in the middle of a batch costs only itself. */
static void losses(void **state)
{
	struct l7mp_loop *loop;
	struct peer rx, tx;
	struct l7mp_addr good, unreachable, bad_from;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	peer_open(&rx, loop, udp("127.0.0.1", 0), 0);
	rx.numbered = true;
	peer_open(&tx, loop, udp("127.0.0.1", 0), L7MP_DGRAM_GSO);
	assert_int_equal(l7mp_addr_parse(&good, "127.0.0.1", port_of(l7mp_dgram_fd(rx.d))), 0);
	/* From 127.0.0.1 to elsewhere: EINVAL or ENETUNREACH, as the host is connected. */
	assert_int_equal(l7mp_addr_parse(&unreachable, "240.0.0.1", 9), 0);
	assert_int_equal(l7mp_addr_parse(&bad_from, "192.0.2.77", 0), 0);
	for (uint32_t i = 0; i < 100; i++) {
		if (i == 30)
			l7mp_dgram_send(tx.d, numbered(loop, 0, 100), &unreachable, NULL, 4711);
		if (i == 60) /* not an address of this host */
			l7mp_dgram_send(tx.d, numbered(loop, 0, 100), &good, &bad_from, 4712);
		l7mp_dgram_send(tx.d, numbered(loop, i, 100), &good, NULL, i);
	}
	assert_int_equal(tx.lost, 0);
	LOOP_UNTIL(loop, rx.n == 100, 3000);
	assert_false(rx.wrong);
	assert_int_equal(tx.lost, 2);
	assert_int_equal(tx.lost_tag, 4712);
	assert_int_equal(l7mp_dgram_send(tx.d, numbered(loop, 0, 65508), &good, NULL, 1),
	                 -EMSGSIZE);
	l7mp_dgram_close(&rx.d);
	l7mp_dgram_close(&tx.d);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

/*
 * Nobody listens: the ICMP error of one datagram comes back at the next send. It
 * is reported as an error, and it must not eat the datagram that is sent then.
 */
static void refused(void **state)
{
	struct l7mp_loop *loop;
	struct peer tx, rx;
	int fd = udp("127.0.0.1", 0);
	uint16_t port = port_of(fd);
	struct l7mp_addr a;
	(void)state;

	close(fd);
	assert_int_equal(l7mp_loop_new(&loop), 0);
	peer_open(&tx, loop, udp_to("127.0.0.1", port), L7MP_DGRAM_GSO);
	l7mp_dgram_read(tx.d, false);
	for (uint32_t i = 0; i < 20; i++)
		l7mp_dgram_send(tx.d, numbered(loop, i, 100 + i), NULL, NULL, i);
	LOOP_UNTIL(loop, tx.errors > 0, 3000);
	assert_int_equal(tx.error, -ECONNREFUSED);
	assert_int_equal(tx.lost, 0); /* they all left; nobody took them */
	/* Someone comes up with an error still pending in the socket. */
	LOOP_FOR(loop, 20);
	tx.errors = 0;
	l7mp_dgram_send(tx.d, numbered(loop, 0, 10), NULL, NULL, 0);
	l7mp_dgram_flush(tx.d);
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(l7mp_addr_parse(&a, "127.0.0.1", port), 0);
	assert_int_equal(bind(fd, &a.sa, a.len), 0);
	peer_open(&rx, loop, fd, 0);
	rx.numbered = true;
	for (uint32_t i = 0; i < 20; i++)
		l7mp_dgram_send(tx.d, numbered(loop, i, 100 + i), NULL, NULL, i);
	LOOP_UNTIL(loop, rx.n == 20, 3000);
	assert_false(rx.wrong);
	assert_int_equal(tx.lost, 0);
	/* And with reading on, the error comes without any send. */
	l7mp_dgram_close(&rx.d);
	LOOP_FOR(loop, 5);
	tx.errors = 0;
	l7mp_dgram_read(tx.d, true);
	l7mp_dgram_send(tx.d, numbered(loop, 0, 10), NULL, NULL, 0);
	LOOP_UNTIL(loop, tx.errors == 1, 3000);
	l7mp_dgram_close(&tx.d);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

static void close_inside(void **state)
{
	struct l7mp_loop *loop;
	struct peer rx, tx;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	peer_open(&rx, loop, udp("127.0.0.1", 0), ALL);
	rx.close_in_recv = true;
	peer_open(&tx, loop, udp_to("127.0.0.1", port_of(l7mp_dgram_fd(rx.d))), ALL);
	for (uint32_t i = 0; i < 50; i++)
		l7mp_dgram_send(tx.d, numbered(loop, i, 100), NULL, NULL, 0);
	LOOP_UNTIL(loop, rx.n, 3000);
	LOOP_FOR(loop, 20);
	assert_int_equal(rx.n, 1);
	assert_int_equal(rx.batches, 0);
	/* What was queued is sent by a close, and nothing is told any more. */
	l7mp_dgram_send(tx.d, numbered(loop, 0, 100), NULL, NULL, 0);
	l7mp_dgram_close(&tx.d);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

/* ---- UNIX sockets ---- */

static int unix_pair_listen(struct l7mp_addr *a, int type)
{
	char name[64];
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	static int n;

	snprintf(name, sizeof(name), "@l7mp-test-dgram-%d-%d", (int)getpid(), n++);
	assert_int_equal(l7mp_addr_unix(a, name), 0);
	assert_int_equal(bind(fd, &a->sa, a->len), 0);
	return fd;
}

/*
 * Receivers take few datagrams at a time: the rest waits, in order, and a stuck one holds up no
 * other.
 */
static void unix_dgram(void **state)
{
	enum { N = 2000 };
	struct l7mp_loop *loop;
	struct l7mp_addr rx_addr, tx_addr, stuck_addr;
	struct peer rx, tx;
	int stuck = unix_pair_listen(&stuck_addr, SOCK_DGRAM);
	int fd = unix_pair_listen(&rx_addr, SOCK_DGRAM);
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	peer_open(&rx, loop, fd, 0);
	rx.numbered = true;
	peer_open(&tx, loop, unix_pair_listen(&tx_addr, SOCK_DGRAM), ALL);
	for (uint32_t i = 0; i < 700; i++) /* more than any max_dgram_qlen of old */
		assert_int_equal(
		        l7mp_dgram_send(tx.d, numbered(loop, i, 50), &stuck_addr, NULL, 99), 0);
	for (uint32_t i = 0; i < N; i++)
		assert_int_equal(l7mp_dgram_send(tx.d, numbered(loop, i, 50), &rx_addr, NULL, 1),
		                 0);
	LOOP_UNTIL(loop, rx.n == N, 5000);
	assert_false(rx.wrong);
	assert_true(l7mp_addr_equal(&rx.from, &tx_addr));
	/* What the stuck one does not take is lost in the end, and told. */
	LOOP_UNTIL(loop, tx.lost > 0, 5000);
	assert_int_equal(tx.lost_err, -EAGAIN);
	assert_int_equal(tx.lost_tag, 99);
	/* A receiver that went: told at once. */
	LOOP_FOR(loop, 20);
	tx.lost = 0;
	close(stuck);
	l7mp_dgram_send(tx.d, numbered(loop, 0, 50), &stuck_addr, NULL, 5);
	LOOP_UNTIL(loop, tx.lost > 0, 3000);
	assert_int_equal(tx.lost_err, -ECONNREFUSED);
	l7mp_dgram_close(&rx.d);
	l7mp_dgram_close(&tx.d);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

static void unix_seqpacket(void **state)
{
	enum { N = 3000 };
	struct l7mp_loop *loop;
	struct peer a, b;
	int fd[2], queued = 0;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd),
	                 0);
	peer_open(&a, loop, fd[0], L7MP_DGRAM_SEQPACKET);
	peer_open(&b, loop, fd[1], L7MP_DGRAM_SEQPACKET);
	l7mp_dgram_read(b.d, false);
	b.numbered = true;
	/* Nobody reads: what the kernel does not take waits, up to the bound. */
	for (uint32_t i = 0; i < N; i++, queued++) {
		int rc = l7mp_dgram_send(a.d, numbered(loop, i, 1000), NULL, NULL, 0);

		if (rc) {
			assert_int_equal(rc, -ENOBUFS);
			break;
		}
	}
	assert_in_range(queued, 900, 2500);
	LOOP_FOR(loop, 20);
	l7mp_dgram_read(b.d, true);
	LOOP_UNTIL(loop, b.n == queued, 5000);
	assert_false(b.wrong);
	assert_int_equal(a.lost, 0);
	l7mp_dgram_close(&a.d);
	LOOP_UNTIL(loop, b.ends == 1, 3000);
	LOOP_FOR(loop, 20);
	assert_int_equal(b.ends, 1);
	/* Writing to nobody. */
	l7mp_dgram_send(b.d, numbered(loop, 0, 10), NULL, NULL, 77);
	LOOP_UNTIL(loop, b.lost == 1, 3000);
	assert_int_equal(b.lost_err, -EPIPE);
	assert_int_equal(b.errors, 1);
	l7mp_dgram_close(&b.d);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

/* Never cut: a datagram that is larger than the socket was opened for is dropped and told. */
static void truncated(void **state)
{
	struct l7mp_loop *loop;
	struct peer rx;
	int fd[2];
	char data[3000] = {0};
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
	memset(&rx, 0, sizeof(rx));
	assert_int_equal(l7mp_dgram_new(loop, fd[0], 0, 2000, &ops, &rx, &rx.d), 0);
	l7mp_dgram_read(rx.d, true);
	assert_int_equal(send(fd[1], data, 2001, 0), 2001);
	assert_int_equal(send(fd[1], data, 2000, 0), 2000);
	LOOP_UNTIL(loop, rx.n == 1, 3000);
	assert_int_equal(rx.dropped, 1);
	assert_int_equal(rx.dropped_err, -EMSGSIZE);
	assert_int_equal(rx.last_len, 2000);
	l7mp_dgram_close(&rx.d);
	close(fd[1]);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

/* UNIX datagrams may be larger than any slot. */
static void huge(void **state)
{
	struct l7mp_loop *loop;
	struct peer rx, tx;
	int fd[2], size = 1 << 20;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
	(void)setsockopt(fd[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	memset(&rx, 0, sizeof(rx));
	assert_int_equal(l7mp_dgram_new(loop, fd[0], 0, 150000, &ops, &rx, &rx.d), 0);
	l7mp_dgram_read(rx.d, true);
	rx.numbered = true;
	peer_open(&tx, loop, fd[1], 0);
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(l7mp_dgram_send(tx.d, numbered(loop, i, 150000), NULL, NULL, 0),
		                 0);
	LOOP_UNTIL(loop, rx.n == 5, 3000);
	assert_int_equal(rx.bytes, 5 * 150000);
	assert_false(rx.wrong);
	l7mp_dgram_close(&rx.d);
	l7mp_dgram_close(&tx.d);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

/* ---- many ---- */

static void many(void **state)
{
	enum { N = 10000 };
	struct rlimit lim;
	struct l7mp_loop *loop;
	struct peer rx, *tx;
	int n = N;
	(void)state;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &lim), 0);
	lim.rlim_cur = lim.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &lim);
	if (lim.rlim_cur < N + 100)
		n = (int)lim.rlim_cur - 100;
	tx = calloc((size_t)n, sizeof(*tx));
	assert_non_null(tx);
	assert_int_equal(l7mp_loop_new(&loop), 0);
	peer_open(&rx, loop, udp("127.0.0.1", 0), ALL);
	rx.echo = true;
	for (int i = 0; i < n; i++)
		peer_open(&tx[i], loop, udp_to("127.0.0.1", port_of(l7mp_dgram_fd(rx.d))), ALL);
	for (int i = 0; i < n; i++) {
		l7mp_dgram_send(tx[i].d, numbered(loop, (uint32_t)i, 20), NULL, NULL, 0);
		if (i % 500 == 499)
			LOOP_UNTIL(loop, rx.n == i + 1, 5000);
	}
	LOOP_UNTIL(loop, rx.n == n, 5000);
	for (int i = 0; i < n; i++) {
		uint32_t got;

		LOOP_UNTIL(loop, tx[i].n == 1, 5000);
		memcpy(&got, tx[i].last, sizeof(got));
		assert_int_equal(got, i);
		l7mp_dgram_close(&tx[i].d);
	}
	l7mp_dgram_close(&rx.d);
	assert_int_equal(l7mp_loop_free(&loop), 0);
	free(tx);
}

/* ---- system calls ---- */

#define TURNS 1000

/* A datagram that comes alone costs one poll, and one sendto(2). */
static void one_by_one(void **state)
{
	struct l7mp_loop *loop;
	struct peer a, b;
	unsigned before;
	int fd[2];
	(void)state;

	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
	assert_int_equal(l7mp_loop_new(&loop), 0);
	peer_open(&a, loop, fd[0], 0);
	peer_open(&b, loop, fd[1], 0);
	a.echo = b.echo = true;
	a.stop_at = TURNS;
	assert_int_equal(l7mp_dgram_send(a.d, bytes(loop, "x", 1), NULL, NULL, 0), 0);
	before = n_polls;
	n_sendto = 0;
	l7mp_loop_run(loop);
	assert_int_equal(a.n, TURNS);
	assert_int_equal(b.n, TURNS);
	/* The turn that sends the first one has a poll, too. */
	assert_in_range(n_polls - before, 2 * TURNS, 2 * TURNS + 2);
	assert_in_range(n_sendto, 2 * TURNS, 2 * TURNS + 1);
	l7mp_dgram_close(&a.d);
	l7mp_dgram_close(&b.d);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

int main(void)
{
	const struct CMUnitTest all[] = {
	        cmocka_unit_test(pktinfo),        cmocka_unit_test(bursts),
	        cmocka_unit_test(gso_used),       cmocka_unit_test(gso_refused),
	        cmocka_unit_test(losses),         cmocka_unit_test(refused),
	        cmocka_unit_test(close_inside),   cmocka_unit_test(unix_dgram),
	        cmocka_unit_test(unix_seqpacket), cmocka_unit_test(truncated),
	        cmocka_unit_test(huge),           cmocka_unit_test(many),
	        cmocka_unit_test(one_by_one),
	};

	return cmocka_run_group_tests(all, NULL, NULL);
}
