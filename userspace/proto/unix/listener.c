/* SPDX-License-Identifier: MIT */
/*
 * UNIX stream and seqpacket sockets: listeners and clusters of both protocols, which differ only in
 * the type of their streams.
 *
 * A receiver can't distinguish the end of a seqpacket connection from an empty message: recv(2)
 * returns 0 for both. So empty messages are not sent, but dropped and counted (too-short), and a
 * received one is regarded as the end.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/protos.h"
#include "net/stream_listener.h"
#include "unix.h"

/* State of one protocol: ids of session names must be unique when a listener is replaced. */
struct unix_state {
	uint64_t last_id;
};

struct unix_listener {
	struct l7mp_stream_listener base; /* first */
	struct unix_state *state;
};

static void emit(struct l7mp_stream_listener *l, const char *prefix, struct l7mp_stream *stream,
                 struct l7mp_peer *peer)
{
	struct l7mp_accept a = {.stream = stream, .peer = peer->remote, .origin = peer->origin};

	a.name = l7mp_peer_name(prefix, l->name, peer,
	                        ++((struct unix_listener *)l)->state->last_id);
	a.metadata = l7mp_peer_metadata(peer);
	l7mp_peer_clear(peer);
	(void)l7mp_accept_emit(&l->base, &a);
}

static int unix_listen(const struct l7mp_proto *proto, const struct l7mp_stream_listener_ops *ops,
                       const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                       struct l7mp_error *err)
{
	struct unix_state *state = l7mp_proto_state(params->env, proto, err);
	struct unix_listener *l;
	int rc;

	if (!state)
		return -ENOMEM;
	l = calloc(1, sizeof(*l));
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	l->state = state;
	rc = l7mp_stream_listener_open(&l->base, proto, params, NULL, ops, err);
	if (rc) {
		free(l);
		return rc;
	}
	*out = &l->base.base;
	return 0;
}

static int unix_restore(struct l7mp_proto_listener *base, const char *name,
                        struct l7mp_restore_end *end, struct l7mp_accept *a, struct l7mp_error *err)
{
	struct unix_state *state = ((struct unix_listener *)base)->state;
	const char *dash = strrchr(name, '-');
	uint64_t id = dash ? strtoull(dash + 1, NULL, 10) : 0;

	/* Later sessions must get other names. */
	if (id > state->last_id && id < UINT64_MAX)
		state->last_id = id;
	return l7mp_stream_listener_restore(base, name, end, a, err);
}

static void unix_unlisten(struct l7mp_proto_listener *base)
{
	l7mp_stream_listener_close((struct l7mp_stream_listener *)base);
	free(base);
}

int unix_endpoint(const char *proto, const char *address, struct l7mp_addr *out,
                  struct l7mp_error *err)
{
	int rc = address ? l7mp_addr_unix(out, address) : -EINVAL;

	if (!rc)
		return 0;
	return l7mp_error_set(
	        err, rc, L7MP_ERR_UPSTREAM, "%s %s: %s", proto, address ? address : "(no address)",
	        rc == -ENAMETOOLONG ? "longer than a socket path can be" : l7mp_errno_text(rc));
}

static int unix_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct unix_state));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

static void unix_stop(struct l7mp_env *env, void *state)
{
	(void)env;
	free(state);
}

const struct l7mp_field unix_listener_fields[] = {
        L7MP_SPEC_LISTEN_FILENAME,
        L7MP_SPEC_UNIX_ACCESS,
        {0},
};

const struct l7mp_field unix_endpoint_fields[] = {
        L7MP_SPEC_ENDPOINT_FILENAME,
        {0},
};

/* ---- UnixDomainSocket ---- */

static void stream_accepted(struct l7mp_stream_listener *l, struct l7mp_stream *stream,
                            struct l7mp_peer *peer)
{
	emit(l, "UNIX", stream, peer);
}

static const struct l7mp_stream_listener_ops stream_ops = {
        .module = "unix",
        .admit = true,
        .accepted = stream_accepted,
};

static int stream_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                         struct l7mp_error *err)
{
	return unix_listen(&l7mp_proto_unix, &stream_ops, params, out, err);
}

static int stream_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                          struct l7mp_error *err)
{
	struct l7mp_addr remote;
	int rc = unix_endpoint("UNIX", p->address, &remote, err);

	if (rc)
		return rc;
	if (!p->restore)
		return l7mp_byte_stream_connect_unix(p->env, &remote, out, err);
	if (!l7mp_addr_equal(&remote, &p->restore->remote))
		return -EXDEV;
	if (p->restore->fd < 0)
		return l7mp_error_set(err, -ENOTSUP, L7MP_ERR_UPSTREAM, "UNIX: no socket");
	rc = l7mp_byte_stream_restore(p->env, p->restore, true, out);
	return rc ? l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "UNIX: %s", l7mp_errno_text(rc)) : 0;
}

static const struct l7mp_schema stream_listener_spec = {
        .name = "unix-listener",
        .doc = "Accepts connections on a UNIX stream socket, each of them a session",
        .fields = unix_listener_fields,
        .check = l7mp_unix_access_check,
};
static const struct l7mp_schema stream_endpoint_spec = {
        .name = "unix-endpoint",
        .doc = "A server on a UNIX stream socket",
        .fields = unix_endpoint_fields,
};

static const char *const stream_aliases[] = {"UNIX/stream", NULL};

const struct l7mp_proto l7mp_proto_unix = {
        .desc =
                {
                        .name = "UnixDomainSocket",
                        .aliases = stream_aliases,
                        .doc = "UNIX stream sockets, by path or abstract name",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .flags = L7MP_PROTO_RESTORES,
                        .kind = L7MP_KIND_STREAM,
                        .listener_spec = &stream_listener_spec,
                        .endpoint_spec = &stream_endpoint_spec,
                },
        .start = unix_start,
        .stop = unix_stop,
        .listen = stream_listen,
        .activate = l7mp_stream_listener_activate,
        .restore = unix_restore,
        .pause = l7mp_stream_listener_pause,
        .resume = l7mp_stream_listener_resume,
        .hand = l7mp_stream_listener_hand,
        .stream_listener = true,
        .unlisten = unix_unlisten,
        .connect = stream_connect,
};

/* ---- UNIX/seqpacket ---- */

static void seqpacket_accepted(struct l7mp_stream_listener *l, struct l7mp_stream *stream,
                               struct l7mp_peer *peer)
{
	emit(l, "UNIXS", stream, peer);
}

static const struct l7mp_stream_listener_ops seqpacket_ops = {
        .module = "unix",
        .admit = true,
        .accepted = seqpacket_accepted,
        .accept_unix = unix_message_accept,
};

static int seqpacket_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                            struct l7mp_error *err)
{
	return unix_listen(&l7mp_proto_unix_seqpacket, &seqpacket_ops, params, out, err);
}

static int seqpacket_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                             struct l7mp_error *err)
{
	struct l7mp_addr remote;
	int rc = unix_endpoint("UNIX/seqpacket", p->address, &remote, err);

	if (rc)
		return rc;
	return unix_message_connect(p->env, "UNIX/seqpacket", SOCK_SEQPACKET, &remote, NULL, out,
	                            err);
}

static const struct l7mp_schema seqpacket_listener_spec = {
        .name = "unix-seqpacket-listener",
        .doc = "Accepts connections on a UNIX seqpacket socket, each of them a session",
        .fields = unix_listener_fields,
        .check = l7mp_unix_access_check,
};
static const struct l7mp_schema seqpacket_endpoint_spec = {
        .name = "unix-seqpacket-endpoint",
        .doc = "A server on a UNIX seqpacket socket",
        .fields = unix_endpoint_fields,
};

static const char *const seqpacket_aliases[] = {"UnixSeqpacket", NULL};

const struct l7mp_proto l7mp_proto_unix_seqpacket = {
        .desc =
                {
                        .name = "UNIX/seqpacket",
                        .aliases = seqpacket_aliases,
                        .doc = "UNIX seqpacket sockets: connections of whole messages; an empty "
                               "message is the end of the connection",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .kind = L7MP_KIND_DATAGRAM,
                        .listener_spec = &seqpacket_listener_spec,
                        .endpoint_spec = &seqpacket_endpoint_spec,
                },
        .start = unix_start,
        .stop = unix_stop,
        .listen = seqpacket_listen,
        .activate = l7mp_stream_listener_activate,
        .pause = l7mp_stream_listener_pause,
        .resume = l7mp_stream_listener_resume,
        .hand = l7mp_stream_listener_hand,
        .stream_listener = true,
        .unlisten = unix_unlisten,
        .connect = seqpacket_connect,
};
