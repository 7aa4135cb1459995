/* SPDX-License-Identifier: MIT */
/* Load balancing: shares, stability under change, avoiding what failed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "l7mp/model.h"
#include "l7mp/util.h"

#define KEYS 20000
#define MAX  64

/* A cluster of n endpoints 10.0.0.<first>..., built by hand: this tests lb.c alone. */
struct set {
	struct l7mp_cluster cluster;
	struct l7mp_endpoint endpoints[MAX];
	struct l7mp_endpoint *list[MAX];
};

static void set_add(struct set *s, int id, double weight)
{
	size_t i = s->cluster.n_endpoints++;
	char address[32];

	assert_true(i < MAX);
	snprintf(address, sizeof(address), "10.0.0.%d", id);
	s->endpoints[i] = (struct l7mp_endpoint){.weight = weight};
	s->endpoints[i].obj.name = l7mp_asprintf("e%d", id);
	atomic_init(&s->endpoints[i].obj.refs, 1);
	s->endpoints[i].spec = cJSON_CreateObject();
	l7mp_json_add_str(s->endpoints[i].spec, "address", address);
	s->list[i] = &s->endpoints[i];
}

static void set_start(struct set *s, enum l7mp_lb_policy policy, char *key)
{
	s->cluster.endpoints = s->list;
	s->cluster.lb_policy = policy;
	s->cluster.lb_key = key;
	assert_int_equal(l7mp_lb_new(&s->cluster, &s->cluster.lb), 0);
}

static void set_clear(struct set *s)
{
	for (size_t i = 0; i < s->cluster.n_endpoints; i++) {
		free(s->endpoints[i].obj.name);
		cJSON_Delete(s->endpoints[i].spec);
	}
	l7mp_lb_free(&s->cluster.lb);
	memset(s, 0, sizeof(*s));
}

/* Adds the endpoint of this name. */
static void add_failed(struct set *s, struct l7mp_lb_avoid *avoid, const char *name)
{
	for (size_t i = 0; i < s->cluster.n_endpoints; i++)
		if (!strcmp(s->endpoints[i].obj.name, name))
			l7mp_lb_avoid_add(avoid, &s->endpoints[i]);
}

/* Picks after a failure of this endpoint; NULL: of none. */
static struct l7mp_endpoint *pick_avoiding(struct set *s, const cJSON *meta, const char *name)
{
	struct l7mp_lb_avoid avoid = {.n = 0};
	struct l7mp_endpoint *e;

	if (name)
		add_failed(s, &avoid, name);
	e = l7mp_lb_pick(&s->cluster, meta, name ? &avoid : NULL, NULL);
	l7mp_lb_avoid_clear(&avoid);
	return e;
}

static const char *pick_key(struct set *s, const cJSON *key, const char *avoid)
{
	cJSON *meta = cJSON_CreateObject();
	struct l7mp_endpoint *e;

	cJSON_AddItemReferenceToObject(meta, "k", (cJSON *)key);
	e = pick_avoiding(s, meta, avoid);
	cJSON_Delete(meta);
	return e->obj.name;
}

static const char *pick_num(struct set *s, int n, const char *avoid)
{
	cJSON key = {.type = cJSON_Number, .valuedouble = n, .valueint = n};

	return pick_key(s, &key, avoid);
}

static size_t index_of(const struct set *s, const char *name)
{
	for (size_t i = 0; i < s->cluster.n_endpoints; i++)
		if (strcmp(s->endpoints[i].obj.name, name) == 0)
			return i;
	fail_msg("no endpoint %s", name);
	return 0;
}

static struct set a, b;

static int teardown(void **state)
{
	(void)state;
	set_clear(&a);
	set_clear(&b);
	return 0;
}

/* ---- consistent hash ---- */

static void test_hash_moves(void **state)
{
	int moved = 0, moved_elsewhere = 0;

	(void)state;
	for (int i = 0; i < 10; i++)
		set_add(&a, i, 1);
	/* One more, at the front, so that every index changes. */
	set_add(&b, 99, 1);
	for (int i = 9; i >= 0; i--)
		set_add(&b, i, 1);
	set_start(&a, L7MP_LB_HASH, (char *)"/k");
	set_start(&b, L7MP_LB_HASH, (char *)"k");
	for (int k = 0; k < KEYS; k++) {
		const char *x = pick_num(&a, k, NULL), *y = pick_num(&b, k, NULL);

		if (strcmp(x, y) != 0) {
			moved++;
			moved_elsewhere += strcmp(y, "e99") != 0;
		}
	}
	/* 1/11 of the keys go to the new one, none moves between the old ones. */
	assert_int_equal(moved_elsewhere, 0);
	assert_true(fabs(moved / (double)KEYS - 1.0 / 11) < 0.025);
}

static void test_hash_balance(void **state)
{
	static const double weights[] = {1, 1, 1, 1, 3, 0.5, 2.5};
	double total = 10, count[7] = {0};

	(void)state;
	for (int i = 0; i < 7; i++)
		set_add(&a, i, weights[i]);
	set_start(&a, L7MP_LB_HASH, (char *)"/k");
	for (int k = 0; k < KEYS; k++)
		count[index_of(&a, pick_num(&a, k, NULL))]++;
	for (int i = 0; i < 7; i++) {
		double want = KEYS * weights[i] / total;

		if (fabs(count[i] - want) > want * 0.25)
			fail_msg("endpoint %d of weight %g got %g of %d, expected about %g", i,
			         weights[i], count[i], KEYS, want);
	}
}

/* A change of one weight moves keys only from or to that endpoint. */
static void test_hash_weight_change(void **state)
{
	int moved = 0;

	(void)state;
	for (int i = 0; i < 5; i++) {
		set_add(&a, i, 1);
		set_add(&b, i, i == 2 ? 2 : 1);
		/* The weight may also stand in the spec, which names the places on the ring. */
		if (i == 2)
			l7mp_json_add_num(b.endpoints[i].spec, "weight", 2);
	}
	set_start(&a, L7MP_LB_HASH, (char *)"/k");
	set_start(&b, L7MP_LB_HASH, (char *)"/k");
	for (int k = 0; k < KEYS; k++) {
		const char *x = pick_num(&a, k, NULL), *y = pick_num(&b, k, NULL);

		if (strcmp(x, y) != 0) {
			moved++;
			assert_string_equal(y, "e2");
		}
	}
	/* From 1/5 to 2/6. */
	assert_true(fabs(moved / (double)KEYS - (2.0 / 6 - 1.0 / 5)) < 0.04);
}

static void test_hash_keys(void **state)
{
	cJSON *one = cJSON_CreateNumber(1), *text = cJSON_CreateString("1");
	cJSON *object = cJSON_Parse("{\"a\":[1]}");
	const char *first;

	(void)state;
	for (int i = 0; i < 16; i++)
		set_add(&a, i, 1);
	set_start(&a, L7MP_LB_HASH, (char *)"/k");
	first = pick_key(&a, one, NULL);
	for (int i = 0; i < 10; i++)
		assert_ptr_equal(pick_key(&a, one, NULL), first);
	assert_ptr_equal(pick_key(&a, text, NULL), first);
	assert_ptr_equal(pick_key(&a, object, NULL), pick_key(&a, object, NULL));
	cJSON_Delete(one);
	cJSON_Delete(text);
	cJSON_Delete(object);
}

static void test_hash_avoid(void **state)
{
	(void)state;
	for (int i = 0; i < 4; i++)
		set_add(&a, i, 1);
	set_start(&a, L7MP_LB_HASH, (char *)"/k");
	for (int k = 0; k < 1000; k++) {
		const char *x = pick_num(&a, k, NULL), *y = pick_num(&a, k, x);

		assert_string_not_equal(x, y);
		assert_ptr_equal(pick_num(&a, k, x), y);
		assert_ptr_equal(pick_num(&a, k, "no such endpoint"), x);
	}
}

static void test_hash_without_key(void **state)
{
	const char *warning = "unset";
	cJSON *meta = cJSON_CreateObject();
	int count[4] = {0};

	(void)state;
	for (int i = 0; i < 4; i++)
		set_add(&a, i, 1);
	set_start(&a, L7MP_LB_HASH, NULL);
	for (int k = 0; k < 4000; k++)
		count[index_of(&a, l7mp_lb_pick(&a.cluster, meta, NULL, &warning)->obj.name)]++;
	assert_null(warning); /* none was asked for */
	for (int i = 0; i < 4; i++)
		assert_in_range(count[i], 800, 1200);
	set_add(&b, 1, 1);
	set_add(&b, 2, 1);
	set_start(&b, L7MP_LB_HASH, (char *)"/k");
	assert_non_null(l7mp_lb_pick(&b.cluster, meta, NULL, &warning));
	assert_non_null(warning);
	assert_non_null(strstr(warning, "hash key"));
	cJSON_Delete(meta);
}

static void test_hash_equal_specs(void **state)
{
	int count[3] = {0};

	(void)state;
	/* The same address three times: each gets its share. */
	for (int i = 0; i < 3; i++) {
		set_add(&a, 7, 1);
		free(a.endpoints[i].obj.name);
		a.endpoints[i].obj.name = l7mp_asprintf("t%d", i);
	}
	set_start(&a, L7MP_LB_HASH, (char *)"/k");
	for (int k = 0; k < 3000; k++)
		count[index_of(&a, pick_num(&a, k, NULL))]++;
	for (int i = 0; i < 3; i++)
		assert_in_range(count[i], 700, 1300);
}

static void test_hash_extremes(void **state)
{
	int count[3] = {0};

	(void)state;
	/* The ring is bounded, however large the weights, and not too coarse, however small. */
	set_add(&a, 1, 1000000);
	set_add(&a, 2, 1000000);
	set_add(&a, 3, 0.001);
	set_start(&a, L7MP_LB_HASH, (char *)"/k");
	for (int k = 0; k < 2000; k++)
		count[index_of(&a, pick_num(&a, k, NULL))]++;
	assert_in_range(count[0], 850, 1150);
	assert_in_range(count[2], 0, 5);
	memset(count, 0, sizeof(count));
	set_add(&b, 1, 0.001);
	set_add(&b, 2, 0.001);
	set_start(&b, L7MP_LB_HASH, (char *)"/k");
	for (int k = 0; k < 2000; k++)
		count[index_of(&b, pick_num(&b, k, NULL))]++;
	assert_in_range(count[0], 700, 1300);
}

/* ---- the others ---- */

static void test_round_robin(void **state)
{
	static const double weights[] = {3, 1, 1};
	char order[11] = "";

	(void)state;
	for (int i = 0; i < 3; i++)
		set_add(&a, i, weights[i]);
	set_start(&a, L7MP_LB_ROUND_ROBIN, NULL);
	for (int k = 0; k < 10; k++)
		order[k] = l7mp_lb_pick(&a.cluster, NULL, NULL, NULL)->obj.name[1];
	/* Exact shares in every round, and never in blocks. */
	assert_string_equal(order, "0102001020");
}

static void test_round_robin_avoid(void **state)
{
	int count[3] = {0};

	(void)state;
	for (int i = 0; i < 3; i++)
		set_add(&a, i, 1);
	set_start(&a, L7MP_LB_ROUND_ROBIN, NULL);
	for (int k = 0; k < 100; k++)
		count[index_of(&a, pick_avoiding(&a, NULL, "e1")->obj.name)]++;
	assert_int_equal(count[0], 50);
	assert_int_equal(count[1], 0);
	assert_int_equal(count[2], 50);
}

static void test_random(void **state)
{
	static const double weights[] = {1, 2, 7};
	int count[3] = {0};

	(void)state;
	for (int i = 0; i < 3; i++)
		set_add(&a, i, weights[i]);
	set_start(&a, L7MP_LB_RANDOM, NULL);
	for (int k = 0; k < 10000; k++)
		count[index_of(&a, l7mp_lb_pick(&a.cluster, NULL, NULL, NULL)->obj.name)]++;
	assert_in_range(count[0], 800, 1200);
	assert_in_range(count[1], 1750, 2250);
	assert_in_range(count[2], 6700, 7300);
	memset(count, 0, sizeof(count));
	for (int k = 0; k < 3000; k++)
		count[index_of(&a, pick_avoiding(&a, NULL, "e2")->obj.name)]++;
	assert_int_equal(count[2], 0);
	assert_in_range(count[0], 850, 1150);
}

static void test_trivial(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++)
		set_add(&a, i, 1);
	set_start(&a, L7MP_LB_TRIVIAL, NULL);
	assert_string_equal(l7mp_lb_pick(&a.cluster, NULL, NULL, NULL)->obj.name, "e0");
	assert_string_equal(pick_avoiding(&a, NULL, "e0")->obj.name, "e1");
	assert_string_equal(pick_avoiding(&a, NULL, "e1")->obj.name, "e0");
}

/*
 * Retries get to each endpoint before one is tried again, whatever the policy. A round after the
 * first leaves out the endpoint that has failed last.
 */
static void test_rounds(void **state)
{
	(void)state;
	for (int p = L7MP_LB_TRIVIAL; p <= L7MP_LB_RANDOM; p++) {
		struct l7mp_lb_avoid avoid = {.n = 0};
		cJSON *meta = cJSON_Parse("{\"k\": \"x\"}");
		size_t last = 5;

		for (int i = 0; i < 5; i++)
			set_add(&a, i, i + 1);
		set_add(&a, 5, 0);
		set_start(&a, (enum l7mp_lb_policy)p, (char *)"/k");
		for (int round = 0; round < 10; round++) {
			int count[6] = {0};

			count[last] = 1;
			for (int k = 0; k < (round ? 4 : 5); k++) {
				last = index_of(
				        &a, l7mp_lb_pick(&a.cluster, meta, &avoid, NULL)->obj.name);
				count[last]++;
				l7mp_lb_avoid_add(&avoid, &a.endpoints[last]);
			}
			for (int i = 0; i < 5; i++)
				assert_int_equal(count[i], 1);
			assert_int_equal(count[5], round == 0);
		}
		l7mp_lb_avoid_clear(&avoid);
		cJSON_Delete(meta);
		set_clear(&a);
	}
}

static void test_many_failures(void **state)
{
	struct l7mp_lb_avoid avoid = {.n = 0};

	(void)state;
	for (int i = 0; i < 9; i++)
		set_add(&a, i, 1);
	set_start(&a, L7MP_LB_TRIVIAL, NULL);
	for (int k = 0; k < 3 * L7MP_LB_AVOID_MAX; k++)
		add_failed(&a, &avoid, a.endpoints[k % 9].obj.name);
	assert_int_equal(avoid.n, 9);
	/* Those of no cluster count for the bound. */
	for (int i = 0; i < L7MP_LB_AVOID_MAX; i++) {
		set_add(&b, i + 100, 1);
		l7mp_lb_avoid_add(&avoid, &b.endpoints[i]);
	}
	assert_int_equal(avoid.n, L7MP_LB_AVOID_MAX);
	assert_string_equal(l7mp_lb_pick(&a.cluster, NULL, &avoid, NULL)->obj.name, "e0");
	l7mp_lb_avoid_clear(&avoid);
	set_clear(&a);
	set_clear(&b);
}

static void test_few(void **state)
{
	(void)state;
	for (int p = L7MP_LB_TRIVIAL; p <= L7MP_LB_RANDOM; p++) {
		set_start(&a, (enum l7mp_lb_policy)p, (char *)"/k");
		assert_null(l7mp_lb_pick(&a.cluster, NULL, NULL, NULL));
		set_clear(&a);
		/* The only one is taken even when it just failed. */
		set_add(&a, 5, 1);
		set_start(&a, (enum l7mp_lb_policy)p, (char *)"/k");
		assert_string_equal(pick_num(&a, 1, "e5"), "e5");
		assert_string_equal(pick_num(&a, 2, NULL), "e5");
		set_clear(&a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_teardown(test_hash_moves, teardown),
	        cmocka_unit_test_teardown(test_hash_balance, teardown),
	        cmocka_unit_test_teardown(test_hash_weight_change, teardown),
	        cmocka_unit_test_teardown(test_hash_keys, teardown),
	        cmocka_unit_test_teardown(test_hash_avoid, teardown),
	        cmocka_unit_test_teardown(test_hash_without_key, teardown),
	        cmocka_unit_test_teardown(test_hash_equal_specs, teardown),
	        cmocka_unit_test_teardown(test_hash_extremes, teardown),
	        cmocka_unit_test_teardown(test_round_robin, teardown),
	        cmocka_unit_test_teardown(test_round_robin_avoid, teardown),
	        cmocka_unit_test_teardown(test_random, teardown),
	        cmocka_unit_test_teardown(test_trivial, teardown),
	        cmocka_unit_test_teardown(test_rounds, teardown),
	        cmocka_unit_test_teardown(test_many_failures, teardown),
	        cmocka_unit_test_teardown(test_few, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
