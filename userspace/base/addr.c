/* SPDX-License-Identifier: MIT */
#include "l7mp/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hash_private.h"

#define UN_PATH_OFF (offsetof(struct sockaddr_un, sun_path))

static void set_in(struct l7mp_addr *out, struct in_addr ip, in_port_t port)
{
	*out = (struct l7mp_addr){.len = sizeof(out->in)};
	out->in.sin_family = AF_INET;
	out->in.sin_addr = ip;
	out->in.sin_port = port;
}

/* Makes an IPv6 address. IPv4-mapped ones become IPv4; the flow label is dropped. */
static void set_in6(struct l7mp_addr *out, const struct in6_addr *ip, in_port_t port,
                    uint32_t scope)
{
	if (IN6_IS_ADDR_V4MAPPED(ip)) {
		struct in_addr v4;

		memcpy(&v4, &ip->s6_addr[12], 4);
		set_in(out, v4, port);
		return;
	}
	*out = (struct l7mp_addr){.len = sizeof(out->in6)};
	out->in6.sin6_family = AF_INET6;
	out->in6.sin6_addr = *ip;
	out->in6.sin6_port = port;
	out->in6.sin6_scope_id = scope;
}

/* An interface's name or number. */
static int scope_parse(const char *text, uint32_t *out)
{
	char *end;
	unsigned long n;

	*out = if_nametoindex(text);
	if (*out)
		return 0;
	if (text[0] < '0' || text[0] > '9')
		return text[0] ? -ENODEV : -EINVAL;
	errno = 0;
	n = strtoul(text, &end, 10);
	if (*end || errno || n > UINT32_MAX)
		return -ENODEV;
	*out = (uint32_t)n;
	return 0;
}

int l7mp_addr_parse(struct l7mp_addr *out, const char *host, uint16_t port)
{
	char text[INET6_ADDRSTRLEN + 1 + IF_NAMESIZE];
	struct in_addr v4;
	struct in6_addr v6;
	uint32_t scope = 0;
	bool brackets;
	char *percent;
	size_t n;

	if (!host)
		return -EINVAL;
	n = strlen(host);
	brackets = n >= 2 && host[0] == '[' && host[n - 1] == ']';
	if (brackets) {
		host++;
		n -= 2;
	}
	if (n >= sizeof(text))
		return -EINVAL;
	memcpy(text, host, n);
	text[n] = '\0';
	if (!brackets && inet_pton(AF_INET, text, &v4) == 1) {
		set_in(out, v4, htons(port));
		return 0;
	}
	percent = strchr(text, '%');
	if (percent)
		*percent = '\0';
	if (inet_pton(AF_INET6, text, &v6) != 1)
		return -EINVAL;
	if (percent) {
		int rc = scope_parse(percent + 1, &scope);

		if (rc)
			return rc;
	}
	set_in6(out, &v6, htons(port), scope);
	return 0;
}

int l7mp_addr_unix(struct l7mp_addr *out, const char *filename)
{
	bool abstract;
	size_t n;

	if (!filename)
		return -EINVAL;
	n = strlen(filename);
	abstract = filename[0] == '@';
	/* With an empty abstract name ("@") bind(2) would choose a name itself. */
	if (n < (abstract ? 2u : 1u))
		return -EINVAL;
	if (n > sizeof(out->un.sun_path) - 1)
		return -ENAMETOOLONG;
	*out = (struct l7mp_addr){0};
	out->un.sun_family = AF_UNIX;
	memcpy(out->un.sun_path, filename, n);
	if (abstract)
		out->un.sun_path[0] = '\0';
	/* The length of an abstract name has no terminator, that of a path has one (unix(7)). */
	out->len = (socklen_t)(UN_PATH_OFF + n + (abstract ? 0 : 1));
	return 0;
}

static int from_un(struct l7mp_addr *out, const struct sockaddr_un *un, size_t len)
{
	size_t n = len - UN_PATH_OFF;

	*out = (struct l7mp_addr){0};
	if (n == 0)
		return 0; /* unnamed */
	/* For a path of 108 bytes the kernel also counts the missing terminator. */
	if (n > sizeof(out->un.sun_path))
		n = sizeof(out->un.sun_path);
	out->un.sun_family = AF_UNIX;
	memcpy(out->un.sun_path, un->sun_path, n);
	if (out->un.sun_path[0]) {
		n = strnlen(out->un.sun_path, n);
		if (n < sizeof(out->un.sun_path))
			out->un.sun_path[n++] = '\0';
	}
	out->len = (socklen_t)(UN_PATH_OFF + n);
	return 0;
}

int l7mp_addr_from_sockaddr(struct l7mp_addr *out, const struct sockaddr *sa, socklen_t len)
{
	struct l7mp_addr in = {0};

	*out = (struct l7mp_addr){0};
	if (!sa || len < sizeof(sa->sa_family))
		return 0; /* what recvmsg gives for a peer without a name */
	/* Copied first: the caller's storage may be unaligned, or be `out` itself. */
	memcpy(&in.sa, sa,
	       len < sizeof(in) - offsetof(struct l7mp_addr, sa)
	               ? len
	               : sizeof(in) - offsetof(struct l7mp_addr, sa));
	switch (in.sa.sa_family) {
	case AF_INET:
		if (len < sizeof(in.in))
			return -EINVAL;
		set_in(out, in.in.sin_addr, in.in.sin_port);
		return 0;
	case AF_INET6:
		if (len < sizeof(in.in6))
			return -EINVAL;
		set_in6(out, &in.in6.sin6_addr, in.in6.sin6_port, in.in6.sin6_scope_id);
		return 0;
	case AF_UNIX:
		return from_un(out, &in.un, len);
	case AF_PACKET:
		if (len < offsetof(struct sockaddr_ll, sll_addr))
			return -EINVAL;
		out->ll = in.ll;
		if (out->ll.sll_halen > sizeof(out->ll.sll_addr))
			out->ll.sll_halen = sizeof(out->ll.sll_addr);
		out->len = sizeof(out->ll);
		return 0;
	default:
		return -EAFNOSUPPORT;
	}
}

void l7mp_addr_any(struct l7mp_addr *out, int family, uint16_t port)
{
	if (family == AF_INET6)
		set_in6(out, &in6addr_any, htons(port), 0);
	else
		set_in(out, (struct in_addr){.s_addr = htonl(INADDR_ANY)}, htons(port));
}

int l7mp_addr_family(const struct l7mp_addr *a)
{
	return a->len ? a->sa.sa_family : AF_UNSPEC;
}

uint16_t l7mp_addr_port(const struct l7mp_addr *a)
{
	switch (l7mp_addr_family(a)) {
	case AF_INET:
		return ntohs(a->in.sin_port);
	case AF_INET6:
		return ntohs(a->in6.sin6_port);
	default:
		return 0;
	}
}

void l7mp_addr_set_port(struct l7mp_addr *a, uint16_t port)
{
	switch (l7mp_addr_family(a)) {
	case AF_INET:
		a->in.sin_port = htons(port);
		break;
	case AF_INET6:
		a->in6.sin6_port = htons(port);
		break;
	}
}

bool l7mp_addr_equal_ip(const struct l7mp_addr *a, const struct l7mp_addr *b)
{
	if (l7mp_addr_family(a) != l7mp_addr_family(b))
		return false;
	switch (l7mp_addr_family(a)) {
	case AF_INET:
		return a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
	case AF_INET6:
		return !memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, 16) &&
		       a->in6.sin6_scope_id == b->in6.sin6_scope_id;
	case AF_UNIX:
		return a->len == b->len && !memcmp(&a->un, &b->un, a->len);
	case AF_PACKET:
		return a->ll.sll_ifindex == b->ll.sll_ifindex &&
		       a->ll.sll_protocol == b->ll.sll_protocol &&
		       a->ll.sll_halen == b->ll.sll_halen &&
		       !memcmp(a->ll.sll_addr, b->ll.sll_addr, a->ll.sll_halen);
	default:
		return true;
	}
}

bool l7mp_addr_equal(const struct l7mp_addr *a, const struct l7mp_addr *b)
{
	return l7mp_addr_equal_ip(a, b) && l7mp_addr_port(a) == l7mp_addr_port(b);
}

bool l7mp_addr_is_any(const struct l7mp_addr *a)
{
	switch (l7mp_addr_family(a)) {
	case AF_INET:
		return a->in.sin_addr.s_addr == htonl(INADDR_ANY);
	case AF_INET6:
		return IN6_IS_ADDR_UNSPECIFIED(&a->in6.sin6_addr);
	default:
		return false;
	}
}

bool l7mp_addr_is_multicast(const struct l7mp_addr *a)
{
	if (l7mp_addr_family(a) == AF_INET)
		return IN_MULTICAST(ntohl(a->in.sin_addr.s_addr));
	return l7mp_addr_family(a) == AF_INET6 && IN6_IS_ADDR_MULTICAST(&a->in6.sin6_addr);
}

static const uint8_t *ip_bytes(const struct l7mp_addr *a, unsigned *bits)
{
	bool v6 = l7mp_addr_family(a) == AF_INET6;

	*bits = v6 ? 128 : 32;
	return v6 ? a->in6.sin6_addr.s6_addr : (const uint8_t *)&a->in.sin_addr;
}

int l7mp_addr_parse_net(const char *text, struct l7mp_addr *net, unsigned *bits)
{
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	char host[L7MP_ADDR_STRLEN], *end;
	unsigned long n;
	unsigned max;

	if (len >= sizeof(host))
		return -EINVAL;
	memcpy(host, text, len);
	host[len] = '\0';
	if (l7mp_addr_parse(net, host, 0))
		return -EINVAL;
	(void)ip_bytes(net, &max);
	*bits = max;
	if (!slash)
		return 0;
	n = strtoul(slash + 1, &end, 10);
	if (slash[1] < '0' || slash[1] > '9' || *end || n > max)
		return -EINVAL;
	*bits = (unsigned)n;
	return 0;
}

bool l7mp_addr_in_net(const struct l7mp_addr *a, const struct l7mp_addr *net, unsigned bits)
{
	int family = l7mp_addr_family(a);
	const uint8_t *x, *y;
	unsigned max;

	if (family != l7mp_addr_family(net) || (family != AF_INET && family != AF_INET6))
		return false;
	x = ip_bytes(a, &max);
	y = ip_bytes(net, &max);
	if (memcmp(x, y, bits / 8))
		return false;
	return !(bits % 8) || !((x[bits / 8] ^ y[bits / 8]) >> (8 - bits % 8));
}

bool l7mp_addr_is_loopback(const struct l7mp_addr *a)
{
	switch (l7mp_addr_family(a)) {
	case AF_INET:
		return ntohl(a->in.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	case AF_INET6:
		return IN6_IS_ADDR_LOOPBACK(&a->in6.sin6_addr);
	default:
		return false;
	}
}

size_t l7mp_addr_key(const struct l7mp_addr *a, uint8_t key[static 24])
{
	key[0] = (uint8_t)l7mp_addr_family(a);
	switch (l7mp_addr_family(a)) {
	case AF_INET:
		memcpy(key + 1, &a->in.sin_addr, 4);
		memcpy(key + 5, &a->in.sin_port, 2);
		return 7;
	case AF_INET6:
		memcpy(key + 1, &a->in6.sin6_addr, 16);
		memcpy(key + 17, &a->in6.sin6_port, 2);
		memcpy(key + 19, &a->in6.sin6_scope_id, 4);
		return 23;
	case AF_UNIX:
		l7mp_hash128(a->un.sun_path, a->len - UN_PATH_OFF, key + 1);
		return 17;
	case AF_PACKET:
		memset(key + 1, 0, 15);
		memcpy(key + 1, &a->ll.sll_ifindex, 4);
		memcpy(key + 5, &a->ll.sll_protocol, 2);
		key[7] = a->ll.sll_halen;
		memcpy(key + 8, a->ll.sll_addr, a->ll.sll_halen);
		return 16;
	default:
		return 1;
	}
}

/* ---- addresses as text ---- */

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

/* An abstract name is printed with '@' for its first byte and for each NUL in it, as ss(8) does. */
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
