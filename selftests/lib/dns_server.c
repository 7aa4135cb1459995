/* SPDX-License-Identifier: MIT */
#include "dns_server.h"

#include <arpa/inet.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "loop/loop_int.h"

static size_t put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
	return 2;
}

static size_t put_rr(uint8_t *p, unsigned type, unsigned ttl, const void *data, size_t len)
{
	put16(p, 0xc00c); /* the question's name */
	put16(p + 2, type);
	put16(p + 4, 1);
	put16(p + 6, ttl >> 16);
	put16(p + 8, ttl & 0xffff);
	put16(p + 10, (unsigned)len);
	memcpy(p + 12, data, len);
	return 12 + len;
}

/* The n-th address ends in n, in two bytes. */
static size_t crowd(uint8_t *msg, size_t n, unsigned type)
{
	unsigned count = type == 1 ? DNS_CROWD : DNS_CROWD6;

	put16(msg + 6, count);
	for (unsigned i = 1; i <= count; i++) {
		uint8_t ip4[4] = {127, 1}, ip6[16] = {0x20, 1, 0xd, 0xb8};

		put16(ip4 + 2, i);
		put16(ip6 + 14, i);
		n += put_rr(msg + n, type, 300, type == 1 ? ip4 : ip6, type == 1 ? 4 : 16);
	}
	return n;
}

/* 0: no answer at all. */
static size_t answer(struct dns_server *s, uint8_t *msg, size_t len, size_t room, bool tcp)
{
	static const uint8_t ip6[16] = {0x20, 1, 0xd, 0xb8, [15] = 7}, loop6[16] = {[15] = 1};
	/* Root names for MNAME and RNAME; serial, refresh, retry, expire, minimum 60. */
	static const uint8_t soa[22] = {[21] = 60};
	char name[64] = "";
	uint32_t ip4 = s->ip4;
	bool dual;
	size_t n = len;
	unsigned type;

	if (len < 18 || msg[12] >= sizeof(name))
		return 0;
	memcpy(name, msg + 13, msg[12]);
	for (n = 12; n < len && msg[n]; n += msg[n] + 1U)
		;
	n += 5;
	if (n > len || n + 100 > room || !strncmp(name, "silent", 6))
		return 0;
	type = msg[n - 3];
	dual = !strcmp(name, "dual");
	msg[2] |= 0x80;
	msg[3] = 0x80;
	memset(msg + 6, 0, 6);
	if (!strcmp(name, "crowd")) {
		if (tcp)
			return crowd(msg, n, type);
		msg[2] |= 2; /* truncated */
		return n;
	}
	if (!strcmp(name, "broken")) {
		msg[3] |= 3;
		msg[9] = 5; /* more records than there are */
		return n + put_rr(msg + n, 6, 0xffffffff, soa, 3);
	}
	if (!strcmp(name, "nx")) {
		msg[3] |= 3;
		msg[9] = 1;
		return n + put_rr(msg + n, 6, (unsigned)s->ttl, soa, sizeof(soa));
	}
	if (!strcmp(name, "fail")) {
		msg[3] |= 2;
		return n;
	}
	if (type == 1 || (type == 28 && (dual || !strcmp(name, "both")))) {
		msg[7] = 1;
		return n + put_rr(msg + n, type, (unsigned)s->ttl,
		                  type == 1 ? (const void *)&ip4
		                  : dual    ? loop6
		                            : ip6,
		                  type == 1 ? 4 : 16);
	}
	msg[9] = 1;
	return n + put_rr(msg + n, 6, 1, soa, sizeof(soa));
}

static bool serve_udp(struct dns_server *s)
{
	uint8_t msg[1024];
	struct sockaddr_in from;
	socklen_t from_len = sizeof(from);
	ssize_t n = recvfrom(s->fd, msg, sizeof(msg), 0, (struct sockaddr *)&from, &from_len);

	if (n <= 0)
		return false;
	s->queries++;
	n = (ssize_t)answer(s, msg, (size_t)n, sizeof(msg), false);
	if (n)
		(void)sendto(s->fd, msg, (size_t)n, 0, (struct sockaddr *)&from, from_len);
	return true;
}

static bool send_all(int fd, const uint8_t *p, size_t len)
{
	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

/* One query of a connection. */
static bool serve_tcp(struct dns_server *s, int fd)
{
	static const size_t room = 2 + 65535;
	uint8_t *msg = malloc(room);
	size_t len;
	bool ok = false;

	if (msg && recv(fd, msg, 2, MSG_WAITALL) == 2) {
		len = (size_t)msg[0] << 8 | msg[1];
		ok = len && recv(fd, msg + 2, len, MSG_WAITALL) == (ssize_t)len;
		len = ok ? answer(s, msg + 2, len, room - 2, true) : 0;
		s->queries++;
		put16(msg, (unsigned)len);
		ok = len && send_all(fd, msg, 2 + len);
	}
	free(msg);
	return ok;
}

/* One connection at a time. */
static void *serve(void *arg)
{
	struct dns_server *s = arg;
	int conn = -1;

	for (;;) {
		struct pollfd fds[2] = {{.fd = s->fd, .events = POLLIN},
		                        {.fd = conn < 0 ? s->listener : conn, .events = POLLIN}};

		if (poll(fds, 2, -1) < 0 || (fds[0].revents && !serve_udp(s)))
			break;
		if (!fds[1].revents)
			continue;
		if (conn < 0) {
			conn = accept(s->listener, NULL, NULL);
		} else if (!serve_tcp(s, conn)) {
			close(conn);
			conn = -1;
		}
	}
	if (conn >= 0)
		close(conn);
	return NULL;
}

/* Binds both sockets to the same free port. */
static bool bind_both(struct dns_server *s, struct sockaddr_in *sin)
{
	socklen_t len = sizeof(*sin);

	sin->sin_port = 0;
	s->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(s->fd, (struct sockaddr *)sin, sizeof(*sin)), 0);
	assert_int_equal(getsockname(s->fd, (struct sockaddr *)sin, &len), 0);
	if (!bind(s->listener, (struct sockaddr *)sin, sizeof(*sin)) && !listen(s->listener, 8))
		return true;
	close(s->fd);
	close(s->listener);
	return false;
}

void dns_server_start(struct dns_server *s, struct l7mp_loop *loop)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	bool bound = false;

	memset(s, 0, sizeof(*s));
	s->ttl = 300;
	s->ip4 = inet_addr("10.9.8.7");
	for (int i = 0; i < 100 && !bound; i++)
		bound = bind_both(s, &sin);
	assert_true(bound);
	snprintf(s->csv, sizeof(s->csv), "127.0.0.1:%u", ntohs(sin.sin_port));
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
	assert_int_equal(l7mp_resolver_set_servers(loop, s->csv), 0);
}

void dns_server_stop(struct dns_server *s)
{
	shutdown(s->fd, SHUT_RDWR);
	pthread_join(s->thread, NULL);
	close(s->fd);
	close(s->listener);
}
