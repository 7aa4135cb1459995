/* SPDX-License-Identifier: MIT */
/* The registry of protocols: the only place that lists them. */
#include "l7mp/registry_all.h"

#include "app_int.h"
#include "l7mp/protos.h"
#include "l7mp/transforms.h"

#define L7MP_ALL_PROTOS(X)           \
	X(l7mp_proto_udp)            \
	X(l7mp_proto_tcp)            \
	X(l7mp_proto_http)           \
	X(l7mp_proto_ws)             \
	X(l7mp_proto_unix)           \
	X(l7mp_proto_unix_dgram)     \
	X(l7mp_proto_unix_seqpacket) \
	X(l7mp_proto_pipe)           \
	X(l7mp_proto_packet)         \
	X(l7mp_proto_fork)           \
	X(l7mp_proto_jsonsocket)     \
	X(l7mp_proto_stdio)          \
	X(l7mp_transform_echo)       \
	X(l7mp_transform_discard)    \
	X(l7mp_transform_logger)     \
	X(l7mp_transform_jsonencap)  \
	X(l7mp_transform_jsondecap)  \
	X(l7mp_transform_metric)     \
	X(l7mp_transform_sync)       \
	X(l7mp_proto_controller)     \
	X(l7mp_proto_prometheus)

#define AS_PROTO(p) &p,
const struct l7mp_proto *const l7mp_all_protos[] = {L7MP_ALL_PROTOS(AS_PROTO) NULL};

#define AS_DESC(p) &p.desc,
const struct l7mp_protodesc *const l7mp_all_protodescs[] = {L7MP_ALL_PROTOS(AS_DESC) NULL};

const struct l7mp_registry l7mp_all_registry = {.descs = l7mp_all_protodescs};

size_t l7mp_all_protos_count(void)
{
	return sizeof(l7mp_all_protos) / sizeof(l7mp_all_protos[0]) - 1;
}
