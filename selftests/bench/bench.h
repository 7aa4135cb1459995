/* SPDX-License-Identifier: MIT */
/*
 * What the benchmark tools share: addresses, clocks, namespaces. Programs of a benchmark end on any
 * error.
 */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DIE(...)                                            \
	do {                                                \
		fprintf(stderr, __VA_ARGS__);               \
		fprintf(stderr, ": %s\n", strerror(errno)); \
		exit(1);                                    \
	} while (0)

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* "ip:port", IPv4 or [IPv6]. */
static inline socklen_t parse_addr(const char *text, struct sockaddr_storage *out)
{
	char host[64];
	const char *colon = strrchr(text, ':');
	struct sockaddr_in *in = (struct sockaddr_in *)out;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
	size_t n = colon ? (size_t)(colon - text) : 0;

	memset(out, 0, sizeof(*out));
	if (!colon || n >= sizeof(host)) {
		errno = EINVAL;
		DIE("%s", text);
	}
	memcpy(host, text, n);
	host[n] = 0;
	if (host[0] == '[') {
		host[n - 1] = 0;
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons((uint16_t)atoi(colon + 1));
		if (inet_pton(AF_INET6, host + 1, &in6->sin6_addr) != 1)
			DIE("%s", text);
		return sizeof(*in6);
	}
	in->sin_family = AF_INET;
	in->sin_port = htons((uint16_t)atoi(colon + 1));
	if (inet_pton(AF_INET, host, &in->sin_addr) != 1)
		DIE("%s", text);
	return sizeof(*in);
}

/* Moves the calling thread into a named network namespace; "-" stays. */
static inline void enter_netns(const char *name)
{
	char path[128];
	int fd;

	if (strcmp(name, "-") == 0)
		return;
	snprintf(path, sizeof(path), "/run/netns/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		DIE("netns %s", name);
	close(fd);
}

static inline int socket_or_die(int family, int type)
{
	int fd = socket(family, type | SOCK_CLOEXEC, 0);
	int size = 4 << 20;

	if (fd < 0)
		DIE("socket");
	/* FORCE needs CAP_NET_ADMIN, which a benchmark has; else what the limit allows. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	return fd;
}

static inline int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}
