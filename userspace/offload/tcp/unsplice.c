/* SPDX-License-Identifier: MIT */
/*
 * Un-splice: back to user space. In STOP the programs still forward data below seq_max, but of
 * other segments only the acknowledgements. When everything is acknowledged both ends agree on what
 * was received, and restored sockets continue from there. Without STOP a restored socket would
 * hang: it drops segments that acknowledge data which it never sent.
 */
#include <time.h>

#include "tcp.h"

#define STOP_MS        3000
#define BLOCKED_MS     300 /* ... after a segment that can't be translated */
#define OWED_MS        50  /* ... if the far end lacks data that the near socket has acknowledged */
#define NO_ROUTE_MS    30000
#define PROBE_FIRST_MS 2
#define PROBE_DOUBLE   6 /* doublings of the interval: up to 128 ms */

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
	/* No CAP_NET_RAW: the window probe when leaving repair mode has the same effect. */
	off_tcp_window_probe(p->end[i].fd, true);
}

void off_tcp_stop_begin(struct off_tcp_pair *p)
{
	off_tcp_watch_socket(p, false);
	p->doubts = p->map->dir[0].doubts + p->map->dir[1].doubts;
	off_tcp_enter(p, OFF_TCP_BARRIER);
	off_tcp_phase(p, L7MP_TCP_STOP);
	off_tcp_barrier(p);
}

static bool acknowledged(const struct off_tcp_pair *p)
{
	for (int i = 0; i < 2; i++)
		if (off_tcp_before(p->map->dir[i].ack_max, p->map->dir[!i].seq_max))
			return false;
	return !off_tcp_owes(p, 0) && !off_tcp_owes(p, 1);
}

/* How long to wait until everything is acknowledged; the rest is left to FILL. */
static unsigned patience(const struct off_tcp_pair *p)
{
	if (off_tcp_owes(p, 0) || off_tcp_owes(p, 1))
		return OWED_MS;
	return p->map->dir[0].doubts + p->map->dir[1].doubts != p->doubts ? BLOCKED_MS : STOP_MS;
}

/* ---- restoring the sockets ---- */

/*
 * Where end i's restored socket continues: after the data of its peer that the far end or the old
 * socket has acknowledged, and after the data that its peer has acknowledged. acked[i] is the far
 * end's acknowledgement of the data of end i's peer.
 */
static void point(const struct off_tcp_pair *p, int i, const uint32_t acked[2],
                  struct off_tcp_point *out)
{
	const volatile struct l7mp_tcp_direction *in = &p->map->dir[i], *far = &p->map->dir[!i];

	out->rcv_nxt = off_tcp_later(acked[i], p->end[i].rcv_nxt);
	out->snd_nxt = acked[!i] - in->ack_delta;
	/*
	 * Not older than the time stamps of the old socket and of translated segments, nor than
	 * those of segments that still pass until the flows are deleted, which may be much later.
	 */
	out->clock = off_tcp_later(p->end[i].clock, far->ts_out) + L7MP_TCP_TS_AHEAD;
	out->snd_wnd = in->win;
	out->rcv_wnd = OFF_TCP_RESTORED_WINDOW;
}

/* Has the other end acknowledged a FIN of end i's peer? */
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
		if (p->end[i].fd < 0) {
			p->end[i].fd = -1;
			return false;
		}
		if (p->end[i].conn.traits.ts)
			p->end[i].ticks = off_tcp_clock_set(p->end[i].fd, at[i].clock + 2);
	}
	return true;
}

/*
 * Leaves repair mode, except on sockets that have to be filled first, and announces the sockets'
 * windows to the peers.
 */
static void wake(struct off_tcp_pair *p, const struct off_tcp_point at[2])
{
	for (int i = 0; i < 2; i++) {
		bool to_fill = p->end[!i].fill.left;
		struct off_tcp_segment s = {
		        .seq = at[i].snd_nxt,
		        .ack = at[i].rcv_nxt,
		        .win = OFF_TCP_RESTORED_WINDOW,
		        .tsecr = p->map->dir[i].ts_in,
		};

		if (!to_fill)
			off_tcp_repair(p->end[i].fd, false);
		s.tsval = off_tcp_clock_now(&p->end[i].ticks);
		if (!off_tcp_segment_send(&p->t->raw, &p->end[i].conn, &s))
			continue;
		off_tcp_window_probe(p->end[i].fd, to_fill);
		if (to_fill)
			off_tcp_repair_sending(p->end[i].fd);
	}
}

/* Counts bytes up to where the sockets continue; later data is retransmitted. */
static void settle_bytes(struct off_tcp_pair *p, const struct off_tcp_point at[2])
{
	for (int i = 0; i < 2; i++) {
		struct off_tcp_end *e = &p->end[i];
		uint32_t end = at[i].rcv_nxt - e->ended;

		(void)off_tcp_bytes(p, i);
		e->bytes += (uint64_t)(int64_t)(int32_t)(end - e->counted);
		e->counted = end;
	}
	p->settled = true;
}

void off_tcp_stop_end(struct off_tcp_pair *p)
{
	const uint32_t acked[2] = {p->map->dir[1].ack_max, p->map->dir[0].ack_max};
	struct off_tcp_point at[2];
	struct off_tcp *t = p->t;
	bool whole = true;

	t->n_forced += !acknowledged(p);
	for (int i = 0; i < 2; i++)
		whole = off_tcp_fill_take(p, i, acked[i]) && whole;
	for (int i = 0; i < 2; i++) {
		point(p, i, acked, &at[i]);
		p->end[i].ended = has_ended(p, i) || p->end[i].fill.fin;
		p->end[i].shut = has_ended(p, !i);
	}
	if (!whole || !restore(p, at)) {
		off_tcp_pair_kill(p);
		return;
	}
	settle_bytes(p, at);
	t->ops->unmap(t->arg, p->owner);
	off_tcp_phase(p, L7MP_TCP_FREE);
	off_tcp_fill_begin(p, acked);
	wake(p, at);
	off_tcp_fill_step(p);
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

/* Sockets can't be restored without routes to their peers. */
static bool has_routes(const struct off_tcp_pair *p)
{
	return off_tcp_has_route(&p->end[0].conn) && off_tcp_has_route(&p->end[1].conn);
}

static void stop_step(struct off_tcp_pair *p)
{
	unsigned shift = p->probes < PROBE_DOUBLE ? p->probes : PROBE_DOUBLE;

	if ((acknowledged(p) || off_tcp_since(p->t, p->since_ms) > patience(p)) && has_routes(p)) {
		off_tcp_stop_end(p);
		return;
	}
	/* A socket's own time limit (l7mp_tcp_tune). */
	if (off_tcp_since(p->t, p->since_ms) > NO_ROUTE_MS) {
		off_tcp_pair_kill(p);
		return;
	}
	/* Delayed acknowledgements take 40 ms and more: probe for them. */
	if (p->probes && off_tcp_since(p->t, p->probe_ms) < (uint64_t)PROBE_FIRST_MS << shift)
		return;
	p->probes++;
	p->probe_ms = now(p);
	for (int i = 0; i < 2; i++)
		off_tcp_probe(p, i);
}

/* Were both connections closed meanwhile? Then nothing is returned to user space. */
static bool ended(struct off_tcp_pair *p)
{
	if (p->map->dir[0].seen & p->map->dir[1].seen & L7MP_TCP_FIN_ACKED) {
		off_tcp_over(p, false);
		return true;
	}
	return off_tcp_check_reuse(p);
}

void off_tcp_unsplice_step(struct off_tcp_pair *p)
{
	if (p->stage == OFF_TCP_BARRIER)
		barrier_step(p);
	if (p->stage == OFF_TCP_FILL)
		off_tcp_fill_step(p);
	else if (p->stage == OFF_TCP_STOP && !ended(p))
		stop_step(p);
}

/* ---- requests ---- */

void off_tcp_pair_leave(struct off_tcp_pair *p, enum l7mp_reason why)
{
	if (p->wanted_back || !off_tcp_lent(p))
		return;
	p->wanted_back = true;
	p->why = (uint8_t)why;
	if (p->stage == OFF_TCP_FAST)
		off_tcp_stop_begin(p);
	/* RELAY gives up in its next step; TRANS proceeds to FAST first. */
}

/* ---- leaving pairs ---- */

/* FILL doesn't need the programs. */
static bool leaves(const struct off_tcp_pair *p, const struct off_tcp_choice *of)
{
	return p->wanted_back && (of->filling || p->stage != OFF_TCP_FILL) &&
	       (!of->has || of->has(of->arg, p->owner));
}

bool off_tcp_leaving(const struct off_tcp *t, const struct off_tcp_choice *of)
{
	const struct off_tcp_pair *p;

	DL_FOREACH (t->busy, p)
		if (leaves(p, of))
			return true;
	return false;
}

static void step_leaving(struct off_tcp *t, const struct off_tcp_choice *of, bool force)
{
	for (struct off_tcp_pair *p = t->busy; p; p = t->next_busy) {
		t->next_busy = p->next;
		if (!leaves(p, of))
			continue;
		/* Don't wait for the barrier: STOP's steps read again what programs change. */
		if (p->stage == OFF_TCP_BARRIER)
			off_tcp_enter(p, OFF_TCP_STOP);
		if (force && p->stage == OFF_TCP_STOP)
			off_tcp_stop_end(p);
		else if (force && p->stage == OFF_TCP_TRANS)
			off_tcp_pair_kill(p);
		else if (force && p->stage == OFF_TCP_FILL)
			off_tcp_fill_end(p);
		else
			off_tcp_step(p);
	}
	t->next_busy = NULL;
}

void off_tcp_force(struct off_tcp *t, const struct off_tcp_choice *of)
{
	step_leaving(t, of, true);
}

void off_tcp_settle(struct off_tcp *t, unsigned ms, const struct off_tcp_choice *of)
{
	const struct timespec wait = {.tv_nsec = 1000000};

	while (off_tcp_leaving(t, of) && t->skew_ms < ms) {
		step_leaving(t, of, false);
		if (off_tcp_leaving(t, of) && !nanosleep(&wait, NULL))
			t->skew_ms++;
	}
	step_leaving(t, of, true);
	t->skew_ms = 0;
}
