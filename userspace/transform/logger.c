/* SPDX-License-Identifier: MIT */
/* Logger: passes everything through and writes it to a file or the standard output. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/transforms.h"
#include "l7mp/util.h"
#include "sink.h"
#include "transform.h"

struct logger {
	struct l7mp_transform t;
	struct l7mp_sink *sink;
	char *prefix;
	bool time; /* in front of the prefix */
};

static int logger_write(struct l7mp_stream *s, struct l7mp_buf *buf)
{
	struct logger *l = (struct logger *)s;
	char prefix[L7MP_ISO8601_LEN + 256], time[L7MP_ISO8601_LEN];
	int rc = l7mp_transform_check(&l->t, buf);

	if (rc)
		return rc;
	if (l->time) {
		l7mp_iso8601(l7mp_wallclock_ms(), time);
		snprintf(prefix, sizeof(prefix), "%s %s", time, l->prefix);
	}
	l7mp_sink_record(l->sink, l->time ? prefix : l->prefix, buf->data, buf->len);
	l7mp_transform_emit(&l->t, buf);
	return 0;
}

static void logger_release(struct l7mp_transform *t)
{
	struct logger *l = (struct logger *)t;

	l7mp_sink_close(&l->sink);
	free(l->prefix);
}

static const struct l7mp_transform_ops ops = {
        .stream = L7MP_TRANSFORM_STREAM_OPS(logger_write, l7mp_transform_flow_none),
        .release = logger_release,
};

static int logger_connect(const struct l7mp_connect *params, struct l7mp_stream **out,
                          struct l7mp_error *err)
{
	struct l7mp_sinks *sinks = l7mp_proto_state(params->env, &l7mp_transform_logger, err);
	const char *path = l7mp_json_str(params->cluster_spec, "log_file", "-");
	struct logger *l;
	int rc;

	if (!sinks)
		return -ENOMEM;
	l = l7mp_transform_new(sizeof(*l), params, &ops);
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	l->prefix = strdup(l7mp_json_str(params->cluster_spec, "log_prefix", ""));
	l->time = l7mp_json_bool(params->cluster_spec, "log_time", false);
	rc = l->prefix ? l7mp_sink_open(sinks, path, &l->sink) : -ENOMEM;
	if (rc) {
		l7mp_transform_discard_new(&l->t);
		return l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "Logger: log_file %s: %s", path,
		                      rc == -ENXIO ? "this FIFO has no reader" : strerror(-rc));
	}
	*out = &l->t.base;
	return 0;
}

static int logger_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	struct l7mp_sinks *sinks;

	if (l7mp_sinks_new(env->loop, &sinks))
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	*state = sinks;
	return 0;
}

static void logger_stop(struct l7mp_env *env, void *state)
{
	struct l7mp_sinks *sinks = state;

	(void)env;
	l7mp_sinks_free(&sinks);
}

static void logger_reopen(struct l7mp_env *env, void *state)
{
	(void)env;
	l7mp_sinks_reopen(state);
}

static const struct l7mp_field cluster_fields[] = {
        {.key = "log_file",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_PATH,
         .def = "\"-\"",
         .doc = "file to append to, opened again at SIGHUP and SIGUSR1; - is the standard output"},
        {.key = "log_prefix",
         .type = L7MP_T_STRING,
         .def = "\"\"",
         .doc = "text before each message"},
        {.key = "log_time",
         .type = L7MP_T_BOOL,
         .def = "false",
         .doc = "the time (ISO 8601, UTC) before the prefix"},
        {0},
};
static const struct l7mp_schema cluster_spec = {
        .name = "logger-cluster",
        .doc = "Passes everything through and writes it, one line a message, as text: newlines "
               "within it as \\n, other control characters and bytes that are not UTF-8 as \\xNN",
        .fields = cluster_fields,
};

static const char *const aliases[] = {"INLINE/Logger", NULL};

const struct l7mp_proto l7mp_transform_logger = {
        .desc =
                {
                        .name = "Logger",
                        .aliases = aliases,
                        .doc = "Passes everything through and writes it to a file or the standard "
                               "output",
                        .roles = L7MP_ROLE_CLUSTER,
                        .flags = L7MP_PROTO_VIRTUAL | L7MP_PROTO_KEEPS_KIND | L7MP_PROTO_PASS,
                        .kind = L7MP_KIND_DATAGRAM,
                        .cluster_spec = &cluster_spec,
                },
        .start = logger_start,
        .stop = logger_stop,
        .reopen = logger_reopen,
        .connect = logger_connect,
};
