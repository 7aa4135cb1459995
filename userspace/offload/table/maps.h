/* SPDX-License-Identifier: MIT */
/*
 * The BPF objects, the maps and their pins. Thread: loop only, but off_maps_load, which any may
 * call.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OFF_BPFFS "/sys/fs/bpf"
#define OFF_PINS  OFF_BPFFS "/l7mp"

/* Programs, and their ids. Descriptors -1: not there. */
struct off_programs {
	int xdp, tc, tc_l3, tap;
	uint32_t id_xdp, id_tc, id_tc_l3, id_tap;
};

/* Everything that holds a descriptor in the kernel. -1: not there. */
struct off_maps {
	int flows4, flows6, frames, frame_ifs, counters, verdicts, devices, abi, attached, handover,
	        tcp_pairs, rtp, sessions;
	int prog_xdp, prog_tc, prog_tc_l3, prog_tap;
	uint32_t id_xdp, id_tc, id_tc_l3; /* of the programs */
	uint32_t max_flows;               /* entries of flows4, flows6 and frames together */
	uint32_t n_slots;                 /* of counters: more, as some wait to be used again */
	/*
	 * Those of a predecessor that may still be attached, while ours take their places; the
	 * second one is of a predecessor that had not come to the end of that itself.
	 */
	struct off_programs old[2];
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
/*
 * After off_maps_open: loads programs of our own for these maps; the old ones are then in `old`.
 * Nothing is pinned or attached yet. 0, or negative errno and a text.
 */
int off_maps_renew(struct off_maps *m, const char *dir, char *why, size_t size);
/*
 * After off_maps_open: opens in old[1] what a predecessor has pinned beside its own predecessor's
 * programs. With all of them there (`has_all`) it may have attached them.
 */
void off_maps_open_newer(struct off_maps *m, const char *dir);
static inline bool off_programs_has_all(const struct off_programs *p)
{
	return p->xdp >= 0 && p->tc >= 0 && p->tc_l3 >= 0 && p->tap >= 0;
}
/*
 * Uses those instead of the others, which are then in old[1]. for_good: the others are attached
 * nowhere, and their pins are replaced.
 */
void off_maps_use_newer(struct off_maps *m, const char *dir, bool for_good);
/* Pins them beside the old ones, before the first one is attached. The same. */
int off_maps_pin_new(struct off_maps *m, const char *dir, char *why, size_t size);
/* The old programs are attached nowhere any more: their pins are replaced. */
void off_maps_renewed(struct off_maps *m, const char *dir);
/* Removes every pin in dir; the directory stays. */
void off_pins_clear(const char *dir);
/* An XDP skeleton that is open, not loaded, with our maps in it. NULL and errno. */
struct l7mp_xdp *off_maps_xdp_object(const struct off_maps *m);

/* Makes the instance's directory and locks it. -EBUSY: another process has it. */
int off_pins_lock(struct off_pins *p, const char *instance, char *why, size_t size);
/*
 * Takes over the lock that another process has on the instance's directory: `lock` is its
 * descriptor, which becomes p's (close-on-exec). -ESTALE, and it stays the caller's: it is another
 * directory's.
 */
int off_pins_take(struct off_pins *p, const char *instance, int lock);
/* Gives the lock back and removes the directories if they are empty. */
void off_pins_unlock(struct off_pins *p);
