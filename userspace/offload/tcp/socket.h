/* SPDX-License-Identifier: MIT */
/*
 * Reading and restoring TCP sockets with TCP_REPAIR. Not in tcp.h, because <linux/tcp.h>, which
 * defines all of TCP_INFO, conflicts with headers that libuv includes. Thread: any.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/addr.h"
#include "l7mp/flow.h"

/* ---- check: pure ---- */

/* What a connection has negotiated with its peer, from TCP_INFO and other options. */
struct off_tcp_traits {
	bool carries, mptcp; /* carries: see off_tcp_carries */
	bool ts, sack, wscale, ecn;
	uint8_t snd_wscale, rcv_wscale;
	uint32_t snd_mss; /* payload that we may send, without the time stamp option */
	uint32_t advmss;  /* the same for the peer, as we announced it */
	uint32_t min_rtt_us;
	char congestion[16];
};
/*
 * For a restored socket: corrects *t to what the connection had negotiated. `mss` all 0: it was not
 * restored, *t is left unchanged.
 */
void off_tcp_recall(struct off_tcp_traits *t, const struct l7mp_flow_mss *mss);
struct l7mp_flow_mss off_tcp_mss(const struct off_tcp_traits *t);
/* L7MP_REASON_NONE, or the reason why the two connections can't be spliced. */
enum l7mp_reason off_tcp_check(const struct off_tcp_traits *a, const struct off_tcp_traits *b);

/* ---- socket ---- */

/* What is needed to restore the socket of a connection. */
struct off_tcp_conn {
	struct l7mp_addr own_local, own_peer; /* as bind(2) and connect(2) take them */
	struct l7mp_addr local, peer;         /* IPv4-mapped ones as IPv4 */
	char device[16];                      /* SO_BINDTODEVICE */
	struct off_tcp_traits traits;
};
/* Return 0 or a negative errno. */
int off_tcp_conn_read(int fd, struct off_tcp_conn *c);
int off_tcp_traits_read(int fd, struct off_tcp_traits *t);

struct off_tcp_window {
	uint32_t snd_wnd;  /* the peer's receive window, in bytes */
	uint32_t rcv_edge; /* end of the window that we have granted to the peer */
};
/* The next sequence number that is expected. Safe at any time. */
int off_tcp_rcv_nxt(int fd, uint32_t *out);
/*
 * The sequence number of the next byte that will be written. -EAGAIN while there is unsent data:
 * entering repair mode could then make the kernel treat it as sent.
 */
int off_tcp_write_seq(int fd, uint32_t *out);
/* Reads the windows. `keep`: the socket stays in repair mode. */
int off_tcp_window(int fd, bool keep, struct off_tcp_window *out);
void off_tcp_repair(int fd, bool on);
/* Enters repair mode such that written data counts as sent, but not acknowledged. */
void off_tcp_repair_sending(int fd);
/* Makes room for that many bytes in the send queue. off_tcp_unlock_room: autotuning again. */
void off_tcp_make_room(int fd, uint32_t bytes);
void off_tcp_unlock_room(int fd);
/* The TSval that the socket would send now, or one less: the kernel masks the last bit. */
uint32_t off_tcp_clock(int fd);
/* A socket's exact clock: `base` at `ns` (CLOCK_MONOTONIC, whole ms), advancing by 1 each ms. */
struct off_tcp_clock {
	uint32_t base;
	uint64_t ns;
};
/*
 * Sets the clock of a socket in repair mode to `at_least` or a little more, and returns it exactly.
 * The clock must not go back.
 */
struct off_tcp_clock off_tcp_clock_set(int fd, uint32_t at_least);
/* The present value of the clock. */
uint32_t off_tcp_clock_now(const struct off_tcp_clock *c);
int off_tcp_unread(int fd);  /* bytes; negative errno */
int off_tcp_unacked(int fd); /* the same; a FIN counts */
int off_tcp_unsent(int fd);
uint8_t off_tcp_state(int fd); /* as in TCP_INFO */
enum {
	OFF_TCP_ESTABLISHED = 1,
	OFF_TCP_FIN_WAIT1 = 4,
	OFF_TCP_FIN_WAIT2 = 5,
	OFF_TCP_CLOSE = 7,
	OFF_TCP_CLOSE_WAIT = 8
};
/* Open or half closed. False: both directions are closed, or the connection was reset. */
static inline bool off_tcp_carries(uint8_t state)
{
	return state == OFF_TCP_ESTABLISHED || state == OFF_TCP_CLOSE_WAIT ||
	       state == OFF_TCP_FIN_WAIT1 || state == OFF_TCP_FIN_WAIT2;
}
/* Bytes written in the connection's life, plus a constant. */
uint64_t off_tcp_written(int fd);
/* Number of segments received. */
uint32_t off_tcp_segs_in(int fd);
void off_tcp_keepalive_off(int fd);
/* Reading doesn't open the receive window further: its right edge stays as announced. */
void off_tcp_keep_window(int fd);
/* Sends a pending delayed acknowledgement, unless there is data to read. */
void off_tcp_quickack(int fd);
/*
 * Leaves repair mode with a window probe, which the peer answers (at most every 500 ms). `keep`:
 * re-enters repair mode.
 */
void off_tcp_window_probe(int fd, bool keep);
/* Closes without sending anything to the peer, and sets *fd to -1. No-op for -1. */
void off_tcp_close_silently(int *fd);
/* Closes with a reset to the peer, and sets *fd to -1. No-op for -1. */
void off_tcp_reset(int *fd);

/* Would connect(2) find a route to the peer? */
bool off_tcp_has_route(const struct off_tcp_conn *c);

struct off_tcp_point {
	uint32_t rcv_nxt, snd_nxt;
	uint32_t clock;   /* first TSval to send */
	uint32_t snd_wnd; /* the peer's receive window, in bytes */
	uint32_t rcv_wnd; /* receive window; 0: accepts no data */
};
/* Initial receive window of a restored socket. */
#define OFF_TCP_RESTORED_WINDOW 65536
/*
 * Restores the connection's socket in repair mode, without sending anything. The old one must be
 * closed. Returns the descriptor or a negative errno.
 */
int off_tcp_restore(const struct off_tcp_conn *c, const struct off_tcp_point *p);
