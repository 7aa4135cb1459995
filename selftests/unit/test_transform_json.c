/* SPDX-License-Identifier: MIT */
/* JSONEncap and JSONDecap: what they make of datagrams, byte streams and what is neither. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "l7mp/log.h"
#include "l7mp/transforms.h"
#include "l7mp/util.h"
#include "proto_fix.h"

static const struct l7mp_proto *const protos[] = {&l7mp_transform_jsonencap,
                                                  &l7mp_transform_jsondecap, NULL};

static struct pfix fix;
static cJSON *metadata;

static int setup(void **state)
{
	pfix_new(&fix, protos);
	metadata = cJSON_Parse("{\"IP\":{\"src_addr\":\"10.0.0.1\"},\"x\":\"\\u00e9\"}");
	fix.metadata = metadata;
	*state = &fix;
	return 0;
}

static int teardown(void **state)
{
	pfix_free(*state);
	cJSON_Delete(metadata);
	return 0;
}

static struct pconn *open_one(struct pfix *f, const struct l7mp_proto *p, enum l7mp_kind kind)
{
	struct pconn *c = pfix_connect_kind(f, p, NULL, NULL, kind);

	assert_non_null(c);
	assert_int_equal(c->stream->kind, kind);
	assert_true(c->stream->is_transformer);
	assert_true(pfix_until(f, &c->opened, 1000));
	return c;
}

static void forget(struct pconn *c)
{
	free(c->data);
	c->data = NULL;
	c->size = 0;
	c->len = 0;
	c->messages = 0;
}

/* ---- wrapping ---- */

#define HEAD "{\"metadata\":{\"IP\":{\"src_addr\":\"10.0.0.1\"},\"x\":\"\xc3\xa9\"},\"payload\":\""

static void encap_wraps(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = open_one(f, &l7mp_transform_jsonencap, L7MP_KIND_DATAGRAM);

	/* RFC 4648, section 10 */
	pfix_write(c, "", 0);
	pfix_write(c, "f", 1);
	pfix_write(c, "fo", 2);
	pfix_write(c, "foobar", 6);
	pfix_write(c, "\0\xff\n", 3);
	assert_string_equal(c->data, HEAD "\"}|" HEAD "Zg==\"}|" HEAD "Zm8=\"}|" HEAD
	                                  "Zm9vYmFy\"}|" HEAD "AP8K\"}");
}

static void encap_ends_objects_on_streams(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = open_one(f, &l7mp_transform_jsonencap, L7MP_KIND_STREAM);

	pfix_write(c, "f", 1);
	pfix_write(c, "fo", 2);
	assert_string_equal(c->data, HEAD "Zg==\"}\n" HEAD "Zm8=\"}\n");
	f->out_kind = L7MP_KIND_STREAM;
	c = open_one(f, &l7mp_transform_jsonencap, L7MP_KIND_DATAGRAM);
	pfix_write(c, "f", 1);
	assert_string_equal(c->data, HEAD "Zg==\"}\n");
}

static void encap_without_metadata(void **state)
{
	struct pfix *f = *state;
	struct pconn *c;

	f->metadata = NULL;
	c = open_one(f, &l7mp_transform_jsonencap, L7MP_KIND_DATAGRAM);
	pfix_write(c, "f", 1);
	assert_string_equal(c->data, "{\"metadata\":{},\"payload\":\"Zg==\"}");
}

static void encap_makes_json_of_any_text(void **state)
{
	struct pfix *f = *state;
	struct pconn *c;
	cJSON *odd = cJSON_CreateObject();
	cJSON *back;

	cJSON_AddStringToObject(odd, "bad", "\xff\"\\\x01");
	f->metadata = odd;
	c = open_one(f, &l7mp_transform_jsonencap, L7MP_KIND_DATAGRAM);
	pfix_write(c, "f", 1);
	back = l7mp_json_parse(c->data, c->len, NULL, NULL, 0);
	assert_non_null(back);
	assert_string_equal(l7mp_json_get(back, "/metadata/bad")->valuestring,
	                    "\xef\xbf\xbd\"\\\x01");
	cJSON_Delete(back);
	cJSON_Delete(odd);
}

/* ---- unwrapping datagrams ---- */

static void decap_unwraps(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = open_one(f, &l7mp_transform_jsondecap, L7MP_KIND_DATAGRAM);
	static const char *const good[] = {
	        "{\"payload\":\"\"}", "{\"payload\":\"Zg==\"}", "{\"payload\":\"Zm8=\"}",
	        " {\"payload\" : \"Zm9v\" , \"metadata\":[]}\r\n", "{\"payload\":\"Zm9v\\/w==\"}"};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(good); i++)
		assert_int_equal(pfix_write(c, good[i], strlen(good[i])), 0);
	assert_int_equal(c->messages, 5);
	assert_string_equal(c->data, "|f|fo|foo|foo\xff");
}

static void decap_refuses(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = open_one(f, &l7mp_transform_jsondecap, L7MP_KIND_DATAGRAM);
	static const char *const bad[] = {
	        "",
	        "x",
	        "{",
	        "[]",
	        "{}",
	        "null",
	        "\"Zg==\"",
	        "{\"payload\":1}",
	        "{\"payload\":null}",
	        "{\"payload\":\"Zg=\"}",
	        "{\"payload\":\"Zg\"}",
	        "{\"payload\":\"Z\"}",
	        "{\"payload\":\"Zg==Zg==\"}",
	        "{\"payload\":\"Z===\"}",
	        "{\"payload\":\"====\"}",
	        "{\"payload\":\"Zh==\"}", /* bits that padding leaves over */
	        "{\"payload\":\"Zm9=\"}",
	        "{\"payload\":\"Zm 9\"}",
	        "{\"payload\":\" Zm9v\"}",
	        "{\"payload\":\"Zm9v\\n\"}",
	        "{\"payload\":\"Zm9v    \"}",
	        "{\"payload\":\"Zm-_\"}", /* the URL alphabet */
	        "{\"payload\":\"Zm9v----\"}",
	        "{\"payload\":\"----\"}",
	        "{\"payload\":\"    Zm9v\"}",
	        "{\"payload\":\"Z=9v\"}",
	        "{\"payload\":\"Zm9\xc3\xa9\"}",
	        "{\"payload\":\"Zg==\"} {\"payload\":\"Zg==\"}",
	        "{\"payload\":\"Zg==\",\"payload\":\"Zg==\"}",
	        "{\"payload\":\"Zg==\"}x",
	};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(bad); i++)
		if (pfix_write(c, bad[i], strlen(bad[i])) != -EBADMSG)
			fail_msg("taken: %s", bad[i]);
	assert_int_equal(c->messages, 0);
}

/* ---- unwrapping byte streams ---- */

/* The text in pieces of n bytes. */
static void feed(struct pconn *c, const char *text, size_t n)
{
	size_t len = strlen(text);

	for (size_t off = 0; off < len; off += n)
		assert_int_equal(pfix_write(c, text + off, len - off < n ? len - off : n), 0);
}

static void stream_case(struct pfix *f, const char *text, const char *want, unsigned lost)
{
	for (size_t n = 1; n < 70; n++) {
		struct pconn *c = open_one(f, &l7mp_transform_jsondecap, L7MP_KIND_STREAM);

		feed(c, text, n);
		l7mp_stream_shutdown(c->stream, 0);
		assert_true(c->ended);
		assert_string_equal(c->data ? c->data : "", want);
		assert_int_equal(c->lost, lost);
		l7mp_stream_close(c->stream, false);
		assert_true(pfix_until_n(f, &c->closed, 1, 1000));
	}
}

#define A "{\"payload\":\"YQ==\"}"
#define B "{\"metadata\":{\"a\":[\"}\\\"\"]},\"payload\":\"Yg==\"}"

static void decap_streams(void **state)
{
	stream_case(*state, A B A "\n" A " \r\n\t" B "\n", "abaab", 0);
	stream_case(*state, "{\n \"payload\":\n \"YQ==\"\n}" B, "ab", 0);
}

static void decap_streams_resynchronise(void **state)
{
	stream_case(*state, "garbage" A "\n" B "\n", "b", 1);
	stream_case(*state, A "garbage}" A "\n" B, "ab", 1);
}

static void decap_streams_leave_out_what_has_no_payload(void **state)
{
	/* Whole objects: the next one follows at once. */
	stream_case(*state, A "{}{\"payload\":\"?\"}" B, "ab", 2);
	/* Not JSON although it has an end. */
	stream_case(*state, A "{x}" A "\n" B, "ab", 1);
}

static void decap_streams_with_a_lost_quote(void **state)
{
	stream_case(*state, "{\"payload: 1}\n" A, "a", 1);
}

static void decap_streams_cut_short(void **state)
{
	stream_case(*state, A "{\"payload\":\"Y", "a", 1);
}

static void decap_streams_are_bounded(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = open_one(f, &l7mp_transform_jsondecap, L7MP_KIND_STREAM);
	size_t n = 64 << 10;
	char *spaces = malloc(n);

	memset(spaces, ' ', n);
	pfix_write(c, "{", 1);
	for (int i = 0; i < 100; i++)
		pfix_write(c, spaces, n);
	assert_int_equal(c->lost, 1);
	feed(c, "}\n" A, 100);
	assert_string_equal(c->data, "a");
	forget(c);
	/* White space between objects is never held. */
	for (int i = 0; i < 100; i++)
		pfix_write(c, spaces, n);
	feed(c, B, 100);
	assert_string_equal(c->data, "b");
	assert_int_equal(c->lost, 1);
	free(spaces);
}

static void decap_survives_anything(void **state)
{
	struct pfix *f = *state;
	struct pconn *stream = open_one(f, &l7mp_transform_jsondecap, L7MP_KIND_STREAM);
	struct pconn *dgram = open_one(f, &l7mp_transform_jsondecap, L7MP_KIND_DATAGRAM);
	unsigned seed = 77;

	for (int i = 0; i < 20000; i++) {
		char text[] = A B "\n" A "{\"payload\":[{\"\\u0041\":-1.5e3}]}\n";
		size_t len = sizeof(text) - 1, n;

		for (int k = rand_r(&seed) % 4; k > 0; k--)
			text[(size_t)rand_r(&seed) % len] =
			        (char)(k & 1 ? rand_r(&seed) : "{}[]\"\\\n,:="[rand_r(&seed) % 10]);
		n = 1 + (size_t)rand_r(&seed) % len;
		pfix_write(stream, text + len - n, n);
		pfix_write(dgram, text, n);
		forget(stream);
		forget(dgram);
	}
	/* It finds its way back. */
	feed(stream, "\"\n}\n" A "\n", 3);
	forget(stream);
	feed(stream, "\n" A "\n", 3);
	assert_string_equal(stream->data, "a");
}

/* ---- there and back ---- */

static void round_trip(void **state)
{
	struct pfix *f = *state;
	unsigned seed = 4648;
	uint8_t bytes[3000];

	for (int kind = 0; kind < 2; kind++) {
		struct pconn *e = open_one(f, &l7mp_transform_jsonencap, (enum l7mp_kind)kind);
		struct pconn *d = open_one(f, &l7mp_transform_jsondecap, (enum l7mp_kind)kind);

		for (size_t n = 0; n < 300; n++) {
			size_t len = n < 100 ? n : (size_t)rand_r(&seed) % sizeof(bytes);

			for (size_t i = 0; i < len; i++)
				bytes[i] = (uint8_t)rand_r(&seed);
			forget(e);
			forget(d);
			pfix_write(e, bytes, len);
			pfix_write(d, e->data, e->len);
			assert_int_equal(d->len, len);
			if (len)
				assert_memory_equal(d->data, bytes, len);
		}
		assert_int_equal(d->lost, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	        T(encap_wraps),
	        T(encap_ends_objects_on_streams),
	        T(encap_without_metadata),
	        T(encap_makes_json_of_any_text),
	        T(decap_unwraps),
	        T(decap_refuses),
	        T(decap_streams),
	        T(decap_streams_resynchronise),
	        T(decap_streams_leave_out_what_has_no_payload),
	        T(decap_streams_with_a_lost_quote),
	        T(decap_streams_cut_short),
	        T(decap_streams_are_bounded),
	        T(decap_survives_anything),
	        T(round_trip),
	};

	l7mp_log_set_level(L7MP_LOG_SILENT);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
