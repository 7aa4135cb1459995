/* SPDX-License-Identifier: MIT */
/*
 * A stage that answers one HTTP request: collects the body, makes the answer
 * when the request is complete, writes it piece by piece as the other side takes
 * it, then ends. All that it emits comes from its task, never from inside a call
 * of the session.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api_int.h"
#include "l7mp/log.h"
#include "l7mp/stream.h"

#define PIECE     (64 * 1024)
#define REST_MS   1000  /* after an early answer, for the rest of the request */
#define LINGER_MS 10000 /* after the answer's end, for the session to close */

struct answer {
	struct l7mp_stream stream;
	const struct api_answer_ops *ops;
	struct l7mp_api *api;
	struct l7mp_loop *loop;
	const cJSON *metadata; /* the session's */
	struct api_client client;
	struct l7mp_task task;
	struct l7mp_timer linger;
	struct l7mp_str body;
	bool opened, paused, closing, failed;
	bool complete; /* the request is: its body has ended */
	bool discard;  /* what still comes of the body is not wanted */
	bool too_large;
	bool refused;  /* will be, whatever the body is */
	bool answered; /* `text` and `meta` are made */
	bool ended;
	char *text;
	size_t len, off;
	cJSON *meta; /* until the first piece took it */
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

/* Is it clear before the body that the answer is no? */
static bool is_refused(struct answer *a)
{
	struct api_response rs = {0};
	bool refused = a->ops->admit && a->ops->admit(a->api, &a->client, a->metadata, &rs);

	api_response_clear(&rs);
	return refused;
}

static void begin(struct answer *a)
{
	const char *length = api_header(a->metadata, "content-length");
	const uint32_t max = a->api->params.env->limits->max_body;

	a->opened = true;
	if (!has_body(a->metadata)) {
		/* Its end comes at once. */
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

static void make_answer(struct answer *a)
{
	const char *method = l7mp_json_str(l7mp_json_member(a->metadata, "HTTP"), "method", "GET");
	struct api_response rs = {0};
	struct api_request rq = {
	        .api = a->api,
	        .metadata = a->metadata,
	        .client = a->client,
	        .body = a->body.s,
	        .body_len = a->body.len,
	        .too_large = a->too_large,
	        .method = method,
	};

	a->answered = true;
	a->discard = true;
	if (!rs.status && a->body.oom)
		api_fail(&rs, 503, "out of memory");
	if (!rs.status)
		a->ops->answer(&rq, &rs);
	l7mp_str_free(&a->body);
	if (api_render(&rs, rq.format, !strcmp(method, "HEAD"), &a->text, &a->len, &a->meta))
		a->failed = true;
	api_request_clear(&rq);
	api_response_clear(&rs);
}

static void emit_piece(struct answer *a)
{
	size_t n = a->len - a->off;
	struct l7mp_buf *buf;

	if (n > PIECE)
		n = PIECE;
	buf = l7mp_buf_copy(l7mp_loop_bufs(a->loop), n ? a->text + a->off : "", n);
	if (!buf) {
		a->failed = true;
		return;
	}
	buf->meta = a->meta;
	a->meta = NULL;
	a->off += n;
	a->stream.events->data(a->stream.owner, buf);
}

static void finish(struct answer *a)
{
	struct l7mp_error err = {0};

	if (a->failed && !a->closing)
		l7mp_error_set(&err, 0, L7MP_ERR_INTERNAL, "%s: out of memory", a->ops->proto);
	l7mp_timer_stop(a->loop, &a->linger);
	l7mp_task_cancel(a->loop, &a->task);
	a->stream.events->closed(a->stream.owner, &err);
	l7mp_str_free(&a->body);
	cJSON_Delete(a->meta);
	free(a->text);
	free(a);
}

/*
 * All of the answer is out. Its end waits for the request's: before that it would
 * look like a lost upstream, which a route may want to have retried.
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
	/* Only once data flows: the session is then connected, and so it lists itself. */
	if (!a->closing && !a->paused && !a->answered &&
	    (a->complete || a->too_large || a->refused))
		make_answer(a);
	while (!a->closing && !a->failed && !a->paused && a->answered &&
	       (a->meta || a->off < a->len))
		emit_piece(a);
	if (!a->closing && !a->failed && a->answered && !a->meta && a->off == a->len)
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

int api_answer_connect(const struct l7mp_connect *params, const struct api_answer_ops *ops,
                       struct l7mp_stream **out, struct l7mp_error *err)
{
	struct l7mp_api *api = params->env->app;
	struct answer *a;

	if (!api)
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_UPSTREAM,
		                      "%s: this program serves no REST API", ops->proto);
	if (!cJSON_IsObject(l7mp_json_member(params->metadata, "HTTP")))
		return l7mp_error_set(err, -EPROTO, L7MP_ERR_UPSTREAM,
		                      "%s: the session has no HTTP metadata, expected one from an "
		                      "HTTP listener",
		                      ops->proto);
	a = calloc(1, sizeof(*a));
	if (!a)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	a->stream.ops = &answer_ops;
	a->stream.kind = L7MP_KIND_STREAM;
	a->ops = ops;
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
