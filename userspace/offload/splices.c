/* SPDX-License-Identifier: MIT */
/* TCP flows: connects the pairs of tcp/ with flows in the maps and with their owners. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "engine.h"

#define SETTLE_MS \
	300 /* how long the end of the engine or an upgrade waits for TCP flows to leave */

/* ---- events of pairs ---- */

static void on_hold(void *arg, void *owner, bool on)
{
	const struct l7mp_offload_engine *e = arg;
	const struct l7mp_flow *flow = owner;

	e->table.events->hold(e->table.events_arg, flow->cookie, on);
}

static bool on_lend(void *arg, void *owner, struct l7mp_flow_socket at[2])
{
	const struct l7mp_offload_engine *e = arg;
	const struct l7mp_flow *flow = owner;

	return e->table.events->lend(e->table.events_arg, flow->cookie, at);
}

static void on_begun(void *arg, void *owner)
{
	const struct l7mp_offload_engine *e = arg;
	const struct l7mp_flow *flow = owner;

	e->table.events->begun(e->table.events_arg, flow->cookie, false);
}

static uint64_t on_passed(void *arg, void *owner, int dir)
{
	const struct l7mp_flow *flow = owner;

	(void)arg;
	return flow->dir[dir].now.bytes;
}

static void on_unmap(void *arg, void *owner)
{
	off_flow_unmap(arg, owner);
}

static void on_returned(void *arg, void *owner, const struct l7mp_flow_socket back[2],
                        enum l7mp_reason why)
{
	struct l7mp_offload_engine *e = arg;
	struct l7mp_flow *flow = owner;
	struct l7mp_flow_counters final[2];
	uint64_t cookie = flow->cookie;
	/* Retries were requested while it was being un-spliced, so its session missed them. */
	bool again = why && flow->leaving && flow->leaving_retries != e->n_retries;

	e->n_removed += !why;
	e->n_withdrawn += why != L7MP_REASON_NONE;
	off_flow_take_out(e, flow, final);
	e->table.events->returned(e->table.events_arg, cookie, back, why, final);
	if (again)
		off_retry_soon(e);
}

static void on_over(void *arg, void *owner, bool reset)
{
	struct l7mp_offload_engine *e = arg;
	struct l7mp_flow *flow = owner;
	struct l7mp_flow_counters final[2] = {{0}};

	off_ops.read(e, flow, true, final);
	off_record_delete(&e->table, flow);
	flow->over = true;
	e->n_removed++;
	e->table.events->over(e->table.events_arg, flow->cookie, reset, final);
}

static void on_removed(void *arg, void *owner)
{
	struct l7mp_flow_counters final[2];

	off_flow_take_out(arg, owner, final);
}

static const struct off_tcp_ops ops = {
        .hold = on_hold,
        .lend = on_lend,
        .begun = on_begun,
        .passed = on_passed,
        .unmap = on_unmap,
        .returned = on_returned,
        .over = on_over,
        .removed = on_removed,
};

/* ---- life ---- */

#define MAP_BYTES (L7MP_TCP_PAIRS * sizeof(struct l7mp_tcp_pair))

int off_splices_start(struct l7mp_offload_engine *e)
{
	void *map = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
	                 e->table.maps.tcp_pairs, 0);
	int rc;

	if (map == MAP_FAILED)
		return -errno;
	rc = off_tcp_new(e->loop, map, &ops, e, &e->tcp);
	if (rc)
		munmap(map, MAP_BYTES);
	else
		e->tcp_map = map;
	return rc;
}

void off_splices_stop(struct l7mp_offload_engine *e)
{
	off_tcp_free(&e->tcp);
	if (e->tcp_map)
		munmap(e->tcp_map, MAP_BYTES);
	e->tcp_map = NULL;
}

/* ---- flows ---- */

static void drop_over(struct l7mp_offload_engine *e, struct l7mp_flow *flow)
{
	struct off_tcp_pair *p = flow->tcp;
	struct l7mp_flow_counters final[2];

	off_flow_take_out(e, flow, final);
	off_tcp_pair_free(&p);
}

void off_splices_drop_over(struct l7mp_offload_engine *e)
{
	struct l7mp_flow *flow, *next;

	DL_FOREACH_SAFE (e->flows, flow, next)
		if (flow->over)
			drop_over(e, flow);
}

/* Removes the lingering flow of a closed connection, whose port a new one has reused. */
static void remove_ended(struct l7mp_offload_engine *e, const struct l7mp_flow *flow)
{
	for (int i = 0; i < 2; i++) {
		const struct off_direction *dir =
		        off_index_find(&e->table.index, &flow->dir[i].frame);

		if (dir && dir->flow->over)
			drop_over(e, dir->flow);
	}
}

enum l7mp_reason off_splice_prepare(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                    const struct l7mp_flow_end *a, const struct l7mp_flow_end *b)
{
	const struct l7mp_flow_socket at[2] = {{.fd = a->fd, .mss = a->mss},
	                                       {.fd = b->fd, .mss = b->mss}};
	enum l7mp_reason reason;

	if (!e->set.tcp.enabled)
		return L7MP_REASON_DISABLED;
	if (!e->tcp || !e->table.events || !e->table.events->lend)
		return L7MP_REASON_TCP;
	remove_ended(e, flow);
	reason = off_tcp_pair_new(e->tcp, at, flow, &flow->tcp);
	if (reason)
		return reason;
	flow->verb = L7MP_VERB_SPLICE;
	for (uint8_t i = 0; i < 2; i++) {
		struct l7mp_flow_action *action = &flow->dir[i].action;

		action->verb = L7MP_VERB_SPLICE;
		action->pair = flow->tcp->index;
		action->pair_id = flow->tcp->id;
		action->dir = i;
	}
	return L7MP_REASON_NONE;
}

/* ---- adoption ---- */

const char *off_splice_claim(struct l7mp_offload_engine *e, struct l7mp_flow *flow)
{
	const struct l7mp_flow_action *a = &flow->dir[0].action, *b = &flow->dir[1].action;
	struct l7mp_addr local[2], peer[2];
	uint64_t passed[2];

	if (a->pair != b->pair || a->pair_id != b->pair_id)
		return "its entries contradict each other";
	for (int i = 0; i < 2; i++) {
		const struct l7mp_flow_key *key = &flow->dir[i].key;

		off_key_to_addr(key, key->saddr.bytes, key->sport, &peer[i]);
		off_key_to_addr(key, key->daddr.bytes, key->dport, &local[i]);
		off_counter_read(&e->table, &flow->dir[i]);
		passed[i] = flow->dir[i].now.bytes;
	}
	return off_tcp_adopt(e->tcp, a->pair, a->pair_id, local, peer, passed, flow, &flow->tcp);
}

bool off_splice_is_over(const struct l7mp_flow *flow)
{
	const volatile struct l7mp_tcp_pair *map = flow->tcp ? flow->tcp->map : NULL;

	return map && map->phase >= L7MP_TCP_TRANS &&
	       ((map->dir[0].seen & map->dir[1].seen & L7MP_TCP_FIN_ACKED) ||
	        ((map->dir[0].seen | map->dir[1].seen) & (L7MP_TCP_RST | L7MP_TCP_REUSED)));
}

bool off_splice_leave(const struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                      enum l7mp_reason reason)
{
	if (flow->over)
		return true;
	if (!flow->tcp || !off_tcp_lent(flow->tcp))
		return false;
	if (!flow->leaving)
		flow->leaving_retries = e->n_retries;
	flow->leaving = true;
	off_tcp_pair_leave(flow->tcp, reason);
	return true;
}

/* Is the link the ingress or egress of one of the flow's directions? */
static bool uses_link(const void *arg, const void *owner)
{
	const struct off_link *l = arg;
	const struct l7mp_flow *flow = owner;

	for (int i = 0; i < flow->n_dirs && !flow->unmapped; i++)
		if (flow->dir[i].action.in_ifindex == l->ifindex ||
		    flow->dir[i].action.ifindex == l->ifindex)
			return true;
	return false;
}

static struct off_tcp_choice choice(const struct off_link *l)
{
	return (struct off_tcp_choice){.has = l ? uses_link : NULL, .arg = l, .filling = !l};
}

bool off_splices_leaving(const struct l7mp_offload_engine *e, const struct off_link *l)
{
	const struct off_tcp_choice of = choice(l);

	return e->tcp && off_tcp_leaving(e->tcp, &of);
}

void off_splices_force(struct l7mp_offload_engine *e, const struct off_link *l)
{
	const struct off_tcp_choice of = choice(l);

	if (e->tcp)
		off_tcp_force(e->tcp, &of);
}

void off_splices_settle(struct l7mp_offload_engine *e, bool filling)
{
	const struct off_tcp_choice of = {.filling = filling};

	if (e->tcp)
		off_tcp_settle(e->tcp, SETTLE_MS, &of);
}

void off_splice_counters(struct l7mp_flow *flow, struct l7mp_flow_counters out[2])
{
	/* The flow's counters include retransmissions; count each byte once. */
	for (int i = 0; flow->tcp && i < 2; i++)
		out[i].bytes = off_tcp_bytes(flow->tcp, i);
}

void off_splice_release(void *ctx, struct l7mp_flow *flow, bool at_once)
{
	(void)ctx;
	if (at_once)
		off_tcp_pair_kill(flow->tcp);
	else
		off_tcp_pair_leave(flow->tcp, L7MP_REASON_NONE);
}

const char *off_splice_phase(void *ctx, const struct l7mp_flow *flow)
{
	(void)ctx;
	return flow->tcp ? off_tcp_stage_name((enum off_tcp_stage)flow->tcp->stage) : "";
}

bool off_splice_translation(void *ctx, const struct l7mp_flow *flow, enum l7mp_direction dir,
                            struct l7mp_flow_translation *out)
{
	const volatile struct l7mp_tcp_direction *d;

	(void)ctx;
	if (!flow->tcp || flow->tcp->map->phase < L7MP_TCP_TRANS)
		return false;
	d = &flow->tcp->map->dir[dir];
	*out = (struct l7mp_flow_translation){
	        .seq_delta = d->seq_delta,
	        .ack_delta = d->ack_delta,
	        .ts = d->flags & L7MP_TCP_TS,
	        .ts_known = d->ts,
	        .ts_delta = (uint32_t)d->ts,
	        .win_in = d->win_in,
	        .win_out = d->win_out,
	        .sack = !(d->flags & L7MP_TCP_NOSACK),
	};
	return true;
}
