/* SPDX-License-Identifier: MIT */
/*
 * Whether there is room for one more session, and which session ends when there is none.
 *
 * The address of a datagram may be forged, so a session that one datagram began proves nothing:
 *
 *   UNANSWERED  nothing has been sent to the source yet
 *   ANSWERED    something has, but nothing has come from the source since
 *   PROVEN      the source has sent again after an answer; connections are proven from the start
 *
 * Where room is short, the oldest unanswered session ends, else the oldest that is only answered; a
 * proven one never ends for a newcomer. Sessions that are not proven are in lists by age, one pair
 * for each limit that counts them, so that the victim is found without a search. What the fast path
 * has carried is asked for when a session is about to be the victim: each answer from the kernel
 * moves a session at most twice.
 *
 * A tenth of each limit is kept for requests to the operator's clusters (REST API, metrics). That a
 * request is one is known when its rule is found: until then it is admitted up to the whole limit,
 * and afterwards judged again.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "internal.h"
#include "l7mp/util.h"

/* What sessions that are not the operator's may use of a limit. */
static uint64_t share(uint64_t limit)
{
	return limit - limit / 10;
}

static bool for_operator(const struct l7mp_sessions *m, const struct l7mp_route *route)
{
	const struct l7mp_cluster *c =
	        l7mp_model_find(m->env->model, L7MP_OBJ_CLUSTER, route->destination);

	return c && (c->proto->flags & L7MP_PROTO_OPERATOR);
}

/* ---- lists of sessions that are not proven ---- */

/* Name, events, entries in tables: measured, beside the block of the session. */
#define SESSION_COST 1200

#define LIST(s, room) (&(room)->unproven[(s)->proof == SESSION_ANSWERED])

static void list_add(struct l7mp_session *s)
{
	DL_APPEND2(*LIST(s, &s->m->room), s, links[SESSION_SCOPE_ALL].prev,
	           links[SESSION_SCOPE_ALL].next);
	DL_APPEND2(*LIST(s, &s->source->room), s, links[SESSION_SCOPE_LISTENER].prev,
	           links[SESSION_SCOPE_LISTENER].next);
	if (s->peer)
		DL_APPEND2(*LIST(s, &s->peer->room), s, links[SESSION_SCOPE_PEER].prev,
		           links[SESSION_SCOPE_PEER].next);
}

static void list_remove(struct l7mp_session *s)
{
	if (s->proof == SESSION_PROVEN)
		return;
	DL_DELETE2(*LIST(s, &s->m->room), s, links[SESSION_SCOPE_ALL].prev,
	           links[SESSION_SCOPE_ALL].next);
	DL_DELETE2(*LIST(s, &s->source->room), s, links[SESSION_SCOPE_LISTENER].prev,
	           links[SESSION_SCOPE_LISTENER].next);
	if (s->peer)
		DL_DELETE2(*LIST(s, &s->peer->room), s, links[SESSION_SCOPE_PEER].prev,
		           links[SESSION_SCOPE_PEER].next);
}

static void set_proof(struct l7mp_session *s, enum session_proof proof)
{
	list_remove(s);
	s->proof = (uint8_t)proof;
	if (proof != SESSION_PROVEN)
		list_add(s);
}

void l7mp_room_answered(struct l7mp_session *s)
{
	if (s->proof != SESSION_UNANSWERED || s->ending)
		return;
	s->proof_packets = s->fast_read[L7MP_INGRESS].packets + s->fast[L7MP_INGRESS].packets;
	set_proof(s, SESSION_ANSWERED);
}

void l7mp_room_heard(struct l7mp_session *s)
{
	if (s->proof == SESSION_ANSWERED && !s->ending)
		set_proof(s, SESSION_PROVEN);
}

/* True when the fast path has seen what makes s more than it was taken for. */
static bool reconsidered(struct l7mp_session *s)
{
	struct session_count fast[2];
	uint64_t seen[2];

	if (!s->flow)
		return false;
	l7mp_session_fast(s, fast, seen);
	if (s->proof == SESSION_UNANSWERED && fast[L7MP_EGRESS].packets) {
		s->proof_packets = fast[L7MP_INGRESS].packets;
		set_proof(s, SESSION_ANSWERED);
		return true;
	}
	if (s->proof == SESSION_ANSWERED && fast[L7MP_INGRESS].packets > s->proof_packets) {
		set_proof(s, SESSION_PROVEN);
		return true;
	}
	return false;
}

static struct l7mp_session *victim_of(const struct session_room *room)
{
	struct l7mp_session *s;

	for (int i = 0; i < 2; i++)
		while ((s = room->unproven[i]))
			if (!reconsidered(s))
				return s;
	return NULL;
}

/* ---- room ---- */

static void end_victim(struct l7mp_session *s, enum l7mp_refuse why)
{
	bool unanswered = s->proof == SESSION_UNANSWERED;

	set_proof(s, SESSION_PROVEN); /* out of all lists */
	s->leaving = true;
	s->m->room.leaving++;
	s->source->room.leaving++;
	if (s->peer)
		s->peer->room.leaving++;
	s->m->env->stats->evictions[why]++;
	l7mp_session_finish(s, NULL, true, "ended to make room (%s): %s", l7mp_refuse_name(why),
	                    unanswered ? "the source was never answered"
	                               : "nothing came from the source after the answer");
}

/*
 * Sessions take a moment to end. So many may be about to that their places are given away already;
 * more would mean that ends are slower than newcomers.
 */
static bool may_evict(const struct session_room *room)
{
	return room->leaving < 1024 + room->live / 10;
}

/*
 * Setting sessions up for an attack's datagrams, and ending others for them, must not take the time
 * of those that run: so many a millisecond, for each listener; the rest is refused, which is cheap.
 */
#define EVICTIONS_PER_MS 8

static bool has_turn(struct l7mp_source *src)
{
	uint64_t now = l7mp_loop_now(src->m->env->loop);

	if (!src->forgeable)
		return true;
	if (src->evicted_ms != now) {
		src->evicted_ms = now;
		src->evicted = 0;
	}
	return src->evicted++ < EVICTIONS_PER_MS;
}

/* Who ends for a newcomer of src; NULL: nobody. */
static struct l7mp_session *victim_for(struct l7mp_source *src, const struct session_room *room)
{
	return may_evict(room) && has_turn(src) ? victim_of(room) : NULL;
}

static bool fits(const struct session_room *room, uint64_t limit, bool whole)
{
	size_t live = room->live - room->leaving;

	return live < limit && (whole || live - room->operators < share(limit));
}

/* Is there room for one more, perhaps after another has gone? */
static bool has_room(struct l7mp_source *src, struct session_room *room, uint64_t limit, bool whole,
                     enum l7mp_refuse why)
{
	struct l7mp_session *victim;

	if (fits(room, limit, whole))
		return true;
	victim = victim_for(src, room);
	if (!victim)
		return false;
	end_victim(victim, why);
	return fits(room, limit, whole);
}

/*
 * Descriptors are given out from the lowest free number: one above a bound means that all below it
 * are in use. Those who may be forged get less than others, and others less than the operator:
 * nobody takes the next one's part, however many come within a turn of the loop.
 */
static bool has_descriptors(struct l7mp_source *src, bool whole)
{
	struct l7mp_sessions *m = src->m;
	struct l7mp_session *victim;
	struct rlimit limit;
	uint64_t bound, step, n;
	bool ended = false;
	int fd;

	if (m->probe_fd < 0 || getrlimit(RLIMIT_NOFILE, &limit))
		return true;
	fd = fcntl(m->probe_fd, F_DUPFD_CLOEXEC, 0);
	if (fd >= 0)
		close(fd);
	step = limit.rlim_cur / 20;
	bound = whole ? limit.rlim_cur : share(limit.rlim_cur) - (src->forgeable ? step : 0);
	if (fd >= 0 && (uint64_t)fd < bound)
		return true;
	/*
	 * Victims close theirs at the end of this turn: enough of them for what may come in the
	 * next one, and one for each that is admitted meanwhile.
	 */
	if (!has_turn(src))
		return false;
	n = m->room.leaving < step ? step - m->room.leaving : 1;
	while (n-- && may_evict(&m->room) && (victim = victim_of(&m->room))) {
		end_victim(victim, L7MP_REFUSE_DESCRIPTORS);
		ended = true;
	}
	return ended && fd >= 0 && (uint64_t)fd < bound + step;
}

/*
 * A newcomer is admitted while there is memory for it. Victims give theirs back within this turn
 * of the loop; as with descriptors, who may be forged gets less than others.
 */
static bool has_memory(struct l7mp_source *src, bool whole)
{
	struct l7mp_sessions *m = src->m;
	uint64_t max = m->env->limits->max_memory, used = l7mp_memory_used(m->env);
	uint64_t step = max / 20, bound;
	struct l7mp_session *victim;

	bound = whole ? max : share(max) - (src->forgeable ? step : 0);
	if (!max || used < bound)
		return true;
	victim = victim_for(src, &m->room);
	if (!victim)
		return false;
	end_victim(victim, L7MP_REFUSE_MAX_MEMORY);
	return used < bound + step;
}

/* Token bucket: a second's worth of sessions at once, refilled evenly. */
static void refill(struct l7mp_source *src, uint64_t rate)
{
	uint64_t now = l7mp_loop_now(src->m->env->loop);
	uint64_t passed = now - src->tokens_ms;

	src->tokens_ms = now;
	if (passed > 1000)
		passed = 1000;
	src->tokens += passed * rate;
	if (src->tokens > rate * 1000)
		src->tokens = rate * 1000;
}

/* `gone`: tokens that the session itself has taken already. */
static bool rate_allows(const struct l7mp_source *src, uint64_t rate, bool whole, uint64_t gone)
{
	uint64_t kept = whole || !src->requests ? 0 : rate / 10 * 1000;

	return src->tokens + gone >= 1000 + kept;
}

static int refuse(struct l7mp_sessions *m, enum l7mp_refuse why)
{
	m->env->stats->refusals[why]++;
	return -EBUSY;
}

/* The limits but for the rate. `whole`: the operator's share may be used, too. */
static int judge(struct l7mp_source *src, struct session_peer *peer, bool whole)
{
	struct l7mp_sessions *m = src->m;
	const struct l7mp_limits *limits = m->env->limits;
	uint32_t own = src->listener->max_sessions;

	if (peer && !has_room(src, &peer->room, limits->max_sessions_per_source, whole,
	                      L7MP_REFUSE_MAX_SESSIONS_PER_SOURCE))
		return refuse(m, L7MP_REFUSE_MAX_SESSIONS_PER_SOURCE);
	if (own &&
	    !has_room(src, &src->room, own, whole || !src->requests, L7MP_REFUSE_LISTENER_SESSIONS))
		return refuse(m, L7MP_REFUSE_LISTENER_SESSIONS);
	if (!has_room(src, &m->room, limits->max_sessions, whole, L7MP_REFUSE_MAX_SESSIONS))
		return refuse(m, L7MP_REFUSE_MAX_SESSIONS);
	if (!has_memory(src, whole))
		return refuse(m, L7MP_REFUSE_MAX_MEMORY);
	if (!has_descriptors(src, whole))
		return refuse(m, L7MP_REFUSE_DESCRIPTORS);
	return 0;
}

int l7mp_room_admit(void *arg, const struct l7mp_addr *addr)
{
	struct l7mp_source *src = arg;
	struct l7mp_sessions *m = src->m;
	const struct l7mp_listener *l = src->listener;
	uint64_t rate = m->env->limits->new_sessions_per_second;
	struct session_peer *peer;
	int rc;

	if (m->shutting)
		return -EBUSY;
	if (l->range.len && addr && addr->len && !l7mp_addr_in_net(addr, &l->range, l->range_bits))
		return refuse(m, L7MP_REFUSE_RANGE);
	refill(src, rate);
	if (!rate_allows(src, rate, true, 0))
		return refuse(m, L7MP_REFUSE_NEW_SESSIONS_PER_SECOND);
	peer = addr ? l7mp_session_peer_find(m, addr, src->forgeable) : NULL;
	rc = judge(src, peer, src->requests);
	if (!rc)
		src->tokens -= 1000;
	return rc;
}

int l7mp_room_judge_again(struct l7mp_source *src, const struct l7mp_accept *a,
                          const struct l7mp_route *route)
{
	struct l7mp_sessions *m = src->m;
	uint64_t rate = m->env->limits->new_sessions_per_second;

	if (!src->requests || for_operator(m, route))
		return 0;
	if (!rate_allows(src, rate, false, 1000))
		return refuse(m, L7MP_REFUSE_NEW_SESSIONS_PER_SECOND);
	return judge(src, l7mp_session_peer_find(m, &a->peer, src->forgeable), false);
}

/* A tree's nodes with their texts, as the allocator hands them out. */
static size_t tree_cost(const cJSON *node)
{
	size_t sum = 0;

	for (; node; node = node->next) {
		sum += sizeof(*node) + 16;
		sum += node->string ? strlen(node->string) + 24 : 0;
		sum += node->valuestring ? strlen(node->valuestring) + 24 : 0;
		sum += tree_cost(node->child);
	}
	return sum;
}

/* What a session takes beside buffers. Clusters count at what they say. */
static size_t cost_of(const struct l7mp_session *s)
{
	size_t sum = sizeof(*s) + s->n * (sizeof(s->stages[0]) + sizeof(s->pipes[0]));

	sum += SESSION_COST + s->listener->proto->cost;
	for (unsigned i = 1; i < s->n; i++) {
		const struct l7mp_cluster *c =
		        l7mp_model_find(s->m->env->model, L7MP_OBJ_CLUSTER, s->stages[i].cluster);

		sum += c ? c->proto->cost : 0;
	}
	return sum + tree_cost(s->metadata);
}

void l7mp_room_enter(struct l7mp_session *s, const struct l7mp_accept *a)
{
	struct l7mp_source *src = s->source;

	s->m->room.live++;
	src->room.live++;
	s->cost = (uint32_t)cost_of(s);
	l7mp_buf_pool_charge(l7mp_loop_bufs(s->m->env->loop), (ptrdiff_t)s->cost);
	s->operators = src->requests && for_operator(s->m, s->lookup.route);
	s->m->room.operators += s->operators;
	src->room.operators += s->operators;
	if (s->peer)
		s->peer->room.operators += s->operators;
	s->proof = SESSION_PROVEN;
	if (src->forgeable && !a->never_idle && !a->reopen)
		set_proof(s, SESSION_UNANSWERED);
}

void l7mp_room_leave(struct l7mp_session *s)
{
	set_proof(s, SESSION_PROVEN);
	s->m->room.live--;
	s->source->room.live--;
	s->m->room.operators -= s->operators;
	s->source->room.operators -= s->operators;
	s->m->room.leaving -= s->leaving;
	s->source->room.leaving -= s->leaving;
	if (s->peer) {
		s->peer->room.operators -= s->operators;
		s->peer->room.leaving -= s->leaving;
	}
	l7mp_session_peer_put(s->m, &s->peer);
}

int l7mp_room_probe_new(void)
{
	return eventfd(0, EFD_CLOEXEC);
}
