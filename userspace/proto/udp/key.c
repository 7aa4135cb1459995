/* SPDX-License-Identifier: MIT */
/* The keys of sessions: addresses in a compact form. */
#include <netinet/in.h>
#include <string.h>

#include "udp.h"

static void ip_to_key(const struct l7mp_addr *a, uint8_t out[16])
{
	if (l7mp_addr_family(a) == AF_INET6) {
		memcpy(out, &a->in6.sin6_addr, 16);
	} else if (l7mp_addr_family(a) == AF_INET) {
		memset(out, 0, 10);
		out[10] = out[11] = 0xff;
		memcpy(out + 12, &a->in.sin_addr, 4);
	} else {
		memset(out, 0, 16);
	}
}

void udp_key_set(struct udp_key *key, const struct l7mp_addr *peer, const struct l7mp_addr *local)
{
	bool v6 = l7mp_addr_family(peer) == AF_INET6;

	ip_to_key(peer, key->peer);
	ip_to_key(local, key->local);
	key->scope = v6 ? peer->in6.sin6_scope_id : 0;
	key->port = v6 ? peer->in6.sin6_port : peer->in.sin_port;
	key->family = v6 ? AF_INET6 : AF_INET;
}

static void key_to_ip(const struct udp_key *key, const uint8_t ip[16], uint16_t port,
                      struct l7mp_addr *out)
{
	if (key->family == AF_INET6) {
		out->in6 = (struct sockaddr_in6){
		        .sin6_family = AF_INET6, .sin6_port = port, .sin6_scope_id = key->scope};
		memcpy(&out->in6.sin6_addr, ip, 16);
		out->len = sizeof(out->in6);
	} else {
		out->in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port};
		memcpy(&out->in.sin_addr, ip + 12, 4);
		out->len = sizeof(out->in);
	}
}

void udp_key_addrs(const struct udp_key *key, uint16_t local_port, struct l7mp_addr *peer,
                   struct l7mp_addr *local)
{
	static const uint8_t unknown[16];

	key_to_ip(key, key->peer, key->port, peer);
	if (memcmp(key->local, unknown, sizeof(unknown)))
		key_to_ip(key, key->local, htons(local_port), local);
	else
		local->len = 0;
}
