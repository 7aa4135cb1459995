/* SPDX-License-Identifier: MIT */
/*
 * The Prometheus cluster: the proxy's counters in Prometheus' text format 0.0.4
 * for whatever an HTTP listener routes here.
 */
#include <stdio.h>
#include <string.h>

#include "api_int.h"
#include "l7mp/metrics.h"

struct counters {
	struct l7mp_str *out;
	enum l7mp_obj_kind kind;
	const char *metric, *label;
};

static void one(struct l7mp_str *out, const char *name, const char *key, const char *value,
                uint64_t n)
{
	l7mp_metrics_sample(out, name, (struct l7mp_label[]){{key, value}, {NULL, NULL}}, n);
}

static void on_counter(void *arg, enum l7mp_obj_kind kind, const char *name, const char *protocol,
                       uint64_t count)
{
	struct counters *c = arg;

	if (kind != c->kind)
		return;
	l7mp_metrics_sample(
	        c->out, c->metric,
	        (struct l7mp_label[]){{c->label, name}, {"protocol", protocol}, {NULL, NULL}},
	        count);
}

static void objects(const struct l7mp_api *api, struct l7mp_str *out)
{
	struct counters c = {out, L7MP_OBJ_LISTENER, "listener_requests_total", "listenerName"};

	l7mp_metrics_head(out, c.metric, "counter", "Sessions that a listener emitted");
	l7mp_sessions_each_counter(api->params.sessions, on_counter, &c);
	c = (struct counters){out, L7MP_OBJ_CLUSTER, "cluster_requests_total", "clusterName"};
	l7mp_metrics_head(out, c.metric, "counter", "Connects that a cluster got");
	l7mp_sessions_each_counter(api->params.sessions, on_counter, &c);
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
	l7mp_metrics_plain(out, "l7mp_retries_total", "counter",
	                   "Attempts to connect a stage again", s->retries);
}

static void drops(const struct l7mp_stats *s, struct l7mp_str *out)
{
	l7mp_metrics_head(out, "l7mp_drops_total", "counter",
	                  "Datagrams that were not delivered, by reason");
	for (int i = 0; i < L7MP_DROP_COUNT; i++)
		one(out, "l7mp_drops_total", "reason", l7mp_drop_name((enum l7mp_drop)i),
		    s->drops[i]);
	l7mp_metrics_head(out, "l7mp_drop_bytes_total", "counter", "Their payload bytes");
	for (int i = 0; i < L7MP_DROP_COUNT; i++)
		one(out, "l7mp_drop_bytes_total", "reason", l7mp_drop_name((enum l7mp_drop)i),
		    s->drop_bytes[i]);
	l7mp_metrics_head(out, "l7mp_refusals_total", "counter", "What a limit refused, by limit");
	for (int i = 0; i < L7MP_REFUSE_COUNT; i++)
		one(out, "l7mp_refusals_total", "limit", l7mp_refuse_name((enum l7mp_refuse)i),
		    s->refusals[i]);
}

static void by_direction(struct l7mp_str *out, const char *name, const char *help,
                         const uint64_t n[2])
{
	l7mp_metrics_head(out, name, "counter", help);
	one(out, name, "direction", "ingress", n[L7MP_INGRESS]);
	one(out, name, "direction", "egress", n[L7MP_EGRESS]);
}

static void paths(const struct l7mp_stats *s, struct l7mp_str *out)
{
	by_direction(out, "l7mp_slow_path_packets_total", "Packets relayed in user space",
	             s->slow_packets);
	by_direction(out, "l7mp_slow_path_bytes_total", "Payload bytes relayed in user space",
	             s->slow_bytes);
	by_direction(out, "l7mp_fast_path_packets_total", "Packets relayed in the kernel",
	             s->fast_packets);
	by_direction(out, "l7mp_fast_path_bytes_total", "Payload bytes relayed in the kernel",
	             s->fast_bytes);
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

/* What the protocols themselves count, each metric by one protocol. */
static void protocols(const struct l7mp_api *api, struct l7mp_str *out)
{
	struct l7mp_env *env = api->params.env;

	for (size_t i = 0; env->protos[i]; i++)
		if (env->protos[i]->metrics)
			env->protos[i]->metrics(env, env->states[i], out);
}

static void prometheus_answer(struct api_request *rq, struct api_response *rs)
{
	const struct l7mp_api *api = rq->api;
	struct l7mp_str out = {0};

	if (strcmp(rq->method, "GET") != 0 && strcmp(rq->method, "HEAD") != 0) {
		api_fail(rs, 405, "method %.20s is not possible here, expected GET", rq->method);
		strcpy(rs->allow, "GET, HEAD");
		return;
	}
	/* What the kernel has counted so far. */
	l7mp_sessions_sync(api->params.sessions);
	process(api, &out);
	objects(api, &out);
	sessions(api, &out);
	drops(api->params.env->stats, &out);
	paths(api->params.env->stats, &out);
	protocols(api, &out);
	if (api->params.metrics)
		api->params.metrics(api->params.arg, &out);
	rs->text = l7mp_str_take(&out);
	if (!rs->text) {
		api_fail(rs, 500, "out of memory");
		return;
	}
	rs->content_type = "text/plain; version=0.0.4; charset=utf-8";
	rs->status = 200;
}

static const struct api_answer_ops prometheus_ops = {
        .proto = "Prometheus",
        .answer = prometheus_answer,
};

static int prometheus_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                              struct l7mp_error *err)
{
	return api_answer_connect(params, &prometheus_ops, out, err);
}

const struct l7mp_proto l7mp_proto_prometheus = {
        .desc = {.name = "Prometheus",
                 .doc = "Metrics in Prometheus' text format; refuses sessions without HTTP "
                        "metadata",
                 .roles = L7MP_ROLE_CLUSTER,
                 .flags = L7MP_PROTO_VIRTUAL,
                 .kind = L7MP_KIND_STREAM},
        .connect = prometheus_connect,
};
