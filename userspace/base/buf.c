/* SPDX-License-Identifier: MIT */
#include "l7mp/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/json.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BUF_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define BUF_ASAN 1
#endif
#ifdef BUF_ASAN
/* Poisons cached buffers, so that ASan finds a use after the last unref. */
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n)   ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

/*
 * Room for data, without headroom, of each size class. 0: a slice, which has only a header; 256:
 * small queued data; 2 KiB: an Ethernet datagram; 16 KiB: a read from a stream; 64 KiB: a GRO
 * receive. Larger buffers are not cached.
 */
static const uint32_t class_room[] = {0, 256, 2048, 16384, 65536};
#define CLASSES     (sizeof(class_room) / sizeof(class_room[0]))
#define CLASS_NONE  CLASSES
#define CLASS_SLICE 0

struct l7mp_buf_pool {
	struct l7mp_buf *free[CLASSES];
	size_t cached; /* bytes in the free lists */
	size_t max_cached;
	size_t used;
	size_t held; /* bytes of the buffers in use, and charged bytes */
	bool dead;   /* freed by its owner; releasing the last buffer frees the pool */
};

int l7mp_buf_pool_new(size_t max_cached, struct l7mp_buf_pool **out)
{
	struct l7mp_buf_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return -ENOMEM;
	pool->max_cached = max_cached;
	*out = pool;
	return 0;
}

/* Bytes of an allocation: header, headroom and room. */
static size_t alloc_size(size_t room)
{
	return sizeof(struct l7mp_buf) + (room ? L7MP_BUF_HEADROOM + room : 0);
}

static void pool_trim(struct l7mp_buf_pool *pool)
{
	for (size_t c = 0; c < CLASSES; c++) {
		while (pool->free[c]) {
			struct l7mp_buf *buf = pool->free[c];

			ASAN_UNPOISON_MEMORY_REGION(buf, alloc_size(class_room[c]));
			pool->free[c] = buf->next;
			free(buf);
		}
	}
	pool->cached = 0;
}

void l7mp_buf_pool_free(struct l7mp_buf_pool **pool)
{
	struct l7mp_buf_pool *p = *pool;

	if (!p)
		return;
	*pool = NULL;
	pool_trim(p);
	p->max_cached = 0;
	p->dead = true;
	if (!p->used)
		free(p);
}

size_t l7mp_buf_pool_used(const struct l7mp_buf_pool *pool)
{
	return pool->used;
}

size_t l7mp_buf_pool_held(const struct l7mp_buf_pool *pool)
{
	return pool->held;
}

void l7mp_buf_pool_charge(struct l7mp_buf_pool *pool, ptrdiff_t bytes)
{
	pool->held += (size_t)bytes;
}

static inline size_t class_for(size_t room)
{
	for (size_t c = 1; c < CLASSES; c++)
		if (room <= class_room[c])
			return c;
	return CLASS_NONE;
}

/* The size class of a buffer, found from its sizes. */
static inline size_t class_of(const struct l7mp_buf *buf)
{
	size_t c;

	if (buf->parent)
		return CLASS_SLICE;
	c = class_for(buf->size - L7MP_BUF_HEADROOM);
	return c != CLASS_NONE && class_room[c] + L7MP_BUF_HEADROOM == buf->size ? c : CLASS_NONE;
}

/* Gets memory from the free list or the allocator. The header is not filled in. */
static inline struct l7mp_buf *buf_alloc(struct l7mp_buf_pool *pool, size_t c, size_t room)
{
	struct l7mp_buf *buf;
	size_t size = alloc_size(room);

	if (c != CLASS_NONE && pool->free[c]) {
		buf = pool->free[c];
		ASAN_UNPOISON_MEMORY_REGION(buf, size);
		pool->free[c] = buf->next;
		pool->cached -= size;
	} else {
		buf = malloc(size);
		if (!buf)
			return NULL;
	}
	pool->used++;
	pool->held += size;
	return buf;
}

struct l7mp_buf *l7mp_buf_new(struct l7mp_buf_pool *pool, size_t capacity)
{
	size_t c = class_for(capacity);
	size_t room = c == CLASS_NONE ? capacity : class_room[c];
	struct l7mp_buf *buf;

	if (room > UINT32_MAX - L7MP_BUF_HEADROOM)
		return NULL;
	buf = buf_alloc(pool, c, room);
	if (!buf)
		return NULL;
	buf->base = (uint8_t *)(buf + 1);
	buf->size = (uint32_t)room + L7MP_BUF_HEADROOM;
	buf->data = buf->base + L7MP_BUF_HEADROOM;
	buf->len = 0;
	buf->flags = 0;
	buf->hops = 0;
	buf->meta = NULL;
	buf->next = NULL;
	buf->refs = 1;
	buf->parent = NULL;
	buf->pool = pool;
	return buf;
}

struct l7mp_buf *l7mp_buf_copy(struct l7mp_buf_pool *pool, const void *data, size_t len)
{
	struct l7mp_buf *buf = l7mp_buf_new(pool, len);

	if (!buf)
		return NULL;
	if (len)
		memcpy(buf->data, data, len);
	buf->len = (uint32_t)len;
	return buf;
}

struct l7mp_buf *l7mp_buf_slice(struct l7mp_buf *parent, size_t off, size_t len)
{
	/* A slice of a slice refers to the owner of the memory, so that there are no chains. */
	struct l7mp_buf *owner = parent->parent ? parent->parent : parent;
	struct l7mp_buf *buf;

	assert(off <= parent->len && len <= parent->len - off);
	buf = buf_alloc(owner->pool, CLASS_SLICE, 0);
	if (!buf)
		return NULL;
	owner->refs++;
	buf->base = owner->base;
	buf->size = owner->size;
	buf->data = parent->data + off;
	buf->len = (uint32_t)len;
	buf->flags = parent->flags;
	buf->hops = parent->hops;
	buf->meta = NULL;
	buf->next = NULL;
	buf->refs = 1;
	buf->parent = owner;
	buf->pool = owner->pool;
	return buf;
}

struct l7mp_buf *l7mp_buf_ref(struct l7mp_buf *buf)
{
	buf->refs++;
	return buf;
}

/* Returns the memory to the free list or to the allocator. */
static void buf_release(struct l7mp_buf *buf)
{
	struct l7mp_buf_pool *pool = buf->pool;
	size_t c = class_of(buf);

	if (buf->meta)
		cJSON_Delete(buf->meta);
	pool->used--;
	pool->held -= buf->parent ? alloc_size(0) : sizeof(*buf) + buf->size;
	if (c != CLASS_NONE) {
		size_t size = alloc_size(class_room[c]);

		if (pool->cached + size <= pool->max_cached) {
			buf->next = pool->free[c];
			pool->free[c] = buf;
			pool->cached += size;
			ASAN_POISON_MEMORY_REGION(buf, size);
			return;
		}
	}
	free(buf);
	if (pool->dead && !pool->used)
		free(pool);
}

void l7mp_buf_unref(struct l7mp_buf *buf)
{
	struct l7mp_buf *parent;

	if (!buf)
		return;
	assert(buf->refs > 0);
	if (--buf->refs)
		return;
	parent = buf->parent;
	/* The slice is released before its parent, which keeps the pool alive. */
	buf_release(buf);
	if (parent && --parent->refs == 0)
		buf_release(parent);
}

bool l7mp_buf_writable(const struct l7mp_buf *buf)
{
	return buf->refs == 1 && (!buf->parent || buf->parent->refs == 1);
}

/* Whether other slices may use the memory around a slice. */
static inline bool has_siblings(const struct l7mp_buf *buf)
{
	return buf->parent && buf->parent->refs > 1;
}

size_t l7mp_buf_headroom(const struct l7mp_buf *buf)
{
	return has_siblings(buf) ? 0 : (size_t)(buf->data - buf->base);
}

size_t l7mp_buf_tailroom(const struct l7mp_buf *buf)
{
	return has_siblings(buf) ? 0 : (size_t)(buf->base + buf->size - buf->data) - buf->len;
}

/* Returns a private copy of the bytes, flags and attributes; takes buf. */
static struct l7mp_buf *buf_replace(struct l7mp_buf *buf, size_t headroom, size_t capacity)
{
	size_t extra = headroom > L7MP_BUF_HEADROOM ? headroom - L7MP_BUF_HEADROOM : 0;
	struct l7mp_buf *copy = NULL;

	if (capacity < buf->len)
		capacity = buf->len;
	if (extra <= UINT32_MAX && capacity <= UINT32_MAX)
		copy = l7mp_buf_new(buf->pool, capacity + extra);
	if (!copy)
		goto out;
	copy->data += extra;
	copy->len = buf->len;
	copy->flags = buf->flags;
	copy->hops = buf->hops;
	if (buf->len)
		memcpy(copy->data, buf->data, buf->len);
	if (buf->meta && buf->refs == 1) {
		copy->meta = buf->meta;
		buf->meta = NULL;
	} else if (buf->meta) {
		copy->meta = cJSON_Duplicate(buf->meta, true);
		if (!copy->meta) {
			l7mp_buf_unref(copy);
			copy = NULL;
		}
	}
out:
	l7mp_buf_unref(buf);
	return copy;
}

struct l7mp_buf *l7mp_buf_own(struct l7mp_buf *buf, size_t headroom, size_t capacity)
{
	if (l7mp_buf_writable(buf) && l7mp_buf_headroom(buf) >= headroom &&
	    buf->len + l7mp_buf_tailroom(buf) >= capacity)
		return buf;
	return buf_replace(buf, headroom, capacity);
}

struct l7mp_buf *l7mp_buf_compact(struct l7mp_buf *buf)
{
	size_t c = class_for(buf->len);

	/* Do not copy when that saves less than three quarters of the memory. */
	if (c == CLASS_NONE || buf->size / 4 < class_room[c] + L7MP_BUF_HEADROOM)
		return buf;
	return buf_replace(buf, 0, 0);
}

/* ---- queue ---- */

void l7mp_bufq_init(struct l7mp_bufq *q)
{
	*q = (struct l7mp_bufq){.tail = &q->head};
}

void l7mp_bufq_push(struct l7mp_bufq *q, struct l7mp_buf *buf)
{
	buf->next = NULL;
	*q->tail = buf;
	q->tail = &buf->next;
	q->bytes += buf->len;
	q->count++;
}

struct l7mp_buf *l7mp_bufq_pop(struct l7mp_bufq *q)
{
	struct l7mp_buf *buf = q->head;

	if (!buf)
		return NULL;
	q->head = buf->next;
	if (!q->head)
		q->tail = &q->head;
	buf->next = NULL;
	q->bytes -= buf->len;
	q->count--;
	return buf;
}

void l7mp_bufq_clear(struct l7mp_bufq *q)
{
	struct l7mp_buf *buf;

	while ((buf = l7mp_bufq_pop(q)))
		l7mp_buf_unref(buf);
}
