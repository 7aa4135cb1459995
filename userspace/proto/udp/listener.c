/* SPDX-License-Identifier: MIT */
/*
 * UDP listeners: all sessions of a listener share its socket. In server mode each peer has a
 * session, in singleton mode there is one session, with one peer.
 */
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l7mp/protos.h"
#include "net/net.h"
#include "net/shared_socket.h"
#include "udp.h"

/* Room for a burst of small datagrams while the loop is busy; the kernel's overhead counts, too. */
#define RCVBUF (4 << 20)
/* After this time a singleton whose session could not be started retries. */
#define START_AGAIN_MS 1000
/* Default for dynamic payload types: the clock rate of telephone events and G.711. */
#define RTP_CLOCK_RATE 8000
/* Range for a pair of ports when any port is allowed: Linux's default for ephemeral ports. */
#define FREE_FIRST 32768
#define FREE_LAST  60999

enum udp_mode { UDP_SERVER, UDP_SINGLETON };

struct udp_socket {
	struct l7mp_shared_socket shared; /* first */
	struct l7mp_bind_addr bind_addr;
	unsigned ifindex; /* a multicast address: of the group's interface; 0: by route */
	uint8_t tos;      /* of sent datagrams: options.dscp */
	bool keep_tos;
};

struct udp_listener {
	struct l7mp_shared_listener shared; /* first */
	struct l7mp_addr peer_ip;           /* `connect` of the spec; len 0: any */
	uint16_t peer_port;                 /* 0: any */
	enum udp_mode mode;
	unsigned ifindex;          /* options.multicast_interface */
	struct udp_latch latch;    /* the singleton's peer is the first source */
	struct udp_listener *rtcp; /* options.rtcp: the listener on the next port */
	bool is_rtcp;              /* this listener is for RTCP */
	uint32_t rtp_clock_rate;   /* options.rtp: Hz; 0: no statistics */
	struct l7mp_socket_options options;
};

static struct udp_socket *socket_of(const struct udp_listener *l)
{
	return (struct udp_socket *)l->shared.socket;
}

/* ---- keys ---- */

static void ip_to_key(const struct l7mp_addr *a, uint8_t out[16])
{
	if (l7mp_addr_family(a) == AF_INET6) {
		memcpy(out, &a->in6.sin6_addr, 16);
	} else if (l7mp_addr_family(a) == AF_INET) {
		memset(out, 0, 10);
		out[10] = out[11] = 0xff;
		memcpy(out + 12, &a->in.sin_addr, 4);
	} else {
		memset(out, 0, 16);
	}
}

void udp_key_set(struct udp_key *key, const struct l7mp_addr *peer, const struct l7mp_addr *local)
{
	bool v6 = l7mp_addr_family(peer) == AF_INET6;

	ip_to_key(peer, key->peer);
	ip_to_key(local, key->local);
	key->scope = v6 ? peer->in6.sin6_scope_id : 0;
	key->port = v6 ? peer->in6.sin6_port : peer->in.sin_port;
	key->family = v6 ? AF_INET6 : AF_INET;
}

static void key_to_ip(const struct udp_key *key, const uint8_t ip[16], uint16_t port,
                      struct l7mp_addr *out)
{
	if (key->family == AF_INET6) {
		out->in6 = (struct sockaddr_in6){
		        .sin6_family = AF_INET6, .sin6_port = port, .sin6_scope_id = key->scope};
		memcpy(&out->in6.sin6_addr, ip, 16);
		out->len = sizeof(out->in6);
	} else {
		out->in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port};
		memcpy(&out->in.sin_addr, ip + 12, 4);
		out->len = sizeof(out->in);
	}
}

void udp_key_addrs(const struct udp_key *key, uint16_t local_port, struct l7mp_addr *peer,
                   struct l7mp_addr *local)
{
	static const uint8_t unknown[16];

	key_to_ip(key, key->peer, key->port, peer);
	if (memcmp(key->local, unknown, sizeof(unknown)))
		key_to_ip(key, key->local, htons(local_port), local);
	else
		local->len = 0;
}

/* ---- new sessions ---- */

static bool takes(const struct udp_listener *l, const struct l7mp_addr *peer)
{
	if (l->peer_port && l->peer_port != l7mp_addr_port(peer))
		return false;
	return !l->peer_ip.len || l7mp_addr_equal_ip(&l->peer_ip, peer);
}

/*
 * Emits a session, with its first datagram if there is one (takes buf). Returns false when the
 * limits refused it or there was no memory.
 */
static bool emit(struct udp_listener *l, struct l7mp_buf *buf, const struct l7mp_addr *peer,
                 const struct l7mp_addr *local)
{
	struct l7mp_accept a = {.peer = *peer,
	                        .never_idle = l->mode == UDP_SINGLETON && !l->latch.on};
	struct l7mp_shared_session *p;
	struct l7mp_addr ours = *local;
	struct udp_key key;

	/*
	 * A multicast address can't be a source address: let the kernel choose, as it does for
	 * `::`.
	 */
	if (l7mp_addr_is_multicast(local))
		l7mp_addr_any(&ours, l7mp_addr_family(local), l7mp_addr_port(local));
	udp_key_set(&key, peer, &ours);
	p = l7mp_shared_session_admit(&l->shared, &a, &key, sizeof(key),
	                              key.family == AF_INET ? UDP_MAX4 : UDP_MAX6, buf);
	if (!p)
		return false;
	if (l->mode == UDP_SINGLETON)
		l7mp_shared_session_bind(&l->shared, p);
	l->latch.since_ms = l7mp_loop_now(l->shared.env->loop);
	a.name = l7mp_inet_name("UDP", peer, local, p->id);
	a.metadata = l7mp_inet_metadata("UDP", peer, local);
	a.rtp_clock_rate = l->is_rtcp ? 0 : l->rtp_clock_rate;
	if (l->is_rtcp)
		l7mp_json_add(l7mp_json_member(a.metadata, "UDP"), "rtcp", cJSON_CreateTrue());
	(void)l7mp_shared_session_emit(&l->shared, p, &a, buf);
	return true;
}

/* Whether a listener on this address receives and accepts such a datagram. */
static bool serves(const struct udp_listener *l, const struct l7mp_addr *peer,
                   const struct l7mp_addr *local)
{
	const struct l7mp_bind_addr *bound = &socket_of(l)->bind_addr;
	int family = l7mp_addr_family(local);

	if (l7mp_addr_family(peer) != family ||
	    l7mp_addr_port(local) != l7mp_addr_port(&bound->addr))
		return false;
	if (!l7mp_addr_is_any(&bound->addr))
		return l7mp_addr_equal_ip(&bound->addr, local) && takes(l, peer);
	return (bound->dual || l7mp_addr_family(&bound->addr) == family) && takes(l, peer);
}

static int udp_restore(struct l7mp_proto_listener *base, const char *name,
                       struct l7mp_restore_end *end, struct l7mp_accept *a, struct l7mp_error *err)
{
	struct udp_listener *l = (struct udp_listener *)base;
	struct l7mp_shared_socket *s;
	struct l7mp_shared_session *p;
	char peer[L7MP_ADDR_STRLEN], local[L7MP_ADDR_STRLEN];
	struct udp_key key;

	if (l->rtcp && serves(l->rtcp, &end->remote, &end->local))
		l = l->rtcp;
	s = l->shared.socket;
	if (!serves(l, &end->remote, &end->local))
		return l7mp_error_set(err, -EPERM, L7MP_ERR_UPSTREAM,
		                      "listener '%s' takes nothing from %s to %s", l->shared.name,
		                      l7mp_addr_str(&end->remote, peer),
		                      l7mp_addr_str(&end->local, local));
	udp_key_set(&key, &end->remote, &end->local);
	if (l7mp_shared_lookup(s, &key, sizeof(key)) ||
	    (l->mode == UDP_SINGLETON && l->shared.session))
		return l7mp_error_set(err, -EEXIST, L7MP_ERR_UPSTREAM,
		                      "%s has another session already",
		                      l7mp_addr_str(&end->remote, peer));
	p = l7mp_shared_session_new(s, &key, sizeof(key),
	                            key.family == AF_INET ? UDP_MAX4 : UDP_MAX6);
	if (!p)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	if (l->mode == UDP_SINGLETON)
		l7mp_shared_session_bind(&l->shared, p);
	/* Names must be unique. */
	l7mp_shared_session_named(s->table, name);
	a->stream = &p->base;
	a->peer = end->remote;
	a->never_idle = l->mode == UDP_SINGLETON && !l->latch.on;
	a->rtp_clock_rate = l->is_rtcp ? 0 : l->rtp_clock_rate;
	a->metadata = l7mp_inet_metadata("UDP", &end->remote, &end->local);
	if (l->is_rtcp)
		l7mp_json_add(l7mp_json_member(a->metadata, "UDP"), "rtcp", cJSON_CreateTrue());
	return 0;
}

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

static void warn_loop(const struct udp_listener *l, const struct l7mp_addr *from)
{
	char text[L7MP_ADDR_STRLEN];

	l7mp_shared_socket_warn(l->shared.socket, "udp", l->shared.name,
	                        "datagrams from one of our own listeners are dropped: they would "
	                        "loop");
	l7mp_log_verbose("udp", "%s: such a datagram from %s", l->shared.name,
	                 l7mp_addr_str(from, text));
}

/*
 * Changes the peer of the session, if options.latch allows it: the first sources may differ from
 * the final one (a phone that changes networks during call set-up).
 */
static bool latch_again(struct udp_listener *l, struct l7mp_shared_session *p,
                        const struct l7mp_addr *from, const struct l7mp_addr *to)
{
	struct udp_key key;
	char text[L7MP_ADDR_STRLEN];

	if (!udp_latch_is_open(&l->latch, l7mp_loop_now(l->shared.env->loop)) || p->closing)
		return false;
	udp_key_set(&key, from, to->len ? to : &socket_of(l)->bind_addr.addr);
	l7mp_shared_session_rekey(p, &key);
	l7mp_shared_session_notice(p, "LATCHED", l7mp_addr_str(from, text));
	/* The flow for the previous peer must be removed. */
	if (p->base.events->moved)
		p->base.events->moved(p->base.owner);
	return true;
}

/* Handles a datagram without a session; takes buf. */
static void first_datagram(struct udp_listener *l, struct l7mp_buf *buf,
                           const struct l7mp_addr *from, const struct l7mp_addr *to)
{
	struct l7mp_shared_session *p = l->shared.session;
	struct l7mp_addr peer, local;
	struct udp_key key;

	if (!takes(l, from) || !l7mp_addr_port(from)) {
		l7mp_shared_socket_drop(l->shared.socket, L7MP_DROP_PEER, buf);
		return;
	}
	if (!p && udp_from_ourselves(l->shared.socket->table, from, to)) {
		warn_loop(l, from);
		l7mp_shared_socket_drop(l->shared.socket, L7MP_DROP_LOOP, buf);
		return;
	}
	if (!p) {
		(void)emit(l, buf, from, to->len ? to : &socket_of(l)->bind_addr.addr);
		return;
	}
	/*
	 * The peer of a singleton may send to another local address, and is answered from that
	 * address.
	 */
	memcpy(&key, p->key, sizeof(key));
	udp_key_addrs(&key, 0, &peer, &local);
	if (!l7mp_addr_equal(&peer, from)) {
		if (latch_again(l, p, from, to))
			l7mp_shared_deliver(p, buf);
		else
			l7mp_shared_socket_drop(l->shared.socket, L7MP_DROP_PEER, buf);
		return;
	}
	udp_key_set(&key, from, to);
	l7mp_shared_session_rekey(p, &key);
	l7mp_shared_deliver(p, buf);
}

/* Returns the local address that the kernel would use for the peer. */
static int route_local(const struct l7mp_addr *peer, struct l7mp_addr *out)
{
	int rc, fd = socket(l7mp_addr_family(peer), SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	rc = connect(fd, &peer->sa, peer->len) ? -errno : l7mp_fd_local(fd, out);
	close(fd);
	return rc;
}

/* Emits the session of a singleton with a configured peer, before the peer has sent a datagram. */
static void start_singleton(struct l7mp_shared_listener *base)
{
	struct udp_listener *l = (struct udp_listener *)base;
	struct udp_socket *s = socket_of(l);
	struct l7mp_addr peer = l->peer_ip, local = s->bind_addr.addr;
	char text[L7MP_ADDR_STRLEN];
	int rc = 0;

	if (base->session)
		return;
	l7mp_addr_set_port(&peer, l->peer_port);
	if (l7mp_addr_is_any(&local))
		rc = route_local(&peer, &local);
	l7mp_addr_set_port(&local, l7mp_addr_port(&s->bind_addr.addr));
	if (!rc && emit(l, NULL, &peer, &local))
		return; /* the owner may have deleted the listener */
	if (rc)
		l7mp_log_warn("udp", "%s: can't reach %s: %s, trying again", base->name,
		              l7mp_addr_str(&peer, text), l7mp_errno_text(rc));
	l7mp_shared_listener_start(base, START_AGAIN_MS);
}

/* ---- the socket ---- */

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
		first_datagram((struct udp_listener *)listener, buf, from, to);
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

static bool matches(const struct l7mp_shared_socket *s, const void *want)
{
	return l7mp_bind_addr_same(want, &((const struct udp_socket *)s)->bind_addr);
}

static void addrs_of(const struct l7mp_shared_session *p, struct l7mp_addr *peer,
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
	addrs_of(p, &to, &from);
	return l7mp_dgram_send(p->socket->dgram, buf, &to, &from, tag);
}

static int session_local(struct l7mp_shared_session *p, struct l7mp_addr *out)
{
	struct l7mp_addr peer;

	addrs_of(p, &peer, out);
	return out->len ? 0 : -ENOTCONN;
}

static void flow(struct l7mp_shared_session *p, struct l7mp_flow_end *out)
{
	addrs_of(p, &out->remote, &out->local);
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

	addrs_of(p, &peer, &local);
	first_datagram((struct udp_listener *)p->socket->listener, buf, &peer, &local);
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

	addrs_of(p, &peer, &local);
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

/* Joins or leaves the group to which the socket is bound; 0: the interface is chosen by route. */
static int membership(const struct udp_socket *s, unsigned ifindex, bool join)
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
	int rc = membership(s, ifindex, true);

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

/*
 * Reads the interface of a group: from the option, or the scope of an IPv6 address (ff02::1%eth0).
 */
static int read_interface(struct udp_listener *l, const cJSON *spec, struct l7mp_bind_addr *want,
                          struct l7mp_error *err)
{
	bool v6 = l7mp_addr_family(&want->addr) == AF_INET6;
	const char *name =
	        l7mp_json_str(l7mp_json_member(spec, "options"), "multicast_interface", NULL);

	if (!l7mp_addr_is_multicast(&want->addr)) {
		if (!name)
			return 0;
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_REALISE,
		                      "options.multicast_interface: address is not a multicast "
		                      "address");
	}
	if (v6)
		l->ifindex = want->addr.in6.sin6_scope_id;
	if (name)
		l->ifindex = if_nametoindex(name);
	if (!l->ifindex && !name && v6 && IN6_IS_ADDR_MC_LINKLOCAL(&want->addr.in6.sin6_addr))
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_REALISE,
		                      "address: a link-local group needs "
		                      "options.multicast_interface");
	/* Link-local groups are bound with their interface. */
	if (v6 && IN6_IS_ADDR_MC_LINKLOCAL(&want->addr.in6.sin6_addr))
		want->addr.in6.sin6_scope_id = l->ifindex;
	if (l->ifindex || !name)
		return 0;
	return l7mp_error_set(err, -ENODEV, L7MP_ERR_REALISE,
	                      "options.multicast_interface: there is no interface \"%.64s\"", name);
}

static void set_tos(struct udp_socket *s, const struct l7mp_socket_options *options)
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

/* Gets a reference to a free socket for `want`, or to a new one. */
static int get_socket(struct l7mp_shared_table *table, const struct l7mp_bind_addr *want,
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
	set_tos(s, options);
	l7mp_shared_socket_publish(&s->shared, l7mp_addr_port(&s->bind_addr.addr));
	*out = &s->shared;
	return 0;
}

/* ---- operations ---- */

static int udp_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct udp_state));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

static int read_connect(struct udp_listener *l, const cJSON *spec,
                        const struct l7mp_bind_addr *want, struct l7mp_error *err)
{
	const cJSON *c = l7mp_json_member(spec, "connect");
	const char *address = l7mp_json_str(c, "address", NULL);
	int family = l7mp_addr_family(&want->addr);

	l->peer_port = (uint16_t)l7mp_json_num(c, "port", 0);
	if (!address)
		return 0;
	if (l7mp_addr_parse(&l->peer_ip, address, 0))
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_SCHEMA,
		                      "connect.address: expected a numeric IP address, got \"%s\"",
		                      address);
	if (!want->dual && family != l7mp_addr_family(&l->peer_ip))
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_REALISE,
		                      "connect.address: %s is not of the family of address",
		                      address);
	return 0;
}

static void read_options(struct udp_listener *l, const cJSON *spec)
{
	const cJSON *o = l7mp_json_member(spec, "options");
	const char *mode = l7mp_json_str(o, "mode", NULL);
	const cJSON *rtp = l7mp_json_member(o, "rtp");
	bool both = l->peer_ip.len && l->peer_port;

	udp_latch_read(o, &l->latch);
	if (cJSON_IsTrue(rtp) || cJSON_IsObject(rtp))
		l->rtp_clock_rate = (uint32_t)l7mp_json_num(rtp, "clock_rate", RTP_CLOCK_RATE);
	if (l->latch.on)
		l->mode = UDP_SINGLETON;
	else if (mode)
		l->mode = strcasecmp(mode, "singleton") ? UDP_SERVER : UDP_SINGLETON;
	else
		l->mode = both ? UDP_SINGLETON : UDP_SERVER;
	l7mp_socket_options_read(o, &l->options);
	if (!l->options.rcvbuf)
		l->options.rcvbuf = RCVBUF;
}

static int open_socket(struct l7mp_shared_listener *base, struct l7mp_shared_table *table,
                       const struct l7mp_listen *params, struct l7mp_shared_socket **out,
                       struct l7mp_error *err)
{
	struct udp_listener *l = (struct udp_listener *)base;
	struct l7mp_bind_addr want;
	int rc = l7mp_bind_addr_from_spec(params->spec, &want, err);

	if (!rc)
		rc = read_connect(l, params->spec, &want, err);
	if (rc)
		return rc;
	read_options(l, params->spec);
	rc = read_interface(l, params->spec, &want, err);
	if (rc)
		return rc;
	return get_socket(table, &want, params, l, out, err);
}

/* ---- ports: one, a pair for RTP and RTCP (RFC 3550, 11), or free ones of a range ---- */

static int listen_one(const struct l7mp_listen *params, struct udp_listener **out,
                      struct l7mp_error *err)
{
	struct l7mp_proto_listener *base;
	int rc = l7mp_shared_listen(sizeof(struct udp_listener), &l7mp_proto_udp, params,
	                            open_socket, start_singleton, &base, err);

	*out = rc ? NULL : (struct udp_listener *)base;
	return rc;
}

/* Opens the listener for RTCP, on the port after that of `l`; `spec` is overwritten. */
static int listen_rtcp(const struct l7mp_listen *params, struct udp_listener *l, cJSON *spec,
                       struct l7mp_error *err)
{
	unsigned port = l7mp_addr_port(&socket_of(l)->bind_addr.addr) + 1u;
	struct l7mp_proto_listener **retiring = calloc(params->n_retiring + 1, sizeof(void *));
	struct l7mp_listen next = *params;
	int rc;

	if (!retiring)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	next.n_retiring = 0;
	for (size_t i = 0; i < params->n_retiring; i++) {
		struct udp_listener *r = ((struct udp_listener *)params->retiring[i])->rtcp;

		if (r)
			retiring[next.n_retiring++] = &r->shared.base;
	}
	next.retiring = retiring;
	next.spec = spec;
	cJSON_SetNumberValue(l7mp_json_member(spec, "port"), port);
	rc = port > UINT16_MAX ? l7mp_error_set(err, -EADDRINUSE, L7MP_ERR_REALISE,
	                                        "port: there is none after 65535 for RTCP")
	                       : listen_one(&next, &l->rtcp, err);
	free(retiring);
	if (rc)
		return rc;
	l->rtcp->is_rtcp = true;
	return 0;
}

/*
 * Listens on spec.port, a number, and on the next one if options.rtcp is set. `spec` is modified.
 */
static int listen_pair(const struct l7mp_listen *params, cJSON *spec, struct udp_listener **out,
                       struct l7mp_error *err)
{
	struct l7mp_listen one = *params;
	int rc;

	one.spec = spec;
	rc = listen_one(&one, out, err);
	if (rc || !l7mp_json_bool(l7mp_json_member(spec, "options"), "rtcp", false))
		return rc;
	rc = listen_rtcp(params, *out, spec, err);
	if (rc) {
		l7mp_shared_unlisten(&(*out)->shared.base);
		*out = NULL;
	}
	return rc;
}

/*
 * Whether a socket of this process has the port and the new listener can't use it. Saves an attempt
 * to bind.
 */
static bool is_taken(const struct l7mp_shared_table *table, const struct l7mp_listen *params,
                     unsigned port)
{
	const struct l7mp_shared_socket *s = table->buckets[port % L7MP_SHARED_BUCKETS];

	for (; s; s = s->next) {
		const struct udp_socket *u = (const struct udp_socket *)s;
		bool retiring = false;

		if (l7mp_addr_port(&u->bind_addr.addr) != port)
			continue;
		for (size_t i = 0; i < params->n_retiring; i++)
			retiring |= s->listener == (const void *)params->retiring[i];
		if (s->refs && s->listener && !retiring)
			return true;
	}
	return false;
}

/*
 * Finds the first free port of a range, or pair of an even port and the next. The search continues
 * where the last one ended, so that a released port stays unused for as long as possible: late
 * packets of an old call should not reach a new one. A listener that is replaced keeps its port.
 */
static int listen_range(const struct l7mp_listen *params, cJSON *spec, unsigned first,
                        unsigned last, struct udp_listener **out, struct l7mp_error *err)
{
	bool pair = l7mp_json_bool(l7mp_json_member(spec, "options"), "rtcp", false);
	struct udp_state *state = l7mp_proto_state(params->env, &l7mp_proto_udp, err);
	unsigned step = pair ? 2 : 1, n;
	int rc = -EADDRINUSE;

	if (!state)
		return -ENOMEM;
	first += pair && first % 2;
	n = last + 1 < first + step ? 0 : (last + 1 - first) / step;
	for (size_t i = 0; i < params->n_retiring; i++) {
		unsigned port = l7mp_addr_port(
		        &socket_of((struct udp_listener *)params->retiring[i])->bind_addr.addr);

		if (port < first || port >= first + n * step || (port - first) % step)
			continue;
		cJSON_SetNumberValue(l7mp_json_member(spec, "port"), port);
		if (!listen_pair(params, spec, out, NULL))
			return 0;
	}
	for (unsigned i = 0; i < n; i++) {
		unsigned port = first + (state->next_port++ % n) * step;

		if (is_taken(&state->table, params, port) ||
		    (pair && is_taken(&state->table, params, port + 1)))
			continue;
		cJSON_SetNumberValue(l7mp_json_member(spec, "port"), port);
		rc = listen_pair(params, spec, out, err);
		if (rc != -EADDRINUSE)
			return rc;
	}
	return l7mp_error_set(err, -EADDRINUSE, L7MP_ERR_REALISE, "port: %s is free in %u-%u",
	                      pair ? "no pair" : "none", first, last);
}

static int udp_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                      struct l7mp_error *err)
{
	const cJSON *port = l7mp_json_member(params->spec, "port");
	cJSON *spec = cJSON_Duplicate(params->spec, true);
	unsigned first = 0, last = 0;
	struct udp_listener *l = NULL;
	int rc;

	if (!spec)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	if (cJSON_IsString(port))
		(void)udp_port_range(port->valuestring, &first, &last);
	else if (!l7mp_json_num(spec, "port", 0) &&
	         l7mp_json_bool(l7mp_json_member(spec, "options"), "rtcp", false))
		first = FREE_FIRST, last = FREE_LAST;
	if (last) {
		rc = cJSON_ReplaceItemInObjectCaseSensitive(spec, "port", cJSON_CreateNumber(0))
		             ? listen_range(params, spec, first, last, &l, err)
		             : l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	} else {
		rc = listen_pair(params, spec, &l, err);
	}
	cJSON_Delete(spec);
	if (!rc)
		*out = &l->shared.base;
	return rc;
}

/*
 * A singleton takes over a session that its predecessor has left on the socket, if the peer
 * matches.
 */
static void adopt_session(struct udp_listener *l)
{
	struct l7mp_shared_session *p, *next;
	struct l7mp_addr peer, local;

	HASH_ITER (hh, l->shared.socket->sessions, p, next) {
		addrs_of(p, &peer, &local);
		if (!takes(l, &peer))
			continue;
		l7mp_shared_session_bind(&l->shared, p);
		return;
	}
}

static void udp_activate(struct l7mp_proto_listener *base)
{
	struct udp_listener *l = (struct udp_listener *)base;
	struct udp_socket *s = socket_of(l);

	if (l->rtcp)
		udp_activate(&l->rtcp->shared.base);

	/* The socket may be a predecessor's, with other options; a new one already has these. */
	(void)l7mp_socket_options_apply(l7mp_dgram_fd(s->shared.dgram), &l->options);
	set_tos(s, &l->options);
	if (s->ifindex != l->ifindex)
		(void)membership(s, s->ifindex, false);
	s->ifindex = l->ifindex;
	l7mp_shared_activate(base);
	if (l->mode != UDP_SINGLETON)
		return;
	adopt_session(l);
	if (l->peer_ip.len && l->peer_port && !l->shared.session)
		l7mp_shared_listener_start(&l->shared, 0);
}

static void udp_unlisten(struct l7mp_proto_listener *base)
{
	struct udp_listener *l = (struct udp_listener *)base;
	struct udp_socket *s = socket_of(l);

	if (l->rtcp)
		udp_unlisten(&l->rtcp->shared.base);
	/* It had joined the group for a change that was discarded. */
	if (s && !l7mp_shared_listener_active(&l->shared) && s->shared.successor == &l->shared &&
	    s->ifindex != l->ifindex)
		(void)membership(s, l->ifindex, false);
	l7mp_shared_unlisten(base);
}

static void udp_bound(const struct l7mp_proto_listener *base, cJSON *spec)
{
	l7mp_bind_addr_to_spec(&socket_of((const struct udp_listener *)base)->bind_addr, spec);
}

/* ---- tables ---- */

static const struct l7mp_field connect_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_ADDRESS,
         .doc = "only datagrams from this IP address are accepted; others are dropped and counted"},
        {.key = "port",
         .type = L7MP_T_INT,
         .min = 1,
         .max = 65535,
         .doc = "only datagrams from this port are accepted; others are dropped and counted"},
        {0},
};
static const struct l7mp_schema connect_schema = {
        .name = "udp-connect",
        .doc = "The peers that a UDP listener takes",
        .fields = connect_fields,
};

int udp_port_range(const char *text, unsigned *first, unsigned *last)
{
	int end = 0;

	if (sscanf(text, "%5u-%5u%n", first, last, &end) != 2 || text[end] || text[0] == '-' ||
	    text[strspn(text, "0123456789-")] || !*first || *last > UINT16_MAX || *first > *last)
		return -EINVAL;
	return 0;
}

static const struct l7mp_field port_number = {.type = L7MP_T_INT, .min = 0, .max = 65535};
static const struct l7mp_field port_range = {.type = L7MP_T_STRING, .min = 3, .max = 11};
static const struct l7mp_field *const port_alternatives[] = {&port_number, &port_range, NULL};

static const struct l7mp_field rtp_fields[] = {
        {.key = "clock_rate",
         .type = L7MP_T_INT,
         .min = 1,
         .max = 1000000,
         .def = "8000",
         .doc = "Hz, of payload types without a fixed one (96 to 127): 48000 for Opus, 90000 for "
                "video"},
        {0},
};
static const struct l7mp_schema rtp_schema = {
        .name = "udp-rtp",
        .doc = "Statistics of RTP",
        .fields = rtp_fields,
};
static const struct l7mp_field rtp_bool = {.type = L7MP_T_BOOL};
static const struct l7mp_field rtp_object = {.type = L7MP_T_OBJECT, .sub = &rtp_schema};
static const struct l7mp_field *const rtp_alternatives[] = {&rtp_bool, &rtp_object, NULL};

static const char *const modes[] = {"server", "singleton", NULL};
static const struct l7mp_field option_fields[] = {
        {.key = "mode",
         .type = L7MP_T_ENUM,
         .flags = L7MP_F_NOCASE,
         .values = modes,
         .doc = "server: a session per peer; singleton: one session, which starts at once when "
                "connect has address and port, else with the first peer's datagram. Default: "
                "singleton when connect has both"},
        {.key = "latch",
         .type = L7MP_T_ONEOF,
         .alternatives = udp_latch_listener,
         .doc = "one session, whose peer is the source of the first datagram; later ones from "
                "other sources are dropped and counted. After `idle_timeout` without data the "
                "session ends, and the next datagram begins another one"},
        {.key = "rtp",
         .type = L7MP_T_ONEOF,
         .alternatives = rtp_alternatives,
         .doc = "keep statistics of RTP (packets, loss, jitter, SSRC, payload type) of each "
                "session, in the kernel, too; shown in `stats.rtp`"},
        {.key = "rtcp",
         .type = L7MP_T_BOOL,
         .def = "false",
         .doc = "listen on the next port, too, for RTCP: its sessions go to the port after the "
                "endpoint's; with a range or 0 the port is an even one"},
        L7MP_SPEC_DSCP,
        L7MP_SPEC_RCVBUF(
                "the socket's receive buffer in bytes; 4 MiB if the kernel allows it; datagrams "
                "that the kernel drops because it is full are counted (receive-buffer)"),
        L7MP_SPEC_SNDBUF,
        L7MP_SPEC_REUSEPORT,
        {.key = "multicast_interface",
         .type = L7MP_T_STRING,
         .min = 1,
         .max = 15,
         .doc = "name of the interface on which the multicast group in `address` is joined; "
                "default: that of the route to it"},
        {0},
};
static const struct l7mp_schema options_schema = {
        .name = "udp-options",
        .doc = "How a UDP listener works",
        .fields = option_fields,
};

static const struct l7mp_field listener_fields[] = {
        L7MP_SPEC_LISTEN_ADDRESS,
        {.key = "port",
         .type = L7MP_T_ONEOF,
         .flags = L7MP_F_REQUIRED,
         .alternatives = port_alternatives,
         .doc = "port to listen on; 0 takes a free one, `\"30000-30999\"` a free one of a range, "
                "and GET shows which"},
        {.key = "connect",
         .type = L7MP_T_OBJECT,
         .sub = &connect_schema,
         .doc = "which peers are accepted"},
        {.key = "options",
         .type = L7MP_T_OBJECT,
         .sub = &options_schema,
         .doc = "mode and socket options"},
        {0},
};

static void check_listener(const cJSON *spec, const char *path, struct l7mp_issues *issues)
{
	const cJSON *connect = l7mp_json_member(spec, "connect");
	const cJSON *options = l7mp_json_member(spec, "options");
	const char *mode = l7mp_json_str(options, "mode", "server");
	const cJSON *port = l7mp_json_member(spec, "port");
	unsigned first, last;
	char at[256], got[80];

	if (cJSON_IsString(port) && udp_port_range(port->valuestring, &first, &last)) {
		snprintf(at, sizeof(at), "%s.port", path);
		l7mp_issues_add(issues, false, port, at,
		                "expected an integer in 0..65535 or a range like \"30000-30999\", "
		                "got %s",
		                l7mp_json_brief(port, got, sizeof(got)));
	}
	if (l7mp_json_member(options, "latch") && l7mp_json_member(options, "mode") &&
	    strcasecmp(mode, "singleton")) {
		snprintf(at, sizeof(at), "%s.options.latch", path);
		l7mp_issues_add(issues, false, options, at, "not with options.mode: server");
	}
	if (l7mp_json_member(options, "latch"))
		return;
	if (strcasecmp(mode, "singleton") || l7mp_json_member(connect, "address"))
		return;
	snprintf(at, sizeof(at), "%s.connect.address", path);
	l7mp_issues_add(issues, false, options, at, "required with options.mode: singleton");
}

static const struct l7mp_schema listener_spec = {
        .name = "udp-listener",
        .doc = "Receives UDP datagrams; a session per peer, answered from the address that the "
               "peer wrote to",
        .fields = listener_fields,
        .check = check_listener,
};

const struct l7mp_proto l7mp_proto_udp = {
        .desc =
                {
                        .name = "UDP",
                        .doc = "UDP datagrams over IPv4 and IPv6; a peer that is not reachable "
                               "does not end a session",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .flags = L7MP_PROTO_FORGEABLE | L7MP_PROTO_RESTORES,
                        .kind = L7MP_KIND_DATAGRAM,
                        .listener_spec = &listener_spec,
                        .cluster_spec = &udp_cluster_spec,
                        .endpoint_spec = &udp_endpoint_spec,
                        .idle_timeout = 60,
                },
        .start = udp_start,
        .stop = l7mp_shared_stop,
        .listen = udp_listen,
        .activate = udp_activate,
        .restore = udp_restore,
        .hand = l7mp_shared_hand,
        .unlisten = udp_unlisten,
        .bound = udp_bound,
        .connect = udp_connect,
};
