/* SPDX-License-Identifier: MIT */
/* Where objects end, whatever pieces they come in; Prometheus' text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "l7mp/jsonframe.h"
#include "l7mp/metrics.h"

/*
 * The text in pieces of `step` bytes becomes "D4 B9 ": where an object was done, or a byte was bad.
 */
static void run(const char *text, size_t step, char *out, size_t size)
{
	struct l7mp_jsonframe f = {0};
	size_t len = strlen(text), off = 0;

	*out = '\0';
	while (off < len) {
		size_t used = 0, n = len - off < step ? len - off : step, have = strlen(out);
		enum l7mp_jsonframe_state s = l7mp_jsonframe_take(&f, text + off, n, NULL, &used);

		assert_true(used > 0 && used <= n);
		assert_true(used == n || s == L7MP_JSONFRAME_DONE || s == L7MP_JSONFRAME_BAD);
		off += used;
		if (s == L7MP_JSONFRAME_DONE)
			snprintf(out + have, size - have, "D%zu ", off);
		else if (s == L7MP_JSONFRAME_BAD)
			snprintf(out + have, size - have, "B%zu ", off);
	}
}

static void ends_are_found(void **state)
{
	static const struct {
		const char *text, *want;
	} cases[] = {
	        {"{}", "D2 "},
	        {" \r\n\t{} {}\n{}", "D6 D9 D12 "},
	        {"{}{}{\"a\":{}}", "D2 D4 D12 "},
	        {"{\"a\":\"}\"}", "D9 "},
	        {"{\"a\":\"\\\"}\"}{}", "D11 D13 "},
	        {"{\"a\\\\\":[{},[]]}", "D15 "},
	        {"x{}", "B1 D3 "},
	        {"[{}]", "B1 D3 B4 "},
	        {"{\"a\n{}", "B4 D6 "},
	        {"{\"a\\\n", "B5 "},
	        {"{", ""},
	        {"   ", ""},
	};
	char got[200];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (size_t step = 1; step <= 20; step++) {
			run(cases[i].text, step, got, sizeof(got));
			assert_string_equal(got, cases[i].want);
		}
}

static void start_is_told(void **state)
{
	struct l7mp_jsonframe f = {0};
	size_t start = 77, used;

	(void)state;
	assert_int_equal(l7mp_jsonframe_take(&f, "  {\"a\"", 6, &start, &used),
	                 L7MP_JSONFRAME_MORE);
	assert_int_equal(start, 2);
	start = 77;
	assert_int_equal(l7mp_jsonframe_take(&f, ":1}  ", 5, &start, &used), L7MP_JSONFRAME_DONE);
	assert_int_equal(start, 77);
	assert_int_equal(used, 3);
}

static void depth_has_no_stack(void **state)
{
	struct l7mp_jsonframe f = {0};
	size_t used, n = 1 << 20;
	char *text = malloc(n);

	(void)state;
	memset(text, '[', n);
	text[0] = '{';
	assert_int_equal(l7mp_jsonframe_take(&f, text, n, NULL, &used), L7MP_JSONFRAME_MORE);
	assert_int_equal(f.depth, n);
	free(text);
}

static void metrics_are_escaped(void **state)
{
	struct l7mp_str out = {0};

	(void)state;
	l7mp_metrics_head(&out, "m_total", "counter", "What it is");
	l7mp_metrics_sample(&out, "m_total",
	                    (struct l7mp_label[]){{"a", "x\\y\"z\nw"},
	                                          {"b", "\xff\xc3\xa9\xed\xa0\x80"},
	                                          {NULL, NULL}},
	                    UINT64_MAX);
	l7mp_metrics_plain(&out, "n", "gauge", "Another", 0);
	assert_string_equal(out.s, "# HELP m_total What it is\n# TYPE m_total counter\n"
	                           "m_total{a=\"x\\\\y\\\"z\\nw\",b=\"\xef\xbf\xbd\xc3\xa9"
	                           "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"} "
	                           "18446744073709551615\n"
	                           "# HELP n Another\n# TYPE n gauge\nn 0\n");
	l7mp_str_free(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(ends_are_found),
	        cmocka_unit_test(start_is_told),
	        cmocka_unit_test(depth_has_no_stack),
	        cmocka_unit_test(metrics_are_escaped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
