/* SPDX-License-Identifier: MIT */
/* WebSocket: listener and cluster (RFC 6455). Thread: loop only. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l7mp/log.h"
#include "websocket.h"

/* ---- listener ---- */

static void accepted(struct l7mp_stream_listener *l, struct l7mp_stream *stream,
                     struct l7mp_peer *peer)
{
	l7mp_ws_head_read((struct ws_listener *)l, stream, peer);
}

/* The limits are checked for each request, so that it can be answered with 503. */
static const struct l7mp_stream_listener_ops listener_ops = {
        .module = "ws",
        .accepted = accepted,
};

static void listener_free(struct ws_listener *l)
{
	cJSON_Delete(l->subprotocols);
	cJSON_Delete(l->origins);
	free(l->path);
	free(l);
}

uint32_t l7mp_ws_ping_ms(const cJSON *spec)
{
	return (uint32_t)(1000 * l7mp_json_num(spec, "ping_interval", L7MP_WS_PING_S));
}

uint32_t l7mp_ws_message_ms(const cJSON *spec)
{
	return (uint32_t)(1000 * l7mp_json_num(spec, "message_timeout", L7MP_WS_MESSAGE_S));
}

/* An optional list of a spec. 0 or -ENOMEM. */
static int copy_list(const cJSON *spec, const char *key, cJSON **out)
{
	const cJSON *list = l7mp_json_member(spec, key);

	*out = list ? cJSON_Duplicate(list, true) : NULL;
	return list && !*out ? -ENOMEM : 0;
}

static int ws_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                     struct l7mp_error *err)
{
	struct ws_state *st = l7mp_proto_state(params->env, &l7mp_proto_ws, err);
	const char *path = l7mp_json_str(params->spec, "path", NULL);
	struct ws_listener *l;
	int rc;

	if (!st)
		return -EIO;
	l = calloc(1, sizeof(*l));
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	l->state = st;
	if (path) {
		l->path = strdup(path);
		if (!l->path) {
			listener_free(l);
			return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
		}
	}
	l->ping_ms = l7mp_ws_ping_ms(params->spec);
	l->message_ms = l7mp_ws_message_ms(params->spec);
	if (copy_list(params->spec, "subprotocol", &l->subprotocols) ||
	    copy_list(params->spec, "origins", &l->origins)) {
		listener_free(l);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	rc = l7mp_stream_listener_open(&l->below, &l7mp_proto_ws, params, st->tls, &listener_ops,
	                               err);
	if (rc < 0) {
		listener_free(l);
		return rc;
	}
	*out = &l->below.base;
	return 0;
}

static void ws_unlisten(struct l7mp_proto_listener *base)
{
	struct ws_listener *l = (struct ws_listener *)base;

	l7mp_stream_listener_close(&l->below);
	l7mp_ws_head_cancel_all(l);
	listener_free(l);
}

/* ---- state ---- */

static int ws_start(struct l7mp_env *env, void **out, struct l7mp_error *err)
{
	struct ws_state *st = calloc(1, sizeof(*st));
	int rc = -ENOMEM;

	if (st)
		st->scratch = malloc(L7MP_WS_CHUNK);
	if (!st || !st->scratch || l7mp_tls_set_new(&st->tls)) {
		l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "out of memory");
		goto fail;
	}
	st->env = env;
	rc = l7mp_ws_lws_start(st, err);
	if (!rc) {
		*out = st;
		return 0;
	}
	l7mp_tls_set_free(&st->tls);
	/* A partly initialised libwebsockets is destroyed like any other. */
	l7mp_ws_lws_stop(st);
	return rc;
fail:
	if (st)
		free(st->scratch);
	free(st);
	return rc;
}

static void ws_stop(struct l7mp_env *env, void *state)
{
	struct ws_state *st = state;

	(void)env;
	l7mp_tls_set_free(&st->tls);
	l7mp_ws_lws_stop(st);
}

static void ws_reload(struct l7mp_env *env, void *state)
{
	struct ws_state *st = state;

	(void)env;
	l7mp_tls_set_reload(st->tls);
}

/* ---- tables ---- */

#define MESSAGE_TIMEOUT                                                                          \
	{                                                                                        \
		.key = "message_timeout", .type = L7MP_T_NUMBER, .min = 0.1, .max = 86400,       \
		.def = "60",                                                                     \
		.doc = "seconds in which a message that is not finished has to grow by 64 KiB; " \
		       "else the "                                                               \
		       "connection is closed with code 1008"                                     \
	}

static const struct l7mp_field name_item = {.type = L7MP_T_STRING, .min = 1, .max = 100};
static const struct l7mp_field origin_item = {.type = L7MP_T_STRING, .min = 1, .max = 300};
static const struct l7mp_field listener_fields[] = {
        L7MP_SPEC_LISTEN_ADDRESS,
        L7MP_SPEC_LISTEN_PORT,
        {.key = "path",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_URLPATH,
         .doc = "the only path that is served, others are answered 404; without it any path"},
        {.key = "subprotocol",
         .type = L7MP_T_ARRAY,
         .item = &name_item,
         .doc = "subprotocols that are agreed to when the route has no WebSocket upstream that "
                "chooses: the first of these that the client offers"},
        {.key = "origins",
         .type = L7MP_T_ARRAY,
         .item = &origin_item,
         .doc = "the accepted values of Origin, others are answered 403; without it any"},
        {.key = "ping_interval",
         .type = L7MP_T_NUMBER,
         .min = 0,
         .max = 86400,
         .def = "30",
         .doc = "seconds between pings to the client, which is dropped when it has not answered by "
                "the next one; 0: no pings"},
        MESSAGE_TIMEOUT,
        L7MP_SPEC_LISTEN_TLS("take only TLS connections (wss)"),
        L7MP_SPEC_CONNECTION_OPTIONS,
        {.key = NULL},
};
static const struct l7mp_schema listener_spec = {
        .name = "websocket-listener",
        .doc = "Accepts WebSocket connections, each of them a session; the handshake is answered "
               "when the route is connected, with the subprotocol that a WebSocket upstream has "
               "chosen",
        .fields = listener_fields,
};

static const struct l7mp_field cluster_fields[] = {
        L7MP_SPEC_ENDPOINT_PORT,
        {.key = "path",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_URLPATH,
         .def = "\"/\"",
         .doc = "path to ask for when the session has no HTTP.url.path in its metadata"},
        {.key = "subprotocol",
         .type = L7MP_T_STRING,
         .min = 1,
         .max = 100,
         .doc = "subprotocol to offer, which the server has to agree to; without it those that "
                "the session's client offers"},
        {.key = "ping_interval",
         .type = L7MP_T_NUMBER,
         .min = 0,
         .max = 86400,
         .def = "30",
         .doc = "seconds between pings to the server, as of listeners; 0: no pings"},
        MESSAGE_TIMEOUT,
        L7MP_SPEC_BIND,
        L7MP_SPEC_CLUSTER_TLS(
                "connect with TLS (wss); {} checks the certificate against the system's CAs"),
        L7MP_SPEC_CONNECTION_OPTIONS,
        {.key = NULL},
};
static const struct l7mp_schema cluster_spec = {
        .name = "websocket-cluster",
        .doc = "Connects to a WebSocket server; path, query, Host and headers are those of the "
               "session's HTTP metadata when there is any, without hop-by-hop headers",
        .fields = cluster_fields,
};

static const struct l7mp_field endpoint_fields[] = {
        L7MP_SPEC_ENDPOINT_HOST,
        L7MP_SPEC_ENDPOINT_OWN_PORT,
        {.key = NULL},
};
static const struct l7mp_schema endpoint_spec = {
        .name = "websocket-endpoint",
        .doc = "A WebSocket server",
        .fields = endpoint_fields,
};

static const char *const aliases[] = {"WS", NULL};

const struct l7mp_proto l7mp_proto_ws = {
        .desc =
                {
                        .name = "WebSocket",
                        .cost = 8192,
                        .aliases = aliases,
                        .doc = "WebSocket connections (RFC 6455); a message is a datagram, text or "
                               "binary",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .kind = L7MP_KIND_DATAGRAM,
                        .listener_spec = &listener_spec,
                        .cluster_spec = &cluster_spec,
                        .endpoint_spec = &endpoint_spec,
                },
        .start = ws_start,
        .stop = ws_stop,
        .reload = ws_reload,
        .listen = ws_listen,
        .activate = l7mp_stream_listener_activate,
        .pause = l7mp_stream_listener_pause,
        .resume = l7mp_stream_listener_resume,
        .hand = l7mp_stream_listener_hand,
        .stream_listener = true,
        .unlisten = ws_unlisten,
        .bound = l7mp_stream_listener_bound,
        .connect = l7mp_ws_connect,
};
