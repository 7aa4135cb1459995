/* SPDX-License-Identifier: MIT */
#include "origin.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#include "api_int.h"
#include "l7mp/hash.h"

/* A connection is followed through at most this many listeners of this proxy. */
#define CHAIN_MAX 16
/*
 * Maximum number of closed connections to remember: more than fit into accept queues and threads'
 * queues.
 */
#define CLOSED_MAX 65536
#define QUEUED_MAX 8

/* A connection of a cluster. */
struct connection {
	struct l7mp_watched watched; /* first; session is NULL after the end */
	UT_hash_handle hh;
	struct connection *prev, *next; /* in `unknown` (if so: not NULL), or in `closed` */
	bool keyed;                     /* in the table, under both addresses */
	bool judged;                    /* the other end was accepted here, and classified */
	struct l7mp_addr remote;        /* the remote address in its key */
	uint8_t key[48];
	size_t key_len;
};

struct api_origins {
	struct l7mp_sessions *sessions;
	struct api_host *host;
	struct connection *table;
	struct connection *unknown; /* connecting: their addresses may be unknown, or may change */
	struct connection *closed;  /* not accepted when they ended, see may_wait; oldest first */
	size_t n_closed;
	uint16_t queued[QUEUED_MAX]; /* ports; 0: none */
};

/* The key has no protocol, as only TCP connections are stored. */
static size_t make_key(const struct l7mp_addr *from, const struct l7mp_addr *to,
                       uint8_t key[static 48])
{
	uint8_t a[24], b[24];
	size_t na = l7mp_addr_key(from, a), nb = l7mp_addr_key(to, b);

	memcpy(key, a, na);
	memcpy(key + na, b, nb);
	return na + nb;
}

static void unkey(struct api_origins *o, struct connection *c)
{
	if (c->keyed) {
		/*
		 * NOLINTNEXTLINE(clang-analyzer-core.NullDereference): the table contains c, so it
		 * is not empty
		 */
		HASH_DEL(o->table, c);
	}
	c->keyed = false;
}

static struct connection *find(struct api_origins *o, const struct l7mp_addr *from,
                               const struct l7mp_addr *to)
{
	struct connection *c;
	uint8_t key[48];
	size_t len = make_key(from, to, key);

	HASH_FIND(hh, o->table, key, len, c);
	return c;
}

static void forget_closed(struct api_origins *o, struct connection *c)
{
	DL_DELETE(o->closed, c);
	o->n_closed--;
	unkey(o, c);
	free(c);
}

/*
 * Reads both addresses. Returns 0; 1: they may still change; -EAGAIN: not known yet. Compares the
 * remote one first, so that a connection that is still connecting costs no system call each time.
 */
static int read_addresses(struct api_origins *o, struct connection *c)
{
	struct l7mp_stream *stream = c->watched.stream;
	struct l7mp_addr local = {0}, remote = {0};
	struct connection *old;
	int rc = stream->ops->remote(stream, &remote);

	if (rc < 0)
		return rc;
	if (c->keyed && l7mp_addr_equal(&c->remote, &remote))
		return rc;
	if (stream->ops->local(stream, &local) || !l7mp_addr_port(&local))
		return -EAGAIN;
	unkey(o, c);
	old = find(o, &local, &remote);
	/* Its addresses are in use again, so it was accepted or reset. */
	if (old && !old->watched.session)
		forget_closed(o, old);
	c->remote = remote;
	c->key_len = make_key(&local, &remote, c->key);
	HASH_ADD(hh, o->table, key, c->key_len, c);
	c->keyed = c->hh.tbl != NULL;
	return c->keyed ? rc : -EAGAIN;
}

/* Checks connections whose socket may have been made or changed since the last time. */
static void settle(struct api_origins *o)
{
	struct connection *c, *next;

	DL_FOREACH_SAFE (o->unknown, c, next)
		(void)read_addresses(o, c);
}

static struct l7mp_watched *on_begin(void *arg, struct l7mp_session *s, struct l7mp_stream *stream)
{
	struct api_origins *o = arg;
	struct l7mp_addr remote;
	struct connection *c;

	if (!stream->ops->remote || !stream->ops->local ||
	    stream->ops->remote(stream, &remote) == -ENOTSUP)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c) {
		/*
		 * A connection that can't be recorded is closed, because it could not be
		 * classified.
		 */
		l7mp_stream_close(stream, true);
		return NULL;
	}
	c->watched.session = s;
	c->watched.stream = stream;
	if (read_addresses(o, c))
		DL_APPEND(o->unknown, c);
	return &c->watched;
}

static void on_open(void *arg, struct l7mp_watched *watched)
{
	struct connection *c = (struct connection *)watched;
	struct api_origins *o = arg;

	if (!c->prev || read_addresses(o, c) < 0)
		return;
	DL_DELETE(o->unknown, c);
	c->prev = NULL;
}

/*
 * Whether the other end of an ended connection may still have to be classified. The loop classifies
 * connections when it accepts them. But a thread of the admin server may do it so late that another
 * client has the same port, whose socket would be mistaken for the first one's.
 */
static bool may_wait(const struct api_origins *o, const struct connection *c)
{
	uint16_t port = l7mp_addr_port(&c->remote);

	for (size_t i = 0; i < QUEUED_MAX && !c->judged; i++)
		if (port && o->queued[i] == port)
			return true;
	return false;
}

void api_origins_queued_port(struct api_origins *o, uint16_t port, bool on)
{
	for (size_t i = 0; i < QUEUED_MAX; i++) {
		if (o->queued[i] == (on ? 0 : port)) {
			o->queued[i] = on ? port : 0;
			return;
		}
	}
}

/* Returns the origin that the connections of this session inherit. */
static enum l7mp_origin of_session(const struct l7mp_session *s)
{
	struct l7mp_session_client client;

	l7mp_session_client(s, &client);
	return client.origin == L7MP_ORIGIN_LOCAL ? L7MP_ORIGIN_LOCAL : L7MP_ORIGIN_RELAYED;
}

static void on_end(void *arg, struct l7mp_watched *watched)
{
	struct connection *c = (struct connection *)watched;
	struct api_origins *o = arg;

	if (c->prev)
		DL_DELETE(o->unknown, c);
	c->prev = NULL;
	if (!c->keyed || !may_wait(o, c) || of_session(watched->session) == L7MP_ORIGIN_LOCAL) {
		unkey(o, c);
		free(c);
		return;
	}
	watched->session = NULL;
	watched->stream = NULL;
	DL_APPEND(o->closed, c);
	if (++o->n_closed > CLOSED_MAX)
		forget_closed(o, o->closed);
}

/* ---- classification ---- */

/* Returns the state of an accepted connection, TCP_ESTABLISHED etc.; 0: unknown. */
static int state_of(int fd)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) ? 0 : info.tcpi_state;
}

/*
 * Classifies a client with an address of this host that is not a cluster of this proxy. Until this
 * end of the connection is reset, no other socket can have the addresses of the other end; so this
 * end is checked after the other one. fd -1: this end is not available.
 */
static enum l7mp_origin of_other_process(struct api_origins *o, int fd,
                                         const struct l7mp_addr *peer,
                                         const struct l7mp_addr *local)
{
	enum api_peer found = api_host_peer(o->host, peer, local);
	int state = fd < 0 ? TCP_ESTABLISHED : state_of(fd);

	if (found == API_PEER_GONE || !state || state == TCP_CLOSE)
		return L7MP_ORIGIN_GONE;
	/* The client for which the other proxy has connected is unknown. */
	if (found == API_PEER_RELAY)
		return L7MP_ORIGIN_RELAYED;
	/* A client that has only finished sending can't be distinguished from one that is gone. */
	if (found == API_PEER_UNKNOWN && state != TCP_ESTABLISHED)
		return L7MP_ORIGIN_GONE;
	return L7MP_ORIGIN_LOCAL;
}

static enum l7mp_origin on_origin(void *arg, int fd, const struct l7mp_addr *peer,
                                  const struct l7mp_addr *local)
{
	struct api_origins *o = arg;
	struct connection *c;

	if (!api_host_has(o->host, peer))
		return L7MP_ORIGIN_REMOTE;
	settle(o);
	c = find(o, peer, local);
	if (c && c->watched.session) {
		c->judged = true;
		return of_session(c->watched.session);
	}
	if (c && !c->judged && fd < 0) {
		c->judged = true;
		return L7MP_ORIGIN_RELAYED;
	}
	/* It was classified before: another client now has the same port. */
	if (c)
		forget_closed(o, c);
	return of_other_process(o, fd, peer, local);
}

enum l7mp_origin api_origin_of_connection(struct api_origins *o, const struct l7mp_addr *peer,
                                          const struct l7mp_addr *local)
{
	return on_origin(o, -1, peer, local);
}

enum l7mp_origin api_origin_of_session(struct api_origins *o, const struct l7mp_session *s)
{
	struct l7mp_session_client client;

	l7mp_session_client(s, &client);
	if (client.origin != L7MP_ORIGIN_LOCAL || !client.peer.len)
		return client.origin;
	/* A request is executed only while its client exists. */
	if (!client.local.len ||
	    api_host_peer(o->host, &client.peer, &client.local) == API_PEER_GONE)
		return L7MP_ORIGIN_GONE;
	return L7MP_ORIGIN_LOCAL;
}

/* ---- create and free ---- */

static const struct l7mp_watch_ops watch_ops = {
        .begin = on_begin,
        .open = on_open,
        .end = on_end,
        .origin = on_origin,
};

int api_origins_new(struct l7mp_sessions *sessions, struct api_host *host, struct api_origins **out)
{
	struct api_origins *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	o->sessions = sessions;
	o->host = host;
	l7mp_sessions_watch(sessions, &watch_ops, o);
	*out = o;
	return 0;
}

void api_origins_free(struct api_origins **pp)
{
	struct api_origins *o = *pp;

	if (!o)
		return;
	*pp = NULL;
	l7mp_sessions_watch(o->sessions, NULL, NULL);
	while (o->closed)
		forget_closed(o, o->closed);
	free(o);
}

/* ---- sources ---- */

void api_origin_source_of_connection(struct api_origins *o, const struct l7mp_addr *peer,
                                     const struct l7mp_addr *local, struct l7mp_addr *out)
{
	struct l7mp_session_client client = {.peer = *peer, .local = *local};

	*out = *peer;
	settle(o);
	for (unsigned i = 0; i < CHAIN_MAX; i++) {
		const struct connection *c = find(o, &client.peer, &client.local);

		if (!c || !c->watched.session)
			return;
		l7mp_session_client(c->watched.session, &client);
		*out = client.peer;
		if (!client.peer.len || !client.local.len)
			return;
	}
}

void api_origin_source_of_session(struct api_origins *o, const struct l7mp_session *s,
                                  struct l7mp_addr *out)
{
	struct l7mp_session_client client;

	l7mp_session_client(s, &client);
	if (client.peer.len && client.local.len)
		api_origin_source_of_connection(o, &client.peer, &client.local, out);
	else
		*out = client.peer;
}
