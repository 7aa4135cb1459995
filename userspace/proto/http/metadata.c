/* SPDX-License-Identifier: MIT */
/* Metadata of a session from a request's head. */
#include "metadata.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/util.h"

static bool is_utf8(const char *text)
{
	size_t n = strlen(text), step;
	uint32_t cp;

	for (size_t i = 0; i < n; i += step) {
		step = (unsigned char)text[i] < 0x80 ? 1 : l7mp_utf8_decode(text + i, n - i, &cp);
		if (!step)
			return false;
	}
	return true;
}

/* Converts text that is not UTF-8 as Latin-1, because JSON must be UTF-8. Heap. */
static char *from_latin1(const char *text)
{
	char *out = malloc(2 * strlen(text) + 1), *p = out;

	if (!out)
		return NULL;
	for (const unsigned char *s = (const unsigned char *)text; *s; s++) {
		if (*s < 0x80) {
			*p++ = (char)*s;
			continue;
		}
		*p++ = (char)(0xc0 | (*s >> 6));
		*p++ = (char)(0x80 | (*s & 0x3f));
	}
	*p = '\0';
	return out;
}

int l7mp_http_add_text(cJSON *object, const char *key, const char *text)
{
	char *clean;
	int rc;

	if (is_utf8(text))
		return l7mp_json_add_str(object, key, text);
	clean = from_latin1(text);
	rc = clean ? l7mp_json_add_str(object, key, clean) : -ENOMEM;
	free(clean);
	return rc;
}

/* ---- headers ---- */

/* Joins a field with its previous occurrences in `headers`. */
static int join(cJSON *headers, const struct l7mp_http_field *f, const cJSON *old)
{
	char *value = is_utf8(f->value) ? NULL : from_latin1(f->value);
	char *joined = l7mp_asprintf("%s%s%s", old->valuestring,
	                             strcmp(f->name, "cookie") == 0 ? "; " : ", ",
	                             value ? value : f->value);
	cJSON *item = joined ? cJSON_CreateString(joined) : NULL;

	free(joined);
	free(value);
	if (!item)
		return -ENOMEM;
	cJSON_ReplaceItemInObjectCaseSensitive(headers, f->name, item);
	return 0;
}

static int add_headers(cJSON *http, const struct l7mp_http_fields *fields)
{
	cJSON *headers = cJSON_AddObjectToObject(http, "headers");

	for (size_t i = 0; headers && i < fields->n; i++) {
		const struct l7mp_http_field *f = &fields->at[i];
		const cJSON *old = l7mp_json_member(headers, f->name);
		int rc = old ? join(headers, f, old)
		             : l7mp_http_add_text(headers, f->name, f->value);

		if (rc)
			return rc;
	}
	return headers ? 0 : -ENOMEM;
}

/* ---- url ---- */

/* Splits "host:port": the host without brackets, and the port, 0 if absent. */
static void split_authority(const char *text, char *host, size_t size, unsigned *port)
{
	const char *end = *text == '[' ? strchr(text, ']') : NULL;
	const char *colon = strrchr(end ? end : text, ':');
	size_t n;

	*port = colon ? (unsigned)strtoul(colon + 1, NULL, 10) : 0;
	if (end)
		text++;
	else
		end = colon ? colon : text + strlen(text);
	n = (size_t)(end - text) < size ? (size_t)(end - text) : size - 1;
	memcpy(host, text, n);
	host[n] = '\0';
}

/* Adds the members that need allocated memory. */
static int add_target(cJSON *url, const struct l7mp_http_request *req, const char *scheme,
                      const char *authority)
{
	const char *mark = req->query ? "?" : "", *query = req->query ? req->query : "";
	char *target = l7mp_asprintf("%s%s%s", req->path, mark, query);
	char *href = target ? l7mp_asprintf("%s://%s%s", scheme, authority,
	                                    req->form == L7MP_HTTP_ASTERISK ? "" : target)
	                    : NULL;
	int rc = -ENOMEM;

	if (href)
		rc = l7mp_json_add_str(url, "url", target) | l7mp_json_add_str(url, "href", href);
	free(target);
	free(href);
	return rc;
}

static int add_url(cJSON *http, const struct l7mp_http_request *req, const char *scheme,
                   const struct l7mp_addr *local)
{
	cJSON *url = cJSON_AddObjectToObject(http, "url");
	const char *authority = req->authority;
	char self[L7MP_ADDR_STRLEN], host[256];
	unsigned port;
	int rc;

	if (!*authority) {
		authority = l7mp_addr_family(local) == AF_UNIX ? "localhost"
		                                               : l7mp_addr_str(local, self);
	}
	split_authority(authority, host, sizeof(host), &port);
	if (!port && l7mp_addr_family(local) != AF_UNIX)
		port = l7mp_addr_port(local);
	rc = add_target(url, req, scheme, authority);
	rc |= l7mp_json_add_str(url, "protocol", scheme);
	rc |= l7mp_json_add_str(url, "host", host);
	rc |= l7mp_json_add_num(url, "port", port);
	rc |= l7mp_json_add_str(url, "path", req->path);
	rc |= l7mp_json_add_str(url, "query", req->query ? req->query : "");
	return rc;
}

cJSON *l7mp_http_request_metadata(const struct l7mp_http_request *req, const char *scheme,
                                  const struct l7mp_addr *local)
{
	cJSON *http = cJSON_CreateObject();
	int rc = l7mp_json_add_str(http, "version", req->minor ? "1.1" : "1.0");

	rc |= l7mp_json_add_str(http, "method", req->method);
	if (!rc && !add_url(http, req, scheme, local) && !add_headers(http, &req->fields))
		return http;
	cJSON_Delete(http);
	return NULL;
}
