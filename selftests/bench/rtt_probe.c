/* SPDX-License-Identifier: MIT */
/*
 * UDP round trips: rtt_probe TARGET INTERVAL_US
 *
 * Sends a datagram to an echoing TARGET every INTERVAL_US, whether answers come or not (so a
 * stall shows in all the datagrams that fall into it), until its standard input ends. Then waits a
 * second for what is on its way and prints a line: sent, lost, p50, p99, p99.9 and worst in µs.
 */
#include "bench.h"

#include <poll.h>

#define MAX_SAMPLES 4000000u

static uint32_t *samples; /* µs */
static size_t n_samples, n_sent;

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void receive(int fd)
{
	uint64_t then;

	while (recv(fd, &then, sizeof(then), MSG_DONTWAIT) == sizeof(then))
		if (n_samples < MAX_SAMPLES)
			samples[n_samples++] = (uint32_t)((now_ns() - then) / 1000);
}

static uint32_t percentile(double p)
{
	return n_samples ? samples[(size_t)((double)(n_samples - 1) * p)] : 0;
}

/* Until `end`; input: 1 when the standard input has ended. */
static int wait_until(int fd, uint64_t end)
{
	struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = 0, .events = POLLIN}};

	for (;;) {
		uint64_t now = now_ns();
		struct timespec left = {0};
		char c;

		if (now >= end)
			return 0;
		left.tv_sec = (time_t)((end - now) / 1000000000u);
		left.tv_nsec = (long)((end - now) % 1000000000u);
		if (ppoll(fds, 2, &left, NULL) <= 0)
			return 0;
		if (fds[0].revents)
			receive(fd);
		if (fds[1].revents && read(0, &c, 1) <= 0)
			return 1;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_storage target;
	socklen_t len;
	uint64_t interval, next;
	int fd;

	if (argc != 3) {
		fprintf(stderr, "usage: %s TARGET INTERVAL_US\n", argv[0]);
		return 2;
	}
	len = parse_addr(argv[1], &target);
	interval = strtoull(argv[2], NULL, 10) * 1000;
	samples = calloc(MAX_SAMPLES, sizeof(*samples));
	fd = socket(target.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (!samples || fd < 0 || connect(fd, (struct sockaddr *)&target, len))
		DIE("%s", argv[1]);
	next = now_ns();
	do {
		uint64_t now = now_ns();

		if (send(fd, &now, sizeof(now), 0) == sizeof(now))
			n_sent++;
		next += interval;
	} while (!wait_until(fd, next));
	next = now_ns() + 1000000000u;
	while (n_samples < n_sent && now_ns() < next) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		poll(&p, 1, 100);
		receive(fd);
	}
	qsort(samples, n_samples, sizeof(*samples), by_value);
	printf("%zu %zu %u %u %u %u\n", n_sent, n_sent - n_samples, percentile(0.5),
	       percentile(0.99), percentile(0.999), percentile(1));
	return 0;
}
