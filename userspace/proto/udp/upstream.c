/* SPDX-License-Identifier: MIT */
/*
 * UDP clusters: each session has a connected socket of its own towards the server, so that the
 * kernel assigns what comes in to its session.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l7mp/dgram.h"
#include "l7mp/log.h"
#include "l7mp/resolve.h"
#include "net/net.h"
#include "udp.h"

#define RCVBUF (1 << 20)

struct udp_upstream {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct l7mp_dgram *dgram;
	struct l7mp_resolve *resolve;
	struct udp_key key; /* peer and local address, once connected */
	uint16_t local_port;
	bool open, closing;
	int err;
	char *host;  /* until resolved, for messages; then NULL */
	cJSON *bind; /* until connected; then NULL */
	struct l7mp_socket_options options;
	struct l7mp_log_limit notice_limit;
	struct l7mp_task task; /* emits `open` or `closed` */
};

static void upstream_free(struct udp_upstream *u)
{
	l7mp_task_cancel(u->env->loop, &u->task);
	if (u->resolve)
		l7mp_resolve_cancel(&u->resolve);
	if (u->dgram)
		l7mp_dgram_close(&u->dgram);
	cJSON_Delete(u->bind);
	free(u->host);
	free(u);
}

static void finish(struct udp_upstream *u)
{
	struct l7mp_error err = {.code = L7MP_OK};

	if (u->err && u->err != -EAFNOSUPPORT)
		l7mp_error_set(&err, u->err, l7mp_connect_code(u->err), "UDP %s: %s",
		               u->host ? u->host : "", l7mp_errno_text(u->err));
	else if (u->err)
		l7mp_error_set(&err, u->err, L7MP_ERR_UPSTREAM,
		               "UDP %s: it has no address of the family of bind.address",
		               u->host ? u->host : "");
	if (u->base.events)
		u->base.events->closed(u->base.owner, &err);
	upstream_free(u);
}

static void on_task(struct l7mp_task *t, void *arg)
{
	struct udp_upstream *u = arg;

	(void)t;
	if (u->closing) {
		finish(u);
		return;
	}
	u->open = true;
	l7mp_dgram_read(u->dgram, true);
	u->base.events->open(u->base.owner);
}

/* ---- the engine's callbacks ---- */

static void on_recv(void *arg, struct l7mp_buf *buf, const struct l7mp_addr *from,
                    const struct l7mp_addr *to)
{
	struct udp_upstream *u = arg;

	(void)from;
	(void)to;
	u->base.events->data(u->base.owner, buf);
}

static void on_lost(void *arg, int err, uint64_t tag, uint32_t len)
{
	struct udp_upstream *u = arg;

	(void)tag;
	if (u->base.events->lost)
		u->base.events->lost(u->base.owner, err, 1, len);
	else
		l7mp_stats_drop(u->env->stats, l7mp_drop_from_errno(err), 1, len);
}

/*
 * An ICMP error about a datagram that was sent earlier. A peer that can't be reached now may be
 * reachable later, so that the stream goes on.
 */
static void on_error(void *arg, int err)
{
	struct udp_upstream *u = arg;
	struct l7mp_addr peer, local;
	char text[L7MP_ADDR_STRLEN], message[256];
	uint32_t suppressed;

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
	return l7mp_dgram_send(u->dgram, buf, NULL, NULL, 0);
}

/* The owner queues, or drops and counts; if reading stopped, the kernel would drop uncounted. */
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
	if (u->resolve)
		l7mp_resolve_cancel(&u->resolve);
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
	return 0;
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
	if (u->options.dscp >= 0) {
		out->kind = L7MP_FLOW_NONE;
		out->reason = L7MP_REASON_DSCP;
		return;
	}
	out->kind = L7MP_FLOW_SOCKET;
	out->l4 = IPPROTO_UDP;
	udp_key_addrs(&u->key, u->local_port, &out->remote, &out->local);
}

static size_t op_drain_now(struct l7mp_stream *s)
{
	struct udp_upstream *u = (struct udp_upstream *)s;

	return u->dgram ? l7mp_dgram_drain(u->dgram) : 0;
}

static const struct l7mp_stream_ops stream_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
        .flow = op_flow,
        .local = op_local,
        .drain_now = op_drain_now,
};

/* ---- connecting ---- */

static int open_fd(const struct l7mp_addr *remote, const struct l7mp_addr *local,
                   struct l7mp_socket_options *opt)
{
	int rc, family = l7mp_addr_family(remote);
	int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	rc = l7mp_socket_options_apply(fd, opt);
	if (!rc && local->len && bind(fd, &local->sa, local->len))
		rc = -errno;
	/* From now on the kernel delivers only datagrams of this peer. */
	if (!rc && connect(fd, &remote->sa, remote->len))
		rc = -errno;
	if (rc) {
		close(fd);
		return rc;
	}
	return fd;
}

static int connect_to(struct udp_upstream *u, const struct l7mp_addr *remote)
{
	struct l7mp_addr local;
	int fd, rc = l7mp_bind_for_family(u->bind, l7mp_addr_family(remote), &local);

	if (rc)
		return rc;
	fd = open_fd(remote, &local, &u->options);
	if (fd < 0)
		return fd;
	rc = l7mp_fd_local(fd, &local);
	if (rc) {
		close(fd);
		return rc;
	}
	rc = l7mp_dgram_new(u->env->loop, fd, L7MP_DGRAM_GRO | L7MP_DGRAM_GSO, UINT16_MAX,
	                    &dgram_ops, u, &u->dgram);
	if (rc)
		return rc;
	udp_key_set(&u->key, remote, &local);
	u->local_port = l7mp_addr_port(&local);
	u->base.max_write = u->key.family == AF_INET ? UDP_MAX4 : UDP_MAX6;
	cJSON_Delete(u->bind);
	u->bind = NULL;
	return 0;
}

static void on_resolved(void *arg, int err, const struct l7mp_addr *addrs, size_t n)
{
	struct udp_upstream *u = arg;

	u->resolve = NULL;
	u->err = err ? err : -ENOENT;
	for (size_t i = 0; i < n; i++) {
		u->err = connect_to(u, &addrs[i]);
		if (!u->err)
			break;
	}
	if (u->err) {
		finish(u);
		return;
	}
	free(u->host);
	u->host = NULL;
	on_task(&u->task, u);
}

static int start(struct udp_upstream *u, const struct l7mp_connect *p)
{
	const cJSON *bind = l7mp_json_member(p->cluster_spec, "bind");
	uint16_t port = l7mp_spec_port(p->cluster_spec);
	struct l7mp_addr remote;
	int rc;

	l7mp_socket_options_read(l7mp_json_member(p->cluster_spec, "options"), &u->options);
	u->options.reuseport = false;
	if (!u->options.rcvbuf)
		u->options.rcvbuf = RCVBUF;
	u->host = strdup(p->address);
	u->bind = bind ? cJSON_Duplicate(bind, true) : NULL;
	if (!u->host || (bind && !u->bind))
		return -ENOMEM;
	if (l7mp_addr_parse(&remote, p->address, port))
		return l7mp_resolve_start(u->env->loop, p->address, port, AF_UNSPEC, on_resolved, u,
		                          &u->resolve);
	rc = connect_to(u, &remote);
	if (rc)
		return rc;
	free(u->host);
	u->host = NULL;
	l7mp_task_post(u->env->loop, &u->task);
	return 0;
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
	l7mp_task_init(&u->task, on_task, u);
	rc = start(u, p);
	if (rc) {
		upstream_free(u);
		return l7mp_error_set(err, rc, l7mp_connect_code(rc),
		                      "UDP connect to %s port %u: %s", p->address,
		                      l7mp_spec_port(p->cluster_spec), l7mp_errno_text(rc));
	}
	*out = &u->base;
	return 0;
}

/* ---- tables ---- */

static const struct l7mp_field option_fields[] = {
        L7MP_SPEC_DSCP,
        L7MP_SPEC_RCVBUF("a session's receive buffer in bytes; 1 MiB if the kernel allows it"),
        L7MP_SPEC_SNDBUF,
        {0},
};
static const struct l7mp_schema options_schema = {
        .name = "udp-cluster-options",
        .doc = "Options of a UDP cluster's sockets",
        .fields = option_fields,
};

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
};

static const struct l7mp_field endpoint_fields[] = {
        L7MP_SPEC_ENDPOINT_HOST,
        {0},
};
const struct l7mp_schema udp_endpoint_spec = {
        .name = "udp-endpoint",
        .doc = "A UDP server",
        .fields = endpoint_fields,
};
