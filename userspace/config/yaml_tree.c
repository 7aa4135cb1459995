/* SPDX-License-Identifier: MIT */
/* What the YAML reader needs besides events: bounded copies, sets of keys. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config_int.h"

#define COPY_NODES_MAX 100000
#define COPY_BYTES_MAX (16u << 20)

bool l7mp_may_copy(struct l7mp_copies *c, const cJSON *node, int depth)
{
	const cJSON *child;

	c->nodes++;
	c->bytes += sizeof(*node) + (node->string ? strlen(node->string) : 0) +
	            (node->valuestring ? strlen(node->valuestring) : 0);
	if (c->nodes > COPY_NODES_MAX || c->bytes > COPY_BYTES_MAX || depth > L7MP_CONFIG_DEPTH)
		return false;
	cJSON_ArrayForEach (child, node)
		if (!l7mp_may_copy(c, child, depth + 1))
			return false;
	return true;
}

int l7mp_keys_add(struct l7mp_key **keys, const char *name)
{
	struct l7mp_key *k = calloc(1, sizeof(*k));

	if (!k)
		return -ENOMEM;
	k->name = name;
	HASH_ADD_KEYPTR(hh, *keys, k->name, strlen(k->name), k);
	if (k->hh.tbl)
		return 0;
	free(k);
	return -ENOMEM;
}

bool l7mp_keys_has(struct l7mp_key *keys, const char *name)
{
	struct l7mp_key *k;

	HASH_FIND_STR(keys, name, k);
	return k != NULL;
}

void l7mp_keys_free(struct l7mp_key **keys)
{
	struct l7mp_key *k = *keys, *next;

	HASH_CLEAR(hh, *keys); /* the table; its elements stay linked */
	for (; k; k = next) {
		next = k->hh.next;
		free(k);
	}
}
