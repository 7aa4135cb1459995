/* SPDX-License-Identifier: MIT */
/*
 * Attaching programs to interfaces: which hook (XDP or tc) an interface gets and why, XDP through
 * libxdp or directly, tc through clsact and a direct-action filter, driver capabilities, and the
 * sysctls of lo that local delivery needs.
 *
 * Knows interfaces (path/) and maps (table/maps.h), but no flows: before it detaches a program it
 * has its owner withdraw the flows that use it; until then the link is `leaving`. Thread: loop
 * only.
 */
#pragma once

#include "offload/path/path.h"
#include "offload/table/maps.h"
#include "settings.h"

const char *off_hook_name(enum off_hook hook); /* "none", "native", "generic", "tc" */

/* ---- sysctl.c ---- */

#define OFF_SYSCTL_DIR "/proc/sys/net/ipv4/conf/lo"
enum { OFF_ROUTE_LOCALNET, OFF_ACCEPT_LOCAL, OFF_SYSCTLS };
extern const char *const off_sysctl_names[OFF_SYSCTLS];
struct off_sysctls {
	int old[OFF_SYSCTLS]; /* values to restore; -1: not changed by us */
	bool ready;           /* all are 1 */
	int error;            /* negative errno of a failed set, or 0 */
};
void off_sysctls_init(struct off_sysctls *s);
/*
 * Sets all sysctls to 1 and saves their previous values in s->old. Returns 0, or a negative errno
 * after the ones already set were restored.
 */
int off_sysctls_set(struct off_sysctls *s, const char *dir);
/* Restores the values that off_sysctls_set changed, except those another program changed since. */
void off_sysctls_restore(struct off_sysctls *s, const char *dir);

/* ---- programs of another ABI version ---- */

/*
 * They stay attached, in front of ours, until their flows have ended (drain.c): a packet without a
 * flow in their maps is passed on to ours.
 */
struct off_drain {
	struct off_drain *next;
	char dir[288];        /* of the pins */
	uint32_t abi;         /* 0: not known, as not all pins are there */
	struct off_maps maps; /* what is pinned; only what all versions share may be used */
	bool going;           /* this process has begun to look after it */
	uint64_t flows;       /* entries of flows4 and flows6, when that began */
	int64_t forwarded;    /* packets, in all; -1: not known */
	uint64_t active_ms;   /* loop time when that had last changed; 0: not looked yet */
	uint64_t began_ms;    /* wall clock, when the pins were set aside */
};

/* ---- the context ---- */

struct off_hooks {
	/* Borrowed; they outlive it. */
	struct off_path *path;
	struct off_maps *maps;
	const struct off_settings *set;
	/*
	 * `link` is leaving: must withdraw the flows whose ingress or egress it is, and then call
	 * off_attach_left, from within this call or later.
	 */
	void (*withdraw)(void *arg, struct off_link *link);
	/* An interface was attached: refused flows may be possible now. */
	void (*served)(void *arg);
	void *arg;
	struct off_drain *drains; /* owned by the engine */

	bool active; /* while false, off_attach_update and off_attach_check do nothing */
	struct off_sysctls sysctls;
	struct off_nl genl;
	uint16_t genl_family; /* id of "netdev"; 0: not queried yet; 0xffff: not in this kernel */
	int dispatcher;       /* libxdp's dispatcher works: -1 unknown, 0 no, 1 yes */
	unsigned n_devices;   /* entries in the devmap */
};

/* ---- attaching ---- */

struct off_choice {
	enum off_hook hook; /* to try first */
	bool fall_back;     /* use tc when `hook` is refused */
	char why[160];
};
/* Chooses the hook for an interface and says why. Pure function. */
void off_choose(const struct off_link *l, enum l7mp_offload_mode mode, struct off_choice *out);
/*
 * Attaches the programs of an interface as offload_ifs and offload_mode say. If it has programs
 * that it should not have, it starts to leave; if it is leaving but is configured again, it stays.
 */
void off_attach_update(struct off_hooks *h, struct off_link *l);
/* No flow uses the leaving interface: detaches, and attaches another hook if so configured. */
void off_attach_left(struct off_hooks *h, struct off_link *l);
void off_attach_update_all(struct off_hooks *h);
/* off_attach_update_all, which also retries interfaces where attaching has failed. */
void off_attach_retry_all(struct off_hooks *h);
/* Detaches at once, even if flows use the interface. */
void off_detach(struct off_hooks *h, struct off_link *l);
/*
 * Checks that our programs are still attached to the interface, after another program may have
 * changed its tc filters, qdiscs or XDP program. If one was removed, the interface's flows are
 * withdrawn (L7MP_REASON_HOOK_LOST) and it is not attached again until the link or offload_ifs
 * changes: the removal is taken to be deliberate.
 */
void off_attach_check(struct off_hooks *h, struct off_link *l);
bool off_attach_wanted(const struct off_settings *s, const struct off_link *l);
/*
 * offload: init. Detaches the programs that a previous daemon of the same instance left attached,
 * and undoes its changes of qdiscs and sysctls. `old` holds that daemon's programs and maps.
 * What an interface that we serve needs, or flows of another version, stays.
 */
void off_attach_clean(struct off_hooks *h, const struct off_maps *old);

/*
 * Programs of another version were taken away: the interfaces that got tc because of them get XDP
 * in front of it.
 */
void off_attach_promote(struct off_hooks *h);

/*
 * After off_attach_update_all has replaced a previous daemon's programs by ours: detaches the rest
 * of its programs, on interfaces and hooks that we don't use.
 */
void off_attach_renewed(struct off_hooks *h);

/* Is one of these programs attached to any interface? Doesn't look into XDP dispatchers. */
bool off_attach_finds(struct off_hooks *h, uint32_t id_xdp, uint32_t id_tc, uint32_t id_tc_l3);

int off_xdp_attach(struct off_hooks *h, struct off_link *l, enum off_hook hook, char *why,
                   size_t size);
/* Frees libxdp's handles of the interface; the program stays attached. */
void off_xdp_forget(struct off_link *l);
void off_xdp_detach(struct off_hooks *h, struct off_link *l);
/*
 * In which mode is XDP program `id` attached to the interface? Doesn't look into dispatchers.
 * OFF_HOOK_NONE when it isn't attached or `id` is 0.
 */
enum off_hook off_xdp_find_id(uint32_t ifindex, uint32_t id);
/* In which mode is m's XDP program attached, alone or in a dispatcher? */
enum off_hook off_xdp_find(uint32_t ifindex, const struct off_maps *m);
/* Detaches m's XDP program, alone or in a dispatcher. Returns true if it did. */
bool off_xdp_remove(uint32_t ifindex, const struct off_maps *m);
/* Detaches a previous daemon's program (m->old), alone or in a dispatcher. True if it did. */
bool off_xdp_remove_old(uint32_t ifindex, const struct off_maps *m);
/*
 * features.c: can XDP transmit frames through this interface (ndo_xdp_xmit)? 1, 0, or -errno when
 * the kernel can't tell (before 6.3).
 */
int off_xdp_can_send(struct off_hooks *h, struct off_link *l);
/* Does the driver run XDP programs? Same return values. Needs no engine. */
int off_xdp_in_driver(uint32_t ifindex);
/* Makes the interface a target of XDP redirects. False when the devmap is full. */
bool off_devmap_add(struct off_hooks *h, struct off_link *l);

int off_tc_attach(struct off_hooks *h, struct off_link *l, char *why, size_t size);
bool off_tc_has_clsact(uint32_t ifindex);
void off_tc_detach(struct off_hooks *h, struct off_link *l);
/* Removes the ingress filters that run one of the programs; returns how many it found. */
unsigned off_tc_remove(struct off_nl *nl, uint32_t ifindex, uint32_t id, uint32_t id_l3);
/*
 * Is one of the programs attached? 1: yes, and *n_before is the number of filters of any kind that
 * run before it; 0: no; negative errno: the filters can't be listed.
 */
int off_tc_find(struct off_nl *nl, uint32_t ifindex, uint32_t id, uint32_t id_l3,
                unsigned *n_before);
/* How many ingress filters run one of m's programs, of all its generations; *last: preference. */
unsigned off_tc_count(struct off_nl *nl, uint32_t ifindex, const struct off_maps *m,
                      uint32_t *last);
/* Removes the clsact qdisc if it has no filters. */
void off_tc_drop_clsact(struct off_nl *nl, uint32_t ifindex);
