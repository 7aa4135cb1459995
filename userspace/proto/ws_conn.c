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

#define DROPPED "the peer dropped the connection without a Close frame"

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
static void set_reading(struct ws_conn *c)
{
	bool want = c->deaf || c->dial || (!c->paused && !c->choked);

	if (want == c->reading || !c->io)
		return;
	c->reading = want;
	l7mp_stream_pause(c->io, !want);
}

/* What waits to be written counts as a reason to wait. */
static void patience(struct ws_conn *c, uint64_t ms)
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
	set_reading(c);
}

/* Both have said goodbye, or one has been shown the door. */
static void hang_up(struct ws_conn *c, uint64_t ms)
{
	go_deaf(c);
	if (!c->io)
		return;
	if (c->io_end) {
		l7mp_stream_close(c->io, false);
		return;
	}
	l7mp_stream_shutdown(c->io, 0);
	patience(c, ms);
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
static int send_frame(struct ws_conn *c, enum l7mp_ws_opcode opcode, struct l7mp_buf *buf)
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

static int send_control(struct ws_conn *c, enum l7mp_ws_opcode opcode, const void *data, size_t len)
{
	struct l7mp_buf *buf = l7mp_buf_copy(l7mp_loop_bufs(l7mp_ws_loop(c)), data, len);

	return buf ? send_frame(c, opcode, buf) : -ENOMEM;
}

/* code 0: an empty one. */
static void send_close(struct ws_conn *c, int code)
{
	uint8_t payload[2] = {(uint8_t)(code >> 8), (uint8_t)code};

	if (c->close_sent || !c->io)
		return;
	c->close_sent = true;
	if (send_control(c, L7MP_WS_CLOSE, payload, code ? 2 : 0) < 0)
		l7mp_stream_close(c->io, true);
}

/* ---- frames in ---- */

static void fault(struct ws_conn *c, int code, enum l7mp_code kind, const char *text)
{
	if (c->error.code == L7MP_OK)
		l7mp_error_set(&c->error, -EPROTO, kind, "WebSocket: %s (closed with code %d)",
		               text, code);
	send_close(c, code);
	hang_up(c, L7MP_WS_FAULT_MS);
}

static void broken(struct ws_conn *c, const struct l7mp_ws_got *got)
{
	char text[160];

	if (got->code == 1009)
		snprintf(text, sizeof(text), "a message of more than %d bytes",
		         L7MP_WS_MESSAGE_MAX);
	else
		snprintf(text, sizeof(text), "the peer broke the protocol: %s", got->why);
	fault(c, got->code, got->code == 1009 ? L7MP_ERR_TOO_LARGE : L7MP_ERR_UPSTREAM, text);
}

static void peer_close(struct ws_conn *c, int code)
{
	if (!c->ended) {
		c->ended = true;
		if (!c->closing)
			c->base.events->end(c->base.owner, code);
	}
	send_close(c, code); /* behind what was written for the peer */
	hang_up(c, L7MP_WS_CLOSE_MS);
}

static void control(struct ws_conn *c, const struct l7mp_ws_got *got)
{
	if (got->opcode == L7MP_WS_CLOSE)
		peer_close(c, got->code);
	if (got->opcode != L7MP_WS_PING || c->close_sent)
		return;
	if (send_control(c, L7MP_WS_PONG, got->data, got->len) < 0)
		l7mp_stream_close(c->io, true);
	c->choked = c->full;
}

/* Room for `need` bytes; grows by doubling, so that an announced length alone costs nothing. */
static bool make_room(struct ws_conn *c, size_t need, uint64_t left)
{
	size_t want = need + (left < 65536 ? (size_t)left : 65536);

	if (!c->message) {
		c->message = l7mp_buf_new(l7mp_loop_bufs(l7mp_ws_loop(c)), want);
		return c->message != NULL;
	}
	if (l7mp_buf_tailroom(c->message) >= need - c->message->len)
		return true;
	if (want < 2 * (size_t)c->message->len)
		want = 2 * (size_t)c->message->len;
	c->message = l7mp_buf_own(c->message, L7MP_BUF_HEADROOM, want);
	return c->message != NULL;
}

static void piece(struct ws_conn *c, const struct l7mp_ws_got *got)
{
	struct l7mp_buf *buf;

	if (c->closing)
		return;
	if (!make_room(c, (c->message ? c->message->len : 0) + got->len, got->left)) {
		fault(c, 1011, L7MP_ERR_INTERNAL, "out of memory");
		return;
	}
	if (got->len)
		memcpy(c->message->data + c->message->len, got->data, got->len);
	c->message->len += (uint32_t)got->len;
	if (!got->final)
		return;
	if (got->opcode == L7MP_WS_TEXT)
		c->message->flags |= L7MP_BUF_TEXT;
	buf = c->message;
	c->message = NULL;
	if (c->close_sent) /* it still has something to say */
		patience(c, L7MP_WS_CLOSE_MS);
	c->base.events->data(c->base.owner, buf);
}

/* Hands up what is in the first buffer. */
static void read_buf(struct ws_conn *c, struct l7mp_buf *buf)
{
	struct l7mp_ws_got got;
	size_t used;

	while (buf->len && !c->deaf && !c->paused && !c->choked) {
		enum l7mp_ws_event event =
		        l7mp_ws_read(&c->reader, buf->data, buf->len, &used, &got);

		buf->data += used;
		buf->len -= (uint32_t)used;
		if (event == L7MP_WS_PIECE)
			piece(c, &got);
		else if (event == L7MP_WS_CONTROL)
			control(c, &got);
		else if (event == L7MP_WS_BROKEN)
			broken(c, &got);
	}
}

static void dropped(struct ws_conn *c)
{
	if (c->error.code == L7MP_OK && !c->close_sent)
		l7mp_error_set(&c->error, -ECONNRESET, L7MP_ERR_UPSTREAM, "WebSocket: %s", DROPPED);
	l7mp_stream_close(c->io, false);
}

static void read_all(struct ws_conn *c)
{
	if (c->in_read)
		return;
	c->in_read = true;
	while (c->in.head && !c->deaf && !c->paused && !c->choked) {
		struct l7mp_buf *buf = l7mp_bufq_pop(&c->in);

		if (!l7mp_buf_writable(buf))
			buf = l7mp_buf_own(buf, 0, buf->len);
		if (!buf) {
			fault(c, 1011, L7MP_ERR_INTERNAL, "out of memory");
			break;
		}
		read_buf(c, buf);
		if (!buf->len || c->deaf) {
			l7mp_buf_unref(buf);
			continue;
		}
		buf->next = c->in.head; /* paused in the midst of it: it stays the first */
		c->in.head = buf;
		if (!buf->next)
			c->in.tail = &buf->next;
		c->in.bytes += buf->len;
		c->in.count++;
	}
	c->in_read = false;
	if (c->io_end && !c->in.head && !c->deaf && c->io)
		dropped(c);
	set_reading(c);
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
		read_all(c);
	}
}

static void io_drain(void *arg)
{
	struct ws_conn *c = arg;

	c->full = c->choked = false;
	c->over = 0;
	if (l7mp_timer_armed(&c->timer))
		patience(c, L7MP_WS_CLOSE_MS);
	if (c->in.head)
		l7mp_task_post(l7mp_ws_loop(c), &c->task);
	set_reading(c);
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
		                  c->dial->where);
	else if (c->deaf)
		l7mp_stream_close(c->io, false);
	else
		read_all(c);
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
		l7mp_error_set(&c->error, -ECONNRESET, err->code, "WebSocket: %s: %s", DROPPED,
		               err->message);
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
	read_all(arg);
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
	return send_frame(c, buf->flags & L7MP_BUF_TEXT ? L7MP_WS_TEXT : L7MP_WS_BINARY, buf);
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
		set_reading(c);
}

static void ws_shutdown(struct l7mp_stream *base, int code)
{
	struct ws_conn *c = (struct ws_conn *)base;

	if (c->shut)
		return;
	c->shut = true;
	c->code = code > 0 && l7mp_ws_code_valid((unsigned)code) ? code : 1000;
	if (!c->up || c->close_sent || !c->io)
		return;
	send_close(c, c->code);
	patience(c, L7MP_WS_CLOSE_MS);
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
		patience(c, L7MP_WS_CLOSE_MS);
}

static int ws_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct ws_conn *c = (struct ws_conn *)base;

	return c->io ? c->io->ops->local(c->io, out) : -ENOTCONN;
}

static const struct l7mp_stream_ops ws_ops = {
        .write = ws_write,
        .pause = ws_pause,
        .shutdown = ws_shutdown,
        .close = ws_close,
        .local = ws_local,
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
	set_reading(c);
	return c;
}

void l7mp_ws_conn_up(struct ws_conn *c, struct l7mp_buf *rest)
{
	l7mp_ws_dial_free(c->dial);
	c->dial = NULL;
	c->up = true;
	if (rest)
		l7mp_bufq_push(&c->in, rest);
	set_reading(c);
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
