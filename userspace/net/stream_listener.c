/* SPDX-License-Identifier: MIT */
/* Listeners on sockets that carry byte streams. */
#include "stream_listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l7mp/log.h"
#include "l7mp/relaymark.h"
#include "l7mp/util.h"

/* ---- peers ---- */

static cJSON *unix_metadata(const struct l7mp_peer *peer)
{
	char text[L7MP_ADDR_STRLEN];

	return l7mp_unix_metadata(l7mp_addr_str(&peer->local, text), NULL,
	                          peer->cred.uid == L7MP_PEER_NO_UID ? NULL : &peer->cred);
}

cJSON *l7mp_peer_metadata(const struct l7mp_peer *peer)
{
	cJSON *root = peer->remote.len ? l7mp_inet_metadata("TCP", &peer->remote, &peer->local)
	                               : unix_metadata(peer);

	if (!root || !peer->tls || !l7mp_json_add(root, "TLS", cJSON_Duplicate(peer->tls, true)))
		return root;
	cJSON_Delete(root);
	return NULL;
}

char *l7mp_peer_name(const char *proto, const char *listener, const struct l7mp_peer *peer,
                     uint64_t id)
{
	if (peer->remote.len)
		return l7mp_inet_name(proto, &peer->remote, &peer->local, id);
	if (id)
		return l7mp_asprintf("%s:%s-%llu", proto, listener, (unsigned long long)id);
	return l7mp_asprintf("%s:%s", proto, listener);
}

void l7mp_peer_clear(struct l7mp_peer *peer)
{
	cJSON_Delete(peer->tls);
	peer->tls = NULL;
}

/* ---- accepting ---- */

static void fill_unix_peer(const struct l7mp_stream_listener *l, int fd, struct l7mp_peer *out)
{
	socklen_t len = sizeof(out->cred);

	(void)l7mp_addr_unix(&out->local, l7mp_unix_path_name(l->unix_path));
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &out->cred, &len)) {
		out->cred.uid = L7MP_PEER_NO_UID;
		return;
	}
	/* The peer is a cluster of this or another proxy; its client is unknown. */
	out->origin = out->cred.pid == getpid() || l7mp_relay_marked_unix(fd) ? L7MP_ORIGIN_RELAYED
	                                                                      : L7MP_ORIGIN_LOCAL;
}

static void fill_peer(const struct l7mp_stream_listener *l, int fd, const struct l7mp_addr *remote,
                      struct l7mp_peer *out)
{
	memset(out, 0, sizeof(*out));
	out->cred.uid = L7MP_PEER_NO_UID;
	if (l->unix_path) {
		fill_unix_peer(l, fd, out);
		return;
	}
	out->remote = *remote;
	if (l7mp_fd_local(fd, &out->local))
		out->local = l->bind_addr.addr;
}

/* Determines the origin of the connection, directly after accepting it. */
static void find_origin(const struct l7mp_stream_listener *l, int fd, struct l7mp_peer *peer)
{
	const struct l7mp_listen_events *ev = l->base.events;

	if (!l->unix_path && ev->origin)
		peer->origin = ev->origin(l->base.arg, fd, &peer->remote, &peer->local);
}

static void refused(const struct l7mp_stream_listener *l, int err)
{
	l7mp_log_warn(l->ops->module, "%s: a connection is refused: %s", l->name,
	              l7mp_errno_text(err));
}

static void tune(const struct l7mp_stream_listener *l, int fd)
{
	l7mp_tcp_tune(fd);
	if (l->user_timeout_ms != L7MP_TCP_USER_TIMEOUT_MS)
		l7mp_tcp_user_timeout(fd, l->user_timeout_ms);
}

static void on_exhausted(void *arg, int err)
{
	struct l7mp_stream_listener *l = arg;

	if (l->base.events->exhausted)
		l->base.events->exhausted(l->base.arg, err);
	if (l->ops->exhausted)
		l->ops->exhausted(l);
}

static void on_accepted(void *arg, int fd, const struct l7mp_addr *remote)
{
	struct l7mp_stream_listener *l = arg;
	const struct l7mp_listen_events *ev = l->base.events;
	struct l7mp_stream *stream;
	struct l7mp_peer peer;
	bool later;
	int rc;

	if (!l->active || (l->ops->admit && ev->admit && ev->admit(l->base.arg, remote))) {
		close(fd);
		return;
	}
	if (!l->unix_path)
		tune(l, fd);
	fill_peer(l, fd, remote, &peer);
	find_origin(l, fd, &peer);
	/* Otherwise `admit` has checked it. */
	later = !l->ops->admit || !ev->admit;
	if (later && ev->room && !ev->room(l->base.arg, fd)) {
		close(fd);
		on_exhausted(l, -EMFILE);
		return;
	}
	if (l->gate) {
		l7mp_tls_gate_accept(l->gate, fd, remote, peer.origin);
		return;
	}
	if (l->ops->accept_unix)
		rc = l->ops->accept_unix(l->env, fd, &peer.local, &stream);
	else if (l->unix_path)
		rc = l7mp_byte_stream_accept(l->env, L7MP_BYTE_STREAM_UNIX, fd, &peer.local,
		                             &stream);
	else
		rc = l7mp_byte_stream_accept(l->env, L7MP_BYTE_STREAM_TCP, fd, remote, &stream);
	if (rc)
		refused(l, rc);
	else
		l->ops->accepted(l, stream, &peer);
}

/* Called by the gate: a TLS handshake is done. */
static void on_tls(void *arg, struct l7mp_tls *tls, const struct l7mp_addr *remote,
                   enum l7mp_origin origin)
{
	struct l7mp_stream_listener *l = arg;
	struct l7mp_stream *stream;
	struct l7mp_peer peer;
	int rc;

	fill_peer(l, l7mp_tls_fd(tls), remote, &peer);
	peer.origin = origin;
	peer.tls = l7mp_tls_metadata(tls);
	if (!peer.tls) {
		l7mp_tls_drop(&tls);
		refused(l, -ENOMEM);
		return;
	}
	rc = l7mp_byte_stream_accept_tls(l->env, tls, &peer.remote, &stream);
	if (!rc) {
		l->ops->accepted(l, stream, &peer);
		return;
	}
	l7mp_peer_clear(&peer);
	refused(l, rc);
}

static const struct l7mp_acceptor_ops acceptor_ops = {
        .accepted = on_accepted,
        .exhausted = on_exhausted,
};

/* ---- opening ---- */

static void forget(struct l7mp_stream_listener *l)
{
	if (l->from)
		l->from->successor = NULL;
	if (l->successor)
		l->successor->from = NULL;
	l->from = l->successor = NULL;
}

static bool same_address(const struct l7mp_stream_listener *l,
                         const struct l7mp_stream_listener *old, const char *filename,
                         const struct l7mp_bind_addr *want)
{
	if (old->unix_path)
		return *filename && !old->ops->accept_unix == !l->ops->accept_unix &&
		       strcmp(l7mp_unix_path_name(old->unix_path), filename) == 0;
	return !*filename && l7mp_bind_addr_same(want, &old->bind_addr);
}

/*
 * Duplicates the descriptor of a retiring listener: both share one accept queue, so no connection
 * is lost when the first one is closed.
 */
static int share_retiring(struct l7mp_stream_listener *l, const char *filename,
                          const struct l7mp_bind_addr *want, const struct l7mp_listen *params,
                          struct l7mp_error *err)
{
	for (size_t i = 0; i < params->n_retiring; i++) {
		struct l7mp_stream_listener *old =
		        (struct l7mp_stream_listener *)params->retiring[i];
		int fd;

		/*
		 * Another new listener of this change has it already: binding fails, as it should.
		 */
		if (!old->acceptor || old->successor || !same_address(l, old, filename, want))
			continue;
		fd = fcntl(l7mp_acceptor_fd(old->acceptor), F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			return l7mp_error_set(err, -errno, L7MP_ERR_REALISE, "%s",
			                      l7mp_errno_text(errno));
		l->bind_addr = old->bind_addr;
		if (old->unix_path)
			l->unix_path = l7mp_unix_path_ref(old->unix_path);
		old->successor = l;
		l->from = old;
		return fd;
	}
	return -ENOENT;
}

/* Takes the socket that another process has handed over for this address. */
static int take_handed(struct l7mp_stream_listener *l, const char *filename,
                       const struct l7mp_bind_addr *want, const struct l7mp_listen *params)
{
	struct l7mp_handed *h = params->env->handed;
	int fd;

	if (!*filename) {
		fd = l7mp_handed_inet(h, SOCK_STREAM, l->name, want, &l->bind_addr);
	} else {
		fd = l7mp_handed_unix(h, l->ops->accept_unix ? SOCK_SEQPACKET : SOCK_STREAM,
		                      filename);
		l->unix_path = fd < 0 ? NULL : l7mp_unix_path_foreign(filename);
		if (fd >= 0 && !l->unix_path) {
			close(fd);
			return -ENOMEM;
		}
	}
	l->handed = fd >= 0;
	return fd;
}

/*
 * Binds beside the conflicting sockets of listeners that this change closes. Connections still in
 * their accept queues are reset.
 */
static int bind_address(struct l7mp_stream_listener *l, const struct l7mp_bind_addr *want,
                        const struct l7mp_listen *params, struct l7mp_error *err)
{
	int *beside = calloc(params->n_retiring + 1, sizeof(*beside)), fd;
	size_t n = 0;

	for (size_t i = 0; beside && i < params->n_retiring; i++) {
		struct l7mp_stream_listener *old =
		        (struct l7mp_stream_listener *)params->retiring[i];

		if (old->acceptor && !old->unix_path && !old->successor &&
		    l7mp_addr_port(&old->bind_addr.addr) == l7mp_addr_port(&want->addr))
			beside[n++] = l7mp_acceptor_fd(old->acceptor);
	}
	fd = l7mp_bind_addr_beside(want, SOCK_STREAM, l7mp_listen_hold, NULL, beside, n,
	                           &l->bind_addr, err);
	free(beside);
	return fd;
}

static int open_socket(struct l7mp_stream_listener *l, const struct l7mp_listen *params,
                       struct l7mp_error *err)
{
	const char *filename = l7mp_spec_filename(params->spec);
	struct l7mp_bind_addr want;
	int fd, rc = l7mp_bind_addr_from_spec(params->spec, &want, err);

	if (!rc)
		rc = l7mp_unix_access_from_spec(params->spec, &l->access, err);
	if (rc)
		return rc;
	fd = share_retiring(l, filename, &want, params, err);
	if (fd == -ENOENT)
		fd = take_handed(l, filename, &want, params);
	if (fd != -ENOENT)
		return fd;
	if (*filename)
		return l7mp_unix_bind(filename, l->ops->accept_unix ? SOCK_SEQPACKET : SOCK_STREAM,
		                      &l->access, &l->unix_path, err);
	return bind_address(l, &want, params, err);
}

static int no_memory(struct l7mp_error *err)
{
	return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
}

int l7mp_stream_listener_open(struct l7mp_stream_listener *l, const struct l7mp_proto *proto,
                              const struct l7mp_listen *params, struct l7mp_tls_set *set,
                              const struct l7mp_stream_listener_ops *ops, struct l7mp_error *err)
{
	const cJSON *tls = l7mp_json_member(params->spec, "tls");
	int fd, rc = 0;

	l->base = (struct l7mp_proto_listener){
	        .proto = proto, .events = params->events, .arg = params->arg};
	l->ops = ops;
	l->env = params->env;
	l->user_timeout_ms = l7mp_spec_user_timeout(params->spec);
	l->name = strdup(params->name ? params->name : "");
	l->tls = tls ? cJSON_Duplicate(tls, true) : NULL;
	if (!l->name || (tls && !l->tls))
		rc = no_memory(err);
	else if (tls)
		rc = l7mp_tls_gate_make(set, tls, params, ops->module, on_tls, l, &l->gate, err);
	fd = rc ? rc : open_socket(l, params, err);
	if (fd < 0) {
		l7mp_stream_listener_close(l);
		return fd;
	}
	/*
	 * Created now, because activate may not fail, but paused, because the change may take a
	 * while.
	 */
	rc = l7mp_acceptor_new(params->env->loop, fd, &acceptor_ops, l, &l->acceptor);
	if (rc) {
		l7mp_error_set(err, rc, L7MP_ERR_REALISE, "%s", l7mp_errno_text(rc));
		l7mp_stream_listener_close(l);
		return rc;
	}
	l7mp_acceptor_rest(l->acceptor, true);
	return 0;
}

void l7mp_stream_listener_activate(struct l7mp_proto_listener *base)
{
	struct l7mp_stream_listener *l = (struct l7mp_stream_listener *)base;
	int rc = 0;

	if (l->handed && l->unix_path)
		l7mp_unix_path_own(l->unix_path, true);
	if ((l->from || l->handed) && l->unix_path)
		rc = l7mp_unix_path_access(l->unix_path, &l->access);
	if (rc)
		l7mp_log_warn(l->ops->module, "%s: mode, owner or group can't be set: %s", l->name,
		              l7mp_errno_text(rc));
	l->active = true;
	forget(l);
	l7mp_listen_release(l7mp_acceptor_fd(l->acceptor));
	l7mp_acceptor_rest(l->acceptor, false);
}

/* The file of a UNIX socket stays: it is not listening, so connections are refused. */
void l7mp_stream_listener_pause(struct l7mp_proto_listener *base)
{
	struct l7mp_stream_listener *l = (struct l7mp_stream_listener *)base;

	if (!l->acceptor)
		return;
	l7mp_acceptor_flush(l->acceptor);
	l7mp_acceptor_close(&l->acceptor);
}

int l7mp_stream_listener_resume(struct l7mp_proto_listener *base, struct l7mp_error *err)
{
	struct l7mp_stream_listener *l = (struct l7mp_stream_listener *)base;
	struct l7mp_bind_addr bound;
	int fd, rc;

	if (l->acceptor)
		return 0;
	if (l->unix_path)
		fd = l7mp_unix_bind_again(l->unix_path,
		                          l->ops->accept_unix ? SOCK_SEQPACKET : SOCK_STREAM,
		                          &l->access, err);
	else
		fd = l7mp_bind_addr_socket(&l->bind_addr, SOCK_STREAM, NULL, NULL, &bound, err);
	if (fd < 0)
		return fd;
	rc = l7mp_acceptor_new(l->env->loop, fd, &acceptor_ops, l, &l->acceptor);
	return rc ? l7mp_error_set(err, rc, L7MP_ERR_REALISE, "%s", l7mp_errno_text(rc)) : 0;
}

/* Whether a connection to this address would be accepted by this listener. */
static bool has_address(const struct l7mp_stream_listener *l, const struct l7mp_addr *local)
{
	const struct l7mp_bind_addr *b = &l->bind_addr;

	if (l->unix_path || l7mp_addr_port(local) != l7mp_addr_port(&b->addr))
		return false;
	if (!l7mp_addr_is_any(&b->addr))
		return l7mp_addr_equal_ip(local, &b->addr);
	return b->dual || l7mp_addr_family(local) == l7mp_addr_family(&b->addr);
}

static int restore_unix(struct l7mp_stream_listener *l, struct l7mp_restore_end *end,
                        struct l7mp_accept *a, struct l7mp_error *err)
{
	const struct l7mp_addr unnamed = {.len = 0};
	char text[L7MP_ADDR_STRLEN];
	struct l7mp_peer peer;
	int rc;

	if (l7mp_addr_family(&end->local) != AF_UNIX || l->gate ||
	    strcmp(l7mp_addr_str(&end->local, text), l7mp_unix_path_name(l->unix_path)) != 0)
		return l7mp_error_set(err, -EPERM, L7MP_ERR_UPSTREAM,
		                      "listener '%s' does not listen on %s", l->name,
		                      l7mp_addr_str(&end->local, text));
	if (end->fd < 0)
		return l7mp_error_set(err, -ENOTSUP, L7MP_ERR_UPSTREAM, "'%s': no socket", l->name);
	fill_peer(l, end->fd, &unnamed, &peer);
	rc = l7mp_byte_stream_restore(l->env, end, false, &a->stream);
	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "%s", l7mp_errno_text(rc));
	a->metadata = l7mp_peer_metadata(&peer);
	return 0;
}

int l7mp_stream_listener_restore(struct l7mp_proto_listener *base, const char *name,
                                 struct l7mp_restore_end *end, struct l7mp_accept *a,
                                 struct l7mp_error *err)
{
	struct l7mp_stream_listener *l = (struct l7mp_stream_listener *)base;
	const struct l7mp_peer peer = {
	        .remote = end->remote, .local = end->local, .cred.uid = L7MP_PEER_NO_UID};
	char text[L7MP_ADDR_STRLEN];
	int fd = end->fd, rc;

	(void)name;
	if (l->unix_path)
		return restore_unix(l, end, a, err);
	if (!has_address(l, &end->local))
		return l7mp_error_set(err, -EPERM, L7MP_ERR_UPSTREAM,
		                      "listener '%s' does not listen on %s", l->name,
		                      l7mp_addr_str(&end->local, text));
	if (l->gate || fd < 0)
		return l7mp_error_set(err, -ENOTSUP, L7MP_ERR_UPSTREAM,
		                      l->gate ? "listener '%s' has TLS" : "'%s': no socket",
		                      l->name);
	tune(l, fd);
	rc = l7mp_byte_stream_restore(l->env, end, false, &a->stream);
	if (rc)
		return l7mp_error_set(err, rc, L7MP_ERR_UPSTREAM, "%s", l7mp_errno_text(rc));
	a->peer = end->remote;
	a->metadata = l7mp_peer_metadata(&peer);
	return 0;
}

int l7mp_stream_listener_hand(struct l7mp_proto_listener *base, enum l7mp_hand step)
{
	struct l7mp_stream_listener *l = (struct l7mp_stream_listener *)base;

	if (!l->acceptor)
		return step == L7MP_HAND_SOCKET ? -ENOENT : 0;
	switch (step) {
	case L7MP_HAND_SOCKET:
		return l7mp_acceptor_fd(l->acceptor);
	case L7MP_HAND_REST:
	case L7MP_HAND_BACK:
		l7mp_acceptor_rest(l->acceptor, step == L7MP_HAND_REST);
		break;
	case L7MP_HAND_GIVE:
		l7mp_acceptor_close(&l->acceptor);
		if (l->unix_path)
			l7mp_unix_path_own(l->unix_path, false);
		break;
	}
	return 0;
}

void l7mp_stream_listener_bound(const struct l7mp_proto_listener *base, cJSON *spec)
{
	const struct l7mp_stream_listener *l = (const struct l7mp_stream_listener *)base;

	if (!l->unix_path)
		l7mp_bind_addr_to_spec(&l->bind_addr, spec);
}

void l7mp_stream_listener_close(struct l7mp_stream_listener *l)
{
	l->active = false;
	forget(l);
	l7mp_tls_gate_free(&l->gate);
	if (l->acceptor)
		l7mp_acceptor_close(&l->acceptor);
	l7mp_unix_path_unref(&l->unix_path);
	cJSON_Delete(l->tls);
	l->tls = NULL;
	free(l->name);
	l->name = NULL;
}
