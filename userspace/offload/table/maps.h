/* SPDX-License-Identifier: MIT */
/*
 * The BPF objects, the maps and their pins. Thread: loop only, except off_maps_load, which any
 * thread may call.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OFF_BPFFS "/sys/fs/bpf"
#define OFF_PINS  OFF_BPFFS "/l7mp"

/* Program descriptors (-1: none) and ids (0: none). */
struct off_programs {
	int xdp, tc, tc_l3, tap;
	uint32_t id_xdp, id_tc, id_tc_l3, id_tap;
};

/* The maps and programs of an instance. Descriptors -1: none. */
struct off_maps {
	int flows4, flows6, frames, frame_ifs, counters, verdicts, devices, abi, attached, handover,
	        tcp_pairs, rtp, sessions;
	int prog_xdp, prog_tc, prog_tc_l3, prog_tap;
	uint32_t id_xdp, id_tc, id_tc_l3; /* of the programs */
	uint32_t max_flows;               /* entries of flows4, flows6 and frames together */
	uint32_t n_slots;                 /* of counters: more, as freed ones wait before reuse */
	/*
	 * Programs of a previous daemon that may still be attached while ours replace them; [1] are
	 * those of a daemon that stopped before it had replaced all of its own predecessor's.
	 */
	struct off_programs old[2];
};

struct off_pins {
	char dir[256];
	int lock; /* descriptor of dir with the lock on it; -1: none */
};

void off_maps_init(struct off_maps *m);
void off_maps_close(struct off_maps *m);
/* Creates the maps and loads the programs. 0, or negative errno and a message in `why`. */
int off_maps_load(struct off_maps *m, uint32_t max_flows, char *why, size_t size);
/* Pins all maps and programs in dir. The same return values. */
int off_maps_pin(struct off_maps *m, const char *dir, char *why, size_t size);
/* Opens the pins that a previous daemon left, of any ABI; missing ones stay -1. */
void off_maps_open_old(struct off_maps *m, const char *dir);
/* Opens the pinned maps and programs. -ENOENT: a pin is missing; -EPROTO: another ABI version. */
int off_maps_open(struct off_maps *m, const char *dir, char *why, size_t size);
/*
 * After off_maps_open: loads our own programs for these maps and moves the old ones to `old`.
 * Neither pins nor attaches anything. 0, or negative errno and a message in `why`.
 */
int off_maps_renew(struct off_maps *m, const char *dir, char *why, size_t size);
/*
 * After off_maps_open: opens, as old[1], the programs that a previous daemon pinned as "new_*" in
 * order to replace its predecessor's. If all of them exist (off_programs_has_all), it may have
 * attached them.
 */
void off_maps_open_newer(struct off_maps *m, const char *dir);
static inline bool off_programs_has_all(const struct off_programs *p)
{
	return p->xdp >= 0 && p->tc >= 0 && p->tc_l3 >= 0 && p->tap >= 0;
}
/*
 * Swaps them with the current programs, which are then in old[1]. for_good: those are not attached
 * anywhere; closes them and replaces their pins.
 */
void off_maps_use_newer(struct off_maps *m, const char *dir, bool for_good);
/*
 * Pins our programs as "new_*" beside the old ones; to be called before the first one is attached.
 * 0, or negative errno and a message in `why`.
 */
int off_maps_pin_new(struct off_maps *m, const char *dir, char *why, size_t size);
/* The old programs are not attached anywhere any more: closes them and replaces their pins. */
void off_maps_renewed(struct off_maps *m, const char *dir);
/*
 * What all versions of the ABI share (abi.h): the version that the pinned maps say they are of, 0:
 * they don't; the number of entries of flows4 and flows6; how many packets the programs have
 * forwarded, or -1.
 */
uint32_t off_maps_version(const struct off_maps *m);
uint64_t off_maps_n_flows(const struct off_maps *m);
int64_t off_maps_forwarded(const struct off_maps *m);
/* Calls fn(arg, key, size) for each key of a map; fn must not change the map. */
void off_maps_each_key(int fd, void (*fn)(void *arg, const void *key, uint32_t size), void *arg);
/* Deletes all entries of a hash map, and returns how many there were. */
uint64_t off_maps_empty(int fd);
/* Whether the map has this key of so many bytes. */
bool off_maps_has_key(int fd, const void *key, uint32_t size);
/* Removes every pin in dir, that of the map `abi` at last; the directory stays. */
void off_pins_clear(const char *dir);
/*
 * How many pins there are in an instance's directory and those below it, which count as well. 0: it
 * doesn't exist, or can't be seen. Negative errno: it exists, but can't be read.
 */
int off_pins_count(const char *dir);
/* Writes the path of an instance's directory to dir. */
void off_pins_dir(const char *instance, char *dir, size_t size);
/* -EPERM: this process may not open the pins. 0: it may, or there is nothing to tell by. */
int off_pins_check(const char *dir);
/* Moves every pin of a directory to another one, in the same order. 0 or negative errno. */
int off_pins_move(const char *from, const char *to);
/* The pins of other ABI versions are in directories of this name and a number in the instance's. */
#define OFF_DRAINING "draining"
int off_pins_add_dir(const char *dir, char *out, size_t size); /* makes the next one */
bool off_pins_are_draining(const char *name);                  /* Is it such a name? */
/* Opens an XDP skeleton that uses our maps, without loading it. NULL: errno is set. */
struct l7mp_xdp *off_maps_xdp_object(const struct off_maps *m);

/* Creates the instance's directory and locks it. -EBUSY: another process holds the lock. */
int off_pins_lock(struct off_pins *p, const char *instance, char *why, size_t size);
/*
 * Takes over a lock on the instance's directory that another process handed over as the descriptor
 * `lock`. On success *p owns it (close-on-exec). -ESTALE: it is not a descriptor of that directory,
 * and the caller still owns it.
 */
int off_pins_take(struct off_pins *p, const char *instance, int lock);
/* Removes the directories if they are empty, and releases the lock. */
void off_pins_unlock(struct off_pins *p);
