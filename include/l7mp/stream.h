/* SPDX-License-Identifier: MIT */
/*
 * The stream interface, which every protocol and every transformer offers to sessions.
 *
 *   listener ---accept--> stream   (open)
 *   cluster  --connect--> stream   (opens later, or fails)
 *
 * Bytes from the peer are emitted as `data` events; bytes for the peer are passed to
 * l7mp_stream_write. A transformer emits as `data` the result of transforming what was written.
 *
 * The contract:
 *  - Thread: loop only.
 *  - A stream emits nothing before l7mp_stream_attach, and nothing from inside attach, write,
 *    pause, shutdown and close. Exception: a transformer may emit `data` and `lost` from inside
 *    write, and these and `end` from inside shutdown.
 *  - It is paused at first. A paused byte stream does not read; the rest of one read may still
 *    be emitted. A datagram stream may go on emitting: the owner queues up to a bound, or drops
 *    and counts.
 *  - `open` is emitted once for a connected stream, never for an accepted one.
 *  - `end` (the peer finished writing) is emitted at most once; the other direction goes on.
 *  - `closed` is emitted exactly once, as the last event, also after close, and never from
 *    inside a call of the owner. The stream frees itself when it has returned.
 *  - write always takes its buffer, also on failure.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/buf.h"
#include "l7mp/error.h"
#include "l7mp/flow.h"
#include "l7mp/protodesc.h"

struct l7mp_stream;
struct l7mp_stream_io;

struct l7mp_stream_events {
	void (*open)(void *owner); /* connected; only for streams of clusters */
	void (*data)(void *owner, struct l7mp_buf *buf); /* takes buf */
	void (*drain)(void *owner); /* writing may continue after L7MP_STREAM_FULL */
	/* The peer finished writing. code: a WebSocket close code to pass on; 0: none. */
	void (*end)(void *owner, int code);
	/* Datagrams that write had accepted could not be sent: negative errno. */
	void (*lost)(void *owner, int err, uint64_t packets, uint64_t bytes);
	/*
	 * Optional. The kernel has learned a smaller MTU of the path to the peer (EMSGSIZE from
	 * ICMP, or from a send).
	 */
	void (*path_changed)(void *owner);
	/* Something for the session's events (TLS details, a refused datagram). */
	void (*notice)(void *owner, const char *event, const char *message);
	/*
	 * Optional: the stream goes to another address from now on (UDP upstreams with a host
	 * name); its flow operation answers differently than before.
	 */
	void (*moved)(void *owner);
	/* err->code L7MP_OK: an orderly end. *err is valid during the call. */
	void (*closed)(void *owner, const struct l7mp_error *err);
};

#define L7MP_STREAM_FULL 1

/* A stream in the state in which another process goes on with it. */
struct l7mp_stream_saved {
	int fd;     /* its socket; -1: it shares that of its listener */
	bool ended; /* the peer has finished writing */
	bool shut;  /* our direction is finished, or will be after `queue` */
	/* What was written to it and is not with its socket yet, `off` bytes of the first less. */
	struct l7mp_buf *queue;
	size_t off;
};

struct l7mp_stream_ops {
	/*
	 * 0; L7MP_STREAM_FULL: accepted, but stop until `drain`; negative errno: dropped, and the
	 * caller counts (-EMSGSIZE, -ENOBUFS, -EPIPE, -ENOTCONN).
	 */
	int (*write)(struct l7mp_stream *s, struct l7mp_buf *buf);
	void (*pause)(struct l7mp_stream *s, bool on);
	/* Ends the write direction after what was written; code as in `end`. Idempotent. */
	void (*shutdown)(struct l7mp_stream *s, int code);
	/*
	 * Idempotent, asynchronous. abort: what is queued is dropped, and the peer sees a failure
	 * (RST, an incomplete body).
	 */
	void (*close)(struct l7mp_stream *s, bool abort);
	/*
	 * Optional; source streams that answer their peer about the set-up (HTTP,
	 * JSONSocket). `status` is an HTTP status: 200 when the route is connected, once;
	 * or the error that ends the session, before close.
	 */
	void (*result)(struct l7mp_stream *s, int status, const char *message);
	/*
	 * Optional, with result; before result 200: the subprotocol that the destination has agreed
	 * on with its own peer, "" when on none. Not called when the destination has no such thing.
	 */
	void (*subprotocol)(struct l7mp_stream *s, const char *name);
	/* Optional; missing: L7MP_REASON_PROTOCOL. */
	void (*flow)(struct l7mp_stream *s, struct l7mp_flow_end *out);
	/*
	 * Optional; TCP without TLS, between pause and resume: lends the descriptor to who goes on
	 * in the kernel, when nothing waits to be written. The stream does nothing until it comes
	 * back. One direction may have ended. Returns 0, -EBUSY or -ENOTCONN.
	 */
	int (*lend)(struct l7mp_stream *s, struct l7mp_flow_socket *out);
	/* The descriptor comes back (taken); -1: the connection is over, close the stream. */
	void (*give_back)(struct l7mp_stream *s, const struct l7mp_flow_socket *back);
	/* Optional: this end's socket address. -ENOTSUP. */
	int (*local)(struct l7mp_stream *s, struct l7mp_addr *out);
	/*
	 * Optional; streams over one TCP connection (TCP, TLS, WebSocket ...): the address that the
	 * connection goes to, from the moment that its socket exists. 0; 1: it may still become
	 * another one; -EAGAIN while there is none yet (a name is being resolved), -ENOTSUP when
	 * there is no TCP below. Who may use the REST API is found out with it (api/origin.c): a
	 * TCP client that lacks it is not recognised as ours.
	 */
	int (*remote)(struct l7mp_stream *s, struct l7mp_addr *out);
	/*
	 * Optional; streams on a datagram socket: receives and emits what waits in the socket, and
	 * sends what is queued, at once. The only operation that emits events; it must not be
	 * called from inside an event. Returns the number of datagrams received, for all streams
	 * of the socket.
	 */
	size_t (*drain_now)(struct l7mp_stream *s);
	/*
	 * Optional; sessions of a shared datagram socket: closes the stream at once, and has this
	 * datagram (taken) begin a new one at the listener, as from a peer that was not known.
	 * `accept` of the listener comes from inside the call. For who stands between the stream
	 * and the session (JSONSocket).
	 */
	void (*renew)(struct l7mp_stream *s, struct l7mp_buf *buf);
	/*
	 * Optional; streams that pass on what comes from one socket, and to it, unchanged (TCP and
	 * UNIX without TLS): the byte stream on that socket, for l7mp_stream_io_splice. Borrowed
	 * until the stream is closed. NULL: not open, or bytes are changed on the way.
	 */
	struct l7mp_stream_io *(*plain)(struct l7mp_stream *s);
	/*
	 * Optional; streams that another process can go on with. on: stops all reading and writing,
	 * without losing anything; 0 or a negative errno: not in this state, it goes on. off: goes
	 * on. Not from inside an event of the stream.
	 */
	int (*freeze)(struct l7mp_stream *s, bool on);
	/* With freeze, while it is frozen: describes the stream. fd and queue stay the stream's. */
	void (*save)(struct l7mp_stream *s, struct l7mp_stream_saved *out);
	/*
	 * With freeze, while it is frozen: another process has it. Closes our descriptor, of which
	 * the peer learns nothing; `closed` follows.
	 */
	void (*release)(struct l7mp_stream *s);
	/*
	 * Optional; for a stream on a socket that it shares with others, and that another process
	 * is about to get: it receives by a socket of its own from now on. May emit `data`. Returns
	 * 0 or a negative errno: then the other process receives. Idempotent.
	 */
	int (*stay)(struct l7mp_stream *s);
	/* Optional; for L7MP_FLOW_PASS: what passed in the kernel since the last call. */
	void (*passed)(struct l7mp_stream *s, uint64_t packets, uint64_t bytes);
};

/* Protocols embed this as their first member. */
struct l7mp_stream {
	const struct l7mp_stream_ops *ops;
	const struct l7mp_stream_events *events; /* NULL before attach */
	void *owner;
	enum l7mp_kind kind;
	bool is_transformer; /* emits what was written to it, transformed or not */
	/* A request-response protocol (HTTP): after `end` an answer is still to be written. */
	bool asks;
	/*
	 * The subprotocol (WebSocket) that the peer has agreed to, set before `open`: "" for none,
	 * NULL when the protocol has no subprotocols. Owned by the stream.
	 */
	const char *subprotocol;
	/* Largest datagram that write accepts, for splitting byte streams; 0: 65,507. */
	uint32_t max_write;
};

/*
 * Sets the receiver of the events; `events` and `owner` are borrowed. Until then none is emitted.
 */
static inline void l7mp_stream_attach(struct l7mp_stream *s,
                                      const struct l7mp_stream_events *events, void *owner)
{
	s->events = events;
	s->owner = owner;
}
/* The functions below call the operations of the same name. */
static inline int l7mp_stream_write(struct l7mp_stream *s, struct l7mp_buf *buf)
{
	return s->ops->write(s, buf);
}
static inline void l7mp_stream_pause(struct l7mp_stream *s, bool on)
{
	s->ops->pause(s, on);
}
static inline void l7mp_stream_shutdown(struct l7mp_stream *s, int code)
{
	s->ops->shutdown(s, code);
}
static inline void l7mp_stream_close(struct l7mp_stream *s, bool abort)
{
	s->ops->close(s, abort);
}
/* Describes the stream for offloading; without the operation it is L7MP_REASON_PROTOCOL. */
void l7mp_stream_flow(struct l7mp_stream *s, struct l7mp_flow_end *out);
