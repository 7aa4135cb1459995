/* SPDX-License-Identifier: MIT */
/* UDP listeners: which peers they take, and the sessions they emit. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l7mp/log.h"
#include "l7mp/protos.h"
#include "l7mp/util.h"
#include "udp_int.h"

/* A singleton whose session could not start tries again after this. */
#define START_AGAIN_MS 1000

static void drop(struct udp_listener *l, enum l7mp_drop reason, struct l7mp_buf *buf)
{
	if (!buf)
		return;
	l7mp_stats_drop(l->state->env->stats, reason, 1, buf->len);
	l7mp_buf_unref(buf);
}

static bool takes(const struct udp_listener *l, const struct l7mp_addr *peer)
{
	if (l->peer_port && l->peer_port != l7mp_addr_port(peer))
		return false;
	return !l->peer_ip.len || l7mp_addr_equal_ip(&l->peer_ip, peer);
}

/* Emits a session, with its first datagram when there is one (takes buf). 0, or why not. */
static int emit(struct udp_listener *l, struct l7mp_buf *buf, const struct l7mp_addr *peer,
                const struct l7mp_addr *local)
{
	struct l7mp_env *env = l->state->env;
	struct udp_sock *sock = l->sock;
	struct l7mp_accept a = {.peer = *peer, .never_idle = l->mode == UDP_SINGLETON};
	struct udp_key key;
	struct udp_peer *p;

	if (l->base.events->admit && l->base.events->admit(l->base.arg, peer)) {
		drop(l, L7MP_DROP_LIMIT, buf);
		return -EBUSY;
	}
	udp_key_set(&key, peer, local);
	p = udp_peer_new(sock, &key);
	if (!p) {
		drop(l, L7MP_DROP_MEMORY, buf);
		return -ENOMEM;
	}
	if (l->mode == UDP_SINGLETON) {
		l->one = p;
		p->one = l;
	}
	a.stream = &p->base;
	a.name = l7mp_inet_name("UDP", peer, local, sock->state->last_id);
	a.metadata = l7mp_inet_metadata("UDP", peer, local);
	/* The owner may do anything in accept, also delete this listener: only p is sure to be there still. */
	if (!l7mp_accept_emit(&l->base, &a) || p->closing) {
		if (buf)
			l7mp_stats_drop(env->stats, L7MP_DROP_NO_MATCH, 1, buf->len);
		l7mp_buf_unref(buf);
	} else if (buf) {
		p->base.events->data(p->base.owner, buf);
	}
	return 0;
}

void udp_listener_first(struct udp_listener *l, struct l7mp_buf *buf, const struct l7mp_addr *from,
                        const struct l7mp_addr *to)
{
	struct l7mp_addr peer, local;
	struct udp_key key;

	if (!l->active || !takes(l, from) || !l7mp_addr_port(from)) {
		drop(l, L7MP_DROP_PEER, buf);
		return;
	}
	if (!l->one) {
		(void)emit(l, buf, from, to->len ? to : &l->sock->bind_addr.addr);
		return;
	}
	/* A singleton's peer may write to any address of ours, and is answered from there. */
	udp_key_addrs(&l->one->key, 0, &peer, &local);
	if (!l7mp_addr_equal(&peer, from)) {
		drop(l, L7MP_DROP_PEER, buf);
		return;
	}
	udp_key_set(&key, from, to);
	udp_peer_rekey(l->one, &key);
	l->one->base.events->data(l->one->base.owner, buf);
}

/* ---- a singleton's start ---- */

/* The address that the kernel would use towards the peer. */
static int route_local(const struct l7mp_addr *peer, struct l7mp_addr *out)
{
	int rc, fd = socket(l7mp_addr_family(peer), SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	rc = connect(fd, &peer->sa, peer->len) ? -errno : l7mp_fd_local(fd, out);
	close(fd);
	return rc;
}

static void start_singleton(struct l7mp_timer *t, void *arg)
{
	struct udp_listener *l = arg;
	struct l7mp_addr peer = l->peer_ip, local = l->sock->bind_addr.addr;
	char text[L7MP_ADDR_STRLEN];
	int rc = 0;

	if (l->one)
		return;
	l7mp_addr_set_port(&peer, l->peer_port);
	if (l7mp_addr_is_any(&local))
		rc = route_local(&peer, &local);
	l7mp_addr_set_port(&local, l7mp_addr_port(&l->sock->bind_addr.addr));
	if (!rc && !emit(l, NULL, &peer, &local))
		return;
	if (rc)
		l7mp_log_warn("udp", "%s: can't reach %s: %s, trying again", l->name,
		              l7mp_addr_str(&peer, text), l7mp_errno_text(rc));
	(void)l7mp_timer_start(l->state->env->loop, t, START_AGAIN_MS);
}

/* ---- operations ---- */

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
	bool both = l->peer_ip.len && l->peer_port;

	if (mode)
		l->mode = strcasecmp(mode, "singleton") ? UDP_SERVER : UDP_SINGLETON;
	else
		l->mode = both ? UDP_SINGLETON : UDP_SERVER;
	udp_options_read(o, &l->options);
}

int udp_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
               struct l7mp_error *err)
{
	struct udp_state *st = l7mp_proto_state(params->env, &l7mp_proto_udp, err);
	struct l7mp_bind_addr want;
	struct udp_listener *l;
	int rc;

	if (!st)
		return -ENOMEM;
	l = calloc(1, sizeof(*l));
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	l->base = (struct l7mp_proto_listener){
	        .proto = &l7mp_proto_udp, .events = params->events, .arg = params->arg};
	l->state = st;
	l7mp_timer_init(&l->timer, start_singleton, l);
	l->name = strdup(params->name ? params->name : "");
	rc = l->name ? l7mp_bind_addr_from_spec(params->spec, &want, err)
	             : l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	if (!rc)
		rc = read_connect(l, params->spec, &want, err);
	if (!rc) {
		read_options(l, params->spec);
		rc = udp_sock_get(st, &want, params, &l->options, &l->sock, err);
	}
	if (rc) {
		free(l->name);
		free(l);
		return rc;
	}
	l->sock->heir = l;
	*out = &l->base;
	return 0;
}

/* Sessions of the listener before this one keep their place: also a singleton's only one. */
static void take_over(struct udp_listener *l)
{
	struct udp_peer *p, *next;
	struct l7mp_addr peer, local;

	if (l->mode != UDP_SINGLETON)
		return;
	HASH_ITER (hh, l->sock->peers, p, next) {
		udp_key_addrs(&p->key, 0, &peer, &local);
		if (!takes(l, &peer))
			continue;
		if (p->one)
			p->one->one = NULL;
		p->one = l;
		l->one = p;
		return;
	}
}

void udp_activate(struct l7mp_proto_listener *base)
{
	struct udp_listener *l = (struct udp_listener *)base;

	l->active = true;
	l->sock->listener = l;
	l->sock->heir = NULL;
	/* For a socket that was taken over; a new one has them already. */
	if (l->sock->marks && l->options.dscp < 0)
		l->options.dscp = 0; /* the socket of the one before it must unlearn it */
	(void)udp_prepare(l7mp_dgram_fd(l->sock->dgram), &l->options);
	l->sock->marks = l->options.dscp >= 0;
	take_over(l);
	l7mp_dgram_read(l->sock->dgram, true);
	/* Not from inside activate: the change that brings this listener is not done yet. */
	if (l->mode == UDP_SINGLETON && l->peer_ip.len && l->peer_port && !l->one &&
	    l7mp_timer_start(l->state->env->loop, &l->timer, 0))
		l7mp_log_error("udp", "%s: out of memory", l->name);
}

void udp_unlisten(struct l7mp_proto_listener *base)
{
	struct udp_listener *l = (struct udp_listener *)base;

	l7mp_timer_stop(l->state->env->loop, &l->timer);
	if (l->one)
		l->one->one = NULL;
	if (l->sock->heir == l)
		l->sock->heir = NULL;
	if (l->sock->listener == l)
		l->sock->listener = NULL;
	udp_sock_unref(&l->sock);
	free(l->name);
	free(l);
}

void udp_bound(const struct l7mp_proto_listener *base, cJSON *spec)
{
	l7mp_bind_addr_to_spec(&((const struct udp_listener *)base)->sock->bind_addr, spec);
}
