/* SPDX-License-Identifier: MIT */
/*
 * Pairs of TCP connections from stage to stage, with real sockets and no program: whatever the
 * peers send reaches the sockets, as if the program had passed it up before TRANS. What the program
 * notes in the pair, the tests write.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "looptest.h"
#include "offload/tcp/tcp.h"

#define LONG_MS 60000

struct rig {
	struct l7mp_loop *loop;
	struct l7mp_tcp_pair *map;
	struct off_tcp *t;
	struct off_tcp_pair *p;
	int own[2], peer[2]; /* of the client's connection, of the server's */
	bool ended[2];       /* by its peer, before the pair was made; the other end was told */
	struct l7mp_flow_socket back[2];
	unsigned n_begun, n_returned, n_over, n_gone;
	bool reset;
	enum l7mp_reason why;
};

static void on_hold(void *arg, void *owner, bool on)
{
	(void)arg;
	(void)owner;
	(void)on;
}

static bool on_lend(void *arg, void *owner, struct l7mp_flow_socket at[2])
{
	struct rig *r = arg;

	(void)owner;
	for (int i = 0; i < 2; i++) {
		at[i] = (struct l7mp_flow_socket){
		        .fd = r->own[i], .ended = r->ended[i], .shut = r->ended[!i]};
		r->own[i] = -1;
	}
	return true;
}

static void on_begun(void *arg, void *owner)
{
	(void)owner;
	((struct rig *)arg)->n_begun++;
}

static uint64_t on_passed(void *arg, void *owner, int dir)
{
	(void)arg;
	(void)owner;
	(void)dir;
	return 0;
}

static void on_unmap(void *arg, void *owner)
{
	(void)arg;
	(void)owner;
}

static void on_returned(void *arg, void *owner, const struct l7mp_flow_socket back[2],
                        enum l7mp_reason why)
{
	struct rig *r = arg;

	(void)owner;
	r->n_returned++;
	r->why = why;
	r->p = NULL;
	for (int i = 0; back && i < 2; i++) {
		r->back[i] = back[i];
		r->own[i] = back[i].fd;
	}
}

static void on_over(void *arg, void *owner, bool reset)
{
	struct rig *r = arg;

	(void)owner;
	r->n_over++;
	r->reset = reset;
}

static void on_removed(void *arg, void *owner)
{
	struct rig *r = arg;

	(void)owner;
	r->n_gone++;
	r->p = NULL;
}

static const struct off_tcp_ops ops = {
        .hold = on_hold,
        .lend = on_lend,
        .begun = on_begun,
        .passed = on_passed,
        .unmap = on_unmap,
        .returned = on_returned,
        .over = on_over,
        .removed = on_removed,
};

/* lo's segments are larger than its peer takes, without this. */
static int stream_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), mss = 1400;

	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &mss, sizeof(mss)), 0);
	return fd;
}

/* A connection: the proxy's socket, nonblocking, and the peer's. */
static void connection(int *own, int *peer)
{
	struct l7mp_addr a;
	int l = stream_socket();

	assert_int_equal(l7mp_addr_parse(&a, "127.0.0.1", 0), 0);
	assert_int_equal(bind(l, &a.sa, a.len), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, &a.sa, &a.len), 0);
	*peer = stream_socket();
	assert_int_equal(connect(*peer, &a.sa, a.len), 0);
	*own = accept4(l, NULL, NULL, SOCK_NONBLOCK);
	assert_true(*own >= 0);
	close(l);
}

static void send_text(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static bool can_read(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) > 0;
}

/* What the peer reads next, all of it; "" is the end of the stream. */
static void expect(const struct rig *r, int i, const char *text)
{
	char buf[64] = "";

	LOOP_UNTIL(r->loop, can_read(r->peer[i]), LONG_MS);
	assert_int_equal(recv(r->peer[i], buf, sizeof(buf) - 1, 0), strlen(text));
	assert_string_equal(buf, text);
}

static void setup(struct rig *r)
{
	uint32_t number;

	memset(r, 0, sizeof(*r));
	for (int i = 0; i < 2; i++)
		connection(&r->own[i], &r->peer[i]);
	if (off_tcp_rcv_nxt(r->own[0], &number))
		skip(); /* no CAP_NET_ADMIN */
	r->map = calloc(L7MP_TCP_PAIRS, sizeof(*r->map));
	assert_non_null(r->map);
	assert_int_equal(l7mp_loop_new(&r->loop), 0);
	assert_int_equal(off_tcp_new(r->loop, r->map, &ops, r, &r->t), 0);
}

static void begin(struct rig *r)
{
	const struct l7mp_flow_socket at[2] = {{.fd = r->own[0], .mss = r->back[0].mss},
	                                       {.fd = r->own[1], .mss = r->back[1].mss}};

	assert_int_equal(off_tcp_pair_new(r->t, at, r, &r->p), L7MP_REASON_NONE);
	off_tcp_pair_begin(r->p);
}

static volatile struct l7mp_tcp_direction *way(const struct rig *r, int i)
{
	return &r->p->map->dir[i];
}

static void note(const struct rig *r, int i, uint32_t what)
{
	__atomic_fetch_or(&way(r, i)->seen, what, __ATOMIC_RELAXED);
}

/* To the iteration in which the stage begins. */
static void until(struct rig *r, enum off_tcp_stage stage)
{
	LOOP_UNTIL(r->loop, r->p->stage >= OFF_TCP_WATCH, LONG_MS);
	note(r, 0, L7MP_TCP_SEEN);
	note(r, 1, L7MP_TCP_SEEN);
	LOOP_UNTIL(r->loop, !r->p || r->p->stage == stage, LONG_MS);
	assert_non_null(r->p);
}

static void teardown(struct rig *r)
{
	for (int i = 0; i < 2; i++) {
		if (r->own[i] >= 0)
			close(r->own[i]);
		if (r->peer[i] >= 0)
			close(r->peer[i]);
	}
	if (r->p)
		r->p->since_ms = 0; /* no need to linger */
	if (r->p)
		LOOP_UNTIL(r->loop, r->n_gone, LONG_MS);
	off_tcp_free(&r->t);
	LOOP_FOR(r->loop, 5);
	assert_int_equal(l7mp_loop_free(&r->loop), 0);
	free(r->map);
}

/* Ends a pair that is in the kernel, as if both FINs had passed there. */
static void end(struct rig *r)
{
	note(r, 0, L7MP_TCP_FIN | L7MP_TCP_FIN_ACKED);
	note(r, 1, L7MP_TCP_FIN | L7MP_TCP_FIN_ACKED);
	LOOP_UNTIL(r->loop, r->n_over, LONG_MS);
	assert_false(r->reset);
}

/* ---- stragglers: what passed the program before TRANS and reaches the sockets later ---- */

static void test_data(void **state)
{
	struct rig r;

	(void)state;
	setup(&r);
	begin(&r);
	until(&r, OFF_TCP_TRANS);
	send_text(r.peer[0], "to the server");
	send_text(r.peer[1], "to the client");
	expect(&r, 1, "to the server");
	expect(&r, 0, "to the client");
	until(&r, OFF_TCP_FAST);
	assert_int_equal(r.n_begun, 1);
	assert_int_equal(way(&r, 0)->own_seq, r.p->end[0].rcv_nxt);
	end(&r);
	teardown(&r);
}

/* The peer acknowledges what it receives by its answer, or after 40 ms. */
static void acknowledge_late(const struct rig *r, int i)
{
	int quick = 0;

	assert_int_equal(setsockopt(r->peer[i], IPPROTO_TCP, TCP_QUICKACK, &quick, sizeof(quick)),
	                 0);
}

/* A peer that has received something answers with one character more. */
static bool answer(const struct rig *r)
{
	for (int i = 0; i < 2; i++) {
		char buf[64];
		ssize_t n = can_read(r->peer[i]) ? recv(r->peer[i], buf, sizeof(buf), 0) : 0;

		assert_true(n >= 0 && n < (ssize_t)sizeof(buf));
		if (!n)
			continue;
		acknowledge_late(r, i);
		assert_int_equal(send(r->peer[i], "0123456789", (size_t)(n % 10) + 1, MSG_NOSIGNAL),
		                 n % 10 + 1);
	}
	return r->p->stage == OFF_TCP_TRANS;
}

/*
 * Peers that answer at once: the connections are never idle. Without a program TRANS ends when they
 * stop, as what they send reaches the sockets.
 */
static void test_no_pause(void **state)
{
	struct rig r;

	(void)state;
	setup(&r);
	begin(&r);
	for (int i = 0; i < 2; i++)
		acknowledge_late(&r, i);
	send_text(r.peer[0], "begin");
	until(&r, OFF_TCP_RELAY);
	LOOP_UNTIL(r.loop, !r.p || answer(&r), LONG_MS);
	assert_non_null(r.p);
	/* What was in flight goes on: to the end of TRANS, as nobody answers. */
	until(&r, OFF_TCP_FAST);
	for (int i = 0; i < 2; i++)
		assert_int_equal(off_tcp_unacked(r.p->end[i].fd), 0);
	assert_true(can_read(r.peer[0]) || can_read(r.peer[1]));
	end(&r);
	teardown(&r);
}

/* Both FINs have passed the program, but a peer lacks what its socket has sent: not the end yet. */
static void test_over_in_trans(void **state)
{
	struct rig r;

	(void)state;
	setup(&r);
	begin(&r);
	until(&r, OFF_TCP_TRANS);
	acknowledge_late(&r, 1);
	send_text(r.peer[0], "straggler");
	note(&r, 0, L7MP_TCP_FIN | L7MP_TCP_FIN_ACKED);
	note(&r, 1, L7MP_TCP_FIN | L7MP_TCP_FIN_ACKED);
	until(&r, OFF_TCP_FAST);
	assert_int_equal(off_tcp_unacked(r.p->end[1].fd), 0);
	expect(&r, 1, "straggler");
	end(&r);
	teardown(&r);
}

/* Back in user space, the sockets are ordinary ones: they relay as the owner tells them. */
static void returned(struct rig *r, enum l7mp_reason why)
{
	LOOP_UNTIL(r->loop, r->n_returned, LONG_MS);
	assert_int_equal(r->why, why);
	assert_int_equal(r->n_over, 0);
	for (int i = 0; i < 2; i++) {
		if (r->back[i].shut)
			continue;
		send_text(r->own[i], "goes on");
		expect(r, i, "goes on");
	}
}

/* After FAST: the far end has to be sent it, with numbers of today. */
static void test_data_in_fast(void **state)
{
	struct rig r;

	(void)state;
	setup(&r);
	begin(&r);
	until(&r, OFF_TCP_FAST);
	send_text(r.peer[0], "later");
	LOOP_UNTIL(r.loop, !r.p || r.p->stage != OFF_TCP_FAST, LONG_MS);
	expect(&r, 1, "later");
	assert_int_equal(r.back[0].ended, false);
	returned(&r, L7MP_REASON_PENDING);
	send_text(r.peer[0], "more");
	LOOP_UNTIL(r.loop, off_tcp_unread(r.own[0]) == 4, LONG_MS); /* "later" is not in there */
	teardown(&r);
}

/* The same, but the sender has sent it again and the program has carried it: nothing happens. */
static void test_carried_in_fast(void **state)
{
	struct rig r;

	(void)state;
	setup(&r);
	begin(&r);
	until(&r, OFF_TCP_FAST);
	way(&r, 0)->seq_max += 5;
	way(&r, 1)->ack_max += 5;
	send_text(r.peer[0], "later");
	LOOP_UNTIL(r.loop, r.t->n_late, LONG_MS);
	assert_int_equal(r.p->stage, OFF_TCP_FAST);
	assert_int_equal(off_tcp_unread(r.p->end[0].fd), 0);
	assert_int_equal(off_tcp_unread(r.p->end[1].fd), 0);
	end(&r);
	teardown(&r);
}

#define HOLE      "what has passed" /* and did not arrive */
#define HOLE_SIZE (sizeof(HOLE) - 1)

/*
 * It comes back while the far end of some directions lacks what has passed. The sockets go back
 * when that was sent again, and not before; it has then been sent to the far end, too.
 */
static void hole(unsigned directions, bool fin)
{
	struct rig r;

	setup(&r);
	begin(&r);
	until(&r, OFF_TCP_FAST);
	for (int i = 0; i < 2; i++) {
		if (!(directions & 1U << i))
			continue;
		way(&r, i)->seq_max += (uint32_t)HOLE_SIZE + fin;
		if (fin) {
			way(&r, i)->fin_end = way(&r, i)->seq_max;
			note(&r, i, L7MP_TCP_FIN);
		}
	}
	off_tcp_pair_leave(r.p, L7MP_REASON_TCP);
	way(&r, 0)->doubts++; /* it need not wait long: a segment that can't pass */
	until(&r, OFF_TCP_FILL);
	for (int i = 0; i < 2; i++)
		if (directions & 1U << i)
			send_text(r.peer[i], "what ");
	LOOP_FOR(r.loop, 20);
	assert_int_equal(r.n_returned, 0);
	for (int i = 0; i < 2; i++) {
		if (!(directions & 1U << i))
			continue;
		send_text(r.peer[i], HOLE + 5);
		if (fin)
			assert_int_equal(shutdown(r.peer[i], SHUT_WR), 0);
	}
	LOOP_UNTIL(r.loop, r.n_returned, LONG_MS);
	for (int i = 0; i < 2; i++) {
		char buf[64] = "";

		assert_false(r.back[i].ended || r.back[i].shut);
		assert_int_equal(off_tcp_unsent(r.own[!i]), 0);
		if (!(directions & 1U << i))
			continue;
		/* A retransmission takes a second at most; in pieces or not. */
		assert_int_equal(recv(r.peer[!i], buf, HOLE_SIZE, MSG_WAITALL), HOLE_SIZE);
		assert_string_equal(buf, HOLE);
		if (fin)
			expect(&r, !i, "");
	}
	for (int i = 0; i < 2; i++)
		r.back[!i].shut = fin && directions & 1U << i;
	returned(&r, L7MP_REASON_TCP);
	teardown(&r);
}

static void test_hole(void **state)
{
	(void)state;
	for (unsigned directions = 1; directions <= 3; directions++) {
		hole(directions, false);
		hole(directions, true);
	}
}

/* A peer resets its connection while there is a hole: so does the proxy the other one. */
static void test_reset_in_hole(void **state)
{
	struct rig r;
	char c;

	(void)state;
	setup(&r);
	begin(&r);
	until(&r, OFF_TCP_FAST);
	way(&r, 0)->seq_max += 5;
	off_tcp_pair_leave(r.p, L7MP_REASON_TCP);
	way(&r, 0)->doubts++;
	until(&r, OFF_TCP_FILL);
	off_tcp_reset(&r.peer[0]);
	LOOP_UNTIL(r.loop, r.n_over, LONG_MS);
	assert_true(r.reset);
	LOOP_UNTIL(r.loop, can_read(r.peer[1]), LONG_MS);
	assert_int_equal(recv(r.peer[1], &c, 1, 0), -1);
	assert_int_equal(errno, ECONNRESET);
	teardown(&r);
}

/* Each end's FIN is passed on, and noted, whichever comes first. */
static void fins(bool client_first)
{
	struct rig r;

	setup(&r);
	begin(&r);
	until(&r, OFF_TCP_TRANS);
	send_text(r.peer[client_first], "last words");
	for (int i = 0; i < 2; i++)
		assert_int_equal(shutdown(r.peer[i ^ !client_first], SHUT_WR), 0);
	expect(&r, !client_first, "last words");
	expect(&r, 0, "");
	expect(&r, 1, "");
	/* They are closed now, which is no failure. */
	LOOP_UNTIL(r.loop, r.p->stage == OFF_TCP_FAST, LONG_MS);
	for (int i = 0; i < 2; i++) {
		assert_true(way(&r, i)->seen & L7MP_TCP_FIN);
		assert_int_equal(way(&r, i)->fin_end, r.p->end[i].rcv_nxt);
	}
	assert_int_equal(r.n_over, 0);
	end(&r);
	teardown(&r);
}

static void test_fins(void **state)
{
	(void)state;
	fins(true);
	fins(false);
}

/* The other end's FIN comes when ours, for the first one's, is on its way. */
static void test_fin_after_ours(void **state)
{
	struct rig r;

	(void)state;
	setup(&r);
	begin(&r);
	until(&r, OFF_TCP_TRANS);
	assert_int_equal(shutdown(r.peer[0], SHUT_WR), 0);
	LOOP_UNTIL(r.loop, r.p->end[1].shut, LONG_MS);
	assert_int_equal(shutdown(r.peer[1], SHUT_WR), 0);
	expect(&r, 0, "");
	expect(&r, 1, "");
	until(&r, OFF_TCP_FAST);
	assert_true(way(&r, 0)->seen & way(&r, 1)->seen & L7MP_TCP_FIN);
	end(&r);
	teardown(&r);
}

/* The owner has read the peer's FIN and passed it on. */
static void half_close(struct rig *r, int i)
{
	char c;

	assert_int_equal(shutdown(r->peer[i], SHUT_WR), 0);
	LOOP_UNTIL(r->loop, off_tcp_state(r->own[i]) == OFF_TCP_CLOSE_WAIT, LONG_MS);
	assert_int_equal(recv(r->own[i], &c, 1, 0), 0);
	assert_int_equal(shutdown(r->own[!i], SHUT_WR), 0);
	expect(r, !i, "");
	r->ended[i] = true;
}

/* Half closed before: the other direction goes on, in the kernel and back, twice. */
static void half_closed(int i)
{
	struct rig r;

	setup(&r);
	half_close(&r, i);
	for (int round = 0; round < 2; round++) {
		begin(&r);
		until(&r, OFF_TCP_TRANS);
		assert_int_equal(way(&r, i)->seen & ~(uint32_t)L7MP_TCP_SEEN,
		                 L7MP_TCP_FIN | L7MP_TCP_FIN_ACKED);
		assert_int_equal(way(&r, i)->fin_end, way(&r, i)->own_seq);
		send_text(r.peer[!i], "goes on");
		expect(&r, i, "goes on");
		until(&r, OFF_TCP_FAST);
		assert_int_equal(off_tcp_bytes(r.p, i), 0);
		assert_int_equal(off_tcp_bytes(r.p, !i), strlen("goes on"));
		assert_int_equal(way(&r, !i)->seen & L7MP_TCP_FIN, 0);
		off_tcp_pair_leave(r.p, L7MP_REASON_NONE);
		LOOP_UNTIL(r.loop, r.n_returned == (unsigned)round + 1, LONG_MS);
		assert_true(r.back[i].ended && r.back[!i].shut);
		assert_false(r.back[!i].ended || r.back[i].shut);
		send_text(r.own[i], "from user space");
		expect(&r, i, "from user space");
		LOOP_UNTIL(r.loop, !off_tcp_unacked(r.own[i]), LONG_MS);
	}
	assert_int_equal(r.n_over, 0);
	teardown(&r);
}

static void test_half_closed(void **state)
{
	(void)state;
	half_closed(0);
	half_closed(1);
}

/* The FIN waits behind data, and the owner has read neither: both are passed on before FAST. */
static void test_fin_unread(void **state)
{
	struct rig r;

	(void)state;
	setup(&r);
	send_text(r.peer[0], "last words");
	assert_int_equal(shutdown(r.peer[0], SHUT_WR), 0);
	LOOP_UNTIL(r.loop, off_tcp_state(r.own[0]) == OFF_TCP_CLOSE_WAIT, LONG_MS);
	begin(&r);
	until(&r, OFF_TCP_FAST);
	expect(&r, 1, "last words");
	expect(&r, 1, "");
	assert_int_equal(off_tcp_bytes(r.p, 0), strlen("last words"));
	assert_true(way(&r, 0)->seen & L7MP_TCP_FIN);
	assert_int_equal(way(&r, 0)->fin_end, r.p->end[0].rcv_nxt);
	end(&r);
	teardown(&r);
}

/* Both peers have finished, which the owner does not know yet: it can end them itself. */
static void test_closing(void **state)
{
	struct rig r;
	char buf[64];

	(void)state;
	setup(&r);
	for (int i = 0; i < 2; i++) {
		send_text(r.peer[i], "last words");
		assert_int_equal(shutdown(r.peer[i], SHUT_WR), 0);
		LOOP_UNTIL(r.loop, off_tcp_state(r.own[i]) == OFF_TCP_CLOSE_WAIT, LONG_MS);
	}
	begin(&r);
	LOOP_UNTIL(r.loop, r.p->stage >= OFF_TCP_WATCH, LONG_MS);
	note(&r, 0, L7MP_TCP_SEEN);
	note(&r, 1, L7MP_TCP_SEEN);
	LOOP_UNTIL(r.loop, r.n_returned, LONG_MS);
	assert_int_equal(r.why, L7MP_REASON_TCP_CLOSING);
	for (int i = 0; i < 2; i++) {
		/* Relayed or not, each byte is in one place. */
		ssize_t at = recv(r.own[i], buf, sizeof(buf), MSG_DONTWAIT);
		ssize_t beyond = recv(r.peer[!i], buf, sizeof(buf), MSG_DONTWAIT);

		assert_int_equal((at > 0 ? at : 0) + (beyond > 0 ? beyond : 0),
		                 strlen("last words"));
		assert_int_equal(recv(r.own[i], buf, sizeof(buf), MSG_DONTWAIT), 0);
	}
	teardown(&r);
}

static void test_fin_in_fast(void **state)
{
	struct rig r;

	(void)state;
	setup(&r);
	begin(&r);
	until(&r, OFF_TCP_FAST);
	assert_int_equal(shutdown(r.peer[0], SHUT_WR), 0);
	expect(&r, 1, "");
	LOOP_UNTIL(r.loop, r.n_returned, LONG_MS);
	assert_true(r.back[0].ended);
	send_text(r.own[0], "an answer");
	expect(&r, 0, "an answer");
	teardown(&r);
}

static void reset_peer(const struct rig *r, int i)
{
	const struct linger lg = {.l_onoff = 1};

	assert_int_equal(setsockopt(r->peer[i], SOL_SOCKET, SO_LINGER, &lg, sizeof(lg)), 0);
	close(r->peer[i]);
}

static void resets(enum off_tcp_stage stage)
{
	struct rig r;
	char c;

	setup(&r);
	begin(&r);
	until(&r, stage);
	reset_peer(&r, 1);
	LOOP_UNTIL(r.loop, r.n_over, LONG_MS);
	assert_true(r.reset);
	LOOP_UNTIL(r.loop, can_read(r.peer[0]), LONG_MS);
	assert_int_equal(recv(r.peer[0], &c, 1, 0), -1);
	assert_int_equal(errno, ECONNRESET);
	r.peer[1] = -1;
	teardown(&r);
}

static void test_resets(void **state)
{
	(void)state;
	resets(OFF_TCP_TRANS);
	resets(OFF_TCP_FAST);
}

static uint32_t segments_of(const struct rig *r, int i)
{
	return off_tcp_segs_in(r->peer[i]);
}

/* A reset has passed in the kernel: it is believed when neither end shows that it lives. */
static void test_reset_in_kernel(void **state)
{
	struct rig r;
	uint32_t before[2];

	(void)state;
	setup(&r);
	begin(&r);
	until(&r, OFF_TCP_FAST);
	for (int n = 0; n < 2; n++) {
		for (int i = 0; i < 2; i++)
			before[i] = segments_of(&r, i);
		note(&r, 0, L7MP_TCP_RST);
		/* Both are asked. */
		LOOP_UNTIL(r.loop,
		           segments_of(&r, 0) != before[0] && segments_of(&r, 1) != before[1],
		           LONG_MS);
		assert_int_equal(r.n_over, 0);
		/* The program has seen the answer. */
		__atomic_fetch_and(&way(&r, 0)->seen, ~(uint32_t)L7MP_TCP_RST, __ATOMIC_RELAXED);
		LOOP_UNTIL(r.loop, !r.p->reset_ms, LONG_MS);
	}
	note(&r, 0, L7MP_TCP_RST); /* no answer */
	LOOP_UNTIL(r.loop, r.n_over, LONG_MS);
	assert_true(r.reset);
	teardown(&r);
}

/* ---- a SYN while the connections are alive ---- */

static void syn(enum off_tcp_stage stage)
{
	struct rig r;

	setup(&r);
	begin(&r);
	until(&r, OFF_TCP_FAST);
	if (stage == OFF_TCP_STOP) {
		way(&r, 0)->ack_max--; /* something is not acknowledged: it stays in STOP */
		off_tcp_pair_leave(r.p, L7MP_REASON_NONE);
		LOOP_UNTIL(r.loop, r.p->stage == OFF_TCP_STOP, LONG_MS);
	}
	note(&r, 0, L7MP_TCP_SYN);
	LOOP_UNTIL(r.loop, way(&r, 0)->seen & L7MP_TCP_CHALLENGED, LONG_MS);
	assert_false(way(&r, 0)->seen & L7MP_TCP_SYN);
	assert_int_equal(r.t->n_challenges, 1);
	note(&r, 0, L7MP_TCP_SYN); /* it may be sent again, and challenged again */
	LOOP_UNTIL(r.loop, r.t->n_challenges == 2, LONG_MS);
	assert_int_equal(r.n_over, 0);
	note(&r, 0, L7MP_TCP_RST | L7MP_TCP_REUSED); /* the answer */
	LOOP_UNTIL(r.loop, r.n_over, LONG_MS);
	assert_true(r.reset);
	assert_int_equal(r.n_returned, 0);
	teardown(&r);
}

static void test_syn(void **state)
{
	(void)state;
	syn(OFF_TCP_FAST);
	syn(OFF_TCP_STOP);
}

/* Both FINs are acknowledged while it is to come back: it is over. */
static void test_ended_in_stop(void **state)
{
	struct rig r;

	(void)state;
	setup(&r);
	begin(&r);
	until(&r, OFF_TCP_FAST);
	off_tcp_pair_leave(r.p, L7MP_REASON_NONE);
	end(&r);
	assert_int_equal(r.n_returned, 0);
	teardown(&r);
}

/* ---- what an earlier process has left ---- */

/* The process dies: its sockets are closed silently, the map stays. */
static void die(struct rig *r)
{
	struct l7mp_tcp_pair left = *r->p->map;
	volatile struct l7mp_tcp_pair *at = r->p->map;

	for (int i = 0; i < 2; i++)
		off_tcp_close_silently(&r->p->end[i].fd);
	off_tcp_pair_free(&r->p);
	off_tcp_free(&r->t);
	*at = left;
	assert_int_equal(off_tcp_new(r->loop, r->map, &ops, r, &r->t), 0);
}

static void addresses(const struct rig *r, struct l7mp_addr local[2], struct l7mp_addr peer[2])
{
	for (int i = 0; i < 2; i++) {
		peer[i].len = local[i].len = sizeof(peer[i].in6);
		assert_int_equal(getsockname(r->peer[i], &peer[i].sa, &peer[i].len), 0);
		assert_int_equal(getpeername(r->peer[i], &local[i].sa, &local[i].len), 0);
	}
}

/* Goes on: bytes that passed meanwhile are counted, more than numbers can say; and back. */
static void test_adopt(void **state)
{
	const uint64_t four = 1ULL << 32;
	struct l7mp_addr local[2], peer[2];
	struct rig r;
	uint32_t index, id;
	int fd[2];

	(void)state;
	setup(&r);
	begin(&r);
	until(&r, OFF_TCP_FAST);
	addresses(&r, local, peer);
	index = r.p->index;
	id = r.p->id;
	/* What it had counted. */
	way(&r, 0)->begun -= 100;
	way(&r, 0)->bytes = 100;
	way(&r, 0)->passed = 150;
	die(&r);
	assert_non_null(off_tcp_adopt(r.t, index, id + 1, local, peer, (uint64_t[2]){0}, &r, &r.p));
	assert_null(r.p);
	/* Two times around, 10,000 bytes of it sent again. */
	assert_null(off_tcp_adopt(r.t, index, id, local, peer, (uint64_t[2]){2 * four + 10150, 0},
	                          &r, &r.p));
	assert_non_null(r.p);
	assert_int_equal(off_tcp_bytes(r.p, 0), 2 * four + 100);
	assert_int_equal(off_tcp_bytes(r.p, 1), 0);
	assert_int_equal(off_tcp_adopt_sockets(r.p, fd), 0);
	off_tcp_adopt_begin(r.p, fd);
	assert_int_equal(r.p->stage, OFF_TCP_FAST);
	off_tcp_pair_leave(r.p, L7MP_REASON_DISABLED);
	LOOP_UNTIL(r.loop, r.n_returned, LONG_MS);
	assert_int_equal(r.why, L7MP_REASON_DISABLED);
	send_text(r.own[1], "from the new socket");
	expect(&r, 1, "from the new socket");
	send_text(r.peer[1], "and back");
	LOOP_UNTIL(r.loop, can_read(r.own[1]), LONG_MS);
	teardown(&r);
}

/* Each place is one pair's; one that was in TRANS does not go on, and both peers are told. */
static void test_adopt_reset(void **state)
{
	struct l7mp_addr local[2], peer[2];
	struct off_tcp_pair *second;
	struct rig r;
	uint32_t index, id;
	char byte;

	(void)state;
	setup(&r);
	begin(&r);
	until(&r, OFF_TCP_FAST);
	addresses(&r, local, peer);
	index = r.p->index;
	id = r.p->id;
	off_tcp_phase(r.p, L7MP_TCP_TRANS);
	die(&r);
	assert_non_null(off_tcp_adopt(r.t, index, id, local, peer, (uint64_t[2]){0}, &r, &r.p));
	assert_non_null(r.p);
	assert_non_null(off_tcp_adopt(r.t, index, id, local, peer, (uint64_t[2]){0}, &r, &second));
	assert_null(second);
	assert_int_equal(r.t->n_free, L7MP_TCP_PAIRS - 1);
	off_tcp_adopt_reset(&r.p);
	assert_null(r.p);
	assert_int_equal(r.t->n_free, L7MP_TCP_PAIRS);
	assert_int_equal(r.map[index].phase, L7MP_TCP_FREE);
	for (int i = 0; i < 2; i++) {
		LOOP_UNTIL(r.loop, can_read(r.peer[i]), LONG_MS);
		assert_int_equal(recv(r.peer[i], &byte, 1, 0), -1);
		assert_int_equal(errno, ECONNRESET);
	}
	teardown(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_data),
	        cmocka_unit_test(test_no_pause),
	        cmocka_unit_test(test_over_in_trans),
	        cmocka_unit_test(test_data_in_fast),
	        cmocka_unit_test(test_carried_in_fast),
	        cmocka_unit_test(test_hole),
	        cmocka_unit_test(test_reset_in_hole),
	        cmocka_unit_test(test_fins),
	        cmocka_unit_test(test_fin_after_ours),
	        cmocka_unit_test(test_half_closed),
	        cmocka_unit_test(test_fin_unread),
	        cmocka_unit_test(test_closing),
	        cmocka_unit_test(test_fin_in_fast),
	        cmocka_unit_test(test_resets),
	        cmocka_unit_test(test_reset_in_kernel),
	        cmocka_unit_test(test_syn),
	        cmocka_unit_test(test_ended_in_stop),
	        cmocka_unit_test(test_adopt),
	        cmocka_unit_test(test_adopt_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
