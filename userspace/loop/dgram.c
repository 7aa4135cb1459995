/* SPDX-License-Identifier: MIT */
/*
 * The datagram engine: UDP, UNIX datagram and seqpacket sockets and AF_PACKET (dgram.h). This file
 * has the life of a socket; dgram_recv.c receives, dgram_send.c sends.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <unistd.h>

#include "dgram_int.h"

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

static struct l7mp_dgram_shared *shared_get(struct l7mp_loop *loop)
{
	if (!loop->dgram)
		loop->dgram = calloc(1, sizeof(*loop->dgram));
	return loop->dgram;
}

void l7mp_dgram_shared_free(struct l7mp_dgram_shared **sharedp)
{
	struct l7mp_dgram_shared *sh = *sharedp;

	if (!sh)
		return;
	*sharedp = NULL;
	for (size_t i = 0; i < DG_BATCH; i++)
		l7mp_buf_unref(sh->slot[i]);
	while (sh->free) {
		struct dg_msg *m = sh->free;

		sh->free = m->next;
		free(m);
	}
	free(sh);
}

void dg_watch(struct l7mp_dgram *d)
{
	uint32_t events = 0;

	if (d->closed)
		return;
	if (d->reading && !d->ended)
		events |= EPOLLIN;
	if (d->blocked && !l7mp_timer_armed(&d->timer))
		events |= EPOLLOUT;
	/* Only adding a descriptor can fail, for lack of memory; the next change tries again. */
	if (l7mp_io_set(d->loop, &d->io, events) && d->blocked)
		(void)l7mp_timer_start(d->loop, &d->timer, 1);
}

static void io_cb(struct l7mp_io *io, uint32_t events)
{
	struct l7mp_dgram *d = l7mp_container_of(io, struct l7mp_dgram, io);

	dg_enter(d);
	if (d->blocked && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
		d->blocked = false;
		dg_send_queue(d);
		dg_report(d);
	}
	if (d->reading && !d->closed && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
		dg_receive(d);
	dg_leave(d);
}

/* Reads from the kernel the socket's family, whether it is connected, and its port. */
static int read_socket(struct l7mp_dgram *d)
{
	struct l7mp_addr a = {0};
	socklen_t len = sizeof(struct sockaddr_un);

	if (getsockname(d->io.fd, &a.sa, &len))
		return -errno;
	d->family = a.sa.sa_family;
	d->udp = d->family == AF_INET || d->family == AF_INET6;
	if (d->udp)
		d->port = a.in.sin_port;
	len = sizeof(struct sockaddr_un);
	d->connected = !getpeername(d->io.fd, &a.sa, &len);
	return 0;
}

static int set_options(struct l7mp_dgram *d)
{
	int on = 1, fd = d->io.fd;

	if (d->loop->dgram->tos_wanted)
		d->flags |= L7MP_DGRAM_RECV_TOS;
	if (!d->udp)
		d->flags &= ~(unsigned)(L7MP_DGRAM_PKTINFO | L7MP_DGRAM_GRO | L7MP_DGRAM_GSO |
		                        L7MP_DGRAM_RECV_TOS);
	/* VLAN tags that the card took off come beside the frame. */
	if (d->family == AF_PACKET)
		(void)setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on));
	if (d->family != AF_PACKET)
		d->flags &= ~(unsigned)L7MP_DGRAM_VNET;
	if ((d->flags & L7MP_DGRAM_VNET) &&
	    setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)))
		return -errno;
	if ((d->flags & L7MP_DGRAM_CRED) &&
	    setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)))
		return -errno;
	if ((d->flags & L7MP_DGRAM_PKTINFO) && d->family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on)))
		return -errno;
	/*
	 * Also on IPv6 sockets, for the IPv4 peers of a dual-stack one: IPV6_PKTINFO tells the
	 * address that a datagram was sent to, which may be a broadcast address, not our own.
	 */
	if ((d->flags & L7MP_DGRAM_PKTINFO) &&
	    setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on)))
		return -errno;
	if (d->flags & L7MP_DGRAM_RECV_TOS) {
		/* IPv4 also on IPv6 sockets, for the IPv4 peers of a dual-stack one. */
		(void)setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &on, sizeof(on));
		if (d->family == AF_INET6)
			(void)setsockopt(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof(on));
	}
	/* A kernel without these still relays. A dual-stack socket needs both for the TTL. */
	if (d->udp && (d->flags & L7MP_DGRAM_HOPS)) {
		(void)setsockopt(fd, IPPROTO_IP, IP_RECVTTL, &on, sizeof(on));
		if (d->family == AF_INET6)
			(void)setsockopt(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, &on, sizeof(on));
	}
	if (d->family != AF_UNIX && d->ops->overflow) /* those hold the sender up */
		d->counts_overflow = !setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof(on));
	if ((d->flags & L7MP_DGRAM_GRO) && setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof(on)))
		d->flags &= ~(unsigned)L7MP_DGRAM_GRO;
	if (d->flags & L7MP_DGRAM_GSO)
		d->gso_max = UINT16_MAX;
	return 0;
}

int l7mp_dgram_new(struct l7mp_loop *loop, int fd, unsigned flags, size_t max_datagram,
                   const struct l7mp_dgram_ops *ops, void *arg, struct l7mp_dgram **out)
{
	struct l7mp_dgram *d = calloc(1, sizeof(*d));
	int rc = -ENOMEM;

	if (!d || !shared_get(loop))
		goto fail;
	l7mp_io_init(&d->io, fd, io_cb);
	d->loop = loop;
	d->ops = ops;
	d->arg = arg;
	d->flags = flags;
	d->max = max_datagram > DG_SLOT ? (uint32_t)max_datagram : DG_SLOT;
	rc = read_socket(d);
	if (!rc)
		rc = set_options(d);
	if (rc)
		goto fail;
	if (!(d->flags & L7MP_DGRAM_GRO) && max_datagram && max_datagram < d->max)
		d->max = (uint32_t)max_datagram;
	dg_queue_init(&d->queue);
	dg_queue_init(&d->lost);
	l7mp_flush_init(&d->flush, dg_flush_cb, d);
	l7mp_timer_init(&d->timer, dg_stall_cb, d);
	l7mp_loop_hold(loop);
	*out = d;
	return 0;
fail:
	free(d);
	close(fd);
	return rc;
}

void l7mp_dgram_read(struct l7mp_dgram *d, bool on)
{
	d->reading = on;
	dg_watch(d);
}

void l7mp_dgram_send_tos(struct l7mp_dgram *d, bool on)
{
	d->flags &= ~(unsigned)L7MP_DGRAM_SEND_TOS;
	if (!on || !d->udp)
		return;
	d->flags |= L7MP_DGRAM_SEND_TOS;
	d->loop->dgram->tos_wanted = true;
}

int l7mp_dgram_fd(const struct l7mp_dgram *d)
{
	return d->io.fd;
}

size_t l7mp_dgram_waiting(const struct l7mp_dgram *d)
{
	return d->blocked ? d->queued_bytes : 0;
}

bool l7mp_dgram_cred(const struct l7mp_dgram *d, struct ucred *out)
{
	*out = d->cred;
	return d->has_cred;
}

void dg_leave(struct l7mp_dgram *d)
{
	if (!--d->busy && d->closed)
		free(d);
}

void l7mp_dgram_close(struct l7mp_dgram **dp)
{
	struct l7mp_dgram *d = *dp;

	if (!d)
		return;
	*dp = NULL;
	dg_enter(d);
	dg_send_queue(d);
	d->closed = true;
	l7mp_io_stop(d->loop, &d->io);
	close(d->io.fd);
	l7mp_flush_cancel(d->loop, &d->flush);
	l7mp_timer_stop(d->loop, &d->timer);
	dg_queue_free(d, &d->queue);
	dg_queue_free(d, &d->lost);
	l7mp_loop_release(d->loop);
	dg_leave(d);
}
