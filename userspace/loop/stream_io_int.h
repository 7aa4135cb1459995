/* SPDX-License-Identifier: MIT */
/* Inside of the byte streams (sio*.c). */
#pragma once

#include "l7mp/stream_io.h"
#include "loop_int.h"

#define SIO_READ      32768u /* bytes of one read: measured; larger ones fall out of the L2 cache */
#define SIO_ROUNDS    8      /* reads of one stream in a turn, for fairness */
#define SIO_HIGH      65536u /* queued bytes from which the writer has to stop */
#define SIO_LOW       16384u
#define SIO_IOV       32
#define SIO_CLOSE_MS  5000 /* how long a close waits for what is queued */
#define SIO_LINGER_MS 1000 /* how long it reads on, so that no RST overtakes what was written */
#define SIO_STALL_MS  5000 /* how long a socket that was reset is kept while reading is stopped */
#define SIO_DIAL_MS   5    /* between attempts when a UNIX listener's backlog is full */

enum sio_kind { SIO_TCP, SIO_UNIX, SIO_PIPE };

struct l7mp_stream_io {
	struct l7mp_io in;  /* sockets: both directions */
	struct l7mp_io out; /* pipes: the writing side */
	struct l7mp_loop *loop;
	const struct l7mp_stream_io_ops *ops;
	void *arg;
	struct l7mp_bufq q;
	size_t off;               /* bytes of the queue's head that are written */
	struct l7mp_task task;    /* callbacks that must not come from inside a call */
	struct l7mp_timer timer;  /* close, linger, another dial */
	struct l7mp_addr *remote; /* while a UNIX connect is tried again */
	int err;                  /* failed: to report, or reported */
	int werr;                 /* writing failed, reading goes on to the end */
	uint8_t kind;
	bool reading, read_armed, eof;
	bool started; /* was read from once: before that the descriptor is not watched */
	bool connecting, full, corked, shut, shut_done;
	bool closing, lingering, gone;
	bool tell_connected, tell_error, tell_drain;
};

static inline bool sio_is_socket(const struct l7mp_stream_io *s)
{
	return s->kind != SIO_PIPE;
}

/* sio.c */
int l7mp_stream_io_alloc(struct l7mp_loop *loop, enum sio_kind kind, int read_fd, int write_fd,
                         const struct l7mp_stream_io_ops *ops, void *arg,
                         struct l7mp_stream_io **out);
/* Later, once, as `error`. */
void l7mp_stream_io_fail(struct l7mp_stream_io *s, int err);
/* The queue is written and the stream is closing. */
void l7mp_stream_io_finish(struct l7mp_stream_io *s);
void l7mp_stream_io_teardown(struct l7mp_stream_io *s, bool reset);

/* sio_io.c */
void l7mp_stream_io_watch(struct l7mp_stream_io *s);
void l7mp_stream_io_in_cb(struct l7mp_io *io, uint32_t events);
void l7mp_stream_io_out_cb(struct l7mp_io *io, uint32_t events);
void l7mp_stream_io_flush(struct l7mp_stream_io *s); /* no callbacks */
ssize_t l7mp_stream_io_push(struct l7mp_stream_io *s, const struct iovec *iov, size_t n);
void l7mp_stream_io_write_failed(struct l7mp_stream_io *s, int err);
void l7mp_stream_io_do_shutdown(struct l7mp_stream_io *s);
void l7mp_stream_io_linger(struct l7mp_stream_io *s);

/* sio_open.c */
void l7mp_stream_io_dial_done(struct l7mp_stream_io *s); /* the kernel has news of a connect */
void l7mp_stream_io_dial_again(struct l7mp_stream_io *s);
