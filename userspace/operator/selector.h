/* SPDX-License-Identifier: MIT */
/* Selectors of pods. */
#pragma once

#include "render_int.h"

struct op_pods {
	const struct op_obj **v; /* sorted by namespace and name */
	size_t n, cap;
};
/* Adds a pod. Returns 0 or -ENOMEM. */
int op_pods_add(struct op_pods *p, const struct op_obj *pod);
void op_pods_free(struct op_pods *p);
int op_by_name(const void *a, const void *b); /* qsort: pointers to objects by ns and name */

/*
 * Evaluates spec.selector of an object (or an endpoint's). A missing selector (NULL) selects
 * nothing, an empty one all pods of the namespace. Pods of other namespaces are selected when the
 * selector names their namespace (matchNamespace, or In on metadata.namespace) and a ReferenceGrant
 * there lets this kind of this namespace have them; with settings.any_namespace always.
 *
 * Returns 0; -EINVAL with `why` set for a selector that can't be understood; -ENOMEM.
 */
int op_select(const struct op_store *s, const struct op_obj *from, const cJSON *selector,
              struct op_pods *out, char *why, size_t size);

/*
 * Returns whether a ReferenceGrant in the namespace `to_ns` lets a kind of `from_ns` refer to an
 * object there; always within a namespace.
 */
bool op_granted(const struct op_store *s, enum op_kind from_kind, const char *from_ns,
                const char *to_group, const char *to_kind, const char *to_ns, const char *to_name);
