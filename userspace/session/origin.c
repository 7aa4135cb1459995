/* SPDX-License-Identifier: MIT */
/*
 * Whose connections are our own? A relay turns a remote client into a local one:
 * what the controller sees as 127.0.0.1 may be a connection that one of our clusters
 * made for somebody elsewhere. So connections that a cluster makes to this host are
 * remembered by their local address, with whom the session works for, and until a
 * minute after their end.
 *
 * The accepting side may be served first: it hears of a connection before our cluster
 * does, or has to answer before the cluster's stream counts as open. So a connection is
 * looked for from its first attempt on, among those that are being made, too.
 *
 * A connection made for a client that is itself such a connection is remote too, and
 * so is one for a source that has neither an IP address nor a process that is not this
 * one: what comes by a FIFO or a UNIX datagram may be what we wrote there ourselves.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

#define KEEP_MS     60000
#define ENDED_MAX   262144
#define CACHE_SLOTS 64
#define CACHE_MS    1000

struct session_origin {
	UT_hash_handle hh;
	struct session_origin *prev, *next; /* in one of the lists below */
	struct session_stage *st;           /* while it lives */
	uint64_t gone_ms;
	bool dialling; /* in that list: its address may be unknown yet, or change */
	bool keyed;    /* in the table, under its local address */
	uint8_t key[24];
};

struct local_cache {
	struct l7mp_addr addr;
	uint64_t until;
	bool local;
};

struct session_origins {
	struct session_origin *table;
	struct session_origin *dialling;
	struct session_origin *ended; /* oldest first */
	size_t n_ended;
	struct local_cache cache[CACHE_SLOTS];
};

int l7mp_origins_new(struct session_origins **out)
{
	*out = calloc(1, sizeof(**out));
	return *out ? 0 : -ENOMEM;
}

static void unkey(struct session_origins *o, struct session_origin *e)
{
	if (e->keyed) {
		/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): it is in the table */
		HASH_DEL(o->table, e);
	}
	e->keyed = false;
}

static void settled(struct session_origins *o, struct session_origin *e)
{
	if (e->dialling)
		DL_DELETE(o->dialling, e);
	e->dialling = false;
}

static void forget(struct session_origins *o, struct session_origin *e)
{
	settled(o, e);
	if (e->st) {
		e->st->origin = NULL;
	} else {
		DL_DELETE(o->ended, e);
		o->n_ended--;
	}
	unkey(o, e);
	free(e);
}

void l7mp_origins_free(struct session_origins **pp)
{
	struct session_origins *o = *pp;
	struct session_origin *e;

	if (!o)
		return;
	*pp = NULL;
	e = o->table;
	HASH_CLEAR(hh, o->table);
	while (e) {
		struct session_origin *next = e->hh.next;

		free(e);
		e = next;
	}
	free(o);
}

static void purge(struct l7mp_sessions *m)
{
	struct session_origins *o = m->origins;
	uint64_t now = l7mp_loop_now(m->env->loop);

	/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): forget takes it out of the list */
	while (o->ended && (o->n_ended > ENDED_MAX || now - o->ended->gone_ms >= KEEP_MS))
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): forget takes it out of the list */
		forget(o, o->ended);
}

/* Asking the kernel for its interfaces at each connect is dear: answers hold for a second. */
static bool is_local(struct l7mp_sessions *m, const struct l7mp_addr *addr)
{
	struct session_origins *o = m->origins;
	uint64_t now = l7mp_loop_now(m->env->loop);
	struct local_cache *c;
	uint8_t key[24];
	size_t len;

	if (l7mp_addr_is_loopback(addr))
		return true;
	len = l7mp_addr_key(addr, key);
	c = &o->cache[l7mp_hash(key, len) % CACHE_SLOTS];
	if (c->until <= now || !l7mp_addr_equal_ip(&c->addr, addr)) {
		c->addr = *addr;
		c->local = l7mp_addr_is_local(addr);
		c->until = now + CACHE_MS;
	}
	return c->local;
}

/* ---- whom a session works for ---- */

static bool ip(const struct l7mp_addr *a)
{
	int family = l7mp_addr_family(a);

	return family == AF_INET || family == AF_INET6;
}

void l7mp_origin_source(struct l7mp_session *s, const struct l7mp_addr *peer)
{
	const cJSON *pid = l7mp_json_get(s->metadata, "UNIX/pid");

	if (ip(peer)) {
		s->peer_family = (uint8_t)l7mp_addr_family(peer);
		if (s->peer_family == AF_INET)
			memcpy(s->peer_ip, &peer->in.sin_addr, 4);
		else
			memcpy(s->peer_ip, &peer->in6.sin6_addr, 16);
		/* Now: later the peer's own connection may be forgotten. */
		s->remote = s->remote_known = l7mp_sessions_made_for_remote(s->m, peer);
		return;
	}
	s->remote = !cJSON_IsNumber(pid) || pid->valuedouble == (double)getpid();
	s->remote_known = true;
}

/* Asked only when it matters, as asking the kernel for each new peer is dear. */
static bool works_for_remote(struct l7mp_session *s)
{
	struct l7mp_addr peer;

	if (s->remote_known)
		return s->remote;
	l7mp_addr_any(&peer, s->peer_family, 0);
	if (s->peer_family == AF_INET)
		memcpy(&peer.in.sin_addr, s->peer_ip, 4);
	else
		memcpy(&peer.in6.sin6_addr, s->peer_ip, 16);
	s->remote = !is_local(s->m, &peer);
	s->remote_known = true;
	return s->remote;
}

/* ---- connections ---- */

/* Can it lead to this host? A name that is not resolved here may. */
static bool to_this_host(const struct session_stage *st)
{
	struct l7mp_addr remote;

	if (!st->endpoint || !st->endpoint->address ||
	    l7mp_addr_parse(&remote, st->endpoint->address, 0))
		return true;
	return l7mp_addr_is_any(&remote) || is_local(st->s->m, &remote);
}

/* Who had the address before us is gone for good. Live ones may share it, for different peers. */
static void take_over(struct session_origins *o, const struct l7mp_addr *local)
{
	struct session_origin *old;
	uint8_t key[24];
	size_t len = l7mp_addr_key(local, key);

	HASH_FIND(hh, o->table, key, len, old);
	if (old && !old->st)
		forget(o, old);
}

static void key_as(struct session_origins *o, struct session_origin *e,
                   const struct l7mp_addr *local)
{
	uint8_t key[24];
	size_t len = l7mp_addr_key(local, key);

	if (e->keyed && e->hh.keylen == len && !memcmp(e->key, key, len))
		return;
	unkey(o, e);
	take_over(o, local);
	memcpy(e->key, key, len);
	HASH_ADD(hh, o->table, key, len, e);
	e->keyed = e->hh.tbl != NULL;
}

/* 0 and an address that others may see as their peer; -EAGAIN: not known yet. */
static int local_of(const struct session_stage *st, struct l7mp_addr *local)
{
	if (!st->stream || !st->stream->ops->local)
		return -ENOTSUP;
	if (st->stream->ops->local(st->stream, local))
		return -EAGAIN;
	if (!ip(local))
		return -ENOTSUP;
	return l7mp_addr_port(local) ? 0 : -EAGAIN;
}

static void settle(struct l7mp_sessions *m)
{
	struct session_origin *e, *next;
	struct l7mp_addr local = {0};

	DL_FOREACH_SAFE (m->origins->dialling, e, next) {
		int rc = local_of(e->st, &local);

		if (!rc)
			key_as(m->origins, e, &local);
		else if (rc != -EAGAIN)
			forget(m->origins, e);
	}
}

void l7mp_origin_opened(struct session_stage *st)
{
	struct session_origins *o = st->s->m->origins;
	struct l7mp_addr local = {0};
	struct session_origin *e = st->origin;
	bool open = st->state == L7MP_STAGE_CONNECTED;
	int rc = local_of(st, &local);

	purge(st->s->m);
	if (rc && (open || rc != -EAGAIN)) {
		if (e)
			forget(o, e);
		return;
	}
	if (!rc && !(e && e->keyed))
		take_over(o, &local);
	if (!e) {
		if (!(rc == 0 && l7mp_addr_is_loopback(&local)) && !to_this_host(st))
			return;
		if (!works_for_remote(st->s))
			return;
		e = calloc(1, sizeof(*e));
		if (!e)
			return;
		e->st = st;
		st->origin = e;
		e->dialling = true;
		DL_APPEND(o->dialling, e);
	}
	if (!rc)
		key_as(o, e, &local);
	if (open)
		settled(o, e);
}

void l7mp_origin_closed(struct session_stage *st)
{
	struct session_origins *o = st->s->m->origins;
	struct session_origin *e = st->origin;

	if (!e)
		return;
	settled(o, e);
	if (!e->keyed) {
		forget(o, e);
		return;
	}
	st->origin = NULL;
	e->st = NULL;
	e->gone_ms = l7mp_loop_now(session_loop(st->s));
	DL_APPEND(o->ended, e);
	o->n_ended++;
	purge(st->s->m);
}

bool l7mp_sessions_made_for_remote(struct l7mp_sessions *m, const struct l7mp_addr *peer)
{
	struct session_origin *e;
	uint8_t key[24];
	size_t len;

	if (!ip(peer))
		return false;
	purge(m);
	if (m->origins->dialling && is_local(m, peer))
		settle(m);
	len = l7mp_addr_key(peer, key);
	HASH_FIND(hh, m->origins->table, key, len, e);
	return e != NULL;
}
