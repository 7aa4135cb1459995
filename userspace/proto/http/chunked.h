/* SPDX-License-Identifier: MIT */
/*
 * The chunked transfer coding of a request body (RFC 9112, section 7.1), decoded strictly and
 * incrementally: extensions and trailers are checked, bounded and dropped. No I/O, no memory.
 * Thread: any.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "head.h"

/* Bounds in bytes: one line with a chunk's size and its extensions, and all trailers together. */
#define L7MP_HTTP_CHUNK_LINE_MAX 4096
#define L7MP_HTTP_TRAILERS_MAX   16384
/*
 * Maximum number of framing bytes beyond the amount appropriate for the body's size. More would
 * only waste CPU time.
 */
#define L7MP_HTTP_CHUNK_EXCESS_MAX 65536

/* Private. Zeroed by its owner before the first byte of a body. */
struct l7mp_http_chunked {
	/* remaining bytes of this chunk's data; while the size is parsed, its value so far */
	uint64_t left;
	uint32_t line;   /* bytes of this line, or of all trailers */
	uint32_t excess; /* framing bytes beyond the amount appropriate for the data */
	uint16_t fields; /* trailers */
	uint8_t state;
	uint8_t digits;
};

/*
 * Decodes from `data`. Consumes *used bytes; *n of them, at *body, are data of the body (they point
 * into `data`; *n may be 0). Returns 1 at the end of the body, after its trailers; 0 when it must
 * be called again with the rest or more data; -1 with *why: 400 or 431. With len > 0 each call
 * consumes at least one byte.
 */
int l7mp_http_chunked_next(struct l7mp_http_chunked *c, const char *data, size_t len, size_t *used,
                           const char **body, size_t *n, struct l7mp_http_refusal *why);
