/* SPDX-License-Identifier: MIT */
/*
 * An accepted JSONSocket stream: first its handshake, for nobody above; then a session's
 * source, which passes everything through to the transport's stream.
 *
 *   in the listener's list --header--> handed up --result 200--> up
 *          \--bad header, time-out--> answered, closing, still in the list
 *
 * Every path ends in the transport's `closed`, where the memory is given back.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jsonsocket_int.h"
#include "l7mp/hash.h"
#include "net/net.h"

/* ---- answering ---- */

static void answer(struct jsock_source *s, int status, const char *message)
{
	size_t max = SIZE_MAX;
	char *text;

	/* Before the route has answered, a source gets no more than it has sent. */
	if (s->transport->spoofable && status / 100 != 2)
		max = s->received > s->sent ? (size_t)(s->received - s->sent) : 0;
	text = jsock_answer_text(status, message, max);
	if (!text)
		return;
	s->sent += strlen(text);
	(void)jsock_send(s->env, s->inner, text);
	free(s->answer);
	s->answer = text;
}

static void leave_listener(struct jsock_source *s)
{
	if (!s->listener)
		return;
	DL_DELETE(s->listener->pending, s);
	s->listener->n_pending--;
	s->listener = NULL;
	l7mp_timer_stop(s->env->loop, &s->timer);
}

void jsock_source_refuse(struct jsock_source *s, int status, const char *why, bool abort)
{
	l7mp_timer_stop(s->env->loop, &s->timer);
	if (!abort && !s->closing)
		answer(s, status, why);
	s->closing = true;
	/* While the answer leaves it still counts, so that refused clients are bounded too. */
	if (abort)
		leave_listener(s);
	l7mp_stream_close(s->inner, abort);
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	(void)t;
	jsock_source_refuse(arg, 408, "no request header in time", false);
}

/* ---- the handshake ---- */

/* The repeated header and the answer to it are of use only while messages can get lost. */
static void settle(struct jsock_source *s)
{
	if (s->transport->lossy && !(s->up && s->payload))
		return;
	l7mp_str_free(&s->first.text);
	free(s->answer);
	s->answer = NULL;
}

/* Hands the stream up; takes header and rest. */
static void begin(struct jsock_source *s, cJSON *header, struct l7mp_buf *rest)
{
	struct jsock_listener *l = s->listener;
	struct l7mp_accept a = s->accept;

	leave_listener(s);
	a.stream = &s->base;
	a.name = l7mp_asprintf("JSONSocket:%s-%llu", l->name,
	                       (unsigned long long)++l->state->last_id);
	s->accept.metadata = NULL;
	if (l7mp_json_add(a.metadata, "JSONSocket", header)) {
		cJSON_Delete(a.metadata);
		a.metadata = NULL;
	}
	l7mp_stream_pause(s->inner, true);
	settle(s);
	/* The owner may do anything, also delete the listener; s stays until its `closed`. */
	(void)l7mp_accept_emit(&l->base, &a);
	if (!rest)
		return;
	if (s->base.events && !s->closing) {
		s->base.events->data(s->base.owner, rest);
		return;
	}
	l7mp_buf_unref(rest);
}

/* A complete message is there; takes rest. */
static void check(struct jsock_source *s, struct l7mp_buf *rest)
{
	struct jsock_listener *l = s->listener;
	char why[256];
	int status;
	cJSON *header = jsock_header_parse(s->first.text.s ? s->first.text.s : "",
	                                   s->first.text.len, &status, why, sizeof(why));

	if (!header) {
		l7mp_stats_drop(s->env->stats, L7MP_DROP_MALFORMED, 1, s->first.text.len);
	} else if (l->base.events->admit && l->base.events->admit(l->base.arg, &s->accept.peer)) {
		l7mp_stats_drop(s->env->stats, L7MP_DROP_LIMIT, 1, s->first.text.len);
		status = 503;
		snprintf(why, sizeof(why), "a limit refuses the session");
	} else {
		begin(s, header, rest);
		return;
	}
	cJSON_Delete(header);
	l7mp_buf_unref(rest);
	jsock_source_refuse(s, status, why, false);
}

static void handshake(struct jsock_source *s, struct l7mp_buf *buf)
{
	struct l7mp_buf *rest;

	s->received += buf->len;
	switch (jsock_first_take(&s->first, s->base.kind, buf, &rest)) {
	case JSOCK_MORE:
		return;
	case JSOCK_READY:
		check(s, rest);
		return;
	case JSOCK_BAD:
		l7mp_stats_drop(s->env->stats, L7MP_DROP_MALFORMED, 1, s->received);
		jsock_source_refuse(s, 400, "expected a JSON object of at most 64 KiB", false);
	}
}

/* Once more the header? Then it is answered again; true. */
static bool repeated(struct jsock_source *s, const struct l7mp_buf *buf)
{
	if (!s->transport->lossy || (s->up && s->payload))
		return false;
	if (!jsock_first_same(&s->first, buf)) {
		s->payload = true;
		settle(s);
		return false;
	}
	s->received += buf->len;
	if (s->up && s->answer)
		(void)jsock_send(s->env, s->inner, s->answer);
	return true;
}

/* ---- what the transport says ---- */

static void on_open(void *owner)
{
	(void)owner; /* it was open when it was accepted */
}

static void on_data(void *owner, struct l7mp_buf *buf)
{
	struct jsock_source *s = owner;

	if (s->listener && !s->closing) {
		handshake(s, buf);
		return;
	}
	if (s->closing || !s->base.events || repeated(s, buf)) {
		l7mp_buf_unref(buf);
		return;
	}
	if (s->base.kind == L7MP_KIND_STREAM)
		buf = jsock_first_strip(&s->first, buf);
	if (buf)
		s->base.events->data(s->base.owner, buf);
}

static void on_drain(void *owner)
{
	struct jsock_source *s = owner;

	if (s->base.events)
		s->base.events->drain(s->base.owner);
}

static void on_end(void *owner, int code)
{
	struct jsock_source *s = owner;

	if (s->closing)
		return;
	if (s->listener)
		jsock_source_refuse(s, 400, "the request header is not complete", false);
	else if (s->base.events)
		s->base.events->end(s->base.owner, code);
}

static void on_lost(void *owner, int err, uint64_t packets, uint64_t bytes)
{
	struct jsock_source *s = owner;

	if (s->base.events && s->base.events->lost)
		s->base.events->lost(s->base.owner, err, packets, bytes);
}

static void on_notice(void *owner, const char *event, const char *message)
{
	struct jsock_source *s = owner;

	if (s->base.events && s->base.events->notice)
		s->base.events->notice(s->base.owner, event, message);
}

static void on_closed(void *owner, const struct l7mp_error *err)
{
	struct jsock_source *s = owner;

	leave_listener(s);
	if (s->base.events)
		s->base.events->closed(s->base.owner, err);
	l7mp_timer_stop(s->env->loop, &s->timer);
	cJSON_Delete(s->accept.metadata);
	l7mp_str_free(&s->first.text);
	free(s->answer);
	free(s);
}

static const struct l7mp_stream_events transport_events = {
        .open = on_open,
        .data = on_data,
        .drain = on_drain,
        .end = on_end,
        .lost = on_lost,
        .notice = on_notice,
        .closed = on_closed,
};

/* ---- operations ---- */

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct jsock_source *s = (struct jsock_source *)base;

	if (s->closing || !s->up) {
		l7mp_buf_unref(buf);
		return s->closing ? -EPIPE : -ENOTCONN;
	}
	return l7mp_stream_write(s->inner, buf);
}

static void op_pause(struct l7mp_stream *base, bool on)
{
	struct jsock_source *s = (struct jsock_source *)base;

	if (!s->closing)
		l7mp_stream_pause(s->inner, on);
}

static void op_shutdown(struct l7mp_stream *base, int code)
{
	struct jsock_source *s = (struct jsock_source *)base;

	if (!s->closing)
		l7mp_stream_shutdown(s->inner, code);
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct jsock_source *s = (struct jsock_source *)base;

	if (s->closing && !abort)
		return;
	s->closing = true;
	l7mp_stream_close(s->inner, abort);
}

static void op_result(struct l7mp_stream *base, int status, const char *message)
{
	struct jsock_source *s = (struct jsock_source *)base;

	if (s->closing)
		return;
	s->up = status / 100 == 2;
	answer(s, status, message ? message : "");
	settle(s);
}

static void op_flow(struct l7mp_stream *base, struct l7mp_flow_end *out)
{
	struct jsock_source *s = (struct jsock_source *)base;

	if (s->up && !s->closing && (s->payload || !s->transport->lossy) && !s->first.newline_due) {
		l7mp_stream_flow(s->inner, out);
		return;
	}
	memset(out, 0, sizeof(*out));
	out->kind = L7MP_FLOW_NONE;
	out->reason = L7MP_REASON_NOT_ESTABLISHED;
}

static int op_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct jsock_source *s = (struct jsock_source *)base;

	return s->inner->ops->local ? s->inner->ops->local(s->inner, out) : -ENOTSUP;
}

static const struct l7mp_stream_ops source_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
        .result = op_result,
        .flow = op_flow,
        .local = op_local,
};

void jsock_source_new(struct jsock_listener *l, struct l7mp_accept *a)
{
	struct jsock_source *s = calloc(1, sizeof(*s));

	free(a->name);
	a->name = NULL;
	if (!s) {
		cJSON_Delete(a->metadata);
		l7mp_stream_close(a->stream, true);
		return;
	}
	s->base.ops = &source_ops;
	s->base.kind = a->stream->kind;
	s->base.max_write = a->stream->max_write;
	s->env = l->env;
	s->transport = l->transport;
	s->inner = a->stream;
	s->accept = *a;
	/* It can't be opened anew without a handshake. */
	s->accept.reopen = NULL;
	s->accept.never_idle = a->never_idle || !l->proto->desc.idle_timeout;
	s->listener = l;
	DL_APPEND(l->pending, s);
	l->n_pending++;
	l7mp_timer_init(&s->timer, on_timer, s);
	l7mp_stream_attach(s->inner, &transport_events, s);
	if (l7mp_timer_start(s->env->loop, &s->timer, JSOCK_HANDSHAKE_MS)) {
		jsock_source_refuse(s, 503, "", true);
		return;
	}
	l7mp_stream_pause(s->inner, false);
}
