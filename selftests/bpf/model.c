/* SPDX-License-Identifier: MIT */
#include "model.h"

#include <string.h>

static unsigned be16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

/* RFC 1071: does the sum of all words, the checksum among them, come out as all ones? */
static bool sums_up(const uint8_t *data, size_t n, uint64_t sum)
{
	for (size_t i = 0; i + 1 < n; i += 2)
		sum += be16(data + i);
	if (n & 1)
		sum += (unsigned)data[n - 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

static uint64_t pseudo_header(const struct model *m, size_t udp_len)
{
	uint64_t sum = udp_len + 17;

	for (size_t i = 0; i < (m->family == 4 ? 4 : 16); i += 2)
		sum += be16(m->saddr + i) + be16(m->daddr + i);
	return sum;
}

/* As udp_rcv() does it: a longer IP packet is trimmed, a shorter one dropped. */
static enum model_fate udp(const uint8_t *p, size_t have, struct model *m)
{
	size_t len;

	if (have < 8)
		return MODEL_DROP;
	len = be16(p + 4);
	m->sport = (uint16_t)be16(p);
	m->dport = (uint16_t)be16(p + 2);
	m->payload = have - 8;
	m->summed = be16(p + 6) != 0;
	if (len != have)
		m->plain = false;
	if (len == 0 && m->family == 6)
		len = have; /* taken for a jumbogram */
	if (len < 8 || len > have)
		return MODEL_DROP;
	m->payload = len - 8;
	if (be16(p + 6) == 0) {
		if (m->family == 4)
			return MODEL_DELIVER;
		m->plain = false;
		return MODEL_DROP;
	}
	return sums_up(p, len, pseudo_header(m, len)) ? MODEL_DELIVER : MODEL_DROP;
}

static enum model_fate v4(const uint8_t *p, size_t have, struct model *m)
{
	size_t header, total;
	enum model_fate fate;

	m->family = 4;
	if (have < 20 || p[0] >> 4 != 4)
		return MODEL_DROP;
	header = (size_t)(p[0] & 15) * 4;
	total = be16(p + 2);
	m->ip_len = total;
	m->ttl = p[8];
	memcpy(m->saddr, p + 12, 4);
	memcpy(m->daddr, p + 16, 4);
	if (header < 20 || header > have || total < header || total > have)
		return MODEL_DROP;
	if (header > 20)
		m->plain = false;
	if (p[9] != 17)
		return sums_up(p, header, 0) ? MODEL_OTHER : MODEL_DROP;
	if (be16(p + 6) & 0x3fff)
		return sums_up(p, header, 0) ? MODEL_PIECE : MODEL_DROP;
	m->payload_at = m->l3 + header + 8;
	fate = udp(p + header, total - header, m);
	return sums_up(p, header, 0) ? fate : MODEL_DROP;
}

static enum model_fate v6(const uint8_t *p, size_t have, struct model *m)
{
	size_t at = 40, end;
	unsigned next;

	m->family = 6;
	if (have < 40 || p[0] >> 4 != 6)
		return MODEL_DROP;
	end = 40 + be16(p + 4);
	next = p[6];
	m->ip_len = end;
	m->ttl = p[7];
	memcpy(m->saddr, p + 8, 16);
	memcpy(m->daddr, p + 24, 16);
	if (end > have)
		return MODEL_DROP;
	while (next == 0 || next == 60) { /* hop-by-hop and destination options */
		m->plain = false;
		if (at + 8 > end || at + 8 * ((size_t)p[at + 1] + 1) > end)
			return MODEL_DROP;
		next = p[at];
		at += 8 * ((size_t)p[at + 1] + 1);
	}
	if (next == 44)
		return MODEL_PIECE;
	if (next != 17)
		return MODEL_OTHER;
	m->payload_at = m->l3 + at + 8;
	return udp(p + at, end - at, m);
}

void model_receive(const uint8_t *frame, size_t len, struct model *m)
{
	size_t at = 12;
	unsigned type;

	memset(m, 0, sizeof(*m));
	m->plain = true;
	m->fate = MODEL_OTHER;
	if (len < 14 || frame[0] & 1)
		return;
	type = be16(frame + at);
	while (type == 0x8100 || type == 0x88a8) {
		if (m->n_vlans == 2 || at + 6 > len) {
			m->n_vlans++;
			return;
		}
		m->vlan_proto[m->n_vlans] = (uint16_t)type;
		m->vlan_tci[m->n_vlans++] = (uint16_t)be16(frame + at + 2);
		at += 4;
		type = be16(frame + at);
	}
	m->l3 = at + 2;
	if (type == 0x0800)
		m->fate = v4(frame + m->l3, len - m->l3, m);
	else if (type == 0x86dd)
		m->fate = v6(frame + m->l3, len - m->l3, m);
}

const char *model_fate_name(enum model_fate f)
{
	static const char *const names[] = {"delivered", "dropped", "a fragment",
	                                    "not UDP over IP"};

	return names[f];
}
