/* SPDX-License-Identifier: MIT */
/*
 * What the files of offload/ share.
 *
 *   engine    settings, state, life cycle        maps      objects, maps, pins, the lock
 *   links     the interfaces of this namespace   attach*   programs at interfaces
 *   routes    next hops and neighbours           flows     pairs of entries in the maps
 *   monitor   rtnetlink events                   sweep     reading counters
 *   handover  how a flow begins                  record    sessions, for a successor
 *   sides     from keys to flows                 changes   what follows from events
 *
 * A flow uses two hops, the way to each of its peers; a hop may use a neighbour.
 * An event marks hops dirty; a timer works them off in slices and updates or withdraws
 * the flows that use them. Nothing is freed on the stack of an rtnetlink callback.
 *
 * Thread: loop only.
 */
#pragma once

#include <libmnl/libmnl.h>
#include <net/if.h>
#include <time.h>

#include "l7mp/abi.h"
#include "l7mp/hash.h"
#include "l7mp/log.h"
#include "l7mp/offload.h"
#include "l7mp/util.h"

#define OFF_MODULE "offload"
#define OFF_BPFFS  "/sys/fs/bpf"
#define OFF_PINS   OFF_BPFFS "/l7mp"

/* <linux/if_arp.h> and <net/if_arp.h> clash in some places; the types that matter here. */
#define OFF_ARP_ETHER    1
#define OFF_ARP_LOOPBACK 772

enum off_state {
	OFF_DISABLED,    /* not wanted: admin.offload, or no interface named */
	OFF_ACTIVE,      /* maps are there, interfaces are served */
	OFF_UNAVAILABLE, /* wanted, but the kernel can't or won't */
	OFF_STARTING,    /* a worker thread loads the programs */
};

enum off_hook { OFF_HOOK_NONE, OFF_HOOK_NATIVE, OFF_HOOK_GENERIC, OFF_HOOK_TC };
const char *off_hook_name(enum off_hook hook);

/* ---- settings: the engine's copy of what it needs of admin ---- */

struct off_settings {
	enum l7mp_offload_start start;
	enum l7mp_offload_mode mode;
	char **ifs;
	size_t n_ifs;
	bool all;
	char *instance;
	uint32_t max_flows;
};
int off_settings_copy(struct off_settings *out, const struct l7mp_admin *admin);
void off_settings_clear(struct off_settings *s);
bool off_settings_names(const struct off_settings *s, const char *ifname);

/* ---- maps.c, pins.c, load.c ---- */

/* Everything that holds a descriptor in the kernel. -1: not there. */
struct off_maps {
	int flows, counters, verdicts, devices, abi, attached, handover, sessions;
	int prog_xdp, prog_tc, prog_tc_l3;
	uint32_t id_xdp, id_tc, id_tc_l3; /* of the programs */
	uint32_t max_flows;               /* capacity of flows and counters */
};

struct off_pins {
	char dir[256];
	int lock; /* descriptor of dir with the lock on it; -1: none */
};

void off_maps_init(struct off_maps *m);
void off_maps_close(struct off_maps *m);
/* Loads the programs and makes the maps. 0, or negative errno and a text for people. */
int off_maps_load(struct off_maps *m, uint32_t max_flows, char *why, size_t size);
int off_maps_pin(struct off_maps *m, const char *dir, char *why, size_t size);
/* Opens whatever a predecessor left, of any ABI; what is not there stays -1. */
void off_maps_open_old(struct off_maps *m, const char *dir);
/* Opens what is pinned. -ENOENT: nothing there; -EPROTO: another ABI. */
int off_maps_open(struct off_maps *m, const char *dir, char *why, size_t size);
/* Removes every pin in dir; the directory stays. */
void off_pins_clear(const char *dir);
uint32_t off_prog_id(int fd); /* 0: not known */
/* An XDP skeleton that is open, not loaded, with our maps in it. NULL and errno. */
struct l7mp_xdp *off_maps_xdp_object(const struct off_maps *m);

/* Makes the instance's directory and locks it. -EBUSY: another process has it. */
int off_pins_lock(struct off_pins *p, const char *instance, char *why, size_t size);
/* Gives the lock back and removes the directories if they are empty. */
void off_pins_unlock(struct off_pins *p);

/* ---- netlink.c ---- */

struct off_nl {
	struct mnl_socket *socket;
	uint32_t seq, port;
};
int off_nl_open(struct off_nl *nl, int bus);
void off_nl_close(struct off_nl *nl);
/*
 * Sends a request and hands every answer to cb (which may be NULL) until the end of
 * the dump, the acknowledgement or cb's MNL_CB_STOP. Rtnetlink answers inside
 * sendmsg(2) and recvmsg(2), so this never waits. 0 or the kernel's negative errno.
 */
int off_nl_ask(struct off_nl *nl, struct nlmsghdr *request, mnl_cb_t cb, void *arg);

/* For what is measured; what is planned goes by the loop's time. */
static inline uint64_t off_mono_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000U + (uint64_t)ts.tv_nsec;
}

/* ---- links.c ---- */

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

	/* what serves it */
	enum off_hook hook;
	bool tc;                   /* the tc program is there: alone, or behind XDP */
	bool ours;                 /* we attached it; else it was found (no_init) */
	bool made_clsact;          /* we made the qdisc */
	bool tried;                /* and refused: not again before something changes */
	bool in_devmap;            /* XDP may send out here */
	uint32_t handle, priority; /* of the tc filter */
	struct xdp_program *xdp;   /* behind libxdp's dispatcher; NULL: attached alone */
	struct l7mp_xdp *xdp_object;
	int can_send;     /* of off_xdp_can_send */
	uint64_t send_ms; /* when it was asked; 0: never */
	char driver[32];
	char why[200];
};

/* IFF_LOWER_UP of <linux/if.h>, which clashes with <net/if.h>: there is a carrier. */
#define OFF_LINK_CARRIES (IFF_UP | 1U << 16)
static inline bool off_link_carries(const struct off_link *l)
{
	return (l->flags & OFF_LINK_CARRIES) == OFF_LINK_CARRIES;
}

static inline bool off_link_l3(const struct off_link *l)
{
	return l->type != OFF_ARP_ETHER && l->type != OFF_ARP_LOOPBACK;
}

struct off_link *off_link_find(const struct l7mp_offload_engine *e, uint32_t ifindex);
int off_links_dump(struct l7mp_offload_engine *e);
/* An RTM_NEWLINK or RTM_DELLINK; marks hops dirty and attaches as needed. */
void off_links_event(struct l7mp_offload_engine *e, const struct nlmsghdr *nlh);
void off_links_clear(struct l7mp_offload_engine *e);
/* Fills the fields of *out from RTM_NEWLINK. 0 or -EINVAL. */
int off_link_parse(const struct nlmsghdr *nlh, struct off_link *out);
/* The interface whose program sees what comes in by `link`: itself, or for a VLAN what is below. NULL: none. */
struct off_link *off_link_served(const struct l7mp_offload_engine *e, struct off_link *link);
/* ethtool's driver name; "" when there is none. */
void off_link_driver(const char *ifname, char out[static 32]);

/* ---- attach*.c ---- */

struct off_choice {
	enum off_hook hook; /* to try first */
	bool fall_back;     /* to tc when that is refused */
	char why[160];
};
/* Which hook an interface should get, and why. Pure. */
void off_choose(const struct off_link *l, enum l7mp_offload_mode mode, struct off_choice *out);
/* Attaches what is wanted and detaches what is not any more. */
void off_attach_update(struct l7mp_offload_engine *e, struct off_link *l);
void off_attach_update_all(struct l7mp_offload_engine *e);
/* The same, also for interfaces that were refused before. */
void off_attach_retry_all(struct l7mp_offload_engine *e);
void off_detach(struct l7mp_offload_engine *e, struct off_link *l);
bool off_attach_wanted(const struct off_settings *s, const struct off_link *l);
/* no_init: sees whether our pinned programs serve the interface. */
void off_attach_find(struct l7mp_offload_engine *e, struct off_link *l);
/* init: takes away what a predecessor of the same instance left. `old` has its programs and maps. */
void off_attach_clean(struct l7mp_offload_engine *e, const struct off_maps *old);

int off_xdp_attach(struct l7mp_offload_engine *e, struct off_link *l, enum off_hook hook, char *why,
                   size_t size);
/* Lets go of what libxdp holds, without detaching. */
void off_xdp_forget(struct off_link *l);
void off_xdp_detach(struct l7mp_offload_engine *e, struct off_link *l);
/* Is m's program attached, alone or in a dispatcher? remove: takes it away if so. */
enum off_hook off_xdp_find(uint32_t ifindex, const struct off_maps *m);
bool off_xdp_remove(uint32_t ifindex, const struct off_maps *m);
/* features.c: can XDP send frames out here? 1, 0, or -errno when the kernel doesn't say (before 6.3). */
int off_xdp_can_send(struct l7mp_offload_engine *e, struct off_link *l);
/* Does the driver run XDP programs? The same answers. Needs no engine. */
int off_xdp_in_driver(uint32_t ifindex);
/* Makes it a target of XDP's redirects. False when the table is full. */
bool off_devmap_add(struct l7mp_offload_engine *e, struct off_link *l);

int off_tc_attach(struct l7mp_offload_engine *e, struct off_link *l, char *why, size_t size);
void off_tc_detach(struct l7mp_offload_engine *e, struct off_link *l);
/* Removes the ingress filters that run one of the programs; returns how many there were. */
unsigned off_tc_remove(struct off_nl *nl, uint32_t ifindex, uint32_t id, uint32_t id_l3);
bool off_tc_find(struct off_nl *nl, uint32_t ifindex, uint32_t id, uint32_t id_l3);
/* Removes the clsact qdisc unless it still has filters. */
void off_tc_drop_clsact(struct off_nl *nl, uint32_t ifindex);

/* ---- sysctl.c ---- */

#define OFF_SYSCTL_DIR "/proc/sys/net/ipv4/conf/lo"
enum { OFF_ROUTE_LOCALNET, OFF_ACCEPT_LOCAL, OFF_SYSCTLS };
extern const char *const off_sysctl_names[OFF_SYSCTLS];
struct off_sysctls {
	int old[OFF_SYSCTLS]; /* -1: not touched */
	bool ready;           /* all are 1 now */
	int error;            /* negative errno when they can't be set */
};
void off_sysctls_init(struct off_sysctls *s);
/* Sets all to 1, remembering what they were. 0 or negative errno (what was set is then restored). */
int off_sysctls_set(struct off_sysctls *s, const char *dir);
/* Puts back what was changed, unless somebody else has changed it since. */
void off_sysctls_restore(struct off_sysctls *s, const char *dir);

/* ---- routes.c, neigh.c ---- */

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
	uint64_t looked_ms; /* when the kernel was last asked for it */
	uint64_t asked_ms;  /* ... and to resolve it */
	struct off_nexthop *nexthops;
};

struct off_nexthop_key {
	uint8_t dst[16];
	uint8_t src[16];
	uint32_t scope;
	uint8_t family; /* enum l7mp_abi_family */
	uint8_t pad[3];
};

/* One flow's use of a hop. */
struct off_use {
	struct l7mp_flow *flow;
	uint32_t generation; /* of the hop when the flow last looked at it */
	struct off_use *prev, *next;
};

/* The way to a peer from one of our addresses. */
struct off_nexthop {
	UT_hash_handle hh;
	struct off_nexthop_key key;
	enum l7mp_reason reason; /* NONE: it can be used */
	bool local;              /* the peer is on this host */
	bool dirty;              /* in the engine's list of those that may have changed */
	bool looked;             /* ... and was looked at: its flows follow */
	bool again;              /* ... and changed once more meanwhile */
	bool ask_route;          /* ... and the kernel has to be asked */
	bool only_recheck;       /* ... and that is all: its answer may be the same */
	bool down;               /* ... its link is down: flows leave before the kernel is asked */
	uint32_t generation;
	uint32_t ifindex;
	uint32_t mtu; /* the route's; 0: the interface's */
	uint8_t gateway[16];
	uint8_t gateway_family; /* 0: the peer itself is the next hop */
	struct off_neigh *neigh;
	struct off_nexthop *nprev, *nnext; /* in neigh->hops */
	struct off_nexthop *dprev, *dnext; /* in the list of dirty ones */
	struct off_use *uses;              /* those of an older generation first */
	struct off_nexthop *rprev, *rnext; /* in one of the engine's lists of rechecks */
	uint8_t recheck;                   /* which one, from 1; 0: none */
	uint64_t recheck_ms;               /* when its turn is */
	unsigned n_uses;
	uint64_t failed_ms; /* since when nobody uses it and why it is kept */
};

/* Finds or looks up. NULL when out of memory. The result lives while it has uses, or is kept for its failure. */
struct off_nexthop *off_nexthop_get(struct l7mp_offload_engine *e, const struct l7mp_addr *local,
                                    const struct l7mp_addr *remote);
void off_nexthop_use(struct off_nexthop *nh, struct off_use *use);
void off_nexthop_unuse(struct l7mp_offload_engine *e, struct off_nexthop *nh, struct off_use *use);
/* Those whose destination is inside prefix/len. */
void off_nexthops_dirty_prefix(struct l7mp_offload_engine *e, uint8_t family, const uint8_t *prefix,
                               unsigned len);
void off_nexthops_expire(struct l7mp_offload_engine *e);
void off_nexthops_clear(struct l7mp_offload_engine *e);
/* Asks the kernel for the route and fills the hop. */
void off_route_lookup(struct l7mp_offload_engine *e, struct off_nexthop *nh);
/* Does the kernel give another answer than the one that is in it? */
bool off_route_changed(struct l7mp_offload_engine *e, const struct off_nexthop *nh);
void off_routes_event(struct l7mp_offload_engine *e, const struct nlmsghdr *nlh);

void off_neigh_bind(struct l7mp_offload_engine *e, struct off_nexthop *nh);
void off_neigh_unbind(struct l7mp_offload_engine *e, struct off_nexthop *nh);
void off_neigh_event(struct l7mp_offload_engine *e, const struct nlmsghdr *nlh);
/* Is one of the flows that use it in need of it? Then the kernel confirms it. */
void off_neigh_confirm(struct l7mp_offload_engine *e, struct off_neigh *n);

/* ---- changes.c ---- */

/* Its way may have changed: the kernel is asked again. */
void off_nexthop_dirty(struct l7mp_offload_engine *e, struct off_nexthop *nh);
/* Nobody says that it has changed, but it may have. */
void off_nexthop_recheck(struct l7mp_offload_engine *e, struct off_nexthop *nh);
/* Its neighbour has changed: nobody needs to be asked. */
void off_nexthop_neigh_changed(struct l7mp_offload_engine *e, struct off_nexthop *nh);
void off_nexthops_dirty_all(struct l7mp_offload_engine *e);
void off_nexthops_dirty_link(struct l7mp_offload_engine *e, uint32_t ifindex);
/* Nothing leaves there any more: its hops come first. */
void off_nexthops_link_down(struct l7mp_offload_engine *e, uint32_t ifindex);
/* It is not ours any more: the same. */
void off_nexthops_address_gone(struct l7mp_offload_engine *e, uint8_t family, const uint8_t *addr,
                               size_t len);
/* Those that come in or leave there, at once: its hook is about to be taken away. */
void off_flows_leave_link(struct l7mp_offload_engine *e, struct off_link *l);
void off_flows_withdraw_all(struct l7mp_offload_engine *e, enum l7mp_reason reason);
/* It is taken out while it was on its way out, or not. */
void off_flow_left(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
void off_changes_work(struct l7mp_timer *t, void *arg);

/* ---- recheck.c ---- */

#define OFF_RECHECKS 3

/* Messages of a change may come before the change: its way is asked for again, some ms later, and later. */
void off_recheck_soon(struct l7mp_offload_engine *e, struct off_nexthop *nh);
/* It was looked up just now, perhaps between a message and its change. */
void off_recheck_new(struct l7mp_offload_engine *e, struct off_nexthop *nh);
void off_recheck_drop(struct l7mp_offload_engine *e, struct off_nexthop *nh);
int off_recheck_start(struct l7mp_offload_engine *e);
void off_recheck_stop(struct l7mp_offload_engine *e);

/* Changes of the map of flows that wait to be made together; never longer than one turn. */
#define OFF_BATCH 256
struct off_batch {
	uint32_t n_gone, n_actions;
	struct l7mp_flow_key gone[OFF_BATCH];
	struct l7mp_flow_key keys[OFF_BATCH];
	struct l7mp_flow_action actions[OFF_BATCH];
	struct l7mp_flow *owner[OFF_BATCH];
};

/* ---- monitor.c ---- */

int off_monitor_start(struct l7mp_offload_engine *e);
void off_monitor_stop(struct l7mp_offload_engine *e);
/* Something changed for the better: ask sessions again, soon and once. */
void off_retry_soon(struct l7mp_offload_engine *e);
/* After `ms`, unless that is coming already. */
void off_retry_after(struct l7mp_offload_engine *e, unsigned ms);

/* ---- translate.c: pure ---- */

/* Where and how a packet of a flow leaves. */
struct off_egress {
	uint32_t ifindex;
	uint32_t mtu;
	uint16_t flags; /* enum l7mp_flow_flags */
	uint8_t dmac[6], smac[6];
	uint8_t in_mac[6]; /* of the device that the packets come in by */
	uint8_t n_vlans;
	uint16_t vlan_proto[2]; /* network order, outer first */
	uint16_t vlan_tci[2];
};
/* The key of packets from -> to. Both of one family, with ports. */
void off_key_set(struct l7mp_flow_key *key, uint8_t l4, const struct l7mp_addr *from,
                 const struct l7mp_addr *to);
/* The action that makes them packets of src -> dst: everything but the exit. */
void off_action_set(struct l7mp_flow_action *a, const struct l7mp_flow_key *key,
                    enum l7mp_flow_verb verb, const struct l7mp_addr *src,
                    const struct l7mp_addr *dst);
void off_action_set_egress(struct l7mp_flow_action *a, const struct off_egress *x);
uint8_t off_abi_family(const struct l7mp_addr *a); /* 0: neither IPv4 nor IPv6 */
void off_abi_addr(const struct l7mp_addr *a, uint8_t out[static 16]);
/* May this pair be offloaded as far as its ends tell? NONE or the reason. */
enum l7mp_reason off_pair_check(const struct l7mp_flow_end *a, const struct l7mp_flow_end *b);

/* ---- flows.c, exit.c ---- */

struct off_direction {
	struct l7mp_flow_key key;
	struct l7mp_flow_counters now; /* beside the key: the sweep touches both */
	struct l7mp_flow_action action;
	struct l7mp_flow *flow;
	uint64_t noted; /* of the hand-over: `passed` when it was looked at last */
	uint64_t born;  /* the sweep's serial number then */
};

struct l7mp_flow {
	struct l7mp_flow *prev, *next;
	struct l7mp_flow *lprev, *lnext; /* among those that leave */
	uint64_t cookie;
	struct off_direction dir[2]; /* what a's peer sends, what b's peer sends */
	uint64_t session;            /* key of its record; 0: none */
	bool recorded;               /* it is there */
	uint8_t n_dirs;
	uint8_t verb;
	bool beginning;                  /* in the engine's list of hand-overs */
	bool agreed;                     /* its numbers were equal when it was looked at last */
	struct l7mp_flow *hprev, *hnext; /* there */
	uint64_t added_us,
	        settled_us; /* CLOCK_MONOTONIC: since when it is there, since when nothing came */
	bool out;           /* taken out of the map already, by changes.c */
	uint8_t out_reason; /* enum l7mp_reason */
	struct off_nexthop *nh[2]; /* to a's peer, to b's peer; the second only with two sides */
	struct off_use use[2];
};

extern const struct l7mp_offload off_ops;
/* Who serves each direction, and how it leaves. NONE, or why it can't be. */
enum l7mp_reason off_flow_plan(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                               struct off_egress egress[2]);
/* Out of everything, and freed. */
void off_flow_take_out(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                       struct l7mp_flow_counters final[2]);
/* The way out for what comes in by `in` and goes to the peer behind `hop`. NONE or a reason. */
enum l7mp_reason off_egress_find(struct l7mp_offload_engine *e, const struct off_link *in,
                                 const struct off_nexthop *nh, struct off_egress *out);
enum l7mp_reason off_ingress_find(struct l7mp_offload_engine *e, const struct off_nexthop *nh,
                                  struct off_link **out);

/* ---- handover.c ---- */

struct off_handover {
	volatile struct l7mp_handover *slots; /* the map's memory; NULL: none */
	struct l7mp_timer timer;
	struct l7mp_flow *flows; /* that have not begun */
	struct l7mp_flow *at;    /* that is looked at; NULL when it was removed meanwhile */
	unsigned n_flows;
	unsigned first, n_free; /* in free, a ring */
	uint16_t free[L7MP_HANDOVER_SLOTS];
	uint64_t forced; /* that began though their stream did not pause */
};
int off_handover_start(struct l7mp_offload_engine *e);
void off_handover_stop(struct l7mp_offload_engine *e);
/* Before it goes into the map: marks its actions. Without a free place they stay as they are, and it begins at once. */
void off_handover_prepare(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
/* It is in the map now; the event `begun` follows, unless it is removed before. */
void off_handover_add(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
/* Not any more among those that begin. */
void off_handover_drop(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
/* It is out of the map: the same, and its places are free again. */
void off_handover_release(struct l7mp_offload_engine *e, struct l7mp_flow *flow);

/* ---- record.c ---- */

uint64_t off_record_id(const struct l7mp_flow_owner *owner); /* 0: it has no session */
void off_record_put(struct l7mp_offload_engine *e, struct l7mp_flow *flow,
                    const struct l7mp_flow_owner *owner);
void off_record_delete(struct l7mp_offload_engine *e, struct l7mp_flow *flow);
/* ---- sides.c ---- */

struct off_slot {
	uint64_t hash;
	struct off_direction *dir; /* NULL: free */
};

/* From keys to sides, which it borrows. All zero: empty. */
struct off_index {
	struct off_slot *slots;
	uint32_t n, mask;
};
struct off_direction *off_index_find(const struct off_index *t, const struct l7mp_flow_key *key);
struct off_direction *off_index_find_hashed(const struct off_index *t,
                                            const struct l7mp_flow_key *key,
                                            uint64_t hash);        /* l7mp_hash of the key */
int off_index_add(struct off_index *t, struct off_direction *dir); /* 0, -EEXIST, -ENOMEM */
/* No-op when it is not there. The last one frees the table's memory. */
void off_index_delete(struct off_index *t, const struct off_direction *dir);

/* ---- sweep.c ---- */

struct off_counter_slice; /* a slice, on its way through a worker thread */

struct off_counter_poll {
	struct l7mp_timer timer;
	struct off_counter_slice *read;
	uint32_t room;   /* entries a slice; more when a bucket needs it */
	uint32_t token;  /* the kernel's place in the table */
	uint64_t serial; /* of the slice that is read or was read last */
	bool running;
	unsigned failed; /* slices in a row */
	uint64_t begun_ms;
	/* of this sweep and of the last one: the loop's time, the worker's time, entries */
	uint64_t spent_ns, read_ns, entries;
	uint64_t last_spent_ns, last_read_ns, last_entries;
	int64_t clock_ms; /* loop time minus CLOCK_MONOTONIC */
};
int off_counter_poll_start(struct l7mp_offload_engine *e);
void off_counter_poll_stop(struct l7mp_offload_engine *e);
/* One flow's counter, summed over the CPUs, from the kernel. False when it is not there. */
bool off_counter_read(struct l7mp_offload_engine *e, const struct l7mp_flow_key *key,
                      struct l7mp_flow_counters *out);
/* The same for the last time: it is deleted. Without one *out stays as it is. */
void off_counter_take(struct l7mp_offload_engine *e, const struct l7mp_flow_key *key,
                      struct l7mp_flow_counters *out);
void off_counter_poll_clock(struct off_counter_poll *s, const struct l7mp_loop *loop);

void off_log_libraries(void);

/* ---- load.c ---- */

struct off_load;

/* Loads maps and programs in a worker thread; off_loaded says how that went. 0 or negative errno. */
int off_load_start(struct l7mp_offload_engine *e);
void off_load_cancel(struct l7mp_offload_engine *e);
/* engine.c: with the maps in e->maps, or (rc) the reason in e->why, if there is more to say than rc. */
void off_loaded(struct l7mp_offload_engine *e, int rc);

/* ---- the engine ---- */

struct l7mp_offload_engine {
	struct l7mp_loop *loop;
	struct l7mp_stats *stats;
	struct l7mp_offload ops;
	const struct l7mp_offload_events *events;
	void *events_arg;

	struct off_settings set;
	enum off_state state;
	char why[300];         /* of the state */
	bool configured;       /* once, by what the program started with */
	struct off_load *load; /* under way */
	struct off_maps maps;
	struct off_pins pins;
	struct off_nl nl; /* for questions */
	struct off_nl watch;
	uv_poll_t *poll;
	struct off_nl genl;
	uint16_t genl_family; /* of "netdev"; 0: not asked; 0xffff: not there */

	struct off_link *links;
	struct off_neigh *neighs;
	struct off_nexthop *nexthops;
	struct off_nexthop *dirty;
	struct off_nexthop *recheck[OFF_RECHECKS];
	struct l7mp_timer recheck_timer;
	uint64_t
	        routes_changed_ms; /* when something that concerns routes was heard last; 0: never */
	struct l7mp_flow *leaving;
	struct off_batch batch;
	unsigned n_failed_nexthops;
	struct l7mp_timer work;
	struct l7mp_timer retry;
	struct off_sysctls sysctls;

	struct l7mp_flow *flows;
	struct off_index index; /* by key */
	uint64_t n_flows, n_added, n_removed, n_withdrawn;
	unsigned n_retries,
	        leaving_retries; /* how often sessions were asked again; when flows began to leave */
	bool was_full;           /* a flow was refused with table-full since the last removal */
	bool was_short;          /* the kernel was short of memory; asked again soon */
	int dispatcher;          /* libxdp's: -1 not known, 0 no, 1 yes */
	unsigned n_devices;
	uint64_t n_records;                    /* in the map `sessions` */
	int n_cpus;                            /* possible ones */
	struct l7mp_flow_counter *zeros, *one; /* one entry's values, of n_cpus */
	struct l7mp_log_limit log_limit;
	struct off_counter_poll counter_poll;
	struct off_handover handover;
};
