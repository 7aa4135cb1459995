/* SPDX-License-Identifier: MIT */
/* LD_PRELOAD: TCP sockets are Multipath TCP's, as with mptcpize(8). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define PROTOCOL 262 /* IPPROTO_MPTCP */

int socket(int family, int type, int protocol)
{
	int (*next)(int, int, int) = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");

	if ((family == AF_INET || family == AF_INET6) && (type & 0xf) == SOCK_STREAM &&
	    (!protocol || protocol == IPPROTO_TCP))
		protocol = PROTOCOL;
	return next(family, type, protocol);
}
