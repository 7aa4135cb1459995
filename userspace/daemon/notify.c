/* SPDX-License-Identifier: MIT */
/*
 * sd_notify(3) itself is not used, because it blocks while the manager's queue is full: a dozen
 * reloads without a reading manager would stop all traffic.
 */
#include "notify.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define AGAIN_MS 100

#define FIRST_FD 3 /* the first passed descriptor (sd_listen_fds(3)) */

/*
 * Returns 0: sent; -EAGAIN: the queue is still full after wait_ms; -ENOTCONN: there is no manager.
 */
static int send_with(const char *text, const int *fds, size_t n, int wait_ms)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(L7MP_NOTIFY_FDS * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = (void *)text, .iov_len = strlen(text)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct pollfd room = {.events = POLLOUT};
	socklen_t len;
	int fd, rc;

	if (!path || (path[0] != '/' && path[0] != '@') || !path[1] ||
	    strlen(path) >= sizeof(sun.sun_path))
		return -ENOTCONN;
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	memcpy(sun.sun_path, path, strlen(path));
	if (path[0] == '@')
		sun.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -EAGAIN;
	if (connect(fd, (struct sockaddr *)&sun, len)) {
		rc = -errno;
		close(fd);
		return rc;
	}
	room.fd = fd;
	if (n) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
		*CMSG_FIRSTHDR(&msg) = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
		                                        .cmsg_type = SCM_RIGHTS,
		                                        .cmsg_len = CMSG_LEN(n * sizeof(int))};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, n * sizeof(int));
	}
	rc = sendmsg(fd, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
	/* For a connected socket poll(2) reports room in the peer's queue. */
	if (rc == -EAGAIN && wait_ms && poll(&room, 1, wait_ms) > 0)
		rc = sendmsg(fd, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
	close(fd);
	return rc == -ENOBUFS || rc == -ETOOMANYREFS ? -EAGAIN : rc;
}

/* Returns 0: sent, or there is no manager; -EAGAIN. */
static int send_now(const char *text)
{
	return send_with(text, NULL, 0, 0) == -EAGAIN ? -EAGAIN : 0;
}

/* ---- descriptors ---- */

size_t l7mp_notify_store_max(void)
{
	const char *text = getenv("NOTIFY_SOCKET") ? getenv("FDSTORE") : NULL;
	long max = text ? atol(text) : 0;

	return max > 0 ? (size_t)max : 0;
}

int l7mp_notify_store(const int *fds, size_t n)
{
	static const char text[] = "FDSTORE=1\nFDPOLL=0\nFDNAME=" L7MP_NOTIFY_NAME;

	if (!l7mp_notify_store_max())
		return -ENOTSUP;
	if (!n || n > L7MP_NOTIFY_FDS)
		return n ? -E2BIG : 0;
	return send_with(text, fds, n, L7MP_NOTIFY_STORE_MS);
}

int l7mp_notify_passed(int *first)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	int n = 0;

	if (pid && fds && atol(pid) == (long)getpid())
		n = atoi(fds);
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	*first = FIRST_FD;
	return n > 0 ? n : 0;
}

/* ---- messages ---- */

static void drop_first(struct l7mp_notify *n)
{
	free(n->waiting[0]);
	n->n--;
	memmove(n->waiting, n->waiting + 1, n->n * sizeof(n->waiting[0]));
}

static void send_waiting(struct l7mp_notify *n)
{
	while (n->n && !send_now(n->waiting[0]))
		drop_first(n);
}

static void again(struct l7mp_timer *timer, void *arg)
{
	struct l7mp_notify *n = arg;

	send_waiting(n);
	if (n->n)
		(void)l7mp_timer_start(n->loop, timer, AGAIN_MS);
}

void l7mp_notify_init(struct l7mp_notify *n, struct l7mp_loop *loop)
{
	*n = (struct l7mp_notify){.loop = loop};
	l7mp_timer_init(&n->timer, again, n);
}

void l7mp_notify_send(struct l7mp_notify *n, const char *text)
{
	char *copy;

	send_waiting(n);
	if (!n->n && !send_now(text))
		return;
	copy = strdup(text);
	if (!copy)
		return;
	if (n->n == L7MP_NOTIFY_WAITING)
		drop_first(n);
	n->waiting[n->n++] = copy;
	if (!l7mp_timer_armed(&n->timer))
		(void)l7mp_timer_start(n->loop, &n->timer, AGAIN_MS);
}

void l7mp_notify_stop(struct l7mp_notify *n)
{
	if (!n->loop)
		return;
	send_waiting(n);
	while (n->n)
		drop_first(n);
	l7mp_timer_stop(n->loop, &n->timer);
}
