/* SPDX-License-Identifier: MIT */
/*
 * Restoring sessions of a previous process: after a crash from records in the kernel's maps, at an
 * upgrade from the data sent by that process. The listener's protocol creates the source's stream,
 * the cluster's protocol the destination's; transformers are created again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "l7mp/log.h"
#include "l7mp/runtime.h"
#include "l7mp/util.h"

/* ---- checks ---- */

/* Restores the source, with its metadata as of the time when the session was accepted. */
static int restore_source(struct l7mp_proto_listener *l, struct l7mp_session_record *r,
                          struct l7mp_accept *a, struct l7mp_error *err)
{
	int rc;

	if (!l->proto->restore)
		return l7mp_error_set(err, -ENOTSUP, L7MP_ERR_UPSTREAM,
		                      "sessions of protocol %s can't go on", l->proto->desc.name);
	rc = l->proto->restore(l, r->name, &r->end[0], a, err);
	if (rc)
		return rc;
	a->origin = r->origin;
	if (!a->metadata && r->metadata)
		a->metadata = cJSON_Duplicate(r->metadata, true);
	if (a->metadata)
		return 0;
	return l7mp_error_set(err, -ENOTSUP, L7MP_ERR_UPSTREAM, "its metadata are not known");
}

static int find_route(struct l7mp_source *src, const struct l7mp_accept *a,
                      struct l7mp_lookup *lookup, struct l7mp_error *err)
{
	if (l7mp_accept_route(src, a, lookup, err))
		return -EPERM;
	if (!l7mp_admission_check_restored(src, &a->peer))
		return 0;
	l7mp_lookup_clear(lookup);
	return l7mp_error_set(err, -EBUSY, L7MP_ERR_LIMIT, "a configured limit refuses it");
}

/* ---- creating the session ---- */

/* Restores the metadata of the session. The current rules only determine the route. */
static int set_accept(const struct l7mp_session_record *r, struct l7mp_accept *a)
{
	cJSON *metadata = r->metadata ? cJSON_Duplicate(r->metadata, true) : NULL;

	a->name = strdup(r->name);
	if (!a->name || (r->metadata && !metadata)) {
		cJSON_Delete(metadata);
		return -ENOMEM;
	}
	if (metadata) {
		cJSON_Delete(a->metadata);
		a->metadata = metadata;
	}
	return 0;
}

static void set_past(struct l7mp_session *s, const struct l7mp_session_record *r)
{
	uint64_t wall = l7mp_wallclock_ms(), now = l7mp_loop_now(session_loop(s));
	uint64_t age = wall > r->started_ms ? wall - r->started_ms : 0;

	s->start_wall = r->started_ms;
	s->start_ms = now > age ? now - age : 0;
	s->drops = r->drops;
	memcpy(s->slow, r->slow, sizeof(s->slow));
	memcpy(s->fast, r->fast, sizeof(s->fast));
}

/* A source that has sent again after an answer is proven (admission.c). */
static void prove(struct l7mp_session *s)
{
	struct l7mp_session_count fast[2];
	uint64_t seen[2];

	l7mp_session_fast(s, fast, seen);
	if (s->slow[L7MP_EGRESS].packets + fast[L7MP_EGRESS].packets &&
	    s->slow[L7MP_INGRESS].packets + fast[L7MP_INGRESS].packets > 1)
		l7mp_admission_proven(s);
}

/* Takes the flow last: on an earlier failure it is still the caller's. */
static int begin(struct l7mp_session *s, struct l7mp_stream *source, struct l7mp_session_record *r,
                 struct l7mp_error *err)
{
	struct session_restore restore = {.record = r, .err = {.code = L7MP_OK}};

	set_past(s, r);
	l7mp_log_verbose(SESSION_MODULE, "%s: goes on (listener %s, cluster %s)", s->name,
	                 s->listener->obj.name, s->lookup.route->destination);
	s->restore = &restore;
	l7mp_session_begin(s, source);
	s->restore = NULL;
	if (s->ending) {
		*err = restore.err;
		return restore.rc ? restore.rc : -ECONNABORTED;
	}
	if (r->flow && l7mp_session_offload_take(s, r)) {
		l7mp_error_set(err, -ECONNABORTED, L7MP_ERR_UPSTREAM, "a connection has failed");
		l7mp_session_finish(s, err, true, "%s", err->message);
		return -ECONNABORTED;
	}
	r->flow = NULL;
	prove(s);
	return 0;
}

/* No session is made of it. */
static void drop_source(const struct l7mp_accept *a)
{
	l7mp_stream_close(a->stream, true);
	if (a->ended)
		a->ended(a->reopen_arg);
}

static int make(struct l7mp_source *src, struct l7mp_accept *a, struct l7mp_session_record *r,
                struct l7mp_session **out, struct l7mp_error *err)
{
	struct l7mp_lookup lookup = {0};
	struct l7mp_stream *stream = a->stream;
	struct l7mp_session *s = NULL;
	int rc = find_route(src, a, &lookup, err);

	if (!rc && (set_accept(r, a) || l7mp_accept_make(src, a, &lookup, &s))) {
		l7mp_lookup_clear(&lookup);
		rc = l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	if (rc) {
		a->stream = stream;
		drop_source(a);
		return rc;
	}
	rc = begin(s, stream, r, err);
	if (!rc && out)
		*out = s;
	return rc;
}

int l7mp_session_restore(struct l7mp_runtime *rt, struct l7mp_session_record *r,
                         struct l7mp_session **out, struct l7mp_error *err)
{
	struct l7mp_accept a = {.name = NULL};
	struct l7mp_proto_listener *l;
	const struct l7mp_session *other;
	struct l7mp_source *src;
	int rc;

	l7mp_error_set(err, 0, L7MP_OK, "%s", "");
	l = l7mp_runtime_listener(rt, r->listener, &src);
	if (!l)
		return l7mp_error_set(err, -ENOENT, L7MP_ERR_NOT_FOUND, "there is no listener '%s'",
		                      r->listener);
	other = l7mp_sessions_find(src->m, r->name);
	if (other && other->state != L7MP_SESSION_DESTROYED)
		return l7mp_error_set(err, -EEXIST, L7MP_ERR_UPSTREAM,
		                      "another session has its name");
	rc = restore_source(l, r, &a, err);
	if (!rc)
		rc = make(src, &a, r, out, err);
	else if (a.stream)
		drop_source(&a);
	free(a.name);
	cJSON_Delete(a.metadata);
	return rc;
}

/* ---- reading records ---- */

void l7mp_session_describe(const struct l7mp_session *s, struct l7mp_session_record *out)
{
	const struct session_stage *dest = &s->stages[s->dest];

	memset(out, 0, sizeof(*out));
	out->name = s->name;
	out->listener = s->listener->obj.name;
	out->route = s->lookup.route->obj.name;
	out->cluster = dest->cluster;
	out->endpoint = dest->endpoint ? dest->endpoint->obj.name : NULL;
	out->metadata = s->metadata;
	out->started_ms = s->start_wall;
	out->drops = s->drops;
	memcpy(out->slow, s->slow, sizeof(out->slow));
	memcpy(out->fast, s->fast, sizeof(out->fast));
	out->end[0].fd = out->end[1].fd = -1;
}
