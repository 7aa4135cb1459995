/* SPDX-License-Identifier: MIT */
/* The source stream of a UDP session: one peer of a shared socket. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/util.h"
#include "udp_int.h"

static void ip_to_key(const struct l7mp_addr *a, uint8_t out[16])
{
	if (l7mp_addr_family(a) == AF_INET6) {
		memcpy(out, &a->in6.sin6_addr, 16);
	} else if (l7mp_addr_family(a) == AF_INET) {
		memset(out, 0, 10);
		out[10] = out[11] = 0xff;
		memcpy(out + 12, &a->in.sin_addr, 4);
	} else {
		memset(out, 0, 16);
	}
}

void udp_key_set(struct udp_key *key, const struct l7mp_addr *peer, const struct l7mp_addr *local)
{
	bool v6 = l7mp_addr_family(peer) == AF_INET6;

	ip_to_key(peer, key->peer);
	ip_to_key(local, key->local);
	key->scope = v6 ? peer->in6.sin6_scope_id : 0;
	key->port = v6 ? peer->in6.sin6_port : peer->in.sin_port;
	key->family = v6 ? AF_INET6 : AF_INET;
}

static void key_to_ip(const struct udp_key *key, const uint8_t ip[16], uint16_t port,
                      struct l7mp_addr *out)
{
	if (key->family == AF_INET6) {
		out->in6 = (struct sockaddr_in6){
		        .sin6_family = AF_INET6, .sin6_port = port, .sin6_scope_id = key->scope};
		memcpy(&out->in6.sin6_addr, ip, 16);
		out->len = sizeof(out->in6);
	} else {
		out->in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port};
		memcpy(&out->in.sin_addr, ip + 12, 4);
		out->len = sizeof(out->in);
	}
}

void udp_key_addrs(const struct udp_key *key, uint16_t local_port, struct l7mp_addr *peer,
                   struct l7mp_addr *local)
{
	static const uint8_t unknown[16];

	key_to_ip(key, key->peer, key->port, peer);
	if (memcmp(key->local, unknown, sizeof(unknown)))
		key_to_ip(key, key->local, htons(local_port), local);
	else
		local->len = 0;
}

struct udp_peer *udp_peer_find(struct udp_sock *sock, const struct udp_key *key)
{
	struct udp_peer *p = NULL;

	HASH_FIND(hh, sock->peers, key, sizeof(*key), p);
	return p;
}

/*
 * The tag of a datagram is the hash of its peer's key and the peer's number: enough
 * to find the peer again, and to see that it has gone, without a pointer that may dangle.
 */
static uint64_t tag_of(const struct udp_peer *p)
{
	return (uint64_t)p->hh.hashv << 32 | p->id;
}

struct udp_peer *udp_peer_find_tag(struct udp_sock *sock, uint64_t tag)
{
	unsigned hashv = (unsigned)(tag >> 32);
	UT_hash_table *tbl;
	UT_hash_handle *h;

	if (!sock->peers)
		return NULL;
	tbl = sock->peers->hh.tbl;
	for (h = tbl->buckets[hashv & (tbl->num_buckets - 1)].hh_head; h; h = h->hh_next) {
		struct udp_peer *p = l7mp_container_of(h, struct udp_peer, hh);

		if (h->hashv == hashv && p->id == (uint32_t)tag)
			return p;
	}
	return NULL;
}

static void on_closed(struct l7mp_task *t, void *arg)
{
	struct udp_peer *p = arg;
	const struct l7mp_error ok = {.code = L7MP_OK};

	(void)t;
	if (p->base.events)
		p->base.events->closed(p->base.owner, &ok);
	udp_sock_unref(&p->sock);
	free(p);
}

/* ---- operations ---- */

static uint16_t local_port(const struct udp_peer *p)
{
	return l7mp_addr_port(&p->sock->bind_addr.addr);
}

static int op_write(struct l7mp_stream *base, struct l7mp_buf *buf)
{
	struct udp_peer *p = (struct udp_peer *)base;
	struct l7mp_addr to, from;

	if (p->closing || buf->len > p->base.max_write) {
		l7mp_buf_unref(buf);
		return p->closing ? -EPIPE : -EMSGSIZE;
	}
	udp_key_addrs(&p->key, local_port(p), &to, &from);
	return l7mp_dgram_send(p->sock->dgram, buf, &to, &from, tag_of(p));
}

/* The socket is everybody's: the owner queues or drops what it can't take. */
static void op_pause(struct l7mp_stream *base, bool on)
{
	(void)base;
	(void)on;
}

/* UDP has no way to say so. */
static void op_shutdown(struct l7mp_stream *base, int code)
{
	(void)base;
	(void)code;
}

static void op_close(struct l7mp_stream *base, bool abort)
{
	struct udp_peer *p = (struct udp_peer *)base;

	(void)abort;
	if (p->closing)
		return;
	p->closing = true;
	if (p->sock->last == p)
		p->sock->last = NULL;
	if (p->hh.tbl)
		HASH_DELETE(hh, p->sock->peers, p);
	if (p->one)
		p->one->one = NULL;
	p->one = NULL;
	l7mp_task_post(p->sock->state->env->loop, &p->task);
}

static int op_local(struct l7mp_stream *base, struct l7mp_addr *out)
{
	struct udp_peer *p = (struct udp_peer *)base;
	struct l7mp_addr peer;

	udp_key_addrs(&p->key, local_port(p), &peer, out);
	return out->len ? 0 : -ENOTCONN;
}

static void op_flow(struct l7mp_stream *base, struct l7mp_flow_end *out)
{
	struct udp_peer *p = (struct udp_peer *)base;

	memset(out, 0, sizeof(*out));
	udp_key_addrs(&p->key, local_port(p), &out->remote, &out->local);
	if (p->closing || !out->local.len) {
		out->kind = L7MP_FLOW_NONE;
		out->reason = L7MP_REASON_NOT_ESTABLISHED;
		return;
	}
	if (p->sock->marks) {
		out->kind = L7MP_FLOW_NONE;
		out->reason = L7MP_REASON_DSCP;
		return;
	}
	out->kind = L7MP_FLOW_SOCKET;
	out->l4 = IPPROTO_UDP;
}

static size_t op_drain_now(struct l7mp_stream *s)
{
	return l7mp_dgram_drain(((struct udp_peer *)s)->sock->dgram);
}

static const struct l7mp_stream_ops peer_ops = {
        .write = op_write,
        .pause = op_pause,
        .shutdown = op_shutdown,
        .close = op_close,
        .flow = op_flow,
        .local = op_local,
        .drain_now = op_drain_now,
};

struct udp_peer *udp_peer_new(struct udp_sock *sock, const struct udp_key *key)
{
	struct udp_peer *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->base.ops = &peer_ops;
	p->base.kind = L7MP_KIND_DATAGRAM;
	p->base.max_write = key->family == AF_INET ? UDP_MAX4 : UDP_MAX6;
	p->key = *key;
	p->id = (uint32_t)++sock->state->last_id;
	l7mp_task_init(&p->task, on_closed, p);
	HASH_ADD(hh, sock->peers, key, sizeof(p->key), p);
	if (!p->hh.tbl) {
		free(p);
		return NULL;
	}
	sock->refs++;
	p->sock = sock;
	return p;
}

void udp_peer_rekey(struct udp_peer *p, const struct udp_key *key)
{
	struct udp_key old = p->key;

	if (p->sock->last == p)
		p->sock->last = NULL;
	if (p->hh.tbl)
		HASH_DELETE(hh, p->sock->peers, p);
	p->key = *key;
	HASH_ADD(hh, p->sock->peers, key, sizeof(p->key), p);
	if (p->hh.tbl)
		return;
	/* No memory to grow: keep what worked. */
	p->key = old;
	HASH_ADD(hh, p->sock->peers, key, sizeof(p->key), p);
}
