/* SPDX-License-Identifier: MIT */
/*
 * Metric: passes everything on and counts it, per session and cluster, for the Prometheus cluster.
 * The session reports the packets of the kernel fast path.
 *
 * A series remains for some minutes after its session, so that a scrape sees the final values of
 * short sessions.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/hash.h"
#include "l7mp/metrics.h"
#include "l7mp/transforms.h"
#include "transform.h"

#define ENDED_MAX     1000
#define ENDED_KEEP_MS (5 * 60 * 1000)

struct series {
	UT_hash_handle hh;
	struct series *prev, *next; /* in metric_state.ended */
	unsigned refs;              /* stages that count in it; 0: the session has ended */
	uint64_t packets, bytes;
	uint64_t ended_ms;
	const char *cluster; /* points into key */
	char key[];          /* the session's name, NUL, the cluster's name */
};

struct metric_state {
	struct series *table; /* in order of creation */
	struct series *ended; /* oldest first */
	size_t n_ended;
};

struct metric {
	struct l7mp_transform t;
	struct metric_state *state;
	struct series *series; /* a reference */
};

/* ---- series ---- */

static void series_free(struct metric_state *st, struct series *s)
{
	HASH_DEL(st->table, s);
	free(s);
}

static void ended_remove(struct metric_state *st, struct series *s)
{
	DL_DELETE(st->ended, s);
	st->n_ended--;
}

static void purge(struct metric_state *st, uint64_t now)
{
	struct series *s;

	while ((s = st->ended) && (st->n_ended > ENDED_MAX || now - s->ended_ms >= ENDED_KEEP_MS)) {
		ended_remove(st, s);
		series_free(st, s);
	}
}

/* Returns a reference; NULL: no memory. */
static struct series *series_get(struct metric_state *st, const char *session, const char *cluster)
{
	size_t n = strlen(session) + 1, len = n + strlen(cluster);
	struct series *s = calloc(1, sizeof(*s) + len + 1), *old;

	if (!s)
		return NULL;
	memcpy(s->key, session, n);
	memcpy(s->key + n, cluster, len - n);
	s->cluster = s->key + n;
	s->refs = 1;
	HASH_FIND(hh, st->table, s->key, len, old);
	if (old) {
		free(s);
		if (!old->refs++)
			ended_remove(st, old);
		return old;
	}
	HASH_ADD_KEYPTR(hh, st->table, s->key, len, s);
	if (s->hh.tbl)
		return s;
	free(s);
	return NULL;
}

static void series_put(struct metric_state *st, struct series *s, uint64_t now)
{
	if (--s->refs)
		return;
	s->ended_ms = now;
	DL_APPEND(st->ended, s);
	st->n_ended++;
	purge(st, now);
}

static void metric_metrics(struct l7mp_env *env, void *state, struct l7mp_str *out)
{
	static const char *const names[2] = {"session_packet_counter_total",
	                                     "session_byte_counter_total"};
	static const char *const helps[2] = {
	        "Messages that passed a Metric cluster, by session",
	        "Payload bytes that passed a Metric cluster, by session"};
	struct metric_state *st = state;

	/* Series per session are optional, because their number grows with the sessions. */
	if (env->model && !l7mp_model_admin(env->model)->metrics_sessions)
		return;
	if (st)
		purge(st, l7mp_loop_now(env->loop));
	for (int i = 0; i < 2; i++) {
		l7mp_metrics_head(out, names[i], "counter", helps[i]);
		for (const struct series *s = st ? st->table : NULL; s; s = s->hh.next)
			l7mp_metrics_sample(out, names[i],
			                    (struct l7mp_label[]){{"sessionName", s->key},
			                                          {"clusterName", s->cluster},
			                                          {NULL, NULL}},
			                    i ? s->bytes : s->packets);
	}
}

/* ---- the stream ---- */

static int metric_write(struct l7mp_stream *s, struct l7mp_buf *buf)
{
	struct metric *m = (struct metric *)s;
	int rc = l7mp_transform_check(&m->t, buf);

	if (rc)
		return rc;
	m->series->packets++;
	m->series->bytes += buf->len;
	l7mp_transform_emit(&m->t, buf);
	return 0;
}

static void metric_flow(struct l7mp_stream *s, struct l7mp_flow_end *out)
{
	(void)s;
	memset(out, 0, sizeof(*out));
	out->kind = L7MP_FLOW_PASS;
}

static void metric_passed(struct l7mp_stream *s, uint64_t packets, uint64_t bytes)
{
	struct metric *m = (struct metric *)s;

	m->series->packets += packets;
	m->series->bytes += bytes;
}

static void metric_release(struct l7mp_transform *t)
{
	struct metric *m = (struct metric *)t;

	if (m->series)
		series_put(m->state, m->series, l7mp_loop_now(t->env->loop));
}

static const struct l7mp_transform_ops ops = {
        .stream = {.write = metric_write,
                   .pause = l7mp_transform_pause,
                   .shutdown = l7mp_transform_shutdown,
                   .close = l7mp_transform_close,
                   .flow = metric_flow,
                   .passed = metric_passed},
        .release = metric_release,
};

static int metric_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                          struct l7mp_error *err)
{
	struct metric_state *state = l7mp_proto_state(params->env, &l7mp_transform_metric, err);
	struct metric *m;

	if (!state)
		return -ENOMEM;
	m = l7mp_transform_new(sizeof(*m), params, &ops);
	if (!m)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	m->state = state;
	m->series = series_get(state, params->session ? params->session : "",
	                       params->cluster ? params->cluster : "");
	if (!m->series) {
		l7mp_transform_discard_new(&m->t);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	*out = &m->t.base;
	return 0;
}

static int metric_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct metric_state));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

static void metric_stop(struct l7mp_env *env, void *state)
{
	struct metric_state *st = state;

	(void)env;
	while (st->table)
		series_free(st, st->table);
	free(st);
}

static const char *const aliases[] = {"INLINE/Metric", NULL};

const struct l7mp_proto l7mp_transform_metric = {
        .desc =
                {
                        .name = "Metric",
                        .aliases = aliases,
                        .doc = "Passes everything through and counts messages and bytes, which the "
                               "Prometheus cluster shows per session; also what the kernel fast "
                               "path carries",
                        .roles = L7MP_ROLE_CLUSTER,
                        .flags = L7MP_PROTO_VIRTUAL | L7MP_PROTO_KEEPS_KIND | L7MP_PROTO_PASS |
                                 L7MP_PROTO_STATELESS,
                        .kind = L7MP_KIND_DATAGRAM,
                },
        .start = metric_start,
        .stop = metric_stop,
        .connect = metric_connect,
        .metrics = metric_metrics,
};
