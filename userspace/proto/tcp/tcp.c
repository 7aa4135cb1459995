/* SPDX-License-Identifier: MIT */
/* TCP: listener and cluster, with TLS if configured. */
#include "net/stream_listener.h"

#include <errno.h>
#include <stdlib.h>

#include "l7mp/protos.h"

/* ---- listener ---- */

static void accepted(struct l7mp_stream_listener *l, struct l7mp_stream *stream,
                     struct l7mp_peer *peer)
{
	struct l7mp_accept a = {.stream = stream, .peer = peer->remote, .origin = peer->origin};

	a.name = l7mp_peer_name("TCP", l->name, peer, 0);
	a.metadata = l7mp_peer_metadata(peer);
	l7mp_peer_clear(peer);
	(void)l7mp_accept_emit(&l->base, &a);
}

static const struct l7mp_stream_listener_ops listener_ops = {
        .module = "tcp",
        .admit = true,
        .accepted = accepted,
};

static int tcp_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                      struct l7mp_error *err)
{
	struct l7mp_tls_set *set = NULL;
	struct l7mp_stream_listener *l;
	int rc;

	if (l7mp_json_member(params->spec, "tls")) {
		set = l7mp_proto_state(params->env, &l7mp_proto_tcp, err);
		if (!set)
			return -ENOMEM;
	}
	l = calloc(1, sizeof(*l));
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	rc = l7mp_stream_listener_open(l, &l7mp_proto_tcp, params, set, &listener_ops, err);
	if (rc) {
		free(l);
		return rc;
	}
	*out = &l->base;
	return 0;
}

static void tcp_unlisten(struct l7mp_proto_listener *base)
{
	struct l7mp_stream_listener *l = (struct l7mp_stream_listener *)base;

	l7mp_stream_listener_close(l);
	free(l);
}

/* ---- cluster ---- */

static int connect_tls(const struct l7mp_connect *p, const cJSON *tls, uint16_t port,
                       struct l7mp_stream **out, struct l7mp_error *err)
{
	struct l7mp_tls_set *set = l7mp_proto_state(p->env, &l7mp_proto_tcp, err);
	struct l7mp_tls_ctx *ctx;
	int rc;

	if (!set)
		return -ENOMEM;
	rc = l7mp_tls_set_client(set, tls, &ctx, err);
	if (rc)
		return rc;
	rc = l7mp_byte_stream_connect_tls(p->env, p->address, port,
	                                  l7mp_json_member(p->cluster_spec, "bind"), ctx, out, err);
	l7mp_tls_ctx_unref(&ctx);
	return rc;
}

/* Restores a connection of a previous process, if its peer is this endpoint. */
static int restore(const struct l7mp_connect *p, uint16_t port, const cJSON *tls,
                   struct l7mp_stream **out, struct l7mp_error *err)
{
	const struct l7mp_addr *remote = &p->restore->remote;
	bool numeric;
	struct l7mp_addr addr;
	int fd = p->restore->fd, rc;

	numeric = !l7mp_addr_parse(&addr, p->address, port);
	if (numeric ? !l7mp_addr_equal(&addr, remote)
	            : !p->same_endpoint || l7mp_addr_port(remote) != port)
		return -EXDEV;
	if (tls || fd < 0)
		return l7mp_error_set(err, -ENOTSUP, L7MP_ERR_UPSTREAM,
		                      tls ? "TCP: the cluster has TLS" : "TCP: no socket");
	l7mp_tcp_tune(fd);
	l7mp_tcp_user_timeout(fd, l7mp_spec_user_timeout(p->cluster_spec));
	rc = l7mp_byte_stream_restore(p->env, p->restore, true, out);
	return rc ? l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "TCP: %s", l7mp_errno_text(rc)) : 0;
}

static int tcp_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                       struct l7mp_error *err)
{
	uint16_t port = l7mp_spec_connect_port(p);
	const cJSON *tls = l7mp_json_member(p->cluster_spec, "tls");
	int rc;

	if (!p->address)
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_UPSTREAM,
		                      "TCP: the endpoint has no address");
	if (p->restore)
		return restore(p, port, tls, out, err);
	if (tls)
		rc = connect_tls(p, tls, port, out, err);
	else
		rc = l7mp_byte_stream_connect_tcp(p->env, p->address, port,
		                                  l7mp_json_member(p->cluster_spec, "bind"), out,
		                                  err);
	if (!rc)
		l7mp_byte_stream_user_timeout(*out, l7mp_spec_user_timeout(p->cluster_spec));
	return rc;
}

/* ---- state (for TLS) ---- */

static int tcp_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	struct l7mp_tls_set *set;
	int rc = l7mp_tls_set_new(&set);

	(void)env;
	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_INTERNAL, "out of memory");
	*state = set;
	return 0;
}

static void tcp_stop(struct l7mp_env *env, void *state)
{
	struct l7mp_tls_set *set = state;

	(void)env;
	l7mp_tls_set_free(&set);
}

static void tcp_reload(struct l7mp_env *env, void *state)
{
	(void)env;
	l7mp_tls_set_reload(state);
}

static const struct l7mp_field listener_fields[] = {
        L7MP_SPEC_LISTEN_ADDRESS,
        L7MP_SPEC_LISTEN_PORT,
        L7MP_SPEC_LISTEN_TLS("take only TLS connections, and relay what is in them"),
        L7MP_SPEC_CONNECTION_OPTIONS,
        {0},
};
static const struct l7mp_schema listener_spec = {
        .name = "tcp-listener",
        .doc = "Accepts TCP connections, each of them a session",
        .fields = listener_fields,
};

static const struct l7mp_field cluster_fields[] = {
        L7MP_SPEC_ENDPOINT_PORT,
        L7MP_SPEC_BIND,
        L7MP_SPEC_CLUSTER_TLS(
                "connect with TLS; {} checks the certificate against the system's CAs"),
        L7MP_SPEC_CONNECTION_OPTIONS,
        {0},
};
static const struct l7mp_schema cluster_spec = {
        .name = "tcp-cluster",
        .doc = "Connects to a TCP server",
        .fields = cluster_fields,
};

static const struct l7mp_field endpoint_fields[] = {
        L7MP_SPEC_ENDPOINT_HOST,
        L7MP_SPEC_ENDPOINT_OWN_PORT,
        {0},
};
static const struct l7mp_schema endpoint_spec = {
        .name = "tcp-endpoint",
        .doc = "A TCP server",
        .fields = endpoint_fields,
};

const struct l7mp_proto l7mp_proto_tcp = {
        .desc =
                {
                        .name = "TCP",
                        .doc = "TCP connections over IPv4 and IPv6; half-close passes through",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .flags = L7MP_PROTO_RESTORES,
                        .kind = L7MP_KIND_STREAM,
                        .listener_spec = &listener_spec,
                        .cluster_spec = &cluster_spec,
                        .endpoint_spec = &endpoint_spec,
                },
        .start = tcp_start,
        .stop = tcp_stop,
        .reload = tcp_reload,
        .listen = tcp_listen,
        .activate = l7mp_stream_listener_activate,
        .restore = l7mp_stream_listener_restore,
        .pause = l7mp_stream_listener_pause,
        .resume = l7mp_stream_listener_resume,
        .hand = l7mp_stream_listener_hand,
        .stream_listener = true,
        .unlisten = tcp_unlisten,
        .bound = l7mp_stream_listener_bound,
        .connect = tcp_connect,
};
