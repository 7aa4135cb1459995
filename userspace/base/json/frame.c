/* SPDX-License-Identifier: MIT */
#include "l7mp/jsonframe.h"

#include <string.h>

static bool is_space(uint8_t c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Processes one byte of a string. Returns false when it is invalid. */
static bool string_byte(struct l7mp_jsonframe *f, uint8_t c)
{
	if (c < 0x20)
		/*
		 * a control character in a string (RFC 8259, section 7) is invalid: detects a
		 * missing quote at the end of the line
		 */
		return false;
	if (f->escaped)
		f->escaped = false;
	else if (c == '\\')
		f->escaped = true;
	else if (c == '"')
		f->in_string = false;
	return true;
}

enum l7mp_jsonframe_state l7mp_jsonframe_take(struct l7mp_jsonframe *f, const void *data,
                                              size_t len, size_t *start, size_t *used)
{
	const uint8_t *p = data;
	size_t i = 0;

	if (!f->depth) {
		while (i < len && is_space(p[i]))
			i++;
		*used = i;
		if (i == len)
			return L7MP_JSONFRAME_SPACE;
		*used = i + 1;
		if (p[i] != '{')
			return L7MP_JSONFRAME_BAD;
		if (start)
			*start = i;
		f->depth = 1;
		i++;
	}
	for (; i < len; i++) {
		uint8_t c = p[i];

		if (f->in_string) {
			if (string_byte(f, c))
				continue;
			memset(f, 0, sizeof(*f));
			*used = i + 1;
			return L7MP_JSONFRAME_BAD;
		}
		if (c == '"')
			f->in_string = true;
		else if (c == '{' || c == '[')
			f->depth++;
		else if ((c == '}' || c == ']') && --f->depth == 0) {
			*used = i + 1;
			return L7MP_JSONFRAME_DONE;
		}
	}
	*used = len;
	return L7MP_JSONFRAME_MORE;
}
