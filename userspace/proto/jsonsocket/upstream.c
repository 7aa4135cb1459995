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
	struct jsock_stream js; /* first; ready: the server has answered 2xx */
	char *header;
	struct l7mp_error err; /* why the handshake failed */
	uint64_t open_ms;
	unsigned sent, answered; /* headers sent, answers received */
	bool reading;            /* the owner's wish */
};

static void fail(struct jsock_upstream *u, int rc, const char *text)
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
		fail(u, rc,
		     rc == -EMSGSIZE ? "the header is longer than the transport can carry"
		                     : "the header can't be sent");
}

static void on_timer(struct l7mp_timer *t, void *arg)
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
static void check(struct jsock_upstream *u, struct l7mp_buf *rest)
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
		fail(u, -ECONNREFUSED, text);
	} else if (u->js.transport->lossy) {
		/* It may have overtaken the answer, which is sent again for the next header. */
		l7mp_stats_drop(u->js.env->stats, L7MP_DROP_MALFORMED, 1, u->js.first.text.len);
		l7mp_str_free(&u->js.first.text);
	} else {
		fail(u, -EBADMSG, "the server's first message is not an answer");
	}
	cJSON_Delete(root);
}

static void handshake(struct jsock_upstream *u, struct l7mp_buf *buf)
{
	struct l7mp_buf *rest;

	switch (jsock_first_take(&u->js.first, u->js.base.kind, buf, &rest)) {
	case JSOCK_MORE:
		return;
	case JSOCK_READY:
		check(u, rest);
		return;
	case JSOCK_BAD:
		if (!u->js.transport->lossy)
			fail(u, -EBADMSG, "the server's first message is not an answer");
	}
}

/* Returns whether it is the answer to a repeated header. */
static bool repeated(struct jsock_upstream *u, const struct l7mp_buf *buf)
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

static void on_open(void *owner)
{
	struct jsock_upstream *u = owner;

	if (u->js.closing)
		return;
	l7mp_stream_pause(u->js.inner, false);
	send_header(u);
	if (u->js.transport->lossy && !u->js.closing &&
	    l7mp_timer_start(u->js.env->loop, &u->js.timer, REPEAT_MS))
		fail(u, -ENOMEM, "out of memory");
}

static void on_data(void *owner, struct l7mp_buf *buf)
{
	struct jsock_upstream *u = owner;

	if (u->js.closing || (u->js.ready && repeated(u, buf))) {
		l7mp_buf_unref(buf);
		return;
	}
	if (!u->js.ready) {
		handshake(u, buf);
		return;
	}
	jsock_deliver(&u->js, buf);
}

static void on_end(void *owner, int code)
{
	struct jsock_upstream *u = owner;

	if (u->js.closing)
		return;
	if (u->js.ready)
		u->js.base.events->end(u->js.base.owner, code);
	else
		fail(u, -ECONNABORTED, "the server ended before it answered");
}

static void upstream_free(struct jsock_upstream *u)
{
	l7mp_timer_stop(u->js.env->loop, &u->js.timer);
	l7mp_str_free(&u->js.first.text);
	free(u->header);
	free(u);
}

static void on_closed(void *owner, const struct l7mp_error *err)
{
	struct jsock_upstream *u = owner;

	u->js.base.events->closed(u->js.base.owner, u->err.code != L7MP_OK ? &u->err : err);
	upstream_free(u);
}

static const struct l7mp_stream_events transport_events = {
        .open = on_open,
        .data = on_data,
        .drain = jsock_on_drain,
        .end = on_end,
        .lost = jsock_on_lost,
        .path_changed = jsock_on_path_changed,
        .notice = jsock_on_notice,
        .closed = on_closed,
};

/* ---- operations ---- */

static void op_pause(struct l7mp_stream *base, bool on)
{
	struct jsock_upstream *u = (struct jsock_upstream *)base;

	u->reading = !on;
	if (u->js.ready && !u->js.closing)
		l7mp_stream_pause(u->js.inner, on);
}

/* Whether another answer may be received, which must not reach the session. */
static bool expects_answers(const struct jsock_upstream *u)
{
	return u->js.transport->lossy && !u->js.payload_seen && u->answered < u->sent &&
	       l7mp_loop_now(u->js.env->loop) - u->open_ms < REPEATED_ANSWER_MS;
}

static void op_flow(struct l7mp_stream *base, struct l7mp_flow_end *out)
{
	struct jsock_upstream *u = (struct jsock_upstream *)base;

	jsock_flow(&u->js, !expects_answers(u), out);
}

static const struct l7mp_stream_ops stream_ops = {
        .write = jsock_write,
        .pause = op_pause,
        .shutdown = jsock_shutdown,
        .close = jsock_close,
        .flow = op_flow,
        .local = jsock_local,
        .drain_now = jsock_drain_now,
        .remote = jsock_remote,
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

static int start(struct jsock_upstream *u, const struct l7mp_connect *params,
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
	l7mp_stream_attach(u->js.inner, &transport_events, u);
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
	u->js.base.ops = &stream_ops;
	u->js.env = params->env;
	u->js.transport = transport;
	l7mp_timer_init(&u->js.timer, on_timer, u);
	rc = start(u, params, proto, err);
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
