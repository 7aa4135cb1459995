/* SPDX-License-Identifier: MIT */
/*
 * What the BPF tests share: the objects, loaded with one set of maps as the daemon
 * does it; flows; test runs; TAP. Works in a network namespace of its own with a pair of
 * veth devices. Errors that leave nothing to test end the process with "Bail out!".
 */
#pragma once

#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "l7mp/abi.h"
#include "l7mp/abi_tcp.h"
#include "packet.h"
#include "tap.h"

enum rig_hook { RIG_XDP, RIG_TC, RIG_HOOKS };

struct rig {
	int flows4, flows6, frames, frame_ifs, counters, verdicts, devices, handover, tcp_pairs;
	int prog_xdp, prog_tc, prog_tc_l3;
	struct bpf_object *objects[RIG_HOOKS];
	int cpus;
	uint32_t in, out;  /* ifindexes of the two devices */
	uint8_t in_mac[6]; /* of the first: whose packets are this host's own */
	uint8_t out_mac[6];
	uint32_t max_flows;
	uint64_t verdict_base[L7MP_VERDICT_COUNT];
};

/* Makes the namespace and the devices, loads everything. */
void rig_init(struct rig *r, uint32_t max_flows);
/* The path of a built BPF object: $L7MP_BPF_DIR or build/bpf. */
const char *rig_object(const char *name, char *buf, size_t size);

/* Descriptors of what else an object has. */
int rig_map(const struct rig *r, enum rig_hook hook, const char *name);
int rig_prog(const struct rig *r, enum rig_hook hook, const char *name);

/*
 * The key that a packet has, and the action that makes `to` out of `from`: addresses, ports, MACs,
 * tags.
 */
void rig_key(const struct packet *p, struct l7mp_flow_key *key);
void rig_action(const struct rig *r, const struct packet *from, const struct packet *to,
                struct l7mp_flow6_action *a);
/* The map of flows that a key belongs to, and the key as that map has it (in *key4 for IPv4). */
int rig_table(const struct rig *r, const struct l7mp_flow_key *key, struct l7mp_flow4_key *key4,
              const void **map_key);
/* Adds or replaces; the action gets a slot, whose counter is zeroed. */
void rig_put(const struct rig *r, const struct l7mp_flow_key *key,
             const struct l7mp_flow6_action *a);
/* The same with the slot that the action has. */
void rig_put_as_it_is(const struct rig *r, const struct l7mp_flow_key *key,
                      const struct l7mp_flow6_action *a);
void rig_del(const struct rig *r, const struct l7mp_flow_key *key);
/* Sum over the CPUs. */
struct l7mp_flow_counter rig_counter(const struct rig *r, const struct l7mp_flow_key *key);
struct l7mp_flow_counter rig_slot(const struct rig *r, uint32_t slot);
/* How often each verdict was given since the last rig_verdicts_start. */
void rig_verdicts_start(struct rig *r);
void rig_verdicts(const struct rig *r, uint64_t out[L7MP_VERDICT_COUNT]);

/* The verdict's name in the API. */
const char *rig_verdict_name(int verdict);
/* Whether just this verdict was given, once, since rig_verdicts_start; notes the others. */
bool rig_check_verdict(const struct rig *r, int want);
/*
 * Makes the TAP device l7far, whose frames the test reads from *fd (not blocking). Returns its
 * ifindex. Without /dev/net/tun `what` is skipped and the process ends.
 */
uint32_t rig_tap(const char *what, unsigned mtu, int *fd);

struct rig_run {
	int prog;
	const uint8_t *in;
	size_t in_len;
	uint8_t out[PACKET_MAX + 64];
	size_t out_len;
	int action; /* XDP_..., TC_ACT_... */
	void *ctx;  /* optional, in and out */
	size_t ctx_len;
};
/* 0 or negative errno. */
int rig_test_run(struct rig_run *run);
/* Through one hook, as if it had come in at the first device. */
int rig_send(const struct rig *r, enum rig_hook hook, struct rig_run *run);
