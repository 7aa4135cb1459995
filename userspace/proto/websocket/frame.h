/* SPDX-License-Identifier: MIT */
/*
 * Writing of WebSocket frames (RFC 6455, section 5). libwebsockets reads frames; those that are
 * sent are made here, because lws_write masks byte by byte and needs one system call per frame.
 * Thread: any.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "l7mp/text.h"

enum l7mp_ws_opcode {
	L7MP_WS_TEXT = 1,
	L7MP_WS_BINARY = 2,
	L7MP_WS_CLOSE = 8,
	L7MP_WS_PING = 9,
};

/* Size of the largest header of a frame. */
#define L7MP_WS_HEAD_LEN_MAX 14

/*
 * Returns whether a code is allowed in a Close frame: RFC 6455, section 7.4, and IANA's registry.
 */
bool l7mp_ws_code_valid(unsigned code);

/* Masks in place: data ^= key, repeated (RFC 6455, section 5.3). */
void l7mp_ws_mask(uint8_t *data, size_t n, const uint8_t key[4]);

/*
 * Writes the header of a frame (final, no reserved bits) that ends just before `end`; returns its
 * length. key NULL: not masked, as servers send.
 */
size_t l7mp_ws_head_write(uint8_t *end, enum l7mp_ws_opcode opcode, uint64_t len,
                          const uint8_t *key);
