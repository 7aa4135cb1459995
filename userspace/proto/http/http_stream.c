/* SPDX-License-Identifier: MIT */
/*
 * The loop's side of an exchange: the source stream of a session. Thread: loop
 * only. What the owner writes becomes visible to the worker at the end of the
 * turn, so that an answer that is written whole gets its Content-Length.
 */
#include "http_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/log.h"

struct http_stream {
	struct l7mp_stream base;
	struct l7mp_http_xchg *x; /* a reference */
	struct l7mp_loop *loop;
	struct l7mp_task task;   /* deliver what can be delivered */
	struct l7mp_flush flush; /* publish what was written */
	struct l7mp_http_reply *reply;
	struct l7mp_http_chunkq pending;
	bool started; /* reply was made: later meta is ignored */
	bool paused;
	bool shut;     /* no more writes */
	bool closing;  /* close was called */
	bool ended;    /* end was emitted */
	bool answered; /* an error was the answer */
	bool full;     /* a write said so */
};

static void publish(struct http_stream *s)
{
	struct l7mp_http_xchg *x = s->x;

	pthread_mutex_lock(&x->mu);
	if (s->reply) {
		l7mp_http_reply_free(x->reply);
		x->reply = s->reply;
		s->reply = NULL;
	}
	if (x->done)
		l7mp_http_chunkq_clear(&s->pending);
	l7mp_http_chunkq_move(&x->out, &s->pending);
	x->out_end = s->shut;
	x->in_refused = s->closing;
	if (s->closing)
		l7mp_http_chunkq_clear(&x->in);
	pthread_cond_signal(&x->cv);
	pthread_mutex_unlock(&x->mu);
}

static void on_flush(struct l7mp_flush *flush, void *arg)
{
	(void)flush;
	publish(arg);
}

static void abort_now(struct http_stream *s)
{
	struct l7mp_http_xchg *x = s->x;

	l7mp_http_chunkq_clear(&s->pending);
	pthread_mutex_lock(&x->mu);
	x->abort = true;
	x->in_refused = true;
	l7mp_http_chunkq_clear(&x->in);
	l7mp_http_chunkq_clear(&x->out);
	pthread_cond_signal(&x->cv);
	pthread_mutex_unlock(&x->mu);
}

/* ---- what the owner calls ---- */

static int http_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct http_stream *s = (struct http_stream *)base;
	struct l7mp_http_chunk *c;
	size_t queued;

	if (s->shut || s->closing) {
		l7mp_buf_unref(buf);
		return -EPIPE;
	}
	if (!s->started) {
		s->started = true;
		s->reply = l7mp_http_reply_new(buf->meta);
	}
	c = l7mp_http_chunk_new(buf->data, buf->len);
	l7mp_buf_unref(buf);
	if (!c)
		return -ENOMEM;
	l7mp_http_chunkq_push(&s->pending, c);
	l7mp_flush_request(s->loop, &s->flush);
	pthread_mutex_lock(&s->x->mu);
	queued = s->x->out.bytes + s->pending.bytes;
	s->full = !s->x->done && queued >= L7MP_HTTP_OUT_HIGH;
	s->x->want_drain = s->full;
	pthread_mutex_unlock(&s->x->mu);
	return s->full ? L7MP_STREAM_FULL : 0;
}

static void http_pause(struct l7mp_stream *base, bool on)
{
	struct http_stream *s = (struct http_stream *)base;

	if (s->paused == on)
		return;
	s->paused = on;
	if (on)
		return;
	pthread_mutex_lock(&s->x->mu);
	s->x->go_on = true;
	pthread_cond_signal(&s->x->cv);
	pthread_mutex_unlock(&s->x->mu);
	l7mp_task_post(s->loop, &s->task);
}

static void http_shutdown(struct l7mp_stream *base, int code)
{
	struct http_stream *s = (struct http_stream *)base;

	(void)code;
	if (s->shut)
		return;
	s->shut = true;
	l7mp_flush_request(s->loop, &s->flush);
}

static void http_close(struct l7mp_stream *base, bool abort)
{
	struct http_stream *s = (struct http_stream *)base;

	/* An error that is on its way is the better end; whoever insists gets the abort. */
	if (abort && (!s->answered || s->closing))
		abort_now(s);
	if (s->closing)
		return;
	s->closing = true;
	s->shut = true;
	l7mp_flush_request(s->loop, &s->flush);
	l7mp_task_post(s->loop, &s->task);
}

/* An error before the first byte becomes the answer; after it the body is broken off. */
static void answer_error(struct http_stream *s, int status, const char *message)
{
	char *body = l7mp_http_error_body(status, message);
	cJSON *meta = cJSON_CreateObject();
	cJSON *http = meta ? cJSON_AddObjectToObject(meta, "HTTP") : NULL;
	struct l7mp_http_chunk *c = body ? l7mp_http_chunk_new(body, strlen(body)) : NULL;
	bool late;

	if (http) {
		cJSON *headers = cJSON_AddObjectToObject(http, "headers");

		l7mp_json_add_num(http, "status", status);
		l7mp_json_add_str(headers, "Content-Type", "application/json");
	}
	pthread_mutex_lock(&s->x->mu);
	late = s->x->head_sent;
	if (!late)
		l7mp_http_chunkq_clear(&s->x->out);
	pthread_mutex_unlock(&s->x->mu);
	l7mp_http_chunkq_clear(&s->pending);
	if (late || !c) {
		free(c);
		abort_now(s);
	} else {
		l7mp_http_chunkq_push(&s->pending, c);
		l7mp_http_reply_free(s->reply);
		s->reply = l7mp_http_reply_new(meta);
		s->started = true;
		s->answered = true;
	}
	s->shut = true;
	l7mp_flush_request(s->loop, &s->flush);
	cJSON_Delete(meta);
	free(body);
}

static void http_result(struct l7mp_stream *base, int status, const char *message)
{
	struct http_stream *s = (struct http_stream *)base;

	if (s->closing)
		return;
	if (status < 200 || status > 299) {
		if (!s->shut)
			answer_error(s, status, message);
		return;
	}
	pthread_mutex_lock(&s->x->mu);
	s->x->go_on = true;
	pthread_cond_signal(&s->x->cv);
	pthread_mutex_unlock(&s->x->mu);
}

static int http_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	*out = ((struct http_stream *)base)->x->local;
	return 0;
}

static const struct l7mp_stream_ops http_ops = {
        .write = http_write,
        .pause = http_pause,
        .shutdown = http_shutdown,
        .close = http_close,
        .result = http_result,
        .local = http_local,
};

/* ---- events ---- */

static void finish(struct http_stream *s, int err)
{
	struct l7mp_error e = {0};
	struct l7mp_http_xchg *x = s->x;

	if (err == -ETIMEDOUT)
		l7mp_error_set(&e, err, L7MP_ERR_TIMEOUT, "the HTTP client stalled for 5 s");
	else if (err == -EPROTO)
		l7mp_error_set(&e, err, L7MP_ERR_PARSE, "the HTTP client's body is malformed");
	else if (err == -ECONNRESET)
		l7mp_error_set(&e, err, L7MP_ERR_UPSTREAM, "the HTTP client went away");
	else if (err < 0 && err != -ECONNABORTED)
		l7mp_error_set(&e, err, L7MP_ERR_INTERNAL, "HTTP request: %s", strerror(-err));
	l7mp_task_cancel(s->loop, &s->task);
	l7mp_flush_cancel(s->loop, &s->flush);
	l7mp_http_chunkq_clear(&s->pending);
	l7mp_http_reply_free(s->reply);
	x->stream = NULL;
	x->finished = true;
	if (s->base.events)
		s->base.events->closed(s->base.owner, &e);
	free(s);
	l7mp_http_xchg_finished(x->engine);
	l7mp_http_xchg_unref(x);
}

/* One piece of the body to the owner. False when there is none (now). */
static bool deliver_one(struct http_stream *s)
{
	struct l7mp_http_xchg *x = s->x;
	struct l7mp_http_chunk *c;
	struct l7mp_buf *buf;

	pthread_mutex_lock(&x->mu);
	c = l7mp_http_chunkq_pop(&x->in);
	pthread_cond_signal(&x->cv);
	pthread_mutex_unlock(&x->mu);
	if (!c)
		return false;
	buf = l7mp_buf_copy(l7mp_loop_bufs(s->loop), c->data, c->len);
	free(c);
	if (buf)
		s->base.events->data(s->base.owner, buf);
	else
		abort_now(s); /* a hole in a body must not look like a body */
	return true;
}

static void deliver(struct http_stream *s)
{
	struct l7mp_http_xchg *x = s->x;
	bool in_end, in_empty, done, drain;
	int err;

	while (!s->paused && !s->closing && deliver_one(s))
		;
	pthread_mutex_lock(&x->mu);
	in_empty = x->in.head == NULL;
	in_end = x->in_end;
	done = x->done;
	err = x->err;
	drain = s->full && (x->out.bytes + s->pending.bytes < L7MP_HTTP_OUT_LOW || done);
	x->want_drain = s->full && !drain;
	pthread_mutex_unlock(&x->mu);
	if (drain && !s->closing) {
		s->full = false;
		s->base.events->drain(s->base.owner);
	}
	if (in_end && in_empty && !s->ended && !s->paused && !s->closing) {
		s->ended = true;
		s->base.events->end(s->base.owner, 0);
	}
	if (done && (s->closing || err < 0 || s->ended))
		finish(s, err);
}

static void on_task(struct l7mp_task *task, void *arg)
{
	(void)task;
	deliver(arg);
}

/* ---- taking a request in ---- */

/* No session: the worker gets its answer, the exchange ends with the worker. */
static void refuse(struct l7mp_http_xchg *x, int status, const char *content)
{
	char *body = l7mp_http_error_body(status, content);
	static const char text[] =
	        "{\"HTTP\":{\"headers\":{\"Content-Type\":\"application/json\"}}}";
	cJSON *meta = l7mp_json_parse(text, sizeof(text) - 1, NULL, NULL, 0);
	struct l7mp_http_chunk *c = body ? l7mp_http_chunk_new(body, strlen(body)) : NULL;
	struct l7mp_http_reply *r = l7mp_http_reply_new(meta);

	if (r)
		r->status = status;
	cJSON_Delete(meta);
	free(body);
	pthread_mutex_lock(&x->mu);
	x->reply = r;
	if (c)
		l7mp_http_chunkq_push(&x->out, c);
	x->out_end = true;
	x->in_refused = true;
	if (!r)
		x->abort = true;
	pthread_cond_signal(&x->cv);
	pthread_mutex_unlock(&x->mu);
}

static struct http_stream *stream_new(struct l7mp_http_xchg *x, struct l7mp_loop *loop)
{
	struct http_stream *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->base.ops = &http_ops;
	s->base.kind = L7MP_KIND_STREAM;
	s->base.asks = true;
	s->x = x;
	s->loop = loop;
	s->paused = true;
	l7mp_http_chunkq_init(&s->pending);
	l7mp_task_init(&s->task, on_task, s);
	l7mp_flush_init(&s->flush, on_flush, s);
	return s;
}

/* The first mail of an exchange: a new request. */
static void take(struct l7mp_http_xchg *x, struct l7mp_http_state *state)
{
	struct l7mp_proto_listener *l = l7mp_http_current(x->engine);
	struct l7mp_accept a = {.peer = x->peer};
	struct http_stream *s = NULL;
	cJSON *http;
	int rc = -ENOMEM;

	if (!l) {
		refuse(x, 503, "no listener is here any more");
		return;
	}
	if (l->events->admit(l->arg, &x->peer) < 0) {
		refuse(x, 503, "a configured limit refuses new sessions");
		return;
	}
	s = stream_new(x, l7mp_http_env(state)->loop);
	a.name = l7mp_inet_name("HTTP", &x->peer, &x->local, l7mp_http_next_id(state));
	a.metadata = l7mp_inet_metadata("TCP", &x->peer, &x->local);
	pthread_mutex_lock(&x->mu);
	http = x->http;
	x->http = NULL;
	pthread_mutex_unlock(&x->mu);
	if (a.metadata)
		rc = l7mp_json_add(a.metadata, "HTTP", http);
	else
		cJSON_Delete(http);
	if (!s || !a.name || rc < 0) {
		cJSON_Delete(a.metadata);
		free(a.name);
		free(s);
		refuse(x, 503, "out of memory");
		return;
	}
	x->stream = s;
	a.stream = &s->base;
	l->events->accept(l->arg, &a);
}

void l7mp_http_stream_mail(struct l7mp_mail *mail, void *state)
{
	struct l7mp_http_xchg *x =
	        (struct l7mp_http_xchg *)((char *)mail - offsetof(struct l7mp_http_xchg, mail));
	bool done;

	pthread_mutex_lock(&x->mu);
	x->mailed = false;
	done = x->done;
	pthread_mutex_unlock(&x->mu);
	if (!x->taken) {
		x->taken = true;
		atomic_fetch_add_explicit(&x->refs, 1, memory_order_relaxed);
		x->engine->xchgs++;
		take(x, state);
	}
	if (x->stream) {
		deliver(x->stream);
	} else if (done && !x->finished) {
		x->finished = true;
		l7mp_http_xchg_finished(x->engine);
		l7mp_http_xchg_unref(x);
	}
	l7mp_http_xchg_unref(x);
}
