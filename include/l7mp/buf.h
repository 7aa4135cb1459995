/* SPDX-License-Identifier: MIT */
/*
 * Buffers: one message of a datagram stream or one piece of a byte stream.
 *
 * Reference-counted and pooled; the payload has headroom in front, so that a
 * protocol can prepend its framing (a WebSocket frame has up to 14 bytes) without
 * a copy. A slice shares its parent's bytes: one GRO receive becomes many
 * datagrams without a copy.
 *
 * Thread: loop only (counts are not atomic); each loop has its own pool.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;
struct l7mp_buf_pool;

#define L7MP_BUF_HEADROOM 64

enum l7mp_buf_flags {
	L7MP_BUF_TEXT = 1 << 0, /* a WebSocket text message; passes from WebSocket to WebSocket */
};

struct l7mp_buf {
	uint8_t *data; /* first payload byte */
	uint32_t len;
	uint32_t flags;
	/*
	 * Attributes of the message, owned, rare: the head of an HTTP response on
	 * its first buffer, {"HTTP": {"status": 404, "headers": {...}}}.
	 */
	struct cJSON *meta;
	struct l7mp_buf *next; /* for the one queue it is in: to queue it twice, queue a slice */

	/* private */
	uint8_t *base;
	uint32_t size;
	uint32_t refs;
	struct l7mp_buf *parent;
	struct l7mp_buf_pool *pool;
};

/* Keeps at most `max_cached` bytes of free buffers; freed with its loop. */
int l7mp_buf_pool_new(size_t max_cached, struct l7mp_buf_pool **out);
void l7mp_buf_pool_free(struct l7mp_buf_pool **pool);
/* Buffers now in use (tests: 0 at the end). */
size_t l7mp_buf_pool_used(const struct l7mp_buf_pool *pool);

/* len = 0, data after the headroom, `capacity` bytes of room. NULL: no memory. */
struct l7mp_buf *l7mp_buf_new(struct l7mp_buf_pool *pool, size_t capacity);
/* A buffer with a copy of the bytes. */
struct l7mp_buf *l7mp_buf_copy(struct l7mp_buf_pool *pool, const void *data, size_t len);
/* Shares parent's bytes [off, off+len); holds a reference on parent. */
struct l7mp_buf *l7mp_buf_slice(struct l7mp_buf *parent, size_t off, size_t len);
struct l7mp_buf *l7mp_buf_ref(struct l7mp_buf *buf);
void l7mp_buf_unref(struct l7mp_buf *buf); /* NULL is fine */

/*
 * True when the bytes (and headroom) belong to this reference alone and may be
 * written in place.
 */
bool l7mp_buf_writable(const struct l7mp_buf *buf);
size_t l7mp_buf_headroom(const struct l7mp_buf *buf);
size_t l7mp_buf_tailroom(const struct l7mp_buf *buf);
/*
 * Takes `buf`; returns it, or a private copy with headroom and room for `capacity` bytes. NULL: no
 * memory.
 */
struct l7mp_buf *l7mp_buf_own(struct l7mp_buf *buf, size_t headroom, size_t capacity);

/*
 * Takes `buf`; returns it, or a copy in a much smaller allocation when it pins many
 * times more memory than it has bytes (a slice of a 64 KiB receive). For what
 * waits in a queue whose bound counts payload bytes. NULL: no memory.
 */
struct l7mp_buf *l7mp_buf_compact(struct l7mp_buf *buf);

/* A first-in first-out queue linked through buf->next, with its size in bytes. */
struct l7mp_bufq {
	struct l7mp_buf *head;
	struct l7mp_buf **tail;
	size_t bytes;
	size_t count;
};
void l7mp_bufq_init(struct l7mp_bufq *q);
void l7mp_bufq_push(struct l7mp_bufq *q, struct l7mp_buf *buf); /* takes buf */
struct l7mp_buf *l7mp_bufq_pop(struct l7mp_bufq *q);            /* NULL when empty */
void l7mp_bufq_clear(struct l7mp_bufq *q);
