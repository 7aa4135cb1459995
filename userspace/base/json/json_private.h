/* SPDX-License-Identifier: MIT */
/* What the files of json.h share. */
#pragma once

#include <cjson/cJSON.h>
#include <stddef.h>
#include <stdint.h>

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

/*
 * The strict half of the parser: is this one JSON text (RFC 8259) that cJSON will
 * read without changing its meaning? Returns 0, or -EINVAL with line and message.
 */
struct json_scan {
	size_t nodes; /* out: how many values there are */
	int line;     /* out: of the error */
	char *message;
	size_t message_size;
	uint32_t *lines; /* when set: the line of each node in document order, room for lines_max */
	size_t lines_max;
};
int json_scan(struct json_scan *scan, const char *text, size_t len);
