// SPDX-License-Identifier: MIT
/*
 * A TLS connection's plain text on a socket, for a library that wants a descriptor.
 * Each side's end goes to the other; when both are closed the bridge is gone.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "proto_int.h"
#include "tls_int.h"

struct l7mp_tls_bridge {
	struct l7mp_tls *tls; /* NULL: closed */
	struct l7mp_sio *plain;
	const struct l7mp_tls_bridge_events *events;
	void *arg;
};

static void gone(struct l7mp_tls_bridge *b)
{
	if (b->tls || b->plain)
		return;
	if (b->events)
		b->events->gone(b->arg);
	free(b);
}

/* ---- cipher side ---- */

static void tls_data(void *arg, struct l7mp_buf *buf)
{
	struct l7mp_tls_bridge *b = arg;

	if (l7mp_sio_write(b->plain, buf) == L7MP_SIO_FULL)
		l7mp_tls_read(b->tls, false);
}

static void tls_drain(void *arg)
{
	struct l7mp_tls_bridge *b = arg;

	l7mp_sio_read(b->plain, true);
}

static void tls_end(void *arg)
{
	struct l7mp_tls_bridge *b = arg;

	l7mp_sio_shutdown(b->plain);
}

static void tls_error(void *arg, int err)
{
	struct l7mp_tls_bridge *b = arg;
	const char *why = l7mp_tls_why(b->tls);

	if (b->events)
		b->events->failed(b->arg, *why ? why : l7mp_errno_text(err));
	l7mp_tls_close(b->tls, true);
}

static void tls_closed(void *arg)
{
	struct l7mp_tls_bridge *b = arg;

	b->tls = NULL;
	if (b->plain)
		l7mp_sio_close(b->plain, false);
	gone(b);
}

static const struct l7mp_sio_ops tls_ops = {
        .data = tls_data,
        .drain = tls_drain,
        .end = tls_end,
        .error = tls_error,
        .closed = tls_closed,
};

/* ---- plain side ---- */

static void plain_data(void *arg, struct l7mp_buf *buf)
{
	struct l7mp_tls_bridge *b = arg;

	if (!b->tls) {
		l7mp_buf_unref(buf);
		return;
	}
	if (l7mp_tls_write(b->tls, buf) == L7MP_SIO_FULL)
		l7mp_sio_read(b->plain, false);
}

static void plain_drain(void *arg)
{
	struct l7mp_tls_bridge *b = arg;

	if (b->tls)
		l7mp_tls_read(b->tls, true);
}

/* The library ends a connection as a whole. */
static void plain_end(void *arg)
{
	struct l7mp_tls_bridge *b = arg;

	if (b->tls)
		l7mp_tls_close(b->tls, false);
	else
		l7mp_sio_close(b->plain, false);
}

static void plain_error(void *arg, int err)
{
	struct l7mp_tls_bridge *b = arg;

	(void)err; /* it closed without having read all */
	if (b->tls)
		l7mp_tls_close(b->tls, false);
	l7mp_sio_close(b->plain, true);
}

static void plain_closed(void *arg)
{
	struct l7mp_tls_bridge *b = arg;

	b->plain = NULL;
	if (b->tls)
		l7mp_tls_close(b->tls, false);
	gone(b);
}

static const struct l7mp_sio_ops plain_ops = {
        .data = plain_data,
        .drain = plain_drain,
        .end = plain_end,
        .error = plain_error,
        .closed = plain_closed,
};

int l7mp_tls_bridge_new(struct l7mp_loop *loop, struct l7mp_tls *tls, int fd,
                        struct l7mp_buf *first, const struct l7mp_tls_bridge_events *events,
                        void *arg, struct l7mp_tls_bridge **out)
{
	struct l7mp_tls_bridge *b = calloc(1, sizeof(*b));
	int rc = -ENOMEM;

	if (b)
		rc = l7mp_sio_open_unix(loop, fd, &plain_ops, b, &b->plain);
	else
		close(fd);
	if (rc) {
		free(b);
		l7mp_buf_unref(first);
		l7mp_tls_drop(&tls);
		return rc;
	}
	b->events = events;
	b->arg = arg;
	b->tls = tls;
	l7mp_tls_set_owner(tls, &tls_ops, b);
	l7mp_sio_read(b->plain, true);
	if (!first || l7mp_sio_write(b->plain, first) != L7MP_SIO_FULL)
		l7mp_tls_read(tls, true);
	*out = b;
	return 0;
}

void l7mp_tls_bridge_forget(struct l7mp_tls_bridge **pp)
{
	struct l7mp_tls_bridge *b = *pp;

	*pp = NULL;
	if (b)
		b->events = NULL;
}
