/* SPDX-License-Identifier: MIT */
/*
 * UNIX stream and seqpacket sockets: listeners and clusters of both protocols, which differ in
 * the type of their streams only.
 *
 * The end of a seqpacket connection and a message of no bytes look the same to a receiver:
 * recv(2) returns 0. Empty messages are therefore not sent, but dropped and counted (too-short),
 * and one that is received is the end.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l7mp/log.h"
#include "l7mp/protos.h"
#include "l7mp/stream_io.h"
#include "l7mp/util.h"
#include "net/net.h"
#include "net/unix_path.h"
#include "unix.h"

/* State of one protocol: ids of session names must not repeat when a listener is replaced. */
struct unix_state {
	uint64_t last_id;
};

struct unix_kind {
	const struct l7mp_proto *proto;
	int type;           /* SOCK_STREAM, SOCK_SEQPACKET */
	const char *prefix; /* of session names */
	/* An accepted connection as a stream; takes fd, also on failure. */
	int (*accept)(struct l7mp_env *env, int fd, const struct l7mp_addr *local,
	              struct l7mp_stream **out);
};

struct unix_listener {
	struct l7mp_proto_listener base;
	const struct unix_kind *kind;
	struct l7mp_env *env;
	struct unix_state *state;
	char *name;
	struct l7mp_unix_path *path;
	struct l7mp_acceptor *acceptor;
	bool active;
};

cJSON *unix_metadata(const char *filename, const char *peer, const struct ucred *cred)
{
	cJSON *root = cJSON_CreateObject(), *u = cJSON_CreateObject();
	int rc = l7mp_json_add_str(u, "filename", filename);

	if (peer)
		rc |= l7mp_json_add_str(u, "peer", peer);
	if (cred) {
		rc |= l7mp_json_add_num(u, "pid", cred->pid);
		rc |= l7mp_json_add_num(u, "uid", cred->uid);
		rc |= l7mp_json_add_num(u, "gid", cred->gid);
	}
	rc |= l7mp_json_add(root, "UNIX", u);
	if (rc) {
		cJSON_Delete(root);
		return NULL;
	}
	return root;
}

static void on_accepted(void *arg, int fd, const struct l7mp_addr *peer)
{
	struct unix_listener *l = arg;
	const struct l7mp_addr nobody = {.len = 0};
	const char *filename = l7mp_unix_path_name(l->path);
	struct l7mp_accept a = {.peer = nobody};
	struct l7mp_addr local;
	struct ucred cred;
	socklen_t len = sizeof(cred);
	bool known;
	int rc;

	(void)peer;
	if (!l->active || (l->base.events->admit && l->base.events->admit(l->base.arg, &nobody))) {
		close(fd);
		return;
	}
	known = !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);
	a.metadata = unix_metadata(filename, NULL, known ? &cred : NULL);
	if (l7mp_addr_unix(&local, filename))
		local = nobody;
	rc = l->kind->accept(l->env, fd, &local, &a.stream);
	if (rc) {
		cJSON_Delete(a.metadata);
		l7mp_log_warn("unix", "%s: a connection is refused: %s", l->name,
		              l7mp_errno_text(rc));
		return;
	}
	a.name = l7mp_asprintf("%s:%s-%llu", l->kind->prefix, l->name,
	                       (unsigned long long)++l->state->last_id);
	(void)l7mp_accept_emit(&l->base, &a);
}

static void on_exhausted(void *arg, int err)
{
	struct unix_listener *l = arg;

	if (l->base.events->exhausted)
		l->base.events->exhausted(l->base.arg, err);
}

static const struct l7mp_acceptor_ops acceptor_ops = {
        .accepted = on_accepted,
        .exhausted = on_exhausted,
};

static void unix_unlisten(struct l7mp_proto_listener *base)
{
	struct unix_listener *l = (struct unix_listener *)base;

	if (l->acceptor)
		l7mp_acceptor_close(&l->acceptor);
	l7mp_unix_path_unref(&l->path);
	free(l->name);
	free(l);
}

static int open_socket(struct unix_listener *l, const struct l7mp_listen *params,
                       const char *filename, struct l7mp_error *err)
{
	for (size_t i = 0; i < params->n_retiring; i++) {
		struct unix_listener *old = (struct unix_listener *)params->retiring[i];
		int fd;

		/* Taken by another new listener of this change: binding fails, as it should. */
		if (strcmp(l7mp_unix_path_name(old->path), filename) ||
		    l7mp_unix_path_shared(old->path))
			continue;
		fd = fcntl(l7mp_acceptor_fd(old->acceptor), F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			return l7mp_error_set(err, -errno, L7MP_ERR_REALISE, "filename %s: %s",
			                      filename, l7mp_errno_text(errno));
		l->path = l7mp_unix_path_ref(old->path);
		return fd;
	}
	return l7mp_unix_bind(filename, l->kind->type, &l->path, err);
}

static int unix_listen(const struct unix_kind *kind, const struct l7mp_listen *params,
                       struct l7mp_proto_listener **out, struct l7mp_error *err)
{
	const char *filename = l7mp_spec_filename(params->spec);
	struct unix_state *state = l7mp_proto_state(params->env, kind->proto, err);
	struct unix_listener *l;
	int rc, fd;

	if (!state)
		return -ENOMEM;
	l = calloc(1, sizeof(*l));
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	l->base = (struct l7mp_proto_listener){
	        .proto = kind->proto, .events = params->events, .arg = params->arg};
	l->kind = kind;
	l->env = params->env;
	l->state = state;
	l->name = strdup(params->name ? params->name : "");
	fd = l->name ? open_socket(l, params, filename, err)
	             : l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	if (fd < 0) {
		unix_unlisten(&l->base);
		return fd;
	}
	rc = l7mp_acceptor_new(params->env->loop, fd, &acceptor_ops, l, &l->acceptor);
	if (rc) {
		l7mp_error_set(err, rc, L7MP_ERR_REALISE, "filename %s: %s", filename,
		               l7mp_errno_text(rc));
		unix_unlisten(&l->base);
		return rc;
	}
	*out = &l->base;
	return 0;
}

static void unix_activate(struct l7mp_proto_listener *base)
{
	((struct unix_listener *)base)->active = true;
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

/* ---- UnixDomainSocket ---- */

const struct l7mp_field unix_listener_fields[] = {
        L7MP_SPEC_LISTEN_FILENAME,
        {0},
};

const struct l7mp_field unix_endpoint_fields[] = {
        L7MP_SPEC_ENDPOINT_FILENAME,
        {0},
};

static int accept_stream(struct l7mp_env *env, int fd, const struct l7mp_addr *local,
                         struct l7mp_stream **out)
{
	return l7mp_byte_stream_accept(env, L7MP_BYTE_STREAM_UNIX, fd, local, out);
}

static const struct unix_kind stream_kind = {
        .proto = &l7mp_proto_unix,
        .type = SOCK_STREAM,
        .prefix = "UNIX",
        .accept = accept_stream,
};

static int stream_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                         struct l7mp_error *err)
{
	return unix_listen(&stream_kind, params, out, err);
}

static int stream_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                          struct l7mp_error *err)
{
	struct l7mp_addr remote;
	int rc = unix_endpoint("UNIX", p->address, &remote, err);

	return rc ? rc : l7mp_byte_stream_connect_unix(p->env, &remote, out, err);
}

static const struct l7mp_schema stream_listener_spec = {
        .name = "unix-listener",
        .doc = "Accepts connections on a UNIX stream socket, each of them a session",
        .fields = unix_listener_fields,
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
                        .kind = L7MP_KIND_STREAM,
                        .listener_spec = &stream_listener_spec,
                        .endpoint_spec = &stream_endpoint_spec,
                },
        .start = unix_start,
        .stop = unix_stop,
        .listen = stream_listen,
        .activate = unix_activate,
        .unlisten = unix_unlisten,
        .connect = stream_connect,
};

/* ---- UNIX/seqpacket ---- */

static const struct unix_kind seqpacket_kind = {
        .proto = &l7mp_proto_unix_seqpacket,
        .type = SOCK_SEQPACKET,
        .prefix = "UNIXS",
        .accept = unix_message_accept,
};

static int seqpacket_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                            struct l7mp_error *err)
{
	return unix_listen(&seqpacket_kind, params, out, err);
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
        .activate = unix_activate,
        .unlisten = unix_unlisten,
        .connect = seqpacket_connect,
};
