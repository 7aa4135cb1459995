/* SPDX-License-Identifier: MIT */
#include "cases.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#define QTAG  0x8100
#define ADTAG 0x88a8

static void tags(struct packet *p, int n, unsigned outer)
{
	p->n_vlans = n;
	p->vlan_proto[0] = (uint16_t)outer;
	p->vlan_tci[0] = 0x2064; /* priority 1, VLAN 100 */
	p->vlan_proto[1] = QTAG;
	p->vlan_tci[1] = 0x0123;
	p->vlan_proto[2] = QTAG;
	p->vlan_tci[2] = 7;
}

/* clang-format off */
static void in_q1(struct tcase *t)  { tags(&t->in, 1, QTAG); }
static void in_ad1(struct tcase *t) { tags(&t->in, 1, ADTAG); }
static void in_q2(struct tcase *t)  { tags(&t->in, 2, QTAG); }
static void in_ad2(struct tcase *t) { tags(&t->in, 2, ADTAG); }
static void in_q3(struct tcase *t)  { tags(&t->in, 3, QTAG); }
static void out_q1(struct tcase *t)  { tags(&t->to, 1, QTAG); t->to.vlan_tci[0] = 200; }
static void out_ad1(struct tcase *t) { tags(&t->to, 1, ADTAG); t->to.vlan_tci[0] = 0xefff; }
static void out_q2(struct tcase *t)  { tags(&t->to, 2, ADTAG); t->to.vlan_tci[1] = 300; }
static void q1_q1(struct tcase *t)   { in_q1(t); out_q1(t); }
static void q1_q2(struct tcase *t)   { in_q1(t); out_q2(t); }
static void q2_q1(struct tcase *t)   { in_q2(t); out_q1(t); }
static void q2_q2(struct tcase *t)   { in_q2(t); out_q2(t); }
static void three_tags(struct tcase *t) { t->action.n_vlans = 3; }

static void payload0(struct tcase *t) { t->in.payload = 0; }
static void payload1(struct tcase *t) { t->in.payload = 1; }
static void odd(struct tcase *t)      { t->in.payload = 333; }
static void mtu_size(struct tcase *t) { t->in.payload = t->in.family == 4 ? 1472 : 1452; }
static void mtu_more(struct tcase *t) { mtu_size(t); t->in.payload++; }
static void mtu_tag(struct tcase *t)  { mtu_size(t); in_q1(t); out_q2(t); }
static void jumbo(struct tcase *t)    { t->in.payload = 2900; } /* one page holds no more at XDP */
static void mtu_big(struct tcase *t)  { t->action.mtu = 9000; }
static void trailer(struct tcase *t)  { t->in.payload = 3; t->in.trailer = 15; }

static void ttl0(struct tcase *t)   { t->in.ttl = 0; }
static void ttl1(struct tcase *t)   { t->in.ttl = 1; }
static void ttl2(struct tcase *t)   { t->in.ttl = 2; }
static void ttl255(struct tcase *t) { t->in.ttl = 255; }
static void tos(struct tcase *t)    { t->in.tos = 0xb9; t->in.flow_label = 0xabcde; }
static void tos_df(struct tcase *t) { tos(t); t->in.frag = 0x4000; }
static void tos_keep(struct tcase *t)
{
	t->action.flags = L7MP_FLOW_KEEP_TOS;
	t->action.tos = 0x28;
}
static void tos_ef(struct tcase *t)   { t->action.tos = 0xb8; }
static void pad60(struct tcase *t)
{
	t->in.payload = 2;
	t->in.trailer = 60 - 14 - packet_ip_len(&t->in);
}
static void pad60_v6(struct tcase *t) { t->in.payload = 0; t->in.trailer = 6; }
static void mtu_trailer(struct tcase *t)
{
	t->in.payload = t->in.family == 4 ? 1472 : 1452;
	t->in.trailer = 300;
}
static void trailer_move(struct tcase *t) { t->in.trailer = 7; out_q1(t); }
static void gso_trailer(struct tcase *t)
{
	t->in.payload = 1000;
	t->in.trailer = 5;
	t->gso_size = 300;
	t->gso_segs = 4;
}
static void brace(struct tcase *t)
{
	t->in.bytes = (const uint8_t *)"{\"JSONSocketVersion\":1}";
	t->in.payload = 23;
}
static void brace1(struct tcase *t)  { brace(t); t->in.payload = 1; }
static void brace_tag(struct tcase *t) { brace(t); in_q1(t); }
static void no_brace(struct tcase *t)
{
	t->in.bytes = (const uint8_t *)" {\"JSONSocketVersion\":1}";
	t->in.payload = 24;
}
static void json_up(struct tcase *t) { t->action.flags = L7MP_FLOW_JSON_UP; }
static void json_waits(struct tcase *t)
{
	t->action.flags = L7MP_FLOW_JSON_UP | L7MP_FLOW_HANDOVER;
	t->action.handover = 7;
	t->passed = 3;
	t->relayed = 2;
}
static void json_count(struct tcase *t) { json_up(t); t->action.verb = L7MP_VERB_COUNT; }

static void no_csum(struct tcase *t)   { t->in.no_csum = true; }
static void zero_sum(struct tcase *t)  { t->in.zero_sum = true; }
static void zero_out(struct tcase *t)  { t->zero_out = true; }
static void wrong1(struct tcase *t)    { t->in.csum_err = 1; }
static void wrong(struct tcase *t)     { t->in.csum_err = 0xbeef; }
static void wrong_ip(struct tcase *t)  { t->in.ip_err = 0x0101; }

static void options4(struct tcase *t)  { t->in.options = 4; }
static void options40(struct tcase *t) { t->in.options = 40; }
static void ihl4(struct tcase *t)      { t->in.ihl = 4; }
static void ihl0_v5(struct tcase *t)   { t->in.version = 5; }
static void v4_as_v6(struct tcase *t)  { t->in.version = t->in.family == 4 ? 6 : 4; }
static void frag_first(struct tcase *t)  { t->in.frag = 0x2000; }
static void frag_middle(struct tcase *t) { t->in.frag = 0x2000 | 185; }
static void frag_last(struct tcase *t)   { t->in.frag = 370; }
static void df(struct tcase *t)          { t->in.frag = 0x4000; }
static void evil(struct tcase *t)        { t->in.frag = 0x8000; }

static void hopopts(struct tcase *t)  { t->in.ext = IPPROTO_HOPOPTS; }
static void dstopts(struct tcase *t)  { t->in.ext = IPPROTO_DSTOPTS; }
static void routing(struct tcase *t)  { t->in.ext = IPPROTO_ROUTING; }
static void frag6(struct tcase *t)    { t->in.ext = IPPROTO_FRAGMENT; }
static void no_next(struct tcase *t)  { t->in.protocol = IPPROTO_NONE; }
static void tcp(struct tcase *t)      { t->in.protocol = IPPROTO_TCP; }
static void udplite(struct tcase *t)  { t->in.protocol = IPPROTO_UDPLITE; }
static void arp(struct tcase *t)      { t->in.ether_type = 0x0806; }
static void swapped_type(struct tcase *t)
{
	t->in.ether_type = t->in.family == 4 ? 0x86dd : 0x0800;
}

static void ip_short(struct tcase *t)  { t->in.ip_len_add = -1; }
static void ip_long(struct tcase *t)   { t->in.ip_len_add = 1; }
static void ip_tiny(struct tcase *t)   { t->in.payload = 0; t->in.ip_len_add = -1; }
static void ip_zero(struct tcase *t)
{
	t->in.ip_len_add = -(int)packet_ip_len(&t->in) + (t->in.family == 6 ? 40 : 0);
}
static void udp_short(struct tcase *t) { t->in.udp_len_add = -2; }
static void udp_long(struct tcase *t)  { t->in.udp_len_add = 2; }
static void udp_tiny(struct tcase *t)  { t->in.udp_len_add = -(int)t->in.payload - 1; }
static void udp_zero(struct tcase *t)  { t->in.udp_len_add = -(int)t->in.payload - 8; }
static void cut1(struct tcase *t)      { t->cut = 1; }

static void multicast(struct tcase *t) { memcpy(t->in.dmac, "\x01\x00\x5e\x01\x02\x03", 6); }
static void broadcast(struct tcase *t) { memset(t->in.dmac, 0xff, 6); }
static void otherhost(struct tcase *t) { t->in.dmac[5] ^= 1; }

static void other_port(struct tcase *t)  { t->in.sport++; }
static void other_dport(struct tcase *t) { t->in.dport++; }
static void other_src(struct tcase *t)   { t->in.saddr[t->in.family == 4 ? 3 : 15]++; }
static void other_dst(struct tcase *t)   { t->in.daddr[0]++; }
static void reversed(struct tcase *t)
{
	struct packet p = t->in;

	memcpy(t->in.saddr, p.daddr, 16);
	memcpy(t->in.daddr, p.saddr, 16);
	t->in.sport = p.dport;
	t->in.dport = p.sport;
}
static void no_flow(struct tcase *t)   { t->no_flow = true; }

static void half_new(struct tcase *t)  { t->action.version++; }
static void half_old(struct tcase *t)  { t->action.version_end++; }
static void key_saddr(struct tcase *t)
{
	(t->in.family == 4 ? t->action.key.saddr : t->action6.match_saddr.bytes)[3]++;
}
static void key_daddr(struct tcase *t)
{
	(t->in.family == 4 ? t->action.key.daddr : t->action6.match_daddr.bytes)[0]++;
}
static void key_saddr6(struct tcase *t) { t->action6.match_saddr.bytes[15]++; }
static void key_daddr6(struct tcase *t) { t->action6.match_daddr.bytes[8]++; }
static void key_sport(struct tcase *t) { t->action.key.sport ^= htons(2); }
static void key_dport(struct tcase *t) { t->action.key.dport ^= htons(2); }
static void key_l4(struct tcase *t) { t->action.key.l4 = 6; }
static void half_new6(struct tcase *t) { t->action6.version6++; }
/* What an exclusive or of the fields takes for the same: source + 2, destination port + 2. */
static void key_both(struct tcase *t)
{
	(t->in.family == 4 ? t->action.key.saddr : t->action6.match_saddr.bytes)[3] ^= 2;
	t->action.key.dport ^= htons(2);
}

static void elsewhere(struct tcase *t)
{
	t->from = t->rig->out;
	memcpy(t->in.dmac, t->rig->out_mac, 6);
}
static void of_lo(struct tcase *t)     { t->action.in_ifindex = 1; memset(t->action.in_mac, 0, 6); }
static void at_lo(struct tcase *t)     { t->from = 1; memset(t->in.dmac, 0, 6); }
static void localhost(struct tcase *t)
{
	static const uint8_t one[16] = {[15] = 1};

	memcpy(t->in.saddr, t->in.family == 4 ? (const uint8_t *)"\x7f\0\0\1" : one,
	       t->in.family == 4 ? 4 : 16);
	memcpy(t->in.daddr, t->in.saddr, 16);
	t->key_of = t->in;
}
static void own_tags(struct tcase *t)  { t->own_tags = true; }
static void tag_more(struct tcase *t)  { own_tags(t); in_q1(t); }
static void tags_more(struct tcase *t) { own_tags(t); in_q2(t); }
static void tag_missing(struct tcase *t)  { own_tags(t); tags(&t->key_of, 1, QTAG); }
static void tags_missing(struct tcase *t) { tag_missing(t); t->key_of.n_vlans = 2; }
static void tag_id(struct tcase *t)    { tag_missing(t); in_q1(t); t->in.vlan_tci[0] ^= 1; }
static void tag_zero(struct tcase *t)  { own_tags(t); in_q1(t); t->in.vlan_tci[0] = 0; }
static void tag_proto(struct tcase *t) { tag_missing(t); in_ad1(t); }
static void tag_inner(struct tcase *t) { tags_missing(t); in_q2(t); t->in.vlan_tci[1] ^= 0x100; }
static void tag_twice(struct tcase *t) { tag_missing(t); in_q2(t); }
static void tag_prio(struct tcase *t)  { tag_missing(t); in_q1(t); t->in.vlan_tci[0] ^= 0xe000; }
static void tag_third(struct tcase *t) { tags_missing(t); in_q3(t); }
static void no_device(struct tcase *t) { t->action.ifindex = 60000; }
static void tc_only(struct tcase *t)   { t->action.flags = L7MP_FLOW_TC_ONLY; }
static void neigh(struct tcase *t)     { t->action.flags = L7MP_FLOW_NEIGH; }
static void to_lo(struct tcase *t)
{
	t->action.flags = L7MP_FLOW_TO_INGRESS;
	t->action.ifindex = 1;
}
static void reflect(struct tcase *t)
{
	struct packet p = t->in;

	reversed(t);
	memcpy(t->to.saddr, t->in.saddr, 16);
	memcpy(t->to.daddr, t->in.daddr, 16);
	t->to.sport = t->in.sport;
	t->to.dport = t->in.dport;
	t->in = p;
	t->key_of = p;
}
static void reflect_v(struct tcase *t) { t->action.verb = L7MP_VERB_REFLECT; }
static void count_v(struct tcase *t)
{
	t->action.verb = L7MP_VERB_COUNT;
	t->action.ifindex = 0;
	t->action.mtu = 0;
}
static void verb_bad(struct tcase *t)  { t->action.verb = 9; }
static void waits(struct tcase *t)
{
	t->action.flags = L7MP_FLOW_HANDOVER;
	t->action.handover = 7;
	t->passed = 3;
	t->relayed = 2;
}
static void begins(struct tcase *t)    { waits(t); t->relayed = 3; }
static void no_slot(struct tcase *t)   { waits(t); t->action.handover = L7MP_HANDOVER_SLOTS; }
static void waits_tc(struct tcase *t)  { waits(t); t->action.flags |= L7MP_FLOW_TC_ONLY; }
static void same(struct tcase *t)
{
	memcpy(t->to.saddr, t->in.saddr, 16);
	memcpy(t->to.daddr, t->in.daddr, 16);
	t->to.sport = t->in.sport;
	t->to.dport = t->in.dport;
}
static void tos_tag(struct tcase *t)   { tos(t); in_q2(t); }
static void tos_wrong(struct tcase *t) { tos(t); wrong_ip(t); }
static void reflect_ttl2(struct tcase *t) { ttl2(t); reflect(t); }
static void same_addr(struct tcase *t)
{
	same(t);
	t->to.dport++;
}
static void ones(struct tcase *t)
{
	memset(t->to.saddr, 0xff, 16);
	memset(t->to.daddr, 0xff, 16);
	t->to.sport = t->to.dport = 0xffff;
}
static void gso(struct tcase *t)       { t->in.payload = 1000; t->gso_size = 300; t->gso_segs = 4; }
static void gso_no_segs(struct tcase *t) { t->in.payload = 1000; t->gso_size = 300; }
static void gso_big(struct tcase *t)
{
	t->in.payload = 2900;
	t->gso_size = 1400;
	t->gso_segs = 3;
}
static void gso_over(struct tcase *t)
{
	t->in.payload = 2900;
	t->gso_size = 1473;
	t->gso_segs = 2;
}
static void no_headroom(struct tcase *t) { t->meta = 216; out_q1(t); }
static void trailer_room(struct tcase *t) { no_headroom(t); t->in.trailer = 4; }
/* clang-format on */

#define V(v)    L7MP_VERDICT_##v
#define FWD     V(FORWARDED), V(FORWARDED)
#define BOTH(v) V(v), V(v)
const struct tcase_def tcases[] = {
        {"plain", 0, FWD, NULL, NULL},
        {"empty payload", 0, FWD, payload0, NULL},
        {"payload of 1", 0, FWD, payload1, NULL},
        {"odd payload", 0, FWD, odd, NULL},
        {"trailing bytes are cut off", 0, FWD, trailer, NULL},
        {"a short frame's padding is cut off", 4, FWD, pad60, NULL},
        {"a short frame's padding is cut off", 6, FWD, pad60_v6, NULL},
        {"exactly the MTU and trailing bytes", 0, FWD, mtu_trailer, NULL},
        {"trailing bytes and another number of tags", 0, V(FORWARDED), V(PASS_VLAN), trailer_move,
         NULL},
        {"trailing bytes, no headroom for a tag", 0, V(PASS_VLAN), NOT_RUN, trailer_room, NULL},
        {"trailing bytes behind a GSO packet", 0, NOT_RUN, V(PASS_MALFORMED), gso_trailer, NULL},
        {"Discard takes trailing bytes", 0, BOTH(COUNTED), trailer, count_v},
        {"TOS becomes the flow's, DF is set, no flow label", 0, FWD, tos, NULL},
        {"TOS becomes the flow's, DF was set", 0, FWD, tos_df, NULL},
        {"TOS becomes the flow's 0xb8", 0, FWD, tos, tos_ef},
        {"TOS of 0 becomes the flow's 0xb8", 0, FWD, NULL, tos_ef},
        {"TOS stays", 0, FWD, tos, tos_keep},
        {"TOS stays, tagged", 0, FWD, tos_tag, tos_keep},
        {"a wrong IP checksum stays wrong, other TOS", 4, FWD, tos_wrong, tos_ef},
        {"TTL 2", 0, FWD, ttl2, NULL},
        {"TTL 255", 0, FWD, ttl255, NULL},
        {"TTL 1", 0, BOTH(PASS_TTL), ttl1, NULL},
        {"TTL 0", 0, BOTH(PASS_TTL), ttl0, NULL},
        {"new addresses and ports all ones", 0, FWD, ones, NULL},
        {"nothing to rewrite but the MACs", 0, FWD, same, NULL},
        {"one port to rewrite", 0, FWD, same_addr, NULL},
        /* tags */
        {"802.1Q in, none out", 0, FWD, in_q1, NULL},
        {"802.1ad in, none out", 0, FWD, in_ad1, NULL},
        {"two 802.1Q in, none out", 0, FWD, in_q2, NULL},
        {"802.1ad and 802.1Q in, none out", 0, FWD, in_ad2, NULL},
        {"three tags in", 0, BOTH(PASS_NOT_IP), in_q3, NULL},
        {"none in, 802.1Q out", 0, V(FORWARDED), V(PASS_VLAN), out_q1, NULL},
        {"none in, 802.1ad out", 0, V(FORWARDED), V(PASS_VLAN), out_ad1, NULL},
        {"none in, two tags out", 0, V(FORWARDED), V(PASS_VLAN), out_q2, NULL},
        {"one tag in, another out", 0, V(FORWARDED), V(PASS_VLAN), q1_q1, NULL},
        {"one tag in, two out", 0, V(FORWARDED), V(PASS_VLAN), q1_q2, NULL},
        {"two tags in, one out", 0, V(FORWARDED), V(PASS_VLAN), q2_q1, NULL},
        {"two tags in, two out", 0, V(FORWARDED), V(PASS_VLAN), q2_q2, NULL},
        {"three tags out", 0, BOTH(PASS_VLAN), NULL, three_tags},
        {"no headroom for a tag", 0, V(PASS_VLAN), NOT_RUN, no_headroom, NULL},
        /* size */
        {"exactly the MTU", 0, FWD, mtu_size, NULL},
        {"exactly the MTU, tags do not count", 0, V(FORWARDED), NOT_RUN, mtu_tag, NULL},
        {"MTU and one byte more", 0, BOTH(PASS_MTU), mtu_more, NULL},
        {"jumbo out of a jumbo device", 0, FWD, jumbo, mtu_big},
        {"jumbo out of a device of 1500", 0, BOTH(PASS_MTU), jumbo, NULL},
        /* checksums */
        {"UDP checksum 0 stays", 4, FWD, no_csum, NULL},
        {"UDP checksum 0", 6, BOTH(PASS_CHECKSUM), no_csum, NULL},
        {"UDP checksum of all ones in", 0, FWD, zero_sum, NULL},
        {"UDP checksum that becomes 0 leaves as all ones", 0, FWD, zero_out, NULL},
        {"wrong UDP checksum stays wrong", 0, FWD, wrong, NULL},
        {"UDP checksum wrong by one stays wrong", 0, FWD, wrong1, NULL},
        {"wrong IP checksum stays wrong", 4, FWD, wrong_ip, NULL},
        /* IP */
        {"4 bytes of options", 4, BOTH(PASS_OPTIONS), options4, NULL},
        {"40 bytes of options", 4, BOTH(PASS_OPTIONS), options40, NULL},
        {"header length 4 words", 4, BOTH(PASS_MALFORMED), ihl4, NULL},
        {"version 5", 0, BOTH(PASS_MALFORMED), ihl0_v5, NULL},
        {"the other IP version", 0, BOTH(PASS_MALFORMED), v4_as_v6, NULL},
        {"first fragment", 4, BOTH(PASS_FRAGMENT), frag_first, NULL},
        {"middle fragment", 4, BOTH(PASS_FRAGMENT), frag_middle, NULL},
        {"last fragment", 4, BOTH(PASS_FRAGMENT), frag_last, NULL},
        {"DF", 4, FWD, df, NULL},
        {"the reserved flag becomes DF", 4, FWD, evil, NULL},
        {"hop-by-hop options", 6, V(PASS_TCP), V(PASS_NOT_UDP), hopopts, NULL},
        {"destination options", 6, BOTH(PASS_NOT_UDP), dstopts, NULL},
        {"routing header", 6, BOTH(PASS_NOT_UDP), routing, NULL},
        {"fragment header", 6, V(PASS_TCP), V(PASS_NOT_UDP), frag6, NULL},
        {"no next header", 6, BOTH(PASS_NOT_UDP), no_next, NULL},
        {"TCP", 0, V(PASS_TCP), V(PASS_NO_FLOW), tcp, NULL},
        {"UDP-Lite", 0, BOTH(PASS_NOT_UDP), udplite, NULL},
        {"ARP", 0, BOTH(PASS_NOT_IP), arp, NULL},
        {"EtherType of the other IP", 0, BOTH(PASS_MALFORMED), swapped_type, NULL},
        {"IP length one less", 0, BOTH(PASS_MALFORMED), ip_short, NULL},
        {"IP length one more than the frame", 0, BOTH(PASS_TRUNCATED), ip_long, NULL},
        {"IP length too small for UDP", 0, BOTH(PASS_MALFORMED), ip_tiny, NULL},
        {"IP length 0", 0, BOTH(PASS_MALFORMED), ip_zero, NULL},
        {"last byte missing", 0, BOTH(PASS_TRUNCATED), cut1, NULL},
        {"UDP length less than IP's", 0, BOTH(PASS_MALFORMED), udp_short, NULL},
        {"UDP length more than IP's", 0, BOTH(PASS_MALFORMED), udp_long, NULL},
        {"UDP length 7", 0, BOTH(PASS_MALFORMED), udp_tiny, NULL},
        {"UDP length 0", 0, BOTH(PASS_MALFORMED), udp_zero, NULL},
        /* link */
        {"multicast MAC", 0, BOTH(PASS_NOT_HOST), multicast, NULL},
        {"broadcast MAC", 0, BOTH(PASS_NOT_HOST), broadcast, NULL},
        {"MAC of another host", 0, BOTH(PASS_NOT_HOST), otherhost, NULL},
        /* look-up */
        {"no flow at all", 0, BOTH(PASS_NO_FLOW), no_flow, NULL},
        {"another source port", 0, BOTH(PASS_NO_FLOW), other_port, NULL},
        {"another destination port", 0, BOTH(PASS_NO_FLOW), other_dport, NULL},
        {"another source", 0, BOTH(PASS_NO_FLOW), other_src, NULL},
        {"another destination", 0, BOTH(PASS_NO_FLOW), other_dst, NULL},
        {"the other direction", 0, BOTH(PASS_NO_FLOW), reversed, NULL},
        {"the value is being overwritten upwards", 0, BOTH(PASS_STALE), NULL, half_new},
        {"the value is being overwritten downwards", 0, BOTH(PASS_STALE), NULL, half_old},
        {"only its IPv6 part is overwritten yet", 6, BOTH(PASS_STALE), NULL, half_new6},
        {"the value is that of another source", 0, BOTH(PASS_STALE), NULL, key_saddr},
        {"the value is that of another destination", 0, BOTH(PASS_STALE), NULL, key_daddr},
        {"the value differs in the source's end", 6, BOTH(PASS_STALE), NULL, key_saddr6},
        {"the value differs in the destination's end", 6, BOTH(PASS_STALE), NULL, key_daddr6},
        {"the value is that of another source port", 0, BOTH(PASS_STALE), NULL, key_sport},
        {"the value is that of another destination port", 0, BOTH(PASS_STALE), NULL, key_dport},
        {"the value is that of another protocol", 0, BOTH(PASS_STALE), NULL, key_l4},
        {"the value differs twice in the same bits", 0, BOTH(PASS_STALE), NULL, key_both},
        /* ingress */
        {"by another interface", 0, BOTH(PASS_INGRESS), elsewhere, NULL},
        {"a flow of lo, a frame on the wire", 0, BOTH(PASS_INGRESS), NULL, of_lo},
        {"a flow of lo, a frame on the wire from localhost", 0, BOTH(PASS_INGRESS), localhost,
         of_lo},
        {"a flow of lo, a packet on lo", 0, NOT_RUN, V(FORWARDED), at_lo, of_lo},
        {"by another interface, Echo", 0, BOTH(PASS_INGRESS), elsewhere, reflect_v},
        {"by another interface, Discard", 0, BOTH(PASS_INGRESS), elsewhere, count_v},
        {"a tag that the flow does not have", 0, BOTH(PASS_TAGS), tag_more, NULL},
        {"two tags that the flow does not have", 0, BOTH(PASS_TAGS), tags_more, NULL},
        {"a priority tag (VLAN 0)", 0, BOTH(PASS_TAGS), tag_zero, NULL},
        {"the flow's tag is missing", 0, BOTH(PASS_TAGS), tag_missing, NULL},
        {"the flow's two tags are missing", 0, BOTH(PASS_TAGS), tags_missing, NULL},
        {"another VLAN", 0, BOTH(PASS_TAGS), tag_id, NULL},
        {"the other tag protocol", 0, BOTH(PASS_TAGS), tag_proto, NULL},
        {"another inner VLAN", 0, BOTH(PASS_TAGS), tag_inner, NULL},
        {"a second tag inside", 0, BOTH(PASS_TAGS), tag_twice, NULL},
        {"the flow's VLAN, another priority", 0, FWD, tag_prio, NULL},
        {"a third tag inside", 0, BOTH(PASS_NOT_IP), tag_third, NULL},
        {"Discard, a tag too many", 0, BOTH(PASS_TAGS), tag_more, count_v},
        /* ways out */
        {"device is not in the map", 0, V(PASS_DEVICE), NOT_RUN, NULL, no_device},
        {"left to tc", 0, V(PASS_TO_TC), V(FORWARDED), NULL, tc_only},
        {"the kernel finds the neighbour", 0, V(PASS_TO_TC), V(FORWARDED), NULL, neigh},
        {"into the receive path of lo", 0, V(PASS_TO_TC), V(FORWARDED), NULL, to_lo},
        {"Echo", 0, BOTH(REFLECTED), reflect, reflect_v},
        {"Echo, wrong checksum stays wrong", 0, BOTH(REFLECTED), wrong, reflect_v},
        {"Echo of TTL 1", 0, BOTH(PASS_TTL), ttl1, reflect_v},
        {"Echo of TTL 2 leaves with 1", 0, BOTH(REFLECTED), reflect_ttl2, reflect_v},
        {"Discard of TTL 1", 0, BOTH(PASS_TTL), ttl1, count_v},
        {"Discard", 0, BOTH(COUNTED), NULL, count_v},
        {"Discard takes any size", 0, BOTH(COUNTED), jumbo, count_v},
        {"unknown verb", 0, BOTH(PASS_KERNEL), NULL, verb_bad},
        /* JSONSocket */
        {"begins with {", 0, BOTH(PASS_JSON), brace, json_up},
        {"is {", 0, BOTH(PASS_JSON), brace1, json_up},
        {"begins with {, tagged", 0, BOTH(PASS_JSON), brace_tag, json_up},
        {"begins with {, Discard", 0, BOTH(PASS_JSON), brace, json_count},
        {"begins with {, in the hand-over", 0, BOTH(PASS_HANDOVER), brace, json_waits},
        {"begins with a blank", 0, FWD, no_brace, json_up},
        {"empty, of a JSONSocket", 0, FWD, payload0, json_up},
        {"begins with {, of no JSONSocket", 0, FWD, brace, NULL},
        /* hand-over */
        {"a packet before it is still in user space", 0, BOTH(PASS_HANDOVER), NULL, waits},
        {"the same, for the tc program behind", 0, BOTH(PASS_HANDOVER), NULL, waits_tc},
        {"user space has relayed all before it", 0, FWD, NULL, begins},
        {"hand-over without a place", 0, FWD, NULL, no_slot},
        /* segments */
        {"GSO packet counts its segments", 0, NOT_RUN, V(FORWARDED), gso, NULL},
        {"GSO packet without a count", 0, NOT_RUN, V(FORWARDED), gso_no_segs, NULL},
        {"GSO packet beyond the MTU, its segments fit", 0, NOT_RUN, V(FORWARDED), gso_big, NULL},
        {"GSO segments beyond the MTU", 0, NOT_RUN, V(PASS_MTU), gso_over, NULL},
        {"Discard of a GSO packet", 0, NOT_RUN, V(COUNTED), gso, count_v},
};
const size_t tcases_n = sizeof(tcases) / sizeof(tcases[0]);
