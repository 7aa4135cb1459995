/* SPDX-License-Identifier: MIT */
#include "host.h"

#include <errno.h>
#include <ifaddrs.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/relaymark.h"

#define LOOPBACK_IFINDEX 1

struct own_addr {
	UT_hash_handle hh;
	size_t len; /* of key */
	uint8_t key[24];
};

struct api_host {
	/* rtnetlink's address events; -1: unavailable, so the addresses are read each time */
	int events_fd;
	int diag_fd; /* sock_diag; -1: not supported by the kernel */
	bool stale;  /* the addresses must be read again */
	uint32_t seq;
	struct own_addr *own;
};

static int netlink_open(int protocol, uint32_t groups)
{
	struct sockaddr_nl nl = {.nl_family = AF_NETLINK, .nl_groups = groups};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&nl, sizeof(nl))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

int api_host_new(struct api_host **out)
{
	struct api_host *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->events_fd = netlink_open(NETLINK_ROUTE, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR);
	h->diag_fd = netlink_open(NETLINK_SOCK_DIAG, 0);
	h->stale = true;
	*out = h;
	return 0;
}

static void forget_addresses(struct api_host *h)
{
	struct own_addr *a = h->own;

	HASH_CLEAR(hh, h->own);
	while (a) {
		struct own_addr *next = a->hh.next;

		free(a);
		a = next;
	}
}

void api_host_free(struct api_host **pp)
{
	struct api_host *h = *pp;

	if (!h)
		return;
	*pp = NULL;
	forget_addresses(h);
	if (h->events_fd >= 0)
		close(h->events_fd);
	if (h->diag_fd >= 0)
		close(h->diag_fd);
	free(h);
}

/* ---- addresses ---- */

/* The key is the IP address: port and scope do not determine the address's owner. */
static size_t ip_key(const struct l7mp_addr *addr, uint8_t key[static 24])
{
	struct l7mp_addr ip = *addr;

	l7mp_addr_set_port(&ip, 0);
	if (l7mp_addr_family(&ip) == AF_INET6)
		ip.in6.sin6_scope_id = 0;
	return l7mp_addr_key(&ip, key);
}

static void add_address(struct api_host *h, const struct sockaddr *sa)
{
	struct own_addr *a, *there;
	struct l7mp_addr addr;

	if (!sa || (sa->sa_family != AF_INET && sa->sa_family != AF_INET6))
		return;
	a = calloc(1, sizeof(*a));
	if (!a)
		return;
	(void)l7mp_addr_from_sockaddr(&addr, sa,
	                              sa->sa_family == AF_INET ? sizeof(struct sockaddr_in)
	                                                       : sizeof(struct sockaddr_in6));
	a->len = ip_key(&addr, a->key);
	HASH_FIND(hh, h->own, a->key, a->len, there);
	if (there) {
		free(a);
		return;
	}
	HASH_ADD(hh, h->own, key, a->len, a);
	if (!a->hh.tbl)
		free(a);
}

static void read_addresses(struct api_host *h)
{
	struct ifaddrs *list;

	forget_addresses(h);
	if (getifaddrs(&list))
		return; /* still stale, so the next call retries */
	for (struct ifaddrs *i = list; i; i = i->ifa_next)
		add_address(h, i->ifa_addr);
	freeifaddrs(list);
	h->stale = h->events_fd < 0;
}

/* Reads rtnetlink's events; lost ones count as a change, too. */
static void take_events(struct api_host *h)
{
	char buf[8192];

	while (h->events_fd >= 0) {
		ssize_t n = recv(h->events_fd, buf, sizeof(buf), MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != ENOBUFS)
			return;
		h->stale = true;
	}
}

bool api_host_has(struct api_host *h, const struct l7mp_addr *addr)
{
	struct own_addr *a;
	uint8_t key[24];
	size_t len;

	if (l7mp_addr_family(addr) != AF_INET && l7mp_addr_family(addr) != AF_INET6)
		return false;
	if (l7mp_addr_is_loopback(addr))
		return true;
	take_events(h);
	if (h->stale)
		read_addresses(h);
	len = ip_key(addr, key);
	HASH_FIND(hh, h->own, key, len, a);
	return a != NULL;
}

/* ---- sockets ---- */

struct diag_request {
	struct nlmsghdr nlh;
	struct inet_diag_req_v2 r;
};

static void put_end(const struct l7mp_addr *a, __be16 *port, __be32 ip[4], uint32_t *scope)
{
	*port = htons(l7mp_addr_port(a));
	if (l7mp_addr_family(a) == AF_INET) {
		memcpy(ip, &a->in.sin_addr, 4);
		return;
	}
	memcpy(ip, &a->in6.sin6_addr, 16);
	if (IN6_IS_ADDR_LINKLOCAL(&a->in6.sin6_addr) && a->in6.sin6_scope_id)
		*scope = a->in6.sin6_scope_id;
}

/* Whether the socket that an answer of n bytes describes has the mark of a cluster. */
static bool is_marked(const struct nlmsghdr *nlh, size_t n)
{
	const struct rtattr *a =
	        (const void *)((const char *)nlh + NLMSG_SPACE(sizeof(struct inet_diag_msg)));
	size_t len = nlh->nlmsg_len < n ? nlh->nlmsg_len : n;

	len -= len < NLMSG_SPACE(sizeof(struct inet_diag_msg))
	               ? len
	               : NLMSG_SPACE(sizeof(struct inet_diag_msg));
	for (; RTA_OK(a, len); a = RTA_NEXT(a, len))
		if (a->rta_type == INET_DIAG_SOCKOPT)
			return l7mp_relay_marked_tcp(RTA_DATA(a), RTA_PAYLOAD(a));
	return false;
}

/* Reads the answer to request h->seq. */
static enum api_peer read_answer(struct api_host *h)
{
	union {
		struct nlmsghdr nlh;
		char bytes[4096];
	} buf;

	for (;;) {
		ssize_t n = recv(h->diag_fd, &buf, sizeof(buf), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < (ssize_t)sizeof(buf.nlh))
			return API_PEER_UNKNOWN;
		if (buf.nlh.nlmsg_seq != h->seq)
			continue; /* the answer to an earlier request */
		if (buf.nlh.nlmsg_type == NLMSG_ERROR) {
			const struct nlmsgerr *e = NLMSG_DATA(&buf.nlh);

			return e->error == -ENOENT || e->error == -ESTALE ? API_PEER_GONE
			                                                  : API_PEER_UNKNOWN;
		}
		if (n >= (ssize_t)NLMSG_LENGTH(sizeof(struct inet_diag_msg))) {
			const struct inet_diag_msg *m = NLMSG_DATA(&buf.nlh);

			/* A socket that its process has closed is an orphan, without an inode. */
			if (!m->idiag_inode)
				return API_PEER_GONE;
			return is_marked(&buf.nlh, (size_t)n) ? API_PEER_RELAY : API_PEER_ALIVE;
		}
		return API_PEER_UNKNOWN;
	}
}

static enum api_peer query_socket(struct api_host *h, const struct l7mp_addr *peer,
                                  const struct l7mp_addr *local, uint32_t ifindex)
{
	struct diag_request req = {
	        .nlh = {.nlmsg_len = sizeof(req),
	                .nlmsg_type = SOCK_DIAG_BY_FAMILY,
	                .nlmsg_flags = NLM_F_REQUEST,
	                .nlmsg_seq = ++h->seq},
	        .r = {.sdiag_family = (uint8_t)l7mp_addr_family(peer),
	              .sdiag_protocol = IPPROTO_TCP,
	              .idiag_states = UINT32_MAX},
	};

	req.r.id.idiag_cookie[0] = req.r.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
	put_end(peer, &req.r.id.idiag_sport, req.r.id.idiag_src, &ifindex);
	put_end(local, &req.r.id.idiag_dport, req.r.id.idiag_dst, &ifindex);
	req.r.id.idiag_if = ifindex;
	if (send(h->diag_fd, &req, sizeof(req), 0) != (ssize_t)sizeof(req))
		return API_PEER_UNKNOWN;
	return read_answer(h);
}

enum api_peer api_host_peer(struct api_host *h, const struct l7mp_addr *peer,
                            const struct l7mp_addr *local)
{
	enum api_peer found;

	if (h->diag_fd < 0)
		return API_PEER_UNKNOWN;
	if (l7mp_addr_family(peer) != l7mp_addr_family(local))
		return API_PEER_GONE;
	found = query_socket(h, peer, local, 0);
	/* A client may have bound its socket to the device (curl --interface lo). */
	if (found == API_PEER_GONE)
		found = query_socket(h, peer, local, LOOPBACK_IFINDEX);
	if (found == API_PEER_UNKNOWN) {
		l7mp_log_warn("api", "sock_diag(7) does not answer: the process behind a local "
		                     "connection can be found only while it is being made");
		close(h->diag_fd);
		h->diag_fd = -1;
	}
	return found;
}
