/* SPDX-License-Identifier: MIT */
/* Ethernet frames: parsing, checksums, and splitting of merged ones. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if_arp.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"
#include "l7mp/util.h"

#ifndef ETHERTYPE_QINQ
#define ETHERTYPE_QINQ 0x88a8
#endif
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif
#define NO_VLAN  0xffff
#define MAX_EXTS 8 /* IPv6 extension headers that are skipped */

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, (uint16_t)(v >> 16));
	put16(p + 2, (uint16_t)v);
}

/* ---- parsing ---- */

static void key_macs(struct pkt_info *i)
{
	memcpy(i->key.src, i->src_mac, 6);
	memcpy(i->key.dst, i->dst_mac, 6);
}

static void ports(const uint8_t *f, struct pkt_info *i, size_t l4)
{
	size_t least = i->key.proto == IPPROTO_TCP ? 20 : 8;

	if ((i->key.proto != IPPROTO_TCP && i->key.proto != IPPROTO_UDP) || l4 + least > i->end)
		return;
	i->l4 = (uint16_t)l4;
	memcpy(&i->key.sport, f + l4, 2);
	memcpy(&i->key.dport, f + l4 + 2, 2);
}

static bool parse_ip4(const uint8_t *f, size_t len, struct pkt_info *i)
{
	const uint8_t *h = f + i->l3;
	size_t hlen, total;

	if (len < i->l3 + 20u || h[0] >> 4 != 4)
		return false;
	hlen = (h[0] & 15) * 4u;
	total = get16(h + 2);
	if (hlen < 20 || total < hlen || i->l3 + total > len)
		return false;
	i->end = (uint16_t)(i->l3 + total);
	i->key.family = AF_INET;
	i->key.proto = h[9];
	memcpy(i->key.src, h + 12, 4);
	memcpy(i->key.dst, h + 16, 4);
	/* Fragments are keyed without ports, even the first, so that all belong to one session. */
	if (!(get16(h + 6) & 0x3fff))
		ports(f, i, i->l3 + hlen);
	return true;
}

static bool parse_ip6(const uint8_t *f, size_t len, struct pkt_info *i)
{
	const uint8_t *h = f + i->l3;
	size_t at = i->l3 + 40u;
	bool fragment = false;

	if (len < at || h[0] >> 4 != 6 || at + get16(h + 4) > len)
		return false;
	i->end = (uint16_t)(at + get16(h + 4));
	i->key.family = AF_INET6;
	i->key.proto = h[6];
	memcpy(i->key.src, h + 8, 16);
	memcpy(i->key.dst, h + 24, 16);
	for (int n = 0; n < MAX_EXTS && at + 8 <= i->end; n++) {
		uint8_t next = i->key.proto;

		if (next == IPPROTO_FRAGMENT)
			fragment = get16(f + at + 2) & 0xfff9;
		else if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING &&
		         next != IPPROTO_DSTOPTS)
			break;
		i->key.proto = f[at];
		at += next == IPPROTO_FRAGMENT ? 8 : (f[at + 1] + 1u) * 8;
		if (fragment)
			break;
	}
	if (!fragment)
		ports(f, i, at);
	return true;
}

bool pkt_parse(const uint8_t *f, size_t len, struct pkt_info *i)
{
	size_t at = 12, tags = 0;
	bool ip = false;

	memset(i, 0, sizeof(*i));
	i->key.vlan[0] = i->key.vlan[1] = NO_VLAN;
	if (len < PKT_MIN)
		return false;
	memcpy(i->dst_mac, f, 6);
	memcpy(i->src_mac, f + 6, 6);
	i->key.type = get16(f + at);
	while ((i->key.type == ETHERTYPE_VLAN || i->key.type == ETHERTYPE_QINQ) && tags < 2 &&
	       at + 6 <= len) {
		i->key.vlan[tags++] = get16(f + at + 2) & 0xfff;
		at += 4;
		i->key.type = get16(f + at);
	}
	i->l3 = (uint16_t)(at + 2);
	if (len > UINT16_MAX + 0u + PKT_MIN)
		ip = false;
	else if (i->key.type == ETHERTYPE_IP)
		ip = parse_ip4(f, len, i);
	else if (i->key.type == ETHERTYPE_IPV6)
		ip = parse_ip6(f, len, i);
	if (!ip)
		key_macs(i);
	return true;
}

/* ---- keys as addresses, names and metadata ---- */

static void key_addr(const struct pkt_key *k, const uint8_t a[16], uint16_t port, uint32_t ifindex,
                     struct l7mp_addr *out)
{
	memset(out, 0, sizeof(*out));
	if (k->family == AF_INET) {
		out->in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port};
		memcpy(&out->in.sin_addr, a, 4);
		out->len = sizeof(out->in);
	} else if (k->family == AF_INET6) {
		out->in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = port};
		memcpy(&out->in6.sin6_addr, a, 16);
		if (IN6_IS_ADDR_LINKLOCAL(&out->in6.sin6_addr))
			out->in6.sin6_scope_id = ifindex;
		out->len = sizeof(out->in6);
	} else {
		out->ll = (struct sockaddr_ll){.sll_family = AF_PACKET,
		                               .sll_protocol = htons(k->type),
		                               .sll_ifindex = (int)ifindex,
		                               .sll_hatype = ARPHRD_ETHER,
		                               .sll_halen = 6};
		memcpy(out->ll.sll_addr, a, 6);
		out->len = sizeof(out->ll);
	}
}

void pkt_key_addrs(const struct pkt_key *k, uint32_t ifindex, struct l7mp_addr *src,
                   struct l7mp_addr *dst)
{
	key_addr(k, k->src, k->sport, ifindex, src);
	key_addr(k, k->dst, k->dport, ifindex, dst);
}

static const char *l4_name(const struct pkt_key *k)
{
	if (!k->sport && !k->dport)
		return NULL;
	return k->proto == IPPROTO_TCP ? "TCP" : k->proto == IPPROTO_UDP ? "UDP" : NULL;
}

char *pkt_key_name(const struct pkt_key *k)
{
	char s[L7MP_ADDR_STRLEN], d[L7MP_ADDR_STRLEN];
	struct l7mp_addr src, dst;

	pkt_key_addrs(k, 0, &src, &dst);
	if (!k->family)
		return l7mp_asprintf("%s-%s-0x%04x", l7mp_addr_ip(&src, s), l7mp_addr_ip(&dst, d),
		                     k->type);
	if (l4_name(k))
		return l7mp_asprintf("%s:%s-%s", l4_name(k), l7mp_addr_str(&src, s),
		                     l7mp_addr_str(&dst, d));
	return l7mp_asprintf("IP%u:%s-%s", k->proto, l7mp_addr_ip(&src, s), l7mp_addr_ip(&dst, d));
}

static char *mac_text(const uint8_t mac[6], char buf[static 18])
{
	static const char hex[] = "0123456789abcdef";

	for (int i = 0; i < 6; i++) {
		buf[i * 3] = hex[mac[i] >> 4];
		buf[i * 3 + 1] = hex[mac[i] & 15];
		buf[i * 3 + 2] = i < 5 ? ':' : '\0';
	}
	return buf;
}

static int add_ip(cJSON *root, const struct pkt_key *k)
{
	struct l7mp_addr src, dst;
	char text[L7MP_ADDR_STRLEN];
	cJSON *ip = cJSON_CreateObject(), *l4;
	int rc = 0;

	pkt_key_addrs(k, 0, &src, &dst);
	rc |= l7mp_json_add_str(ip, "src_addr", l7mp_addr_ip(&src, text));
	rc |= l7mp_json_add_str(ip, "dst_addr", l7mp_addr_ip(&dst, text));
	rc |= l7mp_json_add_num(ip, "protocol", k->proto);
	rc |= l7mp_json_add(root, "IP", ip);
	if (!l4_name(k))
		return rc;
	l4 = cJSON_CreateObject();
	rc |= l7mp_json_add_num(l4, "src_port", ntohs(k->sport));
	rc |= l7mp_json_add_num(l4, "dst_port", ntohs(k->dport));
	return rc | l7mp_json_add(root, l4_name(k), l4);
}

cJSON *pkt_metadata(const char *interface, const struct pkt_info *i)
{
	cJSON *root = cJSON_CreateObject(), *e = cJSON_CreateObject();
	char text[18];
	int rc = l7mp_json_add_str(e, "interface", interface);

	rc |= l7mp_json_add_str(e, "src", mac_text(i->src_mac, text));
	if (i->l3) {
		rc |= l7mp_json_add_str(e, "dst", mac_text(i->dst_mac, text));
		rc |= l7mp_json_add_num(e, "type", i->key.type);
		if (i->key.vlan[0] != NO_VLAN)
			rc |= l7mp_json_add_num(e, "vlan", i->key.vlan[0]);
		if (i->key.vlan[1] != NO_VLAN)
			rc |= l7mp_json_add_num(e, "inner_vlan", i->key.vlan[1]);
	}
	rc |= l7mp_json_add(root, "Ethernet", e);
	if (i->key.family)
		rc |= add_ip(root, &i->key);
	if (!rc)
		return root;
	cJSON_Delete(root);
	return NULL;
}

bool pkt_mac_parse(const char *text, uint8_t out[static 6])
{
	return text && sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &out[0], &out[1],
	                      &out[2], &out[3], &out[4], &out[5]) == 6;
}

/* Returns a number of at most `max`; `fallback` if absent. -1: invalid. */
static int number(const cJSON *object, const char *key, int fallback, int max)
{
	double v = l7mp_json_num(object, key, fallback);

	return v >= 0 && v <= max && v == (int)v ? (int)v : -1;
}

static bool ip_of_metadata(const cJSON *metadata, const cJSON *ip, struct pkt_key *out)
{
	const cJSON *l4 = l7mp_json_member(metadata, "UDP");
	const char *src = l7mp_json_str(ip, "src_addr", ""),
	           *dst = l7mp_json_str(ip, "dst_addr", "");
	int proto = number(ip, "protocol", -1, 255), sport, dport;

	l4 = l4 ? l4 : l7mp_json_member(metadata, "TCP");
	sport = number(l4, "src_port", 0, 65535);
	dport = number(l4, "dst_port", 0, 65535);
	if (proto < 0 || sport < 0 || dport < 0)
		return false;
	out->family = strchr(src, ':') ? AF_INET6 : AF_INET;
	out->proto = (uint8_t)proto;
	out->sport = htons((uint16_t)sport);
	out->dport = htons((uint16_t)dport);
	return inet_pton(out->family, src, out->src) == 1 &&
	       inet_pton(out->family, dst, out->dst) == 1;
}

bool pkt_key_of_metadata(const cJSON *metadata, struct pkt_key *out)
{
	const cJSON *e = l7mp_json_member(metadata, "Ethernet");
	const cJSON *ip = l7mp_json_member(metadata, "IP");
	int type = number(e, "type", -1, 65535), vlan = number(e, "vlan", NO_VLAN, NO_VLAN);
	int inner = number(e, "inner_vlan", NO_VLAN, NO_VLAN);

	memset(out, 0, sizeof(*out));
	if (type < 0 || vlan < 0 || inner < 0)
		return false;
	out->type = (uint16_t)type;
	out->vlan[0] = (uint16_t)vlan;
	out->vlan[1] = (uint16_t)inner;
	if (ip)
		return ip_of_metadata(metadata, ip, out);
	return pkt_mac_parse(l7mp_json_str(e, "src", NULL), out->src) &&
	       pkt_mac_parse(l7mp_json_str(e, "dst", NULL), out->dst);
}

void pkt_key_reverse(struct pkt_key *k)
{
	const struct pkt_key was = *k;

	memcpy(k->src, was.dst, sizeof(k->src));
	memcpy(k->dst, was.src, sizeof(k->dst));
	k->sport = was.dport;
	k->dport = was.sport;
}

/* ---- checksums (RFC 1071) ---- */

static uint32_t sum16(const uint8_t *p, size_t len, uint32_t sum)
{
	uint64_t wide = sum;

	for (; len > 1; p += 2, len -= 2)
		wide += get16(p);
	if (len)
		wide += (uint32_t)*p << 8;
	while (wide >> 32)
		wide = (wide & 0xffffffff) + (wide >> 32);
	return (uint32_t)wide;
}

static uint16_t fold(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* Checksum offload (CHECKSUM_PARTIAL): the field holds the sum of the pseudo header. */
static int complete(uint8_t *f, size_t len, const struct virtio_net_hdr *h)
{
	size_t start = h->csum_start, at = start + h->csum_offset;
	uint16_t sum;

	if (start >= len || at + 2 > len)
		return -EBADMSG;
	sum = fold(sum16(f + start, len - start, 0));
	put16(f + at, sum ? sum : 0xffff);
	return 0;
}

/* ---- merged frames ---- */

static void transport_checksum(uint8_t *f, const struct pkt_info *i, size_t len, size_t field)
{
	size_t addrs = i->key.family == AF_INET ? 12 : 8, n = i->key.family == AF_INET ? 8 : 32;
	uint32_t sum = i->key.proto + (uint32_t)(len - i->l4);
	uint16_t out;

	put16(f + i->l4 + field, 0);
	sum = sum16(f + i->l3 + addrs, n, sum);
	out = fold(sum16(f + i->l4, len - i->l4, sum));
	put16(f + i->l4 + field, out ? out : 0xffff);
}

static void fix_ip(uint8_t *f, const struct pkt_info *i, size_t len, unsigned n)
{
	uint8_t *h = f + i->l3;

	if (i->key.family == AF_INET6) {
		put16(h + 4, (uint16_t)(len - i->l3 - 40));
		return;
	}
	put16(h + 2, (uint16_t)(len - i->l3));
	put16(h + 4, (uint16_t)(get16(h + 4) + n));
	put16(h + 10, 0);
	put16(h + 10, fold(sum16(h, (h[0] & 15) * 4u, 0)));
}

/*
 * Fixes the headers of segment n of a merged frame; `f` holds their copy, and the payload from
 * `off` on.
 */
static void fix_segment(uint8_t *f, const struct pkt_info *i, size_t len, unsigned n, size_t off,
                        bool last)
{
	uint8_t *h = f + i->l4;

	fix_ip(f, i, len, n);
	if (i->key.proto == IPPROTO_UDP) {
		put16(h + 4, (uint16_t)(len - i->l4));
		transport_checksum(f, i, len, 6);
		return;
	}
	put32(h + 4, get32(h + 4) + (uint32_t)off);
	if (!last)
		h[13] &= (uint8_t) ~(TH_FIN | TH_PUSH);
	if (n)
		h[13] &= (uint8_t)~0x80; /* only the first segment has CWR (RFC 3168) */
	transport_checksum(f, i, len, 16);
}

static int split(struct l7mp_loop *loop, const struct l7mp_buf *whole,
                 const struct virtio_net_hdr *h, void (*emit)(void *arg, struct l7mp_buf *buf),
                 void *arg)
{
	unsigned type = h->gso_type & ~(unsigned)VIRTIO_NET_HDR_GSO_ECN, n = 0;
	size_t head, least = 8, size = h->gso_size;
	struct pkt_info i;

	if (!size || !pkt_parse(whole->data, whole->len, &i) || !i.l4)
		return -EMSGSIZE;
	if ((type == VIRTIO_NET_HDR_GSO_TCPV4 || type == VIRTIO_NET_HDR_GSO_TCPV6) &&
	    i.key.proto == IPPROTO_TCP) {
		head = i.l4 + (whole->data[i.l4 + 12] >> 4) * 4u;
		least = 20;
	} else if (type == VIRTIO_NET_HDR_GSO_UDP_L4 && i.key.proto == IPPROTO_UDP) {
		head = i.l4 + 8u;
	} else {
		return -EMSGSIZE;
	}
	/*
	 * With a data offset smaller than the TCP header, header fields would be written beyond the
	 * segment.
	 */
	if (head < i.l4 + least || head >= i.end)
		return -EBADMSG;
	for (size_t off = 0; off < i.end - head; off += size, n++) {
		size_t left = i.end - head - off, take = left < size ? left : size;
		struct l7mp_buf *buf = l7mp_buf_new(l7mp_loop_bufs(loop), head + take);

		if (!buf)
			return -ENOMEM;
		memcpy(buf->data, whole->data, head);
		memcpy(buf->data + head, whole->data + head + off, take);
		buf->len = (uint32_t)(head + take);
		fix_segment(buf->data, &i, buf->len, n, off, take == left);
		emit(arg, buf);
	}
	return 0;
}

int pkt_unpack(struct l7mp_loop *loop, struct l7mp_buf *buf,
               void (*emit)(void *arg, struct l7mp_buf *buf), void *arg)
{
	struct virtio_net_hdr h;
	int rc = 0;

	if (buf->len < sizeof(h) + PKT_MIN) {
		l7mp_buf_unref(buf);
		return -EBADMSG;
	}
	memcpy(&h, buf->data, sizeof(h));
	buf->data += sizeof(h);
	buf->len -= (uint32_t)sizeof(h);
	if (h.gso_type != VIRTIO_NET_HDR_GSO_NONE) {
		rc = split(loop, buf, &h, emit, arg);
		l7mp_buf_unref(buf);
		return rc;
	}
	if (h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		buf = l7mp_buf_own(buf, 0, buf->len);
		rc = buf ? complete(buf->data, buf->len, &h) : -ENOMEM;
	}
	if (rc)
		l7mp_buf_unref(buf);
	else
		emit(arg, buf);
	return rc;
}
