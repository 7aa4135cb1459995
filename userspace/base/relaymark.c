/* SPDX-License-Identifier: MIT */
#include "l7mp/relaymark.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/inet_diag.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

#define NAME     "l7mp-relay-"
#define NAME_LEN (sizeof(NAME) - 1)

static int mark_unix(int fd)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	uint64_t id;
	int n;

	if (getrandom(&id, sizeof(id), 0) != sizeof(id))
		return -EIO;
	n = snprintf(sa.sun_path + 1, sizeof(sa.sun_path) - 1, NAME "%016" PRIx64, id);
	return bind(fd, (const struct sockaddr *)&sa,
	            (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n))
	               ? -errno
	               : 0;
}

int l7mp_relay_mark(int fd, int family)
{
	int off = 0, on = 1;

	if (family == AF_UNIX)
		return mark_unix(fd);
	if (!setsockopt(fd, IPPROTO_IP, IP_MULTICAST_LOOP, &off, sizeof(off)) &&
	    !setsockopt(fd, IPPROTO_IP, IP_MULTICAST_ALL, &off, sizeof(off)))
		return 0;
	/* Multipath TCP, which mptcpize(8) makes of our sockets, has few options. */
	if (errno == ENOPROTOOPT && !setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof(on)))
		return 0;
	return -errno;
}

bool l7mp_relay_marked_tcp(const struct inet_diag_sockopt *opt, size_t len)
{
	return len >= sizeof(*opt) && ((!opt->mc_loop && !opt->mc_all) || opt->freebind);
}

bool l7mp_relay_marked_unix(int fd)
{
	struct sockaddr_un sa;
	socklen_t len = sizeof(sa);

	return !getpeername(fd, (struct sockaddr *)&sa, &len) &&
	       len > offsetof(struct sockaddr_un, sun_path) + 1 + NAME_LEN && !sa.sun_path[0] &&
	       !memcmp(sa.sun_path + 1, NAME, NAME_LEN);
}
