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
 *  - A stream emits nothing before l7mp_stream_attach, and nothing from within attach, write,
 *    pause, shutdown and close. Exception: a transformer may emit `data` and `lost` from within
 *    write, and these and `end` from within shutdown.
 *  - It is paused at first. A paused byte stream does not read; the rest of one read may still
 *    be emitted. A datagram stream may continue to emit: the owner queues up to a bound, or drops
 *    and counts.
 *  - `open` is emitted once for a connected stream, never for an accepted one.
 *  - `end` (the peer finished writing) is emitted at most once; the other direction stays open.
 *  - `closed` is emitted exactly once, as the last event, also after close, and never from
 *    within a call of the owner. The stream frees itself after the callback has returned.
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
	/* Datagrams that write has accepted could not be sent; err: negative errno. */
	void (*lost)(void *owner, int err, uint64_t packets, uint64_t bytes);
	/*
	 * Optional: path MTU discovery found a smaller MTU to the peer (ICMP, or EMSGSIZE from a
	 * send).
	 */
	void (*path_changed)(void *owner);
	/*
	 * Optional: the peer, or a router, has answered a datagram with an error (ICMP); err:
	 * negative errno. The stream goes on, since the peer may come back.
	 */
	void (*unreachable)(void *owner, int err);
	/* Adds an event to the session's event list (TLS details, a refused datagram). */
	void (*notice)(void *owner, const char *event, const char *message);
	/*
	 * Optional: the stream sends to another address from now on (UDP upstreams with a host
	 * name), and its `flow` operation returns another result.
	 */
	void (*moved)(void *owner);
	/* err->code L7MP_OK: an orderly end. *err is valid during the call. */
	void (*closed)(void *owner, const struct l7mp_error *err);
};

#define L7MP_STREAM_FULL 1

/* The state of a frozen stream, for another process that continues it. */
struct l7mp_stream_saved {
	int fd;     /* its socket; -1: it shares its listener's */
	bool ended; /* the peer has finished writing */
	bool shut;  /* our direction is shut down, or will be after `queue` */
	/* Data not written to the socket yet, without the first `off` bytes. */
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
	 * Idempotent, asynchronous. abort: drops queued data, and the peer sees a failure (RST, an
	 * incomplete body).
	 */
	void (*close)(struct l7mp_stream *s, bool abort);
	/*
	 * Optional; source streams that report the session's set-up to their peer (HTTP,
	 * JSONSocket). `status` is an HTTP status: 200, once, when the route is connected; or the
	 * error that ends the session, before close.
	 */
	void (*result)(struct l7mp_stream *s, int status, const char *message);
	/*
	 * Optional, with result; called before result 200: the subprotocol that the destination has
	 * negotiated with its peer, "" if none. Not called if the destination's protocol has no
	 * subprotocols.
	 */
	void (*subprotocol)(struct l7mp_stream *s, const char *name);
	/* Optional: describes the stream for offload. Missing: L7MP_REASON_PROTOCOL. */
	void (*flow)(struct l7mp_stream *s, struct l7mp_flow_end *out);
	/*
	 * Optional; TCP without TLS, while paused: lends the descriptor to the offload engine if no
	 * data is queued for writing. The stream does nothing until it is given back. One direction
	 * may have ended. Returns 0, -EBUSY or -ENOTCONN.
	 */
	int (*lend)(struct l7mp_stream *s, struct l7mp_flow_socket *out);
	/* Returns the descriptor (taken); -1: the connection is closed, close the stream. */
	void (*give_back)(struct l7mp_stream *s, const struct l7mp_flow_socket *back);
	/* Optional: our socket address. 0 or -ENOTSUP. */
	int (*local)(struct l7mp_stream *s, struct l7mp_addr *out);
	/*
	 * Optional; streams over one TCP connection (TCP, TLS, WebSocket ...): the address that the
	 * connection is made to, from the moment that its socket exists. 0; 1: it may still become
	 * another one; -EAGAIN: not known yet (a name is being resolved); -ENOTSUP: there is no TCP
	 * connection. The REST API's access control depends on it (api/origin.c): connections of a
	 * TCP client protocol without this operation are not recognised as ours.
	 */
	int (*remote)(struct l7mp_stream *s, struct l7mp_addr *out);
	/*
	 * Optional; streams on a datagram socket: at once receives and emits the datagrams waiting
	 * in the socket, and sends the queued ones. The only operation that emits events; it must
	 * not be called from within an event. Returns the number of datagrams received, for all
	 * streams of the socket.
	 */
	size_t (*drain_now)(struct l7mp_stream *s);
	/*
	 * Optional; sessions of a shared datagram socket: closes the stream at once, and passes
	 * this datagram (taken) to the listener as from an unknown peer, which accepts a new
	 * stream from within this call. For layers between the stream and the session
	 * (JSONSocket).
	 */
	void (*renew)(struct l7mp_stream *s, struct l7mp_buf *buf);
	/*
	 * Optional; streams that pass the data of one socket unchanged in both directions (TCP and
	 * UNIX without TLS): the byte stream on that socket, for l7mp_stream_io_splice. Borrowed
	 * until the stream is closed. NULL: not open, or the data is changed.
	 */
	struct l7mp_stream_io *(*plain)(struct l7mp_stream *s);
	/*
	 * Optional; streams that can be handed over to another process. on: stops all reading and
	 * writing without losing data; 0, or a negative errno if that is not possible in its
	 * present state, and the stream continues. off: resumes. Not from within an event of the
	 * stream.
	 */
	int (*freeze)(struct l7mp_stream *s, bool on);
	/* While frozen: describes the stream, which still owns fd and queue. */
	void (*save)(struct l7mp_stream *s, struct l7mp_stream_saved *out);
	/*
	 * While frozen: another process has taken over the stream. Closes our descriptor without
	 * effect on the peer; `closed` follows.
	 */
	void (*release)(struct l7mp_stream *s);
	/*
	 * Optional; for a stream on a shared socket that is about to be handed over to another
	 * process: moves the stream to a socket of its own. May emit `data`. Returns 0, or a
	 * negative errno: then its datagrams go to the other process. Idempotent.
	 */
	int (*stay)(struct l7mp_stream *s);
	/* Optional; for L7MP_FLOW_PASS: traffic in the kernel since the last call. */
	void (*passed)(struct l7mp_stream *s, uint64_t packets, uint64_t bytes);
};

/* Protocols embed this as their first member. */
struct l7mp_stream {
	const struct l7mp_stream_ops *ops;
	const struct l7mp_stream_events *events; /* NULL before attach */
	void *owner;
	enum l7mp_kind kind;
	bool is_transformer; /* emits the data written to it, transformed or not */
	/* A request-response protocol (HTTP): after `end` a response is still to be written. */
	bool request_response;
	/*
	 * The negotiated subprotocol (WebSocket), set before `open`: "" for none, NULL if the
	 * protocol has no subprotocols. Owned by the stream.
	 */
	const char *subprotocol;
	/* Largest datagram that write accepts, for splitting byte streams; 0: 65,507. */
	uint32_t max_write;
};

/*
 * Sets the receiver of events; `events` and `owner` are borrowed. Until then none is emitted.
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
