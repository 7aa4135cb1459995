/* SPDX-License-Identifier: MIT */
/*
 * Adopting the flows that a previous daemon of the instance left in the kernel: its pinned maps are
 * reused, its programs are replaced by ours in place (hook/), and each flow with a session record
 * is assigned to the restored session, or removed with a reason. Nothing is removed before that, so
 * flows are forwarded without interruption.
 *
 *   off_adopt_begin      after the maps are opened, before anything is attached: lists the flows
 *   l7mp_offload_adopt   after the listeners are bound: assigns them
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "l7mp/fault.h"
#include "l7mp/log.h"
#include "l7mp/session.h"

/* GET /offload shows this number of last removals; the log has as many lines. */
#define SHOWN OFF_ADOPT_SHOWN

/* ---- removals ---- */

static void report_removal(struct l7mp_offload_engine *e, const char *session, const char *why)
{
	struct off_adoption *a = &e->adoption;
	struct off_removal *r = &a->removals[a->n_removed++ % SHOWN];

	snprintf(r->session, sizeof(r->session), "%s", session ? session : "");
	snprintf(r->why, sizeof(r->why), "%s", why);
	if (a->n_removed <= SHOWN)
		l7mp_log_warn(OFF_MODULE, "%s%sis not taken over from the earlier process: %s",
		              session ? session : "a flow", session ? ": " : " ", why);
}

/* ---- flows of the previous daemon ---- */

/* A flow of which some entries have been found. */
struct old_flow {
	UT_hash_handle hh; /* by session */
	uint64_t session;
	struct l7mp_flow *flow;
	bool have[2];
	uint8_t n_claimed; /* directions whose hand-over slots are claimed */
};

static bool is_sound_frame(const struct off_direction *d)
{
	const struct l7mp_frame_action *a = &d->frames;
	const struct l7mp_frame_key *k = &d->frame;

	return a->version == a->version_end && a->version6 == a->version && a->dir <= 1 &&
	       a->session && a->tap && a->verb == L7MP_VERB_FRAME && a->match_sport == k->sport &&
	       a->match_dport == k->dport && a->match_l4 == k->l4 && a->match_family == k->family &&
	       a->match_type == k->type && !memcmp(a->match_vlan, k->vlan, sizeof(k->vlan)) &&
	       a->match_ifindex == k->ifindex &&
	       !memcmp(&a->match_saddr, &k->saddr, sizeof(k->saddr)) &&
	       !memcmp(&a->match_daddr, &k->daddr, sizeof(k->daddr));
}

/* Is the value complete, and does it belong to its key? */
static bool is_sound(const struct off_direction *d)
{
	const struct l7mp_flow_action *a = &d->action;
	bool v6 = d->key.family == L7MP_FAMILY_V6;

	if (d->frame.ifindex)
		return is_sound_frame(d);
	if (a->version != a->version_end || (v6 && d->action6.version6 != a->version) ||
	    a->dir > 1 || !a->session)
		return false;
	if (a->key.sport != d->key.sport || a->key.dport != d->key.dport || a->key.l4 != d->key.l4)
		return false;
	if (v6)
		return !memcmp(&d->action6.match_saddr, &d->key.saddr, 16) &&
		       !memcmp(&d->action6.match_daddr, &d->key.daddr, 16);
	return !memcmp(a->key.saddr, d->key.saddr.bytes, 4) &&
	       !memcmp(a->key.daddr, d->key.daddr.bytes, 4);
}

/* Adds a map entry to its flow. NULL, or why that is not possible. */
static const char *place(struct old_flow **all, const struct off_direction *d)
{
	struct old_flow *o = NULL;
	uint64_t session = d->action.session;

	if (!is_sound(d))
		return "its entry contradicts itself";
	if (!d->frame.ifindex && d->action.verb != L7MP_VERB_FORWARD &&
	    d->action.verb != L7MP_VERB_REFLECT && d->action.verb != L7MP_VERB_COUNT &&
	    d->action.verb != L7MP_VERB_SPLICE)
		return "its action is not known";
	HASH_FIND(hh, *all, &session, sizeof(session), o);
	if (!o) {
		o = calloc(1, sizeof(*o));
		if (o)
			o->flow = calloc(1, sizeof(*o->flow));
		if (!o || !o->flow) {
			free(o);
			return "out of memory";
		}
		o->session = session;
		HASH_ADD(hh, *all, session, sizeof(o->session), o);
		if (!o->hh.tbl) {
			free(o->flow);
			free(o);
			return "out of memory";
		}
	}
	if (o->have[d->action.dir])
		return "there are two of its direction";
	o->have[d->action.dir] = true;
	o->flow->dir[d->action.dir] = *d;
	return NULL;
}

/* An entry that belongs to no flow. */
struct stray {
	struct stray *next;
	struct off_direction dir;
};

static void set_aside(struct stray **strays, const struct off_direction *d)
{
	struct stray *s = calloc(1, sizeof(*s));

	if (!s)
		return;
	s->dir = *d;
	s->next = *strays;
	*strays = s;
}

/* Doesn't delete while iterating: the key after a deleted one can't be found. */
static void read_map(struct l7mp_offload_engine *e, unsigned family, struct old_flow **all,
                     struct stray **strays)
{
	struct off_entry_map m = off_entry_map(&e->table.maps, family);
	struct l7mp_frame_key key, before, *at = NULL; /* the largest */

	while (!bpf_map_get_next_key(m.fd, at, &key)) {
		struct off_direction d;
		const struct l7mp_flow4_key *k4 = (const void *)&key;
		const char *why;

		memset(&d, 0, sizeof(d));
		if (family != OFF_V4) {
			memcpy(&d.frame, &key, m.key);
		} else {
			memcpy(d.key.saddr.bytes, k4->saddr, 4);
			memcpy(d.key.daddr.bytes, k4->daddr, 4);
			d.key.sport = k4->sport;
			d.key.dport = k4->dport;
			d.key.l4 = k4->l4;
			d.key.family = L7MP_FAMILY_V4;
		}
		before = key;
		at = &before;
		if (bpf_map_lookup_elem(m.fd, &key, &d.action6))
			continue;
		why = place(all, &d);
		if (why) {
			report_removal(e, NULL, why);
			set_aside(strays, &d);
		}
	}
}

static bool has_two(uint8_t verb)
{
	return verb == L7MP_VERB_FORWARD || verb == L7MP_VERB_SPLICE || verb == L7MP_VERB_FRAME;
}

/* Claims the flow's slots in the other maps. NULL, or why the flow can't be adopted. */
static const char *claim(struct l7mp_offload_engine *e, struct old_flow *o)
{
	static const char used_twice[] = "its counter or its place of the hand-over is used twice";
	struct l7mp_flow *flow = o->flow;
	uint8_t verb;

	if (!o->have[0])
		return "only one of its directions is there";
	verb = flow->dir[0].action.verb;
	flow->n_dirs = has_two(verb) ? 2 : 1;
	if (o->have[1] != (flow->n_dirs == 2) || (o->have[1] && flow->dir[1].action.verb != verb))
		return "only one of its directions is there";
	flow->verb = verb;
	flow->session = o->session;
	for (int i = 0; i < flow->n_dirs; i++) {
		struct off_direction *d = &flow->dir[i];

		d->flow = flow;
		d->born = e->table.counter_poll.serial;
		if (off_slot_claim(&e->table, d) || off_handover_claim(&e->table, d))
			return used_twice;
		o->n_claimed++;
		if (off_index_add(&e->table.index, d))
			return used_twice;
	}
	if (verb == L7MP_VERB_FRAME)
		off_frames_claim(e, flow);
	return verb == L7MP_VERB_SPLICE ? off_splice_claim(e, flow) : NULL;
}

static void forget(struct l7mp_offload_engine *e, struct old_flow *o)
{
	for (int i = 0; i < 2; i++) {
		struct off_direction *d = &o->flow->dir[i];

		if (!o->have[i])
			continue;
		off_entry_delete(&e->table.maps, d);
		if (off_index_find(&e->table.index, &d->frame) == d)
			off_index_delete(&e->table.index, d);
		if (i < o->n_claimed)
			off_handover_unclaim(&e->table, d);
		off_slot_give(&e->table, d);
	}
	off_frames_leave(e, o->flow);
	off_tcp_adopt_reset(&o->flow->tcp);
}

/* Is it a closed TCP session that was lingering? It has no record; remove it silently. */
static bool has_ended(const struct l7mp_offload_engine *e, const struct l7mp_flow *flow)
{
	struct l7mp_flow_owner owner;
	cJSON *texts = NULL;
	bool ended = off_splice_is_over(flow) &&
	             off_record_get(&e->table, flow->session, &owner, &texts) == -ENOENT;

	cJSON_Delete(texts);
	if (ended)
		off_tcp_phase(flow->tcp, L7MP_TCP_FREE);
	return ended;
}

/* To be called after the flows that can't be adopted were removed. */
static void claim_rtp(struct l7mp_offload_engine *e)
{
	struct l7mp_flow *flow;

	DL_FOREACH (e->adoption.flows, flow)
		for (int i = 0; i < flow->n_dirs; i++)
			if (flow->verb != L7MP_VERB_SPLICE)
				off_rtp_claim(&e->table, &flow->dir[i]);
	off_rtp_claimed(&e->table);
}

void off_adopt_begin(struct l7mp_offload_engine *e)
{
	struct old_flow *all = NULL, *o, *next;
	struct stray *strays = NULL;
	bool removed = false;

	e->adoption = (struct off_adoption){.under_way = true};
	L7MP_FAULT("adopt");
	read_map(e, OFF_V4, &all, &strays);
	read_map(e, OFF_V6, &all, &strays);
	read_map(e, OFF_FRAME, &all, &strays);
	while (strays) {
		struct stray *s = strays;

		strays = s->next;
		off_entry_delete(&e->table.maps, &s->dir);
		free(s);
		removed = true;
	}
	o = all;
	HASH_CLEAR(hh, all);
	for (; o; o = next) {
		const char *why = claim(e, o);

		next = o->hh.next;
		if (has_ended(e, o->flow)) {
			forget(e, o);
			free(o->flow);
			removed = true;
		} else if (why) {
			struct l7mp_flow_owner owner;
			cJSON *texts;
			int rc = off_record_get(&e->table, o->session, &owner, &texts);

			report_removal(e, rc ? NULL : owner.session, why);
			cJSON_Delete(texts);
			forget(e, o);
			free(o->flow);
			removed = true;
		} else {
			DL_APPEND(e->adoption.flows, o->flow);
		}
		free(o);
	}
	/* Programs may still count in slots of removed flows, which are reused. */
	if (removed)
		off_wait_for_programs();
	claim_rtp(e);
	L7MP_FAULT("adopt-found");
	off_frames_claimed(e);
	off_slots_claimed(&e->table);
	off_handover_claimed(&e->table);
}

/* ---- a flow and its owner ---- */

/* The frames that an end receives (`in`), and the link addresses that it sends with (`out`). */
static void set_frame(const struct off_direction *in, const struct off_direction *out,
                      struct l7mp_flow_frame *f)
{
	const struct l7mp_frame_key *k = &in->frame;
	const struct l7mp_frame_action *sent = &out->frames;

	memset(f, 0, sizeof(*f));
	f->any = k->family == L7MP_FAMILY_ANY;
	f->filter = f->any ? k->type : 0;
	f->family = k->family == L7MP_FAMILY_V4   ? AF_INET
	            : k->family == L7MP_FAMILY_V6 ? AF_INET6
	                                          : 0;
	f->l4 = k->l4;
	memcpy(f->src, &k->saddr, sizeof(f->src));
	memcpy(f->dst, &k->daddr, sizeof(f->dst));
	f->sport = k->sport;
	f->dport = k->dport;
	f->type = k->type;
	memcpy(f->vlan, k->vlan, sizeof(f->vlan));
	f->set_src = sent->flags & L7MP_FLOW_SET_SMAC;
	f->set_dst = sent->flags & L7MP_FLOW_SET_DMAC;
	memcpy(f->src_mac, sent->smac, sizeof(f->src_mac));
	memcpy(f->dst_mac, sent->dmac, sizeof(f->dst_mac));
}

/* AF_PACKET ends have no peer; link-layer addresses show the kind of the ends. */
static void set_frame_ends(const struct l7mp_flow *flow, struct l7mp_session_record *r,
                           struct l7mp_flow_frame frames[2])
{
	for (int i = 0; i < 2; i++) {
		struct l7mp_restore_end *end = &r->end[i];

		set_frame(&flow->dir[i], &flow->dir[!i], &frames[i]);
		*end = (struct l7mp_restore_end){
		        .fd = -1, .ifindex = flow->dir[i].frame.ifindex, .frame = &frames[i]};
		end->remote.ll = (struct sockaddr_ll){.sll_family = AF_PACKET,
		                                      .sll_ifindex = (int)end->ifindex};
		end->remote.len = sizeof(end->remote.ll);
		end->local = end->remote;
	}
}

static void set_ends(const struct l7mp_flow *flow, struct l7mp_session_record *r)
{
	const struct off_direction *d = &flow->dir[0];
	const struct l7mp_flow6_action *a = &d->action6;
	bool v6 = d->key.family == L7MP_FAMILY_V6;

	memset(r->end, 0, sizeof(r->end));
	r->end[0].fd = r->end[1].fd = -1;
	off_key_to_addr(&d->key, d->key.saddr.bytes, d->key.sport, &r->end[0].remote);
	off_key_to_addr(&d->key, d->key.daddr.bytes, d->key.dport, &r->end[0].local);
	if (!has_two(flow->verb))
		return;
	off_key_to_addr(&d->key, v6 ? a->saddr.bytes : a->action.saddr, a->action.sport,
	                &r->end[1].local);
	off_key_to_addr(&d->key, v6 ? a->daddr.bytes : a->action.daddr, a->action.dport,
	                &r->end[1].remote);
}

/*
 * Adopts the `rtp` entry of a direction; frees it if the session has no RTP statistics any more,
 * allocates one if it has them now. Returns 0 or -ENOSPC.
 */
static int own_rtp(struct l7mp_offload_engine *e, struct off_direction *d,
                   struct l7mp_rtp_stream *stream)
{
	int rc = 0;

	if (stream && d->has_rtp) {
		off_rtp_adopt(&e->table, d, stream, !(d->action.flags & L7MP_FLOW_HANDOVER));
	} else if (stream) {
		rc = off_rtp_take(&e->table, d, stream);
		if (!rc && !(d->action.flags & L7MP_FLOW_HANDOVER))
			off_rtp_enter(&e->table, d);
	} else if (d->has_rtp) {
		off_rtp_leave(&e->table, d);
	} else if (d->action.flags & L7MP_FLOW_RTP) {
		/* Its index was not claimed. */
		d->action.pair = 0;
		d->action.flags &= (uint16_t)~L7MP_FLOW_RTP;
	}
	return rc;
}

/* Looks up the routes, and updates entries that differ from `before`. NONE or a reason. */
static enum l7mp_reason plan(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                             const struct l7mp_flow_action before[2])
{
	struct off_plan p[2];
	enum l7mp_reason reason = L7MP_REASON_NONE;

	for (int i = 0; i < flow->n_dirs && flow->verb != L7MP_VERB_FRAME; i++) {
		const struct off_direction *d = &flow->dir[i];
		struct l7mp_addr local, remote;

		off_key_to_addr(&d->key, d->key.saddr.bytes, d->key.sport, &remote);
		off_key_to_addr(&d->key, d->key.daddr.bytes, d->key.dport, &local);
		reason = off_flow_find_nexthop(e, flow, i, d->key.l4, &local, &remote);
		if (reason)
			return reason;
	}
	reason = off_flow_plan(e, flow, p);
	for (int i = 0; !reason && i < flow->n_dirs; i++) {
		struct off_direction *d = &flow->dir[i];
		struct l7mp_flow_action now = d->action;

		off_action_set_ingress(&now, &p[i].in);
		off_action_set_egress(&now, &p[i].out);
		if (!memcmp(&now, &before[i], sizeof(now)))
			continue;
		d->action = now;
		off_action_renew(&e->table, &d->action6);
		if (off_entry_put(&e->table.maps, d, &d->action6, BPF_EXIST))
			reason = L7MP_REASON_KERNEL;
	}
	return reason;
}

/* The pair is adopted in any case; if it is not possible any more it is un-spliced in order. */
static int own_pair(struct l7mp_offload_engine *e, struct l7mp_flow *flow, const int fd[2])
{
	const struct l7mp_flow_action before[2] = {flow->dir[0].action, flow->dir[1].action};
	enum l7mp_reason reason = e->set.tcp.enabled ? plan(e, flow, before) : L7MP_REASON_DISABLED;

	off_tcp_adopt_begin(flow->tcp, fd);
	if (reason)
		off_tcp_pair_leave(flow->tcp, reason);
	return 0;
}

static bool same_rewrite(const struct l7mp_frame_action *a, const struct l7mp_frame_action *b)
{
	const uint16_t flags = L7MP_FLOW_SET_DMAC | L7MP_FLOW_SET_SMAC;

	return (a->flags & flags) == (b->flags & flags) && !memcmp(a->dmac, b->dmac, 6) &&
	       !memcmp(a->smac, b->smac, 6);
}

/* The configuration may have changed: other frames, or other link addresses. */
static enum l7mp_reason own_frames(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                   const struct l7mp_flow_end *ends)
{
	bool same = ends != NULL;

	for (int i = 0; same && i < 2; i++) {
		struct off_direction want;

		off_frame_set(&want, &ends[i], &ends[!i]);
		same = !memcmp(&want.frame, &flow->dir[i].frame, sizeof(want.frame)) &&
		       same_rewrite(&want.frames, &flow->dir[i].frames);
	}
	if (same)
		return off_frames_own(e, flow, &ends[0], &ends[1]);
	e->was_refused = true; /* so that a retry adds it again */
	return L7MP_REASON_CONFLICT;
}

int off_adopt_own(void *ctx, struct l7mp_flow *flow, uint64_t cookie, const int fd[2],
                  struct l7mp_rtp_stream *rtp, const struct l7mp_flow_end *ends)
{
	struct l7mp_offload_engine *e = ctx;
	const struct l7mp_flow_action before[2] = {flow->dir[0].action, flow->dir[1].action};
	enum l7mp_reason reason = L7MP_REASON_NONE;
	bool begins = false;

	flow->cookie = cookie;
	DL_DELETE(e->adoption.flows, flow);
	DL_APPEND(e->flows, flow);
	e->table.n_flows++;
	if (flow->tcp)
		return own_pair(e, flow, fd);
	for (int i = 0; i < flow->n_dirs; i++) {
		begins |= flow->dir[i].action.flags & L7MP_FLOW_HANDOVER;
		if (flow->verb != L7MP_VERB_COUNT && flow->verb != L7MP_VERB_FRAME &&
		    own_rtp(e, &flow->dir[i], rtp ? &rtp[i] : NULL))
			reason = L7MP_REASON_TABLE_FULL;
	}
	if (flow->verb == L7MP_VERB_FRAME)
		reason = own_frames(e, flow, ends);
	flow->out_reason = (uint8_t)(reason ? reason : plan(e, flow, before));
	if (flow->out_reason)
		return flow->out_reason;
	if (!begins)
		return 0;
	off_handover_add(&e->table, flow);
	return L7MP_REASON_PENDING;
}

static void end_one(struct l7mp_offload_engine *e, struct l7mp_flow *flow, const char *session,
                    const char *why)
{
	struct l7mp_flow_counters final[2];
	struct off_tcp_pair *p = flow->tcp;

	report_removal(e, session, why);
	DL_DELETE(e->adoption.flows, flow);
	DL_APPEND(e->flows, flow);
	e->table.n_flows++;
	off_flow_take_out(e, flow, final);
	/* Later segments reach the host, which answers with a reset, too, as it has no socket. */
	off_tcp_adopt_reset(&p);
}

/* Restores the sockets of a TCP flow. 0, or negative errno and *err. */
static int make_sockets(const struct l7mp_flow *flow, struct l7mp_session_record *r,
                        struct l7mp_error *err)
{
	int fd[2], rc;

	r->tcp = flow->tcp != NULL;
	rc = r->tcp ? off_tcp_adopt_sockets(flow->tcp, fd) : 0;
	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM,
		                      "its sockets can't be made again: %s", strerror(-rc));
	for (int i = 0; r->tcp && i < 2; i++)
		r->end[i].fd = fd[i];
	return 0;
}

static void adopt_one(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                      int (*take)(void *arg, struct l7mp_session_record *r, struct l7mp_error *err),
                      void *arg)
{
	struct l7mp_flow_owner owner;
	struct l7mp_session_record r = {.flow = flow};
	struct l7mp_flow_frame frames[2];
	struct l7mp_error err = {0};
	cJSON *texts;
	int rc = off_record_get(&e->table, flow->session, &owner, &texts);

	if (rc) {
		end_one(e, flow, NULL,
		        rc == -EPROTO ? "its session's record is of another version"
		                      : "its session's record is missing or damaged");
		return;
	}
	flow->recorded = true;
	e->table.n_records++;
	r.name = owner.session;
	r.listener = owner.listener;
	r.route = owner.route;
	r.cluster = owner.cluster;
	r.endpoint = owner.endpoint;
	r.metadata = owner.metadata;
	r.started_ms = owner.started_ms;
	r.drops = owner.drops;
	memcpy(r.slow, owner.slow, sizeof(r.slow));
	memcpy(r.fast, owner.fast, sizeof(r.fast));
	r.flow_kind = has_two(flow->verb)               ? L7MP_FLOW_SOCKET
	              : flow->verb == L7MP_VERB_REFLECT ? L7MP_FLOW_REFLECT
	                                                : L7MP_FLOW_DROP;
	if (flow->verb == L7MP_VERB_FRAME)
		set_frame_ends(flow, &r, frames);
	else
		set_ends(flow, &r);
	if (make_sockets(flow, &r, &err) || take(arg, &r, &err))
		end_one(e, flow, owner.session, err.message);
	else
		e->adoption.n_adopted++;
	for (int i = 0; i < 2; i++)
		off_tcp_close_silently(&r.end[i].fd);
	cJSON_Delete(texts);
}

/* Deletes records of sessions that have no flow. */
static void clear_records(struct l7mp_offload_engine *e)
{
	const struct l7mp_flow *flow;
	struct known {
		UT_hash_handle hh;
		uint64_t session;
	} *all = NULL, *k, *next;
	uint64_t id, *at = NULL, before = 0;
	bool complete = true;

	DL_FOREACH (e->flows, flow) {
		k = flow->recorded ? calloc(1, sizeof(*k)) : NULL;
		if (!k) {
			complete = complete && !flow->recorded;
			continue;
		}
		k->session = flow->session;
		HASH_ADD(hh, all, session, sizeof(k->session), k);
		if (!k->hh.tbl) {
			free(k);
			complete = false;
		}
	}
	while (complete && !bpf_map_get_next_key(e->table.maps.sessions, at, &id)) {
		HASH_FIND(hh, all, &id, sizeof(id), k);
		if (k) {
			before = id;
			at = &before;
		} else if (bpf_map_delete_elem(e->table.maps.sessions, &id)) {
			break;
		}
	}
	k = all;
	HASH_CLEAR(hh, all);
	for (; k; k = next) {
		next = k->hh.next;
		free(k);
	}
}

static void log_adopted(uint64_t adopted, uint64_t removed)
{
	char rest[48] = "";

	if (removed)
		snprintf(rest, sizeof(rest), ", %llu flow%s not", (unsigned long long)removed,
		         removed == 1 ? " is" : "s are");
	l7mp_log_notice(OFF_MODULE,
	                "%llu session%s in the kernel %s taken over from an earlier process%s",
	                (unsigned long long)adopted, adopted == 1 ? "" : "s",
	                adopted == 1 ? "is" : "are", rest);
}

void l7mp_offload_adopt(struct l7mp_offload_engine *e,
                        int (*take)(void *arg, struct l7mp_session_record *r,
                                    struct l7mp_error *err),
                        void *arg)
{
	struct off_adoption *a = &e->adoption;

	off_drains_go(e);
	if (!a->under_way)
		return;
	while (a->flows) {
		/*
		 * The loop doesn't run yet, so its time would not advance; there may be many flows.
		 */
		uv_update_time(l7mp_loop_uv(e->loop));
		adopt_one(e, a->flows, take, arg);
		L7MP_FAULT("adopt-one");
	}
	L7MP_FAULT("adopt-frames");
	off_frames_adopted(e);
	/* Un-splice leaving TCP flows before old programs are detached. */
	off_splices_settle(e, false);
	clear_records(e);
	L7MP_FAULT("adopt-cleared");
	a->under_way = false;
	if (e->set.start != L7MP_OFFLOAD_NO_INIT) {
		off_attach_renewed(&e->hooks);
		L7MP_FAULT("adopt-renewed");
		off_maps_renewed(&e->table.maps, e->pins.dir);
	}
	log_adopted(a->n_adopted, a->n_removed);
	off_left_end(e);
}

void off_adopt_leave(struct l7mp_offload_engine *e)
{
	struct off_adoption *a = &e->adoption;

	while (a->flows) {
		struct l7mp_flow *flow = a->flows;

		DL_DELETE(a->flows, flow);
		for (int i = 0; i < flow->n_dirs; i++)
			off_index_delete(&e->table.index, &flow->dir[i]);
		off_tcp_adopt_leave(&flow->tcp);
		free(flow);
	}
	a->under_way = false;
}

/* ---- the view ---- */

cJSON *off_adopt_json(const struct l7mp_offload_engine *e)
{
	const struct off_adoption *a = &e->adoption;
	cJSON *o = cJSON_CreateObject(), *removals = cJSON_CreateArray();
	uint64_t first = a->n_removed > SHOWN ? a->n_removed - SHOWN : 0;
	int rc = l7mp_json_add_num(o, "sessions", (double)a->n_adopted);

	rc |= l7mp_json_add_num(o, "removed", (double)a->n_removed);
	for (uint64_t i = first; i < a->n_removed; i++) {
		const struct off_removal *r = &a->removals[i % SHOWN];
		cJSON *x = cJSON_CreateObject();

		rc |= l7mp_json_add_str(x, "session", r->session);
		rc |= l7mp_json_add_str(x, "reason", r->why);
		if (!removals || !x || !cJSON_AddItemToArray(removals, x)) {
			cJSON_Delete(x);
			rc = -1;
		}
	}
	rc |= l7mp_json_add(o, "removals", removals);
	if (!rc)
		return o;
	cJSON_Delete(o);
	return NULL;
}
