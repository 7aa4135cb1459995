/* SPDX-License-Identifier: MIT */
/*
 * JSONSocket clusters and listeners: the two ends of the handshake (handshake.c has its messages),
 * and the streams after it, which pass everything through.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "jsonsocket.h"
#include "l7mp/hash.h"
#include "l7mp/protos.h"
#include "net/net.h"

/* ---- transports ---- */

/* Properties of a transport that matter for the handshake. */
struct jsock_transport {
	const char *name, *alias; /* alias may be NULL */
	bool lossy;               /* messages may be lost or duplicated */
	bool spoofable;           /* the source address may be forged */
};

static const struct jsock_transport transports[] = {
        {"UDP", NULL, true, true},
        {"UNIX/dgram", NULL, true, false},
        {"UNIX/seqpacket", NULL, false, false},
        {"WebSocket", "WS", false, false},
        {"TCP", NULL, false, false},
        {"UnixDomainSocket", "UNIX/stream", false, false},
};

/* Finds a transport by name or alias; NULL: unknown. */
static const struct jsock_transport *transport_find(const char *name)
{
	for (size_t i = 0; name && i < L7MP_ARRAY_SIZE(transports); i++) {
		const struct jsock_transport *t = &transports[i];

		if (!strcasecmp(t->name, name) || (t->alias && !strcasecmp(t->alias, name)))
			return t;
	}
	return NULL;
}

/*
 * Returns the protocol in `transport.protocol` of a spec, by name or alias. NULL with err:
 * JSONSocket can't use it, or the program does not have it.
 */
static const struct l7mp_proto *jsock_transport_proto(const struct l7mp_env *env, const cJSON *spec,
                                                      const struct jsock_transport **out,
                                                      struct l7mp_error *err)
{
	const char *name = l7mp_json_str(l7mp_json_member(spec, "transport"), "protocol", "");
	const struct l7mp_proto *proto;

	*out = transport_find(name);
	proto = *out ? l7mp_proto_find(env, name) : NULL;
	if (!proto)
		l7mp_error_set(err, -EINVAL, L7MP_ERR_REALISE,
		               "transport.protocol: JSONSocket can't use \"%s\"", name);
	return proto;
}

/* The `check` of both specs' schemas. */
static void jsock_check_transport(const cJSON *spec, const char *path, struct l7mp_issues *issues)
{
	const cJSON *t = l7mp_json_member(spec, "transport");
	const cJSON *name = l7mp_json_member(t, "protocol");
	char at[256];

	if (!cJSON_IsString(name) || transport_find(name->valuestring))
		return;
	snprintf(at, sizeof(at), "%s.transport.protocol", path);
	l7mp_issues_add(issues, false, name, at,
	                "expected one of: UDP, UNIX/dgram, UNIX/seqpacket, WebSocket, TCP, "
	                "UnixDomainSocket");
}

/* ---- common to accepted and connected streams ---- */

/* A stream that passes on the data of its transport's stream after the handshake. */
struct jsock_stream {
	struct l7mp_stream base; /* first */
	struct l7mp_env *env;
	struct l7mp_stream *inner; /* the transport's */
	const struct jsock_transport *transport;
	struct jsock_first first; /* the peer's message of the handshake */
	struct l7mp_timer timer;  /* of the handshake */
	bool ready;               /* the handshake has succeeded: payload passes */
	bool payload_seen;        /* something other than the handshake was received */
	bool closing;             /* by the owner, or because the handshake failed */
};

/* Delivers payload to the owner; takes buf. */
static void jsock_deliver(struct jsock_stream *s, struct l7mp_buf *buf)
{
	if (s->base.kind == L7MP_KIND_STREAM)
		buf = jsock_first_strip(&s->first, buf);
	if (buf)
		s->base.events->data(s->base.owner, buf);
}

/*
 * Implements `flow`. settled: all data that the peer sends from now on is payload. Sets the flow of
 * the transport, or none.
 */
static void jsock_flow(struct jsock_stream *s, bool settled, struct l7mp_flow_end *out)
{
	if (s->ready && !s->closing && !s->first.newline_due && settled) {
		l7mp_stream_flow(s->inner, out);
		return;
	}
	memset(out, 0, sizeof(*out));
	out->kind = L7MP_FLOW_NONE;
	out->reason = L7MP_REASON_NOT_ESTABLISHED;
}

static int jsock_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct jsock_stream *s = (struct jsock_stream *)base;

	if (s->closing || !s->ready) {
		l7mp_buf_unref(buf);
		return s->closing ? -EPIPE : -ENOTCONN;
	}
	return l7mp_stream_write(s->inner, buf);
}

static void jsock_shutdown(struct l7mp_stream *base, int code)
{
	struct jsock_stream *s = (struct jsock_stream *)base;

	if (s->ready && !s->closing)
		l7mp_stream_shutdown(s->inner, code);
}

static void jsock_close(struct l7mp_stream *base, bool abort)
{
	struct jsock_stream *s = (struct jsock_stream *)base;

	if (s->closing && !abort)
		return;
	s->closing = true;
	l7mp_timer_stop(s->env->loop, &s->timer);
	l7mp_stream_close(s->inner, abort);
}

static int jsock_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct l7mp_stream *inner = ((struct jsock_stream *)base)->inner;

	return inner->ops->local ? inner->ops->local(inner, out) : -ENOTSUP;
}

static int jsock_remote(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct l7mp_stream *inner = ((struct jsock_stream *)base)->inner;

	return inner->ops->remote ? inner->ops->remote(inner, out) : -ENOTSUP;
}

/* Over UDP: a flow is about to begin, and queued datagrams must be delivered before its packets. */
static size_t jsock_drain_now(struct l7mp_stream *base)
{
	struct l7mp_stream *inner = ((struct jsock_stream *)base)->inner;

	return inner->ops->drain_now ? inner->ops->drain_now(inner) : 0;
}

/* An accepted stream has no owner before its header was received. */
static bool has_owner(const struct jsock_stream *s)
{
	return s->base.events != NULL;
}

static void jsock_on_drain(void *owner)
{
	struct jsock_stream *s = owner;

	if (s->ready && has_owner(s))
		s->base.events->drain(s->base.owner);
}

static void jsock_on_lost(void *owner, int err, uint64_t packets, uint64_t bytes)
{
	struct jsock_stream *s = owner;

	/* Before that it was a message of the handshake, which is retransmitted. */
	if (s->ready && has_owner(s) && s->base.events->lost)
		s->base.events->lost(s->base.owner, err, packets, bytes);
}

static void jsock_on_notice(void *owner, const char *event, const char *message)
{
	struct jsock_stream *s = owner;

	if (has_owner(s) && s->base.events->notice)
		s->base.events->notice(s->base.owner, event, message);
}

static void jsock_on_path_changed(void *owner)
{
	struct jsock_stream *s = owner;

	if (has_owner(s) && s->base.events->path_changed)
		s->base.events->path_changed(s->base.owner);
}

/* ---- clusters ---- */

/*
 * When the transport is open the header is sent, repeatedly if messages may be lost; with a 2xx
 * answer the stream is open. The session limits the time for this.
 */

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

static int jsock_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
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

/* ---- tables ---- */

static const struct l7mp_field from_to_fields[] = {
        {.key = "from",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_POINTER,
         .doc = "JSON pointer into the session's metadata; what is not there is left out"},
        {.key = "to",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_POINTER,
         .doc = "JSON pointer into the header; the root takes the members of an object"},
        {0},
};

static const struct l7mp_schema from_to = {
        .name = "jsonsocket-path",
        .doc = "Copies a part of the metadata",
        .fields = from_to_fields,
};

static const struct l7mp_field path_text = {.type = L7MP_T_STRING, .pattern = L7MP_P_POINTER};
static const struct l7mp_field path_object = {.type = L7MP_T_OBJECT, .sub = &from_to};
static const struct l7mp_field *const path_kinds[] = {&path_text, &path_object, NULL};

static const struct l7mp_field set_fields[] = {
        {.key = "key",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .min = 1,
         .max = 1000,
         .pattern = L7MP_P_POINTER,
         .doc = "name, or JSON pointer, in the header"},
        {.key = "value", .type = L7MP_T_ANY, .flags = L7MP_F_REQUIRED, .doc = "any JSON value"},
        {0},
};

static const struct l7mp_schema set_schema = {
        .name = "jsonsocket-set",
        .doc = "Puts a value",
        .fields = set_fields,
};

static const struct l7mp_field item_fields[] = {
        {.key = "path",
         .type = L7MP_T_ONEOF,
         .alternatives = path_kinds,
         .doc = "copies metadata: `{ from, to }`; a JSON pointer alone copies to the root of the "
                "header, the members of an object or any other value under its own name"},
        {.key = "set",
         .type = L7MP_T_OBJECT,
         .sub = &set_schema,
         .doc = "puts a value: `{ key, value }`"},
        {0},
};

static void check_item(const cJSON *item, const char *path, struct l7mp_issues *issues)
{
	if (!l7mp_json_member(item, "path") == !l7mp_json_member(item, "set"))
		l7mp_issues_add(issues, false, item, path, "expected either path or set");
}

static const struct l7mp_schema item_schema = {
        .name = "jsonsocket-header",
        .doc = "A part of the header: `path` or `set`",
        .fields = item_fields,
        .check = check_item,
};

static const struct l7mp_field item = {.type = L7MP_T_OBJECT, .sub = &item_schema};

static const struct l7mp_field cluster_fields[] = {
        {.key = "transport",
         .type = L7MP_T_PROTOCOL_SPEC,
         .flags = L7MP_F_REQUIRED,
         .min = L7MP_ROLE_CLUSTER,
         .doc = "the cluster spec of what carries it: UDP, UNIX/dgram, UNIX/seqpacket, WebSocket, "
                "TCP or UnixDomainSocket; the endpoints are the transport's"},
        {.key = "header",
         .type = L7MP_T_ARRAY,
         .item = &item,
         .def = "[]",
         .doc = "what the header has beside JSONSocketVersion, in this order"},
        {0},
};

static const struct l7mp_schema jsock_cluster_spec = {
        .name = "jsonsocket-cluster",
        .doc = "Connects by the transport, sends the header and is connected when the server "
               "answers with a 2xx status",
        .fields = cluster_fields,
        .check = jsock_check_transport,
};

static const struct l7mp_field endpoint_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .min = 1,
         .max = 255,
         .doc = "as the transport's endpoints have it: IP address, host name or path"},
        L7MP_SPEC_ENDPOINT_OWN_PORT,
        {0},
};

static const struct l7mp_schema jsock_endpoint_spec = {
        .name = "jsonsocket-endpoint",
        .doc = "A JSONSocket server",
        .fields = endpoint_fields,
};

/* ---- listeners ---- */

/*
 * A listener of the transport, and for each stream that it accepts the server's side of the
 * handshake. A session does not see an accepted stream before its header was received; then it is
 * the session's source and passes everything through.
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

#define PENDING_MAX  512 /* handshakes in progress of a listener, including rejected ones */
#define HANDSHAKE_MS 10000

struct jsock_state {
	uint64_t last_id; /* of session names */
};

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
	struct jsock_stream js; /* first; ready: the route is connected and the client was notified
	                         * */
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
static void begin_anew(struct jsock_source *s, struct l7mp_buf *buf)
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
		begin_anew(s, buf);
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

/* At an upgrade, over UDP: the client's datagrams go on to this process. */
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

/* ---- listeners ---- */

/* Session limits apply when a header was received; the number of handshakes has its own limit. */
static int on_admit(void *arg, const struct l7mp_addr *peer)
{
	(void)arg;
	(void)peer;
	return 0;
}

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

static void on_exhausted(void *arg, int err)
{
	struct jsock_listener *l = arg;

	if (l->base.events->exhausted)
		l->base.events->exhausted(l->base.arg, err);
}

static const struct l7mp_listen_events inner_events = {
        .admit = on_admit,
        .accept = on_accept,
        .origin = on_origin,
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

static int jsock_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
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

static void jsock_activate(struct l7mp_proto_listener *base)
{
	struct jsock_listener *l = (struct jsock_listener *)base;

	l->proto->activate(l->inner);
}

static void jsock_pause(struct l7mp_proto_listener *base)
{
	struct jsock_listener *l = (struct jsock_listener *)base;

	if (l->proto->pause)
		l->proto->pause(l->inner);
}

static int jsock_resume(struct l7mp_proto_listener *base, struct l7mp_error *err)
{
	struct jsock_listener *l = (struct jsock_listener *)base;

	return l->proto->resume ? l->proto->resume(l->inner, err) : 0;
}

static int jsock_hand(struct l7mp_proto_listener *base, enum l7mp_hand step)
{
	struct jsock_listener *l = (struct jsock_listener *)base;

	return l->proto->hand ? l->proto->hand(l->inner, step)
	                      : (step == L7MP_HAND_SOCKET ? -ENOENT : 0);
}

static void jsock_unlisten(struct l7mp_proto_listener *base)
{
	struct jsock_listener *l = (struct jsock_listener *)base;

	while (l->pending)
		source_refuse(l->pending, 503, "", true);
	l->proto->unlisten(l->inner);
	free(l->name);
	free(l);
}

static void jsock_bound(const struct l7mp_proto_listener *base, cJSON *spec)
{
	const struct jsock_listener *l = (const struct jsock_listener *)base;
	cJSON *transport = l7mp_json_member(spec, "transport");

	if (transport && l->proto->bound)
		l->proto->bound(l->inner, transport);
}

static int jsock_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct jsock_state));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

static void jsock_stop(struct l7mp_env *env, void *state)
{
	(void)env;
	free(state);
}

/* ---- tables ---- */

static const struct l7mp_field listener_fields[] = {
        {.key = "transport",
         .type = L7MP_T_PROTOCOL_SPEC,
         .flags = L7MP_F_REQUIRED,
         .min = L7MP_ROLE_LISTENER,
         .doc = "the listener spec of what carries it: UDP, UNIX/dgram, UNIX/seqpacket, WebSocket, "
                "TCP or UnixDomainSocket"},
        {0},
};

static const struct l7mp_schema listener_spec = {
        .name = "jsonsocket-listener",
        .doc = "Emits a session for each client of the transport whose first message is a "
               "JSONSocket header, which becomes `JSONSocket` in the session's metadata",
        .fields = listener_fields,
        .check = jsock_check_transport,
};

const struct l7mp_proto l7mp_proto_jsonsocket = {
        .desc =
                {
                        .name = "JSONSocket",
                        .cost = 3000,
                        .doc = "A JSON header and its answer in front of another protocol's "
                               "stream (docs/jsonsocket.md); it carries what the transport carries",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .kind = L7MP_KIND_DATAGRAM,
                        .listener_spec = &listener_spec,
                        .cluster_spec = &jsock_cluster_spec,
                        .endpoint_spec = &jsock_endpoint_spec,
                        .idle_timeout = 60, /* of transports that have one */
                },
        .start = jsock_start,
        .stop = jsock_stop,
        .listen = jsock_listen,
        .activate = jsock_activate,
        .pause = jsock_pause,
        .resume = jsock_resume,
        .hand = jsock_hand,
        .unlisten = jsock_unlisten,
        .bound = jsock_bound,
        .connect = jsock_connect,
};
