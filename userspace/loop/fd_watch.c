/* SPDX-License-Identifier: MIT */
/*
 * Descriptor watchers: one epoll set for all of our sockets, which libuv polls as one descriptor.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "loop_int.h"

/*
 * epoll refuses regular files and /dev/null (EPERM), as they are always ready. For these, a task
 * that posts itself in each turn reports readiness.
 */
struct l7mp_io_always {
	struct l7mp_task task;
	struct l7mp_loop *loop;
	struct l7mp_io *io;
};

static void always_cb(struct l7mp_task *task, void *arg)
{
	struct l7mp_io_always *always = arg;
	struct l7mp_io *io = always->io;

	/* Posted before the callback, which may stop the watcher and so free the task. */
	l7mp_task_post(always->loop, task);
	io->cb(io, io->events);
}

static int always_start(struct l7mp_loop *loop, struct l7mp_io *io)
{
	io->always = calloc(1, sizeof(*io->always));
	if (!io->always)
		return -ENOMEM;
	io->always->loop = loop;
	io->always->io = io;
	l7mp_task_init(&io->always->task, always_cb, io->always);
	l7mp_task_post(loop, &io->always->task);
	return 0;
}

static int always_set(struct l7mp_loop *loop, struct l7mp_io *io, uint32_t events)
{
	io->events = events;
	if (events)
		return 0;
	l7mp_task_cancel(loop, &io->always->task);
	free(io->always);
	io->always = NULL;
	return 0;
}

/* Removes events of this watcher that were reported but not dispatched yet. */
static void forget_events(struct l7mp_loop *loop, const struct l7mp_io *io)
{
	for (int i = loop->event_at; i < loop->event_n; i++)
		if (loop->events[i].data.ptr == io)
			loop->events[i].data.ptr = NULL;
}

int l7mp_io_set(struct l7mp_loop *loop, struct l7mp_io *io, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = io};
	int op = !io->events ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
	int rc = 0;

	if (events == io->events)
		return 0;
	if (io->always)
		return always_set(loop, io, events);
	if (epoll_ctl(loop->epfd, op, io->fd, &ev))
		rc = -errno;
	if (rc == -EPERM && op == EPOLL_CTL_ADD)
		rc = always_start(loop, io);
	if (!events) {
		forget_events(loop, io);
		rc = 0;
	}
	if (!rc)
		io->events = events;
	return rc;
}

static void dispatch(struct l7mp_loop *loop)
{
	struct epoll_event events[L7MP_IO_BATCH];
	int n = epoll_wait(loop->epfd, events, L7MP_IO_BATCH, 0);

	if (n <= 0)
		return;
	loop->events = events;
	loop->event_n = n;
	for (int i = 0; i < n; i++) {
		struct l7mp_io *io = events[i].data.ptr;

		loop->event_at = i + 1;
		if (io)
			io->cb(io, events[i].events);
	}
	loop->events = NULL;
	loop->event_at = loop->event_n = 0;
}

static void epoll_cb(uv_poll_t *handle, int status, int events)
{
	(void)status;
	(void)events;
	dispatch(handle->data);
}

int l7mp_io_start(struct l7mp_loop *loop)
{
	int rc;

	loop->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epfd < 0)
		return -errno;
	rc = uv_poll_init(&loop->uv, &loop->epoll, loop->epfd);
	if (rc) {
		close(loop->epfd);
		loop->epfd = -1;
		return rc;
	}
	loop->epoll.data = loop;
	uv_poll_start(&loop->epoll, UV_READABLE, epoll_cb);
	uv_unref((uv_handle_t *)&loop->epoll);
	return 0;
}
