/* SPDX-License-Identifier: MIT */
/* HTTP heads as JSON and text: metadata, error bodies, response heads (RFC 9110, RFC 9112). Thread: any. */
#include "http_int.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "l7mp/util.h"

/* ---- text ---- */

/* Length of the UTF-8 sequence at s, 0 when it is none (RFC 3629). */
static size_t utf8_len(const unsigned char *s)
{
	static const struct {
		unsigned char first, last, low, high;
		size_t len;
	} forms[] = {
	        {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
	        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3},
	        {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
	        {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
	};

	if (s[0] < 0x80)
		return 1;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(forms); i++) {
		if (s[0] < forms[i].first || s[0] > forms[i].last)
			continue;
		if (s[1] < forms[i].low || s[1] > forms[i].high)
			return 0;
		for (size_t k = 2; k < forms[i].len; k++)
			if ((s[k] & 0xc0) != 0x80)
				return 0;
		return forms[i].len;
	}
	return 0;
}

/* JSON text must be UTF-8; what is not is taken as Latin-1. Heap. */
static char *utf8_text(const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	struct l7mp_str out = {0};
	bool valid = true;

	l7mp_str_addn(&out, "", 0);
	for (size_t i = 0, n; valid && s[i]; i += n) {
		n = utf8_len(s + i);
		valid = n > 0;
	}
	if (valid) {
		l7mp_str_add(&out, text);
	} else {
		for (size_t i = 0; s[i]; i++) {
			char two[2] = {(char)(0xc0 | (s[i] >> 6)), (char)(0x80 | (s[i] & 0x3f))};

			if (s[i] < 0x80)
				l7mp_str_addn(&out, s + i, 1);
			else
				l7mp_str_addn(&out, two, 2);
		}
	}
	if (!out.s && !out.oom)
		return strdup("");
	return l7mp_str_take(&out);
}

static int add_text(cJSON *object, const char *key, const char *text)
{
	char *clean = utf8_text(text);
	int rc = clean ? l7mp_json_add_str(object, key, clean) : -1;

	free(clean);
	return rc;
}

const char *l7mp_http_phrase(int status)
{
	static const struct {
		int status;
		const char *phrase;
	} phrases[] = {
	        {100, "Continue"},
	        {101, "Switching Protocols"},
	        {200, "OK"},
	        {201, "Created"},
	        {202, "Accepted"},
	        {204, "No Content"},
	        {206, "Partial Content"},
	        {301, "Moved Permanently"},
	        {302, "Found"},
	        {303, "See Other"},
	        {304, "Not Modified"},
	        {307, "Temporary Redirect"},
	        {308, "Permanent Redirect"},
	        {400, "Bad Request"},
	        {401, "Unauthorized"},
	        {403, "Forbidden"},
	        {404, "Not Found"},
	        {405, "Method Not Allowed"},
	        {406, "Not Acceptable"},
	        {408, "Request Timeout"},
	        {409, "Conflict"},
	        {410, "Gone"},
	        {411, "Length Required"},
	        {412, "Precondition Failed"},
	        {413, "Content Too Large"},
	        {414, "URI Too Long"},
	        {415, "Unsupported Media Type"},
	        {417, "Expectation Failed"},
	        {422, "Unprocessable Content"},
	        {426, "Upgrade Required"},
	        {429, "Too Many Requests"},
	        {431, "Request Header Fields Too Large"},
	        {500, "Internal Server Error"},
	        {501, "Not Implemented"},
	        {502, "Bad Gateway"},
	        {503, "Service Unavailable"},
	        {504, "Gateway Timeout"},
	        {505, "HTTP Version Not Supported"},
	};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(phrases); i++)
		if (phrases[i].status == status)
			return phrases[i].phrase;
	return "Unknown";
}

char *l7mp_http_error_body(int status, const char *content)
{
	cJSON *o = cJSON_CreateObject();
	char *text = NULL;

	if (o && l7mp_json_add_num(o, "status", status) == 0 &&
	    l7mp_json_add_str(o, "message", l7mp_http_phrase(status)) == 0 &&
	    add_text(o, "content", content ? content : "") == 0)
		text = l7mp_json_print(o, L7MP_JSON_PLAIN);
	cJSON_Delete(o);
	return text;
}

/* ---- metadata ---- */

/* One header into the object; the names in it are lower case. */
static int add_header(cJSON *headers, const struct l7mp_http_header *h)
{
	char *name = utf8_text(h->name);
	const cJSON *old;
	char *joined;
	int rc = -1;

	if (!name)
		return -1;
	for (char *p = name; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	old = l7mp_json_member(headers, name);
	if (!old) {
		rc = add_text(headers, name, h->value);
	} else {
		char *value = utf8_text(h->value);

		joined = value ? l7mp_asprintf("%s%s%s", old->valuestring,
		                               strcmp(name, "cookie") == 0 ? "; " : ", ", value)
		               : NULL;
		cJSON *item = joined ? cJSON_CreateString(joined) : NULL;

		if (item) {
			cJSON_ReplaceItemInObjectCaseSensitive(headers, name, item);
			rc = 0;
		}
		free(joined);
		free(value);
	}
	free(name);
	return rc;
}

/* "host:port" in two: host (brackets kept off) and port, 0 when none is given. */
static void split_host(const char *text, char *host, size_t size, int *port)
{
	const char *end, *colon;
	size_t n;

	*port = 0;
	if (text[0] == '[' && (end = strchr(text, ']'))) {
		text++;
		colon = end[1] == ':' ? end + 1 : NULL;
	} else {
		colon = strrchr(text, ':');
		end = colon ? colon : text + strlen(text);
	}
	if (colon)
		*port = (int)strtol(colon + 1, NULL, 10);
	n = (size_t)(end - text);
	if (n >= size)
		n = size - 1;
	memcpy(host, text, n);
	host[n] = '\0';
}

static int add_url(cJSON *http, const struct l7mp_http_head *head, const struct l7mp_addr *local)
{
	cJSON *url = cJSON_AddObjectToObject(http, "url");
	const char *authority = NULL;
	char self[L7MP_ADDR_STRLEN], host[256];
	char *target, *href;
	int port, rc = -1;

	for (size_t i = 0; i < head->n_headers && !authority; i++)
		if (strcasecmp(head->headers[i].name, "host") == 0 && head->headers[i].value[0])
			authority = head->headers[i].value;
	if (!authority)
		authority = l7mp_addr_str(local, self);
	split_host(authority, host, sizeof(host), &port);
	if (port <= 0 || port > 65535)
		port = l7mp_addr_port(local);
	target = l7mp_asprintf("%s%s%s", head->path, head->query ? "?" : "",
	                       head->query ? head->query : "");
	href = target ? l7mp_asprintf("%s://%s%s", head->scheme, authority, target) : NULL;
	if (url && href && add_text(url, "url", target) == 0 && add_text(url, "href", href) == 0 &&
	    l7mp_json_add_str(url, "protocol", head->scheme) == 0 &&
	    add_text(url, "host", host) == 0 && l7mp_json_add_num(url, "port", port) == 0 &&
	    add_text(url, "path", head->path) == 0 &&
	    add_text(url, "query", head->query ? head->query : "") == 0)
		rc = 0;
	free(target);
	free(href);
	return rc;
}

cJSON *l7mp_http_metadata(const struct l7mp_http_head *head, const struct l7mp_addr *local)
{
	cJSON *http = cJSON_CreateObject();
	cJSON *headers;

	if (!http || l7mp_json_add_str(http, "version", head->version) < 0 ||
	    add_text(http, "method", head->method) < 0 || add_url(http, head, local) < 0)
		goto fail;
	headers = cJSON_AddObjectToObject(http, "headers");
	if (!headers)
		goto fail;
	for (size_t i = 0; i < head->n_headers; i++)
		if (add_header(headers, &head->headers[i]) < 0)
			goto fail;
	return http;
fail:
	cJSON_Delete(http);
	return NULL;
}

/* ---- response heads ---- */

static bool is_token(const char *s)
{
	if (!*s)
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr("!#$%&'*+-.^_`|~", *s))
			return false;
	return true;
}

/* Framing and the connection are ours to say. */
static bool is_ours(const char *name)
{
	static const char *const ours[] = {"transfer-encoding", "connection", "keep-alive",
	                                   "upgrade",           "trailer",    "te"};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(ours); i++)
		if (strcasecmp(name, ours[i]) == 0)
			return true;
	return false;
}

static void reply_header(struct l7mp_http_reply *r, struct l7mp_str *text, const cJSON *h,
                         bool *typed)
{
	char number[32];
	const char *value = h->valuestring;

	if (cJSON_IsNumber(h)) {
		snprintf(number, sizeof(number), "%.15g", h->valuedouble);
		value = number;
	}
	if (!value || !h->string || !is_token(h->string) || is_ours(h->string))
		return;
	if (strcasecmp(h->string, "content-length") == 0) {
		r->length = strtoll(value, NULL, 10);
		return;
	}
	if (strcasecmp(h->string, "content-type") == 0)
		*typed = true;
	l7mp_str_addf(text, "%s: ", h->string);
	for (; *value; value++) /* a line break would begin another header */
		l7mp_str_addn(text, (unsigned char)*value < 0x20 ? " " : value, 1);
	l7mp_str_add(text, "\r\n");
}

struct l7mp_http_reply *l7mp_http_reply_new(const cJSON *meta)
{
	const cJSON *http = l7mp_json_member(meta, "HTTP");
	const cJSON *headers = l7mp_json_member(http, "headers");
	struct l7mp_http_reply *r = calloc(1, sizeof(*r));
	struct l7mp_str text = {0};
	bool typed = false;
	const cJSON *h;

	if (!r)
		return NULL;
	r->status = (int)l7mp_json_num(http, "status", 200);
	if (r->status < 200 || r->status > 999)
		r->status = 502;
	r->length = -1;
	cJSON_ArrayForEach (h, headers)
		reply_header(r, &text, h, &typed);
	if (!typed)
		l7mp_str_add(&text, "Content-Type: application/octet-stream\r\n");
	r->headers = l7mp_str_take(&text);
	if (!r->headers) {
		free(r);
		return NULL;
	}
	return r;
}

void l7mp_http_reply_free(struct l7mp_http_reply *r)
{
	if (!r)
		return;
	free(r->headers);
	free(r);
}
