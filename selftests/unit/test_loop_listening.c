/* SPDX-License-Identifier: MIT */
/* The listening socket of a library's server: it is found, and its thread is woken to end. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "l7mp/addr.h"
#include "l7mp/listening.h"

static int listening(const char *address, uint16_t *port)
{
	struct l7mp_addr addr, own;
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	int fd;

	assert_int_equal(l7mp_addr_parse(&addr, address, 0), 0);
	fd = socket(addr.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, &addr.sa, addr.len), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	assert_int_equal(l7mp_addr_from_sockaddr(&own, (struct sockaddr *)&sa, len), 0);
	*port = l7mp_addr_port(&own);
	return fd;
}

/* As a server does, but for its look every two seconds: it waits until something comes. */
static void *server(void *arg)
{
	int fd = *(int *)arg;
	struct pollfd p = {.fd = fd, .events = POLLIN};

	while (poll(&p, 1, -1) < 0)
		;
	return NULL;
}

/* Whether the thread waits by now does not matter: it is to end in both cases. */
static void woken(const char *address)
{
	struct l7mp_listening_wake wake;
	uint16_t port;
	int fd = listening(address, &port);
	pthread_t thread;

	assert_int_equal(l7mp_listening_find(port), fd);
	assert_int_equal(pthread_create(&thread, NULL, server, &fd), 0);
	usleep(20000);
	l7mp_listening_wake(fd, &wake);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(accept(fd, NULL, NULL), -1);
	assert_int_equal(errno, ENOTSOCK);
	assert_int_equal(l7mp_listening_find(port), wake.socket);
	l7mp_listening_woken(&wake);
	assert_int_equal(l7mp_listening_find(port), -1);
	close(fd);
}

static void test_wakes(void **state)
{
	(void)state;
	woken("127.0.0.1");
	woken("0.0.0.0");
}

static void test_wakes_ipv6(void **state)
{
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	struct l7mp_addr addr;
	bool there;

	(void)state;
	assert_int_equal(l7mp_addr_parse(&addr, "::1", 0), 0);
	there = fd >= 0 && !bind(fd, &addr.sa, addr.len);
	if (fd >= 0)
		close(fd);
	if (!there)
		skip();
	woken("::1");
}

static void test_not_found(void **state)
{
	struct l7mp_listening_wake wake;

	(void)state;
	l7mp_listening_wake(-1, &wake);
	assert_int_equal(wake.socket, -1);
	assert_int_equal(wake.connection, -1);
	l7mp_listening_woken(&wake);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_wakes),
	        cmocka_unit_test(test_wakes_ipv6),
	        cmocka_unit_test(test_not_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
