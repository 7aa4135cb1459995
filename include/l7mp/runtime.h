/* SPDX-License-Identifier: MIT */
/*
 * The runtime carries out changes of the model: it binds new listeners (all of them, or the change
 * fails), commits, starts and stops accepting, and ends the sessions of objects that were deleted
 * recursively.
 *
 * Thread: loop only.
 */
#pragma once

#include "l7mp/change.h"
#include "l7mp/proto.h"
#include "l7mp/session.h"

struct l7mp_runtime;

/* Makes the runtime; `env` and `sessions` are borrowed. Returns 0 or -ENOMEM. */
int l7mp_runtime_new(struct l7mp_env *env, struct l7mp_sessions *sessions,
                     struct l7mp_runtime **out);
/* Listeners must have been stopped, and no job's thread may be at work: the loop has run dry. */
void l7mp_runtime_free(struct l7mp_runtime **rt);
/*
 * Binds, commits and activates a change in one go. The caller frees the change. Returns 0, or a
 * negative errno: then nothing is changed, and err says which listener failed and why (code
 * L7MP_ERR_REALISE, path as in the document). For the start of the program, before the loop runs;
 * later changes are submitted as jobs.
 */
int l7mp_runtime_apply(struct l7mp_runtime *rt, struct l7mp_change *change, struct l7mp_error *err);

/*
 * A job on the model: something that reads it whole, or changes it. The long part runs in a
 * thread, and the model is not changed meanwhile; the rest runs on the loop in slices.
 *
 * Changes are made one after the other, in the order of their submission. Jobs that only read have
 * a queue and a thread of their own: they run beside a change that is being worked out, or that
 * ends sessions. They never run beside its commit, so that a job sees the model as it was before
 * or as it is afterwards. A change whose commit is next waits for the reading job that runs, and
 * those behind it wait for the commit.
 */
struct l7mp_runtime_job {
	/*
	 * In a thread, where the model and the objects in it may be read, but not what belongs
	 * to the loop. NULL: there is nothing to apply, as always for one that only reads.
	 */
	struct l7mp_change *(*build)(void *arg);
	/*
	 * Optional, called on the loop before the change is applied. A negative errno, with err
	 * set, prevents that.
	 */
	int (*built)(void *arg, struct l7mp_change *change, struct l7mp_error *err);
	/*
	 * Called on the loop at the end: the change was applied (rc 0; `change` is NULL when there
	 * was none), or nothing was changed (rc negative, err says why). The job may be freed or
	 * reused from then on. The change is freed after this returned.
	 */
	void (*done)(void *arg, struct l7mp_change *change, int rc, const struct l7mp_error *err);
	void *arg;
	/* Name of the session that carries the request: it is ended last. May be NULL. */
	const char *session;
	bool reads;   /* and does nothing else */
	bool goes_on; /* with what has begun: is not refused since many wait */
	struct l7mp_runtime_job *prev, *next; /* private */
};
#define L7MP_RUNTIME_JOBS 256 /* that may wait, of those that change and of those that read */
/* The job is borrowed until `done`. 0, or -EBUSY: too many wait; -ESHUTDOWN: stopping. */
int l7mp_runtime_submit(struct l7mp_runtime *rt, struct l7mp_runtime_job *job);
/* Removes a waiting job. Returns false when it has started: then `done` will be called. */
bool l7mp_runtime_withdraw(struct l7mp_runtime *rt, struct l7mp_runtime_job *job);

/* Whether a change waits or is being made. */
bool l7mp_runtime_busy(const struct l7mp_runtime *rt);

/*
 * Writes the address that a listener has bound (the port, for port 0) into a copy of its spec. Does
 * nothing when it has no socket. On the loop, or in the thread of a job.
 */
void l7mp_runtime_bound(const struct l7mp_runtime *rt, const struct l7mp_listener *l, cJSON *spec);
/*
 * For draining: closes the sockets of listeners on connections, also of those that changes bring
 * from now on. Those with a rule that leads to a cluster of the operator (REST API, metrics) stay
 * open. Idempotent.
 */
void l7mp_runtime_pause(struct l7mp_runtime *rt);
/*
 * Opens them again, all or none: a negative errno, with err set, when an address can't be bound any
 * more.
 */
int l7mp_runtime_resume(struct l7mp_runtime *rt, struct l7mp_error *err);
/* Returns the number of listeners that are paused, and in *open that of the others. */
size_t l7mp_runtime_paused(const struct l7mp_runtime *rt, size_t *open);
/* The listener of that name, and its source; borrowed. NULL: there is none. */
struct l7mp_proto_listener *l7mp_runtime_listener(const struct l7mp_runtime *rt, const char *name,
                                                  struct l7mp_source **source);
/*
 * While held (on), new listeners are bound, but take nothing; then (off) all of them are activated.
 * For the start of a process that takes over from another one.
 */
void l7mp_runtime_hold(struct l7mp_runtime *rt, bool on);
/*
 * Does a step of giving the sockets away on every listener that can; not L7MP_HAND_SOCKET. With
 * L7MP_HAND_GIVE those that can't are closed.
 */
void l7mp_runtime_hand(struct l7mp_runtime *rt, enum l7mp_hand step);
/*
 * Calls cb with the socket of each listener that can give it away, borrowed, until cb returns
 * something other than 0, which is returned.
 */
int l7mp_runtime_each_socket(struct l7mp_runtime *rt,
                             int (*cb)(void *arg, const char *listener, int fd), void *arg);
/*
 * For shutdown: stops accepting on all listeners; sessions continue. A change that is committed is
 * carried out to its end. Waiting jobs fail with -ESHUTDOWN, and so does one that is being built,
 * as soon as `build` returns.
 */
void l7mp_runtime_stop(struct l7mp_runtime *rt);
/*
 * Sets the function that is called right before the commit of a change with a new admin object, to
 * do what may fail, such as binding a port. When it returns a negative errno, nothing is changed.
 * Its arg is that of l7mp_runtime_on_admin.
 */
void l7mp_runtime_before_admin(struct l7mp_runtime *rt,
                               int (*cb)(void *arg, const struct l7mp_admin *next,
                                         struct l7mp_error *err));
/* Sets the function that is called after the commit of a change with a new admin object. */
void l7mp_runtime_on_admin(struct l7mp_runtime *rt,
                           void (*cb)(void *arg, const struct l7mp_admin *admin), void *arg);
