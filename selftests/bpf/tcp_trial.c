/* SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/pkt_cls.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tcp_trial.h"

#define STAMP_MS 60000 /* that a segment of a device has to reach the program */

static bool seen[L7MP_VERDICT_COUNT];

static struct rig *rig;
static int tap;
static uint32_t tap_ifindex;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void put32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Two connections in the middle of their lives. */
static void base_pair(struct l7mp_tcp_pair *p)
{
	struct l7mp_tcp_direction *a = &p->dir[0], *b = &p->dir[1];

	memset(p, 0, sizeof(*p));
	p->phase = L7MP_TCP_FAST;
	p->id = TRIAL_PAIR_ID;
	a->own_seq = 1000000;
	a->seq_delta = 0x70000000;
	b->own_seq = 0x20000000;
	b->seq_delta = 0x11111111;
	for (int i = 0; i < 2; i++) {
		struct l7mp_tcp_direction *me = &p->dir[i], *other = &p->dir[!i];

		me->ack_delta = -other->seq_delta;
		me->own_ack = other->own_seq + other->seq_delta;
		me->ack_floor = other->own_seq;
		me->edge = me->ack_floor + 300000;
		me->win_in = 7;
		me->win_out = 9;
		me->flags = L7MP_TCP_TS;
		me->ts_base = 0xfffffff0;
		me->armed_ns = now_ns() - 1234567890;
		me->ts = 1ULL << 32 | (i ? 0x12345678 : 0x87654321);
		me->seq_max = me->own_seq;
		me->ack_max = me->ack_floor;
		me->win = 200000;
		me->ts_out = me->ts_base;
	}
}

void trial_base(struct trial *t, int family)
{
	memset(t, 0, sizeof(*t));
	base_pair(&t->pair);
	t->from = rig->in;
	t->in.family = family;
	t->in.ext = -1;
	t->in.protocol = 6;
	t->in.ttl = 64;
	t->in.id = 77;
	t->in.frag = 0x4000;
	t->in.payload = 100;
	t->in.fill = 5;
	t->in.sport = 40000;
	t->in.dport = 443;
	memcpy(t->in.dmac, rig->in_mac, 6);
	memcpy(t->in.smac, "\x02\x11\x22\x33\x44\x55", 6);
	t->to = t->in;
	t->to.sport = 50123;
	t->to.dport = 8080;
	memcpy(t->to.dmac, "\x02\xaa\xbb\xcc\xdd\xee", 6);
	memcpy(t->to.smac, rig->out_mac, 6);
	for (int i = 0; i < (family == 4 ? 4 : 16); i++) {
		t->in.saddr[i] = (uint8_t)(0x20 + i * 13);
		t->in.daddr[i] = (uint8_t)(0x2a + i * 7);
		t->to.saddr[i] = (uint8_t)(0xfd - i * 3);
		t->to.daddr[i] = (uint8_t)(0x3c ^ i * 37);
	}
	t->tcp.flags = TCP_ACK | TCP_PSH;
	t->tcp.win = 500;
}

void trial_options(struct trial *t, const char *bytes, size_t n)
{
	memcpy(t->tcp.options, bytes, n);
	t->tcp.options_len = n;
}

void trial_time_stamps(struct trial *t)
{
	trial_options(t, "\1\1\10\12\0\0\0\0\0\0\0\0", 12);
	put32(t->tcp.options + 4, 0x80001234);
	put32(t->tcp.options + 8, 0x00fedcba);
}

/* Numbers that fit: the next data, and all acknowledged. */
void trial_fit(struct trial *t)
{
	struct l7mp_tcp_direction *me = &t->pair.dir[t->dir];

	t->tcp.seq = me->seq_max;
	t->tcp.ack = me->ack_max - me->ack_delta;
}

void trial_action(struct trial *t)
{
	struct l7mp_flow_action *a = &t->action.action;

	rig_action(rig, &t->key_of, &t->to, &t->action);
	a->verb = L7MP_VERB_SPLICE;
	a->flags = L7MP_FLOW_TC_ONLY;
	a->ifindex = tap_ifindex;
	a->tos = 0x28;
	a->pair = TRIAL_PAIR;
	a->pair_id = TRIAL_PAIR_ID;
	a->dir = (uint8_t)t->dir;
}

void trial_question(const struct trial *t, struct tcp_question *q)
{
	memset(q, 0, sizeof(*q));
	q->pair = t->pair;
	q->dir = t->dir;
	q->in = &t->in;
	q->to = &t->to;
	q->mtu = t->action.action.mtu;
	q->gso_size = t->gso_size;
	q->flow_flags = t->action.action.flags;
	q->tos = t->action.action.tos;
}

static bool same(const char *what, const uint8_t *got, size_t n, const uint8_t *want, size_t len)
{
	if (n == len && !memcmp(got, want, len))
		return true;
	tap_note("%s:", what);
	tap_dump("expected", want, len);
	tap_dump("got", got, n);
	return false;
}

/* The frame that has left by the TAP device, or nothing. */
static size_t left_frame(uint8_t out[static PACKET_MAX])
{
	ssize_t n = read(tap, out, PACKET_MAX);

	return n < 0 ? 0 : (size_t)n;
}

/* What the program took for the delta of the time stamps, or in TRANS for the clock. */
static bool learn(const struct trial *t, const uint8_t *frame, struct tcp_question *q)
{
	const struct l7mp_tcp_direction *me = &t->pair.dir[t->dir];
	int at = tcp_model_ts(&t->tcp);
	struct tcp_answer a;
	bool trans = t->pair.phase == L7MP_TCP_TRANS;
	uint32_t low, high, out, more = trans ? 0 : 500;

	tcp_model(q, &a);
	if (!a.sent || at < 0 || (me->ts >> 32 && !trans) || !(me->flags & L7MP_TCP_TS))
		return true;
	out = get32(frame + packet_payload_at(&a.out) - t->tcp.options_len + at + 2);
	q->learned = out - get32(t->tcp.options + at + 2);
	low = me->ts_base + (uint32_t)((t->started_ns - me->armed_ns) / 1000000) + more;
	high = me->ts_base + (uint32_t)((now_ns() - me->armed_ns) / 1000000) + more;
	if (out - low <= high - low)
		return true;
	tap_note("time stamp %u is not between %u and %u", out, low, high);
	return false;
}

bool trial_stamped(const struct trial *t, struct tcp_question *q)
{
	const struct l7mp_tcp_direction *me = &t->pair.dir[t->dir];
	int at = tcp_model_ts(&t->tcp);
	struct l7mp_tcp_pair got = {0};
	uint32_t index = TRIAL_PAIR, low, high, out;

	if (t->pair.phase != L7MP_TCP_TRANS || at < 0)
		return true;
	for (int i = 0; i < STAMP_MS && !got.dir[t->dir].last_seen; i++) {
		if (i)
			usleep(1000);
		if (bpf_map_lookup_elem(rig->tcp_pairs, &index, &got))
			tap_bail("tcp_pairs: %s", strerror(errno));
	}
	out = got.dir[t->dir].ts_out;
	q->learned = out - get32(t->tcp.options + at + 2);
	low = me->ts_base + (uint32_t)((t->started_ns - me->armed_ns) / 1000000);
	high = me->ts_base + (uint32_t)((now_ns() - me->armed_ns) / 1000000);
	if (out - low <= high - low)
		return true;
	tap_note("time stamp %u is not between %u and %u", out, low, high);
	return false;
}

static bool check_pair(const struct trial *t, const struct tcp_answer *a, bool sent)
{
	struct l7mp_tcp_pair got, want = a->pair;
	uint32_t index = TRIAL_PAIR;
	bool ok = true;

	if (bpf_map_lookup_elem(rig->tcp_pairs, &index, &got))
		tap_bail("tcp_pairs: %s", strerror(errno));
	for (int i = 0; i < 2; i++) {
		if (!got.dir[i].last_seen != !(sent && i == t->dir)) {
			tap_note("direction %d: last seen %llu", i,
			         (unsigned long long)got.dir[i].last_seen);
			ok = false;
		}
		got.dir[i].last_seen = want.dir[i].last_seen = 0;
	}
	for (size_t i = 0; i < sizeof(got) / 4; i++)
		if (((uint32_t *)&got)[i] != ((uint32_t *)&want)[i]) {
			tap_note("pair: at %zu (direction %d, %zu): %08x, not %08x", i * 4,
			         i * 4 < 192 ? 0 : 1, (i * 4 - 64) % 128, ((uint32_t *)&got)[i],
			         ((uint32_t *)&want)[i]);
			ok = false;
		}
	return ok;
}

static bool check_counter(const struct trial *t, const struct l7mp_flow_key *key, bool sent)
{
	struct l7mp_flow_counter c;
	uint64_t packets = sent, bytes = sent ? t->in.payload : 0;

	if (t->no_flow)
		return true;
	if (sent && t->gso_size)
		packets = (t->in.payload + t->gso_size - 1) / t->gso_size;
	c = rig_counter(rig, key);
	if (c.packets == packets && c.bytes == bytes)
		return true;
	tap_note("counter: %llu packets, %llu bytes", (unsigned long long)c.packets,
	         (unsigned long long)c.bytes);
	return false;
}

/* What the outer tag leaves: the kernel keeps it beside the frame when it is put back. */
static size_t build_copy(const struct tcp_answer *a, uint8_t out[static PACKET_MAX])
{
	struct packet p = a->copy;

	if (p.n_vlans) {
		p.n_vlans--;
		p.vlan_proto[0] = p.vlan_proto[1];
		p.vlan_tci[0] = p.vlan_tci[1];
	}
	return packet_build(&p, out);
}

static bool check_frames(const struct rig_run *run, const struct tcp_answer *a, const uint8_t *left,
                         size_t n)
{
	uint8_t want[PACKET_MAX];
	size_t len;
	bool ok = true;

	if (a->sent && a->up) {
		len = packet_build(&a->out, want);
		ok = same("translated", left, n, want, len);
		len = build_copy(a, want);
		return same("original", run->out, run->out_len, want, len) && ok;
	}
	if (n) {
		tap_note("a frame left");
		ok = false;
	}
	if (a->sent) {
		len = packet_build(&a->out, want);
		return same("translated", run->out, run->out_len, want, len) && ok;
	}
	if (a->verdict >= L7MP_VERDICT_TCP_COPIED) /* dropped */
		return ok;
	return same("unchanged", run->out, run->out_len, run->in, run->in_len) && ok;
}

static int wanted_action(const struct tcp_answer *a)
{
	if (a->verdict == L7MP_VERDICT_FORWARDED)
		return TC_ACT_REDIRECT;
	return a->verdict > L7MP_VERDICT_TCP_COPIED ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

bool trial_noted(const struct trial *t, const struct tcp_answer *a, const struct l7mp_flow_key *key)
{
	bool ok = check_counter(t, key, a->sent);

	return check_pair(t, a, a->sent) && ok;
}

void trial_put(struct trial *t, struct l7mp_flow_key *key)
{
	uint32_t index = TRIAL_PAIR;

	rig_key(&t->key_of, key);
	if (!t->no_flow)
		rig_put(rig, key, &t->action);
	if (bpf_map_update_elem(rig->tcp_pairs, &index, &t->pair, BPF_ANY))
		tap_bail("tcp_pairs: %s", strerror(errno));
	t->started_ns = now_ns();
}

static bool judge(const struct trial *t, const struct rig_run *run, int verdict,
                  const struct l7mp_flow_key *key)
{
	struct tcp_question q;
	struct tcp_answer a;
	uint8_t left[PACKET_MAX];
	size_t n = left_frame(left);
	bool ok;

	trial_question(t, &q);
	ok = verdict != TRIAL_MODEL || learn(t, n ? left : run->out, &q);
	if (verdict == TRIAL_MODEL)
		tcp_model(&q, &a);
	else
		a = (struct tcp_answer){.pair = t->pair, .verdict = (enum l7mp_verdict)verdict};
	seen[a.verdict] = true;
	if (run->action != wanted_action(&a)) {
		tap_note("action %d", run->action);
		ok = false;
	}
	ok &= rig_check_verdict(rig, (int)a.verdict);
	ok &= trial_noted(t, &a, key);
	ok &= check_frames(run, &a, left, n);
	return ok;
}

/* t->action has been made. */
bool trial_run(struct trial *t, int verdict)
{
	struct __sk_buff skb = {
	        .ifindex = t->from, .ingress_ifindex = t->from, .gso_size = (uint32_t)t->gso_size};
	struct rig_run run = {.ctx = &skb, .ctx_len = sizeof(skb)};
	struct l7mp_flow_key key;
	uint8_t frame[PACKET_MAX], drain[PACKET_MAX];
	bool ok;
	int rc;

	t->in.tcp = &t->tcp;
	run.in = frame;
	run.in_len = packet_build(&t->in, frame) - t->cut;
	if (t->doff)
		frame[packet_payload_at(&t->in) - 20 - t->tcp.options_len + 12] =
		        (uint8_t)(t->doff << 4);
	trial_put(t, &key);
	while (left_frame(drain))
		;
	rig_verdicts_start(rig);
	t->started_ns = now_ns();
	rc = rig_send(rig, RIG_TC, &run);
	if (rc)
		tap_note("test run: %s", strerror(-rc));
	ok = !rc && judge(t, &run, verdict, &key);
	rig_del(rig, &key);
	return ok;
}

void trial_init_rig(struct rig *r)
{
	rig = r;
	rig_init(r, 64);
}

void trial_init(struct rig *r)
{
	trial_init_rig(r);
	tap_ifindex = rig_tap("TCP segments", 3000, &tap);
}

bool trial_seen(enum l7mp_verdict v)
{
	return seen[v];
}

const char *trial_verdict(int v)
{
	return rig_verdict_name(v);
}
