/* SPDX-License-Identifier: MIT */
/* Spliced connections that are closed, and dead peers. */
#include "tcp.h"

#define SETTLE_MS         3    /* segments copied to the sockets in TRANS arrive before the close */
#define LINGER_MS         2000 /* late segments of a closed connection are still translated */
#define SILENCE_MS        1000 /* no segment after a reset for so long: it was accepted */
#define DOUBT_MS          300  /* interval of probes to both ends after a reset */
#define CHALLENGE_MS      5    /* at most one challenge in this time */
#define ANSWER_MS         1000 /* after a challenge check for its answer every ms */
#define IDLE_MS           60000 /* keep-alive, as in l7mp_tcp_tune */
#define PROBE_MS          10000
#define UNANSWERED_MAX_MS 50000

static uint64_t now(const struct off_tcp_pair *p)
{
	return off_tcp_now(p->t);
}

static void finish(struct off_tcp_pair *p)
{
	struct off_tcp *t = p->t;

	t->ops->unmap(t->arg, p->owner);
	t->ops->removed(t->arg, p->owner);
	off_tcp_pair_free(&p);
}

void off_tcp_over(struct off_tcp_pair *p, bool reset)
{
	struct off_tcp *t = p->t;

	off_tcp_watch_socket(p, false);
	for (int i = 0; i < 2; i++)
		(void)off_tcp_bytes(p, i);
	p->reset = reset;
	t->n_closed += !reset;
	t->n_reset += reset;
	off_tcp_enter(p, OFF_TCP_LINGER);
	/* The client's side must not block the listener's port; the server's stays reserved. */
	off_tcp_close_silently(&p->end[0].fd);
	t->ops->over(t->arg, p->owner, reset);
}

void off_tcp_send_reset(struct off_tcp_pair *p, int i)
{
	const volatile struct l7mp_tcp_direction *in = &p->map->dir[i];
	const struct off_tcp_segment s = {
	        .seq = in->ack_max - in->ack_delta,
	        .ack = p->map->dir[!i].ack_max,
	        .rst = true,
	};

	(void)off_tcp_segment_send(&p->t->raw, &p->end[i].conn, &s);
}

void off_tcp_pair_kill(struct off_tcp_pair *p)
{
	/* The sockets are unchanged: return them to the owner, which closes them. */
	if (p->stage == OFF_TCP_RELAY) {
		off_tcp_give_up(p, (enum l7mp_reason)p->why);
		return;
	}
	for (int i = 0; i < 2; i++) {
		if (p->stage == OFF_TCP_FILL)
			off_tcp_reset(&p->end[i].fd);
		else
			off_tcp_send_reset(p, i);
	}
	off_tcp_over(p, true);
	p->since_ms = 0; /* no need to linger */
}

/* ---- a peer that reuses its port ---- */

/*
 * After a SYN: sends a challenge ACK (RFC 5961, 4.2). A host without this connection answers with a
 * reset that has the acknowledged number, which can't be forged without seeing the packets. A host
 * that still has it answers with an ACK or not at all.
 */
static bool challenge(struct off_tcp_pair *p, int i)
{
	volatile struct l7mp_tcp_direction *in = &p->map->dir[i], *out = &p->map->dir[!i];
	const struct off_tcp_segment s = {
	        .seq = in->ack_max - in->ack_delta,
	        .ack = out->ack_max,
	        .win = out->win,
	        .tsval = off_tcp_tsval(p, i),
	        .tsecr = in->ts_in,
	};

	__atomic_fetch_or(&in->seen, L7MP_TCP_CHALLENGED, __ATOMIC_RELAXED);
	__atomic_fetch_and(&in->seen, ~(uint32_t)L7MP_TCP_SYN, __ATOMIC_RELAXED);
	p->challenged_ms = now(p);
	p->t->n_challenges++;
	return !off_tcp_segment_send(&p->t->raw, &p->end[i].conn, &s);
}

bool off_tcp_check_reuse(struct off_tcp_pair *p)
{
	bool sent = true;

	if ((p->map->dir[0].seen | p->map->dir[1].seen) & L7MP_TCP_REUSED) {
		off_tcp_over(p, true);
		return true;
	}
	for (int i = 0; i < 2; i++)
		if (p->map->dir[i].seen & L7MP_TCP_SYN &&
		    off_tcp_since(p->t, p->challenged_ms) >= CHALLENGE_MS)
			sent = challenge(p, i) && sent;
	/* No CAP_NET_RAW: un-splice, as a restored socket sends challenge ACKs itself. */
	if (!sent)
		off_tcp_pair_leave(p, L7MP_REASON_TCP);
	return false;
}

/* ---- FAST ---- */

/* Time since the direction's last translated segment, at most since FAST was entered. */
static uint64_t silent_ms(const struct off_tcp_pair *p, int i, uint64_t now_ns)
{
	uint64_t last = p->map->dir[i].last_seen, since = off_tcp_since(p->t, p->since_ms), ms;

	if (!last || last > now_ns)
		return last ? 0 : since;
	ms = (now_ns - last) / 1000000;
	return ms < since ? ms : since;
}

/* Returns false when the peer is dead. */
static bool keep_alive(struct off_tcp_pair *p, int i, uint64_t silent)
{
	if (silent < IDLE_MS) {
		p->unanswered_ms[i] = 0;
		return true;
	}
	if (!p->unanswered_ms[i])
		p->unanswered_ms[i] = now(p);
	if (off_tcp_since(p->t, p->unanswered_ms[i]) >= UNANSWERED_MAX_MS)
		return false;
	if (off_tcp_since(p->t, p->probe_ms) >= PROBE_MS) {
		p->probe_ms = now(p);
		off_tcp_probe(p, 0);
		off_tcp_probe(p, 1);
	}
	return true;
}

/*
 * After a reset was forwarded. An end that didn't accept it may be silent, because challenge ACKs
 * are rate limited; so probe both with data, which is always answered, by a reset if the connection
 * is closed.
 */
static void reset_step(struct off_tcp_pair *p)
{
	if (!p->reset_ms) {
		p->reset_ms = now(p);
		p->probe_ms = now(p);
	}
	if (off_tcp_since(p->t, p->reset_ms) >= SILENCE_MS) {
		off_tcp_over(p, true);
	} else if (off_tcp_since(p->t, p->probe_ms) >= DOUBT_MS) {
		p->probe_ms = now(p);
		off_tcp_probe(p, 0);
		off_tcp_probe(p, 1);
	}
}

static void fast_step(struct off_tcp_pair *p)
{
	uint32_t seen[2] = {p->map->dir[0].seen, p->map->dir[1].seen};
	uint64_t now_ns = off_tcp_now_ns(), silent[2];

	for (int i = 0; i < 2; i++) {
		(void)off_tcp_bytes(p, i);
		silent[i] = silent_ms(p, i, now_ns);
	}
	if (seen[0] & seen[1] & L7MP_TCP_FIN_ACKED) {
		if (off_tcp_since(p->t, p->since_ms) >= SETTLE_MS)
			off_tcp_over(p, false);
	} else if (off_tcp_check_reuse(p) || p->stage != OFF_TCP_FAST) {
		return;
	} else if ((seen[0] | seen[1]) & L7MP_TCP_RST) {
		reset_step(p);
		return;
	} else if ((seen[0] | seen[1]) & L7MP_TCP_DOUBT) {
		off_tcp_pair_leave(p, L7MP_REASON_TCP);
	} else if (p->wanted_back) {
		off_tcp_stop_begin(p);
	} else if (!keep_alive(p, 0, silent[0]) || !keep_alive(p, 1, silent[1])) {
		off_tcp_pair_kill(p);
	}
	p->reset_ms = 0;
	if (p->stage == OFF_TCP_FAST)
		off_tcp_set_busy(p, p->challenged_ms &&
		                            off_tcp_since(p->t, p->challenged_ms) < ANSWER_MS);
}

static void linger_step(struct off_tcp_pair *p)
{
	uint32_t seen = p->map->dir[0].seen | p->map->dir[1].seen;

	if ((seen & L7MP_TCP_REUSED) || !p->since_ms ||
	    off_tcp_since(p->t, p->since_ms) >= LINGER_MS)
		finish(p);
}

void off_tcp_quiet_step(struct off_tcp_pair *p)
{
	if (p->stage == OFF_TCP_LINGER)
		linger_step(p);
	else
		fast_step(p);
}
