/* SPDX-License-Identifier: MIT */
/*
 * A WebSocket connection as a stream: one message is one buffer.
 *
 * Its end takes Close frames in both directions. Who has seen both shuts its side of
 * the bytes down and waits for the peer to do the same; a peer that breaks the
 * rules is told with a Close frame, and what it still sends is thrown away.
 */
#include "ws_int.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "l7mp/log.h"

static void conn_free(struct ws_conn *c)
{
	l7mp_task_cancel(l7mp_ws_loop(c), &c->task);
	l7mp_timer_stop(l7mp_ws_loop(c), &c->timer);
	l7mp_ws_dial_free(c->dial);
	l7mp_bufq_clear(&c->in);
	l7mp_buf_unref(c->message);
	free(c);
}

/* ---- reading on and off ---- */

/* Bytes are read when somebody wants them, and not while answers to pings pile up. */
void l7mp_ws_set_reading(struct ws_conn *c)
{
	bool want = c->deaf || c->dial || (!c->paused && !c->choked);

	if (want == c->reading || !c->io)
		return;
	c->reading = want;
	l7mp_stream_pause(c->io, !want);
}

/* What waits to be written counts as a reason to wait. */
void l7mp_ws_patience(struct ws_conn *c, uint64_t ms)
{
	if (l7mp_timer_start(l7mp_ws_loop(c), &c->timer, c->full ? L7MP_WS_FULL_MS : ms))
		l7mp_stream_close(c->io, true);
}

/* Nothing of what comes matters any more but its end. */
static void go_deaf(struct ws_conn *c)
{
	c->deaf = true;
	l7mp_bufq_clear(&c->in);
	l7mp_buf_unref(c->message);
	c->message = NULL;
	l7mp_ws_set_reading(c);
}

/* Both have said goodbye, or one has been shown the door. */
void l7mp_ws_hang_up(struct ws_conn *c, uint64_t ms)
{
	go_deaf(c);
	if (!c->io)
		return;
	if (c->io_end) {
		l7mp_stream_close(c->io, false);
		return;
	}
	l7mp_stream_shutdown(c->io, 0);
	l7mp_ws_patience(c, ms);
}

/* ---- frames out ---- */

static const uint8_t *masking_key(struct ws_state *st)
{
	if (!st->random_left) {
		if (getrandom(st->random, sizeof(st->random), 0) != sizeof(st->random))
			return NULL;
		st->random_left = sizeof(st->random);
	}
	st->random_left -= 4;
	return st->random + st->random_left;
}

/* Takes buf, which becomes a frame. As a stream's write. */
int l7mp_ws_send_frame(struct ws_conn *c, enum l7mp_ws_opcode opcode, struct l7mp_buf *buf)
{
	const uint8_t *mask = c->client ? masking_key(c->state) : NULL;
	size_t len = buf->len, n;
	int rc;

	if (c->client && !mask) {
		l7mp_buf_unref(buf);
		return -EIO;
	}
	/* The head goes in front, and the payload is masked in place. */
	if (!l7mp_buf_writable(buf) || l7mp_buf_headroom(buf) < L7MP_WS_HEAD_LEN_MAX)
		buf = l7mp_buf_own(buf, L7MP_BUF_HEADROOM, len);
	if (!buf)
		return -ENOMEM;
	if (mask)
		l7mp_ws_mask(buf->data, len, mask, 0);
	n = l7mp_ws_head_write(buf->data, opcode, len, mask);
	buf->data -= n;
	buf->len += (uint32_t)n;
	if (c->full)
		c->over += buf->len;
	rc = l7mp_stream_write(c->io, buf);
	if (rc == L7MP_STREAM_FULL)
		c->full = true;
	return rc;
}

int l7mp_ws_send_control(struct ws_conn *c, enum l7mp_ws_opcode opcode, const void *data,
                         size_t len)
{
	struct l7mp_buf *buf = l7mp_buf_copy(l7mp_loop_bufs(l7mp_ws_loop(c)), data, len);

	return buf ? l7mp_ws_send_frame(c, opcode, buf) : -ENOMEM;
}

/* code 0: an empty one. */
void l7mp_ws_send_close(struct ws_conn *c, int code)
{
	uint8_t payload[2] = {(uint8_t)(code >> 8), (uint8_t)code};

	if (c->close_sent || !c->io)
		return;
	c->close_sent = true;
	if (l7mp_ws_send_control(c, L7MP_WS_CLOSE, payload, code ? 2 : 0) < 0)
		l7mp_stream_close(c->io, true);
}

/* ---- the stream below ---- */

static void io_open(void *arg)
{
	l7mp_ws_dial_open(arg);
}

static void io_data(void *arg, struct l7mp_buf *buf)
{
	struct ws_conn *c = arg;

	if (c->deaf) {
		l7mp_buf_unref(buf);
	} else if (c->dial) {
		l7mp_ws_dial_data(c, buf);
	} else {
		l7mp_bufq_push(&c->in, buf);
		l7mp_ws_read_all(c);
	}
}

static void io_drain(void *arg)
{
	struct ws_conn *c = arg;

	c->full = c->choked = false;
	c->over = 0;
	if (l7mp_timer_armed(&c->timer))
		l7mp_ws_patience(c, L7MP_WS_CLOSE_MS);
	if (c->in.head)
		l7mp_task_post(l7mp_ws_loop(c), &c->task);
	l7mp_ws_set_reading(c);
	if (c->up && !c->closing)
		c->base.events->drain(c->base.owner);
}

static void io_end(void *arg, int code)
{
	struct ws_conn *c = arg;

	(void)code;
	c->io_end = true;
	if (c->dial)
		l7mp_ws_conn_fail(c, L7MP_ERR_UPSTREAM, "%s hung up within the handshake",
		                  c->dial->bind_addr);
	else if (c->deaf)
		l7mp_stream_close(c->io, false);
	else
		l7mp_ws_read_all(c);
}

static void io_notice(void *arg, const char *event, const char *message)
{
	struct ws_conn *c = arg;

	if (!c->closing && c->base.events && c->base.events->notice)
		c->base.events->notice(c->base.owner, event, message);
}

static void io_closed(void *arg, const struct l7mp_error *err)
{
	struct ws_conn *c = arg;
	bool orderly = c->ended || c->closing || c->error.code != L7MP_OK;

	c->io = NULL;
	if (err->code != L7MP_OK && !orderly && c->up)
		l7mp_error_set(&c->error, -ECONNRESET, err->code, "WebSocket: %s: %s",
		               L7MP_WS_DROPPED, err->message);
	else if (err->code != L7MP_OK && !orderly)
		l7mp_error_set(&c->error, -ECONNRESET, err->code, "WebSocket: %s", err->message);
	if (c->base.events)
		c->base.events->closed(c->base.owner, &c->error);
	conn_free(c);
}

static const struct l7mp_stream_events io_events = {
        .open = io_open,
        .data = io_data,
        .drain = io_drain,
        .end = io_end,
        .notice = io_notice,
        .closed = io_closed,
};

static void on_task(struct l7mp_task *task, void *arg)
{
	(void)task;
	l7mp_ws_read_all(arg);
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct ws_conn *c = arg;

	(void)t;
	l7mp_log_verbose("ws", "the peer did not end the connection in time");
	l7mp_stream_close(c->io, true);
}

/* ---- what the owner calls ---- */

static int ws_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct ws_conn *c = (struct ws_conn *)base;
	const struct l7mp_limits *limits = c->state->env->limits;
	size_t max = limits && limits->max_queue ? limits->max_queue : 1 << 20;
	int rc = !c->up || !c->io ? -ENOTCONN : c->shut || c->close_sent ? -EPIPE : 0;

	if (!rc && c->full && c->over + buf->len > max)
		rc = -ENOBUFS;
	if (rc) {
		l7mp_buf_unref(buf);
		return rc;
	}
	return l7mp_ws_send_frame(c, buf->flags & L7MP_BUF_TEXT ? L7MP_WS_TEXT : L7MP_WS_BINARY,
	                          buf);
}

static void ws_pause(struct l7mp_stream *base, bool on)
{
	struct ws_conn *c = (struct ws_conn *)base;

	if (c->paused == on)
		return;
	c->paused = on;
	if (!on && (c->in.head || c->io_end))
		l7mp_task_post(l7mp_ws_loop(c), &c->task);
	if (c->up)
		l7mp_ws_set_reading(c);
}

static void ws_shutdown(struct l7mp_stream *base, int code)
{
	struct ws_conn *c = (struct ws_conn *)base;

	if (c->shut)
		return;
	c->shut = true;
	if (!c->ended)
		c->code = code > 0 && l7mp_ws_code_valid((unsigned)code) ? code : 1000;
	if (!c->up || c->close_sent || !c->io)
		return;
	l7mp_ws_send_close(c, c->code);
	l7mp_ws_patience(c, L7MP_WS_CLOSE_MS);
}

static void ws_close(struct l7mp_stream *base, bool abort)
{
	struct ws_conn *c = (struct ws_conn *)base;
	bool first = !c->closing;

	c->closing = true;
	if (!c->io)
		return;
	if (abort || !c->up) {
		c->deaf = true;
		l7mp_stream_close(c->io, true);
		return;
	}
	if (!first || c->deaf)
		return;
	ws_shutdown(base, 0);
	ws_pause(base, false); /* or the peer's Close frame is never read */
	if (!l7mp_timer_armed(&c->timer))
		l7mp_ws_patience(c, L7MP_WS_CLOSE_MS);
}

static int ws_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct ws_conn *c = (struct ws_conn *)base;

	return c->io ? c->io->ops->local(c->io, out) : -ENOTCONN;
}

static int ws_remote(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct ws_conn *c = (struct ws_conn *)base;

	return c->io ? c->io->ops->remote(c->io, out) : -EAGAIN;
}

static const struct l7mp_stream_ops ws_ops = {
        .write = ws_write,
        .pause = ws_pause,
        .shutdown = ws_shutdown,
        .close = ws_close,
        .local = ws_local,
        .remote = ws_remote,
};

/* ---- making ---- */

static void orphan_closed(void *arg, const struct l7mp_error *err)
{
	(void)arg;
	(void)err;
}

void l7mp_ws_orphan(struct l7mp_stream *io)
{
	static const struct l7mp_stream_events events = {.closed = orphan_closed};

	l7mp_stream_attach(io, &events, NULL);
	l7mp_stream_close(io, true);
}

struct ws_conn *l7mp_ws_conn_new(struct ws_state *st, struct l7mp_stream *io, struct ws_dial *dial)
{
	struct ws_conn *c = calloc(1, sizeof(*c));

	if (!c) {
		l7mp_ws_orphan(io);
		l7mp_ws_dial_free(dial);
		return NULL;
	}
	c->base.ops = &ws_ops;
	c->base.kind = L7MP_KIND_DATAGRAM;
	c->state = st;
	c->io = io;
	c->dial = dial;
	c->client = dial;
	c->paused = true;
	c->reading = !dial; /* the request was read from it */
	l7mp_bufq_init(&c->in);
	l7mp_task_init(&c->task, on_task, c);
	l7mp_timer_init(&c->timer, on_timer, c);
	l7mp_ws_reader_init(&c->reader, !c->client, L7MP_WS_MESSAGE_MAX);
	l7mp_stream_attach(io, &io_events, c);
	l7mp_ws_set_reading(c);
	return c;
}

void l7mp_ws_conn_up(struct ws_conn *c, struct l7mp_buf *rest)
{
	l7mp_ws_dial_free(c->dial);
	c->dial = NULL;
	c->up = true;
	if (rest)
		l7mp_bufq_push(&c->in, rest);
	l7mp_ws_set_reading(c);
	if (c->shut) {
		c->shut = false;
		ws_shutdown(&c->base, c->code);
	}
}

void l7mp_ws_conn_fail(struct ws_conn *c, enum l7mp_code code, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (c->error.code == L7MP_OK)
		l7mp_error_set(&c->error, -EPROTO, code, "WebSocket: %s", text);
	c->deaf = true;
	l7mp_stream_close(c->io, true);
}
