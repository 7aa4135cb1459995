/* SPDX-License-Identifier: MIT */
/* What a WebSocket peer sends: messages are put together, control frames answered, faults told. */
#include "ws_int.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void fault(struct ws_conn *c, int code, enum l7mp_code kind, const char *text)
{
	if (c->error.code == L7MP_OK)
		l7mp_error_set(&c->error, -EPROTO, kind, "WebSocket: %s (closed with code %d)",
		               text, code);
	l7mp_ws_send_close(c, code);
	l7mp_ws_hang_up(c, L7MP_WS_FAULT_MS);
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
		c->code = code; /* to be answered with, whatever the owner says */
		if (!c->closing)
			c->base.events->end(c->base.owner, code);
	}
	l7mp_ws_send_close(c, code); /* behind what was written for the peer */
	l7mp_ws_hang_up(c, L7MP_WS_CLOSE_MS);
}

static void control(struct ws_conn *c, const struct l7mp_ws_got *got)
{
	if (got->opcode == L7MP_WS_CLOSE)
		peer_close(c, got->code);
	if (got->opcode != L7MP_WS_PING || c->close_sent)
		return;
	if (l7mp_ws_send_control(c, L7MP_WS_PONG, got->data, got->len) < 0)
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
		l7mp_ws_patience(c, L7MP_WS_CLOSE_MS);
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
		l7mp_error_set(&c->error, -ECONNRESET, L7MP_ERR_UPSTREAM, "WebSocket: %s",
		               L7MP_WS_DROPPED);
	l7mp_stream_close(c->io, false);
}

void l7mp_ws_read_all(struct ws_conn *c)
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
	l7mp_ws_set_reading(c);
}
