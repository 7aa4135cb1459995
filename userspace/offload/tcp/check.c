/* SPDX-License-Identifier: MIT */
/* Can two connections be translated into each other? Pure functions. */
#include <string.h>

#include "tcp.h"

#define TS_OPTION 12 /* bytes of the time stamp option in each segment */
/*
 * BBR keeps its minimum round-trip time for 10 s and limits its rate by it: a sender whose path
 * suddenly becomes much longer is slow until then.
 */
#define RTT_RATIO   4
#define RTT_DIFF_US 3000

static bool too_large(const struct off_tcp_traits *from, const struct off_tcp_traits *to)
{
	/* The peer sends up to the MSS that we announced; that must fit the other connection. */
	return from->advmss > to->snd_mss;
}

/*
 * A socket restored by connect(2) in repair mode reserves room for time stamps in its MSS whenever
 * they are enabled on the host, and its advmss is that of sending. So take the negotiated values.
 */
void off_tcp_recall(struct off_tcp_traits *t, const struct l7mp_flow_mss *mss)
{
	uint32_t now = t->snd_mss + (t->ts ? 0 : TS_OPTION);

	if (!mss->snd)
		return;
	/* The path MTU may have decreased meanwhile. */
	t->snd_mss = mss->snd < now ? mss->snd : now;
	t->advmss = mss->rcv;
}

struct l7mp_flow_mss off_tcp_mss(const struct off_tcp_traits *t)
{
	return (struct l7mp_flow_mss){.snd = (uint16_t)t->snd_mss, .rcv = (uint16_t)t->advmss};
}

static bool unequal_rtt(const struct off_tcp_traits *a, const struct off_tcp_traits *b)
{
	uint32_t less = a->min_rtt_us < b->min_rtt_us ? a->min_rtt_us : b->min_rtt_us;
	uint32_t more = a->min_rtt_us < b->min_rtt_us ? b->min_rtt_us : a->min_rtt_us;

	return more - less > RTT_DIFF_US && more / RTT_RATIO > less;
}

enum l7mp_reason off_tcp_check(const struct off_tcp_traits *a, const struct off_tcp_traits *b)
{
	if (a->mptcp || b->mptcp)
		return L7MP_REASON_TCP_MPTCP;
	if (!a->carries || !b->carries)
		return L7MP_REASON_TCP_CLOSING;
	if (a->ts != b->ts)
		return L7MP_REASON_TCP_TIMESTAMPS;
	if (a->ecn != b->ecn)
		return L7MP_REASON_TCP_ECN;
	if (too_large(a, b) || too_large(b, a))
		return L7MP_REASON_TCP_MSS;
	/* The peers' algorithms are unknown: assume that they use the same as this host. */
	if ((!strcmp(a->congestion, "bbr") || !strcmp(b->congestion, "bbr")) && unequal_rtt(a, b))
		return L7MP_REASON_TCP_RTT;
	return L7MP_REASON_NONE;
}
