/* SPDX-License-Identifier: MIT */
#include "api_fixture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the fake protocol ---- */

struct fake_listener {
	struct l7mp_proto_listener base;
	int port;
	bool active;
	struct fake_listener *next;
};

static struct fake_listener *listeners;

static const struct l7mp_field listener_fields[] = {
        {.key = "port", .type = L7MP_T_INT, .min = 0, .max = 65535, .flags = L7MP_F_REQUIRED},
        {.key = NULL},
};
static const struct l7mp_schema listener_schema = {.name = "Fake listener",
                                                   .fields = listener_fields};
static const struct l7mp_field cluster_fields[] = {
        {.key = "port", .type = L7MP_T_INT, .min = 1, .max = 65535},
        {.key = NULL},
};
static const struct l7mp_schema cluster_schema = {.name = "Fake cluster", .fields = cluster_fields};
static const struct l7mp_field endpoint_fields[] = {
        {.key = "address", .type = L7MP_T_STRING, .flags = L7MP_F_REQUIRED},
        {.key = NULL},
};
static const struct l7mp_schema endpoint_schema = {.name = "Fake endpoint",
                                                   .fields = endpoint_fields};

static int fake_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                       struct l7mp_error *err);

static void fake_activate(struct l7mp_proto_listener *l)
{
	((struct fake_listener *)l)->active = true;
}

static void fake_unlisten(struct l7mp_proto_listener *l)
{
	struct fake_listener *f = (struct fake_listener *)l;

	LL_DELETE(listeners, f);
	free(f);
}

static void fake_bound(const struct l7mp_proto_listener *l, cJSON *spec)
{
	cJSON_DeleteItemFromObjectCaseSensitive(spec, "port");
	l7mp_json_add_num(spec, "port", ((const struct fake_listener *)l)->port);
}

static int fake_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                        struct l7mp_error *err)
{
	(void)params;
	(void)out;
	return l7mp_error_set(err, -ECONNREFUSED, L7MP_ERR_UPSTREAM, "refused");
}

static const struct l7mp_proto fake_proto = {
        .desc = {.name = "Fake",
                 .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                 .kind = L7MP_KIND_STREAM,
                 .listener_spec = &listener_schema,
                 .cluster_spec = &cluster_schema,
                 .endpoint_spec = &endpoint_schema},
        .listen = fake_listen,
        .activate = fake_activate,
        .unlisten = fake_unlisten,
        .bound = fake_bound,
        .connect = fake_connect,
};

static int fake_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                       struct l7mp_error *err)
{
	int port = (int)l7mp_json_num(params->spec, "port", 0);
	struct fake_listener *f;

	if (port == 7)
		return l7mp_error_set(err, -EADDRINUSE, L7MP_ERR_REALISE,
		                      "port 7: address already in use");
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->base.proto = &fake_proto;
	f->base.events = params->events;
	f->base.arg = params->arg;
	f->port = port ? port : 4242;
	LL_PREPEND(listeners, f);
	*out = &f->base;
	return 0;
}

bool fixture_listens(int port)
{
	const struct fake_listener *f;

	LL_FOREACH (listeners, f)
		if (f->port == port && f->active)
			return true;
	return false;
}

static const struct l7mp_proto *const protos[] = {&fake_proto, &l7mp_proto_controller,
                                                  &l7mp_proto_prometheus, NULL};
static const struct l7mp_protodesc *const descs[] = {&fake_proto.desc, &l7mp_proto_controller.desc,
                                                     &l7mp_proto_prometheus.desc, NULL};
static const struct l7mp_registry registry = {.descs = descs};

/* ---- set-up ---- */

/* The client by the metadata, not by what the kernel knows of its socket. */
static struct l7mp_addr peer_of(const cJSON *metadata)
{
	struct l7mp_addr addr = {.len = 0};

	(void)l7mp_addr_parse(&addr,
	                      l7mp_json_str(l7mp_json_member(metadata, "IP"), "src_addr", NULL), 1);
	return addr;
}

static enum l7mp_origin origin(struct l7mp_api *api, const struct api_client *client)
{
	struct l7mp_addr peer = client->peer;

	(void)api;
	if (client->session)
		peer = peer_of(l7mp_session_metadata(client->session));
	return l7mp_addr_is_loopback(&peer) ? L7MP_ORIGIN_LOCAL : L7MP_ORIGIN_REMOTE;
}

struct api_fixture *fixture_new(void)
{
	struct api_fixture *fx = calloc(1, sizeof(*fx));
	struct l7mp_sessions_params sp = {.env = &fx->env};
	struct l7mp_api_params ap = {.env = &fx->env, .registry = &registry, .version = "1.2.3"};

	if (!fx || l7mp_loop_new_manual(&fx->loop) || l7mp_model_new(&registry, &fx->model))
		abort();
	fx->env.loop = fx->loop;
	fx->env.stats = &fx->stats;
	fx->env.limits = &l7mp_model_admin(fx->model)->limits;
	fx->env.protos = protos;
	fx->env.states = fx->states;
	fx->env.model = fx->model;
	if (l7mp_sessions_new(&sp, &fx->sessions) ||
	    l7mp_runtime_new(&fx->env, fx->sessions, &fx->runtime) ||
	    l7mp_drain_new(&fx->env, fx->runtime, fx->sessions, &fx->drain))
		abort();
	ap.model = fx->model;
	ap.runtime = fx->runtime;
	ap.sessions = fx->sessions;
	ap.drain = fx->drain;
	if (l7mp_api_new(&ap, &fx->api))
		abort();
	fx->env.app = fx->api;
	fx->api->origin = origin;
	strcpy(fx->api->host, "myhost.example.org");
	return fx;
}

static void forget_answer(struct api_fixture *fx)
{
	cJSON_Delete(fx->json);
	cJSON_Delete(fx->meta);
	free(fx->text);
	fx->json = fx->meta = NULL;
	fx->text = NULL;
}

static void set_flag(void *arg)
{
	*(bool *)arg = true;
}

void fixture_free(struct api_fixture *fx)
{
	bool done = false;

	forget_answer(fx);
	l7mp_drain_stop(fx->drain);
	l7mp_runtime_stop(fx->runtime);
	l7mp_sessions_shutdown(fx->sessions, 1000, set_flag, &done);
	l7mp_loop_advance(fx->loop, 30000);
	if (!done)
		abort();
	l7mp_api_free(&fx->api);
	l7mp_drain_free(&fx->drain);
	l7mp_runtime_free(&fx->runtime);
	l7mp_sessions_free(&fx->sessions);
	l7mp_model_free(&fx->model);
	if (l7mp_loop_free(&fx->loop))
		abort();
	free(fx);
}

/* ---- requests ---- */

cJSON *fixture_metadata(const char *method, const char *target, const char *type, const char *host)
{
	cJSON *root = cJSON_CreateObject();
	cJSON *ip = cJSON_AddObjectToObject(root, "IP");
	cJSON *tcp = cJSON_AddObjectToObject(root, "TCP");
	cJSON *http = cJSON_AddObjectToObject(root, "HTTP");
	cJSON *url = cJSON_AddObjectToObject(http, "url");
	cJSON *headers = cJSON_AddObjectToObject(http, "headers");
	const char *query = strchr(target, '?');
	char *path = strndup(target, query ? (size_t)(query - target) : strlen(target));

	l7mp_json_add_str(ip, "src_addr", "127.0.0.1");
	l7mp_json_add_str(ip, "dst_addr", "127.0.0.1");
	l7mp_json_add_num(tcp, "src_port", 40000);
	l7mp_json_add_num(tcp, "dst_port", 1234);
	l7mp_json_add_str(http, "method", method);
	l7mp_json_add_str(url, "path", path);
	l7mp_json_add_str(url, "query", query ? query + 1 : "");
	if (type)
		l7mp_json_add_str(headers, "content-type", type);
	if (host)
		l7mp_json_add_str(headers, "host", host);
	free(path);
	return root;
}

static void add_header(void *arg, const char *name, const char *value)
{
	l7mp_json_add_str(arg, name, value);
}

static void keep_head(struct api_fixture *fx, const struct api_exchange *x)
{
	const struct api_response *rs = api_exchange_head(x);
	cJSON *http;
	char length[24];

	fx->meta = cJSON_CreateObject();
	http = cJSON_AddObjectToObject(fx->meta, "HTTP");
	l7mp_json_add_num(http, "status", rs->status);
	http = cJSON_AddObjectToObject(http, "headers");
	snprintf(length, sizeof(length), "%lld", api_exchange_length(x));
	if (api_exchange_length(x) >= 0)
		l7mp_json_add_str(http, "Content-Length", length);
	api_each_header(rs, add_header, http);
	fx->status = rs->status;
}

static void set_ready(void *arg)
{
	*(bool *)arg = true;
}

void fixture_read(struct api_fixture *fx, struct api_exchange *x)
{
	struct l7mp_str text = {0};
	int rc = -EAGAIN;

	forget_answer(fx);
	for (int turns = 0; rc && turns < 100000; turns++) {
		char *piece;
		size_t len;

		l7mp_loop_turn(fx->loop);
		if (!api_exchange_head(x))
			continue;
		if (!fx->meta)
			keep_head(fx, x);
		rc = api_exchange_read(x, &piece, &len);
		if (rc < 0 && rc != -EAGAIN)
			abort();
		if (rc != 1)
			continue;
		l7mp_str_addn(&text, piece, len);
		free(piece);
	}
	if (rc)
		abort();
	if (text.len)
		fx->text = l7mp_str_take(&text);
	if (fx->text)
		fx->json = l7mp_json_parse(fx->text, strlen(fx->text), NULL, NULL, 0);
}

struct api_exchange *fixture_begin(struct api_fixture *fx, const cJSON *metadata, const char *body,
                                   void (*ready)(void *arg), void *arg)
{
	const cJSON *http = l7mp_json_member(metadata, "HTTP");
	const cJSON *url = l7mp_json_member(http, "url");
	const struct api_client client = {.peer = peer_of(metadata)};
	struct api_response refusal = {0};
	struct api_exchange *x = NULL;
	struct api_call call = {.service = &api_service_rest,
	                        .method = l7mp_json_str(http, "method", "GET"),
	                        .path = l7mp_json_str(url, "path", NULL),
	                        .query = l7mp_json_str(url, "query", ""),
	                        .content_type = api_header(metadata, "content-type"),
	                        .if_match = api_header(metadata, "if-match"),
	                        .body = body && *body ? strdup(body) : NULL,
	                        .body_len = body ? strlen(body) : 0};

	if (api_authorize(fx->api, &client, metadata, &refusal))
		call.refusal = &refusal;
	if (api_exchange_new(fx->api, &call, ready, arg, &x))
		abort();
	return x;
}

void fixture_settle(struct api_fixture *fx)
{
	for (int i = 0; i < 20; i++)
		l7mp_loop_turn(fx->loop);
}

int fixture_dispatch(struct api_fixture *fx, cJSON *metadata, const char *body)
{
	bool ready = false;
	struct api_exchange *x = fixture_begin(fx, metadata, body, set_ready, &ready);

	fixture_read(fx, x);
	if (!ready)
		abort();
	api_exchange_free(&x);
	cJSON_Delete(metadata);
	/* What the request has changed is given back in a job of its own. */
	l7mp_loop_turn(fx->loop);
	return fx->status;
}

int fixture_request(struct api_fixture *fx, const char *method, const char *target,
                    const char *type, const char *body)
{
	return fixture_dispatch(fx, fixture_metadata(method, target, type, "localhost:1234"), body);
}

const char *fixture_message(const struct api_fixture *fx)
{
	return l7mp_json_str(fx->json, "message", "");
}

const char *fixture_header(const struct api_fixture *fx, const char *name)
{
	const cJSON *http = l7mp_json_member(fx->meta, "HTTP");

	return l7mp_json_str(l7mp_json_member(http, "headers"), name, NULL);
}

/* ---- sources ---- */

static int source_write(struct l7mp_stream *stream, struct l7mp_buf *buf)
{
	struct fake_source *s = (struct fake_source *)stream;

	l7mp_str_addn(&s->text, buf->data, buf->len);
	if (!s->meta && buf->meta)
		s->meta = cJSON_Duplicate(buf->meta, true);
	l7mp_buf_unref(buf);
	return 0;
}

static void source_pause(struct l7mp_stream *stream, bool on)
{
	struct fake_source *s = (struct fake_source *)stream;

	if (!on)
		l7mp_task_post(s->fx->loop, &s->task);
}

static void source_shutdown(struct l7mp_stream *stream, int code)
{
	(void)code;
	((struct fake_source *)stream)->shut = true;
}

static void source_close(struct l7mp_stream *stream, bool abort_it)
{
	struct fake_source *s = (struct fake_source *)stream;

	s->closing = true;
	s->aborted |= abort_it;
	l7mp_task_post(s->fx->loop, &s->task);
}

static void source_result(struct l7mp_stream *stream, int status, const char *message)
{
	(void)message;
	((struct fake_source *)stream)->status = status;
}

static const struct l7mp_stream_ops source_ops = {.write = source_write,
                                                  .pause = source_pause,
                                                  .shutdown = source_shutdown,
                                                  .close = source_close,
                                                  .result = source_result};

static void source_run(struct l7mp_task *task, void *arg)
{
	struct fake_source *s = arg;
	struct l7mp_error err = {0};

	(void)task;
	if (!s->closing && s->end_pending) {
		s->end_pending = false;
		s->stream.events->end(s->stream.owner, 0);
	}
	if (s->closing && !s->closed) {
		s->closed = true;
		s->stream.events->closed(s->stream.owner, &err);
	}
}

struct fake_source *fixture_accept(struct api_fixture *fx, int port, cJSON *metadata,
                                   const char *body)
{
	static unsigned id;
	struct fake_source *s = calloc(1, sizeof(*s));
	struct l7mp_accept a = {.stream = &s->stream, .metadata = metadata};
	const struct fake_listener *l;

	s->fx = fx;
	s->stream.ops = &source_ops;
	s->stream.kind = L7MP_KIND_STREAM;
	s->end_pending = true;
	l7mp_task_init(&s->task, source_run, s);
	LL_FOREACH (listeners, l)
		if (l->port == port && l->active)
			break;
	if (!l)
		abort();
	l7mp_addr_parse(&a.peer, "127.0.0.1", 40000);
	a.name = l7mp_asprintf("Fake-%u", id++);
	if (l->base.events->admit(l->base.arg, &a.peer))
		abort();
	l->base.events->accept(l->base.arg, &a);
	if (body && !s->closing)
		s->stream.events->data(s->stream.owner,
		                       l7mp_buf_copy(l7mp_loop_bufs(fx->loop), body, strlen(body)));
	return s;
}

void fake_source_free(struct fake_source *s)
{
	cJSON_Delete(s->meta);
	l7mp_str_free(&s->text);
	free(s);
}
