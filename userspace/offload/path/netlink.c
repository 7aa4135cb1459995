/* SPDX-License-Identifier: MIT */
/* Questions to the kernel over netlink. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#include "path.h"

#define ANSWER_MAX (64 << 10)

int off_nl_open(struct off_nl *nl, int bus)
{
	int size = 1 << 20;

	nl->socket = mnl_socket_open2(bus, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (!nl->socket)
		return -errno;
	if (mnl_socket_bind(nl->socket, 0, MNL_SOCKET_AUTOPID) < 0) {
		int rc = -errno;

		off_nl_close(nl);
		return rc;
	}
	nl->port = mnl_socket_get_portid(nl->socket);
	nl->seq = (uint32_t)time(NULL);
	(void)setsockopt(mnl_socket_get_fd(nl->socket), SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	return 0;
}

void off_nl_close(struct off_nl *nl)
{
	if (nl->socket)
		mnl_socket_close(nl->socket);
	nl->socket = NULL;
}

int off_nl_ask(struct off_nl *nl, struct nlmsghdr *request, mnl_cb_t cb, void *arg)
{
	/* Static would be shared state; the stack is enough for what one answer brings. */
	char answer[ANSWER_MAX] __attribute__((aligned(8)));
	int rc = MNL_CB_OK;

	if (!nl->socket)
		return -ENOTCONN;
	request->nlmsg_seq = ++nl->seq;
	if (mnl_socket_sendto(nl->socket, request, request->nlmsg_len) < 0)
		return -errno;
	while (rc > MNL_CB_STOP) {
		ssize_t n = mnl_socket_recvfrom(nl->socket, answer, sizeof(answer));

		if (n < 0)
			return errno == EAGAIN ? -EPROTO : -errno;
		/* What is left of a question that ended early is not for us. */
		if (((struct nlmsghdr *)(void *)answer)->nlmsg_seq != nl->seq)
			continue;
		rc = mnl_cb_run(answer, (size_t)n, nl->seq, nl->port, cb, arg);
	}
	return rc < 0 ? -errno : 0;
}
