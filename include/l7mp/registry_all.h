/* SPDX-License-Identifier: MIT */
/*
 * The registry of all protocols, defined by daemon/registry.c. Only main programs (the daemon,
 * docgen) and tests of the whole program may include this header: everything else gets the registry
 * as an argument.
 */
#pragma once

#include "l7mp/protodesc.h"

struct l7mp_proto; /* proto.h */

extern const struct l7mp_protodesc *const l7mp_all_protodescs[]; /* ends with NULL */
extern const struct l7mp_proto *const l7mp_all_protos[];         /* the same, in the same order */
extern const struct l7mp_registry l7mp_all_registry;
size_t l7mp_all_protos_count(void);
