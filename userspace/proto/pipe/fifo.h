/* SPDX-License-Identifier: MIT */
/* FIFOs by path: made when missing, removed only when we made them. Private to PIPE. Thread: loop only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "l7mp/error.h"

struct pipe_listener;

/* One for each path in use; shared, as a FIFO has only one reader among us. */
struct fifo {
	struct fifo *prev, *next; /* in *list */
	struct fifo **list;
	unsigned refs;
	bool made; /* by us, as dev and ino */
	bool keep; /* what a cluster made stays until fifo_clear, so that its other end may come between two attempts */
	dev_t dev;
	ino_t ino;
	int standby;  /* keeps what a writer says meanwhile, until somebody reads; -1: none */
	int wstandby; /* keeps a reader from seeing an end, until somebody writes again; -1: none */
	unsigned flushing; /* streams that are closing and still have something to write */
	bool reading;
	struct pipe_listener *listener; /* reads it, whenever no session does */
	struct pipe_listener *heir;     /* will, when its change is committed */
	char path[];
};

/* Finds, or makes when it is missing. A reference. -EEXIST for what is no FIFO. */
int fifo_get(struct fifo **list, const char *path, struct fifo **out, struct l7mp_error *err);
/* Nulls the pointer; NULL in it is fine. */
void fifo_unref(struct fifo **f);
/*
 * Opens it, non-blocking, for O_RDONLY or O_WRONLY; made again when somebody removed it. -ENXIO:
 * nobody reads what would be written. The standby descriptor is taken when there is one.
 */
int fifo_open(struct fifo *f, int flags);
/* Opens the standby descriptor, so that a writer does not see its reader go. Best effort. */
void fifo_stand_by(struct fifo *f);
void fifo_stand_down(struct fifo *f);
/* The same for a FIFO that is written. */
void fifo_stand_by_writer(struct fifo *f);
void fifo_stand_down_writer(struct fifo *f);
/* All that were kept; nobody may hold a reference. */
void fifo_clear(struct fifo **list);
