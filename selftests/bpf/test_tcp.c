/* SPDX-License-Identifier: MIT */
/*
 * Segments of a pair of TCP connections through the tc program, each compared byte by byte with
 * what the model (tcp_model.c) makes of it: what leaves, what goes up, and what the pair has noted.
 * First cases that are named, then random ones.
 */
#include <bpf/bpf.h>
#include <linux/pkt_cls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tcp_trial.h"

#define ME(t)    (&(t)->pair.dir[(t)->dir])
#define OTHER(t) (&(t)->pair.dir[!(t)->dir])

static struct rig rig;

/* clang-format off */
static void none(struct trial *t) { (void)t; }
static void watch(struct trial *t) { t->pair.phase = L7MP_TCP_WATCH; }
static void stop(struct trial *t)  { t->pair.phase = L7MP_TCP_STOP; }
static void dir1(struct trial *t)  { t->dir = 1; trial_fit(t); }
static void no_data(struct trial *t)  { t->in.payload = 0; }
static void odd(struct trial *t)      { t->in.payload = 333; }
static void padded(struct trial *t)   { t->in.payload = 0; t->in.trailer = 6; }
static void tagged(struct trial *t)
{
	t->in.n_vlans = 1;
	t->in.vlan_proto[0] = 0x8100;
	t->in.vlan_tci[0] = 0x2064;
}
static void tagged2(struct trial *t)
{
	tagged(t);
	t->in.n_vlans = 2;
	t->in.vlan_proto[0] = 0x88a8;
	t->in.vlan_proto[1] = 0x8100;
	t->in.vlan_tci[1] = 0x0123;
}
static void ts(struct trial *t)       { trial_time_stamps(t); }
static void ts_first(struct trial *t) { ts(t); ME(t)->ts = 0; }
static void ts_no_echo(struct trial *t) { ts(t); OTHER(t)->ts = 0; }
static void ts_own(struct trial *t)   { ts(t); OTHER(t)->ts_own = 0x00fedcba; }
static void ts_own_before(struct trial *t) { ts(t); OTHER(t)->ts_own = 0x00fedcb9; }
static void ts_not(struct trial *t)   { ts(t); ME(t)->flags = 0; }
static void ts_odd(struct trial *t)
{
	trial_options(t, "\1\1\1\10\12\1\2\3\4\5\6\7\10\0\0\0", 16);
}
static void ts_last(struct trial *t)  { ts(t); ME(t)->ts_out = 0x80001233 + (uint32_t)ME(t)->ts; }
static void ts_older(struct trial *t) { ts(t); ME(t)->ts_out = 0x80001235 + (uint32_t)ME(t)->ts; }
static void sack1(struct trial *t)
{
	trial_options(t, "\1\1\5\12\377\377\377\360\0\0\0\20", 12);
}
static void sack_odd(struct trial *t)
{
	trial_options(t, "\1\5\12\377\377\377\360\0\0\0\20\0", 12);
}
static void sack4(struct trial *t)
{
	trial_options(t, "\5\42\1\2\3\4\5\6\7\10\11\12\13\14\15\16\17\20"
	                 "\21\22\23\24\25\26\27\30\31\32\33\34\35\36\37\40\1\1", 36);
}
static void sack_ts(struct trial *t)
{
	trial_options(t, "\1\1\10\12\1\2\3\4\5\6\7\10\1\1\5\32\1\2\3\4\5\6\7\10"
	                 "\11\12\13\14\15\16\17\20\21\22\23\24\25\26\27\30", 40);
}
static void sack_first(struct trial *t)
{
	trial_options(t, "\5\12\1\2\3\4\5\6\7\10\10\12\1\2\3\4\5\6\7\10", 20);
}
static void sack_not(struct trial *t) { sack_ts(t); ME(t)->flags |= L7MP_TCP_NOSACK; }
static void sack_not_odd(struct trial *t) { sack_odd(t); ME(t)->flags |= L7MP_TCP_NOSACK; }
static void nops(struct trial *t)     { memset(t->tcp.options, 1, 40); t->tcp.options_len = 40; }
static void end_of_options(struct trial *t) { trial_options(t, "\0\375\4\1", 4); }
static void wrap(struct trial *t)
{
	ME(t)->seq_max = OTHER(t)->ack_max = ME(t)->own_seq = 0xffffffd0;
	OTHER(t)->ack_floor = ME(t)->own_seq;
	trial_fit(t);
}
static void wrap_ack(struct trial *t)
{
	ME(t)->ack_floor = ME(t)->ack_max = OTHER(t)->seq_max = OTHER(t)->own_seq = 0xffffffd0;
	ME(t)->edge = 1000;
	trial_fit(t);
	t->tcp.ack += 0x60;
}
static void tos(struct trial *t)      { t->in.tos = 0xb9 | 3; t->in.flow_label = 0xabcde; }
static void tos_keep(struct trial *t) { tos(t); t->action.action.flags |= L7MP_FLOW_KEEP_TOS; }
static void no_df(struct trial *t)    { t->in.frag = 0; }
static void ece(struct trial *t)      { t->tcp.flags |= TCP_ECE | TCP_CWR; }
static void bad_sum(struct trial *t)  { t->in.csum_err = 0x1234; }
static void mtu_fits(struct trial *t) { t->in.payload = 1500 - (t->in.family == 4 ? 40 : 60); }
static void mtu_more(struct trial *t) { mtu_fits(t); t->in.payload++; }
static void gso(struct trial *t)      { t->in.payload = 2900; t->gso_size = 1000; }
static void gso_mtu(struct trial *t)
{
	gso(t);
	t->gso_size = 1500 - (t->in.family == 4 ? 39 : 59);
}
static void old_data(struct trial *t) { t->tcp.seq -= 50; }
static void far_data(struct trial *t) { t->tcp.seq += 1U << 27; ts(t); ME(t)->ts = 0; }
static void far_ack(struct trial *t)  { t->tcp.ack += 1U << 27; }
static void old_ack(struct trial *t)  { t->tcp.ack -= 5000; }
static void new_ack(struct trial *t)  { OTHER(t)->seq_max += 9000; t->tcp.ack += 8000; }
static void edge_near(struct trial *t)   { ME(t)->edge = ME(t)->ack_floor + 5000; }
static void edge_behind(struct trial *t) { ME(t)->edge = ME(t)->ack_floor - 1; }
static void own_ack_less(struct trial *t) { ME(t)->own_ack -= 777; }
static void fin(struct trial *t)      { t->tcp.flags |= TCP_FIN; }
static void fin_bare(struct trial *t) { fin(t); no_data(t); }
static void fin_acked(struct trial *t)
{
	OTHER(t)->seen = L7MP_TCP_FIN;
	OTHER(t)->seq_max++;
	OTHER(t)->fin_end = OTHER(t)->seq_max;
	t->tcp.ack = OTHER(t)->fin_end - ME(t)->ack_delta;
}
static void fin_not_acked(struct trial *t) { fin_acked(t); t->tcp.ack--; }
static void rst(struct trial *t)      { t->tcp.flags = TCP_RST; no_data(t); }
static void rst_ack(struct trial *t)  { t->tcp.flags = TCP_RST | TCP_ACK; no_data(t); }
static void rst_ts(struct trial *t)   { rst_ack(t); ts(t); ME(t)->ts = 0; }
static void rst_last(struct trial *t) { rst(t); t->tcp.seq += OTHER(t)->win; }
static void rst_past(struct trial *t) { rst_last(t); t->tcp.seq++; }
static void rst_old(struct trial *t)  { rst(t); t->tcp.seq--; }
static void alive(struct trial *t)
{
	ME(t)->seen = OTHER(t)->seen = L7MP_TCP_RST | L7MP_TCP_SEEN;
}
static void syn(struct trial *t)
{
	t->tcp.flags = TCP_SYN;
	t->tcp.ack = 0;
	t->tcp.seq = 12345;
	no_data(t);
	trial_options(t, "\2\4\5\264\4\2\10\12\0\0\0\1\0\0\0\0\1\3\3\7", 20);
}
static void syn_bare(struct trial *t) { syn(t); t->tcp.options_len = 0; }
static void syn_over(struct trial *t)
{
	syn_bare(t);
	ME(t)->seen = OTHER(t)->seen = L7MP_TCP_FIN | L7MP_TCP_FIN_ACKED;
}
static void syn_options_over(struct trial *t) { syn_over(t); syn(t); }
static void syn_options_rst(struct trial *t) { syn(t); ME(t)->seen = L7MP_TCP_RST; }
static void syn_again(struct trial *t) { syn(t); ME(t)->seen = L7MP_TCP_CHALLENGED; }
static void rst_answer(struct trial *t) { rst(t); ME(t)->seen = L7MP_TCP_CHALLENGED; }
static void rst_no_answer(struct trial *t) { rst_answer(t); t->tcp.seq++; }
static void rst_other(struct trial *t) { rst(t); OTHER(t)->seen = L7MP_TCP_CHALLENGED; }
static void syn_half(struct trial *t) { syn_over(t); OTHER(t)->seen = 0; }
static void syn_rst(struct trial *t)  { syn_bare(t); OTHER(t)->seen = L7MP_TCP_RST; }
static void syn_ack(struct trial *t)  { syn_over(t); t->tcp.flags |= TCP_ACK; }
static void reused(struct trial *t)   { ME(t)->seen = L7MP_TCP_REUSED; }
static void reused_other(struct trial *t) { OTHER(t)->seen = L7MP_TCP_REUSED; }
static void urgent(struct trial *t)   { t->tcp.flags |= TCP_URG; t->tcp.urgent = 3; }
static void no_ack(struct trial *t)   { t->tcp.flags = TCP_PSH; }
static void rst_fin(struct trial *t)  { t->tcp.flags = TCP_RST | TCP_FIN; no_data(t); }
static void md5(struct trial *t)      { trial_options(t, "\1\1\23\22" "0123456789abcdef", 20); }
static void ao(struct trial *t)       { trial_options(t, "\35\20\1\2" "0123456789ab", 16); }
static void mptcp(struct trial *t)    { trial_options(t, "\36\10\40\0\1\2\3\4", 8); }
static void mss(struct trial *t)      { trial_options(t, "\2\4\5\264", 4); }
static void ts_twice(struct trial *t)
{
	trial_options(t, "\10\12\1\2\3\4\5\6\7\10\10\12\1\2\3\4\5\6\7\10", 20);
}
static void option_long(struct trial *t)  { trial_options(t, "\1\1\10\12", 4); }
static void option_short(struct trial *t) { trial_options(t, "\10\1\1\1", 4); }
static void option_cut(struct trial *t)   { trial_options(t, "\1\1\1\10", 4); }
static void ttl1(struct trial *t)     { t->in.ttl = 1; }
static void ttl2(struct trial *t)     { t->in.ttl = 2; }
static void ip_options(struct trial *t) { t->in.options = 8; }
static void frag1(struct trial *t)    { t->in.frag = 0x2000; }
static void frag2(struct trial *t)    { t->in.frag = 100; }
static void frag6(struct trial *t)    { t->in.ext = 44; }
static void hopopts(struct trial *t)  { t->in.ext = 0; }
static void neigh(struct trial *t)    { t->action.action.flags |= L7MP_FLOW_NEIGH; }
static void tags_out(struct trial *t) { t->to.n_vlans = 1; }
static void to_lo(struct trial *t)    { t->action.action.flags |= L7MP_FLOW_TO_INGRESS; }
static void expected_last(struct trial *t)
{
	watch(t);
	t->tcp.seq = ME(t)->own_seq + L7MP_TCP_PLAUSIBLE - 1;
	t->tcp.ack = ME(t)->own_ack - L7MP_TCP_PLAUSIBLE;
}
static void seq_wrong(struct trial *t) { expected_last(t); t->tcp.seq++; }
static void ack_wrong(struct trial *t) { expected_last(t); t->tcp.ack--; }
static void stop_old(struct trial *t)  { stop(t); t->tcp.seq -= 200; }
static void stop_across(struct trial *t) { stop(t); t->tcp.seq -= 50; }
static void stop_fin_again(struct trial *t)
{
	stop(t);
	fin_bare(t);
	ME(t)->seen = L7MP_TCP_FIN;
	ME(t)->fin_end = ME(t)->seq_max;
	t->tcp.seq = ME(t)->seq_max - 1;
}
static void stop_behind(struct trial *t)
{
	/* The far end has not yet acknowledged the last 5000 bytes. */
	stop(t);
	OTHER(t)->ack_max -= 5000;
}
static void stop_behind_ack(struct trial *t) { stop_behind(t); no_data(t); }
static void stop_room(struct trial *t)
{
	stop(t);
	OTHER(t)->seq_max += 3000; /* 3000 bytes that are on their way to this end */
}
static void stop_window0(struct trial *t) { stop(t); no_data(t); }
static void stop_rst(struct trial *t)     { stop(t); rst(t); }
static void stop_rst_new(struct trial *t) { stop(t); rst(t); t->tcp.seq += 10; }

static void free_pair(struct trial *t) { t->pair.phase = L7MP_TCP_FREE; }
static void phase5(struct trial *t)    { t->pair.phase = 5; }
static void other_id(struct trial *t)  { t->pair.id++; }
static void no_pair(struct trial *t)   { t->action.action.pair = L7MP_TCP_PAIRS; }
static void forward(struct trial *t)   { t->action.action.verb = L7MP_VERB_FORWARD; }
static void half(struct trial *t)      { t->action.action.version++; }
static void half6(struct trial *t)     { t->action.version6++; }
static void other_key(struct trial *t) { t->action.action.key.l4 = 17; }
static void no_flow(struct trial *t)   { t->no_flow = true; }
static void other_port(struct trial *t) { t->in.sport++; }
static void elsewhere(struct trial *t) { t->from = rig.out; memcpy(t->in.dmac, rig.out_mac, 6); }
static void not_ours(struct trial *t)  { t->in.dmac[5] ^= 1; }
static void no_tag(struct trial *t)    { t->key_of.n_vlans = 0; }
static void short_doff(struct trial *t) { t->doff = 4; }
static void long_doff(struct trial *t)  { t->in.payload = 3; t->doff = 6; }
static void ip_long(struct trial *t)    { t->in.ip_len_add = 1; }
static void cut_tcp(struct trial *t)    { t->cut = t->in.payload + 1; }
static void gso_tail(struct trial *t)   { gso(t); t->in.trailer = 4; }
/* clang-format on */

struct named {
	const char *name;
	void (*make[3])(struct trial *t); /* before the flow is made */
	void (*flow)(struct trial *t);    /* changes the flow */
	int verdict;
	int family; /* 0: both */
};

/* These are run in TRANS, FAST and STOP, and in both directions. */
static const struct named segments[] = {
        {"data", {none}, NULL, TRIAL_MODEL, 0},
        {"no data", {no_data}, NULL, TRIAL_MODEL, 0},
        {"odd length", {odd}, NULL, TRIAL_MODEL, 0},
        {"padding", {padded}, NULL, TRIAL_MODEL, 0},
        {"a tag", {tagged}, NULL, TRIAL_MODEL, 0},
        {"two tags", {tagged2, ts}, NULL, TRIAL_MODEL, 0},
        {"a wrong checksum stays wrong", {bad_sum, ts}, NULL, TRIAL_MODEL, 0},
        {"time stamps", {ts}, NULL, TRIAL_MODEL, 0},
        {"the first time stamp", {ts_first}, NULL, TRIAL_MODEL, 0},
        {"no echo is known yet", {ts_no_echo}, NULL, TRIAL_MODEL, 0},
        {"time stamps are blanked", {ts_not}, NULL, TRIAL_MODEL, 0},
        {"time stamps at an odd offset", {ts_odd}, NULL, TRIAL_MODEL, 0},
        {"an echo of what the socket sent", {ts_own}, NULL, TRIAL_MODEL, 0},
        {"an echo of the first one after that", {ts_own_before}, NULL, TRIAL_MODEL, 0},
        {"a newer time stamp", {ts_last}, NULL, TRIAL_MODEL, 0},
        {"an older time stamp", {ts_older}, NULL, TRIAL_MODEL, 0},
        {"SACK", {sack1}, NULL, TRIAL_MODEL, 0},
        {"SACK at an odd offset", {sack_odd}, NULL, TRIAL_MODEL, 0},
        {"four SACK blocks", {sack4, no_data}, NULL, TRIAL_MODEL, 0},
        {"SACK behind time stamps", {sack_ts}, NULL, TRIAL_MODEL, 0},
        {"SACK before time stamps", {sack_first}, NULL, TRIAL_MODEL, 0},
        {"SACK is blanked", {sack_not}, NULL, TRIAL_MODEL, 0},
        {"SACK at an odd offset is blanked", {sack_not_odd}, NULL, TRIAL_MODEL, 0},
        {"40 no operations", {nops}, NULL, TRIAL_MODEL, 0},
        {"the options end early", {end_of_options}, NULL, TRIAL_MODEL, 0},
        {"sequence numbers wrap", {wrap}, NULL, TRIAL_MODEL, 0},
        {"acknowledgements wrap", {wrap_ack}, NULL, TRIAL_MODEL, 0},
        {"type of service is the flow's, ECN stays", {tos}, NULL, TRIAL_MODEL, 0},
        {"type of service stays", {tos}, tos_keep, TRIAL_MODEL, 0},
        {"DF stays away", {no_df}, NULL, TRIAL_MODEL, 4},
        {"ECE and CWR", {ece}, NULL, TRIAL_MODEL, 0},
        {"as large as the MTU", {mtu_fits}, NULL, TRIAL_MODEL, 0},
        {"larger than the MTU", {mtu_more}, NULL, TRIAL_MODEL, 0},
        {"old data", {old_data}, NULL, TRIAL_MODEL, 0},
        {"data of nobody knows where", {far_data}, NULL, TRIAL_MODEL, 0},
        {"acknowledges what was never sent", {far_ack}, NULL, TRIAL_MODEL, 0},
        {"an old acknowledgement", {old_ack}, NULL, TRIAL_MODEL, 0},
        {"a new acknowledgement", {new_ack}, NULL, TRIAL_MODEL, 0},
        {"the window is limited", {edge_near}, NULL, TRIAL_MODEL, 0},
        {"no window", {edge_behind}, NULL, TRIAL_MODEL, 0},
        {"acknowledges more than the near socket sent", {own_ack_less}, NULL, TRIAL_MODEL, 0},
        {"FIN with data", {fin}, NULL, TRIAL_MODEL, 0},
        {"FIN alone", {fin_bare}, NULL, TRIAL_MODEL, 0},
        {"FIN is acknowledged", {fin_acked}, NULL, TRIAL_MODEL, 0},
        {"FIN is not acknowledged", {fin_not_acked}, NULL, TRIAL_MODEL, 0},
        {"RST", {rst}, NULL, TRIAL_MODEL, 0},
        {"RST with ACK", {rst_ack}, NULL, TRIAL_MODEL, 0},
        {"RST teaches no time stamp", {rst_ts}, NULL, TRIAL_MODEL, 0},
        {"RST at the end of the window", {rst_last}, NULL, TRIAL_MODEL, 0},
        {"RST behind the window", {rst_past}, NULL, TRIAL_MODEL, 0},
        {"RST before the window", {rst_old}, NULL, TRIAL_MODEL, 0},
        {"something follows a RST", {alive}, NULL, TRIAL_MODEL, 0},
        {"SYN", {syn_bare}, NULL, TRIAL_MODEL, 0},
        {"SYN with options", {syn}, NULL, TRIAL_MODEL, 0},
        {"SYN after the end", {syn_over}, NULL, TRIAL_MODEL, 0},
        {"SYN with options after the end", {syn_options_over}, NULL, TRIAL_MODEL, 0},
        {"SYN with options after a RST", {syn_options_rst}, NULL, TRIAL_MODEL, 0},
        {"SYN with options after a challenge", {syn_again}, NULL, TRIAL_MODEL, 0},
        {"RST that answers a challenge", {rst_answer}, NULL, TRIAL_MODEL, 0},
        {"RST that does not answer it exactly", {rst_no_answer}, NULL, TRIAL_MODEL, 0},
        {"RST while the other end is challenged", {rst_other}, NULL, TRIAL_MODEL, 0},
        {"SYN after half the end", {syn_half}, NULL, TRIAL_MODEL, 0},
        {"SYN after a RST", {syn_rst}, NULL, TRIAL_MODEL, 0},
        {"SYN and ACK", {syn_ack}, NULL, TRIAL_MODEL, 0},
        {"after a SYN after the end", {reused}, NULL, TRIAL_MODEL, 0},
        {"the other way after it", {reused_other}, NULL, TRIAL_MODEL, 0},
        {"urgent", {urgent}, NULL, TRIAL_MODEL, 0},
        {"neither ACK nor RST", {no_ack}, NULL, TRIAL_MODEL, 0},
        {"RST and FIN", {rst_fin}, NULL, TRIAL_MODEL, 0},
        {"MD5", {md5}, NULL, TRIAL_MODEL, 0},
        {"AO", {ao}, NULL, TRIAL_MODEL, 0},
        {"MPTCP", {mptcp}, NULL, TRIAL_MODEL, 0},
        {"MSS", {mss}, NULL, TRIAL_MODEL, 0},
        {"time stamps twice", {ts_twice}, NULL, TRIAL_MODEL, 0},
        {"an option longer than the header", {option_long}, NULL, TRIAL_MODEL, 0},
        {"an option of one byte", {option_short}, NULL, TRIAL_MODEL, 0},
        {"an option without a length", {option_cut}, NULL, TRIAL_MODEL, 0},
        {"TTL 1", {ttl1}, NULL, TRIAL_MODEL, 0},
        {"TTL 2", {ttl2}, NULL, TRIAL_MODEL, 0},
        {"IPv4 options", {ip_options}, NULL, TRIAL_MODEL, 4},
        {"first fragment", {frag1}, NULL, TRIAL_MODEL, 4},
        {"later fragment", {frag2}, NULL, L7MP_VERDICT_PASS_FRAGMENT, 4},
        {"first fragment", {frag6}, NULL, TRIAL_MODEL, 6},
        {"hop-by-hop options", {hopopts}, NULL, L7MP_VERDICT_PASS_NOT_UDP, 6},
        {"egress needs the neighbour table", {none}, neigh, TRIAL_MODEL, 0},
        {"egress needs tags", {tags_out}, NULL, TRIAL_MODEL, 0},
        {"no flow", {no_flow}, NULL, L7MP_VERDICT_PASS_NO_FLOW, 0},
        {"another port", {other_port}, NULL, L7MP_VERDICT_PASS_NO_FLOW, 0},
        {"by another interface", {elsewhere}, NULL, L7MP_VERDICT_PASS_INGRESS, 0},
        {"to another link address", {not_ours}, NULL, L7MP_VERDICT_PASS_NOT_HOST, 0},
        {"with a tag that the flow has not", {tagged, no_tag}, no_tag, L7MP_VERDICT_PASS_TAGS, 0},
        {"the flow is being overwritten", {none}, half, L7MP_VERDICT_PASS_STALE, 0},
        {"its IPv6 part is being overwritten", {none}, half6, L7MP_VERDICT_PASS_STALE, 6},
        {"the flow is another's", {none}, other_key, L7MP_VERDICT_PASS_STALE, 0},
        {"the flow has another verb", {none}, forward, L7MP_VERDICT_PASS_KERNEL, 0},
        {"no such pair", {none}, no_pair, L7MP_VERDICT_PASS_KERNEL, 0},
        {"the pair is another's", {other_id}, NULL, L7MP_VERDICT_PASS_STALE, 0},
        {"the pair is free", {free_pair}, NULL, L7MP_VERDICT_PASS_STALE, 0},
        {"the pair has an unknown phase", {phase5}, NULL, L7MP_VERDICT_PASS_KERNEL, 0},
        {"header shorter than it can be", {short_doff}, NULL, L7MP_VERDICT_PASS_MALFORMED, 0},
        {"header longer than the packet", {long_doff}, NULL, L7MP_VERDICT_PASS_MALFORMED, 0},
        {"IP packet longer than the frame", {ip_long}, NULL, L7MP_VERDICT_PASS_TRUNCATED, 0},
        {"frame ends in the header", {cut_tcp}, NULL, L7MP_VERDICT_PASS_TRUNCATED, 0},
};

/* Each with its own phase, in direction 0. */
static const struct named others[] = {
        {"WATCH: expected", {watch}, NULL, TRIAL_MODEL, 0},
        {"WATCH: expected, the last that may be", {expected_last}, NULL, TRIAL_MODEL, 0},
        {"WATCH: another sequence number", {seq_wrong}, NULL, TRIAL_MODEL, 0},
        {"WATCH: another acknowledgement", {ack_wrong}, NULL, TRIAL_MODEL, 0},
        {"WATCH: SYN", {watch, syn}, NULL, TRIAL_MODEL, 0},
        {"WATCH: MD5", {watch, md5}, NULL, TRIAL_MODEL, 0},
        {"WATCH: urgent", {watch, urgent}, NULL, TRIAL_MODEL, 0},
        {"WATCH: TTL 1", {watch, ttl1}, NULL, TRIAL_MODEL, 0},
        {"WATCH: larger than the MTU", {watch, mtu_more}, NULL, TRIAL_MODEL, 0},
        {"WATCH: RST", {watch, rst}, NULL, TRIAL_MODEL, 0},
        {"WATCH: direction 1", {watch, dir1}, NULL, TRIAL_MODEL, 0},
        {"FAST: many segments", {gso}, NULL, TRIAL_MODEL, 0},
        {"FAST: many segments with time stamps", {gso, ts}, NULL, TRIAL_MODEL, 0},
        {"FAST: many segments larger than the MTU", {gso_mtu}, NULL, TRIAL_MODEL, 0},
        {"FAST: many segments and a tail", {gso_tail}, NULL, TRIAL_MODEL, 0},
        {"FAST: into the receive path", {none}, to_lo, TRIAL_MODEL, 0},
        {"STOP: sent again", {stop_old}, NULL, TRIAL_MODEL, 0},
        {"STOP: across the end", {stop_across}, NULL, TRIAL_MODEL, 0},
        {"STOP: FIN sent again", {stop_fin_again}, NULL, TRIAL_MODEL, 0},
        {"STOP: new data while old is missing", {stop_behind, ts}, NULL, TRIAL_MODEL, 0},
        {"STOP: acknowledgement while data is missing", {stop_behind_ack}, NULL, TRIAL_MODEL, 0},
        {"STOP: room for what is in progress", {stop_room}, NULL, TRIAL_MODEL, 0},
        {"STOP: no room", {stop_window0}, NULL, TRIAL_MODEL, 0},
        {"STOP: RST", {stop_rst}, NULL, TRIAL_MODEL, 0},
        {"STOP: RST behind new data", {stop_rst_new}, NULL, TRIAL_MODEL, 0},
};

static void one(const struct named *n, int family, uint32_t phase, int dir)
{
	static const char *const phases[] = {"free", "WATCH", "TRANS", "FAST", "STOP"};
	struct trial t;
	bool ok;

	trial_base(&t, family);
	t.pair.phase = phase;
	t.dir = dir;
	trial_fit(&t);
	for (int i = 0; i < 3 && n->make[i]; i++)
		n->make[i](&t);
	t.key_of = t.in;
	t.key_of.tcp = &t.tcp;
	if (n->make[0] == other_port)
		t.key_of.sport--;
	if (n->flow == no_tag)
		no_tag(&t);
	trial_action(&t);
	if (n->flow)
		n->flow(&t);
	ok = trial_run(&t, n->verdict);
	tap_result(ok, "%s, IPv%d, direction %d: %s", phases[phase], family, dir, n->name);
}

static void named_cases(void)
{
	for (size_t i = 0; i < sizeof(segments) / sizeof(segments[0]); i++)
		for (uint32_t phase = L7MP_TCP_TRANS; phase <= L7MP_TCP_STOP; phase++)
			for (int n = 0; n < 4; n++)
				if (!segments[i].family || segments[i].family == 4 + (n & 2))
					one(&segments[i], 4 + (n & 2), phase, n & 1);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		for (int family = 4; family <= 6; family += 2)
			one(&others[i], family, L7MP_TCP_FAST, 0);
}

/* All pairs of window shifts, with windows that reach the limits. */
static void window_matrix(void)
{
	static const uint16_t wins[] = {0, 1, 127, 128, 5000, 65535};

	for (uint32_t phase = L7MP_TCP_TRANS; phase <= L7MP_TCP_STOP; phase++) {
		size_t bad = 0, n = 0;

		for (unsigned i = 0; i < 15 * 15 * 6; i++, n++) {
			struct trial t;

			trial_base(&t, i & 1 ? 6 : 4);
			t.pair.phase = phase;
			t.pair.dir[0].win_in = (uint8_t)(i / 6 % 15);
			t.pair.dir[0].win_out = (uint8_t)(i / 90);
			t.pair.dir[0].edge = t.pair.dir[0].ack_floor + 0x3fffffff;
			t.tcp.win = wins[i % 6];
			trial_fit(&t);
			t.key_of = t.in;
			t.key_of.tcp = &t.tcp;
			trial_action(&t);
			bad += !trial_run(&t, TRIAL_MODEL);
		}
		tap_result(!bad, "phase %u: %zu combinations of window and shifts", phase, n);
	}
}

/* A router's "too big" about a segment that was sent to the client: RFC 792, 4443. */
static size_t too_big(const struct trial *t, uint32_t seq, int code, uint8_t out[static PACKET_MAX])
{
	size_t ip = t->in.family == 4 ? 20 : 40;
	struct packet sent = t->in, icmp = t->in;
	struct tcp_header h = {.seq = seq, .flags = TCP_ACK};
	uint8_t cited[PACKET_MAX], body[PACKET_MAX] = {0};

	memcpy(sent.saddr, t->in.daddr, 16);
	memcpy(sent.daddr, t->in.saddr, 16);
	sent.sport = t->in.dport;
	sent.dport = t->in.sport;
	sent.tcp = &h;
	packet_build(&sent, cited);
	/* The builder writes a UDP header of 8 bytes, where ICMP's is. */
	memset(icmp.saddr, 0x55, 16);
	icmp.tcp = NULL;
	icmp.protocol = t->in.family == 4 ? 1 : 58;
	memcpy(body, cited + 14, ip + 8);
	icmp.bytes = body;
	icmp.payload = ip + 8;
	packet_build(&icmp, out);
	memset(out + 14 + ip, 0, 8);
	out[14 + ip] = t->in.family == 4 ? 3 : 2;
	out[14 + ip + 1] = (uint8_t)code;
	return 14 + packet_ip_len(&icmp);
}

/* It goes up, and makes a doubt of the direction that the segment belonged to. */
static void path_mtu(const char *what, int family, int dir, int32_t add, int code, uint32_t phase,
                     bool doubt)
{
	struct trial t;
	struct rig_run run = {.in_len = 0};
	struct l7mp_flow_key key;
	struct l7mp_tcp_pair got;
	uint32_t index = TRIAL_PAIR, in;
	uint64_t verdicts[L7MP_VERDICT_COUNT];
	uint8_t frame[PACKET_MAX];
	bool ok;

	trial_base(&t, family);
	t.dir = dir;
	t.pair.phase = phase;
	OTHER(&t)->seq_max += 5000; /* in flight to the one that sends by `dir` */
	t.in.tcp = &t.tcp;
	t.key_of = t.in;
	trial_action(&t);
	trial_put(&t, &key);
	in = ME(&t)->ack_max + (uint32_t)add;
	run.in = frame;
	run.in_len = too_big(&t, in + OTHER(&t)->seq_delta, code, frame);
	rig_verdicts_start(&rig);
	ok = !rig_send(&rig, RIG_TC, &run) && run.action == TC_ACT_UNSPEC &&
	     run.out_len == run.in_len && !memcmp(run.out, frame, run.in_len);
	rig_verdicts(&rig, verdicts);
	ok &= verdicts[L7MP_VERDICT_PASS_NOT_UDP] == 1;
	if (bpf_map_lookup_elem(rig.tcp_pairs, &index, &got))
		tap_bail("no pair");
	if (doubt) {
		OTHER(&t)->seen |= L7MP_TCP_DOUBT;
		OTHER(&t)->doubt = L7MP_TCP_DOUBT_MTU;
		OTHER(&t)->doubts++;
	}
	ok &= !memcmp(&got, &t.pair, sizeof(got));
	tap_result(ok, "IPv%d, direction %d: ICMP, too big: %s", family, dir, what);
	rig_del(&rig, &key);
}

static void path_mtu_cases(void)
{
	for (int n = 0; n < 4; n++) {
		int family = 4 + (n & 2), dir = n & 1, code = family == 4 ? 4 : 0;

		path_mtu("in flight", family, dir, 0, code, L7MP_TCP_FAST, true);
		path_mtu("the last in flight", family, dir, 4999, code, L7MP_TCP_TRANS, true);
		path_mtu("in STOP", family, dir, 1, code, L7MP_TCP_STOP, true);
		path_mtu("acknowledged", family, dir, -1, code, L7MP_TCP_FAST, false);
		path_mtu("never sent", family, dir, 5000, code, L7MP_TCP_FAST, false);
		path_mtu("in WATCH", family, dir, 0, code, L7MP_TCP_WATCH, false);
		if (family == 4)
			path_mtu("another code", family, dir, 0, 3, L7MP_TCP_FAST, false);
	}
}

static uint64_t state;

static uint32_t rnd(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return below ? (uint32_t)((state >> 16) % below) : (uint32_t)(state >> 16);
}

static bool chance(uint32_t percent)
{
	return rnd(100) < percent;
}

/* A number near another one, mostly. */
static uint32_t around(uint32_t of)
{
	static const uint32_t spans[] = {2, 1460, 70000, 5000000, 3U << 26, 0};
	uint32_t span = spans[rnd(chance(80) ? 3 : 6)];

	return span ? of + rnd(2 * span) - span : rnd(0);
}

static size_t random_option(uint8_t *at, size_t room)
{
	size_t n = 2 + 8 * (1 + rnd(4));

	switch (rnd(40)) {
	case 0 ... 11:
		at[0] = 8, at[1] = 10;
		return 10;
	case 12 ... 22:
		at[0] = 5, at[1] = (uint8_t)n;
		return n;
	case 23:
		at[0] = (uint8_t)rnd(256);
		at[1] = (uint8_t)rnd(24);
		return at[1] > 2 ? at[1] : 2;
	case 24:
		at[0] = 0;
		return room;
	default:
		at[0] = 1;
		return 1;
	}
}

static void random_options(struct tcp_header *t)
{
	uint8_t bytes[128];
	size_t n = 0, len = rnd(11) * 4;

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)rnd(256);
	while (n < len)
		n += random_option(bytes + n, len - n);
	/* Mostly they fit; else the last one is cut off. */
	if (n > len && n <= 40 && chance(90)) {
		len = (n + 3) & ~3UL;
		memset(bytes + n, 1, len - n);
	}
	memcpy(t->options, bytes, len);
	t->options_len = len;
}

static void random_direction(struct l7mp_tcp_direction *d)
{
	d->win_in = (uint8_t)rnd(15);
	d->win_out = (uint8_t)rnd(15);
	d->flags = (uint8_t)(chance(80) ? L7MP_TCP_TS : 0) |
	           (uint8_t)(chance(10) ? L7MP_TCP_NOSACK : 0);
	d->own_seq = around(d->own_seq);
	d->own_ack = around(d->own_ack);
	d->ack_floor = around(d->ack_floor);
	d->edge = around(d->ack_floor + 100000);
	d->ts = chance(80) ? 1ULL << 32 | rnd(0) : 0;
	d->ts_base = rnd(0);
	d->ts_own = chance(50) ? rnd(0) : 0;
	d->seq_max = around(d->own_seq);
	d->ack_max = around(d->ack_floor);
	d->win = chance(90) ? rnd(1000000) : rnd(1U << 30);
	d->ts_in = rnd(0);
	d->ts_out = rnd(0);
	d->fin_end = around(d->seq_max);
	d->seen = chance(90) ? L7MP_TCP_SEEN : rnd(16);
	d->doubts = rnd(3);
}

static void random_pair(struct l7mp_tcp_pair *p)
{
	uint32_t a = rnd(0), b = rnd(0), c = rnd(0), d = rnd(0);

	p->phase = 1 + rnd(4);
	p->dir[0].own_seq = a;
	p->dir[0].seq_delta = c;
	p->dir[0].ack_delta = -d;
	p->dir[0].ack_floor = b;
	p->dir[0].own_ack = b + d;
	p->dir[1].own_seq = b;
	p->dir[1].seq_delta = d;
	p->dir[1].ack_delta = -c;
	p->dir[1].ack_floor = a;
	p->dir[1].own_ack = a + c;
	random_direction(&p->dir[0]);
	random_direction(&p->dir[1]);
}

static void random_segment(struct trial *t)
{
	static const uint8_t flags[] = {TCP_ACK,           TCP_ACK, TCP_ACK | TCP_PSH,
	                                TCP_ACK | TCP_FIN, TCP_RST, TCP_RST | TCP_ACK};

	t->tcp.seq = around(chance(50) ? ME(t)->seq_max : OTHER(t)->ack_max);
	t->tcp.ack = around((chance(50) ? OTHER(t)->seq_max : ME(t)->ack_max) - ME(t)->ack_delta);
	t->tcp.flags = chance(97) ? flags[rnd(6)] : (uint8_t)rnd(256);
	t->tcp.win = (uint16_t)rnd(65536);
	random_options(&t->tcp);
	t->in.payload = chance(40) ? 0 : rnd(1400);
	t->in.fill = rnd(0);
	t->in.tos = (uint8_t)rnd(256);
	t->in.ttl = chance(98) ? (uint8_t)(2 + rnd(254)) : (uint8_t)rnd(2);
	t->in.flow_label = rnd(1U << 20);
	t->in.id = (uint16_t)rnd(65536);
	t->in.trailer = chance(80) ? 0 : rnd(20);
	if (chance(20))
		(chance(50) ? tagged : tagged2)(t);
	if (chance(5) && t->pair.phase != L7MP_TCP_TRANS && !t->in.trailer && t->in.payload)
		t->gso_size = 200 + rnd(1300);
}

static void random_cases(void)
{
	size_t n = test_mode_full() ? 300000 : 20000, bad = 0;
	uint64_t seed = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 0) : (uint64_t)time(NULL);

	for (size_t i = 0; i < n && bad < 10; i++) {
		struct trial t;

		state = (seed + i) * 0x9e3779b97f4a7c15ULL + 1;
		trial_base(&t, chance(50) ? 4 : 6);
		t.dir = chance(50);
		random_pair(&t.pair);
		random_segment(&t);
		t.key_of = t.in;
		t.key_of.tcp = &t.tcp;
		trial_action(&t);
		if (chance(20))
			t.action.action.flags |= L7MP_FLOW_KEEP_TOS;
		t.action.action.tos = (uint8_t)rnd(256);
		if (trial_run(&t, TRIAL_MODEL))
			continue;
		tap_note("again: SEED=%llu, phase %u", (unsigned long long)(seed + i),
		         t.pair.phase);
		bad++;
	}
	tap_result(!bad, "%zu random segments of random pairs (SEED=%llu)", n,
	           (unsigned long long)seed);
}

int main(void)
{
	trial_init(&rig);
	named_cases();
	window_matrix();
	path_mtu_cases();
	random_cases();
	for (int v = L7MP_VERDICT_PASS_TCP_WATCH; v <= L7MP_VERDICT_TCP_WINDOW; v++)
		tap_result(trial_seen((enum l7mp_verdict)v), "verdict %s was triggered",
		           trial_verdict(v));
	return tap_done();
}
