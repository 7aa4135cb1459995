/* SPDX-License-Identifier: MIT */
/*
 * What stands behind civetweb's listening descriptor: our listening socket, or an
 * eventfd while nothing is to be accepted. Thread: loop only; civetweb's acceptor
 * polls and accepts on the descriptor all the while.
 */
#include "http_int.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "l7mp/log.h"

/*
 * Puts `fd` in the place of civetweb's listening descriptor. poll(2) looks the
 * descriptor up again each time something wakes it, but waits on what stood there
 * when it was called: whoever replaces that has to wake it, and what is put there
 * has to be ready, or the acceptor sleeps on for its full two seconds.
 */
static void put_in_slot(struct l7mp_http_engine *e, int fd)
{
	/* Not dup3(): ThreadSanitizer would take it for a race with the poll that it is meant to change. */
	syscall(SYS_dup3, fd, e->slot_fd, O_CLOEXEC);
}

/* Wakes a poll on a listening socket, and closes its port. Takes fd. */
static void hang_up(int fd)
{
	syscall(SYS_shutdown, fd, SHUT_RDWR);
	close(fd);
}

void l7mp_http_slot_ready(struct l7mp_http_engine *e, bool ready)
{
	uint64_t count = 1;
	ssize_t n = ready ? write(e->park_fd, &count, sizeof(count))
	                  : read(e->park_fd, &count, sizeof(count));

	if (n < 0 && errno != EAGAIN)
		l7mp_log_warn("http", "eventfd: %s", strerror(errno));
}

void l7mp_http_slot_unspin(struct l7mp_timer *t, void *arg)
{
	(void)t;
	l7mp_http_slot_ready(arg, false);
}

/* A connection of our own makes the listening socket ready; it says nothing and is closed. */
static void knock(struct l7mp_http_engine *e)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct l7mp_addr to = e->bind_addr.addr;

	if (fd < 0)
		return;
	if (l7mp_addr_is_any(&to))
		to.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (connect(fd, &to.sa, to.len) < 0 && errno != EINPROGRESS)
		l7mp_log_verbose("http", "the first accept may take 2 s: %s", strerror(errno));
	close(fd);
}

void l7mp_http_engine_serve(struct l7mp_http_engine *e)
{
	knock(e);
	put_in_slot(e, e->listen_fd);
	hang_up(e->first_fd);
	e->first_fd = -1;
}

void l7mp_http_engine_suspend(struct l7mp_http_engine *e)
{
	l7mp_http_slot_ready(e, true);
	put_in_slot(e, e->park_fd);
	l7mp_timer_start(l7mp_http_env(e->state)->loop, &e->unspin, 20);
}

void l7mp_http_engine_resume(struct l7mp_http_engine *e)
{
	l7mp_timer_stop(l7mp_http_env(e->state)->loop, &e->unspin);
	knock(e);
	put_in_slot(e, e->listen_fd);
	l7mp_http_slot_ready(e, true); /* wakes an acceptor that sleeps on it */
	l7mp_http_slot_ready(e, false);
}

void l7mp_http_engine_park(struct l7mp_http_engine *e)
{
	if (e->listen_fd < 0)
		return;
	l7mp_http_slot_ready(e, true);
	if (e->first_fd < 0) {
		syscall(SYS_shutdown, e->listen_fd, SHUT_RDWR);
		put_in_slot(e, e->park_fd);
	} else { /* it never served */
		put_in_slot(e, e->park_fd);
		hang_up(e->first_fd);
		e->first_fd = -1;
	}
	close(e->listen_fd);
	e->listen_fd = -1;
	/* When requests go on, the acceptor must not turn round and round until they end. */
	l7mp_timer_start(l7mp_http_env(e->state)->loop, &e->unspin, 20);
}
