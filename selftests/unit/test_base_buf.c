/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "l7mp/buf.h"

static int setup(void **state)
{
	struct l7mp_buf_pool *pool;

	if (l7mp_buf_pool_new(1 << 20, &pool))
		return -1;
	*state = pool;
	return 0;
}

/* Every test gives back all it took. */
static int teardown(void **state)
{
	struct l7mp_buf_pool *pool = *state;
	size_t used = l7mp_buf_pool_used(pool) + l7mp_buf_pool_held(pool);

	l7mp_buf_pool_free(&pool);
	return pool || used ? -1 : 0;
}

static void new_has_room(void **state)
{
	static const size_t sizes[] = {0,    1,     255,   256,   257,   2048,
	                               2049, 16384, 65535, 65536, 65537, 300000};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct l7mp_buf *buf = l7mp_buf_new(*state, sizes[i]);

		assert_non_null(buf);
		assert_int_equal(buf->len, 0);
		assert_int_equal(buf->flags, 0);
		assert_null(buf->meta);
		assert_true(l7mp_buf_writable(buf));
		assert_int_equal(l7mp_buf_headroom(buf), L7MP_BUF_HEADROOM);
		assert_true(l7mp_buf_tailroom(buf) >= sizes[i]);
		/* ASan looks whether all of it is really there. */
		memset(buf->data - l7mp_buf_headroom(buf), 0xaa,
		       l7mp_buf_headroom(buf) + l7mp_buf_tailroom(buf));
		assert_int_equal(l7mp_buf_pool_used(*state), 1);
		l7mp_buf_unref(buf);
		assert_int_equal(l7mp_buf_pool_used(*state), 0);
	}
	assert_null(l7mp_buf_new(*state, (size_t)UINT32_MAX));
	assert_null(l7mp_buf_new(*state, SIZE_MAX));
	l7mp_buf_unref(NULL);
}

static void freed_buffers_are_reused_clean(void **state)
{
	struct l7mp_buf *a = l7mp_buf_new(*state, 1500);
	struct l7mp_buf *first = a;

	a->flags = L7MP_BUF_TEXT;
	a->len = 7;
	a->data += 7;
	a->meta = cJSON_CreateObject();
	l7mp_buf_unref(a);
	a = l7mp_buf_new(*state, 1000);
	assert_ptr_equal(a, first);
	assert_int_equal(a->len, 0);
	assert_int_equal(a->flags, 0);
	assert_null(a->meta);
	assert_int_equal(l7mp_buf_headroom(a), L7MP_BUF_HEADROOM);
	l7mp_buf_unref(a);
}

static void cache_is_bounded(void **state)
{
	struct l7mp_buf_pool *pool;
	struct l7mp_buf *v[3];

	(void)state;
	/* Room for one small buffer, not for two. */
	assert_int_equal(l7mp_buf_pool_new(3000, &pool), 0);
	for (int i = 0; i < 3; i++)
		v[i] = l7mp_buf_new(pool, 2048);
	for (int i = 0; i < 3; i++)
		l7mp_buf_unref(v[i]);
	/* Only the first one stayed: it comes again (the two others went to the allocator). */
	assert_ptr_equal(l7mp_buf_new(pool, 2048), v[0]);
	assert_int_equal(l7mp_buf_pool_used(pool), 1);
	/* The owner may go first: the last buffer takes the pool along (ASan, LSan watch). */
	l7mp_buf_pool_free(&pool);
	assert_null(pool);
	l7mp_buf_unref(v[0]);
}

static void pool_outlives_slices(void **state)
{
	struct l7mp_buf_pool *pool;
	struct l7mp_buf *parent, *slice;

	(void)state;
	assert_int_equal(l7mp_buf_pool_new(1 << 20, &pool), 0);
	parent = l7mp_buf_copy(pool, "hello", 5);
	slice = l7mp_buf_slice(parent, 1, 3);
	l7mp_buf_unref(parent);
	l7mp_buf_pool_free(&pool);
	assert_memory_equal(slice->data, "ell", 3);
	l7mp_buf_unref(slice);
	l7mp_buf_pool_free(&pool);
}

static void slices_share_and_keep_bytes(void **state)
{
	struct l7mp_buf *parent = l7mp_buf_copy(*state, "abcdefghij", 10);
	struct l7mp_buf *a, *b, *c, *empty;

	parent->flags = L7MP_BUF_TEXT;
	a = l7mp_buf_slice(parent, 0, 4);
	b = l7mp_buf_slice(parent, 4, 6);
	c = l7mp_buf_slice(b, 2, 2); /* of a slice */
	empty = l7mp_buf_slice(parent, 10, 0);
	assert_int_equal(l7mp_buf_pool_used(*state), 5);
	assert_ptr_equal(a->data, parent->data);
	assert_int_equal(a->flags, L7MP_BUF_TEXT);
	assert_int_equal(empty->len, 0);
	assert_false(l7mp_buf_writable(parent) && l7mp_buf_writable(a));
	assert_false(l7mp_buf_writable(b));
	assert_int_equal(l7mp_buf_headroom(b), 0); /* a's bytes lie there */
	assert_int_equal(l7mp_buf_tailroom(a), 0);
	l7mp_buf_unref(parent);
	l7mp_buf_unref(b);
	assert_memory_equal(a->data, "abcd", 4);
	assert_memory_equal(c->data, "gh", 2);
	l7mp_buf_unref(empty);
	l7mp_buf_unref(a);
	/* The last one has the bytes for itself, and what lies around them. */
	assert_true(l7mp_buf_writable(c));
	assert_int_equal(l7mp_buf_headroom(c), L7MP_BUF_HEADROOM + 6);
	assert_true(l7mp_buf_tailroom(c) >= 2);
	memset(c->data - l7mp_buf_headroom(c), 'x', l7mp_buf_headroom(c));
	memset(c->data + c->len, 'y', l7mp_buf_tailroom(c));
	assert_memory_equal(c->data, "gh", 2);
	assert_int_equal(l7mp_buf_pool_used(*state), 2);
	l7mp_buf_unref(c);
}

static void references_make_it_read_only(void **state)
{
	struct l7mp_buf *buf = l7mp_buf_copy(*state, "x", 1);

	assert_true(l7mp_buf_writable(buf));
	assert_ptr_equal(l7mp_buf_ref(buf), buf);
	assert_false(l7mp_buf_writable(buf));
	l7mp_buf_unref(buf);
	assert_true(l7mp_buf_writable(buf));
	l7mp_buf_unref(buf);
}

static void own_copies_only_when_needed(void **state)
{
	struct l7mp_buf *buf = l7mp_buf_copy(*state, "hello", 5);
	struct l7mp_buf *other, *slice;

	assert_ptr_equal(l7mp_buf_own(buf, 16, 100), buf);
	assert_ptr_equal(l7mp_buf_own(buf, L7MP_BUF_HEADROOM, 0), buf);

	/*
	 * Shared: a copy with bytes, flags and a copy of the attributes; the other keeps its own.
	 */
	buf->flags = L7MP_BUF_TEXT;
	buf->meta = cJSON_CreateString("m");
	other = l7mp_buf_own(l7mp_buf_ref(buf), 0, 0);
	assert_ptr_not_equal(other, buf);
	assert_memory_equal(other->data, "hello", 5);
	assert_int_equal(other->flags, L7MP_BUF_TEXT);
	assert_string_equal(other->meta->valuestring, "m");
	assert_ptr_not_equal(other->meta, buf->meta);
	l7mp_buf_unref(other);

	/* More room than there is; the attributes move. */
	other = l7mp_buf_own(buf, 300, 10000);
	assert_ptr_not_equal(other, buf);
	assert_true(l7mp_buf_headroom(other) >= 300);
	assert_true(other->len + l7mp_buf_tailroom(other) >= 10000);
	assert_memory_equal(other->data, "hello", 5);
	assert_non_null(other->meta);

	/* A slice beside its parent. */
	slice = l7mp_buf_own(l7mp_buf_slice(other, 1, 3), 8, 3);
	assert_true(l7mp_buf_writable(slice));
	memset(slice->data - 8, '.', 8);
	assert_memory_equal(other->data, "hello", 5);
	assert_memory_equal(slice->data, "ell", 3);
	l7mp_buf_unref(slice);
	l7mp_buf_unref(other);
}

static void own_consumes_on_failure(void **state)
{
	struct l7mp_buf *buf = l7mp_buf_copy(*state, "hello", 5);

	assert_null(l7mp_buf_own(buf, SIZE_MAX, 0));
	assert_int_equal(l7mp_buf_pool_used(*state), 0);
	assert_null(l7mp_buf_own(l7mp_buf_copy(*state, "x", 1), 0, SIZE_MAX - 8));
}

static void compact_lets_large_parents_go(void **state)
{
	struct l7mp_buf *big = l7mp_buf_new(*state, 65536);
	struct l7mp_buf *buf;

	memset(big->data, 'b', 60000);
	big->len = 60000;
	assert_ptr_equal(l7mp_buf_compact(big), big);
	buf = l7mp_buf_compact(l7mp_buf_slice(big, 5, 100));
	assert_null(buf->parent);
	assert_true(buf->size < 1024);
	assert_int_equal(buf->len, 100);
	assert_int_equal(buf->data[99], 'b');
	l7mp_buf_unref(big);
	assert_int_equal(l7mp_buf_pool_used(*state), 1);
	assert_ptr_equal(l7mp_buf_compact(buf), buf);
	l7mp_buf_unref(buf);
}

static void queue_keeps_order_and_sums(void **state)
{
	struct l7mp_bufq q;
	struct l7mp_buf *buf;

	l7mp_bufq_init(&q);
	assert_null(l7mp_bufq_pop(&q));
	for (int round = 0; round < 2; round++) {
		l7mp_bufq_push(&q, l7mp_buf_copy(*state, "1", 1));
		l7mp_bufq_push(&q, l7mp_buf_copy(*state, "22", 2));
		l7mp_bufq_push(&q, l7mp_buf_copy(*state, "", 0));
		assert_int_equal(q.count, 3);
		assert_int_equal(q.bytes, 3);
		for (unsigned len = 1; len <= 3; len++) {
			buf = l7mp_bufq_pop(&q);
			assert_int_equal(buf->len, len % 3);
			assert_null(buf->next);
			l7mp_buf_unref(buf);
		}
		assert_int_equal(q.count, 0);
		assert_int_equal(q.bytes, 0);
		assert_null(l7mp_bufq_pop(&q));
	}
	l7mp_bufq_push(&q, l7mp_buf_copy(*state, "left", 4));
	l7mp_bufq_push(&q, l7mp_buf_copy(*state, "over", 4));
	l7mp_bufq_clear(&q);
	assert_int_equal(q.bytes, 0);
	assert_null(q.head);
	l7mp_bufq_push(&q, l7mp_buf_copy(*state, "again", 5));
	assert_int_equal(q.count, 1);
	l7mp_bufq_clear(&q);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(new_has_room),
	        T(freed_buffers_are_reused_clean),
	        T(cache_is_bounded),
	        T(pool_outlives_slices),
	        T(slices_share_and_keep_bytes),
	        T(references_make_it_read_only),
	        T(own_copies_only_when_needed),
	        T(own_consumes_on_failure),
	        T(compact_lets_large_parents_go),
	        T(queue_keeps_order_and_sums),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
