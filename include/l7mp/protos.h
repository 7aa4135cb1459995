/* SPDX-License-Identifier: MIT */
/* The protocols' tables of operations, which daemon/ puts into its registry. */
#pragma once

#include "l7mp/proto.h"

extern const struct l7mp_proto l7mp_proto_udp, l7mp_proto_tcp, l7mp_proto_unix, l7mp_proto_http,
        l7mp_proto_ws, l7mp_proto_unix_dgram, l7mp_proto_unix_seqpacket, l7mp_proto_pipe,
        l7mp_proto_packet, l7mp_proto_fork, l7mp_proto_jsonsocket, l7mp_proto_stdio;
