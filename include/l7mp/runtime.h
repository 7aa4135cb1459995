/* SPDX-License-Identifier: MIT */
/*
 * The runtime realises changes of the model: binds new listeners (all or
 * nothing), commits, starts and stops accepting, ends sessions of what was
 * deleted recursively. Thread: loop only.
 */
#pragma once

#include "l7mp/change.h"
#include "l7mp/proto.h"
#include "l7mp/session.h"

struct l7mp_runtime;

int l7mp_runtime_new(struct l7mp_env *env, struct l7mp_sessions *sessions,
                     struct l7mp_runtime **out);
/* Listeners must have been stopped, and no job's thread may be at work: the loop has run dry. */
void l7mp_runtime_free(struct l7mp_runtime **rt);
/*
 * Prepares (binds), commits and activates at once; takes nothing: the caller frees the
 * change. On failure nothing is changed and err says which listener and why (code
 * L7MP_ERR_REALISE, path as in the document). For the start of the program, when nobody waits
 * for the loop; a running one submits jobs.
 */
int l7mp_runtime_apply(struct l7mp_runtime *rt, struct l7mp_change *change, struct l7mp_error *err);

/*
 * A job on the model: something that reads it whole, or changes it. The long part runs in a
 * thread, where nobody changes the model meanwhile, and what remains for the loop is done in
 * slices.
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
	 * On the loop, optional: the change is there and is going to be applied. 0, or negative
	 * errno with err: it is not.
	 */
	int (*built)(void *arg, struct l7mp_change *change, struct l7mp_error *err);
	/*
	 * On the loop: applied (rc 0; `change` NULL when there was none), or not (rc negative,
	 * err says why; nothing is changed). The change is freed after this returned; the job
	 * is forgotten before.
	 */
	void (*done)(void *arg, struct l7mp_change *change, int rc, const struct l7mp_error *err);
	void *arg;
	/* The session that carries the request and must not end before the answer; may be NULL. */
	const char *session;
	bool reads;   /* and does nothing else */
	bool goes_on; /* with what has begun: is not refused since many wait */
	struct l7mp_runtime_job *prev, *next; /* private */
};
#define L7MP_RUNTIME_JOBS 256 /* that may wait, of those that change and of those that read */
/* The job is borrowed until `done`. 0, or -EBUSY: too many wait; -ESHUTDOWN: stopping. */
int l7mp_runtime_submit(struct l7mp_runtime *rt, struct l7mp_runtime_job *job);
/* Takes a job back. false: too late, it is being done, and `done` is still going to come. */
bool l7mp_runtime_withdraw(struct l7mp_runtime *rt, struct l7mp_runtime_job *job);

/*
 * Writes what a listener really bound into a copy of its spec; no-op when it has no socket. On
 * the loop or in a job's thread.
 */
void l7mp_runtime_bound(const struct l7mp_runtime *rt, const struct l7mp_listener *l, cJSON *spec);
/*
 * Stops accepting everywhere; sessions go on. A change whose commit is done is finished, jobs
 * that wait fail with -ESHUTDOWN, and so does one that is being built, later. For shutdown.
 */
void l7mp_runtime_stop(struct l7mp_runtime *rt);
/*
 * Called right before the commit of a change that has a new admin: what can fail, such as binding
 * a port, fails here, and then nothing is changed. Its arg is that of l7mp_runtime_on_admin.
 */
void l7mp_runtime_before_admin(struct l7mp_runtime *rt,
                               int (*cb)(void *arg, const struct l7mp_admin *next,
                                         struct l7mp_error *err));
/* Called after each successful apply with the new admin (when it changed). */
void l7mp_runtime_on_admin(struct l7mp_runtime *rt,
                           void (*cb)(void *arg, const struct l7mp_admin *admin), void *arg);
