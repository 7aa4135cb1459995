/* SPDX-License-Identifier: MIT */
/*
 * UDP listeners: all sessions of a listener share its socket (socket.c). In server mode each peer
 * has a session, in singleton mode there is one session, with one peer.
 */
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/net.h"
#include "udp.h"

/* Room for a burst of small datagrams while the loop is busy; the kernel's overhead counts, too. */
#define RCVBUF (4 << 20)
/* After this time a singleton whose session could not be started retries. */
#define START_AGAIN_MS 1000
/* Default for dynamic payload types: the clock rate of telephone events and G.711. */
#define RTP_CLOCK_RATE 8000

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
	const struct l7mp_bind_addr *bound = &udp_listener_socket(l)->bind_addr;
	int family = l7mp_addr_family(local);

	if (l7mp_addr_family(peer) != family ||
	    l7mp_addr_port(local) != l7mp_addr_port(&bound->addr))
		return false;
	if (!l7mp_addr_is_any(&bound->addr))
		return l7mp_addr_equal_ip(&bound->addr, local) && takes(l, peer);
	return (bound->dual || l7mp_addr_family(&bound->addr) == family) && takes(l, peer);
}

int udp_restore(struct l7mp_proto_listener *base, const char *name, struct l7mp_restore_end *end,
                struct l7mp_accept *a, struct l7mp_error *err)
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

static void warn_loop(const struct udp_listener *l, const struct l7mp_addr *from)
{
	char text[L7MP_ADDR_STRLEN];

	l7mp_shared_socket_warn(l->shared.socket, "udp", l->shared.name,
	                        "datagrams from one of our own listeners are dropped: they would "
	                        "loop");
	l7mp_log_verbose("udp", "%s: such a datagram from %s", l->shared.name,
	                 l7mp_addr_str(from, text));
}

static void drop_looping(const struct udp_listener *l, struct l7mp_buf *buf,
                         const struct l7mp_addr *from)
{
	warn_loop(l, from);
	l7mp_shared_socket_drop(l->shared.socket, L7MP_DROP_LOOP, buf);
}

/*
 * Handles a datagram from another source than the session's peer; takes buf. The source becomes
 * the peer if options.latch allows it: the first sources may differ from the final one (a phone
 * that changes networks during call set-up).
 */
static void latch_again(struct udp_listener *l, struct l7mp_shared_session *p, struct l7mp_buf *buf,
                        const struct l7mp_addr *from, const struct l7mp_addr *to)
{
	struct udp_key key;
	char text[L7MP_ADDR_STRLEN];

	if (!udp_latch_is_open(&l->latch, l7mp_loop_now(l->shared.env->loop)) || p->closing) {
		l7mp_shared_socket_drop(l->shared.socket, L7MP_DROP_PEER, buf);
		return;
	}
	if (udp_from_ourselves(l->shared.socket->table, from, to)) {
		drop_looping(l, buf, from);
		return;
	}
	udp_key_set(&key, from, to->len ? to : &udp_listener_socket(l)->bind_addr.addr);
	l7mp_shared_session_rekey(p, &key);
	l7mp_shared_session_notice(p, "LATCHED", l7mp_addr_str(from, text));
	/* The flow for the previous peer must be removed. */
	if (p->base.events->moved)
		p->base.events->moved(p->base.owner);
	l7mp_shared_deliver(p, buf);
}

void udp_listener_first(struct udp_listener *l, struct l7mp_buf *buf, const struct l7mp_addr *from,
                        const struct l7mp_addr *to)
{
	struct l7mp_shared_session *p = l->shared.session;
	struct l7mp_addr peer, local;
	struct udp_key key;

	if (!takes(l, from) || !l7mp_addr_port(from)) {
		l7mp_shared_socket_drop(l->shared.socket, L7MP_DROP_PEER, buf);
		return;
	}
	if (!p && udp_from_ourselves(l->shared.socket->table, from, to)) {
		drop_looping(l, buf, from);
		return;
	}
	if (!p) {
		(void)emit(l, buf, from, to->len ? to : &udp_listener_socket(l)->bind_addr.addr);
		return;
	}
	/*
	 * The peer of a singleton may send to another local address, and is answered from that
	 * address.
	 */
	memcpy(&key, p->key, sizeof(key));
	udp_key_addrs(&key, 0, &peer, &local);
	if (!l7mp_addr_equal(&peer, from)) {
		latch_again(l, p, buf, from, to);
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

void udp_listener_start(struct l7mp_shared_listener *base)
{
	struct udp_listener *l = (struct udp_listener *)base;
	struct udp_socket *s = udp_listener_socket(l);
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

/* ---- the spec ---- */

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

int udp_listener_open(struct l7mp_shared_listener *base, struct l7mp_shared_table *table,
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
	return udp_socket_get(table, &want, params, l, out, err);
}

/* ---- operations ---- */

/*
 * A singleton takes over a session that its predecessor has left on the socket, if the peer
 * matches.
 */
static void adopt_session(struct udp_listener *l)
{
	struct l7mp_shared_session *p, *next;
	struct l7mp_addr peer, local;

	HASH_ITER (hh, l->shared.socket->sessions, p, next) {
		udp_session_addrs(p, &peer, &local);
		if (!takes(l, &peer))
			continue;
		l7mp_shared_session_bind(&l->shared, p);
		return;
	}
}

void udp_activate(struct l7mp_proto_listener *base)
{
	struct udp_listener *l = (struct udp_listener *)base;
	struct udp_socket *s = udp_listener_socket(l);

	if (l->rtcp)
		udp_activate(&l->rtcp->shared.base);

	/* The socket may be a predecessor's, with other options; a new one already has these. */
	(void)l7mp_socket_options_apply(l7mp_dgram_fd(s->shared.dgram), &l->options);
	udp_socket_set_tos(s, &l->options);
	if (s->ifindex != l->ifindex)
		(void)udp_socket_membership(s, s->ifindex, false);
	s->ifindex = l->ifindex;
	l7mp_shared_activate(base);
	if (l->mode != UDP_SINGLETON)
		return;
	adopt_session(l);
	if (l->peer_ip.len && l->peer_port && !l->shared.session)
		l7mp_shared_listener_start(&l->shared, 0);
}

void udp_unlisten(struct l7mp_proto_listener *base)
{
	struct udp_listener *l = (struct udp_listener *)base;
	struct udp_socket *s = udp_listener_socket(l);

	if (l->rtcp)
		udp_unlisten(&l->rtcp->shared.base);
	/* It had joined the group for a change that was discarded. */
	if (s && !l7mp_shared_listener_active(&l->shared) && s->shared.successor == &l->shared &&
	    s->ifindex != l->ifindex)
		(void)udp_socket_membership(s, l->ifindex, false);
	l7mp_shared_unlisten(base);
}

void udp_bound(const struct l7mp_proto_listener *base, cJSON *spec)
{
	l7mp_bind_addr_to_spec(&udp_listener_socket((const struct udp_listener *)base)->bind_addr,
	                       spec);
}
