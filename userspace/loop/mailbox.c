/* SPDX-License-Identifier: MIT */
#include "l7mp/mailbox.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "l7mp/hash.h"
#include "loop_int.h"

struct l7mp_mailbox {
	uv_async_t async;
	uv_mutex_t lock;         /* protects the fields up to refs */
	struct l7mp_mail *mails; /* utlist */
	bool closed;
	atomic_size_t refs; /* one for the loop until the handle is closed, and one per poster */
	void *arg;
};

static struct l7mp_mail *take_all(struct l7mp_mailbox *mb, bool close)
{
	struct l7mp_mail *mail;

	uv_mutex_lock(&mb->lock);
	mail = mb->mails;
	mb->mails = NULL;
	if (close)
		mb->closed = true;
	uv_mutex_unlock(&mb->lock);
	return mail;
}

/* Detaches the list first, because a callback may close the mailbox. */
static void deliver(struct l7mp_mail *mail, void *arg)
{
	struct l7mp_mail *next;

	for (; mail; mail = next) {
		next = mail->next;
		mail->cb(mail, arg);
	}
}

static void async_cb(uv_async_t *async)
{
	struct l7mp_mailbox *mb = async->data;

	deliver(take_all(mb, false), mb->arg);
}

int l7mp_mailbox_new(struct l7mp_loop *loop, void *arg, struct l7mp_mailbox **out)
{
	struct l7mp_mailbox *mb;
	int rc = -ENOTSUP;

	if (loop->manual)
		return rc;
	mb = calloc(1, sizeof(*mb));
	if (!mb)
		return -ENOMEM;
	rc = uv_mutex_init(&mb->lock);
	if (rc)
		goto fail;
	rc = uv_async_init(&loop->uv, &mb->async, async_cb);
	if (rc) {
		uv_mutex_destroy(&mb->lock);
		goto fail;
	}
	mb->async.data = mb;
	mb->arg = arg;
	atomic_init(&mb->refs, 1);
	*out = mb;
	return 0;
fail:
	free(mb);
	return rc;
}

int l7mp_mailbox_post(struct l7mp_mailbox *mb, struct l7mp_mail *mail)
{
	int rc = 0;

	uv_mutex_lock(&mb->lock);
	if (mb->closed) {
		rc = -ESHUTDOWN;
	} else {
		bool first = !mb->mails;

		DL_APPEND(mb->mails, mail);
		/* Send while the lock is held: once `closed` is set the handle may be freed. */
		if (first)
			uv_async_send(&mb->async);
	}
	uv_mutex_unlock(&mb->lock);
	return rc;
}

static void closed_cb(uv_handle_t *handle)
{
	l7mp_mailbox_unref(handle->data);
}

void l7mp_mailbox_close(struct l7mp_mailbox **mbp)
{
	struct l7mp_mailbox *mb = *mbp;
	struct l7mp_mail *mail;

	if (!mb)
		return;
	*mbp = NULL;
	mail = take_all(mb, true);
	uv_close((uv_handle_t *)&mb->async, closed_cb);
	deliver(mail, mb->arg);
}

struct l7mp_mailbox *l7mp_mailbox_ref(struct l7mp_mailbox *mb)
{
	atomic_fetch_add_explicit(&mb->refs, 1, memory_order_relaxed);
	return mb;
}

void l7mp_mailbox_unref(struct l7mp_mailbox *mb)
{
	if (!mb || atomic_fetch_sub_explicit(&mb->refs, 1, memory_order_acq_rel) != 1)
		return;
	uv_mutex_destroy(&mb->lock);
	free(mb);
}
