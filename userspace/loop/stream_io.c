/* SPDX-License-Identifier: MIT */
/* Byte streams: life, writing, closing. Opening is in sio_open.c, the descriptors' events in sio_io.c. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "stream_io_int.h"

/* ---- callbacks that wait for the end of the call that caused them ---- */

static void tell_closed(struct l7mp_stream_io *s)
{
	void (*closed)(void *) = s->ops->closed;
	void *arg = s->arg;

	l7mp_loop_release(s->loop);
	free(s->remote);
	free(s);
	if (closed)
		closed(arg);
}

static void task_cb(struct l7mp_task *task, void *arg)
{
	struct l7mp_stream_io *s = arg;

	(void)task;
	if (s->gone) {
		tell_closed(s);
		return;
	}
	if (s->tell_connected && !s->closing) {
		s->tell_connected = false;
		l7mp_stream_io_dial_done(s);
	}
	if (s->tell_drain && !s->closing) {
		s->tell_drain = false;
		if (s->ops->drain)
			s->ops->drain(s->arg);
	}
	if (s->tell_error && !s->closing) {
		s->tell_error = false;
		if (s->ops->error)
			s->ops->error(s->arg, s->err);
	}
}

void l7mp_stream_io_fail(struct l7mp_stream_io *s, int err)
{
	if (s->err || s->closing)
		return;
	s->err = err;
	l7mp_bufq_clear(&s->q);
	s->off = 0;
	l7mp_io_stop(s->loop, &s->in);
	l7mp_io_stop(s->loop, &s->out);
	s->tell_error = true;
	l7mp_task_post(s->loop, &s->task);
}

/* ---- life ---- */

static void timer_cb(struct l7mp_timer *t, void *arg)
{
	struct l7mp_stream_io *s = arg;

	(void)t;
	if (s->closing)
		l7mp_stream_io_teardown(s, s->q.count > 0);
	else if (s->connecting)
		l7mp_stream_io_dial_again(s);
	else if (!s->reading)
		l7mp_stream_io_fail(s, -ECONNRESET);
}

int l7mp_stream_io_alloc(struct l7mp_loop *loop, enum sio_kind kind, int read_fd, int write_fd,
                         const struct l7mp_stream_io_ops *ops, void *arg,
                         struct l7mp_stream_io **out)
{
	struct l7mp_stream_io *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->loop = loop;
	s->ops = ops;
	s->arg = arg;
	s->kind = kind;
	s->eof = read_fd < 0;
	l7mp_io_init(&s->in, read_fd, l7mp_stream_io_in_cb);
	l7mp_io_init(&s->out, write_fd, l7mp_stream_io_out_cb);
	l7mp_bufq_init(&s->q);
	l7mp_task_init(&s->task, task_cb, s);
	l7mp_timer_init(&s->timer, timer_cb, s);
	l7mp_loop_hold(loop);
	*out = s;
	return 0;
}

void l7mp_stream_io_teardown(struct l7mp_stream_io *s, bool reset)
{
	if (s->gone)
		return;
	s->gone = true;
	l7mp_timer_stop(s->loop, &s->timer);
	l7mp_io_stop(s->loop, &s->in);
	l7mp_io_stop(s->loop, &s->out);
	l7mp_bufq_clear(&s->q);
	if (reset && s->kind == SIO_TCP && s->in.fd >= 0) {
		struct linger lg = {.l_onoff = 1, .l_linger = 0};

		(void)setsockopt(s->in.fd, SOL_SOCKET, SO_LINGER, &lg, sizeof(lg));
	}
	if (s->in.fd >= 0)
		close(s->in.fd);
	if (s->out.fd >= 0)
		close(s->out.fd);
	s->in.fd = s->out.fd = -1;
	l7mp_task_post(s->loop, &s->task);
}

void l7mp_stream_io_finish(struct l7mp_stream_io *s)
{
	/*
	 * Closing a TCP socket with unread data sends RST, which may destroy what was
	 * just written on its way: then reading goes on for a moment.
	 */
	if (s->kind == SIO_TCP && !s->eof && !s->err && !s->werr)
		l7mp_stream_io_linger(s);
	else
		l7mp_stream_io_teardown(s, false);
}

void l7mp_stream_io_close(struct l7mp_stream_io *s, bool abort)
{
	if (s->gone)
		return;
	if (abort) {
		s->closing = true;
		l7mp_stream_io_teardown(s, true);
		return;
	}
	if (s->closing)
		return;
	s->closing = true;
	s->reading = false;
	if (s->connecting || s->err || s->werr)
		l7mp_stream_io_teardown(s, false);
	else if (!s->q.count)
		l7mp_stream_io_finish(s);
	else if (l7mp_timer_start(s->loop, &s->timer, SIO_CLOSE_MS))
		l7mp_stream_io_teardown(s, true); /* no memory to wait with */
	else
		l7mp_stream_io_watch(s);
}

int l7mp_stream_io_take_fd(struct l7mp_stream_io *s)
{
	int fd = s->in.fd;

	if (s->closing || s->gone || s->err || !sio_is_socket(s))
		return -ENOTCONN;
	if (s->q.count || s->connecting)
		return -EBUSY;
	l7mp_io_stop(s->loop, &s->in);
	s->in.fd = -1;
	s->closing = true;
	l7mp_stream_io_teardown(s, false);
	return fd;
}

/* ---- writing ---- */

static int refuse(struct l7mp_buf *buf, int err)
{
	l7mp_buf_unref(buf);
	return err;
}

int l7mp_stream_io_write(struct l7mp_stream_io *s, struct l7mp_buf *buf)
{
	size_t done = 0;

	if (s->closing || s->shut || s->err || s->werr || (!sio_is_socket(s) && s->out.fd < 0))
		return refuse(buf, s->werr && !s->closing ? s->werr : -EPIPE);
	if (!s->q.count && !s->connecting && !s->corked && buf->len) {
		struct iovec iov = {.iov_base = buf->data, .iov_len = buf->len};
		ssize_t n = l7mp_stream_io_push(s, &iov, 1);

		if (n < 0 && n != -EAGAIN) {
			l7mp_stream_io_write_failed(s, (int)n);
			return refuse(buf, (int)n);
		}
		done = n > 0 ? (size_t)n : 0;
	}
	if (done == buf->len)
		return refuse(buf, s->full ? L7MP_STREAM_IO_FULL : 0);
	if (!s->q.count && done) {
		s->off = done;
	} else {
		/* A small piece must not keep a large buffer while it waits. */
		buf = l7mp_buf_compact(buf);
		if (!buf) {
			l7mp_stream_io_write_failed(s, -ENOMEM);
			return -ENOMEM;
		}
	}
	l7mp_bufq_push(&s->q, buf);
	if (!s->corked)
		l7mp_stream_io_watch(s);
	if (l7mp_stream_io_queued(s) < SIO_HIGH)
		return 0;
	s->full = true;
	return L7MP_STREAM_IO_FULL;
}

void l7mp_stream_io_cork(struct l7mp_stream_io *s, bool on)
{
	if (s->corked == on)
		return;
	s->corked = on;
	if (on || !s->q.count || s->connecting || s->gone || s->err || s->werr)
		return;
	l7mp_stream_io_flush(s);
	if (s->gone || s->err)
		return;
	if (s->q.count)
		l7mp_stream_io_watch(s);
	if (s->full && l7mp_stream_io_queued(s) <= SIO_LOW && !s->closing) {
		s->full = false;
		s->tell_drain = true;
		l7mp_task_post(s->loop, &s->task);
	}
}

void l7mp_stream_io_shutdown(struct l7mp_stream_io *s)
{
	if (s->shut || s->closing || s->err)
		return;
	s->shut = true;
	if (!s->q.count && !s->connecting)
		l7mp_stream_io_do_shutdown(s);
}

void l7mp_stream_io_read(struct l7mp_stream_io *s, bool on)
{
	if (s->closing || s->reading == on)
		return;
	s->reading = on;
	s->started = true;
	if (on && !s->connecting)
		l7mp_timer_stop(s->loop, &s->timer);
	/* Stopping waits for the next event: a short pause costs no system call. */
	if (on)
		l7mp_stream_io_watch(s);
}

/* ---- questions ---- */

size_t l7mp_stream_io_queued(const struct l7mp_stream_io *s)
{
	return s->q.bytes - s->off;
}

int l7mp_stream_io_fd(const struct l7mp_stream_io *s)
{
	return s->in.fd;
}

static int get_addr(const struct l7mp_stream_io *s, int (*get)(int, struct sockaddr *, socklen_t *),
                    struct l7mp_addr *out)
{
	struct l7mp_addr raw = {0};
	socklen_t len = sizeof(struct sockaddr_un);

	if (!sio_is_socket(s) || s->in.fd < 0)
		return -ENOTCONN;
	if (get(s->in.fd, &raw.sa, &len))
		return -errno;
	return l7mp_addr_from_sockaddr(out, &raw.sa, len);
}

int l7mp_stream_io_local(const struct l7mp_stream_io *s, struct l7mp_addr *out)
{
	return get_addr(s, getsockname, out);
}

int l7mp_stream_io_remote(const struct l7mp_stream_io *s, struct l7mp_addr *out)
{
	return get_addr(s, getpeername, out);
}
