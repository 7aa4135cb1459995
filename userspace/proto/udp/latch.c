/* SPDX-License-Identifier: MIT */
/*
 * Learning the peer (options.latch): the first source is the peer, and for a time another source
 * may replace it. It works the same for a listener, whose clients are behind NAT, and for a
 * cluster, whose endpoint may be, so that it sends from another address than the one in its spec.
 * Only the address counts, because the content of a datagram (such as the SSRC of RTP) is as easily
 * forged.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "l7mp/json.h"
#include "l7mp/log.h"
#include "l7mp/protos.h"
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

/* ---- clusters ---- */

bool udp_latching_waits(const struct udp_upstream *u)
{
	const struct udp_latching *l = u->latching;

	return !l->received && l7mp_loop_now(u->env->loop) - l->began_ms < l->latch.timeout_ms;
}

/* Whether another source may become the peer. If not, *why is set. */
static bool may_be_peer(const struct udp_upstream *u, const struct l7mp_addr *from,
                        const struct l7mp_addr *to, enum l7mp_drop *why)
{
	const struct udp_latching *l = u->latching;
	bool meant = l7mp_addr_equal(from, &l->meant);

	*why = L7MP_DROP_PEER;
	if (u->closing || !l7mp_addr_port(from) || l->settled)
		return false;
	if (l->received && !udp_latch_is_open(&l->latch, l7mp_loop_now(u->env->loop)))
		return false;
	if (meant)
		return true;
	if (!l->received && !udp_latching_waits(u))
		return false;
	if (l->latch.same_address && !l7mp_addr_equal_ip(from, &l->meant))
		return false;
	/* An owner that can't be notified can't change addresses: JSONSocket, for its handshake. */
	if (!u->base.events->moved)
		return false;
	*why = L7MP_DROP_LOOP;
	return !udp_from_ourselves(l->table, from, to);
}

bool udp_latching_accepts(struct udp_upstream *u, const struct l7mp_buf *buf,
                          const struct l7mp_addr *from, const struct l7mp_addr *to)
{
	struct udp_latching *l = u->latching;
	struct l7mp_addr peer, local;
	char text[L7MP_ADDR_STRLEN];
	enum l7mp_drop why;
	struct udp_key key;
	uint32_t suppressed;
	bool another;

	udp_key_set(&key, from, to);
	if (l->received && !memcmp(&key, &u->key, sizeof(key)))
		return true;
	udp_key_addrs(&u->key, u->local_port, &peer, &local);
	another = !l->received || !l7mp_addr_equal(&peer, from);
	if (another && !may_be_peer(u, from, to, &why)) {
		l7mp_stats_drop(u->env->stats, why, 1, buf->len);
		return false;
	}
	if (!l->received)
		l->latch.since_ms = l7mp_loop_now(u->env->loop);
	l->received = true;
	/* The endpoint's own address is confirmed: no other source may replace it. */
	l->settled = l->settled || l7mp_addr_equal(from, &l->meant);
	u->key = key;
	if (another && u->base.events->notice &&
	    l7mp_log_allowed(&l->events, l7mp_loop_now(u->env->loop), 10000, 8, &suppressed))
		u->base.events->notice(u->base.owner, "LATCHED", l7mp_addr_str(from, text));
	/* The flow for the previous addresses must be removed. */
	if (u->base.events->moved)
		u->base.events->moved(u->base.owner);
	return true;
}

int udp_latching_new(struct udp_upstream *u, const struct l7mp_connect *p)
{
	struct udp_state *state = l7mp_proto_state(p->env, &l7mp_proto_udp, NULL);
	struct udp_latch latch;

	udp_latch_read(l7mp_json_member(p->cluster_spec, "options"), &latch);
	if (!latch.on)
		return 0;
	u->latching = calloc(1, sizeof(*u->latching));
	if (!u->latching || !state)
		return -ENOMEM;
	u->latching->latch = latch;
	u->latching->began_ms = l7mp_loop_now(p->env->loop);
	u->latching->table = &state->table;
	return 0;
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
