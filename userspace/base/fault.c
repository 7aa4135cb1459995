/* SPDX-License-Identifier: MIT */
#include "l7mp/fault.h"

#ifdef L7MP_FAULTS
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void l7mp_fault(const char *name)
{
	static unsigned long passed;
	const char *wanted = getenv("L7MP_FAULT"), *what;
	size_t len = strlen(name);

	if (!wanted || strncmp(wanted, name, len) != 0 || (wanted[len] && wanted[len] != ':'))
		return;
	what = wanted[len] ? wanted + len + 1 : "1";
	if (!strcmp(what, "orphan"))
		kill(getppid(), SIGKILL);
	while (!strcmp(what, "hang"))
		pause();
	if (!strcmp(what, "kill") || ++passed == strtoul(what, NULL, 10))
		raise(SIGKILL);
}
#else
typedef int l7mp_fault_is_off; /* ISO C forbids an empty translation unit */
#endif
