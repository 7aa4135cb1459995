/* SPDX-License-Identifier: MIT */
/*
 * Access control. Without a token only clients on this host are allowed. Three conditions are
 * checked: the source address is one of this host; the connection was not made by a cluster of this
 * proxy for another client; and the request names this host. The last one is against web pages: a
 * page whose name was rebound to 127.0.0.1 sends a foreign Host, and a page that posts to the API
 * sends a foreign Origin. With a token: clients that send it.
 */
#include <string.h>
#include <strings.h>

#include "api_int.h"
#include "l7mp/addr.h"

int l7mp_api_set_token_file(struct l7mp_api *api, const char *path, struct l7mp_error *err)
{
	return api_token_set_file(api->token, path, err);
}

/* Finds the source address of a request, through all listeners of this proxy; len 0: no address. */
static void find_source(struct l7mp_api *api, const struct api_client *client,
                        struct l7mp_addr *out)
{
	if (client->session)
		api_origin_source_of_session(api->origins, client->session, out);
	else
		api_origin_source_of_connection(api->origins, &client->peer, &client->local, out);
}

/* Returns the client's origin. Called once for each request: see api_origin_of_connection. */
static enum l7mp_origin origin_of(struct l7mp_api *api, const struct api_client *client)
{
	if (api->origin)
		return api->origin(api, client);
	if (client->session)
		return api_origin_of_session(api->origins, client->session);
	return api_origin_of_connection(api->origins, &client->peer, &client->local);
}

static int refuse_token(struct api_response *rs)
{
	api_fail(rs, 401,
	         "expected the header 'Authorization: Bearer TOKEN' with the token of "
	         "this proxy (admin.api_token_file)");
	rs->challenge = true;
	return 401;
}

static int check_token(struct l7mp_api *api, const struct api_client *client, const cJSON *metadata,
                       struct api_response *rs)
{
	const char *authorization = api_header(metadata, "authorization");
	bool local = origin_of(api, client) == L7MP_ORIGIN_LOCAL;
	struct l7mp_addr source = client->peer;

	find_source(api, client, &source);
	switch (api_token_check(api->token, authorization, &source, local)) {
	case API_TOKEN_RIGHT:
		return 0;
	case API_TOKEN_TOO_OFTEN:
		api_fail(rs, 429, "too many wrong tokens came from this address");
		rs->retry = true;
		return 429;
	case API_TOKEN_WRONG:
		break;
	}
	return refuse_token(rs);
}

/* Whether this is "", or ":" and digits. */
static bool is_port(const char *s)
{
	return !*s || (*s == ':' && !s[1 + strspn(s + 1, "0123456789")]);
}

/*
 * Copies the host of "host", "host:port", "[v6]:port" into buf; false for anything else, such as a
 * repeated header ("localhost:1234, example.org").
 */
static bool host_part(const char *text, char *buf, size_t size)
{
	size_t len;

	if (*text == '[') {
		text++;
		len = strcspn(text, "]");
		if (text[len] != ']' || !is_port(text + len + 1))
			return false;
	} else {
		len = strcspn(text, ":");
		if (!is_port(text + len))
			return false;
	}
	if (!len || len >= size)
		return false;
	memcpy(buf, text, len);
	buf[len] = '\0';
	return true;
}

bool api_host_is_local(const struct l7mp_api *api, const char *host)
{
	char name[256];
	struct l7mp_addr addr;
	size_t len, label;

	if (!host_part(host, name, sizeof(name)))
		return false;
	if (!l7mp_addr_parse(&addr, name, 0))
		return api_host_has(api->net, &addr);
	len = strlen(name);
	if (len > 1 && name[len - 1] == '.')
		name[--len] = '\0';
	if (!strcasecmp(name, "localhost"))
		return true;
	if (!*api->host)
		return false;
	label = strcspn(api->host, ".");
	return !strcasecmp(name, api->host) ||
	       (len == label && !strncasecmp(name, api->host, label));
}

/* "http://localhost:8080"; "null" is what browsers send for opaque origins. */
static bool origin_is_local(const struct l7mp_api *api, const char *origin)
{
	const char *host = strstr(origin, "://");

	return host && api_host_is_local(api, host + 3);
}

/* Returns why such a client is not answered without a token; NULL: it is answered. */
static const char *refusal_of(enum l7mp_origin origin)
{
	switch (origin) {
	case L7MP_ORIGIN_LOCAL:
		return NULL;
	case L7MP_ORIGIN_REMOTE:
		return "the request does not come from this host";
	case L7MP_ORIGIN_RELAYED:
		return "the request comes through l7mp, from a client that is not known to "
		       "be on this host";
	case L7MP_ORIGIN_GONE:
		return "the client is gone";
	case L7MP_ORIGIN_UNKNOWN:
		break;
	}
	return "where the request comes from is not known";
}

/* Whether the request only reads, has no token, and needs none from a client on this host. */
static bool reads_without_token(const struct l7mp_api *api, const cJSON *metadata)
{
	const char *method = l7mp_json_str(l7mp_json_member(metadata, "HTTP"), "method", "GET");

	return l7mp_model_admin(api->params.model)->read_without_token &&
	       !api_header(metadata, "authorization") &&
	       (!strcmp(method, "GET") || !strcmp(method, "HEAD"));
}

int api_authorize_page(struct l7mp_api *api, const struct api_client *client, const cJSON *metadata,
                       struct api_response *rs)
{
	return api_token_is_set(api->token) ? 0 : api_authorize(api, client, metadata, rs);
}

int api_authorize(struct l7mp_api *api, const struct api_client *client, const cJSON *metadata,
                  struct api_response *rs)
{
	const char *why, *host, *origin;

	if (api_token_is_set(api->token) && !reads_without_token(api, metadata))
		return check_token(api, client, metadata, rs);
	why = refusal_of(origin_of(api, client));
	host = api_header(metadata, "host");
	origin = api_header(metadata, "origin");
	if (!why && host && !api_host_is_local(api, host))
		why = "the Host header does not name this host";
	if (!why && origin && !origin_is_local(api, origin))
		why = "the Origin header does not name this host";
	if (!why)
		return 0;
	if (api_token_is_set(api->token))
		return refuse_token(rs);
	api_fail(rs, 403, "%s; set admin.api_token_file to allow others", why);
	return 403;
}
