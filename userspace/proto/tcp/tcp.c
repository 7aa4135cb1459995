/* SPDX-License-Identifier: MIT */
/* TCP: listener and cluster, with TLS when the spec says so. */
#include "net/net.h"

#include <errno.h>
#include <stdlib.h>

#include "l7mp/log.h"
#include "l7mp/protos.h"
#include "net/tls/tls_int.h"

struct tcp_listener {
	struct l7mp_tcp_listener tcp; /* first */
	struct l7mp_tls_gate *gate;   /* NULL: no TLS */
};

static void accepted_tls(void *arg, struct l7mp_tls *tls, const struct l7mp_addr *peer)
{
	struct tcp_listener *l = arg;
	struct l7mp_accept a = {.peer = *peer};
	cJSON *details = l7mp_tls_metadata(tls);
	struct l7mp_addr local;
	int rc;

	if (l7mp_tls_local(tls, &local))
		local = l->tcp.bind_addr.addr;
	rc = l7mp_byte_stream_accept_tls(l->tcp.env, tls, peer, &a.stream);
	if (rc) {
		cJSON_Delete(details);
		l7mp_log_warn("tcp", "%s: a connection is refused: %s", l->tcp.name,
		              l7mp_errno_text(rc));
		return;
	}
	a.name = l7mp_inet_name("TCP", peer, &local, 0);
	a.metadata = l7mp_inet_metadata("TCP", peer, &local);
	if (l7mp_json_add(a.metadata, "TLS", details)) {
		cJSON_Delete(a.metadata);
		a.metadata = NULL;
	}
	(void)l7mp_accept_emit(&l->tcp.base, &a);
}

static void accepted(struct l7mp_tcp_listener *l, int fd, const struct l7mp_addr *peer)
{
	struct l7mp_tls_gate *gate = ((struct tcp_listener *)l)->gate;
	struct l7mp_accept a = {.peer = *peer};
	struct l7mp_addr local;
	int rc;

	if (gate) {
		l7mp_tls_gate_accept(gate, fd, peer);
		return;
	}
	rc = l7mp_fd_local(fd, &local);
	if (rc)
		local = l->bind_addr.addr;
	rc = l7mp_byte_stream_accept(l->env, L7MP_BYTE_STREAM_TCP, fd, peer, &a.stream);
	if (rc) {
		l7mp_log_warn("tcp", "%s: a connection is refused: %s", l->name,
		              l7mp_errno_text(rc));
		return;
	}
	a.name = l7mp_inet_name("TCP", peer, &local, 0);
	a.metadata = l7mp_inet_metadata("TCP", peer, &local);
	(void)l7mp_accept_emit(&l->base, &a);
}

static void listener_free(struct tcp_listener *l)
{
	l7mp_tls_gate_free(&l->gate);
	free(l);
}

static int tcp_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                      struct l7mp_error *err)
{
	const cJSON *tls = l7mp_json_member(params->spec, "tls");
	struct l7mp_tls_set *set = tls ? l7mp_proto_state(params->env, &l7mp_proto_tcp, err) : NULL;
	struct tcp_listener *l;
	int rc = 0;

	if (tls && !set)
		return -ENOMEM;
	l = calloc(1, sizeof(*l));
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	if (tls)
		rc = l7mp_tls_gate_make(set, tls, params, "tcp", accepted_tls, l, &l->gate, err);
	if (!rc)
		rc = l7mp_tcp_listener_open(&l->tcp, &l7mp_proto_tcp, params, accepted, err);
	if (rc) {
		listener_free(l);
		return rc;
	}
	*out = &l->tcp.base;
	return 0;
}

static void tcp_unlisten(struct l7mp_proto_listener *base)
{
	struct tcp_listener *l = (struct tcp_listener *)base;

	l7mp_tcp_listener_close(&l->tcp);
	listener_free(l);
}

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

static int tcp_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                       struct l7mp_error *err)
{
	uint16_t port = l7mp_spec_port(p->cluster_spec);
	const cJSON *tls = l7mp_json_member(p->cluster_spec, "tls");

	if (!p->address)
		return l7mp_error_set(err, -EINVAL, L7MP_ERR_UPSTREAM,
		                      "TCP: the endpoint has no address");
	if (tls)
		return connect_tls(p, tls, port, out, err);
	return l7mp_byte_stream_connect_tcp(p->env, p->address, port,
	                                    l7mp_json_member(p->cluster_spec, "bind"), out, err);
}

/* ---- state: only what TLS needs ---- */

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
        {.key = "tls",
         .type = L7MP_T_OBJECT,
         .sub = &l7mp_tls_listener_schema,
         .doc = "take only TLS connections, and relay what is in them"},
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
        {.key = "tls",
         .type = L7MP_T_OBJECT,
         .sub = &l7mp_tls_cluster_schema,
         .doc = "connect with TLS; {} checks the certificate against the system's CAs"},
        {0},
};
static const struct l7mp_schema cluster_spec = {
        .name = "tcp-cluster",
        .doc = "Connects to a TCP server",
        .fields = cluster_fields,
};

static const struct l7mp_field endpoint_fields[] = {
        L7MP_SPEC_ENDPOINT_HOST,
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
                        .kind = L7MP_KIND_STREAM,
                        .listener_spec = &listener_spec,
                        .cluster_spec = &cluster_spec,
                        .endpoint_spec = &endpoint_spec,
                },
        .start = tcp_start,
        .stop = tcp_stop,
        .reload = tcp_reload,
        .listen = tcp_listen,
        .activate = l7mp_tcp_listener_activate,
        .unlisten = tcp_unlisten,
        .bound = l7mp_tcp_listener_bound,
        .connect = tcp_connect,
};
