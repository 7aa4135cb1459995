// SPDX-License-Identifier: MIT
/* UNIX stream sockets: listener and cluster. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "l7mp/log.h"
#include "l7mp/protos.h"
#include "l7mp/util.h"
#include "proto_int.h"
#include "unix_path.h"

/* Of the process: session names must not repeat when a listener is replaced. */
struct unix_state {
	uint64_t last_id;
};

struct unix_listener {
	struct l7mp_plistener base;
	struct l7mp_env *env;
	struct unix_state *state;
	char *name;
	struct l7mp_unix_path *path;
	struct l7mp_acceptor *acceptor;
	bool active;
};

static cJSON *metadata(const char *filename, int fd)
{
	cJSON *root = cJSON_CreateObject(), *u = cJSON_CreateObject();
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int rc = l7mp_json_add_str(u, "filename", filename);

	if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len)) {
		rc |= l7mp_json_add_num(u, "pid", cred.pid);
		rc |= l7mp_json_add_num(u, "uid", cred.uid);
		rc |= l7mp_json_add_num(u, "gid", cred.gid);
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
	struct l7mp_accept a = {.peer = nobody};
	struct l7mp_addr remote;
	int rc;

	(void)peer;
	if (!l->active || (l->base.events->admit && l->base.events->admit(l->base.arg, &nobody))) {
		close(fd);
		return;
	}
	a.metadata = metadata(l7mp_unix_path_name(l->path), fd);
	if (l7mp_addr_unix(&remote, l7mp_unix_path_name(l->path)))
		remote = nobody;
	rc = l7mp_sstream_accept(l->env, L7MP_SSTREAM_UNIX, fd, &remote, &a.stream);
	if (rc) {
		cJSON_Delete(a.metadata);
		l7mp_log_warn("unix", "%s: a connection is refused: %s", l->name,
		              l7mp_errno_text(rc));
		return;
	}
	a.name = l7mp_asprintf("UNIX:%s-%llu", l->name, (unsigned long long)++l->state->last_id);
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

static void unix_unlisten(struct l7mp_plistener *base)
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

		/* Shared with another new one already: binding fails as it should. */
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
	return l7mp_unix_bind(filename, SOCK_STREAM, &l->path, err);
}

static int unix_listen(const struct l7mp_listen *params, struct l7mp_plistener **out,
                       struct l7mp_error *err)
{
	const char *filename = l7mp_json_str(params->spec, "filename", "");
	struct unix_state *state = l7mp_proto_state(params->env, &l7mp_proto_unix, err);
	struct unix_listener *l;
	int rc, fd;

	if (!state)
		return -ENOMEM;
	l = calloc(1, sizeof(*l));
	if (!l)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	l->base = (struct l7mp_plistener){
	        .proto = &l7mp_proto_unix, .events = params->events, .arg = params->arg};
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

static void unix_activate(struct l7mp_plistener *base)
{
	((struct unix_listener *)base)->active = true;
}

static int unix_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                        struct l7mp_error *err)
{
	struct l7mp_addr remote;
	int rc = p->address ? l7mp_addr_unix(&remote, p->address) : -EINVAL;

	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "UNIX %s: %s",
		                      p->address ? p->address : "(no address)",
		                      rc == -ENAMETOOLONG ? "longer than a socket path can be"
		                                          : l7mp_errno_text(rc));
	return l7mp_sstream_connect_unix(p->env, &remote, out, err);
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

static const struct l7mp_field listener_fields[] = {
        {.key = "filename",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_FILENAME,
         .doc = "path of the socket, or @name for an abstract one; a socket that is there already "
                "is replaced only if nothing listens on it"},
        {0},
};
static const struct l7mp_schema listener_spec = {
        .name = "unix-listener",
        .doc = "Accepts connections on a UNIX stream socket, each of them a session",
        .fields = listener_fields,
};

static const struct l7mp_field endpoint_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_FILENAME,
         .doc = "path of the server's socket, or @name for an abstract one"},
        {0},
};
static const struct l7mp_schema endpoint_spec = {
        .name = "unix-endpoint",
        .doc = "A server on a UNIX stream socket",
        .fields = endpoint_fields,
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
        .start = unix_start,
        .stop = unix_stop,
        .listen = unix_listen,
        .activate = unix_activate,
        .unlisten = unix_unlisten,
        .connect = unix_connect,
};
