/* SPDX-License-Identifier: MIT */
/* Returns freed memory to the system while there are no sessions. Thread: loop only. */
#pragma once

#include <stddef.h>

#include "l7mp/loop.h"
#include "l7mp/session.h"
#include "l7mp/work.h"

struct l7mp_trim {
	struct l7mp_loop *loop;
	struct l7mp_timer timer;
	struct l7mp_sessions *sessions;
	struct l7mp_work work;
	int looks;     /* checks since then that were made */
	bool ended;    /* whether a session ended since the last check */
	size_t unused; /* bytes that the last trim could not return; used by the worker */
};

void l7mp_trim_init(struct l7mp_trim *t, struct l7mp_loop *loop, struct l7mp_sessions *sessions);
/* Call after freeing potentially much memory; REST requests are sessions, too. */
void l7mp_trim_soon(struct l7mp_trim *t);
void l7mp_trim_stop(struct l7mp_trim *t);
