/* SPDX-License-Identifier: MIT */
/* WebSocket frames: heads, masks, text, and the reader with its input cut at every byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "l7mp/util.h"
#include "proto/websocket/ws_frame.h"

static uint64_t seed = 88172645463325252u;

static uint32_t rnd(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 20) % n;
}

/* ---- text ---- */

/* All sequences of up to three bytes, and four with steps, against the slow and sure decoder of base. */
static void utf8_agrees_with_base(void **state)
{
	uint8_t s[4];
	uint32_t cp;

	(void)state;
	for (uint32_t n = 1; n <= 4; n++) {
		uint32_t step = n == 4 ? 251 : 1, end = n == 4 ? UINT32_MAX - 251 : 1u << (8 * n);

		for (uint32_t v = n == 4 ? 0xe0000000 : 0; v < end; v += step) {
			struct l7mp_ws_utf8 u = {0};
			size_t at = 0, len;
			bool ok;

			for (uint32_t i = 0; i < n; i++)
				s[i] = (uint8_t)(v >> (8 * (n - 1 - i)));
			ok = l7mp_ws_utf8_step(&u, s, n) && !u.left;
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
		struct l7mp_ws_utf8 u = {0};

		assert_true(l7mp_ws_utf8_step(&u, (const uint8_t *)text, cut));
		assert_true(l7mp_ws_utf8_step(&u, (const uint8_t *)text + cut, n - cut));
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
	for (size_t at = 0; at < 9; at++)
		for (size_t n = 0; n <= sizeof(a); n++) {
			for (size_t i = 0; i < n; i++) {
				a[i] = (uint8_t)(i * 5);
				b[i] = a[i] ^ key[(at + i) & 3];
			}
			l7mp_ws_mask(a, n, key, at);
			assert_memory_equal(a, b, n);
		}
}

/* ---- frames ---- */

struct sent {
	int opcode;
	uint32_t hash;
	size_t len;
};

static uint32_t hash(uint32_t h, const uint8_t *p, size_t n)
{
	while (n--)
		h = (h ^ *p++) * 16777619u;
	return h;
}

static uint8_t *put(uint8_t *p, bool fin, int opcode, const uint8_t *data, size_t n, bool server)
{
	uint8_t head[L7MP_WS_HEAD_LEN_MAX], key[4] = {(uint8_t)rnd(256), (uint8_t)rnd(256), 7, 0};
	size_t h = l7mp_ws_head_write(head + sizeof(head), (enum l7mp_ws_opcode)opcode, n,
	                              server ? key : NULL);

	memcpy(p, head + sizeof(head) - h, h);
	if (!fin)
		p[0] &= 0x7f;
	if (n)
		memcpy(p + h, data, n);
	if (server)
		l7mp_ws_mask(p + h, n, key, 0);
	return p + h + n;
}

/* Messages in fragments with pings between them; what was put in, in order. */
static size_t script(uint8_t *out, struct sent *sent, size_t *n_sent, bool server)
{
	static const size_t sizes[] = {0, 1, 125, 126, 127, 128, 300, 65535, 65536};
	static uint8_t data[65536 * 2];
	uint8_t *p = out;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)('a' + i % 26);
	*n_sent = 0;
	for (int m = 0; m < 12; m++) {
		int opcode = 1 + (int)rnd(2), frames = 1 + (int)rnd(4);
		struct sent message = {.opcode = opcode, .hash = 2166136261u};

		for (int f = 0; f < frames; f++) {
			size_t n = sizes[rnd(L7MP_ARRAY_SIZE(sizes))];

			p = put(p, f == frames - 1, f ? 0 : opcode, data + m, n, server);
			message.hash = hash(message.hash, data + m, n);
			message.len += n;
			if (rnd(2) && f < frames - 1) {
				n = rnd(126);
				p = put(p, true, 9 + (int)rnd(2), data, n, server);
				sent[(*n_sent)++] = (struct sent){
				        .opcode = -1, .len = n, .hash = hash(2166136261u, data, n)};
			}
		}
		sent[(*n_sent)++] = message;
	}
	return (size_t)(p - out);
}

static void feed(struct l7mp_ws_reader *r, uint8_t *p, size_t n, struct sent *now,
                 const struct sent *sent, size_t n_sent, size_t *at)
{
	struct l7mp_ws_got got;
	enum l7mp_ws_event event;
	size_t used;

	while ((event = l7mp_ws_read(r, p, n, &used, &got)) != L7MP_WS_MORE) {
		if (event == L7MP_WS_BROKEN)
			fail_msg("broken: %s", got.why);
		assert_true(used <= n);
		p += used;
		n -= used;
		assert_true(*at < n_sent);
		if (event == L7MP_WS_CONTROL) {
			assert_int_equal(sent[*at].opcode, -1);
			assert_int_equal(got.len, sent[*at].len);
			assert_int_equal(hash(2166136261u, got.data, got.len), sent[*at].hash);
			++*at;
			continue;
		}
		now->hash = hash(now->len ? now->hash : 2166136261u, got.data, got.len);
		now->len += got.len;
		if (!got.final)
			continue;
		assert_int_equal((int)got.opcode, sent[*at].opcode);
		assert_int_equal(now->len, sent[*at].len);
		if (now->len)
			assert_int_equal(now->hash, sent[*at].hash);
		now->len = 0;
		++*at;
	}
	assert_int_equal(used, n);
}

static void reads_what_was_written(void **state)
{
	size_t room = 12 * 4 * (65536 + 300);
	uint8_t *stream = malloc(room), *copy = malloc(room);
	struct sent sent[100];

	(void)state;
	for (int round = 0; round < 60; round++) {
		struct l7mp_ws_reader r;
		struct sent now = {0};
		size_t n_sent, at = 0, pos = 0, len;

		l7mp_ws_reader_init(&r, round & 1, 1 << 20);
		len = script(stream, sent, &n_sent, round & 1);
		memcpy(copy, stream, len);
		while (pos < len) {
			size_t n = round < 4 ? 1 : 1 + rnd(round < 20 ? 7 : 40000);

			if (n > len - pos)
				n = len - pos;
			feed(&r, copy + pos, n, &now, sent, n_sent, &at);
			pos += n;
		}
		assert_int_equal(at, n_sent);
	}
	free(stream);
	free(copy);
}

static void refuses(void **state)
{
	static const struct {
		int code;
		size_t n;
		uint8_t bytes[12];
	} cases[] = {
	        {1002, 2, {0xc1, 0}}, /* reserved bits, opcodes */
	        {1002, 2, {0x83, 0}},
	        {1002, 2, {0x8b, 0}},
	        {1002, 2, {0x80, 0}}, /* nothing to continue */
	        {1002, 5, {0x01, 1, 'a', 0x81, 0}},
	        {1002, 2, {0x09, 0}}, /* control frames */
	        {1002, 2, {0x89, 126}},
	        {1002, 2, {0x81, 0x80}}, /* masked, from a server */
	        {1002, 10, {0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0}},
	        {1009, 10, {0x82, 127, 0, 0, 0, 0, 0, 1, 0, 1}},
	        {1009, 10, {0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
	        {1007, 4, {0x81, 2, 0xc3, 0x28}},
	        {1007, 3, {0x81, 1, 0xc3}},
	        {1002, 3, {0x88, 1, 3}},
	        {1002, 4, {0x88, 2, 0x03, 0xed}}, /* 1005 */
	        {1007, 5, {0x88, 3, 0x03, 0xe8, 0xff}},
	};

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++)
		for (size_t cut = 0; cut <= cases[i].n; cut++) {
			struct l7mp_ws_reader r;
			struct l7mp_ws_got got;
			uint8_t bytes[12];
			size_t at = 0, used;
			enum l7mp_ws_event event = L7MP_WS_MORE;

			memcpy(bytes, cases[i].bytes, sizeof(bytes));
			l7mp_ws_reader_init(&r, false, 65536);
			for (int part = 0; part < 2 && event != L7MP_WS_BROKEN; part++) {
				size_t end = part ? cases[i].n : cut;

				do {
					event = l7mp_ws_read(&r, bytes + at, end - at, &used, &got);
					at += used;
				} while (event == L7MP_WS_PIECE || event == L7MP_WS_CONTROL);
			}
			if (event != L7MP_WS_BROKEN || got.code != cases[i].code)
				fail_msg("case %zu, cut at %zu: %d, code %d", i, cut, event,
				         got.code);
			assert_non_null(got.why);
		}
}

/* Whatever comes, no more is used than there is, and sizes stay within bounds. */
static void takes_noise(void **state)
{
	(void)state;
	for (int round = 0; round < 20000; round++) {
		struct l7mp_ws_reader r;
		struct l7mp_ws_got got;
		enum l7mp_ws_event event = L7MP_WS_MORE;
		size_t n = 1 + rnd(60), at = 0, used;
		uint8_t *p = malloc(n);

		for (size_t i = 0; i < n; i++)
			p[i] = (uint8_t)(rnd(3) ? rnd(256)
			                        : (const uint8_t[]){0x81, 0x82, 0x88, 0x89, 0, 1,
			                                            126, 127}[rnd(8)]);
		l7mp_ws_reader_init(&r, round & 1, 1000);
		while (event != L7MP_WS_BROKEN && (at < n || event != L7MP_WS_MORE)) {
			event = l7mp_ws_read(&r, p + at, n - at, &used, &got);
			assert_true(used <= n - at);
			at += used;
			if (event == L7MP_WS_PIECE)
				assert_true(got.len + got.left <= 1000);
			else if (event == L7MP_WS_CONTROL)
				assert_true(got.len <= L7MP_WS_CONTROL_MAX);
			else if (event == L7MP_WS_MORE)
				assert_int_equal(at, n);
		}
		free(p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(utf8_agrees_with_base),
	        cmocka_unit_test(utf8_in_pieces),
	        cmocka_unit_test(codes),
	        cmocka_unit_test(masks),
	        cmocka_unit_test(reads_what_was_written),
	        cmocka_unit_test(refuses),
	        cmocka_unit_test(takes_noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
