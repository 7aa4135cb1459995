/* SPDX-License-Identifier: MIT */
/* STDIO-fork: data, both ends, exit, signals, stderr, no process and no descriptor left. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "l7mp/log.h"
#include "l7mp/protos.h"
#include "proto_fix.h"

static const struct l7mp_proto *const protos[] = {&l7mp_proto_fork, NULL};
#define FORK (&l7mp_proto_fork)

static struct pfix fix;

static int setup(void **state)
{
	pfix_new(&fix, protos);
	fix.limits.max_processes = 256;
	*state = &fix;
	return 0;
}

static int teardown(void **state)
{
	pfix_free(*state);
	/* No child, alive or zombie. */
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	return 0;
}

static struct pconn *start(struct pfix *f, const char *spec)
{
	struct pconn *c = pfix_connect(f, FORK, spec, NULL);

	assert_non_null(c);
	assert_true(pfix_until(f, &c->opened, 2000));
	return c;
}

static void finish(struct pfix *f, struct pconn *c, const char *message)
{
	assert_true(pfix_until_n(f, &c->closed, 1, 5000));
	if (!message) {
		assert_false(c->failed);
		return;
	}
	assert_true(c->failed);
	assert_string_equal(c->message, message);
}

/*
 * What goes in comes out; the end of stdin is seen, the exit is an event and the end of the stream.
 */
static void there_and_back(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = start(f, "{'command':['cat']}");

	pfix_write(c, "one\0two", 7);
	assert_true(pfix_until_size(f, &c->len, 7, 2000));
	assert_memory_equal(c->data, "one\0two", 7);
	l7mp_stream_shutdown(c->stream, 0);
	assert_int_equal(pfix_write(c, "x", 1), -EPIPE);
	assert_true(pfix_until(f, &c->ended, 2000));
	assert_int_equal(c->notices, 1);
	assert_string_equal(c->message, "cat exited with status 0");
	finish(f, c, NULL);
}

static void arguments_environment_directory(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = start(f, "{'command':['sh','-c','echo $0,$1,$V,$L7MP_SESSION,$PWD','a b',"
	                           "'$(c);d'],'env':{'V':'w x'},'cwd':'/'}");

	finish(f, c, NULL);
	assert_string_equal(c->data, "a b,$(c);d,w x,session,/\n");
	/* A string is a program, not a command line. */
	c = start(f, "{'command':'pwd','cwd':'/'}");
	finish(f, c, NULL);
	assert_string_equal(c->data, "/\n");
	c = pfix_connect(f, FORK, "{'command':'echo x'}", NULL);
	finish(f, c, "STDIO-fork: can't run echo x: no such name or file");
	assert_false(c->opened);
	c = pfix_connect(f, FORK, "{'command':['cat'],'cwd':'/no/where'}", NULL);
	finish(f, c, "STDIO-fork: can't run cat in /no/where: no such name or file");
}

static void status_and_signal(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = start(f, "{'command':['sh','-c','echo last; exit 3']}");

	finish(f, c, "STDIO-fork: sh exited with status 3");
	assert_string_equal(c->data, "last\n");
	assert_true(c->ended);
	c = start(f, "{'command':['sh','-c','kill -SEGV $$']}");
	finish(f, c, "STDIO-fork: sh was killed by signal 11 (SIGSEGV)");
}

/* While its output is held back, the exit does not end the stream. */
static void output_before_the_end(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = start(f, "{'command':['sh','-c','read x; head -c 60000 /dev/zero']}");

	/* It begins when it is told to, so that it can't have ended before the pause. */
	l7mp_stream_pause(c->stream, true);
	pfix_write(c, "x\n", 2);
	pfix_turn(f, 1500);
	assert_int_equal(c->closed, 0);
	l7mp_stream_pause(c->stream, false);
	finish(f, c, NULL);
	assert_int_equal(c->len, 60000);
}

/* It closes its output and works on: only an end-of-stream. */
static void half_closed(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = start(f, "{'command':['sh','-c','exec >&-; read x; exit 0']}");

	assert_true(pfix_until(f, &c->ended, 2000));
	pfix_turn(f, 50);
	assert_int_equal(c->closed, 0);
	pfix_write(c, "x\n", 2);
	finish(f, c, NULL);
}

/* It reads no more but still answers: what is sent to it is dropped, the answer arrives. */
static void stdin_closed(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = start(f, "{'command':['sh','-c','exec <&-; sleep 0.3; echo answer']}");

	pfix_turn(f, 100);
	for (int i = 0; i < 5; i++)
		assert_int_equal(pfix_write(c, "x", 1), 0);
	finish(f, c, NULL);
	assert_string_equal(c->data, "answer\n");
	assert_int_equal(f->stats.drops[L7MP_DROP_NOT_CONNECTED], 5);
}

/* Closing ends it: by the end of stdin, by SIGTERM, by SIGKILL. */
static void ended_with_the_session(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = start(f, "{'command':['cat']}");

	l7mp_stream_close(c->stream, false);
	finish(f, c, NULL);
	assert_string_equal(c->message, "cat exited with status 0");
	c = start(f, "{'command':['sleep','100']}");
	l7mp_stream_close(c->stream, false);
	finish(f, c, NULL);
	assert_string_equal(c->message, "sleep was killed by signal 15 (SIGTERM)");
	c = start(f,
	          "{'command':['sh','-c','trap : TERM; echo ready; while :; do sleep 1; done']}");
	assert_true(pfix_until_size(f, &c->len, 6, 2000));
	l7mp_stream_close(c->stream, true);
	finish(f, c, NULL);
	assert_string_equal(c->message, "sh was killed by signal 9 (SIGKILL)");
}

/* The log is written by a thread. */
static char *slurp(const char *path)
{
	static char buf[65536];
	ssize_t n;
	int fd;

	assert_true(l7mp_log_flush(60000));
	fd = open(path, O_RDONLY);
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	buf[n > 0 ? n : 0] = '\0';
	return buf;
}

static void stderr_is_logged_and_limited(void **state)
{
	struct pfix *f = *state;
	char log[] = "/tmp/l7mp-fork-log-XXXXXX", *text;
	unsigned lines = 0;
	struct pconn *c;

	close(mkstemp(log));
	assert_int_equal(l7mp_log_open(log, false), 0);
	c = start(f, "{'command':['sh','-c','echo oops >&2; printf tail >&2']}");
	finish(f, c, NULL);
	text = slurp(log);
	assert_non_null(strstr(text, "session: sh: oops\n"));
	assert_non_null(strstr(text, "session: sh: tail\n"));
	/* A flood: 200,000 lines, and its output is not held up by them. */
	c = start(f, "{'command':['sh','-c','yes flood | head -n 200000 >&2; echo done']}");
	finish(f, c, NULL);
	assert_string_equal(c->data, "done\n");
	text = slurp(log);
	for (char *p = text; (p = strstr(p, ": flood")); p++)
		lines++;
	assert_true(lines >= 20 && lines <= 400);
	c = start(f, "{'command':['sh','-c','echo hidden >&2'],'stderr':'discard'}");
	finish(f, c, NULL);
	assert_null(strstr(slurp(log), "hidden"));
	l7mp_log_open("stderr", false);
	unlink(log);
}

/* Nothing of ours is open in it, and nothing of it is left with us. */
static void descriptors(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = start(f, "{'command':['sh','-c','echo $(ls /proc/$$/fd)']}");

	finish(f, c, NULL);
	assert_int_equal(strncmp(c->data, "0 1 2", 5), 0);
	assert_null(strstr(c->data, " 4 "));
}

/*
 * A descendant in another process group keeps its output open: that is waited for only for a while.
 */
static void descendants(void **state)
{
	struct pfix *f = *state;
	struct pconn *c = start(f, "{'command':['sh','-c','setsid sleep 4 & echo x']}");

	assert_true(pfix_until_n(f, &c->closed, 1, 3000));
	assert_false(c->failed);
	assert_string_equal(c->data, "x\n");
}

/*
 * Programs are started one after the other, with loop iterations in between; one that is not
 * wanted any more before its turn is not started, and its place is free.
 */
static void one_by_one(void **state)
{
	enum { N = 40 };
	struct pfix *f = *state;
	struct pconn *c[N];
	int open = 0, before, most = 0;

	f->limits.max_processes = N;
	for (int i = 0; i < N; i++) {
		c[i] = pfix_connect(f, FORK, "{'command':['cat']}", NULL);
		assert_non_null(c[i]);
	}
	assert_null(pfix_connect(f, FORK, "{'command':['cat']}", NULL));
	/* Nothing has been started by the calls. */
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	l7mp_stream_close(c[N - 1]->stream, false);
	finish(f, c[N - 1], NULL);
	assert_false(c[N - 1]->opened);
	c[N - 1] = pfix_connect(f, FORK, "{'command':['cat']}", NULL);
	assert_non_null(c[N - 1]);
	while (open < N) {
		before = open;
		pfix_turn(f, 1);
		open = 0;
		for (int i = 0; i < N; i++)
			open += c[i]->opened;
		if (open - before > most)
			most = open - before;
	}
	assert_true(most < N / 2);
	for (int i = 0; i < N; i++) {
		l7mp_stream_close(c[i]->stream, false);
		finish(f, c[i], NULL);
	}
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(there_and_back),
	        T(arguments_environment_directory),
	        T(status_and_signal),
	        T(output_before_the_end),
	        T(half_closed),
	        T(stdin_closed),
	        T(ended_with_the_session),
	        T(stderr_is_logged_and_limited),
	        T(descriptors),
	        T(descendants),
	        T(one_by_one),
	};

	/* As the daemon does. */
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
