/* SPDX-License-Identifier: MIT */
/*
 * Reading the heads of HTTP/1.1 messages (RFC 9112), strictly: a message that two parsers could
 * interpret differently is rejected, because a proxy in front of this one may have chosen the other
 * interpretation (request smuggling).
 *
 * There are two steps. The reader collects the bytes of a head from pieces of any size, checks each
 * byte as it arrives, and finds the end of the head. The parser then splits the complete head in
 * place. Neither does I/O; the reader allocates at most L7MP_HTTP_HEAD_MAX bytes, and nothing when
 * a head arrives in one piece. The HTTP listener and both WebSocket handshakes use it. Thread: any;
 * no global state.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Limits of a head: bytes including its blank line, and fields. Beyond them: 431. */
#define L7MP_HTTP_HEAD_MAX   65536
#define L7MP_HTTP_FIELDS_MAX 256

/* The reason for rejecting a message: a status to answer with, and a sentence (static). */
struct l7mp_http_refusal {
	int status;
	const char *why;
};

/* ---- reader ---- */

/* Private except for `len`. Zeroed by l7mp_http_reader_init. */
struct l7mp_http_reader {
	char *text;    /* stored part of an unfinished head; NULL: nothing */
	uint32_t len;  /* bytes in text */
	uint32_t cap;  /* allocated */
	uint32_t seen; /* bytes of the head, stored or not */
	uint16_t fields;
	uint8_t state;
	uint8_t blank; /* empty lines before a request line */
	bool response;
};

void l7mp_http_reader_init(struct l7mp_http_reader *r, bool response);

/*
 * Processes the next piece of a head. Returns
 *
 *  1: the head is complete. *used bytes of `data` belong to it; *head and *head_len are its text
 *  including the blank line, ready for the parser. *head points into `data` when the whole head was
 *  in this piece, else into the reader, where it is valid until l7mp_http_reader_reset.
 *  0: incomplete. All of `data` was consumed (*used is len).
 *  -1: rejected, with the reason in *why: 400, 431, or 503 without memory. Only reset may be called
 *  then.
 */
int l7mp_http_reader_feed(struct l7mp_http_reader *r, char *data, size_t len, size_t *used,
                          char **head, size_t *head_len, struct l7mp_http_refusal *why);

/* Returns whether the first byte of a head was received. */
bool l7mp_http_reader_begun(const struct l7mp_http_reader *r);

/* Frees the stored part; ready for the next head. Keeps the kind (request or response). */
void l7mp_http_reader_reset(struct l7mp_http_reader *r);

/* ---- fields ---- */

/* One field line. Both strings are terminated, contain no NUL, and point into the head. */
struct l7mp_http_field {
	char *name;  /* a token, in lower case */
	char *value; /* without white space around it; may be empty */
};

/* In the order of the message; fields of equal names are separate. */
struct l7mp_http_fields {
	size_t n;
	struct l7mp_http_field at[L7MP_HTTP_FIELDS_MAX];
};

/* Returns the value of the first field of that (lower-case) name; NULL: there is none. */
const char *l7mp_http_field(const struct l7mp_http_fields *f, const char *name);
/* Returns the number of fields with that (lower-case) name. */
size_t l7mp_http_field_count(const struct l7mp_http_fields *f, const char *name);
/*
 * Returns whether `token` is an element of the comma-separated list that all fields of that name
 * form (RFC 9110, section 5.6.1). Whole elements are compared, ignoring case.
 */
bool l7mp_http_field_has(const struct l7mp_http_fields *f, const char *name, const char *token);
/* Returns whether the text is a token (RFC 9110, section 5.6.2), which an empty text is not. */
bool l7mp_http_is_token(const char *text);

/* ---- requests ---- */

/* The forms of a request target (RFC 9112, section 3.2). */
enum l7mp_http_form {
	L7MP_HTTP_ORIGIN,    /* /path?query */
	L7MP_HTTP_ABSOLUTE,  /* http://host/path?query */
	L7MP_HTTP_ASTERISK,  /* *, with OPTIONS only */
	L7MP_HTTP_AUTHORITY, /* host:port, with CONNECT only */
};

/* A request's head. Strings are terminated and point into the head that was parsed. */
struct l7mp_http_request {
	const char *method;
	enum l7mp_http_form form;
	/*
	 * The authority of the request, "host" or "host:port": that of the target if it has one,
	 * which then also replaces the value of the field Host (RFC 9112, section 3.2.2), else that
	 * of Host. "" when there is none.
	 */
	const char *authority;
	const char *path;  /* not decoded; "*" in asterisk form, "" in authority form */
	const char *query; /* after the '?'; NULL: there is no '?' */
	unsigned minor;    /* of HTTP/1: 0 or 1 */
	/* How the body is framed; neither: no body. */
	bool chunked;
	bool has_length;
	uint64_t length; /* at most INT64_MAX */
	bool keep_alive; /* the client allows keeping the connection (RFC 9112, section 9.3) */
	bool expect;     /* the client waits for 100 (Continue) before it sends the body */
	struct l7mp_http_fields fields;
};

/*
 * Splits a complete head from the reader, in place. Returns 0, or -1 with *why: 400 when it is
 * invalid or ambiguous, 417 for an expectation other than 100-continue, 501 for an unknown transfer
 * coding or a method of more than 64 bytes, 505 for another major version.
 */
int l7mp_http_request_parse(char *head, size_t len, struct l7mp_http_request *out,
                            struct l7mp_http_refusal *why);

/* ---- responses ---- */

/* A response's head; the framing of its body is not parsed. */
struct l7mp_http_response {
	unsigned minor;
	int status; /* 100..599 */
	const char *reason;
	struct l7mp_http_fields fields;
};

/* As l7mp_http_request_parse; the status in *why is always 502. */
int l7mp_http_response_parse(char *head, size_t len, struct l7mp_http_response *out,
                             struct l7mp_http_refusal *why);
