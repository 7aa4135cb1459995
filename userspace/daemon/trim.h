/* SPDX-License-Identifier: MIT */
/* Gives freed memory back to the system when the process is at rest. Thread: loop only. */
#pragma once

#include <stddef.h>

#include "l7mp/loop.h"

struct l7mp_trim {
	struct l7mp_loop *loop;
	struct l7mp_timer timer;
	unsigned ended;  /* since the last look */
	size_t resident; /* after the last time, bytes */
	size_t used;     /* of the heap, at the last time */
};

void l7mp_trim_init(struct l7mp_trim *t, struct l7mp_loop *loop);
/* Something ended that may have freed much; REST requests are sessions too. */
void l7mp_trim_soon(struct l7mp_trim *t);
void l7mp_trim_stop(struct l7mp_trim *t);
