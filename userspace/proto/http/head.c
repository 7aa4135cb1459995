/* SPDX-License-Identifier: MIT */
/* Strict parsing of the heads of HTTP/1.1 messages (RFC 9110, RFC 9112, RFC 3986). */
#include "head.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "l7mp/util.h"

/* Empty lines before a request line that are skipped (RFC 9112, section 2.2). */
#define BLANK_MAX  8
#define METHOD_MAX 64
#define FIRST_CAP  1024

/* ---- characters ---- */

enum {
	C_TOKEN = 1 << 0,  /* tchar: RFC 9110, section 5.6.2 */
	C_VALUE = 1 << 1,  /* in a field value: HTAB, SP, visible, obs-text */
	C_TARGET = 1 << 2, /* in a request target: visible ASCII without '#' */
	C_HOST = 1 << 3,   /* in a reg-name, except '%': RFC 3986, section 3.2.2 */
	C_HEX = 1 << 4,
	C_DIGIT = 1 << 5,
};

static const uint8_t classes[256] = {
        ['\t'] = C_VALUE,
        [' '] = C_VALUE,
        ['!'] = C_TOKEN | C_VALUE | C_TARGET | C_HOST,
        ['"'] = C_VALUE | C_TARGET,
        ['#'] = C_TOKEN | C_VALUE,
        ['$'] = C_TOKEN | C_VALUE | C_TARGET | C_HOST,
        ['%'] = C_TOKEN | C_VALUE | C_TARGET,
        ['&'] = C_TOKEN | C_VALUE | C_TARGET | C_HOST,
        ['\''] = C_TOKEN | C_VALUE | C_TARGET | C_HOST,
        ['('] = C_VALUE | C_TARGET | C_HOST,
        [')'] = C_VALUE | C_TARGET | C_HOST,
        ['*'] = C_TOKEN | C_VALUE | C_TARGET | C_HOST,
        ['+'] = C_TOKEN | C_VALUE | C_TARGET | C_HOST,
        [','] = C_VALUE | C_TARGET | C_HOST,
        ['-'] = C_TOKEN | C_VALUE | C_TARGET | C_HOST,
        ['.'] = C_TOKEN | C_VALUE | C_TARGET | C_HOST,
        ['/'] = C_VALUE | C_TARGET,
        ['0' ... '9'] = C_TOKEN | C_VALUE | C_TARGET | C_HOST | C_HEX | C_DIGIT,
        [':'] = C_VALUE | C_TARGET,
        [';'] = C_VALUE | C_TARGET | C_HOST,
        ['<'] = C_VALUE | C_TARGET,
        ['='] = C_VALUE | C_TARGET | C_HOST,
        ['>'] = C_VALUE | C_TARGET,
        ['?'] = C_VALUE | C_TARGET,
        ['@'] = C_VALUE | C_TARGET,
        ['A' ... 'F'] = C_TOKEN | C_VALUE | C_TARGET | C_HOST | C_HEX,
        ['G' ... 'Z'] = C_TOKEN | C_VALUE | C_TARGET | C_HOST,
        ['['] = C_VALUE | C_TARGET,
        ['\\'] = C_VALUE | C_TARGET,
        [']'] = C_VALUE | C_TARGET,
        ['^'] = C_TOKEN | C_VALUE | C_TARGET,
        ['_'] = C_TOKEN | C_VALUE | C_TARGET | C_HOST,
        ['`'] = C_TOKEN | C_VALUE | C_TARGET,
        ['a' ... 'f'] = C_TOKEN | C_VALUE | C_TARGET | C_HOST | C_HEX,
        ['g' ... 'z'] = C_TOKEN | C_VALUE | C_TARGET | C_HOST,
        ['{'] = C_VALUE | C_TARGET,
        ['|'] = C_TOKEN | C_VALUE | C_TARGET,
        ['}'] = C_VALUE | C_TARGET,
        ['~'] = C_TOKEN | C_VALUE | C_TARGET | C_HOST,
        [0x80 ... 0xff] = C_VALUE,
};

static bool is(char c, unsigned class)
{
	return classes[(uint8_t)c] & class;
}

static bool all(const char *s, size_t n, unsigned class)
{
	for (size_t i = 0; i < n; i++)
		if (!is(s[i], class))
			return false;
	return true;
}

bool l7mp_http_is_token(const char *text)
{
	return *text && all(text, strlen(text), C_TOKEN);
}

/* ---- reader ---- */

enum {
	S_START,    /* before the first byte */
	S_START_CR, /* in an empty line before a request */
	S_LINE,     /* in the first line */
	S_LINE_CR,
	S_FIELD, /* at the beginning of a field line, or of the blank one */
	S_NAME,
	S_VALUE,
	S_VALUE_CR,
	S_END_CR,
	S_DONE,
};

void l7mp_http_reader_init(struct l7mp_http_reader *r, bool response)
{
	memset(r, 0, sizeof(*r));
	r->response = response;
}

void l7mp_http_reader_reset(struct l7mp_http_reader *r)
{
	free(r->text);
	l7mp_http_reader_init(r, r->response);
}

bool l7mp_http_reader_begun(const struct l7mp_http_reader *r)
{
	return r->state != S_START || r->blank;
}

static int refuse(struct l7mp_http_refusal *out, int status, const char *why)
{
	out->status = status;
	out->why = why;
	return -1;
}

static int bad(struct l7mp_http_refusal *out, const char *why)
{
	return refuse(out, 400, why);
}

/* Rejects a byte that is not allowed in a line. */
static int bad_byte(struct l7mp_http_refusal *out, char c)
{
	if (c == '\n')
		return bad(out, "a line ends in LF without CR");
	if (c == '\0')
		return bad(out, "the head has a NUL byte");
	return bad(out, "the head has an invalid byte");
}

static int begin_field(struct l7mp_http_reader *r, char c, struct l7mp_http_refusal *why)
{
	if (c == '\r') {
		r->state = S_END_CR;
		return 0;
	}
	if (c == ' ' || c == '\t')
		return bad(why, "a field is folded over lines");
	if (c == ':')
		return bad(why, "a field has no name");
	if (!is(c, C_TOKEN))
		return bad_byte(why, c);
	if (++r->fields > L7MP_HTTP_FIELDS_MAX)
		return refuse(why, 431, "the head has more than 256 fields");
	r->state = S_NAME;
	return 0;
}

static int in_name(struct l7mp_http_reader *r, char c, struct l7mp_http_refusal *why)
{
	if (is(c, C_TOKEN))
		return 0;
	if (c == ' ' || c == '\t')
		return bad(why, "a field's name has white space in it or behind it");
	if (c == '\r' || c == '\n')
		return bad(why, "a field has no colon");
	if (c != ':')
		return bad(why, "a field's name has an invalid byte");
	r->state = S_VALUE;
	return 0;
}

/* Whether a byte is allowed in the first line; the parser checks the details. */
static bool line_byte(const struct l7mp_http_reader *r, char c)
{
	if (r->response)
		return is(c, C_VALUE);
	return c == ' ' || is(c, C_TARGET | C_TOKEN);
}

/* Processes one byte. Returns 0, or -1 with *why. */
static int step(struct l7mp_http_reader *r, char c, struct l7mp_http_refusal *why)
{
	switch (r->state) {
	case S_LINE:
		if (c == '\r')
			r->state = S_LINE_CR;
		else if (!line_byte(r, c))
			return bad_byte(why, c);
		return 0;
	case S_FIELD:
		return begin_field(r, c, why);
	case S_NAME:
		return in_name(r, c, why);
	case S_VALUE:
		if (c == '\r')
			r->state = S_VALUE_CR;
		else if (!is(c, C_VALUE))
			return bad_byte(why, c);
		return 0;
	case S_LINE_CR:
	case S_VALUE_CR:
	case S_END_CR:
		if (c != '\n')
			return bad(why, "a CR is not followed by LF");
		r->state = r->state == S_END_CR ? S_DONE : S_FIELD;
		return 0;
	default:
		return bad(why, "a head that is complete was fed again");
	}
}

/*
 * Skips input before the first line: nothing, or some empty lines before a request, which are not
 * part of the head. Advances *at.
 */
static int skip_blank(struct l7mp_http_reader *r, const char *data, size_t len, size_t *at,
                      struct l7mp_http_refusal *why)
{
	for (; *at < len; (*at)++) {
		char c = data[*at];

		if (r->state == S_START_CR) {
			if (c != '\n')
				return bad(why, "a CR is not followed by LF");
			r->state = S_START;
		} else if (c == '\r' && !r->response) {
			if (++r->blank > BLANK_MAX)
				return bad(why, "too many empty lines before a request");
			r->state = S_START_CR;
		} else if (is(c, C_TOKEN)) {
			r->state = S_LINE;
			return 0;
		} else {
			return bad_byte(why, c);
		}
	}
	return 0;
}

/* Appends a piece to the stored text. */
static int keep(struct l7mp_http_reader *r, const char *data, size_t n,
                struct l7mp_http_refusal *why)
{
	size_t need = r->len + n, cap = r->cap ? r->cap : FIRST_CAP;
	char *text;

	while (cap < need)
		cap *= 2;
	if (cap != r->cap) {
		text = realloc(r->text, cap);
		if (!text)
			return refuse(why, 503, "out of memory");
		r->text = text;
		r->cap = (uint32_t)cap;
	}
	memcpy(r->text + r->len, data, n);
	r->len = (uint32_t)need;
	return 0;
}

int l7mp_http_reader_feed(struct l7mp_http_reader *r, char *data, size_t len, size_t *used,
                          char **head, size_t *head_len, struct l7mp_http_refusal *why)
{
	size_t begin = 0, at;

	if (r->state <= S_START_CR && skip_blank(r, data, len, &begin, why))
		return -1;
	for (at = begin; at < len && r->state != S_DONE; at++) {
		if (r->seen >= L7MP_HTTP_HEAD_MAX)
			return refuse(why, 431, "the head is larger than 64 KiB");
		if (step(r, data[at], why))
			return -1;
		r->seen++;
	}
	*used = at;
	if (r->state == S_DONE && !r->len) {
		*head = data + begin;
		*head_len = at - begin;
		return 1;
	}
	if (at > begin && keep(r, data + begin, at - begin, why))
		return -1;
	*head = r->text;
	*head_len = r->len;
	return r->state == S_DONE;
}

/* ---- fields ---- */

const char *l7mp_http_field(const struct l7mp_http_fields *f, const char *name)
{
	for (size_t i = 0; i < f->n; i++)
		if (strcmp(f->at[i].name, name) == 0)
			return f->at[i].value;
	return NULL;
}

size_t l7mp_http_field_count(const struct l7mp_http_fields *f, const char *name)
{
	size_t n = 0;

	for (size_t i = 0; i < f->n; i++)
		n += strcmp(f->at[i].name, name) == 0;
	return n;
}

/*
 * Returns the next element of a list, without surrounding white space; *list advances to the
 * character after its comma, and becomes NULL after the last one. Returns false at the end.
 */
static bool next_element(const char **list, const char **element, size_t *n)
{
	const char *s = *list, *end;

	if (!s)
		return false;
	s += strspn(s, " \t");
	end = s + strcspn(s, ",");
	*list = *end ? end + 1 : NULL;
	while (end > s && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	*element = s;
	*n = (size_t)(end - s);
	return true;
}

static bool same(const char *element, size_t n, const char *token)
{
	return strlen(token) == n && strncasecmp(element, token, n) == 0;
}

static bool list_has(const char *list, const char *token)
{
	const char *element;
	size_t n;

	while (next_element(&list, &element, &n))
		if (same(element, n, token))
			return true;
	return false;
}

bool l7mp_http_field_has(const struct l7mp_http_fields *f, const char *name, const char *token)
{
	for (size_t i = 0; i < f->n; i++)
		if (strcmp(f->at[i].name, name) == 0 && list_has(f->at[i].value, token))
			return true;
	return false;
}

/*
 * Splits the field lines at s, whose syntax the reader has checked: names in lower case, values
 * without surrounding white space. The last line is the blank one.
 */
static int split_fields(char *s, struct l7mp_http_fields *f, struct l7mp_http_refusal *why)
{
	f->n = 0;
	while (*s != '\r') {
		struct l7mp_http_field *field = &f->at[f->n];
		char *end;

		if (f->n++ == L7MP_HTTP_FIELDS_MAX)
			return refuse(why, 431, "the head has more than 256 fields");
		field->name = s;
		for (; *s != ':'; s++)
			if (*s >= 'A' && *s <= 'Z')
				*s = (char)(*s | 0x20);
		*s++ = '\0';
		while (*s == ' ' || *s == '\t')
			s++;
		field->value = s;
		end = s = strchr(s, '\r');
		while (end > field->value && (end[-1] == ' ' || end[-1] == '\t'))
			end--;
		*end = '\0';
		s += 2;
	}
	return 0;
}

/* Parses "HTTP/1.x" of n bytes. Returns 0, or the status of the rejection. */
static int parse_version(const char *s, size_t n, unsigned *minor)
{
	if (n != 8 || memcmp(s, "HTTP/", 5) != 0 || !is(s[5], C_DIGIT) || s[6] != '.' ||
	    !is(s[7], C_DIGIT))
		return 400;
	if (s[5] != '1')
		return 505;
	*minor = s[7] > '0'; /* a later minor version is read as 1.1: RFC 9110, section 2.5 */
	return 0;
}

/* ---- request targets ---- */

/* Checks "host", "host:port", "[v6]:port". An empty host is invalid. */
static bool authority_valid(const char *s, bool port_required)
{
	const char *port;
	size_t n;

	if (*s == '[') {
		n = 1 + strspn(s + 1, "0123456789abcdefABCDEF:.");
		if (n < 3 || s[n] != ']')
			return false;
		port = s + n + 1;
	} else {
		for (port = s; *port && *port != ':'; port++) {
			if (*port == '%' && is(port[1], C_HEX) && is(port[2], C_HEX))
				port += 2;
			else if (!is(*port, C_HOST))
				return false;
		}
		if (port == s)
			return false;
	}
	if (!*port)
		return !port_required;
	if (*port++ != ':')
		return false;
	n = strlen(port);
	return all(port, n, C_DIGIT) && n <= 5 && atoi(port) <= UINT16_MAX && (n || !port_required);
}

/* Whether each percent sign is followed by two hex digits other than 00. */
static bool path_valid(const char *s)
{
	for (; (s = strchr(s, '%')); s += 3)
		if (!is(s[1], C_HEX) || !is(s[2], C_HEX) || (s[1] == '0' && s[2] == '0'))
			return false;
	return true;
}

/* Splits path and query of an origin-form target; ends the path at the '?'. */
static int split_path(char *s, struct l7mp_http_request *out, struct l7mp_http_refusal *why)
{
	char *query = strchr(s, '?');

	if (query)
		*query++ = '\0';
	out->path = s;
	out->query = query;
	if (!path_valid(s))
		return bad(why, "the path has a percent sign that does not encode a byte, or NUL");
	return 0;
}

/*
 * Splits an absolute-form target. Moves the authority one byte to the left, over a '/', so that
 * both parts can be terminated.
 */
static int split_absolute(char *s, struct l7mp_http_request *out, struct l7mp_http_refusal *why)
{
	size_t skip = strncasecmp(s, "http://", 7) == 0    ? 7
	              : strncasecmp(s, "https://", 8) == 0 ? 8
	                                                   : 0;
	char *host;
	size_t n;

	if (!skip)
		return bad(why, "the request target is neither a path nor an http URI");
	s += skip;
	n = strcspn(s, "/?");
	host = s - 1;
	memmove(host, s, n);
	host[n] = '\0';
	out->form = L7MP_HTTP_ABSOLUTE;
	out->authority = host;
	if (!authority_valid(out->authority, false))
		return bad(why, "the request target has an invalid host");
	if (s[n] == '/')
		return split_path(s + n, out, why);
	out->path = "/";
	out->query = s[n] ? s + n + 1 : NULL;
	return 0;
}

static int parse_target(char *s, struct l7mp_http_request *out, struct l7mp_http_refusal *why)
{
	bool connect = strcmp(out->method, "CONNECT") == 0;

	if (strchr(s, '#') || !all(s, strlen(s), C_TARGET))
		return bad(why, "the request target has an invalid byte");
	if (connect) {
		out->form = L7MP_HTTP_AUTHORITY;
		out->authority = s;
		out->path = "";
		return authority_valid(s, true) ? 0 : bad(why, "expected CONNECT host:port");
	}
	if (strcmp(s, "*") == 0) {
		out->form = L7MP_HTTP_ASTERISK;
		out->path = s;
		return strcmp(out->method, "OPTIONS") == 0
		               ? 0
		               : bad(why, "the request target * is for OPTIONS only");
	}
	return *s == '/' ? split_path(s, out, why) : split_absolute(s, out, why);
}

/* Parses method, target and version, separated by exactly one space. */
static int parse_request_line(char *s, char *end, struct l7mp_http_request *out,
                              struct l7mp_http_refusal *why)
{
	char *target, *version;
	int status;

	*end = '\0';
	target = strchr(s, ' ');
	version = target ? strchr(target + 1, ' ') : NULL;
	if (!version)
		return bad(why, "expected METHOD TARGET HTTP/1.1");
	*target++ = '\0';
	*version++ = '\0';
	status = parse_version(version, (size_t)(end - version), &out->minor);
	if (status == 505)
		return refuse(why, 505, "expected HTTP/1.1 or HTTP/1.0");
	if (status || !*target)
		return bad(why, "expected METHOD TARGET HTTP/1.1");
	if (!l7mp_http_is_token(s))
		return bad(why, "the method is not a token");
	if (strlen(s) > METHOD_MAX)
		return refuse(why, 501, "the method is longer than 64 bytes");
	out->method = s;
	return parse_target(target, out, why);
}

/* ---- framing ---- */

/* The framing fields of a head, while they are parsed. */
struct framing {
	char **host; /* where its value is stored */
	const char *transfer;
	unsigned hosts, lengths, transfers;
	bool close, keep_alive;
};

static int parse_length(const char *s, uint64_t *out)
{
	uint64_t v = 0;

	if (!*s)
		return -1;
	for (; *s; s++) {
		unsigned d = (unsigned)(*s - '0');

		if (!is(*s, C_DIGIT) || v > ((uint64_t)INT64_MAX - d) / 10)
			return -1;
		v = v * 10 + d;
	}
	*out = v;
	return 0;
}

/*
 * RFC 9112, section 6.1. Only `chunked` is supported, and it must be the last coding, once, without
 * parameters.
 */
static int parse_transfer(const char *list, struct l7mp_http_refusal *why)
{
	unsigned others = 0, chunked = 0;
	const char *element;
	bool last = false;
	size_t n;

	while (next_element(&list, &element, &n)) {
		if (!n || !all(element, strcspn(element, " \t;,"), C_TOKEN))
			return bad(why, "Transfer-Encoding is not a list of codings");
		last = same(element, n, "chunked");
		if (last)
			chunked++;
		else
			others++;
	}
	if (!last)
		return bad(why, "Transfer-Encoding does not end in chunked");
	if (chunked > 1)
		return bad(why, "Transfer-Encoding has chunked more than once");
	if (others)
		return refuse(why, 501, "no transfer coding but chunked is known");
	return 0;
}

static int check_field(struct l7mp_http_field *field, struct framing *f,
                       struct l7mp_http_request *out, struct l7mp_http_refusal *why)
{
	const char *name = field->name, *value = field->value;

	switch (*name) {
	case 'c':
		if (strcmp(name, "content-length") == 0) {
			f->lengths++;
			if (parse_length(value, &out->length))
				return bad(why, "Content-Length is not a number of bytes");
		} else if (strcmp(name, "connection") == 0) {
			f->close |= list_has(value, "close");
			f->keep_alive |= list_has(value, "keep-alive");
		}
		break;
	case 'e':
		if (strcmp(name, "expect") != 0)
			break;
		if (strcasecmp(value, "100-continue") != 0)
			return refuse(why, 417, "no expectation but 100-continue can be met");
		out->expect = out->minor > 0;
		break;
	case 'h':
		if (strcmp(name, "host") != 0)
			break;
		f->hosts++;
		f->host = &field->value;
		if (*value && !authority_valid(value, false))
			return bad(why, "Host is not a host with an optional port");
		break;
	case 't':
		if (strcmp(name, "transfer-encoding") == 0) {
			f->transfers++;
			f->transfer = value;
		}
		break;
	default:
		break;
	}
	return 0;
}

static int conclude(struct framing *f, struct l7mp_http_request *out, struct l7mp_http_refusal *why)
{
	if (f->hosts > 1)
		return bad(why, "the head has more than one Host");
	if (!f->hosts && out->minor)
		return bad(why, "the head has no Host");
	if (f->lengths > 1)
		return bad(why, "the head has more than one Content-Length");
	if (f->transfers > 1)
		return bad(why, "the head has more than one Transfer-Encoding");
	if (f->transfers && f->lengths)
		return bad(why, "the head has both Content-Length and Transfer-Encoding");
	if (f->transfers && !out->minor)
		return bad(why, "HTTP/1.0 has no Transfer-Encoding");
	if (f->transfers && parse_transfer(f->transfer, why))
		return -1;
	out->chunked = f->transfers > 0;
	out->has_length = f->lengths > 0;
	out->keep_alive = !f->close && (out->minor || f->keep_alive);
	if (!out->chunked && !out->length)
		out->expect = false; /* there is no body */
	if (!out->authority)
		out->authority = f->host ? *f->host : "";
	else if (f->host)
		*f->host = (char *)out->authority;
	return 0;
}

/* Returns the end of the first line; the reader has checked that it exists. */
static char *line_end(char *head, size_t len)
{
	return memchr(head, '\r', len);
}

int l7mp_http_request_parse(char *head, size_t len, struct l7mp_http_request *out,
                            struct l7mp_http_refusal *why)
{
	char *end = line_end(head, len);
	struct framing f = {0};

	memset(out, 0, offsetof(struct l7mp_http_request, fields));
	if (parse_request_line(head, end, out, why) || split_fields(end + 2, &out->fields, why))
		return -1;
	for (size_t i = 0; i < out->fields.n; i++)
		if (check_field(&out->fields.at[i], &f, out, why))
			return -1;
	return conclude(&f, out, why);
}

/* ---- responses ---- */

int l7mp_http_response_parse(char *head, size_t len, struct l7mp_http_response *out,
                             struct l7mp_http_refusal *why)
{
	static const char expected[] = "expected HTTP/1.1 STATUS REASON";
	char *end = line_end(head, len), *s = head;
	size_t n = (size_t)(end - head);

	*end = '\0';
	memset(out, 0, offsetof(struct l7mp_http_response, fields));
	if (n < 12 || parse_version(s, 8, &out->minor) || s[8] != ' ' || !all(s + 9, 3, C_DIGIT) ||
	    (s[12] && s[12] != ' '))
		return refuse(why, 502, expected);
	out->status = atoi(s + 9);
	out->reason = s[12] ? s + 13 : "";
	if (out->status < 100 || out->status > 599)
		return refuse(why, 502, expected);
	if (split_fields(end + 2, &out->fields, why)) {
		why->status = 502;
		return -1;
	}
	return 0;
}
