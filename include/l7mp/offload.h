/* SPDX-License-Identifier: MIT */
/*
 * The kernel fast path: loads the BPF programs, attaches them to interfaces,
 * keeps flows right as routes, neighbours and links change (docs/fastpath.md).
 *
 * The engine sees flows and cookies (flow.h), never sessions. It always exists: without
 * interfaces, permission or kernel support it refuses every flow with a reason
 * and says why in l7mp_offload_to_json.
 *
 * Thread: loop only, except l7mp_offload_doctor, which needs no loop.
 */
#pragma once

#include "l7mp/error.h"
#include "l7mp/flow.h"
#include "l7mp/loop.h"
#include "l7mp/model.h"
#include "l7mp/stats.h"

struct l7mp_offload_engine;
struct l7mp_str;

struct l7mp_offload_params {
	/* Both borrowed; they must outlive the engine. */
	struct l7mp_loop *loop;
	struct l7mp_stats *stats;
};

/* An idle engine: loads and attaches nothing before l7mp_offload_reconfigure. 0 or -ENOMEM. */
int l7mp_offload_new(const struct l7mp_offload_params *params, struct l7mp_offload_engine **out);

/*
 * Brings the engine to what `admin` asks for (offload, offload_ifs, offload_mode,
 * instance, limits.max_flows), from idle or from other settings; what is needed is copied. Flows
 * that have no place any more are withdrawn, the others stay.
 *
 * What the kernel can't do is no error: the engine is then `unavailable`, says why
 * and refuses flows. The first call waits until all is loaded; later ones, when the loop runs,
 * leave that to a worker thread: the engine is then `starting`, and asks its subscriber to try
 * again when it is `active`. 0; -EBUSY when another process runs this instance, -EPROTO when
 * `no_init` finds maps of another ABI, -ENOENT when it finds none: err says which.
 */
int l7mp_offload_reconfigure(struct l7mp_offload_engine *engine, const struct l7mp_admin *admin,
                             struct l7mp_error *err);

/*
 * Takes everything out again: flows (subscribers are told), what it attached, pins,
 * sysctls, the lock; with `no_init` only the flows. Idempotent. It leaves no handle
 * on the loop. The engine may be reconfigured afterwards.
 */
void l7mp_offload_stop(struct l7mp_offload_engine *engine);
/* Stops first. Before the loop is freed: its handles must get their close callbacks. */
void l7mp_offload_free(struct l7mp_offload_engine **engine);

/* For l7mp_sessions_new. Borrowed, valid as long as the engine. */
const struct l7mp_offload *l7mp_offload_ops(struct l7mp_offload_engine *engine);

/*
 * What GET /offload shows; and what GET /offload/flows shows of one flow: an array, as it has a
 * table entry for each direction. New trees, NULL when out of memory.
 */
cJSON *l7mp_offload_to_json(struct l7mp_offload_engine *engine);
cJSON *l7mp_offload_flow_to_json(struct l7mp_offload_engine *engine, struct l7mp_flow *flow);
/* Appends the fast path's metrics in Prometheus text format. */
void l7mp_offload_metrics(struct l7mp_offload_engine *engine, struct l7mp_str *out);

/*
 * What the kernel fast path would find on this machine: kernel, BTF, bpffs, capabilities,
 * JIT, and per interface what would be used, why, and what to change. Needs no
 * engine, changes nothing. `admin` (may be NULL) says which interfaces and mode are wanted.
 * New tree: { "ok", "checks": [ { "check", "ok", "found", "advice" } ], "interfaces": [...] }.
 */
cJSON *l7mp_offload_doctor(const struct l7mp_admin *admin);
