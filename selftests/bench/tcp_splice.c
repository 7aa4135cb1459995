/* SPDX-License-Identifier: MIT */
/*
 * The bare limit for a TCP relay in user space: tcp_splice LISTEN UPSTREAM
 *
 * epoll and splice(2) through a pipe per direction: bytes never enter the process.
 */
#include "bench.h"

#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>

#define CHUNK (1 << 20)

struct half {
	int from, to, pipe[2];
	size_t in_pipe;
	int done;
	struct half *other;
};

static int epfd;

static void arm(struct half *h, int op)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = h};

	epoll_ctl(epfd, op, h->from, &ev);
}

static void pump(struct half *h)
{
	while (!h->done || h->in_pipe) {
		ssize_t n = h->done ? 0
		                    : splice(h->from, NULL, h->pipe[1], NULL, CHUNK,
		                             SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
		int idle = n < 0;

		if (n > 0)
			h->in_pipe += (size_t)n;
		if (n == 0 || (n < 0 && errno != EAGAIN))
			h->done = 1;
		while (h->in_pipe) {
			n = splice(h->pipe[0], NULL, h->to, NULL, h->in_pipe,
			           SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
			if (n <= 0)
				return;
			h->in_pipe -= (size_t)n;
			idle = 0;
		}
		if (idle || h->done)
			break;
	}
	if (h->done && !h->in_pipe)
		shutdown(h->to, SHUT_WR);
}

static void open_pair(int client, const struct sockaddr_storage *to, socklen_t len)
{
	int one = 1, up = socket(to->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct half *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));

	if (connect(up, (const struct sockaddr *)to, len))
		DIE("connect");
	setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(up, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	fcntl(up, F_SETFL, O_NONBLOCK);
	*a = (struct half){.from = client, .to = up, .other = b};
	*b = (struct half){.from = up, .to = client, .other = a};
	if (pipe2(a->pipe, O_NONBLOCK | O_CLOEXEC) || pipe2(b->pipe, O_NONBLOCK | O_CLOEXEC))
		DIE("pipe");
	fcntl(a->pipe[0], F_SETPIPE_SZ, CHUNK);
	fcntl(b->pipe[0], F_SETPIPE_SZ, CHUNK);
	arm(a, EPOLL_CTL_ADD);
	arm(b, EPOLL_CTL_ADD);
}

static void close_when_done(struct half *h)
{
	struct half *o = h->other;

	if (!h->done || h->in_pipe || !o->done || o->in_pipe)
		return;
	close(h->from);
	close(h->to);
	close(h->pipe[0]);
	close(h->pipe[1]);
	close(o->pipe[0]);
	close(o->pipe[1]);
	/* The other half may still be in this batch of events: keep the memory. */
	h->from = o->from = -1;
}

int main(int argc, char **argv)
{
	struct sockaddr_storage local, upstream;
	socklen_t len, upstream_len;
	struct epoll_event ev = {.events = EPOLLIN}, events[256];
	int one = 1, listener;

	if (argc != 3) {
		fprintf(stderr, "usage: tcp_splice LISTEN UPSTREAM\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	len = parse_addr(argv[1], &local);
	upstream_len = parse_addr(argv[2], &upstream);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	listener = socket(local.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&local, len) || listen(listener, 4096))
		DIE("listen");
	epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &ev);
	for (;;) {
		int n = epoll_wait(epfd, events, 256, -1);

		for (int i = 0; i < n; i++) {
			struct half *h = events[i].data.ptr;
			int c;

			if (!h) {
				while ((c = accept4(listener, NULL, NULL,
				                    SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
					open_pair(c, &upstream, upstream_len);
				continue;
			}
			if (h->from < 0)
				continue;
			pump(h);
			pump(h->other);
			close_when_done(h);
		}
	}
}
