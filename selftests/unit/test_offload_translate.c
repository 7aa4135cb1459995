/* SPDX-License-Identifier: MIT */
/*
 * Keys, actions and their checksum deltas. A whole packet is built and its checksums
 * are computed from scratch before and after the rewrite: adding the delta to the first must
 * give the second.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "offload/engine.h"

static struct l7mp_addr addr(const char *ip, uint16_t port)
{
	struct l7mp_addr a;

	assert_int_equal(l7mp_addr_parse(&a, ip, port), 0);
	return a;
}

/* ---- checksums from scratch, byte by byte (RFC 1071) ---- */

static uint32_t add(uint32_t sum, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	return sum;
}

static uint16_t finish(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

struct tuple {
	uint8_t family;
	uint8_t src[16], dst[16];
	uint16_t sport, dport; /* host order */
	uint8_t ttl;
};

static uint16_t udp_csum(const struct tuple *t, const uint8_t *payload, size_t n)
{
	size_t len = t->family == L7MP_FAMILY_V4 ? 4 : 16;
	uint32_t sum = add(add(0, t->src, len), t->dst, len);

	sum += IPPROTO_UDP + 2 * (uint32_t)(8 + n); /* pseudo header's and UDP's length */
	sum += (uint32_t)t->sport + t->dport;
	return finish(add(sum, payload, n));
}

static uint16_t ip_csum(const struct tuple *t, uint16_t total)
{
	uint32_t sum = 0x4500 + (uint32_t)total + 0x1234 + (((uint32_t)t->ttl << 8) | IPPROTO_UDP);

	return finish(add(add(sum, t->src, 4), t->dst, 4));
}

/* What the program does with a delta (headers/csum.h), in host order. */
static uint16_t apply(uint16_t check, uint32_t delta)
{
	uint16_t raw = htons(check);
	uint32_t sum = (uint16_t)~raw + (delta & 0xffff) + (delta >> 16);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ntohs((uint16_t)~sum);
}

/* In one's complement both zeros are the same. */
static void assert_csum(uint16_t got, uint16_t want)
{
	if (got == 0xffff)
		got = 0;
	if (want == 0xffff)
		want = 0;
	assert_int_equal(got, want);
}

static void set_tuple(struct tuple *t, const struct l7mp_addr *from, const struct l7mp_addr *to,
                      uint8_t ttl)
{
	memset(t, 0, sizeof(*t));
	t->family = off_abi_family(from);
	off_abi_addr(from, t->src);
	off_abi_addr(to, t->dst);
	t->sport = l7mp_addr_port(from);
	t->dport = l7mp_addr_port(to);
	t->ttl = ttl;
}

static void check_pair(const struct l7mp_addr *from, const struct l7mp_addr *to,
                       const struct l7mp_addr *src, const struct l7mp_addr *dst)
{
	uint8_t payload[101];
	struct l7mp_flow_key key;
	struct l7mp_flow6_action value;
	const struct l7mp_flow_action *a = &value.action;
	struct tuple old, new;

	for (size_t i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)rand();
	off_key_set(&key, IPPROTO_UDP, from, to);
	off_action_set(&value, &key, L7MP_VERB_FORWARD, src, dst);
	for (int ttl = 2; ttl < 256; ttl += 23) {
		set_tuple(&old, from, to, (uint8_t)ttl);
		set_tuple(&new, src, dst, (uint8_t)(ttl - 1));
		assert_csum(apply(udp_csum(&old, payload, sizeof(payload)),
		                  a->csum_addr + a->csum_port),
		            udp_csum(&new, payload, sizeof(payload)));
		if (key.family == L7MP_FAMILY_V4)
			assert_csum(apply(ip_csum(&old, 129), a->csum_l3), ip_csum(&new, 129));
	}
}

static void test_checksums(void **state)
{
	(void)state;
	for (int i = 0; i < 2000; i++) {
		struct l7mp_addr v[4];
		bool six = i & 1;

		for (int k = 0; k < 4; k++) {
			v[k] = addr(six ? "2001:db8::1" : "10.0.0.1",
			            (uint16_t)(1 + rand() % 65535));
			for (int b = 0; b < (six ? 16 : 4); b++) {
				uint8_t byte = (uint8_t)(rand() % 4   ? rand()
				                         : rand() % 2 ? 0xff
				                                      : 0);

				if (six)
					v[k].in6.sin6_addr.s6_addr[b] = byte;
				else
					((uint8_t *)&v[k].in.sin_addr)[b] = byte;
			}
		}
		check_pair(&v[0], &v[1], &v[2], &v[3]);
	}
}

static void test_same_is_zero(void **state)
{
	struct l7mp_addr a = addr("10.0.0.1", 5), b = addr("10.0.0.2", 6), c = addr("10.0.0.2", 7);
	struct l7mp_flow6_action value;
	const struct l7mp_flow_action *action = &value.action;
	struct l7mp_flow_key key;

	(void)state;
	off_key_set(&key, IPPROTO_UDP, &a, &b);
	off_action_set(&value, &key, L7MP_VERB_FORWARD, &a, &c);
	assert_int_equal(action->csum_addr, 0);
	assert_int_not_equal(action->csum_port, 0);
	/* only the TTL: ~0x0100 in network order */
	assert_int_equal(action->csum_l3, (uint16_t)~htons(0x0100));
	/* reflected: the sum is the same, whichever way */
	off_action_set(&value, &key, L7MP_VERB_REFLECT, &b, &a);
	check_pair(&a, &b, &b, &a);
}

static void test_key(void **state)
{
	struct l7mp_addr a = addr("10.1.2.3", 5000), b = addr("::ffff:10.9.8.7", 9000);
	static const uint8_t want4[16] = {10, 1, 2, 3}, none[16] = {0};
	struct l7mp_flow6_action value;
	const struct l7mp_flow_action *action = &value.action;
	struct l7mp_flow_key key;

	(void)state;
	memset(&key, 0xaa, sizeof(key));
	off_key_set(&key, IPPROTO_UDP, &a, &b);
	assert_memory_equal(key.saddr.bytes, want4, 16);
	assert_int_equal(key.daddr.bytes[0], 10);
	assert_int_equal(key.family, L7MP_FAMILY_V4);
	assert_int_equal(key.sport, htons(5000));
	assert_int_equal(key.pad[0] | key.pad[1], 0);
	off_action_set(&value, &key, L7MP_VERB_FORWARD, &b, &a);
	assert_int_equal(action->match_sport_host, 5000);
	assert_int_equal(action->match_dport_host, 9000);
	assert_int_equal(action->sport_host, 9000);
	assert_int_equal(action->dport, htons(5000));
	/* The key of flows4, which is found in the value, too. */
	assert_memory_equal(action->key.saddr, want4, 4);
	assert_int_equal(action->key.daddr[3], 7);
	assert_int_equal(action->key.sport, htons(5000));
	assert_int_equal(action->key.l4, IPPROTO_UDP);
	assert_int_equal(action->key.pad[0] | action->key.pad[1] | action->key.pad[2], 0);
	assert_int_equal(action->daddr[3], 3);
	assert_memory_equal(value.match_saddr.bytes, none, 16);
	assert_memory_equal(value.daddr.bytes, none, 16);
}

static void test_key6(void **state)
{
	struct l7mp_addr a = addr("fd00::1", 5000), b = addr("fd00::2", 9000);
	static const uint8_t none[4] = {0};
	struct l7mp_flow6_action value;
	struct l7mp_flow_key key;

	(void)state;
	off_key_set(&key, IPPROTO_UDP, &a, &b);
	assert_int_equal(key.family, L7MP_FAMILY_V6);
	off_action_set(&value, &key, L7MP_VERB_FORWARD, &b, &a);
	assert_memory_equal(value.match_saddr.bytes, key.saddr.bytes, 16);
	assert_memory_equal(value.match_daddr.bytes, key.daddr.bytes, 16);
	assert_int_equal(value.saddr.bytes[15], 2);
	assert_int_equal(value.daddr.bytes[15], 1);
	assert_memory_equal(value.action.key.saddr, none, 4);
	assert_memory_equal(value.action.daddr, none, 4);
	assert_int_equal(value.action.key.dport, htons(9000));
}

static void test_exit(void **state)
{
	struct l7mp_flow_action a = {0};
	struct off_egress x = {.ifindex = 7,
	                       .mtu = 1400,
	                       .flags = L7MP_FLOW_TC_ONLY,
	                       .dmac = {1, 2, 3, 4, 5, 6},
	                       .smac = {6, 5, 4, 3, 2, 1},
	                       .n_vlans = 2,
	                       .vlan_proto = {0x88a8, 0x8100},
	                       .vlan_tci = {1, 2}};

	(void)state;
	off_action_set_egress(&a, &x);
	assert_int_equal(a.ifindex, 7);
	assert_int_equal(a.mtu, 1400);
	assert_int_equal(a.flags, L7MP_FLOW_TC_ONLY);
	assert_memory_equal(a.dmac, x.dmac, 6);
	assert_memory_equal(a.smac, x.smac, 6);
	assert_int_equal(a.n_vlans, 2);
	assert_int_equal(a.vlan_proto[0], 0x88a8);
	assert_int_equal(a.vlan_tci[1], 2);
}

static struct l7mp_flow_end sock(const char *local, const char *remote)
{
	struct l7mp_flow_end end = {.kind = L7MP_FLOW_SOCKET, .l4 = IPPROTO_UDP};

	end.local = addr(local, 1000);
	end.remote = addr(remote, 2000);
	return end;
}

static void test_reasons(void **state)
{
	struct l7mp_flow_end a = sock("10.0.0.1", "10.0.0.2"), b = sock("10.0.1.1", "10.0.1.2");
	struct l7mp_flow_end v6 = sock("2001:db8::1", "2001:db8::2"), x;

	(void)state;
	assert_int_equal(off_pair_check(&a, &b), L7MP_REASON_NONE);
	assert_int_equal(off_pair_check(&a, &v6), L7MP_REASON_ADDRESS_FAMILY);
	assert_int_equal(off_pair_check(&v6, &v6), L7MP_REASON_NONE);
	x = (struct l7mp_flow_end){.kind = L7MP_FLOW_REFLECT};
	assert_int_equal(off_pair_check(&a, &x), L7MP_REASON_NONE);
	x.kind = L7MP_FLOW_DROP;
	assert_int_equal(off_pair_check(&a, &x), L7MP_REASON_NONE);
	x = (struct l7mp_flow_end){.kind = L7MP_FLOW_NONE, .reason = L7MP_REASON_TRANSFORMER};
	assert_int_equal(off_pair_check(&a, &x), L7MP_REASON_TRANSFORMER);
	assert_int_equal(off_pair_check(&x, &a), L7MP_REASON_TRANSFORMER);
	x = a;
	x.l4 = IPPROTO_TCP;
	assert_int_equal(off_pair_check(&x, &b), L7MP_REASON_PROTOCOL);
	assert_int_equal(off_pair_check(&a, &x), L7MP_REASON_PROTOCOL);
	assert_int_equal(off_pair_check(&x, &x), L7MP_REASON_NONE);
	assert_int_equal(off_pair_check(&x, &(struct l7mp_flow_end){.kind = L7MP_FLOW_REFLECT}),
	                 L7MP_REASON_TRANSFORMER);
	x.l4 = 0;
	assert_int_equal(off_pair_check(&x, &b), L7MP_REASON_PROTOCOL);
	x = a;
	x.local = addr("0.0.0.0", 1000);
	assert_int_equal(off_pair_check(&x, &b), L7MP_REASON_ADDRESS_SCOPE);
	x.local.len = 0;
	assert_int_equal(off_pair_check(&x, &b), L7MP_REASON_NOT_ESTABLISHED);
	x = a;
	x.remote = addr("239.1.1.1", 1000);
	assert_int_equal(off_pair_check(&x, &b), L7MP_REASON_ADDRESS_SCOPE);
	x = sock("2001:db8::1", "2001:db8::2");
	x.remote.in6.sin6_addr.s6_addr[0] = 0xfe;
	x.remote.in6.sin6_addr.s6_addr[1] = 0x80;
	assert_int_equal(off_pair_check(&x, &v6), L7MP_REASON_ADDRESS_SCOPE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_checksums), cmocka_unit_test(test_same_is_zero),
	        cmocka_unit_test(test_key),       cmocka_unit_test(test_key6),
	        cmocka_unit_test(test_exit),      cmocka_unit_test(test_reasons),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
