/* SPDX-License-Identifier: MIT */
/* Between libwebsockets' callbacks and our connections. Thread: loop only. */
#include "ws_glue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * The library's own way to close stops reading at once, and what the peer still
 * sends before its Close frame would be lost. Its write protocol for Close frames is
 * left out of the public enumeration, which keeps the number free for it.
 */
#define WRITE_CLOSE ((enum lws_write_protocol)4)

/* ---- tickets ---- */

static struct ws_ticket *ticket_new(struct ws_conn *c)
{
	struct ws_ticket *t = calloc(1, sizeof(*t));
	struct ws_state *st = c->state;

	if (!t)
		return NULL;
	t->conn = c;
	t->next = st->tickets;
	if (t->next)
		t->next->prev = t;
	st->tickets = t;
	c->ticket = t;
	return t;
}

static void ticket_free(struct ws_state *st, struct ws_ticket *t)
{
	if (t->conn) {
		t->conn->ticket = NULL;
		t->conn->wsi = NULL;
	}
	if (t->prev)
		t->prev->next = t->next;
	else
		st->tickets = t->next;
	if (t->next)
		t->next->prev = t->prev;
	free(t);
}

/* The connection stops knowing the library; the ticket goes when the wsi does. */
static void let_go(struct ws_conn *c)
{
	if (c->ticket)
		c->ticket->conn = NULL;
	c->ticket = NULL;
	c->wsi = NULL;
}

/* ---- callbacks ---- */

static int on_receive(struct ws_conn *c, struct lws *wsi, const void *in, size_t len)
{
	int code = l7mp_ws_conn_receive(
	        c, in, len, lws_remaining_packet_payload(wsi), lws_is_first_fragment(wsi),
	        lws_is_final_fragment(wsi) && !lws_remaining_packet_payload(wsi),
	        !lws_frame_is_binary(wsi));

	if (!code)
		return 0;
	lws_close_reason(wsi, (enum lws_close_status)code, NULL, 0);
	return -1;
}

static int on_peer_close(struct ws_conn *c, const uint8_t *in, size_t len)
{
	int code = len >= 2 ? in[0] << 8 | in[1] : 0;

	return l7mp_ws_conn_peer_close(c, code) ? 0 : -1;
}

static int append_headers(struct ws_conn *c, uint8_t **p, size_t len)
{
	size_t n = c->headers ? strlen(c->headers) : 0;

	if (n >= len) {
		l7mp_error_set(&c->error, -E2BIG, L7MP_ERR_UPSTREAM,
		               "WebSocket: %zu bytes of headers are too many", n);
		return -1;
	}
	if (n)
		memcpy(*p, c->headers, n);
	*p += n;
	return 0;
}

static void on_gone(struct ws_conn *c, const char *text, size_t len)
{
	char buf[160];

	if (text)
		snprintf(buf, sizeof(buf), "%.*s", (int)(len < 150 ? len : 150), text);
	let_go(c);
	l7mp_ws_lost(c, text ? buf : NULL);
}

void l7mp_ws_lost(struct ws_conn *c, const char *text)
{
	if (!c->up && !c->listener && c->next_addr < c->n_addrs && !c->closing && !c->aborting) {
		l7mp_ws_tls_end(c);
		c->error.code = L7MP_OK;
		l7mp_ws_next_address(c);
		return;
	}
	l7mp_ws_conn_gone(c, text);
}

static void on_connect_error(struct ws_conn *c, struct lws *wsi, const char *text, size_t len)
{
	unsigned status = lws_http_client_http_response(wsi);
	const struct l7mp_addr *a = &c->addrs[c->next_addr ? c->next_addr - 1 : 0];
	char where[L7MP_ADDR_STRLEN], buf[320];
	int err = 0;
	socklen_t size = sizeof(err);

	if (getsockopt(lws_get_socket_fd(wsi), SOL_SOCKET, SO_ERROR, &err, &size) < 0)
		err = 0;
	l7mp_addr_str(a, where);
	if (status && status != 101)
		snprintf(buf, sizeof(buf), "%s answered %u %s instead of a WebSocket handshake",
		         where, status, l7mp_http_phrase((int)status));
	else if (err)
		snprintf(buf, sizeof(buf), "can't connect to %s: %s", where, l7mp_errno_text(err));
	else
		snprintf(buf, sizeof(buf), "can't connect to %s: %.*s", where,
		         (int)(text ? (len < 120 ? len : 120) : 7), text ? text : "refused");
	on_gone(c, buf, strlen(buf));
}

/* The library refuses a subprotocol that was not offered, but takes none at all for an answer. */
static bool agreed(struct ws_conn *c, struct lws *wsi)
{
	if (!c->subprotocol || lws_hdr_total_length(wsi, WSI_TOKEN_PROTOCOL) > 0)
		return true;
	l7mp_error_set(&c->error, -EPROTO, L7MP_ERR_UPSTREAM,
	               "WebSocket: the server does not speak the subprotocol '%s'", c->subprotocol);
	return false;
}

static int on_conn(struct ws_conn *c, struct lws *wsi, enum lws_callback_reasons reason, void *in,
                   size_t len)
{
	switch (reason) {
	case LWS_CALLBACK_ESTABLISHED:
	case LWS_CALLBACK_CLIENT_ESTABLISHED:
		if (!c->listener && !c->tls_ctx)
			l7mp_fd_local(lws_get_socket_fd(wsi), &c->local);
		return l7mp_ws_conn_up(c) ? 0 : -1;
	case LWS_CALLBACK_RECEIVE:
	case LWS_CALLBACK_CLIENT_RECEIVE:
		return on_receive(c, wsi, in, len);
	case LWS_CALLBACK_SERVER_WRITEABLE:
	case LWS_CALLBACK_CLIENT_WRITEABLE:
		return l7mp_ws_conn_writable(c) ? 0 : -1;
	case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
		return on_peer_close(c, in, len);
	case LWS_CALLBACK_CLIENT_FILTER_PRE_ESTABLISH:
		return agreed(c, wsi) ? 0 : -1;
	case LWS_CALLBACK_CLIENT_APPEND_HANDSHAKE_HEADER:
		return append_headers(c, in, len);
	case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
		on_connect_error(c, wsi, in, len);
		return 0;
	case LWS_CALLBACK_CLOSED:
	case LWS_CALLBACK_CLIENT_CLOSED:
		on_gone(c, NULL, 0);
		return 0;
	case LWS_CALLBACK_CLOSED_HTTP:
	case LWS_CALLBACK_CLOSED_CLIENT_HTTP:
	case LWS_CALLBACK_WSI_DESTROY:
		on_gone(c, "the handshake failed", 20);
		return 0;
	default:
		return 0;
	}
}

int l7mp_ws_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                     size_t len)
{
	struct ws_state *st =
	        wsi && lws_get_context(wsi) ? lws_context_user(lws_get_context(wsi)) : NULL;
	struct ws_ticket *t = wsi ? lws_get_opaque_user_data(wsi) : NULL;
	int rc = 0;

	(void)user;
	if (!st)
		return 0;
	if (!t && st->adopting && reason != LWS_CALLBACK_WSI_DESTROY) {
		t = st->adopting;
		lws_set_opaque_user_data(wsi, t);
	}
	if (!t)
		return 0;
	if (t->conn && !t->conn->wsi)
		t->conn->wsi = wsi;
	switch (reason) {
	case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
		/* Nothing but websocket: the library would offer HTTP/2 as well. */
		if (!t->conn || !in || strcasecmp(in, "websocket") != 0)
			return -1;
		l7mp_ws_offer(t->conn);
		return 0;
	case LWS_CALLBACK_HTTP:
		return -1; /* the head was checked before: a second request on the connection */
	case LWS_CALLBACK_ESTABLISHED:
	case LWS_CALLBACK_CLIENT_ESTABLISHED:
		if (!t->conn)
			return -1;
		break;
	default:
		break;
	}
	if (t->conn)
		rc = on_conn(t->conn, wsi, reason, in, len);
	if (reason == LWS_CALLBACK_WSI_DESTROY) {
		lws_set_opaque_user_data(wsi, NULL);
		if (st->adopting == t)
			st->adopting = NULL;
		ticket_free(st, t);
	}
	return rc;
}

/* ---- what the connection asks for ---- */

void l7mp_ws_want_write(struct ws_conn *c)
{
	if (c->wsi)
		lws_callback_on_writable(c->wsi);
}

void l7mp_ws_flow(struct ws_conn *c, bool on)
{
	if (!c->wsi)
		return;
	lws_rx_flow_control(c->wsi, on);
	if (on) /* what the library has read already is only looked at in a callback */
		lws_callback_on_writable(c->wsi);
}

int l7mp_ws_local(struct ws_conn *c, struct l7mp_addr *out)
{
	/* With TLS it is a bridge's. */
	if (!c->wsi || c->tls_ctx)
		return -ENOTCONN;
	return l7mp_fd_local(lws_get_socket_fd(c->wsi), out);
}

bool l7mp_ws_choked(struct ws_conn *c)
{
	return !c->wsi || lws_send_pipe_choked(c->wsi);
}

int l7mp_ws_send(struct ws_conn *c, struct l7mp_buf *buf)
{
	bool text = buf->flags & L7MP_BUF_TEXT;
	int n, len = (int)buf->len;

	/* The library writes the frame's head in front and masks in place. */
	if (!l7mp_buf_writable(buf) || l7mp_buf_headroom(buf) < LWS_PRE)
		buf = l7mp_buf_own(buf, LWS_PRE, (size_t)len);
	if (!buf)
		return -ENOMEM;
	n = lws_write(c->wsi, buf->data, (size_t)len, text ? LWS_WRITE_TEXT : LWS_WRITE_BINARY);
	l7mp_buf_unref(buf);
	return n < len ? -EIO : 0;
}

int l7mp_ws_send_close(struct ws_conn *c, int code)
{
	uint8_t frame[LWS_PRE + 2] = {0};
	bool legal =
	        (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) ||
	        (code >= 3000 && code <= 4999);

	if (!legal)
		code = 1000;
	frame[LWS_PRE] = (uint8_t)(code >> 8);
	frame[LWS_PRE + 1] = (uint8_t)code;
	return lws_write(c->wsi, frame + LWS_PRE, 2, WRITE_CLOSE) < 2 ? -EIO : 0;
}

/*
 * Not from a callback of this wsi. The library waits for the peer's FIN before it
 * closes; with the socket shut down it sees one.
 */
void l7mp_ws_forget(struct ws_conn *c)
{
	struct lws *wsi = c->wsi;

	if (!c->ticket || !wsi)
		return;
	let_go(c);
	shutdown(lws_get_socket_fd(wsi), SHUT_RDWR);
	lws_set_timeout(wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_SYNC);
}

int l7mp_ws_adopt(struct ws_conn *c, int fd)
{
	struct ws_state *st = c->state;
	struct lws *wsi;

	if (!ticket_new(c)) {
		close(fd);
		return -ENOMEM;
	}
	st->adopting = c->ticket;
	wsi = lws_adopt_socket_vhost(st->plain, fd);
	st->adopting = NULL;
	if (!wsi) {
		if (c->ticket)
			ticket_free(st, c->ticket);
		return -EIO;
	}
	lws_set_opaque_user_data(wsi, c->ticket);
	c->wsi = wsi;
	lws_cancel_service(st->context); /* its timers run only after a callback */
	return 0;
}

int l7mp_ws_dial(struct ws_conn *c, const struct l7mp_addr *to, const char *from)
{
	char ip[L7MP_ADDR_STRLEN];

	return l7mp_ws_dial_text(c, l7mp_addr_ip(to, ip), l7mp_addr_port(to), from);
}

int l7mp_ws_dial_text(struct ws_conn *c, const char *to, uint16_t port, const char *from)
{
	struct lws_client_connect_info info = {
	        .context = c->state->context,
	        .vhost = c->state->plain,
	        .address = to,
	        .port = port,
	        .path = c->path,
	        .host = c->host,
	        .protocol = c->subprotocol,
	        .local_protocol_name = "l7mp",
	        .iface = from,
	        .ietf_version_or_minus_one = -1,
	};
	struct ws_ticket *t = ticket_new(c);
	struct lws *wsi = NULL;

	if (!t)
		return -ENOMEM;
	info.opaque_user_data = t;
	info.pwsi = &wsi;
	if (lws_client_connect_via_info(&info)) {
		c->wsi = wsi;
		lws_cancel_service(c->state->context);
		return 0;
	}
	/* It may still be closing: the ticket then goes with the wsi, else with the context. */
	let_go(c);
	return -ECONNREFUSED;
}
