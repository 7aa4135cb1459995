/* SPDX-License-Identifier: MIT */
/*
 * Stdio: the proxy's standard input and output, for one session at a time. A listener emits one
 * session at startup; with `exit` the proxy ends with it, like a client program.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l7mp/log.h"
#include "l7mp/protos.h"
#include "l7mp/stream_io.h"
#include "l7mp/util.h"
#include "net/net.h"

/*
 * How long a listener's session stays open, without input, after the other end has finished, as in
 * socat. Otherwise a user at a terminal would have to end the input, too.
 */
#define LINGER_MS 500

struct stdio_state {
	const char *session; /* the name of the session that uses it; NULL: none */
	uint64_t last_id;
};

struct stdio_listener {
	struct l7mp_proto_listener base;
	struct l7mp_env *env;
	struct l7mp_task task; /* emits the session */
	char *name;
	uint64_t linger_ms;
	bool exit;
};

struct stdio_stream {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct stdio_state *state;
	struct l7mp_stream_io *io;
	struct l7mp_task task; /* emits `open` */
	struct l7mp_timer linger;
	uint64_t linger_ms; /* after the end of the input; 0: until the session ends */
	bool open, reading, closing;
	bool source;     /* of a listener */
	bool ended;      /* the input; `end` was emitted */
	bool peer_ended; /* nothing more will be written */
	bool exit, failed;
	int err;
};

static void on_open(struct l7mp_task *t, void *arg)
{
	struct stdio_stream *s = arg;

	(void)t;
	if (s->closing || s->err)
		return;
	s->open = true;
	l7mp_stream_io_read(s->io, s->reading);
	s->base.events->open(s->base.owner);
}

/* ---- input and output ---- */

static void on_data(void *arg, struct l7mp_buf *buf)
{
	struct stdio_stream *s = arg;

	if (s->source && s->peer_ended)
		(void)l7mp_timer_start(s->env->loop, &s->linger, LINGER_MS);
	s->base.events->data(s->base.owner, buf);
}

static void on_drain(void *arg)
{
	struct stdio_stream *s = arg;

	s->base.events->drain(s->base.owner);
}

static void on_end(void *arg)
{
	struct stdio_stream *s = arg;

	if (s->ended)
		return;
	s->ended = true;
	l7mp_timer_stop(s->env->loop, &s->linger);
	if (s->linger_ms)
		(void)l7mp_timer_start(s->env->loop, &s->linger, s->linger_ms);
	s->base.events->end(s->base.owner, 0);
}

static void on_linger(struct l7mp_timer *t, void *arg)
{
	struct stdio_stream *s = arg;

	(void)t;
	if (s->closing || s->err)
		return;
	if (s->ended) {
		s->closing = true;
		l7mp_stream_io_close(s->io, false);
		return;
	}
	l7mp_stream_io_read(s->io, false);
	on_end(s);
}

static void on_error(void *arg, int err)
{
	struct stdio_stream *s = arg;

	s->err = err < 0 ? err : -EIO;
	l7mp_stream_io_close(s->io, true);
}

static void on_closed(void *arg)
{
	struct stdio_stream *s = arg;
	struct l7mp_error err = {.code = L7MP_OK};

	l7mp_task_cancel(s->env->loop, &s->task);
	l7mp_timer_stop(s->env->loop, &s->linger);
	s->state->session = NULL;
	if (s->exit && s->env->quit)
		s->env->quit(s->env, s->failed || s->err ? EXIT_FAILURE : EXIT_SUCCESS);
	if (s->err)
		l7mp_error_set(&err, s->err, L7MP_ERR_UPSTREAM, "Stdio: %s", strerror(-s->err));
	if (s->base.events)
		s->base.events->closed(s->base.owner, &err);
	free(s);
}

static const struct l7mp_stream_io_ops io_ops = {
        .data = on_data,
        .drain = on_drain,
        .end = on_end,
        .error = on_error,
        .closed = on_closed,
};

/* ---- operations ---- */

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct stdio_stream *s = (struct stdio_stream *)base;
	int rc;

	if (!s->open || s->closing || s->err) {
		rc = s->open ? -EPIPE : -ENOTCONN;
		l7mp_buf_unref(buf);
		return rc;
	}
	if (s->ended && s->linger_ms)
		(void)l7mp_timer_start(s->env->loop, &s->linger, s->linger_ms);
	rc = l7mp_stream_io_write(s->io, buf);
	return rc == L7MP_STREAM_IO_FULL ? L7MP_STREAM_FULL : rc;
}

static void op_pause(struct l7mp_stream *base, bool on)
{
	struct stdio_stream *s = (struct stdio_stream *)base;

	s->reading = !on;
	if (s->open && !s->closing && !s->err && !s->ended)
		l7mp_stream_io_read(s->io, !on);
}

static void op_shutdown(struct l7mp_stream *base, int code)
{
	struct stdio_stream *s = (struct stdio_stream *)base;

	(void)code;
	if (!s->open || s->closing || s->err)
		return;
	l7mp_stream_io_shutdown(s->io);
	s->peer_ended = true;
	if (s->source && !s->ended)
		(void)l7mp_timer_start(s->env->loop, &s->linger, LINGER_MS);
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct stdio_stream *s = (struct stdio_stream *)base;

	s->failed |= abort;
	/* Data written before a failure is still output: only the input is ended. */
	if (!s->closing || (abort && !s->source))
		l7mp_stream_io_close(s->io, abort && !s->source);
	s->closing = true;
}

/* The session's result of its set-up. It has already logged errors. */
static void op_result(struct l7mp_stream *base, int status, const char *message)
{
	struct stdio_stream *s = (struct stdio_stream *)base;

	(void)message;
	s->failed |= status / 100 != 2;
}

static const struct l7mp_stream_ops stream_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
};
static const struct l7mp_stream_ops source_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
        .result = op_result,
};

/* ---- connecting ---- */

/*
 * Returns a private descriptor for a standard one. O_NONBLOCK belongs to the open file description,
 * which is shared with the shell, so a terminal or pipe is opened again. A regular file does not
 * block, and its position must remain shared. Negative with errno on failure.
 */
static int own_fd(int fd, int flags)
{
	char path[32];
	struct stat st;
	int own;

	if (fstat(fd, &st))
		return open("/dev/null", flags | O_CLOEXEC);
	if (!S_ISREG(st.st_mode)) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		own = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (own >= 0)
			return own;
	}
	own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (own >= 0 && !S_ISREG(st.st_mode))
		(void)fcntl(own, F_SETFL, fcntl(own, F_GETFL) | O_NONBLOCK);
	return own;
}

static int open_io(struct stdio_stream *s)
{
	int out, rc, in = own_fd(STDIN_FILENO, O_RDONLY);

	if (in < 0)
		return -errno;
	out = own_fd(STDOUT_FILENO, O_WRONLY);
	if (out < 0) {
		rc = -errno;
		close(in);
		return rc;
	}
	return l7mp_stream_io_open_pipe(s->env->loop, in, out, &io_ops, s, &s->io);
}

/* Creates a stream on standard input and output, paused. Returns 0 or negative errno. */
static int stream_new(struct l7mp_env *env, struct stdio_state *state, const char *session,
                      struct stdio_stream **out)
{
	struct stdio_stream *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return -ENOMEM;
	s->base.ops = &stream_ops;
	s->base.kind = L7MP_KIND_STREAM;
	s->env = env;
	s->state = state;
	l7mp_task_init(&s->task, on_open, s);
	l7mp_timer_init(&s->linger, on_linger, s);
	rc = open_io(s);
	if (rc) {
		free(s);
		return rc;
	}
	state->session = session;
	*out = s;
	return 0;
}

static int stdio_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                         struct l7mp_error *err)
{
	struct stdio_state *state = l7mp_proto_state(params->env, &l7mp_proto_stdio, err);
	struct stdio_stream *s;
	int rc;

	if (!state)
		return -ENOMEM;
	if (state->session)
		return l7mp_error_set(err, -EBUSY, L7MP_ERR_UPSTREAM,
		                      "Stdio serves one session at a time, now %s", state->session);
	rc = stream_new(params->env, state, params->session ? params->session : "another one", &s);
	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "Stdio: %s", strerror(-rc));
	l7mp_task_post(s->env->loop, &s->task);
	*out = &s->base;
	return 0;
}

/* ---- listening ---- */

static void emit_session(struct l7mp_task *t, void *arg)
{
	struct stdio_listener *l = arg;
	struct stdio_state *state = l7mp_proto_state(l->env, &l7mp_proto_stdio, NULL);
	struct l7mp_accept a = {.never_idle = true};
	const char *why;
	bool exit = l->exit;
	struct l7mp_env *env = l->env;
	struct stdio_stream *s;
	int rc = state ? 0 : -ENOMEM;

	(void)t;
	if (!rc && state->session)
		rc = -EBUSY;
	if (!rc && l->base.events->admit && l->base.events->admit(l->base.arg, NULL))
		rc = -EAGAIN;
	if (!rc)
		rc = stream_new(env, state, l->name, &s);
	if (!rc) {
		s->base.ops = &source_ops;
		s->source = s->open = true;
		s->exit = exit;
		s->linger_ms = l->linger_ms;
		a.stream = &s->base;
		a.name = l7mp_asprintf("Stdio:%s-%llu", l->name,
		                       (unsigned long long)++state->last_id);
		a.metadata = cJSON_CreateObject();
		(void)l7mp_accept_emit(&l->base, &a);
		return;
	}
	why = rc == -EBUSY ? "another session has it" : rc == -EAGAIN ? "a limit" : strerror(-rc);
	l7mp_log_error("stdio", "%s: no session is begun: %s", l->name, why);
	if (exit && env->quit)
		env->quit(env, EXIT_FAILURE);
}

static int stdio_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                        struct l7mp_error *err)
{
	struct stdio_listener *l = calloc(1, sizeof(*l));

	if (l)
		l->name = strdup(params->name ? params->name : "");
	if (!l || !l->name || !l7mp_proto_state(params->env, &l7mp_proto_stdio, err)) {
		if (l)
			free(l->name);
		free(l);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	l->base = (struct l7mp_proto_listener){
	        .proto = &l7mp_proto_stdio, .events = params->events, .arg = params->arg};
	l->env = params->env;
	l->linger_ms = (uint64_t)(1000 * l7mp_json_num(params->spec, "linger", 0));
	l->exit = l7mp_json_bool(params->spec, "exit", false);
	l7mp_task_init(&l->task, emit_session, l);
	*out = &l->base;
	return 0;
}

static void stdio_activate(struct l7mp_proto_listener *base)
{
	struct stdio_listener *l = (struct stdio_listener *)base;

	l7mp_task_post(l->env->loop, &l->task);
}

static void stdio_unlisten(struct l7mp_proto_listener *base)
{
	struct stdio_listener *l = (struct stdio_listener *)base;

	l7mp_task_cancel(l->env->loop, &l->task);
	free(l->name);
	free(l);
}

static const struct l7mp_field listener_fields[] = {
        {.key = "linger",
         .type = L7MP_T_NUMBER,
         .min = 0,
         .max = 86400,
         .def = "0",
         .doc = "seconds without output after the end of the input until the session ends; 0: when "
                "the other end has finished, which datagrams never do"},
        {.key = "exit",
         .type = L7MP_T_BOOL,
         .def = "false",
         .doc = "the proxy ends when the session has ended, with status 1 when that failed"},
        {0},
};
static const struct l7mp_schema listener_spec = {
        .name = "stdio-listener",
        .doc = "Begins one session, at the start, with the proxy's own standard input and output",
        .fields = listener_fields,
};

static int stdio_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct stdio_state));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

static void stdio_stop(struct l7mp_env *env, void *state)
{
	(void)env;
	free(state);
}

static const char *const aliases[] = {"INLINE/STDIO", NULL};

const struct l7mp_proto l7mp_proto_stdio = {
        .desc =
                {
                        .name = "Stdio",
                        .aliases = aliases,
                        .doc = "The proxy's own standard input and output; one session at a time",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .listener_spec = &listener_spec,
                        .flags = L7MP_PROTO_VIRTUAL,
                        .kind = L7MP_KIND_STREAM,
                },
        .start = stdio_start,
        .stop = stdio_stop,
        .listen = stdio_listen,
        .activate = stdio_activate,
        .unlisten = stdio_unlisten,
        .connect = stdio_connect,
};
