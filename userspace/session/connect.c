/* SPDX-License-Identifier: MIT */
/*
 * Connecting a stage to its cluster: the choice of an endpoint, and the endpoint of a connection
 * that is restored from a previous process.
 */
#include <errno.h>
#include <string.h>

#include "internal.h"

/* Returns the kind of the stage's input, if known. */
static enum l7mp_kind kind_before(const struct session_stage *st)
{
	const struct l7mp_session *s = st->s;

	for (unsigned i = st->index; i-- > 0;) {
		const struct session_stage *before = &s->stages[i];
		const struct l7mp_cluster *c = NULL;

		if (before->stream)
			return before->stream->kind;
		if (before->cluster)
			c = l7mp_model_find(s->m->env->model, L7MP_OBJ_CLUSTER, before->cluster);
		if (c && !(c->proto->flags & L7MP_PROTO_KEEPS_KIND))
			return c->proto->kind;
	}
	return L7MP_KIND_DATAGRAM;
}

/* Returns the kind of the next stage, skipping transformers that keep theirs. */
static enum l7mp_kind kind_after(const struct session_stage *st)
{
	const struct l7mp_session *s = st->s;

	for (unsigned i = (st->index + 1U) % s->n; i; i = (i + 1) % s->n) {
		const struct l7mp_cluster *c =
		        l7mp_model_find(s->m->env->model, L7MP_OBJ_CLUSTER, s->stages[i].cluster);

		if (c && (c->proto->flags & L7MP_PROTO_KEEPS_KIND))
			continue;
		if (s->stages[i].stream)
			return s->stages[i].stream->kind;
		return c ? c->proto->kind : L7MP_KIND_DATAGRAM;
	}
	return s->stages[0].stream ? s->stages[0].stream->kind : L7MP_KIND_DATAGRAM;
}

static int pick_endpoint(struct session_stage *st, struct l7mp_error *err)
{
	struct l7mp_session *s = st->s;
	struct l7mp_cluster *c = l7mp_model_find(s->m->env->model, L7MP_OBJ_CLUSTER, st->cluster);
	const char *warning = NULL;
	struct l7mp_endpoint *e;

	l7mp_object_unref(st->object);
	l7mp_object_unref(st->endpoint);
	st->endpoint = NULL;
	st->object = c ? l7mp_object_ref(c) : NULL;
	if (!c) {
		l7mp_error_set(err, -ESRCH, L7MP_ERR_UPSTREAM, "there is no cluster '%s'",
		               st->cluster);
		return -ESRCH;
	}
	if (c->proto->flags & L7MP_PROTO_VIRTUAL)
		return 0;
	e = l7mp_lb_pick(c, s->metadata, st->avoid, &warning);
	if (warning)
		l7mp_session_event(s, "WARNING", st->index, 0, warning);
	if (!e)
		return l7mp_error_set(err, -ESRCH, L7MP_ERR_UPSTREAM,
		                      c->n_endpoints
		                              ? "every endpoint of cluster '%s' drains (weight 0)"
		                              : "cluster '%s' has no endpoint",
		                      st->cluster);
	if (e->drop) {
		s->m->env->stats->refusals[L7MP_REFUSE_DROP]++;
		st->refused = true;
		return l7mp_error_set(err, -EBUSY, L7MP_ERR_LIMIT,
		                      "endpoint '%s' refuses sessions (drop)", e->obj.name);
	}
	st->endpoint = l7mp_object_ref(e);
	return 0;
}

/* Connects to the stage's cluster and endpoint, or restores a connection. */
static int connect_stage(struct session_stage *st, struct l7mp_restore_end *restore, bool same,
                         struct l7mp_error *err)
{
	struct l7mp_session *s = st->s;
	struct l7mp_connect params = {
	        .env = s->m->env,
	        .cluster = st->cluster,
	        .cluster_spec = st->object->spec,
	        .metadata = s->metadata,
	        .session = s->name,
	        .in_kind = kind_before(st),
	        .out_kind = kind_after(st),
	        .restore = restore,
	        .same_endpoint = same,
	};
	const struct l7mp_proto *proto = l7mp_proto_of(s->m->env, st->object->proto);
	struct l7mp_stream *stream = NULL;
	int rc;

	if (!restore)
		l7mp_stage_health_begins(st);
	if (!proto || !proto->connect)
		return l7mp_error_set(err, -ENOTSUP, L7MP_ERR_UPSTREAM, "protocol %s can't connect",
		                      st->object->proto->name);
	if (st->endpoint) {
		params.endpoint_spec = st->endpoint->spec;
		params.address = st->endpoint->address;
	}
	rc = proto->connect(&params, &stream, err);
	if (rc)
		return rc;
	l7mp_stage_attach(st, stream);
	if (s->m->watch)
		st->watched = s->m->watch->begin(s->m->watch_arg, s, stream);
	/* Count last, so that only connected protocols are counted. */
	l7mp_sessions_counted(s->m, L7MP_OBJ_CLUSTER, st->cluster, proto->desc.name);
	return 0;
}

/* Tries to restore the session's connection as one to this endpoint. */
static int try_endpoint(struct session_stage *st, struct l7mp_endpoint *e, bool same,
                        struct l7mp_error *err)
{
	struct l7mp_restore_end *end = &st->s->restore->record->end[1];
	int rc;

	st->endpoint = l7mp_object_ref(e);
	rc = connect_stage(st, end, same, err);
	if (rc) {
		l7mp_object_unref(st->endpoint);
		st->endpoint = NULL;
	}
	return rc;
}

/* Restores the destination's connection, to the endpoint that has its address. */
static int stage_restore(struct session_stage *st, struct l7mp_error *err)
{
	const char *name = st->s->restore->record->endpoint;
	struct l7mp_cluster *c =
	        l7mp_model_find(st->s->m->env->model, L7MP_OBJ_CLUSTER, st->cluster);
	int rc = -EXDEV;

	if (!c)
		return l7mp_error_set(err, -EPERM, L7MP_ERR_UPSTREAM, "there is no cluster '%s'",
		                      st->cluster);
	st->object = l7mp_object_ref(c);
	if (!(c->proto->flags & L7MP_PROTO_VIRTUAL) == !st->s->restore->record->end[1].remote.len)
		return l7mp_error_set(err, -EPERM, L7MP_ERR_UPSTREAM,
		                      "the session goes to another kind of destination than "
		                      "cluster '%s'",
		                      st->cluster);
	if (c->proto->flags & L7MP_PROTO_VIRTUAL)
		return connect_stage(st, NULL, false, err);
	if (!(c->proto->flags & (L7MP_PROTO_RESTORES | L7MP_PROTO_ADOPTS)))
		return l7mp_error_set(err, -ENOTSUP, L7MP_ERR_UPSTREAM,
		                      "connections of protocol %s can't go on", c->proto->name);
	/* First try the endpoint of the same name, which is the most likely one. */
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; rc == -EXDEV && i < c->n_endpoints; i++) {
			struct l7mp_endpoint *e = c->endpoints[i];
			bool same = name && !strcmp(e->obj.name, name);

			if (same == !pass)
				rc = try_endpoint(st, e, same, err);
		}
	if (rc == -EXDEV)
		return l7mp_error_set(err, -EPERM, L7MP_ERR_UPSTREAM,
		                      "no endpoint of cluster '%s' has the address that the "
		                      "session is connected to",
		                      st->cluster);
	return rc;
}

int l7mp_stage_start(struct session_stage *st, struct l7mp_error *err)
{
	int rc;

	if (st->s->restore && st->index == st->s->dest)
		return stage_restore(st, err);
	rc = pick_endpoint(st, err);
	return rc ? rc : connect_stage(st, NULL, false, err);
}
