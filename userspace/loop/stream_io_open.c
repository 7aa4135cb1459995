/* SPDX-License-Identifier: MIT */
/* Byte streams: ready-made descriptors, and connecting. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stream_io_int.h"

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
	int rc = l7mp_stream_io_alloc(loop, SIO_TCP, fd, -1, ops, arg, out);

	if (rc)
		close(fd);
	else
		no_delay(fd);
	return rc;
}

int l7mp_stream_io_open_unix(struct l7mp_loop *loop, int fd, const struct l7mp_stream_io_ops *ops,
                             void *arg, struct l7mp_stream_io **out)
{
	int rc = l7mp_stream_io_alloc(loop, SIO_UNIX, fd, -1, ops, arg, out);

	if (rc)
		close(fd);
	return rc;
}

int l7mp_stream_io_open_pipe(struct l7mp_loop *loop, int read_fd, int write_fd,
                             const struct l7mp_stream_io_ops *ops, void *arg,
                             struct l7mp_stream_io **out)
{
	int rc = 0, given = write_fd;

	/* A terminal is often one descriptor for both; epoll takes each only once. */
	if (read_fd >= 0 && read_fd == write_fd) {
		write_fd = fcntl(given, F_DUPFD_CLOEXEC, 0);
		rc = write_fd < 0 ? -errno : 0;
	}
	if (!rc)
		rc = l7mp_stream_io_alloc(loop, SIO_PIPE, read_fd, write_fd, ops, arg, out);
	if (!rc)
		return 0;
	if (read_fd >= 0)
		close(read_fd);
	if (write_fd >= 0 && write_fd != read_fd)
		close(write_fd);
	return rc;
}

/* ---- connecting ---- */

/* A connect to a free local port of the ephemeral range may meet itself: nobody listens there. */
static bool meets_itself(const struct l7mp_stream_io *s)
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
	if (meets_itself(s)) {
		l7mp_stream_io_fail(s, -ECONNREFUSED);
		return;
	}
	l7mp_stream_io_flush(s);
	if (s->err)
		return;
	if (!s->q.count && s->shut)
		l7mp_stream_io_do_shutdown(s);
	l7mp_stream_io_watch(s);
	if (!s->err && s->ops->connected)
		s->ops->connected(s->arg);
}

void l7mp_stream_io_dial_done(struct l7mp_stream_io *s)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (getsockopt(s->in.fd, SOL_SOCKET, SO_ERROR, &err, &len))
		err = errno;
	if (err)
		l7mp_stream_io_fail(s, -err);
	else
		connected(s);
}

/* The outcome of connect(2), which is never told from inside the caller's call. */
static void dialled(struct l7mp_stream_io *s, int err)
{
	if (!err) {
		s->tell_connected = true;
		l7mp_task_post(s->loop, &s->task);
	} else if (err == EINPROGRESS) {
		l7mp_stream_io_watch(s);
	} else if (err != EAGAIN || s->kind != SIO_UNIX || !s->remote) {
		l7mp_stream_io_fail(s, -err);
	} else if (l7mp_timer_start(s->loop, &s->timer, SIO_DIAL_MS)) {
		l7mp_stream_io_fail(s, -ENOMEM);
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

/* A UNIX listener with a full backlog has no "in progress": the owner's time-out ends this. */
void l7mp_stream_io_dial_again(struct l7mp_stream_io *s)
{
	dialled(s, dial(s, s->remote));
}

/* The kernel chooses the port at connect: it only has to be free for this remote address. */
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
	if (local && local->len)
		rc = bind_local(fd, local);
	if (!rc)
		rc = l7mp_stream_io_alloc(loop, kind, fd, -1, ops, arg, &s);
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
