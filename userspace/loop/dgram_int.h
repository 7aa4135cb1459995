/* SPDX-License-Identifier: MIT */
/*
 * Private to loop/: what the parts of the datagram engine share. dgram.c has the life of a socket,
 * dgram_recv.c its receiving side, dgram_send.c the queue and the sending side.
 */
#pragma once

#include <linux/if_packet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "l7mp/dgram.h"
#include "loop_int.h"

#define DG_BATCH 64     /* messages of one recvmmsg or sendmmsg */
#define DG_IOV   1024   /* datagrams of one sendmmsg, GSO segments counted */
#define DG_SLOT  65536u /* bytes of a receive slot, unless a socket asks for more */

/*
 * One queued datagram. The destination is at the end of the allocation, and has the size that it
 * needs: UNIX addresses are longer.
 */
struct dg_msg {
	struct dg_msg *next;
	struct l7mp_buf *buf;
	uint64_t tag;
	uint32_t len;
	uint32_t stamp;   /* loop time in ms, when it was queued */
	uint32_t repeats; /* in the lost list: how many more like this */
	int err;          /* of its first attempt; in the lost list: why it was lost */
	uint8_t from_family;
	uint8_t hops; /* the TTL to leave with; 0: the socket's */
	bool plain;   /* never as a part of a GSO send */
	bool has_tos;
	uint8_t tos;
	bool retried; /* was sent again after an error that an earlier datagram had caused */
	uint32_t from_ifindex;
	struct in6_addr from; /* mapped when the socket is IPv6, else the first 4 bytes */
	struct sockaddr_un *un;
	socklen_t to_len;
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_ll ll;
	} to;
};

struct dg_queue {
	struct dg_msg *head;
	struct dg_msg **tail;
};

struct l7mp_dgram {
	struct l7mp_io io;
	struct l7mp_loop *loop;
	const struct l7mp_dgram_ops *ops;
	void *arg;
	uint32_t flags;
	uint32_t max;
	uint16_t family;
	in_port_t port; /* local, network order; 0: not known yet */
	bool connected, udp;
	bool reading, ended, closed;
	bool blocked;  /* waiting for EPOLLOUT */
	bool draining; /* was blocked: `drain` has to be called */
	bool has_cred; /* credentials of the present datagram are known */
	struct ucred cred;
	uint8_t busy;     /* inside of a callback: free it later */
	uint16_t gso_max; /* largest GSO segment; 0: the kernel has no GSO */
	struct dg_queue queue, lost;
	size_t queued_bytes, queued;
	int pending_err; /* for the error callback */
	bool counts_overflow;
	uint32_t overflow; /* the kernel's drop counter as last reported */
	struct l7mp_flush flush;
	struct l7mp_timer timer; /* for UNIX receivers that are full */
};

/* Room for packet info of both families and three integer messages, and for PACKET_AUXDATA. */
union dg_control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(struct in_pktinfo)) +
	           3 * CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(uint32_t))];
};

/* Buffers of a batch, shared by all sockets of the loop, so that an idle socket needs none. */
struct l7mp_dgram_shared {
	bool tos_wanted; /* some socket sends with the TOS that another one received */
	/* receiving: entries [0, dirty) were used and have to be set up again */
	size_t dirty, size;
	bool has_name, has_control;
	struct l7mp_buf *slot[DG_BATCH];
	struct mmsghdr rmsg[DG_BATCH];
	struct iovec riov[DG_BATCH];
	struct l7mp_addr rname[DG_BATCH];
	union dg_control rcontrol[DG_BATCH];
	/* sending */
	struct mmsghdr smsg[DG_BATCH];
	struct iovec siov[DG_IOV];
	union dg_control scontrol[DG_BATCH];
	uint16_t group[DG_BATCH]; /* datagrams in each message */
	struct dg_msg *free;
	size_t n_free;
};

static inline void dg_queue_init(struct dg_queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
}
static inline void dg_queue_push(struct dg_queue *q, struct dg_msg *m)
{
	m->next = NULL;
	*q->tail = m;
	q->tail = &m->next;
}
static inline struct dg_msg *dg_queue_pop(struct dg_queue *q)
{
	struct dg_msg *m = q->head;

	if (m) {
		q->head = m->next;
		if (!q->head)
			q->tail = &q->head;
	}
	return m;
}

/*
 * Around everything that may call the owner back: a socket that is closed meanwhile stays allocated
 * until dg_leave.
 */
static inline void dg_enter(struct l7mp_dgram *d)
{
	d->busy++;
}

/* Frees the socket when it was closed and this was the outermost dg_enter. */
void dg_leave(struct l7mp_dgram *d);

/* Makes epoll wait for what the socket's state asks for. Does nothing for a closed socket. */
void dg_watch(struct l7mp_dgram *d);

/*
 * Receives up to a few batches and calls `recv`, `dropped`, `overflow`, `batch_end` and `error`; so
 * only between dg_enter and dg_leave. Returns the number of messages.
 */
size_t dg_receive(struct l7mp_dgram *d);

/*
 * Sends what is queued, until the kernel takes no more. Calls no callback: what was lost is kept
 * for dg_report, which the socket's flush calls.
 */
void dg_send_queue(struct l7mp_dgram *d);

/* Calls `lost`, `error` and `drain` where they are due; only between dg_enter and dg_leave. */
void dg_report(struct l7mp_dgram *d);

/* Frees the messages of a queue, without a report. */
void dg_queue_free(struct l7mp_dgram *d, struct dg_queue *q);

/* The socket's flush, at the end of the loop iteration: sends and reports. */
void dg_flush_cb(struct l7mp_flush *f, void *arg);

/* The socket's timer: tries again where epoll can't tell that there is room. */
void dg_stall_cb(struct l7mp_timer *t, void *arg);
