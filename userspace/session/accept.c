/* SPDX-License-Identifier: MIT */
/*
 * Creates a session from an accepted stream: limits, rule look-up, allocation, the first attempts
 * to connect. A stream that no rule matches does not become a session.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "l7mp/log.h"
#include "l7mp/util.h"

/* ---- sources ---- */

/*
 * A listener on top of another one (JSONSocket) is classified by the lower one, which determines
 * whether sources can be forged.
 */
static void classify(struct l7mp_source *src)
{
	const struct l7mp_env *env = src->m->env;
	const cJSON *below, *spec = src->listener->spec;
	const struct l7mp_proto *proto;

	while ((below = l7mp_json_member(spec, "transport")))
		spec = below;
	proto = l7mp_proto_find(env, l7mp_json_str(spec, "protocol", ""));
	src->forgeable = proto && (proto->desc.flags & L7MP_PROTO_FORGEABLE);
	src->requests = src->listener->proto->flags & L7MP_PROTO_REQUESTS;
}

int l7mp_source_new(struct l7mp_sessions *m, struct l7mp_listener *listener,
                    struct l7mp_source **out)
{
	struct l7mp_source *src = calloc(1, sizeof(*src));

	if (!src)
		return -ENOMEM;
	src->m = m;
	src->listener = l7mp_object_ref(listener);
	classify(src);
	*out = src;
	return 0;
}

void l7mp_source_set_listener(struct l7mp_source *src, struct l7mp_listener *listener)
{
	struct l7mp_listener *old = src->listener;

	src->listener = l7mp_object_ref(listener);
	l7mp_object_unref(old);
	classify(src);
}

void l7mp_source_put(struct l7mp_source **pp)
{
	struct l7mp_source *src = *pp;

	*pp = NULL;
	if (!--src->refs && src->gone)
		free(src);
}

void l7mp_source_free(struct l7mp_source **pp)
{
	struct l7mp_source *src = *pp;

	if (!src)
		return;
	*pp = NULL;
	l7mp_object_unref(src->listener);
	src->listener = NULL;
	src->gone = true;
	if (!src->refs)
		free(src);
}

static void on_exhausted(void *arg, int err)
{
	struct l7mp_source *src = arg;

	src->m->env->stats->refusals[L7MP_REFUSE_DESCRIPTORS]++;
	if (l7mp_sessions_may_log(src->m))
		l7mp_log_warn(SESSION_MODULE, "listener %s: can't accept now: %s",
		              src->listener->obj.name, strerror(-err));
}

static enum l7mp_origin on_origin(void *arg, int fd, const struct l7mp_addr *remote,
                                  const struct l7mp_addr *local)
{
	struct l7mp_sessions *m = ((struct l7mp_source *)arg)->m;

	return m->watch ? m->watch->origin(m->watch_arg, fd, remote, local) : L7MP_ORIGIN_UNKNOWN;
}

/* ---- creating sessions ---- */

static void reject(struct l7mp_source *src, struct l7mp_accept *a, int status, const char *why)
{
	if (l7mp_sessions_may_log(src->m))
		l7mp_log_warn(SESSION_MODULE, "listener %s: %s is refused: %s",
		              src->listener->obj.name, a->name ? a->name : "a session", why);
	if (a->stream->ops->result)
		a->stream->ops->result(a->stream, status, why);
	l7mp_stream_close(a->stream, !a->stream->ops->result);
	free(a->name);
	cJSON_Delete(a->metadata);
}

/*
 * Sessions that begin in one loop iteration are matched one after the other. Together they have
 * EFFORT_BURST, refilled at a rate of a quarter of the CPU time; but each session gets at least the
 * effort that reasonable patterns need, however much others have used.
 */
#define EFFORT_BURST  400000 /* 1 ms to 1.4 ms */
#define EFFORT_PER_MS 100000
#define EFFORT_MIN    20000

static struct l7mp_effort effort_get(struct l7mp_sessions *m)
{
	uint64_t now = l7mp_loop_now(m->env->loop), passed = now - m->effort_ms;

	m->effort_ms = now;
	if (passed > EFFORT_BURST / EFFORT_PER_MS)
		passed = EFFORT_BURST / EFFORT_PER_MS;
	m->effort += passed * EFFORT_PER_MS;
	if (m->effort > EFFORT_BURST)
		m->effort = EFFORT_BURST;
	if (m->effort < EFFORT_MIN)
		return (struct l7mp_effort){.left = EFFORT_MIN};
	return (struct l7mp_effort){.left = m->effort < L7MP_EFFORT_MAX ? m->effort
	                                                                : L7MP_EFFORT_MAX};
}

static void effort_put(struct l7mp_sessions *m, uint64_t used)
{
	m->effort -= used < m->effort ? used : m->effort;
}

int l7mp_accept_route(struct l7mp_source *src, const struct l7mp_accept *a,
                      struct l7mp_lookup *lookup, struct l7mp_error *err)
{
	struct l7mp_effort effort = effort_get(src->m);
	uint64_t begin = effort.left;
	int rc = l7mp_rules_lookup(src->m->env->model, src->listener->rules, a->metadata, &effort,
	                           lookup, err);

	effort_put(src->m, begin - effort.left);
	switch (rc) {
	case 0:
		break;
	case -ENOENT:
		l7mp_error_set(err, rc, L7MP_ERR_NOT_FOUND, "no rule of '%s' matches",
		               src->listener->rules);
		return 404;
	case -ESRCH:
		return 502;
	case -E2BIG:
		return 503;
	default:
		return 500;
	}
	if (lookup->route)
		return 0;
	l7mp_error_set(err, -ENOENT, L7MP_ERR_NOT_FOUND, "rule '%s' has no route",
	               lookup->rule ? lookup->rule->obj.name : "?");
	l7mp_lookup_clear(lookup);
	return 404;
}

/*
 * Takes the name, which may be in use: by an ended session that is only listed, which is freed, or
 * by one that has not ended yet.
 */
static int take_name(struct l7mp_session *s, char *name)
{
	struct l7mp_session *other = l7mp_sessions_find(s->m, name);

	if (other && other->state == L7MP_SESSION_DESTROYED) {
		l7mp_session_free(other);
		other = NULL;
	}
	s->name = name;
	for (unsigned n = 2; other; n++) {
		char *longer = l7mp_asprintf("%s-%u", name, n);

		if (s->name != name)
			free(s->name);
		if (!longer) {
			s->name = name;
			return -ENOMEM;
		}
		s->name = longer;
		other = l7mp_sessions_find(s->m, longer);
	}
	if (s->name != name)
		free(name);
	HASH_ADD_KEYPTR(hh, s->m->by_name, s->name, strlen(s->name), s);
	if (!s->hh.tbl)
		return -ENOMEM;
	s->id = ++s->m->last_id;
	return 0;
}

static int64_t idle_for(const struct l7mp_listener *l, const struct l7mp_accept *a)
{
	const char *mode = l7mp_json_str(l7mp_json_member(l->spec, "options"), "mode", "");

	if (l->idle_timeout_ms >= 0)
		return l->idle_timeout_ms;
	if (a->never_idle || a->reopen || strcmp(mode, "singleton") == 0)
		return 0;
	return 1000LL * l->proto->idle_timeout;
}

static void fill(struct l7mp_session *s, struct l7mp_source *src, struct l7mp_accept *a)
{
	s->listener = l7mp_object_ref(src->listener);
	s->start_wall = l7mp_wallclock_ms();
	s->start_ms = s->active_ms = l7mp_loop_now(s->m->env->loop);
	s->idle_ms = idle_for(src->listener, a);
	if (a->reopen) {
		s->reopen = a->reopen;
		s->reopen_arg = a->reopen_arg;
		s->reopen_ended = a->ended;
	}
	if (a->rtp_clock_rate)
		(void)l7mp_session_rtp_new(s, a->rtp_clock_rate); /* without memory it has no
		                                                   * statistics */
	l7mp_session_offload_init(s);
	s->m->counts[L7MP_SESSION_INIT]++;
	l7mp_admission_add(s, a);
	s->m->env->stats->sessions_started++;
}

static void set_client(struct session_client *c, const struct l7mp_accept *a)
{
	int family = l7mp_addr_family(&a->peer);

	c->origin = (uint8_t)a->origin;
	if (a->origin == L7MP_ORIGIN_UNKNOWN || (family != AF_INET && family != AF_INET6))
		return;
	c->family = (uint8_t)family;
	c->port = l7mp_addr_port(&a->peer);
	if (family == AF_INET) {
		memcpy(c->ip, &a->peer.in.sin_addr, 4);
	} else {
		memcpy(c->ip, &a->peer.in6.sin6_addr, 16);
		c->scope = a->peer.in6.sin6_scope_id;
	}
}

void l7mp_session_client(const struct l7mp_session *s, struct l7mp_session_client *out)
{
	const struct session_client *c = &s->client;
	struct l7mp_stream *source = s->stages[0].stream;

	memset(out, 0, sizeof(*out));
	out->origin = (enum l7mp_origin)c->origin;
	if (!c->family)
		return;
	l7mp_addr_any(&out->peer, c->family, c->port);
	if (c->family == AF_INET) {
		memcpy(&out->peer.in.sin_addr, c->ip, 4);
	} else {
		memcpy(&out->peer.in6.sin6_addr, c->ip, 16);
		out->peer.in6.sin6_scope_id = c->scope;
	}
	if (!source || !source->ops->local || source->ops->local(source, &out->local))
		out->local.len = 0;
}

int l7mp_accept_make(struct l7mp_source *src, struct l7mp_accept *a, struct l7mp_lookup *lookup,
                     struct l7mp_session **out)
{
	struct l7mp_sessions *m = src->m;
	struct l7mp_session *s;

	if (2 + lookup->route->n_ingress + lookup->route->n_egress > INT16_MAX)
		return -E2BIG;
	s = l7mp_session_new(m, lookup->route);
	if (!s)
		return -ENOMEM;
	if (l7mp_session_peer_get(m, &a->peer, src->forgeable, &s->peer))
		goto fail;
	if (take_name(s, a->name)) {
		a->name = s->name;
		goto fail;
	}
	a->name = NULL;
	s->metadata = a->metadata;
	a->metadata = NULL;
	s->lookup = *lookup;
	s->source = src;
	src->refs++;
	set_client(&s->client, a);
	fill(s, src, a);
	*out = s;
	return 0;
fail:
	l7mp_session_peer_put(m, &s->peer);
	free(s);
	return -ENOMEM;
}

static void on_accept(void *arg, struct l7mp_accept *a)
{
	struct l7mp_source *src = arg;
	struct l7mp_lookup lookup = {0};
	struct l7mp_error err = {.code = L7MP_OK};
	struct l7mp_session *s;
	int status;

	if (!a->metadata)
		a->metadata = cJSON_CreateObject();
	if (!a->metadata || !a->name) {
		reject(src, a, 500, "out of memory");
		return;
	}
	if (src->m->shutting) {
		reject(src, a, 503, "the proxy is stopping");
		return;
	}
	status = l7mp_accept_route(src, a, &lookup, &err);
	if (status) {
		reject(src, a, status, err.message);
		return;
	}
	if (l7mp_admission_check_route(src, a, lookup.route)) {
		l7mp_lookup_clear(&lookup);
		reject(src, a, 503,
		       src->m->env->draining ? "the proxy is draining"
		                             : "a configured limit refuses new sessions");
		return;
	}
	if (l7mp_accept_make(src, a, &lookup, &s)) {
		l7mp_lookup_clear(&lookup);
		reject(src, a, 500, "out of memory");
		return;
	}
	l7mp_sessions_counted(s->m, L7MP_OBJ_LISTENER, s->listener->obj.name,
	                      s->listener->proto->name);
	l7mp_log_verbose(SESSION_MODULE, "%s: begins (listener %s, cluster %s)", s->name,
	                 s->listener->obj.name, s->lookup.route->destination);
	l7mp_session_begin(s, a->stream);
}

const struct l7mp_listen_events l7mp_source_events = {
        .admit = l7mp_admission_admit,
        .accept = on_accept,
        .origin = on_origin,
        .room = l7mp_admission_room,
        .exhausted = on_exhausted,
};
