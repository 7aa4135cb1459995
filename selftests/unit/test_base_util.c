/* SPDX-License-Identifier: MIT */
/* util.h, error.h, hash.h, stats.h. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "l7mp/error.h"
#include "l7mp/hash.h"
#include "l7mp/stats.h"
#include "l7mp/util.h"

/* ---- util ---- */

static void strings_grow(void **state)
{
	struct l7mp_str str = {0};
	char *s;

	(void)state;
	s = l7mp_str_take(&str);
	assert_string_equal(s, "");
	free(s);
	for (int i = 0; i < 1000; i++)
		l7mp_str_addf(&str, "%d,", i);
	l7mp_str_add(&str, "end");
	l7mp_str_addn(&str, "a\0b", 3);
	l7mp_str_addn(&str, NULL, 0);
	assert_int_equal(str.len, 10 * 2 + 90 * 3 + 900 * 4 + 3 + 3);
	assert_memory_equal(str.s, "0,1,2,", 6);
	assert_memory_equal(str.s + str.len - 10, "999,enda\0b", 11);
	s = l7mp_str_take(&str);
	assert_null(str.s);
	assert_int_equal(str.len, 0);
	free(s);
	/* Exactly as much as fits, and one more. */
	for (size_t n = 60; n < 70; n++) {
		char text[80];

		memset(text, 'x', n);
		text[n] = '\0';
		l7mp_str_add(&str, text);
		assert_string_equal(str.s, text);
		l7mp_str_free(&str);
		l7mp_str_addf(&str, "%s", text);
		assert_string_equal(str.s, text);
		l7mp_str_free(&str);
	}
}

static void strings_survive_no_memory(void **state)
{
	struct l7mp_str str = {0};

	(void)state;
	l7mp_str_add(&str, "before");
	l7mp_str_addn(&str, "x", SIZE_MAX / 2);
	assert_true(str.oom);
	l7mp_str_add(&str, "after");
	l7mp_str_addf(&str, "%d", 1);
	assert_string_equal(str.s, "before");
	assert_null(l7mp_str_take(&str));
	assert_null(str.s);
	assert_false(str.oom);
}

static void utf8(void **state)
{
	static const struct {
		const char *s;
		size_t len;
		uint32_t cp;
	} v[] = {
	        {"a", 1, 'a'},
	        {"\x7f", 1, 0x7f},
	        {"\xc2\x80", 2, 0x80},
	        {"\xdf\xbf", 2, 0x7ff},
	        {"\xe0\xa0\x80", 3, 0x800},
	        {"\xed\x9f\xbf", 3, 0xd7ff},
	        {"\xee\x80\x80", 3, 0xe000},
	        {"\xef\xbf\xbf", 3, 0xffff},
	        {"\xf0\x90\x80\x80", 4, 0x10000},
	        {"\xf4\x8f\xbf\xbf", 4, 0x10ffff},
	        {"\x80", 0, 0},
	        {"\xc1\xbf", 0, 0},
	        {"\xe0\x9f\xbf", 0, 0},
	        {"\xed\xa0\x80", 0, 0},
	        {"\xf0\x8f\xbf\xbf", 0, 0},
	        {"\xf4\x90\x80\x80", 0, 0},
	        {"\xf5\x80\x80\x80", 0, 0},
	        {"\xc2", 0, 0},
	        {"\xe2\x82", 0, 0},
	        {"\xe2(\xac", 0, 0},
	        {"\xff", 0, 0},
	        {"", 0, 0},
	};

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(v); i++) {
		uint32_t cp = 0;

		assert_int_equal(l7mp_utf8_decode(v[i].s, strlen(v[i].s), &cp), v[i].len);
		if (v[i].len)
			assert_int_equal(cp, v[i].cp);
	}
	assert_true(l7mp_utf8_unprintable(0));
	assert_true(l7mp_utf8_unprintable(0x85));
	assert_true(l7mp_utf8_unprintable(0x2028));
	assert_true(l7mp_utf8_unprintable(0x1fffe));
	assert_false(l7mp_utf8_unprintable(' '));
	assert_false(l7mp_utf8_unprintable(0xa0));
	assert_false(l7mp_utf8_unprintable(0xfffd));
}

static void times(void **state)
{
	char buf[L7MP_ISO8601_LEN];
	uint64_t now = l7mp_wallclock_ms();

	(void)state;
	assert_string_equal(l7mp_iso8601(0, buf), "1970-01-01T00:00:00.000Z");
	assert_string_equal(l7mp_iso8601(1795413091123ull, buf), "2026-11-23T05:51:31.123Z");
	assert_string_equal(l7mp_iso8601(253402300799999ull, buf), "9999-12-31T23:59:59.999Z");
	assert_string_equal(l7mp_iso8601(UINT64_MAX, buf), "9999-12-31T23:59:59.999Z");
	assert_true(now / 1000 <= (uint64_t)time(NULL) + 1 && now > 1700000000000ull);
}

static void files(void **state)
{
	char path[] = "/tmp/l7mp-file-XXXXXX";
	int fd = mkstemp(path);
	char *text = NULL;
	char block[5000];
	size_t len = 1;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(l7mp_read_file(path, 0, &text, &len), 0);
	assert_int_equal(len, 0);
	assert_string_equal(text, "");
	free(text);
	memset(block, 'b', sizeof(block));
	block[17] = '\0';
	for (int i = 0; i < 3; i++)
		assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
	close(fd);
	assert_int_equal(l7mp_read_file(path, 15000, &text, &len), 0);
	assert_int_equal(len, 15000);
	assert_memory_equal(text + 10000, block, sizeof(block));
	assert_int_equal(text[15000], 0);
	free(text);
	text = NULL;
	assert_int_equal(l7mp_read_file(path, 14999, &text, &len), -EFBIG);
	unlink(path);
	assert_int_equal(l7mp_read_file(path, 10, &text, &len), -ENOENT);
	assert_int_equal(l7mp_read_file("/tmp", 10, &text, &len), -EISDIR);
	assert_int_equal(l7mp_read_file("/dev/zero", 1 << 16, &text, &len), -EFBIG);
	assert_null(text);
}

/* ---- error ---- */

static void errors(void **state)
{
	struct l7mp_error err = {.line = 7, .path = "old"};
	char buf[64], tiny[6];
	char big[2000];

	(void)state;
	assert_int_equal(l7mp_error_set(&err, -EINVAL, L7MP_ERR_SCHEMA, "expected %d", 5), -EINVAL);
	assert_int_equal(err.code, L7MP_ERR_SCHEMA);
	assert_int_equal(err.line, 0);
	assert_string_equal(err.path, "");
	assert_string_equal(l7mp_error_text(&err, buf, sizeof(buf)), "expected 5");
	strcpy(err.path, "a.b");
	assert_string_equal(l7mp_error_text(&err, buf, sizeof(buf)), "a.b: expected 5");
	assert_string_equal(l7mp_error_text(&err, tiny, sizeof(tiny)), "a.b: ");
	/* Its own text as an argument; too long a text; nobody who wants it. */
	l7mp_error_set(&err, 0, L7MP_ERR_PARSE, "%s: %s", "file", err.message);
	assert_string_equal(err.message, "file: expected 5");
	memset(big, 'x', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	l7mp_error_set(&err, 0, L7MP_ERR_PARSE, "%s", big);
	assert_int_equal(strlen(err.message), sizeof(err.message) - 1);
	assert_int_equal(l7mp_error_set(NULL, -EIO, L7MP_ERR_PARSE, "x"), -EIO);
}

static void issues(void **state)
{
	struct l7mp_issues is;
	struct l7mp_error err = {0};

	(void)state;
	l7mp_issues_init(&is, true);
	l7mp_issues_first(&is, &err);
	assert_int_equal(err.code, L7MP_OK);
	l7mp_issues_add(&is, true, NULL, "name", "unknown key");
	l7mp_issues_first(&is, &err);
	assert_int_equal(err.code, L7MP_OK);
	l7mp_issues_add(&is, false, NULL, "spec.port", "expected %d..%d, got %s", 1, 65535,
	                "99999");
	l7mp_issues_add(&is, false, NULL, "[3]", "bad");
	l7mp_issues_add(&is, false, NULL, "", "at the root");
	assert_int_equal(is.n, 4);
	assert_int_equal(is.errors, 3);
	l7mp_issues_first(&is, &err);
	assert_int_equal(err.code, L7MP_ERR_SCHEMA);
	assert_string_equal(err.path, "spec.port");
	assert_string_equal(err.message, "expected 1..65535, got 99999");
	l7mp_issues_clear(&is);
	assert_true(is.strict);
	assert_int_equal(is.n + is.errors, 0);
}

/* An endless input keeps 64, counts all, and an error always finds a place. */
static void issues_are_bounded(void **state)
{
	struct l7mp_issues is;
	struct l7mp_error err = {0};

	(void)state;
	l7mp_issues_init(&is, false);
	for (int i = 0; i < 1000; i++)
		l7mp_issues_add(&is, true, NULL, "w", "warning %d", i);
	assert_int_equal(is.n, 64);
	assert_int_equal(is.errors, 0);
	for (int i = 0; i < 100; i++)
		l7mp_issues_add(&is, false, NULL, "e", "error %d", i);
	assert_int_equal(is.n, 64);
	assert_int_equal(is.errors, 100);
	l7mp_issues_first(&is, &err);
	assert_string_equal(err.path, "e");
	l7mp_issues_clear(&is);
}

/* ---- hash ---- */

struct item {
	int key;
	UT_hash_handle hh;
};

static void tables(void **state)
{
	struct item *table = NULL, *item, *tmp;

	(void)state;
	for (int i = 0; i < 1000; i++) {
		item = calloc(1, sizeof(*item));
		item->key = i;
		HASH_ADD_INT(table, key, item);
		assert_non_null(item->hh.tbl);
	}
	for (int i = 0; i < 1000; i++) {
		HASH_FIND_INT(table, &i, item);
		assert_int_equal(item->key, i);
	}
	HASH_ITER (hh, table, item, tmp) {
		HASH_DEL(table, item);
		free(item);
	}
}

static void hashes(void **state)
{
	uint64_t mine = l7mp_hash("abc", 3), other = 0;
	int pipefd[2], status;
	pid_t pid;

	(void)state;
	assert_true(mine == l7mp_hash("abc", 3));
	assert_true(mine != l7mp_hash("abd", 3));
	assert_true(l7mp_hash(NULL, 0) == l7mp_hash("", 0));
	/*
	 * Known answers of XXH3: the ring of a consistent hash must look the same everywhere, for
	 * ever.
	 */
	assert_true(l7mp_hash_stable("", 0, 0) == 0x2d06800538d394c2ull);
	assert_true(l7mp_hash_stable("abc", 3, 0) == 0x78af5f94892f3950ull);
	assert_true(l7mp_hash_stable("abc", 3, 1) != l7mp_hash_stable("abc", 3, 0));
	/* Another process has another seed. */
	assert_int_equal(pipe(pipefd), 0);
	pid = fork();
	if (!pid) {
		dup2(pipefd[1], 1);
		execl("/proc/self/exe", "test_base_util", "--print-hash", (char *)NULL);
		_exit(127);
	}
	close(pipefd[1]);
	assert_int_equal(read(pipefd[0], &other, sizeof(other)), sizeof(other));
	close(pipefd[0]);
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	assert_true(mine != other);
}

/* ---- stats ---- */

static void reasons(void **state)
{
	struct l7mp_stats s = {0};

	(void)state;
	assert_string_equal(l7mp_drop_name(L7MP_DROP_PEER), "peer");
	assert_string_equal(l7mp_drop_name(L7MP_DROP_DISCARD), "discard");
	assert_string_equal(l7mp_drop_name(L7MP_DROP_COUNT), "unknown");
	assert_string_equal(l7mp_drop_name((enum l7mp_drop) - 1), "unknown");
	assert_string_equal(l7mp_refuse_name(L7MP_REFUSE_DESCRIPTORS), "descriptors");
	assert_string_equal(l7mp_refuse_name(L7MP_REFUSE_COUNT), "unknown");
	for (int i = 0; i < L7MP_DROP_COUNT; i++)
		for (int j = 0; j < i; j++)
			assert_string_not_equal(l7mp_drop_name((enum l7mp_drop)i),
			                        l7mp_drop_name((enum l7mp_drop)j));
	l7mp_stats_drop(&s, L7MP_DROP_SEND, 2, 100);
	l7mp_stats_drop(&s, L7MP_DROP_SEND, 1, 50);
	assert_int_equal(s.drops[L7MP_DROP_SEND], 3);
	assert_int_equal(s.drop_bytes[L7MP_DROP_SEND], 150);
	assert_int_equal(l7mp_drop_from_errno(-EMSGSIZE), L7MP_DROP_TOO_LARGE);
	assert_int_equal(l7mp_drop_from_errno(-ERANGE), L7MP_DROP_TOO_SHORT);
	assert_int_equal(l7mp_drop_from_errno(-ENOBUFS), L7MP_DROP_QUEUE);
	assert_int_equal(l7mp_drop_from_errno(-EAGAIN), L7MP_DROP_QUEUE);
	assert_int_equal(l7mp_drop_from_errno(-ENOTCONN), L7MP_DROP_NOT_CONNECTED);
	assert_int_equal(l7mp_drop_from_errno(-ECONNREFUSED), L7MP_DROP_REFUSED);
	assert_int_equal(l7mp_drop_from_errno(-EDESTADDRREQ), L7MP_DROP_NO_RECEIVER);
	assert_int_equal(l7mp_drop_from_errno(-EBADMSG), L7MP_DROP_MALFORMED);
	assert_int_equal(l7mp_drop_from_errno(-ENOMEM), L7MP_DROP_MEMORY);
	assert_int_equal(l7mp_drop_from_errno(-ECANCELED), L7MP_DROP_CLOSED);
	assert_int_equal(l7mp_drop_from_errno(-ENETUNREACH), L7MP_DROP_SEND);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(strings_grow), cmocka_unit_test(strings_survive_no_memory),
	        cmocka_unit_test(utf8),         cmocka_unit_test(times),
	        cmocka_unit_test(files),        cmocka_unit_test(errors),
	        cmocka_unit_test(issues),       cmocka_unit_test(issues_are_bounded),
	        cmocka_unit_test(tables),       cmocka_unit_test(hashes),
	        cmocka_unit_test(reasons),
	};

	if (argc > 1 && !strcmp(argv[1], "--print-hash")) {
		uint64_t h = l7mp_hash("abc", 3);

		return write(1, &h, sizeof(h)) == (ssize_t)sizeof(h) ? 0 : 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
