/* SPDX-License-Identifier: MIT */
/*
 * Exchanges: a request and its answer, the source stream of a session. The session's writes are
 * collected until the end of the loop iteration, so that a short answer is sent with its head in
 * one system call, and with its Content-Length.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http.h"
#include "l7mp/util.h"

/* Bodies up to this size are copied after the head: cheaper than a second buffer. */
#define SHORT_MAX 2048

/* ---- the end ---- */

/* Ends the stream; the task emits `closed`. */
static void exchange_end_with(struct http_exchange *x, int err)
{
	if (x->over)
		return;
	x->over = true;
	x->err = err;
	l7mp_task_post(x->state->env->loop, &x->task);
}

/* Ends the stream when request and response are complete. */
static void settle(struct http_exchange *x)
{
	if ((x->closing || x->end_emitted) && (x->complete || !x->conn))
		exchange_end_with(x, 0);
}

static void describe(int err, struct l7mp_error *out)
{
	switch (err) {
	case 0:
		break;
	case -ETIMEDOUT:
		l7mp_error_set(out, err, L7MP_ERR_TIMEOUT, "the HTTP client is too slow");
		break;
	case -EPROTO:
		l7mp_error_set(out, err, L7MP_ERR_PARSE, "the HTTP client's body is malformed");
		break;
	case -ECONNRESET:
		l7mp_error_set(out, err, L7MP_ERR_UPSTREAM, "the HTTP client went away");
		break;
	default:
		l7mp_error_set(out, err, L7MP_ERR_INTERNAL, "HTTP request: %s", strerror(-err));
		break;
	}
}

static void exchange_finish(struct http_exchange *x)
{
	struct l7mp_loop *loop = x->state->env->loop;
	struct http_conn *c = x->conn;
	struct l7mp_error err = {0};

	describe(x->err, &err);
	l7mp_task_cancel(loop, &x->task);
	l7mp_flush_cancel(loop, &x->flush);
	l7mp_bufq_clear(&x->out);
	l7mp_http_reply_free(x->reply);
	if (x->base.events)
		x->base.events->closed(x->base.owner, &err);
	free(x);
	if (c)
		http_conn_exchange_freed(c);
}

void http_exchange_lost(struct http_exchange *x, int err)
{
	x->conn = NULL;
	l7mp_bufq_clear(&x->out);
	if (!x->complete || !x->in_end)
		exchange_end_with(x, err);
	else
		settle(x);
}

/* ---- the answer ---- */

/* Selects the framing of the body; `known` is its length, -1 while it is incomplete. */
static void choose_framing(struct http_exchange *x, int status, long long known)
{
	long long announced = x->reply ? x->reply->length : -1;

	x->bodyless = x->is_head || status == 204 || status == 304;
	x->length = known >= 0 && !x->is_head ? known : announced;
	if (x->length < 0 && x->is_head)
		x->length = known;
	x->chunked = x->length < 0 && !x->bodyless && !x->http10;
	if ((x->length < 0 && !x->bodyless && !x->chunked) ||
	    (x->shut && http_conn_must_close(x->conn)) || x->conn->state->env->draining)
		x->conn->keep = false;
}

/*
 * Creates the status line and the fields, with room for `room` bytes after them. NULL: no memory.
 */
static struct l7mp_buf *make_head(struct http_exchange *x, size_t room)
{
	int status = x->reply ? x->reply->status : 200;
	const char *headers =
	        x->reply ? x->reply->headers : "Content-Type: application/octet-stream\r\n";
	struct l7mp_buf *buf;

	choose_framing(x, status, x->shut ? (long long)x->out.bytes : -1);
	buf = l7mp_buf_new(http_pool(x->state), 256 + strlen(headers) + room);
	if (!buf)
		return NULL;
	http_append(buf, "HTTP/1.1 %d %s\r\nDate: %s\r\n%s", status, l7mp_http_phrase(status),
	            l7mp_http_date_now(&x->state->date), headers);
	if (x->chunked)
		http_append(buf, "Transfer-Encoding: chunked\r\n");
	else if (x->length >= 0 && status != 204 && status != 304)
		http_append(buf, "Content-Length: %lld\r\n", x->length);
	http_append(buf, "%s", http_conn_line(x->conn, x->http10));
	return buf;
}

/* Copies queued data after the head. */
static void copy_body(struct http_exchange *x, struct l7mp_buf *head)
{
	struct l7mp_buf *buf;

	while ((buf = l7mp_bufq_pop(&x->out))) {
		memcpy(head->data + head->len, buf->data, buf->len);
		head->len += buf->len;
		x->sent += buf->len;
		l7mp_buf_unref(buf);
	}
}

static bool put_head(struct http_exchange *x)
{
	bool copy = x->shut && !x->is_head && x->out.bytes <= SHORT_MAX;
	struct l7mp_buf *head = make_head(x, copy ? x->out.bytes : 0);

	x->head_sent = true;
	if (head && copy && !x->bodyless && !x->chunked)
		copy_body(x, head);
	l7mp_http_reply_free(x->reply);
	x->reply = NULL;
	return http_conn_put(x->conn, head);
}

/* Writes queued data, as one chunk if the body is chunked. */
static bool put_body(struct http_exchange *x)
{
	struct l7mp_buf *buf;
	char line[32];

	if (x->bodyless || !x->out.bytes) {
		l7mp_bufq_clear(&x->out);
		return true;
	}
	x->sent += (long long)x->out.bytes;
	if (!x->chunked && x->length >= 0 && x->sent > x->length)
		return false; /* more than the announced length: abort, so that the client notices
		               * */
	snprintf(line, sizeof(line), "%zx\r\n", x->out.bytes);
	if (x->chunked && !http_conn_put_text(x->conn, line))
		return false;
	while ((buf = l7mp_bufq_pop(&x->out))) {
		if (!buf->len)
			l7mp_buf_unref(buf);
		else if (!http_conn_put(x->conn, buf))
			return false;
	}
	return !x->chunked || http_conn_put_text(x->conn, "\r\n");
}

static bool put_end(struct http_exchange *x)
{
	x->complete = true;
	if (x->chunked)
		return http_conn_put_text(x->conn, "0\r\n\r\n");
	if (!x->bodyless && x->length >= 0 && x->sent != x->length)
		x->conn->keep = false; /* the client detects the incomplete body */
	return true;
}

/* Writes head and body as far as possible. */
static void send_out(struct http_exchange *x)
{
	struct http_conn *c = x->conn;
	bool ok;

	if (!c || x->complete || c->full || (!x->started && !x->shut))
		return;
	l7mp_byte_stream_cork(c->io, true);
	ok = x->head_sent || put_head(x);
	ok = ok && put_body(x);
	if (ok && x->shut)
		ok = put_end(x);
	l7mp_byte_stream_cork(c->io, false);
	if (!ok) {
		x->complete = true;
		l7mp_bufq_clear(&x->out);
		http_conn_abort(c);
		settle(x);
		return;
	}
	if (x->complete) {
		http_conn_answered(c);
		settle(x);
	} else {
		http_conn_watch(c);
	}
}

static void on_flush(struct l7mp_flush *flush, void *arg)
{
	(void)flush;
	send_out(arg);
}

void http_exchange_drain(struct http_exchange *x)
{
	send_out(x);
	if (!x->full || x->closing || !x->conn || x->conn->full)
		return;
	x->full = false;
	x->base.events->drain(x->base.owner);
}

/* ---- errors ---- */

/*
 * Ends an incomplete body detectably for the client: without the last chunk, short of its length,
 * or with a reset.
 */
static void break_off(struct http_exchange *x)
{
	struct http_conn *c = x->conn;

	if (!c || x->complete)
		return;
	x->complete = true;
	l7mp_bufq_clear(&x->out);
	c->keep = false;
	if (x->chunked || x->length >= 0)
		http_conn_answered(c);
	else
		http_conn_abort(c);
}

/* An error before the first byte becomes the answer; later the body is aborted. */
static void answer_error(struct http_exchange *x, int status, const char *message)
{
	static const char text[] =
	        "{\"HTTP\":{\"headers\":{\"Content-Type\":\"application/json\"}}}";
	char *body = l7mp_http_error_body(status, message);
	cJSON *meta = l7mp_json_parse(text, sizeof(text) - 1, NULL, NULL, 0);
	struct l7mp_buf *buf = body ? l7mp_buf_copy(http_pool(x->state), body, strlen(body)) : NULL;

	x->shut = true;
	l7mp_bufq_clear(&x->out);
	if (x->head_sent || !buf || !meta) {
		l7mp_buf_unref(buf);
		break_off(x);
	} else {
		l7mp_bufq_push(&x->out, buf);
		l7mp_http_reply_free(x->reply);
		x->reply = l7mp_http_reply_new(meta);
		if (x->reply)
			x->reply->status = status;
		x->started = x->answered = true;
		l7mp_flush_request(x->state->env->loop, &x->flush);
	}
	cJSON_Delete(meta);
	free(body);
}

void http_exchange_fail(struct http_exchange *x, int status, int err, const char *why)
{
	struct http_conn *c = x->conn;

	if (!x->complete) {
		x->shut = true;
		l7mp_bufq_clear(&x->out);
		c->keep = false;
		if (x->head_sent)
			break_off(x);
		else if (!http_conn_answer(c, status, why, "", x->is_head))
			http_conn_abort(c);
		x->complete = x->head_sent = true;
	}
	exchange_end_with(x, err);
	http_conn_answered(c);
}

/* ---- stream operations for the session ---- */

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct http_exchange *x = (struct http_exchange *)base;

	if (x->shut || x->closing || !x->conn) {
		l7mp_buf_unref(buf);
		return -EPIPE;
	}
	if (!x->started) {
		x->started = true;
		if (buf->meta)
			x->reply = l7mp_http_reply_new(buf->meta);
		if (buf->meta && !x->reply) {
			l7mp_buf_unref(buf);
			return -ENOMEM;
		}
	}
	l7mp_bufq_push(&x->out, buf);
	if (x->out.bytes >= HTTP_OUT_MAX)
		send_out(x);
	else
		l7mp_flush_request(x->state->env->loop, &x->flush);
	x->full = x->conn && (x->conn->full || x->out.bytes >= HTTP_OUT_MAX);
	return x->full ? L7MP_STREAM_FULL : 0;
}

static void op_pause(struct l7mp_stream *base, bool on)
{
	struct http_exchange *x = (struct http_exchange *)base;

	if (x->paused == on)
		return;
	x->paused = on;
	if (!x->conn)
		return;
	if (on)
		http_conn_watch(x->conn);
	else
		l7mp_task_post(x->state->env->loop, &x->task);
}

static void op_shutdown(struct l7mp_stream *base, int code)
{
	struct http_exchange *x = (struct http_exchange *)base;

	(void)code;
	if (x->shut)
		return;
	x->shut = true;
	l7mp_flush_request(x->state->env->loop, &x->flush);
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct http_exchange *x = (struct http_exchange *)base;

	if (abort && !x->answered && !x->complete) {
		if (x->head_sent)
			break_off(x);
		else if (x->conn)
			answer_error(x, 502, "the session was aborted");
	}
	if (x->closing)
		return;
	x->closing = true;
	x->shut = true;
	if (x->conn && !x->complete)
		l7mp_flush_request(x->state->env->loop, &x->flush);
	settle(x);
}

static void op_result(struct l7mp_stream *base, int status, const char *message)
{
	struct http_exchange *x = (struct http_exchange *)base;

	if (!x->closing && !x->shut && x->conn && (status < 200 || status > 299))
		answer_error(x, status, message);
}

static int op_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	const struct http_exchange *x = (const struct http_exchange *)base;

	if (!x->conn)
		return -ENOTCONN;
	*out = x->conn->peer.local;
	return 0;
}

static const struct l7mp_stream_ops exchange_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
        .result = op_result,
        .local = op_local,
};

/* ---- passing the request's body to the session ---- */

void http_exchange_data(struct http_exchange *x, struct l7mp_buf *buf)
{
	x->base.events->data(x->base.owner, buf);
}

static void emit_end(struct http_exchange *x)
{
	if (!x->in_end || x->end_emitted || x->paused || x->closing || x->over || !x->base.events)
		return;
	x->end_emitted = true;
	x->base.events->end(x->base.owner, 0);
	settle(x);
}

void http_exchange_end(struct http_exchange *x)
{
	x->in_end = true;
	emit_end(x);
}

static void on_exchange_task(struct l7mp_task *task, void *arg)
{
	struct http_exchange *x = arg;

	(void)task;
	if (x->over) {
		exchange_finish(x);
		return;
	}
	emit_end(x);
	if (x->conn)
		http_conn_resume(x->conn);
}

struct http_exchange *http_exchange_new(struct http_conn *c, const struct l7mp_http_request *req)
{
	struct http_exchange *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	x->base.ops = &exchange_ops;
	x->base.kind = L7MP_KIND_STREAM;
	x->base.request_response = true;
	x->conn = c;
	x->state = c->state;
	x->paused = true;
	x->http10 = !req->minor;
	x->is_head = strcmp(req->method, "HEAD") == 0;
	x->in_end = c->phase != HTTP_BODY;
	x->length = -1;
	l7mp_bufq_init(&x->out);
	l7mp_task_init(&x->task, on_exchange_task, x);
	l7mp_flush_init(&x->flush, on_flush, x);
	return x;
}
