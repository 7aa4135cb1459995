/* SPDX-License-Identifier: MIT */
/*
 * A mark on the sockets that clusters connect with, which the accepting process can see. A proxy
 * knows the connections of its own clusters; those of another proxy on this host, above all
 * of the old process after an upgrade, it recognises by the mark: they are made for clients that
 * may be on another host.
 *
 * TCP sockets have IP_MULTICAST_LOOP and IP_MULTICAST_ALL off, which have no effect on TCP, and
 * which sock_diag(7) reports (Linux 5.12). UNIX sockets have an abstract name. Any process can set
 * the mark, and only loses by it.
 *
 * Thread: any.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct inet_diag_sockopt;

/*
 * Marks a socket that is not connected yet, AF_INET, AF_INET6 or AF_UNIX (which it binds).
 * Returns 0 or a negative errno; then the socket must not be used.
 */
int l7mp_relay_mark(int fd, int family);

/* Whether this is what sock_diag(7) reports of a marked TCP socket; `len` is its size in bytes. */
bool l7mp_relay_marked_tcp(const struct inet_diag_sockopt *opt, size_t len);

/* Whether the peer of a connected UNIX socket is marked, also when it is closed already. */
bool l7mp_relay_marked_unix(int fd);
