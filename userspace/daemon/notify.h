/* SPDX-License-Identifier: MIT */
/*
 * Notifies the service manager of the program's state, by the protocol of sd_notify(3), without
 * ever waiting for it. Thread: loop only.
 */
#pragma once

#include <stddef.h>

#include "l7mp/loop.h"

#define L7MP_NOTIFY_WAITING 16

struct l7mp_notify {
	struct l7mp_loop *loop;
	struct l7mp_timer timer;
	char *waiting[L7MP_NOTIFY_WAITING]; /* owned; the oldest first */
	size_t n;
};

void l7mp_notify_init(struct l7mp_notify *n, struct l7mp_loop *loop);
/*
 * Sends "VARIABLE=VALUE
 * ..." to $NOTIFY_SOCKET, at once or, when its queue is full, later and in order; beyond
 * L7MP_NOTIFY_WAITING the oldest are dropped. No-op without a manager.
 */
void l7mp_notify_send(struct l7mp_notify *n, const char *text);
/* The maximum number of descriptors per message. */
#define L7MP_NOTIFY_FDS 64
/* The name under which the manager stores descriptors. */
#define L7MP_NOTIFY_NAME "l7mp"
/*
 * Returns the maximum number of descriptors that the manager stores ($FDSTORE); 0: none, or no
 * manager.
 */
size_t l7mp_notify_store_max(void);
/*
 * Passes descriptors (borrowed; n at most L7MP_NOTIFY_FDS) to the manager, which stores them as
 * L7MP_NOTIFY_NAME for the next start, without polling them (FDSTORE=1, FDPOLL=0). While the
 * manager's queue is full it waits for at most L7MP_NOTIFY_STORE_MS, so call it only in a process
 * that ends. Returns 0 or a negative errno, also when the manager stores no descriptors.
 */
#define L7MP_NOTIFY_STORE_MS 5000
int l7mp_notify_store(const int *fds, size_t n);
/*
 * Returns how many descriptors the manager has passed to this process, from *first on: stored ones,
 * or those of a socket unit (sd_listen_fds(3)). They are owned by the caller. Removes the variables
 * from the environment, so a second call returns 0.
 */
int l7mp_notify_passed(int *first);
/* The last attempt: unsent messages are dropped. Idempotent. */
void l7mp_notify_stop(struct l7mp_notify *n);
