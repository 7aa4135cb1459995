/* SPDX-License-Identifier: MIT */
/*
 * What all transformers share: a stream without a descriptor, which opens in the
 * next turn of the loop, passes an end on and closes when told. Private to transform/.
 * Thread: loop only.
 */
#pragma once

#include <stdbool.h>

#include "l7mp/proto.h"

struct l7mp_transform;

struct l7mp_transform_ops {
	struct l7mp_stream_ops stream;
	/* Optional: the end of the input; still the place to emit what was held back. `end` follows. */
	void (*flush)(struct l7mp_transform *t);
	/* Optional: gives back what the transformer holds; called once, after `closed`. */
	void (*release)(struct l7mp_transform *t);
};

/* Transformers embed this as their first member. */
struct l7mp_transform {
	struct l7mp_stream base;
	const struct l7mp_transform_ops *ops;
	struct l7mp_env *env;
	struct l7mp_task task; /* open, then closed */
	bool open, shut, closing;
};

/*
 * Memory of `size` bytes (at least the struct; zeroed) as a transformer of the
 * kind that it receives. `ops->stream` needs only `write` and `flow`, the others come
 * from the macro below. NULL: no memory.
 */
void *l7mp_transform_new(size_t size, const struct l7mp_connect *params,
                         const struct l7mp_transform_ops *ops);
/* Not handed out yet: frees it and calls nothing. */
void l7mp_transform_discard_new(struct l7mp_transform *t);

/* For write: 0 when open; else frees buf and returns why not. */
int l7mp_transform_check(struct l7mp_transform *t, struct l7mp_buf *buf);
/* Hands data on; takes buf. */
static inline void l7mp_transform_emit(struct l7mp_transform *t, struct l7mp_buf *buf)
{
	t->base.events->data(t->base.owner, buf);
}

void l7mp_transform_pause(struct l7mp_stream *s, bool on);
void l7mp_transform_shutdown(struct l7mp_stream *s, int code);
void l7mp_transform_close(struct l7mp_stream *s, bool abort);
/* Its bytes must be looked at: stays in user space. */
void l7mp_transform_flow_none(struct l7mp_stream *s, struct l7mp_flow_end *out);

/* clang-format off */
#define L7MP_TRANSFORM_STREAM_OPS(write_fn, flow_fn)                                               \
	{                                                                                          \
		.write = (write_fn), .pause = l7mp_transform_pause,                                \
		.shutdown = l7mp_transform_shutdown, .close = l7mp_transform_close,                \
		.flow = (flow_fn)                                                                  \
	}
/* clang-format on */
