/* SPDX-License-Identifier: MIT */
#include "l7mp/fault.h"

#ifdef L7MP_FAULTS
#include <signal.h>
#include <stdlib.h>
#include <string.h>

void l7mp_fault(const char *name)
{
	static unsigned long passed;
	const char *wanted = getenv("L7MP_FAULT"), *colon;
	size_t len;

	if (!wanted)
		return;
	colon = strchr(wanted, ':');
	len = colon ? (size_t)(colon - wanted) : strlen(wanted);
	if (strlen(name) != len || strncmp(wanted, name, len) != 0)
		return;
	if (++passed == (colon ? strtoul(colon + 1, NULL, 10) : 1))
		raise(SIGKILL);
}
#else
typedef int l7mp_fault_is_off; /* ISO C wants something in each file */
#endif
