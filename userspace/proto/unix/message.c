/* SPDX-License-Identifier: MIT */
/*
 * A stream of messages over a connected UNIX socket: seqpacket in both roles, and clusters of
 * datagram sockets. The kernel loses nothing between two UNIX sockets. So, unlike UDP, these
 * streams have back-pressure: they stop their writer, and do not read while paused.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l7mp/dgram.h"
#include "l7mp/log.h"
#include "l7mp/relaymark.h"
#include "net/net.h"
#include "net/unix_path.h"
#include "unix.h"

#define QUEUE_HIGH (128u << 10) /* bytes waiting for the kernel that stop the writer */
#define CLOSE_MS   5000         /* how long a close waits until the queue is sent */
#define BACKLOG_MS 5            /* between attempts to connect while the backlog is full */

struct message_stream {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct l7mp_dgram *dgram;
	int fd;                      /* while it is not connected, else -1 */
	struct l7mp_unix_path *path; /* bound by `bind`, or NULL */
	const char *proto;           /* protocol name, for error messages */
	struct l7mp_addr remote;
	struct l7mp_timer timer; /* retries connect; ends a close */
	struct l7mp_task task;   /* emits `open` or `closed` */
	int err;                 /* reason of the end */
	int write_err;           /* the peer receives no more; data that it sent before is still
	                          * read */
	bool seqpacket, open, reading;
	bool full;      /* write returned L7MP_STREAM_FULL, `drain` is due */
	bool ended;     /* `end` was emitted */
	bool shut;      /* no more writes; shutdown(2) when the queue is sent */
	bool shut_done; /* shutdown(2) was called */
	bool closing, over;
};

uint32_t unix_max_write(int fd)
{
	int size = 0;
	socklen_t len = sizeof(size);

	if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &len) || size < 64)
		return 4096;
	size -= 32;
	return size > UNIX_MESSAGE_MAX ? UNIX_MESSAGE_MAX : (uint32_t)size;
}

static void message_stream_free(struct message_stream *u)
{
	l7mp_task_cancel(u->env->loop, &u->task);
	l7mp_timer_stop(u->env->loop, &u->timer);
	l7mp_dgram_close(&u->dgram);
	if (u->fd >= 0)
		close(u->fd);
	l7mp_unix_path_unref(&u->path);
	free(u);
}

static int describe(const struct message_stream *u, struct l7mp_error *err)
{
	char text[L7MP_ADDR_STRLEN];

	return l7mp_error_set(err, u->err, l7mp_connect_code(u->err), "%s %s%s: %s", u->proto,
	                      u->open ? "" : "connect to ", l7mp_addr_str(&u->remote, text),
	                      u->open && u->err == -ECONNREFUSED ? "the peer has closed"
	                                                         : l7mp_errno_text(u->err));
}

/* Ends the stream, with an error or (0) without; the task emits `closed`. */
static void finish(struct message_stream *u, int err)
{
	if (u->over)
		return;
	u->over = true;
	u->err = err;
	l7mp_timer_stop(u->env->loop, &u->timer);
	l7mp_dgram_close(&u->dgram);
	l7mp_task_post(u->env->loop, &u->task);
}

static void on_task(struct l7mp_task *t, void *arg)
{
	struct message_stream *u = arg;
	struct l7mp_error err = {.code = L7MP_OK};

	(void)t;
	if (!u->over) {
		u->open = true;
		l7mp_dgram_read(u->dgram, u->reading);
		u->base.events->open(u->base.owner);
		return;
	}
	if (u->err)
		describe(u, &err);
	if (u->base.events)
		u->base.events->closed(u->base.owner, &err);
	message_stream_free(u);
}

/* ---- the engine's callbacks ---- */

static void on_recv(void *arg, struct l7mp_buf *buf, const struct l7mp_addr *from,
                    const struct l7mp_addr *to)
{
	struct message_stream *u = arg;

	(void)from;
	(void)to;
	u->base.events->data(u->base.owner, buf);
}

static void on_lost(void *arg, int err, uint64_t tag, uint32_t len)
{
	struct message_stream *u = arg;

	(void)tag;
	if (u->base.events->lost)
		u->base.events->lost(u->base.owner, err, 1, len);
	else
		l7mp_stats_drop(u->env->stats, l7mp_drop_from_errno(err), 1, len);
}

static void emit_end(struct message_stream *u)
{
	u->ended = true;
	u->base.events->end(u->base.owner, 0);
}

static void on_error(void *arg, int err)
{
	struct message_stream *u = arg;

	if (!err && u->write_err)
		finish(u, u->write_err);
	else if (!err)
		emit_end(u);
	else if (err == -EPIPE && u->seqpacket && !u->ended && !u->closing)
		u->write_err = err;
	else
		finish(u, u->closing ? 0 : err);
}

static void on_dropped(void *arg, int err, uint32_t len)
{
	struct message_stream *u = arg;

	l7mp_stats_drop(u->env->stats, l7mp_drop_from_errno(err), 1, len);
}

/* Calls shutdown(2) if it is due and the queue is sent. */
static void try_shutdown(struct message_stream *u)
{
	if (!u->shut || u->shut_done || !u->seqpacket)
		return;
	l7mp_dgram_flush(u->dgram);
	if (l7mp_dgram_waiting(u->dgram))
		return;
	u->shut_done = true;
	(void)shutdown(l7mp_dgram_fd(u->dgram), SHUT_WR);
}

static void on_drain(void *arg)
{
	struct message_stream *u = arg;

	if (u->closing) {
		if (!l7mp_dgram_waiting(u->dgram))
			finish(u, 0);
		return;
	}
	try_shutdown(u);
	if (!u->full)
		return;
	u->full = false;
	u->base.events->drain(u->base.owner);
}

static const struct l7mp_dgram_ops dgram_ops = {
        .recv = on_recv,
        .lost = on_lost,
        .error = on_error,
        .dropped = on_dropped,
        .drain = on_drain,
};

/* ---- operations ---- */

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct message_stream *u = (struct message_stream *)base;
	int rc = 0;

	if (u->closing || u->over || u->shut || u->write_err)
		rc = -EPIPE;
	else if (!u->open)
		rc = -ENOTCONN;
	else if (buf->len > base->max_write)
		rc = -EMSGSIZE;
	else if (!buf->len && u->seqpacket)
		rc = -ERANGE;
	if (rc) {
		l7mp_buf_unref(buf);
		return rc;
	}
	rc = l7mp_dgram_send(u->dgram, buf, NULL, NULL, 0);
	if (rc || l7mp_dgram_waiting(u->dgram) < QUEUE_HIGH)
		return rc;
	u->full = true;
	return L7MP_STREAM_FULL;
}

static void op_pause(struct l7mp_stream *base, bool on)
{
	struct message_stream *u = (struct message_stream *)base;

	u->reading = !on;
	if (u->open && !u->closing && !u->over)
		l7mp_dgram_read(u->dgram, !on);
}

static void op_shutdown(struct l7mp_stream *base, int code)
{
	struct message_stream *u = (struct message_stream *)base;

	(void)code;
	if (!u->open || u->closing || u->over || u->shut)
		return;
	/* Datagram sockets have no shutdown. */
	u->shut = u->seqpacket;
	try_shutdown(u);
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct message_stream *u = (struct message_stream *)base;
	bool first = !u->closing;

	u->closing = true;
	if (u->over || (!first && !abort))
		return;
	if (u->open && !abort) {
		l7mp_dgram_read(u->dgram, false);
		l7mp_dgram_flush(u->dgram);
		if (l7mp_dgram_waiting(u->dgram) &&
		    !l7mp_timer_start(u->env->loop, &u->timer, CLOSE_MS))
			return;
	}
	finish(u, 0);
}

static int op_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct message_stream *u = (struct message_stream *)base;

	return u->dgram ? l7mp_fd_local(l7mp_dgram_fd(u->dgram), out) : -ENOTCONN;
}

static const struct l7mp_stream_ops stream_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
        .local = op_local,
};

/* ---- creating ---- */

static int attach(struct message_stream *u, int fd)
{
	unsigned flags = u->seqpacket ? L7MP_DGRAM_SEQPACKET : 0;

	u->base.max_write = unix_max_write(fd);
	return l7mp_dgram_new(u->env->loop, fd, flags, UNIX_MESSAGE_MAX, &dgram_ops, u, &u->dgram);
}

/* connect(2) on a UNIX socket completes at once, unless the listener's backlog is full. */
static int try_connect(struct message_stream *u)
{
	int fd = u->fd;

	if (!connect(fd, &u->remote.sa, u->remote.len)) {
		u->fd = -1;
		l7mp_task_post(u->env->loop, &u->task);
		return attach(u, fd);
	}
	if (errno == EAGAIN || errno == EINTR)
		return l7mp_timer_start(u->env->loop, &u->timer, BACKLOG_MS);
	return -errno;
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct message_stream *u = arg;
	int rc;

	(void)t;
	if (u->closing) {
		finish(u, 0);
		return;
	}
	rc = try_connect(u);
	if (rc)
		finish(u, rc);
}

static struct message_stream *message_stream_new(struct l7mp_env *env, const char *proto, int type)
{
	struct message_stream *u = calloc(1, sizeof(*u));

	if (!u)
		return NULL;
	u->base.ops = &stream_ops;
	u->base.kind = L7MP_KIND_DATAGRAM;
	u->env = env;
	u->fd = -1;
	u->proto = proto;
	u->seqpacket = type == SOCK_SEQPACKET;
	l7mp_task_init(&u->task, on_task, u);
	l7mp_timer_init(&u->timer, on_timer, u);
	return u;
}

int unix_message_accept(struct l7mp_env *env, int fd, const struct l7mp_addr *local,
                        struct l7mp_stream **out)
{
	struct message_stream *u = message_stream_new(env, "UNIX/seqpacket", SOCK_SEQPACKET);
	int rc;

	if (!u) {
		close(fd);
		return -ENOMEM;
	}
	u->remote = *local;
	u->open = true;
	rc = attach(u, fd);
	if (rc) {
		message_stream_free(u);
		return rc;
	}
	*out = &u->base;
	return 0;
}

/* Creates a bound datagram socket: the peer can't answer an unnamed one. */
static int datagram_socket(struct message_stream *u, const char *bind_to, struct l7mp_error *err)
{
	const struct sockaddr_un autobind = {.sun_family = AF_UNIX};
	int rc;

	if (bind_to)
		return l7mp_unix_bind(bind_to, SOCK_DGRAM, NULL, &u->path, err);
	rc = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (rc >= 0 && bind(rc, (const struct sockaddr *)&autobind, sizeof(sa_family_t))) {
		int saved = errno;

		close(rc);
		errno = saved;
		rc = -1;
	}
	if (rc < 0)
		return l7mp_error_set(err, -errno, L7MP_ERR_UPSTREAM, "UNIX/dgram: %s",
		                      l7mp_errno_text(errno));
	return rc;
}

int unix_message_connect(struct l7mp_env *env, const char *proto, int type,
                         const struct l7mp_addr *remote, const char *bind, struct l7mp_stream **out,
                         struct l7mp_error *err)
{
	struct message_stream *u = message_stream_new(env, proto, type);
	int rc;

	if (!u)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	u->remote = *remote;
	if (u->seqpacket) {
		u->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		rc = u->fd < 0 ? -errno : l7mp_relay_mark(u->fd, AF_UNIX);
		if (rc)
			l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "%s: %s", proto,
			               l7mp_errno_text(-rc));
	} else {
		rc = u->fd = datagram_socket(u, bind, err);
	}
	if (rc < 0)
		goto fail;
	rc = try_connect(u);
	if (rc) {
		u->err = rc;
		describe(u, err);
		goto fail;
	}
	*out = &u->base;
	return 0;
fail:
	message_stream_free(u);
	return rc;
}
