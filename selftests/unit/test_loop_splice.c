/* SPDX-License-Identifier: MIT */
/* Splicing between two byte streams: a relay of two streams between two plain sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "l7mp/stream_io.h"
#include "looptest.h"

#define MB       1000000u
#define LIMIT_MS 60000

/* An end of the relay, as a session would use it. */
struct side {
	struct l7mp_stream_io *s;
	struct side *peer;
	uint64_t copied, spliced, lost;
	size_t max_queued;
	int err;
	bool ended, closed, blocked, flushed;
	unsigned drains;
};

/* A peer of the relay: sends and expects bytes that count up, from a period that no buffer has. */
struct wire {
	int fd;
	uint64_t out, goal, in;
	size_t piece;
	bool reading, shut_at_goal, shut, eof, wrong;
	int err;
};

struct rig {
	struct l7mp_loop *loop;
	struct side a, b;
	struct wire client, server;
	uint32_t max_pipes;
	size_t held; /* memory that counts, before */
};

enum kind { TCP, UNIX };

static unsigned char byte_at(uint64_t i)
{
	return (unsigned char)(i % 251 + i / 65536);
}

/* ---- the relay ---- */

static void note(struct side *to, int rc)
{
	size_t queued = l7mp_stream_io_queued(to->s);

	if (queued > to->max_queued)
		to->max_queued = queued;
	if (rc != L7MP_STREAM_IO_FULL)
		return;
	to->blocked = true;
	l7mp_stream_io_read(to->peer->s, false);
}

static void on_data(void *arg, struct l7mp_buf *buf)
{
	struct side *e = arg;
	uint32_t len = buf->len;
	int rc;

	if (!e->peer->s) {
		l7mp_buf_unref(buf);
		return;
	}
	rc = l7mp_stream_io_write(e->peer->s, buf);
	if (rc < 0)
		e->lost += len;
	else
		e->copied += len;
	note(e->peer, rc);
}

static void on_passed(void *arg, size_t bytes, int rc)
{
	struct side *e = arg;

	if (rc < 0)
		e->lost += bytes;
	else
		e->spliced += bytes;
	note(e->peer, rc);
}

static void on_drain(void *arg)
{
	struct side *e = arg;

	assert_true(e->blocked);
	e->blocked = false;
	e->drains++;
	if (e->peer->s)
		l7mp_stream_io_read(e->peer->s, true);
}

static void on_end(void *arg)
{
	struct side *e = arg;

	assert_false(e->ended);
	e->ended = true;
	if (e->peer->s)
		l7mp_stream_io_shutdown(e->peer->s);
}

static void on_error(void *arg, int err)
{
	struct side *e = arg;

	assert_int_equal(e->err, 0);
	e->err = err;
}

static void on_closed(void *arg)
{
	struct side *e = arg;

	e->closed = true;
	e->s = NULL;
}

static void on_flushed(void *arg)
{
	struct side *e = arg;

	assert_false(e->flushed);
	assert_int_equal(l7mp_stream_io_queued(e->s), 0);
	e->flushed = true;
}

static const struct l7mp_stream_io_ops ops = {
        .data = on_data,
        .drain = on_drain,
        .end = on_end,
        .error = on_error,
        .closed = on_closed,
};

/* ---- the peers ---- */

static void wire_send(struct wire *w)
{
	static unsigned char buf[65536];

	while (w->out < w->goal && !w->err) {
		size_t len = w->goal - w->out < w->piece ? w->goal - w->out : w->piece;
		ssize_t n;

		for (size_t i = 0; i < len; i++)
			buf[i] = byte_at(w->out + i);
		n = send(w->fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN)
			w->err = errno;
		if (n <= 0)
			break;
		w->out += (uint64_t)n;
		if (w->piece < 65536)
			break; /* small pieces one by one */
	}
	if (w->shut_at_goal && w->out == w->goal && !w->shut) {
		w->shut = true;
		shutdown(w->fd, SHUT_WR);
	}
}

static void wire_receive(struct wire *w)
{
	static unsigned char buf[65536];

	for (int k = 0; k < 8 && w->reading && !w->eof && !w->err; k++) {
		ssize_t n = recv(w->fd, buf, sizeof(buf), MSG_DONTWAIT);

		if (n < 0 && errno != EAGAIN)
			w->err = errno;
		if (n < 0)
			break;
		w->eof = n == 0;
		for (ssize_t i = 0; i < n; i++)
			w->wrong |= buf[i] != byte_at(w->in + (uint64_t)i);
		w->in += (uint64_t)n;
	}
}

static void rig_turn(struct rig *r)
{
	for (int i = 0; i < 2; i++) {
		struct wire *w = i ? &r->server : &r->client;

		if (w->fd < 0)
			continue;
		wire_send(w);
		wire_receive(w);
	}
	l7mp_loop_turn(r->loop);
}

#define UNTIL(r, cond)                                      \
	do {                                                \
		uint64_t until_ = looptest_ms() + LIMIT_MS; \
		while (!(cond) && looptest_ms() < until_)   \
			rig_turn(r);                        \
		assert_true(cond);                          \
	} while (0)
/* As far as the relay gets without the peers; a busy machine makes few iterations in a time. */
#define SETTLE(r)                                                         \
	do {                                                              \
		uint64_t until_ = looptest_ms() + 30;                     \
		for (int n_ = 0; n_ < 30 || looptest_ms() < until_; n_++) \
			rig_turn(r);                                      \
	} while (0)

/* ---- set-up ---- */

static void sockets(enum kind kind, int fd[2])
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	socklen_t len = sizeof(in);
	int ls;

	if (kind == UNIX) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
		return;
	}
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	ls = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(ls, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(listen(ls, 1), 0);
	assert_int_equal(getsockname(ls, (struct sockaddr *)&in, &len), 0);
	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd[0], (struct sockaddr *)&in, sizeof(in)), 0);
	fd[1] = accept4(ls, NULL, NULL, SOCK_CLOEXEC);
	close(ls);
}

static void open_side(struct rig *r, enum kind kind, struct side *e, struct wire *w)
{
	int fd[2];

	sockets(kind, fd);
	*w = (struct wire){.fd = fd[0], .piece = 65536, .reading = true};
	if (kind == TCP)
		assert_int_equal(l7mp_stream_io_open_tcp(r->loop, fd[1], &ops, e, &e->s), 0);
	else
		assert_int_equal(l7mp_stream_io_open_unix(r->loop, fd[1], &ops, e, &e->s), 0);
}

static void rig_init(struct rig *r, enum kind from, enum kind to, uint32_t max_pipes)
{
	*r = (struct rig){.max_pipes = max_pipes};
	assert_int_equal(l7mp_loop_new(&r->loop), 0);
	assert_int_equal(l7mp_splice_limit(r->loop, &r->max_pipes), 0);
	open_side(r, from, &r->a, &r->client);
	open_side(r, to, &r->b, &r->server);
	r->a.peer = &r->b;
	r->b.peer = &r->a;
	assert_int_equal(l7mp_stream_io_splice(r->a.s, r->b.s, on_passed, &r->a), 0);
	assert_int_equal(l7mp_stream_io_splice(r->b.s, r->a.s, on_passed, &r->b), 0);
	r->held = l7mp_buf_pool_held(l7mp_loop_bufs(r->loop));
	l7mp_stream_io_read(r->a.s, true);
	l7mp_stream_io_read(r->b.s, true);
}

static void rig_fini(struct rig *r)
{
	for (int i = 0; i < 2; i++) {
		struct side *e = i ? &r->b : &r->a;

		if (e->s)
			l7mp_stream_io_close(e->s, true);
	}
	UNTIL(r, r->a.closed && r->b.closed);
	/* No byte in a pipe is still charged. */
	assert_int_equal(l7mp_buf_pool_held(l7mp_loop_bufs(r->loop)), r->held);
	for (int i = 0; i < 2; i++)
		if ((i ? r->server : r->client).fd >= 0)
			close((i ? r->server : r->client).fd);
	assert_int_equal(l7mp_loop_free(&r->loop), 0);
}

/* Everything arrived in order, and is counted exactly. */
static void check(struct rig *r)
{
	assert_false(r->client.wrong || r->server.wrong);
	assert_int_equal(r->server.in, r->client.out);
	assert_int_equal(r->client.in, r->server.out);
	assert_int_equal(r->a.copied + r->a.spliced, r->client.out);
	assert_int_equal(r->b.copied + r->b.spliced, r->server.out);
	assert_int_equal(r->a.err | r->b.err, 0);
}

/* ---- tests ---- */

/* Both ways at once; then one direction ends, and the other goes on. */
static void transfer_kind(enum kind from, enum kind to)
{
	struct rig r;

	rig_init(&r, from, to, 8);
	r.client.goal = r.server.goal = 20 * MB;
	r.client.shut_at_goal = true;
	UNTIL(&r, r.server.eof && r.client.in == 20 * MB);
	assert_false(r.client.eof);
	r.server.goal += 5 * MB;
	r.server.shut_at_goal = true;
	UNTIL(&r, r.client.eof);
	check(&r);
	/* Both directions were spliced, but for the first pieces. */
	assert_true(r.a.spliced > 15 * MB && r.b.spliced > 15 * MB);
	assert_int_equal(l7mp_splice_stats(r.loop).bytes, r.a.spliced + r.b.spliced);
	assert_in_range(l7mp_splice_stats(r.loop).open, 1, 2);
	rig_fini(&r);
}

static void transfer(void **state)
{
	(void)state;
	transfer_kind(TCP, TCP);
	transfer_kind(TCP, UNIX);
	transfer_kind(UNIX, TCP);
	transfer_kind(UNIX, UNIX);
}

/* A reader that stops again and again: what waits is bounded, and counts as memory. */
static void slow_reader_kind(enum kind from, enum kind to)
{
	struct rig r;
	size_t held;

	rig_init(&r, from, to, 8);
	r.client.goal = 50 * MB;
	r.client.shut_at_goal = true;
	for (int i = 0; i < 20; i++) {
		r.server.reading = false;
		SETTLE(&r);
		if (!r.b.blocked)
			continue;
		held = l7mp_buf_pool_held(l7mp_loop_bufs(r.loop)) - r.held;
		assert_in_range(l7mp_stream_io_queued(r.b.s), 1, 262144);
		assert_true(held >= l7mp_stream_io_queued(r.b.s));
		r.server.reading = true;
		UNTIL(&r, !r.b.blocked);
	}
	r.server.reading = true;
	UNTIL(&r, r.server.eof);
	check(&r);
	assert_true(r.b.drains > 0);
	assert_true(r.a.spliced > 0);
	assert_in_range(r.b.max_queued, 1, 262144);
	rig_fini(&r);
}

static void slow_reader(void **state)
{
	(void)state;
	slow_reader_kind(TCP, TCP);
	slow_reader_kind(UNIX, UNIX);
}

/* Starts, and has the relay blocked with bytes in the pipe. */
static void block(struct rig *r, enum kind to)
{
	size_t queued;

	rig_init(r, TCP, to, 8);
	r->client.goal = 100 * MB;
	r->server.reading = false;
	/* The sockets' buffers grow for a while. */
	do {
		UNTIL(r, r->b.blocked);
		queued = l7mp_stream_io_queued(r->b.s);
		SETTLE(r);
	} while (!r->b.blocked || !queued || l7mp_stream_io_queued(r->b.s) != queued);
	assert_true(r->a.spliced > 0);
}

/* The end comes after what is in the pipe; a close that is not an abort waits for it, too. */
static void end_behind_pipe(void **state)
{
	struct rig r;
	(void)state;

	block(&r, TCP);
	r.client.goal = r.client.out;
	l7mp_stream_io_shutdown(r.b.s);
	SETTLE(&r);
	assert_true(l7mp_stream_io_queued(r.b.s) > 0);
	r.server.reading = true;
	UNTIL(&r, r.server.eof);
	assert_false(r.server.wrong);
	assert_int_equal(r.server.in, r.a.copied + r.a.spliced);
	rig_fini(&r);

	/* What is read after the close is the owner's again, and refused. */
	block(&r, UNIX);
	l7mp_stream_io_close(r.b.s, false);
	l7mp_stream_io_read(r.a.s, true);
	UNTIL(&r, r.a.lost);
	r.server.reading = true;
	UNTIL(&r, r.server.eof && r.b.closed);
	assert_false(r.server.wrong);
	assert_int_equal(r.server.in, r.a.copied + r.a.spliced);
	rig_fini(&r);
}

/* The reader is reset, or gone, with bytes in the pipe: an error, and the pipe is given up. */
static void reader_fails(void **state)
{
	struct linger now = {.l_onoff = 1};
	struct rig r;
	(void)state;

	block(&r, TCP);
	setsockopt(r.server.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(r.server.fd);
	r.server.fd = -1;
	UNTIL(&r, r.b.err || r.a.lost);
	assert_int_equal(l7mp_stream_io_queued(r.b.s), 0);
	assert_int_equal(l7mp_splice_stats(r.loop).open, 0);
	rig_fini(&r);

	block(&r, UNIX);
	close(r.server.fd);
	r.server.fd = -1;
	UNTIL(&r, r.b.err || r.a.lost);
	rig_fini(&r);
}

/* The writer is reset: what was read before still arrives. */
static void writer_fails(void **state)
{
	struct linger now = {.l_onoff = 1};
	struct rig r;
	(void)state;

	block(&r, TCP);
	setsockopt(r.client.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(r.client.fd);
	r.client.fd = -1;
	r.server.reading = true;
	UNTIL(&r, r.a.err);
	assert_int_equal(r.a.err, -ECONNRESET);
	l7mp_stream_io_close(r.a.s, true);
	UNTIL(&r, r.server.in == r.a.copied + r.a.spliced);
	assert_false(r.server.wrong);
	assert_int_equal(r.b.err, 0);
	rig_fini(&r);
}

/* Aborts give the pipe up, whichever side they hit. */
static void aborts(void **state)
{
	(void)state;
	for (int side = 0; side < 2; side++) {
		struct rig r;

		block(&r, TCP);
		l7mp_stream_io_close(side ? r.b.s : r.a.s, true);
		UNTIL(&r, side ? r.b.closed : r.a.closed);
		SETTLE(&r);
		if (side)
			assert_int_equal(l7mp_splice_stats(r.loop).open, 0);
		rig_fini(&r);
	}
}

/* Without pipes, or when others have them all, bytes are copied. */
static void budget(void **state)
{
	struct rig r;
	struct wire others[2];
	struct side blocked[2] = {0};
	uint64_t spliced;
	(void)state;

	rig_init(&r, TCP, TCP, 0);
	r.client.goal = 5 * MB;
	r.client.shut_at_goal = r.server.shut_at_goal = true;
	UNTIL(&r, r.server.eof && r.client.eof);
	check(&r);
	assert_int_equal(r.a.spliced, 0);
	assert_int_equal(l7mp_splice_stats(r.loop).open, 0);
	rig_fini(&r);

	/* One pipe, which a relay with a reader that has stopped holds. */
	rig_init(&r, TCP, TCP, 1);
	open_side(&r, TCP, &blocked[0], &others[0]);
	open_side(&r, UNIX, &blocked[1], &others[1]);
	blocked[0].peer = &blocked[1];
	blocked[1].peer = &blocked[0];
	assert_int_equal(l7mp_stream_io_splice(blocked[0].s, blocked[1].s, on_passed, &blocked[0]),
	                 0);
	l7mp_stream_io_read(blocked[0].s, true);
	others[0].goal = 100 * MB;
	for (uint64_t until = looptest_ms() + LIMIT_MS;
	     !blocked[1].blocked && looptest_ms() < until;) {
		wire_send(&others[0]);
		rig_turn(&r);
	}
	assert_true(blocked[1].blocked);
	assert_int_equal(l7mp_splice_stats(r.loop).open, 1);
	spliced = l7mp_splice_stats(r.loop).bytes;
	r.client.goal = r.server.goal = 5 * MB;
	r.client.shut_at_goal = r.server.shut_at_goal = true;
	UNTIL(&r, r.server.eof && r.client.eof);
	check(&r);
	assert_int_equal(r.a.spliced + r.b.spliced, 0);
	assert_int_equal(l7mp_splice_stats(r.loop).bytes, spliced);
	assert_true(l7mp_splice_stats(r.loop).exhausted > 0);
	/* A smaller limit takes effect when the pipe comes back. */
	r.max_pipes = 0;
	for (int i = 0; i < 2; i++) {
		l7mp_stream_io_close(blocked[i].s, true);
		close(others[i].fd);
	}
	UNTIL(&r, blocked[0].closed && blocked[1].closed);
	assert_int_equal(l7mp_splice_stats(r.loop).open, 0);
	rig_fini(&r);
}

/* What comes in small pieces is copied, and no pipe is made for it. */
static void small(void **state)
{
	struct rig r;
	(void)state;

	rig_init(&r, TCP, TCP, 8);
	r.client.piece = 1000;
	for (int i = 0; i < 200; i++) {
		r.client.goal += 1000;
		UNTIL(&r, r.server.in == r.client.goal);
	}
	check(&r);
	assert_int_equal(l7mp_splice_stats(r.loop).open, 0);
	assert_int_equal(r.a.spliced, 0);
	/* Bulk is spliced, and small pieces after it are copied again. */
	r.client.piece = 65536;
	r.client.goal += 5 * MB;
	UNTIL(&r, r.server.in == r.client.goal);
	assert_true(r.a.spliced > 0);
	r.client.piece = 1000;
	for (int i = 0; i < 20; i++) {
		r.client.goal += 1000;
		UNTIL(&r, r.server.in == r.client.goal);
	}
	r.a.spliced = 0;
	for (int i = 0; i < 20; i++) {
		r.client.goal += 1000;
		UNTIL(&r, r.server.in == r.client.goal);
	}
	assert_int_equal(r.a.spliced, 0);
	assert_false(r.server.wrong);
	rig_fini(&r);
}

/* Splicing ends and begins again while bytes are in the pipe: order and count are kept. */
static void on_and_off(void **state)
{
	struct rig r;
	bool on = true;
	unsigned changes = 0;
	(void)state;

	rig_init(&r, TCP, UNIX, 8);
	r.client.goal = 200 * MB;
	r.client.shut_at_goal = true;
	for (unsigned turn = 0; !r.server.eof; turn++) {
		r.server.reading = turn % 16 > 6;
		rig_turn(&r);
		if (turn % 5)
			continue;
		changes++;
		on = !on;
		if (on)
			assert_int_equal(l7mp_stream_io_splice(r.a.s, r.b.s, on_passed, &r.a), 0);
		else
			l7mp_stream_io_unsplice(r.a.s);
		/* What the owner writes by itself goes behind the pipe. */
		if (!on && r.b.blocked)
			l7mp_stream_io_read(r.a.s, true);
	}
	check(&r);
	assert_true(changes > 20);
	assert_true(r.a.spliced > 0 && r.a.copied > 0);
	rig_fini(&r);
}

/* `flushed` comes when the pipe and the queue are empty, once, and not after a cancel. */
static void flushed(void **state)
{
	struct rig r;
	uint64_t before;
	(void)state;

	block(&r, TCP);
	l7mp_stream_io_read(r.a.s, false);
	l7mp_stream_io_flushed(r.b.s, on_flushed, &r.b);
	SETTLE(&r);
	assert_false(r.b.flushed);
	r.server.reading = true;
	/* Reading was stopped: the peer's bytes stay in the socket. */
	before = r.a.copied + r.a.spliced;
	r.b.peer = &(struct side){0}; /* `drain` must not start it again */
	UNTIL(&r, r.b.flushed && r.server.in >= before);
	SETTLE(&r);
	assert_int_equal(r.a.copied + r.a.spliced, before);
	assert_int_equal(r.server.in, before);
	r.b.flushed = false;
	/* Nothing waits: still not from inside the call. */
	l7mp_stream_io_flushed(r.b.s, on_flushed, &r.b);
	assert_false(r.b.flushed);
	UNTIL(&r, r.b.flushed);
	r.b.flushed = false;
	l7mp_stream_io_flushed(r.b.s, on_flushed, &r.b);
	l7mp_stream_io_flushed(r.b.s, NULL, NULL);
	SETTLE(&r);
	assert_false(r.b.flushed);
	r.b.peer = &r.a;
	rig_fini(&r);
}

/* In one iteration every relay that has something to move moves a piece, and none moves all. */
static void fair(void **state)
{
	enum { RELAYS = 24, ROUNDS = 8 };
	struct rig r;
	struct side ends[RELAYS][2] = {0};
	struct wire wires[RELAYS][2];
	uint64_t before[RELAYS];
	int waits[RELAYS];
	(void)state;

	rig_init(&r, TCP, TCP, 64);
	for (int i = 0; i < RELAYS; i++) {
		for (int k = 0; k < 2; k++) {
			open_side(&r, TCP, &ends[i][k], &wires[i][k]);
			ends[i][k].peer = &ends[i][!k];
		}
		assert_int_equal(
		        l7mp_stream_io_splice(ends[i][0].s, ends[i][1].s, on_passed, &ends[i][0]),
		        0);
		l7mp_stream_io_read(ends[i][0].s, true);
		wires[i][0].goal = 100 * MB;
	}
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < RELAYS; i++) {
			wire_send(&wires[i][0]);
			wire_receive(&wires[i][1]);
			before[i] = ends[i][0].spliced + ends[i][0].copied;
			assert_int_equal(
			        ioctl(l7mp_stream_io_fd(ends[i][0].s), FIONREAD, &waits[i]), 0);
			if (ends[i][1].blocked)
				waits[i] = 0;
		}
		l7mp_loop_turn(r.loop);
		for (int i = 0; i < RELAYS; i++) {
			uint64_t moved = ends[i][0].spliced + ends[i][0].copied - before[i];

			assert_true(moved <= 8 * 262144);
			if (waits[i])
				assert_true(moved > 0);
		}
	}
	for (int i = 0; i < RELAYS; i++) {
		assert_true(ends[i][0].spliced > 0);
		for (int k = 0; k < 2; k++) {
			l7mp_stream_io_close(ends[i][k].s, true);
			UNTIL(&r, ends[i][k].closed);
			close(wires[i][k].fd);
		}
	}
	rig_fini(&r);
}

/* While the receiver's descriptor is lent, what is read waits in its queue, and then goes on. */
static void lent(void **state)
{
	struct rig r;
	bool ended = true, shut = true;
	socklen_t len = sizeof(int);
	int fd, off = 0;
	(void)state;

	rig_init(&r, TCP, TCP, 8);
	r.client.goal = 5 * MB;
	UNTIL(&r, r.server.in == r.client.goal && !l7mp_stream_io_queued(r.b.s));
	assert_true(r.a.spliced > 0);
	fd = l7mp_stream_io_lend(r.b.s, &ended, &shut);
	assert_true(fd >= 0);
	assert_false(ended || shut);
	r.client.goal += 5 * MB;
	UNTIL(&r, r.b.blocked);
	assert_int_equal(r.server.in, 5 * MB);
	/* As one that was made again by the fast path. */
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &off, sizeof(off)), 0);
	l7mp_stream_io_give_back(r.b.s, fd, false, false);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &off, &len), 0);
	assert_true(off);
	r.client.shut_at_goal = true;
	UNTIL(&r, r.server.eof);
	check(&r);
	rig_fini(&r);
}

/* splice(2) stops before urgent data, and must not be tried for ever. */
static void urgent(void **state)
{
	unsigned char c = 'u';
	struct rig r;
	(void)state;

	rig_init(&r, TCP, TCP, 8);
	r.client.goal = 3 * MB;
	UNTIL(&r, r.server.in == r.client.goal);
	assert_true(r.a.spliced > 0);
	/* All comes at once, with the end: there splice(2) says 0. */
	l7mp_stream_io_read(r.a.s, false);
	assert_int_equal(send(r.client.fd, &c, 1, MSG_OOB), 1);
	r.client.goal += 50000;
	r.client.shut_at_goal = true;
	SETTLE(&r);
	l7mp_stream_io_read(r.a.s, true);
	UNTIL(&r, r.server.eof);
	check(&r); /* the urgent byte is not part of the stream */
	rig_fini(&r);
}

static void refused(void **state)
{
	struct rig r;
	struct side p = {0};
	int fd[2];
	(void)state;

	rig_init(&r, TCP, TCP, 8);
	assert_int_equal(l7mp_stream_io_splice(r.a.s, r.b.s, on_passed, &r.a), -EBUSY);
	l7mp_stream_io_unsplice(r.a.s);
	l7mp_stream_io_unsplice(r.a.s);
	assert_int_equal(l7mp_stream_io_splice(r.a.s, r.a.s, on_passed, &r.a), -ENOTSUP);
	assert_int_equal(pipe2(fd, O_CLOEXEC | O_NONBLOCK), 0);
	assert_int_equal(l7mp_stream_io_open_pipe(r.loop, fd[0], fd[1], &ops, &p, &p.s), 0);
	assert_int_equal(l7mp_stream_io_splice(r.a.s, p.s, on_passed, &r.a), -ENOTSUP);
	l7mp_stream_io_close(p.s, true);
	UNTIL(&r, p.closed);
	l7mp_stream_io_close(r.b.s, true);
	assert_int_equal(l7mp_stream_io_splice(r.a.s, r.b.s, on_passed, &r.a), -ENOTCONN);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest all[] = {
	        cmocka_unit_test(transfer),
	        cmocka_unit_test(slow_reader),
	        cmocka_unit_test(end_behind_pipe),
	        cmocka_unit_test(reader_fails),
	        cmocka_unit_test(writer_fails),
	        cmocka_unit_test(aborts),
	        cmocka_unit_test(budget),
	        cmocka_unit_test(small),
	        cmocka_unit_test(on_and_off),
	        cmocka_unit_test(flushed),
	        cmocka_unit_test(urgent),
	        cmocka_unit_test(refused),
	        cmocka_unit_test(fair),
	        cmocka_unit_test(lent),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(all, NULL, NULL);
}
