/* SPDX-License-Identifier: MIT */
#include "frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Growth step of an array. */
#define PIECES_STEP 16

/* Makes room for one more. */
static int grow(struct l7mp_session_piece **pieces, size_t n)
{
	struct l7mp_session_piece *grown;

	if (n == FRAMES_PIECES)
		return -E2BIG;
	if (n % PIECES_STEP)
		return 0;
	grown = realloc(*pieces, (n + PIECES_STEP) * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	*pieces = grown;
	return 0;
}

/* ---- writing ---- */

static int add_piece(void *arg, const struct l7mp_session_piece *piece)
{
	struct frames_out *out = arg;
	int rc;

	if (piece->buf->len > WIRE_MAX - sizeof(struct wire_bytes) || piece->buf->meta)
		return -E2BIG;
	rc = grow(&out->pieces, out->n_pieces);
	if (!rc)
		out->pieces[out->n_pieces++] = *piece;
	return rc;
}

void frames_clear(struct frames_out *out)
{
	free(out->record);
	free(out->pieces);
	*out = (struct frames_out){.s = NULL};
}

int frames_begin(struct frames_out *out, struct l7mp_session *s, bool keep_flow)
{
	int fds[2], rc = l7mp_session_freeze(s, keep_flow);

	if (rc)
		return rc;
	out->record = l7mp_session_save(s, fds);
	rc = !out->record ? -ENOMEM : strlen(out->record) >= WIRE_MAX ? -E2BIG : 0;
	for (int i = 0; !rc && i < 2; i++)
		if (fds[i] >= 0)
			out->fds[out->n_fds++] = fds[i];
	if (!rc)
		rc = l7mp_session_each_piece(s, add_piece, out);
	if (!rc) {
		out->s = s;
		return 0;
	}
	frames_clear(out);
	l7mp_session_thaw(s);
	return rc;
}

static int write_one(struct frames_out *out, frames_sink sink, void *arg)
{
	const struct l7mp_session_piece *piece;
	struct wire_bytes head;

	if (!out->at)
		return sink(arg, WIRE_SESSION, out->record, strlen(out->record), NULL, 0, out->fds,
		            out->n_fds);
	if (out->at > out->n_pieces)
		return sink(arg, WIRE_MAKE, NULL, 0, NULL, 0, NULL, 0);
	piece = &out->pieces[out->at - 1];
	head = (struct wire_bytes){.stage = (uint16_t)piece->stage,
	                           .queue = piece->queue,
	                           .hops = piece->buf->hops,
	                           .flags = piece->buf->flags};
	return sink(arg, WIRE_BYTES, &head, sizeof(head), piece->buf->data, piece->buf->len, NULL,
	            0);
}

int frames_write(struct frames_out *out, frames_sink sink, void *arg)
{
	int rc;

	for (; out->at < out->n_pieces + 2; out->at++) {
		rc = write_one(out, sink, arg);
		if (rc)
			return rc;
	}
	return 0;
}

/* ---- reading ---- */

void frames_drop(struct frames_in *in)
{
	cJSON_Delete(in->record);
	while (in->n_fds)
		close(in->fds[--in->n_fds]);
	while (in->n_pieces)
		l7mp_buf_unref(in->pieces[--in->n_pieces].buf);
	free(in->pieces);
	*in = (struct frames_in){.record = NULL};
}

static int begin(struct frames_in *in, struct wire_frame *f)
{
	frames_drop(in);
	in->record = l7mp_json_parse((const char *)f->data, f->len, NULL, NULL, 0);
	in->n_fds = f->n_fds;
	memcpy(in->fds, f->fds, sizeof(in->fds));
	f->n_fds = 0;
	return in->record ? 0 : -EPROTO;
}

static int add_bytes(struct frames_in *in, const struct wire_frame *f, struct l7mp_buf_pool *pool)
{
	struct wire_bytes head;
	struct l7mp_buf *buf;

	if (!in->record || f->len < sizeof(head) || grow(&in->pieces, in->n_pieces))
		return -EPROTO;
	memcpy(&head, f->data, sizeof(head));
	buf = l7mp_buf_copy(pool, f->data + sizeof(head), f->len - sizeof(head));
	if (!buf)
		return -ENOMEM;
	buf->flags = head.flags;
	buf->hops = head.hops;
	in->pieces[in->n_pieces++] =
	        (struct l7mp_session_piece){.stage = head.stage, .queue = head.queue, .buf = buf};
	return 0;
}

int frames_add(struct frames_in *in, struct wire_frame *f, struct l7mp_buf_pool *pool)
{
	if (f->type == WIRE_SESSION)
		return begin(in, f);
	return f->type == WIRE_BYTES ? add_bytes(in, f, pool) : -EPROTO;
}

int frames_make(struct frames_in *in, struct l7mp_runtime *rt, struct l7mp_error *err)
{
	int rc = l7mp_session_take(rt, in->record, in->fds, in->n_fds, in->pieces, in->n_pieces,
	                           err);

	in->n_fds = 0;
	in->n_pieces = 0;
	return rc;
}
