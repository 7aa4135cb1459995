/* SPDX-License-Identifier: MIT */
/*
 * A byte stream over a TCP or UNIX socket, or TLS over TCP.
 *
 * An error or a close always ends in the callback `closed` of the layer below. There the stream
 * either tries the next address, if it is still connecting, or emits `closed` and frees itself.
 * While there is no lower layer yet (the name is not resolved), a task replaces that callback.
 */
#include "net.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l7mp/resolve.h"

#define NEXT_ADDRESS_MS     500
#define NEXT_ADDRESS_TLS_MS 2500 /* including the TLS handshake */

/* State of a connecting stream; freed when it is open. */
struct dial {
	struct l7mp_resolve *resolve;
	struct l7mp_addr *addrs;
	size_t n, next;
	cJSON *bind;
	struct l7mp_timer timer; /* time-out of one address */
	char *host;              /* as given; for messages and certificates */
	unsigned user_timeout_ms;
	struct l7mp_tls_ctx *ctx;
};

struct byte_stream {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct l7mp_stream_io *sio; /* exactly one of the two is used */
	struct l7mp_tls *tls;
	struct dial *dial;
	struct l7mp_addr remote;
	struct l7mp_task task; /* emits `closed` when there is no lower layer */
	int err;               /* negative errno that ended it */
	char *why;             /* the error text, when TLS failed */
	struct l7mp_flow_mss mss;
	enum l7mp_byte_stream_type type;
	bool open, reading, closing;
	bool announce; /* the task emits `open`: the connection was handed over by another process
	                * */
};

/* ---- the lower layer ---- */

static bool has_lower_layer(const struct byte_stream *s)
{
	return s->sio || s->tls;
}

static void below_close(struct byte_stream *s, bool abort)
{
	if (s->tls)
		l7mp_tls_close(s->tls, abort);
	else if (s->sio)
		l7mp_stream_io_close(s->sio, abort);
}

static void below_read(struct byte_stream *s, bool on)
{
	if (s->tls)
		l7mp_tls_read(s->tls, on);
	else
		l7mp_stream_io_read(s->sio, on);
}

static int below_local(const struct byte_stream *s, struct l7mp_addr *out)
{
	if (s->tls)
		return l7mp_tls_local(s->tls, out);
	return s->sio ? l7mp_stream_io_local(s->sio, out) : -ENOTCONN;
}

static void dial_free(struct byte_stream *s)
{
	struct dial *d = s->dial;

	if (!d)
		return;
	if (d->resolve)
		l7mp_resolve_cancel(&d->resolve);
	l7mp_timer_stop(s->env->loop, &d->timer);
	cJSON_Delete(d->bind);
	l7mp_tls_ctx_unref(&d->ctx);
	free(d->addrs);
	free(d->host);
	free(d);
	s->dial = NULL;
}

static void byte_stream_free(struct byte_stream *s)
{
	l7mp_task_cancel(s->env->loop, &s->task);
	dial_free(s);
	free(s->why);
	free(s);
}

static const char *const type_names[] = {[L7MP_BYTE_STREAM_TCP] = "TCP",
                                         [L7MP_BYTE_STREAM_UNIX] = "UNIX",
                                         [L7MP_BYTE_STREAM_TLS] = "TLS"};

static void describe(const struct byte_stream *s, struct l7mp_error *err)
{
	char text[L7MP_ADDR_STRLEN];
	const char *why = s->why ? s->why : l7mp_errno_text(s->err);
	const char *proto = type_names[s->type];

	if (s->open)
		l7mp_error_set(err, s->err, L7MP_ERR_UPSTREAM, "%s %s: %s", proto,
		               l7mp_addr_str(&s->remote, text), why);
	else if (s->dial && !s->dial->n)
		l7mp_error_set(err, s->err, L7MP_ERR_UPSTREAM, "%s %s: name not resolved: %s",
		               proto, s->dial->host, why);
	else
		l7mp_error_set(err, s->err, l7mp_connect_code(s->err), "%s connect to %s: %s",
		               proto, l7mp_addr_str(&s->remote, text), why);
}

static void finish(struct byte_stream *s)
{
	struct l7mp_error err = {.code = L7MP_OK};

	if (s->err)
		describe(s, &err);
	if (s->base.events)
		s->base.events->closed(s->base.owner, &err);
	byte_stream_free(s);
}

static void on_task(struct l7mp_task *t, void *arg)
{
	struct byte_stream *s = arg;

	(void)t;
	if (!s->announce) {
		finish(s);
		return;
	}
	s->announce = false;
	if (!s->closing && !s->err)
		s->base.events->open(s->base.owner);
}

/* ---- sio callbacks ---- */

static int below_fd(const struct byte_stream *s)
{
	return s->tls ? l7mp_tls_fd(s->tls) : l7mp_stream_io_fd(s->sio);
}

static void tune(const struct byte_stream *s)
{
	int fd = below_fd(s);

	l7mp_tcp_tune(fd);
	if (s->dial && s->dial->user_timeout_ms != L7MP_TCP_USER_TIMEOUT_MS)
		l7mp_tcp_user_timeout(fd, s->dial->user_timeout_ms);
}

static void on_connected(void *arg)
{
	struct byte_stream *s = arg;
	char text[128];

	s->open = true;
	s->err = 0;
	if (s->type != L7MP_BYTE_STREAM_UNIX)
		tune(s);
	dial_free(s);
	below_read(s, s->reading);
	if (s->tls && s->base.events->notice)
		s->base.events->notice(s->base.owner, "tls",
		                       l7mp_tls_summary(s->tls, text, sizeof(text)));
	s->base.events->open(s->base.owner);
}

static void on_data(void *arg, struct l7mp_buf *buf)
{
	struct byte_stream *s = arg;

	s->base.events->data(s->base.owner, buf);
}

static void on_drain(void *arg)
{
	struct byte_stream *s = arg;

	s->base.events->drain(s->base.owner);
}

static void on_end(void *arg)
{
	struct byte_stream *s = arg;

	if (s->tls && l7mp_tls_truncated(s->tls) && s->base.events->notice)
		s->base.events->notice(s->base.owner, "tls-truncated",
		                       "the peer ended without close_notify: what it sent may be "
		                       "cut short");
	if (s->closing)
		return;
	s->base.events->end(s->base.owner, 0);
}

static void on_error(void *arg, int err)
{
	struct byte_stream *s = arg;

	s->err = err < 0 ? err : -EIO;
	free(s->why);
	s->why = NULL;
	if (s->tls && *l7mp_tls_why(s->tls))
		s->why = strdup(l7mp_tls_why(s->tls));
	if (s->dial)
		l7mp_timer_stop(s->env->loop, &s->dial->timer);
	below_close(s, true);
}

static int dial_next(struct byte_stream *s);

static void on_closed(void *arg)
{
	struct byte_stream *s = arg;

	s->sio = NULL;
	s->tls = NULL;
	if (s->open || s->closing || !s->dial || dial_next(s))
		finish(s);
}

static const struct l7mp_stream_io_ops sio_ops = {
        .connected = on_connected,
        .data = on_data,
        .drain = on_drain,
        .end = on_end,
        .error = on_error,
        .closed = on_closed,
};

/* ---- connecting ---- */

static void on_address_timer(struct l7mp_timer *t, void *arg)
{
	struct byte_stream *s = arg;

	(void)t;
	s->err = -ETIMEDOUT;
	below_close(s, true);
}

static int dial_one(struct byte_stream *s, const struct l7mp_addr *remote)
{
	struct l7mp_addr local;
	int rc;

	s->remote = *remote;
	if (s->type == L7MP_BYTE_STREAM_UNIX)
		return l7mp_stream_io_connect_unix(s->env->loop, remote, &sio_ops, s, &s->sio);
	rc = l7mp_bind_for_family(s->dial->bind, l7mp_addr_family(remote), &local);
	if (rc)
		return rc;
	if (s->type == L7MP_BYTE_STREAM_TLS)
		return l7mp_tls_connect(s->env->loop, s->dial->ctx, s->dial->host, remote, &local,
		                        &sio_ops, s, &s->tls);
	return l7mp_stream_io_connect_tcp(s->env->loop, remote, &local, &sio_ops, s, &s->sio);
}

/*
 * Starts to connect to the next address that does not fail at once. Returns 0, or the error of the
 * last one.
 */
static int dial_next(struct byte_stream *s)
{
	struct dial *d = s->dial;
	uint64_t patience = s->type == L7MP_BYTE_STREAM_TLS ? NEXT_ADDRESS_TLS_MS : NEXT_ADDRESS_MS;

	l7mp_timer_stop(s->env->loop, &d->timer);
	while (d->next < d->n) {
		int rc = dial_one(s, &d->addrs[d->next++]);

		if (!rc) {
			if (d->next < d->n)
				(void)l7mp_timer_start(s->env->loop, &d->timer, patience);
			return 0;
		}
		s->sio = NULL;
		s->tls = NULL;
		s->err = rc;
	}
	return s->err ? s->err : -EHOSTUNREACH;
}

static void on_resolved(void *arg, int err, const struct l7mp_addr *addrs, size_t n)
{
	struct byte_stream *s = arg;
	struct dial *d = s->dial;

	d->resolve = NULL;
	if (!n) {
		s->err = err ? err : -ENOENT;
		finish(s);
		return;
	}
	d->addrs = malloc(n * sizeof(*addrs));
	if (!d->addrs) {
		s->err = -ENOMEM;
		finish(s);
		return;
	}
	memcpy(d->addrs, addrs, n * sizeof(*addrs));
	d->n = n;
	if (dial_next(s))
		finish(s);
}

/* ---- moving to another socket ---- */

bool l7mp_byte_stream_is_tls(const struct l7mp_stream *base)
{
	return ((const struct byte_stream *)base)->tls;
}

int l7mp_byte_stream_take_fd(struct l7mp_stream *base)
{
	struct byte_stream *s = (struct byte_stream *)base;

	return s->open && s->sio && !s->closing ? l7mp_stream_io_take_fd(s->sio) : -ENOTCONN;
}

/* ---- operations ---- */

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct byte_stream *s = (struct byte_stream *)base;
	int rc;

	if (!s->open || s->closing || s->err) {
		rc = s->open ? -EPIPE : -ENOTCONN;
		l7mp_buf_unref(buf);
		return rc;
	}
	rc = s->tls ? l7mp_tls_write(s->tls, buf) : l7mp_stream_io_write(s->sio, buf);
	return rc == L7MP_STREAM_IO_FULL ? L7MP_STREAM_FULL : rc;
}

static void op_pause(struct l7mp_stream *base, bool on)
{
	struct byte_stream *s = (struct byte_stream *)base;

	s->reading = !on;
	if (s->open && !s->closing && !s->err)
		below_read(s, !on);
}

static void op_shutdown(struct l7mp_stream *base, int code)
{
	struct byte_stream *s = (struct byte_stream *)base;

	(void)code;
	if (!s->open || s->closing || s->err)
		return;
	if (s->tls)
		l7mp_tls_shutdown(s->tls);
	else
		l7mp_stream_io_shutdown(s->sio);
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct byte_stream *s = (struct byte_stream *)base;

	if (has_lower_layer(s)) {
		/* A second close may turn a graceful one into an abort. */
		if (!s->closing || abort)
			below_close(s, abort);
	} else if (!s->closing) {
		if (s->dial && s->dial->resolve)
			l7mp_resolve_cancel(&s->dial->resolve);
		l7mp_task_post(s->env->loop, &s->task);
	}
	/* A close requested by the owner is orderly, unless the stream had failed before. */
	if (!s->closing && !s->open)
		s->err = 0;
	s->closing = true;
}

static void op_flow(struct l7mp_stream *base, struct l7mp_flow_end *out)
{
	struct byte_stream *s = (struct byte_stream *)base;

	memset(out, 0, sizeof(*out));
	out->kind = L7MP_FLOW_NONE;
	if (s->type != L7MP_BYTE_STREAM_TCP) {
		out->reason =
		        s->type == L7MP_BYTE_STREAM_TLS ? L7MP_REASON_TLS : L7MP_REASON_PROTOCOL;
	} else if (!s->open || s->closing || s->err || l7mp_stream_io_local(s->sio, &out->local)) {
		out->reason = L7MP_REASON_NOT_ESTABLISHED;
	} else {
		out->kind = L7MP_FLOW_SOCKET;
		out->l4 = IPPROTO_TCP;
		out->remote = s->remote;
		out->fd = below_fd(s);
		out->mss = s->mss;
		out->keep_tos = true;
	}
}

static int op_lend(struct l7mp_stream *base, struct l7mp_flow_socket *out)
{
	const struct byte_stream *s = (const struct byte_stream *)base;
	int fd;

	if (!s->open || s->closing || s->err || !s->sio)
		return -ENOTCONN;
	*out = (struct l7mp_flow_socket){.mss = s->mss};
	fd = l7mp_stream_io_lend(s->sio, &out->ended, &out->shut);
	out->fd = fd;
	return fd < 0 ? fd : 0;
}

static void op_give_back(struct l7mp_stream *base, const struct l7mp_flow_socket *back)
{
	struct byte_stream *s = (struct byte_stream *)base;

	s->mss = back->mss;
	l7mp_stream_io_give_back(s->sio, back->fd, back->ended, back->shut);
	/* The kernel fast path has turned keep-alive off, or replaced the socket. */
	if (back->fd >= 0)
		tune(s);
}

static int op_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct byte_stream *s = (struct byte_stream *)base;

	return below_local(s, out);
}

/*
 * A connect to the unspecified address goes to this host. Finds the address that the kernel
 * chooses.
 */
static void unspecified_remote(const struct byte_stream *s, struct l7mp_addr *out)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (l7mp_addr_is_any(out) && !getpeername(below_fd(s), (struct sockaddr *)&ss, &len))
		(void)l7mp_addr_from_sockaddr(out, (const struct sockaddr *)&ss, len);
}

static int op_remote(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct byte_stream *s = (struct byte_stream *)base;

	if (s->type == L7MP_BYTE_STREAM_UNIX)
		return -ENOTSUP;
	/* The name is still being resolved. */
	if (!s->remote.len)
		return s->dial ? -EAGAIN : -ENOTSUP;
	if (!has_lower_layer(s))
		return -EAGAIN;
	*out = s->remote;
	unspecified_remote(s, out);
	return s->dial && (l7mp_addr_is_any(out) || s->dial->next < s->dial->n) ? 1 : 0;
}

static struct l7mp_stream_io *op_plain(struct l7mp_stream *base)
{
	struct byte_stream *s = (struct byte_stream *)base;

	return s->open && !s->closing && !s->err ? s->sio : NULL;
}

void l7mp_byte_stream_user_timeout(struct l7mp_stream *base, unsigned ms)
{
	struct byte_stream *s = (struct byte_stream *)base;

	if (s->dial)
		s->dial->user_timeout_ms = ms;
}

void l7mp_byte_stream_cork(struct l7mp_stream *base, bool on)
{
	struct byte_stream *s = (struct byte_stream *)base;

	if (s->tls)
		l7mp_tls_cork(s->tls, on);
	else if (s->sio)
		l7mp_stream_io_cork(s->sio, on);
}

size_t l7mp_byte_stream_queued(const struct l7mp_stream *base)
{
	const struct byte_stream *s = (const struct byte_stream *)base;

	if (s->tls)
		return l7mp_tls_queued(s->tls);
	return s->sio ? l7mp_stream_io_queued(s->sio) : 0;
}

bool l7mp_byte_stream_reset(const struct l7mp_stream *base)
{
	const struct byte_stream *s = (const struct byte_stream *)base;
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);
	if (!has_lower_layer(s))
		return true;
	return getsockopt(below_fd(s), IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
	       info.tcpi_state == TCP_CLOSE;
}

static int op_freeze(struct l7mp_stream *base, bool on)
{
	const struct byte_stream *s = (const struct byte_stream *)base;

	if (!s->open || s->closing || s->err || !s->sio || s->dial)
		return on ? -ENOTCONN : 0;
	return l7mp_stream_io_freeze(s->sio, on);
}

static void op_save(struct l7mp_stream *base, struct l7mp_stream_saved *out)
{
	const struct byte_stream *s = (const struct byte_stream *)base;
	struct l7mp_stream_io_state state;

	l7mp_stream_io_state(s->sio, &state);
	*out = (struct l7mp_stream_saved){.fd = l7mp_stream_io_fd(s->sio),
	                                  .ended = state.ended,
	                                  .shut = state.shut,
	                                  .queue = state.queue,
	                                  .off = state.off};
}

static void op_release(struct l7mp_stream *base)
{
	struct byte_stream *s = (struct byte_stream *)base;

	s->closing = true;
	if (s->sio)
		l7mp_stream_io_release(s->sio);
}

static const struct l7mp_stream_ops stream_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
        .flow = op_flow,
        .lend = op_lend,
        .give_back = op_give_back,
        .local = op_local,
        .remote = op_remote,
        .plain = op_plain,
        .freeze = op_freeze,
        .save = op_save,
        .release = op_release,
};

/* ---- creating streams ---- */

static struct byte_stream *byte_stream_new(struct l7mp_env *env, enum l7mp_byte_stream_type type)
{
	struct byte_stream *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->base.ops = &stream_ops;
	s->base.kind = L7MP_KIND_STREAM;
	s->env = env;
	s->type = type;
	l7mp_task_init(&s->task, on_task, s);
	return s;
}

int l7mp_byte_stream_accept(struct l7mp_env *env, enum l7mp_byte_stream_type type, int fd,
                            const struct l7mp_addr *peer, struct l7mp_stream **out)
{
	struct byte_stream *s = byte_stream_new(env, type);
	int rc;

	if (!s) {
		close(fd);
		return -ENOMEM;
	}
	s->remote = *peer;
	s->open = true;
	if (type == L7MP_BYTE_STREAM_TCP)
		rc = l7mp_stream_io_open_tcp(env->loop, fd, &sio_ops, s, &s->sio);
	else
		rc = l7mp_stream_io_open_unix(env->loop, fd, &sio_ops, s, &s->sio);
	if (rc) {
		free(s);
		return rc;
	}
	*out = &s->base;
	return 0;
}

int l7mp_byte_stream_restore(struct l7mp_env *env, struct l7mp_restore_end *end, bool connected,
                             struct l7mp_stream **out)
{
	const struct l7mp_stream_io_state state = {
	        .ended = end->ended, .shut = end->shut, .queue = end->queue, .off = end->off};
	const bool local = l7mp_addr_family(&end->local) == AF_UNIX ||
	                   l7mp_addr_family(&end->remote) == AF_UNIX;
	int rc, fd = fcntl(end->fd, F_DUPFD_CLOEXEC, 0);
	struct byte_stream *s;

	if (fd < 0)
		return -errno;
	rc = l7mp_byte_stream_accept(env, local ? L7MP_BYTE_STREAM_UNIX : L7MP_BYTE_STREAM_TCP, fd,
	                             end->remote.len ? &end->remote : &end->local, out);
	if (rc)
		return rc;
	/* On failures before this point the caller keeps everything. */
	close(end->fd);
	end->fd = -1;
	end->queue = NULL;
	s = (struct byte_stream *)*out;
	l7mp_stream_io_set_state(s->sio, &state);
	s->mss = end->mss;
	s->announce = connected;
	if (connected)
		l7mp_task_post(env->loop, &s->task);
	return 0;
}

static struct byte_stream *dial_new(struct l7mp_env *env, enum l7mp_byte_stream_type type)
{
	struct byte_stream *s = byte_stream_new(env, type);

	if (!s)
		return NULL;
	s->dial = calloc(1, sizeof(*s->dial));
	if (!s->dial) {
		free(s);
		return NULL;
	}
	s->dial->user_timeout_ms = L7MP_TCP_USER_TIMEOUT_MS;
	l7mp_timer_init(&s->dial->timer, on_address_timer, s);
	return s;
}

static int dial_numeric(struct byte_stream *s, const struct l7mp_addr *remote)
{
	s->dial->addrs = malloc(sizeof(*remote));
	if (!s->dial->addrs)
		return -ENOMEM;
	s->dial->addrs[0] = *remote;
	s->dial->n = 1;
	return dial_next(s);
}

int l7mp_byte_stream_accept_tls(struct l7mp_env *env, struct l7mp_tls *tls,
                                const struct l7mp_addr *peer, struct l7mp_stream **out)
{
	struct byte_stream *s = byte_stream_new(env, L7MP_BYTE_STREAM_TLS);

	if (!s) {
		l7mp_tls_drop(&tls);
		return -ENOMEM;
	}
	s->remote = *peer;
	s->open = true;
	s->tls = tls;
	l7mp_tls_set_owner(tls, &sio_ops, s);
	*out = &s->base;
	return 0;
}

static int connect_ip(struct l7mp_env *env, enum l7mp_byte_stream_type type, const char *host,
                      uint16_t port, const cJSON *bind, struct l7mp_tls_ctx *ctx,
                      struct l7mp_stream **out, struct l7mp_error *err)
{
	struct byte_stream *s = dial_new(env, type);
	struct l7mp_addr remote;
	int rc = -ENOMEM;

	if (!s)
		return l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "out of memory");
	s->dial->ctx = ctx ? l7mp_tls_ctx_ref(ctx) : NULL;
	s->dial->host = strdup(host);
	s->dial->bind = bind ? cJSON_Duplicate(bind, true) : NULL;
	if (!s->dial->host || (bind && !s->dial->bind))
		goto fail;
	if (!l7mp_addr_parse(&remote, host, port))
		rc = dial_numeric(s, &remote);
	else
		rc = l7mp_resolve_start(env->loop, host, port, AF_UNSPEC, on_resolved, s,
		                        &s->dial->resolve);
	if (rc)
		goto fail;
	*out = &s->base;
	return 0;
fail:
	s->err = rc;
	describe(s, err);
	byte_stream_free(s);
	return rc;
}

int l7mp_byte_stream_connect_tcp(struct l7mp_env *env, const char *host, uint16_t port,
                                 const cJSON *bind, struct l7mp_stream **out,
                                 struct l7mp_error *err)
{
	return connect_ip(env, L7MP_BYTE_STREAM_TCP, host, port, bind, NULL, out, err);
}

int l7mp_byte_stream_connect_tls(struct l7mp_env *env, const char *host, uint16_t port,
                                 const cJSON *bind, struct l7mp_tls_ctx *ctx,
                                 struct l7mp_stream **out, struct l7mp_error *err)
{
	return connect_ip(env, L7MP_BYTE_STREAM_TLS, host, port, bind, ctx, out, err);
}

int l7mp_byte_stream_connect_unix(struct l7mp_env *env, const struct l7mp_addr *remote,
                                  struct l7mp_stream **out, struct l7mp_error *err)
{
	struct byte_stream *s = dial_new(env, L7MP_BYTE_STREAM_UNIX);
	int rc;

	if (!s)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	rc = dial_numeric(s, remote);
	if (rc) {
		s->err = rc;
		describe(s, err);
		byte_stream_free(s);
		return rc;
	}
	*out = &s->base;
	return 0;
}
