/* SPDX-License-Identifier: MIT */
/* A few protocols as pure data, for tests of the model. */
#pragma once

#include "l7mp/protodesc.h"

/*
 * UDP (listener, cluster with endpoints), HTTP (listener), WebSocket (cluster with
 * endpoints, alias WS), Echo, Logger (alias INLINE/Logger) and L7mpController (virtual clusters).
 */
extern const struct l7mp_registry fake_registry;
