/* SPDX-License-Identifier: MIT */
/* Sockets bound to the address of a listener. */
#include "net.h"

#include <errno.h>
#include <linux/filter.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

bool l7mp_bind_addr_same(const struct l7mp_bind_addr *want, const struct l7mp_bind_addr *bound)
{
	if (!l7mp_addr_port(&want->addr))
		return false;
	/* A dual-stack wildcard on a host without IPv6 is bound to 0.0.0.0, and is still `dual`. */
	if (want->dual && bound->dual)
		return l7mp_addr_port(&want->addr) == l7mp_addr_port(&bound->addr);
	return want->dual == bound->dual && l7mp_addr_equal(&want->addr, &bound->addr);
}

static int try_bind(const struct l7mp_bind_addr *w, int type, int (*prepare)(int fd, void *arg),
                    void *arg)
{
	int family = l7mp_addr_family(&w->addr), on = 1, v6only = !w->dual, rc;
	int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	/*
	 * On TCP it allows binding a port while connections of an earlier process are in
	 * TIME_WAIT. On UDP it would allow two sockets on one port, of which one gets all
	 * datagrams. For port 0 it is set afterwards, because with it the kernel looks for a free
	 * port in one half of the range first, and each search takes milliseconds when that is
	 * full.
	 */
	if (type == SOCK_STREAM && l7mp_addr_port(&w->addr) &&
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)))
		goto fail;
	if (family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only)))
		goto fail;
	if (prepare) {
		rc = prepare(fd, arg);
		if (rc) {
			close(fd);
			return rc;
		}
	}
	if (bind(fd, &w->addr.sa, w->addr.len))
		goto fail;
	if (type == SOCK_STREAM &&
	    (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) || listen(fd, SOMAXCONN)))
		goto fail;
	return fd;
fail:
	rc = -errno;
	close(fd);
	return rc;
}

static int bind_error(const struct l7mp_bind_addr *w, int rc, struct l7mp_error *err)
{
	char text[L7MP_ADDR_STRLEN];

	if (!err)
		return rc;
	if (rc == -EADDRNOTAVAIL || rc == -EAFNOSUPPORT || rc == -EINVAL || rc == -ENODEV) {
		l7mp_error_set(err, rc, L7MP_ERR_REALISE, "address %s: %s",
		               l7mp_addr_ip(&w->addr, text), l7mp_errno_text(rc));
		snprintf(err->path, sizeof(err->path), "address");
		return rc;
	}
	if (w->dual)
		l7mp_error_set(err, rc, L7MP_ERR_REALISE, "port %u: %s", l7mp_addr_port(&w->addr),
		               l7mp_errno_text(rc));
	else
		l7mp_error_set(err, rc, L7MP_ERR_REALISE, "port %u: %s (address %s)",
		               l7mp_addr_port(&w->addr), l7mp_errno_text(rc),
		               l7mp_addr_ip(&w->addr, text));
	snprintf(err->path, sizeof(err->path), "port");
	return rc;
}

int l7mp_bind_addr_socket(const struct l7mp_bind_addr *want, int type,
                          int (*prepare)(int fd, void *arg), void *arg,
                          struct l7mp_bind_addr *bound, struct l7mp_error *err)
{
	struct l7mp_bind_addr w = *want;
	int rc, fd = try_bind(&w, type, prepare, arg);

	if (w.dual && (fd == -EAFNOSUPPORT || fd == -EADDRNOTAVAIL || fd == -EPROTONOSUPPORT)) {
		l7mp_addr_any(&w.addr, AF_INET, l7mp_addr_port(&want->addr));
		fd = try_bind(&w, type, prepare, arg);
	}
	if (fd < 0)
		return bind_error(&w, fd, err);
	*bound = w;
	if (!l7mp_addr_port(&w.addr)) {
		rc = l7mp_fd_local(fd, &w.addr);
		if (rc) {
			close(fd);
			return bind_error(want, rc, err);
		}
		l7mp_addr_set_port(&bound->addr, l7mp_addr_port(&w.addr));
	}
	return fd;
}

int l7mp_listen_hold(int fd, void *unused)
{
	struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog program = {.len = 1, .filter = &drop};

	(void)unused;
	(void)setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
	return 0;
}

void l7mp_listen_release(int fd)
{
	int unused = 0;

	(void)setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof(unused));
}
