/* SPDX-License-Identifier: MIT */
/* Private to base/. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* A seeded hash of 128 bits, wide enough to be used in place of the data. */
void l7mp_hash128(const void *data, size_t len, uint8_t out[static 16]);
