/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "l7mp/json.h"
#include "l7mp/util.h"

static void accepts(const char *text, size_t len, const char *expected)
{
	char message[256] = "";
	int line = -1;
	/* An exact copy: ASan sees a read behind the end. */
	char *copy = malloc(len ? len : 1);
	cJSON *node;
	char *out;

	memcpy(copy, text, len);
	node = l7mp_json_parse(copy, len, &line, message, sizeof(message));
	if (!node)
		fail_msg("%.*s: line %d: %s", (int)len, text, line, message);
	assert_int_equal(line, 0);
	out = l7mp_json_print(node, L7MP_JSON_PLAIN);
	assert_non_null(out);
	out[strlen(out) - 1] = '\0';
	assert_string_equal(out, expected);
	free(out);
	cJSON_Delete(node);
	free(copy);
}
#define OK(text, expected) accepts(text, sizeof(text) - 1, expected)

static void rejects(const char *text, size_t len, int line, const char *message)
{
	char got[256] = "";
	int at = -1;
	char *copy = malloc(len ? len : 1);
	cJSON *node;

	memcpy(copy, text, len);
	node = l7mp_json_parse(copy, len, &at, got, sizeof(got));
	if (node)
		fail_msg("accepted: %.*s", (int)len, text);
	assert_string_equal(got, message);
	assert_int_equal(at, line);
	free(copy);
}
#define BAD(text, line, message) rejects(text, sizeof(text) - 1, line, message)

static void good_texts(void **state)
{
	(void)state;
	OK("null", "null");
	OK(" \t\r\n true \n", "true");
	OK("0", "0");
	OK("-0", "0");
	OK("-0.5e-3", "-0.0005");
	OK("1E5", "100000");
	OK("1e-400", "0");
	OK("0.1", "0.1");
	OK("9007199254740991", "9007199254740991");
	OK("1.7976931348623157e308", "1.7976931348623157e+308");
	OK("\"\"", "\"\"");
	OK("\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\"", "\"a\\\"\\\\/\\b\\f\\n\\r\\tA\"");
	OK("\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\"");
	OK("\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"", "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
	OK("[]", "[]");
	OK("{ }", "{}");
	OK("[1 , [2], {\"a\" : {}}]", "[1,[2],{\"a\":{}}]");
	OK("{\"\":1,\"a\":2,\"A\":3}", "{\"\":1,\"a\":2,\"A\":3}");
	OK("\xef\xbb\xbf[1]", "[1]");
	OK("\"\x7f\"", "\"\\u007f\"");
}

static void bad_structure(void **state)
{
	(void)state;
	BAD("", 1, "expected a value, got the end of the text");
	BAD("  \n ", 2, "expected a value, got the end of the text");
	BAD("[1", 1, "expected ',' or ']', got the end of the text");
	BAD("[1,]", 1, "expected a value, got ']'");
	BAD("[,1]", 1, "expected a value, got ','");
	BAD("{\"a\":1,}", 1, "expected a key in double quotes, got '}'");
	BAD("{a:1}", 1, "expected a key in double quotes, got 'a'");
	BAD("{\"a\" 1}", 1, "expected ':' after the key, got '1'");
	BAD("{\"a\":1 \"b\":2}", 1, "expected ',' or '}', got '\"'");
	BAD("[1}", 1, "expected ',' or ']', got '}'");
	BAD("nul", 1, "expected a value, got 'n'");
	BAD("True", 1, "expected a value, got 'T'");
	BAD("NaN", 1, "expected a value, got 'N'");
	BAD("// c\n1", 1, "expected a value, got '/'");
	BAD("{} x", 1, "expected nothing after the value, got 'x'");
	BAD("1 2", 1, "expected nothing after the value, got '2'");
	BAD("{}\n\n}", 3, "expected nothing after the value, got '}'");
	BAD("{\n\"a\": [\n1,\n2,\n!]}", 5, "expected a value, got '!'");
	BAD("1\0", 1, "expected nothing after the value, got the byte 0x00");
	BAD("[1,\0]", 1, "expected a value, got the byte 0x00");
	BAD("\f1", 1, "expected a value, got the byte 0x0c");
	BAD("\xff", 1, "expected a value, got the byte 0xff");
	BAD("'a'", 1, "expected a value, got '''");
	BAD("\xc3\xa9", 1, "expected a value, got '\xc3\xa9'");
}

static void bad_numbers(void **state)
{
	(void)state;
	BAD("01", 1, "a number begins with a 0");
	BAD("-01", 1, "a number begins with a 0");
	BAD("-", 1, "expected a digit, got the end of the text");
	BAD("+1", 1, "expected a value, got '+'");
	BAD(".5", 1, "expected a value, got '.'");
	BAD("1.", 1, "expected a digit after the decimal point, got the end of the text");
	BAD("1.e5", 1, "expected a digit after the decimal point, got 'e'");
	BAD("1e", 1, "expected a digit in the exponent, got the end of the text");
	BAD("[1e+]", 1, "expected a digit in the exponent, got ']'");
	BAD("0x10", 1, "expected nothing after the value, got 'x'");
	BAD("1e999", 1, "the number 1e999 is out of range");
	BAD("[\n-1e309]", 2, "the number -1e309 is out of range");
	BAD("1234567890123456789012345678901234567890123456789012345678901234", 1,
	    "a number has more than 63 characters");
	OK("1234567890123456789012345678901234567890123456789012345678901.0",
	   "1.2345678901234568e+60");
	BAD("Infinity", 1, "expected a value, got 'I'");
}

static void bad_strings(void **state)
{
	(void)state;
	BAD("\"a", 1, "a string has no end");
	BAD("\"a\\", 1,
	    "expected an escape (one of \"\\/bfnrtu after the backslash), got the end of the text");
	BAD("\"\\x41\"", 1, "expected an escape (one of \"\\/bfnrtu after the backslash), got 'x'");
	BAD("\"\\\0\"", 1,
	    "expected an escape (one of \"\\/bfnrtu after the backslash), got the byte 0x00");
	BAD("\"\\u12g4\"", 1, "expected four hexadecimal digits after \\u, got 'g'");
	BAD("\"\\u12", 1, "expected four hexadecimal digits after \\u, got the end of the text");
	BAD("\"a\nb\"", 1, "control character 0x0a in a string, or a '\"' is missing");
	BAD("\"a\0b\"", 1, "control character 0x00 in a string, or a '\"' is missing");
	BAD("\"a\\u0000b\"", 1, "a string with \\u0000 is not supported");
	BAD("{\"k\\u0000\":1}", 1, "a string with \\u0000 is not supported");
	BAD("\"\\ud800\"", 1, "\\ud800 is half of a surrogate pair");
	BAD("\"\\ud800\\n\"", 1, "\\ud800 is half of a surrogate pair");
	BAD("\"\\ud800\\ud800\"", 1, "\\ud800 is half of a surrogate pair");
	BAD("\"\\udc00\"", 1, "\\udc00 is half of a surrogate pair");
	BAD("\"\xff\"", 1, "invalid UTF-8 in a string (byte 0xff)");
	BAD("\"\xc0\x80\"", 1, "invalid UTF-8 in a string (byte 0xc0)");
	BAD("\"\xed\xa0\x80\"", 1, "invalid UTF-8 in a string (byte 0xed)");
	BAD("\"\xf4\x90\x80\x80\"", 1, "invalid UTF-8 in a string (byte 0xf4)");
	BAD("\"\xe2\x82", 1, "invalid UTF-8 in a string (byte 0xe2)");
}

static void duplicate_keys(void **state)
{
	struct l7mp_str str = {0};
	char message[128];
	int line = 0;

	(void)state;
	BAD("{\"a\":1,\"a\":2}", 1, "duplicate key a");
	BAD("{\"a\":1,\n\"b\":[1,{\"x\":1}],\n\"\\u0061\"\n:2}", 3, "duplicate key a");
	BAD("[{},{\"q\":{\n\"k\":0,\n\"k\":0}}]", 3, "duplicate key k");
	OK("[{\"a\":1},{\"a\":{\"a\":1}}]", "[{\"a\":1},{\"a\":{\"a\":1}}]");
	BAD("{\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\":1,"
	    "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\":1}",
	    1, "duplicate key aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...");
	/* Many members: found, and in linear time (a quadratic search takes minutes here). */
	l7mp_str_add(&str, "{");
	for (int i = 0; i < 200000; i++)
		l7mp_str_addf(&str, "\"k%d\":0,\n", i);
	l7mp_str_add(&str, "\"k77\":1}");
	assert_null(l7mp_json_parse(str.s, str.len, &line, message, sizeof(message)));
	assert_string_equal(message, "duplicate key k77");
	assert_int_equal(line, 200001);
	l7mp_str_free(&str);
}

static char *nested(size_t depth, size_t *len)
{
	char *text = malloc(2 * depth);

	memset(text, '[', depth);
	memset(text + depth, ']', depth);
	*len = 2 * depth;
	return text;
}

static void bounds(void **state)
{
	char message[128] = "";
	struct l7mp_str str = {0};
	size_t len;
	char *text = nested(L7MP_JSON_DEPTH, &len);
	cJSON *node = l7mp_json_parse(text, len, NULL, NULL, 0);
	int line;

	(void)state;
	assert_non_null(node);
	cJSON_Delete(node);
	free(text);
	text = nested(L7MP_JSON_DEPTH + 1, &len);
	rejects(text, len, 1, "nested deeper than 128 levels");
	free(text);
	text = nested(1 << 20, &len);
	rejects(text, len, 1, "nested deeper than 128 levels");
	free(text);
	l7mp_str_add(&str, "[0");
	for (int i = 0; i < L7MP_JSON_VALUES; i++)
		l7mp_str_add(&str, ",0");
	l7mp_str_add(&str, "]");
	assert_null(l7mp_json_parse(str.s, str.len, &line, message, sizeof(message)));
	assert_string_equal(message, "more than 1000000 values");
	l7mp_str_free(&str);
	/* No message wanted. */
	assert_null(l7mp_json_parse("{", 1, NULL, NULL, 0));
}

struct lines {
	int v[16];
	size_t n, stop;
};

static int note_line(void *arg, const cJSON *node, int line)
{
	struct lines *l = arg;

	assert_non_null(node);
	if (l->n == l->stop)
		return -EPERM;
	l->v[l->n++] = line;
	return 0;
}

static void lines_of_nodes(void **state)
{
	static const char text[] = "\n{ \"a\":\n 1,\n\"b\": [\n2, 3,\n{}\n], \"c\"\n:\n\"x\" }";
	static const int expected[] = {2, 2, 4, 5, 5, 6, 7};
	struct lines l = {.stop = 16};
	cJSON *root = l7mp_json_parse_nodes(text, sizeof(text) - 1, note_line, &l, NULL, NULL, 0);

	(void)state;
	assert_non_null(root);
	assert_int_equal(l.n, 7);
	assert_memory_equal(l.v, expected, sizeof(expected));
	cJSON_Delete(root);
	/* The callback may end the parse. */
	l = (struct lines){.stop = 3};
	assert_null(l7mp_json_parse_nodes(text, sizeof(text) - 1, note_line, &l, NULL, NULL, 0));
	assert_int_equal(l.n, 3);
}

/* What a double would round is refused: never is one number taken for another. */
static void large_integers(void **state)
{
	static const char *const good[] = {"9007199254740992",   "-9007199254740992",
	                                   "9007199254740991",   "1e300",
	                                   "9007199254740993.0", "0"};
	static const char *const bad[] = {"9007199254740993", "-9007199254740993",
	                                  "18446744073709551615", "10000000000000000",
	                                  "100000000000000000000000000000000000000000000000000"};
	char message[200];

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		cJSON *node = l7mp_json_parse(good[i], strlen(good[i]), NULL, NULL, 0);

		assert_non_null(node);
		cJSON_Delete(node);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_null(
		        l7mp_json_parse(bad[i], strlen(bad[i]), NULL, message, sizeof(message)));
		assert_non_null(strstr(message, "beyond 2^53"));
	}
}

/*
 * Every prefix and every one-byte change of a text: no crash, and what is accepted prints and
 * parses again.
 */
static void mutations(void **state)
{
	static const char text[] =
	        "{\"a\":[1,-2.5e3,true,null],\"b\\u00e9\":{\"c\":\"\xc3\xa9\\n\\ud83d\\ude00\"}}";
	size_t len = sizeof(text) - 1;

	(void)state;
	for (size_t i = 0; i < len; i++) {
		char *copy = malloc(len);

		memcpy(copy, text, i);
		assert_null(l7mp_json_parse(copy, i, NULL, NULL, 0));
		for (int b = 0; b < 256; b++) {
			cJSON *node, *again;
			char *out;

			memcpy(copy, text, len);
			copy[i] = (char)b;
			node = l7mp_json_parse(copy, len, NULL, NULL, 0);
			if (!node)
				continue;
			out = l7mp_json_print(node, L7MP_JSON_LINES);
			again = l7mp_json_parse(out, strlen(out), NULL, NULL, 0);
			assert_true(l7mp_json_equal(node, again));
			free(out);
			cJSON_Delete(node);
			cJSON_Delete(again);
		}
		free(copy);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(good_texts),     cmocka_unit_test(bad_structure),
	        cmocka_unit_test(bad_numbers),    cmocka_unit_test(bad_strings),
	        cmocka_unit_test(duplicate_keys), cmocka_unit_test(bounds),
	        cmocka_unit_test(lines_of_nodes), cmocka_unit_test(large_integers),
	        cmocka_unit_test(mutations),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
