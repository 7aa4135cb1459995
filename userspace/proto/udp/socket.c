/* SPDX-License-Identifier: MIT */
/*
 * The socket of a listener, which all of its sessions share: what it receives and sends, its
 * multicast group, and how it is bound beside sockets of listeners that are replaced.
 */
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/net.h"
#include "udp.h"

/* ---- datagrams from our own sockets ---- */

/* Whether the address is local to this host, that is, can be bound. */
static bool is_local(const struct l7mp_addr *ip, const struct l7mp_addr *to)
{
	struct l7mp_addr a = *ip;
	bool yes;
	int fd;

	if (l7mp_addr_equal_ip(ip, to))
		return true;
	l7mp_addr_set_port(&a, 0);
	fd = socket(l7mp_addr_family(&a), SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	yes = !bind(fd, &a.sa, a.len);
	close(fd);
	return yes;
}

/* Whether the source is a singleton's socket and its configured peer is `to`. */
static bool is_meant(const struct l7mp_shared_socket *from, const struct l7mp_addr *to)
{
	const struct udp_listener *l = (const struct udp_listener *)from->listener;

	return l && l->mode == UDP_SINGLETON && l->peer_port == l7mp_addr_port(to) &&
	       l->peer_ip.len && l7mp_addr_equal_ip(&l->peer_ip, to);
}

/* Finds the protocol's sockets by port, and compares addresses only for those. */
bool udp_from_ourselves(const struct l7mp_shared_table *table, const struct l7mp_addr *from,
                        const struct l7mp_addr *to)
{
	uint16_t port = l7mp_addr_port(from);
	const struct l7mp_shared_socket *s = table->buckets[port % L7MP_SHARED_BUCKETS];

	for (; s; s = s->next) {
		const struct l7mp_bind_addr *bound = &((const struct udp_socket *)s)->bind_addr;

		if (l7mp_addr_port(&bound->addr) != port || is_meant(s, to))
			continue;
		if (!l7mp_addr_is_any(&bound->addr)) {
			if (l7mp_addr_equal_ip(&bound->addr, from))
				return true;
		} else if ((bound->dual ||
		            l7mp_addr_family(&bound->addr) == l7mp_addr_family(from)) &&
		           is_local(from, to)) {
			return true;
		}
	}
	return false;
}

/* ---- receiving ---- */

/* Whether a socket receives datagrams to a local address and its port. */
static bool covers(const struct udp_socket *s, const struct l7mp_addr *to)
{
	const struct l7mp_addr *own = &s->bind_addr.addr;

	if (l7mp_addr_port(own) != l7mp_addr_port(to))
		return false;
	if (!l7mp_addr_is_any(own))
		return l7mp_addr_equal_ip(own, to);
	return s->bind_addr.dual || l7mp_addr_family(own) == l7mp_addr_family(to);
}

/*
 * While sessions of a listener continue whose successor is bound to another address of the port,
 * the kernel delivers the datagrams of both to the socket with the more specific address. Finds the
 * session on another socket, or else the listener that would get the datagram if this socket were
 * closed.
 */
static struct l7mp_shared_session *find_elsewhere(struct l7mp_shared_socket *s,
                                                  const struct udp_key *key,
                                                  const struct l7mp_addr *to,
                                                  struct l7mp_shared_listener **listener)
{
	struct l7mp_shared_socket *o = s->bucket ? *s->bucket : NULL;
	struct l7mp_shared_session *p = NULL;

	for (; o && !p; o = o->next) {
		if (o == s || o->given || !covers((const struct udp_socket *)o, to))
			continue;
		if (o->listener && !*listener)
			*listener = o->listener;
		p = l7mp_shared_find(o, key, sizeof(*key));
	}
	return p;
}

static void on_recv(void *arg, struct l7mp_buf *buf, const struct l7mp_addr *from,
                    const struct l7mp_addr *to)
{
	struct l7mp_shared_socket *s = arg;
	struct l7mp_shared_listener *listener = s->listener;
	struct l7mp_shared_session *p;
	struct udp_key key;

	udp_key_set(&key, from, to);
	p = l7mp_shared_find(s, &key, sizeof(key));
	if (!p && to->len)
		p = find_elsewhere(s, &key, to, &listener);
	if (p)
		l7mp_shared_deliver(p, buf);
	else if (listener)
		udp_listener_first((struct udp_listener *)listener, buf, from, to);
	else /* the listener was deleted; its sessions continue */
		l7mp_shared_socket_drop(s, L7MP_DROP_PEER, buf);
}

static void on_error(void *arg, int err)
{
	struct udp_socket *s = arg;
	char text[L7MP_ADDR_STRLEN];

	l7mp_shared_socket_warn(&s->shared, "udp", l7mp_addr_str(&s->bind_addr.addr, text),
	                        l7mp_errno_text(err));
}

static const struct l7mp_dgram_ops dgram_ops = {
        .recv = on_recv,
        .lost = l7mp_shared_on_lost,
        .error = on_error,
        .dropped = l7mp_shared_on_dropped,
        .overflow = l7mp_shared_on_overflow,
};

/* ---- sessions ---- */

static bool matches(const struct l7mp_shared_socket *s, const void *want)
{
	return l7mp_bind_addr_same(want, &((const struct udp_socket *)s)->bind_addr);
}

void udp_session_addrs(const struct l7mp_shared_session *p, struct l7mp_addr *peer,
                       struct l7mp_addr *local)
{
	const struct udp_socket *s = (const struct udp_socket *)p->socket;
	struct udp_key key;

	memcpy(&key, p->key, sizeof(key));
	udp_key_addrs(&key, l7mp_addr_port(&s->bind_addr.addr), peer, local);
}

static int send_to(struct l7mp_shared_session *p, struct l7mp_buf *buf, uint64_t tag)
{
	struct l7mp_addr to, from;

	if (buf->len > p->base.max_write) {
		l7mp_buf_unref(buf);
		return -EMSGSIZE;
	}
	udp_session_addrs(p, &to, &from);
	return l7mp_dgram_send(p->socket->dgram, buf, &to, &from, tag);
}

static int session_local(struct l7mp_shared_session *p, struct l7mp_addr *out)
{
	struct l7mp_addr peer;

	udp_session_addrs(p, &peer, out);
	return out->len ? 0 : -ENOTCONN;
}

static void flow(struct l7mp_shared_session *p, struct l7mp_flow_end *out)
{
	udp_session_addrs(p, &out->remote, &out->local);
	if (p->closing || !out->local.len) {
		out->reason = L7MP_REASON_NOT_ESTABLISHED;
	} else {
		out->tos = ((struct udp_socket *)p->socket)->tos;
		out->keep_tos = ((struct udp_socket *)p->socket)->keep_tos;
		out->kind = L7MP_FLOW_SOCKET;
		out->reason = L7MP_REASON_NONE;
		out->l4 = IPPROTO_UDP;
	}
}

static void renew(const struct l7mp_shared_session *p, struct l7mp_buf *buf)
{
	struct l7mp_addr peer, local;

	udp_session_addrs(p, &peer, &local);
	udp_listener_first((struct udp_listener *)p->socket->listener, buf, &peer, &local);
}

/*
 * Binds a socket with the address of the shared one and connects it: the kernel then prefers it for
 * this peer. It keeps SO_REUSEADDR, because further sockets are bound beside it; other programs
 * can't bind, as the shared socket does not have the option.
 */
static int bind_beside(int shared, const struct l7mp_addr *local, const struct l7mp_addr *peer)
{
	const int on = 1, off = 0;
	int rc, fd = socket(l7mp_addr_family(peer), SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (l7mp_addr_family(peer) == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	(void)setsockopt(shared, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	rc = bind(fd, &local->sa, local->len) || connect(fd, &peer->sa, peer->len) ? -errno : 0;
	(void)setsockopt(shared, SOL_SOCKET, SO_REUSEADDR, &off, sizeof(off));
	if (!rc)
		return fd;
	close(fd);
	return rc;
}

#define STRAYS_MAX 65536

/* Between bind and connect the socket received datagrams of any peer: passes them on. */
static void pass_strays_on(struct l7mp_shared_session *p, int fd, const struct l7mp_addr *local)
{
	static uint8_t data[UINT16_MAX];

	for (int i = 0; i < STRAYS_MAX && !p->closing; i++) {
		struct l7mp_addr from = {.len = sizeof(struct sockaddr_in6)};
		ssize_t n = recvfrom(fd, data, sizeof(data), 0, &from.sa, &from.len);
		struct l7mp_buf *buf;

		if (n < 0)
			return;
		buf = l7mp_buf_copy(l7mp_loop_bufs(p->socket->env->loop), data, (size_t)n);
		if (buf)
			on_recv(p->socket, buf, &from, local);
		else
			l7mp_shared_on_dropped(p->socket, -ENOMEM, (uint32_t)n);
	}
}

static int own(struct l7mp_shared_session *p, const struct l7mp_dgram_ops *ops)
{
	struct l7mp_addr peer, local;
	int fd;

	udp_session_addrs(p, &peer, &local);
	if (!local.len || l7mp_addr_is_any(&local) || l7mp_addr_is_multicast(&local))
		return -ENOTSUP;
	fd = bind_beside(l7mp_dgram_fd(p->socket->dgram), &local, &peer);
	if (fd < 0)
		return fd;
	pass_strays_on(p, fd, &local);
	if (p->closing) {
		close(fd);
		return -ENOTCONN;
	}
	return l7mp_dgram_new(p->socket->env->loop, fd,
	                      L7MP_DGRAM_GRO | L7MP_DGRAM_HOPS | L7MP_DGRAM_RECV_TOS, UINT16_MAX,
	                      ops, p, &p->own);
}

static void free_socket(struct l7mp_shared_socket *s)
{
	free((struct udp_socket *)s);
}

static const struct l7mp_shared_ops shared_ops = {
        .matches = matches,
        .send = send_to,
        .flow = flow,
        .local = session_local,
        .renew = renew,
        .own = own,
        .free = free_socket,
};

/* ---- multicast ---- */

int udp_socket_membership(const struct udp_socket *s, unsigned ifindex, bool join)
{
	const struct l7mp_addr *a = &s->bind_addr.addr;
	int fd = l7mp_dgram_fd(s->shared.dgram), rc;

	if (l7mp_addr_family(a) == AF_INET) {
		struct ip_mreqn m = {.imr_multiaddr = a->in.sin_addr, .imr_ifindex = (int)ifindex};

		rc = setsockopt(fd, IPPROTO_IP, join ? IP_ADD_MEMBERSHIP : IP_DROP_MEMBERSHIP, &m,
		                sizeof(m));
	} else {
		struct ipv6_mreq m = {.ipv6mr_multiaddr = a->in6.sin6_addr,
		                      .ipv6mr_interface = ifindex};

		rc = setsockopt(fd, IPPROTO_IPV6, join ? IPV6_JOIN_GROUP : IPV6_LEAVE_GROUP, &m,
		                sizeof(m));
	}
	return rc ? -errno : 0;
}

/* On failure the membership is as before: closing a new socket leaves the group. */
static int join(const struct udp_socket *s, unsigned ifindex, struct l7mp_error *err)
{
	char text[L7MP_ADDR_STRLEN], name[IF_NAMESIZE] = "";
	int rc = udp_socket_membership(s, ifindex, true);

	if (!rc)
		return 0;
	if (ifindex)
		(void)if_indextoname(ifindex, name);
	return l7mp_error_set(err, rc, L7MP_ERR_REALISE,
	                      "address %s: the multicast group can't be joined on %s: %s%s",
	                      l7mp_addr_ip(&s->bind_addr.addr, text),
	                      ifindex ? name : "the interface of its route", l7mp_errno_text(rc),
	                      ifindex ? "" : "; name one in options.multicast_interface");
}

/* ---- binding ---- */

void udp_socket_set_tos(struct udp_socket *s, const struct l7mp_socket_options *options)
{
	s->tos = l7mp_socket_options_tos(options);
	s->keep_tos = options->dscp_pass;
	l7mp_dgram_send_tos(s->shared.dgram, options->dscp_pass);
}

/*
 * Finds the sockets of the port that are about to be closed, or only have sessions of deleted
 * listeners.
 */
static size_t find_beside(const struct l7mp_shared_table *table, const struct l7mp_bind_addr *want,
                          const struct l7mp_listen *params, int *fds, size_t max)
{
	uint16_t port = l7mp_addr_port(&want->addr);
	const struct l7mp_shared_socket *s = table->buckets[port % L7MP_SHARED_BUCKETS];
	size_t n = 0;

	for (; s && n < max; s = s->next) {
		bool free_soon = !s->listener;

		for (size_t i = 0; !free_soon && i < params->n_retiring; i++)
			free_soon = params->retiring[i] == &s->listener->base;
		if (free_soon && !s->successor &&
		    l7mp_addr_port(&((const struct udp_socket *)s)->bind_addr.addr) == port)
			fds[n++] = l7mp_dgram_fd(s->dgram);
	}
	return n;
}

#define BESIDE_MAX 64

static int bind_new(const struct l7mp_shared_table *table, const struct l7mp_bind_addr *want,
                    const struct l7mp_listen *params, struct l7mp_socket_options *options,
                    struct l7mp_bind_addr *bound, struct l7mp_error *err)
{
	int fds[BESIDE_MAX];
	size_t n = find_beside(table, want, params, fds, BESIDE_MAX);

	return l7mp_bind_addr_beside(want, SOCK_DGRAM, l7mp_socket_options_apply, options, fds, n,
	                             bound, err);
}

int udp_socket_get(struct l7mp_shared_table *table, const struct l7mp_bind_addr *want,
                   const struct l7mp_listen *params, struct udp_listener *l,
                   struct l7mp_shared_socket **out, struct l7mp_error *err)
{
	struct l7mp_socket_options *options = &l->options;
	struct udp_socket *s;
	int fd, rc;

	*out = l7mp_shared_socket_find(table, l7mp_addr_port(&want->addr), want, params);
	s = (struct udp_socket *)*out;
	if (s && l7mp_addr_is_multicast(&want->addr) && s->ifindex != l->ifindex) {
		rc = join(s, l->ifindex, err);
		if (rc)
			l7mp_shared_socket_unref(*out);
		return rc;
	}
	if (s)
		return 0;
	s = calloc(1, sizeof(*s));
	if (!s)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	fd = l7mp_handed_inet(params->env->handed, SOCK_DGRAM, params->name, want, &s->bind_addr);
	if (fd == -ENOENT)
		fd = bind_new(table, want, params, options, &s->bind_addr, err);
	if (fd < 0) {
		free(s);
		return fd;
	}
	rc = l7mp_shared_socket_init(&s->shared, &shared_ops, params->env, table, fd,
	                             L7MP_DGRAM_PKTINFO | L7MP_DGRAM_GRO | L7MP_DGRAM_GSO |
	                                     L7MP_DGRAM_HOPS | L7MP_DGRAM_RECV_TOS,
	                             UINT16_MAX, &dgram_ops);
	if (rc) {
		free(s);
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE, "port %u: %s",
		                      l7mp_addr_port(&want->addr), l7mp_errno_text(rc));
	}
	s->ifindex = l->ifindex;
	rc = l7mp_addr_is_multicast(&want->addr) ? join(s, l->ifindex, err) : 0;
	if (rc) {
		l7mp_shared_socket_unref(&s->shared);
		return rc;
	}
	udp_socket_set_tos(s, options);
	l7mp_shared_socket_publish(&s->shared, l7mp_addr_port(&s->bind_addr.addr));
	*out = &s->shared;
	return 0;
}
