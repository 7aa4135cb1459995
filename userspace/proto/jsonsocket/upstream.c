/* SPDX-License-Identifier: MIT */
/*
 * The client's side of the handshake: when the transport is open the header is sent, repeatedly if
 * messages may be lost; with a 2xx answer the stream is open. The session limits the time for this.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "jsonsocket.h"

#define REPEAT_MS 500 /* between two headers, if messages may be lost */
/* Headers are padded to this length where the answer may not be longer than the header. */
#define HEADER_PAD 256
/* White space after the header that makes it unique per session, where messages may be lost. */
#define MARK_LEN 32
/* How long after the first answer further ones, to repeated headers, may be received. */
#define REPEATED_ANSWER_MS 5000

struct jsock_upstream {
	struct jsock_stream js; /* first; ready: the server has answered 2xx */
	char *header;
	struct l7mp_error err; /* why the handshake failed */
	uint64_t open_ms;
	unsigned sent, answered; /* headers sent, answers received */
	bool reading;            /* requested by the owner */
};

static void upstream_fail(struct jsock_upstream *u, int rc, const char *text)
{
	l7mp_error_set(&u->err, rc, L7MP_ERR_UPSTREAM, "JSONSocket: %s", text);
	l7mp_timer_stop(u->js.env->loop, &u->js.timer);
	u->js.closing = true;
	l7mp_stream_close(u->js.inner, true);
}

static void send_header(struct jsock_upstream *u)
{
	int rc = jsock_send(u->js.env, u->js.inner, u->header);

	if (rc >= 0)
		u->sent++;
	else if (!u->js.transport->lossy || rc == -EMSGSIZE)
		upstream_fail(u, rc,
		              rc == -EMSGSIZE ? "the header is longer than the transport can carry"
		                              : "the header can't be sent");
}

static void upstream_on_timer(struct l7mp_timer *t, void *arg)
{
	struct jsock_upstream *u = arg;

	send_header(u);
	if (!u->js.closing)
		(void)l7mp_timer_start(u->js.env->loop, t, REPEAT_MS);
}

/* ---- the answer ---- */

static void opened(struct jsock_upstream *u, struct l7mp_buf *rest)
{
	l7mp_timer_stop(u->js.env->loop, &u->js.timer);
	u->js.ready = true;
	u->answered = 1;
	u->open_ms = l7mp_loop_now(u->js.env->loop);
	u->js.base.max_write = u->js.inner->max_write;
	l7mp_stream_pause(u->js.inner, !u->reading);
	if (!u->js.transport->lossy)
		l7mp_str_free(&u->js.first.text);
	u->js.base.events->open(u->js.base.owner);
	if (rest && !u->js.closing)
		u->js.base.events->data(u->js.base.owner, rest);
	else
		l7mp_buf_unref(rest);
}

/* The first message is complete; takes rest. */
static void upstream_check(struct jsock_upstream *u, struct l7mp_buf *rest)
{
	char text[400];
	const char *message;
	cJSON *root;
	int status = jsock_answer_parse(u->js.first.text.s ? u->js.first.text.s : "",
	                                u->js.first.text.len, &root, &message);

	if (status / 100 == 2) {
		cJSON_Delete(root);
		opened(u, rest);
		return;
	}
	l7mp_buf_unref(rest);
	if (status > 0) {
		snprintf(text, sizeof(text), "the server answered %d: %.300s", status, message);
		upstream_fail(u, -ECONNREFUSED, text);
	} else if (u->js.transport->lossy) {
		/* Payload may overtake the answer, which is sent again for the next header. */
		l7mp_stats_drop(u->js.env->stats, L7MP_DROP_MALFORMED, 1, u->js.first.text.len);
		l7mp_str_free(&u->js.first.text);
	} else {
		upstream_fail(u, -EBADMSG, "the server's first message is not an answer");
	}
	cJSON_Delete(root);
}

static void upstream_handshake(struct jsock_upstream *u, struct l7mp_buf *buf)
{
	struct l7mp_buf *rest;

	switch (jsock_first_take(&u->js.first, u->js.base.kind, buf, &rest)) {
	case JSOCK_MORE:
		return;
	case JSOCK_READY:
		upstream_check(u, rest);
		return;
	case JSOCK_BAD:
		if (!u->js.transport->lossy)
			upstream_fail(u, -EBADMSG, "the server's first message is not an answer");
	}
}

/* Returns whether it is the answer to a repeated header. */
static bool upstream_repeated(struct jsock_upstream *u, const struct l7mp_buf *buf)
{
	if (!u->js.transport->lossy || u->js.payload_seen)
		return false;
	if (jsock_first_same(&u->js.first, buf)) {
		u->answered++;
		return true;
	}
	u->js.payload_seen = true;
	l7mp_str_free(&u->js.first.text);
	return false;
}

/* ---- events of the transport ---- */

static void upstream_on_open(void *owner)
{
	struct jsock_upstream *u = owner;

	if (u->js.closing)
		return;
	l7mp_stream_pause(u->js.inner, false);
	send_header(u);
	if (u->js.transport->lossy && !u->js.closing &&
	    l7mp_timer_start(u->js.env->loop, &u->js.timer, REPEAT_MS))
		upstream_fail(u, -ENOMEM, "out of memory");
}

static void upstream_on_data(void *owner, struct l7mp_buf *buf)
{
	struct jsock_upstream *u = owner;

	if (u->js.closing || (u->js.ready && upstream_repeated(u, buf))) {
		l7mp_buf_unref(buf);
		return;
	}
	if (!u->js.ready) {
		upstream_handshake(u, buf);
		return;
	}
	jsock_deliver(&u->js, buf);
}

static void upstream_on_end(void *owner, int code)
{
	struct jsock_upstream *u = owner;

	if (u->js.closing)
		return;
	if (u->js.ready)
		u->js.base.events->end(u->js.base.owner, code);
	else
		upstream_fail(u, -ECONNABORTED, "the server ended before it answered");
}

static void upstream_free(struct jsock_upstream *u)
{
	l7mp_timer_stop(u->js.env->loop, &u->js.timer);
	l7mp_str_free(&u->js.first.text);
	free(u->header);
	free(u);
}

static void upstream_on_closed(void *owner, const struct l7mp_error *err)
{
	struct jsock_upstream *u = owner;

	u->js.base.events->closed(u->js.base.owner, u->err.code != L7MP_OK ? &u->err : err);
	upstream_free(u);
}

static const struct l7mp_stream_events upstream_transport_events = {
        .open = upstream_on_open,
        .data = upstream_on_data,
        .drain = jsock_on_drain,
        .end = upstream_on_end,
        .lost = jsock_on_lost,
        .path_changed = jsock_on_path_changed,
        .unreachable = jsock_on_unreachable,
        .notice = jsock_on_notice,
        .closed = upstream_on_closed,
};

/* ---- operations ---- */

static void upstream_op_pause(struct l7mp_stream *base, bool on)
{
	struct jsock_upstream *u = (struct jsock_upstream *)base;

	u->reading = !on;
	if (u->js.ready && !u->js.closing)
		l7mp_stream_pause(u->js.inner, on);
}

/* Whether further answers may be received, which must not reach the session. */
static bool expects_answers(const struct jsock_upstream *u)
{
	return u->js.transport->lossy && !u->js.payload_seen && u->answered < u->sent &&
	       l7mp_loop_now(u->js.env->loop) - u->open_ms < REPEATED_ANSWER_MS;
}

static void upstream_op_flow(struct l7mp_stream *base, struct l7mp_flow_end *out)
{
	struct jsock_upstream *u = (struct jsock_upstream *)base;

	jsock_flow(&u->js, !expects_answers(u), out);
}

static const struct l7mp_stream_ops upstream_ops = {
        .write = jsock_write,
        .pause = upstream_op_pause,
        .shutdown = jsock_shutdown,
        .close = jsock_close,
        .flow = upstream_op_flow,
        .local = jsock_local,
        .drain_now = jsock_drain_now,
        .remote = jsock_remote,
};

/* ---- connecting ---- */

/*
 * Makes the header differ from that of every other session: by this a server distinguishes a client
 * that starts a new session on the same port from a retransmission.
 */
static int mark_header(struct jsock_upstream *u)
{
	size_t len = strlen(u->header), blank = len;
	uint32_t mark;
	char *text;

	if (!u->js.transport->lossy)
		return 0;
	while (blank && u->header[blank - 1] == ' ')
		blank--;
	if (len - blank < MARK_LEN)
		len = blank + MARK_LEN;
	if (len > JSOCK_HEAD_MAX)
		return 0;
	text = realloc(u->header, len + 1);
	if (!text)
		return -ENOMEM;
	u->header = text;
	if (getrandom(&mark, sizeof(mark), GRND_NONBLOCK) != sizeof(mark))
		mark = (uint32_t)l7mp_loop_now(u->js.env->loop);
	for (size_t i = len - MARK_LEN; i < len; i++, mark >>= 1)
		text[i] = mark & 1 ? '\t' : ' ';
	text[len] = '\0';
	return 0;
}

static int upstream_start(struct jsock_upstream *u, const struct l7mp_connect *params,
                          const struct l7mp_proto *proto, struct l7mp_error *err)
{
	struct l7mp_connect inner = *params;
	int rc;

	rc = jsock_header_make(l7mp_json_member(params->cluster_spec, "header"), params->metadata,
	                       u->js.transport->spoofable ? HEADER_PAD : 0, &u->header, err);
	if (rc)
		return rc;
	rc = mark_header(u);
	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "out of memory");
	inner.cluster_spec = l7mp_json_member(params->cluster_spec, "transport");
	rc = proto->connect(&inner, &u->js.inner, err);
	if (rc)
		return rc;
	u->js.base.kind = u->js.inner->kind;
	u->js.base.max_write = u->js.inner->max_write;
	l7mp_stream_attach(u->js.inner, &upstream_transport_events, u);
	return 0;
}

int jsock_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                  struct l7mp_error *err)
{
	const struct jsock_transport *transport;
	const struct l7mp_proto *proto =
	        jsock_transport_proto(params->env, params->cluster_spec, &transport, err);
	struct jsock_upstream *u;
	int rc;

	if (!proto)
		return -EINVAL;
	u = calloc(1, sizeof(*u));
	if (!u)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	u->js.base.ops = &upstream_ops;
	u->js.env = params->env;
	u->js.transport = transport;
	l7mp_timer_init(&u->js.timer, upstream_on_timer, u);
	rc = upstream_start(u, params, proto, err);
	if (rc) {
		upstream_free(u);
		return rc;
	}
	*out = &u->js.base;
	return 0;
}
