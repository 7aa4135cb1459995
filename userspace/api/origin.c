/* SPDX-License-Identifier: MIT */
#include "origin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api_int.h"
#include "l7mp/hash.h"

/* A relay that leads to itself this often is not looked through any further. */
#define CHAIN_MAX 16
/* Closed connections that are remembered: more than accept queues and threads' queues hold. */
#define CLOSED_MAX 65536
#define QUEUED_MAX 8

/* A connection of a cluster. */
struct connection {
	struct l7mp_watched watched; /* first; session is NULL after the end */
	UT_hash_handle hh;
	struct connection *prev, *next; /* in `unknown`, or in `closed` */
	bool keyed;                     /* in the table, under both addresses */
	bool judged;                    /* the other end was accepted by us, and looked up */
	struct l7mp_addr remote;        /* that it is keyed with */
	uint8_t key[48];
	size_t key_len;
};

struct api_origins {
	struct l7mp_sessions *sessions;
	struct api_host *host;
	struct connection *table;
	struct connection *unknown; /* not open yet: their addresses may be unknown, or change */
	struct connection *closed;  /* not accepted when they ended, see may_wait; oldest first */
	size_t n_closed;
	bool no_diag;
	uint16_t queued[QUEUED_MAX]; /* ports; 0: none */
};

/* TCP is the only protocol that is kept, so the key needs no name of it. */
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
		/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): it is in the table */
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
 * Both addresses, as far as they are known. 0; -EAGAIN: not yet. The remote one is compared first,
 * so that a connection that is still being made costs no system call each time.
 */
static int learn(struct api_origins *o, struct connection *c)
{
	struct l7mp_stream *stream = c->watched.stream;
	struct l7mp_addr local = {0}, remote = {0};
	struct connection *old;
	int rc = stream->ops->remote(stream, &remote);

	if (rc)
		return rc;
	if (c->keyed && l7mp_addr_equal(&c->remote, &remote))
		return 0;
	if (stream->ops->local(stream, &local) || !l7mp_addr_port(&local))
		return -EAGAIN;
	unkey(o, c);
	old = find(o, &local, &remote);
	if (old && !old->watched.session)
		forget_closed(o,
		              old); /* its addresses are in use again: it was accepted or reset */
	c->remote = remote;
	c->key_len = make_key(&local, &remote, c->key);
	HASH_ADD(hh, o->table, key, c->key_len, c);
	c->keyed = c->hh.tbl != NULL;
	return c->keyed ? 0 : -EAGAIN;
}

/* Looks at those whose socket may have come or changed since the last time. */
static void settle(struct api_origins *o)
{
	struct connection *c, *next;

	DL_FOREACH_SAFE (o->unknown, c, next)
		(void)learn(o, c);
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
		/* What can't be known can't be allowed: the connection ends before it began. */
		l7mp_stream_close(stream, true);
		return NULL;
	}
	c->watched.session = s;
	c->watched.stream = stream;
	DL_APPEND(o->unknown, c);
	(void)learn(o, c);
	return &c->watched;
}

static void on_open(void *arg, struct l7mp_watched *watched)
{
	struct connection *c = (struct connection *)watched;
	struct api_origins *o = arg;

	if (!c->prev || learn(o, c))
		return;
	DL_DELETE(o->unknown, c);
	c->prev = NULL;
}

static const char *of_session(struct api_origins *o, const struct l7mp_session *s, unsigned depth);

/*
 * May the other end of a connection that has ended still wait to be looked up? On the loop a
 * client is looked up as soon as it is accepted; but a thread may come to it so late that
 * another client has got the same port meanwhile, whose socket would be taken for its own.
 */
static bool may_wait(const struct api_origins *o, const struct connection *c)
{
	uint16_t port = l7mp_addr_port(&c->remote);

	if (c->judged)
		return false;
	for (size_t i = 0; i < QUEUED_MAX; i++)
		if (port && o->queued[i] == port)
			return true;
	return o->no_diag;
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

static void on_end(void *arg, struct l7mp_watched *watched)
{
	struct connection *c = (struct connection *)watched;
	struct api_origins *o = arg;

	if (c->prev)
		DL_DELETE(o->unknown, c);
	c->prev = NULL;
	if (!c->keyed || !may_wait(o, c) || !of_session(o, watched->session, 1)) {
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

static const struct l7mp_watch_ops watch_ops = {
        .begin = on_begin,
        .open = on_open,
        .end = on_end,
};

int api_origins_new(struct l7mp_sessions *sessions, struct api_host *host, struct api_origins **out)
{
	struct api_origins *o = calloc(1, sizeof(*o));
	struct l7mp_addr nobody;

	if (!o)
		return -ENOMEM;
	l7mp_addr_any(&nobody, AF_INET, 1);
	o->sessions = sessions;
	o->host = host;
	o->no_diag = api_host_peer(host, &nobody, &nobody) == API_PEER_UNKNOWN;
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

/* ---- judging ---- */

static const char through_us[] = "the request comes through this proxy from another host";
static const char not_known[] = "where the request comes from is not known";

static const char *of_connection(struct api_origins *o, const struct l7mp_addr *peer,
                                 const struct l7mp_addr *local, unsigned depth)
{
	struct connection *c;

	if (depth > CHAIN_MAX)
		return "the request comes through too many listeners of this proxy";
	if (!api_host_has(o->host, peer))
		return depth ? through_us : "the request does not come from this host";
	settle(o);
	c = find(o, peer, local);
	if (c && !c->watched.session && !c->judged) {
		c->judged = true;
		return through_us;
	}
	if (c && !c->watched.session) {
		/* It was looked up before: this is another client that has the same port now. */
		forget_closed(o, c);
		c = NULL;
	}
	if (c)
		c->judged = true;
	if (c)
		return of_session(o, c->watched.session, depth + 1) ? through_us : NULL;
	switch (api_host_peer(o->host, peer, local)) {
	case API_PEER_ALIVE:
		return NULL;
	case API_PEER_GONE:
		return "the client is gone";
	case API_PEER_UNKNOWN:
		o->no_diag = true;
		return NULL;
	}
	return not_known;
}

static const char *of_session(struct api_origins *o, const struct l7mp_session *s, unsigned depth)
{
	struct l7mp_session_client client;

	l7mp_session_client(s, &client);
	switch (client.carrier) {
	case L7MP_CARRIER_TCP:
		if (!client.local.len)
			return not_known;
		return of_connection(o, &client.peer, &client.local, depth);
	case L7MP_CARRIER_UNIX:
		/* One of our own clusters connected here; for whom can't be told. */
		if (client.pid == getpid())
			return "the request comes through this proxy itself";
		return NULL;
	case L7MP_CARRIER_OTHER:
		break;
	}
	return not_known;
}

const char *api_origin_of_session(struct api_origins *o, const struct l7mp_session *s)
{
	return of_session(o, s, 0);
}

const char *api_origin_of_connection(struct api_origins *o, const struct l7mp_addr *peer,
                                     const struct l7mp_addr *local)
{
	return of_connection(o, peer, local, 0);
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
		if (client.carrier != L7MP_CARRIER_TCP)
			return;
	}
}

void api_origin_source_of_session(struct api_origins *o, const struct l7mp_session *s,
                                  struct l7mp_addr *out)
{
	struct l7mp_session_client client;

	l7mp_session_client(s, &client);
	if (client.carrier == L7MP_CARRIER_TCP)
		api_origin_source_of_connection(o, &client.peer, &client.local, out);
	else
		out->len = 0;
}
