/* SPDX-License-Identifier: MIT */
/*
 * Load balancing.
 *
 * The hash ring has many points for each endpoint, in proportion to its weight, at positions that
 * depend only on its spec (not on its name, its order, the process or the other endpoints). So the
 * same key goes to the same endpoint in every proxy with that cluster, and when one of N endpoints
 * is added or removed only about 1/N of the keys move.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "l7mp/hash.h"
#include "l7mp/model.h"

#define POINTS_PER_WEIGHT 256 /* shares are right within about 1/sqrt(this) */
#define POINTS_AVERAGE    64  /* at least, for weights far below 1 */
#define POINTS_TOTAL      (1 << 18)
#define KEY_SEED          0x6c376d70u

struct point {
	uint64_t at;
	uint32_t endpoint;
};

struct l7mp_lb {
	double *weight;  /* of each endpoint */
	double *current; /* smooth round robin: credit of each endpoint */
	double total;
	struct point *ring; /* sorted; NULL: another policy, or not enough endpoints */
	size_t n_points;
	uint64_t random;
};

static uint64_t next_random(struct l7mp_lb *lb)
{
	/* splitmix64 */
	uint64_t z = (lb->random += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static double random_below(struct l7mp_lb *lb, double bound)
{
	return (double)(next_random(lb) >> 11) * 0x1p-53 * bound;
}

static int by_place(const void *a, const void *b)
{
	const struct point *p = a, *q = b;

	if (p->at != q->at)
		return p->at < q->at ? -1 : 1;
	return p->endpoint < q->endpoint ? -1 : p->endpoint > q->endpoint;
}

/* Returns the identity of an endpoint as text: its spec without the weight. Heap. */
static char *identity(const struct l7mp_endpoint *e)
{
	cJSON *spec = e->spec ? cJSON_Duplicate(e->spec, true) : cJSON_CreateObject();
	char *text = NULL;

	if (spec) {
		cJSON_DeleteItemFromObjectCaseSensitive(spec, "weight");
		text = cJSON_PrintUnformatted(spec);
	}
	cJSON_Delete(spec);
	return text;
}

/*
 * Points per unit of weight: changed in powers of two and only at extremes, so that positions stay.
 */
static double density(const struct l7mp_lb *lb, size_t n)
{
	double d = POINTS_PER_WEIGHT;

	while (d * lb->total > POINTS_TOTAL)
		d /= 2;
	while (d * lb->total < POINTS_AVERAGE * (double)n)
		d *= 2;
	return d;
}

static size_t share(double weight, double d)
{
	size_t n = (size_t)(weight * d + 0.5);

	return n || weight <= 0 ? n : 1;
}

struct identity {
	char *text;
	size_t endpoint;
	uint64_t ordinal; /* number of earlier ones with the same text */
};

static int by_text(const void *a, const void *b)
{
	const struct identity *p = a, *q = b;
	int d = strcmp(p->text, q->text);

	return d ? d : p->endpoint < q->endpoint ? -1 : p->endpoint > q->endpoint;
}

/*
 * Sorted by text. Endpoints with the same spec would have the same points, so the n-th of them gets
 * other positions.
 */
static struct identity *identities(const struct l7mp_cluster *c)
{
	struct identity *ids = calloc(c->n_endpoints, sizeof(*ids));

	for (size_t i = 0; ids && i < c->n_endpoints; i++) {
		ids[i] = (struct identity){.text = identity(c->endpoints[i]), .endpoint = i};
		if (ids[i].text)
			continue;
		while (i--)
			free(ids[i].text);
		free(ids);
		return NULL;
	}
	if (!ids)
		return NULL;
	qsort(ids, c->n_endpoints, sizeof(*ids), by_text);
	for (size_t i = 1; i < c->n_endpoints; i++)
		if (strcmp(ids[i].text, ids[i - 1].text) == 0)
			ids[i].ordinal = ids[i - 1].ordinal + 1;
	return ids;
}

static void place(struct l7mp_lb *lb, const struct identity *id, size_t points)
{
	size_t len = strlen(id->text);

	for (size_t k = 0; k < points; k++)
		lb->ring[lb->n_points++] = (struct point){
		        .at = l7mp_hash_stable(id->text, len, id->ordinal << 32 | k),
		        .endpoint = (uint32_t)id->endpoint,
		};
}

static int build_ring(struct l7mp_lb *lb, const struct l7mp_cluster *c)
{
	double d = density(lb, c->n_endpoints);
	struct identity *ids = identities(c);
	size_t total = 0;

	for (size_t i = 0; i < c->n_endpoints; i++)
		total += share(lb->weight[i], d);
	lb->ring = calloc(total, sizeof(*lb->ring));
	for (size_t i = 0; ids && i < c->n_endpoints; i++) {
		if (lb->ring)
			place(lb, &ids[i], share(lb->weight[ids[i].endpoint], d));
		free(ids[i].text);
	}
	free(ids);
	if (!lb->ring || !lb->n_points)
		return -ENOMEM;
	qsort(lb->ring, lb->n_points, sizeof(*lb->ring), by_place);
	return 0;
}

int l7mp_lb_new(const struct l7mp_cluster *c, struct l7mp_lb **out)
{
	struct l7mp_lb *lb = calloc(1, sizeof(*lb));
	size_t n = c->n_endpoints ? c->n_endpoints : 1;

	*out = NULL;
	if (!lb)
		return -ENOMEM;
	lb->weight = calloc(n, sizeof(*lb->weight));
	lb->current = calloc(n, sizeof(*lb->current));
	if (!lb->weight || !lb->current)
		goto no_memory;
	for (size_t i = 0; i < c->n_endpoints; i++) {
		lb->weight[i] = c->endpoints[i]->weight;
		lb->total += lb->weight[i];
	}
	if (getrandom(&lb->random, sizeof(lb->random), GRND_NONBLOCK) < 0)
		lb->random = l7mp_hash(&c->obj.generation, sizeof(c->obj.generation));
	if (c->lb_policy == L7MP_LB_HASH && c->lb_key && c->n_endpoints > 1 && lb->total > 0 &&
	    build_ring(lb, c))
		goto no_memory;
	*out = lb;
	return 0;
no_memory:
	l7mp_lb_free(&lb);
	return -ENOMEM;
}

void l7mp_lb_free(struct l7mp_lb **lb)
{
	if (!*lb)
		return;
	free((*lb)->weight);
	free((*lb)->current);
	free((*lb)->ring);
	free(*lb);
	*lb = NULL;
}

/* ---- endpoints that have failed ---- */

void l7mp_lb_avoid_clear(struct l7mp_lb_avoid *a)
{
	while (a->n)
		l7mp_object_unref(a->endpoints[--a->n]);
}

static void avoid_remove(struct l7mp_lb_avoid *a, unsigned i)
{
	l7mp_object_unref(a->endpoints[i]);
	a->n--;
	memmove(&a->endpoints[i], &a->endpoints[i + 1],
	        (a->n - i) * sizeof(struct l7mp_endpoint *));
}

static unsigned avoid_find(const struct l7mp_lb_avoid *a, const char *name)
{
	unsigned i = 0;

	while (i < a->n && strcmp(a->endpoints[i]->obj.name, name) != 0)
		i++;
	return i;
}

void l7mp_lb_avoid_add(struct l7mp_lb_avoid *a, struct l7mp_endpoint *e)
{
	unsigned i = avoid_find(a, e->obj.name);

	if (i < a->n)
		avoid_remove(a, i);
	else if (a->n == L7MP_LB_AVOID_MAX)
		avoid_remove(a, 0);
	a->endpoints[a->n++] = l7mp_object_ref(e);
}

/* ---- picking ---- */

/*
 * Marks in `skip` (may be NULL: not known) the endpoints to avoid. Returns the number of those left
 * that take sessions; *last is one of them.
 */
static size_t mark(const struct l7mp_cluster *c, const struct l7mp_lb_avoid *avoid, bool *skip,
                   size_t *last)
{
	size_t n = 0;

	for (size_t i = 0; i < c->n_endpoints; i++) {
		if (skip)
			skip[i] = avoid_find(avoid, c->endpoints[i]->obj.name) < avoid->n;
		if (c->endpoints[i]->weight <= 0 || (skip && skip[i]))
			continue;
		n++;
		*last = i;
	}
	return n;
}

/* Also one that drains (weight 0): it gets no new session. */
static bool avoided(const struct l7mp_cluster *c, size_t i, const bool *skip)
{
	return c->endpoints[i]->weight <= 0 || (skip && skip[i]);
}

/*
 * Each of these functions returns an index. `skip` has a flag for each endpoint, NULL: none is set;
 * at least one endpoint is not avoided.
 */

static size_t pick_first(const struct l7mp_cluster *c, const bool *skip)
{
	size_t i = 0;

	while (avoided(c, i, skip))
		i++;
	return i;
}

static size_t pick_random(struct l7mp_cluster *c, const bool *skip)
{
	struct l7mp_lb *lb = c->lb;
	double left = lb->total, r;
	size_t last = 0;

	for (size_t i = 0; skip && i < c->n_endpoints; i++)
		if (avoided(c, i, skip))
			left -= lb->weight[i];
	r = random_below(lb, left);
	for (size_t i = 0; i < c->n_endpoints; i++) {
		if (avoided(c, i, skip))
			continue;
		last = i;
		if (r < lb->weight[i])
			break;
		r -= lb->weight[i];
	}
	return last;
}

/*
 * Smooth weighted round robin, as in nginx: each round adds every endpoint's weight to its credit;
 * the one with the highest credit is picked, and pays the sum of all weights.
 */
static size_t pick_round_robin(struct l7mp_cluster *c, const bool *skip)
{
	struct l7mp_lb *lb = c->lb;
	size_t best = SIZE_MAX;
	double total = 0;

	for (size_t i = 0; i < c->n_endpoints; i++) {
		if (avoided(c, i, skip))
			continue;
		lb->current[i] += lb->weight[i];
		total += lb->weight[i];
		if (best == SIZE_MAX || lb->current[i] > lb->current[best])
			best = i;
	}
	lb->current[best] -= total;
	return best;
}

/* Returns the first point of the ring at or after a position. */
static size_t ring_find(const struct l7mp_lb *lb, uint64_t at)
{
	size_t lo = 0, hi = lb->n_points;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (lb->ring[mid].at < at)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo == lb->n_points ? 0 : lo;
}

/*
 * Hashes a key: a string as it is, anything else as its JSON text, so that 1 and "1" are the same
 * key.
 */
static bool hash_key(const cJSON *value, uint64_t *out)
{
	char *text = cJSON_IsString(value) ? NULL : cJSON_PrintUnformatted(value);
	const char *s = text ? text : cJSON_GetStringValue(value);

	if (s)
		*out = l7mp_hash_stable(s, strlen(s), KEY_SEED);
	free(text);
	return s != NULL;
}

static size_t pick_hash(struct l7mp_cluster *c, const cJSON *metadata, const bool *skip,
                        const char **warning)
{
	const cJSON *value = c->lb_key ? l7mp_json_get(metadata, c->lb_key) : NULL;
	const struct l7mp_lb *lb = c->lb;
	uint64_t at;
	size_t i;

	if (!value || !lb->ring || !hash_key(value, &at)) {
		if (c->lb_key && !value && warning)
			*warning = "the session lacks the load balancer's hash key, the endpoint "
			           "is random";
		return pick_random(c, skip);
	}
	/*
	 * After a failure take the next endpoint on the ring, which is the same for all sessions
	 * with that key.
	 */
	for (i = ring_find(lb, at); avoided(c, lb->ring[i].endpoint, skip);)
		i = i + 1 == lb->n_points ? 0 : i + 1;
	return lb->ring[i].endpoint;
}

static size_t pick(struct l7mp_cluster *c, const cJSON *metadata, const bool *skip,
                   const char **warning)
{
	switch (c->lb_policy) {
	case L7MP_LB_HASH:
		return pick_hash(c, metadata, skip, warning);
	case L7MP_LB_ROUND_ROBIN:
		return pick_round_robin(c, skip);
	case L7MP_LB_RANDOM:
		return pick_random(c, skip);
	case L7MP_LB_TRIVIAL:
		break;
	}
	return pick_first(c, skip);
}

struct l7mp_endpoint *l7mp_lb_pick(struct l7mp_cluster *c, const cJSON *metadata,
                                   struct l7mp_lb_avoid *avoid, const char **warning)
{
	size_t taker = 0, takers = mark(c, NULL, NULL, &taker);
	bool *skip = NULL;

	if (warning)
		*warning = NULL;
	if (!takers)
		return NULL;
	if (takers == 1 || !c->lb)
		return c->endpoints[taker];
	/* Without memory none is avoided. */
	if (avoid && avoid->n)
		skip = calloc(c->n_endpoints, sizeof(*skip));
	if (skip && !mark(c, avoid, skip, &taker)) {
		while (avoid->n > 1)
			avoid_remove(avoid, 0);
		(void)mark(c, avoid, skip, &taker);
	}
	taker = pick(c, metadata, skip, warning);
	free(skip);
	return c->endpoints[taker];
}
