/* SPDX-License-Identifier: MIT */
/*
 * A connected JSONSocket stream: when the transport is open the header goes out (again and
 * again where it may get lost), and with a 2xx answer the stream is open. How long that
 * may take is the session's business.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jsonsocket_int.h"

/* A second answer that has not come by then is not to come. */
#define DOUBLE_MS 5000

struct up {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct l7mp_stream *inner;
	const struct jsock_transport *transport;
	char *header;
	struct jsock_first first; /* the answer */
	struct l7mp_timer timer;
	struct l7mp_error err; /* why the handshake failed */
	uint64_t open_ms;
	unsigned sent, answered; /* headers and answers */
	bool open;
	bool reading; /* the owner wants to */
	bool payload; /* something else than an answer has come */
	bool closing; /* by the owner, or because the handshake failed */
};

static void fail(struct up *u, int rc, const char *text)
{
	l7mp_error_set(&u->err, rc, L7MP_ERR_UPSTREAM, "JSONSocket: %s", text);
	l7mp_timer_stop(u->env->loop, &u->timer);
	u->closing = true;
	l7mp_stream_close(u->inner, true);
}

static void send_header(struct up *u)
{
	int rc = jsock_send(u->env, u->inner, u->header);

	if (rc >= 0)
		u->sent++;
	else if (!u->transport->lossy || rc == -EMSGSIZE)
		fail(u, rc,
		     rc == -EMSGSIZE ? "the header is longer than the transport can carry"
		                     : "the header can't be sent");
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct up *u = arg;

	send_header(u);
	if (!u->closing)
		(void)l7mp_timer_start(u->env->loop, t, JSOCK_REPEAT_MS);
}

/* ---- the answer ---- */

static void opened(struct up *u, struct l7mp_buf *rest)
{
	l7mp_timer_stop(u->env->loop, &u->timer);
	u->open = true;
	u->answered = 1;
	u->open_ms = l7mp_loop_now(u->env->loop);
	u->base.max_write = u->inner->max_write;
	l7mp_stream_pause(u->inner, !u->reading);
	if (!u->transport->lossy)
		l7mp_str_free(&u->first.text);
	u->base.events->open(u->base.owner);
	if (rest && !u->closing)
		u->base.events->data(u->base.owner, rest);
	else
		l7mp_buf_unref(rest);
}

/* A message is there; takes rest. */
static void check(struct up *u, struct l7mp_buf *rest)
{
	char text[400];
	const char *message;
	cJSON *root;
	int status = jsock_answer_parse(u->first.text.s ? u->first.text.s : "", u->first.text.len,
	                                &root, &message);

	if (status / 100 == 2) {
		cJSON_Delete(root);
		opened(u, rest);
		return;
	}
	l7mp_buf_unref(rest);
	if (status > 0) {
		snprintf(text, sizeof(text), "the server answered %d: %.300s", status, message);
		fail(u, -ECONNREFUSED, text);
	} else if (u->transport->lossy) {
		/* It may have overtaken the answer, which a repeated header brings again. */
		l7mp_stats_drop(u->env->stats, L7MP_DROP_MALFORMED, 1, u->first.text.len);
		l7mp_str_free(&u->first.text);
	} else {
		fail(u, -EBADMSG, "the server's first message is not an answer");
	}
	cJSON_Delete(root);
}

static void handshake(struct up *u, struct l7mp_buf *buf)
{
	struct l7mp_buf *rest;

	switch (jsock_first_take(&u->first, u->base.kind, buf, &rest)) {
	case JSOCK_MORE:
		return;
	case JSOCK_READY:
		check(u, rest);
		return;
	case JSOCK_BAD:
		if (!u->transport->lossy)
			fail(u, -EBADMSG, "the server's first message is not an answer");
	}
}

/* The answer to a header that was sent once more? */
static bool repeated(struct up *u, const struct l7mp_buf *buf)
{
	if (!u->transport->lossy || u->payload)
		return false;
	if (jsock_first_same(&u->first, buf)) {
		u->answered++;
		return true;
	}
	u->payload = true;
	l7mp_str_free(&u->first.text);
	return false;
}

/* ---- what the transport says ---- */

static void on_open(void *owner)
{
	struct up *u = owner;

	if (u->closing)
		return;
	l7mp_stream_pause(u->inner, false);
	send_header(u);
	if (u->transport->lossy && !u->closing &&
	    l7mp_timer_start(u->env->loop, &u->timer, JSOCK_REPEAT_MS))
		fail(u, -ENOMEM, "out of memory");
}

static void on_data(void *owner, struct l7mp_buf *buf)
{
	struct up *u = owner;

	if (u->closing || (u->open && repeated(u, buf))) {
		l7mp_buf_unref(buf);
		return;
	}
	if (!u->open) {
		handshake(u, buf);
		return;
	}
	if (u->base.kind == L7MP_KIND_STREAM)
		buf = jsock_first_strip(&u->first, buf);
	if (buf)
		u->base.events->data(u->base.owner, buf);
}

static void on_drain(void *owner)
{
	struct up *u = owner;

	if (u->open)
		u->base.events->drain(u->base.owner);
}

static void on_end(void *owner, int code)
{
	struct up *u = owner;

	if (u->closing)
		return;
	if (u->open)
		u->base.events->end(u->base.owner, code);
	else
		fail(u, -ECONNABORTED, "the server ended before it answered");
}

static void on_lost(void *owner, int err, uint64_t packets, uint64_t bytes)
{
	struct up *u = owner;

	/* Before that it was a header, which is sent again. */
	if (u->open && u->base.events->lost)
		u->base.events->lost(u->base.owner, err, packets, bytes);
}

static void on_notice(void *owner, const char *event, const char *message)
{
	struct up *u = owner;

	if (u->base.events->notice)
		u->base.events->notice(u->base.owner, event, message);
}

static void up_free(struct up *u)
{
	l7mp_timer_stop(u->env->loop, &u->timer);
	l7mp_str_free(&u->first.text);
	free(u->header);
	free(u);
}

static void on_closed(void *owner, const struct l7mp_error *err)
{
	struct up *u = owner;

	u->base.events->closed(u->base.owner, u->err.code != L7MP_OK ? &u->err : err);
	up_free(u);
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
	struct up *u = (struct up *)base;

	if (u->closing || !u->open) {
		l7mp_buf_unref(buf);
		return u->open ? -EPIPE : -ENOTCONN;
	}
	return l7mp_stream_write(u->inner, buf);
}

static void op_pause(struct l7mp_stream *base, bool on)
{
	struct up *u = (struct up *)base;

	u->reading = !on;
	if (u->open && !u->closing)
		l7mp_stream_pause(u->inner, on);
}

static void op_shutdown(struct l7mp_stream *base, int code)
{
	struct up *u = (struct up *)base;

	if (u->open && !u->closing)
		l7mp_stream_shutdown(u->inner, code);
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct up *u = (struct up *)base;

	if (u->closing && !abort)
		return;
	u->closing = true;
	l7mp_timer_stop(u->env->loop, &u->timer);
	l7mp_stream_close(u->inner, abort);
}

/* May another answer come that must not reach the session? */
static bool expects_answers(const struct up *u)
{
	return u->transport->lossy && !u->payload && u->answered < u->sent &&
	       l7mp_loop_now(u->env->loop) - u->open_ms < DOUBLE_MS;
}

static void op_flow(struct l7mp_stream *base, struct l7mp_flow_end *out)
{
	struct up *u = (struct up *)base;

	if (u->open && !u->closing && !u->first.newline_due && !expects_answers(u)) {
		l7mp_stream_flow(u->inner, out);
		return;
	}
	memset(out, 0, sizeof(*out));
	out->kind = L7MP_FLOW_NONE;
	out->reason = L7MP_REASON_NOT_ESTABLISHED;
}

static int op_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct up *u = (struct up *)base;

	return u->inner->ops->local ? u->inner->ops->local(u->inner, out) : -ENOTSUP;
}

static int op_remote(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct up *u = (struct up *)base;

	return u->inner->ops->remote ? u->inner->ops->remote(u->inner, out) : -ENOTSUP;
}

static const struct l7mp_stream_ops up_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
        .flow = op_flow,
        .local = op_local,
        .remote = op_remote,
};

/* ---- connecting ---- */

static int start(struct up *u, const struct l7mp_connect *params, const struct l7mp_proto *proto,
                 struct l7mp_error *err)
{
	struct l7mp_connect inner = *params;
	int rc;

	rc = jsock_header_make(l7mp_json_member(params->cluster_spec, "header"), params->metadata,
	                       u->transport->spoofable ? JSOCK_PAD : 0, &u->header, err);
	if (rc)
		return rc;
	inner.cluster_spec = l7mp_json_member(params->cluster_spec, "transport");
	rc = proto->connect(&inner, &u->inner, err);
	if (rc)
		return rc;
	u->base.kind = u->inner->kind;
	u->base.max_write = u->inner->max_write;
	l7mp_stream_attach(u->inner, &transport_events, u);
	return 0;
}

int jsock_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                  struct l7mp_error *err)
{
	const struct jsock_transport *transport;
	const struct l7mp_proto *proto =
	        jsock_transport_proto(params->env, params->cluster_spec, &transport, err);
	struct up *u;
	int rc;

	if (!proto)
		return -EINVAL;
	u = calloc(1, sizeof(*u));
	if (!u)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	u->base.ops = &up_ops;
	u->env = params->env;
	u->transport = transport;
	l7mp_timer_init(&u->timer, on_timer, u);
	rc = start(u, params, proto, err);
	if (rc) {
		up_free(u);
		return rc;
	}
	*out = &u->base;
	return 0;
}
