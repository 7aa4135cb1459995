/* SPDX-License-Identifier: MIT */
/*
 * Appends to regular files from a thread, because write(2) to a slow or frozen disk blocks. The
 * files of one writer share a thread and a bounded queue, which is written in the order in which
 * it was filled, across files and rotations. A queue that is full takes no more: the caller
 * counts what is lost.
 *
 * Thread: any, unless a function says otherwise; the writer's lock is never held during a system
 * call on a file. The thread is made with the first file. It logs what goes wrong with a file
 * (l7mp_log_write) without holding the lock.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct l7mp_writer;
struct l7mp_wfile;

/* What the files are for; the labels of l7mp_log_records_lost_total. */
enum l7mp_writer_use {
	L7MP_WRITES_LOG,
	L7MP_WRITES_ACCESS_LOG,
	L7MP_WRITES_LOGGER,
	L7MP_WRITES_COUNT,
};
const char *l7mp_writer_use_name(enum l7mp_writer_use use);
/* Counts records that were not written; of the whole process since its start. */
void l7mp_writer_lose(enum l7mp_writer_use use, uint64_t records);
uint64_t l7mp_writer_lost(enum l7mp_writer_use use);

/*
 * Opens a file for appending, made with mode 0640 where it is missing. A FIFO without a reader is
 * -ENXIO at once, and writing to one does not block. One that is there is opened without O_CREAT,
 * which would wait for a frozen file system. Returns the descriptor or a negative errno.
 */
int l7mp_append_open(const char *path);

/* `max`: bytes that may wait in its queue. Returns 0 or -ENOMEM. */
int l7mp_writer_new(enum l7mp_writer_use use, size_t max, struct l7mp_writer **out);
/*
 * Waits until the queue is written, for at most `timeout_ms`, then ends the thread and frees the
 * writer; its files must have been closed. When that takes longer, the rest is lost and the
 * thread is left behind: it frees the writer if its system call ever returns. Returns the number
 * of bytes that were given up. Nulls the pointer.
 */
size_t l7mp_writer_free(struct l7mp_writer **w, unsigned timeout_ms);
/* Waits until what is queued now is written, for at most `timeout_ms`. Returns whether it is. */
bool l7mp_writer_flush(struct l7mp_writer *w, unsigned timeout_ms);
/*
 * The same by sleeping, without the lock, for a handler of a fatal signal (async-signal-safe). At
 * once false in the writer's own thread.
 */
bool l7mp_writer_flush_in_signal(const struct l7mp_writer *w, unsigned timeout_ms);
/* Bytes that wait. */
size_t l7mp_writer_queued(struct l7mp_writer *w);

/*
 * Begins to write to a regular file that is open for appending. Takes fd; `path` is copied, for
 * reopening and messages. Returns 0, or a negative errno: then fd stays the caller's.
 */
int l7mp_wfile_new(struct l7mp_writer *w, int fd, const char *path, struct l7mp_wfile **out);
/*
 * Queues whole lines, all or nothing: `records` is what is counted as lost when the file can't be
 * written to. Returns 0, or -ENOBUFS (the queue is full) or -ENOMEM; then the caller counts.
 */
int l7mp_wfile_put(struct l7mp_wfile *f, const void *data, size_t n, unsigned records);
/*
 * What is put later goes to the file that has the path by then, made with mode 0640; one that can't
 * be opened, or is not regular, leaves the old one in use with a warning. Returns 0 or -ENOMEM.
 */
int l7mp_wfile_reopen(struct l7mp_wfile *f);
/* What is queued is still written before the file is closed. Nulls the pointer. */
void l7mp_wfile_close(struct l7mp_wfile **f);
