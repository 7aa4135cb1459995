/* SPDX-License-Identifier: MIT */
/*
 * Offloading of sessions. A session's packets are relayed in user space, or it is queued for a
 * request to the offload engine, or it has a flow in the kernel, or the engine refused with a
 * reason, which is kept.
 *
 * The request is made in the turn after a packet has passed. Both directions are added together,
 * and removed before one of their streams is closed. A flow begins when the engine says so; before
 * that it has us empty the sockets, so that nothing that waits there is overtaken.
 */
#include <string.h>

#include "internal.h"

/* Requests per turn, so that a large number of refused sessions does not occupy the loop. */
#define VERDICTS_PER_TURN 256
/* Datagrams that they may read from sockets in that turn. */
#define DRAINED_PER_TURN 4096
/*
 * The most flows that may be beginning at a time: half of the places that the hand-over has, as
 * each needs two.
 */
#define BEGINNING_MAX 1024
/* How often a session without a route or neighbour requests the fast path again. */
#define ROUTE_RETRY_MS 1000
/*
 * What comes up so soon after a flow has begun may have been overtaken: its processor was taken
 * away (by other virtual machines, say) between the program and the socket. Or the program had a
 * doubt about it.
 */
#define LATE_MS 200
/*
 * Packets that come up beside a flow, after that. The flow never sees what NAT rewrites before the
 * listener or what a foreign tc filter takes: then nothing is counted by it while packets come up,
 * and its answers may be wrong. And packets that a program always passes up (fragments, those
 * larger than the MTU) are overtaken by those that the flow carries. In both cases the session
 * leaves the kernel: after FIRST packets of a direction in which the flow has not counted any,
 * after MANY if it has counted none meanwhile, and after MANY within WITHIN_MS in any case.
 */
#define BESIDE_FIRST     2
#define BESIDE_MANY      8
#define BESIDE_WITHIN_MS 1000
/* How long it stays out then: twice as long each time, unless a flow lasted FORGET. */
#define HOLD_MS        10000
#define HOLDS_MAX      5
#define HOLD_FORGET_MS 60000
/* After a refused send: and then a packet has to leave before a flow is asked for. */
#define FILTERED_MS 1000

static void set(struct l7mp_session *s, enum session_off state, enum l7mp_reason reason)
{
	s->m->beginning -= s->off_state == SESSION_OFF_BEGINS;
	s->m->beginning += state == SESSION_OFF_BEGINS;
	s->off_state = (uint8_t)state;
	s->off_reason = (uint8_t)reason;
}

void l7mp_session_offload_init(struct l7mp_session *s)
{
	s->off_never = !s->m->offload || s->listener->offload == L7MP_OFFLOAD_NEVER ||
	               s->lookup.route->offload == L7MP_OFFLOAD_NEVER;
	if (s->off_never)
		set(s, SESSION_OFF_REFUSED, L7MP_REASON_DISABLED);
	else
		set(s, SESSION_OFF_SLOW, L7MP_REASON_PENDING);
}

static void queue(struct l7mp_session *s)
{
	struct l7mp_sessions *m = s->m;

	if (!l7mp_timer_armed(&m->verdict_timer))
		(void)l7mp_timer_start(m->env->loop, &m->verdict_timer, 0); /* reserved */
	set(s, SESSION_OFF_QUEUED, L7MP_REASON_PENDING);
	DL_APPEND(m->verdicts, s);
}

static void unqueue(struct l7mp_session *s)
{
	DL_DELETE(s->m->verdicts, s);
	s->prev = s->next = NULL;
	set(s, SESSION_OFF_SLOW, L7MP_REASON_PENDING);
}

static void refuse(struct l7mp_session *s, enum l7mp_reason reason)
{
	set(s, SESSION_OFF_REFUSED, reason);
	s->off_refused_ms = l7mp_loop_now(session_loop(s));
}

/*
 * The engine reports when a route or neighbour is available again, but only for a limited number of
 * failed ones, and for a minute each. So packets that are sent also trigger a request.
 */
static bool may_have_route(const struct l7mp_session *s)
{
	return (s->off_reason == L7MP_REASON_NO_ROUTE ||
	        s->off_reason == L7MP_REASON_NO_NEIGHBOUR) &&
	       l7mp_loop_now(session_loop(s)) - s->off_refused_ms >= ROUTE_RETRY_MS;
}

/* Refused for what the session itself saw: nothing that the engine can know of ends that. */
static bool by_session(const struct l7mp_session *s)
{
	return s->off_reason == L7MP_REASON_FILTERED || s->off_reason == L7MP_REASON_BYPASSED ||
	       s->off_reason == L7MP_REASON_MIXED;
}

/* A packet passes while it is refused for that: may it be asked again? */
static bool hold_is_over(struct l7mp_session *s)
{
	uint64_t now = l7mp_loop_now(session_loop(s)), before = s->off_passed_ms;

	s->off_passed_ms = now;
	if (now < s->off_until_ms)
		return false;
	/* The loss of an earlier turn's packet would be known by now; this one's is not. */
	return s->off_reason != L7MP_REASON_FILTERED ||
	       (before > s->off_refused_ms && before < now);
}

/* Out of the kernel, for what was seen; the next packets take user space, all of them. */
static void stay_out(struct l7mp_session *s, enum l7mp_reason reason)
{
	uint64_t now = l7mp_loop_now(session_loop(s));

	if (s->off_state == SESSION_OFF_FAST && now - s->off_begun_ms >= HOLD_FORGET_MS)
		s->off_holds = 0;
	l7mp_session_offload_remove(s, true);
	refuse(s, reason);
	if (reason == L7MP_REASON_FILTERED) {
		s->off_until_ms = now + FILTERED_MS;
		return;
	}
	s->off_until_ms = now + ((uint64_t)HOLD_MS << s->off_holds);
	if (s->off_holds < HOLDS_MAX)
		s->off_holds++;
}

/* A packet came up beside the flow. */
static void came_beside(struct l7mp_session *s, enum l7mp_direction dir)
{
	const struct l7mp_offload *o = s->m->offload;
	struct session_beside *b = &s->beside[dir];
	struct l7mp_flow_counters counters[2] = {{0}};
	uint64_t now = l7mp_loop_now(session_loop(s));

	if (++b->n < (b->seen ? BESIDE_MANY : BESIDE_FIRST))
		return;
	o->read(o->ctx, s->flow, true, counters);
	if (b->seen && now - b->since_ms <= BESIDE_WITHIN_MS) {
		stay_out(s, L7MP_REASON_MIXED);
	} else if (counters[dir].packets == b->seen) {
		stay_out(s, L7MP_REASON_BYPASSED);
	} else {
		b->n = 0;
		b->seen = counters[dir].packets;
		b->since_ms = now;
	}
}

void l7mp_session_offload_passed(struct l7mp_session *s, enum l7mp_direction dir)
{
	if (s->state != L7MP_SESSION_CONNECTED)
		return;
	if (s->off_state == SESSION_OFF_FAST) {
		if (l7mp_loop_now(session_loop(s)) - s->off_begun_ms <= LATE_MS)
			s->m->env->stats->handover_late++;
		else
			came_beside(s, dir);
		return;
	}
	if (s->off_state == SESSION_OFF_SLOW ||
	    (s->off_state == SESSION_OFF_REFUSED &&
	     (by_session(s) ? hold_is_over(s) : may_have_route(s))))
		queue(s);
}

void l7mp_session_offload_filtered(struct l7mp_session *s)
{
	if (s->off_never || s->state != L7MP_SESSION_CONNECTED)
		return;
	if (s->off_state != SESSION_OFF_REFUSED || s->off_reason == L7MP_REASON_FILTERED)
		stay_out(s, L7MP_REASON_FILTERED);
}

void l7mp_session_offload_recheck(struct l7mp_session *s)
{
	const struct l7mp_offload *o = s->m->offload;

	if (s->flow && o->recheck)
		o->recheck(o->ctx, s->flow);
}

static void settle(struct l7mp_session *s, const struct l7mp_flow_counters final[2]);

/* ---- the ends ---- */

/* Determines the two ends of the flow. Returns 0, or the reason why there is none. */
static enum l7mp_reason ends(struct l7mp_session *s, struct l7mp_flow_end *a,
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
	/* At the end of the chain, a stage that passes everything on reflects it. */
	if (b->kind == L7MP_FLOW_PASS)
		b->kind = L7MP_FLOW_REFLECT;
	return L7MP_REASON_NONE;
}

static bool quiet(const struct l7mp_session *s)
{
	if (s->state != L7MP_SESSION_CONNECTED || s->ending || s->source_gone)
		return false;
	for (unsigned i = 0; i < s->n; i++)
		if (s->pipes[i].head || s->pipes[i].blocked || s->pipes[i].end)
			return false;
	return true;
}

/* Empties one socket. Returns false when there may be more. */
static bool drain_one(struct l7mp_session *s, unsigned i)
{
	size_t n = 1;

	/* Until the socket is empty, but bounded, as a sender may be faster than this loop. */
	for (size_t total = 0; n && total < DRAINED_PER_TURN; total += n) {
		/* what was received may end the session */
		struct l7mp_stream *stream = s->stages[i].stream;

		if (!stream || !stream->ops->drain_now)
			return true;
		n = stream->ops->drain_now(stream);
		s->m->drained += n;
	}
	return !n;
}

/* The source again at the end, because its socket sends what the destination answered. */
static bool drain(struct l7mp_session *s)
{
	bool empty = drain_one(s, 0);

	if (!s->dest || !s->stages[s->dest].stream || !s->stages[s->dest].stream->ops->drain_now)
		return empty;
	empty = drain_one(s, s->dest) && empty;
	return drain_one(s, 0) && empty;
}

static struct l7mp_session *of_cookie(uint64_t cookie)
{
	/* NOLINTNEXTLINE(performance-no-int-to-ptr): our own, of a flow that is still there */
	return (struct l7mp_session *)(uintptr_t)cookie;
}

static bool on_ready(void *arg, uint64_t cookie)
{
	struct l7mp_session *s = of_cookie(cookie);
	size_t before = s->m->drained;

	(void)arg;
	/*
	 * Packets that were just sent may wait in another queue than those of the flow, and be
	 * overtaken.
	 */
	return drain(s) && s->m->drained == before && quiet(s);
}

static void on_begun(void *arg, uint64_t cookie, bool late)
{
	struct l7mp_session *s = of_cookie(cookie);

	(void)arg;
	set(s, SESSION_OFF_FAST, L7MP_REASON_NONE);
	s->off_begun_ms = l7mp_loop_now(session_loop(s));
	memset(s->beside, 0, sizeof(s->beside));
	if (late)
		(void)drain(s);
}

static void start_flow(struct l7mp_session *s, const struct l7mp_flow_end *a,
                       const struct l7mp_flow_end *b)
{
	const struct l7mp_offload *o = s->m->offload;
	const struct session_stage *dest = &s->stages[s->dest];
	const struct l7mp_flow_owner owner = {
	        .cookie = (uint64_t)(uintptr_t)s,
	        .session = s->name,
	        .listener = s->listener->obj.name,
	        .route = s->lookup.route->obj.name,
	        .cluster = dest->cluster,
	        .endpoint = dest->endpoint ? dest->endpoint->obj.name : NULL,
	        .started_ms = s->start_wall,
	};
	int rc;

	memset(s->fast_read, 0, sizeof(s->fast_read));
	rc = o->add(o->ctx, a, b, &owner, &s->flow);
	if (!rc && s->flow) {
		set(s, SESSION_OFF_BEGINS, L7MP_REASON_PENDING);
		return;
	}
	s->flow = NULL;
	refuse(s, rc > 0 && rc < L7MP_REASON_COUNT ? (enum l7mp_reason)rc : L7MP_REASON_KERNEL);
}

static void decide(struct l7mp_session *s)
{
	struct l7mp_flow_end a, b;
	enum l7mp_reason reason;

	/* Queued data would be overtaken: the next packet requests it again. */
	if (!quiet(s))
		return;
	reason = ends(s, &a, &b);
	/* No event follows when this changes: the next packet requests it again. */
	if (reason == L7MP_REASON_NOT_ESTABLISHED) {
		set(s, SESSION_OFF_SLOW, reason);
		return;
	}
	if (reason != L7MP_REASON_NONE) {
		refuse(s, reason);
		return;
	}
	start_flow(s, &a, &b);
}

void l7mp_session_verdicts(struct l7mp_timer *timer, void *arg)
{
	struct l7mp_sessions *m = arg;

	m->drained = 0;
	for (unsigned i = 0; m->verdicts && i < VERDICTS_PER_TURN &&
	                     m->drained < DRAINED_PER_TURN && m->beginning < BEGINNING_MAX;
	     i++) {
		struct l7mp_session *s = m->verdicts;

		unqueue(s);
		decide(s);
	}
	if (m->verdicts)
		(void)l7mp_timer_start(m->env->loop, timer, m->beginning < BEGINNING_MAX ? 0 : 1);
}

/* ---- counters ---- */

/* Reports to transformers that only count what passed them in the kernel. */
static void tell_passed(struct l7mp_session *s, unsigned from, unsigned to, uint64_t packets,
                        uint64_t bytes)
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
		if (!packets)
			continue;
		s->m->env->stats->fast_packets[dir] += packets;
		s->m->env->stats->fast_bytes[dir] += bytes;
		/* The destination counts in the ingress direction. */
		if (dir == L7MP_INGRESS)
			tell_passed(s, 1, s->dest + 1U, packets, bytes);
		else
			tell_passed(s, s->dest + 1U, s->n, packets, bytes);
	}
}

/* The flow was removed: its counters are added to those of the session. */
static void settle(struct l7mp_session *s, const struct l7mp_flow_counters final[2])
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

void l7mp_session_offload_remove(struct l7mp_session *s, bool again)
{
	const struct l7mp_offload *o = s->m->offload;
	struct l7mp_flow_counters final[2] = {{0}};

	if (s->off_state == SESSION_OFF_QUEUED)
		unqueue(s);
	if (s->flow) {
		o->remove(o->ctx, &s->flow, final);
		settle(s, final);
	}
	if (!s->off_never &&
	    (again || s->off_state == SESSION_OFF_FAST || s->off_state == SESSION_OFF_BEGINS))
		set(s, SESSION_OFF_SLOW, L7MP_REASON_PENDING);
}

void l7mp_session_fast(const struct l7mp_session *s, struct session_count out[2],
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

/* ---- events of the engine ---- */

static void on_withdrawn(void *arg, uint64_t cookie, enum l7mp_reason reason,
                         const struct l7mp_flow_counters final[2])
{
	struct l7mp_session *s = of_cookie(cookie);

	(void)arg;
	settle(s, final);
	refuse(s, reason);
}

void l7mp_session_retry_some(struct l7mp_slice *slice, void *arg)
{
	struct l7mp_sessions *m = arg;
	struct l7mp_session *s;

	while ((s = l7mp_cursor_next(&m->retry_walk))) {
		if (((s->off_state == SESSION_OFF_REFUSED && !by_session(s)) ||
		     s->off_reason == L7MP_REASON_NOT_ESTABLISHED) &&
		    !s->off_never && s->state == L7MP_SESSION_CONNECTED)
			queue(s);
		if (l7mp_slice_over(m->env->loop)) {
			l7mp_slice_post(m->env->loop, slice);
			return;
		}
	}
}

/*
 * Something changed, so that refused sessions may be accepted: all of them request again, in
 * slices.
 */
static void on_retry(void *arg)
{
	struct l7mp_sessions *m = arg;

	l7mp_cursor_close(&m->retry_walk);
	l7mp_cursor_open(&m->retry_walk, m);
	l7mp_slice_post(m->env->loop, &m->retry_slice);
}

const struct l7mp_offload_events l7mp_session_offload_events = {
        .withdrawn = on_withdrawn,
        .retry = on_retry,
        .ready = on_ready,
        .begun = on_begun,
};
