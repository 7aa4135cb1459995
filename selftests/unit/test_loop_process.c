/* SPDX-License-Identifier: MIT */
/* Child processes: pipes, environment, exit, termination, no zombies, nothing inherited. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "l7mp/process.h"
#include "l7mp/stream_io.h"
#include "looptest.h"

struct run {
	struct l7mp_loop *loop;
	struct l7mp_process *p;
	struct l7mp_stream_io *io, *err;
	int exits, status, signal, ended, closed;
	char out[4096];
	size_t len;
};

static void on_exit_cb(void *arg, int status, int signal)
{
	struct run *r = arg;

	r->exits++;
	r->status = status;
	r->signal = signal;
	r->p = NULL;
}

static void on_data(void *arg, struct l7mp_buf *buf)
{
	struct run *r = arg;

	if (r->len + buf->len < sizeof(r->out)) {
		memcpy(r->out + r->len, buf->data, buf->len);
		r->len += buf->len;
	}
	l7mp_buf_unref(buf);
}

static void on_end(void *arg)
{
	((struct run *)arg)->ended++;
}

static void on_error(void *arg, int err)
{
	(void)arg;
	fail_msg("error %d", err);
}

static void on_closed(void *arg)
{
	((struct run *)arg)->closed++;
}

static const struct l7mp_stream_io_ops ops = {
        .data = on_data, .end = on_end, .error = on_error, .closed = on_closed};

static int start(struct run *r, const char *const *argv, const char *const *env, const char *cwd,
                 unsigned pipes)
{
	struct l7mp_process_options o = {.argv = argv, .env = env, .cwd = cwd, .pipes = pipes};
	int fds[3], rc;

	memset(r, 0, sizeof(*r));
	assert_int_equal(l7mp_loop_new(&r->loop), 0);
	rc = l7mp_process_spawn(r->loop, &o, fds, on_exit_cb, r, &r->p);
	if (rc) {
		assert_int_equal(fds[0], -1);
		assert_int_equal(fds[1], -1);
		return rc;
	}
	assert_int_equal(r->exits, 0);
	if (pipes & (L7MP_PROCESS_STDIN | L7MP_PROCESS_STDOUT)) {
		assert_int_equal(l7mp_stream_io_open_pipe(r->loop, fds[1], fds[0], &ops, r, &r->io),
		                 0);
		l7mp_stream_io_read(r->io, true);
	}
	if (fds[2] >= 0) {
		assert_int_equal(l7mp_stream_io_open_pipe(r->loop, fds[2], -1, &ops, r, &r->err),
		                 0);
		l7mp_stream_io_read(r->err, true);
	}
	return 0;
}

static void done(struct run *r)
{
	int streams = !!r->io + !!r->err;

	if (r->io)
		l7mp_stream_io_close(r->io, true);
	if (r->err)
		l7mp_stream_io_close(r->err, true);
	LOOP_UNTIL(r->loop, r->closed == streams, 3000);
	assert_int_equal(l7mp_loop_free(&r->loop), 0);
	/* No child is left, running or not. */
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

static void filter(void **state)
{
	struct run r;
	(void)state;

	assert_int_equal(start(&r, ARGV("cat"), NULL, NULL, 3), 0);
	l7mp_stream_io_write(r.io, l7mp_buf_copy(l7mp_loop_bufs(r.loop), "hello", 5));
	l7mp_stream_io_shutdown(r.io);
	LOOP_UNTIL(r.loop, r.ended && r.exits, 5000);
	assert_int_equal(r.status, 0);
	assert_int_equal(r.signal, 0);
	assert_string_equal(r.out, "hello");
	done(&r);
}

static void options(void **state)
{
	struct run r;
	(void)state;

	assert_int_equal(setenv("L7MP_TEST_A", "old", 1), 0);
	assert_int_equal(setenv("L7MP_TEST_B", "kept", 1), 0);
	assert_int_equal(
	        start(&r,
	              ARGV("/bin/sh", "-c", "echo $L7MP_TEST_A $L7MP_TEST_B $PWD >&2; cat; exit 7"),
	              ARGV("L7MP_TEST_A=new"), "/", L7MP_PROCESS_STDERR),
	        0);
	LOOP_UNTIL(r.loop, r.ended && r.exits, 5000);
	assert_string_equal(r.out, "new kept /\n");
	assert_int_equal(r.status, 7);
	done(&r);
}

/* Descriptors of this process, with or without close-on-exec, and ignored signals stay here. */
static void nothing_inherited(void **state)
{
	struct run r;
	int leak = open("/dev/null", O_RDONLY); /* no close-on-exec, as third parties may do */
	(void)state;

	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(start(&r,
	                       ARGV("/bin/sh", "-c",
	                            "for f in /proc/self/fd/*; do echo ${f##*/}; done; "
	                            "kill -PIPE $$; echo ignored"),
	                       NULL, NULL, L7MP_PROCESS_STDOUT),
	                 0);
	LOOP_UNTIL(r.loop, r.ended && r.exits, 5000);
	close(leak);
	assert_null(strstr(r.out, "ignored"));
	assert_int_equal(r.signal, SIGPIPE);
	/* The glob opens one descriptor itself. */
	assert_memory_equal(r.out, "0\n1\n2\n", 6);
	assert_true(r.len <= 8);
	done(&r);
}

/* Not even root's programs have a capability; the bounding set can be emptied by root only. */
static void no_capability(void **state)
{
	const char *const sets = geteuid() ? "Inh|Prm|Eff|Amb" : "Inh|Prm|Eff|Bnd|Amb";
	char script[200];
	struct run r;

	(void)state;
	snprintf(script, sizeof(script),
	         "grep -E 'Cap(%s)' /proc/self/status | tr -d '0\t ' | cut -d: -f2 | tr -d '\n'; "
	         "echo end",
	         sets);
	assert_int_equal(start(&r, ARGV("/bin/sh", "-c", script), NULL, NULL, L7MP_PROCESS_STDOUT),
	                 0);
	LOOP_UNTIL(r.loop, r.ended && r.exits, 5000);
	assert_int_equal(r.status, 0);
	assert_memory_equal(r.out, "end", 3);
	done(&r);
}

/* Found in PATH as execvp(3) does, but what has no known format is not given to a shell. */
static void in_path(void **state)
{
	char folder[] = "/tmp/l7mp-test-XXXXXX", path[64], search[128];
	char *before = strdup(getenv("PATH") ? getenv("PATH") : "");
	struct run r;
	FILE *f;

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/l7mp-no-format", folder);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs("echo shell\n", f);
	fclose(f);
	snprintf(search, sizeof(search), "/nonexistent:%s::/bin:/usr/bin", folder);
	setenv("PATH", search, 1);
	assert_int_equal(start(&r, ARGV("l7mp-no-format"), NULL, NULL, 3), -EACCES);
	done(&r);
	assert_int_equal(chmod(path, 0755), 0);
	assert_int_equal(start(&r, ARGV("l7mp-no-format"), NULL, NULL, 3), -ENOEXEC);
	done(&r);
	assert_int_equal(start(&r, ARGV("l7mp-not-there"), NULL, NULL, 3), -ENOENT);
	done(&r);
	assert_int_equal(start(&r, ARGV(""), NULL, NULL, 3), -ENOENT);
	done(&r);
	assert_int_equal(start(&r, ARGV("true"), NULL, NULL, 3), 0);
	LOOP_UNTIL(r.loop, r.ended && r.exits, 5000);
	assert_int_equal(r.status, 0);
	done(&r);
	setenv("PATH", before, 1);
	free(before);
	unlink(path);
	rmdir(folder);
}

static void not_there(void **state)
{
	struct run r;
	(void)state;

	assert_int_equal(start(&r, ARGV("/nonexistent/program"), NULL, NULL, 3), -ENOENT);
	done(&r);
	assert_int_equal(start(&r, ARGV("/etc/passwd"), NULL, NULL, 7), -EACCES);
	done(&r);
	assert_int_equal(start(&r, ARGV("cat"), NULL, "/nonexistent", 7), -ENOENT);
	done(&r);
}

static void terminate(void **state)
{
	struct run r;
	uint64_t begin;
	(void)state;

	/* The whole group, not only the shell. */
	assert_int_equal(start(&r, ARGV("/bin/sh", "-c", "sleep 100; true"), NULL, NULL, 2), 0);
	l7mp_process_terminate(r.p, 5000);
	l7mp_process_terminate(r.p, 5000);
	LOOP_UNTIL(r.loop, r.exits && r.ended, 3000);
	assert_int_equal(r.signal, SIGTERM);
	done(&r);

	/* One that ignores TERM is killed after the grace. */
	assert_int_equal(
	        start(&r,
	              ARGV("/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"),
	              NULL, NULL, 2),
	        0);
	LOOP_UNTIL(r.loop, r.len == 6, 3000);
	begin = looptest_ms();
	l7mp_process_terminate(r.p, 200);
	LOOP_UNTIL(r.loop, r.exits && r.ended, 3000);
	assert_int_equal(r.signal, SIGKILL);
	assert_in_range(looptest_ms() - begin, 190, 2500);
	done(&r);
}

int main(void)
{
	const struct CMUnitTest all[] = {
	        cmocka_unit_test(filter),
	        cmocka_unit_test(options),
	        cmocka_unit_test(nothing_inherited),
	        cmocka_unit_test(no_capability),
	        cmocka_unit_test(in_path),
	        cmocka_unit_test(not_there),
	        cmocka_unit_test(terminate),
	};

	return cmocka_run_group_tests(all, NULL, NULL);
}
