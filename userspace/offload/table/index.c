/* SPDX-License-Identifier: MIT */
/*
 * Hash table from map keys to directions of flows. Open addressing with linear probing, at most
 * half full. Hashes are stored beside the pointers, so that growing doesn't read the directions.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

#define SLOTS_MIN 1024

/* The slot of this key, or the free slot where it would be inserted. */
static uint32_t slot_of(const struct off_index *t, const struct l7mp_frame_key *key, uint64_t hash)
{
	uint32_t i = (uint32_t)hash & t->mask;

	while (t->slots[i].dir && (t->slots[i].hash != hash ||
	                           memcmp(&t->slots[i].dir->frame, key, sizeof(*key)) != 0))
		i = (i + 1) & t->mask;
	return i;
}

struct off_direction *off_index_find(const struct off_index *t, const struct l7mp_frame_key *key)
{
	return t->slots ? t->slots[slot_of(t, key, l7mp_hash(key, sizeof(*key)))].dir : NULL;
}

static int grow(struct off_index *t)
{
	uint32_t size = t->slots ? 2 * (t->mask + 1) : SLOTS_MIN;
	struct off_slot *slots = calloc(size, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	for (uint32_t i = 0; t->slots && i <= t->mask; i++) {
		uint32_t to = (uint32_t)t->slots[i].hash & (size - 1);

		if (!t->slots[i].dir)
			continue;
		while (slots[to].dir)
			to = (to + 1) & (size - 1);
		slots[to] = t->slots[i];
	}
	free(t->slots);
	t->slots = slots;
	t->mask = size - 1;
	return 0;
}

int off_index_add(struct off_index *t, struct off_direction *dir)
{
	uint64_t hash = l7mp_hash(&dir->frame, sizeof(dir->frame));
	uint32_t i;

	if ((!t->slots || t->n > t->mask / 2) && grow(t))
		return -ENOMEM;
	i = slot_of(t, &dir->frame, hash);
	if (t->slots[i].dir)
		return -EEXIST;
	t->slots[i] = (struct off_slot){.hash = hash, .dir = dir};
	t->n++;
	return 0;
}

void off_index_delete(struct off_index *t, const struct off_direction *dir)
{
	uint32_t hole, i;

	if (!t->slots)
		return;
	hole = slot_of(t, &dir->frame, l7mp_hash(&dir->frame, sizeof(dir->frame)));
	if (t->slots[hole].dir != dir)
		return;
	/* Backward-shift deletion: displaced entries move into the hole, not before their home. */
	for (i = (hole + 1) & t->mask; t->slots[i].dir; i = (i + 1) & t->mask) {
		uint32_t home = (uint32_t)t->slots[i].hash & t->mask;

		if (((i - home) & t->mask) < ((i - hole) & t->mask))
			continue;
		t->slots[hole] = t->slots[i];
		hole = i;
	}
	t->slots[hole].dir = NULL;
	if (--t->n)
		return;
	free(t->slots);
	memset(t, 0, sizeof(*t));
}
