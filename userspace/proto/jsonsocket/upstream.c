/* SPDX-License-Identifier: MIT */
/*
 * JSONSocket clusters: the client's side of the handshake. When the transport is open the header
 * is sent, repeatedly if messages may be lost; with a 2xx answer the stream is open. The session
 * limits how long that may take.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "jsonsocket.h"
#include "net/spec.h"

#define REPEAT_MS 500 /* between two headers, if messages may be lost */
/* Headers are padded to this length where the answer may not be longer than the header. */
#define HEADER_PAD 256
/* White space behind a header in which sessions differ, where messages may be lost. */
#define MARK_LEN 32
/* How long after the first answer another one, to a repeated header, may be received. */
#define REPEATED_ANSWER_MS 5000

struct jsock_upstream {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct l7mp_stream *inner;
	const struct jsock_transport *transport;
	char *header;
	struct jsock_first first; /* the answer */
	struct l7mp_timer timer;
	struct l7mp_error err; /* why the handshake failed */
	uint64_t open_ms;
	unsigned sent, answered; /* headers sent, answers received */
	bool open;
	bool reading;      /* whether the owner wants to read */
	bool payload_seen; /* something other than an answer was received */
	bool closing;      /* by the owner, or because the handshake failed */
};

static void fail(struct jsock_upstream *u, int rc, const char *text)
{
	l7mp_error_set(&u->err, rc, L7MP_ERR_UPSTREAM, "JSONSocket: %s", text);
	l7mp_timer_stop(u->env->loop, &u->timer);
	u->closing = true;
	l7mp_stream_close(u->inner, true);
}

static void send_header(struct jsock_upstream *u)
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
	struct jsock_upstream *u = arg;

	send_header(u);
	if (!u->closing)
		(void)l7mp_timer_start(u->env->loop, t, REPEAT_MS);
}

/* ---- the answer ---- */

static void opened(struct jsock_upstream *u, struct l7mp_buf *rest)
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

/* The first message is complete; takes rest. */
static void check(struct jsock_upstream *u, struct l7mp_buf *rest)
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
		/* It may have overtaken the answer, which is sent again for the next header. */
		l7mp_stats_drop(u->env->stats, L7MP_DROP_MALFORMED, 1, u->first.text.len);
		l7mp_str_free(&u->first.text);
	} else {
		fail(u, -EBADMSG, "the server's first message is not an answer");
	}
	cJSON_Delete(root);
}

static void handshake(struct jsock_upstream *u, struct l7mp_buf *buf)
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

/* Returns whether it is the answer to a repeated header? */
static bool repeated(struct jsock_upstream *u, const struct l7mp_buf *buf)
{
	if (!u->transport->lossy || u->payload_seen)
		return false;
	if (jsock_first_same(&u->first, buf)) {
		u->answered++;
		return true;
	}
	u->payload_seen = true;
	l7mp_str_free(&u->first.text);
	return false;
}

/* ---- events of the transport ---- */

static void on_open(void *owner)
{
	struct jsock_upstream *u = owner;

	if (u->closing)
		return;
	l7mp_stream_pause(u->inner, false);
	send_header(u);
	if (u->transport->lossy && !u->closing &&
	    l7mp_timer_start(u->env->loop, &u->timer, REPEAT_MS))
		fail(u, -ENOMEM, "out of memory");
}

static void on_data(void *owner, struct l7mp_buf *buf)
{
	struct jsock_upstream *u = owner;

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
	struct jsock_upstream *u = owner;

	if (u->open)
		u->base.events->drain(u->base.owner);
}

static void on_end(void *owner, int code)
{
	struct jsock_upstream *u = owner;

	if (u->closing)
		return;
	if (u->open)
		u->base.events->end(u->base.owner, code);
	else
		fail(u, -ECONNABORTED, "the server ended before it answered");
}

static void on_lost(void *owner, int err, uint64_t packets, uint64_t bytes)
{
	struct jsock_upstream *u = owner;

	/* Before `open` it was a header, which is sent again. */
	if (u->open && u->base.events->lost)
		u->base.events->lost(u->base.owner, err, packets, bytes);
}

static void on_path_changed(void *owner)
{
	const struct jsock_upstream *u = owner;

	if (u->base.events && u->base.events->path_changed)
		u->base.events->path_changed(u->base.owner);
}

static void on_notice(void *owner, const char *event, const char *message)
{
	struct jsock_upstream *u = owner;

	if (u->base.events->notice)
		u->base.events->notice(u->base.owner, event, message);
}

static void upstream_free(struct jsock_upstream *u)
{
	l7mp_timer_stop(u->env->loop, &u->timer);
	l7mp_str_free(&u->first.text);
	free(u->header);
	free(u);
}

static void on_closed(void *owner, const struct l7mp_error *err)
{
	struct jsock_upstream *u = owner;

	u->base.events->closed(u->base.owner, u->err.code != L7MP_OK ? &u->err : err);
	upstream_free(u);
}

static const struct l7mp_stream_events transport_events = {
        .open = on_open,
        .data = on_data,
        .drain = on_drain,
        .end = on_end,
        .lost = on_lost,
        .path_changed = on_path_changed,
        .notice = on_notice,
        .closed = on_closed,
};

/* ---- operations ---- */

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct jsock_upstream *u = (struct jsock_upstream *)base;

	if (u->closing || !u->open) {
		l7mp_buf_unref(buf);
		return u->open ? -EPIPE : -ENOTCONN;
	}
	return l7mp_stream_write(u->inner, buf);
}

static void op_pause(struct l7mp_stream *base, bool on)
{
	struct jsock_upstream *u = (struct jsock_upstream *)base;

	u->reading = !on;
	if (u->open && !u->closing)
		l7mp_stream_pause(u->inner, on);
}

static void op_shutdown(struct l7mp_stream *base, int code)
{
	struct jsock_upstream *u = (struct jsock_upstream *)base;

	if (u->open && !u->closing)
		l7mp_stream_shutdown(u->inner, code);
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct jsock_upstream *u = (struct jsock_upstream *)base;

	if (u->closing && !abort)
		return;
	u->closing = true;
	l7mp_timer_stop(u->env->loop, &u->timer);
	l7mp_stream_close(u->inner, abort);
}

/* Whether another answer may be received, which must not reach the session? */
static bool expects_answers(const struct jsock_upstream *u)
{
	return u->transport->lossy && !u->payload_seen && u->answered < u->sent &&
	       l7mp_loop_now(u->env->loop) - u->open_ms < REPEATED_ANSWER_MS;
}

static void op_flow(struct l7mp_stream *base, struct l7mp_flow_end *out)
{
	struct jsock_upstream *u = (struct jsock_upstream *)base;

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
	struct jsock_upstream *u = (struct jsock_upstream *)base;

	return u->inner->ops->local ? u->inner->ops->local(u->inner, out) : -ENOTSUP;
}

static int op_remote(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct jsock_upstream *u = (struct jsock_upstream *)base;

	return u->inner->ops->remote ? u->inner->ops->remote(u->inner, out) : -ENOTSUP;
}

/* Over UDP a flow is about to begin, and what waits in the socket must not be overtaken. */
static size_t op_drain_now(struct l7mp_stream *base)
{
	const struct jsock_upstream *u = (struct jsock_upstream *)base;

	return u->inner->ops->drain_now ? u->inner->ops->drain_now(u->inner) : 0;
}

static const struct l7mp_stream_ops stream_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
        .flow = op_flow,
        .local = op_local,
        .drain_now = op_drain_now,
        .remote = op_remote,
};

/* ---- connecting ---- */

/*
 * Makes the header differ from that of every other session: by it a server tells a client that
 * began anew on the same port from one that repeats itself.
 */
static int mark_header(struct jsock_upstream *u)
{
	size_t len = strlen(u->header), blank = len;
	uint32_t mark;
	char *text;

	if (!u->transport->lossy)
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
		mark = (uint32_t)l7mp_loop_now(u->env->loop);
	for (size_t i = len - MARK_LEN; i < len; i++, mark >>= 1)
		text[i] = mark & 1 ? '\t' : ' ';
	text[len] = '\0';
	return 0;
}

static int start(struct jsock_upstream *u, const struct l7mp_connect *params,
                 const struct l7mp_proto *proto, struct l7mp_error *err)
{
	struct l7mp_connect inner = *params;
	int rc;

	rc = jsock_header_make(l7mp_json_member(params->cluster_spec, "header"), params->metadata,
	                       u->transport->spoofable ? HEADER_PAD : 0, &u->header, err);
	if (rc)
		return rc;
	rc = mark_header(u);
	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "out of memory");
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
	struct jsock_upstream *u;
	int rc;

	if (!proto)
		return -EINVAL;
	u = calloc(1, sizeof(*u));
	if (!u)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	u->base.ops = &stream_ops;
	u->env = params->env;
	u->transport = transport;
	l7mp_timer_init(&u->timer, on_timer, u);
	rc = start(u, params, proto, err);
	if (rc) {
		upstream_free(u);
		return rc;
	}
	*out = &u->base;
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
const struct l7mp_schema jsock_cluster_spec = {
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
const struct l7mp_schema jsock_endpoint_spec = {
        .name = "jsonsocket-endpoint",
        .doc = "A JSONSocket server",
        .fields = endpoint_fields,
};
