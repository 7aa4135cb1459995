/* SPDX-License-Identifier: MIT */
/* Addresses as text. */
#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "l7mp/addr.h"

static void in6_text(const struct sockaddr_in6 *in6, char *buf, size_t size)
{
	char name[IF_NAMESIZE];
	size_t n;

	inet_ntop(AF_INET6, &in6->sin6_addr, buf, (socklen_t)size);
	if (!in6->sin6_scope_id)
		return;
	n = strlen(buf);
	if (if_indextoname(in6->sin6_scope_id, name))
		snprintf(buf + n, size - n, "%%%s", name);
	else
		snprintf(buf + n, size - n, "%%%u", in6->sin6_scope_id);
}

/* An abstract name begins with '@', and so are shown the NULs that it may hold (as ss(8) does). */
static void un_text(const struct l7mp_addr *a, char *buf)
{
	const char *path = a->un.sun_path;
	size_t n = a->len - offsetof(struct sockaddr_un, sun_path);

	if (path[0]) {
		n = strnlen(path, n);
		memcpy(buf, path, n);
	} else {
		for (size_t i = 0; i < n; i++)
			buf[i] = path[i] ? path[i] : '@';
	}
	buf[n] = '\0';
}

static void ll_text(const struct sockaddr_ll *ll, char *buf, size_t size)
{
	size_t n = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < ll->sll_halen; i++)
		n += (size_t)snprintf(buf + n, size - n, "%s%02x", i ? ":" : "", ll->sll_addr[i]);
}

const char *l7mp_addr_ip(const struct l7mp_addr *a, char buf[static L7MP_ADDR_STRLEN])
{
	switch (l7mp_addr_family(a)) {
	case AF_INET:
		inet_ntop(AF_INET, &a->in.sin_addr, buf, L7MP_ADDR_STRLEN);
		break;
	case AF_INET6:
		in6_text(&a->in6, buf, L7MP_ADDR_STRLEN);
		break;
	case AF_UNIX:
		un_text(a, buf);
		break;
	case AF_PACKET:
		ll_text(&a->ll, buf, L7MP_ADDR_STRLEN);
		break;
	default:
		buf[0] = '\0';
		break;
	}
	return buf;
}

const char *l7mp_addr_str(const struct l7mp_addr *a, char buf[static L7MP_ADDR_STRLEN])
{
	char name[IF_NAMESIZE];
	char ip[L7MP_ADDR_STRLEN];

	l7mp_addr_ip(a, ip);
	switch (l7mp_addr_family(a)) {
	case AF_INET:
		snprintf(buf, L7MP_ADDR_STRLEN, "%.15s:%u", ip, l7mp_addr_port(a));
		break;
	case AF_INET6:
		snprintf(buf, L7MP_ADDR_STRLEN, "[%.64s]:%u", ip, l7mp_addr_port(a));
		break;
	case AF_PACKET:
		if (!if_indextoname((unsigned)a->ll.sll_ifindex, name))
			snprintf(name, sizeof(name), "%d", a->ll.sll_ifindex);
		snprintf(buf, L7MP_ADDR_STRLEN, "%s%s%.23s", name, ip[0] ? "/" : "", ip);
		break;
	default:
		memcpy(buf, ip, strlen(ip) + 1);
		break;
	}
	return buf;
}
