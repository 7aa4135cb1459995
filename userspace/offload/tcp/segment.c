/* SPDX-License-Identifier: MIT */
/*
 * Crafted segments: a socket in FAST would send sequence numbers that its peer does not accept any
 * more. They are sent through IPPROTO_RAW sockets, which don't receive.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tcp.h"

#define TCP_HEADER 20
#define TS_OPTION  12
#define TTL        64
#define FLAG_RST   0x04
#define FLAG_ACK   0x10

static void put16(uint8_t *p, uint16_t v)
{
	v = htons(v);
	memcpy(p, &v, sizeof(v));
}

static void put32(uint8_t *p, uint32_t v)
{
	v = htonl(v);
	memcpy(p, &v, sizeof(v));
}

static uint32_t sum(uint32_t acc, const void *data, size_t n)
{
	const uint8_t *p = data;

	for (size_t i = 0; i + 1 < n; i += 2)
		acc += (uint32_t)p[i] << 8 | p[i + 1];
	if (n & 1)
		acc += (uint32_t)p[n - 1] << 8;
	return acc;
}

static uint16_t checksum(const struct off_tcp_conn *c, const uint8_t *tcp, size_t len)
{
	uint32_t acc = IPPROTO_TCP + (uint32_t)len;

	if (l7mp_addr_family(&c->local) == AF_INET) {
		acc = sum(acc, &c->local.in.sin_addr, 4);
		acc = sum(acc, &c->peer.in.sin_addr, 4);
	} else {
		acc = sum(acc, &c->local.in6.sin6_addr, 16);
		acc = sum(acc, &c->peer.in6.sin6_addr, 16);
	}
	acc = sum(acc, tcp, len);
	while (acc >> 16)
		acc = (acc & 0xffff) + (acc >> 16);
	return (uint16_t)~acc;
}

static size_t build_tcp(const struct off_tcp_conn *c, const struct off_tcp_segment *s, uint8_t *t)
{
	const struct off_tcp_traits *traits = &c->traits;
	size_t header = TCP_HEADER + (traits->ts && !s->rst ? TS_OPTION : 0);
	size_t len = header + (s->old_byte ? 1 : 0);
	uint32_t win = s->win >> traits->rcv_wscale;

	memset(t, 0, len);
	put16(t, l7mp_addr_port(&c->local));
	put16(t + 2, l7mp_addr_port(&c->peer));
	put32(t + 4, s->seq - (s->old_byte ? 1 : 0));
	put32(t + 8, s->ack);
	t[12] = (uint8_t)(header / 4 << 4);
	t[13] = s->rst ? FLAG_RST | FLAG_ACK : FLAG_ACK;
	put16(t + 14, win > 65535 ? 65535 : (uint16_t)win);
	if (header > TCP_HEADER) {
		t[20] = t[21] = 1; /* NOP */
		t[22] = 8;
		t[23] = 10;
		put32(t + 24, s->tsval);
		put32(t + 28, s->tsecr);
	}
	put16(t + 16, checksum(c, t, len));
	return len;
}

size_t off_tcp_segment_build(const struct off_tcp_conn *c, const struct off_tcp_segment *s,
                             uint8_t *out)
{
	size_t len;

	if (l7mp_addr_family(&c->local) == AF_INET) {
		len = sizeof(struct ip) + build_tcp(c, s, out + sizeof(struct ip));
		/* The kernel sets the length and the checksum. */
		*(struct ip *)out = (struct ip){
		        .ip_v = 4,
		        .ip_hl = 5,
		        .ip_len = htons((uint16_t)len),
		        .ip_off = htons(IP_DF),
		        .ip_ttl = TTL,
		        .ip_p = IPPROTO_TCP,
		        .ip_src = c->local.in.sin_addr,
		        .ip_dst = c->peer.in.sin_addr,
		};
		return len;
	}
	len = build_tcp(c, s, out + sizeof(struct ip6_hdr));
	*(struct ip6_hdr *)out = (struct ip6_hdr){
	        .ip6_flow = htonl(6U << 28),
	        .ip6_plen = htons((uint16_t)len),
	        .ip6_nxt = IPPROTO_TCP,
	        .ip6_hlim = TTL,
	        .ip6_src = c->local.in6.sin6_addr,
	        .ip6_dst = c->peer.in6.sin6_addr,
	};
	return len + sizeof(struct ip6_hdr);
}

void off_tcp_raw_init(struct off_tcp_raw *r)
{
	*r = (struct off_tcp_raw){.fd4 = -1, .fd6 = -1};
}

void off_tcp_raw_close(struct off_tcp_raw *r)
{
	if (r->fd4 >= 0)
		close(r->fd4);
	if (r->fd6 >= 0)
		close(r->fd6);
	off_tcp_raw_init(r);
}

int off_tcp_segment_send(struct off_tcp_raw *r, const struct off_tcp_conn *c,
                         const struct off_tcp_segment *s)
{
	_Alignas(8) uint8_t packet[OFF_TCP_SEGMENT_MAX];
	size_t len = off_tcp_segment_build(c, s, packet);
	bool v4 = l7mp_addr_family(&c->local) == AF_INET;
	int *fd = v4 ? &r->fd4 : &r->fd6;
	struct l7mp_addr to = c->peer;

	if (*fd < 0)
		*fd = socket(v4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK,
		             IPPROTO_RAW);
	if (*fd < 0) {
		r->refused = r->refused || errno == EPERM;
		return -errno;
	}
	l7mp_addr_set_port(&to, 0); /* raw sockets take the port for a protocol number */
	return sendto(*fd, packet, len, MSG_DONTWAIT, &to.sa, to.len) < 0 ? -errno : 0;
}
