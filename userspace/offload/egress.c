/* SPDX-License-Identifier: MIT */
/* The ingress and egress interfaces of flows, and of frames. */
#include <arpa/inet.h>
#include <string.h>

#include "engine.h"

/* The reason why no hook serves packets received on `l`. */
static enum l7mp_reason not_served(const struct l7mp_offload_engine *e, const struct off_link *l)
{
	for (int i = 0; l && i <= 2; i++) {
		if (l->lost)
			return L7MP_REASON_HOOK_LOST;
		/* Another hook is about to be attached, and a retry follows. */
		if (l->leaving && off_attach_wanted(&e->set, l))
			return L7MP_REASON_PENDING;
		l = l->parent ? off_link_find(&e->path, l->parent) : NULL;
	}
	return L7MP_REASON_INTERFACE;
}

/* The VLAN tags at `served` of packets for `link`, a VLAN device above it or itself. */
static void ingress_tags(const struct l7mp_offload_engine *e, const struct off_link *link,
                         const struct off_link *served, struct off_ingress *in)
{
	for (; link && link != served; link = off_link_find(&e->path, link->parent)) {
		/* The loop goes from the inner to the outer tag. */
		in->vlan_proto[1] = in->vlan_proto[0];
		in->vlan_id[1] = in->vlan_id[0];
		in->vlan_proto[0] = link->vlan_proto;
		in->vlan_id[0] = htons(link->vlan_id);
	}
}

/*
 * The peer's packets are expected on the interface of the route to it. With asymmetric routing they
 * arrive on another one and stay in user space: the program passes them to the stack, which decides
 * whether to accept them.
 */
enum l7mp_reason off_ingress_find(struct l7mp_offload_engine *e, const struct off_nexthop *nh,
                                  struct off_link **out, struct off_ingress *in)
{
	struct off_link *link = off_link_find(&e->path, nh->ifindex);

	if (!nh->ifindex || nh->reason == L7MP_REASON_NO_ROUTE)
		return L7MP_REASON_NO_ROUTE;
	*out = off_link_served(&e->path, link);
	if (!*out)
		return not_served(e, link);
	if (!in)
		return L7MP_REASON_NONE;
	memset(in, 0, sizeof(*in));
	in->ifindex = (*out)->ifindex;
	/* A VLAN device may have a MAC address of its own. */
	memcpy(in->mac, link->mac, sizeof(in->mac));
	ingress_tags(e, link, *out, in);
	return L7MP_REASON_NONE;
}

static enum l7mp_reason egress_local(struct l7mp_offload_engine *e, const struct off_nexthop *nh,
                                     struct off_egress *out)
{
	const struct off_link *lo = off_link_find(&e->path, nh->ifindex);

	if (!lo)
		return L7MP_REASON_NO_ROUTE;
	if (nh->key.family == L7MP_FAMILY_V4 && !e->hooks.sysctls.ready)
		return L7MP_REASON_KERNEL;
	/*
	 * MAC addresses stay zero: they are lo's own, so the packet is PACKET_HOST.
	 */
	out->ifindex = lo->ifindex;
	out->mtu = lo->mtu;
	out->flags = L7MP_FLOW_TO_INGRESS | L7MP_FLOW_TC_ONLY;
	return L7MP_REASON_NONE;
}

static bool can_send(struct l7mp_offload_engine *e, const struct off_link *in,
                     struct off_link *real)
{
	int rc;

	/* A leaving link is about to be removed from the devmap. */
	if (off_link_l3(real) || real->type == OFF_ARP_LOOPBACK || real->leaving)
		return false;
	/* Generic XDP transmits through the stack, on any device. */
	if (in->hook == OFF_HOOK_GENERIC)
		return true;
	/*
	 * A frame redirected to a device without ndo_xdp_xmit is lost, so support must be certain.
	 * If the kernel can't tell: drivers can transmit while they run a program. A veth can if
	 * its peer runs one or has GRO on, which isn't visible here.
	 */
	rc = off_xdp_can_send(&e->hooks, real);
	if (rc < 0)
		return real->hook == OFF_HOOK_NATIVE && strcmp(real->kind, "veth") != 0;
	return rc;
}

/*
 * May XDP forward packets received on this interface? It doesn't see tags that were stripped:
 * always with generic XDP, and with rx-vlan-offload with native XDP. If there are VLAN devices on
 * the interface, leave the packets to tc, which sees all tags.
 */
static bool may_xdp(const struct l7mp_offload_engine *e, struct off_link *in)
{
	const struct off_link *l, *next;
	bool vlans = false;

	if (in->hook != OFF_HOOK_GENERIC && in->hook != OFF_HOOK_NATIVE)
		return false;
	HASH_ITER (hh, e->path.links, l, next)
		vlans = vlans || l->parent == in->ifindex;
	return !vlans || (in->hook == OFF_HOOK_NATIVE && !off_link_strips_tags(&e->path, in));
}

/* Egress for XDP: transmits on the real device, with the tags of the VLAN devices above it. */
static bool egress_xdp(struct l7mp_offload_engine *e, const struct off_link *in,
                       struct off_link *link, struct off_egress *out)
{
	struct off_link *real = link;
	uint16_t proto[2], tci[2];
	uint8_t n = 0;

	while (real->parent) {
		if (n == 2)
			return false;
		proto[n] = real->vlan_proto;
		tci[n++] = htons(real->vlan_id);
		real = off_link_find(&e->path, real->parent);
		if (!real)
			return false;
	}
	if (!can_send(e, in, real) || !off_devmap_add(&e->hooks, real))
		return false;
	out->ifindex = real->ifindex;
	out->n_vlans = n;
	for (uint8_t i = 0; i < n; i++) { /* proto, tci: inner tag first */
		out->vlan_proto[i] = proto[n - 1 - i];
		out->vlan_tci[i] = tci[n - 1 - i];
	}
	return true;
}

enum l7mp_reason off_egress_find(struct l7mp_offload_engine *e, struct off_link *in,
                                 const struct off_nexthop *nh, bool tcp, struct off_egress *out)
{
	struct off_link *link;

	memset(out, 0, sizeof(*out));
	if (nh->reason)
		return nh->reason;
	if (nh->local)
		return egress_local(e, nh, out);
	link = off_link_find(&e->path, nh->ifindex);
	if (!link || !off_link_carries(link))
		return L7MP_REASON_NO_ROUTE;
	out->ifindex = link->ifindex;
	out->mtu = nh->mtu && nh->mtu < link->mtu ? nh->mtu : link->mtu;
	out->flags = L7MP_FLOW_TC_ONLY;
	/* The TCP program can't add link headers. */
	if (off_link_l3(in) && tcp)
		return L7MP_REASON_INTERFACE;
	if (off_link_l3(in)) {
		/* The packet has no link header: let the kernel add one. */
		out->flags |= L7MP_FLOW_NEIGH;
		return L7MP_REASON_NONE;
	}
	if (off_link_l3(link))
		return L7MP_REASON_NONE;
	memcpy(out->smac, link->mac, sizeof(out->smac));
	memcpy(out->dmac, nh->neigh ? nh->neigh->mac : link->mac, sizeof(out->dmac));
	if (!tcp && may_xdp(e, in) && egress_xdp(e, in, link, out))
		out->flags = 0;
	return L7MP_REASON_NONE;
}

/*
 * May XDP forward frames from `in` to `out`? Only where it sees all tags: a frame whose tag was
 * stripped would be sent without it, into another VLAN.
 */
static bool frames_by_xdp(struct l7mp_offload_engine *e, struct off_link *in, struct off_link *out)
{
	return (in->hook == OFF_HOOK_NATIVE || in->hook == OFF_HOOK_GENERIC) && !in->parent &&
	       !out->parent && !off_link_strips_tags(&e->path, in) && can_send(e, in, out) &&
	       off_devmap_add(&e->hooks, out);
}

static enum l7mp_reason plan_frames(struct l7mp_offload_engine *e, uint32_t from, uint32_t to,
                                    const struct l7mp_frame_action *a, struct off_plan *plan)
{
	struct off_link *in = off_link_find(&e->path, from), *out = off_link_find(&e->path, to);

	if (!in || !out)
		return L7MP_REASON_LINK_DOWN;
	/* The sockets are bound to this interface, so the programs must be attached to it. */
	if (!off_link_serves(in) || !in->tc)
		return not_served(e, in);
	if (!off_link_carries(in) || !off_link_carries(out) || in->type != OFF_ARP_ETHER ||
	    out->type != OFF_ARP_ETHER)
		return L7MP_REASON_LINK_DOWN;
	plan->in.ifindex = in->ifindex;
	memcpy(plan->in.mac, in->mac, sizeof(plan->in.mac));
	plan->out.ifindex = out->ifindex;
	plan->out.mtu = out->mtu;
	memcpy(plan->out.dmac, a->dmac, sizeof(plan->out.dmac));
	memcpy(plan->out.smac, a->smac, sizeof(plan->out.smac));
	if (!frames_by_xdp(e, in, out))
		plan->out.flags |= L7MP_FLOW_TC_ONLY;
	if (off_link_has_upper(&e->path, in))
		plan->out.flags |= L7MP_FLOW_COPY;
	return L7MP_REASON_NONE;
}

enum l7mp_reason off_frames_plan(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                                 struct off_plan plan[2])
{
	enum l7mp_reason reason = L7MP_REASON_NONE;

	for (int i = 0; !reason && i < 2; i++)
		reason = plan_frames(e, flow->dir[i].frame.ifindex, flow->dir[!i].frame.ifindex,
		                     &flow->dir[i].frames, &plan[i]);
	return reason;
}
