/* SPDX-License-Identifier: MIT */
#include "l7mp/listening.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l7mp/addr.h"
#include "l7mp/log.h"

static int local_address(int fd, struct l7mp_addr *out)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);

	if (getsockname(fd, (struct sockaddr *)&sa, &len))
		return -errno;
	return l7mp_addr_from_sockaddr(out, (struct sockaddr *)&sa, len);
}

static bool listens_on(int fd, uint16_t port)
{
	struct l7mp_addr local;
	int on = 0;
	socklen_t len = sizeof(on);

	return !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) && on &&
	       !local_address(fd, &local) && l7mp_addr_port(&local) == port;
}

int l7mp_listening_find(uint16_t port)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return -1;
	for (int fd = STDERR_FILENO + 1; fd < (int)limit.rlim_cur && fd < 1 << 20; fd++)
		if (listens_on(fd, port))
			return fd;
	return -1;
}

/*
 * poll(2) holds a reference to the socket that it waits for, so replacing the descriptor does not
 * end the poll. A connection to it does; it is never accepted.
 */
void l7mp_listening_wake(int fd, struct l7mp_listening_wake *wake)
{
	struct l7mp_addr own;
	int ready;

	*wake = (struct l7mp_listening_wake){-1, -1};
	if (fd < 0 || local_address(fd, &own))
		return;
	ready = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	wake->socket = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	wake->connection = socket(own.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (ready < 0 || wake->socket < 0 || wake->connection < 0 ||
	    dup3(ready, fd, O_CLOEXEC) < 0 ||
	    (connect(wake->connection, &own.sa, own.len) && errno != EINPROGRESS))
		l7mp_log_verbose("net", "a server's thread is not woken: %s", strerror(errno));
	if (ready >= 0)
		close(ready);
}

void l7mp_listening_woken(struct l7mp_listening_wake *wake)
{
	if (wake->socket >= 0)
		close(wake->socket);
	if (wake->connection >= 0)
		close(wake->connection);
	*wake = (struct l7mp_listening_wake){-1, -1};
}
