/* SPDX-License-Identifier: MIT */
/*
 * Buffers: one message of a datagram stream or one piece of a byte stream.
 *
 * Buffers are reference-counted and pooled. The payload has headroom in front, so that a protocol
 * can prepend its framing (a WebSocket frame header has up to 14 bytes) without a copy. A slice
 * shares its parent's bytes: one GRO receive becomes many datagrams without a copy.
 *
 * Thread: loop only, as the counts are not atomic. Each loop has its own pool.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;
struct l7mp_buf_pool;

/* Bytes before the payload of a new buffer. */
#define L7MP_BUF_HEADROOM 64

enum l7mp_buf_flags {
	L7MP_BUF_TEXT = 1 << 0, /* a WebSocket text message; kept from WebSocket to WebSocket */
	/*
	 * A UDP datagram on its way back to where it came from, or to others of its group: it
	 * leaves with `hops` as its TTL, so that it can't go round for ever.
	 */
	L7MP_BUF_HOPS = 1 << 1,
	L7MP_BUF_TOS = 1 << 2, /* came by UDP with the TOS byte in the bits from here on: */
};
#define L7MP_BUF_TOS_SHIFT 8

struct l7mp_buf {
	uint8_t *data;  /* first payload byte */
	uint32_t len;   /* payload bytes */
	uint16_t flags; /* enum l7mp_buf_flags */
	uint8_t hops;   /* UDP: TTL or hop limit that it was received with; 0: not known */
	/*
	 * Attributes of the message, owned; NULL for most. The first buffer of an HTTP response has
	 * {"HTTP": {"status": 404, "headers": {...}}}.
	 */
	struct cJSON *meta;
	struct l7mp_buf *next; /* link of the one queue it is in; for a second, make a slice */

	/* Private. */
	uint8_t *base; /* start of the memory that the payload is in */
	uint32_t size; /* bytes of that memory */
	uint32_t refs;
	struct l7mp_buf *parent; /* owner of that memory when this is a slice; a reference */
	struct l7mp_buf_pool *pool;
};

/*
 * Makes a pool that keeps at most `max_cached` bytes of free buffers for reuse. Each loop makes and
 * frees its own (l7mp_loop_bufs). Returns 0 or -ENOMEM.
 */
int l7mp_buf_pool_new(size_t max_cached, struct l7mp_buf_pool **out);
/* Frees the pool and its cached buffers; no buffer of it may be in use. Nulls the pointer. */
void l7mp_buf_pool_free(struct l7mp_buf_pool **pool);
/* Returns how many buffers are in use; leak checks of tests expect 0 at the end. */
size_t l7mp_buf_pool_used(const struct l7mp_buf_pool *pool);
/*
 * Bytes that they take, headers and unused room included, and what was charged to the pool: it is
 * the account of its loop's memory.
 */
size_t l7mp_buf_pool_held(const struct l7mp_buf_pool *pool);
/* Counts memory that is no buffer: what is charged is to be charged back (negative) later. */
void l7mp_buf_pool_charge(struct l7mp_buf_pool *pool, ptrdiff_t bytes);

/*
 * Makes an empty buffer (len 0) with L7MP_BUF_HEADROOM bytes before `data` and room for `capacity`
 * bytes after it. The caller has the only reference. Returns NULL when out of memory.
 */
struct l7mp_buf *l7mp_buf_new(struct l7mp_buf_pool *pool, size_t capacity);
/* Makes a buffer that holds a copy of the bytes. Returns NULL when out of memory. */
struct l7mp_buf *l7mp_buf_copy(struct l7mp_buf_pool *pool, const void *data, size_t len);
/*
 * Makes a buffer that shares the payload bytes [off, off + len) of `parent`, which must have them.
 * It holds a reference on the memory's owner; the caller keeps its own on `parent`. The flags are
 * copied, the meta is not. Returns NULL when out of memory.
 */
struct l7mp_buf *l7mp_buf_slice(struct l7mp_buf *parent, size_t off, size_t len);
/* Takes another reference; returns `buf`. */
struct l7mp_buf *l7mp_buf_ref(struct l7mp_buf *buf);
/* Gives a reference up; the last one frees the buffer and its meta. NULL is fine. */
void l7mp_buf_unref(struct l7mp_buf *buf);

/*
 * Returns whether this reference is the only one to the payload and its headroom, so that they may
 * be written in place.
 */
bool l7mp_buf_writable(const struct l7mp_buf *buf);
/* Returns the bytes that may be used before `data`, and after the payload. */
size_t l7mp_buf_headroom(const struct l7mp_buf *buf);
size_t l7mp_buf_tailroom(const struct l7mp_buf *buf);
/*
 * Makes a buffer writable, with at least `headroom` bytes before the payload and room for
 * `capacity` payload bytes in all. Takes `buf`, and returns it or a private copy of it. Returns
 * NULL when out of memory; `buf` is then gone, too.
 */
struct l7mp_buf *l7mp_buf_own(struct l7mp_buf *buf, size_t headroom, size_t capacity);

/*
 * For a buffer that is to wait in a queue whose bound counts payload bytes. Takes `buf`, and
 * returns it, or a copy in a smaller allocation when it keeps more than four times the memory that
 * it needs (a small slice of a 64 KiB receive). Returns NULL when out of memory; `buf` is then
 * gone, too.
 */
struct l7mp_buf *l7mp_buf_compact(struct l7mp_buf *buf);

/* A first-in first-out queue, linked through buf->next. It owns a reference to each member. */
struct l7mp_bufq {
	struct l7mp_buf *head;
	struct l7mp_buf **tail;
	size_t bytes; /* payload bytes in all */
	size_t count; /* buffers */
};
void l7mp_bufq_init(struct l7mp_bufq *q);
/* Appends; takes the caller's reference. */
void l7mp_bufq_push(struct l7mp_bufq *q, struct l7mp_buf *buf);
/* Removes the first buffer; its reference becomes the caller's. Returns NULL when empty. */
struct l7mp_buf *l7mp_bufq_pop(struct l7mp_bufq *q);
/* Unreferences all buffers; the queue is empty then. */
void l7mp_bufq_clear(struct l7mp_bufq *q);
