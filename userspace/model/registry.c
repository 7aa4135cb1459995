/* SPDX-License-Identifier: MIT */
#include <strings.h>

#include "l7mp/protodesc.h"

static bool has_name(const struct l7mp_protodesc *d, const char *name)
{
	if (strcasecmp(d->name, name) == 0)
		return true;
	for (const char *const *a = d->aliases; a && *a; a++)
		if (strcasecmp(*a, name) == 0)
			return true;
	return false;
}

const struct l7mp_protodesc *l7mp_registry_find(const struct l7mp_registry *r, const char *name)
{
	if (!r || !r->descs || !name)
		return NULL;
	for (const struct l7mp_protodesc *const *d = r->descs; *d; d++)
		if (has_name(*d, name))
			return *d;
	return NULL;
}
