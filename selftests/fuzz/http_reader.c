/* SPDX-License-Identifier: MIT */
/*
 * Reads HTTP requests as an HTTP listener does, for test_http_diff.py: stdin is cases, each a
 * length (32 bits, little-endian) and its bytes; stdout is readings in the same form. A reading is
 * "R" for what is refused, else "A" and, separated by NUL: method, target, version, the body in
 * hex, "1" when it is complete, and the fields, each a name and a value. Each case is read in one
 * piece and in two, which has to come to the same.
 */
#include "fuzz.h"

#include <stdbool.h>
#include <unistd.h>

#include "l7mp/util.h"

#include "proto/http/chunked.h"
#include "proto/http/head.h"

static void add_hex(struct l7mp_str *out, const char *data, size_t n)
{
	for (size_t i = 0; i < n; i++)
		l7mp_str_addf(out, "%02x", (uint8_t)data[i]);
}

/* The body in `rest`, as far as it is there. -1: refused. 1: complete. */
static int read_body(const struct l7mp_http_request *req, const char *rest, size_t len,
                     struct l7mp_str *hex)
{
	struct l7mp_http_chunked chunked = {0};
	struct l7mp_http_refusal why;
	int rc = 0;

	if (!req->chunked) {
		size_t n = req->has_length ? req->length < len ? (size_t)req->length : len : 0;

		add_hex(hex, rest, n);
		return !req->has_length || n == req->length;
	}
	while (len && !rc) {
		const char *body;
		size_t used, n;

		rc = l7mp_http_chunked_next(&chunked, rest, len, &used, &body, &n, &why);
		if (rc < 0)
			return -1;
		FUZZ_CHECK(used > 0 && used <= len);
		add_hex(hex, body, n);
		rest += used;
		len -= used;
	}
	return rc;
}

static void add_field(struct l7mp_str *out, const char *text)
{
	l7mp_str_addn(out, "", 1);
	l7mp_str_add(out, text);
}

/* The target as it was written: the parser takes it apart. */
static void copy_target(char *out, size_t size, const char *head, size_t len)
{
	const char *begin = memchr(head, ' ', len);
	const char *end = begin++ ? memchr(begin, ' ', len - (size_t)(begin - head)) : NULL;

	if (!end)
		begin = end = "";
	FUZZ_CHECK((size_t)(end - begin) < size);
	memcpy(out, begin, (size_t)(end - begin));
	out[end - begin] = '\0';
}

/* One reading of `data`, whose first piece has `first` bytes. */
static void read_case(char *data, size_t len, size_t first, struct l7mp_str *out)
{
	static struct l7mp_http_request req;
	static char target[L7MP_HTTP_HEAD_MAX];
	struct l7mp_http_reader reader;
	struct l7mp_http_refusal why = {0};
	struct l7mp_str hex = {0};
	char *head = NULL;
	size_t used = 0, n = 0, at = 0;
	int rc;

	l7mp_http_reader_init(&reader, false);
	rc = l7mp_http_reader_feed(&reader, data, first, &used, &head, &n, &why);
	at = used;
	if (rc == 0 && first < len) {
		FUZZ_CHECK(used == first);
		rc = l7mp_http_reader_feed(&reader, data + first, len - first, &used, &head, &n,
		                           &why);
		at += used;
	}
	if (rc > 0) {
		copy_target(target, sizeof(target), head, n);
		rc = l7mp_http_request_parse(head, n, &req, &why) == 0
		             ? read_body(&req, data + at, len - at, &hex)
		             : -1;
	} else {
		FUZZ_CHECK(rc == 0 || (why.status >= 400 && why.why));
		rc = -1;
	}
	if (rc < 0) {
		l7mp_str_add(out, "R");
	} else {
		l7mp_str_addf(out, "A%s", req.method);
		add_field(out, target);
		add_field(out, req.minor ? "1.1" : "1.0");
		add_field(out, hex.s ? hex.s : "");
		add_field(out, rc ? "1" : "0");
		for (size_t i = 0; i < req.fields.n; i++) {
			add_field(out, req.fields.at[i].name);
			add_field(out, req.fields.at[i].value);
		}
	}
	free(hex.s);
	l7mp_http_reader_reset(&reader);
}

static void reply(const uint8_t *data, size_t len, size_t number)
{
	size_t cut = len ? 1 + number * 7919 % len : 0;
	struct l7mp_str one = {0}, two = {0};
	/* Memory of just that size, so that the sanitizer sees every byte too far. */
	char *copy = fuzz_text(data, len);
	uint32_t n;

	read_case(copy, len, len, &one);
	memcpy(copy, data, len);
	read_case(copy, len, cut, &two);
	FUZZ_CHECK(!one.oom && !two.oom && one.len == two.len &&
	           memcmp(one.s, two.s, one.len) == 0);
	n = (uint32_t)one.len;
	FUZZ_CHECK(fwrite(&n, sizeof(n), 1, stdout) == 1 && fwrite(one.s, 1, n, stdout) == n);
	free(copy);
	free(one.s);
	free(two.s);
}

int main(void)
{
	uint8_t *data = NULL;
	uint32_t len;

	for (size_t number = 0; fread(&len, sizeof(len), 1, stdin) == 1; number++) {
		FUZZ_CHECK(len < 1 << 24);
		data = realloc(data, len + 1);
		FUZZ_CHECK(data && fread(data, 1, len, stdin) == len);
		reply(data, len, number);
	}
	free(data);
	return fflush(stdout) == 0 ? 0 : 1;
}
