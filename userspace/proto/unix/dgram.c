/* SPDX-License-Identifier: MIT */
/*
 * UNIX datagram sockets: a listener with one session per sender's name on one socket, and a cluster
 * with a socket per session (message.c).
 *
 * Senders whose socket has no name can't be answered: what would go back is dropped and counted
 * (no-receiver). Those of one user and group can't be told apart and share one session.
 *
 * Rules may have chosen the route by the sender's user and group. So a session takes datagrams of
 * these only; when another user has a name now, its session ends and another one begins.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l7mp/protos.h"
#include "l7mp/util.h"
#include "net/net.h"
#include "net/shared_socket.h"
#include "net/unix_path.h"
#include "unix.h"

#define UN_OFF offsetof(struct sockaddr_un, sun_path)
/*
 * Datagrams that a peer has not read yet are charged to the sender's buffer (unix(7)), which all
 * peers share here: large enough that a few peers that do not read can't fill it.
 */
#define SNDBUF (16 << 20)
/* The key of senders without a name, longer than any path or abstract name. */
struct unnamed_key {
	uint64_t owner;
	uint8_t none[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

struct dgram_socket {
	struct l7mp_shared_socket shared; /* first */
	struct l7mp_unix_path *path;
	struct l7mp_unix_access access; /* of an inherited socket, applied at activation */
	bool handed;                    /* inherited from another process, which may still use it */
	uint32_t max_write;
};

/* ---- sessions ---- */

static bool unnamed(const struct l7mp_shared_session *p)
{
	return p->key_len == sizeof(struct unnamed_key);
}

static void peer_addr(const struct l7mp_shared_session *p, struct l7mp_addr *out)
{
	out->len = (socklen_t)(UN_OFF + p->key_len);
	out->un.sun_family = AF_UNIX;
	memcpy(out->un.sun_path, p->key, p->key_len);
}

static int send_to(struct l7mp_shared_session *p, struct l7mp_buf *buf, uint64_t tag)
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
	return l7mp_dgram_send(p->socket->dgram, buf, &to, NULL, tag);
}

/* The peer may bind the same name again: the session stays until its idle time-out. */
static void on_session_lost(struct l7mp_shared_session *p, int err)
{
	char text[L7MP_ADDR_STRLEN], message[256];
	struct l7mp_addr to;

	peer_addr(p, &to);
	snprintf(message, sizeof(message), "%s: %s", l7mp_addr_str(&to, text),
	         err == -ECONNREFUSED || err == -ENOENT ? "the peer has closed"
	         : err == -EAGAIN                       ? "the peer does not read"
	                                                : l7mp_errno_text(err));
	l7mp_shared_session_notice(p, err == -EAGAIN ? "datagram-lost" : "peer-gone", message);
}

/* Who has sent the present datagram: user and group. */
static uint64_t sender(const struct dgram_socket *s)
{
	struct ucred cred;

	if (!l7mp_dgram_cred(s->shared.dgram, &cred))
		return UINT64_MAX;
	return (uint64_t)cred.uid << 32 | cred.gid;
}

static void first_datagram(struct dgram_socket *s, struct l7mp_buf *buf,
                           const struct l7mp_addr *from, const void *key, uint16_t len)
{
	struct l7mp_shared_listener *l = s->shared.listener;
	struct l7mp_accept a = {.peer = {.len = 0}};
	char text[L7MP_ADDR_STRLEN];
	struct l7mp_shared_session *p;
	struct ucred cred;
	bool known = l7mp_dgram_cred(s->shared.dgram, &cred);

	p = l7mp_shared_session_admit(l, &a, key, len, s->max_write, buf);
	if (!p)
		return;
	p->owner = sender(s);
	a.name = l7mp_asprintf("UNIXD:%s-%llu", l->name, (unsigned long long)p->id);
	a.metadata = l7mp_unix_metadata(l7mp_unix_path_name(s->path),
	                                from->len ? l7mp_addr_str(from, text) : NULL,
	                                known ? &cred : NULL);
	(void)l7mp_shared_session_emit(l, p, &a, buf);
}

/* ---- the socket ---- */

static void on_recv(void *arg, struct l7mp_buf *buf, const struct l7mp_addr *from,
                    const struct l7mp_addr *to)
{
	struct dgram_socket *s = arg;
	bool named = from->len > UN_OFF;
	struct unnamed_key unnamed = {.owner = sender(s)};
	const void *key = named ? (const void *)from->un.sun_path : &unnamed;
	uint16_t len = named ? (uint16_t)(from->len - UN_OFF) : sizeof(unnamed);
	struct l7mp_shared_session *p = l7mp_shared_find(&s->shared, key, len);

	(void)to;
	if (p && p->owner != unnamed.owner)
		p->base.ops->renew(&p->base, buf);
	else if (p)
		l7mp_shared_deliver(p, buf);
	else if (s->shared.listener)
		first_datagram(s, buf, from, key, len);
	else /* the listener was deleted; its sessions continue */
		l7mp_shared_socket_drop(&s->shared, L7MP_DROP_PEER, buf);
}

static const struct l7mp_dgram_ops dgram_ops = {
        .recv = on_recv,
        .lost = l7mp_shared_on_lost,
        .dropped = l7mp_shared_on_dropped,
        .drain = l7mp_shared_on_drain,
};

static bool matches(const struct l7mp_shared_socket *s, const void *want)
{
	return !strcmp(l7mp_unix_path_name(((const struct dgram_socket *)s)->path), want);
}

static void renew(const struct l7mp_shared_session *p, struct l7mp_buf *buf)
{
	struct l7mp_addr from = {.len = 0};

	if (!unnamed(p))
		peer_addr(p, &from);
	first_datagram((struct dgram_socket *)p->socket, buf, &from, p->key, p->key_len);
}

static void describe(const struct l7mp_shared_socket *s, int err, struct l7mp_error *out)
{
	l7mp_error_set(out, err, L7MP_ERR_UPSTREAM, "UNIX/dgram %s: %s",
	               l7mp_unix_path_name(((const struct dgram_socket *)s)->path),
	               l7mp_errno_text(err));
}

static void free_socket(struct l7mp_shared_socket *base)
{
	struct dgram_socket *s = (struct dgram_socket *)base;

	l7mp_unix_path_unref(&s->path);
	free(s);
}

static void given(struct l7mp_shared_socket *s)
{
	l7mp_unix_path_own(((struct dgram_socket *)s)->path, false);
}

static const struct l7mp_shared_ops shared_ops = {
        .matches = matches,
        .send = send_to,
        .lost = on_session_lost,
        .renew = renew,
        .describe = describe,
        .given = given,
        .free = free_socket,
        .back_pressure = true,
};

/* Gets the inherited socket of this name, or a new one. */
static int get_fd(const struct l7mp_listen *params, const char *filename,
                  const struct l7mp_unix_access *access, struct dgram_socket *s,
                  struct l7mp_error *err)
{
	int fd = l7mp_handed_unix(params->env->handed, SOCK_DGRAM, filename);

	if (fd == -ENOENT)
		return l7mp_unix_bind(filename, SOCK_DGRAM, access, &s->path, err);
	s->handed = true;
	s->access = *access;
	s->path = l7mp_unix_path_foreign(filename);
	if (s->path)
		return fd;
	close(fd);
	return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
}

/* Gets a reference to a free socket with the listener's name, or to a new one. */
static int open_socket(struct l7mp_shared_listener *l, struct l7mp_shared_table *table,
                       const struct l7mp_listen *params, struct l7mp_shared_socket **out,
                       struct l7mp_error *err)
{
	const char *filename = l7mp_spec_filename(params->spec);
	uint32_t hash = (uint32_t)l7mp_hash(filename, strlen(filename));
	struct l7mp_unix_access access;
	struct dgram_socket *s;
	int fd, rc;

	(void)l;
	*out = l7mp_shared_socket_find(table, hash, filename, params);
	if (*out)
		return 0;
	s = calloc(1, sizeof(*s));
	if (!s)
		return l7mp_error_set(err, -ENOMEM, L7MP_ERR_INTERNAL, "out of memory");
	rc = l7mp_unix_access_from_spec(params->spec, &access, err);
	fd = rc ? rc : get_fd(params, filename, &access, s, err);
	if (fd < 0) {
		free(s);
		return fd;
	}
	(void)l7mp_socket_set_sndbuf(fd, SNDBUF);
	s->max_write = unix_max_write(fd);
	rc = l7mp_shared_socket_init(&s->shared, &shared_ops, params->env, table, fd,
	                             L7MP_DGRAM_CRED, UNIX_MESSAGE_MAX, &dgram_ops);
	if (rc) {
		free_socket(&s->shared);
		return l7mp_error_set(err, rc, L7MP_ERR_REALISE, "filename %s: %s", filename,
		                      l7mp_errno_text(rc));
	}
	l7mp_shared_socket_publish(&s->shared, hash);
	*out = &s->shared;
	return 0;
}

/* ---- operations ---- */

static int dgram_listen(const struct l7mp_listen *params, struct l7mp_proto_listener **out,
                        struct l7mp_error *err)
{
	return l7mp_shared_listen(sizeof(struct l7mp_shared_listener), &l7mp_proto_unix_dgram,
	                          params, open_socket, NULL, out, err);
}

static void dgram_activate(struct l7mp_proto_listener *base)
{
	struct l7mp_shared_listener *l = (struct l7mp_shared_listener *)base;
	struct dgram_socket *s = (struct dgram_socket *)l->socket;
	int rc = 0;

	if (s->handed) {
		l7mp_unix_path_own(s->path, true);
		rc = l7mp_unix_path_access(s->path, &s->access);
		s->handed = false;
	}
	if (rc)
		l7mp_log_warn("unix", "%s: mode, owner or group can't be set: %s", l->name,
		              l7mp_errno_text(rc));
	l7mp_shared_activate(base);
}

static int dgram_connect(const struct l7mp_connect *p, struct l7mp_stream **out,
                         struct l7mp_error *err)
{
	const cJSON *bind = l7mp_json_member(p->cluster_spec, "bind");
	struct l7mp_addr remote;
	int rc = unix_endpoint("UNIX/dgram", p->address, &remote, err);

	if (rc)
		return rc;
	return unix_message_connect(p->env, "UNIX/dgram", SOCK_DGRAM, &remote,
	                            l7mp_json_str(bind, "filename", NULL), out, err);
}

/* ---- tables ---- */

static const struct l7mp_schema listener_spec = {
        .name = "unix-dgram-listener",
        .doc = "Receives datagrams on a UNIX socket; a session per path (or abstract name) of a "
               "sender, one for all senders of a user and group without a name, which can't be "
               "answered",
        .fields = unix_listener_fields,
        .check = l7mp_unix_access_check,
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
               "that has closed is a disconnect",
        .fields = cluster_fields,
};
static const struct l7mp_schema endpoint_spec = {
        .name = "unix-dgram-endpoint",
        .doc = "A server on a UNIX datagram socket",
        .fields = unix_endpoint_fields,
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
                        .flags = L7MP_PROTO_FORGEABLE,
                        .kind = L7MP_KIND_DATAGRAM,
                        .listener_spec = &listener_spec,
                        .cluster_spec = &cluster_spec,
                        .endpoint_spec = &endpoint_spec,
                        .idle_timeout = 60,
                },
        .start = l7mp_shared_start,
        .stop = l7mp_shared_stop,
        .listen = dgram_listen,
        .activate = dgram_activate,
        .hand = l7mp_shared_hand,
        .unlisten = l7mp_shared_unlisten,
        .connect = dgram_connect,
};
