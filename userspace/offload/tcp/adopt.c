/* SPDX-License-Identifier: MIT */
/*
 * Adopting pairs that a previous daemon left in the kernel. Its sockets were in repair mode and so
 * were closed silently; the programs continued to translate. The map has everything that
 * un-splicing needs: the pair stays in FAST, and its sockets are restored to reserve the addresses.
 */
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

#include "tcp.h"

/* ---- for the next daemon ---- */

static void remember_end(struct off_tcp_pair *p, int i)
{
	const struct off_tcp_conn *c = &p->end[i].conn;
	struct l7mp_tcp_end end = {
	        .snd_mss = (uint16_t)c->traits.snd_mss,
	        .rcv_mss = (uint16_t)c->traits.advmss,
	        .ifindex = c->device[0] ? if_nametoindex(c->device) : 0,
	};

	memcpy(end.congestion, c->traits.congestion, sizeof(end.congestion));
	p->map->end[i] = end;
}

void off_tcp_remember(struct off_tcp_pair *p)
{
	for (int i = 0; i < 2; i++) {
		volatile struct l7mp_tcp_direction *d = &p->map->dir[i];

		remember_end(p, i);
		d->begun = p->end[i].counted;
		d->bytes = p->end[i].bytes;
		d->passed = p->t->ops->passed(p->t->arg, p->owner, i);
	}
}

/* ---- reading a pair ---- */

static void recall_conn(const struct off_tcp_pair *p, int i, struct off_tcp_conn *c)
{
	const struct l7mp_tcp_end end = p->map->end[i];
	const volatile struct l7mp_tcp_direction *in = &p->map->dir[i], *out = &p->map->dir[!i];
	struct off_tcp_traits *t = &c->traits;

	c->own_local = c->local;
	c->own_peer = c->peer;
	t->carries = true;
	t->ts = in->flags & L7MP_TCP_TS;
	t->sack = !(out->flags & L7MP_TCP_NOSACK);
	t->snd_wscale = in->win_in;
	t->rcv_wscale = out->win_out;
	t->wscale = t->snd_wscale || t->rcv_wscale;
	t->snd_mss = end.snd_mss;
	t->advmss = end.rcv_mss;
	memcpy(t->congestion, end.congestion, sizeof(t->congestion));
	t->congestion[sizeof(t->congestion) - 1] = 0;
	if (end.ifindex && !if_indextoname(end.ifindex, c->device))
		c->device[0] = 0;
}

/*
 * The highest time stamp that this end's peer may have seen: the map has it. If nothing was
 * translated in FAST yet it is that of the old socket, whose clock counts milliseconds.
 */
static uint32_t recall_clock(const struct off_tcp_pair *p, int i)
{
	const volatile struct l7mp_tcp_direction *d = &p->map->dir[!i];
	uint64_t now = off_tcp_now_ns();

	if (d->ts || now < d->armed_ns)
		return d->ts_out;
	return d->ts_base + (uint32_t)((now - d->armed_ns) / 1000000);
}

/*
 * Counts also the bytes translated while no daemon ran: from the sequence numbers, which wrap at
 * 2^32, and the number of wraps from the flow's counter, which includes retransmissions.
 */
static void recall_bytes(struct off_tcp_pair *p, int i, uint64_t passed)
{
	const volatile struct l7mp_tcp_direction *d = &p->map->dir[i];
	struct off_tcp_end *e = &p->end[i];
	uint32_t max = d->seq_max, more;
	uint64_t beyond = passed > d->passed ? passed - d->passed : 0;

	if ((d->seen & L7MP_TCP_FIN) && !off_tcp_before(max, d->fin_end))
		max = d->fin_end - 1;
	e->bytes = d->bytes;
	e->counted = d->begun + (uint32_t)d->bytes;
	more = max - e->counted;
	e->bytes += more;
	if (beyond > more)
		e->bytes += (beyond - more) & ~(uint64_t)UINT32_MAX;
	e->counted = max;
}

/* Allocates this index of the map. False: another pair uses it. */
static bool take_place(struct off_tcp *t, uint32_t index)
{
	for (unsigned i = 0; i < t->n_free; i++) {
		unsigned at = (t->first_free + i) % L7MP_TCP_PAIRS;

		if (t->free[at] != index)
			continue;
		t->free[at] = t->free[t->first_free];
		t->first_free = (t->first_free + 1) % L7MP_TCP_PAIRS;
		t->n_free--;
		return true;
	}
	return false;
}

static const char *check_phase(const volatile struct l7mp_tcp_pair *map)
{
	switch (map->phase) {
	case L7MP_TCP_FAST:
	case L7MP_TCP_STOP:
		break;
	case L7MP_TCP_WATCH:
	case L7MP_TCP_TRANS:
		return "a TCP connection on its way into the kernel, whose sockets ended with the "
		       "process";
	default:
		return "a TCP connection whose numbers are missing in the kernel";
	}
	if (!map->end[0].snd_mss || !map->end[1].snd_mss)
		return "a TCP connection of an earlier version, whose sockets can't be made again";
	return NULL;
}

const char *off_tcp_adopt(struct off_tcp *t, uint32_t index, uint32_t id,
                          const struct l7mp_addr local[2], const struct l7mp_addr peer[2],
                          const uint64_t passed[2], void *owner, struct off_tcp_pair **out)
{
	volatile struct l7mp_tcp_pair *map = index < L7MP_TCP_PAIRS ? &t->map[index] : NULL;
	struct off_tcp_pair *p;

	*out = NULL;
	if (!map || !id || map->id != id || !map->phase)
		return "a TCP connection whose numbers are missing in the kernel";
	p = calloc(1, sizeof(*p));
	if (!p)
		return "out of memory";
	if (!take_place(t, index)) {
		free(p);
		return "its TCP connections are those of another session, too";
	}
	p->t = t;
	p->owner = owner;
	p->index = index;
	p->id = id;
	p->map = map;
	p->stage = OFF_TCP_FAST;
	p->begun_called = true;
	for (int i = 0; i < 2; i++) {
		struct off_tcp_end *e = &p->end[i];

		e->fd = -1;
		e->conn.local = local[i];
		e->conn.peer = peer[i];
		recall_conn(p, i, &e->conn);
		e->mss = off_tcp_mss(&e->conn.traits);
		e->clock = recall_clock(p, i);
		recall_bytes(p, i, passed[i]);
	}
	*out = p;
	return check_phase(map);
}

int off_tcp_adopt_sockets(const struct off_tcp_pair *p, int fd[2])
{
	fd[0] = fd[1] = -1;
	for (int i = 0; i < 2; i++) {
		const volatile struct l7mp_tcp_direction *in = &p->map->dir[i];
		const struct off_tcp_point at = {
		        .rcv_nxt = p->map->dir[!i].ack_max,
		        .snd_nxt = in->ack_max - in->ack_delta,
		        .clock = p->end[i].clock,
		};
		int rc = off_tcp_restore(&p->end[i].conn, &at);

		if (rc < 0) {
			off_tcp_close_silently(&fd[0]);
			return rc;
		}
		fd[i] = rc;
	}
	return 0;
}

void off_tcp_adopt_begin(struct off_tcp_pair *p, const int fd[2])
{
	for (int i = 0; i < 2; i++) {
		struct off_tcp_end *e = &p->end[i];

		e->fd = fd[i];
		off_tcp_keepalive_off(fd[i]);
		(void)off_tcp_rcv_nxt(fd[i], &e->rcv_nxt);
		off_tcp_repair(fd[i], true);
		e->copied = e->rcv_nxt;
	}
	p->since_ms = off_tcp_now(p->t);
	off_tcp_list(p);
	/* It was being un-spliced: continue with that. */
	if (p->map->phase == L7MP_TCP_STOP) {
		p->wanted_back = true;
		off_tcp_stop_begin(p);
	}
}

/* ---- pairs that are not adopted ---- */

void off_tcp_adopt_reset(struct off_tcp_pair **pp)
{
	struct off_tcp_pair *p = *pp;
	struct off_tcp *t;

	if (!p)
		return;
	*pp = NULL;
	t = p->t;
	/* Before TRANS the map has no numbers, and the sockets were closed with the process. */
	for (int i = 0; i < 2 && p->map->phase >= L7MP_TCP_TRANS; i++)
		off_tcp_send_reset(p, i);
	off_tcp_phase(p, L7MP_TCP_FREE);
	p->map->id = 0;
	t->free[(t->first_free + t->n_free++) % L7MP_TCP_PAIRS] = (uint16_t)p->index;
	free(p);
}

void off_tcp_adopt_leave(struct off_tcp_pair **p)
{
	free(*p);
	*p = NULL;
}
