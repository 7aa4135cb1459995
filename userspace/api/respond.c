/* SPDX-License-Identifier: MIT */
/* Responses: the only code that maps an error to an HTTP status. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api_int.h"

static int status_of(enum l7mp_code code)
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

	api_response_clear(rs);
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

void api_text(struct api_response *rs, char *text, const char *type)
{
	if (!text) {
		api_fail(rs, 500, "out of memory");
		return;
	}
	free(rs->text);
	rs->text = text;
	rs->text_len = strlen(text);
	rs->content_type = type;
	rs->status = 200;
}

void api_streamed(struct api_response *rs, struct api_stream *stream, const char *type)
{
	if (!stream) {
		api_fail(rs, 500, "out of memory");
		return;
	}
	rs->stream = stream;
	rs->content_type = type;
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
		api_fail(rs, status_of(err->code), "line %d: %s", err->line, text);
	else
		api_fail(rs, err->code ? status_of(err->code) : 500, "%s", text);
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
	/* Put the first issue into the message, for clients that read only that. */
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

void api_print(struct api_response *rs, enum l7mp_json_format format)
{
	if (rs->text || rs->stream || !rs->json)
		return;
	rs->text = l7mp_json_print(rs->json, format);
	rs->text_len = rs->text ? strlen(rs->text) : 0;
	/* TERSE omits quotes: the result is not JSON. */
	rs->content_type = api_json_type(format);
	cJSON_Delete(rs->json);
	rs->json = NULL;
}

const char *api_json_type(enum l7mp_json_format format)
{
	return format == L7MP_JSON_TERSE ? "text/plain; charset=utf-8" : "application/json";
}

void api_each_header(const struct api_response *rs,
                     void (*cb)(void *arg, const char *name, const char *value), void *arg)
{
	cb(arg, "Content-Type", rs->content_type ? rs->content_type : "application/json");
	cb(arg, "Cache-Control", rs->revalidate ? "no-cache" : "no-store");
	cb(arg, "X-Content-Type-Options", "nosniff");
	if (*rs->etag)
		cb(arg, "ETag", rs->etag);
	for (const char *const *h = rs->extra; h && *h; h += 2)
		cb(arg, h[0], h[1]);
	if (rs->link)
		cb(arg, "Link", rs->link);
	if (*rs->allow)
		cb(arg, "Allow", rs->allow);
	if (rs->challenge)
		cb(arg, "WWW-Authenticate", "Bearer realm=\"l7mp\"");
	if (rs->retry)
		cb(arg, "Retry-After", "1");
}

void api_response_clear(struct api_response *rs)
{
	cJSON_Delete(rs->json);
	free(rs->text);
	free(rs->link);
	if (rs->stream)
		rs->stream->free(rs->stream);
	memset(rs, 0, sizeof(*rs));
}
