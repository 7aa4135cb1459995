/* SPDX-License-Identifier: MIT */
/* Pointers, printing, equality, accessors. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "l7mp/json.h"
#include "l7mp/util.h"

static cJSON *parse(const char *text)
{
	char message[128];
	int line;
	cJSON *node = l7mp_json_parse(text, strlen(text), &line, message, sizeof(message));

	if (!node)
		fail_msg("%s: %s", text, message);
	return node;
}

static void assert_prints(const cJSON *node, enum l7mp_json_format format, const char *expected)
{
	char *text = l7mp_json_print(node, format);

	assert_non_null(text);
	assert_string_equal(text, expected);
	free(text);
}

/* ---- pointers ---- */

static void pointer_get(void **state)
{
	cJSON *root =
	        parse("{\"a\":{\"b\":[10,{\"c\":20}]},\"\":{\"\":1},\"x/y\":2,\"m~n\":3,\"~1\":4,"
	              "\"A\":5,\"ab\":6,\"0\":7}");

	(void)state;
	assert_ptr_equal(l7mp_json_get(root, ""), root);
	assert_ptr_equal(l7mp_json_get(root, "/"), root);
	assert_int_equal(l7mp_json_get(root, "/a/b/0")->valueint, 10);
	assert_int_equal(l7mp_json_get(root, "a/b/1/c")->valueint, 20);
	assert_int_equal(l7mp_json_get(root, "x~1y")->valueint, 2);
	assert_int_equal(l7mp_json_get(root, "/m~0n")->valueint, 3);
	assert_int_equal(l7mp_json_get(root, "/~01")->valueint, 4);
	assert_int_equal(l7mp_json_get(root, "/A")->valueint, 5);
	assert_int_equal(l7mp_json_get(root, "/0")->valueint, 7);
	assert_int_equal(l7mp_json_get(root, "//")->valueint, 1);
	assert_null(l7mp_json_get(root, "/x/y"));
	assert_null(l7mp_json_get(root, "/abc"));
	assert_null(l7mp_json_get(root, "/a/b/2"));
	assert_null(l7mp_json_get(root, "/a/b/-"));
	assert_null(l7mp_json_get(root, "/a/b/01"));
	assert_null(l7mp_json_get(root, "/a/b/+1"));
	assert_null(l7mp_json_get(root, "/a/b/1e0"));
	assert_null(l7mp_json_get(root, "/a/b/99999999999999999999"));
	assert_null(l7mp_json_get(root, "/a/b/0/deeper"));
	assert_null(l7mp_json_get(root, "/a/"));
	assert_null(l7mp_json_get(root, "/m~n"));
	assert_null(l7mp_json_get(NULL, "/a"));
	assert_null(l7mp_json_get(root, NULL));
	cJSON_Delete(root);
}

static void pointer_validity(void **state)
{
	char deep[2 * L7MP_JSON_DEPTH + 3];

	(void)state;
	assert_true(l7mp_json_pointer_valid(""));
	assert_true(l7mp_json_pointer_valid("/a~0~1b/c"));
	assert_false(l7mp_json_pointer_valid("/a~"));
	assert_false(l7mp_json_pointer_valid("~2"));
	assert_false(l7mp_json_pointer_valid("a~/b"));
	assert_false(l7mp_json_pointer_valid(NULL));
	for (int i = 0; i <= L7MP_JSON_DEPTH; i++)
		memcpy(deep + 2 * i, "/a", 3);
	assert_false(l7mp_json_pointer_valid(deep));
	deep[2 * L7MP_JSON_DEPTH] = '\0';
	assert_true(l7mp_json_pointer_valid(deep));
}

static void assert_set(const char *doc, const char *pointer, const char *value, int rc,
                       const char *expected)
{
	cJSON *root = parse(doc);

	assert_int_equal(l7mp_json_set(root, pointer, parse(value)), rc);
	assert_prints(root, L7MP_JSON_PLAIN, expected);
	cJSON_Delete(root);
}

static void pointer_set(void **state)
{
	(void)state;
	assert_set("{}", "/a", "1", 0, "{\"a\":1}\n");
	assert_set("{}", "a/b/c", "[1]", 0, "{\"a\":{\"b\":{\"c\":[1]}}}\n");
	assert_set("{\"a\":{\"x\":0},\"z\":9}", "/a/b~1c/d~0", "true", 0,
	           "{\"a\":{\"x\":0,\"b/c\":{\"d~\":true}},\"z\":9}\n");
	assert_set("{\"a\":1,\"b\":2,\"c\":3}", "/b", "{\"n\":1}", 0,
	           "{\"a\":1,\"b\":{\"n\":1},\"c\":3}\n");
	assert_set("{\"a\":[1,2,3]}", "/a/1", "\"two\"", 0, "{\"a\":[1,\"two\",3]}\n");
	assert_set("{\"a\":[1]}", "/a/-", "2", 0, "{\"a\":[1,2]}\n");
	assert_set("{\"a\":[1]}", "/a/1", "2", 0, "{\"a\":[1,2]}\n");
	assert_set("[]", "/-/x", "2", 0, "[{\"x\":2}]\n");
	assert_set("[]", "/0/0", "2", 0, "[{\"0\":2}]\n");
	assert_set("{}", "/-", "2", 0, "{\"-\":2}\n");
	assert_set("{\"a\":[{}]}", "/a/0/b", "2", 0, "{\"a\":[{\"b\":2}]}\n");
	assert_set("{\"a\":[1]}", "/a/2", "2", -EINVAL, "{\"a\":[1]}\n");
	assert_set("{\"a\":[1]}", "/a/3", "2", -EINVAL, "{\"a\":[1]}\n");
	assert_set("{\"a\":[1]}", "/a/01", "2", -EINVAL, "{\"a\":[1]}\n");
	assert_set("{\"a\":[1]}", "/a/x/y", "2", -EINVAL, "{\"a\":[1]}\n");
	assert_set("{\"a\":1}", "/a/b", "2", -EINVAL, "{\"a\":1}\n");
	assert_set("{\"a\":null}", "/a/b/c", "2", -EINVAL, "{\"a\":null}\n");
	assert_set("{\"a\":1}", "/a~", "2", -EINVAL, "{\"a\":1}\n");
	assert_set("3", "/a", "2", -EINVAL, "3\n");
	/* The root. */
	assert_set("{\"a\":[1,2]}", "", "{\"b\":2}", 0, "{\"b\":2}\n");
	assert_set("{\"a\":[1,2]}", "/", "\"s\"", 0, "\"s\"\n");
	assert_set("\"old\"", "/", "[1]", 0, "[1]\n");
}

static void pointer_set_keeps_names_straight(void **state)
{
	cJSON *root = parse("{\"a\":{\"k\":1},\"b\":2,\"list\":[0]}");
	cJSON *taken = cJSON_DetachItemFromObjectCaseSensitive(root, "b");

	(void)state;
	/* A value that had another name; into an array it goes without one. */
	assert_int_equal(l7mp_json_set(root, "/list/0", taken), 0);
	assert_null(l7mp_json_get(root, "/list/0")->string);
	/* The root of a subtree keeps its own name and place. */
	assert_int_equal(l7mp_json_set(l7mp_json_member(root, "a"), "", parse("[7]")), 0);
	assert_prints(root, L7MP_JSON_PLAIN, "{\"a\":[7],\"list\":[2]}\n");
	assert_int_equal(l7mp_json_set(root, "/a", NULL), -ENOMEM);
	assert_int_equal(l7mp_json_set(NULL, "/a", parse("1")), -EINVAL);
	cJSON_Delete(root);
}

/* ---- printing ---- */

static void formats(void **state)
{
	cJSON *node = parse("{\"b\":[1,\"x y\",{}],\"a\":{\"n\":null,\"on\":\"off\"},\"e\":[],\"k "
	                    "1\":\"plain\"}");
	enum l7mp_json_format format;

	(void)state;
	assert_prints(node, L7MP_JSON_PLAIN,
	              "{\"b\":[1,\"x y\",{}],\"a\":{\"n\":null,\"on\":\"off\"},\"e\":[],\"k "
	              "1\":\"plain\"}\n");
	assert_prints(node, L7MP_JSON_SPACE,
	              "{\"b\": [1, \"x y\", {}], \"a\": {\"n\": null, \"on\": \"off\"}, \"e\": [], "
	              "\"k 1\": \"plain\"}\n");
	assert_prints(
	        node, L7MP_JSON_TERSE,
	        "{b: [1,\"x y\",{}],a: {\"n\": null,\"on\": \"off\"},e: [],\"k 1\": plain}\n");
	assert_prints(
	        node, L7MP_JSON_LINES,
	        "{\n  \"b\": [\n    1,\n    \"x y\",\n    {}\n  ],\n  \"a\": {\n    \"n\": null,\n"
	        "    \"on\": \"off\"\n  },\n  \"e\": [],\n  \"k 1\": \"plain\"\n}\n");
	assert_prints(node, L7MP_JSON_DIFFY,
	              "{\n  \"a\": {\n    \"n\": null,\n    \"on\": \"off\"\n  },\n  \"b\": [\n    "
	              "1,\n    \"x y\",\n"
	              "    {}\n  ],\n  \"e\": [],\n  \"k 1\": \"plain\"\n}\n");
	cJSON_Delete(node);
	assert_int_equal(l7mp_json_format_parse("DIFFY", &format), 0);
	assert_int_equal(format, L7MP_JSON_DIFFY);
	assert_int_equal(l7mp_json_format_parse("plain", &format), 0);
	assert_int_equal(format, L7MP_JSON_PLAIN);
	assert_int_equal(l7mp_json_format_parse("xml", &format), -EINVAL);
	assert_int_equal(l7mp_json_format_parse(NULL, &format), -EINVAL);
}

static void assert_string_prints(const char *s, enum l7mp_json_format format, const char *expected)
{
	cJSON *node = cJSON_CreateString(s);

	assert_prints(node, format, expected);
	cJSON_Delete(node);
}

static void terse_quotes_what_yaml_would_misread(void **state)
{
	static const char *const quoted[] = {
	        "",     "true", "No",  "NULL", "y",   "off", "1",   "1.5",  "-",         "-a",
	        ".inf", "~",    "a:b", "a b",  "a,b", "#x",  "a#b", "*x",   "&x",        "!x",
	        "%x",   "@x",   "`x",  "'x'",  "a]",  "<<",  "=",   "0x1f", "2026-11-23"};
	static const char *const bare[] = {"udp-listener", "10x",  "/run/x.sock",
	                                   "A_b.c/d-e",    "nope", "truely"};

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(quoted); i++) {
		char *expected = l7mp_asprintf("\"%s\"\n", quoted[i]);

		assert_string_prints(quoted[i], L7MP_JSON_TERSE, expected);
		free(expected);
	}
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(bare); i++) {
		char *expected = l7mp_asprintf(bare[i][0] == '1' ? "\"%s\"\n" : "%s\n", bare[i]);

		assert_string_prints(bare[i], L7MP_JSON_TERSE, expected);
		free(expected);
	}
}

static void strings_are_always_json(void **state)
{
	char *big = malloc(10001);
	char *expected = malloc(10004);

	(void)state;
	assert_string_prints("a\"\\/\b\f\n\r\t\x01\x1f\x7f", L7MP_JSON_PLAIN,
	                     "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f\"\n");
	/* Not UTF-8, as a header or file name of a peer may be. */
	assert_string_prints("a\xff\xc3", L7MP_JSON_PLAIN, "\"a\xef\xbf\xbd\xef\xbf\xbd\"\n");
	assert_string_prints("\xed\xa0\x80", L7MP_JSON_PLAIN,
	                     "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"\n");
	/* C1 controls, line separators, bidi overrides, a noncharacter beyond the BMP. */
	assert_string_prints("\xc2\x85\xe2\x80\xa8\xe2\x80\xae\xef\xbb\xbf\xf0\x9f\xbf\xbe",
	                     L7MP_JSON_PLAIN, "\"\\u0085\\u2028\\u202e\\ufeff\xf0\x9f\xbf\xbe\"\n");
	assert_string_prints("\xc3\xa9\xf0\x9f\x98\x80", L7MP_JSON_PLAIN,
	                     "\"\xc3\xa9\xf0\x9f\x98\x80\"\n");
	memset(big, 'x', 10000);
	big[10000] = '\0';
	expected[0] = '"';
	memcpy(expected + 1, big, 10000);
	memcpy(expected + 10001, "\"\n", 3);
	assert_string_prints(big, L7MP_JSON_PLAIN, expected);
	free(big);
	free(expected);
}

static void numbers(void **state)
{
	static const struct {
		double d;
		const char *text;
	} v[] = {
	        {0, "0\n"},
	        {-0.0, "0\n"},
	        {1e15, "1000000000000000\n"},
	        {9007199254740992.0, "9007199254740992\n"},
	        {-4503599627370497.0, "-4503599627370497\n"},
	        {1e21, "1e+21\n"},
	        {9007199254740994.0, "9.007199254740994e+15\n"},
	        {12345678901234568.0, "1.2345678901234568e+16\n"},
	        {0.1, "0.1\n"},
	        {1.0 / 3, "0.3333333333333333\n"},
	        {0.1 + 0.2, "0.30000000000000004\n"},
	        {5e-324, "4.94065645841247e-324\n"},
	        {NAN, "null\n"},
	        {-INFINITY, "null\n"},
	};

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(v); i++) {
		cJSON *node = cJSON_CreateNumber(v[i].d);

		assert_prints(node, L7MP_JSON_PLAIN, v[i].text);
		cJSON_Delete(node);
	}
}

static void briefs(void **state)
{
	cJSON *node = parse("{\"a\":[1,2,3],\"b\":\"\xc3\xa9\xc3\xa9\xc3\xa9\"}");
	char buf[64], tiny[8];

	(void)state;
	assert_string_equal(l7mp_json_brief(node, buf, sizeof(buf)),
	                    "{\"a\": [1, 2, 3], \"b\": \"\xc3\xa9\xc3\xa9\xc3\xa9\"}");
	assert_string_equal(l7mp_json_brief(node, buf, 16), "{\"a\": [1, 2,...");
	/* Never half a character. */
	assert_string_equal(l7mp_json_brief(l7mp_json_member(node, "b"), tiny, sizeof(tiny)),
	                    "\"\xc3\xa9...");
	assert_string_equal(l7mp_json_brief(NULL, buf, sizeof(buf)), "nothing");
	assert_string_equal(l7mp_json_brief(node, buf, 1), "");
	assert_string_equal(l7mp_json_brief(node, buf, 3), "..");
	cJSON_Delete(node);
}

/* ---- equality, accessors ---- */

static bool equal(const char *x, const char *y)
{
	cJSON *a = parse(x), *b = parse(y);
	bool result = l7mp_json_equal(a, b);

	assert_int_equal(result, l7mp_json_equal(b, a));
	cJSON_Delete(a);
	cJSON_Delete(b);
	return result;
}

static void equality(void **state)
{
	struct l7mp_str up = {0}, down = {0};

	(void)state;
	assert_true(
	        equal("{\"a\":1,\"b\":[1,{\"c\":null}]}", "{\"b\":[1,{\"c\":null}],\"a\":1.0}"));
	assert_false(equal("[1,2]", "[2,1]"));
	assert_false(equal("[1]", "[1,1]"));
	assert_false(equal("{\"a\":1}", "{\"A\":1}"));
	assert_false(equal("{\"a\":1}", "{\"a\":1,\"b\":1}"));
	assert_false(equal("{\"a\":1,\"c\":1}", "{\"a\":1,\"b\":1}"));
	assert_false(equal("1", "\"1\""));
	assert_false(equal("true", "false"));
	assert_false(equal("null", "false"));
	assert_true(equal("\"x\"", "\"x\""));
	assert_false(equal("1", "1.0000000001"));
	assert_true(l7mp_json_equal(NULL, NULL));
	/* Large objects in opposite order: linear (quadratic would take minutes). */
	for (int i = 0; i < 100000; i++) {
		l7mp_str_addf(&up, "%s\"key%d\":%d", i ? "," : "{", i, i);
		l7mp_str_addf(&down, "%s\"key%d\":%d", i ? "," : "{", 99999 - i, 99999 - i);
	}
	l7mp_str_add(&up, "}");
	l7mp_str_add(&down, "}");
	assert_true(equal(up.s, down.s));
	l7mp_str_free(&up);
	l7mp_str_free(&down);
}

static void accessors(void **state)
{
	cJSON *o = cJSON_CreateObject();

	(void)state;
	assert_int_equal(l7mp_json_add_str(o, "s", "text"), 0);
	assert_int_equal(l7mp_json_add_str(o, "none", NULL), 0);
	assert_int_equal(l7mp_json_add_num(o, "n", 2.5), 0);
	assert_int_equal(l7mp_json_add_bool(o, "t", true), 0);
	assert_int_equal(l7mp_json_add(o, "o", cJSON_CreateObject()), 0);
	assert_int_equal(l7mp_json_add(o, "x", NULL), -ENOMEM);
	assert_int_equal(l7mp_json_add(NULL, "x", cJSON_CreateNull()), -ENOMEM);
	assert_string_equal(l7mp_json_str(o, "s", "f"), "text");
	assert_string_equal(l7mp_json_str(o, "S", "f"), "f");
	assert_string_equal(l7mp_json_str(o, "n", "f"), "f");
	assert_true(l7mp_json_num(o, "n", 1) == 2.5);
	assert_true(l7mp_json_num(o, "s", 1) == 1);
	assert_true(l7mp_json_bool(o, "t", false));
	assert_true(l7mp_json_bool(o, "n", true));
	assert_null(l7mp_json_member(l7mp_json_member(o, "s"), "x"));
	assert_null(l7mp_json_member(NULL, "x"));
	assert_string_equal(l7mp_json_type(l7mp_json_member(o, "none")), "null");
	assert_string_equal(l7mp_json_type(l7mp_json_member(o, "t")), "boolean");
	assert_string_equal(l7mp_json_type(l7mp_json_member(o, "n")), "number");
	assert_string_equal(l7mp_json_type(l7mp_json_member(o, "s")), "string");
	assert_string_equal(l7mp_json_type(o), "object");
	assert_string_equal(l7mp_json_type(NULL), "undefined");
	cJSON_Delete(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(pointer_get),
	        cmocka_unit_test(pointer_validity),
	        cmocka_unit_test(pointer_set),
	        cmocka_unit_test(pointer_set_keeps_names_straight),
	        cmocka_unit_test(formats),
	        cmocka_unit_test(terse_quotes_what_yaml_would_misread),
	        cmocka_unit_test(strings_are_always_json),
	        cmocka_unit_test(numbers),
	        cmocka_unit_test(briefs),
	        cmocka_unit_test(equality),
	        cmocka_unit_test(accessors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
