/* SPDX-License-Identifier: MIT */
/*
 * civetweb hides its descriptors, but two things need one: to see that a client
 * went away while its answer is being waited for, and to own what stands behind
 * the listening descriptor. Both are found by asking the kernel which of our
 * descriptors has the addresses. Thread: any; the descriptor that is found belongs
 * to the caller's connection, so nobody closes it meanwhile.
 */
#include "http_int.h"

#include <netinet/tcp.h>
#include <sys/resource.h>
#include <unistd.h>

static int descriptors_max(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) < 0 || lim.rlim_cur > (1 << 20))
		return 1 << 20;
	return (int)lim.rlim_cur;
}

static bool has_name(int fd, bool remote, const struct l7mp_addr *want)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct l7mp_addr got;
	int rc;

	rc = remote ? getpeername(fd, (struct sockaddr *)&ss, &len)
	            : getsockname(fd, (struct sockaddr *)&ss, &len);
	return rc == 0 && l7mp_addr_from_sockaddr(&got, (struct sockaddr *)&ss, len) == 0 &&
	       l7mp_addr_equal(&got, want);
}

static int find_connection(const struct l7mp_addr *peer, const struct l7mp_addr *local)
{
	int max = descriptors_max();

	for (int fd = 0; fd < max; fd++)
		if (has_name(fd, true, peer) && has_name(fd, false, local))
			return fd;
	return -2;
}

int l7mp_http_peer_state(int *fd, const struct l7mp_addr *peer, const struct l7mp_addr *local)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (*fd == -1)
		*fd = find_connection(peer, local);
	if (*fd < 0)
		return 2; /* after a reset a socket has no peer any more */
	if (getsockopt(*fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return 0;
	if (info.tcpi_state == TCP_CLOSE)
		return 2;
	return info.tcpi_state == TCP_CLOSE_WAIT || info.tcpi_state == TCP_LAST_ACK;
}

unsigned l7mp_http_peer_idle_ms(int *fd, const struct l7mp_addr *peer,
                                const struct l7mp_addr *local)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (*fd == -1)
		*fd = find_connection(peer, local);
	if (*fd < 0 || getsockopt(*fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return 0;
	return info.tcpi_last_data_recv;
}

int l7mp_http_find_listening(uint16_t port)
{
	int max = descriptors_max();
	struct l7mp_addr want;

	if (l7mp_addr_parse(&want, "127.0.0.1", port) < 0)
		return -1;
	for (int fd = 0; fd < max; fd++) {
		int on = 0;
		socklen_t len = sizeof(on);

		if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) == 0 && on &&
		    has_name(fd, false, &want))
			return fd;
	}
	return -1;
}
