/* SPDX-License-Identifier: MIT */
#include "tcp_model.h"

#include <string.h>

/* How far b is ahead of a, in sequence numbers. */
static int64_t ahead(uint32_t a, uint32_t b)
{
	int64_t d = (int64_t)b - (int64_t)a;

	while (d >= 0x80000000LL)
		d -= 0x100000000LL;
	while (d < -0x80000000LL)
		d += 0x100000000LL;
	return d;
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (24 - 8 * i));
}

struct found {
	int ts, sack; /* offset of the option, -1: none */
	int sack_len;
	uint8_t strange; /* kind of the first option that can't be translated; 0: none */
};

static struct found look(const struct tcp_header *t)
{
	struct found f = {-1, -1, 0, 0};
	size_t i = 0;

	while (i < t->options_len && t->options[i] != 0) {
		size_t left = t->options_len - i, len;

		if (t->options[i] == 1) {
			i++;
			continue;
		}
		len = left < 2 ? 0 : t->options[i + 1];
		if (len < 2 || len > left) {
			f.strange = f.strange ? f.strange : t->options[i];
			break;
		}
		if (t->options[i] == 8 && len == 10 && f.ts < 0)
			f.ts = (int)i;
		else if (t->options[i] == 5 && f.sack < 0 &&
		         (len == 10 || len == 18 || len == 26 || len == 34))
			f.sack = (int)i, f.sack_len = (int)len;
		else if (!f.strange)
			f.strange = t->options[i];
		i += len;
	}
	return f;
}

int tcp_model_ts(const struct tcp_header *t)
{
	return look(t).ts;
}

static enum l7mp_tcp_doubt doubt_of(const struct tcp_question *q, const struct found *f)
{
	const struct packet *p = q->in;
	const struct tcp_header *t = p->tcp;
	size_t wire = packet_ip_len(p);

	if (f->strange == 19 || f->strange == 29) /* RFC 2385, RFC 5925 */
		return L7MP_TCP_DOUBT_SIGNED;
	if (f->strange)
		return L7MP_TCP_DOUBT_OPTION;
	if (q->gso_size && p->trailer)
		return L7MP_TCP_DOUBT_KERNEL;
	if (p->ttl <= 1)
		return L7MP_TCP_DOUBT_TTL;
	if (p->family == 4 && p->frag & 0x2000)
		return L7MP_TCP_DOUBT_FRAGMENT;
	if (p->ext == 44)
		return L7MP_TCP_DOUBT_FRAGMENT;
	if (p->options)
		return L7MP_TCP_DOUBT_IP_OPTIONS;
	if (t->flags & TCP_URG)
		return L7MP_TCP_DOUBT_URGENT;
	if (!(t->flags & (TCP_ACK | TCP_RST)) || (t->flags & TCP_RST && t->flags & TCP_FIN))
		return L7MP_TCP_DOUBT_FLAGS;
	if (q->gso_size)
		wire = wire - p->payload + q->gso_size;
	if (wire > q->mtu)
		return L7MP_TCP_DOUBT_MTU;
	if (q->flow_flags & L7MP_FLOW_NEIGH || q->to->n_vlans)
		return L7MP_TCP_DOUBT_EGRESS;
	return L7MP_TCP_DOUBT_NONE;
}

static void doubt(struct tcp_answer *a, struct l7mp_tcp_direction *me, enum l7mp_tcp_doubt why)
{
	me->doubt = why;
	me->doubts++;
	me->seen |= L7MP_TCP_DOUBT;
	a->verdict = why == L7MP_TCP_DOUBT_TTL ? L7MP_VERDICT_PASS_TTL : L7MP_VERDICT_TCP_DOUBT;
}

static void time_stamps(const struct tcp_question *q, struct tcp_answer *a, int at, bool tracked)
{
	struct l7mp_tcp_direction *me = &a->pair.dir[q->dir];
	const struct l7mp_tcp_direction *other = &q->pair.dir[!q->dir];
	uint8_t *out = a->out_tcp.options + at + 2;
	bool rst = q->in->tcp->flags & TCP_RST;
	uint32_t in = get32(out), delta = (uint32_t)me->ts;

	if (!(me->flags & L7MP_TCP_TS)) {
		memset(out - 2, 1, 10);
		return;
	}
	if (q->pair.phase == L7MP_TCP_TRANS) {
		delta = q->learned; /* by the far socket's clock, and forgotten */
	} else if (!(me->ts >> 32)) {
		delta = q->learned;
		a->learns = tracked && !rst;
		if (a->learns)
			me->ts = 1ULL << 32 | delta;
	}
	if (tracked && !rst) {
		me->ts_in = in;
		if (ahead(me->ts_out, in + delta) > 0)
			me->ts_out = in + delta;
	}
	put32(out, in + delta);
	if (!(other->ts >> 32) || (other->ts_own && ahead(other->ts_own, get32(out + 4)) <= 0))
		put32(out + 4, 0);
	else
		put32(out + 4, get32(out + 4) - (uint32_t)other->ts);
}

static void sack(struct tcp_answer *a, const struct l7mp_tcp_direction *me, const struct found *f)
{
	uint8_t *at = a->out_tcp.options + f->sack;

	if (me->flags & L7MP_TCP_NOSACK) {
		memset(at, 1, (size_t)f->sack_len);
		return;
	}
	for (int i = 2; i < f->sack_len; i += 4)
		put32(at + i, get32(at + i) + me->ack_delta);
}

static uint64_t at_most(uint64_t win, int64_t room)
{
	if (room < 0)
		return 0;
	return win > (uint64_t)room ? (uint64_t)room : win;
}

/* The ACK field, the window, and what they tell. */
static void acknowledge(const struct tcp_question *q, struct tcp_answer *a, bool tracked)
{
	struct l7mp_tcp_direction *me = &a->pair.dir[q->dir], *other = &a->pair.dir[!q->dir];
	const struct tcp_header *t = q->in->tcp;
	uint64_t win = (uint64_t)t->win << me->win_in, unit = 1ULL << me->win_out;
	uint32_t ack = t->ack + me->ack_delta;
	bool trans = q->pair.phase == L7MP_TCP_TRANS, stop = q->pair.phase == L7MP_TCP_STOP;

	if (t->flags & TCP_ACK) {
		if (trans && ahead(ack, me->ack_floor) > 0) {
			int64_t more = ahead(ack, me->ack_floor);

			win = win > (uint64_t)more ? win - (uint64_t)more : 0;
			ack = me->ack_floor;
		}
		if (tracked && !(t->flags & TCP_RST) &&
		    ahead(other->seq_max, ack) < (int64_t)L7MP_TCP_PLAUSIBLE) {
			if (ahead(me->ack_max, ack) >= 0) {
				me->ack_max = ack;
				me->win = (uint32_t)win;
			}
			if (other->seen & L7MP_TCP_FIN && ahead(other->fin_end, ack) >= 0)
				other->seen |= L7MP_TCP_FIN_ACKED;
		}
		if (trans)
			win = at_most(win, ahead(ack, me->edge));
		if (stop)
			win = at_most(win, ahead(ack, other->seq_max));
		a->out_tcp.ack = ack;
	}
	if (stop)
		win += unit - 1;
	win /= unit;
	a->out_tcp.win = (uint16_t)(win > 65535 ? 65535 : win);
}

/* Data and FIN: sequence number and flags. */
static void data(const struct tcp_question *q, struct tcp_answer *a, bool tracked)
{
	struct l7mp_tcp_direction *me = &a->pair.dir[q->dir], *other = &a->pair.dir[!q->dir];
	const struct tcp_header *t = q->in->tcp;
	uint32_t fin = t->flags & TCP_FIN ? 1 : 0, seq = t->seq;
	uint32_t end = seq + (uint32_t)q->in->payload + fin;
	bool passes = true;

	if (q->pair.phase == L7MP_TCP_STOP && !(t->flags & TCP_RST)) {
		passes = end != seq && ahead(seq, me->seq_max) > 0;
		if (!passes) {
			a->out_tcp.flags &= (uint8_t) ~(TCP_FIN | TCP_PSH);
			if (q->in->payload || ahead(other->ack_max, seq) > 0)
				seq = other->ack_max - (uint32_t)q->in->payload;
		}
	}
	if (passes && tracked && !(t->flags & TCP_RST)) {
		if (ahead(me->seq_max, end) > 0)
			me->seq_max = end;
		if (fin && !(me->seen & L7MP_TCP_FIN)) {
			me->fin_end = end;
			me->seen |= L7MP_TCP_FIN;
		}
	}
	a->out_tcp.seq = seq + me->seq_delta;
}

static void copy_up(const struct tcp_question *q, struct tcp_answer *a)
{
	const struct l7mp_tcp_direction *me = &q->pair.dir[q->dir];

	a->copy = *q->in;
	a->copy.trailer = 0;
	a->copy_tcp = *q->in->tcp;
	a->copy.tcp = &a->copy_tcp;
	a->copy_tcp.seq = me->own_seq - (uint32_t)q->in->payload;
	if (ahead(me->own_ack, q->in->tcp->ack) > 0)
		a->copy_tcp.ack = me->own_ack;
	a->copy_tcp.flags &= (uint8_t) ~(TCP_FIN | TCP_PSH);
	a->up = true;
	a->verdict = L7MP_VERDICT_TCP_COPIED;
}

static void headers(const struct tcp_question *q, struct tcp_answer *a)
{
	struct packet *o = &a->out;

	*o = *q->in;
	a->out_tcp = *q->in->tcp;
	o->tcp = &a->out_tcp;
	o->trailer = 0;
	o->n_vlans = 0;
	o->flow_label = 0;
	if (!(q->flow_flags & L7MP_FLOW_KEEP_TOS))
		o->tos = (uint8_t)((q->tos & 0xfc) | (o->tos & 3));
	o->ttl--;
	o->sport = q->to->sport;
	o->dport = q->to->dport;
	memcpy(o->saddr, q->to->saddr, 16);
	memcpy(o->daddr, q->to->daddr, 16);
	memcpy(o->dmac, q->to->dmac, 6);
	memcpy(o->smac, q->to->smac, 6);
}

/* 0, or why it does not pass. */
static enum l7mp_verdict reset(const struct tcp_question *q, struct tcp_answer *a)
{
	const struct l7mp_tcp_direction *me = &q->pair.dir[q->dir], *other = &q->pair.dir[!q->dir];
	int64_t off = ahead(other->ack_max, q->in->tcp->seq);

	if (off < 0 || off > (int64_t)other->win)
		return L7MP_VERDICT_TCP_WINDOW;
	if (q->pair.phase == L7MP_TCP_STOP && ahead(me->seq_max, q->in->tcp->seq) > 0)
		return L7MP_VERDICT_TCP_STOPPED;
	a->pair.dir[q->dir].seen |= L7MP_TCP_RST;
	if (me->seen & L7MP_TCP_CHALLENGED && !off)
		a->pair.dir[q->dir].seen |= L7MP_TCP_REUSED;
	return 0;
}

static bool watched(const struct tcp_question *q, struct tcp_answer *a, const struct found *f)
{
	struct l7mp_tcp_direction *me = &a->pair.dir[q->dir];
	const struct tcp_header *t = q->in->tcp;
	enum l7mp_tcp_doubt why = doubt_of(q, f);
	int64_t seq = ahead(me->own_seq, t->seq), ack = ahead(me->own_ack, t->ack);
	int64_t span = L7MP_TCP_PLAUSIBLE;

	if (q->pair.phase != L7MP_TCP_WATCH)
		return false;
	if (t->flags & TCP_SYN)
		why = L7MP_TCP_DOUBT_NONE;
	else if (why)
		doubt(a, me, why);
	else if (t->flags & TCP_ACK && seq >= -span && seq < span && ack >= -span && ack < span)
		me->seen |= L7MP_TCP_SEEN;
	a->verdict = L7MP_VERDICT_PASS_TCP_WATCH;
	return true;
}

/* A SYN, whatever else it is. */
static void syn(const struct tcp_question *q, struct tcp_answer *a)
{
	struct l7mp_tcp_direction *me = &a->pair.dir[q->dir], *other = &a->pair.dir[!q->dir];
	bool over = (me->seen & L7MP_TCP_FIN_ACKED && other->seen & L7MP_TCP_FIN_ACKED) ||
	            (me->seen | other->seen) & L7MP_TCP_RST;

	a->verdict = L7MP_VERDICT_TCP_WINDOW;
	if (q->in->tcp->flags & TCP_ACK)
		return;
	if (over)
		a->verdict = L7MP_VERDICT_PASS_TCP_OVER;
	me->seen |= over ? L7MP_TCP_REUSED : L7MP_TCP_SYN;
}

/* What is no segment of a living connection. */
static bool refused(const struct tcp_question *q, struct tcp_answer *a, const struct found *f)
{
	struct l7mp_tcp_direction *me = &a->pair.dir[q->dir];
	enum l7mp_tcp_doubt why = doubt_of(q, f);

	a->verdict = L7MP_VERDICT_PASS_TCP_OVER;
	if (me->seen & L7MP_TCP_REUSED)
		return true;
	if (q->in->tcp->flags & TCP_SYN)
		syn(q, a);
	else if (why)
		doubt(a, me, why);
	return why || q->in->tcp->flags & TCP_SYN;
}

void tcp_model(const struct tcp_question *q, struct tcp_answer *a)
{
	const struct tcp_header *t = q->in->tcp;
	const struct l7mp_tcp_direction *other = &q->pair.dir[!q->dir];
	struct found f = look(t);
	int64_t off = ahead(other->ack_max, t->seq), span = L7MP_TCP_PLAUSIBLE;
	bool tracked = off >= -span && off < span + (int64_t)other->win;

	memset(a, 0, sizeof(*a));
	a->pair = q->pair;
	if (watched(q, a, &f) || refused(q, a, &f))
		return;
	if (t->flags & TCP_RST) {
		a->verdict = reset(q, a);
		if (a->verdict)
			return;
	} else if (tracked) {
		a->pair.dir[0].seen &= ~(uint32_t)L7MP_TCP_RST;
		a->pair.dir[1].seen &= ~(uint32_t)L7MP_TCP_RST;
	}
	headers(q, a);
	if (f.ts >= 0)
		time_stamps(q, a, f.ts, tracked);
	if (f.sack >= 0)
		sack(a, &q->pair.dir[q->dir], &f);
	acknowledge(q, a, tracked);
	data(q, a, tracked);
	a->sent = true;
	a->verdict = L7MP_VERDICT_FORWARDED;
	if (q->pair.phase == L7MP_TCP_TRANS && !(t->flags & TCP_RST))
		copy_up(q, a);
}
