/* SPDX-License-Identifier: MIT */
/* Splicing: the stages from NUMBERS to FAST. */
#include <errno.h>
#include <string.h>

#include "tcp.h"

#define HOLD_AFTER_MS 50   /* NUMBERS: then the owner must stop reading for a moment */
#define REST_MS       2000 /* time limit of NUMBERS, HOLD and RELAY */
#define REFRESH_MS    4    /* WATCH: interval of refreshing the expected numbers */
#define WATCH_MS      1000
#define WATCH_SEGS    4  /* received segments that the program didn't see */
#define SWITCHING_MAX 64 /* pairs that stop their senders at the same time */
/* After rcv_nxt's last advance: segments that a program passed up have reached the socket then. */
#define SETTLED_MS 2
/*
 * RELAY: after so long, and a round trip of both connections, TRANS begins without waiting until
 * everything is acknowledged, if the peers never had more than a LIGHT-th of the other one's
 * window in flight: a peer that sends little needs no closed window to stay within the other
 * peer's when the programs begin to translate.
 */
#define LIGHT_AFTER_MS 20
#define LIGHT          4

static uint64_t now(const struct off_tcp_pair *p)
{
	return off_tcp_now(p->t);
}

static uint64_t age(const struct off_tcp_pair *p)
{
	return off_tcp_since(p->t, p->since_ms);
}

static void hold(struct off_tcp_pair *p, bool on)
{
	if (p->held == on)
		return;
	p->held = on;
	p->t->ops->hold(p->t->arg, p->owner, on);
}

/* Ends a pair that was not lent: the owner still has the sockets. Frees p. */
static void refuse(struct off_tcp_pair *p, enum l7mp_reason why)
{
	struct off_tcp *t = p->t;
	void *owner = p->owner;

	hold(p, false);
	t->ops->unmap(t->arg, owner);
	t->ops->returned(t->arg, owner, NULL, why);
	off_tcp_pair_free(&p);
}

/* ---- NUMBERS, WATCH ---- */

/*
 * Stores the current sequence numbers in the map. The one to be written is derived from an earlier
 * reading and the bytes written since. False: it could not be read yet.
 */
static bool expect(struct off_tcp_pair *p)
{
	bool all = true;

	for (int i = 0; i < 2; i++) {
		struct off_tcp_end *e = &p->end[i];
		uint64_t written;

		if (off_tcp_rcv_nxt(e->fd, &e->rcv_nxt))
			return false;
		written = off_tcp_written(e->fd);
		if (!e->have_ack0 && !off_tcp_write_seq(e->fd, &e->own_ack0)) {
			e->have_ack0 = true;
			e->written0 = written;
		}
		all = all && e->have_ack0;
		p->map->dir[i].own_seq = e->rcv_nxt;
		p->map->dir[i].own_ack = e->own_ack0 + (uint32_t)(written - e->written0);
	}
	p->refreshed_ms = now(p);
	return all;
}

static void numbers_step(struct off_tcp_pair *p)
{
	if (!expect(p)) {
		if (age(p) > REST_MS)
			refuse(p, L7MP_REASON_TCP_BUSY);
		else if (age(p) > HOLD_AFTER_MS)
			hold(p, true);
		return;
	}
	hold(p, false);
	for (int i = 0; i < 2; i++)
		p->end[i].segs_in = off_tcp_segs_in(p->end[i].fd);
	off_tcp_phase(p, L7MP_TCP_WATCH);
	off_tcp_enter(p, OFF_TCP_WATCH);
}

/* Does the host receive segments that the program doesn't see (NAT, another interface)? */
static bool passed_by(struct off_tcp_pair *p)
{
	bool missed = false;

	for (int i = 0; i < 2; i++) {
		uint32_t segs = off_tcp_segs_in(p->end[i].fd);

		if (!(p->map->dir[i].seen & L7MP_TCP_SEEN))
			missed = missed || segs - p->end[i].segs_in >= WATCH_SEGS;
	}
	return missed;
}

/* No socket option shows whether a connection uses MD5 or AO keys, but its segments do. */
static bool is_signed(const struct off_tcp_pair *p)
{
	return p->map->dir[0].doubt == L7MP_TCP_DOUBT_SIGNED ||
	       p->map->dir[1].doubt == L7MP_TCP_DOUBT_SIGNED;
}

static void watch_step(struct off_tcp_pair *p)
{
	uint32_t seen = p->map->dir[0].seen & p->map->dir[1].seen;

	if ((p->map->dir[0].seen | p->map->dir[1].seen) & L7MP_TCP_DOUBT) {
		refuse(p, is_signed(p) ? L7MP_REASON_TCP_MD5 : L7MP_REASON_TCP);
	} else if (seen & L7MP_TCP_SEEN) {
		if (p->t->n_switching >= SWITCHING_MAX)
			return;
		off_tcp_enter(p, OFF_TCP_HOLD);
		hold(p, true);
	} else if (age(p) > WATCH_MS && passed_by(p)) {
		refuse(p, L7MP_REASON_NOT_SEEN);
	} else if (off_tcp_since(p->t, p->refreshed_ms) >= (age(p) > WATCH_MS ? 100 : REFRESH_MS)) {
		(void)expect(p);
	}
}

/* ---- HOLD, RELAY ---- */

/*
 * Determines `copied`: the sequence number of the first byte that user space has not read, or of
 * the FIN if it has read all bytes. False: the connection is closing.
 */
static bool begin_relay(struct off_tcp_end *e)
{
	for (int i = 0; i < 8; i++) {
		uint32_t before, after;
		uint8_t state;
		int unread;

		if (off_tcp_rcv_nxt(e->fd, &before))
			return false;
		unread = off_tcp_unread(e->fd);
		state = off_tcp_state(e->fd);
		if (unread < 0 || !off_tcp_carries(state))
			return false;
		if (off_tcp_rcv_nxt(e->fd, &after))
			return false;
		if (before != after)
			continue;
		e->rcv_nxt = after;
		e->copied = after - (uint32_t)unread - (e->fin || state == OFF_TCP_CLOSE_WAIT);
		e->counted = e->copied;
		return true;
	}
	return false;
}

static void hold_step(struct off_tcp_pair *p)
{
	struct l7mp_flow_socket at[2];

	if (!p->t->ops->lend(p->t->arg, p->owner, at)) {
		if (age(p) > REST_MS)
			refuse(p, L7MP_REASON_TCP_BUSY);
		return;
	}
	p->held = false; /* the owner resumes reading when it gets them back */
	off_tcp_enter(p, OFF_TCP_RELAY);
	for (int i = 0; i < 2; i++) {
		p->end[i].fd = at[i].fd;
		p->end[i].fin = at[i].ended;
		p->end[i].shut = at[i].shut;
	}
	if (p->end[0].fin != p->end[1].shut || p->end[1].fin != p->end[0].shut ||
	    !begin_relay(&p->end[0]) || !begin_relay(&p->end[1]))
		off_tcp_give_up(p, L7MP_REASON_TCP_CLOSING);
}

void off_tcp_give_up(struct off_tcp_pair *p, enum l7mp_reason why)
{
	struct l7mp_flow_socket back[2];
	struct off_tcp *t = p->t;
	void *owner = p->owner;

	for (int i = 0; i < 2; i++) {
		struct off_tcp_end *e = &p->end[i];

		e->bytes = e->relay.relayed;
		back[i] = (struct l7mp_flow_socket){.fd = e->fd, .shut = e->shut, .mss = e->mss};
		/* On failure the owner gets the error from its next read. */
		(void)off_tcp_relay_discard(&e->relay, e->fd);
		e->fd = -1;
	}
	t->ops->unmap(t->arg, owner);
	t->ops->returned(t->arg, owner, back, why);
	off_tcp_pair_free(&p);
}

static bool arm(struct off_tcp_pair *p);
static void trans_step(struct off_tcp_pair *p);

/* Have both peers sent a FIN, or was a connection reset? User space then closes them. */
static bool is_closing(const struct off_tcp_pair *p)
{
	bool both = true;

	for (int i = 0; i < 2; i++) {
		uint8_t state = off_tcp_state(p->end[i].fd);

		if (!off_tcp_carries(state))
			return true;
		both = both && (p->end[i].fin || state == OFF_TCP_CLOSE_WAIT);
	}
	return both;
}

/* Relays in both directions. True: both connections are idle. */
static bool relay(struct off_tcp_pair *p)
{
	bool rest = true;

	for (int i = 0; i < 2; i++) {
		struct off_tcp_end *e = &p->end[i];
		bool all;

		(void)off_tcp_relay_some(&e->relay, e->fd, p->end[!i].fd, &all);
		rest = rest && all;
	}
	for (int i = 0; i < 2; i++) {
		int unacked = off_tcp_unacked(p->end[i].fd);

		rest = rest && !unacked;
		if (unacked > 0 && (uint32_t)unacked > p->end[i].in_flight)
			p->end[i].in_flight = (uint32_t)unacked;
	}
	return rest;
}

/*
 * Peers that answer each other without a pause are never idle: some message is always
 * unacknowledged. May TRANS begin nevertheless? Its numbers only need everything that was written
 * to have been sent. What is unacknowledged stays in the sockets, which retransmit it and see its
 * acknowledgements in TRANS. A FIN must be acknowledged, as it is taken for that in the map.
 */
static bool is_light(const struct off_tcp_pair *p)
{
	uint32_t rtt_us = 0;

	for (int i = 0; i < 2; i++) {
		const struct off_tcp_end *e = &p->end[i];
		struct off_tcp_window w;

		rtt_us += e->conn.traits.min_rtt_us;
		if (off_tcp_unsent(e->fd) || (e->shut && off_tcp_unacked(e->fd)) ||
		    off_tcp_window(e->fd, false, &w) || e->in_flight > w.snd_wnd / LIGHT)
			return false;
	}
	return age(p) >= LIGHT_AFTER_MS + rtt_us / 1000;
}

static void relay_step(struct off_tcp_pair *p)
{
	bool rest = relay(p);

	if (is_closing(p))
		off_tcp_give_up(p, L7MP_REASON_TCP_CLOSING);
	else if (p->wanted_back)
		off_tcp_give_up(p, (enum l7mp_reason)p->why);
	else if (!rest && !(age(p) >= LIGHT_AFTER_MS && is_light(p))) {
		if (age(p) > REST_MS)
			off_tcp_give_up(p, L7MP_REASON_TCP_BUSY);
	} else if (arm(p)) {
		trans_step(p); /* relays what has arrived meanwhile */
	} else {
		off_tcp_give_up(p, L7MP_REASON_KERNEL);
	}
}

/* ---- TRANS ---- */

/* Stores the sockets' state for the programs. */
static void set_limits(struct off_tcp_pair *p)
{
	for (int i = 0; i < 2; i++) {
		volatile struct l7mp_tcp_direction *d = &p->map->dir[i];

		d->own_ack = p->end[!i].rcv_nxt + p->map->dir[!i].seq_delta;
		d->ack_floor = p->end[!i].rcv_nxt;
		d->own_seq = p->end[i].rcv_nxt;
	}
}

static void set_constants(struct off_tcp_pair *p, int i, uint32_t far_write_seq,
                          const struct off_tcp_window w[2])
{
	const struct off_tcp_traits *near = &p->end[i].conn.traits;
	const struct off_tcp_traits *far = &p->end[!i].conn.traits;
	volatile struct l7mp_tcp_direction *d = &p->map->dir[i];
	bool fin = p->end[i].fin; /* relayed: received here, sent there */

	d->seq_delta = far_write_seq - (p->end[i].copied + (uint32_t)p->end[i].relay.relayed + fin);
	p->map->dir[!i].ack_delta = -d->seq_delta;
	d->edge = w[!i].rcv_edge;
	d->win = w[i].snd_wnd;
	d->win_in = near->snd_wscale;
	d->win_out = far->rcv_wscale;
	d->flags = (uint8_t)((near->ts ? L7MP_TCP_TS : 0) | (far->sack ? 0 : L7MP_TCP_NOSACK));
	d->ts_base = d->ts_out = p->end[!i].ticks.base;
	d->armed_ns = p->end[!i].ticks.ns;
	d->ts = d->doubts = d->doubt = 0;
	d->fin_end = fin ? p->end[i].rcv_nxt : 0;
	d->seen = fin ? L7MP_TCP_FIN | L7MP_TCP_FIN_ACKED : 0;
	d->last_seen = 0;
}

/* The programs need the exact clock, but what can be read may be one less: so set it. */
static void set_clock(struct off_tcp_end *e)
{
	off_tcp_repair(e->fd, true);
	e->ticks = off_tcp_clock_set(e->fd, off_tcp_clock(e->fd) + 2);
	off_tcp_repair(e->fd, false);
}

/* Reads the numbers of an end. In w->snd_wnd: the peer's window beyond what was sent to it. */
static bool read_end(struct off_tcp_end *e, uint32_t *write_seq, struct off_tcp_window *w)
{
	uint32_t unacked;
	int n;

	if (off_tcp_rcv_nxt(e->fd, &e->rcv_nxt) || off_tcp_write_seq(e->fd, write_seq))
		return false;
	n = off_tcp_unacked(e->fd); /* before the window, which never ends earlier than before */
	if (n < 0 || off_tcp_window(e->fd, false, w))
		return false;
	unacked = (uint32_t)n;
	w->snd_wnd = w->snd_wnd > unacked ? w->snd_wnd - unacked : 0;
	return true;
}

/* Both sockets have sent everything: enters TRANS. */
static bool arm(struct off_tcp_pair *p)
{
	struct off_tcp_window w[2];
	uint32_t write_seq[2];

	for (int i = 0; i < 2; i++)
		if (!read_end(&p->end[i], &write_seq[i], &w[i]))
			return false;
	for (int i = 0; i < 2; i++) {
		/*
		 * Send a delayed acknowledgement of what the owner has read now: Linux stamps it
		 * with the time of the last received segment, which would be too old after segments
		 * translated by the program.
		 */
		off_tcp_quickack(p->end[i].fd);
		set_clock(&p->end[i]);
	}
	for (int i = 0; i < 2; i++)
		set_constants(p, i, write_seq[!i], w);
	set_limits(p);
	for (int i = 0; i < 2; i++) {
		volatile struct l7mp_tcp_direction *d = &p->map->dir[i];

		d->seq_max = d->own_seq;
		d->ack_max = d->ack_floor;
		off_tcp_keepalive_off(p->end[i].fd);
	}
	off_tcp_remember(p);
	off_tcp_enter(p, OFF_TCP_TRANS);
	p->moved_ms = now(p);
	off_tcp_phase(p, L7MP_TCP_TRANS);
	return true;
}

/*
 * Has the socket received a FIN that was sent before TRANS? If all of its data is relayed, rcv_nxt
 * is one ahead then. The socket's state doesn't show it, as our own FIN may have been sent
 * meanwhile.
 */
static void note_fin(struct off_tcp_pair *p, int i)
{
	struct off_tcp_end *e = &p->end[i];
	volatile struct l7mp_tcp_direction *d = &p->map->dir[i];

	if (e->fin || e->copied + (uint32_t)e->relay.relayed + 1 != e->rcv_nxt)
		return;
	e->fin = true;
	d->fin_end = e->rcv_nxt;
	__atomic_fetch_or(&d->seen, L7MP_TCP_FIN, __ATOMIC_RELEASE);
}

/* TRANS step of one end. Returns true if it is idle: all relayed and acknowledged. */
static bool trans_end(struct off_tcp_pair *p, int i)
{
	struct off_tcp_end *e = &p->end[i], *to = &p->end[!i];
	uint32_t rcv_nxt;
	bool all;

	if (off_tcp_rcv_nxt(e->fd, &rcv_nxt))
		return false;
	if (rcv_nxt != e->rcv_nxt) {
		e->rcv_nxt = rcv_nxt;
		set_limits(p);
		p->moved_ms = now(p);
	}
	(void)off_tcp_relay_some(&e->relay, e->fd, to->fd, &all);
	if (all)
		note_fin(p, i);
	if (e->fin && all && !to->shut) {
		/* This FIN takes the same translated sequence number as the peer's. */
		to->shut = true;
		(void)shutdown(to->fd, SHUT_WR);
		return false;
	}
	return all && e->copied + (uint32_t)e->relay.relayed + e->fin == e->rcv_nxt &&
	       !off_tcp_unacked(to->fd);
}

static bool is_over(const struct off_tcp_pair *p)
{
	return p->map->dir[0].seen & p->map->dir[1].seen & L7MP_TCP_FIN_ACKED;
}

/* Closed with a FIN in both directions: the state is CLOSE, too. */
static bool closed_orderly(const struct off_tcp_end *e)
{
	int unread = off_tcp_unread(e->fd);
	uint32_t rcv_nxt;

	return e->shut && unread >= 0 && !off_tcp_rcv_nxt(e->fd, &rcv_nxt) &&
	       rcv_nxt == e->copied + (uint32_t)unread + 1;
}

/* Was the connection reset, or did it time out? */
static bool socket_failed(const struct off_tcp_end *e)
{
	uint8_t state = off_tcp_state(e->fd);

	return !state || (state == OFF_TCP_CLOSE && !closed_orderly(e));
}

static bool has_failed(const struct off_tcp_pair *p)
{
	return socket_failed(&p->end[0]) || socket_failed(&p->end[1]);
}

static void trans_step(struct off_tcp_pair *p)
{
	bool rest = trans_end(p, 0);

	rest = trans_end(p, 1) && rest;
	/*
	 * In TRANS a FIN may count as acknowledged because the far socket has acknowledged it
	 * (ack_floor), but not yet its peer: only the sockets know that.
	 */
	if (rest && (is_over(p) || off_tcp_since(p->t, p->moved_ms) >= SETTLED_MS))
		off_tcp_fast(p);
	else if (has_failed(p))
		off_tcp_pair_kill(p);
	else
		(void)off_tcp_check_reuse(p);
}

/* ---- FAST ---- */

uint32_t off_tcp_tsval(const struct off_tcp_pair *p, int i)
{
	const volatile struct l7mp_tcp_direction *d = &p->map->dir[!i];

	return d->ts ? off_tcp_later(p->end[i].clock, d->ts_out) : p->end[i].clock;
}

/*
 * Has end i's peer received a window of the other peer in TRANS, with room for segments left? It
 * then learns the rest from the answer to what it sends next. A segment of our own might cross one
 * that a program stamps with the next millisecond, and be discarded as too old.
 */
static bool has_room(const struct off_tcp_pair *p, int i)
{
	const volatile struct l7mp_tcp_direction *in = &p->map->dir[i], *out = &p->map->dir[!i];
	int32_t room = (int32_t)(out->edge - in->seq_max);

	return off_tcp_before(p->end[i].rcv_nxt, out->ack_max) &&
	       room >= 4 * (int32_t)p->end[i].conn.traits.advmss;
}

/*
 * Announces to each peer the other peer's receive window, which applies from now on. Before FAST:
 * in TRANS the programs use time stamps of the sockets' clocks, like these segments; in FAST they
 * are ahead of them. With the highest numbers that were translated in TRANS, as the peer ignores
 * the window of an older segment.
 */
static void announce_windows(struct off_tcp_pair *p, const struct off_tcp_window w[2])
{
	for (int i = 0; i < 2; i++) {
		const volatile struct l7mp_tcp_direction *in = &p->map->dir[i],
		                                         *out = &p->map->dir[!i];
		uint32_t ack = out->ack_max;
		bool translated = off_tcp_before(p->end[i].rcv_nxt, ack);
		const struct off_tcp_segment s = {
		        .seq = off_tcp_later(in->own_ack, out->seq_max + out->seq_delta),
		        .ack = translated ? ack : p->end[i].rcv_nxt,
		        .win = translated ? out->win : w[!i].snd_wnd,
		        .tsval = off_tcp_clock_now(&p->end[i].ticks),
		        .tsecr = in->ts_in,
		};

		/* No CAP_NET_RAW: the other end's answer to a probe has its window. */
		if (!has_room(p, i) && off_tcp_segment_send(&p->t->raw, &p->end[i].conn, &s))
			off_tcp_probe(p, !i);
	}
}

/*
 * Discards the relayed data without opening the window, and sends a pending delayed acknowledgement
 * now: sent after the end of the connection it would be answered by a reset. Linux sends none on
 * demand while there is data to read (tcp_cleanup_rbuf).
 */
static void empty(struct off_tcp_end *e)
{
	uint32_t relayed = (uint32_t)e->relay.relayed;

	off_tcp_keep_window(e->fd);
	(void)off_tcp_relay_discard(&e->relay, e->fd);
	e->copied += relayed - (uint32_t)e->relay.relayed;
	off_tcp_quickack(e->fd);
}

/* Advances a sequence number, never back; the programs update it concurrently. */
static void advance(volatile uint32_t *at, uint32_t to)
{
	uint32_t was = *at;

	while (off_tcp_before(was, to) &&
	       !__atomic_compare_exchange_n(at, &was, to, false, __ATOMIC_RELAXED,
	                                    __ATOMIC_RELAXED))
		;
}

void off_tcp_fast(struct off_tcp_pair *p)
{
	struct off_tcp_window w[2] = {{0}};

	for (int i = 0; i < 2; i++) {
		if (!is_over(p))
			empty(&p->end[i]);
		p->end[i].clock = off_tcp_clock_now(&p->end[i].ticks);
		off_tcp_relay_rest(&p->end[i].relay);
		/* The socket's own acknowledgements may not have passed the programs. */
		advance(&p->map->dir[!i].ack_max, p->end[i].rcv_nxt);
		advance(&p->map->dir[i].seq_max, p->end[i].rcv_nxt);
	}
	/* The sockets stay in repair mode: if this process dies they are closed silently. */
	for (int i = 0; i < 2; i++)
		(void)off_tcp_window(p->end[i].fd, true, &w[i]);
	if (!is_over(p))
		announce_windows(p, w);
	for (int i = 0; i < 2; i++) {
		p->end[i].clock = off_tcp_clock_now(&p->end[i].ticks);
		p->map->dir[!i].ts_own = p->end[i].clock;
	}
	off_tcp_phase(p, L7MP_TCP_FAST);
	off_tcp_enter(p, OFF_TCP_FAST);
	off_tcp_watch_socket(p, true);
	p->unanswered_ms[0] = p->unanswered_ms[1] = 0;
	p->t->n_spliced += !p->begun_called;
	if (!p->begun_called) {
		p->begun_called = true;
		p->t->ops->begun(p->t->arg, p->owner);
	}
}

/*
 * The socket may have received data since TRANS. If the far end has acknowledged that data, its
 * sender has retransmitted it and the programs have forwarded it: then discard it.
 */
static void check_late(struct off_tcp_pair *p, int i)
{
	struct off_tcp_end *e = &p->end[i];
	uint32_t before = e->rcv_nxt;

	(void)off_tcp_rcv_nxt(e->fd, &e->rcv_nxt);
	p->t->n_late += e->rcv_nxt != before;
	if (e->rcv_nxt != before && !off_tcp_owes(p, i)) {
		int unread = off_tcp_unread(e->fd);

		e->relay.relayed = unread > 0 ? (uint64_t)unread : 0;
		empty(e);
		off_tcp_relay_rest(&e->relay);
	}
	off_tcp_repair(e->fd, true);
}

void off_tcp_late(struct off_tcp_pair *p)
{
	if (p->stage != OFF_TCP_FAST || is_over(p))
		return;
	if (has_failed(p)) {
		off_tcp_pair_kill(p);
		return;
	}
	check_late(p, 0);
	check_late(p, 1);
	/*
	 * The far socket can't send this data: its sequence numbers are too old for the far peer
	 * (RFC 5961, 5.2). A restored socket can.
	 */
	if (off_tcp_owes(p, 0) || off_tcp_owes(p, 1))
		off_tcp_pair_leave(p, L7MP_REASON_PENDING);
}

/* ---- steps ---- */

void off_tcp_splice_step(struct off_tcp_pair *p)
{
	switch ((enum off_tcp_stage)p->stage) {
	case OFF_TCP_NUMBERS:
		numbers_step(p);
		break;
	case OFF_TCP_WATCH:
		watch_step(p);
		break;
	case OFF_TCP_HOLD:
		hold_step(p);
		break;
	case OFF_TCP_RELAY:
		relay_step(p);
		break;
	case OFF_TCP_TRANS:
		trans_step(p);
		break;
	default:
		break;
	}
}
