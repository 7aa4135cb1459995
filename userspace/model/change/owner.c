/* SPDX-License-Identifier: MIT */
/* Config owners: the owner of each object, and the number and a digest of each owner's objects. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_private.h"

struct l7mp_config_owner l7mp_model_owner(const struct l7mp_model *m, unsigned number)
{
	struct l7mp_config_owner o = {0};

	if (number >= L7MP_CONFIG_OWNERS)
		return o;
	o.name = number ? m->owners[number].name : "";
	o.objects = m->owners[number].objects;
	o.hash = m->owners[number].hash;
	return o;
}

int l7mp_model_find_owner(const struct l7mp_model *m, const char *name)
{
	if (!*name)
		return 0;
	for (int i = 1; i < L7MP_CONFIG_OWNERS; i++)
		if (m->owners[i].name && !strcmp(m->owners[i].name, name))
			return i;
	return -ENOENT;
}

int l7mp_owner_take(struct l7mp_change *c, const char *name, struct l7mp_error *err)
{
	int number = l7mp_model_find_owner(c->model, name);

	if (number >= 0)
		return number;
	for (number = 1; number < L7MP_CONFIG_OWNERS; number++)
		if (!c->model->owners[number].name)
			break;
	if (number == L7MP_CONFIG_OWNERS)
		return l7mp_error_set(err, -ENOSPC, L7MP_ERR_LIMIT,
		                      "owner: %d owners have objects, expected one of them",
		                      L7MP_CONFIG_OWNERS - 1);
	c->owner_name = strdup(name);
	return c->owner_name ? number : l7mp_change_oom(err);
}

/* Adds an object to its owner's sums, or subtracts it. */
static void count(struct l7mp_change *c, const struct l7mp_object *o, bool add)
{
	const struct l7mp_rulelist *l = (const struct l7mp_rulelist *)o;
	uint64_t digest = l7mp_object_digest(o);

	c->owner_sums[o->config_owner].objects += add ? 1 : -1;
	c->owner_sums[o->config_owner].hash += add ? digest : -digest;
	if (o->kind != L7MP_OBJ_RULELIST)
		return;
	for (size_t i = 0; i < l->n_inserts; i++) {
		digest = l7mp_insert_digest(l, &l->inserts[i]);
		c->owner_sums[l->inserts[i].config_owner].objects += add ? 1 : -1;
		c->owner_sums[l->inserts[i].config_owner].hash += add ? digest : -digest;
	}
}

void l7mp_owner_count(struct l7mp_change *c)
{
	memset(c->owner_sums, 0, sizeof(c->owner_sums));
	for (size_t i = 0; i < c->n_real; i++) {
		const struct l7mp_change_item *item = &c->items[i]->item;

		if (item->old_object)
			count(c, item->old_object, false);
		if (item->new_object)
			count(c, item->new_object, true);
	}
}

void l7mp_owner_flip(struct l7mp_change *c)
{
	struct l7mp_model *m = c->model;

	if (c->owner_name) {
		m->owners[c->config_owner].name = c->owner_name;
		c->owner_name = NULL;
	}
	for (int i = 0; i < L7MP_CONFIG_OWNERS; i++) {
		m->owners[i].objects += (size_t)c->owner_sums[i].objects;
		m->owners[i].hash += c->owner_sums[i].hash;
		if (!m->owners[i].objects) {
			free(m->owners[i].name);
			m->owners[i].name = NULL;
		}
	}
}
