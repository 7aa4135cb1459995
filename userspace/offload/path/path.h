/* SPDX-License-Identifier: MIT */
/*
 * Routing: the interfaces of this network namespace, routes, nexthops and neighbours, read from
 * rtnetlink(7) and kept up to date by its events.
 *
 *   link      interfaces                      route     route look-ups in the kernel
 *   neigh     link addresses of nexthops      nexthop   cache of looked-up routes, and their users
 *   monitor   rtnetlink events                recheck   repeated route look-ups
 *   netlink   sockets, requests
 *
 * An event marks nexthops dirty; the owner processes them in slices (off_nexthop_next_dirty) and
 * updates the flows that use them. Nexthops are not freed inside an rtnetlink callback.
 *
 * Knows neither flows nor hooks, but reports changes through the callback `changed`. Thread: loop
 * only.
 */
#pragma once

#include <libmnl/libmnl.h>
#include <net/if.h>
#include <time.h>

#include "l7mp/abi.h"
#include "l7mp/abi_tcp.h"
#include "l7mp/flow.h"
#include "l7mp/hash.h"
#include "l7mp/loop.h"
#include "l7mp/util.h"

#define OFF_MODULE "offload"

/* <linux/if_arp.h> and <net/if_arp.h> conflict; the two types that are needed here. */
#define OFF_ARP_ETHER    1
#define OFF_ARP_LOOPBACK 772

/* The hook at which our programs are attached to an interface. */
enum off_hook { OFF_HOOK_NONE, OFF_HOOK_NATIVE, OFF_HOOK_GENERIC, OFF_HOOK_TC };

/* ---- netlink ---- */

struct off_nl {
	struct mnl_socket *socket;
	uint32_t seq, port;
};
/* `bus`: NETLINK_ROUTE, NETLINK_GENERIC. 0 or negative errno. */
int off_nl_open(struct off_nl *nl, int bus);
void off_nl_close(struct off_nl *nl);
/*
 * Sends a request and passes each message of the reply to cb (may be NULL) until the end of the
 * dump, the acknowledgement or cb's MNL_CB_STOP. Doesn't block: rtnetlink produces its reply inside
 * sendmsg(2) and recvmsg(2). Returns 0 or the kernel's negative errno.
 */
int off_nl_request(struct off_nl *nl, struct nlmsghdr *request, mnl_cb_t cb, void *arg);
/* The payload of a message; NULL if it is shorter than `size` bytes. Borrowed. */
const void *off_nl_payload(const struct nlmsghdr *nlh, size_t size);
/* The number in an attribute, in host order; 0 when the attribute is shorter. */
uint16_t off_nl_u16(const struct nlattr *a);
uint32_t off_nl_u32(const struct nlattr *a);
uint64_t off_nl_u64(const struct nlattr *a);
/* Copies the string in an attribute, terminated or not; truncates it to `size` (not 0). */
void off_nl_text(const struct nlattr *a, char *out, size_t size);

/* CLOCK_MONOTONIC in ns, for measuring durations; deadlines use the loop's time. */
static inline uint64_t off_mono_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000U + (uint64_t)ts.tv_nsec;
}

/* ---- links ---- */

struct off_link {
	UT_hash_handle hh; /* by ifindex */
	uint32_t ifindex;
	char name[IFNAMSIZ];
	char kind[20]; /* IFLA_INFO_KIND; "" for hardware */
	uint32_t flags;
	uint32_t mtu;
	uint16_t type; /* ARPHRD_* */
	uint8_t mac[6];
	uint32_t parent; /* of a VLAN device; else 0 */
	uint16_t vlan_id;
	uint16_t vlan_proto; /* network order */
	uint32_t master;     /* the bridge, bond ... that it is a port of; 0: none */
	uint32_t lower;      /* its lower device (of a VLAN, macvlan ...) in this netns; 0: none */
	bool has_upper;      /* result of off_link_has_upper */

	/* Written by hook/ only. */
	enum off_hook hook;
	bool tc;                   /* the tc program is attached: alone, or besides XDP */
	bool ours;                 /* attached by this process; else found (no_init) */
	bool made_clsact;          /* we created the qdisc */
	enum off_hook chosen;      /* by off_choose when the programs were attached */
	bool leaving;              /* flows are being withdrawn; then the programs are detached */
	bool drained;              /* ... no flow is left; running programs are waited for */
	bool gone;                 /* ... because other software removed one of our programs */
	uint64_t leaving_ms;       /* ... since when, loop time */
	bool tried;                /* attaching failed: not retried until something changes */
	bool lost;                 /* ... because other software removed our program */
	bool seen;                 /* in the dump that is being read */
	bool tc_changed;           /* tc event seen: report it after this batch of events */
	bool in_devmap;            /* a target of XDP redirects */
	uint32_t handle, priority; /* of the tc filter */
	struct xdp_program *xdp;   /* in libxdp's dispatcher; NULL: attached directly */
	struct l7mp_xdp *xdp_object;
	int can_send;       /* cached result of off_xdp_can_send */
	uint64_t send_ms;   /* when that was queried; 0: never */
	bool strips_tags;   /* cached result of off_link_strips_tags */
	uint64_t strips_ms; /* when that was queried; 0: never */
	char driver[32];
	char why[200];
};

/* Up with carrier. 1 << 16 is IFF_LOWER_UP of <linux/if.h>, which conflicts with <net/if.h>. */
#define OFF_LINK_CARRIES (IFF_UP | 1U << 16)
static inline bool off_link_carries(const struct off_link *l)
{
	return (l->flags & OFF_LINK_CARRIES) == OFF_LINK_CARRIES;
}

/* Its programs are attached, and are there to stay: flows may use them. */
static inline bool off_link_serves(const struct off_link *l)
{
	return l->hook != OFF_HOOK_NONE && !l->leaving;
}

/* Its packets have no link-layer header (tun, WireGuard ...). */
static inline bool off_link_l3(const struct off_link *l)
{
	return l->type != OFF_ARP_ETHER && l->type != OFF_ARP_LOOPBACK;
}

struct off_path;

struct off_link *off_link_find(const struct off_path *p, uint32_t ifindex); /* NULL: none */
/* Reads all interfaces and removes deleted ones. 0 or negative errno. */
int off_links_dump(struct off_path *p);
/* Handles an RTM_NEWLINK or RTM_DELLINK event. */
void off_links_event(struct off_path *p, const struct nlmsghdr *nlh);
void off_links_clear(struct off_path *p);
/* Fills the rtnetlink fields of *out from an RTM_NEWLINK. 0 or -EINVAL. */
int off_link_parse(const struct nlmsghdr *nlh, struct off_link *out);
/*
 * The interface whose program sees packets received on `link` first: itself, or for a VLAN device
 * the lowest device below it with our programs. NULL: none has them.
 */
struct off_link *off_link_served(const struct off_path *p, struct off_link *link);
/* Does it have upper devices, which get its frames: a bridge, VLAN devices, macvlan ...? */
bool off_link_has_upper(struct off_path *p, const struct off_link *link);
/* ethtool's driver name (ETHTOOL_GDRVINFO); "" when there is none. */
void off_link_driver(const char *ifname, char out[static 32]);
/*
 * Does the device strip VLAN tags from frames before XDP sees them (ethtool's rx-vlan-offload)?
 * The result is cached for a second. True if the kernel can't tell.
 */
bool off_link_strips_tags(const struct off_path *p, struct off_link *link);

/* ---- neighbours ---- */

struct off_neigh_key {
	uint8_t addr[16];
	uint32_t ifindex;
	uint8_t family; /* enum l7mp_abi_family */
	uint8_t pad[3];
};

struct off_nexthop;
struct off_neigh {
	UT_hash_handle hh;
	struct off_neigh_key key;
	uint8_t mac[6];
	bool valid;
	uint64_t read_ms;      /* when the kernel's entry was last read */
	uint64_t requested_ms; /* when the kernel was last requested to resolve or confirm it */
	bool waiting;          /* in waiting_neighs: the next request is delayed */
	struct off_neigh *wprev, *wnext;
	struct off_nexthop *nexthops;
};

/* Sets the neighbour of a nexthop with a route; sets nh->reason when it isn't resolved. */
void off_neigh_bind(struct off_path *p, struct off_nexthop *nh);
void off_neigh_unbind(struct off_path *p, struct off_nexthop *nh);
/* Handles an RTM_NEWNEIGH or RTM_DELNEIGH event. */
void off_neigh_event(struct off_path *p, const struct nlmsghdr *nlh);
/*
 * For the periodic recheck: reads the kernel's entry, unless that was done within the last second,
 * to detect changes without an event, and makes the kernel confirm a stale or missing entry.
 */
void off_neigh_recheck(struct off_path *p, struct off_neigh *n);
int off_neigh_start(struct off_path *p); /* 0 or -ENOMEM */
void off_neigh_stop(struct off_path *p);

/* ---- nexthops ---- */

struct off_nexthop_key {
	uint8_t dst[16];
	uint8_t src[16];
	uint32_t scope;
	uint8_t family; /* enum l7mp_abi_family */
	uint8_t l4;     /* protocol and ports (network order) if routes depend on them; else 0 */
	uint16_t sport, dport;
	uint8_t pad[2];
};

/* One flow's use of a nexthop. */
struct off_use {
	struct l7mp_flow *flow; /* opaque here */
	uint32_t generation;    /* of the nexthop when the flow was last updated */
	struct off_use *prev, *next;
};

/* Route and neighbour from one of our addresses to a peer. */
struct off_nexthop {
	UT_hash_handle hh;
	struct off_nexthop_key key;
	enum l7mp_reason reason; /* NONE: usable */
	bool local;              /* the peer is on this host */
	bool dirty;              /* may have changed: in the list `dirty` */
	bool looked_up;          /* dirty, and looked up: its flows are being updated */
	bool again;              /* dirty, and changed once more since it was looked up */
	bool need_lookup;        /* dirty, and the route must be looked up */
	bool only_recheck;       /* dirty for a periodic recheck only: no change is known */
	bool down;               /* link or source gone: withdraw flows before the look-up */
	uint32_t generation;
	uint32_t ifindex;
	uint32_t mtu; /* the route's; 0: the interface's */
	uint8_t gateway[16];
	uint8_t gateway_family; /* 0: the peer itself is the nexthop */
	struct off_neigh *neigh;
	struct off_nexthop *nprev, *nnext; /* in neigh->nexthops */
	struct off_nexthop *dprev, *dnext; /* in the list `dirty` */
	struct off_use *uses;              /* those of an older generation first */
	struct off_nexthop *rprev, *rnext; /* in one of the recheck lists */
	uint8_t recheck;                   /* which list, from 1; 0: none */
	uint64_t recheck_ms;               /* when the recheck is due */
	unsigned n_uses;
	uint64_t failed_ms; /* since when it has failed and no users; 0: not so */
};

/*
 * Finds a nexthop in the cache, or looks it up. NULL when out of memory. It lives as long as it has
 * uses; a failed one is kept for another minute, so that its recovery is noticed.
 */
struct off_nexthop *off_nexthop_get(struct off_path *p, uint8_t l4, const struct l7mp_addr *local,
                                    const struct l7mp_addr *remote);
void off_nexthop_use(struct off_nexthop *nh, struct off_use *use);
/* Removes a use; with `use` NULL only checks whether nh is still needed. May free nh. */
void off_nexthop_unuse(struct off_path *p, struct off_nexthop *nh, struct off_use *use);
void off_nexthops_expire(struct off_path *p);
void off_nexthops_clear(struct off_path *p);

/* The route may have changed: marks nh dirty, to be looked up again. */
void off_nexthop_dirty(struct off_path *p, struct off_nexthop *nh);
/* The same for the periodic recheck, when no event reported a change. */
void off_nexthop_recheck(struct off_path *p, struct off_nexthop *nh);
/* The neighbour has changed: marks nh dirty, but the route need not be looked up. */
void off_nexthop_neigh_changed(struct off_path *p, struct off_nexthop *nh);
void off_nexthops_dirty_all(struct off_path *p);
/* Marks all nexthops, so that their flows are planned again, without looking up routes. */
void off_nexthops_replan_all(struct off_path *p);
/* The link is new: marks its nexthops and all failed ones. */
void off_nexthops_dirty_link(struct off_path *p, uint32_t ifindex);
/* Marks the nexthops with a destination inside prefix/len. */
void off_nexthops_dirty_prefix(struct off_path *p, uint8_t family, const uint8_t *prefix,
                               unsigned len);
/* The interface is down: puts its nexthops at the head of the dirty list. */
void off_nexthops_link_down(struct off_path *p, uint32_t ifindex);
/* A local address was deleted: the same for nexthops with this source. `len`: 4 or 16. */
void off_nexthops_address_removed(struct off_path *p, uint8_t family, const uint8_t *addr,
                                  size_t len);

/*
 * For the owner's slices: returns the first dirty nexthop, after looking it up if that has not been
 * done yet. NULL: none is dirty.
 */
struct off_nexthop *off_nexthop_next_dirty(struct off_path *p);
/* The next flow to be updated for the nexthop's change. NULL: all were returned. */
struct l7mp_flow *off_nexthop_next_flow(struct off_nexthop *nh);
/* All flows were updated: nh is clean, unless it changed meanwhile. May free nh. */
void off_nexthop_done(struct off_path *p, struct off_nexthop *nh);

/* ---- routes ---- */

/* Looks up the route in the kernel and fills the nexthop. */
void off_route_lookup(struct off_path *p, struct off_nexthop *nh);
/* Looks up the route in the kernel: does it differ from the nexthop's? */
bool off_route_changed(struct off_path *p, const struct off_nexthop *nh);
/* Handles an RTM_NEWROUTE or RTM_DELROUTE event. */
void off_routes_event(struct off_path *p, const struct nlmsghdr *nlh);

/*
 * Reads the kernel's settings: do routes depend on ports? If so, look-ups include protocol and
 * ports, so that a multipath route returns the same path as for the session's socket, and each flow
 * has its own nexthop; otherwise flows with equal addresses share one. Reports OFF_PATH_REPLAN when
 * this has changed.
 */
void off_routes_check_ports(struct off_path *p);

/* ---- rechecks ---- */

#define OFF_RECHECKS 3

/*
 * After an event: schedules further look-ups some ms later and a second later, because the kernel
 * may announce a change before it makes it.
 */
void off_recheck_soon(struct off_path *p, struct off_nexthop *nh);
/* After the first look-up, which may have been between such an announcement and the change. */
void off_recheck_new(struct off_path *p, struct off_nexthop *nh);
void off_recheck_drop(struct off_path *p, struct off_nexthop *nh);
int off_recheck_start(struct off_path *p); /* 0 or -ENOMEM */
void off_recheck_stop(struct off_path *p);

/* ---- the whole ---- */

enum off_path_event {
	OFF_PATH_WORK,  /* a nexthop is dirty: call off_nexthop_next_dirty soon, not from inside */
	OFF_PATH_RETRY, /* refused flows may be possible now */
	OFF_PATH_LINK,  /* `link` is new or has changed */
	OFF_PATH_LINK_REMOVED, /* `link` is about to be freed */
	OFF_PATH_HOOK,         /* tc filters, qdiscs or the XDP program of `link` changed */
	OFF_PATH_REPLAN, /* the keys of nexthops have changed: all flows must be added again */
	OFF_PATH_RESYNC, /* events were lost: all links may have changed */
};

struct off_path {
	struct l7mp_loop *loop;
	/* `link` only with LINK, LINK_GONE and HOOK. */
	void (*changed)(void *arg, enum off_path_event event, struct off_link *link);
	void *arg;

	struct off_nl nl;    /* for requests */
	struct off_nl watch; /* for events */
	uv_poll_t *poll;
	struct off_link *links;
	bool tc_changed; /* set in some link */
	bool uppers_old; /* links have changed since has_upper was set */
	struct off_neigh *neighs;
	struct off_neigh *waiting_neighs; /* delayed requests, in the order of time */
	struct l7mp_timer neigh_timer;
	struct off_nexthop *nexthops;
	struct off_nexthop *dirty;
	unsigned n_failed_nexthops;
	struct off_nexthop *recheck[OFF_RECHECKS];
	struct l7mp_timer recheck_timer;
	bool by_port;               /* see off_routes_check_ports */
	bool rules_changed;         /* check by_port after this batch of events */
	uint64_t ports_ms;          /* when by_port was checked last */
	uint64_t routes_changed_ms; /* time of the last event that affects routes; 0: never */
};

static inline void off_path_notify(struct off_path *p, enum off_path_event event,
                                   struct off_link *link)
{
	p->changed(p->arg, event, link);
}

/* Subscribes to rtnetlink's groups. 0 or negative errno. */
int off_monitor_start(struct off_path *p);
void off_monitor_stop(struct off_path *p);

/* ---- addresses in the maps' format ---- */

/* enum l7mp_abi_family; 0: neither IPv4 nor IPv6. */
uint8_t off_abi_family(const struct l7mp_addr *a);
void off_abi_addr(const struct l7mp_addr *a, uint8_t out[static 16]);
