/* SPDX-License-Identifier: MIT */
/* Private to base/json/. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "l7mp/json.h"

/*
 * An index of the members of an object, because cJSON's look-up is linear and a peer chooses how
 * many members there are. Small objects are searched linearly.
 */
struct json_index {
	const cJSON *object;
	const cJSON **slots; /* NULL: search linearly */
	size_t mask;
};

/*
 * Builds an index. Returns 0 or -ENOMEM; in both cases find works, if slowly, and returns the first
 * of equal keys.
 */
int json_index_build(struct json_index *index, const cJSON *object);
const cJSON *json_index_find(const struct json_index *index, const char *key);
void json_index_free(struct json_index *index);
