/* SPDX-License-Identifier: MIT */
/*
 * The sending side of the datagram engine: a queue per socket, sent in sendmmsg(2) batches, with
 * runs of datagrams to one peer as UDP GSO sends; a datagram that is alone by sendto(2).
 *
 * A sendmmsg(2) call that sent some messages hides the error of the next one, and for a connected
 * UDP socket it may have consumed an ICMP error that an earlier datagram caused. The rest is tried
 * again, one message first, so that every error is seen and only the datagram concerned is lost.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>

#include "dgram_int.h"

#define DG_QUEUE_MAX (1u << 20) /* bytes queued for sending per socket, with DG_COST each */
#define DG_COST      128u       /* what an entry costs beside its payload */
#define DG_EARLY     256        /* queued messages that don't wait for the end of the iteration */
#define DG_FREE_MAX  4096       /* queue entries that are kept for the next iteration */
/* a UNIX receiver that reads nothing for that long loses datagrams */
#define DG_STALL_MS  1000
#define DG_GSO_SEGS  64          /* UDP_MAX_SEGMENTS of older kernels */
#define DG_GSO_BYTES 65000u      /* below 64 KiB less any header */
#define DG_LOW       (64u << 10) /* waiting bytes below which `drain` is called */
#define DG_GSO_SURE  1200u       /* a segment that fits every path's MTU, practically */

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

/* ---- queue entries ---- */

static struct dg_msg *msg_new(struct l7mp_dgram *d)
{
	struct l7mp_dgram_shared *sh = d->loop->dgram;
	struct dg_msg *m = sh->free;

	if (!m)
		return malloc(sizeof(*m));
	sh->free = m->next;
	sh->n_free--;
	return m;
}

static void msg_free(struct l7mp_dgram *d, struct dg_msg *m)
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

void dg_queue_free(struct l7mp_dgram *d, struct dg_queue *q)
{
	struct dg_msg *m;

	while ((m = dg_queue_pop(q)))
		msg_free(d, m);
}

/* ---- control messages ---- */

static size_t put(union dg_control *room, size_t off, int level, int type, const void *data,
                  size_t len)
{
	struct cmsghdr *c = (struct cmsghdr *)(room->bytes + off);

	c->cmsg_level = level;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(c), data, len);
	return off + CMSG_SPACE(len);
}

/* Writes the control messages for sending: source address and segment size. */
static void cmsg_build(const struct l7mp_dgram *d, const struct dg_msg *m, int gso_size,
                       union dg_control *room, struct msghdr *msg)
{
	size_t len = 0;

	if (m->from_family && d->family == AF_INET6) {
		/* A dual-stack socket needs a mapped IPv4 source address; it ignores IP_PKTINFO. */
		struct in6_pktinfo info = {.ipi6_addr = m->from, .ipi6_ifindex = m->from_ifindex};

		len = put(room, len, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
	} else if (m->from_family) {
		struct in_pktinfo info = {0};

		memcpy(&info.ipi_spec_dst, &m->from, sizeof(info.ipi_spec_dst));
		len = put(room, len, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
	}
	if (m->hops) {
		bool v4 = d->family == AF_INET || IN6_IS_ADDR_V4MAPPED(&m->to.in6.sin6_addr);
		int hops = m->hops;

		len = put(room, len, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TTL : IPV6_HOPLIMIT,
		          &hops, sizeof(hops));
	}
	if (gso_size) {
		uint16_t size = (uint16_t)gso_size;

		len = put(room, len, SOL_UDP, UDP_SEGMENT, &size, sizeof(size));
	}
	if (m->has_tos) {
		const struct in6_addr *to = m->to_len ? &m->to.in6.sin6_addr : NULL;
		bool v4 = d->family == AF_INET || (to && IN6_IS_ADDR_V4MAPPED(to));
		int tos = m->tos;

		len = put(room, len, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS,
		          &tos, sizeof(tos));
	}
	msg->msg_control = len ? room->bytes : NULL;
	msg->msg_controllen = len;
}

/* ---- queueing ---- */

#define UDP4_MAX 65507u
#define UDP6_MAX 65527u

static int set_to(struct l7mp_dgram *d, struct dg_msg *m, const struct l7mp_addr *to)
{
	m->un = NULL;
	m->to_len = 0;
	if (!to || !to->len)
		return 0;
	if (to->sa.sa_family == AF_INET && d->family == AF_INET6) {
		m->to.in6 = (struct sockaddr_in6){.sin6_family = AF_INET6,
		                                  .sin6_port = to->in.sin_port};
		m->to.in6.sin6_addr.s6_addr[10] = m->to.in6.sin6_addr.s6_addr[11] = 0xff;
		memcpy(&m->to.in6.sin6_addr.s6_addr[12], &to->in.sin_addr, 4);
		m->to_len = sizeof(m->to.in6);
	} else if (to->len <= sizeof(m->to)) {
		memcpy(&m->to, &to->sa, to->len);
		m->to_len = to->len;
	} else {
		m->un = malloc(sizeof(*m->un));
		if (!m->un)
			return -ENOMEM;
		memcpy(m->un, &to->un, to->len);
		m->to_len = to->len;
	}
	return 0;
}

static void set_from(struct l7mp_dgram *d, struct dg_msg *m, const struct l7mp_addr *from)
{
	m->from_family = 0;
	m->from_ifindex = 0;
	if (!from || !from->len || !d->udp)
		return;
	if (from->sa.sa_family == AF_INET6) {
		m->from = from->in6.sin6_addr;
		if (IN6_IS_ADDR_LINKLOCAL(&m->from))
			m->from_ifindex = from->in6.sin6_scope_id;
	} else if (from->sa.sa_family == AF_INET) {
		memset(&m->from, 0, sizeof(m->from));
		if (d->family == AF_INET6) {
			m->from.s6_addr[10] = m->from.s6_addr[11] = 0xff;
			memcpy(&m->from.s6_addr[12], &from->in.sin_addr, 4);
		} else {
			memcpy(&m->from, &from->in.sin_addr, 4);
		}
	}
	m->from_family = (uint8_t)from->sa.sa_family;
}

static bool too_large(const struct l7mp_dgram *d, const struct l7mp_addr *to, uint32_t len)
{
	if (!d->udp || len <= UDP4_MAX)
		return false;
	if (len > UDP6_MAX)
		return true;
	return d->family == AF_INET || (to && l7mp_addr_family(to) == AF_INET);
}

static int refuse(struct l7mp_buf *buf, int err)
{
	l7mp_buf_unref(buf);
	return err;
}

int l7mp_dgram_send(struct l7mp_dgram *d, struct l7mp_buf *buf, const struct l7mp_addr *to,
                    const struct l7mp_addr *from, uint64_t tag)
{
	struct dg_msg *m;

	if (too_large(d, to, buf->len))
		return refuse(buf, -EMSGSIZE);
	if (d->queued && d->queued_bytes + buf->len + DG_COST > DG_QUEUE_MAX)
		return refuse(buf, -ENOBUFS);
	m = msg_new(d);
	if (!m)
		return refuse(buf, -ENOMEM);
	m->buf = NULL;
	if (set_to(d, m, to)) {
		msg_free(d, m);
		return refuse(buf, -ENOMEM);
	}
	set_from(d, m, from);
	m->buf = buf;
	m->tag = tag;
	m->len = buf->len;
	m->hops = d->udp && m->to_len && (buf->flags & L7MP_BUF_HOPS) ? buf->hops : 0;
	m->stamp = (uint32_t)l7mp_loop_now(d->loop);
	m->repeats = 0;
	m->err = 0;
	m->plain = m->retried = false;
	m->has_tos = d->flags & L7MP_DGRAM_SEND_TOS && buf->flags & L7MP_BUF_TOS;
	m->tos = m->has_tos ? (uint8_t)(buf->flags >> L7MP_BUF_TOS_SHIFT) : 0;
	dg_queue_push(&d->queue, m);
	d->queued++;
	d->queued_bytes += m->len + DG_COST;
	if (d->blocked)
		return 0;
	if (d->queued >= DG_EARLY || d->queued_bytes >= DG_QUEUE_MAX / 2)
		dg_send_queue(d);
	else
		l7mp_flush_request(d->loop, &d->flush);
	return 0;
}

/* ---- one batch ---- */

static inline const struct sockaddr *msg_to(const struct dg_msg *m)
{
	return m->un ? (const struct sockaddr *)m->un : &m->to.sa;
}

static bool same_to(const struct dg_msg *a, const struct dg_msg *b)
{
	return a->to_len == b->to_len && !memcmp(msg_to(a), msg_to(b), a->to_len);
}

static bool same_path(const struct dg_msg *a, const struct dg_msg *b)
{
	return same_to(a, b) && a->hops == b->hops && a->has_tos == b->has_tos &&
	       a->tos == b->tos && a->from_family == b->from_family &&
	       a->from_ifindex == b->from_ifindex &&
	       (!a->from_family || !memcmp(&a->from, &b->from, sizeof(a->from)));
}

/*
 * Returns how many messages from m on can be one GSO send: same addresses and equal sizes, except
 * that the last may be shorter.
 */
static size_t run_length(const struct l7mp_dgram *d, const struct dg_msg *m, size_t room)
{
	const uint32_t seg = m->len;
	uint32_t total = seg;
	size_t n = 1;

	if (m->plain || !seg || seg > d->gso_max)
		return 1;
	if (room > DG_GSO_SEGS)
		room = DG_GSO_SEGS;
	for (const struct dg_msg *next = m->next; next && n < room; next = next->next) {
		if (next->plain || !next->len || next->len > seg ||
		    total + next->len > DG_GSO_BYTES || !same_path(m, next))
			break;
		total += next->len;
		n++;
		if (next->len < seg)
			break;
	}
	return n;
}

/* Builds the next batch; the messages stay queued. Returns the number of messages. */
static unsigned build(struct l7mp_dgram *d, unsigned limit)
{
	struct l7mp_dgram_shared *sh = d->loop->dgram;
	struct dg_msg *m = d->queue.head;
	size_t iov = 0;
	unsigned n = 0;

	for (; m && n < limit && iov < DG_IOV; n++) {
		struct msghdr *msg = &sh->smsg[n].msg_hdr;
		size_t run = run_length(d, m, DG_IOV - iov);

		*msg = (struct msghdr){.msg_iov = &sh->siov[iov], .msg_iovlen = run};
		if (m->to_len) {
			msg->msg_name = m->un ? (void *)m->un : (void *)&m->to;
			msg->msg_namelen = m->to_len;
		}
		if (m->from_family || m->hops || m->has_tos || run > 1)
			cmsg_build(d, m, run > 1 ? (int)m->len : 0, &sh->scontrol[n], msg);
		sh->group[n] = (uint16_t)run;
		for (; run; run--, m = m->next)
			sh->siov[iov++] =
			        (struct iovec){.iov_base = m->buf->data, .iov_len = m->len};
	}
	return n;
}

static struct dg_msg *unqueue(struct l7mp_dgram *d)
{
	struct dg_msg *m = dg_queue_pop(&d->queue);

	d->queued--;
	d->queued_bytes -= m->len + DG_COST;
	return m;
}

static void sent(struct l7mp_dgram *d, unsigned n)
{
	struct l7mp_dgram_shared *sh = d->loop->dgram;

	for (unsigned i = 0; i < n; i++)
		for (unsigned k = sh->group[i]; k; k--)
			msg_free(d, unqueue(d));
}

/* ---- errors ---- */

/*
 * Records a lost message for a later report. Equal ones in a row are one entry, so that the list
 * stays short.
 */
static void lose(struct l7mp_dgram *d, struct dg_msg *m, int err)
{
	struct dg_msg *last =
	        d->lost.head ? l7mp_container_of(d->lost.tail, struct dg_msg, next) : NULL;

	if (last && last->err == err && last->tag == m->tag && last->len == m->len) {
		last->repeats++;
		msg_free(d, m);
		return;
	}
	m->err = err;
	l7mp_buf_unref(m->buf);
	m->buf = NULL;
	dg_queue_push(&d->lost, m);
}

/* After a refused GSO send: its datagrams are sent one by one, and later runs are shorter. */
static void unsegment(struct l7mp_dgram *d, int err)
{
	struct dg_msg *m = d->queue.head;
	unsigned n = d->loop->dgram->group[0];

	if ((err == EINVAL || err == EMSGSIZE) && m->len > DG_GSO_SURE)
		d->gso_max = (uint16_t)(m->len - 1); /* beyond the path's MTU */
	else if (err == EINVAL || err == EIO || err == EOPNOTSUPP || err == ENOPROTOOPT)
		d->gso_max = 0;
	for (; n; n--, m = m->next)
		m->plain = true;
}

/* Whether only an ICMP message can cause this error; others may be the datagram's own. */
static bool is_icmp(int err)
{
	return err == ECONNREFUSED || err == ENOPROTOOPT || err == EHOSTDOWN || err == ENONET;
}

/*
 * Moves the datagrams for one UNIX receiver out of the queue, as an unconnected socket can't be
 * polled for one receiver; datagrams for others are sent.
 */
static void set_aside(struct l7mp_dgram *d, struct dg_queue *aside)
{
	struct dg_queue rest;
	const struct dg_msg *full = d->queue.head;
	struct dg_msg *m;
	uint32_t now = (uint32_t)l7mp_loop_now(d->loop);

	dg_queue_init(&rest);
	while ((m = dg_queue_pop(&d->queue))) {
		/* The first one is freed last, as the others are compared with it. */
		if (m == full || same_to(m, full))
			dg_queue_push(aside, m);
		else
			dg_queue_push(&rest, m);
	}
	d->queue = rest;
	if (!rest.head)
		d->queue.tail = &d->queue.head;
	for (m = aside->head; m && now - m->stamp > DG_STALL_MS; m = aside->head) {
		dg_queue_pop(aside);
		d->queued--;
		d->queued_bytes -= m->len + DG_COST;
		lose(d, m, -EAGAIN);
	}
}

/* The first message of the queue failed. Returns false when sending has to wait. */
static bool failed(struct l7mp_dgram *d, int err, struct dg_queue *aside)
{
	struct dg_msg *m = d->queue.head;

	if (err == EINTR)
		return true;
	if (err == EAGAIN && d->family == AF_UNIX && !d->connected) {
		set_aside(d, aside);
		return true;
	}
	if (err == EAGAIN) {
		d->blocked = true;
		return false;
	}
	/* A connected UDP socket fails once for an ICMP error that an earlier datagram caused. */
	if (d->udp && d->connected && is_icmp(err))
		d->pending_err = -err;
	/*
	 * A packet filter that rejects a datagram also answers it with an ICMP error, for which the
	 * second attempt fails. The error to report is that of the filter.
	 */
	if (m->retried && m->err == EPERM)
		err = EPERM;
	if (d->udp && d->connected && !m->retried) {
		m->retried = true;
		m->err = err;
		return true;
	}
	if (d->loop->dgram->group[0] > 1) {
		unsegment(d, err);
		return true;
	}
	if (err == EPIPE || err == ECONNRESET || err == ENOTCONN ||
	    (err == ECONNREFUSED && d->connected))
		d->pending_err = -err;
	lose(d, unqueue(d), -err);
	return true;
}

/*
 * After a single message that followed a hidden error: reads the socket's error at once, to see
 * whether that message caused it.
 */
static void probe(struct l7mp_dgram *d)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (d->udp && d->connected && !getsockopt(d->io.fd, SOL_SOCKET, SO_ERROR, &err, &len) &&
	    err)
		d->pending_err = -err;
}

/* Whether the message is sent alone, because no other follows it, and needs no control messages. */
static bool is_single(const struct dg_msg *m)
{
	return !m->next && !m->from_family && !m->hops && !m->has_tos;
}

/*
 * Sends the next batch. Returns the number of messages sent or -1, as sendmmsg(2) does; *n: how
 * many it was asked to send.
 *
 * With many sessions most batches are one datagram: for it, sendto(2) has less to copy and check
 * than sendmmsg(2).
 */
static int send_batch(struct l7mp_dgram *d, unsigned limit, unsigned *n)
{
	const int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
	struct l7mp_dgram_shared *sh = d->loop->dgram;
	const struct dg_msg *m = d->queue.head;

	if (is_single(m)) {
		const struct sockaddr *to = m->to_len ? msg_to(m) : NULL;

		*n = sh->group[0] = 1;
		return sendto(d->io.fd, m->buf->data, m->len, flags, to, m->to_len) < 0 ? -1 : 1;
	}
	*n = build(d, limit);
	if (*n == 1)
		return sendmsg(d->io.fd, &sh->smsg[0].msg_hdr, flags) < 0 ? -1 : 1;
	return sendmmsg(d->io.fd, sh->smsg, *n, flags);
}

void dg_send_queue(struct l7mp_dgram *d)
{
	struct dg_queue aside;
	unsigned limit = DG_BATCH;

	dg_queue_init(&aside);
	while (d->queue.head && !d->blocked) {
		unsigned n;
		int r = send_batch(d, limit, &n);

		if (r < 0) {
			if (!failed(d, errno, &aside))
				break;
			limit = DG_BATCH;
			continue;
		}
		sent(d, (unsigned)r);
		if (limit == 1)
			probe(d);
		limit = (unsigned)r < n ? 1 : DG_BATCH;
	}
	if (aside.head) {
		d->queue = aside;
		d->blocked = true;
		(void)l7mp_timer_start(d->loop, &d->timer, 1);
	}
	if (d->blocked) {
		d->draining = true;
		dg_watch(d);
	}
	if (d->lost.head || d->pending_err)
		l7mp_flush_request(d->loop, &d->flush);
}

/* ---- at the end of the iteration ---- */

void dg_report(struct l7mp_dgram *d)
{
	struct dg_msg *m;
	int err = d->pending_err;

	while (!d->closed && (m = dg_queue_pop(&d->lost))) {
		for (uint32_t i = 0; i <= m->repeats && !d->closed && d->ops->lost; i++)
			d->ops->lost(d->arg, m->err, m->tag, m->len);
		msg_free(d, m);
	}
	d->pending_err = 0;
	if (err && !d->closed && d->ops->error)
		d->ops->error(d->arg, err);
	if (!d->closed && !d->blocked)
		dg_watch(d);
	if (!d->closed && d->draining && (!d->blocked || d->queued_bytes < DG_LOW)) {
		d->draining = d->blocked;
		if (d->ops->drain)
			d->ops->drain(d->arg);
	}
}

void dg_flush_cb(struct l7mp_flush *f, void *arg)
{
	struct l7mp_dgram *d = arg;

	(void)f;
	dg_enter(d);
	if (!d->blocked)
		dg_send_queue(d);
	l7mp_flush_cancel(d->loop, &d->flush);
	dg_report(d);
	dg_leave(d);
}

void l7mp_dgram_flush(struct l7mp_dgram *d)
{
	if (!d->blocked)
		dg_send_queue(d);
}

void dg_stall_cb(struct l7mp_timer *t, void *arg)
{
	struct l7mp_dgram *d = arg;

	(void)t;
	dg_enter(d);
	d->blocked = false;
	dg_send_queue(d);
	dg_report(d);
	dg_leave(d);
}
