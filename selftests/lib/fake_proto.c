/* SPDX-License-Identifier: MIT */
#include "fake_proto.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct fake_stream *fake(struct l7mp_stream *s)
{
	return (struct fake_stream *)s;
}

/* ---- operations ---- */

static int op_write(struct l7mp_stream *s, struct l7mp_buf *buf)
{
	struct fake_stream *st = fake(s);
	size_t old = st->written ? strlen(st->written) : 0;
	int rc = st->write_rc;

	if (st->on_write)
		st->on_write(st);
	if (rc < 0) {
		l7mp_buf_unref(buf);
		return rc;
	}
	if (buf->len < 4096) {
		st->written = realloc(st->written, old + buf->len + 2);
		memcpy(st->written + old, buf->data, buf->len);
		memcpy(st->written + old + buf->len, "|", 2);
	}
	st->n_written++;
	st->bytes_written += buf->len;
	if (st->echo)
		s->events->data(s->owner, buf);
	else
		l7mp_buf_unref(buf);
	return rc;
}

static void op_pause(struct l7mp_stream *s, bool on)
{
	fake(s)->paused = on;
	fake(s)->pauses++;
}

static void op_shutdown(struct l7mp_stream *s, int code)
{
	struct fake_stream *st = fake(s);

	if (st->shut)
		return;
	st->shut = true;
	st->shut_code = code;
	if (st->echo)
		s->events->end(s->owner, code);
}

static void op_close(struct l7mp_stream *s, bool abort)
{
	struct fake_stream *st = fake(s);

	st->aborted = st->aborted || abort;
	if (st->closing && !abort)
		return;
	st->closing = true;
	if (!st->slow_close || abort)
		l7mp_task_post(st->w->loop, &st->task);
}

static void op_result(struct l7mp_stream *s, int status, const char *message)
{
	(void)message;
	fake(s)->status = status;
}

static void op_flow(struct l7mp_stream *s, struct l7mp_flow_end *out)
{
	*out = fake(s)->flow;
}

static int op_local(struct l7mp_stream *s, struct l7mp_addr *out)
{
	*out = fake(s)->local;
	return out->len ? 0 : -ENOTSUP;
}

static int op_remote(struct l7mp_stream *s, struct l7mp_addr *out)
{
	*out = fake(s)->remote;
	return fake(s)->not_tcp ? -ENOTSUP : out->len ? 0 : -EAGAIN;
}

static void op_passed(struct l7mp_stream *s, uint64_t packets, uint64_t bytes)
{
	(void)bytes;
	fake(s)->passed_packets += packets;
}

#define OPS                                                                               \
	.write = op_write, .pause = op_pause, .shutdown = op_shutdown, .close = op_close, \
	.flow = op_flow, .local = op_local, .remote = op_remote, .passed = op_passed
static const struct l7mp_stream_ops ops = {OPS};
static const struct l7mp_stream_ops result_ops = {OPS, .result = op_result};

/* The owner must not touch a stream after its `closed`. */
static int dead_write(struct l7mp_stream *s, struct l7mp_buf *buf)
{
	(void)s;
	(void)buf;
	abort();
}
static void dead_bool(struct l7mp_stream *s, bool on)
{
	(void)s;
	(void)on;
	abort();
}
static void dead_int(struct l7mp_stream *s, int code)
{
	(void)s;
	(void)code;
	abort();
}
static void dead_flow(struct l7mp_stream *s, struct l7mp_flow_end *out)
{
	(void)s;
	(void)out;
	abort();
}
static const struct l7mp_stream_ops dead_ops = {
        .write = dead_write,
        .pause = dead_bool,
        .shutdown = dead_int,
        .close = dead_bool,
        .flow = dead_flow,
};

/* ---- events ---- */

static void say_closed(struct fake_stream *st, const struct l7mp_error *err)
{
	st->gone = true;
	l7mp_task_cancel(st->w->loop, &st->task);
	if (st->base.events)
		st->base.events->closed(st->base.owner, err);
	st->base.ops = &dead_ops;
}

/* Whatever was to happen by itself: opening, being refused, having been closed. */
static void task(struct l7mp_task *t, void *arg)
{
	struct fake_stream *st = arg;
	struct l7mp_error err = {.code = L7MP_OK};

	(void)t;
	if (st->closing) {
		say_closed(st, &err);
	} else if (st->w->refuse > 0) {
		st->w->refuse--;
		l7mp_error_set(&err, -ECONNREFUSED, L7MP_ERR_UPSTREAM, "connection refused");
		say_closed(st, &err);
	} else {
		fake_open(st);
	}
}

struct fake_stream *fake_make(struct fake_world *w, const struct l7mp_proto *proto)
{
	struct fake_stream *st = calloc(1, sizeof(*st));

	st->base.ops = &ops;
	st->base.kind = proto->desc.kind;
	st->w = w;
	st->paused = true;
	st->flow.kind = L7MP_FLOW_SOCKET;
	l7mp_task_init(&st->task, task, st);
	if (w->last)
		w->last->next = st;
	else
		w->streams = st;
	w->last = st;
	return st;
}

void fake_open(struct fake_stream *st)
{
	st->opened = true;
	st->base.events->open(st->base.owner);
}

void fake_data(struct fake_stream *st, const char *text)
{
	st->base.events->data(st->base.owner,
	                      l7mp_buf_copy(l7mp_loop_bufs(st->w->loop), text, strlen(text)));
}

void fake_bytes(struct fake_stream *st, size_t len)
{
	struct l7mp_buf *buf = l7mp_buf_new(l7mp_loop_bufs(st->w->loop), len);

	memset(buf->data, 'x', len);
	buf->len = (uint32_t)len;
	st->base.events->data(st->base.owner, buf);
}

void fake_end(struct fake_stream *st, int code)
{
	st->base.events->end(st->base.owner, code);
}

void fake_drain(struct fake_stream *st)
{
	st->write_rc = 0;
	st->base.events->drain(st->base.owner);
}

void fake_closed(struct fake_stream *st, int err)
{
	struct l7mp_error e = {.code = L7MP_OK};

	if (err)
		l7mp_error_set(&e, err, L7MP_ERR_UPSTREAM, "%s", strerror(-err));
	say_closed(st, &e);
}

/* ---- protocols ---- */

static int fake_connect(const struct l7mp_proto *proto, const struct l7mp_connect *p,
                        struct l7mp_stream **out, struct l7mp_error *err)
{
	struct fake_world *w = p->env->app;
	struct fake_stream *st;

	struct l7mp_addr addr;

	w->connects++;
	if (p->restore &&
	    (l7mp_addr_parse(&addr, p->address, 1) ? !p->same_endpoint
	                                           : !l7mp_addr_equal(&addr, &p->restore->remote)))
		return -EXDEV;
	w->restored += p->restore != NULL;
	if (w->connect_rc)
		return l7mp_error_set(err, w->connect_rc, L7MP_ERR_UPSTREAM, "can't start");
	st = fake_make(w, proto);
	snprintf(st->address, sizeof(st->address), "%s", p->address ? p->address : "");
	snprintf(st->cluster, sizeof(st->cluster), "%s", p->cluster);
	snprintf(st->session, sizeof(st->session), "%s", p->session);
	st->in_kind = p->in_kind;
	if (!w->hold_open || proto->desc.flags & L7MP_PROTO_VIRTUAL)
		l7mp_task_post(w->loop, &st->task);
	*out = &st->base;
	return 0;
}

static int connect_stream(const struct l7mp_connect *p, struct l7mp_stream **out,
                          struct l7mp_error *err)
{
	return fake_connect(&fake_proto_stream, p, out, err);
}

static int connect_dgram(const struct l7mp_connect *p, struct l7mp_stream **out,
                         struct l7mp_error *err)
{
	return fake_connect(&fake_proto_dgram, p, out, err);
}

static int connect_transformer(const struct l7mp_proto *proto, const struct l7mp_connect *p,
                               enum l7mp_flow_kind kind, struct l7mp_stream **out,
                               struct l7mp_error *err)
{
	int rc = fake_connect(proto, p, out, err);

	if (rc)
		return rc;
	fake(*out)->echo = true;
	(*out)->is_transformer = true;
	(*out)->kind = p->in_kind;
	fake(*out)->flow.kind = kind;
	fake(*out)->flow.reason = L7MP_REASON_TRANSFORMER;
	return 0;
}

static int connect_echo(const struct l7mp_connect *p, struct l7mp_stream **out,
                        struct l7mp_error *err)
{
	return connect_transformer(&fake_proto_echo, p, L7MP_FLOW_NONE, out, err);
}

static int connect_pass(const struct l7mp_connect *p, struct l7mp_stream **out,
                        struct l7mp_error *err)
{
	return connect_transformer(&fake_proto_pass, p, L7MP_FLOW_PASS, out, err);
}

static int fake_listen(const struct l7mp_proto *proto, const struct l7mp_listen *p,
                       struct l7mp_proto_listener **out, struct l7mp_error *err)
{
	struct fake_world *w = p->env->app;
	struct fake_listener *l;

	if (w->listen_fail && strcmp(w->listen_fail, p->name) == 0) {
		l7mp_error_set(err, -EADDRINUSE, L7MP_ERR_REALISE, "address in use");
		snprintf(err->path, sizeof(err->path), "port");
		return -EADDRINUSE;
	}
	l = calloc(1, sizeof(*l));
	l->base = (struct l7mp_proto_listener){.proto = proto, .events = p->events, .arg = p->arg};
	l->w = w;
	l->n_retiring = p->n_retiring;
	snprintf(l->name, sizeof(l->name), "%s", p->name);
	l->next = w->listeners;
	w->listeners = l;
	*out = &l->base;
	return 0;
}

static int listen_stream(const struct l7mp_listen *p, struct l7mp_proto_listener **out,
                         struct l7mp_error *err)
{
	return fake_listen(&fake_proto_stream, p, out, err);
}

static int listen_dgram(const struct l7mp_listen *p, struct l7mp_proto_listener **out,
                        struct l7mp_error *err)
{
	return fake_listen(&fake_proto_dgram, p, out, err);
}

static int listen_forged(const struct l7mp_listen *p, struct l7mp_proto_listener **out,
                         struct l7mp_error *err)
{
	return fake_listen(&fake_proto_forged, p, out, err);
}

static int listen_request(const struct l7mp_listen *p, struct l7mp_proto_listener **out,
                          struct l7mp_error *err)
{
	return fake_listen(&fake_proto_request, p, out, err);
}

static void fake_activate(struct l7mp_proto_listener *base)
{
	((struct fake_listener *)base)->active = true;
}

static int fake_restore(struct l7mp_proto_listener *base, const char *name,
                        struct l7mp_restore_end *end, struct l7mp_accept *a, struct l7mp_error *err)
{
	struct fake_listener *l = (struct fake_listener *)base;

	(void)name;
	if (!end->remote.len)
		return l7mp_error_set(err, -EPERM, L7MP_ERR_UPSTREAM, "not this peer");
	a->stream = &fake_make(l->w, base->proto)->base;
	a->peer = end->remote;
	a->metadata = cJSON_CreateObject();
	cJSON_AddStringToObject(a->metadata, "who", "listener");
	return 0;
}

static void fake_unlisten(struct l7mp_proto_listener *base)
{
	struct fake_listener *l = (struct fake_listener *)base, **at = &l->w->listeners;

	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	l->w->unlistened++;
	free(l);
}

static void fake_bound(const struct l7mp_proto_listener *l, cJSON *spec)
{
	(void)l;
	cJSON_DeleteItemFromObjectCaseSensitive(spec, "port");
	cJSON_AddNumberToObject(spec, "port", 4321);
}

static const struct l7mp_field listener_fields[] = {
        {.key = "port", .type = L7MP_T_INT, .min = 0, .max = 65535, .doc = "port"},
        {0},
};
static const struct l7mp_schema listener_schema = {
        .name = "fake-listener", .doc = "fake", .fields = listener_fields};
static const struct l7mp_field endpoint_fields[] = {
        {.key = "address", .type = L7MP_T_STRING, .doc = "address"},
        {0},
};
static const struct l7mp_schema endpoint_schema = {
        .name = "fake-endpoint", .doc = "fake", .fields = endpoint_fields};

#define BOTH                                                            \
	.roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER, .doc = "fake", \
	.listener_spec = &listener_schema, .endpoint_spec = &endpoint_schema
#define LISTENS .activate = fake_activate, .unlisten = fake_unlisten, .bound = fake_bound

const struct l7mp_proto fake_proto_stream = {
        .desc = {.name = "FakeStream", .kind = L7MP_KIND_STREAM, BOTH},
        .listen = listen_stream,
        .connect = connect_stream,
        LISTENS,
};
const struct l7mp_proto fake_proto_dgram = {
        .desc = {.name = "FakeDgram",
                 .kind = L7MP_KIND_DATAGRAM,
                 .idle_timeout = 60,
                 .flags = L7MP_PROTO_RESTORES,
                 BOTH},
        .listen = listen_dgram,
        .restore = fake_restore,
        .connect = connect_dgram,
        LISTENS,
};
const struct l7mp_proto fake_proto_forged = {
        .desc = {.name = "FakeForged",
                 .kind = L7MP_KIND_DATAGRAM,
                 .idle_timeout = 60,
                 .flags = L7MP_PROTO_FORGEABLE,
                 .roles = L7MP_ROLE_LISTENER,
                 .doc = "fake",
                 .listener_spec = &listener_schema},
        .listen = listen_forged,
        LISTENS,
};
const struct l7mp_proto fake_proto_request = {
        .desc = {.name = "FakeRequest",
                 .kind = L7MP_KIND_STREAM,
                 .flags = L7MP_PROTO_REQUESTS,
                 .roles = L7MP_ROLE_LISTENER,
                 .doc = "fake",
                 .listener_spec = &listener_schema},
        .listen = listen_request,
        LISTENS,
};
const struct l7mp_proto fake_proto_operator = {
        .desc = {.name = "FakeOperator",
                 .kind = L7MP_KIND_STREAM,
                 .flags = L7MP_PROTO_VIRTUAL | L7MP_PROTO_OPERATOR,
                 .roles = L7MP_ROLE_CLUSTER,
                 .doc = "fake"},
        .connect = connect_stream,
};
#define TRANSFORMER                                                            \
	.roles = L7MP_ROLE_CLUSTER, .doc = "fake", .kind = L7MP_KIND_DATAGRAM, \
	.flags = L7MP_PROTO_VIRTUAL | L7MP_PROTO_KEEPS_KIND | L7MP_PROTO_PASS
const struct l7mp_proto fake_proto_echo = {
        .desc = {.name = "FakeEcho", TRANSFORMER},
        .connect = connect_echo,
};
const struct l7mp_proto fake_proto_pass = {
        .desc = {.name = "FakePass", TRANSFORMER},
        .connect = connect_pass,
};

/* ---- for tests ---- */

void fake_world_free(struct fake_world *w)
{
	while (w->streams) {
		struct fake_stream *st = w->streams;

		w->streams = st->next;
		free(st->written);
		free(st);
	}
	w->last = NULL;
}

struct fake_listener *fake_listener(struct fake_world *w, const char *name)
{
	struct fake_listener *l = w->listeners;

	while (l && strcmp(l->name, name))
		l = l->next;
	return l;
}

struct fake_stream *fake_connected(struct fake_world *w, const char *cluster, unsigned n)
{
	for (struct fake_stream *st = w->streams; st; st = st->next)
		if (strcmp(st->cluster, cluster) == 0 && n-- == 0)
			return st;
	return NULL;
}

struct fake_stream *fake_accept_with(struct fake_world *w, const char *listener,
                                     struct l7mp_accept *a, bool wants_result)
{
	struct fake_listener *l = fake_listener(w, listener);
	struct fake_stream *st;

	if (!l || l->base.events->admit(l->base.arg, &a->peer)) {
		free(a->name);
		cJSON_Delete(a->metadata);
		return NULL;
	}
	st = fake_make(w, l->base.proto);
	if (wants_result)
		st->base.ops = &result_ops;
	a->stream = &st->base;
	l->base.events->accept(l->base.arg, a);
	return st;
}

struct fake_stream *fake_accept(struct fake_world *w, const char *listener, const char *session,
                                const char *peer)
{
	struct l7mp_accept a = {.name = strdup(session)};

	if (peer)
		l7mp_addr_parse(&a.peer, peer, 1000);
	a.metadata = cJSON_CreateObject();
	l7mp_json_set(a.metadata, "/IP/src_addr", cJSON_CreateString(peer ? peer : ""));
	return fake_accept_with(w, listener, &a, false);
}
