/* SPDX-License-Identifier: MIT */
/*
 * The head of a WebSocket request, read before libwebsockets sees the socket: it
 * keeps only the headers that it knows, while rules may ask for any. The bytes are
 * looked at (MSG_PEEK), not taken; SO_RCVLOWAT keeps a partial head from waking the
 * loop again before more of it is there.
 */
#include "ws_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l7mp/log.h"
#include "l7mp/util.h"

struct ws_head {
	struct ws_listener *listener; /* NULL: being closed */
	struct ws_head *prev, *next;
	uv_poll_t poll;
	struct l7mp_timer timer;
	struct ws_from from;
	int fd;
	size_t seen;
};

/* ---- text ---- */

/* Ends the line at s and returns the next one; NULL when there is no line end. */
static char *cut_line(char *s)
{
	char *end = strstr(s, "\r\n");

	if (!end)
		return NULL;
	*end = '\0';
	return end + 2;
}

static bool parse_header(char *line, struct l7mp_http_header *out)
{
	char *colon = strchr(line, ':');
	char *end;

	if (!colon || colon == line || strpbrk(line, " \t") == line)
		return false;
	*colon++ = '\0';
	if (strpbrk(line, " \t"))
		return false;
	colon += strspn(colon, " \t");
	end = colon + strlen(colon);
	while (end > colon && (end[-1] == ' ' || end[-1] == '\t'))
		*--end = '\0';
	out->name = line;
	out->value = colon;
	return true;
}

static const char *header(const struct ws_request *r, const char *name)
{
	for (size_t i = 0; i < r->head.n_headers; i++)
		if (strcasecmp(r->headers[i].name, name) == 0)
			return r->headers[i].value;
	return NULL;
}

/* Is the token one of a comma-separated list? */
static bool has_token(const char *list, const char *token)
{
	size_t n = strlen(token);

	while (list && *list) {
		list += strspn(list, ", \t");
		if (strncasecmp(list, token, n) == 0 && (!list[n] || strchr(", \t;", list[n])))
			return true;
		list += strcspn(list, ",");
	}
	return false;
}

static int parse_request_line(char *line, struct ws_request *out)
{
	char *target = strchr(line, ' ');
	char *version, *query;

	if (!target)
		return 400;
	*target++ = '\0';
	version = strchr(target, ' ');
	if (!version)
		return 400;
	*version++ = '\0';
	if (strcmp(version, "HTTP/1.1") != 0)
		return 505;
	if (strcmp(line, "GET") != 0)
		return 405;
	if (target[0] != '/') { /* absolute form */
		char *path = strstr(target, "://");

		path = path ? strchr(path + 3, '/') : NULL;
		if (!path)
			return 400;
		target = path;
	}
	query = strchr(target, '?');
	if (query)
		*query++ = '\0';
	out->head.scheme = "ws";
	out->head.version = "1.1";
	out->head.method = "GET";
	out->head.path = target;
	out->head.query = query;
	return 0;
}

static int check_upgrade(const struct ws_request *r, const char **why)
{
	const char *version = header(r, "Sec-WebSocket-Version");

	*why = "expected a WebSocket handshake";
	if (!has_token(header(r, "Upgrade"), "websocket") ||
	    !has_token(header(r, "Connection"), "upgrade"))
		return 426;
	if (!version || strcmp(version, "13") != 0) {
		*why = "expected Sec-WebSocket-Version: 13";
		return 426;
	}
	if (!header(r, "Sec-WebSocket-Key") || !header(r, "Host")) {
		*why = "expected the headers Host and Sec-WebSocket-Key";
		return 400;
	}
	return 0;
}

int l7mp_ws_request_parse(char *text, struct ws_request *out, const char **why)
{
	char *next = cut_line(text);
	int status;

	memset(out, 0, sizeof(*out));
	*why = "the request can't be read";
	if (!next)
		return 400;
	status = parse_request_line(text, out);
	if (status)
		return status;
	out->head.headers = out->headers;
	while (*next && strncmp(next, "\r\n", 2) != 0) {
		char *line = next;

		next = cut_line(line);
		if (!next)
			return 400;
		if (out->head.n_headers == L7MP_ARRAY_SIZE(out->headers)) {
			*why = "too many headers";
			return 431;
		}
		if (!parse_header(line, &out->headers[out->head.n_headers++]))
			return 400;
	}
	return check_upgrade(out, why);
}

/* ---- reading ---- */

static void on_closed(uv_handle_t *handle)
{
	struct ws_head *h = handle->data;

	cJSON_Delete(h->from.tls);
	free(h);
}

/* Ends the reading; the socket is the caller's. */
static int detach(struct ws_head *h)
{
	struct ws_listener *l = h->listener;
	int fd = h->fd;

	if (h->prev)
		h->prev->next = h->next;
	else
		l->heads = h->next;
	if (h->next)
		h->next->prev = h->prev;
	l7mp_timer_stop(l->tcp.env->loop, &h->timer);
	h->listener = NULL;
	h->fd = -1;
	uv_close((uv_handle_t *)&h->poll, on_closed);
	return fd;
}

/* One answer that fits the socket's buffer, and the end. Takes fd. */
static void refuse(int fd, int status, const char *why)
{
	char *body = l7mp_http_error_body(status, why);
	char *text = NULL;
	char scrap[L7MP_WS_HEAD_MAX];

	if (body)
		text = l7mp_asprintf("HTTP/1.1 %d %s\r\n%s%sContent-Type: application/json\r\n"
		                     "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
		                     status, l7mp_http_phrase(status),
		                     status == 426 ? "Upgrade: websocket\r\n"
		                                     "Sec-WebSocket-Version: 13\r\n"
		                                   : "",
		                     status == 405 ? "Allow: GET\r\n" : "", strlen(body), body);
	if (text && send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		l7mp_log_verbose("ws", "a refusal could not be sent: %s", strerror(errno));
	free(text);
	free(body);
	shutdown(fd, SHUT_WR);
	/* Unread bytes would turn the close into a reset that overtakes the answer. */
	while (recv(fd, scrap, sizeof(scrap), MSG_DONTWAIT) > 0)
		;
	close(fd);
}

/* The first offered subprotocol is agreed to. */
static void pick_subprotocol(struct ws_state *st, const char *offered)
{
	size_t n;

	st->subprotocol[0] = '\0';
	if (!offered)
		return;
	offered += strspn(offered, ", \t");
	n = strcspn(offered, ", \t");
	if (n < sizeof(st->subprotocol)) {
		memcpy(st->subprotocol, offered, n);
		st->subprotocol[n] = '\0';
	}
}

/* Takes from->tls. */
static void adopt(struct ws_listener *l, int fd, struct ws_from *from, const struct ws_request *r)
{
	struct ws_conn *c = l7mp_ws_conn_new(l->state);
	int one = 1;

	if (!c) {
		close(fd);
		return;
	}
	c->peer = from->peer;
	c->local = from->local;
	c->tls_details = from->tls;
	from->tls = NULL;
	c->http = l7mp_http_metadata(&r->head, &c->local);
	if (!c->http) {
		close(fd);
		l7mp_ws_conn_free(c);
		return;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof(one));
	l7mp_tcp_tune(fd);
	c->listener = l;
	c->next = l->conns;
	if (c->next)
		c->next->prev = c;
	l->conns = c;
	c->offered = strdup(
	        header(r, "Sec-WebSocket-Protocol") ? header(r, "Sec-WebSocket-Protocol") : "");
	if (!c->offered || l7mp_ws_adopt(c, fd) < 0)
		l7mp_ws_conn_gone(c, "the socket can't be adopted");
}

/* The whole head is there: h ends, the socket goes on or is refused. */
static void complete(struct ws_head *h, char *text)
{
	struct ws_listener *l = h->listener;
	struct ws_request r;
	const char *why;
	int status = l7mp_ws_request_parse(text, &r, &why);
	int fd = detach(h); /* h is there until the loop's turn is over */

	if (status == 0 && l->path && strcmp(l->path, r.head.path) != 0) {
		status = 404;
		why = "no WebSocket is served at this path";
	}
	if (h->from.tls)
		r.head.scheme = "wss";
	if (status)
		refuse(fd, status, why);
	else
		adopt(l, fd, &h->from, &r);
}

static void look(struct ws_head *h)
{
	char text[L7MP_WS_HEAD_MAX + 1];
	ssize_t n = recv(h->fd, text, L7MP_WS_HEAD_MAX, MSG_PEEK | MSG_DONTWAIT);
	char *end;
	int want;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || (size_t)n <= h->seen) { /* nothing new: the peer has finished */
		close(detach(h));
		return;
	}
	text[n] = '\0';
	h->seen = (size_t)n;
	if (memchr(text, '\0', (size_t)n)) {
		refuse(detach(h), 400, "the request can't be read");
		return;
	}
	end = strstr(text, "\r\n\r\n");
	if (end) {
		end[4] = '\0';
		complete(h, text);
	} else if (n == L7MP_WS_HEAD_MAX) {
		refuse(detach(h), 431, "the request's head is larger than 16 KiB");
	} else {
		want = (int)n + 1;
		setsockopt(h->fd, SOL_SOCKET, SO_RCVLOWAT, &want, sizeof(want));
	}
}

static void on_poll(uv_poll_t *poll, int status, int evs)
{
	struct ws_head *h = poll->data;

	(void)evs;
	if (status < 0)
		close(detach(h));
	else
		look(h);
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	(void)t;
	refuse(detach(arg), 408, "the request did not come within 5 s");
}

void l7mp_ws_head_read(struct ws_listener *l, int fd, const struct ws_from *from)
{
	struct ws_head *h = calloc(1, sizeof(*h));
	uv_loop_t *uv = l7mp_loop_uv(l->tcp.env->loop);

	if (!h || uv_poll_init(uv, &h->poll, fd) < 0) {
		cJSON_Delete(from->tls);
		free(h);
		close(fd);
		return;
	}
	h->poll.data = h;
	h->fd = fd;
	h->from = *from;
	h->listener = l;
	h->next = l->heads;
	if (h->next)
		h->next->prev = h;
	l->heads = h;
	l7mp_timer_init(&h->timer, on_timer, h);
	if (uv_poll_start(&h->poll, UV_READABLE, on_poll) < 0 ||
	    l7mp_timer_start(l->tcp.env->loop, &h->timer, L7MP_WS_HEAD_MS) < 0)
		close(detach(h));
}

void l7mp_ws_head_cancel_all(struct ws_listener *l)
{
	while (l->heads)
		close(detach(l->heads));
}

void l7mp_ws_offer(struct ws_conn *c)
{
	pick_subprotocol(c->state, c->offered);
}
