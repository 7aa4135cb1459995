/* SPDX-License-Identifier: MIT */
/*
 * HTTP listeners. Each request is the source of a session. A listener holds an
 * engine; one that replaces another on the same address takes its engine over, and
 * an engine ends when no listener holds it and its last request is answered.
 * Thread: loop only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "http_int.h"
#include "l7mp/log.h"
#include "l7mp/protos.h"

#define DEFAULT_THREADS 32
#define MAX_THREADS     1024
/* How often to look whether descriptors have run out, and whether there are some again, in ms. */
#define PROBE_MS       1000
#define PROBE_AGAIN_MS 100

struct l7mp_http_state {
	struct l7mp_env *env;
	struct l7mp_mailbox *mailbox;
	struct l7mp_http_engine *engines;
	uint64_t next_id;
	struct l7mp_timer probe;
	bool exhausted;
	bool stopping;
};

struct l7mp_http_listener {
	struct l7mp_proto_listener base;
	struct l7mp_http_engine *engine;
};

struct l7mp_env *l7mp_http_env(struct l7mp_http_state *state)
{
	return state->env;
}

uint64_t l7mp_http_next_id(struct l7mp_http_state *state)
{
	return ++state->next_id;
}

struct l7mp_proto_listener *l7mp_http_current(struct l7mp_http_engine *e)
{
	return e->current ? &e->current->base : NULL;
}

/* ---- descriptors ---- */

static void each_serving(struct l7mp_http_state *state, bool suspend)
{
	for (struct l7mp_http_engine *e = state->engines; e; e = e->next) {
		struct l7mp_proto_listener *l = l7mp_http_current(e);

		if (!l || !e->serving || e->stopping)
			continue;
		if (!suspend) {
			l7mp_http_engine_resume(e);
			continue;
		}
		l7mp_http_engine_suspend(e);
		if (l->events->exhausted)
			l->events->exhausted(l->arg, -EMFILE);
	}
}

/*
 * civetweb's acceptor does not back off when descriptors run out: it would turn
 * round and round. So we look, and let it rest until there are some again.
 */
static void probe(struct l7mp_timer *t, void *arg)
{
	struct l7mp_http_state *state = arg;
	int fd = eventfd(0, EFD_CLOEXEC);
	bool none = fd < 0;

	if (fd >= 0)
		close(fd);
	if (none != state->exhausted) {
		state->exhausted = none;
		l7mp_log_warn("http", none ? "no file descriptors left: accepting rests"
		                           : "file descriptors again: accepting goes on");
		each_serving(state, none);
	}
	if (state->engines)
		l7mp_timer_start(state->env->loop, t, none ? PROBE_AGAIN_MS : PROBE_MS);
}

/* ---- the life of engines ---- */

static void state_free(struct l7mp_http_state *state)
{
	l7mp_timer_stop(state->env->loop, &state->probe);
	l7mp_mailbox_close(&state->mailbox);
	l7mp_http_library(false);
	free(state);
}

static void engine_check(struct l7mp_http_engine *e)
{
	if (e->listeners == 0 && e->xchgs == 0)
		l7mp_http_engine_stop(e);
}

void l7mp_http_xchg_finished(struct l7mp_http_engine *e)
{
	e->xchgs--;
	engine_check(e);
}

void l7mp_http_engine_gone(struct l7mp_http_engine *e)
{
	struct l7mp_http_state *state = e->state;
	struct l7mp_http_engine **p = &state->engines;

	while (*p && *p != e)
		p = &(*p)->next;
	if (*p)
		*p = e->next;
	l7mp_http_engine_free(e);
	if (!state->engines)
		l7mp_timer_stop(state->env->loop, &state->probe);
	if (state->stopping && !state->engines)
		state_free(state);
}

/* ---- listeners ---- */

static int threads_of(const cJSON *spec)
{
	return (int)l7mp_json_num(l7mp_json_member(spec, "options"), "threads", DEFAULT_THREADS);
}

/* What civetweb can't do is refused here, with the way that works. */
static int where_of(const cJSON *spec, struct l7mp_bind_addr *bind_addr, struct l7mp_error *err)
{
	int rc;

	if (l7mp_json_member(spec, "tls"))
		return l7mp_error_set(err, -ENOTSUP, L7MP_ERR_REALISE,
		                      "HTTP listeners have no TLS: put a listener with TLS of this "
		                      "proxy in front and route it to this port by a TCP cluster");
	rc = l7mp_bind_addr_from_spec(spec, bind_addr, err);
	if (rc < 0)
		return rc;
	if (bind_addr->dual) {
		l7mp_addr_any(&bind_addr->addr, AF_INET, l7mp_addr_port(&bind_addr->addr));
		bind_addr->dual = false;
	}
	if (l7mp_addr_family(&bind_addr->addr) != AF_INET)
		return l7mp_error_set(
		        err, -EAFNOSUPPORT, L7MP_ERR_REALISE,
		        "HTTP listeners are IPv4 only: put a TCP listener with the IPv6 "
		        "address in front and route it to this port by a TCP cluster");
	return 0;
}

/* The engine of a listener that goes, when it has the same address. */
static struct l7mp_http_engine *inherited(const struct l7mp_listen *params,
                                          const struct l7mp_bind_addr *bind_addr, int threads)
{
	for (size_t i = 0; i < params->n_retiring; i++) {
		struct l7mp_http_listener *old = (struct l7mp_http_listener *)params->retiring[i];
		struct l7mp_http_engine *e = old->engine;

		if (e->stopping || !l7mp_bind_addr_same(bind_addr, &e->bind_addr))
			continue;
		if (e->threads != threads)
			l7mp_log_notice(
			        "http",
			        "%s: keeps the %d threads of the listener that it replaces; "
			        "%d take effect at the next start",
			        params->name, e->threads, threads);
		return e;
	}
	return NULL;
}

static int new_engine(struct l7mp_http_state *state, const struct l7mp_bind_addr *bind_addr,
                      int threads, struct l7mp_http_engine **out, struct l7mp_error *err)
{
	struct l7mp_bind_addr bound;
	int fd, rc;

	fd = l7mp_bind_addr_socket(bind_addr, SOCK_STREAM, NULL, NULL, &bound, err);
	if (fd < 0)
		return fd;
	rc = l7mp_http_engine_new(state, state->mailbox, fd, threads, out, err);
	if (rc < 0)
		return rc;
	(*out)->bind_addr = bound;
	(*out)->next = state->engines;
	state->engines = *out;
	return 0;
}

static int http_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                       struct l7mp_error *err)
{
	struct l7mp_http_state *state = l7mp_proto_state(params->env, &l7mp_proto_http, err);
	struct l7mp_http_listener *l;
	struct l7mp_bind_addr bind_addr;
	int threads = threads_of(params->spec);
	int rc;

	if (!state)
		return -ENOMEM;
	rc = where_of(params->spec, &bind_addr, err);
	if (rc < 0)
		return rc;
	l = calloc(1, sizeof(*l));
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	l->base.proto = &l7mp_proto_http;
	l->base.events = params->events;
	l->base.arg = params->arg;
	l->engine = inherited(params, &bind_addr, threads);
	if (!l->engine) {
		rc = new_engine(state, &bind_addr, threads, &l->engine, err);
		if (rc < 0) {
			free(l);
			return rc;
		}
	}
	l->engine->listeners++;
	*out = &l->base;
	return 0;
}

static void http_activate(struct l7mp_proto_listener *base)
{
	struct l7mp_http_listener *l = (struct l7mp_http_listener *)base;
	struct l7mp_http_state *state = l->engine->state;

	l->engine->current = l;
	if (!l->engine->serving) {
		l->engine->serving = true;
		l7mp_http_engine_serve(l->engine);
		if (!l7mp_timer_armed(&state->probe))
			l7mp_timer_start(state->env->loop, &state->probe, PROBE_MS);
	}
}

static void http_unlisten(struct l7mp_proto_listener *base)
{
	struct l7mp_http_listener *l = (struct l7mp_http_listener *)base;
	struct l7mp_http_engine *e = l->engine;

	if (e->current == l)
		e->current = NULL;
	free(l);
	if (--e->listeners == 0)
		l7mp_http_engine_park(e);
	engine_check(e);
}

static void http_bound(const struct l7mp_proto_listener *base, cJSON *spec)
{
	l7mp_bind_addr_to_spec(&((const struct l7mp_http_listener *)base)->engine->bind_addr, spec);
}

/* ---- the protocol ---- */

static int http_start(struct l7mp_env *env, void **out, struct l7mp_error *err)
{
	struct l7mp_http_state *state = calloc(1, sizeof(*state));

	if (!state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	state->env = env;
	l7mp_timer_init(&state->probe, probe, state);
	if (l7mp_mailbox_new(env->loop, state, &state->mailbox) < 0) {
		free(state);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "no mailbox");
	}
	l7mp_http_library(true);
	*out = state;
	return 0;
}

static void http_stop(struct l7mp_env *env, void *arg)
{
	struct l7mp_http_state *state = arg;

	(void)env;
	state->stopping = true;
	if (!state->engines)
		state_free(state);
}

static const struct l7mp_field option_fields[] = {
        {.key = "threads",
         .type = L7MP_T_INT,
         .min = 1,
         .max = MAX_THREADS,
         .def = "32",
         .doc = "Requests that are served at once; more wait until one is done"},
        {.key = NULL},
};
static const struct l7mp_schema option_schema = {
        .name = "HTTPOptions",
        .doc = "Options of an HTTP listener",
        .fields = option_fields,
};
static const struct l7mp_field listener_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .pattern = L7MP_P_ADDRESS,
         .doc = "Local IPv4 address; without it all IPv4 addresses. For IPv6 and TLS put another "
                "listener in front"},
        {.key = "port",
         .type = L7MP_T_INT,
         .flags = L7MP_F_REQUIRED,
         .min = 0,
         .max = 65535,
         .doc = "Port to listen on; 0 takes a free one"},
        {.key = "options",
         .type = L7MP_T_OBJECT,
         .sub = &option_schema,
         .doc = "Options of the HTTP server"},
        {.key = NULL},
};

/* Tells the way that works instead of "unknown key" or a failure at run time. */
static void check_listener(const cJSON *spec, const char *path, struct l7mp_issues *issues)
{
	struct l7mp_error err = {0};
	struct l7mp_bind_addr bind_addr;

	if (where_of(spec, &bind_addr, &err) == -ENOTSUP)
		l7mp_issues_add(issues, false, spec, path, "%s", err.message);
}

static const struct l7mp_schema listener_schema = {
        .name = "HTTPListenerSpec",
        .doc = "Each request is a session: its body is what comes from the source, what goes back "
               "is "
               "the body of the answer",
        .fields = listener_fields,
        .check = check_listener,
};

const struct l7mp_proto l7mp_proto_http = {
        .desc =
                {
                        .name = "HTTP",
                        .doc = "HTTP/1.1 requests, each a session with its request line and "
                               "headers as "
                               "metadata",
                        .roles = L7MP_ROLE_LISTENER,
                        .kind = L7MP_KIND_STREAM,
                        .listener_spec = &listener_schema,
                },
        .start = http_start,
        .stop = http_stop,
        .listen = http_listen,
        .activate = http_activate,
        .unlisten = http_unlisten,
        .bound = http_bound,
};
