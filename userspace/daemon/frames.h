/* SPDX-License-Identifier: MIT */
/*
 * Sessions as frames (wire.h): SESSION with the record and the descriptors, a BYTES for each piece
 * of buffered data, and MAKE. An upgrade sends them to the new process, a restart writes them to a
 * file that the service manager keeps (store.h).
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/handover.h"
#include "wire.h"

/* Version of session records (l7mp_session_save); others are rejected. */
#define FRAMES_RECORDS 1
/* Maximum number of pieces of a session; one with more is not handed over. */
#define FRAMES_PIECES 4096

/* ---- writing ---- */

/* A session whose frames are being written. */
struct frames_out {
	struct l7mp_session *s; /* frozen: it stays; NULL: none */
	char *record;
	int fds[2]; /* borrowed */
	unsigned n_fds;
	struct l7mp_session_piece *pieces; /* their buffers are borrowed */
	size_t n_pieces, at; /* frames written: 0 the record, then the pieces, then the end */
};

/* Writes a frame, like wire_send(). Returns 0 or a negative errno. */
typedef int (*frames_sink)(void *arg, enum wire_type type, const void *head, size_t head_len,
                           const void *body, size_t body_len, const int *fds, unsigned n_fds);

/*
 * Freezes a session and describes it. `keep_flow` as for l7mp_session_freeze. Returns 0: it is
 * frozen; a negative errno: it can't be handed over, and continues.
 */
int frames_begin(struct frames_out *out, struct l7mp_session *s, bool keep_flow);
/* Writes the remaining frames. Returns 0: all are written; else the result of the sink. */
int frames_write(struct frames_out *out, frames_sink sink, void *arg);
/* Releases the description of the session, which stays frozen. */
void frames_clear(struct frames_out *out);

/* ---- reading ---- */

/* A session that is being read. */
struct frames_in {
	cJSON *record; /* NULL: none */
	int fds[WIRE_FDS];
	unsigned n_fds;
	struct l7mp_session_piece *pieces;
	size_t n_pieces;
};

/*
 * Adds a SESSION or BYTES frame; takes its descriptors. Returns 0; -EPROTO: the frame is malformed,
 * of another type, or does not follow a SESSION; -ENOMEM.
 */
int frames_add(struct frames_in *in, struct wire_frame *f, struct l7mp_buf_pool *pool);
/*
 * After MAKE: restores the session (l7mp_session_take). in->record stays until frames_drop. Returns
 * 0; a negative errno with err: it is refused.
 */
int frames_make(struct frames_in *in, struct l7mp_runtime *rt, struct l7mp_error *err);
/* Frees it, and closes descriptors not taken by a session. */
void frames_drop(struct frames_in *in);
