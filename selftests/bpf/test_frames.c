/* SPDX-License-Identifier: MIT */
/*
 * Flows of AF_PACKET through BPF_PROG_TEST_RUN: the XDP program, the tc program alone, and the
 * filter of a packet socket with the tc program behind it, against the model. What leaves is
 * compared byte by byte; copies are read from a TAP device.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/pkt_cls.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frame_model.h"
#include "rig.h"

enum path { PATH_XDP, PATH_TC, PATH_TAP, PATHS };
static const char *const path_names[] = {"XDP", "tc", "socket filter and tc"};

#define TAP_ID   7
#define MAX_FLOW 8
#define NONE     (-1)

static struct rig rig;
static int prog_tap, far_fd;
static uint32_t far;
static bool seen[L7MP_VERDICT_COUNT];

static void open_far(void)
{
	far = rig_tap("frames", 9000, &far_fd);
	if (bpf_map_update_elem(rig.devices, &far, &far, BPF_ANY))
		tap_bail("devices: %s", strerror(errno));
}

/* ---- flows ---- */

struct flow {
	struct l7mp_frame_key key;
	struct l7mp_frame_action action;
	uint64_t passed, relayed;
};

static void set_flow(struct flow *f, const struct l7mp_frame_key *key)
{
	static uint32_t version;
	struct l7mp_frame_action *a = &f->action;

	memset(f, 0, sizeof(*f));
	f->key = *key;
	a->in_ifindex = a->match_ifindex = key->ifindex;
	a->match_sport = key->sport;
	a->match_dport = key->dport;
	a->match_l4 = key->l4;
	a->match_family = key->family;
	a->match_type = key->type;
	memcpy(a->match_vlan, key->vlan, sizeof(key->vlan));
	a->match_saddr = key->saddr;
	a->match_daddr = key->daddr;
	a->verb = L7MP_VERB_FRAME;
	a->ifindex = far;
	a->mtu = 1500;
	a->tap = TAP_ID;
	memcpy(a->in_mac, rig.in_mac, 6);
	memcpy(a->dmac, "\x02\xaa\xbb\xcc\xdd\xee", 6);
	memcpy(a->smac, "\x02\x01\x02\x03\x04\x05", 6);
	a->version = a->version_end = a->version6 = ++version;
}

static void set_any(struct flow *f, uint16_t type)
{
	struct l7mp_frame_key key = {.family = L7MP_FAMILY_ANY, .type = type, .ifindex = rig.in};

	set_flow(f, &key);
}

static uint32_t kinds_of(const struct flow *f)
{
	if (f->key.family != L7MP_FAMILY_ANY)
		return L7MP_FRAMES_EXACT;
	if (!f->key.type)
		return L7MP_FRAMES_ALL;
	return f->key.type == 0x8100 || f->key.type == 0x88a8 ? L7MP_FRAMES_TAG : L7MP_FRAMES_TYPE;
}

static void put_flows(struct flow *flows, int n)
{
	struct l7mp_flow_counter none[256] = {0};
	uint32_t bucket = rig.in % L7MP_IFS_MAX, kinds = 0;

	for (int i = 0; i < n; i++) {
		flows[i].action.slot = (uint32_t)i;
		kinds |= kinds_of(&flows[i]);
		if (bpf_map_update_elem(rig.counters, &flows[i].action.slot, none, BPF_ANY) ||
		    bpf_map_update_elem(rig.frames, &flows[i].key, &flows[i].action, BPF_ANY))
			tap_bail("can't add a flow: %s", strerror(errno));
		if (flows[i].action.flags & L7MP_FLOW_HANDOVER) {
			uint32_t place = flows[i].action.handover;

			bpf_map_update_elem(
			        rig.handover, &place,
			        &(struct l7mp_handover){flows[i].passed, flows[i].relayed},
			        BPF_ANY);
		}
	}
	bpf_map_update_elem(rig.frame_ifs, &bucket, &kinds, BPF_ANY);
}

static void del_flows(struct flow *flows, int n)
{
	uint32_t bucket = rig.in % L7MP_IFS_MAX, none = 0;

	for (int i = 0; i < n; i++)
		bpf_map_delete_elem(rig.frames, &flows[i].key);
	bpf_map_update_elem(rig.frame_ifs, &bucket, &none, BPF_ANY);
}

/* ---- what the model says ---- */

struct answer {
	int flow;    /* whose frame it is; NONE */
	int verdict; /* of the frame: FORWARDED, FRAME_COPIED, why not; NONE: none of its own */
};

static bool is_fast(const struct answer *a)
{
	return a->verdict == L7MP_VERDICT_FORWARDED || a->verdict == L7MP_VERDICT_FRAME_COPIED;
}

static int find_flow(const struct frame_in *f, const struct flow *flows, int n)
{
	struct l7mp_frame_key key;
	bool told = frame_model_key(f, &key);

	for (int i = 0; i < n && told; i++)
		if (!memcmp(&flows[i].key, &key, sizeof(key)))
			return i;
	for (int i = 0; i < n; i++)
		if (flows[i].key.family == L7MP_FAMILY_ANY &&
		    frame_model_is_of(f, flows[i].key.type))
			return i;
	return NONE;
}

static struct answer ask(enum path path, const struct frame_in *f, const struct flow *flows, int n)
{
	struct answer a = {find_flow(f, flows, n), NONE};
	const struct flow *fl = &flows[a.flow];
	bool stack = f->bytes[0] & 1 || !memcmp(f->bytes, rig.in_mac, 6);

	if (a.flow == NONE)
		return a;
	stack = stack || fl->action.flags & L7MP_FLOW_COPY;
	if (path == PATH_XDP && (stack || fl->action.flags & L7MP_FLOW_TC_ONLY))
		a.verdict = L7MP_VERDICT_PASS_TO_TC;
	else if (fl->action.version != fl->action.version_end)
		a.verdict = L7MP_VERDICT_PASS_STALE;
	else if (fl->passed != fl->relayed)
		a.verdict = L7MP_VERDICT_PASS_HANDOVER;
	else if (!frame_model_fits(f, fl->action.mtu))
		a.verdict = L7MP_VERDICT_PASS_MTU;
	else if (path == PATH_XDP && fl->action.ifindex != far)
		a.verdict = L7MP_VERDICT_PASS_DEVICE;
	else
		a.verdict = stack ? L7MP_VERDICT_FRAME_COPIED : L7MP_VERDICT_FORWARDED;
	return a;
}

/* ---- runs ---- */

static size_t rewritten(const struct frame_in *f, const struct flow *fl, uint8_t *out)
{
	memcpy(out, f->bytes, f->len);
	if (fl->action.flags & L7MP_FLOW_SET_DMAC)
		memcpy(out, fl->action.dmac, 6);
	if (fl->action.flags & L7MP_FLOW_SET_SMAC)
		memcpy(out + 6, fl->action.smac, 6);
	return f->len;
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

/* What has left by the TAP device since: 0 bytes when nothing has. */
static size_t left(uint8_t *out, size_t size)
{
	ssize_t n = read(far_fd, out, size);

	return n < 0 ? 0 : (size_t)n;
}

static int run_prog(int prog, const struct frame_in *f, struct rig_run *run, uint32_t tap,
                    uint16_t filter)
{
	struct __sk_buff skb = {.ifindex = f->ifindex,
	                        .ingress_ifindex = f->ifindex,
	                        .cb = {tap, filter, prog == prog_tap ? 14 : 0},
	                        .gso_size = (uint32_t)f->segment};
	struct xdp_md md = {.data_end = (uint32_t)f->len, .ingress_ifindex = f->ifindex};

	memset(run, 0, sizeof(*run));
	run->prog = prog;
	run->in = f->bytes;
	run->in_len = f->len;
	run->ctx = prog == rig.prog_xdp ? (void *)&md : (void *)&skb;
	run->ctx_len = prog == rig.prog_xdp ? sizeof(md) : sizeof(skb);
	return rig_test_run(run);
}

static bool expect(const char *what, int got, int want)
{
	if (got != want)
		tap_note("%s: %d, not %d", what, got, want);
	return got == want;
}

static bool check_counters(const struct frame_in *f, const struct answer *a, int n)
{
	bool ok = true;

	for (int i = 0; i < n; i++) {
		struct l7mp_flow_counter c = rig_slot(&rig, (uint32_t)i);
		uint64_t frames = 0, bytes = 0;

		if (i == a->flow && is_fast(a))
			frame_model_count(f, &frames, &bytes);
		if (c.packets == frames && c.bytes == bytes && !c.last_seen == !frames)
			continue;
		tap_note("counter %d: %llu frames, %llu bytes; expected %llu, %llu", i,
		         (unsigned long long)c.packets, (unsigned long long)c.bytes,
		         (unsigned long long)frames, (unsigned long long)bytes);
		ok = false;
	}
	return ok;
}

static bool check_verdict(int verdict)
{
	uint64_t got[L7MP_VERDICT_COUNT];

	if (verdict == NONE)
		return true;
	seen[verdict] = true;
	rig_verdicts(&rig, got);
	if (got[verdict] == 1)
		return true;
	tap_note("verdict %s: %llu times", rig_verdict_name(verdict),
	         (unsigned long long)got[verdict]);
	return false;
}

/* What a frame has become when the last program is through. */
static bool check_out(enum path path, const struct frame_in *f, const struct flow *flows,
                      const struct answer *a, const struct rig_run *run)
{
	uint8_t want[PACKET_MAX], gone[PACKET_MAX];
	bool sent = a->verdict == L7MP_VERDICT_FORWARDED, ok;
	int action = path == PATH_XDP ? sent ? XDP_REDIRECT : XDP_PASS
	             : sent           ? TC_ACT_REDIRECT
	                              : TC_ACT_UNSPEC;
	size_t n = left(gone, sizeof(gone)), len;

	ok = expect("action", run->action, action);
	if (a->verdict == L7MP_VERDICT_FRAME_COPIED && !f->segment) {
		len = rewritten(f, &flows[a->flow], want);
		ok = same("copy", gone, n, want, len) && ok;
	} else if (n && !f->segment) {
		tap_note("a frame left");
		ok = false;
	}
	len = sent ? rewritten(f, &flows[a->flow], want) : f->len;
	return same("the frame", run->out, run->out_len, sent ? want : f->bytes, len) && ok;
}

static void drain_far(void)
{
	uint8_t gone[PACKET_MAX];

	while (left(gone, sizeof(gone)))
		;
}

/* 1: as the model says; 0: not; -1: the kernel's test run refuses such a frame. */
static int run_frame(enum path path, const struct frame_in *f, const struct flow *flows, int n,
                     uint16_t filter)
{
	struct answer a = ask(path, f, flows, n);
	struct rig_run run;
	bool ok = true;
	int rc = 0;

	rig_verdicts_start(&rig);
	drain_far();
	if (path == PATH_TAP) {
		rc = run_prog(prog_tap, f, &run, TAP_ID, filter);
		if (!rc)
			ok = expect("socket", run.action != 0,
			            !is_fast(&a) && frame_model_is_of(f, filter));
	}
	rc = rc ? rc : run_prog(path == PATH_XDP ? rig.prog_xdp : rig.prog_tc, f, &run, 0, 0);
	if (rc == -EINVAL)
		return -1;
	if (rc) {
		tap_note("test run: %s", strerror(-rc));
		return 0;
	}
	/* tc alone: what it leaves gets a verdict of what becomes of it then. */
	if (path != PATH_TC || is_fast(&a))
		ok = check_verdict(a.verdict) && ok;
	ok = check_counters(f, &a, n) && ok;
	return check_out(path, f, flows, &a, &run) && ok;
}

/* ---- cases ---- */

static void base_packet(struct packet *p, int family)
{
	memset(p, 0, sizeof(*p));
	p->family = family;
	p->ext = -1;
	p->protocol = 17;
	p->ttl = 64;
	p->payload = 100;
	p->fill = 3;
	p->sport = 5000;
	p->dport = 53;
	memcpy(p->dmac, "\x02\x0a\x0b\x0c\x0d\x0e", 6);
	memcpy(p->smac, "\x02\x11\x22\x33\x44\x55", 6);
	for (int i = 0; i < (family == 4 ? 4 : 16); i++) {
		p->saddr[i] = (uint8_t)(0x20 + i * 13);
		p->daddr[i] = (uint8_t)(0x2a + i * 7);
	}
}

struct fcase {
	struct packet p;
	struct packet of; /* whose flow it is */
	struct flow flow;
	bool any;
	uint16_t type;   /* with any */
	uint16_t filter; /* of the socket */
	size_t segment, cut;
	struct tcp_header tcp;
};

static void tag(struct packet *p, int n)
{
	p->n_vlans = n;
	for (int i = 0; i < n; i++) {
		p->vlan_proto[i] = i ? 0x8100 : 0x88a8;
		p->vlan_tci[i] = (uint16_t)(0x6000 | (100 + i));
	}
}

#define ACTION (t->flow.action)
/* clang-format off */
static void f_tag1(struct fcase *t)   { tag(&t->p, 1); t->of = t->p; }
static void f_tag2(struct fcase *t)   { tag(&t->p, 2); t->of = t->p; }
static void f_tag3(struct fcase *t)   { tag(&t->p, 3); t->of = t->p; }
static void f_prio(struct fcase *t)   { f_tag1(t); t->p.vlan_tci[0] ^= 0xe000; }
static void f_vid(struct fcase *t)    { f_tag1(t); t->p.vlan_tci[0] ^= 1; }
static void f_untag(struct fcase *t)  { f_tag1(t); t->p.n_vlans = 0; }
static void f_more(struct fcase *t)   { tag(&t->p, 1); }
static void f_arp(struct fcase *t)    { t->p.ether_type = 0x0806; t->of = t->p; }
static void f_arp_tag(struct fcase *t) { tag(&t->p, 2); f_arp(t); }
static void f_other_mac(struct fcase *t) { f_arp(t); t->p.smac[5]++; }
static void f_icmp(struct fcase *t)   { t->p.protocol = 1; t->of = t->p; }
static void f_other_proto(struct fcase *t) { f_icmp(t); t->p.protocol = 2; }
static void f_tcp(struct fcase *t)
{
	t->tcp.flags = 0x10;
	t->p.tcp = &t->tcp;
	t->p.protocol = 6;
	t->of = t->p;
}
static void f_frag(struct fcase *t)   { t->p.frag = 0x2000; t->of = t->p; }
static void f_frag_of(struct fcase *t) { t->p.frag = 0x2000; }
static void f_options(struct fcase *t) { t->p.options = 4; }
static void f_ext(struct fcase *t)    { t->p.ext = 60; }
static void f_ip_long(struct fcase *t) { t->p.ip_len_add = 1; }
static void f_trailer(struct fcase *t) { t->p.payload = 1; t->p.trailer = 17; }
static void f_short(struct fcase *t)  { t->p.payload = 0; }
static void f_port(struct fcase *t)   { t->p.dport++; }
static void f_addr(struct fcase *t)   { t->p.saddr[3]++; }
static void f_fits(struct fcase *t)   { t->p.payload = 1500 - (t->p.family == 4 ? 28 : 48); }
static void f_large(struct fcase *t)  { f_fits(t); t->p.payload++; }
static void f_fits_tag(struct fcase *t) { f_fits(t); f_tag1(t); }
static void f_fits_2tags(struct fcase *t) { f_fits(t); f_tag2(t); }
static void f_2tags(struct fcase *t)  { f_fits(t); t->p.payload -= 4; f_tag2(t); }
static void f_trailer_large(struct fcase *t) { f_fits(t); t->p.trailer = 1; }
static void f_host(struct fcase *t)   { memcpy(t->p.dmac, rig.in_mac, 6); t->of = t->p; }
static void f_bcast(struct fcase *t)  { memset(t->p.dmac, 0xff, 6); t->of = t->p; }
static void f_mcast(struct fcase *t)  { t->p.dmac[0] = 1; t->of = t->p; }
static void f_any(struct fcase *t)    { t->any = true; }
static void f_any_arp(struct fcase *t) { f_any(t); f_arp(t); }
static void f_any_opt(struct fcase *t) { f_any(t); f_options(t); }
static void f_any_bad(struct fcase *t) { f_any(t); f_ip_long(t); }
static void f_any_3(struct fcase *t)  { f_any(t); tag(&t->p, 3); }
static void f_type(struct fcase *t)
{
	f_any(t);
	t->type = t->filter = t->p.family == 4 ? 0x0800 : 0x86dd;
}
static void f_type_tag(struct fcase *t) { f_type(t); tag(&t->p, 1); }
static void f_type_2tags(struct fcase *t) { f_type(t); tag(&t->p, 2); }
static void f_type_no(struct fcase *t) { f_type(t); t->type = t->filter = 0x0806; }
static void f_vlan(struct fcase *t)   { f_any(t); t->type = t->filter = 0x8100; tag(&t->p, 2); }
static void f_qinq(struct fcase *t)   { f_vlan(t); t->type = t->filter = 0x88a8; }
static void f_vlan_no(struct fcase *t) { f_vlan(t); tag(&t->p, 1); }
static void f_exact_type(struct fcase *t) { t->filter = t->p.family == 4 ? 0x0800 : 0x86dd; }
static void f_seg(struct fcase *t)    { t->p.payload = 2900; t->segment = 1000; }
static void f_seg_tcp(struct fcase *t)
{
	f_tcp(t);
	f_seg(t);
	t->segment = 1448;
	t->tcp.options_len = 12;
	memset(t->tcp.options, 1, 12);
	t->of = t->p;
}
static void f_seg_fits(struct fcase *t) { f_seg(t); t->segment = t->p.family == 4 ? 1472 : 1452; }
static void f_seg_large(struct fcase *t) { f_seg_fits(t); t->segment++; }
static void f_seg_tag(struct fcase *t) { f_seg(t); f_tag1(t); }
static void f_seg_any(struct fcase *t) { f_seg(t); f_any(t); }
static void f_seg_icmp(struct fcase *t) { f_seg(t); f_icmp(t); }

static void a_dmac(struct fcase *t)   { ACTION.flags |= L7MP_FLOW_SET_DMAC; }
static void a_smac(struct fcase *t)   { ACTION.flags |= L7MP_FLOW_SET_SMAC; }
static void a_macs(struct fcase *t)   { a_dmac(t); a_smac(t); }
static void a_copy(struct fcase *t)   { ACTION.flags |= L7MP_FLOW_COPY; }
static void a_copy_macs(struct fcase *t) { a_copy(t); a_macs(t); }
static void a_tc(struct fcase *t)     { ACTION.flags |= L7MP_FLOW_TC_ONLY; }
static void a_half(struct fcase *t)   { ACTION.version++; }
static void a_half_end(struct fcase *t) { ACTION.version--; }
static void a_jumbo(struct fcase *t)  { ACTION.mtu = 9000; }
static void a_waits(struct fcase *t)
{
	ACTION.flags |= L7MP_FLOW_HANDOVER;
	ACTION.handover = 9;
	t->flow.passed = 4;
	t->flow.relayed = 3;
}
/* clang-format on */

#define ALL_PATHS 7
#define NO_XDP    6
#define NO_TC     5
static const struct fcase_def {
	const char *name;
	int family;
	int paths; /* bits of enum path */
	void (*make)(struct fcase *t);
	void (*flow)(struct fcase *t);
} cases[] = {
        {"plain", 0, ALL_PATHS, NULL, NULL},
        {"TCP", 0, ALL_PATHS, f_tcp, NULL},
        {"a protocol without ports", 0, ALL_PATHS, f_icmp, NULL},
        {"another protocol without ports", 0, ALL_PATHS, f_other_proto, NULL},
        {"no payload", 0, ALL_PATHS, f_short, NULL},
        {"bytes behind the packet stay", 0, ALL_PATHS, f_trailer, NULL},
        {"another port", 0, ALL_PATHS, f_port, NULL},
        {"another address", 0, ALL_PATHS, f_addr, NULL},
        {"fragments are a conversation", 4, ALL_PATHS, f_frag, NULL},
        {"a fragment is not of its ports' conversation", 4, ALL_PATHS, f_frag_of, NULL},
        {"IP options", 4, ALL_PATHS, f_options, NULL},
        {"an extension header", 6, ALL_PATHS, f_ext, NULL},
        {"longer than the frame", 0, ALL_PATHS, f_ip_long, NULL},
        {"ARP", 4, ALL_PATHS, f_arp, NULL},
        {"ARP behind two tags", 4, ALL_PATHS, f_arp_tag, NULL},
        {"ARP of another sender", 4, ALL_PATHS, f_other_mac, NULL},
        {"one tag", 0, ALL_PATHS, f_tag1, NULL},
        {"two tags", 0, ALL_PATHS, f_tag2, NULL},
        {"three tags", 0, ALL_PATHS, f_tag3, NULL},
        {"another priority", 0, ALL_PATHS, f_prio, NULL},
        {"another VLAN", 0, ALL_PATHS, f_vid, NULL},
        {"the tag is missing", 0, ALL_PATHS, f_untag, NULL},
        {"a tag too many", 0, ALL_PATHS, f_more, NULL},
        {"new destination address", 0, ALL_PATHS, NULL, a_dmac},
        {"new source address", 0, ALL_PATHS, NULL, a_smac},
        {"both new, two tags", 0, ALL_PATHS, f_tag2, a_macs},
        {"exactly the MTU", 0, ALL_PATHS, f_fits, NULL},
        {"one byte more", 0, ALL_PATHS, f_large, NULL},
        {"the MTU and a tag", 0, ALL_PATHS, f_fits_tag, NULL},
        {"the MTU and two tags", 0, ALL_PATHS, f_fits_2tags, NULL},
        {"two tags, the second in the MTU", 0, ALL_PATHS, f_2tags, NULL},
        {"the MTU and a byte behind", 0, ALL_PATHS, f_trailer_large, NULL},
        {"a larger MTU", 0, ALL_PATHS, f_large, a_jumbo},
        {"for this host: a copy", 0, ALL_PATHS, f_host, NULL},
        {"for this host: a copy with new addresses", 0, ALL_PATHS, f_host, a_macs},
        {"broadcast", 0, ALL_PATHS, f_bcast, NULL},
        {"multicast", 0, ALL_PATHS, f_mcast, a_macs},
        {"the interface has others above", 0, ALL_PATHS, NULL, a_copy},
        {"the same with new addresses, tagged", 0, ALL_PATHS, f_tag1, a_copy_macs},
        {"left to tc", 0, ALL_PATHS, NULL, a_tc},
        {"being written", 0, ALL_PATHS, NULL, a_half},
        {"being written, the other way", 0, ALL_PATHS, NULL, a_half_end},
        {"the hand-over", 0, NO_TC, NULL, a_waits},
        {"all frames", 0, ALL_PATHS, f_any, NULL},
        {"all frames: ARP", 4, ALL_PATHS, f_any_arp, NULL},
        {"all frames: IP options", 4, ALL_PATHS, f_any_opt, NULL},
        {"all frames: malformed", 0, ALL_PATHS, f_any_bad, NULL},
        {"all frames: three tags", 0, ALL_PATHS, f_any_3, NULL},
        {"all frames of a type", 0, ALL_PATHS, f_type, NULL},
        {"all frames of a type: a tag", 0, ALL_PATHS, f_type_tag, NULL},
        {"all frames of a type: two tags", 0, ALL_PATHS, f_type_2tags, NULL},
        {"all frames of a type: another", 0, ALL_PATHS, f_type_no, NULL},
        {"all frames with an 802.1Q tag", 0, ALL_PATHS, f_vlan, NULL},
        {"all frames with an 802.1ad tag", 0, ALL_PATHS, f_qinq, NULL},
        {"all frames with an 802.1Q tag: another", 0, ALL_PATHS, f_vlan_no, NULL},
        {"a conversation, socket of a type", 0, ALL_PATHS, f_exact_type, NULL},
        {"segments", 0, NO_XDP, f_seg, NULL},
        {"segments of TCP", 0, NO_XDP, f_seg_tcp, NULL},
        {"segments of exactly the MTU", 0, NO_XDP, f_seg_fits, NULL},
        {"segments larger than the MTU", 0, NO_XDP, f_seg_large, NULL},
        {"segments, a tag", 0, NO_XDP, f_seg_tag, NULL},
        {"segments, all frames", 0, NO_XDP, f_seg_any, NULL},
        {"segments of neither UDP nor TCP", 0, NO_XDP, f_seg_icmp, NULL},
};

static void one(const struct fcase_def *def, enum path path, int family)
{
	uint8_t frame[PACKET_MAX], of[PACKET_MAX];
	struct frame_in in = {.bytes = frame, .ifindex = rig.in},
	                whose = {.bytes = of, .ifindex = rig.in};
	struct l7mp_frame_key key;
	struct fcase t;
	int ok;

	memset(&t, 0, sizeof(t));
	base_packet(&t.p, family);
	t.of = t.p;
	if (def->make)
		def->make(&t);
	in.len = packet_build(&t.p, frame);
	in.segment = t.segment;
	whose.len = packet_build(&t.of, of);
	(void)frame_model_key(&whose, &key);
	if (t.any)
		set_any(&t.flow, t.type);
	else
		set_flow(&t.flow, &key);
	if (def->flow)
		def->flow(&t);
	put_flows(&t.flow, 1);
	ok = run_frame(path, &in, &t.flow, 1, t.filter);
	tap_result(ok == 1, "%s, IPv%d: %s", path_names[path], family, def->name);
	del_flows(&t.flow, 1);
}

/* ---- random frames ---- */

static uint64_t state = 88172645463325252ULL;

static uint32_t rnd(uint32_t n)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 33) % n;
}

static void random_packet(struct packet *p, struct tcp_header *tcp)
{
	static const uint16_t types[] = {0x0806, 0x88b5, 0x0800, 0x86dd};

	base_packet(p, rnd(2) ? 4 : 6);
	memset(tcp, 0, sizeof(*tcp));
	p->payload = rnd(4) ? rnd(60) : rnd(1600);
	p->fill = rnd(1000);
	p->sport = (uint16_t)(5000 + rnd(2));
	p->saddr[3] = (uint8_t)rnd(2);
	p->smac[5] = (uint8_t)rnd(2);
	tag(p, rnd(2) ? 0 : (int)rnd(4));
	for (int i = 0; i < p->n_vlans; i++) {
		p->vlan_proto[i] = rnd(2) ? 0x8100 : 0x88a8;
		p->vlan_tci[i] = (uint16_t)(rnd(8) << 13 | (100 + rnd(2)));
	}
	if (!rnd(3))
		p->ether_type = types[rnd(4)];
	if (!rnd(5))
		p->protocol = (uint8_t)rnd(3);
	else if (rnd(2)) {
		p->tcp = tcp;
		p->protocol = 6;
		tcp->flags = 0x10;
		tcp->options_len = 4 * rnd(4);
		memset(tcp->options, 1, sizeof(tcp->options));
	}
	if (!rnd(8) && p->family == 4 && !p->tcp)
		p->options = 4;
	if (!rnd(8))
		p->frag = (uint16_t)(rnd(2) ? 0x2000 : rnd(200));
	if (!rnd(8) && p->family == 6 && !p->tcp)
		p->ext = rnd(2) ? 60 : 44;
	if (!rnd(8))
		p->trailer = rnd(20);
	if (!rnd(16))
		p->ip_len_add = (int)rnd(80) - 40;
	if (!rnd(4))
		memcpy(p->dmac, rnd(2) ? (const uint8_t *)"\xff\xff\xff\xff\xff\xff" : rig.in_mac,
		       6);
}

/* The entries of one socket: conversations, or all frames of its type. */
static int random_flows(struct flow flows[MAX_FLOW], uint16_t *filter)
{
	static const uint16_t types[] = {0, 0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8};
	int n = 0;

	*filter = 0;
	if (!rnd(3)) {
		*filter = types[rnd(6)];
		set_any(&flows[n++], *filter);
	}
	for (int tries = 0; !n || (flows[0].key.family != L7MP_FAMILY_ANY && tries < MAX_FLOW);
	     tries++) {
		uint8_t bytes[PACKET_MAX];
		struct frame_in in = {.bytes = bytes, .ifindex = rig.in};
		struct l7mp_frame_key key;
		struct tcp_header tcp;
		struct packet p;
		bool twice = false;

		random_packet(&p, &tcp);
		in.len = packet_build(&p, bytes);
		if (!frame_model_key(&in, &key))
			continue;
		for (int i = 0; i < n; i++)
			twice = twice || !memcmp(&flows[i].key, &key, sizeof(key));
		if (!twice)
			set_flow(&flows[n++], &key);
	}
	for (int i = 0; i < n; i++) {
		if (!rnd(3))
			flows[i].action.flags |= L7MP_FLOW_SET_DMAC;
		if (!rnd(3))
			flows[i].action.flags |= L7MP_FLOW_SET_SMAC;
		if (!rnd(6))
			flows[i].action.flags |= L7MP_FLOW_COPY;
		if (!rnd(4))
			flows[i].action.mtu = 100 + rnd(200);
	}
	return n;
}

static void randomly(enum path path, unsigned rounds)
{
	unsigned bad = 0, ran = 0, took = 0;

	for (unsigned i = 0; i < rounds && bad < 5; i++) {
		struct flow flows[MAX_FLOW];
		uint8_t bytes[PACKET_MAX];
		struct frame_in in = {.bytes = bytes, .ifindex = rig.in};
		struct tcp_header tcp;
		struct packet p;
		uint16_t filter;
		int n = random_flows(flows, &filter), rc;

		random_packet(&p, &tcp);
		in.len = packet_build(&p, bytes);
		if (path != PATH_XDP && !rnd(4))
			in.segment = 20 + rnd(1500);
		else if (!rnd(10))
			in.len = 14 + rnd(rnd(2) ? 12 : (uint32_t)in.len - 14);
		/* The test run's segments are not real enough to be sent. */
		if (ask(path, &in, flows, n).verdict == L7MP_VERDICT_FRAME_COPIED)
			in.segment = 0;
		put_flows(flows, n);
		rc = run_frame(path, &in, flows, n, filter);
		took += ask(path, &in, flows, n).flow != NONE;
		del_flows(flows, n);
		ran += rc >= 0;
		bad += !rc;
		if (!rc)
			tap_note("in round %u", i);
	}
	tap_result(!bad && took > ran / 8, "%s: %u random frames, %u of a flow", path_names[path],
	           ran, took);
}

/* ---- decided once ---- */

static struct frame_in one_frame(uint8_t *bytes, int family)
{
	struct frame_in in = {.bytes = bytes, .ifindex = rig.in};
	struct packet p;

	base_packet(&p, family);
	in.len = packet_build(&p, bytes);
	return in;
}

static int at_socket(const struct frame_in *in, uint32_t id, uint16_t filter)
{
	struct rig_run run;

	if (run_prog(prog_tap, in, &run, id, filter))
		tap_bail("the filter can't be run");
	return run.action != 0;
}

static int at_tc(const struct frame_in *in)
{
	struct rig_run run;

	if (run_prog(rig.prog_tc, in, &run, 0, 0))
		tap_bail("the tc program can't be run");
	return run.action;
}

static void decided_once(void)
{
	uint8_t bytes[PACKET_MAX], other_bytes[PACKET_MAX];
	struct frame_in in = one_frame(bytes, 4), other = one_frame(other_bytes, 6);
	struct l7mp_frame_key key, key6;
	struct flow flow, flow6;
	uint32_t place = 9;
	bool ok;

	(void)frame_model_key(&in, &key);
	(void)frame_model_key(&other, &key6);
	set_flow(&flow, &key);

	put_flows(&flow, 1);
	ok = expect("socket", at_socket(&in, TAP_ID, 0), 0);
	bpf_map_delete_elem(rig.frames, &flow.key);
	ok = expect("tc", at_tc(&in), TC_ACT_REDIRECT) && ok;
	ok = expect("tc, again", at_tc(&in), TC_ACT_UNSPEC) && ok;
	tap_result(ok, "a flow that is removed between socket and tc loses no frame");

	del_flows(&flow, 1);
	ok = expect("socket", at_socket(&in, TAP_ID, 0), 1);
	flow.action.flags = L7MP_FLOW_HANDOVER;
	flow.action.handover = (uint16_t)place;
	flow.passed = flow.relayed = 2; /* it has begun at once */
	put_flows(&flow, 1);
	ok = expect("tc", at_tc(&in), TC_ACT_UNSPEC) && ok;
	tap_result(ok, "a flow that is added between socket and tc takes no frame twice");

	bpf_map_update_elem(rig.handover, &place, &(struct l7mp_handover){2, 1}, BPF_ANY);
	ok = expect("socket", at_socket(&in, TAP_ID, 0), 1);
	bpf_map_update_elem(rig.handover, &place, &(struct l7mp_handover){3, 3}, BPF_ANY);
	ok = expect("tc", at_tc(&in), TC_ACT_UNSPEC) && ok;
	ok = expect("the next one at the socket", at_socket(&in, TAP_ID, 0), 0) && ok;
	ok = expect("... and at tc", at_tc(&in), TC_ACT_REDIRECT) && ok;
	tap_result(ok, "a flow that begins between socket and tc takes no frame twice");
	del_flows(&flow, 1);

	set_flow(&flow, &key);
	put_flows(&flow, 1);
	ok = expect("another socket", at_socket(&in, TAP_ID + 1, 0), 1);
	ok = expect("a socket of another type", at_socket(&in, TAP_ID + 2, 0x0806), 0) && ok;
	ok = expect("the socket", at_socket(&in, TAP_ID, 0), 0) && ok;
	ok = expect("another socket behind it, of IPv6", at_socket(&in, TAP_ID + 1, 0x86dd), 0) &&
	     ok;
	ok = expect("tc", at_tc(&in), TC_ACT_REDIRECT) && ok;
	tap_result(ok, "other sockets get their copy, and don't disturb");

	set_flow(&flow6, &key6);
	flow6.action.tap = TAP_ID;
	put_flows((struct flow[]){flow, flow6}, 2);
	ok = expect("socket", at_socket(&in, TAP_ID, 0), 0);
	ok = expect("another frame at tc", at_tc(&other), TC_ACT_REDIRECT) && ok;
	ok = expect("the next one at the socket", at_socket(&in, TAP_ID, 0), 1) && ok;
	ok = expect("... and at tc", at_tc(&in), TC_ACT_UNSPEC) && ok;
	ok = expect("the one after it", at_socket(&in, TAP_ID, 0), 0) && ok;
	ok = expect("... and at tc", at_tc(&in), TC_ACT_REDIRECT) && ok;
	tap_result(ok, "a decision is carried out for its own frame only");

	ok = expect("socket", at_socket(&in, TAP_ID, 0), 0);
	for (int i = 0; i < 3; i++)
		ok = expect("while tc does not run", at_socket(&in, TAP_ID, 0), 1) && ok;
	ok = expect("tc", at_tc(&in), TC_ACT_UNSPEC) && ok;
	ok = expect("then", at_socket(&in, TAP_ID, 0), 0) && ok;
	(void)at_tc(&in);
	tap_result(ok, "the sockets get all frames while the tc program does not run");
	del_flows((struct flow[]){flow, flow6}, 2);
}

int main(void)
{
	cpu_set_t cpu;

	/* What the filter notes is for the processor that it runs on. */
	CPU_ZERO(&cpu);
	CPU_SET(0, &cpu);
	if (sched_setaffinity(0, sizeof(cpu), &cpu))
		tap_bail("can't stay on a processor: %s", strerror(errno));
	rig_init(&rig, 64);
	prog_tap = rig_prog(&rig, RIG_TC, L7MP_PROG_TAP);
	open_far();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (int path = 0; path < PATHS; path++)
			for (int family = 4; family <= 6; family += 2)
				if ((!cases[i].family || cases[i].family == family) &&
				    cases[i].paths & 1 << path)
					one(&cases[i], (enum path)path, family);
	decided_once();
	for (int path = 0; path < PATHS; path++)
		randomly((enum path)path, test_mode_full() ? 200000 : 5000);
	tap_result(seen[L7MP_VERDICT_FRAME_COPIED], "verdict frame-copied was triggered");
	return tap_done();
}
