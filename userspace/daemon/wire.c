/* SPDX-License-Identifier: MIT */
#include "wire.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAGIC 0x6c37756dU /* "l7um" */

union control {
	struct cmsghdr align;
	char room[CMSG_SPACE(WIRE_FDS * sizeof(int))];
};

int wire_send(int fd, enum wire_type type, const void *head, size_t head_len, const void *body,
              size_t body_len, const int *fds, unsigned n_fds)
{
	struct wire_header h = {.magic = MAGIC, .version = WIRE_VERSION, .type = (uint16_t)type};
	struct iovec iov[3] = {{.iov_base = &h, .iov_len = sizeof(h)},
	                       {.iov_base = (void *)head, .iov_len = head_len},
	                       {.iov_base = (void *)body, .iov_len = body_len}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 3};
	union control c;
	ssize_t n;

	if (head_len + body_len > WIRE_MAX || n_fds > WIRE_FDS)
		return -EMSGSIZE;
	if (n_fds) {
		memset(&c, 0, sizeof(c));
		msg.msg_control = &c;
		msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		*CMSG_FIRSTHDR(&msg) = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
		                                        .cmsg_type = SCM_RIGHTS,
		                                        .cmsg_len = CMSG_LEN(n_fds * sizeof(int))};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, n_fds * sizeof(int));
	}
	do {
		n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n >= 0)
		return 0;
	/* Too many descriptors are in flight until the receiver takes them. */
	if (errno == ETOOMANYREFS || errno == ENOBUFS)
		return -EAGAIN;
	return errno == ECONNRESET ? -EPIPE : -errno;
}

int wire_send_text(int fd, enum wire_type type, const char *text, const int *fds, unsigned n_fds)
{
	return wire_send(fd, type, text, text ? strlen(text) : 0, NULL, 0, fds, n_fds);
}

void wire_close_fds(struct wire_frame *f)
{
	while (f->n_fds)
		close(f->fds[--f->n_fds]);
}

static int wait_for(int fd, int wait_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int n;

	do {
		n = poll(&p, 1, wait_ms);
	} while (n < 0 && errno == EINTR);
	return n > 0 ? 0 : n ? -errno : -ETIMEDOUT;
}

static void take_fds(struct msghdr *msg, struct wire_frame *f)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		/* There is room only for WIRE_FDS: the kernel closes the others. */
		f->n_fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(f->fds, CMSG_DATA(c), f->n_fds * sizeof(int));
	}
}

int wire_recv(int fd, struct wire_frame *f, int wait_ms)
{
	struct wire_header h;
	struct iovec iov[2] = {{.iov_base = &h, .iov_len = sizeof(h)},
	                       {.iov_base = f->data, .iov_len = WIRE_MAX}};
	union control c;
	struct msghdr msg = {
	        .msg_iov = iov, .msg_iovlen = 2, .msg_control = &c, .msg_controllen = sizeof(c)};
	ssize_t n;
	int rc = wait_ms < 0 ? 0 : wait_for(fd, wait_ms);

	f->n_fds = 0;
	if (rc)
		return rc;
	do {
		n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n <= 0)
		return !n || errno == ECONNRESET ? -EPIPE : -errno;
	take_fds(&msg, f);
	if (n < (ssize_t)sizeof(h) || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) ||
	    h.magic != MAGIC || h.version != WIRE_VERSION || !h.type || h.type >= WIRE_TYPES) {
		wire_close_fds(f);
		return -EPROTO;
	}
	f->type = (enum wire_type)h.type;
	f->len = (size_t)n - sizeof(h);
	f->data[f->len] = '\0';
	return 0;
}

/* ---- in a file ---- */

uint64_t wire_cookie(int fd)
{
	uint64_t cookie = 0;
	socklen_t len = sizeof(cookie);

	return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) ? 0 : cookie;
}

int wire_store(int file, enum wire_type type, const void *head, size_t head_len, const void *body,
               size_t body_len, const int *fds, unsigned n_fds)
{
	struct wire_stored before = {.len = (uint32_t)(head_len + body_len), .n_fds = n_fds};
	struct wire_header h = {.magic = MAGIC, .version = WIRE_VERSION, .type = (uint16_t)type};
	const struct iovec iov[4] = {{.iov_base = &before, .iov_len = sizeof(before)},
	                             {.iov_base = &h, .iov_len = sizeof(h)},
	                             {.iov_base = (void *)head, .iov_len = head_len},
	                             {.iov_base = (void *)body, .iov_len = body_len}};
	ssize_t n;

	if (head_len + body_len > WIRE_MAX || n_fds > WIRE_FDS)
		return -EMSGSIZE;
	for (unsigned i = 0; i < n_fds; i++) {
		before.cookies[i] = wire_cookie(fds[i]);
		if (!before.cookies[i])
			return -ENOTSOCK;
	}
	n = writev(file, iov, 4);
	if (n < 0)
		return -errno;
	return (size_t)n == sizeof(before) + sizeof(h) + head_len + body_len ? 0 : -ENOSPC;
}

/* Returns the number of bytes, less than `size` only at the end; or a negative errno. */
static ssize_t read_all(int file, void *out, size_t size)
{
	size_t at = 0;

	while (at < size) {
		ssize_t n = read(file, (char *)out + at, size - at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : (ssize_t)at;
		at += (size_t)n;
	}
	return (ssize_t)at;
}

int wire_load(int file, struct wire_frame *f, uint64_t cookies[static WIRE_FDS])
{
	struct {
		struct wire_stored before;
		struct wire_header h;
	} head;
	ssize_t n = read_all(file, &head, sizeof(head));

	f->n_fds = 0;
	if (n <= 0)
		return n ? (int)n : -ENODATA;
	if (n < (ssize_t)sizeof(head) || head.h.magic != MAGIC || head.h.version != WIRE_VERSION ||
	    !head.h.type || head.h.type >= WIRE_TYPES || head.before.len > WIRE_MAX ||
	    head.before.n_fds > WIRE_FDS)
		return -EPROTO;
	n = read_all(file, f->data, head.before.len);
	if (n != (ssize_t)head.before.len)
		return n < 0 ? (int)n : -EPROTO;
	f->type = (enum wire_type)head.h.type;
	f->len = head.before.len;
	f->data[f->len] = '\0';
	f->n_fds = head.before.n_fds;
	for (unsigned i = 0; i < WIRE_FDS; i++)
		f->fds[i] = -1;
	memcpy(cookies, head.before.cookies, sizeof(head.before.cookies));
	return 0;
}
