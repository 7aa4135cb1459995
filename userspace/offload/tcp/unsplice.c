/* SPDX-License-Identifier: MIT */
/*
 * Back to user space. STOP: what had begun to pass still passes, until it is acknowledged; of all
 * else only the acknowledgements. Then both ends know what each has, and new sockets go on from
 * there. Without STOP a restored socket would hang: an acknowledgement of what it never sent is
 * refused with all that comes with it.
 */
#include <time.h>

#include "tcp.h"

#define STOP_MS        3000
#define NO_ROUTE_MS    30000
#define PROBE_FIRST_MS 2
#define PROBE_DOUBLE   6 /* times: at most every 128 ms */

static uint64_t now(const struct off_tcp_pair *p)
{
	return off_tcp_now(p->t);
}

void off_tcp_probe(struct off_tcp_pair *p, int i)
{
	const volatile struct l7mp_tcp_direction *in = &p->map->dir[i], *out = &p->map->dir[!i];
	const struct off_tcp_segment s = {
	        .seq = in->ack_max - in->ack_delta,
	        .ack = out->ack_max,
	        .win = out->win,
	        .tsval = off_tcp_tsval(p, i),
	        .tsecr = in->ts_in,
	        .old_byte = true,
	};

	if (!off_tcp_segment_send(&p->t->raw, &p->end[i].conn, &s) || p->end[i].fd < 0)
		return;
	/* Leaving repair mode asks the peer for its window, which has the same answer. */
	off_tcp_ask(p->end[i].fd, true);
}

void off_tcp_stop_begin(struct off_tcp_pair *p)
{
	off_tcp_watch_socket(p, false);
	off_tcp_enter(p, OFF_TCP_BARRIER);
	off_tcp_phase(p, L7MP_TCP_STOP);
	off_tcp_barrier(p);
}

static bool acknowledged(const struct off_tcp_pair *p)
{
	for (int i = 0; i < 2; i++)
		if (off_tcp_before(p->map->dir[i].ack_max, p->map->dir[!i].seq_max))
			return false;
	return true;
}

/* ---- making the sockets again ---- */

/* What end i's peer has sent that is acknowledged beyond, and what it has acknowledged. */
static void point(const struct off_tcp_pair *p, int i, struct off_tcp_point *out)
{
	const volatile struct l7mp_tcp_direction *in = &p->map->dir[i], *far = &p->map->dir[!i];

	out->rcv_nxt = far->ack_max;
	out->snd_nxt = in->ack_max - in->ack_delta;
	/*
	 * Not behind what the old socket or the other end has sent, nor behind what still passes
	 * until the flows are gone: that may have been sent much later than what passed last.
	 */
	out->clock = off_tcp_later(p->end[i].clock, far->ts_out) + L7MP_TCP_TS_AHEAD;
	out->snd_wnd = in->win;
	out->rcv_wnd = OFF_TCP_RESTORED_WINDOW;
}

/* Has a FIN of end i's peer come to the other end? */
static bool has_ended(const struct off_tcp_pair *p, int i)
{
	const volatile struct l7mp_tcp_direction *d = &p->map->dir[i];

	return (d->seen & L7MP_TCP_FIN) && !off_tcp_before(p->map->dir[!i].ack_max, d->fin_end);
}

static bool restore(struct off_tcp_pair *p, const struct off_tcp_point at[2])
{
	for (int i = 0; i < 2; i++)
		off_tcp_close_silently(&p->end[i].fd);
	for (int i = 0; i < 2; i++) {
		p->end[i].fd = off_tcp_restore(&p->end[i].conn, &at[i]);
		if (p->end[i].fd >= 0)
			continue;
		p->end[i].fd = -1;
		return false;
	}
	return true;
}

/* They are sockets like others again: the peers are told what they may send. */
static void wake(struct off_tcp_pair *p, const struct off_tcp_point at[2])
{
	for (int i = 0; i < 2; i++) {
		struct off_tcp_segment s = {
		        .seq = at[i].snd_nxt,
		        .ack = at[i].rcv_nxt,
		        .win = OFF_TCP_RESTORED_WINDOW,
		        .tsecr = p->map->dir[i].ts_in,
		};

		off_tcp_repair(p->end[i].fd, false);
		s.tsval = off_tcp_clock(p->end[i].fd);
		if (off_tcp_segment_send(&p->t->raw, &p->end[i].conn, &s))
			off_tcp_ask(p->end[i].fd, false);
	}
}

/* Bytes are counted up to where the sockets go on; the rest comes again. */
static void settle_bytes(struct off_tcp_pair *p, const struct off_tcp_point at[2])
{
	for (int i = 0; i < 2; i++) {
		struct off_tcp_end *e = &p->end[i];
		uint32_t end = at[i].rcv_nxt - has_ended(p, i);

		(void)off_tcp_bytes(p, i);
		e->bytes += (uint64_t)(int64_t)(int32_t)(end - e->counted);
		e->counted = end;
	}
}

void off_tcp_stop_end(struct off_tcp_pair *p)
{
	struct l7mp_flow_socket back[2];
	struct off_tcp_point at[2];
	struct off_tcp *t = p->t;
	void *owner = p->owner;

	for (int i = 0; i < 2; i++)
		point(p, i, &at[i]);
	t->n_forced += !acknowledged(p);
	if (!restore(p, at)) {
		off_tcp_pair_kill(p);
		return;
	}
	settle_bytes(p, at);
	t->ops->unmap(t->arg, owner);
	wake(p, at);
	for (int i = 0; i < 2; i++) {
		back[i] = (struct l7mp_flow_socket){.fd = p->end[i].fd,
		                                    .ended = has_ended(p, i),
		                                    .shut = has_ended(p, !i),
		                                    .mss = off_tcp_mss(&p->end[i].conn.traits)};
		p->end[i].fd = -1;
	}
	t->n_returned++;
	off_tcp_phase(p, L7MP_TCP_FREE);
	t->ops->returned(t->arg, owner, back, (enum l7mp_reason)p->why);
	off_tcp_pair_free(&p);
}

/* ---- steps ---- */

static void barrier_step(struct off_tcp_pair *p)
{
	if ((int)(p->barrier - p->t->barrier_done) > 0)
		return;
	off_tcp_enter(p, OFF_TCP_STOP);
	p->probes = 0;
	p->probe_ms = 0;
}

/* A socket can't be made again while the kernel would not know where to send. */
static bool has_routes(const struct off_tcp_pair *p)
{
	return off_tcp_has_route(&p->end[0].conn) && off_tcp_has_route(&p->end[1].conn);
}

static void stop_step(struct off_tcp_pair *p)
{
	unsigned shift = p->probes < PROBE_DOUBLE ? p->probes : PROBE_DOUBLE;

	if ((acknowledged(p) || off_tcp_since(p->t, p->since_ms) > STOP_MS) && has_routes(p)) {
		off_tcp_stop_end(p);
		return;
	}
	/* As long as a socket would try (l7mp_tcp_tune). */
	if (off_tcp_since(p->t, p->since_ms) > NO_ROUTE_MS) {
		off_tcp_pair_kill(p);
		return;
	}
	/* A delayed acknowledgement takes 40 ms and more: so ask. */
	if (p->probes && off_tcp_since(p->t, p->probe_ms) < (uint64_t)PROBE_FIRST_MS << shift)
		return;
	p->probes++;
	p->probe_ms = now(p);
	for (int i = 0; i < 2; i++)
		off_tcp_probe(p, i);
}

/* Over meanwhile: there is nothing that could come back. */
static bool ended(struct off_tcp_pair *p)
{
	if (p->map->dir[0].seen & p->map->dir[1].seen & L7MP_TCP_FIN_ACKED) {
		off_tcp_over(p, false);
		return true;
	}
	return off_tcp_begun_anew(p);
}

void off_tcp_unsplice_step(struct off_tcp_pair *p)
{
	if (p->stage == OFF_TCP_BARRIER)
		barrier_step(p);
	if (p->stage == OFF_TCP_STOP && !ended(p))
		stop_step(p);
}

/* ---- wishes ---- */

void off_tcp_pair_leave(struct off_tcp_pair *p, enum l7mp_reason why)
{
	if (p->wanted_back || !off_tcp_lent(p))
		return;
	p->wanted_back = true;
	p->why = (uint8_t)why;
	if (p->stage == OFF_TCP_FAST)
		off_tcp_stop_begin(p);
	/* RELAY gives up at its next step; TRANS comes to FAST first. */
}

static bool leaving(const struct off_tcp *t)
{
	const struct off_tcp_pair *p;

	DL_FOREACH (t->busy, p)
		if (p->wanted_back)
			return true;
	return false;
}

static void step_leaving(struct off_tcp *t, bool force)
{
	for (struct off_tcp_pair *p = t->busy; p; p = t->next_busy) {
		t->next_busy = p->next;
		if (!p->wanted_back)
			continue;
		/* Nobody waits for programs here: what they have changed is looked at again. */
		if (p->stage == OFF_TCP_BARRIER)
			off_tcp_enter(p, OFF_TCP_STOP);
		if (force && p->stage == OFF_TCP_STOP)
			off_tcp_stop_end(p);
		else if (force && p->stage == OFF_TCP_TRANS)
			off_tcp_pair_kill(p);
		else
			off_tcp_step(p);
	}
	t->next_busy = NULL;
}

void off_tcp_settle_now(struct off_tcp *t, unsigned ms)
{
	const struct timespec wait = {.tv_nsec = 1000000};

	while (leaving(t) && t->skew_ms < ms) {
		step_leaving(t, false);
		if (leaving(t) && !nanosleep(&wait, NULL))
			t->skew_ms++;
	}
	if (leaving(t))
		step_leaving(t, true);
	t->skew_ms = 0;
}
