/* SPDX-License-Identifier: MIT */
/*
 * UNIX datagram sockets: a listener with a session per peer's path on one socket,
 * and a cluster with a socket per session.
 *
 * Senders without a name can't be told apart nor answered: they share one session,
 * and what goes back to it is dropped and counted (no-receiver).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/log.h"
#include "l7mp/protos.h"
#include "l7mp/util.h"
#include "net/hub.h"
#include "net/net.h"
#include "unix_int.h"

#define UN_OFF offsetof(struct sockaddr_un, sun_path)
/*
 * What a peer has not read yet is charged to the sender's buffer (unix(7)), and the sender is
 * one for all peers: those that do not read must not fill it.
 */
#define SNDBUF (16 << 20)
/* Of senders without a name: no path or abstract name is one NUL long. */
static const uint8_t unnamed_key[1] = {0};

struct udg_state {
	uint64_t last_id;
	struct udg_sock *socks;
};

struct udg_sock {
	struct l7mp_hub hub;
	struct udg_sock *prev, *next;
	struct udg_state *state;
	struct l7mp_unix_path *path;
	struct udg_listener *listener; /* active; NULL: new peers are turned away */
	struct udg_listener *heir;     /* will be, when its change is committed */
	uint32_t max_write;
};

struct udg_listener {
	struct l7mp_proto_listener base;
	char *name;
	struct udg_sock *sock;
};

/* ---- peers ---- */

static bool unnamed(const struct l7mp_hub_peer *p)
{
	return p->key_len == sizeof(unnamed_key);
}

static void peer_addr(const struct l7mp_hub_peer *p, struct l7mp_addr *out)
{
	out->len = (socklen_t)(UN_OFF + p->key_len);
	out->un.sun_family = AF_UNIX;
	memcpy(out->un.sun_path, p->key, p->key_len);
}

static int send_to(struct l7mp_hub_peer *p, struct l7mp_buf *buf, uint64_t tag)
{
	struct l7mp_addr to;
	int rc = 0;

	if (unnamed(p))
		rc = -EDESTADDRREQ;
	else if (buf->len > p->base.max_write)
		rc = -EMSGSIZE;
	if (rc) {
		l7mp_buf_unref(buf);
		return rc;
	}
	peer_addr(p, &to);
	return l7mp_dgram_send(p->hub->dgram, buf, &to, NULL, tag);
}

/* It may come back under the same name: the session waits for that until it is idle for too long. */
static void on_peer_lost(struct l7mp_hub_peer *p, int err)
{
	char text[L7MP_ADDR_STRLEN], message[256];
	struct l7mp_addr to;

	peer_addr(p, &to);
	snprintf(message, sizeof(message), "%s: %s", l7mp_addr_str(&to, text),
	         err == -ECONNREFUSED || err == -ENOENT ? "the peer has gone"
	         : err == -EAGAIN                       ? "the peer does not read"
	                                                : l7mp_errno_text(err));
	l7mp_hub_notice(p, err == -EAGAIN ? "datagram-lost" : "peer-gone", message);
}

static void describe(const struct l7mp_hub *hub, int err, struct l7mp_error *out)
{
	const struct udg_sock *s = (const struct udg_sock *)hub;

	l7mp_error_set(out, err, L7MP_ERR_UPSTREAM, "UNIX/dgram %s: %s",
	               l7mp_unix_path_name(s->path), l7mp_errno_text(err));
}

static void destroy(struct l7mp_hub *hub)
{
	struct udg_sock *s = (struct udg_sock *)hub;

	DL_DELETE(s->state->socks, s);
	l7mp_unix_path_unref(&s->path);
	free(s);
}

static const struct l7mp_hub_ops hub_ops = {
        .send = send_to,
        .lost = on_peer_lost,
        .describe = describe,
        .destroy = destroy,
};

/* ---- the socket ---- */

static void first(struct udg_sock *s, struct l7mp_buf *buf, const struct l7mp_addr *from,
                  const void *key, uint16_t len)
{
	const struct l7mp_proto_listener *l = &s->listener->base;
	const struct l7mp_addr nobody = {.len = 0};
	struct l7mp_accept a = {.peer = nobody};
	char text[L7MP_ADDR_STRLEN];
	struct l7mp_hub_peer *p;
	struct ucred cred;
	bool known = l7mp_dgram_cred(s->hub.dgram, &cred);

	if (l->events->admit && l->events->admit(l->arg, &nobody)) {
		l7mp_hub_drop(&s->hub, L7MP_DROP_LIMIT, buf);
		return;
	}
	p = l7mp_hub_peer_new(&s->hub, key, len, s->max_write);
	if (!p) {
		l7mp_hub_drop(&s->hub, L7MP_DROP_MEMORY, buf);
		return;
	}
	a.name = l7mp_asprintf("UNIXD:%s-%llu", s->listener->name, (unsigned long long)p->id);
	a.metadata = l7mp_unix_metadata(l7mp_unix_path_name(s->path),
	                                from->len ? l7mp_addr_str(from, text) : NULL,
	                                known ? &cred : NULL);
	(void)l7mp_hub_emit(l, p, &a, buf);
}

static void on_recv(void *arg, struct l7mp_buf *buf, const struct l7mp_addr *from,
                    const struct l7mp_addr *to)
{
	struct udg_sock *s = arg;
	bool named = from->len > UN_OFF;
	const void *key = named ? (const void *)from->un.sun_path : unnamed_key;
	uint16_t len = named ? (uint16_t)(from->len - UN_OFF) : sizeof(unnamed_key);
	struct l7mp_hub_peer *p = l7mp_hub_find(&s->hub, key, len);

	(void)to;
	if (p)
		p->base.events->data(p->base.owner, buf);
	else if (s->listener)
		first(s, buf, from, key, len);
	else
		l7mp_hub_drop(&s->hub, L7MP_DROP_PEER, buf);
}

static const struct l7mp_dgram_ops sock_ops = {
        .recv = on_recv,
        .lost = l7mp_hub_on_lost,
        .dropped = l7mp_hub_on_dropped,
        .drain = l7mp_hub_on_drain,
};

static bool is_retiring(const struct l7mp_listen *params, const struct udg_listener *l)
{
	for (size_t i = 0; i < params->n_retiring; i++)
		if (params->retiring[i] == &l->base)
			return true;
	return false;
}

/* A socket that only sessions use any more, or one whose listener goes with this change; or a new one. */
static int sock_get(struct udg_state *st, const char *filename, const struct l7mp_listen *params,
                    struct udg_sock **out, struct l7mp_error *err)
{
	struct udg_sock *s;
	int fd, rc, size = SNDBUF;

	DL_FOREACH (st->socks, s) {
		if (strcmp(l7mp_unix_path_name(s->path), filename) || s->heir ||
		    (s->listener && !is_retiring(params, s->listener)))
			continue;
		l7mp_hub_ref(&s->hub);
		*out = s;
		return 0;
	}
	s = calloc(1, sizeof(*s));
	if (!s)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	fd = l7mp_unix_bind(filename, SOCK_DGRAM, &s->path, err);
	if (fd < 0) {
		free(s);
		return fd;
	}
	/* With CAP_NET_ADMIN beyond net.core.wmem_max, else what that allows. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	s->max_write = l7mp_unix_max_write(fd);
	rc = l7mp_dgram_new(params->env->loop, fd, L7MP_DGRAM_CRED, L7MP_UNIX_MSG_MAX, &sock_ops, s,
	                    &s->hub.dgram);
	if (rc) {
		l7mp_unix_path_unref(&s->path);
		free(s);
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE, "filename %s: %s", filename,
		                      l7mp_errno_text(rc));
	}
	s->hub.ops = &hub_ops;
	s->hub.env = params->env;
	s->hub.refs = 1;
	s->hub.last_id = &st->last_id;
	s->state = st;
	DL_APPEND(st->socks, s);
	*out = s;
	return 0;
}

/* ---- operations ---- */

static int udg_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                      struct l7mp_error *err)
{
	const char *filename = l7mp_json_str(params->spec, "filename", "");
	struct udg_state *st = l7mp_proto_state(params->env, &l7mp_proto_unix_dgram, err);
	struct udg_listener *l;
	int rc;

	if (!st)
		return -ENOMEM;
	l = calloc(1, sizeof(*l));
	if (l)
		l->name = strdup(params->name ? params->name : "");
	if (!l || !l->name) {
		free(l);
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	}
	l->base = (struct l7mp_proto_listener){
	        .proto = &l7mp_proto_unix_dgram, .events = params->events, .arg = params->arg};
	rc = sock_get(st, filename, params, &l->sock, err);
	if (rc) {
		free(l->name);
		free(l);
		return rc;
	}
	l->sock->heir = l;
	*out = &l->base;
	return 0;
}

static void udg_activate(struct l7mp_proto_listener *base)
{
	struct udg_listener *l = (struct udg_listener *)base;

	l->sock->listener = l;
	l->sock->heir = NULL;
	l7mp_dgram_read(l->sock->hub.dgram, true);
}

static void udg_unlisten(struct l7mp_proto_listener *base)
{
	struct udg_listener *l = (struct udg_listener *)base;

	if (l->sock->heir == l)
		l->sock->heir = NULL;
	if (l->sock->listener == l)
		l->sock->listener = NULL;
	l7mp_hub_unref(&l->sock->hub);
	free(l->name);
	free(l);
}

static int udg_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                       struct l7mp_error *err)
{
	const cJSON *bind = l7mp_json_member(p->cluster_spec, "bind");
	struct l7mp_addr remote;
	int rc = l7mp_unix_endpoint("UNIX/dgram", p->address, &remote, err);

	if (rc)
		return rc;
	return l7mp_unix_msg_connect(p->env, "UNIX/dgram", SOCK_DGRAM, &remote,
	                             l7mp_json_str(bind, "filename", NULL), out, err);
}

static int udg_start(struct l7mp_env *env, void **state, struct l7mp_error *err)
{
	(void)env;
	*state = calloc(1, sizeof(struct udg_state));
	if (!*state)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	return 0;
}

/* ---- tables ---- */

static const struct l7mp_schema listener_spec = {
        .name = "unix-dgram-listener",
        .doc = "Receives datagrams on a UNIX socket; a session per path (or abstract name) of a "
               "sender, one for all senders without a name, which can't be answered",
        .fields = l7mp_unix_listener_fields,
};
static const struct l7mp_field bind_fields[] = {
        {.key = "filename",
         .type = L7MP_T_STRING,
         .flags = L7MP_F_REQUIRED,
         .pattern = L7MP_P_FILENAME,
         .doc = "path of the own socket, or @name for an abstract one; one session at a time can "
                "have it"},
        {0},
};
static const struct l7mp_schema bind_schema = {
        .name = "unix-dgram-bind",
        .doc = "Where datagrams are sent from",
        .fields = bind_fields,
};
static const struct l7mp_field cluster_fields[] = {
        {.key = "bind",
         .type = L7MP_T_OBJECT,
         .sub = &bind_schema,
         .doc = "the own socket's name; without it an abstract one that the kernel chooses, so "
                "that the server can answer"},
        {0},
};
static const struct l7mp_schema cluster_spec = {
        .name = "unix-dgram-cluster",
        .doc = "Sends datagrams to a UNIX socket from a socket of each session's own; a server "
               "that has gone is a disconnect",
        .fields = cluster_fields,
};
static const struct l7mp_schema endpoint_spec = {
        .name = "unix-dgram-endpoint",
        .doc = "A server on a UNIX datagram socket",
        .fields = l7mp_unix_endpoint_fields,
};

static const char *const aliases[] = {"UnixDatagram", NULL};

const struct l7mp_proto l7mp_proto_unix_dgram = {
        .desc =
                {
                        .name = "UNIX/dgram",
                        .aliases = aliases,
                        .doc = "UNIX datagram sockets, by path or abstract name; messages of up to "
                               "208 KiB",
                        .roles = L7MP_ROLE_LISTENER | L7MP_ROLE_CLUSTER,
                        .kind = L7MP_KIND_DATAGRAM,
                        .listener_spec = &listener_spec,
                        .cluster_spec = &cluster_spec,
                        .endpoint_spec = &endpoint_spec,
                        .idle_timeout = 60,
                },
        .start = udg_start,
        .stop = l7mp_unix_stop,
        .listen = udg_listen,
        .activate = udg_activate,
        .unlisten = udg_unlisten,
        .connect = udg_connect,
};
