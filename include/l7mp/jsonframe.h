/* SPDX-License-Identifier: MIT */
/*
 * Where JSON objects end in a byte stream: finds the last byte of one object, across
 * whatever pieces the stream comes in. It follows brackets and strings and
 * sees control characters in strings; whether the text is JSON says l7mp_json_parse.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct l7mp_jsonframe {
	uint32_t depth; /* 0: before the object, or after it */
	bool in_string;
	bool escaped; /* after a backslash */
};

enum l7mp_jsonframe_state {
	L7MP_JSONFRAME_SPACE, /* all bytes were white space before an object */
	L7MP_JSONFRAME_MORE,  /* inside of the object */
	L7MP_JSONFRAME_DONE,  /* the last byte taken ended it; ready for the next one */
	L7MP_JSONFRAME_BAD,   /* the last byte taken can't be there; ready for the next one */
};

/*
 * Takes bytes, *used of them; all, unless DONE or BAD. Zero-initialise the frame.
 * *start (may be NULL) is where the object begins in `data`; left alone when it began earlier.
 */
enum l7mp_jsonframe_state l7mp_jsonframe_take(struct l7mp_jsonframe *f, const void *data,
                                              size_t len, size_t *start, size_t *used);
