/* SPDX-License-Identifier: MIT */
/* Name resolution that never blocks the loop (getaddrinfo on libuv's thread pool). Thread: loop only. */
#pragma once

#include "l7mp/addr.h"
#include "l7mp/loop.h"

struct l7mp_resolve;
/* n >= 1 addresses, in RFC 6724 order, with port set, IPv4-mapped normalised; or n = 0 and err = negative errno (-ENOENT: no such name; -EAGAIN: try again). */
typedef void (*l7mp_resolve_cb)(void *arg, int err, const struct l7mp_addr *addrs, size_t n);
/*
 * `family`: AF_UNSPEC, AF_INET, AF_INET6. The callback never comes from inside
 * this call, also for numeric hosts, and never after l7mp_resolve_cancel.
 */
int l7mp_resolve_start(struct l7mp_loop *loop, const char *host, uint16_t port, int family,
                       l7mp_resolve_cb cb, void *arg, struct l7mp_resolve **out);
void l7mp_resolve_cancel(struct l7mp_resolve **r);
