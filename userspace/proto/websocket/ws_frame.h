/* SPDX-License-Identifier: MIT */
/*
 * Frames of WebSocket (RFC 6455, section 5), without I/O: an incremental reader that
 * checks all there is to check, and heads for frames to be sent.
 *
 * This is own code because of what the libraries of the day do not: libwebsockets 4.1
 * leaves pings unanswered that come while one is answered, takes unmasked frames
 * from clients, and drops some connections without a word where a Close frame is due;
 * wslay 1.1 misjudges text of a Close frame that comes in pieces. Thread: any.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum l7mp_ws_opcode {
	L7MP_WS_CONT = 0,
	L7MP_WS_TEXT = 1,
	L7MP_WS_BINARY = 2,
	L7MP_WS_CLOSE = 8,
	L7MP_WS_PING = 9,
	L7MP_WS_PONG = 10,
};

#define L7MP_WS_CONTROL_MAX  125 /* payload of a control frame */
#define L7MP_WS_HEAD_LEN_MAX 14  /* of a frame */

/* Is this UTF-8 (RFC 3629) so far? Zeroed: nothing was read yet. */
struct l7mp_ws_utf8 {
	uint8_t left;   /* bytes of a character that are still to come */
	uint8_t lo, hi; /* and what the next of them may be */
};
bool l7mp_ws_utf8_step(struct l7mp_ws_utf8 *u, const uint8_t *s, size_t n);

/* The codes that may be in a Close frame: RFC 6455, section 7.4, and IANA's registry. */
bool l7mp_ws_code_valid(unsigned code);

/* data ^= mask, which begins at its byte `at`. */
void l7mp_ws_mask(uint8_t *data, size_t n, const uint8_t mask[4], size_t at);

/*
 * Writes a frame's head (final, no reserved bits) that ends just before `end`;
 * returns its length. mask NULL: not masked.
 */
size_t l7mp_ws_head_write(uint8_t *end, enum l7mp_ws_opcode opcode, uint64_t len,
                          const uint8_t *mask);

/* ---- reading ---- */

struct l7mp_ws_reader {
	bool server;  /* frames have to be masked; else they must not be */
	uint64_t max; /* bytes of a message */

	/* private */
	uint8_t head[L7MP_WS_HEAD_LEN_MAX];
	uint8_t have, need; /* bytes of the head */
	bool in_payload, final;
	uint8_t opcode;  /* of this frame */
	uint8_t message; /* TEXT or BINARY while a message is being read; else 0 */
	uint64_t left;   /* payload of this frame that is to come */
	uint64_t size;   /* of the message so far */
	uint8_t mask[4];
	size_t mask_at;
	struct l7mp_ws_utf8 utf8;
	uint8_t control[L7MP_WS_CONTROL_MAX];
	uint8_t control_len;
};

enum l7mp_ws_event {
	L7MP_WS_MORE,    /* all bytes are used up */
	L7MP_WS_PIECE,   /* of a message; final: its last one (which may be empty) */
	L7MP_WS_CONTROL, /* a whole control frame */
	L7MP_WS_BROKEN,  /* the peer broke the rules; nothing can be read after this */
};

struct l7mp_ws_got {
	enum l7mp_ws_opcode opcode; /* of a piece: TEXT or BINARY */
	const uint8_t *data;        /* unmasked; within what was given, or within the reader */
	size_t len;
	bool final;
	uint64_t left;   /* of a piece: so many bytes are still to come in its frame */
	int code;        /* CLOSE: the code, 0 without; BROKEN: what to close with */
	const char *why; /* BROKEN: static text */
};

void l7mp_ws_reader_init(struct l7mp_ws_reader *r, bool server, uint64_t max);
/*
 * The next thing in `data`, which is unmasked in place. *used: how many bytes were
 * read; call again with the rest until L7MP_WS_MORE.
 */
enum l7mp_ws_event l7mp_ws_read(struct l7mp_ws_reader *r, uint8_t *data, size_t len, size_t *used,
                                struct l7mp_ws_got *got);
