/* SPDX-License-Identifier: MIT */
/* Statistics of RTP (abi_rtp.h) against a model that keeps every packet. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/abi_rtp.h"

static struct l7mp_rtp s;
static uint64_t now;

static void packet(uint32_t ssrc, uint8_t type, uint16_t seq, uint32_t timestamp)
{
	const uint8_t h[L7MP_RTP_HEADER] = {
	        0x80,
	        type,
	        (uint8_t)(seq >> 8),
	        (uint8_t)seq,
	        (uint8_t)(timestamp >> 24),
	        (uint8_t)(timestamp >> 16),
	        (uint8_t)(timestamp >> 8),
	        (uint8_t)timestamp,
	        (uint8_t)(ssrc >> 24),
	        (uint8_t)(ssrc >> 16),
	        (uint8_t)(ssrc >> 8),
	        (uint8_t)ssrc,
	};

	l7mp_rtp_count(&s, h, 172, now);
}

static int64_t lost(void)
{
	return s.lost_before + l7mp_rtp_lost_now(&s);
}

static int setup(void **state)
{
	(void)state;
	memset(&s, 0, sizeof(s));
	s.dynamic_rate = 48000;
	now = 1000000000;
	return 0;
}

/* Random loss, duplicates and reordering, over several wraps of the sequence number. */
static void test_model(void **state)
{
	(void)state;
	srandom(3);
	for (int round = 0; round < 20; round++) {
		uint32_t first = (uint32_t)random() & 0xffff, next = first, highest = first;
		uint64_t received = 0;

		memset(&s, 0, sizeof(s));
		for (int i = 0; i < 200000; i++) {
			long r = random() % 100;
			uint32_t seq = next;

			if (r < 5) { /* lost */
				next += 1 + (uint32_t)(random() % 50);
				continue;
			}
			if (r < 10 && next > first + 90) /* late, or twice */
				seq = next - 1 - (uint32_t)(random() % 90);
			else
				next++;
			if (!received)
				highest = first = seq;
			if (seq > highest)
				highest = seq;
			received++;
			packet(1, 0, (uint16_t)seq, seq * 160);
		}
		assert_int_equal(s.packets, received);
		assert_int_equal(lost(), (int64_t)(highest - first + 1) - (int64_t)received);
	}
}

/* A restarted sender: earlier losses stay counted, the jump in sequence numbers is no loss. */
static void test_restart(void **state)
{
	(void)state;
	for (uint16_t i = 0; i < 100; i++)
		if (i != 50)
			packet(1, 0, i, i);
	assert_int_equal(lost(), 1);
	packet(1, 0, 40000, 0); /* one stray packet */
	packet(1, 0, 100, 100);
	assert_int_equal(lost(), 1);
	for (uint16_t i = 0; i < 100; i++)
		packet(1, 0, (uint16_t)(40000 + i), i);
	assert_int_equal(lost(), 1);
	packet(2, 0, 7, 7); /* another source */
	packet(2, 0, 9, 9);
	assert_int_equal(lost(), 2);
	assert_int_equal(s.sources, 2);
	assert_int_equal(s.ssrc, 2);
}

/* RFC 3550, A.8, with packets that are 20 ms apart and alternately 5 ms late. */
static void test_jitter(void **state)
{
	double jitter = 0;

	(void)state;
	for (unsigned i = 0; i < 400; i++) {
		now = 1000000000 + i * 20000000ULL + (i % 2 ? 5000000 : 0);
		packet(1, 97, (uint16_t)i, i * 960);
		if (i)
			jitter += (5.0 - jitter) / 16;
	}
	assert_int_equal(s.clock_rate, 48000);
	assert_true(s.jitter16 / 16e6 > jitter * 0.999 && s.jitter16 / 16e6 < jitter * 1.001);
	/* Time stamps wrap. */
	setup(NULL);
	for (unsigned i = 0; i < 100; i++) {
		now += 20000000;
		packet(1, 0, (uint16_t)i, 0xffffff00u + i * 160);
	}
	assert_in_range(s.jitter16, 0, 16);
}

static void test_rates(void **state)
{
	static const struct {
		uint8_t type;
		uint32_t rate;
	} list[] = {{0, 8000},   {3, 8000},   {4, 8000},    {5, 8000},   {6, 16000},  {8, 8000},
	            {9, 8000},   {10, 44100}, {11, 44100},  {14, 90000}, {16, 11025}, {17, 22050},
	            {18, 8000},  {26, 90000}, {31, 90000},  {32, 90000}, {33, 90000}, {34, 90000},
	            {35, 48000}, {96, 48000}, {127, 48000}, {1, 48000}};

	(void)state;
	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		assert_int_equal(l7mp_rtp_rate(list[i].type, 48000), list[i].rate);
}

/* RFC 7983 and RFC 5761: what shares the port. */
static void test_others(void **state)
{
	static const uint8_t firsts[][2] = {{0, 1},      {20, 0},     {63, 0},
	                                    {64, 0},     {127, 0},    {192, 0},
	                                    {0x80, 192}, {0x80, 200}, {0x80, 223}};

	(void)state;
	for (size_t i = 0; i < sizeof(firsts) / sizeof(firsts[0]); i++) {
		uint8_t h[L7MP_RTP_HEADER] = {firsts[i][0], firsts[i][1]};

		l7mp_rtp_count(&s, h, 100, now);
		assert_int_equal(s.others, i + 1);
	}
	packet(1, 0, 1, 1);
	assert_int_equal(s.packets, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup(test_model, setup),
	        cmocka_unit_test_setup(test_restart, setup),
	        cmocka_unit_test_setup(test_jitter, setup),
	        cmocka_unit_test_setup(test_rates, setup),
	        cmocka_unit_test_setup(test_others, setup),
	};

	return cmocka_run_group_tests_name("RTP statistics", tests, NULL, NULL);
}
