/* SPDX-License-Identifier: MIT */
/*
 * The table of our own: from a key of the maps to its side of a flow. The sweep asks it
 * for every entry once a second, so it is one that costs two misses of the cache: open
 * addressing, at most half full, hashes beside the pointers (so that growing reads no sides), and the
 * key beside the counters.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "offload/offload_int.h"

#define SLOTS_MIN 1024

/* The slot of this key, or the free one where it would go. */
static uint32_t slot_of(const struct off_sides *t, const struct l7mp_flow_key *key, uint64_t hash)
{
	uint32_t i = (uint32_t)hash & t->mask;

	while (t->slots[i].side &&
	       (t->slots[i].hash != hash || memcmp(&t->slots[i].side->key, key, sizeof(*key)) != 0))
		i = (i + 1) & t->mask;
	return i;
}

struct off_side *off_sides_find_hashed(const struct off_sides *t, const struct l7mp_flow_key *key,
                                       uint64_t hash)
{
	return t->slots ? t->slots[slot_of(t, key, hash)].side : NULL;
}

struct off_side *off_sides_find(const struct off_sides *t, const struct l7mp_flow_key *key)
{
	return off_sides_find_hashed(t, key, l7mp_hash(key, sizeof(*key)));
}

static int grow(struct off_sides *t)
{
	uint32_t size = t->slots ? 2 * (t->mask + 1) : SLOTS_MIN;
	struct off_slot *slots = calloc(size, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	for (uint32_t i = 0; t->slots && i <= t->mask; i++) {
		uint32_t to = (uint32_t)t->slots[i].hash & (size - 1);

		if (!t->slots[i].side)
			continue;
		while (slots[to].side)
			to = (to + 1) & (size - 1);
		slots[to] = t->slots[i];
	}
	free(t->slots);
	t->slots = slots;
	t->mask = size - 1;
	return 0;
}

int off_sides_add(struct off_sides *t, struct off_side *side)
{
	uint64_t hash = l7mp_hash(&side->key, sizeof(side->key));
	uint32_t i;

	if ((!t->slots || t->n > t->mask / 2) && grow(t))
		return -ENOMEM;
	i = slot_of(t, &side->key, hash);
	if (t->slots[i].side)
		return -EEXIST;
	t->slots[i] = (struct off_slot){.hash = hash, .side = side};
	t->n++;
	return 0;
}

void off_sides_delete(struct off_sides *t, const struct off_side *side)
{
	uint32_t hole, i;

	if (!t->slots)
		return;
	hole = slot_of(t, &side->key, l7mp_hash(&side->key, sizeof(side->key)));
	if (t->slots[hole].side != side)
		return;
	/* What was pushed on by others moves back into the hole, if that is not before its own place. */
	for (i = (hole + 1) & t->mask; t->slots[i].side; i = (i + 1) & t->mask) {
		uint32_t home = (uint32_t)t->slots[i].hash & t->mask;

		if (((i - home) & t->mask) < ((i - hole) & t->mask))
			continue;
		t->slots[hole] = t->slots[i];
		hole = i;
	}
	t->slots[hole].side = NULL;
	if (--t->n)
		return;
	free(t->slots);
	memset(t, 0, sizeof(*t));
}
