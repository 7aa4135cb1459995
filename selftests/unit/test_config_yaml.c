/* SPDX-License-Identifier: MIT */
/* YAML and JSON documents: what scalars mean, lines, bounds, and printing. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "l7mp/config.h"
#include "l7mp/util.h"

static struct l7mp_document *parse(enum l7mp_syntax syntax, const char *text)
{
	struct l7mp_document *d = NULL;
	struct l7mp_error err = {0};

	if (l7mp_document_parse(syntax, text, strlen(text), &d, &err))
		fail_msg("refused at line %d: %s\n%s", err.line, err.message, text);
	return d;
}

static cJSON *json(const char *text)
{
	cJSON *node = cJSON_Parse(text);

	if (!node)
		fail_msg("bad JSON in the test: %s", text);
	return node;
}

/* The YAML text is the JSON text's tree. */
static void same(const char *yaml, const char *text)
{
	struct l7mp_document *d = parse(L7MP_SYNTAX_YAML, yaml);
	cJSON *want = json(text);

	if (!l7mp_json_equal(l7mp_document_root(d), want)) {
		char *got = cJSON_PrintUnformatted(l7mp_document_root(d));

		fail_msg("%s\nis %s, expected %s", yaml, got, text);
	}
	cJSON_Delete(want);
	l7mp_document_free(&d);
	assert_null(d);
}

static void refused_n(enum l7mp_syntax syntax, const char *text, size_t len, int line,
                      const char *message)
{
	struct l7mp_document *d = NULL;
	struct l7mp_error err = {0};

	if (!l7mp_document_parse(syntax, text, len, &d, &err))
		fail_msg("accepted: %.200s", text);
	assert_null(d);
	assert_int_equal(err.code, L7MP_ERR_PARSE);
	if (line >= 0 && err.line != line)
		fail_msg("%.200s\nline %d, expected %d (%s)", text, err.line, line, err.message);
	if (!strstr(err.message, message))
		fail_msg("%.200s\n\"%s\" lacks \"%s\"", text, err.message, message);
}

static void refused(const char *text, int line, const char *message)
{
	refused_n(L7MP_SYNTAX_YAML, text, strlen(text), line, message);
}

/* ---- what scalars mean ---- */

static void test_scalars(void **state)
{
	(void)state;
	same("", "null");
	same("# only a comment\n", "null");
	same("---\n", "null");
	same("~", "null");
	same("a:\nb: null\nc: Null\nd: ~", "{\"a\":null,\"b\":null,\"c\":null,\"d\":null}");
	same("[true, True, TRUE, false, False, FALSE]", "[true,true,true,false,false,false]");
	/* YAML 1.1's booleans, sexagesimals and dates are strings. */
	same("[yes, no, on, off, y, n, tRUE, 1:30, 2020-01-01, 1_000, nUll]",
	     "[\"yes\",\"no\",\"on\",\"off\",\"y\",\"n\",\"tRUE\",\"1:30\",\"2020-01-01\",\"1_"
	     "000\","
	     "\"nUll\"]");
	same("[0, 7, -7, +7, 010, 0o10, 0x1F, 0xff]", "[0,7,-7,7,10,8,31,255]");
	same("[1.5, -.5, 1., 1e3, 1E+3, 1.5e-3, +1.5]", "[1.5,-0.5,1,1000,1000,0.0015,1.5]");
	same("[0x, 0o8, 1e, 1e+, '.', '-', '+', 0xg, 1.2.3, .e1, -0x1f]",
	     "[\"0x\",\"0o8\",\"1e\",\"1e+\",\".\",\"-\",\"+\",\"0xg\",\"1.2.3\",\".e1\",\"-"
	     "0x1f\"]");
	same("['1', \"true\", '', \"a\\nb\\u00e9\"]", "[\"1\",\"true\",\"\",\"a\\nb\\u00e9\"]");
	same("a: |\n  one\n  two\nb: >-\n  one\n  two\nc: |\n  5\n",
	     "{\"a\":\"one\\ntwo\\n\",\"b\":\"one two\",\"c\":\"5\\n\"}");
	same("1: a\ntrue: b\n1.5: c\n", "{\"1\":\"a\",\"true\":\"b\",\"1.5\":\"c\"}");
}

static void test_big_numbers(void **state)
{
	(void)state;
	same("[9007199254740991, -9007199254740992, 9007199254740992]",
	     "[9007199254740991,-9007199254740992,9007199254740992]");
	/* No digit is lost: beyond 2^53 an integer has to be written as text. */
	refused("a: 9007199254740993", 1, "beyond 2^53");
	refused("a: 18446744073709551616", 1, "beyond 2^53");
	refused("a: 0x20000000000001", 1, "beyond 2^53");
	same("['9007199254740993', \"18446744073709551616\"]",
	     "[\"9007199254740993\",\"18446744073709551616\"]");
	same("[1e300]", "[1e300]");
	refused("a: 1\nb: .inf", 2, "expected a finite number");
	refused("a: -.Inf", 1, "expected a finite number");
	refused("a: .nan", 1, "expected a finite number");
	refused("a: 1e999", 1, "out of range");
}

static void test_tags(void **state)
{
	(void)state;
	same("[!!str 5, !!int 5, !!float 5, !!bool true, !!null ~, ! 5]",
	     "[\"5\",5,5,true,null,\"5\"]");
	same("!!map {a: !!seq [1]}", "{\"a\":[1]}");
	refused("a: !!int x", 1, "tag");
	refused("a: !custom x", 1, "tag");
	refused("a: !!python/object {}", 1, "tag");
	refused("- !!set {a, b}", 1, "tag");
}

static void test_structure(void **state)
{
	(void)state;
	same("cluster:\n  name: ws-cluster\n  spec: { protocol: \"WebSocket\", port: 16000 }\n"
	     "  endpoints:\n    - spec: { address:  \"127.0.0.1\" }\n",
	     "{\"cluster\":{\"name\":\"ws-cluster\",\"spec\":{\"protocol\":\"WebSocket\",\"port\":"
	     "16000},"
	     "\"endpoints\":[{\"spec\":{\"address\":\"127.0.0.1\"}}]}}");
	same("- - 1\n  - 2\n- []\n- {}\n-\n", "[[1,2],[],{},null]");
	same("{\"a\": [1, \"b\", null], \"c\": {\"d\": true}}",
	     "{\"a\":[1,\"b\",null],\"c\":{\"d\":true}}");
	same("%YAML 1.2\n---\na: 1\n...\n", "{\"a\":1}");
	same("\xef\xbb\xbf"
	     "a: 1",
	     "{\"a\":1}");
	same("a: 1\r\nb: 2\r\n", "{\"a\":1,\"b\":2}");
}

/* ---- anchors, aliases, merge keys ---- */

static void test_aliases(void **state)
{
	(void)state;
	same("a: &x {k: [1]}\nb: *x\nc: [*x, *x]",
	     "{\"a\":{\"k\":[1]},\"b\":{\"k\":[1]},\"c\":[{\"k\":[1]},{\"k\":[1]}]}");
	same("a: &x 1\nb: &x 2\nc: *x", "{\"a\":1,\"b\":2,\"c\":2}");
	refused("a: *x", 1, "alias");
	refused("a: &x\n  - *x", 2, "inside of the node that it refers to");
}

static void test_merge(void **state)
{
	(void)state;
	same("base: &b {a: 1, b: 2}\nx:\n  <<: *b\n  b: 3\n",
	     "{\"base\":{\"a\":1,\"b\":2},\"x\":{\"b\":3,\"a\":1}}");
	/*
	 * What the mapping says itself goes first, wherever it stands; then the first of the list.
	 */
	same("- &p {a: 1}\n- &q {a: 2, b: 2}\n- {b: 9, <<: [*p, *q], c: 3}\n",
	     "[{\"a\":1},{\"a\":2,\"b\":2},{\"b\":9,\"c\":3,\"a\":1}]");
	same("a: {<<: {x: 1}}", "{\"a\":{\"x\":1}}");
	same("a: {<<: &m {x: 1}}\nb: *m", "{\"a\":{\"x\":1},\"b\":{\"x\":1}}");
	same("a: {'<<': 1}", "{\"a\":{\"<<\":1}}");
	refused("a: {<<: 5}", 1, "merge key");
	refused("a: {<<: [{}, 5]}", 1, "merge key");
	refused("x: &x {}\na: {<<: *x, <<: *x}", 2, "duplicate key \"<<\"");
}

static void test_laughs(void **state)
{
	struct l7mp_str text = {0};

	(void)state;
	/* 9^9 strings. */
	l7mp_str_add(&text, "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
	for (int i = 1; i < 10; i++) {
		l7mp_str_addf(&text, "a%d: &a%d [", i, i);
		for (int j = 0; j < 9; j++)
			l7mp_str_addf(&text, "%s*a%d", j ? ", " : "", i - 1);
		l7mp_str_add(&text, "]\n");
	}
	refused(text.s, -1, "aliases expand to too much");
	l7mp_str_free(&text);
	/* Few nodes, but a long text again and again. */
	l7mp_str_add(&text, "- &a ");
	for (int i = 0; i < 100000; i++)
		l7mp_str_add(&text, "x123456789");
	l7mp_str_add(&text, "\n");
	for (int i = 0; i < 100; i++)
		l7mp_str_add(&text, "- *a\n");
	refused(text.s, -1, "aliases expand to too much");
	l7mp_str_free(&text);
	/* Each level merges the one before it, which adds nothing; that is fine. */
	l7mp_str_add(&text, "a0: &a0 {k: 1}\n");
	for (int i = 1; i < 50; i++)
		l7mp_str_addf(&text, "a%d: &a%d {<<: [*a%d, *a%d]}\n", i, i, i - 1, i - 1);
	l7mp_document_free(&(struct l7mp_document *){parse(L7MP_SYNTAX_YAML, text.s)});
	l7mp_str_free(&text);
}

/* ---- what is refused ---- */

static void test_refused(void **state)
{
	(void)state;
	refused("a: 1\nb: 2\na: 3\n", 3, "duplicate key \"a\"");
	refused("x:\n  - {a: 1, \"a\": 2}\n", 2, "duplicate key \"a\"");
	refused("a: 1\n---\nb: 2\n", 2, "second document");
	refused("a:\n\tb: 1\n", 2, "");
	refused("a: [1, 2\n", -1, "");
	refused("a: b: c\n", 1, "mapping values are not allowed");
	refused("a: 'x\n", -1, "");
	refused("? [1]\n: 2\n", 1, "key that is not a scalar");
	refused("? {a: 1}\n: 2\n", 1, "key that is not a scalar");
	refused("a: \"x\\0y\"", 1, "NUL");
	refused("\"x\\0y\": 1", 1, "NUL");
	refused_n(L7MP_SYNTAX_YAML, "a: \x00 b", 6, -1, "");
	refused("a: \xff\xfe", -1, "");
	refused("a: \x01", -1, "");
	refused("%TAG ! x", -1, "");
	refused("- a\nb: 1", -1, "");
	refused("}", 1, "");
}

static void test_depth(void **state)
{
	char text[400];

	(void)state;
	memset(text, '[', 128);
	memset(text + 128, ']', 128);
	text[256] = 0;
	l7mp_document_free(&(struct l7mp_document *){parse(L7MP_SYNTAX_YAML, text)});
	memset(text, '[', 129);
	memset(text + 129, ']', 129);
	text[258] = 0;
	refused(text, 1, "nested too deep");
	/* Also when an alias brings the depth. */
	memset(text, 0, sizeof(text));
	strcpy(text, "- &a ");
	memset(text + 5, '[', 100);
	memset(text + 105, ']', 100);
	strcat(text, "\n- ");
	memset(text + strlen(text), '[', 40);
	strcat(text, "*a");
	memset(text + strlen(text), ']', 40);
	refused(text, 2, "128 levels");
}

static void test_large(void **state)
{
	struct l7mp_str text = {0};
	struct l7mp_document *d;

	(void)state;
	/* Linear: 50,000 keys in one mapping. */
	for (int i = 0; i < 50000; i++)
		l7mp_str_addf(&text, "key%d: %d\n", i, i);
	d = parse(L7MP_SYNTAX_YAML, text.s);
	assert_int_equal(cJSON_GetArraySize(l7mp_document_root(d)), 50000);
	l7mp_document_free(&d);
	l7mp_str_free(&text);
}

/* ---- lines ---- */

static int line_at(struct l7mp_document *d, const char *pointer)
{
	cJSON *node = l7mp_json_get(l7mp_document_root(d), pointer);

	assert_non_null(node);
	return l7mp_document_line(d, node);
}

static void test_yaml_lines(void **state)
{
	struct l7mp_document *d = parse(L7MP_SYNTAX_YAML, "# comment\n"         /* 1 */
	                                                  "listeners:\n"        /* 2 */
	                                                  "  - name: l\n"       /* 3 */
	                                                  "    spec:\n"         /* 4 */
	                                                  "      port: 99999\n" /* 5 */
	                                                  "    x: &a\n"         /* 6 */
	                                                  "      y: 1\n"        /* 7 */
	                                                  "  - *a\n"            /* 8 */
	                                                  "  - {<<: *a, z: 2}\n" /* 9 */);
	cJSON other = {0};

	(void)state;
	assert_int_equal(line_at(d, "/listeners"), 2);
	assert_int_equal(line_at(d, "/listeners/0"), 3);
	assert_int_equal(line_at(d, "/listeners/0/name"), 3);
	assert_int_equal(line_at(d, "/listeners/0/spec"), 4);
	assert_int_equal(line_at(d, "/listeners/0/spec/port"), 5);
	assert_int_equal(line_at(d, "/listeners/0/x"), 6);
	assert_int_equal(line_at(d, "/listeners/0/x/y"), 7);
	assert_int_equal(line_at(d, "/listeners/1/y"), 8);
	assert_int_equal(line_at(d, "/listeners/2/y"), 9);
	assert_int_equal(line_at(d, "/listeners/2/z"), 9);
	assert_int_equal(l7mp_document_line(d, &other), 0);
	assert_int_equal(l7mp_document_line(d, NULL), 0);
	l7mp_document_free(&d);
}

static void test_json_lines(void **state)
{
	struct l7mp_document *d =
	        parse(L7MP_SYNTAX_JSON,
	              "{\n  \"a\": [\n    1,\n    {\"b\":\n 2}\n  ],\n  \"c\": null\n}\n");

	(void)state;
	assert_int_equal(line_at(d, ""), 1);
	assert_int_equal(line_at(d, "/a"), 2);
	assert_int_equal(line_at(d, "/a/0"), 3);
	assert_int_equal(line_at(d, "/a/1/b"), 4);
	assert_int_equal(line_at(d, "/c"), 7);
	l7mp_document_free(&d);
	refused_n(L7MP_SYNTAX_JSON, "{\n\"a\": tru\n}", 12, 2, "");
	refused_n(L7MP_SYNTAX_JSON, "", 0, -1, "");
	refused_n(L7MP_SYNTAX_JSON, "{} x", 4, 1, "");
}

/* ---- files ---- */

static void write_temp(char *path, int suffix, const char *text)
{
	int fd = mkstemps(path, suffix);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void test_load(void **state)
{
	char yaml[] = "/tmp/l7mp-test-XXXXXX.yml", plain[] = "/tmp/l7mp-test-XXXXXX.conf";
	struct l7mp_document *d = NULL;
	struct l7mp_error err = {0};

	(void)state;
	write_temp(yaml, 4, "a: [1\nb: 2");
	assert_int_equal(l7mp_document_load(yaml, &d, &err), -EINVAL);
	assert_int_equal(err.line, 2);
	assert_non_null(strstr(err.message, yaml));
	unlink(yaml);
	/* Any other suffix: JSON. */
	write_temp(plain, 5, "{\"a\": 1}");
	assert_int_equal(l7mp_document_load(plain, &d, &err), 0);
	assert_true(l7mp_json_num(l7mp_document_root(d), "a", 0) == 1);
	l7mp_document_free(&d);
	unlink(plain);
	assert_int_equal(l7mp_document_load("/nonexistent/x.yaml", &d, &err), -ENOENT);
	assert_non_null(strstr(err.message, "/nonexistent/x.yaml: can't be read: No such file"));
	assert_null(d);
}

/* ---- printing ---- */

static void round_trip(const char *text)
{
	cJSON *node = json(text);
	char *yaml = l7mp_yaml_print(node);
	struct l7mp_document *d;

	assert_non_null(yaml);
	d = parse(L7MP_SYNTAX_YAML, yaml);
	if (!l7mp_json_equal(l7mp_document_root(d), node))
		fail_msg("%s\nwas printed as\n%s", text, yaml);
	l7mp_document_free(&d);
	free(yaml);
	cJSON_Delete(node);
}

static void test_print(void **state)
{
	cJSON *node = json(
	        "{\"name\":\"ws-cluster\",\"spec\":{\"protocol\":\"WebSocket\",\"port\":16000},"
	        "\"endpoints\":[{\"spec\":{\"address\":\"127.0.0.1\"}},\"x\",[1,[2]]],"
	        "\"none\":[],\"text\":\"yes\",\"n\":null}");
	char *yaml = l7mp_yaml_print(node);

	(void)state;
	assert_string_equal(yaml, "name: ws-cluster\n"
	                          "spec:\n"
	                          "  protocol: WebSocket\n"
	                          "  port: 16000\n"
	                          "endpoints:\n"
	                          "  - spec:\n"
	                          "      address: \"127.0.0.1\"\n"
	                          "  - x\n"
	                          "  - - 1\n"
	                          "    - - 2\n"
	                          "none: []\n"
	                          "text: \"yes\"\n"
	                          "\"n\": null\n");
	free(yaml);
	cJSON_Delete(node);
}

static void test_round_trips(void **state)
{
	static const char *const texts[] = {
	        "null",
	        "true",
	        "5",
	        "-0.25",
	        "\"\"",
	        "[]",
	        "{}",
	        "[[],{},[[]]]",
	        "1e300",
	        "1e-7",
	        "9007199254740992",
	        "9007199254740994.0",
	        "1152921504606846976",
	        "\"a: b\"",
	        "\"a #b\"",
	        "\"#a\"",
	        "\"- a\"",
	        "\"key:\"",
	        "\" a\"",
	        "\"a \"",
	        "\"a\\nb\"",
	        "\"\\u0001\\u007f\\u0085\\u2028\\ufeff\"",
	        "\"\\\"quoted\\\" \\\\ /\"",
	        "\"*a\"",
	        "\"&a\"",
	        "\"!a\"",
	        "\"%a\"",
	        "\"@a\"",
	        "\"`a\"",
	        "\"{a\"",
	        "\"a, b\"",
	        "\"|\"",
	        "\">\"",
	        "\"?\"",
	        "\"? a\"",
	        "\"<<\"",
	        "\"=\"",
	        "\"~\"",
	        "\"null\"",
	        "\"True\"",
	        "\"0x1F\"",
	        "\"1e3\"",
	        "\".inf\"",
	        "\"1:30\"",
	        "\"2020-01-01\"",
	        "\"---\"",
	        "\"...\"",
	        "\"on\"",
	        "\"\\u00e9\\ud83d\\ude00\"",
	        "\"\\ud8ff\\udfff \\ufffe \\ufeff\"",
	        "\"9007199254740993\"",
	        "{\"\":1,\"a b\":2,\"1\":3,\"true\":4,\"<<\":5,\"a: b\":6,\"#\":7}",
	        "[{\"a\":[{\"b\":{\"c\":[1,{\"d\":[]}]}}]},[[[{\"x\":1,\"y\":[2]}]]]]",
	        "{\"a\":{\"b\":{}},\"c\":[{}],\"d\":[null,\"\"]}",
	};

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(texts); i++)
		round_trip(texts[i]);
}

static void test_long_keys(void **state)
{
	cJSON *o = cJSON_CreateObject(), *list = cJSON_CreateArray();
	char key[3001], *text;

	(void)state;
	memset(key, 'k', sizeof(key) - 1);
	key[sizeof(key) - 1] = 0;
	for (size_t n = 150; n <= 3000; n += 950) {
		key[n] = 0;
		l7mp_json_add(o, key, cJSON_Parse("{\"a\":[1,{\"b\":2}]}"));
		key[n] = 'k';
	}
	cJSON_AddItemToArray(list, o);
	text = cJSON_PrintUnformatted(list);
	round_trip(text);
	free(text);
	cJSON_Delete(list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_scalars),     cmocka_unit_test(test_big_numbers),
	        cmocka_unit_test(test_tags),        cmocka_unit_test(test_structure),
	        cmocka_unit_test(test_aliases),     cmocka_unit_test(test_merge),
	        cmocka_unit_test(test_laughs),      cmocka_unit_test(test_refused),
	        cmocka_unit_test(test_depth),       cmocka_unit_test(test_large),
	        cmocka_unit_test(test_yaml_lines),  cmocka_unit_test(test_json_lines),
	        cmocka_unit_test(test_load),        cmocka_unit_test(test_print),
	        cmocka_unit_test(test_round_trips), cmocka_unit_test(test_long_keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
