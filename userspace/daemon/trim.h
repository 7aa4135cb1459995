/* SPDX-License-Identifier: MIT */
/* Gives freed memory back to the system when no session is there. Thread: loop only. */
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
	bool ended;      /* a session, since the last look */
	size_t resident; /* bytes, after the last time */
};

void l7mp_trim_init(struct l7mp_trim *t, struct l7mp_loop *loop, struct l7mp_sessions *sessions);
/* Something ended that may have freed much; REST requests are sessions too. */
void l7mp_trim_soon(struct l7mp_trim *t);
void l7mp_trim_stop(struct l7mp_trim *t);
