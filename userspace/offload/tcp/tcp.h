/* SPDX-License-Identifier: MIT */
/*
 * Pairs of established TCP connections that are spliced in the kernel: how a pair that user space
 * relays is spliced, un-spliced and closed. abi_tcp.h describes what the programs do.
 *
 *   socket     TCP_REPAIR: numbers, silent close, restore    segment   sending crafted segments
 *   check      may two connections be spliced?               relay     relaying with MSG_PEEK
 *   splice     the stages until FAST                         unsplice  STOP, back to user space
 *   close      end of connections, dead peers                pairs     allocation, lists, timer
 *   adopt      pairs of a previous daemon                    fill      un-splice with missing data
 *
 * The sequence numbers of the two connections differ by constants, so that a byte may be both
 * relayed by user space and translated by the program: the receiver drops the duplicate. Invariant:
 * a socket is kept until the far end has acknowledged every byte that the socket has acknowledged.
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
	int fd4, fd6; /* raw sockets, opened when needed; -1: none */
	bool refused; /* not permitted: no CAP_NET_RAW */
};
struct off_tcp_segment {
	uint32_t seq, ack, win; /* win in bytes */
	uint32_t tsval, tsecr;
	bool old_byte; /* payload: one old byte, before seq, which the peer ACKs at once */
	bool rst;
};
void off_tcp_raw_init(struct off_tcp_raw *r);
void off_tcp_raw_close(struct off_tcp_raw *r);
/* Builds the IP packet in `out` (OFF_TCP_SEGMENT_MAX bytes); returns its length. Pure. */
#define OFF_TCP_SEGMENT_MAX 80
size_t off_tcp_segment_build(const struct off_tcp_conn *c, const struct off_tcp_segment *s,
                             uint8_t *out);
/* Sends a segment from c's local address to its peer. 0 or a negative errno. */
int off_tcp_segment_send(struct off_tcp_raw *r, const struct off_tcp_conn *c,
                         const struct off_tcp_segment *s);

/* ---- relay ---- */

#define OFF_TCP_CHUNK 262144
/* State of relaying from one socket to another. All zero: nothing relayed. */
struct off_tcp_relay {
	uint8_t *chunk;
	size_t at, len;   /* unwritten part of the chunk */
	uint64_t relayed; /* bytes written, counted from the first unread byte of the socket */
	int8_t by_offset; /* SO_PEEK_OFF: 1 works, -1 does not; 0: not tried */
};
/*
 * Peeks data in `from` that was not relayed yet and writes it to `to`. The data stays in `from`, so
 * that its receive window doesn't open. Returns true if something was written; *all: everything in
 * `from` has been relayed.
 */
bool off_tcp_relay_some(struct off_tcp_relay *r, int from, int to, bool *all);
/* Reads and discards the relayed data from `from`. 0 or negative errno. */
int off_tcp_relay_discard(struct off_tcp_relay *r, int from);
/* Frees the buffer, but keeps the position. */
void off_tcp_relay_rest(struct off_tcp_relay *r);
void off_tcp_relay_free(struct off_tcp_relay *r);

/* ---- pairs ---- */

enum off_tcp_stage {
	OFF_TCP_NUMBERS, /* until the sequence numbers can be read */
	OFF_TCP_WATCH,   /* until the programs have seen packets of both directions */
	OFF_TCP_HOLD,    /* until the owner lends its descriptors */
	OFF_TCP_RELAY,   /* until everything is relayed, and acknowledged or little */
	OFF_TCP_TRANS,   /* the programs translate, and user space still relays */
	OFF_TCP_FAST,    /* the programs translate, the sockets are idle */
	OFF_TCP_BARRIER, /* STOP is set: until programs that read the old phase have ended */
	OFF_TCP_STOP,    /* until everything is acknowledged */
	OFF_TCP_FILL,    /* the sockets are restored, but unacknowledged data must be refilled */
	OFF_TCP_LINGER,  /* closed; the flows stay for late segments */
	OFF_TCP_STAGES,
};
const char *off_tcp_stage_name(enum off_tcp_stage stage);

/* FILL: data of end i's peer that must be queued in the other end's restored socket. */
struct off_tcp_fill {
	uint8_t *data;  /* a piece of it, owned; NULL: none */
	size_t at, len; /* the part of `data` that is not queued yet */
	uint32_t acked; /* the far peer's acknowledgement when the sockets were restored */
	uint32_t left;  /* sequence numbers that are not queued yet */
	bool fin;       /* the last of them is a FIN */
};

struct off_tcp_end {
	int fd; /* borrowed before RELAY, then ours; -1: none */
	struct off_tcp_conn conn;
	struct l7mp_flow_mss mss; /* as passed by its owner */
	struct off_tcp_relay relay;
	uint32_t copied; /* sequence number of the first byte not read by user space */
	uint32_t rcv_nxt;
	uint32_t clock;             /* highest time stamp that the socket has sent */
	struct off_tcp_clock ticks; /* the socket's clock; known from TRANS on and once restored */
	uint32_t own_ack0;          /* write_seq when `written0` was read */
	uint64_t written0;
	uint32_t segs_in;   /* when WATCH began */
	uint32_t in_flight; /* RELAY: most bytes that its peer had not acknowledged at a time */
	bool have_ack0;
	bool fin;   /* the peer's FIN, at rcv_nxt - 1, was received and relayed */
	bool shut;  /* the socket has sent a FIN, at its write_seq - 1 */
	bool ended; /* FILL: the peer has sent a FIN before, unknown to the restored socket */
	struct off_tcp_fill fill;
	/* Accounting of the peer's data: */
	uint32_t counted; /* the seq_max that is included in `bytes` */
	uint64_t bytes;   /* since user space has stopped relaying */
};

struct off_tcp;
struct off_tcp_pair {
	struct off_tcp *t;
	struct off_tcp_pair *prev, *next;
	void *owner; /* the flow */
	uint32_t index, id;
	volatile struct l7mp_tcp_pair *map;
	uint8_t stage;             /* enum off_tcp_stage */
	uint8_t why;               /* enum l7mp_reason of the un-splice; NONE: none is requested */
	bool wanted_back;          /* un-splice as soon as possible */
	bool reset;                /* LINGER: closed by a reset */
	bool begun_called;         /* `begun` was called */
	struct off_tcp_end end[2]; /* the client's, the server's */
	uint64_t since_ms;         /* when the stage began */
	uint64_t moved_ms;         /* TRANS: when rcv_nxt advanced last */
	uint64_t probe_ms;         /* last probe */
	uint64_t refreshed_ms;
	unsigned probes;
	unsigned barrier;          /* BARRIER: number of the barrier that it waits for */
	uint32_t doubts;           /* number of doubts when STOP began */
	bool settled;              /* FILL: `bytes` no longer follows the map */
	bool held;                 /* the owner was requested to stop reading */
	bool keep_busy;            /* FAST: in the busy list, checked every ms */
	uint64_t challenged_ms;    /* time of the last challenge ACK */
	uint64_t reset_ms;         /* FAST: when the last segment seen was a reset; 0: it was not */
	uint64_t unanswered_ms[2]; /* FAST: time of the first unanswered probe; 0: none */
};

struct off_tcp_ops {
	/* The owner must stop reading; with `on` false it resumes. */
	void (*hold)(void *arg, void *owner, bool on);
	/*
	 * Passes both descriptors to the pair; false: not yet. `ended`: the owner has read the
	 * peer's FIN, and has sent a FIN to the other end, which is marked `shut`.
	 */
	bool (*lend)(void *arg, void *owner, struct l7mp_flow_socket at[2]);
	/* FAST was entered for the first time. */
	void (*begun)(void *arg, void *owner);
	/* The bytes of the flow's counter in that direction, as last read. */
	uint64_t (*passed)(void *arg, void *owner, int dir);
	/* The owner must delete the flows from the map: packets are passed to the stack. */
	void (*unmap)(void *arg, void *owner);
	/*
	 * Splicing has ended, and the owner has the descriptors again. The pair is freed after
	 * this. back NULL: they had not been lent.
	 */
	void (*returned)(void *arg, void *owner, const struct l7mp_flow_socket back[2],
	                 enum l7mp_reason why);
	/* Both connections are closed; the pair lingers, then `unmap` and `removed` follow. */
	void (*over)(void *arg, void *owner, bool reset);
	void (*removed)(void *arg, void *owner);
};

struct off_tcp {
	struct l7mp_loop *loop;
	const struct off_tcp_ops *ops;
	void *arg;
	volatile struct l7mp_tcp_pair *map; /* of the map tcp_pairs; NULL: none */
	struct off_tcp_pair *busy;          /* checked every ms */
	struct off_tcp_pair *quiet;         /* FAST and LINGER: checked round robin */
	unsigned n_busy, n_quiet, n_switching;
	struct off_tcp_pair *next_quiet; /* the next one to check */
	struct off_tcp_pair *next_busy;
	struct l7mp_timer timer;
	uint64_t skew_ms; /* how far the time is ahead of the loop's, during off_tcp_settle_* */
	struct off_tcp_raw raw;
	struct l7mp_work work;               /* membarrier(2) */
	unsigned barrier_done, barrier_last; /* numbers of the last finished, last begun barrier */
	bool dead;                           /* freed when the work is done */
	int epoll; /* edge-triggered; reports data that reached a socket in FAST */
	uint32_t last_id;
	unsigned first_free, n_free; /* of the ring `free` */
	uint16_t free[L7MP_TCP_PAIRS];
	uint64_t n_spliced, n_returned, n_closed, n_reset, n_late, n_forced, n_challenges, n_filled;
};

/* `map`: the memory of tcp_pairs; `map` and `ops` are borrowed. 0 or negative errno. */
int off_tcp_new(struct l7mp_loop *loop, volatile struct l7mp_tcp_pair *map,
                const struct off_tcp_ops *ops, void *arg, struct off_tcp **out);
/* All pairs must have been freed. Nulls the pointer; no-op if it is NULL. */
void off_tcp_free(struct off_tcp **t);

/*
 * Creates a pair in stage NUMBERS for two connected sockets, which still belong to the owner.
 * Returns L7MP_REASON_NONE and *out, or the reason why they can't be spliced.
 */
enum l7mp_reason off_tcp_pair_new(struct off_tcp *t, const struct l7mp_flow_socket at[2],
                                  void *owner, struct off_tcp_pair **out);
/* Starts the pair, after its flows were written to the map. */
void off_tcp_pair_begin(struct off_tcp_pair *p);
static inline bool off_tcp_lent(const struct off_tcp_pair *p)
{
	return p->stage >= OFF_TCP_RELAY && p->stage != OFF_TCP_LINGER;
}
/* Frees a pair that is not lent, or that lingers. No callback. Nulls the pointer. */
void off_tcp_pair_free(struct off_tcp_pair **p);
/* Un-splices a lent pair in order. `returned` or `over` follows, not from within this call. */
void off_tcp_pair_leave(struct off_tcp_pair *p, enum l7mp_reason why);
/* Selects some of the pairs that are being un-spliced by off_tcp_pair_leave. */
struct off_tcp_choice {
	bool (*has)(const void *arg, const void *owner); /* NULL: all */
	const void *arg;
	bool filling; /* also those in FILL, which don't need the programs */
};
bool off_tcp_leaving(const struct off_tcp *t, const struct off_tcp_choice *of);
/*
 * Un-splices these pairs at once, as they are: data that is not acknowledged is retransmitted, and
 * connections in TRANS are reset. Calls the callbacks.
 */
void off_tcp_force(struct off_tcp *t, const struct off_tcp_choice *of);
/*
 * Waits at most `ms` for these pairs, then forces them. Calls the callbacks. Blocks: for use at the
 * end of the process, and before another one takes over.
 */
void off_tcp_settle(struct off_tcp *t, unsigned ms, const struct off_tcp_choice *of);
/*
 * Resets both connections of a lent pair now. Calls `over`, or before TRANS `returned`, from within
 * this call.
 */
void off_tcp_pair_kill(struct off_tcp_pair *p);
/* Updates and returns the bytes that an end's peer has sent since user space stopped relaying. */
uint64_t off_tcp_bytes(struct off_tcp_pair *p, int dir);

/* ---- adopt ---- */

/* Before TRANS: stores in the map what the next daemon needs to adopt the pair. */
void off_tcp_remember(struct off_tcp_pair *p);
/*
 * Reads a pair that a previous daemon left at `index` of the map. To be called before other pairs
 * are created. `local`, `peer`: addresses of its ends, the client's first; `passed`: the current
 * bytes of the flow's counters. Returns NULL and *out if the pair is in FAST or STOP; otherwise a
 * message why it can't be adopted, and *out for off_tcp_adopt_reset, or NULL. Doesn't change the
 * pair in the kernel; off_tcp_adopt_begin does.
 */
const char *off_tcp_adopt(struct off_tcp *t, uint32_t index, uint32_t id,
                          const struct l7mp_addr local[2], const struct l7mp_addr peer[2],
                          const uint64_t passed[2], void *owner, struct off_tcp_pair **out);
/*
 * Restores the sockets of both ends, in repair mode, with their connections' current sequence
 * numbers: they reserve the addresses and accept no data. 0 and fd[], or a negative errno and none.
 */
int off_tcp_adopt_sockets(const struct off_tcp_pair *p, int fd[2]);
/* Takes these sockets and resumes the pair. */
void off_tcp_adopt_begin(struct off_tcp_pair *p, const int fd[2]);
/*
 * Instead of off_tcp_adopt_begin, after the flows were deleted from the map: resets both
 * connections, frees the pair and nulls the pointer.
 */
void off_tcp_adopt_reset(struct off_tcp_pair **p);
/* Frees and nulls *p without changing the pair in the kernel: it is left to the next daemon. */
void off_tcp_adopt_leave(struct off_tcp_pair **p);

/* ---- between the files of this folder ---- */

static inline uint64_t off_tcp_now(const struct off_tcp *t)
{
	return l7mp_loop_now(t->loop) + t->skew_ms;
}
/* Milliseconds since `then`. */
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
/* One step of a pair, in the given stages; may free the pair. */
void off_tcp_splice_step(struct off_tcp_pair *p);   /* NUMBERS to TRANS */
void off_tcp_unsplice_step(struct off_tcp_pair *p); /* BARRIER, STOP, FILL */
void off_tcp_quiet_step(struct off_tcp_pair *p);    /* FAST, LINGER */
void off_tcp_stop_begin(struct off_tcp_pair *p);
/* Ends STOP, whether everything is acknowledged or not. */
void off_tcp_stop_end(struct off_tcp_pair *p);
void off_tcp_fast(struct off_tcp_pair *p);
/* FAST: a socket has received something. */
void off_tcp_late(struct off_tcp_pair *p);
/*
 * Has end i's socket acknowledged data that the far end has not? Uses the rcv_nxt that was last
 * read.
 */
static inline bool off_tcp_owes(const struct off_tcp_pair *p, int i)
{
	return off_tcp_before(p->map->dir[!i].ack_max, p->end[i].rcv_nxt);
}
/*
 * Before end i's socket is closed: saves the data that it has acknowledged beyond `acked`. False:
 * that data is lost.
 */
bool off_tcp_fill_take(struct off_tcp_pair *p, int i, uint32_t acked);
/* Enters FILL, after the sockets were restored and the flows deleted. No callback. */
void off_tcp_fill_begin(struct off_tcp_pair *p, const uint32_t acked[2]);
void off_tcp_fill_step(struct off_tcp_pair *p);
/* Returns the sockets to the owner, whether everything is filled or not. Frees p. */
void off_tcp_fill_end(struct off_tcp_pair *p);
void off_tcp_step(struct off_tcp_pair *p);
uint64_t off_tcp_now_ns(void);
/* Sets p->barrier to the next barrier that begins after this call. */
void off_tcp_barrier(struct off_tcp_pair *p);
/* RELAY: returns the sockets to the owner. Frees p. */
void off_tcp_give_up(struct off_tcp_pair *p, enum l7mp_reason why);
/* Both connections are closed: enters LINGER. */
void off_tcp_over(struct off_tcp_pair *p, bool reset);
/* FAST: `on`: check the pair every ms. */
void off_tcp_set_busy(struct off_tcp_pair *p, bool on);
/*
 * From TRANS to STOP: ends the pair if a peer has opened a new connection with the same port; sends
 * a challenge ACK to a peer that may have. Returns true if the pair was ended.
 */
bool off_tcp_check_reuse(struct off_tcp_pair *p);
/* Sends a reset to end i's peer. */
void off_tcp_send_reset(struct off_tcp_pair *p, int i);
/* Adds a pair to the list that its stage belongs to. */
void off_tcp_list(struct off_tcp_pair *p);
/* Sends a segment to end i's peer that it answers with an ACK. */
void off_tcp_probe(struct off_tcp_pair *p, int i);
/* The TSval for a crafted segment to end i's peer. */
uint32_t off_tcp_tsval(const struct off_tcp_pair *p, int i);
/* Adds both sockets to the epoll set for late data, or removes them. */
void off_tcp_watch_socket(struct off_tcp_pair *p, bool on);
