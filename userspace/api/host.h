/* SPDX-License-Identifier: MIT */
/*
 * Queries to the kernel about this host: its addresses, and the socket at the other end of a
 * connection from here. Thread: loop only; nothing here blocks.
 */
#pragma once

#include <stdbool.h>

#include "l7mp/addr.h"

struct api_host;

/* Returns 0 or -ENOMEM. Without netlink the host has only its loopback addresses. */
int api_host_new(struct api_host **out);
void api_host_free(struct api_host **host);

/*
 * Returns whether it is a loopback address or one of an interface of this host. The addresses are
 * cached until rtnetlink reports a change, so that a refused client costs only one receive on that
 * socket.
 */
bool api_host_has(struct api_host *host, const struct l7mp_addr *addr);

enum api_peer {
	API_PEER_ALIVE,   /* a process has the socket open */
	API_PEER_RELAY,   /* so has a cluster of another proxy, see l7mp/relaymark.h */
	API_PEER_GONE,    /* no such socket exists (any more), or no process has it open */
	API_PEER_UNKNOWN, /* unknown (the kernel has no inet_diag) */
};
/*
 * Looks up the TCP socket of this host that is bound to `peer` and connected to `local`, which is
 * the other end of an accepted connection with these addresses. One query by sock_diag(7), about 5
 * us.
 */
enum api_peer api_host_peer(struct api_host *host, const struct l7mp_addr *peer,
                            const struct l7mp_addr *local);
