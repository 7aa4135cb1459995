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
	/*
	 * On a host without IPv6 a dual-stack wildcard is bound to 0.0.0.0, and still marked
	 * `dual`.
	 */
	if (want->dual && bound->dual)
		return l7mp_addr_port(&want->addr) == l7mp_addr_port(&bound->addr);
	return want->dual == bound->dual && l7mp_addr_equal(&want->addr, &bound->addr);
}

/* How a socket is made, and those that make room for it. */
struct plan {
	int type;
	int (*prepare)(int fd, void *arg);
	void *arg;
	const int *beside;
	size_t n;
};

/* With it set at both sockets, the kernel binds one beside the other. */
static int sharing_option(int type)
{
	return type == SOCK_STREAM ? SO_REUSEPORT : SO_REUSEADDR;
}

static void set_option(int fd, int option, int value)
{
	(void)setsockopt(fd, SOL_SOCKET, option, &value, sizeof(value));
}

static int get_option(int fd, int option)
{
	int value = 0;
	socklen_t len = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &len) ? 0 : value;
}

static int bind_and_listen(int fd, const struct l7mp_bind_addr *w, int type)
{
	int on = 1;

	if (bind(fd, &w->addr.sa, w->addr.len))
		return -errno;
	if (type == SOCK_STREAM &&
	    (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) || listen(fd, SOMAXCONN)))
		return -errno;
	return 0;
}

#define BESIDE_MAX 64

static int bind_beside(int fd, const struct l7mp_bind_addr *w, const struct plan *p)
{
	int option = sharing_option(p->type), own = get_option(fd, option), was[BESIDE_MAX], rc;
	size_t n = p->n < BESIDE_MAX ? p->n : BESIDE_MAX;

	for (size_t i = 0; i < n; i++) {
		was[i] = get_option(p->beside[i], option);
		set_option(p->beside[i], option, 1);
	}
	set_option(fd, option, 1);
	rc = bind_and_listen(fd, w, p->type);
	set_option(fd, option, own);
	for (size_t i = 0; i < n; i++)
		set_option(p->beside[i], option, was[i]);
	return rc;
}

static int try_bind(const struct l7mp_bind_addr *w, const struct plan *p)
{
	int family = l7mp_addr_family(&w->addr), type = p->type, on = 1, v6only = !w->dual, rc;
	int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	/*
	 * On TCP it allows binding a port while connections of a previous process are in
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
	rc = p->prepare ? p->prepare(fd, p->arg) : 0;
	if (!rc)
		rc = bind_and_listen(fd, w, type);
	if (rc == -EADDRINUSE && p->n)
		rc = bind_beside(fd, w, p);
	if (!rc)
		return fd;
	close(fd);
	return rc;
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

int l7mp_bind_addr_beside(const struct l7mp_bind_addr *want, int type,
                          int (*prepare)(int fd, void *arg), void *arg, const int *beside, size_t n,
                          struct l7mp_bind_addr *bound, struct l7mp_error *err)
{
	const struct plan plan = {type, prepare, arg, beside, n};
	struct l7mp_bind_addr w = *want;
	int rc, fd = try_bind(&w, &plan);

	if (w.dual && (fd == -EAFNOSUPPORT || fd == -EADDRNOTAVAIL || fd == -EPROTONOSUPPORT)) {
		l7mp_addr_any(&w.addr, AF_INET, l7mp_addr_port(&want->addr));
		fd = try_bind(&w, &plan);
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

int l7mp_bind_addr_socket(const struct l7mp_bind_addr *want, int type,
                          int (*prepare)(int fd, void *arg), void *arg,
                          struct l7mp_bind_addr *bound, struct l7mp_error *err)
{
	return l7mp_bind_addr_beside(want, type, prepare, arg, NULL, 0, bound, err);
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
