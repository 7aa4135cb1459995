/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "l7mp/json.h"
#include "l7mp/log.h"
#include "l7mp/util.h"

static char dir[64];
static char path[96];

static int setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/l7mp-log-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/log", dir);
	l7mp_log_set_level(L7MP_LOG_SILLY);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	l7mp_log_close();
	unlink(path);
	return rmdir(dir);
}

static char *contents(void)
{
	char *text;
	size_t len;

	assert_true(l7mp_log_flush(60000));
	assert_int_equal(l7mp_read_file(path, 1 << 24, &text, &len), 0);
	assert_int_equal(strlen(text), len);
	return text;
}

/* The text of the only line behind its time stamp, which is checked for its shape. */
static void assert_line(const char *expected)
{
	char *text = contents();
	unsigned v[7];
	int n = 0;

	assert_int_equal(sscanf(text, "%4u-%2u-%2uT%2u:%2u:%2u.%3uZ %n", &v[0], &v[1], &v[2], &v[3],
	                        &v[4], &v[5], &v[6], &n),
	                 7);
	assert_int_equal(n, 25);
	assert_string_equal(text + n, expected);
	free(text);
	assert_int_equal(truncate(path, 0), 0);
}

static void text_lines(void **state)
{
	(void)state;
	assert_int_equal(l7mp_log_open(path, false), 0);
	l7mp_log_warn("udp", "%s has %d", "text", 5);
	assert_line("warn udp text has 5\n");
	/* A peer's bytes can't end the line, move the cursor or fake a record. */
	l7mp_log_info("x", "%s",
	              "a\nb\r\t\x1b[2J\x7f\xc2\x9b"
	              "c\xe2\x80\xae"
	              "d\xff\xfe \xc3\xa9 \\ \"");
	assert_line("info x a\\nb\\r\\t\\x1b[2J\\x7f\\x9bc\\u202ed\\xff\\xfe \xc3\xa9 \\ \"\n");
	l7mp_log_error("x", "%s", "");
	assert_line("error x \n");
}

static void json_lines(void **state)
{
	char *text;
	cJSON *node;

	(void)state;
	assert_int_equal(l7mp_log_open(path, true), 0);
	l7mp_log_notice("api", "%s", "a\"b\\c\nd\x01\xff\xc2\x85 \xc3\xa9");
	text = contents();
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	node = l7mp_json_parse(text, strlen(text), NULL, NULL, 0);
	assert_non_null(node);
	assert_string_equal(l7mp_json_str(node, "level", ""), "notice");
	assert_string_equal(l7mp_json_str(node, "module", ""), "api");
	assert_int_equal(strlen(l7mp_json_str(node, "time", "")), 24);
	assert_string_equal(l7mp_json_str(node, "message", ""),
	                    "a\"b\\c\nd\x01\\xff\xc2\x85 \xc3\xa9");
	cJSON_Delete(node);
	free(text);
}

/* Over-long texts end in "...", whatever they hold, and stay one valid line. */
static void long_texts(void **state)
{
	static const char *const fill[] = {"x",        "\n", "\x01",        "\xff",
	                                   "\xc3\xa9", "\"", "\xe2\x80\xa8"};

	(void)state;
	for (int json = 0; json < 2; json++) {
		for (size_t i = 0; i < L7MP_ARRAY_SIZE(fill); i++) {
			struct l7mp_str str = {0};
			char *text;
			size_t len;

			while (str.len < 10000)
				l7mp_str_add(&str, fill[i]);
			assert_int_equal(l7mp_log_open(path, json), 0);
			l7mp_log_warn("m", "%s", str.s);
			l7mp_str_free(&str);
			text = contents();
			len = strlen(text);
			assert_in_range(len, 3000, 8192);
			assert_ptr_equal(strchr(text, '\n'), text + len - 1);
			if (json) {
				cJSON *node = l7mp_json_parse(text, len, NULL, NULL, 0);

				assert_non_null(node);
				cJSON_Delete(node);
			}
			assert_memory_equal(text + len - (json ? 6 : 4), "...", 3);
			free(text);
			assert_int_equal(truncate(path, 0), 0);
		}
	}
}

static void levels(void **state)
{
	enum l7mp_log_level level;
	int evaluated = 0;
	char *text;

	(void)state;
	assert_int_equal(l7mp_log_level_parse("WaRn", &level), 0);
	assert_int_equal(level, L7MP_LOG_WARN);
	assert_int_equal(l7mp_log_level_parse("silent", &level), 0);
	assert_int_equal(level, L7MP_LOG_SILENT);
	assert_int_equal(l7mp_log_level_parse("warning", &level), -EINVAL);
	assert_int_equal(l7mp_log_level_parse("", &level), -EINVAL);
	assert_int_equal(l7mp_log_level_parse(NULL, &level), -EINVAL);
	for (int i = L7MP_LOG_SILLY; i <= L7MP_LOG_SILENT; i++) {
		assert_int_equal(
		        l7mp_log_level_parse(l7mp_log_level_name((enum l7mp_log_level)i), &level),
		        0);
		assert_int_equal(level, i);
	}
	assert_int_equal(l7mp_log_open(path, false), 0);
	l7mp_log_set_level(L7MP_LOG_WARN);
	l7mp_log_notice("m", "%d", ++evaluated);
	l7mp_log_write(L7MP_LOG_INFO, "m", "no");
	assert_int_equal(evaluated, 0);
	l7mp_log_warn("m", "%d", ++evaluated);
	assert_line("warn m 1\n");
	l7mp_log_set_level(L7MP_LOG_SILENT);
	l7mp_log_error("m", "no");
	l7mp_log_write(L7MP_LOG_SILENT, "m", "no");
	text = contents();
	assert_string_equal(text, "");
	free(text);
}

/* Whatever a FIFO or pipe has now. */
static char *read_all(int fd)
{
	static char buf[1 << 20];
	ssize_t n;
	size_t len = 0;

	while ((n = read(fd, buf + len, sizeof(buf) - 1 - len)) > 0)
		len += (size_t)n;
	buf[len] = '\0';
	return buf;
}

static void targets(void **state)
{
	char other[112], *text;
	struct stat st;
	mode_t mask = umask(0);
	int fd;

	(void)state;
	assert_int_equal(l7mp_log_open(path, false), 0);
	umask(mask);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	/* The old target stays when the new one can't be opened. */
	assert_int_equal(l7mp_log_open(dir, false), -EISDIR);
	assert_int_equal(l7mp_log_open("/nonexistent/dir/log", true), -ENOENT);
	assert_int_equal(l7mp_log_open("", true), -EINVAL);
	assert_int_equal(l7mp_log_open(NULL, true), -EINVAL);
	l7mp_log_warn("m", "still here");
	assert_line("warn m still here\n");
	/* Rotation: a new file under the old name; appending; errno is left alone. */
	snprintf(other, sizeof(other), "%s.1", path);
	assert_int_equal(rename(path, other), 0);
	assert_int_equal(l7mp_log_reopen(), 0);
	errno = EXDEV;
	l7mp_log_warn("m", "new file");
	assert_int_equal(errno, EXDEV);
	assert_line("warn m new file\n");
	assert_int_equal(l7mp_log_open(path, false), 0);
	l7mp_log_warn("m", "1");
	assert_int_equal(l7mp_log_open(path, false), 0);
	l7mp_log_warn("m", "2");
	text = contents();
	assert_non_null(strstr(text, "warn m 1\n"));
	assert_non_null(strstr(text, "warn m 2\n"));
	free(text);
	assert_int_equal(unlink(other), 0);
	/* A FIFO that nobody reads is refused at once. */
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(l7mp_log_open(path, false), -ENXIO);
	/* One with a reader that never reads loses records and stops nobody. */
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	assert_int_equal(l7mp_log_open(path, false), 0);
	for (int i = 0; i < 3000; i++)
		l7mp_log_warn("m", "a record of some length for a pipe that is full soon");
	/* Its reader comes back: it is told how many it has missed, and sees whole lines. */
	read_all(fd);
	l7mp_log_warn("m", "after");
	text = read_all(fd);
	assert_non_null(strstr(text, " records before this one were lost\n"));
	assert_non_null(strstr(text, "warn m after\n"));
	close(fd);
	l7mp_log_close();
	assert_int_equal(l7mp_log_reopen(), 0);
}

/* The standard error is a pipe that nobody reads, and blocking: nobody waits for it. */
static void full_stderr(void **state)
{
	int fd[2], saved = dup(STDERR_FILENO);

	(void)state;
	assert_int_equal(pipe(fd), 0);
	l7mp_log_close();
	assert_true(dup2(fd[1], STDERR_FILENO) >= 0);
	assert_int_equal(l7mp_log_open("stderr", false), 0);
	for (int i = 0; i < 3000; i++)
		l7mp_log_warn("m", "%0*d", i % 5000, i);
	assert_int_equal(fcntl(fd[1], F_GETFL) & O_NONBLOCK, 0);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(fd[0]);
	close(fd[1]);
	l7mp_log_close();
}

static void *writer(void *arg)
{
	for (int i = 0; i < 500; i++)
		l7mp_log_warn("m", "thread %c %s", *(char *)arg,
		              "0123456789012345678901234567890123456789");
	return NULL;
}

static void threads_do_not_mix_lines(void **state)
{
	char names[] = "abcd";
	pthread_t t[4];
	char *text, *save = NULL;
	int lines = 0;

	(void)state;
	assert_int_equal(l7mp_log_open(path, false), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, writer, &names[i]), 0);
	for (int i = 0; i < 100; i++)
		l7mp_log_reopen();
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	text = contents();
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		assert_int_equal(strlen(line), 25 + strlen("warn m thread a ") + 40);
		lines++;
	}
	assert_int_equal(lines, 2000);
	free(text);
}

static void limit(void **state)
{
	struct l7mp_log_limit l = {0};
	uint32_t suppressed = 99;
	int allowed = 0;

	(void)state;
	for (int i = 0; i < 10; i++)
		allowed += l7mp_log_allowed(&l, 5, 1000, 3, &suppressed);
	assert_int_equal(allowed, 3);
	assert_int_equal(suppressed, 0);
	assert_false(l7mp_log_allowed(&l, 1004, 1000, 3, &suppressed));
	assert_true(l7mp_log_allowed(&l, 1005, 1000, 3, &suppressed));
	assert_int_equal(suppressed, 8);
	assert_true(l7mp_log_allowed(&l, 1006, 1000, 3, &suppressed));
	assert_int_equal(suppressed, 0);
	/* A window starts with its first record, not at multiples of the interval. */
	l = (struct l7mp_log_limit){0};
	assert_true(l7mp_log_allowed(&l, 999, 1000, 1, &suppressed));
	assert_false(l7mp_log_allowed(&l, 1000, 1000, 1, &suppressed));
	assert_false(l7mp_log_allowed(&l, 1998, 1000, 1, &suppressed));
	assert_true(l7mp_log_allowed(&l, 1999, 1000, 1, &suppressed));
	assert_int_equal(suppressed, 2);
	/* A clock that went back opens a window. */
	assert_true(l7mp_log_allowed(&l, 10, 1000, 1, &suppressed));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(text_lines),
	        T(json_lines),
	        T(long_texts),
	        T(levels),
	        T(targets),
	        T(threads_do_not_mix_lines),
	        cmocka_unit_test(full_stderr),
	        cmocka_unit_test(limit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
