/* SPDX-License-Identifier: MIT */
/*
 * The stream of both ends after the handshake: passes everything through to its transport's stream
 * and back.
 */
#include <errno.h>
#include <string.h>

#include "jsonsocket.h"

void jsock_deliver(struct jsock_stream *s, struct l7mp_buf *buf)
{
	if (s->base.kind == L7MP_KIND_STREAM)
		buf = jsock_first_strip(&s->first, buf);
	if (buf)
		s->base.events->data(s->base.owner, buf);
}

void jsock_flow(struct jsock_stream *s, bool settled, struct l7mp_flow_end *out)
{
	if (s->ready && !s->closing && !s->first.newline_due && settled) {
		l7mp_stream_flow(s->inner, out);
		return;
	}
	memset(out, 0, sizeof(*out));
	out->kind = L7MP_FLOW_NONE;
	out->reason = L7MP_REASON_NOT_ESTABLISHED;
}

int jsock_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct jsock_stream *s = (struct jsock_stream *)base;

	if (s->closing || !s->ready) {
		l7mp_buf_unref(buf);
		return s->closing ? -EPIPE : -ENOTCONN;
	}
	return l7mp_stream_write(s->inner, buf);
}

void jsock_shutdown(struct l7mp_stream *base, int code)
{
	struct jsock_stream *s = (struct jsock_stream *)base;

	if (s->ready && !s->closing)
		l7mp_stream_shutdown(s->inner, code);
}

void jsock_close(struct l7mp_stream *base, bool abort)
{
	struct jsock_stream *s = (struct jsock_stream *)base;

	if (s->closing && !abort)
		return;
	s->closing = true;
	l7mp_timer_stop(s->env->loop, &s->timer);
	l7mp_stream_close(s->inner, abort);
}

int jsock_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct l7mp_stream *inner = ((struct jsock_stream *)base)->inner;

	return inner->ops->local ? inner->ops->local(inner, out) : -ENOTSUP;
}

int jsock_remote(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct l7mp_stream *inner = ((struct jsock_stream *)base)->inner;

	return inner->ops->remote ? inner->ops->remote(inner, out) : -ENOTSUP;
}

size_t jsock_drain_now(struct l7mp_stream *base)
{
	struct l7mp_stream *inner = ((struct jsock_stream *)base)->inner;

	return inner->ops->drain_now ? inner->ops->drain_now(inner) : 0;
}

/* An accepted stream has no owner before its header was received. */
static bool has_owner(const struct jsock_stream *s)
{
	return s->base.events != NULL;
}

void jsock_on_drain(void *owner)
{
	struct jsock_stream *s = owner;

	if (s->ready && has_owner(s))
		s->base.events->drain(s->base.owner);
}

void jsock_on_lost(void *owner, int err, uint64_t packets, uint64_t bytes)
{
	struct jsock_stream *s = owner;

	/* Before that it was a message of the handshake, which is retransmitted. */
	if (s->ready && has_owner(s) && s->base.events->lost)
		s->base.events->lost(s->base.owner, err, packets, bytes);
}

void jsock_on_notice(void *owner, const char *event, const char *message)
{
	struct jsock_stream *s = owner;

	if (has_owner(s) && s->base.events->notice)
		s->base.events->notice(s->base.owner, event, message);
}

void jsock_on_unreachable(void *owner, int err)
{
	struct jsock_stream *s = owner;

	if (has_owner(s) && s->base.events->unreachable)
		s->base.events->unreachable(s->base.owner, err);
}

void jsock_on_path_changed(void *owner)
{
	struct jsock_stream *s = owner;

	if (has_owner(s) && s->base.events->path_changed)
		s->base.events->path_changed(s->base.owner);
}
