/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "l7mp/hash.h"

#define SEARCH_IN_PLACE 8

/* Returns the slot of the member with this key, or the free slot where it belongs. */
static const cJSON **slot_of(const struct json_index *index, const char *key)
{
	size_t i = (size_t)l7mp_hash(key, strlen(key)) & index->mask;

	while (index->slots[i] && strcmp(index->slots[i]->string, key) != 0)
		i = (i + 1) & index->mask;
	return &index->slots[i];
}

int json_index_build(struct json_index *index, const cJSON *object)
{
	size_t n = 0, size = 2 * SEARCH_IN_PLACE;

	*index = (struct json_index){.object = object};
	for (const cJSON *m = object->child; m; m = m->next)
		n++;
	if (n <= SEARCH_IN_PLACE)
		return 0;
	while (size < 2 * n)
		size *= 2;
	index->slots = calloc(size, sizeof(void *));
	if (!index->slots)
		return -ENOMEM;
	index->mask = size - 1;
	for (const cJSON *m = object->child; m; m = m->next) {
		const cJSON **slot = m->string ? slot_of(index, m->string) : NULL;

		if (slot && !*slot)
			*slot = m;
	}
	return 0;
}

const cJSON *json_index_find(const struct json_index *index, const char *key)
{
	if (index->slots)
		return *slot_of(index, key);
	return cJSON_GetObjectItemCaseSensitive(index->object, key);
}

void json_index_free(struct json_index *index)
{
	free(index->slots);
}
