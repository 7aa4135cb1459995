/* SPDX-License-Identifier: MIT */
/* Flows: their one or two map entries are added and removed together. */
#include <errno.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "l7mp/fault.h"
#include "l7mp/log.h"

#define FULL_RETRY_MS 200

/* ---- the maps ---- */

static int reason_of(struct l7mp_offload_engine *e, int err)
{
	uint32_t left_out;

	if ((err == -ENOMEM || err == -EAGAIN) && !e->was_short) {
		/* Retry: the kernel's free list is being refilled, or slots wait for reuse. */
		e->was_short = true;
		off_retry_after(e, FULL_RETRY_MS);
	}
	if (err == -EAGAIN)
		return L7MP_REASON_TABLE_FULL;
	if (err == -E2BIG) {
		e->stats->refusals[L7MP_REFUSE_MAX_FLOWS]++;
		e->was_refused = true;
		return L7MP_REASON_TABLE_FULL;
	}
	if (l7mp_log_allowed(&e->log_limit, l7mp_loop_now(e->loop), 10000, 3, &left_out))
		l7mp_log_error(OFF_MODULE, "the kernel refused a flow: %s (%u more before this)",
		               strerror(-err), left_out);
	return L7MP_REASON_KERNEL;
}

static void uninstall(struct l7mp_offload_engine *e, struct l7mp_flow *flow, bool count)
{
	for (int i = 0; i < flow->n_dirs && !flow->out && !flow->unmapped; i++) {
		off_entry_delete(&e->table.maps, &flow->dir[i]);
		L7MP_FAULT("deleted");
	}
	/* A program that found the flow just before has counted by now, or does within 1 us. */
	for (int i = 0; i < flow->n_dirs; i++) {
		if (count)
			off_counter_read(&e->table, &flow->dir[i]);
		off_slot_give(&e->table, &flow->dir[i]);
		off_rtp_leave(&e->table, &flow->dir[i]);
	}
}

void off_flow_unmap(struct l7mp_offload_engine *e, struct l7mp_flow *flow)
{
	for (int i = 0; i < flow->n_dirs && !flow->out && !flow->unmapped; i++)
		off_entry_delete(&e->table.maps, &flow->dir[i]);
	flow->unmapped = true;
}

static int put(const struct off_table *tbl, const struct off_direction *dir)
{
	int rc = -ENOMEM;

	/* ENOMEM: this CPU's free list is empty; it is refilled asynchronously, so retry. */
	for (int i = 0; i < 3 && rc == -ENOMEM; i++)
		rc = off_entry_put(&tbl->maps, dir, &dir->action6, BPF_ANY);
	return rc;
}

/* Allocates entries of `rtp` for the packets received at each end. */
static enum l7mp_reason take_rtp(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                 const struct l7mp_flow_end *a, const struct l7mp_flow_end *b)
{
	const struct l7mp_flow_end *ends[2] = {a, b};

	for (int i = 0; i < flow->n_dirs; i++)
		if (ends[i]->rtp && flow->verb != L7MP_VERB_COUNT &&
		    off_rtp_take(&e->table, &flow->dir[i], ends[i]->rtp)) {
			off_rtp_leave(&e->table, &flow->dir[0]);
			return L7MP_REASON_TABLE_FULL;
		}
	return L7MP_REASON_NONE;
}

/* Counters, then the reverse flow, then the forward flow; undone on any failure. */
static int install(struct l7mp_offload_engine *e, struct l7mp_flow *flow)
{
	int rc = 0;

	for (int i = 0; !rc && i < flow->n_dirs; i++) {
		rc = off_slot_take(&e->table, &flow->dir[i]);
		rc = rc ? rc : off_counter_clear(&e->table, &flow->dir[i]);
	}
	for (int i = flow->n_dirs - 1; !rc && i >= 0; i--) {
		if (!(flow->dir[i].action.flags & L7MP_FLOW_HANDOVER))
			off_rtp_enter(&e->table, &flow->dir[i]);
		off_action_renew(&e->table, &flow->dir[i].action6);
		rc = put(&e->table, &flow->dir[i]);
		L7MP_FAULT("put");
	}
	if (!rc)
		return 0;
	uninstall(e, flow, false);
	return reason_of(e, rc);
}

/* ---- planning ---- */

enum l7mp_reason off_flow_plan(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                               struct off_plan plan[2])
{
	struct off_link *in[2] = {NULL, NULL};
	enum l7mp_reason reason;

	memset(plan, 0, 2 * sizeof(*plan));
	if (e->state == OFF_STOPPING)
		return off_leave_reason(e);
	if (flow->verb == L7MP_VERB_FRAME)
		return off_frames_plan(e, flow, plan);
	for (int i = 0; i < flow->n_dirs; i++) {
		reason = off_ingress_find(e, flow->nh[i], &in[i], &plan[i].in);
		if (reason)
			return reason;
	}
	for (int i = 0; i < flow->n_dirs; i++) {
		const struct off_nexthop *to =
		        flow->verb == L7MP_VERB_REFLECT ? flow->nh[0] : flow->nh[!i];

		reason = flow->verb == L7MP_VERB_COUNT
		                 ? L7MP_REASON_NONE
		                 : off_egress_find(e, in[i], to, flow->tcp, &plan[i].out);
		if (reason)
			return reason;
	}
	return L7MP_REASON_NONE;
}

static void set_frames(struct l7mp_flow *flow, const struct l7mp_flow_end *a,
                       const struct l7mp_flow_end *b)
{
	flow->verb = L7MP_VERB_FRAME;
	flow->n_dirs = 2;
	off_frame_set(&flow->dir[0], a, b);
	off_frame_set(&flow->dir[1], b, a);
	for (int i = 0; i < flow->n_dirs; i++) {
		flow->dir[i].flow = flow;
		flow->dir[i].frames.session = flow->session;
		flow->dir[i].frames.dir = (uint8_t)i;
	}
}

static void set_directions(struct l7mp_flow *flow, const struct l7mp_flow_end *a,
                           const struct l7mp_flow_end *b)
{
	struct off_direction *s = flow->dir;

	off_key_set(&s[0].key, a->l4, &a->remote, &a->local);
	flow->n_dirs = 1;
	if (b->kind == L7MP_FLOW_DROP) {
		flow->verb = L7MP_VERB_COUNT;
		off_action_set(&s[0].action6, &s[0].key, L7MP_VERB_COUNT, NULL, NULL);
	} else if (b->kind == L7MP_FLOW_REFLECT) {
		flow->verb = L7MP_VERB_REFLECT;
		off_action_set(&s[0].action6, &s[0].key, L7MP_VERB_REFLECT, &a->local, &a->remote);
	} else {
		flow->verb = L7MP_VERB_FORWARD;
		flow->n_dirs = 2;
		off_action_set(&s[0].action6, &s[0].key, L7MP_VERB_FORWARD, &b->local, &b->remote);
		off_key_set(&s[1].key, b->l4, &b->remote, &b->local);
		off_action_set(&s[1].action6, &s[1].key, L7MP_VERB_FORWARD, &a->local, &a->remote);
		off_action_set_ends(&s[1].action, b, a);
	}
	/* REFLECT sends through the receiving socket. */
	off_action_set_ends(&s[0].action, a, b->kind == L7MP_FLOW_SOCKET ? b : a);
	for (int i = 0; i < flow->n_dirs; i++) {
		s[i].flow = flow;
		s[i].action.session = flow->session;
		s[i].action.dir = (uint8_t)i;
	}
}

enum l7mp_reason off_flow_find_nexthop(struct l7mp_offload_engine *e, struct l7mp_flow *flow, int i,
                                       uint8_t l4, const struct l7mp_addr *local,
                                       const struct l7mp_addr *remote)
{
	struct off_nexthop *nh = off_nexthop_get(&e->path, l4, local, remote);

	if (!nh)
		return L7MP_REASON_KERNEL;
	flow->nh[i] = nh;
	flow->use[i].flow = flow;
	off_nexthop_use(nh, &flow->use[i]);
	return L7MP_REASON_NONE;
}

static enum l7mp_reason find_nexthops(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                      const struct l7mp_flow_end *a, const struct l7mp_flow_end *b)
{
	const struct l7mp_flow_end *ends[2] = {a, b};
	enum l7mp_reason reason = L7MP_REASON_NONE;

	for (int i = 0; !reason && i < flow->n_dirs && flow->verb != L7MP_VERB_FRAME; i++)
		reason = off_flow_find_nexthop(e, flow, i, ends[i]->l4, &ends[i]->local,
		                               &ends[i]->remote);
	return reason;
}

/* ---- the index ---- */

static bool in_table(const struct l7mp_offload_engine *e, const struct l7mp_flow *flow)
{
	for (int i = 0; i < flow->n_dirs; i++)
		if (off_index_find(&e->table.index, &flow->dir[i].frame))
			return true;
	return flow->n_dirs == 2 &&
	       !memcmp(&flow->dir[0].frame, &flow->dir[1].frame, sizeof(flow->dir[0].frame));
}

static void table_delete(struct l7mp_offload_engine *e, struct l7mp_flow *flow)
{
	for (int i = 0; i < flow->n_dirs; i++)
		off_index_delete(&e->table.index, &flow->dir[i]);
}

static int table_add(struct l7mp_offload_engine *e, struct l7mp_flow *flow)
{
	for (int i = 0; i < flow->n_dirs; i++) {
		struct off_direction *s = &flow->dir[i];

		s->born = e->table.counter_poll.serial;
		if (off_index_add(&e->table.index, s)) {
			table_delete(e, flow);
			return -ENOMEM;
		}
	}
	return 0;
}

static void flow_free(struct l7mp_offload_engine *e, struct l7mp_flow *flow)
{
	off_frames_leave(e, flow);
	for (int i = 0; i < 2; i++)
		if (flow->nh[i])
			off_nexthop_unuse(&e->path, flow->nh[i], &flow->use[i]);
	free(flow);
}

static enum l7mp_reason build(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                              const struct l7mp_flow_end *a, const struct l7mp_flow_end *b)
{
	struct off_plan plan[2];
	enum l7mp_reason reason;

	if (a->l4)
		set_directions(flow, a, b);
	else
		set_frames(flow, a, b);
	reason = a->l4 == IPPROTO_TCP ? off_splice_prepare(e, flow, a, b) : L7MP_REASON_NONE;
	if (reason)
		return reason;
	if (in_table(e, flow)) {
		e->was_refused = true;
		return L7MP_REASON_CONFLICT;
	}
	reason = find_nexthops(e, flow, a, b);
	if (!reason)
		reason = off_flow_plan(e, flow, plan);
	if (reason)
		return reason;
	for (int i = 0; i < flow->n_dirs; i++) {
		off_action_set_ingress(&flow->dir[i].action, &plan[i].in);
		off_action_set_egress(&flow->dir[i].action, &plan[i].out);
	}
	if (flow->verb == L7MP_VERB_FRAME)
		reason = off_frames_join(e, flow, a, b);
	else
		reason = take_rtp(e, flow, a, b);
	if (reason)
		return reason;
	if (table_add(e, flow)) {
		for (int i = 0; i < flow->n_dirs; i++)
			off_rtp_leave(&e->table, &flow->dir[i]);
		return L7MP_REASON_KERNEL;
	}
	if (!flow->tcp)
		off_handover_prepare(&e->table, flow);
	reason = (enum l7mp_reason)install(e, flow);
	if (reason) {
		off_handover_release(&e->table, flow);
		table_delete(e, flow);
		return reason;
	}
	if (flow->tcp)
		off_tcp_pair_begin(flow->tcp);
	else
		off_handover_add(&e->table, flow);
	return L7MP_REASON_NONE;
}

/* ---- operations ---- */

static int op_add(void *ctx, const struct l7mp_flow_end *a, const struct l7mp_flow_end *b,
                  const struct l7mp_flow_owner *owner, struct l7mp_flow **out)
{
	struct l7mp_offload_engine *e = ctx;
	enum l7mp_reason reason;
	struct l7mp_flow *flow;

	*out = NULL;
	if (e->state == OFF_UNAVAILABLE)
		return L7MP_REASON_KERNEL;
	if (e->state == OFF_STARTING)
		return L7MP_REASON_PENDING; /* a retry follows when it has started */
	if (e->state == OFF_STOPPING)
		return (int)off_leave_reason(e);
	if (e->state == OFF_DISABLED)
		return e->set.start == L7MP_OFFLOAD_DISABLE ? L7MP_REASON_DISABLED
		                                            : L7MP_REASON_INTERFACE;
	reason = off_pair_check(a, b);
	if (reason)
		return (int)reason;
	flow = calloc(1, sizeof(*flow));
	if (!flow)
		return L7MP_REASON_KERNEL;
	flow->cookie = owner->cookie;
	flow->session = off_record_id(owner);
	/* Before the flow's entries: a flow without a record could not be adopted. */
	(void)off_record_put(&e->table, flow, owner);
	L7MP_FAULT("recorded");
	reason = build(e, flow, a, b);
	if (reason) {
		off_record_delete(&e->table, flow);
		off_tcp_pair_free(&flow->tcp);
		flow_free(e, flow);
		return (int)reason;
	}
	DL_APPEND(e->flows, flow);
	e->table.n_flows++;
	e->n_added++;
	*out = flow;
	return 0;
}

static void counters_of(struct l7mp_flow *flow, struct l7mp_flow_counters out[2])
{
	memset(out, 0, 2 * sizeof(*out));
	out[L7MP_INGRESS] = flow->dir[0].now;
	/* Each received packet was sent back. */
	if (flow->verb == L7MP_VERB_REFLECT)
		out[L7MP_EGRESS] = flow->dir[0].now;
	else if (flow->n_dirs == 2)
		out[L7MP_EGRESS] = flow->dir[1].now;
	off_splice_counters(flow, out);
}

void off_flow_take_out(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                       struct l7mp_flow_counters final[2])
{
	uninstall(e, flow, true);
	L7MP_FAULT("uninstalled");
	off_flow_left(e, flow);
	counters_of(flow, final);
	off_handover_release(&e->table, flow);
	off_record_delete(&e->table, flow);
	table_delete(e, flow);
	DL_DELETE(e->flows, flow);
	e->table.n_flows--;
	flow_free(e, flow);
	/* There is room for refused flows again, or the conflicting flow was removed. */
	if (e->was_refused && e->state == OFF_ACTIVE) {
		e->was_refused = false;
		off_retry_after(e, FULL_RETRY_MS);
	}
}

void off_flow_let_go(struct l7mp_offload_engine *e, struct l7mp_flow *flow)
{
	struct l7mp_flow_counters final[2];
	struct off_tcp_pair *p = flow->tcp;
	uint64_t cookie = flow->cookie;

	for (int i = 0; i < flow->n_dirs; i++) {
		off_counter_read(&e->table, &flow->dir[i]);
		off_rtp_leave(&e->table, &flow->dir[i]);
	}
	off_flow_left(e, flow);
	counters_of(flow, final);
	off_handover_drop(&e->table, flow);
	table_delete(e, flow);
	DL_DELETE(e->flows, flow);
	e->table.n_flows--;
	e->table.n_records -= flow->recorded;
	flow_free(e, flow);
	off_tcp_pair_free(&p);
	if (e->table.events && e->table.events->withdrawn)
		e->table.events->withdrawn(e->table.events_arg, cookie, L7MP_REASON_DISABLED,
		                           final);
}

static void op_remove(void *ctx, struct l7mp_flow **flow, struct l7mp_flow_counters final[2])
{
	struct l7mp_offload_engine *e = ctx;
	struct l7mp_flow *f = *flow;
	struct off_tcp_pair *p;

	if (!f)
		return;
	*flow = NULL;
	e->n_removed++;
	p = f->tcp;
	off_flow_take_out(e, f, final);
	off_tcp_pair_free(&p);
}

static void op_read(void *ctx, struct l7mp_flow *flow, bool fresh, struct l7mp_flow_counters now[2])
{
	struct l7mp_offload_engine *e = ctx;

	for (int i = 0; fresh && i < flow->n_dirs; i++)
		off_counter_read(&e->table, &flow->dir[i]);
	counters_of(flow, now);
}

static void op_note(void *ctx, struct l7mp_flow *flow, const struct l7mp_flow_owner *owner)
{
	struct l7mp_offload_engine *e = ctx;

	(void)off_record_put(&e->table, flow, owner);
}

static void op_recheck(void *ctx, struct l7mp_flow *flow)
{
	struct l7mp_offload_engine *e = ctx;

	for (int i = 0; i < flow->n_dirs && !flow->out; i++)
		if (flow->nh[i])
			off_nexthop_recheck(&e->path, flow->nh[i]);
}

static void op_where(void *ctx, const struct l7mp_flow *flow, enum l7mp_direction dir,
                     const char **hook, const char **interface)
{
	struct l7mp_offload_engine *e = ctx;
	const bool second = flow->n_dirs == 2 && dir == L7MP_EGRESS;
	struct off_link *in = off_link_find(&e->path, flow->dir[second].frame.ifindex);

	if (flow->nh[second] && off_ingress_find(e, flow->nh[second], &in, NULL))
		return;
	if (!in)
		return;
	*hook = off_hook_name(in->hook);
	*interface = in->name;
}

static void op_subscribe(void *ctx, const struct l7mp_offload_events *events, void *arg)
{
	struct l7mp_offload_engine *e = ctx;

	e->table.events = events;
	e->table.events_arg = arg;
}

const struct l7mp_offload off_ops = {
        .subscribe = op_subscribe,
        .add = op_add,
        .remove = op_remove,
        .release = off_splice_release,
        .phase = off_splice_phase,
        .translation = off_splice_translation,
        .read = op_read,
        .recheck = op_recheck,
        .note = op_note,
        .own = off_adopt_own,
        .where = op_where,
};
