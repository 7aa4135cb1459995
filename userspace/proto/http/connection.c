/* SPDX-License-Identifier: MIT */
/*
 * HTTP connections: reading heads and bodies, one request at a time, deadlines, and closing so that
 * the client can read the last answer. A request and its answer are an exchange: the source stream
 * of a session. The session's writes are collected until the end of the loop's turn, so that a
 * short answer is sent with its head in one system call, and with its Content-Length. Between
 * requests a connection holds no buffer.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http.h"
#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/util.h"
#include "metadata.h"

/* Interval in ms at which a connection is checked while its state must be polled. */
#define POLL_MS 1000
/* Memory of a connection with the stream below it, whether it sends requests or not. */
#define HTTP_CONN_COST 2048
/* Pieces of a body up to this size are copied, so that they do not hold a large buffer. */
#define COPY_MAX 1024

/* Bodies up to this size are copied after the head: cheaper than a second buffer. */
#define SHORT_MAX 2048

static void consume(struct http_conn *c);

static struct l7mp_loop *loop_of(const struct http_conn *c)
{
	return c->state->env->loop;
}

static uint64_t now_of(const struct http_conn *c)
{
	return l7mp_loop_now(loop_of(c));
}

static struct l7mp_buf_pool *pool_of(const struct http_state *state)
{
	return l7mp_loop_bufs(state->env->loop);
}

static bool is_wanted(const struct http_exchange *x)
{
	return x && !x->closing && !x->over;
}

/* Moves a connection to another list of its listener, or to the state's orphans. */
static void conn_move(struct http_conn *c, struct http_conn **list)
{
	if (c->list)
		DL_DELETE(*c->list, c);
	c->list = list;
	DL_APPEND(*list, c);
}

/* ---- memory of unfinished heads ---- */

static void charge_head(struct http_conn *c)
{
	c->state->head_bytes += c->reader.cap;
	c->state->head_bytes -= c->head_bytes;
	c->head_bytes = c->reader.cap;
}

static void reset_reader(struct http_conn *c)
{
	l7mp_http_reader_reset(&c->reader);
	charge_head(c);
}

/* ---- input ---- */

/* Removes n bytes from the input and returns them as a buffer. NULL: no memory. */
static struct l7mp_buf *take(struct http_conn *c, size_t off, size_t n, size_t used)
{
	struct l7mp_buf *buf = c->in.head, *out;

	if (!off && n == buf->len)
		return l7mp_bufq_pop(&c->in);
	if (n <= COPY_MAX)
		out = l7mp_buf_copy(l7mp_loop_bufs(loop_of(c)), buf->data + off, n);
	else
		out = l7mp_buf_slice(buf, off, n);
	buf->data += used;
	buf->len -= (uint32_t)used;
	c->in.bytes -= used;
	if (!buf->len)
		l7mp_buf_unref(l7mp_bufq_pop(&c->in));
	return out;
}

/* Discards the first n bytes of the input. */
static void skip(struct http_conn *c, size_t n)
{
	struct l7mp_buf *buf = c->in.head;

	buf->data += n;
	buf->len -= (uint32_t)n;
	c->in.bytes -= n;
	if (!buf->len)
		l7mp_buf_unref(l7mp_bufq_pop(&c->in));
}

/* ---- closing ---- */

static void close_io(struct http_conn *c, bool abort)
{
	if (c->closed && !abort)
		return;
	c->closed = true;
	c->phase = HTTP_CLOSING;
	l7mp_bufq_clear(&c->in);
	l7mp_timer_stop(loop_of(c), &c->timer);
	l7mp_stream_close(c->io, abort);
}

/* Aborts the connection. */
static void conn_abort(struct http_conn *c)
{
	close_io(c, true);
}

void http_conn_close_idle(struct http_conn *c)
{
	close_io(c, false);
}

/*
 * Closes once everything was written. If input of the client is unread, the client gets some time
 * to read the answer, because closing earlier would reset the connection and could destroy the
 * answer (RFC 9112, section 9.6).
 */
static void try_close(struct http_conn *c)
{
	uint64_t now = now_of(c);

	if (c->closed || l7mp_byte_stream_queued(c->io))
		return;
	if (c->unread && !c->eof && now - c->heard_ms < HTTP_LINGER_QUIET_MS &&
	    now - c->since < HTTP_LINGER_MS)
		return;
	close_io(c, false);
}

/* ---- reading and the next deadline ---- */

/* Returns the loop time of the next check; 0: no check is needed. */
static uint64_t next_look(const struct http_conn *c)
{
	uint64_t now = now_of(c), due = 0;

	if (c->phase == HTTP_HEAD && !c->x)
		due = c->since + (l7mp_http_reader_begun(&c->reader) ? c->deadlines.header
		                                                     : c->deadlines.keepalive);
	else if (c->phase == HTTP_BODY && c->reading)
		due = c->body_due;
	if ((c->phase == HTTP_CLOSING || (c->eof && c->x) || l7mp_byte_stream_queued(c->io)) &&
	    (!due || due > now + POLL_MS))
		due = now + POLL_MS;
	return due;
}

static bool wants_input(const struct http_conn *c)
{
	if (c->eof)
		return false;
	if (c->phase == HTTP_CLOSING)
		return true;
	if (c->phase == HTTP_BODY && is_wanted(c->x) && (c->x->paused || c->expect))
		return false;
	return c->in.bytes < HTTP_AHEAD_MAX;
}

/* Updates reading and the next deadline after a change of state. */
static void conn_watch(struct http_conn *c)
{
	uint64_t now = now_of(c), due;
	bool want;

	if (c->closed || c->busy)
		return;
	want = wants_input(c);
	if (want && !c->reading && c->phase == HTTP_BODY && c->body_due < now + c->deadlines.body)
		c->body_due = now + c->deadlines.body;
	if (want != c->reading) {
		c->reading = want;
		l7mp_stream_pause(c->io, !want);
	}
	due = next_look(c);
	/*
	 * A timer that fires too early is re-armed: that costs less than moving it for each
	 * request.
	 */
	if (!due || (l7mp_timer_armed(&c->timer) && c->timer.due <= due))
		return;
	if (l7mp_timer_start(loop_of(c), &c->timer, due > now ? due - now : 0))
		conn_abort(c);
}

static void begin_close(struct http_conn *c)
{
	if (c->phase == HTTP_CLOSING)
		return;
	c->unread |= c->phase == HTTP_BODY || c->in.count;
	c->phase = HTTP_CLOSING;
	c->since = c->heard_ms = now_of(c);
	l7mp_bufq_clear(&c->in);
	reset_reader(c);
	l7mp_stream_shutdown(c->io, 0);
	try_close(c);
	conn_watch(c);
}

/* ---- the end of an answer ---- */

/* Whether the unread rest of the request is larger than is read to keep a connection. */
static bool must_close(const struct http_conn *c)
{
	return c->phase == HTTP_BODY &&
	       (c->expect || (!c->is_chunked && c->left > HTTP_DISCARD_MAX));
}

/* The answer is complete; its exchange still exists. */
static void answer_complete(struct http_conn *c)
{
	/* The route has answered, but may still need the rest of the request. */
	if (!c->keep && (c->phase != HTTP_BODY || !is_wanted(c->x)))
		begin_close(c);
	else
		conn_watch(c);
}

/* The exchange was freed. */
static void exchange_gone(struct http_conn *c)
{
	c->x = NULL;
	/* The session may not have ended yet: its task, posted earlier, runs first. */
	if (!c->closed)
		l7mp_task_post(loop_of(c), &c->task);
}

/* ---- writing ---- */

/*
 * Writes buf, which it takes, and which is NULL when out of memory. Returns false when the
 * connection is broken.
 */
static bool put(struct http_conn *c, struct l7mp_buf *buf)
{
	int rc = buf ? l7mp_stream_write(c->io, buf) : -ENOMEM;

	if (rc == L7MP_STREAM_FULL)
		c->full = true;
	return rc >= 0;
}

static bool put_text(struct http_conn *c, const char *text)
{
	return put(c, l7mp_buf_copy(pool_of(c->state), text, strlen(text)));
}

/* Appends formatted text to a buffer that has room for it. */
static void append(struct l7mp_buf *buf, const char *fmt, ...)
        __attribute__((format(printf, 2, 3)));
static void append(struct l7mp_buf *buf, const char *fmt, ...)
{
	size_t room = l7mp_buf_tailroom(buf);
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf((char *)buf->data + buf->len, room, fmt, ap);
	va_end(ap);
	if (n > 0)
		buf->len += (size_t)n < room ? (uint32_t)n : (uint32_t)room - 1;
}

static const char *connection_line(const struct http_conn *c, bool http10)
{
	if (!c->keep)
		return "Connection: close\r\n\r\n";
	return http10 ? "Connection: keep-alive\r\n\r\n" : "\r\n";
}

/*
 * Writes a whole answer without a session: an error body, and `extra` header lines (may be "").
 * Decides whether to keep the connection. Returns false when the connection is broken.
 */
static bool answer(struct http_conn *c, int status, const char *why, const char *extra,
                   bool is_head)
{
	char *body = l7mp_http_error_body(status, why);
	struct l7mp_buf *buf;

	if (!body)
		return false;
	if (must_close(c))
		c->keep = false;
	buf = l7mp_buf_new(pool_of(c->state), 512 + strlen(extra) + strlen(body));
	if (buf)
		append(buf,
		       "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: application/json\r\n"
		       "Content-Length: %zu\r\n%s%s%s",
		       status, l7mp_http_phrase(status), l7mp_http_date_now(&c->state->date),
		       strlen(body), extra, connection_line(c, true), is_head ? "" : body);
	free(body);
	return put(c, buf);
}

/* ---- the end of an exchange ---- */

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
	if ((x->closing || x->end_told) && (x->complete || !x->conn))
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
		exchange_gone(c);
}

/* The connection was lost, with `err` (negative errno). */
static void exchange_lost(struct http_exchange *x, int err)
{
	x->conn = NULL;
	l7mp_bufq_clear(&x->out);
	if (!x->complete || !x->in_end)
		exchange_end_with(x, err);
	else
		settle(x);
}

/* ---- answers of sessions ---- */

/* Selects the framing of the body; `known` is its length, -1 while it is incomplete. */
static void choose_framing(struct http_exchange *x, int status, long long known)
{
	long long asked = x->reply ? x->reply->length : -1;

	x->bodyless = x->is_head || status == 204 || status == 304;
	x->length = known >= 0 && !x->is_head ? known : asked;
	if (x->length < 0 && x->is_head)
		x->length = known;
	x->chunked = x->length < 0 && !x->bodyless && !x->http10;
	if ((x->length < 0 && !x->bodyless && !x->chunked) || (x->shut && must_close(x->conn)) ||
	    x->conn->state->env->draining)
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
	buf = l7mp_buf_new(pool_of(x->state), 256 + strlen(headers) + room);
	if (!buf)
		return NULL;
	append(buf, "HTTP/1.1 %d %s\r\nDate: %s\r\n%s", status, l7mp_http_phrase(status),
	       l7mp_http_date_now(&x->state->date), headers);
	if (x->chunked)
		append(buf, "Transfer-Encoding: chunked\r\n");
	else if (x->length >= 0 && status != 204 && status != 304)
		append(buf, "Content-Length: %lld\r\n", x->length);
	append(buf, "%s", connection_line(x->conn, x->http10));
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
	return put(x->conn, head);
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
	if (x->chunked && !put_text(x->conn, line))
		return false;
	while ((buf = l7mp_bufq_pop(&x->out))) {
		if (!buf->len)
			l7mp_buf_unref(buf);
		else if (!put(x->conn, buf))
			return false;
	}
	return !x->chunked || put_text(x->conn, "\r\n");
}

static bool put_end(struct http_exchange *x)
{
	x->complete = true;
	if (x->chunked)
		return put_text(x->conn, "0\r\n\r\n");
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
		conn_abort(c);
		settle(x);
		return;
	}
	if (x->complete) {
		answer_complete(c);
		settle(x);
	} else {
		conn_watch(c);
	}
}

static void on_flush(struct l7mp_flush *flush, void *arg)
{
	(void)flush;
	send_out(arg);
}

/* The stream below accepts data again. */
static void exchange_drain(struct http_exchange *x)
{
	send_out(x);
	if (!x->full || x->closing || !x->conn || x->conn->full)
		return;
	x->full = false;
	x->base.events->drain(x->base.owner);
}

/* ---- errors within an exchange ---- */

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
		answer_complete(c);
	else
		conn_abort(c);
}

/* An error before the first byte becomes the answer; later the body is aborted. */
static void answer_error(struct http_exchange *x, int status, const char *message)
{
	static const char text[] =
	        "{\"HTTP\":{\"headers\":{\"Content-Type\":\"application/json\"}}}";
	char *body = l7mp_http_error_body(status, message);
	cJSON *meta = l7mp_json_parse(text, sizeof(text) - 1, NULL, NULL, 0);
	struct l7mp_buf *buf = body ? l7mp_buf_copy(pool_of(x->state), body, strlen(body)) : NULL;

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

/* An error of the client: answers with an error if still possible, and ends the session. */
static void exchange_fail(struct http_exchange *x, int status, int err, const char *why)
{
	struct http_conn *c = x->conn;

	if (!x->complete) {
		x->shut = true;
		l7mp_bufq_clear(&x->out);
		c->keep = false;
		if (x->head_sent)
			break_off(x);
		else if (!answer(c, status, why, "", x->is_head))
			conn_abort(c);
		x->complete = x->head_sent = true;
	}
	exchange_end_with(x, err);
	answer_complete(c);
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
		conn_watch(x->conn);
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

/* A piece of the request's body. Takes buf. */
static void exchange_data(struct http_exchange *x, struct l7mp_buf *buf)
{
	x->base.events->data(x->base.owner, buf);
}

static void tell_end(struct http_exchange *x)
{
	if (!x->in_end || x->end_told || x->paused || x->closing || x->over || !x->base.events)
		return;
	x->end_told = true;
	x->base.events->end(x->base.owner, 0);
	settle(x);
}

/* The request is complete. */
static void exchange_end(struct http_exchange *x)
{
	x->in_end = true;
	tell_end(x);
}

/* The session accepts more of the request's body. */
static void conn_resume(struct http_conn *c)
{
	static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
	struct http_exchange *x = c->x;
	struct l7mp_buf *buf;

	if (c->expect && x && !x->paused && !x->closing) {
		c->expect = false;
		/* A client that sends the body without waiting needs no 100 (Continue). */
		if (!c->in.count && !x->head_sent && !x->shut) {
			buf = l7mp_buf_copy(l7mp_loop_bufs(loop_of(c)), interim,
			                    sizeof(interim) - 1);
			if (!buf || l7mp_stream_write(c->io, buf) < 0)
				conn_abort(c);
		}
	}
	consume(c);
}

static void on_exchange_task(struct l7mp_task *task, void *arg)
{
	struct http_exchange *x = arg;

	(void)task;
	if (x->over) {
		exchange_finish(x);
		return;
	}
	tell_end(x);
	if (x->conn)
		conn_resume(x->conn);
}

/* Creates the exchange of a request after reading its head. NULL: no memory. */
static struct http_exchange *exchange_new(struct http_conn *c, const struct l7mp_http_request *req)
{
	struct http_exchange *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	x->base.ops = &exchange_ops;
	x->base.kind = L7MP_KIND_STREAM;
	x->base.asks = true;
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

/* ---- between requests ---- */

/* Answers input that is not a valid request. */
static void refuse(struct http_conn *c, int status, const char *why)
{
	l7mp_log_verbose("http", "%s: a request is refused with %d: %s",
	                 c->listener ? c->listener->base.name : "-", status, why);
	c->keep = false;
	c->unread = true;
	if (answer(c, status, why, "", false))
		begin_close(c);
	else
		conn_abort(c);
}

static void next_request(struct http_conn *c)
{
	if (c->phase == HTTP_CLOSING)
		return;
	if (!c->keep || !c->listener || (c->phase == HTTP_BODY && must_close(c))) {
		begin_close(c);
		return;
	}
	if (c->phase == HTTP_BODY) {
		c->body_due = now_of(c) + c->deadlines.body;
	} else {
		c->phase = HTTP_HEAD;
		c->since = now_of(c);
		conn_move(c, &c->listener->idle);
	}
	consume(c);
}

static void on_task(struct l7mp_task *task, void *arg)
{
	(void)task;
	next_request(arg);
}

/* ---- heads ---- */

/* Answers without a session, and keeps the connection if possible. */
static void answer_here(struct http_conn *c, const struct l7mp_http_request *req, int status,
                        const char *why, const char *extra)
{
	if (answer(c, status, why, extra, strcmp(req->method, "HEAD") == 0))
		next_request(c);
	else
		conn_abort(c);
}

static void make_session(struct http_conn *c, const struct l7mp_http_request *req)
{
	struct l7mp_stream_listener *l = &c->listener->base;
	struct l7mp_accept a = {.peer = c->peer.remote, .origin = c->peer.origin};
	struct http_exchange *x = exchange_new(c, req);
	cJSON *http =
	        l7mp_http_request_metadata(req, c->peer.tls ? "https" : "http", &c->peer.local);

	a.name = l7mp_peer_name("HTTP", l->name, &c->peer, ++c->state->last_id);
	a.metadata = l7mp_peer_metadata(&c->peer);
	if (!x || !a.name || !a.metadata || l7mp_json_add(a.metadata, "HTTP", http)) {
		if (!a.metadata)
			cJSON_Delete(http);
		cJSON_Delete(a.metadata);
		free(a.name);
		free(x);
		answer_here(c, req, 503, "out of memory", "");
		return;
	}
	c->x = x;
	a.stream = &x->base;
	l->base.events->accept(l->base.arg, &a);
}

static void begin_request(struct http_conn *c, const struct l7mp_http_request *req)
{
	struct l7mp_proto_listener *l = c->listener ? &c->listener->base.base : NULL;

	memset(&c->chunked, 0, sizeof(c->chunked));
	c->is_chunked = req->chunked;
	c->left = req->length;
	c->discarded = 0;
	c->keep = req->keep_alive && l && !c->state->env->draining;
	c->expect = req->expect;
	c->probe = 0;
	c->phase = req->chunked || req->length ? HTTP_BODY : HTTP_ANSWER;
	c->body_due = now_of(c) + c->deadlines.body;
	if (c->listener)
		conn_move(c, &c->listener->busy);
	if (!l) {
		answer_here(c, req, 503, "no listener is here any more", "");
	} else if (req->form == L7MP_HTTP_AUTHORITY) {
		c->keep = false;
		c->unread = true;
		answer_here(c, req, 405, "CONNECT is not served here",
		            "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n");
	} else if (l->events->admit && l->events->admit(l->arg, &c->peer.remote) < 0) {
		answer_here(c, req, 503, "a configured limit refuses new sessions", "");
	} else {
		make_session(c, req);
	}
}

/* Processes a head. Returns false when the input can't be processed further now. */
static bool take_head(struct http_conn *c)
{
	struct l7mp_buf *buf = c->in.head;
	struct l7mp_http_refusal why;
	struct l7mp_http_request req;
	size_t used, len;
	char *head;
	int rc;

	if (c->x)
		return false;
	if (!l7mp_http_reader_begun(&c->reader))
		c->since = now_of(c);
	rc = l7mp_http_reader_feed(&c->reader, (char *)buf->data, buf->len, &used, &head, &len,
	                           &why);
	charge_head(c);
	if (!rc && c->reader.cap > HTTP_HEADS_FREE && c->state->head_bytes > HTTP_HEADS_MAX) {
		rc = -1;
		why = (struct l7mp_http_refusal){503, "too many unfinished requests"};
	}
	if (rc < 0) {
		refuse(c, why.status, why.why);
		return false;
	}
	if (!rc) {
		skip(c, used);
		return true;
	}
	/* The request points into the buffer, or into the reader. */
	l7mp_buf_ref(buf);
	skip(c, used);
	if (l7mp_http_request_parse(head, len, &req, &why))
		refuse(c, why.status, why.why);
	else
		begin_request(c, &req);
	l7mp_buf_unref(buf);
	if (c->phase != HTTP_CLOSING)
		reset_reader(c);
	return true;
}

/* ---- bodies ---- */

static void body_failed(struct http_conn *c, int status, int err, const char *why)
{
	c->unread = true;
	if (is_wanted(c->x))
		exchange_fail(c->x, status, err, why);
	else
		begin_close(c);
}

/* Passes on n bytes at `off` of the input's first buffer, and consumes `used` bytes of it. */
static void pass_on(struct http_conn *c, size_t off, size_t n, size_t used)
{
	struct l7mp_buf *buf;

	if (!is_wanted(c->x)) {
		skip(c, used);
		c->discarded += used;
		if (c->discarded > HTTP_DISCARD_MAX)
			begin_close(c);
		return;
	}
	if (!n) {
		skip(c, used);
		return;
	}
	buf = take(c, off, n, used);
	if (buf)
		exchange_data(c->x, buf);
	else /* a body with missing bytes must not look complete */
		body_failed(c, 503, -ENOMEM, "out of memory");
}

static void body_complete(struct http_conn *c)
{
	struct http_exchange *x = c->x;

	if (c->phase != HTTP_BODY)
		return;
	c->phase = HTTP_ANSWER;
	if (!x) {
		next_request(c);
		return;
	}
	if (!is_wanted(x))
		return;
	exchange_end(x);
	/* It is freed if its owner has closed it meanwhile. */
	if (c->x == x && x->complete)
		answer_complete(c);
}

static bool take_body(struct http_conn *c)
{
	struct l7mp_buf *buf = c->in.head;
	struct l7mp_http_refusal why;
	const char *body;
	size_t used, n;
	int rc;

	if (is_wanted(c->x) && (c->x->paused || c->expect))
		return false;
	if (!c->is_chunked) {
		n = buf->len < c->left ? buf->len : (size_t)c->left;
		c->left -= n;
		rc = !c->left;
		pass_on(c, 0, n, n);
	} else {
		rc = l7mp_http_chunked_next(&c->chunked, (char *)buf->data, buf->len, &used, &body,
		                            &n, &why);
		if (rc < 0) {
			body_failed(c, why.status, -EPROTO, why.why);
			return false;
		}
		pass_on(c, (size_t)(body - (char *)buf->data), n, used);
	}
	if (rc)
		body_complete(c);
	return true;
}

/* ---- EOF from the client ---- */

/* Handles the client's EOF after the input was processed. */
static void at_eof(struct http_conn *c)
{
	if (c->in.count || c->phase == HTTP_CLOSING || c->phase == HTTP_ANSWER)
		return;
	if (c->phase == HTTP_BODY)
		body_failed(c, 400, -ECONNRESET, "the body ended before its end");
	else if (c->x)
		return;
	else if (l7mp_http_reader_begun(&c->reader))
		refuse(c, 400, "the connection ended within a head");
	else
		close_io(c, false);
}

/*
 * The client has finished sending, and either waits for its answer or has closed; the kernel does
 * not tell which. An interim response makes a peer that has closed answer with a reset, which then
 * shows in the state of the connection.
 */
static void half_closed(struct http_conn *c)
{
	static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
	struct http_exchange *x = c->x;
	struct l7mp_buf *buf;

	if (!c->eof || !x || x->complete || c->closed)
		return;
	if (l7mp_byte_stream_reset(c->io)) {
		conn_abort(c);
		return;
	}
	if (c->probe || x->head_sent || x->http10)
		return;
	c->probe = 1;
	buf = l7mp_buf_copy(l7mp_loop_bufs(loop_of(c)), interim, sizeof(interim) - 1);
	if (buf && l7mp_stream_write(c->io, buf) < 0)
		conn_abort(c);
}

static bool step(struct http_conn *c)
{
	switch (c->phase) {
	case HTTP_HEAD:
		return take_head(c);
	case HTTP_BODY:
		return take_body(c);
	default:
		return false;
	}
}

/* Processes the input as far as possible. */
static void consume(struct http_conn *c)
{
	if (c->busy)
		return;
	c->busy = true;
	while (c->in.head && step(c))
		;
	c->busy = false;
	if (c->eof)
		at_eof(c);
	conn_watch(c);
}

/* ---- deadlines ---- */

/* Returns whether the client does not read the data queued for it. */
static bool stalled(struct http_conn *c)
{
	size_t queued = l7mp_byte_stream_queued(c->io);
	uint64_t now = now_of(c);

	if (!queued || !c->queued || queued < c->queued)
		c->progress_ms = now;
	c->queued = queued;
	return queued && now - c->progress_ms >= HTTP_STALL_MS;
}

static void expire(struct http_conn *c)
{
	uint64_t now = now_of(c);

	if (c->phase == HTTP_HEAD && !c->x) {
		if (!l7mp_http_reader_begun(&c->reader)) {
			if (now - c->since >= c->deadlines.keepalive)
				close_io(c, false);
		} else if (now - c->since >= c->deadlines.header) {
			refuse(c, 408, "the head did not arrive in time (header_timeout)");
		}
	} else if (c->phase == HTTP_BODY && c->reading && now >= c->body_due) {
		body_failed(c, 408, -ETIMEDOUT,
		            "the body arrived slower than 240 bytes per second");
	} else if (c->phase == HTTP_CLOSING) {
		try_close(c);
	}
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct http_conn *c = arg;

	(void)t;
	if (c->closed)
		return;
	if (stalled(c)) {
		conn_abort(c);
		return;
	}
	expire(c);
	half_closed(c);
	conn_watch(c);
}

/* ---- the byte stream's events ---- */

static void io_data(void *arg, struct l7mp_buf *buf)
{
	struct http_conn *c = arg;
	uint64_t now = now_of(c);

	if (c->phase == HTTP_CLOSING) {
		c->heard_ms = now;
		l7mp_buf_unref(buf);
		return;
	}
	if (c->phase == HTTP_BODY) {
		c->body_due += (uint64_t)buf->len * 1000 / HTTP_BODY_RATE;
		if (c->body_due > now + HTTP_BODY_CREDIT_MS)
			c->body_due = now + HTTP_BODY_CREDIT_MS;
	}
	l7mp_bufq_push(&c->in, buf);
	consume(c);
}

static void io_drain(void *arg)
{
	struct http_conn *c = arg;

	c->full = false;
	if (c->x)
		exchange_drain(c->x);
	if (c->phase == HTTP_CLOSING)
		try_close(c);
}

static void io_end(void *arg, int code)
{
	struct http_conn *c = arg;

	(void)code;
	c->eof = true;
	if (c->phase == HTTP_CLOSING)
		try_close(c);
	else
		consume(c);
}

static void io_closed(void *arg, const struct l7mp_error *err)
{
	struct http_conn *c = arg;
	struct http_state *state = c->state;

	(void)err;
	if (c->x)
		exchange_lost(c->x, -ECONNRESET);
	DL_DELETE(*c->list, c);
	l7mp_task_cancel(loop_of(c), &c->task);
	l7mp_timer_stop(loop_of(c), &c->timer);
	l7mp_bufq_clear(&c->in);
	reset_reader(c);
	l7mp_peer_clear(&c->peer);
	l7mp_buf_pool_charge(l7mp_loop_bufs(loop_of(c)), -HTTP_CONN_COST);
	free(c);
	http_conn_gone(state);
}

static const struct l7mp_stream_events io_events = {
        .data = io_data,
        .drain = io_drain,
        .end = io_end,
        .closed = io_closed,
};

/* ---- create and free ---- */

void http_conn_inherit(struct http_conn *c, struct http_listener *successor)
{
	bool idle = c->phase == HTTP_HEAD && !c->x;

	c->listener = successor;
	if (successor) {
		c->deadlines = successor->deadlines;
		conn_move(c, idle ? &successor->idle : &successor->busy);
		return;
	}
	conn_move(c, &c->state->orphans);
	c->keep = false;
	if (idle)
		close_io(c, false);
}

static void closed_unwanted(void *owner, const struct l7mp_error *err)
{
	(void)owner;
	(void)err;
}

static const struct l7mp_stream_events nobody = {.closed = closed_unwanted};

void http_conn_new(struct http_listener *l, struct l7mp_stream *stream, struct l7mp_peer *peer)
{
	struct http_conn *c = calloc(1, sizeof(*c));

	if (!c) {
		l7mp_peer_clear(peer);
		l7mp_stream_attach(stream, &nobody, NULL);
		l7mp_stream_close(stream, true);
		return;
	}
	c->listener = l;
	c->deadlines = l->deadlines;
	c->state = l->state;
	c->io = stream;
	l7mp_buf_pool_charge(l7mp_loop_bufs(loop_of(c)), HTTP_CONN_COST);
	c->peer = *peer;
	c->since = now_of(c);
	l7mp_bufq_init(&c->in);
	l7mp_http_reader_init(&c->reader, false);
	l7mp_task_init(&c->task, on_task, c);
	l7mp_timer_init(&c->timer, on_timer, c);
	l->state->n_conns++;
	conn_move(c, &l->idle);
	l7mp_stream_attach(stream, &io_events, c);
	conn_watch(c);
}
