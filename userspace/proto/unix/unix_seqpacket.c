/* SPDX-License-Identifier: MIT */
/*
 * UNIX seqpacket sockets: connections that keep message boundaries.
 *
 * The end of a connection and a message of no bytes look the same to a receiver
 * (recv(2) returns 0): so empty messages are not sent but dropped and counted (too-short), and
 * one that comes in is the end.
 */
#include "l7mp/protos.h"
#include "net/net.h"
#include "unix_int.h"

static const struct l7mp_unix_kind kind = {
        .proto = &l7mp_proto_unix_seqpacket,
        .type = SOCK_SEQPACKET,
        .prefix = "UNIXS",
        .accept = l7mp_unix_msg_accept,
};

static int seqpacket_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                            struct l7mp_error *err)
{
	return l7mp_unix_listen(&kind, params, out, err);
}

static int seqpacket_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                             struct l7mp_error *err)
{
	struct l7mp_addr remote;
	int rc = l7mp_unix_endpoint("UNIX/seqpacket", p->address, &remote, err);

	if (rc)
		return rc;
	return l7mp_unix_msg_connect(p->env, "UNIX/seqpacket", SOCK_SEQPACKET, &remote, NULL, out,
	                             err);
}

static const struct l7mp_schema listener_spec = {
        .name = "unix-seqpacket-listener",
        .doc = "Accepts connections on a UNIX seqpacket socket, each of them a session",
        .fields = l7mp_unix_listener_fields,
};
static const struct l7mp_schema endpoint_spec = {
        .name = "unix-seqpacket-endpoint",
        .doc = "A server on a UNIX seqpacket socket",
        .fields = l7mp_unix_endpoint_fields,
};

static const char *const aliases[] = {"UnixSeqpacket", NULL};

const struct l7mp_proto l7mp_proto_unix_seqpacket = {
        .desc =
                {
                        .name = "UNIX/seqpacket",
                        .aliases = aliases,
                        .doc = "UNIX seqpacket sockets: connections of whole messages; an empty "
                               "message is the end of the connection",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .kind = L7MP_KIND_DATAGRAM,
                        .listener_spec = &listener_spec,
                        .endpoint_spec = &endpoint_spec,
                },
        .start = l7mp_unix_start,
        .stop = l7mp_unix_stop,
        .listen = seqpacket_listen,
        .activate = l7mp_unix_activate,
        .unlisten = l7mp_unix_unlisten,
        .connect = seqpacket_connect,
};
