/* SPDX-License-Identifier: MIT */
/* Shared by schema_tables*.c only. */
#pragma once

#include "l7mp/model.h"

/* Longest name of an object, and of a reference to one. */
#define L7MP_NAME_MAX 255

extern const char *const l7mp_schema_offload_policies[];
