/* SPDX-License-Identifier: MIT */
/* JSON predicates: each operator of draft-snell-json-test-07, its errors, and its bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "l7mp/predicate.h"
#include "l7mp/util.h"

static const char doc_text[] = "{\"num\":1,\"half\":0.5,\"null\":null,\"yes\":true,\"A\":\"A\","
                               "\"ABC\":\"ABC\",\"mixed\":\"AbC_123\","
                               "\"greek\":\"\\u03a3\\u03af\\u03c3\\u03c5\\u03c6\\u03bf\\u03c2\","
                               "\"list\":[\"a\",{\"foo\":\"b\"},3],"
                               "\"obj\":{\"num\":2,\"s\":\"XYZ\",\"in\":{\"n\":3}},\"a/"
                               "b\":{\"~\":1},\"lines\":\"one\\ntwo\","
                               "\"port\":15001}";
static struct l7mp_effort effort; /* of the last evaluation */
static cJSON *doc;

static int setup(void **state)
{
	(void)state;
	doc = cJSON_Parse(doc_text);
	return doc ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	cJSON_Delete(doc);
	return 0;
}

static bool eval(const char *text)
{
	cJSON *match = cJSON_Parse(text);
	struct l7mp_predicate *p = NULL;
	struct l7mp_issues is;
	bool result;
	int rc;

	if (!match)
		fail_msg("bad test predicate: %s", text);
	l7mp_issues_init(&is, true);
	rc = l7mp_predicate_compile(match, "match", &is, &p);
	if (rc)
		fail_msg("%s: %s: %s", text, is.n ? is.v[0].path : "", is.n ? is.v[0].reason : "");
	assert_int_equal(is.n, 0);
	cJSON_Delete(match); /* the predicate keeps nothing of it */
	effort = L7MP_EFFORT;
	result = l7mp_predicate_eval(p, doc, &effort);
	l7mp_predicate_free(&p);
	assert_null(p);
	l7mp_issues_clear(&is);
	return result;
}

static void yes(const char *text)
{
	if (!eval(text))
		fail_msg("expected true: %s", text);
}

static void no(const char *text)
{
	if (eval(text))
		fail_msg("expected false: %s", text);
}

static void refused(const char *text, const char *path, const char *reason)
{
	cJSON *match = cJSON_Parse(text);
	struct l7mp_predicate *p = NULL;
	struct l7mp_issues is;

	if (!match)
		fail_msg("bad test predicate: %s", text);
	l7mp_issues_init(&is, false);
	assert_int_equal(l7mp_predicate_compile(match, "match", &is, &p), -22);
	assert_null(p);
	assert_int_equal(is.errors, 1);
	assert_string_equal(is.v[0].path, path);
	if (!strstr(is.v[0].reason, reason))
		fail_msg("%s: \"%s\" lacks \"%s\"", text, is.v[0].reason, reason);
	l7mp_issues_clear(&is);
	cJSON_Delete(match);
}

static void test_all(void **state)
{
	(void)state;
	yes("\"*\"");
	yes("\"anything\"");
	yes("null");
	effort = L7MP_EFFORT;
	assert_true(l7mp_predicate_eval(NULL, doc, &effort));
}

static void test_contains(void **state)
{
	(void)state;
	yes("{\"op\":\"contains\",\"path\":\"/ABC\",\"value\":\"B\"}");
	yes("{\"op\":\"contains\",\"path\":\"ABC\",\"value\":\"\"}");
	no("{\"op\":\"contains\",\"path\":\"/ABC\",\"value\":\"b\"}");
	yes("{\"op\":\"contains-\",\"path\":\"/ABC\",\"value\":\"b\"}");
	yes("{\"op\":\"contains\",\"path\":\"/ABC\",\"value\":\"b\",\"ignore_case\":true}");
	no("{\"op\":\"contains\",\"path\":\"/ABC\",\"value\":\"b\",\"ignore_case\":false}");
	yes("{\"op\":\"contains-\",\"path\":\"/greek\",\"value\":\"\\u03c3\\u038a\\u03a3\"}");
}

static void test_contains_literal(void **state)
{
	(void)state;
	/* Nothing of a pattern in it, with and without case. */
	no("{\"op\":\"contains-\",\"path\":\"/ABC\",\"value\":\"a.c\"}");
	no("{\"op\":\"contains\",\"path\":\"/ABC\",\"value\":\"A.C\"}");
	no("{\"op\":\"contains\",\"path\":\"/list\",\"value\":\"a\"}");
	no("{\"op\":\"contains\",\"path\":\"/null\",\"value\":\"null\"}");
	no("{\"op\":\"contains\",\"path\":\"/none\",\"value\":\"\"}");
	/* The string representation of scalars. */
	yes("{\"op\":\"contains\",\"path\":\"/port\",\"value\":\"500\"}");
	yes("{\"op\":\"starts\",\"path\":\"/yes\",\"value\":\"tr\"}");
}

static void test_starts_ends(void **state)
{
	(void)state;
	yes("{\"op\":\"starts\",\"path\":\"/mixed\",\"value\":\"AbC\"}");
	no("{\"op\":\"starts\",\"path\":\"/mixed\",\"value\":\"bC\"}");
	no("{\"op\":\"starts\",\"path\":\"/mixed\",\"value\":\"abc\"}");
	yes("{\"op\":\"starts-\",\"path\":\"/mixed\",\"value\":\"abc\"}");
	no("{\"op\":\"starts-\",\"path\":\"/mixed\",\"value\":\"bc\"}");
	no("{\"op\":\"starts\",\"path\":\"/A\",\"value\":\"AA\"}");
	yes("{\"op\":\"ends\",\"path\":\"/mixed\",\"value\":\"_123\"}");
	no("{\"op\":\"ends\",\"path\":\"/mixed\",\"value\":\"_12\"}");
	no("{\"op\":\"ends\",\"path\":\"/mixed\",\"value\":\"c_123\"}");
	yes("{\"op\":\"ends-\",\"path\":\"/mixed\",\"value\":\"c_123\"}");
	no("{\"op\":\"ends-\",\"path\":\"/mixed\",\"value\":\"c_12\"}");
	no("{\"op\":\"ends\",\"path\":\"/none\",\"value\":\"x\"}");
}

static void test_defined(void **state)
{
	(void)state;
	yes("{\"op\":\"defined\",\"path\":\"/num\"}");
	yes("{\"op\":\"defined\",\"path\":\"/null\"}");
	yes("{\"op\":\"defined\"}");
	no("{\"op\":\"defined\",\"path\":\"/none/none\"}");
	yes("{\"op\":\"undefined\",\"path\":\"/none\"}");
	no("{\"op\":\"undefined\",\"path\":\"/null\"}");
	yes("{\"op\":\"defined\",\"path\":\"/a~1b/~0\"}");
	yes("{\"op\":\"defined\",\"path\":\"/list/1/foo\"}");
	no("{\"op\":\"defined\",\"path\":\"/list/3\"}");
	no("{\"op\":\"defined\",\"path\":\"/NUM\"}");
}

static void test_in_test(void **state)
{
	(void)state;
	yes("{\"op\":\"in\",\"path\":\"/num\",\"value\":[\"x\",1]}");
	no("{\"op\":\"in\",\"path\":\"/num\",\"value\":[\"1\",true]}");
	no("{\"op\":\"in\",\"path\":\"/num\",\"value\":[]}");
	yes("{\"op\":\"in\",\"path\":\"/"
	    "obj\",\"value\":[{\"in\":{\"n\":3},\"s\":\"XYZ\",\"num\":2}]}");
	no("{\"op\":\"in\",\"path\":\"/"
	   "obj\",\"value\":[{\"in\":{\"n\":3},\"s\":\"xyz\",\"num\":2}]}");
	yes("{\"op\":\"in-\",\"path\":\"/"
	    "obj\",\"value\":[{\"in\":{\"n\":3},\"s\":\"xyz\",\"num\":2}]}");
	no("{\"op\":\"in\",\"path\":\"/none\",\"value\":[null]}");
	yes("{\"op\":\"in\",\"path\":\"/null\",\"value\":[null]}");
	yes("{\"op\":\"test\",\"path\":\"/list\",\"value\":[\"a\",{\"foo\":\"b\"},3]}");
	no("{\"op\":\"test\",\"path\":\"/list\",\"value\":[\"a\",{\"foo\":\"b\"}]}");
	no("{\"op\":\"test-\",\"path\":\"/list\",\"value\":[\"a\",{\"foo\":\"b\"},3,4]}");
	yes("{\"op\":\"test-\",\"path\":\"/list\",\"value\":[\"A\",{\"foo\":\"B\"},3]}");
	no("{\"op\":\"test-\",\"path\":\"/list\",\"value\":[\"A\",{\"FOO\":\"B\"},3]}");
	no("{\"op\":\"test\",\"path\":\"/num\",\"value\":\"1\"}");
	yes("{\"op\":\"test\",\"path\":\"/num\",\"value\":1.0}");
	yes("{\"op\":\"test-\",\"path\":\"/"
	    "greek\",\"value\":\"\\u03c3\\u038a\\u03a3\\u03a5\\u03a6\\u039f\\u03a3\"}");
	no("{\"op\":\"test-\",\"path\":\"/"
	   "greek\",\"value\":\"\\u03c3\\u038a\\u03a3\\u03a5\\u03a6\\u039f\"}");
}

static void test_less_more(void **state)
{
	(void)state;
	yes("{\"op\":\"less\",\"path\":\"/num\",\"value\":1.5}");
	no("{\"op\":\"less\",\"path\":\"/num\",\"value\":1}");
	yes("{\"op\":\"more\",\"path\":\"/half\",\"value\":0}");
	no("{\"op\":\"more\",\"path\":\"/half\",\"value\":0.5}");
	no("{\"op\":\"less\",\"path\":\"/A\",\"value\":9}");
	no("{\"op\":\"less\",\"path\":\"/null\",\"value\":9}");
	no("{\"op\":\"more\",\"path\":\"/none\",\"value\":-9}");
}

static void test_matches(void **state)
{
	(void)state;
	/* Found anywhere, as Perl and the original do it; anchors make it the whole. */
	yes("{\"op\":\"matches\",\"path\":\"/ABC\",\"value\":\"[A-Z]+\"}");
	no("{\"op\":\"matches\",\"path\":\"/mixed\",\"value\":\"^[A-Z]*$\"}");
	yes("{\"op\":\"matches\",\"path\":\"/ABC\",\"value\":\"B\"}");
	no("{\"op\":\"matches\",\"path\":\"/ABC\",\"value\":\"^B\"}");
	no("{\"op\":\"matches\",\"path\":\"/ABC\",\"value\":\"B$\"}");
	yes("{\"op\":\"matches\",\"path\":\"/lines\",\"value\":\"(?m)^two$\"}");
	yes("{\"op\":\"matches\",\"path\":\"/ABC\",\"value\":\".*B.*\"}");
	yes("{\"op\":\"matches\",\"path\":\"/ABC\",\"value\":\"^ABC$\"}");
	yes("{\"op\":\"matches\",\"path\":\"/ABC\",\"value\":\"A|AB|ABC\"}");
	no("{\"op\":\"matches\",\"path\":\"/ABC\",\"value\":\"abc\"}");
	yes("{\"op\":\"matches-\",\"path\":\"/ABC\",\"value\":\"abc\"}");
	yes("{\"op\":\"matches\",\"path\":\"/ABC\",\"value\":\"abc\",\"ignore_case\":true}");
	yes("{\"op\":\"matches\",\"path\":\"/mixed\",\"value\":\"(?i)abc_(?<n>\\\\d+)\"}");
	yes("{\"op\":\"matches\",\"path\":\"/lines\",\"value\":\"(?s)one.*two\"}");
	yes("{\"op\":\"matches\",\"path\":\"/lines\",\"value\":\"one\"}");
	no("{\"op\":\"matches\",\"path\":\"/lines\",\"value\":\"^one$\"}");
	yes("{\"op\":\"matches\",\"path\":\"/port\",\"value\":\"15\\\\d{3}\"}");
	no("{\"op\":\"matches\",\"path\":\"/obj\",\"value\":\".*\"}");
	no("{\"op\":\"matches\",\"path\":\"/none\",\"value\":\".*\"}");
	yes("{\"op\":\"matches\",\"path\":\"/greek\",\"value\":\".{7}\"}");
}

static bool has_type(const char *json, const char *type)
{
	char *text = l7mp_asprintf("{\"op\":\"type\",\"path\":\"/v\",\"value\":\"%s\"}", type);
	char *holder = l7mp_asprintf("{\"v\":%s}", json);
	cJSON *saved = doc;
	bool r;

	doc = cJSON_Parse(holder);
	assert_non_null(doc);
	r = eval(text);
	cJSON_Delete(doc);
	doc = saved;
	free(holder);
	free(text);
	return r;
}

static void test_type_json(void **state)
{
	static const char *const pairs[][2] = {{"1", "number"},      {"\"\"", "string"},
	                                       {"false", "boolean"}, {"{}", "object"},
	                                       {"[]", "array"},      {"null", "null"}};

	(void)state;
	for (size_t i = 0; i < 6; i++)
		for (size_t j = 0; j < 6; j++)
			assert_int_equal(has_type(pairs[i][0], pairs[j][1]), i == j);
	yes("{\"op\":\"type\",\"path\":\"/none\",\"value\":\"undefined\"}");
	no("{\"op\":\"type\",\"path\":\"/null\",\"value\":\"undefined\"}");
	no("{\"op\":\"type\",\"path\":\"/none\",\"value\":\"null\"}");
}

struct text_case {
	const char *type, *text;
	bool is;
};

static void run_cases(const struct text_case *c, size_t n)
{
	for (; n; n--, c++) {
		char *json = l7mp_asprintf("\"%s\"", c->text);

		if (has_type(json, c->type) != c->is)
			fail_msg("\"%s\" is %sa %s", c->text, c->is ? "not " : "", c->type);
		free(json);
	}
	assert_false(has_type("1", c[-1].type));
}

static void test_type_time(void **state)
{
	static const struct text_case cases[] = {
	        {"date", "2024-02-29", true},
	        {"date", "2023-02-29", false},
	        {"date", "1900-02-29", false},
	        {"date", "2000-02-29", true},
	        {"date", "2024-13-01", false},
	        {"date", "2024-00-01", false},
	        {"date", "2024-04-31", false},
	        {"date", "2024-4-1", false},
	        {"date", "2024-04-01x", false},
	        {"date", "", false},
	        {"time", "10:10:10Z", true},
	        {"time", "10:10:10+05:30", true},
	        {"time", "23:59:60.123456Z", true},
	        {"time", "24:00:00Z", false},
	        {"time", "10:10:10", false},
	        {"time", "10:10:10.Z", false},
	        {"time", "10:10:10+24:00", false},
	        {"time", "10:10Z", false},
	        {"date-time", "2010-10-10T10:10:10Z", true},
	        {"date-time", "2010-10-10t10:10:10.5z", true},
	        {"date-time", "2010-10-10T10:10:10-05:30", true},
	        {"date-time", "2010-10-10 10:10:10Z", false},
	        {"date-time", "2010-10-10", false},
	};

	(void)state;
	run_cases(cases, L7MP_ARRAY_SIZE(cases));
}

static void test_type_lang(void **state)
{
	static const struct text_case cases[] = {
	        {"lang", "en", true},
	        {"lang", "en-US", true},
	        {"lang", "zh-Hant-TW", true},
	        {"lang", "zh-min-nan", true},
	        {"lang", "sl-rozaj-biske-1994", true},
	        {"lang", "de-CH-1901", true},
	        {"lang", "es-419", true},
	        {"lang", "en-a-bbb-x-a-ccc", true},
	        {"lang", "x-whatever", true},
	        {"lang", "i-klingon", true},
	        {"lang", "sgn-be-fr", true},
	        {"lang", "en-u-co-phonebk", true},
	        {"lang", "a-DE", false},
	        {"lang", "en-", false},
	        {"lang", "-en", false},
	        {"lang", "en--US", false},
	        {"lang", "en_US", false},
	        {"lang", "en-x", false},
	        {"lang", "en-u", false},
	        {"lang", "en-US-US", false},
	        {"lang", "123", false},
	        {"lang", "abcdefghi", false},
	        {"lang", "", false},
	        {"lang-range", "*", true},
	        {"lang-range", "en-US", true},
	        {"lang-range", "CH-*", true},
	        {"lang-range", "de-*-DE", true},
	        {"lang-range", "en-", false},
	        {"lang-range", "", false},
	        {"lang-range", "1en", false},
	        {"lang-range", "en-**", false},
	        {"lang-range", "abcdefghi", false},
	};

	(void)state;
	run_cases(cases, L7MP_ARRAY_SIZE(cases));
}

static void test_type_iri(void **state)
{
	static const struct text_case cases[] = {
	        {"absolute-iri", "https://example.org/a?b=c#d", true},
	        {"absolute-iri", "http://user:pw@[2001:db8::1]:80/", true},
	        {"absolute-iri", "http://[v1.x:y]/", true},
	        {"absolute-iri", "urn:a:b", true},
	        {"absolute-iri", "mailto:a@b", true},
	        {"absolute-iri", "http://r\\u00e9sum\\u00e9.example.org", true},
	        {"absolute-iri", "a:", true},
	        {"absolute-iri", "/a/b", false},
	        {"absolute-iri", "//host/a", false},
	        {"absolute-iri", "http://a b/", false},
	        {"absolute-iri", "http://a/%zz", false},
	        {"absolute-iri", "http://a/%4", false},
	        {"absolute-iri", "http://[::1/", false},
	        {"absolute-iri", "http://[::1]x/", false},
	        {"absolute-iri", "http://[zz]/", false},
	        {"absolute-iri", "http://a:8x/", false},
	        {"absolute-iri", "http://a/[", false},
	        {"absolute-iri", "http://a/#a#b", false},
	        {"absolute-iri", "1a://b", false},
	        {"absolute-iri", "http://a/\\u0085", false},
	        {"absolute-iri", "", false},
	        {"iri", "", true},
	        {"iri", "a/b", true},
	        {"iri", "../a?b", true},
	        {"iri", "//host", true},
	        {"iri", "#f", true},
	        {"iri", "urn:x", true},
	        {"iri", "./a:b", true},
	        {"iri", "1a:b", false},
	        {"iri", "a b", false},
	        {"iri", "<a>", false},
	};

	(void)state;
	run_cases(cases, L7MP_ARRAY_SIZE(cases));
}

static void test_second_order(void **state)
{
	(void)state;
	yes("{\"op\":\"and\",\"apply\":[{\"op\":\"defined\",\"path\":\"/"
	    "A\"},{\"op\":\"defined\",\"path\":\"/num\"}]}");
	no("{\"op\":\"and\",\"apply\":[{\"op\":\"defined\",\"path\":\"/"
	   "A\"},{\"op\":\"defined\",\"path\":\"/x\"}]}");
	yes("{\"op\":\"or\",\"apply\":[{\"op\":\"defined\",\"path\":\"/"
	    "x\"},{\"op\":\"defined\",\"path\":\"/A\"}]}");
	no("{\"op\":\"or\",\"apply\":[{\"op\":\"defined\",\"path\":\"/"
	   "x\"},{\"op\":\"defined\",\"path\":\"/y\"}]}");
	/* not: none of them. */
	yes("{\"op\":\"not\",\"apply\":[{\"op\":\"defined\",\"path\":\"/"
	    "x\"},{\"op\":\"defined\",\"path\":\"/y\"}]}");
	no("{\"op\":\"not\",\"apply\":[{\"op\":\"defined\",\"path\":\"/"
	   "x\"},{\"op\":\"defined\",\"path\":\"/A\"}]}");
	no("{\"op\":\"not\",\"apply\":[{\"op\":\"defined\",\"path\":\"/A\"}]}");
}

static void test_apply_path(void **state)
{
	(void)state;
	yes("{\"op\":\"and\",\"path\":\"/obj\",\"apply\":[{\"op\":\"type\",\"path\":\"/"
	    "num\",\"value\":\"number\"},"
	    "{\"op\":\"test\",\"path\":\"in/n\",\"value\":3}]}");
	yes("{\"op\":\"and\",\"path\":\"/obj/s\",\"apply\":[{\"op\":\"type\",\"value\":\"string\"},"
	    "{\"op\":\"contains\",\"value\":\"Y\"}]}");
	yes("{\"op\":\"or\",\"path\":\"/obj\",\"apply\":[{\"op\":\"not\",\"path\":\"/"
	    "in\",\"apply\":[{\"op\":\"less\","
	    "\"path\":\"/n\",\"value\":3}]}]}");
	no("{\"op\":\"and\",\"path\":\"/obj\",\"apply\":[{\"op\":\"defined\",\"path\":\"/obj/"
	   "num\"}]}");
	/* Below something that isn't there everything is undefined. */
	yes("{\"op\":\"and\",\"path\":\"/"
	    "none\",\"apply\":[{\"op\":\"undefined\"},{\"op\":\"undefined\",\"path\":\"/num\"},"
	    "{\"op\":\"type\",\"value\":\"undefined\"}]}");
	no("{\"op\":\"or\",\"path\":\"/"
	   "none\",\"apply\":[{\"op\":\"defined\",\"path\":\"\"},{\"op\":\"in\",\"value\":[null]}]"
	   "}");
}

static void test_refused(void **state)
{
	(void)state;
	refused("5", "match", "expected a predicate object, got 5");
	refused("[]", "match", "expected a predicate object");
	refused("{}", "match.op", "expected one of and, or, not, contains");
	refused("{\"op\":\"Test\",\"value\":1}", "match.op", "got \"Test\"");
	refused("{\"op\":\"-\",\"value\":1}", "match.op", "got \"-\"");
	refused("{\"op\":\"less-\",\"value\":1}", "match.op", "got \"less-\"");
	refused("{\"op\":3}", "match.op", "got 3");
	refused("{\"op\":\"defined\",\"path\":3}", "match.path", "expected a JSON pointer, got 3");
	refused("{\"op\":\"defined\",\"path\":\"/~\"}", "match.path", "expected a JSON pointer");
	refused("{\"op\":\"less\",\"value\":\"1\"}", "match.value", "expected a number, got \"1\"");
	refused("{\"op\":\"less\"}", "match.value", "expected a number, got nothing");
	refused("{\"op\":\"in\",\"value\":\"a\"}", "match.value", "expected an array");
	refused("{\"op\":\"test\"}", "match.value", "expected any value");
	refused("{\"op\":\"contains\",\"value\":1}", "match.value", "expected a string");
	refused("{\"op\":\"type\",\"value\":\"int\"}", "match.value",
	        "expected one of number, string");
	refused("{\"op\":\"matches\",\"value\":\"a(b\"}", "match.value",
	        "a regular expression (missing closing parenthesis at offset 3)");
	refused("{\"op\":\"matches\",\"value\":\"\\\\Ca\"}", "match.value", "a regular expression");
	refused("{\"op\":\"contains\",\"value\":\"a\",\"ignore_case\":1}", "match.ignore_case",
	        "expected true or false");
	refused("{\"op\":\"and\"}", "match.apply", "at least one predicate, got nothing");
	refused("{\"op\":\"or\",\"apply\":[]}", "match.apply", "at least one predicate");
	refused("{\"op\":\"not\",\"apply\":[{\"op\":\"and\",\"apply\":[{\"op\":\"x\"}]}]}",
	        "match.apply[0].apply[0].op", "got \"x\"");
}

static void test_unknown_keys(void **state)
{
	cJSON *match = cJSON_Parse("{\"op\":\"defined\",\"path\":\"/A\",\"vlaue\":1}");
	struct l7mp_predicate *p = NULL;
	struct l7mp_issues is;

	(void)state;
	l7mp_issues_init(&is, false);
	assert_int_equal(l7mp_predicate_compile(match, "match", &is, &p), 0);
	assert_int_equal(is.n, 1);
	assert_true(is.v[0].warning);
	assert_string_equal(is.v[0].path, "match.vlaue");
	l7mp_predicate_free(&p);
	l7mp_issues_clear(&is);
	l7mp_issues_init(&is, true);
	assert_int_equal(l7mp_predicate_compile(match, "match", &is, &p), -22);
	assert_null(p);
	l7mp_issues_clear(&is);
	cJSON_Delete(match);
}

static int compile_nested(int depth)
{
	cJSON *match = cJSON_Parse("{\"op\":\"defined\",\"path\":\"/A\"}");
	struct l7mp_predicate *p = NULL;
	struct l7mp_issues is;
	int rc;

	for (int i = 1; i < depth; i++) {
		cJSON *outer = cJSON_Parse("{\"op\":\"or\",\"apply\":[]}");

		cJSON_AddItemToArray(l7mp_json_member(outer, "apply"), match);
		match = outer;
	}
	l7mp_issues_init(&is, false);
	rc = l7mp_predicate_compile(match, "match", &is, &p);
	if (!rc)
		assert_true(l7mp_predicate_eval(p, doc, &effort));
	l7mp_predicate_free(&p);
	l7mp_issues_clear(&is);
	cJSON_Delete(match);
	return rc;
}

static void test_depth(void **state)
{
	(void)state;
	assert_int_equal(compile_nested(64), 0);
	assert_int_equal(compile_nested(65), -22);
	assert_int_equal(compile_nested(1000), -22);
}

static cJSON *long_subject(size_t len)
{
	char *subject = malloc(len + 1);
	cJSON *json = cJSON_CreateObject();

	memset(subject, 'a', len);
	subject[len] = 0;
	l7mp_json_add_str(json, "s", subject);
	free(subject);
	return json;
}

/* Patterns that take exponential or square time, on short and long subjects: they stop. */
static void test_effort(void **state)
{
	static const char *const patterns[] = {"^(a|aa)+[^a]", "(a+)+[^a]", "(a|(?R))*[^a]",
	                                       "(?:a?){40}[^a]", "(.+)\\\\1+[^a]"};
	static const size_t lengths[] = {200, 2000, 20000, 60000};
	cJSON *saved = doc;

	(void)state;
	for (size_t l = 0; l < L7MP_ARRAY_SIZE(lengths); l++) {
		doc = long_subject(lengths[l]);
		for (size_t i = 0; i < L7MP_ARRAY_SIZE(patterns); i++) {
			char *text = l7mp_asprintf(
			        "{\"op\":\"matches\",\"path\":\"/s\",\"value\":\"%s\"}",
			        patterns[i]);

			no(text);
			if (lengths[l] >= 2000 && !effort.exhausted)
				fail_msg("%s on %zu: %llu left", patterns[i], lengths[l],
				         (unsigned long long)effort.left);
			free(text);
		}
		/*
		 * No limit of PCRE2's own sees this one, which looks at the square of the length.
		 */
		no("{\"op\":\"matches\",\"path\":\"/s\",\"value\":\".*\\\\p{L}+\\\\d\"}");
		assert_true(effort.exhausted || lengths[l] < 2000);
		/* Reasonable patterns are far from the limit. */
		yes("{\"op\":\"matches\",\"path\":\"/s\",\"value\":\"^[a-z]+$\"}");
		yes("{\"op\":\"matches\",\"path\":\"/s\",\"value\":\".*a.*\"}");
		no("{\"op\":\"matches\",\"path\":\"/s\",\"value\":\"^/api/(v1|v2)/[^/]+$\"}");
		no("{\"op\":\"contains-\",\"path\":\"/s\",\"value\":\"B\"}");
		assert_false(effort.exhausted);
		cJSON_Delete(doc);
	}
	doc = saved;
}

/* Once it is exhausted nothing costs any more, and nothing matches. */
static void test_effort_is_shared(void **state)
{
	static const char both[] =
	        "{\"op\":\"or\",\"apply\":["
	        "{\"op\":\"matches\",\"path\":\"/s\",\"value\":\"^(a|aa)+[^a]\"},"
	        "{\"op\":\"starts\",\"path\":\"/s\",\"value\":\"aaa\"}]}";
	cJSON *saved = doc;

	(void)state;
	doc = long_subject(5000);
	no(both);
	assert_true(effort.exhausted);
	assert_int_equal(effort.left, 0);
	cJSON_Delete(doc);
	doc = saved;
}

static void test_not_utf8(void **state)
{
	cJSON *saved = doc;

	(void)state;
	doc = cJSON_CreateObject();
	l7mp_json_add_str(doc, "s",
	                  "ab\xff\xfe"
	                  "cd");
	yes("{\"op\":\"starts\",\"path\":\"/s\",\"value\":\"ab\"}");
	yes("{\"op\":\"contains-\",\"path\":\"/s\",\"value\":\"CD\"}");
	no("{\"op\":\"matches\",\"path\":\"/s\",\"value\":\"ab..cd\"}");
	no("{\"op\":\"type\",\"path\":\"/s\",\"value\":\"iri\"}");
	no("{\"op\":\"test-\",\"path\":\"/s\",\"value\":\"abcd\"}");
	cJSON_Delete(doc);
	doc = saved;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_all),
	        cmocka_unit_test(test_contains),
	        cmocka_unit_test(test_contains_literal),
	        cmocka_unit_test(test_starts_ends),
	        cmocka_unit_test(test_defined),
	        cmocka_unit_test(test_in_test),
	        cmocka_unit_test(test_less_more),
	        cmocka_unit_test(test_matches),
	        cmocka_unit_test(test_type_json),
	        cmocka_unit_test(test_type_time),
	        cmocka_unit_test(test_type_lang),
	        cmocka_unit_test(test_type_iri),
	        cmocka_unit_test(test_second_order),
	        cmocka_unit_test(test_apply_path),
	        cmocka_unit_test(test_refused),
	        cmocka_unit_test(test_unknown_keys),
	        cmocka_unit_test(test_depth),
	        cmocka_unit_test(test_effort),
	        cmocka_unit_test(test_effort_is_shared),
	        cmocka_unit_test(test_not_utf8),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
