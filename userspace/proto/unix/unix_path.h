/* SPDX-License-Identifier: MIT */
/* Paths of UNIX sockets: taken carefully, given back once. Private to proto/. */
#pragma once

#include <stdbool.h>

#include "l7mp/addr.h"
#include "l7mp/error.h"

/* A bound path, shared by a listener and the one that replaces it. */
struct l7mp_unix_path;

/*
 * A bound socket of `type` (listening unless SOCK_DGRAM) at `filename` ('@': abstract).
 * A path that is there already is replaced only when it is a socket on which
 * nobody listens. Returns the descriptor, or negative errno with err.
 */
int l7mp_unix_bind(const char *filename, int type, struct l7mp_unix_path **out,
                   struct l7mp_error *err);
struct l7mp_unix_path *l7mp_unix_path_ref(struct l7mp_unix_path *p);
/* Does more than one hold it? */
bool l7mp_unix_path_shared(const struct l7mp_unix_path *p);
/* The last one removes the file, when it still is the one that was bound. Nulls the pointer. */
void l7mp_unix_path_unref(struct l7mp_unix_path **p);
const char *l7mp_unix_path_name(const struct l7mp_unix_path *p); /* as given */
