/* SPDX-License-Identifier: MIT */
/* The table from keys to sides, against an array that is searched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "offload/engine.h"

#define N 3000

static void check(const struct off_index *t, struct off_direction *index, const bool *in)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < N; i++) {
		assert_ptr_equal(off_index_find(t, &index[i].frame), in[i] ? &index[i] : NULL);
		n += in[i];
	}
	assert_int_equal(t->n, n);
}

static void test_random(void **state)
{
	struct off_direction *index = calloc(N, sizeof(*index)), copy;
	bool in[N] = {false};
	struct off_index t = {0};

	(void)state;
	assert_non_null(index);
	srand(1);
	for (uint32_t i = 0; i < N; i++)
		memcpy(index[i].key.saddr.bytes, &i, sizeof(i));
	for (int round = 0; round < 200; round++) {
		/* It grows, and is emptied again and again. */
		for (int k = 0; k < 300; k++) {
			uint32_t i = (uint32_t)rand() % N;

			if (round / 20 % 2 || (k & 3) == 3) {
				off_index_delete(&t, &index[i]);
				in[i] = false;
			} else {
				assert_int_equal(off_index_add(&t, &index[i]), in[i] ? -EEXIST : 0);
				in[i] = true;
			}
		}
		check(&t, index, in);
	}
	/* Another one of the same key is neither added nor deleted in its place. */
	off_index_delete(&t, &index[0]);
	assert_int_equal(off_index_add(&t, &index[0]), 0);
	copy = index[0];
	assert_int_equal(off_index_add(&t, &copy), -EEXIST);
	off_index_delete(&t, &copy);
	assert_ptr_equal(off_index_find(&t, &copy.frame), &index[0]);
	for (uint32_t i = 0; i < N; i++)
		off_index_delete(&t, &index[i]);
	assert_null(t.slots);
	assert_null(off_index_find(&t, &index[0].frame));
	free(index);
}

/* Chains that wrap around the table's end are closed, too, when one of their middle goes. */
static void test_collisions(void **state)
{
	struct off_direction *index = calloc(400, sizeof(*index));
	struct off_index t = {0};
	uint32_t n = 0;

	(void)state;
	assert_non_null(index);
	for (uint32_t i = 0; n < 400; i++) {
		struct off_direction *s = &index[n];

		memcpy(s->key.saddr.bytes, &i, sizeof(i));
		/* all at home in the last sixteen slots of 1024 */
		if ((l7mp_hash(&s->key, sizeof(s->key)) & 1023) < 1008)
			continue;
		assert_int_equal(off_index_add(&t, s), 0);
		n++;
	}
	assert_int_equal(t.mask, 1023);
	for (uint32_t gone = 0; gone < n; gone++) {
		off_index_delete(&t, &index[(gone * 7) % n]);
		for (uint32_t k = 0; k < n; k++) {
			uint32_t i = (k * 7) % n;

			assert_ptr_equal(off_index_find(&t, &index[i].frame),
			                 k > gone ? &index[i] : NULL);
		}
	}
	free(index);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_random),
	        cmocka_unit_test(test_collisions),
	};

	return cmocka_run_group_tests_name("offload_sides", tests, NULL, NULL);
}
