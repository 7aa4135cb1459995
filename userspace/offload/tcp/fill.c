/* SPDX-License-Identifier: MIT */
/*
 * Un-splice with a hole: the far end has not acknowledged everything that was forwarded, but may
 * hold data beyond the hole. A socket restored at the hole would reject acknowledgements of that
 * data, which it has not sent. So the data, which its sender retransmits to the near
 * socket, is queued in the far socket in repair mode, as sent already, up to the highest sequence
 * number forwarded. Only then are the sockets returned to their owner.
 *
 * The same is done with data that the near socket has acknowledged though the far end lacks it: a
 * segment that was passed to the stack before TRANS and reached the socket after FAST. Its sender
 * will not retransmit it.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "tcp.h"

#define PIECE   65536
#define FILL_MS 30000 /* as long as a session waits for a route (NO_ROUTE_MS) */

bool off_tcp_fill_take(struct off_tcp_pair *p, int i, uint32_t acked)
{
	struct off_tcp_end *e = &p->end[i];
	struct off_tcp_fill *f = &e->fill;
	int unread;
	ssize_t n;

	if (off_tcp_rcv_nxt(e->fd, &e->rcv_nxt))
		return false;
	if (!off_tcp_before(acked, e->rcv_nxt))
		return true;
	unread = off_tcp_unread(e->fd);
	if (unread < 0)
		return false;
	f->fin = e->rcv_nxt == e->copied + (uint32_t)unread + 1;
	f->data = malloc((size_t)unread + 1);
	if (!f->data)
		return false;
	n = unread ? recv(e->fd, f->data, (size_t)unread, MSG_PEEK | MSG_DONTWAIT) : 0;
	f->at = acked - e->copied;
	f->len = e->rcv_nxt - acked - f->fin;
	return n == unread && f->at + f->len == (size_t)unread;
}

/* End of the data that was forwarded, or acknowledged by the socket. */
static uint32_t passed(const struct off_tcp_pair *p, int i)
{
	return off_tcp_later(p->map->dir[i].seq_max, p->end[i].rcv_nxt);
}

static bool is_filled(const struct off_tcp_pair *p)
{
	return !p->end[0].fill.left && !p->end[1].fill.left;
}

/* All is queued: leave repair mode. The ACK that the probe triggers shows the peer's holes. */
static void filled(struct off_tcp_pair *p, int i)
{
	const struct off_tcp_end *far = &p->end[!i];
	struct off_tcp_segment s = {
	        .seq = p->end[i].fill.acked + p->map->dir[i].seq_delta,
	        .win = OFF_TCP_RESTORED_WINDOW,
	        .tsval = off_tcp_clock_now(&far->ticks),
	        .tsecr = p->map->dir[!i].ts_in,
	        .old_byte = true,
	};

	off_tcp_unlock_room(far->fd);
	/* off_tcp_rcv_nxt leaves repair mode. */
	if (!off_tcp_rcv_nxt(far->fd, &s.ack))
		(void)off_tcp_segment_send(&p->t->raw, &far->conn, &s);
}

void off_tcp_fill_begin(struct off_tcp_pair *p, const uint32_t acked[2])
{
	off_tcp_enter(p, OFF_TCP_FILL);
	for (int i = 0; i < 2; i++) {
		const volatile struct l7mp_tcp_direction *d = &p->map->dir[i];
		struct off_tcp_fill *f = &p->end[i].fill;
		uint32_t end = passed(p, i);

		f->acked = acked[i];
		f->left = off_tcp_before(acked[i], end) ? end - acked[i] : 0;
		f->fin = f->left && (f->fin || (d->seen & L7MP_TCP_FIN && d->fin_end == end));
		if (!f->left)
			continue;
		p->t->n_filled++;
		off_tcp_make_room(p->end[!i].fd, f->left);
		off_tcp_repair_sending(p->end[!i].fd);
	}
}

/* Reads from end i's socket into `data`. 1: some; 0: nothing yet; -1: the connection failed. */
static int more(struct off_tcp_pair *p, int i)
{
	struct off_tcp_end *e = &p->end[i];
	struct off_tcp_fill *f = &e->fill;
	uint32_t want = f->left - f->fin;
	ssize_t n;

	free(f->data);
	f->data = malloc(PIECE);
	if (!f->data)
		return 0;
	off_tcp_repair(e->fd, false); /* recv fails in repair mode */
	/* If only the FIN is missing, peek: data after that position belongs to the owner. */
	n = want ? recv(e->fd, f->data, want < PIECE ? want : PIECE, MSG_DONTWAIT)
	         : recv(e->fd, f->data, 1, MSG_DONTWAIT | MSG_PEEK);
	if (p->end[!i].fill.left)
		off_tcp_repair_sending(e->fd);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	f->at = 0;
	f->len = want ? (size_t)n : 0;
	e->bytes += f->len;
	if (n && want)
		return 1;
	/* The FIN; or data in its place, which is a violation of the protocol. */
	if (!n && f->fin)
		(void)shutdown(p->end[!i].fd, SHUT_WR);
	f->left = 0;
	return 0;
}

/* False: a connection was reset. */
static bool fill(struct off_tcp_pair *p, int i)
{
	struct off_tcp_fill *f = &p->end[i].fill;

	while (f->left) {
		ssize_t n;
		int rc;

		/* The near socket doesn't know a FIN that was received before it was restored. */
		if (!f->len && f->left == 1 && f->fin && p->end[i].ended) {
			(void)shutdown(p->end[!i].fd, SHUT_WR);
			f->left = 0;
			break;
		}
		rc = f->len ? 1 : more(p, i);
		if (rc < 0)
			return false;
		if (!rc && f->left)
			return true;
		if (!rc)
			break;
		n = send(p->end[!i].fd, f->data + f->at, f->len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR || errno == ENOBUFS;
		f->at += (size_t)n;
		f->len -= (size_t)n;
		f->left -= (uint32_t)n;
	}
	filled(p, i);
	return true;
}

void off_tcp_fill_step(struct off_tcp_pair *p)
{
	for (int i = 0; i < 2; i++) {
		if (p->end[i].fill.left && !fill(p, i)) {
			off_tcp_pair_kill(p);
			return;
		}
	}
	if (is_filled(p) || off_tcp_since(p->t, p->since_ms) > FILL_MS)
		off_tcp_fill_end(p);
}

void off_tcp_fill_end(struct off_tcp_pair *p)
{
	struct l7mp_flow_socket back[2];
	struct off_tcp *t = p->t;
	void *owner = p->owner;

	for (int i = 0; i < 2; i++) {
		if (p->end[i].fill.left)
			filled(p, i);
		back[i] = (struct l7mp_flow_socket){.fd = p->end[i].fd,
		                                    .ended = p->end[i].ended,
		                                    .shut = p->end[i].shut,
		                                    .mss = off_tcp_mss(&p->end[i].conn.traits)};
		p->end[i].fd = -1;
	}
	t->n_returned++;
	t->ops->returned(t->arg, owner, back, (enum l7mp_reason)p->why);
	off_tcp_pair_free(&p);
}
