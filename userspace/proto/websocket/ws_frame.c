/* SPDX-License-Identifier: MIT */
#include "ws_frame.h"

#include <string.h>

/* ---- text ---- */

/* What begins with b; false: no character does. */
static bool utf8_begin(struct l7mp_ws_utf8 *u, uint8_t b)
{
	u->lo = 0x80;
	u->hi = 0xbf;
	if (b < 0x80) {
		u->left = 0;
	} else if (b >= 0xc2 && b <= 0xdf) {
		u->left = 1;
	} else if (b >= 0xe0 && b <= 0xef) {
		u->left = 2;
		if (b == 0xe0)
			u->lo = 0xa0; /* shorter forms exist */
		else if (b == 0xed)
			u->hi = 0x9f; /* surrogates */
	} else if (b >= 0xf0 && b <= 0xf4) {
		u->left = 3;
		if (b == 0xf0)
			u->lo = 0x90;
		else if (b == 0xf4)
			u->hi = 0x8f; /* beyond U+10FFFF */
	} else {
		return false;
	}
	return true;
}

bool l7mp_ws_utf8_step(struct l7mp_ws_utf8 *u, const uint8_t *s, size_t n)
{
	while (n) {
		uint64_t eight;

		if (!u->left && n >= sizeof(eight)) { /* eight ASCII characters at once */
			memcpy(&eight, s, sizeof(eight));
			if (!(eight & 0x8080808080808080u)) {
				s += sizeof(eight);
				n -= sizeof(eight);
				continue;
			}
		}
		if (!u->left) {
			if (!utf8_begin(u, *s))
				return false;
		} else {
			if (*s < u->lo || *s > u->hi)
				return false;
			u->left--;
			u->lo = 0x80;
			u->hi = 0xbf;
		}
		s++;
		n--;
	}
	return true;
}

bool l7mp_ws_code_valid(unsigned code)
{
	if (code >= 3000)
		return code <= 4999;
	return code >= 1000 && code <= 1014 && (code < 1004 || code > 1006);
}

/* ---- frames ---- */

void l7mp_ws_mask(uint8_t *data, size_t n, const uint8_t mask[4], size_t at)
{
	uint8_t key[8];
	uint64_t k, v;
	size_t i;

	for (i = 0; i < sizeof(key); i++)
		key[i] = mask[(at + i) & 3];
	memcpy(&k, key, sizeof(k));
	for (i = 0; i + sizeof(v) <= n; i += sizeof(v)) {
		memcpy(&v, data + i, sizeof(v));
		v ^= k;
		memcpy(data + i, &v, sizeof(v));
	}
	for (; i < n; i++)
		data[i] ^= key[i & 7];
}

size_t l7mp_ws_head_write(uint8_t *end, enum l7mp_ws_opcode opcode, uint64_t len,
                          const uint8_t *mask)
{
	size_t width = len < 126 ? 0 : len <= 0xffff ? 2 : 8;
	size_t n = 2 + width + (mask ? 4 : 0);
	uint8_t *p = end - n;

	*p++ = (uint8_t)(0x80 | opcode);
	*p++ = (uint8_t)((mask ? 0x80 : 0) | (width == 0 ? len : width == 2 ? 126 : 127));
	for (size_t i = width; i > 0; i--)
		*p++ = (uint8_t)(len >> (8 * (i - 1)));
	if (mask)
		memcpy(p, mask, 4);
	return n;
}

/* ---- reading ---- */

void l7mp_ws_reader_init(struct l7mp_ws_reader *r, bool server, uint64_t max)
{
	memset(r, 0, sizeof(*r));
	r->server = server;
	r->max = max;
	r->need = 2;
}

static enum l7mp_ws_event broken(struct l7mp_ws_got *got, int code, const char *why)
{
	got->code = code;
	got->why = why;
	return L7MP_WS_BROKEN;
}

/* The first two bytes. NULL: fine so far, and `need` is set; else what is wrong. */
static const char *first_bytes(struct l7mp_ws_reader *r)
{
	uint8_t len = r->head[1] & 0x7f;

	r->opcode = r->head[0] & 15;
	r->final = r->head[0] & 0x80;
	if (r->head[0] & 0x70)
		return "a reserved bit is set";
	if ((r->opcode & 7) > 2)
		return "a reserved opcode";
	if (r->server != !!(r->head[1] & 0x80))
		return r->server ? "a client's frame is not masked" : "a server's frame is masked";
	if (r->opcode & 8) {
		if (!r->final)
			return "a control frame in fragments";
		if (len > L7MP_WS_CONTROL_MAX)
			return "a control frame of more than 125 bytes";
	} else if (!r->opcode != !!r->message) {
		return r->message ? "a new message within a message" : "a continuation of nothing";
	}
	r->need = (uint8_t)(2 + (len < 126 ? 0 : len == 126 ? 2 : 8) + (r->server ? 4 : 0));
	return NULL;
}

/* The head is complete. */
static enum l7mp_ws_event begin_payload(struct l7mp_ws_reader *r, struct l7mp_ws_got *got)
{
	uint8_t len = r->head[1] & 0x7f;
	size_t at = 2, width = len < 126 ? 0 : len == 126 ? 2 : 8;

	r->left = width ? 0 : len;
	for (size_t i = 0; i < width; i++)
		r->left = r->left << 8 | r->head[at++];
	if (r->left >> 63)
		return broken(got, 1002, "a frame's length has its first bit set");
	if (r->server)
		memcpy(r->mask, r->head + at, 4);
	r->mask_at = 0;
	r->in_payload = true;
	if (r->opcode & 8) {
		r->control_len = 0;
		return L7MP_WS_MORE;
	}
	if (r->opcode) {
		r->message = r->opcode;
		r->size = 0;
		memset(&r->utf8, 0, sizeof(r->utf8));
	}
	if (r->left > r->max - r->size)
		return broken(got, 1009, "a message is too large");
	return L7MP_WS_MORE;
}

static void end_frame(struct l7mp_ws_reader *r)
{
	r->in_payload = false;
	r->have = 0;
	r->need = 2;
}

static enum l7mp_ws_event control_done(struct l7mp_ws_reader *r, struct l7mp_ws_got *got)
{
	struct l7mp_ws_utf8 utf8 = {0};

	end_frame(r);
	got->opcode = (enum l7mp_ws_opcode)r->opcode;
	got->data = r->control;
	got->len = r->control_len;
	got->final = true;
	if (r->opcode != L7MP_WS_CLOSE || !r->control_len)
		return L7MP_WS_CONTROL;
	if (r->control_len == 1)
		return broken(got, 1002, "a Close frame of one byte");
	got->code = r->control[0] << 8 | r->control[1];
	if (!l7mp_ws_code_valid((unsigned)got->code))
		return broken(got, 1002, "a Close frame with a code that may not be sent");
	if (!l7mp_ws_utf8_step(&utf8, r->control + 2, r->control_len - 2u) || utf8.left)
		return broken(got, 1007, "a Close frame whose reason is not UTF-8");
	return L7MP_WS_CONTROL;
}

/* n bytes of payload, already unmasked. */
static enum l7mp_ws_event payload(struct l7mp_ws_reader *r, const uint8_t *data, size_t n,
                                  struct l7mp_ws_got *got)
{
	if (r->opcode & 8) {
		if (n)
			memcpy(r->control + r->control_len, data, n);
		r->control_len = (uint8_t)(r->control_len + n);
		return r->left ? L7MP_WS_MORE : control_done(r, got);
	}
	r->size += n;
	got->opcode = (enum l7mp_ws_opcode)r->message;
	got->data = data;
	got->len = n;
	got->left = r->left;
	got->final = r->final && !r->left;
	if (r->message == L7MP_WS_TEXT &&
	    (!l7mp_ws_utf8_step(&r->utf8, data, n) || (got->final && r->utf8.left)))
		return broken(got, 1007, "text that is not UTF-8");
	if (got->final)
		r->message = 0;
	if (!r->left)
		end_frame(r);
	return L7MP_WS_PIECE;
}

enum l7mp_ws_event l7mp_ws_read(struct l7mp_ws_reader *r, uint8_t *data, size_t len, size_t *used,
                                struct l7mp_ws_got *got)
{
	size_t at = 0, n;

	memset(got, 0, sizeof(*got));
	for (;;) {
		enum l7mp_ws_event event = L7MP_WS_MORE;
		const char *why;

		if (!r->in_payload) {
			while (r->have < r->need && at < len)
				r->head[r->have++] = data[at++];
			*used = at;
			if (r->have < r->need)
				return L7MP_WS_MORE;
			if (r->have == 2) {
				why = first_bytes(r);
				if (why)
					return broken(got, 1002, why);
				if (r->need > 2)
					continue;
			}
			event = begin_payload(r, got);
			if (event == L7MP_WS_BROKEN)
				return event;
		}
		n = len - at < r->left ? len - at : (size_t)r->left;
		if (!n && r->left) {
			*used = at;
			return L7MP_WS_MORE;
		}
		if (r->server && n)
			l7mp_ws_mask(data + at, n, r->mask, r->mask_at);
		r->mask_at += n;
		r->left -= n;
		at += n;
		*used = at;
		event = payload(r, data + at - n, n, got);
		if (event != L7MP_WS_MORE)
			return event;
	}
}
