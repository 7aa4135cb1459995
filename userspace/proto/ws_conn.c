/* SPDX-License-Identifier: MIT */
/*
 * A WebSocket connection as a stream: one message is one buffer. Callbacks of the
 * library become events here; calls of the owner only queue, and what they lead to
 * happens in a task or in the library's own callbacks.
 */
#include "ws_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/log.h"

/* How many messages are written in one go, so that one connection can't keep the loop. */
#define WRITE_BURST 32

/* ---- the end ---- */

void l7mp_ws_conn_free(struct ws_conn *c)
{
	struct l7mp_loop *loop = c->state->env->loop;

	l7mp_task_cancel(loop, &c->task);
	l7mp_timer_stop(loop, &c->timer);
	l7mp_resolve_cancel(&c->resolve);
	l7mp_ws_tls_end(c);
	l7mp_bufq_clear(&c->out);
	l7mp_buf_unref(c->message);
	cJSON_Delete(c->http);
	cJSON_Delete(c->tls_details);
	cJSON_Delete(c->bind);
	free(c->addrs);
	free(c->offered);
	free(c->host);
	free(c->path);
	free(c->headers);
	free(c->subprotocol);
	free(c->address);
	l7mp_tls_ctx_unref(&c->tls_ctx);
	free(c);
}

static void leave_listener(struct ws_conn *c)
{
	if (!c->listener)
		return;
	if (c->prev)
		c->prev->next = c->next;
	else
		c->listener->conns = c->next;
	if (c->next)
		c->next->prev = c->prev;
	c->listener = NULL;
	c->prev = c->next = NULL;
}

static void die(struct ws_conn *c)
{
	struct l7mp_loop *loop = c->state->env->loop;

	if (c->dead)
		return;
	c->dead = true;
	c->up = false;
	l7mp_timer_stop(loop, &c->timer);
	l7mp_task_post(loop, &c->task);
}

void l7mp_ws_conn_gone(struct ws_conn *c, const char *text)
{
	if (!text && !c->ended && !c->close_sent && !c->aborting)
		text = "the peer dropped the connection without a Close frame";
	if (text && c->error.code == L7MP_OK)
		l7mp_error_set(&c->error, -ECONNRESET, L7MP_ERR_UPSTREAM, "WebSocket: %s", text);
	die(c);
}

static void finish(struct ws_conn *c)
{
	if (c->listener) { /* its handshake failed: nobody has heard of it */
		leave_listener(c);
		l7mp_ws_conn_free(c);
		return;
	}
	if (c->out.count && !c->closing && c->base.events)
		c->base.events->lost(c->base.owner, -ECONNRESET, c->out.count, c->out.bytes);
	if (c->base.events)
		c->base.events->closed(c->base.owner, &c->error);
	l7mp_ws_conn_free(c);
}

void l7mp_ws_conn_drop_handshakes(struct ws_listener *l)
{
	for (struct ws_conn *c = l->conns, *next; c; c = next) {
		next = c->next;
		l7mp_ws_forget(c);
		l7mp_ws_conn_free(c);
	}
	l->conns = NULL;
}

static void on_task(struct l7mp_task *task, void *arg)
{
	struct ws_conn *c = arg;

	(void)task;
	if (!c->dead && (c->aborting || (c->closing && !c->up))) {
		l7mp_resolve_cancel(&c->resolve);
		l7mp_ws_forget(c);
		die(c);
		l7mp_task_cancel(c->state->env->loop, &c->task);
	}
	if (c->dead)
		finish(c);
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct ws_conn *c = arg;

	(void)t;
	l7mp_log_verbose("ws", "the peer did not answer a Close frame within %d ms",
	                 L7MP_WS_CLOSE_MS);
	l7mp_ws_forget(c);
	die(c);
}

/* ---- what the owner calls ---- */

static int ws_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct ws_conn *c = (struct ws_conn *)base;
	const struct l7mp_limits *limits = c->state->env->limits;
	size_t max = limits && limits->max_queue ? limits->max_queue : 4 * L7MP_WS_OUT_HIGH;
	int rc = 0;

	if (!c->up)
		rc = -ENOTCONN;
	else if (c->shut)
		rc = -EPIPE;
	else if (buf->len > L7MP_WS_MESSAGE_MAX)
		rc = -EMSGSIZE;
	else if (c->out.count && c->out.bytes + buf->len > max)
		rc = -ENOBUFS; /* a single one of any size may go */
	if (rc < 0) {
		l7mp_buf_unref(buf);
		return rc;
	}
	l7mp_bufq_push(&c->out, buf);
	l7mp_ws_want_write(c);
	if (c->out.bytes < L7MP_WS_OUT_HIGH)
		return 0;
	c->full = true;
	return L7MP_STREAM_FULL;
}

static void ws_pause(struct l7mp_stream *base, bool on)
{
	struct ws_conn *c = (struct ws_conn *)base;

	if (c->paused == on)
		return;
	c->paused = on;
	if (c->up)
		l7mp_ws_flow(c, !on);
}

static void ws_shutdown(struct l7mp_stream *base, int code)
{
	struct ws_conn *c = (struct ws_conn *)base;

	if (c->shut)
		return;
	c->shut = true;
	c->code = code;
	if (c->up)
		l7mp_ws_want_write(c);
}

static void ws_close(struct l7mp_stream *base, bool abort)
{
	struct ws_conn *c = (struct ws_conn *)base;

	if (abort && !c->aborting) {
		c->aborting = true;
		l7mp_task_post(c->state->env->loop, &c->task);
	}
	if (c->closing)
		return;
	c->closing = true;
	if (!c->up) {
		l7mp_task_post(c->state->env->loop, &c->task);
		return;
	}
	ws_shutdown(base, 0);
	ws_pause(base, false); /* or the peer's Close frame is never read */
	if (c->close_sent && !l7mp_timer_armed(&c->timer))
		l7mp_timer_start(c->state->env->loop, &c->timer, L7MP_WS_CLOSE_MS);
}

static int ws_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct ws_conn *c = (struct ws_conn *)base;

	if (!c->local.len)
		return l7mp_ws_local(c, out);
	*out = c->local;
	return 0;
}

static const struct l7mp_stream_ops ws_ops = {
        .write = ws_write,
        .pause = ws_pause,
        .shutdown = ws_shutdown,
        .close = ws_close,
        .local = ws_local,
};

struct ws_conn *l7mp_ws_conn_new(struct ws_state *st)
{
	struct ws_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->base.ops = &ws_ops;
	c->base.kind = L7MP_KIND_DATAGRAM;
	c->state = st;
	c->paused = true;
	l7mp_bufq_init(&c->out);
	l7mp_task_init(&c->task, on_task, c);
	l7mp_timer_init(&c->timer, on_timer, c);
	return c;
}

/* ---- what the library calls ---- */

/* Hands an accepted connection up. */
static bool emit_accept(struct ws_conn *c)
{
	struct ws_listener *l = c->listener;
	struct l7mp_accept a = {.stream = &c->base, .peer = c->peer};

	leave_listener(c);
	a.name = l7mp_inet_name("WS", &c->peer, &c->local, ++c->state->next_id);
	a.metadata = l7mp_inet_metadata("TCP", &c->peer, &c->local);
	if (a.metadata && l7mp_json_add(a.metadata, "HTTP", c->http) < 0) {
		cJSON_Delete(a.metadata);
		a.metadata = NULL;
	}
	c->http = NULL;
	if (c->tls_details && a.metadata && l7mp_json_add(a.metadata, "TLS", c->tls_details) < 0) {
		cJSON_Delete(a.metadata);
		a.metadata = NULL;
	}
	c->tls_details = NULL;
	(void)l7mp_accept_emit(&l->tcp.base, &a);
	return true;
}

bool l7mp_ws_conn_up(struct ws_conn *c)
{
	if (c->dead || c->aborting || c->closing)
		return false;
	c->up = true;
	if (c->paused)
		l7mp_ws_flow(c, false);
	if (c->listener)
		return emit_accept(c);
	if (c->tls_details && c->base.events->notice)
		c->base.events->notice(c->base.owner, "tls",
		                       l7mp_json_str(c->tls_details, "version", ""));
	c->base.events->open(c->base.owner);
	if (c->shut || c->out.count)
		l7mp_ws_want_write(c);
	return true;
}

/* Room for `need` bytes; grows by doubling, so that an announced length alone costs nothing. */
static bool make_room(struct ws_conn *c, size_t need, size_t left)
{
	size_t want = need + (left < 65536 ? left : 65536);

	if (!c->message) {
		c->message = l7mp_buf_new(l7mp_loop_bufs(c->state->env->loop), want);
		return c->message != NULL;
	}
	if (l7mp_buf_tailroom(c->message) >= need - c->message->len)
		return true;
	if (want < 2 * (size_t)c->message->len)
		want = 2 * (size_t)c->message->len;
	c->message = l7mp_buf_own(c->message, L7MP_BUF_HEADROOM, want);
	return c->message != NULL;
}

int l7mp_ws_conn_receive(struct ws_conn *c, const void *data, size_t len, size_t left, bool first,
                         bool final, bool text)
{
	size_t have = c->message ? c->message->len : 0;
	struct l7mp_buf *buf;

	if (c->closing || !c->up)
		return 0;
	if (first && c->message) {
		l7mp_buf_unref(c->message);
		c->message = NULL;
		have = 0;
	}
	if (have + len + left > L7MP_WS_MESSAGE_MAX) {
		l7mp_error_set(&c->error, -EMSGSIZE, L7MP_ERR_TOO_LARGE,
		               "WebSocket: a message of more than %d bytes", L7MP_WS_MESSAGE_MAX);
		return 1009;
	}
	if (!make_room(c, have + len, left)) {
		l7mp_error_set(&c->error, -ENOMEM, L7MP_ERR_INTERNAL, "WebSocket: out of memory");
		return 1011;
	}
	if (len)
		memcpy(c->message->data + c->message->len, data, len);
	c->message->len += (uint32_t)len;
	if (text)
		c->message->flags |= L7MP_BUF_TEXT;
	if (!final)
		return 0;
	if (c->close_sent)
		l7mp_timer_start(c->state->env->loop, &c->timer, L7MP_WS_CLOSE_MS);
	buf = c->message;
	c->message = NULL;
	c->base.events->data(c->base.owner, buf);
	return 0;
}

bool l7mp_ws_conn_writable(struct ws_conn *c)
{
	for (int i = 0; i < WRITE_BURST && c->up && c->out.count && !l7mp_ws_choked(c); i++)
		if (l7mp_ws_send(c, l7mp_bufq_pop(&c->out)) < 0)
			return false;
	if (!c->up)
		return true;
	if (c->out.count) {
		l7mp_ws_want_write(c);
	} else if (c->shut && !c->close_sent) {
		if (l7mp_ws_choked(c)) {
			l7mp_ws_want_write(c);
		} else {
			c->close_sent = true;
			if (l7mp_ws_send_close(c, c->code) < 0)
				return false;
			l7mp_timer_start(c->state->env->loop, &c->timer, L7MP_WS_CLOSE_MS);
		}
	}
	if (c->full && !c->closing && c->out.bytes < L7MP_WS_OUT_LOW) {
		c->full = false;
		c->base.events->drain(c->base.owner);
	}
	return true;
}

bool l7mp_ws_conn_peer_close(struct ws_conn *c, int code)
{
	if (c->up && !c->ended) {
		c->ended = true;
		if (!c->closing)
			c->base.events->end(c->base.owner, code);
	}
	/*
	 * The library answers the Close frame when this returns, and nothing may follow
	 * that: what is queued goes now (it is bounded; the library keeps what the
	 * socket does not take).
	 */
	while (!c->close_sent && c->up && c->out.count)
		if (l7mp_ws_send(c, l7mp_bufq_pop(&c->out)) < 0)
			return false;
	return !c->close_sent;
}
