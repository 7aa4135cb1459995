/* SPDX-License-Identifier: MIT */
/* Netlink requests and attributes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "path.h"

#define ANSWER_MAX (64 << 10)

/* ---- reading: libmnl checks the lengths of messages and attributes, not of their payload ---- */

const void *off_nl_payload(const struct nlmsghdr *nlh, size_t size)
{
	return mnl_nlmsg_get_payload_len(nlh) >= size ? mnl_nlmsg_get_payload(nlh) : NULL;
}

static void read_number(const struct nlattr *a, void *out, size_t size)
{
	memset(out, 0, size);
	if (mnl_attr_get_payload_len(a) >= size)
		memcpy(out, mnl_attr_get_payload(a), size);
}

uint16_t off_nl_u16(const struct nlattr *a)
{
	uint16_t v;

	read_number(a, &v, sizeof(v));
	return v;
}

uint32_t off_nl_u32(const struct nlattr *a)
{
	uint32_t v;

	read_number(a, &v, sizeof(v));
	return v;
}

uint64_t off_nl_u64(const struct nlattr *a)
{
	uint64_t v;

	read_number(a, &v, sizeof(v));
	return v;
}

void off_nl_text(const struct nlattr *a, char *out, size_t size)
{
	size_t len = strnlen(mnl_attr_get_payload(a), mnl_attr_get_payload_len(a));

	len = len < size ? len : size - 1;
	memcpy(out, mnl_attr_get_payload(a), len);
	out[len] = 0;
}

/* ---- requests ---- */

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

int off_nl_request(struct off_nl *nl, struct nlmsghdr *request, mnl_cb_t cb, void *arg)
{
	/* On the stack: a static buffer would be shared state. */
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
		/* The rest of the reply to an earlier request that cb stopped: skip it. */
		if (((struct nlmsghdr *)(void *)answer)->nlmsg_seq != nl->seq)
			continue;
		rc = mnl_cb_run(answer, (size_t)n, nl->seq, nl->port, cb, arg);
	}
	return rc < 0 ? -errno : 0;
}
