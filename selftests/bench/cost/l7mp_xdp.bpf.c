/* SPDX-License-Identifier: MIT */
/* The program as shipped, for bpf_cost.c: see next.h. */
#define l7mp_xdp l7mp_xdp_shipped
#include "../../../bpf/l7mp_xdp.bpf.c"
#undef l7mp_xdp

#include "next.h"

/* For a little-endian machine, as the addresses there are written. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "next.h");

static __always_inline int next(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return -1;
	next_packet(data, end);
	return 0;
}

SEC("xdp")
int xdp_next(struct xdp_md *ctx)
{
	next(ctx);
	return XDP_PASS;
}

SEC("xdp")
int l7mp_xdp(struct xdp_md *ctx)
{
	next(ctx);
	return l7mp_xdp_main(ctx);
}
