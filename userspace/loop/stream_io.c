/* SPDX-License-Identifier: MIT */
/*
 * Byte streams over descriptors: TCP, UNIX stream sockets, FIFOs and pipes (stream_io.h): opening
 * and connecting, reading, writing with a bounded queue, splicing, half-close, closing.
 */
#include "l7mp/stream_io.h"
#include "l7mp/relaymark.h"
#include "loop_int.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define SIO_READ     32768u /* bytes per read, measured: larger reads exceed the L2 cache */
#define SIO_ROUNDS   8      /* reads of one stream in an iteration, for fairness */
#define SIO_HIGH     L7MP_STREAM_IO_HIGH
#define SIO_LOW      16384u
#define SIO_IOV      32
#define SIO_CLOSE_MS 5000 /* how long a close waits for the queue */
/* how long to read after closing, so that no RST discards the last data sent */
#define SIO_LINGER_MS 1000
#define SIO_STALL_MS  5000 /* how long a socket that was reset is kept while reading is stopped */
#define SIO_DIAL_MS   5    /* between attempts when a UNIX listener's backlog is full */
/* Pieces up to this size are copied: for them splicing's system calls cost more than the copy. */
#define SIO_SMALL     16384u
#define SIO_SMALL_MAX 8       /* small pieces in a row, after which bytes are copied */
#define SIO_TURN_NS   2000000 /* when an iteration has taken this long, each stream gets only: */
#define SIO_TURN_LATE 65536u

enum sio_kind { SIO_TCP, SIO_UNIX, SIO_PIPE };

struct l7mp_stream_io {
	struct l7mp_io in;  /* sockets: both directions */
	struct l7mp_io out; /* pipes: the writing side */
	struct l7mp_loop *loop;
	const struct l7mp_stream_io_ops *ops;
	void *arg;
	struct l7mp_bufq q;
	size_t off;               /* bytes of the queue's head already written */
	struct l7mp_task task;    /* calls callbacks asynchronously */
	struct l7mp_timer timer;  /* close, linger, or retry of a connect */
	struct l7mp_addr *remote; /* while a UNIX connect is retried */
	struct l7mp_kpipe *pipe;  /* bytes that go out before the queue; NULL: none */
	/* Received data is spliced to `to`, whose `from` is the reverse link. */
	struct l7mp_stream_io *to, *from;
	void (*passed)(void *arg, size_t bytes, int rc);
	void *passed_arg;
	void (*flushed)(void *arg); /* called when nothing is queued; NULL: not requested */
	void *flushed_arg;
	int err;  /* failed, whether reported or not */
	int werr; /* writing failed; reading continues until the end */
	uint8_t kind;
	bool reading, read_armed, eof;
	bool started; /* reading was started once: before that the descriptor is not watched */
	bool connecting, full, corked, shut, shut_done;
	bool lent; /* the descriptor is temporarily used by other code */
	bool frozen;
	bool closing, lingering, torn_down;
	bool notify_connected, notify_error, notify_drain, notify_flushed, notify_end;
	bool bulk;     /* splice the next piece */
	uint8_t small; /* spliced pieces in a row that were small */
};

static inline bool sio_is_socket(const struct l7mp_stream_io *s)
{
	return s->kind != SIO_PIPE;
}

static inline bool sio_pending(const struct l7mp_stream_io *s)
{
	return s->pipe || s->q.count;
}

/* ---- forward declarations ---- */

static int sio_alloc(struct l7mp_loop *loop, enum sio_kind kind, int read_fd, int write_fd,
                     const struct l7mp_stream_io_ops *ops, void *arg, struct l7mp_stream_io **out);
/* Reports `error` once, asynchronously. */
static void sio_fail(struct l7mp_stream_io *s, int err);
/* Closes the stream after its queue was written. */
static void sio_finish(struct l7mp_stream_io *s);
static void sio_teardown(struct l7mp_stream_io *s, bool reset);

static void sio_unlink(struct l7mp_stream_io *s); /* ends splicing from it and to it */
/* Everything was written: calls `flushed` asynchronously. */
static void sio_tell_flushed(struct l7mp_stream_io *s);
static void sio_watch(struct l7mp_stream_io *s);
static void sio_in_cb(struct l7mp_io *io, uint32_t events);
static void sio_out_cb(struct l7mp_io *io, uint32_t events);
static void sio_flush(struct l7mp_stream_io *s); /* no callbacks */
static ssize_t sio_push(struct l7mp_stream_io *s, const struct iovec *iov, size_t n);
static void sio_write_failed(struct l7mp_stream_io *s, int err);
static void sio_do_shutdown(struct l7mp_stream_io *s);
static void sio_linger(struct l7mp_stream_io *s);

static void sio_dial_done(struct l7mp_stream_io *s); /* Called when the result of a connect is
                                                      * known. */
static void sio_dial_again(struct l7mp_stream_io *s);

/* ---- events of the descriptors ---- */

static void sio_watch(struct l7mp_stream_io *s)
{
	struct l7mp_io *wio = sio_is_socket(s) ? &s->in : &s->out;
	uint32_t in = 0, out = 0;
	int rc;

	if (s->torn_down || s->err || s->lent || s->frozen)
		return;
	if (s->reading)
		s->read_armed = true;
	if ((s->read_armed || s->lingering) && !s->eof && !s->connecting)
		in = EPOLLIN | EPOLLRDHUP;
	if (sio_pending(s) || (s->connecting && !s->remote))
		out = EPOLLOUT;
	if (wio == &s->in)
		in |= out;
	/*
	 * A paused socket reports only an error, and only once: EPOLLERR can't be masked, but in
	 * edge-triggered mode it is not reported repeatedly.
	 */
	if (!in && sio_is_socket(s) && !s->eof && !s->closing && s->started)
		in = EPOLLET;
	rc = s->in.fd >= 0 ? l7mp_io_set(s->loop, &s->in, in) : 0;
	if (!rc && wio == &s->out && s->out.fd >= 0)
		rc = l7mp_io_set(s->loop, &s->out, out);
	if (rc && s->closing)
		sio_teardown(s, true);
	else if (rc)
		sio_fail(s, rc);
}

/* ---- writing ---- */

static ssize_t sio_push(struct l7mp_stream_io *s, const struct iovec *iov, size_t n)
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

static void sio_do_shutdown(struct l7mp_stream_io *s)
{
	if (s->shut_done)
		return;
	s->shut_done = true;
	if (sio_is_socket(s)) {
		(void)shutdown(s->in.fd, SHUT_WR); /* ENOTCONN: a reset, which the next read reports
		                                    * */
		return;
	}
	l7mp_io_stop(s->loop, &s->out);
	if (s->out.fd >= 0)
		close(s->out.fd);
	s->out.fd = -1;
}

static void sio_discard_queue(struct l7mp_stream_io *s)
{
	l7mp_bufq_clear(&s->q);
	s->off = 0;
	l7mp_kpipe_put(s->loop, &s->pipe);
}

/*
 * When the peer has only stopped reading, data that it has already sent can still be read; the
 * error is reported after that.
 */
static void sio_write_failed(struct l7mp_stream_io *s, int err)
{
	if (s->werr || s->err)
		return;
	s->werr = err;
	sio_discard_queue(s);
	if (s->closing) {
		sio_teardown(s, true);
		return;
	}
	if (s->eof || (err != -EPIPE && err != -ECONNRESET)) {
		sio_fail(s, err);
		return;
	}
	if (s->full) {
		s->full = false;
		s->notify_drain = true;
		l7mp_task_post(s->loop, &s->task);
	}
	sio_watch(s);
}

static void consume(struct l7mp_stream_io *s, size_t n)
{
	s->off += n;
	while (s->q.head && s->off >= s->q.head->len) {
		s->off -= s->q.head->len;
		l7mp_buf_unref(l7mp_bufq_pop(&s->q));
	}
}

/* The number of bytes that may be moved at once, so that the iteration stays short. */
static size_t turn_share(const struct l7mp_stream_io *s)
{
	bool late = uv_hrtime() - s->loop->io_since > SIO_TURN_NS;

	return late ? SIO_TURN_LATE : L7MP_KPIPE_BYTES;
}

/*
 * Writes the pipe's bytes, and returns the pipe to the pool when it is empty. Returns 0 or negative
 * errno.
 */
static int flush_pipe(struct l7mp_stream_io *s)
{
	ssize_t n = l7mp_kpipe_drain(s->loop, s->pipe, s->in.fd, turn_share(s));

	if (n < 0 && n != -EAGAIN) {
		sio_write_failed(s, (int)n);
		return (int)n;
	}
	if (!s->pipe->bytes)
		l7mp_kpipe_put(s->loop, &s->pipe);
	return 0;
}

static void sio_flush(struct l7mp_stream_io *s)
{
	if (s->pipe && (flush_pipe(s) || s->pipe))
		return;
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
		r = sio_push(s, iov, n);
		if (r < 0 && r != -EAGAIN) {
			sio_write_failed(s, (int)r);
			return;
		}
		if (r > 0)
			consume(s, (size_t)r);
		if (r < (ssize_t)total)
			break;
	}
	if (!s->q.count && s->shut)
		sio_do_shutdown(s);
	if (!s->q.count && s->flushed)
		sio_tell_flushed(s);
}

/* The descriptor is writable: sends the queue, and calls `drain` when enough was sent. */
static void on_writable(struct l7mp_stream_io *s)
{
	sio_flush(s);
	if (s->torn_down || s->err)
		return;
	if (s->closing && !sio_pending(s)) {
		sio_finish(s);
		return;
	}
	sio_watch(s);
	if (s->full && !s->pipe && l7mp_stream_io_queued(s) <= SIO_LOW && !s->closing) {
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
	sio_watch(s);
	if (s->werr)
		sio_fail(s, s->werr);
	else if (s->ops->end)
		s->ops->end(s->arg);
}

/* ---- splicing ---- */

static void sio_unlink(struct l7mp_stream_io *s)
{
	if (s->to)
		s->to->from = NULL;
	if (s->from)
		s->from->to = NULL;
	s->to = s->from = NULL;
}

static bool may_splice(const struct l7mp_stream_io *s)
{
	const struct l7mp_stream_io *to = s->to;

	return to && s->bulk && !sio_pending(to) && !to->werr && !to->shut && !to->corked &&
	       !to->lent;
}

/* Whether splice(2) does not support this socket (and has moved nothing). */
static bool cannot_splice(ssize_t err)
{
	return err == -EINVAL || err == -EOPNOTSUPP || err == -ENOSYS || err == -EPERM;
}

/*
 * Nothing was read into the pipe. Returns whether this piece is finished; otherwise it must be
 * copied.
 */
static bool splice_failed(struct l7mp_stream_io *s, ssize_t err, bool first)
{
	if (cannot_splice(err))
		sio_unlink(s);
	/*
	 * splice(2) stops before urgent data (TCP), which recv(2) reads: it finds nothing in a
	 * socket that is readable, or an end when the peer has ended after it.
	 */
	if (cannot_splice(err) || err == -ENOMEM || !err || (err == -EAGAIN && first))
		return false;
	if (err != -EAGAIN)
		sio_fail(s, (int)err);
	return true;
}

/* After several small pieces data is copied, until a large piece arrives. */
static void note_size(struct l7mp_stream_io *s, size_t n)
{
	s->small = n < SIO_SMALL ? (uint8_t)(s->small + 1) : 0;
	if (s->small < SIO_SMALL_MAX)
		return;
	s->small = 0;
	s->bulk = false;
}

/*
 * Moves one piece to the other socket, or into its queue. Returns false when it must be copied;
 * otherwise *more says whether there may be more data. `first`: the socket was reported as
 * readable.
 */
static bool splice_piece(struct l7mp_stream_io *s, bool first, bool *more)
{
	struct l7mp_stream_io *to = s->to;
	size_t max = turn_share(s);
	ssize_t n;
	int rc;

	*more = false;
	if (max < L7MP_KPIPE_BYTES && !first)
		return true;
	to->pipe = l7mp_kpipe_get(s->loop);
	if (!to->pipe) {
		s->bulk = false;
		return false;
	}
	n = l7mp_kpipe_fill(s->loop, to->pipe, s->in.fd, max);
	if (n <= 0) {
		l7mp_kpipe_put(s->loop, &to->pipe);
		return splice_failed(s, n, first);
	}
	note_size(s, (size_t)n);
	rc = flush_pipe(to);
	if (!rc && to->pipe) {
		to->full = true;
		rc = L7MP_STREAM_IO_FULL;
		sio_watch(to);
	}
	*more = n >= (ssize_t)SIO_TURN_LATE;
	s->passed(s->passed_arg, (size_t)n, rc);
	return true;
}

int l7mp_stream_io_splice(struct l7mp_stream_io *from, struct l7mp_stream_io *to,
                          void (*passed)(void *arg, size_t bytes, int rc), void *arg)
{
	const struct l7mp_stream_io *both[2] = {from, to};

	if (!sio_is_socket(from) || !sio_is_socket(to) || from == to)
		return -ENOTSUP;
	if (from->to || to->from)
		return -EBUSY;
	for (int i = 0; i < 2; i++) {
		int flags;

		if (both[i]->closing || both[i]->torn_down || both[i]->err || both[i]->connecting)
			return -ENOTCONN;
		/* Some kernels check only this flag, not SPLICE_F_NONBLOCK. */
		flags = fcntl(both[i]->in.fd, F_GETFL);
		if (flags < 0 ||
		    (!(flags & O_NONBLOCK) && fcntl(both[i]->in.fd, F_SETFL, flags | O_NONBLOCK)))
			return -errno;
	}
	from->to = to;
	to->from = from;
	from->passed = passed;
	from->passed_arg = arg;
	from->bulk = false;
	from->small = 0;
	return 0;
}

void l7mp_stream_io_unsplice(struct l7mp_stream_io *from)
{
	if (from->to)
		from->to->from = NULL;
	from->to = NULL;
}

static void sio_tell_flushed(struct l7mp_stream_io *s)
{
	s->notify_flushed = true;
	l7mp_task_post(s->loop, &s->task);
}

void l7mp_stream_io_flushed(struct l7mp_stream_io *s, void (*done)(void *arg), void *arg)
{
	s->flushed = done;
	s->flushed_arg = arg;
	if (done && !sio_pending(s))
		sio_tell_flushed(s);
}

/* Reads once and emits the data. Returns whether there may be more data. */
static bool copy_piece(struct l7mp_stream_io *s, uint32_t events)
{
	struct l7mp_buf *buf = l7mp_buf_new(l7mp_loop_bufs(s->loop), SIO_READ);
	ssize_t n;

	if (!buf) {
		sio_fail(s, -ENOMEM);
		return false;
	}
	n = pull(s, buf->data, SIO_READ);
	if (n <= 0)
		l7mp_buf_unref(buf);
	if (n == -EAGAIN)
		return false;
	if (n < 0) {
		sio_fail(s, (int)n);
		return false;
	}
	if (!n) {
		on_end(s);
		return false;
	}
	buf->len = (uint32_t)n;
	s->bulk = n == (ssize_t)SIO_READ;
	s->ops->data(s->arg, buf);
	/* A short read has emptied the socket, unless the end follows. */
	return n == (ssize_t)SIO_READ || (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
}

static void on_readable(struct l7mp_stream_io *s, uint32_t events)
{
	bool more = true;

	for (int i = 0; i < SIO_ROUNDS && more && s->reading && !s->closing && !s->err; i++) {
		if (!may_splice(s) || !splice_piece(s, i == 0, &more))
			more = copy_piece(s, events);
	}
}

/* After the last byte was written, reads and discards data until the peer has closed. */
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
	sio_teardown(s, false);
}

static void sio_linger(struct l7mp_stream_io *s)
{
	sio_do_shutdown(s);
	discard(s, true);
	if (s->torn_down)
		return;
	s->lingering = true;
	if (l7mp_timer_start(s->loop, &s->timer, SIO_LINGER_MS))
		sio_teardown(s, false);
	else
		sio_watch(s);
}

/* ---- events ---- */

/*
 * A paused socket was reset. The received data may still be wanted, but while reading stays paused
 * nothing else reports the error.
 */
static void paused(struct l7mp_stream_io *s, uint32_t events)
{
	if ((events & EPOLLERR) && sio_is_socket(s) &&
	    l7mp_timer_start(s->loop, &s->timer, SIO_STALL_MS)) {
		sio_fail(s, -ECONNRESET);
		return;
	}
	s->read_armed = false;
	sio_watch(s);
}

static void sio_in_cb(struct l7mp_io *io, uint32_t events)
{
	struct l7mp_stream_io *s = l7mp_container_of(io, struct l7mp_stream_io, in);

	if (s->connecting) {
		sio_dial_done(s);
		return;
	}
	if (sio_is_socket(s) && sio_pending(s) && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
		on_writable(s);
		if (s->torn_down || s->err)
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

static void sio_out_cb(struct l7mp_io *io, uint32_t events)
{
	struct l7mp_stream_io *s = l7mp_container_of(io, struct l7mp_stream_io, out);

	(void)events;
	on_writable(s);
}

/* ---- opening and connecting ---- */

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

static void no_delay(int fd)
{
	int on = 1;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

int l7mp_stream_io_open_tcp(struct l7mp_loop *loop, int fd, const struct l7mp_stream_io_ops *ops,
                            void *arg, struct l7mp_stream_io **out)
{
	int rc = sio_alloc(loop, SIO_TCP, fd, -1, ops, arg, out);

	if (rc)
		close(fd);
	else
		no_delay(fd);
	return rc;
}

int l7mp_stream_io_open_unix(struct l7mp_loop *loop, int fd, const struct l7mp_stream_io_ops *ops,
                             void *arg, struct l7mp_stream_io **out)
{
	int rc = sio_alloc(loop, SIO_UNIX, fd, -1, ops, arg, out);

	if (rc)
		close(fd);
	return rc;
}

int l7mp_stream_io_open_pipe(struct l7mp_loop *loop, int read_fd, int write_fd,
                             const struct l7mp_stream_io_ops *ops, void *arg,
                             struct l7mp_stream_io **out)
{
	int rc = 0, given = write_fd;

	/*
	 * A terminal is often one descriptor for both directions; epoll accepts a descriptor only
	 * once.
	 */
	if (read_fd >= 0 && read_fd == write_fd) {
		write_fd = fcntl(given, F_DUPFD_CLOEXEC, 0);
		rc = write_fd < 0 ? -errno : 0;
	}
	if (!rc)
		rc = sio_alloc(loop, SIO_PIPE, read_fd, write_fd, ops, arg, out);
	if (!rc)
		return 0;
	if (read_fd >= 0)
		close(read_fd);
	if (write_fd >= 0 && write_fd != read_fd)
		close(write_fd);
	return rc;
}

/* ---- connecting ---- */

/*
 * A connect to a free local port of the ephemeral range may connect to itself (TCP simultaneous
 * open).
 */
static bool is_self_connected(const struct l7mp_stream_io *s)
{
	struct l7mp_addr local, remote;

	if (s->kind != SIO_TCP || l7mp_stream_io_local(s, &local) ||
	    l7mp_stream_io_remote(s, &remote))
		return false;
	return l7mp_addr_equal(&local, &remote);
}

static void connected(struct l7mp_stream_io *s)
{
	s->connecting = false;
	free(s->remote);
	s->remote = NULL;
	if (is_self_connected(s)) {
		sio_fail(s, -ECONNREFUSED);
		return;
	}
	sio_flush(s);
	if (s->err)
		return;
	if (!s->q.count && s->shut)
		sio_do_shutdown(s);
	sio_watch(s);
	if (!s->err && s->ops->connected)
		s->ops->connected(s->arg);
}

static void sio_dial_done(struct l7mp_stream_io *s)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (getsockopt(s->in.fd, SOL_SOCKET, SO_ERROR, &err, &len))
		err = errno;
	if (err)
		sio_fail(s, -err);
	else
		connected(s);
}

/* Reports the result of connect(2), asynchronously. */
static void dialled(struct l7mp_stream_io *s, int err)
{
	if (!err) {
		s->notify_connected = true;
		l7mp_task_post(s->loop, &s->task);
	} else if (err == EINPROGRESS) {
		sio_watch(s);
	} else if (err != EAGAIN || s->kind != SIO_UNIX || !s->remote) {
		sio_fail(s, -err);
	} else if (l7mp_timer_start(s->loop, &s->timer, SIO_DIAL_MS)) {
		sio_fail(s, -ENOMEM);
	}
}

static int dial(struct l7mp_stream_io *s, const struct l7mp_addr *remote)
{
	int rc;

	do {
		rc = connect(s->in.fd, &remote->sa, remote->len) ? errno : 0;
	} while (rc == EINTR);
	return rc;
}

/*
 * A UNIX socket whose listener's backlog is full has no EINPROGRESS: retry until the owner's
 * time-out.
 */
static void sio_dial_again(struct l7mp_stream_io *s)
{
	dialled(s, dial(s, s->remote));
}

/*
 * The kernel chooses the port at connect(2), so that it must be free only for this remote address.
 */
static int bind_local(int fd, const struct l7mp_addr *local)
{
	int on = 1;

	if (!l7mp_addr_port(local))
		(void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
	else
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	return bind(fd, &local->sa, local->len) ? -errno : 0;
}

static int start(struct l7mp_loop *loop, enum sio_kind kind, const struct l7mp_addr *remote,
                 const struct l7mp_addr *local, const struct l7mp_stream_io_ops *ops, void *arg,
                 struct l7mp_stream_io **out)
{
	struct l7mp_stream_io *s = NULL;
	int fd, rc = 0;

	fd = socket(l7mp_addr_family(remote), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	rc = l7mp_relay_mark(fd, l7mp_addr_family(remote));
	if (!rc && local && local->len)
		rc = bind_local(fd, local);
	if (!rc)
		rc = sio_alloc(loop, kind, fd, -1, ops, arg, &s);
	if (rc) {
		close(fd);
		return rc;
	}
	s->connecting = true;
	if (kind == SIO_TCP) {
		no_delay(fd);
	} else {
		s->remote = malloc(sizeof(*remote));
		if (s->remote)
			*s->remote = *remote;
	}
	*out = s;
	dialled(s, dial(s, remote));
	return 0;
}

int l7mp_stream_io_connect_tcp(struct l7mp_loop *loop, const struct l7mp_addr *remote,
                               const struct l7mp_addr *local, const struct l7mp_stream_io_ops *ops,
                               void *arg, struct l7mp_stream_io **out)
{
	return start(loop, SIO_TCP, remote, local, ops, arg, out);
}

int l7mp_stream_io_connect_unix(struct l7mp_loop *loop, const struct l7mp_addr *remote,
                                const struct l7mp_stream_io_ops *ops, void *arg,
                                struct l7mp_stream_io **out)
{
	return start(loop, SIO_UNIX, remote, NULL, ops, arg, out);
}

/* ---- asynchronous callbacks, open and close, writing ---- */

/* ---- asynchronous callbacks ---- */

static void emit_closed(struct l7mp_stream_io *s)
{
	void (*closed)(void *) = s->ops->closed;
	void *arg = s->arg;

	l7mp_loop_release(s->loop);
	free(s->remote);
	free(s);
	if (closed)
		closed(arg);
}

static void emit_flushed(struct l7mp_stream_io *s)
{
	void (*done)(void *) = s->flushed;
	bool due = s->notify_flushed && !s->closing && !s->err && !s->werr && !sio_pending(s);

	s->notify_flushed = false;
	if (!due || !done)
		return;
	s->flushed = NULL;
	done(s->flushed_arg);
}

static void task_cb(struct l7mp_task *task, void *arg)
{
	struct l7mp_stream_io *s = arg;

	(void)task;
	if (s->torn_down) {
		emit_closed(s);
		return;
	}
	if (s->notify_connected && !s->closing) {
		s->notify_connected = false;
		sio_dial_done(s);
	}
	if (s->notify_drain && !s->closing) {
		s->notify_drain = false;
		if (s->ops->drain)
			s->ops->drain(s->arg);
	}
	emit_flushed(s);
	if (s->notify_end && !s->closing && !s->lent) {
		s->notify_end = false;
		if (s->ops->end)
			s->ops->end(s->arg);
	}
	if (s->notify_error && !s->closing) {
		s->notify_error = false;
		if (s->ops->error)
			s->ops->error(s->arg, s->err);
	}
}

static void sio_fail(struct l7mp_stream_io *s, int err)
{
	if (s->err || s->closing)
		return;
	s->err = err;
	sio_unlink(s);
	sio_discard_queue(s);
	l7mp_io_stop(s->loop, &s->in);
	l7mp_io_stop(s->loop, &s->out);
	s->notify_error = true;
	l7mp_task_post(s->loop, &s->task);
}

/* ---- open and close ---- */

static void timer_cb(struct l7mp_timer *t, void *arg)
{
	struct l7mp_stream_io *s = arg;

	(void)t;
	if (s->closing)
		sio_teardown(s, sio_pending(s));
	else if (s->connecting)
		sio_dial_again(s);
	else if (!s->reading)
		sio_fail(s, -ECONNRESET);
}

static int sio_alloc(struct l7mp_loop *loop, enum sio_kind kind, int read_fd, int write_fd,
                     const struct l7mp_stream_io_ops *ops, void *arg, struct l7mp_stream_io **out)
{
	struct l7mp_stream_io *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->loop = loop;
	s->ops = ops;
	s->arg = arg;
	s->kind = kind;
	s->eof = read_fd < 0;
	l7mp_io_init(&s->in, read_fd, sio_in_cb);
	l7mp_io_init(&s->out, write_fd, sio_out_cb);
	l7mp_bufq_init(&s->q);
	l7mp_task_init(&s->task, task_cb, s);
	l7mp_timer_init(&s->timer, timer_cb, s);
	l7mp_loop_hold(loop);
	*out = s;
	return 0;
}

static void sio_teardown(struct l7mp_stream_io *s, bool reset)
{
	if (s->torn_down)
		return;
	s->torn_down = true;
	sio_unlink(s);
	l7mp_timer_stop(s->loop, &s->timer);
	l7mp_io_stop(s->loop, &s->in);
	l7mp_io_stop(s->loop, &s->out);
	sio_discard_queue(s);
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

static void sio_finish(struct l7mp_stream_io *s)
{
	/*
	 * Closing a TCP socket with unread data sends RST, which may discard the data sent last: so
	 * read for a moment.
	 */
	if (s->kind == SIO_TCP && s->in.fd >= 0 && !s->eof && !s->err && !s->werr)
		sio_linger(s);
	else
		sio_teardown(s, false);
}

void l7mp_stream_io_close(struct l7mp_stream_io *s, bool abort)
{
	if (s->torn_down)
		return;
	if (abort) {
		s->closing = true;
		sio_teardown(s, true);
		return;
	}
	if (s->closing)
		return;
	s->closing = true;
	s->reading = false;
	sio_unlink(s);
	if (s->connecting || s->err || s->werr)
		sio_teardown(s, false);
	else if (!sio_pending(s))
		sio_finish(s);
	else if (l7mp_timer_start(s->loop, &s->timer, SIO_CLOSE_MS))
		sio_teardown(s, true); /* no memory for a timer */
	else
		sio_watch(s);
}

int l7mp_stream_io_take_fd(struct l7mp_stream_io *s)
{
	int fd = s->in.fd;

	if (s->closing || s->torn_down || s->err || !sio_is_socket(s))
		return -ENOTCONN;
	if (sio_pending(s) || s->connecting)
		return -EBUSY;
	l7mp_io_stop(s->loop, &s->in);
	s->in.fd = -1;
	s->closing = true;
	sio_teardown(s, false);
	return fd;
}

int l7mp_stream_io_lend(struct l7mp_stream_io *s, bool *ended, bool *shut)
{
	int fd = s->in.fd;

	if (s->kind != SIO_TCP || s->closing || s->torn_down || s->lent || s->err || s->werr ||
	    s->connecting || (s->eof && s->shut))
		return -ENOTCONN;
	if (l7mp_stream_io_queued(s) || s->shut != s->shut_done || s->notify_end)
		return -EBUSY;
	*ended = s->eof;
	*shut = s->shut;
	l7mp_timer_stop(s->loop, &s->timer);
	l7mp_io_stop(s->loop, &s->in);
	s->read_armed = false;
	s->in.fd = -1;
	s->lent = true;
	return fd;
}

void l7mp_stream_io_give_back(struct l7mp_stream_io *s, int fd, bool ended, bool shut)
{
	s->lent = false;
	if (s->torn_down || s->closing) {
		if (fd >= 0)
			close(fd);
		return;
	}
	s->in.fd = fd;
	s->shut_done = s->shut_done || shut || fd < 0;
	s->shut = s->shut || s->shut_done;
	s->notify_end = ended && !s->eof;
	s->eof = s->eof || ended || fd < 0;
	if (s->notify_end)
		l7mp_task_post(s->loop, &s->task);
	if (fd < 0)
		return;
	/* It may be another socket than was lent. */
	no_delay(fd);
	if (s->shut && !sio_pending(s))
		sio_do_shutdown(s);
	sio_watch(s);
}

/* ---- hand-over to another process ---- */

/* Moves the pipe's bytes to the head of the queue, in buffers of the usual size. */
static int pipe_to_queue(struct l7mp_stream_io *s)
{
	struct l7mp_bufq q;
	int rc = 0;

	if (!s->pipe)
		return 0;
	l7mp_bufq_init(&q);
	/* Allocate all buffers first: bytes read from the pipe can't be put back. */
	for (size_t left = s->pipe->bytes; left && !rc;) {
		size_t len = left < SIO_READ ? left : SIO_READ;
		struct l7mp_buf *buf = l7mp_buf_new(l7mp_loop_bufs(s->loop), len);

		if (!buf) {
			rc = -ENOMEM;
			break;
		}
		buf->len = (uint32_t)len;
		l7mp_bufq_push(&q, buf);
		left -= len;
	}
	for (struct l7mp_buf *buf = q.head; buf && !rc; buf = buf->next)
		rc = l7mp_kpipe_read(s->loop, s->pipe, buf->data, buf->len);
	if (rc) {
		l7mp_bufq_clear(&q);
		return rc;
	}
	l7mp_kpipe_put(s->loop, &s->pipe);
	while (s->q.head)
		l7mp_bufq_push(&q, l7mp_bufq_pop(&s->q));
	while (q.head)
		l7mp_bufq_push(&s->q, l7mp_bufq_pop(&q));
	return 0;
}

static void thaw(struct l7mp_stream_io *s)
{
	s->frozen = false;
	sio_watch(s);
	if (s->shut && !sio_pending(s))
		sio_do_shutdown(s);
	if (!s->full || sio_pending(s))
		return;
	s->full = false;
	s->notify_drain = true;
	l7mp_task_post(s->loop, &s->task);
}

int l7mp_stream_io_freeze(struct l7mp_stream_io *s, bool on)
{
	int rc;

	if (s->torn_down || s->closing || s->err || s->werr || s->connecting || s->lent ||
	    !sio_is_socket(s))
		return on ? -ENOTCONN : 0;
	if (s->frozen == on)
		return 0;
	if (!on) {
		thaw(s);
		return 0;
	}
	if (s->corked || s->notify_end || s->notify_connected || s->flushed)
		return -EBUSY;
	sio_unlink(s);
	rc = pipe_to_queue(s);
	if (rc)
		return rc;
	l7mp_io_stop(s->loop, &s->in);
	s->frozen = true;
	return 0;
}

void l7mp_stream_io_state(const struct l7mp_stream_io *s, struct l7mp_stream_io_state *out)
{
	*out = (struct l7mp_stream_io_state){
	        .ended = s->eof, .shut = s->shut, .queue = s->q.head, .off = s->off};
}

void l7mp_stream_io_set_state(struct l7mp_stream_io *s, const struct l7mp_stream_io_state *state)
{
	struct l7mp_buf *next;

	s->eof = state->ended;
	s->shut = state->shut;
	s->shut_done = state->shut && !state->queue;
	s->off = state->off;
	for (struct l7mp_buf *buf = state->queue; buf; buf = next) {
		next = buf->next;
		buf->next = NULL;
		l7mp_bufq_push(&s->q, buf);
	}
	s->full = l7mp_stream_io_queued(s) >= SIO_HIGH;
	sio_watch(s);
}

void l7mp_stream_io_release(struct l7mp_stream_io *s)
{
	if (s->torn_down)
		return;
	s->closing = true;
	sio_teardown(s, false);
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
	if (!sio_pending(s) && !s->connecting && !s->corked && !s->lent && !s->frozen && buf->len) {
		struct iovec iov = {.iov_base = buf->data, .iov_len = buf->len};
		ssize_t n = sio_push(s, &iov, 1);

		if (n < 0 && n != -EAGAIN) {
			sio_write_failed(s, (int)n);
			return refuse(buf, (int)n);
		}
		done = n > 0 ? (size_t)n : 0;
	}
	if (done == buf->len)
		return refuse(buf, s->full ? L7MP_STREAM_IO_FULL : 0);
	if (!s->q.count && done) {
		s->off = done;
	} else {
		/* A small piece must not keep a large buffer allocated while it waits. */
		buf = l7mp_buf_compact(buf);
		if (!buf) {
			sio_write_failed(s, -ENOMEM);
			return -ENOMEM;
		}
	}
	l7mp_bufq_push(&s->q, buf);
	if (!s->corked)
		sio_watch(s);
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
	if (on || !sio_pending(s) || s->connecting || s->torn_down || s->err || s->werr)
		return;
	sio_flush(s);
	if (s->torn_down || s->err)
		return;
	if (sio_pending(s))
		sio_watch(s);
	if (s->full && !s->pipe && l7mp_stream_io_queued(s) <= SIO_LOW && !s->closing) {
		s->full = false;
		s->notify_drain = true;
		l7mp_task_post(s->loop, &s->task);
	}
}

void l7mp_stream_io_shutdown(struct l7mp_stream_io *s)
{
	if (s->shut || s->closing || s->err)
		return;
	s->shut = true;
	if (!sio_pending(s) && !s->connecting && !s->lent && !s->frozen)
		sio_do_shutdown(s);
}

void l7mp_stream_io_read(struct l7mp_stream_io *s, bool on)
{
	if (s->closing || s->reading == on)
		return;
	s->reading = on;
	s->started = true;
	if (on && !s->connecting)
		l7mp_timer_stop(s->loop, &s->timer);
	/* Pausing takes effect at the next event, so that a short pause costs no system call. */
	if (on)
		sio_watch(s);
}

/* ---- getters ---- */

size_t l7mp_stream_io_queued(const struct l7mp_stream_io *s)
{
	return s->q.bytes - s->off + (s->pipe ? s->pipe->bytes : 0);
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
