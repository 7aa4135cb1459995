/* SPDX-License-Identifier: MIT */
/* The datagram engine: life of a socket. Receiving and sending are in dgram_recv.c and dgram_send.c. */
#include "dgram_int.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

struct dg_msg *l7mp_dgram_msg_new(struct l7mp_dgram *d)
{
	struct l7mp_dgram_shared *sh = d->loop->dgram;
	struct dg_msg *m = sh->free;

	if (!m)
		return malloc(sizeof(*m));
	sh->free = m->next;
	sh->n_free--;
	return m;
}

void l7mp_dgram_msg_free(struct l7mp_dgram *d, struct dg_msg *m)
{
	struct l7mp_dgram_shared *sh = d->loop->dgram;

	l7mp_buf_unref(m->buf);
	free(m->un);
	if (sh->n_free >= DG_FREE_MAX) {
		free(m);
		return;
	}
	m->next = sh->free;
	sh->free = m;
	sh->n_free++;
}

void l7mp_dgram_watch(struct l7mp_dgram *d)
{
	uint32_t events = 0;

	if (d->closed)
		return;
	if (d->reading && !d->ended)
		events |= EPOLLIN;
	if (d->blocked && !l7mp_timer_armed(&d->timer))
		events |= EPOLLOUT;
	/* Only adding can fail, for want of memory: the next change tries again. */
	if (l7mp_io_set(d->loop, &d->io, events) && d->blocked)
		(void)l7mp_timer_start(d->loop, &d->timer, 1);
}

static void io_cb(struct l7mp_io *io, uint32_t events)
{
	struct l7mp_dgram *d = l7mp_container_of(io, struct l7mp_dgram, io);

	l7mp_dgram_enter(d);
	if (d->blocked && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
		d->blocked = false;
		l7mp_dgram_send_queue(d);
		l7mp_dgram_report(d);
	}
	if (d->reading && !d->closed && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
		l7mp_dgram_receive(d);
	l7mp_dgram_leave(d);
}

/* What the kernel says about the socket: family, whether it is connected, its port. */
static int learn(struct l7mp_dgram *d)
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

	if (!d->udp)
		d->flags &= ~(unsigned)(L7MP_DGRAM_PKTINFO | L7MP_DGRAM_GRO | L7MP_DGRAM_GSO);
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
	if ((d->flags & L7MP_DGRAM_PKTINFO) && d->family == AF_INET &&
	    setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on)))
		return -errno;
	/* A kernel without these still relays. */
	if (d->udp && d->ops->overflow)
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
	rc = learn(d);
	if (!rc)
		rc = set_options(d);
	if (rc)
		goto fail;
	if (!(d->flags & L7MP_DGRAM_GRO) && max_datagram && max_datagram < d->max)
		d->max = (uint32_t)max_datagram;
	dg_queue_init(&d->queue);
	dg_queue_init(&d->lost);
	l7mp_flush_init(&d->flush, l7mp_dgram_flush_cb, d);
	l7mp_timer_init(&d->timer, l7mp_dgram_stall_cb, d);
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
	l7mp_dgram_watch(d);
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

static void drop_all(struct l7mp_dgram *d, struct dg_queue *q)
{
	struct dg_msg *m;

	while ((m = dg_queue_pop(q)))
		l7mp_dgram_msg_free(d, m);
}

void l7mp_dgram_leave(struct l7mp_dgram *d)
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
	l7mp_dgram_enter(d);
	l7mp_dgram_send_queue(d);
	d->closed = true;
	l7mp_io_stop(d->loop, &d->io);
	close(d->io.fd);
	l7mp_flush_cancel(d->loop, &d->flush);
	l7mp_timer_stop(d->loop, &d->timer);
	drop_all(d, &d->queue);
	drop_all(d, &d->lost);
	l7mp_loop_release(d->loop);
	l7mp_dgram_leave(d);
}
