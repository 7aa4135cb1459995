/* SPDX-License-Identifier: MIT */
/*
 * Where packets go: the interfaces of this namespace, routes, nexthops and neighbours, read from
 * rtnetlink(7) and kept up to date by its events.
 *
 *   link      interfaces                      route     one question to the kernel's routing
 *   neigh     link addresses of nexthops      nexthop   the cache of answers, and who uses them
 *   monitor   rtnetlink events                recheck   routes that are asked for again
 *   netlink   sockets
 *
 * An event marks nexthops dirty; the owner works them off in slices (off_nexthop_look) and updates
 * the flows that use them. Nothing is freed on the stack of an rtnetlink callback.
 *
 * Knows neither flows nor hooks: it reports by the one callback `changed`. Thread: loop only.
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

/* <linux/if_arp.h> and <net/if_arp.h> clash in some places; the types that matter here. */
#define OFF_ARP_ETHER    1
#define OFF_ARP_LOOPBACK 772

/* How an interface is served. */
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
 * Sends a request and gives every answer to cb (which may be NULL) until the end of the dump, the
 * acknowledgement or cb's MNL_CB_STOP. Rtnetlink answers inside sendmsg(2) and recvmsg(2), so this
 * never waits. 0 or the kernel's negative errno.
 */
int off_nl_ask(struct off_nl *nl, struct nlmsghdr *request, mnl_cb_t cb, void *arg);
/* The payload of a message, of at least `size` bytes; NULL when it is shorter. Borrowed. */
const void *off_nl_payload(const struct nlmsghdr *nlh, size_t size);
/* The number in an attribute, in host order; 0 when the attribute is shorter. */
uint16_t off_nl_u16(const struct nlattr *a);
uint32_t off_nl_u32(const struct nlattr *a);
uint64_t off_nl_u64(const struct nlattr *a);
/* The text in an attribute, terminated there or not; cut to what `size` (not 0) has room for. */
void off_nl_text(const struct nlattr *a, char *out, size_t size);

/* CLOCK_MONOTONIC in ns, for durations that are measured; deadlines use the loop's time. */
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
	uint32_t master;     /* the bridge, bond ... that it belongs to; 0: none */
	uint32_t lower;      /* the interface that it stands on (VLAN, macvlan ...); 0: none here */
	bool has_upper;      /* result of off_link_has_upper */

	/* How it is served: written by hook/ only. */
	enum off_hook hook;
	bool tc;                   /* the tc program is attached: alone, or behind XDP */
	bool ours;                 /* attached by this process; else found (no_init) */
	bool made_clsact;          /* we made the qdisc */
	bool tried;                /* and refused: not tried again before something changes */
	bool lost;                 /* ... because our program was removed by others */
	bool seen;                 /* by the present dump */
	bool tc_changed;           /* its filters or qdiscs may have: to be told after this batch */
	bool in_devmap;            /* XDP may send out here */
	uint32_t handle, priority; /* of the tc filter */
	struct xdp_program *xdp;   /* behind libxdp's dispatcher; NULL: attached alone */
	struct l7mp_xdp *xdp_object;
	int can_send;       /* result of off_xdp_can_send */
	uint64_t send_ms;   /* when it was asked; 0: never */
	bool strips_tags;   /* result of off_link_strips_tags */
	uint64_t strips_ms; /* when it was asked; 0: never */
	char driver[32];
	char why[200];
};

/* IFF_LOWER_UP of <linux/if.h>, which clashes with <net/if.h>: there is a carrier. */
#define OFF_LINK_CARRIES (IFF_UP | 1U << 16)
static inline bool off_link_carries(const struct off_link *l)
{
	return (l->flags & OFF_LINK_CARRIES) == OFF_LINK_CARRIES;
}

/* Its packets have no link-layer header (tun, WireGuard ...). */
static inline bool off_link_l3(const struct off_link *l)
{
	return l->type != OFF_ARP_ETHER && l->type != OFF_ARP_LOOPBACK;
}

struct off_path;

struct off_link *off_link_find(const struct off_path *p, uint32_t ifindex); /* NULL: none */
/* Reads all interfaces; those that are not there any more go. 0 or negative errno. */
int off_links_dump(struct off_path *p);
/* An RTM_NEWLINK or RTM_DELLINK. */
void off_links_event(struct off_path *p, const struct nlmsghdr *nlh);
void off_links_clear(struct off_path *p);
/* Fills the rtnetlink fields of *out from an RTM_NEWLINK. 0 or -EINVAL. */
int off_link_parse(const struct nlmsghdr *nlh, struct off_link *out);
/*
 * The interface whose program is the first to see what comes in by `link`: itself, or for a VLAN
 * device the lowest one below it that is served. NULL: none is.
 */
struct off_link *off_link_served(const struct off_path *p, struct off_link *link);
/* Do others stand on it, which get its frames: a bridge, VLAN devices, macvlan? */
bool off_link_has_upper(struct off_path *p, const struct off_link *link);
/* ethtool's driver name (ETHTOOL_GDRVINFO); "" when there is none. */
void off_link_driver(const char *ifname, char out[static 32]);
/*
 * Does the device take VLAN tags off the frames before XDP sees them (ethtool's rx-vlan-offload)?
 * The answer may be a second old. True when the kernel does not say.
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
	uint64_t looked_ms; /* when the kernel was last asked for the entry */
	uint64_t asked_ms;  /* ... and to resolve or confirm it */
	bool waiting;       /* in the list of those that are to be asked for again */
	struct off_neigh *wprev, *wnext;
	struct off_nexthop *nexthops;
};

/* Finds the neighbour of a nexthop whose route is known; sets nh->reason when there is none. */
void off_neigh_bind(struct off_path *p, struct off_nexthop *nh);
void off_neigh_unbind(struct off_path *p, struct off_nexthop *nh);
/* An RTM_NEWNEIGH or RTM_DELNEIGH. */
void off_neigh_event(struct off_path *p, const struct nlmsghdr *nlh);
/*
 * For the regular recheck: reads the kernel's entry, unless that was done within the last second,
 * takes over what no event told, and has the kernel confirm an entry that is stale or gone.
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
	uint8_t l4;     /* with both ports, in network order, when routes depend on them; else 0 */
	uint16_t sport, dport;
	uint8_t pad[2];
};

/* One flow's use of a nexthop. */
struct off_use {
	struct l7mp_flow *flow; /* opaque here */
	uint32_t generation;    /* of the nexthop when the flow last looked at it */
	struct off_use *prev, *next;
};

/* How packets from one of our addresses reach a peer. */
struct off_nexthop {
	UT_hash_handle hh;
	struct off_nexthop_key key;
	enum l7mp_reason reason; /* NONE: it can be used */
	bool local;              /* the peer is on this host */
	bool dirty;              /* in the list of those that may have changed */
	bool looked;             /* ... and was looked at: its flows follow */
	bool again;              /* ... and changed once more meanwhile */
	bool ask_route;          /* ... and the kernel has to be asked */
	bool only_recheck;       /* ... and that is all: its answer may be the same */
	bool down;               /* ... its link is down: flows leave before the kernel is asked */
	uint32_t generation;
	uint32_t ifindex;
	uint32_t mtu; /* the route's; 0: the interface's */
	uint8_t gateway[16];
	uint8_t gateway_family; /* 0: the peer itself is the nexthop */
	struct off_neigh *neigh;
	struct off_nexthop *nprev, *nnext; /* in neigh->nexthops */
	struct off_nexthop *dprev, *dnext; /* in the list of dirty ones */
	struct off_use *uses;              /* those of an older generation first */
	struct off_nexthop *rprev, *rnext; /* in one of the lists of rechecks */
	uint8_t recheck;                   /* which one, from 1; 0: none */
	uint64_t recheck_ms;               /* when its turn is */
	unsigned n_uses;
	uint64_t failed_ms; /* since when it is kept without users, for its failure */
};

/*
 * Finds or looks up. NULL when out of memory. The result lives while it has uses; one that failed
 * is kept for a minute without, so that its recovery is noticed.
 */
struct off_nexthop *off_nexthop_get(struct off_path *p, uint8_t l4, const struct l7mp_addr *local,
                                    const struct l7mp_addr *remote);
void off_nexthop_use(struct off_nexthop *nh, struct off_use *use);
/* `use` NULL: only checks whether it is still needed. May free nh. */
void off_nexthop_unuse(struct off_path *p, struct off_nexthop *nh, struct off_use *use);
void off_nexthops_expire(struct off_path *p);
void off_nexthops_clear(struct off_path *p);

/* Its route may have changed: the kernel is asked again. */
void off_nexthop_dirty(struct off_path *p, struct off_nexthop *nh);
/* No event says that it has changed, but it may have. */
void off_nexthop_recheck(struct off_path *p, struct off_nexthop *nh);
/* Its neighbour has changed: the kernel need not be asked. */
void off_nexthop_neigh_changed(struct off_path *p, struct off_nexthop *nh);
void off_nexthops_dirty_all(struct off_path *p);
void off_nexthops_dirty_link(struct off_path *p, uint32_t ifindex);
/* Those whose destination is inside prefix/len. */
void off_nexthops_dirty_prefix(struct off_path *p, uint8_t family, const uint8_t *prefix,
                               unsigned len);
/* Nothing leaves by this interface any more: its nexthops come first. */
void off_nexthops_link_down(struct off_path *p, uint32_t ifindex);
/* The address is not ours any more: the same. `len`: 4 or 16. */
void off_nexthops_address_gone(struct off_path *p, uint8_t family, const uint8_t *addr, size_t len);

/*
 * For the owner's slices: looks the first dirty nexthop up, if that has not been done. NULL: none.
 */
struct off_nexthop *off_nexthop_look(struct off_path *p);
/* The next flow that has not seen its change yet. NULL: all have. */
struct l7mp_flow *off_nexthop_next_flow(struct off_nexthop *nh);
/* All its flows have seen the change. May free nh. */
void off_nexthop_done(struct off_path *p, struct off_nexthop *nh);

/* ---- routes ---- */

/* Asks the kernel for the route and fills the nexthop. */
void off_route_lookup(struct off_path *p, struct off_nexthop *nh);
/* Does the kernel give another answer than the one that is in it? */
bool off_route_changed(struct off_path *p, const struct off_nexthop *nh);
/* An RTM_NEWROUTE or RTM_DELROUTE. */
void off_routes_event(struct off_path *p, const struct nlmsghdr *nlh);

/*
 * Do routes depend on ports here? Then the kernel is asked with protocol and ports, so that a
 * multipath route answers with the leg that the session's socket takes, and each flow has a nexthop
 * of its own; else those of equal addresses share one. Looks at the kernel's settings again, and
 * reports OFF_PATH_REPLAN when the answer has changed.
 */
void off_routes_check_ports(struct off_path *p);

/* ---- rechecks ---- */

#define OFF_RECHECKS 3

/*
 * The kernel may announce a change before it makes it: asks again some ms later, and later again.
 */
void off_recheck_soon(struct off_path *p, struct off_nexthop *nh);
/* It was looked up just now, perhaps between an announcement and its change. */
void off_recheck_new(struct off_path *p, struct off_nexthop *nh);
void off_recheck_drop(struct off_path *p, struct off_nexthop *nh);
int off_recheck_start(struct off_path *p); /* 0 or -ENOMEM */
void off_recheck_stop(struct off_path *p);

/* ---- the whole ---- */

enum off_path_event {
	OFF_PATH_WORK,      /* a nexthop is dirty: call off_nexthop_look soon, not from inside */
	OFF_PATH_BETTER,    /* what was refused may be possible now */
	OFF_PATH_LINK,      /* `link` is new or has changed */
	OFF_PATH_LINK_GONE, /* `link` is about to be freed */
	OFF_PATH_HOOK,      /* tc filters, qdiscs or the XDP program of `link` changed */
	OFF_PATH_REPLAN, /* nexthops have other keys from now on: all flows are to be made anew */
	OFF_PATH_RESYNC, /* events were lost: all links may have changed */
};

struct off_path {
	struct l7mp_loop *loop;
	/* `link` only with LINK, LINK_GONE and HOOK. */
	void (*changed)(void *arg, enum off_path_event event, struct off_link *link);
	void *arg;

	struct off_nl nl;    /* for questions */
	struct off_nl watch; /* for events */
	uv_poll_t *poll;
	struct off_link *links;
	bool tc_changed; /* of some link: see there */
	bool uppers_old; /* links have changed since has_upper was set */
	struct off_neigh *neighs;
	struct off_neigh *waiting_neighs; /* first the one whose turn comes first */
	struct l7mp_timer neigh_timer;
	struct off_nexthop *nexthops;
	struct off_nexthop *dirty;
	unsigned n_failed_nexthops;
	struct off_nexthop *recheck[OFF_RECHECKS];
	struct l7mp_timer recheck_timer;
	bool by_port;               /* see off_routes_check_ports */
	bool rules_changed;         /* to be looked at after this batch of events */
	uint64_t ports_ms;          /* when by_port was looked at last */
	uint64_t routes_changed_ms; /* when an event about routes came last; 0: never */
};

static inline void off_path_tell(struct off_path *p, enum off_path_event event,
                                 struct off_link *link)
{
	p->changed(p->arg, event, link);
}

/* Subscribes to rtnetlink's groups. 0 or negative errno. */
int off_monitor_start(struct off_path *p);
void off_monitor_stop(struct off_path *p);

/* ---- addresses as the maps have them ---- */

/* enum l7mp_abi_family; 0: neither IPv4 nor IPv6. */
uint8_t off_abi_family(const struct l7mp_addr *a);
void off_abi_addr(const struct l7mp_addr *a, uint8_t out[static 16]);
