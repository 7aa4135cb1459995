/* SPDX-License-Identifier: MIT */
/*
 * The bare limit for a tc fast path: every packet out of the interface with index 100,
 * nothing looked up, nothing changed (selftests/bench/fastpath.py).
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("tc")
int bare_redirect(struct __sk_buff *skb)
{
	(void)skb;
	return bpf_redirect(100, 0);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
