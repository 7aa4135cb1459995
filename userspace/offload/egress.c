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
		l = l->parent ? off_link_find(&e->path, l->parent) : NULL;
	}
	return L7MP_REASON_INTERFACE;
}

/* The tags of what is seen at `served` and belongs to `link`, a VLAN device above it or itself. */
static void ingress_tags(const struct l7mp_offload_engine *e, const struct off_link *link,
                         const struct off_link *served, struct off_ingress *in)
{
	for (; link && link != served; link = off_link_find(&e->path, link->parent)) {
		/* Found from the inside out. */
		in->vlan_proto[1] = in->vlan_proto[0];
		in->vlan_id[1] = in->vlan_id[0];
		in->vlan_proto[0] = link->vlan_proto;
		in->vlan_id[0] = htons(link->vlan_id);
	}
}

/*
 * Packets of the peer are expected by the interface to which the route to it points. A peer whose
 * packets come in by another one (asymmetric routing) stays in user space: the program passes them
 * up, and the stack decides whether it takes them.
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
	/* A VLAN device may have a link address of its own. */
	memcpy(in->mac, link->mac, sizeof(in->mac));
	ingress_tags(e, link, *out, in);
	return L7MP_REASON_NONE;
}

static enum l7mp_reason exit_local(struct l7mp_offload_engine *e, const struct off_nexthop *nh,
                                   struct off_egress *out)
{
	const struct off_link *lo = off_link_find(&e->path, nh->ifindex);

	if (!lo)
		return L7MP_REASON_NO_ROUTE;
	if (nh->key.family == L7MP_FAMILY_V4 && !e->hooks.sysctls.ready)
		return L7MP_REASON_KERNEL;
	/*
	 * The link addresses stay zero: with lo's own the packet counts as addressed to this host.
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

	if (off_link_l3(real) || real->type == OFF_ARP_LOOPBACK)
		return false;
	/* Generic XDP sends like the stack does. */
	if (in->hook == OFF_HOOK_GENERIC)
		return true;
	/*
	 * A frame redirected to a device that can't take it is lost: only when it is known to.
	 * Where the kernel does not say: drivers can send once they run a program. A veth can
	 * when its peer runs one (or has GRO on), which is out of our sight.
	 */
	rc = off_xdp_can_send(&e->hooks, real);
	if (rc < 0)
		return real->hook == OFF_HOOK_NATIVE && strcmp(real->kind, "veth") != 0;
	return rc;
}

/*
 * May XDP forward what comes in here? It does not see a tag that the device took off the frame:
 * generic XDP never, native XDP with VLAN offload on. When VLANs are in use there, tc, which sees
 * all tags, takes the packets.
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

/* XDP sends on the real device, with the tags of the VLAN devices above it. */
static bool exit_xdp(struct l7mp_offload_engine *e, const struct off_link *in,
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
	for (uint8_t i = 0; i < n; i++) { /* found from the inside out */
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
		return exit_local(e, nh, out);
	link = off_link_find(&e->path, nh->ifindex);
	if (!link || !off_link_carries(link))
		return L7MP_REASON_NO_ROUTE;
	out->ifindex = link->ifindex;
	out->mtu = nh->mtu && nh->mtu < link->mtu ? nh->mtu : link->mtu;
	out->flags = L7MP_FLOW_TC_ONLY;
	/* The programs for TCP make no link headers. */
	if (off_link_l3(in) && tcp)
		return L7MP_REASON_INTERFACE;
	if (off_link_l3(in)) {
		/* No link header to write into: the kernel makes one. */
		out->flags |= L7MP_FLOW_NEIGH;
		return L7MP_REASON_NONE;
	}
	if (off_link_l3(link))
		return L7MP_REASON_NONE;
	memcpy(out->smac, link->mac, sizeof(out->smac));
	memcpy(out->dmac, nh->neigh ? nh->neigh->mac : link->mac, sizeof(out->dmac));
	if (!tcp && may_xdp(e, in) && exit_xdp(e, in, link, out))
		out->flags = 0;
	return L7MP_REASON_NONE;
}

/*
 * By XDP only where it sees every tag: a frame would lose one that is beside it, and then be
 * another network's.
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
	/* The sockets are there, and so has the program to be. */
	if (in->hook == OFF_HOOK_NONE || !in->tc)
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
