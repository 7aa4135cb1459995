/* SPDX-License-Identifier: MIT */
/*
 * JSONSocket listeners: a listener of the transport, and for each stream that it accepts the
 * server's side of the handshake. A session does not see an accepted stream before its header was
 * received; then it is the session's source and passes everything through.
 *
 *   in listener->pending --header--> emitted --result 2xx--> connected
 *          \--bad header, time-out--> answered, closing, still in listener->pending
 *
 * A valid header that differs from the first one, from the same source, comes from a client that
 * was restarted: its old session ends, and the header begins another one (RFC 6347, section 4.2.8,
 * has the same case for DTLS). A repetition of the first header is payload once the client has sent
 * other data.
 *
 * All paths end with `closed` of the transport's stream, which frees the memory.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jsonsocket.h"
#include "l7mp/hash.h"
#include "l7mp/protos.h"
#include "net/net.h"

#define PENDING_MAX  512 /* handshakes in progress of a listener, including rejected ones */
#define HANDSHAKE_MS 10000

struct jsock_source;

struct jsock_listener {
	struct l7mp_proto_listener base;
	struct l7mp_env *env;
	struct jsock_state *state;
	char *name;
	const struct jsock_transport *transport;
	const struct l7mp_proto *proto;    /* the transport's */
	struct l7mp_proto_listener *inner; /* the transport's listener */
	struct jsock_source *pending;      /* handshakes in progress, oldest first */
	size_t n_pending;
};

struct jsock_source {
	struct jsock_stream js; /* first; ready: the route is connected, the client was notified */
	struct jsock_listener *listener; /* while it is in listener->pending, else NULL */
	struct jsock_source *prev, *next;
	struct l7mp_accept accept; /* of the transport; owns the metadata until it is emitted */
	uint64_t received, sent;   /* bytes, until the route has answered */
	char *answer;              /* sent again when the header is repeated; NULL: not needed */
	uint64_t header_hash;      /* of the first header, whose text is freed earlier */
};

/* ---- answering ---- */

static void answer(struct jsock_source *s, int status, const char *message)
{
	size_t max = SIZE_MAX;
	char *text;

	/*
	 * Before the route has answered, do not send more bytes to a source than it has sent
	 * (amplification).
	 */
	if (s->js.transport->spoofable && status / 100 != 2)
		max = s->received > s->sent ? (size_t)(s->received - s->sent) : 0;
	text = jsock_answer_text(status, message, max);
	if (!text)
		return;
	s->sent += strlen(text);
	(void)jsock_send(s->js.env, s->js.inner, text);
	free(s->answer);
	s->answer = text;
}

static void remove_pending(struct jsock_source *s)
{
	if (!s->listener)
		return;
	DL_DELETE(s->listener->pending, s);
	s->listener->n_pending--;
	s->listener = NULL;
	l7mp_timer_stop(s->js.env->loop, &s->js.timer);
}

/* Ends the handshake: with an answer, or without one (abort). */
static void source_refuse(struct jsock_source *s, int status, const char *why, bool abort)
{
	l7mp_timer_stop(s->js.env->loop, &s->js.timer);
	if (!abort && !s->js.closing)
		answer(s, status, why);
	s->js.closing = true;
	/* Stays in the list until the answer was sent, so that rejected clients are counted. */
	if (abort)
		remove_pending(s);
	l7mp_stream_close(s->js.inner, abort);
}

static void source_on_timer(struct l7mp_timer *t, void *arg)
{
	(void)t;
	source_refuse(arg, 408, "no request header in time", false);
}

/* ---- the handshake ---- */

/* Frees header and answer when repeated headers need not be answered any more. */
static void free_handshake(struct jsock_source *s)
{
	if (s->js.transport->lossy && !(s->js.ready && s->js.payload_seen))
		return;
	l7mp_str_free(&s->js.first.text);
	free(s->answer);
	s->answer = NULL;
}

/* Emits the stream as a session's source; takes header and rest. */
static void emit_session(struct jsock_source *s, cJSON *header, struct l7mp_buf *rest)
{
	struct jsock_listener *l = s->listener;
	struct l7mp_accept a = s->accept;

	remove_pending(s);
	s->header_hash = l7mp_hash(s->js.first.text.s, s->js.first.text.len);
	a.stream = &s->js.base;
	a.name = l7mp_asprintf("JSONSocket:%s-%llu", l->name,
	                       (unsigned long long)++l->state->last_id);
	s->accept.metadata = NULL;
	if (l7mp_json_add(a.metadata, "JSONSocket", header)) {
		cJSON_Delete(a.metadata);
		a.metadata = NULL;
	}
	l7mp_stream_pause(s->js.inner, true);
	free_handshake(s);
	/*
	 * The owner may do anything in this call, including deletion of the listener; s exists
	 * until `closed`.
	 */
	(void)l7mp_accept_emit(&l->base, &a);
	if (!rest)
		return;
	if (s->js.base.events && !s->js.closing) {
		s->js.base.events->data(s->js.base.owner, rest);
		return;
	}
	l7mp_buf_unref(rest);
}

/* The first message is complete; takes rest. */
static void source_check(struct jsock_source *s, struct l7mp_buf *rest)
{
	struct jsock_listener *l = s->listener;
	char why[256];
	int status;
	cJSON *header = jsock_header_parse(s->js.first.text.s ? s->js.first.text.s : "",
	                                   s->js.first.text.len, &status, why, sizeof(why));

	if (!header) {
		l7mp_stats_drop(s->js.env->stats, L7MP_DROP_MALFORMED, 1, s->js.first.text.len);
	} else if (l->base.events->admit && l->base.events->admit(l->base.arg, &s->accept.peer)) {
		l7mp_stats_drop(s->js.env->stats, L7MP_DROP_LIMIT, 1, s->js.first.text.len);
		status = 503;
		snprintf(why, sizeof(why), "a limit refuses the session");
	} else {
		emit_session(s, header, rest);
		return;
	}
	cJSON_Delete(header);
	l7mp_buf_unref(rest);
	source_refuse(s, status, why, false);
}

static void source_handshake(struct jsock_source *s, struct l7mp_buf *buf)
{
	struct l7mp_buf *rest;

	s->received += buf->len;
	switch (jsock_first_take(&s->js.first, s->js.base.kind, buf, &rest)) {
	case JSOCK_MORE:
		return;
	case JSOCK_READY:
		source_check(s, rest);
		return;
	case JSOCK_BAD:
		l7mp_stats_drop(s->js.env->stats, L7MP_DROP_MALFORMED, 1, s->received);
		source_refuse(s, 400, "expected a JSON object of at most 64 KiB", false);
	}
}

/* Answers a repeated header and returns true. */
static bool source_repeated(struct jsock_source *s, const struct l7mp_buf *buf)
{
	if (!s->js.transport->lossy || (s->js.ready && s->js.payload_seen))
		return false;
	if (!jsock_first_same(&s->js.first, buf)) {
		s->js.payload_seen = true;
		free_handshake(s);
		return false;
	}
	s->received += buf->len;
	if (s->js.ready && s->answer)
		(void)jsock_send(s->js.env, s->js.inner, s->answer);
	return true;
}

/*
 * Whether the client has restarted. Checks cheap conditions first, so that payload is not parsed.
 */
static bool is_new_client(const struct jsock_source *s, const struct l7mp_buf *buf)
{
	static const char key[] = "\"JSONSocketVersion\"";
	const uint8_t *p = buf->data, *end = p + buf->len;
	cJSON *header;
	char why[256];
	int status;

	if (!s->js.transport->lossy || !s->js.inner->ops->renew || buf->len > JSOCK_HEAD_MAX)
		return false;
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\r' || *p == '\n'))
		p++;
	if (p == end || *p != '{' || !memmem(p, (size_t)(end - p), key, sizeof(key) - 1) ||
	    l7mp_hash(buf->data, buf->len) == s->header_hash)
		return false;
	header = jsock_header_parse((const char *)buf->data, buf->len, &status, why, sizeof(why));
	cJSON_Delete(header);
	return header;
}

/* Ends the session, and starts another one with the client's new header; takes buf. */
static void restart_session(struct jsock_source *s, struct l7mp_buf *buf)
{
	struct l7mp_error err = {.code = L7MP_OK};
	const struct l7mp_stream_events *events = s->js.base.events;

	l7mp_error_set(&err, -ECONNRESET, L7MP_ERR_UPSTREAM,
	               "the client restarted with another header");
	s->js.closing = true;
	s->js.base.events = NULL;
	events->closed(s->js.base.owner, &err);
	s->js.inner->ops->renew(s->js.inner, buf);
}

/* ---- events of the transport ---- */

static void source_on_open(void *owner)
{
	(void)owner; /* accepted streams are open */
}

static void source_on_data(void *owner, struct l7mp_buf *buf)
{
	struct jsock_source *s = owner;

	if (s->listener && !s->js.closing) {
		source_handshake(s, buf);
		return;
	}
	if (s->js.closing || !s->js.base.events || source_repeated(s, buf)) {
		l7mp_buf_unref(buf);
		return;
	}
	if (is_new_client(s, buf)) {
		restart_session(s, buf);
		return;
	}
	jsock_deliver(&s->js, buf);
}

static void source_on_end(void *owner, int code)
{
	struct jsock_source *s = owner;

	if (s->js.closing)
		return;
	if (s->listener)
		source_refuse(s, 400, "the request header is not complete", false);
	else if (s->js.base.events)
		s->js.base.events->end(s->js.base.owner, code);
}

static void source_on_closed(void *owner, const struct l7mp_error *err)
{
	struct jsock_source *s = owner;

	remove_pending(s);
	if (s->js.base.events)
		s->js.base.events->closed(s->js.base.owner, err);
	l7mp_timer_stop(s->js.env->loop, &s->js.timer);
	cJSON_Delete(s->accept.metadata);
	l7mp_str_free(&s->js.first.text);
	free(s->answer);
	free(s);
}

static const struct l7mp_stream_events source_transport_events = {
        .open = source_on_open,
        .data = source_on_data,
        .drain = jsock_on_drain,
        .end = source_on_end,
        .lost = jsock_on_lost,
        .path_changed = jsock_on_path_changed,
        .unreachable = jsock_on_unreachable,
        .notice = jsock_on_notice,
        .closed = source_on_closed,
};

/* ---- operations ---- */

static void source_op_pause(struct l7mp_stream *base, bool on)
{
	struct jsock_source *s = (struct jsock_source *)base;

	if (!s->js.closing)
		l7mp_stream_pause(s->js.inner, on);
}

static void op_result(struct l7mp_stream *base, int status, const char *message)
{
	struct jsock_source *s = (struct jsock_source *)base;

	if (s->js.closing)
		return;
	s->js.ready = status / 100 == 2;
	answer(s, status, message ? message : "");
	free_handshake(s);
}

static void source_op_flow(struct l7mp_stream *base, struct l7mp_flow_end *out)
{
	struct jsock_source *s = (struct jsock_source *)base;

	jsock_flow(&s->js, s->js.payload_seen || !s->js.transport->lossy, out);
	/* Another header from the same source comes from a restarted client. */
	out->json_up = out->kind == L7MP_FLOW_SOCKET && s->js.transport->lossy;
}

/* At an upgrade, over UDP: this process keeps receiving the client's datagrams. */
static int source_op_stay(struct l7mp_stream *base)
{
	const struct jsock_source *s = (const struct jsock_source *)base;
	struct l7mp_stream *inner = s->js.inner;

	if (s->js.closing || !inner || !inner->ops->stay)
		return -ENOTSUP;
	return inner->ops->stay(inner);
}

static const struct l7mp_stream_ops source_ops = {
        .write = jsock_write,
        .pause = source_op_pause,
        .shutdown = jsock_shutdown,
        .close = jsock_close,
        .result = op_result,
        .flow = source_op_flow,
        .local = jsock_local,
        .drain_now = jsock_drain_now,
        .stay = source_op_stay,
};

/* Begins the handshake on an accepted stream; takes all of *a. */
static void source_new(struct jsock_listener *l, struct l7mp_accept *a)
{
	struct jsock_source *s = calloc(1, sizeof(*s));

	free(a->name);
	a->name = NULL;
	if (!s) {
		cJSON_Delete(a->metadata);
		l7mp_stream_close(a->stream, true);
		return;
	}
	s->js.base.ops = &source_ops;
	s->js.base.kind = a->stream->kind;
	s->js.base.max_write = a->stream->max_write;
	s->js.env = l->env;
	s->js.transport = l->transport;
	s->js.inner = a->stream;
	s->accept = *a;
	/* It can't be reopened without a handshake. */
	s->accept.reopen = NULL;
	s->accept.never_idle = a->never_idle || !l->proto->desc.idle_timeout;
	s->listener = l;
	DL_APPEND(l->pending, s);
	l->n_pending++;
	l7mp_timer_init(&s->js.timer, source_on_timer, s);
	l7mp_stream_attach(s->js.inner, &source_transport_events, s);
	if (l7mp_timer_start(s->js.env->loop, &s->js.timer, HANDSHAKE_MS)) {
		source_refuse(s, 503, "", true);
		return;
	}
	/* A transport with its own handshake (WebSocket): the header follows it. */
	if (s->js.inner->ops->result)
		s->js.inner->ops->result(s->js.inner, 200, "OK");
	l7mp_stream_pause(s->js.inner, false);
}

/* ---- the transport's listener ---- */

static void on_accept(void *arg, struct l7mp_accept *a)
{
	struct jsock_listener *l = arg;

	/* The oldest handshake is aborted, so that silent clients can't block others. */
	if (l->n_pending >= PENDING_MAX)
		source_refuse(l->pending, 503, "", true);
	source_new(l, a);
}

static enum l7mp_origin on_origin(void *arg, int fd, const struct l7mp_addr *remote,
                                  const struct l7mp_addr *local)
{
	const struct jsock_listener *l = arg;
	const struct l7mp_listen_events *ev = l->base.events;

	return ev->origin ? ev->origin(l->base.arg, fd, remote, local) : L7MP_ORIGIN_UNKNOWN;
}

static bool on_room(void *arg, int fd)
{
	const struct jsock_listener *l = arg;
	const struct l7mp_listen_events *ev = l->base.events;

	return !ev->room || ev->room(l->base.arg, fd);
}

static void on_exhausted(void *arg, int err)
{
	struct jsock_listener *l = arg;

	if (l->base.events->exhausted)
		l->base.events->exhausted(l->base.arg, err);
}

/*
 * Without `admit`: session limits apply when a header was received; the number of handshakes has
 * its own limit.
 */
static const struct l7mp_listen_events inner_events = {
        .accept = on_accept,
        .origin = on_origin,
        .room = on_room,
        .exhausted = on_exhausted,
};

/* The transport's listeners of the retiring JSONSocket listeners. */
static struct l7mp_proto_listener **inner_retiring(const struct l7mp_listen *params,
                                                   const struct l7mp_proto *proto, size_t *n)
{
	struct l7mp_proto_listener **v =
	        calloc(params->n_retiring + 1, sizeof(struct l7mp_proto_listener *));

	*n = 0;
	for (size_t i = 0; v && i < params->n_retiring; i++) {
		struct jsock_listener *old = (struct jsock_listener *)params->retiring[i];

		if (old->proto == proto)
			v[(*n)++] = old->inner;
	}
	return v;
}

static int listen_inner(struct jsock_listener *l, const struct l7mp_listen *params,
                        struct l7mp_error *err)
{
	struct l7mp_listen inner = {.env = params->env,
	                            .name = params->name,
	                            .spec = l7mp_json_member(params->spec, "transport"),
	                            .events = &inner_events,
	                            .arg = l};
	struct l7mp_proto_listener **retiring = inner_retiring(params, l->proto, &inner.n_retiring);
	struct l7mp_error local = {.code = L7MP_OK};
	char path[sizeof(local.path)];
	int rc;

	if (!retiring)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	inner.retiring = retiring;
	rc = l->proto->listen(&inner, &l->inner, &local);
	free(retiring);
	if (!rc)
		return 0;
	l->inner = NULL;
	snprintf(path, sizeof(path), "transport%s%.200s", local.path[0] ? "." : "", local.path);
	memcpy(local.path, path, sizeof(path));
	if (err)
		*err = local;
	return rc;
}

/* ---- operations ---- */

int jsock_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                 struct l7mp_error *err)
{
	struct jsock_state *state = l7mp_proto_state(params->env, &l7mp_proto_jsonsocket, err);
	struct jsock_listener *l;
	int rc;

	if (!state)
		return -ENOMEM;
	l = calloc(1, sizeof(*l));
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	l->base = (struct l7mp_proto_listener){
	        .proto = &l7mp_proto_jsonsocket, .events = params->events, .arg = params->arg};
	l->env = params->env;
	l->state = state;
	l->name = strdup(params->name ? params->name : "");
	l->proto = jsock_transport_proto(params->env, params->spec, &l->transport, err);
	if (!l->name)
		rc = l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	else
		rc = l->proto ? listen_inner(l, params, err) : -EINVAL;
	if (rc) {
		free(l->name);
		free(l);
		return rc;
	}
	*out = &l->base;
	return 0;
}

void jsock_activate(struct l7mp_proto_listener *base)
{
	struct jsock_listener *l = (struct jsock_listener *)base;

	l->proto->activate(l->inner);
}

void jsock_pause(struct l7mp_proto_listener *base)
{
	struct jsock_listener *l = (struct jsock_listener *)base;

	if (l->proto->pause)
		l->proto->pause(l->inner);
}

int jsock_resume(struct l7mp_proto_listener *base, struct l7mp_error *err)
{
	struct jsock_listener *l = (struct jsock_listener *)base;

	return l->proto->resume ? l->proto->resume(l->inner, err) : 0;
}

int jsock_hand(struct l7mp_proto_listener *base, enum l7mp_hand step)
{
	struct jsock_listener *l = (struct jsock_listener *)base;

	return l->proto->hand ? l->proto->hand(l->inner, step)
	                      : (step == L7MP_HAND_SOCKET ? -ENOENT : 0);
}

void jsock_unlisten(struct l7mp_proto_listener *base)
{
	struct jsock_listener *l = (struct jsock_listener *)base;

	while (l->pending)
		source_refuse(l->pending, 503, "", true);
	l->proto->unlisten(l->inner);
	free(l->name);
	free(l);
}

void jsock_bound(const struct l7mp_proto_listener *base, cJSON *spec)
{
	const struct jsock_listener *l = (const struct jsock_listener *)base;
	cJSON *transport = l7mp_json_member(spec, "transport");

	if (transport && l->proto->bound)
		l->proto->bound(l->inner, transport);
}
