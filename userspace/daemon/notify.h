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
/* The last try: what can't be sent now is dropped. Idempotent. */
void l7mp_notify_stop(struct l7mp_notify *n);
