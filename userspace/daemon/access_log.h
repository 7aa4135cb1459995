/* SPDX-License-Identifier: MIT */
/* The access log: one JSON line per ended session. Thread: loop only. */
#pragma once

#include "l7mp/log.h"
#include "l7mp/session.h"

struct l7mp_access_log {
	char *path;    /* NULL: none */
	int fd;        /* -1: not open */
	bool cut;      /* the last line has no end */
	uint64_t lost; /* records, since that was last said */
	struct l7mp_log_limit limit;
};

/*
 * Opens `path` for appending (made with mode 0640); NULL closes. A zeroed struct, or {NULL, -1}, is
 * off. 0, or negative errno: what was open stays open. Nothing here waits for a FIFO's reader;
 * what is no file, FIFO or terminal is -EINVAL.
 */
int l7mp_access_log_open(struct l7mp_access_log *log, const char *path);
/* Opens the same path again, after a rotation. Returns 0, or a negative errno as above. */
int l7mp_access_log_reopen(struct l7mp_access_log *log);
void l7mp_access_log_close(struct l7mp_access_log *log);
void l7mp_access_log_write(struct l7mp_access_log *log, const struct l7mp_session *session);
