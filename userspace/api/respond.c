/* SPDX-License-Identifier: MIT */
/* Responses: the only place where an error becomes an HTTP status. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api_int.h"

int api_status_of(enum l7mp_code code)
{
	switch (code) {
	case L7MP_OK:
		return 200;
	case L7MP_ERR_PARSE:
	case L7MP_ERR_REALISE:
		return 400;
	case L7MP_ERR_UNAUTHORIZED:
		return 401;
	case L7MP_ERR_FORBIDDEN:
		return 403;
	case L7MP_ERR_NOT_FOUND:
		return 404;
	case L7MP_ERR_METHOD:
		return 405;
	case L7MP_ERR_EXISTS:
		return 409;
	case L7MP_ERR_TOO_LARGE:
		return 413;
	case L7MP_ERR_MEDIA_TYPE:
		return 415;
	case L7MP_ERR_SCHEMA:
		return 422;
	case L7MP_ERR_INTERNAL:
		return 500;
	case L7MP_ERR_UPSTREAM:
		return 502;
	case L7MP_ERR_LIMIT:
		return 503;
	case L7MP_ERR_TIMEOUT:
		return 504;
	}
	return 500;
}

static void set_message(struct api_response *rs, int status, const char *message)
{
	cJSON *json = cJSON_CreateObject();

	cJSON_Delete(rs->json);
	free(rs->text);
	rs->text = NULL;
	rs->status = status;
	rs->json = json;
	l7mp_json_add_num(json, "status", status);
	l7mp_json_add_str(json, "message", message);
}

void api_ok(struct api_response *rs)
{
	set_message(rs, 200, "OK");
}

void api_json(struct api_response *rs, cJSON *json)
{
	if (!json) {
		api_fail(rs, 500, "out of memory");
		return;
	}
	cJSON_Delete(rs->json);
	rs->json = json;
	rs->status = 200;
}

void api_fail(struct api_response *rs, int status, const char *fmt, ...)
{
	char message[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	set_message(rs, status, message);
	l7mp_json_add(rs->json, "content", cJSON_CreateArray());
}

void api_add_content(struct api_response *rs, const char *path, const char *reason, int line)
{
	cJSON *list = l7mp_json_member(rs->json, "content");
	cJSON *entry = cJSON_CreateObject();

	l7mp_json_add_str(entry, "path", path ? path : "");
	l7mp_json_add_str(entry, "reason", reason ? reason : "");
	if (line)
		l7mp_json_add_num(entry, "line", line);
	if (!list || !entry || !cJSON_AddItemToArray(list, entry))
		cJSON_Delete(entry);
}

void api_fail_error(struct api_response *rs, const struct l7mp_error *err)
{
	char text[sizeof(err->path) + sizeof(err->message) + 4];

	l7mp_error_text(err, text, sizeof(text));
	if (err->line)
		api_fail(rs, api_status_of(err->code), "line %d: %s", err->line, text);
	else
		api_fail(rs, err->code ? api_status_of(err->code) : 500, "%s", text);
	if (*err->path || err->line)
		api_add_content(rs, err->path, err->message, err->line);
}

void api_fail_issues(struct api_response *rs, const struct l7mp_error *err,
                     const struct l7mp_issues *issues)
{
	struct l7mp_error first = {0};
	char text[sizeof(first.path) + sizeof(first.message) + 4];

	if (!issues->errors || err->code != L7MP_ERR_SCHEMA) {
		api_fail_error(rs, err);
		return;
	}
	/* The first of them in the message, for those who read no further. */
	l7mp_issues_first(issues, &first);
	l7mp_error_text(&first, text, sizeof(text));
	if (issues->errors > 1)
		api_fail(rs, 422, "%s (and %zu more)", text, issues->errors - 1);
	else
		api_fail(rs, 422, "%s", text);
	for (size_t i = 0; i < issues->n; i++)
		if (!issues->v[i].warning)
			api_add_content(rs, issues->v[i].path, issues->v[i].reason, 0);
}

static cJSON *make_head(const struct api_response *rs, size_t len, const char *type)
{
	cJSON *meta = cJSON_CreateObject();
	cJSON *http = cJSON_AddObjectToObject(meta, "HTTP");
	cJSON *headers;
	char length[24];

	l7mp_json_add_num(http, "status", rs->status);
	headers = cJSON_AddObjectToObject(http, "headers");
	snprintf(length, sizeof(length), "%zu", len);
	l7mp_json_add_str(headers, "Content-Type", type);
	l7mp_json_add_str(headers, "Content-Length", length);
	l7mp_json_add_str(headers, "Cache-Control", "no-store");
	l7mp_json_add_str(headers, "X-Content-Type-Options", "nosniff");
	if (*rs->allow)
		l7mp_json_add_str(headers, "Allow", rs->allow);
	if (rs->challenge)
		l7mp_json_add_str(headers, "WWW-Authenticate", "Bearer realm=\"l7mp\"");
	if (!headers) {
		cJSON_Delete(meta);
		return NULL;
	}
	return meta;
}

int api_render(struct api_response *rs, enum l7mp_json_format format, bool head, char **text,
               size_t *len, cJSON **meta)
{
	const char *type = rs->content_type;

	*text = rs->text;
	rs->text = NULL;
	if (!*text) {
		*text = l7mp_json_print(rs->json, format);
		/* TERSE leaves out quotes: that is not JSON. */
		type = format == L7MP_JSON_TERSE ? "text/plain; charset=utf-8" : "application/json";
	}
	if (!*text)
		return -ENOMEM;
	*len = strlen(*text);
	*meta = make_head(rs, *len, type);
	if (!*meta) {
		free(*text);
		*text = NULL;
		return -ENOMEM;
	}
	if (head) {
		free(*text);
		*text = NULL;
		*len = 0;
	}
	return 0;
}

void api_response_clear(struct api_response *rs)
{
	cJSON_Delete(rs->json);
	free(rs->text);
	memset(rs, 0, sizeof(*rs));
}
