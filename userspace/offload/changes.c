/* SPDX-License-Identifier: MIT */
/*
 * Updating flows after a network change: dirty nexthops are looked up again, and the flows that use
 * them get new actions or are withdrawn. There may be thousands, so the work is done in slices of
 * some ms with I/O in between, and the maps are changed in batches. Withdrawn flows are first
 * deleted from the maps, all of them; reading their counters and notifying their owners follows.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define SLICE_NS (2 * 1000000U)
#define USES     32 /* flows updated at a time */
#define FINALS   8  /* withdrawn flows finished at a time */

static void wake(struct l7mp_offload_engine *e)
{
	if (!l7mp_timer_armed(&e->work))
		(void)l7mp_timer_start(e->loop, &e->work, 0);
}

/* ---- withdrawing flows ---- */

static void flush_deletes_of(struct off_batch *b, const struct off_entry_map *m)
{
	uint32_t done = 0;

	while (done < b->n_deletes) {
		__u32 n = b->n_deletes - done;

		if (!bpf_map_delete_batch(m->fd, &b->deletes[done * m->key], &n, NULL))
			break;
		/* On failure n is the number deleted, or unchanged without kernel support. */
		if (errno != ENOENT || n >= b->n_deletes - done)
			n = 0;
		done += n;
		(void)bpf_map_delete_elem(m->fd, &b->deletes[done++ * m->key]);
	}
	b->n_deletes = 0;
}

/* Deletes the collected entries from the maps. */
static void flush_deletes(struct l7mp_offload_engine *e)
{
	for (unsigned family = 0; family < OFF_FAMILIES; family++) {
		struct off_entry_map m = off_entry_map(&e->table.maps, family);

		flush_deletes_of(&e->batch[family], &m);
	}
}

static void flush_updates(struct l7mp_offload_engine *e);

static void leave(struct l7mp_offload_engine *e, struct l7mp_flow *flow, enum l7mp_reason reason)
{
	const unsigned family = off_entry_family(&flow->dir[0]);
	const size_t size = off_entry_map(&e->table.maps, family).key;
	struct off_batch *b = &e->batch[family];

	/* Updates first: one that is pending for a deleted flow would add its entry again. */
	if (b->n_deletes + 2 > OFF_BATCH) {
		flush_updates(e);
		flush_deletes(e);
	}
	if (flow->out || off_splice_leave(e, flow, reason))
		return;
	if (!e->leaving)
		e->leaving_retries = e->n_retries;
	off_handover_drop(&e->table, flow);
	flow->out = true;
	flow->out_reason = (uint8_t)reason;
	DL_APPEND2(e->leaving, flow, lprev, lnext);
	for (int i = 0; i < flow->n_dirs; i++)
		memcpy(&b->deletes[b->n_deletes++ * size], off_entry_key(&flow->dir[i]), size);
}

void off_flow_left(struct l7mp_offload_engine *e, struct l7mp_flow *flow)
{
	if (flow->out)
		DL_DELETE2(e->leaving, flow, lprev, lnext);
	flow->out = false;
}

/* After its entries were deleted: reads the last counters and notifies the owner. */
static void finish(struct l7mp_offload_engine *e, struct l7mp_flow *flow)
{
	enum l7mp_reason reason = (enum l7mp_reason)flow->out_reason;
	struct l7mp_flow_counters final[2];
	struct off_tcp_pair *p = flow->tcp;
	uint64_t cookie = flow->cookie;

	e->n_withdrawn++;
	off_flow_take_out(e, flow, final);
	off_tcp_pair_free(&p);
	if (e->table.events && e->table.events->withdrawn)
		e->table.events->withdrawn(e->table.events_arg, cookie, reason, final);
}

/*
 * Completes all pending withdrawals; TCP un-splices only if `tcp`, else they complete later. Waits
 * for running programs: detaching XDP may stop the device for some ms, so no packet may be in it.
 */
static void leave_now(struct l7mp_offload_engine *e, bool tcp)
{
	flush_updates(e);
	flush_deletes(e);
	if (e->leaving)
		off_wait_for_programs();
	while (e->leaving)
		finish(e, e->leaving);
	if (tcp)
		off_splices_settle(e, false);
}

void off_flows_withdraw_all(struct l7mp_offload_engine *e, enum l7mp_reason reason)
{
	struct l7mp_flow *flow;

	DL_FOREACH (e->flows, flow)
		leave(e, flow, reason);
	leave_now(e, true);
	off_splices_settle(e, true);
	off_splices_drop_over(e);
}

void off_flows_settle(struct l7mp_offload_engine *e)
{
	struct l7mp_flow *flow;

	DL_FOREACH (e->flows, flow)
		if (flow->tcp)
			leave(e, flow, L7MP_REASON_PENDING);
	leave_now(e, true);
	off_splices_drop_over(e);
}

void off_flows_replan(struct l7mp_offload_engine *e)
{
	struct l7mp_flow *flow;

	DL_FOREACH (e->flows, flow)
		leave(e, flow, L7MP_REASON_PENDING);
	leave_now(e, false);
}

void off_flows_leave_tcp(struct l7mp_offload_engine *e)
{
	struct l7mp_flow *flow;

	DL_FOREACH (e->flows, flow)
		if (flow->tcp)
			leave(e, flow, L7MP_REASON_DISABLED);
	wake(e);
}

/* ---- updating flows ---- */

/*
 * The kernel rejects BPF_EXIST in batches; not needed, as flows that aren't `out` are in the map.
 */
static void flush_updates_of(struct l7mp_offload_engine *e, struct off_batch *b,
                             const struct off_entry_map *m)
{
	uint32_t done = 0, n_failed = 0;

	while (done < b->n_actions) {
		__u32 n = b->n_actions - done;
		const void *keys = &b->keys[done * m->key];
		const void *actions = &b->actions[done * m->value];

		if (!bpf_map_update_batch(m->fd, keys, actions, &n, NULL))
			break;
		if ((errno != ENOMEM && errno != E2BIG) || n >= b->n_actions - done)
			n = 0;
		done += n;
		/* The element that failed, or without batch support each one. */
		if (bpf_map_update_elem(m->fd, &b->keys[done * m->key],
		                        &b->actions[done * m->value], BPF_EXIST))
			b->owner[n_failed++] = b->owner[done];
		done++;
	}
	b->n_actions = 0;
	/* Only now: their other entry may have been a later one in the batch. */
	for (uint32_t i = 0; i < n_failed; i++)
		leave(e, b->owner[i]->flow, L7MP_REASON_KERNEL);
}

static void flush_updates(struct l7mp_offload_engine *e)
{
	for (unsigned family = 0; family < OFF_FAMILIES; family++) {
		struct off_entry_map m = off_entry_map(&e->table.maps, family);

		flush_updates_of(e, &e->batch[family], &m);
	}
}

static void update(struct l7mp_offload_engine *e, struct off_direction *s,
                   const struct l7mp_flow_action *action)
{
	const unsigned family = off_entry_family(s);
	struct off_entry_map m = off_entry_map(&e->table.maps, family);
	struct off_batch *b = &e->batch[family];

	s->action = *action;
	off_action_renew(&e->table, &s->action6);
	memcpy(&b->keys[b->n_actions * m.key], off_entry_key(s), m.key);
	memcpy(&b->actions[b->n_actions * m.value], &s->action6, m.value);
	b->owner[b->n_actions++] = s;
	if (b->n_actions == OFF_BATCH)
		flush_updates(e);
}

static void refresh(struct l7mp_offload_engine *e, struct l7mp_flow *flow)
{
	struct off_plan plan[2];
	enum l7mp_reason reason;

	if (flow->out || flow->unmapped)
		return;
	reason = off_flow_plan(e, flow, plan);
	if (reason) {
		leave(e, flow, reason);
		return;
	}
	/* `out` is set if the kernel rejects the first direction's update. */
	for (int i = 0; i < flow->n_dirs && !flow->out; i++) {
		struct off_direction *s = &flow->dir[i];
		struct l7mp_flow_action action = s->action;

		off_action_set_ingress(&action, &plan[i].in);
		off_action_set_egress(&action, &plan[i].out);
		if (memcmp(&action, &s->action, sizeof(action)) != 0)
			update(e, s, &action);
	}
}

void off_flows_leave_link(struct l7mp_offload_engine *e, const struct off_link *l)
{
	struct l7mp_flow *flow;

	DL_FOREACH (e->flows, flow)
		refresh(e, flow);
	leave_now(e, false);
	off_splices_force(e, l);
}

bool off_flows_left(const struct l7mp_offload_engine *e, const struct off_link *l)
{
	return !e->path.dirty && !e->leaving && !off_frames_waiting(e) &&
	       !off_splices_leaving(e, l);
}

/* ---- slices ---- */

/* Updates some of the AF_PACKET flows after a link change. */
static void work_frames(struct l7mp_offload_engine *e)
{
	struct l7mp_flow *flow;

	for (int i = 0; i < USES && (flow = off_frames_next(e)); i++)
		refresh(e, flow);
}

/* Updates some of the nexthop's flows. */
static void work_nexthop(struct l7mp_offload_engine *e, struct off_nexthop *nh)
{
	for (int i = 0; i < USES; i++) {
		struct l7mp_flow *flow = off_nexthop_next_flow(nh);

		if (!flow) {
			off_nexthop_done(&e->path, nh);
			return;
		}
		refresh(e, flow);
	}
}

void off_changes_work(struct l7mp_timer *t, void *arg)
{
	struct l7mp_offload_engine *e = arg;
	uint64_t start = off_mono_ns();
	bool had = false;

	(void)t;
	do {
		struct off_nexthop *nh = off_nexthop_next_dirty(&e->path);

		if (nh) {
			work_nexthop(e, nh);
			continue;
		}
		if (off_frames_waiting(e)) {
			work_frames(e);
			continue;
		}
		flush_updates(e); /* withdraws flows whose update fails */
		flush_deletes(e);
		had = had || e->leaving;
		for (int i = 0; i < FINALS && e->leaving; i++)
			finish(e, e->leaving);
	} while ((e->path.dirty || e->leaving || off_frames_waiting(e)) &&
	         off_mono_ns() - start < SLICE_NS);
	flush_updates(e);
	flush_deletes(e);
	if (e->path.dirty || e->leaving || off_frames_waiting(e))
		wake(e);
	/* If there was a retry meanwhile, sessions of flows withdrawn after it need another one. */
	if (had && !e->leaving && e->leaving_retries != e->n_retries)
		off_retry_soon(e);
}
