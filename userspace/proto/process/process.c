/* SPDX-License-Identifier: MIT */
/*
 * STDIO-fork: a process for each session; its standard input and output are a byte stream.
 *
 * Starting a program takes milliseconds, during which the loop waits (vfork(2)). So programs are
 * started in slices, in the order of the sessions: a crowd of clients delays others by one start.
 *
 * The stream ends when the process was reaped and its output was read to the end. Closing the
 * stream closes stdin, then sends SIGTERM, then SIGKILL; `closed` is emitted when the process was
 * reaped.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/process.h"
#include "l7mp/protos.h"
#include "l7mp/slice.h"
#include "l7mp/stream_io.h"
#include "l7mp/util.h"
#include "net/net.h"

#define EXIT_MS      100  /* from the end of the output: wait for the exit before emitting `end` */
#define OUTPUT_MS    1000 /* from the exit or the last output after it: wait for the end */
#define TERM_MS      500  /* from the end of stdin to SIGTERM */
#define KILL_MS      2000 /* from SIGTERM to SIGKILL */
#define STDERR_MS    200  /* from the exit: read what remains in the pipe of stderr */
#define STDERR_LINE  1024 /* longest line of stderr that is logged in one record */
#define STDERR_LINES 20   /* lines of stderr that are logged per second */

/* The protocol's state in this process. */
struct process_state {
	struct l7mp_env *env;
	unsigned running; /* processes that were not reaped yet, and those that will be started */
	struct l7mp_slice slice;        /* starts those of the queue */
	struct process_stream *waiting; /* utlist.h */
};

struct process_stream {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct process_state *state;
	struct process_stream *prev, *next; /* in state->waiting, while `spec` is there */
	cJSON *spec;                        /* the cluster's, until the start */
	struct l7mp_process *process;       /* NULL: not started, or reaped */
	struct l7mp_stream_io *io, *log;    /* stdin and stdout; stderr. NULL: closed */
	struct l7mp_timer timer;
	struct l7mp_task task; /* emits `open` or `closed` */
	char *program;
	const char *session; /* name; valid until `closed` */
	bool open, reading, shut;
	bool stdin_closed; /* by the process: further input is dropped */
	bool eof;          /* the output was read to its end */
	bool end_emitted;
	bool closing;
	bool io_closed; /* io is being closed */
	int status, signal;
	int err;       /* reason of the end: negative errno, -ECHILD for a status other than 0 */
	char *refused; /* why it could not be started */
	struct l7mp_log_limit log_limit;
	size_t line_len;
	char line[STDERR_LINE + 1];
};

static void progress(struct process_stream *s);

static void stream_free(struct process_stream *s)
{
	l7mp_task_cancel(s->env->loop, &s->task);
	l7mp_timer_stop(s->env->loop, &s->timer);
	cJSON_Delete(s->spec);
	free(s->refused);
	free(s->program);
	free(s);
}

static void describe_exit(const struct process_stream *s, char *buf, size_t size)
{
	const char *name = s->signal ? sigabbrev_np(s->signal) : NULL;

	if (s->signal)
		snprintf(buf, size, "%s was killed by signal %d (SIG%s)", s->program, s->signal,
		         name ? name : "?");
	else
		snprintf(buf, size, "%s exited with status %d", s->program, s->status);
}

/* ---- ends ---- */

static void close_io(struct process_stream *s, bool abort)
{
	if (!s->io || (s->io_closed && !abort))
		return;
	s->io_closed = true;
	l7mp_stream_io_close(s->io, abort);
}

/* The process was reaped and all its output was emitted. */
static void finish(struct process_stream *s)
{
	s->closing = true;
	if (s->signal || s->status)
		s->err = -ECHILD;
	close_io(s, true);
	progress(s);
}

static void emit_end(struct process_stream *s)
{
	if (s->end_emitted)
		return;
	s->end_emitted = true;
	s->base.events->end(s->base.owner, 0);
}

static void after_exit(struct process_stream *s)
{
	emit_end(s);
	/* While paused, the owner may still have unread output: `closed` waits for it. */
	if (!s->closing && s->reading)
		l7mp_task_post(s->env->loop, &s->task);
}

static void on_task(struct l7mp_task *t, void *arg)
{
	struct process_stream *s = arg;
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
	if (s->refused) {
		l7mp_error_set(&err, s->err, L7MP_ERR_UPSTREAM, "%s", s->refused);
	} else if (s->err) {
		if (s->err == -ECHILD)
			describe_exit(s, how, sizeof(how));
		else
			snprintf(how, sizeof(how), "%s: %s", s->program, l7mp_errno_text(s->err));
		l7mp_error_set(&err, s->err, L7MP_ERR_UPSTREAM, "STDIO-fork: %s", how);
	}
	if (s->base.events)
		s->base.events->closed(s->base.owner, &err);
	stream_free(s);
}

/* Closing: posts `closed` when there is nothing left to wait for. */
static void progress(struct process_stream *s)
{
	if (!s->closing || s->process || s->io)
		return;
	if (!s->log)
		l7mp_task_post(s->env->loop, &s->task);
	else if (!l7mp_timer_armed(&s->timer) &&
	         l7mp_timer_start(s->env->loop, &s->timer, STDERR_MS))
		l7mp_stream_io_close(s->log, true);
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct process_stream *s = arg;

	if (s->closing && s->process) {
		l7mp_process_terminate(s->process, KILL_MS);
	} else if (s->closing) {
		if (s->log)
			l7mp_stream_io_close(s->log, true);
	} else if (s->eof) {
		/* The process has closed its output and continues to run. */
		emit_end(s);
	} else if (!s->reading) {
		(void)l7mp_timer_start(s->env->loop, t, OUTPUT_MS);
	} else {
		/* A descendant outside the process group keeps the output open. */
		s->eof = true;
		after_exit(s);
	}
}

static void on_exit_cb(void *arg, int status, int signal)
{
	struct process_stream *s = arg;
	char how[200];

	s->process = NULL;
	s->state->running--;
	s->status = status;
	s->signal = signal;
	l7mp_timer_stop(s->env->loop, &s->timer);
	describe_exit(s, how, sizeof(how));
	l7mp_log_verbose("process", "%s: %s", s->session, how);
	if (s->base.events && s->base.events->notice)
		s->base.events->notice(s->base.owner, "process-exit", how);
	if (s->closing)
		progress(s);
	else if (s->eof)
		after_exit(s);
	else if (l7mp_timer_start(s->env->loop, &s->timer, OUTPUT_MS))
		finish(s);
}

/* ---- stdin and stdout ---- */

static void on_data(void *arg, struct l7mp_buf *buf)
{
	struct process_stream *s = arg;

	if (!s->process)
		(void)l7mp_timer_start(s->env->loop, &s->timer, OUTPUT_MS);
	s->base.events->data(s->base.owner, buf);
}

static void on_drain(void *arg)
{
	struct process_stream *s = arg;

	s->base.events->drain(s->base.owner);
}

static void on_end(void *arg)
{
	struct process_stream *s = arg;

	s->eof = true;
	if (!s->process)
		after_exit(s);
	else if (l7mp_timer_start(s->env->loop, &s->timer, EXIT_MS))
		emit_end(s);
}

/* A process may exit without having read all its input: not an error of the stream. */
static void on_error(void *arg, int err)
{
	(void)err;
	on_end(arg);
}

static void on_closed(void *arg)
{
	struct process_stream *s = arg;

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

static void log_line(struct process_stream *s)
{
	uint32_t more = 0;

	s->line[s->line_len] = '\0';
	s->line_len = 0;
	if (!l7mp_log_allowed(&s->log_limit, l7mp_loop_now(s->env->loop), 1000, STDERR_LINES,
	                      &more))
		return;
	if (more)
		l7mp_log_notice("process", "%s: %s: (%u lines suppressed)", s->session, s->program,
		                more);
	l7mp_log_notice("process", "%s: %s: %s", s->session, s->program, s->line);
}

static void on_stderr(void *arg, struct l7mp_buf *buf)
{
	struct process_stream *s = arg;

	for (uint32_t i = 0; i < buf->len; i++) {
		uint8_t c = buf->data[i];

		if (c != '\n')
			s->line[s->line_len++] = (char)(c ? c : '?');
		if (c == '\n' || s->line_len == STDERR_LINE)
			log_line(s);
	}
	l7mp_buf_unref(buf);
}

static void on_stderr_end(void *arg)
{
	struct process_stream *s = arg;

	if (s->line_len)
		log_line(s);
	l7mp_stream_io_close(s->log, true);
}

static void on_stderr_error(void *arg, int err)
{
	(void)err;
	on_stderr_end(arg);
}

static void on_stderr_closed(void *arg)
{
	struct process_stream *s = arg;

	s->log = NULL;
	progress(s);
}

static const struct l7mp_stream_io_ops log_ops = {
        .data = on_stderr,
        .end = on_stderr_end,
        .error = on_stderr_error,
        .closed = on_stderr_closed,
};

/* ---- operations ---- */

/* A process that has closed its stdin may still write: the stream stays open. */
static int drop_input(struct process_stream *s, uint32_t len)
{
	l7mp_stats_drop(s->env->stats, L7MP_DROP_NOT_CONNECTED, 1, len);
	if (!s->stdin_closed && s->base.events->notice)
		s->base.events->notice(
		        s->base.owner, "stdin-closed",
		        "the process has closed its standard input; what is sent to it is dropped");
	s->stdin_closed = true;
	return 0;
}

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct process_stream *s = (struct process_stream *)base;
	uint32_t len = buf->len;
	int rc;

	if (!s->open || s->closing || s->shut) {
		l7mp_buf_unref(buf);
		return s->open ? -EPIPE : -ENOTCONN;
	}
	rc = l7mp_stream_io_write(s->io, buf);
	if (rc == -EPIPE)
		return drop_input(s, len);
	return rc == L7MP_STREAM_IO_FULL ? L7MP_STREAM_FULL : rc;
}

static void op_pause(struct l7mp_stream *base, bool on)
{
	struct process_stream *s = (struct process_stream *)base;

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
	struct process_stream *s = (struct process_stream *)base;

	(void)code;
	if (!s->open || s->closing || s->shut)
		return;
	s->shut = true;
	l7mp_stream_io_shutdown(s->io);
}

/* It will not be started, or it could not be. */
static void leave_queue(struct process_stream *s)
{
	DL_DELETE(s->state->waiting, s);
	cJSON_Delete(s->spec);
	s->spec = NULL;
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct process_stream *s = (struct process_stream *)base;
	bool first = !s->closing;

	if (!first && !abort)
		return;
	s->closing = true;
	if (s->spec) {
		leave_queue(s);
		s->state->running--;
	}
	close_io(s, abort);
	if (!s->process) {
		l7mp_timer_stop(s->env->loop, &s->timer);
		progress(s);
	} else if (abort || l7mp_timer_start(s->env->loop, &s->timer, TERM_MS)) {
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

/* Returns the argument vector: pointers into the spec, in an array to be freed. NULL: no memory. */
static const char **make_argv(const cJSON *command)
{
	size_t n = cJSON_IsArray(command) ? (size_t)cJSON_GetArraySize(command) : 1, i = 0;
	const char **argv = calloc(n + 1, sizeof(*argv));
	const cJSON *word;

	if (argv && cJSON_IsString(command))
		argv[0] = command->valuestring;
	else if (argv)
		cJSON_ArrayForEach (word, command)
			argv[i++] = cJSON_IsString(word) ? word->valuestring : "";
	return argv;
}

static void free_env(char **env)
{
	for (size_t i = 0; env && env[i]; i++)
		free(env[i]);
	free(env);
}

/* Returns "NAME=value" of the map, and L7MP_SESSION. NULL: no memory. */
static char **make_env(const cJSON *map, const char *session)
{
	char **env = calloc((size_t)cJSON_GetArraySize(map) + 2, sizeof(*env));
	const cJSON *var;
	size_t n = 0;

	if (!env)
		return NULL;
	env[n] = l7mp_asprintf("L7MP_SESSION=%s", session ? session : "");
	cJSON_ArrayForEach (var, map)
		if (env[n])
			env[++n] = l7mp_asprintf("%s=%s", var->string,
			                         cJSON_IsString(var) ? var->valuestring : "");
	if (env[n])
		return env;
	free_env(env);
	return NULL;
}

static int spawn(struct process_stream *s, int fds[static 3])
{
	bool log = strcmp(l7mp_json_str(s->spec, "stderr", "log"), "discard") != 0;
	const char **argv = make_argv(l7mp_json_member(s->spec, "command"));
	char **env = make_env(l7mp_json_member(s->spec, "env"), s->session);
	struct l7mp_process_options o = {
	        .argv = argv,
	        .env = (const char *const *)env,
	        .cwd = l7mp_json_str(s->spec, "cwd", NULL),
	        .pipes = L7MP_PROCESS_STDIN | L7MP_PROCESS_STDOUT | (log ? L7MP_PROCESS_STDERR : 0),
	};
	int rc = -ENOMEM;

	if (argv && argv[0] && env)
		s->program = strdup(argv[0]);
	if (s->program)
		rc = l7mp_process_spawn(s->env->loop, &o, fds, on_exit_cb, s, &s->process);
	if (rc)
		s->refused = l7mp_asprintf(
		        "STDIO-fork: can't run %s%s%s: %s", s->program ? s->program : "the command",
		        o.cwd ? " in " : "", o.cwd ? o.cwd : "", l7mp_errno_text(rc));
	free(argv);
	free_env(env);
	return rc;
}

/* Opens byte streams over the pipes; takes fds. */
static int open_pipes(struct process_stream *s, const int fds[static 3])
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

static void start(struct process_stream *s)
{
	int fds[3] = {-1, -1, -1};

	s->err = spawn(s, fds);
	leave_queue(s);
	if (s->err) {
		s->state->running--;
		s->closing = true;
		progress(s);
		return;
	}
	s->err = open_pipes(s, fds);
	if (s->err)
		/* The process runs already: terminate it; `closed` reports the reason. */
		op_close(&s->base, true);
	else
		l7mp_task_post(s->env->loop, &s->task);
}

static void start_some(struct l7mp_slice *slice, void *arg)
{
	struct process_state *state = arg;
	struct l7mp_loop *loop = state->env->loop;

	while (state->waiting) {
		start(state->waiting);
		if (l7mp_slice_over(loop))
			break;
	}
	if (state->waiting)
		l7mp_slice_post(loop, slice);
}

static int process_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                           struct l7mp_error *err)
{
	struct process_state *state = l7mp_proto_state(p->env, &l7mp_proto_fork, err);
	struct process_stream *s;

	if (!state)
		return -ENOMEM;
	if (state->running >= p->env->limits->max_processes) {
		p->env->stats->refusals[L7MP_REFUSE_MAX_PROCESSES]++;
		return l7mp_error_set(
		        err, -EAGAIN, L7MP_ERR_LIMIT,
		        "STDIO-fork: %u processes run, limits.max_processes allows no more",
		        state->running);
	}
	s = calloc(1, sizeof(*s));
	if (s)
		s->spec = cJSON_Duplicate(p->cluster_spec, true);
	if (!s || !s->spec) {
		free(s);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	s->base.ops = &stream_ops;
	s->base.kind = L7MP_KIND_STREAM;
	s->env = p->env;
	s->state = state;
	s->session = p->session ? p->session : "";
	l7mp_timer_init(&s->timer, on_timer, s);
	l7mp_task_init(&s->task, on_task, s);
	state->running++;
	DL_APPEND(state->waiting, s);
	l7mp_slice_post(p->env->loop, &state->slice);
	*out = &s->base;
	return 0;
}

/* ---- state ---- */

static int process_start(struct l7mp_env *env, void **out, struct l7mp_error *err)
{
	struct process_state *state = calloc(1, sizeof(*state));

	*out = state;
	if (!state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	state->env = env;
	l7mp_slice_init(&state->slice, start_some, state);
	return 0;
}

static void process_stop(struct l7mp_env *env, void *arg)
{
	struct process_state *state = arg;

	l7mp_slice_cancel(env->loop, &state->slice);
	free(state);
}

/* ---- tables ---- */

static const struct l7mp_field word = {.type = L7MP_T_STRING};
static const struct l7mp_field command_array = {
        .type = L7MP_T_ARRAY, .item = &word, .min = 1, .max = 4096};
static const struct l7mp_field command_string = {
        .type = L7MP_T_STRING, .min = 1, .max = 4096, .pattern = L7MP_P_PATH};
static const struct l7mp_field *const commands[] = {&command_array, &command_string, NULL};
static const char *const stderr_values[] = {"log", "discard", NULL};
static const struct l7mp_field cluster_fields[] = {
        {.key = "command",
         .type = L7MP_T_ONEOF,
         .flags = L7MP_F_REQUIRED,
         .alternatives = commands,
         .doc = "the program and its arguments, run without a shell; a string is a program without "
                "arguments; without a / it is looked up in PATH"},
        {.key = "env",
         .type = L7MP_T_MAP,
         .item = &word,
         .doc = "environment variables, beside the proxy's own and L7MP_SESSION (the session's "
                "name)"},
        {.key = "cwd", .type = L7MP_T_STRING, .pattern = L7MP_P_PATH, .doc = "working directory"},
        {.key = "stderr",
         .type = L7MP_T_ENUM,
         .values = stderr_values,
         .def = "\"log\"",
         .doc = "log: its lines go to the proxy's log, at most 20 a second for each session; "
                "discard: nowhere"},
        {0},
};

static void check_cluster(const cJSON *spec, const char *path, struct l7mp_issues *issues)
{
	const cJSON *command = l7mp_json_member(spec, "command"), *var;
	const cJSON *program = cJSON_IsArray(command) ? command->child : NULL;
	char at[256];

	if (cJSON_IsString(program) && !program->valuestring[0]) {
		snprintf(at, sizeof(at), "%.200s.command[0]", path);
		l7mp_issues_add(issues, false, program, at, "expected a program, got \"\"");
	}
	cJSON_ArrayForEach (var, l7mp_json_member(spec, "env")) {
		if (var->string && var->string[0] && !strchr(var->string, '='))
			continue;
		snprintf(at, sizeof(at), "%.200s.env", path);
		l7mp_issues_add(issues, false, var, path,
		                "expected names of variables (not empty, without =), got \"%s\"",
		                var->string ? var->string : "");
	}
}

static const struct l7mp_schema cluster_spec = {
        .name = "fork-cluster",
        .doc = "Starts a process for each session; the session writes to its standard input and "
               "reads its standard output. Its exit ends the stage, and it is ended with the "
               "session",
        .fields = cluster_fields,
        .check = check_cluster,
};

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
                        .cluster_spec = &cluster_spec,
                },
        .start = process_start,
        .stop = process_stop,
        .connect = process_connect,
};
