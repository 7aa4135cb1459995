/* SPDX-License-Identifier: MIT */
/* Inside of the datagram engine (dgram*.c). */
#pragma once

#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "l7mp/dgram.h"
#include "loop_int.h"

#define DG_BATCH     64          /* messages of one recvmmsg or sendmmsg */
#define DG_ROUNDS    4           /* recvmmsg calls of one socket in a turn, for fairness */
#define DG_SLOT      65536u      /* bytes of a receive slot, unless a socket asks for more */
#define DG_COPYBREAK 4096u       /* up to here a datagram is copied and its slot stays */
#define DG_IOV       1024        /* datagrams of one sendmmsg, GSO segments counted */
#define DG_QUEUE_MAX (1u << 20)  /* bytes queued for sending per socket, with DG_COST each */
#define DG_COST      128u        /* what an entry costs beside its payload */
#define DG_EARLY     256         /* queued messages that don't wait for the end of the turn */
#define DG_FREE_MAX  4096        /* queue entries that are kept for the next turn */
#define DG_STALL_MS  1000        /* a UNIX receiver that reads nothing for that long loses */
#define DG_GSO_SEGS  64          /* UDP_MAX_SEGMENTS of older kernels */
#define DG_GSO_BYTES 65000u      /* below 64 KiB less any header */
#define DG_LOW       (64u << 10) /* waiting bytes below which `drain` is told */
#define DG_GSO_SURE  1200u       /* a segment that fits every path's MTU, practically */

/* One queued datagram. The destination lies in front of the allocation's end: UNIX ones are longer. */
struct dg_msg {
	struct dg_msg *next;
	struct l7mp_buf *buf;
	uint64_t tag;
	uint32_t len;
	uint32_t stamp;   /* loop time in ms, when it was queued */
	uint32_t repeats; /* in the lost list: how many more like this */
	int err;          /* in the lost list */
	uint8_t from_family;
	bool plain;   /* never as a part of a GSO send */
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
	bool blocked;  /* waits until the kernel takes more */
	bool draining; /* was blocked: `drain` is to be told */
	bool has_cred; /* of the datagram that recv is told of */
	struct ucred cred;
	uint8_t busy;     /* inside callbacks: free later */
	uint16_t gso_max; /* largest segment; 0: the kernel can't */
	struct dg_queue queue, lost;
	size_t queued_bytes, queued;
	int pending_err; /* for the error callback */
	bool counts_overflow;
	uint32_t overflow; /* what was told of the kernel's own drops */
	struct l7mp_flush flush;
	struct l7mp_timer timer; /* UNIX receivers that are full */
};

/* Room for one packet-info and one integer message, and for PACKET_AUXDATA. */
union dg_control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(struct in_pktinfo)) +
	           CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(uint32_t))];
};

/* Belongs to the loop: an idle socket costs no batch. */
struct l7mp_dgram_shared {
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

/* dgram.c */
void l7mp_dgram_watch(struct l7mp_dgram *d); /* epoll interest from the state */
static inline void l7mp_dgram_enter(struct l7mp_dgram *d)
{
	d->busy++;
}
void l7mp_dgram_leave(struct l7mp_dgram *d); /* may free d */
struct dg_msg *l7mp_dgram_msg_new(struct l7mp_dgram *d);
void l7mp_dgram_msg_free(struct l7mp_dgram *d, struct dg_msg *m);

/* dgram_recv.c */
size_t l7mp_dgram_receive(struct l7mp_dgram *d);

/* dgram_send.c */
void l7mp_dgram_send_queue(struct l7mp_dgram *d); /* calls no callback */
void l7mp_dgram_report(struct l7mp_dgram *d);     /* lost and error callbacks; inside enter/leave */
void l7mp_dgram_flush_cb(struct l7mp_flush *f, void *arg);
void l7mp_dgram_stall_cb(struct l7mp_timer *t, void *arg);

/* dgram_cmsg.c */
struct dg_info {
	int gso_size; /* 0: one datagram */
	bool has_overflow;
	uint32_t overflow; /* datagrams that the kernel dropped since the socket was made */
	bool cred;
	struct ucred ucred;
	bool vlan;
	uint16_t vlan_tci, vlan_tpid;
};
/* Reads what came with a message; fills `to` when there is packet info, else leaves len 0. */
void l7mp_dgram_cmsg_parse(struct l7mp_dgram *d, struct msghdr *msg, struct dg_info *info,
                           struct l7mp_addr *to);
/* Source address and segment size of a message to send. */
void l7mp_dgram_cmsg_build(const struct l7mp_dgram *d, const struct dg_msg *m, int gso_size,
                           union dg_control *room, struct msghdr *msg);
