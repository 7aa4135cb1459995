/* SPDX-License-Identifier: MIT */
/*
 * Nexthops: cached results of route look-ups, kept up to date by rtnetlink events, so that the
 * programs need no FIB look-up per packet.
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "path.h"

#define FAILED_KEEP_MS 60000 /* how long a failed nexthop is kept without users */
#define FAILED_MAX     4096
/* Up to this many nexthops of a link that went down are looked up before their flows leave. */
#define FEW 256

static size_t addr_len(uint8_t family)
{
	return family == L7MP_FAMILY_V4 ? 4 : 16;
}

/* ---- the cache ---- */

static void nexthop_free(struct off_path *p, struct off_nexthop *nh)
{
	off_neigh_unbind(p, nh);
	off_recheck_drop(p, nh);
	if (nh->dirty)
		DL_DELETE2(p->dirty, nh, dprev, dnext);
	if (nh->failed_ms)
		p->n_failed_nexthops--;
	HASH_DELETE(hh, p->nexthops, nh);
	free(nh);
}

/* Without users: free it, but keep a failed one for a while, to notice when it recovers. */
static void nexthop_idle(struct off_path *p, struct off_nexthop *nh)
{
	if (nh->dirty) /* decide after the look-up, which may fail */
		return;
	if (nh->reason == L7MP_REASON_NONE || p->n_failed_nexthops >= FAILED_MAX) {
		nexthop_free(p, nh);
		return;
	}
	if (!nh->failed_ms)
		p->n_failed_nexthops++;
	nh->failed_ms = l7mp_loop_now(p->loop) | 1;
}

static void nexthop_key(struct off_nexthop_key *key, uint8_t l4, const struct l7mp_addr *local,
                        const struct l7mp_addr *remote)
{
	memset(key, 0, sizeof(*key));
	key->family = off_abi_family(remote);
	off_abi_addr(remote, key->dst);
	off_abi_addr(local, key->src);
	if (key->family == L7MP_FAMILY_V6)
		key->scope = remote->in6.sin6_scope_id;
	if (!l4)
		return;
	key->l4 = l4;
	key->sport = htons(l7mp_addr_port(local));
	key->dport = htons(l7mp_addr_port(remote));
}

struct off_nexthop *off_nexthop_get(struct off_path *p, uint8_t l4, const struct l7mp_addr *local,
                                    const struct l7mp_addr *remote)
{
	struct off_nexthop_key key;
	struct off_nexthop *nh = NULL;

	nexthop_key(&key, p->by_port ? l4 : 0, local, remote);
	HASH_FIND(hh, p->nexthops, &key, sizeof(key), nh);
	if (nh) {
		if (!nh->recheck) /* it had no users at the last recheck */
			off_recheck_new(p, nh);
		return nh;
	}
	nh = calloc(1, sizeof(*nh));
	if (!nh)
		return NULL;
	nh->key = key;
	HASH_ADD(hh, p->nexthops, key, sizeof(nh->key), nh);
	if (!nh->hh.tbl) {
		free(nh);
		return NULL;
	}
	off_route_lookup(p, nh);
	off_recheck_new(p, nh);
	return nh;
}

void off_nexthop_use(struct off_nexthop *nh, struct off_use *use)
{
	use->generation = nh->generation;
	DL_APPEND(nh->uses, use); /* after those of an older generation */
	nh->n_uses++;
}

void off_nexthop_unuse(struct off_path *p, struct off_nexthop *nh, struct off_use *use)
{
	if (use) {
		DL_DELETE(nh->uses, use);
		nh->n_uses--;
	}
	if (!nh->n_uses)
		nexthop_idle(p, nh);
}

void off_nexthops_expire(struct off_path *p)
{
	uint64_t now = l7mp_loop_now(p->loop);
	struct off_nexthop *nh, *next;

	if (!p->n_failed_nexthops)
		return;
	HASH_ITER (hh, p->nexthops, nh, next)
		if (!nh->n_uses && nh->failed_ms && now - nh->failed_ms > FAILED_KEEP_MS)
			nexthop_free(p, nh);
}

void off_nexthops_clear(struct off_path *p)
{
	struct off_nexthop *nh, *next;

	HASH_ITER (hh, p->nexthops, nh, next)
		nexthop_free(p, nh);
}

/* ---- dirty nexthops ---- */

static void mark(struct off_path *p, struct off_nexthop *nh, bool route, bool first)
{
	nh->need_lookup |= route;
	if (nh->dirty && !first) {
		nh->again = nh->looked_up; /* in progress: process it again after the others */
		return;
	}
	if (nh->dirty)
		DL_DELETE2(p->dirty, nh, dprev, dnext);
	nh->dirty = true;
	nh->looked_up = nh->again = false;
	if (first)
		DL_PREPEND2(p->dirty, nh, dprev, dnext);
	else
		DL_APPEND2(p->dirty, nh, dprev, dnext);
	off_path_notify(p, OFF_PATH_WORK, NULL);
}

static void dirty(struct off_path *p, struct off_nexthop *nh, bool route, bool first)
{
	nh->only_recheck = false;
	if (route)
		off_recheck_soon(p, nh);
	mark(p, nh, route, first);
}

void off_nexthop_recheck(struct off_path *p, struct off_nexthop *nh)
{
	if (!nh->dirty)
		nh->only_recheck = true;
	mark(p, nh, true, false);
}

void off_nexthop_dirty(struct off_path *p, struct off_nexthop *nh)
{
	dirty(p, nh, true, false);
}

void off_nexthop_neigh_changed(struct off_path *p, struct off_nexthop *nh)
{
	dirty(p, nh, false, false);
}

void off_nexthops_dirty_all(struct off_path *p)
{
	struct off_nexthop *nh, *next;

	HASH_ITER (hh, p->nexthops, nh, next)
		off_nexthop_dirty(p, nh);
}

void off_nexthops_replan_all(struct off_path *p)
{
	struct off_nexthop *nh, *next;

	HASH_ITER (hh, p->nexthops, nh, next)
		dirty(p, nh, false, false);
}

void off_nexthops_dirty_link(struct off_path *p, uint32_t ifindex)
{
	struct off_nexthop *nh, *next;

	HASH_ITER (hh, p->nexthops, nh, next)
		if (nh->ifindex == ifindex || nh->reason != L7MP_REASON_NONE)
			off_nexthop_dirty(p, nh);
}

/*
 * Another route may exist, but with many nexthops the look-ups would take too long: their flows are
 * withdrawn first (`down`).
 */
static void mark_first(struct off_path *p, struct off_nexthop *nh, unsigned n)
{
	nh->down = n > FEW;
	dirty(p, nh, true, true);
}

void off_nexthops_link_down(struct off_path *p, uint32_t ifindex)
{
	struct off_nexthop *nh, *next;
	unsigned n = 0;

	HASH_ITER (hh, p->nexthops, nh, next)
		n += nh->ifindex == ifindex;
	HASH_ITER (hh, p->nexthops, nh, next)
		if (nh->ifindex == ifindex)
			mark_first(p, nh, n);
}

void off_nexthops_address_removed(struct off_path *p, uint8_t family, const uint8_t *addr,
                                  size_t len)
{
	struct off_nexthop *nh, *next;
	unsigned n = 0;

	HASH_ITER (hh, p->nexthops, nh, next)
		n += nh->key.family == family && !memcmp(nh->key.src, addr, len);
	HASH_ITER (hh, p->nexthops, nh, next)
		if (nh->key.family == family && !memcmp(nh->key.src, addr, len))
			mark_first(p, nh, n);
}

static bool inside(const uint8_t *addr, const uint8_t *prefix, unsigned len)
{
	unsigned bytes = len / 8, bits = len % 8;

	if (memcmp(addr, prefix, bytes))
		return false;
	return !bits || !((addr[bytes] ^ prefix[bytes]) >> (8 - bits));
}

void off_nexthops_dirty_prefix(struct off_path *p, uint8_t family, const uint8_t *prefix,
                               unsigned len)
{
	struct off_nexthop *nh, *next;

	if (len > addr_len(family) * 8)
		return;
	HASH_ITER (hh, p->nexthops, nh, next)
		if (nh->key.family == family && inside(nh->key.dst, prefix, len))
			off_nexthop_dirty(p, nh);
}

/* ---- the owner's slices ---- */

static void lookup(struct off_path *p, struct off_nexthop *nh)
{
	enum l7mp_reason was = nh->reason;
	bool was_bad = was != L7MP_REASON_NONE;

	nh->looked_up = true;
	if (nh->only_recheck && !nh->down) {
		nh->only_recheck = false;
		if (!off_route_changed(p, nh)) {
			nh->need_lookup = false;
			if (nh->neigh && nh->n_uses)
				off_neigh_recheck(p, nh->neigh);
			return;
		}
	}
	if (nh->down)
		nh->reason = L7MP_REASON_NO_ROUTE;
	else if (nh->need_lookup)
		off_route_lookup(p, nh);
	else if (nh->neigh && (!was_bad || nh->reason == L7MP_REASON_NO_NEIGHBOUR))
		nh->reason = nh->neigh->valid ? L7MP_REASON_NONE : L7MP_REASON_NO_NEIGHBOUR;
	if (!nh->down)
		nh->need_lookup = false;
	/* Usable, or failed for another reason: refused sessions show the current reason. */
	if (was_bad && nh->reason != was)
		off_path_notify(p, OFF_PATH_RETRY, NULL);
	nh->generation++;
}

struct off_nexthop *off_nexthop_next_dirty(struct off_path *p)
{
	struct off_nexthop *nh = p->dirty;

	if (nh && !nh->looked_up)
		lookup(p, nh);
	return nh;
}

struct l7mp_flow *off_nexthop_next_flow(struct off_nexthop *nh)
{
	struct off_use *use = nh->uses;

	/* Uses of an older generation come first in the list. */
	if (!use || use->generation == nh->generation)
		return NULL;
	DL_DELETE(nh->uses, use);
	DL_APPEND(nh->uses, use);
	use->generation = nh->generation;
	return use->flow;
}

void off_nexthop_done(struct off_path *p, struct off_nexthop *nh)
{
	bool again = nh->again || nh->down;

	nh->down = false;
	DL_DELETE2(p->dirty, nh, dprev, dnext);
	nh->dirty = false;
	if (again)
		mark(p, nh, false, false);
	else if (!nh->failed_ms || nh->reason == L7MP_REASON_NONE)
		off_nexthop_unuse(p, nh, NULL);
}
