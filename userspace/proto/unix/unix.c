/* SPDX-License-Identifier: MIT */
/* UNIX stream sockets: listener and cluster. */
#include "l7mp/protos.h"
#include "net/net.h"
#include "unix_int.h"

static int accept_stream(struct l7mp_env *env, int fd, const struct l7mp_addr *local,
                         struct l7mp_stream **out)
{
	return l7mp_byte_stream_accept(env, L7MP_BYTE_STREAM_UNIX, fd, local, out);
}

static const struct l7mp_unix_kind kind = {
        .proto = &l7mp_proto_unix,
        .type = SOCK_STREAM,
        .prefix = "UNIX",
        .accept = accept_stream,
};

static int unix_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                       struct l7mp_error *err)
{
	return l7mp_unix_listen(&kind, params, out, err);
}

static int unix_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                        struct l7mp_error *err)
{
	struct l7mp_addr remote;
	int rc = l7mp_unix_endpoint("UNIX", p->address, &remote, err);

	return rc ? rc : l7mp_byte_stream_connect_unix(p->env, &remote, out, err);
}

static const struct l7mp_schema listener_spec = {
        .name = "unix-listener",
        .doc = "Accepts connections on a UNIX stream socket, each of them a session",
        .fields = l7mp_unix_listener_fields,
};
static const struct l7mp_schema endpoint_spec = {
        .name = "unix-endpoint",
        .doc = "A server on a UNIX stream socket",
        .fields = l7mp_unix_endpoint_fields,
};

static const char *const aliases[] = {"UNIX/stream", NULL};

const struct l7mp_proto l7mp_proto_unix = {
        .desc =
                {
                        .name = "UnixDomainSocket",
                        .aliases = aliases,
                        .doc = "UNIX stream sockets, by path or abstract name",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .kind = L7MP_KIND_STREAM,
                        .listener_spec = &listener_spec,
                        .endpoint_spec = &endpoint_spec,
                },
        .start = l7mp_unix_start,
        .stop = l7mp_unix_stop,
        .listen = unix_listen,
        .activate = l7mp_unix_activate,
        .unlisten = l7mp_unix_unlisten,
        .connect = unix_connect,
};
