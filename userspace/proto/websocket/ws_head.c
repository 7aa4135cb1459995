/* SPDX-License-Identifier: MIT */
/*
 * An accepted connection until its handshake is done: reads the request's head, refuses
 * what is no WebSocket handshake for this listener's path, and hands up what is. Nothing
 * of it outlives its 5 s but a refusal that waits for the client to hang up.
 */
#include "ws_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/util.h"

/* Requests of one listener that are not read yet. One more, and the oldest goes. */
#define HEADS_MAX 1024

struct ws_head {
	struct ws_head *prev, *next;
	struct ws_listener *listener; /* NULL: it only waits for the end */
	struct l7mp_loop *loop;
	struct l7mp_stream *io;
	struct l7mp_timer timer;
	struct l7mp_addr peer;
	cJSON *tls; /* metadata; NULL: no TLS */
	struct l7mp_buf *text;
};

static void leave(struct ws_head *h)
{
	if (!h->listener)
		return;
	DL_DELETE(h->listener->heads, h);
	h->listener = NULL;
}

static void head_free(struct ws_head *h)
{
	leave(h);
	l7mp_timer_stop(h->loop, &h->timer);
	cJSON_Delete(h->tls);
	l7mp_buf_unref(h->text);
	free(h);
}

/* ---- refusing ---- */

static struct l7mp_buf *refusal(struct l7mp_loop *loop, int status, const char *why)
{
	char *body = l7mp_http_error_body(status, why);
	struct l7mp_buf *buf = NULL;
	char *text = NULL;

	if (body)
		text = l7mp_asprintf("HTTP/1.1 %d %s\r\n%s%sContent-Type: application/json\r\n"
		                     "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
		                     status, l7mp_http_phrase(status),
		                     status == 426 ? "Upgrade: websocket\r\n"
		                                     "Sec-WebSocket-Version: 13\r\n"
		                                   : "",
		                     status == 405 ? "Allow: GET\r\n" : "", strlen(body), body);
	if (text)
		buf = l7mp_buf_copy(l7mp_loop_bufs(loop), text, strlen(text));
	free(text);
	free(body);
	return buf;
}

/* Answers, and waits for the client to hang up: to close at once could overtake the answer. */
static void refuse(struct ws_head *h, int status, const char *why)
{
	struct l7mp_buf *buf = refusal(h->loop, status, why);

	leave(h);
	l7mp_log_verbose("ws", "a request is refused with %d: %s", status, why);
	if (!buf || l7mp_stream_write(h->io, buf) < 0 ||
	    l7mp_timer_start(h->loop, &h->timer, L7MP_WS_FAULT_MS)) {
		l7mp_stream_close(h->io, true);
		return;
	}
	l7mp_stream_shutdown(h->io, 0);
}

/* ---- agreeing ---- */

/* The first offered subprotocol is agreed to. */
static char *agreement(const struct ws_lines *l)
{
	const char *offered = l7mp_ws_lines_get(l, "Sec-WebSocket-Protocol");
	char answer[29];
	size_t n = 0;

	if (offered) {
		offered += strspn(offered, ", \t");
		n = strcspn(offered, ", \t");
	}
	l7mp_ws_key_answer(l7mp_ws_lines_get(l, "Sec-WebSocket-Key"), answer);
	return l7mp_asprintf("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
	                     "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n%s%.*s%s\r\n",
	                     answer, n ? "Sec-WebSocket-Protocol: " : "", (int)n, n ? offered : "",
	                     n ? "\r\n" : "");
}

static int send_text(struct ws_head *h, char *text)
{
	struct l7mp_buf *buf =
	        text ? l7mp_buf_copy(l7mp_loop_bufs(h->loop), text, strlen(text)) : NULL;

	free(text);
	return buf ? l7mp_stream_write(h->io, buf) : -ENOMEM;
}

/* Metadata of the session. NULL: no memory. */
static cJSON *metadata(struct ws_head *h, const struct l7mp_http_head *head,
                       const struct l7mp_addr *local)
{
	cJSON *all = l7mp_inet_metadata("TCP", &h->peer, local);
	cJSON *http = l7mp_http_metadata(head, local);
	int rc = all && http ? l7mp_json_add(all, "HTTP", http) : -ENOMEM;

	if (!all)
		cJSON_Delete(http);
	if (!rc && h->tls) {
		rc = l7mp_json_add(all, "TLS", h->tls);
		h->tls = NULL;
	}
	if (rc < 0) {
		cJSON_Delete(all);
		return NULL;
	}
	return all;
}

/* h ends; its stream goes on as a session's source. */
static void hand_up(struct ws_head *h, const struct ws_lines *lines,
                    const struct l7mp_http_head *head, struct l7mp_buf *rest)
{
	struct ws_listener *l = h->listener;
	struct l7mp_accept a = {.peer = h->peer};
	struct l7mp_addr local;
	struct ws_conn *c;

	if (h->io->ops->local(h->io, &local) || send_text(h, agreement(lines)) < 0) {
		l7mp_buf_unref(rest);
		l7mp_stream_close(h->io, true);
		return;
	}
	a.metadata = metadata(h, head, &local);
	c = l7mp_ws_conn_new(l->state, h->io, NULL);
	head_free(h);
	if (!c) {
		cJSON_Delete(a.metadata);
		l7mp_buf_unref(rest);
		return;
	}
	l7mp_ws_conn_up(c, rest);
	a.stream = &c->base;
	a.name = l7mp_inet_name("WS", &a.peer, &local, ++l->state->next_id);
	(void)l7mp_accept_emit(&l->tcp.base, &a);
}

/* ---- reading ---- */

/* The first n bytes are the head. */
static void complete(struct ws_head *h, size_t n)
{
	struct ws_listener *l = h->listener;
	struct l7mp_buf *rest = NULL;
	struct ws_lines lines;
	struct l7mp_http_head head;
	char text[L7MP_WS_HEAD_MAX + 1];
	const char *why = "the request can't be read";
	int status;

	memcpy(text, h->text->data, n);
	text[n] = '\0';
	status = memchr(text, '\0', n) ? 400 : l7mp_ws_lines_split(text, &lines, &why);
	if (!status)
		status = l7mp_ws_request_check(&lines, &head, &why);
	if (!status && l->path && strcmp(l->path, head.path) != 0) {
		status = 404;
		why = "no WebSocket is served at this path";
	}
	if (status) {
		refuse(h, status, why);
		return;
	}
	if (h->tls)
		head.scheme = "wss";
	if (n < h->text->len) {
		rest = l7mp_buf_copy(l7mp_loop_bufs(h->loop), h->text->data + n, h->text->len - n);
		if (!rest) {
			l7mp_stream_close(h->io, true);
			return;
		}
	}
	hand_up(h, &lines, &head, rest);
}

static void io_data(void *arg, struct l7mp_buf *buf)
{
	struct ws_head *h = arg;
	int n;

	if (!h->listener) { /* refused */
		l7mp_buf_unref(buf);
		return;
	}
	n = l7mp_ws_head_add(h->loop, &h->text, buf);
	if (n == -E2BIG)
		refuse(h, 431, "the request's head is larger than 16 KiB");
	else if (n < 0)
		l7mp_stream_close(h->io, true);
	else if (n > 0)
		complete(h, (size_t)n);
}

static void io_end(void *arg, int code)
{
	struct ws_head *h = arg;

	(void)code;
	l7mp_stream_close(h->io, false);
}

static void io_drain(void *arg)
{
	(void)arg;
}

static void io_closed(void *arg, const struct l7mp_error *err)
{
	(void)err;
	head_free(arg);
}

static const struct l7mp_stream_events io_events = {
        .data = io_data, .drain = io_drain, .end = io_end, .closed = io_closed};

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct ws_head *h = arg;

	(void)t;
	if (h->listener)
		refuse(h, 408, "the request did not come within 5 s");
	else
		l7mp_stream_close(h->io, true);
}

/* Who connects and says nothing must not keep others out. */
static void make_way(struct ws_listener *l)
{
	struct ws_head *h;
	size_t n;

	DL_COUNT(l->heads, h, n);
	if (n < HEADS_MAX)
		return;
	h = l->heads;
	leave(h);
	l7mp_stream_close(h->io, true);
}

void l7mp_ws_head_read(struct ws_listener *l, struct l7mp_stream *io, const struct l7mp_addr *peer,
                       cJSON *tls)
{
	struct ws_head *h = calloc(1, sizeof(*h));

	if (!h) {
		cJSON_Delete(tls);
		l7mp_ws_orphan(io);
		return;
	}
	h->listener = l;
	h->loop = l->tcp.env->loop;
	h->io = io;
	h->peer = *peer;
	h->tls = tls;
	make_way(l);
	DL_APPEND(l->heads, h);
	l7mp_timer_init(&h->timer, on_timer, h);
	l7mp_stream_attach(io, &io_events, h);
	if (l7mp_timer_start(h->loop, &h->timer, L7MP_WS_HEAD_MS))
		l7mp_stream_close(io, true);
	else
		l7mp_stream_pause(io, false);
}

void l7mp_ws_head_cancel_all(struct ws_listener *l)
{
	while (l->heads) {
		struct ws_head *h = l->heads;

		leave(h);
		l7mp_timer_stop(h->loop, &h->timer);
		l7mp_stream_close(h->io, true);
	}
}
