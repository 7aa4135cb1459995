/* SPDX-License-Identifier: MIT */
/*
 * Sessions that go to another process while they run. The old process freezes a session, describes
 * it, and either lets go of it, when the other process has all of it, or thaws it. While a session
 * is frozen, whatever comes waits in the kernel.
 *
 * A session can go when it is connected, its source and its destination are sockets of which no
 * more is known than the kernel and this description have (UDP, TCP), and what stands between them
 * has no state.
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/runtime.h"
#include "l7mp/session.h"

/*
 * No session asks for the kernel fast path any more (on); TCP connections in it come back, and
 * flows that have not begun.
 */
void l7mp_sessions_offload_rest(struct l7mp_sessions *m, bool on);
/* While it rests: whether a connection has not come back yet. */
bool l7mp_sessions_lent(const struct l7mp_sessions *m);

/*
 * Returns 0; or -EBUSY, -ENOTSUP: it can't go now, or never; then it goes on. Idempotent.
 * `keep_flow`: its flow stays in the kernel, if that can be taken over; else it is removed.
 */
int l7mp_session_freeze(struct l7mp_session *s, bool keep_flow);
/*
 * Before the listeners rest: sessions that can't go (`all`: each of them) and share a socket with
 * others get one of their own, as another process gets that.
 */
void l7mp_sessions_stay(struct l7mp_sessions *m, bool all);
/* It can't go, and its flow is not to be the other process's: back to user space. */
void l7mp_session_stay(struct l7mp_session *s);
void l7mp_session_thaw(struct l7mp_session *s);
bool l7mp_session_is_frozen(const struct l7mp_session *s);
/* Whether it may stay here: false when the other process has another source in its place. */
bool l7mp_session_may_stay(const struct l7mp_session *s);
/* The other process has it: it ends here, and nobody learns of that. */
void l7mp_session_release(struct l7mp_session *s);

/*
 * Describes a frozen session. Sets the descriptors of its source and destination, which stay its
 * own, -1: none. Returns the text, the caller's; NULL: no memory.
 */
char *l7mp_session_save(const struct l7mp_session *s, int fds[static 2]);
/* What waits in a session, in order. */
struct l7mp_session_piece {
	unsigned stage;
	bool queue; /* written to the stage's stream, not sent; else in the pipe after the stage */
	struct l7mp_buf *buf; /* borrowed */
};
/*
 * In the other process: makes the session of what was saved, or nothing. `pieces` may be NULL when
 * n is 0; takes their buffers, and the descriptors, also on failure. The session goes on when the
 * loop runs. Returns 0; or a negative errno with err: what says so is wrong (-EPROTO), or the
 * configuration does not allow it (l7mp_session_restore).
 */
int l7mp_session_take(struct l7mp_runtime *rt, const cJSON *saved, const int *fds, size_t n_fds,
                      const struct l7mp_session_piece *pieces, size_t n, struct l7mp_error *err);
/*
 * In the other process: the session that was made so gets the flow that the old one has left in the
 * kernel (r->flow, which is NULL then). False: there is no such session.
 */
struct l7mp_session_record;
bool l7mp_session_take_flow(struct l7mp_sessions *m, struct l7mp_session_record *r);
/* Calls cb for each, until it returns something other than 0, which is returned. */
int l7mp_session_each_piece(const struct l7mp_session *s,
                            int (*cb)(void *arg, const struct l7mp_session_piece *piece),
                            void *arg);
