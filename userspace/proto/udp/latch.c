/* SPDX-License-Identifier: MIT */
/*
 * Learning the peer (options.latch): the first source is the peer, and for a time another source
 * may replace it. It works the same for a listener, whose clients are behind NAT, and for a
 * cluster, whose endpoint may be, so that it sends from another address than the one in its spec.
 * Only the address counts, because the content of a datagram (such as the SSRC of RTP) is as easily
 * forged.
 */
#include "l7mp/json.h"
#include "l7mp/util.h"
#include "net/net.h"
#include "udp.h"

/* A typical ringing time: a caller may send before the callee answers. */
#define TIMEOUT_S 60

void udp_latch_read(const cJSON *options, struct udp_latch *out)
{
	const cJSON *latch = l7mp_json_member(options, "latch");

	*out = (struct udp_latch){
	        .on = cJSON_IsTrue(latch) || cJSON_IsObject(latch),
	        .same_address = l7mp_json_bool(latch, "same_address", false),
	        .window_ms = (uint64_t)(1000 * l7mp_json_num(latch, "window", 0)),
	        .timeout_ms = (uint64_t)(1000 * l7mp_json_num(latch, "timeout", TIMEOUT_S)),
	};
}

/* Without a window not even within the millisecond of the first datagram. */
bool udp_latch_is_open(const struct udp_latch *latch, uint64_t now_ms)
{
	return latch->on && latch->window_ms && latch->since_ms &&
	       now_ms - latch->since_ms <= latch->window_ms;
}

/* ---- tables ---- */

static const struct l7mp_field latch_bool = {.type = L7MP_T_BOOL};

#define WINDOW(of)                                                                         \
	{                                                                                  \
		.key = "window", .type = L7MP_T_NUMBER, .min = 0, .max = 3600, .def = "0", \
		.doc = "seconds after the first datagram" of                               \
		       " in which another source becomes the "                             \
		       "peer"                                                              \
	}

static const struct l7mp_field listener_fields[] = {WINDOW(""), {0}};
static const struct l7mp_schema listener_schema = {
        .name = "udp-latch",
        .doc = "How the peer of a UDP listener is learnt",
        .fields = listener_fields,
};
static const struct l7mp_field listener_object = {.type = L7MP_T_OBJECT, .sub = &listener_schema};
const struct l7mp_field *const udp_latch_listener[] = {&latch_bool, &listener_object, NULL};

static const struct l7mp_field cluster_fields[] = {
        WINDOW(" that the session gets from its destination"),
        {.key = "timeout",
         .type = L7MP_T_NUMBER,
         .min = 0,
         .max = 86400,
         .def = "60",
         .doc = "seconds after the session's beginning in which the first source is learnt; "
                "then only the endpoint's own address is heard"},
        {.key = "same_address",
         .type = L7MP_T_BOOL,
         .def = "false",
         .doc = "learn only another port of the endpoint's own IP address"},
        {0},
};
static const struct l7mp_schema cluster_schema = {
        .name = "udp-cluster-latch",
        .doc = "How the address of a UDP endpoint is learnt",
        .fields = cluster_fields,
};
static const struct l7mp_field cluster_object = {.type = L7MP_T_OBJECT, .sub = &cluster_schema};
const struct l7mp_field *const udp_latch_cluster[] = {&latch_bool, &cluster_object, NULL};
