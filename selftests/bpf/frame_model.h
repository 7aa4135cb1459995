/* SPDX-License-Identifier: MIT */
/*
 * AF_PACKET on paper: what a packet socket's session would do with a frame, and so what the
 * programs have to. Written from docs/local.md and packet(7), sharing nothing with the programs.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "l7mp/abi.h"

/* A frame as it comes in; tags are in the bytes. */
struct frame_in {
	const uint8_t *bytes;
	size_t len;
	uint32_t ifindex;
	size_t segment; /* many segments of so many bytes of payload; 0: one frame */
};

/* Its conversation. False: options, extension headers, malformed: user space's affair. */
bool frame_model_key(const struct frame_in *f, struct l7mp_frame_key *key);
/* Is it among all the frames of `type`? 0: always. */
bool frame_model_is_of(const struct frame_in *f, uint16_t type);
/* Does each of its segments fit into the MTU? */
bool frame_model_fits(const struct frame_in *f, uint32_t mtu);
/* Frames on the wire, and their bytes. */
void frame_model_count(const struct frame_in *f, uint64_t *frames, uint64_t *bytes);
