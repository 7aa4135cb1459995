/* SPDX-License-Identifier: MIT */
/*
 * Sending: a queue per socket that leaves in sendmmsg(2) batches, with runs of
 * datagrams to one peer as UDP GSO sends.
 *
 * A call that sent some messages hides the error of the next one, and for a
 * connected UDP socket it may have eaten an ICMP error that an earlier datagram
 * caused. The rest is tried again, one message first, so that every error is
 * seen and only the datagram concerned is lost.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dgram_int.h"

#define UDP4_MAX 65507u
#define UDP6_MAX 65527u

/* ---- queueing ---- */

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
	m = l7mp_dgram_msg_new(d);
	if (!m)
		return refuse(buf, -ENOMEM);
	m->buf = NULL;
	if (set_to(d, m, to)) {
		l7mp_dgram_msg_free(d, m);
		return refuse(buf, -ENOMEM);
	}
	set_from(d, m, from);
	m->buf = buf;
	m->tag = tag;
	m->len = buf->len;
	m->stamp = (uint32_t)l7mp_loop_now(d->loop);
	m->repeats = 0;
	m->err = 0;
	m->plain = m->retried = false;
	dg_queue_push(&d->queue, m);
	d->queued++;
	d->queued_bytes += m->len + DG_COST;
	if (d->blocked)
		return 0;
	if (d->queued >= DG_EARLY || d->queued_bytes >= DG_QUEUE_MAX / 2)
		l7mp_dgram_send_queue(d);
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
	return same_to(a, b) && a->from_family == b->from_family &&
	       a->from_ifindex == b->from_ifindex &&
	       (!a->from_family || !memcmp(&a->from, &b->from, sizeof(a->from)));
}

/*
 * How many from m on may leave as one GSO send: equal sizes (the last may be
 * shorter), same addresses.
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

/* The next messages of the queue, which stay in it. Returns how many. */
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
		if (m->from_family || run > 1)
			l7mp_dgram_cmsg_build(d, m, run > 1 ? (int)m->len : 0, &sh->scontrol[n],
			                      msg);
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
			l7mp_dgram_msg_free(d, unqueue(d));
}

/* ---- errors ---- */

/* Reported later; equal ones in a row are one entry, so that the list stays short. */
static void lose(struct l7mp_dgram *d, struct dg_msg *m, int err)
{
	struct dg_msg *last =
	        d->lost.head ? l7mp_container_of(d->lost.tail, struct dg_msg, next) : NULL;

	if (last && last->err == err && last->tag == m->tag && last->len == m->len) {
		last->repeats++;
		l7mp_dgram_msg_free(d, m);
		return;
	}
	m->err = err;
	l7mp_buf_unref(m->buf);
	m->buf = NULL;
	dg_queue_push(&d->lost, m);
}

/* A GSO send was refused: its datagrams go one by one, and the next runs fit better. */
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

/* Errors that only an ICMP message can have caused; others may be the message's own. */
static bool is_icmp(int err)
{
	return err == ECONNREFUSED || err == ENOPROTOOPT || err == EHOSTDOWN || err == ENONET;
}

/* An unconnected UNIX socket can't be polled for one receiver: what goes there waits, the rest goes on. */
static void set_aside(struct l7mp_dgram *d, struct dg_queue *aside)
{
	struct dg_queue rest;
	const struct dg_msg *full = d->queue.head;
	struct dg_msg *m;
	uint32_t now = (uint32_t)l7mp_loop_now(d->loop);

	dg_queue_init(&rest);
	while ((m = dg_queue_pop(&d->queue))) {
		/* The first one stays alive until the end: it is what the others are compared with. */
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
	/* A connected UDP socket fails once for an ICMP error of an earlier datagram. */
	if (d->udp && d->connected && is_icmp(err))
		d->pending_err = -err;
	if (d->udp && d->connected && !m->retried) {
		m->retried = true;
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

/* After a single message that followed a hidden error: did it bring an ICMP error back at once? */
static void probe(struct l7mp_dgram *d)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (d->udp && d->connected && !getsockopt(d->io.fd, SOL_SOCKET, SO_ERROR, &err, &len) &&
	    err)
		d->pending_err = -err;
}

void l7mp_dgram_send_queue(struct l7mp_dgram *d)
{
	struct l7mp_dgram_shared *sh = d->loop->dgram;
	struct dg_queue aside;
	unsigned limit = DG_BATCH;

	dg_queue_init(&aside);
	while (d->queue.head && !d->blocked) {
		unsigned n = build(d, limit);
		int r = sendmmsg(d->io.fd, sh->smsg, n, MSG_DONTWAIT | MSG_NOSIGNAL);

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
		l7mp_dgram_watch(d);
	}
	if (d->lost.head || d->pending_err)
		l7mp_flush_request(d->loop, &d->flush);
}

/* ---- at the end of the turn ---- */

void l7mp_dgram_report(struct l7mp_dgram *d)
{
	struct dg_msg *m;
	int err = d->pending_err;

	while (!d->closed && (m = dg_queue_pop(&d->lost))) {
		for (uint32_t i = 0; i <= m->repeats && !d->closed && d->ops->lost; i++)
			d->ops->lost(d->arg, m->err, m->tag, m->len);
		l7mp_dgram_msg_free(d, m);
	}
	d->pending_err = 0;
	if (err && !d->closed && d->ops->error)
		d->ops->error(d->arg, err);
	if (!d->closed && !d->blocked)
		l7mp_dgram_watch(d);
	if (!d->closed && d->draining && (!d->blocked || d->queued_bytes < DG_LOW)) {
		d->draining = d->blocked;
		if (d->ops->drain)
			d->ops->drain(d->arg);
	}
}

void l7mp_dgram_flush_cb(struct l7mp_flush *f, void *arg)
{
	struct l7mp_dgram *d = arg;

	(void)f;
	l7mp_dgram_enter(d);
	if (!d->blocked)
		l7mp_dgram_send_queue(d);
	l7mp_flush_cancel(d->loop, &d->flush);
	l7mp_dgram_report(d);
	l7mp_dgram_leave(d);
}

void l7mp_dgram_flush(struct l7mp_dgram *d)
{
	if (!d->blocked)
		l7mp_dgram_send_queue(d);
}

void l7mp_dgram_stall_cb(struct l7mp_timer *t, void *arg)
{
	struct l7mp_dgram *d = arg;

	(void)t;
	l7mp_dgram_enter(d);
	d->blocked = false;
	l7mp_dgram_send_queue(d);
	l7mp_dgram_report(d);
	l7mp_dgram_leave(d);
}
