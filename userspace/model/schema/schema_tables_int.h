/* SPDX-License-Identifier: MIT */
/* Private to schema_tables*.c. */
#pragma once

#include "l7mp/model.h"

/* The longest name of an object, in bytes. */

extern const char *const l7mp_schema_offload_policies[];
