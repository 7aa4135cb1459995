/* SPDX-License-Identifier: MIT */
/*
 * Statistics of an RTP stream (RFC 3550, appendix A): one source's packets in one direction of a
 * session. The BPF programs and user space keep them in the same memory, the map `rtp`, so that a
 * stream that moves into the kernel is one stream. What is not RTP by its first bytes (STUN, DTLS,
 * RTCP on the same port: RFC 7983, RFC 5761) is only counted. Packets are read, never changed.
 *
 * A stream's packets are counted by one writer at a time: the kernel handles a flow on one
 * processor, and a flow is either in the kernel or in user space.
 */
#pragma once

#include <linux/types.h>

#define L7MP_MAP_RTP     "rtp" /* array, BPF_F_MMAPABLE */
#define L7MP_RTP_STREAMS 32768

/* RFC 3550, A.1: a later packet, a late one, and else another beginning. */
#define L7MP_RTP_MAX_DROPOUT  3000
#define L7MP_RTP_MAX_MISORDER 100
#define L7MP_RTP_HEADER       12 /* bytes, without CSRCs */

/* All zero: nothing has come yet. 128 bytes. */
struct l7mp_rtp {
	__u64 packets;      /* RTP, of all sources */
	__u64 others;       /* what is not RTP */
	__s64 lost_before;  /* lost of earlier sources, and before the sequence restarted */
	__u64 received;     /* of this source, duplicates too */
	__u64 last_ns;      /* CLOCK_MONOTONIC of the last packet */
	__u64 jitter16;     /* 16 times the jitter, ns (A.8) */
	__u32 ssrc;         /* of the last packet, host order */
	__u32 timestamp;    /* of the last packet, host order */
	__u32 cycles;       /* 65536 for each time that the sequence number wrapped */
	__u32 base_seq;     /* first sequence number of this source */
	__u32 clock_rate;   /* Hz, of the last packet's payload type; 0: not known, no jitter */
	__u32 dynamic_rate; /* set by user space: Hz of payload types 96 to 127, and unknown ones */
	__u32 sources;      /* how often another SSRC came, the first one too */
	__u16 max_seq;      /* highest sequence number */
	__u16 bad_seq;      /* with `bad`: the number that would confirm a jump */
	__u8 payload_type;  /* of the last packet */
	__u8 bad;
	__u8 pad[6];
	__u64 reordered; /* came after a later one, or twice */
	__u64 pad2[2];
};

/* Static payload types by their clock rate (RFC 3551, tables 4 and 5), as bits. */
#define L7MP_RTP_TYPE(n) (1ULL << (n))
#define L7MP_RTP_8000                                                                 \
	(L7MP_RTP_TYPE(0) | L7MP_RTP_TYPE(3) | L7MP_RTP_TYPE(4) | L7MP_RTP_TYPE(5) |  \
	 L7MP_RTP_TYPE(7) | L7MP_RTP_TYPE(8) | L7MP_RTP_TYPE(9) | L7MP_RTP_TYPE(12) | \
	 L7MP_RTP_TYPE(13) | L7MP_RTP_TYPE(15) | L7MP_RTP_TYPE(18) | L7MP_RTP_TYPE(19))
#define L7MP_RTP_44100 (L7MP_RTP_TYPE(10) | L7MP_RTP_TYPE(11))
#define L7MP_RTP_90000                                                                   \
	(L7MP_RTP_TYPE(14) | L7MP_RTP_TYPE(25) | L7MP_RTP_TYPE(26) | L7MP_RTP_TYPE(28) | \
	 L7MP_RTP_TYPE(31) | L7MP_RTP_TYPE(32) | L7MP_RTP_TYPE(33) | L7MP_RTP_TYPE(34))

/* Types 5, 6, 16, 17 are DVI4 at several rates; G722 (9) has 8,000 for historic reasons. */
static inline __attribute__((always_inline)) __u32 l7mp_rtp_rate(__u8 type, __u32 dynamic_rate)
{
	__u64 bit;

	if (type > 34)
		return dynamic_rate;
	bit = L7MP_RTP_TYPE(type);
	if (bit & L7MP_RTP_8000)
		return 8000;
	if (bit & L7MP_RTP_90000)
		return 90000;
	if (bit & L7MP_RTP_44100)
		return 44100;
	return type == 6 ? 16000 : type == 16 ? 11025 : type == 17 ? 22050 : dynamic_rate;
}

/* Packets that should have come from this source so far, less those that did. */
static inline __attribute__((always_inline)) __s64 l7mp_rtp_lost_now(const struct l7mp_rtp *s)
{
	if (!s->received)
		return 0;
	return (__s64)(s->cycles + s->max_seq - s->base_seq + 1) - (__s64)s->received;
}

static inline __attribute__((always_inline)) void l7mp_rtp_begin(struct l7mp_rtp *s, __u16 seq)
{
	s->lost_before += l7mp_rtp_lost_now(s);
	s->base_seq = seq;
	s->max_seq = seq;
	s->cycles = 0;
	s->received = 0;
	s->bad = 0;
}

/* The sequence number of a packet of the present source. 0: it does not count (yet). */
static inline __attribute__((always_inline)) int l7mp_rtp_sequence(struct l7mp_rtp *s, __u16 seq)
{
	__u16 ahead = (__u16)(seq - s->max_seq);

	if (ahead && ahead < L7MP_RTP_MAX_DROPOUT) {
		if (seq < s->max_seq)
			s->cycles += 65536;
		s->max_seq = seq;
	} else if (ahead && ahead <= 65536 - L7MP_RTP_MAX_MISORDER) {
		/* A jump: the sender restarted if the next packet follows this one. */
		if (!s->bad || seq != s->bad_seq) {
			s->bad_seq = (__u16)(seq + 1);
			s->bad = 1;
			return 0;
		}
		l7mp_rtp_begin(s, seq);
		/* The first of the two is counted with the second. */
		s->base_seq = (__u16)(seq - 1);
		if (s->base_seq > seq)
			s->cycles = 65536;
		s->received = 1;
	} else {
		s->reordered++;
	}
	s->bad = 0;
	return 1;
}

/*
 * Counts a datagram of which `head` has the first 12 bytes; fewer bytes than that are never RTP.
 * `now`: CLOCK_MONOTONIC ns.
 */
static inline __attribute__((always_inline)) void
l7mp_rtp_count(struct l7mp_rtp *s, const __u8 head[L7MP_RTP_HEADER], __u32 len, __u64 now)
{
	__u16 seq;
	__u32 timestamp, ssrc, rate;
	__u8 type;

	if (len < L7MP_RTP_HEADER || head[0] >> 6 != 2 || (head[1] >= 192 && head[1] <= 223)) {
		s->others++;
		return;
	}
	type = head[1] & 0x7f;
	seq = (__u16)(head[2] << 8 | head[3]);
	timestamp = (__u32)head[4] << 24 | (__u32)head[5] << 16 | (__u32)head[6] << 8 | head[7];
	ssrc = (__u32)head[8] << 24 | (__u32)head[9] << 16 | (__u32)head[10] << 8 | head[11];
	rate = l7mp_rtp_rate(type, s->dynamic_rate);
	s->packets++;
	if (!s->sources || ssrc != s->ssrc) {
		l7mp_rtp_begin(s, seq);
		s->sources++;
		s->jitter16 = 0;
		s->received = 1;
	} else {
		__u64 late = now - s->last_ns;
		__s64 sent, differ;

		if (l7mp_rtp_sequence(s, seq))
			s->received++;
		/* A change of the clock makes two time stamps incomparable. */
		if (rate && rate == s->clock_rate) {
			sent = (__s64)(__s32)(timestamp - s->timestamp);
			if (sent < 0)
				sent = -(__s64)((__u64)-sent * 1000000000 / rate);
			else
				sent = (__s64)((__u64)sent * 1000000000 / rate);
			differ = (__s64)late - sent;
			if (differ < 0)
				differ = -differ;
			s->jitter16 += (__u64)differ - ((s->jitter16 + 8) >> 4);
		}
	}
	s->ssrc = ssrc;
	s->timestamp = timestamp;
	s->clock_rate = rate;
	s->payload_type = type;
	s->last_ns = now;
}
