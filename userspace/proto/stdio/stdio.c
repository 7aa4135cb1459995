/* SPDX-License-Identifier: MIT */
/* Stdio: the proxy's own standard input and output, for one session at a time. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "l7mp/protos.h"
#include "l7mp/stream_io.h"

struct stdio_state {
	const char *session; /* the name of the session that uses it; NULL: none */
};

struct stdio_stream {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct stdio_state *state;
	struct l7mp_stream_io *io;
	struct l7mp_task task; /* emits `open` */
	bool open, reading, closing;
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

	s->base.events->end(s->base.owner, 0);
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
	s->state->session = NULL;
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
	rc = l7mp_stream_io_write(s->io, buf);
	return rc == L7MP_STREAM_IO_FULL ? L7MP_STREAM_FULL : rc;
}

static void op_pause(struct l7mp_stream *base, bool on)
{
	struct stdio_stream *s = (struct stdio_stream *)base;

	s->reading = !on;
	if (s->open && !s->closing && !s->err)
		l7mp_stream_io_read(s->io, !on);
}

static void op_shutdown(struct l7mp_stream *base, int code)
{
	struct stdio_stream *s = (struct stdio_stream *)base;

	(void)code;
	if (s->open && !s->closing && !s->err)
		l7mp_stream_io_shutdown(s->io);
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct stdio_stream *s = (struct stdio_stream *)base;

	if (!s->closing || abort)
		l7mp_stream_io_close(s->io, abort);
	s->closing = true;
}

static const struct l7mp_stream_ops stream_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
};

/* ---- connecting ---- */

/*
 * A descriptor of our own for a standard one. O_NONBLOCK belongs to the open file description,
 * which is shared with the shell: a terminal or pipe is opened again instead. A regular file
 * does not block, and its position must remain shared. Negative with errno on failure.
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
	s = calloc(1, sizeof(*s));
	if (!s)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	s->base.ops = &stream_ops;
	s->base.kind = L7MP_KIND_STREAM;
	s->env = params->env;
	s->state = state;
	l7mp_task_init(&s->task, on_open, s);
	rc = open_io(s);
	if (rc) {
		free(s);
		return l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "Stdio: %s", strerror(-rc));
	}
	state->session = params->session ? params->session : "another one";
	l7mp_task_post(s->env->loop, &s->task);
	*out = &s->base;
	return 0;
}

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
                        .roles = L7MP_ROLE_CLUSTER,
                        .flags = L7MP_PROTO_VIRTUAL,
                        .kind = L7MP_KIND_STREAM,
                },
        .start = stdio_start,
        .stop = stdio_stop,
        .connect = stdio_connect,
};
