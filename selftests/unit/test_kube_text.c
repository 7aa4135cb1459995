/* SPDX-License-Identifier: MIT */
/* Texts of the API server in pieces: lines of watches, lists, objects that are cut off. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kube/kube_int.h"

struct seen {
	struct l7mp_str text; /* all parts, with '|' behind each */
	size_t n, bytes;      /* bytes: of the last one */
	int fail_at;
};

static int take(void *arg, const char *text, size_t len, size_t bytes)
{
	struct seen *s = arg;

	l7mp_str_addn(&s->text, text, len);
	l7mp_str_add(&s->text, "|");
	s->bytes = bytes;
	return (int)++s->n == s->fail_at ? -ECANCELED : 0;
}

/* ---- lines ---- */

static void lines(const char *text, size_t step, size_t max, const char *want)
{
	struct seen s = {0};
	struct kube_lines l = {.max = max, .line = take, .arg = &s};
	size_t n = strlen(text);

	for (size_t i = 0; i < n; i += step)
		assert_int_equal(kube_lines_feed(&l, text + i, n - i < step ? n - i : step), 0);
	assert_string_equal(s.text.s ? s.text.s : "", want);
	kube_lines_clear(&l);
	l7mp_str_free(&s.text);
}

static void test_lines(void **state)
{
	(void)state;
	for (size_t step = 1; step < 20; step++) {
		lines("", step, 100, "");
		lines("{\"a\":1}\n{\"b\":2}\n", step, 100, "{\"a\":1}|{\"b\":2}|");
		lines("one\r\n\n\r\ntwo\nhalf", step, 100, "one|two|");
		lines("short\nmuch too long\nshort\n", step, 8, "short|much too|short|");
		lines("12345678\n123456789\n", step, 8, "12345678|12345678|");
	}
}

static void test_line_lengths(void **state)
{
	struct seen s = {0};
	struct kube_lines l = {.max = 4, .line = take, .arg = &s};

	(void)state;
	assert_int_equal(kube_lines_feed(&l, "12345", 5), 0);
	assert_int_equal(kube_lines_feed(&l, "67890\n", 6), 0);
	assert_int_equal(s.bytes, 10);
	assert_string_equal(s.text.s, "1234|");
	/* What is left of a line does not get into the next watch. */
	assert_int_equal(kube_lines_feed(&l, "ha", 2), 0);
	kube_lines_clear(&l);
	assert_int_equal(kube_lines_feed(&l, "lf\n", 3), 0);
	assert_string_equal(s.text.s, "1234|lf|");
	assert_int_equal(s.bytes, 2);
	s.fail_at = 4;
	assert_int_equal(kube_lines_feed(&l, "a\nb\nc\n", 6), -ECANCELED);
	assert_int_equal(s.n, 4);
	kube_lines_clear(&l);
	l7mp_str_free(&s.text);
}

/* ---- lists ---- */

static void split_ok(const char *text, const char *items, const char *metadata)
{
	size_t n = strlen(text);

	for (size_t step = 1; step <= n; step++) {
		struct seen s = {0};
		struct kube_split sp = {.max = 1000, .item = take, .arg = &s};

		for (size_t i = 0; i < n; i += step)
			assert_int_equal(
			        kube_split_feed(&sp, text + i, n - i < step ? n - i : step), 0);
		assert_true(sp.complete);
		assert_string_equal(s.text.s ? s.text.s : "", items);
		if (metadata)
			assert_string_equal(sp.metadata.s, metadata);
		else
			assert_null(sp.metadata.s);
		kube_split_clear(&sp);
		l7mp_str_free(&s.text);
	}
}

static void test_lists(void **state)
{
	(void)state;
	split_ok("{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":"
	         "\"7\"},\"items\":[{\"a\":1},{\"b\":[{\"c\":{}}]}]}\n",
	         "{\"a\":1}|{\"b\":[{\"c\":{}}]}|", "{\"resourceVersion\":\"7\"}");
	/* Custom resources: the metadata comes last. */
	split_ok(" { \"items\" : [ { \"a\" : \"]}\" } , {} ] , \"metadata\" : { \"continue\" : "
	         "\"x\\\"}\" } } ",
	         "{ \"a\" : \"]}\" }|{}|", "{ \"continue\" : \"x\\\"}\" }");
	split_ok("{\"items\":[],\"metadata\":{}}", "", "{}");
	split_ok("{\"items\":null,\"kind\":\"items\",\"x\":{\"items\":[{\"no\":1}]}}", "", NULL);
	/* Values that look like keys, and items that are no objects. */
	split_ok(
	        "{\"a\":\"items\",\"b\":[{\"no\":1}],\"items\":[1,\"two\",[{\"no\":2}],{\"y\":3}]}",
	        "{\"y\":3}|", NULL);
	split_ok("{\"a-key-that-is-longer-than-any-of-ours\":[{}],\"items-of-others\":[{}]}", "",
	         NULL);
}

static void split_bad(const char *text)
{
	struct seen s = {0};
	struct kube_split sp = {.max = 1000, .item = take, .arg = &s};

	assert_int_equal(kube_split_feed(&sp, text, strlen(text)), -EINVAL);
	kube_split_clear(&sp);
	l7mp_str_free(&s.text);
}

static void test_bad_lists(void **state)
{
	struct seen s = {0};
	struct kube_split sp = {.max = 10, .item = take, .arg = &s};
	char deep[400];

	(void)state;
	split_bad("[1]");
	split_bad("hello");
	split_bad("{}{}");
	split_bad("{}]");
	split_bad("{} x");
	memset(deep, '[', sizeof(deep));
	deep[0] = '{';
	deep[sizeof(deep) - 1] = '\0';
	split_bad(deep);
	/* One that is cut off is not complete; one that is too large is said to be. */
	assert_int_equal(kube_split_feed(&sp, "{\"items\":[{\"a\":1},{\"b\":\"0123456789\"}", 36),
	                 0);
	assert_false(sp.complete);
	assert_string_equal(s.text.s, "{\"a\":1}|{\"b\":\"0123|");
	assert_int_equal(s.bytes, 18);
	kube_split_clear(&sp);
	l7mp_str_free(&s.text);
}

/* ---- what is cut off ---- */

static void found(const char *text, const char *a, const char *b, const char *want)
{
	const char *keys[] = {a, b, NULL}, *value = NULL;
	size_t n = 0;

	if (!want) {
		assert_false(kube_prefix_find(text, strlen(text), keys, &value, &n));
		return;
	}
	assert_true(kube_prefix_find(text, strlen(text), keys, &value, &n));
	assert_int_equal(n, strlen(want));
	assert_memory_equal(value, want, n);
}

static void test_prefix(void **state)
{
	static const char event[] =
	        "{\"type\":\"ADDED\",\"object\":{\"a\":[1,{\"x\":\"}\"}],\"metadata\":"
	        "{\"name\":\"n\",\"y\":";

	(void)state;
	found(event, "type", NULL, "\"ADDED\"");
	found(event, "object", "a", "[1,{\"x\":\"}\"}]");
	found(event, "object", "metadata", NULL); /* cut off */
	found(event, "object", "none", NULL);
	found("{ \"a\" : 12 , \"b\" : true }", "b", NULL, "true ");
	found("{\"a\":1", "a", NULL, NULL); /* more digits may follow */
	found("{\"a\":\"x\\", "a", NULL, NULL);
	found("", "a", NULL, NULL);
	found("{", "a", NULL, NULL);
	found("{\"", "a", NULL, NULL);
	found("[1]", "a", NULL, NULL);
	found("{\"a\":{\"a\":\"deep\"},\"b\":2}", "a", "a", "\"deep\"");
}

/* No cut and no change of a byte makes it read beyond the text (ASan). */
static void test_any_cut(void **state)
{
	static const char text[] =
	        "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"x\\\"y\",\"a\":[{}]}}}";
	const char *keys[] = {"object", "metadata", "name", NULL}, *value;
	size_t n;

	(void)state;
	for (size_t len = 0; len < sizeof(text); len++) {
		for (size_t at = 0; at <= len; at++) {
			char *copy = malloc(len ? len : 1);
			struct seen s = {0};
			struct kube_split sp = {.max = 8, .item = take, .arg = &s};

			memcpy(copy, text, len);
			if (at < len)
				copy[at] = "\"\\{}[]:,"[at % 8];
			(void)kube_prefix_find(copy, len, keys, &value, &n);
			(void)kube_split_feed(&sp, copy, len);
			kube_split_clear(&sp);
			l7mp_str_free(&s.text);
			free(copy);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_lines),  cmocka_unit_test(test_line_lengths),
	        cmocka_unit_test(test_lists),  cmocka_unit_test(test_bad_lists),
	        cmocka_unit_test(test_prefix), cmocka_unit_test(test_any_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
