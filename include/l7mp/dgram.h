/* SPDX-License-Identifier: MIT */
/*
 * The datagram engine: batched I/O for UDP, UNIX datagram, UNIX seqpacket and AF_PACKET sockets.
 * libuv's UDP handle has no batched send and no control messages, and supports only UDP.
 *
 * It receives batches with recvmmsg(2), splits UDP GRO receives (UDP_GRO in udp(7)) into their
 * datagrams, and reads the local address from IP_PKTINFO or IPV6_PKTINFO. Sends are queued and made
 * with sendmmsg(2) at the end of the loop iteration; runs of datagrams of one size to one peer
 * become a UDP GSO send (UDP_SEGMENT) where the kernel has it.
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
	L7MP_DGRAM_PKTINFO = 1 << 0,   /* UDP: report the local address, and set it when sending */
	L7MP_DGRAM_GRO = 1 << 1,       /* UDP: enable GRO */
	L7MP_DGRAM_GSO = 1 << 2,       /* UDP: send with GSO where possible */
	L7MP_DGRAM_SEQPACKET = 1 << 3, /* UNIX seqpacket: a receive of 0 bytes is the peer's end */
	L7MP_DGRAM_CRED = 1 << 4,      /* UNIX: receive SCM_CREDENTIALS, for l7mp_dgram_cred */
	/*
	 * AF_PACKET: enable PACKET_VNET_HDR (packet(7)). The buffers of both directions then begin
	 * with a struct virtio_net_hdr.
	 */
	L7MP_DGRAM_VNET = 1 << 5,
	L7MP_DGRAM_HOPS = 1 << 6,     /* UDP: sets the `hops` of received buffers */
	L7MP_DGRAM_RECV_TOS = 1 << 7, /* UDP: note TOS or traffic class in the buffer's flags */
	L7MP_DGRAM_SEND_TOS = 1 << 8, /* UDP: send with the one in the buffer's flags, if any */
};

struct l7mp_dgram_ops {
	/*
	 * A datagram was received; takes buf. from->len is 0 for an unnamed UNIX peer and on
	 * connected sockets. `to` is the local address with L7MP_DGRAM_PKTINFO, else its len is 0.
	 * May close the socket.
	 */
	void (*recv)(void *arg, struct l7mp_buf *buf, const struct l7mp_addr *from,
	             const struct l7mp_addr *to);
	/* Optional. Called after the last recv of a batch, for work that is done once per batch. */
	void (*batch_end)(void *arg);
	/*
	 * Optional. A queued datagram of `len` bytes could not be sent: negative errno, and the tag
	 * given to l7mp_dgram_send. The engine itself does not count it.
	 */
	void (*lost)(void *arg, int err, uint64_t tag, uint32_t len);
	/*
	 * Optional. The socket reported an error (negative errno: -ECONNREFUSED from ICMP,
	 * -ENETDOWN ...), or, with err 0, the peer of a seqpacket socket closed. Reading continues
	 * unless the callback closes the socket.
	 */
	void (*error)(void *arg, int err);
	/*
	 * Optional. A received datagram of `len` bytes was dropped: -EMSGSIZE (larger than
	 * max_datagram) or -ENOMEM.
	 */
	void (*dropped)(void *arg, int err, uint32_t len);
	/*
	 * Optional (not AF_UNIX). The kernel dropped `packets` datagrams since the last call,
	 * because the receive buffer was full (SO_RXQ_OVFL, socket(7)). The kernel reports this
	 * with the next datagram only.
	 */
	void (*overflow)(void *arg, uint32_t packets);
	/*
	 * Optional. Fewer than 64 KiB still wait for the kernel, after l7mp_dgram_waiting returned
	 * more than 0.
	 */
	void (*drain)(void *arg);
};

/*
 * Starts to use a socket. Takes fd, which must be non-blocking and close-on-exec, also on failure.
 * It reads nothing before l7mp_dgram_read. A socket that is to be connected must be connected
 * before. max_datagram is in bytes; below 64 KiB it does not limit UDP with GRO, above 64 KiB
 * receive batches are smaller. `ops` and `arg` are borrowed. Returns 0 or a negative errno.
 */
int l7mp_dgram_new(struct l7mp_loop *loop, int fd, unsigned flags, size_t max_datagram,
                   const struct l7mp_dgram_ops *ops, void *arg, struct l7mp_dgram **out);
/* Starts or stops reading; what arrives meanwhile waits in the kernel. */
void l7mp_dgram_read(struct l7mp_dgram *d, bool on);
/*
 * Queues one datagram; takes buf, also on failure. One with L7MP_BUF_HOPS leaves an unconnected UDP
 * socket with its own TTL or hop limit. `to` NULL: the connected peer. `from` NULL or
 * len 0: the kernel chooses the source address. `tag` is passed to `lost`. Returns 0; -EMSGSIZE;
 * -ENOBUFS when the send queue (1 MiB per socket) is full; -ENOMEM. The caller counts a failure.
 */
int l7mp_dgram_send(struct l7mp_dgram *d, struct l7mp_buf *buf, const struct l7mp_addr *to,
                    const struct l7mp_addr *from, uint64_t tag);
/* Sends what is queued now, for a caller that can't wait for the end of the iteration. */
void l7mp_dgram_flush(struct l7mp_dgram *d);
/*
 * Receives at once what waits in the socket, up to the share of one iteration, and sends what is
 * queued. Must not be called from inside `recv` of any socket. Returns the number of datagrams
 * received.
 */
size_t l7mp_dgram_drain(struct l7mp_dgram *d);
/* Returns the descriptor, which stays the engine's. */
int l7mp_dgram_fd(const struct l7mp_dgram *d);
/*
 * UDP: switches L7MP_DGRAM_SEND_TOS. Once it was on for a socket of the loop, sockets that are made
 * on it later note TOS, so that there is one to send.
 */
void l7mp_dgram_send_tos(struct l7mp_dgram *dgram, bool on);
/*
 * Returns how many bytes of the send queue the kernel has refused so far (EAGAIN). When this is not
 * 0, `drain` will be called.
 */
size_t l7mp_dgram_waiting(const struct l7mp_dgram *d);
struct ucred;
/*
 * Inside recv, with L7MP_DGRAM_CRED: reads the sender's credentials. Returns false when the kernel
 * gave none.
 */
bool l7mp_dgram_cred(const struct l7mp_dgram *d, struct ucred *out);
/*
 * Sends what is queued and closes the descriptor. No callback is called any more. Nulls the
 * pointer; the memory is freed later, so that this may be called from inside recv.
 */
void l7mp_dgram_close(struct l7mp_dgram **d);
