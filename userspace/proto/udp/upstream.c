/* SPDX-License-Identifier: MIT */
/*
 * UDP clusters: each session has its own connected socket, so that the kernel assigns received
 * datagrams to the session.
 *
 * The addresses of a host name are tried one after the other, those of the client's family first,
 * until one answers. On a refusal (an ICMP error) the next address is used, and unanswered
 * datagrams are sent again to it. With options.dns_refresh the name is looked up periodically, and
 * a session whose address is no longer among the answers moves to another one.
 *
 * With options.latch the endpoint's peer is learnt, because behind NAT it sends from another
 * address than the one in its spec: such a socket is not connected, and source addresses are
 * compared here.
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
#include "l7mp/resolve.h"
#include "l7mp/util.h"
#include "net/net.h"
#include "udp.h"

#define RCVBUF (1 << 20)
/* Datagrams kept until the server has answered, to be sent again to another address. */
#define KEPT_MAX   8
#define KEPT_BYTES (64 << 10)
/* When all addresses have refused, they are tried in turn, at most one per this time. */
#define MOVE_AGAIN_MS 1000

/* The state of an endpoint with a host name; freed when the address is final. */
struct names {
	char *host;
	cJSON *bind; /* the cluster's, NULL: none */
	struct l7mp_resolve *resolve;
	struct l7mp_timer timer; /* the next look-up */
	uint64_t refresh_ms;     /* 0: look-ups only at connect */
	uint16_t port;
	int family;              /* tried first */
	struct l7mp_addr *addrs; /* until one has answered; then NULL */
	size_t n, next;
	bool resend;  /* first round: refused datagrams are sent to the next address */
	bool refused; /* the task is to change to the next address */
	uint64_t moved_ms;
	struct l7mp_buf *kept[KEPT_MAX];
	unsigned n_kept;
	size_t kept_bytes;
};

/* The minimum time between two take-overs of a bind.port. */
#define TAKE_OVER_MS 1000

/* An upstream whose cluster has a bind.port. */
struct udp_bound {
	struct udp_bound *prev, *next; /* of the protocol's state; prev NULL: not connected */
	struct udp_state *state;
	struct udp_upstream *upstream;
	struct l7mp_addr local;  /* local address that it is bound to */
	struct l7mp_addr client; /* address of the session's client; len 0: none */
	uint64_t session;        /* a hash of the session's name */
	uint64_t taken_ms;       /* when it took the port from another session; 0: it did not */
	uint64_t displaced[8];   /* sessions that had the port before; they don't get it back */
};

/* An upstream whose cluster has options.latch. */
struct udp_learning {
	struct udp_latch latch;
	const struct l7mp_shared_table *table; /* the listeners' sockets: never a peer */
	struct l7mp_addr meant;       /* the endpoint's address: destination until `heard` */
	uint64_t began_ms;            /* loop time of the session's start */
	struct l7mp_log_limit events; /* limits change events: sources may alternate within the
	                               * window */
	bool heard;                   /* the key's peer has sent, to the key's local address */
	bool settled;                 /* ... and no other source may replace it */
};

struct udp_upstream {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct l7mp_dgram *dgram;
	struct names *names;           /* NULL: a numeric address, or no addresses left to try */
	struct udp_bound *bound;       /* NULL: no bind.port */
	struct udp_learning *learning; /* NULL: the peer is the endpoint's address */
	struct udp_key key; /* peer and local address, once connected; local not before `heard` */
	uint16_t local_port;
	bool rtcp; /* metadata UDP.rtcp: ports are one higher than in the specs */
	bool open, closing;
	int err;
	struct l7mp_socket_options options;
	struct l7mp_log_limit notice_limit;
	struct l7mp_task task; /* emits `open` or `closed`, or changes to another address */
};

static void forget_kept(struct names *n)
{
	while (n->n_kept)
		l7mp_buf_unref(n->kept[--n->n_kept]);
	n->kept_bytes = 0;
}

static void names_free(struct udp_upstream *u)
{
	struct names *n = u->names;

	if (!n)
		return;
	if (n->resolve)
		l7mp_resolve_cancel(&n->resolve);
	l7mp_timer_stop(u->env->loop, &n->timer);
	forget_kept(n);
	cJSON_Delete(n->bind);
	free(n->addrs);
	free(n->host);
	free(n);
	u->names = NULL;
}

/* The address in use is confirmed, or the only one. */
static void settle(struct udp_upstream *u)
{
	struct names *n = u->names;

	if (!n->refresh_ms) {
		names_free(u);
		return;
	}
	forget_kept(n);
	free(n->addrs);
	n->addrs = NULL;
	n->n = n->next = 0;
	n->refused = false;
}

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
	free(u->learning);
	names_free(u);
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

static void finish(struct udp_upstream *u)
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

static void move_on(struct udp_upstream *u);

static void on_task(struct l7mp_task *t, void *arg)
{
	struct udp_upstream *u = arg;

	(void)t;
	if (u->closing) {
		finish(u);
		return;
	}
	if (u->open) {
		if (u->names && u->names->refused)
			move_on(u);
		return;
	}
	u->open = true;
	l7mp_dgram_read(u->dgram, true);
	u->base.events->open(u->base.owner);
}

/* ---- more than one address ---- */

/* Keeps a copy of a sent datagram until the server has answered. */
static void keep(struct names *n, struct l7mp_buf *buf)
{
	struct l7mp_buf *copy;

	if (!n->resend || n->n_kept >= KEPT_MAX || n->kept_bytes + buf->len > KEPT_BYTES)
		return;
	copy = l7mp_buf_compact(l7mp_buf_ref(buf));
	if (!copy)
		return;
	n->kept[n->n_kept++] = copy;
	n->kept_bytes += copy->len;
}

/* Handles an error of the address in use. Returns true when the next one is to be tried. */
static bool tries_next(struct udp_upstream *u, int err)
{
	struct names *n = u->names;

	err = err < 0 ? -err : err;
	if (!n || !n->addrs || n->n < 2 || u->closing ||
	    (err != ECONNREFUSED && err != ENETUNREACH && err != EHOSTUNREACH))
		return false;
	if (!n->resend && l7mp_loop_now(u->env->loop) - n->moved_ms < MOVE_AGAIN_MS)
		return false;
	if (!n->refused)
		l7mp_task_post(u->env->loop, &u->task);
	n->refused = true;
	return n->resend && n->next < n->n;
}

/* ---- learning the peer ---- */

/* Nothing was received so far, and the first source may still differ from the endpoint. */
static bool waits_for_first(const struct udp_upstream *u)
{
	const struct udp_learning *l = u->learning;

	return !l->heard && l7mp_loop_now(u->env->loop) - l->began_ms < l->latch.timeout_ms;
}

/* Whether another source may become the peer. If not, *why is set. */
static bool may_be_peer(const struct udp_upstream *u, const struct l7mp_addr *from,
                        const struct l7mp_addr *to, enum l7mp_drop *why)
{
	const struct udp_learning *l = u->learning;
	bool meant = l7mp_addr_equal(from, &l->meant);

	*why = L7MP_DROP_PEER;
	if (u->closing || !l7mp_addr_port(from) || l->settled)
		return false;
	if (l->heard && !udp_latch_is_open(&l->latch, l7mp_loop_now(u->env->loop)))
		return false;
	if (meant)
		return true;
	if (!l->heard && !waits_for_first(u))
		return false;
	if (l->latch.same_address && !l7mp_addr_equal_ip(from, &l->meant))
		return false;
	/* An owner that can't be notified can't change addresses: JSONSocket, for its handshake. */
	if (!u->base.events->moved)
		return false;
	*why = L7MP_DROP_LOOP;
	return !udp_from_ourselves(l->table, from, to);
}

/*
 * Whether the datagram is for the session: from the peer, or from a source that becomes the peer.
 * The peer may send to another local address, and is then answered from that.
 */
static bool comes_from_peer(struct udp_upstream *u, const struct l7mp_buf *buf,
                            const struct l7mp_addr *from, const struct l7mp_addr *to)
{
	struct udp_learning *l = u->learning;
	struct l7mp_addr peer, local;
	char text[L7MP_ADDR_STRLEN];
	enum l7mp_drop why;
	struct udp_key key;
	uint32_t suppressed;
	bool another;

	udp_key_set(&key, from, to);
	if (l->heard && !memcmp(&key, &u->key, sizeof(key)))
		return true;
	udp_key_addrs(&u->key, u->local_port, &peer, &local);
	another = !l->heard || !l7mp_addr_equal(&peer, from);
	if (another && !may_be_peer(u, from, to, &why)) {
		l7mp_stats_drop(u->env->stats, why, 1, buf->len);
		return false;
	}
	if (!l->heard)
		l->latch.since_ms = l7mp_loop_now(u->env->loop);
	l->heard = true;
	/* The endpoint's own address is confirmed: no other source may replace it. */
	l->settled = l->settled || l7mp_addr_equal(from, &l->meant);
	u->key = key;
	if (another && u->base.events->notice &&
	    l7mp_log_allowed(&l->events, l7mp_loop_now(u->env->loop), 10000, 8, &suppressed))
		u->base.events->notice(u->base.owner, "LATCHED", l7mp_addr_str(from, text));
	/* The flow for the previous addresses must be removed. */
	if (u->base.events->moved)
		u->base.events->moved(u->base.owner);
	return true;
}

/* ---- callbacks of the datagram socket ---- */

static void on_recv(void *arg, struct l7mp_buf *buf, const struct l7mp_addr *from,
                    const struct l7mp_addr *to)
{
	struct udp_upstream *u = arg;

	/* A connected socket reports no source address. */
	if (u->learning && from->len && !comes_from_peer(u, buf, from, to)) {
		l7mp_buf_unref(buf);
		return;
	}
	if (u->names && u->names->addrs)
		settle(u);
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
	if (tries_next(u, err))
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

	if (tries_next(u, err))
		return;
	/* ICMP "fragmentation needed" or "packet too big": the route's MTU has decreased. */
	if (err == -EMSGSIZE)
		path_changed(u);
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
		keep(u->names, buf);
	if (!u->learning)
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
	names_free(u);
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
	if (u->learning && !u->learning->heard && !waits_for_first(u) &&
	    (l7mp_fd_local(l7mp_dgram_fd(u->dgram), &out->local) || l7mp_addr_is_any(&out->local)))
		out->local.len = 0;
	/*
	 * The first source must be seen here: if the kernel forwarded the endpoint's packets, a
	 * later source would look like the first one.
	 */
	if (u->learning && (waits_for_first(u) || !out->local.len)) {
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

/* Opens the socket. With `learning` it is bound but not connected. */
static int open_fd(const struct l7mp_addr *remote, const struct l7mp_addr *local, bool learning,
                   struct l7mp_socket_options *opt)
{
	struct l7mp_addr any = *local;
	const int one = 1;
	int rc, family = l7mp_addr_family(remote);
	int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	rc = l7mp_socket_options_apply(fd, opt);
	if (learning && !any.len)
		l7mp_addr_any(&any, family, 0);
	/* A peer is learnt only within the endpoint's family. */
	if (!rc && learning && family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)))
		rc = -errno;
	if (!rc && any.len && bind(fd, &any.sa, any.len))
		rc = errno == EADDRINUSE && !l7mp_addr_port(&any) ? -EAGAIN : -errno;
	/* From now on the kernel delivers only datagrams of this peer. */
	if (!rc && !learning && connect(fd, &remote->sa, remote->len))
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

/* Uses a connected socket (taken, also on failure) that was bound to `asked`. */
static int use_socket(struct udp_upstream *u, int fd, const struct l7mp_addr *remote,
                      const struct l7mp_addr *asked)
{
	unsigned flags = L7MP_DGRAM_GRO | L7MP_DGRAM_GSO | (u->learning ? L7MP_DGRAM_PKTINFO : 0);
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
	list(u, asked);
	u->local_port = l7mp_addr_port(&local);
	if (u->learning && !u->learning->heard)
		local.len = 0;
	if (u->learning && !u->learning->meant.len)
		u->learning->meant = *remote;
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

static int connect_to(struct udp_upstream *u, const struct l7mp_addr *remote, const cJSON *bind)
{
	struct l7mp_addr local, asked;
	int fd, rc = local_for(u, bind, l7mp_addr_family(remote), &local);

	if (rc)
		return rc;
	/* A fixed port can't be bound twice. */
	if (u->dgram && l7mp_addr_port(&local))
		l7mp_dgram_close(&u->dgram);
	asked = local;
	fd = open_fd(remote, &local, u->learning, &u->options);
	if (fd == -EADDRINUSE && take_over(u, &asked))
		fd = open_fd(remote, &local, u->learning, &u->options);
	return fd < 0 ? fd : use_socket(u, fd, remote, &asked);
}

/*
 * Takes the resolver's answer: addresses of the preferred family first, otherwise in their order.
 */
static int take_addrs(struct names *n, const struct l7mp_addr *addrs, size_t count)
{
	size_t k = 0;

	free(n->addrs);
	n->n = n->next = 0;
	n->addrs = malloc(count * sizeof(*addrs));
	if (!n->addrs)
		return -ENOMEM;
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < count; i++)
			if ((l7mp_addr_family(&addrs[i]) == n->family) == !pass)
				n->addrs[k++] = addrs[i];
	n->n = count;
	return 0;
}

/* Connects to the next usable address. Returns 0, or the error of the last one. */
static int connect_next(struct udp_upstream *u)
{
	struct names *n = u->names;
	int rc = -ENOENT;

	while (n->next < n->n) {
		rc = connect_to(u, &n->addrs[n->next++], n->bind);
		if (!rc)
			return 0;
	}
	return rc;
}

static void tell_moved(struct udp_upstream *u, const struct l7mp_addr *from, const char *why)
{
	struct l7mp_addr to, local;
	char a[L7MP_ADDR_STRLEN], b[L7MP_ADDR_STRLEN], text[512];

	udp_key_addrs(&u->key, u->local_port, &to, &local);
	snprintf(text, sizeof(text), "%.200s: %s %s, now %s", u->names->host,
	         l7mp_addr_str(from, a), why, l7mp_addr_str(&to, b));
	if (u->base.events->moved)
		u->base.events->moved(u->base.owner);
	if (u->base.events->notice)
		u->base.events->notice(u->base.owner, "moved", text);
}

static void fail(struct udp_upstream *u, int rc)
{
	u->closing = true;
	u->err = rc;
	finish(u);
}

/* The address in use has refused datagrams before it ever answered. */
static void move_on(struct udp_upstream *u)
{
	struct names *n = u->names;
	struct l7mp_addr from, local;
	unsigned kept = n->n_kept;
	int rc;

	n->refused = false;
	udp_key_addrs(&u->key, u->local_port, &from, &local);
	if (n->next == n->n) {
		n->next = 0;
		n->resend = false;
		kept = 0;
		forget_kept(n);
	}
	n->moved_ms = l7mp_loop_now(u->env->loop);
	rc = connect_next(u);
	if (rc) {
		fail(u, rc);
		return;
	}
	for (unsigned i = 0; i < kept; i++) {
		struct l7mp_buf *again = l7mp_buf_slice(n->kept[i], 0, n->kept[i]->len);

		if (again)
			(void)l7mp_dgram_send(u->dgram, again, NULL, NULL, 0);
	}
	tell_moved(u, &from, "refused");
}

static void schedule_refresh(struct udp_upstream *u)
{
	struct names *n = u->names;

	if (n && n->refresh_ms)
		(void)l7mp_timer_start(u->env->loop, &n->timer, n->refresh_ms);
}

/* Handles a later look-up. The session keeps its address unless the name no longer has it. */
static void on_refreshed(void *arg, int err, const struct l7mp_addr *addrs, size_t count)
{
	struct udp_upstream *u = arg;
	struct names *n = u->names;
	struct l7mp_addr from, local;
	int rc;

	(void)err;
	n->resolve = NULL;
	schedule_refresh(u);
	udp_key_addrs(&u->key, u->local_port, &from, &local);
	for (size_t i = 0; i < count; i++)
		if (l7mp_addr_equal(&addrs[i], &from))
			return;
	if (!count || take_addrs(n, addrs, count))
		return;
	rc = connect_next(u);
	if (rc && u->dgram) {
		settle(u);
		return;
	}
	if (rc) {
		fail(u, rc);
		return;
	}
	n->resend = true;
	tell_moved(u, &from, "has gone");
}

static void refresh_cb(struct l7mp_timer *timer, void *arg)
{
	struct udp_upstream *u = arg;
	struct names *n = u->names;

	(void)timer;
	if (n->resolve || l7mp_resolve_start(u->env->loop, n->host, n->port, AF_UNSPEC,
	                                     on_refreshed, u, &n->resolve))
		schedule_refresh(u);
}

static void on_resolved(void *arg, int err, const struct l7mp_addr *addrs, size_t count)
{
	struct udp_upstream *u = arg;
	struct names *n = u->names;

	n->resolve = NULL;
	u->err = err ? err : -ENOENT;
	if (count)
		u->err = take_addrs(n, addrs, count);
	if (!u->err)
		u->err = connect_next(u);
	if (u->err) {
		finish(u);
		return;
	}
	n->resend = true;
	/* Only a session that can be notified may change its address later. */
	if (!u->base.events->moved)
		n->refresh_ms = 0;
	/* An unconnected socket does not get ICMP errors. */
	if (n->n < 2 || u->learning)
		settle(u);
	schedule_refresh(u);
	on_task(&u->task, u);
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

/* Returns the endpoint's port; for RTCP the one after RTP's (RFC 3550, section 11). 0: none. */
static uint16_t port_of(const struct udp_upstream *u, const struct l7mp_connect *p)
{
	return (uint16_t)(l7mp_spec_connect_port(p) + u->rtcp);
}

static struct names *names_new(struct udp_upstream *u, const struct l7mp_connect *p)
{
	const cJSON *bind = l7mp_json_member(p->cluster_spec, "bind");
	const cJSON *options = l7mp_json_member(p->cluster_spec, "options");
	const char *source = l7mp_json_str(l7mp_json_member(p->metadata, "IP"), "src_addr", "");
	struct names *n = calloc(1, sizeof(*n));
	struct l7mp_addr addr;

	if (!n)
		return NULL;
	u->names = n;
	l7mp_timer_init(&n->timer, refresh_cb, u);
	n->port = port_of(u, p);
	n->refresh_ms = (uint64_t)(1000 * l7mp_json_num(options, "dns_refresh", 0));
	n->family = l7mp_addr_parse(&addr, source, 0) ? AF_UNSPEC : l7mp_addr_family(&addr);
	n->host = strdup(p->address);
	n->bind = bind ? cJSON_Duplicate(bind, true) : NULL;
	return n->host && (!bind || n->bind) ? n : NULL;
}

static int start_names(struct udp_upstream *u, const struct l7mp_connect *p)
{
	struct names *n = names_new(u, p);

	return n ? l7mp_resolve_start(u->env->loop, n->host, n->port, AF_UNSPEC, on_resolved, u,
	                              &n->resolve)
	         : -ENOMEM;
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
 * Continues with the socket of an earlier process, or one with the same addresses. A learnt peer is
 * kept; its local address is known only then, see struct udp_learning.
 */
static int start_restored(struct udp_upstream *u, const struct l7mp_connect *p)
{
	struct l7mp_restore_end *end = p->restore;
	struct l7mp_addr asked;
	int fd = end->fd, rc;

	if (u->learning)
		u->learning->heard = u->learning->settled = end->local.len > 0;
	else if (fd >= 0 && (rc = connect_again(fd, &end->remote)))
		return rc;
	rc = local_for(u, l7mp_json_member(p->cluster_spec, "bind"), l7mp_addr_family(&end->remote),
	               &asked);
	if (!rc && fd < 0)
		fd = open_fd(&end->remote, &end->local, u->learning, &u->options);
	if (rc || fd < 0)
		return rc ? rc : fd;
	end->fd = -1;
	rc = use_socket(u, fd, &end->remote, &asked);
	if (!rc && u->learning)
		udp_key_set(&u->key, &end->remote, &end->local);
	return rc;
}

/* Whether the session is connected to an address of the endpoint, or may have learnt its peer. */
static bool is_meant(const struct udp_upstream *u, const struct l7mp_connect *p, bool numeric,
                     const struct l7mp_addr *addr)
{
	const struct l7mp_restore_end *end = p->restore;

	if (u->learning && end->local.len && p->same_endpoint &&
	    (!u->learning->latch.same_address || !numeric ||
	     l7mp_addr_equal_ip(addr, &end->remote)))
		return true;
	if (numeric)
		return l7mp_addr_equal(addr, &end->remote);
	return p->same_endpoint && l7mp_addr_port(&end->remote) == port_of(u, p);
}

/* For a cluster with options.latch. */
static int learning_new(struct udp_upstream *u, const struct l7mp_connect *p)
{
	struct udp_state *state = l7mp_proto_state(p->env, &l7mp_proto_udp, NULL);
	struct udp_latch latch;

	udp_latch_read(l7mp_json_member(p->cluster_spec, "options"), &latch);
	if (!latch.on)
		return 0;
	u->learning = calloc(1, sizeof(*u->learning));
	if (!u->learning || !state)
		return -ENOMEM;
	u->learning->latch = latch;
	u->learning->began_ms = l7mp_loop_now(p->env->loop);
	u->learning->table = &state->table;
	return 0;
}

static int start(struct udp_upstream *u, const struct l7mp_connect *p)
{
	struct l7mp_addr remote;
	bool numeric = !l7mp_addr_parse(&remote, p->address, port_of(u, p));
	int rc;

	if (!port_of(u, p))
		return -EADDRNOTAVAIL;
	rc = learning_new(u, p);
	if (rc)
		return rc;
	if (u->learning && numeric)
		u->learning->meant = remote;
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
		return start_names(u, p);
	if (p->restore && !numeric &&
	    l7mp_json_num(l7mp_json_member(p->cluster_spec, "options"), "dns_refresh", 0)) {
		if (!names_new(u, p))
			return -ENOMEM;
		schedule_refresh(u);
	}
	rc = p->restore ? start_restored(u, p)
	                : connect_to(u, &remote, l7mp_json_member(p->cluster_spec, "bind"));
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

/* ---- tables ---- */

static const struct l7mp_field option_fields[] = {
        {.key = "latch",
         .type = L7MP_T_ONEOF,
         .alternatives = udp_latch_cluster,
         .doc = "each session learns its endpoint's address: the first source that writes to "
                "it is the peer, and is sent to from then on, as the one in the spec may be "
                "behind NAT; later ones from other sources are dropped and counted. The kernel "
                "takes over when the peer is known"},
        L7MP_SPEC_DSCP,
        L7MP_SPEC_RCVBUF("a session's receive buffer in bytes; 1 MiB if the kernel allows it"),
        L7MP_SPEC_SNDBUF,
        {.key = "dns_refresh",
         .type = L7MP_T_NUMBER,
         .min = 0,
         .max = 86400,
         .def = "0",
         .doc = "seconds after which the name of the endpoint is looked up again for running "
                "sessions: one whose address is no longer among the answers moves to another; "
                "0: only at connect. An answer is used for its TTL, at least a second"},
        {0},
};
static const struct l7mp_schema options_schema = {
        .name = "udp-cluster-options",
        .doc = "Options of a UDP cluster's sockets",
        .fields = option_fields,
};

static void check_cluster(const cJSON *spec, const char *path, struct l7mp_issues *issues)
{
	const cJSON *options = l7mp_json_member(spec, "options");
	struct udp_latch latch;
	char at[256];

	udp_latch_read(options, &latch);
	if (!latch.on || l7mp_json_num(options, "dns_refresh", 0) <= 0)
		return;
	snprintf(at, sizeof(at), "%s.options.latch", path);
	l7mp_issues_add(
	        issues, false, options, at,
	        "not with options.dns_refresh: the peer is who writes, not who has the name");
}

static const struct l7mp_field cluster_fields[] = {
        L7MP_SPEC_ENDPOINT_PORT,
        L7MP_SPEC_BIND,
        {.key = "options", .type = L7MP_T_OBJECT, .sub = &options_schema, .doc = "socket options"},
        {0},
};
const struct l7mp_schema udp_cluster_spec = {
        .name = "udp-cluster",
        .doc = "Sends to a UDP server from a connected socket of each session's own",
        .fields = cluster_fields,
        .check = check_cluster,
};

static const struct l7mp_field endpoint_fields[] = {
        L7MP_SPEC_ENDPOINT_HOST,
        L7MP_SPEC_ENDPOINT_OWN_PORT,
        {0},
};
const struct l7mp_schema udp_endpoint_spec = {
        .name = "udp-endpoint",
        .doc = "A UDP server",
        .fields = endpoint_fields,
};
