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
/* Listeners must have been stopped. */
void l7mp_runtime_free(struct l7mp_runtime **rt);
/*
 * Prepares (binds), commits and activates; takes nothing: the caller frees the
 * change. On failure nothing is changed and err says which listener and why (code
 * L7MP_ERR_REALISE, path as in the document).
 */
int l7mp_runtime_apply(struct l7mp_runtime *rt, struct l7mp_change *change, struct l7mp_error *err);
/* Writes what a listener really bound into a copy of its spec; no-op when it has no runtime. */
void l7mp_runtime_bound(const struct l7mp_runtime *rt, const struct l7mp_listener *l, cJSON *spec);
/* Stops accepting everywhere; sessions go on. For shutdown. */
void l7mp_runtime_stop(struct l7mp_runtime *rt);
/* Called after each successful apply with the new admin (when it changed). */
void l7mp_runtime_on_admin(struct l7mp_runtime *rt,
                           void (*cb)(void *arg, const struct l7mp_admin *admin), void *arg);
