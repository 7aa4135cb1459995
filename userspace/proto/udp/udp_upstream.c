/* SPDX-License-Identifier: MIT */
/* The upstream side of a UDP session: a connected socket of its own. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l7mp/resolve.h"
#include "l7mp/util.h"
#include "udp_int.h"

#define RCVBUF (1 << 20)

struct udp_up {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct l7mp_dgram *dgram;
	struct l7mp_resolve *resolve;
	struct udp_key key; /* peer and local address, once connected */
	uint16_t local_port;
	bool open, closing;
	int err;
	char *host;  /* until resolved; for messages */
	cJSON *bind; /* until connected */
	struct udp_options options;
	struct l7mp_log_limit notice_limit;
	struct l7mp_task task; /* open, or closed */
};

static void up_free(struct udp_up *u)
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

static void finish(struct udp_up *u)
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
	up_free(u);
}

static void on_task(struct l7mp_task *t, void *arg)
{
	struct udp_up *u = arg;

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
	struct udp_up *u = arg;

	(void)from;
	(void)to;
	u->base.events->data(u->base.owner, buf);
}

static void on_lost(void *arg, int err, uint64_t tag, uint32_t len)
{
	struct udp_up *u = arg;

	(void)tag;
	if (u->base.events->lost)
		u->base.events->lost(u->base.owner, err, 1, len);
	else
		l7mp_stats_drop(u->env->stats, l7mp_drop_from_errno(err), 1, len);
}

/*
 * An ICMP error about something sent earlier. Who sends datagrams to a peer that is
 * not there yet goes on and may be heard later, so the stream does too.
 */
static void on_error(void *arg, int err)
{
	struct udp_up *u = arg;
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
	struct udp_up *u = arg;

	l7mp_stats_drop(u->env->stats, l7mp_drop_from_errno(err), 1, len);
}

static void on_overflow(void *arg, uint32_t packets)
{
	struct udp_up *u = arg;

	l7mp_stats_drop(u->env->stats, L7MP_DROP_RECEIVE_BUFFER, packets, 0);
}

static const struct l7mp_dgram_ops up_ops = {
        .recv = on_recv,
        .lost = on_lost,
        .error = on_error,
        .dropped = on_dropped,
        .overflow = on_overflow,
};

/* ---- operations ---- */

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct udp_up *u = (struct udp_up *)base;
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

/* The owner queues or drops and counts; the kernel would drop without a word. */
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
	struct udp_up *u = (struct udp_up *)base;

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
	struct udp_up *u = (struct udp_up *)base;
	struct l7mp_addr peer;

	if (!u->dgram)
		return -ENOTCONN;
	udp_key_addrs(&u->key, u->local_port, &peer, out);
	return 0;
}

static void op_flow(struct l7mp_stream *base, struct l7mp_flow_end *out)
{
	struct udp_up *u = (struct udp_up *)base;

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
	struct udp_up *u = (struct udp_up *)s;

	return u->dgram ? l7mp_dgram_drain(u->dgram) : 0;
}

static const struct l7mp_stream_ops up_stream_ops = {
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
                   struct udp_options *opt)
{
	int rc, family = l7mp_addr_family(remote);
	int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	rc = udp_prepare(fd, opt);
	if (!rc && local->len && bind(fd, &local->sa, local->len))
		rc = -errno;
	/* From now on the kernel takes in only what this peer sends. */
	if (!rc && connect(fd, &remote->sa, remote->len))
		rc = -errno;
	if (rc) {
		close(fd);
		return rc;
	}
	return fd;
}

static int up_connect(struct udp_up *u, const struct l7mp_addr *remote)
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
	rc = l7mp_dgram_new(u->env->loop, fd, L7MP_DGRAM_GRO | L7MP_DGRAM_GSO, UINT16_MAX, &up_ops,
	                    u, &u->dgram);
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
	struct udp_up *u = arg;

	u->resolve = NULL;
	u->err = err ? err : -ENOENT;
	for (size_t i = 0; i < n; i++) {
		u->err = up_connect(u, &addrs[i]);
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

static int up_start(struct udp_up *u, const struct l7mp_connect *p)
{
	const cJSON *bind = l7mp_json_member(p->cluster_spec, "bind");
	uint16_t port = (uint16_t)l7mp_json_num(p->cluster_spec, "port", 0);
	struct l7mp_addr remote;
	int rc;

	udp_options_read(l7mp_json_member(p->cluster_spec, "options"), &u->options);
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
	rc = up_connect(u, &remote);
	if (rc)
		return rc;
	free(u->host);
	u->host = NULL;
	l7mp_task_post(u->env->loop, &u->task);
	return 0;
}

int udp_connect(const struct l7mp_connect *p, struct l7mp_stream **out, struct l7mp_error *err)
{
	struct udp_up *u;
	int rc;

	if (!p->address)
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_UPSTREAM,
		                      "UDP: the endpoint has no address");
	u = calloc(1, sizeof(*u));
	if (!u)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	u->base.ops = &up_stream_ops;
	u->base.kind = L7MP_KIND_DATAGRAM;
	u->env = p->env;
	l7mp_task_init(&u->task, on_task, u);
	rc = up_start(u, p);
	if (rc) {
		up_free(u);
		return l7mp_error_set(
		        err, rc, l7mp_connect_code(rc), "UDP connect to %s port %d: %s", p->address,
		        (int)l7mp_json_num(p->cluster_spec, "port", 0), l7mp_errno_text(rc));
	}
	*out = &u->base;
	return 0;
}
