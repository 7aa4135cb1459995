/* SPDX-License-Identifier: MIT */
/*
 * The batched datagram engine: one for UDP, UNIX datagram and seqpacket sockets
 * and AF_PACKET. libuv's own UDP handle has no batched send, no control
 * messages, no UNIX datagrams and no packet sockets.
 *
 * Receives with recvmmsg(2) in batches, splits UDP GRO receives (udp(7),
 * UDP_GRO) into their datagrams, learns the local address from IP_PKTINFO /
 * IPV6_PKTINFO. Sends are queued and leave at the end of the loop's turn with
 * sendmmsg(2); runs of equal-sized datagrams to one peer leave as one UDP GSO
 * send (UDP_SEGMENT) where the kernel has it.
 *
 * Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/addr.h"
#include "l7mp/buf.h"
#include "l7mp/loop.h"

struct l7mp_dgram;

enum l7mp_dgram_flags {
	L7MP_DGRAM_PKTINFO = 1 << 0,   /* learn and set the local address (UDP) */
	L7MP_DGRAM_GRO = 1 << 1,       /* ask for UDP GRO */
	L7MP_DGRAM_GSO = 1 << 2,       /* use UDP GSO when possible */
	L7MP_DGRAM_SEQPACKET = 1 << 3, /* a receive of 0 bytes is the peer's end (UNIX seqpacket) */
	L7MP_DGRAM_CRED = 1 << 4, /* learn who sent it (UNIX, SCM_CREDENTIALS): l7mp_dgram_cred */
	L7MP_DGRAM_VNET =
	        1
	        << 5, /* AF_PACKET: ask for PACKET_VNET_HDR; buffers begin with a struct virtio_net_hdr, both ways */
};

struct l7mp_dgram_ops {
	/*
	 * One datagram; takes buf. from->len is 0 for an unnamed UNIX peer and on
	 * connected sockets; `to` is the local address when PKTINFO is on, else len
	 * 0. May close the socket.
	 */
	void (*recv)(void *arg, struct l7mp_buf *buf, const struct l7mp_addr *from,
	             const struct l7mp_addr *to);
	/* Optional. After the last recv of one batch: the place to act on verdicts. */
	void (*batch_end)(void *arg);
	/*
	 * Optional. A send that was queued did not leave: negative errno, and the tag
	 * given at send. Counted by whoever implements this, else by nobody.
	 */
	void (*lost)(void *arg, int err, uint64_t tag, uint32_t len);
	/*
	 * Optional. The socket reported an error (ECONNREFUSED from ICMP, ENETDOWN ...) or, with
	 * err 0, the peer's end of a seqpacket. Reading goes on unless closed.
	 */
	void (*error)(void *arg, int err);
	/*
	 * Optional. A datagram came in that could not be handed over: -EMSGSIZE (larger than
	 * max_datagram), -ENOMEM. `len` is its real length.
	 */
	void (*dropped)(void *arg, int err, uint32_t len);
	/*
	 * Optional (UDP). The kernel dropped `packets` datagrams since the last call, mostly
	 * because the receive buffer was full (SO_RXQ_OVFL, socket(7)). Known with the next
	 * datagram that is received.
	 */
	void (*overflow)(void *arg, uint32_t packets);
	/*
	 * Optional. What waited for the kernel (l7mp_dgram_waiting) has left or was lost, but for
	 * less than 64 KiB.
	 */
	void (*drain)(void *arg);
};

/*
 * Takes fd (non-blocking, close-on-exec), also on failure. Reading starts with
 * l7mp_dgram_read. A connected socket is connected before this call. max_datagram
 * below 64 KiB does not limit UDP with GRO; above, a receive batch is smaller.
 */
int l7mp_dgram_new(struct l7mp_loop *loop, int fd, unsigned flags, size_t max_datagram,
                   const struct l7mp_dgram_ops *ops, void *arg, struct l7mp_dgram **out);
void l7mp_dgram_read(struct l7mp_dgram *d, bool on);
/*
 * Queues one datagram; takes buf. `to` NULL: the connected peer. `from` NULL or
 * len 0: the kernel chooses the source address. `tag` comes back in `lost`.
 * 0; -EMSGSIZE; -ENOBUFS when the send queue (1 MiB per socket) is full. On error the
 * buffer is freed and the caller counts.
 */
int l7mp_dgram_send(struct l7mp_dgram *d, struct l7mp_buf *buf, const struct l7mp_addr *to,
                    const struct l7mp_addr *from, uint64_t tag);
/*
 * Sends what is queued now (before a close, or when a caller can't wait for the end of the turn).
 */
void l7mp_dgram_flush(struct l7mp_dgram *d);
/*
 * Receives what waits in the socket now, at most one turn's share, and sends what is queued: for
 * somebody who can't wait for the loop. Not from inside a callback of a socket's receive. How many
 * datagrams came.
 */
size_t l7mp_dgram_drain(struct l7mp_dgram *d);
int l7mp_dgram_fd(const struct l7mp_dgram *d);
/*
 * Bytes in the send queue that the kernel did not take when they were offered; 0: it takes all.
 * `drain` follows.
 */
size_t l7mp_dgram_waiting(const struct l7mp_dgram *d);
/* Inside recv, with L7MP_DGRAM_CRED: who sent this datagram. False when not known. */
struct ucred;
bool l7mp_dgram_cred(const struct l7mp_dgram *d, struct ucred *out);
/*
 * Flushes, closes the descriptor at once, calls nothing any more, frees itself later. Nulls the
 * pointer. Safe inside recv.
 */
void l7mp_dgram_close(struct l7mp_dgram **d);
