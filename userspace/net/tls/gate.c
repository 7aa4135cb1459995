/* SPDX-License-Identifier: MIT */
/* The TLS handshakes of a listener's clients. Sessions are created only after the handshake. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l7mp/error.h"
#include "l7mp/hash.h"
#include "tls_int.h"

#define HANDSHAKE_MS 10000
/* Each needs about 40 KiB. Beyond this the oldest is closed. */
#define PENDING_MAX 1024

struct pending {
	struct pending *prev, *next;
	struct l7mp_tls_gate *gate;
	struct l7mp_tls *tls;
	struct l7mp_addr peer;
	enum l7mp_origin origin;
	struct l7mp_timer timer;
};

struct l7mp_tls_gate {
	struct l7mp_tls_gate_params p;
	char *name;
	struct pending *pending; /* oldest first */
	unsigned n;
	struct l7mp_log_limit limit;
};

/* Removes it from the list; the caller then owns the connection. */
static struct l7mp_tls *leave(struct pending *c)
{
	struct l7mp_tls *tls = c->tls;

	l7mp_timer_stop(c->gate->p.env->loop, &c->timer);
	DL_DELETE(c->gate->pending, c);
	c->gate->n--;
	free(c);
	return tls;
}

static void refused(struct l7mp_tls_gate *g, const struct l7mp_addr *peer, const char *why)
{
	char text[L7MP_ADDR_STRLEN];
	uint32_t left_out;

	g->p.env->stats->refusals[L7MP_REFUSE_TLS]++;
	if (!l7mp_log_allowed(&g->limit, l7mp_loop_now(g->p.env->loop), 10000, 5, &left_out))
		return;
	if (left_out)
		l7mp_log_warn(g->p.module, "%s: %u more TLS handshakes failed", g->name, left_out);
	l7mp_log_warn(g->p.module, "%s: TLS with %s failed: %s", g->name, l7mp_addr_str(peer, text),
	              why);
}

static void give_up(struct pending *c, const char *why)
{
	struct l7mp_tls *tls;

	refused(c->gate, &c->peer, why);
	tls = leave(c);
	l7mp_tls_drop(&tls);
}

static void on_timer(struct l7mp_timer *t, void *arg)
{
	(void)t;
	give_up(arg, "the handshake was not done within 10 s");
}

static void on_connected(void *arg)
{
	struct pending *c = arg;
	struct l7mp_tls_gate *g = c->gate;
	enum l7mp_origin origin = c->origin;
	struct l7mp_addr peer = c->peer;
	const char *why = l7mp_tls_refusal(c->tls);

	if (why) {
		give_up(c, why);
		return;
	}
	g->p.ready(g->p.arg, leave(c), &peer, origin);
}

static void on_error(void *arg, int err)
{
	struct pending *c = arg;
	const char *why = l7mp_tls_why(c->tls);

	give_up(c, *why ? why : l7mp_errno_text(err));
}

/* `data` and `end` are called only after `connected`, when the connection has been passed on. */
static const struct l7mp_stream_io_ops ops = {.connected = on_connected, .error = on_error};

int l7mp_tls_gate_new(const struct l7mp_tls_gate_params *params, struct l7mp_tls_gate **out)
{
	struct l7mp_tls_ctx *ctx = params->ctx;
	struct l7mp_tls_gate *g = calloc(1, sizeof(*g));

	if (g)
		g->name = strdup(params->listener ? params->listener : "");
	if (!g || !g->name) {
		free(g);
		l7mp_tls_ctx_unref(&ctx);
		return -ENOMEM;
	}
	g->p = *params;
	*out = g;
	return 0;
}

int l7mp_tls_gate_make(struct l7mp_tls_set *set, const cJSON *tls, const struct l7mp_listen *listen,
                       const char *module,
                       void (*ready)(void *arg, struct l7mp_tls *tls, const struct l7mp_addr *peer,
                                     enum l7mp_origin origin),
                       void *arg, struct l7mp_tls_gate **out, struct l7mp_error *err)
{
	struct l7mp_tls_gate_params p = {.env = listen->env,
	                                 .module = module,
	                                 .listener = listen->name,
	                                 .ready = ready,
	                                 .arg = arg};
	int rc = l7mp_tls_set_server(set, tls, &p.ctx, err);

	if (rc)
		return rc;
	rc = l7mp_tls_gate_new(&p, out);
	return rc ? l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "out of memory") : 0;
}

void l7mp_tls_gate_accept(struct l7mp_tls_gate *g, int fd, const struct l7mp_addr *peer,
                          enum l7mp_origin origin)
{
	struct pending *c;

	if (l7mp_memory_short(g->p.env, 0)) {
		g->p.env->stats->refusals[L7MP_REFUSE_MAX_MEMORY]++;
		close(fd);
		refused(g, peer, "limits.max_memory is reached");
		return;
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		close(fd);
		refused(g, peer, "out of memory");
		return;
	}
	if (g->n >= PENDING_MAX)
		give_up(g->pending, "too many handshakes at once");
	c->gate = g;
	c->peer = *peer;
	c->origin = origin;
	l7mp_timer_init(&c->timer, on_timer, c);
	if (l7mp_tls_accept(g->p.env->loop, g->p.ctx, fd, &ops, c, &c->tls)) {
		free(c);
		refused(g, peer, "out of memory");
		return;
	}
	DL_APPEND(g->pending, c);
	g->n++;
	if (l7mp_timer_start(g->p.env->loop, &c->timer, HANDSHAKE_MS))
		give_up(c, "out of memory");
}

void l7mp_tls_gate_free(struct l7mp_tls_gate **pp)
{
	struct l7mp_tls_gate *g = *pp;

	*pp = NULL;
	if (!g)
		return;
	while (g->pending) {
		struct l7mp_tls *tls = leave(g->pending);

		l7mp_tls_drop(&tls);
	}
	l7mp_tls_ctx_unref(&g->p.ctx);
	free(g->name);
	free(g);
}
