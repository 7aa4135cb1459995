/* SPDX-License-Identifier: MIT */
/*
 * Byte streams over descriptors: TCP, UNIX stream sockets, FIFOs and pipes of
 * child processes, with back-pressure, half-close and bounded memory.
 *
 * Reading starts paused. Writes go to the kernel at once where it takes them;
 * what it does not take is queued (never copied) and the writer is told to stop.
 *
 * Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/addr.h"
#include "l7mp/buf.h"
#include "l7mp/loop.h"

struct l7mp_stream_io;

struct l7mp_stream_io_ops {
	void (*connected)(void *arg); /* after l7mp_stream_io_connect_* only; once */
	void (*data)(void *arg, struct l7mp_buf *buf); /* takes buf */
	void (*drain)(void *arg); /* the queue fell below the low mark after a FULL write */
	void (*end)(void *arg);   /* the peer finished writing */
	void (*error)(void *arg, int err); /* negative errno; nothing but close makes sense then */
	void (*closed)(void *arg); /* after l7mp_stream_io_close; exactly once; the sio is gone */
};

/* Accepted or ready-made descriptors; takes fd also on failure. */
int l7mp_stream_io_open_tcp(struct l7mp_loop *loop, int fd, const struct l7mp_stream_io_ops *ops,
                            void *arg, struct l7mp_stream_io **out);
int l7mp_stream_io_open_unix(struct l7mp_loop *loop, int fd, const struct l7mp_stream_io_ops *ops,
                             void *arg, struct l7mp_stream_io **out);
/* One descriptor a direction, either may be -1 (FIFOs, child pipes). */
int l7mp_stream_io_open_pipe(struct l7mp_loop *loop, int read_fd, int write_fd,
                             const struct l7mp_stream_io_ops *ops, void *arg,
                             struct l7mp_stream_io **out);
/*
 * `local` NULL or len 0: any. The local address is known right after the call. Failure also comes
 * as `error`.
 */
int l7mp_stream_io_connect_tcp(struct l7mp_loop *loop, const struct l7mp_addr *remote,
                               const struct l7mp_addr *local, const struct l7mp_stream_io_ops *ops,
                               void *arg, struct l7mp_stream_io **out);
int l7mp_stream_io_connect_unix(struct l7mp_loop *loop, const struct l7mp_addr *remote,
                                const struct l7mp_stream_io_ops *ops, void *arg,
                                struct l7mp_stream_io **out);

void l7mp_stream_io_read(struct l7mp_stream_io *s, bool on);
#define L7MP_STREAM_IO_FULL 1
/*
 * Takes buf. 0, L7MP_STREAM_IO_FULL (accepted; wait for drain), or negative errno (not written:
 * -EPIPE after shutdown).
 */
int l7mp_stream_io_write(struct l7mp_stream_io *s, struct l7mp_buf *buf);
/*
 * While corked, writes are queued only; uncorking sends what is queued with as few system calls
 * as it takes: for a head and its body. Pairs, not nested.
 */
void l7mp_stream_io_cork(struct l7mp_stream_io *s, bool on);
/* End of writing, after what is queued. Idempotent. */
void l7mp_stream_io_shutdown(struct l7mp_stream_io *s);
/*
 * Idempotent. abort: what is queued is thrown away and TCP sends RST; else it is
 * written first, for at most 5 s. Nothing but `closed` is called afterwards.
 */
void l7mp_stream_io_close(struct l7mp_stream_io *s, bool abort);
/*
 * Takes the descriptor of a socket out of it, with what nobody has read yet; then as after close.
 * -EBUSY when bytes wait to be written (and nothing happens), -ENOTCONN when it is closed.
 */
int l7mp_stream_io_take_fd(struct l7mp_stream_io *s);
size_t l7mp_stream_io_queued(const struct l7mp_stream_io *s);
int l7mp_stream_io_fd(const struct l7mp_stream_io *s); /* the read side */
int l7mp_stream_io_local(const struct l7mp_stream_io *s, struct l7mp_addr *out);
int l7mp_stream_io_remote(const struct l7mp_stream_io *s, struct l7mp_addr *out);

/* ---- listening ---- */

struct l7mp_acceptor;
struct l7mp_acceptor_ops {
	/* Takes fd (non-blocking, close-on-exec). peer->len 0 for UNIX. */
	void (*accepted)(void *arg, int fd, const struct l7mp_addr *peer);
	/*
	 * Descriptors ran out (EMFILE, ENFILE, ENOBUFS, ENOMEM): accepting backs off by itself and
	 * goes on; for counting.
	 */
	void (*exhausted)(void *arg, int err);
};
/* Takes a listening fd, also on failure. Accepting starts at once. */
int l7mp_acceptor_new(struct l7mp_loop *loop, int fd, const struct l7mp_acceptor_ops *ops,
                      void *arg, struct l7mp_acceptor **out);
/* Accepts nothing until it is told to go on; connections wait in the kernel's queue. */
void l7mp_acceptor_rest(struct l7mp_acceptor *a, bool on);
int l7mp_acceptor_fd(const struct l7mp_acceptor *a);
/* Closes the descriptor at once; nothing is called any more. */
void l7mp_acceptor_close(struct l7mp_acceptor **a);
