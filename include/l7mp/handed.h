/* SPDX-License-Identifier: MIT */
/*
 * Listening sockets that another process has bound and given to this one: a predecessor at an
 * upgrade, or the service manager. A listener whose address is that of one of them gets it in the
 * place of a new socket (env->handed), so that no client is refused meanwhile.
 *
 * What a socket is bound to is asked of the kernel; nothing of what came with it is trusted but the
 * name, which only decides for listeners with port 0.
 *
 * Thread: loop only.
 */
#pragma once

#include <stddef.h>

struct l7mp_handed;

/* The most that are taken; what comes after them is closed. */
#define L7MP_HANDED_MAX 65536

/* Makes an empty set. Returns 0 or -ENOMEM. */
int l7mp_handed_new(struct l7mp_handed **out);
/*
 * Adds a bound socket, made non-blocking and close-on-exec; takes fd, also on failure. `listener`
 * is the name of who had it, NULL: not known. Returns 0; -EINVAL: it is none that a listener can
 * use; -ENOMEM; -E2BIG.
 */
int l7mp_handed_add(struct l7mp_handed *h, int fd, const char *listener);
/* Returns how many no listener has taken. */
size_t l7mp_handed_left(const struct l7mp_handed *h);
/* Closes those. Nulls the pointer; NULL inside is fine. */
void l7mp_handed_free(struct l7mp_handed **h);
