/* SPDX-License-Identifier: MIT */
/* The table of cases for XDP and tc: a packet, a flow, the verdict, the packet that leaves. */
#pragma once

#include "rig.h"

#define ANY_FAMILY 0
#define NOT_RUN    -1 /* not for this hook */

/* What a case starts from; its function changes it. */
struct tcase {
	const struct rig *rig;
	enum rig_hook hook;
	struct packet in;
	struct packet key_of; /* the packet whose flow is in the maps */
	struct packet to;     /* what a forwarded packet is made into: addresses, MACs, tags */
	union {               /* made of key_of and to, then changed by `flow` */
		struct l7mp_flow_action action;
		struct l7mp_flow6_action action6;
	};
	uint32_t from; /* the interface that it comes in by */
	bool own_tags; /* the flow's tags are key_of's, not those of `in` */
	bool no_flow;
	bool zero_out; /* a payload whose checksum is zero for the new addresses */
	size_t cut;    /* bytes cut off the end of the frame */
	uint32_t gso_size, gso_segs;
	uint64_t passed, relayed; /* of the hand-over, when the flow has one */
	size_t meta;              /* XDP: bytes of metadata in front of the packet */
};

struct tcase_def {
	const char *name;
	int family;  /* 4, 6 or both */
	int xdp, tc; /* verdicts */
	void (*make)(struct tcase *t);
	void (*flow)(struct tcase *t);
};

extern const struct tcase_def tcases[];
extern const size_t tcases_n;
