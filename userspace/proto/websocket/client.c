/* SPDX-License-Identifier: MIT */
/*
 * WebSocket clusters. libwebsockets does the handshake of RFC 6455, section 4.1, over a connected
 * byte stream (TCP or TLS), with the request built here. Path, query and headers are taken from the
 * session's HTTP metadata, if any.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "l7mp/log.h"
#include "l7mp/util.h"
#include "websocket.h"

/* ---- the request ---- */

/*
 * Headers that are not passed on: hop-by-hop ones (RFC 9110, section 7.6.1), those of a body, and
 * those that libwebsockets sets.
 */
static bool is_private(const char *name, const char *connection)
{
	static const char *const names[] = {
	        "connection",     "upgrade",           "keep-alive",     "te",
	        "trailer",        "transfer-encoding", "content-length", "content-type",
	        "expect",         "content-encoding",  "host",           "content-range",
	        "http2-settings",
	};
	size_t n = strlen(name);

	if (strncasecmp(name, "sec-websocket-", 14) == 0 || strncasecmp(name, "proxy-", 6) == 0)
		return true;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(names); i++)
		if (strcasecmp(name, names[i]) == 0)
			return true;
	while (connection && *connection) { /* named in Connection: hop-by-hop */
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

/* Creates the head of the request, without its key and the blank line. NULL: no memory. */
static char *request_of(const cJSON *http, const cJSON *spec, const char *address, uint16_t port,
                        const char *offer)
{
	char *path = path_of(http, spec), *host = host_of(http, address, port);
	char *headers = headers_of(http), *text = NULL;

	if (path && host && headers)
		text = l7mp_asprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\n"
		                     "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
		                     "%s%s%s%s",
		                     path, host, offer ? "Sec-WebSocket-Protocol: " : "",
		                     offer ? offer : "", offer ? "\r\n" : "", headers);
	free(path);
	free(host);
	free(headers);
	return text;
}

/* Returns the subprotocols offered by the session's client, joined by ", ". NULL: none. */
static char *offer_of(const cJSON *http)
{
	const cJSON *list =
	        cJSON_GetObjectItem(l7mp_json_member(http, "headers"), "sec-websocket-protocol");
	const char *s = cJSON_IsString(list) ? list->valuestring : "";
	struct l7mp_str out = {0};

	while (*s) {
		char name[128];
		size_t n;

		s += strspn(s, ", \t");
		n = strcspn(s, ", \t");
		snprintf(name, sizeof(name), "%.*s", (int)n, s);
		s += n;
		if (n && n < sizeof(name) && is_token(name) && out.len < 2048)
			l7mp_str_addf(&out, "%s%s", out.len ? ", " : "", name);
	}
	return out.len ? l7mp_str_take(&out) : NULL;
}

/* ---- the answer ---- */

static bool begins(const char *s, const char *with)
{
	return strncmp(s, with, strlen(with)) == 0;
}

/* Returns a clearer message; NULL: none. */
static const char *translate(const char *why)
{
	static const struct {
		const char *theirs, *ours;
	} words[] = {
	        {"HS: ACCEPT", "answered without Sec-WebSocket-Accept"},
	        {"HS: Accept", "answered with a wrong Sec-WebSocket-Accept"},
	        {"HS: U", "answered without Upgrade: websocket"},
	        {"HS: PROTOCOL", "chose a subprotocol that was not offered"},
	        {"HS: EXT", "chose an extension that was not offered"},
	        {"problems parsing header", "does not answer in HTTP/1.1"},
	        {"HS: ", NULL},
	};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(words); i++)
		if (begins(why, words[i].theirs))
			return words[i].ours;
	return "hung up within the handshake";
}

void l7mp_ws_dial_failed(struct ws_conn *c, const char *why, int status)
{
	const char *ours = translate(why);
	const char *target = c->dial ? c->dial->target : "the server";

	if (c->bridge && *l7mp_ws_bridge_why(c->bridge))
		l7mp_ws_conn_ended(c, L7MP_ERR_UPSTREAM, "%s", l7mp_ws_bridge_why(c->bridge));
	else if (begins(why, "HS: ws upgrade"))
		l7mp_ws_conn_ended(c, L7MP_ERR_UPSTREAM,
		                   "%s answered %d %s instead of a WebSocket handshake", target,
		                   status, l7mp_http_phrase(status));
	else
		l7mp_ws_conn_ended(c, L7MP_ERR_UPSTREAM, "%s %s", target,
		                   ours ? ours : "does not agree to the handshake");
}

bool l7mp_ws_dial_agreed(struct ws_conn *c, const char *subprotocol)
{
	c->subprotocol = strdup(subprotocol);
	if (!c->subprotocol) {
		l7mp_ws_conn_ended(c, L7MP_ERR_INTERNAL, "out of memory");
		return false;
	}
	c->base.subprotocol = c->subprotocol;
	if (!c->dial->agree || *subprotocol)
		return true;
	l7mp_ws_conn_ended(c, L7MP_ERR_UPSTREAM, "%s does not speak the subprotocol '%s'",
	                   c->dial->target, c->dial->offer);
	return false;
}

/* ---- connecting ---- */

void l7mp_ws_dial_free(struct ws_dial *d)
{
	if (!d)
		return;
	if (d->swap_fd >= 0)
		close(d->swap_fd);
	if (d->pair_fd >= 0)
		close(d->pair_fd);
	free(d->request);
	free(d->offer);
	free(d->target);
	free(d);
}

static void io_open(void *arg)
{
	l7mp_ws_lws_dial(arg);
}

static void io_notice(void *arg, const char *event, const char *message)
{
	l7mp_ws_conn_notice(arg, event, message);
}

static void io_closed(void *arg, const struct l7mp_error *err)
{
	struct ws_conn *c = arg;

	c->io = NULL;
	l7mp_ws_conn_ended(c, err->code, "%s", err->message);
}

static const struct l7mp_stream_events io_events = {
        .open = io_open, .notice = io_notice, .closed = io_closed};

static struct ws_dial *dial_new(const struct l7mp_connect *p, uint16_t port, bool tls)
{
	const cJSON *http = l7mp_json_member(p->metadata, "HTTP");
	const char *subprotocol = l7mp_json_str(p->cluster_spec, "subprotocol", NULL);
	struct ws_dial *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->swap_fd = d->pair_fd = -1;
	d->tls = tls;
	d->agree = subprotocol;
	d->offer = subprotocol ? strdup(subprotocol) : offer_of(http);
	d->target = l7mp_asprintf(strchr(p->address, ':') ? "[%s]:%u" : "%s:%u", p->address, port);
	d->request = request_of(http, p->cluster_spec, p->address, port, d->offer);
	if (!d->request || !d->target || (subprotocol && !d->offer)) {
		l7mp_ws_dial_free(d);
		return NULL;
	}
	return d;
}

static struct ws_conn *conn_new(struct ws_state *st, const struct l7mp_connect *p, uint16_t port,
                                bool tls)
{
	struct ws_dial *d = dial_new(p, port, tls);
	struct ws_conn *c = NULL;

	if (d)
		c = l7mp_ws_conn_new(st, true, l7mp_ws_ping_ms(p->cluster_spec),
		                     l7mp_ws_message_ms(p->cluster_spec));
	if (!c)
		l7mp_ws_dial_free(d);
	else
		c->dial = d;
	return c;
}

int l7mp_ws_connect(const struct l7mp_connect *p, struct l7mp_stream **out, struct l7mp_error *err)
{
	struct ws_state *st = l7mp_proto_state(p->env, &l7mp_proto_ws, err);
	uint16_t port = l7mp_spec_connect_port(p);
	const cJSON *bind = l7mp_json_member(p->cluster_spec, "bind");
	const cJSON *tls = l7mp_json_member(p->cluster_spec, "tls");
	struct l7mp_tls_ctx *ctx = NULL;
	struct ws_conn *c;
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
	c = conn_new(st, p, port, tls);
	if (!c)
		rc = l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	else if (ctx)
		rc = l7mp_byte_stream_connect_tls(p->env, p->address, port, bind, ctx, &c->io, err);
	else
		rc = l7mp_byte_stream_connect_tcp(p->env, p->address, port, bind, &c->io, err);
	l7mp_tls_ctx_unref(&ctx);
	if (rc) {
		if (c)
			l7mp_ws_conn_ended(c, L7MP_OK, " ");
		return rc;
	}
	l7mp_byte_stream_user_timeout(c->io, l7mp_spec_user_timeout(p->cluster_spec));
	l7mp_stream_attach(c->io, &io_events, c);
	*out = &c->base;
	return 0;
}
