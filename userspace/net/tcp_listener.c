/* SPDX-License-Identifier: MIT */
/* TCP listeners as TCP and WebSocket use them. */
#include "net.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void on_accepted(void *arg, int fd, const struct l7mp_addr *peer)
{
	struct l7mp_tcp_listener *l = arg;
	const struct l7mp_listen_events *ev = l->base.events;

	if (!l->active || (ev->admit && ev->admit(l->base.arg, peer))) {
		close(fd);
		return;
	}
	l7mp_tcp_tune(fd);
	l->accepted(l, fd, peer);
}

static void on_exhausted(void *arg, int err)
{
	struct l7mp_tcp_listener *l = arg;

	if (l->base.events->exhausted)
		l->base.events->exhausted(l->base.arg, err);
}

static const struct l7mp_acceptor_ops acceptor_ops = {
        .accepted = on_accepted,
        .exhausted = on_exhausted,
};

static void forget(struct l7mp_tcp_listener *l)
{
	if (l->from)
		l->from->heir = NULL;
	if (l->heir)
		l->heir->from = NULL;
	l->from = l->heir = NULL;
}

/*
 * The same queue of connections under a second descriptor: none is lost when the first one closes.
 */
static int share_retiring(struct l7mp_tcp_listener *l, const struct l7mp_bind_addr *want,
                          const struct l7mp_listen *params, struct l7mp_bind_addr *bound)
{
	for (size_t i = 0; i < params->n_retiring; i++) {
		struct l7mp_tcp_listener *old = (struct l7mp_tcp_listener *)params->retiring[i];
		int fd;

		/* With an heir already, binding fails as it should. */
		if (!old->acceptor || old->heir || !l7mp_bind_addr_same(want, &old->bind_addr))
			continue;
		fd = fcntl(l7mp_acceptor_fd(old->acceptor), F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			return -errno;
		*bound = old->bind_addr;
		old->heir = l;
		l->from = old;
		return fd;
	}
	return -ENOENT;
}

int l7mp_tcp_listener_open(struct l7mp_tcp_listener *l, const struct l7mp_proto *proto,
                           const struct l7mp_listen *params, l7mp_tcp_accepted_fn accepted,
                           struct l7mp_error *err)
{
	struct l7mp_bind_addr want;
	int fd, rc = l7mp_bind_addr_from_spec(params->spec, &want, err);

	if (rc)
		return rc;
	l->base = (struct l7mp_proto_listener){
	        .proto = proto, .events = params->events, .arg = params->arg};
	l->env = params->env;
	l->accepted = accepted;
	l->name = strdup(params->name ? params->name : "");
	if (!l->name)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	fd = share_retiring(l, &want, params, &l->bind_addr);
	if (fd == -ENOENT)
		fd = l7mp_bind_addr_socket(&want, SOCK_STREAM, NULL, NULL, &l->bind_addr, err);
	else if (fd < 0)
		l7mp_error_set(err, fd, L7MP_ERR_REALISE, "%s", l7mp_errno_text(fd));
	if (fd < 0) {
		rc = fd;
		goto fail;
	}
	/*
	 * Made now, because activate may not fail; nothing is accepted before, as
	 * both happen within one callback of the loop.
	 */
	rc = l7mp_acceptor_new(params->env->loop, fd, &acceptor_ops, l, &l->acceptor);
	if (rc) {
		l7mp_error_set(err, rc, L7MP_ERR_REALISE, "%s", l7mp_errno_text(rc));
		goto fail;
	}
	return 0;
fail:
	l7mp_tcp_listener_close(l);
	return rc;
}

void l7mp_tcp_listener_activate(struct l7mp_proto_listener *base)
{
	struct l7mp_tcp_listener *l = (struct l7mp_tcp_listener *)base;

	l->active = true;
	forget(l);
}

void l7mp_tcp_listener_bound(const struct l7mp_proto_listener *base, cJSON *spec)
{
	const struct l7mp_tcp_listener *l = (const struct l7mp_tcp_listener *)base;

	l7mp_bind_addr_to_spec(&l->bind_addr, spec);
}

void l7mp_tcp_listener_close(struct l7mp_tcp_listener *l)
{
	l->active = false;
	forget(l);
	if (l->acceptor)
		l7mp_acceptor_close(&l->acceptor);
	free(l->name);
	l->name = NULL;
}
