/* SPDX-License-Identifier: MIT */
/*
 * Draining: the proxy accepts no new sessions, while existing ones continue until they end or a
 * deadline passes.
 *
 * Listeners for connections are closed, so that a balancer's connections are refused; accepted
 * connections continue, and HTTP responses on them have `Connection: close`. Listeners for
 * datagrams keep their sockets, which sessions use: datagrams of new peers are dropped and counted.
 * A listener with a rule that leads to an administrative cluster stays open, but answers other
 * requests with 503. The admin server is not affected.
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/runtime.h"
#include "l7mp/session.h"

struct l7mp_drain;

/* The largest time-out, in seconds. */
#define L7MP_DRAIN_MAX_S 86400

/* All are borrowed and must outlive it. Returns 0 or -ENOMEM. */
int l7mp_drain_new(struct l7mp_env *env, struct l7mp_runtime *runtime,
                   struct l7mp_sessions *sessions, struct l7mp_drain **out);
/* Nulls the pointer. */
void l7mp_drain_free(struct l7mp_drain **d);
/*
 * Starts to drain; when it drains already, restarts the time limit. After timeout_ms (0: never) the
 * sessions that are left are ended, gracefully. `by` says who wants it: "api", "upgrade" or a
 * signal; static. `successor`: the process that serves new sessions instead (an upgrade), for the
 * log; 0: none does.
 */
void l7mp_drain_begin(struct l7mp_drain *d, uint64_t timeout_ms, const char *by, int successor);
/*
 * While it drains: calls `done` once, on the loop, when no session is left or when the time is
 * over; the sessions are then left to l7mp_sessions_shutdown. Draining can't be cancelled any more.
 */
void l7mp_drain_then(struct l7mp_drain *d, void (*done)(void *arg), void *arg);
/*
 * Opens the listeners again. Returns 0, also when it does not drain; -ESHUTDOWN: the program is
 * going to end; another negative errno: a listener can't be opened. With an error nothing is
 * changed, and err is set.
 */
int l7mp_drain_cancel(struct l7mp_drain *d, struct l7mp_error *err);
/* For the end of the program: nothing is called any more. */
void l7mp_drain_stop(struct l7mp_drain *d);
/* Whether it drains, or has. */
bool l7mp_drain_active(const struct l7mp_drain *d);
/* Returns what GET /drain shows. A new tree; NULL when out of memory. */
cJSON *l7mp_drain_to_json(const struct l7mp_drain *d);
