/* SPDX-License-Identifier: MIT */
/*
 * Offloading of sessions. A session is relayed in user space (the slow path), or is queued for a
 * request to the offload engine, or has a flow in the kernel (the fast path), or was refused by the
 * engine with a reason, which is kept.
 *
 * The request is made in the loop iteration after a packet was relayed. Both directions are added
 * together, and removed before one of their streams is closed. The engine decides when a flow
 * starts. Before that it requests that the sockets are drained, so that packets of the flow do not
 * overtake data that is still queued there.
 *
 * A session is suspended, that is, kept on the slow path for a time, when its packets show that the
 * fast path would be wrong: see BYPASS_FIRST and FILTERED_MS.
 *
 * A pair of TCP connections lends its descriptors to the engine before the flow starts, and gets
 * descriptors back when the session leaves the kernel. Until then the session can't be closed; so
 * where another session's flow would be removed, this one's is released, and the close is
 * postponed.
 */
#include <errno.h>
#include <string.h>

#include "internal.h"

/* Requests per iteration, so that a large number of refused sessions does not block the loop. */
#define REQUESTS_PER_TURN 256
/* The maximum number of datagrams that these requests read from sockets in that iteration. */
#define DRAINED_PER_TURN 4096
/*
 * The maximum number of flows that may be starting at a time: each takes two entries of the
 * hand-over map.
 */
#define STARTING_MAX 1024
/* How often a session without a route or neighbour requests the fast path again. */
#define ROUTE_RETRY_MS 1000
/*
 * A packet that user space receives this soon after the flow has started is no evidence: it may
 * have been delayed between the program and the socket (its processor was preempted by the
 * hypervisor, say).
 */
#define HANDOVER_MS 200
/*
 * Packets that user space receives after that time while the session has a flow. There are two
 * causes. Either the flow is bypassed: it never sees the packets because NAT rewrites them before
 * the listener or a foreign tc filter takes them, and then its answers may be wrong. Or the paths
 * are mixed: the program passes some packets to user space (fragments, packets larger than the
 * MTU), and packets of the flow overtake them. In both cases the session is suspended: after
 * BYPASS_FIRST packets of a direction in which the flow has counted none at all, after BYPASS_MANY
 * if it has counted none since it was last read, and after BYPASS_MANY within BYPASS_WITHIN_MS in
 * any case.
 */
#define BYPASS_FIRST     2
#define BYPASS_MANY      8
#define BYPASS_WITHIN_MS 1000
/* Duration of a suspension: doubled each time, reset after a flow of SUSPEND_FORGET_MS. */
#define SUSPEND_MS        10000
#define SUSPENSIONS_MAX   5
#define SUSPEND_FORGET_MS 60000
/*
 * Duration of a suspension after a packet filter rejected a datagram. After that time a packet must
 * be sent before a flow is requested.
 */
#define FILTERED_MS 1000

static void set_offload(struct l7mp_session *s, enum session_offload state, enum l7mp_reason reason)
{
	/* TCP uses no entries of the hand-over map, and may be starting as long as it is idle. */
	s->m->starting -= s->offload_state == SESSION_OFFLOAD_STARTING && !s->tcp;
	s->m->starting += state == SESSION_OFFLOAD_STARTING && !s->tcp;
	s->offload_state = (uint8_t)state;
	s->offload_reason = (uint8_t)reason;
}

void l7mp_session_offload_init(struct l7mp_session *s)
{
	s->offload_disabled = !s->m->offload || s->listener->offload == L7MP_OFFLOAD_NEVER ||
	                      s->lookup.route->offload == L7MP_OFFLOAD_NEVER;
	if (s->offload_disabled)
		set_offload(s, SESSION_OFFLOAD_REFUSED, L7MP_REASON_DISABLED);
	else
		set_offload(s, SESSION_OFFLOAD_SLOW, L7MP_REASON_PENDING);
}

static void queue(struct l7mp_session *s)
{
	struct l7mp_sessions *m = s->m;

	if (!l7mp_timer_armed(&m->offload_timer))
		(void)l7mp_timer_start(m->env->loop, &m->offload_timer, 0); /* reserved */
	set_offload(s, SESSION_OFFLOAD_QUEUED, L7MP_REASON_PENDING);
	DL_APPEND(m->requests, s);
}

static void unqueue(struct l7mp_session *s)
{
	DL_DELETE(s->m->requests, s);
	s->prev = s->next = NULL;
	set_offload(s, SESSION_OFFLOAD_SLOW, L7MP_REASON_PENDING);
}

static void refuse(struct l7mp_session *s, enum l7mp_reason reason)
{
	set_offload(s, SESSION_OFFLOAD_REFUSED, reason);
	s->refused_ms = l7mp_loop_now(session_loop(s));
}

/*
 * The engine reports when a missing route or neighbour is available, but it watches only a limited
 * number of them, and each for a minute. So packets that are relayed also trigger a request.
 */
static bool route_retry_due(const struct l7mp_session *s)
{
	return (s->offload_reason == L7MP_REASON_NO_ROUTE ||
	        s->offload_reason == L7MP_REASON_NO_NEIGHBOUR) &&
	       l7mp_loop_now(session_loop(s)) - s->refused_ms >= ROUTE_RETRY_MS;
}

/*
 * Suspended by the session itself: the engine does not know the reason, so its `retry` does not end
 * that.
 */
static bool is_suspended(const struct l7mp_session *s)
{
	switch ((enum l7mp_reason)s->offload_reason) {
	case L7MP_REASON_FILTERED:
	case L7MP_REASON_BYPASSED:
	case L7MP_REASON_MIXED:
	case L7MP_REASON_TCP:
	case L7MP_REASON_TCP_MD5:
	case L7MP_REASON_TCP_BUSY:
	case L7MP_REASON_NOT_SEEN:
		return true;
	default:
		return false;
	}
}

/* A packet is relayed while the session is suspended. True: a flow may be requested again. */
static bool suspension_is_over(struct l7mp_session *s)
{
	uint64_t now = l7mp_loop_now(session_loop(s)), before = s->suspended_seen_ms;

	s->suspended_seen_ms = now;
	if (now < s->suspended_until_ms)
		return false;
	/*
	 * A filter's rejection is known only after the iteration in which the packet was sent: so
	 * one must have been sent in an earlier iteration.
	 */
	return s->offload_reason != L7MP_REASON_FILTERED ||
	       (before > s->refused_ms && before < now);
}

/* The flow is removed: keeps the session on the slow path for a time. */
static void stay_slow(struct l7mp_session *s, enum l7mp_reason reason)
{
	uint64_t now = l7mp_loop_now(session_loop(s));

	refuse(s, reason);
	if (reason == L7MP_REASON_FILTERED) {
		s->suspended_until_ms = now + FILTERED_MS;
		return;
	}
	s->suspended_until_ms = now + ((uint64_t)SUSPEND_MS << s->suspensions);
	if (s->suspensions < SUSPENSIONS_MAX)
		s->suspensions++;
}

static void forget_suspensions(struct l7mp_session *s)
{
	if (s->offload_state == SESSION_OFFLOAD_FAST &&
	    l7mp_loop_now(session_loop(s)) - s->flow_started_ms >= SUSPEND_FORGET_MS)
		s->suspensions = 0;
}

/* Removes the flow, and keeps the session on the slow path for a time. */
static void suspend(struct l7mp_session *s, enum l7mp_reason reason)
{
	forget_suspensions(s);
	l7mp_session_offload_remove(s, true);
	stay_slow(s, reason);
}

/* A new TCP session gets no flow yet: for a short one that would cost more than it saves. */
static bool is_young(const struct l7mp_session *s)
{
	const struct l7mp_offload *o = s->m->offload;

	return s->offload_reason == L7MP_REASON_TCP_YOUNG &&
	       s->slow[0].bytes + s->slow[1].bytes < o->tcp_after_bytes &&
	       l7mp_loop_now(session_loop(s)) - s->start_ms < o->tcp_after_ms;
}

/* User space received a packet although the session has a flow. */
static void relayed_despite_flow(struct l7mp_session *s, enum l7mp_direction dir)
{
	const struct l7mp_offload *o = s->m->offload;
	struct session_bypass *b = &s->bypass[dir];
	struct l7mp_flow_counters counters[2] = {{0}};
	uint64_t now = l7mp_loop_now(session_loop(s));

	if (++b->n < (b->counted ? BYPASS_MANY : BYPASS_FIRST))
		return;
	o->read(o->ctx, s->flow, true, counters);
	if (b->counted && now - b->since_ms <= BYPASS_WITHIN_MS) {
		suspend(s, L7MP_REASON_MIXED);
	} else if (counters[dir].packets == b->counted) {
		suspend(s, L7MP_REASON_BYPASSED);
	} else {
		b->n = 0;
		b->counted = counters[dir].packets;
		b->since_ms = now;
	}
}

static void note(struct l7mp_session *s);

void l7mp_session_offload_passed(struct l7mp_session *s, enum l7mp_direction dir)
{
	if (s->state != L7MP_SESSION_CONNECTED || s->m->offload_suspended)
		return;
	if (s->offload_state == SESSION_OFFLOAD_FAST && s->tcp)
		return;
	if (s->offload_state == SESSION_OFFLOAD_FAST ||
	    s->offload_state == SESSION_OFFLOAD_STARTING)
		note(s);
	if (s->offload_state == SESSION_OFFLOAD_FAST) {
		if (l7mp_loop_now(session_loop(s)) - s->flow_started_ms <= HANDOVER_MS)
			s->m->env->stats->handover_late++;
		else
			relayed_despite_flow(s, dir);
		return;
	}
	if ((s->offload_state == SESSION_OFFLOAD_SLOW && !is_young(s)) ||
	    (s->offload_state == SESSION_OFFLOAD_REFUSED &&
	     (is_suspended(s) ? suspension_is_over(s) : route_retry_due(s))))
		queue(s);
}

void l7mp_session_offload_filtered(struct l7mp_session *s)
{
	if (s->offload_disabled || s->state != L7MP_SESSION_CONNECTED)
		return;
	if (s->offload_state != SESSION_OFFLOAD_REFUSED ||
	    s->offload_reason == L7MP_REASON_FILTERED)
		suspend(s, L7MP_REASON_FILTERED);
}

void l7mp_session_offload_recheck(struct l7mp_session *s)
{
	const struct l7mp_offload *o = s->m->offload;

	if (s->flow && o->recheck)
		o->recheck(o->ctx, s->flow);
}

/* ---- requests ---- */

/* Determines the two ends of the flow. Returns 0, or the reason why that is not possible. */
static enum l7mp_reason flow_ends(struct l7mp_session *s, struct l7mp_flow_end *a,
                                  struct l7mp_flow_end *b)
{
	for (unsigned i = 1; i < s->n; i++) {
		if (i == s->dest)
			continue;
		l7mp_stream_flow(s->stages[i].stream, a);
		if (a->kind != L7MP_FLOW_PASS)
			return L7MP_REASON_TRANSFORMER;
	}
	l7mp_stream_flow(s->stages[0].stream, a);
	l7mp_stream_flow(s->stages[s->dest].stream, b);
	if (a->kind == L7MP_FLOW_NONE)
		return a->reason ? a->reason : L7MP_REASON_PROTOCOL;
	if (a->kind != L7MP_FLOW_SOCKET)
		return L7MP_REASON_PROTOCOL;
	if (b->kind == L7MP_FLOW_NONE)
		return b->reason ? b->reason : L7MP_REASON_PROTOCOL;
	if (s->rtp) {
		a->rtp = &s->rtp[L7MP_INGRESS];
		b->rtp = &s->rtp[L7MP_EGRESS];
	}
	/* At the end of the chain a pass-through stage reflects data. */
	if (b->kind == L7MP_FLOW_PASS)
		b->kind = L7MP_FLOW_REFLECT;
	return L7MP_REASON_NONE;
}

static bool is_idle(const struct l7mp_session *s)
{
	if (s->state != L7MP_SESSION_CONNECTED || s->ending || s->source_closed)
		return false;
	for (unsigned i = 0; i < s->n; i++) {
		const struct session_pipe *p = &s->pipes[i];

		/* The end of a TCP direction that was passed on is part of what the flow takes. */
		if (p->head || p->blocked || (p->end && !(s->tcp && p->shut)))
			return false;
	}
	return true;
}

/* Drains one socket. Returns false when there may be more. */
static bool drain_one(struct l7mp_session *s, unsigned i)
{
	size_t n = 1;

	/* Read until the socket is empty, but bounded, as a sender may be faster than this loop. */
	for (size_t total = 0; n && total < DRAINED_PER_TURN; total += n) {
		/* received data may end the session */
		struct l7mp_stream *stream = s->stages[i].stream;

		if (!stream || !stream->ops->drain_now)
			return true;
		n = stream->ops->drain_now(stream);
		s->m->drained += n;
	}
	return !n;
}

/* Drains the source twice, because data from the destination is sent by its socket. */
static bool drain(struct l7mp_session *s)
{
	bool empty = drain_one(s, 0);

	if (!s->dest || !s->stages[s->dest].stream || !s->stages[s->dest].stream->ops->drain_now)
		return empty;
	empty = drain_one(s, s->dest) && empty;
	return drain_one(s, 0) && empty;
}

static struct l7mp_session *session_of(uint64_t cookie)
{
	/* The session of an existing flow, passed to the engine as a number. */
	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	return (struct l7mp_session *)(uintptr_t)cookie;
}

static bool on_ready(void *arg, uint64_t cookie)
{
	struct l7mp_session *s = session_of(cookie);
	size_t before = s->m->drained;

	(void)arg;
	/*
	 * Data that was read just now was also sent just now, and packets of the flow may overtake
	 * it, as they leave by another queue.
	 */
	return drain(s) && s->m->drained == before && is_idle(s);
}

static void on_begun(void *arg, uint64_t cookie, bool late)
{
	struct l7mp_session *s = session_of(cookie);

	(void)arg;
	set_offload(s, SESSION_OFFLOAD_FAST, L7MP_REASON_NONE);
	s->flow_started_ms = l7mp_loop_now(session_loop(s));
	memset(s->bypass, 0, sizeof(s->bypass));
	/* It has relayed since the request, but not any more. */
	if (s->tcp)
		note(s);
	if (late)
		(void)drain(s);
}

static void owner_of(const struct l7mp_session *s, struct l7mp_flow_owner *out)
{
	const struct session_stage *dest = &s->stages[s->dest];

	*out = (struct l7mp_flow_owner){
	        .cookie = (uint64_t)(uintptr_t)s,
	        .session = s->name,
	        .listener = s->listener->obj.name,
	        .route = s->lookup.route->obj.name,
	        .cluster = dest->cluster,
	        .endpoint = dest->endpoint ? dest->endpoint->obj.name : NULL,
	        .started_ms = s->start_wall,
	        .metadata = s->metadata,
	        .drops = s->drops,
	};
	memcpy(out->slow, s->slow, sizeof(out->slow));
	memcpy(out->fast, s->fast, sizeof(out->fast));
}

/*
 * Updates the flow's owner record, so that a successor process continues with the present counters
 * of the slow path; they rarely change while the flow carries packets.
 */
static void note(struct l7mp_session *s)
{
	const struct l7mp_offload *o = s->m->offload;
	struct l7mp_flow_owner owner;

	if (!o->note)
		return;
	owner_of(s, &owner);
	o->note(o->ctx, s->flow, &owner);
}

static void start_flow(struct l7mp_session *s, const struct l7mp_flow_end *a,
                       const struct l7mp_flow_end *b)
{
	const struct l7mp_offload *o = s->m->offload;
	struct l7mp_flow_owner owner;
	int rc;

	owner_of(s, &owner);
	memset(s->fast_read, 0, sizeof(s->fast_read));
	rc = o->add(o->ctx, a, b, &owner, &s->flow);
	if (!rc && s->flow) {
		set_offload(s, SESSION_OFFLOAD_STARTING, L7MP_REASON_PENDING);
		return;
	}
	s->flow = NULL;
	refuse(s, rc > 0 && rc < L7MP_REASON_COUNT ? (enum l7mp_reason)rc : L7MP_REASON_KERNEL);
}

/* Queued data does not matter yet: it is delivered before `lend`. */
static void request_tcp(struct l7mp_session *s, const struct l7mp_flow_end *a,
                        const struct l7mp_flow_end *b)
{
	bool ended = s->pipes[0].end && s->pipes[s->dest].end;

	if (s->offload_reason == L7MP_REASON_PENDING)
		set_offload(s, SESSION_OFFLOAD_SLOW, L7MP_REASON_TCP_YOUNG);
	if (ended)
		refuse(s, L7MP_REASON_TCP_CLOSING);
	else if (!is_young(s))
		start_flow(s, a, b);
}

static void request_flow(struct l7mp_session *s)
{
	struct l7mp_flow_end a, b;
	enum l7mp_reason reason;

	if (s->state != L7MP_SESSION_CONNECTED || s->ending || s->source_closed ||
	    s->m->offload_suspended)
		return;
	reason = flow_ends(s, &a, &b);
	s->tcp = !reason && a.l4 == IPPROTO_TCP && b.l4 == IPPROTO_TCP;
	if (s->tcp) {
		request_tcp(s, &a, &b);
		return;
	}
	/* Packets of a flow would overtake queued data: let the next packet request it again. */
	if (!is_idle(s))
		return;
	/* No event follows when this changes: let the next packet request it again. */
	if (reason == L7MP_REASON_NOT_ESTABLISHED) {
		set_offload(s, SESSION_OFFLOAD_SLOW, reason);
		return;
	}
	if (reason != L7MP_REASON_NONE) {
		refuse(s, reason);
		return;
	}
	start_flow(s, &a, &b);
}

static void request_some(struct l7mp_timer *timer, void *arg)
{
	struct l7mp_sessions *m = arg;

	m->drained = 0;
	for (unsigned i = 0; m->requests && i < REQUESTS_PER_TURN &&
	                     m->drained < DRAINED_PER_TURN && m->starting < STARTING_MAX;
	     i++) {
		struct l7mp_session *s = m->requests;

		unqueue(s);
		request_flow(s);
	}
	if (m->requests)
		(void)l7mp_timer_start(m->env->loop, timer, m->starting < STARTING_MAX ? 0 : 1);
}

/* ---- counters ---- */

/* Reports the packets of the fast path to transformers that only count. */
static void notify_transformers(struct l7mp_session *s, unsigned from, unsigned to,
                                uint64_t packets, uint64_t bytes)
{
	for (unsigned i = from; i < to; i++) {
		struct l7mp_stream *stream = s->stages[i].stream;

		if (stream && stream->ops->passed)
			stream->ops->passed(stream, packets, bytes);
	}
}

static void take_counters(struct l7mp_session *s, const struct l7mp_flow_counters now[2])
{
	for (int dir = 0; dir < 2; dir++) {
		uint64_t packets = now[dir].packets - s->fast_read[dir].packets;
		uint64_t bytes = now[dir].bytes - s->fast_read[dir].bytes;

		s->fast_read[dir].packets = now[dir].packets;
		s->fast_read[dir].bytes = now[dir].bytes;
		if (now[dir].last_seen_ms > s->fast_seen[dir])
			s->fast_seen[dir] = now[dir].last_seen_ms;
		if (s->fast_seen[dir] > s->active_ms)
			s->active_ms = s->fast_seen[dir];
		if (!packets && !bytes)
			continue;
		s->m->env->stats->fast_packets[dir] += packets;
		s->m->env->stats->fast_bytes[dir] += bytes;
		/* The destination is counted in the ingress direction. */
		if (dir == L7MP_INGRESS)
			notify_transformers(s, 1, s->dest + 1U, packets, bytes);
		else
			notify_transformers(s, s->dest + 1U, s->n, packets, bytes);
	}
}

/* The flow was removed: its counters are added to those of the session. */
static void add_final_counters(struct l7mp_session *s, const struct l7mp_flow_counters final[2])
{
	take_counters(s, final);
	for (int dir = 0; dir < 2; dir++) {
		s->fast[dir].packets += final[dir].packets;
		s->fast[dir].bytes += final[dir].bytes;
	}
	memset(s->fast_read, 0, sizeof(s->fast_read));
	s->flow = NULL;
}

void l7mp_session_offload_sync(struct l7mp_session *s, bool fresh)
{
	const struct l7mp_offload *o = s->m->offload;
	struct l7mp_flow_counters now[2] = {{0}};

	if (!s->flow)
		return;
	o->read(o->ctx, s->flow, fresh, now);
	take_counters(s, now);
}

void l7mp_session_sync(struct l7mp_session *s)
{
	l7mp_session_offload_sync(s, false);
}

/* The flow for which the session had stopped reading was removed. */
static void end_hold(struct l7mp_session *s)
{
	if (!s->held)
		return;
	s->held = false;
	l7mp_session_flow_control(s);
}

void l7mp_session_offload_remove(struct l7mp_session *s, bool again)
{
	const struct l7mp_offload *o = s->m->offload;
	struct l7mp_flow_counters final[2] = {{0}};

	if (s->offload_state == SESSION_OFFLOAD_QUEUED)
		unqueue(s);
	if (s->lent) {
		o->release(o->ctx, s->flow, false);
		return;
	}
	if (s->flow) {
		o->remove(o->ctx, &s->flow, final);
		add_final_counters(s, final);
	}
	end_hold(s);
	if (!s->offload_disabled && (again || s->offload_state == SESSION_OFFLOAD_FAST ||
	                             s->offload_state == SESSION_OFFLOAD_STARTING))
		set_offload(s, SESSION_OFFLOAD_SLOW, L7MP_REASON_PENDING);
}

void l7mp_session_offload_abort(struct l7mp_session *s)
{
	const struct l7mp_offload *o = s->m->offload;

	if (s->lent)
		o->release(o->ctx, s->flow, true);
}

void l7mp_session_fast(const struct l7mp_session *s, struct l7mp_session_count out[2],
                       uint64_t last_seen[2])
{
	const struct l7mp_offload *o = s->m->offload;
	struct l7mp_flow_counters now[2] = {{0}};

	if (s->flow)
		o->read(o->ctx, s->flow, true, now); /* show the present values of the map */
	for (int dir = 0; dir < 2; dir++) {
		out[dir].packets = s->fast[dir].packets + now[dir].packets;
		out[dir].bytes = s->fast[dir].bytes + now[dir].bytes;
		last_seen[dir] = now[dir].last_seen_ms > s->fast_seen[dir] ? now[dir].last_seen_ms
		                                                           : s->fast_seen[dir];
	}
}

/*
 * Whether a flow is equivalent to the present stages, as the transformers may have changed. Returns
 * NONE or a reason. The sockets are not checked: they open in the next iteration.
 */
static enum l7mp_reason flow_fits(struct l7mp_session *s, enum l7mp_flow_kind kind)
{
	struct l7mp_flow_end end;

	for (unsigned i = 1; i < s->n; i++) {
		if (i == s->dest && kind == L7MP_FLOW_SOCKET)
			continue;
		l7mp_stream_flow(s->stages[i].stream, &end);
		if (i == s->dest && end.kind == L7MP_FLOW_PASS)
			end.kind = L7MP_FLOW_REFLECT;
		if (end.kind != (i == s->dest ? kind : L7MP_FLOW_PASS))
			return L7MP_REASON_TRANSFORMER;
	}
	return L7MP_REASON_NONE;
}

/* The descriptors of both connections; false: neither. */
static bool lend_both(struct l7mp_session *s, struct l7mp_flow_socket at[2])
{
	struct l7mp_stream *a = s->stages[0].stream, *b = s->stages[s->dest].stream;

	if (!a || !b || !a->ops->lend || !b->ops->lend)
		return false;
	if (a->ops->lend(a, &at[0]))
		return false;
	if (b->ops->lend(b, &at[1])) {
		a->ops->give_back(a, &(struct l7mp_flow_socket){.fd = at[0].fd, .mss = at[0].mss});
		return false;
	}
	s->lent = true;
	return true;
}

int l7mp_session_offload_take(struct l7mp_session *s, const struct l7mp_session_record *r)
{
	const struct l7mp_offload *o = s->m->offload;
	struct l7mp_flow *flow = r->flow;
	struct l7mp_flow_counters now[2] = {{0}};
	struct l7mp_flow_end ends[2];
	bool frames = r->end[0].frame != NULL;
	enum l7mp_reason unfit = s->offload_disabled ? L7MP_REASON_DISABLED
	                         : frames            ? flow_ends(s, &ends[0], &ends[1])
	                                             : flow_fits(s, r->flow_kind);
	struct l7mp_flow_socket at[2] = {{.fd = -1}, {.fd = -1}};
	int rc;

	if (r->tcp && !lend_both(s, at))
		return -ENOTCONN;
	s->tcp = r->tcp;
	s->flow = flow;
	o->read(o->ctx, flow, true, now);
	for (int dir = 0; dir < 2; dir++) {
		/*
		 * These packets were counted by the earlier process, or are lost to the statistics.
		 */
		s->fast_read[dir].packets = now[dir].packets;
		s->fast_read[dir].bytes = now[dir].bytes;
		s->fast_seen[dir] = now[dir].last_seen_ms;
	}
	rc = o->own(o->ctx, flow, (uint64_t)(uintptr_t)s, (const int[]){at[0].fd, at[1].fd}, s->rtp,
	            frames && !unfit ? ends : NULL);
	if (unfit && !s->lent)
		rc = (int)unfit;
	if (rc == L7MP_REASON_PENDING) {
		set_offload(s, SESSION_OFFLOAD_STARTING, L7MP_REASON_PENDING);
	} else if (!rc) {
		set_offload(s, SESSION_OFFLOAD_FAST, L7MP_REASON_NONE);
		s->flow_started_ms = l7mp_loop_now(session_loop(s));
	} else {
		struct l7mp_flow_counters final[2] = {{0}};

		o->remove(o->ctx, &s->flow, final);
		add_final_counters(s, final);
		refuse(s, (enum l7mp_reason)rc);
	}
	if (unfit && s->lent)
		o->release(o->ctx, flow, false);
	return 0;
}

/* ---- events of the engine ---- */

static void on_withdrawn(void *arg, uint64_t cookie, enum l7mp_reason reason,
                         const struct l7mp_flow_counters final[2])
{
	struct l7mp_session *s = session_of(cookie);

	(void)arg;
	add_final_counters(s, final);
	refuse(s, reason);
	end_hold(s);
}

/* ---- TCP: lending and returning descriptors ---- */

static void on_hold(void *arg, uint64_t cookie, bool on)
{
	struct l7mp_session *s = session_of(cookie);

	(void)arg;
	s->held = on;
	l7mp_session_flow_control(s);
}

static bool on_lend(void *arg, uint64_t cookie, struct l7mp_flow_socket at[2])
{
	struct l7mp_session *s = session_of(cookie);

	(void)arg;
	return is_idle(s) && lend_both(s, at);
}

static void give_back(struct l7mp_session *s, const struct l7mp_flow_socket back[2])
{
	struct l7mp_stream *a = s->stages[0].stream, *b = s->stages[s->dest].stream;

	a->ops->give_back(a, &back[0]);
	b->ops->give_back(b, &back[1]);
}

static void on_returned(void *arg, uint64_t cookie, const struct l7mp_flow_socket back[2],
                        enum l7mp_reason reason, const struct l7mp_flow_counters final[2])
{
	struct l7mp_session *s = session_of(cookie);

	(void)arg;
	forget_suspensions(s);
	add_final_counters(s, final);
	/*
	 * Pending: the engine has requested retries when the change began. This session returned
	 * later, so it makes its own request.
	 */
	if (s->offload_disabled)
		refuse(s, L7MP_REASON_DISABLED);
	else if (!reason || reason == L7MP_REASON_PENDING)
		set_offload(s, SESSION_OFFLOAD_SLOW, L7MP_REASON_TCP_YOUNG);
	else
		refuse(s, reason);
	if (is_suspended(s))
		stay_slow(s, reason);
	if (!s->lent) {
		end_hold(s);
		return;
	}
	s->lent = s->held = false;
	give_back(s, back);
	s->active_ms = l7mp_loop_now(session_loop(s));
	l7mp_session_unlent(s);
}

static void on_over(void *arg, uint64_t cookie, bool reset,
                    const struct l7mp_flow_counters final[2])
{
	const struct l7mp_flow_socket none[2] = {{.fd = -1}, {.fd = -1}};
	struct l7mp_session *s = session_of(cookie);
	struct l7mp_error err;

	(void)arg;
	add_final_counters(s, final);
	set_offload(s, SESSION_OFFLOAD_REFUSED, L7MP_REASON_TCP_CLOSING);
	s->lent = s->held = false;
	give_back(s, none);
	l7mp_error_set(&err, -ECONNRESET, L7MP_ERR_UPSTREAM, "connection reset");
	if (reset)
		l7mp_session_finish(s, &err, true, "connection reset");
	else
		l7mp_session_finish(s, NULL, false, "end of stream");
	l7mp_session_unlent(s);
}

static void retry_some(struct l7mp_slice *slice, void *arg)
{
	struct l7mp_sessions *m = arg;
	struct l7mp_session *s;

	while ((s = l7mp_cursor_next(&m->retry_walk))) {
		if (((s->offload_state == SESSION_OFFLOAD_REFUSED && !is_suspended(s)) ||
		     s->offload_reason == L7MP_REASON_NOT_ESTABLISHED) &&
		    !s->offload_disabled && s->state == L7MP_SESSION_CONNECTED)
			queue(s);
		if (l7mp_slice_over(m->env->loop)) {
			l7mp_slice_post(m->env->loop, slice);
			return;
		}
	}
}

/*
 * Something has changed, so that refused sessions may be accepted: all of them request again, in
 * slices.
 */
static void on_retry(void *arg)
{
	struct l7mp_sessions *m = arg;

	l7mp_cursor_close(&m->retry_walk);
	l7mp_cursor_open(&m->retry_walk, m);
	l7mp_slice_post(m->env->loop, &m->retry_slice);
}

static const struct l7mp_offload_events offload_events = {
        .withdrawn = on_withdrawn,
        .retry = on_retry,
        .ready = on_ready,
        .begun = on_begun,
        .hold = on_hold,
        .lend = on_lend,
        .returned = on_returned,
        .over = on_over,
};

int l7mp_sessions_offload_init(struct l7mp_sessions *m)
{
	int rc;

	l7mp_timer_init(&m->offload_timer, request_some, m);
	l7mp_slice_init(&m->retry_slice, retry_some, m);
	rc = l7mp_timer_reserve(m->env->loop, &m->offload_timer);
	if (rc) {
		l7mp_timer_give_back(m->env->loop, &m->offload_timer);
		return rc;
	}
	if (m->offload && m->offload->subscribe)
		m->offload->subscribe(m->offload->ctx, &offload_events, m);
	return 0;
}

void l7mp_sessions_offload_free(struct l7mp_sessions *m)
{
	l7mp_timer_give_back(m->env->loop, &m->offload_timer);
	l7mp_slice_cancel(m->env->loop, &m->retry_slice);
	l7mp_cursor_close(&m->retry_walk);
}
