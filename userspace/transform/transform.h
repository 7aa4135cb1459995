/* SPDX-License-Identifier: MIT */
/*
 * Common code of transformers: a stream without a descriptor, which opens in the next loop
 * iteration and passes an end on. Private to transform/. Thread: loop only.
 */
#pragma once

#include <stdbool.h>

#include "l7mp/proto.h"

struct l7mp_transform;

struct l7mp_transform_ops {
	struct l7mp_stream_ops stream;
	/*
	 * Optional: called at the end of the input, before `end` is emitted; may emit buffered
	 * data.
	 */
	void (*flush)(struct l7mp_transform *t);
	/* Optional: frees the transformer's fields; called once, after `closed`. */
	void (*release)(struct l7mp_transform *t);
};

/* Transformers embed this as their first member. */
struct l7mp_transform {
	struct l7mp_stream base;
	const struct l7mp_transform_ops *ops;
	struct l7mp_env *env;
	struct l7mp_task task; /* emits `open`, then `closed` */
	bool open, shut, closing;
};

/*
 * Allocates a transformer of `size` bytes, zeroed but for its first member, which is a struct
 * l7mp_transform. Its kind (datagram or stream) is that of its input. NULL: no memory.
 */
void *l7mp_transform_new(size_t size, const struct l7mp_connect *params,
                         const struct l7mp_transform_ops *ops);
/* Frees a transformer that was not returned by connect yet. */
void l7mp_transform_discard_new(struct l7mp_transform *t);

/*
 * Checks that it can be written to. Returns 0, or frees buf and returns -ENOTCONN or -EPIPE, the
 * result for write.
 */
int l7mp_transform_check(struct l7mp_transform *t, struct l7mp_buf *buf);
/*
 * For transformers that send a datagram back or on to others: two such listeners with each other's
 * address would loop forever. Like a router this decrements the received TTL, with which the
 * datagram is sent. Returns 0, or frees *buf and returns -ETIME, the result for write, when the TTL
 * has expired.
 */
int l7mp_transform_check_hops(struct l7mp_buf **buf);
/* Emits data; takes buf. */
static inline void l7mp_transform_emit(struct l7mp_transform *t, struct l7mp_buf *buf)
{
	t->base.events->data(t->base.owner, buf);
}

/* Stream operations for the table of a transformer. */
void l7mp_transform_pause(struct l7mp_stream *s, bool on);
void l7mp_transform_shutdown(struct l7mp_stream *s, int code);
void l7mp_transform_close(struct l7mp_stream *s, bool abort);
/* The data is needed in user space: no offload. */
void l7mp_transform_flow_none(struct l7mp_stream *s, struct l7mp_flow_end *out);

/* clang-format off */
#define L7MP_TRANSFORM_STREAM_OPS(write_fn, flow_fn)                                               \
	{                                                                                          \
		.write = (write_fn), .pause = l7mp_transform_pause,                                \
		.shutdown = l7mp_transform_shutdown, .close = l7mp_transform_close,                \
		.flow = (flow_fn)                                                                  \
	}
/* clang-format on */
