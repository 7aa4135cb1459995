/* SPDX-License-Identifier: MIT */
/*
 * PIPE: FIFOs as a byte stream.
 *
 * A listener has one session at a time. It begins with the first byte that somebody
 * writes and, unless the route retries on disconnects, the last writer's leaving ends it like an
 * end-of-stream does; with such a route the session stays and goes on with the next writer.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/log.h"
#include "l7mp/protos.h"
#include "l7mp/util.h"
#include "net/net.h"
#include "pipe_int.h"

#define AGAIN_MS 1000 /* after a session was refused */
#define SHORT_MS 100  /* a session that lived for less is not followed by another one at once */

/* ---- a listener and the stream that it has waiting ---- */

static void arm_later(struct pipe_listener *l, uint64_t ms)
{
	if (l->active && l7mp_timer_start(l->env->loop, &l->timer, ms))
		l7mp_log_error("pipe", "%s: out of memory", l->name);
}

static int arm(struct pipe_listener *l)
{
	struct pipe_stream *s = pipe_stream_new(l->env, l->in, l->out);
	int rc;

	if (!s)
		return -ENOMEM;
	rc = pipe_stream_listen(s);
	if (rc) {
		pipe_stream_free(s);
		return rc;
	}
	s->listener = l;
	l->stream = s;
	return 0;
}

static void emit(struct pipe_listener *l, struct pipe_stream *s);

static void on_timer(struct l7mp_timer *t, void *arg)
{
	struct pipe_listener *l = arg;
	int rc;

	(void)t;
	if (l->busy)
		return;
	if (l->stream) {
		if (l->stream->first)
			emit(l, l->stream);
		return;
	}
	if (l->in->reading)
		return; /* we are told when that one is done */
	rc = arm(l);
	if (!rc)
		return;
	l7mp_log_warn("pipe", "%s: can't read %s: %s, trying again", l->name, l->in->path,
	              l7mp_errno_text(rc));
	arm_later(l, AGAIN_MS);
}

static int reopen(void *arg, struct l7mp_stream **out)
{
	struct pipe_listener *l = arg;
	struct pipe_stream *s;
	int rc;

	if (l->in->reading)
		return -EBUSY;
	rc = arm(l);
	if (rc)
		return rc;
	s = l->stream;
	pipe_stream_emitted(s);
	*out = &s->base;
	return 0;
}

static void ended(void *arg)
{
	struct pipe_listener *l = arg;

	l->busy = false;
	if (l->out)
		fifo_stand_down_writer(l->out);
	arm_later(l, l7mp_loop_now(l->env->loop) - l->since < SHORT_MS ? SHORT_MS : 0);
}

static cJSON *metadata(const struct pipe_listener *l)
{
	cJSON *root = cJSON_CreateObject(), *p = cJSON_CreateObject();
	int rc = l7mp_json_add_str(p, "filename", l->in->path);

	if (l->out)
		rc |= l7mp_json_add_str(p, "output", l->out->path);
	rc |= l7mp_json_add(root, "PIPE", p);
	if (!rc)
		return root;
	cJSON_Delete(root);
	return NULL;
}

/* The stream has its first bytes: a session for it, or later. */
static void emit(struct pipe_listener *l, struct pipe_stream *s)
{
	const struct l7mp_addr nobody = {.len = 0};
	struct l7mp_accept a = {
	        .stream = &s->base, .reopen = reopen, .reopen_arg = l, .ended = ended};
	struct l7mp_buf *buf;

	if (l->base.events->admit && l->base.events->admit(l->base.arg, &nobody)) {
		arm_later(l, AGAIN_MS);
		return;
	}
	buf = s->first;
	s->first = NULL;
	a.name = l7mp_asprintf("PIPE:%s-%llu", l->name, (unsigned long long)++l->state->last_id);
	a.metadata = metadata(l);
	l->busy = l->emitting = true;
	l->since = l7mp_loop_now(l->env->loop);
	pipe_stream_emitted(s);
	/* The owner may do anything in it, also delete this listener. */
	if (!l7mp_accept_emit(&l->base, &a) || s->closing) {
		l7mp_buf_unref(buf);
		return;
	}
	if (s->listener)
		s->listener->emitting = false;
	s->base.events->data(s->base.owner, buf);
}

void pipe_listener_first(struct pipe_listener *l, struct pipe_stream *s, struct l7mp_buf *buf)
{
	/* Nothing more before there is a session to hold it back. */
	l7mp_stream_io_read(s->isio, false);
	s->first = buf;
	emit(l, s);
}

void pipe_listener_nothing(struct pipe_listener *l, struct pipe_stream *s)
{
	/* With its first bytes still waiting for a session, the end waits too. */
	if (s->first)
		return;
	l->stream = NULL;
	pipe_stream_abandon(s);
	arm_later(l, 0);
}

void pipe_listener_left(struct pipe_listener *l, struct pipe_stream *s)
{
	s->listener = NULL;
	if (l->stream == s)
		l->stream = NULL;
	if (!s->emitted)
		arm_later(l, AGAIN_MS);
	if (!l->emitting)
		return; /* `ended` follows, or reopen */
	/* Closed while it was handed up: no session came of it. */
	l->emitting = l->busy = false;
	arm_later(l, AGAIN_MS);
}

void pipe_listener_free_to_read(struct pipe_listener *l)
{
	if (!l->busy && !l->stream && !l7mp_timer_armed(&l->timer))
		arm_later(l, 0);
}

/* ---- operations ---- */

static bool is_retiring(const struct l7mp_listen *params, const struct pipe_listener *l)
{
	for (size_t i = 0; i < params->n_retiring; i++)
		if (params->retiring[i] == &l->base)
			return true;
	return false;
}

static void pipe_unlisten(struct l7mp_proto_listener *base)
{
	struct pipe_listener *l = (struct pipe_listener *)base;
	struct pipe_stream *s = l->stream;

	l7mp_timer_stop(l->env->loop, &l->timer);
	l->active = false;
	if (l->in && l->in->heir == l)
		l->in->heir = NULL;
	if (l->in && l->in->listener == l) {
		l->in->listener = NULL;
		fifo_stand_down(l->in);
	}
	if (s && s->emitted)
		s->listener = NULL;
	else if (s)
		pipe_stream_abandon(s);
	if (l->out)
		fifo_stand_down_writer(l->out);
	fifo_unref(&l->in);
	fifo_unref(&l->out);
	free(l->name);
	free(l);
}

static int get_fifos(struct pipe_listener *l, const struct l7mp_listen *params,
                     struct l7mp_error *err)
{
	const char *output = l7mp_json_str(params->spec, "output", NULL);
	int rc = fifo_get(&l->state->fifos, l7mp_json_str(params->spec, "filename", ""), &l->in,
	                  err);

	if (!rc && (l->in->heir || (l->in->listener && !is_retiring(params, l->in->listener)))) {
		rc = l7mp_error_set(err, -EADDRINUSE, L7MP_ERR_REALISE,
		                    "%s: another listener reads it", l->in->path);
	}
	if (rc) {
		if (err)
			snprintf(err->path, sizeof(err->path), "filename");
		return rc;
	}
	l->in->heir = l;
	if (!output)
		return 0;
	rc = fifo_get(&l->state->fifos, output, &l->out, err);
	if (rc && err)
		snprintf(err->path, sizeof(err->path), "output");
	return rc;
}

static int pipe_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                       struct l7mp_error *err)
{
	struct pipe_state *st = l7mp_proto_state(params->env, &l7mp_proto_pipe, err);
	struct pipe_listener *l;
	int rc;

	if (!st)
		return -ENOMEM;
	l = calloc(1, sizeof(*l));
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	l->base = (struct l7mp_proto_listener){
	        .proto = &l7mp_proto_pipe, .events = params->events, .arg = params->arg};
	l->env = params->env;
	l->state = st;
	l7mp_timer_init(&l->timer, on_timer, l);
	l->name = strdup(params->name ? params->name : "");
	rc = l->name ? get_fifos(l, params, err)
	             : l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	if (rc) {
		pipe_unlisten(&l->base);
		return rc;
	}
	*out = &l->base;
	return 0;
}

static void pipe_activate(struct l7mp_proto_listener *base)
{
	struct pipe_listener *l = (struct pipe_listener *)base;
	struct pipe_listener *old = l->in->listener;

	l->in->listener = l;
	l->in->heir = NULL;
	l->active = true;
	/* What only waits for a writer is of no use any more; a session's source goes on. */
	if (old && old->stream && !old->stream->emitted) {
		struct pipe_stream *s = old->stream;

		old->stream = NULL;
		pipe_stream_abandon(s);
	}
	/* Not from inside activate: the change that brings this listener is not done yet. */
	arm_later(l, 0);
}

static int connect_fifos(struct pipe_stream **sp, struct pipe_state *st,
                         const struct l7mp_connect *p, struct l7mp_error *err)
{
	const char *input = l7mp_json_str(p->cluster_spec, "input", NULL);
	struct fifo *in = NULL, *out = NULL;
	int rc = fifo_get(&st->fifos, p->address ? p->address : "", &out, err);

	if (!rc && input)
		rc = fifo_get(&st->fifos, input, &in, err);
	if (!rc && in && (in->reading || in->listener))
		rc = l7mp_error_set(err, -EBUSY, L7MP_ERR_UPSTREAM,
		                    "PIPE %s: %s reads it; one at a time can", in->path,
		                    in->listener ? "a listener" : "another session");
	if (!rc) {
		out->keep = true;
		if (in)
			in->keep = true;
		*sp = pipe_stream_new(p->env, in, out);
		if (!*sp)
			rc = l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	} else if (err) {
		err->code = L7MP_ERR_UPSTREAM;
	}
	fifo_unref(&in);
	fifo_unref(&out);
	return rc;
}

static int pipe_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                        struct l7mp_error *err)
{
	struct pipe_state *st = l7mp_proto_state(p->env, &l7mp_proto_pipe, err);
	struct pipe_stream *s = NULL;
	int rc;

	if (!st)
		return -ENOMEM;
	rc = connect_fifos(&s, st, p, err);
	if (rc)
		return rc;
	rc = pipe_stream_connect(s);
	if (rc) {
		l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "PIPE %s: %s",
		               rc == -ENXIO || !s->in ? s->out->path : s->in->path,
		               rc == -ENXIO ? "nobody reads it" : l7mp_errno_text(rc));
		pipe_stream_abandon(s);
		return rc;
	}
	*out = &s->base;
	return 0;
}

static int pipe_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct pipe_state));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

static void pipe_stop(struct l7mp_env *env, void *state)
{
	struct pipe_state *st = state;

	(void)env;
	fifo_clear(&st->fifos);
	free(st);
}

static const char *const aliases[] = {"FIFO", NULL};

const struct l7mp_proto l7mp_proto_pipe = {
        .desc =
                {
                        .name = "PIPE",
                        .aliases = aliases,
                        .doc = "Named pipes (FIFOs), one for each direction",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .kind = L7MP_KIND_STREAM,
                        .listener_spec = &pipe_listener_spec,
                        .cluster_spec = &pipe_cluster_spec,
                        .endpoint_spec = &pipe_endpoint_spec,
                },
        .start = pipe_start,
        .stop = pipe_stop,
        .listen = pipe_listen,
        .activate = pipe_activate,
        .unlisten = pipe_unlisten,
        .connect = pipe_connect,
};
