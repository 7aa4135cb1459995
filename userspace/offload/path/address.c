/* SPDX-License-Identifier: MIT */
/* Addresses in the format of the maps (abi.h). */
#include <string.h>

#include "path.h"

uint8_t off_abi_family(const struct l7mp_addr *a)
{
	switch (l7mp_addr_family(a)) {
	case AF_INET:
		return L7MP_FAMILY_V4;
	case AF_INET6:
		return L7MP_FAMILY_V6;
	default:
		return 0;
	}
}

void off_abi_addr(const struct l7mp_addr *a, uint8_t out[static 16])
{
	memset(out, 0, 16);
	if (l7mp_addr_family(a) == AF_INET)
		memcpy(out, &a->in.sin_addr, 4);
	else if (l7mp_addr_family(a) == AF_INET6)
		memcpy(out, &a->in6.sin6_addr, 16);
}
