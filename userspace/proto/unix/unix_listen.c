/* SPDX-License-Identifier: MIT */
/* Listeners on connected UNIX sockets, and what all UNIX protocols share. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l7mp/log.h"
#include "l7mp/stream_io.h"
#include "l7mp/util.h"
#include "net/net.h"
#include "unix_int.h"

struct unix_listener {
	struct l7mp_proto_listener base;
	const struct l7mp_unix_kind *kind;
	struct l7mp_env *env;
	struct l7mp_unix_state *state;
	char *name;
	struct l7mp_unix_path *path;
	struct l7mp_acceptor *acceptor;
	bool active;
};

cJSON *l7mp_unix_metadata(const char *filename, const char *peer, const struct ucred *cred)
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
	a.metadata = l7mp_unix_metadata(filename, NULL, known ? &cred : NULL);
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

void l7mp_unix_unlisten(struct l7mp_proto_listener *base)
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
	return l7mp_unix_bind(filename, l->kind->type, &l->path, err);
}

int l7mp_unix_listen(const struct l7mp_unix_kind *kind, const struct l7mp_listen *params,
                     struct l7mp_proto_listener **out, struct l7mp_error *err)
{
	const char *filename = l7mp_json_str(params->spec, "filename", "");
	struct l7mp_unix_state *state = l7mp_proto_state(params->env, kind->proto, err);
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
		l7mp_unix_unlisten(&l->base);
		return fd;
	}
	rc = l7mp_acceptor_new(params->env->loop, fd, &acceptor_ops, l, &l->acceptor);
	if (rc) {
		l7mp_error_set(err, rc, L7MP_ERR_REALISE, "filename %s: %s", filename,
		               l7mp_errno_text(rc));
		l7mp_unix_unlisten(&l->base);
		return rc;
	}
	*out = &l->base;
	return 0;
}

void l7mp_unix_activate(struct l7mp_proto_listener *base)
{
	((struct unix_listener *)base)->active = true;
}

int l7mp_unix_endpoint(const char *proto, const char *address, struct l7mp_addr *out,
                       struct l7mp_error *err)
{
	int rc = address ? l7mp_addr_unix(out, address) : -EINVAL;

	if (!rc)
		return 0;
	return l7mp_error_set(
	        err, rc, L7MP_ERR_UPSTREAM, "%s %s: %s", proto, address ? address : "(no address)",
	        rc == -ENAMETOOLONG ? "longer than a socket path can be" : l7mp_errno_text(rc));
}

int l7mp_unix_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct l7mp_unix_state));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

void l7mp_unix_stop(struct l7mp_env *env, void *state)
{
	(void)env;
	free(state);
}

const struct l7mp_field l7mp_unix_listener_fields[] = {
        {.key = "filename",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_FILENAME,
         .doc = "path of the socket, or @name for an abstract one; a socket that is there already "
                "is replaced only if nothing listens on it"},
        {0},
};

const struct l7mp_field l7mp_unix_endpoint_fields[] = {
        {.key = "address",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_FILENAME,
         .doc = "path of the server's socket, or @name for an abstract one"},
        {0},
};
