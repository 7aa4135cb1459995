/* SPDX-License-Identifier: MIT */
/*
 * What the kernel says about this host: its addresses, and the socket at the other
 * end of a connection from here. Thread: loop only; nothing here blocks.
 */
#pragma once

#include <stdbool.h>

#include "l7mp/addr.h"

struct api_host;

/* Always succeeds but for memory: without netlink the host has only its loopback addresses. */
int api_host_new(struct api_host **out);
void api_host_free(struct api_host **host);

/*
 * Is it a loopback address, or one of an interface of this host? The addresses are read once and
 * again only after rtnetlink has told of a change, so that a refused client costs no system call
 * but one receive on that socket.
 */
bool api_host_has(struct api_host *host, const struct l7mp_addr *addr);

enum api_peer {
	API_PEER_ALIVE,   /* a process has the socket open */
	API_PEER_GONE,    /* there is no such socket (any more), or nobody has it open */
	API_PEER_UNKNOWN, /* this kernel can't tell (no inet_diag) */
};
/*
 * The TCP socket of this host that is bound to `peer` and connected to `local`: what an accepted
 * connection with these addresses leads to. One question by sock_diag(7), some 5 us.
 */
enum api_peer api_host_peer(struct api_host *host, const struct l7mp_addr *peer,
                            const struct l7mp_addr *local);
