/* SPDX-License-Identifier: MIT */
/*
 * Work in threads beside the loop: for what can't be cut into slices (parsing a document,
 * computing what a new configuration changes) and needs nothing that the loop may alter
 * meanwhile. There are at most two such threads per loop, and work is begun in the order of its
 * start: what must not run beside something else is started when that is done.
 *
 * On a manual loop the work runs inside l7mp_work_start and `done` in the next turn.
 */
#pragma once

#include "l7mp/loop.h"

struct l7mp_work {
	void (*run)(void *arg);  /* in the thread */
	void (*done)(void *arg); /* on the loop, after run; may free what holds this struct */
	void *arg;
	bool busy;                     /* between start and done */
	struct l7mp_work *prev, *next; /* private */
	struct l7mp_task task;         /* private; manual loops */
};
/*
 * Loop thread. 0, or negative errno (nothing will be called then). Can't be cancelled: whoever
 * starts it keeps *w and what `run` touches until `done`. Keeps the loop running until then.
 */
int l7mp_work_start(struct l7mp_loop *loop, struct l7mp_work *w, void (*run)(void *arg),
                    void (*done)(void *arg), void *arg);

/*
 * The calling thread is not the loop's: when both want the same processor, the loop comes first.
 * A thread of the batch class never preempts one that wakes it (sched(7)): without that a worker
 * took the loop's processor for 3 ms at the moment when it was given work. The thread of
 * l7mp_work_start does this itself; other threads beside the loop should call it once.
 */
void l7mp_thread_background(void);
