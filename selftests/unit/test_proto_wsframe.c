/* SPDX-License-Identifier: MIT */
/* WebSocket frames as they are sent: headers, masks, codes; and text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "l7mp/util.h"
#include "proto/websocket/frame.h"

/* ---- text ---- */

/*
 * All sequences of up to three bytes, and four with steps, against the slow and sure decoder of
 * base.
 */
static void utf8_agrees_with_base(void **state)
{
	uint8_t s[4];
	uint32_t cp;

	(void)state;
	for (uint32_t n = 1; n <= 4; n++) {
		uint32_t step = n == 4 ? 251 : 1, end = n == 4 ? UINT32_MAX - 251 : 1u << (8 * n);

		for (uint32_t v = n == 4 ? 0xe0000000 : 0; v < end; v += step) {
			struct l7mp_utf8_check u = {0};
			size_t at = 0, len;
			bool ok;

			for (uint32_t i = 0; i < n; i++)
				s[i] = (uint8_t)(v >> (8 * (n - 1 - i)));
			ok = l7mp_utf8_step(&u, s, n) && !u.left;
			while (at < n && (len = l7mp_utf8_decode(s + at, n - at, &cp)) > 0)
				at += len;
			if (ok != (at == n))
				fail_msg("%02x %02x %02x %02x, %u bytes: %d", s[0], s[1], s[2],
				         s[3], n, ok);
		}
	}
}

static void utf8_in_pieces(void **state)
{
	static const char text[] = "plain and longer than eight, gr\xc3\xbc\xc3\x9f"
	                           "e, \xe6\x97\xa5"
	                           "\xe6\x9c\xac, \xf0\x9f\x82\xa1 end";
	size_t n = sizeof(text) - 1;

	(void)state;
	for (size_t cut = 0; cut <= n; cut++) {
		struct l7mp_utf8_check u = {0};

		assert_true(l7mp_utf8_step(&u, (const uint8_t *)text, cut));
		assert_true(l7mp_utf8_step(&u, (const uint8_t *)text + cut, n - cut));
		assert_int_equal(u.left, 0);
	}
}

static void codes(void **state)
{
	(void)state;
	for (unsigned c = 0; c < 70000; c++) {
		bool fine = (c >= 1000 && c <= 1003) || (c >= 1007 && c <= 1014) ||
		            (c >= 3000 && c <= 4999);

		assert_int_equal(l7mp_ws_code_valid(c), fine);
	}
}

static void masks(void **state)
{
	static const uint8_t key[4] = {1, 2, 4, 0x80};
	uint8_t a[100], b[100];

	(void)state;
	for (size_t n = 0; n <= sizeof(a); n++) {
		for (size_t i = 0; i < n; i++) {
			a[i] = (uint8_t)(i * 5);
			b[i] = a[i] ^ key[i & 3];
		}
		l7mp_ws_mask(a, n, key);
		assert_memory_equal(a, b, n);
	}
}

/* ---- headers ---- */

static void headers(void **state)
{
	static const struct {
		uint64_t len;
		const char *bytes;
		size_t n;
	} cases[] = {
	        {0, "\x82\x00", 2},
	        {125, "\x82\x7d", 2},
	        {126, "\x82\x7e\x00\x7e", 4},
	        {65535, "\x82\x7e\xff\xff", 4},
	        {65536, "\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00", 10},
	};
	static const uint8_t key[4] = {1, 2, 3, 4};

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		uint8_t out[L7MP_WS_HEAD_LEN_MAX];
		size_t n =
		        l7mp_ws_head_write(out + sizeof(out), L7MP_WS_BINARY, cases[i].len, NULL);

		assert_int_equal(n, cases[i].n);
		assert_memory_equal(out + sizeof(out) - n, cases[i].bytes, n);
		n = l7mp_ws_head_write(out + sizeof(out), L7MP_WS_BINARY, cases[i].len, key);
		assert_int_equal(n, cases[i].n + 4);
		assert_int_equal(out[sizeof(out) - n + 1], (uint8_t)cases[i].bytes[1] | 0x80);
		assert_memory_equal(out + sizeof(out) - 4, key, 4);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(utf8_agrees_with_base),
	        cmocka_unit_test(utf8_in_pieces),
	        cmocka_unit_test(codes),
	        cmocka_unit_test(masks),
	        cmocka_unit_test(headers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
