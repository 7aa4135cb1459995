/* SPDX-License-Identifier: MIT */
/*
 * Connects a TLS stream to a UNIX socket pair whose other end belongs to libwebsockets. EOF is
 * passed on in both directions. A TLS error is stored for the connection, because libwebsockets
 * only sees EOF.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "websocket.h"

struct ws_bridge {
	struct ws_conn *conn;         /* NULL: closed */
	struct l7mp_stream *io;       /* NULL: closed */
	struct l7mp_stream_io *local; /* NULL: closed */
	char why[512];
};

static void maybe_free(struct ws_bridge *b)
{
	if (b->io || b->local)
		return;
	if (b->conn)
		b->conn->bridge = NULL;
	free(b);
}

/* ---- the TLS stream ---- */

static void tls_data(void *arg, struct l7mp_buf *buf)
{
	struct ws_bridge *b = arg;

	if (!b->local)
		l7mp_buf_unref(buf);
	else if (l7mp_stream_io_write(b->local, buf) == L7MP_STREAM_IO_FULL)
		l7mp_stream_pause(b->io, true);
}

static void tls_drain(void *arg)
{
	struct ws_bridge *b = arg;

	if (b->local)
		l7mp_stream_io_read(b->local, true);
}

static void tls_end(void *arg, int code)
{
	struct ws_bridge *b = arg;

	(void)code;
	if (b->local)
		l7mp_stream_io_shutdown(b->local);
}

static void tls_notice(void *arg, const char *event, const char *message)
{
	struct ws_bridge *b = arg;

	if (b->conn)
		l7mp_ws_conn_notice(b->conn, event, message);
}

static void tls_closed(void *arg, const struct l7mp_error *err)
{
	struct ws_bridge *b = arg;

	b->io = NULL;
	if (err->code != L7MP_OK)
		snprintf(b->why, sizeof(b->why), "%s", err->message);
	if (b->local)
		l7mp_stream_io_close(b->local, false);
	else
		maybe_free(b);
}

static const struct l7mp_stream_events tls_events = {.data = tls_data,
                                                     .drain = tls_drain,
                                                     .end = tls_end,
                                                     .notice = tls_notice,
                                                     .closed = tls_closed};

/* ---- libwebsockets' side ---- */

static void local_data(void *arg, struct l7mp_buf *buf)
{
	struct ws_bridge *b = arg;

	if (!b->io)
		l7mp_buf_unref(buf);
	else if (l7mp_stream_write(b->io, buf) == L7MP_STREAM_FULL)
		l7mp_stream_io_read(b->local, false);
}

static void local_drain(void *arg)
{
	struct ws_bridge *b = arg;

	if (b->io)
		l7mp_stream_pause(b->io, false);
}

/* libwebsockets has closed its end. */
static void local_end(void *arg)
{
	struct ws_bridge *b = arg;

	l7mp_stream_io_close(b->local, true);
}

static void local_error(void *arg, int err)
{
	struct ws_bridge *b = arg;

	(void)err;
	l7mp_stream_io_close(b->local, true);
}

static void local_closed(void *arg)
{
	struct ws_bridge *b = arg;

	b->local = NULL;
	if (b->io)
		l7mp_stream_close(b->io, false);
	else
		maybe_free(b);
}

static const struct l7mp_stream_io_ops local_ops = {.data = local_data,
                                                    .drain = local_drain,
                                                    .end = local_end,
                                                    .error = local_error,
                                                    .closed = local_closed};

/* ---- functions for the connection ---- */

int l7mp_ws_bridge_new(struct ws_conn *c, struct l7mp_stream *io, int fd, struct ws_bridge **out)
{
	struct ws_bridge *b = calloc(1, sizeof(*b));
	int rc;

	if (!b) {
		close(fd);
		l7mp_ws_orphan(io, true);
		return -ENOMEM;
	}
	rc = l7mp_stream_io_open_unix(l7mp_ws_loop(c), fd, &local_ops, b, &b->local);
	if (rc) {
		free(b);
		l7mp_ws_orphan(io, true);
		return rc;
	}
	b->conn = c;
	b->io = io;
	l7mp_stream_attach(io, &tls_events, b);
	l7mp_stream_io_read(b->local, true);
	l7mp_stream_pause(io, false);
	*out = b;
	return 0;
}

const char *l7mp_ws_bridge_why(const struct ws_bridge *b)
{
	return b->why;
}

int l7mp_ws_bridge_local(const struct ws_bridge *b, struct l7mp_addr *out)
{
	return b->io ? b->io->ops->local(b->io, out) : -ENOTCONN;
}

int l7mp_ws_bridge_remote(const struct ws_bridge *b, struct l7mp_addr *out)
{
	return b->io ? b->io->ops->remote(b->io, out) : -ENOTCONN;
}

void l7mp_ws_bridge_leave(struct ws_bridge *b, bool abort)
{
	b->conn = NULL;
	if (abort && b->io)
		l7mp_stream_close(b->io, true);
}
