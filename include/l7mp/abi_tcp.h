/* SPDX-License-Identifier: MIT */
/*
 * The TCP part of the contract between the BPF programs and user space: pairs of connections whose
 * segments the kernel translates from one into the other.
 *
 * Direction 0 is from the client, direction 1 from the server. For each direction "near" is the
 * connection on which its segments are received, "far" the one on which they are sent. "in" numbers
 * are those of received segments, "out" those of sent ones; the out numbers of one direction are
 * the in numbers of the other. All sequence numbers are in host byte order.
 *
 * The action of a flow with L7MP_VERB_SPLICE has the index of its pair, the pair's id and the
 * direction. The flows' counters count translated segments; because of retransmissions, the bytes
 * of the session are derived from seq_max instead.
 */
#pragma once

#include <linux/types.h>

#define L7MP_MAP_TCP_PAIRS "tcp_pairs" /* array, BPF_F_MMAPABLE */
#define L7MP_TCP_PAIRS     16384

/* Of both directions: one store switches them. The data that a phase needs is stored before it. */
enum l7mp_tcp_phase {
	L7MP_TCP_FREE = 0,  /* unused: packets are passed to the stack */
	L7MP_TCP_WATCH = 1, /* packets are passed to the stack; only `seen` is written */
	L7MP_TCP_TRANS = 2, /* translated; the original is passed to the stack as old data */
	L7MP_TCP_FAST = 3,  /* translated */
	L7MP_TCP_STOP = 4,  /* segments from below seq_max are translated; else acks only */
};

enum l7mp_tcp_flags { /* constants of a direction */
	              /* Both connections have time stamps; without it they are blanked. */
	              L7MP_TCP_TS = 1 << 0,
	              L7MP_TCP_NOSACK = 1 << 1, /* the far end does not know SACK: blanked */
};

/*
 * Set by the programs, atomically. User space clears them while the pair does not translate; SYN
 * and CHALLENGED at any time.
 */
enum l7mp_tcp_seen {
	L7MP_TCP_SEEN = 1 << 0,      /* WATCH: a segment with plausible numbers was received */
	L7MP_TCP_FIN = 1 << 1,       /* a FIN passed; fin_end is valid */
	L7MP_TCP_FIN_ACKED = 1 << 2, /* the other direction acknowledged fin_end */
	/*
	 * A reset in the window was forwarded. It is not known whether the far end has accepted it
	 * (RFC 5961); any other segment of either direction clears the flag. So when it is still
	 * set after a second without segments, the connection has ended.
	 */
	L7MP_TCP_RST = 1 << 3,
	L7MP_TCP_REUSED = 1 << 4, /* ended by the peer: its packets are passed to the stack */
	L7MP_TCP_DOUBT = 1 << 5,  /* see l7mp_tcp_doubt; user space takes the connections back */
	/*
	 * A SYN while the connections are alive; it was dropped. The peer reuses the port, or
	 * the SYN is forged: user space sends a challenge ACK (RFC 5961, 4.2), clears this flag and
	 * sets CHALLENGED.
	 */
	L7MP_TCP_SYN = 1 << 6,
	/* A reset with exactly the challenge's acknowledgement number is accepted: REUSED. */
	L7MP_TCP_CHALLENGED = 1 << 7,
};

/*
 * Why a segment can't be translated. In WATCH, and with L7MP_TCP_DOUBT_TTL always, it was passed to
 * the stack; else it was dropped: TCP retransmits it.
 */
enum l7mp_tcp_doubt {
	L7MP_TCP_DOUBT_NONE,
	L7MP_TCP_DOUBT_IP_OPTIONS,
	L7MP_TCP_DOUBT_FRAGMENT, /* only the first one of a packet is recognised */
	L7MP_TCP_DOUBT_TTL,      /* 1 or 0 */
	/* A segment exceeds the egress MTU, or that of a later router (ICMP). */
	L7MP_TCP_DOUBT_MTU,
	L7MP_TCP_DOUBT_OPTION, /* an option other than SACK and time stamps: MPTCP, unknown */
	L7MP_TCP_DOUBT_URGENT,
	L7MP_TCP_DOUBT_FLAGS,  /* a combination that is invalid on an established connection */
	L7MP_TCP_DOUBT_EGRESS, /* the program can't send as the action requires */
	L7MP_TCP_DOUBT_KERNEL, /* a helper function failed */
	L7MP_TCP_DOUBT_SIGNED, /* MD5 (RFC 2385) or AO (RFC 5925): covers addresses and numbers */
};

/*
 * In bytes. A segment further than this from the expected sequence number does not belong to the
 * connection.
 */
#define L7MP_TCP_PLAUSIBLE (1U << 26)
/* Translated time stamps are ahead of the far socket's by more than packets are delayed. */
#define L7MP_TCP_TS_AHEAD 500 /* ms */

/* One direction: two cache lines, the first written by user space, the second by the programs. */
struct l7mp_tcp_direction {
	/*
	 * Stored by user space: own_seq and own_ack before WATCH, the rest before TRANS. STOP
	 * needs nothing new.
	 */
	__u32 seq_delta; /* out = in + delta */
	__u32 ack_delta; /* the same for ACK and SACK edges */
	__u32 ack_floor; /* TRANS: out ack is never below: the far socket's rcv_nxt */
	__u32 own_seq;   /* WATCH, TRANS: the near socket's rcv_nxt */
	__u32 own_ack;   /* WATCH, TRANS: the near socket's write_seq: highest valid ack */
	__u32 edge;      /* TRANS: out: end of the window that the far socket has granted */
	/*
	 * The far socket's TSval at armed_ns (its clock counts milliseconds). In TRANS that socket
	 * sends segments of its own, so what is translated has its time stamps, too.
	 */
	__u32 ts_base;
	__u8 win_in;  /* window scale of the near peer */
	__u8 win_out; /* window scale that the far socket has announced */
	__u8 flags;   /* enum l7mp_tcp_flags */
	__u8 pad;
	__u64 armed_ns; /* CLOCK_MONOTONIC; a whole number of ms, as the kernel's clock is */
	/* Set to zero by user space before WATCH, rarely written by the programs. */
	/* 1 << 32 | delta of the time stamps, after TRANS; 0: not known yet, set with cmpxchg */
	__u64 ts;
	__u32 fin_end; /* in: end of the FIN, itself included */
	__u32 seen;    /* enum l7mp_tcp_seen */
	__u32 ts_own;  /* out: highest TSval without that delta, stored before FAST; 0: none */
	__u32 pad2;

	/* Initialised by user space before TRANS, written by the programs from then on. */
	__u32 seq_max; /* in: end of the highest segment, FIN included; at first own_seq */
	__u32 ack_max; /* out: highest ack; at first ack_floor. May be past the other's seq_max */
	__u32 win;     /* window received with ack_max, in bytes; at first the near peer's */
	__u32 ts_in;   /* last TSval received */
	__u32 ts_out;  /* highest TSval translated; at first ts_base */
	__u32 doubts;  /* number of segments that could not be translated */
	__u32 doubt;   /* why the last one could not: enum l7mp_tcp_doubt */
	__u32 pad3;
	__u64 last_seen; /* CLOCK_MONOTONIC ns, coarse: last segment that was translated */

	/* Used by user space only, for the next daemon: bytes counted so far, each once. */
	__u64 bytes;
	__u64 passed; /* bytes of the flow's counter then, or a little before */
	__u32 begun;  /* in: sequence number of the first counted byte */
	__u32 pad4;
};

/*
 * What is needed, besides the numbers, to restore the socket of an end after the process that owned
 * it has ended. Stored by user space before TRANS; the programs don't use it.
 */
struct l7mp_tcp_end {
	__u16 snd_mss; /* payload that may be sent, without the time stamp option; 0: not stored */
	__u16 rcv_mss; /* the same for the peer */
	__u32 ifindex; /* of the device that the socket is bound to; 0: none */
	char congestion[16];
};

struct l7mp_tcp_pair {
	__u32 phase; /* enum l7mp_tcp_phase */
	__u32 id;    /* unique, not 0. If the action's differs, packets are passed to the stack */
	struct l7mp_tcp_end end[2]; /* the client's, the server's */
	__u32 pad[2];
	struct l7mp_tcp_direction dir[2];
};

_Static_assert(__builtin_offsetof(struct l7mp_tcp_direction, seq_max) == 64, "a cache line");
_Static_assert(sizeof(struct l7mp_tcp_direction) == 128, "two cache lines");
_Static_assert(__builtin_offsetof(struct l7mp_tcp_pair, dir) == 64, "a cache line");
_Static_assert(sizeof(struct l7mp_tcp_pair) == 320, "five cache lines");
