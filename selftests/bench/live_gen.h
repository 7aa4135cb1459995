/* SPDX-License-Identifier: MIT */
/* Between the parts of live_gen. */
#pragma once

#include "live.h"

/* A local sender: sockets of the namespace that the thread is in, out of `device`. */
struct local_load {
	const char *device;
	unsigned flows, size, window;
	unsigned long long packets;
	volatile struct live_state *state;
};

/* Sends until all have come to the sink, or have been written off. */
void local_send(const struct local_load *l);
