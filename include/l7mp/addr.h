/* SPDX-License-Identifier: MIT */
/*
 * Addresses: IPv4, IPv6, UNIX and packet sockets in one value type.
 *
 * IPv4-mapped IPv6 addresses (::ffff:a.b.c.d, RFC 4291 section 2.5.5.2) become IPv4 in
 * l7mp_addr_parse and l7mp_addr_from_sockaddr, so that comparisons never see two forms of one
 * address. l7mp_addr_for_family makes the mapped form again for the kernel.
 *
 * Thread: any. An address holds no memory and is copied by assignment.
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
	socklen_t len; /* bytes of the sockaddr, as bind(2) takes it; 0: no address */
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
		struct sockaddr_ll ll;
	};
};

/* Size of a buffer that holds the text of any address, terminator included. */
#define L7MP_ADDR_STRLEN 128

/*
 * Parses a numeric IPv4 or IPv6 address. IPv6 may stand in brackets and may have a scope ("%eth0"
 * or "%2"). `port` is in host byte order. Returns 0; -EINVAL for anything else, such as a host
 * name; -ENODEV when the scope names no interface.
 */
int l7mp_addr_parse(struct l7mp_addr *out, const char *host, uint16_t port);

/*
 * Makes the address of a UNIX socket from a path, or from "@name" for the abstract namespace
 * (unix(7)). Returns 0; -EINVAL when the name is empty; -ENAMETOOLONG when it does not fit into
 * sun_path with its terminator.
 */
int l7mp_addr_unix(struct l7mp_addr *out, const char *filename);

/*
 * Copies an address that the kernel returned. out->len becomes 0 for an unnamed UNIX peer and when
 * there is no address at all (`sa` NULL or `len` 0). Returns 0; -EINVAL when `len` is too short
 * for the family; -EAFNOSUPPORT for other families. `sa` may be unaligned, and may be &out->sa.
 */
int l7mp_addr_from_sockaddr(struct l7mp_addr *out, const struct sockaddr *sa, socklen_t len);

/* Makes the wildcard address: 0.0.0.0, or :: when `family` is AF_INET6. */
void l7mp_addr_any(struct l7mp_addr *out, int family, uint16_t port);

/* Returns the address family, AF_UNSPEC when there is no address. */
int l7mp_addr_family(const struct l7mp_addr *a);
/* Returns the port in host byte order, 0 when the family has no ports. */
uint16_t l7mp_addr_port(const struct l7mp_addr *a);
/* Sets the port, given in host byte order. Does nothing when the family has no ports. */
void l7mp_addr_set_port(struct l7mp_addr *a, uint16_t port);

/* Compares family, address, IPv6 scope and port. Two absent addresses are equal. */
bool l7mp_addr_equal(const struct l7mp_addr *a, const struct l7mp_addr *b);
/* The same without the port. */
bool l7mp_addr_equal_ip(const struct l7mp_addr *a, const struct l7mp_addr *b);
/* Returns whether this is 0.0.0.0 or ::. */
bool l7mp_addr_is_any(const struct l7mp_addr *a);
/*
 * A network like "10.0.0.0/8" or "fd00::/8"; without a prefix length it is that one address. 0 or
 * -EINVAL.
 */
int l7mp_addr_parse_net(const char *text, struct l7mp_addr *net, unsigned *bits);
bool l7mp_addr_in_net(const struct l7mp_addr *a, const struct l7mp_addr *net, unsigned bits);
/* 224.0.0.0/4 or ff00::/8. */
bool l7mp_addr_is_multicast(const struct l7mp_addr *a);
/* Returns whether this is in 127.0.0.0/8 or is ::1. */
bool l7mp_addr_is_loopback(const struct l7mp_addr *a);

/*
 * Writes a canonical form of family, address, scope and port, for use as a hash key: it has no
 * padding and no flow label. Returns its length in bytes, at most 24. A UNIX name is replaced by
 * its 128-bit hash.
 */
size_t l7mp_addr_key(const struct l7mp_addr *a, uint8_t key[static 24]);

/*
 * Writes the address without its port: "10.0.0.1", "2001:db8::1" (no brackets), "fe80::1%eth0", a
 * UNIX path, a MAC address, or "" when there is none. Returns `buf`.
 */
const char *l7mp_addr_ip(const struct l7mp_addr *a, char buf[static L7MP_ADDR_STRLEN]);

/*
 * Writes the address with its port: "10.0.0.1:80", "[2001:db8::1]:80", a UNIX path ('@' before an
 * abstract name), "eth0/02:00:00:00:00:01" for a packet socket. Returns `buf`.
 */
const char *l7mp_addr_str(const struct l7mp_addr *a, char buf[static L7MP_ADDR_STRLEN]);
