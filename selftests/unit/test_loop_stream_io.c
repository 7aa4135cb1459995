/* SPDX-License-Identifier: MIT */
/* Byte streams over TCP, UNIX sockets and pipes; the acceptor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "l7mp/stream_io.h"
#include "looptest.h"

struct end {
	struct l7mp_loop *loop;
	struct l7mp_stream_io *s;
	int connected, ended, errors, err, closed, drained;
	uint64_t bytes, sum; /* what came in */
	uint64_t out, out_sum, out_goal;
	bool full, in_call, close_in_data, abort_in_data, shut_at_goal, stop_after_data;
	size_t max_queued;
	unsigned char next_in, next_out;
	bool wrong;
};

static void pump(struct end *e);

static void on_connected(void *arg)
{
	struct end *e = arg;

	assert_false(e->in_call);
	e->connected++;
	l7mp_stream_io_read(e->s, true);
	pump(e);
}

static void on_data(void *arg, struct l7mp_buf *buf)
{
	struct end *e = arg;

	assert_false(e->in_call);
	assert_int_equal(e->ended + e->closed, 0);
	e->bytes += buf->len;
	for (uint32_t i = 0; i < buf->len; i++)
		e->wrong |= buf->data[i] != e->next_in++;
	l7mp_buf_unref(buf);
	if (e->stop_after_data)
		l7mp_stream_io_read(e->s, false);
	if (e->close_in_data || e->abort_in_data)
		l7mp_stream_io_close(e->s, e->abort_in_data);
}

static void on_drain(void *arg)
{
	struct end *e = arg;

	assert_false(e->in_call);
	assert_true(e->full);
	e->full = false;
	e->drained++;
	pump(e);
}

static void on_end(void *arg)
{
	struct end *e = arg;

	assert_false(e->in_call);
	e->ended++;
}

static void on_error(void *arg, int err)
{
	struct end *e = arg;

	assert_false(e->in_call);
	assert_int_equal(e->closed, 0);
	e->errors++;
	e->err = err;
}

static void on_closed(void *arg)
{
	struct end *e = arg;

	assert_false(e->in_call);
	e->closed++;
	e->s = NULL;
}

static const struct l7mp_stream_io_ops ops = {
        .connected = on_connected,
        .data = on_data,
        .drain = on_drain,
        .end = on_end,
        .error = on_error,
        .closed = on_closed,
};

/* Writes the counting bytes until the goal is reached or the stream is full. */
static void pump(struct end *e)
{
	while (e->out < e->out_goal && !e->full) {
		size_t len = e->out_goal - e->out < 30000 ? e->out_goal - e->out : 30000;
		struct l7mp_buf *buf = l7mp_buf_new(l7mp_loop_bufs(e->loop), len);
		int rc;

		assert_non_null(buf);
		for (size_t i = 0; i < len; i++)
			buf->data[i] = e->next_out++;
		buf->len = (uint32_t)len;
		e->in_call = true;
		rc = l7mp_stream_io_write(e->s, buf);
		e->in_call = false;
		if (rc < 0) {
			e->out_goal = e->out;
			return;
		}
		e->out += len;
		e->full = rc == L7MP_STREAM_IO_FULL;
		if (l7mp_stream_io_queued(e->s) > e->max_queued)
			e->max_queued = l7mp_stream_io_queued(e->s);
	}
	if (e->shut_at_goal && e->out == e->out_goal) {
		e->in_call = true;
		l7mp_stream_io_shutdown(e->s);
		l7mp_stream_io_shutdown(e->s);
		e->in_call = false;
	}
}

static void end_init(struct end *e, struct l7mp_loop *loop)
{
	*e = (struct end){.loop = loop};
}

static void end_close(struct end *e, bool abort)
{
	e->in_call = true;
	l7mp_stream_io_close(e->s, abort);
	l7mp_stream_io_close(e->s, abort);
	e->in_call = false;
	assert_int_equal(e->closed, 0);
}

/* Two connected streams of a kind. */
enum kind { TCP, UNIX, PIPES };

static int listen_on(const char *ip, struct l7mp_addr *a)
{
	socklen_t len = sizeof(a->in6);
	int fd;

	assert_int_equal(l7mp_addr_parse(a, ip, 0), 0);
	fd = socket(l7mp_addr_family(a), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(fd, &a->sa, a->len), 0);
	assert_int_equal(listen(fd, 128), 0);
	assert_int_equal(getsockname(fd, &a->sa, &len), 0);
	return fd;
}

static void pair(enum kind kind, struct l7mp_loop *loop, struct end *a, struct end *b)
{
	int fd[2], back[2];

	end_init(a, loop);
	end_init(b, loop);
	if (kind == TCP) {
		struct l7mp_addr addr;
		int ls = listen_on("127.0.0.1", &addr);

		fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(fd[0], &addr.sa, addr.len), 0);
		assert_int_equal(fcntl(fd[0], F_SETFL, O_NONBLOCK), 0);
		fd[1] = accept4(ls, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		close(ls);
		assert_int_equal(l7mp_stream_io_open_tcp(loop, fd[0], &ops, a, &a->s), 0);
		assert_int_equal(l7mp_stream_io_open_tcp(loop, fd[1], &ops, b, &b->s), 0);
	} else if (kind == UNIX) {
		assert_int_equal(
		        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
		assert_int_equal(l7mp_stream_io_open_unix(loop, fd[0], &ops, a, &a->s), 0);
		assert_int_equal(l7mp_stream_io_open_unix(loop, fd[1], &ops, b, &b->s), 0);
	} else {
		assert_int_equal(pipe2(fd, O_CLOEXEC | O_NONBLOCK), 0);
		assert_int_equal(pipe2(back, O_CLOEXEC | O_NONBLOCK), 0);
		assert_int_equal(l7mp_stream_io_open_pipe(loop, back[0], fd[1], &ops, a, &a->s), 0);
		assert_int_equal(l7mp_stream_io_open_pipe(loop, fd[0], back[1], &ops, b, &b->s), 0);
	}
}

static void fini(struct l7mp_loop **loop, struct end *a, struct end *b)
{
	if (a->s)
		end_close(a, true);
	if (b->s)
		end_close(b, true);
	LOOP_UNTIL(*loop, a->closed == 1 && b->closed == 1, 7000);
	LOOP_FOR(*loop, 3);
	assert_int_equal(a->closed + b->closed, 2);
	assert_int_equal(l7mp_loop_free(loop), 0);
}

/* 8 MB each way at once, half-closed one after the other. */
static void transfer_kind(enum kind kind)
{
	const uint64_t goal = 8000000;
	struct l7mp_loop *loop;
	struct end a, b;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	pair(kind, loop, &a, &b);
	a.out_goal = goal;
	a.shut_at_goal = true;
	b.out_goal = goal;
	l7mp_stream_io_read(a.s, true);
	l7mp_stream_io_read(b.s, true);
	pump(&a);
	pump(&b);
	LOOP_UNTIL(loop, b.ended == 1, 10000);
	assert_int_equal(b.bytes, goal);
	LOOP_UNTIL(loop, a.bytes == goal, 10000);
	/* One direction has ended, the other goes on. */
	b.out_goal += goal;
	b.shut_at_goal = true;
	pump(&b);
	LOOP_UNTIL(loop, a.ended == 1, 10000);
	assert_int_equal(a.bytes, 2 * goal);
	assert_false(a.wrong || b.wrong);
	assert_int_equal(a.errors + b.errors, 0);
	assert_true(a.drained > 0);
	assert_in_range(a.max_queued, 1, 65536 + 30000);
	end_close(&a, false);
	end_close(&b, false);
	fini(&loop, &a, &b);
}

static void transfer(void **state)
{
	(void)state;
	transfer_kind(TCP);
	transfer_kind(UNIX);
	transfer_kind(PIPES);
}

/*
 * A reader that takes one piece at a time: the writer is stopped, memory stays bounded, nothing is
 * lost.
 */
static void slow_reader_kind(enum kind kind)
{
	struct l7mp_loop *loop;
	struct end a, b;
	uint64_t was = 0;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	pair(kind, loop, &a, &b);
	a.out_goal = 20000000;
	a.shut_at_goal = true;
	b.stop_after_data = true;
	pump(&a);
	LOOP_FOR(loop, 20);
	assert_true(a.full);
	assert_int_equal(b.bytes, 0); /* starts paused */
	while (!b.ended) {
		l7mp_stream_io_read(b.s, true);
		LOOP_UNTIL(loop, b.bytes > was || b.ended, 5000);
		assert_true(b.bytes - was <= 262144 + 65536);
		was = b.bytes;
	}
	assert_int_equal(b.bytes, 20000000);
	assert_false(b.wrong);
	assert_in_range(a.max_queued, 1, 65536 + 30000);
	fini(&loop, &a, &b);
}

static void slow_reader(void **state)
{
	(void)state;
	slow_reader_kind(TCP);
	slow_reader_kind(UNIX);
	slow_reader_kind(PIPES);
}

static void reset(void **state)
{
	struct l7mp_loop *loop;
	struct end a, b;
	struct l7mp_buf *buf;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	pair(TCP, loop, &a, &b);
	l7mp_stream_io_read(b.s, true);
	end_close(&a, true);
	LOOP_UNTIL(loop, b.errors == 1, 3000);
	assert_int_equal(b.err, -ECONNRESET);
	assert_int_equal(b.ended, 0);
	buf = l7mp_buf_copy(l7mp_loop_bufs(loop), "x", 1);
	assert_true(l7mp_stream_io_write(b.s, buf) < 0);
	LOOP_FOR(loop, 10);
	assert_int_equal(b.errors, 1);
	fini(&loop, &a, &b);

	/* An orderly close is no reset, even when the peer has sent what nobody read. */
	assert_int_equal(l7mp_loop_new(&loop), 0);
	pair(TCP, loop, &a, &b);
	b.out_goal = 100000;
	pump(&b);
	LOOP_FOR(loop, 10);
	a.out_goal = 100000;
	pump(&a);
	end_close(&a, false);
	l7mp_stream_io_read(b.s, true);
	LOOP_UNTIL(loop, b.ended == 1, 3000);
	assert_int_equal(b.bytes, 100000);
	assert_int_equal(b.errors, 0);
	end_close(&b, false);
	fini(&loop, &a, &b);
}

/*
 * What is queued at an orderly close still arrives; a peer that does not read holds it up only so
 * long.
 */
static void close_flushes(void **state)
{
	struct l7mp_loop *loop;
	struct end a, b;
	uint64_t start;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	pair(UNIX, loop, &a, &b);
	a.out_goal = 5000000;
	pump(&a);
	assert_true(a.full);
	end_close(&a, false);
	a.out_goal = a.out;
	LOOP_FOR(loop, 20);
	assert_int_equal(a.closed, 0);
	l7mp_stream_io_read(b.s, true);
	LOOP_UNTIL(loop, b.ended == 1 && a.closed == 1, 3000);
	assert_int_equal(b.bytes, a.out);
	fini(&loop, &a, &b);

	assert_int_equal(l7mp_loop_new(&loop), 0);
	pair(TCP, loop, &a, &b);
	a.out_goal = 50000000;
	pump(&a);
	assert_true(a.full);
	start = looptest_ms();
	end_close(&a, false);
	LOOP_UNTIL(loop, a.closed == 1, 8000);
	assert_in_range(looptest_ms() - start, 4900, 7000);
	fini(&loop, &a, &b);

	/* An abort may cut a patient close short. */
	assert_int_equal(l7mp_loop_new(&loop), 0);
	pair(TCP, loop, &a, &b);
	a.out_goal = 50000000;
	pump(&a);
	end_close(&a, false);
	LOOP_FOR(loop, 10);
	assert_int_equal(a.closed, 0);
	end_close(&a, true);
	LOOP_UNTIL(loop, a.closed == 1, 100);
	fini(&loop, &a, &b);
}

static void close_inside(void **state)
{
	(void)state;
	for (int kind = TCP; kind <= PIPES; kind++) {
		for (int abort = 0; abort < 2; abort++) {
			struct l7mp_loop *loop;
			struct end a, b;

			assert_int_equal(l7mp_loop_new(&loop), 0);
			pair((enum kind)kind, loop, &a, &b);
			b.close_in_data = !abort;
			b.abort_in_data = abort;
			a.out_goal = 200000;
			pump(&a);
			l7mp_stream_io_read(b.s, true);
			LOOP_UNTIL(loop, b.closed == 1, 3000);
			assert_in_range(b.bytes, 1, 65536);
			/*
			 * The writer learns of it: by error or, when it has nothing to write, by
			 * the end.
			 */
			l7mp_stream_io_read(a.s, true);
			LOOP_UNTIL(loop, a.errors || a.ended, 3000);
			fini(&loop, &a, &b);
		}
	}
}

/*
 * The peer takes no more but had said something before: that is read first, then comes the error.
 */
static void last_words(void **state)
{
	struct l7mp_loop *loop;
	struct end a, b;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	pair(UNIX, loop, &a, &b);
	b.out_goal = 50000;
	pump(&b);
	end_close(&b, false);
	LOOP_UNTIL(loop, b.closed == 1, 3000);
	a.out_goal = 1000;
	pump(&a);
	assert_int_equal(a.out, 0); /* refused */
	l7mp_stream_io_read(a.s, true);
	LOOP_UNTIL(loop, a.errors == 1, 3000);
	assert_int_equal(a.err, -EPIPE);
	assert_int_equal(a.bytes, 50000);
	fini(&loop, &a, &b);
}

/* ---- connecting ---- */

static void connect_to(const char *ip)
{
	struct l7mp_loop *loop;
	struct l7mp_addr addr, local = {0}, got;
	struct end a, b;
	int ls = listen_on(ip, &addr), fd, on = 0;
	socklen_t len = sizeof(on);

	assert_int_equal(l7mp_loop_new(&loop), 0);
	end_init(&a, loop);
	end_init(&b, loop);
	a.out_goal = 1000; /* written before it is connected */
	a.shut_at_goal = true;
	assert_int_equal(l7mp_stream_io_connect_tcp(loop, &addr, &local, &ops, &a, &a.s), 0);
	assert_int_equal(a.connected, 0);
	pump(&a);
	assert_int_equal(a.out, 1000);
	assert_int_equal(l7mp_stream_io_local(a.s, &got), 0);
	assert_true(l7mp_addr_port(&got) != 0);
	LOOP_UNTIL(loop, a.connected == 1, 3000);
	assert_int_equal(getsockopt(l7mp_stream_io_fd(a.s), IPPROTO_TCP, TCP_NODELAY, &on, &len),
	                 0);
	assert_true(on);
	fd = accept4(ls, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	assert_int_equal(l7mp_stream_io_open_tcp(loop, fd, &ops, &b, &b.s), 0);
	assert_int_equal(l7mp_stream_io_remote(b.s, &local), 0);
	assert_true(l7mp_addr_equal(&local, &got));
	l7mp_stream_io_read(b.s, true);
	LOOP_UNTIL(loop, b.ended == 1, 3000);
	assert_int_equal(b.bytes, 1000);
	close(ls);
	fini(&loop, &a, &b);
}

static void connecting(void **state)
{
	(void)state;
	connect_to("127.0.0.1");
	connect_to("::1");
}

static void connect_fails(void **state)
{
	struct l7mp_loop *loop;
	struct l7mp_addr addr, local;
	struct end a, b;
	int ls = listen_on("127.0.0.1", &addr);
	(void)state;

	close(ls);
	assert_int_equal(l7mp_loop_new(&loop), 0);
	end_init(&a, loop);
	end_init(&b, loop);
	assert_int_equal(l7mp_stream_io_connect_tcp(loop, &addr, NULL, &ops, &a, &a.s), 0);
	assert_int_equal(a.errors, 0); /* not from inside the call */
	assert_int_equal(l7mp_addr_unix(&local, "/nonexistent/l7mp.sock"), 0);
	assert_int_equal(l7mp_stream_io_connect_unix(loop, &local, &ops, &b, &b.s), 0);
	assert_int_equal(b.errors, 0);
	LOOP_UNTIL(loop, a.errors == 1 && b.errors == 1, 3000);
	assert_int_equal(a.err, -ECONNREFUSED);
	assert_int_equal(b.err, -ENOENT);
	assert_int_equal(a.connected + b.connected, 0);
	fini(&loop, &a, &b);

	/* A local address that this host does not have. */
	assert_int_equal(l7mp_loop_new(&loop), 0);
	end_init(&a, loop);
	assert_int_equal(l7mp_addr_parse(&local, "192.0.2.1", 0), 0);
	assert_int_equal(l7mp_stream_io_connect_tcp(loop, &addr, &local, &ops, &a, &a.s),
	                 -EADDRNOTAVAIL);
	/* From its own port to its own port: Linux connects it to itself. */
	local = addr;
	assert_int_equal(l7mp_stream_io_connect_tcp(loop, &addr, &local, &ops, &a, &a.s), 0);
	LOOP_UNTIL(loop, a.errors == 1, 3000);
	assert_int_equal(a.err, -ECONNREFUSED);
	end_init(&b, loop);
	assert_int_equal(l7mp_stream_io_connect_tcp(loop, &addr, NULL, &ops, &b, &b.s), 0);
	end_close(&b, false); /* before it is connected: nothing but closed */
	LOOP_UNTIL(loop, b.closed == 1, 3000);
	assert_int_equal(b.errors, 0);
	fini(&loop, &a, &b);
}

/* A UNIX listener whose backlog is full: connecting waits until there is room. */
static void unix_backlog(void **state)
{
	enum { N = 5 };
	struct l7mp_loop *loop;
	struct l7mp_addr addr;
	struct end e[N];
	int ls = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), connected = 0;
	uint64_t start = looptest_ms();
	char name[64];
	(void)state;

	snprintf(name, sizeof(name), "@l7mp-test-sio-%d", (int)getpid());
	assert_int_equal(l7mp_addr_unix(&addr, name), 0);
	assert_int_equal(bind(ls, &addr.sa, addr.len), 0);
	assert_int_equal(listen(ls, 1), 0);
	assert_int_equal(l7mp_loop_new(&loop), 0);
	for (int i = 0; i < N; i++) {
		end_init(&e[i], loop);
		assert_int_equal(l7mp_stream_io_connect_unix(loop, &addr, &ops, &e[i], &e[i].s), 0);
	}
	LOOP_FOR(loop, 30);
	for (int i = 0; i < N; i++)
		connected += e[i].connected;
	assert_in_range(connected, 1, N - 1);
	for (int n = 0; n < N;) {
		int fd = accept4(ls, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0) {
			LOOP_FOR(loop, 5);
			assert_true(looptest_ms() - start < 5000);
			continue;
		}
		close(fd);
		n++;
	}
	for (int i = 0; i < N; i++) {
		LOOP_UNTIL(loop, e[i].connected == 1, 3000);
		assert_int_equal(e[i].errors, 0);
		end_close(&e[i], false);
		LOOP_UNTIL(loop, e[i].closed == 1, 3000);
	}
	close(ls);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

/* epoll refuses files and /dev/null: they still read, end and take writes. */
static void files(void **state)
{
	struct l7mp_loop *loop;
	struct end a, b;
	char path[] = "/tmp/l7mp-sio-XXXXXX";
	unsigned char data[200000];
	int fd = mkstemp(path);
	(void)state;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (unsigned char)i;
	assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(l7mp_loop_new(&loop), 0);
	end_init(&a, loop);
	end_init(&b, loop);
	assert_int_equal(l7mp_stream_io_open_pipe(loop, fd, open("/dev/null", O_WRONLY | O_CLOEXEC),
	                                          &ops, &a, &a.s),
	                 0);
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	assert_int_equal(l7mp_stream_io_open_pipe(loop, fd, fd, &ops, &b, &b.s), 0);
	a.out_goal = 100000;
	a.shut_at_goal = true;
	pump(&a);
	l7mp_stream_io_read(a.s, true);
	l7mp_stream_io_read(b.s, true);
	LOOP_UNTIL(loop, a.ended == 1 && b.ended == 1, 3000);
	assert_int_equal(a.bytes, sizeof(data));
	assert_false(a.wrong);
	fini(&loop, &a, &b);
}

/* ---- acceptor ---- */

struct accepts {
	struct l7mp_acceptor *a;
	int n, exhausted, fds[600];
	bool close_at_first;
	struct l7mp_addr peer;
};

static void on_accepted(void *arg, int fd, const struct l7mp_addr *peer)
{
	struct accepts *c = arg;

	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	c->fds[c->n++] = fd;
	c->peer = *peer;
	if (c->close_at_first)
		l7mp_acceptor_close(&c->a);
}

static void on_exhausted(void *arg, int err)
{
	struct accepts *c = arg;

	assert_int_equal(err, -EMFILE);
	c->exhausted++;
}

static const struct l7mp_acceptor_ops acceptor_ops = {on_accepted, on_exhausted};

static int dial(const struct l7mp_addr *addr)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	(void)connect(fd, &addr->sa, addr->len);
	return fd;
}

static void accepting(void **state)
{
	struct l7mp_loop *loop;
	struct l7mp_addr addr;
	struct accepts c = {0};
	struct rlimit old, low;
	int fd[10], ls = listen_on("127.0.0.1", &addr), top;
	(void)state;

	assert_int_equal(l7mp_loop_new(&loop), 0);
	assert_int_equal(l7mp_acceptor_new(loop, ls, &acceptor_ops, &c, &c.a), 0);
	assert_int_equal(l7mp_acceptor_fd(c.a), ls);
	fd[0] = dial(&addr);
	LOOP_UNTIL(loop, c.n == 1, 3000);
	assert_int_equal(l7mp_addr_family(&c.peer), AF_INET);
	assert_true(l7mp_addr_is_loopback(&c.peer));
	/* Descriptors run out with connections waiting: it backs off, then takes them. */
	for (int i = 1; i < 10; i++)
		fd[i] = dial(&addr);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	top = dup(ls);
	close(top);
	low = old;
	low.rlim_cur = (rlim_t)top;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	LOOP_FOR(loop, 350);
	assert_int_equal(c.n, 1);
	assert_in_range(c.exhausted, 2, 5); /* it neither gave up nor spun */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	LOOP_UNTIL(loop, c.n == 10, 3000);
	/* Closed inside its callback, with more waiting. */
	for (int i = 0; i < 10; i++) {
		close(fd[i]);
		fd[i] = dial(&addr);
	}
	c.close_at_first = true;
	LOOP_UNTIL(loop, c.n == 11, 3000);
	assert_null(c.a);
	LOOP_FOR(loop, 10);
	assert_int_equal(c.n, 11);
	for (int i = 0; i < c.n; i++)
		close(c.fds[i]);
	for (int i = 0; i < 10; i++)
		close(fd[i]);
	assert_int_equal(l7mp_loop_free(&loop), 0);
}

int main(void)
{
	const struct CMUnitTest all[] = {
	        cmocka_unit_test(transfer),     cmocka_unit_test(slow_reader),
	        cmocka_unit_test(reset),        cmocka_unit_test(close_flushes),
	        cmocka_unit_test(close_inside), cmocka_unit_test(last_words),
	        cmocka_unit_test(connecting),   cmocka_unit_test(connect_fails),
	        cmocka_unit_test(unix_backlog), cmocka_unit_test(files),
	        cmocka_unit_test(accepting),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(all, NULL, NULL);
}
