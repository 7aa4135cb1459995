/* SPDX-License-Identifier: MIT */
/*
 * An accepted connection until its handshake is answered (RFC 6455, section 4.2).
 *
 *   in the listener's list --request--> passed on as a session's source --result 200--> 101
 *            \--bad request, time-out--> refused             \--result 4xx, 5xx--> refused
 *
 * The 101 is sent when the route is connected: until then the rules, the limits and the upstream
 * can still refuse the client with an HTTP status, and the subprotocol chosen by the upstream is
 * not known. After a refusal the client has a second to close the connection.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/util.h"
#include "proto/http/head.h"
#include "websocket.h"

/* Unfinished requests per listener; at the limit a new one closes the oldest. */
#define HEADS_MAX 1024
/* Bytes of frames received before the answer was sent; more is left in the socket. */
#define REST_MAX 65536

struct ws_head {
	struct ws_head *prev, *next;
	struct ws_listener *listener; /* NULL: accepted, or refused */
	struct ws_conn *conn;         /* the connection after `accepted` */
	struct l7mp_loop *loop;
	struct l7mp_stream *io;
	struct l7mp_timer timer;
	struct l7mp_peer peer;
	struct l7mp_http_reader reader;
	struct l7mp_buf *rest; /* bytes received after the head */
	char key[25];
	char *offer;  /* subprotocols of the client; NULL: none */
	char *choice; /* the one to answer with; NULL: none */
};

static void leave(struct ws_head *h)
{
	if (!h->listener)
		return;
	DL_DELETE(h->listener->heads, h);
	h->listener = NULL;
	l7mp_timer_stop(h->loop, &h->timer);
}

static void head_free(struct ws_head *h)
{
	leave(h);
	l7mp_timer_stop(h->loop, &h->timer);
	l7mp_peer_clear(&h->peer);
	l7mp_http_reader_reset(&h->reader);
	l7mp_buf_unref(h->rest);
	free(h->offer);
	free(h->choice);
	free(h);
}

static void orphan_closed(void *arg, const struct l7mp_error *err)
{
	(void)arg;
	(void)err;
}

void l7mp_ws_orphan(struct l7mp_stream *io, bool abort)
{
	static const struct l7mp_stream_events events = {.closed = orphan_closed};

	l7mp_stream_attach(io, &events, NULL);
	l7mp_stream_close(io, abort);
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

/*
 * Answers with an error, and waits for the client to close, because closing at once could reset the
 * connection before the answer was read.
 */
static void refuse(struct ws_head *h, int status, const char *why)
{
	struct l7mp_buf *buf = refusal(h->loop, status, why);

	leave(h);
	h->conn = NULL;
	l7mp_log_verbose("ws", "a request is refused with %d: %s", status, why);
	if (!buf || l7mp_stream_write(h->io, buf) < 0 ||
	    l7mp_timer_start(h->loop, &h->timer, L7MP_WS_FAULT_MS)) {
		l7mp_stream_close(h->io, true);
		return;
	}
	l7mp_stream_shutdown(h->io, 0);
	l7mp_stream_pause(h->io, false);
}

/* ---- the request ---- */

/* Is the key 16 bytes in base64? */
static bool key_fine(const char *key)
{
	static const char digits[] =
	        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	return strlen(key) == 24 && strspn(key, digits) == 22 && strcmp(key + 22, "==") == 0;
}

/* RFC 6455, section 4.2.1. 0, or the status to refuse it with, and why. */
static int check_upgrade(const struct l7mp_http_request *r, const char **why)
{
	const char *version = l7mp_http_field(&r->fields, "sec-websocket-version");
	const char *key = l7mp_http_field(&r->fields, "sec-websocket-key");

	if (r->minor < 1) {
		*why = "expected HTTP/1.1";
		return 505;
	}
	if (strcmp(r->method, "GET") != 0) {
		*why = "expected the method GET";
		return 405;
	}
	*why = "expected a WebSocket handshake";
	if (!l7mp_http_field_has(&r->fields, "upgrade", "websocket") ||
	    !l7mp_http_field_has(&r->fields, "connection", "upgrade"))
		return 426;
	if (!version || strcmp(version, "13") != 0) {
		*why = "expected Sec-WebSocket-Version: 13";
		return 426;
	}
	if (!key || l7mp_http_field_count(&r->fields, "sec-websocket-key") != 1 || !key_fine(key)) {
		*why = "expected 16 bytes of base64 in one Sec-WebSocket-Key";
		return 400;
	}
	if (r->chunked || (r->has_length && r->length)) {
		*why = "expected no body";
		return 400;
	}
	return 0;
}

/* Checks path and Origin against the listener's spec. */
static int check_listener(const struct ws_listener *l, const struct l7mp_http_request *r,
                          const char **why)
{
	const char *origin = l7mp_http_field(&r->fields, "origin");
	const cJSON *o;

	if (l->path && strcmp(l->path, r->path) != 0) {
		*why = "no WebSocket is served at this path";
		return 404;
	}
	if (!l->origins || !origin) /* browsers always send Origin, other clients needn't */
		return 0;
	cJSON_ArrayForEach (o, l->origins)
		if (strcasecmp(o->valuestring, origin) == 0)
			return 0;
	*why = "not allowed from this Origin";
	return 403;
}

/* ---- subprotocols ---- */

/* Does the client offer this subprotocol? Names are case-sensitive. */
static bool offered(const struct ws_head *h, const char *name)
{
	size_t n = strlen(name);

	for (const char *s = h->offer; s && *s; s += strcspn(s, ",")) {
		s += strspn(s, ", \t");
		if (strncmp(s, name, n) == 0 && (!s[n] || strchr(", \t", s[n])))
			return true;
	}
	return false;
}

static void choose(struct ws_head *h, const char *name)
{
	free(h->choice);
	h->choice = name && *name && offered(h, name) ? strdup(name) : NULL;
}

void l7mp_ws_head_subprotocol(struct ws_head *h, const char *chosen)
{
	if (chosen)
		choose(h, chosen);
}

/*
 * Chooses the first one of the listener's own list that the client offers; a WebSocket upstream's
 * choice overrides it.
 */
static void choose_own(struct ws_head *h, const struct ws_listener *l)
{
	const cJSON *s;

	cJSON_ArrayForEach (s, l->subprotocols) {
		if (!offered(h, s->valuestring))
			continue;
		choose(h, s->valuestring);
		return;
	}
}

/* ---- passing on to a session ---- */

/* Metadata of the session. NULL: out of memory. */
static cJSON *metadata(const struct ws_head *h, const struct l7mp_http_request *r)
{
	cJSON *all = l7mp_peer_metadata(&h->peer);
	cJSON *http = l7mp_http_request_metadata(r, h->peer.tls ? "wss" : "ws", &h->peer.local);

	if (all && http && !l7mp_json_add(all, "HTTP", http))
		return all;
	if (!all)
		cJSON_Delete(http);
	cJSON_Delete(all);
	return NULL;
}

/* Joins the client's Sec-WebSocket-Protocol fields into one list. */
static char *offer_of(const struct l7mp_http_fields *f)
{
	struct l7mp_str out = {0};

	for (size_t i = 0; i < f->n; i++)
		if (strcmp(f->at[i].name, "sec-websocket-protocol") == 0)
			l7mp_str_addf(&out, "%s%s", out.len ? ", " : "", f->at[i].value);
	return out.len ? l7mp_str_take(&out) : NULL;
}

static void hand_up(struct ws_head *h, const struct l7mp_http_request *r)
{
	struct ws_listener *l = h->listener;
	const struct l7mp_listen_events *ev = l->below.base.events;
	struct l7mp_accept a = {.peer = h->peer.remote, .origin = h->peer.origin};

	if (ev->admit && ev->admit(l->below.base.arg, &h->peer.remote)) {
		refuse(h, 503, "a limit of sessions is reached");
		return;
	}
	snprintf(h->key, sizeof(h->key), "%s", l7mp_http_field(&r->fields, "sec-websocket-key"));
	h->offer = offer_of(&r->fields);
	choose_own(h, l);
	h->conn = l7mp_ws_conn_new(l->state, false, l->ping_ms, l->message_ms);
	if (!h->conn) {
		l7mp_stream_close(h->io, true);
		return;
	}
	a.metadata = metadata(h, r);
	l7mp_http_reader_reset(&h->reader);
	leave(h);
	h->conn->head = h;
	a.stream = &h->conn->base;
	a.name = l7mp_peer_name("WS", l->below.name, &h->peer, ++l->state->next_id);
	/* The session may answer from within this call, which frees h. */
	(void)l7mp_accept_emit(&l->below.base, &a);
}

/* Passes the connection to libwebsockets, which sends 101. Frees h. */
static void switch_over(struct ws_head *h)
{
	struct ws_conn *c = h->conn;
	struct l7mp_stream *io = h->io;
	int fd, pair[2];

	c->subprotocol = h->choice;
	h->choice = NULL;
	if (l7mp_byte_stream_is_tls(io)) {
		fd = -1;
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
			l7mp_ws_orphan(io, true);
		else if (l7mp_ws_bridge_new(c, io, pair[0], &c->bridge))
			close(pair[1]);
		else
			fd = pair[1];
	} else {
		fd = l7mp_byte_stream_take_fd(io);
		l7mp_ws_orphan(io, true);
	}
	h->io = NULL;
	if (fd < 0)
		l7mp_ws_conn_ended(c, L7MP_ERR_INTERNAL, "no socket: %s", l7mp_errno_text(errno));
	else
		l7mp_ws_lws_adopt(c, fd, h->key, h->rest ? h->rest->data : NULL,
		                  h->rest ? h->rest->len : 0);
	head_free(h);
}

void l7mp_ws_head_answer(struct ws_head *h, int status, const char *why)
{
	struct ws_conn *c = h->conn;

	if (status == 200) {
		switch_over(h);
		return;
	}
	refuse(h, status, why);
	l7mp_ws_conn_ended(c, L7MP_OK, " ");
}

void l7mp_ws_head_drop(struct ws_head *h)
{
	h->conn = NULL;
	l7mp_stream_close(h->io, true);
}

int l7mp_ws_head_local(const struct ws_head *h, struct l7mp_addr *out)
{
	return h->io->ops->local(h->io, out);
}

int l7mp_ws_head_remote(const struct ws_head *h, struct l7mp_addr *out)
{
	return h->io->ops->remote(h->io, out);
}

/* ---- reading ---- */

static void complete(struct ws_head *h, char *head, size_t len)
{
	struct l7mp_http_request r;
	struct l7mp_http_refusal bad;
	const char *why;
	int status;

	if (l7mp_http_request_parse(head, len, &r, &bad)) {
		refuse(h, bad.status, bad.why);
		return;
	}
	status = check_upgrade(&r, &why);
	if (!status)
		status = check_listener(h->listener, &r, &why);
	if (status)
		refuse(h, status, why);
	else
		hand_up(h, &r);
}

/* Stores frames that arrive before the handshake is answered. Returns false when out of memory. */
static bool keep(struct ws_head *h, const void *data, size_t n)
{
	size_t have = h->rest ? h->rest->len : 0;

	if (!n)
		return true;
	if (!h->rest)
		h->rest = l7mp_buf_new(l7mp_loop_bufs(h->loop), n);
	else
		h->rest = l7mp_buf_own(h->rest, 0, have + n);
	if (!h->rest)
		return false;
	memcpy(h->rest->data + have, data, n);
	h->rest->len += (uint32_t)n;
	if (h->rest->len >= REST_MAX)
		l7mp_stream_pause(h->io, true);
	return true;
}

/* Processes received bytes of the head. */
static void feed(struct ws_head *h, struct l7mp_buf *buf)
{
	struct l7mp_http_refusal bad;
	size_t used, len;
	char *head;
	int rc = l7mp_http_reader_feed(&h->reader, (char *)buf->data, buf->len, &used, &head, &len,
	                               &bad);

	if (rc < 0)
		refuse(h, bad.status, bad.why);
	else if (rc && len > L7MP_WS_HEAD_MAX)
		refuse(h, 431, "the request's head is larger than 16 KiB");
	else if (!rc && h->reader.seen > L7MP_WS_HEAD_MAX)
		refuse(h, 431, "the request's head is larger than 16 KiB");
	else if (rc && !keep(h, buf->data + used, buf->len - used))
		l7mp_stream_close(h->io, true);
	else if (rc)
		complete(h, head, len);
}

static void io_data(void *arg, struct l7mp_buf *buf)
{
	struct ws_head *h = arg;

	/* The reader parses in place. */
	if (h->listener && !l7mp_buf_writable(buf))
		buf = l7mp_buf_own(buf, 0, buf->len);
	if (!buf)
		l7mp_stream_close(h->io, true);
	else if (h->listener)
		feed(h, buf);
	else if (h->conn && !keep(h, buf->data, buf->len)) /* else it was refused */
		l7mp_stream_close(h->io, true);
	l7mp_buf_unref(buf);
}

static void io_end(void *arg, int code)
{
	struct ws_head *h = arg;

	(void)code;
	l7mp_stream_close(h->io, !!h->conn);
}

static void io_drain(void *arg)
{
	(void)arg;
}

static void io_closed(void *arg, const struct l7mp_error *err)
{
	struct ws_head *h = arg;
	struct ws_conn *c = h->conn;

	if (c) {
		c->head = NULL;
		l7mp_ws_conn_ended(
		        c, L7MP_ERR_UPSTREAM, "the client hung up within the handshake%s%s",
		        err->code == L7MP_OK ? "" : ": ", err->code == L7MP_OK ? "" : err->message);
	}
	head_free(h);
}

static const struct l7mp_stream_events io_events = {
        .data = io_data, .drain = io_drain, .end = io_end, .closed = io_closed};

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct ws_head *h = arg;

	(void)t;
	if (h->listener)
		refuse(h, 408, "the request did not arrive within 5 s");
	else
		l7mp_stream_close(h->io, true);
}

/* Closes the oldest connection: silent clients must not block others. */
static void close_oldest(struct ws_listener *l)
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

void l7mp_ws_head_read(struct ws_listener *l, struct l7mp_stream *io, struct l7mp_peer *peer)
{
	struct ws_head *h = calloc(1, sizeof(*h));

	if (!h) {
		l7mp_peer_clear(peer);
		l7mp_ws_orphan(io, true);
		return;
	}
	h->listener = l;
	h->loop = l->below.env->loop;
	h->io = io;
	h->peer = *peer;
	close_oldest(l);
	DL_APPEND(l->heads, h);
	l7mp_http_reader_init(&h->reader, false);
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
		l7mp_stream_close(h->io, true);
	}
}
