/* SPDX-License-Identifier: MIT */
/*
 * Byte streams over descriptors: TCP, UNIX stream sockets, FIFOs and pipes of child processes, with
 * back-pressure, half-close and bounded memory.
 *
 * Reading starts paused. Writes go to the kernel at once as far as it accepts them; the rest is
 * queued without a copy, and the writer is asked to stop (L7MP_STREAM_IO_FULL).
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
	void (*connected)(void *arg); /* once, and only after l7mp_stream_io_connect_* */
	void (*data)(void *arg, struct l7mp_buf *buf); /* takes buf */
	void (*drain)(void *arg); /* the queue fell below the low mark after a FULL write */
	void (*end)(void *arg);   /* the peer finished writing */
	void (*error)(void *arg, int err); /* negative errno; the owner has to close then */
	void (*closed)(void *arg); /* once after l7mp_stream_io_close; the stream is freed */
};

/*
 * Make a stream of a connected socket. Take fd, also on failure. `ops` and `arg` are borrowed.
 * Return 0 or a negative errno. TCP sockets get TCP_NODELAY, here and wherever a stream gets one.
 */
int l7mp_stream_io_open_tcp(struct l7mp_loop *loop, int fd, const struct l7mp_stream_io_ops *ops,
                            void *arg, struct l7mp_stream_io **out);
int l7mp_stream_io_open_unix(struct l7mp_loop *loop, int fd, const struct l7mp_stream_io_ops *ops,
                             void *arg, struct l7mp_stream_io **out);
/* The same with one descriptor for each direction (FIFOs, pipes); one of them may be -1. */
int l7mp_stream_io_open_pipe(struct l7mp_loop *loop, int read_fd, int write_fd,
                             const struct l7mp_stream_io_ops *ops, void *arg,
                             struct l7mp_stream_io **out);
/*
 * Start to connect; `connected` or `error` follows. `local` is the source address, NULL or len 0
 * for any. The stream's local address is known when the call returns. Return 0 or a negative errno.
 */
int l7mp_stream_io_connect_tcp(struct l7mp_loop *loop, const struct l7mp_addr *remote,
                               const struct l7mp_addr *local, const struct l7mp_stream_io_ops *ops,
                               void *arg, struct l7mp_stream_io **out);
int l7mp_stream_io_connect_unix(struct l7mp_loop *loop, const struct l7mp_addr *remote,
                                const struct l7mp_stream_io_ops *ops, void *arg,
                                struct l7mp_stream_io **out);

/* Starts or pauses reading. */
void l7mp_stream_io_read(struct l7mp_stream_io *s, bool on);
#define L7MP_STREAM_IO_FULL 1
#define L7MP_STREAM_IO_HIGH 65536U /* queued bytes from which the writer has to stop */
/*
 * Writes; takes buf, also on failure. Returns 0; L7MP_STREAM_IO_FULL: accepted, but the writer
 * should wait for `drain`; or a negative errno: not written (-EPIPE after shutdown).
 */
int l7mp_stream_io_write(struct l7mp_stream_io *s, struct l7mp_buf *buf);
/*
 * While corked, writes are only queued; uncorking sends the queue with as few system calls as
 * possible, for example a head with its body. Does not nest.
 */
void l7mp_stream_io_cork(struct l7mp_stream_io *s, bool on);
/* Ends the write direction after what is queued was sent. Idempotent. */
void l7mp_stream_io_shutdown(struct l7mp_stream_io *s);
/*
 * Closes the stream; only `closed` is called afterwards. The queue is sent first, for at most 5 s.
 * With `abort` it is discarded, and TCP sends RST. Idempotent.
 */
void l7mp_stream_io_close(struct l7mp_stream_io *s, bool abort);
/*
 * Detaches the descriptor of a socket, whose unread bytes stay in the kernel, and closes the
 * stream. Returns the descriptor, which is the caller's; -EBUSY when bytes wait to be written;
 * -ENOTCONN when the stream is closed or has failed.
 */
int l7mp_stream_io_take_fd(struct l7mp_stream_io *s);
/*
 * Lends the descriptor of an open TCP connection, whose unread bytes stay in the kernel: until it
 * comes back the stream does nothing, and keeps what is written to it. Returns the descriptor,
 * which is the caller's; -EBUSY when bytes, or an end, wait to be written or reported; -ENOTCONN
 * when both directions have ended, or the connection has failed. *ended: the peer's end of stream
 * was read; *shut: ours was sent.
 */
int l7mp_stream_io_lend(struct l7mp_stream_io *s, bool *ended, bool *shut);
/*
 * Gives a lent stream this descriptor (taken) of the same connection. ended: the peer has finished
 * writing, though the socket does not know: `end` is called soon, if it was not before. shut: our
 * direction is finished, though the socket does not know. What had ended before it was lent remains
 * so. fd -1: the connection is over, and the owner closes the stream.
 */
void l7mp_stream_io_give_back(struct l7mp_stream_io *s, int fd, bool ended, bool shut);
/*
 * Stops all reading and writing (on), or resumes (off). Data in a kernel pipe is moved back to the
 * queue, and splicing ends. Returns 0; -ENOTCONN, -EBUSY: not possible in this state, and the
 * stream continues.
 */
int l7mp_stream_io_freeze(struct l7mp_stream_io *s, bool on);
struct l7mp_stream_io_state {
	bool ended, shut; /* the peer has finished writing; we have, after the queue */
	struct l7mp_buf *queue;
	size_t off; /* bytes of its first buffer that are sent */
};
/* The state of a frozen stream; the queue stays the stream's. */
void l7mp_stream_io_state(const struct l7mp_stream_io *s, struct l7mp_stream_io_state *out);
/* Sets the state of a stream that was just opened. Takes the queue. */
void l7mp_stream_io_set_state(struct l7mp_stream_io *s, const struct l7mp_stream_io_state *state);
/*
 * Another process has taken over the frozen stream: closes the descriptor without effect on the
 * peer. `closed` follows.
 */
void l7mp_stream_io_release(struct l7mp_stream_io *s);
/* Returns the number of bytes queued for writing. */
size_t l7mp_stream_io_queued(const struct l7mp_stream_io *s);
/* Returns the descriptor that is read from; it stays the stream's. */
int l7mp_stream_io_fd(const struct l7mp_stream_io *s);
/* Read the addresses of both ends. Return 0 or a negative errno. */
int l7mp_stream_io_local(const struct l7mp_stream_io *s, struct l7mp_addr *out);
int l7mp_stream_io_remote(const struct l7mp_stream_io *s, struct l7mp_addr *out);

/* ---- splicing: bytes go from socket to socket inside of the kernel ---- */

/*
 * From now on what `from` reads may go to `to` through a pipe of the kernel (splice(2)), without
 * `data`. Then `passed` says how many bytes were read, and what l7mp_stream_io_write would have
 * returned for them. What comes in small pieces, or while no pipe is free, while `to` has something
 * queued, is corked or was shut down, is emitted as `data` as ever, for the owner to write. So the
 * owner must not have something queued for `to` while `from` reads.
 *
 * What is in the pipe belongs to the queue of `to`, and shares its fate. The link ends with
 * l7mp_stream_io_unsplice, or when one of the two fails or is closed. Returns 0; -ENOTSUP: not both
 * are sockets; -EBUSY: one of them has such a link already; -ENOTCONN: one is not open.
 */
int l7mp_stream_io_splice(struct l7mp_stream_io *from, struct l7mp_stream_io *to,
                          void (*passed)(void *arg, size_t bytes, int rc), void *arg);
/* Everything that `from` reads is `data` again. Loses nothing. Idempotent. */
void l7mp_stream_io_unsplice(struct l7mp_stream_io *from);
/*
 * Calls done(arg) once, not from inside the call, when everything written to s is with its socket.
 * It is not called when the stream fails or is closed before. One at a time; NULL cancels.
 */
void l7mp_stream_io_flushed(struct l7mp_stream_io *s, void (*done)(void *arg), void *arg);

/*
 * The bound of the number of pipes, read each time (borrowed for the loop's life; 0: never splice).
 * A twentieth of the file descriptors is another. Without a call there is no splicing. Returns 0 or
 * -ENOMEM.
 */
int l7mp_splice_limit(struct l7mp_loop *loop, const uint32_t *max_pipes);
struct l7mp_splice_stats {
	uint64_t bytes;     /* that went through a pipe */
	uint64_t exhausted; /* times that no pipe was free, so that bytes were copied */
	uint64_t open;      /* pipes */
};
struct l7mp_splice_stats l7mp_splice_stats(const struct l7mp_loop *loop);

/* ---- listening ---- */

struct l7mp_acceptor;
struct l7mp_acceptor_ops {
	/* Takes fd (non-blocking, close-on-exec). peer->len 0 for UNIX. */
	void (*accepted)(void *arg, int fd, const struct l7mp_addr *peer);
	/*
	 * accept(2) failed for lack of descriptors or memory (-EMFILE, -ENFILE, -ENOBUFS, -ENOMEM).
	 * For counting: the acceptor waits a while and tries again by itself.
	 */
	void (*exhausted)(void *arg, int err);
};
/* Starts to accept. Takes a listening fd, also on failure. Returns 0 or a negative errno. */
int l7mp_acceptor_new(struct l7mp_loop *loop, int fd, const struct l7mp_acceptor_ops *ops,
                      void *arg, struct l7mp_acceptor **out);
/* Pauses or resumes accepting; connections wait in the kernel's queue meanwhile. */
void l7mp_acceptor_rest(struct l7mp_acceptor *a, bool on);
/* Accepts at once what waits in the kernel's queue; not from inside `accepted`. */
void l7mp_acceptor_flush(struct l7mp_acceptor *a);
int l7mp_acceptor_fd(const struct l7mp_acceptor *a);
/* Closes the descriptor at once; no callback is called any more. Nulls the pointer. */
void l7mp_acceptor_close(struct l7mp_acceptor **a);
