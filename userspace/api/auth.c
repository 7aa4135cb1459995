/* SPDX-License-Identifier: MIT */
/*
 * Who is answered. Without a token: only clients on this host, that is a source
 * address of this host, a connection that none of our own clusters made for
 * somebody else, and a request that names this host (a web page whose name was
 * rebound to 127.0.0.1 has a foreign Host; one that posts to us has a foreign
 * Origin). With a token: whoever has it.
 */
#include <ctype.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "api_int.h"
#include "l7mp/addr.h"
#include "l7mp/log.h"

#define TOKEN_MAX 4096

static char *trim(char *s)
{
	size_t n;

	while (isspace((unsigned char)*s))
		s++;
	n = strcspn(s, "\r\n");
	while (n && isspace((unsigned char)s[n - 1]))
		n--;
	s[n] = '\0';
	return s;
}

/* *out is heap; *token points into it. */
static int read_token(const char *path, char **out, char **token)
{
	size_t len;
	int rc = l7mp_read_file(path, TOKEN_MAX, out, &len);

	if (rc)
		return rc;
	*token = trim(*out);
	if (**token)
		return 0;
	free(*out);
	return -ENODATA;
}

int l7mp_api_set_token_file(struct l7mp_api *api, const char *path, struct l7mp_error *err)
{
	char *copy = NULL;

	if (path) {
		char *text, *token;
		int rc = read_token(path, &text, &token);

		if (rc)
			return l7mp_error_set(err, rc, L7MP_ERR_REALISE,
			                      "admin.api_token_file: '%s': %s", path,
			                      rc == -ENODATA ? "expected a token, the file is empty"
			                                     : strerror(-rc));
		OPENSSL_cleanse(text, strlen(text));
		free(text);
		copy = strdup(path);
		if (!copy)
			return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	free(api->token_file);
	api->token_file = copy;
	return 0;
}

/* Of hashes, so that neither bytes nor length show in the time that it takes. */
static bool equal_secret(const char *a, const char *b)
{
	unsigned char ha[EVP_MAX_MD_SIZE], hb[EVP_MAX_MD_SIZE];
	unsigned na = 0, nb = 0;

	if (!EVP_Digest(a, strlen(a), ha, &na, EVP_sha256(), NULL) ||
	    !EVP_Digest(b, strlen(b), hb, &nb, EVP_sha256(), NULL))
		return false;
	return na == nb && CRYPTO_memcmp(ha, hb, na) == 0;
}

static int check_token(struct l7mp_api *api, const cJSON *metadata, struct api_response *rs)
{
	const char *given = api_header(metadata, "authorization");
	char *text, *token;
	bool same = false;
	int rc = read_token(api->token_file, &text, &token);

	if (rc) {
		uint32_t left_out;

		if (l7mp_log_allowed(&api->token_log, l7mp_loop_now(api->params.env->loop), 60000,
		                     1, &left_out))
			l7mp_log_error("api", "'%s' can't be used, every request is refused: %s",
			               api->token_file, strerror(-rc));
	} else {
		if (given && !strncasecmp(given, "Bearer ", 7))
			same = equal_secret(given + 7 + strspn(given + 7, " "), token);
		OPENSSL_cleanse(text, strlen(text));
		free(text);
	}
	if (same)
		return 0;
	api_fail(rs, 401,
	         "expected the header 'Authorization: Bearer TOKEN' with the token of "
	         "this proxy (admin.api_token_file)");
	rs->challenge = true;
	return 401;
}

/* "", or ":" and digits. */
static bool is_port(const char *s)
{
	return !*s || (*s == ':' && !s[1 + strspn(s + 1, "0123456789")]);
}

/*
 * The host of "host", "host:port", "[v6]:port" into buf; false for anything else,
 * such as a header that came twice ("localhost:1234, example.org").
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

const char *api_foreign(struct l7mp_api *api, const struct api_client *client)
{
	if (client->session)
		return api_origin_of_session(api->origins, client->session);
	return api_origin_of_connection(api->origins, &client->peer, &client->local);
}

int api_authorize(struct l7mp_api *api, const struct api_client *client, const cJSON *metadata,
                  struct api_response *rs)
{
	const char *why, *host, *origin;

	if (api->token_file)
		return check_token(api, metadata, rs);
	why = api->foreign(api, client);
	host = api_header(metadata, "host");
	origin = api_header(metadata, "origin");
	if (!why && host && !api_host_is_local(api, host))
		why = "the Host header does not name this host";
	if (!why && origin && !origin_is_local(api, origin))
		why = "the Origin header does not name this host";
	if (!why)
		return 0;
	api_fail(rs, 403, "%s; set admin.api_token_file to allow others", why);
	return 403;
}
