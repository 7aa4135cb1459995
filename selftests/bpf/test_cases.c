/* SPDX-License-Identifier: MIT */
/*
 * Every case of cases.c through BPF_PROG_TEST_RUN, XDP and tc: verdict, action, counters,
 * and the packet byte by byte - rebuilt from scratch when it was forwarded, untouched
 * when it was passed up. Then truncation at every length, and: was each verdict seen?
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/pkt_cls.h>
#include <string.h>

#include "cases.h"

static const char *const hook_names[] = {"xdp", "tc"};
static bool seen[RIG_HOOKS][L7MP_VERDICT_COUNT];

static void base_packet(const struct rig *r, int family, struct packet *p, struct packet *to)
{
	static const uint8_t a4[] = {10, 1, 2, 3}, b4[] = {10, 9, 8, 7}, c4[] = {192, 168, 255, 1},
	                     d4[] = {172, 16, 0, 254};

	memset(p, 0, sizeof(*p));
	p->family = family;
	p->ext = -1;
	p->protocol = 17;
	p->ttl = 64;
	p->id = 0x1234;
	p->payload = 100;
	p->fill = 7;
	p->sport = 40000;
	p->dport = 5060;
	memcpy(p->dmac, r->in_mac, 6);
	memcpy(p->smac, "\x02\x11\x22\x33\x44\x55", 6);
	*to = *p;
	to->sport = 16000;
	to->dport = 7;
	memcpy(to->dmac, "\x02\xaa\xbb\xcc\xdd\xee", 6);
	memcpy(to->smac, r->out_mac, 6);
	if (family == 4) {
		memcpy(p->saddr, a4, 4);
		memcpy(p->daddr, b4, 4);
		memcpy(to->saddr, c4, 4);
		memcpy(to->daddr, d4, 4);
		return;
	}
	for (int i = 0; i < 16; i++) {
		p->saddr[i] = (uint8_t)(0x20 + i * 13);
		p->daddr[i] = (uint8_t)(0x2a + i * 7);
		to->saddr[i] = (uint8_t)(0xfd - i * 3);
		to->daddr[i] = (uint8_t)(0xfc ^ i * 37);
	}
}

/* The frame that must leave: the one that came in, but for what the flow changes. */
static size_t expected(const struct tcase *t, uint8_t out[static PACKET_MAX])
{
	struct packet p = t->in;
	uint8_t in[PACKET_MAX];

	packet_build(&t->in, in);
	p.bytes = in + packet_payload_at(&t->in); /* what came in, whatever it was made for */
	p.zero_sum = false;
	p.trailer = 0;
	if (!(t->action.flags & L7MP_FLOW_KEEP_TOS))
		p.tos = t->action.tos;
	p.frag = 0x4000; /* DF */
	p.flow_label = 0;

	memcpy(p.saddr, t->to.saddr, 16);
	memcpy(p.daddr, t->to.daddr, 16);
	memcpy(p.dmac, t->to.dmac, 6);
	memcpy(p.smac, t->to.smac, 6);
	p.sport = t->to.sport;
	p.dport = t->to.dport;
	p.ttl--;
	p.n_vlans = t->to.n_vlans;
	memcpy(p.vlan_proto, t->to.vlan_proto, sizeof(p.vlan_proto));
	memcpy(p.vlan_tci, t->to.vlan_tci, sizeof(p.vlan_tci));
	return packet_build(&p, out);
}

static int wanted_action(enum rig_hook hook, int verdict)
{
	if (verdict < L7MP_VERDICT_COUNTED)
		return hook == RIG_XDP ? XDP_REDIRECT : TC_ACT_REDIRECT;
	if (verdict == L7MP_VERDICT_COUNTED)
		return hook == RIG_XDP ? XDP_DROP : TC_ACT_SHOT;
	/* tc: the filters behind ours see what is passed up. */
	return hook == RIG_XDP ? XDP_PASS : TC_ACT_UNSPEC;
}

/* All were reflected but one. */
static bool check_last(const struct rig *r, int last)
{
	uint64_t got[L7MP_VERDICT_COUNT];

	rig_verdicts(r, got);
	for (int i = 0; i < L7MP_VERDICT_COUNT; i++)
		if (i != L7MP_VERDICT_REFLECTED && got[i] != (i == last))
			return false;
	return true;
}

static bool check_counter(const struct tcase *t, int want)
{
	struct l7mp_flow_counter c = {0};
	struct l7mp_flow_key key;
	uint64_t packets = want > L7MP_VERDICT_COUNTED ? 0 : 1, bytes = packets * t->in.payload;

	if (t->no_flow)
		return true;
	if (packets && t->gso_size)
		packets = (t->in.payload + t->gso_size - 1) / t->gso_size;
	rig_key(&t->key_of, &key);
	c = rig_counter(t->rig, &key);
	if (c.packets == packets && c.bytes == bytes && !c.last_seen == !packets)
		return true;
	tap_note("counter: %llu packets, %llu bytes, last seen %llu", (unsigned long long)c.packets,
	         (unsigned long long)c.bytes, (unsigned long long)c.last_seen);
	return false;
}

/* What is passed up because of a hand-over is counted in it, and nothing else. */
static bool check_handover(const struct tcase *t, int want)
{
	struct l7mp_handover h;
	uint32_t slot = t->action.handover;
	uint64_t passed = t->passed + (want == L7MP_VERDICT_PASS_HANDOVER);

	if (!(t->action.flags & L7MP_FLOW_HANDOVER) ||
	    bpf_map_lookup_elem(t->rig->handover, &slot, &h))
		return true;
	if (h.passed == passed && h.relayed == t->relayed)
		return true;
	tap_note("hand-over: %llu passed, %llu relayed", (unsigned long long)h.passed,
	         (unsigned long long)h.relayed);
	return false;
}

static bool check_frame(const struct tcase *t, const struct rig_run *run, int want)
{
	uint8_t right[PACKET_MAX];
	size_t len = run->in_len;

	if (want < L7MP_VERDICT_COUNTED)
		len = expected(t, right);
	else
		memcpy(right, run->in, len);
	if (run->out_len == len && !memcmp(run->out, right, len))
		return true;
	tap_dump("expected", right, len);
	tap_dump("got", run->out, run->out_len);
	return false;
}

/* 1: right, 0: wrong */
#define NO_META (-1) /* older kernels take only 32 bytes of metadata */
static int run_case(const struct tcase *t, const uint8_t *frame, size_t len, int want)
{
	struct rig_run run = {.in = frame, .in_len = len};
	struct __sk_buff skb = {.ifindex = t->from,
	                        .ingress_ifindex = t->from,
	                        .gso_size = t->gso_size,
	                        .gso_segs = t->gso_segs};
	struct xdp_md md = {.data = (uint32_t)t->meta,
	                    .data_end = (uint32_t)(len + t->meta),
	                    .ingress_ifindex = t->from};
	uint8_t with_meta[PACKET_MAX + 256] = {0};
	bool ok = true;
	int rc;

	run.ctx = t->hook == RIG_TC ? (void *)&skb : (void *)&md;
	run.ctx_len = t->hook == RIG_TC ? sizeof(skb) : sizeof(md);
	if (t->hook == RIG_XDP && t->meta) {
		memcpy(with_meta + t->meta, frame, len);
		run.in = with_meta;
		run.in_len = len + t->meta;
	}
	rc = rig_send(t->rig, t->hook, &run);
	if (rc == -EINVAL && t->meta)
		return NO_META;
	if (rc) {
		tap_note("test run: %s", strerror(-rc));
		return false;
	}
	if (run.action != wanted_action(t->hook, want)) {
		tap_note("action %d", run.action);
		ok = false;
	}
	ok &= rig_check_verdict(t->rig, want);
	ok &= check_counter(t, want);
	ok &= check_handover(t, want);
	ok &= check_frame(t, &run, want);
	return ok;
}

static void one(struct rig *r, const struct tcase_def *def, enum rig_hook hook, int family)
{
	struct tcase t = {.rig = r, .hook = hook, .from = r->in};
	int want = hook == RIG_XDP ? def->xdp : def->tc;
	struct l7mp_flow_key key;
	uint8_t frame[PACKET_MAX], out[PACKET_MAX];
	size_t len;
	int ok;

	base_packet(r, family, &t.in, &t.to);
	t.key_of = t.in;
	if (def->make)
		def->make(&t);
	if (!t.own_tags) { /* the flow has the packet's, whatever they are */
		t.key_of.n_vlans = t.in.n_vlans;
		memcpy(t.key_of.vlan_proto, t.in.vlan_proto, sizeof(t.in.vlan_proto));
		memcpy(t.key_of.vlan_tci, t.in.vlan_tci, sizeof(t.in.vlan_tci));
	}
	if (t.zero_out) {
		struct packet p = t.to;

		p.zero_sum = true;
		packet_build(&p, out);
		t.in.bytes = out + packet_payload_at(&p);
	}
	rig_action(r, &t.key_of, &t.to, &t.action6);
	if (def->flow)
		def->flow(&t);
	rig_key(&t.key_of, &key);
	if (!t.no_flow)
		rig_put(r, &key, &t.action6);
	if (t.action.flags & L7MP_FLOW_HANDOVER)
		(void)bpf_map_update_elem(r->handover, &t.action.handover,
		                          &(struct l7mp_handover){t.passed, t.relayed}, BPF_ANY);
	rig_verdicts_start(r);
	len = packet_build(&t.in, frame) - t.cut;
	ok = run_case(&t, frame, len, want);
	seen[hook][want] |= ok == 1;
	if (ok == NO_META)
		tap_skip("this kernel refuses as much metadata", "%s, IPv%d: %s", hook_names[hook],
		         family, def->name);
	else
		tap_result(ok, "%s, IPv%d: %s: %s", hook_names[hook], family, def->name,
		           rig_verdict_name(want));
	rig_del(r, &key);
}

/* Two Echo flows that answer each other: the packet goes up when its TTL is spent. */
static void reflection_ends(struct rig *r, enum rig_hook hook, int family)
{
	struct packet p[2], to[2];
	struct l7mp_flow_key keys[2];
	struct rig_run run = {.in_len = 0};
	uint8_t frame[PACKET_MAX];
	unsigned rounds = 0;

	for (int i = 0; i < 2; i++) {
		struct l7mp_flow6_action a;

		base_packet(r, family, &p[i], &to[i]);
		if (i) {
			memcpy(p[1].saddr, p[0].daddr, 16);
			memcpy(p[1].daddr, p[0].saddr, 16);
			p[1].sport = p[0].dport;
			p[1].dport = p[0].sport;
		}
		to[i] = p[i];
		memcpy(to[i].saddr, p[i].daddr, 16);
		memcpy(to[i].daddr, p[i].saddr, 16);
		to[i].sport = p[i].dport;
		to[i].dport = p[i].sport;
		rig_key(&p[i], &keys[i]);
		rig_action(r, &p[i], &to[i], &a);
		a.action.verb = L7MP_VERB_REFLECT;
		rig_put(r, &keys[i], &a);
	}
	rig_verdicts_start(r);
	run.in = frame;
	run.in_len = packet_build(&p[0], frame);
	while (rounds < 300 && !rig_send(r, hook, &run) &&
	       run.action == (hook == RIG_XDP ? XDP_REDIRECT : TC_ACT_REDIRECT)) {
		memcpy(frame, run.out, run.out_len);
		rounds++;
	}
	tap_result(rounds == p[0].ttl - 1U && check_last(r, L7MP_VERDICT_PASS_TTL),
	           "%s, IPv%d: two Echo flows answer each other %u times, then it goes up",
	           hook_names[hook], family, rounds);
	for (int i = 0; i < 2; i++)
		rig_del(r, &keys[i]);
}

/* Every length shorter than the packet goes up as it came. */
static void truncation(struct rig *r, enum rig_hook hook, int family, int n_vlans)
{
	struct tcase t = {.rig = r, .hook = hook, .from = r->in};
	struct l7mp_flow_key key;
	uint8_t frame[PACKET_MAX];
	size_t len, bad = 0, refused = 0;

	base_packet(r, family, &t.in, &t.to);
	t.key_of = t.in;
	t.in.n_vlans = n_vlans;
	t.in.vlan_proto[0] = t.in.vlan_proto[1] = 0x8100;
	rig_action(r, &t.in, &t.to, &t.action6);
	rig_key(&t.in, &key);
	rig_put(r, &key, &t.action6);
	len = packet_build(&t.in, frame);
	for (size_t n = 0; n < len; n++) {
		struct rig_run run = {.in = frame, .in_len = n};
		int ok;

		rig_verdicts_start(r);
		/*
		 * A test run itself refuses less than a link header, or less than tc's IP header.
		 */
		if (n < (family == 4 ? 34 : 54) && rig_send(r, hook, &run) == -EINVAL) {
			refused++;
			continue;
		}
		rig_verdicts_start(r);
		ok = run_case(&t, frame, n, L7MP_VERDICT_PASS_TRUNCATED);
		if (!ok)
			tap_note("at length %zu", n);
		bad += !ok;
	}
	tap_result(!bad, "%s, IPv%d, %d tags: truncated at each of %zu lengths", hook_names[hook],
	           family, n_vlans, len - refused);
	rig_del(r, &key);
}

static void all_verdicts_seen(void)
{
	/* Those behind it: test_tcp.c. */
	for (int v = 0; v <= L7MP_VERDICT_PASS_TCP; v++)
		tap_result(seen[RIG_XDP][v] || seen[RIG_TC][v], "verdict %s was triggered (%s%s)",
		           rig_verdict_name(v), seen[RIG_XDP][v] ? "xdp " : "",
		           seen[RIG_TC][v] ? "tc" : "");
}

int main(void)
{
	struct rig r;

	rig_init(&r, 1024);
	for (size_t i = 0; i < tcases_n; i++)
		for (int hook = 0; hook < RIG_HOOKS; hook++)
			for (int family = 4; family <= 6; family += 2)
				if ((!tcases[i].family || tcases[i].family == family) &&
				    (hook == RIG_XDP ? tcases[i].xdp : tcases[i].tc) != NOT_RUN)
					one(&r, &tcases[i], hook, family);
	for (int hook = 0; hook < RIG_HOOKS; hook++)
		for (int family = 4; family <= 6; family += 2)
			for (int n = 0; n <= 2; n++)
				truncation(&r, hook, family, n);
	for (int hook = 0; hook < RIG_HOOKS; hook++)
		for (int family = 4; family <= 6; family += 2)
			reflection_ends(&r, hook, family);
	all_verdicts_seen();
	return tap_done();
}
