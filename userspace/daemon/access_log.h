/* SPDX-License-Identifier: MIT */
/*
 * The access log: one JSON line per ended session. A regular file is written by a thread, a FIFO
 * or terminal takes what it can at once. Thread: loop only.
 */
#pragma once

#include "l7mp/filewriter.h"
#include "l7mp/log.h"
#include "l7mp/session.h"

struct l7mp_access_log {
	char *path;                 /* NULL: none */
	struct l7mp_writer *writer; /* made with the first file */
	struct l7mp_wfile *file;    /* a regular file; else fd is used */
	int fd;
	bool cut;           /* the last line has no end */
	uint64_t lost;      /* records, since that was last said */
	const char *reason; /* of the last loss; a constant text */
	struct l7mp_log_limit limit;
};

/*
 * Opens `path` for appending (made with mode 0640); NULL closes. A zeroed struct is off. Returns 0,
 * or a negative errno: what was open stays open. Nothing here waits for a FIFO's reader; what is no
 * file, FIFO or terminal is -EINVAL.
 */
int l7mp_access_log_open(struct l7mp_access_log *log, const char *path);
/* Opens the same path again, after a rotation. Returns 0, or a negative errno as above. */
int l7mp_access_log_reopen(struct l7mp_access_log *log);
void l7mp_access_log_close(struct l7mp_access_log *log);
/* Closes, and waits for up to 5 s for what is queued. */
void l7mp_access_log_end(struct l7mp_access_log *log);
void l7mp_access_log_write(struct l7mp_access_log *log, const struct l7mp_session *session);
