/* SPDX-License-Identifier: MIT */
#include "packet.h"

#include <netinet/in.h>
#include <string.h>

static void put16(uint8_t *at, unsigned v)
{
	at[0] = (uint8_t)(v >> 8);
	at[1] = (uint8_t)v;
}

uint16_t packet_sum(const uint8_t *data, size_t n, uint32_t start)
{
	uint64_t sum = start;

	for (size_t i = 0; i < n; i++)
		sum += i % 2 ? data[i] : (uint64_t)data[i] << 8;
	while (sum > 0xffff)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

size_t packet_l3(const struct packet *p)
{
	return 14 + 4 * (size_t)p->n_vlans;
}

static size_t header_len(const struct packet *p)
{
	return p->family == 4 ? 20 + (size_t)p->options : 40 + (p->ext >= 0 ? 8 : 0);
}

static size_t l4_header_len(const struct packet *p)
{
	return p->tcp ? 20 + p->tcp->options_len : 8;
}

size_t packet_ip_len(const struct packet *p)
{
	return header_len(p) + l4_header_len(p) + p->payload;
}

static void put_link(const struct packet *p, uint8_t *out)
{
	unsigned type = p->ether_type ? p->ether_type : (p->family == 4 ? 0x0800 : 0x86dd);
	uint8_t *at = out + 12;

	memcpy(out, p->dmac, 6);
	memcpy(out + 6, p->smac, 6);
	for (int i = 0; i < p->n_vlans; i++, at += 4) {
		put16(at, p->vlan_proto[i]);
		put16(at + 2, p->vlan_tci[i]);
	}
	put16(at, type);
}

static void put_v4(const struct packet *p, uint8_t *ip)
{
	size_t len = header_len(p);

	memset(ip, 1, len); /* options: NOP */
	ip[0] = (uint8_t)((p->version ? p->version : 4) << 4 | (p->ihl ? p->ihl : (int)len / 4));
	ip[1] = p->tos;
	put16(ip + 2, (unsigned)((int)packet_ip_len(p) + p->ip_len_add));
	put16(ip + 4, p->id);
	put16(ip + 6, p->frag);
	ip[8] = p->ttl;
	ip[9] = p->protocol;
	put16(ip + 10, 0);
	memcpy(ip + 12, p->saddr, 4);
	memcpy(ip + 16, p->daddr, 4);
	put16(ip + 10, (uint16_t)~packet_sum(ip, len, p->ip_err));
}

static void put_v6(const struct packet *p, uint8_t *ip)
{
	ip[0] = (uint8_t)((p->version ? p->version : 6) << 4 | p->tos >> 4);
	ip[1] = (uint8_t)((p->tos & 15) << 4 | (p->flow_label >> 16 & 15));
	put16(ip + 2, p->flow_label & 0xffff);
	put16(ip + 4, (unsigned)((int)packet_ip_len(p) - 40 + p->ip_len_add));
	ip[6] = p->ext >= 0 ? (uint8_t)p->ext : p->protocol;
	ip[7] = p->ttl;
	memcpy(ip + 8, p->saddr, 16);
	memcpy(ip + 24, p->daddr, 16);
	if (p->ext >= 0) {
		memset(ip + 40, 0, 8);
		ip[40] = p->protocol;
		if (p->ext == IPPROTO_HOPOPTS || p->ext == IPPROTO_DSTOPTS)
			put16(ip + 42, 0x0104); /* PadN */
	}
}

static void put_udp_csum(const struct packet *p, uint8_t *udp)
{
	size_t n = p->family == 4 ? 4 : 16, len = 8 + p->payload;
	uint32_t pseudo = (uint32_t)packet_sum(p->saddr, n, 0) + packet_sum(p->daddr, n, 0) +
	                  p->protocol + (uint32_t)((int)len + p->udp_len_add);
	uint16_t sum;

	put16(udp + 6, 0);
	if (p->no_csum)
		return;
	sum = (uint16_t)~packet_sum(udp, len, pseudo + p->csum_err);
	put16(udp + 6, sum ? sum : 0xffff);
}

static void put_payload(const struct packet *p, uint8_t *at)
{
	uint32_t x = p->fill * 2654435761U + 12345;

	for (size_t i = 0; i < p->payload; i++) {
		x = x * 1664525 + 1013904223;
		at[i] = p->bytes ? p->bytes[i] : (uint8_t)(x >> 24);
	}
}

static void put_tcp(const struct packet *p, uint8_t *tcp)
{
	size_t n = p->family == 4 ? 4 : 16, len = l4_header_len(p) + p->payload;
	uint32_t pseudo = (uint32_t)packet_sum(p->saddr, n, 0) + packet_sum(p->daddr, n, 0) +
	                  p->protocol + (uint32_t)len;

	put16(tcp, p->sport);
	put16(tcp + 2, p->dport);
	put16(tcp + 4, p->tcp->seq >> 16);
	put16(tcp + 6, p->tcp->seq);
	put16(tcp + 8, p->tcp->ack >> 16);
	put16(tcp + 10, p->tcp->ack);
	tcp[12] = (uint8_t)((20 + p->tcp->options_len) / 4 << 4);
	tcp[13] = p->tcp->flags;
	put16(tcp + 14, p->tcp->win);
	put16(tcp + 16, 0);
	put16(tcp + 18, p->tcp->urgent);
	memcpy(tcp + 20, p->tcp->options, p->tcp->options_len);
	put_payload(p, tcp + l4_header_len(p));
	put16(tcp + 16, (uint16_t)~packet_sum(tcp, len, pseudo + p->csum_err));
}

static void put_udp(const struct packet *p, uint8_t *udp)
{

	put16(udp, p->sport);
	put16(udp + 2, p->dport);
	put16(udp + 4, (unsigned)(8 + (int)p->payload + p->udp_len_add));
	put_payload(p, udp + 8);
	put_udp_csum(p, udp);
	if (p->zero_sum && p->payload >= 2) {
		/* What the checksum lacks of all ones goes into the first word of the payload. */
		unsigned first = (unsigned)udp[8] << 8 | udp[9], sum = udp[6] << 8 | udp[7];

		put16(udp + 8, packet_sum(NULL, 0, first + sum));
		put_udp_csum(p, udp);
	}
}

size_t packet_build(const struct packet *p, uint8_t out[static PACKET_MAX])
{
	uint8_t *ip = out + packet_l3(p);
	size_t len = packet_l3(p) + packet_ip_len(p);

	put_link(p, out);
	if (p->family == 4)
		put_v4(p, ip);
	else
		put_v6(p, ip);
	if (p->tcp)
		put_tcp(p, ip + header_len(p));
	else
		put_udp(p, ip + header_len(p));
	for (size_t i = 0; i < p->trailer; i++)
		out[len + i] = (uint8_t)(0xa0 + i);
	return len + p->trailer;
}

size_t packet_payload_at(const struct packet *p)
{
	return packet_l3(p) + header_len(p) + l4_header_len(p);
}
