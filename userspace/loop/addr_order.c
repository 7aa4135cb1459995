/* SPDX-License-Identifier: MIT */
/*
 * The order in which the addresses of a name are tried: RFC 6724, section 6, with the default
 * policy table of section 2.1. Not used are the rules for which the kernel tells a program too
 * little (3, 4 and 7: deprecated and home addresses, encapsulation), and rule 9 (longest common
 * prefix), which would undo the order in which a name server distributes load (section 10.6).
 */
#include <string.h>
#include <unistd.h>

#include "loop_int.h"

enum { SCOPE_LINK = 2, SCOPE_SITE = 5, SCOPE_GLOBAL = 14 };

struct policy {
	uint8_t prefix[16];
	unsigned bits, precedence, label;
};

/* Longest prefix first, so that the first match is the best one. */
static const struct policy policies[] = {
        {.prefix = {[15] = 1}, .bits = 128, .precedence = 50, .label = 0},
        {.prefix = {[10] = 0xff, [11] = 0xff}, .bits = 96, .precedence = 35, .label = 4},
        {.bits = 96, .precedence = 1, .label = 3},
        {.prefix = {0x20, 0x01}, .bits = 32, .precedence = 5, .label = 5},
        {.prefix = {0x20, 0x02}, .bits = 16, .precedence = 30, .label = 2},
        {.prefix = {0x3f, 0xfe}, .bits = 16, .precedence = 1, .label = 12},
        {.prefix = {0xfe, 0xc0}, .bits = 10, .precedence = 1, .label = 11},
        {.prefix = {0xfc}, .bits = 7, .precedence = 3, .label = 13},
        {.bits = 0, .precedence = 40, .label = 1},
};

/* Writes the address as IPv6, an IPv4 address as IPv4-mapped. */
static void to_v6(const struct l7mp_addr *a, uint8_t out[static 16])
{
	if (l7mp_addr_family(a) == AF_INET6) {
		memcpy(out, &a->in6.sin6_addr, 16);
		return;
	}
	memset(out, 0, 10);
	out[10] = out[11] = 0xff;
	memcpy(out + 12, &a->in.sin_addr, 4);
}

static bool has_prefix(const uint8_t ip[static 16], const struct policy *p)
{
	unsigned bytes = p->bits / 8, rest = p->bits % 8;

	return !memcmp(ip, p->prefix, bytes) &&
	       (!rest || !((ip[bytes] ^ p->prefix[bytes]) >> (8 - rest)));
}

static const struct policy *policy_of(const struct l7mp_addr *a)
{
	const struct policy *p = policies;
	uint8_t ip[16];

	to_v6(a, ip);
	while (!has_prefix(ip, p))
		p++; /* the last one matches all */
	return p;
}

/* Section 3.1 and, for IPv4, 3.2. */
static unsigned scope_of(const struct l7mp_addr *a)
{
	uint8_t ip[16];

	to_v6(a, ip);
	if (l7mp_addr_is_loopback(a))
		return SCOPE_LINK;
	if (l7mp_addr_family(a) == AF_INET)
		return ip[12] == 169 && ip[13] == 254 ? SCOPE_LINK : SCOPE_GLOBAL;
	if (ip[0] == 0xff)
		return ip[1] & 15;
	if (ip[0] == 0xfe && (ip[1] & 0xc0) == 0x80)
		return SCOPE_LINK;
	if (ip[0] == 0xfe && (ip[1] & 0xc0) == 0xc0)
		return SCOPE_SITE;
	return SCOPE_GLOBAL;
}

/* Returns whether `a` must come before `b`. */
static bool before(const struct l7mp_dest *a, const struct l7mp_dest *b)
{
	const struct policy *pa = policy_of(&a->addr), *pb = policy_of(&b->addr);
	unsigned sa = scope_of(&a->addr), sb = scope_of(&b->addr);
	bool ma, mb;

	/* Rule 1: avoid unusable destinations. */
	if (!a->source.len != !b->source.len)
		return a->source.len;
	if (a->source.len) {
		/* Rule 2: prefer matching scope. */
		ma = sa == scope_of(&a->source);
		mb = sb == scope_of(&b->source);
		if (ma != mb)
			return ma;
		/* Rule 5: prefer matching label. */
		ma = pa->label == policy_of(&a->source)->label;
		mb = pb->label == policy_of(&b->source)->label;
		if (ma != mb)
			return ma;
	}
	/* Rule 6: prefer higher precedence; rule 8: prefer smaller scope. */
	if (pa->precedence != pb->precedence)
		return pa->precedence > pb->precedence;
	return sa < sb;
}

void l7mp_dests_order(struct l7mp_dest *dests, size_t n)
{
	/* By insertion, which is stable; there are few. */
	for (size_t i = 1; i < n; i++) {
		struct l7mp_dest d = dests[i];
		size_t at = i;

		for (; at > 0 && before(&d, &dests[at - 1]); at--)
			dests[at] = dests[at - 1];
		dests[at] = d;
	}
}

void l7mp_dests_find_sources(struct l7mp_dest *dests, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct l7mp_dest *d = &dests[i];
		/* One socket each: a connected one would keep its source at the next connect. */
		int fd = socket(l7mp_addr_family(&d->addr), SOCK_DGRAM | SOCK_CLOEXEC, 0);
		struct sockaddr_storage ss;
		socklen_t len = sizeof(ss);

		d->source.len = 0;
		if (fd < 0)
			continue;
		if (connect(fd, &d->addr.sa, d->addr.len) ||
		    getsockname(fd, (struct sockaddr *)&ss, &len) ||
		    l7mp_addr_from_sockaddr(&d->source, (struct sockaddr *)&ss, len))
			d->source.len = 0;
		close(fd);
	}
}
