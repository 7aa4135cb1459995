/* SPDX-License-Identifier: MIT */
/* The tables of transformers, and of clusters without a peer; daemon/ registers them. */
#pragma once

#include "l7mp/proto.h"

extern const struct l7mp_proto l7mp_transform_echo, l7mp_transform_discard, l7mp_transform_logger,
        l7mp_transform_jsonencap, l7mp_transform_jsondecap, l7mp_transform_metric,
        l7mp_transform_sync;
