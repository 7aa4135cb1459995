/* SPDX-License-Identifier: MIT */
/*
 * Pairs of established TCP connections that are spliced in the kernel: how a pair that user space
 * relays is spliced, un-spliced, and closed. What the programs do is in abi_tcp.h.
 *
 *   socket     TCP_REPAIR: numbers, silent close, restoring       segment   hand-made segments
 *   check      may these two be spliced                            relay     by MSG_PEEK
 *   splice     the states until FAST                               unsplice  STOP and back
 *   close      ends and dead peers                                 pairs     memory, list, ticks
 *   adopt      pairs of an earlier process                        fill     un-splice with a hole
 *
 * The sequence numbers of the two connections differ by constants, so a byte may be relayed by user
 * space and translated by the program at once: the receiver drops the duplicate. The invariant: a
 * socket lives until the far end has acknowledged every byte that the socket has acknowledged.
 *
 * Knows pairs and descriptors, but neither flows nor sessions. Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "l7mp/abi_tcp.h"
#include "l7mp/addr.h"
#include "l7mp/flow.h"
#include "l7mp/hash.h"
#include "l7mp/loop.h"
#include "l7mp/work.h"
#include "socket.h"

/* ---- segment ---- */

struct off_tcp_raw {
	int fd4, fd6; /* raw sockets; -1: none (yet) */
	bool refused; /* no CAP_NET_RAW */
};
struct off_tcp_segment {
	uint32_t seq, ack, win; /* win in bytes */
	uint32_t tsval, tsecr;
	bool old_byte; /* has a byte before seq as payload, which is old: answered at once */
	bool rst;
};
void off_tcp_raw_init(struct off_tcp_raw *r);
void off_tcp_raw_close(struct off_tcp_raw *r);
/* Builds the IP packet; returns its length. `out` has OFF_TCP_SEGMENT_MAX bytes. Pure. */
#define OFF_TCP_SEGMENT_MAX 80
size_t off_tcp_segment_build(const struct off_tcp_conn *c, const struct off_tcp_segment *s,
                             uint8_t *out);
/* Sends from c's own address to its peer. 0 or a negative errno. */
int off_tcp_segment_send(struct off_tcp_raw *r, const struct off_tcp_conn *c,
                         const struct off_tcp_segment *s);

/* ---- relay ---- */

#define OFF_TCP_CHUNK 262144
/* What is peeked in one socket and written to another. All zero: nothing yet. */
struct off_tcp_relay {
	uint8_t *chunk;
	size_t at, len;   /* of the chunk, not yet written */
	uint64_t relayed; /* bytes from the socket's first unread one that were written */
	int8_t by_offset; /* SO_PEEK_OFF: 1 works, -1 does not; 0: not tried */
};
/*
 * Writes to `to` what `from` holds and was not written yet, without taking it out: no window opens.
 * Returns true when something was written. *all: everything that is there was.
 */
bool off_tcp_relay_some(struct off_tcp_relay *r, int from, int to, bool *all);
/* Takes out of `from` what was relayed. 0 or negative errno. */
int off_tcp_relay_discard(struct off_tcp_relay *r, int from);
/* It is not needed for a while: frees memory, remembers how far it is. */
void off_tcp_relay_rest(struct off_tcp_relay *r);
void off_tcp_relay_free(struct off_tcp_relay *r);

/* ---- pairs ---- */

enum off_tcp_stage {
	OFF_TCP_NUMBERS, /* waits for a moment in which the numbers can be read */
	OFF_TCP_WATCH,   /* do the programs see the packets? */
	OFF_TCP_HOLD,    /* the owner is to give the descriptors */
	OFF_TCP_RELAY,   /* both sockets come to rest */
	OFF_TCP_TRANS,   /* both ways at once */
	OFF_TCP_FAST,
	OFF_TCP_BARRIER, /* STOP: programs that had not seen it yet come to their end */
	OFF_TCP_STOP,    /* until everything is acknowledged */
	OFF_TCP_FILL,    /* the sockets are made again, but not all was acknowledged */
	OFF_TCP_LINGER,  /* over; the flows stay for what is late */
	OFF_TCP_STAGES,
};
const char *off_tcp_stage_name(enum off_tcp_stage stage);

/* What end i's peer has sent, as far as the other end's new socket has to be given it: FILL. */
struct off_tcp_fill {
	uint8_t *data;  /* a piece of it, owned; NULL: none */
	size_t at, len; /* of `data`: what was not given yet */
	uint32_t acked; /* the far peer's acknowledgement when the sockets were made */
	uint32_t left;  /* numbers that are not given yet */
	bool fin;       /* the last of them is a FIN */
};

struct off_tcp_end {
	int fd; /* borrowed before RELAY, then ours; -1: none */
	struct off_tcp_conn conn;
	struct l7mp_flow_mss mss; /* as it came from its owner */
	struct off_tcp_relay relay;
	uint32_t copied; /* number of the first byte that user space has not taken */
	uint32_t rcv_nxt;
	uint32_t clock;             /* highest time stamp that the socket has sent */
	struct off_tcp_clock ticks; /* its clock, from TRANS on, and when it was made again */
	uint32_t own_ack0;          /* write_seq when `written0` was read */
	uint64_t written0;
	uint32_t segs_in; /* when WATCH began */
	bool have_ack0;
	bool fin;  /* the peer has finished: the FIN is the number before rcv_nxt, and is relayed */
	bool shut; /* so has the socket: its FIN is the number before its write_seq */
	bool ended; /* FILL: the peer has finished, which its new socket does not know */
	struct off_tcp_fill fill;
	/* Of what the peer sends: */
	uint32_t counted; /* seq_max that is in `bytes` already */
	uint64_t bytes;   /* since user space stopped */
};

struct off_tcp;
struct off_tcp_pair {
	struct off_tcp *t;
	struct off_tcp_pair *prev, *next;
	void *owner; /* the flow */
	uint32_t index, id;
	volatile struct l7mp_tcp_pair *map;
	uint8_t stage;             /* enum off_tcp_stage */
	uint8_t why;               /* enum l7mp_reason: for which it has to leave; NONE: it stays */
	bool wanted_back;          /* un-splice as soon as that is possible */
	bool reset;                /* LINGER: how it ended */
	bool told;                 /* `begun` was called */
	struct off_tcp_end end[2]; /* the client's, the server's */
	uint64_t since_ms;         /* of the stage */
	uint64_t moved_ms;         /* TRANS: when rcv_nxt moved last */
	uint64_t probe_ms;         /* last probe */
	uint64_t refreshed_ms;
	unsigned probes;
	unsigned barrier;          /* BARRIER: number of the barrier that it waits for */
	uint32_t doubts;           /* STOP: number of doubts when it began */
	bool settled;              /* FILL: bytes are counted by hand now */
	bool held;                 /* the owner was told to */
	bool hurried;              /* FAST: looked at every ms all the same */
	uint64_t challenged_ms;    /* the last challenge */
	uint64_t reset_ms;         /* FAST: since when a reset was the last segment; 0: it is not */
	uint64_t unanswered_ms[2]; /* FAST: since when a probe has no answer; 0: none is out */
};

struct off_tcp_ops {
	/* The owner reads no more, or (off) goes on. */
	void (*hold)(void *arg, void *owner, bool on);
	/*
	 * Gives both descriptors away; false: not yet. `ended`: the owner has read the peer's FIN,
	 * and has sent its own to the other end, which is `shut`.
	 */
	bool (*lend)(void *arg, void *owner, struct l7mp_flow_socket at[2]);
	/* FAST for the first time. */
	void (*begun)(void *arg, void *owner);
	/* Bytes that the flow's counter had when it was read last, in that direction. */
	uint64_t (*passed)(void *arg, void *owner, int dir);
	/* The flows are to be taken out of the map: from now on packets go up. */
	void (*unmap)(void *arg, void *owner);
	/*
	 * It is over with splicing: the descriptors are the owner's. The pair is freed after this.
	 * back NULL: they had not been lent.
	 */
	void (*returned)(void *arg, void *owner, const struct l7mp_flow_socket back[2],
	                 enum l7mp_reason why);
	/* Both connections are over; the pair lingers, and is freed after `unmap` and `gone`. */
	void (*over)(void *arg, void *owner, bool reset);
	void (*gone)(void *arg, void *owner);
};

struct off_tcp {
	struct l7mp_loop *loop;
	const struct off_tcp_ops *ops;
	void *arg;
	volatile struct l7mp_tcp_pair *map; /* of the map tcp_pairs; NULL: none */
	struct off_tcp_pair *busy;          /* looked at every ms */
	struct off_tcp_pair *quiet;         /* FAST and LINGER: looked at in turns */
	unsigned n_busy, n_quiet, n_switching;
	struct off_tcp_pair *next_quiet; /* where the turn goes on */
	struct off_tcp_pair *next_busy;
	struct l7mp_timer timer;
	uint64_t skew_ms; /* what the clock is ahead of the loop's, while that stands still */
	struct off_tcp_raw raw;
	struct l7mp_work work;               /* membarrier(2) */
	unsigned barrier_done, barrier_last; /* numbers of the last that is over, that was begun */
	bool dead;                           /* freed when the work is done */
	int epoll; /* edge-triggered: something reached a socket that should be idle */
	uint32_t last_id;
	unsigned first_free, n_free; /* in `free`, a ring */
	uint16_t free[L7MP_TCP_PAIRS];
	uint64_t n_spliced, n_returned, n_closed, n_reset, n_late, n_forced, n_challenges, n_filled;
};

/* `map`: memory of tcp_pairs; it and `ops` are borrowed. 0 or negative errno. */
int off_tcp_new(struct l7mp_loop *loop, volatile struct l7mp_tcp_pair *map,
                const struct off_tcp_ops *ops, void *arg, struct off_tcp **out);
/* There must be no pair. Nulls the pointer; NULL inside is fine. */
void off_tcp_free(struct off_tcp **t);

/*
 * A pair in the stage NUMBERS for two connected sockets, which stay their owners' for now. Returns
 * NONE and *out, or why it can't be spliced.
 */
enum l7mp_reason off_tcp_pair_new(struct off_tcp *t, const struct l7mp_flow_socket at[2],
                                  void *owner, struct off_tcp_pair **out);
/* It is in the map: begin. */
void off_tcp_pair_begin(struct off_tcp_pair *p);
static inline bool off_tcp_lent(const struct off_tcp_pair *p)
{
	return p->stage >= OFF_TCP_RELAY && p->stage != OFF_TCP_LINGER;
}
/* Frees a pair that was not lent, or that lingers. No callback. Nulls the pointer. */
void off_tcp_pair_free(struct off_tcp_pair **p);
/* Back to user space, orderly; `returned` or `over` follows, not from inside. Lent ones only. */
void off_tcp_pair_leave(struct off_tcp_pair *p, enum l7mp_reason why);
/*
 * Waits for those that leave, for at most `ms`, and then brings them back as they are: what is not
 * acknowledged then comes again. The callbacks come from inside. Blocks: for settings that take the
 * programs away.
 */
void off_tcp_settle_now(struct off_tcp *t, unsigned ms);
/* The same for all pairs at the end: also those without programs, which fill holes (FILL). */
void off_tcp_settle_all(struct off_tcp *t, unsigned ms);
/* Resets both connections now: `over`, or before TRANS `returned`, from inside. Lent ones only. */
void off_tcp_pair_kill(struct off_tcp_pair *p);
/* Updates and returns the bytes that an end's peer has sent since user space stopped. */
uint64_t off_tcp_bytes(struct off_tcp_pair *p, int dir);

/* ---- adopt ---- */

/* Before TRANS: stores in the map what a successor of this process needs. */
void off_tcp_remember(struct off_tcp_pair *p);
/*
 * A pair that an earlier process has left at this place of the map, before any other is made.
 * `local`, `peer`: addresses of its ends, the client's first; `passed`: what the flow's counters
 * have now. Returns NULL and *out: the programs translate, or (STOP) it was on its way back. Else
 * why it can't go on: *out has then what off_tcp_adopt_reset needs, or is NULL. Nothing happens to
 * the pair before off_tcp_adopt_begin.
 */
const char *off_tcp_adopt(struct off_tcp *t, uint32_t index, uint32_t id,
                          const struct l7mp_addr local[2], const struct l7mp_addr peer[2],
                          const uint64_t passed[2], void *owner, struct off_tcp_pair **out);
/*
 * Makes the sockets of both ends again, in repair mode, at the numbers that their connections are
 * at: they keep the addresses and take no data. 0 and fd[], or a negative errno and none.
 */
int off_tcp_adopt_sockets(const struct off_tcp_pair *p, int fd[2]);
/* The pair goes on with these sockets (taken). */
void off_tcp_adopt_begin(struct off_tcp_pair *p, const int fd[2]);
/* Before off_tcp_adopt_begin, its flows are out of the map: resets both peers. Frees, nulls. */
void off_tcp_adopt_reset(struct off_tcp_pair **p);
/* The same, but it is left as it is for the next process. */
void off_tcp_adopt_leave(struct off_tcp_pair **p);

/* ---- between the files of this folder ---- */

static inline uint64_t off_tcp_now(const struct off_tcp *t)
{
	return l7mp_loop_now(t->loop) + t->skew_ms;
}
/* ms since then. */
static inline uint64_t off_tcp_since(const struct off_tcp *t, uint64_t then)
{
	uint64_t now = off_tcp_now(t);

	return now > then ? now - then : 0;
}
static inline bool off_tcp_before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}
static inline uint32_t off_tcp_later(uint32_t a, uint32_t b)
{
	return off_tcp_before(a, b) ? b : a;
}
void off_tcp_phase(struct off_tcp_pair *p, enum l7mp_tcp_phase phase);
void off_tcp_enter(struct off_tcp_pair *p, enum off_tcp_stage stage);
/* One look; the pair may be freed by it. */
void off_tcp_splice_step(struct off_tcp_pair *p);   /* NUMBERS to TRANS */
void off_tcp_unsplice_step(struct off_tcp_pair *p); /* BARRIER, STOP, FILL */
void off_tcp_quiet_step(struct off_tcp_pair *p);    /* FAST, LINGER */
void off_tcp_stop_begin(struct off_tcp_pair *p);
/* STOP is over, whether everything is acknowledged or not. */
void off_tcp_stop_end(struct off_tcp_pair *p);
void off_tcp_fast(struct off_tcp_pair *p);
/* FAST: something reached a socket. */
void off_tcp_late(struct off_tcp_pair *p);
/* Has end i's socket acknowledged what was not acknowledged beyond? As of when it was read last. */
static inline bool off_tcp_owes(const struct off_tcp_pair *p, int i)
{
	return off_tcp_before(p->map->dir[!i].ack_max, p->end[i].rcv_nxt);
}
/*
 * Keeps what end i's socket has acknowledged beyond `acked`; before it is closed. False: that is
 * lost.
 */
bool off_tcp_fill_take(struct off_tcp_pair *p, int i, uint32_t acked);
/* The sockets are made again, the programs out of the way. No callback. */
void off_tcp_fill_begin(struct off_tcp_pair *p, const uint32_t acked[2]);
void off_tcp_fill_step(struct off_tcp_pair *p);
/* Gives the sockets back, whether all is filled or not. Frees p. */
void off_tcp_fill_end(struct off_tcp_pair *p);
void off_tcp_step(struct off_tcp_pair *p);
uint64_t off_tcp_now_ns(void);
/* Sets p->barrier to one that begins after now. */
void off_tcp_barrier(struct off_tcp_pair *p);
/* RELAY: the sockets go back as they are. */
void off_tcp_give_up(struct off_tcp_pair *p, enum l7mp_reason why);
void off_tcp_over(struct off_tcp_pair *p, bool reset);
/* FAST: is it looked at every ms? */
void off_tcp_hurry(struct off_tcp_pair *p, bool on);
/*
 * From TRANS to STOP: ends the pair when a peer has begun anew with the same port; asks a peer that
 * seems to have. Returns whether it was ended.
 */
bool off_tcp_begun_anew(struct off_tcp_pair *p);
/* Tells end i's peer that its connection is over. */
void off_tcp_send_reset(struct off_tcp_pair *p, int i);
/* Puts a pair on the list of those that are looked at. */
void off_tcp_list(struct off_tcp_pair *p);
/* Asks end i's peer for an answer. */
void off_tcp_probe(struct off_tcp_pair *p, int i);
/* The time stamp that a hand-made segment to end i's peer has. */
uint32_t off_tcp_tsval(const struct off_tcp_pair *p, int i);
void off_tcp_watch_socket(struct off_tcp_pair *p, bool on);
