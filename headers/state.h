/* SPDX-License-Identifier: MIT */
/* Maps that only user space reads and writes; here, so that they carry BTF for bpftool. */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "l7mp/abi.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct l7mp_abi_info);
} abi SEC(".maps");

/* By the session id in the flows. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, L7MP_FLOWS_DEFAULT);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct l7mp_abi_session);
} sessions SEC(".maps");

/* By interface index: attachments to remove after a crash. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, L7MP_IFS_MAX);
	__type(key, __u32);
	__type(value, struct l7mp_abi_attached);
} attached SEC(".maps");
