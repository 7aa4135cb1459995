/* SPDX-License-Identifier: MIT */
/*
 * The Prometheus cluster: answers every request with the proxy's counters, in the Prometheus text
 * format 0.0.4.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api_int.h"
#include "l7mp/filewriter.h"
#include "l7mp/metrics.h"
#include "l7mp/slice.h"
#include "l7mp/stream_io.h"

/* The text consists of parts; those of objects and sessions are produced step by step. */
enum metrics_part {
	METRICS_HOLD, /* in a job: collects the objects */
	METRICS_SYNC, /* reads the kernel's counters, session by session */
	METRICS_PROCESS,
	METRICS_LISTENERS, /* one per step */
	METRICS_CLUSTERS,
	METRICS_ENDPOINTS, /* some endpoints of one metric per step */
	METRICS_SESSIONS,
	METRICS_PROTOCOLS, /* one per step */
	METRICS_OVER,
};

struct metrics {
	struct api_stream base;
	const struct l7mp_api *api;
	enum metrics_part part;
	bool begun; /* the part was begun */
	size_t i;
	size_t metric, endpoint;      /* of METRICS_ENDPOINTS: the present ones */
	struct l7mp_object **objects; /* listeners and clusters; references held */
	size_t n_listeners, n_objects;
	struct l7mp_session_cursor cursor;
};

static void one(struct l7mp_str *out, const char *name, const char *key, const char *value,
                uint64_t n)
{
	l7mp_metrics_sample(out, name, (struct l7mp_label[]){{key, value}, {NULL, NULL}}, n);
}

static int hold(struct metrics *m)
{
	static const enum l7mp_obj_kind kinds[] = {L7MP_OBJ_LISTENER, L7MP_OBJ_CLUSTER};
	const struct l7mp_model *model = m->api->params.model;
	size_t n = l7mp_model_count(model, L7MP_OBJ_LISTENER) +
	           l7mp_model_count(model, L7MP_OBJ_CLUSTER);

	m->objects = calloc(n + 1, sizeof(struct l7mp_object *));
	if (!m->objects)
		return -ENOMEM;
	for (size_t k = 0; k < L7MP_ARRAY_SIZE(kinds); k++) {
		struct l7mp_object *o;

		for (o = l7mp_model_first(model, kinds[k]); o; o = l7mp_model_next(o))
			m->objects[m->n_objects++] = l7mp_object_ref(o);
		if (!k)
			m->n_listeners = m->n_objects;
	}
	return 0;
}

/* Writes the count of one listener or cluster. Returns false at the end. */
static bool object_step(struct metrics *m, struct l7mp_str *out)
{
	bool listeners = m->part == METRICS_LISTENERS;
	const char *metric = listeners ? "listener_requests_total" : "cluster_requests_total";
	size_t end = listeners ? m->n_listeners : m->n_objects;
	const struct l7mp_object *o;
	const char *protocol;
	uint64_t count;

	if (!m->begun) {
		l7mp_metrics_head(out, metric, "counter",
		                  listeners ? "Sessions that a listener emitted"
		                            : "Connects that a cluster got");
		m->begun = true;
		m->i = listeners ? 0 : m->n_listeners;
	}
	if (m->i == end)
		return false;
	o = m->objects[m->i++];
	if (l7mp_sessions_counter(m->api->params.sessions, o->kind, o->name, &protocol, &count))
		l7mp_metrics_sample(
		        out, metric,
		        (struct l7mp_label[]){{listeners ? "listenerName" : "clusterName", o->name},
		                              {"protocol", protocol},
		                              {NULL, NULL}},
		        count);
	return true;
}

/* ---- endpoints: only those that were tried, as most of a large configuration may never be ---- */

#define ENDPOINTS_STEP 64

static const struct {
	const char *name, *type, *help;
} endpoint_metrics[] = {
        {"l7mp_endpoint_sessions", "gauge", "Stages of sessions that are connected to an endpoint"},
        {"l7mp_endpoint_connects_total", "counter", "Attempts to connect to an endpoint"},
        {"l7mp_endpoint_failures_total", "counter", "Attempts that failed"},
        {"l7mp_endpoint_lost_total", "counter", "Connections to an endpoint that an error ended"},
        {"l7mp_endpoint_last_success_timestamp_seconds", "gauge",
         "When an attempt succeeded last; 0: never"},
};

static void endpoint_sample(const struct metrics *m, const char *cluster, const char *endpoint,
                            struct l7mp_health *health, struct l7mp_str *out)
{
	struct l7mp_health_state h;

	l7mp_health_read(health, &h);
	if (!h.connects && !h.sessions)
		return;
	l7mp_metrics_sample(
	        out, endpoint_metrics[m->metric].name,
	        (struct l7mp_label[]){{"cluster", cluster}, {"endpoint", endpoint}, {NULL, NULL}},
	        (const uint64_t[]){h.sessions, h.connects, h.failed, h.lost,
	                           h.success_ms / 1000}[m->metric]);
}

/* Writes a metric of some endpoints of one cluster. Returns false at the end of the last metric. */
static bool endpoint_step(struct metrics *m, struct l7mp_str *out)
{
	const struct l7mp_cluster *c;

	if (!m->begun) {
		l7mp_metrics_head(out, endpoint_metrics[m->metric].name,
		                  endpoint_metrics[m->metric].type,
		                  endpoint_metrics[m->metric].help);
		m->begun = true;
		m->i = m->n_listeners;
		m->endpoint = 0;
	}
	if (m->i == m->n_objects) {
		m->begun = false;
		return ++m->metric < L7MP_ARRAY_SIZE(endpoint_metrics);
	}
	c = (const struct l7mp_cluster *)m->objects[m->i];
	if (c->health)
		endpoint_sample(m, c->obj.name, c->obj.name, c->health, out);
	for (int n = 0; n < ENDPOINTS_STEP && m->endpoint < c->n_endpoints; n++) {
		const struct l7mp_endpoint *e = c->endpoints[m->endpoint++];

		endpoint_sample(m, c->obj.name, e->obj.name, e->health, out);
	}
	if (m->endpoint >= c->n_endpoints) {
		m->endpoint = 0;
		m->i++;
	}
	return true;
}

static void object_counts(const struct l7mp_api *api, struct l7mp_str *out)
{
	l7mp_metrics_head(out, "l7mp_objects", "gauge", "Objects of the configuration");
	for (int k = 0; k < L7MP_OBJ_KINDS; k++)
		one(out, "l7mp_objects", "kind", l7mp_obj_kind_name((enum l7mp_obj_kind)k),
		    l7mp_model_count(api->params.model, (enum l7mp_obj_kind)k));
}

static void sessions(const struct l7mp_api *api, struct l7mp_str *out)
{
	const struct l7mp_stats *s = api->params.env->stats;

	l7mp_metrics_head(out, "l7mp_sessions", "gauge",
	                  "Sessions by state; ended ones while they are tracked");
	for (int i = 0; i < L7MP_SESSION_STATES; i++)
		one(out, "l7mp_sessions", "state",
		    l7mp_session_state_name((enum l7mp_session_state)i),
		    l7mp_sessions_count(api->params.sessions, (enum l7mp_session_state)i));
	l7mp_metrics_plain(out, "l7mp_sessions_started_total", "counter", "Sessions that began",
	                   s->sessions_started);
	l7mp_metrics_plain(out, "l7mp_sessions_ended_total", "counter", "Sessions that ended",
	                   s->sessions_ended);
	l7mp_metrics_plain(out, "l7mp_draining", "gauge", "1 while new sessions are refused",
	                   api->params.env->draining);
	l7mp_metrics_plain(
	        out, "l7mp_memory_bytes", "gauge",
	        "What counts for limits.max_memory: sessions, buffers, unfinished messages",
	        l7mp_memory_used(api->params.env));
	l7mp_metrics_plain(out, "l7mp_memory_max_bytes", "gauge", "limits.max_memory",
	                   api->params.env->limits->max_memory);
	l7mp_metrics_plain(out, "l7mp_retries_total", "counter",
	                   "Attempts to connect a stage again", s->retries);
}

static void drops(const struct l7mp_stats *s, struct l7mp_str *out)
{
	static const enum l7mp_refuse evict[] = {L7MP_REFUSE_MAX_SESSIONS,
	                                         L7MP_REFUSE_LISTENER_SESSIONS,
	                                         L7MP_REFUSE_MAX_SESSIONS_PER_SOURCE,
	                                         L7MP_REFUSE_DESCRIPTORS, L7MP_REFUSE_MAX_MEMORY};

	l7mp_metrics_head(out, "l7mp_drops_total", "counter",
	                  "Datagrams that were not delivered, by reason");
	for (int i = 0; i < L7MP_DROP_COUNT; i++)
		one(out, "l7mp_drops_total", "reason", l7mp_drop_name((enum l7mp_drop)i),
		    s->drops[i]);
	l7mp_metrics_head(out, "l7mp_drop_bytes_total", "counter", "Their payload bytes");
	for (int i = 0; i < L7MP_DROP_COUNT; i++)
		one(out, "l7mp_drop_bytes_total", "reason", l7mp_drop_name((enum l7mp_drop)i),
		    s->drop_bytes[i]);
	l7mp_metrics_head(out, "l7mp_log_records_lost_total", "counter",
	                  "Records of the log, the access log and Loggers that were not written");
	for (int i = 0; i < L7MP_WRITES_COUNT; i++)
		one(out, "l7mp_log_records_lost_total", "file",
		    l7mp_writer_use_name((enum l7mp_writer_use)i),
		    l7mp_writer_lost((enum l7mp_writer_use)i));
	l7mp_metrics_head(out, "l7mp_refusals_total", "counter", "What a limit refused, by limit");
	for (int i = 0; i < L7MP_REFUSE_COUNT; i++)
		one(out, "l7mp_refusals_total", "limit", l7mp_refuse_name((enum l7mp_refuse)i),
		    s->refusals[i]);
	l7mp_metrics_head(out, "l7mp_evictions_total", "counter",
	                  "Sessions of unproven sources that ended to make room, by limit");
	for (size_t i = 0; i < L7MP_ARRAY_SIZE(evict); i++)
		one(out, "l7mp_evictions_total", "limit", l7mp_refuse_name(evict[i]),
		    s->evictions[evict[i]]);
}

static void by_direction(struct l7mp_str *out, const char *name, const char *help,
                         const uint64_t n[2])
{
	l7mp_metrics_head(out, name, "counter", help);
	one(out, name, "direction", "ingress", n[L7MP_INGRESS]);
	one(out, name, "direction", "egress", n[L7MP_EGRESS]);
}

/* Only of ended streams, because a counter must not decrease at the next poll. */
static void rtp_metrics(struct l7mp_str *out, const struct l7mp_stats *stats)
{
	static const unsigned bounds[L7MP_RTP_JITTER_BOUNDS] = L7MP_RTP_JITTER_BOUNDS_MS;
	static const char *const names[] = {"ingress", "egress"};
	static const char jitter[] = "l7mp_rtp_jitter_seconds";
	const struct l7mp_rtp_totals *t = stats->rtp;
	uint64_t n[3][2];

	for (int dir = 0; dir < 2; dir++) {
		n[0][dir] = t[dir].streams;
		n[1][dir] = t[dir].packets;
		n[2][dir] = t[dir].lost;
	}
	by_direction(out, "l7mp_rtp_streams_total", "RTP streams that have ended", n[0]);
	by_direction(out, "l7mp_rtp_packets_total", "Packets of RTP streams that have ended", n[1]);
	by_direction(out, "l7mp_rtp_lost_packets_total", "Packets that these streams lack", n[2]);
	l7mp_metrics_head(out, jitter, "histogram", "Jitter at the end of RTP streams");
	for (int dir = 0; dir < 2; dir++) {
		uint64_t sum = 0;

		for (unsigned i = 0; i <= L7MP_RTP_JITTER_BOUNDS; i++) {
			char le[16] = "+Inf";

			if (i < L7MP_RTP_JITTER_BOUNDS)
				snprintf(le, sizeof(le), "%g", bounds[i] / 1000.0);
			sum += t[dir].jitter[i];
			l7mp_str_addf(out, "%s_bucket{direction=\"%s\",le=\"%s\"} %llu\n", jitter,
			              names[dir], le, (unsigned long long)sum);
		}
		l7mp_str_addf(out, "%s_sum{direction=\"%s\"} %.6f\n", jitter, names[dir],
		              (double)t[dir].jitter_us / 1e6);
		l7mp_str_addf(out, "%s_count{direction=\"%s\"} %llu\n", jitter, names[dir],
		              (unsigned long long)sum);
	}
}

static void paths(const struct l7mp_stats *s, struct l7mp_str *out)
{
	rtp_metrics(out, s);
	by_direction(out, "l7mp_slow_path_packets_total", "Packets relayed in user space",
	             s->slow_packets);
	by_direction(out, "l7mp_slow_path_bytes_total", "Payload bytes relayed in user space",
	             s->slow_bytes);
	by_direction(out, "l7mp_fast_path_packets_total", "Packets relayed in the kernel",
	             s->fast_packets);
	by_direction(out, "l7mp_fast_path_bytes_total", "Payload bytes relayed in the kernel",
	             s->fast_bytes);
}

static void splicing(const struct l7mp_api *api, struct l7mp_str *out)
{
	const struct l7mp_splice_stats st = l7mp_splice_stats(api->params.env->loop);

	l7mp_metrics_plain(out, "l7mp_stream_spliced_bytes_total", "counter",
	                   "Bytes of the slow path that went from socket to socket inside of the "
	                   "kernel, by splice(2)",
	                   st.bytes);
	l7mp_metrics_plain(out, "l7mp_stream_pipes", "gauge",
	                   "Pipes for that, see limits.max_pipes", st.open);
	l7mp_metrics_plain(out, "l7mp_stream_pipes_exhausted_total", "counter",
	                   "Times that no pipe was free, so that bytes were copied", st.exhausted);
}

static void on_request(void *arg, const char *method, const char *path, int status, uint64_t count)
{
	char code[16];

	snprintf(code, sizeof(code), "%d", status);
	l7mp_metrics_sample(
	        arg, "l7mp_rest_requests_total",
	        (struct l7mp_label[]){
	                {"method", method}, {"path", path}, {"code", code}, {NULL, NULL}},
	        count);
}

static void process(const struct l7mp_api *api, struct l7mp_str *out)
{
	const struct l7mp_loop *loop = api->params.env->loop;

	l7mp_metrics_head(out, "l7mp_build_info", "gauge", "Always 1; the version is in the label");
	one(out, "l7mp_build_info", "version", api->params.version, 1);
	l7mp_metrics_head(out, "l7mp_rest_requests_total", "counter",
	                  "REST requests by path and status");
	l7mp_api_each_request_count(api, on_request, out);
	l7mp_metrics_head(out, "l7mp_loop_latency_seconds", "gauge",
	                  "Longest time between two polls of the event loop in the last second");
	l7mp_str_addf(out, "l7mp_loop_latency_seconds %.6f\n",
	              (double)l7mp_loop_latency_us(loop, false) / 1e6);
	l7mp_metrics_head(out, "l7mp_loop_latency_max_seconds", "gauge",
	                  "The same since the start");
	l7mp_str_addf(out, "l7mp_loop_latency_max_seconds %.6f\n",
	              (double)l7mp_loop_latency_us(loop, true) / 1e6);
}

static void histogram(struct l7mp_str *out, const char *name, const struct l7mp_slice_stats *st,
                      const char *help)
{
	l7mp_metrics_head(out, name, "histogram", help);
	for (int i = 0; i < L7MP_SLICE_BUCKETS; i++)
		l7mp_str_addf(out, "%s_bucket{le=\"%g\"} %llu\n", name,
		              (double)l7mp_slice_bounds_us[i] / 1e6,
		              (unsigned long long)st->bucket[i]);
	l7mp_str_addf(out, "%s_bucket{le=\"+Inf\"} %llu\n", name, (unsigned long long)st->count);
	l7mp_str_addf(out, "%s_sum %.6f\n%s_count %llu\n", name, (double)st->sum_us / 1e6, name,
	              (unsigned long long)st->count);
}

/*
 * Writes how long the slices of long requests occupied the loop, and the cost of iterations with
 * slices.
 */
static void slices(const struct l7mp_api *api, struct l7mp_str *out)
{
	static const char *const parts[L7MP_TURN_PARTS] = {"timers", "slices", "tasks", "io"};
	const struct l7mp_loop *loop = api->params.env->loop;
	const struct l7mp_slice_stats *st = l7mp_loop_slice_stats(loop);
	const struct l7mp_turn_stats *turns = l7mp_loop_turn_stats(loop);

	histogram(out, "l7mp_control_slice_seconds", st,
	          "Time that requests, changes and other long work held the event loop in one "
	          "turn");
	l7mp_metrics_head(out, "l7mp_control_slice_max_seconds", "gauge",
	                  "The longest of them since the start");
	l7mp_str_addf(out, "l7mp_control_slice_max_seconds %.6f\n", (double)st->max_us / 1e6);
	histogram(out, "l7mp_loop_control_cpu_seconds", &turns->turns,
	          "Processor time of the loop iterations that did such work, with all that "
	          "they did besides");
	l7mp_metrics_head(out, "l7mp_loop_control_cpu_max_seconds", "gauge",
	                  "The most that one part of such an iteration took since the start");
	for (int i = 0; i < L7MP_TURN_PARTS; i++)
		l7mp_str_addf(out, "l7mp_loop_control_cpu_max_seconds{part=\"%s\"} %.6f\n",
		              parts[i], (double)turns->max_us[i] / 1e6);
}

/* Writes the metrics of one protocol, then those of the program. Returns false at the end. */
static bool protocol_step(struct metrics *m, struct l7mp_str *out)
{
	struct l7mp_env *env = m->api->params.env;
	size_t i = m->begun ? m->i++ : 0;

	if (!m->begun)
		m->i = 1;
	m->begun = true;
	if (env->protos[i]) {
		if (env->protos[i]->metrics)
			env->protos[i]->metrics(env, env->states[i], out);
		return true;
	}
	if (m->api->params.metrics)
		m->api->params.metrics(m->api->params.arg, out);
	return false;
}

static bool sync_step(struct metrics *m)
{
	struct l7mp_session *s;

	if (!m->begun)
		l7mp_cursor_open(&m->cursor, m->api->params.sessions);
	m->begun = true;
	s = l7mp_cursor_next(&m->cursor);
	if (s)
		l7mp_session_sync(s);
	return s != NULL;
}

static int metrics_step(struct api_stream *st, struct l7mp_str *out)
{
	struct metrics *m = l7mp_container_of(st, struct metrics, base);
	const struct l7mp_api *api = m->api;
	bool more = false;

	switch (m->part) {
	case METRICS_HOLD:
		if (hold(m))
			return -ENOMEM;
		break;
	case METRICS_SYNC:
		more = sync_step(m);
		break;
	case METRICS_PROCESS:
		process(api, out);
		slices(api, out);
		object_counts(api, out);
		break;
	case METRICS_LISTENERS:
	case METRICS_CLUSTERS:
		more = object_step(m, out);
		break;
	case METRICS_ENDPOINTS:
		more = endpoint_step(m, out);
		break;
	case METRICS_SESSIONS:
		sessions(api, out);
		drops(api->params.env->stats, out);
		paths(api->params.env->stats, out);
		splicing(api, out);
		break;
	case METRICS_PROTOCOLS:
		more = protocol_step(m, out);
		break;
	case METRICS_OVER:
		break;
	}
	if (!more) {
		m->part++;
		m->begun = false;
	}
	return m->part != METRICS_OVER;
}

static bool metrics_in_job(const struct api_stream *st)
{
	return l7mp_container_of(st, const struct metrics, base)->part == METRICS_HOLD;
}

static void metrics_free(struct api_stream *st)
{
	struct metrics *m = l7mp_container_of(st, struct metrics, base);

	for (size_t i = 0; i < m->n_objects; i++)
		l7mp_object_unref(m->objects[i]);
	free(m->objects);
	l7mp_cursor_close(&m->cursor);
	free(m);
}

static void metrics_answer(struct api_request *rq, struct api_response *rs)
{
	struct metrics *m;

	if (strcmp(rq->method, "GET") != 0) {
		api_fail(rs, 405, "method %.20s is not possible here, expected GET", rq->method);
		strcpy(rs->allow, "GET, HEAD");
		return;
	}
	m = calloc(1, sizeof(*m));
	if (m) {
		m->base.step = metrics_step;
		m->base.in_job = metrics_in_job;
		m->base.free = metrics_free;
		m->api = rq->api;
	}
	api_streamed(rs, m ? &m->base : NULL, "text/plain; version=0.0.4; charset=utf-8");
}

const struct api_service api_service_metrics = {
        .proto = "Prometheus",
        .answer = metrics_answer,
};

static int prometheus_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                              struct l7mp_error *err)
{
	return api_answer_connect(params, &api_service_metrics, out, err);
}

const struct l7mp_proto l7mp_proto_prometheus = {
        .desc = {.name = "Prometheus",
                 .doc = "Metrics in Prometheus' text format; refuses sessions without HTTP "
                        "metadata",
                 .roles = L7MP_ROLE_CLUSTER,
                 .flags = L7MP_PROTO_VIRTUAL | L7MP_PROTO_OPERATOR,
                 .kind = L7MP_KIND_STREAM},
        .connect = prometheus_connect,
};
