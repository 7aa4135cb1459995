/* SPDX-License-Identifier: MIT */
/*
 * The worker's side of an exchange: request body in, response out, on one
 * thread. Nothing here is visible to the loop except through the exchange, and
 * every wait has a deadline: reads and writes are cut by the engine after
 * L7MP_HTTP_STALL_MS, waits for the loop look around once a second.
 */
#include "http_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "l7mp/util.h"

/* How much of an unwanted request body is read away before the connection is given up. */
#define DISCARD_MAX ((size_t)256 * 1024)

struct worker {
	struct l7mp_http_conn *c;
	struct l7mp_http_xchg *x;
	long long received; /* of the request body */
	bool in_done;
	bool waiting; /* for us to say 100 Continue */
	bool head_sent;
	bool bodyless; /* HEAD, 204, 304 */
	bool chunked;
	bool out_done;
	bool probed;
	int status;
	long long length; /* announced; -1: not */
	long long sent;
	size_t n; /* in buf */
	uint8_t buf[L7MP_HTTP_BLOCK + 1024];
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- output, gathered into few writes ---- */

static bool flush(struct worker *w)
{
	size_t n = w->n;

	w->n = 0;
	return n == 0 || l7mp_http_conn_write(w->c, w->buf, n);
}

static bool put(struct worker *w, const void *data, size_t len)
{
	if (w->n + len > sizeof(w->buf) && !flush(w))
		return false;
	if (len > sizeof(w->buf))
		return l7mp_http_conn_write(w->c, data, len);
	memcpy(w->buf + w->n, data, len);
	w->n += len;
	return true;
}

static bool put_text(struct worker *w, const char *text)
{
	return put(w, text, strlen(text));
}

static const char *date_text(char *buf, size_t size)
{
	static const char days[] = "SunMonTueWedThuFriSat";
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	snprintf(buf, size, "%.3s, %02d %.3s %d %02d:%02d:%02d GMT", days + 3 * (tm.tm_wday % 7),
	         tm.tm_mday, months + 3 * (tm.tm_mon % 12), tm.tm_year + 1900, tm.tm_hour,
	         tm.tm_min, tm.tm_sec);
	return buf;
}

/* Writes status line and headers; `known` is the body's length, -1 when it is not all there yet. */
static bool put_head(struct worker *w, const struct l7mp_http_reply *r, long long known)
{
	bool keep = w->c->client_keeps && !w->waiting && !l7mp_http_engine_crowded(w->x->engine);
	char line[256], date[64];
	bool ok;

	w->head_sent = true;
	w->status = r->status;
	w->bodyless = w->c->head || r->status == 204 || r->status == 304;
	w->length = known >= 0 && !w->c->head ? known : r->length;
	if (w->length < 0 && w->c->head)
		w->length = known;
	w->chunked = w->length < 0 && !w->bodyless && !w->c->http10;
	if (w->length < 0 && !w->bodyless && !w->chunked)
		keep = false;
	if (!keep)
		l7mp_http_conn_close_after(w->c);
	snprintf(line, sizeof(line), "HTTP/1.1 %d %s\r\nDate: %s\r\n", r->status,
	         l7mp_http_phrase(r->status), date_text(date, sizeof(date)));
	ok = put_text(w, line) && put_text(w, r->headers);
	line[0] = '\0';
	if (w->chunked)
		snprintf(line, sizeof(line), "Transfer-Encoding: chunked\r\n");
	else if (w->length >= 0 && r->status != 204 && r->status != 304)
		snprintf(line, sizeof(line), "Content-Length: %lld\r\n", w->length);
	return ok && put_text(w, line) &&
	       put_text(w, keep ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n");
}

static bool put_body(struct worker *w, const struct l7mp_http_chunk *c)
{
	char line[32];

	if (w->bodyless || c->len == 0)
		return true;
	w->sent += (long long)c->len;
	if (!w->chunked) {
		if (w->length >= 0 && w->sent > w->length)
			return false; /* more than was announced */
		return put(w, c->data, c->len);
	}
	snprintf(line, sizeof(line), "%zx\r\n", c->len);
	return put_text(w, line) && put(w, c->data, c->len) && put_text(w, "\r\n");
}

static bool put_end(struct worker *w)
{
	w->out_done = true;
	if (w->chunked && !put_text(w, "0\r\n\r\n"))
		return false;
	if (!w->bodyless && !w->chunked && w->length >= 0 && w->sent != w->length)
		l7mp_http_conn_close_after(w->c); /* the client sees that something is missing */
	return flush(w);
}

void l7mp_http_worker_refuse(struct l7mp_http_conn *c, int status, const char *content)
{
	char *body = l7mp_http_error_body(status, content);
	char date[64];
	char *text = NULL;

	l7mp_http_conn_close_after(c);
	if (body)
		text = l7mp_asprintf("HTTP/1.1 %d %s\r\nDate: %s\r\n"
		                     "Content-Type: application/json\r\nContent-Length: %zu\r\n"
		                     "Connection: close\r\n\r\n%s",
		                     status, l7mp_http_phrase(status),
		                     date_text(date, sizeof(date)), strlen(body),
		                     c->head ? "" : body);
	if (text)
		l7mp_http_conn_write(c, text, strlen(text));
	free(text);
	free(body);
}

/* ---- steps ---- */

enum step {
	STEP_READ,
	STEP_WRITE,
	STEP_IDLE,
	STEP_DONE,
	STEP_ABORT,
};

static bool can_read(const struct worker *w)
{
	const struct l7mp_http_xchg *x = w->x;

	return !w->in_done && !x->in_refused && x->in.bytes < L7MP_HTTP_IN_HIGH &&
	       (!w->waiting || x->go_on);
}

/* What there is to do; waits at most a second for it. */
static enum step next_step(struct worker *w)
{
	struct l7mp_http_xchg *x = w->x;
	enum step step = STEP_IDLE;
	struct timespec until;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec++;
	pthread_mutex_lock(&x->mu);
	for (;;) {
		if (x->abort)
			step = STEP_ABORT;
		else if (!w->out_done && (x->out.head || x->out_end || (x->reply && !w->head_sent)))
			step = STEP_WRITE;
		else if (can_read(w))
			step = STEP_READ;
		else if (w->out_done && (w->in_done || x->in_refused))
			step = STEP_DONE;
		if (step != STEP_IDLE || rc == ETIMEDOUT)
			break;
		rc = pthread_cond_timedwait(&x->cv, &x->mu, &until);
	}
	pthread_mutex_unlock(&x->mu);
	return step;
}

static bool timed_out(uint64_t started)
{
	return now_ms() - started >= L7MP_HTTP_STALL_MS - 200;
}

/* A failed read: why? */
static int read_error(struct worker *w, uint64_t started)
{
	if (timed_out(started))
		return -ETIMEDOUT;
	if (!w->c->chunked || l7mp_http_peer_state(&w->c->fd, &w->x->peer, &w->x->local) > 0)
		return -ECONNRESET;
	return -EPROTO;
}

static int step_read(struct worker *w)
{
	struct l7mp_http_xchg *x = w->x;
	struct l7mp_http_chunk *chunk = l7mp_http_chunk_new(NULL, L7MP_HTTP_BLOCK);
	uint64_t started = now_ms();
	long long want = L7MP_HTTP_BLOCK;
	int n;

	if (!chunk)
		return -ENOMEM;
	if (w->waiting) {
		w->waiting = false;
		if (!w->head_sent && (!put_text(w, "HTTP/1.1 100 Continue\r\n\r\n") || !flush(w))) {
			free(chunk);
			return -ECONNRESET;
		}
	}
	if (!w->c->chunked && w->c->length - w->received < want)
		want = w->c->length - w->received;
	n = l7mp_http_conn_read(w->c, chunk->data, (size_t)want);
	if (n < 0 || (n == 0 && !w->c->chunked)) {
		free(chunk);
		return read_error(w, started);
	}
	/* A short read says that time was up: did the client send anything in it? */
	if (!w->c->chunked && n < want && timed_out(started) &&
	    l7mp_http_peer_idle_ms(&w->c->fd, &w->x->peer, &w->x->local) >
	            L7MP_HTTP_STALL_MS - 500) {
		free(chunk);
		return -ETIMEDOUT;
	}
	w->received += n;
	/* A chunked body ends with a block that is not full; a broken one with an error. */
	w->in_done = w->c->chunked ? n < want : w->received == w->c->length;
	chunk->len = (size_t)n;
	pthread_mutex_lock(&x->mu);
	if (n > 0 && !x->in_refused) {
		l7mp_http_chunkq_push(&x->in, chunk);
		chunk = NULL;
	}
	x->in_end = w->in_done;
	pthread_mutex_unlock(&x->mu);
	free(chunk);
	return l7mp_http_xchg_mail(x) ? 0 : -ESHUTDOWN;
}

static int step_write(struct worker *w)
{
	struct l7mp_http_xchg *x = w->x;
	struct l7mp_http_reply *reply;
	struct l7mp_http_chunk *chunk;
	bool more, end, mail, ok = true;
	uint64_t started = now_ms();
	long long known;

	pthread_mutex_lock(&x->mu);
	known = x->out_end ? (long long)x->out.bytes : -1;
	reply = x->reply;
	x->reply = NULL;
	x->head_sent = true;
	chunk = l7mp_http_chunkq_pop(&x->out);
	more = x->out.head != NULL;
	end = x->out_end && !more;
	mail = x->want_drain && x->out.bytes < L7MP_HTTP_OUT_LOW;
	if (mail)
		x->want_drain = false;
	pthread_mutex_unlock(&x->mu);

	if (mail)
		l7mp_http_xchg_mail(x);
	if (!w->head_sent) {
		if (!reply)
			reply = l7mp_http_reply_new(NULL);
		ok = reply && put_head(w, reply, known);
	}
	if (ok && chunk)
		ok = put_body(w, chunk);
	if (ok && end)
		ok = put_end(w);
	else if (ok && !more)
		ok = flush(w);
	l7mp_http_reply_free(reply);
	free(chunk);
	if (ok)
		return 0;
	return timed_out(started) ? -ETIMEDOUT : -ECONNRESET;
}

/*
 * Nothing to do for a second: is the client still there? A FIN alone does not say
 * (it may be a half-close), so an interim answer is sent once: a closed socket
 * replies to it with a reset.
 */
static int step_idle(struct worker *w)
{
	switch (l7mp_http_peer_state(&w->c->fd, &w->x->peer, &w->x->local)) {
	case 0:
		return 0;
	case 1:
		if (w->in_done && !w->head_sent && !w->c->http10 && !w->probed) {
			w->probed = true;
			if (!l7mp_http_conn_write(w->c, "HTTP/1.1 100 Continue\r\n\r\n", 25))
				return -ECONNRESET;
		}
		return 0;
	default:
		return -ECONNRESET;
	}
}

/* The answer is out, but the client may still be sending a body that nobody wants. */
static void discard_rest(struct worker *w)
{
	uint64_t until = now_ms() + L7MP_HTTP_STALL_MS;
	size_t total = 0;
	int n;

	while (!w->in_done && !w->waiting && total < DISCARD_MAX && now_ms() < until) {
		long long want = (long long)sizeof(w->buf);

		if (!w->c->chunked && w->c->length - w->received < want)
			want = w->c->length - w->received;
		n = l7mp_http_conn_read(w->c, w->buf, (size_t)want);
		if (n < 0 || (n == 0 && !w->c->chunked))
			break;
		w->received += n;
		total += (size_t)n;
		w->in_done = w->c->chunked ? n < want : w->received == w->c->length;
	}
	if (!w->in_done)
		l7mp_http_conn_close_after(w->c);
}

static void fail(struct worker *w, int err)
{
	if (w->head_sent)
		l7mp_http_conn_close_after(w->c); /* no terminating chunk: the client can tell */
	else if (err == -ETIMEDOUT)
		l7mp_http_worker_refuse(w->c, 408, "the client sent nothing for 5 s");
	else if (err == -EPROTO)
		l7mp_http_worker_refuse(w->c, 400, "the chunked body is malformed");
	else if (err == -ECONNABORTED)
		l7mp_http_worker_refuse(w->c, 502, "the session was aborted");
	else if (err == -ESHUTDOWN || err == -ENOMEM)
		l7mp_http_worker_refuse(w->c, 503, "out of memory, or shutting down");
	else
		l7mp_http_conn_close_after(w->c);
}

static int run_steps(struct worker *w)
{
	int rc = 0;

	while (rc == 0) {
		switch (next_step(w)) {
		case STEP_READ:
			rc = step_read(w);
			break;
		case STEP_WRITE:
			rc = step_write(w);
			break;
		case STEP_IDLE:
			rc = step_idle(w);
			break;
		case STEP_ABORT:
			rc = -ECONNABORTED;
			break;
		case STEP_DONE:
			return 0;
		}
	}
	return rc;
}

int l7mp_http_worker_run(struct l7mp_http_conn *c, struct l7mp_http_xchg *x)
{
	struct worker w;
	int rc;

	memset(&w, 0, offsetof(struct worker, buf));
	w.c = c;
	w.x = x;
	w.waiting = x->expect;
	w.in_done = !c->chunked && c->length == 0;
	x->in_end = w.in_done; /* the loop does not know of x yet */
	w.length = -1;
	rc = l7mp_http_xchg_mail(x) ? run_steps(&w) : -ESHUTDOWN;
	if (rc < 0)
		fail(&w, rc);
	else
		discard_rest(&w);

	pthread_mutex_lock(&x->mu);
	x->done = true;
	x->err = rc;
	l7mp_http_chunkq_clear(&x->out);
	pthread_mutex_unlock(&x->mu);
	l7mp_http_xchg_mail(x);
	return w.status ? w.status : 503;
}
