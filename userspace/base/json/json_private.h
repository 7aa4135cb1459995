/* SPDX-License-Identifier: MIT */
/* What the files of json.h share. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "l7mp/json.h"

/*
 * Members of one object by key, because cJSON's own look-up is linear and a peer
 * chooses how many members there are. Small objects are searched in place.
 */
struct json_index {
	const cJSON *object;
	const cJSON **slots; /* NULL: search in place */
	size_t mask;
};

/*
 * 0 or -ENOMEM; the index works (slowly) then too. Afterwards find gives the
 * first of equal keys.
 */
int json_index_build(struct json_index *index, const cJSON *object);
const cJSON *json_index_find(const struct json_index *index, const char *key);
void json_index_free(struct json_index *index);
