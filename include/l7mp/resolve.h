/* SPDX-License-Identifier: MIT */
/*
 * Name resolution that never blocks the loop: /etc/hosts and DNS by c-ares, with the servers,
 * search domains and options of /etc/resolv.conf, which is read again when it changes. Other
 * sources of nsswitch.conf (mDNS, LDAP) are not asked.
 *
 * Any number of names is looked up at a time, equal questions share one lookup. An answer is
 * used again until its TTL is over (at least a second, at most an hour), "no such name" until the
 * TTL of the zone's SOA record is over (RFC 2308; at most five minutes), a failure for a second.
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/addr.h"
#include "l7mp/loop.h"

struct l7mp_resolve;
/*
 * n >= 1 addresses, in the order of RFC 6724, with the port set and IPv4-mapped ones normalised; or
 * n = 0 and err = negative errno: -ENOENT no such name, -EAGAIN no server answered. The array
 * is the caller's until the callback returns.
 */
typedef void (*l7mp_resolve_cb)(void *arg, int err, const struct l7mp_addr *addrs, size_t n);
/*
 * Looks `host` up; a numeric one is its own answer. `family`: AF_UNSPEC, AF_INET, AF_INET6. The
 * callback comes once, never from inside this call and never after l7mp_resolve_cancel; *out is
 * invalid from then on. The loop runs until then. 0 or -ENOMEM; -ENOTSUP for a name on a manual
 * loop.
 */
int l7mp_resolve_start(struct l7mp_loop *loop, const char *host, uint16_t port, int family,
                       l7mp_resolve_cb cb, void *arg, struct l7mp_resolve **out);
/* Nulls the pointer; NULL inside is fine. The lookup itself goes on, and its answer is cached. */
void l7mp_resolve_cancel(struct l7mp_resolve **r);
