/* SPDX-License-Identifier: MIT */
/*
 * Addresses: IPv4, IPv6, UNIX and packet sockets in one value.
 *
 * IPv4-mapped IPv6 addresses (::ffff:a.b.c.d) are normalised to IPv4 by every
 * function that takes one in, before any comparison can see them.
 */
#pragma once

#include <linux/if_packet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

struct l7mp_addr {
	socklen_t len; /* 0: no address */
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
		struct sockaddr_ll ll;
	};
};

#define L7MP_ADDR_STRLEN 128

/*
 * Numeric IPv4 or IPv6 (with %scope; brackets allowed). -EINVAL for a host name, -ENODEV for an
 * unknown scope.
 */
int l7mp_addr_parse(struct l7mp_addr *out, const char *host, uint16_t port);
/* "@name" is an abstract name. -ENAMETOOLONG, -EINVAL when empty. */
int l7mp_addr_unix(struct l7mp_addr *out, const char *filename);
/* len 0 for an unnamed UNIX peer or no address at all. -EINVAL (too short), -EAFNOSUPPORT. */
int l7mp_addr_from_sockaddr(struct l7mp_addr *out, const struct sockaddr *sa, socklen_t len);
/* Wildcard of a family: 0.0.0.0 or ::. */
void l7mp_addr_any(struct l7mp_addr *out, int family, uint16_t port);
/*
 * What to give to the kernel for a socket of `family`: an IPv4 address becomes mapped for AF_INET6.
 */
void l7mp_addr_for_family(const struct l7mp_addr *in, int family, struct l7mp_addr *out);

int l7mp_addr_family(const struct l7mp_addr *a); /* AF_UNSPEC when len is 0 */
uint16_t l7mp_addr_port(const struct l7mp_addr *a);
void l7mp_addr_set_port(struct l7mp_addr *a, uint16_t port);
bool l7mp_addr_equal(const struct l7mp_addr *a, const struct l7mp_addr *b);
bool l7mp_addr_equal_ip(const struct l7mp_addr *a,
                        const struct l7mp_addr *b); /* without the port */
bool l7mp_addr_is_any(const struct l7mp_addr *a);
bool l7mp_addr_is_loopback(const struct l7mp_addr *a); /* 127/8, ::1 */
/*
 * Loopback, or an address of one of this host's interfaces (asks the kernel each time); a UNIX
 * address.
 */
bool l7mp_addr_is_local(const struct l7mp_addr *a);
/*
 * Bytes that identify address and port, for hash keys: no padding, no flow info. Returns the
 * length.
 */
size_t l7mp_addr_key(const struct l7mp_addr *a, uint8_t key[static 24]);

/*
 * Only the IP: "10.0.0.1", "2001:db8::1" (no brackets); a UNIX path; a MAC; "" when none.
 * Link-local: with "%eth0".
 */
const char *l7mp_addr_ip(const struct l7mp_addr *a, char buf[static L7MP_ADDR_STRLEN]);
/* "10.0.0.1:80", "[2001:db8::1]:80", a UNIX path (abstract with '@'), "eth0/02:00:00:00:00:01". */
const char *l7mp_addr_str(const struct l7mp_addr *a, char buf[static L7MP_ADDR_STRLEN]);
