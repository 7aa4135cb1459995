/* SPDX-License-Identifier: MIT */
/*
 * Files that transformers append text to, shared by path. Records are written at the end of the
 * loop's turn, without waiting for a slow reader: what a pipe or terminal does not take is kept,
 * up to 1 MiB; further records are dropped with a warning. Regular files are written by one thread
 * (filewriter.h), and what waits for it is at most 16 MiB for all of them. Private to transform/.
 * Thread: loop only.
 */
#pragma once

#include <stddef.h>

#include "l7mp/loop.h"

struct l7mp_sink;
struct l7mp_sinks; /* all open ones */

int l7mp_sinks_new(struct l7mp_loop *loop, struct l7mp_sinks **out);
/*
 * All must have been closed. What a slow reader has not taken yet is lost; for the disk it waits
 * for up to 5 s.
 */
void l7mp_sinks_free(struct l7mp_sinks **sinks);
/*
 * Opens the files again, after a rotation. One that can't be opened, or whose reader (a FIFO's) has
 * something to take yet, stays as it is.
 */
void l7mp_sinks_reopen(struct l7mp_sinks *sinks);

/*
 * Opens `path` for appending, creating it with mode 0640; "-" is the standard output. Returns a
 * reference in *out; 0 or negative errno.
 */
int l7mp_sink_open(struct l7mp_sinks *sinks, const char *path, struct l7mp_sink **out);
/*
 * Drops a reference. What a slow reader has not taken yet is written for up to 2 s longer, without
 * waiting. Nulls the pointer.
 */
void l7mp_sink_close(struct l7mp_sink **sink);
/*
 * Appends one record, a line: the prefix, the payload as text without a newline at its end, and a
 * newline. UTF-8 and tabs are written as they are. Any other newline becomes \n, and other control
 * characters and bytes that are not UTF-8 \xNN, so that a peer can neither forge a record nor
 * send control sequences to a terminal. A backslash stays as it is.
 */
void l7mp_sink_record(struct l7mp_sink *sink, const char *prefix, const void *data, size_t len);
