/* SPDX-License-Identifier: MIT */
/*
 * PIPE, private: a byte stream over up to two FIFOs.
 *
 * A FIFO says when there is something to read and when its last writer has gone, but not
 * when one comes. So a listener's session begins with the first byte. Thread: loop only.
 */
#pragma once

#include "fifo.h"
#include "l7mp/proto.h"
#include "l7mp/stream_io.h"

struct pipe_state {
	struct fifo *fifos;
	uint64_t last_id;
};

struct pipe_stream {
	struct l7mp_stream base;
	struct l7mp_env *env;
	struct fifo *in, *out;              /* references; NULL: that direction is not there */
	struct l7mp_stream_io *isio, *osio; /* NULL: not open (yet, or any more) */
	struct l7mp_bufq wait;              /* what waits until somebody reads `out` */
	struct l7mp_timer timer;            /* another look for a reader; the end of a close */
	struct l7mp_task task;              /* open, closed */
	/* The listener that has it waiting for its first byte, or emitted it; NULL: a cluster's, or it has gone. */
	struct pipe_listener *listener;
	struct l7mp_buf *first; /* the first bytes, when no session could be had for them */
	uint64_t since;         /* loop time when it was emitted */
	int err;
	bool open, emitted, reading;
	bool reads;  /* it is the one that reads `in` */
	bool in_end; /* the writer has gone */
	bool told;   /* ... and the owner knows */
	bool full;   /* the owner was told to stop */
	bool shut, mute, flushing;
	bool closing, over;
};

struct pipe_listener {
	struct l7mp_proto_listener base;
	struct l7mp_env *env;
	struct pipe_state *state;
	char *name;
	struct fifo *in, *out;
	struct pipe_stream *stream; /* waiting, or the session's source */
	struct l7mp_timer timer;    /* when to read again */
	bool busy;                  /* there is a session, or there may be one again (reopen) */
	bool emitting;
	uint64_t since; /* loop time when it emitted its last session */
	bool active;
};

/* ---- pipe_stream.c ---- */
struct pipe_stream *pipe_stream_new(struct l7mp_env *env, struct fifo *in, struct fifo *out);
/* Opens `in` and waits for a writer; nothing is emitted before the listener says so. */
int pipe_stream_listen(struct pipe_stream *s);
/* Opens both; `open` follows. -ENXIO: nobody reads `out`. */
int pipe_stream_connect(struct pipe_stream *s);
/* The owner has it: looks whether somebody reads `out` already. */
void pipe_stream_emitted(struct pipe_stream *s);
/* Closes what has no owner (yet). */
void pipe_stream_abandon(struct pipe_stream *s);
/* Frees one that was never opened. */
void pipe_stream_free(struct pipe_stream *s);

/* ---- pipe.c ---- */
/* The first bytes; takes buf. */
void pipe_listener_first(struct pipe_listener *l, struct pipe_stream *s, struct l7mp_buf *buf);
/* A writer came and went without a word. */
void pipe_listener_nothing(struct pipe_listener *l, struct pipe_stream *s);
/* The stream reads no more. */
void pipe_listener_left(struct pipe_listener *l, struct pipe_stream *s);
/* Nobody reads this FIFO any more: its listener may. */
void pipe_listener_free_to_read(struct pipe_listener *l);

/* ---- pipe_spec.c ---- */
extern const struct l7mp_schema pipe_listener_spec, pipe_cluster_spec, pipe_endpoint_spec;
