/* SPDX-License-Identifier: MIT */
/* Byte streams: what the descriptors' events do. */
#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "stream_io_int.h"

void l7mp_stream_io_watch(struct l7mp_stream_io *s)
{
	struct l7mp_io *wio = sio_is_socket(s) ? &s->in : &s->out;
	uint32_t in = 0, out = 0;
	int rc;

	if (s->gone || s->err)
		return;
	if (s->reading)
		s->read_armed = true;
	if ((s->read_armed || s->lingering) && !s->eof && !s->connecting)
		in = EPOLLIN | EPOLLRDHUP;
	if (s->q.count || (s->connecting && !s->remote))
		out = EPOLLOUT;
	if (wio == &s->in)
		in |= out;
	/*
	 * Of a paused socket only an error is wanted, once: EPOLLERR can't be masked, and
	 * edge-triggered it does not come again and again.
	 */
	if (!in && sio_is_socket(s) && !s->eof && !s->closing && s->started)
		in = EPOLLET;
	rc = s->in.fd >= 0 ? l7mp_io_set(s->loop, &s->in, in) : 0;
	if (!rc && wio == &s->out && s->out.fd >= 0)
		rc = l7mp_io_set(s->loop, &s->out, out);
	if (rc && s->closing)
		l7mp_stream_io_teardown(s, true);
	else if (rc)
		l7mp_stream_io_fail(s, rc);
}

/* ---- writing ---- */

ssize_t l7mp_stream_io_push(struct l7mp_stream_io *s, const struct iovec *iov, size_t n)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = n};
	ssize_t r;

	do {
		if (sio_is_socket(s))
			r = sendmsg(s->in.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		else
			r = writev(s->out.fd, iov, (int)n);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

void l7mp_stream_io_do_shutdown(struct l7mp_stream_io *s)
{
	if (s->shut_done)
		return;
	s->shut_done = true;
	if (sio_is_socket(s)) {
		(void)shutdown(s->in.fd, SHUT_WR); /* ENOTCONN: a reset that reading will see */
		return;
	}
	l7mp_io_stop(s->loop, &s->out);
	if (s->out.fd >= 0)
		close(s->out.fd);
	s->out.fd = -1;
}

/*
 * When the peer only takes no more, what it has said before can still be read;
 * the error is told at the end of that.
 */
void l7mp_stream_io_write_failed(struct l7mp_stream_io *s, int err)
{
	if (s->werr || s->err)
		return;
	s->werr = err;
	l7mp_bufq_clear(&s->q);
	s->off = 0;
	if (s->closing) {
		l7mp_stream_io_teardown(s, true);
		return;
	}
	if (s->eof || (err != -EPIPE && err != -ECONNRESET)) {
		l7mp_stream_io_fail(s, err);
		return;
	}
	if (s->full) {
		s->full = false;
		s->tell_drain = true;
		l7mp_task_post(s->loop, &s->task);
	}
	l7mp_stream_io_watch(s);
}

static void consume(struct l7mp_stream_io *s, size_t n)
{
	s->off += n;
	while (s->q.head && s->off >= s->q.head->len) {
		s->off -= s->q.head->len;
		l7mp_buf_unref(l7mp_bufq_pop(&s->q));
	}
}

void l7mp_stream_io_flush(struct l7mp_stream_io *s)
{
	while (s->q.count) {
		struct iovec iov[SIO_IOV];
		size_t n = 0, off = s->off, total = 0;
		ssize_t r;

		for (struct l7mp_buf *b = s->q.head; b && n < SIO_IOV; b = b->next) {
			iov[n++] =
			        (struct iovec){.iov_base = b->data + off, .iov_len = b->len - off};
			total += b->len - off;
			off = 0;
		}
		r = l7mp_stream_io_push(s, iov, n);
		if (r < 0 && r != -EAGAIN) {
			l7mp_stream_io_write_failed(s, (int)r);
			return;
		}
		if (r > 0)
			consume(s, (size_t)r);
		if (r < (ssize_t)total)
			break;
	}
	if (!s->q.count && s->shut)
		l7mp_stream_io_do_shutdown(s);
}

/* Writable: what is queued goes out; the writer may go on when enough is gone. */
static void on_writable(struct l7mp_stream_io *s)
{
	l7mp_stream_io_flush(s);
	if (s->gone || s->err)
		return;
	if (s->closing && !s->q.count) {
		l7mp_stream_io_finish(s);
		return;
	}
	l7mp_stream_io_watch(s);
	if (s->full && l7mp_stream_io_queued(s) <= SIO_LOW && !s->closing) {
		s->full = false;
		if (s->ops->drain)
			s->ops->drain(s->arg);
	}
}

/* ---- reading ---- */

static ssize_t pull(struct l7mp_stream_io *s, void *data, size_t size)
{
	ssize_t r;

	do {
		r = sio_is_socket(s) ? recv(s->in.fd, data, size, MSG_DONTWAIT)
		                     : read(s->in.fd, data, size);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static void on_end(struct l7mp_stream_io *s)
{
	s->eof = true;
	l7mp_stream_io_watch(s);
	if (s->werr)
		l7mp_stream_io_fail(s, s->werr);
	else if (s->ops->end)
		s->ops->end(s->arg);
}

static void on_readable(struct l7mp_stream_io *s, uint32_t events)
{
	for (int i = 0; i < SIO_ROUNDS && s->reading && !s->closing && !s->err; i++) {
		struct l7mp_buf *buf = l7mp_buf_new(l7mp_loop_bufs(s->loop), SIO_READ);
		ssize_t n;

		if (!buf) {
			l7mp_stream_io_fail(s, -ENOMEM);
			return;
		}
		n = pull(s, buf->data, SIO_READ);
		if (n <= 0)
			l7mp_buf_unref(buf);
		if (n == -EAGAIN)
			return;
		if (n < 0) {
			l7mp_stream_io_fail(s, (int)n);
			return;
		}
		if (!n) {
			on_end(s);
			return;
		}
		buf->len = (uint32_t)n;
		s->ops->data(s->arg, buf);
		/* A short read emptied the socket, unless the end waits behind it. */
		if (n < (ssize_t)SIO_READ && !(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
			return;
	}
}

/* Reads on after the last byte was written, for nobody, until the peer has closed too. */
static void discard(struct l7mp_stream_io *s, bool first)
{
	struct l7mp_buf *buf = l7mp_buf_new(l7mp_loop_bufs(s->loop), SIO_READ);
	ssize_t n = -ENOMEM;
	size_t total = 0;

	for (int i = 0; buf && i < SIO_ROUNDS; i++) {
		n = pull(s, buf->data, SIO_READ);
		if (n <= 0)
			break;
		total += (size_t)n;
	}
	l7mp_buf_unref(buf);
	if (n > 0 || (n == -EAGAIN && (!first || total)))
		return;
	l7mp_stream_io_teardown(s, false);
}

void l7mp_stream_io_linger(struct l7mp_stream_io *s)
{
	l7mp_stream_io_do_shutdown(s);
	discard(s, true);
	if (s->gone)
		return;
	s->lingering = true;
	if (l7mp_timer_start(s->loop, &s->timer, SIO_LINGER_MS))
		l7mp_stream_io_teardown(s, false);
	else
		l7mp_stream_io_watch(s);
}

/* ---- events ---- */

/*
 * A reset of a socket that nobody reads: what it has received may still be wanted, but
 * when reading stays stopped nobody would ever hear of it.
 */
static void paused(struct l7mp_stream_io *s, uint32_t events)
{
	if ((events & EPOLLERR) && sio_is_socket(s) &&
	    l7mp_timer_start(s->loop, &s->timer, SIO_STALL_MS)) {
		l7mp_stream_io_fail(s, -ECONNRESET);
		return;
	}
	s->read_armed = false;
	l7mp_stream_io_watch(s);
}

void l7mp_stream_io_in_cb(struct l7mp_io *io, uint32_t events)
{
	struct l7mp_stream_io *s = l7mp_container_of(io, struct l7mp_stream_io, in);

	if (s->connecting) {
		l7mp_stream_io_dial_done(s);
		return;
	}
	if (sio_is_socket(s) && s->q.count && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
		on_writable(s);
		if (s->gone || s->err)
			return;
	}
	if (!(events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
		return;
	if (s->lingering) {
		discard(s, false);
	} else if (s->reading) {
		on_readable(s, events);
	} else {
		paused(s, events);
	}
}

void l7mp_stream_io_out_cb(struct l7mp_io *io, uint32_t events)
{
	struct l7mp_stream_io *s = l7mp_container_of(io, struct l7mp_stream_io, out);

	(void)events;
	on_writable(s);
}
