/* SPDX-License-Identifier: MIT */
/*
 * A stage that answers one HTTP request. It collects the body, passes the complete request to an
 * exchange, emits the answer in pieces as fast as they are accepted, and then ends. It emits only
 * from its task, never from inside a call of the session.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api_int.h"
#include "l7mp/log.h"
#include "l7mp/stream.h"

#define REST_MS   1000  /* time for the rest of the request after an early answer */
#define LINGER_MS 10000 /* time for the session to close after the answer's end */

struct answer {
	struct l7mp_stream stream;
	const struct api_service *service;
	struct l7mp_api *api;
	struct l7mp_loop *loop;
	const cJSON *metadata; /* of the session */
	struct api_client client;
	struct l7mp_task task;
	struct l7mp_timer linger;
	struct l7mp_str body;
	bool opened, paused, closing, failed;
	bool complete; /* the body of the request */
	bool discard;  /* the rest of the body is discarded */
	bool too_large;
	bool refused;                  /* the request will be rejected, regardless of the body */
	struct api_exchange *exchange; /* NULL: not begun */
	bool head_sent; /* the first piece was emitted, with the status and the headers */
	bool all_sent;
	bool ended;
};

static struct answer *from_stream(struct l7mp_stream *s)
{
	return l7mp_container_of(s, struct answer, stream);
}

static void wake(struct answer *a)
{
	l7mp_task_post(a->loop, &a->task);
}

static int answer_write(struct l7mp_stream *s, struct l7mp_buf *buf)
{
	struct answer *a = from_stream(s);

	if (!a->discard && !a->complete) {
		if (a->body.len + buf->len > a->api->params.env->limits->max_body) {
			a->too_large = true;
			a->discard = true;
			l7mp_str_free(&a->body);
			a->api->params.env->stats->refusals[L7MP_REFUSE_MAX_BODY]++;
			wake(a);
		} else {
			l7mp_str_addn(&a->body, buf->data, buf->len);
		}
	}
	l7mp_buf_unref(buf);
	return 0;
}

static void answer_pause(struct l7mp_stream *s, bool on)
{
	struct answer *a = from_stream(s);

	a->paused = on;
	if (!on)
		wake(a);
}

static void answer_shutdown(struct l7mp_stream *s, int code)
{
	struct answer *a = from_stream(s);

	(void)code;
	if (a->complete)
		return;
	a->complete = true;
	wake(a);
}

static void answer_close(struct l7mp_stream *s, bool abort)
{
	struct answer *a = from_stream(s);

	(void)abort;
	a->closing = true;
	wake(a);
}

static const struct l7mp_stream_ops answer_ops = {
        .write = answer_write,
        .pause = answer_pause,
        .shutdown = answer_shutdown,
        .close = answer_close,
};

/* ---- the task ---- */

static bool has_body(const cJSON *metadata)
{
	const char *length = api_header(metadata, "content-length");

	if (api_header(metadata, "transfer-encoding"))
		return true;
	return length && strtoull(length, NULL, 10) > 0;
}

/* Returns whether the request will be rejected regardless of its body. */
static bool is_refused(struct answer *a)
{
	struct api_response rs = {0};
	bool refused = a->service->admit && a->service->admit(a->api, &a->client, a->metadata, &rs);

	api_response_clear(&rs);
	return refused;
}

static void begin(struct answer *a)
{
	const char *length = api_header(a->metadata, "content-length");
	const uint32_t max = a->api->params.env->limits->max_body;

	a->opened = true;
	if (!has_body(a->metadata)) {
		/* A bodyless request: its end follows at once. */
	} else if (is_refused(a)) {
		a->refused = true;
		a->discard = true;
	} else if (length && strtoull(length, NULL, 10) > max) {
		a->too_large = true;
		a->discard = true;
		a->api->params.env->stats->refusals[L7MP_REFUSE_MAX_BODY]++;
	}
	a->stream.events->open(a->stream.owner);
}

static void on_ready(void *arg)
{
	wake(arg);
}

/* Begins the answer: the request is complete, or its answer does not depend on the rest of it. */
static void begin_exchange(struct answer *a)
{
	const cJSON *http = l7mp_json_member(a->metadata, "HTTP");
	const cJSON *url = l7mp_json_member(http, "url");
	const char *query = l7mp_json_str(url, "query", "");
	struct api_response refusal = {0};
	struct api_call call = {
	        .service = a->service,
	        .method = l7mp_json_str(http, "method", "GET"),
	        .path = l7mp_json_str(url, "path", NULL),
	        .query = *query == '?' ? query + 1 : query,
	        .content_type = api_header(a->metadata, "content-type"),
	        .if_match = api_header(a->metadata, "if-match"),
	        .session = a->client.session ? l7mp_session_name(a->client.session) : NULL,
	        .too_large = a->too_large,
	};

	a->discard = true;
	if (a->service->admit && a->service->admit(a->api, &a->client, a->metadata, &refusal))
		call.refusal = &refusal;
	else if (a->body.oom)
		api_fail(&refusal, 503, "out of memory");
	if (refusal.status)
		call.refusal = &refusal;
	call.body_len = a->body.len;
	call.body = a->body.len ? l7mp_str_take(&a->body) : NULL;
	l7mp_str_free(&a->body);
	if (api_exchange_new(a->api, &call, on_ready, a, &a->exchange))
		a->failed = true;
	api_response_clear(&refusal);
}

static void add_header(void *arg, const char *name, const char *value)
{
	l7mp_json_add_str(arg, name, value);
}

/* Makes {"HTTP": {status, headers}}; NULL: out of memory. */
static cJSON *make_head(const struct api_exchange *x)
{
	const struct api_response *rs = api_exchange_head(x);
	long long length = api_exchange_length(x);
	cJSON *meta = cJSON_CreateObject();
	cJSON *http = cJSON_AddObjectToObject(meta, "HTTP");
	cJSON *headers;
	char text[24];

	l7mp_json_add_num(http, "status", rs->status);
	headers = cJSON_AddObjectToObject(http, "headers");
	if (!headers) {
		cJSON_Delete(meta);
		return NULL;
	}
	snprintf(text, sizeof(text), "%lld", length);
	if (length >= 0)
		l7mp_json_add_str(headers, "Content-Length", text);
	api_each_header(rs, add_header, headers);
	return meta;
}

/* Emits one piece. Returns false when there is none now, or all was emitted. */
static bool emit_piece(struct answer *a)
{
	char *text = NULL;
	size_t len = 0;
	int rc;
	struct l7mp_buf *buf;

	if (!api_exchange_head(a->exchange))
		return false;
	rc = api_exchange_read(a->exchange, &text, &len);
	a->failed = rc < 0 && rc != -EAGAIN;
	a->all_sent = rc == 0;
	/* Without a body an empty buffer carries the head. */
	if (rc < 0 || (rc == 0 && a->head_sent))
		return false;
	buf = l7mp_buf_copy(l7mp_loop_bufs(a->loop), text ? text : "", len);
	free(text);
	if (buf && !a->head_sent)
		buf->meta = make_head(a->exchange);
	if (!buf || (!a->head_sent && !buf->meta)) {
		if (buf)
			l7mp_buf_unref(buf);
		a->failed = true;
		return false;
	}
	a->head_sent = true;
	a->stream.events->data(a->stream.owner, buf);
	return rc > 0;
}

static void finish(struct answer *a)
{
	struct l7mp_error err = {0};

	if (a->failed && !a->closing)
		l7mp_error_set(&err, 0, L7MP_ERR_INTERNAL, "%s: the answer could not be made",
		               a->service->proto);
	api_exchange_free(&a->exchange);
	l7mp_timer_stop(a->loop, &a->linger);
	l7mp_task_cancel(a->loop, &a->task);
	a->stream.events->closed(a->stream.owner, &err);
	l7mp_str_free(&a->body);
	free(a);
}

/*
 * The whole answer was emitted. Its end is delayed until the end of the request: an earlier end
 * would look like a lost upstream, which a route may retry.
 */
static void emit_end(struct answer *a)
{
	if (a->ended || (!a->complete && l7mp_timer_armed(&a->linger)))
		return;
	if (l7mp_timer_start(a->loop, &a->linger, a->complete ? LINGER_MS : REST_MS))
		a->failed = true;
	if (!a->complete || a->failed)
		return;
	a->ended = true;
	a->stream.events->end(a->stream.owner, 0);
}

static void run(struct l7mp_task *task, void *arg)
{
	struct answer *a = arg;

	(void)task;
	if (!a->opened && !a->closing)
		begin(a);
	/*
	 * Wait until data may flow: then the session is connected, and included in a list of
	 * sessions.
	 */
	if (!a->closing && !a->paused && !a->exchange &&
	    (a->complete || a->too_large || a->refused))
		begin_exchange(a);
	while (!a->closing && !a->failed && !a->paused && a->exchange && !a->all_sent &&
	       emit_piece(a))
		;
	if (!a->closing && !a->failed && a->all_sent)
		emit_end(a);
	if (a->closing || a->failed)
		finish(a);
}

static void lingered(struct l7mp_timer *timer, void *arg)
{
	struct answer *a = arg;

	(void)timer;
	a->closing = true;
	wake(a);
}

int api_answer_connect(const struct l7mp_connect *params, const struct api_service *service,
                       struct l7mp_stream **out, struct l7mp_error *err)
{
	struct l7mp_api *api = params->env->app;
	struct answer *a;

	if (!api)
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_UPSTREAM,
		                      "%s: this program serves no REST API", service->proto);
	if (!cJSON_IsObject(l7mp_json_member(params->metadata, "HTTP")))
		return l7mp_error_set(err, -EPROTO, L7MP_ERR_UPSTREAM,
		                      "%s: the session has no HTTP metadata, expected one from an "
		                      "HTTP listener",
		                      service->proto);
	a = calloc(1, sizeof(*a));
	if (!a)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	a->stream.ops = &answer_ops;
	a->stream.kind = L7MP_KIND_STREAM;
	a->service = service;
	a->api = api;
	a->loop = params->env->loop;
	a->metadata = params->metadata;
	a->client.session = l7mp_sessions_find(api->params.sessions, params->session);
	a->paused = true;
	l7mp_task_init(&a->task, run, a);
	l7mp_timer_init(&a->linger, lingered, a);
	wake(a);
	*out = &a->stream;
	return 0;
}
