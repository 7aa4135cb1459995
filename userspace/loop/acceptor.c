/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l7mp/stream_io.h"
#include "loop_int.h"

#define ACCEPTS    64  /* accepts per iteration, for fairness */
#define BACKOFF_MS 100 /* after running out of descriptors */

struct l7mp_acceptor {
	struct l7mp_io io;
	struct l7mp_loop *loop;
	const struct l7mp_acceptor_ops *ops;
	void *arg;
	struct l7mp_timer timer;
	bool busy, closed;
};

static void acceptor_listen(struct l7mp_acceptor *a)
{
	/* Without memory for the watcher stop accepting, and retry later. */
	if (l7mp_io_set(a->loop, &a->io, EPOLLIN))
		(void)l7mp_timer_start(a->loop, &a->timer, BACKOFF_MS);
}

static void timer_cb(struct l7mp_timer *t, void *arg)
{
	(void)t;
	acceptor_listen(arg);
}

/* Stops accepting for a while; the connections stay in the backlog. */
static void back_off(struct l7mp_acceptor *a, int err)
{
	if (!l7mp_timer_start(a->loop, &a->timer, BACKOFF_MS))
		l7mp_io_stop(a->loop, &a->io);
	if (a->ops->exhausted)
		a->ops->exhausted(a->arg, err);
}

/* Errors that concern only the connection being accepted (accept(2)). */
static bool is_connection_error(int err)
{
	switch (err) {
	case ECONNABORTED:
	case EINTR:
	case EPERM:
	case EPROTO:
	case ENETDOWN:
	case ENETUNREACH:
	case EHOSTDOWN:
	case EHOSTUNREACH:
	case ENOPROTOOPT:
	case ENONET:
	case EOPNOTSUPP:
		return true;
	default:
		return false;
	}
}

/* Accepts a connection. Returns false when there is none, or when accepting must pause. */
static bool accept_one(struct l7mp_acceptor *a)
{
	struct l7mp_addr raw, peer;
	socklen_t len = sizeof(struct sockaddr_un);
	int fd = accept4(a->io.fd, &raw.sa, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		int err = errno;

		if (err == EAGAIN)
			return false;
		if (is_connection_error(err))
			return true;
		back_off(a, -err);
		return false;
	}
	peer.len = 0;
	if (len > sizeof(sa_family_t) && raw.sa.sa_family != AF_UNIX &&
	    l7mp_addr_from_sockaddr(&peer, &raw.sa, len))
		peer.len = 0;
	a->ops->accepted(a->arg, fd, &peer);
	return true;
}

static void io_cb(struct l7mp_io *io, uint32_t events)
{
	struct l7mp_acceptor *a = l7mp_container_of(io, struct l7mp_acceptor, io);

	(void)events;
	a->busy = true;
	for (int i = 0; i < ACCEPTS && !a->closed; i++)
		if (!accept_one(a))
			break;
	a->busy = false;
	if (a->closed)
		free(a);
}

int l7mp_acceptor_new(struct l7mp_loop *loop, int fd, const struct l7mp_acceptor_ops *ops,
                      void *arg, struct l7mp_acceptor **out)
{
	struct l7mp_acceptor *a = calloc(1, sizeof(*a));
	int rc = -ENOMEM;

	if (!a)
		goto fail;
	a->loop = loop;
	a->ops = ops;
	a->arg = arg;
	l7mp_io_init(&a->io, fd, io_cb);
	l7mp_timer_init(&a->timer, timer_cb, a);
	rc = l7mp_io_set(loop, &a->io, EPOLLIN);
	if (rc)
		goto fail;
	l7mp_loop_hold(loop);
	*out = a;
	return 0;
fail:
	free(a);
	close(fd);
	return rc;
}

void l7mp_acceptor_rest(struct l7mp_acceptor *a, bool on)
{
	l7mp_timer_stop(a->loop, &a->timer);
	if (on)
		l7mp_io_stop(a->loop, &a->io);
	else
		acceptor_listen(a);
}

void l7mp_acceptor_flush(struct l7mp_acceptor *a)
{
	a->busy = true;
	for (int i = 0; i < SOMAXCONN && !a->closed; i++)
		if (!accept_one(a))
			break;
	a->busy = false;
}

int l7mp_acceptor_fd(const struct l7mp_acceptor *a)
{
	return a->io.fd;
}

void l7mp_acceptor_close(struct l7mp_acceptor **ap)
{
	struct l7mp_acceptor *a = *ap;

	if (!a)
		return;
	*ap = NULL;
	a->closed = true;
	l7mp_io_stop(a->loop, &a->io);
	l7mp_timer_stop(a->loop, &a->timer);
	close(a->io.fd);
	l7mp_loop_release(a->loop);
	if (!a->busy)
		free(a);
}
