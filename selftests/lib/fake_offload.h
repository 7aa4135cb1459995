/* SPDX-License-Identifier: MIT */
/* An offload engine for unit tests: says yes or gives the reason it is told. */
#pragma once

#include "l7mp/flow.h"

struct l7mp_flow {
	uint64_t cookie;
	struct l7mp_flow_end a, b;
	struct l7mp_flow_counters now[2];
	struct l7mp_flow *next;
	bool begun;
};

struct fake_offload {
	struct l7mp_offload ops; /* give &ops to the sessions */
	const struct l7mp_offload_events *events;
	void *arg;
	enum l7mp_reason refuse; /* NONE: accept */
	struct l7mp_flow *flows;
	int own_rc; /* what `own` answers */
	unsigned adds, removes, fresh_reads, rechecks;
	/* called from remove: to look at what is still open then */
	void (*on_remove)(void *arg);
	void *on_remove_arg;
};

void fake_offload_init(struct fake_offload *o);
/* A flow of an earlier process, without owner. */
struct l7mp_flow *fake_offload_old(struct fake_offload *o);
/* Those that have not yet. */
void fake_offload_begin(struct fake_offload *o, bool late);
/* Asks the newest flow's owner. */
bool fake_offload_ready(struct fake_offload *o);
void fake_offload_withdraw(struct fake_offload *o, enum l7mp_reason reason);
void fake_offload_retry(struct fake_offload *o);
