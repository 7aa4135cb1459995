/* SPDX-License-Identifier: MIT */
/*
 * The way to a peer: asked of the kernel's routing once, then kept right by
 * rtnetlink events, so that the programs need no look-up per packet.
 */
#include <errno.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/log.h"
#include "offload/offload_int.h"

#define FAILED_KEEP_MS 60000 /* how long a failed hop is watched for a session to come back */
#define FAILED_MAX     4096

static size_t addr_len(uint8_t family)
{
	return family == L7MP_FAMILY_V4 ? 4 : 16;
}

static int af(uint8_t family)
{
	return family == L7MP_FAMILY_V4 ? AF_INET : AF_INET6;
}

/* ---- the question (rtnetlink(7), RTM_GETROUTE) ---- */

struct answer {
	bool seen;
	uint8_t type;
	uint32_t oif, mtu;
	bool encap;
	uint8_t gateway[16];
	uint8_t gateway_family;
};

static void read_metrics(const struct nlattr *metrics, struct answer *out)
{
	const struct nlattr *a;

	mnl_attr_for_each_nested(a, metrics) if (mnl_attr_get_type(a) == RTAX_MTU) out->mtu =
	        mnl_attr_get_u32(a);
}

static void read_gateway(const void *addr, size_t len, struct answer *out)
{
	if (len != 4 && len != 16)
		return;
	memcpy(out->gateway, addr, len);
	out->gateway_family = len == 4 ? L7MP_FAMILY_V4 : L7MP_FAMILY_V6;
}

static int on_route(const struct nlmsghdr *nlh, void *arg)
{
	const struct rtmsg *rtm = mnl_nlmsg_get_payload(nlh);
	struct answer *out = arg;
	const struct nlattr *a;

	if (nlh->nlmsg_type != RTM_NEWROUTE)
		return MNL_CB_OK;
	out->seen = true;
	out->type = rtm->rtm_type;
	mnl_attr_for_each(a, nlh, sizeof(*rtm))
	{
		const uint8_t *data = mnl_attr_get_payload(a);
		size_t len = mnl_attr_get_payload_len(a);

		switch (mnl_attr_get_type(a)) {
		case RTA_OIF:
			out->oif = mnl_attr_get_u32(a);
			break;
		case RTA_GATEWAY:
			read_gateway(data, len, out);
			break;
		case RTA_VIA: /* struct rtvia: family, address */
			if (len > 2)
				read_gateway(data + 2, len - 2, out);
			break;
		case RTA_METRICS:
			read_metrics(a, out);
			break;
		case RTA_ENCAP:
			out->encap = true;
			break;
		}
	}
	return MNL_CB_STOP;
}

static int ask_route(struct l7mp_offload_engine *e, const struct off_nexthop_key *key,
                     struct answer *out)
{
	char buf[256] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	size_t len = addr_len(key->family);
	struct rtmsg *rtm;
	int rc;

	nlh->nlmsg_type = RTM_GETROUTE;
	nlh->nlmsg_flags = NLM_F_REQUEST;
	rtm = mnl_nlmsg_put_extra_header(nlh, sizeof(*rtm));
	rtm->rtm_family = (unsigned char)af(key->family);
	rtm->rtm_dst_len = (unsigned char)(len * 8);
	rtm->rtm_src_len = (unsigned char)(len * 8);
	mnl_attr_put(nlh, RTA_DST, len, key->dst);
	mnl_attr_put(nlh, RTA_SRC, len, key->src);
	if (key->scope)
		mnl_attr_put_u32(nlh, RTA_OIF, key->scope);
	memset(out, 0, sizeof(*out));
	rc = off_nl_ask(&e->nl, nlh, on_route, out);
	return rc ? rc : out->seen ? 0 : -ENOENT;
}

static bool usable(const struct answer *r)
{
	return (r->type == RTN_UNICAST || r->type == RTN_LOCAL) && r->oif && !r->encap;
}

bool off_route_changed(struct l7mp_offload_engine *e, const struct off_nexthop *nh)
{
	struct answer r;

	if (ask_route(e, &nh->key, &r) || !usable(&r))
		return nh->reason != L7MP_REASON_NO_ROUTE;
	if (nh->reason == L7MP_REASON_NO_ROUTE || (r.type == RTN_LOCAL) != nh->local)
		return true;
	return !nh->local && (r.oif != nh->ifindex || r.mtu != nh->mtu ||
	                      r.gateway_family != nh->gateway_family ||
	                      memcmp(r.gateway, nh->gateway, sizeof(r.gateway)) != 0);
}

void off_route_lookup(struct l7mp_offload_engine *e, struct off_nexthop *nh)
{
	struct answer r;
	int rc = ask_route(e, &nh->key, &r);

	off_neigh_unbind(e, nh);
	nh->local = false;
	nh->ifindex = r.oif;
	nh->mtu = r.mtu;
	nh->gateway_family = r.gateway_family;
	memcpy(nh->gateway, r.gateway, sizeof(nh->gateway));
	if (rc || !usable(&r)) {
		nh->reason = L7MP_REASON_NO_ROUTE;
		return;
	}
	nh->reason = L7MP_REASON_NONE;
	if (r.type == RTN_LOCAL) {
		nh->local = true;
		nh->ifindex = 1; /* LOOPBACK_IFINDEX: lo is the first device of every namespace */
		return;
	}
	off_neigh_bind(e, nh);
}

/* ---- hops ---- */

static void hop_free(struct l7mp_offload_engine *e, struct off_nexthop *nh)
{
	off_neigh_unbind(e, nh);
	off_recheck_drop(e, nh);
	if (nh->dirty)
		DL_DELETE2(e->dirty, nh, dprev, dnext);
	if (nh->failed_ms)
		e->n_failed_nexthops--;
	HASH_DELETE(hh, e->nexthops, nh);
	free(nh);
}

/* Nobody uses it: only a failed one is kept, to see when it gets better. */
static void hop_idle(struct l7mp_offload_engine *e, struct off_nexthop *nh)
{
	if (nh->dirty) /* about to be looked up: it may be failed by now, and worth keeping */
		return;
	if (nh->reason == L7MP_REASON_NONE || e->n_failed_nexthops >= FAILED_MAX) {
		hop_free(e, nh);
		return;
	}
	if (!nh->failed_ms)
		e->n_failed_nexthops++;
	nh->failed_ms = l7mp_loop_now(e->loop) | 1;
}

static void hop_key(struct off_nexthop_key *key, const struct l7mp_addr *local,
                    const struct l7mp_addr *remote)
{
	memset(key, 0, sizeof(*key));
	key->family = off_abi_family(remote);
	off_abi_addr(remote, key->dst);
	off_abi_addr(local, key->src);
	if (key->family == L7MP_FAMILY_V6)
		key->scope = remote->in6.sin6_scope_id;
}

struct off_nexthop *off_nexthop_get(struct l7mp_offload_engine *e, const struct l7mp_addr *local,
                                    const struct l7mp_addr *remote)
{
	struct off_nexthop_key key;
	struct off_nexthop *nh = NULL;

	hop_key(&key, local, remote);
	HASH_FIND(hh, e->nexthops, &key, sizeof(key), nh);
	if (nh) {
		if (!nh->recheck) /* nobody used it for a while */
			off_recheck_new(e, nh);
		return nh;
	}
	nh = calloc(1, sizeof(*nh));
	if (!nh)
		return NULL;
	nh->key = key;
	HASH_ADD(hh, e->nexthops, key, sizeof(nh->key), nh);
	if (!nh->hh.tbl) {
		free(nh);
		return NULL;
	}
	off_route_lookup(e, nh);
	off_recheck_new(e, nh);
	return nh;
}

void off_nexthop_use(struct off_nexthop *nh, struct off_use *use)
{
	use->generation = nh->generation;
	DL_APPEND(nh->uses, use); /* after those that have not seen a change yet */
	nh->n_uses++;
}

void off_nexthop_unuse(struct l7mp_offload_engine *e, struct off_nexthop *nh, struct off_use *use)
{
	if (use) {
		DL_DELETE(nh->uses, use);
		nh->n_uses--;
	}
	if (!nh->n_uses)
		hop_idle(e, nh);
}

/* ---- events ---- */

static bool inside(const uint8_t *addr, const uint8_t *prefix, unsigned len)
{
	unsigned bytes = len / 8, bits = len % 8;

	if (memcmp(addr, prefix, bytes))
		return false;
	return !bits || !((addr[bytes] ^ prefix[bytes]) >> (8 - bits));
}

void off_nexthops_dirty_prefix(struct l7mp_offload_engine *e, uint8_t family, const uint8_t *prefix,
                               unsigned len)
{
	struct off_nexthop *nh, *next;

	if (len > addr_len(family) * 8)
		return;
	HASH_ITER (hh, e->nexthops, nh, next)
		if (nh->key.family == family && inside(nh->key.dst, prefix, len))
			off_nexthop_dirty(e, nh);
}

void off_nexthops_expire(struct l7mp_offload_engine *e)
{
	uint64_t now = l7mp_loop_now(e->loop);
	struct off_nexthop *nh, *next;

	if (!e->n_failed_nexthops)
		return;
	HASH_ITER (hh, e->nexthops, nh, next)
		if (!nh->n_uses && nh->failed_ms && now - nh->failed_ms > FAILED_KEEP_MS)
			hop_free(e, nh);
}

void off_nexthops_clear(struct l7mp_offload_engine *e)
{
	struct off_nexthop *nh, *next;

	HASH_ITER (hh, e->nexthops, nh, next)
		hop_free(e, nh);
}

void off_routes_event(struct l7mp_offload_engine *e, const struct nlmsghdr *nlh)
{
	const struct rtmsg *rtm = mnl_nlmsg_get_payload(nlh);
	static const uint8_t all[16];
	const uint8_t *dst = all;
	const struct nlattr *a;
	uint8_t family;

	if (rtm->rtm_family == AF_INET)
		family = L7MP_FAMILY_V4;
	else if (rtm->rtm_family == AF_INET6)
		family = L7MP_FAMILY_V6;
	else
		return;
	mnl_attr_for_each(a, nlh, sizeof(*rtm)) if (mnl_attr_get_type(a) == RTA_DST &&
	                                            mnl_attr_get_payload_len(a) == addr_len(family))
	        dst = mnl_attr_get_payload(a);
	off_nexthops_dirty_prefix(e, family, dst, dst == all ? 0 : rtm->rtm_dst_len);
}
