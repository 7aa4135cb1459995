/* SPDX-License-Identifier: MIT */
#include "frame_model.h"

#include <arpa/inet.h>
#include <string.h>

static unsigned be16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

static bool is_tag(unsigned type)
{
	return type == 0x8100 || type == 0x88a8;
}

/* Position of the EtherType behind at most `most` tags. */
static size_t type_at(const struct frame_in *f, int most)
{
	size_t at = 12;

	for (int i = 0; i < most && at + 6 <= f->len && is_tag(be16(f->bytes + at)); i++)
		at += 4;
	return at;
}

struct parts {
	size_t l3, l4, end; /* l4 0: none */
	unsigned proto;
	bool ip;
};

/* False: not told apart in the kernel. */
static bool split(const struct frame_in *f, struct parts *p)
{
	size_t at = type_at(f, 2);
	unsigned type = be16(f->bytes + at);
	const uint8_t *h = f->bytes + at + 2;
	size_t have = f->len - at - 2;
	bool fragment = false;

	memset(p, 0, sizeof(*p));
	p->l3 = at + 2;
	if (is_tag(type) || f->len > 65535 + 14)
		return false;
	if (type == 0x0800) {
		if (have < 20 || h[0] != 0x45 || be16(h + 2) < 20 || be16(h + 2) > have)
			return false;
		p->end = p->l3 + be16(h + 2);
		p->proto = h[9];
		p->l4 = p->l3 + 20;
		fragment = (be16(h + 6) & 0x3fff) != 0;
	} else if (type == 0x86dd) {
		if (have < 40 || h[0] >> 4 != 6 || be16(h + 4) + 40 > have)
			return false;
		p->end = p->l3 + 40 + be16(h + 4);
		p->proto = h[6];
		p->l4 = p->l3 + 40;
		if (p->proto == 0 || p->proto == 43 || p->proto == 44 || p->proto == 60)
			return false;
	} else {
		return true;
	}
	p->ip = true;
	if (fragment || (p->proto != 6 && p->proto != 17) ||
	    p->l4 + (p->proto == 6 ? 20 : 8) > p->end)
		p->l4 = 0;
	return true;
}

bool frame_model_key(const struct frame_in *f, struct l7mp_frame_key *key)
{
	struct parts p;
	int n = 0;

	memset(key, 0, sizeof(*key));
	if (!split(f, &p))
		return false;
	key->ifindex = f->ifindex;
	key->type = (uint16_t)be16(f->bytes + p.l3 - 2);
	key->vlan[0] = key->vlan[1] = L7MP_NO_VLAN;
	for (size_t at = 14; at < p.l3; at += 4)
		key->vlan[n++] = (uint16_t)(be16(f->bytes + at) & 0xfff);
	if (!p.ip) {
		key->family = L7MP_FAMILY_MAC;
		memcpy(key->daddr.bytes, f->bytes, 6);
		memcpy(key->saddr.bytes, f->bytes + 6, 6);
		return true;
	}
	key->l4 = (uint8_t)p.proto;
	if (key->type == 0x0800) {
		key->family = 4;
		memcpy(key->saddr.bytes, f->bytes + p.l3 + 12, 4);
		memcpy(key->daddr.bytes, f->bytes + p.l3 + 16, 4);
	} else {
		key->family = 6;
		memcpy(key->saddr.bytes, f->bytes + p.l3 + 8, 16);
		memcpy(key->daddr.bytes, f->bytes + p.l3 + 24, 16);
	}
	if (p.l4) {
		memcpy(&key->sport, f->bytes + p.l4, 2);
		memcpy(&key->dport, f->bytes + p.l4 + 2, 2);
	}
	return true;
}

/*
 * Of the tags the first two count, of the rest the EtherType behind them. A tag may be cut off
 * behind its TPID.
 */
bool frame_model_is_of(const struct frame_in *f, uint16_t type)
{
	size_t at = 12;

	if (!type)
		return true;
	for (int i = 0; i <= 2 && at + 2 <= f->len; i++, at += 4) {
		unsigned got = be16(f->bytes + at);

		if (!is_tag(got))
			return got == type;
		if (i < 2 && got == type)
			return true;
	}
	return false;
}

/* Bytes in front of the payload of its segments; 0: there is no telling. */
static size_t headers(const struct frame_in *f, size_t *end)
{
	struct parts p;
	size_t n;

	if (!split(f, &p) || !p.l4)
		return 0;
	*end = p.end;
	n = p.proto == 17 ? 8 : (size_t)(f->bytes[p.l4 + 12] >> 4) * 4;
	return n < 8 || (p.proto == 6 && n < 20) || p.l4 + n >= p.end ? 0 : p.l4 + n;
}

bool frame_model_fits(const struct frame_in *f, uint32_t mtu)
{
	size_t room = mtu + 14 + (is_tag(be16(f->bytes + 12)) ? 4 : 0), end, head;

	if (!f->segment)
		return f->len <= room;
	head = headers(f, &end);
	return head && head + f->segment <= room;
}

void frame_model_count(const struct frame_in *f, uint64_t *frames, uint64_t *bytes)
{
	size_t end = 0, head = f->segment ? headers(f, &end) : 0;

	*frames = 1;
	*bytes = f->len;
	if (!head)
		return;
	*bytes = 0;
	*frames = 0;
	for (size_t at = head; at < end; at += f->segment) {
		*bytes += head + (end - at < f->segment ? end - at : f->segment);
		(*frames)++;
	}
}
