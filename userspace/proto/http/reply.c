/* SPDX-License-Identifier: MIT */
/* Heads and error bodies of HTTP responses (RFC 9110). */
#include "reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "head.h"
#include "l7mp/util.h"
#include "metadata.h"

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
	    l7mp_http_add_text(o, "content", content ? content : "") == 0)
		text = l7mp_json_print(o, L7MP_JSON_PLAIN);
	cJSON_Delete(o);
	return text;
}

const char *l7mp_http_date_now(struct l7mp_http_date *d)
{
	static const char days[] = "SunMonTueWedThuFriSat";
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	time_t now = time(NULL);
	struct tm tm;

	if (d->second == (long long)now)
		return d->text;
	d->second = (long long)now;
	gmtime_r(&now, &tm);
	snprintf(d->text, sizeof(d->text), "%.3s, %02u %.3s %04u %02u:%02u:%02u GMT",
	         days + 3 * (tm.tm_wday % 7), (unsigned)tm.tm_mday % 100,
	         months + 3 * (tm.tm_mon % 12), (unsigned)(tm.tm_year + 1900) % 10000,
	         (unsigned)tm.tm_hour % 100, (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100);
	return d->text;
}

/* The listener sets the fields for framing and the connection itself. */
static bool is_hop_by_hop(const char *name)
{
	static const char *const names[] = {"transfer-encoding", "connection", "keep-alive",
	                                    "upgrade",           "trailer",    "te"};

	for (size_t i = 0; i < L7MP_ARRAY_SIZE(names); i++)
		if (strcasecmp(name, names[i]) == 0)
			return true;
	return false;
}

static void add_field(struct l7mp_http_reply *r, struct l7mp_str *text, const cJSON *h, bool *typed)
{
	char number[32];
	const char *value = h->valuestring;

	if (cJSON_IsNumber(h)) {
		snprintf(number, sizeof(number), "%.15g", h->valuedouble);
		value = number;
	}
	if (!value || !h->string || !l7mp_http_is_token(h->string) || is_hop_by_hop(h->string))
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
		add_field(r, &text, h, &typed);
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
