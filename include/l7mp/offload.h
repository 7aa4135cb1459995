/* SPDX-License-Identifier: MIT */
/*
 * The offload engine, which is the user-space part of the kernel fast path: it loads the BPF
 * programs, attaches them to interfaces, and updates flows as routes, neighbours and links change
 * (docs/fastpath.md).
 *
 * The engine knows flows and cookies (flow.h), but not sessions. It always exists: without
 * interfaces, permission or kernel support it refuses every flow with a reason, and
 * l7mp_offload_to_json says why.
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
	/* Both are borrowed and must outlive the engine. */
	struct l7mp_loop *loop;
	struct l7mp_stats *stats;
};

/*
 * Makes an idle engine, which loads and attaches nothing before l7mp_offload_reconfigure. Returns 0
 * or -ENOMEM.
 */
int l7mp_offload_new(const struct l7mp_offload_params *params, struct l7mp_offload_engine **out);

/*
 * Applies the settings of `admin` (offload, offload_ifs, offload_mode, instance, limits.max_flows),
 * whether the engine is idle or has other settings. `admin` is borrowed for the call. Flows whose
 * interface or table entry is lost are withdrawn; the others stay.
 *
 * Missing kernel support is no error: the engine is `unavailable` then, and refuses flows. The
 * first call returns when everything is loaded. Later calls, on a running loop, load in a worker
 * thread: the engine is `starting`, and sends the event `retry` when it is `active`.
 *
 * Programs are detached when the flows that use them have left the kernel, which may take seconds,
 * after this has returned: interfaces are `leaving`, or the whole engine is `stopping`. An error
 * that comes later is only logged.
 *
 * Returns 0, or with err set: -EBUSY when another process runs this instance; -EPROTO when the
 * pinned maps that `no_init` shall use have another ABI; -ENOENT when there are none.
 */
int l7mp_offload_reconfigure(struct l7mp_offload_engine *engine, const struct l7mp_admin *admin,
                             struct l7mp_error *err);

struct l7mp_session_record;
/*
 * After the first l7mp_offload_reconfigure, when the listeners are bound and before the loop runs:
 * passes each flow that a previous process of the instance left in the kernel to `take`, with its
 * session record. `take` returns 0 when the session has taken the flow (the record's `flow` is then
 * NULL), or a negative errno with err: then the flow is removed, and the reason is shown in the log
 * and in GET /offload. Before this call the flows stay in the kernel even if this process ends.
 */
void l7mp_offload_adopt(struct l7mp_offload_engine *engine,
                        int (*take)(void *arg, struct l7mp_session_record *r,
                                    struct l7mp_error *err),
                        void *arg);

/*
 * An upgrade: flows stay in the kernel while another process takes over (daemon/upgrade.h). In the
 * old process:
 *
 * l7mp_offload_lock returns the descriptor of the instance's lock, borrowed, when a process with
 * this instance's name and this ABI (L7MP_ABI_VERSION) can have the flows; else -1.
 */
int l7mp_offload_lock(const struct l7mp_offload_engine *engine, const char *instance, int abi);
/*
 * on: un-splices TCP connections before it returns; from then on the engine ignores changes of
 * routes and links, and only operations on flows change the kernel's maps. off: it processes the
 * changes that it missed.
 */
void l7mp_offload_rest(struct l7mp_offload_engine *engine, bool on);
/*
 * Instead of l7mp_offload_stop, after the new process has taken over the flows. Each flow gets the
 * event `withdrawn`, with its counters; flows, programs, maps and the lock are left as they are.
 */
void l7mp_offload_leave(struct l7mp_offload_engine *engine);
/*
 * In the new process, instead of the first l7mp_offload_reconfigure: prepares for adopting the
 * flows of the process that holds `lock` (taken, also on failure), without changing anything that
 * it uses. Returns 0, or a negative errno, which is logged: then the engine is idle, and
 * l7mp_offload_reconfigure can be called when the old process has stopped its engine.
 */
int l7mp_offload_inherit(struct l7mp_offload_engine *engine, const struct l7mp_admin *admin,
                         int lock);
/*
 * After the commit of the upgrade: attaches the programs. l7mp_offload_adopt follows. No-op without
 * l7mp_offload_inherit.
 */
void l7mp_offload_continue(struct l7mp_offload_engine *engine);

/*
 * Whether the kernel takes a packet from `remote` to `local` for one of a flow that a process of
 * another ABI version has left, and that goes on until it ends (docs/fastpath.md). Both have ports.
 */
bool l7mp_offload_is_drained(struct l7mp_offload_engine *engine, uint8_t l4,
                             const struct l7mp_addr *local, const struct l7mp_addr *remote);

/*
 * Removes the flows (with the event `withdrawn`), and, unless the start mode is `no_init`, also the
 * attached programs, the pins, the changed sysctls and the lock of the instance. No handle stays on
 * the loop. Idempotent; the engine may be reconfigured afterwards.
 */
void l7mp_offload_stop(struct l7mp_offload_engine *engine);
/*
 * Stops and frees the engine. The loop has to run afterwards, so that handles get their close
 * callbacks. Nulls the pointer.
 */
void l7mp_offload_free(struct l7mp_offload_engine **engine);

/* Returns the operations for l7mp_sessions_new; valid as long as the engine. */
const struct l7mp_offload *l7mp_offload_ops(struct l7mp_offload_engine *engine);

/*
 * Return the body of GET /offload, and the array that GET /offload/flows shows for one flow, which
 * has a table entry for each direction. New trees; NULL when out of memory.
 */
cJSON *l7mp_offload_to_json(struct l7mp_offload_engine *engine);
cJSON *l7mp_offload_flow_to_json(struct l7mp_offload_engine *engine, struct l7mp_flow *flow);
/* Appends the fast path's metrics in Prometheus text format. */
void l7mp_offload_metrics(struct l7mp_offload_engine *engine, struct l7mp_str *out);

/*
 * Checks whether the fast path can work on this machine: kernel, BTF, bpffs, capabilities, JIT, and
 * for each interface which hook would be used, why, and what could be improved. Changes nothing,
 * and needs neither engine nor loop. `admin` (may be NULL) has the interfaces and the mode to
 * check. Returns a new tree, NULL when out of memory: { "ok", "checks": [ { "check", "ok", "found",
 * "advice" } ], "interfaces": [...] }.
 */
cJSON *l7mp_offload_doctor(const struct l7mp_admin *admin);
