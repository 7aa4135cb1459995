/* SPDX-License-Identifier: MIT */
/*
 * The access log: one JSON line per ended session. A regular file is written by a thread; to a FIFO
 * or terminal as much as it accepts is written at once. Thread: loop only.
 */
#pragma once

#include "l7mp/filewriter.h"
#include "l7mp/log.h"
#include "l7mp/session.h"

struct l7mp_access_log {
	char *path;                 /* NULL: none */
	struct l7mp_writer *writer; /* created with the first file */
	struct l7mp_wfile *file;    /* a regular file; else fd is used */
	int fd;
	bool cut;           /* the last line was written only in part */
	uint64_t lost;      /* records, since the last report */
	const char *reason; /* of the last loss; a constant text */
	struct l7mp_log_limit limit;
};

/*
 * Opens `path` for appending (created with mode 0640); NULL closes. A zeroed struct is off. Returns
 * 0, or a negative errno: the old file stays open. Never waits for a FIFO's reader. -EINVAL: not a
 * file, FIFO or terminal.
 */
int l7mp_access_log_open(struct l7mp_access_log *log, const char *path);
/* Opens the same path again, after a rotation. Returns 0, or a negative errno as above. */
int l7mp_access_log_reopen(struct l7mp_access_log *log);
void l7mp_access_log_close(struct l7mp_access_log *log);
/* Closes, and waits for up to 5 s until queued records are written. */
void l7mp_access_log_end(struct l7mp_access_log *log);
void l7mp_access_log_write(struct l7mp_access_log *log, const struct l7mp_session *session);
