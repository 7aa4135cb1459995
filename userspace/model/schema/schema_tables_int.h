/* SPDX-License-Identifier: MIT */
/* Private to schema_tables*.c. */
#pragma once

#include "l7mp/model.h"

/* The fields of all kinds of objects: name and owner. `flags_` are those of the name. */
#define OBJECT_NAME(flags_, doc_)                                                  \
	{                                                                          \
		.key = "name", .type = L7MP_T_STRING, .flags = (flags_), .min = 1, \
		.max = L7MP_NAME_MAX, .pattern = L7MP_P_NAME, .doc = (doc_)        \
	}
#define OBJECT_OWNER                                                                    \
	{                                                                               \
		.key = "owner", .type = L7MP_T_STRING, .flags = L7MP_F_READONLY,        \
		.doc = "The owner that set it with `POST /config?owner=`; absent: none" \
	}

extern const char *const l7mp_schema_offload_policies[];
