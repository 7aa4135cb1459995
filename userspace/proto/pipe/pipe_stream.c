/* SPDX-License-Identifier: MIT */
/* The stream of PIPE. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "l7mp/stats.h"
#include "net/net.h"
#include "pipe_int.h"

#define LOOK_MS  50   /* how often a FIFO without a reader is looked at, while something waits */
#define CLOSE_MS 5000 /* how long a close waits for a reader */

static void drop_waiting(struct pipe_stream *s)
{
	if (s->wait.count)
		l7mp_stats_drop(s->env->stats, L7MP_DROP_CLOSED, s->wait.count, s->wait.bytes);
	l7mp_bufq_clear(&s->wait);
}

void pipe_stream_free(struct pipe_stream *s)
{
	l7mp_task_cancel(s->env->loop, &s->task);
	l7mp_timer_stop(s->env->loop, &s->timer);
	l7mp_buf_unref(s->first);
	drop_waiting(s);
	fifo_unref(&s->in);
	fifo_unref(&s->out);
	free(s);
}

/* `in` is not ours any more. For whoever reads next, nothing of it is lost meanwhile. */
static void stop_reading(struct pipe_stream *s)
{
	struct pipe_listener *l = s->in ? s->in->listener : NULL;

	if (!s->reads)
		return;
	s->reads = false;
	if (l)
		fifo_stand_by(s->in);
	l7mp_stream_io_close(s->isio, true);
	s->in->reading = false;
	if (l)
		pipe_listener_free_to_read(l);
}

static void finish(struct pipe_stream *s, int err)
{
	if (s->over)
		return;
	s->over = s->closing = true;
	s->err = err;
	l7mp_timer_stop(s->env->loop, &s->timer);
	stop_reading(s);
	if (s->listener)
		pipe_listener_left(s->listener, s);
	if (s->osio) {
		s->flushing = !err && l7mp_stream_io_queued(s->osio);
		s->out->flushing += s->flushing;
		l7mp_stream_io_close(s->osio, err != 0);
	}
	l7mp_task_post(s->env->loop, &s->task);
}

static void describe(const struct pipe_stream *s, struct l7mp_error *err)
{
	const struct fifo *f = s->err == -EPIPE || !s->in ? s->out : s->in;

	l7mp_error_set(err, s->err, L7MP_ERR_UPSTREAM, "PIPE %s: %s", f ? f->path : "",
	               s->err == -EPIPE ? "its reader has gone" : l7mp_errno_text(s->err));
}

static void tell_end(struct pipe_stream *s)
{
	if (s->told || !s->open || s->closing)
		return;
	s->told = true;
	s->base.events->end(s->base.owner, 0);
}

static void on_task(struct l7mp_task *t, void *arg)
{
	struct pipe_stream *s = arg;
	struct l7mp_error err = {.code = L7MP_OK};

	(void)t;
	if (!s->over) {
		s->open = true;
		if (s->isio)
			l7mp_stream_io_read(s->isio, s->reading);
		s->base.events->open(s->base.owner);
		return;
	}
	if (s->isio || s->osio)
		return; /* their `closed` posts this again */
	if (s->err)
		describe(s, &err);
	if (s->base.events)
		s->base.events->closed(s->base.owner, &err);
	pipe_stream_free(s);
}

/* ---- reading ---- */

static void in_data(void *arg, struct l7mp_buf *buf)
{
	struct pipe_stream *s = arg;

	if (s->listener && !s->emitted)
		pipe_listener_first(s->listener, s, buf);
	else
		s->base.events->data(s->base.owner, buf);
}

static void in_end(void *arg)
{
	struct pipe_stream *s = arg;

	s->in_end = true;
	/* The next writer must not find nobody there. */
	if (s->in->listener)
		fifo_stand_by(s->in);
	if (s->listener && !s->emitted)
		pipe_listener_nothing(s->listener, s);
	else
		tell_end(s);
}

static void in_error(void *arg, int err)
{
	finish(arg, err);
}

static void in_closed(void *arg)
{
	struct pipe_stream *s = arg;

	s->isio = NULL;
	if (s->over)
		l7mp_task_post(s->env->loop, &s->task);
}

static const struct l7mp_stream_io_ops in_ops = {
        .data = in_data,
        .end = in_end,
        .error = in_error,
        .closed = in_closed,
};

/* ---- writing ---- */

static void out_drain(void *arg)
{
	struct pipe_stream *s = arg;

	if (!s->full || s->closing)
		return;
	s->full = false;
	s->base.events->drain(s->base.owner);
}

static void out_error(void *arg, int err)
{
	struct pipe_stream *s = arg;

	finish(s, s->closing ? 0 : err);
}

static void out_closed(void *arg)
{
	struct pipe_stream *s = arg;

	s->osio = NULL;
	if (s->out)
		s->out->flushing -= s->flushing;
	s->flushing = false;
	if (s->over)
		l7mp_task_post(s->env->loop, &s->task);
}

static const struct l7mp_stream_io_ops out_ops = {
        .drain = out_drain,
        .error = out_error,
        .closed = out_closed,
};

/* -ENXIO: nobody reads it, or the stream before this one has still something to say to it. */
static int open_out(struct pipe_stream *s)
{
	int fd = s->out->flushing ? -ENXIO : fifo_open(s->out, O_WRONLY);

	if (fd < 0)
		return fd;
	return l7mp_stream_io_open_pipe(s->env->loop, -1, fd, &out_ops, s, &s->osio);
}

/* Says the end once all before it is written. Without `in`, that is the end of all. */
static void try_shutdown(struct pipe_stream *s)
{
	if (!s->shut || s->wait.count)
		return;
	if (s->osio)
		l7mp_stream_io_shutdown(s->osio);
	if (s->in)
		return;
	if (!s->osio || !l7mp_stream_io_queued(s->osio))
		tell_end(s);
	else
		(void)l7mp_timer_start(s->env->loop, &s->timer, LOOK_MS);
}

/* Somebody reads now: what waited goes out. */
static int write_waiting(struct pipe_stream *s)
{
	struct l7mp_buf *buf;
	int rc = 0;

	while (rc >= 0 && (buf = l7mp_bufq_pop(&s->wait)))
		rc = l7mp_stream_io_write(s->osio, buf);
	return rc;
}

static void look_for_reader(struct pipe_stream *s)
{
	int rc = open_out(s);

	if (rc == -ENXIO)
		rc = l7mp_timer_start(s->env->loop, &s->timer, LOOK_MS);
	else if (!rc)
		rc = write_waiting(s);
	if (rc < 0) {
		finish(s, rc);
		return;
	}
	if (s->wait.count)
		return;
	try_shutdown(s);
	if (s->full && rc != L7MP_STREAM_IO_FULL && !s->closing) {
		s->full = false;
		s->base.events->drain(s->base.owner);
	}
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct pipe_stream *s = arg;

	(void)t;
	if (s->osio || !s->out)
		try_shutdown(s);
	else if (!s->closing || l7mp_loop_now(s->env->loop) - s->since < CLOSE_MS)
		look_for_reader(s);
	else
		finish(s, 0);
	if (s->closing && s->osio && !s->over)
		finish(s, 0); /* the descriptor's own close waits for the rest */
}

/* ---- operations ---- */

/* Nobody can ever read it: a session with answers is not broken by that. */
static int swallow(struct pipe_stream *s, struct l7mp_buf *buf)
{
	l7mp_stats_drop(s->env->stats, L7MP_DROP_NO_RECEIVER, 1, buf->len);
	l7mp_buf_unref(buf);
	if (!s->mute && s->base.events->notice)
		s->base.events->notice(s->base.owner, "no-output",
		                       "the listener has no output: what comes back is dropped");
	s->mute = true;
	return 0;
}

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct pipe_stream *s = (struct pipe_stream *)base;
	int rc;

	if (!s->open || s->closing || s->shut) {
		l7mp_buf_unref(buf);
		return s->open ? -EPIPE : -ENOTCONN;
	}
	if (!s->out)
		return swallow(s, buf);
	if (!s->osio && !s->wait.count) {
		rc = open_out(s);
		if (rc && rc != -ENXIO) {
			l7mp_buf_unref(buf);
			return rc;
		}
	}
	if (s->osio) {
		rc = l7mp_stream_io_write(s->osio, buf);
		s->full = s->full || rc == L7MP_STREAM_IO_FULL;
		return rc == L7MP_STREAM_IO_FULL ? L7MP_STREAM_FULL : rc;
	}
	l7mp_bufq_push(&s->wait, buf);
	s->full = true;
	if (!l7mp_timer_armed(&s->timer) && l7mp_timer_start(s->env->loop, &s->timer, LOOK_MS))
		return -ENOMEM;
	return L7MP_STREAM_FULL;
}

static void op_pause(struct l7mp_stream *base, bool on)
{
	struct pipe_stream *s = (struct pipe_stream *)base;

	s->reading = !on;
	if (s->isio && s->open && !s->closing)
		l7mp_stream_io_read(s->isio, !on);
}

static void op_shutdown(struct l7mp_stream *base, int code)
{
	struct pipe_stream *s = (struct pipe_stream *)base;

	(void)code;
	if (!s->open || s->closing || s->shut)
		return;
	s->shut = true;
	if (s->in)
		try_shutdown(s);
	else if (!l7mp_timer_armed(&s->timer))
		/* `end` must not come from inside. */
		(void)l7mp_timer_start(s->env->loop, &s->timer, 0);
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct pipe_stream *s = (struct pipe_stream *)base;
	bool first = !s->closing;

	s->closing = true;
	if (first) {
		s->since = l7mp_loop_now(s->env->loop);
		stop_reading(s);
		/* The next writer's stream goes on with the same reader, if the route wants it so. */
		if (s->listener && s->told && s->osio && !s->shut && !abort)
			fifo_stand_by_writer(s->out);
		if (s->listener)
			pipe_listener_left(s->listener, s);
	}
	if (s->over) {
		if (abort && s->osio)
			l7mp_stream_io_close(s->osio, true);
		return;
	}
	if (!abort && s->wait.count && !l7mp_timer_start(s->env->loop, &s->timer, LOOK_MS))
		return; /* a reader may still come */
	if (abort && s->osio)
		l7mp_stream_io_close(s->osio, true);
	finish(s, 0);
}

static const struct l7mp_stream_ops stream_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
};

/* ---- making ---- */

struct pipe_stream *pipe_stream_new(struct l7mp_env *env, struct fifo *in, struct fifo *out)
{
	struct pipe_stream *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->base.ops = &stream_ops;
	s->base.kind = L7MP_KIND_STREAM;
	s->env = env;
	s->in = in;
	s->out = out;
	if (in)
		in->refs++;
	if (out)
		out->refs++;
	l7mp_bufq_init(&s->wait);
	l7mp_timer_init(&s->timer, on_timer, s);
	l7mp_task_init(&s->task, on_task, s);
	return s;
}

static int open_in(struct pipe_stream *s)
{
	int rc, fd = fifo_open(s->in, O_RDONLY);

	if (fd < 0)
		return fd;
	rc = l7mp_stream_io_open_pipe(s->env->loop, fd, -1, &in_ops, s, &s->isio);
	s->reads = s->in->reading = !rc;
	return rc;
}

int pipe_stream_listen(struct pipe_stream *s)
{
	int rc = open_in(s);

	if (!rc)
		l7mp_stream_io_read(s->isio, true);
	return rc;
}

int pipe_stream_connect(struct pipe_stream *s)
{
	int rc = open_out(s);

	if (!rc && s->in)
		rc = open_in(s);
	if (rc)
		return rc;
	l7mp_task_post(s->env->loop, &s->task);
	return 0;
}

void pipe_stream_emitted(struct pipe_stream *s)
{
	s->emitted = s->open = true;
	s->since = l7mp_loop_now(s->env->loop);
	l7mp_stream_io_read(s->isio, s->reading);
	/* A reader that waits is let in now; without one it is looked for when there is something to write. */
	if (s->out)
		(void)open_out(s);
}

void pipe_stream_abandon(struct pipe_stream *s)
{
	s->listener = NULL;
	op_close(&s->base, true);
	/* It may be freed after the protocol has stopped. */
	fifo_unref(&s->in);
	fifo_unref(&s->out);
}
