/* SPDX-License-Identifier: MIT */
/*
 * Relaying with MSG_PEEK: the data stays in the socket, so that its window does not open and the
 * sender stops. SO_PEEK_OFF (for TCP since Linux 6.9) keeps the position; without it each peek also
 * copies the data from the beginning again, into a buffer that is ignored.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "tcp.h"

#define SKIP_PIECE 65536
#define SKIP_IOV   256
#define BUDGET     (4U << 20) /* bytes per call */

static void try_offset(struct off_tcp_relay *r, int fd)
{
	int zero = (int)r->relayed;

	r->by_offset = setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &zero, sizeof(zero)) ? -1 : 1;
}

static ssize_t peek_by_offset(struct off_tcp_relay *r, int fd)
{
	return recv(fd, r->chunk, OFF_TCP_CHUNK, MSG_PEEK | MSG_DONTWAIT);
}

static ssize_t peek_again(struct off_tcp_relay *r, int fd)
{
	uint8_t *nowhere = r->chunk + OFF_TCP_CHUNK;
	struct iovec iov[SKIP_IOV + 1];
	struct msghdr msg = {.msg_iov = iov};
	uint64_t skip = r->relayed;
	ssize_t n;

	while (skip && msg.msg_iovlen < SKIP_IOV) {
		size_t piece = skip > SKIP_PIECE ? SKIP_PIECE : (size_t)skip;

		iov[msg.msg_iovlen++] = (struct iovec){nowhere, piece};
		skip -= piece;
	}
	if (skip)
		return 0; /* larger than any receive window */
	iov[msg.msg_iovlen++] = (struct iovec){r->chunk, OFF_TCP_CHUNK};
	n = recvmsg(fd, &msg, MSG_PEEK | MSG_DONTWAIT);
	return n > (ssize_t)r->relayed ? n - (ssize_t)r->relayed : 0;
}

/* Peeks the next chunk, after the previous one was written. */
static bool peek(struct off_tcp_relay *r, int fd)
{
	ssize_t n;

	if (!r->chunk)
		r->chunk = malloc(OFF_TCP_CHUNK + SKIP_PIECE);
	if (!r->chunk)
		return false;
	if (!r->by_offset)
		try_offset(r, fd);
	n = r->by_offset > 0 ? peek_by_offset(r, fd) : peek_again(r, fd);
	r->at = 0;
	r->len = n > 0 ? (size_t)n : 0;
	return n > 0;
}

bool off_tcp_relay_some(struct off_tcp_relay *r, int from, int to, bool *all)
{
	size_t done = 0;
	int there;

	*all = false;
	while (done < BUDGET && (r->len || off_tcp_unread(from) > (int)r->relayed)) {
		ssize_t n;

		if (!r->len && !peek(r, from))
			break;
		n = send(to, r->chunk + r->at, r->len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n <= 0)
			break;
		r->at += (size_t)n;
		r->len -= (size_t)n;
		r->relayed += (uint64_t)n;
		done += (size_t)n;
	}
	there = off_tcp_unread(from);
	*all = !r->len && there >= 0 && (uint64_t)there <= r->relayed;
	return done;
}

int off_tcp_relay_discard(struct off_tcp_relay *r, int from)
{
	int off = -1;

	/* Otherwise reading would decrement the offset. */
	if (r->by_offset > 0)
		(void)setsockopt(from, SOL_SOCKET, SO_PEEK_OFF, &off, sizeof(off));
	while (r->relayed) {
		ssize_t n = recv(from, NULL, r->relayed, MSG_TRUNC | MSG_DONTWAIT);

		if (n <= 0)
			return n ? -errno : -ENODATA;
		r->relayed -= (uint64_t)n;
	}
	off_tcp_relay_free(r);
	return 0;
}

void off_tcp_relay_rest(struct off_tcp_relay *r)
{
	free(r->chunk);
	r->chunk = NULL;
	r->at = r->len = 0;
}

void off_tcp_relay_free(struct off_tcp_relay *r)
{
	free(r->chunk);
	*r = (struct off_tcp_relay){0};
}
