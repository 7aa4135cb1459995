/* SPDX-License-Identifier: MIT */
/*
 * Restart by the service manager: its file descriptor store (FileDescriptorStoreMax=) keeps the
 * listening sockets, the sockets of sessions, and a file in memory that describes them, until the
 * next process is started with all of them. The file has the frames of an upgrade (wire.h), from
 * HELLO to COMMIT; sockets are identified by their cookies, as their order may change.
 *
 * Flows don't stay in the kernel meanwhile: a process can't tell a restart from a stop, after which
 * nobody would remove them. What comes waits in the buffers of the sockets.
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/handed.h"
#include "l7mp/handover.h"
#include "l7mp/loop.h"

/* ---- the process that ends ---- */

struct store {
	/* Borrowed; these must outlive it. */
	struct l7mp_loop *loop;
	struct l7mp_runtime *runtime;
	struct l7mp_sessions *sessions;
	/* Further sockets: the admin server's, as l7mp_runtime_each_socket. */
	int (*each_socket)(void *arg, int (*cb)(void *arg, const char *listener, int fd),
	                   void *cb_arg);
	void *arg;
	/* Private. */
	struct l7mp_timer timer;
	uint64_t until_ms;
	bool resting; /* the listeners take nothing any more */
	void (*ready)(void *arg);
};

/* Call with the members above set. Returns 0 or -ENOMEM. */
int store_init(struct store *s);
/* Whether the service manager keeps sockets for us. */
bool store_wanted(void);
/*
 * Takes TCP connections out of the kernel (for at most 5 s), has the listeners rest, gives sessions
 * time to connect (0.5 s), and calls ready(arg).
 */
void store_prepare(struct store *s, void (*ready)(void *arg));
/*
 * Gives the listening sockets to the service manager and, after store_prepare, the sockets of all
 * sessions that can be handed over. These sessions are gone here then; when something fails, they
 * go on.
 */
void store_give(struct store *s);
/* Idempotent. */
void store_stop(struct store *s);

/* ---- the process that begins ---- */

struct stored;

/*
 * Takes n descriptors from `first` on that the service manager has passed: listening sockets go
 * into `handed`; what belongs to sessions is kept for store_take. Returns 0 or -ENOMEM; *out may be
 * NULL then: there are no sessions.
 */
int store_open(int first, int n, struct l7mp_handed *handed, struct stored **out);
/*
 * After the listeners are bound: makes the sessions. Those that the configuration does not allow
 * end; the log says why. No other process takes them again. Nulls the pointer; NULL inside is fine.
 */
void store_take(struct stored **s, struct l7mp_runtime *rt, struct l7mp_loop *loop);
/* After a failure: closes it all; the next process may take it. NULL inside is fine. */
void store_close(struct stored **s);
