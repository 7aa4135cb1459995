/* SPDX-License-Identifier: MIT */
/*
 * Names of UNIX sockets: in the file system, and abstract ones. Binding does not remove files that
 * are in use; each file is removed once. Private to net/ and proto/. Thread: loop only.
 */
#pragma once

#include <stdbool.h>

#include <sys/types.h>

#include "l7mp/error.h"
#include "l7mp/json.h"
#include "l7mp/schema.h"

/* Permissions of a socket file. */
struct l7mp_unix_access {
	int mode;  /* -1: according to the umask */
	uid_t uid; /* -1: unchanged */
	gid_t gid;
};
/*
 * From the keys `mode`, `owner` and `group` of a spec; names are looked up. 0, or negative errno
 * with err.
 */
int l7mp_unix_access_from_spec(const cJSON *spec, struct l7mp_unix_access *out,
                               struct l7mp_error *err);
/* For the `check` of a schema with these keys: issues about `mode`. */
void l7mp_unix_access_check(const cJSON *spec, const char *path, struct l7mp_issues *issues);

/* A bound name, reference-counted: a listener shares it with the one that replaces it. */
struct l7mp_unix_path;

/*
 * Creates a non-blocking socket of `type` (SOCK_STREAM, SOCK_SEQPACKET: listening; SOCK_DGRAM)
 * bound to `filename` ('@' as the first character: an abstract name). An existing file is replaced
 * only if it is a socket that is not in use. `access` (NULL: according to the umask) applies from
 * the moment that the socket can be used. Returns the descriptor and one reference in *out, or
 * negative errno with err.
 */
int l7mp_unix_bind(const char *filename, int type, const struct l7mp_unix_access *access,
                   struct l7mp_unix_path **out, struct l7mp_error *err);
/* The same for a name whose socket was closed; the reference stays the caller's. */
int l7mp_unix_bind_again(struct l7mp_unix_path *p, int type, const struct l7mp_unix_access *access,
                         struct l7mp_error *err);
/*
 * The name of a socket that another process has bound: the file is left alone until
 * l7mp_unix_path_own. NULL: no memory.
 */
struct l7mp_unix_path *l7mp_unix_path_foreign(const char *filename);
/* on: this process owns the file, and removes it. Off: another process owns it. */
void l7mp_unix_path_own(struct l7mp_unix_path *p, bool on);
/*
 * Changes the permissions of a bound socket. Returns 0, or negative errno: -ESTALE when the file
 * was replaced by another, -EINVAL for an abstract name.
 */
int l7mp_unix_path_access(const struct l7mp_unix_path *p, const struct l7mp_unix_access *access);
struct l7mp_unix_path *l7mp_unix_path_ref(struct l7mp_unix_path *p);
/* Drops a reference. The last one removes the file, if it has not been replaced. */
void l7mp_unix_path_unref(struct l7mp_unix_path **p);
/* Returns the name as given to l7mp_unix_bind. */
const char *l7mp_unix_path_name(const struct l7mp_unix_path *p);
