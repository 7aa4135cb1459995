/* SPDX-License-Identifier: MIT */
/*
 * headers/parse.h, compiled for user space. The first byte says how much of the
 * frame is in fragments. What it accepts, the model of the slow path must call plain, with
 * the same addresses and sizes.
 */
#include "fuzz.h"

#include "../bpf/model.h"
#include "parse.h"

#include "flow.h"

static void compare(const uint8_t *frame, size_t len, const struct l7mp_packet *p)
{
	size_t n = p->key.family == L7MP_FAMILY_V4 ? 4 : 16;
	struct model m;

	model_receive(frame, len, &m);
	FUZZ_CHECK(m.fate == MODEL_DELIVER || m.fate == MODEL_DROP);
	FUZZ_CHECK(m.plain && m.ttl > 1);
	FUZZ_CHECK((int)p->key.family == m.family && (int)p->n_vlans == m.n_vlans);
	FUZZ_CHECK(p->key.l4 == 17 && !p->key.pad[0] && !p->key.pad[1]);
	FUZZ_CHECK(p->l3 == m.l3 && p->ip_len == m.ip_len && p->payload_len == m.payload);
	FUZZ_CHECK(p->l4 + 8 == m.payload_at);
	FUZZ_CHECK(!memcmp(p->key.saddr.bytes, m.saddr, 16) &&
	           !memcmp(p->key.daddr.bytes, m.daddr, 16));
	FUZZ_CHECK(ntohs(p->key.sport) == m.sport && ntohs(p->key.dport) == m.dport);
	FUZZ_CHECK(n == 16 || !memcmp(p->key.saddr.bytes + 4, "\0\0\0\0\0\0\0\0\0\0\0", 12));
	(void)l7mp_match_tag(&p->key);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct l7mp_packet p;
	size_t linear;
	uint8_t *frame;
	int verdict;

	if (size < 1)
		return 0;
	linear = size - 1 < data[0] || data[0] == 0 ? size - 1 : data[0];
	frame = (uint8_t *)fuzz_text(data + 1, linear); /* less than the whole */
	frame = realloc(frame, linear ? linear : 1);
	memset(&p, 0xaa, sizeof(p));
	verdict = l7mp_parse_frame(frame, frame + linear, (uint32_t)size - 1, &p);
	FUZZ_CHECK(verdict == 0 ||
	           (verdict > L7MP_VERDICT_COUNTED && verdict < L7MP_VERDICT_COUNT));
	if (!verdict)
		compare(data + 1, size - 1, &p);
	/* As tc sees a packet without a link header. */
	p.l3 = 0;
	verdict = l7mp_parse_ip(frame, frame + linear, (uint32_t)size - 1, htons(ETH_P_IP), &p);
	FUZZ_CHECK(verdict || p.ip_len <= size - 1);
	p.l3 = 0;
	verdict = l7mp_parse_ip(frame, frame + linear, (uint32_t)size - 1, htons(ETH_P_IPV6), &p);
	FUZZ_CHECK(verdict || p.ip_len <= size - 1);
	free(frame);
	return 0;
}
