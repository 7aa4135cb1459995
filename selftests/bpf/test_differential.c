/* SPDX-License-Identifier: MIT */
/*
 * l7mp-test: timeout=120 timeout_full=600
 *
 * The same random packets through the programs and through a model of the slow
 * path. For each packet: either it was passed up and is byte for byte what it was, or it was
 * redirected, and then the nexthop's socket gets what the relay would have sent: the same
 * payload from the flow's addresses; nothing, when the kernel here would have dropped
 * it. A plain packet of a flow must be redirected. Counters are compared after every
 * round, so that nothing is lost or counted twice.
 *
 * L7MP_SEED repeats a run; a failure names the seed and dumps the packet.
 */
#include <errno.h>
#include <linux/pkt_cls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model.h"
#include "rig.h"

#define FLOWS 64
#define ROUND 5000
#define MTU   1500

struct flow {
	struct packet from, to;
	struct l7mp_flow_key key;
	union {
		struct l7mp_flow_action action;
		struct l7mp_flow6_action action6;
	};
	uint64_t packets, bytes; /* what the counter must say */
};

struct run {
	struct rig rig;
	enum rig_hook hook;
	struct flow flows[FLOWS];
	uint64_t random;
	uint64_t sent, redirected, discarded, refused_by_kernel;
	uint64_t fates[4], must;
	unsigned failures;
};

static uint32_t rnd(struct run *r, uint32_t below)
{
	r->random ^= r->random << 13;
	r->random ^= r->random >> 7;
	r->random ^= r->random << 17;
	return (uint32_t)((r->random >> 16) % below);
}

static bool chance(struct run *r, unsigned percent)
{
	return rnd(r, 100) < percent;
}

static void rnd_bytes(struct run *r, uint8_t *at, size_t n)
{
	for (size_t i = 0; i < n; i++)
		at[i] = (uint8_t)rnd(r, 256);
}

static void rnd_tags(struct run *r, struct packet *p, int n)
{
	p->n_vlans = n;
	for (int i = 0; i < 3; i++) {
		p->vlan_proto[i] = chance(r, 50) ? 0x8100 : 0x88a8;
		p->vlan_tci[i] = (uint16_t)rnd(r, 65536);
	}
}

/* tc: with tags to send the program passes up, so half of the flows have none. */
static void make_flow(struct run *r, struct flow *f, int i)
{
	memset(f, 0, sizeof(*f));
	f->from.family = i % 2 ? 6 : 4;
	f->from.ext = -1;
	f->from.protocol = 17;
	rnd_bytes(r, f->from.saddr, 16);
	rnd_bytes(r, f->from.daddr, 16);
	f->from.sport = (uint16_t)(1 + rnd(r, 65535));
	f->from.dport = (uint16_t)(1 + rnd(r, 65535));
	memcpy(f->from.dmac, r->rig.in_mac, 6);
	rnd_tags(r, &f->from, i % 3 ? 0 : (int)rnd(r, 3));
	rnd_bytes(r, f->from.smac, 6);
	f->to = f->from;
	rnd_bytes(r, f->to.saddr, 16);
	rnd_bytes(r, f->to.daddr, 16);
	rnd_bytes(r, f->to.dmac, 6);
	rnd_bytes(r, f->to.smac, 6);
	f->to.dmac[0] &= 0xfe;
	f->to.sport = (uint16_t)rnd(r, 65536);
	f->to.dport = (uint16_t)rnd(r, 65536);
	rnd_tags(r, &f->to, i % 4 < 2 ? 0 : (int)rnd(r, 3));
	if (i % 16 == 5) /* only ports change */
		memcpy(f->to.saddr, f->from.saddr, 16), memcpy(f->to.daddr, f->from.daddr, 16);
	rig_key(&f->from, &f->key);
	rig_action(&r->rig, &f->from, &f->to, &f->action6);
	f->action.mtu = MTU;
	if (i % 16 == 14)
		f->action.verb = L7MP_VERB_COUNT;
	f->action.tos = (uint8_t)(rnd(r, 64) << 2);
	if (i % 4 == 3)
		f->action.flags |= L7MP_FLOW_KEEP_TOS;
	rig_put(&r->rig, &f->key, &f->action6);
}

static size_t rnd_size(struct run *r)
{
	switch (rnd(r, 4)) {
	case 0:
		return rnd(r, 40);
	case 1:
		return rnd(r, 300);
	case 2:
		return 1440 + rnd(r, 48);
	default:
		return rnd(r, 1600);
	}
}

static void rnd_oddities(struct run *r, struct packet *p)
{
	if (p->family == 4 && chance(r, 4))
		p->options = (int)(4 * (1 + rnd(r, 10)));
	if (p->family == 4 && chance(r, 6))
		p->frag = (uint16_t)rnd(r, 65536);
	if (p->family == 6 && chance(r, 6))
		p->ext = (const int[]){0, 43, 44, 60}[rnd(r, 4)];
	if (chance(r, 4))
		p->ttl = (uint8_t)rnd(r, 4);
	if (chance(r, 3))
		p->protocol = (uint8_t)rnd(r, 256);
	if (chance(r, 3))
		p->udp_len_add = (int)rnd(r, 5) - 2;
	if (chance(r, 3))
		p->ip_len_add = (int)rnd(r, 5) - 2;
	if (chance(r, 5))
		p->sport++;
	if (chance(r, 5))
		p->ip_err = (uint16_t)(1 + rnd(r, 65534));
}

/* Damages a frame on the wire. */
static size_t mutate(struct run *r, uint8_t *frame, size_t len)
{
	size_t span = len < 90 ? len : 90;

	if (chance(r, 20))
		return 14 + rnd(r, (uint32_t)(len - 13)); /* cut */
	for (uint32_t n = 1 + rnd(r, 3); n; n--)
		frame[rnd(r, (uint32_t)span)] ^= (uint8_t)(1 << rnd(r, 8));
	return len;
}

static size_t make_packet(struct run *r, const struct flow *f, uint8_t out[static PACKET_MAX])
{
	struct packet p = f->from;
	uint8_t becomes_zero[PACKET_MAX];
	size_t len;

	if (chance(r, 10))
		rnd_tags(r, &p, (int)rnd(r, 4));
	for (int i = 0; i < p.n_vlans; i++) /* another priority is no other VLAN */
		p.vlan_tci[i] ^= (uint16_t)(rnd(r, 16) << 12);
	p.ttl = (uint8_t)(2 + rnd(r, 254));
	p.tos = (uint8_t)rnd(r, 256);
	p.id = (uint16_t)rnd(r, 65536);
	p.frag = chance(r, 50) ? 0x4000 : 0;
	p.flow_label = rnd(r, 1 << 20);
	p.fill = rnd(r, 1 << 30);
	p.payload = rnd_size(r);
	p.trailer = chance(r, 20) ? rnd(r, 20) : 0;
	switch (rnd(r, 10)) {
	case 0:
		p.no_csum = true;
		break;
	case 1:
		p.zero_sum = true;
		break;
	case 2:
	case 3:
		p.csum_err = (uint16_t)(1 + rnd(r, 65534));
		break;
	case 4: { /* zero for the new addresses */
		struct packet to = f->to;

		to.payload = p.payload;
		to.zero_sum = true;
		packet_build(&to, becomes_zero);
		p.bytes = becomes_zero + packet_payload_at(&to);
		break;
	}
	default:
		break;
	}
	if (chance(r, 25))
		rnd_oddities(r, &p);
	len = packet_build(&p, out);
	return chance(r, 20) ? mutate(r, out, len) : len;
}

static struct flow *find(struct run *r, const struct model *m)
{
	for (int i = 0; i < FLOWS; i++) {
		const struct packet *p = &r->flows[i].from;

		if (p->family == m->family && p->sport == m->sport && p->dport == m->dport &&
		    !memcmp(p->saddr, m->saddr, m->family == 4 ? 4 : 16) &&
		    !memcmp(p->daddr, m->daddr, m->family == 4 ? 4 : 16))
			return &r->flows[i];
	}
	return NULL;
}

/* Has the packet the tags that the flow expects? */
static bool flow_tags(const struct flow *f, const struct model *in)
{
	if (in->n_vlans != f->from.n_vlans)
		return false;
	for (int i = 0; i < in->n_vlans; i++)
		if (in->vlan_proto[i] != f->from.vlan_proto[i] ||
		    (in->vlan_tci[i] ^ f->from.vlan_tci[i]) & 0x0fff)
			return false;
	return true;
}

/* Every byte of the IP packet but addresses, ports, TTL, checksums and what fields_right checks. */
static bool rest_equal(const uint8_t *in, const uint8_t *out, size_t len, int family)
{
	size_t ttl = family == 4 ? 8 : 7, sum = family == 4 ? 10 : 7, from = family == 4 ? 12 : 8;
	size_t to = family == 4 ? 24 : 44, check = family == 4 ? 26 : 46;

	for (size_t i = family == 4 ? 2 : 4; i < len; i++) {
		if (i == ttl || (family == 4 && (i == sum || i == sum + 1 || i == 6 || i == 7)) ||
		    (i >= from && i < to) || i == check || i == check + 1)
			continue;
		if (in[i] != out[i])
			return false;
	}
	return (uint8_t)(in[ttl] - 1) == out[ttl];
}

/* TOS as the flow says; DF is set, which is all of the fragment word; no flow label. */
static bool fields_right(const struct flow *f, const uint8_t *in, const uint8_t *out)
{
	uint8_t tos = f->action.tos;

	if (f->from.family == 4) {
		tos = f->action.flags & L7MP_FLOW_KEEP_TOS ? in[1] : tos;
		return out[0] == in[0] && out[1] == tos && out[6] == 0x40 && out[7] == 0;
	}
	if (f->action.flags & L7MP_FLOW_KEEP_TOS)
		tos = (uint8_t)(in[0] << 4 | in[1] >> 4);
	return out[0] == (0x60 | tos >> 4) && out[1] == (uint8_t)(tos << 4) && !out[2] && !out[3];
}

static const char *check_redirect(const struct flow *f, const struct rig_run *run,
                                  const struct model *in)
{
	struct model out;
	size_t link = 14 + 4 * (size_t)f->to.n_vlans;
	uint8_t header[PACKET_MAX];
	struct packet to = f->to;

	if (!f)
		return "redirected without a flow";
	if (in->fate != MODEL_DELIVER && in->fate != MODEL_DROP)
		return "redirected, though it was nothing that a relay would have seen whole";
	if (!in->plain || in->ttl < 2 || in->ip_len > MTU || !flow_tags(f, in))
		return "redirected, though there was a doubt";
	if (run->out_len != in->ip_len + link)
		return "another length";
	packet_build(&to, header); /* for its link header only */
	if (memcmp(header, run->out, link))
		return "wrong link header";
	if (!rest_equal(run->in + in->l3, run->out + link, in->ip_len, in->family))
		return "bytes changed that must not";
	if (!fields_right(f, run->in + in->l3, run->out + link))
		return "wrong TOS, DF or flow label";
	model_receive(run->out, run->out_len, &out);
	if (out.fate != in->fate)
		return in->fate == MODEL_DROP ? "a wrong checksum became right"
		                              : "a right checksum became wrong";
	if (out.summed != in->summed)
		return "the checksum came or went";
	if (out.payload != in->payload || out.sport != to.sport || out.dport != to.dport ||
	    memcmp(out.saddr, to.saddr, in->family == 4 ? 4 : 16) ||
	    memcmp(out.daddr, to.daddr, in->family == 4 ? 4 : 16))
		return "other addresses, ports or size than the flow's";
	return NULL;
}

/* Is there nothing about the packet that allows to pass it up? */
static bool must_be_fast(const struct run *r, const struct flow *f, const struct model *in,
                         const uint8_t *frame)
{
	if (!f || in->fate != MODEL_DELIVER || !in->plain || in->ttl < 2 || !flow_tags(f, in))
		return false;
	if (memcmp(frame, r->rig.in_mac, 6))
		return false;
	if (f->action.verb == L7MP_VERB_COUNT)
		return true;
	return in->ip_len <= MTU && !(r->hook == RIG_TC && f->to.n_vlans);
}

static const char *check(struct run *r, const struct rig_run *run, const struct model *in)
{
	struct flow *f = in->fate == MODEL_OTHER ? NULL : find(r, in);
	bool must = must_be_fast(r, f, in, run->in);
	bool xdp = r->hook == RIG_XDP;
	const char *wrong;

	r->must += must;
	if (run->action == (xdp ? XDP_REDIRECT : TC_ACT_REDIRECT)) {
		wrong = f ? check_redirect(f, run, in) : "redirected without a flow";
		r->redirected++;
		if (f) {
			f->packets++;
			f->bytes += in->payload;
		}
		return wrong;
	}
	if (run->action == (xdp ? XDP_DROP : TC_ACT_SHOT)) {
		if (!f || f->action.verb != L7MP_VERB_COUNT)
			return "dropped, though no Discard flow is there";
		f->packets++;
		f->bytes += in->payload;
		r->discarded++;
	} else if (run->action != (xdp ? XDP_PASS : TC_ACT_UNSPEC)) {
		return "strange action";
	} else if (must) {
		return "passed up, though it is a plain packet of a flow";
	}
	if (run->out_len != run->in_len || memcmp(run->out, run->in, run->in_len))
		return "not redirected, but changed";
	return NULL;
}

static void one(struct run *r)
{
	static struct rig_run run;
	uint8_t frame[PACKET_MAX];
	uint64_t seed = r->random;
	struct model in;
	const char *wrong;
	int rc;

	run.in = frame;
	run.in_len = make_packet(r, &r->flows[rnd(r, FLOWS)], frame);
	rc = rig_send(&r->rig, r->hook, &run);
	if (rc == -EINVAL && run.in_len < 54) {
		r->refused_by_kernel++; /* a test run takes no frame that short */
		return;
	}
	model_receive(frame, run.in_len, &in);
	r->sent++;
	r->fates[in.fate]++;
	wrong = rc ? strerror(-rc) : check(r, &run, &in);
	if (!wrong)
		return;
	if (++r->failures > 5)
		return;
	tap_note("seed %llu: %s (the model: %s)", (unsigned long long)seed, wrong,
	         model_fate_name(in.fate));
	tap_dump("in", frame, run.in_len);
	tap_dump("out", run.out, run.out_len);
}

static bool counters_right(struct run *r)
{
	uint64_t verdicts[L7MP_VERDICT_COUNT], sum = 0;
	bool ok = true;

	rig_verdicts(&r->rig, verdicts);
	for (int i = 0; i < L7MP_VERDICT_COUNT; i++)
		sum += verdicts[i];
	if (sum != r->sent || verdicts[L7MP_VERDICT_FORWARDED] != r->redirected ||
	    verdicts[L7MP_VERDICT_COUNTED] != r->discarded) {
		tap_note("verdicts: %llu in sum, %llu sent; forwarded %llu, %llu redirected",
		         (unsigned long long)sum, (unsigned long long)r->sent,
		         (unsigned long long)verdicts[L7MP_VERDICT_FORWARDED],
		         (unsigned long long)r->redirected);
		ok = false;
	}
	for (int i = 0; i < FLOWS; i++) {
		struct l7mp_flow_counter c = rig_counter(&r->rig, &r->flows[i].key);

		if (c.packets == r->flows[i].packets && c.bytes == r->flows[i].bytes)
			continue;
		tap_note("flow %d: %llu packets, %llu bytes instead of %llu, %llu", i,
		         (unsigned long long)c.packets, (unsigned long long)c.bytes,
		         (unsigned long long)r->flows[i].packets,
		         (unsigned long long)r->flows[i].bytes);
		ok = false;
	}
	return ok;
}

static void through(struct run *r, enum rig_hook hook, uint64_t packets)
{
	const char *name = hook == RIG_XDP ? "xdp" : "tc";
	bool counted = true;

	r->hook = hook;
	r->sent = r->redirected = r->discarded = r->refused_by_kernel = r->must = 0;
	r->failures = 0;
	memset(r->fates, 0, sizeof(r->fates));
	for (int i = 0; i < FLOWS; i++)
		make_flow(r, &r->flows[i], i);
	rig_verdicts_start(&r->rig);
	while (r->sent < packets && !r->failures && counted) {
		for (int i = 0; i < ROUND; i++)
			one(r);
		counted = counters_right(r);
	}
	tap_note("%s: %llu packets: %llu redirected (%llu had to be), %llu discarded; the model: "
	         "%llu delivered, %llu dropped, %llu fragments, %llu other; %llu too short to send",
	         name, (unsigned long long)r->sent, (unsigned long long)r->redirected,
	         (unsigned long long)r->must, (unsigned long long)r->discarded,
	         (unsigned long long)r->fates[0], (unsigned long long)r->fates[1],
	         (unsigned long long)r->fates[2], (unsigned long long)r->fates[3],
	         (unsigned long long)r->refused_by_kernel);
	tap_result(!r->failures,
	           "%s: %llu packets: a socket gets the same, or they went up unchanged", name,
	           (unsigned long long)r->sent);
	tap_result(counted, "%s: none lost, none counted twice", name);
	tap_result(r->redirected > r->sent / 4 && r->fates[MODEL_DROP] > r->sent / 20 &&
	                   r->fates[MODEL_PIECE] > 0,
	           "%s: the packets were of all kinds", name);
	for (int i = 0; i < FLOWS; i++)
		rig_del(&r->rig, &r->flows[i].key);
}

int main(void)
{
	static struct run r;
	const char *seed = getenv("L7MP_SEED");
	uint64_t packets = test_mode_full() ? 1000000 : 50000;

	rig_init(&r.rig, 1024);
	r.random = seed ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL) * 2654435761U + 1;
	r.random = r.random ? r.random : 1;
	tap_note("L7MP_SEED=%llu", (unsigned long long)r.random);
	through(&r, RIG_XDP, packets);
	through(&r, RIG_TC, packets);
	return tap_done();
}
