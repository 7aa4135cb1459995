/* SPDX-License-Identifier: MIT */
/*
 * STDIO-fork: a process of each session's own, its standard input and output as a byte
 * stream.
 *
 * The stream is over when the process was reaped and its output is read to the end,
 * and a stream that is closed has no process left: closing it ends stdin first, then come
 * SIGTERM and SIGKILL.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fork_int.h"
#include "l7mp/log.h"
#include "l7mp/process.h"
#include "l7mp/protos.h"
#include "l7mp/stream_io.h"
#include "l7mp/util.h"
#include "net/net.h"

#define EXIT_MS  100  /* after the end of the output the exit is waited for that long */
#define REST_MS  1000 /* after the exit somebody else's hold on the output is waited for */
#define LEAVE_MS 500  /* between the end of stdin and SIGTERM */
#define KILL_MS  2000 /* between SIGTERM and SIGKILL */
#define WORDS_MS 200  /* for what is left in stderr's pipe */
#define LINE     1024 /* longest line of stderr that is logged in one piece */
#define LINES    20   /* lines of stderr that are logged each second */

struct fork_stream {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct l7mp_process *process;    /* NULL: reaped */
	struct l7mp_stream_io *io, *log; /* stdin and stdout; stderr. NULL: closed */
	struct l7mp_timer timer;
	struct l7mp_task task; /* open, end, closed */
	char *program;
	const char *session; /* stays valid until `closed` */
	bool open, reading, shut;
	bool deaf; /* it reads no more: what is written is dropped */
	bool eof;  /* its output is read */
	bool end_told;
	bool closing;   /* only waits for what is left */
	bool io_closed; /* io is being closed */
	int status, signal;
	int err;
	struct l7mp_log_limit log_limit;
	size_t line_len;
	char line[LINE + 1];
};

static void progress(struct fork_stream *s);

static void fork_free(struct fork_stream *s)
{
	l7mp_task_cancel(s->env->loop, &s->task);
	l7mp_timer_stop(s->env->loop, &s->timer);
	free(s->program);
	free(s);
}

static void say_how(const struct fork_stream *s, char *buf, size_t size)
{
	const char *name = s->signal ? sigabbrev_np(s->signal) : NULL;

	if (s->signal)
		snprintf(buf, size, "%s was killed by signal %d (SIG%s)", s->program, s->signal,
		         name ? name : "?");
	else
		snprintf(buf, size, "%s exited with status %d", s->program, s->status);
}

/* ---- ends ---- */

static void close_io(struct fork_stream *s, bool abort)
{
	if (!s->io || (s->io_closed && !abort))
		return;
	s->io_closed = true;
	l7mp_stream_io_close(s->io, abort);
}

/* The process is gone and all it said was handed on. */
static void finish(struct fork_stream *s)
{
	s->closing = true;
	if (s->signal || s->status)
		s->err = -ECHILD;
	close_io(s, true);
	progress(s);
}

static void tell_end(struct fork_stream *s)
{
	if (s->end_told)
		return;
	s->end_told = true;
	s->base.events->end(s->base.owner, 0);
}

static void after_exit(struct fork_stream *s)
{
	tell_end(s);
	/* While paused, what it said last may still wait behind us. */
	if (!s->closing && s->reading)
		l7mp_task_post(s->env->loop, &s->task);
}

static void on_task(struct l7mp_task *t, void *arg)
{
	struct fork_stream *s = arg;
	struct l7mp_error err = {.code = L7MP_OK};
	char how[200];

	(void)t;
	if (!s->open && !s->closing) {
		s->open = true;
		l7mp_stream_io_read(s->io, s->reading);
		s->base.events->open(s->base.owner);
		return;
	}
	if (!s->closing) {
		if (!s->process && s->eof && s->reading)
			finish(s);
		return;
	}
	if (s->process || s->io || s->log)
		return;
	if (s->err) {
		if (s->err == -ECHILD)
			say_how(s, how, sizeof(how));
		else
			snprintf(how, sizeof(how), "%s: %s", s->program, l7mp_errno_text(s->err));
		l7mp_error_set(&err, s->err, L7MP_ERR_UPSTREAM, "STDIO-fork: %s", how);
	}
	if (s->base.events)
		s->base.events->closed(s->base.owner, &err);
	fork_free(s);
}

/* Closing: what is to be waited for next? */
static void progress(struct fork_stream *s)
{
	if (!s->closing || s->process || s->io)
		return;
	if (!s->log)
		l7mp_task_post(s->env->loop, &s->task);
	else if (!l7mp_timer_armed(&s->timer) &&
	         l7mp_timer_start(s->env->loop, &s->timer, WORDS_MS))
		l7mp_stream_io_close(s->log, true);
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct fork_stream *s = arg;

	if (s->closing && s->process) {
		l7mp_process_terminate(s->process, KILL_MS);
	} else if (s->closing) {
		if (s->log)
			l7mp_stream_io_close(s->log, true);
	} else if (s->eof) {
		/* It closed its output and goes on. */
		tell_end(s);
	} else if (!s->reading) {
		(void)l7mp_timer_start(s->env->loop, t, REST_MS);
	} else {
		/* A descendant that left its process group holds the output. */
		s->eof = true;
		after_exit(s);
	}
}

static void on_exit_cb(void *arg, int status, int signal)
{
	struct fork_stream *s = arg;
	char how[200];

	s->process = NULL;
	s->status = status;
	s->signal = signal;
	l7mp_timer_stop(s->env->loop, &s->timer);
	say_how(s, how, sizeof(how));
	l7mp_log_verbose("fork", "%s: %s", s->session, how);
	if (s->base.events && s->base.events->notice)
		s->base.events->notice(s->base.owner, "process-exit", how);
	if (s->closing)
		progress(s);
	else if (s->eof)
		after_exit(s);
	else if (l7mp_timer_start(s->env->loop, &s->timer, REST_MS))
		finish(s);
}

/* ---- stdin and stdout ---- */

static void on_data(void *arg, struct l7mp_buf *buf)
{
	struct fork_stream *s = arg;

	if (!s->process)
		(void)l7mp_timer_start(s->env->loop, &s->timer, REST_MS);
	s->base.events->data(s->base.owner, buf);
}

static void on_drain(void *arg)
{
	struct fork_stream *s = arg;

	s->base.events->drain(s->base.owner);
}

static void on_end(void *arg)
{
	struct fork_stream *s = arg;

	s->eof = true;
	if (!s->process)
		after_exit(s);
	else if (l7mp_timer_start(s->env->loop, &s->timer, EXIT_MS))
		tell_end(s);
}

/* After the end of its output: that it did not read all its input is its own affair. */
static void on_error(void *arg, int err)
{
	(void)err;
	on_end(arg);
}

static void on_closed(void *arg)
{
	struct fork_stream *s = arg;

	s->io = NULL;
	progress(s);
}

static const struct l7mp_stream_io_ops io_ops = {
        .data = on_data,
        .drain = on_drain,
        .end = on_end,
        .error = on_error,
        .closed = on_closed,
};

/* ---- stderr ---- */

static void log_line(struct fork_stream *s)
{
	uint32_t more = 0;

	s->line[s->line_len] = '\0';
	s->line_len = 0;
	if (!l7mp_log_allowed(&s->log_limit, l7mp_loop_now(s->env->loop), 1000, LINES, &more))
		return;
	if (more)
		l7mp_log_notice("fork", "%s: %s: (%u lines were left out)", s->session, s->program,
		                more);
	l7mp_log_notice("fork", "%s: %s: %s", s->session, s->program, s->line);
}

static void on_words(void *arg, struct l7mp_buf *buf)
{
	struct fork_stream *s = arg;

	for (uint32_t i = 0; i < buf->len; i++) {
		uint8_t c = buf->data[i];

		if (c != '\n')
			s->line[s->line_len++] = (char)(c ? c : '?');
		if (c == '\n' || s->line_len == LINE)
			log_line(s);
	}
	l7mp_buf_unref(buf);
}

static void on_words_end(void *arg)
{
	struct fork_stream *s = arg;

	if (s->line_len)
		log_line(s);
	l7mp_stream_io_close(s->log, true);
}

static void on_words_error(void *arg, int err)
{
	(void)err;
	on_words_end(arg);
}

static void on_words_closed(void *arg)
{
	struct fork_stream *s = arg;

	s->log = NULL;
	progress(s);
}

static const struct l7mp_stream_io_ops log_ops = {
        .data = on_words,
        .end = on_words_end,
        .error = on_words_error,
        .closed = on_words_closed,
};

/* ---- operations ---- */

/* Who stops reading may still have something to say: that does not break the stream. */
static int swallow(struct fork_stream *s, uint32_t len)
{
	l7mp_stats_drop(s->env->stats, L7MP_DROP_NOT_CONNECTED, 1, len);
	if (!s->deaf && s->base.events->notice)
		s->base.events->notice(s->base.owner, "stdin-closed",
		                       "the process reads no more; what is sent to it is dropped");
	s->deaf = true;
	return 0;
}

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct fork_stream *s = (struct fork_stream *)base;
	uint32_t len = buf->len;
	int rc;

	if (!s->open || s->closing || s->shut) {
		l7mp_buf_unref(buf);
		return s->open ? -EPIPE : -ENOTCONN;
	}
	rc = l7mp_stream_io_write(s->io, buf);
	if (rc == -EPIPE)
		return swallow(s, len);
	return rc == L7MP_STREAM_IO_FULL ? L7MP_STREAM_FULL : rc;
}

static void op_pause(struct l7mp_stream *base, bool on)
{
	struct fork_stream *s = (struct fork_stream *)base;

	s->reading = !on;
	if (!s->open || s->closing)
		return;
	if (!s->eof)
		l7mp_stream_io_read(s->io, !on);
	else if (!on && !s->process)
		l7mp_task_post(s->env->loop, &s->task);
}

static void op_shutdown(struct l7mp_stream *base, int code)
{
	struct fork_stream *s = (struct fork_stream *)base;

	(void)code;
	if (!s->open || s->closing || s->shut)
		return;
	s->shut = true;
	l7mp_stream_io_shutdown(s->io);
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct fork_stream *s = (struct fork_stream *)base;
	bool first = !s->closing;

	if (!first && !abort)
		return;
	s->closing = true;
	close_io(s, abort);
	if (!s->process) {
		l7mp_timer_stop(s->env->loop, &s->timer);
		progress(s);
	} else if (abort || l7mp_timer_start(s->env->loop, &s->timer, LEAVE_MS)) {
		l7mp_timer_stop(s->env->loop, &s->timer);
		l7mp_process_terminate(s->process, KILL_MS);
	}
}

static const struct l7mp_stream_ops stream_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
};

/* ---- starting ---- */

static int spawn(struct fork_stream *s, const struct l7mp_connect *p, int fds[static 3],
                 struct l7mp_error *err)
{
	const cJSON *spec = p->cluster_spec;
	bool log = strcmp(l7mp_json_str(spec, "stderr", "log"), "discard") != 0;
	const char **argv = fork_argv(l7mp_json_member(spec, "command"));
	char **env = fork_env(l7mp_json_member(spec, "env"), p->session);
	struct l7mp_process_options o = {
	        .argv = argv,
	        .env = (const char *const *)env,
	        .cwd = l7mp_json_str(spec, "cwd", NULL),
	        .pipes = L7MP_PROCESS_STDIN | L7MP_PROCESS_STDOUT | (log ? L7MP_PROCESS_STDERR : 0),
	};
	int rc = -ENOMEM;

	if (argv && argv[0] && env)
		s->program = strdup(argv[0]);
	if (s->program)
		rc = l7mp_process_spawn(s->env->loop, &o, fds, on_exit_cb, s, &s->process);
	if (rc)
		l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "STDIO-fork: can't run %s%s%s: %s",
		               s->program ? s->program : "the command", o.cwd ? " in " : "",
		               o.cwd ? o.cwd : "", l7mp_errno_text(rc));
	free(argv);
	fork_env_free(env);
	return rc;
}

/* Byte streams over the pipes. Takes fds. */
static int open_pipes(struct fork_stream *s, const int fds[static 3])
{
	int rc = l7mp_stream_io_open_pipe(s->env->loop, fds[1], fds[0], &io_ops, s, &s->io);

	if (rc || fds[2] < 0) {
		if (fds[2] >= 0)
			close(fds[2]);
		return rc;
	}
	rc = l7mp_stream_io_open_pipe(s->env->loop, fds[2], -1, &log_ops, s, &s->log);
	if (!rc)
		l7mp_stream_io_read(s->log, true);
	return rc;
}

static int fork_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                        struct l7mp_error *err)
{
	struct fork_stream *s = calloc(1, sizeof(*s));
	int rc, fds[3] = {-1, -1, -1};

	if (!s)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	s->base.ops = &stream_ops;
	s->base.kind = L7MP_KIND_STREAM;
	s->env = p->env;
	s->session = p->session ? p->session : "";
	l7mp_timer_init(&s->timer, on_timer, s);
	l7mp_task_init(&s->task, on_task, s);
	rc = spawn(s, p, fds, err);
	if (rc) {
		fork_free(s);
		return rc;
	}
	*out = &s->base;
	rc = open_pipes(s, fds);
	if (!rc) {
		l7mp_task_post(p->env->loop, &s->task);
		return 0;
	}
	/* The process runs already: it ends on its own time, and `closed` says why. */
	s->err = rc;
	op_close(&s->base, true);
	return 0;
}

static const char *const aliases[] = {"Fork", "Exec", NULL};

const struct l7mp_proto l7mp_proto_fork = {
        .desc =
                {
                        .name = "STDIO-fork",
                        .aliases = aliases,
                        .doc = "A process of the session's own, without a shell",
                        .roles = L7MP_ROLE_CLUSTER,
                        .flags = L7MP_PROTO_VIRTUAL,
                        .kind = L7MP_KIND_STREAM,
                        .cluster_spec = &fork_cluster_spec,
                },
        .connect = fork_connect,
};
