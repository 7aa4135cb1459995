/* SPDX-License-Identifier: MIT */
/*
 * Admission control: whether a new session may begin, and which session is evicted for it when a
 * limit is reached.
 *
 * The source address of a datagram may be forged, so a session that began with a datagram has to be
 * proven:
 *
 *   UNANSWERED  nothing has been sent to the source yet
 *   ANSWERED    something was sent, but nothing was received from the source since
 *   PROVEN      the source has sent again after an answer; connections are proven initially
 *
 * When a limit is reached, the oldest unanswered session is evicted, else the oldest answered one;
 * a proven one never. Sessions that are not proven are in lists by age, one pair for each limit
 * that counts them, so that the victim is found without a search. The fast path's counters are read
 * only when a session is about to be evicted; so a session changes its list at most twice.
 *
 * A tenth of each limit is reserved for requests to the operator's clusters (REST API, metrics).
 * Whether a request is one is known when its rule has been found: until then it is admitted up to
 * the whole limit, and afterwards the limits are checked again.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "internal.h"
#include "l7mp/util.h"

/* The part of a limit that is not reserved for the operator (nine tenths). */
static uint64_t unreserved(uint64_t limit)
{
	return limit - limit / 10;
}

static bool for_operator(const struct l7mp_sessions *m, const struct l7mp_route *route)
{
	const struct l7mp_cluster *c =
	        l7mp_model_find(m->env->model, L7MP_OBJ_CLUSTER, route->destination);

	return c && (c->proto->flags & L7MP_PROTO_OPERATOR);
}

/* Rule lists already visited, as they may apply each other. */
struct walk {
	const struct l7mp_rulelist *seen[L7MP_APPLY_DEPTH];
	size_t n;
};

static bool list_reaches(const struct l7mp_sessions *m, const char *name, struct walk *w)
{
	const struct l7mp_model *model = m->env->model;
	const struct l7mp_rulelist *list = l7mp_model_find(model, L7MP_OBJ_RULELIST, name);

	for (size_t i = 0; i < w->n; i++)
		if (w->seen[i] == list)
			return false;
	if (!list)
		return false;
	if (w->n == L7MP_APPLY_DEPTH)
		return true; /* unknown without evaluating the rule: assume yes */
	w->seen[w->n++] = list;
	for (size_t i = 0; i < list->n_rules; i++) {
		const struct l7mp_rule *rule =
		        l7mp_model_find(model, L7MP_OBJ_RULE, list->rules[i]);
		const struct l7mp_route *route =
		        rule && rule->route ? l7mp_model_find(model, L7MP_OBJ_ROUTE, rule->route)
		                            : NULL;

		if ((route && for_operator(m, route)) ||
		    (rule && rule->apply && list_reaches(m, rule->apply, w)))
			return true;
	}
	return false;
}

bool l7mp_admission_serves_operator(const struct l7mp_source *src)
{
	struct walk w = {.n = 0};

	return src->requests && list_reaches(src->m, src->listener->rules, &w);
}

/* ---- sessions per source address ---- */

/* The key is an IPv4 address, or an IPv6 /64 prefix. */
static bool peer_key(const struct l7mp_addr *addr, bool forgeable, uint8_t key[static 10])
{
	memset(key, 0, 10);
	key[0] = (uint8_t)l7mp_addr_family(addr);
	key[1] = forgeable;
	switch (l7mp_addr_family(addr)) {
	case AF_INET:
		memcpy(key + 2, &addr->in.sin_addr, 4);
		return true;
	case AF_INET6:
		memcpy(key + 2, &addr->in6.sin6_addr, 8);
		return true;
	default:
		return false;
	}
}

static struct session_peer *peer_find(struct l7mp_sessions *m, const struct l7mp_addr *addr,
                                      bool forgeable)
{
	struct session_peer *p = NULL;
	uint8_t key[sizeof(p->key)];

	if (peer_key(addr, forgeable, key))
		HASH_FIND(hh, m->peers, key, sizeof(key), p);
	return p;
}

int l7mp_session_peer_get(struct l7mp_sessions *m, const struct l7mp_addr *addr, bool forgeable,
                          struct session_peer **out)
{
	struct session_peer *p;
	uint8_t key[sizeof(p->key)];

	*out = NULL;
	if (!peer_key(addr, forgeable, key))
		return 0;
	HASH_FIND(hh, m->peers, key, sizeof(key), p);
	if (!p) {
		p = calloc(1, sizeof(*p));
		if (!p)
			return -ENOMEM;
		memcpy(p->key, key, sizeof(key));
		HASH_ADD(hh, m->peers, key, sizeof(p->key), p);
		if (!p->hh.tbl) {
			free(p);
			return -ENOMEM;
		}
	}
	p->usage.live++;
	*out = p;
	return 0;
}

void l7mp_session_peer_put(struct l7mp_sessions *m, struct session_peer **pp)
{
	struct session_peer *p = *pp;

	*pp = NULL;
	if (!p || --p->usage.live)
		return;
	HASH_DEL(m->peers, p);
	free(p);
}

/* ---- lists of unproven sessions ---- */

/*
 * Memory for the name, events and table entries, in addition to the session's own block: measured.
 */
#define SESSION_COST 1200

#define LIST(s, usage) (&(usage)->unproven[(s)->proof == SESSION_ANSWERED])

static void list_add(struct l7mp_session *s)
{
	DL_APPEND2(*LIST(s, &s->m->usage), s, links[SESSION_SCOPE_ALL].prev,
	           links[SESSION_SCOPE_ALL].next);
	DL_APPEND2(*LIST(s, &s->source->usage), s, links[SESSION_SCOPE_LISTENER].prev,
	           links[SESSION_SCOPE_LISTENER].next);
	if (s->peer)
		DL_APPEND2(*LIST(s, &s->peer->usage), s, links[SESSION_SCOPE_PEER].prev,
		           links[SESSION_SCOPE_PEER].next);
}

static void list_remove(struct l7mp_session *s)
{
	if (s->proof == SESSION_PROVEN)
		return;
	DL_DELETE2(*LIST(s, &s->m->usage), s, links[SESSION_SCOPE_ALL].prev,
	           links[SESSION_SCOPE_ALL].next);
	DL_DELETE2(*LIST(s, &s->source->usage), s, links[SESSION_SCOPE_LISTENER].prev,
	           links[SESSION_SCOPE_LISTENER].next);
	if (s->peer)
		DL_DELETE2(*LIST(s, &s->peer->usage), s, links[SESSION_SCOPE_PEER].prev,
		           links[SESSION_SCOPE_PEER].next);
}

static void set_proof(struct l7mp_session *s, enum session_proof proof)
{
	list_remove(s);
	s->proof = (uint8_t)proof;
	if (proof != SESSION_PROVEN)
		list_add(s);
}

void l7mp_admission_answered(struct l7mp_session *s)
{
	if (s->proof != SESSION_UNANSWERED || s->ending)
		return;
	s->proof_packets = s->fast_read[L7MP_INGRESS].packets + s->fast[L7MP_INGRESS].packets;
	set_proof(s, SESSION_ANSWERED);
}

void l7mp_admission_received(struct l7mp_session *s)
{
	if (s->proof == SESSION_ANSWERED && !s->ending)
		set_proof(s, SESSION_PROVEN);
}

/*
 * Reads the flow's counters. Returns true when they prove more than was known; s has then changed
 * its list.
 */
static bool fast_path_proves(struct l7mp_session *s)
{
	struct l7mp_session_count fast[2];
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

static struct l7mp_session *find_victim(const struct session_usage *usage)
{
	struct l7mp_session *s;

	for (int i = 0; i < 2; i++)
		while ((s = usage->unproven[i]))
			if (!fast_path_proves(s))
				return s;
	return NULL;
}

/* ---- eviction ---- */

static void evict(struct l7mp_session *s, enum l7mp_refuse why)
{
	bool unanswered = s->proof == SESSION_UNANSWERED;

	set_proof(s, SESSION_PROVEN); /* removes it from all lists */
	s->evicted = true;
	s->m->usage.evicting++;
	s->source->usage.evicting++;
	if (s->peer)
		s->peer->usage.evicting++;
	s->m->env->stats->evictions[why]++;
	l7mp_session_finish(s, NULL, true, "ended to make room (%s): %s", l7mp_refuse_name(why),
	                    unanswered ? "the source was never answered"
	                               : "nothing came from the source after the answer");
}

/*
 * Evicted sessions take a moment to end, but their places are reassigned at once. This bounds the
 * number of ending ones: beyond it sessions begin faster than they end.
 */
static bool may_evict(const struct session_usage *usage)
{
	return usage->evicting < 1024 + usage->live / 10;
}

/*
 * Creating sessions for an attacker's datagrams, and ending others for them, must not use up the
 * time of established sessions: each listener may evict this many per millisecond; the rest is
 * refused, which is cheap.
 */
#define EVICTIONS_PER_MS 8

static bool may_evict_now(struct l7mp_source *src)
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

/* Returns the session to evict for a new one of src; NULL: none. */
static struct l7mp_session *victim_for(struct l7mp_source *src, const struct session_usage *usage)
{
	return may_evict(usage) && may_evict_now(src) ? find_victim(usage) : NULL;
}

static bool fits(const struct session_usage *usage, uint64_t limit, bool reserve)
{
	size_t live = usage->live - usage->evicting;

	return live < limit && (reserve || live - usage->operators < unreserved(limit));
}

/* Returns true when the limit allows one more session, after evicting one if necessary. */
static bool make_room(struct l7mp_source *src, struct session_usage *usage, uint64_t limit,
                      bool reserve, enum l7mp_refuse why)
{
	struct l7mp_session *victim;

	if (fits(usage, limit, reserve))
		return true;
	victim = victim_for(src, usage);
	if (!victim)
		return false;
	evict(victim, why);
	return fits(usage, limit, reserve);
}

/*
 * The kernel allocates the lowest free descriptor, so a descriptor above a bound means that all
 * below it are in use. Listeners whose sources may be forged have a lower bound than others, and
 * those a lower one than the operator; so none uses up the next one's share, however many sessions
 * begin in one loop iteration.
 */
static bool has_descriptors(struct l7mp_source *src, bool reserve)
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
	bound = reserve ? limit.rlim_cur : unreserved(limit.rlim_cur) - (src->forgeable ? step : 0);
	if (fd >= 0 && (uint64_t)fd < bound)
		return true;
	/*
	 * Evicted sessions close their descriptors at the end of this iteration: evict enough for
	 * the sessions that may begin in the next one, and one for each that is admitted meanwhile.
	 */
	if (!may_evict_now(src))
		return false;
	n = m->usage.evicting < step ? step - m->usage.evicting : 1;
	while (n-- && may_evict(&m->usage) && (victim = find_victim(&m->usage))) {
		evict(victim, L7MP_REFUSE_DESCRIPTORS);
		ended = true;
	}
	return ended && fd >= 0 && (uint64_t)fd < bound + step;
}

/*
 * Checks the memory limit. Evicted sessions free their memory within this loop iteration; as with
 * descriptors, listeners whose sources may be forged have a lower bound.
 */
static bool has_memory(struct l7mp_source *src, bool reserve)
{
	struct l7mp_sessions *m = src->m;
	uint64_t max = m->env->limits->max_memory, used = l7mp_memory_used(m->env);
	uint64_t step = max / 20, bound;
	struct l7mp_session *victim;

	bound = reserve ? max : unreserved(max) - (src->forgeable ? step : 0);
	if (!max || used < bound)
		return true;
	victim = victim_for(src, &m->usage);
	if (!victim)
		return false;
	evict(victim, L7MP_REFUSE_MAX_MEMORY);
	return used < bound + step;
}

/* Token bucket: its size is one second's worth of sessions. */
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

/* `taken`: tokens that were already taken for this session. */
static bool rate_allows(const struct l7mp_source *src, uint64_t rate, bool reserve, uint64_t taken)
{
	uint64_t kept = reserve || !src->requests ? 0 : rate / 10 * 1000;

	return src->tokens + taken >= 1000 + kept;
}

static int refuse(struct l7mp_sessions *m, enum l7mp_refuse why)
{
	m->env->stats->refusals[why]++;
	return -EBUSY;
}

/* Checks all limits except the rate. `reserve`: may use the operator's reserve. */
static int check_limits(struct l7mp_source *src, struct session_peer *peer, bool reserve)
{
	struct l7mp_sessions *m = src->m;
	const struct l7mp_limits *limits = m->env->limits;
	uint32_t own = src->listener->max_sessions;

	if (peer && !make_room(src, &peer->usage, limits->max_sessions_per_source, reserve,
	                       L7MP_REFUSE_MAX_SESSIONS_PER_SOURCE))
		return refuse(m, L7MP_REFUSE_MAX_SESSIONS_PER_SOURCE);
	if (own && !make_room(src, &src->usage, own, reserve || !src->requests,
	                      L7MP_REFUSE_LISTENER_SESSIONS))
		return refuse(m, L7MP_REFUSE_LISTENER_SESSIONS);
	if (!make_room(src, &m->usage, limits->max_sessions, reserve, L7MP_REFUSE_MAX_SESSIONS))
		return refuse(m, L7MP_REFUSE_MAX_SESSIONS);
	if (!has_memory(src, reserve))
		return refuse(m, L7MP_REFUSE_MAX_MEMORY);
	if (!has_descriptors(src, reserve))
		return refuse(m, L7MP_REFUSE_DESCRIPTORS);
	return 0;
}

int l7mp_admission_admit(void *arg, const struct l7mp_addr *addr)
{
	struct l7mp_source *src = arg;
	struct l7mp_sessions *m = src->m;
	const struct l7mp_listener *l = src->listener;
	uint64_t rate = m->env->limits->new_sessions_per_second;
	struct session_peer *peer;
	int rc;

	if (m->shutting)
		return -EBUSY;
	/*
	 * For a listener with requests to operator clusters this is checked after the rule look-up.
	 */
	if (m->env->draining && !src->requests)
		return refuse(m, L7MP_REFUSE_DRAINING);
	if (l->range.len && addr && addr->len && !l7mp_addr_in_net(addr, &l->range, l->range_bits))
		return refuse(m, L7MP_REFUSE_RANGE);
	refill(src, rate);
	if (!rate_allows(src, rate, true, 0))
		return refuse(m, L7MP_REFUSE_NEW_SESSIONS_PER_SECOND);
	peer = addr ? peer_find(m, addr, src->forgeable) : NULL;
	rc = check_limits(src, peer, src->requests);
	if (!rc)
		src->tokens -= 1000;
	return rc;
}

/*
 * Without this check, connections that send nothing could take all descriptors: they have no
 * session yet that would be refused.
 */
bool l7mp_admission_room(void *arg, int fd)
{
	struct l7mp_source *src = arg;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) || (uint64_t)fd < unreserved(limit.rlim_cur))
		return true;
	return has_descriptors(src, l7mp_admission_serves_operator(src));
}

int l7mp_admission_check_restored(struct l7mp_source *src, const struct l7mp_addr *peer)
{
	struct l7mp_sessions *m = src->m;

	return m->shutting ? -EBUSY
	                   : check_limits(src, peer_find(m, peer, src->forgeable), src->requests);
}

void l7mp_admission_proven(struct l7mp_session *s)
{
	if (s->proof != SESSION_PROVEN && !s->ending)
		set_proof(s, SESSION_PROVEN);
}

int l7mp_admission_check_route(struct l7mp_source *src, const struct l7mp_accept *a,
                               const struct l7mp_route *route)
{
	struct l7mp_sessions *m = src->m;
	uint64_t rate = m->env->limits->new_sessions_per_second;

	if (!src->requests || for_operator(m, route))
		return 0;
	if (m->env->draining && (src->stays || m->drain_over))
		return refuse(m, L7MP_REFUSE_DRAINING);
	if (!rate_allows(src, rate, false, 1000))
		return refuse(m, L7MP_REFUSE_NEW_SESSIONS_PER_SECOND);
	return check_limits(src, peer_find(m, &a->peer, src->forgeable), false);
}

/* Returns the memory of a tree's nodes and strings, with the allocator's overhead. */
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

/* Returns the memory of a session without buffers; its protocols state what their streams need. */
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

void l7mp_admission_add(struct l7mp_session *s, const struct l7mp_accept *a)
{
	struct l7mp_source *src = s->source;

	s->m->usage.live++;
	src->usage.live++;
	s->cost = (uint32_t)cost_of(s);
	l7mp_buf_pool_charge(l7mp_loop_bufs(s->m->env->loop), (ptrdiff_t)s->cost);
	s->operators = src->requests && for_operator(s->m, s->lookup.route);
	s->m->usage.operators += s->operators;
	src->usage.operators += s->operators;
	if (s->peer)
		s->peer->usage.operators += s->operators;
	s->proof = SESSION_PROVEN;
	if (src->forgeable && !a->never_idle && !a->reopen)
		set_proof(s, SESSION_UNANSWERED);
}

void l7mp_admission_remove(struct l7mp_session *s)
{
	set_proof(s, SESSION_PROVEN);
	s->m->usage.live--;
	s->source->usage.live--;
	s->m->usage.operators -= s->operators;
	s->source->usage.operators -= s->operators;
	s->m->usage.evicting -= s->evicted;
	s->source->usage.evicting -= s->evicted;
	if (s->peer) {
		s->peer->usage.operators -= s->operators;
		s->peer->usage.evicting -= s->evicted;
	}
	l7mp_session_peer_put(s->m, &s->peer);
}
