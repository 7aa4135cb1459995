/* SPDX-License-Identifier: MIT */
/*
 * TCP in the kernel: which connections go together, hand-made segments, relaying by MSG_PEEK,
 * sockets made again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "offload/tcp/tcp.h"

/* ---- which two ---- */

static struct off_tcp_traits usual(void)
{
	return (struct off_tcp_traits){.carries = true,
	                               .ts = true,
	                               .sack = true,
	                               .wscale = true,
	                               .snd_wscale = 7,
	                               .rcv_wscale = 10,
	                               .snd_mss = 1448,
	                               .advmss = 1448,
	                               .min_rtt_us = 100,
	                               .congestion = "cubic"};
}

static void test_check(void **state)
{
	struct off_tcp_traits a = usual(), b = usual();

	(void)state;
	assert_int_equal(off_tcp_check(&a, &b), L7MP_REASON_NONE);
	b.ts = false;
	b.snd_mss = 1460;
	assert_int_equal(off_tcp_check(&a, &b), L7MP_REASON_TCP_TIMESTAMPS);
	b = usual();
	b.ecn = true;
	assert_int_equal(off_tcp_check(&b, &a), L7MP_REASON_TCP_ECN);
	b = usual();
	b.mptcp = true;
	assert_int_equal(off_tcp_check(&a, &b), L7MP_REASON_TCP_MPTCP);
	b = usual();
	b.carries = false;
	assert_int_equal(off_tcp_check(&a, &b), L7MP_REASON_TCP_CLOSING);
	b = usual();
	b.snd_mss = 1447; /* one byte too few, either way round */
	assert_int_equal(off_tcp_check(&a, &b), L7MP_REASON_TCP_MSS);
	assert_int_equal(off_tcp_check(&b, &a), L7MP_REASON_TCP_MSS);
	b = usual();
	b.snd_mss = 1440; /* PPPoE */
	assert_int_equal(off_tcp_check(&a, &b), L7MP_REASON_TCP_MSS);
	b = usual();
	b.sack = b.wscale = false; /* these are translated */
	assert_int_equal(off_tcp_check(&a, &b), L7MP_REASON_NONE);
}

/* A socket that was made again, as the kernel shows it. */
static void test_recall(void **state)
{
	const struct l7mp_flow_mss none = {0};
	struct off_tcp_traits t = usual(), u;
	struct l7mp_flow_mss mss = off_tcp_mss(&t);

	(void)state;
	t.advmss = 1460;
	u = t;
	off_tcp_recall(&t, &none);
	assert_memory_equal(&t, &u, sizeof(t));
	off_tcp_recall(&t, &mss);
	assert_int_equal(t.advmss, 1448);
	assert_int_equal(t.snd_mss, 1448);
	t.snd_mss = 1200; /* the path is narrower */
	off_tcp_recall(&t, &mss);
	assert_int_equal(t.snd_mss, 1200);
	t = (struct off_tcp_traits){.snd_mss = 1448, .advmss = 1448};
	mss = (struct l7mp_flow_mss){1460, 1460};
	off_tcp_recall(&t, &mss);
	assert_int_equal(t.snd_mss, 1460);
	assert_int_equal(t.advmss, 1460);
}

static void test_rtt(void **state)
{
	struct off_tcp_traits a = usual(), b = usual();

	(void)state;
	b.min_rtt_us = 20000;
	assert_int_equal(off_tcp_check(&a, &b), L7MP_REASON_NONE);
	strcpy(a.congestion, "bbr");
	assert_int_equal(off_tcp_check(&a, &b), L7MP_REASON_TCP_RTT);
	assert_int_equal(off_tcp_check(&b, &a), L7MP_REASON_TCP_RTT);
	b.min_rtt_us = 2000; /* much longer, but both are short */
	assert_int_equal(off_tcp_check(&a, &b), L7MP_REASON_NONE);
	a.min_rtt_us = 20000;
	b.min_rtt_us = 30000;
	assert_int_equal(off_tcp_check(&a, &b), L7MP_REASON_NONE);
}

/* ---- segments ---- */

static struct l7mp_addr addr(const char *ip, uint16_t port)
{
	struct l7mp_addr a;

	assert_int_equal(l7mp_addr_parse(&a, ip, port), 0);
	return a;
}

/* The sum over pseudo header and segment is all ones when the checksum is right. */
static uint16_t sum_of(const uint8_t *pseudo, size_t n_pseudo, const uint8_t *tcp, size_t n)
{
	uint32_t acc = IPPROTO_TCP + (uint32_t)n;

	for (size_t i = 0; i < n_pseudo; i += 2)
		acc += (uint32_t)(pseudo[i] << 8 | pseudo[i + 1]);
	for (size_t i = 0; i < n; i += 2)
		acc += (uint32_t)(tcp[i] << 8 | (i + 1 < n ? tcp[i + 1] : 0));
	while (acc >> 16)
		acc = (acc & 0xffff) + (acc >> 16);
	return (uint16_t)acc;
}

static uint32_t word(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void test_segment(void **state)
{
	struct off_tcp_conn c = {
	        .local = addr("10.0.0.1", 80), .peer = addr("10.0.0.2", 4000), .traits = usual()};
	const struct off_tcp_segment s = {.seq = 0x10000000,
	                                  .ack = 0x20000000,
	                                  .win = 1 << 20,
	                                  .tsval = 7,
	                                  .tsecr = 9,
	                                  .old_byte = true};
	uint8_t p[OFF_TCP_SEGMENT_MAX];
	size_t len = off_tcp_segment_build(&c, &s, p);

	(void)state;
	assert_int_equal(len, 20 + 32 + 1);
	assert_int_equal(p[9], IPPROTO_TCP);
	assert_int_equal(word(p + 12), 0x0a000001);
	assert_int_equal(word(p + 20), 80 << 16 | 4000);
	assert_int_equal(word(p + 24), 0x0fffffff); /* the byte before */
	assert_int_equal(word(p + 28), 0x20000000);
	assert_int_equal(p[32] >> 4, 8);
	assert_int_equal(p[33], 0x10);
	assert_int_equal(p[34] << 8 | p[35], 1 << 10); /* by our own shift */
	assert_int_equal(word(p + 44), 7);
	assert_int_equal(word(p + 48), 9);
	assert_int_equal(sum_of(p + 12, 8, p + 20, len - 20), 0xffff);
}

static void test_segment6(void **state)
{
	struct off_tcp_conn c = {
	        .local = addr("fd00::1", 80), .peer = addr("fd00::2", 4000), .traits = usual()};
	const struct off_tcp_segment s = {.seq = 5, .ack = 6, .win = UINT32_MAX, .rst = true};
	uint8_t p[OFF_TCP_SEGMENT_MAX];
	size_t len = off_tcp_segment_build(&c, &s, p);

	(void)state;
	assert_int_equal(len, 40 + 20);
	assert_int_equal(p[6], IPPROTO_TCP);
	assert_int_equal(p[4] << 8 | p[5], 20);
	assert_int_equal(word(p + 44), 5);
	assert_int_equal(p[53], 0x14);
	assert_int_equal(p[54] << 8 | p[55], 0xffff);
	assert_int_equal(sum_of(p + 8, 32, p + 40, len - 40), 0xffff);
}

/* ---- relaying ---- */

/* Two connected TCP sockets. */
static void connected(int fd[2])
{
	struct l7mp_addr a = addr("127.0.0.1", 0);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(l, &a.sa, a.len), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, &a.sa, &a.len), 0);
	fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(fd[0], &a.sa, a.len), 0);
	fd[1] = accept(l, NULL, NULL);
	assert_true(fd[1] >= 0);
	close(l);
}

static void relay(int8_t by_offset)
{
	struct off_tcp_relay r = {.by_offset = by_offset};
	char buf[64] = "";
	int in[2], out[2];
	bool all;

	connected(in);
	connected(out);
	assert_int_equal(send(in[0], "hello ", 6, 0), 6);
	while (off_tcp_unread(in[1]) < 6)
		usleep(1000);
	assert_true(off_tcp_relay_some(&r, in[1], out[0], &all));
	assert_true(all);
	assert_int_equal(send(in[0], "world", 5, 0), 5);
	while (off_tcp_unread(in[1]) < 11)
		usleep(1000);
	off_tcp_relay_rest(&r);
	assert_true(off_tcp_relay_some(&r, in[1], out[0], &all));
	assert_true(all);
	assert_false(off_tcp_relay_some(&r, in[1], out[0], &all)); /* nothing twice */
	assert_true(all);
	assert_int_equal(r.relayed, 11);
	assert_int_equal(recv(out[1], buf, 11, MSG_WAITALL), 11);
	assert_string_equal(buf, "hello world");
	/* All is still there: the window has not opened. */
	assert_int_equal(off_tcp_unread(in[1]), 11);
	assert_int_equal(send(in[0], "!", 1, 0), 1);
	while (off_tcp_unread(in[1]) < 12)
		usleep(1000);
	assert_int_equal(off_tcp_relay_discard(&r, in[1]), 0);
	assert_int_equal(recv(in[1], buf, sizeof(buf), 0), 1);
	assert_int_equal(buf[0], '!');
	for (int i = 0; i < 2; i++) {
		close(in[i]);
		close(out[i]);
	}
}

static void test_relay(void **state)
{
	(void)state;
	relay(0);
}

static void test_relay_without_offset(void **state)
{
	(void)state;
	relay(-1); /* as before Linux 6.9 */
}

/* ---- a socket that is made again ---- */

static void test_restore(void **state)
{
	struct off_tcp_window w;
	struct off_tcp_point at = {0};
	struct off_tcp_conn c;
	char buf[16] = "";
	int fd[2], again;

	(void)state;
	connected(fd);
	if (off_tcp_rcv_nxt(fd[1], &at.rcv_nxt)) {
		close(fd[0]);
		close(fd[1]);
		skip(); /* no CAP_NET_ADMIN */
	}
	assert_int_equal(off_tcp_conn_read(fd[1], &c), 0);
	assert_true(c.traits.carries);
	assert_int_equal(send(fd[0], "one", 3, 0), 3);
	assert_int_equal(recv(fd[1], buf, 3, MSG_WAITALL), 3);
	assert_int_equal(send(fd[1], "two", 3, 0), 3);
	assert_int_equal(recv(fd[0], buf, 3, MSG_WAITALL), 3);
	while (off_tcp_unacked(fd[1]))
		usleep(1000);
	assert_int_equal(off_tcp_rcv_nxt(fd[1], &at.rcv_nxt), 0);
	assert_int_equal(off_tcp_write_seq(fd[1], &at.snd_nxt), 0);
	assert_int_equal(off_tcp_window(fd[1], false, &w), 0);
	at.snd_wnd = w.snd_wnd;
	at.rcv_wnd = OFF_TCP_RESTORED_WINDOW;
	at.clock = off_tcp_clock(fd[1]) + 1;
	off_tcp_close_silently(&fd[1]);
	assert_int_equal(fd[1], -1);
	assert_int_equal(recv(fd[0], buf, 1, MSG_DONTWAIT), -1); /* nobody has told it */
	assert_int_equal(errno, EAGAIN);
	again = off_tcp_restore(&c, &at);
	assert_true(again >= 0);
	off_tcp_repair(again, false);
	assert_int_equal(send(fd[0], "three", 5, 0), 5);
	while (off_tcp_unread(again) < 5)
		usleep(1000);
	assert_int_equal(recv(again, buf, 5, 0), 5);
	assert_memory_equal(buf, "three", 5);
	assert_int_equal(send(again, "four", 4, 0), 4);
	assert_int_equal(recv(fd[0], buf, 4, MSG_WAITALL), 4);
	assert_memory_equal(buf, "four", 4);
	close(again);
	assert_int_equal(recv(fd[0], buf, 1, 0), 0);
	close(fd[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_check),
	        cmocka_unit_test(test_recall),
	        cmocka_unit_test(test_rtt),
	        cmocka_unit_test(test_segment),
	        cmocka_unit_test(test_segment6),
	        cmocka_unit_test(test_relay),
	        cmocka_unit_test(test_relay_without_offset),
	        cmocka_unit_test(test_restore),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
