/* SPDX-License-Identifier: MIT */
/* What the fuzz targets share (https://llvm.org/docs/LibFuzzer.html). */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property that must hold for every input. */
#define FUZZ_CHECK(cond)                                                                     \
	do {                                                                                 \
		if (!(cond)) {                                                               \
			fprintf(stderr, "%s:%d: violated: %s\n", __FILE__, __LINE__, #cond); \
			abort();                                                             \
		}                                                                            \
	} while (0)

/* A terminated copy in memory of just that size, so that the sanitizer sees every byte too far. */
static inline char *fuzz_text(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	if (!text)
		abort();
	if (size)
		memcpy(text, data, size);
	text[size] = 0;
	return text;
}

/* Cuts the text in two at the first line feed; "" when there is none. */
static inline char *fuzz_cut(char *text)
{
	char *lf = strchr(text, '\n');

	if (!lf)
		return text + strlen(text);
	*lf = 0;
	return lf + 1;
}
