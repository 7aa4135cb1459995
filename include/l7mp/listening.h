/* SPDX-License-Identifier: MIT */
/*
 * Access to the listening socket of a library's server (civetweb), which neither exposes the socket
 * nor wakes its thread when the server is stopped. Thread: any.
 */
#pragma once

#include <stdint.h>

/* The first descriptor of this process that listens on this TCP port, or -1. */
int l7mp_listening_find(uint16_t port);

/* What has to stay open until the server's thread has ended; -1: none. */
struct l7mp_listening_wake {
	int socket, connection;
};
/*
 * Wakes the server's thread, which is in poll(2) for `fd` (of l7mp_listening_find; -1: no-op), so
 * that it checks whether the server is being stopped. From then on fd is an eventfd that is
 * readable, and accept(2) fails there: call this only right before stopping the server. If
 * another process has the socket, too, that one may accept a connection that is closed then. Best
 * effort: a failure is logged. Sets *wake, for l7mp_listening_woken, which is called when the
 * thread has ended.
 */
void l7mp_listening_wake(int fd, struct l7mp_listening_wake *wake);
void l7mp_listening_woken(struct l7mp_listening_wake *wake);
