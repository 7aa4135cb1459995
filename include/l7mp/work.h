/* SPDX-License-Identifier: MIT */
/*
 * Work in a thread of libuv's pool: for what can't be cut into slices (parsing a document,
 * computing what a new configuration changes) and needs nothing that the loop may alter
 * meanwhile.
 *
 * On a manual loop the work runs inside l7mp_work_start and `done` in the next turn.
 */
#pragma once

#include "l7mp/loop.h"

struct l7mp_work {
	void (*run)(void *arg);  /* in a thread of the pool */
	void (*done)(void *arg); /* on the loop, after run; may free what holds this struct */
	void *arg;
	struct l7mp_loop *loop;
	uv_work_t req;         /* private */
	struct l7mp_task task; /* private */
	bool busy;             /* between start and done */
};
/*
 * Loop thread. 0, or negative errno (nothing will be called then). Can't be cancelled: whoever
 * starts it keeps *w and what `run` touches until `done`. Keeps the loop running until then.
 */
int l7mp_work_start(struct l7mp_loop *loop, struct l7mp_work *w, void (*run)(void *arg),
                    void (*done)(void *arg), void *arg);
