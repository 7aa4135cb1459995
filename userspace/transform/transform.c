/* SPDX-License-Identifier: MIT */
#include "transform.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void on_task(struct l7mp_task *task, void *arg)
{
	struct l7mp_transform *t = arg;
	const struct l7mp_error ok = {.code = L7MP_OK};

	(void)task;
	if (!t->closing) {
		t->open = true;
		t->base.events->open(t->base.owner);
		return;
	}
	if (t->base.events)
		t->base.events->closed(t->base.owner, &ok);
	l7mp_transform_discard_new(t);
}

void *l7mp_transform_new(size_t size, const struct l7mp_connect *params,
                         const struct l7mp_transform_ops *ops)
{
	struct l7mp_transform *t = calloc(1, size);

	if (!t)
		return NULL;
	t->base.ops = &ops->stream;
	t->base.kind = params->in_kind;
	t->base.is_transformer = true;
	t->ops = ops;
	t->env = params->env;
	l7mp_task_init(&t->task, on_task, t);
	l7mp_task_post(t->env->loop, &t->task);
	return t;
}

void l7mp_transform_discard_new(struct l7mp_transform *t)
{
	l7mp_task_cancel(t->env->loop, &t->task);
	if (t->ops->release)
		t->ops->release(t);
	free(t);
}

int l7mp_transform_check(struct l7mp_transform *t, struct l7mp_buf *buf)
{
	if (t->open && !t->shut && !t->closing)
		return 0;
	l7mp_buf_unref(buf);
	return t->open ? -EPIPE : -ENOTCONN;
}

int l7mp_transform_check_hops(struct l7mp_buf **buf)
{
	struct l7mp_buf *b = *buf;

	if (!b->hops)
		return 0;
	if (b->hops == 1) {
		l7mp_buf_unref(b);
		*buf = NULL;
		return -ETIME;
	}
	b->hops--;
	b->flags |= L7MP_BUF_HOPS;
	return 0;
}

/* A transformer has no queue; the session checks the stage after it. */
void l7mp_transform_pause(struct l7mp_stream *s, bool on)
{
	(void)s;
	(void)on;
}

void l7mp_transform_shutdown(struct l7mp_stream *s, int code)
{
	struct l7mp_transform *t = (struct l7mp_transform *)s;

	if (!t->open || t->shut || t->closing)
		return;
	t->shut = true;
	if (t->ops->flush)
		t->ops->flush(t);
	if (!t->closing)
		t->base.events->end(t->base.owner, code);
}

void l7mp_transform_close(struct l7mp_stream *s, bool abort)
{
	struct l7mp_transform *t = (struct l7mp_transform *)s;

	(void)abort;
	if (t->closing)
		return;
	t->closing = true;
	l7mp_task_post(t->env->loop, &t->task);
}

void l7mp_transform_flow_none(struct l7mp_stream *s, struct l7mp_flow_end *out)
{
	(void)s;
	memset(out, 0, sizeof(*out));
	out->kind = L7MP_FLOW_NONE;
	out->reason = L7MP_REASON_TRANSFORMER;
}
