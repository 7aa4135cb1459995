/* SPDX-License-Identifier: MIT */
/* The shared socket of a UDP listener: finding the session of a datagram. */
#include <errno.h>
#include <netinet/ip.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "l7mp/log.h"
#include "udp_int.h"

/* A burst of small datagrams should fit while the loop is busy; the kernel counts its own overhead too. */
#define RCVBUF (4 << 20)

static void on_recv(void *arg, struct l7mp_buf *buf, const struct l7mp_addr *from,
                    const struct l7mp_addr *to)
{
	struct udp_sock *s = arg;
	struct udp_peer *p = s->last;
	struct udp_key key;

	udp_key_set(&key, from, to);
	if (!p || memcmp(&p->key, &key, sizeof(key))) {
		p = udp_peer_find(s, &key);
		s->last = p;
	}
	if (p) {
		p->base.events->data(p->base.owner, buf);
		return;
	}
	if (s->listener) {
		udp_listener_first(s->listener, buf, from, to);
		return;
	}
	/* The listener was deleted; only its sessions still use the socket. */
	l7mp_stats_drop(s->state->env->stats, L7MP_DROP_PEER, 1, buf->len);
	l7mp_buf_unref(buf);
}

static void on_lost(void *arg, int err, uint64_t tag, uint32_t len)
{
	struct udp_sock *s = arg;
	struct udp_peer *p = udp_peer_find_tag(s, tag);

	if (p && p->base.events->lost)
		p->base.events->lost(p->base.owner, err, 1, len);
	else
		l7mp_stats_drop(s->state->env->stats, l7mp_drop_from_errno(err), 1, len);
}

static void on_error(void *arg, int err)
{
	struct udp_sock *s = arg;
	char text[L7MP_ADDR_STRLEN];
	uint32_t suppressed;

	if (!l7mp_log_allowed(&s->log_limit, l7mp_loop_now(s->state->env->loop), 10000, 3,
	                      &suppressed))
		return;
	l7mp_log_warn("udp", "%s: %s (%u like it not logged)",
	              l7mp_addr_str(&s->bind_addr.addr, text), l7mp_errno_text(err), suppressed);
}

static void on_dropped(void *arg, int err, uint32_t len)
{
	struct udp_sock *s = arg;

	l7mp_stats_drop(s->state->env->stats, l7mp_drop_from_errno(err), 1, len);
}

static void on_overflow(void *arg, uint32_t packets)
{
	struct udp_sock *s = arg;

	l7mp_stats_drop(s->state->env->stats, L7MP_DROP_RECEIVE_BUFFER, packets, 0);
}

static const struct l7mp_dgram_ops sock_ops = {
        .recv = on_recv,
        .lost = on_lost,
        .error = on_error,
        .dropped = on_dropped,
        .overflow = on_overflow,
};

static int set_buf(int fd, int force, int plain, int bytes)
{
	/* With CAP_NET_ADMIN beyond net.core.*mem_max, else what that allows. */
	if (!setsockopt(fd, SOL_SOCKET, force, &bytes, sizeof(bytes)))
		return 0;
	return setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof(bytes)) ? -errno : 0;
}

void udp_options_read(const cJSON *options, struct udp_options *out)
{
	out->rcvbuf = (int)l7mp_json_num(options, "rcvbuf", 0);
	out->sndbuf = (int)l7mp_json_num(options, "sndbuf", 0);
	out->dscp = (int)l7mp_json_num(options, "dscp", -1);
	out->reuseport = l7mp_json_bool(options, "reuseport", false);
}

int udp_prepare(int fd, void *arg)
{
	const struct udp_options *opt = arg;
	int on = 1, tos = opt->dscp * 4, family, rc;
	socklen_t len = sizeof(family);

	rc = set_buf(fd, SO_RCVBUFFORCE, SO_RCVBUF, opt->rcvbuf ? opt->rcvbuf : RCVBUF);
	if (rc)
		return rc;
	if (opt->sndbuf) {
		rc = set_buf(fd, SO_SNDBUFFORCE, SO_SNDBUF, opt->sndbuf);
		if (rc)
			return rc;
	}
	if (opt->reuseport && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)))
		return -errno;
	if (opt->dscp < 0)
		return 0;
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len))
		return -errno;
	if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof(tos)))
		return -errno;
	/* Also on IPv6 sockets, for the IPv4 peers of a dual-stack one. */
	if (setsockopt(fd, IPPROTO_IP, IP_TOS, &tos, sizeof(tos)) && family == AF_INET)
		return -errno;
	return 0;
}

static struct udp_sock **bucket(struct udp_state *st, const struct l7mp_bind_addr *w)
{
	return &st->socks[l7mp_addr_port(&w->addr) % UDP_SOCK_BUCKETS];
}

static bool is_retiring(const struct l7mp_listen *params, const struct udp_listener *l)
{
	for (size_t i = 0; i < params->n_retiring; i++)
		if (params->retiring[i] == &l->base)
			return true;
	return false;
}

/* A socket that only sessions use any more, or one whose listener goes with this change. */
static struct udp_sock *adopt(struct udp_state *st, const struct l7mp_bind_addr *want,
                              const struct l7mp_listen *params)
{
	struct udp_sock *s;

	DL_FOREACH (*bucket(st, want), s) {
		if (l7mp_bind_addr_same(want, &s->bind_addr) && !s->heir &&
		    (!s->listener || is_retiring(params, s->listener)))
			return s;
	}
	return NULL;
}

int udp_sock_get(struct udp_state *st, const struct l7mp_bind_addr *want,
                 const struct l7mp_listen *params, const struct udp_options *opt,
                 struct udp_sock **out, struct l7mp_error *err)
{
	struct udp_sock *s = adopt(st, want, params);
	struct udp_options options = *opt;
	int fd, rc;

	if (s) {
		s->refs++;
		*out = s;
		return 0;
	}
	s = calloc(1, sizeof(*s));
	if (!s)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	fd = l7mp_bind_addr_socket(want, SOCK_DGRAM, udp_prepare, &options, &s->bind_addr, err);
	if (fd < 0) {
		free(s);
		return fd;
	}
	rc = l7mp_dgram_new(st->env->loop, fd, L7MP_DGRAM_PKTINFO | L7MP_DGRAM_GRO | L7MP_DGRAM_GSO,
	                    UINT16_MAX, &sock_ops, s, &s->dgram);
	if (rc) {
		free(s);
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE, "port %u: %s",
		                      l7mp_addr_port(&want->addr), l7mp_errno_text(rc));
	}
	s->state = st;
	s->refs = 1;
	s->marks = opt->dscp >= 0;
	DL_APPEND(*bucket(st, &s->bind_addr), s);
	*out = s;
	return 0;
}

void udp_sock_unref(struct udp_sock **sp)
{
	struct udp_sock *s = *sp;

	*sp = NULL;
	if (!s || --s->refs)
		return;
	DL_DELETE(*bucket(s->state, &s->bind_addr), s);
	l7mp_dgram_close(&s->dgram);
	free(s);
}
