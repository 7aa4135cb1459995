/* SPDX-License-Identifier: MIT */
/* The program as shipped, for bpf_cost.c: see next.h. */
#define l7mp_tc l7mp_tc_shipped
#include "../../../bpf/l7mp_tc.bpf.c"
#undef l7mp_tc

#include "next.h"

/* For a little-endian machine, as the addresses there are written. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "next.h");

static __always_inline int next(struct __sk_buff *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return -1;
	next_packet(data, end);
	return 0;
}

SEC("tc")
int tc_next(struct __sk_buff *ctx)
{
	next(ctx);
	return TC_ACT_OK;
}

SEC("tc")
int l7mp_tc(struct __sk_buff *ctx)
{
	next(ctx);
	return l7mp_tc_main(ctx);
}
