/* SPDX-License-Identifier: MIT */
/*
 * A DNS server on loopback, in a thread of its own, for unit tests. The first label of a name says
 * what the answer is:
 *
 *   silent...   none
 *   broken      a malformed one
 *   nx          no such name; an SOA record whose TTL is `ttl` and whose minimum is 60
 *   fail        SERVFAIL
 *   both        `ip4` and 2001:db8::7
 *   dual        `ip4` and ::1
 *   crowd       127.1.0.1, 127.1.0.2 and so on, 2001:db8::1 and so on, over TCP: DNS_CROWD and
 *               DNS_CROWD6 of them, which is about what a message has room for
 *   all others  `ip4`
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "l7mp/loop.h"

#define DNS_CROWD  3900
#define DNS_CROWD6 2300

struct dns_server {
	int fd, listener; /* UDP and TCP, of the same port */
	pthread_t thread;
	char csv[64];       /* its address */
	atomic_int queries; /* all that came in */
	atomic_int ttl;     /* of what it answers; 300 */
	atomic_uint ip4;    /* of what it answers, network order; 10.9.8.7 */
};

/* Starts it and makes it the only server that the loop asks. */
void dns_server_start(struct dns_server *s, struct l7mp_loop *loop);
/* After the loop was freed, or has nothing to ask any more. */
void dns_server_stop(struct dns_server *s);
