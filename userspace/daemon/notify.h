/* SPDX-License-Identifier: MIT */
/*
 * Tells the service manager how the program is, by the protocol of sd_notify(3), without ever
 * waiting for it. Thread: loop only.
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
 * Sends "VARIABLE=VALUE\n..." to $NOTIFY_SOCKET, at once or, when its queue is full, later and in
 * order; of more than L7MP_NOTIFY_WAITING the oldest are dropped. No-op without a manager.
 */
void l7mp_notify_send(struct l7mp_notify *n, const char *text);
/* The most descriptors of a message. */
#define L7MP_NOTIFY_FDS 64
/* The name under which the manager keeps our descriptors. */
#define L7MP_NOTIFY_NAME "l7mp"
/* How many descriptors the manager keeps for us at most ($FDSTORE); 0: none, or no manager. */
size_t l7mp_notify_store_max(void);
/*
 * Has the manager keep these descriptors (borrowed; n at most L7MP_NOTIFY_FDS) as L7MP_NOTIFY_NAME
 * for the next start, without looking at them (FDSTORE=1, FDPOLL=0). While the manager's queue is
 * full it waits, for at most L7MP_NOTIFY_STORE_MS: only for a process that ends. Returns 0 or a
 * negative errno, also when no descriptors are kept.
 */
#define L7MP_NOTIFY_STORE_MS 5000
int l7mp_notify_store(const int *fds, size_t n);
/*
 * How many descriptors the manager has passed to this process, from *first on: those that were
 * kept, or of a socket unit (sd_listen_fds(3)). The caller's. Removes what says so from the
 * environment, so a second call returns 0.
 */
int l7mp_notify_passed(int *first);
/* The last try: what can't be sent now is dropped. Idempotent. */
void l7mp_notify_stop(struct l7mp_notify *n);
