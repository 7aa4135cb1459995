/* SPDX-License-Identifier: MIT */
/*
 * HTTP connections: reading heads and bodies, one request at a time, deadlines, and closing so that
 * the client can read the last answer. Between requests a connection holds no buffer.
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

static void consume(struct http_conn *c);

static struct l7mp_loop *loop_of(const struct http_conn *c)
{
	return c->state->env->loop;
}

static uint64_t now_of(const struct http_conn *c)
{
	return l7mp_loop_now(loop_of(c));
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

void http_conn_abort(struct http_conn *c)
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
	if (c->unread && !c->eof && now - c->last_contact_ms < HTTP_LINGER_QUIET_MS &&
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
	if (c->phase == HTTP_BODY && http_exchange_wanted(c->x) && (c->x->paused || c->expect))
		return false;
	return c->in.bytes < HTTP_AHEAD_MAX;
}

void http_conn_watch(struct http_conn *c)
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
		http_conn_abort(c);
}

static void begin_close(struct http_conn *c)
{
	if (c->phase == HTTP_CLOSING)
		return;
	c->unread |= c->phase == HTTP_BODY || c->in.count;
	c->phase = HTTP_CLOSING;
	c->since = c->last_contact_ms = now_of(c);
	l7mp_bufq_clear(&c->in);
	reset_reader(c);
	l7mp_stream_shutdown(c->io, 0);
	try_close(c);
	http_conn_watch(c);
}

/* ---- the end of an answer ---- */

bool http_conn_must_close(const struct http_conn *c)
{
	return c->phase == HTTP_BODY &&
	       (c->expect || (!c->is_chunked && c->left > HTTP_DISCARD_MAX));
}

void http_conn_answered(struct http_conn *c)
{
	/* The route has answered, but may still need the rest of the request. */
	if (!c->keep && (c->phase != HTTP_BODY || !http_exchange_wanted(c->x)))
		begin_close(c);
	else
		http_conn_watch(c);
}

void http_conn_exchange_freed(struct http_conn *c)
{
	c->x = NULL;
	/* The session may not have ended yet: its task, posted earlier, runs first. */
	if (!c->closed)
		l7mp_task_post(loop_of(c), &c->task);
}

/* ---- writing ---- */

bool http_conn_put(struct http_conn *c, struct l7mp_buf *buf)
{
	int rc = buf ? l7mp_stream_write(c->io, buf) : -ENOMEM;

	if (rc == L7MP_STREAM_FULL)
		c->full = true;
	return rc >= 0;
}

bool http_conn_put_text(struct http_conn *c, const char *text)
{
	return http_conn_put(c, l7mp_buf_copy(http_pool(c->state), text, strlen(text)));
}

void http_append(struct l7mp_buf *buf, const char *fmt, ...)
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

const char *http_conn_line(const struct http_conn *c, bool http10)
{
	if (!c->keep)
		return "Connection: close\r\n\r\n";
	return http10 ? "Connection: keep-alive\r\n\r\n" : "\r\n";
}

bool http_conn_answer(struct http_conn *c, int status, const char *why, const char *extra,
                      bool is_head)
{
	char *body = l7mp_http_error_body(status, why);
	struct l7mp_buf *buf;

	if (!body)
		return false;
	if (http_conn_must_close(c))
		c->keep = false;
	buf = l7mp_buf_new(http_pool(c->state), 512 + strlen(extra) + strlen(body));
	if (buf)
		http_append(buf,
		            "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: application/json\r\n"
		            "Content-Length: %zu\r\n%s%s%s",
		            status, l7mp_http_phrase(status), l7mp_http_date_now(&c->state->date),
		            strlen(body), extra, http_conn_line(c, true), is_head ? "" : body);
	free(body);
	return http_conn_put(c, buf);
}

void http_conn_resume(struct http_conn *c)
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
				http_conn_abort(c);
		}
	}
	consume(c);
}

/* ---- between requests ---- */

/* Answers input that is not a valid request. */
static void refuse(struct http_conn *c, int status, const char *why)
{
	l7mp_log_verbose("http", "%s: a request is refused with %d: %s",
	                 c->listener ? c->listener->base.name : "-", status, why);
	c->keep = false;
	c->unread = true;
	if (http_conn_answer(c, status, why, "", false))
		begin_close(c);
	else
		http_conn_abort(c);
}

static void next_request(struct http_conn *c)
{
	if (c->phase == HTTP_CLOSING)
		return;
	if (!c->keep || !c->listener || (c->phase == HTTP_BODY && http_conn_must_close(c))) {
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
	if (http_conn_answer(c, status, why, extra, strcmp(req->method, "HEAD") == 0))
		next_request(c);
	else
		http_conn_abort(c);
}

static void make_session(struct http_conn *c, const struct l7mp_http_request *req)
{
	struct l7mp_stream_listener *l = &c->listener->base;
	struct l7mp_accept a = {.peer = c->peer.remote, .origin = c->peer.origin};
	struct http_exchange *x = http_exchange_new(c, req);
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
	if (http_exchange_wanted(c->x))
		http_exchange_fail(c->x, status, err, why);
	else
		begin_close(c);
}

/* Passes on n bytes at `off` of the input's first buffer, and consumes `used` bytes of it. */
static void pass_on(struct http_conn *c, size_t off, size_t n, size_t used)
{
	struct l7mp_buf *buf;

	if (!http_exchange_wanted(c->x)) {
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
		http_exchange_data(c->x, buf);
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
	if (!http_exchange_wanted(x))
		return;
	http_exchange_end(x);
	/* It is freed if its owner has closed it meanwhile. */
	if (c->x == x && x->complete)
		http_conn_answered(c);
}

static bool take_body(struct http_conn *c)
{
	struct l7mp_buf *buf = c->in.head;
	struct l7mp_http_refusal why;
	const char *body;
	size_t used, n;
	int rc;

	if (http_exchange_wanted(c->x) && (c->x->paused || c->expect))
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
		http_conn_abort(c);
		return;
	}
	if (c->probe || x->head_sent || x->http10)
		return;
	c->probe = 1;
	buf = l7mp_buf_copy(l7mp_loop_bufs(loop_of(c)), interim, sizeof(interim) - 1);
	if (buf && l7mp_stream_write(c->io, buf) < 0)
		http_conn_abort(c);
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
	http_conn_watch(c);
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
		http_conn_abort(c);
		return;
	}
	expire(c);
	half_closed(c);
	http_conn_watch(c);
}

/* ---- the byte stream's events ---- */

static void io_data(void *arg, struct l7mp_buf *buf)
{
	struct http_conn *c = arg;
	uint64_t now = now_of(c);

	if (c->phase == HTTP_CLOSING) {
		c->last_contact_ms = now;
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
		http_exchange_drain(c->x);
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
		http_exchange_lost(c->x, -ECONNRESET);
	DL_DELETE(*c->list, c);
	l7mp_task_cancel(loop_of(c), &c->task);
	l7mp_timer_stop(loop_of(c), &c->timer);
	l7mp_bufq_clear(&c->in);
	reset_reader(c);
	l7mp_peer_clear(&c->peer);
	l7mp_buf_pool_charge(l7mp_loop_bufs(loop_of(c)), -HTTP_CONN_COST);
	free(c);
	http_conn_closed(state);
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
	http_conn_watch(c);
}
