/* SPDX-License-Identifier: MIT */
/* Translates a flow's two endpoints to map keys and actions. Pure functions. */
#include <arpa/inet.h>
#include <string.h>

#include "table.h"

/* Flags that don't depend on the egress. */
#define OTHER_FLAGS                                                                         \
	(L7MP_FLOW_HANDOVER | L7MP_FLOW_JSON_UP | L7MP_FLOW_KEEP_TOS | L7MP_FLOW_SET_DMAC | \
	 L7MP_FLOW_SET_SMAC | L7MP_FLOW_RTP)

/* Is it a unicast address with the same meaning on every interface (not IPv6 link-local)? */
static bool plain(const struct l7mp_addr *a)
{
	if (l7mp_addr_family(a) == AF_INET) {
		uint32_t ip = ntohl(a->in.sin_addr.s_addr);

		return ip >> 24 != 0 && ip >> 28 < 0xe;
	}
	return !IN6_IS_ADDR_MULTICAST(&a->in6.sin6_addr) &&
	       !IN6_IS_ADDR_LINKLOCAL(&a->in6.sin6_addr) &&
	       !IN6_IS_ADDR_UNSPECIFIED(&a->in6.sin6_addr);
}

static enum l7mp_reason check_socket(const struct l7mp_flow_end *end)
{
	if (end->l4 != IPPROTO_UDP && end->l4 != IPPROTO_TCP)
		return L7MP_REASON_PROTOCOL;
	if (!off_abi_family(&end->local) || !off_abi_family(&end->remote) ||
	    !l7mp_addr_port(&end->local) || !l7mp_addr_port(&end->remote))
		return L7MP_REASON_NOT_ESTABLISHED;
	if (off_abi_family(&end->local) != off_abi_family(&end->remote))
		return L7MP_REASON_ADDRESS_FAMILY;
	if (!plain(&end->local) || !plain(&end->remote))
		return L7MP_REASON_ADDRESS_SCOPE;
	return L7MP_REASON_NONE;
}

/* AF_PACKET can only be forwarded to AF_PACKET: no reflect or drop, no IP sockets. */
static enum l7mp_reason check_frames(const struct l7mp_flow_end *a, const struct l7mp_flow_end *b)
{
	if (b->kind != L7MP_FLOW_SOCKET)
		return b->reason ? b->reason : L7MP_REASON_PROTOCOL;
	if (b->l4)
		return L7MP_REASON_PROTOCOL;
	return a->ifindex && b->ifindex ? L7MP_REASON_NONE : L7MP_REASON_LINK_DOWN;
}

enum l7mp_reason off_pair_check(const struct l7mp_flow_end *a, const struct l7mp_flow_end *b)
{
	enum l7mp_reason reason;

	if (a->kind != L7MP_FLOW_SOCKET)
		return a->reason ? a->reason : L7MP_REASON_PROTOCOL;
	if (!a->l4)
		return check_frames(a, b);
	reason = check_socket(a);
	/* A TCP connection that ends in a transformer has no second connection to splice. */
	if (!reason && a->l4 == IPPROTO_TCP && b->kind != L7MP_FLOW_SOCKET)
		return b->reason ? b->reason : L7MP_REASON_TRANSFORMER;
	if (reason || b->kind == L7MP_FLOW_REFLECT || b->kind == L7MP_FLOW_DROP)
		return reason;
	if (b->kind != L7MP_FLOW_SOCKET)
		return b->reason ? b->reason : L7MP_REASON_PROTOCOL;
	reason = check_socket(b);
	if (reason)
		return reason;
	if (a->l4 != b->l4)
		return L7MP_REASON_PROTOCOL;
	if (off_abi_family(&a->local) != off_abi_family(&b->local))
		return L7MP_REASON_ADDRESS_FAMILY;
	return L7MP_REASON_NONE;
}

void off_key_set(struct l7mp_flow_key *key, uint8_t l4, const struct l7mp_addr *from,
                 const struct l7mp_addr *to)
{
	memset(key, 0, sizeof(*key));
	off_abi_addr(from, key->saddr.bytes);
	off_abi_addr(to, key->daddr.bytes);
	key->sport = htons(l7mp_addr_port(from));
	key->dport = htons(l7mp_addr_port(to));
	key->l4 = l4;
	key->family = off_abi_family(from);
}

void off_key_to_addr(const struct l7mp_flow_key *key, const uint8_t *ip, uint16_t port,
                     struct l7mp_addr *out)
{
	bool v6 = key->family == L7MP_FAMILY_V6;

	l7mp_addr_any(out, v6 ? AF_INET6 : AF_INET, ntohs(port));
	memcpy(v6 ? (void *)&out->in6.sin6_addr : (void *)&out->in.sin_addr, ip, v6 ? 16 : 4);
}

/* ---- frames ---- */

static void frame_key(struct l7mp_frame_key *key, const struct l7mp_flow_end *end)
{
	const struct l7mp_flow_frame *f = &end->frame;

	memset(key, 0, sizeof(*key));
	key->ifindex = end->ifindex;
	if (f->any) {
		key->family = L7MP_FAMILY_ANY;
		key->type = f->filter;
		return;
	}
	key->family = f->family == AF_INET    ? L7MP_FAMILY_V4
	              : f->family == AF_INET6 ? L7MP_FAMILY_V6
	                                      : L7MP_FAMILY_MAC;
	memcpy(key->saddr.bytes, f->src, sizeof(f->src));
	memcpy(key->daddr.bytes, f->dst, sizeof(f->dst));
	key->sport = f->sport;
	key->dport = f->dport;
	key->l4 = f->l4;
	key->type = f->type;
	key->vlan[0] = f->vlan[0];
	key->vlan[1] = f->vlan[1];
}

void off_frame_set(struct off_direction *dir, const struct l7mp_flow_end *from,
                   const struct l7mp_flow_end *to)
{
	const struct l7mp_frame_key *key = &dir->frame;
	struct l7mp_frame_action *a = &dir->frames;

	frame_key(&dir->frame, from);
	memset(a, 0, sizeof(*a));
	a->verb = L7MP_VERB_FRAME;
	a->match_sport = key->sport;
	a->match_dport = key->dport;
	a->match_l4 = key->l4;
	a->match_family = key->family;
	a->match_type = key->type;
	a->match_vlan[0] = key->vlan[0];
	a->match_vlan[1] = key->vlan[1];
	a->match_ifindex = key->ifindex;
	a->match_sport_host = ntohs(key->sport);
	a->match_dport_host = ntohs(key->dport);
	a->match_saddr = key->saddr;
	a->match_daddr = key->daddr;
	if (to->frame.set_dst) {
		a->flags |= L7MP_FLOW_SET_DMAC;
		memcpy(a->dmac, to->frame.dst_mac, sizeof(a->dmac));
	}
	if (to->frame.set_src) {
		a->flags |= L7MP_FLOW_SET_SMAC;
		memcpy(a->smac, to->frame.src_mac, sizeof(a->smac));
	}
}

/* ---- checksums (RFC 1624) ---- */

static uint16_t fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/* Sum of ~old and new over n bytes, in the byte order of the packet. */
static uint64_t delta(const void *old, const void *new, size_t n)
{
	const uint8_t *o = old, *w = new;
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i += 2) {
		uint16_t a, b;

		memcpy(&a, o + i, 2);
		memcpy(&b, w + i, 2);
		sum += (uint16_t)~a;
		sum += b;
	}
	return sum;
}

/*
 * Equal words sum up to 0xffff, the other zero of one's complement. If nothing changes return 0,
 * for which the programs skip the checksum helpers.
 */
static uint16_t delta_or_zero(const void *old, const void *new, size_t n)
{
	return memcmp(old, new, n) ? fold(delta(old, new, n)) : 0;
}

static void set_csums(struct l7mp_flow_action *a, const struct l7mp_flow_key *key,
                      const uint8_t *saddr, const uint8_t *daddr)
{
	size_t n = key->family == L7MP_FAMILY_V4 ? 4 : 16;
	const uint16_t old_ports[2] = {key->sport, key->dport};
	const uint16_t new_ports[2] = {a->sport, a->dport};
	uint8_t old[32], new[32];

	memcpy(old, key->saddr.bytes, n);
	memcpy(old + n, key->daddr.bytes, n);
	memcpy(new, saddr, n);
	memcpy(new + n, daddr, n);
	a->csum_addr = delta_or_zero(old, new, 2 * n);
	a->csum_port = delta_or_zero(old_ports, new_ports, sizeof(old_ports));
	/* TTL is the high byte of its word: decrementing it subtracts 0x0100 from any value. */
	if (key->family == L7MP_FAMILY_V4)
		a->csum_l3 = fold((uint64_t)a->csum_addr + (uint16_t)~htons(0x0100));
}

/* Sets the copy of the key in the value. */
static void set_match(struct l7mp_flow6_action *v, const struct l7mp_flow_key *key)
{
	struct l7mp_flow_action *a = &v->action;

	if (key->family == L7MP_FAMILY_V4) {
		memcpy(a->key.saddr, key->saddr.bytes, sizeof(a->key.saddr));
		memcpy(a->key.daddr, key->daddr.bytes, sizeof(a->key.daddr));
	} else {
		v->match_saddr = key->saddr;
		v->match_daddr = key->daddr;
	}
	a->key.sport = key->sport;
	a->key.dport = key->dport;
	a->key.l4 = key->l4;
	a->match_sport_host = ntohs(key->sport);
	a->match_dport_host = ntohs(key->dport);
}

void off_action_set(struct l7mp_flow6_action *v, const struct l7mp_flow_key *key,
                    enum l7mp_flow_verb verb, const struct l7mp_addr *src,
                    const struct l7mp_addr *dst)
{
	struct l7mp_flow_action *a = &v->action;
	uint8_t saddr[16], daddr[16];

	memset(v, 0, sizeof(*v));
	a->verb = (uint8_t)verb;
	set_match(v, key);
	if (verb == L7MP_VERB_COUNT)
		return;
	off_abi_addr(src, saddr);
	off_abi_addr(dst, daddr);
	if (key->family == L7MP_FAMILY_V4) {
		memcpy(a->saddr, saddr, sizeof(a->saddr));
		memcpy(a->daddr, daddr, sizeof(a->daddr));
	} else {
		memcpy(v->saddr.bytes, saddr, sizeof(saddr));
		memcpy(v->daddr.bytes, daddr, sizeof(daddr));
	}
	a->sport_host = l7mp_addr_port(src);
	a->dport_host = l7mp_addr_port(dst);
	a->sport = htons(a->sport_host);
	a->dport = htons(a->dport_host);
	set_csums(a, key, saddr, daddr);
}

void off_action_set_ends(struct l7mp_flow_action *a, const struct l7mp_flow_end *from,
                         const struct l7mp_flow_end *to)
{
	a->tos = to->tos;
	if (to->keep_tos)
		a->flags |= L7MP_FLOW_KEEP_TOS;
	if (from->json_up)
		a->flags |= L7MP_FLOW_JSON_UP;
}

void off_action_set_egress(struct l7mp_flow_action *a, const struct off_egress *x)
{
	a->ifindex = x->ifindex;
	a->mtu = x->mtu;
	a->flags = x->flags | (a->flags & OTHER_FLAGS);
	memcpy(a->dmac, x->dmac, sizeof(a->dmac));
	memcpy(a->smac, x->smac, sizeof(a->smac));
	a->n_vlans = x->n_vlans;
	for (int i = 0; i < 2; i++) {
		a->vlan_proto[i] = x->vlan_proto[i];
		a->vlan_tci[i] = x->vlan_tci[i];
	}
}

void off_action_set_ingress(struct l7mp_flow_action *a, const struct off_ingress *in)
{
	a->in_ifindex = in->ifindex;
	memcpy(a->in_mac, in->mac, sizeof(a->in_mac));
	for (int i = 0; i < 2; i++) {
		a->in_vlan_proto[i] = in->vlan_proto[i];
		a->in_vlan_id[i] = in->vlan_id[i];
	}
}
