/* SPDX-License-Identifier: MIT */
/*
 * Restart by the service manager: its file descriptor store (FileDescriptorStoreMax=) keeps the
 * listening sockets, the sockets of sessions, and a file in memory that describes them, and passes
 * them to the next process. The file has the frames of an upgrade (wire.h), from HELLO to COMMIT;
 * sockets are identified by their cookies, as their order may change.
 *
 * Flows are removed from the kernel: a process can't distinguish a restart from a stop, after which
 * they would never be removed. Data that arrives meanwhile is queued in the buffers of the sockets.
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/handed.h"
#include "l7mp/handover.h"
#include "l7mp/loop.h"

/* ---- the old process ---- */

struct store {
	/* Borrowed; these must outlive this struct. */
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
	bool resting; /* the listeners are paused */
	void (*ready)(void *arg);
};

/* Call with the members above set. Returns 0 or -ENOMEM. */
int store_init(struct store *s);
/* Returns whether the service manager stores sockets. */
bool store_wanted(void);
/*
 * Takes TCP connections out of the kernel (for at most 5 s), pauses the listeners, gives sessions
 * time to connect (0.5 s), and calls ready(arg).
 */
void store_prepare(struct store *s, void (*ready)(void *arg));
/*
 * Passes the listening sockets to the service manager and, after store_prepare, the sockets of all
 * sessions that can be handed over. These sessions then end in this process without closing their
 * connections; on failure they continue.
 */
void store_give(struct store *s);
/* Idempotent. */
void store_stop(struct store *s);

/* ---- the new process ---- */

struct stored;

/*
 * Takes n descriptors from `first` on that the service manager has passed: listening sockets go
 * into `handed`; those of sessions are kept for store_take. Returns 0 or -ENOMEM; *out may be NULL
 * when there are no sessions.
 */
int store_open(int first, int n, struct l7mp_handed *handed, struct stored **out);
/*
 * Restores the sessions, after the listeners are bound. Sessions that the configuration does not
 * allow end; the log says why. No other process restores them again. Sets the pointer to NULL; a
 * NULL pointer is ignored.
 */
void store_take(struct stored **s, struct l7mp_runtime *rt, struct l7mp_loop *loop);
/* After a failure: closes everything; the next process may take it. A NULL pointer is ignored. */
void store_close(struct stored **s);
