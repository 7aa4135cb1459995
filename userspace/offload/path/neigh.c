/* SPDX-License-Identifier: MIT */
/*
 * Neighbours: the link addresses of nexthops. Packets in the fast path don't use the kernel's
 * neighbour entries, so user space requests confirmation of those that flows depend on (NTF_USE):
 * as for packets of its own, the kernel then probes a stale entry and resolves a wrong one again.
 *
 * At most one request per entry and second is sent. A request within that second is delayed in
 * p->waiting_neighs until it is over, not dropped: an entry can become stale twice within a second
 * (two gratuitous ARPs), and only the second request starts the probe that finds the right address.
 */
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>

#include "path.h"

#define REQUEST_MS 1000
#define READ_MS    50 /* changes in between are reported by events */

#define VALID (NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE | NUD_DELAY)

static size_t addr_len(uint8_t family)
{
	return family == L7MP_FAMILY_V4 ? 4 : 16;
}

struct state {
	bool seen;
	struct off_neigh_key key;
	uint16_t nud;
	bool has_mac;
	uint8_t mac[6];
};

static bool parse(const struct nlmsghdr *nlh, struct state *out)
{
	const struct ndmsg *ndm = off_nl_payload(nlh, sizeof(*ndm));
	const struct nlattr *a;

	memset(out, 0, sizeof(*out));
	if (!ndm || (ndm->ndm_family != AF_INET && ndm->ndm_family != AF_INET6))
		return false;
	out->key.family = ndm->ndm_family == AF_INET ? L7MP_FAMILY_V4 : L7MP_FAMILY_V6;
	out->key.ifindex = (uint32_t)ndm->ndm_ifindex;
	out->nud = ndm->ndm_state;
	mnl_attr_for_each(a, nlh, sizeof(*ndm))
	{
		size_t len = mnl_attr_get_payload_len(a);

		if (mnl_attr_get_type(a) == NDA_DST && len == addr_len(out->key.family)) {
			memcpy(out->key.addr, mnl_attr_get_payload(a), len);
			out->seen = true;
		} else if (mnl_attr_get_type(a) == NDA_LLADDR && len == sizeof(out->mac)) {
			memcpy(out->mac, mnl_attr_get_payload(a), len);
			out->has_mac = true;
		}
	}
	return out->seen;
}

static int on_answer(const struct nlmsghdr *nlh, void *arg)
{
	if (nlh->nlmsg_type != RTM_NEWNEIGH)
		return MNL_CB_OK;
	(void)parse(nlh, arg);
	return MNL_CB_STOP;
}

static struct ndmsg *message(char *buf, const struct off_neigh_key *key, uint16_t type,
                             uint16_t flags, struct nlmsghdr **nlh)
{
	struct ndmsg *ndm;

	*nlh = mnl_nlmsg_put_header(buf);
	(*nlh)->nlmsg_type = type;
	(*nlh)->nlmsg_flags = NLM_F_REQUEST | flags;
	ndm = mnl_nlmsg_put_extra_header(*nlh, sizeof(*ndm));
	ndm->ndm_family = key->family == L7MP_FAMILY_V4 ? AF_INET : AF_INET6;
	ndm->ndm_ifindex = (int)key->ifindex;
	mnl_attr_put(*nlh, NDA_DST, addr_len(key->family), key->addr);
	return ndm;
}

/* ---- delayed requests ---- */

static uint64_t turn_of(const struct off_neigh *n)
{
	return n->requested_ms + REQUEST_MS;
}

static void arm(struct off_path *p)
{
	uint64_t now = l7mp_loop_now(p->loop), due;

	if (!p->waiting_neighs) {
		l7mp_timer_stop(p->loop, &p->neigh_timer);
		return;
	}
	due = turn_of(p->waiting_neighs);
	(void)l7mp_timer_start(p->loop, &p->neigh_timer, due > now ? due - now : 0);
}

/* The delay is the same for all, so the list is nearly in the order of time. */
static void wait_for_turn(struct off_path *p, struct off_neigh *n)
{
	if (n->waiting)
		return;
	n->waiting = true;
	DL_APPEND2(p->waiting_neighs, n, wprev, wnext);
	if (!l7mp_timer_armed(&p->neigh_timer))
		arm(p);
}

static void wait_no_more(struct off_path *p, struct off_neigh *n)
{
	if (!n->waiting)
		return;
	n->waiting = false;
	DL_DELETE2(p->waiting_neighs, n, wprev, wnext);
}

/* ---- requests to the kernel ---- */

/* Makes the kernel resolve or confirm the entry; the result is an event. */
static void request_probe(struct off_path *p, struct off_neigh *n)
{
	char buf[256] __attribute__((aligned(8)));
	struct nlmsghdr *nlh;
	struct ndmsg *ndm;
	uint64_t now = l7mp_loop_now(p->loop);
	const struct off_link *l = off_link_find(p, n->key.ifindex);

	if (n->requested_ms && now - n->requested_ms < REQUEST_MS) {
		wait_for_turn(p, n);
		return;
	}
	/* No carrier: skip probing. The rate limit would also delay the request when it is up. */
	if (!l || !off_link_carries(l))
		return;
	n->requested_ms = now | 1;
	ndm = message(buf, &n->key, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_ACK, &nlh);
	ndm->ndm_flags = NTF_USE;
	(void)off_nl_request(&p->nl, nlh, NULL, NULL);
}

static void update(struct off_neigh *n, const struct state *s)
{
	n->valid = s->seen && s->nud & VALID && s->has_mac;
	if (n->valid)
		memcpy(n->mac, s->mac, sizeof(n->mac));
}

static void read_entry(struct off_path *p, struct off_neigh *n)
{
	char buf[256] __attribute__((aligned(8)));
	struct state s = {.seen = false};
	struct nlmsghdr *nlh;

	n->read_ms = l7mp_loop_now(p->loop);
	(void)message(buf, &n->key, RTM_GETNEIGH, 0, &nlh);
	if (off_nl_request(&p->nl, nlh, on_answer, &s))
		s.seen = false;
	update(n, &s);
	if (!n->valid || s.nud & NUD_STALE)
		request_probe(p, n);
}

static struct off_neigh *find(struct off_path *p, const struct off_neigh_key *key)
{
	struct off_neigh *n = NULL;

	HASH_FIND(hh, p->neighs, key, sizeof(*key), n);
	return n;
}

static struct off_neigh *get(struct off_path *p, const struct off_neigh_key *key)
{
	struct off_neigh *n = find(p, key);

	if (n) {
		/*
		 * Unresolved, perhaps since long ago: read it again. Thousands of flows may need it
		 * at once, so not more often than every READ_MS.
		 */
		if (!n->valid && l7mp_loop_now(p->loop) - n->read_ms >= READ_MS)
			read_entry(p, n);
		return n;
	}
	n = calloc(1, sizeof(*n));
	if (!n)
		return NULL;
	n->key = *key;
	HASH_ADD(hh, p->neighs, key, sizeof(n->key), n);
	if (!n->hh.tbl) {
		free(n);
		return NULL;
	}
	read_entry(p, n);
	return n;
}

/* Point-to-point devices and those without ARP need no neighbour. */
static bool needs_neighbour(const struct off_link *l)
{
	return !off_link_l3(l) && !(l->flags & (IFF_NOARP | IFF_LOOPBACK));
}

void off_neigh_bind(struct off_path *p, struct off_nexthop *nh)
{
	const struct off_link *l = off_link_find(p, nh->ifindex);
	struct off_neigh_key key = {.ifindex = nh->ifindex};

	if (!l) {
		nh->reason = L7MP_REASON_NO_ROUTE;
		return;
	}
	if (!needs_neighbour(l))
		return;
	key.family = nh->gateway_family ? nh->gateway_family : nh->key.family;
	memcpy(key.addr, nh->gateway_family ? nh->gateway : nh->key.dst, addr_len(key.family));
	nh->neigh = get(p, &key);
	if (nh->neigh)
		DL_APPEND2(nh->neigh->nexthops, nh, nprev, nnext);
	if (!nh->neigh || !nh->neigh->valid)
		nh->reason = L7MP_REASON_NO_NEIGHBOUR;
}

void off_neigh_unbind(struct off_path *p, struct off_nexthop *nh)
{
	struct off_neigh *n = nh->neigh;

	if (!n)
		return;
	nh->neigh = NULL;
	DL_DELETE2(n->nexthops, nh, nprev, nnext);
	if (n->nexthops)
		return;
	wait_no_more(p, n);
	HASH_DELETE(hh, p->neighs, n);
	free(n);
}

static bool in_use(const struct off_neigh *n)
{
	const struct off_nexthop *nh;

	DL_FOREACH2(n->nexthops, nh, nnext)
	if (nh->n_uses)
		return true;
	return false;
}

/* Marks the neighbour's nexthops if it differs from its previous state `was`, `old`. */
static void notify_nexthops(struct off_path *p, struct off_neigh *n, bool was, const uint8_t old[6])
{
	struct off_nexthop *nh;

	if (was == n->valid && !memcmp(old, n->mac, sizeof(n->mac)))
		return;
	DL_FOREACH2(n->nexthops, nh, nnext)
	off_nexthop_neigh_changed(p, nh);
}

void off_neigh_event(struct off_path *p, const struct nlmsghdr *nlh)
{
	struct off_neigh *n;
	struct state s;
	uint8_t old[6];
	bool was;

	if (!parse(nlh, &s))
		return;
	n = find(p, &s.key);
	if (!n)
		return;
	was = n->valid;
	memcpy(old, n->mac, sizeof(old));
	if (nlh->nlmsg_type == RTM_DELNEIGH)
		n->valid = false;
	else
		update(n, &s);
	/* Removed or unconfirmed, but flows use it: have the kernel resolve or probe it. */
	if ((!n->valid || s.nud & NUD_STALE) && in_use(n))
		request_probe(p, n);
	notify_nexthops(p, n, was, old);
}

static void reread_entry(struct off_path *p, struct off_neigh *n)
{
	bool was = n->valid;
	uint8_t old[6];

	memcpy(old, n->mac, sizeof(old));
	read_entry(p, n);
	notify_nexthops(p, n, was, old);
}

void off_neigh_recheck(struct off_path *p, struct off_neigh *n)
{
	if (l7mp_loop_now(p->loop) - n->read_ms >= REQUEST_MS)
		reread_entry(p, n);
}

static void on_turn(struct l7mp_timer *t, void *arg)
{
	struct off_path *p = arg;
	uint64_t now = l7mp_loop_now(p->loop);
	struct off_neigh *n;

	(void)t;
	while ((n = p->waiting_neighs) && turn_of(n) <= now) {
		wait_no_more(p, n);
		if (in_use(n))
			reread_entry(p, n);
	}
	arm(p);
}

int off_neigh_start(struct off_path *p)
{
	l7mp_timer_init(&p->neigh_timer, on_turn, p);
	return l7mp_timer_reserve(p->loop, &p->neigh_timer);
}

/* The neighbours have been freed before, with the last nexthop that used each. */
void off_neigh_stop(struct off_path *p)
{
	l7mp_timer_give_back(p->loop, &p->neigh_timer);
}
