/* SPDX-License-Identifier: MIT */
/*
 * FIFOs by path: created when they are missing, and removed only if we created them, or a proxy
 * of the same user did that was killed. Private to proto/pipe. Thread: loop only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "l7mp/error.h"

struct pipe_listener;

/* One for each path in use: of the process's streams only one can read a FIFO. */
struct fifo {
	struct fifo *prev, *next; /* in *list */
	struct fifo **list;
	unsigned refs;
	bool created; /* by us, as dev and ino */
	bool adopted; /* by one before us, who was killed */
	/*
	 * Set by clusters: a FIFO that we created remains until fifo_clear, so that the peer may
	 * open it between two attempts to connect.
	 */
	bool keep;
	dev_t dev;
	ino_t ino;
	int held_reader;                 /* while no stream reads: writers don't fail; -1: none */
	int held_writer;                 /* while no stream writes: readers see no end; -1: none */
	unsigned flushing;               /* streams that are closing and have bytes left to write */
	bool reading;                    /* a stream reads it */
	struct pipe_listener *listener;  /* reads it whenever no session does */
	struct pipe_listener *successor; /* becomes the listener when its change is committed */
	char path[];
};

/* Finds or creates the FIFO and takes a reference. -EEXIST with err: the path is no FIFO. */
int fifo_get(struct fifo **list, const char *path, struct fifo **out, struct l7mp_error *err);
/* Drops a reference and nulls the pointer; NULL in it is allowed. */
void fifo_unref(struct fifo **f);
/*
 * Opens it for O_RDONLY or O_WRONLY, non-blocking; created again if it was removed meanwhile.
 * Takes over the held descriptor when there is one. -ENXIO: O_WRONLY, and nobody reads it.
 */
int fifo_open(struct fifo *f, int flags);
/* Holds a descriptor for O_RDONLY or O_WRONLY, without reading or writing. Best effort. */
void fifo_hold(struct fifo *f, int flags);
/* Closes the held descriptor, if there is one. */
void fifo_release(struct fifo *f, int flags);
/* Frees all that were kept; nobody may have a reference. */
void fifo_clear(struct fifo **list);
