/* SPDX-License-Identifier: MIT */
/*
 * Finds where JSON objects end in a byte stream that arrives in pieces of any size. It tracks
 * brackets and strings, and refuses control characters in strings; whether the text is valid JSON
 * is checked by l7mp_json_parse.
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
	L7MP_JSONFRAME_MORE,  /* the object has begun and needs more bytes */
	L7MP_JSONFRAME_DONE,  /* the last byte consumed ended it; ready for the next one */
	L7MP_JSONFRAME_BAD,   /* the last byte consumed is invalid; ready for the next one */
};

/*
 * Consumes bytes of the stream: all of them, unless it returns DONE or BAD. *used is the number
 * consumed. *start (may be NULL) is set to the offset in `data` at which the object begins, and
 * left unchanged when it began in an earlier piece. A zeroed frame is a new one.
 */
enum l7mp_jsonframe_state l7mp_jsonframe_take(struct l7mp_jsonframe *f, const void *data,
                                              size_t len, size_t *start, size_t *used);
