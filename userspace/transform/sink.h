/* SPDX-License-Identifier: MIT */
/*
 * Files that transformers append text to, shared by path. Records are written at the end of the
 * loop's turn, without waiting for a slow reader: what a pipe or terminal does not take is kept,
 * up to 1 MiB; further records are dropped with a warning. Private to transform/. Thread: loop
 * only.
 */
#pragma once

#include <stddef.h>

#include "l7mp/loop.h"

struct l7mp_sink;
struct l7mp_sinks; /* all open ones */

int l7mp_sinks_new(struct l7mp_loop *loop, struct l7mp_sinks **out);
void l7mp_sinks_free(struct l7mp_sinks **sinks); /* all must have been closed */

/*
 * Opens `path` for appending, creating it with mode 0640; "-" is the standard output. Returns a
 * reference in *out; 0 or negative errno.
 */
int l7mp_sink_open(struct l7mp_sinks *sinks, const char *path, struct l7mp_sink **out);
/* Drops a reference. The last one waits for a slow reader, 100 ms at most. Nulls the pointer. */
void l7mp_sink_close(struct l7mp_sink **sink);
/*
 * Appends one record: the prefix, the payload as text, and a newline unless it ends with one.
 * UTF-8, tabs and newlines are written as they are; other control characters and bytes that are
 * not UTF-8 become \xNN, so that a peer can't send control sequences to a terminal.
 */
void l7mp_sink_record(struct l7mp_sink *sink, const char *prefix, const void *data, size_t len);
