/* SPDX-License-Identifier: MIT */
/*
 * Messages from other threads (civetweb's workers) to the loop. They are delivered in the order in
 * which they were posted. uv_async_send coalesces wake-ups, so each one drains the whole queue.
 */
#pragma once

#include "l7mp/loop.h"

struct l7mp_mail {
	void (*cb)(struct l7mp_mail *mail,
	           void *arg);         /* on the loop's thread; owns mail from then on */
	struct l7mp_mail *prev, *next; /* private */
};

struct l7mp_mailbox;
/*
 * Makes a mailbox. `arg` is passed to every mail's callback. The mailbox keeps the loop running
 * until it is closed. Loop thread. Returns 0 or a negative errno.
 */
int l7mp_mailbox_new(struct l7mp_loop *loop, void *arg, struct l7mp_mailbox **out);
/* Posts a mail. Returns 0 and takes it, or -ESHUTDOWN after close and does not. Any thread. */
int l7mp_mailbox_post(struct l7mp_mailbox *mb, struct l7mp_mail *mail);
/*
 * Delivers the queued mails and refuses later ones. The mailbox is freed with the last reference.
 * Nulls the pointer. Loop thread.
 */
void l7mp_mailbox_close(struct l7mp_mailbox **mb);
/* References: a thread must hold one for as long as it may post. Any thread. */
struct l7mp_mailbox *l7mp_mailbox_ref(struct l7mp_mailbox *mb);
void l7mp_mailbox_unref(struct l7mp_mailbox *mb);
