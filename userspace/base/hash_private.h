/* SPDX-License-Identifier: MIT */
/* What base/ shares within itself. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* 128 seeded bits: wide enough to stand for the data itself. */
void l7mp_hash128(const void *data, size_t len, uint8_t out[static 16]);
