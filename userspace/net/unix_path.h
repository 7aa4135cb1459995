/* SPDX-License-Identifier: MIT */
/*
 * Names of UNIX sockets in the file system, and abstract ones: bound without destroying what is
 * there, removed once. Private to net/ and proto/. Thread: loop only.
 */
#pragma once

#include <stdbool.h>

#include "l7mp/error.h"

/* A bound name, reference-counted: a listener shares it with the one that replaces it. */
struct l7mp_unix_path;

/*
 * Creates a non-blocking socket of `type` (SOCK_STREAM, SOCK_SEQPACKET: listening; SOCK_DGRAM)
 * bound to `filename` ('@' as the first character: an abstract name). An existing file is
 * replaced only if it is a socket on which nobody listens. Returns the descriptor and one
 * reference in *out, or negative errno with err.
 */
int l7mp_unix_bind(const char *filename, int type, struct l7mp_unix_path **out,
                   struct l7mp_error *err);
struct l7mp_unix_path *l7mp_unix_path_ref(struct l7mp_unix_path *p);
/* Drops a reference; the last one removes the file if it still is the one that was bound. */
void l7mp_unix_path_unref(struct l7mp_unix_path **p);
/* As it was given to l7mp_unix_bind. */
const char *l7mp_unix_path_name(const struct l7mp_unix_path *p);
