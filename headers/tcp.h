/* SPDX-License-Identifier: MIT */
/*
 * Translates a TCP segment into one of the pair's other connection: its numbers, and the state that
 * the pair keeps. Does not access the packet.
 *
 * Both directions of a pair run concurrently, and one direction on several CPUs. So values that
 * must not go back (seq_max, ack_max) are updated by compare and swap, flags atomically.
 */
#pragma once

#include <linux/tcp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "l7mp/abi_tcp.h"
#include "maps.h"
#include "parse.h"
#include "rewrite.h"

/* Flags of the TCP header, in the 13th and 14th byte. */
#define L7MP_TCPF_FIN 0x01U
#define L7MP_TCPF_SYN 0x02U
#define L7MP_TCPF_RST 0x04U
#define L7MP_TCPF_PSH 0x08U
#define L7MP_TCPF_ACK 0x10U
#define L7MP_TCPF_URG 0x20U

#define L7MP_TCP_OPTIONS 40 /* bytes at most */

/* Words of the TCP header in the packet. */
enum { L7MP_TCP_PORTS, L7MP_TCP_SEQ, L7MP_TCP_ACK, L7MP_TCP_FLAGS_WIN, L7MP_TCP_WORDS };

/*
 * A segment being processed, in a map: too large for the stack. Also, values read back from a map
 * are unknown to the verifier, which then doesn't follow every combination.
 */
struct l7mp_tcp_segment {
	__u64 key_words[5]; /* of the flow */
	struct l7mp_rewrite rw;
	__u64 pair; /* index and id */
	__u64 slot; /* of the counter, as in l7mp_flow_read */
	__u64 family;
	__u32 ip[10], ip_new[10];  /* the IP header */
	__u32 old[5];              /* the received TCP header without options */
	__u32 new[L7MP_TCP_WORDS]; /* the outgoing one */
	__u32 up[L7MP_TCP_WORDS];  /* the one for the near socket (TRANS) */
	__u32 options[10], options_new[10];
	__u32 ts[2], ts_new[2];
	__u32 l3, l4; /* offsets in the frame */
	__u32 ip_header;
	__u32 options_len, payload, trailer, wire_ip_len;
	__u32 flags;         /* L7MP_TCPF_... */
	__u32 seq, end, ack; /* as received; `end` includes the FIN */
	__u32 win;           /* bytes */
	__u32 ack_out;
	__u32 phase; /* enum l7mp_tcp_phase when the segment was received */
	__u32 clear; /* flags to be cleared */
	__u32 doubt; /* enum l7mp_tcp_doubt */
	/* Offsets in the options; 0: none. */
	__u32 ts_at, sack_at, sack_len, walk;
	__u32 options_delta; /* of the checksum */
	__u32 n_tags, n_frame_tags;
	__u16 tag_proto[2], tag_tci[2]; /* outer first */
	__u32 link[3];                  /* both link addresses */
	__u32 tracked;                  /* its numbers are plausible for the connection */
};

static __always_inline int l7mp_before(__u32 a, __u32 b)
{
	return (__s32)(a - b) < 0;
}

static __always_inline __u32 l7mp_load_once(const __u32 *at)
{
	return *(const volatile __u32 *)at;
}

/* The checksum delta of a changed word: the sum of ~old and new. */
static __always_inline __u64 l7mp_word_delta(__u32 old, __u32 new)
{
	return (__u64)(__u32)~old + new;
}

static __always_inline __u32 l7mp_fold64(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return l7mp_csum_fold((__u32)sum);
}

/* One attempt to advance. Returns `to` when done, else the present value. */
static __always_inline __u32 l7mp_tcp_try(__u32 *at, __u32 was, __u32 to)
{
	__u32 old;

	if (!l7mp_before(was, to))
		return to;
	old = __sync_val_compare_and_swap(at, was, to);
	return old == was ? to : old;
}

/*
 * Advances a sequence number, never back. Several CPUs may do so concurrently; each makes a few
 * attempts. Unrolled, because without CAP_PERFMON the verifier also follows the jump back after a
 * loop's last iteration.
 */
static __noinline int l7mp_tcp_advance(__u32 *at, __u32 to)
{
	__u32 old;

	old = l7mp_tcp_try(at, l7mp_load_once(at), to);
	if (old != to)
		old = l7mp_tcp_try(at, old, to);
	if (old != to)
		old = l7mp_tcp_try(at, old, to);
	return old == to;
}

static __always_inline void l7mp_tcp_set(struct l7mp_tcp_direction *d, __u32 flag)
{
	if (!(l7mp_load_once(&d->seen) & flag))
		__sync_fetch_and_or(&d->seen, flag);
}

static __always_inline void l7mp_tcp_doubtful(struct l7mp_tcp_direction *d, __u32 why)
{
	d->doubt = why;
	__sync_fetch_and_add(&d->doubts, 1);
	l7mp_tcp_set(d, L7MP_TCP_DOUBT);
}

/* Reads the numbers from the header. */
static __always_inline void l7mp_tcp_numbers(struct l7mp_tcp_segment *s, __u8 win_in)
{
	__u32 word = bpf_ntohl(s->old[L7MP_TCP_FLAGS_WIN]), flags = word >> 16 & 0xff;

	s->flags = flags;
	s->seq = bpf_ntohl(s->old[L7MP_TCP_SEQ]);
	s->ack = bpf_ntohl(s->old[L7MP_TCP_ACK]);
	s->end = s->seq + s->payload + (flags & L7MP_TCPF_FIN ? 1 : 0);
	s->win = (word & 0xffff) << (win_in & 15);
}

/* Can the segment be translated? It has no SYN, its options were checked. enum l7mp_tcp_doubt */
static __always_inline __u32 l7mp_tcp_judge(const struct l7mp_tcp_segment *s)
{
	const __u16 cannot = L7MP_FLOW_NEIGH;

	if (s->doubt)
		return s->doubt;
	if (s->flags & L7MP_TCPF_URG)
		return L7MP_TCP_DOUBT_URGENT;
	if (!(s->flags & (L7MP_TCPF_ACK | L7MP_TCPF_RST)))
		return L7MP_TCP_DOUBT_FLAGS;
	if ((s->flags & (L7MP_TCPF_FIN | L7MP_TCPF_RST)) == (L7MP_TCPF_FIN | L7MP_TCPF_RST))
		return L7MP_TCP_DOUBT_FLAGS;
	if (s->wire_ip_len > l7mp_mtu(&s->rw))
		return L7MP_TCP_DOUBT_MTU;
	if (l7mp_n_vlans(&s->rw) || l7mp_flags(&s->rw) & cannot)
		return L7MP_TCP_DOUBT_EGRESS;
	return L7MP_TCP_DOUBT_NONE;
}

/* WATCH: does it belong to the connection that user space knows? */
static __always_inline int l7mp_tcp_expected(const struct l7mp_tcp_segment *s,
                                             const struct l7mp_tcp_direction *me)
{
	return s->flags & L7MP_TCPF_ACK &&
	       s->seq - me->own_seq + L7MP_TCP_PLAUSIBLE < 2 * L7MP_TCP_PLAUSIBLE &&
	       s->ack - me->own_ack + L7MP_TCP_PLAUSIBLE < 2 * L7MP_TCP_PLAUSIBLE;
}

/* Are both connections closed? */
static __always_inline int l7mp_tcp_finished(const struct l7mp_tcp_direction *me,
                                             const struct l7mp_tcp_direction *other)
{
	__u32 a = l7mp_load_once(&me->seen), b = l7mp_load_once(&other->seen);

	return (a & b & L7MP_TCP_FIN_ACKED) || ((a | b) & L7MP_TCP_RST);
}

/*
 * Are the segment's numbers near the connection's window? Forged ones are, once in some dozen
 * times. Untracked segments are forwarded, as the far end checks them, but don't update the pair.
 */
static __always_inline int l7mp_tcp_tracked(const struct l7mp_tcp_segment *s,
                                            const struct l7mp_tcp_direction *other)
{
	return s->seq - l7mp_load_once(&other->ack_max) + L7MP_TCP_PLAUSIBLE <
	       2 * L7MP_TCP_PLAUSIBLE + l7mp_load_once(&other->win);
}

/* RFC 5961: could the far end accept a reset with this sequence number? */
static __always_inline int l7mp_tcp_reset_in_window(const struct l7mp_tcp_segment *s,
                                                    const struct l7mp_tcp_direction *other)
{
	return s->seq - l7mp_load_once(&other->ack_max) <= l7mp_load_once(&other->win);
}

/* The TSval that the far socket would send now. */
static __always_inline __u32 l7mp_tcp_far_clock(const struct l7mp_tcp_direction *me)
{
	return me->ts_base + (__u32)((bpf_ktime_get_ns() - me->armed_ns) / 1000000);
}

/*
 * The delta of the time stamps. It makes the first translated one newer than the far socket's, by
 * more than packets may be delayed: the receiver drops segments that are older than the newest it
 * has seen (PAWS, RFC 7323).
 */
static __always_inline __u32 l7mp_tcp_ts_delta(struct l7mp_tcp_direction *me, __u32 tsval,
                                               int store)
{
	__u64 known = *(volatile __u64 *)&me->ts, delta, was;

	if (known)
		return (__u32)known;
	delta = (__u32)(l7mp_tcp_far_clock(me) + L7MP_TCP_TS_AHEAD - tsval);
	if (!store)
		return (__u32)delta;
	was = __sync_val_compare_and_swap(&me->ts, 0, 1ULL << 32 | delta);
	return (__u32)(was ? was : delta);
}

/* Translates TSecr; 0 (no information) if it echoes a time stamp that was not translated. */
static __always_inline __u32 l7mp_tcp_echo(const struct l7mp_tcp_direction *other, __u32 echo)
{
	__u64 far = *(const volatile __u64 *)&other->ts;
	__u32 own = l7mp_load_once(&other->ts_own);

	return far && (!own || l7mp_before(own, echo)) ? echo - (__u32)far : 0;
}

/*
 * Sets s->ts_new. In TRANS the far socket sends segments, too: acknowledgements of earlier data and
 * of the copies that it gets. So use its clock: with two clocks the time stamps would go back.
 */
static __always_inline void l7mp_tcp_time_stamps(struct l7mp_tcp_segment *s,
                                                 struct l7mp_tcp_direction *me,
                                                 const struct l7mp_tcp_direction *other)
{
	__u32 in = bpf_ntohl(s->ts[0]), out;

	if (s->phase == L7MP_TCP_TRANS)
		out = l7mp_tcp_far_clock(me);
	else
		out = in + l7mp_tcp_ts_delta(me, in, s->tracked && !(s->flags & L7MP_TCPF_RST));
	s->ts_new[0] = bpf_htonl(out);
	s->ts_new[1] = bpf_htonl(l7mp_tcp_echo(other, bpf_ntohl(s->ts[1])));
	if (!s->tracked || s->flags & L7MP_TCPF_RST)
		return;
	me->ts_in = in;
	l7mp_tcp_advance(&me->ts_out, out);
}

static __always_inline __u32 l7mp_tcp_window(__u32 bytes, __u8 shift, int round_up)
{
	__u32 win = (bytes + (round_up ? (1U << (shift & 15)) - 1 : 0)) >> (shift & 15);

	return win > 0xffff ? 0xffff : win;
}

static __always_inline __u32 l7mp_tcp_limit(__u32 win, __u32 edge, __u32 ack)
{
	__s32 room = (__s32)(edge - ack);

	if (room < 0)
		room = 0;
	return win > (__u32)room ? (__u32)room : win;
}

/* Checks whether `ack` acknowledges the FIN of `d`. */
static __always_inline void l7mp_tcp_check_fin(struct l7mp_tcp_direction *d, __u32 ack)
{
	if ((l7mp_load_once(&d->seen) & (L7MP_TCP_FIN | L7MP_TCP_FIN_ACKED)) == L7MP_TCP_FIN &&
	    !l7mp_before(ack, l7mp_load_once(&d->fin_end)))
		l7mp_tcp_set(d, L7MP_TCP_FIN_ACKED);
}

static __always_inline void l7mp_tcp_note_ack(const struct l7mp_tcp_segment *s,
                                              struct l7mp_tcp_direction *me,
                                              struct l7mp_tcp_direction *other)
{
	if ((__s32)(s->ack_out - l7mp_load_once(&other->seq_max)) >= (__s32)L7MP_TCP_PLAUSIBLE)
		return;
	if (!l7mp_before(s->ack_out, l7mp_load_once(&me->ack_max))) {
		l7mp_tcp_advance(&me->ack_max, s->ack_out);
		me->win = s->win;
	}
	l7mp_tcp_check_fin(other, s->ack_out);
}

/* Translates acknowledgement and window, limited according to the phase: ack_out and win. */
static __noinline int l7mp_tcp_translate_ack(struct l7mp_tcp_segment *s,
                                             struct l7mp_tcp_direction *me,
                                             struct l7mp_tcp_direction *other)
{
	__u32 floor = l7mp_load_once(&me->ack_floor);

	s->ack_out = s->ack + me->ack_delta;
	/* The far socket has these bytes: acknowledge them without waiting for the near peer. */
	if (s->phase == L7MP_TCP_TRANS && l7mp_before(s->ack_out, floor)) {
		s->win = l7mp_tcp_limit(s->win, s->ack_out + s->win, floor);
		s->ack_out = floor;
	}
	if (s->tracked && !(s->flags & L7MP_TCPF_RST))
		l7mp_tcp_note_ack(s, me, other);
	if (s->phase == L7MP_TCP_TRANS)
		s->win = l7mp_tcp_limit(s->win, l7mp_load_once(&me->edge), s->ack_out);
	if (s->phase == L7MP_TCP_STOP)
		s->win = l7mp_tcp_limit(s->win, l7mp_load_once(&other->seq_max), s->ack_out);
	s->new[L7MP_TCP_ACK] = bpf_htonl(s->ack_out);
	return 0;
}

/* Records that a segment's data is forwarded. */
static __always_inline void l7mp_tcp_note_data(const struct l7mp_tcp_segment *s,
                                               struct l7mp_tcp_direction *me)
{
	l7mp_tcp_advance(&me->seq_max, s->end);
	if (s->flags & L7MP_TCPF_FIN && !(l7mp_load_once(&me->seen) & L7MP_TCP_FIN)) {
		me->fin_end = s->end;
		l7mp_tcp_set(me, L7MP_TCP_FIN);
	}
}

/* A segment after a reset shows that the reset was not accepted: clears the flag. */
static __always_inline void l7mp_tcp_alive(struct l7mp_tcp_direction *me,
                                           struct l7mp_tcp_direction *other)
{
	if (!((l7mp_load_once(&me->seen) | l7mp_load_once(&other->seen)) & L7MP_TCP_RST))
		return;
	__sync_fetch_and_and(&me->seen, ~(__u32)L7MP_TCP_RST);
	__sync_fetch_and_and(&other->seen, ~(__u32)L7MP_TCP_RST);
}

static __always_inline void l7mp_tcp_touch(struct l7mp_tcp_direction *me)
{
	__u64 now = bpf_ktime_get_coarse_ns();

	if (me->last_seen != now)
		me->last_seen = now;
}

/*
 * STOP: data from below seq_max is still forwarded, until the far end has acknowledged all of it.
 * Of other segments only the acknowledgement takes effect: their payload is renumbered as data that
 * the far end has acknowledged already (not as data in a hole, which it would fill), so that the
 * far end processes the acknowledgement and drops the payload. Trimming it would need a new
 * checksum, and the program can't tell whether the packet's is partial. s->clear is then set.
 */
static __always_inline void l7mp_tcp_stop(struct l7mp_tcp_segment *s,
                                          const struct l7mp_tcp_direction *me,
                                          const struct l7mp_tcp_direction *other)
{
	__u32 acked = l7mp_load_once(&other->ack_max);

	if (s->end != s->seq && l7mp_before(s->seq, l7mp_load_once(&me->seq_max)))
		return;
	if (s->payload || l7mp_before(acked, s->seq))
		s->seq = acked - s->payload;
	s->clear = L7MP_TCPF_FIN | L7MP_TCPF_PSH;
}

/* Sets s->new, all but addresses and options, and records the segment in the pair. */
static __noinline int l7mp_tcp_translate(struct l7mp_tcp_segment *s, struct l7mp_tcp_direction *me,
                                         struct l7mp_tcp_direction *other)
{
	s->clear = 0;
	s->new[L7MP_TCP_PORTS] = (__u32)s->rw.ports;
	s->new[L7MP_TCP_ACK] = s->old[L7MP_TCP_ACK];
	if (s->flags & L7MP_TCPF_ACK)
		l7mp_tcp_translate_ack(s, me, other);
	if (s->phase == L7MP_TCP_STOP && !(s->flags & L7MP_TCPF_RST))
		l7mp_tcp_stop(s, me, other);
	if (s->tracked && !s->clear && !(s->flags & L7MP_TCPF_RST))
		l7mp_tcp_note_data(s, me);
	s->new[L7MP_TCP_SEQ] = bpf_htonl(s->seq + me->seq_delta);
	s->new[L7MP_TCP_FLAGS_WIN] =
	        (s->old[L7MP_TCP_FLAGS_WIN] & bpf_htonl(~(s->clear << 16 | 0xffffU))) |
	        bpf_htonl(l7mp_tcp_window(s->win, me->win_out, s->phase == L7MP_TCP_STOP));
	return 0;
}

/*
 * TRANS: sets s->up, for the near socket, which must get only the acknowledgements of its own data:
 * the payload is renumbered as old data.
 */
static __always_inline void l7mp_tcp_own_copy(struct l7mp_tcp_segment *s,
                                              const struct l7mp_tcp_direction *me)
{
	__u32 ack = l7mp_load_once(&me->own_ack);

	s->up[L7MP_TCP_PORTS] = s->old[L7MP_TCP_PORTS];
	s->up[L7MP_TCP_SEQ] = bpf_htonl(l7mp_load_once(&me->own_seq) - s->payload);
	s->up[L7MP_TCP_ACK] = l7mp_before(ack, s->ack) ? bpf_htonl(ack) : s->old[L7MP_TCP_ACK];
	s->up[L7MP_TCP_FLAGS_WIN] =
	        s->old[L7MP_TCP_FLAGS_WIN] & ~bpf_htonl((L7MP_TCPF_FIN | L7MP_TCPF_PSH) << 16);
}
