/* SPDX-License-Identifier: MIT */
/*
 * WebSocket clusters: a byte stream is connected, TCP or TLS, and the handshake of
 * RFC 6455 made on it. Path, query and headers come from the session's HTTP metadata when
 * there is any.
 */
#include "ws_int.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "l7mp/log.h"
#include "l7mp/util.h"

/* ---- the request ---- */

/* Headers of one hop (RFC 9110, section 7.6.1), of a body, or made by the library. */
static bool is_private(const char *name, const char *connection)
{
	static const char *const names[] = {
	        "connection",     "upgrade",           "keep-alive",     "te",
	        "trailer",        "transfer-encoding", "content-length", "content-type",
	        "expect",         "content-encoding",  "host",           "pragma",
	        "http2-settings", "cache-control",     "content-range",
	};
	size_t n = strlen(name);

	if (strncasecmp(name, "sec-websocket-", 14) == 0 || strncasecmp(name, "proxy-", 6) == 0)
		return true;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(names); i++)
		if (strcasecmp(name, names[i]) == 0)
			return true;
	while (connection && *connection) { /* named there: of this hop */
		connection += strspn(connection, ", \t");
		if (strncasecmp(connection, name, n) == 0 &&
		    (!connection[n] || strchr(", \t", connection[n])))
			return true;
		connection += strcspn(connection, ",");
	}
	return false;
}

static bool is_token(const char *s)
{
	if (!s || !*s)
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr("!#$%&'*+-.^_`|~", *s))
			return false;
	return true;
}

static void add_clean(struct l7mp_str *out, const char *value)
{
	for (; *value; value++) /* a line break would begin another header */
		l7mp_str_addn(out, (unsigned char)*value < 0x20 ? " " : value, 1);
}

static char *headers_of(const cJSON *http)
{
	const cJSON *headers = l7mp_json_member(http, "headers");
	const cJSON *connection = cJSON_GetObjectItem(headers, "connection");
	struct l7mp_str out = {0};
	const cJSON *h;

	l7mp_str_addn(&out, "", 0);
	cJSON_ArrayForEach (h, headers) {
		if (!cJSON_IsString(h) || !is_token(h->string) ||
		    is_private(h->string, connection ? connection->valuestring : NULL))
			continue;
		l7mp_str_addf(&out, "%s: ", h->string);
		add_clean(&out, h->valuestring);
		l7mp_str_add(&out, "\r\n");
	}
	return out.s || out.oom ? l7mp_str_take(&out) : strdup("");
}

static void add_target(struct l7mp_str *out, const char *text)
{
	for (; *text; text++) {
		unsigned char b = (unsigned char)*text;

		if (b <= 0x20 || b >= 0x7f || b == '#')
			l7mp_str_addf(out, "%%%02X", b);
		else
			l7mp_str_addn(out, text, 1);
	}
}

static char *path_of(const cJSON *http, const cJSON *spec)
{
	const cJSON *url = l7mp_json_member(http, "url");
	const char *path = l7mp_json_str(url, "path", NULL);
	const char *query = path ? l7mp_json_str(url, "query", "") : "";
	struct l7mp_str out = {0};

	if (!path)
		path = l7mp_json_str(spec, "path", "/");
	if (path[0] != '/')
		l7mp_str_add(&out, "/");
	add_target(&out, path);
	if (*query) {
		l7mp_str_add(&out, "?");
		add_target(&out, query[0] == '?' ? query + 1 : query);
	}
	return l7mp_str_take(&out);
}

static char *host_of(const cJSON *http, const char *address, uint16_t port)
{
	const cJSON *host = cJSON_GetObjectItem(l7mp_json_member(http, "headers"), "host");
	struct l7mp_str out = {0};

	if (cJSON_IsString(host) && *host->valuestring)
		add_clean(&out, host->valuestring);
	else if (strchr(address, ':') && address[0] != '[')
		l7mp_str_addf(&out, "[%s]:%u", address, port);
	else
		l7mp_str_addf(&out, "%s:%u", address, port);
	return l7mp_str_take(&out);
}

/* The whole head of the request. NULL: no memory. */
static char *request_of(const cJSON *http, const cJSON *spec, const char *address, uint16_t port,
                        const struct ws_dial *d)
{
	char *path = path_of(http, spec), *host = host_of(http, address, port);
	char *headers = headers_of(http), *text = NULL;

	if (path && host && headers)
		text = l7mp_asprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\n"
		                     "Connection: Upgrade\r\nSec-WebSocket-Key: %s\r\n"
		                     "Sec-WebSocket-Version: 13\r\n%s%s%s%s\r\n",
		                     path, host, d->key,
		                     d->subprotocol ? "Sec-WebSocket-Protocol: " : "",
		                     d->subprotocol ? d->subprotocol : "",
		                     d->subprotocol ? "\r\n" : "", headers);
	free(path);
	free(host);
	free(headers);
	return text;
}

/* ---- the answer ---- */

/* What is wrong with it, in words; NULL: nothing. */
static const char *objection(const struct ws_dial *d, const struct ws_lines *l, char *buf,
                             size_t size)
{
	const char *accept = l7mp_ws_lines_get(l, "Sec-WebSocket-Accept");
	const char *chosen = l7mp_ws_lines_get(l, "Sec-WebSocket-Protocol");
	char expected[29];
	int status = 0;

	if (strncmp(l->first, "HTTP/1.1 ", 9) != 0 || sscanf(l->first + 9, "%3d", &status) != 1)
		return "does not answer in HTTP/1.1";
	if (status != 101) {
		snprintf(buf, size, "answered %d %s instead of a WebSocket handshake", status,
		         l7mp_http_phrase(status));
		return buf;
	}
	if (!l7mp_ws_has_token(l7mp_ws_lines_get(l, "Upgrade"), "websocket") ||
	    !l7mp_ws_has_token(l7mp_ws_lines_get(l, "Connection"), "upgrade"))
		return "answered without Upgrade: websocket";
	l7mp_ws_key_answer(d->key, expected);
	if (!accept || strcmp(accept, expected) != 0)
		return "answered with a wrong Sec-WebSocket-Accept";
	if (l7mp_ws_lines_get(l, "Sec-WebSocket-Extensions"))
		return "wants an extension that was not offered";
	if (d->subprotocol && (!chosen || strcmp(chosen, d->subprotocol) != 0)) {
		snprintf(buf, size, "does not speak the subprotocol '%s'", d->subprotocol);
		return buf;
	}
	if (!d->subprotocol && chosen)
		return "wants a subprotocol that was not offered";
	return NULL;
}

static void answered(struct ws_conn *c, size_t n)
{
	struct ws_dial *d = c->dial;
	struct l7mp_buf *rest = NULL;
	char text[L7MP_WS_HEAD_MAX + 1], buf[200];
	const char *why;
	struct ws_lines lines;

	memcpy(text, d->head->data, n);
	text[n] = '\0';
	if (memchr(text, '\0', n) || l7mp_ws_lines_split(text, &lines, &why))
		why = "does not answer in HTTP/1.1";
	else
		why = objection(d, &lines, buf, sizeof(buf));
	if (why) {
		l7mp_ws_conn_fail(c, L7MP_ERR_UPSTREAM, "%s %s", d->bind_addr, why);
		return;
	}
	if (n < d->head->len) {
		rest = l7mp_buf_copy(l7mp_loop_bufs(l7mp_ws_loop(c)), d->head->data + n,
		                     d->head->len - n);
		if (!rest) {
			l7mp_ws_conn_fail(c, L7MP_ERR_INTERNAL, "out of memory");
			return;
		}
	}
	l7mp_ws_conn_up(c, rest);
	c->base.events->open(c->base.owner);
}

void l7mp_ws_dial_data(struct ws_conn *c, struct l7mp_buf *buf)
{
	int n = l7mp_ws_head_add(l7mp_ws_loop(c), &c->dial->head, buf);

	if (n == -E2BIG)
		l7mp_ws_conn_fail(c, L7MP_ERR_UPSTREAM,
		                  "%s answered with a head of more than %d bytes",
		                  c->dial->bind_addr, L7MP_WS_HEAD_MAX);
	else if (n < 0)
		l7mp_ws_conn_fail(c, L7MP_ERR_INTERNAL, "out of memory");
	else if (n > 0)
		answered(c, (size_t)n);
}

/* ---- connecting ---- */

void l7mp_ws_dial_free(struct ws_dial *d)
{
	if (!d)
		return;
	l7mp_buf_unref(d->head);
	free(d->request);
	free(d->subprotocol);
	free(d->bind_addr);
	free(d);
}

void l7mp_ws_dial_open(struct ws_conn *c)
{
	struct l7mp_buf *buf = l7mp_buf_copy(l7mp_loop_bufs(l7mp_ws_loop(c)), c->dial->request,
	                                     strlen(c->dial->request));

	if (!buf || l7mp_stream_write(c->io, buf) < 0)
		l7mp_ws_conn_fail(c, L7MP_ERR_INTERNAL, "the request can't be sent to %s",
		                  c->dial->bind_addr);
}

static struct ws_dial *dial_new(const struct l7mp_connect *p, uint16_t port)
{
	const cJSON *http = l7mp_json_member(p->metadata, "HTTP");
	const char *subprotocol = l7mp_json_str(p->cluster_spec, "subprotocol", NULL);
	struct ws_dial *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->subprotocol = subprotocol ? strdup(subprotocol) : NULL;
	d->bind_addr =
	        l7mp_asprintf(strchr(p->address, ':') ? "[%s]:%u" : "%s:%u", p->address, port);
	if (!l7mp_ws_key_new(d->key))
		d->request = request_of(http, p->cluster_spec, p->address, port, d);
	if (!d->request || !d->bind_addr || (subprotocol && !d->subprotocol)) {
		l7mp_ws_dial_free(d);
		return NULL;
	}
	return d;
}

int l7mp_ws_connect(const struct l7mp_connect *p, struct l7mp_stream **out, struct l7mp_error *err)
{
	struct ws_state *st = l7mp_proto_state(p->env, &l7mp_proto_ws, err);
	uint16_t port = (uint16_t)l7mp_json_num(p->cluster_spec, "port", 80);
	const cJSON *bind = l7mp_json_member(p->cluster_spec, "bind");
	const cJSON *tls = l7mp_json_member(p->cluster_spec, "tls");
	struct l7mp_tls_ctx *ctx = NULL;
	struct l7mp_stream *io = NULL;
	struct ws_conn *c;
	struct ws_dial *d;
	int rc = 0;

	if (!st)
		return -EIO;
	if (!p->address)
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_UPSTREAM,
		                      "WebSocket: the endpoint has no address");
	if (tls)
		rc = l7mp_tls_set_client(st->tls, tls, &ctx, err);
	if (rc)
		return rc;
	d = dial_new(p, port);
	if (!d)
		rc = l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	else if (ctx)
		rc = l7mp_byte_stream_connect_tls(p->env, p->address, port, bind, ctx, &io, err);
	else
		rc = l7mp_byte_stream_connect_tcp(p->env, p->address, port, bind, &io, err);
	l7mp_tls_ctx_unref(&ctx);
	if (rc) {
		l7mp_ws_dial_free(d);
		return rc;
	}
	c = l7mp_ws_conn_new(st, io, d);
	if (!c)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	*out = &c->base;
	return 0;
}
