/* SPDX-License-Identifier: MIT */
/*
 * Name resolution that never blocks the loop. c-ares reads /etc/hosts and queries DNS, with the
 * servers, search domains and options of /etc/resolv.conf, which is read again when it changes.
 * Other sources of nsswitch.conf (mDNS, LDAP) are not used.
 *
 * Lookups run in parallel, and equal ones share one query. An answer is cached for its TTL, at
 * least a second and at most an hour; "no such name" for the TTL of the zone's SOA record (RFC
 * 2308), at most five minutes; a failure for a second.
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/addr.h"
#include "l7mp/loop.h"

struct l7mp_resolve;
/* Of an answer with more addresses of a family, the first ones are used. */
#define L7MP_RESOLVE_PER_FAMILY 16
/*
 * The result of a lookup: either 1 <= n <= 2 * L7MP_RESOLVE_PER_FAMILY different addresses, with
 * the port set and IPv4-mapped ones normalised, in the order of RFC 6724 without its rule 9: first
 * those that there is a route to, IPv6 before IPv4, otherwise in the order of the server; or n = 0
 * and a negative errno: -ENOENT (no such name), -EAGAIN (no server answered). The array is borrowed
 * for the call.
 */
typedef void (*l7mp_resolve_cb)(void *arg, int err, const struct l7mp_addr *addrs, size_t n);
/*
 * Looks `host` up, which may be a numeric address. `family` is AF_UNSPEC, AF_INET or AF_INET6. The
 * callback is called once, but not from inside this function and not after l7mp_resolve_cancel.
 * *out is invalid after the callback; the loop keeps running until then. Returns 0; -ENOMEM;
 * -ENOTSUP for a host name on a manual loop.
 */
int l7mp_resolve_start(struct l7mp_loop *loop, const char *host, uint16_t port, int family,
                       l7mp_resolve_cb cb, void *arg, struct l7mp_resolve **out);
/*
 * Cancels the callback. The query itself continues, and its answer is cached. NULL inside is fine;
 * nulls the pointer.
 */
void l7mp_resolve_cancel(struct l7mp_resolve **r);
