/* SPDX-License-Identifier: MIT */
/* A stage: its attempts to connect and the events of its stream. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"
#include "l7mp/log.h"

/* ---- events of the stream ---- */

static void on_open(void *owner)
{
	struct session_stage *st = owner;

	if (st->s->ending)
		return;
	l7mp_timer_stop(session_loop(st->s), &st->timer);
	st->state = L7MP_STAGE_CONNECTED;
	st->retries = 0;
	if (st->watched)
		st->s->m->watch->open(st->s->m->watch_arg, st->watched);
	l7mp_session_check_ready(st->s);
}

static void on_data(void *owner, struct l7mp_buf *buf)
{
	struct session_stage *st = owner;

	l7mp_pipe_push(st->s, st->index, buf);
}

static void on_drain(void *owner)
{
	struct session_stage *st = owner;

	if (!st->s->ending)
		l7mp_pipe_drained(st->s, (st->index + st->s->n - 1U) % st->s->n);
}

static void on_end(void *owner, int code)
{
	struct session_stage *st = owner;
	struct l7mp_session *s = st->s;
	struct l7mp_error err;

	if (s->ending)
		return;
	/*
	 * An upstream that closes while the other direction is open counts as a failure, if
	 * failures are to be retried.
	 */
	if ((st->index || session_can_reopen(s)) && !stage_in(st)->end &&
	    (s->lookup.route->retry_on & L7MP_RETRY_DISCONNECT)) {
		l7mp_error_set(&err, 0, L7MP_OK, "the peer closed the connection");
		if (st->index)
			l7mp_stage_lost(st, &err);
		else
			l7mp_stage_source_lost(st, &err);
		return;
	}
	l7mp_pipe_end(s, st->index, code);
}

static void on_lost(void *owner, int err, uint64_t packets, uint64_t bytes)
{
	struct session_stage *st = owner;

	l7mp_session_drop(st->s, l7mp_drop_from_errno(err), packets, bytes);
	if (err == -EPERM)
		l7mp_session_offload_filtered(st->s);
}

static void on_path_changed(void *owner)
{
	l7mp_session_offload_recheck(((struct session_stage *)owner)->s);
}

static void on_notice(void *owner, const char *event, const char *message)
{
	struct session_stage *st = owner;

	l7mp_session_notice(st->s, st->index, event, message);
}

/* A flow of the old addresses must not go on. The next packet asks for a new one. */
static void on_moved(void *owner)
{
	struct session_stage *st = owner;

	l7mp_session_offload_remove(st->s, true);
}

/* The stream and its socket are closed. */
static void unwatch(struct l7mp_session *s, struct l7mp_watched **watched)
{
	if (*watched)
		s->m->watch->end(s->m->watch_arg, *watched);
	*watched = NULL;
}

static void on_closed(void *owner, const struct l7mp_error *err)
{
	struct session_stage *st = owner;
	struct l7mp_session *s = st->s;
	bool up = st->state == L7MP_STAGE_CONNECTED || st->state == L7MP_STAGE_READY;
	struct l7mp_error early;

	l7mp_session_offload_remove(s, true);
	unwatch(st->s, &st->watched);
	st->stream = NULL;
	if (!up && err->code == L7MP_OK) {
		l7mp_error_set(&early, -ECONNABORTED, L7MP_ERR_UPSTREAM,
		               "closed before it was connected");
		err = &early;
	}
	if (s->ending)
		l7mp_session_closed_one(s);
	else if (st->index == 0)
		l7mp_stage_source_lost(st, err);
	else
		l7mp_stage_lost(st, err);
}

const struct l7mp_stream_events l7mp_stage_events = {
        .open = on_open,
        .data = on_data,
        .drain = on_drain,
        .end = on_end,
        .lost = on_lost,
        .path_changed = on_path_changed,
        .notice = on_notice,
        .moved = on_moved,
        .closed = on_closed,
};

/* ---- a stream that was given up ---- */

static void orphan_data(void *owner, struct l7mp_buf *buf)
{
	struct l7mp_session *s = owner;

	l7mp_session_drop(s, L7MP_DROP_CLOSED, 1, buf->len);
	l7mp_buf_unref(buf);
}

static void orphan_nothing(void *owner)
{
	(void)owner;
}

static void orphan_end(void *owner, int code)
{
	(void)owner;
	(void)code;
}

static void orphan_lost(void *owner, int err, uint64_t packets, uint64_t bytes)
{
	l7mp_session_drop(owner, l7mp_drop_from_errno(err), packets, bytes);
}

static void orphan_notice(void *owner, const char *event, const char *message)
{
	(void)owner;
	(void)event;
	(void)message;
}

static void orphan_closed(void *owner, const struct l7mp_error *err)
{
	struct l7mp_session *s = owner;

	(void)err;
	s->orphans--;
	if (s->ending)
		l7mp_session_closed_one(s);
}

static const struct l7mp_stream_events orphan_events = {
        .open = orphan_nothing,
        .data = orphan_data,
        .drain = orphan_nothing,
        .end = orphan_end,
        .lost = orphan_lost,
        .notice = orphan_notice,
        .closed = orphan_closed,
};

/* The same for an observed stream, whose owner is the observer's record. */
static void watched_data(void *owner, struct l7mp_buf *buf)
{
	orphan_data(((struct l7mp_watched *)owner)->session, buf);
}

static void watched_lost(void *owner, int err, uint64_t packets, uint64_t bytes)
{
	orphan_lost(((struct l7mp_watched *)owner)->session, err, packets, bytes);
}

static void watched_closed(void *owner, const struct l7mp_error *err)
{
	struct l7mp_watched *watched = owner;
	struct l7mp_session *s = watched->session;

	unwatch(s, &watched);
	orphan_closed(s, err);
}

static const struct l7mp_stream_events watched_orphan_events = {
        .open = orphan_nothing,
        .data = watched_data,
        .drain = orphan_nothing,
        .end = orphan_end,
        .lost = watched_lost,
        .notice = orphan_notice,
        .closed = watched_closed,
};

void l7mp_stage_attach(struct session_stage *st, struct l7mp_stream *stream)
{
	st->stream = stream;
	st->paused = true;
	l7mp_stream_attach(stream, &l7mp_stage_events, st);
}

void l7mp_stage_detach(struct session_stage *st, bool abort)
{
	struct l7mp_stream *stream = st->stream;

	if (!stream)
		return;
	st->stream = NULL;
	st->s->orphans++;
	if (st->watched)
		l7mp_stream_attach(stream, &watched_orphan_events, st->watched);
	else
		l7mp_stream_attach(stream, &orphan_events, st->s);
	st->watched = NULL;
	l7mp_stream_close(stream, abort);
}

/* ---- connecting ---- */

/* Returns the kind of the stage's input, as far as it is known. */
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
static enum l7mp_kind kind_behind(const struct session_stage *st)
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

void l7mp_stage_release(struct session_stage *st)
{
	l7mp_object_unref(st->object);
	l7mp_object_unref(st->endpoint);
	l7mp_object_unref(st->avoid);
	st->object = NULL;
	st->endpoint = NULL;
	st->avoid = NULL;
}

static int pick(struct session_stage *st, struct l7mp_error *err)
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
	e = l7mp_lb_pick(c, s->metadata, st->avoid ? st->avoid->obj.name : NULL, &warning);
	if (warning)
		l7mp_session_event(s, "WARNING", st->index, 0, warning);
	if (!e)
		return l7mp_error_set(err, -ESRCH, L7MP_ERR_UPSTREAM,
		                      c->n_endpoints
		                              ? "every endpoint of cluster '%s' drains (weight 0)"
		                              : "cluster '%s' has no endpoint",
		                      st->cluster);
	/* It is not taken note of, so that a retry does not avoid it: its share is refused. */
	if (e->drop)
		return l7mp_error_set(err, -EBUSY, L7MP_ERR_LIMIT,
		                      "endpoint '%s' refuses sessions (drop)", e->obj.name);
	st->endpoint = l7mp_object_ref(e);
	return 0;
}

static int start(struct session_stage *st, struct l7mp_error *err)
{
	struct l7mp_session *s = st->s;
	struct l7mp_connect params = {
	        .env = s->m->env,
	        .cluster = st->cluster,
	        .metadata = s->metadata,
	        .session = s->name,
	        .in_kind = kind_before(st),
	        .out_kind = kind_behind(st),
	};
	const struct l7mp_proto *proto;
	struct l7mp_stream *stream = NULL;
	int rc = pick(st, err);

	if (rc)
		return rc;
	proto = l7mp_proto_of(s->m->env, st->object->proto);
	if (!proto || !proto->connect)
		return l7mp_error_set(err, -ENOTSUP, L7MP_ERR_UPSTREAM, "protocol %s can't connect",
		                      st->object->proto->name);
	l7mp_sessions_counted(s->m, L7MP_OBJ_CLUSTER, st->cluster, proto->desc.name);
	params.cluster_spec = st->object->spec;
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
	return 0;
}

void l7mp_stage_connect(struct session_stage *st)
{
	struct l7mp_session *s = st->s;
	struct l7mp_error err = {.code = L7MP_OK};
	int rc;

	st->state = st->retries || st->was_up ? L7MP_STAGE_RETRYING : L7MP_STAGE_INIT;
	st->attempt_ms = l7mp_loop_now(session_loop(s));
	rc = start(st, &err);
	if (!rc)
		rc = l7mp_timer_start(session_loop(s), &st->timer, s->lookup.route->timeout_ms);
	if (!rc)
		return;
	if (err.code == L7MP_OK)
		l7mp_error_set(&err, rc, L7MP_ERR_UPSTREAM, "%s", strerror(-rc));
	l7mp_stage_lost(st, &err);
}

const char *l7mp_stage_where(const struct session_stage *st, char *buf, size_t size)
{
	char place[32];

	l7mp_stage_place(st, place, sizeof(place));
	if (!st->cluster)
		snprintf(buf, size, "%s", place);
	else if (st->endpoint && st->endpoint->address)
		snprintf(buf, size, "%s '%s' (%s)", place, st->cluster, st->endpoint->address);
	else
		snprintf(buf, size, "%s '%s'", place, st->cluster);
	return buf;
}
