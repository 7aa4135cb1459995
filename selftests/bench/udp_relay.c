/* SPDX-License-Identifier: MIT */
/*
 * The bare limit for a UDP relay in user space: udp_relay LISTEN UPSTREAM
 *
 * epoll, recvmmsg and sendmmsg in batches, a connected socket per peer, a hash
 * table by peer: the least that any relay of sessions has to do.
 */
#include "bench.h"

#include <sys/epoll.h>

#define BATCH 64
#define TABLE 65536

struct session {
	struct sockaddr_storage peer;
	socklen_t len;
	int fd;
};

static struct session *table[TABLE];
static char bufs[BATCH][2048];
static struct mmsghdr in[BATCH], out[BATCH];
static struct iovec iov_in[BATCH], iov_out[BATCH];
static struct sockaddr_storage names[BATCH];
static int epfd, listener;
static struct sockaddr_storage upstream;
static socklen_t upstream_len;

static size_t hash(const struct sockaddr_storage *a)
{
	const struct sockaddr_in *in4 = (const void *)a;
	const struct sockaddr_in6 *in6 = (const void *)a;

	if (a->ss_family == AF_INET)
		return (in4->sin_addr.s_addr * 2654435761u ^ in4->sin_port * 40503u) % TABLE;
	return (in6->sin6_addr.s6_addr32[3] * 2654435761u ^ in6->sin6_port * 40503u) % TABLE;
}

static struct session *find(const struct sockaddr_storage *peer, socklen_t len)
{
	size_t at = hash(peer);
	struct epoll_event ev = {.events = EPOLLIN};

	while (table[at] && memcmp(&table[at]->peer, peer, len))
		at = (at + 1) % TABLE;
	if (table[at])
		return table[at];
	table[at] = calloc(1, sizeof(*table[at]));
	memcpy(&table[at]->peer, peer, len);
	table[at]->len = len;
	table[at]->fd = socket_or_die(upstream.ss_family, SOCK_DGRAM | SOCK_NONBLOCK);
	if (connect(table[at]->fd, (struct sockaddr *)&upstream, upstream_len))
		DIE("connect");
	ev.data.ptr = table[at];
	epoll_ctl(epfd, EPOLL_CTL_ADD, table[at]->fd, &ev);
	return table[at];
}

static void send_run(int fd, int first, int n)
{
	while (n > 0) {
		int done = sendmmsg(fd, out + first, (unsigned)n, MSG_DONTWAIT);

		if (done <= 0)
			return;
		first += done;
		n -= done;
	}
}

static void from_clients(void)
{
	int n = recvmmsg(listener, in, BATCH, MSG_DONTWAIT, NULL);
	int first = 0;
	struct session *s = NULL;

	for (int i = 0; i < n; i++) {
		struct session *t = find(&names[i], in[i].msg_hdr.msg_namelen);

		if (s && t != s) {
			send_run(s->fd, first, i - first);
			first = i;
		}
		s = t;
		iov_out[i].iov_len = in[i].msg_len;
		out[i].msg_hdr.msg_name = NULL;
		out[i].msg_hdr.msg_namelen = 0;
		in[i].msg_hdr.msg_namelen = sizeof(names[i]);
	}
	if (s)
		send_run(s->fd, first, n - first);
}

static void from_upstream(struct session *s)
{
	int n;

	for (int i = 0; i < BATCH; i++)
		in[i].msg_hdr.msg_name = NULL;
	n = recvmmsg(s->fd, in, BATCH, MSG_DONTWAIT, NULL);
	for (int i = 0; i < n; i++) {
		iov_out[i].iov_len = in[i].msg_len;
		out[i].msg_hdr.msg_name = &s->peer;
		out[i].msg_hdr.msg_namelen = s->len;
	}
	send_run(listener, 0, n);
	for (int i = 0; i < BATCH; i++) {
		in[i].msg_hdr.msg_name = &names[i];
		in[i].msg_hdr.msg_namelen = sizeof(names[i]);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_storage local;
	socklen_t len;
	struct epoll_event ev = {.events = EPOLLIN}, events[256];

	if (argc != 3) {
		fprintf(stderr, "usage: udp_relay LISTEN UPSTREAM\n");
		return 2;
	}
	len = parse_addr(argv[1], &local);
	upstream_len = parse_addr(argv[2], &upstream);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	listener = socket_or_die(local.ss_family, SOCK_DGRAM | SOCK_NONBLOCK);
	if (bind(listener, (struct sockaddr *)&local, len))
		DIE("bind");
	epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &ev);
	for (int i = 0; i < BATCH; i++) {
		iov_in[i] = (struct iovec){bufs[i], sizeof(bufs[i])};
		iov_out[i] = (struct iovec){bufs[i], 0};
		in[i].msg_hdr = (struct msghdr){.msg_iov = &iov_in[i],
		                                .msg_iovlen = 1,
		                                .msg_name = &names[i],
		                                .msg_namelen = sizeof(names[i])};
		out[i].msg_hdr = (struct msghdr){.msg_iov = &iov_out[i], .msg_iovlen = 1};
	}
	for (;;) {
		int n = epoll_wait(epfd, events, 256, -1);

		for (int i = 0; i < n; i++) {
			if (events[i].data.ptr)
				from_upstream(events[i].data.ptr);
			else
				from_clients();
		}
	}
}
