/* SPDX-License-Identifier: MIT */
/*
 * WebSocket clusters: the name is resolved first (the library would block), then
 * the addresses are tried one after the other. Path, query and headers come from
 * the session's HTTP metadata when there is any.
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

/* ---- connecting ---- */

void l7mp_ws_next_address(struct ws_conn *c)
{
	char ip[L7MP_ADDR_STRLEN], where[L7MP_ADDR_STRLEN];
	struct l7mp_addr from;
	int rc = -EADDRNOTAVAIL;

	while (c->next_addr < c->n_addrs) {
		const struct l7mp_addr *to = &c->addrs[c->next_addr++];

		rc = l7mp_bind_for_family(c->bind, l7mp_addr_family(to), &from);
		if (rc == 0 && c->tls_ctx)
			rc = l7mp_ws_tls_dial(c, to, &from);
		else if (rc == 0)
			rc = l7mp_ws_dial(c, to, from.len ? l7mp_addr_ip(&from, ip) : NULL);
		if (rc == 0)
			return;
		l7mp_log_verbose("ws", "can't connect to %s: %s", l7mp_addr_str(to, where),
		                 l7mp_errno_text(rc));
	}
	l7mp_error_set(&c->error, rc, l7mp_connect_code(rc), "WebSocket: can't connect to %s: %s",
	               c->host, l7mp_errno_text(rc));
	l7mp_ws_conn_gone(c, c->error.message);
}

static void resolved(void *arg, int err, const struct l7mp_addr *addrs, size_t n)
{
	struct ws_conn *c = arg;

	c->resolve = NULL;
	if (n == 0) {
		l7mp_error_set(&c->error, err, L7MP_ERR_UPSTREAM, "WebSocket: can't resolve %s: %s",
		               c->host, l7mp_errno_text(err));
		l7mp_ws_conn_gone(c, c->error.message);
		return;
	}
	c->addrs = calloc(n, sizeof(*addrs));
	if (c->addrs) {
		memcpy(c->addrs, addrs, n * sizeof(*addrs));
		c->n_addrs = n;
	}
	l7mp_ws_next_address(c);
}

int l7mp_ws_connect(const struct l7mp_connect *p, struct l7mp_stream **out, struct l7mp_error *err)
{
	struct ws_state *st = l7mp_proto_state(p->env, &l7mp_proto_ws, err);
	const cJSON *http = l7mp_json_member(p->metadata, "HTTP");
	const char *subprotocol = l7mp_json_str(p->cluster_spec, "subprotocol", NULL);
	const cJSON *bind = l7mp_json_member(p->cluster_spec, "bind");
	const cJSON *tls = l7mp_json_member(p->cluster_spec, "tls");
	struct l7mp_tls_ctx *ctx = NULL;
	struct ws_conn *c;
	int rc;

	if (!st)
		return -EIO;
	if (!p->address)
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_UPSTREAM,
		                      "WebSocket: the endpoint has no address");
	if (tls) {
		rc = l7mp_tls_set_client(st->tls, tls, &ctx, err);
		if (rc)
			return rc;
	}
	c = l7mp_ws_conn_new(st);
	if (!c) {
		l7mp_tls_ctx_unref(&ctx);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	c->tls_ctx = ctx;
	c->address = strdup(p->address);
	c->port = (uint16_t)l7mp_json_num(p->cluster_spec, "port", 80);
	c->path = path_of(http, p->cluster_spec);
	c->headers = headers_of(http);
	c->host = host_of(http, p->address, c->port);
	c->subprotocol = subprotocol ? strdup(subprotocol) : NULL;
	c->bind = bind ? cJSON_Duplicate(bind, true) : NULL;
	rc = !c->address || !c->path || !c->headers || !c->host ||
	                     (subprotocol && !c->subprotocol) || (bind && !c->bind)
	             ? -ENOMEM
	             : 0;
	if (rc == 0)
		rc = l7mp_resolve_start(p->env->loop, p->address, c->port, AF_UNSPEC, resolved, c,
		                        &c->resolve);
	if (rc < 0) {
		l7mp_ws_conn_free(c);
		return l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "WebSocket: %s: %s", p->address,
		                      l7mp_errno_text(rc));
	}
	*out = &c->base;
	return 0;
}
