/* SPDX-License-Identifier: MIT */
/* Listening sockets handed over by another process (handed.h). */
#include "l7mp/handed.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l7mp/hash.h"
#include "net.h"

struct handed_socket {
	struct handed_socket *prev, *next;
	int fd;
	int type;                    /* SOCK_STREAM, ... */
	struct l7mp_bind_addr bound; /* bound address; AF_UNIX: the path */
	char listener[];             /* its listener's name; "": unknown */
};

struct l7mp_handed {
	struct handed_socket *sockets;
	size_t n;
};

int l7mp_handed_new(struct l7mp_handed **out)
{
	*out = calloc(1, sizeof(**out));
	return *out ? 0 : -ENOMEM;
}

static int get_int(int fd, int level, int name, int *out)
{
	socklen_t len = sizeof(*out);

	return getsockopt(fd, level, name, out, &len) ? -errno : 0;
}

static int read_socket(struct handed_socket *s)
{
	struct l7mp_addr raw = {0};
	socklen_t len = sizeof(struct sockaddr_un);
	int on = 0, flags, rc;

	rc = get_int(s->fd, SOL_SOCKET, SO_TYPE, &s->type);
	if (!rc && s->type != SOCK_DGRAM)
		rc = get_int(s->fd, SOL_SOCKET, SO_ACCEPTCONN, &on);
	if (rc || (s->type != SOCK_DGRAM && !on))
		return rc ? rc : -EINVAL;
	/* A connected datagram socket belongs to a session. */
	if (s->type == SOCK_DGRAM && !getpeername(s->fd, &raw.sa, &len))
		return -EINVAL;
	len = sizeof(struct sockaddr_un);
	if (getsockname(s->fd, &raw.sa, &len))
		return -errno;
	rc = l7mp_addr_from_sockaddr(&s->bound.addr, &raw.sa, len);
	if (rc)
		return rc;
	if (raw.sa.sa_family == AF_INET6 && !get_int(s->fd, IPPROTO_IPV6, IPV6_V6ONLY, &on))
		s->bound.dual = !on;
	else if (raw.sa.sa_family != AF_INET && raw.sa.sa_family != AF_UNIX)
		return -EINVAL;
	flags = fcntl(s->fd, F_GETFL);
	if (flags < 0 || fcntl(s->fd, F_SETFL, flags | O_NONBLOCK) ||
	    fcntl(s->fd, F_SETFD, FD_CLOEXEC))
		return -errno;
	return 0;
}

int l7mp_handed_add(struct l7mp_handed *h, int fd, const char *listener)
{
	size_t len = listener ? strlen(listener) : 0;
	struct handed_socket *s = h->n < L7MP_HANDED_MAX ? calloc(1, sizeof(*s) + len + 1) : NULL;
	int rc;

	if (!s) {
		close(fd);
		return h->n < L7MP_HANDED_MAX ? -ENOMEM : -E2BIG;
	}
	memcpy(s->listener, listener ? listener : "", len + 1);
	s->fd = fd;
	rc = read_socket(s);
	if (rc) {
		close(fd);
		free(s);
		return rc;
	}
	DL_APPEND(h->sockets, s);
	h->n++;
	return 0;
}

static int take(struct l7mp_handed *h, struct handed_socket *s)
{
	int fd = s->fd;

	DL_DELETE(h->sockets, s);
	h->n--;
	free(s);
	return fd;
}

/* Does the socket fit the listener's address? With port 0 it keeps the port that it had. */
static bool serves(const struct handed_socket *s, const char *listener,
                   const struct l7mp_bind_addr *want)
{
	struct l7mp_bind_addr any = s->bound;

	if (l7mp_addr_family(&s->bound.addr) == AF_UNIX)
		return false;
	if (l7mp_addr_port(&want->addr))
		return l7mp_bind_addr_same(want, &s->bound);
	if (!listener || strcmp(listener, s->listener) != 0)
		return false;
	l7mp_addr_set_port(&any.addr, 0);
	return want->dual == any.dual && l7mp_addr_equal(&want->addr, &any.addr);
}

int l7mp_handed_inet(struct l7mp_handed *h, int type, const char *listener,
                     const struct l7mp_bind_addr *want, struct l7mp_bind_addr *bound)
{
	struct handed_socket *s;

	if (!h)
		return -ENOENT;
	DL_FOREACH (h->sockets, s) {
		if (s->type != type || !serves(s, listener, want))
			continue;
		*bound = s->bound;
		return take(h, s);
	}
	return -ENOENT;
}

int l7mp_handed_unix(struct l7mp_handed *h, int type, const char *filename)
{
	char text[L7MP_ADDR_STRLEN];
	struct handed_socket *s;

	if (!h)
		return -ENOENT;
	DL_FOREACH (h->sockets, s)
		if (s->type == type && l7mp_addr_family(&s->bound.addr) == AF_UNIX &&
		    !strcmp(l7mp_addr_str(&s->bound.addr, text), filename))
			return take(h, s);
	return -ENOENT;
}

size_t l7mp_handed_left(const struct l7mp_handed *h)
{
	return h->n;
}

void l7mp_handed_free(struct l7mp_handed **hp)
{
	struct l7mp_handed *h = *hp;

	if (!h)
		return;
	*hp = NULL;
	while (h->sockets)
		close(take(h, h->sockets));
	free(h);
}
