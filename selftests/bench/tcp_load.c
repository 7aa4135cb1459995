/* SPDX-License-Identifier: MIT */
/*
 * TCP load: tcp_load SRC_NS DST_NS RELAY SINK MODE CONNECTIONS SECONDS
 *
 * MODE bulk: each connection sends as fast as it can, the sink counts: bytes/s.
 * MODE ping: one connection, one byte there and back: p50 and p99 of the round trip.
 * MODE setup: connect, one byte there and back, close, again: sessions/s.
 * MODE hold: opens CONNECTIONS, one byte there and back each, prints "held", keeps them until stdin
 * ends.
 */
#include "bench.h"

#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>

static _Atomic uint64_t bytes;
static _Atomic int stop, ready;
static const char *dst_ns;
static struct sockaddr_storage relay, sink_addr;
static socklen_t relay_len, sink_len;
static int echo;

static void serve(int fd, int epfd)
{
	static char buf[1 << 18];
	ssize_t n = read(fd, buf, sizeof(buf));

	if (n <= 0) {
		if (n < 0 && errno == EAGAIN)
			return;
		epoll_ctl(epfd, EPOLL_CTL_DEL, fd, NULL);
		close(fd);
		return;
	}
	bytes += (uint64_t)n;
	if (echo && write(fd, buf, (size_t)n) < 0)
		close(fd);
}

static void *sink(void *arg)
{
	struct epoll_event ev = {.events = EPOLLIN}, events[64];
	int one = 1, epfd, fd;

	(void)arg;
	enter_netns(dst_ns);
	fd = socket(sink_addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&sink_addr, sink_len) || listen(fd, 4096))
		DIE("listen");
	epfd = epoll_create1(EPOLL_CLOEXEC);
	ev.data.fd = fd;
	epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev);
	ready = 1;
	while (!stop) {
		int n = epoll_wait(epfd, events, 64, 20);

		for (int i = 0; i < n; i++) {
			int c;

			if (events[i].data.fd != fd) {
				serve(events[i].data.fd, epfd);
				continue;
			}
			c = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
			if (c < 0)
				continue;
			setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			ev.data.fd = c;
			epoll_ctl(epfd, EPOLL_CTL_ADD, c, &ev);
		}
	}
	return NULL;
}

static int connect_relay(void)
{
	int one = 1, fd = socket(relay.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval tv = {.tv_sec = 5};

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	if (fd < 0 || connect(fd, (struct sockaddr *)&relay, relay_len))
		DIE("connect to the relay");
	return fd;
}

static void round_trip(int fd)
{
	char c = 'x';

	if (write(fd, &c, 1) != 1 || read(fd, &c, 1) != 1)
		DIE("round trip");
}

static void bulk(int n, double seconds)
{
	static char buf[1 << 18];
	struct epoll_event ev = {.events = EPOLLOUT}, events[64];
	int epfd = epoll_create1(EPOLL_CLOEXEC);
	uint64_t start, end, first;

	for (int i = 0; i < n; i++) {
		ev.data.fd = connect_relay();
		fcntl(ev.data.fd, F_SETFL, O_NONBLOCK);
		epoll_ctl(epfd, EPOLL_CTL_ADD, ev.data.fd, &ev);
	}
	start = now_ns();
	end = start + (uint64_t)(seconds * 1e9);
	first = 0;
	while (now_ns() < end) {
		int k = epoll_wait(epfd, events, 64, 100);

		if (!first && now_ns() - start > 200000000ull) { /* past slow start */
			first = bytes;
			start = now_ns();
		}
		for (int i = 0; i < k; i++)
			if (write(events[i].data.fd, buf, sizeof(buf)) < 0 && errno != EAGAIN)
				DIE("write");
	}
	printf("{\"gbps\": %.3f}\n", (double)(bytes - first) * 8 / (double)(now_ns() - start));
}

static void ping(double seconds)
{
	size_t cap = 1u << 20, n = 0;
	uint64_t *rtt = malloc(cap * sizeof(*rtt)), end = now_ns() + (uint64_t)(seconds * 1e9);
	int fd = connect_relay();

	while (now_ns() < end && n < cap) {
		uint64_t t = now_ns();

		round_trip(fd);
		rtt[n++] = now_ns() - t;
	}
	qsort(rtt, n, sizeof(*rtt), compare_u64);
	printf("{\"rtt_p50_ns\": %llu, \"rtt_p99_ns\": %llu, \"trips\": %zu}\n",
	       (unsigned long long)rtt[n / 2], (unsigned long long)rtt[n * 99 / 100], n);
	free(rtt);
}

static void setup(double seconds)
{
	uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9), n = 0;
	struct linger linger = {.l_onoff = 1, .l_linger = 0}; /* no TIME_WAIT: ports stay free */

	for (; now_ns() < end; n++) {
		int fd = connect_relay();

		round_trip(fd);
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
		close(fd);
	}
	printf("{\"sessions_per_s\": %.0f}\n", (double)n * 1e9 / (double)(now_ns() - start));
}

static void hold(int n)
{
	int *fds = calloc((size_t)n, sizeof(*fds));
	char c;

	for (int i = 0; i < n; i++) {
		fds[i] = connect_relay();
		round_trip(fds[i]);
	}
	puts("held");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	for (int i = 0; i < n; i++)
		close(fds[i]);
	free(fds);
}

int main(int argc, char **argv)
{
	pthread_t t;

	if (argc != 8) {
		fprintf(stderr, "usage: tcp_load SRC_NS DST_NS RELAY SINK bulk|ping|setup|hold "
		                "CONNECTIONS SECONDS\n");
		return 2;
	}
	dst_ns = argv[2];
	relay_len = parse_addr(argv[3], &relay);
	sink_len = parse_addr(argv[4], &sink_addr);
	echo = strcmp(argv[5], "bulk") != 0;
	pthread_create(&t, NULL, sink, NULL);
	while (!ready)
		sched_yield();
	enter_netns(argv[1]);
	if (strcmp(argv[5], "bulk") == 0)
		bulk(atoi(argv[6]), atof(argv[7]));
	else if (strcmp(argv[5], "ping") == 0)
		ping(atof(argv[7]));
	else if (strcmp(argv[5], "setup") == 0)
		setup(atof(argv[7]));
	else
		hold(atoi(argv[6]));
	stop = 1;
	pthread_join(t, NULL);
	return 0;
}
