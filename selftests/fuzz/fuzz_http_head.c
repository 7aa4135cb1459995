/* SPDX-License-Identifier: MIT */
/*
 * The reader and parser of HTTP heads, and the decoder of chunked bodies. The first byte says where
 * the input is cut.
 */
#include "fuzz.h"

#include <stdbool.h>

#include "proto/http/chunked.h"
#include "proto/http/head.h"

/* What is in a field can't end a line or begin another. */
static void check_fields(const struct l7mp_http_fields *fields)
{
	FUZZ_CHECK(fields->n <= L7MP_HTTP_FIELDS_MAX);
	for (size_t i = 0; i < fields->n; i++) {
		const char *name = fields->at[i].name, *value = fields->at[i].value;
		size_t n = strlen(value);

		FUZZ_CHECK(l7mp_http_is_token(name));
		FUZZ_CHECK(!strpbrk(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"));
		FUZZ_CHECK(!strpbrk(value, "\r\n"));
		FUZZ_CHECK(!n || (!strchr(" \t", value[0]) && !strchr(" \t", value[n - 1])));
	}
}

static void check_request(const struct l7mp_http_request *req)
{
	check_fields(&req->fields);
	FUZZ_CHECK(l7mp_http_is_token(req->method));
	FUZZ_CHECK(!(req->chunked && req->has_length));
	FUZZ_CHECK(req->length <= INT64_MAX && (req->has_length || !req->length));
	FUZZ_CHECK(req->minor <= 1 && (req->minor || !req->chunked));
	FUZZ_CHECK(l7mp_http_field_count(&req->fields, "host") == 1 || !req->minor);
	FUZZ_CHECK(l7mp_http_field_count(&req->fields, "content-length") == req->has_length);
	FUZZ_CHECK(l7mp_http_field_count(&req->fields, "transfer-encoding") == req->chunked);
	FUZZ_CHECK(req->path && req->authority && !strpbrk(req->path, " ?#"));
}

/*
 * The data of a body, decoded from pieces of at most `step` bytes, go to `out`. The decoder's last
 * verdict.
 */
static int decode(const char *data, size_t len, size_t step, char *out, size_t *n, size_t *taken)
{
	struct l7mp_http_chunked c = {0};
	struct l7mp_http_refusal why = {0};
	int rc = 0;

	*n = *taken = 0;
	while (*taken < len && rc == 0) {
		size_t piece = step < len - *taken ? step : len - *taken, used = 0, got = 0;
		const char *body = NULL;

		rc = l7mp_http_chunked_next(&c, data + *taken, piece, &used, &body, &got, &why);
		FUZZ_CHECK(rc >= 0 || (why.status >= 400 && why.why));
		if (rc < 0)
			break;
		FUZZ_CHECK(used > 0 && used <= piece && got <= used);
		memcpy(out + *n, body, got);
		*n += got;
		*taken += used;
	}
	return rc;
}

/* Cut in pieces or not, a body is the same. */
static void check_body(const char *data, size_t len, size_t step)
{
	char *one = malloc(len + 1), *two = malloc(len + 1);
	size_t n, m, taken, again;
	int rc = decode(data, len, len, one, &n, &taken);

	FUZZ_CHECK(decode(data, len, step, two, &m, &again) == rc);
	FUZZ_CHECK(rc < 0 || (n == m && taken == again && memcmp(one, two, n) == 0));
	free(one);
	free(two);
}

/* Reads the head in two pieces; 1 with a copy of it, or what the reader said. */
static int read_head(char *data, size_t len, size_t cut, bool response, char **head, size_t *n,
                     size_t *behind)
{
	struct l7mp_http_reader r;
	struct l7mp_http_refusal why = {0};
	char *found = NULL;
	size_t used = 0;
	int rc;

	l7mp_http_reader_init(&r, response);
	rc = l7mp_http_reader_feed(&r, data, cut, &used, &found, n, &why);
	*behind = used;
	if (rc == 0) {
		FUZZ_CHECK(used == cut);
		rc = l7mp_http_reader_feed(&r, data + cut, len - cut, &used, &found, n, &why);
		*behind += used;
	}
	FUZZ_CHECK(rc >= 0 || (why.status >= 400 && why.why));
	*head = NULL;
	if (rc > 0) {
		FUZZ_CHECK(*n <= L7MP_HTTP_HEAD_MAX && *behind <= len);
		*head = malloc(*n);
		memcpy(*head, found, *n);
	}
	l7mp_http_reader_reset(&r);
	return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct l7mp_http_request req;
	static struct l7mp_http_response res;
	struct l7mp_http_refusal why = {0};
	char *text, *head, *whole;
	size_t cut, n, m, behind, end;
	bool response;

	if (size < 2)
		return 0;
	response = data[0] & 1;
	text = fuzz_text(data + 1, --size);
	cut = (size_t)(data[0] >> 1) * 7 % (size + 1);
	if (read_head(text, size, cut, response, &head, &n, &behind) > 0) {
		FUZZ_CHECK(read_head(text, size, size, response, &whole, &m, &end) > 0);
		FUZZ_CHECK(n == m && behind == end && memcmp(head, whole, n) == 0);
		free(whole);
		if (!response && l7mp_http_request_parse(head, n, &req, &why) == 0)
			check_request(&req);
		if (response && l7mp_http_response_parse(head, n, &res, &why) == 0)
			check_fields(&res.fields);
		if (behind < size)
			check_body(text + behind, size - behind, 1 + cut % 5);
	}
	free(head);
	free(text);
	return 0;
}
