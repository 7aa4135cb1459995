/* SPDX-License-Identifier: MIT */
/* Heads and error bodies of HTTP responses. Thread: any. */
#pragma once

#include "l7mp/json.h"

/* Returns the standard phrase of a status ("Not Found"); "Unknown" when it has none. Static. */
const char *l7mp_http_phrase(int status);
/*
 * Returns {"status", "message", "content"} as text; heap; NULL: no memory. `content` may be NULL.
 */
char *l7mp_http_error_body(int status, const char *content);

/* The head of a response, as given by the route. */
struct l7mp_http_reply {
	int status;
	char *headers;    /* "Name: value\r\n" each; without framing and Connection */
	long long length; /* the requested Content-Length; -1: none */
};
/*
 * From the attributes of a response's first buffer, {"HTTP": {"status", "headers"}}. Fields for
 * framing or the connection are omitted, control bytes in values become blanks, an invalid status
 * becomes 502. The default of Content-Type is application/octet-stream. Heap; NULL: no memory.
 */
struct l7mp_http_reply *l7mp_http_reply_new(const cJSON *meta);
void l7mp_http_reply_free(struct l7mp_http_reply *r); /* NULL is allowed */

/*
 * A cache of the time in the format of the field Date (RFC 9110, section 5.6.7); updated once per
 * second.
 */
struct l7mp_http_date {
	long long second;
	char text[32];
};
const char *l7mp_http_date_now(struct l7mp_http_date *d);
