/* SPDX-License-Identifier: MIT */
/*
 * The maps, shared by all programs: the loader pins them and passes the same ones to every object.
 * flows4, flows6 and frames are plain hashes, not LRU: a full table is an error that user space
 * sees, instead of an evicted flow.
 */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "l7mp/abi.h"
#include "l7mp/abi_rtp.h"
#include "l7mp/abi_tcp.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, L7MP_FLOWS_DEFAULT);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct l7mp_flow4_key);
	__type(value, struct l7mp_flow_action);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, L7MP_FLOWS_DEFAULT);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct l7mp_flow_key);
	__type(value, struct l7mp_flow6_action);
} flows6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, L7MP_FLOWS_DEFAULT);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct l7mp_frame_key);
	__type(value, struct l7mp_frame_action);
} frames SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, L7MP_IFS_MAX);
	__type(key, __u32);
	__type(value, __u32); /* enum l7mp_frame_kinds */
} frame_ifs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, L7MP_FLOWS_DEFAULT);
	__type(key, __u32);
	__type(value, struct l7mp_flow_counter);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, L7MP_VERDICT_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} verdicts SEC(".maps");

/* Mapped into user space, which reads and writes it without system calls. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, L7MP_HANDOVER_SLOTS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct l7mp_handover);
} handover SEC(".maps");

/* The same. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, L7MP_TCP_PAIRS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct l7mp_tcp_pair);
} tcp_pairs SEC(".maps");

/* The same. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, L7MP_RTP_STREAMS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct l7mp_rtp);
} rtp SEC(".maps");
