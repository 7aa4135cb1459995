/* SPDX-License-Identifier: MIT */
#include "tap.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned done, bad;

void tap_result(bool ok, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("%sok %u - ", ok ? "" : "not ", ++done);
	vprintf(fmt, ap);
	putchar('\n');
	va_end(ap);
	fflush(stdout);
	if (!ok)
		bad++;
}

void tap_skip(const char *reason, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("ok %u - ", ++done);
	vprintf(fmt, ap);
	printf(" # SKIP %s\n", reason);
	va_end(ap);
	fflush(stdout);
}

void tap_note(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("# ");
	vprintf(fmt, ap);
	putchar('\n');
	va_end(ap);
}

void tap_dump(const char *what, const uint8_t *data, size_t n)
{
	printf("# %s, %zu bytes:", what, n);
	for (size_t i = 0; i < n && i < 128; i++)
		printf("%s%02x", i % 16 ? " " : "\n#   ", data[i]);
	putchar('\n');
}

void tap_bail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("not ok %u - ", done + 1);
	vprintf(fmt, ap);
	printf("\nBail out!\n");
	va_end(ap);
	fflush(stdout);
	exit(1);
}

int tap_done(void)
{
	printf("1..%u\n", done);
	return bad ? 1 : 0;
}

bool test_mode_full(void)
{
	const char *mode = getenv("L7MP_TEST_MODE");

	return mode && !strcmp(mode, "full");
}
