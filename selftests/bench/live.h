/* SPDX-License-Identifier: MIT */
/* What live.bpf.c and live_gen.c share: one element each of the arrays `conf` and `state`. */
#pragma once

#include <linux/types.h>

#define LIVE_LANES       32
#define LIVE_HEADERS_MAX 64
#define LIVE_SAMPLE_MAX  2048
#define LIVE_PER_CLIENT  50   /* flows of one source address, as live_flows.c makes them */
#define LIVE_PORT_BASE   1024 /* the first one's source port */

/* The sink's ports: above 60,000 sessions live_flows.c takes the next one. */
#define LIVE_GW_PORT   9000
#define LIVE_SINK_PORT 16000
#define LIVE_SINK_MASK 0xfff0

/* User space writes it before a run. */
struct live_conf {
	__u64 limit;   /* packets of the run */
	__u32 lane;    /* key of `lanes`: where the frames go */
	__u32 n_flows; /* round robin */
	__u32 window;  /* packets on the way at most */
	__u32 base;    /* first client's address, the last 32 bits, host order */
	__u32 l3_sum;  /* one's complement sums over the packet without source address and port */
	__u32 l4_sum;
	__u16 sink_port; /* network order: what the sink counts */
	__u16 v6;
	__u8 headers[LIVE_HEADERS_MAX];
};

struct live_state {
	__u64 sent;
	__u64 sunk;
	__u64 odd;      /* came to the sink and are not what is counted */
	__u64 lost;     /* written off by user space */
	__u64 start_ns; /* CLOCK_MONOTONIC, when the first was sent */
	__u64 end_ns;   /* when the last one came */
	__u32 flow;     /* next one */
	__u32 sample_len;
	__u8 sample[LIVE_SAMPLE_MAX]; /* the first packet that the sink saw */
};
