/* SPDX-License-Identifier: MIT */
/*
 * headers/parse.h, compiled for user space. The first byte says how much of the
 * frame is in fragments. What it accepts, the model of the slow path must call plain, with
 * the same addresses and sizes.
 */
#include "fuzz.h"

#include "../bpf/model.h"
#include "parse.h"

static void compare_key(const struct model *m, int family, const struct l7mp_packet *p)
{
	const struct l7mp_flow4_key *k4 = &p->key4;
	const struct l7mp_flow_key *k6 = &p->key6;

	if (family == L7MP_FAMILY_V4) {
		FUZZ_CHECK(k4->l4 == 17 && !k4->pad[0] && !k4->pad[1] && !k4->pad[2]);
		FUZZ_CHECK(!memcmp(k4->saddr, m->saddr, 4) && !memcmp(k4->daddr, m->daddr, 4));
		FUZZ_CHECK(ntohs(k4->sport) == m->sport && ntohs(k4->dport) == m->dport);
	} else {
		FUZZ_CHECK(k6->l4 == 17 && k6->family == family && !k6->pad[0] && !k6->pad[1]);
		FUZZ_CHECK(!memcmp(k6->saddr.bytes, m->saddr, 16) &&
		           !memcmp(k6->daddr.bytes, m->daddr, 16));
		FUZZ_CHECK(ntohs(k6->sport) == m->sport && ntohs(k6->dport) == m->dport);
	}
}

static void compare(const uint8_t *frame, size_t len, int kind, const struct l7mp_packet *p)
{
	struct model m;

	model_receive(frame, len, &m);
	FUZZ_CHECK(m.fate == MODEL_DELIVER || m.fate == MODEL_DROP);
	FUZZ_CHECK(m.plain && m.ttl > 1);
	FUZZ_CHECK(L7MP_KIND_FAMILY(kind) == m.family && L7MP_KIND_VLANS(kind) == m.n_vlans);
	compare_key(&m, m.family, p);
	FUZZ_CHECK(L7MP_KIND_L3(kind) == m.l3 && p->ip_len == m.ip_len &&
	           p->payload_len == m.payload);
	FUZZ_CHECK(m.l3 + p->ip_len - p->payload_len == m.payload_at);
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
