/* SPDX-License-Identifier: MIT */
/* The chunked transfer coding (RFC 9112, section 7.1). */
#include "chunked.h"

#include <string.h>

/*
 * Allowed framing per chunk: "<size>\r
 *
 * " and "\r
 *
 * " after the data are never counted as excess.
 */
#define LINE_FREE 20

enum {
	S_SIZE,      /* hex digits */
	S_EXT_WS,    /* white space that must be followed by ';' */
	S_EXT_START, /* after a ';': white space, then a name */
	S_EXT_NAME,
	S_EXT_NAME_WS, /* after a name: '=' or ';' */
	S_EXT_EQUALS,  /* after the '=': white space, then a value */
	S_EXT_TOKEN,
	S_EXT_QUOTED,
	S_EXT_ESCAPE,
	S_EXT_VALUE_END, /* after a quoted value */
	S_SIZE_LF,
	S_DATA,
	S_DATA_CR,
	S_DATA_LF,
	S_TRAILER, /* at the beginning of a line */
	S_TRAILER_NAME,
	S_TRAILER_VALUE,
	S_TRAILER_LF,
	S_END_LF,
	S_DONE,
};

static int bad(struct l7mp_http_refusal *out, const char *why)
{
	out->status = 400;
	out->why = why;
	return -1;
}

static int too_large(struct l7mp_http_refusal *out, const char *why)
{
	out->status = 431;
	out->why = why;
	return -1;
}

static bool is_tchar(uint8_t c)
{
	const char text[2] = {(char)c, '\0'};

	return c && l7mp_http_is_token(text);
}

static bool is_ws(uint8_t c)
{
	return c == ' ' || c == '\t';
}

/* Characters of a quoted string or a field value: HTAB, SP, visible, obs-text. */
static bool is_text(uint8_t c)
{
	return c == '\t' || (c >= ' ' && c != 0x7f);
}

static int hex(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int in_size(struct l7mp_http_chunked *c, uint8_t b, struct l7mp_http_refusal *why)
{
	int digit = hex(b);

	if (digit >= 0) {
		/* At most 16 digits, the first at most 7: the size fits into 63 bits. */
		if (++c->digits > 16 || c->left > (uint64_t)INT64_MAX >> 4)
			return bad(why, "a chunk's size is too large");
		c->left = c->left << 4 | (unsigned)digit;
		return 0;
	}
	if (!c->digits)
		return bad(why, "a chunk's size is not a hexadecimal number");
	if (b == '\r')
		c->state = S_SIZE_LF;
	else if (b == ';')
		c->state = S_EXT_START;
	else if (is_ws(b))
		c->state = S_EXT_WS;
	else
		return bad(why, "a chunk's size is not a hexadecimal number");
	return 0;
}

/* Handles the byte after a complete extension. */
static bool after_extension(struct l7mp_http_chunked *c, uint8_t b, bool ws)
{
	if (b == ';')
		c->state = S_EXT_START;
	else if (b == '\r' && !ws)
		c->state = S_SIZE_LF;
	else if (is_ws(b))
		c->state = S_EXT_WS;
	else
		return false;
	return true;
}

/* chunk-ext = *( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] ) */
static bool in_extension(struct l7mp_http_chunked *c, uint8_t b)
{
	switch (c->state) {
	case S_EXT_WS:
		return is_ws(b) || (b == ';' && after_extension(c, b, true));
	case S_EXT_START:
		if (is_tchar(b))
			c->state = S_EXT_NAME;
		return is_ws(b) || is_tchar(b);
	case S_EXT_NAME:
		if (is_tchar(b))
			return true;
		if (is_ws(b))
			c->state = S_EXT_NAME_WS;
		else if (b == '=')
			c->state = S_EXT_EQUALS;
		else
			return after_extension(c, b, false);
		return true;
	case S_EXT_NAME_WS:
		if (b == '=')
			c->state = S_EXT_EQUALS;
		return b == '=' || is_ws(b) || (b == ';' && after_extension(c, b, true));
	case S_EXT_EQUALS:
		if (b == '"')
			c->state = S_EXT_QUOTED;
		else if (is_tchar(b))
			c->state = S_EXT_TOKEN;
		return b == '"' || is_ws(b) || is_tchar(b);
	case S_EXT_TOKEN:
		return is_tchar(b) || after_extension(c, b, false);
	case S_EXT_QUOTED:
		if (b == '"')
			c->state = S_EXT_VALUE_END;
		else if (b == '\\')
			c->state = S_EXT_ESCAPE;
		return is_text(b);
	case S_EXT_ESCAPE:
		c->state = S_EXT_QUOTED;
		return is_text(b);
	default: /* S_EXT_VALUE_END */
		return after_extension(c, b, false);
	}
}

static int in_trailer(struct l7mp_http_chunked *c, uint8_t b, struct l7mp_http_refusal *why)
{
	switch (c->state) {
	case S_TRAILER:
		if (b == '\r') {
			c->state = S_END_LF;
			return 0;
		}
		if (!is_tchar(b))
			return bad(why, "a trailer is folded, or has no name");
		if (++c->fields > L7MP_HTTP_FIELDS_MAX)
			return too_large(why, "the body has more than 256 trailers");
		c->state = S_TRAILER_NAME;
		return 0;
	case S_TRAILER_NAME:
		if (b == ':')
			c->state = S_TRAILER_VALUE;
		else if (!is_tchar(b))
			return bad(why, "a trailer's name has an invalid byte");
		return 0;
	default: /* S_TRAILER_VALUE */
		if (b == '\r')
			c->state = S_TRAILER_LF;
		else if (!is_text(b))
			return bad(why, "a trailer has an invalid byte");
		return 0;
	}
}

/* Handles the end of the line with a chunk's size. */
static int begin_data(struct l7mp_http_chunked *c, struct l7mp_http_refusal *why)
{
	uint64_t paid = c->left < L7MP_HTTP_CHUNK_EXCESS_MAX ? c->left : L7MP_HTTP_CHUNK_EXCESS_MAX;

	c->excess += c->line > LINE_FREE ? c->line - LINE_FREE : 0;
	c->excess -= paid < c->excess ? (uint32_t)paid : c->excess;
	if (c->excess > L7MP_HTTP_CHUNK_EXCESS_MAX)
		return bad(why, "the chunk extensions outweigh the body");
	c->line = 0;
	c->digits = 0;
	c->state = c->left ? S_DATA : S_TRAILER;
	return 0;
}

static int line_feed(struct l7mp_http_chunked *c, uint8_t b, struct l7mp_http_refusal *why)
{
	if (b != '\n')
		return bad(why, "a CR is not followed by LF in a chunked body");
	switch (c->state) {
	case S_SIZE_LF:
		return begin_data(c, why);
	case S_DATA_LF:
		c->line = 0;
		c->state = S_SIZE;
		return 0;
	case S_TRAILER_LF:
		c->state = S_TRAILER;
		return 0;
	default:
		c->state = S_DONE;
		return 0;
	}
}

/* Processes one byte of framing. Returns 0, or -1 with *why. */
static int step(struct l7mp_http_chunked *c, uint8_t b, struct l7mp_http_refusal *why)
{
	c->line++;
	switch (c->state) {
	case S_SIZE:
		return in_size(c, b, why);
	case S_SIZE_LF:
	case S_DATA_LF:
	case S_TRAILER_LF:
	case S_END_LF:
		return line_feed(c, b, why);
	case S_DATA_CR:
		c->state = S_DATA_LF;
		return b == '\r' ? 0 : bad(why, "a chunk is longer than its size");
	case S_TRAILER:
	case S_TRAILER_NAME:
	case S_TRAILER_VALUE:
		if (c->line > L7MP_HTTP_TRAILERS_MAX)
			return too_large(why, "the trailers are larger than 16 KiB");
		return in_trailer(c, b, why);
	case S_DONE:
		return bad(why, "a body that is complete was fed again");
	default:
		if (c->line > L7MP_HTTP_CHUNK_LINE_MAX)
			return bad(why, "a chunk's extensions are larger than 4 KiB");
		return in_extension(c, b) ? 0 : bad(why, "a chunk's extension is malformed");
	}
}

int l7mp_http_chunked_next(struct l7mp_http_chunked *c, const char *data, size_t len, size_t *used,
                           const char **body, size_t *n, struct l7mp_http_refusal *why)
{
	size_t at = 0;

	*n = 0;
	*body = data;
	while (at < len && c->state != S_DATA && c->state != S_DONE)
		if (step(c, (uint8_t)data[at++], why))
			return -1;
	if (c->state == S_DATA && at < len) {
		*body = data + at;
		*n = len - at < c->left ? len - at : (size_t)c->left;
		at += *n;
		c->left -= *n;
		if (!c->left)
			c->state = S_DATA_CR;
	}
	*used = at;
	return c->state == S_DONE;
}
