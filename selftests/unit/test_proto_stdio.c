/* SPDX-License-Identifier: MIT */
/* Stdio over pipes, files and nothing at all. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "l7mp/protos.h"
#include "l7mp/util.h"
#include "proto_fix.h"

static const struct l7mp_proto *const protos[] = {&l7mp_proto_stdio, NULL};
#define STDIO (&l7mp_proto_stdio)

static struct pfix fix;
static int saved_in, saved_out, in, out; /* our ends of the proxy's standard input and output */

static void standard(int in_fd, int out_fd)
{
	fflush(stdout);
	saved_in = dup(STDIN_FILENO);
	saved_out = dup(STDOUT_FILENO);
	assert_true(dup2(in_fd, STDIN_FILENO) == STDIN_FILENO);
	assert_true(dup2(out_fd, STDOUT_FILENO) == STDOUT_FILENO);
	close(in_fd);
	close(out_fd);
}

static void restore(void)
{
	dup2(saved_in, STDIN_FILENO);
	dup2(saved_out, STDOUT_FILENO);
	close(saved_in);
	close(saved_out);
}

static int setup(void **state)
{
	int a[2], b[2];

	pfix_new(&fix, protos);
	if (pipe2(a, O_CLOEXEC) || pipe2(b, O_CLOEXEC))
		return -1;
	in = a[1];
	out = b[0];
	fcntl(out, F_SETFL, O_NONBLOCK);
	standard(a[0], b[1]);
	*state = &fix;
	return 0;
}

static int teardown(void **state)
{
	restore();
	pfix_free(*state);
	if (in >= 0)
		close(in);
	close(out);
	return 0;
}

static void both_ways(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = pfix_connect(f, STDIO, NULL, NULL);
	char got[64];

	assert_non_null(c);
	assert_true(pfix_until(f, &c->opened, 1000));
	assert_int_equal(write(in, "typed\n", 6), 6);
	assert_true(pfix_until_n(f, &c->messages, 1, 1000));
	assert_string_equal(c->data, "typed\n");
	assert_int_equal(pfix_write(c, "shown\n", 6), 0);
	pfix_turn(f, 5);
	assert_int_equal(read(out, got, sizeof(got)), 6);
	assert_memory_equal(got, "shown\n", 6);
	/* The end of the input is a half-close. */
	close(in);
	in = -1;
	assert_true(pfix_until(f, &c->ended, 1000));
	assert_int_equal(pfix_write(c, "more\n", 5), 0);
	pfix_turn(f, 5);
	assert_int_equal(read(out, got, sizeof(got)), 5);
	/* Descriptors of our own were used: the standard ones are as they were. */
	assert_int_equal(fcntl(STDIN_FILENO, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(fcntl(STDOUT_FILENO, F_GETFL) & O_NONBLOCK, 0);
}

static void one_at_a_time(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = pfix_connect(f, STDIO, NULL, NULL);

	assert_true(pfix_until(f, &c->opened, 1000));
	assert_null(pfix_connect(f, STDIO, NULL, NULL));
	assert_string_equal(f->err.message, "Stdio serves one session at a time, now session");
	l7mp_stream_close(c->stream, false);
	assert_true(pfix_until_n(f, &c->closed, 1, 1000));
	c = pfix_connect(f, STDIO, NULL, NULL);
	assert_non_null(c);
	assert_true(pfix_until(f, &c->opened, 1000));
	assert_int_equal(write(in, "2", 1), 1);
	assert_true(pfix_until_n(f, &c->messages, 1, 1000));
}

static void paused_reads_nothing(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = pfix_connect(f, STDIO, NULL, NULL);

	l7mp_stream_pause(c->stream, true);
	assert_true(pfix_until(f, &c->opened, 1000));
	assert_int_equal(write(in, "x", 1), 1);
	pfix_turn(f, 20);
	assert_int_equal(c->messages, 0);
	l7mp_stream_pause(c->stream, false);
	assert_true(pfix_until_n(f, &c->messages, 1, 1000));
}

static void files(void **state)
{
	struct pfix *f = *state;
	char path[] = "/tmp/l7mp-stdio-XXXXXX";
	int fd = mkstemp(path);
	struct pconn *c;
	char *text;
	size_t len;

	restore();
	assert_int_equal(write(fd, "old\n", 4), 4);
	standard(open("/dev/null", O_RDONLY | O_CLOEXEC), fd);
	c = pfix_connect(f, STDIO, NULL, NULL);
	assert_non_null(c);
	assert_true(pfix_until(f, &c->opened, 1000));
	assert_true(pfix_until(f, &c->ended, 1000));
	assert_int_equal(pfix_write(c, "new\n", 4), 0);
	l7mp_stream_close(c->stream, false);
	assert_true(pfix_until_n(f, &c->closed, 1, 6000));
	assert_false(c->failed);
	assert_int_equal(l7mp_read_file(path, 100, &text, &len), 0);
	assert_string_equal(text, "old\nnew\n");
	free(text);
	unlink(path);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(both_ways),
	        T(one_at_a_time),
	        T(paused_reads_nothing),
	        T(files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
