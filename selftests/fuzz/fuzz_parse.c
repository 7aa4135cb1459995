/* SPDX-License-Identifier: MIT */
/*
 * headers/parse.h, compiled for user space. The first byte says how much of the
 * frame is in fragments. What it accepts, the model of the slow path must call plain, with
 * the same addresses and sizes.
 */
#include "fuzz.h"

#include "../bpf/model.h"
#include "parse.h"

static void compare(const uint8_t *frame, size_t len, int kind, const struct l7mp_packet *p)
{
	size_t n = p->key.family == L7MP_FAMILY_V4 ? 4 : 16;
	struct model m;

	model_receive(frame, len, &m);
	FUZZ_CHECK(m.fate == MODEL_DELIVER || m.fate == MODEL_DROP);
	FUZZ_CHECK(m.plain && m.ttl > 1);
	FUZZ_CHECK((int)p->key.family == m.family && L7MP_KIND_VLANS(kind) == m.n_vlans);
	FUZZ_CHECK(p->key.l4 == 17 && !p->key.pad[0] && !p->key.pad[1]);
	FUZZ_CHECK(L7MP_KIND_L3(kind) == m.l3 && p->ip_len == m.ip_len &&
	           p->payload_len == m.payload);
	FUZZ_CHECK(m.l3 + p->ip_len - p->payload_len == m.payload_at);
	FUZZ_CHECK(!memcmp(p->key.saddr.bytes, m.saddr, 16) &&
	           !memcmp(p->key.daddr.bytes, m.daddr, 16));
	FUZZ_CHECK(ntohs(p->key.sport) == m.sport && ntohs(p->key.dport) == m.dport);
	FUZZ_CHECK(n == 16 || !memcmp(p->key.saddr.bytes + 4, "\0\0\0\0\0\0\0\0\0\0\0", 12));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct l7mp_packet p;
	size_t linear;
	uint8_t *frame;
	int verdict, kind;

	if (size < 1)
		return 0;
	linear = size - 1 < data[0] || data[0] == 0 ? size - 1 : data[0];
	frame = (uint8_t *)fuzz_text(data + 1, linear); /* less than the whole */
	frame = realloc(frame, linear ? linear : 1);
	memset(&p, 0xaa, sizeof(p));
	kind = l7mp_frame_kind(frame, frame + linear);
	verdict = kind < 0 ? -kind
	                   : l7mp_parse_ip(frame, frame + linear, L7MP_KIND_L3(kind),
	                                   L7MP_KIND_FAMILY(kind), (uint32_t)size - 1, &p);
	FUZZ_CHECK(verdict == 0 ||
	           (verdict > L7MP_VERDICT_COUNTED && verdict < L7MP_VERDICT_COUNT));
	if (!verdict)
		compare(data + 1, size - 1, kind, &p);
	/* As tc sees a packet without a link header. */
	verdict = l7mp_parse_ip(frame, frame + linear, 0, L7MP_FAMILY_V4, (uint32_t)size - 1, &p);
	FUZZ_CHECK(verdict || p.ip_len <= size - 1);
	verdict = l7mp_parse_ip(frame, frame + linear, 0, L7MP_FAMILY_V6, (uint32_t)size - 1, &p);
	FUZZ_CHECK(verdict || p.ip_len <= size - 1);
	free(frame);
	return 0;
}
