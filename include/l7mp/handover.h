/* SPDX-License-Identifier: MIT */
/*
 * Hand-over of live sessions to another process. The old process freezes a session and serialises
 * it; it releases the session when the new process has all of it, or thaws it. While a session is
 * frozen, received data stays in the kernel's socket buffers.
 *
 * A session can be handed over when it is connected, its source and destination are sockets whose
 * whole state is in the kernel or in the serialised form (UDP, TCP, UNIX), and its transformers are
 * stateless.
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/runtime.h"
#include "l7mp/session.h"

/*
 * on: sessions request no new flows; TCP connections are un-spliced, and pending flow requests are
 * withdrawn. off: requests are allowed again.
 */
void l7mp_sessions_offload_rest(struct l7mp_sessions *m, bool on);
/* After that: whether a TCP connection is still spliced. */
bool l7mp_sessions_lent(const struct l7mp_sessions *m);

/*
 * Whether there is a session that can't be handed over now, but perhaps soon: it is connecting, or
 * about to end.
 */
bool l7mp_sessions_settling(const struct l7mp_sessions *m);

/*
 * Stops reading. Returns 0; -EBUSY: it can't be handed over now; -ENOTSUP: it never can. On failure
 * the session continues. Idempotent. `keep_flow`: its flow stays in the kernel if the new process
 * can adopt it; otherwise it is removed.
 */
int l7mp_session_freeze(struct l7mp_session *s, bool keep_flow);
/*
 * Before the listeners stop: sessions that can't be handed over (`all`: every session) and share
 * the listener's socket get a connected socket of their own, since the new process gets the shared
 * one.
 */
void l7mp_sessions_stay(struct l7mp_sessions *m, bool all);
/* It can't be handed over: removes its flow, so that the new process does not adopt it. */
void l7mp_session_stay(struct l7mp_session *s);
void l7mp_session_thaw(struct l7mp_session *s);
bool l7mp_session_is_frozen(const struct l7mp_session *s);
/* Whether it may stay in this process: false when the new one received its socket instead. */
bool l7mp_session_may_stay(const struct l7mp_session *s);
/* The new process has it: frees it here, without events, access log or packets to the peers. */
void l7mp_session_release(struct l7mp_session *s);

/*
 * Serialises a frozen session. fds: its source's and destination's descriptors, borrowed; -1: none.
 * Returns JSON, the caller's (free); NULL: out of memory.
 */
char *l7mp_session_save(const struct l7mp_session *s, int fds[static 2]);
/* Data that is buffered in a session, in order. */
struct l7mp_session_piece {
	unsigned stage;
	bool queue; /* written to the stage's stream, not sent; else in the pipe after the stage */
	struct l7mp_buf *buf; /* borrowed */
};
/*
 * In the new process: makes the session from its serialised form, all or nothing. `pieces` may be
 * NULL when n is 0; takes their buffers and the descriptors, also on failure. The session continues
 * when the loop runs. Returns 0; -EPROTO with err: the form is invalid; another negative errno with
 * err: the configuration does not allow the session (l7mp_session_restore).
 */
int l7mp_session_take(struct l7mp_runtime *rt, const cJSON *saved, const int *fds, size_t n_fds,
                      const struct l7mp_session_piece *pieces, size_t n, struct l7mp_error *err);
/*
 * In the new process: attaches the flow that the old one has left in the kernel to the session made
 * by l7mp_session_take. Takes r->flow (NULL afterwards). False: there is no such session.
 */
struct l7mp_session_record;
bool l7mp_session_take_flow(struct l7mp_sessions *m, struct l7mp_session_record *r);
/* Calls cb for each piece of buffered data until it returns non-zero, which is returned. */
int l7mp_session_each_piece(const struct l7mp_session *s,
                            int (*cb)(void *arg, const struct l7mp_session_piece *piece),
                            void *arg);
