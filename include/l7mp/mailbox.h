/* SPDX-License-Identifier: MIT */
/*
 * Messages from other threads (civetweb's workers) to the loop. uv_async_send
 * coalesces, so a wake-up drains the whole queue, in order of posting.
 */
#pragma once

#include "l7mp/loop.h"

struct l7mp_mail {
	void (*cb)(struct l7mp_mail *mail,
	           void *arg);         /* on the loop's thread; owns mail from then on */
	struct l7mp_mail *prev, *next; /* private */
};

struct l7mp_mailbox;
/* `arg` is handed to every mail's callback. Keeps the loop alive until closed. */
int l7mp_mailbox_new(struct l7mp_loop *loop, void *arg, struct l7mp_mailbox **out);
/* Any thread. Takes the mail when 0; -ESHUTDOWN (mail stays the caller's) after close. */
int l7mp_mailbox_post(struct l7mp_mailbox *mb, struct l7mp_mail *mail);
/*
 * Loop thread. Delivers what is queued, refuses the rest, frees itself when the last reference is
 * gone.
 */
void l7mp_mailbox_close(struct l7mp_mailbox **mb);
/* Any thread: a poster holds a reference for as long as it may post. */
struct l7mp_mailbox *l7mp_mailbox_ref(struct l7mp_mailbox *mb);
void l7mp_mailbox_unref(struct l7mp_mailbox *mb);
