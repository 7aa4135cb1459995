/* SPDX-License-Identifier: MIT */
/* JSONSocket listeners: another protocol's listener, and the handshakes on what it accepts. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jsonsocket_int.h"
#include "l7mp/protos.h"

/* The limits are asked when a header has come: what is not a session yet is bounded by itself. */
static int on_admit(void *arg, const struct l7mp_addr *peer)
{
	(void)arg;
	(void)peer;
	return 0;
}

static void on_accept(void *arg, struct l7mp_accept *a)
{
	struct jsock_listener *l = arg;

	/* Who has waited longest makes room, so that silent clients can't lock others out. */
	if (l->n_pending >= JSOCK_PENDING_MAX)
		jsock_source_refuse(l->pending, 503, "", true);
	jsock_source_new(l, a);
}

static void on_exhausted(void *arg, int err)
{
	struct jsock_listener *l = arg;

	if (l->base.events->exhausted)
		l->base.events->exhausted(l->base.arg, err);
}

static const struct l7mp_listen_events inner_events = {
        .admit = on_admit,
        .accept = on_accept,
        .exhausted = on_exhausted,
};

/* The transports' listeners of those JSONSocket listeners that retire. */
static struct l7mp_proto_listener **inner_retiring(const struct l7mp_listen *params,
                                                   const struct l7mp_proto *proto, size_t *n)
{
	struct l7mp_proto_listener **v =
	        calloc(params->n_retiring + 1, sizeof(struct l7mp_proto_listener *));

	*n = 0;
	for (size_t i = 0; v && i < params->n_retiring; i++) {
		struct jsock_listener *old = (struct jsock_listener *)params->retiring[i];

		if (old->proto == proto)
			v[(*n)++] = old->inner;
	}
	return v;
}

static int listen_inner(struct jsock_listener *l, const struct l7mp_listen *params,
                        struct l7mp_error *err)
{
	struct l7mp_listen inner = {.env = params->env,
	                            .name = params->name,
	                            .spec = l7mp_json_member(params->spec, "transport"),
	                            .events = &inner_events,
	                            .arg = l};
	struct l7mp_proto_listener **retiring = inner_retiring(params, l->proto, &inner.n_retiring);
	struct l7mp_error local = {.code = L7MP_OK};
	char path[sizeof(local.path)];
	int rc;

	if (!retiring)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	inner.retiring = retiring;
	rc = l->proto->listen(&inner, &l->inner, &local);
	free(retiring);
	if (!rc)
		return 0;
	l->inner = NULL;
	snprintf(path, sizeof(path), "transport%s%.200s", local.path[0] ? "." : "", local.path);
	memcpy(local.path, path, sizeof(path));
	if (err)
		*err = local;
	return rc;
}

int jsock_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                 struct l7mp_error *err)
{
	struct jsock_state *state = l7mp_proto_state(params->env, &l7mp_proto_jsonsocket, err);
	struct jsock_listener *l;
	int rc;

	if (!state)
		return -ENOMEM;
	l = calloc(1, sizeof(*l));
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	l->base = (struct l7mp_proto_listener){
	        .proto = &l7mp_proto_jsonsocket, .events = params->events, .arg = params->arg};
	l->env = params->env;
	l->state = state;
	l->name = strdup(params->name ? params->name : "");
	l->proto = jsock_transport_proto(params->env, params->spec, &l->transport, err);
	if (!l->name)
		rc = l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	else
		rc = l->proto ? listen_inner(l, params, err) : -EINVAL;
	if (rc) {
		free(l->name);
		free(l);
		return rc;
	}
	*out = &l->base;
	return 0;
}

void jsock_activate(struct l7mp_proto_listener *base)
{
	struct jsock_listener *l = (struct jsock_listener *)base;

	l->proto->activate(l->inner);
}

void jsock_unlisten(struct l7mp_proto_listener *base)
{
	struct jsock_listener *l = (struct jsock_listener *)base;

	while (l->pending)
		jsock_source_refuse(l->pending, 503, "", true);
	l->proto->unlisten(l->inner);
	free(l->name);
	free(l);
}

void jsock_bound(const struct l7mp_proto_listener *base, cJSON *spec)
{
	const struct jsock_listener *l = (const struct jsock_listener *)base;
	cJSON *transport = l7mp_json_member(spec, "transport");

	if (transport && l->proto->bound)
		l->proto->bound(l->inner, transport);
}
