/* SPDX-License-Identifier: MIT */
/* HTTP listeners (RFC 9110, RFC 9112): each request is the source of a session. */
#include <errno.h>
#include <stdlib.h>

#include "http.h"
#include "l7mp/hash.h"
#include "l7mp/protos.h"

/* Defaults of the deadlines in struct http_deadlines, in s; see option_fields. */
#define HEADER_S    10
#define BODY_S      5
#define KEEPALIVE_S 60

/* The number of idle connections to close when no descriptors are available. */
#define SPARE 16

/* ---- connections ---- */

static void state_free(struct http_state *state)
{
	l7mp_tls_set_free(&state->tls);
	free(state);
}

void http_conn_closed(struct http_state *state)
{
	if (--state->n_conns == 0 && state->stopping)
		state_free(state);
}

static void accepted(struct l7mp_stream_listener *l, struct l7mp_stream *stream,
                     struct l7mp_peer *peer)
{
	http_conn_new((struct http_listener *)l, stream, peer);
}

/* No descriptors are available: closes idle connections. */
static void exhausted(struct l7mp_stream_listener *base)
{
	struct http_listener *l = (struct http_listener *)base;
	struct http_conn *c, *next;
	int n = 0;

	DL_FOREACH_SAFE (l->idle, c, next) {
		if (n++ == SPARE)
			break;
		http_conn_close_idle(c);
	}
}

static const struct l7mp_stream_listener_ops listener_ops = {
        .module = "http",
        .accepted = accepted,
        .exhausted = exhausted,
};

/* ---- listeners ---- */

static uint32_t deadline(const cJSON *spec, const char *key, unsigned seconds)
{
	const cJSON *options = l7mp_json_member(spec, "options");

	return (uint32_t)(1000 * l7mp_json_num(options, key, seconds));
}

static struct http_deadlines deadlines_of(const cJSON *spec)
{
	return (struct http_deadlines){
	        .header = deadline(spec, "header_timeout", HEADER_S),
	        .body = deadline(spec, "body_timeout", BODY_S),
	        .keepalive = deadline(spec, "keepalive_timeout", KEEPALIVE_S),
	};
}

static int http_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                       struct l7mp_error *err)
{
	struct http_state *state = l7mp_proto_state(params->env, &l7mp_proto_http, err);
	struct http_listener *l;
	int rc;

	if (!state)
		return -ENOMEM;
	l = calloc(1, sizeof(*l));
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	l->state = state;
	l->deadlines = deadlines_of(params->spec);
	rc = l7mp_stream_listener_open(&l->base, &l7mp_proto_http, params, state->tls,
	                               &listener_ops, err);
	if (rc) {
		free(l);
		return rc;
	}
	*out = &l->base.base;
	return 0;
}

static void leave_all(struct http_conn *list, struct http_listener *successor)
{
	struct http_conn *c, *next;

	DL_FOREACH_SAFE (list, c, next)
		http_conn_inherit(c, successor);
}

/*
 * Takes over the connections of the listener that this one replaces, unless its TLS settings
 * differ.
 */
static void http_activate(struct l7mp_proto_listener *base)
{
	struct http_listener *l = (struct http_listener *)base;
	struct http_listener *from = (struct http_listener *)l->base.from;

	/* The socket may have been that of another protocol. */
	if (from && from->base.base.proto == &l7mp_proto_http &&
	    (from->base.tls ? l7mp_json_equal(from->base.tls, l->base.tls) : !l->base.tls)) {
		leave_all(from->idle, l);
		leave_all(from->busy, l);
	}
	l7mp_stream_listener_activate(base);
}

static void http_unlisten(struct l7mp_proto_listener *base)
{
	struct http_listener *l = (struct http_listener *)base;

	l7mp_stream_listener_close(&l->base);
	leave_all(l->idle, NULL);
	leave_all(l->busy, NULL);
	free(l);
}

/* ---- state ---- */

static int http_start(struct l7mp_env *env, void **out, struct l7mp_error *err)
{
	struct http_state *state = calloc(1, sizeof(*state));

	if (!state || l7mp_tls_set_new(&state->tls)) {
		free(state);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	state->env = env;
	*out = state;
	return 0;
}

/* Connections that are still sending their last answer keep the loop and the state alive. */
static void http_stop(struct l7mp_env *env, void *arg)
{
	struct http_state *state = arg;
	struct http_conn *c, *next;

	(void)env;
	state->stopping = true;
	if (!state->n_conns) {
		state_free(state);
		return;
	}
	DL_FOREACH_SAFE (state->orphans, c, next)
		http_conn_close_idle(c);
}

static void http_reload(struct l7mp_env *env, void *state)
{
	(void)env;
	l7mp_tls_set_reload(((struct http_state *)state)->tls);
}

/* ---- tables ---- */

#define DEADLINE(name, seconds, text)                                                         \
	{                                                                                     \
		.key = name, .type = L7MP_T_NUMBER, .min = 0.1, .max = 86400, .def = seconds, \
		.doc = text                                                                   \
	}

static const struct l7mp_field option_fields[] = {
        L7MP_SPEC_USER_TIMEOUT,
        DEADLINE("header_timeout", "10",
                 "seconds for a whole request head, from its first byte on; else 408"),
        DEADLINE("body_timeout", "5",
                 "seconds after which a request's body must have come with 240 bytes a second on "
                 "average; else 408. Time in which the route takes nothing does not count"),
        DEADLINE("keepalive_timeout", "60", "seconds that a connection without a request is kept"),
        {0},
};
static const struct l7mp_schema option_schema = {
        .name = "http-options",
        .doc = "Options of HTTP connections",
        .fields = option_fields,
};

static const struct l7mp_field listener_fields[] = {
        L7MP_SPEC_LISTEN_ADDRESS,
        L7MP_SPEC_LISTEN_PORT_FLAGS(0),
        L7MP_SPEC_LISTEN_FILENAME_FLAGS(
                0, "in the place of address and port: path of a UNIX socket to listen on"),
        L7MP_SPEC_UNIX_ACCESS,
        L7MP_SPEC_LISTEN_TLS("take only TLS connections (https)"),
        {.key = "options",
         .type = L7MP_T_OBJECT,
         .sub = &option_schema,
         .doc = "options of the connections"},
        {0},
};

/* Requires either a port or the name of a UNIX socket. */
static void check_listener(const cJSON *spec, const char *path, struct l7mp_issues *issues)
{
	bool port = l7mp_json_member(spec, "port"), name = l7mp_json_member(spec, "filename");

	if (!port && !name)
		l7mp_issues_add(issues, false, spec, path, "expected port, or filename");
	else if (name && (port || l7mp_json_member(spec, "address")))
		l7mp_issues_add(issues, false, spec, path,
		                "expected either port (and address) or filename, got both");
	l7mp_unix_access_check(spec, path, issues);
}

static const struct l7mp_schema listener_schema = {
        .name = "http-listener",
        .doc = "Each request is a session: its body is the data from the source, and data to the "
               "source is the body of the answer",
        .fields = listener_fields,
        .check = check_listener,
};

const struct l7mp_proto l7mp_proto_http = {
        .desc =
                {
                        .name = "HTTP",
                        .doc = "HTTP/1.1 requests, each a session with its request line and "
                               "headers as metadata",
                        .roles = L7MP_ROLE_LISTENER,
                        .flags = L7MP_PROTO_REQUESTS,
                        .cost = 1024,
                        .kind = L7MP_KIND_STREAM,
                        .listener_spec = &listener_schema,
                },
        .start = http_start,
        .stop = http_stop,
        .reload = http_reload,
        .listen = http_listen,
        .activate = http_activate,
        .pause = l7mp_stream_listener_pause,
        .resume = l7mp_stream_listener_resume,
        .hand = l7mp_stream_listener_hand,
        .stream_listener = true,
        .unlisten = http_unlisten,
        .bound = l7mp_stream_listener_bound,
};
