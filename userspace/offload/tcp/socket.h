/* SPDX-License-Identifier: MIT */
/*
 * TCP sockets as TCP_REPAIR shows them. Apart from tcp.h, because <linux/tcp.h>, which has all of
 * TCP_INFO, and what libuv includes can't be had together. Thread: any.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "l7mp/addr.h"
#include "l7mp/flow.h"

/* ---- check: pure ---- */

/* What a connection has agreed on with its peer: TCP_INFO and the like. */
struct off_tcp_traits {
	bool carries, mptcp; /* data in one direction at least, or both */
	bool ts, sack, wscale, ecn;
	uint8_t snd_wscale, rcv_wscale;
	uint32_t snd_mss; /* payload that we may send, time stamps taken off */
	uint32_t advmss;  /* the same of the peer: what we told it */
	uint32_t min_rtt_us;
	char congestion[16];
};
/* Of a socket that was made again: what its connection had agreed on. `mss` all 0: is as it was. */
void off_tcp_recall(struct off_tcp_traits *t, const struct l7mp_flow_mss *mss);
struct l7mp_flow_mss off_tcp_mss(const struct off_tcp_traits *t);
/* NONE, or why these two can't be spliced. */
enum l7mp_reason off_tcp_check(const struct off_tcp_traits *a, const struct off_tcp_traits *b);

/* ---- socket ---- */

/* A connection as it is needed to make its socket again. */
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
	uint32_t snd_wnd;  /* what the peer takes, in bytes */
	uint32_t rcv_edge; /* end of what we have granted to the peer */
};
/* The next number that is expected. Safe at any time. */
int off_tcp_rcv_nxt(int fd, uint32_t *out);
/*
 * The number of the next byte that will be written. Only while nothing is unsent: else the kernel
 * may take unsent data for sent meanwhile. -EAGAIN when something is.
 */
int off_tcp_write_seq(int fd, uint32_t *out);
/* `keep`: the socket stays in repair mode. */
int off_tcp_window(int fd, bool keep, struct off_tcp_window *out);
void off_tcp_repair(int fd, bool on);
/* Repair mode in which what is written counts as sent already, and waits for acknowledgement. */
void off_tcp_repair_sending(int fd);
/* The send queue takes at least so many bytes from now on; unlocked, it grows by itself again. */
void off_tcp_make_room(int fd, uint32_t bytes);
void off_tcp_unlock_room(int fd);
/* The time stamp that the socket would send now, or one less: the kernel hides the last bit. */
uint32_t off_tcp_clock(int fd);
/* A socket's clock, exactly: `base` at `ns` of CLOCK_MONOTONIC, whole ms, and one more each ms. */
struct off_tcp_clock {
	uint32_t base;
	uint64_t ns;
};
/*
 * Sets the clock of a socket in repair mode, to `at_least` or a little more, so that it is known
 * exactly. It must not go back.
 */
struct off_tcp_clock off_tcp_clock_set(int fd, uint32_t at_least);
/* What that clock shows now. */
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
/* Open in both directions, or half closed; false: both have ended, or it was reset. */
static inline bool off_tcp_carries(uint8_t state)
{
	return state == OFF_TCP_ESTABLISHED || state == OFF_TCP_CLOSE_WAIT ||
	       state == OFF_TCP_FIN_WAIT1 || state == OFF_TCP_FIN_WAIT2;
}
/* Bytes that were ever written, but for a constant. */
uint64_t off_tcp_written(int fd);
/* Segments that came in. */
uint32_t off_tcp_segs_in(int fd);
void off_tcp_keepalive_off(int fd);
/* What it is read empty of opens its window no further: the edge that was granted last stays. */
void off_tcp_keep_window(int fd);
/* Sends a delayed acknowledgement, if there is one and nothing is to be read. */
void off_tcp_quickack(int fd);
/*
 * Leaves repair mode with a window probe, which the peer answers (at most every 500 ms). `keep`:
 * and enters it again.
 */
void off_tcp_ask(int fd, bool keep);
/* Closes without sending anything to the peer. No-op for -1; sets -1. */
void off_tcp_close_silently(int *fd);
/* Closes with a reset to the peer. Nothing for -1; sets -1. */
void off_tcp_reset(int *fd);

/* Would connect(2) find a route? */
bool off_tcp_has_route(const struct off_tcp_conn *c);

struct off_tcp_point {
	uint32_t rcv_nxt, snd_nxt;
	uint32_t clock;   /* first time stamp to send */
	uint32_t snd_wnd; /* what the peer takes, in bytes */
	uint32_t rcv_wnd; /* what it grants its peer; 0: it takes no data */
};
/* What a restored socket grants its peer at first. */
#define OFF_TCP_RESTORED_WINDOW 65536
/*
 * Makes the connection's socket again, in repair mode: nothing is sent. The old one must be closed.
 * Returns the descriptor or a negative errno.
 */
int off_tcp_restore(const struct off_tcp_conn *c, const struct off_tcp_point *p);
