/* SPDX-License-Identifier: MIT */
/*
 * How programs are attached to interfaces: which hook an interface gets and why, XDP by libxdp or
 * directly, tc by clsact and a direct-action filter, what a driver can do, and the sysctls of lo
 * that delivery to this host needs.
 *
 * Knows interfaces (path/) and maps (table/maps.h), but no flows: before it takes a hook away it
 * asks its owner to withdraw the flows that use it. Thread: loop only.
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
	int old[OFF_SYSCTLS]; /* -1: not touched */
	bool ready;           /* all are 1 now */
	int error;            /* negative errno when they can't be set */
};
void off_sysctls_init(struct off_sysctls *s);
/*
 * Sets all to 1, remembering what they were. 0 or negative errno (what was set is then restored).
 */
int off_sysctls_set(struct off_sysctls *s, const char *dir);
/* Restores what was changed, unless it was changed by others since. */
void off_sysctls_restore(struct off_sysctls *s, const char *dir);

/* ---- the context ---- */

struct off_hooks {
	/* Borrowed; they outlive it. */
	struct off_path *path;
	struct off_maps *maps;
	const struct off_settings *set;
	/* The flows that come in or leave by `link` are withdrawn before this returns. */
	void (*leave)(void *arg, struct off_link *link);
	/* An interface is served now: what was refused may be possible. */
	void (*served)(void *arg);
	void *arg;

	bool active; /* off_attach_update does nothing before */
	struct off_sysctls sysctls;
	struct off_nl genl;
	uint16_t genl_family; /* of "netdev"; 0: not asked; 0xffff: not there */
	int dispatcher;       /* libxdp's: -1 not known, 0 no, 1 yes */
	unsigned n_devices;   /* in the devmap */
};

/* ---- attaching ---- */

struct off_choice {
	enum off_hook hook; /* to try first */
	bool fall_back;     /* to tc when that is refused */
	char why[160];
};
/* Which hook an interface should get, and why. Pure. */
void off_choose(const struct off_link *l, enum l7mp_offload_mode mode, struct off_choice *out);
/* Attaches what is wanted and detaches what is not any more. */
void off_attach_update(struct off_hooks *h, struct off_link *l);
void off_attach_update_all(struct off_hooks *h);
/* The same, also for interfaces that were refused before. */
void off_attach_retry_all(struct off_hooks *h);
void off_detach(struct off_hooks *h, struct off_link *l);
/*
 * Other programs may have changed its tc filters, qdiscs or XDP program. When ours is not there any
 * more, its flows leave and it is not served again before it or offload_ifs changes: who took the
 * program away did not want it. The flows' reason is then L7MP_REASON_HOOK_LOST.
 */
void off_attach_check(struct off_hooks *h, struct off_link *l);
bool off_attach_wanted(const struct off_settings *s, const struct off_link *l);
/*
 * init: takes away what a predecessor of the same instance left. `old` has its programs and maps.
 */
void off_attach_clean(struct off_hooks *h, const struct off_maps *old);

/*
 * After a predecessor's programs were replaced by ours (off_attach_update_all): takes away what it
 * has where we serve nothing.
 */
void off_attach_renewed(struct off_hooks *h);

/* Are these programs attached to any interface? A program in a dispatcher is not found. */
bool off_attach_finds(struct off_hooks *h, uint32_t id_xdp, uint32_t id_tc, uint32_t id_tc_l3);

int off_xdp_attach(struct off_hooks *h, struct off_link *l, enum off_hook hook, char *why,
                   size_t size);
/* Lets go of what libxdp holds, without detaching. */
void off_xdp_forget(struct off_link *l);
void off_xdp_detach(struct off_hooks *h, struct off_link *l);
/* Is m's program attached, alone or in a dispatcher? remove: takes it away if so. */
enum off_hook off_xdp_find_id(uint32_t ifindex, uint32_t id); /* alone only; 0: none */
enum off_hook off_xdp_find(uint32_t ifindex, const struct off_maps *m);
bool off_xdp_remove(uint32_t ifindex, const struct off_maps *m);
/* Takes a predecessor's program away (m->old), alone or in a dispatcher. Returns whether it did. */
bool off_xdp_remove_old(uint32_t ifindex, const struct off_maps *m);
/*
 * features.c: can XDP send frames out here? 1, 0, or -errno when the kernel doesn't say (before
 * 6.3).
 */
int off_xdp_can_send(struct off_hooks *h, struct off_link *l);
/* Does the driver run XDP programs? The same answers. Needs no engine. */
int off_xdp_in_driver(uint32_t ifindex);
/* Makes it a target of XDP's redirects. False when the table is full. */
bool off_devmap_add(struct off_hooks *h, struct off_link *l);

int off_tc_attach(struct off_hooks *h, struct off_link *l, char *why, size_t size);
bool off_tc_has_clsact(uint32_t ifindex);
void off_tc_detach(struct off_hooks *h, struct off_link *l);
/* Removes the ingress filters that run one of the programs; returns how many there were. */
unsigned off_tc_remove(struct off_nl *nl, uint32_t ifindex, uint32_t id, uint32_t id_l3);
/*
 * Is one of the programs attached? 1, and *n_before is how many filters of any kind run before it;
 * 0; negative errno: the kernel does not say.
 */
int off_tc_find(struct off_nl *nl, uint32_t ifindex, uint32_t id, uint32_t id_l3,
                unsigned *n_before);
/* Removes the clsact qdisc unless it still has filters. */
void off_tc_drop_clsact(struct off_nl *nl, uint32_t ifindex);
