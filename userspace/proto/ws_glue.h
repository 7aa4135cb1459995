/* SPDX-License-Identifier: MIT */
/* What the two files that know libwebsockets share. Thread: loop only. */
#pragma once

#include <libwebsockets.h>

#include "ws_int.h"

/* The handler of both entries of the vhost's protocol table. */
int l7mp_ws_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                     size_t len);
