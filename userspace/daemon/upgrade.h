/* SPDX-License-Identifier: MIT */
/*
 * An upgrade without loss. The old process starts the program's file again, with the same
 * arguments, as a child that inherits one end of a socket pair, and hands over its sockets
 * (wire.h):
 *
 *   new                                    old
 *   reads its configuration
 *   HELLO                            -->
 *                                    <--   LISTENER ..., FAST_PATH, BIND
 *   binds what is new; loads its
 *   programs for the maps of the old
 *   BOUND                            -->
 *                                          un-splices TCP connections; stops receiving on its
 *                                          listeners; for each session: freezes it, with its flow
 *                                    <--   SESSION, BYTES ..., MAKE; or STAYS
 *   creates it, but does not run it; or REFUSED
 *                                    <--   COMMIT
 *   RUNNING                          -->
 *   adopts the flows, and runs all         closes what it has handed over, leaves the fast path
 *   sessions                               as it is, drains
 *                                    <--   GIVEN
 *
 * If the flows can't be kept (another instance, another ABI, programs that the kernel refuses), the
 * old process removes them before GIVEN, and the new one starts its own fast path afterwards.
 *
 * Until RUNNING has been received, after a failure or a step that takes too long the old process
 * kills the new one and resumes: it has only stopped reading, and the new one has not read. If the
 * old process dies, the new one continues with what it has received.
 *
 * Thread: loop only.
 */
#pragma once

#include <sys/types.h>

#include "l7mp/handed.h"
#include "l7mp/handover.h"
#include "l7mp/loop.h"
#include "l7mp/offload.h"

/* The environment variable with the number of the inherited descriptor. */
#define UPGRADE_FD_ENV "L7MP_UPGRADE_FD"

/* ---- the old process (upgrade_old.c) ---- */

struct upgrade;

struct upgrade_params {
	/* Borrowed; these must outlive it. */
	struct l7mp_loop *loop;
	struct l7mp_runtime *runtime;
	struct l7mp_sessions *sessions;
	struct l7mp_offload_engine *offload;
	const char *program; /* path of the file */
	char **argv;
	/* Further sockets: the admin server's, as l7mp_runtime_each_socket. */
	int (*each_socket)(void *arg, int (*cb)(void *arg, const char *listener, int fd),
	                   void *cb_arg);
	/* An upgrade begins (on), and has failed (off): changes are refused meanwhile. */
	void (*busy)(void *arg, bool on);
	/* The new process takes over; `left` sessions stay here until they end. */
	void (*given)(void *arg, pid_t pid, size_t left);
	void *arg;
};

int upgrade_new(const struct upgrade_params *params, struct upgrade **out);
/* Starts one. Returns 0; -EBUSY one is going on, or has been; another negative errno. Logs why. */
int upgrade_start(struct upgrade *u);
/* One that is going on is given up: the new process is killed. */
void upgrade_cancel(struct upgrade *u, const char *why);
bool upgrade_is_busy(const struct upgrade *u);
/* Why the last one has failed; "": none has. */
const char *upgrade_failure(const struct upgrade *u);
/* Has the new process taken over? */
bool upgrade_is_over(const struct upgrade *u);
/* What GET /upgrade shows. A new tree; NULL: no memory. */
cJSON *upgrade_to_json(const struct upgrade *u);
/* For the end of the program: closes its handles, for which the loop runs once more. */
void upgrade_stop(struct upgrade *u);
void upgrade_free(struct upgrade **u);

/* ---- the new process (upgrade_new.c) ---- */

struct takeover;

/*
 * Whether this process was started for an upgrade; then *out, else NULL. Removes what says so from
 * the environment.
 */
int takeover_new(struct takeover **out);
/*
 * Says that the configuration is valid, and receives the listening sockets. `instance`: whose flows
 * it wants, NULL: none.
 */
int takeover_sockets(struct takeover *t, const char *instance, struct l7mp_handed *handed);
/* The lock of that instance, the caller's from now on; -1: the flows can't stay in the kernel. */
int takeover_lock(struct takeover *t);
/*
 * After all is bound: receives the sessions, up to the commit. `flows`: flows may stay in the
 * kernel. Returns 0; a negative errno: the old process resumes, and this one must end without
 * changing anything.
 */
int takeover_sessions(struct takeover *t, bool flows, struct l7mp_runtime *runtime,
                      struct l7mp_loop *loop);
/* Has the old process died, so that its flows were left in the kernel as after a crash? */
bool takeover_orphaned(const struct takeover *t);
/*
 * After the listeners are active: runs the sessions. Calls `given` when the old process has closed
 * what it handed over.
 */
void takeover_run(struct takeover *t, struct l7mp_loop *loop, void (*given)(void *arg), void *arg);
/* Adds to what GET /upgrade shows. */
void takeover_to_json(const struct takeover *t, cJSON *json);
void takeover_stop(struct takeover *t);
void takeover_free(struct takeover **t);

/* ---- for tests: a build with L7MP_FAULTS takes the steps' time limit from the environment ---- */

#ifdef L7MP_FAULTS
uint64_t upgrade_limit(uint64_t ms);
#else
static inline uint64_t upgrade_limit(uint64_t ms)
{
	return ms;
}
#endif
