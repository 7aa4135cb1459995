/* SPDX-License-Identifier: MIT */
/*
 * Work in threads beside the loop: for what can't be cut into slices (parsing a document,
 * computing what a new configuration changes) and needs nothing that the loop may alter
 * meanwhile. There are at most two such threads per loop, and work is begun in the order of its
 * start: what must not run beside something else is started when that is done.
 *
 * On a manual loop the work runs inside l7mp_work_start and `done` in the next iteration.
 */
#pragma once

#include "l7mp/loop.h"

struct l7mp_work {
	void (*run)(void *arg);  /* called in the worker thread */
	void (*done)(void *arg); /* called on the loop after run; may free this struct */
	void *arg;
	bool busy;                     /* from start until done */
	struct l7mp_work *prev, *next; /* private */
	struct l7mp_task task;         /* private; manual loops */
};
/*
 * Queues work. It can't be cancelled: the caller keeps *w, and everything that `run` uses, until
 * `done`. The loop keeps running until then. Returns 0, or a negative errno: then nothing is
 * called. Loop thread.
 */
int l7mp_work_start(struct l7mp_loop *loop, struct l7mp_work *w, void (*run)(void *arg),
                    void (*done)(void *arg), void *arg);
