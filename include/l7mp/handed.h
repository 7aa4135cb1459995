/* SPDX-License-Identifier: MIT */
/*
 * Inherited listening sockets: from a predecessor at an upgrade, or from the service manager
 * (sd_listen_fds(3)). A listener with the same address uses the inherited socket instead of a new
 * one (env->handed), so that no client is refused meanwhile.
 *
 * A socket's address is read by getsockname(2); the name that comes with it is used only to match
 * listeners with port 0.
 *
 * Thread: loop only.
 */
#pragma once

#include <stddef.h>

struct l7mp_handed;

/* Limit; further sockets are closed. */
#define L7MP_HANDED_MAX 65536

/* Makes an empty set. Returns 0 or -ENOMEM. */
int l7mp_handed_new(struct l7mp_handed **out);
/*
 * Adds a bound socket, made non-blocking and close-on-exec; takes fd, also on failure. `listener`
 * is the name of the listener that had it, NULL: unknown. Returns 0; -EINVAL: not a socket that a
 * listener can use; -ENOMEM; -E2BIG.
 */
int l7mp_handed_add(struct l7mp_handed *h, int fd, const char *listener);
/* Returns the number of sockets that no listener uses. */
size_t l7mp_handed_left(const struct l7mp_handed *h);
/* Closes those. Nulls the pointer; NULL inside is fine. */
void l7mp_handed_free(struct l7mp_handed **h);
