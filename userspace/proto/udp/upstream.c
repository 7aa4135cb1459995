/* SPDX-License-Identifier: MIT */
/*
 * UDP clusters: each session has its own connected socket, so that the kernel assigns received
 * datagrams to the session.
 *
 * An endpoint with a host name may have several addresses (names.c). With options.latch the
 * endpoint's peer is learnt (latch.c): such a socket is not connected, and source addresses are
 * compared in user space.
 *
 * With bind.port only one session at a time can have a socket. A newer session of the same client
 * address takes over the port, because a client that has changed its port has two sessions.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l7mp/dgram.h"
#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/protos.h"
#include "l7mp/util.h"
#include "net/net.h"
#include "udp.h"

#define RCVBUF (1 << 20)
/* The minimum time between two take-overs of a bind.port. */
#define TAKE_OVER_MS 1000

static void unlist(struct udp_upstream *u)
{
	struct udp_bound *b = u->bound;

	if (!b || !b->prev)
		return;
	DL_DELETE(b->state->bound, b);
	b->prev = b->next = NULL;
}

static void upstream_free(struct udp_upstream *u)
{
	l7mp_task_cancel(u->env->loop, &u->task);
	unlist(u);
	free(u->bound);
	free(u->latching);
	udp_names_free(u);
	if (u->dgram)
		l7mp_dgram_close(&u->dgram);
	free(u);
}

/* connect(2) returns EAGAIN when there is no free port; see udp(7), ip_local_port_range. */
static const char *reason_of(int err)
{
	return err == -EAGAIN ? "no local port is free (net.ipv4.ip_local_port_range)"
	                      : l7mp_errno_text(err);
}

void udp_upstream_finish(struct udp_upstream *u)
{
	struct l7mp_error err = {.code = L7MP_OK};
	const char *host = u->names ? u->names->host : "";

	if (u->err == -ECONNABORTED)
		l7mp_error_set(&err, u->err, L7MP_ERR_UPSTREAM,
		               "UDP: a newer session of the same client address has taken "
		               "bind.port over");
	else if (u->err && u->err != -EAFNOSUPPORT)
		l7mp_error_set(&err, u->err, l7mp_connect_code(u->err), "UDP %s: %s", host,
		               reason_of(u->err));
	else if (u->err)
		l7mp_error_set(&err, u->err, L7MP_ERR_UPSTREAM,
		               "UDP %s: it has no address of the family of bind.address", host);
	if (u->base.events)
		u->base.events->closed(u->base.owner, &err);
	upstream_free(u);
}

void udp_upstream_fail(struct udp_upstream *u, int rc)
{
	u->closing = true;
	u->err = rc;
	udp_upstream_finish(u);
}

void udp_upstream_opened(struct udp_upstream *u)
{
	u->open = true;
	l7mp_dgram_read(u->dgram, true);
	u->base.events->open(u->base.owner);
}

static void on_task(struct l7mp_task *t, void *arg)
{
	struct udp_upstream *u = arg;

	(void)t;
	if (u->closing)
		udp_upstream_finish(u);
	else if (!u->open)
		udp_upstream_opened(u);
	else if (u->names && u->names->refused)
		udp_names_move_on(u);
}

/* ---- callbacks of the datagram socket ---- */

static void on_recv(void *arg, struct l7mp_buf *buf, const struct l7mp_addr *from,
                    const struct l7mp_addr *to)
{
	struct udp_upstream *u = arg;

	/* A connected socket reports no source address. */
	if (u->latching && from->len && !udp_latching_accepts(u, buf, from, to)) {
		l7mp_buf_unref(buf);
		return;
	}
	if (u->names && u->names->addrs)
		udp_names_settle(u);
	u->base.events->data(u->base.owner, buf);
}

static void path_changed(const struct udp_upstream *u)
{
	if (u->base.events->path_changed)
		u->base.events->path_changed(u->base.owner);
}

static void on_lost(void *arg, int err, uint64_t tag, uint32_t len)
{
	struct udp_upstream *u = arg;

	(void)tag;
	if (udp_names_refused(u, err))
		return;
	if (err == -EMSGSIZE)
		path_changed(u);
	if (u->base.events->lost)
		u->base.events->lost(u->base.owner, err, 1, len);
	else
		l7mp_stats_drop(u->env->stats, l7mp_drop_from_errno(err), 1, len);
}

/*
 * An ICMP error about a datagram sent earlier. A peer that is unreachable now may be reachable
 * later, so the stream stays open.
 */
static void on_error(void *arg, int err)
{
	struct udp_upstream *u = arg;
	struct l7mp_addr peer, local;
	char text[L7MP_ADDR_STRLEN], message[256];
	uint32_t suppressed;

	if (udp_names_refused(u, err))
		return;
	/* ICMP "fragmentation needed" or "packet too big": the route's MTU has decreased. */
	if (err == -EMSGSIZE)
		path_changed(u);
	else if (u->base.events->unreachable)
		u->base.events->unreachable(u->base.owner, err);
	l7mp_stats_drop(u->env->stats, l7mp_drop_from_errno(err), 1, 0);
	if (!u->base.events->notice ||
	    !l7mp_log_allowed(&u->notice_limit, l7mp_loop_now(u->env->loop), 10000, 1, &suppressed))
		return;
	udp_key_addrs(&u->key, u->local_port, &peer, &local);
	l7mp_addr_str(&peer, text);
	if (suppressed)
		snprintf(message, sizeof(message), "%s: %s; %u more since the last notice", text,
		         l7mp_errno_text(err), suppressed);
	else
		snprintf(message, sizeof(message), "%s: %s", text, l7mp_errno_text(err));
	u->base.events->notice(u->base.owner, "datagram-refused", message);
}

static void on_dropped(void *arg, int err, uint32_t len)
{
	struct udp_upstream *u = arg;

	l7mp_stats_drop(u->env->stats, l7mp_drop_from_errno(err), 1, len);
}

static void on_overflow(void *arg, uint32_t packets)
{
	struct udp_upstream *u = arg;

	l7mp_stats_drop(u->env->stats, L7MP_DROP_RECEIVE_BUFFER, packets, 0);
}

static const struct l7mp_dgram_ops dgram_ops = {
        .recv = on_recv,
        .lost = on_lost,
        .error = on_error,
        .dropped = on_dropped,
        .overflow = on_overflow,
};

/* ---- operations ---- */

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct udp_upstream *u = (struct udp_upstream *)base;
	struct l7mp_addr peer, local;
	int rc = 0;

	if (u->closing)
		rc = -EPIPE;
	else if (!u->open)
		rc = -ENOTCONN;
	else if (buf->len > u->base.max_write)
		rc = -EMSGSIZE;
	if (rc) {
		l7mp_buf_unref(buf);
		return rc;
	}
	if (u->names && u->names->addrs)
		udp_names_keep(u, buf);
	if (!u->latching)
		return l7mp_dgram_send(u->dgram, buf, NULL, NULL, 0);
	udp_key_addrs(&u->key, u->local_port, &peer, &local);
	return l7mp_dgram_send(u->dgram, buf, &peer, &local, 0);
}

/*
 * Keep reading: the owner queues, or drops and counts. If reading stopped, the kernel would drop
 * without counting.
 */
static void op_pause(struct l7mp_stream *base, bool on)
{
	(void)base;
	(void)on;
}

static void op_shutdown(struct l7mp_stream *base, int code)
{
	(void)base;
	(void)code;
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct udp_upstream *u = (struct udp_upstream *)base;

	(void)abort;
	if (u->closing)
		return;
	u->closing = true;
	u->err = 0;
	unlist(u);
	udp_names_free(u);
	if (u->dgram)
		l7mp_dgram_close(&u->dgram);
	l7mp_task_post(u->env->loop, &u->task);
}

static int op_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct udp_upstream *u = (struct udp_upstream *)base;
	struct l7mp_addr peer;

	if (!u->dgram)
		return -ENOTCONN;
	udp_key_addrs(&u->key, u->local_port, &peer, out);
	return out->len ? 0 : l7mp_fd_local(l7mp_dgram_fd(u->dgram), out);
}

static void op_flow(struct l7mp_stream *base, struct l7mp_flow_end *out)
{
	struct udp_upstream *u = (struct udp_upstream *)base;

	memset(out, 0, sizeof(*out));
	if (!u->open || u->closing) {
		out->kind = L7MP_FLOW_NONE;
		out->reason = L7MP_REASON_NOT_ESTABLISHED;
		return;
	}
	out->kind = L7MP_FLOW_SOCKET;
	out->l4 = IPPROTO_UDP;
	out->tos = l7mp_socket_options_tos(&u->options);
	out->keep_tos = u->options.dscp_pass;
	udp_key_addrs(&u->key, u->local_port, &out->remote, &out->local);
	/* The learning time has passed: from now on the peer is the endpoint's address. */
	if (u->latching && !u->latching->received && !udp_latching_waits(u) &&
	    (l7mp_fd_local(l7mp_dgram_fd(u->dgram), &out->local) || l7mp_addr_is_any(&out->local)))
		out->local.len = 0;
	/*
	 * The first source must be seen here: if the kernel forwarded the endpoint's packets, a
	 * later source would look like the first one.
	 */
	if (u->latching && (udp_latching_waits(u) || !out->local.len)) {
		out->kind = L7MP_FLOW_NONE;
		out->reason = L7MP_REASON_NOT_ESTABLISHED;
	}
}

static size_t op_drain_now(struct l7mp_stream *s)
{
	struct udp_upstream *u = (struct udp_upstream *)s;

	return u->dgram ? l7mp_dgram_drain(u->dgram) : 0;
}

/* While an address of a name is not confirmed, the state is more than a socket. */
static int op_freeze(struct l7mp_stream *base, bool on)
{
	struct udp_upstream *u = (struct udp_upstream *)base;

	if (!u->open || u->closing || !u->dgram || (u->names && u->names->addrs))
		return on ? -ENOTCONN : 0;
	if (on)
		l7mp_dgram_flush(u->dgram);
	if (on && l7mp_dgram_waiting(u->dgram))
		return -EBUSY;
	l7mp_dgram_read(u->dgram, !on);
	return 0;
}

static void op_save(struct l7mp_stream *base, struct l7mp_stream_saved *out)
{
	const struct udp_upstream *u = (const struct udp_upstream *)base;

	*out = (struct l7mp_stream_saved){.fd = l7mp_dgram_fd(u->dgram)};
}

static void op_release(struct l7mp_stream *base)
{
	op_close(base, false);
}

static const struct l7mp_stream_ops stream_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
        .flow = op_flow,
        .local = op_local,
        .drain_now = op_drain_now,
        .freeze = op_freeze,
        .save = op_save,
        .release = op_release,
};

/* ---- connecting ---- */

/* Opens the socket. With `latching` it is bound but not connected. */
static int open_fd(const struct l7mp_addr *remote, const struct l7mp_addr *local, bool latching,
                   struct l7mp_socket_options *opt)
{
	struct l7mp_addr any = *local;
	const int one = 1;
	int rc, family = l7mp_addr_family(remote);
	int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	rc = l7mp_socket_options_apply(fd, opt);
	if (latching && !any.len)
		l7mp_addr_any(&any, family, 0);
	/* A peer is learnt only within the endpoint's family. */
	if (!rc && latching && family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)))
		rc = -errno;
	if (!rc && any.len && bind(fd, &any.sa, any.len))
		rc = errno == EADDRINUSE && !l7mp_addr_port(&any) ? -EAGAIN : -errno;
	/* From now on the kernel delivers only datagrams of this peer. */
	if (!rc && !latching && connect(fd, &remote->sa, remote->len))
		rc = -errno;
	if (rc) {
		close(fd);
		return rc;
	}
	return fd;
}

static bool was_displaced(const struct udp_bound *b, uint64_t session)
{
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(b->displaced); i++)
		if (b->displaced[i] == session)
			return true;
	return false;
}

/* Ends an older session of the same client with this local address. False: there is none. */
static bool take_over(struct udp_upstream *u, const struct l7mp_addr *local)
{
	struct udp_bound *me = u->bound, *b;
	uint64_t now = l7mp_loop_now(u->env->loop);

	if (!me || !me->client.len)
		return false;
	DL_FOREACH (me->state->bound, b)
		if (l7mp_addr_equal(&b->local, local))
			break;
	if (!b || !b->client.len || !l7mp_addr_equal_ip(&b->client, &me->client) ||
	    was_displaced(b, me->session) || (b->taken_ms && now - b->taken_ms < TAKE_OVER_MS))
		return false;
	memcpy(me->displaced + 1, b->displaced, sizeof(me->displaced) - sizeof(me->displaced[0]));
	me->displaced[0] = b->session;
	me->taken_ms = now;
	op_close(&b->upstream->base, true);
	b->upstream->err = -ECONNABORTED;
	return true;
}

static void list(struct udp_upstream *u, const struct l7mp_addr *local)
{
	struct udp_bound *b = u->bound;

	if (!b)
		return;
	b->local = *local;
	if (!b->prev)
		DL_APPEND(b->state->bound, b);
}

/* Uses a connected socket (taken, also on failure) that was bound to `requested`. */
static int use_socket(struct udp_upstream *u, int fd, const struct l7mp_addr *remote,
                      const struct l7mp_addr *requested)
{
	unsigned flags = L7MP_DGRAM_GRO | L7MP_DGRAM_GSO | (u->latching ? L7MP_DGRAM_PKTINFO : 0);
	struct l7mp_addr local;
	struct l7mp_dgram *dgram;
	int rc = l7mp_fd_local(fd, &local);

	if (rc) {
		close(fd);
		return rc;
	}
	rc = l7mp_dgram_new(u->env->loop, fd, flags, UINT16_MAX, &dgram_ops, u, &dgram);
	if (rc)
		return rc;
	l7mp_dgram_send_tos(dgram, u->options.dscp_pass);
	if (u->dgram)
		l7mp_dgram_close(&u->dgram);
	u->dgram = dgram;
	list(u, requested);
	u->local_port = l7mp_addr_port(&local);
	if (u->latching && !u->latching->received)
		local.len = 0;
	if (u->latching && !u->latching->meant.len)
		u->latching->meant = *remote;
	udp_key_set(&u->key, remote, &local);
	u->base.max_write = u->key.family == AF_INET ? UDP_MAX4 : UDP_MAX6;
	if (u->open)
		l7mp_dgram_read(u->dgram, true);
	return 0;
}

/* Returns the address to bind to: the cluster's `bind`; for RTCP its port plus one. */
static int local_for(const struct udp_upstream *u, const cJSON *bind, int family,
                     struct l7mp_addr *out)
{
	int rc = l7mp_bind_for_family(bind, family, out);

	if (!rc && l7mp_addr_port(out))
		l7mp_addr_set_port(out, (uint16_t)(l7mp_addr_port(out) + u->rtcp));
	return rc;
}

#define OTHER_PORTS 8 /* that are tried instead of one that is taken */

static bool is_taken(const struct udp_upstream *u, int fd, const struct l7mp_addr *remote)
{
	struct l7mp_addr local;

	return u->env->is_taken && !l7mp_fd_local(fd, &local) &&
	       u->env->is_taken(u->env, IPPROTO_UDP, &local, remote);
}

/* Like open_fd. If the kernel chooses a port that it relays for an earlier process: another one. */
static int open_free(const struct udp_upstream *u, const struct l7mp_addr *remote,
                     const struct l7mp_addr *local, struct l7mp_socket_options *opt)
{
	int taken[OTHER_PORTS], n = 0;
	int fd = open_fd(remote, local, u->latching, opt);

	while (fd >= 0 && n < OTHER_PORTS && !u->latching && !l7mp_addr_port(local) &&
	       is_taken(u, fd, remote)) {
		taken[n++] = fd; /* stays open, so that it is not chosen again */
		fd = open_fd(remote, local, false, opt);
	}
	while (n)
		close(taken[--n]);
	return fd;
}

int udp_upstream_connect_to(struct udp_upstream *u, const struct l7mp_addr *remote,
                            const cJSON *bind)
{
	struct l7mp_addr local, requested;
	int fd, rc = local_for(u, bind, l7mp_addr_family(remote), &local);

	if (rc)
		return rc;
	/* A fixed port can't be bound twice. */
	if (u->dgram && l7mp_addr_port(&local))
		l7mp_dgram_close(&u->dgram);
	requested = local;
	fd = open_free(u, remote, &local, &u->options);
	if (fd == -EADDRINUSE && take_over(u, &requested))
		fd = open_fd(remote, &local, u->latching, &u->options);
	return fd < 0 ? fd : use_socket(u, fd, remote, &requested);
}

/* For a cluster with bind.port: records the session and its client. */
static int bound_new(struct udp_upstream *u, const struct l7mp_connect *p)
{
	const cJSON *bind = l7mp_json_member(p->cluster_spec, "bind");
	const char *source = l7mp_json_str(l7mp_json_member(p->metadata, "IP"), "src_addr", "");
	struct udp_bound *b;

	if (!l7mp_json_num(bind, "port", 0))
		return 0;
	b = u->bound = calloc(1, sizeof(*b));
	if (!b)
		return -ENOMEM;
	b->upstream = u;
	b->state = l7mp_proto_state(p->env, &l7mp_proto_udp, NULL);
	b->session = l7mp_hash(p->session, strlen(p->session));
	if (l7mp_addr_parse(&b->client, source, 0))
		b->client.len = 0;
	return b->state ? 0 : -ENOMEM;
}

uint16_t udp_upstream_port(const struct udp_upstream *u, const struct l7mp_connect *p)
{
	return (uint16_t)(l7mp_spec_connect_port(p) + u->rtcp);
}

/* An inherited socket with options.latch is not connected. */
static int connect_again(int fd, const struct l7mp_addr *remote)
{
	struct l7mp_addr peer;
	socklen_t len = sizeof(peer.un);

	if (!getpeername(fd, &peer.sa, &len))
		return 0;
	return connect(fd, &remote->sa, remote->len) ? -errno : 0;
}

/*
 * Continues with the socket of a previous process, or one with the same addresses. A learnt peer is
 * kept; its local address is known only then, see struct udp_latching.
 */
static int start_restored(struct udp_upstream *u, const struct l7mp_connect *p)
{
	struct l7mp_restore_end *end = p->restore;
	struct l7mp_addr requested;
	int fd = end->fd, rc;

	if (u->latching)
		u->latching->received = u->latching->settled = end->local.len > 0;
	else if (fd >= 0 && (rc = connect_again(fd, &end->remote)))
		return rc;
	rc = local_for(u, l7mp_json_member(p->cluster_spec, "bind"), l7mp_addr_family(&end->remote),
	               &requested);
	if (!rc && fd < 0)
		fd = open_fd(&end->remote, &end->local, u->latching, &u->options);
	if (rc || fd < 0)
		return rc ? rc : fd;
	end->fd = -1;
	rc = use_socket(u, fd, &end->remote, &requested);
	if (!rc && u->latching)
		udp_key_set(&u->key, &end->remote, &end->local);
	return rc;
}

/* Whether the session is connected to an address of the endpoint, or may have learnt its peer. */
static bool is_meant(const struct udp_upstream *u, const struct l7mp_connect *p, bool numeric,
                     const struct l7mp_addr *addr)
{
	const struct l7mp_restore_end *end = p->restore;

	if (u->latching && end->local.len && p->same_endpoint &&
	    (!u->latching->latch.same_address || !numeric ||
	     l7mp_addr_equal_ip(addr, &end->remote)))
		return true;
	if (numeric)
		return l7mp_addr_equal(addr, &end->remote);
	return p->same_endpoint && l7mp_addr_port(&end->remote) == udp_upstream_port(u, p);
}

static int start(struct udp_upstream *u, const struct l7mp_connect *p)
{
	struct l7mp_addr remote;
	bool numeric = !l7mp_addr_parse(&remote, p->address, udp_upstream_port(u, p));
	int rc;

	if (!udp_upstream_port(u, p))
		return -EADDRNOTAVAIL;
	rc = udp_latching_new(u, p);
	if (rc)
		return rc;
	if (u->latching && numeric)
		u->latching->meant = remote;
	if (p->restore && !is_meant(u, p, numeric, &remote))
		return -EXDEV;
	l7mp_socket_options_read(l7mp_json_member(p->cluster_spec, "options"), &u->options);
	u->options.reuseport = false;
	if (!u->options.rcvbuf)
		u->options.rcvbuf = RCVBUF;
	rc = bound_new(u, p);
	if (rc)
		return rc;
	if (!p->restore && !numeric)
		return udp_names_start(u, p);
	if (p->restore && !numeric &&
	    l7mp_json_num(l7mp_json_member(p->cluster_spec, "options"), "dns_refresh", 0)) {
		if (!udp_names_new(u, p))
			return -ENOMEM;
		udp_names_refresh_later(u);
	}
	rc = p->restore ? start_restored(u, p)
	                : udp_upstream_connect_to(u, &remote,
	                                          l7mp_json_member(p->cluster_spec, "bind"));
	if (!rc)
		l7mp_task_post(u->env->loop, &u->task);
	return rc;
}

int udp_connect(const struct l7mp_connect *p, struct l7mp_stream **out, struct l7mp_error *err)
{
	struct udp_upstream *u;
	int rc;

	if (!p->address)
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_UPSTREAM,
		                      "UDP: the endpoint has no address");
	u = calloc(1, sizeof(*u));
	if (!u)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	u->base.ops = &stream_ops;
	u->base.kind = L7MP_KIND_DATAGRAM;
	u->env = p->env;
	u->rtcp = cJSON_IsTrue(l7mp_json_member(l7mp_json_member(p->metadata, "UDP"), "rtcp"));
	l7mp_task_init(&u->task, on_task, u);
	rc = start(u, p);
	if (rc) {
		unsigned port = l7mp_spec_connect_port(p) + u->rtcp;

		upstream_free(u);
		return l7mp_error_set(err, rc, l7mp_connect_code(rc),
		                      "UDP connect to %s port %u: %s", p->address, port,
		                      reason_of(rc));
	}
	*out = &u->base;
	return 0;
}
