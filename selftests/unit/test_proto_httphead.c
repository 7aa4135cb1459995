/* SPDX-License-Identifier: MIT */
/*
 * HTTP heads and chunked bodies: what is taken, what is refused, and that it makes no difference
 * where the input is cut. Every input is read whole and cut at every byte.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/util.h"
#include "proto/http/chunked.h"
#include "proto/http/head.h"

#define H "GET / HTTP/1.1\r\nHost: a\r\n"

/* ---- heads ---- */

struct result {
	int status; /* 0: taken; -1: wants more */
	const char *why;
	size_t used; /* of the input */
	struct l7mp_http_request req;
	struct l7mp_http_response res;
};

/*
 * Reads `text` in two pieces of heap memory of exactly their size, so that ASan sees each overrun.
 */
static void read_cut(const char *text, size_t len, size_t cut, bool response, struct result *out)
{
	struct l7mp_http_refusal why = {0};
	struct l7mp_http_reader r;
	size_t begin = 0, used = 0, n;
	char *head;
	int rc = 0;

	memset(out, 0, sizeof(*out));
	l7mp_http_reader_init(&r, response);
	for (size_t end = cut; !rc && begin < len; end = len) {
		char *piece = malloc(end - begin + 1);

		assert_non_null(piece);
		piece = realloc(piece, end > begin ? end - begin : 1);
		memcpy(piece, text + begin, end - begin);
		rc = l7mp_http_reader_feed(&r, piece, end - begin, &used, &head, &n, &why);
		if (rc == 1) {
			out->used = begin + used;
			rc = response ? l7mp_http_response_parse(head, n, &out->res, &why)
			              : l7mp_http_request_parse(head, n, &out->req, &why);
			rc = rc ? -1 : 1;
		}
		if (rc == 1) { /* the strings borrow: only what can be copied is looked at later */
			out->req.method = out->req.method ? strdup(out->req.method) : NULL;
			out->req.path = out->req.path ? strdup(out->req.path) : NULL;
			out->req.authority = out->req.authority ? strdup(out->req.authority) : NULL;
			out->req.query = out->req.query ? strdup(out->req.query) : NULL;
			out->res.reason = out->res.reason ? strdup(out->res.reason) : NULL;
			for (size_t i = 0; i < out->req.fields.n; i++) {
				out->req.fields.at[i].name = strdup(out->req.fields.at[i].name);
				out->req.fields.at[i].value = strdup(out->req.fields.at[i].value);
			}
		}
		free(piece);
		begin = end;
		if (end == len)
			break;
	}
	out->status = rc == 1 ? 0 : rc == 0 ? -1 : why.status;
	out->why = why.why;
	l7mp_http_reader_reset(&r);
}

static void result_free(struct result *r)
{
	if (r->status)
		return;
	free((char *)r->req.method);
	free((char *)r->req.path);
	free((char *)r->req.authority);
	free((char *)r->req.query);
	free((char *)r->res.reason);
	for (size_t i = 0; i < r->req.fields.n; i++) {
		free(r->req.fields.at[i].name);
		free(r->req.fields.at[i].value);
	}
}

static void expect_n(const char *text, size_t len, int status)
{
	static struct result r;
	size_t step = len > 4000 ? len / 97 : 1;

	for (size_t cut = 0; cut <= len; cut += step) {
		read_cut(text, len, cut, false, &r);
		if (r.status != status)
			fail_msg("expected %d, got %d (%s), cut at %zu:\n%.300s", status, r.status,
			         r.why ? r.why : "", cut, text);
		result_free(&r);
	}
}

static void expect(const char *text, int status)
{
	expect_n(text, strlen(text), status);
}

static void requests_taken(void **state)
{
	static const char *const fine[] = {
	        H "\r\n",
	        "\r\n" H "\r\n",
	        "GET / HTTP/1.0\r\n\r\n",
	        "GET /a?b=%zz HTTP/1.1\r\nHost: a:80\r\n\r\n",
	        "GET http://a/x HTTP/1.1\r\nHost: b\r\n\r\n",
	        "GET HTTPS://a?q HTTP/1.1\r\nHost: b\r\n\r\n",
	        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
	        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
	        "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
	        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
	        "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
	        "GET / HTTP/1.9\r\nHost: a\r\n\r\n",
	        "!#$%&'*+-.^_`|~09azAZ / HTTP/1.1\r\nHost: a\r\n\r\n",
	        H "Content-Length: 0\r\n\r\n",
	        H "Content-Length: 9223372036854775807\r\n\r\n",
	        H "Transfer-Encoding: chunked\r\n\r\n",
	        H "Transfer-Encoding:\t Chunked \t\r\n\r\n",
	        H "Expect: 100-Continue\r\n\r\n",
	        H "X: \x80\xff\t\"(\r\nX:\r\n\r\n",
	        H "X: Content-Length: 5\r\n\r\n",
	};

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(fine); i++)
		expect(fine[i], 0);
}

static void requests_refused(void **state)
{
	static const struct {
		int status;
		const char *text;
	} cases[] = {
	        /* the request line */
	        {400, " GET / HTTP/1.1\r\n"},
	        {400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "GET /  HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"},
	        {400, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "GET\t/ HTTP/1.1\r\n"},
	        {400, "GET /\r\n\r\n"},
	        {400, "GET\r\n\r\n"},
	        {400, "GET HTTP/1.1\r\n\r\n"},
	        {400, "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "G\xc9T / HTTP/1.1\r\n"},
	        {400, "\x16\x03\x01"},
	        {400, "\n" H "\r\n"},
	        {400, "\r" H "\r\n"},
	        {400, "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n" H "\r\n"},
	        {400, "GET / HTTP/1.1\n"},
	        {400, "GET / HTTP/1.1\r\r\n"},
	        {400, "GET / http/1.1\r\nHost: a\r\n\r\n"},
	        {400, "GET / HTTP/1.10\r\nHost: a\r\n\r\n"},
	        {400, "GET / HTTP/1\r\nHost: a\r\n\r\n"},
	        {400, "GET / HTTP/+1.1\r\nHost: a\r\n\r\n"},
	        {505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n"},
	        {505, "PRI * HTTP/2.0\r\n\r\n"},
	        {505, "GET / HTTP/0.9\r\n\r\n"},
	        /* targets */
	        {400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "GET x HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "GET /\x80 HTTP/1.1\r\n"},
	        {400, "GET /% HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "GET /%4 HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "GET http://u@a/x HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "GET http://a:b/ HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"},
	        {400, "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"},
	        /* Host */
	        {400, "GET / HTTP/1.1\r\n\r\n"},
	        {400, H "Host: a\r\n\r\n"},
	        {400, "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"},
	        {400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"},
	        {400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"},
	        {400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"},
	        {400, "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n"},
	        {400, "GET / HTTP/1.1\r\nHost: a:-1\r\n\r\n"},
	        {400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"},
	        {400, "GET / HTTP/1.1\r\nHost: :80\r\n\r\n"},
	        /* fields */
	        {400, H "X : y\r\n"},
	        {400, H " X: y\r\n"},
	        {400, H "X: y\r\n z\r\n"},
	        {400, H "X: y\r\n\tz\r\n"},
	        {400, H ": y\r\n"},
	        {400, H "X\r\n"},
	        {400, H "X(: y\r\n"},
	        {400, H "X\x80: y\r\n"},
	        {400, H "X: y\n"},
	        {400, H "X: y\rz"},
	        {400, H "X: \x01\r\n"},
	        {400, H "X: \x7f\r\n"},
	        {400, H "\n"},
	        {400, H "\r\r\n"},
	        /* framing */
	        {400, H "Content-Length: 1\r\nContent-Length: 1\r\n\r\n"},
	        {400, H "Content-Length: 1\r\nContent-Length: 2\r\n\r\n"},
	        {400, H "Content-Length: 1, 1\r\n\r\n"},
	        {400, H "Content-Length: +1\r\n\r\n"},
	        {400, H "Content-Length: -1\r\n\r\n"},
	        {400, H "Content-Length: 1 1\r\n\r\n"},
	        {400, H "Content-Length: 0x1\r\n\r\n"},
	        {400, H "Content-Length:\r\n\r\n"},
	        {400, H "Content-Length: 9223372036854775808\r\n\r\n"},
	        {400, H "Content-Length: 99999999999999999999\r\n\r\n"},
	        {400, H "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"},
	        {400, H "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n"},
	        {400, H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"},
	        {400, H "Transfer-Encoding: chunked, chunked\r\n\r\n"},
	        {400, H "Transfer-Encoding: chunked, gzip\r\n\r\n"},
	        {400, H "Transfer-Encoding: identity\r\n\r\n"},
	        {400, H "Transfer-Encoding:\r\n\r\n"},
	        {400, H "Transfer-Encoding: chunked,\r\n\r\n"},
	        {400, H "Transfer-Encoding: , chunked\r\n\r\n"},
	        {400, H "Transfer-Encoding: chunked;q=1\r\n\r\n"},
	        {400, H "Transfer-Encoding: \"chunked\"\r\n\r\n"},
	        {400, H "Transfer-Encoding: xchunked\r\n\r\n"},
	        {501, H "Transfer-Encoding: gzip, chunked\r\n\r\n"},
	        {400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"},
	        {417, H "Expect: else\r\n\r\n"},
	        {417, H "Expect: 100-continue, 100-continue\r\n\r\n"},
	        {-1, H},
	        {-1, "GET"},
	        {-1, "\r\n\r\n"},
	};

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		expect(cases[i].text, cases[i].status);
	}
	expect_n(H "X: a\0b\r\n\r\n", sizeof(H) - 1 + 10, 400);
	expect_n("GET /\0 HTTP/1.1\r\n", 17, 400);
}

/* Each byte in each place: a name takes tokens only, a value and a target no control bytes. */
static void every_byte(void **state)
{
	static const char tchars[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
	                             "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

	(void)state;
	for (unsigned c = 0; c < 256; c++) {
		char text[128];
		int n = snprintf(text, sizeof(text), H "X_: y\r\n\r\n");
		bool token = c && strchr(tchars, (int)c);

		text[sizeof(H)] = (char)c;
		expect_n(text, (size_t)n, token || c == ':' ? 0 : 400);
		n = snprintf(text, sizeof(text), H "X: a_b\r\n\r\n");
		text[sizeof(H) + 3] = (char)c;
		expect_n(text, (size_t)n, c == '\t' || (c >= ' ' && c != 0x7f) ? 0 : 400);
		n = snprintf(text, sizeof(text), "GET /_ HTTP/1.1\r\nHost: a\r\n\r\n");
		text[5] = (char)c;
		expect_n(text, (size_t)n, c > ' ' && c < 0x7f && c != '#' && c != '%' ? 0 : 400);
		n = snprintf(text, sizeof(text), "G_T / HTTP/1.1\r\nHost: a\r\n\r\n");
		text[1] = (char)c;
		expect_n(text, (size_t)n, token ? 0 : 400);
	}
}

static void limits(void **state)
{
	char *text = malloc(L7MP_HTTP_HEAD_MAX + 200);
	size_t n;

	(void)state;
	assert_non_null(text);
	for (int over = 0; over < 2; over++) {
		strcpy(text, H "X: ");
		n = strlen(text);
		memset(text + n, 'x', L7MP_HTTP_HEAD_MAX);
		n = L7MP_HTTP_HEAD_MAX - 4 + (size_t)over;
		memcpy(text + n, "\r\n\r\n", 4);
		expect_n(text, n + 4, over ? 431 : 0);
	}
	for (int over = 0; over < 2; over++) {
		n = (size_t)sprintf(text, H);
		for (int i = 1; i < L7MP_HTTP_FIELDS_MAX + over; i++)
			n += (size_t)sprintf(text + n, "X%d:y\r\n", i);
		n += (size_t)sprintf(text + n, "\r\n");
		expect_n(text, n, over ? 431 : 0);
	}
	n = (size_t)sprintf(text, "%065d / HTTP/1.1\r\nHost: a\r\n\r\n", 1);
	expect_n(text, n, 501);
	free(text);
}

static void request_parts(void **state)
{
	static const char text[] = "\r\nPUT http://Ex.org:81/a/b%20c?x=1&y=? HTTP/1.1\r\n"
	                           "hOST: other\r\nX-Thing: \t Value \t\r\nCookie: a\r\n"
	                           "X-Thing:\r\nConnection: foo,  Close\r\n"
	                           "Content-Length: 0012\r\nExpect: 100-continue\r\n\r\nrest";
	static struct result r;

	(void)state;
	for (size_t cut = 0; cut < sizeof(text); cut++) {
		read_cut(text, sizeof(text) - 1, cut, false, &r);
		assert_int_equal(r.status, 0);
		assert_int_equal(r.used, sizeof(text) - 1 - 4);
		assert_string_equal(r.req.method, "PUT");
		assert_int_equal(r.req.form, L7MP_HTTP_ABSOLUTE);
		assert_string_equal(r.req.authority, "Ex.org:81");
		assert_string_equal(r.req.path, "/a/b%20c");
		assert_string_equal(r.req.query, "x=1&y=?");
		assert_int_equal(r.req.minor, 1);
		assert_false(r.req.chunked);
		assert_true(r.req.has_length);
		assert_int_equal(r.req.length, 12);
		assert_false(r.req.keep_alive);
		assert_true(r.req.expect);
		assert_int_equal(r.req.fields.n, 7);
		assert_string_equal(l7mp_http_field(&r.req.fields, "host"), "Ex.org:81");
		assert_string_equal(l7mp_http_field(&r.req.fields, "x-thing"), "Value");
		assert_int_equal(l7mp_http_field_count(&r.req.fields, "x-thing"), 2);
		assert_string_equal(r.req.fields.at[3].value, "");
		assert_true(l7mp_http_field_has(&r.req.fields, "connection", "close"));
		assert_true(l7mp_http_field_has(&r.req.fields, "connection", "FOO"));
		assert_false(l7mp_http_field_has(&r.req.fields, "connection", "clos"));
		assert_null(l7mp_http_field(&r.req.fields, "x"));
		result_free(&r);
	}
}

static void keep_alive(void **state)
{
	static const struct {
		bool keep;
		const char *text;
	} cases[] = {
	        {true, H "\r\n"},
	        {true, H "Connection: keep-alive\r\n\r\n"},
	        {false, H "Connection: close\r\n\r\n"},
	        {false, H "Connection: keep-alive\r\nConnection: x, close\r\n\r\n"},
	        {false, "GET / HTTP/1.0\r\n\r\n"},
	        {true, "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"},
	        {false, "GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"},
	};
	static struct result r;

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		read_cut(cases[i].text, strlen(cases[i].text), 0, false, &r);
		assert_int_equal(r.status, 0);
		assert_int_equal(r.req.keep_alive, cases[i].keep);
		assert_false(r.req.expect);
		result_free(&r);
	}
}

static void responses(void **state)
{
	static const struct {
		int status; /* of the result */
		const char *text;
	} cases[] = {
	        {0, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"},
	        {0, "HTTP/1.0 404 \r\n\r\n"},
	        {0, "HTTP/1.1 200\r\n\r\n"},
	        {0, "HTTP/1.1 200 \xc3\xa9\t(x)\r\n\r\n"},
	        {400, "\r\nHTTP/1.1 200 OK\r\n\r\n"},
	        {502, "HTTP/1.1 99 OK\r\n\r\n"},
	        {502, "HTTP/1.1 600 OK\r\n\r\n"},
	        {502, "HTTP/1.1 2000 OK\r\n\r\n"},
	        {502, "HTTP/1.1  200 OK\r\n\r\n"},
	        {502, "HTTP/2.0 200 OK\r\n\r\n"},
	        {502, "GET / HTTP/1.1\r\n\r\n"},
	        {400, "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n"},
	        {400, "HTTP/1.1 200 OK\n\n"},
	};
	static struct result r;

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		size_t n = strlen(cases[i].text);

		for (size_t cut = 0; cut <= n; cut++) {
			read_cut(cases[i].text, n, cut, true, &r);
			if (r.status != cases[i].status)
				fail_msg("expected %d, got %d: %s", cases[i].status, r.status,
				         cases[i].text);
			if (!r.status && i == 0) {
				assert_int_equal(r.res.status, 101);
				assert_string_equal(r.res.reason, "Switching Protocols");
			}
			result_free(&r);
		}
	}
}

/* ---- chunked bodies ---- */

/* Decodes in pieces of `piece` bytes; what comes out is put into `out`. */
static int decode(const char *text, size_t len, size_t piece, char *out, size_t *used)
{
	struct l7mp_http_chunked c = {0};
	struct l7mp_http_refusal why = {0};
	size_t at = 0, n, took;
	const char *body;
	int rc = 0;

	*out = '\0';
	while (!rc && at < len) {
		size_t end = at + piece < len ? at + piece : len;

		rc = l7mp_http_chunked_next(&c, text + at, end - at, &took, &body, &n, &why);
		if (rc < 0)
			return why.status;
		assert_true(took > 0);
		strncat(out, body, n);
		at += took;
	}
	*used = at;
	return rc == 1 ? 0 : -1;
}

static void chunked(void **state)
{
	static const struct {
		int status;
		const char *text, *body;
	} cases[] = {
	        {0, "0\r\n\r\n", ""},
	        {0, "5\r\nhello\r\n0\r\n\r\n", "hello"},
	        {0, "0005\r\nhello\r\n00\r\n\r\n", "hello"},
	        {0, "a\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n", "0123456789x"},
	        {0, "A;x\r\n0123456789\r\n0;y=z\r\n\r\n", "0123456789"},
	        {0, "1 ; a = b ;c=\"d\\\"\r\"\r\n", NULL},
	        {0, "1 ; a = b ;c=\"d\\\" ;\"\r\nx\r\n0\r\n\r\n", "x"},
	        {0, "1\r\nx\r\n0\r\nA: b\r\nC:\r\n\r\n", "x"},
	        {-1, "", NULL},
	        {-1, "5\r\nhel", NULL},
	        {-1, "1\r\nx\r\n0\r\n", NULL},
	        {-1, "0\r\nA: b\r\n", NULL},
	        {400, "\r\n", NULL},
	        {400, "x\r\n", NULL},
	        {400, "-1\r\n", NULL},
	        {400, "+1\r\n", NULL},
	        {400, " 1\r\n", NULL},
	        {400, "1 \r\n", NULL},
	        {400, "0x1\r\n", NULL},
	        {400, "1\n", NULL},
	        {400, "1\r\r\n", NULL},
	        {400, "1\r\nx\n", NULL},
	        {400, "1\r\nxy\r\n", NULL},
	        {400, "8000000000000000\r\n", NULL},
	        {400, "10000000000000000\r\n", NULL},
	        {400, "00000000000000001\r\n", NULL},
	        {400, "1;\r\n", NULL},
	        {400, "1;=b\r\n", NULL},
	        {400, "1;a=\r\n", NULL},
	        {400, "1;a=b c\r\n", NULL},
	        {400, "1;a=\"\r\n", NULL},
	        {400, "1;a\n", NULL},
	        {400, "1;a=\"\x01\"\r\n", NULL},
	        {400, "0\r\n A: b\r\n", NULL},
	        {400, "0\r\nA : b\r\n", NULL},
	        {400, "0\r\nA\r\n", NULL},
	        {400, "0\r\nA: b\n", NULL},
	        {400, "0\r\nA: b\r\n c\r\n", NULL},
	        {400, "0\r\n\n", NULL},
	        {400, "0\r\n\rx", NULL},
	};
	char out[64];
	size_t used;

	(void)state;
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(cases); i++) {
		size_t n = strlen(cases[i].text);
		int want = cases[i].body || cases[i].status ? cases[i].status : 400;

		for (size_t piece = 1; piece <= n + 1; piece++) {
			int rc = decode(cases[i].text, n, piece, out, &used);

			if (rc != want)
				fail_msg("expected %d, got %d: %s", want, rc, cases[i].text);
			if (!cases[i].body)
				continue;
			assert_string_equal(out, cases[i].body);
			assert_int_equal(used, n);
		}
	}
}

static void chunked_limits(void **state)
{
	size_t size = 1 << 20, n = 0, used;
	char *text = malloc(size), *out = malloc(size);

	(void)state;
	assert_non_null(text);
	assert_non_null(out);
	/* One line of extensions. */
	n = (size_t)sprintf(text, "1;");
	memset(text + n, 'a', 5000);
	strcpy(text + 5000, "\r\nx\r\n0\r\n\r\n");
	assert_int_equal(decode(text, strlen(text), 100, out, &used), 400);
	/* Many lines, each within its bound, around a body of single bytes. */
	n = 0;
	for (int i = 0; i < 100; i++)
		n += (size_t)sprintf(text + n, "1;%01000d=x\r\nx\r\n", 1);
	strcpy(text + n, "0\r\n\r\n");
	assert_int_equal(decode(text, strlen(text), 4096, out, &used), 400);
	/* Chunks of single bytes without extensions are fine in any number. */
	n = 0;
	for (int i = 0; i < 100000; i++)
		n += (size_t)sprintf(text + n, "1\r\nx\r\n");
	strcpy(text + n, "0\r\n\r\n");
	assert_int_equal(decode(text, strlen(text), 4096, out, &used), 0);
	/* Trailers: their size, their number. */
	n = (size_t)sprintf(text, "0\r\nA: ");
	memset(text + n, 'b', 20000);
	strcpy(text + 20000, "\r\n\r\n");
	assert_int_equal(decode(text, strlen(text), 4096, out, &used), 431);
	n = (size_t)sprintf(text, "0\r\n");
	for (int i = 0; i < 300; i++)
		n += (size_t)sprintf(text + n, "A:b\r\n");
	strcpy(text + n, "\r\n");
	assert_int_equal(decode(text, strlen(text), 4096, out, &used), 431);
	free(text);
	free(out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(requests_taken), cmocka_unit_test(requests_refused),
	        cmocka_unit_test(every_byte),     cmocka_unit_test(limits),
	        cmocka_unit_test(request_parts),  cmocka_unit_test(keep_alive),
	        cmocka_unit_test(responses),      cmocka_unit_test(chunked),
	        cmocka_unit_test(chunked_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
